//! A process for which the kernel has no IPv6.
#![allow(unsafe_code, reason = "a filter of system calls is a structure of the kernel")]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter, sock_fprog};

/// Makes `socket(AF_INET6, …)` fail in the process as it does on a kernel with `ipv6.disable=1`.
pub(crate) fn without_ipv6(command: &mut Command) {
    let load = |offset: u32| sock_filter { code: (BPF_LD | BPF_W | BPF_ABS) as u16, jt: 0, jf: 0, k: offset };
    let skip_unless = |value: u32, skip: u8| sock_filter {
        code: (BPF_JMP | BPF_JEQ | BPF_K) as u16,
        jt: 0,
        jf: skip,
        k: value,
    };
    let answer = |k: u32| sock_filter { code: (BPF_RET | BPF_K) as u16, jt: 0, jf: 0, k };
    // `struct seccomp_data`: number of the call, architecture, instruction, arguments of 8 bytes.
    let first = if cfg!(target_endian = "little") { 16 } else { 20 };
    let mut filter = vec![
        load(0),
        skip_unless(libc::SYS_socket as u32, 3),
        load(first),
        skip_unless(libc::AF_INET6 as u32, 1),
        answer(libc::SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT as u32),
        answer(libc::SECCOMP_RET_ALLOW),
    ];
    let install = move || {
        let program = sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: the kernel copies the filter, which lives until the call returns.
        let result = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec only two system calls are made and nothing is allocated.
    unsafe { command.pre_exec(install) };
}

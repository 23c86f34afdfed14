//! The system calls that have no safe wrapper here.
#![allow(unsafe_code, reason = "calls into libc that rustix does not offer on stable")]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Closes every descriptor above stderr. Only for the start of a process that owns nothing yet.
pub(crate) fn close_inherited_descriptors() {
    // SAFETY: plain numbers; the caller has just started and holds no descriptor above 2. An old kernel
    // answers ENOSYS, then descriptors stay open that were opened with close-on-exec missing: harmless.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32);
    }
}

/// Ignores the signals that a stopping system or a terminal sends to everybody.
pub(crate) fn ignore_stop_signals() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGPIPE] {
        // SAFETY: SIG_IGN is a valid disposition and needs no handler to live on.
        unsafe {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
}

/// Gives every signal its default action and unblocks all, as a new program expects.
pub(crate) fn reset_signals() {
    // the kernel's own structure, all zero: SIG_DFL, no flags, empty mask. Not by way of libc, which refuses the
    // numbers that it uses itself, and a worker may have inherited them ignored
    let default = [0_u64; 4];
    for signal in 1..=64_i32 {
        // SAFETY: `default` is at least as large as `struct sigaction` of the kernel on 64-bit machines; SIGKILL
        // and SIGSTOP are refused.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                8_usize,
            );
        }
    }
    // SAFETY: `empty` is initialised by sigemptyset before use and outlives both calls.
    unsafe {
        let mut empty = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut empty);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, std::ptr::null_mut());
    }
}

/// Replaces the process. Returns only with the reason why not.
pub(crate) fn execute(program: &CStr, args: &[CString], environment: &[CString]) -> io::Error {
    let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
        texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let args = pointers(args);
    let environment = pointers(environment);
    // SAFETY: both arrays end with NULL and point to NUL-terminated strings that outlive the call.
    unsafe {
        libc::execve(program.as_ptr(), args.as_ptr(), environment.as_ptr());
    }
    io::Error::last_os_error()
}

/// Ends the process without running anything else of it.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Two arenas, and blocks of 128 KiB and more directly from the kernel. By default the C library takes an arena for
/// every thread and raises the threshold to the largest block ever freed, and both stay for the life of the process.
pub(crate) fn limit_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets parameters of the allocator; the caller has not started a thread.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10);
    }
}

/// Gives memory that was freed back to the kernel.
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: has no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Gives this process a copy of the mount namespace.
pub(crate) fn unshare_mounts() -> io::Result<()> {
    // SAFETY: only descriptor tables and file system information can be shared in unsound ways, mounts cannot.
    let outcome = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Watches a descriptor for being readable.
pub(crate) fn watch_readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    watch(descriptor, Interest::READABLE)
}

/// Watches a descriptor.
pub(crate) fn watch(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open descriptor as long as it lives, and `AsyncFd` owns it.
    unsafe { AsyncFd::register_with_interest(descriptor, interest) }.map_err(Into::into)
}

/// Which side of a [`fork`] this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fork {
    /// The new process.
    Child,
    /// The old one; the number is the new one's.
    Parent(u32),
}

/// Doubles the process. Only for a process that has never had a second thread: the copy may then go on with anything.
pub(crate) fn fork() -> io::Result<Fork> {
    // SAFETY: the callers are the single-threaded helpers of this crate, so no lock is held by a thread that the
    // copy lacks.
    match unsafe { libc::fork() } {
        0 => Ok(Fork::Child),
        pid => u32::try_from(pid).map(Fork::Parent).map_err(|_| io::Error::last_os_error()),
    }
}

/// Forgets the pages of a mapping; the next access reads them from its file again.
///
/// # Safety
/// The range must be a mapping of a file that this process has never written to in memory, not even by
/// relocation: what was written is lost.
pub(crate) unsafe fn forget_pages(start: usize, length: usize) {
    let start: *mut libc::c_void = std::ptr::with_exposed_provenance_mut(start);
    // SAFETY: the caller promises that the pages can be had again from the file.
    unsafe {
        libc::madvise(start, length, libc::MADV_DONTNEED);
    }
}

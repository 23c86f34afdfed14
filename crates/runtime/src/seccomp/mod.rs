//! The system call filter of ordinary containers.
//!
//! Allowed calls pass, others fail with `EPERM`; calls newer than the list, and `clone3`, whose flags a filter
//! cannot see, fail with `ENOSYS` so that programs fall back to older ones. Calls of a foreign architecture
//! (32-bit programs) kill the program.

mod calls;

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

/// `clone` flags that create namespaces (`linux/sched.h`). Time namespaces cannot be asked for by `clone`:
/// their bit is part of the exit signal there.
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;
/// Socket families that reach into the kernel or the hypervisor: AF_ALG, AF_VSOCK.
const REFUSED_FAMILIES: [u64; 2] = [38, 40];
/// Personalities of ordinary programs: Linux, 32-bit Linux, and the question which one it is.
const PERSONALITIES: [u64; 3] = [0, 8, 0xffff_ffff];

// linux/bpf_common.h
const LOAD_WORD_ABSOLUTE: u16 = 0x20;
const JUMP_IF_GREATER: u16 = 0x25;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
// linux/seccomp.h
const SECCOMP_RET_ERRNO: u32 = 0x0005_0000;

/// Compiles the filter for this machine.
pub(crate) fn program() -> Result<BpfProgram, BackendError> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let errno = u32::try_from(libc::EPERM).unwrap_or(1);
    let filter =
        SeccompFilter::new(rules()?, SeccompAction::Errno(errno), SeccompAction::Allow, architecture)?;
    let allow_list: BpfProgram = filter.try_into()?;
    Ok(not_implemented_prefix().into_iter().chain(allow_list).collect())
}

/// Answers `ENOSYS` before the allow list is asked. The number stands in the first word of `seccomp_data`;
/// x32 calls of x86-64 have bit 30 set and count as unknown.
fn not_implemented_prefix() -> [sock_filter; 4] {
    let not_implemented = SECCOMP_RET_ERRNO | u32::try_from(libc::ENOSYS).unwrap_or(38);
    let clone3 = u32::try_from(libc::SYS_clone3).unwrap_or(435);
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    [
        step(LOAD_WORD_ABSOLUTE, 0, 0, 0),
        step(JUMP_IF_GREATER, 1, 0, calls::NEWEST_KNOWN),
        step(JUMP_IF_EQUAL, 0, 1, clone3),
        step(RETURN, 0, 0, not_implemented),
    ]
}

fn rules() -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let every = calls::EVERYWHERE.iter().chain(calls::HERE);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = every.map(|number| (*number, Vec::new())).collect();
    let no_namespace = SeccompCmpOp::MaskedEq(NAMESPACE_FLAGS);
    rules.insert(libc::SYS_clone, vec![rule([(SeccompCmpArgLen::Qword, no_namespace, 0)])?]);
    let families = REFUSED_FAMILIES.map(|family| (SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, family));
    rules.insert(libc::SYS_socket, vec![rule(families)?]);
    let personalities = PERSONALITIES
        .map(|value| rule([(SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)]))
        .into_iter()
        .collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_personality, personalities);
    Ok(rules)
}

/// All conditions on the first argument.
fn rule<const N: usize>(
    conditions: [(SeccompCmpArgLen, SeccompCmpOp, u64); N],
) -> Result<SeccompRule, BackendError> {
    let conditions = conditions
        .into_iter()
        .map(|(length, operator, value)| SeccompCondition::new(0, length, operator, value))
        .collect::<Result<_, _>>()?;
    SeccompRule::new(conditions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_fits_into_the_kernel() {
        let program = program().unwrap();
        assert!(program.len() < 4096, "{} instructions", program.len());
    }

    #[test]
    fn nothing_that_mounts_or_enters_is_allowed() {
        let rules = rules().unwrap();
        for refused in [libc::SYS_mount, libc::SYS_unshare, libc::SYS_setns, libc::SYS_bpf] {
            assert!(!rules.contains_key(&refused));
        }
        assert!(rules.contains_key(&libc::SYS_read));
    }
}

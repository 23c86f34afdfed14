//! The one system call that the safe interfaces do not offer.
#![allow(unsafe_code, reason = "unshare is unsafe in rustix because of flags not used here")]

use std::io;

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Moves the calling thread into a fresh, empty network namespace.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: the hazard of unshare is CLONE_FILES, which gives the thread a descriptor table of its
    // own; CLONE_NEWNET changes only which network new sockets of this thread belong to.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    Ok(())
}

//! The system calls that the safe interfaces do not offer.
#![allow(
    unsafe_code,
    reason = "unshare is unsafe in rustix because of flags not used here; TUNSETIFF is an ioctl"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Moves the calling thread into a fresh, empty network namespace.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: the hazard of unshare is CLONE_FILES, which gives the thread a descriptor table of its
    // own; CLONE_NEWNET changes only which network new sockets of this thread belong to.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    Ok(())
}

/// Makes a TUN device without packet information and ties it to `file`, an open `/dev/net/tun`.
pub(crate) fn make_tun(file: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    // SAFETY: `ifreq` is plain data for which all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte less than there is room for: the name ends with a zero.
    let room = request.ifr_name.len() - 1;
    for (place, byte) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *place = byte.cast_signed() as libc::c_char;
    }
    // Both flags are below 2¹⁵.
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which outlives the call.
    let outcome = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &mut request) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

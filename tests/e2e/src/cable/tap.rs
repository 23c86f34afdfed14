//! Ends of cables: TAP devices. Reference: `Documentation/networking/tuntap.rst`, `netdevice(7)`.
#![allow(unsafe_code, reason = "the request that names a TAP device has no safe interface")]

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use anyhow::{Context as _, ensure};
use rustix::fs::OFlags;
use rustix::ioctl::{Setter, ioctl};

/// Ethernet frames, without a header of the device before each.
const FLAGS: u16 = IFF_TAP | IFF_NO_PI;
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
/// `_IOW('T', 202, int)`.
const TUNSETIFF: u32 = 0x4004_54ca;

/// Above the largest frame: devices keep the usual MTU of 1500.
const MOST_BYTES: usize = 2048;

/// `struct ifreq` with flags.
#[repr(C)]
struct DeviceRequest {
    name: [u8; 16],
    flags: u16,
    padding: [u8; 22],
}

/// A network device whose cable is in our hands. The device ends with this value.
#[derive(Debug)]
pub(crate) struct Tap {
    file: File,
}

impl Tap {
    /// Makes a device in the network namespace of the calling thread.
    pub(crate) fn create(name: &str) -> anyhow::Result<Self> {
        ensure!(name.len() < 16 && !name.is_empty(), "`{name}` is no name of a network device");
        let mut request = DeviceRequest { name: [0; 16], flags: FLAGS, padding: [0; 22] };
        for (place, byte) in request.name.iter_mut().zip(name.bytes()) {
            *place = byte;
        }
        let flags = i32::try_from(OFlags::NONBLOCK.bits())?;
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/net/tun");
        let file = file.context("cannot open /dev/net/tun")?;
        // SAFETY: TUNSETIFF reads (and writes back) one `struct ifreq`, which `DeviceRequest` has the layout and size
        // of, and keeps no pointer to it.
        unsafe { ioctl(&file, Setter::<TUNSETIFF, DeviceRequest>::new(request)) }
            .with_context(|| format!("cannot make the TAP device {name}"))?;
        Ok(Self { file })
    }

    /// The next frame, if one waits.
    ///
    /// # Errors
    /// The device is gone, with its network namespace.
    pub(super) fn receive(&self) -> io::Result<Option<Vec<u8>>> {
        let mut buffer = [0; MOST_BYTES];
        match (&self.file).read(&mut buffer) {
            Ok(length) => Ok(Some(buffer.get(..length).unwrap_or_default().to_vec())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a frame; `false` if the device does not take it, because it is down or gone or has no room.
    pub(super) fn send(&self, frame: &[u8]) -> bool {
        (&self.file).write(frame).is_ok()
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

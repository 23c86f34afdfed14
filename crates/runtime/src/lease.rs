//! Containers that may run only until a moment that must be moved on again and again.
//!
//! The shim keeps the moment and ends the container by itself, so it holds also when the worker is dead or frozen.
//! Renewals come as datagrams on a socket in the container's directory: nothing is written to disk for them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::process::ProcessHandle;
use crate::record::ContainerDirectory;

/// Name of the socket inside the container's directory.
const SOCKET: &str = "lease.sock";

/// The program is asked to stop this long before its time is over; one that has less time left is not started.
pub const LEASE_GRACE: Duration = Duration::from_secs(2);

/// A moment of this boot of this machine in milliseconds; time in suspension counts (`CLOCK_BOOTTIME`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BootMoment(pub u64);

impl BootMoment {
    /// The present.
    #[must_use]
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        Self(seconds * 1000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000)
    }

    /// When a program that must have ended at this moment is asked to stop.
    pub(crate) fn with_grace(self) -> Self {
        Self(self.0.saturating_sub(u64::try_from(LEASE_GRACE.as_millis()).unwrap_or(0)))
    }

    fn until(self, later: Self) -> Duration {
        Duration::from_millis(later.0.saturating_sub(self.0))
    }
}

/// Moves the end of a container on. An earlier moment than the one it has changes nothing.
pub(crate) fn renew(directory: &ContainerDirectory, until: BootMoment) -> io::Result<()> {
    let folder = File::open(directory.path())?;
    // Paths of sockets are limited to 107 bytes, those of data directories are not.
    let path = format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd());
    UnixDatagram::unbound()?.send_to(&until.0.to_le_bytes(), path)?;
    Ok(())
}

/// The shim's side.
#[derive(Debug)]
pub(crate) struct Lease {
    socket: UnixDatagram,
    until: BootMoment,
    stop_signal: Signal,
    asked: bool,
    ended: bool,
}

impl Lease {
    /// Listens for renewals in the present directory, which must be that of the container.
    pub(crate) fn bind(until: BootMoment, stop_signal: Signal) -> io::Result<Self> {
        let socket = UnixDatagram::bind(SOCKET)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, until, stop_signal, asked: false, ended: false })
    }

    /// When [`Lease::enforce`] has something to do.
    pub(crate) fn timeout(&self) -> Duration {
        let next = if self.asked { self.until } else { self.asks_at() };
        // A millisecond more: the moment has then surely come.
        BootMoment::now().until(next) + Duration::from_millis(1)
    }

    /// Takes renewals; asks the program to stop, then ends it, when its time is over.
    pub(crate) fn enforce(&mut self, init: &ProcessHandle) {
        let mut bytes = [0; 8];
        while let Ok(length) = self.socket.recv(&mut bytes) {
            if length == bytes.len() {
                self.until = self.until.max(BootMoment(u64::from_le_bytes(bytes)));
            }
        }
        let now = BootMoment::now();
        // A program that ignored the question is asked again next time.
        self.asked &= now >= self.asks_at();
        if now >= self.until {
            self.ended = true;
            // The first process of a process namespace takes all others with it.
            let _ = init.signal(Signal::KILL);
        } else if now >= self.asks_at() && !self.asked {
            self.asked = true;
            self.ended = true;
            let _ = init.signal(self.stop_signal);
        }
    }

    /// Whether the container was ended because its time was over.
    pub(crate) const fn has_ended(&self) -> bool {
        self.ended
    }

    fn asks_at(&self) -> BootMoment {
        self.until.with_grace()
    }
}

impl AsFd for Lease {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_this_boot_goes_on() {
        let first = BootMoment::now();
        assert!(first.0 > 0);
        assert!(BootMoment::now() >= first);
        assert_eq!(first.until(BootMoment(first.0 + 7)), Duration::from_millis(7));
        assert_eq!(BootMoment(9).until(BootMoment(3)), Duration::ZERO);
    }
}

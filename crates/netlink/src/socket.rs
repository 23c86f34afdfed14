//! One netlink socket with blocking requests. It stays in the network namespace it was opened in,
//! whichever thread uses it.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, recv, send,
    socket_with, sockopt,
};

use crate::wire::{Answer, Request, answers, u32_at};

/// The kernel builds dump answers of at most 32 KiB; twice that is never truncated.
const BUFFER: usize = 64 * 1024;
/// The kernel answers at once; a silent second means a lost answer, not a slow one.
const PATIENCE: Duration = Duration::from_secs(5);
/// A dump that keeps being interrupted by changes is taken as it is after that many tries.
const DUMP_TRIES: usize = 4;

/// A blocking netlink socket.
#[derive(Debug)]
pub struct Socket {
    descriptor: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a routing socket in the current thread's namespace.
    pub fn route() -> io::Result<Self> {
        // NETLINK_ROUTE is protocol 0, which rustix spells "no protocol".
        Self::open(None)
    }

    /// Opens a netfilter socket in the current thread's namespace.
    pub fn netfilter() -> io::Result<Self> {
        Self::open(Some(netlink::NETFILTER))
    }

    /// Opens a generic socket in the current thread's namespace.
    ///
    /// # Errors
    /// The kernel gives none.
    pub fn generic() -> io::Result<Self> {
        Self::open(Some(netlink::GENERIC))
    }

    /// For tests: somebody else plays the kernel at the other end.
    #[must_use]
    pub fn of(descriptor: OwnedFd) -> Self {
        Self { descriptor, sequence: 0, buffer: vec![0; BUFFER] }
    }

    fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let descriptor =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        bind(&descriptor, &netlink::SocketAddrNetlink::new(0, 0))?;
        sockopt::set_socket_timeout(&descriptor, sockopt::Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { descriptor, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// Sends a request built with `NLM_F_ACK` and waits for its acknowledgement.
    pub fn change(&mut self, request: Request) -> io::Result<()> {
        self.exchange(request, |_| ())
    }

    /// Sends a request for one object; `read` sees the object before the acknowledgement.
    pub fn query<T>(
        &mut self,
        request: Request,
        mut read: impl FnMut(Answer<'_>) -> Option<T>,
    ) -> io::Result<Option<T>> {
        let mut found = None;
        self.exchange(request, |answer| {
            if let Some(value) = read(answer) {
                found = Some(value);
            }
        })?;
        Ok(found)
    }

    /// Sends a dump request and collects what `read` makes of each object.
    pub fn dump<T>(
        &mut self,
        request: impl Fn() -> Request,
        mut read: impl FnMut(Answer<'_>) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        let mut objects = Vec::new();
        for _ in 0..DUMP_TRIES {
            objects.clear();
            let mut interrupted = false;
            self.exchange(request(), |answer| {
                interrupted |= i32::from(answer.flags) & libc::NLM_F_DUMP_INTR != 0;
                objects.extend(read(answer));
            })?;
            if !interrupted {
                break;
            }
        }
        Ok(objects)
    }

    /// Sends, then hands every answer to `see` until the acknowledgement, the end or an error.
    fn exchange(&mut self, request: Request, mut see: impl FnMut(Answer<'_>)) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = request.finish(self.sequence);
        retry(|| send(&self.descriptor, &bytes, SendFlags::empty()))?;
        loop {
            let (length, _) = retry(|| recv(&self.descriptor, &mut self.buffer[..], RecvFlags::empty()))?;
            let datagram = self.buffer.get(..length).unwrap_or_default();
            for answer in answers(datagram) {
                // Left over from a request that was given up.
                if answer.sequence != self.sequence {
                    continue;
                }
                match i32::from(answer.kind) {
                    libc::NLMSG_ERROR => return acknowledgement(answer.payload),
                    libc::NLMSG_DONE => return acknowledgement(answer.payload),
                    libc::NLMSG_NOOP | libc::NLMSG_OVERRUN => {}
                    _ => see(answer),
                }
            }
        }
    }
}

/// The result in an error or end message: zero or a negative error number.
fn acknowledgement(payload: &[u8]) -> io::Result<()> {
    match u32_at(payload, 0).map_or(0, u32::cast_signed) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
    }
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            outcome => return outcome.map_err(io::Error::from),
        }
    }
}

/// Whether the kernel said that the object does not exist.
pub fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL))
}

//! Round trips to other nodes, measured with ICMP echo on the way that packets of instances take: encrypted or not. The
//! nodes' kernels answer, so nothing of another agent is measured.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recv, sendto, socket_with,
};

use crate::parking::checksum;

/// An answer that takes longer counts as lost.
const PATIENCE: Duration = Duration::from_secs(2);
/// Types of ICMP messages (RFC 792).
const REQUEST: u8 = 8;
const REPLY: u8 = 0;

/// What was found out about a node.
pub(crate) type Measured = (Ipv4Addr, Option<Duration>);

/// The socket, and what answers are awaited on it.
#[derive(Debug)]
pub(crate) struct Echo {
    socket: OwnedFd,
    /// Tells our answers from those to other programs.
    id: u16,
    sequence: u16,
    awaited: BTreeMap<(Ipv4Addr, u16), Instant>,
}

impl Echo {
    /// Opens it in the namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::INET, SocketType::RAW, flags, Some(ipproto::ICMP))?;
        #[allow(clippy::cast_possible_truncation, reason = "any part of it will do")]
        let id = std::process::id() as u16;
        Ok(Self { socket, id, sequence: 0, awaited: BTreeMap::new() })
    }

    /// Asks each node once and listens for as long as `time` says, also for answers to what was asked before.
    pub(crate) fn round(&mut self, nodes: &[Ipv4Addr], time: Duration) -> Vec<Measured> {
        let began = Instant::now();
        self.sequence = self.sequence.wrapping_add(1);
        for node in nodes {
            // One that cannot be sent is one that is not answered.
            let _ = self.ask(*node);
        }
        let mut measured = Vec::new();
        while let Some(left) = time.checked_sub(began.elapsed()) {
            let _ = self.wait(left);
            self.receive(&mut measured);
        }
        let now = Instant::now();
        self.awaited.retain(|(node, _), asked| {
            let is_lost = now.saturating_duration_since(*asked) >= PATIENCE;
            if is_lost {
                measured.push((*node, None));
            }
            !is_lost
        });
        measured
    }

    fn ask(&mut self, node: Ipv4Addr) -> io::Result<()> {
        self.awaited.insert((node, self.sequence), Instant::now());
        let mut request = [REQUEST, 0, 0, 0, 0, 0, 0, 0];
        request[4..6].copy_from_slice(&self.id.to_be_bytes());
        request[6..8].copy_from_slice(&self.sequence.to_be_bytes());
        let sum = checksum(&request).to_be_bytes();
        request[2..4].copy_from_slice(&sum);
        sendto(&self.socket, &request, SendFlags::DONTWAIT, &SocketAddrV4::new(node, 0))?;
        Ok(())
    }

    fn wait(&self, left: Duration) -> io::Result<()> {
        let left = Timespec::try_from(left).ok();
        match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], left.as_ref()) {
            Err(Errno::INTR) => Ok(()),
            outcome => Ok(outcome.map(drop)?),
        }
    }

    /// Takes everything that has come. The socket gets what other programs asked for, too.
    fn receive(&mut self, measured: &mut Vec<Measured>) {
        let mut buffer = [0; 128];
        while let Ok((length, _)) = recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            let answer = buffer.get(..length).and_then(|packet| parse(packet, self.id));
            let asked = answer.and_then(|answer| Some((answer, self.awaited.remove(&answer)?)));
            if let Some(((node, _), asked)) = asked {
                measured.push((node, Some(asked.elapsed())));
            }
        }
    }
}

/// Who answers which of our questions; none if it is something else.
fn parse(packet: &[u8], id: u16) -> Option<(Ipv4Addr, u16)> {
    let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
    let message = packet.get(usize::from(packet.first()? & 15) * 4..)?;
    let number = |at: usize| Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?));
    let is_ours = *message.first()? == REPLY && number(4)? == id;
    is_ours.then_some((source.into(), number(6)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_to_our_own_questions_count() {
        let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0, 0, 10, 18, 1, 1, 10, 18, 0, 1];
        packet.extend_from_slice(&[REPLY, 0, 0, 0, 0x12, 0x34, 0, 9]);
        assert_eq!(parse(&packet, 0x1234), Some((Ipv4Addr::new(10, 18, 1, 1), 9)));
        assert_eq!(parse(&packet, 0x1235), None);
        for length in 0..packet.len() {
            assert_eq!(parse(&packet[..length], 0x1234), None);
        }
        packet[20] = REQUEST;
        assert_eq!(parse(&packet, 0x1234), None);
        packet[0] = 0x4f;
        assert_eq!(parse(&packet, 0x1234), None);
    }
}

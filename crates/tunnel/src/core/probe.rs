//! Questions and answers between engines, inside a session: an inner packet that begins with a zero byte, which is no
//! packet of IP, so that every other WireGuard drops it.
//!
//! | bytes | what |
//! |---|---|
//! | 0 | 0 |
//! | 1 | 1 question, 2 answer |
//! | 2 | step of the size plus 1, 0 if the size does not matter |
//! | 3 … 7 | 0 |
//! | 8 … 15 | clock of the asker in microseconds; the answer repeats it |
//!
//! Whoever has a lane in the kernel says so behind that, where others have nothing and look at nothing:
//!
//! | bytes | what |
//! |---|---|
//! | 16 | 1 |
//! | 17 | 1 if the lane would be used, 0 if not |
//! | 18, 19 | UDP port of the lane |
//! | 20, 21 | port at which the other one is seen |
//! | 22, 23 | 0 |
//! | 24 … 39 | address at which it is seen; IPv4 as `::ffff:0:0/96` |
//! | 40 … 47, 48 … 55 | bytes sent and received through the lane |
//!
//! A question whose size matters is padded to that size; answers are short.

use std::net::{Ipv6Addr, SocketAddr};

/// Length of an answer and of a short question, without a lane …
pub(crate) const LENGTH: usize = 16;
/// … and of what is said of a lane.
const NEWS: usize = 40;
const QUESTION: u8 = 1;
const ANSWER: u8 = 2;

/// What an engine says of its lane in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct News {
    /// See [`super::lane::Lane::is_ready`].
    pub(crate) is_ready: bool,
    /// UDP port of the lane.
    pub(crate) port: u16,
    /// Where the one that it is said to is seen.
    pub(crate) seen_as: SocketAddr,
    /// Bytes sent to it through the lane …
    pub(crate) sent: u64,
    /// … and received from it.
    pub(crate) received: u64,
}

impl News {
    fn read(bytes: &[u8]) -> Option<Self> {
        let [1, flags, rest @ ..] = bytes.first_chunk::<NEWS>()? else { return None };
        let (ports, rest) = rest.split_first_chunk::<6>()?;
        let [port, seen_port, _] = [0, 2, 4].map(|at| u16::from_be_bytes([ports[at], ports[at + 1]]));
        let (address, rest) = rest.split_first_chunk::<16>()?;
        let (sent, rest) = rest.split_first_chunk::<8>()?;
        Some(Self {
            is_ready: *flags == 1,
            port,
            seen_as: SocketAddr::new(Ipv6Addr::from(*address).to_canonical(), seen_port),
            sent: u64::from_be_bytes(*sent),
            received: u64::from_be_bytes(*rest.first_chunk()?),
        })
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend([1, u8::from(self.is_ready)]);
        bytes.extend(self.port.to_be_bytes());
        bytes.extend(self.seen_as.port().to_be_bytes());
        bytes.extend([0; 2]);
        let address = match self.seen_as.ip() {
            std::net::IpAddr::V4(address) => address.to_ipv6_mapped(),
            std::net::IpAddr::V6(address) => address,
        };
        bytes.extend(address.octets());
        bytes.extend(self.sent.to_be_bytes());
        bytes.extend(self.received.to_be_bytes());
    }
}

/// A question or an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) is_answer: bool,
    /// See [`super::paths::Ask::step`].
    pub(crate) step: Option<usize>,
    /// Of the asker.
    pub(crate) clock_us: u64,
    /// Of the sender, if it has a lane.
    pub(crate) news: Option<News>,
}

impl Probe {
    /// Reads a decrypted packet; `None` if it is something else.
    pub(crate) fn read(packet: &[u8]) -> Option<Self> {
        let (head, rest) = packet.split_first_chunk::<LENGTH>()?;
        let [0, kind @ (QUESTION | ANSWER), step, 0, 0, 0, 0, 0, clock @ ..] = *head else { return None };
        Some(Self {
            is_answer: kind == ANSWER,
            step: step.checked_sub(1).map(usize::from),
            clock_us: u64::from_be_bytes(clock),
            news: News::read(rest),
        })
    }

    /// Its bytes, without padding.
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut bytes = vec![0; LENGTH];
        bytes[1] = if self.is_answer { ANSWER } else { QUESTION };
        bytes[2] = self.step.and_then(|step| u8::try_from(step + 1).ok()).unwrap_or(0);
        bytes[8..].copy_from_slice(&self.clock_us.to_be_bytes());
        if let Some(news) = &self.news {
            news.write(&mut bytes);
        }
        bytes
    }

    /// The answer to this question.
    pub(crate) fn answer(&self, news: Option<News>) -> Self {
        Self { is_answer: true, news, ..*self }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn news()(is_ready: bool, port: u16, address: std::net::IpAddr, seen: u16, sent: u64, received: u64) -> News {
            News { is_ready, port, seen_as: SocketAddr::new(address.to_canonical(), seen), sent, received }
        }
    }

    proptest! {
        #[test]
        fn is_read_as_it_was_written(is_answer: bool, step in prop::option::of(0_usize..255), clock_us: u64, news in prop::option::of(news()), pad in 0_usize..2000) {
            let probe = Probe { is_answer, step, clock_us, news };
            let mut bytes = probe.write();
            bytes.resize(bytes.len() + pad, 0);
            prop_assert_eq!(Probe::read(&bytes), Some(probe));
            prop_assert_eq!(crate::packet::outline(&bytes), None);
        }

        #[test]
        fn a_packet_of_ip_is_none(mut bytes in prop::collection::vec(any::<u8>(), 1..60), version in prop_oneof![Just(4_u8), Just(6)]) {
            bytes[0] = version << 4 | bytes[0] & 15;
            prop_assert_eq!(Probe::read(&bytes), None);
        }
    }
}

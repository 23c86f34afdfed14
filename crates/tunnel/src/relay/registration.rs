//! A node tells a relay where it is.
//!
//! | bytes | question (0x81) | answer (0x82) |
//! |---|---|---|
//! | 0 … 7 | 0x81 and zeros | 0x82 and zeros |
//! | 8 … 15 | number of the node | the same |
//! | 16 … 23 | random number | the same |
//! | 24 … 41 | 0 | address of the node as the relay sees it (IPv4 mapped), port |
//! | 42 … 47 | 0 | 0 |
//! | 48 … 55 | cookie of an earlier answer, or 0 | cookie of this address |
//! | 56 … 71 | keyed hash of all before it | the same |
//!
//! The relay follows only questions with the right cookie, so a copy of one that is sent from elsewhere changes
//! nothing, and no clocks are needed. Answers are as long as questions: nothing is amplified.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::key::PresharedKey;
use crate::noise::{field, mac, same};

/// First byte of a question …
pub(crate) const QUESTION: u8 = 0x81;
/// … and of an answer.
pub(crate) const ANSWER: u8 = 0x82;
/// Length of both.
pub(crate) const LENGTH: usize = 72;
/// Length of a cookie.
pub(crate) const COOKIE: usize = 8;
const HASHED: usize = LENGTH - 16;

/// A question or an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Registration {
    pub(crate) node: u64,
    pub(crate) nonce: u64,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) cookie: [u8; COOKIE],
}

/// The number of the node that asks, before anything is checked.
pub(crate) fn node_of(frame: &[u8]) -> Option<u64> {
    (frame.len() == LENGTH).then(|| field(frame, 8).map(u64::from_be_bytes).ok()).flatten()
}

impl Registration {
    /// Its bytes.
    pub(crate) fn write(&self, kind: u8, key: &PresharedKey) -> [u8; LENGTH] {
        let mut frame = [0; LENGTH];
        frame[0] = kind;
        frame[8..16].copy_from_slice(&self.node.to_be_bytes());
        frame[16..24].copy_from_slice(&self.nonce.to_be_bytes());
        if let Some(address) = self.address {
            let ip = match address.ip() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            frame[24..40].copy_from_slice(&ip.octets());
            frame[40..42].copy_from_slice(&address.port().to_be_bytes());
        }
        frame[48..HASHED].copy_from_slice(&self.cookie);
        let hash = mac(&key.0, &frame[..HASHED]);
        frame[HASHED..].copy_from_slice(&hash);
        frame
    }

    /// Reads one of this kind that was made with the key.
    pub(crate) fn read(kind: u8, frame: &[u8], key: &PresharedKey) -> Option<Self> {
        if frame.len() != LENGTH || frame[0] != kind {
            return None;
        }
        let hash = mac(&key.0, &frame[..HASHED]);
        if !same(&field(frame, HASHED).ok()?, &hash) {
            return None;
        }
        let ip = Ipv6Addr::from(field::<16>(frame, 24).ok()?).to_canonical();
        let port = u16::from_be_bytes(field(frame, 40).ok()?);
        Some(Self {
            node: node_of(frame)?,
            nonce: u64::from_be_bytes(field(frame, 16).ok()?),
            address: (port != 0).then_some(SocketAddr::new(ip, port)),
            cookie: field(frame, 48).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_read_as_it_was_written_and_not_when_it_was_changed(
            node: u64, nonce: u64, cookie: [u8; COOKIE], v4: bool, ip: u128, port: u16, place in 0..LENGTH, bit in 0..8,
        ) {
            let ip = if v4 { IpAddr::from((ip as u32).to_be_bytes()) } else { Ipv6Addr::from(ip).to_canonical() };
            let address = (port != 0).then_some(SocketAddr::new(ip, port));
            let (key, other) = (PresharedKey::from_bytes([1; 32]), PresharedKey::from_bytes([2; 32]));
            let registration = Registration { node, nonce, address, cookie };
            let mut frame = registration.write(ANSWER, &key);
            prop_assert_eq!(Registration::read(ANSWER, &frame, &key), Some(registration));
            prop_assert_eq!(Registration::read(QUESTION, &frame, &key), None);
            prop_assert_eq!(Registration::read(ANSWER, &frame, &other), None);
            frame[place] ^= 1_u8 << bit;
            prop_assert_eq!(Registration::read(ANSWER, &frame, &key), None);
        }
    }
}

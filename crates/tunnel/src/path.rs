//! How datagrams reach a peer: directly, or wrapped for a relay.
//!
//! A datagram's first byte says what it is:
//!
//! | byte | what |
//! |---|---|
//! | 1 … 4 | WireGuard |
//! | 0x80 | a WireGuard datagram behind the header of a relay: `0x80 0 0 0`, four zero bytes, tag of 8 bytes |
//! | 0x81 … 0xff | a frame of somebody else (punching, relay control): passed on, see [`crate::FrameSocket`] |
//!
//! Both directions use the relay's header; the tag tells the relay, and then the receiver, which pair of nodes it is.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Bytes a relay's header takes.
pub const RELAY_HEADER: usize = 16;
/// First byte of a relayed datagram.
pub const RELAYED: u8 = 0x80;
/// Frames that are passed on begin with this byte or a larger one.
pub const FIRST_FRAME: u8 = 0x81;

/// One way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Path {
    /// Straight to this address.
    Direct(SocketAddr),
    /// Through a relay that knows both nodes under a tag.
    Relayed {
        /// Address of the relay.
        relay: SocketAddr,
        /// What the relay calls the pair of nodes.
        tag: u64,
    },
}

impl Path {
    /// Where the datagrams are sent.
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Direct(address) | Self::Relayed { relay: address, .. } => *address,
        }
    }

    /// Bytes in front of each datagram.
    pub(crate) fn overhead(&self) -> usize {
        match self {
            Self::Direct(_) => 0,
            Self::Relayed { .. } => RELAY_HEADER,
        }
    }

    /// The bytes in front of each datagram, if any.
    pub(crate) fn header(&self) -> Option<[u8; RELAY_HEADER]> {
        let Self::Relayed { tag, .. } = self else { return None };
        let mut header = [0; RELAY_HEADER];
        header[0] = RELAYED;
        header[8..].copy_from_slice(&tag.to_be_bytes());
        Some(header)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct(address) => write!(f, "{address}"),
            Self::Relayed { relay, tag } => write!(f, "{relay} (relay, {tag:016x})"),
        }
    }
}

/// What a received datagram is, and where its WireGuard part begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Handshake message or cookie reply.
    Handshake {
        path: Path,
        skip: usize,
    },
    Data {
        path: Path,
        skip: usize,
    },
    Frame,
    Nothing,
}

/// Looks at the first bytes of a datagram.
pub(crate) fn classify(from: SocketAddr, datagram: &[u8]) -> Kind {
    let (path, skip) = match datagram.first() {
        Some(&RELAYED) => {
            let (Some([0, 0, 0, 0, 0, 0, 0]), Some(tag)) =
                (datagram.get(1..8), datagram.get(8..RELAY_HEADER).and_then(|tag| tag.try_into().ok()))
            else {
                return Kind::Nothing;
            };
            (Path::Relayed { relay: from, tag: u64::from_be_bytes(tag) }, RELAY_HEADER)
        }
        Some(&first) if first >= FIRST_FRAME => return Kind::Frame,
        _ => (Path::Direct(from), 0),
    };
    use crate::noise::{COOKIE_REPLY, DATA_HEADER, INITIATION, RESPONSE, TAG};
    match (datagram.get(skip..skip + 4), datagram.len() - skip) {
        (Some([1, 0, 0, 0]), INITIATION)
        | (Some([2, 0, 0, 0]), RESPONSE)
        | (Some([3, 0, 0, 0]), COOKIE_REPLY) => Kind::Handshake { path, skip },
        (Some([4, 0, 0, 0]), length) if length >= DATA_HEADER + TAG => Kind::Data { path, skip },
        _ => Kind::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn from() -> SocketAddr {
        "192.0.2.1:5".parse().unwrap()
    }

    #[test]
    fn a_relayed_datagram_is_known_by_its_header() {
        let path = Path::Relayed { relay: from(), tag: 0x0102_0304_0506_0708 };
        let mut datagram = path.header().unwrap().to_vec();
        datagram.extend_from_slice(&[4, 0, 0, 0]);
        datagram.extend_from_slice(&[9; 28]);
        assert_eq!(classify(from(), &datagram), Kind::Data { path, skip: RELAY_HEADER });
        assert_eq!(classify(from(), &datagram[..40]), Kind::Nothing);
        assert_eq!(classify(from(), &[]), Kind::Nothing);
        assert_eq!(classify(from(), &[0x81]), Kind::Frame);
    }

    proptest! {
        #[test]
        fn any_datagram_is_something(mut bytes in prop::collection::vec(any::<u8>(), 0..200), first in 0_u8..6) {
            classify(from(), &bytes);
            if let Some(byte) = bytes.first_mut() {
                *byte = if first == 5 { RELAYED } else { first };
            }
            if let Kind::Data { skip, .. } | Kind::Handshake { skip, .. } = classify(from(), &bytes) {
                prop_assert!(bytes.len() >= skip + 32);
            }
        }
    }
}

//! How datagrams reach a peer: directly, or wrapped for a relay.
//!
//! A datagram's first byte says what it is:
//!
//! | byte | what |
//! |---|---|
//! | 1 … 4 | WireGuard |
//! | 0x80 | a WireGuard datagram behind the header of a relay: `0x80 0 0 0`, four zero bytes, tag of 8 bytes |
//! | 0x81, 0x82 | a node tells a relay where it is, and the answer: [`crate::relay::registration`] |
//!
//! Both directions use the relay's header; the tag tells the relay, and then the receiver, which pair of nodes it is.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::relay::registration;

/// Bytes a relay's header takes.
pub(crate) const RELAY_HEADER: usize = 16;
/// First byte of a relayed datagram.
pub(crate) const RELAYED: u8 = 0x80;

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

    pub(crate) fn is_direct(&self) -> bool {
        matches!(self, Self::Direct(_))
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

/// A path, and the own address at which the peer uses it: on a machine with several, answers come from that one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) path: Path,
    pub(crate) local: Option<IpAddr>,
}

impl From<Path> for Way {
    fn from(path: Path) -> Self {
        Self { path, local: None }
    }
}

/// The tag of a datagram behind a relay's header.
pub(crate) fn tag_of(datagram: &[u8]) -> Option<u64> {
    let (header, _) = datagram.split_first_chunk::<RELAY_HEADER>()?;
    let (start, tag) = header.split_first_chunk::<8>()?;
    let is_header = *start == [RELAYED, 0, 0, 0, 0, 0, 0, 0];
    is_header.then(|| tag.try_into().map(u64::from_be_bytes).ok()).flatten()
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
    /// An answer of a relay.
    Registered,
    Nothing,
}

/// Looks at the first bytes of a datagram.
pub(crate) fn classify(from: SocketAddr, datagram: &[u8]) -> Kind {
    let (path, skip) = match datagram.first() {
        Some(&RELAYED) => match tag_of(datagram) {
            Some(tag) => (Path::Relayed { relay: from, tag }, RELAY_HEADER),
            None => return Kind::Nothing,
        },
        Some(&registration::ANSWER) if datagram.len() == registration::LENGTH => return Kind::Registered,
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
        assert_eq!(classify(from(), &[registration::ANSWER; registration::LENGTH]), Kind::Registered);
        assert_eq!(classify(from(), &[registration::ANSWER; 71]), Kind::Nothing);
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

//! The handshake of WireGuard, `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s`, without I/O, clock and randomness.
//! Names follow the white paper (<https://www.wireguard.com/papers/wireguard.pdf>, section 5.4).

pub(crate) mod cookie;
pub(crate) mod handshake;
mod symmetric;
pub(crate) mod timestamp;

pub(crate) use handshake::{Identity, Initiated, Initiation, SessionKeys, agreed_key};
pub(crate) use symmetric::{cipher, mac, nonce, same};
pub(crate) use timestamp::{Timestamp, Timestamps};

/// Sizes of the messages of section 5.4.
pub(crate) const INITIATION: usize = 148;
pub(crate) const RESPONSE: usize = 92;
pub(crate) const COOKIE_REPLY: usize = 64;
/// Header of a data message: type, receiver, counter.
pub(crate) const DATA_HEADER: usize = 16;
/// Authenticator behind every encrypted part.
pub(crate) const TAG: usize = 16;

/// What the first byte of a datagram says (the three bytes behind it are zero).
pub(crate) const TYPE_INITIATION: u8 = 1;
pub(crate) const TYPE_RESPONSE: u8 = 2;
pub(crate) const TYPE_COOKIE_REPLY: u8 = 3;
pub(crate) const TYPE_DATA: u8 = 4;

/// A datagram that was not accepted. Nothing is answered: a stranger learns nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("not a message of the protocol")]
    Malformed,
    #[error("not meant for this node, or made by somebody who does not know its key")]
    Forged,
    #[error("from a node that is no peer")]
    Stranger,
    #[error("seen before, or older than one seen before")]
    Replayed,
}

/// The bytes `from..from + N` of a message whose length was checked.
pub(crate) fn field<const N: usize>(message: &[u8], from: usize) -> Result<[u8; N], Refused> {
    let bytes = message.get(from..from + N).ok_or(Refused::Malformed)?;
    bytes.try_into().map_err(|_| Refused::Malformed)
}

/// A little-endian number in a message.
pub(crate) fn number(message: &[u8], from: usize) -> Result<u32, Refused> {
    field(message, from).map(u32::from_le_bytes)
}

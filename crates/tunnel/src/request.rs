//! What agent and engine say to each other: one line of JSON each way.

use serde::{Deserialize, Serialize};

use crate::config::Peer;
use crate::key::{PrivateKey, PublicKey};
use crate::path::Path;

/// Longest line in bytes.
pub(crate) const MAX_LINE: u64 = 8 << 20;

#[derive(Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum Request {
    SetPeers { peers: Vec<Peer> },
    SetKey { private_key: PrivateKey },
    UsePath { peer: String, path: Path },
    Handshake { peer: String },
    Status,
    Stop,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Done,
    Status(Status),
    Refused(String),
}

/// State of an engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Key of this node.
    pub public_key: PublicKey,
    /// Process of the engine.
    pub pid: u32,
    /// All peers, by name.
    pub peers: Vec<PeerStatus>,
}

/// State of a peer. Counters begin with the engine's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// As in [`Peer::name`].
    pub name: String,
    /// Where its packets go, if that is known.
    pub path: Option<Path>,
    /// Milliseconds since the last handshake was completed.
    pub last_handshake_ms: Option<u64>,
    /// Milliseconds since anything authentic came.
    pub last_received_ms: Option<u64>,
    /// Inner bytes sent.
    pub sent_bytes: u64,
    /// Inner bytes received.
    pub received_bytes: u64,
    /// Packets that could not be sent: no session in time, or the system refused.
    pub lost_sending: u64,
    /// Datagrams that were damaged, forged or repeated.
    pub refused: u64,
    /// Packets that came from the peer with an inner source it does not own.
    pub foreign: u64,
    /// Longest inner packet in bytes that fits through the path, if that is less than the device's.
    pub path_limit: Option<u32>,
}

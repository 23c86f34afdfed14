//! What agent and engine say to each other: one line of JSON each way.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::config::{Peer, Relay, TunnelConfig};
use crate::key::{PrivateKey, PublicKey};
use crate::path::Path;

/// Longest line in bytes.
pub(crate) const MAX_LINE: u64 = 8 << 20;

#[derive(Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum Request {
    SetPeers {
        peers: Vec<Peer>,
    },
    SetRelays {
        relays: Vec<Relay>,
    },
    SetKey {
        private_key: PrivateKey,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        former_key: Option<PrivateKey>,
    },
    Handshake {
        peer: String,
    },
    Status,
    Stop,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Done,
    Status(Box<Status>),
    Refused(String),
}

/// State of an engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the engine, which may be older than the agent's.
    pub version: String,
    /// The settings it runs with.
    pub config: TunnelConfig,
    /// Key of this node.
    pub public_key: PublicKey,
    /// The key before that one, which is still answered.
    pub former_key: Option<PublicKey>,
    /// Process of the engine.
    pub pid: u32,
    /// Whether peers are reached over IPv6, too.
    pub has_ipv6: bool,
    /// Whether there is a lane in the kernel.
    #[serde(default)]
    pub kernel: KernelState,
    /// All relays, in the order of [`crate::Client::set_relays`].
    pub relays: Vec<RelayStatus>,
    /// All peers, by name.
    pub peers: Vec<PeerStatus>,
}

/// Whether an engine has a lane in the kernel ([`crate::KernelConfig`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KernelState {
    /// It shall not; engines of former releases do not say it.
    #[default]
    Off,
    /// Yes.
    Ready,
    /// The kernel does not allow it: why.
    Missing(String),
}

/// How a relay sees this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayStatus {
    /// As in [`Relay::address`].
    pub address: SocketAddr,
    /// Address and port of this node as the relay sees them: what other nodes may try as a path.
    pub seen_as: Option<SocketAddr>,
    /// Whether it passes datagrams on to this node.
    pub is_registered: bool,
}

/// State of a peer. Counters begin with the engine's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// As in [`Peer::name`].
    pub name: String,
    /// As in [`Peer::public_key`]; engines of former releases do not say it.
    pub public_key: Option<PublicKey>,
    /// By which key of this node the peer has shown to know it.
    pub knows: Option<PublicKey>,
    /// Where its packets go, if that is known.
    pub path: Option<Path>,
    /// Whether the kernel sends and takes the packets there.
    #[serde(default)]
    pub in_kernel: bool,
    /// Milliseconds since this path is used.
    pub path_since_ms: Option<u64>,
    /// Microseconds of a round trip on this path, if the peer is an engine like this one.
    pub round_trip_us: Option<u32>,
    /// Milliseconds since the last handshake was completed.
    pub last_handshake_ms: Option<u64>,
    /// Milliseconds since anything authentic came.
    pub last_received_ms: Option<u64>,
    /// Inner bytes sent; of what the kernel sent, with the headers of WireGuard.
    pub sent_bytes: u64,
    /// The same for what was received.
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

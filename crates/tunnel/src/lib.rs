//! The encrypted path between nodes: an engine that speaks the WireGuard protocol, for kernels without it.
//!
//! ```text
//!            TUN device, a queue per thread                      UDP port, a socket per thread
//!   kernel ──large packet──► egress: route, cut, encrypt in place ──train of datagrams──► peer
//!   kernel ◄─large packet─── ingress: decrypt in place, check source, put together ◄──── peer
//!                                │ handshakes, first packets      ▲ sessions, routes (snapshots)
//!                                ▼                                │
//!                            control thread: owns `core`, the pure state of peers and sessions
//!                                ▲ one line of JSON each way
//!                            agent: `Client`
//! ```
//!
//! * The protocol is that of the white paper, interoperable with every other WireGuard. Handshakes, timers, replay
//!   window, choice of sessions and routes are pure: time and randomness are arguments.
//! * Per-packet costs are paid once per batch: the kernel hands over up to 64 KiB at once (`IFF_VNET_HDR`) and takes
//!   and gives trains of equal datagrams (`UDP_SEGMENT`, `UDP_GRO`). Payloads are encrypted and decrypted where they are.
//! * Order within a flow is kept: the device keeps a flow in one queue, the port a sender at one socket.
//! * Queues are bounded and drop; nothing that comes from the network makes anything grow.
//! * The engine is a process of its own ([`run`]), so an agent that is killed does not interrupt traffic, and the
//!   device stays when the engine dies; a restarted engine reads its peers from its state file and goes on.
//! * The device gets no addresses and routes here: whoever configures it does that, once, after the engine has
//!   started. MTU and being up are the engine's.
//! * A peer may have several paths, for nodes behind NATs and for relays ([`Path::Relayed`], [`RelayServer`]): engines
//!   ask each other inside their sessions which of them work, and use the best. To every other WireGuard these
//!   questions are packets to ignore.
//!
//! * Where both kernels have WireGuard and nothing is in between, the kernel carries the packets ([`KernelConfig`]): the
//!   engine finds and watches paths all the same, and takes the packets back at once by taking back routes.
//!
//! ```no_run
//! use std::process::Command;
//!
//! use oak_tunnel::{Path, Peer, TunnelConfig};
//!
//! let config = TunnelConfig::new("oak-tun", 51820, "/var/lib/oakestra/worker/tunnel".into());
//! // In the process that is started: oak_tunnel::run(&config)?;
//! let client = oak_tunnel::start(&config, Command::new("/usr/bin/oak-tunnel"))?;
//! client.set_peers(vec![Peer {
//!     name: "worker-2".to_owned(),
//!     public_key: "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=".parse()?,
//!     paths: vec![Path::Direct("192.0.2.2:51820".parse()?)],
//!     networks: vec!["10.18.0.64/26".parse()?],
//!     ..Peer::default()
//! }])?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod allowed;
mod client;
mod config;
mod core;
mod engine;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod key;
mod noise;
mod packet;
mod path;
mod relay;
mod replay;
mod request;
mod start;
mod sys;
mod tried;

pub use client::{Client, ClientError};
pub use config::{
    DEFAULT_MTU, InvalidConfig, KernelConfig, MAX_NETWORKS, MAX_PATHS, MAX_PEERS, MAX_RELAYS, Peer, Relay,
    TunnelConfig,
};
pub use engine::{EngineError, remove, run};
pub use key::{InvalidKey, PresharedKey, PrivateKey, PublicKey};
pub use path::Path;
pub use relay::keys::{RelayKeys, pair_tag};
pub use relay::{InvalidMembers, MAX_NODES, MAX_PAIRS, RelayCounts, RelayLimits, RelayMembers, RelayServer};
pub use request::{KernelState, PeerStatus, RelayStatus, Status};
pub use start::{StartError, start};
pub use tried::SystemError;

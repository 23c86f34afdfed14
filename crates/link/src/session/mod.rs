//! What both ends of a session share: numbering, chunking, the sending and the receiving half.

mod inbox;
mod line;
mod outbox;
mod pulse;
mod reason;
mod sequence;

pub use line::SendError;
pub use reason::CloseReason;

pub(crate) use inbox::{Inbox, Incoming};
pub(crate) use line::{Item, Line, QueueLimits};
pub(crate) use outbox::{Opening, Outbox, Then};
pub(crate) use pulse::Pulse;

use std::time::Duration;

/// Version of the protocol in `proto/link.proto`.
pub(crate) const PROTOCOL: u32 = 1;

/// Largest message, hello or welcome payload: 64 MiB, enough for the full state of a cluster with thousands of
/// workers. It travels in chunks, so heartbeats and liveness do not depend on its size.
pub const MAX_MESSAGE: usize = 64 * 1024 * 1024;

/// Size of a chunk: half a second of a 1 Mbit/s uplink.
pub(crate) const CHUNK: usize = 64 * 1024;

/// Largest encoded frame read.
pub(crate) const MAX_FRAME: usize = 1024 * 1024;

/// Largest request payload of a bulk stream.
pub(crate) const MAX_BULK_REQUEST: usize = 64 * 1024;

/// Heartbeat interval until the welcome sets another.
pub(crate) const DEFAULT_HEARTBEAT: Duration = Duration::from_millis(1_500);

/// A peer that is silent for this many intervals is gone.
pub(crate) const MISSED_HEARTBEATS: u32 = 3;

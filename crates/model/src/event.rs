//! What happened, told once: to whoever listens, and kept for a while for whoever asks later.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{ApplicationId, ClusterId, InstanceKey, ServiceId, Status, WallTime, WorkerId};

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)*) => {
        /// What kind of thing happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum EventKind {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)*
        }

        impl EventKind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl FromStr for EventKind {
            type Err = UnknownKind;
            fn from_str(text: &str) -> Result<Self, UnknownKind> {
                match text {
                    $($text => Ok(Self::$variant),)*
                    _ => Err(UnknownKind(text.chars().take(40).collect())),
                }
            }
        }
    };
}

kinds! {
    /// An application was created.
    ApplicationCreated = "application_created",
    /// An application is gone with everything in it.
    ApplicationDeleted = "application_deleted",
    /// A service was created.
    ServiceCreated = "service_created",
    /// A service is gone with all its instances.
    ServiceDeleted = "service_deleted",
    /// Somebody wants one more instance.
    InstanceRequested = "instance_requested",
    /// A cluster was chosen.
    InstanceScheduled = "instance_scheduled",
    /// No cluster can take it; the detail tells why.
    InstanceWaiting = "instance_waiting",
    /// Its cluster chose a worker.
    InstancePlaced = "instance_placed",
    /// Its status changed: it is being created, runs, failed, ended.
    InstanceStatus = "instance_status",
    /// It has another worker or cluster; the detail tells why.
    InstanceMoved = "instance_moved",
    /// It was taken down.
    InstanceRemoved = "instance_removed",
    /// A worker joined its cluster.
    WorkerJoined = "worker_joined",
    /// The link of a worker is down.
    WorkerLost = "worker_lost",
    /// The link of a worker is up again.
    WorkerBack = "worker_back",
    /// A worker was opened or closed for instances.
    WorkerAvailability = "worker_availability",
    /// A worker was removed from its cluster.
    WorkerRemoved = "worker_removed",
    /// A cluster joined.
    ClusterJoined = "cluster_joined",
    /// A cluster was removed.
    ClusterRemoved = "cluster_removed",
    /// The link of a cluster is down.
    ClusterLost = "cluster_lost",
    /// The link of a cluster is up.
    ClusterBack = "cluster_back",
    /// A join token was made.
    TokenCreated = "token_created",
}

/// A text is none of the known kinds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a known kind of event")]
pub struct UnknownKind(String);

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One thing that happened. The short names are those of stored rows, of which there are many; what all events of a
/// row share is stored once beside them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Grows with every event of a root, also over restarts.
    #[serde(rename = "n")]
    pub sequence: u64,
    /// When, by the clock of the root.
    #[serde(rename = "t")]
    pub at: WallTime,
    /// What.
    #[serde(rename = "k")]
    pub kind: EventKind,
    /// Application it is about.
    #[serde(skip)]
    pub application: Option<ApplicationId>,
    /// Service it is about.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceId>,
    /// Number of the instance it is about.
    #[serde(rename = "i", default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<u32>,
    /// Cluster it is about, or where it happened.
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterId>,
    /// Worker it is about, or where it happened.
    #[serde(rename = "w", default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerId>,
    /// Status of the instance after it.
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// Why, or more: one line for people.
    #[serde(rename = "d", default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl Event {
    /// An event about nothing yet, without number.
    #[must_use]
    pub fn new(at: WallTime, kind: EventKind, detail: impl Into<String>) -> Self {
        Self {
            sequence: 0,
            at,
            kind,
            application: None,
            service: None,
            instance: None,
            cluster: None,
            worker: None,
            status: None,
            detail: detail.into(),
        }
    }

    /// The instance it is about.
    #[must_use]
    pub fn key(&self) -> Option<InstanceKey> {
        Some(InstanceKey { service: self.service?, number: self.instance? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_parses_back() {
        for kind in EventKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(*kind));
            assert_eq!(serde_json::to_string(kind).ok(), Some(format!("\"{kind}\"")));
        }
        assert!("nothing".parse::<EventKind>().is_err());
    }
}

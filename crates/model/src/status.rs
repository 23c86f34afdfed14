//! The status words of the API. Clients know exactly these (client contract, 1.4); richer phases go into the
//! free text beside them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! statuses {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)*) => {
        /// Status of an instance or a service on the API.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Status {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)*
        }

        impl Status {
            /// Every status, in the order of an instance's life.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl FromStr for Status {
            type Err = UnknownStatus;
            fn from_str(text: &str) -> Result<Self, UnknownStatus> {
                match text {
                    $($text => Ok(Self::$variant),)*
                    _ => Err(UnknownStatus(text.chars().take(40).collect())),
                }
            }
        }
    };
}

statuses! {
    /// Waits for a placement decision.
    Requested = "REQUESTED",
    /// A cluster was chosen.
    ClusterScheduled = "CLUSTER_SCHEDULED",
    /// A worker was chosen; image pull and container creation happen here.
    NodeScheduled = "NODE_SCHEDULED",
    /// The container is being created.
    Creating = "CREATING",
    /// The container exists and is about to run.
    Created = "CREATED",
    /// The process runs.
    Running = "RUNNING",
    /// It ended with an error or could not start; see the detail for what happens next.
    Failed = "FAILED",
    /// It ended with exit code 0 but should run on.
    Dead = "DEAD",
    /// A one-shot service ended with exit code 0. Final.
    Completed = "COMPLETED",
    /// It was taken down on request.
    Undeployed = "UNDEPLOYED",
    /// No cluster has the name the descriptor asks for.
    TargetClusterNotFound = "TargetClusterNotFound",
    /// The cluster asked for is not connected, or no cluster is.
    TargetClusterNotActive = "TargetClusterNotActive",
    /// The cluster asked for has no room.
    TargetClusterNoCapacity = "TargetClusterNoCapacity",
    /// No connected cluster has room.
    NoActiveClusterWithCapacity = "NoActiveClusterWithCapacity",
    /// Workers of the right kind exist but none has room.
    NoWorkerCapacity = "NO_WORKER_CAPACITY",
    /// No worker can run this kind of service.
    NoQualifiedWorkerFound = "NO_QUALIFIED_WORKER_FOUND",
    /// The worker asked for does not exist.
    NoNodeFound = "NO_NODE_FOUND",
}

/// A text is none of the known status words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a known status")]
pub struct UnknownStatus(String);

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_parses_back() {
        for status in Status::ALL {
            assert_eq!(status.as_str().parse(), Ok(*status));
        }
        assert!("INSTANTIATION".parse::<Status>().is_err());
    }
}

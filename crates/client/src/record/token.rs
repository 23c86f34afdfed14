//! Join tokens.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Whom a token admits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenRole {
    /// A cluster, to the root.
    Cluster,
    /// A worker, to a cluster.
    Worker {
        /// Name of the cluster; may be left out while there is only one.
        cluster: Option<String>,
    },
}

/// A one-time join token. `Debug` hides it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// The text to give to the new member.
    pub token: String,
    /// End of its life, Unix seconds; 0 if the server does not say.
    #[serde(default)]
    pub expires_at: u64,
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

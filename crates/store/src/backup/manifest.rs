//! What a backup says about itself.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Newest form of backups this program makes and reads.
pub(super) const FORM: u32 = 1;

/// A part of a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The root.
    Root,
    /// A cluster.
    Cluster,
    /// A worker.
    Worker,
}

impl Role {
    /// All of them, in the order they depend on each other.
    pub const ALL: [Self; 3] = [Self::Root, Self::Cluster, Self::Worker];

    /// Its directory below the data directory.
    #[must_use]
    pub const fn directory(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Cluster => "cluster",
            Self::Worker => "worker",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.directory())
    }
}

/// First entry of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Form of the backup.
    pub(super) form: u32,
    /// When it was made, milliseconds since 1970 by the clock of that machine.
    pub created_ms: u64,
    /// Version of the program that made it.
    pub software: String,
    /// What is in it.
    pub roles: Vec<RoleSummary>,
    /// Every other entry, in order.
    pub(super) files: Vec<FileEntry>,
}

impl Manifest {
    /// Bytes of all files in it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).fold(0, u64::saturating_add)
    }
}

/// What a backup has of one role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleSummary {
    /// Which.
    pub role: Role,
    /// Number of stored objects by kind, such as `instance`.
    pub objects: BTreeMap<String, u64>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileEntry {
    /// Below the data directory.
    pub(super) path: String,
    pub(super) bytes: u64,
    /// SHA-256 of its bytes, hexadecimal.
    pub(super) sha256: String,
}

//! Who can be hit.

use std::fmt;

/// Number of clusters.
pub(crate) const CLUSTERS: usize = 2;
/// Number of workers; they belong to the clusters in turn.
pub(crate) const WORKERS: usize = 4;

/// One process of oak on one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Role {
    Root,
    Cluster(usize),
    Worker(usize),
}

impl Role {
    /// All, parents first.
    pub(crate) fn all() -> Vec<Self> {
        let clusters = (0..CLUSTERS).map(Self::Cluster);
        std::iter::once(Self::Root).chain(clusters).chain((0..WORKERS).map(Self::Worker)).collect()
    }

    /// Last part of the address of its machine.
    pub(crate) fn number(self) -> u8 {
        let number = match self {
            Self::Root => 10,
            Self::Cluster(index) => 11 + index,
            Self::Worker(index) => 20 + index,
        };
        u8::try_from(number).unwrap_or(u8::MAX)
    }

    /// MiB of its disk, if that is a small one which can be filled. The others are on the disk of the real machine.
    pub(crate) const fn small_disk(self) -> Option<u32> {
        match self {
            Self::Root => Some(48),
            Self::Cluster(1) => Some(48),
            // Has to hold two images, unpacked.
            Self::Worker(3) => Some(256),
            _ => None,
        }
    }
}

/// The name of its machine.
impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = |index: usize| u8::try_from(index).map_or('?', |index| char::from(b'a' + index));
        match self {
            Self::Root => f.write_str("root"),
            Self::Cluster(index) => write!(f, "cluster-{}", letter(*index)),
            Self::Worker(index) => write!(f, "worker-{}", letter(*index)),
        }
    }
}

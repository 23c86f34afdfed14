//! Who a peer is: a tier and its ids, carried as a URI in the certificate.

use std::fmt;
use std::str::FromStr;

/// Id of a cluster or worker: 24 lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(Box<str>);

impl NodeId {
    /// Returns the digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeId {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, InvalidIdentity> {
        let is_id = text.len() == 24 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if is_id { Ok(Self(text.into())) } else { Err(InvalidIdentity) }
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A member of the system. Its text form is the URI in the subject alternative name of its certificate:
/// `oakestra://root`, `oakestra://cluster/<id>` or `oakestra://worker/<cluster>/<worker>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Identity {
    /// The root.
    Root,
    /// A cluster; its parent is the root.
    Cluster {
        /// Its id.
        cluster: NodeId,
    },
    /// A worker; its parent is the cluster it belongs to.
    Worker {
        /// Id of the cluster it belongs to.
        cluster: NodeId,
        /// Its id.
        worker: NodeId,
    },
}

impl Identity {
    /// Prefix of every identity URI.
    pub(crate) const SCHEME: &str = "oakestra://";

    /// Returns whom this member dials; the root dials nobody.
    pub fn parent(&self) -> Option<Self> {
        match self {
            Self::Root => None,
            Self::Cluster { .. } => Some(Self::Root),
            Self::Worker { cluster, .. } => Some(Self::Cluster { cluster: cluster.clone() }),
        }
    }

    /// Tells whether `child` may dial this member.
    pub fn is_parent_of(&self, child: &Self) -> bool {
        child.parent().as_ref() == Some(self)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => write!(f, "{}root", Self::SCHEME),
            Self::Cluster { cluster } => write!(f, "{}cluster/{cluster}", Self::SCHEME),
            Self::Worker { cluster, worker } => write!(f, "{}worker/{cluster}/{worker}", Self::SCHEME),
        }
    }
}

/// The text is not an identity or id of this system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not an identity: expected oakestra://root, oakestra://cluster/<id> or oakestra://worker/<id>/<id>, ids of 24 hexadecimal digits"
)]
pub struct InvalidIdentity;

impl FromStr for Identity {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, InvalidIdentity> {
        let path = text.strip_prefix(Self::SCHEME).ok_or(InvalidIdentity)?;
        let mut parts = path.split('/');
        let identity = match (parts.next(), parts.next(), parts.next()) {
            (Some("root"), None, None) => Self::Root,
            (Some("cluster"), Some(cluster), None) => Self::Cluster { cluster: cluster.parse()? },
            (Some("worker"), Some(cluster), Some(worker)) => {
                Self::Worker { cluster: cluster.parse()?, worker: worker.parse()? }
            }
            _ => return Err(InvalidIdentity),
        };
        if parts.next().is_some() { Err(InvalidIdentity) } else { Ok(identity) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "0123456789abcdef01234567";
    const B: &str = "fedcba9876543210fedcba98";

    #[test]
    fn reads_back_what_it_writes() {
        for text in [
            "oakestra://root".into(),
            format!("oakestra://cluster/{A}"),
            format!("oakestra://worker/{A}/{B}"),
        ] {
            assert_eq!(text.parse::<Identity>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            "oakestra://",
            "oakestra://root/",
            "oakestra://root/x",
            "http://root",
            "oakestra://cluster/1",
        ] {
            assert_eq!(text.parse::<Identity>(), Err(InvalidIdentity), "{text}");
        }
        assert!(format!("oakestra://worker/{A}").parse::<Identity>().is_err());
        assert!(format!("oakestra://worker/{A}/{B}/{A}").parse::<Identity>().is_err());
        assert!(format!("oakestra://cluster/{}", A.to_uppercase()).parse::<Identity>().is_err());
    }

    #[test]
    fn a_worker_belongs_to_one_cluster() {
        let worker: Identity = format!("oakestra://worker/{A}/{B}").parse().unwrap();
        let own: Identity = format!("oakestra://cluster/{A}").parse().unwrap();
        let other: Identity = format!("oakestra://cluster/{B}").parse().unwrap();
        assert!(own.is_parent_of(&worker));
        assert!(!other.is_parent_of(&worker));
        assert!(!Identity::Root.is_parent_of(&worker));
        assert!(Identity::Root.is_parent_of(&own));
    }
}

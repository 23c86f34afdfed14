//! Which machines a fault hits.

use std::fmt;

use serde::Deserialize;

/// One machine or several.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Target {
    /// The root.
    Root,
    /// Every machine.
    All,
    /// Every cluster's own machine.
    Clusters,
    /// Every worker.
    Workers,
    /// The machine of one cluster.
    Cluster(String),
    /// The workers of one cluster.
    WorkersOf(String),
    /// One worker.
    Worker(String),
    /// Everything that stands at one place.
    Site(String),
}

/// How targets are written.
const FORMS: &str = "\"root\", \"all\", \"clusters\", \"workers\", \"cluster:NAME\", \"workers:CLUSTER\", \
                     \"worker:NAME\" or \"site:NAME\"";

impl TryFrom<String> for Target {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match (text.as_str(), text.split_once(':')) {
            ("root", _) => Ok(Self::Root),
            ("all", _) => Ok(Self::All),
            ("clusters", _) => Ok(Self::Clusters),
            ("workers", _) => Ok(Self::Workers),
            (_, Some(("cluster", name))) => Ok(Self::Cluster(name.to_owned())),
            (_, Some(("workers", name))) => Ok(Self::WorkersOf(name.to_owned())),
            (_, Some(("worker", name))) => Ok(Self::Worker(name.to_owned())),
            (_, Some(("site", name))) => Ok(Self::Site(name.to_owned())),
            _ => Err(format!("`{text}` names no machine: write {FORMS}")),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("the root"),
            Self::All => f.write_str("everything"),
            Self::Clusters => f.write_str("all clusters"),
            Self::Workers => f.write_str("all workers"),
            Self::Cluster(name) => write!(f, "cluster {name}"),
            Self::WorkersOf(name) => write!(f, "the workers of {name}"),
            Self::Worker(name) => write!(f, "worker {name}"),
            Self::Site(name) => write!(f, "site {name}"),
        }
    }
}

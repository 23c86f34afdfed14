//! What is wrong with a configuration: everything at once, each with its place and source.

use std::fmt;

use super::load::Origin;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfigProblem {
    /// Setting, section or variable; empty when a whole file is meant.
    pub(crate) path: String,
    /// Where it stands.
    pub(crate) origin: Origin,
    /// What is wrong or allowed.
    pub(crate) message: String,
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{} ", self.path)?;
        }
        write!(f, "({}): {}", self.origin, self.message)
    }
}

/// A configuration that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the configuration has {} problem{}", problems.len(), if problems.len() == 1 { "" } else { "s" })]
pub(crate) struct ConfigErrors {
    /// All problems.
    pub(crate) problems: Vec<ConfigProblem>,
}

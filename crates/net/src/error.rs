//! Everything that can go wrong with the node network, worded as what was tried.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net};

/// Failure of an operation on the node network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The settings cannot work; nothing was changed.
    #[error("node network settings are not usable: {reason}")]
    Config {
        /// What is wrong with them.
        reason: String,
    },
    /// Another process works on the same state directory.
    #[error("the node network in {} is in use by another process; stop that agent first", state_directory.display())]
    Busy {
        /// The locked directory.
        state_directory: PathBuf,
    },
    /// A device of that name exists and was not made by us.
    #[error(
        "network device {device} already exists and was not made by oak; remove it or choose another bridge name"
    )]
    ForeignDevice {
        /// Name of the device.
        device: String,
    },
    /// An instance id that cannot be stored.
    #[error("instance id {id:?} is not 1 to 128 letters, digits, dots, colons, dashes and underscores")]
    InvalidId {
        /// The id, shortened.
        id: String,
    },
    /// The address is not one of this node's.
    #[error("address {address} cannot be given to an instance in {subnet}")]
    AddressOutside {
        /// The requested address.
        address: Ipv4Addr,
        /// The node's subnet.
        subnet: Ipv4Net,
    },
    /// Two instances with one address.
    #[error("address {address} belongs to instance {holder}")]
    AddressInUse {
        /// The requested address.
        address: Ipv4Addr,
        /// Who has it.
        holder: String,
    },
    /// Two ids with one short name; choose another id.
    #[error("instance ids {id} and {holder} lead to the same device name {device}")]
    NameCollision {
        /// The new id.
        id: String,
        /// The id that has the name.
        holder: String,
        /// The device name.
        device: String,
    },
    /// The rule compiler is not installed.
    #[error("program nft not found; install the package nftables (Debian, Ubuntu, Alpine, Fedora)")]
    NftMissing,
    /// `nft` refused a transaction; the rules are as they were.
    #[error("nft could not {what}: {message}")]
    Nft {
        /// What the transaction was for.
        what: &'static str,
        /// What `nft` said, shortened.
        message: String,
    },
    /// The host uses a range of ours for something else.
    #[error(
        "{used} is routed to device {device}, but {range} is for oak; a machine with that network cannot be a worker"
    )]
    RangeInUse {
        /// Network of the host.
        used: IpNet,
        /// Device it is routed to.
        device: String,
        /// Range of instances or services.
        range: IpNet,
    },
    /// More entries than a node can sensibly have.
    #[error("service table has {entries} entries, at most {limit} are possible")]
    TableTooLarge {
        /// Entries in the table.
        entries: usize,
        /// The limit.
        limit: usize,
    },
    /// A system call failed.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: String,
        /// Why the kernel refused.
        source: io::Error,
    },
    /// Something was left behind; everything else was removed.
    #[error("cannot remove everything: {0}")]
    Leftovers(ErrorList),
    /// The network's own thread ended, which it does only when a job panicked.
    #[error("the node network has stopped working; restart the agent")]
    Stopped,
}

/// Several failures of a removal that went on after each of them.
#[derive(Debug, Default)]
pub struct ErrorList(pub Vec<NetworkError>);

impl ErrorList {
    /// Notes the failure, if there is one.
    pub(crate) fn note<T>(&mut self, outcome: Result<T, NetworkError>) {
        if let Err(error) = outcome {
            self.0.push(error);
        }
    }

    /// All failures as one, or success if there are none.
    pub(crate) fn into_result(self) -> Result<(), NetworkError> {
        if self.0.is_empty() { Ok(()) } else { Err(NetworkError::Leftovers(self)) }
    }
}

impl fmt::Display for ErrorList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, error) in self.0.iter().enumerate() {
            let separator = if place == 0 { "" } else { "; " };
            write!(f, "{separator}{error}")?;
            let mut cause = std::error::Error::source(error);
            while let Some(inner) = cause {
                write!(f, ": {inner}")?;
                cause = inner.source();
            }
        }
        Ok(())
    }
}

/// Says what was tried when an I/O error passes.
pub(crate) trait Tried<T> {
    /// Wraps the error; `what` completes "cannot …".
    fn tried(self, what: impl FnOnce() -> String) -> Result<T, NetworkError>;
}

impl<T, E: Into<io::Error>> Tried<T> for Result<T, E> {
    fn tried(self, what: impl FnOnce() -> String) -> Result<T, NetworkError> {
        self.map_err(|error| NetworkError::System { what: what(), source: error.into() })
    }
}

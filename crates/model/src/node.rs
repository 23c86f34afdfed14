//! What a worker machine is.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::overlay::{TunnelEnd, takes_plain};
use crate::{Position, Resources, ipv6};

/// Processor architecture in the names used by images (`amd64`, `arm64`, …).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// x86-64.
    Amd64,
    /// AArch64.
    Arm64,
    /// 32-bit ARM.
    Arm,
    /// RISC-V, 64 bit.
    Riscv64,
}

impl Architecture {
    /// Every architecture.
    pub const ALL: [Self; 4] = [Self::Amd64, Self::Arm64, Self::Arm, Self::Riscv64];

    /// The architecture this program was built for.
    #[must_use]
    pub const fn of_this_program() -> Self {
        if cfg!(target_arch = "aarch64") {
            Self::Arm64
        } else if cfg!(target_arch = "arm") {
            Self::Arm
        } else if cfg!(target_arch = "riscv64") {
            Self::Riscv64
        } else {
            Self::Amd64
        }
    }

    /// Name as images spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
            Self::Arm => "arm",
            Self::Riscv64 => "riscv64",
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text names no known architecture.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a known architecture: use amd64, arm64, arm or riscv64")]
pub struct UnknownArchitecture(String);

impl FromStr for Architecture {
    type Err = UnknownArchitecture;
    fn from_str(text: &str) -> Result<Self, UnknownArchitecture> {
        match text.to_ascii_lowercase().as_str() {
            "amd64" | "x86_64" | "x86-64" => Ok(Self::Amd64),
            "arm64" | "aarch64" => Ok(Self::Arm64),
            "arm" | "armv7" | "armhf" | "arm/v7" => Ok(Self::Arm),
            "riscv64" => Ok(Self::Riscv64),
            _ => Err(UnknownArchitecture(text.chars().take(40).collect())),
        }
    }
}

/// Whether a worker takes instances. Operators set it; it stays until they set it again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Availability {
    /// It takes instances.
    #[default]
    Open,
    /// It keeps what it has and takes nothing new.
    Cordoned,
    /// What it has moves to other workers; it takes nothing new.
    Draining,
}

impl Availability {
    /// Every availability.
    pub const ALL: [Self; 3] = [Self::Open, Self::Cordoned, Self::Draining];

    /// The word on the wire and in tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Cordoned => "cordoned",
            Self::Draining => "draining",
        }
    }
}

impl fmt::Display for Availability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How much an operator insists on the removal of a worker or a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Removal {
    /// Only if it is not connected and nothing is lost with it.
    #[default]
    IfUnused,
    /// Also with what it has: the operator says that the machine is gone.
    Forced,
}

impl Removal {
    /// As an operator says it: with force, or without.
    #[must_use]
    pub const fn by_force(force: bool) -> Self {
        if force { Self::Forced } else { Self::IfUnused }
    }
}

/// What a worker says about itself when it connects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerFacts {
    /// Name, by default the host name; `direct` constraints refer to it.
    pub name: String,
    /// Address other machines reach it at.
    pub address: String,
    /// Its address of IPv6, if `address` is one of IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Addr>,
    /// Architecture.
    pub architecture: Architecture,
    /// What services may use: the machine less what is kept back for itself.
    pub capacity: Resources,
    /// Kinds of workload it can run, in the API's words (`docker`).
    pub virtualization: Vec<String>,
    /// Version of its software.
    pub version: String,
    /// What its operator says about it, such as `gpu` or `area=munich`; descriptors may ask for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Additional services of the machine, such as `imageBuilder`; descriptors may ask for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addons: Vec<String>,
    /// Where it is, if that differs from its cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// Volume drivers it offers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub csi_drivers: Vec<String>,
    /// Where it takes encrypted packets of other workers; none if it cannot or shall not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<TunnelEnd>,
    /// Whether it takes plain packets of other workers.
    #[serde(default = "takes_plain")]
    pub plain: bool,
}

impl WorkerFacts {
    /// Where other workers send packets to over IPv4.
    #[must_use]
    pub fn underlay(&self) -> Option<Ipv4Addr> {
        self.address.parse().ok()
    }

    /// The same over IPv6, if that address means something to others.
    #[must_use]
    pub fn underlay6(&self) -> Option<Ipv6Addr> {
        self.address.parse().ok().or(self.address6).filter(|address| ipv6::is_underlay(*address))
    }
}

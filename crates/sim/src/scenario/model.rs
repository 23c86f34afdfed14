//! Properties of the virtual hardware, and the settings of the machines that may be changed.

use serde::Deserialize;

use super::{Share, Span};

/// One hop.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkModel {
    /// Shortest time from one end to the other.
    pub delay: Span,
    /// Up to this much more, at random.
    pub jitter: Span,
    /// Share of segments that get lost. A lost segment of an ordered stream is a delay until it is sent again, and
    /// much loss is silence.
    pub loss: Share,
}

impl Default for LinkModel {
    fn default() -> Self {
        Self { delay: Span::of_ms(1), jitter: Span::of_ms(4), loss: Share::default() }
    }
}

/// The hops between the tiers.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Links {
    /// Between root and clusters.
    pub cluster: LinkModel,
    /// Between clusters and workers.
    pub worker: LinkModel,
}

/// How long a commit takes.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiskModel {
    /// At least.
    pub commit: Span,
    /// Up to this much more, at random.
    pub jitter: Span,
}

impl Default for DiskModel {
    fn default() -> Self {
        Self { commit: Span::of_ms(0), jitter: Span::of_ms(4) }
    }
}

/// The disks of the tiers.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Disks {
    /// Of the root.
    pub root: DiskModel,
    /// Of each cluster.
    pub cluster: DiskModel,
    /// Of each worker.
    pub worker: DiskModel,
}

/// How long containers take on their way, each time between half and all of it.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RuntimeModel {
    /// The pull of an image a worker does not have yet.
    pub pull: Span,
    /// Network and container.
    pub start: Span,
    /// Until everything of a container is gone.
    pub stop: Span,
    /// Until a machine that got its power back runs its agent, up to half more.
    pub boot: Span,
}

impl Default for RuntimeModel {
    fn default() -> Self {
        Self {
            pull: Span::of_ms(4_000),
            start: Span::of_ms(300),
            stop: Span::of_ms(500),
            boot: Span::of_ms(30_000),
        }
    }
}

/// Settings of the machines that differ from those they are shipped with.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Tuning {
    /// How long a worker may be away before its instances are placed elsewhere.
    pub lost_after: Option<Span>,
    /// The same right after a start of its cluster.
    pub start_grace: Option<Span>,
    /// How long a cluster may be away before its instances are placed in other clusters.
    pub cluster_lost_after: Option<Span>,
    /// Longest time between two attempts to place what found no place.
    pub retry_interval: Option<Span>,
    /// CPU that may be reserved per core.
    pub cpu_overcommit: Option<u32>,
    /// Longest delay between two starts of a failing container.
    pub restart_max: Option<Span>,
    /// Longest time a pull may make no progress.
    pub prepare_timeout: Option<Span>,
    /// Longest time for network and container.
    pub start_timeout: Option<Span>,
    /// After this a stop is tried again.
    pub stop_timeout: Option<Span>,
}

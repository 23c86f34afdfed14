//! What is done to the system at a time.

use std::fmt;

use oak_model::Availability;
use serde::Deserialize;

use super::{LinkModel, Share, Span, Target, WorkerGroup};

/// A fault or another event of the timeline.
#[derive(Clone, Debug)]
pub struct Fault {
    /// When, milliseconds.
    pub at_ms: u64,
    /// For how long, milliseconds; absent for what has no end.
    pub lasts_ms: Option<u64>,
    /// What.
    pub action: Action,
}

/// Which way a partition lets nothing through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Neither way.
    #[default]
    Both,
    /// From child to parent.
    Up,
    /// From parent to child.
    Down,
}

/// A change of a wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The battery is empty: it says 1970.
    Epoch,
    /// Forward.
    Ahead(Span),
    /// Backward.
    Back(Span),
}

/// What is done.
#[derive(Clone, Debug)]
pub enum Action {
    /// Agents and all processes of the machines end; they boot when the power is back.
    PowerLoss(Target),
    /// The agents end without warning and are started again; containers go on.
    Crash(Target),
    /// The agents end in good order and are started again, as for an upgrade; containers go on.
    Restart(Target),
    /// An operator cordons workers, drains them or opens them again.
    SetAvailability(Target, Availability),
    /// The links of the machines to their parents let nothing through, and nobody is told.
    Partition(Target, Direction),
    /// The sessions of the machines with their parents break.
    Cut(Target),
    /// The links of the machines to their parents become others.
    Degrade(Target, LinkModel),
    /// Each commit takes up to this long.
    SlowDisk(Target, Span),
    /// No commit ends before it is over.
    FullDisk(Target),
    /// The root crashes and its disk is empty; its clusters are enrolled again and tell it what they hold.
    LoseRootDisk,
    /// The root crashes and starts from a backup that is so old.
    RestoreRoot(Span),
    /// The wall clocks of the machines jump.
    SetClock(Target, Clock),
    /// New workers join a cluster.
    AddWorkers(String, WorkerGroup),
    /// The machines are taken away for good.
    RemoveWorkers(Target),
    /// The user wants another number of instances of a workload.
    Scale(String, usize),
    /// The user updates a workload to another image.
    Update(String),
    /// The user updates a workload to an image that does not run.
    Break(String),
    /// The user deletes a workload with everything of it.
    Delete(String),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerLoss(target) => write!(f, "{target} loses power"),
            Self::Crash(target) => write!(f, "agents crash: {target}"),
            Self::Restart(target) => write!(f, "agents restart: {target}"),
            Self::SetAvailability(target, Availability::Open) => write!(f, "opened: {target}"),
            Self::SetAvailability(target, Availability::Cordoned) => write!(f, "cordoned: {target}"),
            Self::SetAvailability(target, Availability::Draining) => write!(f, "drained: {target}"),
            Self::Partition(target, Direction::Both) => write!(f, "links cut off silently: {target}"),
            Self::Partition(target, Direction::Up) => write!(f, "links carry nothing up: {target}"),
            Self::Partition(target, Direction::Down) => write!(f, "links carry nothing down: {target}"),
            Self::Cut(target) => write!(f, "sessions break: {target}"),
            Self::Degrade(target, model) => write!(
                f,
                "links become slow: {target} ({} + {} delay, {:.1} % loss)",
                model.delay,
                model.jitter,
                model.loss.value() * 100.0
            ),
            Self::SlowDisk(target, commit) => write!(f, "disks become slow: {target} ({commit} a commit)"),
            Self::FullDisk(target) => write!(f, "disks are full: {target}"),
            Self::LoseRootDisk => f.write_str("the root loses its disk"),
            Self::RestoreRoot(age) => write!(f, "the root is restored from a backup {age} old"),
            Self::SetClock(target, Clock::Epoch) => write!(f, "clocks say 1970: {target}"),
            Self::SetClock(target, Clock::Ahead(by)) => write!(f, "clocks jump {by} ahead: {target}"),
            Self::SetClock(target, Clock::Back(by)) => write!(f, "clocks jump {by} back: {target}"),
            Self::AddWorkers(cluster, group) => write!(f, "{} workers join {cluster}", group.count),
            Self::RemoveWorkers(target) => write!(f, "taken away for good: {target}"),
            Self::Scale(workload, count) => write!(f, "{workload} is scaled to {count} instances"),
            Self::Update(workload) => write!(f, "{workload} is updated"),
            Self::Break(workload) => write!(f, "{workload} is updated to what does not run"),
            Self::Delete(workload) => write!(f, "{workload} is deleted"),
        }
    }
}

/// The words for `do`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    PowerLoss,
    Crash,
    Restart,
    Open,
    Cordon,
    Drain,
    Partition,
    Cut,
    Degrade,
    SlowDisk,
    FullDisk,
    LoseRootDisk,
    RestoreRoot,
    SetClock,
    AddWorkers,
    RemoveWorkers,
    Scale,
    Update,
    Break,
    Delete,
}

/// A fault as it is written: the keys of all kinds together.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct FaultEntry {
    pub(super) at: Span,
    #[serde(rename = "do")]
    pub(super) kind: Kind,
    #[serde(rename = "for")]
    pub(super) lasts: Option<Span>,
    pub(super) target: Option<Target>,
    pub(super) direction: Option<Direction>,
    pub(super) delay: Option<Span>,
    pub(super) jitter: Option<Span>,
    pub(super) loss: Option<Share>,
    pub(super) commit: Option<Span>,
    pub(super) age: Option<Span>,
    pub(super) clock: Option<String>,
    pub(super) cluster: Option<String>,
    pub(super) workers: Option<WorkerGroup>,
    pub(super) workload: Option<String>,
    pub(super) instances: Option<usize>,
}

impl FaultEntry {
    /// What it means.
    ///
    /// # Errors
    /// A key is missing, or stands where it means nothing.
    pub(super) fn understood(self) -> Result<Fault, String> {
        let (required, allowed): (&[&str], &[&str]) = match self.kind {
            Kind::PowerLoss | Kind::FullDisk => (&["target", "for"], &[]),
            Kind::Crash | Kind::Restart => (&["target"], &["for"]),
            Kind::Partition => (&["target", "for"], &["direction"]),
            Kind::Cut | Kind::RemoveWorkers | Kind::Open | Kind::Cordon | Kind::Drain => (&["target"], &[]),
            Kind::Degrade => (&["target", "for"], &["delay", "jitter", "loss"]),
            Kind::SlowDisk => (&["target", "for", "commit"], &[]),
            Kind::SetClock => (&["target", "clock"], &[]),
            Kind::AddWorkers => (&["cluster", "workers"], &[]),
            Kind::Scale => (&["workload", "instances"], &[]),
            Kind::Delete | Kind::Update | Kind::Break => (&["workload"], &[]),
            Kind::LoseRootDisk => (&[], &["for"]),
            Kind::RestoreRoot => (&["age"], &["for"]),
        };
        let given = self.given();
        if let Some(missing) = required.iter().find(|key| !given.contains(key)) {
            return Err(format!("`{missing}` is missing; this kind needs {}", listed(required)));
        }
        if let Some(stray) = given.iter().find(|key| !required.contains(key) && !allowed.contains(key)) {
            let all: Vec<&str> = ["at", "do"].iter().chain(required).chain(allowed).copied().collect();
            return Err(format!("`{stray}` means nothing here; this kind knows {}", listed(&all)));
        }
        Ok(Fault { at_ms: self.at.ms, lasts_ms: self.lasts.map(|span| span.ms), action: self.action()? })
    }

    fn action(self) -> Result<Action, String> {
        let target = self.target.unwrap_or(Target::All);
        let workload = self.workload.unwrap_or_default();
        Ok(match self.kind {
            Kind::PowerLoss => Action::PowerLoss(target),
            Kind::Crash => Action::Crash(target),
            Kind::Restart => Action::Restart(target),
            Kind::Open => Action::SetAvailability(target, Availability::Open),
            Kind::Cordon => Action::SetAvailability(target, Availability::Cordoned),
            Kind::Drain => Action::SetAvailability(target, Availability::Draining),
            Kind::Partition => Action::Partition(target, self.direction.unwrap_or_default()),
            Kind::Cut => Action::Cut(target),
            Kind::Degrade => {
                let former = LinkModel::default();
                let model = LinkModel {
                    delay: self.delay.unwrap_or(former.delay),
                    jitter: self.jitter.unwrap_or(former.jitter),
                    loss: self.loss.unwrap_or(former.loss),
                };
                Action::Degrade(target, model)
            }
            Kind::SlowDisk => Action::SlowDisk(target, self.commit.unwrap_or_default()),
            Kind::FullDisk => Action::FullDisk(target),
            Kind::LoseRootDisk => Action::LoseRootDisk,
            Kind::RestoreRoot => Action::RestoreRoot(self.age.unwrap_or_default()),
            Kind::SetClock => Action::SetClock(target, clock(&self.clock.unwrap_or_default())?),
            Kind::AddWorkers => {
                let group = self.workers.ok_or("`workers` is missing")?;
                Action::AddWorkers(self.cluster.unwrap_or_default(), group)
            }
            Kind::RemoveWorkers => Action::RemoveWorkers(target),
            Kind::Scale => Action::Scale(workload, self.instances.unwrap_or(0)),
            Kind::Update => Action::Update(workload),
            Kind::Break => Action::Break(workload),
            Kind::Delete => Action::Delete(workload),
        })
    }

    /// The keys that were written, besides those every fault has.
    fn given(&self) -> Vec<&'static str> {
        let keys = [
            ("for", self.lasts.is_some()),
            ("target", self.target.is_some()),
            ("direction", self.direction.is_some()),
            ("delay", self.delay.is_some()),
            ("jitter", self.jitter.is_some()),
            ("loss", self.loss.is_some()),
            ("commit", self.commit.is_some()),
            ("age", self.age.is_some()),
            ("clock", self.clock.is_some()),
            ("cluster", self.cluster.is_some()),
            ("workers", self.workers.is_some()),
            ("workload", self.workload.is_some()),
            ("instances", self.instances.is_some()),
        ];
        keys.into_iter().filter(|(_, given)| *given).map(|(key, _)| key).collect()
    }
}

fn clock(text: &str) -> Result<Clock, String> {
    let span = |text: &str| Span::try_from(text.to_owned());
    match (text, text.split_at_checked(1)) {
        ("1970", _) => Ok(Clock::Epoch),
        (_, Some(("+", ahead))) => Ok(Clock::Ahead(span(ahead)?)),
        (_, Some(("-", back))) => Ok(Clock::Back(span(back)?)),
        _ => Err(format!("`clock` is `{text}`: write \"1970\", or a jump like \"+3h\" or \"-2d\"")),
    }
}

fn listed(keys: &[&str]) -> String {
    keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
}

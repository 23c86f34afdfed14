//! What goes wrong in one round, and when. Pure: the same random numbers give the same plan.

use std::fmt;
use std::time::Duration;

use oak_e2e::{Conditions, Direction, Passage};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use crate::role::Role;

/// Something that goes wrong for a while.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) target: Role,
    /// From the beginning of the round.
    pub(crate) at: Duration,
    pub(crate) lasts: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    /// `kill -9`, and no new start before the end.
    Kill,
    /// SIGSTOP until the end.
    Freeze,
    /// The machine loses its network: in both directions or one, without a word or with resets.
    Cut(Option<Direction>, Passage),
    /// The machine has a bad line.
    Degrade(Conditions),
    /// The machine has another address until the end.
    Move,
    /// A NAT before the machine forgets it: packets between workers come from this port until the end.
    Rebind(u16),
    /// The disk is filled up to its last byte until the end.
    FillDisk,
    /// The machine with everything on it is off until the end, and then boots.
    PowerCut,
}

impl Kind {
    /// For counting.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Freeze => "freeze",
            Self::Cut(_, Passage::Reset) => "reset link",
            Self::Cut(None, _) => "cut link",
            Self::Cut(Some(_), _) => "cut link one way",
            Self::Degrade(_) => "bad link",
            Self::Move => "another address",
            Self::Rebind(_) => "NAT that forgets",
            Self::FillDisk => "full disk",
            Self::PowerCut => "power cut",
        }
    }

    /// Two faults that take hold of the same thing of the same machine cannot overlap.
    fn excludes(&self, other: &Self) -> bool {
        let holds = |kind: &Self| match kind {
            Self::Kill | Self::Freeze => (true, false, false),
            Self::Cut(..) | Self::Degrade(_) | Self::Move | Self::Rebind(_) => (false, true, false),
            Self::FillDisk => (false, false, true),
            Self::PowerCut => (true, true, true),
        };
        let (left, right) = (holds(self), holds(other));
        (left.0 && right.0) || (left.1 && right.1) || (left.2 && right.2)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} for {:.1} s", self.kind.name(), self.target, self.lasts.as_secs_f64())?;
        match &self.kind {
            Kind::Cut(Some(direction), _) => write!(f, " ({direction:?})"),
            Kind::Degrade(conditions) => write!(f, " ({conditions})"),
            _ => Ok(()),
        }
    }
}

impl Fault {
    fn end(&self) -> Duration {
        self.at + self.lasts
    }

    fn collides(&self, other: &Self) -> bool {
        let overlap = self.at <= other.end() && other.at <= self.end();
        self.target == other.target && overlap && self.kind.excludes(&other.kind)
    }
}

/// Draws the faults of a round in which they begin within `length`.
pub(crate) fn draw(
    random: &mut StdRng,
    length: Duration,
    roles: &[Role],
    small_disks: &[Role],
) -> Vec<Fault> {
    let wanted = random.random_range(3..=9);
    let mut plan: Vec<Fault> = Vec::new();
    // A fault that collides with an earlier one is left out.
    for _ in 0..wanted {
        let Some(fault) = draw_one(random, length, roles, small_disks) else { continue };
        if !plan.iter().any(|earlier| earlier.collides(&fault)) {
            plan.push(fault);
        }
    }
    plan.sort_by_key(|fault| fault.at);
    plan
}

fn draw_one(random: &mut StdRng, length: Duration, roles: &[Role], small_disks: &[Role]) -> Option<Fault> {
    let workers: Vec<Role> = roles.iter().copied().filter(|role| matches!(role, Role::Worker(_))).collect();
    // What is lost for a while and comes back is mostly a worker: only that can make anything run twice.
    let mostly_workers = if random.random_bool(0.6) { &*workers } else { roles };
    let (kind, seconds, targets) = match random.random_range(0..100) {
        // Most crashes are followed by a start at once, as a supervisor does it.
        0..24 => (Kind::Kill, random.random_range(0.0..0.8), roles),
        24..34 => (Kind::Kill, random.random_range(2.0..12.0), roles),
        34..48 => (Kind::Freeze, draw_absence(random), mostly_workers),
        48..70 => (draw_cut(random), draw_absence(random), mostly_workers),
        70..78 => (Kind::Degrade(draw_conditions(random)), random.random_range(5.0..20.0), roles),
        78..82 => (Kind::Move, random.random_range(0.5..20.0), &*workers),
        82..86 => {
            (Kind::Rebind(random.random_range(42_000..43_000)), random.random_range(0.5..20.0), &*workers)
        }
        86..92 => (Kind::FillDisk, random.random_range(2.0..10.0), small_disks),
        _ => (Kind::PowerCut, random.random_range(0.5..10.0), &*workers),
    };
    Some(Fault {
        kind,
        target: *targets.choose(random)?,
        at: length.mul_f64(random.random()),
        lasts: Duration::from_secs_f64(seconds),
    })
}

/// Seconds that somebody is not heard of: not noticed, noticed, or longer than any permission lasts.
fn draw_absence(random: &mut StdRng) -> f64 {
    match random.random_range(0..10) {
        0..3 => random.random_range(0.2..3.0),
        3..6 => random.random_range(3.0..9.0),
        _ => random.random_range(9.0..25.0),
    }
}

fn draw_cut(random: &mut StdRng) -> Kind {
    match random.random_range(0..10) {
        0..5 => Kind::Cut(None, Passage::Silent),
        5 => Kind::Cut(Some(Direction::Outgoing), Passage::Silent),
        6 => Kind::Cut(Some(Direction::Incoming), Passage::Silent),
        _ => Kind::Cut(None, Passage::Reset),
    }
}

fn draw_conditions(random: &mut StdRng) -> Conditions {
    Conditions {
        delay: Duration::from_millis(random.random_range(5..200)),
        jitter: Duration::from_millis(random.random_range(0..50)),
        loss: random.random_range(0.0..0.1),
        rate: random.random_bool(0.3).then(|| random.random_range(300_000..10_000_000)),
        passage: Passage::Open,
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    const ROLES: [Role; 4] = [Role::Root, Role::Cluster(0), Role::Worker(0), Role::Worker(1)];

    fn plan(seed: u64) -> Vec<Fault> {
        let mut random = StdRng::seed_from_u64(seed);
        draw(&mut random, Duration::from_secs(20), &ROLES, &[Role::Root])
    }

    #[test]
    fn the_same_seed_gives_the_same_plan() {
        assert_eq!(plan(1), plan(1));
        assert_ne!(plan(1), plan(2));
    }

    #[test]
    fn faults_fit_their_targets_and_each_other() {
        let mut kinds = std::collections::BTreeSet::new();
        for plan in (0..500).map(plan) {
            assert!(!plan.is_empty());
            for (index, fault) in plan.iter().enumerate() {
                kinds.insert(fault.kind.name());
                assert!(plan[..index].iter().all(|earlier| !earlier.collides(fault)), "{plan:?}");
                assert!(fault.kind != Kind::FillDisk || fault.target == Role::Root);
                let is_of_workers = matches!(fault.kind, Kind::PowerCut | Kind::Move | Kind::Rebind(_));
                assert!(!is_of_workers || matches!(fault.target, Role::Worker(_)));
            }
        }
        assert_eq!(kinds.len(), 10, "{kinds:?}");
    }
}

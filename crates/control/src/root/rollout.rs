//! The next move of a service towards what it should be: so many instances of the right revision.
//!
//! An instance never changes: an update replaces it by one with a new number. `start-first` adds up to `parallel`
//! instances, `stop-first` goes without up to so many. Nothing here is remembered from move to move: each is decided
//! from the instances there are, so a root that was killed in between goes on where it was.

use std::time::Duration;

use oak_model::{InstanceKey, Moment, RolloutState, Service, Status, UpdateOrder};

use super::Instance;

/// Failures of one new instance after which its revision counts as broken.
const FAILURES: u32 = 3;

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// Add instances of the present revision.
    Create(u32),
    /// Take an instance down.
    Remove(InstanceKey),
    /// Begin to replace instances of a revision nobody wants any more.
    Resume,
    /// The update has failed: go back.
    TurnBack(String),
    /// All instances are what they should be.
    Finish,
    /// Nothing now; look again then.
    Wait(Option<Moment>),
    /// Nothing until something is asked for.
    Rest,
}

/// What there is of a service.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Instances of the present revision.
    pub(super) present: Vec<InstanceKey>,
    /// Those of them that have been running for long enough.
    pub(super) ready: u32,
    /// Instances of other revisions that run.
    outdated_up: Vec<InstanceKey>,
    /// Those that do not.
    outdated_down: Vec<InstanceKey>,
    /// Those without a cluster.
    homeless: Vec<InstanceKey>,
    /// Instances that are being taken down.
    leaving: u32,
    /// Why the present revision counts as broken.
    broken: Option<String>,
    /// An instance of the present revision has been waiting for a place for too long.
    no_place: bool,
    /// When waiting changes something.
    next: Option<Moment>,
}

fn count(keys: &[InstanceKey]) -> u32 {
    u32::try_from(keys.len()).unwrap_or(u32::MAX)
}

/// What must be gone before its successor may run.
pub(super) fn is_exclusive(service: &Service) -> bool {
    let from = service.upkeep.rollout.as_ref().and_then(|rollout| rollout.from.as_ref());
    service.spec.at_most_one || from.is_some_and(|from| from.spec.at_most_one)
}

/// What happens first when an instance of this service is replaced.
pub(super) fn order(service: &Service) -> UpdateOrder {
    if is_exclusive(service) { UpdateOrder::StopFirst } else { service.upkeep.policy.order }
}

impl Standing {
    /// Looks at the instances of a service; `is_in_touch` tells whether what is known of one is fresh.
    pub(super) fn of<'a>(
        service: &Service,
        instances: impl Iterator<Item = &'a Instance>,
        is_in_touch: impl Fn(&Instance) -> bool,
        leaving: usize,
        now: Moment,
    ) -> Self {
        let mut standing = Self { leaving: u32::try_from(leaving).unwrap_or(u32::MAX), ..Self::default() };
        for instance in instances {
            if instance.revision == service.upkeep.revision {
                standing.present.push(instance.key);
                standing.count_present(service, instance, is_in_touch(instance), now);
                continue;
            }
            let is_up = instance.ready_since.is_some();
            if is_up { &mut standing.outdated_up } else { &mut standing.outdated_down }.push(instance.key);
            if instance.cluster.is_none() {
                standing.homeless.push(instance.key);
            }
        }
        standing
    }

    fn count_present(&mut self, service: &Service, instance: &Instance, is_in_touch: bool, now: Moment) {
        let policy = service.upkeep.policy;
        let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
        if instance.failures >= FAILURES {
            let (number, failures, detail) = (instance.key.number, instance.failures, &instance.detail);
            self.broken = Some(format!("instance {number} failed {failures} times: {detail}"));
        }
        if instance.ended && instance.ready_since.is_none() {
            self.broken =
                Some(format!("instance {} ended for good: {}", instance.key.number, instance.detail));
            return;
        }
        let at = match instance.ready_since {
            // What a cluster out of touch last said may not be true any more.
            Some(_) if !is_in_touch => return,
            Some(since) => {
                let at = since + seconds(policy.min_ready_s);
                if at <= now {
                    self.ready += 1;
                    return;
                }
                at
            }
            None => {
                let at = instance.unready_since + seconds(policy.deadline_s);
                if at <= now {
                    self.no_place |= !has_place(instance);
                    self.broken = Some(overdue(service, instance));
                    return;
                }
                at
            }
        };
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    fn outdated(&self) -> u32 {
        count(&self.outdated_up).saturating_add(count(&self.outdated_down))
    }

    pub(super) fn all(&self) -> u32 {
        count(&self.present).saturating_add(self.outdated())
    }

    /// Decides what is to be done next.
    pub(super) fn next_move(&self, service: &Service) -> Move {
        match service.upkeep.active().map(|rollout| (rollout.state, rollout.total)) {
            Some((RolloutState::Running, total)) => self.update(service, total),
            Some((_, total)) => self.roll_back(service, total),
            None => self.keep(service),
        }
    }

    fn update(&self, service: &Service, total: u32) -> Move {
        let goes_back = service.upkeep.rollout.as_ref().is_some_and(|rollout| rollout.from.is_some());
        if let Some(reason) = self.broken.as_ref().filter(|_| goes_back) {
            return Move::TurnBack(reason.clone());
        }
        let limits = Limits::of(service, total);
        // One that does not run anyhow is the first to go, but not before there is a new one in its place.
        if self.outdated().saturating_add(self.ready) > limits.least
            && let Some(key) = self.outdated_down.first().or(self.outdated_up.first())
        {
            return Move::Remove(*key);
        }
        if self.outdated() == 0 && self.ready >= total {
            return self.surplus(total).unwrap_or(Move::Finish);
        }
        self.create(service, limits)
    }

    /// Back to a revision that was there before: whether its instances run or not, they are what was there.
    fn roll_back(&self, service: &Service, total: u32) -> Move {
        let limits = Limits::of(service, total);
        if let Some(key) = self.outdated_down.first().filter(|_| self.all() > limits.least) {
            return Move::Remove(*key);
        }
        let up = self.ready.saturating_add(count(&self.outdated_up));
        // On a machine that is full by now the way back may need the room of what is given up.
        let makes_room = self.no_place && self.all() > limits.least;
        if let Some(key) = self.outdated_up.first().filter(|_| makes_room || up > limits.least) {
            return Move::Remove(*key);
        }
        if self.outdated() == 0 && count(&self.present) >= total {
            return self.surplus(total).unwrap_or(Move::Finish);
        }
        // What comes back is not on trial: one that does not run must not hold up the others.
        if count(&self.present) < total && self.is_room(service, limits) {
            return Move::Create(1);
        }
        Move::Wait(self.next)
    }

    fn is_room(&self, service: &Service, limits: Limits) -> bool {
        let leaving = if is_exclusive(service) { self.leaving } else { 0 };
        self.all().saturating_add(leaving) < limits.most
    }

    fn create(&self, service: &Service, limits: Limits) -> Move {
        let present = count(&self.present);
        let unready = present.saturating_sub(self.ready);
        let may_try_another = unready < service.upkeep.policy.parallel;
        if present < limits.total && may_try_another && self.is_room(service, limits) {
            return Move::Create(1);
        }
        Move::Wait(self.next)
    }

    fn surplus(&self, total: u32) -> Option<Move> {
        self.present.last().filter(|_| count(&self.present) > total).map(|key| Move::Remove(*key))
    }

    /// No update: the number is kept, and instances of revisions that were replaced are replaced.
    fn keep(&self, service: &Service) -> Move {
        let upkeep = &service.upkeep;
        if self.outdated() > 0 {
            let too_many = upkeep.known_total().is_some_and(|wanted| self.all() > wanted);
            let homeless = self.homeless.first().filter(|_| too_many);
            return homeless.map_or(Move::Resume, |key| Move::Remove(*key));
        }
        let Some(wanted) = upkeep.replicas else { return Move::Rest };
        let present = count(&self.present);
        match wanted.checked_sub(present) {
            Some(0) => Move::Rest,
            Some(missing) => Move::Create(missing),
            None => self.surplus(wanted).unwrap_or(Move::Rest),
        }
    }
}

/// How far the number of instances may be from what is wanted while they are replaced.
#[derive(Clone, Copy, Debug)]
struct Limits {
    total: u32,
    least: u32,
    most: u32,
}

impl Limits {
    fn of(service: &Service, total: u32) -> Self {
        let parallel = service.upkeep.policy.parallel;
        match order(service) {
            // Of each revision the whole number at most, also when the number was lowered meanwhile: so much was promised.
            UpdateOrder::StartFirst => {
                Self { total, least: total, most: total.saturating_add(parallel.min(total)) }
            }
            UpdateOrder::StopFirst => Self { total, least: total.saturating_sub(parallel), most: total },
        }
    }
}

const fn has_place(instance: &Instance) -> bool {
    instance.worker.is_some() || matches!(instance.status, Status::Failed | Status::Dead)
}

fn overdue(service: &Service, instance: &Instance) -> String {
    let (number, within) = (instance.key.number, service.upkeep.policy.deadline_s);
    let (status, detail) = (instance.status, &instance.detail);
    if has_place(instance) {
        return format!("instance {number} was not ready within {within} s: {status}: {detail}");
    }
    let hint = match order(service) {
        UpdateOrder::StartFirst => "; with `update.order` \"stop-first\" the old instance makes room first",
        UpdateOrder::StopFirst => "",
    };
    format!("instance {number} found no place within {within} s: {status}: {detail}{hint}")
}

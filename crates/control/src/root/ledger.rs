//! What organisations have been promised: kept up to date with every change, so that a quota is checked without a walk
//! over everything.
//!
//! A service is counted with the most that it comes to until it is changed again: the instances there are, those it
//! keeps by itself even if they are still missing, and while it is updated what the update has to spare and what going
//! back would need. So neither an update nor its end ever goes beyond what was checked at its beginning.
//!
//! What nobody asks for is counted and never refused: instances found at clusters, and replacing those of them whose
//! revision nobody remembers. Until that is done an organisation can be beyond its quota, and gets nothing more.

use std::collections::{BTreeMap, HashMap};

use oak_model::sla::ServiceRequest;
use oak_model::{
    Application, InstanceKey, OrganizationId, Revision, RolloutState, Service, ServiceId, ServiceSpec,
    UpdateOrder, UpdatePolicy,
};

use super::rollout::is_exclusive;
use super::{Consumption, OverQuota, Root};

/// What a service comes to, apart from the instances there are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Promise {
    /// One instance of the present revision.
    each: Consumption,
    replicas: Option<u32>,
    update: Option<Underway>,
}

/// An update or a roll back.
#[derive(Clone, Copy, Debug)]
struct Underway {
    /// One instance: of everything as much as any of the revisions has.
    largest: Consumption,
    total: u32,
    /// Instances there may be beyond the total.
    spare: u32,
    /// Instances it would keep after going back.
    back: Option<u32>,
}

impl Promise {
    /// What a service comes to as it is.
    pub(super) fn of(service: &Service) -> Self {
        Self::of_policy(service, service.upkeep.policy)
    }

    /// What a service comes to when it is updated by other rules.
    pub(super) fn of_policy(service: &Service, policy: UpdatePolicy) -> Self {
        let upkeep = &service.upkeep;
        let each = Consumption::of_spec(&service.spec);
        let update = upkeep.active().map(|rollout| {
            // Only what is not being rolled back already can go back.
            let way_back = rollout.from.as_ref().filter(|_| rollout.state == RolloutState::Running);
            let policies = [Some(policy), way_back.map(|from| from.policy)];
            Underway {
                largest: largest(&service.spec, service),
                total: rollout.total,
                spare: if is_exclusive(service) { 0 } else { spare(policies) },
                back: way_back.and_then(|from| from.replicas),
            }
        });
        Self { each, replicas: upkeep.replicas, update }
    }

    /// What a service comes to when it is updated to what is asked for.
    pub(super) fn of_update(service: &Service, request: &ServiceRequest, total: u32) -> Self {
        let upkeep = &service.upkeep;
        let is_exclusive = service.spec.at_most_one || request.spec.at_most_one;
        let update = Underway {
            largest: largest(&request.spec, service),
            total,
            spare: if is_exclusive { 0 } else { spare([Some(request.update), Some(upkeep.policy)]) },
            back: upkeep.replicas,
        };
        let each = Consumption::of_spec(&request.spec);
        Self { each, replicas: request.replicas, update: Some(update) }
    }

    /// What a service comes to when its last update is taken back.
    pub(super) fn of_roll_back(service: &Service, to: &Revision, total: u32) -> Self {
        let update = Underway {
            largest: largest(&to.spec, service),
            total,
            spare: if is_exclusive(service) { 0 } else { spare([Some(to.policy), None]) },
            back: None,
        };
        Self { each: Consumption::of_spec(&to.spec), replicas: to.replicas, update: Some(update) }
    }

    /// The same with another number of instances.
    pub(super) fn with_replicas(self, replicas: u32) -> Self {
        let back = |update: &Underway| update.back.map(|_| replicas);
        let update = self.update.map(|update| Underway { total: replicas, back: back(&update), ..update });
        Self { replicas: Some(replicas), update, ..self }
    }

    /// The same with one instance more. If the service keeps a number, it would keep the new one after going back, too.
    pub(super) fn with_one_more(self) -> Self {
        let replicas = self.replicas.map(|number| number.saturating_add(1));
        let update = self.update.map(|update| Underway {
            total: update.total.saturating_add(1),
            back: update.back.map(|back| replicas.unwrap_or(back)),
            ..update
        });
        Self { replicas, update, ..self }
    }

    /// The same without anything to spare during an update.
    fn without_spare(self) -> Self {
        Self { update: self.update.map(|update| Underway { spare: 0, ..update }), ..self }
    }

    /// Together with the instances there are: of everything the most that there will be at a time.
    fn most(&self, present: &Consumption) -> Consumption {
        let mut most = present.larger(&self.each.times(self.replicas.unwrap_or_default().into()));
        if let Some(update) = self.update {
            // Which revision is larger differs from kind to kind, and all instances may be of either.
            let together = u64::from(update.total) + u64::from(update.spare.min(update.total));
            let at_most = together.max(update.back.unwrap_or_default().into());
            most = most.larger(&update.largest.times(at_most));
        }
        most
    }
}

/// Of everything as much as one of the revisions a service has, or `another` one, asks for.
fn largest(another: &ServiceSpec, service: &Service) -> Consumption {
    let from = service.upkeep.active().into_iter().filter_map(|rollout| rollout.from.as_ref());
    let others = from.chain(&service.upkeep.former).map(|revision| &*revision.spec);
    let all = others.chain([another, &service.spec]).map(Consumption::of_spec);
    all.fold(Consumption::default(), |most, one| most.larger(&one))
}

/// Instances an update may add before it takes others away, whichever of the policies it follows.
fn spare(policies: [Option<UpdatePolicy>; 2]) -> u32 {
    let starts_first = |policy: &UpdatePolicy| policy.order == UpdateOrder::StartFirst;
    policies.into_iter().flatten().filter(starts_first).map(|policy| policy.parallel).max().unwrap_or(0)
}

/// What is promised to one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Account {
    organization: Option<OrganizationId>,
    /// The instances there are, each as its revision.
    present: Consumption,
    /// All of it, the service included.
    promised: Consumption,
}

/// What is promised to all.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    accounts: HashMap<ServiceId, Account>,
    sums: BTreeMap<OrganizationId, Consumption>,
}

impl Ledger {
    /// What there is of a service from now on.
    fn enter(&mut self, id: ServiceId, account: Option<Account>) {
        let former = match account {
            Some(account) => self.accounts.insert(id, account),
            None => self.accounts.remove(&id),
        };
        if former == account {
            return;
        }
        if let Some(former) = former {
            self.change(former.organization, |sum| sum.beyond(&former.promised));
        }
        if let Some(account) = account {
            self.change(account.organization, |sum| sum.plus(&account.promised));
        }
    }

    /// An application is there.
    pub(super) fn admit(&mut self, application: &Application) {
        self.change(application.organization, |sum| sum.plus(&Consumption::of_an_application()));
    }

    /// An application is gone, and its services before it.
    pub(super) fn dismiss(&mut self, application: &Application) {
        self.change(application.organization, |sum| sum.beyond(&Consumption::of_an_application()));
    }

    fn change(&mut self, organization: Option<OrganizationId>, change: impl Fn(&Consumption) -> Consumption) {
        let Some(organization) = organization else { return };
        let sum = change(&self.sum(organization));
        if sum == Consumption::default() {
            self.sums.remove(&organization);
        } else {
            self.sums.insert(organization, sum);
        }
    }

    /// What an organisation has been promised.
    fn sum(&self, organization: OrganizationId) -> Consumption {
        self.sums.get(&organization).copied().unwrap_or_default()
    }
}

impl Root {
    /// What the applications of an organisation come to together.
    #[must_use]
    pub fn consumption(&self, organization: OrganizationId) -> Consumption {
        debug_assert_eq!(
            self.ledger.sum(organization),
            self.counted().sum(organization),
            "the sums are wrong"
        );
        self.ledger.sum(organization)
    }

    /// The sums as a walk over everything finds them.
    pub(super) fn counted(&self) -> Ledger {
        let mut ledger = Ledger::default();
        self.applications.values().for_each(|application| ledger.admit(application));
        for service in self.services.values() {
            ledger.enter(service.id, Some(self.account(service, self.present(service))));
        }
        ledger
    }

    /// Counts everything anew: after a start, and when applications have got another organisation.
    pub(super) fn recount_all(&mut self) {
        self.ledger = self.counted();
    }

    /// A service is there, is gone, or was changed.
    pub(super) fn recount(&mut self, id: ServiceId) {
        let account = self.services.get(&id).map(|service| self.account(service, self.present(service)));
        self.ledger.enter(id, account);
    }

    /// The number of instances that a service keeps was changed, but not what they are.
    pub(super) fn promise_again(&mut self, id: ServiceId) {
        let present = self.ledger.accounts.get(&id).map(|account| account.present).unwrap_or_default();
        let account = self.services.get(&id).map(|service| self.account(service, present));
        self.ledger.enter(id, account);
    }

    /// An instance was created.
    pub(super) fn count_created(&mut self, key: InstanceKey) {
        self.count_instance(key, Consumption::plus);
    }

    /// An instance is about to go.
    pub(super) fn count_removed(&mut self, key: InstanceKey) {
        self.count_instance(key, Consumption::beyond);
    }

    fn count_instance(&mut self, key: InstanceKey, change: fn(&Consumption, &Consumption) -> Consumption) {
        let (Some(instance), Some(service)) = (self.instances.get(&key), self.services.get(&key.service))
        else {
            return;
        };
        let one = Consumption::of_spec(service.spec_of(instance.revision));
        let present = self.ledger.accounts.get(&key.service).map(|account| account.present);
        let account = self.account(service, change(&present.unwrap_or_default(), &one));
        self.ledger.enter(key.service, Some(account));
    }

    fn present(&self, service: &Service) -> Consumption {
        let instances = self.instances_of(service.id);
        let each = instances.map(|instance| Consumption::of_spec(service.spec_of(instance.revision)));
        each.fold(Consumption::default(), |sum, one| sum.plus(&one))
    }

    fn account(&self, service: &Service, present: Consumption) -> Account {
        let promised = Consumption::of_a_service().plus(&Promise::of(service).most(&present));
        Account { organization: self.organization_of(service), present, promised }
    }

    /// Refuses what would go beyond the quota. Costs nothing for organisations without one.
    pub(super) fn check_quota(
        &self,
        organization: Option<OrganizationId>,
        wanted: &Consumption,
    ) -> Result<(), OverQuota> {
        let Some(organization) = organization else { return Ok(()) };
        let Some(quota) = self.quotas.get(&organization) else { return Ok(()) };
        quota.check(&self.consumption(organization), wanted)
    }

    /// Refuses to make more of a service than is left: what it will come to, with so many instances more at once.
    pub(super) fn check_promise(
        &self,
        service: &Service,
        after: Promise,
        created: u32,
    ) -> Result<(), OverQuota> {
        let organization = self.organization_of(service);
        if organization.is_none_or(|id| !self.quotas.contains_key(&id)) {
            return Ok(());
        }
        let account = self.ledger.accounts.get(&service.id).copied().unwrap_or_default();
        let revision = service.upkeep.proven_revision();
        let more = Consumption::of_spec(service.spec_of(revision)).times(created.into());
        let present = account.present.plus(&more);
        let check = |after: Promise| {
            let promised = Consumption::of_a_service().plus(&after.most(&present));
            self.check_quota(organization, &promised.beyond(&account.promised))
        };
        let refused = check(after);
        let only_spare = refused.is_err() && check(after.without_spare()).is_ok();
        refused.map_err(|over| OverQuota { only_spare, ..over })
    }

    pub(super) fn organization_of(&self, service: &Service) -> Option<OrganizationId> {
        self.applications.get(&service.application)?.organization
    }
}

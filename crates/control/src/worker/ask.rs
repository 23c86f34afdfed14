//! Questions: somebody here calls what is not known here.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use oak_model::message::{Assignment, WorkerToCluster};
use oak_model::overlay::{Backend, Target};
use oak_model::{ApplicationId, Moment, Now, ServiceId};

use super::{Effect, Tenant, Worker, Workload};

/// An answer takes one round trip, two if the root is asked. After this it is assumed that none comes.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long somebody who calls what does not exist is refused without asking again.
const REFUSED_FOR: Duration = Duration::from_secs(5);

/// The same when nobody answered.
const UNANSWERED_FOR: Duration = Duration::from_secs(2);

/// Services that are called from one node: one that calls everything shall not be told of everything.
const CALLED: usize = 4_096;

/// Questions and refusals that are remembered: a program that tries all addresses shall not fill the memory.
const REMEMBERED: usize = 1_024;

/// Somebody waits for an answer.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) callers: BTreeSet<Option<ServiceId>>,
    pub(super) until: Moment,
}

/// What is known of something somebody calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The question is under way.
    Pending,
    /// This service.
    Service(ServiceId),
    /// There is none.
    NotFound,
}

impl Worker {
    /// Somebody with this address calls something that may be unknown here.
    pub fn ask(&mut self, now: Now, source: Ipv4Addr, target: Target) {
        let caller = self.caller(source);
        let tenant = self.tenant_of(caller);
        let known = self.find(&target, caller);
        if let Some(callee) = known {
            if self.calls_already(caller, callee) {
                return;
            }
            self.remember_call(caller, callee);
        } else if self.overlay.refused.contains_key(&(target.clone(), tenant))
            || self.overlay.calls.len() >= CALLED
        {
            return;
        } else if let Some(question) = self.overlay.questions.get_mut(&target) {
            if !question.callers.insert(caller) {
                return;
            }
        } else if self.overlay.questions.len() < REMEMBERED {
            let question = Question { callers: BTreeSet::from([caller]), until: now.moment + PATIENCE };
            self.overlay.questions.insert(target.clone(), question);
        } else {
            return;
        }
        self.outbox.emit(Effect::ToCluster(WorkerToCluster::Ask { caller, target }));
        self.update_network();
    }

    /// What became of a question.
    #[must_use]
    pub fn answer(&self, target: &Target, application: Option<ApplicationId>) -> Answer {
        let tenant = self.tenant_of_application(application);
        if let Some(service) = self.find_in(target, application, tenant) {
            return Answer::Service(service);
        }
        if self.overlay.refused.contains_key(&(target.clone(), tenant)) {
            return Answer::NotFound;
        }
        if self.overlay.questions.contains_key(target) { Answer::Pending } else { Answer::NotFound }
    }

    /// The application of the instance with this address.
    #[must_use]
    pub fn application_at(&self, source: Ipv4Addr) -> Option<ApplicationId> {
        let here = |workload: &&Workload| workload.address() == Some(source);
        self.workloads.values().find(here).map(|workload| workload.assignment().desired.application)
    }

    fn caller(&self, source: Ipv4Addr) -> Option<ServiceId> {
        let here = |workload: &&Workload| workload.address() == Some(source);
        self.workloads.values().find(here).map(|workload| workload.key().service)
    }

    fn calls_already(&self, caller: Option<ServiceId>, callee: ServiceId) -> bool {
        self.overlay.calls.get(&callee).is_some_and(|callers| callers.contains(&caller))
    }

    fn find(&self, target: &Target, caller: Option<ServiceId>) -> Option<ServiceId> {
        let of_caller = |workload: &&Workload| Some(workload.key().service) == caller;
        let application = self.workloads.values().find(of_caller).map(|w| w.assignment().desired.application);
        self.find_in(target, application, self.tenant_of(caller))
    }

    /// Among the services that are open: those that were told, and those with instances here that somebody called. What
    /// is not for a tenant does not exist for it.
    fn find_in(
        &self,
        target: &Target,
        application: Option<ApplicationId>,
        tenant: Tenant,
    ) -> Option<ServiceId> {
        let told = self.overlay.services.values().filter(|service| match target {
            Target::Address(address) => {
                let is_instance = |backend: &Backend| backend.instance_address == *address;
                service.has_address(*address) || self.overlay.backends_of(service.id).any(is_instance)
            }
            Target::Name(name) => service.job_name.is_dns_name(name),
        });
        let told = told.filter(|service| tenant.may_call(service.organization, service.exported));
        let told = told.map(|service| (Some(service.application) == application, service.id));
        let here = self.hosted(target, tenant).filter(|(_, service)| self.is_open(*service));
        told.chain(here.map(|(of, service)| (Some(of) == application, service))).max().map(|(_, id)| id)
    }

    /// Services with instances here that a tenant may call.
    fn hosted<'a>(
        &'a self,
        target: &'a Target,
        tenant: Tenant,
    ) -> impl Iterator<Item = (ApplicationId, ServiceId)> + 'a {
        let assignments = self.workloads.values().map(Workload::assignment);
        let may_call = move |assignment: &&Assignment| {
            tenant.may_call(assignment.organization, assignment.desired.spec.exported)
        };
        let desired = assignments.filter(may_call).map(|assignment| &assignment.desired);
        let meant = desired.filter(move |desired| match target {
            Target::Address(address) => desired.addresses().any(|(_, own)| own == *address),
            Target::Name(name) => desired.job_name.is_dns_name(name),
        });
        meant.map(|desired| (desired.application, desired.key.service))
    }

    /// Asks again what the former session may have lost.
    pub(super) fn repeat_questions(&mut self) {
        for (target, question) in &self.overlay.questions {
            for caller in &question.callers {
                let ask = WorkerToCluster::Ask { caller: *caller, target: target.clone() };
                self.outbox.emit(Effect::ToCluster(ask));
            }
        }
    }

    /// Calls that were waiting for what is known now.
    pub(super) fn answer_questions(&mut self) {
        let targets: Vec<Target> = self.overlay.questions.keys().cloned().collect();
        for target in targets {
            let callers = self.overlay.questions.get(&target).map(|question| question.callers.clone());
            for caller in callers.unwrap_or_default() {
                if let Some(callee) = self.find(&target, caller) {
                    self.remember_call(caller, callee);
                    self.overlay.questions.remove(&target);
                }
            }
        }
    }

    /// The cluster knows no such service.
    pub(super) fn not_found(&mut self, now: Now, target: Target) {
        let Some(question) = self.overlay.questions.get(&target) else { return };
        let tenants: BTreeSet<Tenant> =
            question.callers.iter().map(|caller| self.tenant_of(*caller)).collect();
        // The answer does not say whom it is for: what one tenant may not call may be another's own. Without a further
        // answer the question ends by itself.
        if let (Some(tenant), 1) = (tenants.first(), tenants.len()) {
            self.overlay.questions.remove(&target);
            self.refuse(target, *tenant, now.moment + REFUSED_FOR);
        }
    }

    fn refuse(&mut self, target: Target, tenant: Tenant, until: Moment) {
        if self.overlay.refused.len() < REMEMBERED {
            self.overlay.refused.insert((target, tenant), until);
        }
        self.outbox.emit(Effect::Answered);
    }

    /// When questions or refusals end.
    pub(super) fn overlay_deadline(&self) -> Option<Moment> {
        let questions = self.overlay.questions.values().map(|question| question.until);
        questions.chain(self.overlay.refused.values().copied()).min()
    }

    /// Questions nobody answered are answered from what is here.
    pub(super) fn tick_overlay(&mut self, now: Now) {
        if self.overlay_deadline().is_none_or(|at| at > now.moment) {
            return;
        }
        let due = |at: Moment| at <= now.moment;
        let unanswered: Vec<Target> = (self.overlay.questions.iter())
            .filter(|(_, question)| due(question.until))
            .map(|(target, _)| target.clone())
            .collect();
        for target in unanswered {
            let callers = self.overlay.questions.remove(&target).map(|question| question.callers);
            for caller in callers.unwrap_or_default() {
                let tenant = self.tenant_of(caller);
                let hosted = self.hosted(&target, tenant).next();
                let Some((_, service)) = hosted else {
                    self.refuse(target.clone(), tenant, now.moment + UNANSWERED_FOR);
                    continue;
                };
                self.remember_call(caller, service);
                // The question may have been lost with a session, and the next one may have begun before this.
                let target = target.clone();
                self.outbox.emit(Effect::ToCluster(WorkerToCluster::Ask { caller, target }));
            }
            self.outbox.emit(Effect::Answered);
        }
        self.overlay.refused.retain(|_, until| *until > now.moment);
        self.update_network();
    }
}

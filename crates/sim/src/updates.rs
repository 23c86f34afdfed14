//! Users that scale services and update them, also to what does not run; and what an update may cost.

use std::collections::HashMap;

use oak_model::sla::ServiceRequest;
use oak_model::{InstanceKey, Service, ServiceId, UpdateOrder, UpdatePolicy};

use crate::agenda::Event;
use crate::client::{Answer, Known};
use crate::invariants::{AT_MOST_ONE, Checked, UPDATES, require};
use crate::node::Reply;
use crate::scenario::Churn;
use crate::world::World;

/// End of the name of an image whose containers cannot be started.
pub(crate) const BROKEN: &str = "-broken";
/// End of the name of an image whose process ends soon.
pub(crate) const EXITS: &str = "-exits";

/// After the last change, services that were left broken are mended this often, milliseconds.
const MEND_MS: u64 = 3_000;

/// How many such looks have to find nothing when the root has forgotten everything: it learns from its clusters what is
/// broken, and they may take this long to come back.
const GOOD_LOOKS: u32 = 20;

/// What becomes of a new image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quality {
    Good,
    Broken,
}

fn is_broken(service: &Service) -> bool {
    service.spec.image.ends_with(BROKEN) || service.spec.image.ends_with(EXITS)
}

/// Instances an update may go without. A rollback begins with what the failed update did under its own policy.
fn missing_at_most(service: &Service) -> usize {
    let from = service.upkeep.rollout.iter().filter_map(|rollout| rollout.from.as_ref());
    let policies = from.map(|from| from.policy).chain([service.upkeep.policy]);
    policies.map(|policy| policy.parallel as usize).max().unwrap_or(1)
}

impl World {
    pub(crate) fn scale_something(&mut self, churn: &Churn) {
        let services = self.client.open_services.len();
        if services == 0 {
            return;
        }
        let place = self.agenda.pick(services);
        let count = usize::try_from(self.agenda.between(0, 4)).unwrap_or(0);
        let full = self
            .root
            .machine
            .as_ref()
            .is_none_or(|root| root.instance_count() + count > churn.most_instances);
        if let Some(service) = self.client.open_services.get(place).filter(|_| !full) {
            self.scale_service(service, count);
        }
    }

    pub(crate) fn scale_service(&mut self, service: ServiceId, count: usize) {
        let Ok(replicas) = u32::try_from(count) else { return };
        self.leave_to_itself(service);
        self.root.call(&mut self.agenda, |root, now, _| {
            root.scale(now, service, replicas).ok()?;
            let present = root.instances_of(service).map(|instance| instance.key).collect();
            Some(Reply::Client(Answer::Scaled(service, count, present)))
        });
    }

    /// Which instances it has is not the user's to know any more.
    fn leave_to_itself(&mut self, service: ServiceId) {
        if self.root.machine.is_some() {
            self.forget_wishes(service);
            self.client.manages_itself(service);
        }
    }

    pub(crate) fn update_something(&mut self, quality: Quality) {
        let services = self.client.open_services.len();
        if services == 0 {
            return;
        }
        let place = self.agenda.pick(services);
        let Some(service) = self.client.open_services.get(place) else { return };
        // With nothing to replace the broken revision would simply be the new one.
        let instances = self.root.machine.as_ref().map_or(0, |root| root.instances_of(service).count());
        if quality == Quality::Broken && instances == 0 {
            return;
        }
        self.update_service(service, quality);
    }

    /// An update of the timeline. From now on the workload keeps its number by itself.
    pub(crate) fn update_workload(&mut self, name: &str, quality: Quality) {
        let Some((_, service, _)) = self.workload(name) else { return };
        self.update_service(service, quality);
        self.wish_again(name);
    }

    fn wish_again(&mut self, name: &str) {
        if let Some((_, _, instances)) = self.workload(name) {
            self.wish(name, Some(instances));
        }
    }

    fn update_service(&mut self, service: ServiceId, quality: Quality) {
        self.leave_to_itself(service);
        let number = self.agenda.number();
        let end = match quality {
            Quality::Good => "",
            Quality::Broken if self.agenda.chance(0.5) => BROKEN,
            Quality::Broken => EXITS,
        };
        let parallel = u32::try_from(self.agenda.between(1, 2)).unwrap_or(1);
        let stop_first = self.agenda.chance(0.3);
        self.root.call(&mut self.agenda, |root, now, _| {
            let found = root.service(service)?;
            let mut spec = (*found.spec).clone();
            spec.image = format!("registry.example/image:{number}{end}");
            let order =
                if stop_first || spec.at_most_one { UpdateOrder::StopFirst } else { UpdateOrder::StartFirst };
            let request = ServiceRequest {
                name: found.job_name.service.clone(),
                namespace: found.job_name.service_namespace.clone(),
                spec,
                replicas: found.upkeep.replicas,
                update: UpdatePolicy { order, parallel, min_ready_s: 5, deadline_s: 40 },
                document: found.document.clone(),
            };
            // Another update may be under way, or all addresses in use.
            root.change_service(now, service, request).ok()?;
            None
        });
    }

    /// No more changes: what was left with an image that does not run gets one that does.
    pub(crate) fn mend(&mut self) {
        let services = || self.root.machine.iter().flat_map(|root| root.services());
        let broken: Vec<_> = services().filter(|service| is_broken(service)).map(|s| s.id).collect();
        // An update that fails comes back to what it was to replace, which may not run either.
        let is_updating = services().any(|service| service.upkeep.active().is_some());
        if broken.is_empty() && !is_updating && self.root.machine.is_some() {
            self.client.good_looks += 1;
            if !self.client.root_has_forgotten || self.client.good_looks >= GOOD_LOOKS {
                return;
            }
        }
        for service in broken {
            self.update_service(service, Quality::Good);
        }
        self.agenda.after(MEND_MS, Event::Churn);
    }

    /// While instances are replaced there are never fewer of them than the policy allows, nor more.
    pub(crate) fn update_keeps_to_its_policy(&self, id: ServiceId) -> Checked {
        let Some(root) = self.root.machine.as_ref().filter(|_| !self.client.root_has_forgotten) else {
            return Ok(());
        };
        let Some(service) = root.service(id) else { return Ok(()) };
        let Some(rollout) = service.upkeep.active() else { return Ok(()) };
        let (total, parallel) = (rollout.total as usize, missing_at_most(service));
        let count = root.instances_of(id).count();
        require(count + parallel >= total, UPDATES, || {
            format!("{count} of {total} instances of {} are left", self.service_name(id))
        })?;
        let at_most_one =
            service.spec.at_most_one && rollout.from.as_ref().is_some_and(|f| f.spec.at_most_one);
        require(!at_most_one || count <= total, UPDATES, || {
            format!("{count} instances of {}, of which only {total} may be", self.service_name(id))
        })
    }

    /// When nothing else goes wrong, as many processes of a workload run as its updates allow; and of one of which at
    /// most one may run never more than are wanted.
    pub(crate) fn updates_take_nothing_away(&mut self) -> Checked {
        if self.scenario.random.is_some() || self.client.managed.is_empty() {
            return Ok(());
        }
        let mut running: HashMap<ServiceId, usize> = HashMap::new();
        let keys = self.workers.iter().flat_map(|side| side.runtime.running().map(|(key, _)| *key));
        keys.for_each(|InstanceKey { service, .. }| *running.entry(service).or_default() += 1);
        let names: Vec<_> = self.scenario.workloads.iter().map(|w| (w.name.clone(), w.at_most_one)).collect();
        for (name, at_most_one) in names {
            let Some((_, service, wanted)) = self.workload(name.as_str()) else { continue };
            let runs = running.get(&service).copied().unwrap_or(0);
            require(!at_most_one || runs <= wanted, AT_MOST_ONE, || format!("{runs} of {name} run"))?;
            let policy = self.root.machine.as_ref().and_then(|root| root.service(service));
            let Some(parallel) = policy.map(missing_at_most) else { continue };
            if self.watch.complete.get(&service) == Some(&wanted) {
                require(runs + parallel >= wanted, UPDATES, || format!("{runs} of {wanted} of {name} run"))?;
            } else if runs >= wanted && self.client.services.get(&service) == Some(&Known::Exists) {
                self.watch.complete.insert(service, wanted);
            }
        }
        Ok(())
    }
}

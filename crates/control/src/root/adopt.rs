//! Taking over what clusters hold and this root does not know: applications that were deployed at a cluster while it
//! was cut off, and everything when the root has lost its disk or was put back to an older state.
//!
//! ```text
//!  another life of the root:  hello(lineage) → welcome(take_over) → holdings → import → Welcome, complete
//!  local applications:        … welcome      →                      holdings → import → Records, Set …, Adopted
//! ```
//!
//! What was taken over is remembered until the cluster has heard of it: an application that is deleted here in
//! between must not come back with the next hello.
//!
//! A root that was put back to an older state *awaits* what each of its clusters holds before it places anything, but not
//! for ever: after the time after which a cluster counts as lost it goes on without those that stay away. Only of what may
//! run at most once it takes nothing for granted: that waits until the cluster is back or is removed.

use std::collections::BTreeSet;
use std::time::Duration;

use oak_model::message::{ClusterHello, HeldInstance, Holdings, InstanceReport, Lineage, RootToCluster};
use oak_model::{Application, ApplicationId, ClusterId, InstanceKey, JobName, Name, Now, Service, ServiceId};

use super::events::Before;
use super::tenants::FullName;
use super::{Cluster, Instance, Root};
use crate::{Entropy, Table};

/// Numbers of instances up to this are believed; a cluster that claims more could drive the counter to its end.
const LARGEST_NUMBER: u32 = 1 << 31;

/// How long a restored root waits for a cluster if clusters are never given up.
const PATIENCE: Duration = Duration::from_secs(300);

impl Root {
    /// Gives this root a number when it starts for the first time, and another life when it was put back to an
    /// older state.
    /// Events are numbered anew in a new life.
    pub fn begin_life(&mut self, now: Now, entropy: &mut dyn Entropy, was_restored: bool) {
        let lineage = match self.meta.lineage {
            Some(lineage) if was_restored => Lineage { restored: lineage.restored + 1, ..lineage },
            Some(_) => return,
            None => Lineage { root: entropy.next_u64(), restored: 0 },
        };
        self.meta.lineage = Some(lineage);
        self.asks_since = now.moment;
        self.history.begin_life(now.wall, &mut self.outbox);
        self.save_meta();
    }

    /// Whether a cluster followed another life of the root and holds what this one may not know.
    pub(super) fn must_take_over(&mut self, now: Now, id: ClusterId, hello: &ClusterHello) -> bool {
        let (Some(theirs), Some(ours)) = (hello.lineage, self.meta.lineage) else { return false };
        if theirs == ours && hello.generation > self.meta.generation {
            // Nobody said so, but this disk is older than what the cluster was told.
            self.meta.lineage = Some(Lineage { restored: ours.restored + 1, ..ours });
            self.asks_since = now.moment;
            self.history.begin_life(now.wall, &mut self.outbox);
            self.save_meta();
        }
        let ours = self.meta.lineage;
        Some(theirs) != ours && self.clusters.get(&id).is_some_and(|cluster| cluster.taken_over != ours)
    }

    /// The clusters that may have instances of a service of which this life of the root does not know yet. Nothing of it
    /// may be placed before they have told, or are not waited for any longer: what waited for a place when the backup was
    /// made may have got one afterwards.
    pub(super) fn awaited(&self, now: Now, service: &Service) -> impl Iterator<Item = &Cluster> {
        let is_waiting = service.spec.at_most_one || self.is_patient(now);
        let lineage = self.meta.lineage.filter(|lineage| lineage.restored > 0 && is_waiting);
        self.clusters
            .values()
            .filter(move |cluster| lineage.is_some_and(|lineage| !cluster.is_known_in(lineage)))
    }

    /// A root without memory hears from a cluster what there is. Others may follow.
    fn learns(&mut self, now: Now) {
        if self.learning(now).is_none() {
            self.asks_since = now.moment;
        }
        self.meta.learns = true;
    }

    /// What a root without memory waits for, for people; `None` if it does not. It begins to wait anew when it is started
    /// again, because no clock says how long that took.
    pub(super) fn learning(&self, now: Now) -> Option<String> {
        let left = self.patience().saturating_sub(now.moment - self.asks_since);
        (self.meta.learns && !left.is_zero()).then(|| {
            let left = left.as_secs();
            format!(
                "this root had lost its memory: it waits {left} s more for clusters that may have some of it"
            )
        })
    }

    /// Clusters that were not heard of until now are not waited for any longer.
    pub(super) fn stop_learning(&mut self, now: Now) {
        if self.meta.learns && self.learning(now).is_none() {
            self.meta.learns = false;
            self.save_meta();
        }
    }

    /// What is waited for, for people; `None` if nothing is.
    pub(super) fn awaits(&self, now: Now, service: &Service) -> Option<String> {
        let names: Vec<_> = self.awaited(now, service).map(|cluster| cluster.name.as_str()).collect();
        let end = if service.spec.at_most_one {
            "at most one may run, so it waits until that is back or is removed".to_owned()
        } else {
            format!("it waits for at most {} s", self.patience().as_secs())
        };
        let names = names.join(", ");
        (!names.is_empty()).then(|| {
            format!(
                "this root was restored from a backup and does not know yet what cluster {names} has of it; {end}"
            )
        })
    }

    /// Whether clusters are still waited for.
    pub(super) fn is_patient(&self, now: Now) -> bool {
        now.moment - self.asks_since < self.patience()
    }

    /// How long they are: as long as they may be away before their instances are placed elsewhere.
    pub(super) fn patience(&self) -> Duration {
        self.settings.cluster_lost_after.unwrap_or(PATIENCE)
    }

    /// Marks as used what a cluster has given out, and gives it a block of service addresses if it has none.
    pub(super) fn settle_blocks(&mut self, id: ClusterId, hello: &ClusterHello) {
        let Some(cluster) = self.clusters.get_mut(&id) else { return };
        for block in &hello.node_blocks {
            if !cluster.node_blocks.contains(block) && self.node_blocks.claim(*block) {
                cluster.node_blocks.push(*block);
            }
        }
        if cluster.local_block.is_none() {
            let theirs = hello.local_block.filter(|block| self.addresses.claim_block(*block));
            cluster.local_block = theirs.or_else(|| self.addresses.reserve_block());
        }
        cluster.adopted.retain(|application| hello.local.contains(application));
        cluster.authority.clone_from(&hello.authority);
    }

    /// A cluster sent what it holds.
    pub(super) fn holdings_received(&mut self, now: Now, id: ClusterId, holdings: Holdings) {
        let Some(cluster) = self.clusters.get_mut(&id) else { return };
        let everything = std::mem::take(&mut cluster.asked_for_holdings);
        if everything {
            cluster.taken_over = self.meta.lineage;
            cluster.known_in = self.meta.lineage;
            self.learns(now);
            self.import(now, id, holdings, &BTreeSet::new());
            self.save_cluster(id);
            let generation = self.next_generation();
            let welcome = self.welcome(now, id, generation);
            self.send(id, RootToCluster::Welcome(Box::new(welcome)));
        } else {
            self.adopt_local(now, id, holdings);
        }
    }

    fn adopt_local(&mut self, now: Now, id: ClusterId, mut holdings: Holdings) {
        let keys: Vec<_> = holdings.instances.iter().map(|held| held.desired.key).collect();
        self.keep_own(id, &mut holdings);
        let Some(cluster) = self.clusters.get_mut(&id) else { return };
        let ids: Vec<_> = holdings.applications.iter().map(|application| application.id).collect();
        // Taken over before and not here any more: deleted meanwhile.
        let deleted: BTreeSet<_> = ids
            .iter()
            .copied()
            .filter(|application| cluster.adopted.contains(application))
            .filter(|application| !self.applications.contains_key(application))
            .collect();
        cluster.adopted.extend(&ids);
        self.import(now, id, holdings, &deleted);
        self.save_cluster(id);
        self.send_records(id, &keys);
        for key in keys {
            if self.instances.get(&key).is_some_and(|instance| instance.moving) {
                // It has been told to leave; wishing for it again under the same number would call it back.
                continue;
            }
            let here = self.instances.get(&key).filter(|instance| instance.cluster == Some(id));
            let wish = here.and_then(|instance| self.wish(instance.key));
            match wish {
                Some(desired) => self.send(id, RootToCluster::Set(desired)),
                None => {
                    let generation = self.next_generation();
                    self.send(id, RootToCluster::Remove { key, generation });
                }
            }
        }
        self.send(id, RootToCluster::Adopted(ids));
    }

    /// Only what was made at this cluster is taken over from it: nothing it says changes the applications of others, nor
    /// puts anything into them.
    fn keep_own(&self, id: ClusterId, holdings: &mut Holdings) {
        let Some(cluster) = self.clusters.get(&id) else { return };
        let is_own = |application: &ApplicationId| {
            cluster.adopted.contains(application) || !self.applications.contains_key(application)
        };
        holdings.applications.retain(|application| is_own(&application.id));
        let own: BTreeSet<_> = holdings.applications.iter().map(|application| application.id).collect();
        let is_foreign = |service: &ServiceId, application: &ApplicationId| {
            self.services.get(service).is_some_and(|known| known.application != *application)
        };
        holdings.services.retain(|service| {
            own.contains(&service.application) && !is_foreign(&service.id, &service.application)
        });
        holdings.instances.retain(|held| {
            let application = &held.desired.application;
            own.contains(application) && !is_foreign(&held.desired.key.service, application)
        });
    }

    /// Tells a cluster what instances belong to.
    pub(super) fn send_records(&mut self, id: ClusterId, keys: &[InstanceKey]) {
        let (applications, services) = self.records_of(keys.iter().copied());
        if !services.is_empty() {
            self.send(id, RootToCluster::Records { applications, services });
        }
    }

    /// Applications and services of instances, each once.
    pub(super) fn records_of(
        &self,
        keys: impl Iterator<Item = InstanceKey>,
    ) -> (Vec<Application>, Vec<Service>) {
        let services: BTreeSet<ServiceId> = keys.map(|key| key.service).collect();
        let services: Vec<_> = services.iter().filter_map(|id| self.services.get(id)).cloned().collect();
        let applications: BTreeSet<ApplicationId> =
            services.iter().map(|service| service.application).collect();
        let applications = applications.iter().filter_map(|id| self.applications.get(id)).cloned().collect();
        (applications, services)
    }

    fn import(&mut self, now: Now, id: ClusterId, holdings: Holdings, deleted: &BTreeSet<ApplicationId>) {
        for application in holdings.applications {
            if !deleted.contains(&application.id) {
                self.import_application(application);
            }
        }
        for service in holdings.services {
            self.import_service(service);
        }
        for held in holdings.instances {
            self.import_instance(now, id, held);
        }
        self.save_meta();
        self.look_at_all(now);
        self.retry_soon(now);
    }

    /// An application whose name is taken meanwhile gets a number behind its name: what runs must not be lost.
    fn import_application(&mut self, mut application: Application) {
        if self.applications.contains_key(&application.id) {
            return;
        }
        application.services.clear();
        let wanted = application.name.clone();
        let mut number = 2;
        self.tenants.house(&mut application);
        while self.application_names.contains_key(&FullName::of(&application)) {
            match numbered(&wanted, number) {
                Some(name) => application.name = name,
                None => return,
            }
            number += 1;
        }
        self.application_names.insert(FullName::of(&application), application.id);
        self.outbox.put(Table::Application, application.id, &application);
        self.ledger.admit(&application);
        self.applications.insert(application.id, application);
    }

    fn import_service(&mut self, mut service: Service) {
        service.next_number = service.next_number.min(LARGEST_NUMBER);
        if service.upkeep.highest >= LARGEST_NUMBER || service.upkeep.revision > service.upkeep.highest {
            return;
        }
        service.upkeep.bound();
        if let Some(known) = self.services.get_mut(&service.id) {
            if known.upkeep.highest < service.upkeep.highest {
                // It was updated after the state of this root was saved.
                let present = known.present();
                known.spec = service.spec;
                known.document = service.document;
                known.upkeep = service.upkeep;
                if known.upkeep.other(present.number).is_none() && present.number != known.upkeep.revision {
                    known.upkeep.former.push(present);
                }
                self.outbox.put(Table::Service, service.id, &*known);
            }
            if known.next_number < service.next_number {
                known.next_number = service.next_number;
                self.outbox.put(Table::Service, service.id, &*known);
            }
            self.know_links(service.id);
            self.recount(service.id);
            return;
        }
        if !self.applications.contains_key(&service.application) {
            return;
        }
        if self.claim_addresses(&mut service).is_none() {
            return;
        }
        let Some(application) = self.applications.get_mut(&service.application) else { return };
        service.job_name = JobName {
            application: application.name.clone(),
            application_namespace: application.namespace.clone(),
            ..service.job_name
        };
        application.services.push(service.id);
        self.outbox.put(Table::Application, application.id, application);
        self.outbox.put(Table::Service, service.id, &service);
        self.linked.know(&service);
        let id = service.id;
        self.services.insert(id, service);
        self.recount(id);
    }

    fn import_instance(&mut self, now: Now, id: ClusterId, held: HeldInstance) {
        let HeldInstance { desired, report } = held;
        let key = desired.key;
        if self.departures.contains_key(&key) || key.number >= LARGEST_NUMBER {
            return;
        }
        if let Some(known) = self.instances.get(&key) {
            let is_same = known.address == desired.instance_address;
            if known.cluster.is_none() && is_same {
                // It got its place after the state of this root was saved.
                self.found_at(now, key, id, report);
            } else if known.cluster != Some(id) && is_same && known.generation < desired.generation {
                self.found_elsewhere(now, key, id, report);
            } else if known.cluster != Some(id) && known.address != desired.instance_address {
                // Two sides have given the same number to different instances; the other one stays, and this one
                // is deployed anew.
                let revision = known.revision;
                let _ = self.create_instance(now, key.service, revision);
            }
            return;
        }
        let Some(service) = self.services.get_mut(&key.service) else { return };
        if service.next_number <= key.number {
            service.next_number = key.number + 1;
            self.outbox.put(Table::Service, service.id, service);
        }
        let claimed = self.addresses.claim(desired.instance_address).then_some(desired.instance_address);
        let Some(address) = claimed.or_else(|| self.addresses.allocate()) else { return };
        let revision = self.revision_of_held(key, &desired.spec);
        let instance = Instance::new(key, revision, self.meta.generation, address, now);
        self.instances.insert(key, instance);
        self.recount(key.service);
        self.found_at(now, key, id, report);
    }

    /// A restored root remembers an instance in a cluster that does not have it: it may have moved to another one since.
    pub(super) fn take_back(&mut self, id: ClusterId, key: InstanceKey) {
        let here = |instance: &&mut Instance| instance.cluster == Some(id) && !instance.moving;
        if self.instances.get_mut(&key).filter(here).is_none() {
            return;
        }
        self.count(key, None);
        self.forget_in_cluster(id, key);
        if let Some(instance) = self.instances.get_mut(&key) {
            instance.cluster = None;
            instance.worker = None;
        }
        self.pending.insert(key);
        self.save_instance(key);
    }

    /// An instance was moved to another cluster after the state of this root was saved: the wish that cluster follows is
    /// newer than the one this root remembers.
    fn found_elsewhere(&mut self, now: Now, key: InstanceKey, id: ClusterId, report: InstanceReport) {
        self.count(key, None);
        let Some(instance) = self.instances.get_mut(&key) else { return };
        instance.moving = false;
        let former = instance.cluster;
        self.found_at(now, key, id, report);
        if let Some(former) = former {
            self.forget_in_cluster(former, key);
            let generation = self.next_generation();
            self.send(former, RootToCluster::Remove { key, generation });
        }
    }

    /// An instance that looks for a place has one.
    fn found_at(&mut self, now: Now, key: InstanceKey, id: ClusterId, report: InstanceReport) {
        self.pending.remove(key);
        let generation = self.next_generation();
        let worker = report.worker;
        let Some(instance) = self.instances.get_mut(&key) else { return };
        instance.generation = generation;
        instance.cluster = Some(id);
        let before = Before::of(instance);
        instance.observe(report, now);
        if let Some(cluster) = self.clusters.get_mut(&id) {
            cluster.instances.insert(key);
        }
        self.count(key, worker);
        self.save_instance(key);
        self.tell_report(now.wall, key, &before);
    }
}

/// A name with a number behind it, still short enough.
fn numbered(name: &Name, number: u32) -> Option<Name> {
    let digits = number.to_string();
    let kept: String = name.to_string().chars().take(30 - digits.len()).collect();
    format!("{kept}{digits}").parse().ok()
}

//! Clusters: sessions, what they report, what they are told.

use std::collections::{HashMap, HashSet};

use oak_model::message::{
    ClusterHello, ClusterToRoot, ClusterWelcome, DesiredInstance, InstanceReport, RootToCluster, UsageReport,
    WorkerSummary, WorkerToken,
};
use oak_model::{Availability, ClusterId, EventKind, Generation, InstanceKey, Now, Status, WallTime};
use oak_placement::{Fleet, WorkerState};

use super::events::{Before, availability_word};
use super::state::{HistorySample, push_sample};
use super::{Effect, Root};
use crate::Table;
use crate::counter::LARGEST_LEAP;
use crate::token::TokenRole;

/// Something an operator should know; the shell logs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attention {
    /// A cluster speaks that is not registered (any more).
    UnknownCluster(ClusterId),
    /// There are no address blocks left for workers.
    NodeBlocksExhausted,
}

/// The cluster gives its workers further addresses when they need them.
const ADDRESSES_PER_WORKER: u32 = u32::MAX;

impl Root {
    /// A cluster connected. Answers with everything it shall run.
    ///
    /// # Errors
    /// The cluster is not registered; its session must be refused.
    pub fn cluster_opened(
        &mut self,
        now: Now,
        id: ClusterId,
        session: u64,
        address: &str,
        hello: ClusterHello,
    ) -> Result<(), Attention> {
        if !self.clusters.contains_key(&id) {
            return Err(Attention::UnknownCluster(id));
        }
        let take_over = self.must_take_over(now, id, &hello);
        self.settle_blocks(id, &hello);
        let lineage = self.meta.lineage;
        let Some(cluster) = self.clusters.get_mut(&id) else {
            return Err(Attention::UnknownCluster(id));
        };
        let is_new = cluster.last_seen == WallTime(0) && cluster.lost_since.is_none();
        cluster.session = Some(session);
        cluster.asked_for_holdings = take_over;
        if !take_over {
            cluster.known_in = lineage;
        }
        cluster.lost_since = None;
        cluster.given_up = false;
        cluster.last_seen = now.wall;
        cluster.location.clone_from(&hello.location);
        address.clone_into(&mut cluster.address);
        cluster.port = hello.port;
        cluster.relay.clone_from(&hello.relay);
        cluster.fleet = Fleet::new();
        // After a start of this root nothing is known of them, and what was there before is no event.
        let known = std::mem::take(&mut cluster.workers);
        cluster.usage.clear();
        let members: Vec<_> = cluster.instances.iter().copied().collect();
        self.continue_above(&members, &hello);
        if !is_new {
            self.tell_cluster(now.wall, EventKind::ClusterBack, id, " is connected");
        }
        for worker in hello.workers {
            let news = if known.is_empty() { Vec::new() } else { news_of(known.get(&worker.id), &worker) };
            let worker_id = worker.id;
            self.update_worker(id, worker);
            for (kind, what) in news {
                self.tell_worker(now, kind, id, worker_id, what);
            }
        }
        for key in &members {
            let worker = self.instances.get_mut(key).and_then(|instance| {
                instance.counted_on = None;
                instance.worker
            });
            self.count(*key, worker);
        }
        // What was not known while the cluster was away is known now.
        members.iter().for_each(|key| self.look_soon(now, key.service));
        let reported: HashSet<InstanceKey> = hello.instances.iter().map(|report| report.key).collect();
        for report in hello.instances {
            self.instance_reported(now, id, report);
        }
        for key in members.into_iter().filter(|key| !reported.contains(key)) {
            self.departed(now, id, key);
            if take_over {
                self.take_back(id, key);
            }
        }
        self.overlay_calls(hello.calls);
        self.ensure_node_block(id);
        let generation = self.next_generation();
        self.save_cluster(id);
        let overlay = self.overlay_welcome(id);
        let welcome = ClusterWelcome { take_over, overlay, ..self.welcome(now, id, generation) };
        self.outbox.emit(Effect::Welcome { cluster: id, session, welcome });
        self.retry_soon(now);
        Ok(())
    }

    /// A root restored from an old copy continues above everything its clusters have seen. The instances are
    /// compared one by one as well: another cluster may have raised the counter before.
    fn continue_above(&mut self, members: &[InstanceKey], hello: &ClusterHello) {
        let restored = hello.generation > self.meta.generation
            && hello.generation.0 - self.meta.generation.0 < LARGEST_LEAP;
        if restored {
            self.meta.generation = hello.generation;
        }
        let held: HashMap<_, _> =
            hello.instances.iter().map(|report| (report.key, report.generation)).collect();
        for key in members {
            let held = held.get(key).copied().unwrap_or_default();
            if self.instances.get(key).is_none_or(|instance| !restored && held <= instance.generation) {
                continue;
            }
            let generation = self.next_generation();
            if let Some(instance) = self.instances.get_mut(key) {
                instance.generation = generation;
            }
            self.save_instance(*key);
        }
    }

    pub(super) fn welcome(&self, now: Now, id: ClusterId, generation: Generation) -> ClusterWelcome {
        let empty = ClusterWelcome { generation, lineage: self.meta.lineage, ..ClusterWelcome::default() };
        let Some(cluster) = self.clusters.get(&id) else { return empty };
        let instances: Vec<DesiredInstance> = cluster
            .instances
            .iter()
            .filter_map(|key| self.instances.get(key))
            .filter(|instance| !instance.moving)
            .filter_map(|instance| self.wish(instance.key))
            .map(|mut desired| {
                self.supply(&mut desired);
                desired
            })
            .collect();
        let (applications, services) = self.records_of(instances.iter().map(|desired| desired.key));
        let tokens = self
            .tokens
            .values()
            .filter(|token| token.role == TokenRole::Worker(id) && token.expires > now.wall)
            .map(|token| WorkerToken {
                id: token.id.clone(),
                secret_hash: token.secret_hash.clone(),
                valid_for_ms: token.expires.0 - now.wall.0,
            })
            .collect();
        let local_block = cluster.local_block;
        ClusterWelcome {
            node_blocks: cluster.node_blocks.clone(),
            instances,
            tokens,
            applications,
            services,
            local_block,
            local_addresses: local_block.map(|block| self.addresses.used_in(block)).unwrap_or_default(),
            ..empty
        }
    }

    /// The link to a cluster ended.
    pub fn cluster_closed(&mut self, now: Now, id: ClusterId, session: u64) {
        if let Some(cluster) = self.clusters.get_mut(&id).filter(|cluster| cluster.session == Some(session)) {
            cluster.session = None;
            cluster.lost_since = Some(now.moment);
            cluster.asked_for_holdings = false;
            self.tell_cluster(now.wall, EventKind::ClusterLost, id, " is not connected");
            self.overlay_closed(id);
            self.forget_questions_to(id);
        }
    }

    /// A sign of life without content.
    pub fn cluster_alive(&mut self, now: Now, id: ClusterId) {
        if let Some(cluster) = self.clusters.get_mut(&id) {
            cluster.last_seen = now.wall;
        }
    }

    /// The link measured how long a message to a cluster and back takes.
    pub fn cluster_measured(&mut self, now: Now, id: ClusterId, session: u64, round_trip_us: u32) {
        if let Some(cluster) = self.clusters.get_mut(&id).filter(|cluster| cluster.session == Some(session)) {
            cluster.round_trip_us = Some(round_trip_us);
            // Perhaps somebody waits for exactly this.
            self.retry_soon(now);
        }
    }

    /// A message of a cluster. Messages of ended sessions are ignored: the next hello tells everything.
    ///
    /// # Errors
    /// Something an operator should know.
    pub fn cluster_message(
        &mut self,
        now: Now,
        id: ClusterId,
        session: u64,
        message: ClusterToRoot,
    ) -> Result<(), Attention> {
        let Some(cluster) = self.clusters.get_mut(&id).filter(|cluster| cluster.session == Some(session))
        else {
            return Ok(());
        };
        cluster.last_seen = now.wall;
        match message {
            ClusterToRoot::Instances(reports) => {
                for report in reports {
                    self.instance_reported(now, id, report);
                }
            }
            ClusterToRoot::Removed(keys) => {
                for key in keys {
                    self.departed(now, id, key);
                }
                self.retry_soon(now);
            }
            ClusterToRoot::Workers(workers) => {
                for worker in workers {
                    self.worker_changed(now, id, worker);
                }
                self.retry_soon(now);
            }
            ClusterToRoot::WorkerRemoved(worker) => self.worker_removed(now, id, worker),
            ClusterToRoot::WorkerKept { worker, reason } => self.worker_kept(worker, reason),
            ClusterToRoot::Usage(usage) => self.usage_reported(now, id, usage),
            ClusterToRoot::TokenStored { id } => self.outbox.emit(Effect::TokenReady { id }),
            ClusterToRoot::Holdings(holdings) => self.holdings_received(now, id, holdings),
            ClusterToRoot::NeedsNodeBlock => return self.add_node_block(id),
            ClusterToRoot::Calls(calls) => self.overlay_calls(calls),
            ClusterToRoot::Ask { caller, target } => self.asked(id, caller, target),
        }
        Ok(())
    }

    fn worker_changed(&mut self, now: Now, id: ClusterId, worker: WorkerSummary) {
        let former = self.clusters.get(&id).and_then(|cluster| cluster.workers.get(&worker.id));
        let news = news_of(former, &worker);
        let worker_id = worker.id;
        self.update_worker(id, worker);
        for (kind, what) in news {
            self.tell_worker(now, kind, id, worker_id, what);
        }
    }

    fn update_worker(&mut self, id: ClusterId, worker: WorkerSummary) {
        self.overlay_worker(id, &worker);
        let overcommit = self.settings.cpu_overcommit;
        let Some(cluster) = self.clusters.get_mut(&id) else { return };
        let position = cluster.position();
        let mut state = WorkerState::new(&worker.facts, overcommit, ADDRESSES_PER_WORKER, position);
        state.round_trip_us = worker.round_trip_us;
        state.connected = worker.connected;
        state.cordoned = worker.availability != Availability::Open;
        cluster.fleet.upsert(worker.id, state);
        if !worker.connected {
            cluster.usage.remove(&worker.id);
        }
        let (reported, availability) = (worker.id, worker.availability);
        cluster.workers.insert(worker.id, worker);
        self.availability_reported(reported, availability);
    }

    fn instance_reported(&mut self, now: Now, cluster: ClusterId, report: InstanceReport) {
        let key = report.key;
        let Some(instance) =
            self.instances.get_mut(&key).filter(|instance| instance.cluster == Some(cluster))
        else {
            return;
        };
        if report.generation > instance.generation || instance.moving {
            return;
        }
        let (worker, status) = (report.worker, report.status);
        let moved = instance.counted_on != worker;
        let before = Before::of(instance);
        let changed = instance.observe(report, now);
        if moved && worker.is_some() {
            self.count(key, worker);
        }
        if changed {
            self.save_instance(key);
            self.tell_report(now.wall, key, &before);
            self.look_soon(now, key.service);
        }
        let refused = worker.is_none()
            && matches!(
                status,
                Status::NoWorkerCapacity | Status::NoQualifiedWorkerFound | Status::NoNodeFound
            );
        if refused {
            self.offer_elsewhere(now, key);
        }
    }

    fn usage_reported(&mut self, now: Now, id: ClusterId, report: UsageReport) {
        for usage in report.instances {
            let Some(instance) = self.instances.get_mut(&usage.key).filter(|i| i.cluster == Some(id)) else {
                continue;
            };
            let kept = &mut instance.usage;
            kept.cpu_percent = usage.cpu_percent;
            kept.memory_bytes = usage.memory_bytes;
            kept.disk_bytes = usage.disk_bytes;
            kept.sampled = now.wall;
            if let Some(tail) = usage.log_tail {
                kept.log_tail = tail;
            }
            #[allow(clippy::cast_precision_loss, reason = "memory sizes are below 2^53 bytes")]
            let memory = usage.memory_bytes as f64;
            push_sample(&mut kept.history, HistorySample { at: now.wall, cpu: usage.cpu_percent, memory });
            self.overlay_measured(usage.key, usage.cpu_percent);
        }
        let Some(cluster) = self.clusters.get_mut(&id) else { return };
        if report.nodes.is_empty() {
            return;
        }
        for node in report.nodes {
            if let Some(worker) = node.worker {
                cluster.usage.insert(worker, node);
            }
        }
        let (cpu, memory) = cluster.average_load();
        push_sample(&mut cluster.history, HistorySample { at: now.wall, cpu, memory: f64::from(memory) });
    }

    fn ensure_node_block(&mut self, id: ClusterId) {
        if self.clusters.get(&id).is_some_and(|cluster| cluster.node_blocks.is_empty())
            && let Some(block) = self.node_blocks.allocate()
            && let Some(cluster) = self.clusters.get_mut(&id)
        {
            cluster.node_blocks.push(block);
        }
    }

    fn add_node_block(&mut self, id: ClusterId) -> Result<(), Attention> {
        let block = self.node_blocks.allocate().ok_or(Attention::NodeBlocksExhausted)?;
        let Some(cluster) = self.clusters.get_mut(&id) else { return Err(Attention::UnknownCluster(id)) };
        cluster.node_blocks.push(block);
        let blocks = cluster.node_blocks.clone();
        self.save_cluster(id);
        self.save_meta();
        self.send(id, RootToCluster::NodeBlocks(blocks));
        Ok(())
    }

    pub(super) fn save_cluster(&mut self, id: ClusterId) {
        if let Some(cluster) = self.clusters.get(&id) {
            self.outbox.put(Table::Cluster, id, cluster);
        }
    }
}

/// What is new about a worker.
fn news_of(former: Option<&WorkerSummary>, worker: &WorkerSummary) -> Vec<(EventKind, &'static str)> {
    let Some(former) = former else { return vec![(EventKind::WorkerJoined, " joined")] };
    let mut news = Vec::new();
    match (former.connected, worker.connected) {
        (true, false) => news.push((EventKind::WorkerLost, " is not connected")),
        (false, true) => news.push((EventKind::WorkerBack, " is connected")),
        (true, true) | (false, false) => {}
    }
    if former.availability != worker.availability {
        news.push((EventKind::WorkerAvailability, availability_word(worker.availability)));
    }
    news
}

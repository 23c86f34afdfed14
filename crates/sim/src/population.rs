//! Machines join: those of the beginning, and those that are added.

use std::collections::BTreeMap;
use std::time::Duration;

use oak_control::cluster::{self, Cluster};
use oak_control::root;
use oak_control::token::TokenRole;
use oak_control::worker::{NetworkTable, TableVersion, Worker};
use oak_model::message::WorkerToken;
use oak_model::overlay::{TUNNEL_PORT, TunnelEnd};
use oak_model::{ClusterId, WorkerFacts, WorkerId};

use crate::agenda::{Event, Who};
use crate::link::Link;
use crate::node::Node;
use crate::runtime::Runtime;
use crate::scenario::{ClusterEntry, WorkerGroup};
use crate::world::{ClusterSide, WorkerSide, World};

/// Time for the link of the first child to be up before its siblings dial: real machines do not start as one.
const SPREAD_MS: u64 = 1_000;

impl World {
    /// The machines of the beginning.
    pub(crate) fn populate(&mut self) {
        self.root.call(&mut self.agenda, |root, now, random| {
            root.begin_life(now, random, false);
            None
        });
        for entry in self.scenario.clusters.clone() {
            self.join_cluster(&entry);
            let index = self.clusters.len() - 1;
            for group in &entry.workers {
                self.join_workers(index, group);
            }
        }
        // Nothing goes wrong before the beginning.
        self.root.flush();
        for side in &mut self.clusters {
            side.node.flush();
        }
    }

    fn join_cluster(&mut self, entry: &ClusterEntry) {
        let index = self.clusters.len();
        let who = Who::Cluster(index);
        let cluster = Cluster::new(self.cluster_settings(&entry.name));
        self.clusters.push(ClusterSide {
            id: ClusterId::from_parts(0, 0),
            name: entry.name.clone(),
            site: entry.site().to_owned(),
            node: Node::new(who, cluster, self.scenario.disks.cluster),
            link: Link::new(who, self.scenario.links.cluster),
            members: Vec::new(),
            relay: BTreeMap::new(),
        });
        self.names.clusters.push(entry.name.clone());
        self.watch.clusters.push(crate::watch::ClusterSeen::default());
        self.metrics.by_cluster.push(0);
        self.enrol_cluster(index);
        self.agenda.after(1, Event::Dial { child: who });
    }

    /// A cluster is taken in by the root, as itself if it has been somebody under another root.
    pub(crate) fn enrol_cluster(&mut self, index: usize) {
        let Some(side) = self.clusters.get_mut(index) else { return };
        let name = side.name.as_str();
        let former = self.cluster_by_id.contains_key(&side.id).then_some(side.id);
        let mut id = None;
        self.root.call(&mut self.agenda, |root, now, random| {
            if former.is_some_and(|former| root.cluster(former).is_some()) {
                return None;
            }
            let token = format!("{name}{}", now.moment.0);
            root.create_token(now, token.clone(), "hash".into(), TokenRole::Cluster, Duration::from_secs(60));
            let candidate = root::Candidate {
                token_id: &token,
                secret_hash: "hash",
                key_fingerprint: "key",
                name,
                location: "",
                former,
            };
            id = root.enrol_cluster(now, random, candidate).ok();
            None
        });
        if let Some(id) = id {
            side.id = id;
            self.cluster_by_id.insert(id, index);
        }
    }

    /// A group of workers joins a cluster.
    pub(crate) fn join_workers(&mut self, cluster: usize, group: &WorkerGroup) {
        let Some(side) = self.clusters.get(cluster) else { return };
        let (name, site) = (side.name.clone(), side.site.clone());
        let prefix = group.name.clone().unwrap_or(name);
        let site = group.site.clone().unwrap_or(site);
        let mut number = 0_usize;
        for _ in 0..group.count {
            number += 1;
            while !self.worker_names.insert(format!("{prefix}-{number}")) {
                number += 1;
            }
            self.add_worker(cluster, format!("{prefix}-{number}"), site.clone(), group);
        }
    }

    fn add_worker(&mut self, cluster: usize, name: String, site: String, group: &WorkerGroup) {
        let index = self.workers.len();
        let who = Who::Worker(index);
        let machine = Worker::new(self.worker_settings());
        self.workers.push(WorkerSide {
            id: WorkerId::from_parts(0, 0),
            cluster,
            site,
            facts: WorkerFacts {
                name: name.clone(),
                address: format!("192.0.{}.{}", index / 250, index % 250 + 1),
                address6: None,
                architecture: group.architecture,
                capacity: group.capacity(),
                virtualization: vec!["docker".into()],
                version: "1".into(),
                labels: Vec::new(),
                addons: Vec::new(),
                position: None,
                csi_drivers: Vec::new(),
                tunnel: Some(TunnelEnd {
                    public_key: format!("key of {name}"),
                    port: TUNNEL_PORT,
                    former_key: None,
                    seen_as: Vec::new(),
                }),
                plain: true,
            },
            node: Node::new(who, machine, self.scenario.disks.worker),
            link: Link::new(who, self.scenario.links.worker),
            runtime: Runtime::new(index),
            network: NetworkTable::default(),
            network_version: TableVersion::default(),
            in_touch_since: 0,
            gone: false,
        });
        if let Some(side) = self.clusters.get_mut(cluster) {
            side.members.push(index);
        }
        self.names.workers.push(name);
        self.watch.add_worker();
        self.enrol(index);
    }

    /// A worker that is new asks its cluster to be taken in, again and again while that is down.
    pub(crate) fn enrol(&mut self, index: usize) {
        let Some(worker) = self.workers.get_mut(index) else { return };
        let Some(side) = self.clusters.get_mut(worker.cluster) else { return };
        if side.node.machine.is_none() {
            self.agenda.after(1_000, Event::Join { worker: index });
            return;
        }
        if side.node.machine.as_ref().is_some_and(|machine| machine.knows_worker(worker.id)) {
            // It was taken in when it asked before.
            return;
        }
        let cluster_id = side.id;
        let name = worker.facts.name.as_str();
        let mut id = None;
        side.node.call(&mut self.agenda, |machine, now, random| {
            // A token works once.
            let token_id = format!("{name}{}", now.moment.0);
            let token =
                WorkerToken { id: token_id.clone(), secret_hash: "hash".into(), valid_for_ms: 60_000 };
            machine.token_received(now, token, true);
            let candidate = cluster::Candidate {
                cluster: cluster_id,
                token_id: &token_id,
                secret_hash: "hash",
                key_fingerprint: "key",
                name,
            };
            id = machine.enrol_worker(now, random, candidate).ok();
            None
        });
        // The token is new, so it was taken in; and its certificate is used only after the commit.
        if let Some(id) = id {
            worker.id = id;
            self.worker_by_id.insert(id, index);
            let spread = self.agenda.between(1, SPREAD_MS);
            self.agenda.after(spread, Event::Dial { child: Who::Worker(index) });
        }
    }
}

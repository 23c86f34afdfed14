//! Entry for the fuzzer (`fuzz/`): takes any bytes and must neither panic nor break what it asserts. Its corpus is
//! replayed by the tests of this crate.
#![allow(clippy::expect_used, reason = "what cannot be is a panic, and the fuzzer looks for those")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use oak_model::message::{Assignment, ClusterToWorker, DesiredInstance, WorkerWelcome};
use oak_model::overlay::{Backend, KnownService, OverlayChange, Peer, Readiness, Target, TunnelEnd, Vantage};
use oak_model::{
    ApplicationId, Balancing, Generation, Incarnation, InstanceKey, JobName, Load, Moment, Now,
    OrganizationId, ServiceId, ServiceSpec, Surroundings, WallTime, WorkerId,
};

use crate::worker::{Answer, Effect, Found, NetworkTable, Settings, Worker};
use crate::{Row, SeededEntropy, Table};

/// Names and addresses are few, so that messages meet what earlier ones brought.
const FEW: u8 = 6;

/// Decisions out of the fuzzer's bytes. At the end of the bytes everything is zero.
struct Steps<'a>(&'a [u8]);

impl Steps<'_> {
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    fn few(&mut self) -> u8 {
        self.byte() % FEW
    }

    fn list<T>(&mut self, one: impl Fn(&mut Self) -> T) -> Vec<T> {
        let length = self.byte() % 4;
        (0..length).map(|_| one(self)).collect()
    }

    fn service_id(&mut self) -> ServiceId {
        ServiceId::from_parts(1, u64::from(self.few()))
    }

    fn worker_id(&mut self) -> WorkerId {
        WorkerId::from_parts(1, u64::from(self.few()))
    }

    fn instance(&mut self) -> InstanceKey {
        InstanceKey { service: self.service_id(), number: u32::from(self.byte() % 4) }
    }

    /// Of a service, of an instance, of this node, of another one, or outside of everything.
    fn address(&mut self) -> Ipv4Addr {
        let last = self.few();
        match self.byte() % 6 {
            0 => Ipv4Addr::new(10, 30, 0, last),
            1 => Ipv4Addr::new(10, 30, 1, last),
            2 => Ipv4Addr::new(10, 18, 0, last),
            3 => Ipv4Addr::new(10, 18, last, 130),
            4 => Ipv4Addr::new(10, 18, 0, 128 + last),
            _ => Ipv4Addr::new(last, 0, 0, 1),
        }
    }

    fn job_name(&mut self) -> JobName {
        let names = ["a", "b", "web", "db", "x", "y"];
        let mut name = || names[usize::from(self.few())].parse().expect("a name");
        JobName {
            application: name(),
            application_namespace: name(),
            service: name(),
            service_namespace: name(),
        }
    }

    fn target(&mut self) -> Target {
        if self.byte().is_multiple_of(2) {
            return Target::Address(self.address());
        }
        let name = self.job_name();
        Target::Name(format!(
            "{}.{}.{}.{}",
            name.service, name.service_namespace, name.application, name.application_namespace
        ))
    }

    fn organization(&mut self) -> Option<OrganizationId> {
        let number = self.byte() % 3;
        (number > 0).then(|| OrganizationId::from_parts(1, u64::from(number)))
    }

    fn policies(&mut self) -> BTreeMap<Balancing, Ipv4Addr> {
        self.list(|steps| (Balancing::ALL[usize::from(steps.byte() % 5)], steps.address()))
            .into_iter()
            .collect()
    }

    fn known_service(&mut self) -> KnownService {
        KnownService {
            id: self.service_id(),
            application: ApplicationId::from_parts(1, u64::from(self.byte() % 2)),
            job_name: self.job_name(),
            addresses: self.list(Self::address),
            policies: self.policies(),
            ports: Vec::new(),
            organization: self.organization(),
            exported: self.byte().is_multiple_of(2),
        }
    }

    fn backend(&mut self) -> Backend {
        Backend {
            key: self.instance(),
            worker: self.worker_id(),
            instance_address: self.address(),
            node_address: self.address(),
            readiness: [Readiness::Closed, Readiness::Suspect, Readiness::Ready]
                [usize::from(self.byte() % 3)],
            load: Load::from(self.byte() % 20),
        }
    }

    fn peer(&mut self) -> Peer {
        let prefix = self.byte() % 33;
        let seen_as = self.list(|steps| (IpAddr::V4(steps.address()), u16::from(steps.byte())).into());
        let tunnel = TunnelEnd {
            public_key: "key".to_owned(),
            former_key: None,
            port: u16::from(self.byte()),
            seen_as,
        };
        Peer {
            worker: self.worker_id(),
            subnet: ipnet::Ipv4Net::new(self.address(), prefix).expect("a prefix of at most 32"),
            more_subnets: Vec::new(),
            underlay: self.byte().is_multiple_of(2).then(|| self.address()),
            underlay6: self.byte().is_multiple_of(2).then(|| self.address().to_ipv6_mapped()),
            tunnel: (self.byte().is_multiple_of(2)).then_some(tunnel),
            plain: self.byte().is_multiple_of(2),
            outside: self.byte().is_multiple_of(2).then(|| self.address().into()),
            relay: None,
        }
    }

    fn change(&mut self) -> OverlayChange {
        OverlayChange {
            complete: self.byte().is_multiple_of(4),
            services: self.list(Self::known_service),
            backends: self.list(Self::backend),
            peers: self.list(Self::peer),
            gone_services: self.list(Self::service_id),
            gone_backends: self.list(|steps| (steps.instance(), steps.worker_id())),
            gone_peers: self.list(Self::worker_id),
            ..OverlayChange::default()
        }
    }

    fn assignment(&mut self) -> Assignment {
        let key = self.instance();
        Assignment {
            incarnation: Incarnation(u64::from(self.byte())),
            desired: DesiredInstance {
                key,
                generation: Generation(1),
                application: ApplicationId::from_parts(1, u64::from(self.byte() % 2)),
                job_name: self.job_name(),
                spec: Arc::new(ServiceSpec { image: "image".into(), ..ServiceSpec::default() }),
                service_addresses: self.list(Self::address),
                policies: self.policies(),
                instance_address: self.address(),
                surroundings: Surroundings::default(),
                material: Vec::new(),
            },
            organization: self.organization(),
        }
    }
}

/// A worker with its disk.
struct Bench {
    worker: Worker,
    disk: BTreeMap<(Table, String), Vec<u8>>,
    entropy: SeededEntropy,
    now: u64,
    table: NetworkTable,
}

impl Bench {
    fn new() -> Self {
        let settings = Settings { asks: true, ..Settings::default() };
        let worker = Worker::new(settings);
        let (disk, table) = (BTreeMap::new(), NetworkTable::default());
        Self { worker, disk, entropy: SeededEntropy::new(7), now: 1, table }
    }

    fn at(&self) -> Now {
        Now { moment: Moment(self.now), wall: WallTime(1_000_000 + self.now) }
    }

    /// Stores the rows of a step, and does at once what it wants.
    fn commit(&mut self) {
        // Each round may ask for another one; none goes on for ever.
        for _ in 0..8 {
            let outbox = self.worker.take_outbox();
            for row in outbox.rows {
                match row.document {
                    Some(document) => self.disk.insert((row.table, row.key), document),
                    None => self.disk.remove(&(row.table, row.key)),
                };
            }
            if outbox.effects.is_empty() {
                return;
            }
            for effect in outbox.effects {
                self.carry_out(effect);
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        let now = self.at();
        match effect {
            Effect::Prepare { key, attempt, .. } => self.worker.prepared(now, key, attempt),
            Effect::Start { key, attempt, .. } => self.worker.started(now, key, attempt),
            Effect::Stop { key, attempt, .. } => self.worker.stopped(now, key, attempt),
            Effect::Network { version, table } => {
                self.table = *table;
                self.worker.network_applied(version, None);
            }
            _ => {}
        }
    }

    /// The agent was killed and starts again: it knows what it knew.
    fn restart(&mut self) {
        let rows = self.disk.iter().map(|((table, key), document)| Row {
            table: *table,
            key: key.clone(),
            document: Some(document.clone()),
        });
        let rows: Vec<Row> = rows.collect();
        let running = self.worker.workloads().map(|workload| (workload.key(), Found::Running)).collect();
        let settings = Settings { asks: true, ..Settings::default() };
        let loaded = Worker::load(settings, self.at(), &rows, &running);
        let (worker, _) = loaded.expect("what was stored can be read");
        assert!(worker.known_services().eq(self.worker.known_services()), "what was told is on disk");
        self.worker = worker;
    }

    fn message(&mut self, message: ClusterToWorker) {
        // It travels as JSON.
        let bytes = serde_json::to_vec(&message).expect("a message can be written");
        let read: ClusterToWorker = serde_json::from_slice(&bytes).expect("a message can be read");
        assert!(read == message, "it arrives as it was sent");
        self.worker.message(self.at(), message);
    }

    fn welcome(&mut self, assignments: Vec<Assignment>, overlay: OverlayChange) {
        let subnet = "10.18.0.0/25".parse().expect("a subnet");
        let (more_subnets, vantage) = (Vec::new(), Vantage::default());
        self.worker.welcome(self.at(), WorkerWelcome { subnet, more_subnets, assignments, overlay, vantage });
    }

    fn step(&mut self, steps: &mut Steps<'_>) {
        match steps.byte() % 10 {
            0..=2 => {
                let change = steps.change();
                self.message(ClusterToWorker::Overlay(change));
            }
            3 => {
                let target = steps.target();
                self.message(ClusterToWorker::NotFound(target));
            }
            4 => {
                let (source, target) = (steps.address(), steps.target());
                self.worker.ask(self.at(), source, target.clone());
                let answer = self.worker.answer(&target, None);
                assert!(matches!(answer, Answer::Pending | Answer::Service(_) | Answer::NotFound));
            }
            5 => {
                let assignment = steps.assignment();
                self.message(ClusterToWorker::Assign(assignment));
            }
            6 => {
                let (key, incarnation) = (steps.instance(), Incarnation(u64::from(steps.byte())));
                self.message(ClusterToWorker::Remove { key, incarnation });
            }
            7 => self.restart(),
            8 => {
                self.now += u64::from(steps.byte()) * 50;
                self.worker.tick(self.at(), &mut self.entropy);
            }
            _ => {
                self.worker.cluster_closed();
                self.commit();
                let (assignments, overlay) = (steps.list(Steps::assignment), steps.change());
                self.welcome(assignments, overlay);
            }
        }
        self.commit();
        self.check();
    }

    fn check(&self) {
        let nodes: Vec<Ipv4Addr> =
            self.worker.workloads().filter_map(|workload| workload.address()).collect();
        for backends in self.table.services.values() {
            let is_known =
                |backend: &Ipv4Addr| nodes.contains(backend) || self.table.elsewhere.contains(backend);
            assert!(backends.iter().all(is_known), "a service leads to instances that somebody has");
        }
        let tenants = self.table.tenants.values();
        let members: Vec<Ipv4Addr> = tenants.clone().flat_map(|tenant| tenant.members.clone()).collect();
        let all: std::collections::BTreeSet<Ipv4Addr> = members.iter().copied().collect();
        assert_eq!(members.len(), all.len(), "an instance is of one tenant");
        for tenant in tenants {
            assert!(tenant.reaches.is_subset(&self.table.owned), "what is reached is somebody's");
        }
    }
}

/// Either lines of JSON as a cluster sends them, or decisions of which such messages are made.
pub fn overlay_news(data: &[u8]) {
    let mut bench = Bench::new();
    bench.welcome(Vec::new(), OverlayChange::default());
    bench.commit();
    if data.first().is_some_and(|first| matches!(first, b'{' | b'"')) {
        for line in data.split(|byte| *byte == b'\n') {
            if let Ok(message) = serde_json::from_slice::<ClusterToWorker>(line) {
                bench.message(message);
                bench.commit();
            }
        }
        bench.restart();
        return;
    }
    let mut steps = Steps(data);
    while !steps.0.is_empty() {
        bench.step(&mut steps);
    }
    bench.restart();
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::replay::replay;

    #[test]
    fn the_corpora_are_survived() {
        replay("overlay_news", super::overlay_news);
    }
}

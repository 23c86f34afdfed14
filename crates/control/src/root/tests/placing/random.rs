//! Random fleets and services: small, so that rules collide often.

use oak_model::{
    Area, AreaBound, Limit, PortMapping, Position, Protocol, ServiceBound, Strictness, TargetConstraints,
    Volume,
};

use super::super::*;
use crate::Entropy;

/// Random choices that replay from a seed.
pub(super) struct Dice(SeededEntropy);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(SeededEntropy::new(seed))
    }

    /// A number below `sides`.
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0.next_u64() % sides
    }

    pub(super) fn number(&mut self, sides: u32) -> u32 {
        u32::try_from(self.roll(u64::from(sides))).unwrap()
    }

    /// True once in so many times.
    pub(super) fn one_in(&mut self, times: u64) -> bool {
        self.roll(times) == 0
    }

    pub(super) fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.roll(from.len() as u64)).unwrap()].clone()
    }

    pub(super) fn position(&mut self) -> Position {
        self.pick(&["48.1,11.6", "48.2,11.7", "50.1,8.7", "52.5,13.4"]).parse().unwrap()
    }

    /// What a worker says about itself.
    pub(super) fn facts(&mut self, name: String) -> WorkerFacts {
        let labels = ["gpu", "ssd", "area=north", "area=south"].map(str::to_owned);
        WorkerFacts {
            name,
            address: String::new(),
            address6: None,
            architecture: if self.one_in(5) { Architecture::Arm64 } else { Architecture::Amd64 },
            capacity: Resources {
                cpu_millis: 1_000 * (1 + self.number(4)),
                memory_mib: 128 * (1 + self.number(8)),
                storage_mib: 500 * (1 + self.number(2)),
                gpus: self.number(5).saturating_sub(2),
            },
            virtualization: vec!["docker".into()],
            version: "1".into(),
            labels: labels.into_iter().filter(|_| self.one_in(3)).collect(),
            addons: Vec::new(),
            position: self.one_in(3).then(|| self.position()),
            csi_drivers: ["here", "there"]
                .map(str::to_owned)
                .into_iter()
                .filter(|_| !self.one_in(3))
                .collect(),
            tunnel: None,
            plain: true,
        }
    }

    /// An application with one to three services that are bound to each other now and then.
    pub(super) fn application(&mut self, name: &str) -> ApplicationRequest {
        let services = (0..=self.roll(3)).map(|number| (["a", "b", "c"][number as usize], self.spec()));
        application(name, services.collect())
    }

    pub(super) fn spec(&mut self) -> ServiceSpec {
        let mut spec = memory(64 * self.number(14));
        spec.resources.cpu_millis = 1_000 * self.number(4);
        spec.resources.storage_mib = if self.one_in(4) { 100 * self.number(8) } else { 0 };
        spec.resources.gpus = if self.one_in(6) { 1 + self.number(2) } else { 0 };
        if self.one_in(3) {
            let host = self.pick(&[80, 81]);
            spec.ports.push(PortMapping { host, container: 80, protocol: Protocol::Tcp });
        }
        if self.one_in(5) {
            spec.architectures.push(self.pick(&[Architecture::Arm64, Architecture::Amd64]));
        }
        for _ in 0..if self.one_in(6) { 1 + self.roll(2) } else { 0 } {
            let (driver, id) = (self.pick(&["here", "there", "nowhere"]).to_owned(), "data".to_owned());
            spec.volumes.push(Volume { id, driver, mount_path: "/data".to_owned(), config: BTreeMap::new() });
        }
        spec.target = self.target();
        if self.one_in(4) {
            for _ in 0..=self.roll(2) {
                spec.connectivity.push(ServiceBound {
                    target: self
                        .pick(&["a", "b", "base.test.s0.test", "base.test.s1.test", "nobody"])
                        .to_owned(),
                    limit: self.limit(),
                    strictness: self.strictness(),
                });
            }
        }
        spec
    }

    fn target(&mut self) -> TargetConstraints {
        let mut target = TargetConstraints::default();
        if self.one_in(6) {
            target.clusters.push(self.pick(&["c0", "c1", "c7"]).to_owned());
        }
        if self.one_in(6) {
            target.workers.push(self.pick(&["c0w0", "c0w1", "c1w0", "nowhere"]).to_owned());
        }
        if self.one_in(6) {
            target.needs.push(self.pick(&["gpu", "ssd", "fpga"]).to_owned());
        }
        target.max_per_worker = self.one_in(3).then_some(1);
        while self.one_in(4) {
            let area = match self.roll(3) {
                0 => Area::Around { centre: self.position(), radius_m: 1_000 },
                _ => Area::Named(self.pick(&["c0", "c1", "north", "south", "atlantis"]).to_owned()),
            };
            let limit = match (&area, self.limit()) {
                (Area::Named(_), limit) => Limit::RoundTripUs(limit.amount()),
                (Area::Around { .. }, limit) => limit,
            };
            target.near.push(AreaBound { area, limit, strictness: self.strictness() });
        }
        target
    }

    fn limit(&mut self) -> Limit {
        if self.one_in(2) {
            Limit::RoundTripUs(2_000 * self.number(20))
        } else {
            Limit::DistanceM(50_000 * self.number(12))
        }
    }

    fn strictness(&mut self) -> Strictness {
        let rigidness = if self.one_in(3) { 500 } else { Strictness::HARD };
        Strictness { rigidness, ..Strictness::default() }
    }
}

/// An application with these services.
pub(super) fn application(name: &str, services: Vec<(&str, ServiceSpec)>) -> ApplicationRequest {
    ApplicationRequest {
        application_id: None,
        name: name.parse().unwrap(),
        namespace: "test".parse().unwrap(),
        description: String::new(),
        services: services.into_iter().map(|(name, spec)| request(name, spec)).collect(),
        other: serde_json::Map::new(),
    }
}

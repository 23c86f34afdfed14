//! Which instances an address leads to: what its policy leaves of those that take connections.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use oak_model::overlay::Backend;
use oak_model::{Balancing, InstanceKey, Load, WorkerId};

use super::{NetworkTable, Worker};

/// Nodes whose round trips differ by no more than this are equally close, microseconds.
const SAME_US: u32 = 1_000;

/// Round trips that are remembered of each node. The shortest of them counts, so that one that was held up changes nothing.
const REMEMBERED: usize = 3;

/// How far other nodes are.
#[derive(Debug, Default)]
pub(super) struct Distances(BTreeMap<WorkerId, Distance>);

#[derive(Debug, Default)]
struct Distance {
    /// The newest round trips, microseconds, newest last; those that did not come back are the longest.
    newest: Vec<u32>,
    /// What decisions are made by: it follows only changes that matter.
    ranked_us: Option<u32>,
}

impl Distance {
    /// True if decisions may change by it.
    fn add(&mut self, round_trip_us: Option<u32>) -> bool {
        let former = self.ranked_us;
        if self.newest.len() == REMEMBERED {
            self.newest.remove(0);
        }
        self.newest.push(round_trip_us.unwrap_or(u32::MAX));
        let shortest = self.newest.iter().copied().min().filter(|us| *us < u32::MAX);
        let is_same = |ranked: u32, us: u32| ranked.abs_diff(us) <= SAME_US.max(ranked / 5);
        self.ranked_us = match (self.ranked_us, shortest) {
            (Some(ranked), Some(us)) if is_same(ranked, us) => Some(ranked),
            (_, shortest) => shortest,
        };
        self.ranked_us != former
    }
}

impl Distances {
    /// The closest of some nodes; all of them if nothing was measured.
    fn closest(&self, nodes: &BTreeSet<WorkerId>) -> BTreeSet<WorkerId> {
        let ranked = |node: &WorkerId| self.0.get(node).and_then(|distance| distance.ranked_us);
        let Some(best) = nodes.iter().filter_map(ranked).min() else { return nodes.clone() };
        let limit = best.saturating_add(SAME_US);
        nodes.iter().filter(|node| ranked(node).is_some_and(|us| us <= limit)).copied().collect()
    }
}

impl Worker {
    /// Round trips to other nodes were measured, microseconds; none: no answer came.
    pub fn round_trips(&mut self, measured: &[(WorkerId, Option<u32>)]) {
        let mut is_news = false;
        for (worker, round_trip_us) in measured {
            is_news |= self.distances.0.entry(*worker).or_default().add(*round_trip_us);
        }
        let wanted = &self.network.measured;
        self.distances.0.retain(|worker, _| wanted.contains_key(worker));
        // Measured several times a second: the table is only made anew when it may have become another one.
        if is_news {
            self.update_network();
        }
    }

    /// An instance was measured: so many percent of one processor, on a machine with so many thousandths of one.
    pub fn measured(&mut self, key: InstanceKey, cpu_percent: f32, machine_millis: u32) {
        let Some(workload) = self.workloads.get(&key) else { return };
        let limit = workload.stored.assignment.desired.spec.resources.cpu_millis;
        let former = self.loads.get(&key).copied().unwrap_or_default();
        let load = former.after(cpu_percent, if limit > 0 { limit } else { machine_millis });
        if load != former {
            self.loads.insert(key, load);
            self.loads.retain(|key, load| !load.is_idle() && self.workloads.contains_key(key));
            self.update_network();
        }
    }

    /// Leaves each address the instances that its policy wants.
    pub(super) fn balance(&self, table: &mut NetworkTable) {
        if table.policies.is_empty() {
            return;
        }
        let there: BTreeMap<Ipv4Addr, &Backend> =
            self.overlay.all_backends().map(|backend| (backend.node_address, backend)).collect();
        let node = |address: &Ipv4Addr| there.get(address).map(|backend| backend.worker);
        for (address, policy) in &table.policies {
            let Some(backends) = table.services.get_mut(address) else { continue };
            let is_here = |address: &Ipv4Addr| !there.contains_key(address);
            match policy {
                Balancing::RoundRobin | Balancing::Sticky => {}
                Balancing::LeastLoaded => {
                    let loads = backends.iter().map(|address| (*address, self.load_at(*address, &there)));
                    table.weights.extend(loads.map(|(address, load)| (address, load.weight())));
                }
                Balancing::Closest | Balancing::LocalFirst if backends.iter().any(is_here) => {
                    backends.retain(is_here);
                }
                Balancing::LocalFirst => {}
                Balancing::Closest => {
                    let nodes: BTreeSet<WorkerId> = backends.iter().filter_map(node).collect();
                    if nodes.len() > 1 {
                        let closest = self.distances.closest(&nodes);
                        backends.retain(|address| node(address).is_some_and(|node| closest.contains(&node)));
                        table.measured.extend(self.overlay.gateways(&nodes));
                    }
                }
            }
        }
    }

    fn load_at(&self, address: Ipv4Addr, there: &BTreeMap<Ipv4Addr, &Backend>) -> Load {
        if let Some(backend) = there.get(&address) {
            return backend.load;
        }
        let here = self.loads.iter().find(|(key, _)| {
            self.workloads.get(key).is_some_and(|workload| workload.stored.address == Some(address))
        });
        here.map_or_else(Load::default, |(_, load)| *load)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(number: u64) -> WorkerId {
        WorkerId::from_parts(1, number)
    }

    fn closest(distances: &Distances) -> Vec<WorkerId> {
        distances.closest(&BTreeSet::from([worker(1), worker(2)])).into_iter().collect()
    }

    fn measure(distances: &mut Distances, number: u64, us: impl IntoIterator<Item = Option<u32>>) {
        for us in us {
            distances.0.entry(worker(number)).or_default().add(us);
        }
    }

    #[test]
    fn the_closest_node_is_the_one_with_the_shortest_round_trips() {
        let mut distances = Distances::default();
        assert_eq!(closest(&distances), [worker(1), worker(2)], "nothing is known");
        measure(&mut distances, 2, [Some(9_000)]);
        assert_eq!(closest(&distances), [worker(2)], "what does not answer is far");
        measure(&mut distances, 1, [Some(3_000)]);
        assert_eq!(closest(&distances), [worker(1)]);
        // One that was held up changes nothing, a change does.
        measure(&mut distances, 1, [Some(50_000), Some(40_000)]);
        assert_eq!(closest(&distances), [worker(1)]);
        measure(&mut distances, 1, [Some(45_000)]);
        assert_eq!(closest(&distances), [worker(2)]);
        measure(&mut distances, 1, [Some(3_000)]);
        assert_eq!(closest(&distances), [worker(1)], "a shorter way is taken at once");
        measure(&mut distances, 1, [None, None, None]);
        assert_eq!(closest(&distances), [worker(2)]);
    }

    #[test]
    fn nearly_equal_nodes_do_not_take_turns_with_every_measurement() {
        let mut distances = Distances::default();
        measure(&mut distances, 1, [Some(10_000)]);
        measure(&mut distances, 2, [Some(11_500)]);
        for us in [11_900, 9_000, 12_000, 8_100, 11_000] {
            measure(&mut distances, 1, [Some(us)]);
            assert_eq!(closest(&distances), [worker(1)]);
        }
        let mut equal = Distances::default();
        measure(&mut equal, 1, [Some(300)]);
        measure(&mut equal, 2, [Some(900)]);
        assert_eq!(closest(&equal), [worker(1), worker(2)]);
    }
}

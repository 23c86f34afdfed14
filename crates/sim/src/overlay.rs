//! Instances that call services: in the end every node that has a caller knows where the called ones are, and their
//! nodes know the caller, where it is seen from outside and by which key, and the relays know both.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

use oak_control::worker::Workload;
use oak_model::ServiceId;
use oak_model::overlay::{NodeKeys, Target};

use crate::settled::{Settled, require};
use crate::world::{WorkerSide, World};

/// By which key a worker that runs is known.
fn key_of(side: &WorkerSide) -> Option<String> {
    let hello = side.node.machine.as_ref()?.hello(side.facts.clone());
    hello.facts.tunnel.map(|end| end.public_key)
}

impl World {
    /// A running instance calls a service at random, by its address.
    pub(crate) fn call_something(&mut self) {
        let (services, workers) = (self.client.open_services.len(), self.workers.len());
        if services == 0 || workers == 0 {
            return;
        }
        let (callee, index) = (self.agenda.pick(services), self.agenda.pick(workers));
        let Some(callee) = self.client.open_services.get(callee) else { return };
        let service = self.root.machine.as_ref().and_then(|root| root.service(callee));
        let Some(address) = service.map(|service| service.address) else { return };
        let Some(side) = self.workers.get_mut(index) else { return };
        let callers = side.node.machine.iter().flat_map(|machine| machine.workloads());
        let callers: Vec<Ipv4Addr> =
            callers.filter(|workload| workload.serves()).filter_map(Workload::address).collect();
        if callers.is_empty() {
            return;
        }
        let caller = self.agenda.pick(callers.len());
        let Some(source) = callers.get(caller).copied() else { return };
        // What is seen from outside changes now and then, and is another thing each time.
        let port = 40_000 + u16::try_from(self.agenda.time % 20_000).unwrap_or_default();
        let seen_as = SocketAddr::from(([198, 51, 100, 1], port));
        // So does its key.
        let former = key_of(side);
        let keys = NodeKeys {
            public_key: format!("key of {} at {}", side.facts.name, self.agenda.time),
            former_key: former,
        };
        let is_rekeyed = self.agenda.time.is_multiple_of(3);
        side.node.call(&mut self.agenda, |worker, now, _| {
            worker.ask(now, source, Target::Address(address));
            worker.set_seen_as(vec![seen_as]);
            if is_rekeyed {
                worker.set_keys(keys);
            }
            None
        });
    }

    /// Who has called something reaches every instance of it, and is known there.
    pub(crate) fn tables_agree(&self) -> Settled {
        for side in self.workers.iter().filter(|side| !side.gone) {
            let Some(machine) = &side.node.machine else { continue };
            for call in machine.hello(side.facts.clone()).calls {
                self.is_reached(side, call.callee)?;
                if let Some(caller) = call.caller {
                    self.is_known(side, caller, call.callee)?;
                }
            }
        }
        Ok(())
    }

    fn running(&self, service: ServiceId) -> impl Iterator<Item = (&WorkerSide, &Workload)> {
        let sides = self.workers.iter().filter(|side| !side.gone);
        let workloads = sides.flat_map(|side| {
            side.node.machine.iter().flat_map(|machine| machine.workloads()).map(move |w| (side, w))
        });
        workloads.filter(move |(_, workload)| workload.key().service == service && workload.serves())
    }

    fn is_reached(&self, side: &WorkerSide, callee: ServiceId) -> Settled {
        let all: Vec<_> = self.running(callee).collect();
        let Some((_, first)) = all.first() else { return Ok(()) };
        let expected: BTreeSet<_> = all.iter().filter_map(|(_, workload)| workload.address()).collect();
        for address in &first.assignment().desired.service_addresses {
            let reached = side.network.services.get(address);
            let reached: BTreeSet<_> = reached.into_iter().flatten().copied().collect();
            require(reached == expected, || {
                format!("{}: {address} leads to {reached:?} instead of {expected:?}", side.facts.name)
            })?;
            let everybody = side.network.tenants.values();
            let may = side.network.owned.contains(address)
                && everybody.clone().all(|one| one.reaches.contains(address));
            require(may, || format!("{}: {address} is not everybody's", side.facts.name))?;
        }
        for (there, _) in all.iter().filter(|(there, _)| there.id != side.id) {
            let subnet = there.node.machine.as_ref().and_then(|machine| machine.subnet());
            let known = subnet.and_then(|subnet| side.network.peers.get(&subnet));
            let address = there.facts.address.parse().ok();
            let is_found = known.is_some_and(|peer| peer.own_addresses().next() == address);
            require(is_found, || {
                format!("{} does not know where {} is: {known:?}", side.facts.name, there.facts.name)
            })?;
            self.may_meet(side, there)?;
        }
        Ok(())
    }

    /// A node knows where another one is seen, and the relay of its cluster passes on packets between them.
    fn may_meet(&self, side: &WorkerSide, there: &WorkerSide) -> Settled {
        let subnet = there.node.machine.as_ref().and_then(|machine| machine.subnet());
        let known = subnet.and_then(|subnet| side.network.peers.get(&subnet)?.tunnel.as_ref());
        let seen_as = there.node.machine.as_ref().map(|machine| machine.seen_as());
        require(known.map(|end| &end.seen_as[..]) == seen_as, || {
            format!("{} does not know where {} is seen: {known:?}", side.facts.name, there.facts.name)
        })?;
        let (here, other) = (key_of(side), key_of(there));
        require(known.map(|end| &end.public_key) == other.as_ref(), || {
            format!("{} does not know the key {other:?} of {}", side.facts.name, there.facts.name)
        })?;
        let cluster = self.clusters.get(side.cluster);
        let told = cluster.and_then(|cluster| cluster.relay.get(&side.id));
        let is_introduced = told.is_some_and(|(own, peers)| {
            own.first() == here.as_ref() && peers.iter().any(|peer| Some(peer) == other.as_ref())
        });
        require(is_introduced, || {
            format!(
                "the relay of {} does not know {} and {}",
                side.facts.name, side.facts.name, there.facts.name
            )
        })
    }

    fn is_known(&self, side: &WorkerSide, caller: ServiceId, callee: ServiceId) -> Settled {
        let callers = self.running(caller).filter(|(at, _)| at.id == side.id);
        for (_, workload) in callers {
            let address = workload.assignment().desired.instance_address;
            for (there, _) in self.running(callee) {
                require(there.network.instances.get(&address).copied() == workload.address(), || {
                    format!("{} does not know whose {address} is", there.facts.name)
                })?;
            }
        }
        Ok(())
    }
}

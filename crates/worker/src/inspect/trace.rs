//! The way of one packet, step by step, in words.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use oak_model::{Balancing, ipv6};
use oak_net::{Choice, Chosen, Fate, NetworkError, run_in};
use serde::Serialize;

use super::status::{BackendState, PathKind, PeerState, ServiceState, WayState};
use super::{InspectError, Inspection, LocalInstance};

/// Port of name servers.
const NAMES: u16 = 53;

/// What happens to a packet.
#[derive(Clone, Debug, Serialize)]
pub struct Trace {
    /// In order.
    pub steps: Vec<Step>,
    /// Whether it gets to somebody who may answer.
    pub arrives: bool,
}

/// One thing that happens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What it is about: `instance`, `name`, `service`, `policy`, `backend`, `node`.
    pub about: &'static str,
    /// In words.
    pub text: String,
}

impl Trace {
    fn new() -> Self {
        Self { steps: Vec::new(), arrives: false }
    }

    fn step(&mut self, about: &'static str, text: impl Into<String>) {
        self.steps.push(Step { about, text: text.into() });
    }
}

impl Inspection {
    /// Follows a packet of an instance to an address or a name. A name is asked of the name server of this worker as the
    /// instance itself would do.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn trace(&self, from: &LocalInstance, to: &str) -> Result<Trace, InspectError> {
        let mut trace = Trace::new();
        trace.step("instance", format!("{} sends from {} through {}", from.name, from.address, from.device));
        let Some(address) = self.address_of(&mut trace, from, to)? else { return Ok(trace) };
        let rules = self.look.rules()?;
        let services = self.services(&rules);
        let called = services.iter().find_map(|service| service.called_at(address));
        if let Some(called) = &called {
            trace.step("service", called.describe(address));
        }
        match rules.fate(from.address, address) {
            Fate::Chosen(chosen) => {
                if let Some(called) = &called {
                    trace.step("owner", called.service.why_open(from));
                }
                trace.step("policy", choice(called.as_ref(), &chosen));
                self.follow(&mut trace, called.as_ref(), address, &chosen)?;
            }
            fate => {
                trace.arrives = fate == Fate::Outside;
                trace.step("policy", stop(&fate, called.is_some()));
            }
        }
        Ok(trace)
    }

    fn address_of(
        &self,
        trace: &mut Trace,
        from: &LocalInstance,
        to: &str,
    ) -> Result<Option<IpAddr>, NetworkError> {
        if let Ok(address) = to.parse() {
            return Ok(Some(address));
        }
        let server = SocketAddr::from((self.look.config().gateway(), NAMES));
        for name in names(from, to) {
            let answer = run_in(&from.namespace, || oak_dns::ask(server, &name))?;
            match answer {
                Ok(Some(addresses)) => {
                    let Some(address) = addresses.first() else {
                        trace.step("name", format!("{name} exists, but has no IPv4 address: it stops here"));
                        return Ok(None);
                    };
                    trace.step("name", format!("{server} says that {name} is {address}"));
                    return Ok(Some(*address));
                }
                Ok(None) => trace.step("name", format!("{server} says that there is no {name}")),
                Err(error) => {
                    let text = format!("{server} has no answer for {name} ({error}): it stops here");
                    trace.step("name", text);
                    return Ok(None);
                }
            }
        }
        trace.step("name", format!("nobody knows {to}: it stops here"));
        Ok(None)
    }

    fn follow(
        &self,
        trace: &mut Trace,
        called: Option<&Called<'_>>,
        destination: IpAddr,
        chosen: &Chosen,
    ) -> Result<(), InspectError> {
        let backends = called.map_or(&[][..], |called| &called.service.backends);
        for (address, share) in &chosen.shares {
            let known = backends.iter().find(|one| one.node_address == *address);
            let who = known.map_or_else(|| "an instance".to_owned(), BackendState::describe);
            let place = of_family(*address, destination);
            trace.step("backend", format!("{who} at {place} gets {}", part(chosen, *share)));
            trace.arrives |= self.node(trace, *address, place)?;
        }
        for backend in backends.iter().filter(|one| !chosen.shares.contains_key(&one.node_address)) {
            let place = of_family(backend.node_address, destination);
            let why = called.map_or_else(String::new, |called| called.why_not(backend, chosen));
            trace.step("backend", format!("{} at {place} gets none: {why}", backend.describe()));
        }
        Ok(())
    }

    /// The way to a node; whether it leads there. `place` is the address in the family of the packet.
    fn node(&self, trace: &mut Trace, address: Ipv4Addr, place: IpAddr) -> Result<bool, InspectError> {
        let device = self.look.device_to(place)?;
        let config = self.look.config();
        if config.subnet_of(address).is_some() {
            let is_here = device.as_ref().is_some_and(|device| *device != config.bridge);
            let text = match device {
                Some(device) if is_here => format!("{place} is on this worker, behind {device}"),
                _ => format!("{place} is an address of this worker, and nobody has it: it stops here"),
            };
            trace.step("node", text);
            return Ok(is_here);
        }
        let Some(peer) =
            self.machine.peers().find(|peer| peer.subnets().any(|subnet| subnet.contains(&address)))
        else {
            trace.step("node", format!("no known worker has {place}: it stops here"));
            return Ok(false);
        };
        let state = self.peer(peer)?;
        trace.step("node", way(&state, &device.unwrap_or_default()));
        Ok(state.way != WayState::None)
    }
}

/// How a packet gets to another worker, in words.
fn way(peer: &PeerState, device: &str) -> String {
    let (worker, why) = (peer.worker, &peer.why);
    let path = match (peer.path, peer.path_kind) {
        (Some(address), Some(PathKind::Relay)) => format!("the relay {address}"),
        (Some(address), _) => address.to_string(),
        (None, _) => "an address that is not known yet".to_owned(),
    };
    match peer.way {
        WayState::Encrypted => format!("worker {worker}, encrypted through {device} to {path}: {why}"),
        WayState::Plain => format!("worker {worker}, not encrypted through {device} to {path}: {why}"),
        WayState::None => format!("worker {worker} is not reached: {why}; it stops here"),
    }
}

/// The address of an instance in its namespace, of the family of another address.
fn of_family(namespace: Ipv4Addr, other: IpAddr) -> IpAddr {
    match other {
        IpAddr::V4(_) => namespace.into(),
        IpAddr::V6(_) => ipv6::node(namespace).into(),
    }
}

/// What an address belongs to.
#[derive(Debug)]
struct Called<'a> {
    service: &'a ServiceState,
    by: By<'a>,
}

#[derive(Debug)]
enum By<'a> {
    /// One of the addresses that choose.
    Policy(Balancing),
    /// The address of one instance.
    Instance(&'a BackendState),
}

/// What a resolver inside the instance asks for, one after the other.
fn names(from: &LocalInstance, name: &str) -> Vec<String> {
    let own = &from.job_name;
    let application = format!("{}.{}.oak", own.application, own.application_namespace);
    let searched =
        [format!("{name}.{}.{application}", own.service_namespace), format!("{name}.{application}")];
    let has_dots = name.matches('.').count() >= 2;
    if has_dots { vec![name.to_owned()] } else { searched.into_iter().chain([name.to_owned()]).collect() }
}

/// How the instances are chosen from which an address chooses.
fn choice(called: Option<&Called<'_>>, chosen: &Chosen) -> String {
    let among = match called.map(|called| &called.by) {
        Some(By::Instance(_)) => return "its own address leads to this instance and no other".to_owned(),
        Some(By::Policy(policy)) => format!("{}: {}", policy.name(), eligible(*policy)),
        None => "the kernel has it, the stored state does not say whose it is".to_owned(),
    };
    let kernel = match chosen.choice {
        Choice::Only => "there is only one of these",
        Choice::InTurn => "new connections go to them in turn",
        Choice::Random => "new connections go to them at random",
        Choice::Sticky => "each caller always comes to the same one",
    };
    format!("{among}; {kernel}")
}

/// Which instances a policy leaves of those that take connections.
const fn eligible(policy: Balancing) -> &'static str {
    match policy {
        Balancing::RoundRobin => "every instance that takes connections",
        Balancing::Closest => {
            "those on this worker; without one here, those on the workers with the shortest measured round trip"
        }
        Balancing::LeastLoaded => {
            "every instance that takes connections, those that use little of their processor share more often"
        }
        Balancing::Sticky => "every instance that takes connections, chosen by the address of the caller",
        Balancing::LocalFirst => "those on this worker; without one here, all of them",
    }
}

/// How many of the new connections.
fn part(chosen: &Chosen, share: usize) -> String {
    match chosen.choice {
        Choice::Only => "all new connections".to_owned(),
        Choice::Sticky => format!("{share} of {} callers", chosen.total()),
        Choice::InTurn | Choice::Random => format!("{share} of {} new connections", chosen.total()),
    }
}

fn stop(fate: &Fate, is_known: bool) -> &'static str {
    match fate {
        Fate::OtherTenant => "it belongs to another organisation, which has not exported it: refused at once",
        Fate::Refused if is_known => "nothing takes connections at this address: refused at once",
        Fate::Refused => {
            "its cluster has said that there is no such thing, or nothing takes connections there: refused at once"
        }
        Fate::Waits => {
            "nobody here has called it yet: the first packet waits, at most 2 s, while this worker asks its cluster"
        }
        Fate::Unknown => {
            "it is not known here, and nobody asks: the worker does not run, or has no /dev/net/tun; refused at once"
        }
        Fate::NodeAddress => "addresses of nodes are not called directly: refused at once",
        Fate::NoIpv6 => "this worker has no IPv6 (docs/network.md says when): dropped",
        Fate::Outside | Fate::Chosen(_) => {
            "it is not an address of a service: it leaves as the machine would send it, or is for the machine itself"
        }
    }
}

impl ServiceState {
    fn why_open(&self, from: &LocalInstance) -> &'static str {
        if self.organization == from.organization {
            "it belongs to the same organisation"
        } else {
            "it belongs to another organisation, which has exported it"
        }
    }

    /// Whether an address is one of its, and which.
    fn called_at(&self, address: IpAddr) -> Option<Called<'_>> {
        let policy =
            self.addresses.iter().find(|one| [one.address.into(), one.ipv6.into()].contains(&address));
        if let Some(found) = policy {
            return Some(Called { service: self, by: By::Policy(found.policy) });
        }
        let is_instance = |one: &&BackendState| {
            let four = one.instance_address;
            [four.into(), ipv6::instance(four).into()].contains(&address)
        };
        let instance = self.backends.iter().find(is_instance)?;
        Some(Called { service: self, by: By::Instance(instance) })
    }
}

impl Called<'_> {
    fn describe(&self, address: IpAddr) -> String {
        let name = &self.service.name;
        let four = match (address, &self.by) {
            (IpAddr::V4(_), _) => String::new(),
            (IpAddr::V6(_), By::Instance(one)) => format!(" (goes with {})", one.instance_address),
            (IpAddr::V6(_), By::Policy(policy)) => {
                let found = self.service.addresses.iter().find(|one| one.policy == *policy);
                found.map_or_else(String::new, |one| format!(" (goes with {})", one.address))
            }
        };
        match &self.by {
            By::Instance(one) => format!("{address}{four} is instance {} of {name}", one.number),
            By::Policy(policy) => format!("{address}{four} is the service {name}, {}", policy.name()),
        }
    }

    /// Why an instance gets none of the connections of this address.
    fn why_not(&self, backend: &BackendState, chosen: &Chosen) -> String {
        match &self.by {
            By::Instance(_) => "the address is that of another instance".to_owned(),
            By::Policy(_) if !backend.is_ready => backend.why.clone(),
            By::Policy(policy) => self.preferred(*policy, chosen).to_owned(),
        }
    }

    /// What the instances have that are chosen by a policy.
    fn preferred(&self, policy: Balancing, chosen: &Chosen) -> &'static str {
        let is_chosen = |one: &&BackendState| chosen.shares.contains_key(&one.node_address);
        let is_here = self.service.backends.iter().filter(is_chosen).any(|one| one.worker.is_none());
        match policy {
            Balancing::Closest | Balancing::LocalFirst if is_here => {
                "it is on another worker, and there is one on this worker"
            }
            Balancing::Closest => "its worker is farther away",
            Balancing::RoundRobin | Balancing::LeastLoaded | Balancing::Sticky | Balancing::LocalFirst => {
                "the kernel has not been told of it yet"
            }
        }
    }
}

impl BackendState {
    fn describe(&self) -> String {
        format!("instance {}", self.number)
    }
}

#[cfg(test)]
mod tests {
    use oak_model::WorkerId;

    use super::super::status::AddressState;
    use super::*;

    fn instance() -> LocalInstance {
        let word = |text: &str| text.parse().unwrap();
        LocalInstance {
            name: "web.0".into(),
            service: "web.test.shop.prod".into(),
            address: Ipv4Addr::new(10, 18, 0, 2),
            device: "oak0-1".into(),
            namespace: "/nowhere".into(),
            organization: None,
            key: "6abff0e0c0ffee0000000001.0".parse().unwrap(),
            job_name: oak_model::JobName {
                application: word("shop"),
                application_namespace: word("prod"),
                service: word("web"),
                service_namespace: word("test"),
            },
        }
    }

    #[test]
    fn names_are_searched_as_inside_the_instance() {
        assert_eq!(names(&instance(), "db"), ["db.test.shop.prod.oak", "db.shop.prod.oak", "db"]);
        assert_eq!(names(&instance(), "db.test.shop.prod.oak"), ["db.test.shop.prod.oak"]);
    }

    #[test]
    fn every_end_is_said() {
        for fate in [
            Fate::Refused,
            Fate::OtherTenant,
            Fate::Waits,
            Fate::Unknown,
            Fate::NodeAddress,
            Fate::NoIpv6,
            Fate::Outside,
        ] {
            assert!(!stop(&fate, true).is_empty() && !stop(&fate, false).is_empty());
        }
    }

    fn shop() -> ServiceState {
        let backend = |number: u8, worker| BackendState {
            number: number.into(),
            worker,
            instance_address: [10, 30, 0, number + 10].into(),
            node_address: [10, 18, number, 2].into(),
            is_ready: true,
            why: String::new(),
        };
        let address = |policy, last| AddressState {
            policy,
            address: [10, 30, 55, last].into(),
            ipv6: ipv6::service(policy, [10, 30, 55, last].into()),
            chosen: Vec::new(),
        };
        let elsewhere = Some(WorkerId::from_parts(1, 2));
        ServiceState {
            name: "web.test.shop.prod".into(),
            addresses: vec![address(Balancing::RoundRobin, 55), address(Balancing::Closest, 56)],
            organization: None,
            exported: false,
            backends: vec![backend(0, None), backend(1, elsewhere)],
        }
    }

    #[test]
    fn an_address_says_how_it_chooses_in_both_families() {
        let shop = shop();
        let said = |text: &str| {
            let address = text.parse().unwrap();
            shop.called_at(address).map(|called| called.describe(address))
        };
        for (address, expected) in [
            ("10.30.55.55", "10.30.55.55 is the service web.test.shop.prod, round-robin"),
            (
                "fdff:1000::55:56",
                "fdff:1000::55:56 (goes with 10.30.55.56) is the service web.test.shop.prod, closest",
            ),
            ("fdff::11", "fdff::11 (goes with 10.30.0.11) is instance 1 of web.test.shop.prod"),
        ] {
            assert_eq!(said(address).as_deref(), Some(expected));
        }
        assert_eq!(said("fdff:2000::55:56"), None, "an address of another policy");
    }

    #[test]
    fn an_instance_that_is_left_out_is_told_why() {
        let shop = shop();
        let called = shop.called_at("10.30.55.56".parse().unwrap()).unwrap();
        let only = |address: [u8; 4]| Chosen { choice: Choice::Only, shares: [(address.into(), 1)].into() };
        let why = |number: usize, chosen| called.why_not(&shop.backends[number], &only(chosen));
        assert!(why(1, [10, 18, 0, 2]).contains("on this worker"));
        assert!(why(0, [10, 18, 1, 2]).contains("farther"));
    }
}

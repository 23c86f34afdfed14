//! Names for instances: a name server on the gateway address of this node, kept in step with its tables.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use ipnet::IpNet;
use oak_control::worker::{Answer, NetworkTable, TableVersion, Tenant, Worker, Workload};
use oak_dns::{
    DnsConfig, DnsServer, HostResolver, InstanceEntry, Limits, Lookup, PolicyAddress, Question, ServiceEntry,
    ServicePort, Upstreams, Zone, ZoneContent, instance_resolver,
};
use oak_model::overlay::{Readiness, Target};
use oak_model::{ApplicationId, Balancing, JobName, OrganizationId, chain, ipv6};
use oak_net::NetworkConfig;
use oak_store::StoreError;
use tokio::sync::{SetOnce, watch};
use tracing::{debug, info, warn};

use crate::operations::Operations;

/// The resolvers of this machine. The one behind a loopback address is reachable: the server asks from the machine.
const HOST_FILE: &str = "/etc/resolv.conf";
/// Where systemd keeps the real servers when the file above names its own.
const SYSTEMD_FILE: &str = "/run/systemd/resolve/resolv.conf";
/// The port of name servers; resolvers know no other.
const PORT: u16 = 53;
/// A start waits this long for the names of this node.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the port is tried again while another program has it.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// The name server of this node.
pub(crate) struct Names {
    zone: watch::Sender<Arc<Zone>>,
    lookup: Arc<Elsewhere>,
    /// The zone has what this node knows. Before, every name would be denied.
    published: SetOnce<()>,
    /// Held while the server is being started.
    starting: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    wanted: Option<Wanted>,
    server: Option<DnsServer>,
    /// Why there is none, as it was last said.
    note: Option<String>,
}

/// What the name server belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    gateway: Ipv4Addr,
    subnets: Vec<IpNet>,
    ranges: Vec<IpNet>,
}

impl Names {
    pub(crate) fn new() -> Self {
        Self {
            zone: watch::Sender::default(),
            lookup: Arc::default(),
            published: SetOnce::new(),
            starting: tokio::sync::Mutex::new(()),
            state: Mutex::default(),
        }
    }

    /// Names that are not known here are asked for through these.
    pub(crate) fn ask_through(&self, operations: &Arc<Operations>) {
        // Set once: this is called once per start.
        let _ = self.lookup.0.set(Arc::downgrade(operations));
    }

    /// Says which network the server is for. It starts when the names are known. Returns whether it was for another one, or none.
    pub(crate) fn belong_to(&self, network: &NetworkConfig) -> bool {
        let subnets: Vec<IpNet> = network.subnets().map(IpNet::from).collect();
        let mut ranges = vec![
            network.service_range.into(),
            network.node_range.into(),
            ipv6::SERVICES.into(),
            ipv6::NODES.into(),
        ];
        ranges.extend(&subnets);
        let wanted = Wanted { gateway: network.gateway(), subnets, ranges };
        let mut state = self.lock();
        let is_other = state.wanted.as_ref() != Some(&wanted);
        if is_other {
            *state = State { wanted: Some(wanted), ..State::default() };
        }
        is_other
    }

    /// Starts the server of the network, if it does not run. Does not fail: without it instances get the resolvers of
    /// the machine.
    pub(crate) async fn serve(&self) {
        if tokio::time::timeout(PATIENCE, self.published.wait()).await.is_err() {
            warn!("the names of this node are not known yet");
        }
        self.retry().await;
    }

    /// Starts the server if there shall be one and is none.
    async fn retry(&self) {
        let _starting = self.starting.lock().await;
        let Some(wanted) = self.missing().filter(|_| self.published.initialized()) else { return };
        let listen = SocketAddr::from((wanted.gateway, PORT));
        let config = DnsConfig {
            listen,
            clients: wanted.subnets.clone(),
            upstreams: Upstreams::File(HOST_FILE.into()),
            limits: Limits::default(),
        };
        let lookup = Arc::<Elsewhere>::clone(&self.lookup);
        let started = DnsServer::start(config, self.zone.subscribe(), lookup).await;
        let mut state = self.lock();
        if state.wanted != Some(wanted) {
            return;
        }
        match started {
            Ok(server) => {
                info!(address = %server.address(), "name server of the instances");
                state.note = None;
                state.server = Some(server);
            }
            Err(error) => {
                let why = if error.is_taken() {
                    ": another program has the port; let it listen on its own addresses only"
                } else {
                    ""
                };
                let note = format!(
                    "no names for services on this node: {}{why}. New instances get the resolvers of this machine",
                    chain(&error)
                );
                // Said once, not with every try.
                if state.note.as_ref() != Some(&note) {
                    warn!(note, "network");
                }
                state.note = Some(note);
            }
        }
    }

    /// What a server is missing for.
    fn missing(&self) -> Option<Wanted> {
        let state = self.lock();
        state.wanted.clone().filter(|_| state.server.is_none())
    }

    /// The `resolv.conf` of an instance of this service.
    pub(crate) fn resolver(&self, name: &JobName) -> String {
        match self.serving() {
            Some(gateway) => {
                let host = HostResolver::parse(&fs::read_to_string(HOST_FILE).unwrap_or_default());
                instance_resolver(gateway, name, &host)
            }
            None => of_host([HOST_FILE, SYSTEMD_FILE].map(Path::new)),
        }
    }

    /// The address of the server, if it runs.
    fn serving(&self) -> Option<Ipv4Addr> {
        let state = self.lock();
        state.wanted.as_ref().filter(|_| state.server.is_some()).map(|wanted| wanted.gateway)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Builds a new zone for every new table, and tries for the port while it is taken, for ever.
    pub(crate) async fn follow(operations: Arc<Operations>) -> Result<(), StoreError> {
        let mut tables = operations.network.tables();
        tables.mark_changed();
        let mut serial = 0_u32;
        let mut again = tokio::time::interval(TRY_AGAIN);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // Both branches can be dropped at any point without losing anything.
            tokio::select! {
                changed = tables.changed() => if changed.is_err() { return Ok(()) },
                // Nothing wakes an idle node whose server runs: what could stop it comes with a table.
                _ = again.tick(), if operations.names.missing().is_some() => {
                    operations.names.retry().await;
                    continue;
                }
            }
            let (version, table) = tables.borrow_and_update().clone();
            if version == TableVersion::default() {
                // Not a table yet.
                continue;
            }
            let engine = operations.engine.wait().await;
            let known = engine.call(move |worker, _, _| services(worker, &table)).await;
            let Ok((services, askers)) = known else { return Ok(()) };
            serial = serial.wrapping_add(1);
            debug!(serial, services = services.len(), "names of services");
            operations.names.publish(serial, services, askers);
            operations.names.retry().await;
        }
    }

    /// Makes these services the ones that are known here; whoever knows more services of other nodes adds them to the
    /// list.
    fn publish(&self, serial: u32, services: Vec<ServiceEntry>, askers: HashMap<IpAddr, ApplicationId>) {
        let wanted = self.lock().wanted.clone();
        let server = wanted.as_ref().map(|wanted| wanted.gateway.into());
        let ranges = wanted.map(|wanted| wanted.ranges).unwrap_or_default();
        self.zone.send_replace(Arc::new(Zone::new(ZoneContent { serial, server, services, askers, ranges })));
        // Every time after the first it is set already.
        let _ = self.published.set(());
    }
}

/// Asks the cluster for what nobody here has called so far.
#[derive(Default)]
struct Elsewhere(OnceLock<Weak<Operations>>);

impl Lookup for Elsewhere {
    fn find<'a>(&'a self, question: &'a Question, asker: IpAddr) -> BoxFuture<'a, Option<ServiceEntry>> {
        Box::pin(async move {
            let operations = self.0.get()?.upgrade()?;
            let IpAddr::V4(source) = asker else { return None };
            let target = match question {
                Question::Service(name) => Target::Name(name.clone()),
                Question::Address(IpAddr::V4(address)) => Target::Address(*address),
                Question::Address(IpAddr::V6(address)) => Target::Address(ipv6::service_layer(*address)?),
            };
            let engine = operations.engine.wait().await;
            let asked = target.clone();
            engine.post(move |worker, now, _| worker.ask(now, source, asked)).await.ok()?;
            loop {
                let news = operations.answered.notified();
                tokio::pin!(news);
                news.as_mut().enable();
                let target = target.clone();
                let table = operations.network.tables().borrow().1.clone();
                let found = engine
                    .call(move |worker, _, _| {
                        let application = worker.application_at(source);
                        match worker.answer(&target, application) {
                            Answer::Pending => Err(()),
                            Answer::NotFound => Ok(None),
                            Answer::Service(id) => Ok(service(worker, &table, id)),
                        }
                    })
                    .await
                    .ok()?;
                match found {
                    Ok(found) => return found,
                    Err(()) => news.await,
                }
            }
        })
    }
}

/// Everything that is known here of one service.
fn service(worker: &Worker, table: &NetworkTable, id: oak_model::ServiceId) -> Option<ServiceEntry> {
    let callers = callers(worker);
    let known = worker.known_services().filter(|known| known.service.id == id);
    let known = known.map(|known| elsewhere(&known, &callers));
    let here = worker.workloads().filter(|workload| workload.key().service == id);
    let mut entries = known.chain(here.map(|workload| entry(workload, table, &callers)));
    let mut all = entries.next()?;
    for entry in entries {
        all.instances.extend(entry.instances);
    }
    Some(all)
}

type Known = (Vec<ServiceEntry>, HashMap<IpAddr, ApplicationId>);

/// The services that are known here with all their instances, and who asks from which address.
fn services(worker: &Worker, table: &NetworkTable) -> Known {
    let callers = callers(worker);
    let mut services: Vec<_> = worker.known_services().map(|known| elsewhere(&known, &callers)).collect();
    let mut askers = HashMap::new();
    for workload in worker.workloads() {
        let desired = &workload.assignment().desired;
        if let Some(address) = workload.address() {
            askers.insert(address.into(), desired.application);
        }
        if worker.is_open(desired.key.service) {
            services.push(entry(workload, table, &callers));
        }
    }
    (services, askers)
}

/// The applications of this node, and who they are.
type Callers = BTreeMap<ApplicationId, Tenant>;

fn callers(worker: &Worker) -> Callers {
    let caller = |workload: &Workload| {
        let assignment = workload.assignment();
        (assignment.desired.application, Tenant::Organization(assignment.organization))
    };
    worker.workloads().map(caller).collect()
}

/// For which of them a service does not exist.
fn hidden_from(
    callers: &Callers,
    organization: Option<OrganizationId>,
    exported: bool,
) -> BTreeSet<ApplicationId> {
    let others = callers.iter().filter(|(_, caller)| !caller.may_call(organization, exported));
    others.map(|(application, _)| *application).collect()
}

/// An instance of this node with its service.
fn entry(workload: &Workload, table: &NetworkTable, callers: &Callers) -> ServiceEntry {
    let desired = &workload.assignment().desired;
    let node_address = table.instances.get(&desired.instance_address);
    let instance = InstanceEntry {
        number: desired.key.number,
        addresses: own_addresses(desired.instance_address),
        serves: node_address.is_some() && workload.serves(),
    };
    ServiceEntry {
        application: desired.application,
        name: desired.job_name.clone(),
        addresses: desired.addresses().flat_map(policy_addresses).collect(),
        instances: node_address.map(|_| instance).into_iter().collect(),
        ports: desired.spec.ports.iter().map(port).collect(),
        hidden_from: hidden_from(callers, workload.assignment().organization, desired.spec.exported),
    }
}

/// A service with its instances on other nodes.
fn elsewhere(known: &oak_control::worker::Known<'_>, callers: &Callers) -> ServiceEntry {
    let instances = known.backends.iter().map(|backend| InstanceEntry {
        number: backend.key.number,
        addresses: own_addresses(backend.instance_address),
        serves: backend.readiness == Readiness::Ready,
    });
    ServiceEntry {
        application: known.service.application,
        name: known.service.job_name.clone(),
        addresses: known.service.all_addresses().flat_map(policy_addresses).collect(),
        instances: instances.collect(),
        ports: known.service.ports.iter().map(port).collect(),
        hidden_from: hidden_from(callers, known.service.organization, known.service.exported),
    }
}

/// An address of a service and the IPv6 address that goes with it.
fn policy_addresses((policy, address): (Balancing, Ipv4Addr)) -> [PolicyAddress; 2] {
    let six = ipv6::service(policy, address);
    [address.into(), six.into()].map(|address| PolicyAddress { policy, address })
}

/// The same of an instance.
fn own_addresses(address: Ipv4Addr) -> Vec<IpAddr> {
    vec![address.into(), ipv6::instance(address).into()]
}

const fn port(port: &oak_model::PortMapping) -> ServicePort {
    ServicePort { protocol: port.protocol, port: port.container }
}

/// The machine's resolver configuration for instances that have no name server of ours. A resolver on the machine's
/// loopback is not reachable from inside; systemd keeps the real servers in a second file.
fn of_host(files: [&Path; 2]) -> String {
    for file in files {
        let text = fs::read_to_string(file).unwrap_or_default();
        let usable = |line: &&str| !line.trim_start().starts_with("nameserver 127.");
        if text.lines().any(|line| line.trim_start().starts_with("nameserver") && usable(&line)) {
            return text.lines().filter(usable).map(|line| format!("{line}\n")).collect();
        }
    }
    "# this machine has no name server that is reachable from here\n".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_on_the_loopback_is_not_given_to_instances() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (directory.path().join("first"), directory.path().join("second"));
        fs::write(&first, "nameserver 127.0.0.53\nsearch lan\n").unwrap();
        assert!(of_host([&first, &second]).starts_with('#'));
        fs::write(&second, "nameserver 192.0.2.53\nsearch lan\n").unwrap();
        assert_eq!(of_host([&first, &second]), "nameserver 192.0.2.53\nsearch lan\n");
    }

    #[tokio::test]
    async fn a_gateway_that_cannot_be_listened_on_leaves_a_note_and_the_resolvers_of_the_machine() {
        let names = Names::new();
        names.publish(1, Vec::new(), HashMap::new());
        // No machine has an address of the range for documentation.
        assert!(names.belong_to(&NetworkConfig::new("/nowhere", "203.0.113.0/25".parse().unwrap())));
        names.serve().await;
        assert!(names.lock().server.is_none());
        assert!(names.lock().note.as_ref().unwrap().contains("203.0.113.1:53"));
        let word = |text: &str| text.parse().unwrap();
        let name = JobName {
            application: word("shop"),
            application_namespace: word("prod"),
            service: word("web"),
            service_namespace: word("test"),
        };
        assert!(!names.resolver(&name).contains("203.0.113.1"));
    }
}

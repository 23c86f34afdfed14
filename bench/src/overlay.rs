//! From an instance to an instance on another node: what the way of oak costs, against others, in turns.
//!
//! ```text
//!   plain client ─┐                        ┌─ plain server       routed, VXLAN + DNAT, wireguard-go
//!                 ├─ node a ── cable ── node b ┤
//!   instance ─────┘                        └─ instance           oak, plain and encrypted
//! ```
//!
//! Once with the segmentation offloads of the cable (as between virtual machines), once without (every packet on the cable
//! has at most 1500 bytes, as on a wire).

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path as FilePath;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context;
use ipnet::Ipv4Net;
use oak_net::{
    Attach, Attached, InstanceAddress, NetworkConfig, NodeNetwork, Peer, Service, ServiceTable, Tenant,
};
use oak_tunnel::{Client, Path, PrivateKey, TunnelConfig};

use crate::Settings;
use crate::measure::{self, Samples, Way};
use crate::node::{LIMIT, Node, Place, Process};
use crate::process::wait_until;
use crate::table::verdict;

/// Rounds if nothing smaller is asked for.
const ROUNDS: usize = 5;
const MANY: usize = 5_000;
const CHANGES: usize = 10;
/// What workers leave for the longest packet of an instance in the tunnel, bytes.
const TUNNEL_MTU: u32 = 1420;

/// What has to be set before a way is measured.
#[derive(Clone, Copy)]
enum Before {
    Nothing,
    Oak { encrypted: bool, services: usize },
}

/// Runs the measurement and prints its result.
pub(crate) fn run(settings: &Settings) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let site = Site::new(directory.path())?;
    let mut ways = site.peers_of_ours()?;
    ways.extend(site.ours());
    let (before, ways): (Vec<_>, Vec<_>) = ways.into_iter().unzip();
    let _server = measure::serve(&site.server.place())?;
    let _instance = measure::serve(&site.callee())?;
    let rounds = settings.rounds.min(ROUNDS);
    for (title, offloads) in
        [("with offloads of the cable", "on"), ("every packet at most 1500 bytes", "off")]
    {
        for node in &site.nodes {
            node.node.run(&format!(
                "ethtool -K up0 tso {offloads} gso {offloads} tx-udp-segmentation {offloads} gro on"
            ))?;
        }
        let mut samples: Vec<_> = ways.iter().map(|_| Samples::default()).collect();
        for _ in 0..rounds {
            for ((way, before), samples) in ways.iter().zip(&before).zip(&mut samples) {
                site.prepare(*before)?;
                let target = format!("{}:9", way.target);
                wait_until(&way.name, LIMIT, || way.from.reaches(&target))?;
                samples.add(way)?;
            }
        }
        measure::print(&format!("overlay, {title}"), rounds, &ways, &samples);
        judge(&ways, &samples);
    }
    for services in [1, MANY] {
        let times = site.changes(services)?;
        println!(
            "one instance more or less, {services} in the table: p50 {:.1} ms, longest {:.1} ms",
            times[times.len() / 2].as_secs_f64() * 1e3,
            times[times.len() - 1].as_secs_f64() * 1e3
        );
    }
    Ok(())
}

fn judge(ways: &[Way], samples: &[Samples]) {
    let of = |name: &str| ways.iter().position(|way| way.name == name).map(|at| &samples[at]);
    let Some(routed) = of("routed") else { return };
    for (name, budget, longer_by) in
        [("oak plain, 1 service", 0.9, 3.0), ("oak encrypted, 1 service", 0.3, 50.0)]
    {
        let Some(ours) = of(name) else { continue };
        let share = ours.speed(1) / routed.speed(1);
        let longer = ours.trip(0.5) - routed.trip(0.5);
        println!(
            "\n{name}: {share:.2} of routed with one stream (budget {budget}, {}), {longer:+.1} µs (budget {longer_by}, {})",
            verdict(share >= budget),
            verdict(longer <= longer_by)
        );
    }
    if let (Some(ours), Some(other)) = (of("oak encrypted, 1 service"), of("wireguard-go")) {
        let ratio = ours.speed(1) / other.speed(1);
        println!(
            "oak encrypted: {ratio:.2} of wireguard-go with one stream (budget 1, {})",
            verdict(ratio >= 1.0)
        );
    }
}

/// A node with the network of oak and one instance.
struct OakNode {
    node: Node,
    number: u8,
    network: NodeNetwork,
    instance: Attached,
    engine: Client,
    _engine: Process,
}

struct Site {
    nodes: [OakNode; 2],
    client: Node,
    server: Node,
    /// What the other ways run.
    others: std::cell::RefCell<Vec<Process>>,
    runtime: tokio::runtime::Runtime,
}

fn subnet(number: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(10, 18, number, 0), 24)
}

impl OakNode {
    fn new(node: Node, number: u8, directory: &FilePath) -> anyhow::Result<Self> {
        let config = NetworkConfig::new(directory.join(format!("net{number}")), subnet(number));
        let tunnel = TunnelConfig {
            mtu: TUNNEL_MTU,
            ..TunnelConfig::new(
                &oak_net::encrypted_name(&config.bridge),
                config.encrypted_port,
                directory.join(format!("tunnel{number}")),
            )
        };
        let (network, instance) = node.place().inside(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build()?;
            runtime.block_on(async {
                let network = NodeNetwork::open(config).await?;
                let address = Ipv4Addr::new(10, 18, number, 2);
                let instance = network.attach(Attach { id: "bench.web.instance.0".into(), address }).await?;
                Ok((network, instance))
            })
        })?;
        let program = std::env::current_exe()?.with_file_name("oak-tunnel");
        let file = directory.join(format!("tunnel{number}.json"));
        fs::write(&file, serde_json::to_vec(&tunnel)?)?;
        let process = node
            .place()
            .command(&program.display().to_string())
            .arg(&file)
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let engine = Client::new(&tunnel);
        wait_until("the engine", LIMIT, || engine.status().is_ok())?;
        Ok(Self { node, number, network, instance, engine, _engine: Process(process) })
    }

    fn own(&self) -> Ipv4Addr {
        self.instance.address
    }
}

impl Site {
    fn new(directory: &FilePath) -> anyhow::Result<Self> {
        let (a, b, client, server) = (Node::new()?, Node::new()?, Node::new()?, Node::new()?);
        a.connect("up0", "192.0.2.1/24", (&b, "up0", "192.0.2.2/24"))?;
        for (node, end, number) in [(&a, &client, 1), (&b, &server, 2)] {
            node.connect(
                "down0",
                &format!("10.50.{number}.1/24"),
                (end, "up0", &format!("10.50.{number}.2/24")),
            )?;
            // An address for each of the ways.
            let other = 3 - number;
            for way in [51, 52] {
                node.run(&format!("ip address add 10.{way}.{number}.1/24 dev down0"))?;
                end.run(&format!("ip address add 10.{way}.{number}.2/24 dev up0"))?;
                // WireGuard accepts no other source.
                end.run(&format!(
                    "ip route add 10.{way}.{other}.0/24 via 10.{way}.{number}.1 src 10.{way}.{number}.2"
                ))?;
            }
            end.run(&format!("ip route add default via 10.50.{number}.1"))?;
            node.run(&format!("ip route add 10.50.{other}.0/24 via 192.0.2.{other}"))?;
        }
        let nodes = [OakNode::new(a, 1, directory)?, OakNode::new(b, 2, directory)?];
        let keys = [nodes[0].engine.status()?.public_key, nodes[1].engine.status()?.public_key];
        for (node, (other, key)) in nodes.iter().zip([(2, keys[1]), (1, keys[0])]) {
            node.engine.set_peers(vec![oak_tunnel::Peer {
                name: "other".to_owned(),
                public_key: key,
                paths: vec![Path::Direct(format!("192.0.2.{other}:50103").parse()?)],
                networks: vec![subnet(other).into()],
                ..oak_tunnel::Peer::default()
            }])?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { nodes, client, server, others: Default::default(), runtime })
    }

    fn callee(&self) -> Place {
        Place(self.nodes[1].instance.namespace.clone())
    }

    /// Between the plain client and server.
    fn plain_way(&self, name: &str, net: u8, target: Ipv4Addr) -> (Before, Way) {
        let (from, to) = (self.client.place(), self.server.place());
        let (own, listens) = (Ipv4Addr::new(10, net, 1, 2), Ipv4Addr::new(10, net, 2, 2));
        (Before::Nothing, Way { name: name.to_owned(), from, to, own, target, listens })
    }

    fn peers_of_ours(&self) -> anyhow::Result<Vec<(Before, Way)>> {
        let mut ways = vec![self.plain_way("routed", 50, Ipv4Addr::new(10, 50, 2, 2)), self.vxlan()?];
        match self.wireguard_go() {
            Ok(way) => ways.push(way),
            Err(error) => println!("skipped: wireguard-go: {error:#}"),
        }
        Ok(ways)
    }

    /// Of the kernel, with one rule that translates the address of a service.
    fn vxlan(&self) -> anyhow::Result<(Before, Way)> {
        for (node, own, other) in [(&self.nodes[0], 1, 2), (&self.nodes[1], 2, 1)] {
            let node = &node.node;
            node.run(&format!(
                "ip link add vx0 type vxlan id 7 dstport 4789 local 192.0.2.{own} remote 192.0.2.{other} dev up0"
            ))?;
            node.run(&format!("ip address add 10.54.0.{own}/24 dev vx0"))?;
            node.run("ip link set vx0 mtu 1450 up")?;
            node.run(&format!("ip route add 10.52.{other}.0/24 via 10.54.0.{other}"))?;
        }
        let target = Ipv4Addr::new(10, 53, 0, 9);
        let node = &self.nodes[0].node;
        node.run("nft add table ip bench")?;
        node.run("nft add chain ip bench services { type nat hook prerouting priority dstnat ; }")?;
        node.run(&format!("nft add rule ip bench services ip daddr {target} dnat to 10.52.2.2"))?;
        Ok(self.plain_way("VXLAN + DNAT", 52, target))
    }

    fn wireguard_go(&self) -> anyhow::Result<(Before, Way)> {
        let keys = [PrivateKey::generate(), PrivateKey::generate()];
        let directory = tempfile::tempdir()?;
        for (node, own, other) in [(&self.nodes[0], 0, 1), (&self.nodes[1], 1, 0)] {
            let node = &node.node;
            // Its control socket is visible on the whole machine.
            let name = format!("bwg{own}x{}", std::process::id() % 100_000);
            let file = directory.path().join(format!("{own}.key"));
            fs::write(&file, String::from(keys[own].clone()))?;
            let mut command = node.place().command("wireguard-go");
            let process = command.args(["-f", &name]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
            self.others.borrow_mut().push(Process(process));
            wait_until("wireguard-go", LIMIT, || node.run(&format!("wg show {name}")).is_ok())?;
            let (public, file) = (keys[other].public(), file.display());
            let (it, its_net) = (other + 1, other + 1);
            node.run(&format!(
                "wg set {name} listen-port 51821 private-key {file} peer {public} endpoint 192.0.2.{it}:51821 \
                 allowed-ips 10.51.{its_net}.0/24"
            ))?;
            node.run(&format!("ip link set {name} mtu 1420 up"))?;
            node.run(&format!("ip route add 10.51.{its_net}.0/24 dev {name}"))?;
        }
        Ok(self.plain_way("wireguard-go", 51, Ipv4Addr::new(10, 51, 2, 2)))
    }

    fn ours(&self) -> Vec<(Before, Way)> {
        let mut ways = Vec::new();
        for (encrypted, how) in [(false, "plain"), (true, "encrypted")] {
            for services in [1, MANY] {
                let way = Way {
                    name: format!("oak {how}, {services} service{}", if services == 1 { "" } else { "s" }),
                    from: Place(self.nodes[0].instance.namespace.clone()),
                    to: self.callee(),
                    own: self.nodes[0].own(),
                    target: service_address(services - 1),
                    listens: self.nodes[1].own(),
                };
                ways.push((Before::Oak { encrypted, services }, way));
            }
        }
        ways
    }

    fn prepare(&self, before: Before) -> anyhow::Result<()> {
        let Before::Oak { encrypted, services } = before else { return Ok(()) };
        let table = self.table(services);
        for (node, other) in [(&self.nodes[0], 2), (&self.nodes[1], 1)] {
            let way = if encrypted {
                oak_net::Way::Encrypted
            } else {
                oak_net::Way::Plain { underlay: Ipv4Addr::new(192, 0, 2, other).into() }
            };
            let problems = self.runtime.block_on(node.network.set_peers(vec![Peer {
                subnet: subnet(other),
                gateway: Ipv4Addr::new(10, 18, other, 1),
                way,
            }]))?;
            anyhow::ensure!(problems.is_empty(), "node {}: {problems:?}", node.number);
            self.runtime.block_on(node.network.apply(table.clone()))?;
        }
        Ok(())
    }

    /// How long the kernel takes to have a change of one service, shortest first.
    fn changes(&self, services: usize) -> anyhow::Result<Vec<Duration>> {
        let one = self.table(services);
        let mut two = one.clone();
        let changed = two.services.last_mut().context("a service")?;
        changed.backends.push(self.nodes[0].own());
        let network = &self.nodes[0].network;
        self.runtime.block_on(network.apply(one.clone()))?;
        let mut times = Vec::with_capacity(2 * CHANGES);
        for table in [&two, &one].into_iter().cycle().take(2 * CHANGES) {
            let began = Instant::now();
            let applied = self.runtime.block_on(network.apply(table.clone()))?;
            times.push(began.elapsed());
            anyhow::ensure!(applied.changed, "nothing changed");
        }
        times.sort();
        Ok(times)
    }

    /// That many services, the last of which is the one that is called.
    fn table(&self, services: usize) -> ServiceTable {
        let known = |number: usize| Service {
            addresses: vec![service_address(number)],
            backends: vec![self.nodes[1].own()],
            ..Service::default()
        };
        let instances = self.nodes.iter().map(|node| InstanceAddress {
            instance: Ipv4Addr::new(10, 30, 0, node.number),
            namespace: node.own(),
        });
        let services: Vec<_> = (0..services).map(known).collect();
        let instances: Vec<_> = instances.collect();
        let addresses = services.iter().flat_map(|service| service.addresses.iter().copied());
        let owned: Vec<_> = addresses.chain(instances.iter().map(|one| one.instance)).collect();
        let members = self.nodes.iter().map(OakNode::own).collect();
        let tenants = vec![Tenant { members, reaches: owned.clone(), refused: Vec::new() }];
        ServiceTable { services, instances, tenants, owned, ..ServiceTable::default() }
    }
}

fn service_address(number: usize) -> Ipv4Addr {
    let [.., high, low] = u32::try_from(number + 256).unwrap_or(u32::MAX).to_be_bytes();
    Ipv4Addr::new(10, 30, high, low)
}

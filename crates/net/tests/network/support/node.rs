//! Several nodes in one world: a network namespace each, on one switch.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use oak_net::{
    Attach, Attached, InstanceAddress, NetworkConfig, NodeNetwork, Peer, Service, ServiceTable, Way,
};

use super::{World, await_up, inside, of_one_tenant, run, service_address};

/// Node `n` has subnet 10.18.`n`.0/24 and is at 192.0.2.`n`.
pub(crate) struct Node {
    pub(crate) number: u8,
    pub(crate) place: PathBuf,
    pub(crate) config: NetworkConfig,
}

/// An instance on a node: 10.18.`node`.`n`, seen as 10.30.`node`.`n`.
#[derive(Clone, Copy)]
pub(crate) struct Somebody {
    pub(crate) node: u8,
    pub(crate) n: u8,
}

impl Somebody {
    pub(crate) fn namespace(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 18, self.node, self.n)
    }

    pub(crate) fn instance(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 30, self.node, self.n)
    }
}

impl Node {
    /// Makes the machine and connects it to the switch.
    pub(crate) fn new(world: &World, number: u8) -> Self {
        if !run("ip", "-br link").contains("switch") {
            run("ip", "link add switch type bridge");
            run("ip", "link set switch up");
        }
        let place = world.machine(&format!("node{number}"));
        let port = format!("port{number}");
        let at = place.display();
        run("ip", &format!("link add {port} type veth peer name eth0 netns {at}"));
        run("ip", &format!("link set {port} master switch up"));
        inside(&place, || {
            run("ip", "link set lo up");
            run("ip", &format!("addr add {}/24 dev eth0", underlay(number)));
            run("ip", "link set eth0 up");
            await_up("eth0");
        });
        await_up(&port);
        let directory = world.directory().join(format!("net{number}"));
        let config = NetworkConfig::new(directory, subnet(number));
        Self { number, place, config }
    }

    /// Opens the network of the node, in the node's namespace.
    pub(crate) fn open(&self) -> NodeNetwork {
        inside(&self.place, || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(NodeNetwork::open(self.config.clone())).unwrap()
        })
    }

    /// Opens it with the given nodes as peers.
    pub(crate) async fn open_with(&self, peers: &[u8]) -> NodeNetwork {
        let network = self.open();
        assert_eq!(network.set_peers(peers.iter().map(|n| peer(*n)).collect()).await.unwrap(), []);
        network
    }

    /// Runs a command on the node.
    pub(crate) fn run(&self, program: &str, arguments: &str) -> String {
        inside(&self.place, || run(program, arguments))
    }
}

pub(crate) fn subnet(number: u8) -> ipnet::Ipv4Net {
    ipnet::Ipv4Net::new(Ipv4Addr::new(10, 18, number, 0), 24).unwrap()
}

pub(crate) fn gateway(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 18, number, 1)
}

pub(crate) fn underlay(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, number)
}

pub(crate) fn peer(number: u8) -> Peer {
    let gateway = subnet(number).hosts().next().unwrap();
    Peer { subnet: subnet(number), gateway, way: Way::Plain { underlay: underlay(number).into() } }
}

pub(crate) async fn attach(network: &NodeNetwork, who: Somebody) -> Attached {
    let attach = Attach { id: format!("shop.web.instance.{}", who.n), address: who.namespace() };
    network.attach(attach).await.unwrap()
}

/// Service 1 with the given backends; everybody known has an instance address.
pub(crate) fn table(backends: &[Somebody], known: &[Somebody]) -> ServiceTable {
    let members = backends.iter().chain(known).map(|who| who.namespace()).collect();
    let table = ServiceTable {
        services: vec![Service {
            addresses: vec![service_address(1)],
            backends: backends.iter().map(|who| who.namespace()).collect(),
            ..Service::default()
        }],
        instances: known
            .iter()
            .map(|who| InstanceAddress { instance: who.instance(), namespace: who.namespace() })
            .collect(),
        ..ServiceTable::default()
    };
    of_one_tenant(table, members)
}

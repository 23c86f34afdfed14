//! Traffic between nodes, and what other nodes must not do.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::time::Duration;

use crate::support::node::{Node, Somebody, attach, gateway, peer, subnet, table, underlay};
use crate::support::traffic::{
    AT_ONCE, Place, SOON, TcpServer, UdpClient, UdpServer, arrives, ask_tcp, connect, is_refused_tcp, ping,
};
use crate::support::{in_world, inside, lasting_devices, run, service_address};
use oak_net::{Attached, NodeNetwork, Peer, PeerProblem, PortMapping, PortProtocol, Way, teardown};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const CLIENT: Somebody = Somebody { node: 1, n: 2 };
const SERVER: Somebody = Somebody { node: 2, n: 3 };

/// Two connected nodes with a client on the first and a server, the only backend, on the second.
struct Pair {
    nodes: [Node; 2],
    networks: [NodeNetwork; 2],
    client: Attached,
    server: Attached,
}

impl Pair {
    async fn new(world: &crate::support::World) -> Self {
        let nodes = [1, 2].map(|number| Node::new(world, number));
        let networks = [nodes[0].open_with(&[2]).await, nodes[1].open_with(&[1]).await];
        let client = attach(&networks[0], CLIENT).await;
        let server = attach(&networks[1], SERVER).await;
        for network in &networks {
            network.apply(table(&[SERVER], &[CLIENT, SERVER])).await.unwrap();
        }
        Self { nodes, networks, client, server }
    }

    fn client(&self) -> Place<'_> {
        Place::Namespace(&self.client.namespace)
    }

    fn server(&self) -> Place<'_> {
        Place::Namespace(&self.server.namespace)
    }
}

#[test]
fn an_instance_reaches_a_service_on_another_node() {
    in_world(async |world| {
        let pair = Pair::new(&world).await;
        let _tcp = TcpServer::start(pair.server(), ANY, 80, "b");
        let _udp = UdpServer::start(pair.server(), ANY, 53, "b");
        let expected = format!("b {}", CLIENT.instance());
        for address in [service_address(1), SERVER.instance()] {
            assert_eq!(ask_tcp(pair.client(), address, 80).unwrap(), expected);
            assert_eq!(UdpClient::open(pair.client(), address, 53).ask().unwrap(), expected);
            assert!(ping(pair.client(), address, 64));
            // Larger than any packet on the way.
            assert!(ping(pair.client(), address, 4000));
        }
        // And the other way round, and back to oneself over neither.
        let _client = TcpServer::start(pair.client(), ANY, 80, "a");
        let expected = format!("a {}", SERVER.instance());
        assert_eq!(ask_tcp(pair.server(), CLIENT.instance(), 80).unwrap(), expected);
        let expected = format!("a {}", CLIENT.instance());
        assert_eq!(ask_tcp(pair.client(), CLIENT.instance(), 80).unwrap(), expected);
        // Where nobody listens, the refusal comes back.
        assert!(is_refused_tcp(pair.client(), service_address(1), 81));
        let udp = UdpClient::open(pair.client(), service_address(1), 54).ask().unwrap_err();
        assert_eq!(udp.kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn an_instance_nobody_told_of_is_seen_under_its_namespace_address() {
    in_world(async |world| {
        let pair = Pair::new(&world).await;
        pair.networks[1].apply(table(&[SERVER], &[SERVER])).await.unwrap();
        let _tcp = TcpServer::start(pair.server(), ANY, 80, "b");
        let expected = format!("b {}", CLIENT.namespace());
        assert_eq!(ask_tcp(pair.client(), service_address(1), 80).unwrap(), expected);
    });
}

#[test]
fn the_host_reaches_services_on_another_node() {
    in_world(async |world| {
        let pair = Pair::new(&world).await;
        let _tcp = TcpServer::start(pair.server(), ANY, 80, "b");
        let _udp = UdpServer::start(pair.server(), ANY, 53, "b");
        let host = Place::Namespace(&pair.nodes[0].place);
        let expected = format!("b {}", gateway(1));
        for address in [service_address(1), SERVER.instance()] {
            assert_eq!(ask_tcp(host, address, 80).unwrap(), expected);
            assert_eq!(UdpClient::open(host, address, 53).ask().unwrap(), expected);
            assert!(ping(host, address, 64));
        }
    });
}

#[test]
fn a_port_may_lead_to_an_instance_of_another_node() {
    in_world(async |world| {
        let pair = Pair::new(&world).await;
        let third = Node::new(&world, 3);
        let _tcp = TcpServer::start(pair.server(), ANY, 80, "b");
        let mut mapped = table(&[SERVER], &[CLIENT, SERVER]);
        let backends = vec![std::net::SocketAddrV4::new(SERVER.namespace(), 80)];
        mapped.ports.push(PortMapping { protocol: PortProtocol::Tcp, host_port: 8080, backends });
        pair.networks[0].apply(mapped).await.unwrap();
        let from_outside = Place::Namespace(&third.place);
        let expected = format!("b {}", gateway(1));
        assert_eq!(ask_tcp(from_outside, underlay(1), 8080).unwrap(), expected);
    });
}

#[test]
fn much_is_transferred_while_the_agents_restart_and_a_node_moves() {
    in_world(async |world| {
        let pair = Pair::new(&world).await;
        let listener = inside(&pair.server.namespace, || TcpListener::bind((ANY, 80)).unwrap());
        let mut client = connect(pair.client(), service_address(1), 80, SOON).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.set_write_timeout(Some(SOON)).unwrap();
        server.set_read_timeout(Some(SOON)).unwrap();
        let mut exchange = move || {
            let sent = vec![7; 1 << 20];
            std::thread::scope(|scope| {
                scope.spawn(|| client.write_all(&sent).unwrap());
                let mut received = vec![0; sent.len()];
                server.read_exact(&mut received).unwrap();
            });
        };
        exchange();
        let kernel =
            |node: &Node| [inside(&node.place, lasting_devices), node.run("ip", "route"), entries(node)];
        let before = pair.nodes.each_ref().map(kernel);
        let Pair { nodes, networks: [first, second], .. } = pair;
        let mut networks = Vec::new();
        for (node, network) in nodes.iter().zip([first, second]) {
            drop(network);
            exchange();
            let network = node.open();
            exchange();
            let other = if node.number == 1 { 2 } else { 1 };
            assert_eq!(network.set_peers(vec![peer(other)]).await.unwrap(), []);
            exchange();
            network.apply(table(&[SERVER], &[CLIENT, SERVER])).await.unwrap();
            exchange();
            networks.push(network);
        }
        assert_eq!(nodes.each_ref().map(kernel), before);
        // The second node gets another underlay address; the old one vanishes.
        nodes[1].run("ip", "addr flush dev eth0");
        nodes[1].run("ip", "addr add 192.0.2.77/24 dev eth0");
        let way = Way::Plain { underlay: Ipv4Addr::new(192, 0, 2, 77).into() };
        let moved = Peer { way, ..peer(2) };
        assert_eq!(networks[0].set_peers(vec![moved]).await.unwrap(), []);
        exchange();
        assert_eq!(nodes[0].run("ip", "route"), before[0][1]);
        assert!(entries(&nodes[0]).contains("192.0.2.77") && !entries(&nodes[0]).contains("192.0.2.2 "));
    });
}

fn entries(node: &Node) -> String {
    node.run("bridge", "fdb show dev oak0t") + &node.run("ip", "neigh show dev oak0t")
}

#[test]
fn peers_come_and_go_and_leave_nothing() {
    in_world(async |world| {
        let node = Node::new(&world, 1);
        let traces = || [inside(&node.place, lasting_devices), node.run("ip", "route show table all")];
        let bare = traces();
        let network = node.open();
        let idle = traces();
        assert_eq!(network.set_peers(vec![peer(2), peer(3)]).await.unwrap(), []);
        assert_eq!(entries(&node).lines().count(), 6);
        drop(network);
        // What another agent was told counts, not what the one before knew.
        let network = node.open();
        assert_eq!(network.set_peers(vec![peer(3), peer(4)]).await.unwrap(), []);
        let routes = node.run("ip", "route show dev oak0t");
        assert!(routes.contains("10.18.3.0/24") && routes.contains("10.18.4.0/24"), "{routes}");
        assert!(!routes.contains("10.18.2.0/24") && !entries(&node).contains("192.0.2.2 "));
        assert_eq!(network.set_peers(vec![]).await.unwrap(), []);
        assert_eq!(traces(), idle);
        network.set_peers(vec![peer(2)]).await.unwrap();
        drop(network);
        let config = node.config.clone();
        let down = || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(teardown(&config.state_directory, &config.bridge, &config.table)).unwrap();
        };
        inside(&node.place, down);
        assert_eq!(traces(), bare);
        assert_eq!(node.run("nft", "list ruleset"), "");
    });
}

#[test]
fn a_route_of_the_host_stays() {
    in_world(async |world| {
        let node = Node::new(&world, 1);
        let network = node.open_with(&[4]).await;
        for route in ["10.18.2.0/24 via 192.0.2.99", "10.18.3.0/24 dev lo", "unreachable 10.18.5.0/24"] {
            node.run("ip", &format!("route add {route}"));
        }
        let before = node.run("ip", "route");
        let problems = network.set_peers(vec![peer(2), peer(3), peer(4), peer(5)]).await.unwrap();
        let expected = [2, 3, 5].map(|n| PeerProblem::ForeignRoute { subnet: subnet(n) });
        assert_eq!(problems, expected);
        assert_eq!(node.run("ip", "route"), before);
    });
}

#[test]
fn a_node_that_is_no_longer_there_is_not_looked_for_elsewhere() {
    in_world(async |world| {
        let pair = Pair::new(&world).await;
        pair.nodes[0].run("ip", "route add default via 192.0.2.2");
        let _tcp = TcpServer::start(pair.server(), ANY, 80, "b");
        let udp = UdpClient::open(pair.client(), service_address(1), 53);
        let _udp = UdpServer::start(pair.server(), ANY, 53, "b");
        assert!(udp.ask().is_ok());
        pair.networks[0].set_peers(vec![]).await.unwrap();
        assert!(is_refused_tcp(pair.client(), service_address(1), 80));
        assert_eq!(udp.ask().unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn namespace_addresses_of_other_nodes_cannot_be_called_directly() {
    in_world(async |world| {
        let pair = Pair::new(&world).await;
        let _tcp = TcpServer::start(pair.server(), ANY, 80, "b");
        assert!(is_refused_tcp(pair.client(), SERVER.namespace(), 80));
        assert!(is_refused_tcp(pair.client(), gateway(2), 80));
        // Nor by somebody behind the node who guesses the route.
        let third = Node::new(&world, 3);
        third.run("ip", "route add 10.18.0.0/16 via 192.0.2.1");
        assert!(is_refused_tcp(Place::Namespace(&third.place), SERVER.namespace(), 80));
        assert!(is_refused_tcp(Place::Namespace(&third.place), CLIENT.namespace(), 80));
    });
}

#[test]
fn flows_to_a_backend_of_another_node_end_with_it() {
    in_world(async |world| {
        let pair = Pair::new(&world).await;
        let other = Somebody { node: 2, n: 4 };
        let second = attach(&pair.networks[1], other).await;
        let _b = UdpServer::start(pair.server(), ANY, 53, "b");
        let _c = UdpServer::start(Place::Namespace(&second.namespace), ANY, 53, "c");
        let client = UdpClient::open(pair.client(), service_address(1), 53);
        assert!(client.ask().unwrap().starts_with("b "));
        // The other node applies first and forgets what leads to its instance.
        for network in pair.networks.iter().rev() {
            let applied = network.apply(table(&[other], &[CLIENT, other])).await.unwrap();
            assert_eq!(applied.forgotten_flows, 1);
        }
        assert_eq!(client.ask().unwrap(), format!("c {}", CLIENT.instance()));
        // Nothing is forgotten that goes on.
        let known = [CLIENT, other, SERVER];
        for network in &pair.networks {
            assert_eq!(network.apply(table(&[other], &known)).await.unwrap().forgotten_flows, 0);
        }
    });
}

/// A machine on the underlay that speaks the nodes' protocol and says what it likes.
struct Liar {
    place: std::path::PathBuf,
}

impl Liar {
    /// Node 3, known to node 2, but without our rules.
    fn new(world: &crate::support::World) -> Self {
        let place = Node::new(world, 3).place;
        inside(&place, || {
            run(
                "ip",
                "link add oak0t address 02:6f:0a:12:03:01 type vxlan id 7299435 dstport 50104 nolearning",
            );
            run("ip", "link set oak0t mtu 1450 up");
            run("bridge", "fdb append 02:6f:0a:12:02:01 dev oak0t dst 192.0.2.2");
            run("ip", "neigh add 10.18.2.1 lladdr 02:6f:0a:12:02:01 dev oak0t");
            run("ip", "route add 10.18.2.1 dev oak0t");
            for network in ["10.18.2.0/24", "10.30.0.0/16", "198.51.100.0/24"] {
                run("ip", &format!("route add {network} via 10.18.2.1 dev oak0t onlink"));
            }
            for address in ["10.18.3.9", "10.18.1.2", "10.18.2.7", "10.30.1.2", "10.18.2.77", "203.0.113.5"] {
                run("ip", &format!("addr add {address}/32 dev lo"));
            }
        });
        Self { place }
    }

    fn arrives(&self, source: &str, receiver: &UdpSocket) -> bool {
        arrives(Place::Namespace(&self.place), source.parse().unwrap(), receiver)
    }
}

#[test]
fn another_node_cannot_lie() {
    in_world(async |world| {
        let pair = Pair::new(&world).await;
        let liar = Liar::new(&world);
        assert_eq!(pair.networks[1].set_peers(vec![peer(1), peer(3)]).await.unwrap(), []);
        let mut mapped = table(&[SERVER], &[CLIENT, SERVER]);
        let backends = vec![std::net::SocketAddrV4::new(SERVER.namespace(), 80)];
        mapped.ports.push(PortMapping { protocol: PortProtocol::Tcp, host_port: 8080, backends });
        pair.networks[1].apply(mapped).await.unwrap();
        let from_liar = Place::Namespace(&liar.place);

        let receiver = inside(&pair.server.namespace, || UdpSocket::bind((SERVER.namespace(), 53)).unwrap());
        assert!(liar.arrives("10.18.3.9", &receiver));
        for source in ["10.18.2.7", "10.30.1.2", "203.0.113.5", "192.0.2.3", "10.18.2.77"] {
            assert!(!liar.arrives(source, &receiver), "{source}");
        }
        // Not the host, its gateway address, its names, its ports, other networks or service addresses.
        let node = Place::Namespace(&pair.nodes[1].place);
        let host = inside(&pair.nodes[1].place, || UdpSocket::bind((gateway(2), 53)).unwrap());
        assert!(!liar.arrives("10.18.3.9", &host));
        let _ssh = TcpServer::start(node, ANY, 22, "host");
        let _tcp = TcpServer::start(pair.server(), ANY, 80, "b");
        pair.nodes[1].run("ip", "addr add 198.51.100.1/32 dev lo");
        let targets = [(gateway(2), 22), (gateway(2), 8080), (Ipv4Addr::new(198, 51, 100, 1), 22)];
        for (address, port) in targets.into_iter().chain([(service_address(1), 80), (SERVER.instance(), 80)])
        {
            let bound = inside(&liar.place, || run("ip", "-br addr show lo"));
            assert!(connect(from_liar, address, port, AT_ONCE).is_err(), "{address}:{port} {bound}");
        }
        assert!(connect(from_liar, SERVER.namespace(), 80, AT_ONCE).is_ok());
        // An instance that speaks the nodes' protocol itself reaches neither node.
        let wrapped = inside(&pair.client.namespace, || UdpSocket::bind((ANY, 0)).unwrap());
        let tunnel = |n| std::net::SocketAddr::from((underlay(n), 50_104));
        pair.nodes.iter().for_each(watch);
        for n in [1, 2] {
            wrapped.send_to(&[0; 64], tunnel(n)).ok();
            wrapped.send_to(&[0; 64], tunnel(n)).ok();
        }
        // Nothing comes, which is waited for long enough for anything to arrive.
        wrapped.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        wrapped.recv(&mut [0; 64]).unwrap_err();
        for node in &pair.nodes {
            let watched = node.run("nft", "list table inet watch");
            assert!(watched.contains("counter packets 0"), "node {}: {watched}", node.number);
        }
    });
}

/// Counts datagrams of 64 bytes that reach the tunnel of a node past its rules.
fn watch(node: &Node) {
    node.run("nft", "add table inet watch");
    node.run("nft", "add chain inet watch input { type filter hook input priority 10 ; }");
    node.run("nft", "add rule inet watch input udp dport 50104 udp length 72 counter");
}

#[test]
fn a_peer_changes_its_way_without_being_without_one() {
    in_world(async |world| {
        let node = Node::new(&world, 1);
        let network = node.open_with(&[2, 3]).await;
        let encrypted = Peer { way: Way::Encrypted, ..peer(2) };
        let route = |number: u8| node.run("ip", &format!("route show {}", subnet(number)));
        // Who encrypts has not made the device: nothing is sent plain instead, and others stay.
        let problems = network.set_peers(vec![encrypted, peer(3)]).await.unwrap();
        assert!(matches!(problems[..], [PeerProblem::NotEncrypting { .. }]), "{problems:?}");
        assert!(route(2).is_empty() && route(3).contains("dev oak0t"));

        node.run("ip", "tuntap add oak0e mode tun");
        node.run("ip", "link set oak0e up");
        assert_eq!(network.set_peers(vec![encrypted, peer(3)]).await.unwrap(), []);
        assert!(route(2).contains("dev oak0e") && route(2).contains("src 10.18.1.1"), "{}", route(2));
        // Better ones are for the kernel's WireGuard. What an earlier release has made goes.
        assert!(route(2).contains("metric 1000"), "{}", route(2));
        node.run("ip", &format!("route add {} dev oak0e", subnet(2)));
        assert_eq!(network.set_peers(vec![encrypted, peer(3)]).await.unwrap(), []);
        assert!(route(2).contains("metric 1000") && route(2).lines().count() == 1, "{}", route(2));
        assert!(route(3).contains("dev oak0t"));
        for (way, device) in [(peer(2), "oak0t"), (encrypted, "oak0e"), (peer(2), "oak0t")] {
            assert_eq!(network.set_peers(vec![way, peer(3)]).await.unwrap(), []);
            assert!(route(2).contains(device) && route(2).lines().count() == 1, "{}", route(2));
        }
        // Without plain peers there is no device for them, and without peers there are no routes.
        assert_eq!(network.set_peers(vec![encrypted]).await.unwrap(), []);
        assert!(!node.run("ip", "-br link").contains("oak0t") && route(2).contains("oak0e"));
        assert_eq!(network.set_peers(Vec::new()).await.unwrap(), []);
        assert!(route(2).is_empty());
        drop(network);
        inside(&node.place, || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let config = &node.config;
            runtime.block_on(teardown(&config.state_directory, &config.bridge, &config.table)).unwrap();
        });
        assert!(!node.run("ip", "-br link").contains("oak0"));
    });
}

/// As on a kernel without VXLAN: the device cannot be made.
#[test]
fn a_node_without_plain_packets_says_so_and_goes_on() {
    in_world(async |world| {
        let node = Node::new(&world, 1);
        node.run("ip", "link add oak0t type bridge");
        let network = node.open();
        let problems = network.set_peers(vec![peer(2)]).await.unwrap();
        let said = problems.first().unwrap().to_string();
        assert!(said.contains("10.18.2.0/24") && said.contains("oak0t"), "{said}");
        let here = Somebody { node: 1, n: 2 };
        attach(&network, here).await;
        network.apply(table(&[here], &[here])).await.unwrap();
    });
}

//! Everything has an IPv6 address, too, and behaves the same there.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};

use crate::support::node::{Node, Somebody, gateway, table as table_of};
use crate::support::traffic::{
    AT_ONCE, Place, TcpServer, UdpClient, UdpServer, ask_tcp, connect, is_refused_tcp, ping6,
};
use crate::support::{
    HOST, OUTSIDE, World, attach, await_that, in_world, inside, instance_address, instances,
    namespace_address, node, run, service_address, together,
};
use oak_model::{Balancing as Policy, ipv6};
use oak_net::{Balancing, PortMapping, PortProtocol, Service, ServiceTable};

const ANY: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
const CLIENT: Somebody = Somebody { node: 1, n: 2 };
const SERVER: Somebody = Somebody { node: 2, n: 3 };
const HOST6: &str = "2001:db8::1";
const OUTSIDE6: &str = "2001:db8::2";

fn service6(n: u8) -> Ipv6Addr {
    ipv6::service(Policy::RoundRobin, service_address(n))
}

fn instance6(n: u8) -> Ipv6Addr {
    ipv6::instance(instance_address(n))
}

fn gateway6() -> Ipv6Addr {
    ipv6::node(Ipv4Addr::new(10, 18, 0, 1))
}

fn table(policy: Balancing, backends: &[u8], known: &[u8]) -> ServiceTable {
    let service = Service {
        addresses: vec![service_address(1)],
        ipv6: vec![service6(1)],
        policy,
        backends: backends.iter().map(|n| namespace_address(*n)).collect(),
    };
    together(ServiceTable { services: vec![service], instances: instances(known), ..ServiceTable::default() })
}

/// The uplink has IPv6 addresses, too.
fn outside(world: &World) -> std::path::PathBuf {
    let outside = world.outside();
    run("ip", &format!("addr add {HOST6}/64 dev up0 nodad"));
    inside(&outside, || run("ip", &format!("addr add {OUTSIDE6}/64 dev eth0 nodad")));
    run("ip", &format!("route add default via {OUTSIDE6}"));
    outside
}

#[test]
fn instances_reach_services_each_other_and_themselves() {
    in_world(async |world| {
        let network = world.open().await;
        let (a, b) = (attach(&network, 2).await, attach(&network, 3).await);
        network.apply(table(Balancing::RoundRobin, &[3], &[2, 3])).await.unwrap();
        let _tcp = TcpServer::start(Place::Namespace(&b.namespace), ANY, 80, "b");
        let _udp = UdpServer::start(Place::Namespace(&b.namespace), ANY, 53, "b");
        let (from_a, from_b) = (Place::Namespace(&a.namespace), Place::Namespace(&b.namespace));
        let expected = format!("b {}", instance6(2));
        for address in [service6(1), instance6(3)] {
            assert_eq!(ask_tcp(from_a, address, 80).unwrap(), expected);
            assert_eq!(UdpClient::open(from_a, address, 53).ask().unwrap(), expected);
            assert!(ping6(from_a, address, 64));
            // Larger than the MTU.
            assert!(ping6(from_a, address, 4000));
            assert_eq!(ask_tcp(from_b, address, 80).unwrap(), format!("b {}", instance6(3)));
            assert_eq!(ask_tcp(Place::Host, address, 80).unwrap(), format!("b {}", gateway6()));
            assert!(ping6(Place::Host, address, 64));
        }
    });
}

#[test]
fn every_policy_chooses_for_ipv6_as_well() {
    in_world(async |world| {
        let network = world.open().await;
        let client = attach(&network, 9).await;
        let mut servers = Vec::new();
        for n in [2, 3] {
            let attached = attach(&network, n).await;
            servers.push(TcpServer::start(Place::Namespace(&attached.namespace), ANY, 80, &n.to_string()));
        }
        let ask = |times: usize| -> Vec<String> {
            let from = Place::Namespace(&client.namespace);
            let ask = |_| ask_tcp(from, service6(1), 80).unwrap().split(' ').next().unwrap().to_owned();
            (0..times).map(ask).collect()
        };
        network.apply(table(Balancing::RoundRobin, &[2, 3], &[2, 3, 9])).await.unwrap();
        let in_turn = ask(6);
        assert!(in_turn.windows(2).all(|pair| pair[0] != pair[1]), "{in_turn:?}");
        network.apply(table(Balancing::Sticky, &[2, 3], &[2, 3, 9])).await.unwrap();
        let sticky = ask(6);
        assert!(sticky.windows(2).all(|pair| pair[0] == pair[1]), "{sticky:?}");
    });
}

#[test]
fn what_leads_nowhere_is_refused_and_nobody_gets_past_the_addresses() {
    in_world(async |world| {
        let network = world.open().await;
        let outside = outside(&world);
        let (a, b) = (attach(&network, 2).await, attach(&network, 3).await);
        network.apply(table(Balancing::RoundRobin, &[], &[2, 3])).await.unwrap();
        let _server = TcpServer::start(Place::Namespace(&b.namespace), ANY, 80, "b");
        let from_a = Place::Namespace(&a.namespace);
        assert!(is_refused_tcp(from_a, service6(1), 80));
        assert!(is_refused_tcp(Place::Host, service6(1), 80));
        assert!(is_refused_tcp(from_a, ipv6::node(namespace_address(3)), 80));
        assert!(is_refused_tcp(from_a, ipv6::node(namespace_address(50)), 80));
        assert!(is_refused_tcp(from_a, ipv6::node(Ipv4Addr::new(10, 20, 0, 2)), 80));
        // Nor from outside, by somebody who guesses the route.
        inside(&outside, || run("ip", &format!("route add fc00::/7 via {HOST6}")));
        let from_outside = Place::Namespace(&outside);
        for address in [ipv6::node(namespace_address(3)), service6(1), instance6(3)] {
            assert!(is_refused_tcp(from_outside, address, 80), "{address}");
        }
        // Nor with another one's source.
        inside(&a.namespace, || run("ip", "addr add fc00::9/128 dev eth0 nodad"));
        let forged = inside(&a.namespace, || std::net::UdpSocket::bind("[fc00::9]:0").unwrap());
        let receiver = inside(&b.namespace, || std::net::UdpSocket::bind("[::]:53").unwrap());
        let _ = forged.send_to(b"x", (instance6(3), 53));
        receiver.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
        assert!(receiver.recv_from(&mut [0; 16]).is_err());
    });
}

#[test]
fn the_world_outside_sees_the_host_and_reaches_its_ports() {
    in_world(async |world| {
        let network = world.open().await;
        let outside = outside(&world);
        let a = attach(&network, 2).await;
        let mut mapped = table(Balancing::RoundRobin, &[2], &[2]);
        let backends = vec![SocketAddrV4::new(namespace_address(2), 80)];
        for protocol in [PortProtocol::Tcp, PortProtocol::Udp] {
            let (host_port, backends) = (8080, backends.clone());
            mapped.ports.push(PortMapping { protocol, host_port, backends });
        }
        network.apply(mapped).await.unwrap();
        let _outside = TcpServer::start(Place::Namespace(&outside), ANY, 80, "outside");
        let from_a = Place::Namespace(&a.namespace);
        let address: Ipv6Addr = OUTSIDE6.parse().unwrap();
        assert_eq!(ask_tcp(from_a, address, 80).unwrap(), format!("outside {HOST6}"));
        assert!(ping6(from_a, address, 64));

        let _tcp = TcpServer::start(from_a, ANY, 80, "a");
        let _udp = UdpServer::start(from_a, ANY, 80, "a");
        let host: Ipv6Addr = HOST6.parse().unwrap();
        let from_outside = Place::Namespace(&outside);
        assert_eq!(ask_tcp(from_outside, host, 8080).unwrap(), format!("a {OUTSIDE6}"));
        assert_eq!(UdpClient::open(from_outside, host, 8080).ask().unwrap(), format!("a {OUTSIDE6}"));
        assert_eq!(ask_tcp(Place::Host, host, 8080).unwrap(), format!("a {}", gateway6()));
        // IPv4 goes on beside it; the server takes both.
        assert_eq!(ask_tcp(from_outside, HOST, 8080).unwrap(), format!("a ::ffff:{OUTSIDE}"));
    });
}

#[test]
fn a_call_of_an_unknown_address_waits_until_it_is_known() {
    in_world(async |world| {
        let network = world.open().await;
        let (a, b) = (attach(&network, 2).await, attach(&network, 3).await);
        network
            .apply(together(ServiceTable { instances: instances(&[2, 3]), ..ServiceTable::default() }))
            .await
            .unwrap();
        let _server = TcpServer::start(Place::Namespace(&b.namespace), ANY, 80, "b");
        let place = a.namespace.clone();
        let asking = std::thread::spawn(move || ask_tcp(Place::Namespace(&place), service6(1), 80));
        let unknown = network.next_unknown().await;
        assert_eq!((unknown.source, unknown.destination), (namespace_address(2), service_address(1)));
        network.apply(table(Balancing::RoundRobin, &[3], &[2, 3])).await.unwrap();
        assert_eq!(asking.join().unwrap().unwrap(), format!("b {}", instance6(2)));
    });
}

#[test]
fn instances_of_other_nodes_are_reached() {
    in_world(async |world| {
        let nodes = [1, 2].map(|number| Node::new(&world, number));
        let networks = [nodes[0].open_with(&[2]).await, nodes[1].open_with(&[1]).await];
        let client = node::attach(&networks[0], CLIENT).await;
        let server = node::attach(&networks[1], SERVER).await;
        let mut table = table_of(&[SERVER], &[CLIENT, SERVER]);
        table.services[0].ipv6 = vec![service6(1)];
        for network in &networks {
            network.apply(table.clone()).await.unwrap();
        }
        let (from, to) = (Place::Namespace(&client.namespace), Place::Namespace(&server.namespace));
        let _tcp = TcpServer::start(to, ANY, 80, "b");
        let _udp = UdpServer::start(to, ANY, 53, "b");
        let expected = format!("b {}", ipv6::instance(CLIENT.instance()));
        for address in [service6(1), ipv6::instance(SERVER.instance())] {
            assert_eq!(ask_tcp(from, address, 80).unwrap(), expected);
            assert_eq!(UdpClient::open(from, address, 53).ask().unwrap(), expected);
            assert!(ping6(from, address, 64) && ping6(from, address, 4000));
        }
        let host = Place::Namespace(&nodes[0].place);
        assert_eq!(ask_tcp(host, service6(1), 80).unwrap(), format!("b {}", ipv6::node(gateway(1))));
        // A node that shall not be reached is not; the other node's machine neither.
        assert!(is_refused_tcp(from, ipv6::node(SERVER.namespace()), 80));
        assert!(!ping6(host, ipv6::node(gateway(2)), 64));
        assert_eq!(networks[0].set_peers(vec![]).await.unwrap(), []);
        assert!(connect(from, service6(1), 80, AT_ONCE).is_err(), "there is no way any more");
    });
}

#[test]
fn what_is_switched_on_is_switched_off_again() {
    in_world(async |world| {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{name}")).unwrap();
        let _outside = outside(&world);
        let before = [read("all/forwarding"), read("up0/accept_ra")];
        let network = world.open().await;
        let _a = attach(&network, 2).await;
        assert_eq!(read("all/forwarding"), "1\n");
        assert_eq!(read("up0/accept_ra"), "2\n", "a route learned from a router would be lost");
        drop(network);
        let config = &world.config;
        oak_net::teardown(&config.state_directory, &config.bridge, &config.table).await.unwrap();
        await_that("the settings are as before", || {
            [read("all/forwarding"), read("up0/accept_ra")] == before
        });
        let routes = run("ip", "-6 route");
        assert!(!routes.contains("fdff::") && !routes.contains("fc00::"), "{routes}");
    });
}

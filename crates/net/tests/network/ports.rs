//! Host ports, and what instances must not reach.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use crate::support::traffic::{AT_ONCE, Place, TcpServer, UdpClient, UdpServer, arrives, ask_tcp, connect};
use crate::support::{
    GATEWAY, HOST, OUTSIDE, attach, in_world, inside, instance_address, instances, namespace_address, run,
    together,
};
use oak_net::{PortMapping, PortProtocol, ServiceTable, port_holder};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

fn mapping(protocol: PortProtocol, host_port: u16, backends: &[(u8, u16)]) -> PortMapping {
    PortMapping {
        protocol,
        host_port,
        backends: backends.iter().map(|(n, port)| SocketAddrV4::new(namespace_address(*n), *port)).collect(),
    }
}

fn table(ports: Vec<PortMapping>) -> ServiceTable {
    together(ServiceTable { instances: instances(&[2, 3]), ports, ..ServiceTable::default() })
}

#[test]
fn a_port_is_reached_from_everywhere() {
    in_world(async |world| {
        let network = world.open().await;
        let outside = world.outside();
        let (a, b) = (attach(&network, 2).await, attach(&network, 3).await);
        let _tcp = TcpServer::start(Place::Namespace(&b.namespace), ANY, 80, "b");
        let _udp = UdpServer::start(Place::Namespace(&b.namespace), ANY, 53, "b");
        let ports =
            vec![mapping(PortProtocol::Tcp, 8080, &[(3, 80)]), mapping(PortProtocol::Udp, 5353, &[(3, 53)])];
        network.apply(table(ports)).await.unwrap();

        let from_outside = Place::Namespace(&outside);
        let from_a = Place::Namespace(&a.namespace);
        let from_b = Place::Namespace(&b.namespace);
        let as_gateway = format!("b {GATEWAY}");
        let cases = [
            (from_outside, HOST, format!("b {OUTSIDE}")),
            (Place::Host, Ipv4Addr::LOCALHOST, as_gateway.clone()),
            (Place::Host, HOST, as_gateway.clone()),
            (Place::Host, GATEWAY, as_gateway),
            (from_a, HOST, format!("b {}", instance_address(2))),
            (from_a, GATEWAY, format!("b {}", instance_address(2))),
            (from_b, HOST, format!("b {}", instance_address(3))),
        ];
        for (from, address, expected) in cases {
            assert_eq!(ask_tcp(from, address, 8080).unwrap(), expected);
            let udp = UdpClient::open(from, address, 5353);
            assert_eq!(udp.ask().unwrap(), expected, "{}", udp.target());
        }
    });
}

#[test]
fn a_port_with_several_backends_takes_them_in_turn() {
    in_world(async |world| {
        let network = world.open().await;
        let (a, b) = (attach(&network, 2).await, attach(&network, 3).await);
        let _a = TcpServer::start(Place::Namespace(&a.namespace), ANY, 80, "a");
        let _b = TcpServer::start(Place::Namespace(&b.namespace), ANY, 81, "b");
        let ports = vec![mapping(PortProtocol::Tcp, 8080, &[(2, 80), (3, 81)])];
        network.apply(table(ports)).await.unwrap();
        let answers: Vec<String> =
            (0..10).map(|_| ask_tcp(Place::Host, Ipv4Addr::LOCALHOST, 8080).unwrap()).collect();
        let of_a = answers.iter().filter(|answer| answer.starts_with("a ")).count();
        assert_eq!(of_a, 5, "{answers:?}");
    });
}

#[test]
fn traffic_to_the_same_port_elsewhere_is_left_alone() {
    in_world(async |world| {
        let network = world.open().await;
        let outside = world.outside();
        let (a, b) = (attach(&network, 2).await, attach(&network, 3).await);
        let _ours = TcpServer::start(Place::Namespace(&b.namespace), ANY, 80, "ours");
        let _theirs = TcpServer::start(Place::Namespace(&outside), ANY, 8080, "theirs");
        let ports = vec![mapping(PortProtocol::Tcp, 8080, &[(3, 80)])];
        network.apply(table(ports)).await.unwrap();
        for from in [Place::Host, Place::Namespace(&a.namespace)] {
            let answer = ask_tcp(from, OUTSIDE, 8080).unwrap();
            assert!(answer.starts_with("theirs "), "{answer}");
        }
        // A service on the host with another port is not touched either.
        let host = TcpServer::start(Place::Host, ANY, 0, "host");
        let answer = ask_tcp(Place::Namespace(&outside), HOST, host.port).unwrap();
        assert_eq!(answer, format!("host {OUTSIDE}"));
    });
}

#[test]
fn a_port_that_is_taken_away_belongs_to_the_host_again() {
    in_world(async |world| {
        let network = world.open().await;
        let outside = world.outside();
        let b = attach(&network, 3).await;
        let _instance = UdpServer::start(Place::Namespace(&b.namespace), ANY, 53, "b");
        let _host = UdpServer::start(Place::Host, ANY, 5353, "host");
        let client = UdpClient::open(Place::Namespace(&outside), HOST, 5353);
        assert!(client.ask().unwrap().starts_with("host "));
        let ports = vec![mapping(PortProtocol::Udp, 5353, &[(3, 53)])];
        network.apply(table(ports)).await.unwrap();
        assert!(client.ask().unwrap().starts_with("b "));
        network.apply(table(vec![])).await.unwrap();
        assert!(client.ask().unwrap().starts_with("host "));
    });
}

#[test]
fn an_instance_cannot_reach_the_hosts_loopback() {
    in_world(async |world| {
        let network = world.open().await;
        let a = attach(&network, 2).await;
        let secret = TcpServer::start(Place::Host, Ipv4Addr::LOCALHOST, 0, "secret");
        assert!(ask_tcp(Place::Host, Ipv4Addr::LOCALHOST, secret.port).is_ok());
        // A privileged instance makes its own kernel send packets for 127.0.0.1 to the host.
        inside(&a.namespace, || {
            run("ip", "addr flush dev lo");
            std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
            run("ip", "route replace 127.0.0.0/8 via 10.18.0.1 dev eth0 src 10.18.0.2");
        });
        let patience = crate::support::traffic::AT_ONCE;
        let from = Place::Namespace(&a.namespace);
        let outcome = connect(from, Ipv4Addr::LOCALHOST, secret.port, patience);
        assert_eq!(outcome.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    });
}

#[test]
fn an_instance_cannot_send_under_another_address() {
    in_world(async |world| {
        let network = world.open().await;
        let (a, _b) = (attach(&network, 2).await, attach(&network, 3).await);
        let receiver = UdpSocket::bind((GATEWAY, 0)).unwrap();
        inside(&a.namespace, || run("ip", "addr add 10.18.0.3/32 dev eth0"));
        inside(&a.namespace, || run("ip", "addr add 198.51.100.7/32 dev eth0"));
        let from = Place::Namespace(&a.namespace);
        assert!(arrives(from, namespace_address(2), &receiver));
        assert!(!arrives(from, namespace_address(3), &receiver));
        assert!(!arrives(from, Ipv4Addr::new(198, 51, 100, 7), &receiver));
    });
}

#[test]
fn the_holder_of_a_port_is_found() {
    in_world(async |world| {
        let network = world.open().await;
        let tcp = TcpServer::start(Place::Host, ANY, 0, "host");
        let udp = UdpSocket::bind("[::]:0").unwrap();
        let udp_port = udp.local_addr().unwrap().port();
        for (protocol, port) in [(PortProtocol::Tcp, tcp.port), (PortProtocol::Udp, udp_port)] {
            let holder = port_holder(protocol, port).unwrap().unwrap();
            assert_eq!(holder.pid, Some(std::process::id()));
            assert!(holder.process_name.is_some());
            assert_eq!(network.port_holder(protocol, port).await.unwrap(), Some(holder));
        }
        let port = tcp.port;
        drop(tcp);
        assert_eq!(port_holder(PortProtocol::Tcp, port).unwrap(), None);
    });
}

#[test]
fn the_name_server_of_the_gateway_is_there_for_instances_and_the_host_and_for_nobody_else() {
    in_world(async |world| {
        let network = world.open().await;
        let outside = world.outside();
        let (a, b) = (attach(&network, 2).await, attach(&network, 3).await);
        let _tcp = TcpServer::start(Place::Host, GATEWAY, 53, "names");
        let _udp = UdpServer::start(Place::Host, GATEWAY, 53, "names");
        let _application = UdpServer::start(Place::Namespace(&b.namespace), ANY, 53, "b");
        network.apply(table(vec![mapping(PortProtocol::Udp, 53, &[(3, 53)])])).await.unwrap();
        inside(&outside, || run("ip", &format!("route add {GATEWAY} via {HOST}")));

        for (from, source) in [
            (Place::Namespace(&a.namespace), namespace_address(2)),
            (Place::Namespace(&b.namespace), namespace_address(3)),
            (Place::Host, GATEWAY),
        ] {
            let expected = format!("names {source}");
            assert_eq!(UdpClient::open(from, GATEWAY, 53).ask().unwrap(), expected);
            assert_eq!(ask_tcp(from, GATEWAY, 53).unwrap(), expected);
        }
        let from_outside = Place::Namespace(&outside);
        assert!(UdpClient::open(from_outside, GATEWAY, 53).ask_for(AT_ONCE).is_err());
        assert!(connect(from_outside, GATEWAY, 53, AT_ONCE).is_err());
        // The port of the host belongs to the application.
        let expected = format!("b {OUTSIDE}");
        assert_eq!(UdpClient::open(from_outside, HOST, 53).ask().unwrap(), expected);
    });
}

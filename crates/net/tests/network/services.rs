//! Service and instance addresses with real traffic between real namespaces.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::support::traffic::{Place, TcpServer, UdpClient, UdpServer, ask_tcp, is_refused_tcp, ping};
use crate::support::{
    GATEWAY, HOST, OUTSIDE, attach, in_world, inside, instance_address, instances, namespace_address, run,
    service_address, together,
};
use oak_net::{Service, ServiceTable};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// Service 1 with the given instances as backends, and all of `known` with instance addresses.
fn table(backends: &[u8], known: &[u8]) -> ServiceTable {
    together(ServiceTable {
        services: vec![Service {
            addresses: vec![service_address(1)],
            backends: backends.iter().map(|n| namespace_address(*n)).collect(),
            ..Service::default()
        }],
        instances: instances(known),
        ..ServiceTable::default()
    })
}

#[test]
fn an_instance_reaches_a_service_and_is_seen_as_its_instance_address() {
    in_world(async |world| {
        let network = world.open().await;
        let (a, b) = (attach(&network, 2).await, attach(&network, 3).await);
        network.apply(table(&[3], &[2, 3])).await.unwrap();
        let _tcp = TcpServer::start(Place::Namespace(&b.namespace), ANY, 80, "b");
        let _udp = UdpServer::start(Place::Namespace(&b.namespace), ANY, 53, "b");
        let from_a = Place::Namespace(&a.namespace);

        let expected = format!("b {}", instance_address(2));
        assert_eq!(ask_tcp(from_a, service_address(1), 80).unwrap(), expected);
        assert_eq!(ask_tcp(from_a, instance_address(3), 80).unwrap(), expected);
        let udp = UdpClient::open(from_a, service_address(1), 53);
        assert_eq!(udp.ask().unwrap(), expected);
        assert!(ping(from_a, service_address(1), 64));
        assert!(ping(from_a, instance_address(3), 64));
        // Larger than the MTU: fragments are put together before translation.
        assert!(ping(from_a, service_address(1), 4000));
    });
}

#[test]
fn an_instance_reaches_itself_through_its_service() {
    in_world(async |world| {
        let network = world.open().await;
        let a = attach(&network, 2).await;
        network.apply(table(&[2], &[2])).await.unwrap();
        let from_a = Place::Namespace(&a.namespace);
        let _server = TcpServer::start(from_a, ANY, 80, "a");

        let expected = format!("a {}", instance_address(2));
        assert_eq!(ask_tcp(from_a, service_address(1), 80).unwrap(), expected);
        assert_eq!(ask_tcp(from_a, instance_address(2), 80).unwrap(), expected);
        assert!(ping(from_a, service_address(1), 64));
    });
}

#[test]
fn an_instance_without_instance_address_is_seen_as_the_gateway() {
    in_world(async |world| {
        let network = world.open().await;
        let (a, b) = (attach(&network, 2).await, attach(&network, 3).await);
        network.apply(table(&[2, 3], &[])).await.unwrap();
        let _a = TcpServer::start(Place::Namespace(&a.namespace), ANY, 80, "a");
        let _b = TcpServer::start(Place::Namespace(&b.namespace), ANY, 80, "b");
        let from_a = Place::Namespace(&a.namespace);
        let mut answers = [1, 2].map(|_| ask_tcp(from_a, service_address(1), 80).unwrap());
        answers.sort();
        assert_eq!(answers, [format!("a {GATEWAY}"), format!("b {GATEWAY}")]);
    });
}

#[test]
fn the_host_reaches_services_and_instances() {
    in_world(async |world| {
        let network = world.open().await;
        let _outside = world.outside();
        let b = attach(&network, 3).await;
        network.apply(table(&[3], &[3])).await.unwrap();
        let _server = TcpServer::start(Place::Namespace(&b.namespace), ANY, 80, "b");
        let _udp = UdpServer::start(Place::Namespace(&b.namespace), ANY, 53, "b");

        let expected = format!("b {GATEWAY}");
        for address in [service_address(1), instance_address(3), namespace_address(3)] {
            assert_eq!(ask_tcp(Place::Host, address, 80).unwrap(), expected);
            assert!(ping(Place::Host, address, 64), "{address}");
        }
        let udp = UdpClient::open(Place::Host, service_address(1), 53);
        assert_eq!(udp.ask().unwrap(), expected);
    });
}

#[test]
fn flows_are_spread_strictly_in_turn() {
    in_world(async |world| {
        let network = world.open().await;
        let client = attach(&network, 9).await;
        let mut servers = Vec::new();
        for n in [2, 3, 4] {
            let attached = attach(&network, n).await;
            let place = Place::Namespace(&attached.namespace);
            servers.push(TcpServer::start(place, ANY, 80, &n.to_string()));
        }
        network.apply(table(&[2, 3, 4], &[2, 3, 4, 9])).await.unwrap();

        let mut counts = BTreeMap::new();
        for _ in 0..300 {
            let from = Place::Namespace(&client.namespace);
            let answer = ask_tcp(from, service_address(1), 80).unwrap();
            let name = answer.split(' ').next().unwrap().to_owned();
            *counts.entry(name).or_insert(0) += 1;
        }
        let expected = ["2", "3", "4"].map(|name| (name.to_owned(), 100));
        assert_eq!(counts, BTreeMap::from(expected));
    });
}

#[test]
fn addresses_without_ready_instance_are_refused_at_once() {
    in_world(async |world| {
        let network = world.open().await;
        let a = attach(&network, 2).await;
        let _b = attach(&network, 3).await;
        network.apply(table(&[], &[2, 3])).await.unwrap();
        let refused = std::io::ErrorKind::ConnectionRefused;
        // The host's own datagrams fail already when they are sent.
        let places =
            [(Place::Namespace(&a.namespace), refused), (Place::Host, std::io::ErrorKind::PermissionDenied)];
        for (from, udp_error) in places {
            assert!(is_refused_tcp(from, service_address(1), 80));
            let udp = UdpClient::open(from, service_address(1), 53);
            assert_eq!(udp.ask().unwrap_err().kind(), udp_error);
        }
        // A backend that has no device is refused like an address that was never given.
        network.apply(table(&[50], &[2, 3])).await.unwrap();
        assert!(is_refused_tcp(Place::Namespace(&a.namespace), service_address(1), 80));
    });
}

#[test]
fn namespace_addresses_cannot_be_called_directly() {
    in_world(async |world| {
        let network = world.open().await;
        let outside = world.outside();
        let (a, b) = (attach(&network, 2).await, attach(&network, 3).await);
        run("ip", &format!("route add default via {OUTSIDE}"));
        network.apply(table(&[3], &[2, 3])).await.unwrap();
        let _server = TcpServer::start(Place::Namespace(&b.namespace), ANY, 80, "b");
        let from_a = Place::Namespace(&a.namespace);
        assert!(is_refused_tcp(from_a, namespace_address(3), 80));
        assert!(is_refused_tcp(from_a, namespace_address(50), 80));
        assert!(is_refused_tcp(from_a, Ipv4Addr::new(10, 20, 0, 2), 80));
        // Nor from outside, by somebody who guesses the route.
        inside(&outside, || run("ip", &format!("route add 10.16.0.0/12 via {HOST}")));
        let from_outside = Place::Namespace(&outside);
        assert!(is_refused_tcp(from_outside, namespace_address(3), 80));
        assert!(is_refused_tcp(from_outside, service_address(1), 80));
        assert!(is_refused_tcp(from_outside, instance_address(3), 80));
    });
}

#[test]
fn the_world_outside_sees_the_host() {
    in_world(async |world| {
        let network = world.open().await;
        let outside = world.outside();
        run("ip", &format!("route add default via {OUTSIDE}"));
        let a = attach(&network, 2).await;
        let _server = TcpServer::start(Place::Namespace(&outside), ANY, 80, "outside");
        let from_a = Place::Namespace(&a.namespace);
        assert_eq!(ask_tcp(from_a, OUTSIDE, 80).unwrap(), format!("outside {HOST}"));
        assert!(ping(from_a, OUTSIDE, 64));
    });
}

#[test]
fn a_udp_client_that_keeps_its_port_leaves_a_removed_backend() {
    in_world(async |world| {
        let network = world.open().await;
        let a = attach(&network, 2).await;
        let (b, c) = (attach(&network, 3).await, attach(&network, 4).await);
        let _b = UdpServer::start(Place::Namespace(&b.namespace), ANY, 53, "b");
        let _c = UdpServer::start(Place::Namespace(&c.namespace), ANY, 53, "c");
        network.apply(table(&[3], &[2, 3, 4])).await.unwrap();
        let client = UdpClient::open(Place::Namespace(&a.namespace), service_address(1), 53);
        assert!(client.ask().unwrap().starts_with("b "));

        let applied = network.apply(table(&[4], &[2, 3, 4])).await.unwrap();
        assert_eq!(applied.forgotten_flows, 1);
        assert!(client.ask().unwrap().starts_with("c "));
    });
}

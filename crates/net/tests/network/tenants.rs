//! Instances of different tenants do not reach each other, whatever they know.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::support::traffic::{
    Place, SOON, TcpServer, UdpClient, UdpServer, ask_tcp, connect, is_refused_tcp, ping, ping6,
};
use crate::support::{
    GATEWAY, attach, in_world, inside, instance_address, instances, namespace_address, run, service_address,
};
use oak_model::{Balancing as Policy, ipv6};
use oak_net::{Service, ServiceTable, Tenant};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const ANY6: Ipv6Addr = Ipv6Addr::UNSPECIFIED;

fn service6() -> Ipv6Addr {
    ipv6::service(Policy::RoundRobin, service_address(1))
}

fn instance6(n: u8) -> Ipv6Addr {
    ipv6::instance(instance_address(n))
}

/// Service 1 of instance 3, and the instance addresses of 2 and 3; 2 is of the first tenant, 3 of the second, to which
/// everything but 2 belongs. The first one reaches what is given.
fn two_tenants(reaches: Vec<Ipv4Addr>) -> ServiceTable {
    let (first, second) = (instance_address(2), vec![service_address(1), instance_address(3)]);
    let tenant =
        |member, reaches| Tenant { members: vec![namespace_address(member)], reaches, refused: vec![] };
    ServiceTable {
        services: vec![Service {
            addresses: vec![service_address(1)],
            backends: vec![namespace_address(3)],
            ipv6: vec![service6()],
            ..Service::default()
        }],
        instances: instances(&[2, 3]),
        owned: second.iter().copied().chain([first]).collect(),
        tenants: vec![tenant(2, [vec![first], reaches].concat()), tenant(3, second)],
        ..ServiceTable::default()
    }
}

#[test]
fn a_tenant_reaches_its_own_and_what_is_exported() {
    in_world(async |world| {
        let network = world.open().await;
        let (a, b) = (attach(&network, 2).await, attach(&network, 3).await);
        let _tcp = TcpServer::start(Place::Namespace(&b.namespace), ANY, 80, "b");
        let _udp = UdpServer::start(Place::Namespace(&b.namespace), ANY, 53, "b");
        let (from_a, from_b) = (Place::Namespace(&a.namespace), Place::Namespace(&b.namespace));

        network.apply(two_tenants(vec![])).await.unwrap();
        let start = Instant::now();
        for address in [service_address(1), instance_address(3), namespace_address(3)] {
            assert!(is_refused_tcp(from_a, address, 80), "{address}");
            assert!(!ping(from_a, address, 64), "{address}");
        }
        assert!(UdpClient::open(from_a, service_address(1), 53).ask().is_err());
        assert!(start.elapsed() < Duration::from_secs(10), "refused, not left to time out");
        let own = format!("b {GATEWAY}");
        assert_eq!(ask_tcp(from_b, service_address(1), 80).unwrap(), format!("b {}", instance_address(3)));
        assert_eq!(
            ask_tcp(Place::Host, service_address(1), 80).unwrap(),
            own,
            "the machine calls everything"
        );

        network.apply(two_tenants(vec![service_address(1)])).await.unwrap();
        let from_2 = format!("b {}", instance_address(2));
        assert_eq!(ask_tcp(from_a, service_address(1), 80).unwrap(), from_2);
        assert_eq!(UdpClient::open(from_a, service_address(1), 53).ask().unwrap(), from_2);
        assert!(is_refused_tcp(from_a, instance_address(3), 80), "only the service is exported");
    });
}

#[test]
fn a_call_that_waited_is_refused_when_it_turns_out_to_be_to_another_tenant() {
    in_world(async |world| {
        let network = world.open().await;
        let (a, b) = (attach(&network, 2).await, attach(&network, 3).await);
        let _tcp = TcpServer::start(Place::Namespace(&b.namespace), ANY, 80, "b");
        let known = two_tenants(vec![]);
        let without = ServiceTable { services: vec![], owned: vec![], ..known.clone() };
        network.apply(without).await.unwrap();
        let namespace = a.namespace.clone();
        let call = std::thread::spawn(move || {
            let start = Instant::now();
            let outcome = connect(Place::Namespace(&namespace), service_address(1), 80, SOON);
            (outcome.unwrap_err().kind(), start.elapsed())
        });
        let unknown = network.next_unknown().await;
        assert_eq!((unknown.source, unknown.destination), (namespace_address(2), service_address(1)));
        network.apply(known).await.unwrap();
        let (kind, took) = call.join().unwrap();
        assert_eq!(kind, ErrorKind::ConnectionRefused, "after {took:?}");
    });
}

#[test]
fn the_same_holds_for_ipv6() {
    in_world(async |world| {
        let network = world.open().await;
        let (a, b) = (attach(&network, 2).await, attach(&network, 3).await);
        let _tcp = TcpServer::start(Place::Namespace(&b.namespace), ANY6, 80, "b");
        let _udp = UdpServer::start(Place::Namespace(&b.namespace), ANY6, 53, "b");
        let (from_a, from_b) = (Place::Namespace(&a.namespace), Place::Namespace(&b.namespace));

        network.apply(two_tenants(vec![])).await.unwrap();
        let start = Instant::now();
        for address in [service6(), instance6(3), ipv6::node(namespace_address(3))] {
            assert!(is_refused_tcp(from_a, address, 80), "{address}");
            assert!(!ping6(from_a, address, 64), "{address}");
        }
        assert!(UdpClient::open(from_a, service6(), 53).ask().is_err());
        assert!(start.elapsed() < Duration::from_secs(10), "refused, not left to time out");
        assert_eq!(ask_tcp(from_b, service6(), 80).unwrap(), format!("b {}", instance6(3)));
        let gateway = ipv6::node(GATEWAY);
        let by_host = ask_tcp(Place::Host, service6(), 80).unwrap();
        assert_eq!(by_host, format!("b {gateway}"), "the machine calls everything");

        network.apply(two_tenants(vec![service_address(1)])).await.unwrap();
        let from_2 = format!("b {}", instance6(2));
        assert_eq!(ask_tcp(from_a, service6(), 80).unwrap(), from_2);
        assert_eq!(UdpClient::open(from_a, service6(), 53).ask().unwrap(), from_2);
        assert!(is_refused_tcp(from_a, instance6(3), 80), "only the service is exported");
        // What is another's is so again once it is not exported any more.
        network.apply(two_tenants(vec![])).await.unwrap();
        assert!(is_refused_tcp(from_a, service6(), 80));
    });
}

#[test]
fn a_call_over_ipv6_that_waited_is_refused_when_it_turns_out_to_be_to_another_tenant() {
    in_world(async |world| {
        let network = world.open().await;
        let (a, b) = (attach(&network, 2).await, attach(&network, 3).await);
        let _tcp = TcpServer::start(Place::Namespace(&b.namespace), ANY6, 80, "b");
        let known = two_tenants(vec![]);
        let without = ServiceTable { services: vec![], owned: vec![], ..known.clone() };
        network.apply(without).await.unwrap();
        let namespace = a.namespace.clone();
        let call = std::thread::spawn(move || {
            connect(Place::Namespace(&namespace), service6(), 80, SOON).unwrap_err().kind()
        });
        let unknown = network.next_unknown().await;
        assert_eq!((unknown.source, unknown.destination), (namespace_address(2), service_address(1)));
        network.apply(known).await.unwrap();
        assert_eq!(call.join().unwrap(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn what_one_tenant_may_not_ask_for_again_others_may() {
    in_world(async |world| {
        let network = world.open().await;
        let (a, b) = (attach(&network, 2).await, attach(&network, 3).await);
        let tenant =
            |member, refused| Tenant { members: vec![namespace_address(member)], reaches: vec![], refused };
        let table = ServiceTable {
            instances: instances(&[2, 3]),
            tenants: vec![tenant(2, vec![service_address(1)]), tenant(3, vec![])],
            ..ServiceTable::default()
        };
        network.apply(table).await.unwrap();
        assert!(is_refused_tcp(Place::Namespace(&a.namespace), service_address(1), 80));
        assert!(is_refused_tcp(Place::Namespace(&a.namespace), service6(), 80));
        let namespace = b.namespace.clone();
        let call = std::thread::spawn(move || {
            connect(Place::Namespace(&namespace), service_address(1), 80, SOON).is_ok()
        });
        let unknown = network.next_unknown().await;
        assert_eq!(unknown.source, namespace_address(3), "only the other one is told of");
        call.join().unwrap();
    });
}

#[test]
fn nobody_speaks_with_the_address_of_another_instance() {
    in_world(async |world| {
        let network = world.open().await;
        let (a, b) = (attach(&network, 2).await, attach(&network, 3).await);
        let _tcp = TcpServer::start(Place::Namespace(&b.namespace), ANY, 80, "b");
        network.apply(two_tenants(vec![])).await.unwrap();
        // It may be root inside and give itself any address.
        inside(&a.namespace, || {
            run("ip", &format!("addr add {}/32 dev eth0", namespace_address(3)));
            run(
                "ip",
                &format!(
                    "route replace {}/32 via {GATEWAY} src {}",
                    service_address(1),
                    namespace_address(3)
                ),
            );
        });
        assert!(ask_tcp(Place::Namespace(&a.namespace), service_address(1), 80).is_err());
        let forged = ipv6::node(namespace_address(3));
        inside(&a.namespace, || {
            run("ip", &format!("-6 addr add {forged}/128 dev eth0 nodad"));
            let gateway = ipv6::node(GATEWAY);
            run("ip", &format!("-6 route replace {}/128 via {gateway} dev eth0 src {forged}", service6()));
        });
        assert!(ask_tcp(Place::Namespace(&a.namespace), service6(), 80).is_err());
    });
}

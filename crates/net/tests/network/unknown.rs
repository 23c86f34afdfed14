//! Calls to addresses nobody has told the node about: they wait, and are told.

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::node::{self, Node, Somebody};
use crate::support::traffic::{
    AT_ONCE, Place, SOON, TcpServer, UdpClient, UdpServer, ask_tcp, connect, is_refused_tcp, ping,
};
use crate::support::{
    GATEWAY, attach, await_that, in_world, inside, instance_address, instances, namespace_address, run,
    service_address, together,
};
use oak_net::{Attached, NodeNetwork, Service, ServiceTable, Unknown};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
/// A first TCP packet would be repeated after a second.
const WITHOUT_REPETITION: Duration = Duration::from_millis(900);

/// A table that knows service 1, with the given backends, and the instances.
fn known(backends: &[u8]) -> ServiceTable {
    together(ServiceTable {
        services: vec![Service {
            addresses: vec![service_address(1)],
            backends: backends.iter().map(|n| namespace_address(*n)).collect(),
            ..Service::default()
        }],
        instances: instances(&[2, 3]),
        ..ServiceTable::default()
    })
}

/// A table that knows the instances' own addresses only.
fn unknown() -> ServiceTable {
    together(ServiceTable { services: vec![], ..known(&[]) })
}

/// What somebody does who calls, on a thread of its own.
fn calling<T: Send + 'static>(
    from: Place<'_>,
    call: impl FnOnce(Place<'_>) -> T + Send + 'static,
) -> Call<T> {
    let path = match from {
        Place::Host => None,
        Place::Namespace(path) => Some(path.to_owned()),
    };
    let start = Instant::now();
    let run = move || {
        let answer = call(path.as_deref().map_or(Place::Host, Place::Namespace));
        (answer, start.elapsed())
    };
    Call(std::thread::spawn(run))
}

struct Call<T>(std::thread::JoinHandle<(T, Duration)>);

impl<T> Call<T> {
    fn answer(self) -> (T, Duration) {
        self.0.join().unwrap()
    }
}

async fn open(world: &crate::support::World) -> (NodeNetwork, Attached, Attached) {
    let network = world.open().await;
    let (a, b) = (attach(&network, 2).await, attach(&network, 3).await);
    network.apply(unknown()).await.unwrap();
    (network, a, b)
}

#[test]
fn a_call_waits_until_its_address_is_known() {
    in_world(async |world| {
        let (network, a, b) = open(&world).await;
        let _tcp = TcpServer::start(Place::Namespace(&b.namespace), ANY, 80, "b");
        let places = [
            (Place::Namespace(&a.namespace), namespace_address(2), instance_address(2)),
            (Place::Host, GATEWAY, GATEWAY),
        ];
        for (from, source, seen) in places {
            network.apply(unknown()).await.unwrap();
            let call = calling(from, |from| ask_tcp(from, service_address(1), 80));
            let told = network.next_unknown().await;
            assert_eq!(told, Unknown { source, destination: service_address(1) });
            assert!(network.apply(known(&[3])).await.unwrap().forgotten_flows >= 1);
            let (answer, took) = call.answer();
            assert_eq!(answer.unwrap(), format!("b {seen}"));
            assert!(took < WITHOUT_REPETITION, "{took:?}");
            // The next one does not wait.
            assert_eq!(ask_tcp(from, service_address(1), 80).unwrap(), format!("b {seen}"));
        }
    });
}

#[test]
fn datagrams_and_pings_wait_too_also_large_ones() {
    in_world(async |world| {
        let (network, a, b) = open(&world).await;
        let _udp = UdpServer::start(Place::Namespace(&b.namespace), ANY, 53, "b");
        for from in [Place::Namespace(&a.namespace), Place::Host] {
            network.apply(unknown()).await.unwrap();
            let calls = [
                calling(from, |from| UdpClient::open(from, service_address(1), 53).ask_for(SOON).is_ok()),
                calling(from, |from| ping(from, service_address(1), 4000)),
            ];
            network.next_unknown().await;
            network.apply(known(&[3])).await.unwrap();
            assert_eq!(calls.map(|call| call.answer().0), [true, true]);
        }
    });
}

#[test]
fn an_instance_that_calls_itself_waits_like_others() {
    in_world(async |world| {
        let (network, a, _b) = open(&world).await;
        let from = Place::Namespace(&a.namespace);
        let _tcp = TcpServer::start(from, ANY, 80, "a");
        let call = calling(from, |from| ask_tcp(from, service_address(1), 80));
        network.next_unknown().await;
        network.apply(known(&[2])).await.unwrap();
        let (answer, took) = call.answer();
        assert_eq!(answer.unwrap(), format!("a {}", instance_address(2)));
        assert!(took < WITHOUT_REPETITION, "{took:?}");
    });
}

#[test]
fn a_call_to_what_has_no_instance_is_refused_as_soon_as_that_is_known() {
    in_world(async |world| {
        let (network, a, _b) = open(&world).await;
        let tcp: fn(Place<'_>) -> ErrorKind =
            |from| connect(from, service_address(1), 80, SOON).unwrap_err().kind();
        let udp: fn(Place<'_>) -> ErrorKind =
            |from| UdpClient::open(from, service_address(1), 53).ask_for(SOON).unwrap_err().kind();
        for from in [Place::Namespace(&a.namespace), Place::Host] {
            // One after the other: a datagram of the host that comes too late to wait is not permitted instead.
            for ask in [tcp, udp] {
                network.apply(unknown()).await.unwrap();
                let call = calling(from, ask);
                network.next_unknown().await;
                network.apply(known(&[])).await.unwrap();
                let (error, took) = call.answer();
                assert_eq!(error, ErrorKind::ConnectionRefused);
                assert!(took < WITHOUT_REPETITION, "{took:?}");
            }
            assert!(is_refused_tcp(from, service_address(1), 80));
        }
    });
}

#[test]
fn a_call_that_waited_reaches_another_node() {
    in_world(async |world| {
        let nodes = [1, 2].map(|number| Node::new(&world, number));
        let networks = [nodes[0].open_with(&[2]).await, nodes[1].open_with(&[1]).await];
        let (client, server) = (Somebody { node: 1, n: 2 }, Somebody { node: 2, n: 3 });
        let a = node::attach(&networks[0], client).await;
        let b = node::attach(&networks[1], server).await;
        networks[1].apply(node::table(&[server], &[client, server])).await.unwrap();
        let _tcp = TcpServer::start(Place::Namespace(&b.namespace), ANY, 80, "b");
        for from in [&a.namespace, &nodes[0].place] {
            networks[0].apply(ServiceTable::default()).await.unwrap();
            let call = calling(Place::Namespace(from), |from| ask_tcp(from, service_address(1), 80));
            networks[0].next_unknown().await;
            networks[0].apply(node::table(&[server], &[client, server])).await.unwrap();
            let (answer, took) = call.answer();
            let seen = if from == &a.namespace { client.instance() } else { node::gateway(1) };
            assert_eq!(answer.unwrap(), format!("b {seen}"));
            assert!(took < WITHOUT_REPETITION, "{took:?}");
        }
        // What waited does not leave by the default route when the node is not connected.
        networks[0].set_peers(vec![]).await.unwrap();
        networks[0].apply(ServiceTable::default()).await.unwrap();
        nodes[0].run("ip", "route add default via 192.0.2.2");
        nodes[1].run("nft", "add table inet watch");
        nodes[1].run("nft", "add chain inet watch nodes { type filter hook prerouting priority -400 ; }");
        nodes[1].run("nft", "add rule inet watch nodes ip daddr 10.16.0.0/12 counter");
        let place = Place::Namespace(&a.namespace);
        let call = calling(place, |from| connect(from, service_address(1), 80, AT_ONCE).is_err());
        networks[0].next_unknown().await;
        networks[0].apply(node::table(&[server], &[client, server])).await.unwrap();
        assert!(call.answer().0);
        let watched = nodes[1].run("nft", "list table inet watch");
        assert!(watched.contains("counter packets 0"), "{watched}");
    });
}

#[test]
fn a_call_to_what_stays_unknown_ends_after_two_seconds() {
    in_world(async |world| {
        let (network, a, _b) = open(&world).await;
        for from in [Place::Namespace(&a.namespace), Place::Host] {
            let call = calling(from, |from| connect(from, service_address(9), 80, SOON).unwrap_err().kind());
            assert_eq!(network.next_unknown().await.destination, service_address(9));
            // Told again, when the first packet is repeated.
            assert_eq!(network.next_unknown().await.destination, service_address(9));
            let (error, took) = call.answer();
            assert_eq!(error, ErrorKind::HostUnreachable);
            let expected = Duration::from_secs(2)..Duration::from_secs(3);
            assert!(expected.contains(&took), "{took:?}");
        }
    });
}

#[test]
fn a_flood_of_unknown_addresses_is_bounded() {
    in_world(async |world| {
        let (network, a, b) = open(&world).await;
        let network = Arc::new(network);
        let _tcp = TcpServer::start(Place::Namespace(&b.namespace), ANY, 80, "b");
        let flood = inside(&a.namespace, || std::net::UdpSocket::bind((ANY, 0)).unwrap());
        let before = resident_kib();
        for n in 0..20_000_u32 {
            let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 30, 100, 0).to_bits() + n);
            let _ = flood.send_to(&[0; 1400], (address, 9));
        }
        let grown = resident_kib().saturating_sub(before);
        assert!(grown < 16 << 10, "{grown} KiB more");
        // Somebody else's call is heard of when the flood's first ones were, and goes through.
        let call = calling(Place::Host, |from| ask_tcp(from, service_address(1), 80));
        let mut told = 0;
        while network.next_unknown().await.destination != service_address(1) {
            told += 1;
        }
        assert!(told <= 2048, "{told} pairs told");
        network.apply(known(&[3])).await.unwrap();
        assert_eq!(call.answer().0.unwrap(), format!("b {GATEWAY}"));
    });
}

/// Memory of this process.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn without_an_agent_unknown_addresses_are_refused_at_once() {
    in_world(async |world| {
        let (network, a, b) = open(&world).await;
        network.apply(known(&[3])).await.unwrap();
        let _tcp = TcpServer::start(Place::Namespace(&b.namespace), ANY, 80, "b");
        let from = Place::Namespace(&a.namespace);
        let waiting = calling(from, |from| connect(from, service_address(9), 80, SOON).unwrap_err().kind());
        network.next_unknown().await;
        drop(network);
        await_that("the device goes", || !run("ip", "-br link").contains("oak0u"));
        for place in [from, Place::Host] {
            assert!(is_refused_tcp(place, service_address(9), 80));
            assert!(ask_tcp(place, service_address(1), 80).is_ok());
        }
        // The one that waited is refused when its packet is repeated.
        let (error, took) = waiting.answer();
        assert_eq!(error, ErrorKind::ConnectionRefused);
        assert!(took < Duration::from_secs(2), "{took:?}");
        // The next agent lets calls wait again.
        let network = world.open().await;
        let waiting = calling(from, |from| ask_tcp(from, service_address(9), 80));
        assert_eq!(network.next_unknown().await.destination, service_address(9));
        let mut table = known(&[3]);
        table.services[0].addresses.push(service_address(9));
        network.apply(together(table)).await.unwrap();
        assert!(waiting.answer().0.is_ok());
    });
}

#[test]
fn a_host_where_calls_cannot_wait_says_so_and_refuses_them() {
    in_world(async |world| {
        // Somebody has the name.
        run("ip", "link add oak0u type bridge");
        let (network, a, _b) = open(&world).await;
        let notes = network.notes().join("\n");
        assert!(notes.contains("oak0u") && notes.contains("/dev/net/tun"), "{notes}");
        for from in [Place::Namespace(&a.namespace), Place::Host] {
            assert!(is_refused_tcp(from, service_address(9), 80));
        }
    });
}

#[test]
fn nobody_outside_may_wait() {
    in_world(async |world| {
        let (_network, _a, _b) = open(&world).await;
        let outside = world.outside();
        inside(&outside, || run("ip", "route add 10.30.0.0/16 via 192.0.2.1"));
        assert!(is_refused_tcp(Place::Namespace(&outside), service_address(9), 80));
    });
}

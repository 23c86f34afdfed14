//! Nodes behind NATs: a — router — network with a relay — router — b.

use std::net::SocketAddr;

use oak_tunnel::{Path, Peer, PresharedKey, Relay, RelayLimits, RelayMembers, RelayServer};

use crate::support::{Node, Transfer, World, eventually, is_installed, may_run};

const TAG: u64 = 0x0102_0304_0506_0708;

/// How a router gives out ports.
#[derive(Clone, Copy)]
enum Nat {
    /// The port of the inside, and only for packets of whom it was sent to.
    PortRestricted,
    /// Another port for each destination.
    Symmetric,
}

struct Natted {
    world: World,
    relay: RelayServer,
    network: Node,
    _routers: [Node; 2],
}

fn relay_address() -> SocketAddr {
    "192.0.2.1:4000".parse().unwrap()
}

fn relayed() -> Path {
    Path::Relayed { relay: relay_address(), tag: TAG }
}

/// A router between `inside` and the network, which is reached over `outer`.
fn router(directory: &std::path::Path, inside: &Node, network: &Node, outer: &str, nat: Nat) -> Node {
    let router = Node::new(directory, &format!("router-{outer}"));
    inside.cable("up0", &router, "in0");
    inside.run("ip link set lo up");
    inside.run("ip address add 192.168.1.2/24 dev up0");
    inside.run("ip route add default via 192.168.1.1");
    router.cable("out0", network, outer);
    router.run("ip address add 192.168.1.1/24 dev in0");
    let subnet = if outer == "left" { "198.51.100" } else { "203.0.113" };
    router.run(&format!("ip address add {subnet}.2/24 dev out0"));
    network.run(&format!("ip address add {subnet}.1/24 dev {outer}"));
    router.run(&format!("ip route add default via {subnet}.1"));
    router.run("sysctl -q -w net.ipv4.ip_forward=1");
    let ports = match nat {
        Nat::PortRestricted => "",
        Nat::Symmetric => " fully-random",
    };
    router.nft(&format!(
        "table ip t {{
             chain post {{ type nat hook postrouting priority srcnat; oifname out0 masquerade{ports}; }}
             chain in {{ type filter hook input priority filter; iifname out0 ct state new drop; }}
             chain through {{
                 type filter hook forward priority filter;
                 iifname out0 ct state new drop;
             }}
         }}"
    ));
    router
}

impl Natted {
    fn new(nat: Nat) -> Option<Self> {
        if !may_run() {
            return None;
        }
        if !is_installed("nft") {
            eprintln!("skipped: needs nft");
            return None;
        }
        let directory = tempfile::Builder::new().prefix("oak-tunnel-").tempdir().unwrap();
        let [mut a, mut b, network] = ["a", "b", "network"].map(|name| Node::new(directory.path(), name));
        network.run("ip link set lo up");
        network.run("ip address add 192.0.2.1/32 dev lo");
        network.run("sysctl -q -w net.ipv4.ip_forward=1");
        let routers = [
            router(directory.path(), &a, &network, "left", nat),
            router(directory.path(), &b, &network, "right", nat),
        ];
        a.start();
        b.start();
        let relay = network.inside(|| RelayServer::start(relay_address(), RelayLimits::default()).unwrap());
        let keys = [1, 2].map(|byte| PresharedKey::from_bytes([byte; 32]));
        let nodes = [(1, keys[0].clone()), (2, keys[1].clone())].into();
        relay.set(&RelayMembers { nodes, pairs: [(TAG, [1, 2])].into() }).unwrap();
        for (node, number, key) in [(&a, 1, &keys[0]), (&b, 2, &keys[1])] {
            let own = Relay { address: relay_address(), node: number, key: key.clone() };
            node.client.set_relays(vec![own]).unwrap();
        }
        let world = World::of(a, b, directory);
        world.address();
        Some(Self { world, relay, network, _routers: routers })
    }

    /// Tells each node how the other one is seen from outside, as a cluster would.
    fn introduce(&self) -> [SocketAddr; 2] {
        let World { a, b, .. } = &self.world;
        let seen = [a, b].map(|node| {
            eventually("the relay", || node.status().relays[0].is_registered);
            node.status().relays[0].seen_as.unwrap()
        });
        let paths = |other: SocketAddr| vec![Path::Direct(other), relayed()];
        b.client.set_peers(vec![Peer { paths: paths(seen[0]), ..self.world.peer_a(None) }]).unwrap();
        a.client.set_peers(vec![Peer { paths: paths(seen[1]), ..self.world.peer_b(seen[1]) }]).unwrap();
        seen
    }

    fn paths(&self) -> [Option<Path>; 2] {
        [&self.world.a, &self.world.b].map(Node::path)
    }
}

#[test]
fn two_nodes_behind_nats_reach_each_other_and_fall_back_to_the_relay() {
    let Some(natted) = Natted::new(Nat::PortRestricted) else { return };
    let seen = natted.introduce();
    assert_eq!(seen[0], "198.51.100.2:51820".parse().unwrap());
    let mut transfer = Transfer::start(&natted.world.a, &natted.world.b, "10.18.1.1");
    transfer.send(1 << 20);
    let straight = [Some(Path::Direct(seen[1])), Some(Path::Direct(seen[0]))];
    eventually("the straight path", || natted.paths() == straight);
    let before = natted.relay.counts().forwarded_bytes;
    transfer.send(4 << 20);
    let through_relay = natted.relay.counts().forwarded_bytes - before;
    assert!(through_relay < 1 << 20, "{through_relay} bytes through the relay");

    // Nothing goes straight any more.
    natted.network.nft(
        "table ip t {
             chain through { type filter hook forward priority filter; meta l4proto udp drop; }
         }",
    );
    transfer.send(4 << 20);
    transfer.finish();
    eventually("the relay's path", || natted.paths() == [Some(relayed()); 2]);
}

#[test]
fn what_cannot_go_straight_goes_through_the_relay() {
    let Some(natted) = Natted::new(Nat::Symmetric) else { return };
    natted.introduce();
    let mut transfer = Transfer::start(&natted.world.a, &natted.world.b, "10.18.1.1");
    for _ in 0..4 {
        transfer.send(1 << 20);
        natted.world.a.client.handshake("b").unwrap();
    }
    transfer.finish();
    assert_eq!(natted.paths(), [Some(relayed()); 2]);
    let counts = natted.relay.counts();
    assert!(counts.forwarded_bytes > 4 << 20 && counts.present.len() == 2, "{counts:?}");
}

#[test]
fn long_packets_that_a_network_swallows_are_avoided() {
    if !may_run() || !is_installed("nft") {
        eprintln!("skipped: needs root and nft");
        return;
    }
    let directory = tempfile::Builder::new().prefix("oak-tunnel-").tempdir().unwrap();
    let [mut a, mut b, router] = ["a", "b", "router"].map(|name| Node::new(directory.path(), name));
    for (node, name, v4, v6) in
        [(&a, "left", "198.51.100", "2001:db8:1:"), (&b, "right", "203.0.113", "2001:db8:2:")]
    {
        node.cable("up0", &router, name);
        for (own, net) in [(node, 2), (&router, 1)] {
            let device = if net == 1 { name } else { "up0" };
            own.run(&format!("ip address add {v4}.{net}/24 dev {device}"));
            own.run(&format!("ip address add {v6}:{net}/64 dev {device} nodad"));
        }
        node.run(&format!("ip route add default via {v4}.1"));
        node.run(&format!("ip route add default via {v6}:1"));
    }
    router.run("sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    router.run("ip link set right mtu 1400");
    router.nft(
        "table inet t {
             chain out {
                 type filter hook output priority filter;
                 icmp type destination-unreachable drop
                 icmpv6 type packet-too-big drop
             }
         }",
    );
    a.start();
    b.start();
    let world = World::of(a, b, directory);
    world.address();
    // Outer packets of 1360 bytes are the longest that are tried and pass.
    for (outer, limit) in [("203.0.113.2:51820", 1360 - 60), ("[2001:db8:2::2]:51820", 1360 - 80)] {
        world.connect(outer.parse().unwrap());
        for inner in ["10.18.1.1", "fc00:2::1"] {
            let mut transfer = Transfer::start(&world.a, &world.b, inner);
            transfer.send(4 << 20);
            eventually("the limit", || {
                transfer.send(1 << 16);
                world.a.status().peers[0].path_limit == Some(limit)
            });
            transfer.send(4 << 20);
            transfer.finish();
        }
        world.a.client.set_peers(vec![]).unwrap();
    }
}

#[test]
fn a_relay_of_both_families_connects_nodes_that_have_none_in_common() {
    if !may_run() {
        return;
    }
    let directory = tempfile::Builder::new().prefix("oak-tunnel-").tempdir().unwrap();
    let [mut a, mut b, network] = ["a", "b", "network"].map(|name| Node::new(directory.path(), name));
    a.cable("up0", &network, "left");
    b.cable("up0", &network, "right");
    a.run("ip address add 192.0.2.1/24 dev up0");
    network.run("ip address add 192.0.2.9/24 dev left");
    b.run("ip address add 2001:db8::2/64 dev up0 nodad");
    network.run("ip address add 2001:db8::9/64 dev right nodad");
    a.start();
    b.start();
    let listen = "[::]:4000".parse().unwrap();
    let relay = network.inside(|| RelayServer::start(listen, RelayLimits::default()).unwrap());
    let keys = [1, 2].map(|byte| PresharedKey::from_bytes([byte; 32]));
    let nodes = [(1, keys[0].clone()), (2, keys[1].clone())].into();
    relay.set(&RelayMembers { nodes, pairs: [(TAG, [1, 2])].into() }).unwrap();
    let relays: [SocketAddr; 2] = ["192.0.2.9:4000", "[2001:db8::9]:4000"].map(|text| text.parse().unwrap());
    let own: [SocketAddr; 2] = ["192.0.2.1:51820", "[2001:db8::2]:51820"].map(|text| text.parse().unwrap());
    for (node, number) in [(&a, 0), (&b, 1)] {
        let address = relays[number];
        let relay = Relay { address, node: number as u64 + 1, key: keys[number].clone() };
        node.client.set_relays(vec![relay]).unwrap();
        eventually("the relay", || node.status().relays[0].is_registered);
        assert_eq!(node.status().relays[0].seen_as, Some(own[number]));
    }

    let world = World::of(a, b, directory);
    world.address();
    let relayed = relays.map(|relay| Path::Relayed { relay, tag: TAG });
    let paths = |other: usize, relayed: Path| vec![Path::Direct(own[other]), relayed];
    world.b.client.set_peers(vec![Peer { paths: paths(0, relayed[1]), ..world.peer_a(None) }]).unwrap();
    world.a.client.set_peers(vec![Peer { paths: paths(1, relayed[0]), ..world.peer_b(own[1]) }]).unwrap();
    world.a.reaches("10.18.1.1");
    let mut transfer = Transfer::start(&world.a, &world.b, "fc00:2::1");
    transfer.send(4 << 20);
    transfer.finish();
    assert_eq!([world.a.path(), world.b.path()], relayed.map(Some));
}

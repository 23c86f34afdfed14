//! Engines against the real kernel, each in a network namespace of its own. Needs root.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "in a test, a failure is a panic and is seen")]

mod hostile;
mod kernel;
mod nat;
mod no_ipv6;
mod support;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::process::CommandExt;
use std::time::{Duration, Instant};

use oak_tunnel::{Path, Peer, PresharedKey, Relay, RelayLimits, RelayMembers, RelayServer};

use no_ipv6::without_ipv6;
use support::{Node, Transfer, World, eventually, is_installed, wireguard_go};

/// Whether the last handshake with the only peer was after that.
pub(crate) fn has_session_since(node: &Node, asked: Instant) -> bool {
    let age = node.client.status().unwrap().peers[0].last_handshake_ms;
    age.is_some_and(|age| u128::from(age) < asked.elapsed().as_millis())
}

#[test]
fn carries_both_families_over_both_families() {
    let Some(world) = World::new() else { return };
    for outer in ["192.0.2.2:51820", "[2001:db8::2]:51820"] {
        world.connect(outer.parse().unwrap());
        world.a.reaches("10.18.1.1");
        world.a.reaches("fc00:2::1");
        world.b.reaches("10.18.0.1");
        for inner in ["10.18.1.1", "fc00:2::1"] {
            let mut transfer = Transfer::start(&world.a, &world.b, inner);
            transfer.send(24 << 20);
            transfer.finish();
        }
        let status = world.a.client.status().unwrap();
        let peer = &status.peers[0];
        assert_eq!(peer.path, Some(Path::Direct(outer.parse().unwrap())));
        assert!(peer.sent_bytes > 48 << 20 && peer.received_bytes > 0 && peer.last_handshake_ms.is_some());
        assert_eq!((peer.refused, peer.foreign), (0, 0));
        world.a.client.set_peers(vec![]).unwrap();
    }
}

#[test]
fn carries_datagrams_of_every_size() {
    let Some(world) = World::new() else { return };
    world.connect("192.0.2.2:51820".parse().unwrap());
    let receiver = world.b.inside(|| UdpSocket::bind("10.18.1.1:0").unwrap());
    receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let sender = world.a.inside(|| UdpSocket::bind("10.18.0.1:0").unwrap());
    let mut buffer = vec![0; 70_000];
    for size in [0_usize, 1, 3, 15, 16, 17, 1000, 1391, 1392, 1393, 3000, 20_000, 65_000] {
        let sent: Vec<u8> = (0..size).map(|place| (place * 7 + size) as u8).collect();
        sender.send_to(&sent, receiver.local_addr().unwrap()).unwrap();
        let length = receiver.recv(&mut buffer).unwrap();
        assert!(buffer[..length] == sent, "{size} bytes");
    }
}

#[test]
fn a_transfer_survives_new_sessions_new_addresses_and_killed_engines() {
    let Some(mut world) = World::new() else { return };
    world.connect("192.0.2.2:51820".parse().unwrap());
    let mut transfer = Transfer::start(&world.a, &world.b, "10.18.1.1");
    transfer.send(4 << 20);

    for _ in 0..3 {
        let asked = Instant::now();
        world.a.client.handshake("b").unwrap();
        transfer.send(2 << 20);
        eventually("a new session", || has_session_since(&world.a, asked));
        world.b.client.handshake("a").unwrap();
        transfer.send(2 << 20);
    }

    world.a.run("ip address del 192.0.2.1/24 dev up0");
    world.a.run("ip address add 192.0.2.77/24 dev up0");
    transfer.send(4 << 20);
    let moved =
        |path: Option<Path>| path.is_some_and(|path| path.address().ip() == Ipv4Addr::new(192, 0, 2, 77));
    eventually("the new address", || moved(world.b.client.status().unwrap().peers[0].path));

    let file = world.b.config.directory.join("state.json");
    eventually("the new address on disk", || std::fs::read_to_string(&file).unwrap().contains("192.0.2.77"));
    let before = world.b.client.status().unwrap().pid;
    world.b.restart();
    assert_ne!(world.b.client.status().unwrap().pid, before);
    transfer.send(4 << 20);
    world.a.restart();
    transfer.send(4 << 20);
    transfer.finish();
}

#[test]
fn a_new_key_interrupts_nothing() {
    let Some(mut world) = World::new() else { return };
    world.connect("192.0.2.2:51820".parse().unwrap());
    let mut transfer = Transfer::start(&world.a, &world.b, "10.18.1.1");
    transfer.send(1 << 20);
    // A key of ours first, because nobody is told the one the engine has made.
    let [former, key] = [1, 2].map(|_| oak_tunnel::PrivateKey::generate());
    world.b.client.set_key(former.clone(), None).unwrap();
    let peer = world.peer_b("192.0.2.2:51820".parse().unwrap());
    world.a.client.set_peers(vec![peer.clone()]).unwrap();
    let knows = |node: &Node| node.status().peers[0].knows;
    eventually("the key is known", || knows(&world.b) == Some(former.public()));
    transfer.send(1 << 20);

    // Nobody has told the other side; whoever begins, and after a crash, the former key does.
    world.b.client.set_key(key.clone(), Some(former.clone())).unwrap();
    assert_eq!(world.b.status().former_key, Some(former.public()));
    transfer.send(1 << 20);
    world.b.restart();
    assert_eq!(
        (world.b.status().public_key, world.b.status().former_key),
        (key.public(), Some(former.public()))
    );
    transfer.send(1 << 20);
    for (node, peer) in [(&world.a, "b"), (&world.b, "a")] {
        let asked = Instant::now();
        node.client.handshake(peer).unwrap();
        eventually("a session with the former key", || has_session_since(node, asked));
        assert_eq!(knows(&world.b), Some(former.public()));
        transfer.send(1 << 20);
    }

    // Whoever is told uses the new one at once.
    world.a.client.set_peers(vec![Peer { public_key: key.public(), ..peer }]).unwrap();
    eventually("a session with the new key", || knows(&world.b) == Some(key.public()));
    transfer.send(1 << 20);
    world.b.client.set_key(key.clone(), None).unwrap();
    let asked = Instant::now();
    world.b.client.handshake("a").unwrap();
    eventually("a session without the former key", || has_session_since(&world.b, asked));
    transfer.send(1 << 20);
    transfer.finish();
}

#[test]
fn a_source_that_is_not_the_peers_is_refused() {
    let Some(world) = World::new() else { return };
    world.connect("192.0.2.2:51820".parse().unwrap());
    world.a.reaches("10.18.1.1");
    world.a.run("ip address add 10.99.0.1/32 dev tun0");
    let forged = world.a.inside(|| UdpSocket::bind("10.99.0.1:0").unwrap());
    forged.send_to(b"forged", "10.18.1.1:9").unwrap();
    eventually("the refusal", || world.b.client.status().unwrap().peers[0].foreign > 0);
    let stolen = oak_tunnel::Peer { networks: vec!["10.18.0.0/26".parse().unwrap()], ..support::stranger() };
    let both = vec![world.peer_a(None), stolen];
    assert!(world.b.client.set_peers(both).is_err(), "a network has one owner");
    world.a.reaches("10.18.1.1");
}

#[test]
fn a_narrow_way_is_learned() {
    let Some(world) = World::new() else { return };
    world.connect("192.0.2.2:51820".parse().unwrap());
    world.a.run("ip link set up0 mtu 1400");
    world.b.run("ip link set up0 mtu 1400");
    let mut transfer = Transfer::start(&world.a, &world.b, "10.18.1.1");
    transfer.send(8 << 20);
    transfer.finish();
    eventually("the limit", || world.a.client.status().unwrap().peers[0].path_limit == Some(1400 - 60));
    let mut transfer = Transfer::start(&world.a, &world.b, "fc00:2::1");
    transfer.send(8 << 20);
    transfer.finish();
}

#[test]
fn the_better_of_two_paths_is_used_without_being_told() {
    let Some(world) = World::new() else { return };
    let relay: SocketAddr = "192.0.2.2:4000".parse().unwrap();
    let server = world.b.inside(|| RelayServer::start(relay, RelayLimits::default()).unwrap());
    let keys = [1, 2].map(|byte| PresharedKey::from_bytes([byte; 32]));
    let nodes = [(1, keys[0].clone()), (2, keys[1].clone())].into();
    server.set(&RelayMembers { nodes, pairs: [(77, [1, 2])].into() }).unwrap();
    for (node, number, key) in [(&world.a, 1, &keys[0]), (&world.b, 2, &keys[1])] {
        node.client.set_relays(vec![Relay { address: relay, node: number, key: key.clone() }]).unwrap();
        eventually("the relay", || node.status().relays[0].is_registered);
        assert_eq!(node.status().relays[0].seen_as, Some(([192, 0, 2, number as u8], 51820).into()));
    }
    let relayed = Path::Relayed { relay, tag: 77 };
    let to_b = Path::Direct("192.0.2.2:51820".parse().unwrap());
    let peers = |paths: Vec<Path>| vec![Peer { paths, ..world.peer_b("192.0.2.2:51820".parse().unwrap()) }];
    world.a.client.set_peers(peers(vec![relayed])).unwrap();
    world.b.client.set_peers(vec![Peer { paths: vec![relayed], ..world.peer_a(None) }]).unwrap();
    let mut transfer = Transfer::start(&world.a, &world.b, "10.18.1.1");
    transfer.send(4 << 20);
    assert_eq!((world.a.path(), world.b.path()), (Some(relayed), Some(relayed)));
    assert!(server.counts().forwarded_bytes > 4 << 20);
    world.a.client.set_peers(peers(vec![to_b, relayed])).unwrap();
    transfer.send(1 << 20);
    eventually("the straight path", || world.a.path() == Some(to_b));
    transfer.send(4 << 20);
    transfer.finish();
    let straight = Path::Direct("192.0.2.1:51820".parse().unwrap());
    eventually("the straight path back", || world.b.path() == Some(straight));
    let peer = &world.a.status().peers[0];
    assert!(peer.round_trip_us.is_some() && peer.path_since_ms.is_some());
}

#[test]
fn answers_come_from_the_address_that_was_asked() {
    let Some(world) = World::new() else { return };
    for (own, outer) in [("192.0.2.3/24", "192.0.2.3:51820"), ("2001:db8::3/64", "[2001:db8::3]:51820")] {
        let nodad = if own.contains(':') { " nodad" } else { "" };
        world.b.run(&format!("ip address add {own} dev up0{nodad}"));
        world.connect(outer.parse().unwrap());
        let asked = Some(Path::Direct(outer.parse().unwrap()));
        let mut transfer = Transfer::start(&world.a, &world.b, "10.18.1.1");
        transfer.send(8 << 20);
        let since = Instant::now();
        world.b.client.handshake("a").unwrap();
        eventually("a session that b began", || has_session_since(&world.b, since));
        transfer.send(1 << 20);
        // A handshake that b began before it heard from a may have come from elsewhere; that lasts a moment.
        eventually("the address that was asked", || world.a.path() == asked);
        // The address goes away: b answers from another one, and a follows.
        transfer.finish();
        world.b.run(&format!("ip address del {own} dev up0"));
        let mut transfer = Transfer::start(&world.b, &world.a, "10.18.0.1");
        transfer.send(1 << 20);
        transfer.finish();
        eventually("another address", || world.a.path() != asked);
        world.a.client.set_peers(vec![]).unwrap();
    }
}

#[test]
fn a_machine_without_ipv6_says_so_and_works() {
    let Some(mut world) = World::without_engines() else { return };
    world.a.start_with(without_ipv6);
    world.b.start();
    assert!(!world.a.status().has_ipv6 && world.b.status().has_ipv6);
    world.address();
    let v6 = Path::Direct("[2001:db8::2]:51820".parse().unwrap());
    let v4: SocketAddr = "192.0.2.2:51820".parse().unwrap();
    world.b.client.set_peers(vec![world.peer_a(None)]).unwrap();
    let paths = vec![v6, Path::Direct(v4)];
    world.a.client.set_peers(vec![Peer { paths, ..world.peer_b(v4) }]).unwrap();
    for inner in ["10.18.1.1", "fc00:2::1"] {
        let mut transfer = Transfer::start(&world.a, &world.b, inner);
        transfer.send(4 << 20);
        transfer.finish();
    }
    assert_eq!(world.a.path(), Some(Path::Direct(v4)));
}

#[test]
fn congestion_marks_pass_in_both_directions_of_the_layers() {
    if !is_installed("nft") {
        eprintln!("skipped: needs nft");
        return;
    }
    let Some(world) = World::new() else { return };
    world.connect("192.0.2.2:51820".parse().unwrap());
    for node in [&world.a, &world.b] {
        node.run("sysctl -q -w net.ipv4.tcp_ecn=1");
    }
    // The network between them says "congestion" to every datagram that can hear it.
    world.b.nft(
        "table ip t {
             counter inner { }
             chain pre {
                 type filter hook prerouting priority raw;
                 iifname up0 udp dport 51820 ip ecn ect0 ip ecn set ce
                 iifname tun0 meta l4proto tcp ip ecn ce counter name inner
             }
         }",
    );
    let mut transfer = Transfer::start(&world.a, &world.b, "10.18.1.1");
    transfer.send(1 << 20);
    transfer.finish();
    let counter = world.b.ask("nft list counter ip t inner");
    assert!(counter.contains("packets ") && !counter.contains("packets 0 "), "{counter}");
}

#[test]
fn an_engine_outlives_its_agent_and_is_found_by_the_next_one() {
    if let Some(directory) = std::env::var_os(AGENT) {
        return be_an_agent(std::path::Path::new(&directory));
    }
    let Some(world) = World::new() else { return };
    world.connect("192.0.2.2:51820".parse().unwrap());
    world.b.client.stop().unwrap();
    let mut agent = world.b.command(&std::env::current_exe().unwrap().display().to_string());
    agent.args(["--exact", "an_engine_outlives_its_agent_and_is_found_by_the_next_one", "--nocapture"]);
    agent.env(AGENT, &world.b.config.directory).process_group(0);
    let mut agent = agent.spawn().unwrap();
    eventually("the engine of the agent", || world.b.client.status().is_ok());
    world.address_b();
    let pid = world.b.status().pid;
    let mut transfer = Transfer::start(&world.a, &world.b, "10.18.1.1");
    transfer.send(1 << 20);
    // With everything of its group, as a terminal or a service manager would.
    let group = rustix::process::Pid::from_raw(agent.id().cast_signed()).unwrap();
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
    agent.wait().unwrap();
    transfer.send(4 << 20);
    transfer.finish();
    let nothing = std::process::Command::new("/nonexistent");
    let client = oak_tunnel::start(&world.b.config, nothing).unwrap();
    let status = client.status().unwrap();
    assert_eq!((status.pid, status.config), (pid, world.b.config.clone()));
    assert_eq!(status.peers[0].name, "a");
    let other = oak_tunnel::TunnelConfig { mtu: 1300, ..world.b.config.clone() };
    let other = oak_tunnel::start(&other, std::process::Command::new("/nonexistent"));
    assert!(matches!(other, Err(oak_tunnel::StartError::Other { .. })));
    client.stop().unwrap();
}

/// Names the directory of the engine to a process of this program that plays the agent.
const AGENT: &str = "OAK_TUNNEL_TEST_AGENT";

/// Starts an engine and waits to be killed.
fn be_an_agent(directory: &std::path::Path) {
    let config = oak_tunnel::TunnelConfig::new("tun0", support::PORT, directory.to_owned());
    let program = std::process::Command::new(env!("CARGO_BIN_EXE_oak-tunnel"));
    oak_tunnel::start(&config, program).unwrap();
    let mut nothing = Vec::new();
    let (_open, mut waits) = std::os::unix::net::UnixStream::pair().unwrap();
    std::io::Read::read_to_end(&mut waits, &mut nothing).unwrap();
}

#[test]
fn understands_wireguard_go() {
    if !is_installed("wireguard-go") || !is_installed("wg") {
        eprintln!("skipped: needs wireguard-go and wg");
        return;
    }
    for begins in ["a", "b"] {
        let Some(world) = World::with_one_engine() else { return };
        let go = wireguard_go(&world);
        let pings: [(&Node, &str); 2] = [(&world.a, "10.18.1.1"), (&world.b, "10.18.0.1")];
        let (node, address) = if begins == "a" { pings[0] } else { pings[1] };
        node.reaches(address);
        let mut transfer = Transfer::start(&world.a, &world.b, "10.18.1.1");
        transfer.send(8 << 20);
        transfer.finish();
        let mut transfer = Transfer::start(&world.b, &world.a, "10.18.0.1");
        transfer.send(8 << 20);
        transfer.finish();
        assert_eq!(world.a.client.status().unwrap().peers[0].refused, 0);
        drop(go);
    }
}

#[test]
fn stopping_leaves_nothing_and_a_second_engine_is_refused() {
    let Some(mut world) = World::new() else { return };
    assert!(!world.a.second_engine().success());
    world.a.client.stop().unwrap();
    world.a.wait();
    assert!(world.a.try_run("ip link show tun0").is_err(), "the device is gone");
    assert!(world.a.client.status().is_err());
    world.b.kill();
    world.b.run("ip link show tun0");
    world.b.inside(|| oak_tunnel::remove(&world.b.config).unwrap());
    assert!(world.b.try_run("ip link show tun0").is_err());
}

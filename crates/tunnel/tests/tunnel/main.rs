//! Engines against the real kernel, each in a network namespace of its own. Needs root.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "in a test, a failure is a panic and is seen")]

mod support;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use oak_tunnel::{FrameSocket, Path, RELAYED};

use support::{Node, Transfer, World, eventually, is_installed, wireguard_go};

/// Whether the last handshake with the only peer was after that.
fn has_session_since(node: &Node, asked: Instant) -> bool {
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
    let Some(world) = World::new() else { return };
    world.connect("192.0.2.2:51820".parse().unwrap());
    let mut transfer = Transfer::start(&world.a, &world.b, "10.18.1.1");
    transfer.send(1 << 20);
    let key = oak_tunnel::PrivateKey::generate();
    world.b.client.set_key(key.clone()).unwrap();
    transfer.send(1 << 20);
    let mut peer = world.peer_b("192.0.2.2:51820".parse().unwrap());
    peer.public_key = key.public();
    world.a.client.set_peers(vec![peer]).unwrap();
    let asked = Instant::now();
    world.a.client.handshake("b").unwrap();
    eventually("a session with the new key", || has_session_since(&world.a, asked));
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
fn frames_of_others_share_the_port() {
    let Some(world) = World::new() else { return };
    let at_a = FrameSocket::connect(&world.a.config, &world.a.config.directory.join("agent.sock")).unwrap();
    let at_b = FrameSocket::connect(&world.b.config, &world.b.config.directory.join("agent.sock")).unwrap();
    let to: SocketAddr = "192.0.2.2:51820".parse().unwrap();
    // The engine learns who listens from the first message; a frame before that is dropped.
    let mut got = None;
    eventually("the frame", || {
        at_a.send(to, &[0x90, 1, 2, 3]).unwrap();
        got = at_b.receive(Duration::from_millis(200)).ok();
        got.is_some()
    });
    assert_eq!(got.unwrap(), ("192.0.2.1:51820".parse().unwrap(), vec![0x90, 1, 2, 3]));
    assert!(at_a.send(to, &[4, 0, 0, 0]).is_err(), "not in the name of WireGuard");
}

#[test]
fn a_relay_carries_what_cannot_go_straight() {
    let Some(world) = World::new() else { return };
    // Runs on b's machine but knows nothing: it passes on what has its header, to the other of two addresses.
    let relay = world.b.inside(|| UdpSocket::bind("192.0.2.2:4000").unwrap());
    let ends: [SocketAddr; 2] = ["192.0.2.1:51820".parse().unwrap(), "192.0.2.2:51820".parse().unwrap()];
    let clone = relay.try_clone().unwrap();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 70_000];
        while let Ok((length, from)) = clone.recv_from(&mut buffer) {
            assert_eq!(buffer[0], RELAYED);
            let to = if from == ends[0] { ends[1] } else { ends[0] };
            let _ = clone.send_to(&buffer[..length], to);
        }
    });
    let path = Path::Relayed { relay: "192.0.2.2:4000".parse().unwrap(), tag: 77 };
    world.a.client.set_peers(vec![oak_tunnel::Peer { paths: vec![path], ..world.peer_b(ends[1]) }]).unwrap();
    world.b.client.set_peers(vec![oak_tunnel::Peer { paths: vec![path], ..world.peer_a(None) }]).unwrap();
    let mut transfer = Transfer::start(&world.a, &world.b, "10.18.1.1");
    transfer.send(4 << 20);
    assert_eq!(world.b.client.status().unwrap().peers[0].path, Some(path));
    world.a.client.use_path("b", Path::Direct(ends[1])).unwrap();
    transfer.send(4 << 20);
    transfer.finish();
    eventually("the straight path", || {
        world.b.client.status().unwrap().peers[0].path == Some(Path::Direct(ends[0]))
    });
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

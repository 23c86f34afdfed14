//! The lane in the kernel. Where the kernel of the machine has no WireGuard, `make kernel-wireguard` runs these tests in a
//! virtual machine whose kernel has.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use oak_tunnel::{KernelState, Path, Peer, PrivateKey};

use crate::support::{Node, Transfer, World, eventually, within};

const LANE: &str = "wg-lane";
const PORT: u16 = 51821;

/// Two machines whose engines have lanes, with addresses and routes as an agent makes them.
fn world() -> Option<World> {
    let mut world = World::without_engines()?;
    if world.a.try_run(&format!("ip link add {LANE} type wireguard")).is_err() {
        eprintln!("skipped: the kernel has no WireGuard; make kernel-wireguard");
        return None;
    }
    world.a.run(&format!("ip link del {LANE}"));
    for node in [&mut world.a, &mut world.b] {
        node.use_kernel(LANE, PORT);
        node.start();
        assert_eq!(node.status().kernel, KernelState::Ready);
    }
    for (node, own, other) in [(&world.a, 0, 1), (&world.b, 1, 0)] {
        let (own6, other6) = (own + 1, other + 1);
        node.run(&format!("ip address add 10.18.{own}.1/26 dev tun0"));
        node.run(&format!("ip route add 10.18.{other}.0/26 dev tun0 src 10.18.{own}.1 metric 1000"));
        node.run(&format!("ip address add fc00:{own6}::1/64 dev tun0 nodad"));
        node.run(&format!("ip route add fc00:{other6}::/64 dev tun0 src fc00:{own6}::1 metric 1000"));
    }
    Some(world)
}

fn connected() -> Option<World> {
    let world = world()?;
    world.connect("192.0.2.2:51820".parse().unwrap());
    both_use_it(&world, true);
    Some(world)
}

fn uses_it(node: &Node) -> bool {
    node.status().peers[0].in_kernel
}

fn both_use_it(world: &World, expected: bool) {
    for node in [&world.a, &world.b] {
        eventually("the lane", || uses_it(node) == expected);
        let is_led = || {
            node.ask("ip route get 10.18.0.1").contains(LANE)
                || node.ask("ip route get 10.18.1.1").contains(LANE)
        };
        eventually("the routes", || is_led() == expected);
    }
}

/// Bytes that a device has received.
fn received(node: &Node, device: &str) -> u64 {
    let counters = node.ask("cat /proc/net/dev");
    let line =
        counters.lines().find_map(|line| line.trim_start().strip_prefix(&format!("{device}:"))).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn the_kernel_carries_both_families() {
    let Some(world) = connected() else { return };
    let (lane, tun) = (received(&world.b, LANE), received(&world.b, "tun0"));
    for inner in ["10.18.1.1", "fc00:2::1"] {
        let mut transfer = Transfer::start(&world.a, &world.b, inner);
        transfer.send(8 << 20);
        transfer.finish();
    }
    assert!(received(&world.b, LANE) > lane + (16 << 20));
    assert!(received(&world.b, "tun0") < tun + (1 << 16), "this process carries questions only");
    let told = |node: &Node| node.status().peers[0].clone();
    eventually("what the kernel has counted", || told(&world.a).sent_bytes > 16 << 20);
    eventually("what the kernel has counted", || told(&world.b).received_bytes > 16 << 20);
    // Addresses of nobody do not get through.
    world.a.run("ip address add 10.77.0.1/32 dev lo");
    let receiver = world.b.inside(|| UdpSocket::bind("10.18.1.1:0").unwrap());
    receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    for (source, said) in [("10.77.0.1:0", b"foreign"), ("10.18.0.1:0", b"peer's.")] {
        let sender = world.a.inside(|| UdpSocket::bind(source).unwrap());
        sender.send_to(said, receiver.local_addr().unwrap()).unwrap();
    }
    let mut buffer = [0; 16];
    assert_eq!(receiver.recv(&mut buffer).unwrap(), 7);
    assert_eq!(&buffer[..7], b"peer's.");
}

#[test]
fn the_kernel_carries_packets_over_ipv6() {
    let Some(world) = world() else { return };
    world.connect("[2001:db8::2]:51820".parse().unwrap());
    both_use_it(&world, true);
    let lane = received(&world.b, LANE);
    let mut transfer = Transfer::start(&world.a, &world.b, "10.18.1.1");
    transfer.send(4 << 20);
    transfer.finish();
    assert!(received(&world.b, LANE) > lane + (4 << 20));
}

#[test]
fn engines_may_end_and_the_next_ones_go_on_with_what_is_there() {
    let Some(mut world) = connected() else { return };
    let mut transfer = Transfer::start(&world.a, &world.b, "10.18.1.1");
    transfer.send(1 << 20);
    world.a.kill();
    world.b.kill();
    transfer.send(4 << 20);
    for number in 0..2 {
        let node = if number == 0 { &mut world.a } else { &mut world.b };
        node.start();
        assert!(uses_it(node), "adopted at once");
        transfer.send(1 << 20);
    }
    let lane = received(&world.b, LANE);
    transfer.send(4 << 20);
    assert!(received(&world.b, LANE) > lane + (4 << 20));
    for node in [&world.a, &world.b] {
        let peer = if std::ptr::eq(node, &raw const world.a) { "b" } else { "a" };
        node.client.handshake(peer).unwrap();
    }
    transfer.send(1 << 20);
    both_use_it(&world, true);
    transfer.finish();
}

#[test]
fn a_lane_that_is_interrupted_is_left_and_found_again() {
    let Some(world) = connected() else { return };
    let mut transfer = Transfer::start(&world.a, &world.b, "10.18.1.1");
    transfer.send(1 << 20);
    // In one direction only: the other one still works.
    for (node, number) in [(&world.b, 1), (&world.a, 2)] {
        node.nft(&format!(
            "table inet block {{ chain input {{ type filter hook input priority 0; udp dport {PORT} drop; }}; }}"
        ));
        let began = Instant::now();
        transfer.send(1 << 20);
        let took = began.elapsed();
        assert!(took < Duration::from_secs(15), "interruption {number}: {took:?}");
        both_use_it(&world, false);
        transfer.send(1 << 20);
        node.nft("delete table inet block");
        within(Duration::from_secs(150), "another try", || uses_it(&world.a) && uses_it(&world.b));
        both_use_it(&world, true);
        transfer.send(1 << 20);
    }
    transfer.finish();
}

#[test]
fn a_new_key_is_not_used_before_everybody_knows_it() {
    let Some(world) = connected() else { return };
    let mut transfer = Transfer::start(&world.a, &world.b, "10.18.1.1");
    transfer.send(1 << 20);
    let [former, key] = [1, 2].map(|_| PrivateKey::generate());
    world.b.client.set_key(former.clone(), None).unwrap();
    let peer = world.peer_b("192.0.2.2:51820".parse().unwrap());
    world.a.client.set_peers(vec![peer.clone()]).unwrap();
    transfer.send(1 << 20);
    both_use_it(&world, true);

    world.b.client.set_key(key.clone(), Some(former)).unwrap();
    both_use_it(&world, false);
    transfer.send(1 << 20);
    world.a.client.set_peers(vec![Peer { public_key: key.public(), ..peer }]).unwrap();
    transfer.send(1 << 20);
    both_use_it(&world, true);
    assert!(world.b.ask(&format!("wg show {LANE} public-key")).contains(&key.public().to_string()));
    transfer.send(1 << 20);
    transfer.finish();
}

#[test]
fn a_pair_without_two_lanes_or_with_a_nat_in_between_stays_with_its_engines() {
    let Some(mut world) = world() else { return };
    // The port is not the one that the engine has.
    world.a.nft(
        "table ip nat { chain post { type nat hook postrouting priority 100; \
         oifname up0 udp sport 51820 snat to 192.0.2.1:40000; }; }",
    );
    world.connect("192.0.2.2:51820".parse().unwrap());
    let mut transfer = Transfer::start(&world.a, &world.b, "10.18.1.1");
    for _ in 0..40 {
        transfer.send(1 << 17);
        assert!(!uses_it(&world.a) && !uses_it(&world.b));
        std::thread::park_timeout(Duration::from_millis(100));
    }
    assert!(matches!(world.b.status().peers[0].path, Some(Path::Direct(path)) if path.port() == 40000));
    world.a.nft("delete table ip nat");
    world.a.restart();
    transfer.send(1 << 17);
    world.a.client.set_peers(vec![]).unwrap();
    world.b.client.set_peers(vec![]).unwrap();
    world.connect("192.0.2.2:51820".parse().unwrap());
    both_use_it(&world, true);
    transfer.send(1 << 20);
    // The other one does without from now on.
    world.b.kill();
    world.b.leave_kernel();
    world.b.start();
    assert!(!world.b.ask("ip link").contains(LANE));
    assert_eq!(world.b.status().kernel, KernelState::Off);
    transfer.send(1 << 20);
    eventually("the end of the lane", || !uses_it(&world.a));
    transfer.send(1 << 20);
    transfer.finish();
}

#[test]
fn devices_are_removed_with_the_engine() {
    let Some(mut world) = connected() else { return };
    world.a.client.stop().unwrap();
    world.a.wait();
    assert!(!world.a.ask("ip link").contains(LANE));
    // Whoever is left is not lost for it when there is an engine again.
    world.b.kill();
    let config = world.b.config.clone();
    world.b.inside(|| oak_tunnel::remove(&config).unwrap());
    let links = world.b.ask("ip link");
    assert!(!links.contains(LANE) && !links.contains("tun0"), "{links}");
}

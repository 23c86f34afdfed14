//! Strangers that send what they like.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use blake2::digest::consts::U16;
use blake2::digest::{Digest, KeyInit, Mac};
use blake2::{Blake2s256, Blake2sMac};
use oak_tunnel::PublicKey;

use crate::support::{Node, Transfer, World, eventually};

const FLOOD: Duration = Duration::from_secs(6);
/// The flood goes on until the engine asked so often for proof, and no longer than `LONGEST`.
const ASKED: u64 = 20;
const LONGEST: Duration = Duration::from_secs(60);
/// Messages of each socket that come at once: more and more until the engine does not keep up, which depends on the
/// machine and on what else it does.
const BURST: u64 = 40;
const LARGEST_BURST: u64 = 5_000;
const PAUSE: Duration = Duration::from_millis(5);

/// Ends the flood, also when the test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// An initiation that nobody who knows only the public key can tell from a real one without computation.
fn initiation(key: &PublicKey, number: u64) -> Vec<u8> {
    let mut message = vec![0; 116];
    message[0] = 1;
    let mut state = number | 1;
    for byte in &mut message[4..] {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = (state >> 56) as u8;
    }
    let mut hash = Blake2s256::new();
    hash.update(b"mac1----");
    hash.update(key.0);
    let mac = <Blake2sMac<U16> as KeyInit>::new_from_slice(&hash.finalize()).unwrap();
    let first = mac.chain_update(&message).finalize().into_bytes();
    message.extend_from_slice(&first);
    message.extend_from_slice(&[0; 16]);
    message
}

/// Resident memory of the engine.
fn resident_kib(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_flood_of_strangers_keeps_no_peer_out_and_fills_no_memory() {
    let Some(world) = World::new() else { return };
    let target: SocketAddr = "192.0.2.2:51820".parse().unwrap();
    world.connect(target);
    let key = world.b.status().public_key;
    let mut transfer = Transfer::start(&world.a, &world.b, "10.18.1.1");
    transfer.send(1 << 20);
    let before = resident_kib(&world.b);
    let sockets: Vec<UdpSocket> =
        (0..8).map(|_| world.a.inside(|| UdpSocket::bind("192.0.2.1:0").unwrap())).collect();
    let (ends, sent, answered) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut number, mut burst) = (0, BURST);
            while !ends.load(Relaxed) {
                for socket in &sockets {
                    for _ in 0..burst {
                        number += 1;
                        let mut message = initiation(&key, number);
                        match number % 8 {
                            0 => message = vec![(number >> 3) as u8; (number % 1400) as usize],
                            1 => message[0] = 4,
                            2 => message.resize(64, 3),
                            _ => {}
                        }
                        let _ = socket.send_to(&message, target);
                    }
                    socket.set_read_timeout(Some(PAUSE)).unwrap();
                    let mut answer = [0; 200];
                    let before = answered.load(Relaxed);
                    while socket.recv(&mut answer).is_ok_and(|length| length == 64) {
                        answered.fetch_add(1, Relaxed);
                    }
                    if answered.load(Relaxed) == before {
                        burst = (burst * 2).min(LARGEST_BURST);
                    } else {
                        burst = (burst / 2).max(BURST);
                    }
                }
                sent.store(number, Relaxed);
            }
        });
        let _end = End(&ends);
        let began = Instant::now();
        while began.elapsed() < FLOOD || answered.load(Relaxed) <= ASKED && began.elapsed() < LONGEST {
            let asked = Instant::now();
            world.a.client.handshake("b").unwrap();
            eventually("a session in spite of the flood", || crate::has_session_since(&world.a, asked));
            transfer.send(1 << 20);
        }
    });
    transfer.finish();
    assert!(sent.load(Relaxed) > 2_000, "that was no flood: {}", sent.load(Relaxed));
    assert!(answered.load(Relaxed) > ASKED, "the engine was never asked for too much");
    let grown = resident_kib(&world.b).saturating_sub(before);
    assert!(grown < 8 << 10, "{grown} KiB more");
    eprintln!("{} messages, {} cookies, {grown} KiB more", sent.load(Relaxed), answered.load(Relaxed));
}

//! Whatever a datagram is, only what a peer sent comes through, and once.

use std::collections::HashMap;
use std::fs::File;
use std::sync::mpsc::{Receiver, sync_channel};

use proptest::prelude::*;
use rand::SeedableRng;

use super::*;
use crate::core::Established;
use crate::core::gate::Gate;
use crate::noise::SessionKeys;
use crate::packet::UDP;
use crate::packet::tests::kernel_packet;

const LOCAL: u32 = 0x0403_0201;
const KEY: [u8; 32] = [9; 32];

struct Bench {
    ingress: Ingress,
    peer: Arc<PeerShared>,
    buffer: Vec<u8>,
    /// Stays open, so that orders are not refused.
    _orders: Receiver<Order>,
}

impl Bench {
    fn new() -> Self {
        let (orders, inbox) = sync_channel(1024);
        let shared = Shared::new(orders, Gate::new(1, [1; 32]), 1420);
        let peer = Arc::new(PeerShared::new(PeerId(1), "peer".to_owned()));
        let keys = SessionKeys { send: [8; 32], receive: KEY, remote: 1 };
        let established = Established { local: LOCAL, keys, is_initiator: true, created: now() };
        let session = Arc::new(Session::new(Arc::clone(&peer), &established));
        shared.sessions.set(Arc::new(HashMap::from([(LOCAL, session)])));
        let mut routes = Routes::default();
        routes.allowed.insert("10.18.0.0/24".parse().unwrap(), 0);
        routes.peers.push(Arc::clone(&peer));
        shared.routes.set(Arc::new(routes));
        let ingress = Ingress {
            shared: Arc::new(shared),
            socket: Arc::new(Udp::bind("127.0.0.1:0".parse().unwrap(), 1 << 16).unwrap()),
            queues: vec![Arc::new(File::options().write(true).open("/dev/null").unwrap().into())],
            random: StdRng::seed_from_u64(1),
            merge: Merge::default(),
        };
        let buffer = vec![0; RECEIVE_ROOM];
        Self { ingress, peer, buffer, _orders: inbox }
    }

    /// Receives datagrams as one train; all but the last have the length of the first.
    fn receive(&mut self, train: &[u8], segment: usize) {
        self.buffer[..train.len()].copy_from_slice(train);
        let train = Received {
            from: "192.0.2.7:5".parse().unwrap(),
            local: None,
            ecn: 0,
            start: 0,
            length: train.len(),
            segment,
        };
        let routes = self.ingress.shared.routes.get();
        self.ingress.take(now(), &routes, &mut self.buffer, &train);
        self.ingress.deliver(&mut self.buffer);
    }

    fn received(&self) -> u64 {
        self.peer.counters.received.bytes.load(Relaxed)
    }
}

/// A data message of the peer with this counter.
fn message(counter: u64, payload: usize) -> (Vec<u8>, usize) {
    let (mut packet, _) = kernel_packet(true, UDP, 0, &vec![counter as u8; payload]);
    let length = packet.len();
    packet.resize(length.next_multiple_of(16), 0);
    let padded = packet.len();
    crate::noise::cipher(&KEY).seal_in_place_append_tag(nonce(counter), Aad::empty(), &mut packet).unwrap();
    let mut message = vec![4, 0, 0, 0];
    message.extend_from_slice(&LOCAL.to_le_bytes());
    message.extend_from_slice(&counter.to_le_bytes());
    message.extend_from_slice(&packet);
    (message, padded)
}

#[derive(Clone, Debug)]
enum Change {
    No,
    Flip(usize, u8),
    Cut(usize),
    Longer(Vec<u8>),
    Other(Vec<u8>),
    Relay([u8; 16]),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => Just(Change::No),
        1 => (any::<usize>(), 0_u8..8).prop_map(|(place, bit)| Change::Flip(place, bit)),
        1 => any::<usize>().prop_map(Change::Cut),
        1 => prop::collection::vec(any::<u8>(), 1..40).prop_map(Change::Longer),
        1 => prop::collection::vec(any::<u8>(), 1..200).prop_map(Change::Other),
        1 => any::<[u8; 16]>().prop_map(Change::Relay),
    ]
}

/// Returns whether the message is still what it was.
fn apply(change: &Change, message: &mut Vec<u8>) -> bool {
    match change {
        Change::No => return true,
        Change::Flip(place, bit) => {
            let place = place % message.len();
            message[place] ^= 1 << bit;
        }
        Change::Cut(length) => message.truncate(length % message.len()),
        Change::Longer(more) => message.extend_from_slice(more),
        Change::Other(bytes) => message.clone_from(bytes),
        Change::Relay(header) => {
            let mut wrapped = header.to_vec();
            wrapped[0] = crate::path::RELAYED;
            wrapped.append(message);
            *message = wrapped;
            return header[1..8] == [0; 7];
        }
    }
    false
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn only_authentic_messages_count_and_once(
        steps in prop::collection::vec((0_u64..40, 0_usize..300, change(), 1_usize..4), 1..40),
    ) {
        let mut bench = Bench::new();
        let (mut seen, mut expected) = (std::collections::HashSet::new(), 0);
        for (counter, payload, change, copies) in steps {
            let (mut message, length) = message(counter, payload);
            let is_whole = apply(&change, &mut message);
            if message.is_empty() {
                continue;
            }
            bench.receive(&message.repeat(copies), message.len());
            if is_whole && seen.insert(counter) {
                expected += length as u64;
            }
            prop_assert_eq!(bench.received(), expected, "{:?}", change);
        }
    }

    /// The kernel says where datagrams begin, but whatever it says, nothing is read beyond them.
    #[test]
    fn any_train_of_any_bytes_is_survived(
        bytes in prop::collection::vec(prop_oneof![Just(0_u8), 1_u8..5, any::<u8>()], 1..2000), segment in 1_usize..2100, valid: bool,
    ) {
        let mut bench = Bench::new();
        let mut train = if valid { message(1, 100).0 } else { Vec::new() };
        train.extend_from_slice(&bytes);
        bench.receive(&train, segment.min(train.len()));
        prop_assert!(bench.received() <= 144);
    }
}

//! The UDP port of a relay: registrations and trains of datagrams of members and strangers.

use std::net::SocketAddr;

use super::steps::Steps;
use crate::key::PresharedKey;
use crate::path::Path;
use crate::relay::registration::{ANSWER, COOKIE, QUESTION, Registration};
use crate::relay::table::Table;
use crate::relay::{RelayLimits, RelayMembers, sort};
use crate::sys::udp::Received;

/// Longest train: what one message of the kernel holds.
const LONGEST: usize = 65_535;

fn address(number: u8) -> SocketAddr {
    ([192, 0, 2, number % 6], 4000).into()
}

fn key(node: u64) -> PresharedKey {
    PresharedKey::from_bytes([u8::try_from(node).unwrap_or(0); 32])
}

/// Members depend on one byte, so that they change under way.
fn members(choice: u8) -> RelayMembers {
    let nodes = 1 + u64::from(choice % 4);
    let pairs = (1..nodes).map(|node| (76 + node, [node, node + 1]));
    RelayMembers { nodes: (1..=nodes).map(|node| (node, key(node))).collect(), pairs: pairs.collect() }
}

/// The relay receives a train; what it answers and passes on is checked.
fn receive(table: &mut Table, at: u64, from: SocketAddr, bytes: &[u8], segment: usize) -> Option<Vec<u8>> {
    let bytes = &bytes[..bytes.len().min(LONGEST)];
    if bytes.is_empty() {
        return None;
    }
    let segment = segment.clamp(1, bytes.len());
    let received = Received { from, local: None, ecn: 0, start: 0, length: bytes.len(), segment };
    let (mut trains, mut answers) = (Vec::new(), Vec::new());
    sort(at, table, bytes, &received, &mut trains, &mut answers);
    let passed_on: usize = trains.iter().map(|train| train.bytes.len()).sum();
    let answered: usize = answers.iter().map(|(_, answer)| answer.len()).sum();
    assert!(passed_on + answered <= bytes.len(), "nothing is amplified");
    let present = table.present(at);
    for train in &trains {
        assert!(train.to != from && present.values().any(|place| *place == train.to), "to a member");
        assert!(present.values().any(|place| *place == from), "from a member");
    }
    answers.last().map(|(_, answer)| answer.to_vec())
}

/// A node registers, with what the relay said before as cookie.
fn register(table: &mut Table, at: u64, steps: &mut Steps<'_>) {
    let (node, from) = (u64::from(steps.byte() % 6), address(steps.byte()));
    let mut question = Registration { node, nonce: at, address: None, cookie: [0; COOKIE] };
    for _ in 0..2 {
        let mut frame = question.write(QUESTION, &key(node)).to_vec();
        steps.change(&mut frame);
        let segment = frame.len();
        let Some(answer) = receive(table, at, from, &frame, segment) else { return };
        let Some(answer) = Registration::read(ANSWER, &answer, &key(node)) else { return };
        question.cookie = answer.cookie;
    }
}

/// Steps of a relay's life.
pub fn relay(data: &[u8]) {
    let limits = RelayLimits { pair_bytes_per_second: 100_000, bytes_per_second: 150_000, longest: 1500 };
    let mut table = Table::new(1, limits, [9; 32]);
    let mut steps = Steps(data);
    let mut at = 1;
    while !steps.is_empty() {
        match steps.byte() % 6 {
            0 => table.set(at, &members(steps.byte())).expect("members that can be"),
            1 => register(&mut table, at, &mut steps),
            2 => at += u64::from(steps.word()),
            3 => table.renew(at, || [8; 32]),
            4 => {
                let (from, segment) = (address(steps.byte()), usize::from(steps.word()));
                receive(&mut table, at, from, steps.bytes(), segment);
            }
            _ => {
                let (from, tag) = (address(steps.byte()), 76 + u64::from(steps.byte() % 5));
                let header = Path::Relayed { relay: from, tag }.header().unwrap_or_default();
                let mut datagram = header.to_vec();
                datagram.extend_from_slice(steps.bytes());
                let copies = 1 + usize::from(steps.byte() % 8);
                receive(&mut table, at, from, &datagram.repeat(copies), datagram.len());
            }
        }
    }
}

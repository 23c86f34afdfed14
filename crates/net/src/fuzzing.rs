//! Entries for the fuzzer (`fuzz/`): each takes any bytes and must neither panic nor break what it asserts. Its corpus is
//! replayed by the tests of this crate.
#![allow(clippy::expect_used, reason = "what cannot be is a panic, and the fuzzer looks for those")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

use crate::netlink::{Socket, conntrack, link, route, rules, vxlan, wireguard};
use crate::park::{Packet, Park};
use crate::parking;

/// The kernel's answers: a byte says which question they answer, then each has two bytes of length before it.
pub fn netlink_answer(data: &[u8]) {
    let Some((which, mut rest)) = data.split_first() else { return };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let pair = socketpair(AddressFamily::UNIX, SocketType::DGRAM, flags, None);
    let (ours, kernels) = pair.expect("a pair of sockets");
    while let Some(([high, low], after)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        let (datagram, after) = after.split_at(length);
        // A full queue is the end of what the kernel says.
        if send(&kernels, datagram, SendFlags::empty()).is_err() {
            break;
        }
        rest = after;
    }
    ask(*which, Socket::of(ours));
    // What is asked is well-formed whatever was answered.
    let mut asked = vec![0; 1 << 16];
    while let Ok((length, _)) = recv(&kernels, &mut asked[..], RecvFlags::empty()) {
        let stated = asked.first_chunk::<4>().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
        assert_eq!(usize::try_from(stated).ok(), Some(length), "a request has the length it states");
    }
}

/// Errors are as good as answers.
fn ask(which: u8, mut socket: Socket) {
    if which % 10 == 9 {
        return drop(wireguard::Control::new(socket).and_then(|mut control| control.device(1)));
    }
    let socket = &mut socket;
    match which % 10 {
        0 => drop(link::all(socket)),
        1 => drop(link::find(socket, "oak0")),
        2 => drop(route::routes(socket)),
        3 => drop(route::addresses(socket, 1)),
        4 => drop(route::neighbours(socket, 1)),
        5 => drop(vxlan::forwardings(socket, 1)),
        6 => drop(rules::dropping_chains(socket, rules::FORWARD)),
        7 => drop(conntrack::forget(socket, |flow| flow.protocol != 0)),
        _ => drop(rules::has_table(socket, "oakestra")),
    }
}

/// Packets to unknown addresses: each has two bytes of length and one of pause before it; a pause above 250 is the news
/// that the last address is known.
pub fn parked_packet(data: &[u8]) {
    let mut park = Park::default();
    let mut now = Instant::now();
    let gateway = Ipv4Addr::new(10, 18, 0, 1);
    let mut rest = data;
    while let Some(([high, low, pause], after)) = rest.split_first_chunk::<3>() {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        let (bytes, after) = after.split_at(length);
        rest = after;
        now += Duration::from_millis(u64::from(*pause) * 10);
        for packet in park.expire(now) {
            give_up(&packet, gateway);
        }
        let Some(packet) = Packet::parse(bytes, now) else { continue };
        let (pair, destination) = (packet.pair, packet.destination);
        if park.is_news(pair, now) {
            park.told(pair, now);
        }
        park.add(packet);
        assert!(park.bytes() <= 4 << 20, "what waits is bounded");
        if *pause > 250 {
            for packet in park.release(&BTreeSet::from([destination])) {
                assert_eq!(packet.destination, destination);
                again(packet);
            }
        }
    }
    for packet in park.expire(now + Duration::from_secs(3)) {
        give_up(&packet, gateway);
    }
    assert_eq!((park.bytes(), park.next_expiry()), (0, None), "nothing waits for ever");
}

fn again(mut packet: Packet) {
    let place = if packet.source.is_ipv4() { 8 } else { 7 };
    let hops = packet.bytes.get(place).copied();
    if packet.take_hop() {
        assert!(packet.bytes.get(place).copied() < hops, "each time costs a hop");
    }
}

fn give_up(packet: &Packet, gateway: Ipv4Addr) {
    match packet.source {
        IpAddr::V4(source) => {
            let Some(answer) = parking::unreachable(packet, gateway, source) else { return };
            assert!(answer.len() <= 28 + 68 && answer.get(16..20) == Some(&source.octets()));
            assert_eq!(answer.get(9), Some(&1), "an answer is ICMP");
        }
        IpAddr::V6(source) => {
            let Some(answer) = parking::unreachable6(packet, gateway.to_ipv6_mapped(), source) else {
                return;
            };
            assert!(answer.len() <= 1280 && answer.get(24..40) == Some(&source.octets()));
            assert_eq!(answer.get(6), Some(&58), "an answer is ICMPv6");
        }
    }
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::replay::replay;

    #[test]
    fn the_corpora_are_survived() {
        replay("netlink_answer", super::netlink_answer);
        replay("parked_packet", super::parked_packet);
    }
}

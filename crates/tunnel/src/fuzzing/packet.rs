//! Inner packets: cut as for the wire, put together as for the kernel, and what is changed or answered on the way.

use crate::engine::egress::Packet;
use crate::packet::merge::{Merge, Place};
use crate::packet::{Outline, ecn, flow_hash, fragment, icmp, mss, outline};

/// Pieces that are looked at: a huge packet of tiny segments has thousands that are all alike.
const PIECES: usize = 300;

/// Two bytes choose congestion mark and limit, then comes what the device gives: virtio-net header and packet.
pub fn packet(data: &[u8]) {
    let [mark, limit, device @ ..] = data else { return };
    let limit = 576 + u32::from(*limit) * 8;
    if let Some(packet) = Packet::read(device) {
        let pieces: Vec<Vec<u8>> = packet.cut().take(PIECES).collect();
        assert!(packet.plan.longest() <= packet.plan.bytes());
        come(&pieces, *mark, limit);
    }
    // What comes from a peer needs no header.
    come(&[device.to_vec()], *mark, limit);
}

/// Packets arrive at the other side.
fn come(packets: &[Vec<u8>], mark: u8, limit: u32) {
    let mut buffer: Vec<u8> = Vec::new();
    let mut merge = Merge::default();
    for packet in packets {
        let Some(outline) = outline(packet) else { continue };
        answers(packet, &outline, limit);
        let mut packet = packet[..outline.total].to_vec();
        if !ecn::merge(mark, &mut packet) {
            continue;
        }
        mss::clamp(&mut packet, &outline, limit);
        let place = Place { from: buffer.len(), length: packet.len() };
        buffer.extend_from_slice(&packet);
        merge.add(&buffer, place, &outline, flow_hash(&packet, &outline));
    }
    let all = buffer.len();
    let mut delivered = 0;
    merge.flush(&mut buffer, |buffer, vnet, item, is_v4| {
        let _ = vnet.write(is_v4);
        let length = item.first.length + item.more.iter().map(|place| place.length).sum::<usize>();
        assert!(length <= 65_535, "no packet is longer");
        for place in std::iter::once(&item.first).chain(&item.more) {
            assert!(place.from + place.length <= buffer.len());
        }
        let first = &buffer[item.first.from..item.first.from + item.first.length];
        let total = if is_v4 { crate::packet::be16(first, 2) } else { crate::packet::be16(first, 4) };
        if !item.more.is_empty() {
            assert_eq!(usize::from(total) + if is_v4 { 0 } else { 40 }, length, "the header is right");
        }
        delivered += length;
    });
    assert!(delivered <= all, "nothing comes from nowhere");
}

/// What is said to the sender of a packet that is too long, and its fragments.
fn answers(packet: &[u8], outline: &Outline, limit: u32) {
    if let Some(answer) = icmp::too_big(packet, outline, u16::try_from(limit).unwrap_or(u16::MAX)) {
        let answer = crate::packet::outline(&answer).expect("an answer is a packet");
        assert_eq!((answer.source, answer.destination), (outline.destination, outline.source));
    }
    let Some(pieces) = fragment::fragments(packet, outline, limit as usize) else { return };
    for piece in pieces {
        let whole = crate::packet::outline(&piece).expect("a fragment is a packet");
        assert!(whole.total == piece.len() && piece.len() <= limit as usize, "fragments fit");
    }
}

//! Cutting and putting together, against each other and against a slow way to make packets.

use proptest::prelude::*;

use super::checksum::Sum;
use super::merge::{Merge, Place};
use super::split::plan;
use super::vnet::{Large, VNET, Vnet};
use super::*;

/// A packet as the kernel gives it: checksum begun, lengths those of the whole.
pub(crate) fn kernel_packet(is_v4: bool, protocol: u8, options: usize, payload: &[u8]) -> (Vec<u8>, u16) {
    let transport_header = if protocol == TCP { 20 + options * 4 } else { 8 };
    let length = transport_header + payload.len();
    let mut packet = if is_v4 {
        let mut header =
            vec![0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, protocol, 0, 0, 10, 18, 0, 2, 10, 18, 1, 2];
        put16(&mut header, 2, u16::try_from(20 + length).unwrap());
        let checksum = Sum::default().add(&header).finish();
        put16(&mut header, 10, checksum);
        header
    } else {
        let mut header = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
        header.extend_from_slice(&[0xfc; 16]);
        header.extend_from_slice(&[0xfd; 16]);
        put16(&mut header, 4, u16::try_from(length).unwrap());
        header
    };
    let at = packet.len();
    packet.extend_from_slice(&[0x11, 0x11, 0x22, 0x22]);
    if protocol == TCP {
        packet.extend_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        packet.push(u8::try_from((5 + options) << 4).unwrap());
        packet.extend_from_slice(&[0x10, 0x20, 0x20, 0, 0, 0, 0]);
        packet.extend_from_slice(&vec![1; options * 4]);
    } else {
        packet.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
        packet.extend_from_slice(&[0, 0]);
    }
    packet.extend_from_slice(payload);
    let outline = outline(&packet).unwrap();
    let offset = if protocol == TCP { 16 } else { 6 };
    let begun = Sum::default().add_pseudo(outline.source, outline.destination, protocol, length).partial();
    put16(&mut packet, at + offset, begun);
    (packet, u16::try_from(offset).unwrap())
}

fn split_all(vnet: &Vnet, packet: &[u8]) -> Vec<Vec<u8>> {
    let plan = plan(vnet, packet, &outline(packet).unwrap()).unwrap();
    (0..plan.count)
        .map(|number| {
            let mut out = vec![0; plan.length(number)];
            plan.write(packet, number, &mut out);
            out
        })
        .collect()
}

fn is_correct(packet: &[u8]) -> bool {
    let outline = outline(packet).unwrap();
    let header = outline.source.is_ipv6() || Sum::default().add(&packet[..outline.transport]).is_valid();
    let length = packet.len() - outline.transport;
    let sum = Sum::default().add_pseudo(outline.source, outline.destination, outline.protocol, length);
    header && outline.total == packet.len() && sum.add(&packet[outline.transport..]).is_valid()
}

fn merge_all(packets: &[Vec<u8>]) -> Vec<(Vnet, Vec<u8>)> {
    let mut buffer = Vec::new();
    let mut merge = Merge::default();
    let places: Vec<Place> = packets
        .iter()
        .map(|packet| {
            // As in a receive buffer: something in front, padding behind.
            buffer.extend_from_slice(&[0xee; 16]);
            let place = Place { from: buffer.len(), length: packet.len() };
            buffer.extend_from_slice(packet);
            buffer.extend_from_slice(&[0; 24]);
            place
        })
        .collect();
    for place in places {
        let packet = &buffer[place.from..place.from + place.length];
        let outline = outline(packet).unwrap();
        let hash = flow_hash(packet, &outline);
        merge.add(&buffer, place, &outline, hash);
    }
    let mut written = Vec::new();
    merge.flush(&mut buffer, |buffer, vnet, item, _| {
        let mut packet = buffer[item.first.from..item.first.from + item.first.length].to_vec();
        for more in &item.more {
            packet.extend_from_slice(&buffer[more.from..more.from + more.length]);
        }
        written.push((vnet, packet));
    });
    written
}

#[test]
fn packets_of_two_flows_are_put_together_each_in_its_order() {
    let make = |payload: u8, source_port: u8| {
        let (mut packet, offset) = kernel_packet(true, UDP, 0, &[payload; 100]);
        packet[21] = source_port;
        let vnet = Vnet { checksum: Some((20, offset)), ..Vnet::PLAIN };
        split_all(&vnet, &packet).remove(0)
    };
    let written = merge_all(&[make(1, 1), make(9, 2), make(2, 1), make(8, 2)]);
    assert_eq!(written.len(), 2);
    assert_eq!((written[0].1[28], written[0].1[128]), (1, 2));
    assert_eq!((written[1].1[28], written[1].1[128]), (9, 8));
}

#[test]
fn a_damaged_packet_is_passed_on_as_it_is() {
    let (packet, offset) = kernel_packet(true, TCP, 3, &[7; 3000]);
    let vnet = Vnet { large: Large::Tcp, headers: 52, segment: 1000, checksum: Some((20, offset)) };
    let mut packets = split_all(&vnet, &packet);
    packets[1][100] ^= 1;
    let written = merge_all(&packets);
    assert_eq!(written.len(), 3, "neither the damaged one nor the one behind the gap is appended");
    assert_eq!(written[1], (Vnet::PLAIN, packets[1].clone()));
}

#[test]
fn only_the_last_packet_pushes() {
    let (mut packet, offset) = kernel_packet(false, TCP, 0, &[7; 3000]);
    packet[53] |= 0x08;
    let vnet = Vnet { large: Large::Tcp, headers: 60, segment: 1300, checksum: Some((40, offset)) };
    let packets = split_all(&vnet, &packet);
    let pushes: Vec<bool> = packets.iter().map(|packet| packet[53] & 0x08 != 0).collect();
    assert_eq!(pushes, [false, false, true]);
    assert_eq!(merge_all(&packets)[0].1, packet);
}

#[test]
fn the_sender_of_a_long_packet_is_told() {
    for is_v4 in [true, false] {
        let (packet, _) = kernel_packet(is_v4, TCP, 0, &[7; 1400]);
        let told = icmp::too_big(&packet, &outline(&packet).unwrap(), 1300).unwrap();
        let about = outline(&told).unwrap();
        assert_eq!(about.destination, outline(&packet).unwrap().source);
        let message = &told[about.transport..];
        let sum = match about.source {
            IpAddr::V4(_) => Sum::default(),
            IpAddr::V6(_) => Sum::default().add_pseudo(about.source, about.destination, 58, message.len()),
        };
        assert!(sum.add(message).is_valid());
        assert_eq!(be16(message, 6), 1300);
        assert_eq!(icmp::too_big(&told, &about, 1300), None, "no error about an error");
    }
}

proptest! {
    #[test]
    fn what_is_cut_is_correct_and_becomes_the_same_again(
        is_v4 in any::<bool>(), is_tcp in any::<bool>(), options in 0_usize..4,
        payload in prop::collection::vec(any::<u8>(), 1..9000), segment in 300_u16..1400,
    ) {
        let protocol = if is_tcp { TCP } else { UDP };
        let (packet, offset) = kernel_packet(is_v4, protocol, options, &payload);
        let start = if is_v4 { 20_u16 } else { 40 };
        let large = if is_tcp { Large::Tcp } else { Large::Udp };
        let headers = packet.len() - payload.len();
        let vnet = Vnet { large, headers: u16::try_from(headers).unwrap(), segment, checksum: Some((start, offset)) };
        prop_assert_eq!(Vnet::parse(&vnet.write(is_v4)), Some(vnet));
        let packets = split_all(&vnet, &packet);
        prop_assert!(packets.iter().all(|packet| is_correct(packet)));
        let written = merge_all(&packets);
        prop_assert_eq!(written.len(), 1);
        let (merged, bytes) = &written[0];
        if packets.len() > 1 {
            prop_assert_eq!(merged, &vnet);
            prop_assert_eq!(bytes, &packet);
        } else {
            prop_assert_eq!(merged, &Vnet::PLAIN);
            prop_assert!(is_correct(bytes));
        }
    }

    #[test]
    fn no_bytes_of_the_device_break_anything(
        header in any::<[u8; VNET]>(), mut packet in prop::collection::vec(any::<u8>(), 0..200), version in 4_u8..7,
    ) {
        if let Some(first) = packet.first_mut() { *first = version << 4 | 5; }
        if packet.len() > 6 && version == 4 { packet[2] = 0; }
        if packet.len() > 6 && version == 6 { packet[4] = 0; packet[6] = if header[0] & 2 == 0 { TCP } else { UDP }; }
        let (Some(vnet), Some(outline)) = (Vnet::parse(&header), outline(&packet)) else { return Ok(()) };
        if let Some(plan) = plan(&vnet, &packet, &outline) {
            for number in 0..plan.count.min(100) {
                let mut out = vec![0; plan.length(number)];
                plan.write(&packet, number, &mut out);
            }
        }
        icmp::too_big(&packet, &outline, 1300);
        let hash = flow_hash(&packet, &outline);
        let mut merge = Merge::default();
        let place = Place { from: 0, length: outline.total };
        for _ in 0..3 { merge.add(&packet, place, &outline, hash); }
        let mut copy = packet.clone();
        merge.flush(&mut copy, |_, _, _, _| {});
    }
}

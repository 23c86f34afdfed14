//! Puts received packets of one flow together again, so that the kernel takes a large packet at once.
//!
//! Payloads stay where they were decrypted; only the headers of the first packet are changed. Packets of a flow stay
//! in the order in which they came: one is only appended to the newest item of its flow.

use super::checksum::Sum;
use super::vnet::{Large, Vnet};
use super::{Outline, TCP, UDP, be16, be32, put16};

/// Where a packet is in the buffers of this batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) from: usize,
    pub(crate) length: usize,
}

/// A packet for the device: headers and payload of the first, payloads of more.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) first: Place,
    pub(crate) more: Vec<Place>,
    pub(crate) hash: u32,
    flow: Option<Flow>,
}

/// What a packet must fit to.
#[derive(Clone, Debug)]
struct Flow {
    outline: Outline,
    headers: usize,
    payload: usize,
    bytes: usize,
    next_sequence: u32,
    next_identification: u16,
    is_open: bool,
    pushes: bool,
}

/// Longest IP packet.
const LONGEST: usize = 65_535;
/// Payloads of one item; the kernel takes 1024 pieces in one write.
const MOST: usize = 256;
const PLAIN_TCP_FLAGS: u8 = 0x10;
const PSH: u8 = 0x08;

/// The items of a batch, in the order of their first packets.
#[derive(Debug, Default)]
pub(crate) struct Merge {
    items: Vec<Item>,
    spare: Vec<Vec<Place>>,
}

impl Merge {
    /// Takes a packet at `place` of `buffer`, whose outline is `outline`.
    pub(crate) fn add(&mut self, buffer: &[u8], place: Place, outline: &Outline, hash: u32) {
        let packet = &buffer[place.from..place.from + place.length];
        let candidate = candidate(packet, outline);
        if let Some(flow) = &candidate {
            // A batch has few flows; the newest item of this one is near the end.
            let newest = self.items.iter_mut().rev().find(|item| item.hash == hash);
            if let Some(item) = newest
                && append(buffer, item, packet, place, flow)
            {
                return;
            }
        }
        let mut more = self.spare.pop().unwrap_or_default();
        more.clear();
        self.items.push(Item { first: place, more, hash, flow: candidate });
    }

    /// Hands out all items and is empty again.
    pub(crate) fn flush(&mut self, buffer: &mut [u8], mut write: impl FnMut(&[u8], Vnet, &Item, bool)) {
        for item in self.items.drain(..) {
            let first = &mut buffer[item.first.from..item.first.from + item.first.length];
            let is_v4 = first[0] >> 4 == 4;
            let vnet = match &item.flow {
                Some(flow) if !item.more.is_empty() => complete(first, flow, is_v4),
                _ => Vnet::PLAIN,
            };
            write(buffer, vnet, &item, is_v4);
            self.spare.push(item.more);
        }
    }
}

/// Whether the packet may be part of a large one, and how.
fn candidate(packet: &[u8], outline: &Outline) -> Option<Flow> {
    let at = outline.transport;
    let is_v4 = outline.source.is_ipv4();
    if outline.is_fragment || (is_v4 && at != 20) {
        return None;
    }
    let headers = match outline.protocol {
        TCP => {
            let flags = *packet.get(at + 13)?;
            if flags & !PSH != PLAIN_TCP_FLAGS {
                return None;
            }
            let length = usize::from(packet.get(at + 12)? >> 4) * 4;
            if length < 20 {
                return None;
            }
            at + length
        }
        UDP if be16(packet, at + 6) != 0 && usize::from(be16(packet, at + 4)) == outline.total - at => at + 8,
        _ => return None,
    };
    let payload = outline.total.checked_sub(headers).filter(|payload| *payload > 0)?;
    // A damaged packet must not be hidden in a large one, whose checksum is made anew.
    let transport = &packet[at..outline.total];
    let sum =
        Sum::default().add_pseudo(outline.source, outline.destination, outline.protocol, transport.len());
    if !sum.add(transport).is_valid() {
        return None;
    }
    let pushes = outline.protocol == TCP && packet[at + 13] & PSH != 0;
    let payload_length = u32::try_from(payload).unwrap_or(u32::MAX);
    Some(Flow {
        outline: *outline,
        headers,
        payload,
        bytes: outline.total,
        next_sequence: be32(packet, at + 4).wrapping_add(payload_length),
        next_identification: be16(packet, 4).wrapping_add(1),
        is_open: !pushes,
        pushes,
    })
}

/// Appends the packet to the item if they are neighbours.
fn append(buffer: &[u8], item: &mut Item, packet: &[u8], place: Place, new: &Flow) -> bool {
    let Some(flow) = &mut item.flow else { return false };
    let first = &buffer[item.first.from..item.first.from + item.first.length];
    let at = flow.outline.transport;
    let same_shape = flow.is_open
        && flow.outline.protocol == new.outline.protocol
        && flow.outline.source == new.outline.source
        && flow.outline.destination == new.outline.destination
        && flow.headers == new.headers
        && new.payload <= flow.payload
        && flow.bytes + new.payload <= LONGEST
        && item.more.len() < MOST
        // Ports.
        && first[at..at + 4] == packet[at..at + 4];
    if !same_shape {
        return false;
    }
    let same_ip = if flow.outline.source.is_ipv4() {
        let may_not_fragment = first[6] & 0x40 != 0;
        // Type of service, lifetime, flags; numbers must go on unless nobody may use them.
        first[1] == packet[1]
            && first[8] == packet[8]
            && first[6] == packet[6]
            && (may_not_fragment || be16(packet, 4) == flow.next_identification)
    } else {
        first[..4] == packet[..4] && first[7] == packet[7]
    };
    let same_transport = flow.outline.protocol == UDP
        // Sequence, acknowledgement, window, urgent pointer, options.
        || (be32(packet, at + 4) == flow.next_sequence
            && first[at + 8..at + 12] == packet[at + 8..at + 12]
            && first[at + 14..at + 16] == packet[at + 14..at + 16]
            && first[at + 18..flow.headers] == packet[at + 18..flow.headers]);
    if !same_ip || !same_transport {
        return false;
    }
    item.more.push(Place { from: place.from + flow.headers, length: new.payload });
    flow.bytes += new.payload;
    flow.next_sequence = new.next_sequence;
    flow.next_identification = new.next_identification;
    flow.is_open = new.is_open && new.payload == flow.payload;
    flow.pushes = new.pushes;
    // The last one's push is that of the whole: `complete` writes it.
    true
}

/// Makes the headers of the first packet those of the large one.
fn complete(first: &mut [u8], flow: &Flow, is_v4: bool) -> Vnet {
    let at = flow.outline.transport;
    if is_v4 {
        put16(first, 2, u16::try_from(flow.bytes).unwrap_or(u16::MAX));
        put16(first, 10, 0);
        let checksum = Sum::default().add(&first[..at]).finish();
        put16(first, 10, checksum);
    } else {
        put16(first, 4, u16::try_from(flow.bytes - 40).unwrap_or(u16::MAX));
    }
    let length = flow.bytes - at;
    let (large, offset) = if flow.outline.protocol == TCP {
        if flow.pushes {
            first[at + 13] |= PSH;
        }
        (Large::Tcp, 16)
    } else {
        put16(first, at + 4, u16::try_from(length).unwrap_or(u16::MAX));
        (Large::Udp, 6)
    };
    let Outline { source, destination, protocol, .. } = flow.outline;
    let pseudo = Sum::default().add_pseudo(source, destination, protocol, length);
    put16(first, at + offset, pseudo.partial());
    let short = |value: usize| u16::try_from(value).unwrap_or(u16::MAX);
    Vnet {
        large,
        headers: short(flow.headers),
        segment: short(flow.payload),
        checksum: Some((short(at), short(offset))),
    }
}

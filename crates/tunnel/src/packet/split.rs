//! Cuts the large packets of the TUN device into packets of the wire.

use super::checksum::Sum;
use super::vnet::{Large, Vnet};
use super::{Outline, TCP, UDP, be16, be32, put16};

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// How a packet is cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    large: Large,
    headers: usize,
    segment: usize,
    transport: usize,
    is_v4: bool,
    checksum: Option<(usize, usize)>,
    /// Packets of the wire.
    pub(crate) count: usize,
    total: usize,
    outline: Outline,
}

/// Looks at a packet. `None` if header and packet do not fit to each other.
pub(crate) fn plan(vnet: &Vnet, packet: &[u8], outline: &Outline) -> Option<Plan> {
    let checksum = vnet.checksum.map(|(start, offset)| (usize::from(start), usize::from(offset)));
    if checksum.is_some_and(|(start, offset)| start + offset + 2 > packet.len()) {
        return None;
    }
    let is_v4 = outline.source.is_ipv4();
    let transport = outline.transport;
    let mut plan = Plan {
        large: Large::No,
        headers: outline.total,
        segment: 0,
        transport,
        is_v4,
        checksum,
        count: 1,
        total: outline.total,
        outline: *outline,
    };
    // Where the transport header ends: the header of the device is only a hint (Linux, virtio_net.h).
    let headers = match vnet.large {
        Large::No => return Some(plan),
        Large::Tcp if outline.protocol == TCP => {
            let length = usize::from(packet.get(transport + 12)? >> 4) * 4;
            if length < 20 {
                return None;
            }
            transport + length
        }
        Large::Udp if outline.protocol == UDP => transport + 8,
        Large::Tcp | Large::Udp => return None,
    };
    let segment = usize::from(vnet.segment);
    if headers > outline.total || segment == 0 || outline.is_fragment {
        return None;
    }
    plan.large = vnet.large;
    plan.headers = headers;
    plan.segment = segment;
    plan.count = (outline.total - headers).div_ceil(segment).max(1);
    Some(plan)
}

impl Plan {
    /// Length of the packet with this number.
    pub(crate) fn length(&self, number: usize) -> usize {
        if self.large == Large::No {
            return self.total;
        }
        let rest = (self.total - self.headers).saturating_sub(number * self.segment);
        self.headers + rest.min(self.segment)
    }

    /// Bytes of all packets together.
    pub(crate) fn bytes(&self) -> usize {
        self.total + (self.count - 1) * self.headers
    }

    /// The longest packet.
    pub(crate) fn longest(&self) -> usize {
        self.length(0)
    }

    /// Writes the packet with this number into `out`, which has its length.
    pub(crate) fn write(&self, packet: &[u8], number: usize, out: &mut [u8]) {
        if self.large == Large::No {
            out.copy_from_slice(&packet[..self.total]);
            self.complete(out);
            return;
        }
        let from = self.headers + number * self.segment;
        let payload = out.len() - self.headers;
        out[..self.headers].copy_from_slice(&packet[..self.headers]);
        out[self.headers..].copy_from_slice(&packet[from..from + payload]);
        self.write_ip(number, out);
        let length = out.len() - self.transport;
        let pseudo = Sum::default().add_pseudo(
            self.outline.source,
            self.outline.destination,
            self.outline.protocol,
            length,
        );
        let place = match self.large {
            Large::Tcp => {
                self.write_tcp(number, out);
                self.transport + 16
            }
            Large::Udp | Large::No => {
                put16(out, self.transport + 4, u16::try_from(length).unwrap_or(u16::MAX));
                self.transport + 6
            }
        };
        put16(out, place, 0);
        put16(out, place, sent(pseudo.add(&out[self.transport..]).finish(), self.large));
    }

    fn write_ip(&self, number: usize, out: &mut [u8]) {
        if self.is_v4 {
            put16(out, 2, u16::try_from(out.len()).unwrap_or(u16::MAX));
            let step = u16::try_from(number).unwrap_or(u16::MAX);
            let identification = be16(out, 4).wrapping_add(step);
            put16(out, 4, identification);
            put16(out, 10, 0);
            put16(out, 10, Sum::default().add(&out[..self.transport]).finish());
        } else {
            put16(out, 4, u16::try_from(out.len() - 40).unwrap_or(u16::MAX));
        }
    }

    fn write_tcp(&self, number: usize, out: &mut [u8]) {
        let at = self.transport;
        let ahead = u32::try_from(number * self.segment).unwrap_or(u32::MAX);
        let sequence = be32(out, at + 4).wrapping_add(ahead);
        out[at + 4..at + 8].copy_from_slice(&sequence.to_be_bytes());
        if number > 0 {
            out[at + 13] &= !CWR;
        }
        if number + 1 < self.count {
            out[at + 13] &= !(FIN | PSH);
        }
    }

    /// Completes the checksum that the kernel began with the pseudo header.
    fn complete(&self, out: &mut [u8]) {
        let Some((start, offset)) = self.checksum else { return };
        let Some(covered) = out.get(start..) else { return };
        let large = if self.outline.protocol == UDP { Large::Udp } else { Large::No };
        let checksum = sent(Sum::default().add(covered).finish(), large);
        put16(out, start + offset, checksum);
    }
}

/// A checksum of 0 means none in UDP; its other form is sent.
fn sent(checksum: u16, large: Large) -> u16 {
    if checksum == 0 && large == Large::Udp { 0xffff } else { checksum }
}

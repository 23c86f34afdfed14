//! Inner packets: what they are, how the kernel's large ones become packets of the wire and back.

pub(crate) mod checksum;
pub(crate) mod ecn;
pub(crate) mod fragment;
pub(crate) mod icmp;
pub(crate) mod merge;
pub(crate) mod mss;
pub(crate) mod split;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod vnet;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// The outline of an inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outline {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// Length by its own header.
    pub(crate) total: usize,
    /// Where the transport header begins (IPv6 extension headers are not walked through).
    pub(crate) transport: usize,
    /// Protocol behind the IP header.
    pub(crate) protocol: u8,
    /// Part of a larger packet.
    pub(crate) is_fragment: bool,
}

/// A big-endian number of two bytes, or 0 if it is not there.
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |pair| u16::from_be_bytes([pair[0], pair[1]]))
}

/// A big-endian number of four bytes, or 0 if it is not there.
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |four| u32::from_be_bytes([four[0], four[1], four[2], four[3]]))
}

/// Writes a big-endian number of two bytes, if there is room for it.
pub(crate) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

/// Reads the IP header; bytes behind the length it states are padding. `None` if it is no whole packet.
pub(crate) fn outline(packet: &[u8]) -> Option<Outline> {
    match packet.first()? >> 4 {
        4 => {
            let header = packet.first_chunk::<20>()?;
            let transport = usize::from(header[0] & 15) * 4;
            let total = usize::from(be16(header, 2));
            let addresses = header.get(12..20)?;
            let is_whole = transport >= 20 && transport <= total && total <= packet.len();
            is_whole.then_some(Outline {
                source: Ipv4Addr::from(be32(addresses, 0)).into(),
                destination: Ipv4Addr::from(be32(addresses, 4)).into(),
                total,
                transport,
                protocol: header[9],
                is_fragment: be16(header, 6) & 0x3fff != 0,
            })
        }
        6 => {
            let header = packet.first_chunk::<40>()?;
            let total = 40 + usize::from(be16(header, 4));
            let source: [u8; 16] = header[8..24].try_into().ok()?;
            let destination: [u8; 16] = header[24..40].try_into().ok()?;
            (total <= packet.len()).then_some(Outline {
                source: Ipv6Addr::from(source).into(),
                destination: Ipv6Addr::from(destination).into(),
                total,
                transport: 40,
                protocol: header[6],
                is_fragment: false,
            })
        }
        _ => None,
    }
}

/// A number for the flow of a packet, the same in both directions.
pub(crate) fn flow_hash(packet: &[u8], outline: &Outline) -> u32 {
    let mut hash = u32::from(outline.protocol);
    let mut mix = |address: IpAddr| match address {
        IpAddr::V4(address) => hash = hash.wrapping_add(u32::from(address).wrapping_mul(0x9e37_79b1)),
        IpAddr::V6(address) => {
            let folded = address
                .octets()
                .chunks_exact(4)
                .fold(0_u32, |sum, four| sum.wrapping_mul(31).wrapping_add(be32(four, 0)));
            hash = hash.wrapping_add(folded.wrapping_mul(0x9e37_79b1));
        }
    };
    mix(outline.source);
    mix(outline.destination);
    if !outline.is_fragment && matches!(outline.protocol, TCP | UDP) {
        let ports =
            u32::from(be16(packet, outline.transport)) + u32::from(be16(packet, outline.transport + 2));
        hash = hash.wrapping_add(ports.wrapping_mul(0x85eb_ca6b));
    }
    hash ^ (hash >> 15)
}

//! What is told to the sender of a packet that is too long for the way to its destination.

use std::net::IpAddr;

use super::checksum::Sum;
use super::{Outline, be16, put16};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Writes "fragmentation needed" (RFC 1191) or "packet too big" (RFC 8201) about `packet`, as if its destination
/// sent it. `None` for packets that may be fragmented, and for errors, about which nobody is told (RFC 1122).
pub(crate) fn too_big(packet: &[u8], outline: &Outline, mtu: u16) -> Option<Vec<u8>> {
    match (outline.source, outline.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let may_not_fragment = packet.get(6)? & 0x40 != 0;
            let is_error = outline.protocol == ICMP && !matches!(packet.get(outline.transport)?, 0 | 8);
            if !may_not_fragment || is_error || be16(packet, 6) & 0x1fff != 0 {
                return None;
            }
            let quoted = packet.get(..outline.total.min(outline.transport + 8))?;
            let mut answer = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, ICMP, 0, 0];
            answer.extend_from_slice(&destination.octets());
            answer.extend_from_slice(&source.octets());
            answer.extend_from_slice(&[3, 4, 0, 0, 0, 0]);
            answer.extend_from_slice(&mtu.to_be_bytes());
            answer.extend_from_slice(quoted);
            let length = u16::try_from(answer.len()).ok()?;
            put16(&mut answer, 2, length);
            let header = Sum::default().add(&answer[..20]).finish();
            put16(&mut answer, 10, header);
            let message = Sum::default().add(&answer[20..]).finish();
            put16(&mut answer, 22, message);
            Some(answer)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let is_error = outline.protocol == ICMPV6 && *packet.get(outline.transport)? < 128;
            if is_error || mtu < 1280 {
                return None;
            }
            let quoted = packet.get(..outline.total.min(1280 - 48))?;
            let mut answer = vec![0x60, 0, 0, 0, 0, 0, ICMPV6, 64];
            answer.extend_from_slice(&destination.octets());
            answer.extend_from_slice(&source.octets());
            answer.extend_from_slice(&[2, 0, 0, 0, 0, 0]);
            answer.extend_from_slice(&mtu.to_be_bytes());
            answer.extend_from_slice(quoted);
            let length = answer.len() - 40;
            put16(&mut answer, 4, u16::try_from(length).ok()?);
            let sum = Sum::default().add_pseudo(outline.destination, outline.source, ICMPV6, length);
            let checksum = sum.add(&answer[40..]).finish();
            put16(&mut answer, 42, checksum);
            Some(answer)
        }
        _ => None,
    }
}

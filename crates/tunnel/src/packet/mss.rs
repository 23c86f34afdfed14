//! Clamps what a TCP connection says about its longest segment (RFC 9293, section 3.7.1) to what fits through the
//! tunnel: a sender that never hears of packets that are too long (ICMP is filtered) still finds the right size.

use super::checksum::Sum;
use super::{Outline, TCP, be16, put16};

const SYN: u8 = 0x02;
const END: u8 = 0;
const PADDING: u8 = 1;
const MAXIMUM_SEGMENT: u8 = 2;

/// Lowers the value of a SYN whose segments would make packets longer than `limit`.
pub(crate) fn clamp(packet: &mut [u8], outline: &Outline, limit: u32) {
    let at = outline.transport;
    let is_syn = outline.protocol == TCP
        && !outline.is_fragment
        && packet.get(at + 13).is_some_and(|flags| flags & SYN != 0);
    if !is_syn {
        return;
    }
    let headers = if outline.source.is_ipv4() { 40 } else { 60 };
    let longest = u16::try_from(limit.saturating_sub(headers)).unwrap_or(u16::MAX);
    let Some(place) = find(packet, at) else { return };
    let announced = be16(packet, place);
    if announced <= longest {
        return;
    }
    put16(packet, place, longest);
    // Options need no alignment: summed up from an odd place, the bytes of a word change sides (RFC 1624 and 1071).
    let (old, new) = if (place - at).is_multiple_of(2) {
        (announced, longest)
    } else {
        (announced.swap_bytes(), longest.swap_bytes())
    };
    let checksum = be16(packet, at + 16);
    put16(packet, at + 16, Sum::default().add16(!checksum).add16(!old).add16(new).finish());
}

/// Where the value is.
fn find(packet: &[u8], at: usize) -> Option<usize> {
    let header = usize::from(packet.get(at + 12)? >> 4) * 4;
    let end = (at + header).min(packet.len());
    let mut place = at + 20;
    while place < end {
        match *packet.get(place)? {
            END => return None,
            PADDING => place += 1,
            kind => {
                let length = usize::from(*packet.get(place + 1)?);
                if kind == MAXIMUM_SEGMENT && length == 4 && place + 4 <= end {
                    return Some(place + 2);
                }
                place += length.max(2);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::outline;
    use crate::packet::tests::kernel_packet;

    /// A SYN with these options and a whole checksum.
    fn syn(is_v4: bool, options: &[u8]) -> Vec<u8> {
        let words = options.len().div_ceil(4);
        let (mut packet, _) = kernel_packet(is_v4, TCP, words, &[]);
        let outline = outline(&packet).unwrap();
        let at = outline.transport;
        packet[at + 13] = SYN;
        packet[at + 20..at + 20 + options.len()].copy_from_slice(options);
        put16(&mut packet, at + 16, 0);
        let sum = Sum::default().add_pseudo(outline.source, outline.destination, TCP, packet.len() - at);
        let checksum = sum.add(&packet[at..]).finish();
        put16(&mut packet, at + 16, checksum);
        packet
    }

    fn is_valid(packet: &[u8]) -> bool {
        let outline = outline(packet).unwrap();
        let transport = &packet[outline.transport..];
        let sum = Sum::default().add_pseudo(outline.source, outline.destination, TCP, transport.len());
        sum.add(transport).is_valid()
    }

    #[test]
    fn only_a_larger_value_of_a_syn_is_lowered() {
        for (is_v4, headers) in [(true, 40), (false, 60)] {
            for options in [&[2, 4, 5, 180, 1, 1, 4, 2][..], &[1, 2, 4, 5, 180, 0]] {
                let mut packet = syn(is_v4, options);
                let outline = outline(&packet).unwrap();
                let before = packet.clone();
                clamp(&mut packet, &outline, 1500 + 60);
                assert_eq!(packet, before);
                clamp(&mut packet, &outline, 1280);
                let place = find(&packet, outline.transport).unwrap();
                assert_eq!(u32::from(be16(&packet, place)), 1280 - headers);
                assert!(is_valid(&packet));
                let mut other = before.clone();
                other[outline.transport + 13] = 0x10;
                let unchanged = other.clone();
                clamp(&mut other, &outline, 1280);
                assert_eq!(other, unchanged);
            }
        }
    }

    proptest! {
        #[test]
        fn any_options_are_survived_and_the_checksum_stays_right(
            options in prop::collection::vec(prop_oneof![0_u8..6, any::<u8>()], 0..40), limit in 0_u32..70_000, is_v4: bool,
        ) {
            let mut packet = syn(is_v4, &options);
            let outline = outline(&packet).unwrap();
            clamp(&mut packet, &outline, limit);
            prop_assert!(is_valid(&packet));
        }
    }
}

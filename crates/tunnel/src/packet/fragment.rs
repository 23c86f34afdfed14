//! Cuts a packet of IPv4 that may be cut (RFC 791) and is too long for the way to its destination.

use super::checksum::Sum;
use super::{Outline, be16, put16};

const MAY_NOT: u16 = 0x4000;
const MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;
const HEADER: usize = 20;

/// The fragments, each at most `limit` bytes long. `None` if it may not be cut, or has options, which not every
/// fragment would carry.
pub(crate) fn fragments(packet: &[u8], outline: &Outline, limit: usize) -> Option<Vec<Vec<u8>>> {
    let flags = be16(packet, 6);
    if outline.source.is_ipv6() || flags & MAY_NOT != 0 || outline.transport != HEADER {
        return None;
    }
    let room = limit.checked_sub(HEADER).map(|room| room / 8 * 8).filter(|room| *room > 0)?;
    let (header, payload) = packet.get(..outline.total)?.split_at_checked(HEADER)?;
    let pieces = payload.chunks(room);
    let last = pieces.len().saturating_sub(1);
    let cut = |(number, piece): (usize, &[u8])| {
        let mut fragment = [header, piece].concat();
        let offset = (flags & OFFSET)
            .checked_add(u16::try_from(number * room / 8).ok()?)
            .filter(|offset| *offset <= OFFSET)?;
        let more = if number < last { MORE } else { flags & MORE };
        put16(&mut fragment, 2, u16::try_from(HEADER + piece.len()).ok()?);
        put16(&mut fragment, 6, more | offset);
        put16(&mut fragment, 10, 0);
        let checksum = Sum::default().add(&fragment[..HEADER]).finish();
        put16(&mut fragment, 10, checksum);
        Some(fragment)
    };
    pieces.enumerate().map(cut).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::tests::kernel_packet;
    use crate::packet::{UDP, outline};

    proptest! {
        #[test]
        fn fragments_fit_and_are_the_packet_again(payload in prop::collection::vec(any::<u8>(), 1..3000), limit in 28_usize..1500) {
            let (mut packet, _) = kernel_packet(true, UDP, 0, &payload);
            prop_assert!(fragments(&packet, &outline(&packet).unwrap(), limit).is_none(), "it may not be cut");
            put16(&mut packet, 6, 0);
            let cut = fragments(&packet, &outline(&packet).unwrap(), limit).unwrap();
            let mut whole = Vec::new();
            for (number, fragment) in cut.iter().enumerate() {
                let outline = outline(fragment).unwrap();
                prop_assert!(fragment.len() <= limit && outline.total == fragment.len());
                prop_assert!(Sum::default().add(&fragment[..HEADER]).is_valid());
                prop_assert_eq!(usize::from(be16(fragment, 6) & OFFSET) * 8, whole.len());
                prop_assert_eq!(be16(fragment, 6) & MORE != 0, number + 1 < cut.len());
                whole.extend_from_slice(&fragment[HEADER..]);
            }
            prop_assert_eq!(&whole[..], &packet[HEADER..]);
            // A fragment that is cut again goes on where it was.
            if cut.len() > 1 && cut[0].len() > 40 {
                let again = fragments(&cut[1], &outline(&cut[1]).unwrap(), 28).unwrap();
                prop_assert_eq!(be16(&again[0], 6) & OFFSET, be16(&cut[1], 6) & OFFSET);
                prop_assert_eq!(be16(again.last().unwrap(), 6) & MORE, be16(&cut[1], 6) & MORE);
            }
        }
    }

    #[test]
    fn a_fragment_beyond_the_largest_offset_is_none() {
        let (mut packet, _) = kernel_packet(true, UDP, 0, &[7; 64]);
        let cut = |packet: &mut Vec<u8>, offset: u16| {
            put16(packet, 6, offset);
            fragments(packet, &outline(packet).unwrap(), 48).map(|all| all.len())
        };
        assert_eq!(cut(&mut packet, OFFSET - 6), Some(3));
        assert_eq!(cut(&mut packet, OFFSET - 5), None, "it would be taken for another part");
    }
}

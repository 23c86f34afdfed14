//! Congestion marks through a tunnel (RFC 6040, normal mode): the outer packet carries the inner mark, and what
//! happened to it on the way is told to the inner packet.

use super::checksum::Sum;
use super::put16;

const MARK: u8 = 3;
/// "Congestion experienced".
const CE: u8 = 3;
const NOT_CAPABLE: u8 = 0;
/// Capable, as new experiments mark it (RFC 8311).
const ECT_1: u8 = 1;

/// The mark of an inner packet, for the outer one.
pub(crate) fn of(packet: &[u8]) -> u8 {
    match packet {
        [first, second, ..] if first >> 4 == 4 => second & MARK,
        [first, second, ..] if first >> 4 == 6 => second >> 4 & MARK,
        _ => NOT_CAPABLE,
    }
}

/// Takes the mark of the outer packet over. False: the packet has to be dropped, because that is the only way to
/// tell its sender of the congestion.
#[must_use]
pub(crate) fn merge(outer: u8, packet: &mut [u8]) -> bool {
    let inner = of(packet);
    let merged = match (outer & MARK, inner) {
        (CE, NOT_CAPABLE) => return false,
        (CE, _) => CE,
        (ECT_1, 2) => ECT_1,
        _ => return true,
    };
    if merged != inner {
        set(packet, merged);
    }
    true
}

fn set(packet: &mut [u8], mark: u8) {
    match packet {
        [first, second, ..] if *first >> 4 == 6 => *second = *second & !(MARK << 4) | mark << 4,
        [first, second, ..] => {
            let header = usize::from(*first & 15) * 4;
            *second = *second & !MARK | mark;
            put16(packet, 10, 0);
            let covered = packet.get(..header).unwrap_or_default();
            let checksum = Sum::default().add(covered).finish();
            put16(packet, 10, checksum);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::tests::kernel_packet;
    use crate::packet::{TCP, UDP, be16};

    fn marked(is_v4: bool, mark: u8) -> Vec<u8> {
        let (mut packet, _) = kernel_packet(is_v4, if is_v4 { TCP } else { UDP }, 0, &[1; 30]);
        packet[1] |= if is_v4 { 0x28 } else { 0x85 };
        set(&mut packet, mark);
        assert_eq!(of(&packet), mark);
        packet
    }

    #[test]
    fn marks_are_those_of_the_table_of_the_standard() {
        // RFC 6040, figure 4: columns are outer marks (not capable, ECT(0), ECT(1), CE) = (0, 2, 1, 3).
        let rows = [
            (0, [Some(0), Some(0), Some(0), None]),
            (2, [Some(2), Some(2), Some(1), Some(3)]),
            (1, [Some(1), Some(1), Some(1), Some(3)]),
            (3, [Some(3), Some(3), Some(3), Some(3)]),
        ];
        for is_v4 in [true, false] {
            for (inner, expected) in rows {
                for (outer, expected) in [0, 2, 1, 3].into_iter().zip(expected) {
                    let mut packet = marked(is_v4, inner);
                    let before = packet.clone();
                    let kept = merge(outer, &mut packet);
                    assert_eq!(kept.then(|| of(&packet)), expected, "inner {inner}, outer {outer}");
                    set(&mut packet, inner);
                    assert_eq!(packet, before, "nothing else was changed");
                }
            }
        }
        let mut packet = marked(true, 2);
        assert!(merge(CE, &mut packet));
        assert!(Sum::default().add(&packet[..20]).is_valid());
        assert_eq!(be16(&packet, 2), 70);
    }
}

//! TCP resets as a firewall writes them. Layouts: RFC 791, RFC 9293; Ethernet II.

const ETHERNET: usize = 14;
const IP: usize = 20;
const TCP: usize = 20;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// Frames that end the connection of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Resets {
    /// To its sender.
    pub(super) back: Vec<u8>,
    /// To its receiver, which may not know of the connection yet.
    pub(super) onward: Option<Vec<u8>>,
}

/// Whether a frame carries IP of any version.
pub(super) fn is_ip(frame: &[u8]) -> bool {
    matches!(frame.get(12..ETHERNET), Some([0x08, 0x00] | [0x86, 0xdd]))
}

/// The resets for a frame with a TCP segment over IPv4; `None` for anything else and for resets.
pub(super) fn resets(frame: &[u8]) -> Option<Resets> {
    let segment = Segment::parse(frame)?;
    if segment.flags & RST != 0 {
        return None;
    }
    let flipped = segment.ends.flipped();
    let back = if segment.flags & ACK == 0 {
        build(&flipped, 0, segment.sequence.wrapping_add(segment.length), RST | ACK)
    } else {
        build(&flipped, segment.acknowledged, 0, RST)
    };
    let onward = (segment.flags & SYN == 0).then(|| build(&segment.ends, segment.sequence, 0, RST));
    Some(Resets { back, onward })
}

/// Addresses in the order of the headers: the receiver's hardware address is first.
#[derive(Clone, Copy, Debug)]
struct Ends {
    hardware: ([u8; 6], [u8; 6]),
    source: ([u8; 4], [u8; 2]),
    destination: ([u8; 4], [u8; 2]),
}

impl Ends {
    const fn flipped(self) -> Self {
        Self {
            hardware: (self.hardware.1, self.hardware.0),
            source: self.destination,
            destination: self.source,
        }
    }
}

#[derive(Debug)]
struct Segment {
    ends: Ends,
    sequence: u32,
    acknowledged: u32,
    flags: u8,
    /// In sequence numbers: payload, SYN and FIN.
    length: u32,
}

impl Segment {
    fn parse(frame: &[u8]) -> Option<Self> {
        if frame.get(12..ETHERNET)? != [0x08, 0x00] {
            return None;
        }
        let ip = frame.get(ETHERNET..)?;
        let first = *ip.first()?;
        let header = usize::from(first & 0xf) * 4;
        let total = usize::from(u16::from_be_bytes(array(ip, 2)?));
        let is_fragment = u16::from_be_bytes(array(ip, 6)?) & 0x1fff != 0;
        if first >> 4 != 4 || header < IP || *ip.get(9)? != 6 || is_fragment {
            return None;
        }
        let tcp = ip.get(header..total)?;
        let offset = usize::from(*tcp.get(12)? >> 4) * 4;
        let flags = *tcp.get(13)?;
        let payload = u32::try_from(tcp.len().checked_sub(offset)?).ok()?;
        let counted = [SYN, FIN].into_iter().filter(|flag| flags & flag != 0).count();
        Some(Self {
            ends: Ends {
                hardware: (array(frame, 0)?, array(frame, 6)?),
                source: (array(ip, 12)?, array(tcp, 0)?),
                destination: (array(ip, 16)?, array(tcp, 2)?),
            },
            sequence: u32::from_be_bytes(array(tcp, 4)?),
            acknowledged: u32::from_be_bytes(array(tcp, 8)?),
            flags,
            length: payload + u32::try_from(counted).ok()?,
        })
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn build(ends: &Ends, sequence: u32, acknowledged: u32, flags: u8) -> Vec<u8> {
    let (source, destination) = (ends.source.0, ends.destination.0);
    let mut ip = [0x45, 0, 0, (IP + TCP) as u8, 0, 0, 0x40, 0, 64, 6, 0, 0].to_vec();
    ip.extend([source, destination].concat());
    write_checksum(&mut ip, 10, &[]);

    let mut tcp = [ends.source.1, ends.destination.1].concat();
    tcp.extend([sequence.to_be_bytes(), acknowledged.to_be_bytes()].concat());
    tcp.extend([(TCP as u8 / 4) << 4, flags, 0, 0, 0, 0, 0, 0]);
    let pseudo = [&source[..], &destination, &[0, 6, 0, TCP as u8]].concat();
    write_checksum(&mut tcp, 16, &pseudo);

    [&ends.hardware.0[..], &ends.hardware.1, &[0x08, 0x00], &ip, &tcp].concat()
}

/// Writes the checksum of `pseudo` and `header`, whose own field at `at` is zero, into that field.
fn write_checksum(header: &mut [u8], at: usize, pseudo: &[u8]) {
    let checksum = (!sum(&[pseudo, header].concat())).to_be_bytes();
    if let Some(field) = header.get_mut(at..at + 2) {
        field.copy_from_slice(&checksum);
    }
}

/// The one's complement sum of the Internet checksum; the length is even.
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum = words.sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDS: Ends = Ends {
        hardware: ([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]),
        source: ([10, 99, 0, 1], [0x9c, 0x40]),
        destination: ([10, 99, 0, 2], [0, 80]),
    };

    fn checksums_are_right(frame: &[u8]) -> bool {
        let (ip, tcp) = frame[ETHERNET..].split_at(IP);
        let pseudo = [&ip[12..20], &[0, 6, 0, TCP as u8]].concat();
        sum(ip) == 0xffff && sum(&[&pseudo[..], tcp].concat()) == 0xffff
    }

    #[test]
    fn both_ends_of_a_connection_are_reset_where_they_expect_it() {
        let resets = resets(&build(&ENDS, 1000, 2000, ACK)).unwrap();
        assert!(checksums_are_right(&resets.back));
        let back = Segment::parse(&resets.back).unwrap();
        assert_eq!((back.sequence, back.flags), (2000, RST));
        assert_eq!((back.ends.source.0, back.ends.hardware.0), ([10, 99, 0, 2], [2, 0, 0, 0, 0, 1]));
        let onward = Segment::parse(resets.onward.as_deref().unwrap()).unwrap();
        assert_eq!((onward.sequence, onward.flags), (1000, RST));
        assert_eq!(onward.ends.destination, ENDS.destination);
    }

    #[test]
    fn a_connection_that_begins_is_refused() {
        let resets = resets(&build(&ENDS, 1000, 0, SYN)).unwrap();
        let back = Segment::parse(&resets.back).unwrap();
        assert_eq!((back.sequence, back.acknowledged, back.flags), (0, 1001, RST | ACK));
        assert_eq!(resets.onward, None);
    }

    #[test]
    fn resets_and_other_protocols_get_no_answer() {
        assert_eq!(resets(&build(&ENDS, 1, 2, RST)), None);
        let mut udp = build(&ENDS, 1, 2, ACK);
        udp[ETHERNET + 9] = 17;
        assert_eq!(resets(&udp), None);
        for length in 0..ETHERNET + IP + TCP {
            assert_eq!(resets(&build(&ENDS, 1, 2, ACK)[..length]), None);
        }
    }
}

//! The header in front of each packet of the TUN device (`struct virtio_net_hdr`, 10 bytes, host byte order).

/// Its size.
pub(crate) const VNET: usize = 10;
const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// The sender reduced its window; of no interest here.
const GSO_ECN: u8 = 0x80;

/// What a packet stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Large {
    No,
    Tcp,
    Udp,
}

/// The header, understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vnet {
    pub(crate) large: Large,
    /// Bytes of headers in front of the payload (only for large packets).
    pub(crate) headers: u16,
    /// Payload of each packet on the wire, but the last.
    pub(crate) segment: u16,
    /// Where the checksum has to be completed: first byte it covers, and its place behind that.
    pub(crate) checksum: Option<(u16, u16)>,
}

impl Vnet {
    /// A packet that is whole.
    pub(crate) const PLAIN: Self = Self { large: Large::No, headers: 0, segment: 0, checksum: None };

    /// `None`: a kind of packet that was not asked for.
    pub(crate) fn parse(bytes: &[u8; VNET]) -> Option<Self> {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let large = match bytes[1] & !GSO_ECN {
            0 => Large::No,
            GSO_TCPV4 | GSO_TCPV6 => Large::Tcp,
            GSO_UDP_L4 => Large::Udp,
            _ => return None,
        };
        let checksum = (bytes[0] & NEEDS_CSUM != 0).then(|| (word(6), word(8)));
        Some(Self { large, headers: word(2), segment: word(4), checksum })
    }

    /// The bytes of the header; `is_v4` tells the two kinds of TCP apart.
    pub(crate) fn write(&self, is_v4: bool) -> [u8; VNET] {
        let mut bytes = [0; VNET];
        let (start, offset) = self.checksum.unwrap_or_default();
        bytes[0] = if self.checksum.is_some() { NEEDS_CSUM } else { 0 };
        bytes[1] = match self.large {
            Large::No => 0,
            Large::Tcp if is_v4 => GSO_TCPV4,
            Large::Tcp => GSO_TCPV6,
            Large::Udp => GSO_UDP_L4,
        };
        for (at, word) in [(2, self.headers), (4, self.segment), (6, start), (8, offset)] {
            bytes[at..at + 2].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

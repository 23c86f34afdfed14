//! The Internet checksum (RFC 1071).

use std::net::IpAddr;

/// Sums up 16-bit words; the order of bytes is that of memory, because the sum does not care (RFC 1071, section 2).
fn sum(mut bytes: &[u8]) -> u64 {
    // Four independent sums of 32-bit words: the compiler makes vectors of them.
    let mut sums = [0_u64; 8];
    while let Some((block, rest)) = bytes.split_first_chunk::<32>() {
        for (place, sum) in sums.iter_mut().enumerate() {
            let at = place * 4;
            *sum += u64::from(u32::from_ne_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]));
        }
        bytes = rest;
    }
    let mut total: u64 = sums.iter().sum();
    while let Some((pair, rest)) = bytes.split_first_chunk::<2>() {
        total += u64::from(u16::from_ne_bytes(*pair));
        bytes = rest;
    }
    if let [last] = bytes {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    total
}

/// A sum in progress.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum(u64);

impl Sum {
    /// Adds bytes; all but the last part must have even lengths.
    pub(crate) fn add(self, bytes: &[u8]) -> Self {
        Self(self.0 + sum(bytes))
    }

    /// Adds a number as it would be on the wire.
    pub(crate) fn add16(self, value: u16) -> Self {
        Self(self.0 + u64::from(value.to_be()))
    }

    /// Adds the pseudo header of TCP and UDP.
    pub(crate) fn add_pseudo(self, source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Self {
        let address = |sum: Self, address: IpAddr| match address {
            IpAddr::V4(address) => sum.add(&address.octets()),
            IpAddr::V6(address) => sum.add(&address.octets()),
        };
        let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
        address(address(self, source), destination).add16(u16::from(protocol)).add(&length)
    }

    /// The folded sum, not inverted: what is in the checksum's place of a packet whose rest is still to be summed up.
    pub(crate) fn partial(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::from_be(u16::try_from(sum).unwrap_or(u16::MAX))
    }

    /// The checksum.
    pub(crate) fn finish(self) -> u16 {
        !self.partial()
    }

    /// Whether the sum is that of bytes which contain their checksum.
    pub(crate) fn is_valid(self) -> bool {
        self.partial() == 0xffff
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sum_is_that_of_the_standard() {
        // RFC 1071, section 3.
        assert_eq!(Sum::default().add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).partial(), 0xddf2);
    }

    proptest! {
        #[test]
        fn sum_is_that_of_the_slow_way(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let slow = bytes.chunks(2).fold(0_u32, |sum, pair| {
                let sum = sum + u32::from(pair[0]) * 256 + u32::from(*pair.get(1).unwrap_or(&0));
                (sum & 0xffff) + (sum >> 16)
            });
            prop_assert_eq!(u32::from(Sum::default().add(&bytes).partial()), slow);
        }
    }
}

//! Bytes of netlink messages: building requests and walking attributes of answers.
//! Answers come from the kernel but are still read without trust in their lengths.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Size of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Attribute type bits that are flags, not type.
const TYPE_MASK: u16 = 0x3fff;
const NESTED: u16 = 0x8000;

/// A request being built: header, fixed body, attributes.
#[derive(Debug)]
pub struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// Starts a message of `kind` with `NLM_F_*` `flags` and the family's fixed `body`.
    pub fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&0_u32.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(body);
        Self { bytes }
    }

    /// Appends raw bytes, for the fixed body of a nested message (veth peer).
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Appends an attribute.
    pub fn put(mut self, kind: u16, value: &[u8]) -> Self {
        // Every value is a few bytes to a few hundred; a length beyond u16 cannot be built here.
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// Appends a 32-bit attribute in host order.
    pub fn put_u32(self, kind: u16, value: u32) -> Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// Appends a zero-terminated text.
    pub fn put_text(self, kind: u16, text: &str) -> Self {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        self.put(kind, &value)
    }

    /// Appends an address.
    pub fn put_address(self, kind: u16, address: impl Into<IpAddr>) -> Self {
        match address.into() {
            IpAddr::V4(address) => self.put(kind, &address.octets()),
            IpAddr::V6(address) => self.put(kind, &address.octets()),
        }
    }

    /// Appends an attribute that consists of what `fill` appends.
    pub fn nest(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        let mut filled = fill(self);
        let length = u16::try_from(filled.bytes.len() - start).unwrap_or(u16::MAX);
        if let Some(place) = filled.bytes.get_mut(start..start + 2) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
        filled.pad();
        filled
    }

    /// Completes the header.
    pub fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        if let Some(place) = self.bytes.get_mut(0..4) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
        if let Some(place) = self.bytes.get_mut(8..12) {
            place.copy_from_slice(&sequence.to_ne_bytes());
        }
        self.bytes
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// One message of an answer.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// Type of the message.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// The number of the request.
    pub sequence: u32,
    /// Everything behind the header.
    pub payload: &'a [u8],
}

/// The messages of one datagram; ends at the first that does not fit.
pub fn answers(mut datagram: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(datagram, 0)?).ok()?;
        let message = datagram.get(..length)?;
        let answer = Answer {
            kind: u16_at(message, 4)?,
            flags: u16_at(message, 6)?,
            sequence: u32_at(message, 8)?,
            payload: message.get(HEADER..)?,
        };
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(answer)
    })
}

/// The attributes in `bytes`, type flags removed; ends at the first that does not fit.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

/// The first attribute of that type.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

/// Text of a zero-terminated attribute.
pub fn text(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(value.get(..end).unwrap_or_default()).into_owned()
}

/// IPv4 address of an attribute.
pub fn address(value: &[u8]) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = value.try_into().ok()?;
    Some(Ipv4Addr::from(octets))
}

/// Address of either family of an attribute.
pub fn ip(value: &[u8]) -> Option<IpAddr> {
    let six = || Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?)));
    address(value).map(IpAddr::V4).or_else(six)
}

/// 32 bits in host order at an offset.
pub fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let end = offset.checked_add(4)?;
    Some(u32::from_ne_bytes(bytes.get(offset..end)?.try_into().ok()?))
}

/// 64 bits in host order at an offset.
#[must_use]
pub fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    let end = offset.checked_add(8)?;
    Some(u64::from_ne_bytes(bytes.get(offset..end)?.try_into().ok()?))
}

/// 16 bits in host order at an offset.
pub fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    let end = offset.checked_add(2)?;
    Some(u16::from_ne_bytes(bytes.get(offset..end)?.try_into().ok()?))
}

/// 16 bits in network order, the whole attribute.
pub fn u16_be(value: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(value.try_into().ok()?))
}

/// 32 bits in network order, the whole attribute.
pub fn u32_be(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_can_be_read_again() {
        let bytes = Request::new(16, 5, &[0; 16])
            .put_text(3, "oak0")
            .nest(18, |info| info.put_text(1, "bridge").put_u32(2, 7))
            .finish(9);
        let answer = answers(&bytes).next().unwrap();
        assert_eq!((answer.kind, answer.flags, answer.sequence), (16, 5, 9));
        let body = answer.payload.get(16..).unwrap();
        assert_eq!(text(attribute(body, 3).unwrap()), "oak0");
        let info = attribute(body, 18).unwrap();
        assert_eq!(text(attribute(info, 1).unwrap()), "bridge");
        assert_eq!(u32_at(attribute(info, 2).unwrap(), 0), Some(7));
    }

    #[test]
    fn lengths_that_lie_end_the_walk_without_harm() {
        assert_eq!(answers(&[255; 12]).count(), 0);
        assert_eq!(answers(&[0; 64]).count(), 0);
        assert_eq!(attributes(&[2, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[200, 0, 1, 0, 5]).count(), 0);
        assert_eq!(attributes(&[]).count(), 0);
        for cut in 0..60 {
            let bytes = Request::new(16, 5, &[0; 16]).put_text(3, "oak0").finish(1);
            for answer in answers(bytes.get(..cut).unwrap_or(&bytes)) {
                let _ = attributes(answer.payload).count();
            }
        }
    }
}

//! Identifiers. Objects of the API carry 24 hexadecimal digits, the form every existing client expects
//! (root-api reference, 2.4); counters order the changes of one object.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::WallTime;

/// A text is not the identifier it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an identifier: expected 24 hexadecimal digits")]
pub struct InvalidId {
    text: String,
}

impl InvalidId {
    fn new(text: &str) -> Self {
        Self { text: text.chars().take(40).collect() }
    }
}

fn parse_hex(text: &str) -> Result<[u8; 12], InvalidId> {
    let digits = text.as_bytes();
    if digits.len() != 24 || !text.is_ascii() {
        return Err(InvalidId::new(text));
    }
    let mut bytes = [0_u8; 12];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| InvalidId::new(text))?;
        if !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(InvalidId::new(text));
        }
        *byte = u8::from_str_radix(pair, 16).map_err(|_| InvalidId::new(text))?;
    }
    Ok(bytes)
}

macro_rules! object_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; 12]);

        impl $name {
            /// A new identifier. Those made later sort behind, to the millisecond.
            #[must_use]
            pub fn new(at: WallTime, random: u64) -> Self {
                Self::from_parts(at.unix_seconds(), ((at.0 % 1000) << 54) | (random >> 10))
            }

            /// An identifier whose first four bytes tell the time of creation, so that ids sort by age.
            #[must_use]
            pub const fn from_parts(unix_seconds: u32, random: u64) -> Self {
                let [a, b, c, d] = unix_seconds.to_be_bytes();
                let [e, f, g, h, i, j, k, l] = random.to_be_bytes();
                Self([a, b, c, d, e, f, g, h, i, j, k, l])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for byte in self.0 {
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                parse_hex(text).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    };
}

object_id!(
    /// An application: a named set of services of one owner.
    ApplicationId
);
object_id!(
    /// A service ("microservice", "job" in the original).
    ServiceId
);
object_id!(
    /// A cluster of workers.
    ClusterId
);
object_id!(
    /// A worker machine.
    WorkerId
);
object_id!(
    /// A user account.
    UserId
);
object_id!(
    /// An organisation.
    OrganizationId
);

/// One instance of a service: the n-th copy ever deployed; numbers are never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceKey {
    /// The service.
    pub service: ServiceId,
    /// Progressive number within the service, from 0.
    pub number: u32,
}

impl InstanceKey {
    /// The keys of all instances a service can have, in their order.
    #[must_use]
    pub const fn all_of(service: ServiceId) -> RangeInclusive<Self> {
        Self { service, number: 0 }..=Self { service, number: u32::MAX }
    }
}

impl fmt::Display for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.service, self.number)
    }
}

impl fmt::Debug for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InstanceKey({self})")
    }
}

impl FromStr for InstanceKey {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let (service, number) = text.split_once('.').ok_or_else(|| InvalidId::new(text))?;
        Ok(Self { service: service.parse()?, number: number.parse().map_err(|_| InvalidId::new(text))? })
    }
}

impl TryFrom<String> for InstanceKey {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<InstanceKey> for String {
    fn from(key: InstanceKey) -> Self {
        key.to_string()
    }
}

/// Version of one desired object as its parent counts it. A receiver refuses anything older than it has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

/// One attempt to run an instance on one worker, counted by the cluster; a newer incarnation replaces an older.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_render_as_24_hex_digits_and_sort_by_time() {
        let old = ServiceId::from_parts(1, u64::MAX);
        let new = ServiceId::from_parts(2, 0);
        assert_eq!(old.to_string(), "00000001ffffffffffffffff");
        assert!(old < new);
    }

    proptest! {
        #[test]
        fn instance_keys_survive_text(seconds: u32, random: u64, number: u32) {
            let key = InstanceKey { service: ServiceId::from_parts(seconds, random), number };
            prop_assert_eq!(key.to_string().parse::<InstanceKey>(), Ok(key));
        }

        #[test]
        fn parsing_arbitrary_text_never_panics(text in ".{0,60}") {
            let _ = text.parse::<ServiceId>();
            let _ = text.parse::<InstanceKey>();
        }
    }
}

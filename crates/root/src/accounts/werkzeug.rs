//! Password hashes of the original: `pbkdf2:sha256:260000$<salt>$<64 hexadecimal digits>` (root-api reference, 8.1).
//! They are only checked, never made.

use std::num::NonZeroU32;

use ring::pbkdf2;

/// How stored hashes of this kind begin.
const PREFIX: &str = "pbkdf2:sha256:";
/// Most rounds a stored hash may ask for; the original has 260 000.
const MAX_ROUNDS: u32 = 2_000_000;

/// A parsed hash.
pub(super) struct WerkzeugHash<'a> {
    rounds: NonZeroU32,
    salt: &'a str,
    output: [u8; 32],
}

impl<'a> WerkzeugHash<'a> {
    /// Whether a stored hash is of this kind, damaged or not.
    pub(super) fn is_meant(stored: &str) -> bool {
        stored.starts_with(PREFIX)
    }

    pub(super) fn parse(stored: &'a str) -> Option<Self> {
        let (rounds, rest) = stored.strip_prefix(PREFIX)?.split_once('$')?;
        let (salt, digits) = rest.split_once('$')?;
        let rounds = rounds.parse().ok().filter(|rounds| *rounds <= MAX_ROUNDS)?;
        let mut output = [0; 32];
        if digits.len() != 2 * output.len() {
            return None;
        }
        for (byte, pair) in output.iter_mut().zip(digits.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self { rounds: NonZeroU32::new(rounds)?, salt, output })
    }

    /// Takes the same time wherever the two differ.
    pub(super) fn matches(&self, password: &str) -> bool {
        let (algorithm, salt) = (pbkdf2::PBKDF2_HMAC_SHA256, self.salt.as_bytes());
        pbkdf2::verify(algorithm, self.rounds, salt, password.as_bytes(), &self.output).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with Python's `hashlib.pbkdf2_hmac`, as the original does.
    const KNOWN: &str = "pbkdf2:sha256:1000$lHlzP0aQ3x9YkW2d$b65f5970597597d0a40a59e1ff63957e937045ebd28182b8bfafccd09575cf4c";

    #[test]
    fn a_hash_of_the_original_is_checked() {
        let hash = WerkzeugHash::parse(KNOWN).unwrap();
        assert!(hash.matches("Admin"));
        assert!(!hash.matches("admin"));
    }

    #[test]
    fn damaged_and_costly_ones_are_not_parsed() {
        for bad in [
            "pbkdf2:sha256:1000$salt$00",
            "pbkdf2:sha256:0$salt$0000000000000000000000000000000000000000000000000000000000000000",
            "pbkdf2:sha256:9000000$s$0000000000000000000000000000000000000000000000000000000000000000",
            "pbkdf2:sha256:1000$salt$zz00000000000000000000000000000000000000000000000000000000000000",
            "pbkdf2:sha512:1000$s$0000000000000000000000000000000000000000000000000000000000000000",
            "pbkdf2:sha256:1000",
        ] {
            assert!(WerkzeugHash::parse(bad).is_none(), "{bad}");
        }
    }
}

//! Join tokens: what an operator carries from a parent to a new child, as one line of text.
//!
//! `oak1.<kind>.<fingerprint of the root authority>.<token id>.<secret>`. The fingerprint lets the child know its
//! parent before it sends the secret; the parent stores only the hash of the secret.

use std::fmt;
use std::str::FromStr;

use rand::{CryptoRng, Rng};

use crate::fingerprint::Fingerprint;

const VERSION: &str = "oak1";
const ID_LENGTH: std::ops::RangeInclusive<usize> = 1..=32;
const SECRET_LENGTH: std::ops::RangeInclusive<usize> = 32..=64;

/// What kind of member a token admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeKind {
    /// A cluster that joins a root; `c` in a token.
    Cluster,
    /// A worker that joins a cluster; `w` in a token.
    Worker,
}

impl NodeKind {
    fn letter(self) -> &'static str {
        match self {
            Self::Cluster => "c",
            Self::Worker => "w",
        }
    }
}

impl fmt::Display for NodeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cluster => "cluster",
            Self::Worker => "worker",
        })
    }
}

/// A join token with its secret. `Display` gives the whole text; `Debug` hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    kind: NodeKind,
    authority: Fingerprint,
    id: Box<str>,
    secret: Box<str>,
}

impl JoinToken {
    /// Makes a new token with 48 random bits of id and 192 random bits of secret.
    pub fn generate(kind: NodeKind, authority: Fingerprint, rng: &mut (impl Rng + CryptoRng)) -> Self {
        Self { kind, authority, id: random_hex::<6>(rng), secret: random_hex::<24>(rng) }
    }

    /// Returns what kind of member the token admits.
    pub fn kind(&self) -> NodeKind {
        self.kind
    }

    /// Returns the fingerprint of the root authority the parent's certificate must lead to.
    pub fn authority(&self) -> Fingerprint {
        self.authority
    }

    /// Returns the public id under which the parent keeps the token.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the hash of the secret: what the parent stores and compares.
    pub fn hash(&self) -> Fingerprint {
        hash_secret(&self.secret)
    }

    pub(crate) fn secret(&self) -> &str {
        &self.secret
    }
}

/// Returns the hash of a secret that came over the wire.
pub(crate) fn hash_secret(secret: &str) -> Fingerprint {
    Fingerprint::of(secret.as_bytes())
}

fn random_hex<const BYTES: usize>(rng: &mut impl Rng) -> Box<str> {
    let mut bytes = [0_u8; BYTES];
    rng.fill(bytes.as_mut_slice());
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION}.{}.{}.{}.{}", self.kind.letter(), self.authority, self.id, self.secret)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("kind", &self.kind)
            .field("authority", &self.authority)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Why a text is not a join token. The text itself is not repeated, for it may hold a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// It has not the five parts of a token.
    #[error("a join token has the form oak1.<kind>.<fingerprint>.<id>.<secret>; copy the whole line")]
    Shape,
    /// The first part is not the version of this program.
    #[error("the join token is of another version; this program reads oak1 tokens")]
    Version,
    /// The second part is neither `c` nor `w`.
    #[error("the kind of a join token is c (cluster) or w (worker)")]
    Kind,
    /// The third part is not a fingerprint.
    #[error("the fingerprint in the join token is damaged")]
    Fingerprint,
    /// The fourth part is not an id.
    #[error("the id in the join token is damaged")]
    Id,
    /// The fifth part is not a secret.
    #[error("the secret in the join token is damaged; copy the whole line")]
    Secret,
}

impl FromStr for JoinToken {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let parts: Vec<&str> = text.trim().splitn(6, '.').collect();
        let [version, kind, authority, id, secret] = parts.as_slice() else {
            return Err(InvalidToken::Shape);
        };
        if *version != VERSION {
            return Err(InvalidToken::Version);
        }
        let kind = match *kind {
            "c" => NodeKind::Cluster,
            "w" => NodeKind::Worker,
            _ => return Err(InvalidToken::Kind),
        };
        let authority = authority.parse().map_err(|_| InvalidToken::Fingerprint)?;
        if !is_token_id(id) {
            return Err(InvalidToken::Id);
        }
        if !is_secret(secret) {
            return Err(InvalidToken::Secret);
        }
        Ok(Self { kind, authority, id: (*id).into(), secret: (*secret).into() })
    }
}

/// Tells whether `text` can be the id of a token: 1 to 32 letters, digits, `-` and `_`.
pub(crate) fn is_token_id(text: &str) -> bool {
    ID_LENGTH.contains(&text.len()) && text.bytes().all(is_word_byte)
}

/// Tells whether `text` can be a secret: 32 to 64 letters, digits, `-` and `_`.
pub(crate) fn is_secret(text: &str) -> bool {
    SECRET_LENGTH.contains(&text.len()) && text.bytes().all(is_word_byte)
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn token(seed: u64) -> JoinToken {
        let authority = Fingerprint::of(&seed.to_be_bytes());
        let kind = if seed.is_multiple_of(2) { NodeKind::Cluster } else { NodeKind::Worker };
        JoinToken::generate(kind, authority, &mut StdRng::seed_from_u64(seed))
    }

    proptest! {
        #[test]
        fn every_token_reads_back(seed: u64) {
            let token = token(seed);
            let text = token.to_string();
            prop_assert!(text.len() <= 160);
            prop_assert_eq!(text.parse::<JoinToken>().unwrap(), token.clone());
            prop_assert_eq!(format!(" {text}\n").parse::<JoinToken>().unwrap(), token);
        }

        #[test]
        fn debug_never_shows_the_secret(seed: u64) {
            let token = token(seed);
            let shown = format!("{token:?}");
            prop_assert!(!shown.contains(token.secret()));
        }

        #[test]
        fn any_text_is_parsed_or_refused_and_what_parses_prints_the_same(text in "(oak1|[a-z]{0,4})(\\.[cw0-9a-zA-Z_.-]{0,70}){0,6}") {
            if let Ok(token) = text.parse::<JoinToken>() {
                prop_assert_eq!(token.to_string(), text.trim());
            }
        }

        #[test]
        fn a_cut_token_is_never_accepted_as_another(seed: u64, cut in 1_usize..100) {
            let text = token(seed).to_string();
            let cut_text: String = text.chars().take(text.len() - cut).collect();
            if let Ok(other) = cut_text.parse::<JoinToken>() {
                prop_assert_ne!(other.hash(), token(seed).hash());
            }
        }
    }

    #[test]
    fn says_what_is_wrong() {
        let good = token(1).to_string();
        let cases = [
            ("", InvalidToken::Shape),
            ("oak1.c", InvalidToken::Shape),
            ("oak2.c.a.b.c", InvalidToken::Version),
            ("oak1.x.a.b.c", InvalidToken::Kind),
            ("oak1.c.a.b.c", InvalidToken::Fingerprint),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<JoinToken>(), Err(expected), "{text}");
        }
        assert_eq!(format!("{good}.more").parse::<JoinToken>(), Err(InvalidToken::Shape));
        assert_eq!(good[..good.len() - 40].parse::<JoinToken>(), Err(InvalidToken::Secret));
    }
}

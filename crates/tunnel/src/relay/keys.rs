//! What nodes and relays make of their keys: a node and a relay that know each other's public keys need no secret from
//! anybody, and everybody finds the same numbers and tags.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::{MAX_NODES, MAX_PAIRS, RelayMembers};
use crate::config::Relay;
use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::noise::agreed_key;

const NODE: &[u8] = b"oak relay node";
const PAIR: &[u8] = b"oak relay pair";
const REGISTRATION: &[u8] = b"oak relay registration";

/// What every relay calls the node.
fn node_number(node: &PublicKey) -> u64 {
    number(NODE, &node.0)
}

/// What every relay calls a pair of nodes ([`crate::Path::Relayed`]); their order does not matter.
pub fn pair_tag(one: &PublicKey, other: &PublicKey) -> u64 {
    let (first, second) = if one <= other { (one, other) } else { (other, one) };
    number(PAIR, &[first.0, second.0].concat())
}

fn number(label: &[u8], bytes: &[u8]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = crate::noise::mac(label, bytes);
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

impl Relay {
    /// The relay with this public key, for the node with this private key; none if nobody can have that public key.
    pub fn with_keys(address: SocketAddr, relay: &PublicKey, own: &PrivateKey) -> Option<Self> {
        let key = agreed_key(own, relay, REGISTRATION)?;
        Some(Self { address, node: node_number(&own.public()), key })
    }
}

/// The private key of a relay, and what was made of it so far.
pub struct RelayKeys {
    own: PrivateKey,
    known: HashMap<PublicKey, PresharedKey>,
}

impl RelayKeys {
    /// For the relay with this key.
    pub fn new(own: PrivateKey) -> Self {
        Self { own, known: HashMap::new() }
    }

    /// The members for these pairs of nodes, and how many pairs were left out: those beyond [`MAX_NODES`] or
    /// [`MAX_PAIRS`], and those with a key that nobody can have.
    pub fn members(
        &mut self,
        pairs: impl IntoIterator<Item = (PublicKey, PublicKey)>,
    ) -> (RelayMembers, usize) {
        let former = std::mem::take(&mut self.known);
        let (mut members, mut left_out) = (RelayMembers::default(), 0);
        for (one, other) in pairs {
            let tag = pair_tag(&one, &other);
            if members.pairs.contains_key(&tag) {
                continue;
            }
            let is_full = members.pairs.len() >= MAX_PAIRS || self.known.len() + 2 > MAX_NODES;
            let keys = [one, other].map(|node| self.key_of(node, &former));
            let [Some(first), Some(second)] = keys else {
                left_out += 1;
                continue;
            };
            if is_full || one == other {
                left_out += 1;
                continue;
            }
            let numbers = [node_number(&one), node_number(&other)];
            members.nodes.extend(numbers.into_iter().zip([first, second]));
            members.pairs.insert(tag, numbers);
        }
        (members, left_out)
    }

    fn key_of(&mut self, node: PublicKey, former: &HashMap<PublicKey, PresharedKey>) -> Option<PresharedKey> {
        if let Some(known) = self.known.get(&node) {
            return Some(known.clone());
        }
        let key = former.get(&node).cloned().or_else(|| agreed_key(&self.own, &node, REGISTRATION))?;
        self.known.insert(node, key.clone());
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn private(byte: u8) -> PrivateKey {
        PrivateKey::from_bytes([byte; 32])
    }

    #[test]
    fn node_and_relay_find_the_same_key_number_and_tag() {
        let (relay, one, other) = (private(9), private(1), private(2));
        let pair = (one.public(), other.public());
        let (members, left_out) = RelayKeys::new(relay.clone()).members([pair, (pair.1, pair.0)]);
        assert_eq!((members.nodes.len(), members.pairs.len(), left_out), (2, 1, 0));
        for node in [&one, &other] {
            let seen = Relay::with_keys(([192, 0, 2, 1], 1).into(), &relay.public(), node).unwrap();
            assert!(members.nodes[&seen.node] == seen.key);
            assert!(members.pairs[&pair_tag(&pair.1, &pair.0)].contains(&seen.node));
        }
        let stranger = Relay::with_keys(([192, 0, 2, 1], 1).into(), &relay.public(), &private(3)).unwrap();
        assert!(members.nodes.values().all(|key| *key != stranger.key));
    }

    #[test]
    fn keys_that_nobody_can_have_are_left_out() {
        let nobody = PublicKey([0; 32]);
        let (members, left_out) = RelayKeys::new(private(9)).members([
            (private(1).public(), nobody),
            (private(1).public(), private(1).public()),
            (private(1).public(), private(2).public()),
        ]);
        assert_eq!((members.pairs.len(), left_out), (1, 2));
        assert!(Relay::with_keys(([192, 0, 2, 1], 1).into(), &nobody, &private(1)).is_none());
    }

    #[test]
    fn beyond_the_limits_pairs_are_left_out() {
        let one = PublicKey([7; 32]);
        let node = |number: u32| {
            let mut bytes = [9; 32];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            PublicKey(bytes)
        };
        let mut keys = RelayKeys::new(private(9));
        // What was made before is not made again, and costs nothing here.
        keys.known = (0..20_000).map(|number| (node(number), PresharedKey::from_bytes([1; 32]))).collect();
        let (members, left_out) = keys.members((0..20_000).map(|number| (one, node(number))));
        assert!(members.nodes.len() <= MAX_NODES);
        assert_eq!(members.pairs.len() + left_out, 20_000);
    }
}

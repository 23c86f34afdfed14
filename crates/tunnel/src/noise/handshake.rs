//! The two messages that agree on a session.

use std::sync::Arc;

use x25519_dalek::{PublicKey as Point, StaticSecret};

use super::symmetric::{hash, kdf1, kdf2, kdf3, open, seal};
use super::{
    INITIATION, RESPONSE, Refused, TYPE_INITIATION, TYPE_RESPONSE, Timestamp, cookie, field, number,
};
use crate::key::{PresharedKey, PrivateKey, PublicKey};

const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";

/// This node's key with what is derived from it.
pub(crate) struct Identity {
    secret: StaticSecret,
    pub(crate) public: PublicKey,
    /// Whoever knows it knows our public key: strangers are turned away with one hash.
    pub(crate) mac1_key: [u8; 32],
}

impl Identity {
    pub(crate) fn new(key: &PrivateKey) -> Self {
        let public = key.public();
        Self { secret: key.secret(), public, mac1_key: cookie::mac1_key(&public) }
    }
}

/// Keys of a session, from the view of this node.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SessionKeys {
    pub(crate) send: [u8; 32],
    pub(crate) receive: [u8; 32],
    /// How the other side names the session.
    pub(crate) remote: u32,
}

/// An initiation that was sent and may be answered.
pub(crate) struct Initiated {
    identity: Arc<Identity>,
    ephemeral: StaticSecret,
    chain: [u8; 32],
    hash: [u8; 32],
}

fn agree(secret: &StaticSecret, public: &[u8; 32]) -> Result<[u8; 32], Refused> {
    let shared = secret.diffie_hellman(&Point::from(*public));
    // A point of small order would make a secret that everybody knows.
    if shared.was_contributory() { Ok(shared.to_bytes()) } else { Err(Refused::Forged) }
}

/// A key that only the owners of these two keys can make, one for each purpose; none if nobody can have the public key.
pub(crate) fn agreed_key(own: &PrivateKey, other: &PublicKey, purpose: &[u8]) -> Option<PresharedKey> {
    let shared = agree(&own.secret(), &other.0).ok()?;
    Some(PresharedKey::from_bytes(kdf1(&shared, purpose)))
}

/// State after `HASH(HASH(HASH(construction) ‖ identifier) ‖ key of the responder)`.
fn begin(responder: &PublicKey) -> ([u8; 32], [u8; 32]) {
    let chain = hash(&[CONSTRUCTION]);
    (chain, hash(&[&hash(&[&chain, IDENTIFIER]), &responder.0]))
}

/// Writes an initiation to `peer`, without its two authenticators (`cookie` adds them).
///
/// `index` is how this node names the session, `random` 32 fresh random bytes.
pub(crate) fn initiate(
    identity: &Arc<Identity>,
    peer: &PublicKey,
    index: u32,
    random: [u8; 32],
    timestamp: Timestamp,
) -> Result<(Vec<u8>, Initiated), Refused> {
    let ephemeral = StaticSecret::from(random);
    let public = Point::from(&ephemeral).to_bytes();
    let (chain, hashed) = begin(peer);
    let chain = kdf1(&chain, &public);
    let hashed = hash(&[&hashed, &public]);
    let (chain, key) = kdf2(&chain, &agree(&ephemeral, &peer.0)?);
    let sealed_static = seal(&key, &identity.public.0, &hashed);
    let hashed = hash(&[&hashed, &sealed_static]);
    let (chain, key) = kdf2(&chain, &agree(&identity.secret, &peer.0)?);
    let sealed_time = seal(&key, &timestamp.0, &hashed);
    let hash = hash(&[&hashed, &sealed_time]);
    let mut message = Vec::with_capacity(INITIATION);
    message.extend_from_slice(&[TYPE_INITIATION, 0, 0, 0]);
    message.extend_from_slice(&index.to_le_bytes());
    message.extend_from_slice(&public);
    message.extend_from_slice(&sealed_static);
    message.extend_from_slice(&sealed_time);
    Ok((message, Initiated { identity: Arc::clone(identity), ephemeral, chain, hash }))
}

/// An initiation whose sender has proved who it is. Whether it is a peer, and no replay, is for the caller.
pub(crate) struct Initiation {
    pub(crate) peer: PublicKey,
    pub(crate) timestamp: Timestamp,
    /// How the initiator names the session.
    pub(crate) remote: u32,
    ephemeral: [u8; 32],
    chain: [u8; 32],
    hash: [u8; 32],
}

impl Initiation {
    /// Opens an initiation whose first authenticator was checked.
    pub(crate) fn open(identity: &Identity, message: &[u8]) -> Result<Self, Refused> {
        if message.len() != INITIATION {
            return Err(Refused::Malformed);
        }
        let ephemeral: [u8; 32] = field(message, 8)?;
        let sealed_static: [u8; 48] = field(message, 40)?;
        let sealed_time: [u8; 28] = field(message, 88)?;
        let (chain, hashed) = begin(&identity.public);
        let chain = kdf1(&chain, &ephemeral);
        let hashed = hash(&[&hashed, &ephemeral]);
        let (chain, key) = kdf2(&chain, &agree(&identity.secret, &ephemeral)?);
        let peer = PublicKey(open::<32>(&key, &sealed_static, &hashed)?);
        let hashed = hash(&[&hashed, &sealed_static]);
        let (chain, key) = kdf2(&chain, &agree(&identity.secret, &peer.0)?);
        let timestamp = Timestamp(open::<12>(&key, &sealed_time, &hashed)?);
        let hash = hash(&[&hashed, &sealed_time]);
        Ok(Self { peer, timestamp, remote: number(message, 4)?, ephemeral, chain, hash })
    }

    /// Writes the response, without its authenticators, and the keys of the session.
    pub(crate) fn respond(
        &self,
        preshared: &PresharedKey,
        index: u32,
        random: [u8; 32],
    ) -> Result<(Vec<u8>, SessionKeys), Refused> {
        let ephemeral = StaticSecret::from(random);
        let public = Point::from(&ephemeral).to_bytes();
        let chain = kdf1(&self.chain, &public);
        let hashed = hash(&[&self.hash, &public]);
        let chain = kdf1(&chain, &agree(&ephemeral, &self.ephemeral)?);
        let chain = kdf1(&chain, &agree(&ephemeral, &self.peer.0)?);
        let (chain, mixed, key) = kdf3(&chain, &preshared.0);
        let hashed = hash(&[&hashed, &mixed]);
        let nothing = seal(&key, &[], &hashed);
        let mut message = Vec::with_capacity(RESPONSE);
        message.extend_from_slice(&[TYPE_RESPONSE, 0, 0, 0]);
        message.extend_from_slice(&index.to_le_bytes());
        message.extend_from_slice(&self.remote.to_le_bytes());
        message.extend_from_slice(&public);
        message.extend_from_slice(&nothing);
        let (receive, send) = kdf2(&chain, &[]);
        Ok((message, SessionKeys { send, receive, remote: self.remote }))
    }
}

impl Initiated {
    /// Takes the response; the keys of the session are known to both sides now.
    pub(crate) fn finish(&self, preshared: &PresharedKey, message: &[u8]) -> Result<SessionKeys, Refused> {
        if message.len() != RESPONSE {
            return Err(Refused::Malformed);
        }
        let public: [u8; 32] = field(message, 12)?;
        let nothing: [u8; 16] = field(message, 44)?;
        let chain = kdf1(&self.chain, &public);
        let hashed = hash(&[&self.hash, &public]);
        let chain = kdf1(&chain, &agree(&self.ephemeral, &public)?);
        let chain = kdf1(&chain, &agree(&self.identity.secret, &public)?);
        let (chain, mixed, key) = kdf3(&chain, &preshared.0);
        open::<0>(&key, &nothing, &hash(&[&hashed, &mixed]))?;
        let (send, receive) = kdf2(&chain, &[]);
        Ok(SessionKeys { send, receive, remote: number(message, 4)? })
    }

    /// The key with which the initiation was made.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(byte: u8) -> Arc<Identity> {
        Arc::new(Identity::new(&PrivateKey::from_bytes([byte; 32])))
    }

    fn agreed(psk_a: u8, psk_b: u8) -> Result<(SessionKeys, SessionKeys), Refused> {
        let (a, b) = (identity(1), identity(2));
        let (mut first, waiting) = initiate(&a, &b.public, 7, [3; 32], Timestamp([4; 12]))?;
        first.extend_from_slice(&[0; 32]);
        let initiation = Initiation::open(&b, &first)?;
        assert_eq!((initiation.peer, initiation.timestamp), (a.public, Timestamp([4; 12])));
        let (mut second, keys_b) = initiation.respond(&PresharedKey([psk_b; 32]), 8, [5; 32])?;
        second.extend_from_slice(&[0; 32]);
        Ok((waiting.finish(&PresharedKey([psk_a; 32]), &second)?, keys_b))
    }

    #[test]
    fn both_sides_get_the_same_keys() {
        let (a, b) = agreed(0, 0).unwrap();
        assert_eq!((a.send, a.receive, a.remote), (b.receive, b.send, 8));
        assert_eq!(b.remote, 7);
        assert_ne!(a.send, a.receive);
    }

    #[test]
    fn another_preshared_key_agrees_on_nothing() {
        assert_eq!(agreed(1, 2).err(), Some(Refused::Forged));
    }

    #[test]
    fn an_initiation_for_somebody_else_or_changed_anywhere_is_refused() {
        let (a, b) = (identity(1), identity(2));
        let (mut message, _) = initiate(&a, &b.public, 7, [3; 32], Timestamp([4; 12])).unwrap();
        message.extend_from_slice(&[0; 32]);
        assert!(Initiation::open(&identity(3), &message).is_err());
        for place in 8..INITIATION - 32 {
            let mut changed = message.clone();
            changed[place] ^= 1;
            assert!(Initiation::open(&b, &changed).is_err(), "byte {place}");
        }
        assert!(Initiation::open(&b, &message[..147]).is_err());
    }

    #[test]
    fn keys_that_everybody_can_compute_are_refused() {
        let b = identity(2);
        let mut message = vec![0; INITIATION];
        message[0] = TYPE_INITIATION;
        assert_eq!(Initiation::open(&b, &message).err(), Some(Refused::Forged));
    }
}

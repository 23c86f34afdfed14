//! The two authenticators of handshake messages, and cookies, which make a sender prove its address while this node
//! has too much to do (white paper, sections 5.3 and 5.4.7).

use std::net::{IpAddr, SocketAddr};

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use super::symmetric::{hash, mac, same};
use super::{COOKIE_REPLY, Refused, TAG, TYPE_COOKIE_REPLY, field, number};
use crate::key::PublicKey;

const LABEL_MAC1: &[u8] = b"mac1----";
const LABEL_COOKIE: &[u8] = b"cookie--";
/// Two authenticators end each handshake message.
const MACS: usize = 32;
/// How long a cookie is used and a secret kept, in milliseconds.
const COOKIE_LIFE: u64 = 120_000;

pub(crate) fn mac1_key(public: &PublicKey) -> [u8; 32] {
    hash(&[LABEL_MAC1, &public.0])
}

fn cookie_key(public: &PublicKey) -> [u8; 32] {
    hash(&[LABEL_COOKIE, &public.0])
}

/// Whether the sender of a handshake message knew our public key.
pub(crate) fn knows_us(mac1_key: &[u8; 32], message: &[u8]) -> bool {
    let Some(body) = message.len().checked_sub(MACS) else { return false };
    field::<16>(message, body).is_ok_and(|given| same(&given, &mac(mac1_key, &message[..body])))
}

/// What is remembered about a peer to authenticate messages to it.
#[derive(Default)]
pub(crate) struct Stamps {
    /// Cookie the peer gave us, and when.
    cookie: Option<([u8; 16], u64)>,
    /// First authenticator of our last message; a cookie reply must refer to it.
    last_mac1: Option<[u8; 16]>,
}

impl Stamps {
    /// Adds both authenticators to a message.
    pub(crate) fn stamp(&mut self, now: u64, peer: &PublicKey, message: &mut Vec<u8>) {
        let first = mac(&mac1_key(peer), message);
        message.extend_from_slice(&first);
        self.last_mac1 = Some(first);
        let fresh = self.cookie.filter(|(_, since)| now.saturating_sub(*since) < COOKIE_LIFE);
        let second = fresh.map_or([0; 16], |(cookie, _)| mac(&cookie, message));
        message.extend_from_slice(&second);
    }

    /// Takes the cookie of a reply, for the messages that follow.
    pub(crate) fn take_reply(&mut self, now: u64, peer: &PublicKey, reply: &[u8]) -> Result<(), Refused> {
        if reply.len() != COOKIE_REPLY {
            return Err(Refused::Malformed);
        }
        let nonce: [u8; 24] = field(reply, 8)?;
        let mut sealed = field::<{ 16 + TAG }>(reply, 32)?.to_vec();
        let last = self.last_mac1.ok_or(Refused::Forged)?;
        let cipher = XChaCha20Poly1305::new(&cookie_key(peer).into());
        let opened = cipher.decrypt_in_place(&XNonce::from(nonce), &last, &mut sealed);
        opened.map_err(|_| Refused::Forged)?;
        self.cookie = Some((field(&sealed, 0)?, now));
        Ok(())
    }
}

/// Gives out cookies and recognises them. Nothing is kept per sender.
pub(crate) struct Cookies {
    secret: [u8; 32],
    since: u64,
}

impl Cookies {
    /// `random`: 32 fresh random bytes.
    pub(crate) fn new(now: u64, random: [u8; 32]) -> Self {
        Self { secret: random, since: now }
    }

    /// Changes the secret when it is old; `random` gives fresh bytes.
    pub(crate) fn renew(&mut self, now: u64, random: impl FnOnce() -> [u8; 32]) {
        if now.saturating_sub(self.since) >= COOKIE_LIFE {
            *self = Self::new(now, random());
        }
    }

    /// The cookie of an address.
    pub(crate) fn cookie_for(&self, from: SocketAddr) -> [u8; 16] {
        let mut address = match from.ip() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        address.extend_from_slice(&from.port().to_be_bytes());
        mac(&self.secret, &address)
    }

    /// Whether the message carries the cookie of its sender's address.
    pub(crate) fn has_cookie(&self, from: SocketAddr, message: &[u8]) -> bool {
        let Some(body) = message.len().checked_sub(16) else { return false };
        let expected = mac(&self.cookie_for(from), &message[..body]);
        field::<16>(message, body).is_ok_and(|given| same(&given, &expected))
    }

    /// Writes the reply to a message without cookie; `nonce`: 24 fresh random bytes.
    pub(crate) fn reply(
        &self,
        own: &PublicKey,
        from: SocketAddr,
        message: &[u8],
        nonce: [u8; 24],
    ) -> Result<Vec<u8>, Refused> {
        let body = message.len().checked_sub(MACS).ok_or(Refused::Malformed)?;
        let mac1: [u8; 16] = field(message, body)?;
        let mut sealed = self.cookie_for(from).to_vec();
        let cipher = XChaCha20Poly1305::new(&cookie_key(own).into());
        cipher.encrypt_in_place(&XNonce::from(nonce), &mac1, &mut sealed).map_err(|_| Refused::Malformed)?;
        let mut reply = vec![TYPE_COOKIE_REPLY, 0, 0, 0];
        reply.extend_from_slice(&number(message, 4)?.to_le_bytes());
        reply.extend_from_slice(&nonce);
        reply.extend_from_slice(&sealed);
        Ok(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::PrivateKey;

    #[test]
    fn a_cookie_is_good_for_its_address_only() {
        let own = PrivateKey::from_bytes([1; 32]).public();
        let cookies = Cookies::new(0, [2; 32]);
        let from: SocketAddr = "192.0.2.1:7".parse().unwrap();
        let mut stamps = Stamps::default();
        let message = |stamps: &mut Stamps| {
            let mut message = vec![1; 116];
            stamps.stamp(5, &own, &mut message);
            message
        };
        let first = message(&mut stamps);
        assert!(knows_us(&mac1_key(&own), &first));
        assert!(!cookies.has_cookie(from, &first));
        let reply = cookies.reply(&own, from, &first, [3; 24]).unwrap();
        let mut changed = reply.clone();
        changed[40] ^= 1;
        assert_eq!(stamps.take_reply(5, &own, &changed), Err(Refused::Forged));
        stamps.take_reply(5, &own, &reply).unwrap();
        let second = message(&mut stamps);
        assert!(cookies.has_cookie(from, &second));
        assert!(!cookies.has_cookie("192.0.2.1:8".parse().unwrap(), &second));
        assert!(!cookies.has_cookie("[2001:db8::1]:7".parse().unwrap(), &second));
    }

    #[test]
    fn a_secret_is_changed_every_two_minutes() {
        let mut cookies = Cookies::new(0, [2; 32]);
        cookies.renew(COOKIE_LIFE - 1, || [9; 32]);
        assert_eq!(cookies.secret, [2; 32]);
        cookies.renew(COOKIE_LIFE, || [9; 32]);
        assert_eq!(cookies.secret, [9; 32]);
    }
}

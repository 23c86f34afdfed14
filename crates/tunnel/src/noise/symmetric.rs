//! Hash, key derivation and encryption of the handshake.

use blake2::digest::{Digest, FixedOutput, KeyInit, Update, consts::U16};
use blake2::{Blake2s256, Blake2sMac};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use super::{Refused, TAG};

pub(super) fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut state = Blake2s256::new();
    for part in parts {
        Update::update(&mut state, part);
    }
    state.finalize_fixed().into()
}

/// Keyed hash of 16 bytes.
pub(crate) fn mac(key: &[u8], message: &[u8]) -> [u8; 16] {
    let Ok(mut state) = <Blake2sMac<U16> as KeyInit>::new_from_slice(key) else {
        // Keys here have 16 or 32 bytes and BLAKE2s takes up to 32; an all-zero authenticator matches nothing.
        return [0; 16];
    };
    state.update(message);
    state.finalize_fixed().into()
}

/// HMAC (RFC 2104) over BLAKE2s, whose block is 64 bytes.
fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let pad = |with: u8| {
        let mut block = [with; 64];
        block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
        block
    };
    let mut inner = Blake2s256::new();
    Update::update(&mut inner, &pad(0x36));
    for part in parts {
        Update::update(&mut inner, part);
    }
    let inner: [u8; 32] = inner.finalize_fixed().into();
    hash(&[&pad(0x5c), &inner])
}

pub(super) fn kdf1(key: &[u8; 32], input: &[u8]) -> [u8; 32] {
    hmac(&hmac(key, &[input]), &[&[1]])
}

pub(super) fn kdf2(key: &[u8; 32], input: &[u8]) -> ([u8; 32], [u8; 32]) {
    let (first, second, _) = kdf3(key, input);
    (first, second)
}

pub(super) fn kdf3(key: &[u8; 32], input: &[u8]) -> ([u8; 32], [u8; 32], [u8; 32]) {
    let secret = hmac(key, &[input]);
    let first = hmac(&secret, &[&[1]]);
    let second = hmac(&secret, &[&first, &[2]]);
    let third = hmac(&secret, &[&second, &[3]]);
    (first, second, third)
}

/// The cipher with a key; WireGuard's nonce is four zero bytes and a counter.
#[expect(clippy::expect_used, reason = "the only error is a key of another length than 32")]
pub(crate) fn cipher(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).expect("invariant: 32 bytes"))
}

/// The nonce of a counter.
pub(crate) fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Encrypts one field of a handshake message; every key is used once, so the counter is zero.
pub(super) fn seal(key: &[u8; 32], plain: &[u8], hashed: &[u8; 32]) -> Vec<u8> {
    let mut sealed = plain.to_vec();
    #[expect(clippy::expect_used, reason = "the only error is a text of more than 256 GB")]
    cipher(key)
        .seal_in_place_append_tag(nonce(0), Aad::from(hashed), &mut sealed)
        .expect("invariant: short text");
    sealed
}

/// Decrypts one field of a handshake message.
pub(super) fn open<const N: usize>(
    key: &[u8; 32],
    sealed: &[u8],
    hashed: &[u8; 32],
) -> Result<[u8; N], Refused> {
    debug_assert_eq!(sealed.len(), N + TAG);
    let mut bytes = sealed.to_vec();
    let plain = cipher(key).open_in_place(nonce(0), Aad::from(hashed), &mut bytes);
    plain.ok().and_then(|plain| (&*plain).try_into().ok()).ok_or(Refused::Forged)
}

/// Compares without telling by its time where the difference is.
pub(crate) fn same(left: &[u8; 16], right: &[u8; 16]) -> bool {
    left.iter().zip(right).fold(0, |difference, (l, r)| difference | (l ^ r)) == 0
}

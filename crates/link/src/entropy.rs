//! Randomness from the operating system, for serial numbers and ids nobody may guess.

use rand::rngs::OsRng;
use rand::{CryptoRng, Rng, TryRngCore};

/// Returns the generator of the operating system. It panics if the kernel has none, which no supported kernel lacks.
pub(crate) fn os_rng() -> impl Rng + CryptoRng {
    OsRng.unwrap_err()
}

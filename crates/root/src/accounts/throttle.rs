//! Slows down guessing: wrong passwords are counted per client address and name, right ones are not.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Wrong passwords in a row before a client has to wait.
const BURST: u32 = 10;
/// After that one more per this time.
const REFILL: Duration = Duration::from_secs(6);
/// Pairs of address and name that are kept; an attacker who fills this up only forgets older ones.
const MAX_PAIRS: usize = 4096;
/// Longest part of a name that is told apart.
const MAX_NAME_BYTES: usize = 256;

/// The client has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Throttled {
    /// How long.
    pub(crate) wait: Duration,
}

/// Counts wrong passwords.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    /// When the last wrong password of a pair will be forgiven.
    forgiven: Mutex<HashMap<(IpAddr, Box<str>), Instant>>,
}

impl Throttle {
    /// Whether another attempt is allowed now.
    pub(crate) fn check(&self, address: IpAddr, name: &str, now: Instant) -> Result<(), Throttled> {
        let forgiven = self.forgiven.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(at) = forgiven.get(&key(address, name)) else { return Ok(()) };
        let excess = at.saturating_duration_since(now).saturating_sub(REFILL * (BURST - 1));
        if excess.is_zero() { Ok(()) } else { Err(Throttled { wait: excess }) }
    }

    /// A wrong password was given.
    pub(crate) fn failed(&self, address: IpAddr, name: &str, now: Instant) {
        let mut forgiven = self.forgiven.lock().unwrap_or_else(PoisonError::into_inner);
        if forgiven.len() >= MAX_PAIRS {
            forgiven.retain(|_, at| *at > now);
        }
        if forgiven.len() >= MAX_PAIRS
            && let Some(oldest) = forgiven.iter().min_by_key(|(_, at)| **at).map(|(key, _)| key.clone())
        {
            forgiven.remove(&oldest);
        }
        let at = forgiven.entry(key(address, name)).or_insert(now);
        *at = (*at).max(now) + REFILL;
    }
}

/// One subscriber usually has a whole /64 of IPv6.
fn key(address: IpAddr, name: &str) -> (IpAddr, Box<str>) {
    let address = match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6([a, b, c, d, 0, 0, 0, 0].into())
        }
        v4 @ IpAddr::V4(_) => v4,
    };
    let end = (0..=name.len().min(MAX_NAME_BYTES)).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
    (address, name.get(..end).unwrap_or_default().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_wrong_passwords_then_one_every_six_seconds() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let [here, there]: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        for _ in 0..10 {
            assert_eq!(throttle.check(here, "bob", now), Ok(()));
            throttle.failed(here, "bob", now);
        }
        assert_eq!(throttle.check(here, "bob", now), Err(Throttled { wait: REFILL }));
        assert_eq!(throttle.check(here, "eve", now), Ok(()));
        assert_eq!(throttle.check(there, "bob", now), Ok(()));
        let later = now + REFILL;
        assert_eq!(throttle.check(here, "bob", later), Ok(()));
        throttle.failed(here, "bob", later);
        assert!(throttle.check(here, "bob", later).is_err());
        assert_eq!(throttle.check(here, "bob", later + REFILL * 10), Ok(()));
    }

    #[test]
    fn a_subscriber_with_many_addresses_is_one_and_the_table_is_bounded() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for host in 0..20_u16 {
            let address = IpAddr::V6([0x2001, 0xdb8, 0, 1, 0, 0, 0, host].into());
            throttle.failed(address, "bob", now);
        }
        assert!(throttle.check("2001:db8:0:1::ffff".parse().unwrap(), "bob", now).is_err());
        for number in 0..5000 {
            throttle.failed(IpAddr::V4(number.into()), "bob", now);
        }
        assert!(throttle.forgiven.lock().unwrap().len() <= MAX_PAIRS);
    }
}

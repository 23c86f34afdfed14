//! Places for connections without a verified client certificate: limited in all and for each address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Who has to share: an address, or a network of IPv6 as one subscriber usually has it.
fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// All places of a port.
pub(crate) struct Places {
    free: Arc<Semaphore>,
    per_address: usize,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One taken place; given back when dropped.
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
    address: IpAddr,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Places {
    pub(crate) fn new(total: usize, per_address: usize) -> Self {
        let free = Arc::new(Semaphore::new(total.clamp(1, Semaphore::MAX_PERMITS)));
        Self { free, per_address: per_address.max(1), taken: Arc::default() }
    }

    /// Waits for a free place; `None` never happens while `self` lives.
    pub(crate) async fn free(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).acquire_owned().await.ok()
    }

    /// Takes a free place for `address`, unless it holds its share already.
    pub(crate) fn take(&self, permit: OwnedSemaphorePermit, address: IpAddr) -> Option<Place> {
        let address = subscriber(address);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(address).or_default();
        if *count >= self.per_address {
            return None;
        }
        *count += 1;
        drop(taken);
        Some(Place { _permit: permit, address, taken: Arc::clone(&self.taken) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_network_of_ipv6_is_one_subscriber() {
        let places = Places::new(8, 1);
        let take = async |text: &str| places.take(places.free().await.unwrap(), text.parse().unwrap());
        let first = take("2001:db8:0:1::1").await;
        assert!(first.is_some() && take("2001:db8:0:1:ffff::2").await.is_none());
        assert!(take("2001:db8:0:2::1").await.is_some());
        let mapped = take("::ffff:192.0.2.1").await;
        assert!(mapped.is_some() && take("192.0.2.1").await.is_none() && take("192.0.2.2").await.is_some());
    }

    #[tokio::test]
    async fn one_address_cannot_take_all_places() {
        let places = Places::new(4, 2);
        let (greedy, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let take = async |address| places.take(places.free().await.unwrap(), address);
        let first = take(greedy).await;
        let second = take(greedy).await;
        assert!(first.is_some() && second.is_some());
        assert!(take(greedy).await.is_none());
        assert!(take(other).await.is_some());
        drop(first);
        assert!(take(greedy).await.is_some());
        drop(second);
        assert!(places.taken.lock().unwrap().is_empty());
    }
}

//! The relay of this cluster: started when two nodes have to do with each other for the first time, and told of every
//! such pair.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oak_model::WorkerId;
use oak_store::StoreError;
use oak_tunnel::{PrivateKey, PublicKey, RelayKeys, RelayLimits, RelayServer};
use tokio::sync::Notify;
use tracing::{error, info, warn};

/// Between two times the relay is told of changes: many come at once when workers connect.
const GAP: Duration = Duration::from_millis(100);
/// After this it is tried again to take the port.
const RETRY: Duration = Duration::from_secs(5);

type Pair = (PublicKey, PublicKey);

/// Who has to do with whom, by the workers of this cluster.
#[derive(Clone, Default)]
pub(crate) struct Introductions {
    pairs: Arc<Mutex<BTreeMap<WorkerId, BTreeSet<Pair>>>>,
    changed: Arc<Notify>,
}

impl Introductions {
    /// The nodes a worker has to do with, all of them.
    pub(crate) fn set(&self, worker: WorkerId, keys: &[String], peers: &[String]) {
        let parsed =
            |keys: &[String]| -> Vec<PublicKey> { keys.iter().filter_map(|key| key.parse().ok()).collect() };
        let others = parsed(peers);
        let pairs: BTreeSet<Pair> =
            parsed(keys).iter().flat_map(|own| others.iter().map(|other| (*own, *other))).collect();
        let mut all = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        let former = if pairs.is_empty() { all.remove(&worker) } else { all.insert(worker, pairs.clone()) };
        if former.unwrap_or_default() != pairs {
            self.changed.notify_one();
        }
    }

    fn all(&self) -> Vec<Pair> {
        let all = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().flatten().copied().collect()
    }
}

/// What the relay needs.
pub(crate) struct Relay {
    listen: SocketAddr,
    keys: RelayKeys,
    server: Option<RelayServer>,
    /// What was said already.
    said: Option<String>,
}

impl Relay {
    pub(crate) fn new(listen: SocketAddr, key: PrivateKey) -> Self {
        Self { listen, keys: RelayKeys::new(key), server: None, said: None }
    }

    /// Keeps the relay in step, for ever.
    pub(crate) async fn follow(self, introductions: Introductions) -> Result<(), StoreError> {
        let mut relay = self;
        loop {
            introductions.changed.notified().await;
            loop {
                let pairs = introductions.all();
                let told = tokio::task::spawn_blocking(move || {
                    let is_told = relay.tell(pairs);
                    (relay, is_told)
                });
                // It does not panic; if it did, the cluster would go on without its relay.
                let Ok((back, is_told)) = told.await else { return std::future::pending().await };
                relay = back;
                tokio::time::sleep(if is_told { GAP } else { RETRY }).await;
                if is_told {
                    break;
                }
            }
        }
    }

    /// Tells the relay of these pairs; false if it does not run and should.
    fn tell(&mut self, pairs: Vec<Pair>) -> bool {
        if pairs.is_empty() && self.server.is_none() {
            return true;
        }
        let (members, left_out) = self.keys.members(pairs);
        if left_out > 0 {
            warn!(
                left_out,
                "the relay does not know all pairs of workers: there are too many, or their keys are damaged"
            );
        }
        let server = match self.server() {
            Ok(server) => server,
            Err(problem) => {
                let problem = problem.to_string();
                if self.said.as_ref() != Some(&problem) {
                    error!(address = %self.listen, problem, "there is no relay: cannot listen (cluster.relay)");
                    self.said = Some(problem);
                }
                return false;
            }
        };
        if let Err(problem) = server.set(&members) {
            error!(%problem, "the relay was not told of all workers");
        }
        true
    }

    fn server(&mut self) -> std::io::Result<&RelayServer> {
        let server = match self.server.take() {
            Some(server) => server,
            None => {
                let server = RelayServer::start(self.listen, RelayLimits::default())?;
                info!(address = %server.address(), "relay for workers that do not reach each other");
                server
            }
        };
        self.said = None;
        Ok(self.server.insert(server))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> String {
        PrivateKey::from_bytes([byte; 32]).public().to_string()
    }

    #[test]
    fn damaged_keys_and_workers_without_one_are_left_out() {
        let introductions = Introductions::default();
        let worker = |number| WorkerId::from_parts(1, number);
        introductions.set(worker(1), &[key(1)], &[key(2), "?".to_owned()]);
        introductions.set(worker(2), &[], &[key(1)]);
        assert_eq!(introductions.all().len(), 1);
        introductions.set(worker(1), &[key(1), key(3)], &[key(2)]);
        assert_eq!(introductions.all().len(), 2, "by its former key, too");
        introductions.set(worker(1), &[key(1)], &[]);
        assert!(introductions.all().is_empty());
    }

    #[test]
    fn the_relay_starts_with_the_first_pair() {
        let mut relay = Relay::new(([127, 0, 0, 1], 0).into(), PrivateKey::from_bytes([9; 32]));
        assert!(relay.tell(Vec::new()) && relay.server.is_none());
        let pair = (key(1).parse().unwrap(), key(2).parse().unwrap());
        assert!(relay.tell(vec![pair]) && relay.server.is_some());
        let taken = relay.server.as_ref().unwrap().address();
        let mut other = Relay::new(taken, PrivateKey::from_bytes([8; 32]));
        assert!(!other.tell(vec![pair]), "its port is taken");
    }
}

//! What the name server does at most.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Bounds of a name server.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Queries that wait for somebody else at a time; further ones are answered SERVFAIL. Each may hold a socket.
    pub waiting: usize,
    /// The same per source address.
    pub waiting_per_source: usize,
    /// Connections at a time; further ones are closed.
    pub connections: usize,
    /// The same per source address.
    pub connections_per_source: usize,
    /// A connection without a query for this long is closed.
    pub idle: Duration,
    /// Largest query, bytes. A query is a name, a type and options.
    pub query_bytes: u16,
    /// Largest UDP answer, bytes, whatever the asker allows: fits every link without fragments.
    pub udp_answer_bytes: u16,
    /// Time for one resolver of the host to answer.
    pub upstream_timeout: Duration,
    /// Time for all resolvers of the host together.
    pub upstream_total: Duration,
    /// Answers kept, per cache.
    pub cache_entries: usize,
    /// Larger answers are not kept, bytes.
    pub cache_answer_bytes: usize,
    /// Longest time an answer is kept, whatever it says.
    pub cache_for: Duration,
    /// Longest time it is kept that there is no such name.
    pub cache_negative_for: Duration,
    /// Questions to a [`Lookup`](crate::Lookup) at a time; further ones wait.
    pub lookups: usize,
    /// Time for a lookup to answer.
    pub lookup_timeout: Duration,
    /// How long the answer of a lookup is kept.
    pub lookup_known_for: Duration,
    /// How long it is kept that a lookup knew nothing.
    pub lookup_unknown_for: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            waiting: 256,
            waiting_per_source: 64,
            connections: 128,
            connections_per_source: 16,
            idle: Duration::from_secs(10),
            query_bytes: 4096,
            udp_answer_bytes: 1232,
            upstream_timeout: Duration::from_millis(1500),
            upstream_total: Duration::from_secs(5),
            cache_entries: 1024,
            cache_answer_bytes: 4096,
            cache_for: Duration::from_secs(300),
            cache_negative_for: Duration::from_secs(30),
            lookups: 32,
            lookup_timeout: Duration::from_millis(1_200),
            lookup_known_for: Duration::from_secs(1),
            lookup_unknown_for: Duration::from_secs(2),
        }
    }
}

/// Counts what is under way, in total and per source.
#[derive(Debug)]
pub(crate) struct Turns {
    total: usize,
    per_source: usize,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

/// Something under way; its place is free when this is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Arc<Turns>,
    source: IpAddr,
}

impl Turns {
    pub(crate) fn new(total: usize, per_source: usize) -> Arc<Self> {
        Arc::new(Self { total, per_source, taken: Mutex::new(HashMap::new()) })
    }

    /// A place, if there is one.
    pub(crate) fn take(self: &Arc<Self>, source: IpAddr) -> Option<Turn> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.values().sum();
        let of_source = taken.get(&source).copied().unwrap_or(0);
        if all >= self.total || of_source >= self.per_source {
            return None;
        }
        taken.insert(source, of_source.saturating_add(1));
        Some(Turn { turns: Arc::clone(self), source })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut taken = self.turns.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.source) {
            Some(count) if *count > 1 => *count -= 1,
            // No source is remembered for nothing.
            _ => {
                taken.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn one_source_cannot_take_all_places() {
        let source = |last| IpAddr::V4(Ipv4Addr::new(10, 18, 0, last));
        let turns = Turns::new(3, 2);
        let first = [turns.take(source(2)), turns.take(source(2)), turns.take(source(2))];
        assert_eq!(first.iter().flatten().count(), 2);
        let second = [turns.take(source(3)), turns.take(source(3))];
        assert_eq!(second.iter().flatten().count(), 1);
        drop((first, second));
        assert!(turns.taken.lock().unwrap().is_empty());
        assert!(turns.take(source(2)).is_some());
    }
}

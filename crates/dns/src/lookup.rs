//! Names below `.oak` that this node does not know: who else may be asked, how long, and how often.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::entry::ServiceEntry;
use crate::limits::Limits;

/// What this node does not know.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// A service by its name in lower case without the top, `service.ns.application.ns`. The spelling of the service
    /// may differ in case.
    Service(String),
    /// The service or instance that has this address.
    Address(IpAddr),
}

/// Somebody who may know more than this node.
pub trait Lookup: Send + Sync + 'static {
    /// The service with everything known of it; `None` if there is none. May be dropped at any point. Called for a
    /// limited number of questions at a time, and not again for one whose answer is fresh.
    fn find<'a>(&'a self, question: &'a Question, asker: IpAddr) -> BoxFuture<'a, Option<ServiceEntry>>;
}

/// Knows nothing: every name that the node does not know does not exist.
#[derive(Clone, Copy, Debug)]
pub struct Nobody;

impl Lookup for Nobody {
    fn find<'a>(&'a self, _: &'a Question, _: IpAddr) -> BoxFuture<'a, Option<ServiceEntry>> {
        Box::pin(std::future::ready(None))
    }
}

/// Questions are remembered per asker: two askers may see different services under one name.
type Key = (Question, IpAddr);

/// A [`Lookup`] with bounds and a memory.
pub(crate) struct BoundedLookup {
    lookup: Arc<dyn Lookup>,
    turns: Semaphore,
    timeout: Duration,
    known_for: Duration,
    unknown_for: Duration,
    capacity: usize,
    memory: Mutex<HashMap<Key, (Instant, Option<ServiceEntry>)>>,
}

impl BoundedLookup {
    pub(crate) fn new(lookup: Arc<dyn Lookup>, limits: &Limits) -> Self {
        Self {
            lookup,
            turns: Semaphore::new(limits.lookups),
            timeout: limits.lookup_timeout,
            known_for: limits.lookup_known_for,
            unknown_for: limits.lookup_unknown_for,
            capacity: limits.cache_entries,
            memory: Mutex::new(HashMap::new()),
        }
    }

    /// The service, if somebody knows it in time. Who does not answer in time does not know it: a resolver inside an
    /// instance must get on to the next name of its search list while the cluster is away.
    pub(crate) async fn find(&self, question: &Question, asker: IpAddr) -> Option<ServiceEntry> {
        let key = (question.clone(), asker);
        if let Some(known) = self.recall(&key) {
            return known;
        }
        let ask = async {
            let _turn = self.turns.acquire().await.ok()?;
            self.lookup.find(question, asker).await
        };
        let found = tokio::time::timeout(self.timeout, ask).await.ok().flatten();
        self.remember(key, found.clone());
        found
    }

    fn recall(&self, key: &Key) -> Option<Option<ServiceEntry>> {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let (until, found) = memory.get(key)?;
        (*until > Instant::now()).then(|| found.clone())
    }

    fn remember(&self, key: Key, found: Option<ServiceEntry>) {
        let now = Instant::now();
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if memory.len() >= self.capacity {
            memory.retain(|_, (until, _)| *until > now);
        }
        // Full of fresh answers, all of which are old in a moment: then nothing more is remembered.
        if memory.len() < self.capacity {
            let known_for = if found.is_some() { self.known_for } else { self.unknown_for };
            memory.insert(key, (now + known_for, found));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Counts questions, answers none, or never.
    struct Counting {
        asked: AtomicUsize,
        hangs: bool,
    }

    impl Lookup for Counting {
        fn find<'a>(&'a self, _: &'a Question, _: IpAddr) -> BoxFuture<'a, Option<ServiceEntry>> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let hangs = self.hangs;
            Box::pin(async move { if hangs { std::future::pending().await } else { None } })
        }
    }

    const ASKER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 18, 0, 2));

    fn question(number: usize) -> Question {
        Question::Service(format!("s{number}.a.b.c"))
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_knows_is_asked_once_in_a_while() {
        let counting = Arc::new(Counting { asked: AtomicUsize::new(0), hangs: false });
        let lookup = BoundedLookup::new(Arc::clone(&counting) as Arc<dyn Lookup>, &Limits::default());
        for _ in 0..10 {
            assert_eq!(lookup.find(&question(0), ASKER).await, None);
        }
        assert_eq!(counting.asked.load(Ordering::Relaxed), 1);
        tokio::time::advance(Limits::default().lookup_unknown_for).await;
        lookup.find(&question(0), ASKER).await;
        assert_eq!(counting.asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_never_answers_does_not_know_and_memory_is_bounded() {
        let counting = Arc::new(Counting { asked: AtomicUsize::new(0), hangs: true });
        let limits = Limits { cache_entries: 3, ..Limits::default() };
        let lookup = BoundedLookup::new(counting, &limits);
        for number in 0..20 {
            assert_eq!(lookup.find(&question(number), ASKER).await, None);
        }
        assert!(lookup.memory.lock().unwrap().len() <= 3);
    }
}

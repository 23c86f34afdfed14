//! Answers of the host's resolvers, kept as long as they allow and no longer than we do. Pure: time is passed in.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::time::Instant;

use crate::limits::Limits;

/// What makes two queries the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct CacheKey {
    name: Name,
    kind: RecordType,
    dnssec_ok: bool,
    checking_disabled: bool,
    recursion_desired: bool,
}

impl CacheKey {
    pub(crate) fn of(query: &Message) -> Option<Self> {
        let question = query.queries.first()?;
        Some(Self {
            name: question.name.to_lowercase(),
            kind: question.query_type,
            dnssec_ok: query.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok),
            checking_disabled: query.metadata.checking_disabled,
            recursion_desired: query.metadata.recursion_desired,
        })
    }
}

#[derive(Debug)]
struct Kept {
    answer: Message,
    since: Instant,
    until: Instant,
}

/// A bounded number of answers; when it is full, the one that ends first makes room.
#[derive(Debug)]
pub(crate) struct Cache {
    capacity: usize,
    longest: Duration,
    longest_negative: Duration,
    kept: HashMap<CacheKey, Kept>,
    ends: BTreeSet<(Instant, CacheKey)>,
}

impl Cache {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            capacity: limits.cache_entries,
            longest: limits.cache_for,
            longest_negative: limits.cache_negative_for,
            kept: HashMap::new(),
            ends: BTreeSet::new(),
        }
    }

    /// The kept answer, its records as much older as they are by now.
    pub(crate) fn get(&self, key: &CacheKey, now: Instant) -> Option<Message> {
        let kept = self.kept.get(key).filter(|kept| kept.until > now)?;
        let mut answer = kept.answer.clone();
        let age = u32::try_from(now.duration_since(kept.since).as_secs()).unwrap_or(u32::MAX);
        let sections = [&mut answer.answers, &mut answer.authorities, &mut answer.additionals];
        for record in sections.into_iter().flatten() {
            record.decrement_ttl(age);
        }
        Some(answer)
    }

    /// Keeps an answer, if it may be kept at all.
    pub(crate) fn put(&mut self, key: CacheKey, answer: &Message, now: Instant) {
        let Some(lasts) = self.lifetime(answer).filter(|lasts| !lasts.is_zero()) else { return };
        self.remove(&key);
        while self.kept.len() >= self.capacity {
            let Some((_, first)) = self.ends.first().cloned() else { return };
            self.remove(&first);
        }
        let until = now + lasts;
        self.ends.insert((until, key.clone()));
        self.kept.insert(key, Kept { answer: answer.clone(), since: now, until });
    }

    /// Forgets everything: other resolvers may say other things.
    pub(crate) fn clear(&mut self) {
        self.kept.clear();
        self.ends.clear();
    }

    fn remove(&mut self, key: &CacheKey) {
        if let Some(kept) = self.kept.remove(key) {
            self.ends.remove(&(kept.until, key.clone()));
        }
    }

    fn lifetime(&self, answer: &Message) -> Option<Duration> {
        let is_final =
            matches!(answer.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain);
        if answer.metadata.truncation || !is_final {
            return None;
        }
        let smallest = answer.answers.iter().chain(&answer.authorities).map(|record| record.ttl).min();
        if answer.metadata.response_code == ResponseCode::NoError && !answer.answers.is_empty() {
            return Some(Duration::from_secs(smallest?.into()).min(self.longest));
        }
        // RFC 2308: without a start of authority nobody says how long.
        let minimum = answer.authorities.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some(soa.minimum.min(record.ttl)),
            _ => None,
        })?;
        let ttl = minimum.min(smallest.unwrap_or(minimum));
        Some(Duration::from_secs(ttl.into()).min(self.longest_negative))
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::Record;
    use hickory_proto::rr::rdata::{A, SOA};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn query(text: &str) -> Message {
        let mut query = Message::query();
        query.add_query(hickory_proto::op::Query::query(name(text), RecordType::A));
        query
    }

    fn answer(text: &str, ttl: u32) -> Message {
        let mut answer = query(text).into_response();
        let data = RData::A(A::new(192, 0, 2, 1));
        answer.add_answer(Record::from_rdata(name(text), ttl, data));
        answer
    }

    fn cache(capacity: usize) -> Cache {
        Cache::new(&Limits { cache_entries: capacity, ..Limits::default() })
    }

    #[test]
    fn an_answer_ages_and_ends_when_it_says() {
        let (mut cache, start) = (cache(8), Instant::now());
        let key = CacheKey::of(&query("Example.com.")).unwrap();
        cache.put(key, &answer("example.com.", 20), start);
        let same = CacheKey::of(&query("example.COM.")).unwrap();
        let later = cache.get(&same, start + Duration::from_secs(5)).unwrap();
        assert_eq!(later.answers[0].ttl, 15);
        assert!(cache.get(&same, start + Duration::from_secs(20)).is_none());
    }

    #[test]
    fn the_one_that_ends_first_makes_room() {
        let (mut cache, start) = (cache(2), Instant::now());
        for (text, ttl) in [("a.", 100), ("b.", 10), ("c.", 50)] {
            cache.put(CacheKey::of(&query(text)).unwrap(), &answer(text, ttl), start);
        }
        let has = |text: &str| cache.get(&CacheKey::of(&query(text)).unwrap(), start).is_some();
        assert!(has("a.") && !has("b.") && has("c."));
        assert_eq!(cache.ends.len(), 2);
    }

    #[test]
    fn failures_and_negative_answers_without_a_lifetime_are_not_kept() {
        let (mut cache, start) = (cache(8), Instant::now());
        let key = CacheKey::of(&query("a.")).unwrap();
        let mut refused = answer("a.", 60);
        refused.metadata.response_code = ResponseCode::ServFail;
        cache.put(key.clone(), &refused, start);
        let mut nothing = query("a.").into_response();
        nothing.metadata.response_code = ResponseCode::NXDomain;
        cache.put(key.clone(), &nothing, start);
        assert!(cache.get(&key, start).is_none());
        let soa = SOA::new(name("ns."), name("h."), 1, 1, 1, 1, 7);
        nothing.add_authority(Record::from_rdata(name("."), 3600, RData::SOA(soa)));
        cache.put(key.clone(), &nothing, start);
        assert!(cache.get(&key, start + Duration::from_secs(6)).is_some());
        assert!(cache.get(&key, start + Duration::from_secs(7)).is_none());
    }
}

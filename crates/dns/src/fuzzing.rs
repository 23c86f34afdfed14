//! Entries for the fuzzer (`fuzz/`): each takes any bytes and must neither panic nor break what it asserts. Its corpus is
//! replayed by the tests of this crate.
#![allow(clippy::expect_used, reason = "what cannot be is a panic, and the fuzzer looks for those")]

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use oak_model::{ApplicationId, Balancing, JobName, Protocol};
use tokio::time::Instant;

use crate::answer::{self, Incoming, Reply};
use crate::cache::{Cache, CacheKey};
use crate::entry::{InstanceEntry, PolicyAddress, ServiceEntry, ServicePort};
use crate::forward::{fits, for_asker};
use crate::limits::Limits;
use crate::zone::{Zone, ZoneContent};

const ASKER: &str = "10.18.0.2";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn service(name: &str, address: &str, instances: &[(u32, &str)]) -> ServiceEntry {
    let word = |text: &str| text.parse().expect("a name");
    let instance = |(number, address): &(u32, &str)| InstanceEntry {
        number: *number,
        addresses: vec![ip(address)],
        serves: *number != 1,
    };
    ServiceEntry {
        application: ApplicationId::from_parts(1, 0),
        name: JobName {
            application: word("shop"),
            application_namespace: word("prod"),
            service: word(name),
            service_namespace: word("test"),
        },
        addresses: vec![PolicyAddress { policy: Balancing::RoundRobin, address: ip(address) }],
        instances: instances.iter().map(instance).collect(),
        ports: vec![ServicePort { protocol: Protocol::Tcp, port: 8080 }],
        hidden_from: std::collections::BTreeSet::new(),
    }
}

fn zone() -> Zone {
    let many: Vec<(u32, String)> = (0..60).map(|number| (number, format!("10.30.2.{number}"))).collect();
    let many: Vec<(u32, &str)> = many.iter().map(|(number, address)| (*number, address.as_str())).collect();
    Zone::new(ZoneContent {
        serial: 7,
        server: Some(ip("10.18.0.1")),
        services: vec![
            service("web", "10.30.0.1", &[(0, "10.30.1.1"), (1, "10.30.1.2"), (10, "10.30.1.10")]),
            service("many", "10.30.0.2", &many),
        ],
        askers: HashMap::from([(ip(ASKER), ApplicationId::from_parts(1, 0))]),
        ranges: vec!["10.30.0.0/16".parse().expect("a range"), "10.16.0.0/12".parse().expect("a range")],
    })
}

thread_local! {
    static ZONE: Zone = zone();
}

/// A datagram or message of somebody who asks.
pub fn query(data: &[u8]) {
    let query = match answer::read(data) {
        Incoming::Ignore => return,
        Incoming::Refuse(refusal) => {
            let bytes = answer::write(&refusal, 1232).expect("a refusal is short");
            assert!(bytes.get(..2) == data.get(..2), "it is for this question");
            return;
        }
        Incoming::Ask(query) => query,
    };
    let limit = answer::udp_limit(&query, 1232);
    let reply = ZONE.with(|zone| match answer::reply(zone, &query, ip(ASKER)) {
        Reply::Ready(answer) => answer,
        Reply::Unknown(_) => answer::negative(zone, &query, ResponseCode::NXDomain),
        Reply::Foreign => answer::with_code(&query, ResponseCode::ServFail),
    });
    for limit in [limit, usize::from(u16::MAX)] {
        let Some(bytes) = answer::write(&reply, limit) else { continue };
        assert!(bytes.len() <= limit, "no answer is longer than the asker takes");
        let read = Message::from_vec(&bytes).expect("an answer can be read");
        assert!(read.metadata.id == query.metadata.id && read.queries.len() <= 1);
    }
}

/// The length of a query in one byte, the query, and what a resolver answers to it; then both again later.
pub fn answer(data: &[u8]) {
    let Some((length, rest)) = data.split_first() else { return };
    let (query, answer) = rest.split_at(usize::from(*length).min(rest.len()));
    let Incoming::Ask(query) = answer::read(query) else { return };
    let Ok(answer) = Message::from_vec(answer) else { return };
    let mut question = *query.clone();
    question.metadata.id = answer.metadata.id;
    if !fits(&answer, &question) {
        return;
    }
    let mut cache = Cache::new(&Limits { cache_entries: 1, ..Limits::default() });
    let start = Instant::now();
    if let Some(key) = CacheKey::of(&query) {
        cache.put(key.clone(), &answer, start);
        for seconds in [0, 1, 4_000_000] {
            let kept = cache.get(&key, start + Duration::from_secs(seconds));
            assert!(kept.is_none() || seconds < 4_000_000, "nothing is kept for ever");
            kept.into_iter().for_each(|kept| passed_on(&query, kept));
        }
    }
    passed_on(&query, answer);
}

/// What the asker gets is an answer to its question.
fn passed_on(query: &Message, answer: Message) {
    let answer = for_asker(query, answer);
    let limit = answer::udp_limit(query, 1232);
    let Some(bytes) = answer::write(&answer, limit) else { return };
    assert!(bytes.len() <= limit);
    let read = Message::from_vec(&bytes).expect("what is passed on can be read");
    assert!(read.metadata.id == query.metadata.id && read.queries == query.queries);
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::replay::replay;

    #[test]
    fn the_corpora_are_survived() {
        replay("dns_query", super::query);
        replay("dns_answer", super::answer);
    }
}

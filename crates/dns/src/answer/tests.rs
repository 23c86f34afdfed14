use hickory_proto::rr::Name;
use proptest::prelude::*;

use super::*;
use crate::zone::tests::{CLIENT, entry, shop, zone_of};

fn query(name: &str, kind: RecordType) -> Message {
    let mut query = Message::query();
    query.metadata.id = 4711;
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    query
}

fn ready(query: &Message) -> Message {
    match reply(&shop(), query, CLIENT) {
        Reply::Ready(answer) => answer,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_answer_has_the_number_the_flags_and_the_spelling_of_its_query() {
    let answer = ready(&query("wEb.TeSt.shop.PROD.oAk.", RecordType::A));
    let again = Message::from_vec(&write(&answer, 512).unwrap()).unwrap();
    assert_eq!((again.metadata.id, again.metadata.response_code), (4711, ResponseCode::NoError));
    assert!(again.metadata.authoritative && again.metadata.recursion_desired);
    assert!(again.metadata.recursion_available && !again.metadata.truncation);
    assert_eq!(again.queries[0].name.to_ascii(), "wEb.TeSt.shop.PROD.oAk.");
    assert_eq!(again.answers[0].name.to_ascii(), "wEb.TeSt.shop.PROD.oAk.");
    assert!(again.edns.is_none(), "who does not know EDNS does not get it");
}

#[test]
fn negative_answers_say_how_long_they_last() {
    for (name, code) in [("nothing.oak.", ResponseCode::NXDomain), ("shop.prod.oak.", ResponseCode::NoError)]
    {
        let answer = ready(&query(name, RecordType::A));
        assert_eq!(answer.metadata.response_code, code, "{name}");
        assert!(answer.answers.is_empty());
        assert_eq!(answer.authorities[0].record_type(), RecordType::SOA);
        assert!((1..=5).contains(&answer.authorities[0].ttl));
    }
}

#[test]
fn what_is_not_for_us_is_refused_with_the_reason() {
    let code_of = |query: &Message| match read(&query.to_vec().unwrap()) {
        Incoming::Refuse(answer) => answer.metadata.response_code,
        other => panic!("{other:?}"),
    };
    let plain = query("web.test.shop.prod.oak.", RecordType::A);
    let mut update = plain.clone();
    update.metadata.op_code = OpCode::Notify;
    assert_eq!(code_of(&update), ResponseCode::NotImp);
    let mut two = plain.clone();
    two.queries.push(two.queries[0].clone());
    assert_eq!(code_of(&two), ResponseCode::FormErr);
    assert_eq!(code_of(&query("oak.", RecordType::AXFR)), ResponseCode::Refused);
    let mut chaos = plain.clone();
    chaos.queries[0].query_class = DNSClass::CH;
    assert_eq!(code_of(&chaos), ResponseCode::Refused);
    let mut newer = plain.clone();
    let mut edns = Edns::new();
    edns.set_version(1);
    newer.edns = Some(edns);
    let Incoming::Refuse(answer) = read(&newer.to_vec().unwrap()) else { panic!("taken") };
    let again = Message::from_vec(&answer.to_vec().unwrap()).unwrap();
    // BADVERS and BADSIG are one number; read back it is the other name.
    assert_eq!(u16::from(again.metadata.response_code), u16::from(ResponseCode::BADVERS));
    assert!(matches!(read(&plain.into_response().to_vec().unwrap()), Incoming::Ignore));
    assert!(matches!(read(b"short"), Incoming::Ignore));
    assert!(matches!(read(&[1, 2, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 7]), Incoming::Refuse(_)));
}

#[test]
fn what_does_not_fit_goes_without_records_and_asks_for_tcp() {
    let addresses: Vec<String> = (0..200).map(|number| format!("10.30.3.{number}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let zone = zone_of(vec![entry("web", &addresses, &[])]);
    let mut query = query("web.test.shop.prod.oak.", RecordType::A);
    query.edns = Some(Edns::new());
    let Reply::Ready(answer) = reply(&zone, &query, CLIENT) else { panic!("not ready") };
    let short = write(&answer, udp_limit(&query, 1232)).unwrap();
    let short = Message::from_vec(&short).unwrap();
    assert!(short.metadata.truncation && short.answers.is_empty() && short.edns.is_some());
    let whole = Message::from_vec(&write(&answer, 65_535).unwrap()).unwrap();
    assert!(!whole.metadata.truncation && whole.answers.len() == 200);
}

/// A datagram that may be anything: random bytes, or a real query with some bytes changed.
fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let real = query("web.test.shop.prod.oak.", RecordType::A).to_vec().unwrap();
    let changed =
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6).prop_map(move |changes| {
            let mut bytes = real.clone();
            for (place, value) in changes {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
            bytes
        });
    prop_oneof![prop::collection::vec(any::<u8>(), 0..600), changed]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Nothing that arrives makes us fail, and no answer is larger than its asker takes.
    #[test]
    fn any_datagram_gets_a_small_answer_or_none(bytes in datagram(), ours in any::<u16>()) {
        let (answer, limit) = match read(&bytes) {
            Incoming::Ignore => return Ok(()),
            Incoming::Refuse(answer) => (answer, 512),
            Incoming::Ask(query) => {
                let limit = udp_limit(&query, ours);
                prop_assert!(limit <= usize::from(ours.max(512)));
                match reply(&shop(), &query, CLIENT) {
                    Reply::Ready(answer) => (answer, limit),
                    Reply::Unknown(_) | Reply::Foreign => (with_code(&query, ResponseCode::ServFail), limit),
                }
            }
        };
        let written = write(&answer, limit);
        prop_assert!(written.as_ref().is_none_or(|written| written.len() <= limit));
        if let Some(written) = written {
            prop_assert_eq!(&written[..2], &bytes[..2], "the number of the query");
            prop_assert!(written[2] & 0x80 != 0, "an answer");
        }
    }
}

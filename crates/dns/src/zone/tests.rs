use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::entry::{PolicyAddress, ServicePort};

pub(crate) const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 18, 0, 2));

pub(crate) fn application(number: u32) -> ApplicationId {
    ApplicationId::from_parts(number, 0)
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// `service.ns` of the application `shop.prod`.
pub(crate) fn entry(service: &str, addresses: &[&str], instances: &[(u32, &str, bool)]) -> ServiceEntry {
    let word = |text: &str| text.parse().unwrap();
    let round_robin = |text: &&str| PolicyAddress { policy: Balancing::RoundRobin, address: ip(text) };
    let instance = |(number, address, serves): &(u32, &str, bool)| InstanceEntry {
        number: *number,
        addresses: vec![ip(address)],
        serves: *serves,
    };
    ServiceEntry {
        application: application(1),
        name: JobName {
            application: word("shop"),
            application_namespace: word("prod"),
            service: word(service),
            service_namespace: word("test"),
        },
        addresses: addresses.iter().map(round_robin).collect(),
        instances: instances.iter().map(instance).collect(),
        ports: vec![ServicePort { protocol: Protocol::Tcp, port: 8080 }],
        hidden_from: BTreeSet::new(),
    }
}

pub(crate) fn zone_of(services: Vec<ServiceEntry>) -> Zone {
    Zone::new(ZoneContent {
        serial: 7,
        server: Some(ip("10.18.0.1")),
        services,
        askers: HashMap::from([(CLIENT, application(1)), (ip("10.18.0.9"), application(2))]),
        ranges: vec!["10.30.0.0/16".parse().unwrap(), "10.16.0.0/12".parse().unwrap()],
    })
}

pub(crate) fn shop() -> Zone {
    let mut web = entry(
        "web",
        &["10.30.0.1", "fdff::1"],
        &[(2, "10.30.1.2", true), (10, "10.30.1.10", false), (0, "10.30.1.1", true)],
    );
    web.addresses.push(PolicyAddress { policy: Balancing::Closest, address: ip("10.30.0.9") });
    zone_of(vec![web, entry("Db", &["10.30.0.2"], &[])])
}

fn find(zone: &Zone, name: &str, kind: RecordType) -> Found {
    zone.find(&Name::from_ascii(name).unwrap(), kind, CLIENT)
}

/// The answers as text; empty if there is nothing of this type.
fn texts(zone: &Zone, name: &str, kind: RecordType) -> Vec<String> {
    match find(zone, name, kind) {
        Found::Records { answers, .. } => answers.iter().map(|record| record.data.to_string()).collect(),
        Found::NoData => Vec::new(),
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn a_service_has_the_address_of_its_first_policy_and_of_each_by_name() {
    let zone = shop();
    assert_eq!(texts(&zone, "web.test.shop.prod.oak.", RecordType::A), ["10.30.0.1"]);
    assert_eq!(texts(&zone, "web.test.shop.prod.oak.", RecordType::AAAA), ["fdff::1"]);
    assert_eq!(texts(&zone, "WEB.Test.shop.PROD.oak.", RecordType::ANY), ["10.30.0.1", "fdff::1"]);
    assert_eq!(texts(&zone, "closest.web.test.shop.prod.oak.", RecordType::A), ["10.30.0.9"]);
    assert_eq!(texts(&zone, "round-robin.web.test.shop.prod.oak.", RecordType::A), ["10.30.0.1"]);
    assert_eq!(texts(&zone, "db.test.shop.prod.oak.", RecordType::A), ["10.30.0.2"]);
    assert!(texts(&zone, "web.test.shop.prod.oak.", RecordType::MX).is_empty());
}

#[test]
fn an_instance_has_a_name_by_its_number() {
    let zone = shop();
    assert_eq!(texts(&zone, "2.web.test.shop.prod.oak.", RecordType::A), ["10.30.1.2"]);
    assert_eq!(texts(&zone, "10.web.test.shop.prod.oak.", RecordType::A), ["10.30.1.10"]);
    assert!(texts(&zone, "2.web.test.shop.prod.oak.", RecordType::AAAA).is_empty());
    for unknown in ["02.web.test.shop.prod.oak.", "3.web.test.shop.prod.oak."] {
        let question = Question::Service("web.test.shop.prod".to_owned());
        assert_eq!(find(&zone, unknown, RecordType::A), Found::Unknown(question), "{unknown}");
    }
}

#[test]
fn ports_lead_to_the_instances_that_serve() {
    let zone = shop();
    let Found::Records { answers, additionals } =
        find(&zone, "_port._tcp.web.test.shop.prod.oak.", RecordType::SRV)
    else {
        panic!("no records")
    };
    let texts: Vec<_> = answers.iter().map(|record| record.data.to_string()).collect();
    let expected = ["0 1 8080 0.web.test.shop.prod.oak.", "0 1 8080 2.web.test.shop.prod.oak."];
    assert_eq!(texts, expected);
    let texts: Vec<_> = additionals.iter().map(|record| record.data.to_string()).collect();
    assert_eq!(texts, ["10.30.1.1", "10.30.1.2"]);
    assert_eq!(self::texts(&zone, "_8080._tcp.web.test.shop.prod.oak.", RecordType::SRV).len(), 2);
    assert!(self::texts(&zone, "_tcp.web.test.shop.prod.oak.", RecordType::SRV).is_empty());
    assert!(self::texts(&zone, "_port._tcp.db.test.shop.prod.oak.", RecordType::SRV).is_empty());
    for other in ["_81._tcp", "_port._udp", "_port._sctp"] {
        let found = find(&zone, &format!("{other}.web.test.shop.prod.oak."), RecordType::SRV);
        assert!(matches!(found, Found::Unknown(_)), "{other}: {found:?}");
    }
}

#[test]
fn addresses_have_names_and_ours_are_never_forwarded() {
    let zone = shop();
    let ptr = |name: &str| texts(&zone, name, RecordType::PTR);
    assert_eq!(ptr("1.0.30.10.in-addr.arpa."), ["web.test.shop.prod.oak."]);
    assert_eq!(ptr("2.1.30.10.in-addr.arpa."), ["2.web.test.shop.prod.oak."]);
    let v6 = format!("1.{}f.f.d.f.ip6.arpa.", "0.".repeat(27));
    assert_eq!(ptr(&v6), ["web.test.shop.prod.oak."]);
    assert!(texts(&zone, "1.0.30.10.in-addr.arpa.", RecordType::A).is_empty());
    assert!(ptr("30.10.in-addr.arpa.").is_empty());
    let unknown = Question::Address(ip("10.30.7.7"));
    assert_eq!(find(&zone, "7.7.30.10.in-addr.arpa.", RecordType::PTR), Found::Unknown(unknown));
    assert_eq!(find(&zone, "1.2.0.192.in-addr.arpa.", RecordType::PTR), Found::Foreign);
    assert_eq!(find(&zone, "10.in-addr.arpa.", RecordType::PTR), Found::Foreign);
}

#[test]
fn the_zone_has_an_authority_and_knows_what_is_between_its_names() {
    let zone = shop();
    assert_eq!(texts(&zone, "oak.", RecordType::NS), ["ns.oak."]);
    assert_eq!(texts(&zone, "ns.oak.", RecordType::A), ["10.18.0.1"]);
    assert_eq!(texts(&zone, "OAK.", RecordType::SOA), ["ns.oak. hostmaster.oak. 7 1 1 60 1"]);
    for between in ["prod.oak.", "shop.prod.oak.", "test.shop.prod.oak."] {
        assert_eq!(find(&zone, between, RecordType::A), Found::NoData, "{between}");
    }
    for nothing in ["dev.oak.", "a.b.oak.", "x.y.z.web.test.shop.prod.oak.", "a_b.test.shop.prod.oak."] {
        assert_eq!(find(&zone, nothing, RecordType::A), Found::NoName, "{nothing}");
    }
    let owner = |name: &str| zone.authority(&Name::from_ascii(name).unwrap()).unwrap().name.to_ascii();
    assert_eq!(owner("nothing.oak."), "oak.");
    assert_eq!(owner("7.7.30.10.in-addr.arpa."), "30.10.in-addr.arpa.");
}

#[test]
fn foreign_names_are_not_ours() {
    let zone = shop();
    for name in [".", "example.com.", "oak.example.", "notoak.", "arpa.", "x.home.arpa.", "web."] {
        assert_eq!(find(&zone, name, RecordType::A), Found::Foreign, "{name}");
    }
}

#[test]
fn of_two_owners_with_the_same_names_everyone_gets_their_own() {
    let mut theirs = entry("web", &["10.30.9.9"], &[]);
    theirs.application = application(2);
    let zone = zone_of(vec![theirs, entry("web", &["10.30.0.1"], &[])]);
    let name = Name::from_ascii("web.test.shop.prod.oak.").unwrap();
    let answer = |asker: &str| match zone.find(&name, RecordType::A, ip(asker)) {
        Found::Records { answers, .. } => answers[0].data.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(answer("10.18.0.2"), "10.30.0.1");
    assert_eq!(answer("10.18.0.9"), "10.30.9.9");
    // Others get the older one: nobody takes a name over by using it too.
    assert_eq!(answer("10.18.0.77"), "10.30.0.1");
}

#[test]
fn entries_of_one_service_are_put_together() {
    let here = entry("web", &["10.30.0.1"], &[(0, "10.30.1.1", false)]);
    let there = entry("web", &["10.30.0.1"], &[(0, "10.30.1.1", true), (1, "10.30.1.2", true)]);
    let zone = zone_of(vec![here, there]);
    assert_eq!(texts(&zone, "web.test.shop.prod.oak.", RecordType::A), ["10.30.0.1"]);
    assert_eq!(texts(&zone, "0.web.test.shop.prod.oak.", RecordType::A), ["10.30.1.1"]);
    assert_eq!(texts(&zone, "_port._tcp.web.test.shop.prod.oak.", RecordType::SRV).len(), 2);
}

proptest! {
    /// Whatever is asked, nothing below the top is foreign, and nothing beside it is ours.
    #[test]
    fn every_name_is_either_ours_or_foreign(labels in prop::collection::vec("[a-zA-Z0-9_]{1,12}", 0..8), below in any::<bool>()) {
        let top = if below { "oak." } else { "example." };
        let name = Name::from_ascii(labels.iter().map(|label| format!("{label}.")).collect::<String>() + top).unwrap();
        let found = shop().find(&name, RecordType::A, CLIENT);
        prop_assert_eq!(found == Found::Foreign, !below);
    }

    /// Every service that is put in is found by its name in any spelling, and its address leads back to it.
    #[test]
    fn what_is_put_in_is_found(names in prop::collection::btree_set("[a-z][a-z0-9]{0,29}", 1..20), upper in any::<bool>()) {
        let address = |place: usize| format!("10.30.2.{place}");
        let entries = names.iter().enumerate().map(|(place, name)| entry(name, &[&address(place)], &[])).collect();
        let zone = zone_of(entries);
        for (place, name) in names.iter().enumerate() {
            let spelled = if upper { name.to_uppercase() } else { name.clone() };
            let full = format!("{spelled}.test.shop.prod.oak.");
            prop_assert_eq!(texts(&zone, &full, RecordType::A), vec![address(place)]);
            let back = texts(&zone, &format!("{place}.2.30.10.in-addr.arpa."), RecordType::PTR);
            prop_assert_eq!(back, vec![format!("{name}.test.shop.prod.oak.")]);
        }
    }
}

#[test]
fn what_is_hidden_from_an_application_does_not_exist_for_it() {
    let mut web = entry("web", &["10.30.0.1"], &[(0, "10.30.1.1", true)]);
    web.hidden_from = BTreeSet::from([application(2)]);
    let zone = zone_of(vec![web]);
    let web = Name::from_ascii("web.test.shop.prod.oak.").unwrap();
    let reverse = Name::from_ascii("1.0.30.10.in-addr.arpa.").unwrap();
    for (asker, sees) in [(CLIENT, true), (ip("10.18.0.1"), true), (ip("10.18.0.9"), false)] {
        let found = [zone.find(&web, RecordType::A, asker), zone.find(&reverse, RecordType::PTR, asker)];
        for found in found {
            assert_eq!(matches!(found, Found::Records { .. }), sees, "{asker}: {found:?}");
            assert!(sees || matches!(found, Found::Unknown(_)), "others are asked, who know who may know it");
        }
    }
}

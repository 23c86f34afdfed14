//! Bounds that must hold: when they are decided, and what happens when they stop to hold.

use oak_model::{
    Application, ApplicationId, Area, AreaBound, Limit, OrganizationId, Service, ServiceBound, Strictness,
    Upkeep,
};

use super::*;

/// An instance that must be within 10 ms of this cluster, or move within a minute.
fn bounded(number: u32, generation: u64) -> DesiredInstance {
    let mut desired = desired(number, generation, 10);
    let spec = Arc::make_mut(&mut desired.spec);
    spec.target.near.push(AreaBound {
        area: Area::Named("here".into()),
        limit: Limit::RoundTripUs(10_000),
        strictness: Strictness { rigidness: Strictness::HARD, convergence_s: 60 },
    });
    desired.surroundings.areas.insert("here".into(), 0);
    desired
}

fn measure(fixture: &mut Fixture, ms: u64, worker: WorkerId, micros: u32) {
    fixture.cluster.worker_measured(at(ms), worker, 1, micros);
    fixture.commit();
}

#[test]
fn what_is_not_measured_is_refused_with_the_reason_until_it_is() {
    let mut fixture = Fixture::new();
    let worker = fixture.worker("one");
    fixture.set(bounded(0, 2));
    let placed = fixture.cluster.instance(key(0)).unwrap();
    assert_eq!(placed.status, Status::NoQualifiedWorkerFound);
    assert!(placed.detail.contains("its round trip to its cluster is not measured yet"), "{}", placed.detail);
    measure(&mut fixture, 1_000, worker, 12_000);
    fixture.run_until(1_200);
    let placed = fixture.cluster.instance(key(0)).unwrap();
    assert!(placed.detail.contains("12 ms from here, at most 10 ms allowed"), "{}", placed.detail);
    measure(&mut fixture, 2_000, worker, 9_000);
    fixture.run_until(2_200);
    assert_eq!(fixture.placement(0).unwrap().worker, worker);
}

#[test]
fn a_bound_broken_for_longer_than_its_convergence_time_moves_the_instance() {
    let mut fixture = Fixture::new();
    let (one, two) = (fixture.worker("one"), fixture.worker("two"));
    measure(&mut fixture, 0, one, 5_000);
    measure(&mut fixture, 0, two, 50_000);
    fixture.set(bounded(0, 2));
    let place = fixture.placement(0).unwrap();
    assert_eq!(place.worker, one);
    fixture.reports(0, place, Status::Running, "running");
    fixture.run_until(1_000);
    measure(&mut fixture, 1_000, one, 40_000);
    measure(&mut fixture, 1_000, two, 6_000);
    fixture.run_until(60_000);
    let placed = fixture.cluster.instance(key(0)).unwrap();
    assert_eq!(placed.successor, None, "the bound may be broken for a minute");
    fixture.run_until(75_000);
    let successor = fixture.cluster.instance(key(0)).unwrap().successor.unwrap();
    assert_eq!(successor.worker, two);
    fixture.reports(0, successor, Status::Running, "running");
    assert_eq!(fixture.placement(0).unwrap().worker, two);
}

#[test]
fn a_bound_that_holds_again_or_nowhere_moves_nothing() {
    let mut fixture = Fixture::new();
    let one = fixture.worker("one");
    measure(&mut fixture, 0, one, 5_000);
    fixture.set(bounded(0, 2));
    let place = fixture.placement(0).unwrap();
    fixture.reports(0, place, Status::Running, "running");
    measure(&mut fixture, 1_000, one, 40_000);
    fixture.run_until(200_000);
    let placed = fixture.cluster.instance(key(0)).unwrap();
    assert_eq!((placed.placement, placed.successor), (Some(place), None));
    assert!(
        placed.detail.starts_with("cannot leave worker one, which breaks a bound: one: 40 ms"),
        "{}",
        placed.detail
    );
    measure(&mut fixture, 200_000, one, 4_000);
    fixture.run_until(215_000);
    assert_eq!(fixture.cluster.instance(key(0)).unwrap().detail, "running");
}

#[test]
fn other_surroundings_are_no_reason_to_restart() {
    let mut fixture = Fixture::new();
    let one = fixture.worker("one");
    measure(&mut fixture, 0, one, 5_000);
    fixture.set(bounded(0, 2));
    fixture.to_workers.clear();
    let mut wish = bounded(0, 3);
    wish.surroundings.areas.insert("there".into(), 7);
    fixture.set(wish.clone());
    assert!(fixture.to_workers.is_empty());
    assert_eq!(fixture.cluster.instance(key(0)).unwrap().desired, wish);
}

#[test]
fn only_news_about_round_trips_is_told() {
    let mut fixture = Fixture::new();
    let one = fixture.worker("one");
    let mut told = |micros| {
        fixture.to_root.clear();
        measure(&mut fixture, 0, one, micros);
        fixture.to_root.len()
    };
    assert_eq!([5_000, 5_400, 5_900, 6_100, 6_200].map(&mut told), [1, 0, 0, 1, 0]);
}

/// An application of an owner with services, as the root tells of it.
fn known(fixture: &mut Fixture, number: u64, owner: (u64, &str), services: Vec<(u64, Vec<&str>)>) {
    let id = ApplicationId::from_parts(1, number);
    let name: oak_model::Name = format!("app{number}").parse().unwrap();
    let namespace: oak_model::Name = "test".parse().unwrap();
    let service = |(service, targets): (u64, Vec<&str>)| Service {
        id: ServiceId::from_parts(2, service),
        application: id,
        job_name: JobName {
            application: name.clone(),
            application_namespace: namespace.clone(),
            service: format!("s{service}").parse().unwrap(),
            service_namespace: namespace.clone(),
        },
        spec: Arc::new(ServiceSpec {
            connectivity: targets
                .into_iter()
                .map(|target| ServiceBound {
                    target: target.to_owned(),
                    limit: Limit::RoundTripUs(1_000),
                    strictness: Strictness::default(),
                })
                .collect(),
            ..ServiceSpec::default()
        }),
        document: serde_json::Map::new(),
        address: std::net::Ipv4Addr::UNSPECIFIED,
        policies: BTreeMap::new(),
        next_number: 0,
        upkeep: Upkeep::default(),
    };
    let services: Vec<_> = services.into_iter().map(service).collect();
    let application = Application {
        id,
        owner: owner.1.to_owned(),
        organization: Some(OrganizationId::from_parts(3, owner.0)),
        name: name.clone(),
        namespace: namespace.clone(),
        description: String::new(),
        other: serde_json::Map::new(),
        services: services.iter().map(|service| service.id).collect(),
    };
    fixture.cluster.records_received(vec![application], services);
}

#[test]
fn services_of_others_are_neither_found_nor_bound_while_the_root_is_away() {
    let mut fixture = Fixture::new();
    let first = ServiceId::from_parts(2, 1).to_string();
    known(&mut fixture, 1, (1, "ann"), vec![(1, Vec::new()), (2, vec!["s1"])]);
    let targets = || vec![first.as_str(), "app1.test.s1.test", "s1"];
    known(&mut fixture, 2, (1, "bob"), vec![(3, targets())]);
    known(&mut fixture, 3, (2, "ann"), vec![(4, targets())]);
    known(&mut fixture, 4, (1, "ann"), vec![(5, targets())]);
    let peers = |service| {
        let around = fixture.cluster.local_surroundings(ServiceId::from_parts(2, service));
        around.peers.iter().map(|peer| peer.peer.is_some()).collect::<Vec<_>>()
    };
    assert_eq!(peers(3), [false, false, false], "of another user");
    assert_eq!(peers(4), [false, false, false], "of another organisation");
    assert_eq!(peers(5), [true, true, false], "a name alone is one of the same application");
    // Those that are bound to it: one of the same application, one of another with two bounds.
    assert_eq!(peers(1), [true, true, true]);
}

use oak_model::{Architecture, Surroundings, TargetConstraints};

use super::*;
use crate::Verdict;
use proptest::prelude::*;

fn worker(n: u64) -> WorkerId {
    WorkerId::from_parts(1, n)
}

fn service(n: u64) -> ServiceId {
    ServiceId::from_parts(2, n)
}

fn state(name: &str, cores: u32, memory_mib: u32) -> WorkerState {
    WorkerState {
        name: name.to_owned(),
        architecture: Architecture::Amd64,
        runs_containers: true,
        csi_drivers: vec!["here".into()],
        capacity: Resources { cpu_millis: cores * 1000, memory_mib, storage_mib: 1000, gpus: 0 },
        reservable_cpu_millis: cores * 1000,
        addresses: 100,
        connected: true,
        cordoned: false,
        unreliable: false,
        labels: Vec::new(),
        position: None,
        round_trip_us: None,
    }
}

fn request(service_number: u64, cores: u32, memory_mib: u32) -> Request<'static> {
    Request {
        service: service(service_number),
        resources: Resources { cpu_millis: cores * 1000, memory_mib, storage_mib: 0, gpus: 0 },
        architectures: &[],
        volumes: &[],
        ports: &[],
        target: TargetConstraints::anywhere(),
        surroundings: Surroundings::none(),
        avoid: None,
    }
}

fn fleet(workers: &[(&str, u32, u32)]) -> Fleet {
    let mut fleet = Fleet::new();
    for (n, (name, cores, memory)) in workers.iter().enumerate() {
        fleet.upsert(worker(n as u64), state(name, *cores, *memory));
    }
    fleet
}

#[test]
fn takes_the_least_committed_worker() {
    let mut fleet = fleet(&[("a", 4, 1000), ("b", 4, 1000)]);
    fleet.reserve(
        worker(0),
        service(9),
        "x",
        Resources { cpu_millis: 1000, memory_mib: 0, storage_mib: 0, gpus: 0 },
        &[],
    );
    assert_eq!(fleet.place(&request(1, 1, 10)), Ok(worker(1)));
}

#[test]
fn spreads_instances_of_one_service_before_balancing_load() {
    let mut fleet = fleet(&[("a", 4, 1000), ("b", 4, 1000)]);
    fleet.reserve(worker(0), service(1), "x", Resources::ZERO, &[]);
    fleet.reserve(
        worker(1),
        service(2),
        "y",
        Resources { cpu_millis: 3000, memory_mib: 0, storage_mib: 0, gpus: 0 },
        &[],
    );
    assert_eq!(fleet.place(&request(1, 1, 10)), Ok(worker(1)));
}

#[test]
fn a_refusal_names_every_worker_with_its_number() {
    let mut fleet = fleet(&[("pi", 4, 500), ("server", 8, 2000)]);
    fleet.reserve(
        worker(1),
        service(9),
        "x",
        Resources { cpu_millis: 0, memory_mib: 1500, storage_mib: 0, gpus: 0 },
        &[],
    );
    let refusal = fleet.place(&request(1, 1, 1000)).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "pi: 500 of 500 MiB memory free, 1000 needed; server: 500 of 2000 MiB memory free, 1000 needed"
    );
    assert_eq!(refusal.status(), oak_model::Status::NoWorkerCapacity);
}

#[test]
fn one_instance_never_needs_more_cores_than_a_worker_has_whatever_the_overcommitment() {
    let mut fleet = fleet(&[]);
    fleet.upsert(worker(0), WorkerState { reservable_cpu_millis: 20_000, ..state("pi", 2, 1000) });
    let refusal = fleet.place(&request(1, 3, 1)).unwrap_err();
    assert_eq!(refusal.to_string(), "pi: has 2 cores, 3 needed");
}

#[test]
fn a_host_port_is_shared_by_instances_of_one_service_only() {
    let port = PortMapping { host: 80, container: 80, protocol: Protocol::Tcp };
    let mut fleet = fleet(&[("a", 4, 1000)]);
    fleet.reserve(worker(0), service(1), "web", Resources::ZERO, &[port]);
    let ports = [port];
    let same = Request { ports: &ports, ..request(1, 1, 1) };
    let other = Request { ports: &ports, ..request(2, 1, 1) };
    assert_eq!(fleet.place(&same), Ok(worker(0)));
    assert_eq!(fleet.place(&other).unwrap_err().to_string(), "a: host port 80/tcp is held by web");
    fleet.release(worker(0), service(1), Resources::ZERO, &[port]);
    assert_eq!(fleet.place(&other), Ok(worker(0)));
}

#[test]
fn an_avoided_worker_is_the_last_resort() {
    let mut fleet = fleet(&[("a", 4, 1000), ("b", 1, 100)]);
    let avoiding = Request { avoid: Some(worker(0)), ..request(1, 1, 10) };
    assert_eq!(fleet.place(&avoiding), Ok(worker(1)));
    fleet.remove(worker(1));
    assert_eq!(fleet.place(&avoiding), Ok(worker(0)));
}

#[test]
fn silent_and_foreign_workers_are_not_chosen() {
    let mut fleet = fleet(&[("a", 4, 1000), ("b", 4, 1000)]);
    fleet.set_connected(worker(0), false);
    let target = TargetConstraints { workers: vec!["a".to_owned()], ..TargetConstraints::default() };
    let pinned = Request { target: &target, ..request(1, 1, 1) };
    assert_eq!(
        fleet.place(&pinned).unwrap_err().to_string(),
        "a: not connected; b: not among the workers the descriptor names"
    );
    assert_eq!(
        fleet
            .place(&Request { architectures: &[Architecture::Arm64], ..request(1, 1, 1) })
            .unwrap_err()
            .status(),
        oak_model::Status::NoQualifiedWorkerFound
    );
}

#[test]
fn a_worker_without_the_volume_driver_says_so() {
    let fleet = fleet(&[("a", 4, 1000)]);
    let volume = |driver: &str| {
        [oak_model::Volume {
            id: "v".into(),
            driver: driver.into(),
            mount_path: "/v".into(),
            config: std::collections::BTreeMap::new(),
        }]
    };
    assert_eq!(fleet.place(&Request { volumes: &volume("here"), ..request(1, 1, 1) }), Ok(worker(0)));
    let refusal = fleet.place(&Request { volumes: &volume("nfs"), ..request(1, 1, 1) }).unwrap_err();
    assert_eq!(refusal.to_string(), "a: does not offer volume driver nfs");
    assert_eq!(refusal.status(), oak_model::Status::NoQualifiedWorkerFound);
}

#[derive(Clone, Debug)]
enum Operation {
    Upsert(u64, u32, u32),
    Remove(u64),
    Connect(u64, bool),
    Place(u64, u32, u32, Option<u16>),
    Release(usize),
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let operation = prop_oneof![
        (0..6_u64, 0..5_u32, 0..200_u32).prop_map(|(w, c, m)| Operation::Upsert(w, c, m)),
        (0..6_u64).prop_map(Operation::Remove),
        (0..6_u64, any::<bool>()).prop_map(|(w, up)| Operation::Connect(w, up)),
        (0..4_u64, 0..3_u32, 0..80_u32, proptest::option::of(80..82_u16))
            .prop_map(|(s, c, m, p)| Operation::Place(s, c, m, p)),
        (0..30_usize).prop_map(Operation::Release),
    ];
    proptest::collection::vec(operation, 0..60)
}

proptest! {
    /// The columns agree with the slow rules, capacity is never exceeded by placing, and releasing everything
    /// gives back everything.
    #[test]
    fn bookkeeping_is_exact(operations in operations()) {
        let mut fleet = Fleet::new();
        let mut held: Vec<(WorkerId, ServiceId, Resources, Vec<PortMapping>)> = Vec::new();
        for operation in operations {
            match operation {
                Operation::Upsert(w, cores, memory) => {
                    // Shrinking below what is reserved is allowed in reality but not part of this property.
                    if fleet.worker(worker(w)).is_none() {
                        fleet.upsert(worker(w), state(&format!("w{w}"), cores, memory));
                    }
                }
                Operation::Remove(w) => {
                    fleet.remove(worker(w));
                    held.retain(|(id, ..)| *id != worker(w));
                }
                Operation::Connect(w, up) => fleet.set_connected(worker(w), up),
                Operation::Place(s, cores, memory, port) => {
                    let ports: Vec<_> = port
                        .map(|host| PortMapping { host, container: 1, protocol: Protocol::Tcp })
                        .into_iter()
                        .collect();
                    let request = Request { ports: &ports, ..request(s, cores, memory) };
                    match fleet.place(&request) {
                        Ok(id) => {
                            prop_assert_eq!(fleet.check(id, &request), None);
                            fleet.reserve(id, service(s), "svc", request.resources, &ports);
                            held.push((id, service(s), request.resources, ports.clone()));
                            let (reserved, _) = fleet.reserved(id).unwrap();
                            let capacity = fleet.worker(id).unwrap().capacity;
                            prop_assert!(reserved.cpu_millis <= capacity.cpu_millis);
                            prop_assert!(reserved.memory_mib <= capacity.memory_mib);
                        }
                        Err(refusal) => prop_assert_eq!(refusal.workers.len(), fleet.len()),
                    }
                }
                Operation::Release(n) => {
                    if n < held.len() {
                        let (id, service, resources, ports) = held.swap_remove(n);
                        fleet.release(id, service, resources, &ports);
                    }
                }
            }
        }
        for (id, service, resources, ports) in held {
            fleet.release(id, service, resources, &ports);
        }
        for n in 0..6 {
            if let Some(reserved) = fleet.reserved(worker(n)) {
                prop_assert_eq!(reserved, (Resources::ZERO, 0));
                prop_assert_eq!(fleet.host_ports(worker(n)).count(), 0);
            }
        }
        prop_assert!(fleet.hosts.is_empty());
        prop_assert_eq!(fleet.commitment(), 0);
        let capacity: u64 =
            (0..6).filter_map(|n| fleet.worker(worker(n))).map(|state| u64::from(state.capacity.memory_mib)).sum();
        prop_assert_eq!(fleet.totals.memory, capacity);
    }
}

#[derive(Clone, Debug)]
struct Traits {
    cores: u32,
    memory: u32,
    gpus: u32,
    reserved: u32,
    of_service: u32,
    closed: bool,
    unreliable: bool,
    label: bool,
    round_trip_us: Option<u32>,
}

fn traits() -> impl Strategy<Value = Traits> {
    let numbers = (1..4_u32, 1..6_u32, 0..2_u32, 0..5_u32, 0..2_u32);
    let flags = (0..6_u32, 0..6_u32, any::<bool>(), proptest::option::of(0..40_u32));
    (numbers, flags).prop_map(
        |((cores, memory, gpus, reserved, of_service), (closed, unreliable, label, round_trip))| Traits {
            cores,
            memory: memory * 100,
            gpus,
            reserved: reserved * 50,
            of_service,
            closed: closed == 0,
            unreliable: unreliable == 0,
            label,
            round_trip_us: round_trip.map(|ms| ms * 1000),
        },
    )
}

fn fleet_of(all: &[Traits]) -> Fleet {
    let mut fleet = Fleet::new();
    // In any order: the result must not depend on it.
    for (n, traits) in all.iter().enumerate().rev() {
        let mut state = state(&format!("w{n}"), traits.cores, traits.memory);
        state.capacity.gpus = traits.gpus;
        state.cordoned = traits.closed;
        state.unreliable = traits.unreliable;
        state.labels = traits.label.then(|| "ssd".to_owned()).into_iter().collect();
        state.round_trip_us = traits.round_trip_us;
        fleet.upsert(worker(n as u64), state);
        let needs = Resources { memory_mib: traits.reserved, ..Resources::ZERO };
        fleet.reserve(worker(n as u64), service(9), "x", needs, &[]);
        for _ in 0..traits.of_service {
            fleet.reserve(worker(n as u64), service(1), "own", Resources::ZERO, &[]);
        }
    }
    fleet
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// The vectors choose what looking at one worker after the other chooses.
    #[test]
    fn the_scan_agrees_with_the_rules(
        all in proptest::collection::vec(traits(), 0..70),
        needs in (0..4_u32, 0..6_u32, 0..2_u32),
        extras in (any::<bool>(), proptest::option::of(1..3_u32), 0..3_u16),
        avoid in proptest::option::of(0..70_u64),
    ) {
        let fleet = fleet_of(&all);
        let mut target = TargetConstraints { max_per_worker: extras.1, ..TargetConstraints::default() };
        target.needs = extras.0.then(|| "ssd".to_owned()).into_iter().collect();
        // Bound to the cluster itself: none, as a preference, or hard.
        let rigidness = extras.2 * 500;
        if rigidness > 0 {
            target.near.push(oak_model::AreaBound {
                area: oak_model::Area::Named("here".to_owned()),
                limit: oak_model::Limit::RoundTripUs(20_000),
                strictness: oak_model::Strictness { rigidness, convergence_s: 0 },
            });
        }
        let surroundings = Surroundings { areas: [("here".to_owned(), 0)].into(), peers: Vec::new() };
        let (cores, memory, gpus) = needs;
        let mut request = Request {
            target: &target,
            surroundings: &surroundings,
            avoid: avoid.map(worker),
            ..request(1, cores, memory * 100)
        };
        request.resources.gpus = gpus;
        let verdicts = fleet.examine(&request);
        let broken = |n: usize| rigidness == 500 && all[n].round_trip_us.is_none_or(|us| us > 20_000);
        // A worker that was lost again and again is taken by its load alone, and so is the one to be avoided.
        let rank = |(n, verdict): &(usize, &Verdict)| {
            let last = (avoid == Some(*n as u64), all[*n].unreliable);
            let same = if last == (false, false) || rigidness == 500 { verdict.of_service } else { 0 };
            (last, broken(*n), same, verdict.commitment, verdict.instances, *n)
        };
        let able = verdicts.iter().enumerate().filter(|(_, verdict)| verdict.reasons.is_empty());
        let expected = able.min_by_key(rank).map(|(_, verdict)| verdict.id);
        prop_assert_eq!(fleet.place(&request).ok(), expected);
        for verdict in &verdicts {
            prop_assert_eq!(fleet.check(verdict.id, &request).is_some(), !verdict.reasons.is_empty());
        }
        if expected.is_none() {
            let refusal = fleet.place(&request).unwrap_err();
            prop_assert_eq!(refusal.workers.len(), all.len());
        }
    }
}

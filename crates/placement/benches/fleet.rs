//! Choosing a worker in fleets of different sizes: `cargo bench --package oak-placement`.
#![allow(missing_docs, reason = "`criterion_group!` makes a function without documentation")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use oak_model::{Architecture, Resources, ServiceId, Surroundings, TargetConstraints, WorkerId};
use oak_placement::{Fleet, Request, WorkerState};

fn fleet(workers: u64) -> Fleet {
    let mut fleet = Fleet::new();
    for number in 0..workers {
        let state = WorkerState {
            name: format!("worker-{number}"),
            architecture: Architecture::Amd64,
            runs_containers: true,
            csi_drivers: Vec::new(),
            capacity: Resources { cpu_millis: 8_000, memory_mib: 16_384, storage_mib: 65_536, gpus: 0 },
            reservable_cpu_millis: 80_000,
            addresses: 125,
            connected: true,
            cordoned: false,
            unreliable: false,
            labels: Vec::new(),
            position: None,
            round_trip_us: None,
        };
        fleet.upsert(WorkerId::from_parts(1, number), state);
        // Different loads, so that the best worker is not the first one.
        let memory_mib = u32::try_from(1 + number * 7919 % 8_000).unwrap_or(1);
        let needs = Resources { cpu_millis: 1_000, memory_mib, storage_mib: 0, gpus: 0 };
        fleet.reserve(WorkerId::from_parts(1, number), ServiceId::from_parts(2, number), "other", needs, &[]);
    }
    fleet
}

fn request(memory_mib: u32, target: &TargetConstraints) -> Request<'_> {
    Request {
        service: ServiceId::from_parts(3, 0),
        resources: Resources { cpu_millis: 1_000, memory_mib, storage_mib: 0, gpus: 0 },
        architectures: &[Architecture::Amd64],
        volumes: &[],
        ports: &[],
        target,
        surroundings: Surroundings::none(),
        avoid: None,
    }
}

fn placement(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("place");
    for workers in [100, 1_000, 10_000] {
        let fleet = fleet(workers);
        let any = TargetConstraints::anywhere().clone();
        let named = TargetConstraints { workers: vec![format!("worker-{}", workers / 2)], ..any.clone() };
        let cases =
            [("any", request(64, &any)), ("named", request(64, &named)), ("none", request(99_999, &any))];
        for (name, request) in &cases {
            group.bench_with_input(BenchmarkId::new(*name, workers), request, |bencher, request| {
                bencher.iter(|| fleet.place(black_box(request)));
            });
        }
    }
    group.finish();
}

fn reservation(criterion: &mut Criterion) {
    let mut fleet = fleet(10_000);
    let needs = Resources { cpu_millis: 1_000, memory_mib: 64, storage_mib: 0, gpus: 0 };
    let (worker, service) = (WorkerId::from_parts(1, 5_000), ServiceId::from_parts(3, 0));
    criterion.bench_function("reserve and release", |bencher| {
        bencher.iter(|| {
            fleet.reserve(worker, service, "bench", needs, &[]);
            fleet.release(worker, service, needs, &[]);
        });
    });
}

criterion_group!(benches, placement, reservation);
criterion_main!(benches);

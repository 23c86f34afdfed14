//! The three state machines together, under virtual time, with everything going wrong: crashes between any two steps,
//! lost sessions, partitions, failing pulls, hanging starts, dying processes. Everything follows from a seed.
//!
//! To replay one seed with all events:
//! `OAK_SIM_SEED=17 OAK_SIM_TRACE=1 cargo test -p oak-sim --test system -- --nocapture`.
//! To run more seeds: `OAK_SIM_SEEDS=10000 cargo test -p oak-sim --test system`.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::missing_panics_doc,
    missing_docs,
    unreachable_pub,
    reason = "a test program: a panic is how it reports"
)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use oak_sim::world::{Plan, World};

/// Time for everything to settle: a stalled pull (40 s), the longest back-off (20 s), a hanging start (60 s), a
/// retry of the cluster and one of the root (30 s each), with room.
const SETTLE_MS: u64 = 300_000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Runs `scenario` for `seeds` seeds, or the one asked for; says which seed failed.
fn for_each_seed(test: &str, seeds: u64, scenario: impl Fn(u64)) {
    let (first, count) = match number("OAK_SIM_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("OAK_SIM_SEEDS").unwrap_or(seeds)),
    };
    let failed: Vec<u64> = (first..first + count)
        .filter(|seed| {
            eprintln!("seed {seed}");
            catch_unwind(AssertUnwindSafe(|| scenario(*seed))).is_err()
        })
        .collect();
    assert!(
        failed.is_empty(),
        "seeds {failed:?} failed; replay one: OAK_SIM_SEED={} OAK_SIM_TRACE=1 cargo test -p oak-sim --test system {test} -- --nocapture",
        failed.first().unwrap_or(&0)
    );
}

fn survive(seed: u64, plan: Plan) {
    let mut world = World::new(seed, plan);
    world.run_until(2_000);
    for _ in 0..3 {
        world.create_application();
    }
    world.run_until(3_000);
    world.run_faults();
    world.run_until_settled(SETTLE_MS);
    // Settled means settled: nothing moves any more, and the links are quiet but for retries.
    let kinds = ["root to cluster", "cluster to root", "cluster to worker"];
    let sent = |world: &World| kinds.iter().filter_map(|kind| world.messages.get(kind)).sum::<u64>();
    let before = sent(&world);
    world.run_until(world.agenda.time + 60_000);
    let talk = sent(&world) - before;
    assert!(talk <= 4 * plan.instances as u64 + 20, "{talk} messages in a minute of rest");
    world.check_settled().expect("still settled a minute later");
}

#[test]
fn a_small_system_survives_faults_and_settles() {
    for_each_seed("a_small_system", 120, |seed| {
        survive(seed, Plan { clusters: 1, workers_each: 2, instances: 8, faults_ms: 30_000 });
    });
}

#[test]
fn several_clusters_survive_faults_and_settle() {
    for_each_seed("several_clusters", 100, |seed| {
        survive(seed, Plan { clusters: 2, workers_each: 2, instances: 14, faults_ms: 30_000 });
    });
}

#[test]
fn a_full_system_survives_faults_and_explains_what_waits() {
    for_each_seed("a_full_system", 100, |seed| {
        survive(seed, Plan { clusters: 2, workers_each: 2, instances: 24, faults_ms: 30_000 });
    });
}

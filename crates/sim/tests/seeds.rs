//! Histories at random: everything goes wrong, then it stops, and everything must become what it should be.
//!
//! More seeds: `make sim`, or `OAK_SIM_SEEDS=10000 cargo test -p oak-sim --test seeds`. One seed with all its events:
//! `oak sim deploy/scenarios/mixed-small.toml --seed 17 --trace trace.txt`.

#![allow(clippy::unwrap_used, reason = "a test program: a panic is how it reports")]

use std::path::{Path, PathBuf};

use oak_sim::{Scenario, run_seeds};

fn scenario_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/scenarios").join(name)
}

fn survives(name: &str, seeds: u64) {
    let text = std::fs::read_to_string(scenario_file(name)).unwrap();
    let scenario = Scenario::parse(&text).unwrap();
    let seeds = std::env::var("OAK_SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(seeds);
    let sum = run_seeds(&scenario, 0, seeds, &mut |_| {});
    assert!(
        sum.failed.is_empty(),
        "{} of {} seeds failed; replay one: oak sim deploy/scenarios/{name} --seed {} --trace trace.txt\n{:#?}",
        sum.failed.len(),
        sum.runs,
        sum.failed[0].0,
        sum.failed
    );
    assert_eq!(sum.runs, seeds);
}

#[test]
fn a_small_system_survives_faults_and_settles() {
    survives("mixed-small.toml", 120);
}

#[test]
fn several_clusters_survive_faults_and_settle() {
    survives("mixed-several.toml", 100);
}

#[test]
fn workers_are_removed_and_join_again_under_faults() {
    survives("mixed-removals.toml", 100);
}

#[test]
fn a_root_that_loses_its_disk_gets_everything_back() {
    survives("lost-root.toml", 30);
}

#[test]
fn a_full_system_survives_faults_and_explains_what_waits() {
    survives("mixed-full.toml", 100);
}

#[test]
fn updates_come_to_an_end_under_faults() {
    survives("mixed-updates.toml", 100);
}

#[test]
fn updates_cost_no_more_instances_than_they_may() {
    survives("updates.toml", 20);
}

#[test]
fn updates_survive_a_root_that_loses_its_disk() {
    survives("lost-root-updates.toml", 100);
}

#[test]
fn updates_survive_a_root_that_is_restored() {
    survives("restored-root-updates.toml", 30);
}

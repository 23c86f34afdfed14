//! The same seed is the same history, byte for byte; and the report says what happened.
#![allow(clippy::unwrap_used, reason = "a test program: a panic is how it reports")]

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use oak_sim::{Report, Scenario, run};

fn scenario(name: &str) -> Scenario {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/scenarios").join(name);
    Scenario::parse(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Keeps what is written into one of its copies.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn traced(scenario: &Scenario, seed: u64) -> (Report, Vec<u8>) {
    let kept = Kept::default();
    let outcome = run(scenario, seed, Some(Box::new(kept.clone())));
    assert!(outcome.trace_error.is_none());
    let bytes = kept.0.lock().unwrap().clone();
    (outcome.report, bytes)
}

#[test]
fn the_same_seed_is_the_same_history_byte_for_byte() {
    for name in ["mixed-small.toml", "mixed-several.toml", "mixed-full.toml", "lost-root.toml"] {
        let scenario = scenario(name);
        for seed in 0..5 {
            let (report, trace) = traced(&scenario, seed);
            let (again, trace_again) = traced(&scenario, seed);
            assert!(trace.len() > 10_000, "{name}: {} bytes", trace.len());
            assert!(trace == trace_again, "{name}: seed {seed} has two histories");
            assert_eq!(report.trace_hash, again.trace_hash);
            assert_eq!(report.to_string(), again.to_string());
            assert_eq!(
                run(&scenario, seed, None).report.trace_hash,
                report.trace_hash,
                "tracing changes nothing"
            );
        }
        assert_ne!(traced(&scenario, 0).0.trace_hash, traced(&scenario, 1).0.trace_hash);
    }
}

#[test]
fn a_site_that_loses_power_is_replaced_and_the_report_says_so() {
    let report = run(&scenario("two-sites.toml"), 1, None).report;
    assert!(report.is_good(), "{report}");
    let text = report.to_string();
    assert!(text.contains("! site b loses power, for 1h"), "{text}");
    assert!(text.contains("all run again"), "{text}");
    assert!(report.recovery.count > 20 && report.recovery.max_ms < 45_000, "{:?}", report.recovery);
    let (least, _) = report.least_running.unwrap();
    assert!(least < 0.7, "half of the instances ran at site b: {least}");
}

#[test]
fn workers_that_join_take_what_waits_and_what_is_drained_moves_without_a_gap() {
    let report = run(&scenario("add-workers.toml"), 1, None).report;
    assert!(report.is_good(), "{report}");
    let waited = report.timeline.iter().any(|line| line.text.contains("without a place"));
    assert!(waited, "{report}");
    let moved = report.timeline.iter().any(|line| line.text.contains("placed on other workers"));
    assert!(moved, "{report}");
    assert_eq!(report.recovery.count, 0, "no instance was without a process for a moment");
    assert_eq!(report.least_running.unwrap().0, 1.0);
}

#[test]
fn an_expectation_that_is_not_met_fails_the_run_and_says_by_how_much() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/scenarios/two-sites.toml");
    let text = std::fs::read_to_string(path).unwrap();
    // Half the machines at the site that is left.
    let text = text.replacen("count = 8", "count = 4", 1).replace("settle-within = \"20m\"", "");
    let report = run(&Scenario::parse(&text).unwrap(), 1, None).report;
    assert!(report.violation.is_none(), "{report}");
    let recover = report.unmet.iter().find(|unmet| unmet.starts_with("recover-within = \"45s\""));
    assert!(recover.is_some_and(|unmet| unmet.contains("instances took longer")), "{:?}", report.unmet);
}

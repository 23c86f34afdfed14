//! Health checks: who serves when, and who is restarted.

use oak_model::{HealthCheck, Probe};
use proptest::prelude::*;

use super::*;

const CHECK: HealthCheck = HealthCheck {
    probe: Probe::Tcp { port: 80 },
    interval_s: 5,
    timeout_s: 2,
    retries: 3,
    start_period_s: 4,
};

fn checked(number: u32) -> Assignment {
    with_spec(number, 1, |spec| spec.healthcheck = Some(CHECK))
}

impl Fixture {
    fn begin(&mut self, number: u32) {
        self.prepared(number);
        self.worker.started(at(0), key(number), self.attempt(number));
        self.commit();
        self.apply_tables();
    }

    /// Goes on to the next try and tells its outcome.
    fn probe(&mut self, outcome: Result<(), &str>) -> u64 {
        let before = self.probes();
        let now = self.tick();
        assert_eq!(self.probes(), before + 1, "a try was due at {now:?}");
        let attempt = self.attempt(0);
        let now = Now { moment: now, ..at(0) };
        let outcome = outcome.map_err(str::to_owned);
        self.worker.probed(now, &mut self.entropy, key(0), attempt, outcome);
        self.commit();
        self.apply_tables();
        now.moment.0
    }

    fn probes(&self) -> usize {
        self.effects.iter().filter(|effect| matches!(effect, Effect::Probe { .. })).count()
    }

    fn serves(&self) -> bool {
        !self.network().services.values().next().unwrap().is_empty()
    }
}

#[test]
fn an_instance_serves_and_runs_after_its_first_success_only() {
    let mut fixture = Fixture::new(vec![checked(0)]);
    fixture.begin(0);
    assert_eq!(fixture.status(0), (Status::Created, "waiting for its health check"));
    assert_eq!(fixture.probe(Err("connection refused")), 0, "at once");
    assert_eq!(fixture.status(0), (Status::Created, "waiting for its health check: connection refused"));
    assert!(!fixture.serves());
    assert_eq!(fixture.network().instances.len(), 1, "its own address answers");
    assert_eq!(fixture.probe(Ok(())), 1_000, "every second until then");
    assert_eq!(fixture.status(0), (Status::Running, "running"));
    assert!(fixture.serves());
    assert_eq!(fixture.probe(Ok(())), 6_000, "then as the descriptor says");
}

#[test]
fn failures_in_a_row_take_it_out_of_the_table_and_restart_it_with_back_off() {
    let mut fixture = Fixture::new(vec![checked(0)]);
    fixture.begin(0);
    fixture.probe(Ok(()));
    fixture.probe(Err("HTTP 500"));
    assert_eq!(fixture.status(0), (Status::Running, "running, but 1 of 3 health checks failed: HTTP 500"));
    fixture.probe(Err("HTTP 500"));
    fixture.probe(Ok(()));
    assert_eq!(fixture.status(0), (Status::Running, "running"), "one success forgets them");
    fixture.probe(Err("a"));
    fixture.probe(Err("b"));
    assert!(fixture.serves());
    fixture.probe(Err("c"));
    assert!(!fixture.serves());
    assert_eq!(fixture.status(0).0, Status::Failed);
    let detail = fixture.status(0).1.to_owned();
    assert!(
        detail.starts_with("unhealthy: its health check failed 3 times in a row: c; next attempt"),
        "{detail}"
    );
    assert!(matches!(fixture.phase(0), Phase::Stopping { .. }));
    fixture.stopped(0);
    assert!(matches!(fixture.phase(0), Phase::Waiting { .. }));
    fixture.tick();
    fixture.begin(0);
    fixture.probe(Ok(()));
    assert_eq!(fixture.status(0), (Status::Running, "running, restarted 1 times"));
}

#[test]
fn an_instance_that_never_succeeds_is_restarted_after_its_start_period_and_the_allowed_failures() {
    let mut fixture = Fixture::new(vec![checked(0)]);
    fixture.begin(0);
    let mut last = 0;
    while matches!(fixture.phase(0), Phase::Running { .. }) {
        last = fixture.probe(Err("connection refused"));
        assert!(last <= 19_000);
    }
    assert_eq!(last, 19_000);
    let detail = fixture.status(0).1;
    assert!(detail.contains("did not succeed within 19 s: connection refused"), "{detail}");
}

#[test]
fn an_adopted_instance_serves_until_the_opposite_is_known() {
    let mut fixture = Fixture::new(vec![checked(0)]);
    fixture.begin(0);
    fixture.probe(Ok(()));
    fixture.restart(&[(0, Found::Running)]);
    assert!(fixture.serves());
    assert_eq!(fixture.status(0), (Status::Running, "running"));
    for number in 1..=3 {
        assert!(fixture.serves(), "{number}");
        fixture.probe(Err("connection refused"));
    }
    assert!(!fixture.serves());
}

#[test]
fn late_and_doubled_outcomes_change_nothing() {
    let mut fixture = Fixture::new(vec![checked(0)]);
    fixture.begin(0);
    let old = fixture.attempt(0);
    fixture.probe(Ok(()));
    for _ in 0..5 {
        fixture.worker.probed(at(1), &mut SeededEntropy::new(1), key(0), old, Err("again".into()));
    }
    fixture.commit();
    assert_eq!(fixture.status(0), (Status::Running, "running"));
    fixture.exit(at(2), 0, CRASH);
    fixture.worker.probed(at(3), &mut SeededEntropy::new(1), key(0), old, Ok(()));
    fixture.commit();
    assert_eq!(fixture.status(0).0, Status::Failed);
}

#[test]
fn a_try_without_outcome_has_failed() {
    let mut fixture = Fixture::new(vec![checked(0)]);
    fixture.begin(0);
    fixture.tick();
    fixture.tick();
    assert!(fixture.status(0).1.contains("stuck"), "{}", fixture.status(0).1);
}

#[test]
fn an_unhealthy_instance_that_must_not_be_restarted_has_failed_for_good() {
    let mut fixture = Fixture::new(vec![with_spec(0, 1, |spec| {
        spec.healthcheck = Some(HealthCheck { retries: 1, ..CHECK });
        spec.restart = oak_model::RestartPolicy::Never;
    })]);
    fixture.begin(0);
    fixture.probe(Ok(()));
    fixture.probe(Err("x"));
    fixture.stopped(0);
    assert_eq!(fixture.phase(0), &Phase::Completed);
    assert_eq!(fixture.status(0).0, Status::Failed);
    assert!(fixture.status(0).1.contains("restart policy is never"), "{}", fixture.status(0).1);
}

proptest! {
    /// Whatever the outcomes: it serves exactly when the rule says so, and no two tries are under way at once.
    #[test]
    fn who_serves_has_succeeded_and_not_failed_too_often_since(
        outcomes in proptest::collection::vec(any::<bool>(), 1..40),
    ) {
        let mut fixture = Fixture::new(vec![checked(0)]);
        fixture.begin(0);
        let (mut ready, mut failures) = (false, 0);
        for healthy in outcomes {
            let now = fixture.probe(if healthy { Ok(()) } else { Err("x") });
            ready |= healthy;
            failures = if healthy { 0 } else { failures + 1 };
            let given_up = if ready { failures >= 3 } else { now >= 19_000 };
            prop_assert_eq!(matches!(fixture.phase(0), Phase::Stopping { .. }), given_up);
            prop_assert_eq!(fixture.serves(), ready && !given_up);
            if given_up {
                break;
            }
            if !ready {
                failures = 0;
            }
        }
    }
}

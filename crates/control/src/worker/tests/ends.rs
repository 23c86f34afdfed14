//! Restart policies, storage, and the order in which an instance is taken down.

use oak_model::RestartPolicy;

use super::*;

fn with_policy(policy: RestartPolicy) -> Fixture {
    Fixture::new(vec![with_spec(0, 1, |spec| spec.restart = policy)])
}

#[test]
fn the_restart_policy_decides_what_follows_an_end() {
    for (policy, exit, expected) in [
        (RestartPolicy::Always, OK, Some(Status::Dead)),
        (RestartPolicy::Always, CRASH, Some(Status::Failed)),
        (RestartPolicy::OnFailure, OK, None),
        (RestartPolicy::OnFailure, CRASH, Some(Status::Failed)),
        (RestartPolicy::Never, OK, None),
        (RestartPolicy::Never, CRASH, None),
    ] {
        let mut fixture = with_policy(policy);
        fixture.run(0);
        fixture.exit(at(0), 0, exit);
        let status = fixture.status(0).0;
        match expected {
            Some(word) => {
                assert!(matches!(fixture.phase(0), Phase::Waiting { .. }), "{policy:?} {exit:?}");
                assert_eq!(status, word);
            }
            None => {
                assert_eq!(fixture.phase(0), &Phase::Completed, "{policy:?} {exit:?}");
                assert_eq!(status, if exit == OK { Status::Completed } else { Status::Failed });
                assert_eq!(fixture.worker.next_deadline(), None);
                let reported = fixture.effects.iter().rev().find_map(|effect| match effect {
                    Effect::ToCluster(WorkerToCluster::Workload(report)) => Some(report.ended),
                    _ => None,
                });
                assert_eq!(reported, Some(true), "the cluster is told that it is final");
            }
        }
    }
}

#[test]
fn the_end_for_good_outlives_restarts_with_its_reason() {
    let mut fixture = with_policy(RestartPolicy::Never);
    fixture.run(0);
    fixture.exit(at(0), 0, CRASH);
    let said = fixture.status(0).1.to_owned();
    assert!(said.starts_with("exited with code 3 at ") && said.contains("restart policy is never"), "{said}");
    fixture.restart(&[]);
    assert_eq!(fixture.status(0), (Status::Failed, said.as_str()));
    fixture.welcome(vec![with_spec(0, 1, |spec| spec.restart = RestartPolicy::Never)]);
    assert_eq!(fixture.phase(0), &Phase::Completed);
    assert!(!fixture.effects.iter().any(|effect| matches!(effect, Effect::Prepare { .. })));
}

#[test]
fn what_must_not_be_restarted_is_not_started_again_when_nobody_saw_its_end() {
    let mut fixture = with_policy(RestartPolicy::Never);
    fixture.run(0);
    fixture.restart(&[]);
    assert_eq!(fixture.phase(0), &Phase::Completed);
    assert_eq!(fixture.status(0).0, Status::Failed);
    assert!(fixture.status(0).1.contains("not seen"), "{}", fixture.status(0).1);

    let mut fixture = with_policy(RestartPolicy::OnFailure);
    fixture.run(0);
    fixture.restart(&[(0, Found::Exited(OK))]);
    assert_eq!(fixture.status(0).0, Status::Completed);
}

#[test]
fn a_start_that_failed_is_tried_again_under_every_policy() {
    let mut fixture = with_policy(RestartPolicy::Never);
    fixture.prepared(0);
    let attempt = fixture.attempt(0);
    fixture.worker.failed(at(0), &mut SeededEntropy::new(1), key(0), attempt, "no such port");
    fixture.commit();
    assert!(matches!(fixture.phase(0), Phase::Waiting { .. }));
    fixture.restart(&[]);
    assert!(matches!(fixture.phase(0), Phase::Waiting { .. }), "it had never run");
}

#[test]
fn another_specification_starts_what_had_ended_for_good() {
    let mut fixture = with_policy(RestartPolicy::Never);
    fixture.run(0);
    fixture.exit(at(0), 0, CRASH);
    fixture.message(ClusterToWorker::Assign(with_spec(0, 2, |spec| spec.image = "new".into())));
    fixture.stopped(0);
    assert!(matches!(fixture.phase(0), Phase::Preparing { .. }));
    fixture.run(0);
    assert_eq!(fixture.status(0), (Status::Running, "running"));
}

#[test]
fn who_writes_too_much_is_ended_with_the_numbers() {
    let mut fixture = Fixture::new(vec![with_spec(0, 1, |spec| spec.resources.storage_mib = 100)]);
    fixture.run(0);
    let attempt = fixture.attempt(0);
    fixture.worker.overfull(at(0), &mut SeededEntropy::new(1), key(0), attempt, (119 << 20) + 1);
    fixture.commit();
    assert!(matches!(fixture.phase(0), Phase::Stopping { .. }));
    let said = fixture.status(0).1;
    assert!(said.starts_with("out of storage: 120 MiB written, limit 100 MiB; next attempt"), "{said}");
    fixture.stopped(0);
    assert!(matches!(fixture.phase(0), Phase::Waiting { .. }));
}

#[test]
fn an_instance_leaves_the_table_before_it_is_asked_to_end_and_keeps_its_connections() {
    let mut fixture = Fixture::new(vec![with_spec(0, 1, |spec| spec.stop_grace_s = Some(25))]);
    fixture.run(0);
    fixture.message(remove(0, 1));
    let Some(Effect::Stop { after, linger, grace, .. }) = fixture.effects.last().cloned() else {
        panic!("{:?}", fixture.effects.last())
    };
    assert_eq!(grace, Duration::from_secs(25));
    assert_eq!(linger, Settings::default().linger);
    assert_eq!(after, fixture.worker.network_version, "it is asked when the kernel has this table");
    let table = fixture.network();
    assert!(table.services.values().all(Vec::is_empty), "nothing new comes");
    assert_eq!(table.instances.len(), 1, "what is under way comes to its end");
    fixture.stopped(0);
    assert!(fixture.network().instances.is_empty());
}

#[test]
fn who_does_not_serve_is_stopped_without_delay() {
    let mut fixture = Fixture::new(vec![assignment(0, 1)]);
    fixture.message(remove(0, 1));
    let Some(Effect::Stop { linger, .. }) = fixture.effects.last() else { panic!("no stop") };
    assert_eq!(*linger, Duration::ZERO);
}

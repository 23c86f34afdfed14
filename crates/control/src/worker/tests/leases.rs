//! At most one: nothing runs without permission, or longer than it lasts.

use super::*;

const LEASE_MS: u64 = 10_000;

fn only_one(number: u32, incarnation: u64) -> Assignment {
    with_spec(number, incarnation, |spec| spec.at_most_one = true)
}

impl Fixture {
    /// Numbers of the questions since the last look.
    fn questions(&mut self) -> Vec<u64> {
        let questions = self.effects.iter().filter_map(|effect| match effect {
            Effect::ToCluster(WorkerToCluster::RenewLeases { question }) => Some(*question),
            _ => None,
        });
        let questions = questions.collect();
        self.effects.clear();
        questions
    }

    /// The cluster answers.
    fn answer(&mut self, ms: u64, question: u64, permitted: &[(u32, u64)]) {
        let instances =
            permitted.iter().map(|(number, incarnation)| (key(*number), Incarnation(*incarnation)));
        let instances = instances.collect();
        self.message_at(ms, ClusterToWorker::Leases { question, valid_for_ms: LEASE_MS, instances });
    }

    fn tick_at(&mut self, ms: u64) {
        self.worker.tick(at(ms), &mut self.entropy);
        self.commit();
    }

    /// Until when what was started since the last look may run.
    fn started_until(&self) -> Vec<Option<Moment>> {
        let starts = self.effects.iter().filter_map(|effect| match effect {
            Effect::Start { lease, .. } => Some(*lease),
            _ => None,
        });
        starts.collect()
    }

    fn renewed_until(&self) -> Vec<Moment> {
        let renewals = self.effects.iter().filter_map(|effect| match effect {
            Effect::Lease { until, .. } => Some(*until),
            _ => None,
        });
        renewals.collect()
    }
}

#[test]
fn it_is_not_started_without_permission() {
    let mut fixture = Fixture::new(vec![only_one(0, 4)]);
    let asked = fixture.questions();
    fixture.prepared(0);
    assert_eq!(fixture.phase(0), &Phase::AwaitingLease);
    assert!(fixture.status(0).1.contains("waiting for the permission of the cluster"));
    // One for another instance or attempt, and one nobody asked for, are none.
    let last = *asked.last().unwrap();
    fixture.answer(50, 999, &[(0, 4)]);
    fixture.answer(50, last, &[(1, 4), (0, 3)]);
    assert_eq!((fixture.phase(0), fixture.started_until()), (&Phase::AwaitingLease, vec![]));
    // It asks again, and the time counts from the question.
    fixture.tick_at(50 + LEASE_MS / 3);
    let [question] = fixture.questions()[..] else { panic!("one question") };
    fixture.answer(4_000, question, &[(0, 4)]);
    assert_eq!(fixture.started_until(), [Some(Moment(50 + LEASE_MS / 3 + LEASE_MS))]);
}

#[test]
fn others_need_no_permission() {
    let mut fixture = Fixture::new(vec![assignment(0, 1)]);
    assert!(fixture.questions().is_empty());
    fixture.prepared(0);
    assert_eq!(fixture.started_until(), [None]);
    assert_eq!(fixture.worker.leases.ask_at(), None);
}

#[test]
fn it_is_renewed_while_it_runs_and_nobody_asks_after_it_is_gone() {
    let mut fixture = Fixture::new(vec![only_one(0, 4)]);
    let question = *fixture.questions().last().unwrap();
    fixture.answer(10, question, &[(0, 4)]);
    fixture.run(0);
    fixture.questions();
    let due = fixture.worker.leases.ask_at().unwrap();
    assert_eq!(due, Moment(10 + LEASE_MS / 3));
    fixture.tick_at(due.0);
    let [question] = fixture.questions()[..] else { panic!("one question") };
    fixture.answer(due.0 + 20, question, &[(0, 4)]);
    assert_eq!(fixture.renewed_until(), [Moment(due.0 + LEASE_MS)]);
    // A late answer to an older question takes nothing away.
    fixture.tick_at(due.0 + 20 + LEASE_MS / 3);
    let [older] = fixture.questions()[..] else { panic!("one question") };
    fixture.tick_at(due.0 + 20 + 2 * (LEASE_MS / 3));
    let [newer] = fixture.questions()[..] else { panic!("one question") };
    fixture.answer(9_999, newer, &[(0, 4)]);
    let newest = fixture.renewed_until();
    fixture.effects.clear();
    fixture.answer(9_999, older, &[(0, 4)]);
    assert!(fixture.renewed_until().iter().all(|until| newest.contains(until)));

    fixture.message(remove(0, 4));
    fixture.stopped(0);
    fixture.questions();
    let due = fixture.worker.leases.ask_at();
    fixture.tick_at(due.map_or(0, |due| due.0));
    assert_eq!((fixture.questions(), fixture.worker.leases.ask_at()), (vec![], None));
}

#[test]
fn a_permission_that_is_nearly_over_starts_nothing() {
    let shortest = u64::try_from(SHORTEST_RUN.as_millis()).unwrap();
    for (left, starts) in [(shortest, true), (shortest - 1, false)] {
        let mut fixture = Fixture::new(vec![only_one(0, 4)]);
        let question = *fixture.questions().last().unwrap();
        fixture.answer(10, question, &[(0, 4)]);
        // The pull took long.
        let attempt = fixture.attempt(0);
        fixture.worker.prepared(at(LEASE_MS - left), key(0), attempt);
        fixture.commit();
        assert_eq!(fixture.started_until(), if starts { vec![Some(Moment(LEASE_MS))] } else { vec![] });
        assert_eq!(*fixture.phase(0) == Phase::AwaitingLease, !starts);
    }
}

#[test]
fn what_was_ended_for_lack_of_permission_waits_for_the_next_one() {
    let mut fixture = Fixture::new(vec![only_one(0, 4)]);
    let question = *fixture.questions().last().unwrap();
    fixture.answer(10, question, &[(0, 4)]);
    fixture.run(0);
    fixture.exit(at(LEASE_MS), 0, Exit { signal: Some(15), lease_ended: true, ..NONE });
    let (status, detail) = fixture.status(0);
    assert_eq!(status, Status::NodeScheduled, "nobody's fault");
    assert!(detail.starts_with("stopped, because the cluster could not renew its permission"), "{detail}");
    fixture.effects.clear();
    // Each attempt needs a permission of its own.
    let due = LEASE_MS + 2_000;
    fixture.tick_at(due);
    fixture.stopped(0);
    while !matches!(fixture.phase(0), Phase::AwaitingLease) {
        match fixture.phase(0) {
            Phase::Preparing { .. } => {
                let attempt = fixture.attempt(0);
                fixture.worker.prepared(at(due), key(0), attempt);
                fixture.commit();
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(fixture.started_until(), []);
}

/// The runtime keeps the end of the permission; the agent only has to ask again.
#[test]
fn an_adopted_one_goes_on_and_is_renewed() {
    let mut fixture = Fixture::new(vec![only_one(0, 4)]);
    let question = *fixture.questions().last().unwrap();
    fixture.answer(10, question, &[(0, 4)]);
    fixture.run(0);
    fixture.restart(&[(0, Found::Running)]);
    assert!(matches!(fixture.phase(0), Phase::Running { .. }));
    assert_eq!((fixture.questions(), fixture.stops()), (vec![], 0), "nobody is there to ask yet");
    fixture.welcome(vec![only_one(0, 4)]);
    let question = *fixture.questions().last().unwrap();
    fixture.answer(30, question, &[(0, 4)]);
    assert_eq!(fixture.renewed_until(), [Moment(LEASE_MS)]);
}

#[test]
fn one_that_did_not_survive_the_agent_is_not_started_without_the_cluster() {
    let mut fixture = Fixture::new(vec![only_one(0, 4), assignment(1, 5)]);
    let question = *fixture.questions().last().unwrap();
    fixture.answer(10, question, &[(0, 4)]);
    fixture.run(0);
    fixture.run(1);
    fixture.restart(&[]);
    fixture.tick();
    for number in [0, 1] {
        assert!(matches!(fixture.phase(number), Phase::Preparing { .. }), "{:?}", fixture.phase(number));
        fixture.prepared(number);
    }
    assert_eq!(fixture.phase(0), &Phase::AwaitingLease);
    assert_eq!(fixture.started_until(), [None], "the other one is");
}

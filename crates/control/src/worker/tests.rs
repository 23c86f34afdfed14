//! The rules of the worker, one by one.

mod ends;
mod health;
mod leases;
mod overlay;

use std::sync::Arc;

use oak_model::message::{ClusterToWorker, DesiredInstance, WorkerWelcome};
use oak_model::overlay::{OverlayChange, Vantage};
use oak_model::{
    ApplicationId, Generation, JobName, Now, Protocol, ServiceId, ServiceSpec, Status, Surroundings,
};

use super::*;
use crate::{Row, SeededEntropy};

const NONE: Exit = Exit { code: None, signal: None, out_of_memory: false, lease_ended: false };
const OK: Exit = Exit { code: Some(0), signal: None, ..NONE };
const CRASH: Exit = Exit { code: Some(3), signal: None, ..NONE };

fn at(ms: u64) -> Now {
    Now { moment: Moment(ms), wall: WallTime(1_000_000 + ms) }
}

fn key(number: u32) -> InstanceKey {
    InstanceKey { service: ServiceId::from_parts(1, 1), number }
}

fn assignment(number: u32, incarnation: u64) -> Assignment {
    let name = |text: &str| text.parse().unwrap();
    let last = u8::try_from(number).unwrap();
    Assignment {
        incarnation: Incarnation(incarnation),
        desired: DesiredInstance {
            key: key(number),
            generation: Generation(1),
            application: ApplicationId::from_parts(1, 1),
            job_name: JobName {
                application: name("app"),
                application_namespace: name("test"),
                service: name("web"),
                service_namespace: name("test"),
            },
            spec: Arc::new(ServiceSpec { image: "image".into(), ..ServiceSpec::default() }),
            service_addresses: vec![Ipv4Addr::new(10, 30, 0, 1)],
            policies: BTreeMap::new(),
            instance_address: Ipv4Addr::new(10, 30, 1, last),
            surroundings: Surroundings::default(),
            material: Vec::new(),
        },
        organization: None,
    }
}

fn with_spec(number: u32, incarnation: u64, change: impl FnOnce(&mut ServiceSpec)) -> Assignment {
    let mut assignment = assignment(number, incarnation);
    change(Arc::make_mut(&mut assignment.desired.spec));
    assignment
}

fn remove(number: u32, incarnation: u64) -> ClusterToWorker {
    ClusterToWorker::Remove { key: key(number), incarnation: Incarnation(incarnation) }
}

struct Fixture {
    worker: Worker,
    entropy: SeededEntropy,
    disk: BTreeMap<(Table, String), Vec<u8>>,
    effects: Vec<Effect>,
}

impl Fixture {
    /// A worker that was welcomed with these assignments.
    fn new(assignments: Vec<Assignment>) -> Self {
        let mut fixture = Self {
            worker: Worker::new(Settings::default()),
            entropy: SeededEntropy::new(7),
            disk: BTreeMap::new(),
            effects: Vec::new(),
        };
        fixture.welcome(assignments);
        fixture
    }

    fn commit(&mut self) {
        let outbox = self.worker.take_outbox();
        for row in outbox.rows {
            match row.document {
                Some(document) => self.disk.insert((row.table, row.key), document),
                None => self.disk.remove(&(row.table, row.key)),
            };
        }
        self.effects.extend(outbox.effects);
    }

    fn welcome(&mut self, assignments: Vec<Assignment>) {
        let subnet = "10.18.0.0/25".parse().unwrap();
        self.worker.welcome(
            at(0),
            WorkerWelcome {
                subnet,
                more_subnets: Vec::new(),
                assignments,
                overlay: OverlayChange::default(),
                vantage: Vantage::default(),
            },
        );
        self.commit();
    }

    fn message(&mut self, message: ClusterToWorker) {
        self.message_at(0, message);
    }

    fn message_at(&mut self, ms: u64, message: ClusterToWorker) {
        self.worker.message(at(ms), message);
        self.commit();
    }

    fn restart(&mut self, found: &[(u32, Found)]) -> BTreeMap<InstanceKey, Attempt> {
        let rows: Vec<_> = self
            .disk
            .iter()
            .map(|((table, key), document)| Row {
                table: *table,
                key: key.clone(),
                document: Some(document.clone()),
            })
            .collect();
        let found = found.iter().map(|(number, found)| (key(*number), *found)).collect();
        let (worker, adopted) = Worker::load(Settings::default(), at(0), &rows, &found).unwrap();
        self.worker = worker;
        self.effects.clear();
        self.commit();
        adopted
    }

    fn attempt(&self, number: u32) -> Attempt {
        self.worker.workload(key(number)).unwrap().attempt
    }

    fn phase(&self, number: u32) -> &Phase {
        self.worker.workload(key(number)).unwrap().phase()
    }

    fn status(&self, number: u32) -> (Status, &str) {
        let workload = self.worker.workload(key(number)).unwrap();
        (workload.status, &workload.detail)
    }

    fn prepared(&mut self, number: u32) {
        self.worker.prepared(at(0), key(number), self.attempt(number));
        self.commit();
    }

    fn run(&mut self, number: u32) {
        self.prepared(number);
        self.worker.started(at(0), key(number), self.attempt(number));
        self.commit();
        self.apply_tables();
        assert!(matches!(self.phase(number), Phase::Running { .. }));
    }

    fn apply_tables(&mut self) {
        self.worker.network_applied(self.worker.network_version, None);
        self.commit();
    }

    fn exit(&mut self, now: Now, number: u32, exit: Exit) {
        let attempt = self.attempt(number);
        self.worker.exited(now, &mut self.entropy, key(number), attempt, exit);
        self.commit();
    }

    fn stopped(&mut self, number: u32) {
        self.worker.stopped(at(0), key(number), self.attempt(number));
        self.commit();
    }

    fn tick(&mut self) -> Moment {
        let due = self.worker.next_deadline().unwrap();
        self.worker.tick(Now { moment: due, ..at(0) }, &mut self.entropy);
        self.commit();
        due
    }

    fn network(&self) -> NetworkTable {
        let last = self.effects.iter().rev().find_map(|effect| match effect {
            Effect::Network { table, .. } => Some(NetworkTable::clone(table)),
            _ => None,
        });
        last.unwrap_or_default()
    }

    fn confirmed(&self) -> Vec<(u32, u64)> {
        let removed = self.effects.iter().filter_map(|effect| match effect {
            Effect::ToCluster(WorkerToCluster::Removed { key, incarnation }) => {
                Some((key.number, incarnation.0))
            }
            _ => None,
        });
        removed.collect()
    }

    fn stops(&self) -> usize {
        self.effects.iter().filter(|effect| matches!(effect, Effect::Stop { .. })).count()
    }
}

#[test]
fn an_assignment_is_pulled_started_and_gets_traffic_only_when_it_runs() {
    let mut fixture = Fixture::new(vec![with_spec(0, 1, |spec| {
        spec.ports.push(PortMapping { host: 80, container: 8080, protocol: Protocol::Tcp });
    })]);
    assert!(matches!(fixture.phase(0), Phase::Preparing { .. }));
    fixture.prepared(0);
    assert_eq!(fixture.status(0).0, Status::Creating);
    let table = fixture.network();
    assert_eq!(table.services.len(), 1, "the service is refused here, not sent elsewhere");
    assert!(table.instances.is_empty() && table.ports.is_empty());

    fixture.worker.started(at(5), key(0), fixture.attempt(0));
    fixture.commit();
    assert_eq!(fixture.status(0), (Status::Creating, "opening its addresses"));
    fixture.apply_tables();
    assert_eq!(fixture.status(0), (Status::Running, "running"));
    let own = fixture.worker.workload(key(0)).unwrap().address().unwrap();
    let table = fixture.network();
    assert_eq!(table.services.values().next(), Some(&vec![own]));
    assert_eq!(table.instances.values().collect::<Vec<_>>(), [&own]);
    assert_eq!(table.ports.values().collect::<Vec<_>>(), [&vec![own]]);

    fixture.exit(at(10), 0, CRASH);
    assert!(fixture.network().instances.is_empty());
}

#[test]
fn an_instance_whose_addresses_cannot_be_opened_says_so() {
    let mut fixture = Fixture::new(vec![assignment(0, 1)]);
    fixture.prepared(0);
    fixture.worker.started(at(5), key(0), fixture.attempt(0));
    fixture.worker.network_applied(fixture.worker.network_version, Some("the table is locked"));
    fixture.commit();
    assert_eq!(fixture.status(0).0, Status::Running);
    assert!(fixture.status(0).1.contains("the table is locked"), "{}", fixture.status(0).1);
}

#[test]
fn a_process_that_ends_before_its_addresses_are_open_is_not_reported_as_running() {
    let mut fixture = Fixture::new(vec![assignment(0, 1)]);
    fixture.prepared(0);
    fixture.worker.started(at(5), key(0), fixture.attempt(0));
    fixture.exit(at(6), 0, CRASH);
    fixture.apply_tables();
    assert_eq!(fixture.status(0).0, Status::Failed);
}

#[test]
fn progress_is_shown_and_moves_the_deadline() {
    let mut fixture = Fixture::new(vec![assignment(0, 1)]);
    let before = fixture.worker.next_deadline().unwrap();
    fixture.worker.progress(at(1_000), key(0), fixture.attempt(0), "43 %".into());
    assert_eq!(fixture.status(0), (Status::NodeScheduled, "43 %"));
    assert!(fixture.worker.next_deadline().unwrap() > before);
}

#[test]
fn a_pull_without_progress_fails_and_is_tried_again() {
    let mut fixture = Fixture::new(vec![assignment(0, 1)]);
    fixture.tick();
    assert_eq!(fixture.status(0).0, Status::Failed);
    assert!(fixture.status(0).1.contains("no progress"));
    fixture.tick();
    assert!(matches!(fixture.phase(0), Phase::Preparing { .. }));
}

#[test]
fn back_off_grows_with_failures_and_starts_over_after_health() {
    let mut fixture = Fixture::new(vec![assignment(0, 1)]);
    let mut delays = Vec::new();
    for _ in 0..4 {
        fixture.run(0);
        fixture.exit(at(0), 0, CRASH);
        delays.push(fixture.tick());
    }
    assert!(delays.windows(2).all(|pair| pair[1] > pair[0]), "{delays:?}");
    assert!(fixture.status(0).1.contains("fetching"));

    fixture.run(0);
    let healthy = at(Settings::default().healthy_after.as_millis().try_into().unwrap());
    fixture.exit(healthy, 0, CRASH);
    assert!(fixture.tick() <= healthy.moment + Duration::from_secs(1));
}

#[test]
fn an_exit_is_explained() {
    for (exit, status, text) in [
        (OK, Status::Dead, "exited with code 0"),
        (CRASH, Status::Failed, "exited with code 3"),
        (Exit { code: None, signal: Some(9), ..NONE }, Status::Failed, "killed by signal 9"),
        (Exit { code: None, signal: Some(9), out_of_memory: true, ..NONE }, Status::Failed, "out of memory"),
    ] {
        let mut fixture = Fixture::new(vec![assignment(0, 1)]);
        fixture.run(0);
        fixture.exit(at(0), 0, exit);
        assert_eq!(fixture.status(0).0, status);
        assert!(fixture.status(0).1.contains(text), "{}", fixture.status(0).1);
    }
}

#[test]
fn a_one_shot_completes_and_never_runs_again_after_a_restart() {
    let once = with_spec(0, 1, |spec| spec.one_shot = true);
    let mut fixture = Fixture::new(vec![once.clone()]);
    fixture.run(0);
    fixture.exit(at(0), 0, OK);
    assert_eq!(fixture.phase(0), &Phase::Completed);
    fixture.restart(&[]);
    fixture.welcome(vec![once]);
    assert_eq!(fixture.phase(0), &Phase::Completed);
    assert_eq!(fixture.worker.next_deadline(), None);
    assert!(!fixture.effects.iter().any(|effect| matches!(effect, Effect::Prepare { .. })));
}

#[test]
fn a_one_shot_that_ended_while_nobody_watched_is_completed() {
    let mut fixture = Fixture::new(vec![with_spec(0, 1, |spec| spec.one_shot = true)]);
    fixture.run(0);
    fixture.restart(&[(0, Found::Exited(OK))]);
    assert_eq!(fixture.phase(0), &Phase::Completed);
    fixture.restart(&[]);
    assert_eq!(fixture.phase(0), &Phase::Completed, "it was stored");
}

#[test]
fn a_failing_one_shot_is_tried_again() {
    let mut fixture = Fixture::new(vec![with_spec(0, 1, |spec| spec.one_shot = true)]);
    fixture.run(0);
    fixture.exit(at(0), 0, CRASH);
    assert!(matches!(fixture.phase(0), Phase::Waiting { .. }));
}

#[test]
fn an_agent_restart_adopts_what_runs_and_starts_the_rest_without_its_cluster() {
    let mut fixture = Fixture::new(vec![assignment(0, 1), assignment(1, 2)]);
    fixture.run(0);
    fixture.run(1);
    let addresses: Vec<_> = fixture.worker.workloads().map(Workload::address).collect();
    let adopted = fixture.restart(&[(0, Found::Running)]);
    assert_eq!(adopted.keys().collect::<Vec<_>>(), [&key(0)]);
    assert!(matches!(fixture.phase(0), Phase::Running { .. }));
    assert_eq!(fixture.stops(), 0, "nothing is touched");
    assert_eq!(fixture.network().instances.len(), 1);
    fixture.tick();
    assert!(matches!(fixture.phase(1), Phase::Preparing { .. }));
    assert_eq!(fixture.worker.workloads().map(Workload::address).collect::<Vec<_>>(), addresses);

    // The end of an adopted process is told under the attempt that was handed out.
    fixture.worker.exited(at(0), &mut SeededEntropy::new(1), key(0), adopted[&key(0)], CRASH);
    assert!(matches!(fixture.phase(0), Phase::Waiting { .. }));
}

#[test]
fn a_worker_that_boots_starts_nothing_that_was_lost_meanwhile() {
    let mut fixture = Fixture::new(vec![assignment(0, 1), assignment(1, 2)]);
    fixture.run(0);
    fixture.run(1);
    fixture.restart(&[]);
    assert!([0, 1].iter().all(|number| matches!(fixture.phase(*number), Phase::Waiting { .. })));
    fixture.welcome(vec![assignment(1, 2)]);
    assert!(matches!(fixture.phase(0), Phase::Stopping { .. }));
    assert!(matches!(fixture.phase(1), Phase::Preparing { .. }), "at once, not after the boot grace");
}

#[test]
fn a_returning_worker_stops_what_it_lost() {
    let mut fixture = Fixture::new(vec![assignment(0, 1), assignment(1, 2)]);
    fixture.run(0);
    fixture.run(1);
    fixture.welcome(vec![assignment(1, 2)]);
    assert!(matches!(fixture.phase(0), Phase::Stopping { .. }));
    assert!(matches!(fixture.phase(1), Phase::Running { .. }));
    fixture.stopped(0);
    assert!(fixture.worker.workload(key(0)).is_none());
    assert_eq!(fixture.confirmed(), [(0, 1)]);
    fixture.restart(&[]);
    assert!(fixture.worker.workload(key(0)).is_none());
}

#[test]
fn removing_while_pulling_starts_nothing() {
    let mut fixture = Fixture::new(vec![assignment(0, 1)]);
    let pull = fixture.attempt(0);
    fixture.message(remove(0, 1));
    fixture.worker.prepared(at(0), key(0), pull);
    fixture.commit();
    assert!(!fixture.effects.iter().any(|effect| matches!(effect, Effect::Start { .. })));
    fixture.stopped(0);
    assert_eq!(fixture.confirmed(), [(0, 1)]);
}

#[test]
fn a_removal_outlives_a_restart() {
    let mut fixture = Fixture::new(vec![assignment(0, 1)]);
    fixture.run(0);
    fixture.message(remove(0, 1));
    fixture.restart(&[(0, Found::Running)]);
    assert!(matches!(fixture.phase(0), Phase::Stopping { .. }));
    assert_eq!(fixture.stops(), 1);
}

#[test]
fn what_is_not_here_is_confirmed_as_removed() {
    let mut fixture = Fixture::new(vec![]);
    fixture.message(remove(4, 9));
    assert_eq!(fixture.confirmed(), [(4, 9)]);
}

#[test]
fn another_process_replaces_the_present_one_also_while_that_starts() {
    let mut fixture = Fixture::new(vec![assignment(0, 1)]);
    fixture.prepared(0);
    let start = fixture.attempt(0);
    fixture.message(ClusterToWorker::Assign(with_spec(0, 2, |spec| spec.image = "new".into())));
    fixture.worker.started(at(0), key(0), start);
    assert!(matches!(fixture.phase(0), Phase::Stopping { .. }), "the late result is ignored");
    fixture.stopped(0);
    assert_eq!(fixture.worker.workload(key(0)).unwrap().incarnation(), Incarnation(2));
    assert!(
        matches!(fixture.effects.last(), Some(Effect::ToCluster(_)))
            && fixture
                .effects
                .iter()
                .any(|effect| matches!(effect, Effect::Prepare { image, .. } if image == "new"))
    );
}

#[test]
fn the_same_process_under_a_new_number_is_left_alone() {
    let mut fixture = Fixture::new(vec![assignment(0, 1)]);
    fixture.run(0);
    fixture.message(ClusterToWorker::Assign(assignment(0, 5)));
    assert!(matches!(fixture.phase(0), Phase::Running { .. }));
    assert_eq!(fixture.worker.workload(key(0)).unwrap().incarnation(), Incarnation(5));
    assert_eq!(fixture.stops(), 0);
}

#[test]
fn older_orders_are_refused_also_while_a_newer_one_waits() {
    let mut fixture = Fixture::new(vec![assignment(0, 5)]);
    fixture.run(0);
    fixture.message(ClusterToWorker::Assign(with_spec(0, 4, |spec| spec.image = "old".into())));
    fixture.message(remove(0, 4));
    assert!(matches!(fixture.phase(0), Phase::Running { .. }));

    fixture.message(ClusterToWorker::Assign(with_spec(0, 8, |spec| spec.image = "new".into())));
    fixture.message(ClusterToWorker::Assign(with_spec(0, 7, |spec| spec.image = "old".into())));
    fixture.message(remove(0, 7));
    fixture.stopped(0);
    assert_eq!(fixture.worker.workload(key(0)).unwrap().assignment().desired.spec.image, "new");
}

#[test]
fn going_back_to_the_present_process_drops_the_replacement_that_waited() {
    let mut fixture = Fixture::new(vec![assignment(0, 1)]);
    fixture.run(0);
    fixture.message(ClusterToWorker::Assign(with_spec(0, 2, |spec| spec.image = "other".into())));
    fixture.message(ClusterToWorker::Assign(assignment(0, 3)));
    fixture.stopped(0);
    let workload = fixture.worker.workload(key(0)).unwrap();
    assert_eq!(
        (workload.incarnation(), &*workload.assignment().desired.spec.image),
        (Incarnation(3), "image")
    );
}

/// Found by the system test: the cluster waited for ever for the confirmation of the newer incarnation.
#[test]
fn removing_what_waits_for_the_stop_of_an_older_one_confirms_the_newer() {
    let mut fixture = Fixture::new(vec![assignment(0, 3)]);
    fixture.run(0);
    fixture.welcome(vec![]);
    fixture.message(ClusterToWorker::Assign(assignment(0, 5)));
    fixture.message(remove(0, 5));
    fixture.stopped(0);
    assert!(fixture.worker.workload(key(0)).is_none());
    assert_eq!(fixture.confirmed(), [(0, 5)]);
}

#[test]
fn what_comes_back_during_its_removal_starts_after_the_stop() {
    let mut fixture = Fixture::new(vec![assignment(0, 3)]);
    fixture.run(0);
    fixture.welcome(vec![]);
    fixture.message(ClusterToWorker::Assign(assignment(0, 5)));
    assert!(matches!(fixture.phase(0), Phase::Stopping { .. }));
    fixture.stopped(0);
    assert_eq!(fixture.confirmed(), [(0, 3)]);
    assert!(matches!(fixture.phase(0), Phase::Preparing { .. }));
    assert_eq!(fixture.worker.workload(key(0)).unwrap().incarnation(), Incarnation(5));
}

#[test]
fn a_start_that_hangs_is_stopped_before_the_next_attempt() {
    let mut fixture = Fixture::new(vec![assignment(0, 1)]);
    fixture.prepared(0);
    fixture.tick();
    assert!(matches!(fixture.phase(0), Phase::Stopping { .. }));
    assert!(fixture.status(0).1.contains("took too long"));
    fixture.stopped(0);
    assert!(matches!(fixture.phase(0), Phase::Preparing { .. }));
}

#[test]
fn a_stop_without_answer_is_tried_again() {
    let mut fixture = Fixture::new(vec![assignment(0, 1)]);
    fixture.run(0);
    fixture.message(remove(0, 1));
    let first = fixture.attempt(0);
    fixture.tick();
    assert_eq!(fixture.stops(), 2);
    fixture.worker.stopped(at(0), key(0), first);
    assert!(fixture.worker.workload(key(0)).is_some(), "the answer to the first one is late");
    fixture.stopped(0);
    assert!(fixture.worker.workload(key(0)).is_none());
}

#[test]
fn a_full_subnet_is_an_explained_failure() {
    let mut fixture =
        Fixture::new((0..126).map(|number| assignment(number, u64::from(number) + 1)).collect());
    let without: Vec<_> =
        fixture.worker.workloads().filter(|w| w.address().is_none()).map(|w| w.key().number).collect();
    assert_eq!(without, [125]);
    fixture.prepared(125);
    assert!(fixture.status(125).1.contains("addresses"), "{}", fixture.status(125).1);
    fixture.message(remove(3, 4));
    fixture.stopped(3);
    fixture.tick();
    fixture.run(125);
}

#[test]
fn a_further_subnet_changes_nothing_for_those_that_run() {
    let all: Vec<_> = (0..126).map(|number| assignment(number, u64::from(number) + 1)).collect();
    let mut fixture = Fixture::new(all);
    fixture.run(0);
    let before: Vec<_> = fixture.worker.workloads().map(Workload::address).collect();
    let subnets: Vec<Ipv4Net> = ["10.18.0.0/25", "10.18.5.0/25"].map(|text| text.parse().unwrap()).to_vec();
    fixture.message(ClusterToWorker::MoreSubnets(vec![subnets[1]]));
    fixture.prepared(125);
    let mut expected = before;
    expected[125] = Some(Ipv4Addr::new(10, 18, 5, 2));
    assert_eq!(fixture.worker.workloads().map(Workload::address).collect::<Vec<_>>(), expected);
    assert_eq!(fixture.status(0).0, Status::Running);
    fixture.restart(&[(0, Found::Running)]);
    assert_eq!(fixture.worker.subnets(), subnets);
    assert_eq!(fixture.worker.workloads().map(Workload::address).collect::<Vec<_>>(), expected);
}

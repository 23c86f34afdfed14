//! Replicas, scaling, updates: against a cluster that does at once what it is told.

mod back;
mod quotas;

use oak_model::sla::ServiceRequest;
use oak_model::{RolloutState, UpdateOrder, UpdatePolicy};
use proptest::prelude::*;

use super::*;

/// What the cluster does with an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Runs,
    Fails,
    /// It is fetching the image and never comes to an end.
    Hangs,
}

/// A root and one cluster, with a clock.
struct Site {
    fixture: Fixture,
    cluster: ClusterId,
    now: u64,
    session: u64,
    /// What the cluster has, with the image and how often it failed.
    held: BTreeMap<InstanceKey, (Generation, String, u32)>,
    /// Removals that were not confirmed.
    leaving: Vec<InstanceKey>,
    read: usize,
    confirms: bool,
    /// The fewest running instances since the last look.
    least: usize,
    most: usize,
}

fn image(name: &str) -> ServiceSpec {
    ServiceSpec { image: name.into(), ..memory(10) }
}

fn wanted(spec: ServiceSpec, replicas: Option<u32>) -> ServiceRequest {
    let policy = UpdatePolicy { min_ready_s: 1, deadline_s: 60, ..UpdatePolicy::default() };
    let mut request = ServiceRequest { replicas, update: policy, ..request("web", spec) };
    request.document.insert("code".into(), request.spec.image.clone().into());
    if let Some(replicas) = replicas {
        request.document.insert("replicas".into(), replicas.into());
    }
    request
}

const fn fate(image: &str) -> Fate {
    match image.as_bytes().first() {
        Some(b'b') => Fate::Fails,
        Some(b'h') => Fate::Hangs,
        _ => Fate::Runs,
    }
}

impl Site {
    fn new(memory_mib: u32) -> Self {
        let mut fixture = Fixture::new();
        let cluster = fixture.connected("east", memory_mib);
        Self {
            fixture,
            cluster,
            now: 0,
            session: 1,
            held: BTreeMap::new(),
            leaving: Vec::new(),
            read: 0,
            confirms: true,
            least: usize::MAX,
            most: 0,
        }
    }

    fn now(&self) -> Now {
        at(self.now)
    }

    fn create(&mut self, request: ServiceRequest) -> ServiceId {
        self.create_of(&admin(), request)
    }

    fn create_of(&mut self, owner: &Owner, request: ServiceRequest) -> ServiceId {
        let application = ApplicationRequest {
            application_id: None,
            name: "app".parse().unwrap(),
            namespace: "test".parse().unwrap(),
            description: String::new(),
            services: vec![request],
            other: serde_json::Map::new(),
        };
        let (now, root) = (self.now(), &mut self.fixture.root);
        let created =
            root.create_applications(now, &mut self.fixture.entropy, owner, vec![application]).unwrap();
        let id = root.application(created[0]).unwrap().services[0];
        self.fixture.commit();
        id
    }

    /// The cluster does what it was told, and everything that is due happens.
    fn step(&mut self) {
        let sent: Vec<_> = self.fixture.sent[self.read..].to_vec();
        self.read = self.fixture.sent.len();
        for (_, message) in sent {
            match message {
                RootToCluster::Set(desired) => {
                    let failed = self.held.get(&desired.key).map_or(0, |held| held.2);
                    let image = desired.spec.image.clone();
                    self.held.insert(desired.key, (desired.generation, image, failed));
                }
                RootToCluster::Remove { key, .. } => {
                    self.held.remove(&key);
                    self.leaving.push(key);
                }
                _ => {}
            }
        }
        let now = self.now();
        let held: Vec<_> = self.held.iter().map(|(key, held)| (*key, held.clone())).collect();
        for (key, (generation, image, failed)) in held {
            // What fails starts anew with every second step.
            let report = match (fate(&image), failed % 2) {
                (Fate::Runs, _) => running(key, generation),
                (Fate::Fails, 0) => InstanceReport {
                    status: Status::Failed,
                    detail: "bad".into(),
                    ..running(key, generation)
                },
                (Fate::Fails, _) | (Fate::Hangs, _) => InstanceReport {
                    status: Status::NodeScheduled,
                    detail: "fetching".into(),
                    ..running(key, generation)
                },
            };
            if let Some(held) = self.held.get_mut(&key) {
                held.2 += u32::from(fate(&image) == Fate::Fails);
            }
            let message = ClusterToRoot::Instances(vec![report]);
            self.fixture.root.cluster_message(now, self.cluster, self.session, message).unwrap();
        }
        if self.confirms {
            for key in std::mem::take(&mut self.leaving) {
                let message = ClusterToRoot::Removed(vec![key]);
                self.fixture.root.cluster_message(now, self.cluster, self.session, message).unwrap();
            }
        }
        self.fixture.commit();
        while self.fixture.root.next_deadline().is_some_and(|due| due <= now.moment) {
            self.fixture.root.tick(now);
            self.fixture.commit();
        }
        let runs = self.held.values().filter(|held| fate(&held.1) == Fate::Runs).count();
        self.least = self.least.min(runs);
        self.most = self.most.max(self.held.len() + self.leaving.len());
        self.now += 500;
    }

    fn steps(&mut self, count: usize) {
        (0..count).for_each(|_| self.step());
    }

    fn count_from_here(&mut self) {
        (self.least, self.most) = (usize::MAX, 0);
    }

    fn change(&mut self, id: ServiceId, request: ServiceRequest) -> Result<Change, Refusal> {
        let changed = self.fixture.root.change_service(self.now(), id, request);
        self.fixture.commit();
        changed
    }

    fn progress(&self, id: ServiceId) -> Option<Progress> {
        let service = self.fixture.root.service(id).unwrap();
        self.fixture.root.progress(self.now(), service)
    }

    fn state(&self, id: ServiceId) -> Option<RolloutState> {
        self.progress(id).map(|progress| progress.state)
    }

    /// Numbers and images of what the root wants.
    fn instances(&self, id: ServiceId) -> Vec<(u32, String)> {
        let service = self.fixture.root.service(id).unwrap();
        let image = |instance: &Instance| service.spec_of(instance.revision).image.clone();
        self.fixture.root.instances_of(id).map(|i| (i.key.number, image(i))).collect()
    }

    fn numbers(&self, id: ServiceId) -> Vec<u32> {
        self.instances(id).into_iter().map(|(number, _)| number).collect()
    }

    /// The root is killed and starts from its rows; the cluster connects again.
    fn kill_root(&mut self) {
        let confirmed = self.leaving.clone();
        self.fixture.restart();
        // Its moments begin anew; so do ours.
        self.now = 0;
        self.session += 1;
        self.read = self.fixture.sent.len();
        let reports: Vec<_> = self
            .held
            .iter()
            .map(|(key, held)| InstanceReport {
                status: if fate(&held.1) == Fate::Runs { Status::Running } else { Status::NodeScheduled },
                detail: "running".into(),
                ..running(*key, held.0)
            })
            .collect();
        self.fixture.open(self.cluster, self.session, 10_000, reports);
        self.leaving = confirmed;
        let welcome = self.fixture.welcomes.last().unwrap().clone();
        let wanted: BTreeMap<_, _> = welcome.instances.into_iter().map(|d| (d.key, d)).collect();
        let gone: Vec<_> = self.held.keys().copied().filter(|key| !wanted.contains_key(key)).collect();
        for key in gone {
            self.held.remove(&key);
            self.leaving.push(key);
        }
        for (key, desired) in wanted {
            let failed = self.held.get(&key).map_or(0, |held| held.2);
            self.held.insert(key, (desired.generation, desired.spec.image.clone(), failed));
        }
    }
}

#[test]
fn a_service_keeps_its_number_of_instances_by_itself() {
    let mut site = Site::new(10_000);
    let id = site.create(wanted(image("one"), Some(3)));
    site.steps(3);
    assert_eq!(site.numbers(id), [0, 1, 2]);

    let scaled = site.fixture.root.scale(site.now(), id, 5).unwrap();
    assert_eq!((scaled.created, scaled.removed), (vec![3, 4], vec![]));
    let scaled = site.fixture.root.scale(site.now(), id, 2).unwrap();
    assert_eq!((scaled.created, scaled.removed), (vec![], vec![4, 3, 2]));
    site.fixture.commit();
    site.steps(4);
    assert_eq!(site.numbers(id), [0, 1], "highest numbers go first");

    // One by one as ever: the number follows.
    site.fixture.root.deploy(site.now(), id).unwrap();
    site.fixture.root.undeploy(site.now(), InstanceKey { service: id, number: 0 }).unwrap();
    site.steps(4);
    assert_eq!(site.numbers(id), [1, 5]);
    let service = site.fixture.root.service(id).unwrap();
    assert_eq!((service.upkeep.replicas, &service.document["replicas"]), (Some(2), &2.into()));
    site.fixture.root.undeploy_all(site.now(), id).unwrap();
    site.steps(4);
    assert_eq!(site.numbers(id), [0; 0]);
}

#[test]
fn a_number_that_is_what_it_was_writes_and_tells_nothing() {
    let mut site = Site::new(10_000);
    let id = site.create(wanted(image("one"), Some(2)));
    site.steps(4);
    site.fixture.root.scale(site.now(), id, 2).unwrap();
    assert!(site.fixture.root.take_outbox().is_empty());
    site.fixture.root.scale(site.now(), id, 0).unwrap();
    let _ = site.fixture.root.take_outbox();
    site.fixture.root.undeploy_all(site.now(), id).unwrap();
    assert!(site.fixture.root.take_outbox().is_empty());
}

#[test]
fn without_replicas_nothing_is_created_by_itself() {
    let mut site = Site::new(10_000);
    let id = site.create(wanted(image("one"), None));
    let key = site.fixture.root.deploy(site.now(), id).unwrap();
    site.steps(3);
    site.fixture.root.undeploy(site.now(), key).unwrap();
    site.steps(3);
    assert_eq!(site.numbers(id), [0; 0]);
    // Scaling it sets the number.
    site.fixture.root.scale(site.now(), id, 2).unwrap();
    assert_eq!(site.fixture.root.service(id).unwrap().upkeep.replicas, Some(2));
    let too_many = site.fixture.root.scale(site.now(), id, 1001);
    assert_eq!(too_many, Err(Refusal::TooManyReplicas));
}

#[test]
fn an_update_starts_the_new_one_before_it_stops_the_old_one() {
    let mut site = Site::new(10_000);
    let id = site.create(wanted(image("one"), Some(5)));
    site.steps(4);
    site.count_from_here();
    assert_eq!(site.change(id, wanted(image("two"), Some(5))), Ok(Change::Updating));
    site.step();
    assert_eq!(site.state(id), Some(RolloutState::Running));
    assert_eq!(site.instances(id).len(), 6, "one more, not five");
    site.steps(30);
    assert_eq!(site.state(id), Some(RolloutState::Done));
    assert!(site.instances(id).iter().all(|(number, image)| *number >= 5 && image == "two"));
    assert_eq!((site.least, site.most), (5, 6));
    assert_eq!(site.held.values().filter(|held| held.1 == "two").count(), 5);
    let service = site.fixture.root.service(id).unwrap();
    assert_eq!((service.upkeep.revision, service.spec.image.as_str()), (1, "two"));
}

#[test]
fn several_at_a_time_and_stop_first() {
    let mut site = Site::new(10_000);
    let mut first = wanted(image("one"), Some(6));
    first.update.parallel = 3;
    first.update.order = UpdateOrder::StopFirst;
    let id = site.create(first.clone());
    site.steps(4);
    site.count_from_here();
    let mut second = wanted(image("two"), Some(6));
    second.update = first.update;
    site.change(id, second).unwrap();
    site.steps(20);
    assert_eq!(site.state(id), Some(RolloutState::Done));
    assert_eq!(site.instances(id).len(), 6);
    assert!(site.least >= 3, "{}", site.least);
    assert!(site.most <= 9, "former ones leave while new ones come: {}", site.most);
}

#[test]
fn of_an_at_most_one_service_the_successor_waits_until_nothing_is_left() {
    let mut site = Site::new(10_000);
    let single = |name: &str| wanted(ServiceSpec { at_most_one: true, ..image(name) }, Some(1));
    let id = site.create(single("one"));
    site.steps(4);
    site.count_from_here();
    site.confirms = false;
    site.change(id, single("two")).unwrap();
    site.steps(200);
    assert_eq!(site.numbers(id), [0; 0], "the former one has not been confirmed gone");
    let progress = site.progress(id).unwrap();
    assert!(progress.detail.contains("because at most one may run"), "{progress:?}");
    site.confirms = true;
    site.steps(10);
    assert_eq!(site.instances(id), [(1, "two".to_owned())]);
    assert_eq!(site.state(id), Some(RolloutState::Done));
    assert_eq!(site.most, 1, "never two, not even for a moment");
}

#[test]
fn one_update_at_a_time_and_what_is_the_same_is_no_update() {
    let mut site = Site::new(10_000);
    let id = site.create(wanted(image("one"), Some(2)));
    site.steps(4);
    assert_eq!(site.change(id, wanted(image("one"), Some(2))), Ok(Change::Unchanged));
    assert_eq!(site.change(id, wanted(image("one"), None)), Ok(Change::Unchanged), "the number stays");
    assert_eq!(site.change(id, wanted(image("one"), Some(4))), Ok(Change::Stored));
    assert_eq!(site.numbers(id), [0, 1, 2, 3]);
    site.change(id, wanted(image("hangs"), Some(4))).unwrap();
    assert_eq!(site.change(id, wanted(image("hangs"), Some(4))), Ok(Change::Unchanged));
    let other = site.change(id, wanted(image("three"), Some(4)));
    assert!(matches!(other, Err(Refusal::UpdateRunning { revision: 1, .. })), "{other:?}");

    let renamed = ServiceRequest { name: "other".parse().unwrap(), ..wanted(image("one"), None) };
    assert!(matches!(site.change(id, renamed), Err(Refusal::Renamed { .. })));
    let address = Some("10.30.9.9".parse().unwrap());
    let moved = wanted(ServiceSpec { service_address: address, ..image("hangs") }, None);
    assert!(matches!(site.change(id, moved), Err(Refusal::AddressFixed { .. })));
}

#[test]
fn scaling_during_an_update_takes_no_risk() {
    let mut site = Site::new(10_000);
    let id = site.create(wanted(image("one"), Some(2)));
    site.steps(4);
    site.count_from_here();
    site.change(id, wanted(image("hangs"), Some(2))).unwrap();
    site.step();
    let scaled = site.fixture.root.scale(site.now(), id, 4).unwrap();
    assert_eq!(scaled.created.len(), 2);
    site.steps(3);
    let of_old = site.instances(id).iter().filter(|(_, image)| image == "one").count();
    assert_eq!(of_old, 4, "what is added has the revision that is known to work");
    site.fixture.root.scale(site.now(), id, 1).unwrap();
    site.steps(140);
    assert_eq!(site.state(id), Some(RolloutState::RolledBack));
    assert_eq!(site.instances(id), [(0, "one".to_owned())]);
}

#[test]
fn a_number_of_instances_in_an_update_takes_effect_when_it_is_done() {
    let mut site = Site::new(10_000);
    let id = site.create(wanted(image("one"), Some(2)));
    site.steps(4);
    site.change(id, wanted(image("two"), Some(5))).unwrap();
    site.steps(30);
    assert_eq!(site.state(id), Some(RolloutState::Done));
    assert_eq!(site.instances(id).len(), 5);
    assert!(site.instances(id).iter().all(|(_, image)| image == "two"));
}

#[test]
fn an_update_goes_on_after_the_root_was_killed_at_any_step() {
    for killed_after in 0..40 {
        let mut site = Site::new(10_000);
        let id = site.create(wanted(image("one"), Some(3)));
        site.steps(4);
        site.count_from_here();
        let target = if killed_after % 2 == 0 { "two" } else { "broken" };
        site.change(id, wanted(image(target), Some(3))).unwrap();
        site.steps(killed_after / 2);
        site.kill_root();
        site.steps(160);
        let expected = if target == "two" { RolloutState::Done } else { RolloutState::RolledBack };
        assert_eq!(site.state(id), Some(expected), "killed after {killed_after}");
        let runs = if target == "two" { "two" } else { "one" };
        assert_eq!(site.instances(id).len(), 3, "killed after {killed_after}");
        assert!(site.instances(id).iter().all(|(_, image)| image == runs));
        assert_eq!(site.held.len(), 3);
        assert!(site.least >= 3, "killed after {killed_after}: {} ran", site.least);
    }
}

#[test]
fn a_lost_cluster_stalls_an_update_and_does_not_fail_it() {
    let mut site = Site::new(10_000);
    let id = site.create(wanted(image("one"), Some(3)));
    site.steps(4);
    site.change(id, wanted(image("two"), Some(3))).unwrap();
    site.steps(2);
    site.fixture.root.cluster_closed(site.now(), site.cluster, site.session);
    let had = site.instances(id);
    for _ in 0..100 {
        site.now += 1_000;
        site.fixture.root.tick(site.now());
        site.fixture.commit();
    }
    assert_eq!(site.instances(id), had, "nobody knows whether the new one still runs");
    assert_eq!(site.state(id), Some(RolloutState::Running));
}

#[derive(Clone, Debug)]
enum Act {
    Step(u8),
    Change(u8, u8),
    Scale(u8),
    Deploy,
    Undeploy(u8),
    Back,
    Kill,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (1..8_u8).prop_map(Act::Step),
        3 => (0..5_u8, 0..5_u8).prop_map(|(image, replicas)| Act::Change(image, replicas)),
        1 => (0..6_u8).prop_map(Act::Scale),
        1 => Just(Act::Deploy),
        1 => (0..20_u8).prop_map(Act::Undeploy),
        1 => Just(Act::Back),
        1 => Just(Act::Kill),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_asked_for_comes_to_rest_in_one_revision_with_the_right_number(
        acts in proptest::collection::vec(act(), 1..25),
        parallel in 1..4_u32,
        stop_first in any::<bool>(),
        exclusive in any::<bool>(),
    ) {
        const IMAGES: [&str; 5] = ["one", "two", "three", "broken", "hangs"];
        let make = |index: u8, replicas: u32| {
            let spec = ServiceSpec { at_most_one: exclusive, ..image(IMAGES[usize::from(index)]) };
            let mut request = wanted(spec, Some(replicas));
            request.update.parallel = parallel;
            if stop_first {
                request.update.order = UpdateOrder::StopFirst;
            }
            request
        };
        let mut site = Site::new(10_000);
        let id = site.create(make(0, 3));
        for act in acts {
            match act {
                Act::Step(count) => site.steps(usize::from(count)),
                Act::Change(image, replicas) => {
                    let _ = site.change(id, make(image, u32::from(replicas)));
                }
                Act::Scale(replicas) => {
                    site.fixture.root.scale(site.now(), id, u32::from(replicas)).unwrap();
                    site.fixture.commit();
                }
                Act::Deploy => {
                    site.fixture.root.deploy(site.now(), id).unwrap();
                    site.fixture.commit();
                }
                Act::Undeploy(place) => {
                    let numbers = site.numbers(id);
                    if let Some(number) = numbers.get(usize::from(place)) {
                        let key = InstanceKey { service: id, number: *number };
                        site.fixture.root.undeploy(site.now(), key).unwrap();
                        site.fixture.commit();
                    }
                }
                Act::Back => {
                    let _ = site.fixture.root.roll_back(site.now(), id);
                    site.fixture.commit();
                }
                Act::Kill => site.kill_root(),
            }
            let rows = site.fixture.disk.len();
            prop_assert!(rows < 100, "{} rows", rows);
        }
        site.steps(400);
        let service = site.fixture.root.service(id).unwrap();
        let state = site.state(id);
        // Only what is asked to go back to something that does not run waits for somebody.
        let waits = service.upkeep.active().is_some() && fate(&service.spec.image) != Fate::Runs;
        if !waits {
            prop_assert!(service.upkeep.active().is_none(), "{:?} {:?}", state, service.upkeep);
            prop_assert_eq!(site.instances(id).len(), service.upkeep.replicas.unwrap() as usize);
            prop_assert!(site.instances(id).iter().all(|(_, image)| *image == service.spec.image));
            prop_assert!(service.upkeep.former.is_empty());
            prop_assert_eq!(site.held.len(), site.instances(id).len());
        }
        let counted = 1 + site.instances(id).len();
        prop_assert_eq!(site.fixture.root.addresses_in_use(), counted);
    }
}

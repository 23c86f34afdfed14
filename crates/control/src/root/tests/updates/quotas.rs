//! Quotas while services are changed: what was promised counts, and there is never more than that.

use oak_model::{OrganizationId, Revision};

use super::*;

const LAB: OrganizationId = OrganizationId::from_parts(1, 2);

fn bob() -> Owner {
    Owner { user: "bob".into(), organization: Some(LAB) }
}

/// A service of so many MiB.
fn sized(name: &str, memory_mib: u32, replicas: Option<u32>) -> ServiceRequest {
    let spec = image(name);
    wanted(ServiceSpec { resources: Resources { memory_mib, ..spec.resources }, ..spec }, replicas)
}

impl Site {
    fn limited(memory_mib: u64) -> Self {
        let mut site = Self::new(10_000);
        let quota = Quota { memory_mib: Some(memory_mib), ..Quota::default() };
        site.fixture.root.set_quota(LAB, quota);
        site.fixture.commit();
        site
    }

    fn used(&self) -> u64 {
        // In tests this compares the sums with a walk over everything.
        self.fixture.root.consumption(LAB).amount(QuotaKind::MemoryMib)
    }

    /// What the instances that there are take.
    fn taken(&self, id: ServiceId) -> u64 {
        let Some(service) = self.fixture.root.service(id) else { return 0 };
        let of = |instance: &Instance| u64::from(service.spec_of(instance.revision).resources.memory_mib);
        self.fixture.root.instances_of(id).map(of).sum()
    }
}

#[track_caller]
fn is_over_quota<T: std::fmt::Debug>(result: Result<T, Refusal>) -> OverQuota {
    match result {
        Err(Refusal::OverQuota(over)) => over,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_roll_back_to_a_larger_revision_is_held_against_the_quota() {
    let mut site = Site::limited(700);
    let id = site.create_of(&bob(), sized("one", 200, Some(2)));
    site.steps(4);
    site.change(id, sized("two", 50, Some(2))).unwrap();
    assert_eq!(site.used(), 600, "the update may fail, and has one to spare");
    site.steps(60);
    assert_eq!((site.state(id), site.used()), (Some(RolloutState::Done), 100));
    let eve = Owner { user: "eve".into(), ..bob() };
    let other = site.create_of(&eve, sized("other", 250, Some(1)));
    let _ = site.fixture.root.take_outbox();
    let over = is_over_quota(site.fixture.root.roll_back(site.now(), id));
    assert_eq!((over.limit, over.used, over.wanted, over.only_spare), (700, 350, 500, true));
    assert!(over.to_string().ends_with("\"stop-first\" the update needs nothing to spare"), "{over}");
    assert!(site.fixture.root.take_outbox().is_empty(), "nothing was changed");
    site.fixture.root.scale(site.now(), other, 0).unwrap();
    site.fixture.root.roll_back(site.now(), id).unwrap();
    site.fixture.commit();
    site.steps(60);
    assert_eq!((site.state(id), site.used()), (Some(RolloutState::RolledBack), 400));
}

#[test]
fn the_replicas_an_update_leads_to_are_taken_before_they_are_there() {
    let mut site = Site::limited(600);
    let id = site.create_of(&bob(), sized("one", 100, Some(1)));
    site.steps(4);
    site.change(id, sized("two", 100, Some(4))).unwrap();
    assert_eq!((site.instances(id).len(), site.used()), (2, 400), "the three missing come afterwards");
    let (now, root) = (site.now(), &mut site.fixture.root);
    is_over_quota(root.scale(now, id, 7));
    // The update would have another one to spare for every one it replaces.
    assert_eq!(root.scale(now, id, 5).unwrap().created.len(), 4);
    assert_eq!(site.used(), 600);
    is_over_quota(site.fixture.root.deploy(site.now(), id));
    site.steps(100);
    assert_eq!((site.instances(id).len(), site.used()), (5, 500));
}

#[test]
fn what_an_update_has_to_spare_counts_unless_the_old_one_goes_first() {
    let mut site = Site::limited(300);
    let id = site.create_of(&bob(), sized("one", 100, Some(3)));
    site.steps(4);
    let _ = site.fixture.root.take_outbox();
    let over = is_over_quota(site.fixture.root.change_service(site.now(), id, sized("two", 100, Some(3))));
    assert_eq!((over.used, over.wanted, over.only_spare), (300, 100, true));
    assert!(site.fixture.root.take_outbox().is_empty(), "nothing was changed");
    let stop_first = |name| {
        let mut request = sized(name, 100, Some(3));
        request.update.order = UpdateOrder::StopFirst;
        request
    };
    // The way back follows the former rules: they are the first to be changed.
    assert_eq!(site.change(id, stop_first("one")), Ok(Change::Stored));
    assert_eq!(site.change(id, stop_first("two")), Ok(Change::Updating));
    // Nor do other rules in the middle of it get more.
    let mut greedy = sized("two", 100, Some(3));
    greedy.update.parallel = 3;
    is_over_quota(site.change(id, greedy));
    site.steps(60);
    assert_eq!((site.state(id), site.used()), (Some(RolloutState::Done), 300));
}

#[test]
fn replacing_what_nobody_remembers_goes_beyond_the_quota_while_it_lasts() {
    let mut site = Site::limited(300);
    let id = site.create_of(&bob(), sized("one", 100, Some(3)));
    site.steps(4);
    // As if it had been found at a cluster that comes back to a root that was restored.
    let (now, root) = (site.now(), &mut site.fixture.root);
    let service = root.services.get_mut(&id).unwrap();
    let forgotten = Revision { number: 7, ..service.present() };
    service.upkeep.former.push(forgotten);
    root.instances.get_mut(&InstanceKey { service: id, number: 0 }).unwrap().revision = 7;
    root.recount(id);
    root.looks.by(now.moment, id);
    site.step();
    assert_eq!((site.state(id), site.used()), (Some(RolloutState::Running), 400));
    is_over_quota(site.fixture.root.deploy(site.now(), id));
    site.steps(60);
    assert_eq!((site.state(id), site.used()), (Some(RolloutState::Done), 300));
    assert_eq!(site.numbers(id), [1, 2, 3]);
}

/// Found by the property below.
#[test]
fn one_more_during_an_update_is_one_more_after_going_back_as_well() {
    let mut site = Site::limited(340);
    let id = site.create_of(&bob(), sized("one", 170, Some(1)));
    site.steps(4);
    let stop_first = |name, memory_mib, replicas| {
        let mut request = sized(name, memory_mib, Some(replicas));
        request.update.order = UpdateOrder::StopFirst;
        request
    };
    site.change(id, stop_first("one", 170, 1)).unwrap();
    site.change(id, stop_first("two", 100, 2)).unwrap();
    let over = is_over_quota(site.fixture.root.deploy(site.now(), id));
    assert_eq!((over.limit, over.wanted), (340, 310), "three of the former revision would be 510");
}

#[derive(Clone, Debug)]
enum Act {
    Step(u8),
    Change(u8, u8, u8, bool),
    Scale(u8),
    Deploy,
    Undeploy(u8),
    Back,
    Kill,
    Delete,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (1..8_u8).prop_map(Act::Step),
        4 => (0..4_u8, 0..5_u8, 1..4_u8, any::<bool>()).prop_map(|(i, r, p, s)| Act::Change(i, r, p, s)),
        1 => (0..6_u8).prop_map(Act::Scale),
        1 => Just(Act::Deploy),
        1 => (0..20_u8).prop_map(Act::Undeploy),
        2 => Just(Act::Back),
        1 => Just(Act::Kill),
        1 => Just(Act::Delete),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn there_is_never_more_than_the_quota_and_the_sums_are_those_of_a_walk(
        acts in proptest::collection::vec(act(), 1..30),
        replicas in proptest::option::of(0..4_u32),
        limit in 100..1_000_u64,
    ) {
        const REVISIONS: [(&str, u32); 4] = [("one", 100), ("two", 40), ("broken", 170), ("three", 90)];
        let mut site = Site::limited(limit);
        let mut id = site.create_of(&bob(), sized("one", 0, replicas));
        for act in acts {
            match act {
                Act::Step(count) => (0..count).for_each(|_| {
                    site.step();
                    assert!(site.taken(id) <= limit, "{} of {limit}", site.taken(id));
                }),
                Act::Change(revision, number, parallel, stop_first) => {
                    let (name, memory_mib) = REVISIONS[usize::from(revision)];
                    let mut request = sized(name, memory_mib, replicas.map(|_| number.into()));
                    request.update.parallel = parallel.into();
                    if stop_first {
                        request.update.order = UpdateOrder::StopFirst;
                    }
                    let _ = site.change(id, request);
                }
                Act::Scale(replicas) => {
                    let _ = site.fixture.root.scale(site.now(), id, replicas.into());
                }
                Act::Deploy => {
                    let _ = site.fixture.root.deploy(site.now(), id);
                }
                Act::Undeploy(place) => {
                    if let Some(number) = site.numbers(id).get(usize::from(place)) {
                        let key = InstanceKey { service: id, number: *number };
                        site.fixture.root.undeploy(site.now(), key).unwrap();
                    }
                }
                Act::Back => {
                    let _ = site.fixture.root.roll_back(site.now(), id);
                }
                Act::Kill => {
                    site.fixture.commit();
                    site.kill_root();
                }
                Act::Delete => {
                    let application = site.fixture.root.service(id).unwrap().application;
                    site.fixture.root.delete_application(site.now(), application).unwrap();
                    site.fixture.commit();
                    prop_assert_eq!(site.fixture.root.consumption(LAB), Consumption::default());
                    id = site.create_of(&bob(), sized("one", 0, replicas));
                }
            }
            site.fixture.commit();
            prop_assert_eq!(&site.fixture.root.counted(), &site.fixture.root.ledger);
            let (used, taken) = (site.used(), site.taken(id));
            prop_assert!(taken <= used && used <= limit, "{} taken, {} promised of {}", taken, used, limit);
        }
    }
}

//! Where instances go: random problems for a root with real clusters, and what people are told about them.

mod changes;
mod random;
mod world;

use oak_model::JobName;
use oak_placement::Change;

use self::random::Dice;
use self::world::World;
use super::*;

const PROBLEMS: u64 = 1_000;

/// Everything a root knows, in an order that does not depend on hashes.
fn picture(root: &Root) -> String {
    let fleets = root.clusters.values().map(|cluster| {
        let fleet = &cluster.fleet;
        let workers: Vec<_> =
            fleet.workers().map(|(id, state)| (id, state.clone(), fleet.reserved(id))).collect();
        let ports: Vec<Vec<_>> = workers.iter().map(|(id, ..)| fleet.host_ports(*id).collect()).collect();
        let hosts: Vec<_> = root.services.keys().map(|id| fleet.hosts_of(*id).count()).collect();
        (workers, ports, hosts, fleet.commitment(), &cluster.instances)
    });
    format!(
        "{:?} {:?} {:?} {:?} {:?} {:?} {} {} {:?}",
        root.meta,
        root.applications,
        root.services,
        root.linked,
        root.instances,
        root.pending,
        root.application_names.len(),
        root.addresses_in_use(),
        fleets.collect::<Vec<_>>()
    )
}

type Outcome = (JobName, u32, Result<(ClusterId, WorkerId), String>);

/// Where the instances of an application are, or with which words they were refused.
fn outcome(world: &World, application: ApplicationId) -> Vec<Outcome> {
    let services = &world.root.application(application).unwrap().services;
    let services = services.iter().map(|id| world.root.service(*id).unwrap());
    services
        .flat_map(|service| {
            world.root.instances_of(service.id).map(|instance| {
                let place = instance.cluster.zip(instance.worker);
                let refused = || format!("{}: {}", instance.status, instance.detail);
                (service.job_name.clone(), instance.key.number, place.ok_or_else(refused))
            })
        })
        .collect()
}

#[test]
fn dry_run_and_real_run_agree() {
    let (mut placed, mut refused) = (0, 0);
    for seed in 0..PROBLEMS {
        let mut dice = Dice::new(seed);
        let mut world = World::random(&mut dice);
        let request = dice.application("shop");
        let count = 1 + u32::try_from(dice.roll(3)).unwrap();
        let before = picture(&world.root);
        let plan =
            world.root.plan(at(0), &mut world.entropy, &admin(), vec![request.clone()], count).unwrap();
        assert_eq!(picture(&world.root), before, "seed {seed}: a plan leaves nothing behind");
        let planned: Vec<_> = plan
            .into_iter()
            .flat_map(|service| {
                service.instances.into_iter().map(move |instance| {
                    let outcome = instance
                        .outcome
                        .map(|place| (place.cluster, place.worker))
                        .map_err(|explained| format!("{}: {}", explained.status, explained.detail));
                    (service.job_name.clone(), instance.number, outcome)
                })
            })
            .collect();
        let application = world.create(request);
        world.deploy_all(application, count);
        let real = outcome(&world, application);
        assert_eq!(real, planned, "seed {seed}");
        placed += real.iter().filter(|(.., place)| place.is_ok()).count();
        refused += real.iter().filter(|(.., place)| place.is_err()).count();
    }
    assert!(
        placed > 500 && refused > 500,
        "{placed} placed, {refused} refused: the problems are too one-sided"
    );
}

#[test]
fn a_suggested_change_gets_a_pending_instance_placed() {
    let mut kinds = BTreeMap::<&'static str, u32>::new();
    let mut pending = 0;
    let mut seed = 0;
    while pending < PROBLEMS {
        seed += 1;
        let mut dice = Dice::new(seed);
        let mut world = World::random(&mut dice);
        let application = world.create(dice.application("shop"));
        world.deploy_all(application, 2);
        let Some(key) = world.root.pending.iter().next() else { continue };
        pending += 1;
        // Others must not take what is made free for this one.
        let others: Vec<_> = world.root.pending.iter().filter(|other| *other != key).collect();
        for other in others {
            world.root.undeploy(at(0), other).unwrap();
        }
        let explained = world.root.explain(at(0), key.service, Some(key.number)).unwrap();
        assert_eq!(explained.place, None);
        assert!(!explained.changes.is_empty(), "seed {seed}: {explained:#?}");
        for change in &explained.changes {
            *kinds.entry(changes::kind(change)).or_default() += 1;
            world.make(key.service, change);
        }
        world.retry();
        let instance = world.root.instance(key).unwrap();
        let told: Vec<_> = explained.changes.iter().map(ToString::to_string).collect();
        let now = (instance.status, &instance.detail);
        assert!(instance.worker.is_some(), "seed {seed}: after {told:?} it is {now:?}\n{explained:#?}");
    }
    assert!(kinds.len() >= 12, "few kinds of changes were needed: {kinds:?}");
}

#[test]
fn every_refusal_names_the_binding_rule_of_every_worker() {
    for seed in 0..PROBLEMS {
        let mut dice = Dice::new(seed);
        let mut world = World::random(&mut dice);
        let application = world.create(dice.application("shop"));
        for service in world.root.application(application).unwrap().services.clone() {
            let explained = world.root.explain(at(0), service, None).unwrap();
            let able = explained.clusters.iter().filter(|cluster| cluster.reasons.is_empty());
            let able = able.flat_map(|cluster| &cluster.workers);
            let able = able.filter(|worker| worker.verdict.reasons.is_empty()).count();
            assert_eq!(able > 0, explained.place.is_some(), "seed {seed}");
            let chosen = explained.clusters.iter().flat_map(|cluster| &cluster.workers).filter(|w| w.chosen);
            assert_eq!(chosen.count(), usize::from(explained.place.is_some()), "seed {seed}");
            if explained.place.is_some() || explained.clusters.is_empty() {
                continue;
            }
            // The sentence repeats what the workers say.
            let asked = explained.clusters.iter().filter(|cluster| cluster.reasons.is_empty());
            for cluster in asked.take(4) {
                let first = cluster.workers.iter().find_map(|worker| worker.verdict.reasons.first());
                let words = first.map_or_else(|| "no workers".to_owned(), ToString::to_string);
                assert!(explained.detail.contains(&words), "seed {seed}: {words}\n{}", explained.detail);
            }
        }
    }
}

#[test]
fn explaining_changes_nothing() {
    for seed in 0..100 {
        let mut dice = Dice::new(seed);
        let mut world = World::random(&mut dice);
        let application = world.create(dice.application("shop"));
        world.deploy_all(application, 2);
        let before = picture(&world.root);
        let keys: Vec<_> = world.root.instances.keys().copied().collect();
        for key in keys {
            let explained = world.root.explain(at(0), key.service, Some(key.number)).unwrap();
            let instance = world.root.instance(key).unwrap();
            assert_eq!(explained.place, instance.cluster.zip(instance.worker));
            if let Some((cluster, worker)) = explained.place {
                let first = &explained.clusters[0];
                assert_eq!(
                    (first.id, first.workers[0].verdict.id),
                    (cluster, worker),
                    "the chosen one comes first"
                );
            }
        }
        assert_eq!(picture(&world.root), before, "seed {seed}");
        assert!(world.root.take_outbox().is_empty());
    }
}

#[test]
fn the_smallest_change_is_named_with_its_numbers() {
    let mut world = World::new();
    let site = world.add_site("c0");
    world.connect(site);
    world.add_worker(site, |facts| facts.capacity.memory_mib = 512);
    let spec = |change: &dyn Fn(&mut ServiceSpec)| {
        let mut spec = memory(100);
        change(&mut spec);
        spec
    };
    let mut suggestion = |name: &str, change: &dyn Fn(&mut ServiceSpec)| {
        let application = world.create(random::application(name, vec![(name, spec(change))]));
        let service = world.root.application(application).unwrap().services[0];
        let explained = world.root.explain(at(0), service, None).unwrap();
        explained.changes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(suggestion("fits", &|_| {}), "");
    assert_eq!(suggestion("big", &|spec| spec.resources.memory_mib = 800), "lower memory from 800 to 512");
    assert_eq!(
        suggestion("far", &|spec| spec.target.clusters = vec!["west".into()]),
        "add cluster c0 to the clusters of the direct or clusters constraint"
    );
    assert_eq!(
        suggestion("needs", &|spec| spec.target.needs = vec!["gpu".into()]),
        "remove `gpu` from the needs of the addons constraint, or give a worker this label"
    );
    assert_eq!(
        suggestion("gpu", &|spec| spec.resources.gpus = 1),
        "add a worker to cluster c0 with 100 MiB memory, 0.1 CPU, 1 GPUs free"
    );
    let worker = world.sites[site].workers[0].id;
    world.sites[site].cluster.set_availability(at(0), worker, Availability::Cordoned);
    world.settle();
    let application = world.create(random::application("closed", vec![("closed", memory(100))]));
    let service = world.root.application(application).unwrap().services[0];
    let explained = world.root.explain(at(0), service, None).unwrap();
    assert!(matches!(explained.changes[..], [Change::Uncordon { .. }]), "{:?}", explained.changes);
}

//! Roles are killed at random moments while users create, deploy, undeploy and delete; nothing acknowledged is lost,
//! nothing runs twice, nothing is left behind.
//!
//! `OAK_CHAOS_ROUNDS` sets the number of rounds (6), `OAK_CHAOS_SEED` repeats the decisions of an earlier run.

mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use oak_e2e::{
    Api, Footprint, Machines, Oak, Tiers, World, container_cgroups, eventually, let_pass, processes_of,
};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

use record::Record;

/// Placing, pulling and starting take a second or two; restarts with back-off some more.
const CONVERGED: Duration = Duration::from_secs(60);

#[test]
fn one_worker_survives_chaos() -> anyhow::Result<()> {
    chaos("chaos_one", 1)
}

#[test]
fn two_workers_survive_chaos() -> anyhow::Result<()> {
    chaos("chaos_two", 2)
}

#[allow(clippy::print_stderr, reason = "for the person who wants to repeat a run")]
fn chaos(name: &str, workers: u8) -> anyhow::Result<()> {
    let rounds = number("OAK_CHAOS_ROUNDS")?.unwrap_or(6);
    let seed = number("OAK_CHAOS_SEED")?.unwrap_or_else(|| StdRng::from_os_rng().random());
    eprintln!("{name}: {rounds} rounds, repeat with OAK_CHAOS_SEED={seed}");
    World::run(name, |world| {
        let machines = Machines::create(world, workers)?;
        let mut tiers = Tiers::start(world, &machines)?;
        let mut random = StdRng::seed_from_u64(seed);
        let mut record = Record::default();
        let mut pids = Pids::new();
        for round in 0..rounds {
            // Every third round has an image that no worker has.
            let image = match round % 3 {
                0 => world.push_variant(&format!("chaos/{round}"), None, 3 << 20)?,
                _ => "docker.io/curlimages/curl:7.82.0".to_owned(),
            };
            let plan = Plan::draw(&mut random, usize::from(workers));
            let context = || format!("seed {seed}, round {round}: {plan:?}; {record:?}");
            let before = context();
            play(&mut tiers, &plan, &mut record, &image, &mut random).with_context(|| before.clone())?;
            let check = || -> anyhow::Result<Pids> {
                let running = record.equals(&tiers.api)?;
                let now = exactly_these_run(&machines, &running)?;
                if workers == 1 {
                    untouched(&pids, &now)?;
                }
                Ok(now)
            };
            let converged = eventually("desired and observed are equal", CONVERGED, check);
            pids = converged.with_context(|| format!("{before}\nat the end: {record:?}"))?;
        }
        record.delete_everything(&tiers.api)?;
        eventually("nothing is left", CONVERGED, || {
            record.equals(&tiers.api)?;
            exactly_these_run(&machines, &BTreeMap::new()).map(drop)
        })
    })
}

fn number(variable: &str) -> anyhow::Result<Option<u64>> {
    let Ok(text) = std::env::var(variable) else { return Ok(None) };
    text.parse().map(Some).with_context(|| format!("{variable} must be a number, not {text}"))
}

/// What is killed in a round, in this order.
#[derive(Clone, Debug)]
struct Plan {
    victims: Vec<Victim>,
    /// All are dead before the first comes back, as after a power cut.
    at_once: bool,
    operations: u32,
}

#[derive(Clone, Debug)]
struct Victim {
    role: Role,
    /// From the end of what came before.
    after: Duration,
    dead_for: Duration,
    /// After coming back it dies so many times more, each time after this long, most often while it still starts.
    relapses: Vec<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Root,
    Cluster,
    Worker(usize),
}

impl Plan {
    fn draw(random: &mut StdRng, workers: usize) -> Self {
        let mut roles = vec![Role::Root, Role::Cluster];
        roles.extend((0..workers).map(Role::Worker));
        roles.shuffle(random);
        roles.truncate(random.random_range(1..=roles.len()));
        let victims = roles.into_iter().map(|role| Victim {
            role,
            after: Duration::from_millis(random.random_range(0..700)),
            // Sometimes long enough for its instances to be placed elsewhere.
            dead_for: Duration::from_millis(match random.random_range(0..6) {
                0 => random.random_range(3500..4500),
                _ => random.random_range(0..400),
            }),
            relapses: match random.random_range(0..3) {
                0 => (0..2).map(|_| Duration::from_millis(random.random_range(0..200))).collect(),
                _ => Vec::new(),
            },
        });
        Self {
            victims: victims.collect(),
            at_once: random.random_bool(0.3),
            operations: random.random_range(2..=6),
        }
    }
}

/// Lets a user work while the victims die and come back.
fn play(
    tiers: &mut Tiers<'_>,
    plan: &Plan,
    record: &mut Record,
    image: &str,
    random: &mut StdRng,
) -> anyhow::Result<()> {
    let Tiers { root, cluster, workers, api } = tiers;
    let api: &Api<'_> = api;
    let mut user = StdRng::seed_from_u64(random.random());
    std::thread::scope(|scope| {
        let working = scope.spawn(|| record.work(api, image, plan.operations, &mut user));
        let mut processes = Processes { root, cluster, workers };
        for victim in &plan.victims {
            let_pass(victim.after);
            processes.of(victim.role)?.kill()?;
            if !plan.at_once {
                let_pass(victim.dead_for);
                revive(processes.of(victim.role)?, &victim.relapses)?;
            }
        }
        if plan.at_once {
            for victim in plan.victims.iter().rev() {
                let_pass(victim.dead_for);
                revive(processes.of(victim.role)?, &victim.relapses)?;
            }
        }
        working.join().map_err(|_| anyhow::anyhow!("the user panicked"))?
    })
}

fn revive(oak: &mut Oak<'_>, relapses: &[Duration]) -> anyhow::Result<()> {
    oak.start()?;
    for after in relapses {
        let_pass(*after);
        oak.kill()?;
        oak.start()?;
    }
    Ok(())
}

/// Who can be killed.
struct Processes<'tiers, 'host> {
    root: &'tiers mut Oak<'host>,
    cluster: &'tiers mut Oak<'host>,
    workers: &'tiers mut [Oak<'host>],
}

impl<'host> Processes<'_, 'host> {
    fn of(&mut self, role: Role) -> anyhow::Result<&mut Oak<'host>> {
        Ok(match role {
            Role::Root => self.root,
            Role::Cluster => self.cluster,
            Role::Worker(index) => self.workers.get_mut(index).context("no such worker")?,
        })
    }
}

/// Process ids of each container.
type Pids = BTreeMap<String, BTreeSet<i32>>;

/// Succeeds if the workers run exactly these containers, each where the API says, and have nothing else.
fn exactly_these_run(machines: &Machines, wanted: &BTreeMap<String, String>) -> anyhow::Result<Pids> {
    let mut found = Pids::new();
    for host in &machines.workers {
        let here = container_cgroups(host)?;
        let expected: BTreeSet<String> = wanted
            .iter()
            .filter(|(_, worker)| worker.as_str() == host.name())
            .map(|(container, _)| container.clone())
            .collect();
        ensure!(here == expected, "{} runs {here:?} instead of {expected:?}", host.name());
        let footprint = Footprint::of(host)?;
        let shims = footprint.processes.get("oak-shim").copied().unwrap_or(0);
        ensure!(shims == expected.len(), "{} has {shims} shims for {expected:?}", host.name());
        let devices = footprint.devices.iter().filter(|name| name.starts_with("oak0-")).count();
        ensure!(devices == expected.len(), "{} has {devices} devices for {expected:?}", host.name());
        let prefix = "oak/";
        let cgroups = footprint.cgroups.iter().filter_map(|path| path.strip_prefix(prefix));
        let cgroups: BTreeSet<String> = cgroups.map(str::to_owned).collect();
        ensure!(cgroups == expected, "{} has the cgroups {cgroups:?} for {expected:?}", host.name());
        for directory in ["containers", "files", "logs"] {
            let path = host.directory().join("data/worker").join(directory);
            let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
            let names = entries.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name());
            let names: BTreeSet<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
            ensure!(names == expected, "{} holds {names:?} for {expected:?}", path.display());
        }
        for name in here {
            found.insert(name.clone(), processes_of(host, &name)?);
        }
    }
    Ok(found)
}

/// Who ran before and still shall run has the same processes.
fn untouched(before: &Pids, now: &Pids) -> anyhow::Result<()> {
    for (name, pids) in before {
        if let Some(present) = now.get(name) {
            ensure!(present.is_superset(pids), "container {name} was restarted: {pids:?} became {present:?}");
        }
    }
    Ok(())
}

//! The course of a run: warming up, rounds, cleaning up.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use oak_e2e::{Api, Footprint, World, let_pass};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::observer::Observer;
use crate::plan;
use crate::reality::Reality;
use crate::record::Record;
use crate::report::Report;
use crate::role::Role;
use crate::site::{Machines, Site};
use crate::storm::Storm;
use crate::timeline::Timeline;
use crate::user::User;

/// Faults of a round begin within this time.
const STORM: Duration = Duration::from_secs(20);
/// So long after the last fault everything has to be as it shall be. The longest pauses of oak are 30 s: between two
/// attempts to connect or to place.
const CALM: Duration = Duration::from_secs(120);
/// Between two comparisons.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Runs the soak.
///
/// # Errors
/// Something was violated, or the soak itself failed.
pub(crate) fn run(world: &World, timeline: &Timeline, report: &mut Report) -> anyhow::Result<()> {
    let machines = Machines::create(world)?;
    let result = with_machines(world, &machines, timeline, report);
    if result.is_err() {
        keep_evidence(&machines, timeline);
    }
    result
}

fn with_machines(
    world: &World,
    machines: &Machines,
    timeline: &Timeline,
    report: &mut Report,
) -> anyhow::Result<()> {
    let api = Api::on(machines.host(Role::Root)?);
    let mut site = Site::start(world, machines, &api)?;
    timeline.tell("everything is started and joined");
    let observer = Observer::new(machines);
    std::thread::scope(|scope| {
        scope.spawn(|| observer.watch());
        let storm = Storm {
            world,
            machines,
            site: &mut site,
            observer: &observer,
            timeline,
            down: BTreeSet::new(),
            restart_at: BTreeMap::new(),
        };
        let reality = Reality { world, machines, observer: &observer, api: &api };
        let result = Course { storm, reality, record: Record::default(), report }.run();
        observer.stop();
        report.looks = observer.looks();
        result
    })
}

struct Course<'a, 'host> {
    storm: Storm<'a, 'host>,
    reality: Reality<'a>,
    record: Record,
    report: &'a mut Report,
}

impl Course<'_, '_> {
    fn run(&mut self) -> anyhow::Result<()> {
        let timeline = self.storm.timeline;
        let seed = self.report.settings.seed;
        let before = self.warm_up().context("while warming up")?;
        let mut random = StdRng::seed_from_u64(seed);
        while timeline.elapsed() < self.report.settings.length {
            self.report.rounds += 1;
            let round = self.report.rounds;
            self.round(&mut random).with_context(|| format!("seed {seed}, round {round}"))?;
        }
        self.clean_up(&before)?;
        self.report.memory.is_bounded()?;
        no_panics(self.storm.machines)
    }

    /// Everything is used once, so that what stays for good is there. Returns what the workers have then.
    fn warm_up(&mut self) -> anyhow::Result<BTreeMap<String, Footprint>> {
        let (name, mut application) = self.record.next(false);
        let api = self.reality.api;
        api.create(&application.descriptor(&name))?;
        for _ in 0..8 {
            application.instances.insert(api.deploy(&name)?);
        }
        self.record.applications.insert(name, application);
        self.calm("everything runs")?;
        self.delete_everything()?;
        self.report.memory.measure(self.storm.site);
        let footprint = |host: &oak_e2e::Host| Ok((host.name().to_owned(), Footprint::of(host)?));
        self.storm.machines.workers().map(footprint).collect()
    }

    fn round(&mut self, random: &mut StdRng) -> anyhow::Result<()> {
        let plan = plan::draw(random, STORM, &Role::all(), &self.storm.machines.small_disks());
        let timeline = self.storm.timeline;
        timeline.tell(format!("round {}: {} faults; {:?}", self.report.rounds, plan.len(), self.record));
        let mut user = User {
            api: self.reality.api,
            timeline,
            random: StdRng::seed_from_u64(random.random()),
            answers: std::mem::take(&mut self.report.answers),
        };
        let until = Instant::now() + STORM;
        let (storm, record, report) = (&mut self.storm, &mut self.record, &mut *self.report);
        let result = std::thread::scope(|scope| {
            let working = scope.spawn(|| user.work(record, until));
            storm.play(&plan, report)?;
            let worked = loop {
                storm.wait_until(Instant::now(), report)?;
                if working.is_finished() {
                    break working.join();
                }
                let_pass(Duration::from_millis(100));
            };
            worked.map_err(|_| anyhow::anyhow!("the user panicked"))?
        });
        self.report.answers = user.answers;
        result?;
        self.calm(&format!("after {plan:?}"))
    }

    /// Nothing goes wrong any more: waits until everything is as it shall be.
    fn calm(&mut self, what: &str) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut said = String::new();
        loop {
            let error = match self.reality.equals(&mut self.record) {
                Ok(()) => break,
                Err(error) => error,
            };
            let reason = format!("{error:#}");
            if reason != said {
                self.storm.timeline.note(format!("    not yet: {reason}"));
                said = reason;
            }
            let context = || format!("not as it shall be after {CALM:?}, {what}; {:?}", self.record);
            ensure!(start.elapsed() < CALM, error.context(context()));
            self.storm.wait_until(Instant::now() + LOOK_EVERY, self.report)?;
        }
        let took = start.elapsed();
        self.storm
            .timeline
            .tell(format!("all as it shall be, {:.1} s after the last fault", took.as_secs_f64()));
        self.report.converged.push(took);
        self.report.memory.measure(self.storm.site);
        Ok(())
    }

    fn delete_everything(&mut self) -> anyhow::Result<()> {
        for name in std::mem::take(&mut self.record.applications).into_keys() {
            self.reality.api.delete_application(&name).with_context(|| format!("deleting {name}"))?;
        }
        self.calm("everything was deleted")
    }

    fn clean_up(&mut self, before: &BTreeMap<String, Footprint>) -> anyhow::Result<()> {
        self.storm.timeline.tell("everything is deleted");
        self.delete_everything()?;
        let start = Instant::now();
        loop {
            let left = self.storm.machines.workers().try_for_each(|host| {
                let before = before.get(host.name()).context("an unknown worker")?;
                let left = Footprint::of(host)?.nothing_more_than(before);
                left.with_context(|| format!("on {}", host.name()))
            });
            match left {
                Ok(()) => return Ok(()),
                Err(error) if start.elapsed() > CALM => return Err(error),
                Err(_) => self.storm.wait_until(Instant::now() + LOOK_EVERY, self.report)?,
            }
        }
    }
}

/// Nobody may panic, whatever happens.
fn no_panics(machines: &Machines) -> anyhow::Result<()> {
    for role in Role::all() {
        let host = machines.host(role)?;
        for entry in fs::read_dir(host.directory())?.flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|end| end != "log") {
                continue;
            }
            let log = fs::read(&path)?;
            let log = String::from_utf8_lossy(&log);
            if let Some(line) = log.lines().find(|line| line.contains("panicked at")) {
                bail!("{role} panicked: {line} ({})", path.display());
            }
        }
    }
    Ok(())
}

/// The small disks end with the run; what is on them except for images is copied.
fn keep_evidence(machines: &Machines, timeline: &Timeline) {
    for role in machines.small_disks() {
        let Ok(host) = machines.host(role) else { continue };
        let (from, to) = (host.directory().join("data"), host.directory().join("data.kept"));
        let script = r#"mkdir -p "$2"; cd "$1"; for part in */*; do
            case $part in */images | */containers) ;; *) cp -a --parents "$part" "$2" ;; esac
        done"#;
        let kept = Command::new("sh").args(["-c", script, "sh"]).args([&from, &to]).status();
        if !kept.is_ok_and(|status| status.success()) {
            timeline.note(format!("not everything of {} could be kept", from.display()));
        }
    }
}

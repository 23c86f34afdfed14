//! Workers are emptied on purpose while clients ask; what may run only once never runs twice, whatever happens to its
//! worker. Seen by clients and in the process table of the real machine.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use oak_e2e::{
    Api, Host, Machines, Microservice, Tiers, Watch, World, application, containers, eventually, is_alive,
    pause, processes_of, soon,
};
use serde_json::json;

const PORT: u16 = 8080;

/// A client that tries again at once notices nothing shorter than this on a busy machine.
const UNNOTICED: Duration = Duration::from_millis(500);

/// Longer than an instance runs without permission (10 s), its end and a start elsewhere.
const LEASE_OVER: Duration = Duration::from_secs(25);

/// Ends when it is asked to.
const POLITE: &str = "trap 'exit 0' TERM; sleep 100000 & wait";
/// Has to be killed.
const STUBBORN: &str = "trap '' TERM; while true; do sleep 1; done";

#[test]
fn a_worker_is_emptied_without_a_moment_of_silence() -> anyhow::Result<()> {
    World::run("maintenance", |world| {
        let machines = Machines::create(world, 2)?;
        let tiers = Tiers::start(world, &machines)?;
        let api = &tiers.api;
        let web = Microservice::nginx("web").set("port", json!(format!("{PORT}:80")));
        api.create(&application("shop", [web, Microservice::shell("sleeper", POLITE)]))?;
        api.deploy("web")?;
        let instance = api.wait_running("web", 1)?.remove(0);
        for _ in 0..3 {
            api.deploy("sleeper")?;
        }
        api.wait_running("sleeper", 3)?;
        let (leaving, staying) = in_order(&machines, &instance.worker)?;
        let before: BTreeSet<_> = containers(leaving)?.into_keys().collect();
        ensure!(before.len() >= 2, "only {before:?} on {}", leaving.name());

        let watches = [leaving, staying].map(|host| Watch::start(world.switch(), host.address(), PORT));
        let [old, new] = watches;
        let (old, new) = (old?, new?);
        let served_by = format!("instance-{}", instance.number);
        let begin = Instant::now();
        eventually("the service answers", soon(), || {
            old.first_by(&served_by, begin).context("not yet").map(drop)
        })?;

        let drained = thread::scope(|scope| {
            let words = ["drain", leaving.name(), "--wait", "--timeout", "2m"];
            let root = &machines.root;
            let world = &*world;
            let command = scope.spawn(move || world.command(root, &words));
            let mut both = BTreeSet::new();
            while !command.is_finished() {
                // In this order: a move that ends between the two looks is not mistaken for a gap.
                let there: BTreeSet<_> = containers(leaving)?.into_keys().collect();
                let here: BTreeSet<_> = containers(staying)?.into_keys().collect();
                let missing: Vec<_> =
                    before.iter().filter(|name| !there.contains(*name) && !here.contains(*name)).collect();
                ensure!(missing.is_empty(), "{missing:?} ran nowhere");
                both.extend(there.intersection(&here).cloned());
                pause();
            }
            ensure!(both == before, "of {before:?} only {both:?} were seen on both");
            command.join().map_err(|_| anyhow::anyhow!("the command was not run"))?
        })?;
        ensure!(drained.code == Some(0), "{drained:?}");
        ensure!(drained.stdout == format!("worker {} is empty\n", leaving.name()), "{drained:?}");
        report("drain, what it said", &drained.stderr);
        ensure!(containers(leaving)?.is_empty(), "{:?}", containers(leaving)?);
        let silence = Watch::longest_silence_of_all(&[&old, &new]);
        report("drain, longest time without an answer", &format!("{silence:?}"));
        ensure!(silence < UNNOTICED, "nobody answered for {silence:?}");
        let after = api.wait_running("web", 1)?;
        ensure!(after[0].worker == staying.name(), "{after:?}");
        ensure!(api.wait_running("sleeper", 3)?.iter().all(|one| one.worker == staying.name()));

        let listed = world.command(&machines.root, &["get", "workers", leaving.name()])?;
        ensure!(listed.stdout.contains("draining"), "{listed:?}");
        api.deploy("sleeper")?;
        let now = api.wait_running("sleeper", 4)?;
        ensure!(now.iter().all(|one| one.worker == staying.name()), "{now:?}");
        let opened = world.command(&machines.root, &["uncordon", leaving.name()])?;
        ensure!(
            opened.stdout == format!("worker {} is open, with 0 instances\n", leaving.name()),
            "{opened:?}"
        );
        api.deploy("sleeper")?;
        let now = api.wait_running("sleeper", 5)?;
        ensure!(now.iter().filter(|one| one.worker == leaving.name()).count() == 1, "{now:?}");
        Ok(())
    })
}

#[test]
fn what_cannot_leave_is_named_and_a_one_shot_is_awaited() -> anyhow::Result<()> {
    World::run("maintenance_stays", |world| {
        let machines = Machines::create(world, 1)?;
        let tiers = Tiers::start(world, &machines)?;
        let worker = machines.workers[0].name();
        let task = Microservice::shell("task", "while ! [ -e /done ]; do sleep 0.2; done");
        let services = [Microservice::shell("sleeper", POLITE), task.set("one_shot", json!(true))];
        tiers.api.create(&application("shop", services))?;
        for service in ["sleeper", "task"] {
            tiers.api.deploy(service)?;
            tiers.api.wait_running(service, 1)?;
        }
        let host = &machines.workers[0];
        let task = first_process(host, &container_of(&tiers.api, "task")?)?;
        let sleeper = first_process(host, &container_of(&tiers.api, "sleeper")?)?;
        let output = world.command(&machines.root, &["drain", worker, "--wait", "--timeout", "2s"])?;
        ensure!(output.code == Some(1), "{output:?}");
        for text in [
            "shop.test.task.test/0: one-shot, left to finish",
            "shop.test.sleeper.test/0: RUNNING: cannot leave worker worker-a, which is being drained: worker-a: cordoned",
            "has 2 instances left after 2s",
        ] {
            ensure!(output.stderr.contains(text), "{text}: {}", output.stderr);
        }
        ensure!(is_alive(task) && is_alive(sleeper), "something was stopped");
        std::fs::write(format!("/proc/{task}/root/done"), "")?;
        let output = world.command(&machines.root, &["drain", worker, "--wait", "--timeout", "10s"])?;
        ensure!(output.stderr.contains("has 1 instance left after 10s"), "{output:?}");
        ensure!(!output.stderr.contains("after 10s\n  shop.test.task"), "{output:?}");
        ensure!(is_alive(sleeper), "the sleeper was stopped");
        let opened = world.command(&machines.root, &["uncordon", worker])?;
        ensure!(opened.code == Some(0), "{opened:?}");
        tiers.api.wait_status("sleeper", "RUNNING", &["running"]).map(drop)
    })
}

#[test]
fn what_may_run_once_and_does_not_listen_is_killed_when_its_worker_is_cut_off() -> anyhow::Result<()> {
    World::run("at_most_one_cut", |world| {
        let machines = Machines::on_cables(world, 2)?;
        let tiers = Tiers::start(world, &machines)?;
        let single = Single::start(&tiers.api, &machines, STUBBORN)?;
        single.host.cable()?.cut();
        single.moves("link cut silently")?;
        single.host.cable()?.mend();
        single.runs_once_elsewhere(&tiers.api)
    })
}

#[test]
fn what_may_run_once_goes_on_when_its_agent_is_killed_and_comes_back() -> anyhow::Result<()> {
    World::run("at_most_one_restart", |world| {
        let machines = Machines::create(world, 2)?;
        let mut tiers = Tiers::start(world, &machines)?;
        let single = Single::start(&tiers.api, &machines, POLITE)?;
        let index = machines.workers.iter().position(|host| host.name() == single.host.name());
        let agent = &mut tiers.workers[index.context("no such worker")?];
        agent.kill()?;
        agent.start_until("connected to the cluster")?;
        let begin = Instant::now();
        while begin.elapsed() < LEASE_OVER {
            ensure!(is_alive(single.process), "it ended {:?} after the restart", begin.elapsed());
            ensure!(!containers(single.other)?.contains_key(&single.container), "it runs elsewhere");
            pause();
        }
        let instances = tiers.api.wait_running("single", 1)?;
        ensure!(instances[0].detail == "running", "{instances:?}");
        Ok(())
    })
}

/// A service of which at most one may run, and where it runs.
struct Single<'host> {
    host: &'host Host,
    other: &'host Host,
    /// Name of its container, the same everywhere.
    container: String,
    /// One of its processes, seen from the real machine.
    process: i32,
}

impl<'host> Single<'host> {
    fn start(api: &Api<'_>, machines: &'host Machines, command: &str) -> anyhow::Result<Self> {
        let service = Microservice::shell("single", command).set("at_most_one", json!(true));
        api.create(&application("shop", [service]))?;
        api.deploy("single")?;
        let instance = api.wait_running("single", 1)?.remove(0);
        let (host, other) = in_order(machines, &instance.worker)?;
        let container = container_of(api, "single")?;
        let process = first_process(host, &container)?;
        Ok(Self { host, other, container, process })
    }

    /// Waits until it runs elsewhere; it must not have a process here at that time, nor later.
    fn moves(&self, what: &str) -> anyhow::Result<()> {
        let begin = Instant::now();
        let mut ended = None;
        let mut started = None;
        // Some seconds more: the old worker must not start it again.
        let is_over = |started: Option<Duration>| match started {
            Some(at) => begin.elapsed() > at + Duration::from_secs(5),
            None => begin.elapsed() > LEASE_OVER,
        };
        while !is_over(started) {
            // In this order: what is seen here afterwards was here while the other one ran.
            let elsewhere = !processes_of(self.other, &self.container)?.is_empty();
            let here = processes_of(self.host, &self.container)?;
            ensure!(!elsewhere || here.is_empty(), "{what}: it runs on both after {:?}", begin.elapsed());
            let now = begin.elapsed();
            if here.is_empty() {
                ended.get_or_insert(now);
            }
            if elsewhere {
                started.get_or_insert(now);
            }
            // Finer than the usual pause would not show more: the margin is half a second.
            pause();
        }
        let (ended, started) =
            (ended.context("it never ended")?, started.context("it did not start elsewhere")?);
        report(what, &format!("ended after {ended:?}, started elsewhere after {started:?}"));
        ensure!(ended < started, "{what}: ended after {ended:?}, started elsewhere after {started:?}");
        ensure!(!is_alive(self.process));
        Ok(())
    }

    fn runs_once_elsewhere(&self, api: &Api<'_>) -> anyhow::Result<()> {
        eventually("the old worker is back", soon(), || {
            let workers = api.call("GET", &format!("/api/workers/{}", self.host.name()), None)?;
            ensure!(workers["connected"] == true && workers["instances"] == 0, "{workers}");
            Ok(())
        })?;
        let instances = api.wait_running("single", 1)?;
        ensure!(instances[0].worker == self.other.name(), "{instances:?}");
        let here = processes_of(self.host, &self.container)?;
        ensure!(here.is_empty(), "{here:?} of {}", self.container);
        Ok(())
    }
}

/// The worker with this name, and the other one.
fn in_order<'host>(machines: &'host Machines, first: &str) -> anyhow::Result<(&'host Host, &'host Host)> {
    let by_name: BTreeMap<bool, &Host> =
        machines.workers.iter().map(|host| (host.name() == first, host)).collect();
    Ok((by_name.get(&true).context("no such worker")?, by_name.get(&false).context("no other worker")?))
}

/// Name of the container of the first instance of a service.
fn container_of(api: &Api<'_>, service: &str) -> anyhow::Result<String> {
    let record = api.service(service)?;
    let id = record["microserviceID"].as_str().context("no id")?;
    let number = api.instances(service)?.first().context("no instance")?.number;
    Ok(format!("{id}.{number}"))
}

/// The oldest process of a container.
fn first_process(host: &Host, container: &str) -> anyhow::Result<i32> {
    processes_of(host, container)?.first().copied().with_context(|| format!("{container} has no process"))
}

#[allow(clippy::print_stderr, reason = "for the person who reads the numbers")]
fn report(what: &str, text: &str) {
    eprintln!("{what}: {text}");
}

//! Workers die, go silent, are frozen, lose their power, are emptied; seen by clients and in the process table of the real machine.

mod away;
mod drain;
mod single;
mod site;

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use oak_e2e::{Host, Machines, Microservice, Watch, World, application, eventually, get, let_pass, soon};
use rustix::process::Signal;

use site::{PORT, SERVICE, SERVICE_ADDRESS, Site, never_stopped, replaced, silent_at_most};

/// A link that ended is given 3 s to come back; placing, starting and the first answer have a second.
const AFTER_LINK_END: Duration = Duration::from_secs(3 + 1);
/// A silent link is noticed and given up within 6 s.
const AFTER_SILENCE: Duration = Duration::from_secs(6 + 1);

#[test]
fn a_dead_worker_is_replaced_while_the_others_go_on() -> anyhow::Result<()> {
    World::run("dead_worker", |world| {
        let machines = Machines::on_cables(world, 3)?;
        let mut site = Site::start(world, &machines)?;
        let (dead, others) = machines.workers.split_first().context("no workers")?;
        let lost = site.instance_on(dead)?;
        let outside = site.watch_from_outside(others)?;
        let inside = Watch::start(&others[0], SERVICE_ADDRESS, 80)?;

        let start = Instant::now();
        dead.power_off()?;
        dead.cable()?.cut();
        replaced("worker killed", &outside, lost.number, start, AFTER_LINK_END)?;
        for watch in &outside {
            never_stopped("port of another worker", watch)?;
        }
        never_stopped("service address on another worker", &inside)?;
        site.runs_once()?;
        site.all_said_to_run()?;

        // The machine comes back with what it had on its disk, which is placed elsewhere now.
        world.power_on(dead)?;
        dead.cable()?.mend();
        site.tiers.workers[0].wait_for_end()?;
        site.tiers.workers[0].start_until("connected to the cluster")?;
        site.runs_once()?;
        site.all_said_to_run()
    })
}

#[test]
fn a_silent_worker_is_replaced_and_stops_what_it_lost_when_it_returns() -> anyhow::Result<()> {
    World::run("silent_worker", |world| {
        let machines = Machines::on_cables(world, 2)?;
        let site = Site::start(world, &machines)?;
        let (silent, others) = machines.workers.split_first().context("no workers")?;
        let lost = site.instance_on(silent)?;
        let outside = site.watch_from_outside(others)?;
        let elsewhere = Watch::start(&others[0], SERVICE_ADDRESS, 80)?;
        let cut_off = Watch::start(silent, SERVICE_ADDRESS, 80)?;

        let start = Instant::now();
        silent.cable()?.cut();
        replaced("link cut silently", &outside, lost.number, start, AFTER_SILENCE)?;
        never_stopped("service address on the other worker", &elsewhere)?;
        // Until it notices that it is cut off, some of its calls go to instances that are out of reach.
        silent_at_most(Duration::from_secs(2), "service address on the worker that is cut off", &cut_off)?;
        drop(cut_off);
        ensure!(site.running()?.len() == 3, "the worker that is cut off stopped working");

        silent.cable()?.mend();
        site.runs_once()?;
        site.all_said_to_run()
    })
}

#[test]
fn a_worker_boots_with_everything_while_nobody_can_be_reached() -> anyhow::Result<()> {
    World::run("cold_boot", |world| {
        let machines = Machines::on_cables(world, 1)?;
        let mut site = Site::start(world, &machines)?;
        let worker = &machines.workers[0];
        site.tiers.api.create(&application("client", [Microservice::shell("client", "exec sleep 1000")]))?;
        site.tiers.api.deploy("client")?;
        site.tiers.api.wait_running("client", 1)?;
        let web = site.instance_on(worker)?;
        let before: BTreeSet<_> = site.running()?.into_keys().collect();

        worker.cable()?.cut();
        worker.power_off()?;
        site.tiers.workers[0].wait_for_end()?;
        site.tiers.cluster.kill()?;
        site.tiers.root.kill()?;
        world.power_on(worker)?;
        let watch = Watch::start(worker, SERVICE_ADDRESS, 80)?;
        let start = Instant::now();
        site.tiers.workers[0].start()?;
        replaced("start of the agent after a cold boot", &[watch], web.number, start, soon())?;
        answers(worker, &format!("http://{}/", web.address))?;
        answers(worker, &format!("http://127.0.0.1:{PORT}/"))?;
        eventually("the same containers run", soon(), || {
            let now: BTreeSet<_> = site.running()?.into_keys().collect();
            ensure!(now == before, "{now:?} instead of {before:?}");
            Ok(())
        })?;
        let running = site.running()?;
        let client = running.iter().find(|((_, container), _)| !site.is_web(container));
        let client = client.and_then(|(_, pids)| pids.first()).context("no client")?;
        eventually("an instance reaches another by its service address", soon(), || {
            let url = format!("http://{SERVICE_ADDRESS}/");
            let target = client.to_string();
            let words =
                ["--target", &target, "--net", "--", "curl", "-sS", "--noproxy", "*", "-m", "2", &url];
            let output = Command::new("nsenter").args(words).output()?;
            let page = String::from_utf8_lossy(&output.stdout);
            ensure!(page.contains("Welcome to nginx"), "{output:?}");
            Ok(())
        })?;

        // Everybody is back: nothing is started again.
        worker.cable()?.mend();
        site.tiers.root.start_until("root ready")?;
        site.tiers.cluster.start_until("cluster ready")?;
        site.all_said_to_run()?;
        site.tiers.api.wait_running("client", 1)?;
        ensure!(site.running()? == running, "{:?} instead of {running:?}", site.running()?);
        Ok(())
    })
}

#[test]
fn a_frozen_agent_loses_its_instances_only_after_a_while() -> anyhow::Result<()> {
    World::run("frozen_agent", |world| {
        let machines = Machines::on_cables(world, 2)?;
        let site = Site::start(world, &machines)?;
        let (frozen, others) = machines.workers.split_first().context("no workers")?;
        let lost = site.instance_on(frozen)?;
        let before = site.running()?;
        let outside = site.watch_from_outside(others)?;
        // The first call of a service needs the agent.
        answers(frozen, &format!("http://{SERVICE_ADDRESS}/"))?;
        let here = Watch::start(frozen, SERVICE_ADDRESS, 80)?;

        site.tiers.workers[0].signal(Signal::STOP)?;
        let_pass(Duration::from_secs(2));
        site.tiers.workers[0].signal(Signal::CONT)?;
        site.runs_once()?;
        ensure!(site.running()? == before, "a short pause moved something: {:?}", site.running()?);

        let start = Instant::now();
        site.tiers.workers[0].signal(Signal::STOP)?;
        replaced("agent frozen", &outside, lost.number, start, AFTER_SILENCE)?;
        never_stopped("service address beside a frozen agent", &here)?;
        let still_there: Vec<_> = before.iter().filter(|((worker, _), _)| worker == frozen.name()).collect();
        let now = site.running()?;
        ensure!(still_there.iter().all(|(key, pids)| now.get(*key) == Some(*pids)), "{now:?}");
        site.tiers.workers[0].signal(Signal::CONT)?;
        site.runs_once()?;
        site.all_said_to_run()
    })
}

#[test]
fn a_cluster_replaces_instances_while_the_root_is_away() -> anyhow::Result<()> {
    World::run("root_away", |world| {
        let machines = Machines::on_cables(world, 3)?;
        let mut site = Site::start(world, &machines)?;
        let (dead, others) = machines.workers.split_first().context("no workers")?;
        let lost = site.instance_on(dead)?;
        let outside = site.watch_from_outside(others)?;

        site.tiers.root.kill()?;
        let start = Instant::now();
        dead.power_off()?;
        dead.cable()?.cut();
        replaced("worker killed without a root", &outside, lost.number, start, AFTER_LINK_END)?;
        site.runs_once()?;
        let meanwhile = site.running()?;

        site.tiers.root.start_until("root ready")?;
        site.all_said_to_run()?;
        let instances = site.tiers.api.instances(SERVICE)?;
        let moved = instances.iter().find(|instance| instance.number == lost.number);
        let moved = moved.context("the instance is gone")?;
        ensure!(others.iter().any(|host| host.name() == moved.worker), "{moved:?}");
        // A second for anything that would be set right now.
        site.runs_once()?;
        ensure!(site.running()? == meanwhile, "{:?} instead of {meanwhile:?}", site.running()?);
        Ok(())
    })
}

fn answers(host: &Host, url: &str) -> anyhow::Result<()> {
    eventually(&format!("{url} answers on {}", host.name()), soon(), || {
        let page = get(host, url)?;
        ensure!(page.status == 200 && page.body.contains("Welcome to nginx"), "{page:?}");
        Ok(())
    })
}

//! A long time without the root: workers die and come back, users deploy at the cluster.

use std::time::{Duration, Instant};

use anyhow::ensure;
use oak_e2e::{Machines, Microservice, Watch, World, application, let_pass};

use crate::site::{Running, SERVICE_ADDRESS, Site, never_stopped};

/// How long the root stays away, in minutes; `docs/reliability.md` has what an hour showed.
const MINUTES: &str = "OAK_AWAY_MINUTES";
/// Between two losses: every worker is trusted again when its turn comes.
const PAUSE: Duration = Duration::from_secs(30);

#[test]
#[allow(clippy::print_stderr, reason = "what happened in a long run is worth seeing")]
fn a_cluster_is_used_for_long_without_the_root() -> anyhow::Result<()> {
    let minutes = std::env::var(MINUTES).ok().and_then(|text| text.parse().ok());
    let long = Duration::from_secs(60 * minutes.unwrap_or(0));
    World::run("root_away_long", |world| {
        let machines = Machines::on_cables(world, 3)?;
        let mut site = Site::start(world, &machines)?;
        site.tiers.root.kill()?;
        let start = Instant::now();
        let mut round = 0;
        while round == 0 || start.elapsed() < long {
            lose_and_regain(&mut site, round)?;
            deploy_at_the_cluster(&site, round)?;
            round += 1;
            if start.elapsed() + PAUSE < long {
                let_pass(PAUSE);
            }
        }
        let meanwhile = site.running()?;
        ensure!(meanwhile.len() == machines.workers.len() + 1, "{meanwhile:?}");
        eprintln!("{round} rounds in {:.0} s without the root", start.elapsed().as_secs_f64());

        site.tiers.root.start_until("root ready")?;
        site.all_said_to_run()?;
        site.tiers.api.wait_running(&field(round - 1), 1)?;
        site.runs_once()?;
        let merged = site.running()?;
        ensure!(merged.len() == meanwhile.len(), "{merged:?} instead of {meanwhile:?}");
        untouched(&meanwhile, &merged, None)?;
        // What was deleted at the cluster does not come back, what was deployed there can be deleted here.
        for former in 0..round - 1 {
            let found = site.tiers.api.find_application(&field(former))?;
            ensure!(found.is_none(), "{} is back", field(former));
        }
        site.tiers.api.delete_application(&field(round - 1))
    })
}

/// A worker loses its power; what ran there runs elsewhere while nobody else notices; it comes back.
fn lose_and_regain(site: &mut Site<'_>, round: usize) -> anyhow::Result<()> {
    let index = round % site.machines.workers.len();
    let dead = &site.machines.workers[index];
    let before = site.running()?;
    let keeps =
        |name: &str| before.keys().any(|(worker, container)| worker == name && site.is_web(container));
    let witness = site.machines.workers.iter().find(|host| host.name() != dead.name() && keeps(host.name()));
    // Nothing is moved back to a worker that returns: in the end one may have everything.
    let watch = witness.map(|host| Watch::start(host, SERVICE_ADDRESS, 80)).transpose()?;
    dead.power_off()?;
    dead.cable()?.cut();
    site.runs_once()?;
    untouched(&before, &site.running()?, Some(dead.name()))?;
    site.world.power_on(dead)?;
    dead.cable()?.mend();
    site.tiers.workers[index].wait_for_end()?;
    site.tiers.workers[index].start_until("connected to the cluster")?;
    site.runs_once()?;
    watch.map_or(Ok(()), |watch| never_stopped("service address on another worker", &watch))
}

/// What ran on the other workers still runs there, in the same processes.
fn untouched(before: &Running, after: &Running, dead: Option<&str>) -> anyhow::Result<()> {
    let others = before.iter().filter(|((worker, _), _)| Some(&**worker) != dead);
    for (place, processes) in others {
        let now = after.get(place);
        // A program that had just begun may have started further processes since.
        let is_same = now.is_some_and(|now| now.is_superset(processes));
        ensure!(is_same, "{place:?}: {now:?} instead of {processes:?}");
    }
    Ok(())
}

/// One application comes, the one of the round before goes.
fn deploy_at_the_cluster(site: &Site<'_>, round: usize) -> anyhow::Result<()> {
    let cluster = &site.machines.cluster;
    let name = field(round);
    let file = cluster.directory().join("field.json");
    let service = Microservice::shell(&name, "trap 'exit 0' TERM; sleep 100000 & wait");
    std::fs::write(&file, application(&name, [service]))?;
    let file = file.to_string_lossy().into_owned();
    run(site, &["apply", "--local", "--file", &file, "--deploy", "1"])?;
    if let Some(former) = round.checked_sub(1) {
        run(site, &["delete", "--local", "application", &field(former)])?;
    }
    let wanted = site.machines.workers.len() + 1;
    oak_e2e::eventually("the local deployment is all that is added", oak_e2e::soon(), || {
        let running = site.running()?;
        ensure!(running.len() == wanted, "{running:?}");
        Ok(())
    })
}

fn field(round: usize) -> String {
    format!("field{round}")
}

fn run(site: &Site<'_>, words: &[&str]) -> anyhow::Result<()> {
    let output = site.world.command(&site.machines.cluster, words)?;
    ensure!(output.code == Some(0), "{words:?}: {output:?}");
    Ok(())
}

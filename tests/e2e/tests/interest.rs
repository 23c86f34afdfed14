//! A worker and its cluster know a service from the first call on, follow every change of it within a second, and forget
//! it when nothing that called it is left.

use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use oak_control::Table;
use oak_e2e::{
    Api, CLUSTER, Host, Machines, Microservice, Oak, Tiers, Watch, World, application, eventually, let_pass,
    soon,
};
use oak_store::Store;
use serde_json::{Value, json};

const WEB: Ipv4Addr = Ipv4Addr::new(10, 30, 50, 1);
/// What the original promises (its test T-31): new connections follow within this time.
const AT_ONCE: Duration = Duration::from_secs(1);

fn web(workers: &str) -> Microservice {
    Microservice::nginx("web")
        .on(workers)
        .set("addresses", json!({ "rr_ip": WEB.to_string() }))
        .set("max_instances_per_node", json!(1))
}

fn client(worker: &str) -> Microservice {
    Microservice::idle("client").on(worker)
}

/// Waits until an instance runs on a worker and returns the moment at which the API said so.
fn runs_on(api: &Api<'_>, number: u64, worker: &str) -> anyhow::Result<Instant> {
    eventually(&format!("instance {number} runs on {worker}"), soon(), || {
        let asked = Instant::now();
        let all = api.instances("web")?;
        let runs =
            all.iter().any(|one| one.number == number && one.worker == worker && one.status == "RUNNING");
        ensure!(runs, "{all:?}");
        Ok(asked)
    })
}

/// Waits until the container of an instance has answered a request since then.
fn answers_since(watch: &Watch, number: u64, since: Instant) -> anyhow::Result<Duration> {
    let first = eventually("it answers", soon(), || {
        watch.first_by(&format!("instance-{number}"), since).context("not yet")
    })?;
    Ok(first.at.saturating_duration_since(since))
}

#[test]
fn new_connections_follow_within_a_second_when_instances_come_go_and_move() -> anyhow::Result<()> {
    World::run("follow", |world| {
        let machines = Machines::create(world, 3)?;
        let tiers = Tiers::start(world, &machines)?;
        let (api, root) = (&tiers.api, &machines.root);
        api.create(&application("shop", [web("worker-a;worker-b")]))?;
        let first = api.deploy("web")?;
        api.wait_running("web", 1)?;
        // The third machine calls, on which nothing has ever run.
        let began = Instant::now();
        let watch = Watch::patiently(&machines.workers[2], WEB, 80)?;
        println!("the first request was answered after {:?}", answers_since(&watch, first, began)?);

        let second = api.deploy("web")?;
        let all = eventually("the second one has a place", soon(), || {
            let all = api.instances("web")?;
            ensure!(all.len() == 2 && all.iter().all(|one| !one.worker.is_empty()), "{all:?}");
            Ok(all)
        })?;
        let place = |number| all.iter().find(|one| one.number == number).map(|one| one.worker.clone());
        let (there, here) = (place(first).context("no first")?, place(second).context("no second")?);
        let running = runs_on(api, second, &here)?;
        let took = answers_since(&watch, second, running)?;
        println!("an instance that was added answered {took:?} after the API said that it runs");
        ensure!(took < AT_ONCE, "an instance that was added answers {took:?} after it ran");

        api.undeploy("web", i64::try_from(first)?)?;
        let ordered = Instant::now();
        eventually("it is gone", soon(), || {
            ensure!(api.instances("web")?.len() == 1);
            Ok(())
        })?;
        let_pass(AT_ONCE);
        let last = watch.last_by(&format!("instance-{first}")).context("it never answered")?.at;
        let late = last.saturating_duration_since(ordered);
        println!("an instance that was removed answered for {late:?} after the order");
        ensure!(late < AT_ONCE, "an instance that was removed answers {late:?} after the order");

        // The other one moves to where the first one was.
        let drained = world.command(root, &["drain", &here])?;
        ensure!(drained.code == Some(0), "{drained:?}");
        let moved = runs_on(api, second, &there)?;
        let took = answers_since(&watch, second, moved)?;
        ensure!(took < AT_ONCE, "an instance that was moved answers {took:?} after it ran");
        eventually("nothing is left where it was", soon(), || {
            let number = if here == "worker-a" { 0 } else { 1 };
            let left = oak_e2e::containers(&machines.workers[number])?;
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })?;
        answers_since(&watch, second, Instant::now())?;
        let silence = watch.longest_silence();
        println!(
            "an instance that was moved answered {took:?} after the API said so; longest silence {silence:?}"
        );
        ensure!(silence < AT_ONCE, "nobody answered for {silence:?}");
        let (answered, failures) = watch.counted();
        ensure!(failures.is_empty(), "besides {answered} answers: {failures:?}");
        Ok(())
    })
}

/// What a worker knows of others: names of services, and how many other workers.
fn known(world: &World, worker: &Host) -> anyhow::Result<(Vec<String>, usize)> {
    let output = world.command(worker, &["net", "status", "--output", "json"])?;
    let status: Value = serde_json::from_str(&output.stdout).with_context(|| format!("{output:?}"))?;
    let status = &status[0];
    let services = status["services"].as_array().context("no services")?;
    let names = services.iter().filter_map(|one| one["name"].as_str().map(str::to_owned));
    Ok((names.collect(), status["peers"].as_array().context("no peers")?.len()))
}

/// Files in which a worker keeps what it was told of others.
fn kept(worker: &Host) -> anyhow::Result<usize> {
    let directory = worker.directory().join("data/worker");
    let count = |name: &&str| Ok(fs::read_dir(directory.join(name)).map_or(0, Iterator::count));
    ["calls", "services", "backends", "peers"].iter().map(count).sum()
}

/// What a cluster has stored of other clusters. It is stopped meanwhile.
fn stored(cluster: &mut Oak<'_>, host: &Host) -> anyhow::Result<Vec<(Table, String)>> {
    cluster.kill()?;
    let (_, rows) = Store::open(&host.directory().join("data/cluster/state.db"))?;
    cluster.start_until("cluster ready")?;
    cluster.wait_for_log("connected to the root")?;
    let is_foreign =
        |table| matches!(table, Table::Call | Table::KnownService | Table::Backend | Table::Peer);
    Ok(rows.into_iter().filter(|row| is_foreign(row.table)).map(|row| (row.table, row.key)).collect())
}

#[test]
fn interest_in_a_service_ends_with_the_last_caller() -> anyhow::Result<()> {
    World::run("interest", |world| {
        let machines = Machines::create(world, 2)?;
        let mut tiers = Tiers::start(world, &machines)?;
        let (site, device) = (world.host("garage", 40)?, world.host("pi", 41)?);
        let (root, cluster) = (machines.root.address().to_string(), site.address().to_string());
        let token = tiers.api.token("cluster", None, 600)?;
        let words = ["cluster", "--root", &root, "--name", "garage", "--token", &token];
        let mut garage = world.oak(&site, &words)?;
        garage.start_until("cluster ready")?;
        garage.wait_for_log("connected to the root")?;
        let token = tiers.api.token("worker", Some("garage"), 600)?;
        let words = ["worker", "--cluster", &cluster, "--name", "pi", "--token", &token];
        let mut pi = world.oak(&device, &words)?;
        pi.start_until("worker ready")?;
        pi.wait_for_log("connected to the cluster")?;

        // The service is called from its own cluster and from another one.
        let near = Microservice::idle("near").on("worker-b");
        tiers.api.create(&application("shop", [web("worker-a")]))?;
        tiers.api.create(&application("visit", [near, client("pi")]))?;
        for service in ["web", "near", "client"] {
            tiers.api.deploy(service)?;
            tiers.api.wait_running(service, 1)?;
        }
        let callers = [("near", &machines.workers[1]), ("client", &device)];
        for (service, host) in callers {
            ensure!(known(world, host)?.1 == 0 && kept(host)? == 0, "{} knows something", host.name());
            let curl =
                ["exec", service, "--", "curl", "-sS", "--max-time", "5", "http://web.test.shop.test.oak/"];
            let page = world.command(&machines.root, &curl)?;
            ensure!(page.stdout.contains("Welcome to nginx"), "{service}: {page:?}");
            let (names, peers) = known(world, host)?;
            ensure!(names.iter().any(|name| name.starts_with("web.")) && peers == 1, "{names:?} {peers}");
            ensure!(kept(host)? >= 4, "{} keeps nothing", host.name());
        }
        let [own, foreign] = [stored(&mut tiers.cluster, &machines.cluster)?, stored(&mut garage, &site)?];
        for table in [Table::KnownService, Table::Backend, Table::Peer] {
            ensure!(foreign.iter().any(|(stored, _)| *stored == table), "no {table:?} in {foreign:?}");
        }
        ensure!(
            own.iter().any(|(table, _)| *table == Table::Call),
            "{CLUSTER} does not know its caller: {own:?}"
        );

        let server = &machines.workers[0];
        ensure!(known(world, server)?.1 == 2, "the server does not know its callers");
        for (service, _) in callers {
            tiers.api.undeploy(service, -1)?;
        }
        for host in [&machines.workers[1], &device] {
            eventually("nothing is known any more", soon(), || {
                let ((names, peers), files) = (known(world, host)?, kept(host)?);
                ensure!(
                    names.is_empty() && peers == 0 && files == 0,
                    "{names:?}, {peers} workers, {files} files"
                );
                Ok(())
            })?;
        }
        eventually("the server has nothing to do with them any more", soon(), || {
            let (_, peers) = known(world, server)?;
            ensure!(peers == 0, "{peers} other workers");
            Ok(())
        })?;
        // A cluster goes on knowing who has called what it has, until the caller is deleted.
        let is_interest = |row: &(Table, String)| row.0 != Table::Call;
        let [mut own, foreign] =
            [stored(&mut tiers.cluster, &machines.cluster)?, stored(&mut garage, &site)?];
        own.retain(is_interest);
        ensure!(own.is_empty() && foreign.is_empty(), "{own:?} {foreign:?}");
        tiers.api.delete_application("visit")?;
        eventually("nothing of the callers is left", soon(), || {
            let left = stored(&mut tiers.cluster, &machines.cluster)?;
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
    })
}

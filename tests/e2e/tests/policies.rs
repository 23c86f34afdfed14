//! Addresses of a service that choose differently among its instances, from one and the same client.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use oak_e2e::{
    Conditions, Host, Inside, Machines, Microservice, Tiers, World, application, eventually, soon,
};
use oak_model::ipv6;
use serde_json::{Value, json};

const UDP_PORT: u16 = 7007;

/// A service with instances on some workers, one on each, and a client on the first of all workers. Every instance says
/// its number.
fn deploy(
    world: &World,
    tiers: &Tiers<'_>,
    root: &Host,
    addresses: &Value,
    on_workers: &str,
) -> anyhow::Result<()> {
    // It is busy as soon as there is a file that says so.
    let wait = "(while :; do [ -e /tmp/busy ] || sleep 1; done) &";
    let start = format!("{wait} {wait} {wait} {wait} exec nginx -g 'daemon off;'");
    let web = Microservice::nginx("web")
        .set("cmd", json!(["sh", "-c", start]))
        .set("vcpus", json!(1))
        .set("addresses", addresses.clone())
        .on(on_workers)
        .set("max_instances_per_node", json!(1));
    let client = Microservice::idle("client").on("worker-a");
    tiers.api.create(&application("shop", [web, client]))?;
    tiers.api.deploy("client")?;
    for number in 0..2 {
        tiers.api.deploy("web")?;
        tiers.api.wait_running("web", number + 1)?;
        let say = format!("echo {number} > /usr/share/nginx/html/index.html");
        let said = world.command(root, &["exec", &format!("web/{number}"), "--", "sh", "-c", &say])?;
        ensure!(said.code == Some(0), "{said:?}");
    }
    tiers.api.wait_running("client", 1)?;
    Ok(())
}

/// Which worker the instances are on, by number.
fn places(tiers: &Tiers<'_>) -> anyhow::Result<BTreeMap<String, String>> {
    let instances = tiers.api.instances("web")?;
    Ok(instances.into_iter().map(|instance| (instance.number.to_string(), instance.worker)).collect())
}

/// Who answers so many calls of the client, in order.
fn answers(world: &World, root: &Host, url: &str, times: usize) -> anyhow::Result<Vec<String>> {
    let command = format!("for i in $(seq {times}); do curl -sS --max-time 5 {url}; done");
    let output = world.command(root, &["exec", "client", "--", "sh", "-c", &command])?;
    ensure!(output.code == Some(0), "{url}: {output:?}");
    let all: Vec<String> = output.stdout.lines().map(str::to_owned).collect();
    ensure!(all.len() == times, "{url}: {output:?}");
    Ok(all)
}

#[test]
fn each_address_chooses_as_its_policy_says() -> anyhow::Result<()> {
    World::run("policies", |world| {
        let machines = Machines::create(world, 2)?;
        let tiers = Tiers::start(world, &machines)?;
        let root = &machines.root;
        let addresses = json!({
            "rr_ip": "10.30.55.55", "rr_ip_v6": "fdff:2000::55:55", "closest_ip": "10.30.55.56", "sticky_ip": "auto", "local_first_ip": "auto",
            "least_loaded_ip": "10.30.55.57",
        });
        deploy(world, &tiers, root, &addresses, "worker-a;worker-b")?;
        let places = places(&tiers)?;
        let local =
            places.iter().find(|(_, worker)| *worker == "worker-a").context("none is local")?.0.clone();
        let other = if local == "0" { "1" } else { "0" }.to_owned();

        let in_turn = answers(world, root, "http://10.30.55.55/", 6)?;
        ensure!(in_turn.windows(2).all(|pair| pair[0] != pair[1]), "not in turn: {in_turn:?}");
        for name in ["closest.web", "local-first.web", "10.30.55.56"] {
            let all = answers(world, root, &format!("http://{name}/"), 4)?;
            ensure!(all.iter().all(|one| *one == local), "{name}: {all:?} instead of {local}");
        }
        let sticky = answers(world, root, "http://sticky.web/", 8)?;
        ensure!(sticky.windows(2).all(|pair| pair[0] == pair[1]), "not sticky: {sticky:?}");
        over_ipv6(world, root, &machines, &local)?;
        over_udp(&tiers, &machines.workers[0])?;
        least_loaded(world, &tiers, root, &local)?;
        what_the_api_shows(&tiers)?;

        // Without an instance here the next best one is taken.
        tiers.api.undeploy("web", local.parse()?)?;
        eventually("the other one answers", soon(), || {
            for name in ["closest.web", "local-first.web", "sticky.web"] {
                let all = answers(world, root, &format!("http://{name}/"), 2)?;
                ensure!(all.iter().all(|one| *one == other), "{name}: {all:?}");
            }
            Ok(())
        })
    })
}

/// The same addresses and names once more.
fn over_ipv6(world: &World, root: &Host, machines: &Machines, local: &str) -> anyhow::Result<()> {
    for url in ["http://[fdff:2000::55:55]/", "-6 http://web/"] {
        let in_turn = answers(world, root, url, 6)?;
        ensure!(in_turn.windows(2).all(|pair| pair[0] != pair[1]), "{url}: not in turn: {in_turn:?}");
    }
    for url in ["http://[fdff:1000::55:56]/", "-6 http://closest.web/", "-6 http://local-first.web/"] {
        let all = answers(world, root, url, 4)?;
        ensure!(all.iter().all(|one| *one == local), "{url}: {all:?} instead of {local}");
    }
    let sticky = answers(world, root, "-6 http://sticky.web/", 6)?;
    ensure!(sticky.windows(2).all(|pair| pair[0] == pair[1]), "not sticky: {sticky:?}");
    // Every instance by its own name and address, and from the machines themselves.
    for number in ["0", "1"] {
        let all = answers(world, root, &format!("-6 http://{number}.web/"), 1)?;
        ensure!(all == [number], "{all:?}");
    }
    for worker in &machines.workers {
        let curl = ["curl", "-sS", "--max-time", "5", "http://[fdff:2000::55:55]/"];
        let page = worker.check(&curl)?;
        ensure!(["0", "1"].contains(&page.trim()), "{page}");
    }
    Ok(())
}

/// Only the instance on the worker of the client answers: every second datagram is for the other one.
fn over_udp(tiers: &Tiers<'_>, worker: &Host) -> anyhow::Result<()> {
    let (local, client) = (Inside::of(worker, "nginx")?, Inside::of(worker, "sleep 10000")?);
    let _echo = local.echo(UDP_PORT)?;
    let policies = [("10.30.55.55", 3), ("fdff:2000::55:55", 3), ("10.30.55.56", 6), ("fdff:1000::55:56", 6)];
    let mut targets: Vec<(IpAddr, usize)> = policies
        .iter()
        .map(|(address, of_six)| Ok((address.parse()?, *of_six)))
        .collect::<anyhow::Result<_>>()?;
    for instance in tiers.api.instances("web")? {
        let address: Ipv4Addr = instance.address.parse()?;
        let of_six = if instance.worker == worker.name() { 6 } else { 0 };
        targets.extend([(address.into(), of_six), (ipv6::instance(address).into(), of_six)]);
    }
    for (address, of_six) in targets {
        let to = SocketAddr::new(address, UDP_PORT);
        let answered = (0..6).filter(|_| client.ask_udp(to).is_ok()).count();
        ensure!(answered == of_six, "{address}: {answered} of 6 datagrams were answered");
    }
    Ok(())
}

/// An instance that is busy gets fewer connections than one that is idle.
fn least_loaded(world: &World, tiers: &Tiers<'_>, root: &Host, busy: &str) -> anyhow::Result<()> {
    let began =
        world.command(root, &["exec", &format!("web/{busy}"), "--", "sh", "-c", "touch /tmp/busy"])?;
    ensure!(began.code == Some(0), "{began:?}");
    eventually("the busy one gets less", Duration::from_secs(40), || {
        let all = answers(world, root, "http://least-loaded.web/", 34)?;
        let to_busy = all.iter().filter(|one| *one == busy).count();
        // Half of them would be 17.
        ensure!(to_busy <= 15, "{to_busy} of 34 calls go to the one that is busy");
        Ok(())
    })?;
    ensure!(tiers.api.wait_running("web", 2)?.len() == 2);
    Ok(())
}

/// One address for each policy, one of each instance.
fn what_the_api_shows(tiers: &Tiers<'_>) -> anyhow::Result<()> {
    let service = tiers.api.service("web")?;
    let shown: BTreeMap<String, String> = service["service_ip_list"]
        .as_array()
        .context("no addresses")?
        .iter()
        .map(|one| {
            let text = |field: &str| one[field].as_str().unwrap_or_default().to_owned();
            (text("IpType"), format!("{} {}", text("Address"), text("Address_v6")))
        })
        .collect();
    ensure!(shown.len() == 5, "{shown:?}");
    for (policy, address) in [
        ("RR", "10.30.55.55 fdff:2000::55:55"),
        ("Closest", "10.30.55.56 fdff:1000::55:56"),
        ("LeastLoaded", "10.30.55.57 fdff:3000::55:57"),
    ] {
        ensure!(shown.get(policy).is_some_and(|one| one == address), "{policy}: {shown:?}");
    }
    let info = tiers.api.call("GET", "/api/net/service/ip/10_30_55_56/instances", None)?;
    ensure!(info["job_name"] == "shop.test.web.test", "{info}");
    let instances = info["instance_list"].as_array().context("no instances")?;
    let mut own: Vec<&str> = instances.iter().filter_map(|one| one["instance_ip"].as_str()).collect();
    own.dedup();
    ensure!(own.len() == 2, "{info}");
    Ok(())
}

#[test]
fn the_closest_instance_is_measured_and_follows_a_change() -> anyhow::Result<()> {
    World::run("closest", |world| {
        let machines = Machines::on_cables(world, 3)?;
        let tiers = Tiers::start(world, &machines)?;
        let late = |worker: usize, ms: u64| -> anyhow::Result<()> {
            let delay = Duration::from_millis(ms);
            machines.workers[worker].cable()?.set(Conditions { delay, ..Conditions::default() });
            Ok(())
        };
        late(1, 5)?;
        late(2, 40)?;
        let addresses = json!({ "rr_ip": "10.30.60.1", "closest_ip": "10.30.60.2" });
        deploy(world, &tiers, &machines.root, &addresses, "worker-b;worker-c")?;
        let places = places(&tiers)?;
        let number = |worker: &str| -> anyhow::Result<String> {
            let found = places.iter().find(|(_, place)| *place == worker);
            Ok(found.with_context(|| format!("nothing on {worker}"))?.0.clone())
        };
        let (near, far) = (number("worker-b")?, number("worker-c")?);
        let ask = || -> anyhow::Result<String> {
            let curl = ["curl", "-sS", "--max-time", "5", "http://10.30.60.2/"];
            Ok(machines.workers[0].check(&curl)?.trim().to_owned())
        };
        let all_are = |wanted: &str| -> anyhow::Result<()> {
            for _ in 0..10 {
                let answer = ask()?;
                ensure!(answer == wanted, "{answer} instead of {wanted}");
            }
            Ok(())
        };
        eventually("the closest one answers", soon(), || all_are(&near))?;
        let in_turn = answers(world, &machines.root, "http://10.30.60.1/", 4)?;
        ensure!(in_turn.windows(2).all(|pair| pair[0] != pair[1]), "not in turn: {in_turn:?}");

        // The way to the near one becomes long; later the far one moves close.
        for (worker, ms, wanted) in [(1, 90, &far), (2, 150, &near), (2, 1, &far)] {
            late(worker, ms)?;
            let changed = Instant::now();
            eventually("another one is the closest now", soon(), || {
                let answer = ask()?;
                ensure!(answer == *wanted, "{answer} instead of {wanted}");
                Ok(())
            })?;
            println!("followed after {:?}", changed.elapsed());
            ensure!(changed.elapsed() < Duration::from_secs(5), "too late: {:?}", changed.elapsed());
            all_are(wanted)?;
        }
        Ok(())
    })
}

//! Workers behind NATs: they reach each other straight where the NATs let them, and through the relay of a cluster where
//! not, and connections survive the change.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use oak_e2e::{
    Api, Conditions, Echo, Host, Inside, Machines, Microservice, Nat, Oak, Router, Tiers, World, application,
    encrypted_bytes, eventually, soon, while_transferring,
};
use oak_model::Balancing;
use serde_json::json;

const WEB: &str = "10.30.50.1";

fn shop(web: &str, client: &str) -> String {
    application(
        "shop",
        [
            Microservice::nginx("web").on(web).set("addresses", json!({ "rr_ip": WEB })),
            Microservice::idle("client").on(client),
        ],
    )
}

fn welcomes(world: &World, root: &Host, client: &str, url: &str) -> anyhow::Result<()> {
    let command = format!("curl -sS --max-time 5 {url}");
    let output = world.command(root, &["exec", client, "--", "sh", "-c", &command])?;
    ensure!(
        output.code == Some(0) && output.stdout.contains("Welcome to nginx"),
        "{client}: {url}: {output:?}"
    );
    Ok(())
}

/// The path a worker has said last.
fn path(worker: &Oak<'_>) -> anyhow::Result<String> {
    let log = worker.log_of_this_life()?;
    let line = log.lines().rfind(|line| line.contains("path to another worker")).context("no path yet")?;
    let path = line.split("path=").nth(1).context("no path in the line")?;
    Ok(path.to_owned())
}

fn uses(worker: &Oak<'_>, wanted: &str) -> anyhow::Result<()> {
    let path = path(worker)?;
    ensure!(path.contains(wanted), "{path}");
    Ok(())
}

/// A root, a cluster, and two workers, each behind a NAT of its own.
fn two_sites(world: &World, nat: Nat) -> anyhow::Result<(Machines, [Router; 2])> {
    let routers = [Router::create(world, "nat-a", 30, nat)?, Router::create(world, "nat-b", 31, nat)?];
    let machines = Machines {
        root: world.host("root", 10)?,
        cluster: world.host("cluster", 11)?,
        workers: vec![routers[0].machine(world, "worker-a", 2)?, routers[1].machine(world, "worker-b", 2)?],
    };
    Ok((machines, routers))
}

#[test]
fn workers_behind_two_nats_reach_each_other_straight_and_fall_back_to_the_relay() -> anyhow::Result<()> {
    World::run("nat", |world| {
        let (machines, routers) = two_sites(world, Nat::PortRestricted)?;
        let tiers = Tiers::start(world, &machines)?;
        let root = &machines.root;
        tiers.api.create(&shop("worker-a", "worker-b"))?;
        for service in ["web", "client"] {
            tiers.api.deploy(service)?;
            tiers.api.wait_running(service, 1)?;
        }
        welcomes(world, root, "client", &format!("http://{WEB}/"))?;
        welcomes(world, root, "client", "http://web/")?;
        let (a, b) = (&tiers.workers[0], &tiers.workers[1]);
        eventually("both go straight", soon(), || {
            uses(a, "10.99.0.31:50103").and_then(|()| uses(b, "10.99.0.30:50103"))
        })?;

        // A transfer of some ten seconds goes on when nothing goes straight any more.
        while_transferring(world, &machines, WEB, (40, 4), || {
            for (router, other) in [(&routers[0], &routers[1]), (&routers[1], &routers[0])] {
                router.cut(other.host().address())?;
            }
            eventually("both use the relay", soon(), || {
                uses(a, "10.99.0.11:50105 (relay").and_then(|()| uses(b, "10.99.0.11:50105 (relay"))
            })
        })?;
        welcomes(world, root, "client", "http://web/")?;

        // Without any traffic of instances the better path is found again: each side tries it once a minute.
        routers.iter().try_for_each(Router::mend)?;
        eventually("both go straight again", Duration::from_secs(180), || {
            uses(a, "10.99.0.31:50103").and_then(|()| uses(b, "10.99.0.30:50103"))
        })?;
        welcomes(world, root, "client", "http://web/")
    })
}

#[test]
fn what_cannot_go_straight_goes_through_the_relay() -> anyhow::Result<()> {
    World::run("nat_symmetric", |world| {
        let (machines, _routers) = two_sites(world, Nat::Symmetric)?;
        let tiers = Tiers::start(world, &machines)?;
        tiers.api.create(&shop("worker-a", "worker-b"))?;
        for service in ["web", "client"] {
            tiers.api.deploy(service)?;
            tiers.api.wait_running(service, 1)?;
        }
        welcomes(world, &machines.root, "client", &format!("http://{WEB}/"))?;
        welcomes(world, &machines.root, "client", "http://web/")?;
        eventually("both use the relay", soon(), || {
            tiers.workers.iter().try_for_each(|worker| uses(worker, "10.99.0.11:50105 (relay"))
        })
    })
}

/// A site with a cluster and two workers.
struct Site<'host> {
    name: &'static str,
    cluster: &'host Host,
    workers: [&'host Host; 2],
}

/// What runs on a node: a server with a service address, and a client.
struct Place<'host> {
    worker: &'host Host,
    address: Ipv4Addr,
    server: Inside,
    client: Inside,
}

const UDP_PORT: u16 = 7007;

/// The processes of a cluster and its workers, joined to the root.
fn join<'host>(
    world: &World,
    root: &Host,
    api: &Api<'_>,
    site: &Site<'host>,
) -> anyhow::Result<(Oak<'host>, Vec<Oak<'host>>)> {
    let token = api.token("cluster", None, 600)?;
    let (root, address) = (root.address().to_string(), site.cluster.address().to_string());
    let words = ["cluster", "--root", &root, "--name", site.name, "--token", &token];
    let mut cluster = world.oak(site.cluster, &words)?;
    cluster.start_until("cluster ready")?;
    cluster.wait_for_log("connected to the root")?;
    let mut workers = Vec::new();
    for host in site.workers {
        let token = api.token("worker", Some(site.name), 600)?;
        let words = ["worker", "--cluster", &address, "--name", host.name(), "--token", &token];
        let mut worker = world.oak(host, &words)?;
        worker.start_until("worker ready")?;
        worker.wait_for_log("connected to the cluster")?;
        workers.push(worker);
    }
    Ok((cluster, workers))
}

/// A server and a client on every node.
fn deploy<'host>(api: &Api<'_>, nodes: &[&'host Host]) -> anyhow::Result<Vec<Place<'host>>> {
    let address = |number: usize| Ipv4Addr::new(10, 30, 50, 10 + u8::try_from(number).unwrap_or(0));
    let services = nodes.iter().enumerate().flat_map(|(number, node)| {
        let addresses = json!({ "rr_ip": address(number).to_string() });
        [
            Microservice::nginx(&format!("web{number}")).on(node.name()).set("addresses", addresses),
            Microservice::idle(&format!("client{number}")).on(node.name()),
        ]
    });
    api.create(&application("mesh", services.collect::<Vec<_>>()))?;
    for number in 0..nodes.len() {
        for service in [format!("web{number}"), format!("client{number}")] {
            api.deploy(&service)?;
            api.wait_running(&service, 1)?;
        }
    }
    let place = |(number, worker): (usize, &&'host Host)| {
        let (server, client) = (Inside::of(worker, "nginx")?, Inside::of(worker, "sleep 10000")?);
        Ok(Place { worker, address: address(number), server, client })
    };
    nodes.iter().enumerate().map(place).collect()
}

/// The address of IPv6 that leads to the same service.
fn six(address: Ipv4Addr) -> Ipv6Addr {
    oak_model::ipv6::service(Balancing::RoundRobin, address)
}

/// Everybody reaches everybody: over both families, by address and by name, by TCP, UDP and ICMP.
fn all_reach_all(world: &World, root: &Host, places: &[Place<'_>]) -> anyhow::Result<()> {
    let names = (0..places.len()).map(|number| format!("web{number}"));
    // Globbing is off, so that brackets are what they are.
    let addresses = places.iter().map(|place| format!("{} [{}]", place.address, six(place.address)));
    let targets: Vec<String> = addresses.chain(names).collect();
    let fetch = format!(
        "for t in {}; do curl -gsS --max-time 5 --retry 2 --retry-all-errors http://$t/ | grep -q 'Welcome to nginx' || echo $t; done",
        targets.join(" ")
    );
    for (number, place) in places.iter().enumerate() {
        let client = format!("client{number}");
        let output = world.command(root, &["exec", &client, "--", "sh", "-c", &fetch])?;
        let all = output.code == Some(0) && output.stdout.trim().is_empty();
        ensure!(all, "TCP from {}: {output:?}", place.worker.name());
        for (other, there) in places.iter().enumerate() {
            let what = format!("{} reaches {}", place.worker.name(), there.worker.name());
            let sequence = u16::try_from(100 * number + other)?;
            // Datagrams may get lost: the line is bad.
            for address in [IpAddr::V4(there.address), IpAddr::V6(six(there.address))] {
                eventually(&what, soon(), || place.client.ask_udp((address, UDP_PORT).into()))?;
                eventually(&what, soon(), || place.client.ping(address, sequence))?;
            }
        }
    }
    Ok(())
}

/// Three clusters, each with two nodes: one site without a NAT, two behind a NAT each, over bad lines.
#[test]
fn every_instance_reaches_every_service_across_two_nats_and_three_clusters() -> anyhow::Result<()> {
    World::run("nat_mesh", |world| {
        let root_host = world.host("root", 10)?;
        let clusters = [world.host("c-east", 11)?, world.host("c-north", 12)?, world.host("c-south", 13)?];
        let north = Router::create(world, "nat-north", 30, Nat::PortRestricted)?;
        let south = Router::create(world, "nat-south", 31, Nat::PortRestricted)?;
        let nodes = [
            world.host_on_cable("east-1", 20)?,
            world.host("east-2", 21)?,
            north.machine(world, "north-1", 2)?,
            north.machine(world, "north-2", 3)?,
            south.machine(world, "south-1", 2)?,
            south.machine(world, "south-2", 3)?,
        ];
        let mut root = world.oak(&root_host, &["root"])?;
        root.start_until("root ready")?;
        let api = Api::on(&root_host);
        let [a, b, c, d, e, f] = &nodes;
        let mut running = Vec::new();
        for (name, cluster, workers) in
            [("east", &clusters[0], [a, b]), ("north", &clusters[1], [c, d]), ("south", &clusters[2], [e, f])]
        {
            running.push(join(world, &root_host, &api, &Site { name, cluster, workers })?);
        }
        let places = deploy(&api, &nodes.iter().collect::<Vec<_>>())?;
        let echoes: Vec<Echo> =
            places.iter().map(|place| place.server.echo(UDP_PORT)).collect::<anyhow::Result<_>>()?;
        let bad = |delay, jitter, loss| Conditions {
            delay: Duration::from_millis(delay),
            jitter: Duration::from_millis(jitter),
            loss,
            ..Conditions::default()
        };
        north.host().cable()?.set(bad(20, 5, 0.01));
        south.host().cable()?.set(bad(10, 0, 0.005));
        a.cable()?.set(bad(5, 2, 0.0));
        all_reach_all(world, &root_host, &places)?;

        // The first nodes of both sites have the ports they want, so they reach each other straight.
        let straight = format!("path={}:50103", south.host().address());
        let north_1 = &running[1].1[0];
        eventually("a pair behind both NATs goes straight", soon(), || {
            let log = north_1.log_of_this_life()?;
            ensure!(log.contains(&straight), "{}", paths(&log));
            Ok(())
        })?;
        a_cut_is_survived(world, &root_host, [&north, &south], c)?;
        all_reach_all(world, &root_host, &places)?;
        drop(echoes);
        Ok(())
    })
}

fn paths(log: &str) -> String {
    log.lines().filter(|line| line.contains("path to another worker")).collect::<Vec<_>>().join("\n")
}

/// A transfer from the fifth node to the third goes on when nothing goes straight between their sites any more.
fn a_cut_is_survived(
    world: &World,
    root: &Host,
    [north, south]: [&Router; 2],
    here: &Host,
) -> anyhow::Result<()> {
    let make = "dd if=/dev/zero of=/usr/share/nginx/html/big bs=1M count=16";
    let made = world.command(root, &["exec", "web4", "--", "sh", "-c", make])?;
    ensure!(made.code == Some(0), "{made:?}");
    let url = "http://10.30.50.14/big";
    let words = ["curl", "-sS", "--max-time", "55", "--limit-rate", "1M", "-o", "/dev/null"];
    let words = [&words[..], &["-w", "%{http_code} %{size_download}", url]].concat();
    let before = encrypted_bytes(here)?;
    let fetched = std::thread::scope(|scope| {
        let fetch = scope.spawn(|| here.check(&words));
        let more = |bytes: u64| {
            move || {
                ensure!(encrypted_bytes(here)? > before + bytes, "not yet");
                Ok(())
            }
        };
        eventually("the transfer has begun", soon(), more(1 << 20))?;
        north.cut(south.host().address())?;
        south.cut(north.host().address())?;
        ensure!(!fetch.is_finished(), "the transfer was too short to show anything");
        eventually("the transfer goes on", soon(), more(6 << 20))?;
        fetch.join().unwrap_or_else(|_| anyhow::bail!("curl was not waited for"))
    })?;
    ensure!(fetched == "200 16777216", "{fetched}");
    Ok(())
}

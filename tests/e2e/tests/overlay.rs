//! Instances find services on other workers and in other clusters, by name and by address, and go on finding them while
//! things fail.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use oak_e2e::{
    Api, CLUSTER, Host, Machines, Microservice, Tiers, World, application, eventually, soon,
    while_transferring,
};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socket_with};
use serde_json::{Value, json};

const WEB: &str = "10.30.50.1";

/// The page of the service as an instance of the client gets it, with the time it took.
fn page(world: &World, root: &Host, client: &str, url: &str) -> anyhow::Result<(String, Duration)> {
    let began = Instant::now();
    let command = format!("curl -sS --max-time 5 {url}");
    let output = world.command(root, &["exec", client, "--", "sh", "-c", &command])?;
    ensure!(output.code == Some(0), "{client}: {url}: {output:?}");
    Ok((output.stdout, began.elapsed()))
}

fn welcomes(world: &World, root: &Host, client: &str, url: &str) -> anyhow::Result<()> {
    let (page, _) = page(world, root, client, url)?;
    ensure!(page.contains("Welcome to nginx"), "{client}: {url}: {page}");
    Ok(())
}

fn shop(web: &str, client: &str) -> String {
    application(
        "shop",
        [
            Microservice::nginx("web").on(web).set("addresses", json!({ "rr_ip": WEB })),
            Microservice::idle("client").on(client),
        ],
    )
}

#[test]
fn services_are_reached_on_other_workers() -> anyhow::Result<()> {
    World::run("overlay", |world| {
        let machines = Machines::create(world, 2)?;
        let mut tiers = Tiers::start(world, &machines)?;
        let root = &machines.root;
        tiers.api.create(&shop("worker-a", "worker-b"))?;
        for service in ["web", "client"] {
            tiers.api.deploy(service)?;
            tiers.api.wait_running(service, 1)?;
        }
        // By address first: nobody has asked for the name, so the first packet has to wait, of whatever family.
        let (first, _) = page(world, root, "client", "'http://[fdff:2000::50:1]/'")?;
        ensure!(first.contains("Welcome to nginx"), "{first}");
        let (first, _) = page(world, root, "client", &format!("http://{WEB}/"))?;
        ensure!(first.contains("Welcome to nginx"), "{first}");
        welcomes(world, root, "client", "http://web/")?;
        welcomes(world, root, "client", "http://0.web.test.shop.test.oak/")?;
        welcomes(world, root, "client", "'http://[fdff:2000::50:1]/'")?;
        welcomes(world, root, "client", "-6 http://web/")?;
        let seen = world.command(root, &["logs", "web"])?.stdout;
        ensure!(seen.contains("10.30.") && !seen.contains("10.18."), "who calls is not seen: {seen}");
        ensure!(!seen.contains("fc00::"), "who calls is not seen: {seen}");
        // The machine itself.
        let from_host =
            machines.workers[1].check(&["curl", "-sS", "--max-time", "5", &format!("http://{WEB}/")])?;
        ensure!(from_host.contains("Welcome to nginx"), "{from_host}");
        nobody_in_between_reads(world, &machines)?;
        what_does_not_exist_is_refused(world, root)?;

        // An agent that is killed takes nothing from anybody.
        tiers.workers[1].kill()?;
        let hosted =
            machines.workers[1].check(&["curl", "-sS", "--max-time", "5", &format!("http://{WEB}/")])?;
        ensure!(hosted.contains("Welcome to nginx"), "{hosted}");
        // Everything that was known is known after a start, although nobody can be reached.
        tiers.cluster.kill()?;
        tiers.root.kill()?;
        tiers.workers[1].start_until("worker ready")?;
        let again =
            || machines.workers[1].check(&["curl", "-sS", "--max-time", "5", &format!("http://{WEB}/")]);
        eventually("the service is reached without a cluster", soon(), || {
            ensure!(again()?.contains("Welcome to nginx"));
            Ok(())
        })?;
        tiers.root.start_until("root ready")?;
        tiers.cluster.start_until("cluster ready")?;
        eventually("the client reaches the service", soon(), || {
            welcomes(world, root, "client", "http://web/")
        })?;
        more_instances_share_the_load(world, root, &tiers.api)?;
        an_update_is_not_noticed(world, root, &tiers.api, "worker-a", "worker-b")
    })
}

/// Frames that pass the switch while `work` goes on.
fn frames_during(world: &World, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Vec<Vec<u8>>> {
    let open = || {
        let (family, all) = (AddressFamily::PACKET, rustix::net::eth::ALL);
        socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(all))
    };
    let socket = world.switch().within(open)??;
    work()?;
    let (mut frames, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    while let Ok((length, _)) = recv(&socket, buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
        frames.push(buffer[..length].to_vec());
    }
    Ok(frames)
}

/// Port to which a frame with a datagram of IPv4 goes.
fn udp_port(frame: &[u8]) -> Option<u16> {
    let is_udp = frame.get(12..14)? == [8, 0] && *frame.get(14)? == 0x45 && *frame.get(23)? == 17;
    is_udp.then(|| u16::from_be_bytes([frame[36], frame[37]]))
}

fn contains(frame: &[u8], text: &str) -> bool {
    frame.windows(text.len()).any(|window| window == text.as_bytes())
}

fn nobody_in_between_reads(world: &World, machines: &Machines) -> anyhow::Result<()> {
    let frames = frames_during(world, || {
        let curl = ["curl", "-sS", "--max-time", "5", &format!("http://{WEB}/")];
        let page = machines.workers[1].check(&curl)?;
        ensure!(page.contains("Welcome to nginx"), "{page}");
        Ok(())
    })?;
    let to = |port| frames.iter().filter(|frame| udp_port(frame) == Some(port)).count();
    // By the engine or by the kernel.
    let encrypted = to(50103) + to(50106);
    ensure!(encrypted >= 4 && to(50104) == 0, "{encrypted} encrypted, {} plain", to(50104));
    ensure!(!frames.iter().any(|frame| contains(frame, "nginx")), "the page can be read");
    Ok(())
}

/// The machine fetches ten gigabits within about twenty seconds, and its agent and that of the other side are killed
/// meanwhile.
#[test]
fn a_killed_agent_breaks_no_transfer() -> anyhow::Result<()> {
    World::run("overlay_kill", |world| {
        let machines = Machines::create(world, 2)?;
        let mut tiers = Tiers::start(world, &machines)?;
        tiers.api.create(&shop("worker-a", "worker-b"))?;
        for service in ["web", "client"] {
            tiers.api.deploy(service)?;
            tiers.api.wait_running(service, 1)?;
        }
        while_transferring(world, &machines, WEB, (1200, 60), || {
            for worker in &mut tiers.workers {
                worker.kill()?;
            }
            for worker in &mut tiers.workers {
                worker.start_until("worker ready")?;
            }
            Ok(())
        })?;

        // An engine that is killed is started again, and `down` leaves none.
        let engines = || machines.workers[0].run(&["pgrep", "-f", "[_]_tunnel"]);
        let before = engines()?.stdout;
        machines.workers[0].check(&["pkill", "-KILL", "-f", "[_]_tunnel"])?;
        eventually("a new engine runs", soon(), || {
            let now = engines()?.stdout;
            ensure!(!now.trim().is_empty() && now != before, "{now}");
            let curl = ["curl", "-sS", "--max-time", "5", &format!("http://{WEB}/")];
            ensure!(machines.workers[1].check(&curl)?.contains("Welcome to nginx"));
            Ok(())
        })?;
        let down = world.command(&machines.workers[0], &["down"])?;
        ensure!(down.code == Some(0), "{down:?}");
        ensure!(engines()?.stdout.trim().is_empty(), "an engine still runs");
        let devices = machines.workers[0].check(&["cat", "/proc/net/dev"])?;
        ensure!(!devices.contains("oak0"), "{devices}");
        Ok(())
    })
}

#[test]
fn plain_packets_are_sent_only_where_both_allow_them() -> anyhow::Result<()> {
    World::run("overlay_plain", |world| {
        let machines = Machines::create(world, 2)?;
        let mut tiers = Tiers::start(world, &machines)?;
        let restart = |tiers: &mut Tiers<'_>, index: usize, encryption: &str| {
            let worker: &mut oak_e2e::Oak<'_> = &mut tiers.workers[index];
            worker.kill()?;
            worker.set("OAK_NETWORK_ENCRYPTION", encryption);
            worker.start_until("worker ready")?;
            worker.wait_for_log("connected to the cluster")
        };
        restart(&mut tiers, 0, "off")?;
        tiers.api.create(&shop("worker-a", "worker-b"))?;
        for service in ["web", "client"] {
            tiers.api.deploy(service)?;
            tiers.api.wait_running(service, 1)?;
        }
        let curl = ["curl", "-sS", "--max-time", "5", &format!("http://{WEB}/")];
        let frames = frames_during(world, || {
            let page = machines.workers[1].check(&curl)?;
            ensure!(page.contains("Welcome to nginx"), "{page}");
            Ok(())
        })?;
        let plain = frames.iter().any(|frame| udp_port(frame) == Some(50104) && contains(frame, "nginx"));
        ensure!(plain, "not plain");

        restart(&mut tiers, 1, "required")?;
        tiers.workers[1].wait_for_log("this worker only encrypts (network.encryption is required)")?;
        ensure!(machines.workers[1].check(&curl).is_err(), "a plain worker is reached");

        restart(&mut tiers, 0, "preferred")?;
        eventually("both encrypt", soon(), || {
            let page = machines.workers[1].check(&curl)?;
            ensure!(page.contains("Welcome to nginx"), "{page}");
            Ok(())
        })?;
        nobody_in_between_reads(world, &machines)
    })
}

fn what_does_not_exist_is_refused(world: &World, root: &Host) -> anyhow::Result<()> {
    let began = Instant::now();
    let command = "curl -sS --max-time 5 http://10.30.77.7/; echo $?";
    let output = world.command(root, &["exec", "client", "--", "sh", "-c", command])?;
    ensure!(output.stdout.trim() == "7", "not refused: {output:?}");
    ensure!(began.elapsed() < Duration::from_secs(4), "refused after {:?}", began.elapsed());
    Ok(())
}

/// An instance more on the other worker serves, too; when it goes nobody notices.
fn more_instances_share_the_load(world: &World, root: &Host, api: &Api<'_>) -> anyhow::Result<()> {
    api.create(&application(
        "more",
        [Microservice::nginx("pages").set("addresses", json!({ "rr_ip": "10.30.50.2" }))],
    ))?;
    for _ in 0..4 {
        api.deploy("pages")?;
    }
    api.wait_running("pages", 4)?;
    let requests =
        "for i in $(seq 40); do curl -sS --max-time 5 -o /dev/null http://10.30.50.2/ || echo failed; done";
    let output = world.command(root, &["exec", "client", "--", "sh", "-c", requests])?;
    ensure!(output.code == Some(0) && !output.stdout.contains("failed"), "{output:?}");
    for number in 0..4 {
        let served = world.command(root, &["logs", &format!("pages/{number}")])?.stdout;
        ensure!(served.contains("GET /"), "instance {number} got nothing");
    }
    for number in 0..3 {
        api.undeploy("pages", number)?;
    }
    let output = world.command(root, &["exec", "client", "--", "sh", "-c", requests])?;
    ensure!(output.code == Some(0) && !output.stdout.contains("failed"), "{output:?}");
    Ok(())
}

#[test]
fn services_are_reached_in_other_clusters() -> anyhow::Result<()> {
    World::run("overlay_clusters", |world| {
        let machines = Machines::create(world, 1)?;
        let mut tiers = Tiers::start(world, &machines)?;
        let (site, device) = (world.host("garage", 40)?, world.host("pi", 41)?);
        let root_address = machines.root.address().to_string();
        let token = tiers.api.token("cluster", None, 600)?;
        let words = ["cluster", "--root", &root_address, "--name", "garage", "--token", &token];
        let mut garage = world.oak(&site, &words)?;
        garage.start_until("cluster ready")?;
        garage.wait_for_log("connected to the root")?;
        let token = tiers.api.token("worker", Some("garage"), 600)?;
        let garage_address = site.address().to_string();
        let words = ["worker", "--cluster", &garage_address, "--name", "pi", "--token", &token];
        let mut pi = world.oak(&device, &words)?;
        pi.start_until("worker ready")?;
        pi.wait_for_log("connected to the cluster")?;

        let root = &machines.root;
        tiers.api.create(&shop("pi", "worker-a"))?;
        for service in ["web", "client"] {
            tiers.api.deploy(service)?;
            tiers.api.wait_running(service, 1)?;
        }
        let places = [tiers.api.instances("web")?, tiers.api.instances("client")?].concat();
        ensure!(places[0].worker == "pi" && places[1].worker == "worker-a", "{places:?} {CLUSTER}");
        welcomes(world, root, "client", &format!("http://{WEB}/"))?;
        welcomes(world, root, "client", "http://web/")?;

        // Neither the root nor a cluster is needed for what is known.
        tiers.root.kill()?;
        tiers.cluster.kill()?;
        garage.kill()?;
        let curl = ["curl", "-sS", "--max-time", "5", &format!("http://{WEB}/")];
        tiers.root.start_until("root ready")?;
        tiers.cluster.start_until("cluster ready")?;
        garage.start_until("cluster ready")?;
        eventually("the client reaches the service", soon(), || {
            welcomes(world, root, "client", "http://web/")
        })?;
        let from_host = machines.workers[0].check(&curl)?;
        ensure!(from_host.contains("Welcome to nginx"), "{from_host}");
        an_update_is_not_noticed(world, root, &tiers.api, "pi", "worker-a")
    })
}

/// A service that is called from elsewhere is scaled and updated, and no request fails.
fn an_update_is_not_noticed(
    world: &World,
    root: &Host,
    api: &Api<'_>,
    there: &str,
    here: &str,
) -> anyhow::Result<()> {
    let busy = |change: Value| {
        Microservice::nginx("busy")
            .on(there)
            .set("addresses", json!({ "rr_ip": "10.30.50.3" }))
            .set("replicas", json!(1))
            .set("update", json!({ "min_ready_s": 1, "deadline_s": 60 }))
            .set("environment", change)
    };
    let script = "trap 'exit 0' TERM; n=0; f=0; while :; do curl -s -f -o /dev/null -m 5 http://10.30.50.3/ \
                  || { f=$((f+1)); echo \"curl says $?\"; }; n=$((n+1)); \
                  [ $((n%20)) = 0 ] && echo \"asked $n failed $f\"; done";
    let caller = Microservice::shell("caller", script).on(here);
    api.create(&application("load", [busy(json!(["VERSION=1"])), caller]))?;
    api.wait_running("busy", 1)?;
    api.deploy("caller")?;
    api.wait_running("caller", 1)?;
    let asked = || -> anyhow::Result<u64> {
        let output = world.command(root, &["logs", "caller/0", "--tail", "20"])?.stdout;
        let last = output.lines().rev().find_map(|line| line.strip_prefix("asked "));
        let (asked, failed) = last.and_then(|last| last.split_once(" failed ")).context("no count")?;
        ensure!(failed.trim() == "0", "{failed} of {asked} requests failed: {output}");
        Ok(asked.parse()?)
    };
    eventually("requests are made", soon(), || asked().map(drop))?;
    let id = api.service("busy")?["microserviceID"].as_str().unwrap_or_default().to_owned();
    for replicas in [5, 2] {
        api.call("PUT", &format!("/api/service/{id}/scale"), Some(&json!({ "replicas": replicas })))?;
        eventually("the number is as wanted", soon(), || {
            ensure!(api.wait_running("busy", replicas)?.len() == replicas);
            Ok(())
        })?;
        let before = asked()?;
        eventually("more requests are made", soon(), || {
            ensure!(asked()? > before + 40);
            Ok(())
        })?;
    }
    let changed = busy(json!(["VERSION=2"])).set("replicas", json!(2));
    let descriptor: Value = serde_json::from_str(&application("load", [changed]))?;
    api.call("PUT", &format!("/api/service/{id}"), Some(&descriptor))?;
    eventually("the update comes to its end", Duration::from_secs(60), || {
        let rollout = &api.service("busy")?["rollout"];
        ensure!(rollout["state"] == "done", "{rollout}");
        Ok(())
    })?;
    let before = asked()?;
    eventually("more requests are made", soon(), || {
        ensure!(asked()? > before + 40);
        Ok(())
    })
}

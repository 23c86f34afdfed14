//! Organisations do not reach each other's services, on one worker and between workers, unless they are exported.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use oak_e2e::{Host, Machines, Microservice, Tiers, World, application, eventually, soon};
use serde_json::json;

const CLOSED: &str = "10.30.50.1";
const OPEN: &str = "10.30.50.2";
/// The IPv6 addresses that go with them.
const CLOSED6: &str = "[fdff:2000::50:1]";
const OPEN6: &str = "[fdff:2000::50:2]";
/// Of the other organisation.
const GUEST: [&str; 6] = ["--user", "pia", "--password", "pia's password", "--organization", "lab"];

fn web(name: &str, address: &str, worker: &str) -> Microservice {
    Microservice::nginx(name)
        .on(worker)
        .set("addresses", json!({ "rr_ip": address }))
        .set("replicas", json!(1))
}

/// What `curl` inside an instance says, and how long it took.
fn fetch(
    world: &World,
    root: &Host,
    who: &[&str],
    client: &str,
    url: &str,
) -> anyhow::Result<(String, Duration)> {
    let began = Instant::now();
    let command = format!("curl -sS --globoff --max-time 5 {url} 2>&1");
    let words = [who, &["exec", client, "--", "sh", "-c", &command]].concat();
    let output = world.command(root, &words)?;
    Ok((output.stdout, began.elapsed()))
}

fn welcomes(world: &World, root: &Host, who: &[&str], client: &str, url: &str) -> anyhow::Result<()> {
    let (page, _) = fetch(world, root, who, client, url)?;
    ensure!(page.contains("Welcome to nginx"), "{client}: {url}: {page}");
    Ok(())
}

/// A second organisation with a user who has an instance on the first worker.
fn invite(world: &World, tiers: &Tiers<'_>, root: &Host) -> anyhow::Result<()> {
    let lab = tiers.api.call("POST", "/api/organization/", Some(&json!({ "name": "lab" })))?;
    let lab =
        lab["_id"]["$oid"].as_str().or(lab["$oid"].as_str()).or(lab.as_str()).context("an id")?.to_owned();
    let user = json!({
        "name": "pia", "password": GUEST[3], "email": "", "roles": ["Application_Provider"], "organization": lab,
    });
    tiers.api.call("POST", "/api/auth/register", Some(&user))?;
    let guest = Microservice::idle("guest").on("worker-a").set("replicas", json!(1));
    let file = root.directory().join("guest.json");
    std::fs::write(&file, application("visit", [guest]))?;
    let file = file.display().to_string();
    let applied = world.command(root, &[&GUEST[..], &["apply", "--file", &file]].concat())?;
    ensure!(applied.code == Some(0), "{applied:?}");
    eventually("the guest runs", soon(), || {
        let output = world.command(root, &[&GUEST[..], &["exec", "guest", "--", "true"]].concat())?;
        ensure!(output.code == Some(0), "{output:?}");
        Ok(())
    })
}

#[test]
fn organizations_reach_what_is_exported_and_nothing_else() -> anyhow::Result<()> {
    World::run("isolation", |world| {
        let machines = Machines::create(world, 2)?;
        let tiers = Tiers::start(world, &machines)?;
        let root = &machines.root;
        let client = Microservice::idle("client").on("worker-a");
        let services = [
            web("closed", CLOSED, "worker-a"),
            web("open", OPEN, "worker-b").set("exported", json!(true)),
            client.set("replicas", json!(1)),
        ];
        tiers.api.create(&application("shop", services))?;
        for service in ["closed", "open", "client"] {
            tiers.api.wait_running(service, 1)?;
        }
        invite(world, &tiers, root)?;
        // The worker knows both addresses now, because somebody there has called them.
        for url in [CLOSED, OPEN, CLOSED6, OPEN6, "closed", "open"] {
            welcomes(world, root, &[], "client", &format!("http://{url}/"))?;
        }
        for url in [CLOSED, CLOSED6, "closed.test.shop.test.oak", "0.closed.test.shop.test.oak"] {
            let (said, took) = fetch(world, root, &GUEST, "guest", &format!("http://{url}/"))?;
            ensure!(
                !said.contains("Welcome") && took < Duration::from_secs(5),
                "{url}: {said} after {took:?}"
            );
        }
        for url in [OPEN, OPEN6, "open.test.shop.test.oak"] {
            welcomes(world, root, &GUEST, "guest", &format!("http://{url}/"))?;
        }
        // What one organisation may not call is its owner's as before.
        welcomes(world, root, &[], "client", &format!("http://{CLOSED}/"))
    })
}

//! One machine with everything on it runs the application of the manual.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use oak_e2e::{Api, CURL_APPLICATION, Footprint, Host, World, eventually, get, soon};

#[test]
fn the_application_of_the_manual_runs_unchanged() -> anyhow::Result<()> {
    World::run("one_device", |world| {
        let host = world.host("device", 10)?;
        let before = Footprint::of(&host)?;
        let mut oak = world.oak(&host, &["up"])?;
        oak.start_until("worker ready")?;
        oak.wait_for_log("dashboard is served here too")?;
        let api = Api::on(&host);

        api.create(CURL_APPLICATION)?;
        for service in ["curl", "nginx"] {
            api.deploy(service)?;
        }
        api.wait_running("nginx", 1)?;
        api.wait_running("curl", 1)?;

        oak.wait_for_log("port 80 is used by an application now")?;
        shows_nginx(world.switch(), &format!("http://{}/", host.address()))?;
        shows_nginx(&host, &format!("http://{}/", host.address()))?;
        shows_nginx(&host, "http://127.0.0.1/")?;
        eventually("the output of curl has the page it fetched", soon(), || {
            let output = world.command(&host, &["logs", "curl"])?;
            ensure!(output.code == Some(0), "oak logs: {output:?}");
            ensure!(output.stdout.contains("Welcome to nginx"), "it has only: {}", output.stdout);
            Ok(())
        })?;

        shares_are_fair(&api, &host)?;

        api.delete_application("clientsrvr")?;
        nothing_of_the_application_is_left(&host)?;
        eventually("the dashboard is back", soon(), || {
            let page = get(&host, "http://127.0.0.1/")?;
            ensure!(page.status == 200 && !page.body.contains("nginx"), "{page:?}");
            Ok(())
        })?;
        let after_first = Footprint::of(&host)?;

        // Names and addresses are free again at once.
        api.create(CURL_APPLICATION)?;
        api.deploy("nginx")?;
        api.wait_running("nginx", 1)?;
        shows_nginx(&host, "http://10.30.55.55/")?;
        api.delete_application("clientsrvr")?;
        nothing_of_the_application_is_left(&host)?;
        eventually("the second time leaves nothing more than the first", soon(), || {
            Footprint::of(&host)?.nothing_more_than(&after_first)
        })?;

        let down = world.command(&host, &["down"])?;
        ensure!(down.code == Some(0), "oak down: {down:?}");
        ensure!(oak.wait_for_end()? == Some(0), "oak up did not end properly");
        Footprint::of(&host)?.nothing_more_than(&before)
    })
}

fn shows_nginx(from: &Host, url: &str) -> anyhow::Result<()> {
    eventually(&format!("{url} shows the page of nginx to {}", from.name()), soon(), || {
        let page = get(from, url)?;
        ensure!(page.status == 200 && page.body.contains("Welcome to nginx"), "{page:?}");
        Ok(())
    })
}

/// Ninety connections to the service address go to three instances.
fn shares_are_fair(api: &Api<'_>, host: &Host) -> anyhow::Result<()> {
    // The host port belongs to the first instance; on one machine the others can only share it.
    api.deploy("nginx")?;
    api.deploy("nginx")?;
    api.wait_running("nginx", 3)?;
    eventually("all three instances answer", Duration::from_secs(10), || {
        let shares = shares(host, 9)?;
        ensure!(shares.len() == 3, "{shares:?}");
        Ok(())
    })?;
    let shares = shares(host, 90)?;
    let is_fair = shares.len() == 3 && shares.values().all(|share| (20..=40).contains(share));
    ensure!(is_fair, "shares of 90 connections: {shares:?}");
    Ok(())
}

fn shares(host: &Host, connections: usize) -> anyhow::Result<BTreeMap<String, usize>> {
    let mut shares = BTreeMap::new();
    for _ in 0..connections {
        let page = get(host, "http://10.30.55.55/").context("the service address")?;
        ensure!(page.status == 200, "{page:?}");
        *shares.entry(page.served_by).or_insert(0) += 1;
    }
    Ok(shares)
}

fn nothing_of_the_application_is_left(host: &Host) -> anyhow::Result<()> {
    eventually("nothing of the application is left", soon(), || {
        let now = Footprint::of(host)?;
        let of_instances =
            now.processes.keys().filter(|name| *name != "bash" && *name != "oak").collect::<Vec<_>>();
        ensure!(of_instances.is_empty(), "processes: {of_instances:?}");
        let devices = now.devices.iter().filter(|name| name.starts_with("oak0-")).collect::<Vec<_>>();
        ensure!(devices.is_empty(), "devices: {devices:?}");
        let cgroups = now.cgroups.iter().filter(|name| name.starts_with("oak/")).collect::<Vec<_>>();
        ensure!(cgroups.is_empty(), "cgroups: {cgroups:?}");
        ensure!(!now.rules.contains("10.30.55.55"), "rules: {}", now.rules);
        let data = host.directory().to_string_lossy().into_owned();
        let mounts = now.mounts.iter().filter(|point| point.starts_with(&data)).collect::<Vec<_>>();
        ensure!(mounts.is_empty(), "mounts: {mounts:?}");
        Ok(())
    })
}

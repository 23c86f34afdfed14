//! Names of services: asked from inside instances, by plain and by full name, while services change.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use oak_e2e::{Api, Host, Microservice, World, application, eventually, soon};
use serde_json::json;

/// A resolver on the switch that answers every question for an address with 192.0.2.80.
struct Upstream {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Upstream {
    fn start(switch: &Host) -> anyhow::Result<Self> {
        let address = SocketAddr::from((switch.address(), 53));
        let socket = switch.within(|| UdpSocket::bind(address))??;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                if let Some(answer) = buffer.get(..length).and_then(answer) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The header and question of a query, made an answer; with an address if one was asked for.
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let name = query.get(12..)?.iter().position(|byte| *byte == 0)?;
    let end = 12 + name + 5;
    let mut bytes = query.get(..end)?.to_vec();
    let is_address = bytes.get(end - 4..end - 2)? == [0, 1];
    bytes[2] |= 0x80;
    bytes[3] = 0x80;
    bytes[6..12].copy_from_slice(&[0, is_address.into(), 0, 0, 0, 0]);
    if is_address {
        bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 80]);
    }
    Some(bytes)
}

/// Gives a machine a resolver of its own; the files of the real machine are not touched.
fn resolve_with(host: &Host, server: &str) -> anyhow::Result<()> {
    let file = host.directory().join("resolv.conf");
    std::fs::write(&file, format!("nameserver {server}\nsearch corp.example\n"))?;
    host.check(&["mount", "--bind", &file.to_string_lossy(), "/etc/resolv.conf"]).map(drop)
}

/// What `dig` says on the machine, without what it says around it.
fn dig(host: &Host, words: &[&str]) -> anyhow::Result<Vec<String>> {
    let all = [&["dig", "@10.18.0.1", "+short", "+time=2", "+tries=2"][..], words].concat();
    let mut lines: Vec<_> = host.check(&all)?.lines().map(str::to_owned).collect();
    lines.sort();
    Ok(lines)
}

fn inside(world: &World, host: &Host, script: &str) -> anyhow::Result<String> {
    let output = world.command(host, &["exec", "client", "--", "sh", "-c", script])?;
    ensure!(output.code == Some(0), "{script}: {output:?}");
    Ok(output.stdout)
}

#[test]
fn services_are_found_by_name() -> anyhow::Result<()> {
    World::run("names", |world| {
        let host = world.host("device", 10)?;
        if host.run(&["dig", "-v"])?.code != Some(0) {
            eprintln!("skipped: needs dig (package bind9-dnsutils)");
            return Ok(());
        }
        let upstream = Upstream::start(world.switch())?;
        resolve_with(&host, &world.switch().address().to_string())?;
        let mut oak = world.oak(&host, &["up"])?;
        oak.start_until("worker ready")?;
        let api = Api::on(&host);
        let own = json!(["/etc/resolv.conf=nameserver 192.0.2.99\n"]);
        api.create(&application(
            "shop",
            [
                Microservice::nginx("web")
                    .set("port", json!("8088:80"))
                    .set("addresses", json!({ "rr_ip": "10.30.50.1" })),
                Microservice::idle("client"),
                Microservice::idle("own").set("added_files", own),
            ],
        ))?;
        for service in ["web", "client", "own"] {
            api.deploy(service)?;
            api.wait_running(service, 1)?;
        }
        pages_by_name(world, &host)?;
        records(&host)?;
        let theirs = world.command(&host, &["exec", "own", "--", "cat", "/etc/resolv.conf"])?;
        ensure!(theirs.stdout == "nameserver 192.0.2.99\n", "{theirs:?}");

        names_follow(&api, &host)?;
        forwarding(world, &host, upstream)?;

        // A new agent answers; the instances and their resolvers are as they were.
        oak.kill()?;
        oak.start_until("worker ready")?;
        eventually("names are back", soon(), || {
            let page = inside(world, &host, "curl -s http://web/")?;
            ensure!(page.contains("Welcome to nginx"), "{page}");
            Ok(())
        })
    })
}

fn pages_by_name(world: &World, host: &Host) -> anyhow::Result<()> {
    let resolver = inside(world, host, "cat /etc/resolv.conf")?;
    let expected = "nameserver 10.18.0.1\nsearch test.shop.test.oak shop.test.oak corp.example\n";
    ensure!(resolver.starts_with(expected), "{resolver}");
    for name in ["web", "WEB", "web.test", "web.test.shop.test.oak", "round-robin.web.test.shop.test.oak."] {
        let page = inside(world, host, &format!("curl -s http://{name}/"))?;
        ensure!(page.contains("Welcome to nginx"), "{name}: {page}");
    }
    let page = inside(world, host, "curl -s http://0.web/")?;
    ensure!(page.contains("Welcome to nginx"), "the instance: {page}");
    Ok(())
}

fn records(host: &Host) -> anyhow::Result<()> {
    let check = |words: &[&str], expected: &[&str]| {
        let found = dig(host, words)?;
        ensure!(found == expected, "{words:?}: {found:?}");
        anyhow::Ok(())
    };
    check(&["web.test.shop.test.oak"], &["10.30.50.1"])?;
    check(&["+tcp", "web.test.shop.test.oak"], &["10.30.50.1"])?;
    check(&["web.test.shop.test.oak", "AAAA"], &["fdff:2000::50:1"])?;
    check(&["-x", "10.30.50.1"], &["web.test.shop.test.oak."])?;
    check(&["_port._tcp.web.test.shop.test.oak", "SRV"], &["0 1 80 0.web.test.shop.test.oak."])?;
    let instance = dig(host, &["0.web.test.shop.test.oak"])?;
    let address = instance.first().context("the instance has no name")?;
    check(&["-x", address], &["0.web.test.shop.test.oak."])?;
    let full = host.check(&["dig", "@10.18.0.1", "nothing.test.shop.test.oak"])?;
    ensure!(full.contains("status: NXDOMAIN") && full.contains("hostmaster.oak."), "{full}");
    let full = host.check(&["dig", "@10.18.0.1", "+qr", "wEB.test.shop.test.oak"])?;
    ensure!(full.contains("status: NOERROR") && full.contains("flags: qr aa rd ra"), "{full}");
    Ok(())
}

/// More and fewer instances: their names come and go.
fn names_follow(api: &Api<'_>, host: &Host) -> anyhow::Result<()> {
    let ports = ["_port._tcp.web.test.shop.test.oak", "SRV"];
    let number = api.deploy("web")?;
    api.wait_running("web", 2)?;
    let target = format!("{number}.web.test.shop.test.oak");
    eventually("the second instance has a name", soon(), || {
        ensure!(dig(host, &[&target])?.len() == 1 && dig(host, &ports)?.len() == 2);
        Ok(())
    })?;
    api.undeploy("web", i64::try_from(number)?)?;
    api.wait_running("web", 1)?;
    eventually("the name of the second instance is gone", soon(), || {
        let (name, ports) = (dig(host, &[&target])?, dig(host, &ports)?);
        ensure!(name.is_empty() && ports.len() == 1, "{name:?} {ports:?}");
        Ok(())
    })
}

/// Other names are those of the machine, as long as its resolver answers.
fn forwarding(world: &World, host: &Host, upstream: Upstream) -> anyhow::Result<()> {
    ensure!(dig(host, &["www.example.com"])? == ["192.0.2.80"]);
    let hosts = inside(world, host, "curl -sv --max-time 1 http://www.example.com:9/ 2>&1 || true")?;
    ensure!(hosts.contains("192.0.2.80"), "{hosts}");
    drop(upstream);
    let kept = dig(host, &["www.example.com"])?;
    ensure!(kept == ["192.0.2.80"], "an answer is kept: {kept:?}");
    let failed = host.check(&["dig", "@10.18.0.1", "+time=10", "+tries=1", "other.example.com"])?;
    ensure!(failed.contains("status: SERVFAIL"), "{failed}");
    ensure!(dig(host, &["web.test.shop.test.oak"])? == ["10.30.50.1"]);
    Ok(())
}

//! Whatever comes in that is wrong is refused with the reason, and what is temporarily wrong is tried again.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use oak_e2e::{Api, Host, Microservice, Oak, World, application, eventually, get, resident_kib, soon};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

const SLEEP: &str = "trap 'exit 0' TERM; sleep 1000 & wait";

#[test]
fn wrong_descriptors_are_refused_and_nothing_is_stored() -> anyhow::Result<()> {
    World::run("bad_descriptors", |world| {
        let host = world.host("device", 10)?;
        let mut oak = world.oak(&host, &["up"])?;
        oak.start_until("worker ready")?;
        let api = Api::on(&host);
        let services = [
            Microservice::shell("fine", SLEEP),
            Microservice::shell("greedy", SLEEP).set("memory", json!(-5)).set("port", json!("99999:80")),
            Microservice::shell("odd", SLEEP)
                .set("virtualization", json!("abacus"))
                .set("vcpus", json!("many")),
        ];
        let page = api.send("POST", "/api/application/", Some(&application("wrong", services)))?;
        ensure!(page.status == 422, "{page:?}");
        for path in ["[1].memory", "[1].port", "[2].virtualization", "[2].vcpus"] {
            let path = format!("applications[0].microservices{path}");
            ensure!(page.body.contains(&path), "{path} is not named: {}", page.body);
        }
        ensure!(!page.body.contains("microservices[0]"), "the good service is blamed: {}", page.body);
        let page = api.send("POST", "/api/application/", Some("{\"sla_version\": "))?;
        ensure!(page.status == 400, "{page:?}");
        let applications = api.call("GET", "/api/applications/", None)?;
        ensure!(applications == json!([]), "something was stored: {applications}");
        let services = api.call("GET", "/api/services/", None)?;
        ensure!(services == json!([]), "something was stored: {services}");

        let giant = Microservice::shell("giant", SLEEP).set("memory", json!(9_000_000));
        api.create(&application("large", [giant]))?;
        api.deploy("giant")?;
        let said = eventually("the giant has no place", soon(), || {
            let instance = api.instances("giant")?.pop().context("no instance")?;
            let negative = ["NO_WORKER_CAPACITY", "NoActiveClusterWithCapacity", "TargetClusterNoCapacity"];
            ensure!(negative.contains(&instance.status.as_str()), "{instance:?}");
            Ok(instance)
        })?;
        let name = host.name();
        ensure!(said.detail.contains(name), "worker {name} is not named: {said:?}");
        ensure!(said.detail.contains("9000000"), "the need is not named: {said:?}");
        ensure!(said.detail.contains("MiB"), "there is no unit: {said:?}");
        Ok(())
    })
}

#[test]
fn images_that_cannot_be_had_are_explained_and_tried_again() -> anyhow::Result<()> {
    World::run("bad_images", |world| {
        let host = world.host("device", 10)?;
        let mut oak = world.oak(&host, &["up"])?;
        oak.start_until("worker ready")?;
        let api = Api::on(&host);
        let registry = world.registry_address();
        let foreign = if cfg!(target_arch = "x86_64") { "arm64" } else { "amd64" };
        let other = world.push_variant("test/foreign", Some(foreign), 1000)?;
        let late = world.push_variant("test/late", None, 1000)?;
        let command = json!(["sh", "-c", SLEEP]);
        let service = |name: &str, image: &str| Microservice::new(name, image).set("cmd", command.clone());
        let services = [
            service("unknown", &format!("{registry}/test/nothing:1.0")),
            service("foreign", &other),
            service("late", &late),
        ];
        api.create(&application("images", services))?;
        api.deploy("unknown")?;
        api.deploy("foreign")?;
        within_ten_seconds(&api, "unknown", &["test/nothing:1.0", "not found"])?;
        within_ten_seconds(&api, "foreign", &[foreign, "test/foreign"])?;

        world.stop_registry();
        api.deploy("late")?;
        within_ten_seconds(&api, "late", &[&registry.to_string(), "next attempt"])?;
        world.start_registry()?;
        api.wait_running("late", 1)?;
        Ok(())
    })
}

fn within_ten_seconds(api: &Api<'_>, service: &str, detail: &[&str]) -> anyhow::Result<()> {
    eventually(&format!("{service} says {detail:?}"), Duration::from_secs(10), || {
        let instances = api.instances(service)?;
        let fits = instances.iter().any(|instance| detail.iter().all(|part| instance.detail.contains(part)));
        ensure!(fits, "{instances:?}");
        Ok(())
    })
}

#[test]
fn a_port_of_another_program_is_not_taken_away() -> anyhow::Result<()> {
    World::run("bad_port", |world| {
        let host = world.host("device", 10)?;
        let mut oak = world.oak(&host, &["up"])?;
        oak.start_until("worker ready")?;
        let api = Api::on(&host);
        // Part of every Debian.
        let listen = "use IO::Socket::INET; \
             my $s = IO::Socket::INET->new(LocalPort => 8081, Listen => 5, ReuseAddr => 1) or die; \
             while (my $c = $s->accept) { print $c \"HTTP/1.0 200 OK\\r\\n\\r\\nforeign\"; close $c }";
        let mut holder = host.command("perl").args(["-e", listen]).spawn()?;
        let address = SocketAddr::from((host.address(), 8081));
        let scenario = || {
            host.wait_for_port(address)?;
            let server = Microservice::nginx("server").set("port", json!("8081:80"));
            api.create(&application("ports", [server]))?;
            api.deploy("server")?;
            api.wait_status("server", "FAILED", &["8081", "perl"])?;
            let page = get(&host, "http://127.0.0.1:8081/")?;
            ensure!(page.body == "foreign", "the holder lost its clients: {page:?}");
            Ok(())
        };
        let result = scenario();
        // The process inside ends with what waits for it outside only if it is killed itself.
        host.run(&["sh", "-c", "kill -9 $(pidof perl)"])?;
        holder.wait()?;
        result?;
        api.wait_running("server", 1)?;
        // The program itself needs a moment until it listens.
        eventually("the port leads to the application", soon(), || {
            let page = get(world.switch(), &format!("http://{address}/"))?;
            ensure!(page.body.contains("Welcome to nginx"), "{page:?}");
            Ok(())
        })
    })
}

#[test]
fn garbage_on_the_ports_does_no_harm() -> anyhow::Result<()> {
    World::run("garbage", |world| {
        let host = world.host("device", 10)?;
        let mut oak = world.oak(&host, &["up"])?;
        oak.start_until("worker ready")?;
        let api = Api::on(&host);
        api.create(&application("steady", [Microservice::shell("steady", SLEEP)]))?;
        api.deploy("steady")?;
        api.wait_running("steady", 1)?;
        let before = resident_kib(oak.pid()?);
        let mut random = StdRng::seed_from_u64(1);
        for port in [10000, 10100] {
            let address = SocketAddr::from((host.address(), port));
            for kind in 0..4 {
                for _ in 0..15 {
                    let garbage = garbage(kind, &mut random);
                    // Refusing is as good as ignoring.
                    let _ = world.switch().within(|| throw(address, &garbage))?;
                }
            }
            let crowd = world.switch().within(|| crowd(address))??;
            is_healthy(&api, &mut oak, &host)?;
            drop(crowd);
        }
        is_healthy(&api, &mut oak, &host)?;
        let after = resident_kib(oak.pid()?);
        ensure!(after < before + 64 * 1024, "resident memory grew from {before} to {after} KiB");
        let log = oak.log_of_this_life()?;
        ensure!(!log.contains("panicked"), "something panicked, see {}", oak.log().display());
        Ok(())
    })
}

fn garbage(kind: u32, random: &mut StdRng) -> Vec<u8> {
    let mut noise = vec![0_u8; 4096];
    random.fill(noise.as_mut_slice());
    match kind {
        0 => noise,
        // A TLS handshake record that promises more than it brings.
        1 => [&[0x16, 0x03, 0x01, 0x3f, 0xff, 0x01, 0x00, 0x3f, 0xfb, 0x03, 0x03], &noise[..300]].concat(),
        2 => {
            let mut request = b"GET / HTTP/1.1\r\nhost: x\r\n".to_vec();
            for number in 0..4000 {
                request.extend(format!("x-{number}: {}\r\n", "y".repeat(200)).into_bytes());
            }
            request.extend(b"\r\n");
            request
        }
        _ => {
            let mut request =
                b"POST /api/application/ HTTP/1.1\r\nhost: x\r\ncontent-length: 999999999999\r\n\r\n"
                    .to_vec();
            request.extend(noise);
            request
        }
    }
}

fn throw(address: SocketAddr, bytes: &[u8]) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_write_timeout(Some(Duration::from_secs(2)))?;
    stream.set_read_timeout(Some(Duration::from_millis(100)))?;
    stream.write_all(bytes)?;
    let mut answer = [0_u8; 1024];
    stream.read(&mut answer).map(drop)
}

/// Five hundred connections that say half a word each and stay.
fn crowd(address: SocketAddr) -> anyhow::Result<Vec<TcpStream>> {
    let mut crowd = Vec::new();
    for _ in 0..500 {
        // Where there is a limit for one address, connections are closed, not refused.
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
        // A closed one cannot be written to; that is the point of the limit.
        let _ = stream.write_all(b"GE");
        crowd.push(stream);
    }
    Ok(crowd)
}

fn is_healthy(api: &Api<'_>, oak: &mut Oak<'_>, host: &Host) -> anyhow::Result<()> {
    ensure!(oak.is_running(), "oak has ended");
    let answer: Value = api.call("GET", "/api/applications/", None)?;
    ensure!(answer[0]["application_name"] == "steady", "{answer}");
    for port in [10000, 10100] {
        let page = get(host, &format!("http://127.0.0.1:{port}/healthz"))?;
        ensure!(page.status == 200, "port {port}: {page:?}");
    }
    let before = api.instances("steady")?;
    ensure!(before.iter().all(|instance| instance.status == "RUNNING"), "{before:?}");
    Ok(())
}

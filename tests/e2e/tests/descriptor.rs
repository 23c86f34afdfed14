//! What a worker does with the fields of a descriptor: volumes, files, health checks, restarts, storage, stops.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use oak_e2e::{
    Api, Host, IDLE, Microservice, Refused, World, application, container_cgroups, eventually, get, soon,
};
use serde_json::{Value, json};

fn volume(folder: &str) -> Value {
    json!([{
        "volume_id": "data", "csi_driver": "csi.oakestra.io/hostpath", "mount_path": "/data",
        "config": { "host_path": folder },
    }])
}

/// Runs a scenario on one machine with everything on it.
fn on_one_device(
    name: &str,
    scenario: impl FnOnce(&World, &Host, &Api<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    World::run(name, |world| {
        let host = world.host("device", 10)?;
        let mut oak = world.oak(&host, &["up"])?;
        oak.start_until("worker ready")?;
        scenario(world, &host, &Api::on(&host))
    })
}

#[test]
fn a_volume_outlives_its_instances_and_does_not_lead_out_of_its_root() -> anyhow::Result<()> {
    on_one_device("descriptor_volumes", |_, host, api| {
        let root = host.directory().join("volumes");
        let write = format!("echo line >> /data/log; {IDLE}");
        let copy = format!("cat /etc/app.conf /opt/raw > /data/copy; {IDLE}");
        let nfs = json!([{ "volume_id": "v", "csi_driver": "nfs.example" }]);
        api.create(&application(
            "volumes",
            [
                Microservice::shell("writer", &write).set("volumes", volume("shop/log")),
                Microservice::shell("reader", &copy)
                    .set("volumes", volume("shop/copy"))
                    .set("added_files", json!(["/etc/app.conf=key = value\n", "/opt/raw=base64:cmF3"])),
                Microservice::idle("escaper").set("volumes", volume("shop/out")),
                Microservice::idle("foreign").set("volumes", nfs),
            ],
        ))?;
        // The image has a user who is not root.
        for round in 1..=2 {
            api.deploy("writer")?;
            api.wait_running("writer", 1)?;
            eventually("the line is on the machine", soon(), || {
                let text = fs::read_to_string(root.join("shop/log/log"))?;
                ensure!(text.lines().count() == round, "{text:?}");
                Ok(())
            })?;
            api.undeploy("writer", -1)?;
            eventually("the instance is gone", soon(), || {
                ensure!(api.instances("writer")?.is_empty());
                Ok(())
            })?;
        }

        api.deploy("reader")?;
        eventually("both files were inside", soon(), || {
            let text = fs::read_to_string(root.join("shop/copy/copy"))?;
            ensure!(text == "key = value\nraw", "{text:?}");
            Ok(())
        })?;

        symlink("/etc", root.join("shop/out"))?;
        api.deploy("escaper")?;
        api.wait_status("escaper", "FAILED", &["shop/out", "a symbolic link is not followed"])?;
        let escape = application("escape", [Microservice::idle("e").set("volumes", volume("../etc"))]);
        let refused = api.create(&escape).err().context("an escape was accepted")?;
        let refused = refused.downcast::<Refused>()?;
        ensure!(refused.status == 422 && refused.body.contains("leads out"), "{refused}");

        api.deploy("foreign")?;
        api.wait_status("foreign", "NoActiveClusterWithCapacity", &["volume driver nfs.example"])?;
        let clusters = api.call("GET", "/api/clusters/", None)?;
        ensure!(clusters[0]["csi_drivers"] == json!(["csi.oakestra.io/hostpath"]), "{clusters}");
        Ok(())
    })
}

#[test]
fn an_instance_serves_when_its_health_check_says_so() -> anyhow::Result<()> {
    on_one_device("descriptor_health", |_, host, api| {
        let check = |probe: Value| {
            let mut check = json!({ "interval_s": 1, "retries": 2, "start_period_s": 120 });
            for (key, value) in probe.as_object().into_iter().flatten() {
                check[key] = value.clone();
            }
            check
        };
        let nginx = |name: &str, last: u8, probe| {
            Microservice::nginx(name)
                .set("addresses", json!({ "rr_ip": format!("10.30.50.{last}") }))
                .set("healthcheck", check(probe))
        };
        let late = format!("sleep 4; touch ready; {IDLE}");
        let sick = "sleep 5; touch sick; trap 'exit 0' TERM; sleep 1000 & wait";
        api.create(&application(
            "health",
            [
                nginx("http", 1, json!({ "http": { "port": 80, "path": "/" } })),
                nginx("tcp", 2, json!({ "tcp": { "port": 80 } })),
                nginx("missing", 3, json!({ "http": { "port": 80, "path": "/missing" } })),
                nginx("closed", 4, json!({ "tcp": { "port": 81 } })),
                Microservice::shell("late", &late)
                    .set("healthcheck", check(json!({ "command": ["test", "-e", "ready"] }))),
                Microservice::shell("sick", sick).set(
                    "healthcheck",
                    check(json!({ "command": ["sh", "-c", "echo no cure; test ! -e sick"] })),
                ),
            ],
        ))?;
        for service in ["late", "sick", "missing", "closed", "http", "tcp"] {
            api.deploy(service)?;
        }
        let waits = "waiting for its health check: ";
        api.wait_status("late", "CREATED", &[waits, "the command exited with code 1"])?;
        api.wait_status("missing", "CREATED", &[waits, "the answer is 404"])?;
        api.wait_status("closed", "CREATED", &[waits, "connection refused"])?;
        for (service, last) in [("http", 1), ("tcp", 2)] {
            api.wait_running(service, 1)?;
            let page = get(host, &format!("http://10.30.50.{last}/"))?;
            ensure!(page.status == 200, "{service}: {page:?}");
        }
        for last in [3, 4] {
            let page = get(host, &format!("http://10.30.50.{last}/"));
            ensure!(page.is_err(), "an instance that is not ready serves: {page:?}");
        }
        api.wait_running("late", 1)?;
        api.wait_status(
            "sick",
            "FAILED",
            &["unhealthy: its health check failed 2 times in a row", "no cure"],
        )?;
        api.wait_status("sick", "RUNNING", &["running, restarted 1 times"])?;
        Ok(())
    })
}

#[test]
fn restart_policies_and_storage_limits_hold() -> anyhow::Result<()> {
    on_one_device("descriptor_ends", |_, _, api| {
        let fill = format!("dd if=/dev/zero of=file bs=1M count=30; {IDLE}");
        api.create(&application(
            "ends",
            [
                Microservice::shell("never", "exit 3").set("restart", json!("never")),
                Microservice::shell("done", "exit 0").set("restart", json!("on-failure")),
                Microservice::shell("again", "exit 4").set("restart", json!("on-failure")),
                Microservice::shell("full", &fill).set("storage", json!(10)),
            ],
        ))?;
        for service in ["full", "never", "done", "again"] {
            api.deploy(service)?;
        }
        let never = ["exited with code 3", "not started again, because its restart policy is never"];
        api.wait_status("never", "FAILED", &never)?;
        api.wait_status("done", "COMPLETED", &["exited with code 0"])?;
        api.wait_status("again", "FAILED", &["exited with code 4", "next attempt"])?;
        api.wait_status(
            "full",
            "FAILED",
            &["out of storage: 3", " MiB written, limit 10 MiB; next attempt"],
        )?;
        api.wait_status("never", "FAILED", &never)?;
        Ok(())
    })
}

#[test]
fn no_request_fails_while_an_instance_is_taken_away() -> anyhow::Result<()> {
    on_one_device("descriptor_stop", |_, host, api| {
        let address = json!({ "rr_ip": "10.30.50.9" });
        api.create(&application("stop", [Microservice::nginx("web").set("addresses", address)]))?;
        for _ in 0..3 {
            api.deploy("web")?;
        }
        let instances = api.wait_running("web", 3)?;
        let done = std::sync::atomic::AtomicBool::new(false);
        let asking = std::thread::scope(|scope| {
            let ask = || -> anyhow::Result<u32> {
                let mut answers = 0;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let page = get(host, "http://10.30.50.9/")
                        .with_context(|| format!("request {answers} failed"))?;
                    ensure!(page.status == 200, "{page:?}");
                    answers += 1;
                }
                Ok(answers)
            };
            let watchers: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            let mut left = instances.len();
            let removed = instances.iter().take(2).try_for_each(|instance| {
                api.undeploy("web", i64::try_from(instance.number)?)?;
                left -= 1;
                eventually("nothing of it is left", Duration::from_secs(60), || {
                    ensure!(api.instances("web")?.len() == left && container_cgroups(host)?.len() == left);
                    Ok(())
                })
            });
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            let mut answers = 0;
            for watcher in watchers {
                answers += watcher.join().map_err(|_| anyhow::anyhow!("a watcher panicked"))??;
            }
            removed.map(|()| answers)
        });
        let answers = asking?;
        ensure!(answers >= 12, "only {answers} requests were made");
        Ok(())
    })
}

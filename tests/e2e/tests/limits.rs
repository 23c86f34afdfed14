//! Limits of a descriptor are enforced, and who breaks them is told so.

use std::time::{Duration, Instant};

use anyhow::ensure;
use oak_e2e::{
    Api, Microservice, World, application, container_cgroups, cpu_time, eventually, favour, let_pass, soon,
};
use serde_json::json;

#[test]
fn memory_and_processor_limits_hold() -> anyhow::Result<()> {
    World::run("limits", |world| {
        let host = world.host("device", 10)?;
        let mut oak = world.oak(&host, &["up"])?;
        oak.start_until("worker ready")?;
        let api = Api::on(&host);
        let hog = "x=0123456789; while :; do x=$x$x; done";
        let burner = "trap 'exit 0' TERM; while :; do :; done & while :; do :; done & wait";
        let services = [
            Microservice::shell("hog", hog).set("memory", json!(30)),
            Microservice::shell("burner", burner).set("vcpus", json!(1)),
            Microservice::shell("bystander", "trap 'exit 0' TERM; sleep 1000 & wait"),
        ];
        api.create(&application("limits", services))?;
        api.deploy("bystander")?;
        api.deploy("hog")?;
        api.wait_status("hog", "FAILED", &["out of memory", "30 MiB"])?;
        api.wait_running("bystander", 1)?;
        api.undeploy("hog", -1)?;
        eventually("the hog is gone", soon(), || {
            let left = container_cgroups(&host)?;
            ensure!(left.len() == 1, "{left:?}");
            Ok(())
        })?;

        api.deploy("burner")?;
        api.wait_running("burner", 1)?;
        let id = api.service("burner")?["microserviceID"].as_str().unwrap_or_default().to_owned();
        let container = format!("{id}.0");
        eventually("the burner burns", soon(), || {
            ensure!(cpu_time(&host, &container)? > Duration::from_millis(200));
            Ok(())
        })?;
        // Even so, other work on this machine may take processor time away, but never give more.
        favour(&host)?;
        eventually("two busy loops get one core", Duration::from_secs(40), || {
            let (before, began) = (cpu_time(&host, &container)?, Instant::now());
            let_pass(Duration::from_secs(3));
            let cores = (cpu_time(&host, &container)? - before).as_secs_f64() / began.elapsed().as_secs_f64();
            assert!(cores <= 1.15, "two busy loops with vcpus 1 use {cores:.2} cores");
            ensure!(cores >= 0.8, "two busy loops with vcpus 1 get only {cores:.2} cores");
            Ok(())
        })?;
        eventually("the use of the burner is shown", soon(), || {
            let record = api.service("burner")?;
            let percent =
                record["instance_list"][0]["cpu_percent"].as_str().unwrap_or_default().parse::<f64>()?;
            ensure!((50.0..=120.0).contains(&percent), "cpu_percent is {percent}");
            Ok(())
        })
    })
}

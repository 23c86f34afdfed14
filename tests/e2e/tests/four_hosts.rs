//! Root, cluster and two workers on four machines; cluster and workers take no connections from outside.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use oak_e2e::{
    Api, CLUSTER, Host, Machines, Microservice, Tiers, World, application, container_cgroups, eventually,
    soon,
};
use oak_link::{ChildConfig, ChildEvent, ChildLink, Credentials, system_clock};
use oak_model::message::{NodeUsage, UsageReport, WorkerHello, WorkerToCluster, WorkloadReport};
use oak_model::{Architecture, Incarnation, InstanceKey, Resources, Status, WorkerFacts};

#[test]
fn four_machines_behind_firewalls_work_together() -> anyhow::Result<()> {
    World::run("four_hosts", |world| {
        let machines = Machines::create(world, 2)?;
        machines.close_inbound()?;
        let stranger = world.host("stranger", 30)?;
        let mut tiers = Tiers::start(world, &machines)?;
        // Tried at the end.
        let short_lived = (tiers.api.token("worker", Some(CLUSTER), 1)?, Instant::now());

        let services = [Microservice::shell("sleeper", "echo hello from $HOSTNAME; exec sleep 1000")];
        tiers.api.create(&application("spread", services))?;
        for _ in 0..4 {
            tiers.api.deploy("sleeper")?;
        }
        let instances = tiers.api.wait_running("sleeper", 4)?;
        let places: BTreeSet<&str> = instances.iter().map(|instance| instance.worker.as_str()).collect();
        ensure!(
            places == BTreeSet::from(["worker-a", "worker-b"]),
            "all instances are on {places:?}: {instances:?}"
        );
        for instance in &instances {
            let name = format!("sleeper/{}", instance.number);
            let logs = world.command(&machines.root, &["logs", &name])?;
            let wanted = format!("hello from instance-{}", instance.number);
            ensure!(logs.code == Some(0) && logs.stdout.contains(&wanted), "oak logs {name}: {logs:?}");
        }

        a_worker_cannot_speak_for_another(&machines, &mut tiers)?;
        tokens_are_checked(world, &machines, &tiers.api, &stranger)?;

        eventually("the short-lived token has expired", soon(), || {
            ensure!(short_lived.1.elapsed() > Duration::from_secs(2));
            Ok(())
        })?;
        let cluster = machines.cluster.address().to_string();
        is_refused(
            world,
            &stranger,
            &["worker", "--cluster", &cluster, "--token", &short_lived.0],
            "expired",
        )?;

        tiers.api.delete_application("spread")?;
        eventually("nothing runs on the workers", soon(), || {
            for host in &machines.workers {
                let left = container_cgroups(host)?;
                ensure!(left.is_empty(), "{}: {left:?}", host.name());
            }
            Ok(())
        })
    })
}

/// Runs a role that has to end with an error that contains `text`.
fn is_refused(world: &World, host: &Host, words: &[&str], text: &str) -> anyhow::Result<()> {
    let output = world.command(host, words)?;
    ensure!(output.code == Some(1) || output.code == Some(2), "{words:?} was not refused: {output:?}");
    ensure!(
        output.stderr.contains(text),
        "{words:?}: the message does not contain `{text}`: {}",
        output.stderr
    );
    Ok(())
}

fn tokens_are_checked(
    world: &World,
    machines: &Machines,
    api: &Api<'_>,
    stranger: &Host,
) -> anyhow::Result<()> {
    let (root, cluster) = (machines.root.address().to_string(), machines.cluster.address().to_string());

    let token = api.token("worker", Some(CLUSTER), 600)?;
    let extra = world.host("extra", 31)?;
    let mut worker =
        world.oak(&extra, &["worker", "--cluster", &cluster, "--name", "extra", "--token", &token])?;
    worker.start_until("connected to the cluster")?;
    is_refused(world, stranger, &["worker", "--cluster", &cluster, "--token", &token], "was used")?;
    worker.terminate()?;

    let fresh = api.token("worker", Some(CLUSTER), 600)?;
    let last = if fresh.ends_with('0') { '1' } else { '0' };
    let forged = format!("{}{last}", &fresh[..fresh.len() - 1]);
    is_refused(world, stranger, &["worker", "--cluster", &cluster, "--token", &forged], "not known")?;

    is_refused(
        world,
        stranger,
        &["cluster", "--root", &root, "--name", "x", "--token", &fresh],
        "another kind",
    )?;
    // The letter in the token is not what decides: the parent knows what it was made for.
    let relabelled = fresh.replacen(".w.", ".c.", 1);
    is_refused(
        world,
        stranger,
        &["cluster", "--root", &root, "--name", "x", "--token", &relabelled],
        "refused",
    )?;
    let cluster_token = api.token("cluster", None, 600)?;
    let relabelled = cluster_token.replacen(".c.", ".w.", 1);
    is_refused(world, stranger, &["worker", "--cluster", &cluster, "--token", &relabelled], "refused")?;
    // Another authority: the parent is not the one the token means, so the secret is not sent.
    let (before, after) = cluster_token.split_once(".c.").context("a cluster token")?;
    let (fingerprint, rest) = after.split_once('.').context("a token with a fingerprint")?;
    let other: String = fingerprint.chars().map(|digit| if digit == 'a' { 'b' } else { 'a' }).collect();
    let misled = format!("{before}.c.{other}.{rest}");
    is_refused(world, stranger, &["cluster", "--root", &root, "--name", "x", "--token", &misled], "authority")
}

/// With the certificate of worker A, messages about an instance of worker B change nothing.
fn a_worker_cannot_speak_for_another(machines: &Machines, tiers: &mut Tiers<'_>) -> anyhow::Result<()> {
    let before = tiers.api.instances("sleeper")?;
    let victim =
        before.iter().find(|instance| instance.worker == "worker-b").context("nothing on worker-b")?;
    let service = tiers.api.service("sleeper")?;
    let service = service["microserviceID"].as_str().context("no id")?.to_owned();
    let number = u32::try_from(victim.number)?;
    let key = InstanceKey { service: service.parse()?, number };
    let host = &machines.workers[0];
    tiers.workers[0].kill()?;

    let identity = host.directory().join("data/worker/identity");
    let cluster = machines.cluster_link().to_string();
    let said = host.within(|| speak_as(&identity, &cluster, key))?;
    said.context("cannot speak as worker A")?;
    eventually("the forged messages were read", soon(), || {
        let workers = tiers.api.call("GET", "/api/clusters/", None)?;
        let id = workers[0]["_id"]
            .as_str()
            .or(workers[0]["_id"]["$oid"].as_str())
            .context("no cluster")?
            .to_owned();
        let workers = tiers.api.call("GET", &format!("/api/clusters/{id}/workers"), None)?;
        ensure!(workers.to_string().contains("77"), "{workers}");
        Ok(())
    })?;
    let after = tiers.api.instances("sleeper")?;
    let same =
        after.iter().find(|instance| instance.number == victim.number).context("the instance is gone")?;
    ensure!(same == victim, "worker-a changed an instance of worker-b: {victim:?} became {same:?}");

    tiers.workers[0].start_until("connected to the cluster")?;
    tiers.api.wait_running("sleeper", 4)?;
    Ok(())
}

/// Opens a session with a stolen certificate and reports that `key` has failed, in every way there is.
fn speak_as(identity: &std::path::Path, cluster: &str, key: InstanceKey) -> anyhow::Result<()> {
    // Installed already when another test of this process was faster.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let credentials = Credentials::open(identity)?;
    let report = |incarnation| WorkloadReport {
        key,
        incarnation: Incarnation(incarnation),
        status: Status::Failed,
        detail: "forged".to_owned(),
        address: None,
        ended: false,
    };
    let facts = WorkerFacts {
        name: "worker-a".to_owned(),
        address: "10.99.0.20".to_owned(),
        address6: None,
        architecture: Architecture::of_this_program(),
        capacity: Resources { cpu_millis: 2000, memory_mib: 2000, storage_mib: 2000, gpus: 0 },
        virtualization: vec!["docker".to_owned()],
        version: "0".to_owned(),
        labels: Vec::new(),
        addons: Vec::new(),
        position: None,
        csi_drivers: Vec::new(),
        tunnel: None,
        plain: true,
    };
    let hello =
        WorkerHello { facts, workloads: (0..5).map(report).collect(), calls: Vec::new(), own_address: None };
    let hello = bytes_of(&hello)?;
    let mut messages: Vec<WorkerToCluster> = (0..5).map(|n| WorkerToCluster::Workload(report(n))).collect();
    messages.extend((0..5).map(|n| WorkerToCluster::Removed { key, incarnation: Incarnation(n) }));
    // Shows up at the root when everything before was read.
    let node = NodeUsage { worker: None, cpu_percent: 77.0, memory_percent: 77.0 };
    messages.push(WorkerToCluster::Usage(UsageReport { nodes: vec![node], instances: Vec::new() }));

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (events, mut inbox) = tokio::sync::mpsc::channel(16);
        let config = ChildConfig::new(cluster, credentials, system_clock());
        let link = ChildLink::spawn(config, move || std::future::ready(hello.clone().into()), events)?;
        let connected = async {
            loop {
                match inbox.recv().await.context("the link has ended")? {
                    ChildEvent::Connected { .. } => return anyhow::Ok(()),
                    ChildEvent::AttemptFailed { reason, .. } => anyhow::bail!("{reason}"),
                    _ => {}
                }
            }
        };
        tokio::time::timeout(soon(), connected).await??;
        for message in &messages {
            link.send(bytes_of(message)?.into())?;
        }
        link.shutdown().await;
        Ok(())
    })
}

fn bytes_of(value: &impl serde::Serialize) -> anyhow::Result<Vec<u8>> {
    Ok(serde_json::to_vec(value)?)
}

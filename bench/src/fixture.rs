//! A root with a connected cluster, without network: what the measurements of pure code start from.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, anyhow};
use oak_control::SeededEntropy;
use oak_control::root::{Candidate, Owner, Root, Settings};
use oak_control::token::TokenRole;
use oak_model::message::{ClusterHello, WorkerSummary};
use oak_model::{
    Architecture, Generation, Now, OrganizationId, Resources, ServiceId, WorkerFacts, WorkerId, sla,
};
use serde_json::{Value, json};

/// Session of the cluster.
const SESSION: u64 = 1;

/// Whose services they are.
pub(crate) const ORGANIZATION: OrganizationId = OrganizationId::from_parts(1, 1);

/// A root and the services it can deploy.
pub(crate) struct Fixture {
    pub(crate) root: Root,
    pub(crate) services: Vec<ServiceId>,
}

/// A root whose only cluster has `workers` large machines, and `services` services without instances. Everything is
/// derived from `seed`.
pub(crate) fn root(now: Now, seed: u64, workers: u64, services: u32) -> anyhow::Result<Fixture> {
    let mut entropy = SeededEntropy::new(seed);
    let mut root = Root::new(Settings::default());
    root.create_token(
        now,
        "token".to_owned(),
        "hash".to_owned(),
        TokenRole::Cluster,
        Duration::from_secs(600),
    );
    let name = format!("cluster-{seed}");
    let candidate = Candidate {
        token_id: "token",
        secret_hash: "hash",
        key_fingerprint: "key",
        name: &name,
        location: "",
        former: None,
    };
    let cluster = root.enrol_cluster(now, &mut entropy, candidate)?;
    let hello = ClusterHello {
        name,
        location: String::new(),
        port: 10100,
        generation: Generation(0),
        workers: (0..workers).map(worker).collect(),
        ..ClusterHello::default()
    };
    let opened = root.cluster_opened(now, cluster, SESSION, "127.0.0.1", hello);
    opened.map_err(|attention| anyhow!("the cluster is refused: {attention:?}"))?;
    let owner = Owner { user: "Admin".to_owned(), organization: Some(ORGANIZATION) };
    for application in 0..services.div_ceil(100) {
        let descriptor = descriptor(seed, application, services.min(100));
        let document = sla::parse_value(&descriptor).context("the descriptor is refused")?;
        root.create_applications(now, &mut entropy, &owner, document.applications)?;
    }
    let services = root.services().map(|service| service.id).collect();
    Ok(Fixture { root, services })
}

fn worker(number: u64) -> WorkerSummary {
    WorkerSummary {
        id: WorkerId::from_parts(1, number),
        facts: facts(number),
        reserved: Resources::ZERO,
        instances: 0,
        connected: true,
        host_ports: Vec::new(),
        availability: oak_model::Availability::Open,
        round_trip_us: None,
        subnet: None,
        more_subnets: Vec::new(),
        outside: None,
    }
}

/// A machine with more of everything than its 125 instances need.
pub(crate) fn facts(number: u64) -> WorkerFacts {
    WorkerFacts {
        name: format!("worker-{number}"),
        address: "192.0.2.1".to_owned(),
        address6: None,
        architecture: Architecture::Amd64,
        capacity: Resources { cpu_millis: 256_000, memory_mib: 1 << 20, storage_mib: 1 << 20, gpus: 0 },
        virtualization: vec!["docker".to_owned()],
        version: "0.1.0".to_owned(),
        labels: Vec::new(),
        addons: Vec::new(),
        position: None,
        csi_drivers: Vec::new(),
        tunnel: None,
        plain: true,
    }
}

fn descriptor(seed: u64, application: u32, services: u32) -> Value {
    let service = |number: u32| {
        json!({
            "microserviceID": "", "microservice_name": format!("s{number}"), "microservice_namespace": "default",
            "virtualization": "container", "cmd": ["sh", "-c", "sleep 1"], "memory": 64, "vcpus": 1, "storage": 0,
            "code": "docker.io/library/busybox:latest", "port": "",
        })
    };
    let application = json!({
        "applicationID": "", "application_name": format!("a{seed}x{application}"),
        "application_namespace": "default", "application_desc": "",
        "microservices": (0..services).map(service).collect::<Vec<_>>(),
    });
    json!({ "sla_version": "v2.0", "customerID": "Admin", "applications": [application] })
}

/// The newest version of every row in `rows`.
pub(crate) fn newest(rows: Vec<oak_control::Row>) -> Vec<oak_control::Row> {
    let newest: BTreeMap<_, _> =
        rows.into_iter().map(|row| ((row.table as u8, row.key.clone()), row)).collect();
    newest.into_values().filter(|row| row.document.is_some()).collect()
}

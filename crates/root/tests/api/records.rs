//! Records decoded as strictly as the Go command line does: one wrong type makes it refuse a whole list.
#![allow(dead_code, reason = "the fields are there to be decoded")]

use std::collections::HashMap;

use oak_model::Status;
use oak_model::message::{ClusterToRoot, InstanceUsage, NodeUsage, UsageReport};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::world::{World, descriptor, worker_id};

#[derive(Deserialize)]
struct Application {
    _id: HashMap<String, String>,
    #[serde(rename = "applicationID")]
    application_id: String,
    application_name: String,
    application_namespace: String,
    application_desc: String,
    microservices: Vec<String>,
    #[serde(rename = "userId")]
    user_id: String,
}

#[derive(Deserialize)]
struct Service {
    _id: HashMap<String, String>,
    #[serde(rename = "microserviceID")]
    microservice_id: String,
    microservice_name: String,
    microservice_namespace: String,
    #[serde(rename = "applicationID")]
    application_id: String,
    app_name: String,
    app_ns: String,
    service_name: String,
    service_ns: String,
    job_name: String,
    instance_list: Vec<Instance>,
    status: String,
    status_detail: String,
    port: String,
    code: String,
    image: String,
    virtualization: String,
    memory: i64,
    vcpus: i64,
    vgpus: i64,
    environment: Vec<String>,
    cmd: Vec<String>,
    #[serde(rename = "RR_ip")]
    rr_ip: String,
    next_instance_progressive_number: i64,
}

#[derive(Deserialize)]
struct Instance {
    instance_number: i64,
    status: String,
    status_detail: String,
    publicip: String,
    cluster_id: String,
    cluster_location: String,
    host_ip: String,
    host_port: i64,
    worker_id: String,
    disk: String,
    cpu_percent: String,
    memory_percent: String,
    cpu_history: Vec<Sample>,
    memory_history: Vec<Sample>,
    logs: String,
    last_modified_timestamp: f64,
}

#[derive(Deserialize)]
struct Sample {
    value: String,
    timestamp: String,
}

#[derive(Deserialize)]
struct Cluster {
    _id: String,
    candidate_name: String,
    candidate_location: String,
    cluster_name: String,
    cluster_location: String,
    ip: String,
    port: String,
    active: bool,
    active_nodes: i64,
    cpu_percent: f64,
    aggregated_cpu_percent: f64,
    memory_percent: f64,
    vcpus: i64,
    vgpus: i64,
    memory: i64,
    memory_in_mb: i64,
    total_cpu_cores: i64,
    total_gpu_cores: i64,
    vram: i64,
    vram_percent: f64,
    gpu_temp: f64,
    gpu_percent: f64,
    gpu_drivers: Vec<String>,
    virtualization: Vec<String>,
    supported_addons: Vec<String>,
    csi_drivers: Vec<String>,
    cpu_history: Vec<ClusterSample>,
    memory_history: Vec<ClusterSample>,
    last_modified_timestamp: f64,
}

#[derive(Deserialize)]
struct ClusterSample {
    value: f64,
    timestamp: f64,
}

fn decode<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error}: {value:#}"))
}

#[tokio::test]
async fn every_record_has_the_types_old_clients_decode() {
    let world = World::start().await;
    let token = world.admin().await;
    let mut sla = descriptor("app", "", &["web", "idle"]);
    for service in sla["applications"][0]["microservices"].as_array_mut().unwrap() {
        service["vgpus"] = json!(0);
        service["memory"] = json!(100.0);
    }
    let created = world.call("POST", "/api/application/").token(&token).json(&sla).send().await.nested();
    let application: Application = decode(&created[0]);
    assert_eq!(application._id["$oid"], application.application_id);
    let cluster = world.join("cluster1").await;
    let mut keys = Vec::new();
    for service in &application.microservices {
        keys.push(world.deploy(&token, service).await);
    }
    world.report(cluster, keys[0], Status::Running, "running").await;
    let usage = UsageReport {
        nodes: vec![NodeUsage { worker: Some(worker_id()), cpu_percent: 12.5, memory_percent: 30.1 }],
        instances: vec![InstanceUsage {
            key: keys[0],
            cpu_percent: 100.0,
            memory_bytes: 1,
            disk_bytes: 0,
            log_tail: None,
        }],
    };
    world.message(cluster, ClusterToRoot::Usage(usage)).await;
    for path in ["/api/services/".to_owned(), format!("/api/services/{}", application.application_id)] {
        let services: Vec<Service> = decode(&world.get(&path, &token).send().await.nested());
        assert_eq!(services.len(), 2);
        for service in services {
            assert_eq!(service._id["$oid"], service.microservice_id);
            assert_eq!(
                (service.code.as_str(), service.virtualization.as_str()),
                (service.image.as_str(), "docker")
            );
            assert_eq!(service.job_name, format!("app.test.{}.test", service.microservice_name));
            assert!(service.status.parse::<Status>().is_ok() && service.instance_list.len() == 1);
        }
    }
    for path in ["/api/clusters/", "/api/clusters/active"] {
        let clusters: Vec<Cluster> = decode(&world.call("GET", path).send().await.json());
        assert_eq!(clusters[0]._id, cluster.to_string());
        assert!(clusters[0].active && clusters[0].cpu_history.len() == 1);
    }
}

#[tokio::test]
async fn a_service_is_shown_as_sent_with_what_the_server_adds() {
    let world = World::start().await;
    let token = world.admin().await;
    let mut sla = descriptor("app", "", &["plain", "addressed"]);
    sla["applications"][0]["extra"] = json!({ "kept": [1] });
    let addressed = &mut sla["applications"][0]["microservices"][1];
    addressed["addresses"] = json!({ "rr_ip": "10.30.30.30" });
    addressed["instance_list"] = json!("forged");
    addressed["status"] = json!("forged");
    let created = world.call("POST", "/api/application/").token(&token).json(&sla).send().await.nested();
    assert_eq!(created[0]["extra"], json!({ "kept": [1] }));
    let path = format!("/api/services/{}", created[0]["applicationID"].as_str().unwrap());
    let services = world.get(&path, &token).send().await.nested();
    let (plain, addressed) = (&services[0], &services[1]);
    assert_eq!(plain["unknown"], json!({ "kept": true }));
    assert_eq!(plain["cmd"], json!(["nginx"]));
    assert!(plain["RR_ip"].as_str().unwrap().starts_with("10.30."));
    assert!(plain.get("RR_ip_v6").is_none() && plain.get("addresses").is_none());
    assert_eq!(addressed["RR_ip"], "10.30.30.30");
    assert_eq!(addressed["addresses"], json!({ "rr_ip": "10.30.30.30" }));
    assert_eq!(addressed["RR_ip_v6"], "fdff:2000::30:30");
    assert_eq!(addressed["instance_list"], json!([]));
    assert_eq!(addressed.get("status"), None);
}

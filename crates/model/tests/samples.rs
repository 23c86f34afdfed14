//! Messages as earlier releases wrote them: `samples/<release>/<kind>.json`. They must be understood for ever; see
//! "a message or a stored row" in CONTRIBUTING.md.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test they are called from")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use oak_model::message::{
    BulkRequest, ClusterHello, ClusterToRoot, ClusterToWorker, ClusterWelcome, EnrolAttributes,
    RootToCluster, WorkerHello, WorkerToCluster, WorkerWelcome,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Names every variant of a message enum. A new variant does not compile until it is named here, and then its sample
/// is missed by `every_kind_has_a_sample`.
macro_rules! kinds {
    ($function:ident, $all:ident, $message:ident, $prefix:literal: $($variant:ident = $name:literal),+ $(,)?) => {
        const $all: &[&str] = &[$(concat!($prefix, ".", $name)),+];

        fn $function(message: &$message) -> &'static str {
            match message {
                $($message::$variant { .. } => concat!($prefix, ".", $name),)+
            }
        }
    };
}

kinds!(root_to_cluster, ROOT_TO_CLUSTER, RootToCluster, "root_to_cluster":
    Set = "set", Remove = "remove", Token = "token", NodeBlocks = "node_blocks",
    SetAvailability = "set_availability", RemoveWorker = "remove_worker", Records = "records", Welcome = "welcome", Adopted = "adopted",
    Overlay = "overlay", NotFound = "not_found");
kinds!(cluster_to_root, CLUSTER_TO_ROOT, ClusterToRoot, "cluster_to_root":
    Instances = "instances", Removed = "removed", Workers = "workers", WorkerRemoved = "worker_removed",
    WorkerKept = "worker_kept",
    Usage = "usage", TokenStored = "token_stored", NeedsNodeBlock = "needs_node_block", Holdings = "holdings",
    Calls = "calls", Ask = "ask");
kinds!(cluster_to_worker, CLUSTER_TO_WORKER, ClusterToWorker, "cluster_to_worker":
    Assign = "assign", Remove = "remove", ReportUsage = "report_usage", Leases = "leases",
    Overlay = "overlay", NotFound = "not_found", MoreSubnets = "more_subnets");
kinds!(worker_to_cluster, WORKER_TO_CLUSTER, WorkerToCluster, "worker_to_cluster":
    Workload = "workload", Removed = "removed", Usage = "usage", RenewLeases = "renew_leases", Ask = "ask",
    Seen = "seen", Keys = "keys");
kinds!(bulk_request, BULK_REQUEST, BulkRequest, "bulk_request":
    Logs = "logs", TimedLogs = "timed_logs", Exec = "exec");

/// Messages that are not one of several.
const SINGLE: &[&str] =
    &["cluster_hello", "cluster_welcome", "worker_hello", "worker_welcome", "enrol_attributes"];

/// Kind, of which release, and text of every sample. What follows a `-` in the name tells samples of one kind apart.
fn samples() -> Vec<(String, String, Value)> {
    let mut samples = Vec::new();
    for release in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("samples")).unwrap() {
        let release = release.unwrap().path();
        for file in fs::read_dir(&release).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let kind = name.split('-').next().unwrap().to_owned();
            let text = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            samples.push((kind, path.display().to_string(), text));
        }
    }
    samples
}

/// Reads a message of a kind; tells what kind it took it for.
fn read(kind: &str, text: &Value) -> Result<String, serde_json::Error> {
    fn parse<T: DeserializeOwned>(text: &Value) -> Result<T, serde_json::Error> {
        serde_json::from_value(text.clone())
    }
    let single = || kind.to_owned();
    match kind.split('.').next().unwrap_or_default() {
        "root_to_cluster" => parse(text).map(|message| root_to_cluster(&message).to_owned()),
        "cluster_to_root" => parse(text).map(|message| cluster_to_root(&message).to_owned()),
        "cluster_to_worker" => parse(text).map(|message| cluster_to_worker(&message).to_owned()),
        "worker_to_cluster" => parse(text).map(|message| worker_to_cluster(&message).to_owned()),
        "bulk_request" => parse(text).map(|message| bulk_request(&message).to_owned()),
        "cluster_hello" => parse::<ClusterHello>(text).map(|_| single()),
        "cluster_welcome" => parse::<ClusterWelcome>(text).map(|_| single()),
        "worker_hello" => parse::<WorkerHello>(text).map(|_| single()),
        "worker_welcome" => parse::<WorkerWelcome>(text).map(|_| single()),
        "enrol_attributes" => parse::<EnrolAttributes>(text).map(|_| single()),
        other => panic!("there is no message `{other}`"),
    }
}

#[test]
fn what_earlier_releases_said_is_understood() {
    for (kind, path, text) in samples() {
        let found = read(&kind, &text).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(found, kind, "{path}");
    }
}

#[test]
fn every_kind_has_a_sample() {
    let there: BTreeSet<String> = samples().into_iter().map(|(kind, ..)| kind).collect();
    let kinds =
        [ROOT_TO_CLUSTER, CLUSTER_TO_ROOT, CLUSTER_TO_WORKER, WORKER_TO_CLUSTER, BULK_REQUEST, SINGLE];
    let missing: Vec<_> = kinds.concat().into_iter().filter(|kind| !there.contains(*kind)).collect();
    assert!(missing.is_empty(), "add samples/<this release>/<kind>.json for {missing:?}");
}

/// A later release may send more than this one knows.
#[test]
fn unknown_fields_are_ignored_at_every_depth() {
    fn add(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.values_mut().for_each(add);
                // The only key of an enum names its variant; an identity is a text anyway.
                if fields.len() > 1 {
                    fields.insert("added_later".to_owned(), json!({ "a": [1] }));
                }
            }
            Value::Array(items) => items.iter_mut().for_each(add),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    for (kind, path, mut text) in samples() {
        add(&mut text);
        read(&kind, &text).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

/// Fields that came after the first form of a message: an earlier release does not send them.
#[test]
fn optional_fields_may_be_missing() {
    let optional = BTreeMap::from([
        ("cluster_hello", &["lineage", "local", "node_blocks", "local_block", "authority"][..]),
        (
            "cluster_welcome",
            &["lineage", "take_over", "applications", "services", "local_block", "local_addresses"],
        ),
        ("enrol_attributes", &["location", "former"]),
    ]);
    let nested = ["host_ports", "host_address", "availability", "at_most_one", "other"];
    fn without(value: &mut Value, names: &[&str]) {
        match value {
            Value::Object(fields) => {
                // Small ones are about that very field.
                let is_large = fields.len() > 2;
                fields.retain(|name, _| !is_large || !names.contains(&name.as_str()));
                fields.values_mut().for_each(|value| without(value, names));
            }
            Value::Array(items) => items.iter_mut().for_each(|value| without(value, names)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    for (kind, path, mut text) in samples() {
        without(&mut text, &nested);
        if let (Some(names), Value::Object(fields)) = (optional.get(kind.as_str()), &mut text) {
            fields.retain(|name, _| !names.contains(&name.as_str()));
        }
        read(&kind, &text).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

/// The shells log it and go on; an error is all they need.
#[test]
fn an_unknown_kind_is_an_error_and_nothing_else() {
    for kind in [
        "root_to_cluster.x",
        "cluster_to_root.x",
        "cluster_to_worker.x",
        "worker_to_cluster.x",
        "bulk_request.x",
    ] {
        for text in [json!({ "levitate": { "height": 3 } }), json!("levitate"), json!({}), json!(null)] {
            assert!(read(kind, &text).is_err(), "{kind} {text}");
        }
    }
}

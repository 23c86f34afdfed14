//! Rows as earlier releases stored them: `samples/<release>/<machine>-<table>.json`. Every later release must start
//! from them; see "a message or a stored row" in CONTRIBUTING.md.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test they are called from")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use oak_control::{CorruptRow, Row, Table, cluster, root, worker};
use oak_model::Now;
use serde_json::{Value, json};

/// Which machines keep rows of a table. A new table does not compile until it is named here.
const fn keepers(table: Table) -> &'static [&'static str] {
    match table {
        Table::Meta => &["root", "cluster", "worker"],
        Table::Application | Table::Service | Table::Token => &["root", "cluster"],
        Table::Instance | Table::Cluster | Table::Departure | Table::Quota | Table::Event | Table::Secret => {
            &["root"]
        }
        Table::Worker | Table::Placement => &["cluster"],
        Table::Workload => &["worker"],
        Table::Call | Table::KnownService | Table::Backend | Table::Peer => &["cluster", "worker"],
        // Their samples are with the accounts, in the crate of the root.
        Table::User | Table::Organization | Table::Audit => &[],
    }
}

fn name(table: Table) -> String {
    format!("{table:?}").to_lowercase()
}

struct Sample {
    machine: String,
    table: Table,
    path: String,
    document: Value,
}

impl Sample {
    fn row(&self) -> Row {
        let document = serde_json::to_vec(&self.document).unwrap();
        Row { table: self.table, key: self.path.clone(), document: Some(document) }
    }
}

fn releases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples");
    fs::read_dir(folder).unwrap().map(|release| release.unwrap().path()).collect()
}

fn samples(release: &Path) -> Vec<Sample> {
    let mut samples = Vec::new();
    for file in fs::read_dir(release).unwrap() {
        let path = file.unwrap().path();
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        let mut words = stem.split('-');
        let (machine, table) = (words.next().unwrap(), words.next().unwrap());
        let table = Table::ALL.into_iter().find(|known| name(*known) == table);
        samples.push(Sample {
            machine: machine.to_owned(),
            table: table.unwrap_or_else(|| panic!("{}: no such table", path.display())),
            path: path.display().to_string(),
            document: serde_json::from_slice(&fs::read(&path).unwrap()).unwrap(),
        });
    }
    samples
}

fn load(machine: &str, rows: &[Row]) -> Result<usize, CorruptRow> {
    let now = Now::default();
    Ok(match machine {
        "root" => {
            let root = root::Root::load(root::Settings::default(), now, rows)?;
            root.applications().count()
                + root.services().count()
                + root.instance_count()
                + root.clusters().count()
        }
        "cluster" => {
            let cluster = cluster::Cluster::load(cluster::Settings::default(), now, rows)?;
            let key = |row: &Row| row.parse::<Value>().ok()?["desired"]["key"].as_str()?.parse().ok();
            let placed = rows.iter().filter_map(key).filter(|key| cluster.instance(*key).is_some());
            cluster.workers().count() + placed.count()
        }
        "worker" => {
            let settings = worker::Settings::default();
            worker::Worker::load(settings, now, rows, &BTreeMap::new())?.0.workloads().count()
        }
        other => panic!("there is no machine `{other}`"),
    })
}

fn rows_of(samples: &[Sample], machine: &str) -> Vec<Row> {
    samples.iter().filter(|sample| sample.machine == machine).map(Sample::row).collect()
}

#[test]
fn what_earlier_releases_stored_is_loaded() {
    for release in releases() {
        let samples = samples(&release);
        for (machine, least) in [("root", 5), ("cluster", 3), ("worker", 1)] {
            let objects = load(machine, &rows_of(&samples, machine));
            let objects = objects.unwrap_or_else(|error| panic!("{error}: {}", error.source));
            assert!(objects >= least, "{}: {machine} has only {objects} objects", release.display());
        }
    }
}

#[test]
fn every_kind_of_row_has_a_sample() {
    let there: BTreeSet<(String, Table)> = releases()
        .iter()
        .flat_map(|release| samples(release))
        .map(|sample| (sample.machine, sample.table))
        .collect();
    for table in Table::ALL {
        for machine in keepers(table) {
            let file = format!("samples/<this release>/{machine}-{}.json", name(table));
            assert!(there.contains(&((*machine).to_owned(), table)), "add {file}");
        }
    }
}

/// A release that was rolled back leaves rows with more than this one knows.
#[test]
fn unknown_fields_are_ignored_and_optional_ones_may_be_missing() {
    let optional = [
        "host_address",
        "address_cursor",
        "other",
        "removing",
        "wanted_again",
        "completed",
        "restarts",
        "port",
        "lineage",
        "taken_over",
        "adopted",
        "local_block",
        "authority",
        "availability",
        "at_most_one",
    ];
    for release in releases() {
        let mut samples = samples(&release);
        for sample in &mut samples {
            let Value::Object(fields) = &mut sample.document else { panic!("{} is no object", sample.path) };
            fields.retain(|name, _| !optional.contains(&name.as_str()));
            fields.insert("added_later".to_owned(), json!({ "a": [1] }));
        }
        for machine in ["root", "cluster", "worker"] {
            load(machine, &rows_of(&samples, machine))
                .unwrap_or_else(|error| panic!("{error}: {}", error.source));
        }
    }
}

//! Runs the cases of `tests/conformance/*.toml` against the real program over TCP: what is sent, what must be answered,
//! and what must have happened. Every answer to a documented operation is also checked against the document that the
//! server itself gives out, so that `docs/openapi.json` cannot say anything that is not so.
//!
//! Each file is a story of its own with a root (and, if it says so, a cluster) of its own. Its cases run in order and may
//! save parts of answers for later ones.
//!
//! What holds for every operation of the document is in `everywhere`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test that cannot go on fails")]

mod case;
mod document;
mod everywhere;
mod http;
mod shape;
mod story;
mod system;

use std::path::{Path, PathBuf};

use case::Story;
use serde_json::{Value, json};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/conformance")
}

fn stories() -> Vec<(String, Story)> {
    let mut found: Vec<_> = std::fs::read_dir(directory())
        .expect("tests/conformance")
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name()?.to_str()?.strip_suffix(".toml")?.to_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            let story = toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            Some((name, story))
        })
        .collect();
    found.sort_by(|one, other| one.0.cmp(&other.0));
    found
}

#[test]
fn the_server_answers_as_the_cases_say() {
    let running: Vec<_> = stories()
        .into_iter()
        .map(|(name, story)| std::thread::spawn(move || story::run(&name, &story)))
        .collect();
    let failures: Vec<_> = running.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    assert!(failures.is_empty(), "{} cases fail:\n\n{}", failures.len(), failures.join("\n\n"));
}

#[test]
fn a_cluster_gives_its_numbers_to_everybody() {
    let mut system = system::System::start();
    let login = json!({ "username": "Admin", "password": "Admin" }).to_string();
    let tokens = http::send(system.address, "POST", "/api/auth/login", &[], Some(login.as_bytes())).unwrap();
    let tokens: Value = serde_json::from_slice(&tokens.body).unwrap();
    let bearer = ("authorization".to_owned(), format!("Bearer {}", tokens["token"].as_str().unwrap()));
    let made = http::send(system.address, "POST", "/api/tokens", &[bearer], Some(br#"{"role":"cluster"}"#));
    let made: Value = serde_json::from_slice(&made.unwrap().body).unwrap();
    let cluster = system.add_cluster(made["token"].as_str().unwrap());
    let answer = http::send(cluster, "GET", "/metrics", &[], None).unwrap();
    let text = String::from_utf8(answer.body).unwrap();
    assert_eq!(answer.status, 200, "{text}");
    for line in [
        "oakestra_cluster_link_sessions 0",
        "oakestra_cluster_workers{state=\"connected\"} 0",
        "oakestra_cluster_instances{status=\"RUNNING\"} 0",
        "oakestra_cluster_store_degraded 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    assert!(text.contains("role=\"cluster\"") && !text.contains("near"), "{text}");
}

#[test]
fn there_are_enough_cases_and_half_of_them_are_errors() {
    let stories = stories();
    let statuses = stories.iter().flat_map(|(_, story)| story.cases.iter().flat_map(case::Case::statuses));
    let statuses: Vec<u16> = statuses.collect();
    let errors = statuses.iter().filter(|status| **status >= 400).count();
    assert!(statuses.len() >= 200, "{} cases", statuses.len());
    assert!(errors * 2 >= statuses.len(), "{errors} of {} cases are errors", statuses.len());
}

//! Runs the cases of `tests/conformance/*.toml` against the real program over TCP: what is sent, what must be answered,
//! and what must have happened. Every answer to a documented operation is also checked against the document that the
//! server itself gives out, so that `docs/openapi.json` cannot say anything that is not so.
//!
//! Each file is a story of its own with a root (and, if it says so, a cluster) of its own. Its cases run in order and may
//! save parts of answers for later ones.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test that cannot go on fails")]

mod case;
mod document;
mod http;
mod shape;
mod story;
mod system;

use std::path::{Path, PathBuf};

use case::Story;

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
fn there_are_enough_cases_and_half_of_them_are_errors() {
    let stories = stories();
    let statuses = stories.iter().flat_map(|(_, story)| story.cases.iter().flat_map(case::Case::statuses));
    let statuses: Vec<u16> = statuses.collect();
    let errors = statuses.iter().filter(|status| **status >= 400).count();
    assert!(statuses.len() >= 200, "{} cases", statuses.len());
    assert!(errors * 2 >= statuses.len(), "{errors} of {} cases are errors", statuses.len());
}

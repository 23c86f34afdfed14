//! Power that goes away in the middle of a write: the log of the database ends anywhere, or ends in rubbish.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers of tests fail the test they are called from, and say what was skipped"
)]

use std::fs;
use std::path::{Path, PathBuf};

use oak_control::{Row, Table};
use oak_store::{Journal, Store, StoreError};

const COMMITS: usize = 5;

fn row(number: usize) -> Row {
    Row { table: Table::Service, key: format!("{number:02}"), document: Some(vec![b'x'; 900]) }
}

fn log_of(path: &Path) -> PathBuf {
    path.with_extension("db-wal")
}

/// A database with [`COMMITS`] acknowledged commits in its log, as it lies on the disk of a running process, and the
/// length of the log after each.
async fn written(directory: &Path) -> (PathBuf, Vec<u64>) {
    let path = directory.join("state.db");
    let (store, _) = Store::open(&path).unwrap();
    let mut ends = Vec::new();
    for number in 0..COMMITS {
        store.submit(vec![row(number)]).unwrap().wait().await.unwrap();
        ends.push(fs::metadata(log_of(&path)).unwrap().len());
    }
    let copy = directory.join("torn.db");
    fs::copy(&path, &copy).unwrap();
    fs::copy(log_of(&path), log_of(&copy)).unwrap();
    (copy, ends)
}

/// Opens the database with this log and returns how many commits are there; they must be the first ones.
fn survivors(path: &Path, log: &[u8]) -> usize {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("state.db");
    fs::copy(path, &copy).unwrap();
    fs::write(log_of(&copy), log).unwrap();
    let (_store, rows) = Store::open(&copy).unwrap();
    let expected: Vec<_> = (0..rows.len()).map(row).collect();
    assert_eq!(rows, expected, "not a prefix of what was committed");
    rows.len()
}

#[tokio::test]
async fn every_commit_before_the_tear_survives() {
    let directory = tempfile::tempdir().unwrap();
    let (path, ends) = written(directory.path()).await;
    let log = fs::read(log_of(&path)).unwrap();
    assert_eq!(survivors(&path, &log), COMMITS);
    let frame = 24 + 4096;
    // In the header of the log, at each end of a commit and around it, in the head and in the page of a frame.
    let mut tears: Vec<u64> = vec![0, 1, 16, 31, 32, 33];
    for end in &ends {
        let offsets = [0, 1, 12, 23, 24, 25, 2000, frame - 1];
        tears.extend(offsets.iter().map(|offset| end + offset));
        tears.extend(offsets.iter().map(|offset| end.saturating_sub(*offset)));
    }
    for tear in tears.into_iter().filter(|tear| *tear <= log.len() as u64) {
        let complete = ends.iter().filter(|end| **end <= tear).count();
        let cut = &log[..usize::try_from(tear).unwrap()];
        assert_eq!(survivors(&path, cut), complete, "cut at {tear}");
        // Blocks that were allocated but never written read as zeroes, or as what was there before.
        for rubbish in [0_u8, 0xa5] {
            let mut log = log.clone();
            log[cut.len()..].fill(rubbish);
            assert_eq!(survivors(&path, &log), complete, "rubbish from {tear}");
        }
    }
}

#[tokio::test]
async fn a_log_without_its_database_is_not_thrown_away() {
    let directory = tempfile::tempdir().unwrap();
    let (path, _) = written(directory.path()).await;
    fs::write(&path, b"").unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert!(fs::metadata(log_of(&path)).unwrap().len() > 0);
}

#[tokio::test]
async fn a_page_of_rubbish_is_found_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("root/state.db");
    fs::create_dir(path.parent().unwrap()).unwrap();
    let (store, _) = Store::open(&path).unwrap();
    for number in 0..100 {
        store.submit(vec![row(number)]).unwrap().wait().await.unwrap();
    }
    drop(store);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 4096 / 2 * 4096;
    bytes[middle..middle + 4096].fill(0xa5);
    fs::write(&path, bytes).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    let text = error.to_string();
    let command = format!("oak restore FILE --data-dir {} --replace", directory.path().display());
    assert!(text.contains(&command), "{text}");
    assert!(text.contains("root/state.db"), "{text}");
}

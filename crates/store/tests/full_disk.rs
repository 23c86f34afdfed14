//! Both stores on a disk that is really full: a small tmpfs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers of tests fail the test they are called from, and say what was skipped"
)]

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use oak_control::{Row, Table};
use oak_store::{FileStore, Health, Journal, Store};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// A disk of its own.
struct Disk(tempfile::TempDir);

impl Disk {
    fn mount(mib: u32) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(format!("size={mib}m,mode=700")).unwrap();
        mount("oak-test", directory.path(), "tmpfs", MountFlags::empty(), options.as_c_str()).unwrap();
        Some(Self(directory))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Leaves no room at all.
    fn fill(&self, name: &str) {
        let mut file = File::create(self.path().join(name)).unwrap();
        let block = vec![7_u8; 64 << 10];
        for size in [64 << 10, 4096, 1] {
            while file.write_all(&block[..size]).is_ok() {}
        }
    }

    fn free(&self, name: &str) {
        fs::remove_file(self.path().join(name)).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = unmount(self.path(), UnmountFlags::DETACH);
    }
}

fn row(key: &str, bytes: usize) -> Row {
    Row { table: Table::Workload, key: key.to_owned(), document: Some(vec![b'x'; bytes]) }
}

async fn until(journal: &impl Journal, what: &str, wanted: impl FnMut(&Health) -> bool) {
    let mut health = journal.health();
    let changed = tokio::time::timeout(Duration::from_secs(30), health.wait_for(wanted)).await;
    let changed = changed.map(|health| health.map(|health| health.clone()));
    changed.unwrap_or_else(|_| panic!("never {what}")).unwrap();
}

async fn commit(journal: &impl Journal, rows: Vec<Row>) {
    let commit = journal.submit(rows).unwrap().wait();
    tokio::time::timeout(Duration::from_secs(30), commit).await.expect("a commit in time").unwrap();
}

async fn goes_through_a_full_disk(disk: &Disk, journal: &impl Journal) {
    commit(journal, vec![row("before", 100)]).await;
    disk.fill("hog");
    // The ballast makes room for small things.
    commit(journal, vec![row("small", 100)]).await;
    until(journal, "degraded", |health| !health.is_ok()).await;
    assert!(!disk.path().join("ballast").exists());
    disk.fill("second-hog");
    let stalled = journal.submit(vec![row("large", 1 << 20), row("before", 200)]).unwrap();
    until(journal, "stalled", Health::is_stalled).await;
    let behind = journal.submit(vec![row("behind", 100)]).unwrap();
    disk.free("hog");
    disk.free("second-hog");
    for step in [stalled, behind] {
        tokio::time::timeout(Duration::from_secs(30), step.wait()).await.expect("it goes on").unwrap();
    }
    until(journal, "well again", Health::is_ok).await;
    assert!(disk.path().join("ballast").exists(), "the ballast is back");
}

fn expected() -> Vec<Row> {
    vec![row("before", 200), row("behind", 100), row("large", 1 << 20), row("small", 100)]
}

#[tokio::test]
async fn sqlite_waits_for_room_and_loses_nothing() {
    let Some(disk) = Disk::mount(24) else { return };
    let path = disk.path().join("state.db");
    let (store, _) = Store::open(&path).unwrap();
    goes_through_a_full_disk(&disk, &store).await;
    drop(store);
    assert_eq!(Store::open(&path).unwrap().1, expected());
}

#[tokio::test]
async fn files_wait_for_room_and_lose_nothing() {
    let Some(disk) = Disk::mount(8) else { return };
    let (store, _) = FileStore::open(disk.path()).unwrap();
    goes_through_a_full_disk(&disk, &store).await;
    drop(store);
    assert_eq!(FileStore::open(disk.path()).unwrap().1, expected());
}

#[tokio::test]
async fn a_store_opens_on_a_full_disk() {
    let Some(disk) = Disk::mount(24) else { return };
    let path = disk.path().join("state.db");
    let (store, _) = Store::open(&path).unwrap();
    commit(&store, vec![row("a", 100)]).await;
    until(&store, "ok", Health::is_ok).await;
    drop(store);
    assert!(disk.path().join("ballast").exists());
    disk.fill("hog");
    let (store, rows) = Store::open(&path).unwrap();
    assert_eq!(rows, [row("a", 100)]);
    commit(&store, vec![row("b", 100)]).await;
}

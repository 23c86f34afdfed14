//! Backups: made of running stores, checked, and put back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers of tests fail the test they are called from, and say what was skipped"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use oak_control::{Row, Table};
use oak_store::backup::{BackupError, Existing, RESTORED, Role, create, restore, verify};
use oak_store::{FileStore, Journal, Store};

fn row(table: Table, key: &str, text: &str) -> Row {
    Row { table, key: key.to_owned(), document: Some(text.as_bytes().to_vec()) }
}

/// Understands documents that are JSON.
fn check(_role: Role, rows: &[Row]) -> Result<(), String> {
    let wrong = rows.iter().find(|row| row.parse::<serde_json::Value>().is_err());
    wrong.map_or(Ok(()), |row| Err(format!("{:?} {}", row.table, row.key)))
}

/// A data directory with a root and a worker that have it open.
struct Node {
    directory: tempfile::TempDir,
    root: Store,
    _worker: FileStore,
}

impl Node {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for folder in ["root/identity", "worker/identity", "worker/images"] {
            fs::create_dir_all(directory.path().join(folder)).unwrap();
        }
        fs::write(directory.path().join("root/jwt-key"), b"key").unwrap();
        fs::write(directory.path().join("root/identity/authority.pem"), b"authority").unwrap();
        fs::write(directory.path().join("worker/identity/key.pem"), b"worker key").unwrap();
        fs::write(directory.path().join("worker/images/layer"), b"large").unwrap();
        let (root, _) = Store::open(&directory.path().join("root/state.db")).unwrap();
        let (worker, _) = FileStore::open(&directory.path().join("worker")).unwrap();
        let rows = vec![row(Table::Service, "a", "1"), row(Table::User, "u", "2")];
        root.submit(rows).unwrap().wait().await.unwrap();
        worker.submit(vec![row(Table::Workload, "a.0", "3")]).unwrap().wait().await.unwrap();
        Self { directory, root, _worker: worker }
    }

    fn data(&self) -> &Path {
        self.directory.path()
    }

    async fn change(&self, key: &str, text: &str) {
        self.root.submit(vec![row(Table::Service, key, text)]).unwrap().wait().await.unwrap();
    }
}

fn rows_of_root(data: &Path) -> Vec<Row> {
    Store::open(&data.join("root/state.db")).unwrap().1
}

#[tokio::test]
async fn a_backup_of_what_runs_is_put_back_as_it_was() {
    let node = Node::start().await;
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("backup.tar");
    let made = create(node.data(), &file, "1.2.3", &check).unwrap();
    node.change("a", "changed").await;
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "nothing else is left beside it");
    assert_eq!(verify(&file, &check).unwrap(), made);
    let roles: Vec<_> = made.roles.iter().map(|summary| (summary.role, summary.objects.len())).collect();
    assert_eq!(roles, [(Role::Root, 2), (Role::Worker, 1)]);

    let fresh = tempfile::tempdir().unwrap();
    fs::write(fresh.path().join("oak.pid"), b"").unwrap();
    let restored = restore(&file, fresh.path(), Existing::Refuse, &check).unwrap();
    assert_eq!((restored.manifest, restored.aside), (made, None));
    assert_eq!(rows_of_root(fresh.path()), [row(Table::Service, "a", "1"), row(Table::User, "u", "2")]);
    assert_eq!(fs::read(fresh.path().join("root/identity/authority.pem")).unwrap(), b"authority");
    assert_eq!(fs::read(fresh.path().join("root/jwt-key")).unwrap(), b"key");
    let (_, rows) = FileStore::open(&fresh.path().join("worker")).unwrap();
    assert_eq!(rows, [row(Table::Workload, "a.0", "3")]);
    assert!(!fresh.path().join("worker/images").exists(), "images can be had again");
    assert!(!fresh.path().join("restoring").exists());
    assert!(fresh.path().join("root").join(RESTORED).exists(), "the next start knows");
}

#[tokio::test]
async fn what_is_there_is_refused_or_moved_aside_but_never_deleted() {
    let node = Node::start().await;
    let file = node.data().join("backup.tar");
    create(node.data(), &file, "1.2.3", &check).unwrap();
    node.change("newer", "5").await;
    let error = restore(&file, node.data(), Existing::Refuse, &check).unwrap_err();
    assert!(matches!(error, BackupError::NotEmpty { .. }), "{error}");
    assert_eq!(rows_of_root(node.data()).len(), 3, "nothing was changed");
    let restored = restore(&file, node.data(), Existing::MoveAside, &check).unwrap();
    let aside = restored.aside.unwrap();
    assert_eq!(rows_of_root(node.data()).len(), 2);
    assert_eq!(rows_of_root(&aside).len(), 3);
    assert!(aside.join("worker/workloads/a.0.json").exists());
    assert!(node.data().join("worker/images/layer").exists(), "what runs keeps its images");
}

#[tokio::test]
async fn a_damaged_backup_is_found_out_wherever_the_damage_is() {
    let node = Node::start().await;
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("backup.tar");
    create(node.data(), &file, "1.2.3", &check).unwrap();
    let whole = fs::read(&file).unwrap();
    let fresh = tempfile::tempdir().unwrap();
    let mut offsets: Vec<_> = (0..whole.len()).step_by(997).collect();
    offsets.extend([0, 100, 257, 511, 512]);
    let mut unharmed = 0;
    for offset in offsets {
        let mut damaged = whole.clone();
        damaged[offset] ^= 0x55;
        fs::write(&file, damaged).unwrap();
        match verify(&file, &check) {
            Err(_) => {
                assert!(restore(&file, fresh.path(), Existing::Refuse, &check).is_err());
                assert_eq!(
                    fs::read_dir(fresh.path()).unwrap().count(),
                    0,
                    "a refused restore leaves nothing"
                );
            }
            // Padding of the archive means nothing.
            Ok(_) => unharmed += 1,
        }
    }
    assert!(unharmed < 20, "{unharmed} damages went unnoticed");
    for length in [0, 100, 512, whole.len() / 2, whole.len() - 5000] {
        fs::write(&file, &whole[..length]).unwrap();
        verify(&file, &check).unwrap_err();
    }
    fs::write(&file, b"this is something else").unwrap();
    let error = verify(&file, &check).unwrap_err();
    assert!(error.to_string().contains("is no usable backup"), "{error}");
}

#[tokio::test]
async fn rows_that_cannot_be_understood_are_no_backup() {
    let node = Node::start().await;
    node.change("broken", "{").await;
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("backup.tar");
    let error = create(node.data(), &file, "1.2.3", &check).unwrap_err();
    assert!(matches!(error, BackupError::Rows { role: Role::Root, .. }), "{error}");
    assert!(!file.exists());
    let empty = tempfile::tempdir().unwrap();
    let error = create(empty.path(), &file, "1.2.3", &check).unwrap_err();
    assert!(matches!(error, BackupError::Nothing { .. }), "{error}");
}

#[test]
fn a_file_that_leads_out_of_the_directory_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("backup.tar");
    for path in ["../evil", "/etc/evil", "root/../../evil", "root", "elsewhere/file"] {
        let manifest = serde_json::json!({
            "form": 1, "created_ms": 0, "software": "x", "roles": [],
            "files": [{ "path": path, "bytes": 1, "sha256": "00" }],
        });
        let mut archive = tar::Builder::new(fs::File::create(&file).unwrap());
        let text = manifest.to_string();
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        archive.append_data(&mut header, "manifest.json", text.as_bytes()).unwrap();
        archive.into_inner().unwrap();
        let error = verify(&file, &check).unwrap_err();
        assert!(error.to_string().contains("does not belong"), "{path}: {error}");
    }
    let manifest = serde_json::json!({ "form": 2, "anything": true }).to_string();
    let mut archive = tar::Builder::new(fs::File::create(&file).unwrap());
    let mut header = tar::Header::new_gnu();
    header.set_size(manifest.len() as u64);
    archive.append_data(&mut header, "manifest.json", manifest.as_bytes()).unwrap();
    archive.into_inner().unwrap();
    assert!(matches!(verify(&file, &check), Err(BackupError::TooNew { found: 2, .. })));
}

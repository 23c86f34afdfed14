//! One small JSON file per row, for workers: readable with `cat`, kind to flash.
//!
//! A file is replaced by writing a new one beside it, syncing it and renaming it, so that a power cut leaves the
//! old or the new content. A worker changes a few rows per deployment and none while idle.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oak_control::{Row, Table};
use oak_metrics::Histogram;
use tokio::sync::watch;

use crate::ballast::Ballast;
use crate::health::Health;
use crate::journal::{Committed, Journal, StoreError};
use crate::trouble::{self, WriteError};
use crate::writer::{Backend, WriterHandle};

/// Rows as files under one directory, written by a thread of their own: flash can take its time.
#[derive(Debug)]
pub struct FileStore {
    directory: PathBuf,
    writer: WriterHandle,
}

/// Kept back for bad times, bytes: room for the records of containers that restart.
const BALLAST: u64 = 1 << 20;

impl FileStore {
    /// Opens or creates the directory and reads every row.
    ///
    /// # Errors
    /// The directory or a file in it cannot be read.
    pub fn open(directory: &Path) -> Result<(Self, Vec<Row>), StoreError> {
        for (_, name) in DIRECTORIES {
            let folder = directory.join(name);
            fs::create_dir_all(&folder)
                .map_err(|source| StoreError::Files { path: folder.clone(), source })?;
            sweep(&folder);
        }
        let rows = read_files(directory)?;
        let backend = Files { directory: directory.to_owned() };
        let writer = WriterHandle::start("file-writer", backend, Ballast::new(directory, BALLAST))?;
        Ok((Self { directory: directory.to_owned(), writer }, rows))
    }

    /// Puts the file of a row that cannot be understood aside, where the next start does not see it, and returns
    /// its new name.
    ///
    /// # Errors
    /// It cannot be renamed.
    pub fn set_aside(&self, table: Table, key: &str) -> Result<PathBuf, StoreError> {
        let path = file_of(&self.directory, table, key).unwrap_or_else(|| self.directory.clone());
        let aside = path.with_extension("json.damaged");
        fs::rename(&path, &aside).map_err(|source| StoreError::Files { path, source })?;
        Ok(aside)
    }
}

/// Reads every row below a directory, without changing anything; a folder that is not there is empty.
///
/// # Errors
/// A folder cannot be listed.
pub fn read_files(directory: &Path) -> Result<Vec<Row>, StoreError> {
    let failed = |path: &Path, source| StoreError::Files { path: path.to_owned(), source };
    let mut rows = Vec::new();
    for (table, name) in DIRECTORIES {
        let folder = directory.join(name);
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries.map_err(|source| failed(&folder, source))?,
        };
        for entry in entries {
            let path = entry.map_err(|source| failed(&folder, source))?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if let Some(key) = name.strip_suffix(".json") {
                // A file that cannot be read is a row that cannot be understood: one of them must not stop all.
                let document = fs::read(&path).inspect_err(|error| {
                    tracing::warn!(file = %path.display(), %error, "cannot read a stored row");
                });
                rows.push(Row { table, key: key.to_owned(), document: document.ok() });
            }
        }
    }
    rows.sort_by(|left, right| (left.table, &left.key).cmp(&(right.table, &right.key)));
    Ok(rows)
}

/// Removes what a crash between writing and renaming left. It does no harm, so failing does none either.
fn sweep(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for path in
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "new"))
    {
        if let Err(error) = fs::remove_file(&path) {
            tracing::debug!(file = %path.display(), %error, "cannot remove a half-written row");
        }
    }
}

/// Where a row is; none for rows that a worker does not keep.
fn file_of(directory: &Path, table: Table, key: &str) -> Option<PathBuf> {
    let (_, name) = DIRECTORIES.into_iter().find(|(kept, _)| *kept == table)?;
    Some(directory.join(name).join(format!("{key}.json")))
}

struct Files {
    directory: PathBuf,
}

impl Backend for Files {
    fn write(&mut self, rows: &[Row]) -> Result<(), WriteError> {
        for row in rows {
            write(&self.directory, row).map_err(|error| trouble::of_files(error, &self.directory))?;
        }
        Ok(())
    }

    fn place(&self) -> PathBuf {
        self.directory.clone()
    }
}

fn write(directory: &Path, row: &Row) -> io::Result<()> {
    let path = file_of(directory, row.table, &row.key)
        .ok_or_else(|| io::Error::other("a worker does not keep rows of this kind"))?;
    match &row.document {
        Some(document) => {
            let fresh = path.with_extension("json.new");
            let mut file = File::create(&fresh)?;
            file.write_all(document)?;
            file.sync_data()?;
            fs::rename(&fresh, &path)?;
        }
        None => match fs::remove_file(&path) {
            // Perhaps removed by an attempt whose end, making it durable, failed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        },
    }
    let folder = path.parent().ok_or_else(|| io::Error::other("a row without a folder"))?;
    File::open(folder)?.sync_all()
}

const DIRECTORIES: [(Table, &str); 6] = [
    (Table::Meta, "state"),
    (Table::Workload, "workloads"),
    (Table::Call, "calls"),
    (Table::KnownService, "services"),
    (Table::Backend, "backends"),
    (Table::Peer, "peers"),
];

impl Journal for FileStore {
    fn submit(&self, rows: Vec<Row>) -> Result<Committed, StoreError> {
        self.writer.submit(rows)
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.writer.health()
    }

    fn commits(&self) -> Option<Arc<Histogram>> {
        Some(self.writer.commits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn rows_are_files_and_half_written_ones_are_swept() {
        let directory = tempfile::tempdir().unwrap();
        let (store, rows) = FileStore::open(directory.path()).unwrap();
        assert!(rows.is_empty());
        let row = |key: &str| Row { table: Table::Workload, key: key.into(), document: Some(b"{}".to_vec()) };
        store.submit(vec![row("a.0"), row("b.1")]).unwrap().wait().await.unwrap();
        let gone = Row { document: None, ..row("a.0") };
        store.submit(vec![gone.clone(), gone]).unwrap().wait().await.unwrap();
        fs::write(directory.path().join("workloads/c.0.new"), b"{").unwrap();
        let (_, rows) = FileStore::open(directory.path()).unwrap();
        assert_eq!(rows, [row("b.1")]);
        assert!(!directory.path().join("workloads/c.0.new").exists());
    }

    #[tokio::test]
    async fn a_row_that_was_set_aside_is_kept_and_not_seen_again() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("workloads")).unwrap();
        fs::write(directory.path().join("workloads/a.0.json"), b"{\0\0").unwrap();
        let (store, rows) = FileStore::open(directory.path()).unwrap();
        let aside = store.set_aside(rows[0].table, &rows[0].key).unwrap();
        assert_eq!(aside, directory.path().join("workloads/a.0.json.damaged"));
        drop(store);
        let (_, rows) = FileStore::open(directory.path()).unwrap();
        assert!(rows.is_empty(), "{rows:?}");
        assert_eq!(fs::read(aside).unwrap(), b"{\0\0");
    }
}

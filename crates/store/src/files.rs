//! One small JSON file per row, for workers: readable with `cat`, kind to flash.
//!
//! A file is replaced by writing a new one beside it, syncing it and renaming it, so that a power cut leaves the
//! old or the new content. A worker changes a few rows per deployment and none while idle.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;

use oak_control::{Row, Table};
use tokio::sync::oneshot;

use crate::journal::{Committed, Journal, StoreError};

/// Rows as files under one directory, written by a thread of their own: flash can take its time.
#[derive(Debug)]
pub struct FileStore {
    steps: Option<mpsc::SyncSender<Step>>,
    writer: Option<JoinHandle<()>>,
}

type Step = (Vec<Row>, oneshot::Sender<Result<(), StoreError>>);

/// Steps that may wait for the writer. When full, submitting blocks: that is the back-pressure of a slow disk.
const QUEUE: usize = 256;

impl FileStore {
    /// Opens or creates the directory and reads every row.
    ///
    /// # Errors
    /// The directory or a file in it cannot be read.
    pub fn open(directory: &Path) -> Result<(Self, Vec<Row>), StoreError> {
        let failed = |source| StoreError::Files { path: directory.to_owned(), source };
        let mut rows = Vec::new();
        for (table, name) in DIRECTORIES {
            let folder = directory.join(name);
            fs::create_dir_all(&folder).map_err(failed)?;
            for entry in fs::read_dir(&folder).map_err(failed)? {
                let path = entry.map_err(failed)?.path();
                let Some(key) = path.file_name().and_then(|name| name.to_str()).map(str::to_owned) else {
                    continue;
                };
                match key.strip_suffix(".json") {
                    Some(key) => {
                        let document = Some(fs::read(&path).map_err(failed)?);
                        rows.push(Row { table, key: key.to_owned(), document });
                    }
                    // Left behind by a crash between writing and renaming.
                    None => fs::remove_file(&path).map_err(failed)?,
                }
            }
        }
        rows.sort_by(|left, right| (left.table, &left.key).cmp(&(right.table, &right.key)));
        let (steps, inbox) = mpsc::sync_channel(QUEUE);
        let directory = directory.to_owned();
        let writer = std::thread::Builder::new()
            .name("file-writer".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || write_loop(&directory, &inbox))
            .map_err(|_| StoreError::WriterGone)?;
        Ok((Self { steps: Some(steps), writer: Some(writer) }, rows))
    }
}

fn write_loop(directory: &Path, inbox: &mpsc::Receiver<Step>) {
    while let Ok((rows, done)) = inbox.recv() {
        let written = rows.iter().try_for_each(|row| write(directory, row));
        let outcome = written.map_err(|source| StoreError::Files { path: directory.to_owned(), source });
        // Nobody waits any more: the caller was cancelled, the rows are stored all the same.
        let _ = done.send(outcome);
    }
}

fn write(directory: &Path, row: &Row) -> io::Result<()> {
    let Some((_, name)) = DIRECTORIES.into_iter().find(|(table, _)| *table == row.table) else {
        return Err(io::Error::other("a worker does not keep rows of this kind"));
    };
    let folder = directory.join(name);
    let path = folder.join(format!("{}.json", row.key));
    match &row.document {
        Some(document) => {
            let fresh = folder.join(format!("{}.new", row.key));
            let mut file = File::create(&fresh)?;
            file.write_all(document)?;
            file.sync_data()?;
            fs::rename(&fresh, &path)?;
        }
        None => match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        },
    }
    File::open(&folder)?.sync_all()
}

const DIRECTORIES: [(Table, &str); 2] = [(Table::Meta, "state"), (Table::Workload, "workloads")];

impl Journal for FileStore {
    fn submit(&self, rows: Vec<Row>) -> Result<Committed, StoreError> {
        let (done, committed) = Committed::pending();
        let steps = self.steps.as_ref().ok_or(StoreError::WriterGone)?;
        steps.send((rows, done)).map_err(|_| StoreError::WriterGone)?;
        Ok(committed)
    }
}

impl Drop for FileStore {
    fn drop(&mut self) {
        self.steps.take();
        if let Some(writer) = self.writer.take() {
            // A panic of the writer was already reported by the steps it left unanswered.
            let _ = writer.join();
        }
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
}

//! The SQLite back-end.

use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use oak_control::{Row, Table};
use rusqlite::{Connection, OpenFlags, params};
use tokio::sync::oneshot;

use crate::journal::{Committed, Journal, StoreError};
use crate::migration::migrate;

struct Step {
    rows: Vec<Row>,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// A handle to the open database.
#[derive(Debug)]
pub struct Store {
    steps: Option<mpsc::SyncSender<Step>>,
    writer: Option<JoinHandle<()>>,
}

/// Steps that may wait for the writer. When full, submitting blocks: that is the back-pressure of a slow disk.
const QUEUE: usize = 4_096;

/// Steps in one transaction at most, so that the first of a long burst does not wait for the last.
const GROUP: usize = 1_024;

impl Store {
    /// Opens or creates the database, checks it, and returns every stored row.
    ///
    /// # Errors
    /// The file cannot be opened, is damaged, or is newer than this program.
    pub fn open(path: &Path) -> Result<(Self, Vec<Row>), StoreError> {
        let open = |source| StoreError::Open { path: path.to_owned(), source };
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags).map_err(open)?;
        connection.busy_timeout(Duration::from_secs(5)).map_err(open)?;
        let check: String = connection
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(|source| StoreError::Damaged { path: path.to_owned(), detail: source.to_string() })?;
        if check != "ok" {
            return Err(StoreError::Damaged { path: path.to_owned(), detail: check });
        }
        // FULL: a commit survives a power cut, not only a crash of this process.
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL;
                 PRAGMA synchronous = FULL;
                 PRAGMA cache_size = -512;
                 PRAGMA temp_store = MEMORY;
                 PRAGMA journal_size_limit = 4194304;",
            )
            .map_err(open)?;
        migrate(&mut connection)?;
        let rows = read_all(&connection)?;
        let (steps, inbox) = mpsc::sync_channel(QUEUE);
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || write_loop(connection, &inbox))
            .map_err(|_| StoreError::WriterGone)?;
        Ok((Self { steps: Some(steps), writer: Some(writer) }, rows))
    }
}

impl Journal for Store {
    fn submit(&self, rows: Vec<Row>) -> Result<Committed, StoreError> {
        let (done, committed) = Committed::pending();
        let steps = self.steps.as_ref().ok_or(StoreError::WriterGone)?;
        steps.send(Step { rows, done }).map_err(|_| StoreError::WriterGone)?;
        Ok(committed)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.steps.take();
        if let Some(writer) = self.writer.take() {
            // A panic of the writer was already reported by the steps it left unanswered.
            let _ = writer.join();
        }
    }
}

fn read_all(connection: &Connection) -> Result<Vec<Row>, StoreError> {
    let mut statement = connection
        .prepare("SELECT kind, key, doc FROM object ORDER BY kind, key")
        .map_err(StoreError::Read)?;
    let rows = statement
        .query_map([], |row| Ok((row.get::<_, u8>(0)?, row.get(1)?, row.get(2)?)))
        .map_err(StoreError::Read)?;
    let mut all = Vec::new();
    for row in rows {
        let (kind, key, document) = row.map_err(StoreError::Read)?;
        // A kind of a newer program that was rolled back: it stays in the file untouched.
        let Some(table) = table(kind) else {
            tracing::warn!(kind, key, "stored object of an unknown kind is left alone");
            continue;
        };
        all.push(Row { table, key, document: Some(document) });
    }
    Ok(all)
}

const TABLES: [Table; 12] = [
    Table::Meta,
    Table::Application,
    Table::Service,
    Table::Instance,
    Table::Cluster,
    Table::Token,
    Table::User,
    Table::Organization,
    Table::Worker,
    Table::Placement,
    Table::Workload,
    Table::Departure,
];

fn table(kind: u8) -> Option<Table> {
    TABLES.into_iter().find(|table| *table as u8 == kind)
}

fn write_loop(mut connection: Connection, inbox: &mpsc::Receiver<Step>) {
    let mut group = Vec::new();
    while let Ok(first) = inbox.recv() {
        group.push(first);
        while group.len() < GROUP
            && let Ok(step) = inbox.try_recv()
        {
            group.push(step);
        }
        let result = write_group(&mut connection, &group);
        if let Err(error) = &result {
            tracing::error!(%error, steps = group.len(), "cannot write to the database");
        }
        for step in group.drain(..) {
            let outcome = match &result {
                Ok(()) => Ok(()),
                Err(error) => Err(StoreError::Write(error.to_string())),
            };
            // Nobody waits any more: the caller was cancelled, the rows are stored all the same.
            let _ = step.done.send(outcome);
        }
    }
}

fn write_group(connection: &mut Connection, group: &[Step]) -> rusqlite::Result<()> {
    if group.iter().all(|step| step.rows.is_empty()) {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    {
        let mut put = transaction.prepare_cached(
            "INSERT INTO object (kind, key, doc) VALUES (?1, ?2, ?3)
             ON CONFLICT (kind, key) DO UPDATE SET doc = excluded.doc",
        )?;
        let mut delete = transaction.prepare_cached("DELETE FROM object WHERE kind = ?1 AND key = ?2")?;
        for row in group.iter().flat_map(|step| &step.rows) {
            match &row.document {
                Some(document) => put.execute(params![row.table as u8, row.key, document])?,
                None => delete.execute(params![row.table as u8, row.key])?,
            };
        }
    }
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str, document: Option<&str>) -> Row {
        Row {
            table: Table::Service,
            key: key.to_owned(),
            document: document.map(|text| text.as_bytes().to_vec()),
        }
    }

    #[tokio::test]
    async fn committed_rows_are_there_after_reopening() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        let (store, rows) = Store::open(&path).unwrap();
        assert!(rows.is_empty());
        let first = store.submit(vec![row("a", Some("1")), row("b", Some("2"))]).unwrap();
        let second = store.submit(vec![row("a", None), row("b", Some("3"))]).unwrap();
        first.wait().await.unwrap();
        second.wait().await.unwrap();
        drop(store);
        let (_store, rows) = Store::open(&path).unwrap();
        assert_eq!(rows, [row("b", Some("3"))]);
    }

    #[tokio::test]
    async fn a_damaged_file_is_refused_with_the_way_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        std::fs::write(&path, b"this is no database, but long enough to look at as one").unwrap();
        let error = Store::open(&path).unwrap_err();
        assert!(error.to_string().contains("is damaged"), "{error}");
    }

    #[test]
    fn a_file_of_a_newer_program_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        drop(Store::open(&path).unwrap());
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        assert!(matches!(Store::open(&path), Err(StoreError::TooNew { found: 99, .. })));
    }
}

//! The SQLite back-end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use oak_control::{Row, Table};
use oak_metrics::Histogram;
use rusqlite::{Connection, OpenFlags, params};
use tokio::sync::watch;

use crate::ballast::Ballast;
use crate::health::Health;
use crate::journal::{Committed, Journal, StoreError};
use crate::migration::migrate;
use crate::trouble::{self, WriteError};
use crate::writer::{Backend, WriterHandle};

/// A handle to the open database.
#[derive(Debug)]
pub struct Store(WriterHandle);

/// Kept back for bad times, bytes.
const BALLAST: u64 = 4 << 20;

impl Store {
    /// Opens or creates the database, checks it, and returns every stored row.
    ///
    /// # Errors
    /// The file cannot be opened, is damaged, or is newer than this program.
    pub fn open(path: &Path) -> Result<(Self, Vec<Row>), StoreError> {
        let mut ballast = Ballast::new(path.parent().unwrap_or(Path::new(".")), BALLAST);
        let (database, rows) = match Database::open(path) {
            // Even reading needs a little room: the index of the log is a file.
            Err(error) if error.is_full_disk() && ballast.release() => Database::open(path),
            opened => opened,
        }?;
        Ok((Self(WriterHandle::start("store-writer", database, ballast)?), rows))
    }
}

impl Journal for Store {
    fn submit(&self, rows: Vec<Row>) -> Result<Committed, StoreError> {
        self.0.submit(rows)
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.0.health()
    }

    fn commits(&self) -> Option<Arc<Histogram>> {
        Some(self.0.commits())
    }
}

/// Opens a database for reading only, checks it and returns every stored row: for backups.
///
/// # Errors
/// As [`Store::open`].
pub(crate) fn read_rows(path: &Path) -> Result<Vec<Row>, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = connect(path, flags)?;
    check(&connection, path)?;
    read_all(&connection)
}

/// Opens the file without looking into it.
pub(crate) fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    let open = |source| StoreError::Open { path: path.to_owned(), source };
    let connection = Connection::open_with_flags(path, flags).map_err(open)?;
    connection.busy_timeout(Duration::from_secs(5)).map_err(open)?;
    Ok(connection)
}

/// Looks for damage.
fn check(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let found = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    let detail = match found {
        Ok(found) if found == "ok" => return Ok(()),
        Ok(found) => found,
        Err(source) => match trouble::of_sqlite(&source, path) {
            // The disk, not the file: nothing is known about what is in it.
            WriteError::Passing(_) => return Err(StoreError::Open { path: path.to_owned(), source }),
            WriteError::Fatal(_) => source.to_string(),
        },
    };
    Err(StoreError::Damaged { path: path.to_owned(), detail })
}

/// The connection of the writer.
struct Database {
    path: PathBuf,
    connection: Connection,
}

impl Database {
    fn open(path: &Path) -> Result<(Self, Vec<Row>), StoreError> {
        refuse_lone_log(path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = connect(path, flags)?;
        check(&connection, path)?;
        // FULL: a commit survives a power cut, not only a crash of this process.
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL;
                 PRAGMA synchronous = FULL;
                 PRAGMA cache_size = -512;
                 PRAGMA temp_store = MEMORY;
                 PRAGMA journal_size_limit = 4194304;",
            )
            .map_err(|source| StoreError::Open { path: path.to_owned(), source })?;
        migrate(&mut connection)?;
        let rows = read_all(&connection)?;
        Ok((Self { path: path.to_owned(), connection }, rows))
    }
}

/// Without its database a write-ahead log says nothing, and SQLite would throw it away and begin anew: then
/// somebody lost the file, and an empty start would make it final.
fn refuse_lone_log(path: &Path) -> Result<(), StoreError> {
    let length = |path: &Path| std::fs::metadata(path).map_or(0, |facts| facts.len());
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    if length(path) == 0 && length(Path::new(&log)) > 0 {
        let detail = "the file is missing or empty, but its write-ahead log is there".to_owned();
        return Err(StoreError::Damaged { path: path.to_owned(), detail });
    }
    Ok(())
}

impl Backend for Database {
    fn write(&mut self, rows: &[Row]) -> Result<(), WriteError> {
        write(&mut self.connection, rows).map_err(|error| trouble::of_sqlite(&error, &self.path))
    }

    fn place(&self) -> PathBuf {
        self.path.clone()
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

fn table(kind: u8) -> Option<Table> {
    Table::ALL.into_iter().find(|table| *table as u8 == kind)
}

fn write(connection: &mut Connection, rows: &[Row]) -> rusqlite::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    {
        let mut put = transaction.prepare_cached(
            "INSERT INTO object (kind, key, doc) VALUES (?1, ?2, ?3)
             ON CONFLICT (kind, key) DO UPDATE SET doc = excluded.doc",
        )?;
        let mut delete = transaction.prepare_cached("DELETE FROM object WHERE kind = ?1 AND key = ?2")?;
        for row in rows {
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

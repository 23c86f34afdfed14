//! Versions of the database file. A new version adds a step here and never changes an old one.

use rusqlite::{Connection, Transaction};

use crate::StoreError;

/// Steps from each version to the next; the first creates the file.
const STEPS: &[fn(&Transaction<'_>) -> rusqlite::Result<()>] = &[create];

fn create(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute_batch(
        "CREATE TABLE object (
             kind INTEGER NOT NULL,
             key  TEXT    NOT NULL,
             doc  BLOB    NOT NULL,
             PRIMARY KEY (kind, key)
         ) WITHOUT ROWID;",
    )
}

/// Brings the file to the version of this program.
pub(crate) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let found: usize = connection
        .query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))
        .map_err(StoreError::Migrate)
        .map(|version| usize::try_from(version).unwrap_or(usize::MAX))?;
    let pending = STEPS.get(found..).ok_or(StoreError::TooNew { found, known: STEPS.len() })?;
    for (offset, step) in pending.iter().enumerate() {
        let transaction = connection.transaction().map_err(StoreError::Migrate)?;
        step(&transaction).map_err(StoreError::Migrate)?;
        let version = i64::try_from(found + offset + 1).unwrap_or(i64::MAX);
        transaction.pragma_update(None, "user_version", version).map_err(StoreError::Migrate)?;
        transaction.commit().map_err(StoreError::Migrate)?;
    }
    Ok(())
}

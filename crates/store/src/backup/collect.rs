//! Finding what belongs into a backup, and copying databases at one moment.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use oak_control::Row;
use rusqlite::OpenFlags;

use super::{BackupError, Check, Role, RoleSummary};
use crate::files::read_files;
use crate::sqlite::{connect, read_rows};

/// Directories of a role whose files are taken as they are. Each file is replaced as a whole, never changed.
const fn folders(role: Role) -> &'static [&'static str] {
    match role {
        Role::Root | Role::Cluster => &["identity"],
        Role::Worker => &["identity", "state", "workloads"],
    }
}

/// Further files of a role that may be there.
const fn single_files(role: Role) -> &'static [&'static str] {
    match role {
        Role::Root => &["jwt-key", "secrets-key"],
        Role::Cluster => &["access-key", "secrets-key"],
        Role::Worker => &["secrets-key"],
    }
}

/// Copies everything of the data directory that belongs into a backup below `view`, under the same paths, and returns
/// the paths. Copied first and looked at later: the roles may be running and changing it.
pub(super) fn collect(data: &Path, view: &Path) -> Result<Vec<String>, BackupError> {
    let mut paths = Vec::new();
    for role in Role::ALL {
        let name = role.directory();
        let directory = data.join(name);
        let database = directory.join("state.db");
        if role != Role::Worker && database.exists() {
            make(&view.join(name))?;
            copy_database(role, &database, &view.join(name).join("state.db"))?;
            paths.push(format!("{name}/state.db"));
        }
        for file in single_files(role) {
            paths.extend(copy_file(data, view, format!("{name}/{file}"))?);
        }
        for folder in folders(role) {
            for file in files_of(&directory.join(folder))? {
                paths.extend(copy_file(data, view, format!("{name}/{folder}/{file}"))?);
            }
        }
    }
    if paths.is_empty() {
        return Err(BackupError::Nothing { directory: data.to_owned() });
    }
    Ok(paths)
}

fn make(directory: &Path) -> Result<(), BackupError> {
    fs::create_dir_all(directory).map_err(BackupError::file("create", directory))
}

/// Copies one small file; none if it is gone.
fn copy_file(data: &Path, view: &Path, path: String) -> Result<Option<String>, BackupError> {
    let (from, to) = (data.join(&path), view.join(&path));
    let bytes = match fs::read(&from) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(BackupError::file("read", &from))?,
    };
    make(to.parent().unwrap_or(view))?;
    let write = || closed_file(&to)?.write_all(&bytes);
    write().map_err(BackupError::file("write", &to))?;
    Ok(Some(path))
}

/// A new file that only its owner can read: keys and the state of all tenants are in it.
fn closed_file(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Names of the files in a folder, sorted; none if there is no folder. What is half-written, put aside or not a file is
/// left out.
fn files_of(folder: &Path) -> Result<Vec<String>, BackupError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(BackupError::file("list", folder))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(BackupError::file("list", folder))?;
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        let Ok(name) = entry.file_name().into_string() else { continue };
        if is_file && ![".new", ".tmp", ".damaged"].iter().any(|end| name.ends_with(end)) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Copies a database as it is at one moment, whether or not a role has it open.
fn copy_database(role: Role, from: &Path, to: &Path) -> Result<(), BackupError> {
    // SQLite takes an empty file, and would make one with the permissions of the umask.
    closed_file(to).map_err(BackupError::file("create", to))?;
    let failed = |source| BackupError::Copy { path: from.to_owned(), source };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = connect(from, flags).map_err(|source| BackupError::State { role, source })?;
    let target = to.to_str().ok_or_else(|| failed(rusqlite::Error::InvalidPath(to.to_owned())))?;
    connection.execute("VACUUM INTO ?1", [target]).map_err(failed)?;
    Ok(())
}

/// Reads the rows of every role below a directory, has them judged, and counts them.
pub(super) fn inspect(directory: &Path, check: Check<'_>) -> Result<Vec<RoleSummary>, BackupError> {
    let mut summaries = Vec::new();
    for role in Role::ALL {
        let place = directory.join(role.directory());
        if !place.exists() {
            continue;
        }
        let rows = match role {
            Role::Root | Role::Cluster if place.join("state.db").exists() => {
                read_rows(&place.join("state.db"))
            }
            Role::Root | Role::Cluster => Ok(Vec::new()),
            Role::Worker => read_files(&place),
        };
        let rows = rows.map_err(|source| BackupError::State { role, source })?;
        check(role, &rows).map_err(|reason| BackupError::Rows { role, reason })?;
        summaries.push(RoleSummary { role, objects: count(&rows) });
    }
    Ok(summaries)
}

fn count(rows: &[Row]) -> BTreeMap<String, u64> {
    let mut objects = BTreeMap::new();
    for row in rows {
        *objects.entry(format!("{:?}", row.table).to_lowercase()).or_insert(0) += 1;
    }
    objects
}

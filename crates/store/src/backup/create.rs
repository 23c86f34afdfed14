//! Making a backup, and checking one.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::archive::{self, sync_directory};
use super::collect::{collect, inspect};
use super::manifest::FORM;
use super::scratch::Scratch;
use super::{BackupError, Check, Manifest, Role};

/// Saves the state of all roles in `data` to the file `output`, which is replaced as a whole or not at all. What was
/// written is read back, and its rows are judged by `check`, before the file gets its name. Works whether or not the
/// roles run. `software` is the version of this program.
///
/// # Errors
/// Nothing is there, cannot be read, cannot be understood, or cannot be written.
pub fn create(data: &Path, output: &Path, software: &str, check: Check<'_>) -> Result<Manifest, BackupError> {
    let folder = folder_of(output);
    let name = output.file_name().unwrap_or_default().to_string_lossy();
    let scratch = Scratch::create(folder, &format!(".{name}.making"))?;
    let view = scratch.path().join("data");
    let paths = collect(data, &view)?;
    let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let manifest = Manifest {
        form: FORM,
        created_ms: u64::try_from(created.as_millis()).unwrap_or(u64::MAX),
        software: software.to_owned(),
        files: archive::describe(&view, paths)?,
        roles: inspect(&view, check)?,
    };
    let partial = scratch.path().join("backup.tar");
    archive::write(&partial, &manifest, &view)?;
    let read_back = verify(&partial, check)?;
    if read_back != manifest {
        let reason = "what was written reads back differently".to_owned();
        return Err(BackupError::Damaged { path: partial, reason });
    }
    fs::rename(&partial, output).map_err(BackupError::file("create", output))?;
    sync_directory(folder)?;
    Ok(manifest)
}

/// Reads a backup completely, checks every byte against its manifest and every row with `check`.
///
/// # Errors
/// It is no backup, is damaged, is newer than this program, or has rows that cannot be understood.
pub fn verify(file: &Path, check: Check<'_>) -> Result<Manifest, BackupError> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let scratch = Scratch::create(folder_of(file), &format!(".{name}.reading"))?;
    unpack_and_check(file, scratch.path(), check)
}

/// Unpacks a backup below an empty directory and judges it.
pub(super) fn unpack_and_check(file: &Path, into: &Path, check: Check<'_>) -> Result<Manifest, BackupError> {
    let manifest = archive::unpack(file, into)?;
    let found = inspect(into, check)?;
    if found != manifest.roles {
        let reason = "it has other objects than its manifest says".to_owned();
        return Err(BackupError::Damaged { path: file.to_owned(), reason });
    }
    for role in Role::ALL.map(|role| into.join(role.directory())) {
        // Left by reading the databases.
        for file in ["state.db-wal", "state.db-shm"] {
            let path = role.join(file);
            if path.exists() {
                fs::remove_file(&path).map_err(BackupError::file("remove", &path))?;
            }
        }
    }
    Ok(manifest)
}

fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

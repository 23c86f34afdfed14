//! Putting a backup back.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::archive::sync_directory;
use super::create::unpack_and_check;
use super::scratch::Scratch;
use super::{BackupError, Check, Manifest, Role};

/// What to do with a data directory that has something in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Nothing is touched, and it is an error.
    Refuse,
    /// What the backup replaces is moved aside, into a directory of its own beside it. Nothing is deleted.
    MoveAside,
}

/// What a restore did.
#[derive(Clone, Debug)]
pub struct Restored {
    /// What was put back.
    pub manifest: Manifest,
    /// Where the replaced state is now, if there was any.
    pub aside: Option<PathBuf>,
}

/// What is exchanged as a whole. Of a worker not all: containers that run, and their images, stay where they are.
const fn parts(role: Role) -> &'static [&'static str] {
    match role {
        Role::Root => &["root"],
        Role::Cluster => &["cluster"],
        Role::Worker => &["worker/identity", "worker/state", "worker/workloads"],
    }
}

/// Puts the backup `file` into the data directory `data`, which exists and which the caller has locked. The backup is
/// unpacked beside the old state and checked completely; only then are the two exchanged, one role after the other,
/// each in one step.
///
/// # Errors
/// The backup is not usable, or the directory has something in it and nothing may be moved aside: then nothing was
/// changed. A failure while exchanging leaves each role either old or new, and the restore can be repeated.
pub fn restore(
    file: &Path,
    data: &Path,
    existing: Existing,
    check: Check<'_>,
) -> Result<Restored, BackupError> {
    if existing == Existing::Refuse
        && let Some(found) = content(data)?
    {
        return Err(BackupError::NotEmpty { directory: data.to_owned(), found });
    }
    let scratch = Scratch::create(data, RESTORING)?;
    let manifest = unpack_and_check(file, scratch.path(), check)?;
    if manifest.roles.iter().any(|summary| summary.role == Role::Root) {
        let marker = scratch.path().join("root").join(RESTORED);
        let made = File::create(&marker).and_then(|file| file.sync_all());
        made.map_err(BackupError::file("create", &marker))?;
    }
    let mut aside = None;
    for part in Role::ALL.into_iter().flat_map(parts) {
        let (fresh, place) = (scratch.path().join(part), data.join(part));
        let is_of_restored = manifest.roles.iter().any(|summary| parts(summary.role).contains(part));
        if !is_of_restored {
            continue;
        }
        // A worker without workloads has no such folder in its backup.
        make(&fresh)?;
        if place.exists() {
            let old = match &aside {
                Some(old) => old,
                None => aside.insert(make_aside(data)?),
            };
            exchange(&fresh, &place, &old.join(part))?;
        } else {
            make(place.parent().unwrap_or(data))?;
            fs::rename(&fresh, &place).map_err(BackupError::file("create", &place))?;
        }
        sync_directory(place.parent().unwrap_or(data))?;
    }
    Ok(Restored { manifest, aside })
}

/// File in the directory of a root that was put back: with the next start it knows that its clusters may have seen
/// more than it has, and asks them.
pub const RESTORED: &str = "restored";

const RESTORING: &str = "restoring";
const LOCK: &str = "oak.pid";

/// One of the things in the data directory, other than what every process leaves there.
fn content(data: &Path) -> Result<Option<String>, BackupError> {
    let list = || -> io::Result<Option<String>> {
        for entry in fs::read_dir(data)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != LOCK && name != RESTORING && name != "lost+found" {
                return Ok(Some(name));
            }
        }
        Ok(None)
    };
    list().map_err(BackupError::file("list", data))
}

fn make(directory: &Path) -> Result<(), BackupError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(BackupError::file("create", directory))
}

/// A new directory for what is replaced.
fn make_aside(data: &Path) -> Result<PathBuf, BackupError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let path = data.join(format!("replaced-{now}"));
    make(&path)?;
    Ok(path)
}

/// Brings `fresh` to `place`, and what was there to `old`. At every moment there is one of them at `place`, on file
/// systems that can do it.
fn exchange(fresh: &Path, place: &Path, old: &Path) -> Result<(), BackupError> {
    make(old.parent().unwrap_or(old))?;
    match renameat_with(CWD, fresh, CWD, place, RenameFlags::EXCHANGE) {
        Ok(()) => fs::rename(fresh, old).map_err(BackupError::file("move aside", place))?,
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            fs::rename(place, old).map_err(BackupError::file("move aside", place))?;
            fs::rename(fresh, place).map_err(BackupError::file("create", place))?;
        }
        Err(errno) => return Err(BackupError::file("replace", place)(errno.into())),
    }
    // Room kept back for a role that does not run from there any more.
    match fs::remove_file(old.join("ballast")) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            tracing::debug!(path = %old.display(), %error, "cannot remove the ballast of the replaced state");
        }
        _ => {}
    }
    Ok(())
}

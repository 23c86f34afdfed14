//! Backups as commands and roles make them: what counts as understood, how files are called, and the schedule.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oak_control::{CorruptRow, Row, cluster, root, worker};
use oak_model::{Now, chain};
use oak_root::accounts::Accounts;
use oak_store::backup::{self, BackupError, Manifest, Role};
use time::OffsetDateTime;
use tracing::{info, warn};

use crate::config::{BackupConfig, Config};

/// Saves the state below `data` to `output`.
pub(crate) fn create(data: &Path, output: &Path) -> Result<Manifest, BackupError> {
    backup::create(data, output, env!("CARGO_PKG_VERSION"), &understand)
}

/// Whether the role would start with these rows: the same code reads them.
pub(crate) fn understand(role: Role, rows: &[Row]) -> Result<(), String> {
    let now = Now::default();
    let read = match role {
        Role::Root => root::Root::load(root::Settings::default(), now, rows)
            .and_then(|_| Accounts::load(rows).map(drop)),
        Role::Cluster => cluster::Cluster::load(cluster::Settings::default(), now, rows).map(drop),
        Role::Worker => {
            worker::Worker::load(worker::Settings::default(), now, rows, &BTreeMap::new()).map(drop)
        }
    };
    read.map_err(|error: CorruptRow| format!("{error}: {}", error.source))
}

const PREFIX: &str = "oak-backup-";
const SUFFIX: &str = ".tar";

/// Name of a backup made now; names sort by time.
pub(crate) fn file_name(now: SystemTime) -> String {
    let date = date(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
    format!(
        "{PREFIX}{:04}{:02}{:02}-{:02}{:02}{:02}{SUFFIX}",
        date.year(),
        u8::from(date.month()),
        date.day(),
        date.hour(),
        date.minute(),
        date.second()
    )
}

/// A time for people, UTC.
pub(crate) fn readable(milliseconds: u64) -> String {
    let date = date(milliseconds / 1000);
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02} UTC",
        date.year(),
        u8::from(date.month()),
        date.day(),
        date.hour(),
        date.minute(),
        date.second()
    )
}

fn date(seconds: u64) -> OffsetDateTime {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// How soon a backup that failed is tried again.
const AGAIN: Duration = Duration::from_secs(600);
/// How soon after the start a backup that is due is made: the start itself needs the disk.
const SETTLED: Duration = Duration::from_secs(60);

/// Makes backups for as long as it is polled, if the configuration wants any.
pub(crate) async fn run_schedule(config: Config) {
    let Some(every) = config.backup.every else { return };
    let (every, data) = (every.duration(), config.data_dir.clone());
    let directory = config.backup.directory.clone().unwrap_or_else(|| data.join("backups"));
    let settings = config.backup.clone();
    let mut wait = SETTLED.max(until_due(&directory, every));
    loop {
        tokio::time::sleep(wait).await;
        let (data, directory, settings) = (data.clone(), directory.clone(), settings.clone());
        let made = tokio::task::spawn_blocking(move || make_one(&data, &directory, &settings)).await;
        wait = match made {
            Ok(Ok(())) => every,
            Ok(Err(error)) => {
                warn!(
                    error = chain(&error),
                    "cannot make the backup that is due; it is tried again in 10 min"
                );
                AGAIN
            }
            // The process is stopping.
            Err(_) => return,
        };
    }
}

/// Time until the next backup: the age of the newest counts, or a process that is restarted daily would never make one.
fn until_due(directory: &Path, every: Duration) -> Duration {
    let newest = backups_in(directory).into_iter().next_back();
    let modified = newest.and_then(|path| fs::metadata(path).and_then(|facts| facts.modified()).ok());
    // A time in the future is that of a clock that was wrong.
    let age = modified.and_then(|at| SystemTime::now().duration_since(at).ok());
    age.map_or(Duration::ZERO, |age| every.saturating_sub(age))
}

fn make_one(data: &Path, directory: &Path, settings: &BackupConfig) -> Result<(), BackupError> {
    fs::create_dir_all(directory).map_err(|source| BackupError::File {
        action: "create",
        path: directory.to_owned(),
        source,
    })?;
    let path = directory.join(file_name(SystemTime::now()));
    let manifest = create(data, &path)?;
    info!(file = %path.display(), bytes = manifest.bytes(), "backup made and checked");
    let mut all = backups_in(directory);
    let kept = usize::try_from(settings.keep.max(1)).unwrap_or(usize::MAX);
    let surplus = all.len().saturating_sub(kept);
    for old in all.drain(..surplus) {
        if let Err(error) = fs::remove_file(&old) {
            warn!(file = %old.display(), %error, "cannot remove an old backup");
        }
    }
    Ok(())
}

/// The backups in a directory by their names, oldest first.
fn backups_in(directory: &Path) -> Vec<PathBuf> {
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let stamp = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX));
        stamp.is_some_and(|stamp| stamp.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-'))
    };
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).filter(is_ours).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> tempfile::TempDir {
        let data = tempfile::tempdir().unwrap();
        fs::create_dir(data.path().join("root")).unwrap();
        drop(oak_store::Store::open(&data.path().join("root/state.db")).unwrap());
        data
    }

    #[test]
    fn only_the_newest_backups_are_kept_and_nothing_else_is_touched() {
        let (data, place) = (node(), tempfile::tempdir().unwrap());
        let names =
            ["oak-backup-20200101-000000.tar", "oak-backup-20210101-000000.tar", "oak-backup-mine.tar"];
        for name in names {
            fs::write(place.path().join(name), b"").unwrap();
        }
        let settings = BackupConfig { every: None, keep: 2, directory: None };
        make_one(data.path(), place.path(), &settings).unwrap();
        let left: Vec<_> = backups_in(place.path());
        assert_eq!(left.len(), 2);
        assert!(left[0].ends_with("oak-backup-20210101-000000.tar"), "{left:?}");
        assert!(place.path().join("oak-backup-mine.tar").exists());
        backup::verify(&left[1], &understand).unwrap();
    }

    #[test]
    fn the_age_of_the_newest_backup_decides_when_the_next_is_due() {
        let place = tempfile::tempdir().unwrap();
        let day = Duration::from_secs(86_400);
        assert_eq!(until_due(place.path(), day), Duration::ZERO);
        fs::write(place.path().join(file_name(SystemTime::now())), b"").unwrap();
        assert!(until_due(place.path(), day) > Duration::from_secs(86_000));
    }

    #[test]
    fn names_sort_by_time() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(file_name(at(0)), "oak-backup-19700101-000000.tar");
        assert_eq!(file_name(at(1_770_000_009)), "oak-backup-20260202-024009.tar");
        assert_eq!(readable(1_770_000_009_500), "2026-02-02 02:40:09 UTC");
    }
}

//! Measures containers.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::OciRuntime;
use crate::cgroup::ContainerCgroup;
use crate::container::ContainerId;
use crate::error::StatsError;
use crate::record::ContainerDirectory;
use crate::runtime::Stats;

/// Disk use is counted by walking files, so not more often than this.
const DISK_AGE: Duration = Duration::from_secs(30);
/// The same for containers with a limit, as long as counting is quick.
const LIMITED_AGE: Duration = Duration::from_secs(4);
/// Counting may take this share of the time: one part of so many.
const SHARE: u32 = 20;
/// Files looked at when counting disk use; a container with more is not counted to the end.
const FILES: usize = 100_000;
/// The same for containers with a limit.
const LIMITED_FILES: usize = 2_000_000;

/// What need not be read again for each measurement.
#[derive(Debug, Default)]
pub(super) struct StatsCache(HashMap<ContainerId, Known>);

#[derive(Clone, Debug)]
struct Known {
    cgroup: ContainerCgroup,
    is_limited: bool,
    disk: Option<Counted>,
}

/// Disk use when it was last counted.
#[derive(Clone, Copy, Debug)]
struct Counted {
    at: Instant,
    took: Duration,
    bytes: u64,
}

pub(super) async fn stats(runtime: &OciRuntime, id: &ContainerId) -> Result<Stats, StatsError> {
    let known = runtime.cache().0.get(id).cloned();
    let directory = runtime.directory(id);
    let hierarchies = runtime.hierarchies.clone();
    let name = id.clone();
    let measured = tokio::task::spawn_blocking(move || {
        let mut known = match known {
            Some(known) => known,
            None => {
                let request = directory.read_request().ok_or(io::ErrorKind::NotFound)?;
                let cgroup = hierarchies.container(&request.cgroup_parent, &name);
                Known { cgroup, is_limited: request.limits.storage_bytes.is_some(), disk: None }
            }
        };
        measure(&mut known, &directory).map(|stats| (known, stats))
    })
    .await
    .unwrap_or_else(|panic| Err(io::Error::other(panic)));
    match measured {
        Ok((known, stats)) => {
            runtime.cache().0.insert(id.clone(), known);
            Ok(stats)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StatsError::NotFound { id: id.clone() }),
        Err(source) => Err(StatsError::Read { id: id.clone(), source }),
    }
}

impl OciRuntime {
    pub(super) fn forget_stats(&self, id: &ContainerId) {
        self.cache().0.remove(id);
    }

    fn cache(&self) -> MutexGuard<'_, StatsCache> {
        // plain data: a panic elsewhere cannot have left it half-changed
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn measure(known: &mut Known, directory: &ContainerDirectory) -> io::Result<Stats> {
    let usage = known.cgroup.usage()?;
    let (age, files) = if known.is_limited { (LIMITED_AGE, LIMITED_FILES) } else { (DISK_AGE, FILES) };
    let is_fresh = |counted: &Counted| counted.at.elapsed() < age.max(counted.took * SHARE);
    let counted = known.disk.filter(is_fresh).unwrap_or_else(|| {
        let begun = Instant::now();
        let bytes = disk_use(directory.upper(), files);
        Counted { at: Instant::now(), took: begun.elapsed(), bytes }
    });
    let bytes = known.disk.insert(counted).bytes;
    Ok(Stats { cpu: usage.cpu, memory_bytes: usage.memory_bytes, pids: usage.pids, disk_bytes: Some(bytes) })
}

/// Allocated bytes below a directory; never follows links. Files that vanish meanwhile count as nothing.
fn disk_use(top: PathBuf, files: usize) -> u64 {
    let mut bytes = 0_u64;
    let mut left = files;
    let mut directories = vec![top];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            left = left.saturating_sub(1);
            if left == 0 {
                return bytes;
            }
            // st_blocks counts 512-byte units whatever the file system
            bytes = bytes.saturating_add(metadata.blocks().saturating_mul(512));
            if metadata.is_dir() {
                directories.push(entry.path());
            }
        }
    }
    bytes
}

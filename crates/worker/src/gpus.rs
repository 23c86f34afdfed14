//! The GPUs of this machine and who has them. Only NVIDIA's driver is known; nothing of it is linked or loaded: it
//! describes its devices below `/proc`, and containers get device nodes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use oak_control::worker::Attempt;
use oak_model::InstanceKey;

/// Most GPUs of a machine that are used.
const MOST: usize = 256;

/// Nodes that every user of the driver opens beside its GPUs.
const CONTROL: [&str; 4] =
    ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset"];

/// The GPUs, each with at most one instance.
#[derive(Debug)]
pub(crate) struct Gpus {
    devices: Vec<PathBuf>,
    control: Vec<PathBuf>,
    taken: Mutex<BTreeMap<PathBuf, Holder>>,
}

/// Who has a GPU. The end of a process may be heard of when the next one of the same instance has been started, and must
/// not take anything from that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holder {
    key: InstanceKey,
    attempt: Attempt,
}

/// Placement counts GPUs too, so this happens only when a former instance has not ended yet, or a device is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the instance needs {needed} GPUs and {free} of {total} are free on this machine")]
pub(crate) struct NotEnoughGpus {
    needed: usize,
    free: usize,
    total: usize,
}

impl Gpus {
    /// The devices named in the configuration, or those the driver tells of below `root` (`/` but in tests). The single
    /// word `none` hides them.
    pub(crate) fn find(root: &Path, configured: &[String]) -> Self {
        let mut devices: Vec<PathBuf> = match configured {
            [] => detected(root),
            [word] if word == "none" => Vec::new(),
            paths => paths.iter().map(PathBuf::from).collect(),
        };
        devices.truncate(MOST);
        let is_there = |path: &&&str| root.join(path.trim_start_matches('/')).exists();
        let control = CONTROL.iter().filter(is_there).map(PathBuf::from).collect();
        Self { devices, control, taken: Mutex::default() }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.devices.len()).unwrap_or(u32::MAX)
    }

    /// Gives GPUs to an instance, those with the smallest numbers first. What it had before is given back first.
    pub(crate) fn assign(
        &self,
        key: InstanceKey,
        attempt: Attempt,
        needed: u32,
    ) -> Result<Vec<PathBuf>, NotEnoughGpus> {
        let needed = usize::try_from(needed).unwrap_or(usize::MAX);
        let mut taken = self.taken();
        taken.retain(|_, holder| holder.key != key);
        let free: Vec<_> = self.devices.iter().filter(|device| !taken.contains_key(*device)).collect();
        if free.len() < needed {
            return Err(NotEnoughGpus { needed, free: free.len(), total: self.devices.len() });
        }
        let given: Vec<PathBuf> = free.into_iter().take(needed).cloned().collect();
        taken.extend(given.iter().map(|device| (device.clone(), Holder { key, attempt })));
        Ok(given)
    }

    /// The nodes an instance with these GPUs gets; none without GPUs.
    pub(crate) fn nodes(&self, given: &[PathBuf]) -> Vec<PathBuf> {
        if given.is_empty() {
            return Vec::new();
        }
        given.iter().chain(&self.control).cloned().collect()
    }

    /// An instance that still runs has these, from an earlier start of this program: before every attempt of this one.
    pub(crate) fn adopt(&self, key: InstanceKey, label: &str) {
        let holder = Holder { key, attempt: Attempt::default() };
        let devices = label.split(',').filter(|part| !part.is_empty());
        self.taken().extend(devices.map(|part| (part.into(), holder)));
    }

    /// The process of an attempt has ended, and those before it.
    pub(crate) fn release(&self, key: InstanceKey, attempt: Attempt) {
        self.taken().retain(|_, holder| holder.key != key || holder.attempt > attempt);
    }

    /// An attempt has failed before there was a process. That of an earlier one keeps what it has: it may have been what
    /// could not be removed.
    pub(crate) fn give_back(&self, key: InstanceKey, attempt: Attempt) {
        self.taken().retain(|_, holder| *holder != Holder { key, attempt });
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Holder>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The text that [`Gpus::adopt`] reads back.
pub(crate) fn label(given: &[PathBuf]) -> String {
    given.iter().map(|path| path.to_string_lossy()).collect::<Vec<_>>().join(",")
}

/// One directory per GPU; its file `information` has a line `Device Minor: <n>` for `/dev/nvidia<n>`.
fn detected(root: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root.join("proc/driver/nvidia/gpus")).into_iter().flatten().flatten();
    let mut minors: Vec<u32> = entries
        .filter_map(|entry| fs::read_to_string(entry.path().join("information")).ok())
        .filter_map(|text| {
            text.lines().find_map(|line| line.strip_prefix("Device Minor:")?.trim().parse().ok())
        })
        .collect();
    minors.sort_unstable();
    minors.into_iter().map(|minor| PathBuf::from(format!("/dev/nvidia{minor}"))).collect()
}

#[cfg(test)]
mod tests {
    use oak_model::ServiceId;

    use super::*;

    fn key(number: u32) -> InstanceKey {
        InstanceKey { service: ServiceId::from_parts(1, 1), number }
    }

    fn paths(texts: &[&str]) -> Vec<PathBuf> {
        texts.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn finds_what_the_driver_tells() {
        let root = tempfile::tempdir().unwrap();
        for (bus, minor) in [("0000:01:00.0", 1), ("0000:05:00.0", 0)] {
            let directory = root.path().join("proc/driver/nvidia/gpus").join(bus);
            fs::create_dir_all(&directory).unwrap();
            let text = format!("Model: \t\t NVIDIA A2\nIRQ:   \t\t 16\nDevice Minor: \t {minor}\n");
            fs::write(directory.join("information"), text).unwrap();
        }
        fs::create_dir(root.path().join("dev")).unwrap();
        fs::write(root.path().join("dev/nvidiactl"), "").unwrap();
        let gpus = Gpus::find(root.path(), &[]);
        assert_eq!(gpus.count(), 2);
        let given = gpus.assign(key(1), Attempt(1), 1).unwrap();
        assert_eq!(gpus.nodes(&given), paths(&["/dev/nvidia0", "/dev/nvidiactl"]));
        assert!(gpus.nodes(&[]).is_empty(), "the control nodes are of no use without a GPU");
        assert_eq!(Gpus::find(root.path(), &["none".to_owned()]).count(), 0);
    }

    #[test]
    fn a_gpu_has_one_instance_at_a_time() {
        let gpus = Gpus::find(Path::new("/nowhere"), &["/dev/a".to_owned(), "/dev/b".to_owned()]);
        assert_eq!(gpus.assign(key(1), Attempt(1), 1), Ok(paths(&["/dev/a"])));
        assert_eq!(gpus.assign(key(2), Attempt(1), 2), Err(NotEnoughGpus { needed: 2, free: 1, total: 2 }));
        assert_eq!(gpus.assign(key(2), Attempt(1), 1), Ok(paths(&["/dev/b"])));
        gpus.release(key(1), Attempt(1));
        // A restart gets what it had, or what is free.
        assert_eq!(gpus.assign(key(2), Attempt(2), 2), Ok(paths(&["/dev/a", "/dev/b"])));
    }

    #[test]
    fn what_still_runs_keeps_its_gpus() {
        let before = Gpus::find(Path::new("/nowhere"), &["/dev/a".to_owned(), "/dev/b".to_owned()]);
        let text = label(&before.assign(key(1), Attempt(1), 1).unwrap());
        let after = Gpus::find(Path::new("/nowhere"), &["/dev/a".to_owned(), "/dev/b".to_owned()]);
        after.adopt(key(1), &text);
        assert_eq!(after.assign(key(2), Attempt(1), 1), Ok(paths(&["/dev/b"])));
        after.release(key(1), Attempt(2));
        assert_eq!(after.assign(key(3), Attempt(3), 1), Ok(paths(&["/dev/a"])));
    }

    #[test]
    fn the_late_end_of_a_process_takes_nothing_from_the_next_one() {
        let gpus = Gpus::find(Path::new("/nowhere"), &["/dev/a".to_owned()]);
        assert_eq!(gpus.assign(key(1), Attempt(1), 1), Ok(paths(&["/dev/a"])));
        assert_eq!(gpus.assign(key(1), Attempt(3), 1), Ok(paths(&["/dev/a"])));
        gpus.release(key(1), Attempt(1));
        let none = Err(NotEnoughGpus { needed: 1, free: 0, total: 1 });
        assert_eq!(gpus.assign(key(2), Attempt(4), 1), none, "the second process still has it");
        gpus.release(key(1), Attempt(3));
        assert_eq!(gpus.assign(key(2), Attempt(4), 1), Ok(paths(&["/dev/a"])));
    }

    #[test]
    fn a_start_that_fails_leaves_a_process_that_is_still_there_its_gpus() {
        let gpus = Gpus::find(Path::new("/nowhere"), &["/dev/a".to_owned()]);
        assert_eq!(gpus.assign(key(1), Attempt(1), 1), Ok(paths(&["/dev/a"])));
        gpus.give_back(key(1), Attempt(2));
        let none = Err(NotEnoughGpus { needed: 1, free: 0, total: 1 });
        assert_eq!(gpus.assign(key(2), Attempt(3), 1), none);
        gpus.give_back(key(1), Attempt(1));
        assert_eq!(gpus.assign(key(2), Attempt(3), 1), Ok(paths(&["/dev/a"])));
    }
}

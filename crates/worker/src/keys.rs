//! The keys by which other workers know this one: made once, replaced when they are old or when somebody wants so.
//!
//! ```text
//! network-key          the present one; there at every moment
//! network-key.former   the one before, until all had time to hear of the present one
//! network-key.rotate   somebody wants another one (`oak net rotate-key`)
//! ```
//!
//! Files come first, then the cluster is told and the tunnel engine: whatever is cut off in between, the next start goes on
//! with a key that is known, or with a new one and the former one that is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use oak_model::overlay::NodeKeys;
use oak_store::StoreError;
use oak_tunnel::PrivateKey;
use tracing::{info, warn};

use crate::operations::Operations;

const PRESENT: &str = "network-key";
const FORMER: &str = "network-key.former";
const WISH: &str = "network-key.rotate";

/// How long a former key is answered. Who was told of no other meanwhile is reached again when it has been.
const OVERLAP: Duration = Duration::from_secs(24 * 3600);
/// The clock of the machine counts when the worker has run for so long: devices boot in 1970 and ask for the time later.
const SETTLED: Duration = Duration::from_secs(600);
/// Between two looks whether somebody wants another key.
const LOOK: Duration = Duration::from_secs(1);

/// The keys of this worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keys {
    pub(crate) present: PrivateKey,
    pub(crate) former: Option<PrivateKey>,
}

impl Keys {
    /// Those in a directory; the present one is made if there is none.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        let present = PrivateKey::open_or_make(&directory.join(PRESENT))?;
        // One that is damaged is as good as none; a rotation that was cut off has only written it.
        let former = PrivateKey::read(&directory.join(FORMER))?.filter(|former| *former != present);
        Ok(Self { present, former })
    }

    /// As others know them.
    pub(crate) fn public(&self) -> NodeKeys {
        NodeKeys {
            public_key: self.present.public().to_string(),
            former_key: self.former.as_ref().map(|former| former.public().to_string()),
        }
    }

    /// Makes another present key; the present one is the former one then.
    fn rotate(&self, directory: &Path) -> io::Result<Self> {
        let next = Self { present: PrivateKey::generate(), former: Some(self.present.clone()) };
        self.present.write(&directory.join(FORMER))?;
        next.present.write(&directory.join(PRESENT))?;
        remove(&directory.join(WISH))?;
        Ok(next)
    }

    /// Gives up the former key.
    fn retire(&self, directory: &Path) -> io::Result<Self> {
        remove(&directory.join(FORMER))?;
        Ok(Self { present: self.present.clone(), former: None })
    }
}

/// Removes the keys: the worker is another one from now on.
pub(crate) fn forget(directory: &Path) -> io::Result<()> {
    [PRESENT, FORMER, WISH].iter().try_for_each(|name| remove(&directory.join(name)))
}

/// Makes the worker with this directory replace its key for packets of other workers: within a second, or at its next start.
///
/// # Errors
/// The directory cannot be written to.
pub fn request_key_rotation(directory: &Path) -> io::Result<()> {
    fs::write(directory.join(WISH), "")
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// What clocks say of a key.
#[derive(Clone, Copy, Debug)]
struct Ages {
    /// By the clock of the machine, which may jump; none if the key is of the future.
    wall: Option<Duration>,
    /// Since the worker started or has replaced its key, by a clock that only goes forward.
    here: Duration,
    /// Whether it has replaced it since it started.
    is_of_this_start: bool,
}

impl Ages {
    /// Whether the key is older than that. A key made since the start is as old as the worker has seen, whatever the clock of
    /// the machine says: a clock that jumps replaces one key per start at most.
    fn exceed(self, limit: Duration) -> bool {
        let by_wall =
            !self.is_of_this_start && self.here >= SETTLED && self.wall.is_some_and(|age| age >= limit);
        by_wall || self.here >= limit
    }
}

/// What is to be done with the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Rotate(&'static str),
    Retire,
}

/// The keys, and since when they are these.
struct Watch {
    directory: PathBuf,
    lifetime: Option<Duration>,
    keys: Keys,
    since: Instant,
    is_of_this_start: bool,
    /// Whether the last step failed; it is said once.
    has_failed: bool,
}

impl Watch {
    fn step(&self) -> Option<Step> {
        if self.directory.join(WISH).exists() {
            return Some(Step::Rotate("somebody wants so"));
        }
        let made = fs::metadata(self.directory.join(PRESENT)).and_then(|file| file.modified()).ok();
        let wall = made.and_then(|made| SystemTime::now().duration_since(made).ok());
        let ages = Ages { wall, here: self.since.elapsed(), is_of_this_start: self.is_of_this_start };
        if self.lifetime.is_some_and(|lifetime| ages.exceed(lifetime)) {
            return Some(Step::Rotate("it is as old as network.key_lifetime says"));
        }
        (self.keys.former.is_some() && ages.exceed(OVERLAP)).then_some(Step::Retire)
    }

    /// Carries out a step; true if the keys are others then.
    fn take(&mut self, step: Step) -> bool {
        let outcome = match step {
            Step::Rotate(_) => self.keys.rotate(&self.directory),
            Step::Retire => self.keys.retire(&self.directory),
        };
        let keys = match outcome {
            Ok(keys) => keys,
            Err(error) => {
                if !std::mem::replace(&mut self.has_failed, true) {
                    let directory = self.directory.display();
                    warn!(%directory, %error, "cannot replace the key for packets of other workers; it is tried again");
                }
                return false;
            }
        };
        let present = keys.present.public();
        match step {
            Step::Rotate(why) => {
                info!(key = %present, why, "new key for packets of other workers");
                (self.since, self.is_of_this_start) = (Instant::now(), true);
            }
            Step::Retire => info!(key = %present, "the former key is not answered any more"),
        }
        (self.keys, self.has_failed) = (keys, false);
        true
    }
}

/// Replaces keys for ever.
pub(crate) async fn run(
    operations: Arc<Operations>,
    directory: PathBuf,
    lifetime: Option<Duration>,
) -> Result<(), StoreError> {
    let engine = operations.engine.wait().await;
    let keys = operations.network.own_end().keys;
    let since = Instant::now();
    let mut watch = Watch { directory, lifetime, keys, since, is_of_this_start: false, has_failed: false };
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(step) = watch.step() else { continue };
        // Only the cluster tells others of the present key.
        if step == Step::Retire && !engine.call(|worker, _, _| worker.is_connected()).await.unwrap_or(false) {
            continue;
        }
        if !watch.take(step) {
            continue;
        }
        operations.network.set_keys(watch.keys.clone());
        let public = watch.keys.public();
        if engine.post(move |worker, _, _| worker.set_keys(public)).await.is_err() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn a_rotation_keeps_the_former_key_until_it_is_retired() {
        let directory = tempfile::tempdir().unwrap();
        let first = Keys::open(directory.path()).unwrap();
        assert_eq!(first.former, None);
        request_key_rotation(directory.path()).unwrap();
        let second = first.rotate(directory.path()).unwrap();
        assert!(second.present != first.present && second.former == Some(first.present));
        assert!(!directory.path().join(WISH).exists());
        assert_eq!(Keys::open(directory.path()).unwrap(), second);
        let third = second.retire(directory.path()).unwrap();
        assert_eq!((&third.present, &third.former), (&second.present, &None));
        assert_eq!(Keys::open(directory.path()).unwrap(), third);
        forget(directory.path()).unwrap();
        assert!(fs::read_dir(directory.path()).unwrap().next().is_none());
    }

    #[test]
    fn a_rotation_that_was_cut_off_has_changed_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let first = Keys::open(directory.path()).unwrap();
        request_key_rotation(directory.path()).unwrap();
        // As after the first of its steps.
        first.present.write(&directory.path().join(FORMER)).unwrap();
        assert_eq!(Keys::open(directory.path()).unwrap(), first);
        assert!(directory.path().join(WISH).exists(), "it is made up for");
        fs::write(directory.path().join(FORMER), "?").unwrap();
        assert_eq!(Keys::open(directory.path()).unwrap(), first);
    }

    #[test]
    fn a_clock_that_jumps_replaces_one_key_per_start_at_most() {
        let ages = |wall: Option<Duration>, here: Duration, is_of_this_start: bool| {
            Ages { wall, here, is_of_this_start }.exceed(30 * DAY)
        };
        assert!(!ages(Some(29 * DAY), DAY, false) && ages(Some(30 * DAY), DAY, false));
        assert!(!ages(Some(30 * DAY), Duration::ZERO, false), "the clock may not be set yet");
        assert!(!ages(None, 29 * DAY, false) && ages(None, 30 * DAY, false), "a key of the future");
        assert!(!ages(Some(20_000 * DAY), 29 * DAY, true) && ages(Some(DAY), 30 * DAY, true));
    }

    #[test]
    fn a_wish_is_carried_out_once() {
        let directory = tempfile::tempdir().unwrap();
        let keys = Keys::open(directory.path()).unwrap();
        let mut watch = Watch {
            directory: directory.path().to_owned(),
            lifetime: Some(30 * DAY),
            keys: keys.clone(),
            since: Instant::now(),
            is_of_this_start: false,
            has_failed: false,
        };
        assert_eq!(watch.step(), None);
        request_key_rotation(directory.path()).unwrap();
        let step = watch.step().unwrap();
        assert!(watch.take(step) && watch.keys.former == Some(keys.present));
        assert_eq!(watch.step(), None);
        watch.lifetime = Some(Duration::ZERO);
        assert!(matches!(watch.step(), Some(Step::Rotate(_))));
    }
}

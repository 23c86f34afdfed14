//! The directory of a store.
//!
//! ```text
//! lock                  held while open
//! images/<hash>.json    one ImageRecord per image name
//! layers/<key>/         an unpacked layer
//! layers/<key>.json     its LayerContents; a layer counts only with this file
//! layers/.tmp-…         being built or being removed
//! blobs/<digest>-<hash>  a download, perhaps half-done
//! ```

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, FileTimes};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use serde::de::DeserializeOwned;

use super::record::{ImageRecord, LayerKey, SCHEMA};
use super::state::State;
use crate::digest::Digest;
use crate::error::{Failure, OpenError};
use crate::reference::ImageReference;
use crate::unpack::LayerContents;

const TEMPORARY_PREFIX: &str = ".tmp-";
/// Manifest and configuration are limited to 4 MiB each; JSON in JSON may double them.
const LARGEST_RECORD: u64 = 32 << 20;

/// Paths of a store, and the few operations that change it.
pub(super) struct Layout {
    pub(super) images: PathBuf,
    pub(super) layers: PathBuf,
    pub(super) blobs: PathBuf,
    next_temporary: AtomicU64,
}

/// A layer under construction; removed when dropped before it was committed.
pub(super) struct UnfinishedLayer {
    path: PathBuf,
}

impl UnfinishedLayer {
    /// Directory to unpack into.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for UnfinishedLayer {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove an unfinished layer");
        }
    }
}

impl Layout {
    /// Creates the directories and takes the lock.
    pub(super) fn open(root: &Path) -> Result<(Self, File), OpenError> {
        // Layer paths go into mounts, which happen in processes with another working directory.
        let root = std::path::absolute(root)
            .map_err(|source| disk(format!("find the directory {}", root.display()), source))?;
        let layout = Self {
            images: root.join("images"),
            layers: root.join("layers"),
            blobs: root.join("blobs"),
            next_temporary: AtomicU64::new(0),
        };
        for directory in [&root, &layout.images, &layout.layers, &layout.blobs] {
            // 0700: layers contain set-user-id programs that no user of this machine shall find.
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(|source| disk(format!("create {}", directory.display()), source))?;
        }
        let path = root.join("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(|source| disk(format!("open {}", path.display()), source))?;
        match lock.try_lock() {
            Ok(()) => Ok((layout, lock)),
            Err(fs::TryLockError::WouldBlock) => Err(OpenError::InUse { directory: root }),
            Err(fs::TryLockError::Error(source)) => Err(disk(format!("lock {}", path.display()), source)),
        }
    }

    /// Reads what is there and removes what is not whole.
    pub(super) fn load(&self) -> Result<State, OpenError> {
        let mut state = State::default();
        for (key, contents) in self.load_layers()? {
            state.add_layer(key, contents);
        }
        for name in names(&self.images)? {
            let path = self.images.join(&name);
            match self.load_image(&path, &name) {
                Ok((record, last_used)) => {
                    if state.add_image(record, &self.layers, last_used).is_some() {
                        continue;
                    }
                    tracing::warn!(path = %path.display(), "an image misses a layer, it will be pulled again");
                }
                Err(error) => {
                    tracing::debug!(path = %path.display(), %error, "removing what is not an image record");
                }
            }
            self.sweep(&path);
        }
        for name in names(&self.blobs)? {
            if blob_digest(&name).is_none() {
                self.sweep(&self.blobs.join(name));
            }
        }
        Ok(state)
    }

    /// Layers that have both their directory and their description; everything else in the directory goes.
    fn load_layers(&self) -> Result<HashMap<LayerKey, LayerContents>, OpenError> {
        let mut layers = HashMap::new();
        for name in names(&self.layers)? {
            let key = LayerKey::try_from(name.strip_suffix(".json").unwrap_or(&name).to_owned());
            let whole = key.ok().and_then(|key| {
                let contents = read_json::<LayerContents>(&self.description(&key)).ok()?;
                self.layer(&key).is_dir().then_some((key, contents))
            });
            match whole {
                Some((key, contents)) => drop(layers.insert(key, contents)),
                None => self.sweep(&self.layers.join(name)),
            }
        }
        Ok(layers)
    }

    fn load_image(&self, path: &Path, name: &str) -> io::Result<(ImageRecord, SystemTime)> {
        let record: ImageRecord = read_json(path)?;
        let is_whole = record.schema == SCHEMA
            && Some(name) == self.record(&record.reference).file_name().and_then(|name| name.to_str())
            && Digest::of(record.manifest.as_bytes()) == record.digest;
        if !is_whole {
            return Err(io::Error::other("the record does not fit its name, version or digest"));
        }
        let last_used = fs::metadata(path)?.modified()?;
        Ok((record, last_used))
    }

    /// Directory of a layer.
    pub(super) fn layer(&self, key: &LayerKey) -> PathBuf {
        self.layers.join(key.as_str())
    }

    fn description(&self, key: &LayerKey) -> PathBuf {
        self.layers.join(format!("{}.json", key.as_str()))
    }

    /// File a blob is downloaded to from `registry`. Registries do not share files, so that a slow or lying one cannot
    /// hold up or spoil what another delivers.
    pub(super) fn blob(&self, digest: &Digest, registry: &str) -> PathBuf {
        self.blobs.join(format!("{}-{}", digest.hex(), Digest::of(registry.as_bytes()).hex()))
    }

    /// References may contain `/` and be longer than a file name, so their hash is used.
    fn record(&self, reference: &ImageReference) -> PathBuf {
        let hash = Digest::of(reference.to_string().as_bytes());
        self.images.join(format!("{}.json", hash.hex()))
    }

    fn temporary(&self) -> PathBuf {
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        self.layers.join(format!("{TEMPORARY_PREFIX}{number}"))
    }

    /// Starts a layer.
    pub(super) fn begin_layer(&self) -> Result<UnfinishedLayer, Failure> {
        let path = self.temporary();
        // 0755 is what a root directory has that no archive entry describes.
        let created = DirBuilder::new().mode(0o755).create(&path);
        created.map_err(|error| Failure::disk(format!("create {}", path.display()), error))?;
        Ok(UnfinishedLayer { path })
    }

    /// Makes everything below a finished layer durable; call before [`Layout::commit_layer`], without the state lock.
    pub(super) fn sync(&self) -> Result<(), Failure> {
        let synced = File::open(&self.layers).and_then(|directory| Ok(rustix::fs::syncfs(&directory)?));
        synced.map_err(|error| Failure::disk(format!("flush {}", self.layers.display()), error))
    }

    /// Moves a layer to its place. Two renames; a kill between them leaves a description without directory.
    pub(super) fn commit_layer(
        &self,
        key: &LayerKey,
        layer: &UnfinishedLayer,
        contents: &LayerContents,
    ) -> Result<(), Failure> {
        let action = || format!("commit layer {}", key.as_str());
        write_json(&self.description(key), contents).map_err(|error| Failure::disk(action(), error))?;
        fs::rename(&layer.path, self.layer(key)).map_err(|error| Failure::disk(action(), error))?;
        sync_directory(&self.layers).map_err(|error| Failure::disk(action(), error))
    }

    /// Takes a layer out of sight; the returned directory can be removed at leisure.
    pub(super) fn detach_layer(&self, key: &LayerKey) -> io::Result<PathBuf> {
        let rubbish = self.temporary();
        // From here on the layer no longer counts, whatever happens to its directory.
        fs::remove_file(self.description(key))?;
        fs::rename(self.layer(key), &rubbish)?;
        Ok(rubbish)
    }

    pub(super) fn write_image(&self, record: &ImageRecord) -> Result<(), Failure> {
        let written =
            write_json(&self.record(&record.reference), record).and_then(|()| sync_directory(&self.images));
        written.map_err(|error| Failure::disk(format!("write the record of {}", record.reference), error))
    }

    /// Reads the record of an image again.
    pub(super) fn read_image(&self, reference: &ImageReference) -> Result<ImageRecord, Failure> {
        read_json(&self.record(reference))
            .map_err(|error| Failure::disk(format!("read the record of {reference}"), error))
    }

    pub(super) fn remove_image(&self, reference: &ImageReference) -> io::Result<()> {
        fs::remove_file(self.record(reference))
    }

    /// Writes the time of last use into the record's modification time. Losing it does no harm.
    pub(super) fn note_use(&self, reference: &ImageReference, now: SystemTime) {
        let touched = File::options()
            .write(true)
            .open(self.record(reference))
            .and_then(|file| file.set_times(FileTimes::new().set_modified(now)));
        if let Err(error) = touched {
            tracing::debug!(%reference, %error, "cannot note the use of an image");
        }
    }

    /// Removes rubbish; failing is not worth more than a warning, since the next start tries again.
    pub(super) fn sweep(&self, path: &Path) {
        let removed = match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
            Ok(_) => fs::remove_file(path),
            Err(error) => Err(error),
        };
        if let Err(error) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove rubbish from the image store");
        }
    }
}

/// The digest in the name of a download.
pub(super) fn blob_digest(name: &str) -> Option<Digest> {
    let (digest, registry) = name.split_once('-')?;
    Digest::parse(&format!("sha256:{registry}")).ok()?;
    Digest::parse(&format!("sha256:{digest}")).ok()
}

fn disk(action: String, source: io::Error) -> OpenError {
    OpenError::Disk { action, source }
}

/// Names in a directory. Those that are not UTF-8 are not ours and are left alone.
fn names(directory: &Path) -> Result<Vec<String>, OpenError> {
    let list = || -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(directory)? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    };
    list().map_err(|source| disk(format!("list {}", directory.display()), source))
}

fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let mut text = Vec::new();
    File::open(path)?.take(LARGEST_RECORD).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Writes a file so that its name always stands for the whole old or the whole new content.
fn write_json<T: serde::Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

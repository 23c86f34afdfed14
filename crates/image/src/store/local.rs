//! Images built on this machine from a few files: one layer, no registry.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use super::record::{ImageRecord, LayerKey, SCHEMA};
use super::{ImageStore, Shared};
use crate::digest::{Digest, Hasher};
use crate::error::{Failure, PullError};
use crate::image::{Image, ImageConfig};
use crate::manifest;
use crate::reference::ImageReference;
use crate::unpack::{Applier, EntryPath, LayerContents, Metadata};

/// Files of a local image; more is a job for an image builder.
const MOST_FILES: usize = 10_000;

/// A file of a local image, owned by root. Missing parent directories are created with mode 0755.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalFile {
    /// Where it stands in the image, for example `/usr/bin/oak`.
    pub path_in_image: String,
    /// What it is.
    pub source: LocalSource,
    /// Permission bits, for example `0o755`; links have none.
    pub mode: u32,
}

/// What a [`LocalFile`] is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalSource {
    /// A copy of a file of this machine; links are followed.
    File(PathBuf),
    /// These bytes.
    Bytes(Vec<u8>),
    /// A directory.
    Directory,
    /// A symbolic link with this target.
    Symlink(String),
}

impl ImageStore {
    /// Builds an image from files of this machine and gives it the name `reference`, replacing an older one.
    ///
    /// Cheap when nothing changed: files are compared by identity, size and times, not by content. The image is never
    /// asked for at a registry and never collected as garbage. An empty architecture or operating system in `config`
    /// means that of this machine. The replaced image stays under `name@digest` until it is collected.
    ///
    /// # Errors
    /// A source cannot be read, a path is not usable, or the store cannot be written.
    pub async fn install_local(
        &self,
        reference: &ImageReference,
        mut config: ImageConfig,
        files: Vec<LocalFile>,
    ) -> Result<Arc<Image>, PullError> {
        if config.architecture.is_empty() {
            manifest::node_architecture().clone_into(&mut config.architecture);
        }
        if config.os.is_empty() {
            "linux".clone_into(&mut config.os);
        }
        let shared = Arc::clone(&self.shared);
        let name = reference.clone();
        let installed = self.shared.blocking(move |_| install(&shared, name, config, &files)).await;
        installed.map_err(|failure| failure.for_image(reference))
    }
}

fn install(
    shared: &Arc<Shared>,
    reference: ImageReference,
    config: ImageConfig,
    files: &[LocalFile],
) -> Result<Arc<Image>, Failure> {
    if files.len() > MOST_FILES {
        return Err(Failure::TooLarge { reason: format!("a local image has at most {MOST_FILES} files") });
    }
    let key = LayerKey::local(&fingerprint(files)?);
    let source_config =
        serde_json::to_string(&config).map_err(|error| Failure::corrupt(error.to_string()))?;
    let manifest = serde_json::json!({ "layer": key.as_str(), "config": source_config }).to_string();
    let digest = Digest::of(manifest.as_bytes());
    if let Some(image) = shared.use_local(&reference).filter(|image| image.digest == digest) {
        return Ok(image);
    }
    keep_replaced(shared, &reference)?;
    let pinned = [key.clone()];
    shared.state().pin(&pinned);
    let built = build(shared, &key, files).and_then(|()| {
        shared.commit_image(ImageRecord {
            schema: SCHEMA,
            reference,
            digest,
            is_local: true,
            layers: vec![key],
            config,
            manifest,
            source_config,
        })
    });
    shared.state().unpin(&pinned);
    built
}

/// What ran under the name until now may still run: it stays as `name@digest`, collectable like a pulled image.
fn keep_replaced(shared: &Shared, reference: &ImageReference) -> Result<(), Failure> {
    let replaced = shared.state().find(reference);
    let Some(replaced) = replaced else { return Ok(()) };
    let record = shared.layout.read_image(reference)?;
    let pinned = reference.pinned_to(replaced.digest.clone());
    shared.commit_image(ImageRecord { reference: pinned, is_local: false, ..record }).map(|_| ())
}

fn build(shared: &Shared, key: &LayerKey, files: &[LocalFile]) -> Result<(), Failure> {
    let present = shared.state().layer(key).is_some();
    if present {
        return Ok(());
    }
    let layer = shared.layout.begin_layer()?;
    let mut applier = Applier::new(layer.path())?;
    for file in files {
        apply(&mut applier, file)?;
    }
    let built = applier.finish()?;
    // The root directory itself, so that even an empty layer counts.
    let contents = LayerContents { entries: built.entries + 1, ..built };
    shared.commit_layer(key, &layer, contents)
}

fn apply(applier: &mut Applier, file: &LocalFile) -> Result<(), Failure> {
    let path = EntryPath::parse(file.path_in_image.as_bytes())
        .map_err(|reason| Failure::corrupt(format!("file {} is refused: {reason}", file.path_in_image)))?;
    // All times are 1970: an image shall not differ by when it was installed.
    let metadata = Metadata {
        mode: file.mode,
        uid: 0,
        gid: 0,
        modified_seconds: 0,
        modified_nanoseconds: 0,
        attributes: &[],
    };
    match &file.source {
        LocalSource::File(source) => {
            let mut content = File::open(source).map_err(|error| unreadable(source, error))?;
            applier.file(&path, &metadata, &mut content).map(|_| ())
        }
        LocalSource::Bytes(bytes) => applier.file(&path, &metadata, &mut bytes.as_slice()).map(|_| ()),
        LocalSource::Directory => applier.directory(&path, &metadata),
        LocalSource::Symlink(target) => applier.symlink(&path, target.as_bytes(), &metadata),
    }
}

/// Digest of everything that decides what the layer contains. Every part is preceded by its length.
fn fingerprint(files: &[LocalFile]) -> Result<Digest, Failure> {
    let mut hasher = Hasher::default();
    let mut add = |part: &[u8]| {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    };
    for file in files {
        add(file.path_in_image.as_bytes());
        add(&file.mode.to_le_bytes());
        match &file.source {
            LocalSource::File(source) => {
                let metadata = std::fs::metadata(source).map_err(|error| unreadable(source, error))?;
                if !metadata.is_file() {
                    return Err(Failure::unsupported(format!("{} is not a file", source.display())));
                }
                let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
                add(b"file");
                add(source.as_os_str().as_encoded_bytes());
                add(&metadata.dev().to_le_bytes());
                add(&metadata.ino().to_le_bytes());
                add(&metadata.len().to_le_bytes());
                add(&modified.unwrap_or_default().as_nanos().to_le_bytes());
                // The change time cannot be set back by tools that preserve modification times.
                add(&metadata.ctime().to_le_bytes());
                add(&metadata.ctime_nsec().to_le_bytes());
            }
            LocalSource::Bytes(bytes) => {
                add(b"bytes");
                add(bytes);
            }
            LocalSource::Directory => add(b"directory"),
            LocalSource::Symlink(target) => {
                add(b"link");
                add(target.as_bytes());
            }
        }
    }
    Ok(hasher.finish())
}

fn unreadable(source: &std::path::Path, error: std::io::Error) -> Failure {
    Failure::disk(format!("read {}", source.display()), error)
}

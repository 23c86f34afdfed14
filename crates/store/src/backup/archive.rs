//! The file itself: writing it, and reading it without believing it.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path};

use sha2::{Digest, Sha256};

use super::manifest::{FORM, FileEntry};
use super::{BackupError, Manifest, Role};

const MANIFEST: &str = "manifest.json";
/// A manifest has some 150 bytes per file, and a worker some files per workload.
const LARGEST_MANIFEST: u64 = 64 << 20;

/// Size and digest of the files at these paths below `view`, in their order.
pub(super) fn describe(view: &Path, paths: Vec<String>) -> Result<Vec<FileEntry>, BackupError> {
    let describe = |path: String| {
        let place = view.join(&path);
        let described = File::open(&place).and_then(|file| copy(file, io::sink()));
        let (bytes, sha256) = described.map_err(BackupError::file("read", &place))?;
        Ok(FileEntry { path, bytes, sha256 })
    };
    paths.into_iter().map(describe).collect()
}

/// Writes the archive of what is below `view` to `path`, readable for its owner only, and forces it to disk.
pub(super) fn write(path: &Path, manifest: &Manifest, view: &Path) -> Result<(), BackupError> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    let file = file.map_err(BackupError::file("create", path))?;
    let mut archive = tar::Builder::new(BufWriter::new(file));
    let text = serde_json::to_vec_pretty(manifest).map_err(io::Error::other);
    let text = text.map_err(BackupError::file("describe", path))?;
    append(&mut archive, MANIFEST, text.len() as u64, &*text).map_err(BackupError::file("write", path))?;
    for entry in &manifest.files {
        let place = view.join(&entry.path);
        let file = File::open(&place).map_err(BackupError::file("read", &place))?;
        append(&mut archive, &entry.path, entry.bytes, file).map_err(BackupError::file("write", path))?;
    }
    let flush = || archive.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all();
    flush().map_err(BackupError::file("write", path))
}

fn append<W: Write>(
    archive: &mut tar::Builder<W>,
    path: &str,
    size: u64,
    bytes: impl Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o600);
    header.set_entry_type(tar::EntryType::Regular);
    archive.append_data(&mut header, path, bytes)
}

/// Unpacks the archive below an empty directory, checking every byte against the manifest.
pub(super) fn unpack(path: &Path, into: &Path) -> Result<Manifest, BackupError> {
    let damaged = |reason: String| BackupError::Damaged { path: path.to_owned(), reason };
    let file = File::open(path).map_err(BackupError::file("open", path))?;
    let mut archive = tar::Archive::new(BufReader::new(file));
    let unreadable = |error: io::Error| damaged(format!("it cannot be read as a tar archive ({error})"));
    let mut entries = archive.entries().map_err(unreadable)?;
    let first = entries.next().ok_or_else(|| damaged("it is empty".to_owned()))?.map_err(unreadable)?;
    let manifest = read_manifest(path, first)?;
    for wanted in &manifest.files {
        let missing = || damaged(format!("`{}` is missing: the file was cut off", wanted.path));
        let mut entry = entries.next().ok_or_else(missing)?.map_err(unreadable)?;
        if entry.path_bytes() != wanted.path.as_bytes() || !entry.header().entry_type().is_file() {
            return Err(damaged(format!("it does not have `{}` where it should be", wanted.path)));
        }
        let target = into.join(&wanted.path);
        if let Some(folder) = target.parent() {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
            made.map_err(BackupError::file("create", folder))?;
        }
        let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&target);
        let written = written.map_err(BackupError::file("create", &target))?;
        let (bytes, sha256) = copy(&mut entry, &written)
            .map_err(|error| damaged(format!("`{}` cannot be unpacked: {error}", wanted.path)))?;
        if (bytes, &sha256) != (wanted.bytes, &wanted.sha256) {
            return Err(damaged(format!("the bytes of `{}` are not those that were saved", wanted.path)));
        }
        written.sync_all().map_err(BackupError::file("write", &target))?;
    }
    Ok(manifest)
}

fn read_manifest(path: &Path, entry: tar::Entry<'_, impl Read>) -> Result<Manifest, BackupError> {
    let damaged = |reason: String| BackupError::Damaged { path: path.to_owned(), reason };
    if entry.path_bytes() != MANIFEST.as_bytes() {
        return Err(damaged("it does not begin with a manifest".to_owned()));
    }
    let mut text = Vec::new();
    entry
        .take(LARGEST_MANIFEST)
        .read_to_end(&mut text)
        .map_err(|error| damaged(format!("its manifest cannot be read ({error})")))?;
    let not_ours = |error: serde_json::Error| damaged(format!("its manifest cannot be understood ({error})"));
    #[derive(serde::Deserialize)]
    struct Form {
        form: u32,
    }
    // The form first: what a newer program says may have another shape.
    let Form { form } = serde_json::from_slice(&text).map_err(not_ours)?;
    if form > FORM {
        return Err(BackupError::TooNew { path: path.to_owned(), found: form, known: FORM });
    }
    let manifest: Manifest = serde_json::from_slice(&text).map_err(not_ours)?;
    let mut seen = HashSet::new();
    match manifest.files.iter().find(|file| !is_ours(&file.path) || !seen.insert(&file.path)) {
        Some(file) => Err(damaged(format!("`{}` does not belong into a backup", file.path))),
        None => Ok(manifest),
    }
}

/// Whether a path stays below the directory of a role.
fn is_ours(path: &str) -> bool {
    let path = Path::new(path);
    let is_plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    is_plain
        && path.components().count() > 1
        && Role::ALL.iter().any(|role| path.starts_with(role.directory()))
}

/// Copies everything; returns the number of bytes and their digest.
fn copy(mut from: impl Read, mut to: impl Write) -> io::Result<(u64, String)> {
    let mut hasher = Sha256::new();
    let mut block = vec![0; 64 << 10];
    let mut bytes = 0_u64;
    loop {
        let count = match from.read(&mut block) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let piece = block.get(..count).unwrap_or_default();
        hasher.update(piece);
        to.write_all(piece)?;
        bytes += piece.len() as u64;
    }
    let digest = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((bytes, digest))
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(directory: &Path) -> Result<(), BackupError> {
    let sync = fs::File::open(directory).and_then(|directory| directory.sync_all());
    sync.map_err(BackupError::file("write", directory))
}

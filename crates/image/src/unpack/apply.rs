//! Applies archive entries below one directory and never outside it.
//!
//! Parents are opened with `openat2(RESOLVE_IN_ROOT)`: a symbolic link in the archive resolves as it would inside the
//! container, with the layer as its root. The last component is never followed. Whiteouts of the image specification
//! become what overlayfs understands: a character device 0:0 for a removed name, `trusted.overlay.opaque` for a
//! directory that hides the one below (kernel documentation, "filesystems/overlayfs", "whiteouts and opaque
//! directories").

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::LayerContents;
use super::archive::{Entry, EntryKind};
use super::path::{EntryPath, shown};
use crate::error::Failure;

const WHITEOUT_PREFIX: &[u8] = b".wh.";
const OPAQUE_MARK: &[u8] = b".wh..wh..opq";
const AUFS_PREFIX: &[u8] = b".wh..wh.";
const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";
/// Longest target of a symbolic link, the kernel's `PATH_MAX` without its NUL.
const LONGEST_LINK_TARGET: usize = 4095;
/// Directory times are set at the end; beyond this many bytes of paths the rest keeps the time of unpacking.
const REMEMBERED_PATH_BYTES: usize = 32 << 20;
/// Tries of an `openat2` that a rename elsewhere on the machine disturbed.
const RESOLVE_TRIES: u32 = 64;
/// Disk usage is counted in blocks of this size.
const DISK_BLOCK: u64 = 4096;

/// Builds one layer directory.
pub(crate) struct Applier {
    root: OwnedFd,
    /// The parent used last, by path: entries come directory by directory.
    last_parent: Option<(Vec<u8>, Rc<OwnedFd>)>,
    directory_times: Vec<(Vec<u8>, Timestamps)>,
    remembered_path_bytes: usize,
    contents: LayerContents,
    skipped_devices: u64,
}

/// Owner, mode and time of a new file, directory or link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metadata<'a> {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) modified_seconds: i64,
    pub(crate) modified_nanoseconds: u32,
    pub(crate) attributes: &'a [(Vec<u8>, Vec<u8>)],
}

/// What is at the place of a new entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Occupant {
    None,
    Directory,
    Whiteout,
    Other,
}

impl Applier {
    /// Works below `target`, an existing directory.
    pub(crate) fn new(target: &Path) -> Result<Self, Failure> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let root = rustix::fs::openat(CWD, target, flags, Mode::empty())
            .map_err(|error| Failure::disk(format!("open {}", target.display()), error))?;
        Ok(Self {
            root,
            last_parent: None,
            directory_times: Vec::new(),
            remembered_path_bytes: 0,
            contents: LayerContents::default(),
            skipped_devices: 0,
        })
    }

    /// Applies one archive entry; `content` is read for files only.
    pub(super) fn apply(&mut self, entry: &Entry, content: &mut impl Read) -> Result<(), Failure> {
        let path = parse_path(&entry.path)?;
        let metadata = Metadata {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            modified_seconds: entry.modified_seconds,
            modified_nanoseconds: entry.modified_nanoseconds,
            attributes: &entry.attributes,
        };
        self.contents.entries += 1;
        self.contents.unpacked_bytes += DISK_BLOCK;
        let Some((parent, name)) = path.split() else {
            // Only a directory can be the root; anything else is ignored, as by other tools.
            if entry.kind == EntryKind::Directory {
                let root =
                    self.root.try_clone().map_err(|error| Failure::disk("open the layer's root", error))?;
                self.finish_directory(root.as_fd(), &path, &metadata)?;
            }
            return Ok(());
        };
        if name.starts_with(WHITEOUT_PREFIX) {
            return self.whiteout(parent, name);
        }
        match entry.kind {
            EntryKind::File => self.file(&path, &metadata, content).map(|_| ()),
            EntryKind::Directory => self.directory(&path, &metadata),
            EntryKind::Symlink => self.symlink(&path, &entry.target, &metadata),
            EntryKind::HardLink => self.hard_link(&path, &entry.target),
            EntryKind::Fifo => self.fifo(&path, &metadata),
            EntryKind::Device => {
                // A container's devices come from its runtime; from an archive they could be whiteouts or the host's disk.
                self.skipped_devices += 1;
                Ok(())
            }
        }
    }

    /// Creates a file with what `content` yields; returns its length.
    pub(crate) fn file(
        &mut self,
        path: &EntryPath,
        metadata: &Metadata<'_>,
        content: &mut impl Read,
    ) -> Result<u64, Failure> {
        let (parent, name) = self.place(path, EntryKind::File)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&parent, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| failed("create", path, error))?;
        let mut file = File::from(file);
        let length = copy(content, &mut file, path)?;
        self.contents.unpacked_bytes += length.next_multiple_of(DISK_BLOCK);
        set_metadata(file.as_fd(), metadata, path)?;
        Ok(length)
    }

    /// Creates a directory, or gives an existing one new metadata.
    pub(crate) fn directory(&mut self, path: &EntryPath, metadata: &Metadata<'_>) -> Result<(), Failure> {
        let Some((parent, name)) = path.split() else { return Ok(()) };
        let parent = self.parent(parent, path)?;
        let occupant = occupant(&parent, name, path)?;
        if occupant != Occupant::Directory {
            self.clear(&parent, name, occupant, path)?;
            rustix::fs::mkdirat(&parent, name, Mode::RWXU).map_err(|error| failed("create", path, error))?;
        }
        let directory = open_directory(&parent, name, path)?;
        if occupant == Occupant::Whiteout {
            set_opaque(directory.as_fd(), path)?;
        }
        self.finish_directory(directory.as_fd(), path, metadata)
    }

    /// Creates a symbolic link. Its target may be any text: it is only ever followed inside a container.
    pub(crate) fn symlink(
        &mut self,
        path: &EntryPath,
        target: &[u8],
        metadata: &Metadata<'_>,
    ) -> Result<(), Failure> {
        if target.is_empty() || target.len() > LONGEST_LINK_TARGET || target.contains(&0) {
            return Err(refused(path, "the target of the link is not valid"));
        }
        let (parent, name) = self.place(path, EntryKind::Symlink)?;
        rustix::fs::symlinkat(target, &parent, name).map_err(|error| failed("create", path, error))?;
        set_metadata_by_name(parent.as_fd(), name, metadata, path)
    }

    fn fifo(&mut self, path: &EntryPath, metadata: &Metadata<'_>) -> Result<(), Failure> {
        let (parent, name) = self.place(path, EntryKind::Fifo)?;
        rustix::fs::mknodat(&parent, name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .map_err(|error| failed("create", path, error))?;
        set_metadata_by_name(parent.as_fd(), name, metadata, path)?;
        // The fifo was just created here and nobody else works in this directory, so this follows no link.
        rustix::fs::chmodat(&parent, name, mode(metadata), AtFlags::empty())
            .map_err(|error| failed("set the mode of", path, error))
    }

    fn hard_link(&mut self, path: &EntryPath, target: &[u8]) -> Result<(), Failure> {
        let target = parse_path(target)?;
        let Some((target_parent, target_name)) = target.split() else {
            return Err(refused(path, "it is a hard link to the root"));
        };
        let missing = || refused(path, "it is a hard link to something that is not in its layer");
        let target_parent = self.resolve(&join(target_parent)).map_err(|error| match error {
            Errno::NOENT | Errno::NOTDIR => missing(),
            error => failed("open the link target of", path, error),
        })?;
        if path == &target {
            return Ok(());
        }
        let (parent, name) = self.place(path, EntryKind::HardLink)?;
        match rustix::fs::linkat(&target_parent, target_name, &parent, name, AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::NOENT) => Err(missing()),
            Err(Errno::PERM) => Err(refused(path, "it is a hard link to a directory")),
            Err(error) => Err(failed("link", path, error)),
        }
    }

    /// `.wh.NAME` removes NAME of the layers below, `.wh..wh..opq` everything of this directory.
    fn whiteout(&mut self, parent_components: &[Vec<u8>], name: &[u8]) -> Result<(), Failure> {
        let path = parse_path(&[&join(parent_components), &b"/"[..], name].concat())?;
        // Where a file replaced a directory, umoci also lists what was in it; the file hides that already.
        if matches!(self.resolve(&join(parent_components)), Err(Errno::NOTDIR)) {
            return Ok(());
        }
        let parent = self.parent(parent_components, &path)?;
        if name == OPAQUE_MARK {
            if parent_components.is_empty() {
                self.contents.opaque_root = true;
            }
            let directory = open_directory(&parent, b".", &path)?;
            return set_opaque(directory.as_fd(), &path);
        }
        if name.starts_with(AUFS_PREFIX) {
            // Book-keeping of AUFS that old tools left in their archives.
            return Ok(());
        }
        let hidden = name.strip_prefix(WHITEOUT_PREFIX).unwrap_or_default();
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(refused(&path, "it removes no name"));
        }
        match occupant(&parent, hidden, &path)? {
            Occupant::None => {
                rustix::fs::mknodat(&parent, hidden, FileType::CharacterDevice, Mode::empty(), 0)
                    .map_err(|error| failed("create", &path, error))
            }
            // A whiteout is about the layers below, so what this layer itself brings stays, and hides.
            Occupant::Directory => {
                let directory = open_directory(&parent, hidden, &path)?;
                set_opaque(directory.as_fd(), &path)
            }
            Occupant::Whiteout | Occupant::Other => Ok(()),
        }
    }

    /// Sets the times of directories, which creating files in them changed, and reports what was built.
    pub(crate) fn finish(self) -> Result<LayerContents, Failure> {
        for (path, times) in self.directory_times.iter().rev() {
            // A directory may have been replaced since; links are not followed.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
            let path = if path.is_empty() { &b"."[..] } else { path };
            if let Ok(directory) = rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
                rustix::fs::futimens(&directory, times)
                    .map_err(|error| Failure::disk(format!("set the time of {}", shown(path)), error))?;
            }
        }
        if self.skipped_devices > 0 {
            tracing::debug!(count = self.skipped_devices, "left out device nodes of a layer");
        }
        Ok(self.contents)
    }

    fn finish_directory(
        &mut self,
        directory: BorrowedFd<'_>,
        path: &EntryPath,
        metadata: &Metadata<'_>,
    ) -> Result<(), Failure> {
        set_metadata(directory, metadata, path)?;
        let joined = path.joined();
        if self.remembered_path_bytes + joined.len() <= REMEMBERED_PATH_BYTES {
            self.remembered_path_bytes += joined.len() + size_of::<Timestamps>();
            self.directory_times.push((joined, times(metadata)));
        }
        Ok(())
    }

    /// Opens the parent of a new entry and clears its place.
    fn place<'a>(
        &mut self,
        path: &'a EntryPath,
        kind: EntryKind,
    ) -> Result<(Rc<OwnedFd>, &'a [u8]), Failure> {
        debug_assert!(kind != EntryKind::Directory, "directories may stay, see `directory`");
        let Some((parent, name)) = path.split() else {
            return Err(refused(path, "it would replace the root"));
        };
        let parent = self.parent(parent, path)?;
        let occupant = occupant(&parent, name, path)?;
        self.clear(&parent, name, occupant, path)?;
        Ok((parent, name))
    }

    fn clear(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        occupant: Occupant,
        path: &EntryPath,
    ) -> Result<(), Failure> {
        match occupant {
            Occupant::None => Ok(()),
            Occupant::Directory => {
                self.last_parent = None;
                remove_tree(parent, name)
                    .map_err(|error| Failure::disk(format!("replace {}", shown(&path.joined())), error))
            }
            Occupant::Whiteout | Occupant::Other => {
                // A link in the path of the remembered parent may be what goes.
                self.last_parent = None;
                rustix::fs::unlinkat(parent, name, AtFlags::empty())
                    .map_err(|error| failed("replace", path, error))
            }
        }
    }

    /// Opens a parent directory, creating what is missing of it.
    fn parent(&mut self, components: &[Vec<u8>], path: &EntryPath) -> Result<Rc<OwnedFd>, Failure> {
        let joined = join(components);
        if let Some((known, directory)) = &self.last_parent
            && *known == joined
        {
            return Ok(Rc::clone(directory));
        }
        let directory = match self.resolve(&joined) {
            Err(Errno::NOENT) => self.create_parents(components),
            other => other,
        };
        let directory = Rc::new(directory.map_err(|error| match error {
            Errno::NOTDIR | Errno::EXIST | Errno::LOOP | Errno::NOENT => {
                refused(path, "a part of its path is not a directory")
            }
            error => failed("open the directory of", path, error),
        })?);
        self.last_parent = Some((joined, Rc::clone(&directory)));
        Ok(directory)
    }

    fn create_parents(&mut self, components: &[Vec<u8>]) -> Result<OwnedFd, Errno> {
        let mut directory = self.resolve(b"")?;
        for depth in 1..=components.len() {
            let (Some(prefix), Some(name)) = (components.get(..depth), components.get(depth - 1)) else {
                break;
            };
            directory = match self.resolve(&join(prefix)) {
                Err(Errno::NOENT) => {
                    let everyone = Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH;
                    rustix::fs::mkdirat(&directory, name.as_slice(), everyone)?;
                    self.contents.entries += 1;
                    self.contents.unpacked_bytes += DISK_BLOCK;
                    self.resolve(&join(prefix))?
                }
                other => other?,
            };
        }
        Ok(directory)
    }

    /// Opens a directory as a process in the container would find it.
    fn resolve(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { &b"."[..] } else { path };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let mut result = Err(Errno::AGAIN);
        for _ in 0..RESOLVE_TRIES {
            // openat2(2): EAGAIN when the kernel cannot rule out that a concurrent rename made ".." escape.
            result = rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve);
            if !matches!(result, Err(Errno::AGAIN)) {
                break;
            }
        }
        result
    }
}

fn parse_path(raw: &[u8]) -> Result<EntryPath, Failure> {
    EntryPath::parse(raw)
        .map_err(|reason| Failure::corrupt(format!("layer entry \"{}\" is refused: {reason}", shown(raw))))
}

fn join(components: &[Vec<u8>]) -> Vec<u8> {
    components.join(&b'/')
}

fn refused(path: &EntryPath, reason: &str) -> Failure {
    Failure::corrupt(format!("layer entry \"{}\" is refused: {reason}", shown(&path.joined())))
}

fn failed(action: &str, path: &EntryPath, error: Errno) -> Failure {
    Failure::disk(format!("{action} {} of a layer", shown(&path.joined())), error)
}

fn occupant(parent: &OwnedFd, name: &[u8], path: &EntryPath) -> Result<Occupant, Failure> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(Occupant::None),
        Err(error) => Err(failed("look at", path, error)),
        Ok(status) => Ok(match FileType::from_raw_mode(status.st_mode) {
            FileType::Directory => Occupant::Directory,
            FileType::CharacterDevice if status.st_rdev == 0 => Occupant::Whiteout,
            _ => Occupant::Other,
        }),
    }
}

fn open_directory(parent: &OwnedFd, name: &[u8], path: &EntryPath) -> Result<OwnedFd, Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(|error| failed("open", path, error))
}

fn set_opaque(directory: BorrowedFd<'_>, path: &EntryPath) -> Result<(), Failure> {
    rustix::fs::fsetxattr(directory, OPAQUE_ATTRIBUTE, b"y", XattrFlags::empty())
        .map_err(|error| failed("mark as opaque the directory of", path, error))
}

/// The standard library removes trees without following links; it wants a path, which the descriptor gives.
fn remove_tree(parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let directory = format!("/proc/self/fd/{}", parent.as_raw_fd());
    std::fs::remove_dir_all(Path::new(&directory).join(std::ffi::OsStr::from_bytes(name)))
}

/// Like `io::copy`, but tells apart whether reading the archive or writing the disk failed.
fn copy(content: &mut impl Read, file: &mut File, path: &EntryPath) -> Result<u64, Failure> {
    let mut buffer = [0; 64 << 10];
    let mut length = 0;
    loop {
        match content.read(&mut buffer) {
            Ok(0) => return Ok(length),
            Ok(count) => {
                file.write_all(buffer.get(..count).unwrap_or_default()).map_err(|error| {
                    Failure::disk(format!("write {} of a layer", shown(&path.joined())), error)
                })?;
                length += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Failure::archive(error)),
        }
    }
}

fn mode(metadata: &Metadata<'_>) -> Mode {
    Mode::from_raw_mode(metadata.mode & 0o7777)
}

fn times(metadata: &Metadata<'_>) -> Timestamps {
    let time = Timespec {
        tv_sec: metadata.modified_seconds,
        tv_nsec: metadata.modified_nanoseconds.min(999_999_999).into(),
    };
    Timestamps { last_access: time, last_modification: time }
}

/// The order matters: a new owner clears set-user-id bits and capabilities.
fn set_metadata(file: BorrowedFd<'_>, metadata: &Metadata<'_>, path: &EntryPath) -> Result<(), Failure> {
    let owner = (Some(Uid::from_raw(metadata.uid)), Some(Gid::from_raw(metadata.gid)));
    rustix::fs::fchown(file, owner.0, owner.1).map_err(|error| failed("set the owner of", path, error))?;
    rustix::fs::fchmod(file, mode(metadata)).map_err(|error| failed("set the mode of", path, error))?;
    for (name, value) in metadata.attributes.iter().filter(|(name, _)| is_allowed_attribute(name)) {
        match rustix::fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOTSUP | Errno::INVAL | Errno::PERM) => {}
            Err(error) => return Err(failed("set an attribute of", path, error)),
        }
    }
    rustix::fs::futimens(file, &times(metadata)).map_err(|error| failed("set the time of", path, error))
}

/// For what cannot be opened: links and fifos.
fn set_metadata_by_name(
    parent: BorrowedFd<'_>,
    name: &[u8],
    metadata: &Metadata<'_>,
    path: &EntryPath,
) -> Result<(), Failure> {
    let owner = (Some(Uid::from_raw(metadata.uid)), Some(Gid::from_raw(metadata.gid)));
    rustix::fs::chownat(parent, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| failed("set the owner of", path, error))?;
    rustix::fs::utimensat(parent, name, &times(metadata), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| failed("set the time of", path, error))
}

/// File capabilities and user attributes only. `trusted.overlay.*` from an archive would steer overlayfs itself
/// (`redirect` points a directory anywhere), other `security.*` belong to the host's policy.
fn is_allowed_attribute(name: &[u8]) -> bool {
    name == b"security.capability" || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

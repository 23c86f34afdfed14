//! Folders of the host that outlive containers.
//!
//! Other containers may write to the folders above, and swap a directory for a link at any moment. So the folder is
//! opened step by step without following anything, and what was opened is mounted at a place that no container sees;
//! only that place is named to libcontainer.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, ResolveFlags, Uid, fchmod, fchown, mkdirat, open, openat2};
use rustix::io::Errno;
use rustix::mount::mount_bind;

use super::user::Identity;
use crate::container::FolderMount;
use crate::error::FailureKind;
use crate::record::Failure;

/// Where the folders are mounted, relative to the container directory.
const STAGE: &str = "volumes";
/// Whoever is in the group of the container may use its folder, nobody else.
const FOLDER_MODE: u32 = 0o770;

/// Mounts the folders below the present directory, which must be that of the container; returns where they are.
pub(super) fn stage(folders: &[FolderMount], identity: &Identity) -> Result<Vec<PathBuf>, Failure> {
    let mut staged = Vec::with_capacity(folders.len());
    for (number, folder) in folders.iter().enumerate() {
        let place = Path::new(STAGE).join(number.to_string());
        mount(folder, identity, &place).map_err(|error| {
            let place = folder.root.join(&folder.folder);
            let message = format!("cannot use {} as a volume: {error}", place.display());
            Failure::new(FailureKind::Mount, message)
        })?;
        let own = std::env::current_dir().map_err(|error| {
            Failure::new(FailureKind::Mount, format!("cannot find own directory: {error}"))
        })?;
        staged.push(own.join(place));
    }
    Ok(staged)
}

fn mount(folder: &FolderMount, identity: &Identity, place: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(&folder.root)?;
    let found = open_folder(&folder.root, &folder.folder, identity).map_err(explained)?;
    DirBuilder::new().recursive(true).mode(0o700).create(place)?;
    mount_bind(format!("/proc/self/fd/{}", found.as_raw_fd()), place)?;
    Ok(())
}

fn explained(errno: Errno) -> io::Error {
    match errno {
        Errno::LOOP | Errno::XDEV | Errno::NOTDIR => io::Error::other(
            "something in its path is no directory; a symbolic link is not followed, wherever it leads",
        ),
        errno => errno.into(),
    }
}

/// Opens the folder; what is missing is made, the last one for the user of the container.
fn open_folder(root: &Path, folder: &Path, identity: &Identity) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut present = open(root, flags, Mode::empty())?;
    let mut parts = folder.components().peekable();
    while let Some(part) = parts.next() {
        let Component::Normal(name) = part else { return Err(Errno::INVAL) };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let made = match mkdirat(&present, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(errno),
        };
        let next = openat2(&present, name, flags, Mode::empty(), resolve)?;
        if made && parts.peek().is_none() {
            fchown(&next, Some(Uid::from_raw(identity.uid)), Some(Gid::from_raw(identity.gid)))?;
            fchmod(&next, Mode::from_raw_mode(FOLDER_MODE))?;
        }
        present = next;
    }
    Ok(present)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn own() -> Identity {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Identity { uid, gid, groups: vec![], home: "/".into() }
    }

    #[test]
    fn missing_folders_are_made_and_present_ones_left_alone() {
        let root = tempfile::tempdir().unwrap();
        open_folder(root.path(), Path::new("a/b"), &own()).unwrap();
        let facts = fs::metadata(root.path().join("a/b")).unwrap();
        assert_eq!(facts.mode() & 0o777, FOLDER_MODE);
        fs::set_permissions(root.path().join("a/b"), std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .unwrap();
        open_folder(root.path(), Path::new("a/b"), &own()).unwrap();
        assert_eq!(fs::metadata(root.path().join("a/b")).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn nothing_leads_out() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("inside")).unwrap();
        fs::create_dir(directory.path().join("secret")).unwrap();
        symlink("../secret", root.join("link")).unwrap();
        symlink(directory.path().join("secret"), root.join("absolute")).unwrap();
        symlink("inside", root.join("harmless")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        for bad in [
            "link",
            "absolute",
            "harmless",
            "link/x",
            "..",
            "../secret",
            "inside/../../secret",
            "/etc",
            "file",
        ] {
            assert!(open_folder(&root, Path::new(bad), &own()).is_err(), "{bad}");
        }
        assert_eq!(fs::read_dir(directory.path().join("secret")).unwrap().count(), 0);
    }
}

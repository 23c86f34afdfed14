//! Opens files of a container from outside. The image is hostile: no link in it may lead out, so every path is
//! resolved by the kernel as if the container's root were `/` (openat2(2), Linux 5.6).

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, fstat, mkdirat, openat, openat2,
};
use rustix::io::Errno;

/// Files such as `/etc/passwd` are read up to this size; more is cut off.
const FILE_BYTES: u64 = 1 << 20;

/// The root directory of a container.
#[derive(Debug)]
pub(super) struct Root(OwnedFd);

impl Root {
    pub(super) fn open(path: &str) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(openat(CWD, path, flags, Mode::empty())?))
    }

    fn open_inside(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    /// Reads a text file; empty if there is none or if it is not an ordinary file.
    pub(super) fn read(&self, path: &str) -> io::Result<String> {
        // non-blocking: a named pipe would wait for a writer
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let file = match self.open_inside(Path::new(path), flags) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => return Ok(String::new()),
            Err(errno) => return Err(errno.into()),
        };
        if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
            return Ok(String::new());
        }
        let mut bytes = Vec::new();
        File::from(file).take(FILE_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Makes sure that a directory exists; what is missing belongs to `owner`.
    pub(super) fn ensure_directory(&self, path: &Path, owner: (u32, u32)) -> Result<(), Errno> {
        let mut done = PathBuf::from("/");
        for part in path.components() {
            match part {
                Component::Normal(name) => {
                    let parent = self.open_inside(&done, OFlags::PATH | OFlags::DIRECTORY)?;
                    done.push(name);
                    match self.open_inside(&done, OFlags::PATH | OFlags::DIRECTORY) {
                        Err(Errno::NOENT) => make_directory(parent.as_fd(), name, owner)?,
                        Err(errno) => return Err(errno),
                        Ok(_) => {}
                    }
                }
                Component::ParentDir => {
                    done.pop();
                }
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        Ok(())
    }
}

fn make_directory(
    parent: std::os::fd::BorrowedFd<'_>,
    name: &std::ffi::OsStr,
    (uid, gid): (u32, u32),
) -> Result<(), Errno> {
    mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    chownat(parent, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_in_an_image_do_not_lead_out() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        fs::create_dir_all(image.join("etc")).unwrap();
        fs::write(directory.path().join("secret"), "secret").unwrap();
        symlink("../../secret", image.join("etc/passwd")).unwrap();
        symlink("/inside", image.join("etc/group")).unwrap();
        fs::write(image.join("inside"), "text").unwrap();
        let root = Root::open(image.to_str().unwrap()).unwrap();
        assert_eq!(root.read("etc/passwd").unwrap(), "");
        assert_eq!(root.read("etc/group").unwrap(), "text");
    }

    #[test]
    fn a_missing_working_directory_is_made_inside() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        fs::create_dir_all(image.join("real")).unwrap();
        symlink("/real", image.join("link")).unwrap();
        let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let root = Root::open(image.to_str().unwrap()).unwrap();
        root.ensure_directory(Path::new("/link/a/../b"), owner).unwrap();
        assert!(image.join("real/b").is_dir());
        root.ensure_directory(Path::new("/../x"), owner).unwrap();
        assert!(image.join("x").is_dir());
    }
}

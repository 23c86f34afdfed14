//! Room kept back for bad times: a file that holds space while there is plenty and is removed when the disk is full,
//! so that what has to be written then, small rows and the records of restarted containers, finds room.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;
use tracing::debug;

/// With less than this left the ballast is given up before a write fails: containers that restart need room, too.
pub(crate) const LOW: u64 = 256 << 10;

/// More than this has to be free besides the ballast before it is taken back, so that it does not come and go.
const MARGIN: u64 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Held,
    Released,
    /// The file system cannot reserve room.
    Unsupported,
}

/// The ballast of one store.
#[derive(Debug)]
pub(crate) struct Ballast {
    directory: PathBuf,
    bytes: u64,
    state: State,
}

/// What became of an attempt to have the ballast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tended {
    /// There is room: the ballast is held, or this file system has none.
    Enough,
    /// There is not.
    Short,
}

impl Ballast {
    /// The ballast in `directory`. Nothing is written before [`Ballast::tend`].
    pub(crate) fn new(directory: &Path, bytes: u64) -> Self {
        let mut ballast = Self { directory: directory.to_owned(), bytes, state: State::Released };
        if fs::metadata(ballast.path()).is_ok_and(|facts| facts.len() == bytes) {
            ballast.state = State::Held;
        }
        ballast
    }

    fn path(&self) -> PathBuf {
        self.directory.join("ballast")
    }

    /// Gives the room free. False if there was nothing to give.
    pub(crate) fn release(&mut self) -> bool {
        if self.state != State::Held {
            return false;
        }
        self.state = State::Released;
        fs::remove_file(self.path()).is_ok()
    }

    /// Takes the room back if there is enough, gives it up if there is hardly any left.
    pub(crate) fn tend(&mut self) -> Tended {
        let Some(free) = free_bytes(&self.directory) else { return Tended::Enough };
        match self.state {
            State::Unsupported => Tended::Enough,
            State::Held if free < LOW => {
                self.release();
                Tended::Short
            }
            State::Held => Tended::Enough,
            State::Released if free < self.bytes + MARGIN => Tended::Short,
            State::Released => self.take(),
        }
    }

    /// One line for people about why the ballast cannot be held.
    pub(crate) fn describe_shortage(&self) -> String {
        let place = self.directory.display();
        let needed = (self.bytes + MARGIN) >> 10;
        format!(
            "the disk of {place} is nearly full, less than {needed} KiB are free: make room there \
             (`df -h {place}` shows it); it goes on by itself"
        )
    }

    fn take(&mut self) -> Tended {
        match self.allocate() {
            Ok(()) => {
                self.state = State::Held;
                Tended::Enough
            }
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                debug!(directory = %self.directory.display(), "this file system cannot reserve room");
                // Of no use without the room.
                let _ = fs::remove_file(self.path());
                self.state = State::Unsupported;
                Tended::Enough
            }
            Err(error) => {
                debug!(directory = %self.directory.display(), %error, "cannot reserve room yet");
                let _ = fs::remove_file(self.path());
                Tended::Short
            }
        }
    }

    fn allocate(&self) -> Result<(), Errno> {
        let open = || -> io::Result<File> {
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(self.path())
        };
        let file = open().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        fallocate(&file, FallocateFlags::empty(), 0, self.bytes)
    }
}

/// Room that this process may still use, bytes.
fn free_bytes(directory: &Path) -> Option<u64> {
    let facts = statvfs(directory).ok()?;
    // The part that file systems keep back for root counts for root.
    let blocks = if rustix::process::geteuid().is_root() { facts.f_bfree } else { facts.f_bavail };
    Some(blocks.saturating_mul(facts.f_frsize))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_room_is_real_and_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let mut ballast = Ballast::new(directory.path(), 1 << 20);
        if ballast.tend() == Tended::Short || ballast.state == State::Unsupported {
            eprintln!("skipped: this file system is nearly full or cannot reserve room");
            return;
        }
        let facts = fs::metadata(directory.path().join("ballast")).unwrap();
        assert!(facts.blocks() * 512 >= 1 << 20, "only {} blocks are allocated", facts.blocks());
        assert!(ballast.release());
        assert!(!directory.path().join("ballast").exists());
        assert!(!ballast.release(), "there was nothing left to give");
        assert_eq!(ballast.tend(), Tended::Enough);
        assert!(Ballast::new(directory.path(), 1 << 20).release(), "a later start knows what it holds");
    }
}

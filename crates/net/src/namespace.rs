//! Persistent network namespaces: a file that keeps one alive while no process is in it.
//!
//! The file is a bind mount in the mount namespace of the worker. With shared propagation (the normal
//! case under systemd) every other mount namespace sees it come and go; without, a mount namespace
//! that was cloned meanwhile may keep an empty network namespace until it ends, which is harmless
//! because `detach` removes the devices first. A worker must not run with a private mount
//! namespace of its own (systemd `PrivateMounts=`, `PrivateTmp=`): a restart would lose the files.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;

use rustix::fs::statfs;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::{NetworkError, Tried};
use crate::netlink::Socket;
use crate::sys;

/// `NSFS_MAGIC` of `linux/magic.h`.
const NSFS_MAGIC: u64 = 0x6e73_6673;
/// The calling thread's network namespace.
const CURRENT: &str = "/proc/thread-self/ns/net";

/// Runs `work` inside the network namespace kept by the file `namespace`, on a thread of its own.
///
/// Sockets that `work` opens stay in that namespace wherever they are used later. Blocks until `work`
/// is done; a panic in it is passed on as an error.
pub fn run_in<T: Send>(namespace: &Path, work: impl FnOnce() -> T + Send) -> Result<T, NetworkError> {
    let what = || format!("enter network namespace {}", namespace.display());
    let file = File::open(namespace).tried(what)?;
    let enter = || -> io::Result<T> {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(work())
    };
    on_own_thread(enter).tried(what)
}

/// Whether the file is a namespace (and not just the empty file it is mounted on).
pub(crate) fn is_alive(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| u64::try_from(stat.f_type) == Ok(NSFS_MAGIC))
}

/// Makes a fresh namespace, keeps it alive with the file `path`, and opens a routing socket in it.
pub(crate) fn create(path: &Path) -> Result<Socket, NetworkError> {
    let what = || format!("make network namespace {}", path.display());
    File::create(path).tried(what)?;
    let make = || -> io::Result<Socket> {
        sys::unshare_network()?;
        mount_bind(CURRENT, path)?;
        Socket::route()
    };
    on_own_thread(make).tried(what)
}

/// Lets go of a namespace and removes its file; succeeds if there is none.
pub(crate) fn remove(path: &Path) -> Result<(), NetworkError> {
    let what = || format!("remove network namespace {}", path.display());
    // A crash between two attempts may have stacked mounts; EINVAL says that none is left.
    while is_alive(path) {
        match unmount(path, UnmountFlags::DETACH) {
            Err(Errno::INVAL | Errno::NOENT) => break,
            outcome => outcome.tried(what)?,
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome.tried(what),
    }
}

/// Namespaces belong to threads: a thread that entered one is used for nothing else afterwards.
fn on_own_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("oak-net-enter".to_owned()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the work panicked")))
    })
}

//! Mounts the layers of an image and a writable layer as one file system.
//! Kernel document: `Documentation/filesystems/overlayfs.rst`.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use crate::error::FailureKind;
use crate::record::Failure;

/// Mount point, relative to the container directory.
pub(super) const ROOT: &str = "rootfs";

/// What opening a device node outside `/dev` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Devices {
    /// It opens the device.
    Usable,
    /// It fails.
    Dead,
}

/// Mounts `layers`, lowest first, at `rootfs` in the current directory, which is the container directory.
///
/// Options of a mount must fit into one page, and `:` and `,` in paths are special. So the layers are named by
/// short symbolic links: 500 layers, the most that the kernel takes, need 2.9 kB.
///
/// Device nodes in an image or made by a container mean nothing unless `devices` says so: those in `/dev` are on
/// a file system of their own.
pub(super) fn mount_root(layers: &[PathBuf], devices: Devices) -> Result<(), Failure> {
    prepare(layers).map_err(|(what, error)| failure(format!("cannot {what}: {error}")))?;
    let names: Vec<String> = (0..layers.len()).rev().map(|index| format!("l/{index}")).collect();
    let options = format!("lowerdir={},upperdir=upper,workdir=work", names.join(":"));
    // `volatile`: what the container writes lives exactly as long as the container, so a crash of the machine
    // need not find it on disk; without it unmounting waits for the disk. Linux 5.10.
    match overlay(&format!("{options},volatile"), devices) {
        Err(Errno::INVAL) => overlay(&options, devices),
        outcome => outcome,
    }
    .map_err(|errno| {
        let hint = match errno {
            Errno::NODEV => " (this kernel has no overlayfs)",
            Errno::INVAL => " (is the state directory on a file system that overlayfs can write to?)",
            _ => "",
        };
        failure(format!("cannot mount overlay of {} layers: {errno}{hint}", layers.len()))
    })
}

fn overlay(options: &str, devices: Devices) -> Result<(), Errno> {
    let options = CString::new(options).map_err(|_| Errno::INVAL)?;
    let flags = match devices {
        Devices::Usable => MountFlags::empty(),
        Devices::Dead => MountFlags::NODEV,
    };
    mount("overlay", ROOT, "overlay", flags, options.as_c_str())
}

fn prepare(layers: &[PathBuf]) -> Result<(), (String, std::io::Error)> {
    for name in ["upper", "work", ROOT, "l"] {
        fs::create_dir(name).map_err(|error| (format!("create {name}"), error))?;
    }
    for (index, layer) in layers.iter().enumerate() {
        symlink(layer, format!("l/{index}")).map_err(|error| (format!("link layer {index}"), error))?;
    }
    // the root directory of the container is that of the writable layer: it must look like the image's
    let top = layers.last().map_or(Path::new("/"), PathBuf::as_path);
    let wanted = fs::metadata(top).map_err(|error| (format!("find layer {}", top.display()), error))?;
    fs::set_permissions("upper", fs::Permissions::from_mode(wanted.mode() & 0o7777))
        .map_err(|error| ("set mode of upper".to_owned(), error))?;
    std::os::unix::fs::chown("upper", Some(wanted.uid()), Some(wanted.gid()))
        .map_err(|error| ("set owner of upper".to_owned(), error))
}

fn failure(message: String) -> Failure {
    Failure::new(FailureKind::RootFilesystem, message)
}

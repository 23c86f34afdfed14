//! A small disk: a memory file system at the data directory of a machine.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

/// The disk; it is gone with the value.
#[derive(Debug)]
pub(crate) struct Disk {
    path: PathBuf,
    filler: PathBuf,
}

impl Disk {
    /// Mounts it; has to be done before the machine is made, which gets a copy of the mounts.
    pub(crate) fn mount(path: &Path, mebibytes: u32) -> anyhow::Result<Self> {
        fs::create_dir_all(path)?;
        let options = format!("size={mebibytes}m,mode=0700");
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &options, "oak-soak"]).arg(path);
        ensure!(command.status()?.success(), "cannot mount a small disk at {}", path.display());
        Ok(Self { path: path.to_owned(), filler: path.join("filler") })
    }

    /// Writes until not one byte more fits.
    pub(crate) fn fill(&self) -> anyhow::Result<()> {
        let mut file = File::create(&self.filler).context("cannot fill the disk")?;
        for block in [1 << 20, 1 << 12, 1] {
            let zeros = vec![0; block];
            loop {
                match file.write_all(&zeros) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                    Err(error) => return Err(error).context("cannot fill the disk"),
                }
            }
        }
        Ok(())
    }

    /// Frees the space again.
    pub(crate) fn free(&self) -> anyhow::Result<()> {
        match fs::remove_file(&self.filler) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).context("cannot free the disk")
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: what has it open on a machine is about to end.
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}

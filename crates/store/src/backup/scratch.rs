//! A directory for the time of one operation, closed to others and removed whatever happens.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::BackupError;

/// Exists while the value lives. One left behind by a killed process has a telling name and is replaced next time.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Makes `<parent>/<name>` anew.
    pub(super) fn create(parent: &Path, name: &str) -> Result<Self, BackupError> {
        let path = parent.join(name);
        if path.exists() {
            fs::remove_dir_all(&path).map_err(BackupError::file("remove", &path))?;
        }
        DirBuilder::new().mode(0o700).create(&path).map_err(BackupError::file("create", &path))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "cannot remove a temporary directory");
        }
    }
}

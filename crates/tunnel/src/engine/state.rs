//! What an engine finds again after a restart: its key, peers and relays, and where peers were.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{Peer, Relay};
use crate::key::PrivateKey;

/// The state file.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) private_key: PrivateKey,
    /// The one before, for peers that know no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) former_key: Option<PrivateKey>,
    /// See `noise::timestamp`.
    #[serde(default)]
    pub(crate) newest_timestamp: Duration,
    #[serde(default)]
    pub(crate) peers: Vec<Peer>,
    #[serde(default)]
    pub(crate) relays: Vec<Relay>,
    /// Where peers were found, by name: a peer that came to us has to be reached after a restart, too.
    #[serde(default)]
    pub(crate) found: BTreeMap<String, crate::path::Path>,
}

impl State {
    /// Of a node that knows nobody.
    pub(crate) fn new(private_key: PrivateKey) -> Self {
        Self {
            private_key,
            former_key: None,
            newest_timestamp: Duration::ZERO,
            peers: Vec::new(),
            relays: Vec::new(),
            found: BTreeMap::new(),
        }
    }

    /// Reads the file. A damaged one is put aside: the agent sets key and peers anew.
    pub(crate) fn read(path: &Path) -> io::Result<Option<Self>> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match serde_json::from_slice(&text) {
            Ok(state) => Ok(Some(state)),
            Err(error) => {
                tracing::warn!(%error, file = %path.display(), "state is damaged and put aside");
                fs::rename(path, path.with_extension("damaged"))?;
                Ok(None)
            }
        }
    }

    /// Replaces the file as a whole.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let fresh = path.with_extension("new");
        let _ = fs::remove_file(&fresh);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        if let Some(directory) = path.parent() {
            File::open(directory)?.sync_all()?;
        }
        Ok(())
    }
}

/// Makes the directory, for this user only.
pub(crate) fn prepare(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_is_found_again_and_only_its_owner_may_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        assert!(State::read(&path).unwrap().is_none());
        let key = PrivateKey::from_bytes([7; 32]);
        let mut state = State::new(key.clone());
        state.newest_timestamp = Duration::from_secs(5);
        state.write(&path).unwrap();
        state.write(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(State::read(&path).unwrap().unwrap().private_key == key);
        fs::write(&path, "{").unwrap();
        assert!(State::read(&path).unwrap().is_none());
        assert!(path.with_extension("damaged").exists());
    }
}

//! The process that encrypts packets between workers: started when the first worker is reached that way, found again
//! by the next agent, stopped some time after the last one.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use oak_model::chain;
use oak_model::overlay::{TUNNEL_PORT, TunnelEnd};
use oak_tunnel::{Client, ClientError, Peer, PrivateKey, StartError, TunnelConfig};
use rustix::process::{Pid, Signal, kill_process};
use tracing::{info, warn};

/// First argument of this program that makes it the tunnel engine; the second one is the file of its settings.
pub const TUNNEL_COMMAND: &str = "__tunnel";

/// Below the worker's directory.
const DIRECTORY: &str = "network-tunnel";
/// Below the worker's directory: what others know this worker by, whether the engine runs or not.
const KEY: &str = "network-key";
/// What the engine says; begun anew with each of them.
const LOG: &str = "engine.log";

/// So often it is looked whether the engine still runs.
pub(crate) const LOOK: Duration = Duration::from_secs(5);
/// How long the engine stays without anybody to send to.
const IDLE: Duration = Duration::from_secs(60);

/// What the tunnel adds in front of a packet beyond what VXLAN adds, so that the outer packets are equally long.
const LONGER_BY: u32 = 30;
/// The largest packet the engine can carry, bytes.
const LARGEST_MTU: u32 = 9000;

/// The secret key of this worker; made by the first call.
pub(crate) fn open_key(directory: &Path) -> io::Result<PrivateKey> {
    let path = directory.join(KEY);
    match fs::read_to_string(&path).map(|text| text.trim().parse()) {
        Ok(Ok(key)) => return Ok(key),
        // Others learn the new one with the next hello.
        Ok(Err(_)) => warn!(file = %path.display(), "the key for encryption is damaged; a new one is made"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let key = PrivateKey::generate();
    let fresh = path.with_extension("new");
    let _ = fs::remove_file(&fresh);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(String::from(key.clone()).as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, &path)?;
    File::open(directory)?.sync_all()?;
    Ok(key)
}

/// Removes the key: the worker is another one from now on.
pub(crate) fn forget_key(directory: &Path) -> io::Result<()> {
    match fs::remove_file(directory.join(KEY)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Where this worker takes encrypted packets; none if it has no TUN devices.
pub(crate) fn own_end(key: &PrivateKey) -> Option<TunnelEnd> {
    match OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Some(TunnelEnd { public_key: key.public().to_string(), port: TUNNEL_PORT }),
        Err(error) => {
            warn!(%error, "packets to other workers cannot be encrypted: /dev/net/tun is needed (modprobe tun)");
            None
        }
    }
}

/// What an engine needs to start.
#[derive(Clone, Debug)]
pub(crate) struct TunnelSettings {
    config: TunnelConfig,
    key: PrivateKey,
}

impl TunnelSettings {
    pub(crate) fn new(directory: &Path, bridge: &str, mtu: u32, key: PrivateKey) -> Self {
        let mtu = mtu.saturating_sub(LONGER_BY).min(LARGEST_MTU);
        Self { config: TunnelConfig { mtu, ..config(directory, bridge) }, key }
    }
}

fn config(directory: &Path, bridge: &str) -> TunnelConfig {
    TunnelConfig::new(&oak_net::encrypted_name(bridge), TUNNEL_PORT, directory.join(DIRECTORY))
}

/// The engine as this agent knows it.
#[derive(Debug)]
pub(crate) struct Tunnel {
    settings: TunnelSettings,
    /// What it was told last by this agent.
    told: Option<Vec<Peer>>,
    /// Since when there has been nobody to send to; none if there is somebody, or if it was stopped.
    idle_since: Option<Instant>,
    /// Whether the engine could not be brought to what was wanted.
    has_failed: bool,
}

impl Tunnel {
    pub(crate) const fn new(settings: TunnelSettings) -> Self {
        Self { settings, told: None, idle_since: None, has_failed: false }
    }

    /// Makes `peers` the whole truth. Those who are not among them stay until [`Self::set`] is called without them, if
    /// they can: packets to them may still be on their way.
    pub(crate) async fn add(&mut self, peers: &[Peer]) -> Result<(), String> {
        let mut all = peers.to_vec();
        let collides = |former: &Peer| {
            peers.iter().any(|peer| {
                peer.name == former.name
                    || peer.public_key == former.public_key
                    || peer.networks == former.networks
            })
        };
        all.extend(self.told.iter().flatten().filter(|former| !collides(former)).cloned());
        self.set(all).await
    }

    /// Makes `peers` the whole truth.
    pub(crate) async fn set(&mut self, peers: Vec<Peer>) -> Result<(), String> {
        if self.told.as_ref() == Some(&peers) {
            return Ok(());
        }
        self.idle_since = peers.is_empty().then(|| self.idle_since.unwrap_or_else(Instant::now));
        self.told = None;
        let (settings, wanted) = (self.settings.clone(), peers.clone());
        let outcome = blocking(move || settings.bring(wanted)).await;
        self.has_failed = outcome.is_err();
        if outcome.is_ok() {
            self.told = Some(peers);
        }
        outcome
    }

    /// Whether the last call failed.
    pub(crate) const fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Whether [`Self::look`] has something to look at.
    pub(crate) fn is_watched(&self) -> bool {
        self.has_failed
            || self.idle_since.is_some()
            || self.told.as_ref().is_some_and(|told| !told.is_empty())
    }

    /// Looks after the engine; false if it has to be told everything again.
    pub(crate) async fn look(&mut self) -> bool {
        if let Some(since) = self.idle_since {
            if since.elapsed() >= IDLE {
                self.idle_since = None;
                let config = self.settings.config.clone();
                if let Err(problem) = blocking(move || stop(&config)).await {
                    warn!(problem, "cannot stop the tunnel engine");
                }
            }
            return true;
        }
        let settings = self.settings.clone();
        let is_well = !self.has_failed && blocking(move || Ok(settings.is_well())).await.unwrap_or(false);
        if !is_well {
            self.told = None;
        }
        is_well
    }
}

/// Carries out what blocks for a moment.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err("the call of the tunnel engine was cut off".to_owned()))
}

impl TunnelSettings {
    fn is_well(&self) -> bool {
        let status = Client::new(&self.config).status();
        status.is_ok_and(|status| status.public_key == self.key.public())
    }

    fn bring(&self, peers: Vec<Peer>) -> Result<(), String> {
        if peers.is_empty() {
            // None is started for nobody; one of an earlier agent may run.
            return match Client::new(&self.config).set_peers(peers) {
                Ok(()) | Err(ClientError::Unreachable { .. }) => Ok(()),
                Err(error) => Err(chain(&error)),
            };
        }
        let client = self.engine()?;
        let told = || -> Result<(), ClientError> {
            let status = client.status()?;
            if status.public_key != self.key.public() {
                client.set_key(self.key.clone())?;
            }
            let names: Vec<String> = peers.iter().map(|peer| peer.name.clone()).collect();
            client.set_peers(peers)?;
            // The other side may have tried before this one could answer, and would try again only after a second.
            for name in names.iter().filter(|name| status.peers.iter().all(|peer| peer.name != **name)) {
                client.handshake(name)?;
            }
            Ok(())
        };
        told().map_err(|error| chain(&error))
    }

    /// The engine with the present settings and of this release. Another one is ended by force: then its device stays,
    /// and with it every connection.
    fn engine(&self) -> Result<Client, String> {
        let found = Client::new(&self.config).status();
        if let Ok(status) = found
            && (status.config != self.config || status.version != env!("CARGO_PKG_VERSION"))
        {
            info!(pid = status.pid, version = status.version, "replacing the tunnel engine");
            if let Some(pid) = i32::try_from(status.pid).ok().and_then(Pid::from_raw) {
                kill_process(pid, Signal::KILL)
                    .map_err(|error| format!("cannot end the former tunnel engine: {error}"))?;
            }
        }
        let log = self.config.directory.join(LOG);
        let program =
            self.program(&log).map_err(|error| format!("cannot write {}: {error}", log.display()))?;
        oak_tunnel::start(&self.config, program).map_err(|error| match error {
            StartError::Ended(_) => format!("{error} ({})", last_line(&log)),
            other => chain(&other),
        })
    }

    fn program(&self, log: &Path) -> io::Result<Command> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.config.directory)?;
        // An engine that runs keeps writing into its own file.
        let log = match Client::new(&self.config).status() {
            Ok(_) => Stdio::null(),
            Err(_) => {
                let _ = fs::remove_file(log);
                OpenOptions::new().append(true).create(true).mode(0o600).open(log)?.into()
            }
        };
        let mut command = Command::new("/proc/self/exe");
        command.arg0(OsStr::new("oak")).arg(TUNNEL_COMMAND);
        command.current_dir("/").stdout(Stdio::null()).stderr(log);
        Ok(command)
    }
}

fn last_line(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().last().unwrap_or("it said nothing").to_owned()
}

/// Ends the engine and removes its device.
fn stop(config: &TunnelConfig) -> Result<(), String> {
    match Client::new(config).stop() {
        Ok(()) => {
            info!("the tunnel engine was stopped");
            Ok(())
        }
        Err(ClientError::Unreachable { .. }) => {
            let device = PathBuf::from("/sys/class/net").join(&config.device);
            // One that was killed leaves its device.
            if device.join("tun_flags").exists() {
                return oak_tunnel::remove(config).map_err(|error| chain(&error));
            }
            Ok(())
        }
        Err(error) => Err(chain(&error)),
    }
}

/// Ends the engine of a worker whose agent does not run.
pub(crate) async fn take_down(directory: &Path, bridge: &str) -> Result<(), String> {
    let config = config(directory, bridge);
    if !config.directory.exists() {
        return Ok(());
    }
    blocking(move || stop(&config)).await
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_key_is_made_once_and_only_its_owner_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let key = open_key(directory.path()).unwrap();
        assert_eq!(open_key(directory.path()).unwrap().public(), key.public());
        let file = directory.path().join(KEY);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&file, "?").unwrap();
        let other = open_key(directory.path()).unwrap();
        assert!(other != key && open_key(directory.path()).unwrap() == other);
    }

    #[tokio::test]
    async fn nothing_is_started_for_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let key = open_key(directory.path()).unwrap();
        let mut tunnel = Tunnel::new(TunnelSettings::new(directory.path(), "oak0", 1450, key));
        assert!(!tunnel.is_watched());
        tunnel.set(Vec::new()).await.unwrap();
        assert!(!directory.path().join(DIRECTORY).exists());
        // One of an earlier agent is stopped after a while.
        assert!(tunnel.is_watched() && tunnel.look().await);
        take_down(directory.path(), "oak0").await.unwrap();
    }

    #[test]
    fn outer_packets_are_as_long_as_those_of_vxlan() {
        let key = PrivateKey::from_bytes([1; 32]);
        let settings = |mtu| TunnelSettings::new(Path::new("/nowhere"), "oak0", mtu, key.clone()).config;
        assert_eq!((settings(1450).mtu, settings(9216).mtu), (1420, 9000));
        assert_eq!(settings(1450).device, "oak0e");
        settings(1280).check().unwrap();
    }
}

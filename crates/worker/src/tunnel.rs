//! The process that encrypts packets between workers: started when the first worker is reached that way, found again
//! by the next agent, stopped some time after the last one.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use oak_model::overlay::{KERNEL_PORT, NodeKeys, TUNNEL_PORT, TunnelEnd};
use oak_model::{chain, ipv6};
use oak_tunnel::{
    Client, ClientError, KernelConfig, Path, Peer, PrivateKey, Relay, StartError, Status, TunnelConfig,
};
use rustix::process::{Pid, Signal, kill_process};
use tracing::{info, warn};

use crate::keys::Keys;

/// First argument of this program that makes it the tunnel engine; the second one is the file of its settings.
pub const TUNNEL_COMMAND: &str = "__tunnel";

/// Below the worker's directory.
const DIRECTORY: &str = "network-tunnel";
/// What the engine says; begun anew with each of them.
const LOG: &str = "engine.log";

/// So often it is looked whether the engine still runs, and what it has found out …
const LOOK: Duration = Duration::from_secs(5);
/// … and so often for a while when it was told of others: they wait to hear as what this node is seen.
const SOON: Duration = Duration::from_millis(100);
const HURRY: Duration = Duration::from_secs(5);
/// How long the engine stays without anybody to send to.
const IDLE: Duration = Duration::from_secs(60);

/// What the tunnel adds in front of a packet beyond what VXLAN adds, so that the outer packets are equally long.
const LONGER_BY: u32 = 30;
/// The largest packet the engine can carry, bytes.
const LARGEST_MTU: u32 = 9000;

/// Where this worker takes encrypted packets; none if it has no TUN devices.
pub(crate) fn own_end(keys: &Keys, port: u16) -> Option<TunnelEnd> {
    match OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => {
            let NodeKeys { public_key, former_key } = keys.public();
            Some(TunnelEnd { public_key, former_key, port, seen_as: Vec::new() })
        }
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
    keys: Keys,
}

impl TunnelSettings {
    pub(crate) fn new(directory: &std::path::Path, bridge: &str, mtu: u32, keys: Keys) -> Self {
        let mtu = mtu.saturating_sub(LONGER_BY).min(LARGEST_MTU);
        Self { config: TunnelConfig { mtu, ..config(directory, bridge) }, keys }
    }

    /// The same, and whether the kernel may encrypt.
    pub(crate) fn with_kernel(mut self, is_used: bool) -> Self {
        if let Some(kernel) = &mut self.config.kernel {
            kernel.is_used = is_used;
        }
        self
    }
}

/// State of the engine of the worker with this directory; none if none runs.
pub(crate) fn status(directory: &std::path::Path) -> Option<Status> {
    Client::at(&directory.join(DIRECTORY)).status().ok()
}

fn config(directory: &std::path::Path, bridge: &str) -> TunnelConfig {
    let kernel = KernelConfig { device: oak_net::kernel_name(bridge), port: KERNEL_PORT, is_used: true };
    let config = TunnelConfig::new(&oak_net::encrypted_name(bridge), TUNNEL_PORT, directory.join(DIRECTORY));
    TunnelConfig { kernel: Some(kernel), ..config }
}

/// What the engine shall know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) peers: Vec<Peer>,
    pub(crate) relays: Vec<Relay>,
}

/// What a look at the engine has shown.
#[derive(Debug)]
pub(crate) enum Look {
    /// It is as it should be. As which relays see this node, best first.
    Well(Vec<SocketAddr>),
    /// It has to be told everything again.
    Lost,
    /// There is none.
    Idle,
}

/// The engine as this agent knows it.
#[derive(Debug)]
pub(crate) struct Tunnel {
    settings: TunnelSettings,
    /// What it was told last by this agent.
    told: Option<Wanted>,
    /// Whether it is told that once more.
    tells_again: bool,
    /// When it is looked at again, and until when it is looked at often.
    look_at: Instant,
    hurries_until: Instant,
    /// The path to each peer, by its name, as it was last said, and whether the kernel uses it.
    paths: BTreeMap<String, (Path, bool)>,
    /// Since when there has been nobody to send to; none if there is somebody, or if it was stopped.
    idle_since: Option<Instant>,
    /// Whether the engine could not be brought to what was wanted.
    has_failed: bool,
}

impl Tunnel {
    pub(crate) fn new(settings: TunnelSettings) -> Self {
        let now = Instant::now();
        Self {
            settings,
            told: None,
            tells_again: false,
            look_at: now,
            hurries_until: now,
            paths: BTreeMap::new(),
            idle_since: None,
            has_failed: false,
        }
    }

    /// Uses these keys from the next call of [`Self::add`] or [`Self::set`] on.
    pub(crate) fn use_keys(&mut self, keys: &Keys) {
        if self.settings.keys != *keys {
            self.settings.keys = keys.clone();
            self.told = None;
        }
    }

    /// Makes this the whole truth. Peers who are not among them stay until [`Self::set`] is called without them, if
    /// they can: packets to them may still be on their way.
    pub(crate) async fn add(&mut self, wanted: &Wanted) -> Result<(), String> {
        let mut all = wanted.clone();
        let collides = |former: &&Peer| {
            wanted.peers.iter().any(|peer| {
                peer.name == former.name
                    || peer.public_key == former.public_key
                    || peer.networks == former.networks
            })
        };
        let former = self.told.iter().flat_map(|told| &told.peers);
        all.peers.extend(former.filter(|former| !collides(former)).cloned());
        self.set(all).await
    }

    /// Makes this the whole truth.
    pub(crate) async fn set(&mut self, wanted: Wanted) -> Result<(), String> {
        if !std::mem::take(&mut self.tells_again) && self.told.as_ref() == Some(&wanted) {
            return Ok(());
        }
        self.idle_since = wanted.peers.is_empty().then(|| self.idle_since.unwrap_or_else(Instant::now));
        self.told = None;
        let (settings, bring) = (self.settings.clone(), wanted.clone());
        let outcome = blocking(move || settings.bring(bring)).await;
        self.has_failed = outcome.is_err();
        let now = Instant::now();
        self.look_at = now + LOOK;
        if outcome.is_ok() {
            (self.look_at, self.hurries_until) = (now + SOON, now + HURRY);
            self.told = Some(wanted);
        }
        outcome
    }

    /// This node may be somewhere else than before: the engine is told everything again, and tells the relays.
    pub(crate) const fn tell_again(&mut self) {
        self.tells_again = true;
    }

    /// When [`Self::look`] is due; none if there is nothing to look at.
    pub(crate) fn look_at(&self) -> Option<Instant> {
        self.is_watched().then_some(self.look_at)
    }

    /// Whether the last call failed.
    pub(crate) const fn has_failed(&self) -> bool {
        self.has_failed
    }

    fn is_watched(&self) -> bool {
        self.has_failed
            || self.idle_since.is_some()
            || self.told.as_ref().is_some_and(|told| !told.peers.is_empty())
    }

    /// Looks after the engine.
    pub(crate) async fn look(&mut self) -> Look {
        self.look_at = Instant::now() + LOOK;
        if let Some(since) = self.idle_since {
            if since.elapsed() >= IDLE {
                self.idle_since = None;
                let config = self.settings.config.clone();
                if let Err(problem) = blocking(move || stop(&config)).await {
                    warn!(problem, "cannot stop the tunnel engine");
                }
            }
            return Look::Idle;
        }
        let settings = self.settings.clone();
        let status =
            if self.has_failed { None } else { blocking(move || Ok(settings.status())).await.ok().flatten() };
        let Some(status) = status else {
            self.told = None;
            return Look::Lost;
        };
        self.say_paths(&status);
        if Instant::now() < self.hurries_until && status.relays.iter().any(|relay| relay.seen_as.is_none()) {
            self.look_at = Instant::now() + SOON;
        }
        Look::Well(seen_as(&status))
    }

    /// Says which way packets go, for people.
    fn say_paths(&mut self, status: &Status) {
        let paths = status.peers.iter().filter(|peer| peer.last_handshake_ms.is_some());
        let paths: BTreeMap<_, _> =
            paths.filter_map(|peer| Some((peer.name.clone(), (peer.path?, peer.in_kernel)))).collect();
        for (worker, said) in &paths {
            if self.paths.get(worker) != Some(said) {
                let (path, kernel) = said;
                info!(worker, kernel, %path, "path to another worker");
            }
        }
        self.paths = paths;
    }
}

/// As which relays see this node.
fn seen_as(status: &Status) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    let seen = status.relays.iter().filter_map(|relay| relay.seen_as);
    for address in seen.filter(|address| means_something(address.ip())) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// Whether others can do something with an address: not on this machine only, and not on one link only.
fn means_something(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_loopback(),
        IpAddr::V6(address) => ipv6::is_underlay(address),
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
    /// The state of the engine, if it has the right keys.
    fn status(&self) -> Option<Status> {
        let status = Client::new(&self.config).status().ok()?;
        self.has_keys(&status).then_some(status)
    }

    fn has_keys(&self, status: &Status) -> bool {
        let former = self.keys.former.as_ref().map(PrivateKey::public);
        (status.public_key, status.former_key) == (self.keys.present.public(), former)
    }

    fn bring(&self, Wanted { peers, relays }: Wanted) -> Result<(), String> {
        if peers.is_empty() {
            // None is started for nobody; one of an earlier agent may run.
            let client = Client::new(&self.config);
            return match client.set_peers(peers).and_then(|()| client.set_relays(relays)) {
                Ok(()) | Err(ClientError::Unreachable { .. }) => Ok(()),
                Err(error) => Err(chain(&error)),
            };
        }
        let client = self.engine()?;
        let told = || -> Result<(), ClientError> {
            let status = client.status()?;
            if !self.has_keys(&status) {
                client.set_key(self.keys.present.clone(), self.keys.former.clone())?;
            }
            client.set_relays(relays)?;
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

    fn program(&self, log: &std::path::Path) -> io::Result<Command> {
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

fn last_line(log: &std::path::Path) -> String {
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
            let kernel = config.kernel.iter().map(|kernel| &kernel.device);
            let devices = PathBuf::from("/sys/class/net");
            // One that was killed leaves its devices.
            if std::iter::once(&config.device).chain(kernel).any(|device| devices.join(device).exists()) {
                return oak_tunnel::remove(config).map_err(|error| chain(&error));
            }
            Ok(())
        }
        Err(error) => Err(chain(&error)),
    }
}

/// Ends the engine of a worker whose agent does not run.
pub(crate) async fn take_down(directory: &std::path::Path, bridge: &str) -> Result<(), String> {
    let config = config(directory, bridge);
    if !config.directory.exists() {
        return Ok(());
    }
    blocking(move || stop(&config)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_started_for_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let keys = Keys::open(directory.path()).unwrap();
        let mut tunnel = Tunnel::new(TunnelSettings::new(directory.path(), "oak0", 1450, keys));
        assert!(tunnel.look_at().is_none());
        tunnel.set(Wanted::default()).await.unwrap();
        assert!(!directory.path().join(DIRECTORY).exists());
        // One of an earlier agent is stopped after a while.
        assert!(tunnel.look_at().is_some() && matches!(tunnel.look().await, Look::Idle));
        take_down(directory.path(), "oak0").await.unwrap();
    }

    #[test]
    fn outer_packets_are_as_long_as_those_of_vxlan() {
        let keys = Keys { present: PrivateKey::from_bytes([1; 32]), former: None };
        let settings =
            |mtu| TunnelSettings::new(std::path::Path::new("/nowhere"), "oak0", mtu, keys.clone()).config;
        assert_eq!((settings(1450).mtu, settings(9216).mtu), (1420, 9000));
        assert_eq!(settings(1450).device, "oak0e");
        assert_eq!(settings(1450).kernel.unwrap().device, "oak0w");
        settings(1280).check().unwrap();
    }
}

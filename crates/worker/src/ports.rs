//! Host ports: finding out whether one is free before an instance gets it.
//!
//! Port mappings are kernel rules, so the kernel itself would not refuse a port that a program of the host listens
//! on: that program would silently lose its clients. Therefore the worker looks first and refuses with the holder.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use oak_model::overlay::{KERNEL_PORT, PLAIN_PORT, TUNNEL_PORT};
use oak_model::{InstanceKey, PortMapping, Protocol};
use oak_net::{NodeNetwork, PortHolder, PortProtocol};
use tokio::sync::watch;
use tracing::info;

/// Ports of Oakestra itself, which no application can have.
const RESERVED: [(Protocol, u16); 6] = [
    (Protocol::Tcp, 10000),
    (Protocol::Tcp, 10100),
    (Protocol::Tcp, 10099),
    (Protocol::Udp, TUNNEL_PORT),
    (Protocol::Udp, PLAIN_PORT),
    (Protocol::Udp, KERNEL_PORT),
];

/// How long a listener of this process may take to give way.
const YIELD: Duration = Duration::from_secs(2);

/// The host ports in use by instances.
pub(crate) struct HostPorts {
    starting: Mutex<BTreeMap<InstanceKey, Vec<u16>>>,
    serving: Mutex<BTreeSet<u16>>,
    claimed: watch::Sender<BTreeSet<u16>>,
}

impl HostPorts {
    pub(crate) const fn new(claimed: watch::Sender<BTreeSet<u16>>) -> Self {
        Self { starting: Mutex::new(BTreeMap::new()), serving: Mutex::new(BTreeSet::new()), claimed }
    }

    /// Ports that running instances serve now.
    pub(crate) fn serve(&self, ports: impl Iterator<Item = PortMapping>) {
        let tcp: BTreeSet<u16> =
            ports.filter(|port| port.protocol == Protocol::Tcp).map(|port| port.host).collect();
        // A claim ends when its ports are served, not before: a listener that yields must not come back in between.
        lock(&self.starting).retain(|_, claimed| !claimed.iter().all(|port| tcp.contains(port)));
        *lock(&self.serving) = tcp;
        self.publish();
    }

    /// The instance will not serve its ports.
    pub(crate) fn settle(&self, key: InstanceKey) {
        if lock(&self.starting).remove(&key).is_some() {
            self.publish();
        }
    }

    /// Takes the ports of an instance that is about to start.
    ///
    /// # Errors
    /// Which port is taken, by whom, and what to do.
    pub(crate) async fn claim(
        &self,
        key: InstanceKey,
        ports: &[PortMapping],
        network: &NodeNetwork,
    ) -> Result<(), String> {
        if ports.is_empty() {
            return Ok(());
        }
        let tcp = ports.iter().filter(|port| port.protocol == Protocol::Tcp).map(|port| port.host).collect();
        lock(&self.starting).insert(key, tcp);
        self.publish();
        for port in ports {
            if let Err(reason) = check(*port, network).await {
                self.settle(key);
                return Err(reason);
            }
        }
        Ok(())
    }

    fn publish(&self) {
        let mut all = lock(&self.serving).clone();
        all.extend(lock(&self.starting).values().flatten());
        self.claimed.send_if_modified(|claimed| {
            let changed = *claimed != all;
            *claimed = all;
            changed
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

async fn check(port: PortMapping, network: &NodeNetwork) -> Result<(), String> {
    let protocol = match port.protocol {
        Protocol::Tcp => PortProtocol::Tcp,
        Protocol::Udp => PortProtocol::Udp,
    };
    let deadline = tokio::time::Instant::now() + YIELD;
    loop {
        let holder = network.port_holder(protocol, port.host).await.map_err(|error| {
            format!("cannot find out whether host port {}/{} is free: {error}", port.host, port.protocol)
        })?;
        let Some(holder) = holder else { return Ok(()) };
        // A socket that is just being closed belongs to no process any more.
        let may_yield = holder.pid.is_none() || holder.pid == Some(std::process::id());
        if RESERVED.contains(&(port.protocol, port.host)) {
            return Err(format!(
                "host port {}/{} belongs to Oakestra: choose another",
                port.host, port.protocol
            ));
        }
        if !may_yield && is_this_program(&holder) {
            // The dashboard of a root in another process: rules come before sockets, and the dashboard is at the
            // root's own port as well.
            info!(port = port.host, "an application takes this port over from the dashboard of this machine");
            return Ok(());
        }
        if !may_yield || tokio::time::Instant::now() >= deadline {
            return Err(taken(port, &holder));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn taken(port: PortMapping, holder: &PortHolder) -> String {
    let name = holder.process_name.as_deref().unwrap_or("a program");
    let pid = holder.pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
    format!(
        "host port {}/{} is in use by {name}{pid}: stop it, or choose another port in the descriptor",
        port.host, port.protocol
    )
}

fn is_this_program(holder: &PortHolder) -> bool {
    let Some(pid) = holder.pid else { return false };
    let file = |path: String| {
        std::fs::metadata(path).map(|facts| {
            use std::os::unix::fs::MetadataExt;
            (facts.dev(), facts.ino())
        })
    };
    match (file(format!("/proc/{pid}/exe")), file("/proc/self/exe".to_owned())) {
        (Ok(theirs), Ok(ours)) => theirs == ours,
        _ => false,
    }
}

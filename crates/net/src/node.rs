//! The network of this node as the worker sees it: an async face over the two threads that own
//! devices and rules.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::sync::mpsc::Receiver;

use crate::config::NetworkConfig;
use crate::echo::Echo;
use crate::error::{NetworkError, Tried};
use crate::firewall::{Applied, Firewall};
use crate::holder::{PortHolder, port_holder};
use crate::links::{Attached, Links};
use crate::netlink::{Socket, link};
use crate::park::Unknown;
use crate::peers::{Peer, PeerProblem};
use crate::sysctl;
use crate::table::{PortProtocol, ServiceTable};
use crate::thread::StateThread;

/// An instance that should have a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attach {
    /// Instance id: 1–128 letters, digits, dots, colons, dashes, underscores.
    pub id: String,
    /// Its address inside the namespace, from the node's subnet.
    pub address: Ipv4Addr,
}

/// The open network of this node. Dropping it leaves everything working.
#[derive(Debug)]
pub struct NodeNetwork {
    config: NetworkConfig,
    links: StateThread<Links>,
    firewall: StateThread<Firewall>,
    /// Removes devices, which is slow, so that nothing else waits for it.
    removal: StateThread<Socket>,
    /// Listens for echoes, once somebody wants to know.
    echo: Mutex<Option<StateThread<Echo>>>,
    notes: Vec<String>,
    notices_unknown: bool,
    unknown: Mutex<Option<Receiver<Unknown>>>,
}

impl NodeNetwork {
    /// Makes the node's network in the current network namespace, or adopts the one that is there
    /// without interrupting a single flow. Another bridge, table or state directory than last time
    /// needs a [`teardown`](crate::teardown) of the old ones first.
    ///
    /// # Errors
    /// Settings that cannot work, another agent on the same state directory, a device or kernel
    /// facility that is not available, `nft` missing.
    pub async fn open(config: NetworkConfig) -> Result<Self, NetworkError> {
        let config = config.limited_by(sysctl::has_ipv6());
        let for_links = config.clone();
        let open_links = move || Links::open(&for_links);
        let (links, start) = StateThread::start("oak-net-links", open_links).await?;
        let for_rules = config.clone();
        let open_rules = move || {
            let (mut firewall, unknown) = Firewall::open(&for_rules, start)?;
            let notes = firewall.notes();
            Ok((firewall, (notes, unknown)))
        };
        let (firewall, (notes, unknown)) = StateThread::start("oak-net-rules", open_rules).await?;
        let open_removal = || {
            let socket = Socket::route().tried(|| "open a netlink socket".to_owned())?;
            Ok((socket, ()))
        };
        let (removal, ()) = StateThread::start("oak-net-remove", open_removal).await?;
        let notices_unknown = unknown.is_some();
        let unknown = Mutex::new(unknown);
        let echo = Mutex::new(None);
        Ok(Self { config, links, firewall, removal, echo, notes, notices_unknown, unknown })
    }

    /// The settings in force.
    #[must_use]
    pub fn config(&self) -> &NetworkConfig {
        &self.config
    }

    /// What on this host gets in the way, in sentences for people; found at `open`.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Gives an instance its namespace, device, address and routes. Does nothing if it has them, and
    /// completes them if a crash came in between; another address than before means a fresh namespace.
    ///
    /// # Errors
    /// The address is not assignable or taken, or the kernel refuses; nothing is left behind then.
    pub async fn attach(&self, attach: Attach) -> Result<Attached, NetworkError> {
        let job = move |links: &mut Links| links.attach(&attach.id, attach.address);
        self.links.run(job).await?
    }

    /// Removes an instance's network and forgets its flows. Does nothing if there is none.
    ///
    /// # Errors
    /// [`NetworkError::Leftovers`] names everything that could not be removed; call again.
    pub async fn detach(&self, id: &str) -> Result<(), NetworkError> {
        let id = id.to_owned();
        let mut detached = self.links.run(move |links| links.detach(&id)).await??;
        if let Some(device) = detached.device {
            let job = move |socket: &mut Socket| link::delete(socket, device);
            let outcome = self.removal.run(job).await?;
            detached.errors.note(outcome.tried(|| format!("remove device {device}")));
        }
        if let Some(address) = detached.address {
            let job = move |firewall: &mut Firewall| firewall.forget_address(address);
            self.firewall.run(job).await?;
        }
        detached.errors.into_result()
    }

    /// Everything attached, including what an earlier agent attached, sorted by id.
    ///
    /// # Errors
    /// Only if the network has stopped.
    pub async fn attached(&self) -> Result<Vec<Attached>, NetworkError> {
        self.links.run(|links| links.attached()).await
    }

    /// Makes `peers` the whole truth about other nodes; flows to peers that stay go on, also if a peer's
    /// underlay address or way changes. Without plain peers there is no VXLAN device. The device for encrypted ones
    /// must be there before ([`encrypted_name`](crate::encrypted_name)).
    ///
    /// # Errors
    /// The device cannot be made or the kernel refuses an entry; call again. Single peers that cannot
    /// work do not fail it; they are left out and returned.
    pub async fn set_peers(&self, peers: Vec<Peer>) -> Result<Vec<PeerProblem>, NetworkError> {
        self.links.run(move |links| links.set_peers(&peers)).await?
    }

    /// Makes `table` the whole truth, in one transaction; flows to living backends go on.
    ///
    /// # Errors
    /// Nothing changed if this fails. Single entries that cannot work do not fail it; they are in
    /// [`Applied::problems`].
    pub async fn apply(&self, table: ServiceTable) -> Result<Applied, NetworkError> {
        let job = move |firewall: &mut Firewall| firewall.apply(&table);
        self.firewall.run(job).await?
    }

    /// Whether calls of unknown addresses are noticed; otherwise they are refused.
    #[must_use]
    pub const fn notices_unknown(&self) -> bool {
        self.notices_unknown
    }

    /// Waits for the next call of an address that no [`apply`](Self::apply) has mentioned, by an instance or the
    /// host. Its packets wait for up to 2 s, then the caller is told that the host is unreachable; a table that
    /// has the address sends them on or has them refused. The same pair is told at most once per second.
    /// Up to 256 pairs wait for being asked for; further ones are told with their next packet. Never
    /// returns on a host without TUN devices ([`notes`](Self::notes)), where such calls are refused.
    ///
    /// Nothing is lost if the caller stops waiting.
    pub async fn next_unknown(&self) -> Unknown {
        if let Some(unknown) = self.unknown.lock().await.as_mut()
            && let Some(pair) = unknown.recv().await
        {
            return pair;
        }
        std::future::pending().await
    }

    /// Asks other nodes, given by their gateway addresses, for an echo and takes `time` to listen. Returns what was found
    /// out meanwhile, also by earlier calls: the round trip, or none if no answer came within 2 s. For calls in a row.
    ///
    /// # Errors
    /// No socket for this can be had.
    pub async fn round_trips(
        &self,
        nodes: Vec<Ipv4Addr>,
        time: Duration,
    ) -> Result<Vec<(Ipv4Addr, Option<Duration>)>, NetworkError> {
        let mut echo = self.echo.lock().await;
        if echo.is_none() {
            // The thread of the devices is in the right namespace.
            let opened = self.links.run(|_| Echo::open()).await?;
            let opened = opened.tried(|| "open a socket for ICMP echo".to_owned())?;
            *echo = Some(StateThread::start("oak-net-echo", move || Ok((opened, ()))).await?.0);
        }
        let thread = echo.as_ref().ok_or(NetworkError::Stopped)?;
        thread.run(move |echo| echo.round(&nodes, time)).await
    }

    /// See [`port_holder`]; asks in the namespace of this network.
    ///
    /// # Errors
    /// The kernel's tables cannot be read.
    pub async fn port_holder(
        &self,
        protocol: PortProtocol,
        port: u16,
    ) -> Result<Option<PortHolder>, NetworkError> {
        self.links.run(move |_| port_holder(protocol, port)).await?
    }
}

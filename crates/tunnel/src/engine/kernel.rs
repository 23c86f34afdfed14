//! The lane in the kernel: a WireGuard device beside the TUN device, its peers, and the routes that lead packets to it. What
//! goes where is decided in [`crate::core::lane`].
//!
//! ```text
//! route  10.18.0.128/25 dev oak0e src 10.18.0.1 metric 1000      the agent's: this process carries the packets
//! route  10.18.0.128/25 dev oak0w src 10.18.0.1 metric 500       while the kernel does
//! ```
//!
//! Nothing of it is remembered: an engine that starts finds device, peers and routes as the one before has left them.

mod device;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ipnet::IpNet;
use oak_netlink::wireguard::PeerState;
use tracing::{debug, info, warn};

use self::device::Device;
pub(super) use self::device::remove;
use super::control::{Control, wall};
use super::shared::{PeerShared, now};
use crate::config::{Peer, TunnelConfig};
use crate::core::PeerId;
use crate::core::lane::{Counts, Facts, Heard, Lane, Step, Why};
use crate::core::probe::News;
use crate::key::PrivateKey;
use crate::path::{Path, Way};
use crate::request::KernelState;

/// Lanes in use are looked at this often …
const LOOK: u64 = 1_000;
/// … and their routes this often.
const ROUTES: u64 = 5_000;
/// Keys of a session live so long.
const SESSION: Duration = Duration::from_secs(180);
/// Peers who were told that the key will change have stopped sending to the device after this time.
const KEY_AFTER: u64 = 2_000;
/// Fewer bytes than this in a second are keepalives and handshakes.
const DATA: u64 = 256;

/// The device and the peers' lanes.
pub(super) struct Kernel {
    device: Device,
    pairs: BTreeMap<PeerId, Pair>,
    /// When a lane was used last.
    used_at: u64,
    /// A lane is used since the last look.
    has_begun: bool,
    next_look: u64,
    next_routes: u64,
}

/// A peer, as the agent has described it.
struct Pair {
    peer: Peer,
    lane: Lane,
    heard: Option<Heard>,
    /// What the kernel has counted, when it was asked last.
    counts: Option<Counts>,
}

/// Makes the device or finds it, and says how that went.
pub(super) fn open(config: &TunnelConfig, key: &PrivateKey) -> (Option<Kernel>, KernelState) {
    let Some(kernel) = &config.kernel else { return (None, KernelState::Off) };
    if !kernel.is_used {
        if let Err(error) = remove(kernel) {
            warn!(%error, device = kernel.device, "cannot remove the device of an earlier engine");
        }
        return (None, KernelState::Off);
    }
    match Device::open(kernel, config, key) {
        Ok(device) => {
            let (name, port) = (&kernel.device, kernel.port);
            info!(device = name, port, "the kernel's WireGuard is used where it can be");
            (Some(Kernel::new(device)), KernelState::Ready)
        }
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            let reason = format!("{error}: {cause}");
            info!(reason, "the kernel's WireGuard is not used");
            // Whatever of it was made: nobody would watch it.
            let _ = remove(kernel);
            (None, KernelState::Missing(reason))
        }
    }
}

impl Kernel {
    const fn new(device: Device) -> Self {
        Self { device, pairs: BTreeMap::new(), used_at: 0, has_begun: false, next_look: 0, next_routes: 0 }
    }

    /// Looks at all peers at once: something has changed.
    pub(super) const fn hurry(&mut self) {
        self.next_look = 0;
    }

    /// Whether the kernel carries the packets to a peer.
    pub(super) fn carries(&self, peer: PeerId) -> bool {
        self.pairs.get(&peer).is_some_and(|pair| pair.lane.is_used())
    }

    /// Where packets go has changed: what was said on another path says nothing.
    pub(super) fn moved(&mut self, peer: PeerId) {
        if let Some(pair) = self.pairs.get_mut(&peer) {
            pair.heard = None;
        }
        self.hurry();
    }

    /// Keeps what a peer says; who says nothing has no lane.
    fn hear(&mut self, at: u64, peer: &PeerShared, way: &Way, news: Option<News>, own_port: u16) {
        let Some(pair) = self.pairs.get_mut(&peer.id) else { return };
        if peer.way.get().is_none_or(|current| current.path != way.path) {
            return;
        }
        let sees_own =
            |news: &News| way.local.is_some_and(|own| news.seen_as == SocketAddr::new(own, own_port));
        let said = news.map(|news| Heard {
            at,
            is_ready: news.is_ready,
            port: news.port,
            sees_own: sees_own(&news),
            sent: news.sent,
            received: news.received,
        });
        let nothing = Heard { at, is_ready: false, port: 0, sees_own: false, sent: 0, received: 0 };
        let heard = said.unwrap_or(nothing);
        let before = pair.heard.replace(heard);
        if before.is_none_or(|before| (before.is_ready, before.sees_own) != (heard.is_ready, heard.sees_own))
        {
            self.hurry();
        }
    }

    /// Takes over the peers of the engine, in place of those before.
    fn set_peers(&mut self, control: &Control) -> io::Result<()> {
        let mut before = std::mem::take(&mut self.pairs);
        for peer in &control.state.peers {
            let Some(id) = control.core.peer_named(&peer.name) else { continue };
            let told = |peer: &Peer| (peer.public_key, peer.preshared_key.clone(), peer.networks.clone());
            let same = before.remove(&id).filter(|pair| told(&pair.peer) == told(peer));
            let (lane, heard, counts) =
                same.map_or_else(Default::default, |pair| (pair.lane, pair.heard, pair.counts));
            self.pairs.insert(id, Pair { peer: peer.clone(), lane, heard, counts });
        }
        self.device.keep(&control.state.peers.iter().map(|peer| peer.public_key.0).collect())?;
        self.next_routes = 0;
        self.hurry();
        Ok(())
    }

    /// Takes lanes over that an earlier engine has left in use.
    fn adopt(&mut self, control: &Control) -> io::Result<()> {
        let (led, peers) = (self.device.led()?, self.device.peers()?);
        for (id, pair) in &mut self.pairs {
            let known = peers.iter().find(|known| known.public_key == pair.peer.public_key.0);
            let endpoint = known.and_then(|known| known.endpoint);
            let way = control.peers.get(id).and_then(|peer| peer.way.get());
            let (Some(endpoint), Some(way)) = (endpoint, way) else { continue };
            if pair.peer.networks.iter().any(|network| led.contains(&network.trunc())) {
                info!(peer = pair.peer.name, path = %way.path, "the kernel still carries the packets");
                let mut to = way.path.address();
                to.set_port(endpoint.port());
                pair.lane = Lane::adopted(now(), to);
            }
        }
        Ok(())
    }

    fn facts(&self, control: &Control, peer: &PeerShared, pair: &Pair) -> Facts {
        let own = control.core.public_key();
        let knows = control.core.keys_of(peer.id).and_then(|(_, knows)| knows);
        // Without a former key everybody knows the present one.
        let is_known = control.core.former_key().is_none() || knows == Some(own);
        let wide = control.core.paths(peer.id).and_then(|paths| paths.passes_full_size());
        let may = self.device.key() == own
            && is_known
            && wide != Some(false)
            && peer.limit.load(Relaxed) == u32::MAX;
        let path = match peer.way.get() {
            Some(Way { path: Path::Direct(address), .. }) if may => Some(address),
            _ => None,
        };
        Facts { path, is_wide: wide == Some(true), heard: pair.heard, counts: pair.counts }
    }

    /// What the peer is told.
    fn news(&self, control: &Control, peer: &PeerShared, way: &Way) -> Option<News> {
        let pair = self.pairs.get(&peer.id)?;
        let counts = pair.counts.unwrap_or_default();
        Some(News {
            is_ready: pair.lane.is_ready(now(), &self.facts(control, peer, pair)),
            port: self.device.config.port,
            seen_as: way.path.address(),
            sent: counts.sent,
            received: counts.received,
        })
    }

    /// Looks at all lanes if that is due; returns the peers to be asked.
    fn tick(&mut self, at: u64, control: &Control) -> io::Result<Vec<PeerId>> {
        let mut asked = Vec::new();
        if at < self.next_look {
            return Ok(asked);
        }
        self.next_look = at + LOOK;
        let matters = |pair: &Pair| pair.lane.is_watched() || pair.heard.is_some_and(|heard| heard.is_ready);
        if self.pairs.values().any(matters) {
            let peers = self.device.peers()?;
            self.count(at, control, &peers);
        }
        let mut pairs = std::mem::take(&mut self.pairs);
        for (id, pair) in &mut pairs {
            let Some(shared) = control.peers.get(id) else { continue };
            let facts = self.facts(control, shared, pair);
            for step in pair.lane.tick(at, &facts) {
                match step {
                    Step::Ask => asked.push(*id),
                    step => self.carry_out(step, &pair.peer)?,
                }
            }
        }
        self.pairs = pairs;
        self.change_key(at, control)?;
        let is_used = self.pairs.values().any(|pair| pair.lane.is_used());
        if self.next_routes == 0 || (is_used && at >= self.next_routes) {
            self.next_routes = at + ROUTES;
            let used = self.pairs.values().filter(|pair| pair.lane.is_used());
            self.device.lead(&used.flat_map(|pair| pair.peer.networks.iter().map(IpNet::trunc)).collect())?;
        }
        Ok(asked)
    }

    fn carry_out(&mut self, step: Step, peer: &Peer) -> io::Result<()> {
        match step {
            Step::Ask => Ok(()),
            Step::Try(endpoint) => {
                debug!(peer = peer.name, %endpoint, "trying the kernel");
                self.device.tell(peer, endpoint)
            }
            Step::Rest => self.device.rest(&peer.public_key),
            Step::Use => {
                info!(peer = peer.name, "the kernel carries the packets");
                self.has_begun = true;
                self.next_routes = 0;
                Ok(())
            }
            Step::Leave(why) => {
                let why = match why {
                    Why::Unfit => "one of the two is not ready for the kernel any more",
                    Why::Dead => "nothing arrives through the kernel",
                };
                info!(peer = peer.name, why, "this process carries the packets");
                self.next_routes = 0;
                self.device.rest(&peer.public_key)
            }
        }
    }

    /// Notes what the kernel has carried: it is traffic like any other.
    fn count(&mut self, at: u64, control: &Control, peers: &[PeerState]) {
        let known: HashMap<_, _> = peers.iter().map(|peer| (peer.public_key, peer)).collect();
        for (id, pair) in &mut self.pairs {
            let counts = known.get(&pair.peer.public_key.0).map(|known| Counts {
                sent: known.sent,
                received: known.received,
                has_session: !known.last_handshake.is_zero()
                    && wall().saturating_sub(known.last_handshake) < SESSION,
            });
            let (before, after) = (pair.counts, counts);
            pair.counts = counts;
            let (Some(before), Some(after), Some(peer)) = (before, after, control.peers.get(id)) else {
                continue;
            };
            let since = |before: u64, after: u64| after.checked_sub(before).unwrap_or(after);
            let bytes = |amount: u64| usize::try_from(amount).unwrap_or(usize::MAX);
            let sent = since(before.sent, after.sent);
            let received = since(before.received, after.received);
            if sent > 0 {
                peer.sent(at, bytes(sent), sent >= DATA);
            }
            if received > 0 {
                // What it owes in return the kernel sends.
                peer.received(at, bytes(received), false);
            }
            if pair.lane.is_used() {
                self.used_at = at;
            }
        }
    }

    /// Gives the device the key of this node once nobody uses the one it has.
    fn change_key(&mut self, at: u64, control: &Control) -> io::Result<()> {
        let is_used = self.pairs.values().any(|pair| pair.lane.is_watched());
        if self.device.key() == control.core.public_key() || is_used || at < self.used_at + KEY_AFTER {
            return Ok(());
        }
        debug!("the kernel gets the new key");
        self.device.set_key(&control.state.private_key)
    }
}

impl Control {
    /// Looks after the lanes.
    pub(super) fn tick_kernel(&mut self) {
        let asked = self.with_kernel(|kernel, control| kernel.tick(now(), control));
        if self.kernel.as_mut().is_some_and(|kernel| std::mem::take(&mut kernel.has_begun)) {
            // The next engine has to know where the peer is to take the lane over.
            self.remember_paths();
        }
        for id in asked.unwrap_or_default() {
            if let Some(way) = self.peers.get(&id).and_then(|peer| peer.way.get()) {
                self.ask(id, &way, None);
            }
        }
    }

    /// The kernel shall know the peers that there are now.
    pub(super) fn set_kernel_peers(&mut self) {
        self.with_kernel(Kernel::set_peers);
    }

    pub(super) fn adopt_lanes(&mut self) {
        self.with_kernel(Kernel::adopt);
    }

    pub(super) fn hear_news(&mut self, id: PeerId, way: &Way, news: Option<News>) {
        let (Some(kernel), Some(peer)) = (&mut self.kernel, self.peers.get(&id)) else { return };
        kernel.hear(now(), peer, way, news, self.config.port);
    }

    pub(super) fn news_for(&self, id: PeerId, way: &Way) -> Option<News> {
        self.kernel.as_ref()?.news(self, self.peers.get(&id)?, way)
    }

    /// If the kernel refuses, somebody has taken the device away, and its routes with it: there is no lane any more.
    fn with_kernel<T>(&mut self, work: impl FnOnce(&mut Kernel, &Self) -> io::Result<T>) -> Option<T> {
        let mut kernel = self.kernel.take()?;
        match work(&mut kernel, self) {
            Ok(done) => {
                self.kernel = Some(kernel);
                Some(done)
            }
            Err(error) => {
                warn!(%error, device = kernel.device.config.device, "the kernel's WireGuard is not used any more");
                self.kernel_state = KernelState::Missing(error.to_string());
                if let Err(error) = remove(&kernel.device.config) {
                    warn!(%error, "device");
                }
                None
            }
        }
    }
}

//! Nodes behind NATs: how this cluster sees its workers, and who may talk to whom through its relay.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use oak_model::overlay::{MOST_SEEN, NodeKeys, Peer, TunnelEnd, Vantage};
use oak_model::{WorkerId, ipv6};

use super::{Cluster, Effect};

/// Where the link of a worker comes from, if that is not where the worker is: there is a NAT in between.
pub(super) fn outside(link: &str, own: Option<IpAddr>, own6: Option<Ipv6Addr>) -> Option<IpAddr> {
    let link: IpAddr = link.parse().ok()?;
    let is_own = own.is_none_or(|own| own == link) || own6.is_some_and(|own| own == link);
    let is_somewhere = match link {
        IpAddr::V4(link) => !link.is_loopback() && !link.is_unspecified(),
        // A link-local one is the worker's own, whatever others it has.
        IpAddr::V6(link) => ipv6::is_underlay(link),
    };
    (!is_own && is_somewhere).then_some(link)
}

impl Cluster {
    /// What a worker is told of itself.
    pub(super) fn vantage(&self, id: WorkerId) -> Vantage {
        let outside = self.workers.get(&id).and_then(|worker| worker.outside);
        Vantage { outside, relay: self.settings.relay.clone() }
    }

    /// A worker has another key, or has given up its former one.
    pub(super) fn worker_rekeyed(&mut self, id: WorkerId, keys: NodeKeys) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.facts.tunnel.as_mut().is_some_and(|tunnel| tunnel.set_keys(keys)) {
            self.save_worker(id);
            self.overlay_peer(id);
            self.report_worker(id);
        }
    }

    /// Relays see a worker at other addresses than before.
    pub(super) fn worker_seen(&mut self, id: WorkerId, mut addresses: Vec<SocketAddr>) {
        addresses.truncate(MOST_SEEN);
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let Some(tunnel) = worker.facts.tunnel.as_mut().filter(|tunnel| tunnel.seen_as != addresses) else {
            return;
        };
        tunnel.seen_as = addresses;
        self.save_worker(id);
        self.overlay_peer(id);
        self.report_worker(id);
    }

    /// Tells the relay who has to do with whom since the last step.
    pub(super) fn tell_relay(&mut self) {
        for worker in self.overlay_hub().take_introduced() {
            if self.settings.relay.is_some() {
                self.introduce(worker);
            }
        }
    }

    fn introduce(&mut self, worker: WorkerId) {
        // Former ones as well: what goes through the relay goes on while a new key gets around.
        let keys = |peer: &Peer| peer.tunnel.iter().flat_map(TunnelEnd::keys).cloned().collect::<Vec<_>>();
        let hub = self.overlay_hub();
        let own = hub.peer(worker).map(keys).unwrap_or_default();
        let peers = hub.introduced(worker).flat_map(keys).collect();
        self.outbox.emit(Effect::Relay { worker, keys: own, peers });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_behind_a_nat_if_it_speaks_from_elsewhere() {
        let own = |text: &str| Some(text.parse().unwrap());
        let outside = |link, own| outside(link, own, Some("2001:db8::2".parse().unwrap()));
        assert_eq!(outside("198.51.100.2", own("192.168.1.2")), own("198.51.100.2"));
        assert_eq!(outside("192.168.1.2", own("192.168.1.2")), None);
        assert_eq!(outside("2001:db8::2", own("192.168.1.2")), None, "it has both");
        assert_eq!(outside("2001:db8::3", own("192.168.1.2")), own("2001:db8::3"));
        assert_eq!(outside("fe80::2", own("192.168.1.2")), None, "on the link of the cluster");
        assert_eq!(outside("127.0.0.1", own("192.168.1.2")), None, "on the machine of the cluster");
        assert_eq!(outside("::1", own("192.168.1.2")), None, "on the machine of the cluster");
        assert_eq!(outside("198.51.100.2", None), None, "its operator has said where it is");
        assert_eq!(outside("?", own("192.168.1.2")), None);
    }
}

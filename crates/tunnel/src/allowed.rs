//! Which peer has which inner addresses: where a packet goes, and from whom one may come.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

/// Longest prefix wins. There are few different lengths (nodes have networks of one size), so a map for each length
/// is faster than a tree and simpler.
#[derive(Clone, Debug)]
pub(crate) struct Allowed<T> {
    v4: Vec<(u32, HashMap<u32, T>)>,
    v6: Vec<(u128, HashMap<u128, T>)>,
}

impl<T> Default for Allowed<T> {
    fn default() -> Self {
        Self { v4: Vec::new(), v6: Vec::new() }
    }
}

impl<T: Copy + PartialEq> Allowed<T> {
    /// Gives a network to a peer. A network that is another's already is given to the later one.
    pub(crate) fn insert(&mut self, network: IpNet, peer: T) {
        match network {
            IpNet::V4(network) => {
                insert(&mut self.v4, u32::from(network.netmask()), u32::from(network.network()), peer);
            }
            IpNet::V6(network) => {
                insert(&mut self.v6, u128::from(network.netmask()), u128::from(network.network()), peer);
            }
        }
    }

    /// The peer to which an inner address belongs.
    pub(crate) fn peer_of(&self, address: IpAddr) -> Option<T> {
        match address {
            IpAddr::V4(address) => {
                let bits = u32::from(address);
                self.v4.iter().find_map(|(mask, networks)| networks.get(&(bits & mask)).copied())
            }
            IpAddr::V6(address) => {
                let bits = u128::from(address);
                self.v6.iter().find_map(|(mask, networks)| networks.get(&(bits & mask)).copied())
            }
        }
    }
}

fn insert<M: Ord + Copy, A: std::hash::Hash + Eq, T>(
    table: &mut Vec<(M, HashMap<A, T>)>,
    mask: M,
    network: A,
    peer: T,
) {
    // Longer masks are larger numbers.
    let place = table.partition_point(|(other, _)| *other > mask);
    if table.get(place).is_none_or(|(other, _)| *other != mask) {
        table.insert(place, (mask, HashMap::new()));
    }
    if let Some((_, networks)) = table.get_mut(place) {
        networks.insert(network, peer);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn finds_what_a_search_through_all_networks_finds(
            networks in prop::collection::vec((any::<u32>(), 0_u8..=32), 0..20),
            wide in prop::collection::vec((any::<u128>(), 0_u8..=128), 0..20),
            addresses in prop::collection::vec(any::<u32>(), 1..20),
        ) {
            let v4 = networks.iter().map(|(bits, length)| {
                IpNet::new((*bits & 0x0300_00ff).to_be_bytes().into(), *length).unwrap()
            });
            let v6 = wide.iter().map(|(bits, length)| IpNet::new(bits.to_be_bytes().into(), *length).unwrap());
            let all: Vec<IpNet> = v4.chain(v6).map(|network| network.trunc()).collect();
            let mut allowed = Allowed::default();
            for (peer, network) in all.iter().enumerate() {
                allowed.insert(*network, peer);
            }
            let own = all.iter().map(|network| network.addr());
            let others = addresses.iter().map(|bits| IpAddr::from((bits & 0x0300_00ff).to_be_bytes()));
            for address in own.chain(others) {
                let best = all.iter().enumerate().filter(|(_, network)| network.contains(&address));
                let best = best.max_by_key(|(place, network)| (network.prefix_len(), *place));
                prop_assert_eq!(allowed.peer_of(address), best.map(|(place, _)| place));
            }
        }
    }
}

//! Pools of addresses and address blocks.
//!
//! Both hand out the next free entry after the last one given, going round: an address that was returned rests
//! until the pool has been walked through once, which is the quarantine. Only the cursor has to be stored; what
//! is in use follows from the objects that use it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Single addresses of one range.
#[derive(Clone, Debug)]
pub struct AddressPool {
    first: u32,
    last: u32,
    cursor: u32,
    used: BTreeSet<u32>,
}

impl AddressPool {
    /// All addresses of a network except its first and last one.
    #[must_use]
    pub fn hosts_of(network: Ipv4Net) -> Self {
        let first = u32::from(network.network()).saturating_add(1);
        let last = u32::from(network.broadcast()).saturating_sub(1);
        Self { first, last, cursor: first, used: BTreeSet::new() }
    }

    /// The same pool without its lowest address (a gateway has that).
    #[must_use]
    pub fn without_first(mut self) -> Self {
        self.first = self.first.saturating_add(1);
        self.cursor = self.cursor.max(self.first);
        self
    }

    /// Whether the pool contains the address.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&u32::from(address))
    }

    /// Whether the address is in use.
    #[must_use]
    pub fn is_used(&self, address: Ipv4Addr) -> bool {
        self.used.contains(&u32::from(address))
    }

    /// Addresses in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.len()
    }

    /// Size of the pool.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        (self.last + 1).saturating_sub(self.first)
    }

    /// Where the next search begins; store it to keep the quarantine over restarts.
    #[must_use]
    pub fn cursor(&self) -> Ipv4Addr {
        self.cursor.into()
    }

    /// Restores a stored cursor; one outside the pool is ignored.
    pub fn set_cursor(&mut self, cursor: Ipv4Addr) {
        if self.contains(cursor) {
            self.cursor = cursor.into();
        }
    }

    /// Takes a given address; false when it is in use or outside the pool.
    pub fn claim(&mut self, address: Ipv4Addr) -> bool {
        self.contains(address) && self.used.insert(address.into())
    }

    /// Takes the next free address, `None` when all are in use.
    pub fn allocate(&mut self) -> Option<Ipv4Addr> {
        let free =
            self.next_free(self.cursor, self.last).or_else(|| self.next_free(self.first, self.last))?;
        self.used.insert(free);
        self.cursor = if free >= self.last { self.first } else { free + 1 };
        Some(free.into())
    }

    /// Gives an address back.
    pub fn release(&mut self, address: Ipv4Addr) {
        self.used.remove(&address.into());
    }

    fn next_free(&self, from: u32, to: u32) -> Option<u32> {
        let mut candidate = from;
        for used in self.used.range(from..=to) {
            if *used > candidate {
                break;
            }
            candidate = used.checked_add(1)?;
        }
        (candidate <= to).then_some(candidate)
    }
}

/// Addresses of the instances of one worker: all of its subnets, but for the first one of each, a gateway.
#[derive(Clone, Debug, Default)]
pub struct NodePool {
    pools: Vec<(Ipv4Net, AddressPool)>,
}

impl NodePool {
    /// Has these subnets, no others, and still in use what is in use of them.
    pub fn set_subnets(&mut self, subnets: &[Ipv4Net]) {
        self.pools.retain(|(subnet, _)| subnets.contains(subnet));
        for subnet in subnets {
            if !self.pools.iter().any(|(known, _)| known == subnet) {
                self.pools.push((*subnet, AddressPool::hosts_of(*subnet).without_first()));
            }
        }
    }

    /// Takes a given address; false when it is in use or in none of the subnets.
    pub fn claim(&mut self, address: Ipv4Addr) -> bool {
        self.pools.iter_mut().any(|(_, pool)| pool.claim(address))
    }

    /// Takes the next free address of the first subnet that has one.
    pub fn allocate(&mut self) -> Option<Ipv4Addr> {
        self.pools.iter_mut().find_map(|(_, pool)| pool.allocate())
    }

    /// Gives an address back.
    pub fn release(&mut self, address: Ipv4Addr) {
        for (_, pool) in &mut self.pools {
            pool.release(address);
        }
    }
}

/// Service and instance addresses of the whole system, less the blocks that clusters give out by themselves.
#[derive(Clone, Debug)]
pub struct ServicePool {
    /// Everything in use; all addresses of reserved blocks count as used here.
    pool: AddressPool,
    network: Ipv4Net,
    blocks: BTreeSet<Ipv4Net>,
    /// What is really in use inside the blocks.
    in_blocks: BTreeSet<Ipv4Addr>,
}

impl ServicePool {
    /// All addresses of a network except its first and last one.
    #[must_use]
    pub fn new(network: Ipv4Net) -> Self {
        let (blocks, in_blocks) = (BTreeSet::new(), BTreeSet::new());
        Self { pool: AddressPool::hosts_of(network), network, blocks, in_blocks }
    }

    /// Whether the address is in use, or not for the taking because it is in a block.
    #[must_use]
    pub fn is_used(&self, address: Ipv4Addr) -> bool {
        self.pool.is_used(address)
    }

    /// Whether the address belongs to a block.
    #[must_use]
    pub fn is_in_block(&self, address: Ipv4Addr) -> bool {
        self.blocks.iter().any(|block| block.contains(&address))
    }

    /// Addresses in use.
    #[must_use]
    pub fn used(&self) -> usize {
        let reserved: usize = self.blocks.iter().map(|block| self.hosts(*block).count()).sum();
        self.pool.used() - reserved + self.in_blocks.len()
    }

    /// Addresses that can still be allocated.
    #[must_use]
    pub fn free(&self) -> usize {
        (self.pool.capacity() as usize).saturating_sub(self.pool.used())
    }

    /// Where the next search begins; store it to keep the quarantine over restarts.
    #[must_use]
    pub fn cursor(&self) -> Ipv4Addr {
        self.pool.cursor()
    }

    /// Restores a stored cursor; one outside the pool is ignored.
    pub fn set_cursor(&mut self, cursor: Ipv4Addr) {
        self.pool.set_cursor(cursor);
    }

    /// Takes a given address, also one in a block; false when it is in use or outside the pool.
    pub fn claim(&mut self, address: Ipv4Addr) -> bool {
        if self.is_in_block(address) { self.in_blocks.insert(address) } else { self.pool.claim(address) }
    }

    /// Takes the next free address outside the blocks, `None` when all are in use.
    pub fn allocate(&mut self) -> Option<Ipv4Addr> {
        self.pool.allocate()
    }

    /// Gives an address back.
    pub fn release(&mut self, address: Ipv4Addr) {
        if self.is_in_block(address) {
            self.in_blocks.remove(&address);
        } else {
            self.pool.release(address);
        }
    }

    /// Reserves the highest block of which nothing is in use, in the upper half of the network; `None` when there is
    /// none.
    pub fn reserve_block(&mut self) -> Option<Ipv4Net> {
        let halves: Vec<_> = self.network.subnets(self.network.prefix_len() + 1).ok()?.collect();
        let blocks: Vec<_> = halves.last()?.subnets(plan::LOCAL_PREFIX).ok()?.collect();
        let free = |block: &&Ipv4Net| !self.hosts(**block).any(|address| self.pool.is_used(address));
        let block = *blocks.iter().rev().find(free)?;
        self.claim_block(block);
        Some(block)
    }

    /// Reserves a given block; what is in use there stays in use. False when it is reserved already.
    pub fn claim_block(&mut self, block: Ipv4Net) -> bool {
        let fits = self.network.contains(&block)
            && block.trunc() == block
            && block.prefix_len() == plan::LOCAL_PREFIX;
        if !fits || !self.blocks.insert(block) {
            return false;
        }
        for address in self.hosts(block).collect::<Vec<_>>() {
            if !self.pool.claim(address) {
                self.in_blocks.insert(address);
            }
        }
        true
    }

    /// Gives a block back; what is in use there stays in use.
    pub fn release_block(&mut self, block: Ipv4Net) {
        if !self.blocks.remove(&block) {
            return;
        }
        for address in self.hosts(block).collect::<Vec<_>>() {
            if !self.in_blocks.remove(&address) {
                self.pool.release(address);
            }
        }
    }

    /// What is in use in a block.
    #[must_use]
    pub fn used_in(&self, block: Ipv4Net) -> Vec<Ipv4Addr> {
        self.in_blocks.iter().copied().filter(|address| block.contains(address)).collect()
    }

    /// Addresses of a block that the pool knows.
    fn hosts(&self, block: Ipv4Net) -> impl Iterator<Item = Ipv4Addr> + use<> {
        let (first, last) = (self.pool.first, self.pool.last);
        (u32::from(block.network())..=u32::from(block.broadcast()))
            .filter(move |address| (first..=last).contains(address))
            .map(Ipv4Addr::from)
    }
}

/// Equal blocks of one range of addresses.
#[derive(Clone, Debug)]
pub struct BlockPool {
    range: (Ipv4Addr, Ipv4Addr),
    prefix: u8,
    used: BTreeSet<Ipv4Net>,
    last: Option<Ipv4Net>,
}

impl BlockPool {
    /// Blocks of `prefix` bits from `first` to `last`, both included.
    #[must_use]
    pub const fn new(first: Ipv4Addr, last: Ipv4Addr, prefix: u8) -> Self {
        Self { range: (first, last), prefix, used: BTreeSet::new(), last: None }
    }

    /// Marks a block as used; false when it was so already, or is none of these blocks.
    pub fn claim(&mut self, block: Ipv4Net) -> bool {
        let fits = block.prefix_len() == self.prefix
            && block.trunc() == block
            && block.network() >= self.range.0
            && block.broadcast() <= self.range.1;
        fits && self.used.insert(block)
    }

    /// Gives a block back.
    pub fn release(&mut self, block: Ipv4Net) {
        self.used.remove(&block);
    }

    /// Blocks in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.len()
    }

    /// The block that was taken last; store it to keep the quarantine over restarts.
    #[must_use]
    pub const fn last(&self) -> Option<Ipv4Net> {
        self.last
    }

    /// Restores what [`BlockPool::last`] told.
    pub const fn set_last(&mut self, block: Ipv4Net) {
        self.last = Some(block);
    }

    /// Takes the next free block, `None` when all are in use.
    pub fn allocate(&mut self) -> Option<Ipv4Net> {
        let size = 1_usize.checked_shl(32 - u32::from(self.prefix))?;
        let starts = (u32::from(self.range.0)..=u32::from(self.range.1)).step_by(size);
        let blocks = starts.filter_map(|start| Ipv4Net::new(start.into(), self.prefix).ok());
        let free = next_free(blocks, self.last, &self.used)?;
        self.used.insert(free);
        self.last = Some(free);
        Some(free)
    }
}

/// The first free one of some networks behind the one that was given out last, going round: so one that was given back
/// rests before it is used again.
pub(crate) fn next_free(
    all: impl Iterator<Item = Ipv4Net> + Clone,
    last: Option<Ipv4Net>,
    used: &BTreeSet<Ipv4Net>,
) -> Option<Ipv4Net> {
    let behind = all.clone().skip_while(|network| Some(*network) != last).skip(1);
    behind.chain(all).find(|network| !used.contains(network))
}

/// The address plan of the original (network reference, 2.1).
pub mod plan {
    use std::net::Ipv4Addr;

    use ipnet::Ipv4Net;

    /// Service and instance addresses.
    pub const SERVICES: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 30, 0, 0), 16);
    /// First address of the node subnets.
    pub const NODES_FIRST: Ipv4Addr = Ipv4Addr::new(10, 18, 0, 0);
    /// Last address of the node subnets.
    pub const NODES_LAST: Ipv4Addr = Ipv4Addr::new(10, 29, 255, 255);
    /// Size of the block a cluster gets for its workers: 32 workers.
    pub const CLUSTER_PREFIX: u8 = 20;
    /// Size of the block from which a cluster gives service addresses while it has no root: 256.
    pub const LOCAL_PREFIX: u8 = 24;
    /// Size of the subnet of one worker: 125 instances.
    pub const WORKER_PREFIX: u8 = 25;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_released_address_rests_until_the_pool_was_walked_through() {
        let mut pool = AddressPool::hosts_of("10.30.0.0/29".parse().unwrap());
        assert_eq!(pool.capacity(), 6);
        let first = pool.allocate().unwrap();
        pool.release(first);
        let next: Vec<_> = std::iter::from_fn(|| pool.allocate()).collect();
        assert_eq!(next.len(), 6);
        assert_eq!(next.last(), Some(&first));
        assert_eq!(pool.allocate(), None);
    }

    #[test]
    fn a_released_block_rests_as_well() {
        let mut pool = BlockPool::new(Ipv4Addr::new(10, 18, 0, 0), Ipv4Addr::new(10, 18, 63, 255), 20);
        let first = pool.allocate().unwrap();
        pool.release(first);
        let mut restarted = BlockPool { last: None, ..pool.clone() };
        restarted.set_last(pool.last().unwrap());
        for pool in [&mut pool, &mut restarted] {
            let next: Vec<_> = std::iter::from_fn(|| pool.allocate()).collect();
            assert_eq!((next.len(), next.last()), (4, Some(&first)));
        }
    }

    #[test]
    fn what_is_used_in_a_block_that_is_given_back_stays_used() {
        let mut pool = ServicePool::new("10.30.0.0/16".parse().unwrap());
        let block = pool.reserve_block().unwrap();
        let used = Ipv4Addr::from(u32::from(block.network()) + 7);
        assert!(pool.claim(used));
        pool.release_block(block);
        assert_eq!((pool.used(), pool.is_used(used), pool.is_in_block(used)), (1, true, false));
        assert!(!pool.claim(used));
        pool.release(used);
        assert_eq!((pool.used(), pool.reserve_block()), (0, Some(block)));
    }

    #[test]
    fn the_plan_holds_6144_workers() {
        let mut clusters = BlockPool::new(plan::NODES_FIRST, plan::NODES_LAST, plan::CLUSTER_PREFIX);
        let blocks: Vec<_> = std::iter::from_fn(|| clusters.allocate()).collect();
        assert_eq!(blocks.len(), 192);
        assert_eq!(blocks.last().map(ToString::to_string), Some("10.29.240.0/20".into()));
    }

    proptest! {
        #[test]
        fn no_address_is_given_twice(operations in proptest::collection::vec(0..40_u32, 0..200)) {
            let mut pool = AddressPool::hosts_of("10.30.0.0/27".parse().unwrap());
            let mut held: Vec<Ipv4Addr> = Vec::new();
            for operation in operations {
                if operation < 25 {
                    match pool.allocate() {
                        Some(address) => {
                            prop_assert!(!held.contains(&address));
                            held.push(address);
                        }
                        None => prop_assert_eq!(held.len(), 30),
                    }
                } else if !held.is_empty() {
                    let address = held.swap_remove(operation as usize % held.len());
                    pool.release(address);
                }
                prop_assert_eq!(pool.used(), held.len());
            }
        }
    }
}

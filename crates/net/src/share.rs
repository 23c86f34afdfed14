//! Who of several instances gets how much: the places of a list from which the kernel takes one for each connection.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// Longest list for weights. With more the weights are made coarser.
const MAX_TURNS: usize = 1024;
/// Places of the list by which callers find the same instance again: enough for even shares of many instances.
const MIN_SLOTS: usize = 64;
const MAX_SLOTS: usize = 4096;

/// Everybody as often as its weight says, spread evenly.
pub(crate) fn in_turn(weights: &BTreeMap<Ipv4Addr, u16>) -> Vec<Ipv4Addr> {
    let mut weights: Vec<(Ipv4Addr, i64)> =
        weights.iter().map(|(address, weight)| (*address, i64::from((*weight).max(1)))).collect();
    let divisor = weights.iter().map(|(_, weight)| *weight).fold(0, greatest_common_divisor).max(1);
    weights.iter_mut().for_each(|(_, weight)| *weight /= divisor);
    let total = |weights: &[(Ipv4Addr, i64)]| weights.iter().map(|(_, weight)| weight).sum::<i64>();
    let most = i64::try_from(MAX_TURNS.max(weights.len())).unwrap_or(i64::MAX);
    while total(&weights) > most {
        weights.iter_mut().for_each(|(_, weight)| *weight = (*weight + 1) / 2);
    }
    // Each turn everybody gains its weight, and who has gained most is chosen and pays for all.
    let total = total(&weights);
    let mut gained: Vec<i64> = vec![0; weights.len()];
    let mut chosen = Vec::new();
    for _ in 0..total {
        for (gained, (_, weight)) in gained.iter_mut().zip(&weights) {
            *gained += weight;
        }
        // Of several the first.
        let best = gained.iter().enumerate().max_by_key(|(place, gained)| (**gained, usize::MAX - place));
        let Some(best) = best.map(|(place, _)| place) else { break };
        if let (Some(gained), Some((address, _))) = (gained.get_mut(best), weights.get(best)) {
            *gained -= total;
            chosen.push(*address);
        }
    }
    chosen
}

fn greatest_common_divisor(one: i64, other: i64) -> i64 {
    if other == 0 { one } else { greatest_common_divisor(other, one % other) }
}

/// For each place the instance that ranks highest there: when one goes, only its own places change hands.
pub(crate) fn slots(backends: &[Ipv4Addr]) -> Vec<Ipv4Addr> {
    let count = (backends.len() * 8).next_power_of_two().clamp(MIN_SLOTS, MAX_SLOTS);
    let highest = |slot: usize| backends.iter().copied().max_by_key(|backend| rank(slot, *backend));
    (0..count).filter_map(highest).collect()
}

/// A number that looks random and is the same on every node.
fn rank(slot: usize, backend: Ipv4Addr) -> u64 {
    let slot = u64::try_from(slot).unwrap_or(u64::MAX);
    let mut mixed = ((slot << 32) | u64::from(backend.to_bits())).wrapping_add(0x9e37_79b9_7f4a_7c15);
    // The finisher of SplitMix64.
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 18, 0, last)
    }

    #[test]
    fn weights_are_spread_evenly() {
        let three_to_one = BTreeMap::from([(ip(2), 12), (ip(3), 4)]);
        assert_eq!(in_turn(&three_to_one), [ip(2), ip(2), ip(3), ip(2)]);
        let equal = BTreeMap::from([(ip(2), 16), (ip(3), 16), (ip(4), 16)]);
        assert_eq!(in_turn(&equal), [ip(2), ip(3), ip(4)]);
        assert!(in_turn(&BTreeMap::new()).is_empty());
    }

    #[test]
    fn the_list_is_bounded_and_nobody_is_left_out() {
        let many: BTreeMap<_, _> = (0..200).map(|n| (ip(n), u16::from(n) % 16 + 1)).collect();
        let turns = in_turn(&many);
        assert!(turns.len() <= MAX_TURNS);
        assert!(many.keys().all(|address| turns.contains(address)));
    }

    #[test]
    fn only_the_places_of_who_goes_change_hands() {
        let all: Vec<_> = (2..12).map(ip).collect();
        let before = slots(&all);
        let after = slots(&all[1..]);
        for (before, after) in before.iter().zip(&after) {
            assert!(before == after || *before == all[0]);
        }
        assert!(all.iter().all(|backend| before.iter().filter(|slot| *slot == backend).count() >= 4));
    }
}

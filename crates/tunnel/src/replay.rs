//! Remembers which counters of a session were seen (RFC 6479: a ring of words, so that the window never shifts).

const WORDS: usize = 128;
const BITS: u64 = 64;
/// Counters older than the newest by more than this are refused. Large, because batches of several threads overtake.
const WINDOW: u64 = (WORDS as u64 - 1) * BITS;

/// One session's window.
#[derive(Clone, Debug)]
pub(crate) struct Replay {
    newest: u64,
    seen: [u64; WORDS],
}

impl Default for Replay {
    fn default() -> Self {
        Self { newest: 0, seen: [0; WORDS] }
    }
}

impl Replay {
    /// Whether the counter of an authentic message is new; it counts as seen from now on.
    pub(crate) fn accept(&mut self, counter: u64) -> bool {
        let word = counter / BITS;
        if counter.saturating_add(WINDOW) < self.newest {
            return false;
        }
        if counter > self.newest {
            let newest_word = self.newest / BITS;
            let ahead = (word - newest_word).min(WORDS as u64);
            for step in 1..=ahead {
                self.seen[slot(newest_word + step)] = 0;
            }
            self.newest = counter;
        }
        let bit = 1 << (counter % BITS);
        let seen = &mut self.seen[slot(word)];
        let is_new = *seen & bit == 0;
        *seen |= bit;
        is_new
    }
}

fn slot(word: u64) -> usize {
    (word % WORDS as u64) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn window_has_its_size() {
        let mut replay = Replay::default();
        assert!(replay.accept(WINDOW + 5));
        assert!(!replay.accept(4), "too old");
        assert!(replay.accept(5), "just within");
        assert!(!replay.accept(5), "twice");
        assert!(replay.accept(u64::MAX - 1) && !replay.accept(WINDOW + 6) && !replay.accept(u64::MAX - 1));
    }

    proptest! {
        #[test]
        fn nothing_is_accepted_twice_and_nothing_new_refused(
            steps in prop::collection::vec((0_u64..20_000, prop::bool::weighted(0.1)), 1..300),
        ) {
            let (mut replay, mut seen, mut newest, mut base) = (Replay::default(), BTreeSet::new(), 0, 0);
            for (offset, jumps) in steps {
                base += if jumps { 15_000 } else { 0 };
                let counter = base + offset;
                let expected = counter + WINDOW >= newest && seen.insert(counter);
                prop_assert_eq!(replay.accept(counter), expected, "{}", counter);
                newest = newest.max(counter);
            }
        }
    }
}

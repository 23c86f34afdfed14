//! Which sessions of a peer are in use (white paper, section 5.1: previous, current, next).

/// A session by the name this node gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) local: u32,
    /// Milliseconds.
    pub(crate) created: u64,
    pub(crate) is_initiator: bool,
}

/// At most three: one to send with, one before it whose last packets may be on their way, and one whose first
/// packet we wait for.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    previous: Option<Slot>,
    current: Option<Slot>,
    next: Option<Slot>,
}

impl Slots {
    /// The one to send with.
    pub(crate) fn current(&self) -> Option<Slot> {
        self.current
    }

    /// Every session that is known.
    #[cfg(test)]
    pub(crate) fn all(&self) -> impl Iterator<Item = Slot> {
        [self.previous, self.current, self.next].into_iter().flatten()
    }

    /// Takes a session that may be used at once; returns those that ended.
    pub(crate) fn initiated(&mut self, slot: Slot) -> Vec<Slot> {
        let (next, current) = (self.next.take(), self.current.replace(slot));
        // The other side may have begun to send with `next` although its first packet is not here yet.
        let ended = if next.is_some() { current } else { None };
        let before = std::mem::replace(&mut self.previous, next.or(current));
        before.into_iter().chain(ended).collect()
    }

    /// Takes a session that the initiator has to use first; returns those that ended.
    pub(crate) fn responded(&mut self, slot: Slot) -> Vec<Slot> {
        self.next.replace(slot).into_iter().collect()
    }

    /// The first packet of a session came; returns those that ended, or nothing if it was not waited for.
    pub(crate) fn confirmed(&mut self, local: u32) -> Option<Vec<Slot>> {
        let slot = self.next.take_if(|next| next.local == local)?;
        let before = std::mem::replace(&mut self.previous, self.current.replace(slot));
        Some(before.into_iter().collect())
    }

    /// Removes sessions made before `time`.
    pub(crate) fn expire(&mut self, time: u64) -> Vec<Slot> {
        let slots = [&mut self.previous, &mut self.current, &mut self.next];
        slots.into_iter().filter_map(|slot| slot.take_if(|slot| slot.created < time)).collect()
    }

    /// Removes all.
    pub(crate) fn clear(&mut self) -> Vec<Slot> {
        self.expire(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slot(local: u32) -> Slot {
        Slot { local, created: u64::from(local), is_initiator: true }
    }

    #[test]
    fn a_response_is_not_sent_with_before_it_is_confirmed() {
        let mut slots = Slots::default();
        slots.initiated(slot(1));
        assert_eq!(slots.responded(slot(2)), []);
        assert_eq!(slots.current(), Some(slot(1)));
        assert_eq!(slots.confirmed(7), None);
        assert_eq!(slots.confirmed(2), Some(vec![]));
        assert_eq!(slots.current(), Some(slot(2)));
        assert_eq!(slots.all().count(), 2, "packets of the first may be on their way");
    }

    proptest! {
        #[test]
        fn each_session_ends_once_and_at_most_three_live(steps in prop::collection::vec(0_u8..4, 0..60)) {
            let mut slots = Slots::default();
            let (mut made, mut ended) = (0, Vec::new());
            for step in steps {
                let gone = match step {
                    0 => { made += 1; slots.initiated(slot(made)) }
                    1 => { made += 1; slots.responded(slot(made)) }
                    2 => slots.confirmed(made).unwrap_or_default(),
                    _ => slots.expire(u64::from(made.saturating_sub(4))),
                };
                ended.extend(gone.into_iter().map(|slot| slot.local));
                let mut all: Vec<u32> = slots.all().map(|slot| slot.local).chain(ended.iter().copied()).collect();
                all.sort_unstable();
                prop_assert_eq!(all, (1..=made).collect::<Vec<_>>());
            }
        }
    }
}

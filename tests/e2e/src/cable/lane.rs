//! One direction of a cable: a queue of frames with the time each is due. Pure; time and randomness come from outside.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::Rng as _;
use rand::rngs::StdRng;

use super::{Conditions, Counters, Passage, reset};

/// A frame that would wait longer than this for its turn at the rate is dropped, as by a router with a small buffer.
const LONGEST_BACKLOG: Duration = Duration::from_millis(500);

/// Frames on their way.
#[derive(Debug)]
pub(super) struct Lane {
    queue: VecDeque<(Instant, Vec<u8>)>,
    /// When the last accepted frame has left the sender.
    free_at: Option<Instant>,
    random: StdRng,
}

impl Lane {
    pub(super) fn new(random: StdRng) -> Self {
        Self { queue: VecDeque::new(), free_at: None, random }
    }

    /// Takes a frame that came in at `now`. Returns what has to be sent back at once.
    pub(super) fn push(
        &mut self,
        now: Instant,
        conditions: &Conditions,
        counters: &mut Counters,
        frame: Vec<u8>,
    ) -> Option<Vec<u8>> {
        counters.accepted += 1;
        match conditions.passage {
            Passage::Open => self.queue_up(now, conditions, counters, frame),
            Passage::Silent => counters.vanished += 1,
            Passage::Reset if reset::is_ip(&frame) => {
                counters.vanished += 1;
                let resets = reset::resets(&frame)?;
                counters.reset += 1;
                self.queue.extend(resets.onward.map(|onward| (now, onward)));
                return Some(resets.back);
            }
            // Without address resolution nobody could even try.
            Passage::Reset => self.queue.push_back((now, frame)),
        }
        None
    }

    fn queue_up(&mut self, now: Instant, conditions: &Conditions, counters: &mut Counters, frame: Vec<u8>) {
        if conditions.loss > 0.0 && self.random.random_bool(conditions.loss.clamp(0.0, 1.0)) {
            counters.lost += 1;
            return;
        }
        let mut sent = now;
        if let Some(rate) = conditions.rate {
            let start = self.free_at.map_or(now, |free| free.max(now));
            if start - now > LONGEST_BACKLOG {
                counters.dropped += 1;
                return;
            }
            let bits = frame.len() as f64 * 8.0;
            sent = start + Duration::from_secs_f64(bits / rate.max(1) as f64);
            self.free_at = Some(sent);
        }
        let jitter = conditions.jitter.mul_f64(self.random.random::<f64>());
        let due = sent + conditions.delay + jitter;
        let due = self.queue.back().map_or(due, |(last, _)| due.max(*last));
        self.queue.push_back((due, frame));
    }

    /// The next frame that is due.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Vec<u8>> {
        let is_due = self.queue.front().is_some_and(|(due, _)| *due <= now);
        if is_due { self.queue.pop_front().map(|(_, frame)| frame) } else { None }
    }

    /// When the next frame is due, if there is one.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.queue.front().map(|(due, _)| *due)
    }

    /// What is under way when the cable is cut is gone.
    pub(super) fn cut(&mut self, counters: &mut Counters) {
        counters.vanished += self.queue.len() as u64;
        self.queue.clear();
        self.free_at = None;
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    fn lane() -> (Lane, Counters, Instant) {
        (Lane::new(StdRng::seed_from_u64(7)), Counters::default(), Instant::now())
    }

    /// Sends `count` frames of `size` bytes at `now` and returns how long each was under way.
    fn journey(conditions: Conditions, count: usize, size: usize) -> (Vec<Duration>, Counters) {
        let (mut lane, mut counters, start) = lane();
        for _ in 0..count {
            assert_eq!(lane.push(start, &conditions, &mut counters, vec![0; size]), None);
        }
        let mut journey = Vec::new();
        while let Some(due) = lane.next_due() {
            assert!(lane.pop(due - Duration::from_nanos(1)).is_none(), "a frame came too early");
            assert!(lane.pop(due).is_some());
            journey.push(due - start);
        }
        (journey, counters)
    }

    #[test]
    fn delays_by_what_was_asked_for_plus_at_most_the_jitter() {
        let conditions =
            Conditions { delay: 40 * MILLISECOND, jitter: 10 * MILLISECOND, ..Conditions::default() };
        let (journey, _) = journey(conditions, 1, 100);
        assert!((40 * MILLISECOND..=50 * MILLISECOND).contains(&journey[0]), "{journey:?}");
        // Over many lanes the jitter is spread over its whole range.
        let times = (0..1000).map(|seed| {
            let (_, mut counters, now) = lane();
            let mut lane = Lane::new(StdRng::seed_from_u64(seed));
            lane.push(now, &conditions, &mut counters, vec![0; 100]);
            lane.next_due().unwrap() - now - conditions.delay
        });
        let mean = times.sum::<Duration>() / 1000;
        assert!((4 * MILLISECOND..6 * MILLISECOND).contains(&mean), "{mean:?}");
    }

    #[test]
    fn keeps_the_order_in_spite_of_jitter() {
        let conditions = Conditions { jitter: 50 * MILLISECOND, ..Conditions::default() };
        let (journey, _) = journey(conditions, 200, 100);
        assert_eq!(journey.len(), 200);
        assert!(journey.is_sorted());
    }

    #[test]
    fn loses_the_share_that_was_asked_for() {
        let conditions = Conditions { loss: 0.05, ..Conditions::default() };
        let (journey, counters) = journey(conditions, 20_000, 10);
        assert_eq!(counters.lost + journey.len() as u64, 20_000);
        // Expected are 1000 with a standard deviation of 31.
        assert!((850..1150).contains(&counters.lost), "{counters:?}");
    }

    #[test]
    fn sends_at_the_rate_and_drops_what_would_wait_too_long() {
        let conditions = Conditions { rate: Some(8_000_000), ..Conditions::default() };
        // A thousand bytes take a millisecond.
        let (journey, counters) = journey(conditions, 1000, 1000);
        assert_eq!(journey[0], MILLISECOND);
        assert_eq!(journey[99], 100 * MILLISECOND);
        assert_eq!(counters.dropped + journey.len() as u64, 1000);
        assert_eq!(journey.len(), 501);
    }

    #[test]
    fn a_cut_swallows_what_comes_and_what_is_under_way() {
        let (mut lane, mut counters, now) = lane();
        let slow = Conditions { delay: MILLISECOND, ..Conditions::default() };
        lane.push(now, &slow, &mut counters, vec![0; 10]);
        lane.cut(&mut counters);
        let cut = Conditions { passage: Passage::Silent, ..slow };
        lane.push(now, &cut, &mut counters, vec![0; 10]);
        assert_eq!(lane.next_due(), None);
        assert_eq!((counters.accepted, counters.vanished), (2, 2));
    }
}

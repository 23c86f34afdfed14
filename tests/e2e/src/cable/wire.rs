//! The thread of a cable.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::lane::Lane;
use super::{Direction, Passage, Shared, State, Tap};

/// Frames taken from one end before the other has its turn.
const BURST: usize = 64;

/// A plugged cable. Dropping it ends the devices at both ends.
#[derive(Debug)]
pub(super) struct Wire {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    pub(super) fn start(machine: Tap, switch: Tap, shared: Arc<Shared>, seed: u64) -> anyhow::Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let random = |lane| StdRng::seed_from_u64(seed.wrapping_mul(2).wrapping_add(lane));
        let mut carrier = Carrier {
            ends: [End { tap: machine, is_gone: false }, End { tap: switch, is_gone: false }],
            lanes: [Lane::new(random(0)), Lane::new(random(1))],
            shared,
            stop: Arc::clone(&stop),
        };
        let thread = std::thread::Builder::new().name("cable".to_owned()).spawn(move || carrier.run());
        Ok(Self { stop, thread: Some(thread.context("no thread for a cable")?) })
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let told = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take().filter(|_| told.is_ok()) {
            // It does not panic; and if it did, its devices are gone all the same.
            let _ = thread.join();
        }
    }
}

struct End {
    tap: Tap,
    /// Its machine was switched off.
    is_gone: bool,
}

impl End {
    /// What to wait for. A device that is gone is always ready, with an error; something else stands in for it.
    fn watched<'a>(&'a self, instead: BorrowedFd<'a>) -> PollFd<'a> {
        if self.is_gone {
            return PollFd::from_borrowed_fd(instead, PollFlags::empty());
        }
        PollFd::from_borrowed_fd(self.tap.as_fd(), PollFlags::IN)
    }
}

/// Lane `n` begins at end `n`: 0 is the machine, 1 the switch.
struct Carrier {
    ends: [End; 2],
    lanes: [Lane; 2],
    shared: Arc<Shared>,
    stop: Arc<OwnedFd>,
}

impl Carrier {
    fn run(&mut self) {
        while let Some(ready) = self.wait() {
            let shared = Arc::clone(&self.shared);
            let mut state = shared.lock();
            for (index, is_ready) in ready.into_iter().enumerate() {
                if is_ready {
                    self.accept(index, &mut state);
                }
            }
            for index in 0..2 {
                self.deliver(index, &mut state);
            }
        }
    }

    /// Waits until a frame came in or one is due; `None` at the end of the cable.
    fn wait(&self) -> Option<[bool; 2]> {
        let due = self.lanes.iter().filter_map(Lane::next_due).min();
        let timeout = due.map(|due| timespec(due.saturating_duration_since(Instant::now())));
        let [machine, switch] = &self.ends;
        let stop = self.stop.as_fd();
        let mut watched =
            [machine.watched(stop), switch.watched(stop), PollFd::from_borrowed_fd(stop, PollFlags::IN)];
        match poll(&mut watched, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
        let [first, second, stop] = watched.map(|fd| !fd.revents().is_empty());
        (!stop).then_some([first, second])
    }

    /// Takes what came in at an end.
    fn accept(&mut self, index: usize, state: &mut State) {
        let (Some(end), Some(lane)) = (self.ends.get_mut(index), self.lanes.get_mut(index)) else { return };
        let (conditions, counters) = state.of(direction(index));
        for _ in 0..BURST {
            match end.tap.receive() {
                Ok(Some(frame)) => {
                    let answer = lane.push(Instant::now(), conditions, counters, frame);
                    if let Some(answer) = answer {
                        end.tap.send(&answer);
                    }
                }
                Ok(None) => return,
                Err(_) => {
                    end.is_gone = true;
                    return;
                }
            }
        }
    }

    /// Hands out what is due at the other end.
    fn deliver(&mut self, index: usize, state: &mut State) {
        let (Some(lane), Some(end)) = (self.lanes.get_mut(index), self.ends.get(1 - index)) else { return };
        let (conditions, counters) = state.of(direction(index));
        if conditions.passage == Passage::Silent {
            lane.cut(counters);
        }
        while let Some(frame) = lane.pop(Instant::now()) {
            let is_taken = end.tap.send(&frame);
            *(if is_taken { &mut counters.delivered } else { &mut counters.dropped }) += 1;
        }
    }
}

const fn direction(index: usize) -> Direction {
    if index == 0 { Direction::Outgoing } else { Direction::Incoming }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

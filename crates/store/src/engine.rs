//! Runs a state machine: one call at a time, rows before effects, deadlines on time.

use std::time::Duration;

use oak_control::{Entropy, Outbox};
use oak_model::{Moment, Now};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::clock::SystemClock;
use crate::journal::{Committed, Journal, StoreError};

/// A state machine as the engine drives it.
pub trait Machine: Send + 'static {
    /// What it asks to be done.
    type Effect: Send + 'static;

    /// Takes what the last call asked for.
    fn take_outbox(&mut self) -> Outbox<Self::Effect>;

    /// When it wants to be called next.
    fn next_deadline(&self) -> Option<Moment>;

    /// Its deadline has come.
    fn tick(&mut self, now: Now, entropy: &mut dyn Entropy);
}

impl Machine for oak_control::root::Root {
    type Effect = oak_control::root::Effect;

    fn take_outbox(&mut self) -> Outbox<Self::Effect> {
        self.take_outbox()
    }

    fn next_deadline(&self) -> Option<Moment> {
        self.next_deadline()
    }

    fn tick(&mut self, now: Now, _entropy: &mut dyn Entropy) {
        self.tick(now);
    }
}

impl Machine for oak_control::cluster::Cluster {
    type Effect = oak_control::cluster::Effect;

    fn take_outbox(&mut self) -> Outbox<Self::Effect> {
        self.take_outbox()
    }

    fn next_deadline(&self) -> Option<Moment> {
        self.next_deadline()
    }

    fn tick(&mut self, now: Now, _entropy: &mut dyn Entropy) {
        self.tick(now);
    }
}

impl Machine for oak_control::worker::Worker {
    type Effect = oak_control::worker::Effect;

    fn take_outbox(&mut self) -> Outbox<Self::Effect> {
        self.take_outbox()
    }

    fn next_deadline(&self) -> Option<Moment> {
        self.next_deadline()
    }

    fn tick(&mut self, now: Now, entropy: &mut dyn Entropy) {
        self.tick(now, entropy);
    }
}

/// Cryptographically strong randomness from the operating system, once per engine.
struct SystemEntropy(StdRng);

impl Entropy for SystemEntropy {
    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }
}

/// The engine has ended: the process is shutting down or its store failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node is shutting down or cannot write its state")]
pub struct EngineStopped;

type Reply = Box<dyn FnOnce() + Send>;
type Call<M> = Box<dyn FnOnce(&mut M, Now, &mut dyn Entropy) -> Option<Reply> + Send>;

/// A handle to a running state machine.
pub struct Engine<M> {
    calls: mpsc::Sender<Call<M>>,
}

impl<M> Clone for Engine<M> {
    fn clone(&self) -> Self {
        Self { calls: self.calls.clone() }
    }
}

impl<M> std::fmt::Debug for Engine<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

/// Calls that may wait; when full, callers wait.
const CALLS: usize = 1_024;

/// Steps between the machine and the end of their commit; when full, the machine waits for the disk.
const STEPS: usize = 4_096;

struct Step<E> {
    committed: Option<Committed>,
    effects: Vec<E>,
    reply: Option<Reply>,
}

impl<M: Machine> Engine<M> {
    /// Starts the machine in `tasks`. `perform` carries out effects in order; it must not block.
    /// When a task ends with an error, the store is broken and the process should end.
    pub fn start(
        tasks: &mut JoinSet<Result<(), StoreError>>,
        machine: M,
        journal: impl Journal,
        clock: SystemClock,
        perform: impl FnMut(M::Effect) + Send + 'static,
    ) -> Self {
        let (calls, inbox) = mpsc::channel(CALLS);
        let (steps, committing) = mpsc::channel(STEPS);
        tasks.spawn(drive(machine, journal, clock, inbox, steps));
        tasks.spawn(complete(committing, perform));
        Self { calls }
    }

    /// Calls the machine; resolves with the result when everything the call changed is committed.
    ///
    /// # Errors
    /// The engine has ended; the call may or may not have been stored.
    pub async fn call<T: Send + 'static>(
        &self,
        function: impl FnOnce(&mut M, Now, &mut dyn Entropy) -> T + Send + 'static,
    ) -> Result<T, EngineStopped> {
        let (reply, result) = oneshot::channel();
        let call: Call<M> = Box::new(move |machine, now, entropy| {
            let value = function(machine, now, entropy);
            Some(Box::new(move || {
                // The caller may have gone away; the change is stored all the same.
                let _ = reply.send(value);
            }))
        });
        self.calls.send(call).await.map_err(|_| EngineStopped)?;
        result.await.map_err(|_| EngineStopped)
    }

    /// Calls the machine without waiting for the result.
    ///
    /// # Errors
    /// The engine has ended.
    pub async fn post(
        &self,
        function: impl FnOnce(&mut M, Now, &mut dyn Entropy) + Send + 'static,
    ) -> Result<(), EngineStopped> {
        let call: Call<M> = Box::new(move |machine, now, entropy| {
            function(machine, now, entropy);
            None
        });
        self.calls.send(call).await.map_err(|_| EngineStopped)
    }
}

async fn drive<M: Machine>(
    mut machine: M,
    journal: impl Journal,
    clock: SystemClock,
    mut inbox: mpsc::Receiver<Call<M>>,
    steps: mpsc::Sender<Step<M::Effect>>,
) -> Result<(), StoreError> {
    let mut entropy = SystemEntropy(StdRng::from_os_rng());
    loop {
        submit(machine.take_outbox(), None, &journal, &steps).await?;
        let deadline =
            machine.next_deadline().map(|moment| tokio::time::Instant::from_std(clock.instant(moment)));
        let due = async {
            match deadline {
                // A coarse timer may fire a moment early; the machine would then be asked for nothing.
                Some(at) => tokio::time::sleep_until(at + Duration::from_millis(1)).await,
                None => std::future::pending().await,
            }
        };
        // Both branches are cancel-safe.
        let reply = tokio::select! {
            biased;
            call = inbox.recv() => match call {
                Some(call) => call(&mut machine, clock.now(), &mut entropy),
                None => return Ok(()),
            },
            () = due => {
                machine.tick(clock.now(), &mut entropy);
                None
            }
        };
        submit(machine.take_outbox(), reply, &journal, &steps).await?;
    }
}

async fn submit<E>(
    outbox: Outbox<E>,
    reply: Option<Reply>,
    journal: &impl Journal,
    steps: &mpsc::Sender<Step<E>>,
) -> Result<(), StoreError> {
    if outbox.is_empty() && reply.is_none() {
        return Ok(());
    }
    let committed = if outbox.rows.is_empty() { None } else { Some(journal.submit(outbox.rows)?) };
    let step = Step { committed, effects: outbox.effects, reply };
    steps.send(step).await.map_err(|_| StoreError::WriterGone)
}

async fn complete<E: Send>(
    mut steps: mpsc::Receiver<Step<E>>,
    mut perform: impl FnMut(E) + Send,
) -> Result<(), StoreError> {
    while let Some(step) = steps.recv().await {
        if let Some(committed) = step.committed {
            committed.wait().await?;
        }
        for effect in step.effects {
            perform(effect);
        }
        if let Some(reply) = step.reply {
            reply();
        }
    }
    Ok(())
}

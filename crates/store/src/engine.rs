//! Runs a state machine: one call at a time, rows before effects, deadlines on time.

use std::sync::Arc;
use std::time::Duration;

use oak_control::{Entropy, Outbox};
use oak_metrics::Histogram;
use oak_model::Now;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::clock::SystemClock;
use crate::complete::{Completion, Reply, Step};
use crate::health::Health;
use crate::journal::{Journal, StoreError};
use crate::machine::Hosted;

/// Cryptographically strong randomness from the operating system, once per engine.
struct SystemEntropy(StdRng);

impl Entropy for SystemEntropy {
    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }
}

/// The engine has ended: the process is shutting down or its store failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node is shutting down, or its store is damaged")]
pub struct EngineStopped;

type Call<M> = Box<dyn FnOnce(&mut M, Now, &mut dyn Entropy) -> Option<Reply> + Send>;

/// A handle to a running state machine.
pub struct Engine<M> {
    calls: mpsc::Sender<Call<M>>,
    health: watch::Receiver<Health>,
    commits: Option<Arc<Histogram>>,
}

impl<M> Clone for Engine<M> {
    fn clone(&self) -> Self {
        Self { calls: self.calls.clone(), health: self.health.clone(), commits: self.commits.clone() }
    }
}

impl<M> std::fmt::Debug for Engine<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

/// Calls that may wait; when full, callers wait.
const CALLS: usize = 1_024;

/// Steps handed over between the two halves of the engine; when full, the machine waits.
const STEPS: usize = 1_024;

impl<M: Hosted> Engine<M> {
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
        let (health, commits) = (journal.health(), journal.commits());
        tasks.spawn(drive(machine, journal, clock, inbox, steps));
        tasks.spawn(Completion::<M, _>::new(perform, health.clone()).run(committing));
        Self { calls, health, commits }
    }

    /// Whether the disk below takes everything. While it takes nothing, calls that change something are answered
    /// only when it does again; those that change nothing are answered from memory.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// How long the commits below took, if they are counted.
    #[must_use]
    pub fn commits(&self) -> Option<&Histogram> {
        self.commits.as_deref()
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

async fn drive<M: Hosted>(
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
    let keys: Vec<String> = outbox.rows.iter().map(|row| row.key.clone()).collect();
    let committed = if outbox.rows.is_empty() { None } else { Some(journal.submit(outbox.rows)?) };
    let step = Step { committed, keys, effects: outbox.effects, reply };
    steps.send(step).await.map_err(|_| StoreError::WriterGone)
}

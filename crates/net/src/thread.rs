//! A named thread that owns one piece of state and works on it one job after the other.
//! Threads inherit the network namespace of the thread that starts them, so everything a job does
//! happens in the namespace in which the network was opened.

use std::io;
use std::thread::{Builder, JoinHandle};

use tokio::sync::{mpsc, oneshot};

use crate::error::{NetworkError, Tried};

/// Jobs waiting at once; callers beyond that wait for a place.
const QUEUE: usize = 64;

type Job<S> = Box<dyn FnOnce(&mut S) + Send>;

/// Handle of the thread; dropping it ends the thread after the job at hand.
#[derive(Debug)]
pub(crate) struct StateThread<S> {
    jobs: Option<mpsc::Sender<Job<S>>>,
    thread: Option<JoinHandle<()>>,
}

impl<S: 'static> StateThread<S> {
    /// Starts the thread, which makes its state by `open`; `open` also returns a value for the caller.
    pub(crate) async fn start<T: Send + 'static>(
        name: &str,
        open: impl FnOnce() -> Result<(S, T), NetworkError> + Send + 'static,
    ) -> Result<(Self, T), NetworkError> {
        let (jobs, mut inbox) = mpsc::channel::<Job<S>>(QUEUE);
        let (reply, opened) = oneshot::channel();
        let run = move || {
            let mut state = match open() {
                Ok((state, value)) => {
                    let _ = reply.send(Ok(value));
                    state
                }
                Err(error) => {
                    let _ = reply.send(Err(error));
                    return;
                }
            };
            while let Some(job) = inbox.blocking_recv() {
                job(&mut state);
            }
        };
        let thread: io::Result<_> = Builder::new().name(name.to_owned()).spawn(run);
        let handle =
            Self { jobs: Some(jobs), thread: Some(thread.tried(|| format!("start thread {name}"))?) };
        let value = opened.await.map_err(|_| NetworkError::Stopped)??;
        Ok((handle, value))
    }

    /// Runs a job; it is finished even if the caller stops waiting.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut S) -> T + Send + 'static,
    ) -> Result<T, NetworkError> {
        let (reply, done) = oneshot::channel();
        let job: Job<S> = Box::new(move |state| {
            let _ = reply.send(job(state));
        });
        let jobs = self.jobs.as_ref().ok_or(NetworkError::Stopped)?;
        jobs.send(job).await.map_err(|_| NetworkError::Stopped)?;
        done.await.map_err(|_| NetworkError::Stopped)
    }
}

impl<S> Drop for StateThread<S> {
    /// Waits for the jobs already queued (milliseconds), so that a new owner finds a quiet kernel.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

//! The child's end of the link: a task that keeps a session to the parent for ever.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng};
use rustls::ClientConfig;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::backoff::{Backoff, BackoffPolicy};
use super::offer::BulkOffer;
use super::renew::LastRenewal;
use super::session;
use crate::clock::Clock;
use crate::identity::Identity;
use crate::pki::{Credentials, PkiError, client_tls};
use crate::session::{CloseReason, Item, Line, QueueLimits, SendError};

/// What a child's link is made of. The parent it expects follows from its own identity.
pub struct ChildConfig {
    /// The parent as `host:port`; resolved anew at every attempt.
    pub endpoint: String,
    /// Key and certificates from [`enroll`](crate::enroll()).
    pub credentials: Arc<Credentials>,
    /// Wall clock, for validities.
    pub clock: Clock,
    /// Version of this program, told to the parent.
    pub software: String,
    /// Waiting between attempts.
    pub backoff: BackoffPolicy,
    /// Seed of the jitter; different for every node.
    pub seed: u64,
    /// Messages that may wait for the parent before the session is closed.
    pub queue: usize,
    /// Bytes that may wait for the parent before the session is closed. One message of any size always fits.
    pub queue_bytes: usize,
    /// How often a connected child checks whether its certificate is due for renewal. Default 10 min.
    pub renewal_check: Duration,
}

impl ChildConfig {
    /// Returns the defaults, with a random seed.
    pub fn new(endpoint: impl Into<String>, credentials: Arc<Credentials>, clock: Clock) -> Self {
        Self {
            endpoint: endpoint.into(),
            credentials,
            clock,
            software: env!("CARGO_PKG_VERSION").to_owned(),
            backoff: BackoffPolicy::default(),
            seed: crate::entropy::os_rng().random(),
            queue: 1024,
            queue_bytes: 16 * 1024 * 1024,
            renewal_check: Duration::from_secs(600),
        }
    }
}

/// What happens at the child's end.
#[derive(Debug)]
pub enum ChildEvent {
    /// A session is open.
    Connected {
        /// Its id.
        session: u64,
        /// The payload of the parent's welcome.
        welcome: Bytes,
        /// Our own address on the connection: the one that leads to the parent.
        local_address: SocketAddr,
        /// The parent's address.
        parent_address: SocketAddr,
    },
    /// The parent sent a message.
    Message {
        /// Id of the session.
        session: u64,
        /// The message.
        payload: Bytes,
    },
    /// The parent wants a bulk stream.
    OpenBulk(BulkOffer),
    /// The session that was `Connected` ended. The link goes on trying by itself.
    Disconnected {
        /// Id of the session.
        session: u64,
        /// Why it ended.
        reason: CloseReason,
    },
    /// An attempt to connect failed. The link goes on trying by itself.
    AttemptFailed {
        /// Why, for people.
        reason: String,
        /// Time until the next attempt.
        retry_in: Duration,
    },
}

/// Starts links of children.
pub struct ChildLink;

impl ChildLink {
    /// Starts a task that keeps a session to the parent.
    ///
    /// `hello` is asked for the payload at every attempt. Messages sent from the moment it is called belong to the
    /// new session and follow its hello. `events` gets what happens; when it is full, the link waits. The task ends
    /// with [`ChildHandle::shutdown`], when the handle is dropped, or when the receiver of `events` is gone.
    pub fn spawn<H, F>(
        config: ChildConfig,
        hello: H,
        events: mpsc::Sender<ChildEvent>,
    ) -> Result<ChildHandle, PkiError>
    where
        H: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Bytes> + Send + 'static,
    {
        let parent = config.credentials.identity().parent();
        let parent = parent.ok_or(PkiError::Request("the root has no parent to connect to"))?;
        let tls = client_tls(&config.credentials, parent.clone(), config.clock.clone())?;
        let sender = ChildSender { line: Arc::default() };
        let stop = CancellationToken::new();
        let hurry = Arc::new(Notify::new());
        let runner = Runner {
            parent,
            tls,
            hello: Box::new(move || Box::pin(hello())),
            events,
            sender: sender.clone(),
            stop: stop.clone(),
            hurry: Arc::clone(&hurry),
            last_renewal: Arc::default(),
            config,
        };
        let task = tokio::spawn(runner.run());
        Ok(ChildHandle { sender, stop, hurry, task: Some(task) })
    }
}

/// Sends messages to the parent. Cheap to clone.
#[derive(Clone)]
pub struct ChildSender {
    line: Arc<Mutex<Option<Arc<Line>>>>,
}

impl ChildSender {
    /// Queues a message without waiting. Without a session it is not taken: the next hello carries the full state.
    pub fn send(&self, payload: Bytes) -> Result<(), SendError> {
        let line = self.line.lock().unwrap_or_else(PoisonError::into_inner).clone();
        line.ok_or(SendError::NotConnected)?.push(Item::Message(payload))
    }

    pub(crate) fn set(&self, line: Option<Arc<Line>>) {
        *self.line.lock().unwrap_or_else(PoisonError::into_inner) = line;
    }
}

/// Handle on a child's link.
pub struct ChildHandle {
    sender: ChildSender,
    stop: CancellationToken,
    hurry: Arc<Notify>,
    task: Option<JoinHandle<()>>,
}

impl ChildHandle {
    /// See [`ChildSender::send`].
    pub fn send(&self, payload: Bytes) -> Result<(), SendError> {
        self.sender.send(payload)
    }

    /// Returns a sender to give away.
    pub fn sender(&self) -> ChildSender {
        self.sender.clone()
    }

    /// Ends the present wait between attempts, for example because the network of the node changed.
    pub fn reconnect_now(&self) {
        self.hurry.notify_one();
    }

    /// Sends what is queued, leaves in good order (within 2 s) and stops.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            // A panic in the task was reported already; there is nothing left to stop.
            let _ = task.await;
        }
    }
}

impl Drop for ChildHandle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Makes the payload of a hello.
pub(crate) type Hello = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Bytes> + Send>> + Send + Sync>;

/// The task of a link.
pub(crate) struct Runner {
    pub config: ChildConfig,
    pub parent: Identity,
    pub tls: Arc<ClientConfig>,
    pub hello: Hello,
    pub events: mpsc::Sender<ChildEvent>,
    pub sender: ChildSender,
    pub stop: CancellationToken,
    pub hurry: Arc<Notify>,
    pub last_renewal: Arc<LastRenewal>,
}

impl Runner {
    pub(crate) fn queue_limits(&self) -> QueueLimits {
        QueueLimits { messages: self.config.queue.max(1), bytes: self.config.queue_bytes }
    }

    async fn run(self) {
        let mut backoff = Backoff::new(self.config.backoff);
        let mut rng = StdRng::seed_from_u64(self.config.seed);
        loop {
            let started = Instant::now();
            let ended = session::run(&self).await;
            self.sender.set(None);
            if self.events.is_closed() {
                return;
            }
            let wait = backoff.next_wait(started.elapsed(), ended.lived(), &mut rng);
            let retry_in = wait;
            let event = match ended {
                session::Ended::Session { id, reason, .. } => {
                    info!(parent = %self.parent, session = id, %reason, ?retry_in, "session to the parent ended");
                    ChildEvent::Disconnected { session: id, reason }
                }
                session::Ended::Attempt(reason) => {
                    warn!(parent = %self.parent, endpoint = self.config.endpoint, reason, ?retry_in, "no session to the parent");
                    ChildEvent::AttemptFailed { reason, retry_in }
                }
            };
            if self.stop.is_cancelled() {
                // Whoever stops the link may not read its events any more.
                let _ = self.events.try_send(event);
                return;
            }
            tokio::select! {
                sent = self.events.send(event) => if sent.is_err() { return },
                () = self.stop.cancelled() => return,
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.hurry.notified() => {}
                () = self.stop.cancelled() => return,
            }
        }
    }
}

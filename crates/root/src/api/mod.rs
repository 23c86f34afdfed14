//! The REST API of the root (client contract, sections 1.1 to 1.5), one file per group of endpoints.
//!
//! ```text
//! request → guard (CORS, limits, panics, a task of its own for changes) → trail (audit log) → disk → router → extractors (body, caller) → handler → engine → record → answer
//! ```
//!
//! Every error is a JSON object with `code`, `status` and `message`, made in `error`.

mod about;
mod answer;
mod applications;
mod audit;
mod auth;
mod body;
mod caller;
mod clusters;
mod confirmations;
mod cors;
mod disk;
mod error;
mod event_stream;
mod events;
mod exec;
mod explain;
mod fields;
mod forgotten;
mod guard;
mod health;
mod instances;
mod log_events;
mod logs;
mod members;
mod metrics;
mod network;
mod openapi;
mod organizations;
mod parameter;
mod peer;
mod permission;
mod quotas;
mod record;
mod removal;
mod router;
mod scope;
mod secrets;
mod services;
mod slots;
mod sse;
mod standing;
mod tokens;
mod trail;
mod updates;
mod users;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use oak_control::root::Root;
use oak_link::Fingerprint;
use oak_store::{Engine, EngineStopped, Sealer, SystemClock};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tracing::warn;

use self::slots::Slots;
use self::trail::Allowance;
use crate::accounts::{
    Accounts, DEFAULT_PASSWORD, PasswordError, Passwords, ROOT_ORGANIZATION, Signer, Throttle,
};
use crate::audit::AuditLog;
use crate::events::EventHub;
use crate::mail::Mailer;

pub use confirmations::{
    AvailabilityConfirmations, Confirmation, Confirmations, RemovalConfirmations, TokenConfirmations,
};
pub use exec::{ByteSender, ExecSource, ExecStreams};
pub use logs::{BoxFuture, LogError, LogRequest, LogSource, LogStream};

/// How long changes under way may take at shutdown.
const DRAIN: Duration = Duration::from_secs(10);

/// What the API is made of.
pub struct ApiParts {
    /// The root's state.
    pub root: Engine<Root>,
    /// Users and organisations.
    pub accounts: Engine<Accounts>,
    /// Who did what.
    pub audit: Engine<AuditLog>,
    /// Sends links for forgotten passwords; `None`: not configured.
    pub mailer: Option<Mailer>,
    /// Checks passwords.
    pub passwords: Passwords,
    /// Issues tokens to users.
    pub signer: Signer,
    /// Clock of this process; the one the engines use.
    pub clock: SystemClock,
    /// Fingerprint of the root authority; part of join tokens.
    pub authority: Fingerprint,
    /// Fetches the output of instances.
    pub logs: Arc<dyn LogSource>,
    /// Runs programs inside instances.
    pub exec: Arc<dyn ExecSource>,
    /// Tells what happens.
    pub events: EventHub,
    /// Seals secrets.
    pub secrets: Arc<Sealer>,
    /// Told about worker tokens that clusters have stored.
    pub confirmations: TokenConfirmations,
    /// Told about workers that clusters have opened or closed.
    pub availability: AvailabilityConfirmations,
    /// Workers that were removed, or why not.
    pub removals: RemovalConfirmations,
}

/// The API, ready to be served.
pub struct RootApi(Shared);

impl RootApi {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: ApiParts) -> Self {
        Self(Arc::new(Api {
            parts,
            throttle: Throttle::default(),
            refusals: Allowance::default(),
            requests: Arc::new(Semaphore::new(guard::CONCURRENT)),
            changes: TaskTracker::new(),
            log_streams: Slots::new("outputs open", logs::CONCURRENT, logs::PER_USER),
            event_streams: Slots::new("event streams open", events::CONCURRENT, events::PER_USER),
            execs: Slots::new("programs running", exec::CONCURRENT, exec::PER_USER),
            metrics: metrics::Requests::default(),
            censuses: metrics::Censuses::default(),
        }))
    }

    /// The routes of the API and of the status page. Requests should carry `ConnectInfo<SocketAddr>`; those without
    /// count as coming from another machine.
    pub fn router(&self) -> axum::Router {
        router::build(Arc::clone(&self.0))
    }

    /// Waits until the changes under way are made and recorded, at most 10 s. To be called once nothing is served any more
    /// and before the engines stop.
    pub async fn drained(&self) {
        self.0.changes.close();
        if tokio::time::timeout(DRAIN, self.0.changes.wait()).await.is_err() {
            warn!(requests = self.0.changes.len(), "stopping before some requests were finished");
        }
    }

    /// The routes of the network information API alone, for the port it has of its own.
    pub fn network_router(&self) -> axum::Router {
        router::build_network(Arc::clone(&self.0))
    }
}

/// The paths of all routes, with the names of their parameters in braces.
pub fn paths() -> impl Iterator<Item = &'static str> {
    router::routes().into_iter().map(|(path, _)| path)
}

/// Creates the first user if there is none yet.
///
/// # Errors
/// The password cannot be hashed, or the engine has stopped.
pub async fn seed_accounts(accounts: &Engine<Accounts>, passwords: &Passwords) -> Result<(), SeedError> {
    if !accounts.call(|accounts, _, _| accounts.needs_seed()).await? {
        return Ok(());
    }
    let hash = passwords.hash(DEFAULT_PASSWORD.to_owned()).await?;
    accounts.call(move |accounts, now, entropy| accounts.seed(now, entropy, hash)).await?;
    Ok(())
}

/// Tells the root which organisations there are: applications belong to them.
///
/// # Errors
/// An engine has stopped.
pub async fn settle_organizations(
    root: &Engine<Root>,
    accounts: &Engine<Accounts>,
) -> Result<(), EngineStopped> {
    let known = accounts.call(|accounts, _, _| {
        let home = accounts.organization_named(ROOT_ORGANIZATION).map(|organization| organization.id);
        (home, accounts.organizations().map(|organization| organization.id).collect::<Vec<_>>())
    });
    let (home, known) = known.await?;
    if let Some(home) = home {
        root.call(move |root, _, _| root.settle_organizations(home, known)).await?;
    }
    Ok(())
}

/// The first user cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// Its password cannot be hashed.
    #[error("cannot create the first user")]
    Password(#[from] PasswordError),
    /// It cannot be stored.
    #[error("cannot store the first user")]
    Stopped(#[from] EngineStopped),
}

/// What handlers share.
struct Api {
    parts: ApiParts,
    throttle: Throttle,
    refusals: Allowance,
    requests: Arc<Semaphore>,
    /// Requests that are finished whether or not their client waits.
    changes: TaskTracker,
    metrics: metrics::Requests,
    censuses: metrics::Censuses,
    log_streams: Slots,
    event_streams: Slots,
    execs: Slots,
}

type Shared = Arc<Api>;

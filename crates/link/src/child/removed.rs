//! Whether a node still belongs to its parent.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::dial::{Target, dial};
use crate::clock::Clock;
use crate::parent::{REFUSED, REMOVED};
use crate::pki::{Credentials, client_tls};
use crate::proto::RenewCall;

/// How long the parent may take; a node that starts does not wait longer for one that is away.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks the parent whether it has removed this node. False also if it cannot be asked, or is an older release: then the
/// node goes on as what it was.
pub async fn is_removed(credentials: &Arc<Credentials>, endpoint: &str, clock: Clock) -> bool {
    timeout(PATIENCE, ask(credentials, endpoint, clock)).await.ok().flatten().unwrap_or(false)
}

async fn ask(credentials: &Arc<Credentials>, endpoint: &str, clock: Clock) -> Option<bool> {
    let parent = credentials.identity().parent()?;
    let tls = client_tls(credentials, parent, clock).ok()?;
    let mut dialled = dial(&Target::Endpoint(endpoint.into()), tls).await.ok()?;
    // Of all calls the one without consequences: a certificate that is not wanted is dropped.
    let call = RenewCall { csr: credentials.request().ok()?.into() };
    let refused = dialled.client.renew(call).await.err()?;
    let word = refused.metadata().get(REFUSED).and_then(|word| word.to_str().ok());
    Some(word == Some(REMOVED))
}

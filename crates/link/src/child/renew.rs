//! Renewal of the child's own certificate over the connection of its session.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::time::Instant;
use tracing::{info, warn};

use super::dial::Channel;
use crate::pki::{Credentials, PkiError};
use crate::proto::RenewCall;
use crate::proto::link_client::LinkClient;

#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error("the parent did not renew the certificate")]
    Call(#[source] Box<tonic::Status>),
    #[error("the renewed certificate is not usable")]
    Pki(#[from] PkiError),
    #[error("the work on files was cut off")]
    Stopped,
}

/// Shortest time between two renewals: a node whose clock is years ahead would else renew at every check.
const RENEWAL_PAUSE: Duration = Duration::from_secs(24 * 3600);

/// When the last renewal of this process succeeded, if any.
#[derive(Default)]
pub(crate) struct LastRenewal(Mutex<Option<Instant>>);

impl LastRenewal {
    /// Tells whether another renewal may be tried.
    pub(crate) fn is_over(&self) -> bool {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_none_or(|last| last.elapsed() >= RENEWAL_PAUSE)
    }
}

/// Renews the certificate; a failure is logged and tried again at the next check, long before the end.
pub(crate) async fn renew(
    mut client: LinkClient<Channel>,
    credentials: Arc<Credentials>,
    last: Arc<LastRenewal>,
) {
    match try_renew(&mut client, &credentials).await {
        Ok(()) => {
            *last.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            info!(identity = %credentials.identity(), "own certificate renewed");
        }
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            warn!(%error, cause, "own certificate not renewed");
        }
    }
}

async fn try_renew(
    client: &mut LinkClient<Channel>,
    credentials: &Arc<Credentials>,
) -> Result<(), RenewError> {
    let csr = credentials.request()?.into();
    let answer =
        client.renew(RenewCall { csr }).await.map_err(|status| RenewError::Call(Box::new(status)))?;
    let chain = answer.into_inner().chain.into_iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    let credentials = Arc::clone(credentials);
    let installed = tokio::task::spawn_blocking(move || credentials.install(chain)).await;
    installed.map_err(|_| RenewError::Stopped)?.map_err(RenewError::Pki)
}

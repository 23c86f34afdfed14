//! Further ports of the root: 80 for the page, 10099 for the network information API. They are conveniences that make
//! room for applications.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use oak_link::{PortConfig, PortLimits};
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// What to serve, and where.
#[derive(Clone)]
pub struct SecondPort {
    /// What it is called in the log.
    pub name: &'static str,
    /// Where to listen.
    pub address: SocketAddr,
    /// What to serve. Everything is at the main port, too.
    pub router: Router,
    /// For browsers that try TLS first.
    pub tls: Arc<ServerConfig>,
    /// Limits of the port.
    pub limits: PortLimits,
    /// Port at which it always stays; named in the log.
    pub main_port: u16,
}

impl std::fmt::Debug for SecondPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecondPort")
            .field("name", &self.name)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Serves until `shutdown`. While `claimed` holds the port, because an application on this machine uses it, the port
/// is left alone. A port that cannot be bound is no error: everything is at the main port, too.
pub async fn serve(
    second: SecondPort,
    mut claimed: watch::Receiver<BTreeSet<u16>>,
    shutdown: CancellationToken,
) {
    let port = second.address.port();
    loop {
        if !until(&mut claimed, &shutdown, |ports| !ports.contains(&port)).await {
            return;
        }
        let turn = shutdown.child_token();
        let serving = listen(&second, turn.clone());
        let until_claimed = async {
            let goes_on = until(&mut claimed, &shutdown, |ports| ports.contains(&port)).await;
            if goes_on {
                info!(
                    "port {port} is used by an application now; the {} stays at port {}",
                    second.name, second.main_port
                );
            }
            turn.cancel();
            goes_on
        };
        let ((), goes_on) = tokio::join!(serving, until_claimed);
        if !goes_on {
            return;
        }
    }
}

/// Waits for a state of the claims. False at shutdown, which is also waited for when nobody is left to change the
/// claims: they stay as they are then.
async fn until(
    claimed: &mut watch::Receiver<BTreeSet<u16>>,
    shutdown: &CancellationToken,
    state: impl FnMut(&BTreeSet<u16>) -> bool,
) -> bool {
    let reached = async { claimed.wait_for(state).await.is_ok() };
    let is_reached = tokio::select! {
        biased;
        () = shutdown.cancelled() => false,
        is_reached = reached => is_reached,
    };
    if !is_reached {
        shutdown.cancelled().await;
    }
    is_reached
}

async fn listen(second: &SecondPort, turn: CancellationToken) {
    let listener = match oak_link::listen(second.address).await {
        Ok(listener) => listener,
        Err(error) => {
            warn!(
                address = %second.address,
                %error,
                "cannot serve the {} here; it stays at port {}",
                second.name,
                second.main_port
            );
            return;
        }
    };
    info!(address = %second.address, "{} is served here too", second.name);
    let config = PortConfig {
        plain: second.router.clone(),
        tls: second.router.clone(),
        tls_config: Arc::clone(&second.tls),
        limits: second.limits.clone(),
    };
    oak_link::serve(listener, config, turn).await;
}

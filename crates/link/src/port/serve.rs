//! Accepts connections, within limits, until shutdown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::connection::{Connection, handle};
use super::places::{Place, Places};

/// Limits of one port.
#[derive(Clone, Debug)]
pub struct PortLimits {
    /// Connections without client certificate at a time; more wait in the kernel's queue. Default 1024.
    pub anonymous: usize,
    /// How many of them may come from one address (of IPv6: one `/64`); more are closed at once. Default 256.
    pub anonymous_per_address: usize,
    /// Connections with a verified client certificate at a time. When reached, further ones count as anonymous.
    /// Default 16384.
    pub peers: usize,
    /// Time until the first byte, and until the TLS handshake is done. Default 10 s.
    pub handshake: Duration,
    /// Time until the head of a request is complete. Default 15 s.
    pub header: Duration,
    /// Time a connection may be open without a request. Default 60 s.
    pub idle: Duration,
    /// Time a client may leave bytes that were sent to it unread or unacknowledged, once the buffers between both are full;
    /// then its connection is cut. Default 120 s.
    pub unread: Duration,
    /// Size of the head of a request in bytes, at least 8 KiB. Default 64 KiB.
    pub header_bytes: usize,
    /// Time running requests may take to end at shutdown. Default 10 s.
    pub drain: Duration,
}

impl Default for PortLimits {
    fn default() -> Self {
        Self {
            anonymous: 1024,
            anonymous_per_address: 256,
            peers: 16 * 1024,
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(15),
            idle: Duration::from_secs(60),
            unread: Duration::from_secs(120),
            header_bytes: 64 * 1024,
            drain: Duration::from_secs(10),
        }
    }
}

/// What a port serves.
pub struct PortConfig {
    /// For plain HTTP.
    pub plain: axum::Router,
    /// For TLS: usually the same merged with [`ParentLink::routes`](crate::ParentLink::routes).
    pub tls: axum::Router,
    /// From [`server_tls`](crate::server_tls).
    pub tls_config: Arc<ServerConfig>,
    /// Limits.
    pub limits: PortLimits,
}

/// Serves a port until `shutdown` is cancelled and running requests have ended or the drain time is over.
///
/// Every request has the extension `ConnectInfo<SocketAddr>`; requests over TLS with a client certificate also have
/// a [`PeerIdentity`](crate::PeerIdentity). Dropping the future closes all connections.
pub async fn serve(listener: TcpListener, config: PortConfig, shutdown: CancellationToken) {
    let stop_now = CancellationToken::new();
    let _stop_when_dropped = stop_now.clone().drop_guard();
    let connections = TaskTracker::new();
    let places = Places::new(config.limits.anonymous, config.limits.anonymous_per_address);
    let context = Arc::new(Connection {
        plain: config.plain,
        tls: config.tls,
        acceptor: config.tls_config.into(),
        peers: Arc::new(Semaphore::new(config.limits.peers.clamp(1, Semaphore::MAX_PERMITS))),
        limits: config.limits,
        shutdown: shutdown.clone(),
    });
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            () = shutdown.cancelled() => break,
        };
        let Some((stream, address, place)) = accepted else { continue };
        let context = Arc::clone(&context);
        let stop_now = stop_now.clone();
        connections.spawn(async move {
            tokio::select! {
                () = handle(context, stream, address, place) => {}
                () = stop_now.cancelled() => {}
            }
        });
    }
    // Free the port at once: the next process may already want it.
    drop(listener);
    connections.close();
    if tokio::time::timeout(context.limits.drain, connections.wait()).await.is_err() {
        warn!(connections = connections.len(), "closing connections that did not end in time");
        stop_now.cancel();
        connections.wait().await;
    }
}

type Accepted = (tokio::net::TcpStream, SocketAddr, Place);

async fn accept(listener: &TcpListener, places: &Places) -> Option<Accepted> {
    let free = places.free().await?;
    match listener.accept().await {
        Ok((stream, address)) => {
            // A listener of both families says addresses of IPv4 in the form of IPv6.
            let address = SocketAddr::new(address.ip().to_canonical(), address.port());
            places.take(free, address.ip()).map(|place| (stream, address, place))
        }
        Err(error) => {
            // Out of file descriptors, or the peer left already. Do not spin.
            warn!(%error, "cannot accept a connection");
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

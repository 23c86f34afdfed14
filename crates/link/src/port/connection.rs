//! One connection: plain or TLS by its first byte, then HTTP until it ends, idles or the port drains.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustix::net::sockopt;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tracing::debug;

use super::activity::{Activity, Counted};
use super::places::Place;
use super::serve::PortLimits;
use crate::pki::PeerIdentity;

/// First byte of a TLS record that holds a handshake (RFC 8446, 5.1). No HTTP request starts with it.
const TLS_HANDSHAKE: u8 = 0x16;

/// How long an idle connection may take to say goodbye; nothing of value is on its way.
const CLOSING: Duration = Duration::from_secs(1);

/// Silence after which the kernel asks whether the other side is there; asked again four times as often.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// HTTP/2 windows: members may fill a fast line, others should not be able to fill our memory.
const PEER_WINDOW: u32 = 1024 * 1024;
const ANONYMOUS_WINDOW: u32 = 128 * 1024;

/// What all connections of a port share.
pub(crate) struct Connection {
    pub plain: axum::Router,
    pub tls: axum::Router,
    pub acceptor: TlsAcceptor,
    pub peers: Arc<Semaphore>,
    pub limits: PortLimits,
    pub shutdown: CancellationToken,
}

/// Serves one connection to its end. `place` is its place among the anonymous ones.
pub(crate) async fn handle(context: Arc<Connection>, stream: TcpStream, address: SocketAddr, place: Place) {
    // Small frames must not wait for others; if this fails the connection is dead anyway.
    let _ = stream.set_nodelay(true);
    notice_the_end(&stream, context.limits.unread);
    let mut first = [0];
    let peeked = tokio::select! {
        peeked = timeout(context.limits.handshake, stream.peek(&mut first)) => peeked,
        () = context.shutdown.cancelled() => return,
    };
    match (peeked, first) {
        (Ok(Ok(1)), [TLS_HANDSHAKE]) => handle_tls(&context, stream, address, place).await,
        (Ok(Ok(1)), _) => {
            let router = context.plain.clone();
            serve_http(&context, TokioIo::new(stream), Caller { address, peer: None }, router).await;
        }
        _ => debug!(%address, "connection closed before its first byte"),
    }
}

/// Lets the kernel cut a connection whose other side is gone without a word, or takes nothing for so long. Those who
/// wait for room to write would wait for ever otherwise (tcp(7), `TCP_USER_TIMEOUT`).
fn notice_the_end(stream: &TcpStream, unread: Duration) {
    let millis = u32::try_from(unread.as_millis()).unwrap_or(u32::MAX);
    let set = sockopt::set_tcp_user_timeout(stream, millis)
        .and_then(|()| sockopt::set_tcp_keepidle(stream, KEEPALIVE))
        .and_then(|()| sockopt::set_tcp_keepintvl(stream, KEEPALIVE / 4))
        .and_then(|()| sockopt::set_socket_keepalive(stream, true));
    if let Err(error) = set {
        // Only the end of this one connection may be noticed later.
        debug!(%error, "a connection stays without keepalive");
    }
}

async fn handle_tls(context: &Connection, stream: TcpStream, address: SocketAddr, place: Place) {
    let stream = match timeout(context.limits.handshake, context.acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            debug!(%address, %error, "tls handshake failed");
            return;
        }
        Err(_) => {
            debug!(%address, "tls handshake took too long");
            return;
        }
    };
    let chain = stream.get_ref().1.peer_certificates();
    let peer = chain.and_then(PeerIdentity::of_verified);
    // Members have places of their own, so strangers cannot lock them out for long.
    let member_place = peer.as_ref().and_then(|_| Arc::clone(&context.peers).try_acquire_owned().ok());
    let _held = Held::prefer(member_place, place);
    serve_http(context, TokioIo::new(stream), Caller { address, peer }, context.tls.clone()).await;
}

/// Closes the connection of a request at once when cancelled; an extension of every request. For peers that do not
/// read: HTTP/2 has no way to drop what is on its way to them.
#[derive(Clone)]
pub(crate) struct Hangup(pub CancellationToken);

/// The one place a connection holds.
enum Held {
    Member { _place: OwnedSemaphorePermit },
    Anonymous { _place: Place },
}

impl Held {
    /// Takes the member's place and gives the anonymous one back now, not at the end of the connection.
    fn prefer(member: Option<OwnedSemaphorePermit>, anonymous: Place) -> Self {
        match member {
            Some(place) => Self::Member { _place: place },
            None => Self::Anonymous { _place: anonymous },
        }
    }
}

#[derive(Clone)]
struct Caller {
    address: SocketAddr,
    peer: Option<PeerIdentity>,
}

async fn serve_http<I>(context: &Connection, io: I, caller: Caller, router: axum::Router)
where
    I: Read + Write + Unpin + Send + 'static,
{
    let limits = &context.limits;
    let builder = http_builder(limits, caller.peer.is_some());
    let activity = Activity::new();
    let hangup = Hangup(CancellationToken::new());
    let service = service_fn({
        let activity = activity.clone();
        let (caller, hangup) = (caller.clone(), hangup.clone());
        move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(hangup.clone());
            answer(router.clone(), caller.clone(), activity.clone(), request)
        }
    });
    let connection = builder.serve_connection_with_upgrades(io, service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => Some(result),
        () = activity.idle(limits.header, limits.idle) => {
            connection.as_mut().graceful_shutdown();
            timeout(CLOSING, connection.as_mut()).await.ok()
        }
        () = hangup.0.cancelled() => None,
        () = context.shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            // The port's own drain time limits this.
            Some(connection.as_mut().await)
        }
    };
    if let Some(Err(error)) = result {
        debug!(address = %caller.address, %error, "connection ended with an error");
    }
}

fn http_builder(limits: &PortLimits, is_peer: bool) -> Builder<TokioExecutor> {
    let window = if is_peer { PEER_WINDOW } else { ANONYMOUS_WINDOW };
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_buf_size(limits.header_bytes.max(8 * 1024));
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(window)
        .initial_connection_window_size(window)
        .max_concurrent_streams(64)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        // Finds dead peers; says nothing while frames come in anyway, as in every session.
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

async fn answer(
    router: axum::Router,
    caller: Caller,
    activity: Activity,
    request: Request<Incoming>,
) -> Result<Response<Counted>, std::convert::Infallible> {
    let in_flight = activity.start();
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(ConnectInfo(caller.address));
    if let Some(peer) = caller.peer {
        request.extensions_mut().insert(peer);
    }
    let response = router.oneshot(request).await?;
    Ok(response.map(|body| Counted::new(body, in_flight)))
}

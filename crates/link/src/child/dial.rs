//! Opens one TLS and HTTP/2 connection to the parent.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::pki::PeerRejected;
use crate::pki::find_rejection;
use crate::proto::link_client::LinkClient;
use crate::session::MAX_FRAME;

/// Time for each address of the parent, and for each handshake.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;

/// Why no connection to the parent came about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The endpoint is not of the form `host:port`.
    #[error("{endpoint:?} is not of the form host:port")]
    Endpoint {
        /// The endpoint.
        endpoint: String,
    },
    /// The name could not be resolved.
    #[error("cannot resolve {endpoint}")]
    Resolve {
        /// The endpoint.
        endpoint: String,
        /// The cause.
        source: io::Error,
    },
    /// No address of the parent could be reached; with the last one and its cause.
    #[error("cannot reach {address}")]
    Reach {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// Whoever answered is not the parent.
    #[error("{address} answered, but is not the parent")]
    Rejected {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: PeerRejected,
    },
    /// The TLS handshake failed.
    #[error("cannot speak tls with {address}")]
    Tls {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The HTTP/2 handshake failed.
    #[error("cannot speak http/2 with {address}")]
    Http {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: hyper::Error,
    },
}

/// A connection to the parent.
pub(crate) struct Dialled {
    pub client: LinkClient<Channel>,
    /// Our own address on it.
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// Stops the connection at once, dropping what is not sent.
    pub driver: AbortHandle,
    /// Stops also what `hyper` does on its own, which would wait for a parent that does not read.
    pub hangup: CancellationToken,
}

/// Runs the tasks of one connection until it is hung up.
#[derive(Clone)]
struct Tied(CancellationToken);

impl<F> hyper::rt::Executor<F> for Tied
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        let hangup = self.0.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = task => {}
                () = hangup.cancelled() => {}
            }
        });
    }
}

/// Tells where to dial.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// Resolve `host:port` now.
    Endpoint(Arc<str>),
    /// The address a session uses.
    Address(SocketAddr),
}

/// Connects to the parent. The connection lives until its client and all its streams are dropped.
pub(crate) async fn dial(target: &Target, tls: Arc<ClientConfig>) -> Result<Dialled, ConnectError> {
    let (stream, address) = connect(target).await?;
    // Small frames must not wait for others; if this fails the handshake fails too.
    let _ = stream.set_nodelay(true);
    let local = stream.local_addr().map_err(|source| ConnectError::Reach { address, source })?;
    // The verifier goes by identities, the name only fills a field; an address is not sent as SNI.
    let name = ServerName::IpAddress(address.ip().into());
    let handshake = timeout(STEP_TIMEOUT, TlsConnector::from(tls).connect(name, stream)).await;
    let stream = match handshake.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(stream) => stream,
        Err(error) => {
            return Err(match find_rejection(&error) {
                Some(source) => ConnectError::Rejected { address, source },
                None => ConnectError::Tls { address, source: error },
            });
        }
    };
    let hangup = CancellationToken::new();
    let (requests, connection) = http2::Builder::new(Tied(hangup.clone()))
        .timer(TokioTimer::new())
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_header_list_size(64 * 1024)
        // For bulk streams, which have no heartbeats of their own.
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20))
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|source| ConnectError::Http { address, source })?;
    let driver = tokio::spawn(async move {
        // How it ends is seen by the calls on it.
        let _ = connection.await;
    });
    let client = LinkClient::with_origin(Channel(requests), Uri::from_static("https://parent"))
        .max_decoding_message_size(MAX_FRAME);
    Ok(Dialled { client, local, remote: address, driver: driver.abort_handle(), hangup })
}

async fn connect(target: &Target) -> Result<(TcpStream, SocketAddr), ConnectError> {
    let addresses: Vec<SocketAddr> = match target {
        Target::Address(address) => vec![*address],
        Target::Endpoint(endpoint) => resolve(endpoint).await?,
    };
    let mut last = None;
    for address in addresses {
        match timeout(STEP_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok((stream, address)),
            Ok(Err(source)) => last = Some(ConnectError::Reach { address, source }),
            Err(_) => last = Some(ConnectError::Reach { address, source: io::ErrorKind::TimedOut.into() }),
        }
    }
    Err(last.unwrap_or_else(|| ConnectError::Resolve {
        endpoint: format!("{target:?}"),
        source: io::Error::new(io::ErrorKind::NotFound, "the name has no address"),
    }))
}

async fn resolve(endpoint: &str) -> Result<Vec<SocketAddr>, ConnectError> {
    let port =
        endpoint.rsplit_once(':').filter(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if port.is_none() {
        return Err(ConnectError::Endpoint { endpoint: endpoint.to_owned() });
    }
    let found = timeout(STEP_TIMEOUT, lookup_host(endpoint)).await;
    let found = found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let found = found.map_err(|source| ConnectError::Resolve { endpoint: endpoint.to_owned(), source })?;
    Ok(found.take(MAX_ADDRESSES).collect())
}

/// One HTTP/2 connection as the transport of a gRPC client. Unlike tonic's own channel it never reconnects by
/// itself, so the end of the connection is seen at once.
#[derive(Clone)]
pub(crate) struct Channel(SendRequest<tonic::body::Body>);

impl tower::Service<Request<tonic::body::Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

//! A registry on 127.0.0.1 that remembers every request and fails on demand.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use oak_image::Digest;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::images;

/// How requests for a path go wrong.
#[derive(Clone)]
pub(crate) enum Fault {
    Status(u16),
    /// The same, once there is a permit.
    StatusAfter(u16, Arc<Semaphore>),
    /// The connection ends after so many bytes of the body.
    DropAfter(usize),
    /// Sends so many bytes, then waits for a permit before the rest.
    HoldAfter(usize, Arc<Semaphore>),
    WrongBytes,
    /// Sends everything whatever range was asked for.
    IgnoreRange,
    /// A body without end.
    Endless,
}

/// Who may pull.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Access {
    Everyone,
    /// With a bearer token, given to `user`/`password`.
    Token,
    /// With a bearer token, given to anyone.
    AnonymousToken,
    Basic,
}

/// A request as it came in.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) range: Option<String>,
}

pub(crate) struct FakeRegistry {
    /// `127.0.0.1:port`
    pub(crate) address: String,
    content: Arc<Content>,
    server: JoinHandle<()>,
}

struct Content {
    address: String,
    access: Access,
    manifests: Mutex<HashMap<String, (String, Bytes)>>,
    blobs: Mutex<HashMap<String, Bytes>>,
    faults: Mutex<HashMap<String, VecDeque<Fault>>>,
    seen: Mutex<Vec<Seen>>,
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl FakeRegistry {
    pub(crate) async fn start() -> Self {
        Self::start_with(Access::Everyone).await
    }

    pub(crate) async fn start_with(access: Access) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let content = Arc::new(Content {
            address: address.clone(),
            access,
            manifests: Mutex::default(),
            blobs: Mutex::default(),
            faults: Mutex::default(),
            seen: Mutex::default(),
        });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&content));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, content, server }
    }

    pub(crate) fn add_blob(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.content.blobs.lock().unwrap().insert(digest.to_string(), Bytes::copy_from_slice(bytes));
        digest
    }

    /// Serves a manifest under a tag and under its digest.
    pub(crate) fn add_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let mut manifests = self.content.manifests.lock().unwrap();
        for selector in [tag.to_owned(), digest.to_string()] {
            let path = format!("/v2/{repository}/manifests/{selector}");
            manifests.insert(path, (media_type.to_owned(), Bytes::copy_from_slice(bytes)));
        }
        digest
    }

    /// Serves an image for this machine's architecture.
    pub(crate) fn add_image(&self, repository: &str, tag: &str, layers: &[Vec<u8>]) -> Digest {
        let config = images::config(images::architecture());
        self.add_blob(&config);
        for layer in layers {
            self.add_blob(layer);
        }
        let manifest = images::manifest(images::OCI_MANIFEST, &config, layers);
        self.add_manifest(repository, tag, images::OCI_MANIFEST, &manifest)
    }

    /// `times` requests whose path ends with `suffix` go wrong, after those that were already told to.
    pub(crate) fn fail(&self, suffix: impl ToString, fault: Fault, times: usize) {
        let mut faults = self.content.faults.lock().unwrap();
        faults.entry(suffix.to_string()).or_default().extend(std::iter::repeat_n(fault, times));
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.content.seen.lock().unwrap().clone()
    }

    /// Requests whose path ends with `suffix`.
    pub(crate) fn seen_for(&self, suffix: impl ToString) -> Vec<Seen> {
        let suffix = suffix.to_string();
        self.seen().into_iter().filter(|seen| seen.path.ends_with(&suffix)).collect()
    }
}

async fn answer(State(content): State<Arc<Content>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let headers = request.headers();
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let range = text(header::RANGE);
    content.seen.lock().unwrap().push(Seen { path: path.clone(), range: range.clone() });
    let authorization = text(header::AUTHORIZATION).unwrap_or_default();
    if path == "/token" {
        return token(&content, request.uri().query().unwrap_or_default(), &authorization);
    }
    if let Some(refusal) = refuse(&content, &authorization) {
        return refusal;
    }
    let fault = take_fault(&content, &path);
    if let Some(Fault::Status(status)) = fault {
        return StatusCode::from_u16(status).unwrap().into_response();
    }
    if let Some(Fault::StatusAfter(status, gate)) = fault {
        gate.acquire().await.unwrap().forget();
        return StatusCode::from_u16(status).unwrap().into_response();
    }
    let manifest = content.manifests.lock().unwrap().get(&path).cloned();
    if let Some((media_type, bytes)) = manifest {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, media_type.parse().unwrap());
        return (headers, body(bytes, fault)).into_response();
    }
    let digest = path.rsplit('/').next().unwrap_or_default();
    let blob = content.blobs.lock().unwrap().get(digest).cloned();
    match blob {
        Some(bytes) => serve_blob(bytes, range, fault),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// base64 of `user:password`
const PAIR: &str = "dXNlcjpwYXNzd29yZA==";

fn refuse(content: &Content, authorization: &str) -> Option<Response> {
    let (wanted, challenge) = match content.access {
        Access::Everyone => return None,
        Access::Token | Access::AnonymousToken => (
            "Bearer good-token".to_owned(),
            format!(
                r#"Bearer realm="http://{}/token",service="fake registry",scope="repository:x:pull""#,
                content.address
            ),
        ),
        Access::Basic => (format!("Basic {PAIR}"), r#"Basic realm="fake""#.to_owned()),
    };
    (authorization != wanted)
        .then(|| (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)]).into_response())
}

fn token(content: &Content, query: &str, authorization: &str) -> Response {
    assert!(
        query.contains("service=fake+registry") && query.contains("scope=repository%3Ax%3Apull"),
        "{query}"
    );
    if content.access == Access::Token && authorization != format!("Basic {PAIR}") {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    r#"{"access_token":"good-token","expires_in":300}"#.into_response()
}

fn take_fault(content: &Content, path: &str) -> Option<Fault> {
    let mut faults = content.faults.lock().unwrap();
    faults.iter_mut().find(|(suffix, _)| path.ends_with(suffix.as_str()))?.1.pop_front()
}

fn serve_blob(bytes: Bytes, range: Option<String>, fault: Option<Fault>) -> Response {
    let start = range
        .filter(|_| !matches!(fault, Some(Fault::IgnoreRange)))
        .map(|range| range.trim_start_matches("bytes=").trim_end_matches('-').parse::<usize>().unwrap());
    let Some(start) = start else { return body(bytes, fault).into_response() };
    let content_range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
    let rest = bytes.slice(start..);
    (StatusCode::PARTIAL_CONTENT, [(header::CONTENT_RANGE, content_range)], body(rest, fault)).into_response()
}

fn body(bytes: Bytes, fault: Option<Fault>) -> Response {
    let length = bytes.len();
    let stream: stream::BoxStream<'static, io::Result<Bytes>> = match fault {
        Some(Fault::DropAfter(count)) => {
            let cut = bytes.slice(..count.min(length));
            let end = stream::once(async {
                // Without a pause the server gives up the answer before it sends the first bytes.
                tokio::time::sleep(Duration::from_millis(20)).await;
                Err(io::Error::other("dropped on purpose"))
            });
            stream::iter([Ok(cut)]).chain(end).boxed()
        }
        Some(Fault::HoldAfter(count, gate)) => {
            let (first, rest) = (bytes.slice(..count.min(length)), bytes.slice(count.min(length)..));
            let later = stream::once(async move {
                gate.acquire().await.unwrap().forget();
                Ok(rest)
            });
            stream::iter([Ok(first)]).chain(later).boxed()
        }
        Some(Fault::WrongBytes) => stream::iter([Ok(Bytes::from(vec![7; length]))]).boxed(),
        Some(Fault::Endless) => {
            return Body::from_stream(stream::repeat_with(|| {
                Ok::<_, io::Error>(Bytes::from(vec![b' '; 1 << 16]))
            }))
            .into_response();
        }
        _ => stream::iter([Ok(bytes)]).boxed(),
    };
    ([(header::CONTENT_LENGTH, length.to_string())], Body::from_stream(stream)).into_response()
}

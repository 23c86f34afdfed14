//! HTTP client for the pull half of the OCI distribution API, with every answer bounded in size and time.
//!
//! Written on `reqwest` rather than on `oci-client`, because that reads manifests, tokens and error bodies without a
//! limit, and which registry is asked is up to whoever wrote the deployment descriptor.

use std::collections::HashMap;
use std::error::Error as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE, WWW_AUTHENTICATE,
};
use reqwest::{Client, Response, StatusCode, Url, redirect};
use serde::Deserialize;

use super::auth::Challenge;
use super::endpoint::{self, Endpoint};
use crate::config::{Credentials, ImageStoreConfig};
use crate::digest::Digest;
use crate::error::{Failure, OpenError};
use crate::manifest::ACCEPTED_MANIFESTS;

/// Registries refuse manifests above 4 MiB themselves (distribution specification, "pushing manifests").
const LARGEST_MANIFEST: usize = 4 << 20;
const LARGEST_TOKEN_ANSWER: usize = 256 << 10;
/// Tokens kept; one per repository. When full all are dropped: getting a new one costs one request.
const CACHED_TOKENS: usize = 256;
const MOST_REDIRECTS: usize = 5;

/// Client for all registries of one store.
pub(crate) struct RegistryClient {
    config: ImageStoreConfig,
    remote: Client,
    loopback: Client,
    authorizations: Mutex<HashMap<(Endpoint, String), Authorization>>,
}

/// Body of a blob request.
pub(crate) struct BlobBody {
    /// Offset of the first byte; 0 when the registry does not do ranges.
    pub(crate) start: u64,
    /// The rest of the blob.
    pub(crate) response: Response,
}

#[derive(Clone)]
struct Authorization {
    header: HeaderValue,
    valid_until: Instant,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl RegistryClient {
    /// Builds the client; no connection is made.
    pub(crate) fn new(config: &ImageStoreConfig) -> Result<Self, OpenError> {
        endpoint::check_addresses(config)?;
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            return Err(OpenError::Client {
                reason: "no TLS provider is installed in this process".to_owned(),
            });
        }
        let build = |proxies: Proxies| build_client(config, proxies);
        Ok(Self {
            remote: build(Proxies::FromEnvironment)?,
            loopback: build(Proxies::None)?,
            config: config.clone(),
            authorizations: Mutex::default(),
        })
    }

    /// Where to look for images of `registry`, in order.
    pub(crate) fn endpoints(&self, registry: &str) -> Vec<Endpoint> {
        endpoint::endpoints(&self.config, registry)
    }

    /// Longest time a blob may stand still.
    pub(crate) fn stall_timeout(&self) -> Duration {
        Duration::from_secs(self.config.timeouts.stall_seconds.max(1))
    }

    /// Fetches a manifest or index by tag or digest; returns its bytes and their digest. The caller compares the digest
    /// with the one it wanted.
    pub(crate) async fn manifest(
        &self,
        endpoint: &Endpoint,
        repository: &str,
        selector: &str,
    ) -> Result<(Bytes, Digest), Failure> {
        let path = format!("{repository}/manifests/{selector}");
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(ACCEPTED_MANIFESTS));
        let response = self.get(endpoint, repository, &path, headers).await?;
        let announced = response
            .headers()
            .get("docker-content-digest")
            .and_then(|value| value.to_str().ok())
            .and_then(|text| Digest::parse(text).ok());
        let bytes = self.bounded(endpoint, response, LARGEST_MANIFEST).await?;
        let digest = Digest::of(&bytes);
        if announced.is_some_and(|announced| announced != digest) {
            return Err(Failure::corrupt(format!("{} sent a manifest with a wrong digest", endpoint.name)));
        }
        Ok((bytes, digest))
    }

    /// Fetches a blob of at most `largest` bytes and checks its digest.
    pub(crate) async fn small_blob(
        &self,
        endpoint: &Endpoint,
        repository: &str,
        digest: &Digest,
        largest: usize,
    ) -> Result<Bytes, Failure> {
        let path = format!("{repository}/blobs/{digest}");
        let response = self.get(endpoint, repository, &path, HeaderMap::new()).await?;
        let bytes = self.bounded(endpoint, response, largest).await?;
        if Digest::of(&bytes) != *digest {
            return Err(Failure::corrupt(format!("{} sent wrong bytes for blob {digest}", endpoint.name)));
        }
        Ok(bytes)
    }

    /// Starts to fetch a blob from `offset` on. The caller checks length and digest.
    pub(crate) async fn blob(
        &self,
        endpoint: &Endpoint,
        repository: &str,
        digest: &Digest,
        offset: u64,
    ) -> Result<BlobBody, Failure> {
        let path = format!("{repository}/blobs/{digest}");
        let mut headers = HeaderMap::new();
        if offset > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={offset}-"))
        {
            headers.insert(RANGE, range);
        }
        let response = self.get(endpoint, repository, &path, headers).await?;
        let start = match response.status() {
            StatusCode::PARTIAL_CONTENT => range_start(&response).ok_or_else(|| {
                Failure::corrupt(format!("{} answered a range without saying which", endpoint.name))
            })?,
            _ => 0,
        };
        if start > offset {
            return Err(Failure::corrupt(format!("{} answered another range than asked", endpoint.name)));
        }
        Ok(BlobBody { start, response })
    }

    /// Sends a GET, answering one challenge; anything but 200 and 206 is a failure.
    async fn get(
        &self,
        endpoint: &Endpoint,
        repository: &str,
        path: &str,
        headers: HeaderMap,
    ) -> Result<Response, Failure> {
        let mut authorization = self.known_authorization(endpoint, repository);
        let mut may_authorize = true;
        loop {
            let mut request = self.client(endpoint).get(endpoint.url(path)).headers(headers.clone());
            if let Some(header) = &authorization {
                request = request.header(AUTHORIZATION, header.clone());
            }
            let response = self.send(endpoint, request).await?;
            if response.status() == StatusCode::UNAUTHORIZED && may_authorize {
                may_authorize = false;
                if let Some(challenge) = challenge(&response) {
                    authorization = Some(self.authorize(endpoint, repository, challenge).await?);
                    continue;
                }
            }
            return check_status(endpoint, response);
        }
    }

    async fn send(&self, endpoint: &Endpoint, request: reqwest::RequestBuilder) -> Result<Response, Failure> {
        let limit = Duration::from_secs(self.config.timeouts.response_seconds.max(1));
        match tokio::time::timeout(limit, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(unreachable(endpoint, describe(&error))),
            Err(_) => Err(unreachable(endpoint, format!("no answer within {} s", limit.as_secs()))),
        }
    }

    async fn bounded(
        &self,
        endpoint: &Endpoint,
        response: Response,
        largest: usize,
    ) -> Result<Bytes, Failure> {
        let limit = Duration::from_secs(self.config.timeouts.response_seconds.max(1));
        match tokio::time::timeout(limit, read_bounded(endpoint, response, largest)).await {
            Ok(result) => result,
            Err(_) => Err(unreachable(endpoint, format!("answer not complete within {} s", limit.as_secs()))),
        }
    }

    fn client(&self, endpoint: &Endpoint) -> &Client {
        if endpoint.is_loopback() { &self.loopback } else { &self.remote }
    }

    fn credentials<'a>(&'a self, endpoint: &'a Endpoint) -> Option<&'a Credentials> {
        endpoint.credentials.as_ref().or_else(|| self.config.credentials.get(&endpoint.name))
    }

    fn known_authorization(&self, endpoint: &Endpoint, repository: &str) -> Option<HeaderValue> {
        let authorizations = self.authorizations.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let known = authorizations.get(&(endpoint.clone(), repository.to_owned()))?;
        (known.valid_until > Instant::now()).then(|| known.header.clone())
    }

    /// Answers a challenge and remembers the answer for the repository.
    async fn authorize(
        &self,
        endpoint: &Endpoint,
        repository: &str,
        challenge: Challenge,
    ) -> Result<HeaderValue, Failure> {
        let authorization = match challenge {
            Challenge::Basic => self.basic(endpoint)?,
            Challenge::Bearer { realm, service, scope } => {
                let scope = scope.unwrap_or_else(|| format!("repository:{repository}:pull"));
                self.bearer(endpoint, &realm, service.as_deref(), &scope).await?
            }
        };
        let header = authorization.header.clone();
        let mut authorizations =
            self.authorizations.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if authorizations.len() >= CACHED_TOKENS {
            authorizations.clear();
        }
        authorizations.insert((endpoint.clone(), repository.to_owned()), authorization);
        Ok(header)
    }

    fn basic(&self, endpoint: &Endpoint) -> Result<Authorization, Failure> {
        let Some(credentials) = self.credentials(endpoint) else {
            return Err(denied(endpoint, "it asks for a user name and a password, none are configured"));
        };
        let pair = BASE64.encode(format!("{}:{}", credentials.username, credentials.password));
        let mut header = HeaderValue::from_str(&format!("Basic {pair}"))
            .map_err(|_| denied(endpoint, "the configured user name or password cannot be sent"))?;
        header.set_sensitive(true);
        Ok(Authorization { header, valid_until: Instant::now() + Duration::from_secs(3600) })
    }

    /// Gets a token. The realm must be as safe as the registry itself: no plain HTTP for a registry with TLS.
    async fn bearer(
        &self,
        endpoint: &Endpoint,
        realm: &str,
        service: Option<&str>,
        scope: &str,
    ) -> Result<Authorization, Failure> {
        let mut url = Url::parse(realm)
            .ok()
            .filter(|url| url.scheme() == "https" || (url.scheme() == "http" && endpoint.plain_http))
            .ok_or_else(|| denied(endpoint, "it names a token service that is not safe to ask"))?;
        if let Some(service) = service {
            url.query_pairs_mut().append_pair("service", service);
        }
        url.query_pairs_mut().append_pair("scope", scope);
        let mut request = self.client(endpoint).get(url);
        let credentials = self.credentials(endpoint);
        if let Some(credentials) = credentials {
            request = request.basic_auth(&credentials.username, Some(&credentials.password));
        }
        let response = self.send(endpoint, request).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(denied(endpoint, login_hint(credentials.is_some())));
            }
            status => {
                return Err(unreachable(endpoint, format!("its token service answered {}", status.as_u16())));
            }
        }
        let bytes = self.bounded(endpoint, response, LARGEST_TOKEN_ANSWER).await?;
        let answer: TokenAnswer = serde_json::from_slice(&bytes)
            .map_err(|_| unreachable(endpoint, "its token service sent no valid answer"))?;
        let token = answer.token.or(answer.access_token).unwrap_or_default();
        let mut header = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| unreachable(endpoint, "its token service sent an unusable token"))?;
        header.set_sensitive(true);
        // 60 s is what the token specification says when nothing is said; 10 s are left for the request to arrive.
        let lifetime = Duration::from_secs(answer.expires_in.unwrap_or(60).clamp(20, 3600) - 10);
        Ok(Authorization { header, valid_until: Instant::now() + lifetime })
    }
}

#[derive(Clone, Copy)]
enum Proxies {
    FromEnvironment,
    None,
}

fn build_client(config: &ImageStoreConfig, proxies: Proxies) -> Result<Client, OpenError> {
    let mut authorities = Vec::new();
    for path in &config.certificate_authorities {
        let setting = |reason: String| OpenError::Setting {
            setting: "certificate_authorities",
            value: path.display().to_string(),
            reason,
        };
        let pem = std::fs::read(path).map_err(|error| setting(error.to_string()))?;
        authorities
            .extend(reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| setting(describe(&error)))?);
    }
    let mut builder = Client::builder()
        .user_agent(concat!("oak/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(config.timeouts.connect_seconds.max(1)))
        // An idle worker keeps no connections: each would be a socket and two timers for nothing.
        .pool_idle_timeout(Duration::from_secs(10))
        .tls_certs_merge(authorities)
        .redirect(redirect::Policy::custom(follow_redirect));
    if matches!(proxies, Proxies::None) {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|error| OpenError::Client { reason: describe(&error) })
}

/// Blobs usually lie in an object store behind a redirect; going from TLS to plain HTTP is not allowed.
fn follow_redirect(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let was_safe = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
    if attempt.previous().len() > MOST_REDIRECTS {
        attempt.error("too many redirects")
    } else if was_safe && attempt.url().scheme() != "https" {
        attempt.error("it redirects from HTTPS to plain HTTP")
    } else {
        attempt.follow()
    }
}

fn challenge(response: &Response) -> Option<Challenge> {
    let headers = response.headers().get_all(WWW_AUTHENTICATE);
    Challenge::choose(headers.iter().filter_map(|value| value.to_str().ok()))
}

fn check_status(endpoint: &Endpoint, response: Response) -> Result<Response, Failure> {
    let status = response.status();
    match status {
        StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
        StatusCode::NOT_FOUND => Err(Failure::NotFound { registry: endpoint.name.clone() }),
        StatusCode::UNAUTHORIZED => {
            Err(denied(endpoint, "it does not exist, or it needs other credentials (answer 401)"))
        }
        StatusCode::FORBIDDEN => Err(denied(endpoint, "these credentials may not pull it (answer 403)")),
        StatusCode::TOO_MANY_REQUESTS => {
            Err(unreachable(endpoint, "too many requests, try later (answer 429)"))
        }
        status if status.is_server_error() => {
            Err(unreachable(endpoint, format!("internal error there (answer {})", status.as_u16())))
        }
        status => Err(Failure::unsupported(format!("{} answered {}", endpoint.name, status.as_u16()))),
    }
}

fn login_hint(has_credentials: bool) -> &'static str {
    if has_credentials {
        "it does not accept the configured credentials"
    } else {
        "it needs credentials, none are configured"
    }
}

/// First byte of `Content-Range: bytes 100-199/200`.
fn range_start(response: &Response) -> Option<u64> {
    let text = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

async fn read_bounded(endpoint: &Endpoint, mut response: Response, largest: usize) -> Result<Bytes, Failure> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(endpoint, describe(&error)))? {
        if body.len() + chunk.len() > largest {
            return Err(Failure::TooLarge {
                reason: format!("{} sent a document of more than {} KiB", endpoint.name, largest >> 10),
            });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

fn denied(endpoint: &Endpoint, reason: &str) -> Failure {
    Failure::Denied { registry: endpoint.name.clone(), reason: reason.to_owned() }
}

pub(crate) fn unreachable(endpoint: &Endpoint, reason: impl Into<String>) -> Failure {
    Failure::Unreachable { registry: endpoint.name.clone(), reason: reason.into() }
}

/// The innermost cause, without the URL: signed URLs of object stores are secrets.
pub(crate) fn describe(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut innermost = "request failed".to_owned();
    let mut cause = error.source();
    while let Some(inner) = cause {
        innermost = inner.to_string();
        cause = inner.source();
    }
    if innermost.contains("InvalidContentType") {
        innermost = "it does not speak TLS; if it is a plain HTTP registry, add it to plain_http".to_owned();
    }
    innermost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opening_without_a_tls_provider_is_an_error_and_not_a_panic() {
        // The provider is process-wide; this test binary installs none in its unit tests.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            assert!(RegistryClient::new(&ImageStoreConfig::new("/images")).is_err());
        }
    }
}

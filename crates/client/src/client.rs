//! The connection to one root: sending, time limits, size limits, errors.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::{Method, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::decode;
use crate::error::ClientError;
use crate::session::Session;

/// Time for the connection to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Time for a whole call. Placing and storing takes milliseconds; slow are only links.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// Largest answer that is read: a list of 100 000 services has about this size.
const MAX_ANSWER: usize = 256 << 20;
/// Largest error body that is read.
const MAX_ERROR_BODY: usize = 256 << 10;

/// Who logs in. `Debug` hides the password.
#[derive(Clone)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// Organisation to log in to; `None` is the one named `root`.
    pub organization: Option<String>,
}

impl Credentials {
    /// A user of the root organisation.
    #[must_use]
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self { username: username.into(), password: password.into(), organization: None }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .field("organization", &self.organization)
            .finish_non_exhaustive()
    }
}

/// A client of one root. Clones are cheap and share the login.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    /// HTTP/1.1 only, which can become a WebSocket.
    upgradable: reqwest::Client,
    base: Url,
    session: Arc<Session>,
}

/// One call of the API.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    method: Method,
    path: Vec<&'a str>,
    query: Vec<(&'static str, String)>,
    body: Option<&'a Value>,
    /// Further headers, of a call that becomes something else than HTTP.
    upgrade: &'static [(&'static str, &'static str)],
    /// What is tried, for messages: "list the services".
    pub(crate) action: String,
}

impl<'a> Call<'a> {
    pub(crate) fn new(method: Method, path: &[&'a str], action: impl Into<String>) -> Self {
        Self {
            method,
            path: path.to_vec(),
            query: Vec::new(),
            body: None,
            upgrade: &[],
            action: action.into(),
        }
    }

    pub(crate) fn body(mut self, body: &'a Value) -> Self {
        self.body = Some(body);
        self
    }

    pub(crate) fn upgrade(mut self, headers: &'static [(&'static str, &'static str)]) -> Self {
        self.upgrade = headers;
        self
    }

    pub(crate) fn query(mut self, key: &'static str, value: impl ToString) -> Self {
        self.query.push((key, value.to_string()));
        self
    }
}

impl Client {
    /// Makes a client of the root at `base_url` (`http://host:10000`; `http://` may be left out). Connects when the
    /// first call is made.
    ///
    /// # Errors
    /// [`ClientError::Address`] if `base_url` is not the address of an HTTP server.
    pub fn new(base_url: &str, credentials: Credentials) -> Result<Self, ClientError> {
        let base = parse_base(base_url)?;
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // The HTTP library brings no cryptography of its own. A program that chose one keeps it; losing the race
            // against such a choice is fine too.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let builder = || {
            let builder = reqwest::Client::builder()
                .connect_timeout(CONNECT_LIMIT)
                .tcp_nodelay(true)
                .redirect(reqwest::redirect::Policy::limited(3))
                .user_agent(concat!("oak/", env!("CARGO_PKG_VERSION")));
            // HTTP_PROXY is meant for the world outside; no proxy reaches the loopback address of this machine.
            if is_this_machine(&base) { builder.no_proxy() } else { builder }
        };
        let failed = |source| ClientError::Setup { source };
        let http = builder().build().map_err(failed)?;
        let upgradable = builder().http1_only().build().map_err(failed)?;
        Ok(Self { http, upgradable, base, session: Arc::new(Session::new(credentials)) })
    }

    /// Address of the root, for messages.
    #[must_use]
    pub fn server(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Makes a call and reads its answer.
    pub(crate) async fn fetch<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<T, ClientError> {
        let body = self.limited(&call.action, self.send_and_read(&call)).await?;
        decode::decode(&body).map_err(|source| ClientError::Unreadable { action: call.action, source })
    }

    /// Makes a call whose answer only has to be a success.
    pub(crate) async fn execute(&self, call: Call<'_>) -> Result<(), ClientError> {
        self.limited(&call.action, self.send_and_read(&call)).await.map(drop)
    }

    /// Makes a call and returns once the answer begins; its body may go on for ever.
    pub(crate) async fn open(&self, call: &Call<'_>) -> Result<Response, ClientError> {
        self.limited(&call.action, self.send(call)).await
    }

    /// Makes a call without a token; used for the login itself.
    pub(crate) async fn send_unauthenticated(&self, call: &Call<'_>) -> Result<Bytes, ClientError> {
        let response = self.transmit(call, None).await?;
        let response = self.expect_success(call, response).await?;
        self.read_body(&call.action, response, MAX_ANSWER).await
    }

    async fn send_and_read(&self, call: &Call<'_>) -> Result<Bytes, ClientError> {
        let response = self.send(call).await?;
        self.read_body(&call.action, response, MAX_ANSWER).await
    }

    /// Sends with the present token, and once more with a new one if the token is refused.
    async fn send(&self, call: &Call<'_>) -> Result<Response, ClientError> {
        let token = self.session.token(self).await?;
        let response = self.transmit(call, Some(&token)).await?;
        let status = response.status();
        if status != StatusCode::UNAUTHORIZED && status != StatusCode::UNPROCESSABLE_ENTITY {
            return self.expect_success(call, response).await;
        }
        let body = self.read_body(&call.action, response, MAX_ERROR_BODY).await?;
        // A token signed by an earlier life of the root is answered with 422, as is a wrong descriptor.
        if status == StatusCode::UNPROCESSABLE_ENTITY && !decode::is_about_token(&body) {
            return Err(refused(call, status, &body));
        }
        self.session.discard(&token).await;
        let token = self.session.token(self).await?;
        let response = self.transmit(call, Some(&token)).await?;
        self.expect_success(call, response).await
    }

    async fn transmit(&self, call: &Call<'_>, token: Option<&str>) -> Result<Response, ClientError> {
        let http = if call.upgrade.is_empty() { &self.http } else { &self.upgradable };
        let mut request = http.request(call.method.clone(), self.url(&call.path)?);
        for (name, value) in call.upgrade {
            request = request.header(*name, *value);
        }
        if !call.query.is_empty() {
            request = request.query(&call.query);
        }
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = call.body {
            request = request.json(body);
        }
        request.send().await.map_err(|source| self.unreachable(&call.action, source))
    }

    async fn expect_success(&self, call: &Call<'_>, response: Response) -> Result<Response, ClientError> {
        let status = response.status();
        if status.is_success() || (status == StatusCode::SWITCHING_PROTOCOLS && !call.upgrade.is_empty()) {
            return Ok(response);
        }
        let body = self.read_body(&call.action, response, MAX_ERROR_BODY).await?;
        Err(refused(call, status, &body))
    }

    async fn read_body(
        &self,
        action: &str,
        mut response: Response,
        limit: usize,
    ) -> Result<Bytes, ClientError> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|source| self.unreachable(action, source))? {
            if body.len() + chunk.len() > limit {
                return Err(ClientError::TooLarge { action: action.to_owned(), limit });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.into())
    }

    async fn limited<T>(
        &self,
        action: &str,
        work: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        tokio::time::timeout(CALL_LIMIT, work).await.unwrap_or_else(|_| {
            Err(ClientError::TimedOut {
                action: action.to_owned(),
                server: self.server().to_owned(),
                limit: CALL_LIMIT,
            })
        })
    }

    pub(crate) fn unreachable(&self, action: &str, source: reqwest::Error) -> ClientError {
        // The base address is in the text already; reqwest would repeat it with the whole path.
        ClientError::Unreachable {
            action: action.to_owned(),
            server: self.server().to_owned(),
            source: source.without_url(),
        }
    }

    fn url(&self, path: &[&str]) -> Result<Url, ClientError> {
        let mut url = self.base.clone();
        let bad = |id: &str| ClientError::Id { id: id.chars().take(60).collect() };
        // An empty or dotted segment would silently address another object, such as the whole collection.
        let (last, inner) = path.split_last().ok_or_else(|| bad(""))?;
        let is_segment = |segment: &str| !segment.is_empty() && segment != "." && segment != "..";
        if let Some(segment) = inner.iter().find(|segment| !is_segment(segment)) {
            return Err(bad(segment));
        }
        if !last.is_empty() && !is_segment(last) {
            return Err(bad(last));
        }
        url.path_segments_mut().map_err(|()| bad(self.base.as_str()))?.pop_if_empty().extend(path);
        Ok(url)
    }
}

/// The error of an answer with an error status.
fn refused(call: &Call<'_>, status: StatusCode, body: &[u8]) -> ClientError {
    let message = decode::error_message(body)
        .or_else(|| status.canonical_reason().map(str::to_lowercase))
        .unwrap_or_else(|| "the server refused".to_owned());
    ClientError::Refused { action: call.action.clone(), status: status.as_u16(), message }
}

fn parse_base(text: &str) -> Result<Url, ClientError> {
    let wrong = |reason: String| ClientError::Address { address: text.chars().take(200).collect(), reason };
    let text = text.trim();
    let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&full).map_err(|error| wrong(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("it must begin with http:// or https://".to_owned()));
    }
    if url.host_str().is_none_or(str::is_empty) || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("write http://host:port".to_owned()));
    }
    Ok(url)
}

fn is_this_machine(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::{Client, Credentials};

    fn client(base: &str) -> Client {
        Client::new(base, Credentials::new("Admin", "secret")).expect(base)
    }

    #[test]
    fn builds_addresses_and_refuses_tricky_segments() {
        let client = client("127.0.0.1:10000/");
        assert_eq!(client.server(), "http://127.0.0.1:10000");
        let url = |path: &[&str]| client.url(path).map(String::from).map_err(|error| error.to_string());
        assert_eq!(url(&["api", "services", ""]).as_deref(), Ok("http://127.0.0.1:10000/api/services/"));
        assert_eq!(
            url(&["api", "service", "a/b?c"]).as_deref(),
            Ok("http://127.0.0.1:10000/api/service/a%2Fb%3Fc")
        );
        assert!(url(&["api", "application", ".."]).is_err());
        assert!(url(&["api", "service", "", "instance"]).is_err());
    }

    #[test]
    fn refuses_what_is_no_server_address() {
        for bad in ["", "ftp://host", "http://", "http://h/?q", "http://h:99999"] {
            assert!(Client::new(bad, Credentials::new("a", "b")).is_err(), "{bad}");
        }
    }

    #[test]
    fn never_shows_the_password() {
        assert!(!format!("{:?}", client("http://localhost:1")).contains("secret"));
    }
}

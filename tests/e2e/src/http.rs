//! Plain HTTP requests from a machine, each over a connection of its own.

use std::time::Duration;

use anyhow::Context as _;
use ureq::http::Request;

use crate::Host;

/// An answer.
#[derive(Clone, Debug)]
pub struct Page {
    /// Status code.
    pub status: u16,
    /// Header `X-Served-By` of the nginx test image: the host name of the container; empty without one.
    pub served_by: String,
    /// Body as text.
    pub body: String,
}

/// Fetches a page, sent from `host`.
///
/// # Errors
/// No connection, or no answer within 10 s.
pub fn get(host: &Host, url: &str) -> anyhow::Result<Page> {
    request(host, "GET", url, None, None)
}

/// Sends a request from `host` with an optional bearer token and an optional JSON body.
///
/// # Errors
/// As [`get`].
pub fn request(
    host: &Host,
    method: &str,
    url: &str,
    token: Option<&str>,
    body: Option<&str>,
) -> anyhow::Result<Page> {
    host.within(|| send(method, url, token, body))?
}

fn send(method: &str, url: &str, token: Option<&str>, body: Option<&str>) -> anyhow::Result<Page> {
    let agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .allow_non_standard_methods(true)
        .proxy(None)
        .timeout_global(Some(Duration::from_secs(10)))
        .build()
        .new_agent();
    let mut request = Request::builder().method(method).uri(url);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let answer = match body {
        Some(body) => {
            let request = request.header("content-type", "application/json").body(body.to_owned())?;
            agent.run(request)
        }
        None => agent.run(request.body(())?),
    };
    let mut answer = answer.with_context(|| format!("{method} {url}"))?;
    let served_by = answer.headers().get("x-served-by").and_then(|value| value.to_str().ok());
    Ok(Page {
        status: answer.status().as_u16(),
        served_by: served_by.unwrap_or_default().to_owned(),
        body: answer.body_mut().read_to_string().with_context(|| format!("{method} {url}"))?,
    })
}

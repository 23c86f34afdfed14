//! Where a request comes from.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri, header};

/// The other end of the connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    /// Its address; unspecified when unknown.
    pub(super) address: IpAddr,
    /// Whether somebody on this very machine is asking, neither through a proxy nor through a page of another site
    /// in a browser here.
    pub(super) is_local: bool,
}

impl<S: Send + Sync> FromRequestParts<S> for Peer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        let connection = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let address = connection.map(|ConnectInfo(address)| address.ip().to_canonical());
        let address = address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        Ok(Self { address, is_local: address.is_loopback() && !is_relayed(&parts.headers) })
    }
}

fn is_relayed(headers: &HeaderMap) -> bool {
    if headers.contains_key(header::FORWARDED) || headers.contains_key("x-forwarded-for") {
        return true;
    }
    headers.get(header::ORIGIN).is_some_and(|origin| {
        let origin = origin.to_str().ok().and_then(|text| text.parse::<Uri>().ok());
        !origin.as_ref().and_then(Uri::host).is_some_and(is_this_machine)
    })
}

fn is_this_machine(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_and_foreign_pages_are_not_local() {
        for (name, value, relayed) in [
            ("x-forwarded-for", "127.0.0.1", true),
            ("forwarded", "for=10.0.0.1", true),
            ("origin", "http://localhost", false),
            ("origin", "http://127.0.0.1:80", false),
            ("origin", "http://[::1]:10000", false),
            ("origin", "http://localhost.evil.example", true),
            ("origin", "https://evil.example", true),
            ("origin", "null", true),
            ("accept", "*/*", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            assert_eq!(is_relayed(&headers), relayed, "{name}: {value}");
        }
    }
}

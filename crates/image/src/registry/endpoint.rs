//! The addresses at which an image may be found: mirrors in the configured order, then the registry itself.

use std::net::IpAddr;

use crate::config::{Credentials, ImageStoreConfig};
use crate::error::OpenError;
use crate::reference::{DEFAULT_REGISTRY, check_registry};

/// Where Docker Hub's registry really answers.
const DEFAULT_REGISTRY_HOST: &str = "registry-1.docker.io";

/// One address of a registry API.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Endpoint {
    /// Name for messages and for looking up credentials: the registry's name, or the mirror's `host[:port]`.
    pub(crate) name: String,
    /// `host[:port]` to connect to.
    pub(crate) authority: String,
    /// Whether it is asked without TLS.
    pub(crate) plain_http: bool,
    /// Given for this pull; otherwise those of the settings count.
    pub(crate) credentials: Option<Credentials>,
}

impl Endpoint {
    /// URL of `path` below `/v2/`.
    pub(crate) fn url(&self, path: &str) -> String {
        let scheme = if self.plain_http { "http" } else { "https" };
        format!("{scheme}://{}/v2/{path}", self.authority)
    }

    /// Whether it is on this machine, where a proxy has no business.
    pub(crate) fn is_loopback(&self) -> bool {
        is_loopback(&self.authority)
    }
}

/// The endpoints to try for `registry`, in order.
pub(crate) fn endpoints(config: &ImageStoreConfig, registry: &str) -> Vec<Endpoint> {
    let mirrors = config.mirrors.get(registry).map(Vec::as_slice).unwrap_or_default();
    let mut endpoints: Vec<Endpoint> = mirrors.iter().map(|mirror| mirror_endpoint(config, mirror)).collect();
    let host = if registry == DEFAULT_REGISTRY { DEFAULT_REGISTRY_HOST } else { registry };
    endpoints.push(Endpoint {
        name: registry.to_owned(),
        authority: host.to_owned(),
        plain_http: is_plain(config, registry),
        credentials: None,
    });
    endpoints
}

/// Checks every address in the settings, so that a typing error shows at start and not at the first pull.
pub(crate) fn check_addresses(config: &ImageStoreConfig) -> Result<(), OpenError> {
    let mirrors = config.mirrors.values().flatten().map(|mirror| ("mirrors", split_scheme(mirror).1));
    let registries = config.mirrors.keys().map(|registry| ("mirrors", registry.as_str()));
    let plain = config.plain_http.iter().map(|host| ("plain_http", host.as_str()));
    for (setting, value) in mirrors.chain(registries).chain(plain) {
        check_registry(value).map_err(|reason| OpenError::Setting {
            setting,
            value: value.to_owned(),
            reason: reason.to_owned(),
        })?;
    }
    Ok(())
}

fn mirror_endpoint(config: &ImageStoreConfig, mirror: &str) -> Endpoint {
    let (scheme, host) = split_scheme(mirror);
    let plain_http = match scheme {
        Some(Scheme::Http) => true,
        Some(Scheme::Https) => false,
        None => is_plain(config, host),
    };
    let authority = if host == DEFAULT_REGISTRY { DEFAULT_REGISTRY_HOST } else { host };
    Endpoint { name: host.to_owned(), authority: authority.to_owned(), plain_http, credentials: None }
}

#[derive(Clone, Copy)]
enum Scheme {
    Http,
    Https,
}

fn split_scheme(address: &str) -> (Option<Scheme>, &str) {
    let address = address.strip_suffix('/').unwrap_or(address);
    if let Some(host) = address.strip_prefix("http://") {
        (Some(Scheme::Http), host)
    } else if let Some(host) = address.strip_prefix("https://") {
        (Some(Scheme::Https), host)
    } else {
        (None, address)
    }
}

fn is_plain(config: &ImageStoreConfig, host: &str) -> bool {
    config.plain_http.contains(host) || is_loopback(host)
}

fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => authority.split(':').next().unwrap_or(authority),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_come_first_and_the_registry_last() {
        let mut config = ImageStoreConfig::new("/images");
        config.plain_http.insert("cache.lan:5000".into());
        config.mirrors.insert(
            "docker.io".into(),
            vec!["cache.lan:5000".into(), "https://127.0.0.1:1".into(), "http://m.example/".into()],
        );
        let urls: Vec<String> =
            endpoints(&config, "docker.io").iter().map(|endpoint| endpoint.url("x")).collect();
        assert_eq!(
            urls,
            [
                "http://cache.lan:5000/v2/x",
                "https://127.0.0.1:1/v2/x",
                "http://m.example/v2/x",
                "https://registry-1.docker.io/v2/x"
            ]
        );
    }

    #[test]
    fn loopback_registries_speak_plain_http() {
        let config = ImageStoreConfig::new("/images");
        for (registry, plain) in
            [("localhost:5000", true), ("127.1.2.3", true), ("[::1]:5000", true), ("ghcr.io", false)]
        {
            assert_eq!(endpoints(&config, registry)[0].plain_http, plain, "{registry}");
        }
    }

    #[test]
    fn unusable_addresses_are_named_at_start() {
        let mut config = ImageStoreConfig::new("/images");
        config.mirrors.insert("docker.io".into(), vec!["http://host/prefix".into()]);
        let error = check_addresses(&config).unwrap_err().to_string();
        assert!(error.contains("host/prefix"), "{error}");
    }
}

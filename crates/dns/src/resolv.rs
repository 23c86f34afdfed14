//! `/etc/resolv.conf`: reading that of the host, writing that of an instance. Pure.

use std::net::{IpAddr, Ipv4Addr};

use oak_model::JobName;

/// Resolvers asked at most, as in the C libraries.
const MAX_SERVERS: usize = 3;
/// Search domains at most. glibc before 2.26 takes six.
const MAX_DOMAINS: usize = 6;
/// Longest line, bytes. musl ignores lines of 256 bytes and more.
const MAX_LINE: usize = 250;

/// The resolver settings of a host, as far as they matter here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostResolver {
    /// Resolvers in the order they are asked.
    pub servers: Vec<IpAddr>,
    /// Search domains.
    pub search: Vec<String>,
}

impl HostResolver {
    /// Reads the text of a `resolv.conf`; what cannot be understood is left out.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") if resolver.servers.len() < MAX_SERVERS => {
                    resolver.servers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()));
                }
                // The last one counts.
                Some("search" | "domain") => {
                    resolver.search = words.filter(|word| is_domain(word)).map(str::to_owned).collect();
                }
                _ => {}
            }
        }
        resolver
    }
}

/// Only what can stand in our file without becoming something else there.
fn is_domain(word: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !word.trim_end_matches('.').is_empty() && word.len() <= 253 && word.bytes().all(is_plain)
}

/// The `resolv.conf` of an instance: inside an application `<service>` and `<service>.<ns>` are enough.
///
/// `ndots:2` sends names with at most one dot through the search list first, which costs two answers of this machine;
/// names with more dots go out at once. Three tries of three seconds bridge a restart of the agent.
#[must_use]
pub fn instance_resolver(server: Ipv4Addr, name: &JobName, host: &HostResolver) -> String {
    let application = format!("{}.{}.oak", name.application, name.application_namespace);
    let ours = [format!("{}.{application}", name.service_namespace), application];
    let mut search = String::from("search");
    let all = ours.iter().map(|domain| domain.to_ascii_lowercase()).chain(host.search.iter().cloned());
    for domain in all.take(MAX_DOMAINS) {
        if search.len().saturating_add(domain.len()).saturating_add(1) > MAX_LINE {
            break;
        }
        search.push(' ');
        search.push_str(&domain);
    }
    format!("nameserver {server}\n{search}\noptions ndots:2 timeout:3 attempts:3\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(service_namespace: &str) -> JobName {
        let parse = |text: &str| text.parse().unwrap();
        JobName {
            application: parse("Shop"),
            application_namespace: parse("prod"),
            service: parse("web"),
            service_namespace: parse(service_namespace),
        }
    }

    #[test]
    fn the_search_list_begins_with_the_application() {
        let host = HostResolver::parse("domain old\nsearch corp.example a;b lan.\n");
        let text = instance_resolver(Ipv4Addr::new(10, 18, 0, 1), &name("test"), &host);
        assert_eq!(
            text,
            "nameserver 10.18.0.1\nsearch test.shop.prod.oak shop.prod.oak corp.example lan.\n\
             options ndots:2 timeout:3 attempts:3\n"
        );
    }

    #[test]
    fn a_long_search_list_stays_readable_for_every_library() {
        let search = vec!["x".repeat(60), "y".repeat(60), "z".repeat(120), "w".repeat(9)];
        let host = HostResolver { servers: Vec::new(), search };
        let text = instance_resolver(Ipv4Addr::LOCALHOST, &name("test"), &host);
        assert!(text.lines().all(|line| line.len() <= MAX_LINE), "{text}");
        assert!(text.contains(&"y".repeat(60)) && !text.contains('z'));
    }

    #[test]
    fn the_hosts_file_is_read_as_the_c_library_does() {
        let text = "# nameserver 9.9.9.9\n nameserver 127.0.0.53 \nnameserver fe80::1%eth0\nnameserver ::1\n\
                    nameserver 10.0.0.1\nnameserver 10.0.0.2\noptions edns0\n";
        let resolver = HostResolver::parse(text);
        let expected: Vec<IpAddr> =
            ["127.0.0.53", "::1", "10.0.0.1"].iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(resolver.servers, expected);
    }
}

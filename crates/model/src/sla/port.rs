//! The `port` text: `host[:container][/tcp|/udp]`, several joined by `;` (network reference, 8.5).

use crate::overlay::{KERNEL_PORT, PLAIN_PORT, RELAY_PORT, TUNNEL_PORT};
use crate::{PortMapping, Protocol};

/// Most mappings of one service.
const MAX_MAPPINGS: usize = 1000;
/// The overlay listens here, on workers and on the machine of a cluster; a mapping would cut it off.
const OVERLAY_UDP_PORTS: [u16; 4] = [TUNNEL_PORT, PLAIN_PORT, RELAY_PORT, KERNEL_PORT];

/// Reads the mappings, or tells everything that is wrong with them, one text per wrong entry.
pub(super) fn parse(text: &str) -> Result<Vec<PortMapping>, Vec<String>> {
    let mut mappings: Vec<PortMapping> = Vec::new();
    let mut problems = Vec::new();
    // Empty entries come from a trailing `;` and mean nothing.
    for entry in text.split(';').map(str::trim).filter(|entry| !entry.is_empty()) {
        if mappings.len() >= MAX_MAPPINGS || problems.len() >= super::MAX_LISTED_PROBLEMS {
            problems.push(format!("at most {MAX_MAPPINGS} port mappings are allowed"));
            break;
        }
        let mapping = match parse_entry(entry) {
            Ok(mapping) => mapping,
            Err(problem) => {
                problems.push(problem);
                continue;
            }
        };
        if mappings.iter().any(|other| (other.host, other.protocol) == (mapping.host, mapping.protocol)) {
            problems.push(format!("host port {}/{} is mapped twice", mapping.host, mapping.protocol));
            continue;
        }
        mappings.push(mapping);
    }
    if problems.is_empty() { Ok(mappings) } else { Err(problems) }
}

fn parse_entry(entry: &str) -> Result<PortMapping, String> {
    let shown: String = entry.chars().take(40).collect();
    let (ports, protocol) = match entry.split_once('/') {
        None => (entry, Protocol::Tcp),
        Some((ports, protocol)) if protocol.trim().eq_ignore_ascii_case("tcp") => (ports, Protocol::Tcp),
        Some((ports, protocol)) if protocol.trim().eq_ignore_ascii_case("udp") => (ports, Protocol::Udp),
        Some(_) => return Err(format!("the protocol of `{shown}` must be tcp or udp")),
    };
    let number = |text: &str| {
        let text = text.trim();
        let digits_only = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|port| digits_only && *port != 0)
    };
    let (host, container) = ports.split_once(':').unwrap_or((ports, ports));
    let (Some(host), Some(container)) = (number(host), number(container)) else {
        return Err(format!(
            "`{shown}` is not a port mapping: write host[:container][/tcp|/udp] with ports from 1 to 65535"
        ));
    };
    if protocol == Protocol::Udp && OVERLAY_UDP_PORTS.contains(&host) {
        return Err(format!("host port {host}/udp belongs to the overlay network"));
    }
    Ok(PortMapping { host, container, protocol })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::parse;
    use crate::{PortMapping, Protocol};

    fn mapping(host: u16, container: u16, protocol: Protocol) -> PortMapping {
        PortMapping { host, container, protocol }
    }

    #[test]
    fn reads_every_form() {
        assert_eq!(parse(""), Ok(vec![]));
        assert_eq!(parse(" ; "), Ok(vec![]));
        assert_eq!(parse("80"), Ok(vec![mapping(80, 80, Protocol::Tcp)]));
        assert_eq!(
            parse("6080:80/tcp; 53:5353/UDP;53;"),
            Ok(vec![
                mapping(6080, 80, Protocol::Tcp),
                mapping(53, 5353, Protocol::Udp),
                mapping(53, 53, Protocol::Tcp)
            ])
        );
        assert!(parse("50103").is_ok(), "the overlay uses UDP only");
    }

    #[test]
    fn names_every_wrong_entry() {
        for bad in [
            "garbage",
            "0:80",
            "80:0",
            "65536",
            "-1",
            "+80",
            "80:80:80",
            "1-10:1-10",
            "127.0.0.1:80:80",
            ":80",
        ] {
            let problems = parse(bad).expect_err(bad);
            assert!(problems.iter().all(|problem| problem.contains(bad)), "{problems:?}");
        }
        assert!(parse("80/sctp").is_err_and(|problems| problems[0].contains("tcp or udp")));
        for port in ["50103/udp", "50104/udp", "50105/udp", "50106/udp"] {
            assert!(parse(port).is_err_and(|problems| problems[0].contains("overlay")), "{port}");
        }
        assert!(parse("80:1;80:2").is_err_and(|problems| problems[0].contains("80/tcp is mapped twice")));
        assert_eq!(parse("x;80;y").expect_err("two wrong").len(), 2);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9:;/tcpud ]{0,40}") {
            let _ = parse(&text);
        }

        #[test]
        fn written_mappings_read_back(host in 1_u16..50000, container in 1_u16.., udp: bool) {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            prop_assert_eq!(
                parse(&format!("{host}:{container}/{protocol}")),
                Ok(vec![mapping(host, container, protocol)])
            );
        }
    }
}

//! Connection tracking: listing flows and forgetting some of them. Flows of IPv6 are shown with the IPv4 addresses that go
//! with theirs, so that nobody has to judge twice.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use oak_model::ipv6;

use oak_netlink::Socket;
use oak_netlink::is_absent;
use oak_netlink::wire::{Request, attribute, ip, u16_be};

/// `NFNL_SUBSYS_CTNETLINK << 8` with the messages get and delete (`linux/netfilter/nfnetlink*.h`).
const GET: u16 = 0x0101;
const DELETE: u16 = 0x0102;
const DUMP: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
const ACK: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const NESTED: u16 = 0x8000;
/// `struct nfgenmsg`: any family, version 0, resource 0.
const BODY: [u8; 4] = [libc::AF_UNSPEC as u8, 0, 0, 0];

/// Who talks to whom in one direction. Ports are 0 for protocols without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Direction {
    pub(crate) source: Ipv4Addr,
    pub(crate) destination: Ipv4Addr,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
}

/// A tracked flow: how it looks before translation, and how answers look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) protocol: u8,
    pub(crate) original: Direction,
    pub(crate) reply: Direction,
}

/// Forgets every flow for which `is_stale` says so; returns how many.
pub(crate) fn forget(socket: &mut Socket, mut is_stale: impl FnMut(&Flow) -> bool) -> io::Result<usize> {
    let stale = socket.dump(
        || Request::new(GET, DUMP, &BODY),
        |answer| {
            let attributes = answer.payload.get(BODY.len()..)?;
            let flow = parse(attributes)?;
            let family = *answer.payload.first()?;
            is_stale(&flow).then(|| deletion(family, attributes)).flatten()
        },
    )?;
    let mut forgotten = 0;
    for request in stale {
        match socket.change(request) {
            Ok(()) => forgotten += 1,
            // It ended by itself in the meantime.
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(forgotten)
}

/// The request that deletes exactly the flow with these attributes.
fn deletion(family: u8, attributes: &[u8]) -> Option<Request> {
    let [_, rest @ ..] = BODY;
    let body = [&[family][..], &rest].concat();
    let mut request =
        Request::new(DELETE, ACK, &body).put(TUPLE_ORIGINAL | NESTED, attribute(attributes, TUPLE_ORIGINAL)?);
    for kind in [ZONE, ID] {
        if let Some(value) = attribute(attributes, kind) {
            request = request.put(kind, value);
        }
    }
    Some(request)
}

fn parse(attributes: &[u8]) -> Option<Flow> {
    let (protocol, original) = parse_direction(attribute(attributes, TUPLE_ORIGINAL)?)?;
    let (_, reply) = parse_direction(attribute(attributes, TUPLE_REPLY)?)?;
    Some(Flow { protocol, original, reply })
}

/// `CTA_TUPLE_IP` (1): source 1, destination 2, of IPv6 3 and 4; `CTA_TUPLE_PROTO` (2): number 1, ports 2 and 3.
fn parse_direction(tuple: &[u8]) -> Option<(u8, Direction)> {
    let addresses = attribute(tuple, 1)?;
    let address = |kind: u16| {
        let found = attribute(addresses, kind).or_else(|| attribute(addresses, kind + 2));
        found.and_then(ip).map(as_ipv4)
    };
    let transport = attribute(tuple, 2)?;
    let port = |kind| attribute(transport, kind).and_then(u16_be).unwrap_or(0);
    let direction = Direction {
        source: address(1)?,
        destination: address(2)?,
        source_port: port(2),
        destination_port: port(3),
    };
    Some((*attribute(transport, 1)?.first()?, direction))
}

/// Addresses outside have none that goes with them; nothing of ours is nowhere.
fn as_ipv4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => {
            let ours = ipv6::node_layer(address).or_else(|| ipv6::service_layer(address));
            ours.unwrap_or(Ipv4Addr::UNSPECIFIED)
        }
    }
}

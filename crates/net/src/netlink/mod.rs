//! Netlink families that only this crate needs: connection tracking and nf_tables (questions only).

pub(crate) mod conntrack;
pub(crate) mod rules;

pub(crate) use oak_netlink::{Socket, link, route, vxlan, wireguard};

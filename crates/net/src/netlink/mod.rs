//! A small blocking netlink client for the three kernel families this crate needs: routing (links,
//! addresses, routes, neighbours), connection tracking and nf_tables (queries only).
//!
//! It is our own because a socket must be usable from one thread while it belongs to the namespace
//! of another, because two of the three families have no maintained crate, and because the dozen
//! messages needed are part of the kernel's stable interface.

pub(crate) mod conntrack;
pub(crate) mod link;
pub(crate) mod route;
pub(crate) mod rules;
pub(crate) mod socket;
pub(crate) mod vxlan;
pub(crate) mod wire;

pub(crate) use socket::Socket;

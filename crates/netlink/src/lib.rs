//! A small blocking netlink client: links, addresses, routes, neighbours and WireGuard devices of the kernel, for whoever
//! sets up networks ([`Socket`] speaks every family; `oak-net` adds connection tracking and nf_tables).
//!
//! It is our own because a socket must be usable from one thread while it belongs to the namespace
//! of another, because not every family has a maintained crate, and because the dozen
//! messages needed are part of the kernel's stable interface.
//!
//! What the kernel answers is read without trust in its lengths. Nothing here decides anything.

pub mod link;
pub mod route;
mod socket;
pub mod vxlan;
pub mod wire;
pub mod wireguard;

pub use socket::{Socket, is_absent};

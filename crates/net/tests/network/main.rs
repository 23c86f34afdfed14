//! The node network against the real kernel. Needs root; every test has its own network and mount
//! namespace, so nothing of the machine is touched.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "in a test, a failure is a panic and is seen")]

mod ipv6;
mod kernel;
mod life;
mod peers;
mod policies;
mod ports;
mod services;
mod support;
mod tenants;
mod unknown;
mod wide;

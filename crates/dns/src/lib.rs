//! The name server of a worker node: instances ask it under the gateway's address.
//!
//! ```text
//!  instance ── UDP, TCP ──► server ──► zone (snapshot) ──► answer at once
//!                              │          └─ unknown below `.oak` ──► lookup (cluster) ──► answer
//!                              └─ any other name ──► cache ──► resolvers of the host ──► answer
//! ```
//!
//! | name | answer |
//! |---|---|
//! | `<service>.<ns>.<application>.<ns>.oak` | address of the service under its first policy |
//! | `<policy>.<service>.…oak` | address of the service under that policy |
//! | `<n>.<service>.…oak` | address of instance number n |
//! | `_<port>._tcp.<service>.…oak`, `_port._tcp.<service>.…oak` | SRV: instances that serve, with the port inside |
//! | addresses of services and instances, reversed | PTR: the name above |
//!
//! [`Zone`] is pure: it is built from a neutral list of [`ServiceEntry`], wherever the entries come from, and never
//! changed; a new one takes its place as a whole. [`DnsServer`] does the I/O and has a limit for everything: queries at
//! a time in total and per source, connections, idle time, message sizes, caches. A name below `.oak` or an address of
//! the orchestrator never leaves the machine; a name outside of it is never answered by us.
//!
//! This crate does not decide which services exist or run, and knows nothing of the cluster: what the node does not
//! know it asks a [`Lookup`].
#![forbid(unsafe_code)]

mod answer;
mod ask;
mod cache;
mod entry;
mod forward;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod limits;
mod lookup;
mod resolv;
mod server;
mod zone;

pub use ask::ask;
pub use entry::{InstanceEntry, PolicyAddress, ServiceEntry, ServicePort};
pub use forward::Upstreams;
pub use limits::Limits;
pub use lookup::{Lookup, Nobody, Question};
pub use resolv::{HostResolver, instance_resolver};
pub use server::{DnsConfig, DnsError, DnsServer};
pub use zone::{Zone, ZoneContent};

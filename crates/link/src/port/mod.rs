//! One port for plain HTTP and TLS: HTTP/1.1 and HTTP/2 on both, the first byte decides.

mod activity;
mod connection;
mod listen;
mod places;
mod serve;

pub use listen::listen;
pub use serve::{PortConfig, PortLimits, serve};

pub(crate) use connection::Hangup;

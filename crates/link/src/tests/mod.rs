//! Real sessions over TLS on loopback. They live inside the crate so that they can also play a dishonest peer.

mod bulk;
mod hostile;
mod join;
mod port;
mod proxy;
mod session;
mod support;

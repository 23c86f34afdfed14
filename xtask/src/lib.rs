//! Development tasks of this workspace, as a library so that tests can use the same parts as `cargo xtask`.
//!
//! * [`images`] builds the container images that the tests deploy, from packages of the Debian (or derived) system it
//!   runs on, and pushes them into a registry. No container engine and no image hub takes part.
//! * [`registry`] runs such a registry for as long as a value lives.
//! * [`check`] are the static rules of the workspace: format, lints, direction of dependencies, purity, file sizes.
//! * [`workspace`] knows where things are.
//!
//! Nothing in here is part of the product; no other crate than tests may depend on it.
#![forbid(unsafe_code)]

pub mod check;
pub mod images;
pub mod mutations;
pub mod registry;
pub mod workspace;

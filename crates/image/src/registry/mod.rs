//! Talking to registries: where they are, how they want to be asked, and what their answers mean.

mod auth;
mod client;
mod endpoint;

pub(crate) use client::{RegistryClient, describe, unreachable};
pub(crate) use endpoint::Endpoint;

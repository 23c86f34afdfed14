//! The root shell: accounts and REST API on top of the root's state machine.
//!
//! Decides nothing about services and placement: requests are parsed here, handed to [`oak_control::root::Root`]
//! through its engine, and answered after the change is committed.
//!
//! | question | place |
//! |---|---|
//! | who may log in, and with what | [`accounts`] |
//! | who may do what | `api/permission` |
//! | who did what | [`audit`] |
//! | what does an endpoint return | [`api`], one file per group of endpoints |
//! | which fields has a record | `api/record` |
//! | the page in the browser | [`dashboard`] |
//! | what is said to and by clusters | `clusters` |
//! | how it all starts | [`BoundRoot`] |
#![forbid(unsafe_code)]

pub mod accounts;
pub mod api;
pub mod audit;
mod calendar;
mod clusters;
pub mod dashboard;
pub mod mail;
mod start;

pub use start::{BoundRoot, RootConfig, RootError, RootHandle};

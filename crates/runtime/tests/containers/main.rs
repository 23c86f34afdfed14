//! Real containers on the real kernel. Needs root and a static busybox; says so and passes otherwise.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers of tests fail like tests"
)]

mod exec;
mod isolation;
mod lease;
mod lifecycle;
mod limits;
mod output;
mod recovery;
mod volumes;
mod world;

//! How the program is linked.
#![allow(clippy::print_stdout, reason = "this is how a build script talks to cargo")]

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    if is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu") {
        // At a fixed address, as programs in Go are: otherwise every process of it, above all the shim of every
        // container, has 0.75 MB of relocated pages of its own (docs/performance.md). Libraries, heap and stack
        // stay at random addresses.
        println!("cargo::rustc-link-arg-bin=oak=-no-pie");
    }
}

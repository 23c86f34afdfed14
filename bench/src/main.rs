//! Measures oak against the budgets of its design (`docs/performance.md`).
//!
//! Everything happens in private network and mount namespaces that this program makes for itself, with the real
//! release binary, so that nothing of the machine's own network changes and an oak that already runs is not disturbed.
//! What is compared is measured in turns within one run: the load of the machine hits both alike.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "the tables are what this program is for")]

mod crun;
mod deploy;
mod fixture;
mod http;
mod idle;
mod machine;
mod measure;
mod micro;
mod namespace;
mod node;
mod oak;
mod overlay;
mod process;
mod reads;
mod start;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};

/// What a measurement needs to know.
struct Settings {
    /// The program that is measured.
    oak: PathBuf,
    /// Rounds of the deployment benchmark.
    rounds: usize,
}

const USAGE: &str = "usage: oak-bench [all|deploy|idle|micro|reads|start|overlay] [--rounds N] [--oak FILE]";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let (what, settings) = arguments()?;
    // Pure computation needs neither root nor a network.
    if what != "micro" {
        namespace::enter()?;
    }
    println!("{}", machine::describe(&settings.oak)?);
    let wanted = |name: &str| what == "all" || what == name;
    if wanted("deploy") {
        deploy::run(&settings)?;
    }
    if wanted("idle") {
        idle::run(&settings)?;
    }
    if wanted("micro") {
        micro::run()?;
    }
    if wanted("reads") {
        reads::run(&settings)?;
    }
    if wanted("start") {
        start::run(&settings)?;
    }
    if wanted("overlay") {
        overlay::run(&settings)?;
    }
    println!("load at the end: {}", machine::load());
    Ok(())
}

fn arguments() -> anyhow::Result<(String, Settings)> {
    let beside = std::env::current_exe()?.with_file_name("oak");
    let mut settings = Settings { oak: beside, rounds: 60 };
    let mut what = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--rounds" => settings.rounds = arguments.next().context(USAGE)?.parse().context(USAGE)?,
            "--oak" => settings.oak = arguments.next().context(USAGE)?.into(),
            "all" | "deploy" | "idle" | "micro" | "reads" | "start" | "overlay" if what.is_none() => {
                what = Some(argument);
            }
            _ => bail!(USAGE),
        }
    }
    if what.as_deref() == Some("overlay") {
        // The engine is a program of its own.
        settings.oak = settings.oak.with_file_name("oak-tunnel");
    }
    if !settings.oak.exists() {
        bail!(
            "there is no {}: cargo build --release --package oak-cli --package oak-tunnel",
            settings.oak.display()
        );
    }
    settings.oak = settings.oak.canonicalize()?;
    Ok((what.unwrap_or_else(|| "all".to_owned()), settings))
}

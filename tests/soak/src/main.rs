//! The real program under faults for minutes or hours, watched from outside.
//!
//! A root, two clusters and four workers, each on a played machine of its own, run real containers. In rounds, a user
//! works through the REST API while processes are killed and frozen, links cut and slowed, disks filled, machines
//! switched off. Then everything is mended, and reality has to become what was acknowledged.
//!
//! ```text
//!  user ── REST ──► root ── cluster-a ── worker-a, worker-c        [`user`], [`record`]
//!                       └── cluster-b ── worker-b, worker-d
//!  storm: plan from a seed; kill, freeze, cut, slow, fill, switch off   [`plan`], [`storm`]
//!  observer: the process table of the real machine, every 40 ms         [`observer`]
//!  after each round: processes, HTTP answers, devices, mounts, files    [`reality`]
//! ```
//!
//! What is checked, never by the word of oak alone: no acknowledged write is lost; no two containers of an instance run
//! at the same time where at most one may; after each round exactly the wanted containers run and answer; after everything
//! is deleted nothing is left; memory and open files of the roles are bounded; no role panics.
//!
//! `SOAK_MINUTES` (60) is the length, `SOAK_SEED` repeats the decisions of an earlier run, `OAK_BINARY` is the program.
//! Results are in `soak/` of cargo's output directory; after a failure the files of all machines stay too. The exit code
//! is 0 only if nothing was violated.

mod disk;
mod memory;
mod observer;
mod plan;
mod reality;
mod record;
mod report;
mod role;
mod run;
mod settings;
mod site;
mod storm;
mod timeline;
mod user;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use oak_e2e::World;
use xtask::workspace::target_directory;

use report::Report;
use settings::Settings;
use timeline::Timeline;

#[allow(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a program for people: the result is its output"
)]
fn main() -> ExitCode {
    match soak() {
        Ok(report) => {
            println!("{}", report.to_text());
            if report.violation.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs and writes the result down.
fn soak() -> anyhow::Result<Report> {
    let settings = Settings::from_environment()?;
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "the soak needs root: it makes machines of namespaces"
    );
    let results = target_directory().join("soak");
    fs::create_dir_all(&results).with_context(|| format!("cannot create {}", results.display()))?;
    let timeline = Timeline::create(&results.join("timeline.log"))?;
    let minutes = settings.length.as_secs() / 60;
    timeline.tell(format!(
        "seed {}: repeat with SOAK_SEED={} SOAK_MINUTES={minutes}",
        settings.seed, settings.seed
    ));
    let mut report = Report::new(settings);
    let outcome = World::run("soak", |world| run::run(world, &timeline, &mut report));
    report.took = timeline.elapsed();
    if let Err(error) = outcome {
        report.violation = Some(format!("{error:#}"));
    }
    write(&results.join("result.json"), &format!("{:#}\n", report.to_json()))?;
    write(&results.join("result.txt"), &report.to_text())?;
    timeline.tell(format!("results and timeline are in {}", results.display()));
    Ok(report)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

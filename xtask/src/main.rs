//! `cargo xtask`: development tasks. Results go to standard output, talk to standard error.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program")]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use xtask::check::{self, Depth, Finding};
use xtask::registry::{Options, Registry};
use xtask::{images, mutations, workspace};

/// Development tasks of this workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Check format, lints, direction of dependencies, purity of the core, sizes and words of files.
    Check {
        /// Leave out clippy, so that nothing is compiled.
        #[arg(long)]
        text_only: bool,
    },
    /// Break the core in one place after the other, and see that the simulator notices each time.
    Mutations {
        /// Only those with this in their names.
        #[arg(default_value = "")]
        name: String,
        /// Histories of each scenario.
        #[arg(long, default_value_t = 300)]
        seeds: u64,
    },
    /// Install the system packages that are missing (Debian and relatives).
    Setup {
        /// What for: build, run, test. All three if none is named.
        purposes: Vec<String>,
    },
    /// Build the container images that the tests deploy, and push them into a registry.
    TestImages {
        /// Where to build, as an OCI image layout.
        #[arg(long, value_name = "DIRECTORY")]
        dir: Option<PathBuf>,
        /// Registry to push into, as http://HOST:PORT.
        #[arg(long, value_name = "URL")]
        registry: Option<String>,
    },
    /// Run an image registry on loopback until standard input ends; its address is the first line of output.
    TestRegistry {
        /// Where to keep the images.
        #[arg(long, value_name = "DIRECTORY")]
        dir: PathBuf,
        /// Port to listen on; 0 takes a free one.
        #[arg(long, default_value_t = 0)]
        port: u16,
        /// Push the test images before saying the address.
        #[arg(long)]
        with_images: bool,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Check { text_only } => run_check(if text_only { Depth::TextOnly } else { Depth::Full }),
        Task::Mutations { name, seeds } => run_mutations(&name, seeds),
        Task::Setup { purposes } => run_setup(&purposes),
        Task::TestImages { dir, registry } => run_test_images(dir, registry.as_deref()),
        Task::TestRegistry { dir, port, with_images } => run_test_registry(&dir, port, with_images),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_check(depth: Depth) -> anyhow::Result<()> {
    let findings = check::run(depth, |rule| eprintln!("checking {rule}"))?;
    let mut problems = 0;
    for finding in &findings {
        match finding {
            Finding::Problem(text) => {
                problems += 1;
                println!("problem: {text}");
            }
            Finding::Warning(text) => println!("warning: {text}"),
            Finding::Skipped(text) => println!("skipped: {text}"),
        }
    }
    if problems > 0 {
        bail!("{problems} problems");
    }
    Ok(())
}

fn run_mutations(name: &str, seeds: u64) -> anyhow::Result<()> {
    let verdicts = mutations::run(name, seeds, |verdict| {
        let noticed = verdict.noticed.as_deref().unwrap_or("NOT NOTICED");
        println!("{} ({} s): {}\n  {noticed}", verdict.name, verdict.seconds, verdict.meaning);
    })?;
    let missed = verdicts.iter().filter(|verdict| verdict.noticed.is_none()).count();
    if missed > 0 {
        bail!("{missed} of {} deliberate bugs were not noticed", verdicts.len());
    }
    println!("all {} deliberate bugs were noticed", verdicts.len());
    Ok(())
}

/// The work is in a script, because a machine without a linker cannot build this program.
fn run_setup(purposes: &[String]) -> anyhow::Result<()> {
    let status = Command::new("bash")
        .arg(workspace::root().join("scripts/setup.sh"))
        .args(purposes)
        .status()
        .context("cannot start bash")?;
    if !status.success() {
        bail!("setup did not succeed");
    }
    Ok(())
}

fn run_test_images(directory: Option<PathBuf>, registry: Option<&str>) -> anyhow::Result<()> {
    let layout = images::build_all(&directory.unwrap_or_else(images::default_directory))?;
    eprintln!("images are in {}", layout.directory().display());
    if let Some(registry) = registry {
        let pushed = images::push_all(&layout, registry)?;
        eprintln!("pushed to {registry}: {} blobs sent, {} were there", pushed.sent, pushed.present);
    }
    for image in layout.images() {
        println!("{}:{} {} {} bytes", image.repository, image.tag, image.index, image.size_bytes);
    }
    Ok(())
}

fn run_test_registry(directory: &std::path::Path, port: u16, with_images: bool) -> anyhow::Result<()> {
    let options = Options { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), ..Options::default() };
    let registry = Registry::start_with(directory, &options)?;
    if with_images {
        let layout = images::build_all(&images::default_directory())?;
        images::push_all(&layout, &registry.url())?;
    }
    println!("{}", registry.address());
    std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink())
        .context("cannot wait for the end of input")?;
    Ok(())
}

//! `oak`: root, cluster and worker of an edge orchestrator, and the commands to use them.

mod backup;
mod commands;
mod config;
mod demo;
mod output;
mod roles;
mod tunnel;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use commands::{
    BackupArguments, ConfigArguments, EXIT_FAILURE, EXIT_USAGE, Failure, NetArguments, RestoreArguments,
    ServerArguments, SimArguments, UserCommand,
};
use config::{Loaded, Sources};
use output::{Output, Style};

/// Orchestrates services on machines at the edge: a root, its clusters, their workers
#[derive(Parser)]
#[command(name = "oak", version, max_term_width = 100)]
struct Cli {
    /// Configuration file; /etc/oakestra/oak.toml if it exists
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Role(roles::RoleCommand),
    #[command(flatten)]
    User(UserCommand),
    /// Save the state of this machine's roles to a file, or check such a file
    Backup(BackupArguments),
    /// Put a backup back
    Restore(RestoreArguments),
    /// Show the configuration and where each value comes from
    Config(ConfigArguments),
    /// Look at the network of the worker on this machine
    Net(NetArguments),
    /// Simulate a system under virtual time: faults, losses, more machines
    Sim(SimArguments),
}

fn main() -> ExitCode {
    // Before anything starts a thread: a shim forks, and the demo runs in a container with little memory.
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(first) if first == oak_runtime::SHIM_COMMAND => return oak_runtime::shim_main(arguments),
        Some(first) if first == oak_worker::DEMO_COMMAND => return demo::serve(),
        Some(first) if first == oak_worker::TUNNEL_COMMAND => return tunnel::run(arguments),
        _ => {}
    }
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider was installed before");
    }
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(failure) => {
            // The exit code tells the same when even standard error is closed.
            let _ = failure.write(&mut io::stderr());
            failure.exit_code()
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    match cli.command {
        Command::User(command) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| Failure::new(EXIT_FAILURE, "cannot start").cause(error.to_string()))?;
            let code = runtime.block_on(command.run(&cli.server));
            // Somebody may still wait for standard input, on a thread that cannot be told to stop.
            runtime.shutdown_background();
            Ok(code)
        }
        Command::Config(arguments) => {
            let loaded = load(cli.config, Vec::new())?;
            print(|output| arguments.run(&loaded, output))
        }
        Command::Backup(arguments) => {
            let loaded = load(cli.config, arguments.overrides())?;
            print(|output| arguments.run(&loaded.config, output))
        }
        Command::Restore(arguments) => {
            let loaded = load(cli.config, arguments.overrides())?;
            print(|output| arguments.run(&loaded.config, output))
        }
        Command::Net(arguments) => {
            let loaded = load(cli.config, arguments.overrides())?;
            print(|output| arguments.run(&loaded.config, output))
        }
        Command::Sim(arguments) => {
            let mut good = true;
            print(|output| arguments.run(output).map(|is_good| good = is_good))?;
            Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILURE) })
        }
        Command::Role(role) => {
            let loaded = load(cli.config, role.overrides())?;
            role.run(&loaded)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Runs a command with the streams of this process.
fn print(command: impl FnOnce(&mut Output<'_>) -> Result<(), Failure>) -> Result<ExitCode, Failure> {
    let (mut data, mut talk) = (io::stdout(), io::stderr());
    command(&mut Output { data: &mut data, talk: &mut talk, style: Style::of_stdout() })?;
    Ok(ExitCode::SUCCESS)
}

fn load(file: Option<PathBuf>, flags: Vec<config::Override>) -> Result<Loaded, Failure> {
    config::load(&Sources::of_process(file, flags)).map_err(|errors| {
        let failure: Failure = errors.into();
        debug_assert_eq!(failure.exit_code(), ExitCode::from(EXIT_USAGE));
        failure
    })
}

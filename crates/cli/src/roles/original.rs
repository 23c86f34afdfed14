//! Commands of the original's worker that people have in their scripts. Its settings are ours now (`docs/configuration.md`);
//! these say what has become of them.

use std::io::{self, Write as _};

use clap::{Subcommand, ValueEnum};

use crate::commands::Failure;

/// What can be asked of a worker that does not run.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum WorkerCommand {
    /// Settings of the original's worker
    Config {
        #[command(subcommand)]
        setting: Setting,
    },
}

/// Which setting.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Setting {
    /// Who connects the instances
    Network {
        /// A worker is its own NetManager: there is only auto
        mode: NetworkMode,
        /// Socket of another NetManager
        socket: Option<String>,
    },
}

/// Modes of the original.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NetworkMode {
    /// The worker itself
    Auto,
    /// A NetManager that somebody else started
    Manual,
    /// Nobody
    Off,
}

impl WorkerCommand {
    /// Says whether it can be so. Nothing is changed.
    pub(super) fn answer(&self) -> Result<(), Failure> {
        let Self::Config { setting: Setting::Network { mode, .. } } = self;
        match mode {
            NetworkMode::Auto => {
                writeln!(io::stderr(), "a worker connects its instances itself; there is nothing to change")?;
                Ok(())
            }
            NetworkMode::Manual => Err(refused("it cannot use another NetManager")),
            NetworkMode::Off => Err(refused("it cannot do without")),
        }
    }
}

fn refused(what: &str) -> Failure {
    Failure::usage(format!("a worker connects its instances itself: {what}; nothing was changed"))
        .hint("docs/network.md says what it changes on a machine, and how `oak down` takes it back")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_so_anyway_is_accepted() {
        let answer = |mode| {
            let setting = Setting::Network { mode, socket: None };
            WorkerCommand::Config { setting }.answer().is_ok()
        };
        assert_eq!(
            [NetworkMode::Auto, NetworkMode::Manual, NetworkMode::Off].map(answer),
            [true, false, false]
        );
    }
}

//! `oak restore`: puts a backup back.

use std::fs::File;
use std::path::PathBuf;

use clap::Args;
use oak_store::backup::{self, Existing};

use super::backup::{data_directory, show};
use super::{EXIT_FAILURE, Failure};
use crate::backup::{readable, understand};
use crate::config::{Config, Override};
use crate::output::Output;
use crate::roles::DirectoryLock;

/// What to put back, and where.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Directory for the state
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Move the state that is there aside; without it the directory has to be empty
    #[arg(long)]
    replace: bool,
}

impl Arguments {
    /// The settings that flags give.
    pub(crate) fn overrides(&self) -> Vec<Override> {
        data_directory(self.data_dir.as_ref())
    }

    /// Puts the backup back. No role may be running.
    pub(crate) fn run(self, config: &Config, output: &mut Output<'_>) -> Result<(), Failure> {
        // Looked at first, so that a mistyped name does not leave a new directory behind.
        File::open(&self.file).map_err(|error| {
            Failure::new(EXIT_FAILURE, format!("cannot open the backup {}", self.file.display()))
                .cause(error.to_string())
        })?;
        let data = config.data_dir.as_path();
        let lock = DirectoryLock::take(data)?;
        let existing = if self.replace { Existing::MoveAside } else { Existing::Refuse };
        let restored = backup::restore(&self.file, data, existing, &understand)?;
        drop(lock);
        let manifest = restored.manifest;
        output.say(format_args!(
            "{} has the state of {} again, saved by version {}",
            data.display(),
            readable(manifest.created_ms),
            manifest.software
        ))?;
        if let Some(aside) = restored.aside {
            output
                .say(format_args!("what was there is in {}; remove it when all is well", aside.display()))?;
        }
        Ok(show(&manifest, output)?)
    }
}

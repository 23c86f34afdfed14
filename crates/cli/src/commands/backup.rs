//! `oak backup`: saves the state of the roles on this machine, or checks what was saved.

use std::path::PathBuf;
use std::time::SystemTime;

use clap::Args;
use oak_store::backup::{self, Manifest};

use super::Failure;
use crate::backup::{create, file_name, readable, understand};
use crate::config::{Config, Override};
use crate::output::{Output, Table};

/// What to save, and where.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Directory of the state
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// File to write [default: oak-backup-<time>.tar here]
    #[arg(long, value_name = "FILE", conflicts_with = "verify")]
    output: Option<PathBuf>,
    /// Check this backup instead of making one
    #[arg(long, value_name = "FILE")]
    verify: Option<PathBuf>,
}

impl Arguments {
    /// The settings that flags give.
    pub(crate) fn overrides(&self) -> Vec<Override> {
        data_directory(self.data_dir.as_ref())
    }

    /// Makes or checks a backup. The roles may be running.
    pub(crate) fn run(self, config: &Config, output: &mut Output<'_>) -> Result<(), Failure> {
        if let Some(file) = self.verify {
            let manifest = backup::verify(&file, &understand)?;
            output.say(format_args!(
                "{} is a complete backup of {}, made by version {}",
                file.display(),
                readable(manifest.created_ms),
                manifest.software
            ))?;
            return Ok(show(&manifest, output)?);
        }
        let file = self.output.unwrap_or_else(|| file_name(SystemTime::now()).into());
        let manifest = create(&config.data_dir, &file)?;
        output.say(format_args!(
            "saved {} to {} and checked it ({} bytes); it holds private keys",
            config.data_dir.display(),
            file.display(),
            manifest.bytes()
        ))?;
        Ok(show(&manifest, output)?)
    }
}

/// The flag `--data-dir` as a setting.
pub(super) fn data_directory(flag: Option<&String>) -> Vec<Override> {
    let set = |value: &String| Override { path: "data_dir", flag: "--data-dir", value: value.clone() };
    flag.map(set).into_iter().collect()
}

/// Lists what a backup has.
pub(super) fn show(manifest: &Manifest, output: &mut Output<'_>) -> std::io::Result<()> {
    let mut table = Table::new(&["ROLE", "OBJECT", "COUNT"]);
    for summary in &manifest.roles {
        if summary.objects.is_empty() {
            table.row([summary.role.to_string().into(), "identity".into(), "1".into()]);
        }
        for (kind, count) in &summary.objects {
            table.row([summary.role.to_string().into(), kind.clone().into(), count.to_string().into()]);
        }
    }
    output.table(&table)
}

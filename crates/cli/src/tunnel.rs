//! The process that encrypts packets between workers; its agent starts it, and it goes on without.

use std::ffi::OsString;
use std::process::ExitCode;

use oak_model::chain;
use tracing::level_filters::LevelFilter;

/// Works until the agent, or the next one, tells it to stop. The only argument is the file of its settings.
pub(crate) fn run(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(LevelFilter::WARN).init();
    let Some(file) = arguments.next() else {
        tracing::error!("the file of the settings is missing");
        return ExitCode::from(2);
    };
    let text = std::fs::read(&file).map_err(|error| error.to_string());
    let config = text.and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string()));
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(error, file = %file.display(), "cannot read the settings");
            return ExitCode::from(2);
        }
    };
    match oak_tunnel::run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("cannot run: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

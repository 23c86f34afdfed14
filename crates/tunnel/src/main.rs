//! An engine as a program of its own, for tests and benchmarks: `oak-tunnel CONFIG.json`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let arguments: Vec<String> = std::env::args().collect();
    let [_, file] = arguments.as_slice() else {
        tracing::error!("usage: oak-tunnel CONFIG.json");
        return ExitCode::from(2);
    };
    let config = std::fs::read(file).map_err(|error| error.to_string());
    let config = config.and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string()));
    let config: oak_tunnel::TunnelConfig = match config {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(file, error, "cannot read the configuration");
            return ExitCode::from(2);
        }
    };
    match oak_tunnel::run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(%error, cause, "the engine did not start");
            ExitCode::FAILURE
        }
    }
}

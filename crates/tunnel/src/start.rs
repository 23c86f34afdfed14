//! Starting an engine from the agent, or finding the one that runs.

use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use crate::client::{Client, ClientError};
use crate::config::{InvalidConfig, TunnelConfig};
use crate::engine::state;
use crate::tried::{SystemError, Tried};

/// How long an engine may take to open its device and sockets.
const PATIENCE: Duration = Duration::from_secs(10);
/// It is asked this often whether it has.
const GAP: Duration = Duration::from_millis(20);

/// An engine that was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is out of its range.
    #[error("wrong setting")]
    Config(#[from] InvalidConfig),
    /// The file for the engine, or its process.
    #[error(transparent)]
    System(#[from] SystemError),
    /// It has ended; why is in its log.
    #[error("the tunnel engine ended at once: {0}")]
    Ended(String),
    /// It runs but does not answer.
    #[error("the tunnel engine does not answer")]
    Silent(#[source] ClientError),
    /// The one that runs has other settings.
    #[error("the tunnel engine that runs for {directory} has other settings")]
    Other {
        /// Directory of both.
        directory: PathBuf,
    },
}

/// Connects to the engine of this configuration. If none runs, `program` is started with one more argument, the path of
/// a file with the configuration in JSON; it has to call [`crate::run`] with it, and goes on when the caller ends,
/// however it ends. Blocks for up to ten seconds.
///
/// # Errors
///
/// [`StartError::Other`] if one runs with other settings: it can be told to stop, which interrupts traffic for a moment.
pub fn start(config: &TunnelConfig, mut program: Command) -> Result<Client, StartError> {
    config.check()?;
    let client = Client::new(config);
    if let Ok(status) = client.status() {
        return compare(config, client, &status.config);
    }
    let directory = &config.directory;
    state::prepare(directory).tried(|| format!("make directory {}", directory.display()))?;
    let file = directory.join("config.json");
    let text = serde_json::to_vec(config).map_err(io::Error::from);
    let written = text.and_then(|text| std::fs::write(&file, text));
    written.tried(|| format!("write {}", file.display()))?;
    let name = program.get_program().to_string_lossy().into_owned();
    let mut child = program.arg(&file).stdin(Stdio::null()).spawn().tried(|| format!("start {name}"))?;
    // Somebody has to take its exit status, or it stays in the table of processes.
    let (ended, end) = sync_channel(1);
    let wait = move || {
        let status = child.wait();
        let _ = ended.try_send(status.map_or_else(|error| error.to_string(), |status| status.to_string()));
    };
    let thread = std::thread::Builder::new().name("tunnel-wait".to_owned()).spawn(wait);
    thread.tried(|| "start a thread".to_owned())?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let error = match client.status() {
            Ok(status) => return compare(config, client, &status.config),
            Err(error) => error,
        };
        match end.recv_timeout(GAP) {
            Ok(status) => return Err(StartError::Ended(status)),
            Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
            Err(_) => return Err(StartError::Silent(error)),
        }
    }
}

fn compare(config: &TunnelConfig, client: Client, other: &TunnelConfig) -> Result<Client, StartError> {
    if config == other { Ok(client) } else { Err(StartError::Other { directory: config.directory.clone() }) }
}

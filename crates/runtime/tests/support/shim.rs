//! Stand-in for the `oak` binary in the tests: a shim, or a worker that can be killed.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use oak_runtime::{ContainerRequest, OciConfig, OciRuntime, Runtime, SHIM_COMMAND, shim_main};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(command) if command == SHIM_COMMAND => shim_main(arguments),
        Some(command) if command == "worker" => {
            let state = arguments.next().map(PathBuf::from).unwrap_or_default();
            let request = arguments.next().map(PathBuf::from).unwrap_or_default();
            worker(state, &request)
        }
        _ => ExitCode::from(2),
    }
}

/// Creates a container, prints its process id and waits to be killed.
fn worker(state: PathBuf, request: &std::path::Path) -> ExitCode {
    let create = async {
        let request: ContainerRequest = serde_json::from_slice(&std::fs::read(request)?)?;
        let runtime = OciRuntime::open(OciConfig::new(state))?;
        let (started, observer) = runtime.create(request).await.map_err(std::io::Error::other)?;
        writeln!(std::io::stdout(), "{}", started.pid)?;
        observer.await;
        std::io::Result::Ok(())
    };
    let Ok(threads) = tokio::runtime::Runtime::new() else { return ExitCode::FAILURE };
    match threads.block_on(create) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

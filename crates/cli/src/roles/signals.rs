//! Stopping on request, and telling a service manager how far we are.

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Cancels the token on SIGTERM or SIGINT. A second signal ends the process at once.
pub(crate) fn cancel_on_signal(shutdown: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        let mut seen = 0;
        loop {
            // Both branches are cancel-safe.
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            seen += 1;
            if seen > 1 {
                warn!("asked to stop a second time, ending at once");
                std::process::exit(1);
            }
            info!("stopping; containers go on running");
            notify(&[NotifyState::Stopping]);
            shutdown.cancel();
        }
    });
    Ok(())
}

/// Tells the service manager that everything works.
pub(crate) fn notify_ready(what: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(what)]);
}

fn notify(states: &[NotifyState<'_>]) {
    // Without a service manager there is nobody to tell.
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "cannot tell the service manager");
    }
}

//! The one message of a shim to the worker.

use std::fs::File;
use std::io::Write;

use crate::record::Report;

/// The write end of the pipe that the worker gave as stdout.
#[derive(Debug)]
pub(super) struct ReportPipe(File);

impl ReportPipe {
    /// Takes the pipe away from stdout, so that no child gets it.
    pub(super) fn take_stdout() -> Result<Self, rustix::io::Errno> {
        let pipe = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
        // the worker gave /dev/null as stdin
        rustix::stdio::dup2_stdout(rustix::stdio::stdin())?;
        Ok(Self(File::from(pipe)))
    }

    /// Sends the report and closes the pipe. A worker that died meanwhile will find the container by its files.
    pub(super) fn send(mut self, report: &Report) {
        if let Ok(text) = serde_json::to_vec(report) {
            let _ = self.0.write_all(&text);
        }
    }
}

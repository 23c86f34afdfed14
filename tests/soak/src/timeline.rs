//! What happened when: a file, a line per event, seconds since the start first.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// The log of a run. Lines are also shown to whoever runs it.
#[derive(Debug)]
pub(crate) struct Timeline {
    start: Instant,
    file: Mutex<File>,
}

impl Timeline {
    pub(crate) fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { start: Instant::now(), file: Mutex::new(file) })
    }

    /// Time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Writes a line.
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        let line = format!("{:9.3} {}\n", self.elapsed().as_secs_f64(), text.as_ref());
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // A full disk must not end the run; the result still tells what matters.
        let _ = file.write_all(line.as_bytes());
    }

    /// Writes a line and shows it.
    #[allow(clippy::print_stderr, reason = "progress for the person who waits")]
    pub(crate) fn tell(&self, text: impl AsRef<str>) {
        eprintln!("{:7.1} s  {}", self.elapsed().as_secs_f64(), text.as_ref());
        self.note(text);
    }
}

//! Keeps the errors that libcontainer logs: its error values lose their causes on the way between its processes.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Bound of one line.
const LINE_BYTES: usize = 2000;

/// Sends errors and warnings to the shim's log, which is its stderr. The container's processes get another
/// stderr before they run, therefore a copy.
pub(super) fn install() {
    let Ok(copy) = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3) else { return };
    let _ = tracing::subscriber::set_global_default(Recorder(File::from(copy)));
}

struct Recorder(File);

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::ERROR)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        line.0.truncate(line.0.floor_char_boundary(LINE_BYTES));
        line.0.push('\n');
        let _ = (&self.0).write_all(line.0.as_bytes());
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let separator = if self.0.is_empty() { "" } else { " " };
        let _ = match field.name() {
            "message" => write!(self.0, "{separator}{value:?}"),
            name => write!(self.0, "{separator}{name}={value:?}"),
        };
    }
}

//! Output of containers: written by the shim, read by the worker, kept beyond the life of a container.
//!
//! A log directory holds `log` and, after the first rotation, `log.1`. Each line is
//!
//! ```text
//! <microseconds since 1970> <o|e|O|E> <bytes of the line>\n
//! ```
//!
//! `o` is stdout, `e` stderr. An upper-case letter marks a piece that the next piece of the same stream
//! continues on the same line: the line was longer than 16 KiB or the program paused in the middle of it.

mod follow;
mod format;
mod reader;
mod tail;
mod writer;

pub use follow::read_logs;
pub use format::LogStream;
pub use reader::LogQuery;
pub use tail::log_tail;
pub(crate) use writer::LogWriter;

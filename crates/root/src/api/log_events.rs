//! Output as server-sent events: one per line, with an id from which a client resumes.
//!
//! The worker sends each line with its time. The id is that time in microseconds and how many lines of the same time
//! came before: a program can write many lines at once.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use oak_model::message::LogSince;
use serde_json::json;
use tokio::time::{Instant, interval_at};

use super::error::ApiError;
use super::logs::{LogRequest, LogStream};
use super::sse::{Frame, HEARTBEAT};
use crate::calendar;

/// Longest text of one event; a longer line comes in several, only the first with an id.
const LONGEST: usize = 64 << 10;

/// A line of the output of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    micros: u64,
    earlier: u64,
}

impl Position {
    /// Reads an id.
    pub(super) fn parse(id: &str) -> Result<Self, ApiError> {
        let parts = id.split_once('.').and_then(|(micros, earlier)| {
            Some(Self { micros: micros.parse().ok()?, earlier: earlier.parse().ok()? })
        });
        parts.ok_or_else(|| ApiError::bad_request("Last-Event-ID must be the id of an event of this stream"))
    }
}

/// What to ask the worker for. A client that resumes has said everything with its id.
pub(super) fn request(wanted: LogRequest, resume: Option<Position>) -> LogRequest {
    let timed = LogRequest { timestamps: true, ..wanted };
    match resume {
        Some(position) => {
            LogRequest { since: Some(LogSince::AtMicros(position.micros)), tail: None, ..timed }
        }
        None => timed,
    }
}

/// Puts lines together and makes events of them.
struct Lines {
    rest: Vec<u8>,
    /// The line in `rest` has had its first event.
    is_continued: bool,
    last: Option<Position>,
    resume: Option<Position>,
    /// The line the client knows was found, or need not be.
    is_resumed: bool,
}

impl Lines {
    fn new(resume: Option<Position>) -> Self {
        Self { rest: Vec::new(), is_continued: false, last: None, resume, is_resumed: resume.is_none() }
    }

    /// Takes a piece; gives out the events of the lines that are whole.
    fn push(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            self.rest.extend_from_slice(part);
            let is_whole = self.rest.last() == Some(&b'\n');
            if is_whole {
                self.rest.pop();
            }
            while self.rest.len() > LONGEST {
                let later = self.rest.split_off(cut(&self.rest));
                self.flush(&mut text);
                self.rest = later;
                self.is_continued = true;
            }
            if is_whole {
                self.flush(&mut text);
                self.is_continued = false;
            }
        }
        text
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        let line = std::mem::take(&mut self.rest);
        let line = String::from_utf8_lossy(&line);
        if self.is_continued {
            if self.last > self.resume {
                out.extend_from_slice(&Frame::default().event("continued").data(&json!({ "text": line })));
            }
            return;
        }
        let timed =
            line.split_once(' ').and_then(|(time, text)| Some((calendar::parse_micros(time)?, time, text)));
        let Some((micros, time, text)) = timed else {
            out.extend_from_slice(&Frame::default().data(&json!({ "text": line })));
            return;
        };
        let earlier = match self.last {
            Some(last) if last.micros == micros => last.earlier + 1,
            _ => 0,
        };
        let position = Position { micros, earlier };
        self.last = Some(position);
        if self.resume.is_some_and(|known| position <= known) {
            self.is_resumed |= self.resume == Some(position);
            return;
        }
        if !self.is_resumed {
            self.is_resumed = true;
            let detail = "the last known line is not kept any more: lines may be missing before the next";
            out.extend_from_slice(&Frame::default().event("gap").data(&json!({ "detail": detail })));
        }
        let data = json!({ "timestamp": time, "text": text });
        out.extend_from_slice(&Frame::default().id(format_args!("{micros}.{earlier}")).data(&data));
    }

    /// The output is at its end.
    fn finish(&mut self) -> Vec<u8> {
        let mut text = Vec::new();
        if !self.rest.is_empty() {
            self.flush(&mut text);
        }
        text.extend_from_slice(
            &Frame::default().event("end").data(&json!({ "reason": "end of the output" })),
        );
        text
    }
}

/// Where a line that is too long is cut: not inside of a character.
fn cut(line: &[u8]) -> usize {
    let is_inside = |at: usize| line.get(at).is_some_and(|byte| byte & 0b1100_0000 == 0b1000_0000);
    (LONGEST - 3..=LONGEST).rev().find(|at| !is_inside(*at)).unwrap_or(LONGEST)
}

struct Reading {
    output: LogStream,
    lines: Lines,
    heartbeat: tokio::time::Interval,
    is_over: bool,
}

impl Reading {
    async fn next(&mut self) -> Option<Bytes> {
        while !self.is_over {
            // Both branches are cancel-safe.
            let piece = tokio::select! {
                piece = self.output.next() => piece,
                _ = self.heartbeat.tick() => return Some(Frame::comment("still here")),
            };
            let text = match piece {
                Some(Ok(piece)) => self.lines.push(&piece),
                Some(Err(error)) => {
                    self.is_over = true;
                    Frame::default().event("end").data(&json!({ "reason": error.to_string() })).to_vec()
                }
                None => {
                    self.is_over = true;
                    self.lines.finish()
                }
            };
            if !text.is_empty() {
                return Some(text.into());
            }
        }
        None
    }
}

/// The events of an output that comes with times.
pub(super) fn run(
    output: LogStream,
    resume: Option<Position>,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    let heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
    let reading = Reading { output, lines: Lines::new(resume), heartbeat, is_over: false };
    stream::unfold(reading, |mut reading| async {
        let text = reading.next().await?;
        Some((Ok(text), reading))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "2026-11-24T16:00:00.000001Z one\n2026-11-24T16:00:00.000001Z two\n\
                          2026-11-24T16:00:00.000002Z three\n";

    fn events(resume: Option<&str>, output: &str, size: usize) -> String {
        let mut lines = Lines::new(resume.map(|id| Position::parse(id).unwrap()));
        let mut text = Vec::new();
        for piece in output.as_bytes().chunks(size) {
            text.extend(lines.push(piece));
        }
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_resumed_stream_misses_nothing_and_doubles_nothing() {
        let base = calendar::parse_micros("2026-11-24T16:00:00.000001Z").unwrap();
        for size in [1, 7, 1000] {
            let all = events(None, OUTPUT, size);
            let ids: Vec<&str> = all.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
            assert_eq!(ids, [format!("{base}.0"), format!("{base}.1"), format!("{}.0", base + 1)]);
            let rest = events(Some(ids[0]), OUTPUT, size);
            assert!(!rest.contains("gap") && !rest.contains("\"one\""), "{rest}");
            assert!(all.ends_with(&rest));
            assert_eq!(events(Some(ids[2]), OUTPUT, size), "");
        }
    }

    #[test]
    fn lines_that_were_rotated_away_are_said_to_be_missing() {
        let resumed = events(Some("5.0"), OUTPUT, 1000);
        assert!(resumed.starts_with("event: gap\n"), "{resumed}");
        assert_eq!(resumed.matches("gap").count(), 1);
    }

    #[test]
    fn long_lines_come_in_pieces() {
        let line = format!("2026-11-24T16:00:00.000001Z {}\n", "x".repeat(LONGEST * 2));
        let text = events(None, &line, 1 << 15);
        assert_eq!((text.matches("id: ").count(), text.matches("event: continued").count()), (1, 2));
    }
    #[test]
    fn characters_are_never_cut() {
        let line = format!("2026-11-24T16:00:00.000001Z {}\n", "\u{20ac}".repeat(LONGEST));
        let text = events(None, &line, 1 << 15);
        assert_eq!(text.matches('\u{20ac}').count(), LONGEST);
        assert!(!text.contains('\u{fffd}'));
    }
}

//! The end of a log as plain text, for status reports.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::format::Record;

/// Returns the last messages of the log in `directory`: at most `max_bytes` bytes of text, without times,
/// whole characters, invalid UTF-8 replaced. Empty if there is no log. Blocks on the disk.
///
/// # Errors
/// A log that exists but cannot be read.
pub fn log_tail(directory: &Path, max_bytes: usize) -> io::Result<String> {
    let mut text = Vec::new();
    for name in ["log", "log.1"] {
        let missing = max_bytes.saturating_sub(text.len());
        if missing == 0 {
            break;
        }
        let mut older = end_of_file(&directory.join(name), missing)?;
        older.extend_from_slice(&text);
        text = older;
    }
    Ok(last_bytes(&String::from_utf8_lossy(&text), max_bytes).to_owned())
}

/// At least `wanted` bytes of message text from the end of a file, if it has that many.
fn end_of_file(path: &Path, wanted: usize) -> io::Result<Vec<u8>> {
    let file = match open_quietly(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let size = file.metadata()?.len();
    // times take up to 20 bytes a line: begin with a guess and read more if the lines were short
    let mut span = (wanted as u64).saturating_mul(2).saturating_add(4096).min(size);
    loop {
        let mut raw = vec![0; usize::try_from(span).map_err(|_| io::ErrorKind::FileTooLarge)?];
        file.read_exact_at(&mut raw, size - span)?;
        let text = messages(&raw, span == size);
        if text.len() >= wanted || span == size {
            return Ok(text);
        }
        span = span.saturating_mul(4).min(size);
    }
}

/// Opens without noting the time of the reading: looking at a log every few seconds would write to flash each time.
fn open_quietly(path: &Path) -> io::Result<File> {
    let quietly = OpenOptions::new().read(true).custom_flags(libc::O_NOATIME).open(path);
    match quietly {
        // Only the owner and root may ask for it.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => File::open(path),
        opened => opened,
    }
}

fn messages(raw: &[u8], from_start: bool) -> Vec<u8> {
    // a block that begins inside a line: the first line is not a record and may look like one
    let first_whole = if from_start {
        0
    } else {
        raw.iter().position(|byte| *byte == b'\n').map_or(raw.len(), |at| at + 1)
    };
    let mut text = Vec::new();
    for line in raw.get(first_whole..).unwrap_or_default().split(|byte| *byte == b'\n') {
        let Some(record) = Record::parse(line) else { continue };
        text.extend_from_slice(record.text);
        if record.ends_line {
            text.push(b'\n');
        }
    }
    text
}

fn last_bytes(text: &str, max_bytes: usize) -> &str {
    let mut start = text.len().saturating_sub(max_bytes);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text.get(start..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::{LogStream, LogWriter};
    use super::*;

    #[test]
    fn the_tail_reaches_into_the_old_file() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(directory.path(), 4096).unwrap();
        for number in 0..300 {
            log.take(LogStream::Stdout, format!("{number}\n").as_bytes());
        }
        let expected: String = (200..300).map(|number| format!("{number}\n")).collect();
        assert_eq!(log_tail(directory.path(), expected.len()).unwrap(), expected);
    }

    #[test]
    fn the_tail_begins_with_a_whole_character() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(directory.path(), 4096).unwrap();
        log.take(LogStream::Stdout, "äöü\n".as_bytes());
        assert_eq!(log_tail(directory.path(), 4).unwrap(), "ü\n");
        assert_eq!(log_tail(directory.path(), 0).unwrap(), "");
    }

    #[test]
    fn no_log_is_an_empty_tail() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(log_tail(directory.path(), 100).unwrap(), "");
    }
}

//! Reads log files in order, across rotation. Blocking; see `follow` for the asynchronous face.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::format::{LogStream, Record, micros, rfc3339};

const BLOCK: usize = 64 << 10;

/// Which part of a log to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Only that many lines from the end.
    pub tail_lines: Option<usize>,
    /// Only what was written at this time or later.
    pub since: Option<SystemTime>,
    /// Whether to go on when the end is reached. The stream then ends only by being dropped: a log does not
    /// know whether its container will be created again.
    pub follow: bool,
    /// Whether each line begins with its time, RFC 3339 in UTC.
    pub timestamps: bool,
}

/// A position in a log directory.
#[derive(Debug)]
pub(super) struct LogReader {
    directory: PathBuf,
    since: u64,
    timestamps: bool,
    files: VecDeque<File>,
    /// Bytes of a record whose end was not written yet.
    carry: Vec<u8>,
    /// Stream of a line that was given out without its end.
    open_line: Option<LogStream>,
}

impl LogReader {
    /// Goes to the first record asked for. A directory without log is an empty log.
    pub(super) fn open(directory: &Path, query: &LogQuery) -> io::Result<Self> {
        // newest first: if the writer rotates in between, the old name leads to the same file and is skipped
        let current = open_existing(&directory.join("log"))?;
        let old = match (open_existing(&directory.join("log.1"))?, &current) {
            (Some(old), Some(current)) if inode(&old)? == inode(current)? => None,
            (old, _) => old,
        };
        let mut files = VecDeque::new();
        let mut wanted = query.tail_lines.unwrap_or(usize::MAX);
        for mut file in [current, old].into_iter().flatten() {
            if wanted == 0 && !files.is_empty() {
                break;
            }
            if query.tail_lines.is_some() {
                let (start, found) = tail_start(&file, wanted)?;
                file.seek(SeekFrom::Start(start))?;
                wanted = wanted.saturating_sub(found);
            }
            files.push_front(file);
        }
        Ok(Self {
            directory: directory.to_owned(),
            since: query.since.map_or(0, micros),
            timestamps: query.timestamps,
            files,
            carry: Vec::new(),
            open_line: None,
        })
    }

    /// The next piece of text, or `None` at the present end.
    pub(super) fn next_chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut block = vec![0; BLOCK];
        loop {
            let read = match self.files.front_mut() {
                Some(file) => file.read(&mut block)?,
                None => 0,
            };
            if read == 0 {
                if !self.advance()? {
                    return Ok(None);
                }
                continue;
            }
            let text = self.convert(block.get(..read).unwrap_or_default());
            if !text.is_empty() {
                return Ok(Some(text));
            }
        }
    }

    /// Goes to the next file if there is one.
    fn advance(&mut self) -> io::Result<bool> {
        if self.files.len() > 1 {
            self.files.pop_front();
            return Ok(true);
        }
        let Some(newest) = open_existing(&self.directory.join("log"))? else { return Ok(false) };
        let Some(present) = self.files.front() else {
            self.files.push_back(newest);
            return Ok(true);
        };
        if inode(present)? == inode(&newest)? {
            return Ok(false);
        }
        // the present file stays in front: it may have grown between our last read and its renaming
        self.files.push_back(newest);
        Ok(true)
    }

    fn convert(&mut self, block: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(block.len());
        let carry = std::mem::take(&mut self.carry);
        let joined = if carry.is_empty() { block.to_vec() } else { [&carry, block].concat() };
        let end = joined.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let (whole, rest) = joined.split_at(end);
        for line in whole.split(|byte| *byte == b'\n') {
            if let Some(record) = Record::parse(line) {
                self.append(&record, &mut out);
            }
        }
        // records are far shorter; what is longer was not written by us
        if rest.len() < BLOCK {
            self.carry = rest.to_vec();
        }
        out
    }

    fn append(&mut self, record: &Record<'_>, out: &mut Vec<u8>) {
        if record.micros < self.since {
            return;
        }
        let continues = self.open_line == Some(record.stream);
        if self.open_line.is_some() && !continues {
            out.push(b'\n');
        }
        if self.timestamps && !continues {
            out.extend_from_slice(rfc3339(record.micros).as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(record.text);
        if record.ends_line {
            out.push(b'\n');
        }
        self.open_line = (!record.ends_line).then_some(record.stream);
    }
}

fn open_existing(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn inode(file: &File) -> io::Result<(u64, u64)> {
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Where the last `lines` lines of a file begin, and how many of them it has. Counts ends of lines backwards.
fn tail_start(file: &File, lines: usize) -> io::Result<(u64, usize)> {
    let size = file.metadata()?.len();
    if lines == 0 {
        return Ok((size, 0));
    }
    let mut found = 0;
    let mut end = size;
    let mut later_start = size;
    let mut block = Vec::new();
    // bytes of a record that begins in an earlier block
    let mut suffix: Vec<u8> = Vec::new();
    while end > 0 {
        let length = (BLOCK as u64).min(end);
        end -= length;
        block.resize(usize::try_from(length).unwrap_or(BLOCK), 0);
        file.read_exact_at(&mut block, end)?;
        block.extend_from_slice(&suffix);
        let mut tail = block.len();
        while let Some(feed) = block.get(..tail).unwrap_or_default().iter().rposition(|byte| *byte == b'\n') {
            let ends_line = Record::parse(block.get(feed + 1..tail).unwrap_or_default())
                .is_some_and(|record| record.ends_line);
            if ends_line {
                if found == lines {
                    return Ok((later_start, found));
                }
                found += 1;
            }
            if tail > feed + 1 {
                later_start = end + feed as u64 + 1;
            }
            tail = feed;
        }
        suffix = block.get(..tail).unwrap_or_default().to_vec();
        if suffix.len() > BLOCK {
            suffix.clear();
        }
    }
    if Record::parse(&suffix).is_some_and(|record| record.ends_line) {
        if found == lines {
            return Ok((later_start, found));
        }
        found += 1;
    }
    Ok((0, found))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::fs;
    use std::time::{Duration, UNIX_EPOCH};

    use super::super::LogWriter;
    use super::*;

    fn read(directory: &Path, query: &LogQuery) -> String {
        let mut reader = LogReader::open(directory, query).unwrap();
        let mut text = Vec::new();
        while let Some(chunk) = reader.next_chunk().unwrap() {
            text.extend(chunk);
        }
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn the_last_lines_are_found_across_files_and_blocks() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(directory.path(), 200_000).unwrap();
        for number in 0..9000 {
            log.take(LogStream::Stdout, format!("line {number}\n").as_bytes());
        }
        assert!(directory.path().join("log.1").exists());
        for count in [0, 1, 2, 3000, 6000] {
            let query = LogQuery { tail_lines: Some(count), ..LogQuery::default() };
            let expected = (9000 - count..9000).fold(String::new(), |mut text, number| {
                writeln!(text, "line {number}").unwrap();
                text
            });
            assert_eq!(read(directory.path(), &query), expected, "{count} lines");
        }
    }

    #[test]
    fn a_line_in_pieces_counts_once_and_is_joined() {
        let directory = tempfile::tempdir().unwrap();
        let text = "1 o first\n2 O sec\n3 o ond\n4 O thi\n5 e err\n6 o rd\n";
        fs::write(directory.path().join("log"), text).unwrap();
        assert_eq!(read(directory.path(), &LogQuery::default()), "first\nsecond\nthi\nerr\nrd\n");
        let two = LogQuery { tail_lines: Some(2), ..LogQuery::default() };
        // the interrupted line counts where it ends, and is given from its beginning
        assert_eq!(read(directory.path(), &two), "thi\nerr\nrd\n");
    }

    #[test]
    fn since_and_timestamps_use_the_time_of_the_record() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("log"), "1000000 o a\n2000000 o b\n").unwrap();
        let query = LogQuery {
            since: Some(UNIX_EPOCH + Duration::from_secs(2)),
            timestamps: true,
            ..LogQuery::default()
        };
        assert_eq!(read(directory.path(), &query), "1970-01-01T00:00:02.000000Z b\n");
    }

    #[test]
    fn a_reader_at_the_end_sees_what_is_written_after_a_rotation() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(directory.path(), 4096).unwrap();
        log.take(LogStream::Stdout, b"before\n");
        let mut reader = LogReader::open(directory.path(), &LogQuery::default()).unwrap();
        assert_eq!(reader.next_chunk().unwrap().unwrap(), b"before\n");
        assert_eq!(reader.next_chunk().unwrap(), None);
        for _ in 0..3 {
            log.take(LogStream::Stdout, &[&[b'x'; 1500][..], b"\n"].concat());
        }
        assert!(directory.path().join("log.1").exists());
        let mut bytes = 0;
        while let Some(chunk) = reader.next_chunk().unwrap() {
            bytes += chunk.len();
        }
        assert_eq!(bytes, 3 * 1501);
    }
}

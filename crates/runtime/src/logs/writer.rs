//! Writes output into rotated log files. Used by the shim, which must never block or fail because of a log:
//! what cannot be written is counted and dropped.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::format::{LogStream, PIECE_BYTES, Record, micros};

/// Smallest file size that still makes sense.
const SMALLEST_FILE: u64 = 4096;

/// The log of one container.
#[derive(Debug)]
pub(crate) struct LogWriter {
    directory: PathBuf,
    max_bytes: u64,
    file: File,
    written: u64,
    /// Bytes dropped since the last successful write.
    lost: u64,
    /// The file ends in the middle of a record that could not be cut off.
    is_torn: bool,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    batch: Vec<u8>,
}

impl LogWriter {
    /// Opens the log in `directory`, which is created if missing, for appending.
    pub(crate) fn open(directory: &Path, max_bytes: u64) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let (file, written) = open_current(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
            max_bytes: max_bytes.max(SMALLEST_FILE),
            file,
            written,
            lost: 0,
            is_torn: false,
            stdout: Vec::new(),
            stderr: Vec::new(),
            batch: Vec::new(),
        })
    }

    /// Takes bytes as they came out of the container. Complete lines are written at once.
    pub(crate) fn take(&mut self, stream: LogStream, bytes: &[u8]) {
        let now = micros(SystemTime::now());
        let pending = match stream {
            LogStream::Stdout => &mut self.stdout,
            LogStream::Stderr => &mut self.stderr,
        };
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (mut text, ends_line) = match part.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (part, false),
            };
            while pending.len() + text.len() > PIECE_BYTES {
                let (head, tail) = text.split_at(PIECE_BYTES - pending.len());
                pending.extend_from_slice(head);
                let record = Record { micros: now, stream, ends_line: false, text: pending };
                record.append_to(&mut self.batch);
                pending.clear();
                text = tail;
            }
            pending.extend_from_slice(text);
            if ends_line {
                Record { micros: now, stream, ends_line, text: pending }.append_to(&mut self.batch);
                pending.clear();
            }
        }
        self.write_batch();
    }

    /// Whether a line has begun and not ended.
    pub(crate) fn has_pending(&self) -> bool {
        !self.stdout.is_empty() || !self.stderr.is_empty()
    }

    /// Writes lines that have begun, as pieces to be continued.
    pub(crate) fn flush_pending(&mut self) {
        let now = micros(SystemTime::now());
        for (stream, pending) in
            [(LogStream::Stdout, &mut self.stdout), (LogStream::Stderr, &mut self.stderr)]
        {
            if !pending.is_empty() {
                let record = Record { micros: now, stream, ends_line: false, text: pending };
                record.append_to(&mut self.batch);
                // also gives back the memory of a long line
                *pending = Vec::new();
            }
        }
        self.write_batch();
    }

    /// Whether output was dropped that the log does not tell of yet.
    pub(crate) fn has_lost(&self) -> bool {
        self.lost > 0
    }

    /// Says in the log how much was dropped, if there is room for it now.
    pub(crate) fn report_loss(&mut self) {
        if self.has_lost() {
            self.write_batch();
        }
    }

    fn write_batch(&mut self) {
        if self.batch.is_empty() && !self.has_lost() {
            return;
        }
        let bytes = self.batch.len() as u64;
        if self.written > 0 && self.written.saturating_add(bytes) > self.max_bytes {
            self.rotate();
        }
        if self.has_lost() || self.is_torn {
            let rest = std::mem::take(&mut self.batch);
            if self.is_torn {
                self.batch.push(b'\n');
            }
            if self.has_lost() {
                self.append_loss();
            }
            self.batch.extend_from_slice(&rest);
        }
        match self.file.write_all(&self.batch) {
            Ok(()) => {
                self.written = self.written.saturating_add(self.batch.len() as u64);
                (self.lost, self.is_torn) = (0, false);
            }
            Err(_) => {
                self.lost = self.lost.saturating_add(bytes);
                // Part of it may be there; without its end it would swallow the next record.
                self.is_torn = self.file.set_len(self.written).is_err();
            }
        }
        self.batch.clear();
        self.batch.shrink_to(4096);
    }

    fn append_loss(&mut self) {
        let note = format!("[{} bytes of output lost: log could not be written]", self.lost);
        let record = Record {
            micros: micros(SystemTime::now()),
            stream: LogStream::Stderr,
            ends_line: true,
            text: note.as_bytes(),
        };
        record.append_to(&mut self.batch);
    }

    /// Makes `log` the old file and begins a new one. If that fails the current file goes on growing.
    fn rotate(&mut self) {
        let current = self.directory.join("log");
        if fs::rename(&current, self.directory.join("log.1")).is_err() {
            return;
        }
        if let Ok((file, written)) = open_current(&self.directory) {
            self.file = file;
            self.written = written;
        }
    }
}

/// Opens `log` and finishes a record that was cut off by a crash, so that the next one stands alone.
fn open_current(directory: &Path) -> io::Result<(File, u64)> {
    use std::os::unix::fs::FileExt;

    let path = directory.join("log");
    let mut file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
    let mut size = file.metadata()?.len();
    if let Some(end) = size.checked_sub(1) {
        let mut last = [b'\n'];
        file.read_exact_at(&mut last, end)?;
        if last != [b'\n'] {
            file.write_all(b"\n")?;
            size += 1;
        }
    }
    Ok((file, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(path: &Path) -> Vec<String> {
        let text = fs::read(path).unwrap_or_default();
        text.split(|byte| *byte == b'\n')
            .filter_map(Record::parse)
            .map(|record| String::from_utf8_lossy(record.text).into_owned())
            .collect()
    }

    #[test]
    fn lines_are_put_together_from_fragments() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(directory.path(), 1 << 20).unwrap();
        log.take(LogStream::Stdout, b"one\ntw");
        log.take(LogStream::Stderr, b"other\n");
        log.take(LogStream::Stdout, b"o\n");
        assert!(!log.has_pending());
        assert_eq!(messages(&directory.path().join("log")), ["one", "other", "two"]);
    }

    #[test]
    fn long_lines_are_cut_into_pieces() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(directory.path(), 1 << 20).unwrap();
        let mut line = vec![b'x'; 40_000];
        line.push(b'\n');
        log.take(LogStream::Stdout, &line);
        let pieces = messages(&directory.path().join("log"));
        assert_eq!(pieces.iter().map(String::len).collect::<Vec<_>>(), [16_384, 16_384, 7232]);
    }

    #[test]
    fn two_files_of_the_given_size_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(directory.path(), 8192).unwrap();
        for number in 0..2000 {
            log.take(LogStream::Stdout, format!("line {number}\n").as_bytes());
        }
        let (old, new) = (directory.path().join("log.1"), directory.path().join("log"));
        assert!(fs::metadata(&old).unwrap().len() <= 8192);
        assert!(fs::metadata(&new).unwrap().len() <= 8192);
        assert_eq!(messages(&new).last().map(String::as_str), Some("line 1999"));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_full_disk_costs_output_and_says_how_much() {
        use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        struct Disk(tempfile::TempDir);
        impl Drop for Disk {
            fn drop(&mut self) {
                let _ = unmount(self.0.path(), UnmountFlags::DETACH);
            }
        }
        let directory = tempfile::tempdir().unwrap();
        mount("oak-test", directory.path(), "tmpfs", MountFlags::empty(), c"size=256k").unwrap();
        let disk = Disk(directory);
        let (hog, path) = (disk.0.path().join("hog"), disk.0.path().join("log"));
        let mut log = LogWriter::open(disk.0.path(), 10 << 20).unwrap();
        // Fills its page: with 16 digits of microseconds, a letter and three separators.
        let before = "b".repeat(4096 - 20);
        log.take(LogStream::Stdout, format!("{before}\n").as_bytes());
        assert_eq!(fs::metadata(&path).unwrap().len(), 4096);
        let mut file = File::create(&hog).unwrap();
        while file.write_all(&[7; 4096]).is_ok() {}
        let line = format!("{}\n", "x".repeat(9_999));
        for _ in 0..5 {
            log.take(LogStream::Stdout, line.as_bytes());
        }
        assert!(log.has_lost());
        log.report_loss();
        assert!(log.has_lost(), "there was no room to say it");
        assert_eq!(messages(&path), [before.as_str()]);
        drop(file);
        fs::remove_file(&hog).unwrap();
        log.report_loss();
        log.take(LogStream::Stdout, b"after\n");
        let now = messages(&path);
        assert_eq!((now.len(), now[0].as_str(), now[2].as_str()), (3, before.as_str(), "after"), "{now:?}");
        let lost: u64 = now[1].trim_start_matches('[').split(' ').next().unwrap().parse().unwrap();
        assert!((50_000..51_000).contains(&lost), "{lost} bytes");
    }

    #[test]
    fn a_record_cut_off_by_a_crash_does_not_swallow_the_next() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("log"), b"12 o half").unwrap();
        let mut log = LogWriter::open(directory.path(), 1 << 20).unwrap();
        log.take(LogStream::Stdout, b"next\n");
        assert_eq!(messages(&directory.path().join("log")), ["half", "next"]);
    }
}

//! Logs as an asynchronous stream.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;

use super::reader::{LogQuery, LogReader};

/// Reads the log in `directory` as `query` says: chunks of whole lines of at most some 70 kB, stdout and
/// stderr in the order they came, without stream names. Text is given as the container wrote it.
///
/// Must be polled in a tokio runtime. Following costs nothing while nothing is written. A reader that is slower
/// than the container by more than one whole log file misses what was rotated away.
#[must_use]
pub fn read_logs(directory: PathBuf, query: LogQuery) -> BoxStream<'static, io::Result<Bytes>> {
    stream::unfold(Position::Unopened(directory, query), |position| async move {
        match position.next().await {
            Ok(Some((chunk, next))) => Some((Ok(chunk), next)),
            Ok(None) => None,
            Err(error) => Some((Err(error), Position::Ended)),
        }
    })
    .boxed()
}

enum Position {
    Unopened(PathBuf, LogQuery),
    Open(LogReader, Option<Changes>),
    Ended,
}

impl Position {
    async fn next(self) -> io::Result<Option<(Bytes, Self)>> {
        let (mut reader, mut changes) = match self {
            Self::Ended => return Ok(None),
            Self::Open(reader, changes) => (reader, changes),
            Self::Unopened(directory, query) => {
                // before the first look, so that no change falls in between
                let changes = if query.follow { Some(Changes::of(&directory)?) } else { None };
                let open = move || LogReader::open(&directory, &query);
                (tokio::task::spawn_blocking(open).await??, changes)
            }
        };
        loop {
            let (back, chunk) = tokio::task::spawn_blocking(move || {
                let chunk = reader.next_chunk();
                (reader, chunk)
            })
            .await?;
            reader = back;
            if let Some(chunk) = chunk? {
                return Ok(Some((chunk.into(), Self::Open(reader, changes))));
            }
            match &mut changes {
                Some(changes) => changes.wait().await?,
                None => return Ok(None),
            }
        }
    }
}

/// Tells when something in a directory was written, created or renamed.
struct Changes(AsyncFd<OwnedFd>);

impl Changes {
    fn of(directory: &std::path::Path) -> io::Result<Self> {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let watch = inotify::init(flags)?;
        let events = inotify::WatchFlags::MODIFY
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::ONLYDIR;
        inotify::add_watch(&watch, directory, events)?;
        Ok(Self(crate::sys::watch_readable(watch)?))
    }

    /// Waits for at least one change since the last call.
    async fn wait(&mut self) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(self.0.get_ref(), &mut space);
        loop {
            match events.next() {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    ready.clear_ready();
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{LogStream, LogWriter};
    use super::*;

    #[tokio::test]
    async fn a_follower_gets_lines_as_they_are_written() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(directory.path(), 4096).unwrap();
        log.take(LogStream::Stdout, b"one\n");
        let query = LogQuery { follow: true, ..LogQuery::default() };
        let mut stream = read_logs(directory.path().to_owned(), query);
        assert_eq!(stream.next().await.unwrap().unwrap(), "one\n");
        for number in 0..5 {
            // each one forces a rotation
            let line = format!("{number}{}\n", "x".repeat(3000));
            log.take(LogStream::Stderr, line.as_bytes());
            let next = tokio::time::timeout(Duration::from_secs(10), stream.next()).await;
            assert_eq!(next.unwrap().unwrap().unwrap(), line.as_bytes());
        }
    }

    #[tokio::test]
    async fn without_following_the_stream_ends() {
        let directory = tempfile::tempdir().unwrap();
        let chunks: Vec<_> = read_logs(directory.path().to_owned(), LogQuery::default()).collect().await;
        assert!(chunks.is_empty());
    }
}

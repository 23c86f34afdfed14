//! Downloads one blob into a file, resuming what an earlier attempt (or an earlier process) left there.
//!
//! The network side is async; one blocking thread per download owns the file, writes and hashes. A file of the full
//! length is only believed after its digest was checked.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::digest::{Digest, Hasher};
use crate::error::Failure;
use crate::manifest::Descriptor;
use crate::registry::{Endpoint, RegistryClient, describe, unreachable};

/// Chunks between network and disk. When full the network waits, and TCP slows the registry down.
const QUEUED_CHUNKS: usize = 16;
/// Bytes that have to arrive within the stall timeout; slower is as good as dead.
const LEAST_PER_STALL_TIMEOUT: u64 = 16 << 10;
/// Attempts in a row without a new byte, once some bytes came, before a download is given up.
const FRUITLESS_ATTEMPTS: u32 = 4;
/// The same when no byte came at all: the registry answered a moment ago, so one more try, but not for long.
const FIRST_ATTEMPTS: u32 = 2;
/// Attempts for one blob, even if each brings a few bytes.
const MOST_ATTEMPTS: u32 = 64;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// Where a blob can be had.
pub(crate) struct BlobSource<'a> {
    pub(crate) client: &'a RegistryClient,
    pub(crate) endpoints: &'a [Endpoint],
    pub(crate) repository: &'a str,
}

/// Brings the blob to `path` and checks its digest; `received` follows the bytes on disk.
///
/// Dropping the future stops the download; what has arrived stays in the file for the next attempt.
///
/// # Errors
/// The failure of the last endpoint tried. The partial file stays unless it was wrong or the disk is full.
pub(crate) async fn download(
    source: &BlobSource<'_>,
    blob: &Descriptor,
    path: &Path,
    received: &AtomicU64,
) -> Result<(), Failure> {
    let first = download_once(source, blob, path, received).await?;
    if first.is_right {
        return Ok(());
    }
    remove(path).await?;
    received.store(0, Ordering::Relaxed);
    // Bytes from an earlier attempt may be what is wrong; a fresh copy shows.
    if first.resumed {
        tracing::warn!(digest = %blob.digest, "resumed download has a wrong digest, starting over");
        if download_once(source, blob, path, received).await?.is_right {
            return Ok(());
        }
        remove(path).await?;
    }
    Err(Failure::corrupt(format!("the bytes received for layer {} do not have that digest", blob.digest)))
}

struct Outcome {
    is_right: bool,
    resumed: bool,
}

async fn download_once(
    source: &BlobSource<'_>,
    blob: &Descriptor,
    path: &Path,
    received: &AtomicU64,
) -> Result<Outcome, Failure> {
    let (chunks, inbox) = mpsc::channel(QUEUED_CHUNKS);
    let (opened, start) = oneshot::channel();
    let writer = tokio::task::spawn_blocking({
        let (path, size) = (path.to_owned(), blob.size);
        move || write_blob(path, size, opened, inbox)
    });
    let fetched = match start.await {
        Ok(start) => {
            received.store(start, Ordering::Relaxed);
            fetch(source, blob, start, &chunks, received).await.map(|()| start)
        }
        // The writer failed before it could say anything; its result tells why.
        Err(_) => Ok(0),
    };
    drop(chunks);
    let written = writer.await.map_err(|error| Failure::lost_task(&error))?;
    if let Err(Failure::DiskFull { .. }) = &written {
        // The space is needed more urgently than the head start.
        remove(path).await?;
    }
    let digest = written?;
    let start = fetched?;
    Ok(Outcome { is_right: digest == blob.digest, resumed: start > 0 })
}

/// Fetches from `offset` to the end, from one endpoint after the other, until the blob is complete.
async fn fetch(
    source: &BlobSource<'_>,
    blob: &Descriptor,
    mut offset: u64,
    chunks: &mpsc::Sender<Bytes>,
    received: &AtomicU64,
) -> Result<(), Failure> {
    let patience = u32::try_from(source.endpoints.len()).unwrap_or(u32::MAX);
    let mut endpoints = source.endpoints.iter().cycle().peekable();
    let (mut fruitless, mut pause, mut any_progress) = (0, FIRST_PAUSE, false);
    for _ in 0..MOST_ATTEMPTS {
        if offset >= blob.size {
            return Ok(());
        }
        let Some(endpoint) = endpoints.peek().copied() else {
            return Err(Failure::unsupported("no registry is known for it"));
        };
        let before = offset;
        let failure = match stream(source, endpoint, blob, &mut offset, chunks, received).await {
            Ok(()) => return Ok(()),
            Err(StreamEnd::WriterGone) => return Ok(()),
            Err(StreamEnd::Failed(failure)) => failure,
        };
        tracing::debug!(digest = %blob.digest, registry = %endpoint.name, offset, ?failure, "download interrupted");
        if offset > before {
            (fruitless, pause, any_progress) = (0, FIRST_PAUSE, true);
            continue;
        }
        fruitless += 1;
        endpoints.next();
        let limit = match failure {
            Failure::Unreachable { .. } if any_progress => patience.max(FRUITLESS_ATTEMPTS),
            Failure::Unreachable { .. } => patience.max(FIRST_ATTEMPTS),
            // Others do not get better by asking the same one again.
            _ => patience,
        };
        if fruitless >= limit {
            return Err(failure);
        }
        if fruitless >= patience {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
    Err(Failure::corrupt(format!("the download of layer {} broke off {MOST_ATTEMPTS} times", blob.digest)))
}

enum StreamEnd {
    Failed(Failure),
    /// The disk side stopped; its own result says why.
    WriterGone,
}

/// One request; `offset` follows what was handed to the writer.
async fn stream(
    source: &BlobSource<'_>,
    endpoint: &Endpoint,
    blob: &Descriptor,
    offset: &mut u64,
    chunks: &mpsc::Sender<Bytes>,
    received: &AtomicU64,
) -> Result<(), StreamEnd> {
    let mut body = source
        .client
        .blob(endpoint, source.repository, &blob.digest, *offset)
        .await
        .map_err(StreamEnd::Failed)?;
    // A registry without ranges starts at 0 again: skip what we have.
    let mut skip = offset.saturating_sub(body.start);
    let stall = source.client.stall_timeout();
    let (mut deadline, mut since_deadline) = (Instant::now() + stall, 0_u64);
    while *offset < blob.size {
        let fail = |reason: String| StreamEnd::Failed(unreachable(endpoint, reason));
        let mut chunk = match timeout_at(deadline, body.response.chunk()).await {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) => return Err(fail("the download ended too early".to_owned())),
            Ok(Err(error)) => return Err(fail(format!("the download broke off ({})", describe(&error)))),
            Err(_) => return Err(fail(format!("the download stood still for {} s", stall.as_secs()))),
        };
        since_deadline += length(&chunk);
        if since_deadline >= LEAST_PER_STALL_TIMEOUT {
            (deadline, since_deadline) = (Instant::now() + stall, 0);
        }
        let skipped = skip.min(length(&chunk));
        skip -= skipped;
        chunk = chunk.split_off(usize::try_from(skipped).unwrap_or(usize::MAX).min(chunk.len()));
        if chunk.is_empty() {
            continue;
        }
        if length(&chunk) > blob.size - *offset {
            return Err(StreamEnd::Failed(Failure::corrupt(format!(
                "layer {} is longer than its manifest says",
                blob.digest
            ))));
        }
        *offset += length(&chunk);
        chunks.send(chunk).await.map_err(|_| StreamEnd::WriterGone)?;
        received.store(*offset, Ordering::Relaxed);
    }
    Ok(())
}

fn length(chunk: &Bytes) -> u64 {
    u64::try_from(chunk.len()).unwrap_or(u64::MAX)
}

/// Disk side: hashes what is there, reports its length, appends what comes, returns the digest of everything.
fn write_blob(
    path: PathBuf,
    size: u64,
    opened: oneshot::Sender<u64>,
    mut inbox: mpsc::Receiver<Bytes>,
) -> Result<Digest, Failure> {
    let action = || format!("write the download {}", path.display());
    let mut file = open_locked(&path).map_err(|error| Failure::disk(action(), error))?;
    let mut hasher = Hasher::default();
    let present = resume(&mut file, size, &mut hasher).map_err(|error| Failure::disk(action(), error))?;
    if opened.send(present).is_err() {
        return Ok(hasher.finish());
    }
    while let Some(chunk) = inbox.blocking_recv() {
        file.write_all(&chunk).map_err(|error| Failure::disk(action(), error))?;
        hasher.update(&chunk);
    }
    Ok(hasher.finish())
}

/// Opens the file and locks it: the writer of a download that was just cancelled may still be at its last chunks.
fn open_locked(path: &Path) -> io::Result<File> {
    loop {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        file.lock()?;
        // Whoever held the lock may have removed the file meanwhile.
        if file.metadata()?.nlink() > 0 {
            return Ok(file);
        }
    }
}

/// Hashes the bytes already there and leaves the position behind them; a file that is too long is emptied.
fn resume(file: &mut File, size: u64, hasher: &mut Hasher) -> io::Result<u64> {
    if file.metadata()?.len() > size {
        file.set_len(0)?;
    }
    let mut buffer = vec![0; 128 << 10];
    let mut present = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                hasher.update(buffer.get(..count).unwrap_or_default());
                present += u64::try_from(count).unwrap_or(0);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    file.seek(SeekFrom::Start(present))?;
    Ok(present)
}

async fn remove(path: &Path) -> Result<(), Failure> {
    match tokio::fs::remove_file(path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Failure::disk(format!("remove {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

//! A connection on which bytes go all the time, in both directions, for as long as a scenario lasts.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use crate::{Inside, eventually, let_pass, soon};

/// Bytes that are sent at once, and the pause between two times: some 1.6 MB/s.
const BLOCK: usize = 16 << 10;
const EVERY: Duration = Duration::from_millis(10);
/// Bytes after which the stream is said to go on.
const MORE: u64 = 256 << 10;
/// A prime, so that no block of the stream is like the one before.
const PERIOD: u64 = 251;

/// A connection of one instance to another, which sends back what it gets. Ends when dropped.
#[derive(Debug)]
pub struct Stream {
    connection: TcpStream,
    back: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    /// Each returns what it has sent or got back.
    threads: Vec<JoinHandle<anyhow::Result<u64>>>,
}

impl Stream {
    /// Connects from an instance to `dialled`, behind which is `server`, where nothing may listen on that port.
    ///
    /// # Errors
    /// There is no connection.
    pub fn start(client: &Inside, server: &Inside, dialled: SocketAddr) -> anyhow::Result<Self> {
        let listener = server.listen(dialled.port())?;
        let connection = client.connect(dialled)?;
        let (called, _) = listener.accept().context("nobody came")?;
        // Longer than anything that is tried: a broken connection must not keep the threads.
        for end in [&connection, &called] {
            end.set_read_timeout(Some(soon() * 2))?;
            end.set_write_timeout(Some(soon() * 2))?;
        }
        let (back, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (writer, reader) = (connection.try_clone()?, connection.try_clone()?);
        let (counted, stopped) = (Arc::clone(&back), Arc::clone(&stop));
        let threads = vec![
            std::thread::spawn(move || send_back(called)),
            std::thread::spawn(move || send(writer, &stopped)),
            std::thread::spawn(move || check(reader, &counted)),
        ];
        Ok(Self { connection, back, stop, threads })
    }

    /// Waits until some more bytes have been there and back; returns how long that took.
    ///
    /// # Errors
    /// Not `within` this time.
    pub fn goes_on(&self, within: Duration) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let enough = self.back.load(Ordering::Relaxed) + MORE;
        eventually("bytes go there and back", within, || {
            let back = self.back.load(Ordering::Relaxed);
            ensure!(back >= enough, "{back} of {enough} bytes");
            Ok(())
        })?;
        Ok(began.elapsed())
    }

    /// Ends the connection; every byte that was sent has to come back in order. Returns how many.
    ///
    /// # Errors
    /// The connection broke or a byte was not what it should be.
    pub fn finish(mut self) -> anyhow::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let ends = self.threads.drain(..).map(|thread| match thread.join() {
            Ok(end) => end,
            Err(_) => bail!("a thread of the stream panicked"),
        });
        let ends: Vec<u64> = ends.collect::<anyhow::Result<_>>()?;
        ensure!(ends.iter().all(|end| Some(end) == ends.first()), "there, sent and back: {ends:?} bytes");
        ends.first().copied().context("no bytes")
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // It may have ended already.
        let _ = self.connection.shutdown(Shutdown::Both);
        for thread in self.threads.drain(..) {
            // Whoever wanted to know has called `finish`.
            let _ = thread.join();
        }
    }
}

const fn byte_at(position: u64) -> u8 {
    (position % PERIOD) as u8
}

fn send(mut stream: TcpStream, stop: &AtomicBool) -> anyhow::Result<u64> {
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        let block: Vec<u8> = (sent..sent + BLOCK as u64).map(byte_at).collect();
        stream.write_all(&block).with_context(|| format!("after {sent} bytes"))?;
        sent += BLOCK as u64;
        let_pass(EVERY);
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(sent)
}

fn send_back(mut stream: TcpStream) -> anyhow::Result<u64> {
    let (mut buffer, mut total) = (vec![0; BLOCK], 0);
    loop {
        match stream.read(&mut buffer).with_context(|| format!("there, after {total} bytes"))? {
            0 => break,
            length => {
                stream.write_all(buffer.get(..length).unwrap_or_default())?;
                total += length as u64;
            }
        }
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(total)
}

fn check(mut stream: TcpStream, back: &AtomicU64) -> anyhow::Result<u64> {
    let (mut buffer, mut total) = (vec![0; BLOCK], 0_u64);
    loop {
        let length = stream.read(&mut buffer).with_context(|| format!("back, after {total} bytes"))?;
        if length == 0 {
            return Ok(total);
        }
        for byte in buffer.get(..length).unwrap_or_default() {
            ensure!(*byte == byte_at(total), "byte {total} is {byte}");
            total += 1;
        }
        back.store(total, Ordering::Relaxed);
    }
}

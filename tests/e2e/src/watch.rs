//! Somebody who asks for a page again and again, and remembers who answered when.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{Host, let_pass};

/// Pause between two requests.
const EVERY: Duration = Duration::from_millis(20);
/// A request without answer is given up after this, as by an impatient client that tries again.
const PATIENCE: Duration = Duration::from_millis(300);

/// A client that counts failures waits for this long: a slow answer on a busy machine is not a lost one.
const LONG_PATIENCE: Duration = Duration::from_secs(5);
/// Failures kept word for word.
const KEPT: usize = 20;

/// A client on one machine that asks one address with a new connection each time. Ends when dropped.
#[derive(Debug)]
pub struct Watch {
    answers: Arc<Mutex<Vec<Answer>>>,
    failures: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    started: Instant,
    thread: Option<JoinHandle<()>>,
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// When it was there.
    pub at: Instant,
    /// Host name of the container that answered.
    pub served_by: String,
}

impl Watch {
    /// Starts asking from `host`. The machine's network lives as long as the watch, also without the machine.
    ///
    /// # Errors
    /// The machine is off.
    pub fn start(host: &Host, address: Ipv4Addr, port: u16) -> anyhow::Result<Self> {
        Self::with_patience(host, address, port, PATIENCE)
    }

    /// As [`Watch::start`], but each request may take seconds: for counting those that fail.
    ///
    /// # Errors
    /// The machine is off.
    pub fn patiently(host: &Host, address: Ipv4Addr, port: u16) -> anyhow::Result<Self> {
        Self::with_patience(host, address, port, LONG_PATIENCE)
    }

    fn with_patience(host: &Host, address: Ipv4Addr, port: u16, patience: Duration) -> anyhow::Result<Self> {
        let network = host.network()?;
        let (answers, stop) = (Arc::<Mutex<Vec<Answer>>>::default(), Arc::new(AtomicBool::new(false)));
        let failures = Arc::<Mutex<Vec<String>>>::default();
        let (kept, failed, stopped) = (Arc::clone(&answers), Arc::clone(&failures), Arc::clone(&stop));
        let thread = std::thread::Builder::new().name("watch".to_owned()).spawn(move || {
            if move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).is_err() {
                return;
            }
            while !stopped.load(Ordering::Relaxed) {
                match ask((address, port).into(), patience) {
                    Ok(served_by) => {
                        let answer = Answer { at: Instant::now(), served_by };
                        kept.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
                    }
                    Err(error) => {
                        let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                        if failed.len() < KEPT {
                            failed.push(format!("{error:#}"));
                        }
                    }
                }
                let_pass(EVERY);
            }
        });
        let thread = Some(thread.context("no thread for a watch")?);
        Ok(Self { answers, failures, stop, started: Instant::now(), thread })
    }

    fn answers(&self) -> MutexGuard<'_, Vec<Answer>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many requests were answered so far, and the first ones that were not.
    pub fn counted(&self) -> (usize, Vec<String>) {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (self.answers().len(), failures)
    }

    /// The first answer of a container since a moment.
    pub fn first_by(&self, served_by: &str, since: Instant) -> Option<Answer> {
        let answers = self.answers();
        answers.iter().find(|answer| answer.at >= since && answer.served_by == served_by).cloned()
    }

    /// The last answer of a container so far.
    pub fn last_by(&self, served_by: &str) -> Option<Answer> {
        self.answers().iter().rev().find(|answer| answer.served_by == served_by).cloned()
    }

    /// The longest time without an answer so far, from the start to now.
    pub fn longest_silence(&self) -> Duration {
        Self::longest_silence_of_all(&[self])
    }

    /// The longest time in which none of these had an answer, from the start of the last of them to now.
    pub fn longest_silence_of_all(watches: &[&Self]) -> Duration {
        let Some(start) = watches.iter().map(|watch| watch.started).max() else { return Duration::ZERO };
        let mut answers: Vec<Instant> = Vec::new();
        for watch in watches {
            answers.extend(watch.answers().iter().map(|answer| answer.at).filter(|at| *at >= start));
        }
        answers.sort_unstable();
        let moments = std::iter::once(start).chain(answers.iter().copied());
        let ends = answers.iter().copied().chain(std::iter::once(Instant::now()));
        moments.zip(ends).map(|(from, until)| until.saturating_duration_since(from)).max().unwrap_or_default()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It does not panic, and nothing depends on it any more.
            let _ = thread.join();
        }
    }
}

/// One request; returns the header `X-Served-By` of a successful answer, empty without one.
fn ask(address: SocketAddr, patience: Duration) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, patience).context("no connection")?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, _) = answer.split_once("\r\n\r\n").context("no end of the head")?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    anyhow::ensure!(status == Some("200"), "{head}");
    let value = lines.find_map(|line| line.strip_prefix("X-Served-By: "));
    Ok(value.unwrap_or_default().trim().to_owned())
}

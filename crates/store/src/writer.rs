//! The thread that makes steps durable: in order, in groups, and with patience.
//!
//! A write that fails for a reason that can pass is repeated until it succeeds. Meanwhile the steps that come are
//! taken in and united with what waits, so that a row changed a thousand times is one row, nobody who submits is
//! held up, and the memory this takes is bounded by the state itself.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use oak_control::{Row, Table};
use oak_metrics::Histogram;
use oak_model::chain;
use tokio::sync::{oneshot, watch};
use tracing::{error, warn};

use crate::StoreError;
use crate::ballast::{Ballast, Tended};
use crate::health::{Health, HealthSender, Writes};
use crate::journal::Committed;
use crate::trouble::{Trouble, WriteError};

/// A place rows are written to.
pub(crate) trait Backend: Send + 'static {
    /// Makes rows durable; when it fails, the same rows may be written again.
    fn write(&mut self, rows: &[Row]) -> Result<(), WriteError>;

    /// File or directory, for messages.
    fn place(&self) -> PathBuf;
}

/// Rows of one step, and who waits for them.
struct Step {
    rows: Vec<Row>,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// Steps that may wait for the writer. When full, submitting blocks: that is the back-pressure of a slow disk.
const QUEUE: usize = 4_096;
/// Steps written together at most, so that the first of a long burst does not wait for the last.
const GROUP: usize = 1_024;
/// Pauses between attempts: the first and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How often the free space is looked at, in good times and in bad.
const LOOK: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(1));

/// A handle to the thread. Dropping it waits until everything submitted is written, or cannot be.
#[derive(Debug)]
pub(crate) struct WriterHandle {
    steps: Option<mpsc::SyncSender<Step>>,
    thread: Option<JoinHandle<()>>,
    health: watch::Receiver<Health>,
    commits: Arc<Histogram>,
}

impl WriterHandle {
    /// Starts the thread `name`.
    pub(crate) fn start(name: &str, backend: impl Backend, ballast: Ballast) -> Result<Self, StoreError> {
        let (steps, inbox) = mpsc::sync_channel(QUEUE);
        let health = HealthSender::new(backend.place().display().to_string());
        let subscription = health.subscribe();
        let commits = Arc::<Histogram>::default();
        let writer = Writer { backend, inbox, ballast, health, commits: Arc::clone(&commits) };
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .stack_size(256 * 1024)
            .spawn(move || writer.run())
            .map_err(|_| StoreError::WriterGone)?;
        Ok(Self { steps: Some(steps), thread: Some(thread), health: subscription, commits })
    }

    pub(crate) fn submit(&self, rows: Vec<Row>) -> Result<Committed, StoreError> {
        let (done, committed) = Committed::pending();
        let steps = self.steps.as_ref().ok_or(StoreError::WriterGone)?;
        steps.send(Step { rows, done }).map_err(|_| StoreError::WriterGone)?;
        Ok(committed)
    }

    pub(crate) fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    pub(crate) fn commits(&self) -> Arc<Histogram> {
        Arc::clone(&self.commits)
    }
}

impl Drop for WriterHandle {
    fn drop(&mut self) {
        self.steps.take();
        if let Some(thread) = self.thread.take() {
            // A panic of the writer was already reported by the steps it left unanswered.
            let _ = thread.join();
        }
    }
}

struct Writer<B> {
    backend: B,
    inbox: mpsc::Receiver<Step>,
    ballast: Ballast,
    health: HealthSender,
    commits: Arc<Histogram>,
}

/// Whether anybody can still submit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inbox {
    Open,
    Closed,
}

impl<B: Backend> Writer<B> {
    fn run(mut self) {
        loop {
            self.look_after_space();
            let Some(first) = self.next_step() else { return };
            let mut group = Group::of(first);
            while group.steps() < GROUP
                && let Ok(step) = self.inbox.try_recv()
            {
                group.append(step);
            }
            if !self.commit(group) {
                return;
            }
        }
    }

    /// The next step; meanwhile the free space is watched. None when nobody can submit any more.
    fn next_step(&mut self) -> Option<Step> {
        loop {
            let (good, bad) = LOOK;
            match self.inbox.recv_timeout(if self.health.is_ok() { good } else { bad }) {
                Ok(step) => return Some(step),
                Err(RecvTimeoutError::Timeout) => self.look_after_space(),
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// Writes the group however long it takes. False when the store has failed for good or ends unwritten.
    fn commit(&mut self, mut group: Group) -> bool {
        let (mut pause, longest) = PAUSE;
        let mut inbox = Inbox::Open;
        loop {
            let begun = Instant::now();
            match self.backend.write(&group.rows) {
                Ok(()) => {
                    self.commits.observe(begun.elapsed());
                    group.answer(|| Ok(()));
                    return inbox == Inbox::Open;
                }
                Err(WriteError::Fatal(reason)) => {
                    error!(error = chain(&reason), steps = group.steps(), "cannot go on writing");
                    let text = chain(&reason);
                    let path = self.backend.place();
                    let mut first = Some(reason);
                    group.answer(|| {
                        let again = || StoreError::Write { path: path.clone(), detail: text.clone() };
                        Err(first.take().unwrap_or_else(again))
                    });
                    return false;
                }
                // Room was made: at once again.
                Err(WriteError::Passing(Trouble::Full)) if self.ballast.release() => {}
                Err(WriteError::Passing(trouble)) => {
                    self.health.degrade(&trouble.describe(&self.backend.place()), Writes::Stalled);
                    if inbox == Inbox::Closed {
                        let steps = group.steps();
                        warn!(
                            steps,
                            "ending with changes that could not be written; nobody was told of them"
                        );
                        return false;
                    }
                    inbox = self.absorb(&mut group, pause);
                    pause = longest.min(pause * 2);
                }
            }
        }
    }

    /// Takes in what comes for `pause`.
    fn absorb(&self, group: &mut Group, pause: Duration) -> Inbox {
        let until = Instant::now() + pause;
        loop {
            match self.inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(step) => group.unite(step),
                Err(RecvTimeoutError::Timeout) => return Inbox::Open,
                Err(RecvTimeoutError::Disconnected) => return Inbox::Closed,
            }
        }
    }

    /// Called when nothing waits to be written.
    fn look_after_space(&mut self) {
        match self.ballast.tend() {
            Tended::Enough => self.health.recover(),
            Tended::Short => {
                let reason = self.ballast.describe_shortage();
                self.health.degrade(&reason, Writes::Small);
            }
        }
    }
}

/// What is written in one go.
struct Group {
    rows: Vec<Row>,
    done: Vec<oneshot::Sender<Result<(), StoreError>>>,
    /// Where the row of a key is; filled with the second step.
    places: HashMap<(Table, String), usize>,
}

impl Group {
    fn of(step: Step) -> Self {
        Self { rows: step.rows, done: vec![step.done], places: HashMap::new() }
    }

    fn steps(&self) -> usize {
        self.done.len()
    }

    /// Appends, keeping only the newest row of each key: of the counters of a machine, which are in nearly every step,
    /// one row is written instead of one for each step.
    fn append(&mut self, step: Step) {
        if self.places.is_empty() {
            for row in std::mem::take(&mut self.rows) {
                self.replace(row);
            }
        }
        for row in step.rows {
            self.replace(row);
        }
        self.done.push(step.done);
    }

    /// Appends while nothing can be written, which may be long: whoever does not wait any more is forgotten.
    fn unite(&mut self, step: Step) {
        self.done.retain(|done| !done.is_closed());
        self.append(step);
    }

    fn replace(&mut self, row: Row) {
        let next = self.rows.len();
        let place = *self.places.entry((row.table, row.key.clone())).or_insert(next);
        match self.rows.get_mut(place) {
            Some(older) => *older = row,
            None => self.rows.push(row),
        }
    }

    fn answer(self, mut outcome: impl FnMut() -> Result<(), StoreError>) {
        for done in self.done {
            // Nobody waits any more: the caller was cancelled, the rows are stored all the same.
            let _ = done.send(outcome());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A disk whose troubles the test decides.
    #[derive(Clone, Default)]
    struct Disk {
        trouble: Arc<Mutex<Option<Trouble>>>,
        written: Arc<Mutex<Vec<Vec<Row>>>>,
    }

    impl Backend for Disk {
        fn write(&mut self, rows: &[Row]) -> Result<(), WriteError> {
            match self.trouble.lock().unwrap().clone() {
                Some(Trouble::Failing(text)) if text == "damaged" => {
                    Err(WriteError::Fatal(StoreError::Damaged { path: self.place(), detail: text }))
                }
                Some(trouble) => Err(WriteError::Passing(trouble)),
                None => {
                    self.written.lock().unwrap().push(rows.to_vec());
                    Ok(())
                }
            }
        }

        fn place(&self) -> PathBuf {
            "/played".into()
        }
    }

    fn row(key: &str, text: &str) -> Row {
        Row { table: Table::Service, key: key.to_owned(), document: Some(text.as_bytes().to_vec()) }
    }

    fn start(disk: &Disk) -> (WriterHandle, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let ballast = Ballast::new(directory.path(), 4096);
        (WriterHandle::start("test-writer", disk.clone(), ballast).unwrap(), directory)
    }

    async fn until(writer: &WriterHandle, wanted: impl FnMut(&Health) -> bool) -> Health {
        let mut health = writer.health();
        let changed = health.wait_for(wanted);
        let changed = tokio::time::timeout(Duration::from_secs(20), changed).await;
        changed.expect("the health changes in time").unwrap().clone()
    }

    #[test]
    fn of_steps_written_together_only_the_newest_row_of_a_key_is() {
        let step = |rows| Step { rows, done: oneshot::channel().0 };
        let mut group = Group::of(step(vec![row("counter", "1"), row("a", "1")]));
        group.append(step(vec![row("counter", "2"), row("b", "1")]));
        group.append(step(vec![Row { document: None, ..row("a", "") }, row("counter", "3")]));
        let expected = [row("counter", "3"), Row { document: None, ..row("a", "") }, row("b", "1")];
        assert_eq!(group.rows, expected);
        assert_eq!(group.steps(), 3, "all are answered");
    }

    #[tokio::test]
    async fn a_stalled_step_is_neither_lost_nor_overtaken() {
        let disk = Disk::default();
        *disk.trouble.lock().unwrap() = Some(Trouble::Full);
        let (writer, _directory) = start(&disk);
        let first = writer.submit(vec![row("a", "1"), row("b", "1")]).unwrap();
        let health = until(&writer, Health::is_stalled).await;
        assert!(format!("{health:?}").contains("is full"), "{health:?}");
        let later: Vec<_> =
            (2..500).map(|number| writer.submit(vec![row("a", &number.to_string())]).unwrap()).collect();
        *disk.trouble.lock().unwrap() = None;
        first.wait().await.unwrap();
        for step in later {
            step.wait().await.unwrap();
        }
        until(&writer, Health::is_ok).await;
        let written = disk.written.lock().unwrap().concat();
        let last = |key: &str| written.iter().rfind(|row| row.key == key).cloned();
        assert_eq!((last("a"), last("b")), (Some(row("a", "499")), Some(row("b", "1"))));
        let united = written.iter().filter(|row| row.key == "a").count();
        assert!(united < 499, "{united} rows were written one by one");
    }

    #[tokio::test]
    async fn submitting_never_blocks_on_a_stalled_disk() {
        let disk = Disk::default();
        *disk.trouble.lock().unwrap() = Some(Trouble::ReadOnly);
        let (writer, _directory) = start(&disk);
        // Far more than the queue holds: the writer takes them in while it waits.
        let submitting = tokio::task::spawn_blocking(move || {
            for number in 0..3 * QUEUE {
                drop(writer.submit(vec![row("a", &number.to_string())]).unwrap());
            }
            writer
        });
        let writer = tokio::time::timeout(Duration::from_secs(60), submitting).await.unwrap().unwrap();
        *disk.trouble.lock().unwrap() = None;
        writer.submit(vec![row("z", "end")]).unwrap().wait().await.unwrap();
        let written = disk.written.lock().unwrap().concat();
        assert_eq!(written.last(), Some(&row("z", "end")));
    }

    #[tokio::test]
    async fn damage_ends_the_writer_with_the_reason() {
        let disk = Disk::default();
        *disk.trouble.lock().unwrap() = Some(Trouble::Failing("damaged".into()));
        let (writer, _directory) = start(&disk);
        let outcome = writer.submit(vec![row("a", "1")]).unwrap().wait().await;
        assert!(matches!(outcome, Err(StoreError::Damaged { .. })), "{outcome:?}");
    }

    #[tokio::test]
    async fn ending_does_not_wait_for_a_disk_that_does_not_come_back() {
        let disk = Disk::default();
        *disk.trouble.lock().unwrap() = Some(Trouble::Failing("gone".into()));
        let (writer, _directory) = start(&disk);
        let step = writer.submit(vec![row("a", "1")]).unwrap();
        until(&writer, Health::is_stalled).await;
        tokio::task::spawn_blocking(move || drop(writer)).await.unwrap();
        assert!(matches!(step.wait().await, Err(StoreError::WriterGone)));
    }
}

//! What follows a commit: effects and answers, in order, each after the rows of its step.
//!
//! While the disk takes nothing, steps that changed nothing on disk need not wait behind those that did: questions are
//! answered from memory, and what a worker does on its own machine for one instance (above all starting it again)
//! goes on. A step that has rows waits for them, always.

use std::collections::{HashSet, VecDeque};
use std::marker::PhantomData;

use tokio::sync::{mpsc, watch};

use crate::health::Health;
use crate::journal::{Committed, StoreError};
use crate::machine::{Concern, Hosted};

/// Answers a caller.
pub(crate) type Reply = Box<dyn FnOnce() + Send>;

/// What came out of one call of the machine.
pub(crate) struct Step<E> {
    /// Resolves when the rows are on disk; none if there are none.
    pub(crate) committed: Option<Committed>,
    /// Keys of the rows.
    pub(crate) keys: Vec<String>,
    /// In order.
    pub(crate) effects: Vec<E>,
    /// After the effects.
    pub(crate) reply: Option<Reply>,
}

/// Steps that wait for their commit at most; when full, the machine waits for the disk.
const WAITING: usize = 4_096;

/// The second half of an engine.
pub(crate) struct Completion<M: Hosted, P> {
    waiting: VecDeque<Step<M::Effect>>,
    perform: P,
    health: watch::Receiver<Health>,
    machine: PhantomData<fn(M)>,
}

impl<M: Hosted, P: FnMut(M::Effect) + Send> Completion<M, P> {
    pub(crate) fn new(perform: P, health: watch::Receiver<Health>) -> Self {
        Self { waiting: VecDeque::new(), perform, health, machine: PhantomData }
    }

    /// Completes steps until there are no more.
    pub(crate) async fn run(mut self, mut steps: mpsc::Receiver<Step<M::Effect>>) -> Result<(), StoreError> {
        let mut is_open = true;
        let mut health = self.health.clone();
        while is_open || !self.waiting.is_empty() {
            let (waits, has_room) = (!self.waiting.is_empty(), self.waiting.len() < WAITING);
            let front = self.waiting.front_mut().and_then(|step| step.committed.as_mut());
            let commit = async {
                match front {
                    Some(committed) => committed.await,
                    None => Ok(()),
                }
            };
            // All branches are cancel-safe.
            tokio::select! {
                biased;
                outcome = commit, if waits => {
                    outcome?;
                    self.complete_front();
                }
                step = steps.recv(), if is_open && has_room => match step {
                    Some(step) => self.take_in(step),
                    None => is_open = false,
                },
                Ok(()) = health.changed() => self.let_pass(),
            }
        }
        Ok(())
    }

    fn take_in(&mut self, step: Step<M::Effect>) {
        if self.waiting.is_empty() && step.committed.is_none() {
            self.finish(step);
            return;
        }
        let stalled = self.health.borrow().is_stalled();
        let has_consequences = !step.effects.is_empty() || step.reply.is_some();
        match self.waiting.back_mut() {
            // Commits come in order: the one before waits for this one now, and there is nothing else to remember.
            Some(last) if stalled && !has_consequences && step.committed.is_some() => {
                last.committed = step.committed;
                let fresh: Vec<_> = step.keys.into_iter().filter(|key| !last.keys.contains(key)).collect();
                last.keys.extend(fresh);
            }
            _ => self.waiting.push_back(step),
        }
        if stalled {
            self.let_pass();
        }
    }

    /// Performs the first step, which is on disk, and those behind it that need no disk.
    fn complete_front(&mut self) {
        if let Some(step) = self.waiting.pop_front() {
            self.finish(step);
        }
        while self.waiting.front().is_some_and(|step| step.committed.is_none()) {
            if let Some(step) = self.waiting.pop_front() {
                self.finish(step);
            }
        }
    }

    fn finish(&mut self, step: Step<M::Effect>) {
        for effect in step.effects {
            (self.perform)(effect);
        }
        if let Some(reply) = step.reply {
            reply();
        }
    }

    /// Performs and answers what need not wait for a disk that takes nothing.
    fn let_pass(&mut self) {
        if !self.health.borrow().is_stalled() {
            return;
        }
        let mut blocked = Blocked::default();
        for step in &mut self.waiting {
            let may_pass = step.committed.is_none();
            let mut kept = Vec::new();
            for effect in step.effects.drain(..) {
                let concern = M::concern(&effect);
                if may_pass && blocked.allows(&concern) {
                    (self.perform)(effect);
                } else {
                    blocked.add(concern);
                    kept.push(effect);
                }
            }
            step.effects = kept;
            blocked.rows.extend(step.keys.iter().cloned());
            if may_pass
                && step.effects.is_empty()
                && let Some(reply) = step.reply.take()
            {
                reply();
            }
        }
        self.waiting
            .retain(|step| step.committed.is_some() || !step.effects.is_empty() || step.reply.is_some());
    }
}

/// What waiting steps hold up.
#[derive(Default)]
struct Blocked {
    everything: bool,
    any: bool,
    rows: HashSet<String>,
    concerns: HashSet<Concern>,
}

impl Blocked {
    fn allows(&self, concern: &Concern) -> bool {
        let work = |key: &String| self.concerns.contains(&Concern::Work(key.clone()));
        let news = |key: &String| self.concerns.contains(&Concern::News(key.clone()));
        match concern {
            Concern::Nothing => true,
            _ if self.everything => false,
            Concern::Everything => !self.any && self.rows.is_empty(),
            Concern::Work(key) => !work(key),
            Concern::News(key) => !work(key) && !news(key) && !self.rows.contains(key),
        }
    }

    fn add(&mut self, concern: Concern) {
        self.any = true;
        self.everything |= concern == Concern::Everything;
        self.concerns.insert(concern);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use oak_control::{Entropy, Machine, Outbox, Row, Table};
    use oak_model::{Moment, Now};
    use tokio::task::JoinSet;

    use super::*;
    use crate::health::Writes;
    use crate::{Engine, EngineStopped, Journal, SystemClock};

    /// Does what the test tells it.
    #[derive(Default)]
    struct Scripted {
        value: u32,
        outbox: Outbox<Concern>,
    }

    impl Machine for Scripted {
        type Effect = Concern;

        fn take_outbox(&mut self) -> Outbox<Concern> {
            self.outbox.take()
        }

        fn next_deadline(&self) -> Option<Moment> {
            None
        }

        fn tick(&mut self, _now: Now, _entropy: &mut dyn Entropy) {}
    }

    impl Hosted for Scripted {
        fn concern(effect: &Concern) -> Concern {
            effect.clone()
        }
    }

    impl Scripted {
        fn step(&mut self, row: Option<&str>, effects: &[Concern]) {
            if let Some(key) = row {
                self.value += 1;
                self.outbox.put(Table::Workload, key, &self.value);
            }
            for effect in effects {
                self.outbox.emit(effect.clone());
            }
        }
    }

    type Waiting = Arc<Mutex<Vec<tokio::sync::oneshot::Sender<Result<(), StoreError>>>>>;

    /// A disk that commits when the test says so.
    struct Disk {
        waiting: Waiting,
        health: watch::Receiver<Health>,
    }

    impl Journal for Disk {
        fn submit(&self, _rows: Vec<Row>) -> Result<Committed, StoreError> {
            let (done, committed) = Committed::pending();
            self.waiting.lock().unwrap().push(done);
            Ok(committed)
        }

        fn health(&self) -> watch::Receiver<Health> {
            self.health.clone()
        }
    }

    struct World {
        engine: Engine<Scripted>,
        performed: Arc<Mutex<Vec<Concern>>>,
        waiting: Waiting,
        health: watch::Sender<Health>,
        _tasks: JoinSet<Result<(), StoreError>>,
    }

    fn world() -> World {
        let (health, watched) = watch::channel(Health::Ok);
        let waiting = Waiting::default();
        let disk = Disk { waiting: Arc::clone(&waiting), health: watched };
        let performed = Arc::new(Mutex::new(Vec::new()));
        let (mut tasks, log) = (JoinSet::new(), Arc::clone(&performed));
        let perform = move |effect| log.lock().unwrap().push(effect);
        let engine = Engine::start(&mut tasks, Scripted::default(), disk, SystemClock::start(), perform);
        World { engine, performed, waiting, health, _tasks: tasks }
    }

    impl World {
        fn stall(&self) {
            self.health.send_replace(Health::Degraded {
                since: std::time::SystemTime::UNIX_EPOCH,
                reason: "full".into(),
                writes: Writes::Stalled,
            });
        }

        fn commit_all(&self) {
            for done in self.waiting.lock().unwrap().drain(..) {
                done.send(Ok(())).unwrap();
            }
        }

        async fn post(&self, row: Option<&'static str>, effects: &[Concern]) {
            let effects = effects.to_vec();
            self.engine.post(move |machine, _, _| machine.step(row, &effects)).await.unwrap();
        }

        /// Answered only after everything before it was looked at.
        async fn read(&self) -> Result<u32, EngineStopped> {
            let read = self.engine.call(|machine, _, _| machine.value);
            tokio::time::timeout(Duration::from_secs(20), read).await.expect("reading does not wait")
        }

        fn performed(&self) -> Vec<Concern> {
            self.performed.lock().unwrap().clone()
        }
    }

    fn work(key: &str) -> Concern {
        Concern::Work(key.to_owned())
    }

    fn news(key: &str) -> Concern {
        Concern::News(key.to_owned())
    }

    #[tokio::test]
    async fn in_good_times_a_question_waits_for_the_changes_before_it() {
        let world = world();
        world.post(Some("a"), &[]).await;
        let mut read = Box::pin(world.engine.call(|machine, _, _| machine.value));
        let early = tokio::time::timeout(Duration::from_millis(100), &mut read).await;
        assert!(early.is_err(), "an uncommitted value was shown");
        world.commit_all();
        assert_eq!(read.await, Ok(1));
    }

    #[tokio::test]
    async fn while_the_disk_is_stalled_questions_are_answered_and_changes_wait() {
        let world = world();
        world.stall();
        let engine = world.engine.clone();
        let change =
            tokio::spawn(async move { engine.call(|machine, _, _| machine.step(Some("a"), &[])).await });
        while world.waiting.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(world.read().await, Ok(1));
        assert!(!change.is_finished());
        world.commit_all();
        assert_eq!(change.await.unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn a_stall_that_begins_later_releases_the_questions_that_wait() {
        let world = world();
        world.post(Some("a"), &[Concern::Everything]).await;
        let engine = world.engine.clone();
        let read = tokio::spawn(async move { engine.call(|machine, _, _| machine.value).await });
        tokio::task::yield_now().await;
        world.stall();
        assert_eq!(tokio::time::timeout(Duration::from_secs(20), read).await.unwrap().unwrap(), Ok(1));
        assert!(world.performed().is_empty());
    }

    #[tokio::test]
    async fn work_without_rows_goes_on_but_news_about_unwritten_rows_wait() {
        let world = world();
        world.stall();
        world.post(Some("new"), &[work("new"), news("new")]).await;
        world.post(None, &[work("old"), news("old"), Concern::Nothing]).await;
        world.post(None, &[work("new")]).await;
        world.post(None, &[news("new"), work("other")]).await;
        assert_eq!(world.read().await, Ok(1));
        assert_eq!(world.performed(), [work("old"), news("old"), Concern::Nothing, work("other")]);
        world.commit_all();
        world.health.send_replace(Health::Ok);
        world.read().await.unwrap();
        let rest = [work("new"), news("new"), work("new"), news("new")];
        assert_eq!(world.performed().split_off(4), rest);
    }

    #[tokio::test]
    async fn an_effect_that_depends_on_everything_overtakes_nothing() {
        let world = world();
        world.stall();
        world.post(Some("a"), &[]).await;
        world.post(None, &[Concern::Everything]).await;
        world.post(None, &[work("b")]).await;
        world.read().await.unwrap();
        assert!(world.performed().is_empty());
        world.commit_all();
        world.health.send_replace(Health::Ok);
        world.read().await.unwrap();
        assert_eq!(world.performed(), [Concern::Everything, work("b")]);
    }

    #[tokio::test]
    async fn rows_without_consequences_are_remembered_as_one() {
        let world = world();
        world.stall();
        // More than there is room for.
        for _ in 0..WAITING + 3 * 1024 {
            world.post(Some("a"), &[]).await;
        }
        let expected = u32::try_from(WAITING + 3 * 1024).unwrap();
        assert_eq!(world.read().await, Ok(expected));
    }
}

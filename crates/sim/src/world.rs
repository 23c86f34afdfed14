//! The system: its machines, its links, and the loop that lets time pass.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::time::Duration;

use oak_control::backoff::Backoff;
use oak_control::cluster::{self, Cluster};
use oak_control::root::{self, Root};
use oak_control::worker::{self, NetworkTable, TableVersion, Worker};
use oak_model::overlay::{RELAY_PORT, RelayEnd};
use oak_model::{ClusterId, WorkerFacts, WorkerId};

use crate::agenda::{Agenda, Event, Who};
use crate::client::Client;
use crate::invariants::{BUSY, Broken, Violation, require};
use crate::link::Link;
use crate::metrics::Metrics;
use crate::node::{Node, Rows};
use crate::power::Reborn;
use crate::runtime::{Luck, Runtime};
use crate::scenario::{Scenario, Span};
use crate::trace::{Names, Trace};
use crate::user::Users;
use crate::watch::Watch;

pub(crate) struct ClusterSide {
    pub(crate) id: ClusterId,
    pub(crate) name: String,
    pub(crate) site: String,
    pub(crate) node: Node<Cluster>,
    pub(crate) link: Link,
    /// Its workers.
    pub(crate) members: Vec<usize>,
    /// What its relay was told: key of a worker, and keys of the nodes it has to do with.
    pub(crate) relay: BTreeMap<WorkerId, (Vec<String>, Vec<String>)>,
}

pub(crate) struct WorkerSide {
    pub(crate) id: WorkerId,
    pub(crate) cluster: usize,
    pub(crate) site: String,
    pub(crate) facts: WorkerFacts,
    pub(crate) node: Node<Worker>,
    pub(crate) link: Link,
    pub(crate) runtime: Runtime,
    pub(crate) network: NetworkTable,
    pub(crate) network_version: TableVersion,
    /// Since when it has been in touch, if it is.
    pub(crate) in_touch_since: u64,
    /// Taken away for good.
    pub(crate) gone: bool,
}

/// Events of one millisecond; more, and one that follows from itself goes round in circles.
const MOST_AT_ONCE: u64 = 10_000;

/// A sample of the metrics is taken this often in a run, at most.
const SAMPLES: u64 = 120;

pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) agenda: Agenda,
    pub(crate) luck: Luck,
    pub(crate) cpu_overcommit: u32,
    pub(crate) root: Node<Root>,
    pub(crate) clusters: Vec<ClusterSide>,
    pub(crate) workers: Vec<WorkerSide>,
    pub(crate) worker_by_id: HashMap<WorkerId, usize>,
    pub(crate) cluster_by_id: HashMap<ClusterId, usize>,
    pub(crate) worker_names: BTreeSet<String>,
    pub(crate) client: Client,
    pub(crate) users: Users,
    pub(crate) watch: Watch,
    pub(crate) metrics: Metrics,
    pub(crate) names: Names,
    pub(crate) trace: Trace,
    /// The first rule that was broken. Nothing happens after it.
    pub(crate) violation: Option<Violation>,
    /// Backups of the root, by the fault that needs them.
    pub(crate) backups: BTreeMap<usize, Rows>,
    /// The root starts after its memory was lost, from a backup or from nothing.
    pub(crate) reborn: Option<Reborn>,
    /// Events so far.
    pub(crate) events: u64,
    /// The present time, and the events before it.
    moment: u64,
    moment_events: u64,
    sweep_at: u64,
    sample_every: u64,
}

fn set(duration: &mut Duration, span: Option<Span>) {
    if let Some(span) = span {
        *duration = Duration::from_millis(span.ms);
    }
}

impl World {
    /// A system whose parts have joined but never met.
    pub(crate) fn new(scenario: Scenario, seed: u64, trace: Option<Box<dyn Write + Send>>) -> Self {
        let root_settings = root_settings(&scenario);
        let users = Users::new(&scenario);
        let root = Node::new(Who::Root, Root::new(root_settings.clone()), scenario.disks.root);
        let mut world = Self {
            agenda: Agenda::new(seed),
            luck: Luck::good(scenario.runtime),
            cpu_overcommit: root_settings.cpu_overcommit,
            root,
            clusters: Vec::new(),
            workers: Vec::new(),
            worker_by_id: HashMap::new(),
            cluster_by_id: HashMap::new(),
            worker_names: BTreeSet::new(),
            client: Client::default(),
            users,
            watch: Watch::default(),
            metrics: Metrics::default(),
            names: Names::default(),
            trace: Trace::new(trace),
            violation: None,
            backups: BTreeMap::new(),
            reborn: None,
            events: 0,
            moment: 0,
            moment_events: 0,
            sweep_at: 0,
            sample_every: (scenario.duration_ms / SAMPLES).div_ceil(1_000).max(1) * 1_000,
            scenario,
        };
        world.populate();
        world.plan();
        world
    }

    /// Lets time pass until `end` or until a rule is broken, checking the rules after every event.
    pub(crate) fn run_until(&mut self, end: u64) {
        while self.violation.is_none() {
            let Some(event) = self.agenda.next(end) else { return };
            self.events += 1;
            if self.agenda.time > self.moment {
                self.moment = self.agenda.time;
                self.moment_events = self.events;
            }
            self.trace.event(self.agenda.time, &self.names, &event);
            self.handle(event);
            self.look();
        }
    }

    /// Lets time pass until the system has settled.
    ///
    /// # Errors
    /// What is not right after `limit_ms`.
    pub(crate) fn run_until_settled(&mut self, limit_ms: u64) -> Result<(), String> {
        let end = self.agenda.time + limit_ms;
        loop {
            self.run_until((self.agenda.time + 1_000).min(end));
            if self.violation.is_some() {
                return Ok(());
            }
            match self.check_settled() {
                Ok(()) => return Ok(()),
                Err(problem) if self.agenda.time >= end => return Err(problem),
                Err(_) => {}
            }
        }
    }

    /// What follows from an event: measurements, and the rules.
    fn look(&mut self) {
        let changes = std::mem::take(&mut self.agenda.processes);
        for change in &changes {
            let cluster = self.workers.get(change.worker).map_or(usize::MAX, |side| side.cluster);
            self.metrics.process(self.agenda.time, cluster, *change);
            if self.metrics.tracks.get(&change.key).is_some_and(|track| track.processes.len() > 1) {
                self.watch.doubles.insert(change.key);
                let checked = self.at_most_one_runs(change);
                self.broken(checked);
            }
        }
        self.agenda.processes = changes;
        self.agenda.processes.clear();
        let checked = self.check_changes();
        self.broken(checked);
        if self.events >= self.sweep_at {
            let swept = self.sweep();
            self.broken(swept);
            let size = (self.workers.len() + self.client.open_instances.len() + self.clusters.len()) as u64;
            self.sweep_at = self.events + size;
            let now = self.events - self.moment_events;
            let goes_on = require(now <= MOST_AT_ONCE + 100 * size, BUSY, || {
                format!("{now} events at the same moment")
            });
            self.broken(goes_on);
        }
    }

    pub(crate) fn broken(&mut self, checked: Result<(), Broken>) {
        if let Err((rule, detail)) = checked
            && self.violation.is_none()
        {
            self.trace.note(self.agenda.time, &format!("broken: {rule}: {detail}"));
            self.violation = Some(Violation { at_ms: self.agenda.time, rule, detail });
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Commit { who, epoch } => self.commit(who, epoch),
            Event::Tick { who, epoch } => self.tick(who, epoch),
            Event::Restart { who } => self.restart(who),
            Event::Dial { child } => self.dial(child),
            Event::Up { child, session, frame } => self.arrive_up(child, session, frame),
            Event::LateUp { child, session, frame } => self.arrive_late(child, session, *frame),
            Event::Down { child, session, frame } => self.arrive_down(child, session, *frame),
            Event::ParentNotices { child, session, parting } => self.parent_notices(child, session, parting),
            Event::ChildNotices { child, session } => self.child_notices(child, session),
            Event::Silence { child, session, end, block } => self.silence(child, session, end, block),
            Event::Heartbeats { child, session } => self.heartbeats(child, session),
            Event::Heal { child, up, down } => {
                if let Some((agenda, link)) = self.agenda_and_link(child) {
                    link.heal(agenda, up, down);
                }
            }
            Event::Operation { worker, epoch, operation } => self.operation_ends(worker, epoch, operation),
            Event::Table { worker, epoch, version, table } => {
                self.table_taken(worker, epoch, version, *table);
            }
            Event::Probed { worker, epoch, key, attempt } => self.probe_ends(worker, epoch, key, attempt),
            Event::CheckTable { worker, epoch } => self.check_table(worker, epoch),
            Event::LeaseEnds { worker, process } => self.lease_ends(worker, process),
            Event::Exit { worker, process } => self.process_ends(worker, process),
            Event::Fault { index } => self.fault(index),
            Event::FaultEnds { index } => self.fault_ends(index),
            Event::Backup { index } => {
                self.backups.insert(index, self.root.disk.copy());
            }
            Event::Chaos => self.chaos(),
            Event::DiskHeals { who } => self.disk_heals(who),
            Event::LinkHeals { child } => self.link_heals(child),
            Event::Join { worker } => self.enrol(worker),
            Event::Churn => self.churn(),
            Event::Deploy { workload } => self.deploy(workload),
            Event::Pulse => self.pulse(),
        }
    }

    fn tick(&mut self, who: Who, epoch: u64) {
        if self.epoch(who) != epoch {
            return;
        }
        match who {
            Who::Root => self.root.tick(&mut self.agenda),
            Who::Cluster(index) => {
                if let Some(side) = self.clusters.get_mut(index) {
                    side.node.tick(&mut self.agenda);
                }
            }
            Who::Worker(index) => {
                if let Some(side) = self.workers.get_mut(index) {
                    side.node.tick(&mut self.agenda);
                }
            }
        }
    }

    fn pulse(&mut self) {
        let now = self.agenda.time;
        let is_sample = now.is_multiple_of(self.sample_every);
        self.metrics.pulse(now, is_sample);
        let events = self.agenda.len();
        self.metrics.peak("events of the simulator", events);
        let checked = self.check_second();
        self.broken(checked);
        self.agenda.after(1_000, Event::Pulse);
    }

    pub(crate) fn epoch(&self, who: Who) -> u64 {
        match who {
            Who::Root => self.root.epoch,
            Who::Cluster(index) => self.clusters.get(index).map_or(0, |side| side.node.epoch),
            Who::Worker(index) => self.workers.get(index).map_or(0, |side| side.node.epoch),
        }
    }

    pub(crate) fn is_alive(&self, who: Who) -> bool {
        match who {
            Who::Root => self.root.machine.is_some(),
            Who::Cluster(index) => self.clusters.get(index).is_some_and(|side| side.node.machine.is_some()),
            Who::Worker(index) => self.workers.get(index).is_some_and(|side| side.node.machine.is_some()),
        }
    }

    pub(crate) fn parent_of(&self, child: Who) -> Who {
        match child {
            Who::Worker(index) => {
                self.workers.get(index).map_or(Who::Root, |side| Who::Cluster(side.cluster))
            }
            Who::Root | Who::Cluster(_) => Who::Root,
        }
    }

    /// The link of a child to its parent; the root has none.
    pub(crate) fn link(&self, child: Who) -> Option<&Link> {
        match child {
            Who::Worker(index) => self.workers.get(index).map(|side| &side.link),
            Who::Cluster(index) => self.clusters.get(index).map(|side| &side.link),
            Who::Root => None,
        }
    }

    pub(crate) fn agenda_and_link(&mut self, child: Who) -> Option<(&mut Agenda, &mut Link)> {
        match child {
            Who::Worker(index) => self.workers.get_mut(index).map(|side| (&mut self.agenda, &mut side.link)),
            Who::Cluster(index) => {
                self.clusters.get_mut(index).map(|side| (&mut self.agenda, &mut side.link))
            }
            Who::Root => None,
        }
    }

    pub(crate) fn children_of(&self, parent: Who) -> Vec<Who> {
        match parent {
            Who::Root => (0..self.clusters.len()).map(Who::Cluster).collect(),
            Who::Cluster(index) => {
                let members = self.clusters.get(index).map(|side| side.members.as_slice());
                members.unwrap_or_default().iter().copied().map(Who::Worker).collect()
            }
            Who::Worker(_) => Vec::new(),
        }
    }

    /// Name of the place of a machine, for the timeline: workers are told apart by cluster only.
    pub(crate) fn place_of(&self, who: Who) -> String {
        let cluster = match who {
            Who::Root => return "root".to_owned(),
            Who::Cluster(index) => self.clusters.get(index),
            Who::Worker(index) => self.workers.get(index).and_then(|side| self.clusters.get(side.cluster)),
        };
        cluster.map(|side| side.name.clone()).unwrap_or_default()
    }

    pub(crate) fn worker_settings(&self) -> worker::Settings {
        let tuning = &self.scenario.tuning;
        let mut settings = worker::Settings { asks: true, ..worker::Settings::default() };
        let Backoff { max, .. } = &mut settings.restart;
        set(max, tuning.restart_max);
        set(&mut settings.prepare_timeout, tuning.prepare_timeout);
        set(&mut settings.start_timeout, tuning.start_timeout);
        set(&mut settings.stop_timeout, tuning.stop_timeout);
        settings
    }

    pub(crate) fn cluster_settings(&self, name: &str) -> cluster::Settings {
        let tuning = &self.scenario.tuning;
        let mut settings = cluster::Settings { name: name.to_owned(), ..cluster::Settings::default() };
        set(&mut settings.lost_after, tuning.lost_after);
        set(&mut settings.start_grace, tuning.start_grace);
        set(&mut settings.retry_interval, tuning.retry_interval);
        settings.cpu_overcommit = self.cpu_overcommit;
        settings.relay = Some(RelayEnd {
            public_key: format!("key of the relay of {name}"),
            port: RELAY_PORT,
            address: None,
        });
        settings
    }

    pub(crate) fn root_settings(&self) -> root::Settings {
        root_settings(&self.scenario)
    }
}

fn root_settings(scenario: &Scenario) -> root::Settings {
    let mut settings = root::Settings::default();
    set(&mut settings.retry_interval, scenario.tuning.retry_interval);
    if let Some(lost_after) = scenario.tuning.cluster_lost_after {
        settings.cluster_lost_after = Some(Duration::from_millis(lost_after.ms));
    }
    if let Some(overcommit) = scenario.tuning.cpu_overcommit {
        settings.cpu_overcommit = overcommit;
    }
    settings
}

//! One link from a child to its parent. A session can die at any moment: what is in flight is lost, and each side
//! notices in its own time. Within a session order is kept.

use oak_model::message::{
    ClusterHello, ClusterToRoot, ClusterToWorker, ClusterWelcome, RootToCluster, WorkerHello,
    WorkerToCluster, WorkerWelcome,
};

use super::agenda::{Agenda, Event, Who};

/// From child to parent.
#[derive(Clone, Debug)]
pub enum UpFrame {
    ClusterHello(ClusterHello),
    WorkerHello(WorkerHello),
    ToRoot(ClusterToRoot),
    ToCluster(WorkerToCluster),
}

/// From parent to child.
#[derive(Clone, Debug)]
pub enum DownFrame {
    ClusterWelcome(ClusterWelcome),
    WorkerWelcome(WorkerWelcome),
    ToCluster(RootToCluster),
    ToWorker(ClusterToWorker),
}

/// One side's view of a session.
#[derive(Default)]
pub struct View {
    /// The session this side believes to be open.
    pub session: Option<u64>,
    /// Whether its welcome was sent (parent) or received (child).
    pub welcomed: bool,
    /// Messages for after the welcome, as the link holds them back.
    held_up: Vec<UpFrame>,
    held_down: Vec<DownFrame>,
}

impl View {
    fn open(&mut self, session: u64) {
        *self = Self { session: Some(session), ..Self::default() };
    }
}

pub struct Link {
    child: Who,
    /// A partition: nothing gets through.
    pub blocked: bool,
    /// The session that really exists.
    wire: Option<u64>,
    pub above: View,
    pub below: View,
    clear_up: u64,
    clear_down: u64,
}

impl Link {
    pub fn new(child: Who) -> Self {
        Self {
            child,
            blocked: false,
            wire: None,
            above: View::default(),
            below: View::default(),
            clear_up: 0,
            clear_down: 0,
        }
    }

    /// Whether both sides are in the same living session and the child has heard the welcome.
    pub fn is_up(&self) -> bool {
        self.wire.is_some()
            && self.wire == self.above.session
            && self.wire == self.below.session
            && self.below.welcomed
    }

    pub fn carries(&self, session: u64) -> bool {
        self.wire == Some(session)
    }

    /// The child opens a session.
    pub fn dial(&mut self, agenda: &mut Agenda) -> u64 {
        let session = agenda.number();
        self.wire = Some(session);
        self.below.open(session);
        self.clear_up = agenda.time;
        self.clear_down = agenda.time;
        session
    }

    pub fn hello(&mut self, agenda: &mut Agenda, session: u64, frame: UpFrame) {
        if self.below.session == Some(session) {
            self.transmit_up(agenda, session, frame);
        }
    }

    /// The parent has heard the hello.
    pub fn opened(&mut self, session: u64) {
        self.above.open(session);
    }

    pub fn welcome(&mut self, agenda: &mut Agenda, session: u64, frame: DownFrame) {
        if self.above.session != Some(session) || self.above.welcomed {
            return;
        }
        self.above.welcomed = true;
        self.transmit_down(agenda, session, frame);
        for frame in std::mem::take(&mut self.above.held_down) {
            self.transmit_down(agenda, session, frame);
        }
    }

    /// The child has heard the welcome.
    pub fn welcomed(&mut self, agenda: &mut Agenda, session: u64) {
        self.below.welcomed = true;
        for frame in std::mem::take(&mut self.below.held_up) {
            self.transmit_up(agenda, session, frame);
        }
    }

    pub fn send_up(&mut self, agenda: &mut Agenda, frame: UpFrame) {
        match self.below.session {
            Some(session) if self.below.welcomed => self.transmit_up(agenda, session, frame),
            Some(_) => self.below.held_up.push(frame),
            None => {}
        }
    }

    pub fn send_down(&mut self, agenda: &mut Agenda, session: u64, frame: DownFrame) {
        if self.above.session != Some(session) {
            return;
        }
        if self.above.welcomed {
            self.transmit_down(agenda, session, frame);
        } else {
            self.above.held_down.push(frame);
        }
    }

    fn transmit_up(&mut self, agenda: &mut Agenda, session: u64, frame: UpFrame) {
        if self.carries(session) {
            self.clear_up = self.clear_up.max(agenda.time + agenda.between(1, 30));
            agenda.at(self.clear_up, Event::Up { child: self.child, session, frame: Box::new(frame) });
        }
    }

    fn transmit_down(&mut self, agenda: &mut Agenda, session: u64, frame: DownFrame) {
        if self.carries(session) {
            self.clear_down = self.clear_down.max(agenda.time + agenda.between(1, 30));
            agenda.at(self.clear_down, Event::Down { child: self.child, session, frame: Box::new(frame) });
        }
    }

    /// The session dies; both sides learn it later.
    pub fn cut(&mut self, agenda: &mut Agenda) {
        self.wire = None;
        if let Some(session) = self.above.session {
            let delay = agenda.between(0, 2_000);
            agenda.after(delay, Event::ParentNotices { child: self.child, session });
        }
        if let Some(session) = self.below.session {
            let delay = agenda.between(0, 2_000);
            agenda.after(delay, Event::ChildNotices { child: self.child, session });
        }
    }

    pub fn child_crashed(&mut self, agenda: &mut Agenda) {
        self.below = View::default();
        self.cut(agenda);
    }

    pub fn parent_crashed(&mut self, agenda: &mut Agenda) {
        self.above = View::default();
        self.cut(agenda);
    }
}

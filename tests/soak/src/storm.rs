//! Lets faults happen, and restarts what ended, as a supervisor of services does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use oak_e2e::{Conditions, World, let_pass};
use oak_model::overlay::TUNNEL_PORT;
use rustix::process::Signal;

use crate::observer::Observer;
use crate::plan::{Fault, Kind};
use crate::report::Report;
use crate::role::Role;
use crate::site::{Machines, Site};
use crate::timeline::Timeline;

/// Between two looks at what runs.
const TICK: Duration = Duration::from_millis(100);
/// What a machine that has moved has more as the last part of its address.
const MOVED: u8 = 100;
/// A process that ended by itself is started again after this.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// Everything that faults act on.
pub(crate) struct Storm<'a, 'host> {
    pub(crate) world: &'a World,
    pub(crate) machines: &'host Machines,
    pub(crate) site: &'a mut Site<'host>,
    pub(crate) observer: &'a Observer<'host>,
    pub(crate) timeline: &'a Timeline,
    /// Not to be started by the supervisor: killed by us, and coming back by plan.
    pub(crate) down: BTreeSet<Role>,
    pub(crate) restart_at: BTreeMap<Role, Instant>,
}

impl Storm<'_, '_> {
    /// Plays a plan to its end, after which nothing is wrong any more.
    pub(crate) fn play(&mut self, plan: &[Fault], report: &mut Report) -> anyhow::Result<()> {
        let start = Instant::now();
        let begins = plan.iter().map(|fault| (fault.at, true, fault));
        let ends = plan.iter().map(|fault| (fault.at + fault.lasts, false, fault));
        let mut steps: Vec<_> = begins.chain(ends).collect();
        steps.sort_by_key(|(at, ..)| *at);
        for (at, is_begin, fault) in steps {
            self.wait_until(start + at, report)?;
            let result = if is_begin { self.begin(fault, report) } else { self.end(fault) };
            result.with_context(|| fault.to_string())?;
        }
        Ok(())
    }

    fn begin(&mut self, fault: &Fault, report: &mut Report) -> anyhow::Result<()> {
        self.timeline.tell(fault.to_string());
        report.fault(fault.kind.name());
        let (role, host) = (fault.target, self.machines.host(fault.target)?);
        match &fault.kind {
            Kind::Kill => {
                self.down.insert(role);
                let oak = self.site.oak(role)?;
                // It may have ended by itself a moment ago.
                if oak.is_running() { oak.kill() } else { Ok(()) }
            }
            Kind::Freeze => {
                let oak = self.site.oak(role)?;
                if oak.is_running() { oak.signal(Signal::STOP) } else { Ok(()) }
            }
            Kind::Cut(direction, passage) => {
                let cut = Conditions { passage: *passage, ..Conditions::default() };
                match direction {
                    Some(direction) => host.cable()?.set_one(*direction, cut),
                    None => host.cable()?.set(cut),
                }
                Ok(())
            }
            Kind::Degrade(conditions) => {
                host.cable()?.set(*conditions);
                Ok(())
            }
            Kind::Move => {
                let [first, second, third, number] = host.address().octets();
                let address = Ipv4Addr::new(first, second, third, number + MOVED);
                host.move_to(address, self.world.switch().address())
            }
            Kind::Rebind(outside) => host.show_port_as(TUNNEL_PORT, *outside),
            Kind::FillDisk => self.machines.disk(role)?.fill(),
            Kind::PowerCut => {
                self.down.insert(role);
                // A machine without power says goodbye to nobody.
                host.cable()?.cut();
                host.power_off()?;
                self.site.oak(role)?.wait_for_end().map(drop)
            }
        }
    }

    fn end(&mut self, fault: &Fault) -> anyhow::Result<()> {
        self.timeline
            .note(format!("end of {}", fault.kind.name().to_owned() + " of " + &fault.target.to_string()));
        let (role, host) = (fault.target, self.machines.host(fault.target)?);
        match &fault.kind {
            Kind::Kill => self.start(role),
            Kind::Freeze => {
                let oak = self.site.oak(role)?;
                if oak.is_running() { oak.signal(Signal::CONT) } else { Ok(()) }
            }
            Kind::Cut(..) | Kind::Degrade(_) => {
                host.cable()?.mend();
                Ok(())
            }
            Kind::Move => host.move_to(host.address(), self.world.switch().address()),
            Kind::Rebind(_) => host.show_ports(),
            Kind::FillDisk => self.machines.disk(role)?.free(),
            Kind::PowerCut => {
                self.world.power_on(host)?;
                host.cable()?.mend();
                self.start(role)
            }
        }
    }

    fn start(&mut self, role: Role) -> anyhow::Result<()> {
        self.down.remove(&role);
        self.restart_at.remove(&role);
        let oak = self.site.oak(role)?;
        if oak.is_running() {
            return Ok(());
        }
        // Collects the end of one that the supervisor has not seen yet.
        let _ = oak.wait_for_end();
        oak.start()
    }

    /// Supervises until a moment.
    pub(crate) fn wait_until(&mut self, moment: Instant, report: &mut Report) -> anyhow::Result<()> {
        loop {
            self.supervise(report)?;
            let left = moment.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let_pass(left.min(TICK));
        }
    }

    /// Starts what ended by itself, and stops the run if the observer has seen what must not be.
    pub(crate) fn supervise(&mut self, report: &mut Report) -> anyhow::Result<()> {
        if let Some(violation) = self.observer.violation() {
            bail!(violation);
        }
        for role in Role::all() {
            if self.down.contains(&role) || self.site.oak(role)?.is_running() {
                continue;
            }
            let Some(at) = self.restart_at.get(&role) else {
                let code = self.site.oak(role)?.wait_for_end()?;
                self.timeline.tell(format!("{role} ended by itself with {code:?}"));
                report.ended_by_itself(role);
                self.restart_at.insert(role, Instant::now() + RESTART_AFTER);
                continue;
            };
            if *at <= Instant::now() {
                self.timeline.note(format!("{role} is started again"));
                self.start(role)?;
            }
        }
        Ok(())
    }
}

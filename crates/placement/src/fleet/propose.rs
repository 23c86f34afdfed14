//! The smallest change that lets a refused instance be placed.

use oak_model::{Architecture, Area, Position, Resources, WorkerId};

use super::rules::{Candidate, all_reasons};
use super::{Details, Fleet, Problem};
use crate::{Change, Reason, Request, WorkerState};

impl Fleet {
    /// The fewest and smallest changes that let one of the workers, or one that is to be added to `cluster`, take the
    /// instance. `None` if nothing would help.
    #[must_use]
    pub fn propose(&self, request: &Request<'_>, cluster: &str) -> Option<Vec<Change>> {
        let problem = self.problem(request);
        let mut best: Option<Vec<Change>> = None;
        let present = self.details.iter().enumerate();
        let present = present.filter_map(|(position, details)| {
            let reasons = self.rejections(position, &problem);
            changes(details, &reasons, Vec::new())
        });
        for changes in present.chain(self.additional(&problem, cluster)) {
            if best.as_ref().is_none_or(|best| Change::weigh(&changes) < Change::weigh(best)) {
                best = Some(changes);
            }
        }
        best
    }

    /// A worker that is made for the instance, at each place that might matter.
    fn additional(&self, problem: &Problem<'_>, cluster: &str) -> Vec<Vec<Change>> {
        let request = problem.request;
        let centres = request.target.near.iter().filter_map(|bound| match &bound.area {
            Area::Around { centre, .. } => Some(Some(*centre)),
            Area::Named(_) => None,
        });
        let hosts = request.surroundings.peers.iter().filter_map(|bound| bound.peer);
        let hosts = hosts.filter_map(|peer| Some(self.hosts_of(peer).next()?.position)).collect::<Vec<_>>();
        let positions = std::iter::once(None).chain(centres).chain(hosts);
        positions
            .filter_map(|position| {
                let added = self.imagined(request, position);
                let reasons = all_reasons(Candidate { details: &added, position: None }, problem);
                let addition = Change::AddWorker {
                    cluster: cluster.to_owned(),
                    name: (!request.target.workers.is_empty()).then(|| added.state.name.clone()),
                    resources: request.resources,
                    architecture: request.architectures.first().copied(),
                    labels: added.state.labels.clone(),
                    volume_drivers: added.state.csi_drivers.clone(),
                    position,
                };
                changes(&added, &reasons, vec![addition])
            })
            .collect()
    }

    fn imagined(&self, request: &Request<'_>, position: Option<Position>) -> Details {
        let target = request.target;
        let is_new = |name: &&String| !self.details.iter().any(|details| details.state.name == **name);
        let areas = target.near.iter().filter_map(|bound| match &bound.area {
            Area::Named(name) => Some(format!("area={name}")),
            Area::Around { .. } => None,
        });
        let mut labels: Vec<String> = target.needs.iter().cloned().chain(areas).collect();
        labels.dedup();
        let mut csi_drivers: Vec<String> =
            request.volumes.iter().map(|volume| volume.driver.clone()).collect();
        csi_drivers.sort_unstable();
        csi_drivers.dedup();
        let state = WorkerState {
            name: target.workers.iter().find(is_new).cloned().unwrap_or_default(),
            architecture: request.architectures.first().copied().unwrap_or(Architecture::Amd64),
            runs_containers: true,
            capacity: request.resources,
            reservable_cpu_millis: request.resources.cpu_millis,
            addresses: 1,
            connected: true,
            cordoned: false,
            unreliable: false,
            labels,
            csi_drivers,
            position,
            round_trip_us: Some(0),
        };
        Details { reserved: Resources::ZERO, ..Details::new(WorkerId::from_parts(0, 0), state) }
    }
}

/// What undoes all reasons, if all of them can be undone.
fn changes(details: &Details, reasons: &[Reason], mut changes: Vec<Change>) -> Option<Vec<Change>> {
    for reason in reasons {
        let change = undo(details, reason)?;
        if !changes.iter_mut().any(|known| known.absorb(&change)) {
            changes.push(change);
        }
    }
    (!changes.is_empty()).then_some(changes)
}

/// What undoes one reason. Nothing lowers a need to zero, which would mean "any amount" and not "none".
fn undo(details: &Details, reason: &Reason) -> Option<Change> {
    let (worker, name) = (details.id, || details.state.name.clone());
    let change = match reason {
        Reason::NotConnected => Change::ConnectWorker { worker, name: name() },
        Reason::Cordoned => Change::Uncordon { worker, name: name() },
        // One that is only imagined has no name unless the descriptor knows it.
        Reason::NotNamed if details.state.name.is_empty() => return None,
        Reason::NotNamed => Change::AllowWorker { worker: name() },
        Reason::Label { missing } => Change::RemoveNeed { label: missing.clone() },
        Reason::VolumeDriver { missing } => Change::RemoveVolume { driver: missing.clone() },
        Reason::Architecture { has } => Change::AllowArchitecture { architecture: *has },
        Reason::Virtualization | Reason::Addresses { .. } => return None,
        // Descriptors ask for whole cores.
        Reason::TooFewCores { has: free, needed } | Reason::Cpu { free, needed } => {
            Change::LowerCpu { from: *needed, to: some(free - free % 1000)? }
        }
        Reason::Memory { free, needed, .. } => Change::LowerMemory { from: *needed, to: some(*free)? },
        Reason::Storage { free, needed } => Change::LowerStorage { from: *needed, to: some(*free)? },
        Reason::Gpus { free, needed, .. } => Change::LowerGpus { from: *needed, to: some(*free)? },
        Reason::TooMany { has, most } => Change::RaiseMaxPerNode { from: *most, to: has + 1 },
        Reason::HostPort { port, protocol, holder, holder_id } => Change::FreePort {
            worker,
            name: name(),
            port: *port,
            protocol: *protocol,
            holder: *holder_id,
            holder_name: holder.clone(),
        },
        Reason::TooFar { bound, to, is, limit } => {
            Change::WidenBound { bound: bound.clone(), to: to.clone(), from: *limit, limit: *is }
        }
        Reason::NotMeasured { bound, to, .. } => Change::RemoveBound { bound: bound.clone(), to: to.clone() },
    };
    Some(change)
}

fn some(amount: u32) -> Option<u32> {
    (amount > 0).then_some(amount)
}

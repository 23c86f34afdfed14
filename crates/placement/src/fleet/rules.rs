//! The rules that decide whether a worker can take an instance, one by one and in order.

use std::ops::ControlFlow;

use oak_model::PortMapping;

use super::columns::{architecture_bit, architecture_mask};
use super::{Details, Fleet, Problem};
use crate::{Reason, Request};

/// A worker under examination. One that is only imagined has no position in the fleet.
#[derive(Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub(super) details: &'a Details,
    pub(super) position: Option<usize>,
}

impl Fleet {
    /// The first rule that worker `position` fails.
    pub(super) fn reject(&self, position: usize, problem: &Problem<'_>) -> Option<Reason> {
        let details = self.details.get(position)?;
        let mut first = None;
        let candidate = Candidate { details, position: Some(position) };
        let _ = examine(candidate, problem, &mut |reason| {
            first = Some(reason);
            ControlFlow::Break(())
        });
        first
    }

    /// Every rule that worker `position` fails.
    pub(super) fn rejections(&self, position: usize, problem: &Problem<'_>) -> Vec<Reason> {
        self.details.get(position).map_or_else(Vec::new, |details| {
            all_reasons(Candidate { details, position: Some(position) }, problem)
        })
    }
}

/// Every rule that a worker fails.
pub(super) fn all_reasons(candidate: Candidate<'_>, problem: &Problem<'_>) -> Vec<Reason> {
    let mut all = Vec::new();
    let _ = examine(candidate, problem, &mut |reason| {
        all.push(reason);
        ControlFlow::Continue(())
    });
    all
}

/// Who is told about failed rules, and whether to go on.
type Found<'f> = &'f mut dyn FnMut(Reason) -> ControlFlow<()>;

fn examine(candidate: Candidate<'_>, problem: &Problem<'_>, found: Found<'_>) -> ControlFlow<()> {
    kind(candidate.details, problem.request, found)?;
    size(candidate.details, problem.request, found)?;
    counts(candidate.details, problem.request, found)?;
    for port in problem.request.ports {
        if let Some(reason) = port_conflict(candidate.details, problem.request, *port) {
            found(reason)?;
        }
    }
    for bound in problem.hard_bounds() {
        if let Some(reason) = bound.broken_by(candidate) {
            found(reason)?;
        }
    }
    ControlFlow::Continue(())
}

/// Whether it may run the service at all.
fn kind(details: &Details, request: &Request<'_>, found: Found<'_>) -> ControlFlow<()> {
    let state = &details.state;
    let target = request.target;
    if !target.workers.is_empty() && !target.workers.contains(&state.name) {
        found(Reason::NotNamed)?;
    }
    if !state.connected {
        found(Reason::NotConnected)?;
    }
    if state.cordoned {
        found(Reason::Cordoned)?;
    }
    if architecture_mask(request.architectures) & architecture_bit(state.architecture) == 0 {
        found(Reason::Architecture { has: state.architecture })?;
    }
    if !state.runs_containers {
        found(Reason::Virtualization)?;
    }
    for (index, volume) in request.volumes.iter().enumerate() {
        let is_told = request.volumes.iter().take(index).any(|other| other.driver == volume.driver);
        if !is_told && !state.csi_drivers.contains(&volume.driver) {
            found(Reason::VolumeDriver { missing: volume.driver.clone() })?;
        }
    }
    for missing in target.needs.iter().filter(|label| !state.has_label(label)) {
        found(Reason::Label { missing: missing.clone() })?;
    }
    ControlFlow::Continue(())
}

/// Whether it is large enough, and enough of it is unreserved.
fn size(details: &Details, request: &Request<'_>, found: Found<'_>) -> ControlFlow<()> {
    let capacity = details.state.capacity;
    let free = details.free();
    let needs = request.resources;
    if capacity.cpu_millis < needs.cpu_millis {
        found(Reason::TooFewCores { has: capacity.cpu_millis, needed: needs.cpu_millis })?;
    }
    if free.cpu_millis < needs.cpu_millis {
        found(Reason::Cpu { free: free.cpu_millis, needed: needs.cpu_millis })?;
    }
    if free.memory_mib < needs.memory_mib {
        found(Reason::Memory {
            free: free.memory_mib,
            total: capacity.memory_mib,
            needed: needs.memory_mib,
        })?;
    }
    if free.storage_mib < needs.storage_mib {
        found(Reason::Storage { free: free.storage_mib, needed: needs.storage_mib })?;
    }
    if free.gpus < needs.gpus {
        found(Reason::Gpus { free: free.gpus, total: capacity.gpus, needed: needs.gpus })?;
    }
    ControlFlow::Continue(())
}

/// Whether it can take one instance more.
fn counts(details: &Details, request: &Request<'_>, found: Found<'_>) -> ControlFlow<()> {
    if details.instances >= details.state.addresses {
        found(Reason::Addresses { total: details.state.addresses })?;
    }
    let has = details.instances_of(request.service);
    if let Some(most) = request.target.max_per_worker.filter(|most| has >= *most) {
        found(Reason::TooMany { has, most })?;
    }
    ControlFlow::Continue(())
}

fn port_conflict(details: &Details, request: &Request<'_>, port: PortMapping) -> Option<Reason> {
    let holder = details.ports.get(&(port.protocol, port.host))?;
    (holder.service != request.service).then(|| Reason::HostPort {
        port: port.host,
        protocol: port.protocol,
        holder: holder.name.clone(),
        holder_id: holder.service,
    })
}

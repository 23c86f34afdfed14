//! Starting from stored rows.

use oak_model::Now;
use oak_placement::WorkerState;

use super::{Cluster, Meta, Placed, Settings, Worker, addresses_of};
use crate::token::Token;
use crate::{CorruptRow, Row, Table};

impl Cluster {
    /// Rebuilds the state from stored rows. Workers have the start grace to come back before their instances are
    /// placed elsewhere.
    ///
    /// # Errors
    /// A row that cannot be read; nothing may be guessed about it.
    pub fn load(settings: Settings, now: Now, rows: &[Row]) -> Result<Self, CorruptRow> {
        let mut cluster = Self::new(settings);
        for row in rows {
            match row.table {
                Table::Meta => cluster.meta = row.parse::<Meta>()?,
                Table::Worker => {
                    let worker: Worker = row.parse()?;
                    cluster.workers.insert(worker.id, worker);
                }
                Table::Placement => {
                    let placed: Placed = row.parse()?;
                    cluster.placed.insert(placed.desired.key, placed);
                }
                Table::Token => {
                    let token: Token = row.parse()?;
                    cluster.tokens.insert(token.id.clone(), token);
                }
                // Kept by other machines.
                Table::Application
                | Table::Service
                | Table::Instance
                | Table::Departure
                | Table::Cluster
                | Table::User
                | Table::Organization
                | Table::Workload => {}
            }
        }
        let grace = now.moment + cluster.settings.start_grace;
        for worker in cluster.workers.values_mut() {
            worker.lost_at = Some(grace);
            let state =
                WorkerState::new(&worker.facts, cluster.settings.cpu_overcommit, addresses_of(worker.subnet));
            cluster.fleet.upsert(worker.id, WorkerState { connected: false, ..state });
        }
        for placed in cluster.placed.values() {
            let spec = &placed.desired.spec;
            match placed.placement {
                Some(placement) if !placed.completed => {
                    let name = placed.desired.job_name.to_string();
                    let service = placed.desired.key.service;
                    cluster.fleet.reserve(placement.worker, service, &name, spec.resources, &spec.ports);
                }
                Some(_) => {}
                None => {
                    cluster.pending.insert(placed.desired.key);
                }
            }
        }
        cluster.retry_soon(now);
        Ok(cluster)
    }
}

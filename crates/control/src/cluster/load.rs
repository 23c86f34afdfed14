//! Starting from stored rows.

use oak_model::{Availability, Now, Service};
use oak_placement::WorkerState;

use super::leases::MARGIN;
use super::{Cluster, KnownApplication, Meta, Placed, Settings, Worker};
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
                Table::Application => {
                    let known: KnownApplication = row.parse()?;
                    cluster.applications.insert(known.application.id, known);
                }
                Table::Service => {
                    let service: Service = row.parse()?;
                    cluster.services.insert(service.id, service);
                }
                Table::Call | Table::KnownService | Table::Backend | Table::Peer => {
                    cluster.load_abroad(row)?;
                }
                // Kept by other machines.
                Table::Instance
                | Table::Departure
                | Table::Cluster
                | Table::User
                | Table::Organization
                | Table::Workload
                | Table::Event
                | Table::Secret
                | Table::Quota
                | Table::Audit => {}
            }
        }
        let grace = now.moment + cluster.settings.start_grace;
        let position = cluster.position();
        let leased_until = now.moment + cluster.settings.lease + MARGIN;
        for worker in cluster.workers.values_mut() {
            worker.lost_at = Some(grace);
            cluster.alarms.insert((grace, worker.id));
            // What was permitted before is not known any more.
            worker.leased_until = leased_until;
            let state = worker.state(cluster.settings.cpu_overcommit, position);
            cluster.fleet.upsert(worker.id, WorkerState { connected: false, ..state });
            if worker.availability == Availability::Draining {
                cluster.draining.insert(worker.id);
            }
        }
        let keys: Vec<_> = cluster.placed.keys().copied().collect();
        for key in keys {
            let Some(placed) = cluster.placed.get(&key) else { continue };
            if placed.placement.is_none() && !placed.removing {
                cluster.pending.insert(key);
            }
            let places: Vec<_> = placed.places().collect();
            for place in places {
                cluster.hold(key, place);
            }
        }
        if !cluster.workers.is_empty() {
            cluster.overlay_settles_at(grace);
        }
        cluster.retry_soon(now);
        Ok(cluster)
    }
}

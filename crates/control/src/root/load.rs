//! Starting from stored rows.

use oak_model::Now;

use super::tenants::{FullName, QuotaRow};
use super::{Application, Cluster, Departure, Instance, Meta, Root, Secret, Service, Settings};
use crate::token::Token;
use crate::{CorruptRow, Row, Table};

impl Root {
    /// Rebuilds the state from stored rows.
    ///
    /// # Errors
    /// A row that cannot be read; nothing may be guessed about it.
    pub fn load(settings: Settings, now: Now, rows: &[Row]) -> Result<Self, CorruptRow> {
        let mut root = Self::new(settings);
        for row in rows {
            root.load_row(row)?;
        }
        if let Some(cursor) = root.meta.address_cursor {
            root.addresses.set_cursor(cursor);
        }
        if let Some(block) = root.meta.last_node_block {
            root.node_blocks.set_last(block);
        }
        for instance in root.instances.values_mut() {
            instance.observed_at_start(now.moment);
            match instance.cluster.and_then(|id| root.clusters.get_mut(&id)) {
                Some(cluster) => {
                    cluster.instances.insert(instance.key);
                }
                None if instance.has_ended() => {}
                None => {
                    root.pending.insert(instance.key);
                }
            }
        }
        for departure in root.departures.values() {
            if let Some(cluster) = root.clusters.get_mut(&departure.cluster) {
                cluster.instances.insert(departure.key);
            }
        }
        for cluster in root.clusters.values_mut() {
            cluster.lost_since = Some(now.moment);
        }
        root.asks_since = now.moment;
        root.overlay_starts(now);
        root.recount_all();
        root.look_at_all(now);
        root.retry_soon(now);
        Ok(root)
    }

    fn load_row(&mut self, row: &Row) -> Result<(), CorruptRow> {
        match row.table {
            Table::Meta => self.meta = row.parse::<Meta>()?,
            Table::Application => {
                let application: Application = row.parse()?;
                self.application_names.insert(FullName::of(&application), application.id);
                self.applications.insert(application.id, application);
            }
            Table::Service => {
                let service: Service = row.parse()?;
                for (_, address) in service.addresses() {
                    self.addresses.claim(address);
                }
                self.linked.know(&service);
                self.services.insert(service.id, service);
            }
            Table::Instance => {
                let instance: Instance = row.parse()?;
                self.addresses.claim(instance.address);
                self.instances.insert(instance.key, instance);
            }
            Table::Departure => {
                let departure: Departure = row.parse()?;
                self.addresses.claim(departure.address);
                self.departures.insert(departure.key, departure);
            }
            Table::Cluster => {
                let cluster: Cluster = row.parse()?;
                for block in &cluster.node_blocks {
                    self.node_blocks.claim(*block);
                }
                if let Some(block) = cluster.local_block {
                    self.addresses.claim_block(block);
                }
                self.clusters.insert(cluster.id, cluster);
            }
            Table::Token => {
                let token: Token = row.parse()?;
                self.tokens.insert(token.id.clone(), token);
            }
            Table::Event => self.history.load(row),
            Table::Secret => {
                let secret: Secret = row.parse()?;
                self.secrets.insert((secret.owner.clone(), secret.purpose.clone()), secret);
            }
            Table::Quota => {
                let row: QuotaRow = row.parse()?;
                self.quotas.insert(row.organization, row.quota);
            }
            // Kept by the shell or by other machines.
            Table::User
            | Table::Organization
            | Table::Audit
            | Table::Worker
            | Table::Placement
            | Table::Call
            | Table::KnownService
            | Table::Backend
            | Table::Peer
            | Table::Workload => {}
        }
        Ok(())
    }
}

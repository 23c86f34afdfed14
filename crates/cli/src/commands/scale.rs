//! `oak scale`, `oak rollback`: the number of instances of a service, and the way back from an update.

use clap::Args;
use oak_client::Client;

use super::{Failure, find};
use crate::output::Output;

/// What to scale.
#[derive(Args, Clone, Debug)]
pub(crate) struct Scale {
    /// Name or id of the service
    service: String,
    /// Instances it shall keep
    #[arg(value_parser = clap::value_parser!(u32).range(0..=i64::from(oak_model::MAX_REPLICAS)))]
    replicas: u32,
}

impl Scale {
    pub(super) async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let service = find::service(client, &self.service).await?;
        let scaled = client.scale(&service.id, self.replicas).await?;
        let (created, removed) = (scaled.created.len(), scaled.removed.len());
        let name = &service.job_name;
        let kept = scaled.replicas;
        output.line(format_args!(
            "service {name}: {kept} instances, {created} created, {removed} taken down"
        ))?;
        Ok(())
    }
}

/// What to roll back.
#[derive(Args, Clone, Debug)]
pub(crate) struct Rollback {
    /// Name or id of the service
    service: String,
}

impl Rollback {
    pub(super) async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let service = find::service(client, &self.service).await?;
        let record = client.roll_back(&service.id).await?;
        let (name, revision) = (&record.job_name, record.revision);
        output.line(format_args!("service {name}: going back to revision {revision}"))?;
        Ok(())
    }
}

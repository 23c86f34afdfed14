//! `oak delete`: applications, services, instances, and machines that are gone for good.

use clap::{Args, ValueEnum};
use oak_client::Client;
use oak_model::Removal;

use super::{Failure, find};
use crate::output::{Output, clean};

/// What to delete.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Kind of object
    #[arg(value_enum)]
    kind: Kind,
    /// Name or id; for an instance SERVICE/NUMBER
    name: String,
    /// Of a cluster or worker: also while it is connected or has instances. Says that the machine is gone; what it has is
    /// placed elsewhere
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// With all its services and instances
    #[value(alias = "app")]
    Application,
    /// With all its instances
    #[value(alias = "svc")]
    Service,
    /// Only this one
    Instance,
    /// One that is gone for good; its workers are gone with it
    Cluster,
    /// One that is gone for good; empty it with `oak drain` first if it still runs
    Worker,
}

impl Arguments {
    pub(super) async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let name = self.name.as_str();
        if self.force && !matches!(self.kind, Kind::Cluster | Kind::Worker) {
            return Err(Failure::usage("--force is for clusters and workers"));
        }
        let removal = Removal::by_force(self.force);
        match self.kind {
            Kind::Application => {
                let found = find::application(client, name).await?;
                client.delete_application(&found.id).await?;
                output.line(format_args!("application {}.{} deleted", found.name, found.namespace))?;
            }
            Kind::Service => {
                let found = find::service(client, name).await?;
                client.delete_service(&found.id).await?;
                output.line(format_args!("service {} deleted", found.job_name))?;
            }
            Kind::Instance => {
                // Deleting is not a thing to guess at: the only instance today may be another one than meant.
                if !name.contains('/') {
                    return Err(Failure::usage(format!("`{name}` does not name an instance"))
                        .hint("write SERVICE/NUMBER, such as nginx/0"));
                }
                let (service, instance) = find::instance(client, name).await?;
                client.undeploy(&service.id, instance.number).await?;
                output.line(format_args!("instance {}/{} deleted", service.name, instance.number))?;
            }
            Kind::Cluster => {
                client.remove_cluster(name, removal).await?;
                output.line(format_args!("cluster {} removed", clean(name)))?;
                output
                    .say(format_args!("if it still runs somewhere, stop it there: it goes on by itself"))?;
            }
            Kind::Worker => {
                let found = client.worker(name).await?;
                let (id, name) = (&found.worker.id, clean(&found.worker.facts.name));
                client.remove_worker(&found.cluster_id, id, removal).await?;
                output.line(format_args!(
                    "worker {name} removed from cluster {}",
                    clean(&found.cluster_name)
                ))?;
                if found.worker.connected {
                    output.say(format_args!(
                        "what it runs goes on until it is stopped there: run `oak down` on that machine"
                    ))?;
                }
            }
        }
        Ok(())
    }
}

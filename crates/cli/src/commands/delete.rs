//! `oak delete`: applications, services, instances.

use clap::{Args, ValueEnum};
use oak_client::Client;

use super::{Failure, find};
use crate::output::Output;

/// What to delete.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Kind of object
    #[arg(value_enum)]
    kind: Kind,
    /// Name or id; for an instance SERVICE/NUMBER
    name: String,
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
}

impl Arguments {
    pub(super) async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let name = self.name.as_str();
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
        }
        Ok(())
    }
}

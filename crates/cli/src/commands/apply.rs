//! `oak apply`: from a descriptor to running instances, as often as one likes.
//!
//! Nothing is made twice. A service that differs from the descriptor is changed; the root replaces its instances one
//! after the other.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use oak_client::{Application, Client, ClientErrorKind, Plan, Service};
use oak_model::sla::{self, ApplicationRequest, ServiceRequest, SlaDocument, SlaErrorKind, SlaErrors};
use serde_json::{Map, Value};

use super::{EXIT_FAILURE, Failure, explain};
use crate::output::{Format, Output, clean};

/// What to apply.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Descriptor, or - for standard input
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Deploy until each service has at least this many instances
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000))]
    deploy: u32,
    /// Change nothing: tell where the instances of new applications would go, or why nowhere
    #[arg(long)]
    dry_run: bool,
    /// Form of the plan of --dry-run
    #[arg(short, long, value_enum, default_value_t, requires = "dry_run")]
    output: Format,
}

impl Arguments {
    pub(super) async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let bytes = read(&self.file)?;
        let document = sla::parse(&bytes).map_err(|errors| refused(&self.file, &bytes, &errors))?;
        for warning in &document.warnings {
            output.say(format_args!("warning: {warning}"))?;
        }
        if document.applications.is_empty() {
            output.say("the descriptor names no application")?;
        }
        if self.dry_run {
            return self.plan(client, &document, output).await;
        }
        for request in &document.applications {
            let application = ensure_application(client, &document, request, output).await?;
            let services = ensure_services(client, &document, request, &application, output).await?;
            for (wanted, present) in services {
                let differences = differences(wanted, &present);
                if !differences.is_empty() {
                    let mut alike = ApplicationRequest { services: vec![wanted.clone()], ..request.clone() };
                    alike.application_id = application.id.parse().ok();
                    let changed = client.change_service(&present.id, &alone(&document, alike)).await?;
                    tell(&changed, &differences, output)?;
                }
                let is_kept = wanted.replicas.is_some() || present.other.contains_key("replicas");
                match is_kept {
                    // The root creates what is missing by itself.
                    true if differences.is_empty() => {
                        let count = present.instances.len();
                        let name = &present.job_name;
                        output.line(format_args!("service {name}: {count} instances, unchanged"))?;
                    }
                    true => {}
                    false => self.ensure_instances(client, &present, output).await?,
                }
            }
        }
        Ok(())
    }

    /// Asks the root what it would do with the applications that do not exist yet.
    async fn plan(
        &self,
        client: &Client,
        document: &SlaDocument,
        output: &mut Output<'_>,
    ) -> Result<(), Failure> {
        let mut plans = Vec::new();
        for request in &document.applications {
            if find_application(client.applications().await?, request).is_some() {
                output.say(format_args!(
                    "application {}.{} exists; `oak explain SERVICE` tells where one more instance would go",
                    request.name, request.namespace
                ))?;
                continue;
            }
            plans.push(client.plan_applications(&alone(document, request.clone()), self.deploy).await?);
        }
        match self.output {
            Format::Json => output.json(&plans)?,
            Format::Table => plans.iter().try_for_each(|plan| write_plan(plan, output))?,
        }
        if plans.iter().all(|plan| plan.all_placed) {
            return Ok(());
        }
        Err(Failure::new(EXIT_FAILURE, "not every instance would find a place"))
    }

    async fn ensure_instances(
        &self,
        client: &Client,
        service: &Service,
        output: &mut Output<'_>,
    ) -> Result<(), Failure> {
        // Whatever its state, an instance in the list is the root's to care for; it restarts what failed.
        let present = service.instances.iter().filter(|instance| instance.status != "UNDEPLOYED").count();
        let missing = usize::try_from(self.deploy).unwrap_or(usize::MAX).saturating_sub(present);
        for _ in 0..missing {
            client.deploy(&service.id).await?;
        }
        let (name, present) = (&service.job_name, present + missing);
        match missing {
            0 => output.line(format_args!("service {name}: {present} instances, unchanged"))?,
            _ => output.line(format_args!("service {name}: {missing} of {present} instances deployed"))?,
        }
        Ok(())
    }
}

fn write_plan(plan: &Plan, output: &mut Output<'_>) -> std::io::Result<()> {
    for service in &plan.services {
        for instance in &service.instances {
            let name = clean(&service.job_name);
            match (&instance.place, &instance.explanation) {
                (Some(place), _) => output.line(format_args!(
                    "{name} instance {}: worker {} of cluster {}",
                    instance.number,
                    clean(&place.worker_name),
                    clean(&place.cluster_name)
                ))?,
                (None, Some(explained)) => explain::write(explained, output)?,
                (None, None) => output.line(format_args!("{name} instance {}: no place", instance.number))?,
            }
        }
    }
    Ok(())
}

async fn ensure_application(
    client: &Client,
    document: &SlaDocument,
    request: &ApplicationRequest,
    output: &mut Output<'_>,
) -> Result<Application, Failure> {
    let shown = format!("application {}.{}", request.name, request.namespace);
    if let Some(found) = find_application(client.applications().await?, request) {
        output.line(format_args!("{shown} exists"))?;
        return Ok(found);
    }
    if let Some(id) = request.application_id {
        return Err(Failure::not_found(format!("there is no {shown} with the id {id}"))
            .hint("remove applicationID from the descriptor to create a new application"));
    }
    let created = client.create_applications(&alone(document, request.clone())).await;
    let list = match created {
        Ok(list) => list,
        // Somebody else was faster.
        Err(error) if error.kind() == ClientErrorKind::Conflict => client.applications().await?,
        Err(error) => return Err(error.into()),
    };
    let found = find_application(list, request).ok_or_else(|| {
        Failure::new(EXIT_FAILURE, format!("{shown} was created but is not in the root's list"))
    })?;
    output.line(format_args!("{shown} created"))?;
    Ok(found)
}

fn find_application(list: Vec<Application>, request: &ApplicationRequest) -> Option<Application> {
    let wanted_id = request.application_id.map(|id| id.to_string());
    list.into_iter().find(|application| match &wanted_id {
        Some(id) => application.id == *id,
        None => {
            application.name == request.name.as_str() && application.namespace == request.namespace.as_str()
        }
    })
}

/// Adds the services that are missing; returns each requested one with its present record.
async fn ensure_services<'a>(
    client: &Client,
    document: &SlaDocument,
    request: &'a ApplicationRequest,
    application: &Application,
    output: &mut Output<'_>,
) -> Result<Vec<(&'a ServiceRequest, Service)>, Failure> {
    let mut present = client.services_of(&application.id).await?;
    let missing: Vec<ServiceRequest> =
        request.services.iter().filter(|wanted| find_service(&present, wanted).is_none()).cloned().collect();
    if !missing.is_empty() {
        let names: Vec<String> = missing.iter().map(|service| service.name.to_string()).collect();
        let mut addition = ApplicationRequest { services: missing, ..request.clone() };
        addition.application_id = application.id.parse().ok();
        let created = client.create_services(&alone(document, addition)).await?;
        if !created.failed_services.is_empty() {
            let mut failure = Failure::new(EXIT_FAILURE, "services were refused by the root");
            for refused in created.failed_services {
                failure = failure.cause(format!("{}: {}", refused.service_name, refused.message));
            }
            return Err(failure);
        }
        output.line(format_args!("added to application {}: {}", application.name, names.join(", ")))?;
        present = client.services_of(&application.id).await?;
    }
    let not_stored = |wanted: &ServiceRequest| {
        Failure::new(EXIT_FAILURE, format!("service {} was added but is not in the root's list", wanted.name))
    };
    request
        .services
        .iter()
        .map(|wanted| {
            Ok((wanted, find_service(&present, wanted).cloned().ok_or_else(|| not_stored(wanted))?))
        })
        .collect()
}

fn find_service<'a>(present: &'a [Service], wanted: &ServiceRequest) -> Option<&'a Service> {
    present.iter().find(|service| {
        service.name == wanted.name.as_str() && service.namespace == wanted.namespace.as_str()
    })
}

/// A descriptor with only this application.
fn alone(document: &SlaDocument, application: ApplicationRequest) -> Value {
    SlaDocument { applications: vec![application], ..document.clone() }.to_value()
}

fn tell(changed: &Service, differences: &[String], output: &mut Output<'_>) -> Result<(), Failure> {
    let name = &changed.job_name;
    let what = match &changed.rollout {
        Some(rollout) if rollout.state == "running" => {
            format!("updating {} instances to revision {}", rollout.total, rollout.revision)
        }
        _ => "changed".to_owned(),
    };
    output.line(format_args!("service {name}: {what}: {}", differences.join("; ")))?;
    Ok(())
}

/// Compares what is stored with what is wanted, field by field. A number of instances that the descriptor leaves out
/// stays as it is.
fn differences(wanted: &ServiceRequest, present: &Service) -> Vec<String> {
    let Some(stored) = stored(present) else {
        // A record that today's rules refuse was stored by another release.
        return vec!["it was stored by another release".to_owned()];
    };
    // A record always has a port; in a descriptor an empty text and none are the same.
    let filled = |value: Option<&Value>| value.filter(|value| value.as_str() != Some("")).cloned();
    let differs = |key: &&String| {
        let (stored, wanted) = (stored.document.get(*key), wanted.document.get(*key));
        filled(stored) != filled(wanted)
            && key.as_str() != "microserviceID"
            && (wanted.is_some() || *key != "replicas")
    };
    let mut keys: Vec<_> = wanted.document.keys().chain(stored.document.keys()).filter(differs).collect();
    keys.sort_unstable();
    keys.dedup();
    let shown = |value: Option<&Value>| value.map_or_else(|| "absent".to_owned(), Value::to_string);
    let field = |key: &String| {
        let (stored, wanted) = (stored.document.get(key), wanted.document.get(key));
        format!("{key} is {}, wanted {}", shown(stored), shown(wanted))
    };
    keys.into_iter().map(field).collect()
}

/// The record of a service as the request it could have come from.
fn stored(present: &Service) -> Option<ServiceRequest> {
    let Ok(Value::Object(mut stored)) = serde_json::to_value(present) else { return None };
    // Identity of the stored service, and what the client adds when it reads a record: not part of what was sent.
    for key in ["microserviceID", "image"] {
        stored.shift_remove(key);
    }
    let document = Map::from_iter([("microservices".to_owned(), Value::Array(vec![Value::Object(stored)]))]);
    let stored = sla::parse_services(Value::Object(document).to_string().as_bytes()).ok()?;
    stored.services.into_iter().next()
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(EXIT_FAILURE, format!("cannot read {}", path.display())).cause(error.to_string())
    };
    let limit = u64::try_from(sla::MAX_DOCUMENT_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        std::fs::File::open(path).map_err(failed)?.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    }
    Ok(bytes)
}

fn refused(path: &Path, bytes: &[u8], errors: &SlaErrors) -> Failure {
    let total = errors.problems().len() + errors.more();
    let plural = if total == 1 { "" } else { "s" };
    let mut failure =
        Failure::new(EXIT_FAILURE, format!("the descriptor {} has {total} problem{plural}", path.display()));
    for problem in errors.problems() {
        failure = failure.cause(problem.to_string());
    }
    if errors.more() > 0 {
        failure = failure.cause(format!("and {} more", errors.more()));
    }
    if errors.kind() == SlaErrorKind::Version && sla::parse_services(bytes).is_ok() {
        return failure.hint("this is a list of services; put it into an application of a v2.0 descriptor");
    }
    failure
}

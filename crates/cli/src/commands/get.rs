//! `oak get`: listings.

use std::collections::BTreeMap;

use clap::{Args, ValueEnum};
use oak_client::{Client, ClientErrorKind, Cluster, Service, Worker};
use serde::Serialize;

use super::{Failure, find};
use crate::output::{Cell, Format, Output, Table, Tone};

/// What to list and how.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Kind of object
    #[arg(value_enum)]
    kind: Kind,
    /// Only those with this name or id
    name: Option<String>,
    /// Form of the listing
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    #[value(aliases = ["application", "apps", "app"])]
    Applications,
    #[value(aliases = ["service", "svc"])]
    Services,
    #[value(aliases = ["instance"])]
    Instances,
    #[value(aliases = ["cluster"])]
    Clusters,
    #[value(aliases = ["worker", "nodes", "node"])]
    Workers,
}

impl Arguments {
    pub(super) async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        match self.kind {
            Kind::Applications => self.applications(client, output).await,
            Kind::Services => self.services(client, output).await,
            Kind::Instances => self.instances(client, output).await,
            Kind::Clusters => self.clusters(client, output).await,
            Kind::Workers => self.workers(client, output).await,
        }
    }

    /// Whether one of an object's names is the one asked for.
    fn wants(&self, names: &[&str]) -> bool {
        self.name.as_deref().is_none_or(|name| names.contains(&name))
    }

    fn finish<T: Serialize>(
        &self,
        output: &mut Output<'_>,
        records: &[T],
        kind: &str,
        table: impl FnOnce(&[T]) -> Table,
    ) -> Result<(), Failure> {
        if let (Some(name), []) = (&self.name, records) {
            return Err(Failure::not_found(format!("there is no {kind} {name}")));
        }
        match self.output {
            Format::Json => output.json(records)?,
            Format::Table if records.is_empty() => output.say(format_args!("there are no {kind}s"))?,
            Format::Table => output.table(&table(records))?,
        }
        Ok(())
    }

    async fn applications(&self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let mut list = client.applications().await?;
        list.retain(|application| self.wants(&[&application.name, &application.id]));
        list.sort_by(|left, right| (&left.name, &left.namespace).cmp(&(&right.name, &right.namespace)));
        self.finish(output, &list, "application", |list| {
            let mut table = Table::new(&["NAME", "NAMESPACE", "SERVICES", "OWNER", "ID", "DESCRIPTION"]);
            for one in list {
                table.row([
                    (&one.name).into(),
                    (&one.namespace).into(),
                    one.services.len().into(),
                    (&one.owner).into(),
                    (&one.id).into(),
                    (&one.description).into(),
                ]);
            }
            table
        })
    }

    async fn services(&self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let list = self.matching_services(client, &[]).await?;
        self.finish(output, &list, "service", |list| {
            let mut table =
                Table::new(&["NAME", "APPLICATION", "RUNNING", "REV", "STATUS", "ADDRESS", "ID", "DETAIL"]);
            for one in list {
                let running = one.instances.iter().filter(|instance| instance.status == "RUNNING").count();
                table.row([
                    (&one.name).into(),
                    (&one.application_name).into(),
                    format!("{running}/{}", one.instances.len()).into(),
                    revision_cell(one),
                    status_cell(&one.status),
                    (&one.address).into(),
                    (&one.id).into(),
                    (&one.status_detail).into(),
                ]);
            }
            table
        })
    }

    async fn instances(&self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let (name, number) = match &self.name {
            Some(text) => find::split_number(text).map(|(name, number)| (Some(name), number))?,
            None => (None, None),
        };
        let mut services = self.matching_services(client, name.as_slice()).await?;
        for service in &mut services {
            service.instances.retain(|instance| number.is_none_or(|number| instance.number == number));
        }
        let rows: Vec<InstanceRow<'_>> = services.iter().flat_map(InstanceRow::of).collect();
        if rows.is_empty() && !services.is_empty() && number.is_none() {
            // The service that was named exists and has none: an empty answer, not an error.
            match self.output {
                Format::Json => output.json(&rows)?,
                Format::Table => output.say("there are no instances")?,
            }
            return Ok(());
        }
        let places = match self.output {
            Format::Table => Places::look_up(client, &rows).await?,
            Format::Json => Places::default(),
        };
        self.finish(output, &rows, "instance", |rows| {
            let mut table = Table::new(&["INSTANCE", "STATUS", "CLUSTER", "WORKER", "HOST", "DETAIL"]);
            for InstanceRow { service, instance } in rows {
                table.row([
                    format!("{}/{}", service.name, instance.number).into(),
                    status_cell(&instance.status),
                    places.name(&instance.cluster_id).into(),
                    places.name(&instance.worker_id).into(),
                    (&instance.host_ip).into(),
                    (&instance.status_detail).into(),
                ]);
            }
            table
        })
    }

    /// The services asked for, or those of the given names.
    async fn matching_services(&self, client: &Client, names: &[&str]) -> Result<Vec<Service>, Failure> {
        let mut list = client.services().await?;
        list.retain(|service| {
            let own = [service.name.as_str(), &service.id, &service.job_name];
            if names.is_empty() { self.wants(&own) } else { names.iter().any(|name| own.contains(name)) }
        });
        list.sort_by(|left, right| (&left.job_name, &left.name).cmp(&(&right.job_name, &right.name)));
        Ok(list)
    }

    async fn clusters(&self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let mut list = client.clusters().await?;
        list.retain(|cluster| self.wants(&[&cluster.name, &cluster.id]));
        list.sort_by(|left, right| left.name.cmp(&right.name));
        self.finish(output, &list, "cluster", |list| {
            let heading = ["NAME", "STATE", "WORKERS", "CORES", "MEMORY", "CPU%", "MEM%", "ADDRESS", "ID"];
            let mut table = Table::new(&heading);
            for one in list {
                table.row([
                    (&one.name).into(),
                    connected_cell(one.active),
                    one.active_nodes.into(),
                    format!("{:.0}", one.cores).into(),
                    mebibytes(one.memory_mib).into(),
                    format!("{:.0}", one.cpu_percent).into(),
                    format!("{:.0}", one.memory_percent).into(),
                    (&one.ip).into(),
                    (&one.id).into(),
                ]);
            }
            table
        })
    }

    async fn workers(&self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let mut list = Vec::new();
        for cluster in client.clusters().await? {
            for worker in client.workers(&cluster.id).await? {
                if self.wants(&[&worker.facts.name, &worker.id]) {
                    list.push(WorkerRow { cluster: cluster.name.clone(), worker });
                }
            }
        }
        list.sort_by(|left, right| {
            (&left.cluster, &left.worker.facts.name).cmp(&(&right.cluster, &right.worker.facts.name))
        });
        self.finish(output, &list, "worker", |list| {
            let heading =
                ["NAME", "CLUSTER", "STATE", "MODE", "ARCH", "CPU", "MEMORY", "INST", "ADDRESS", "ID"];
            let mut table = Table::new(&heading);
            for WorkerRow { cluster, worker } in list {
                let (capacity, reserved) = (worker.facts.capacity, worker.reserved);
                let cores = |millis: u32| oak_model::resources::Cores(millis);
                table.row([
                    (&worker.facts.name).into(),
                    cluster.into(),
                    connected_cell(worker.connected),
                    availability_cell(&worker.availability),
                    (&worker.facts.architecture).into(),
                    format!("{}/{}", cores(reserved.cpu_millis), cores(capacity.cpu_millis)).into(),
                    format!(
                        "{}/{}",
                        mebibytes(f64::from(reserved.memory_mib)),
                        mebibytes(f64::from(capacity.memory_mib))
                    )
                    .into(),
                    worker.instances.into(),
                    (&worker.facts.address).into(),
                    (&worker.id).into(),
                ]);
            }
            table
        })
    }
}

/// One instance with the service it belongs to, as it is listed.
#[derive(Debug)]
struct InstanceRow<'a> {
    service: &'a Service,
    instance: &'a oak_client::Instance,
}

impl<'a> InstanceRow<'a> {
    fn of(service: &'a Service) -> impl Iterator<Item = Self> {
        service.instances.iter().map(move |instance| Self { service, instance })
    }
}

impl Serialize for InstanceRow<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Row<'a> {
            #[serde(rename = "microserviceID")]
            service_id: &'a str,
            job_name: &'a str,
            microservice_name: &'a str,
            #[serde(flatten)]
            instance: &'a oak_client::Instance,
        }
        let InstanceRow { service, instance } = self;
        let row = Row {
            service_id: &service.id,
            job_name: &service.job_name,
            microservice_name: &service.name,
            instance,
        };
        row.serialize(serializer)
    }
}

/// One worker with the name of its cluster, as it is listed.
#[derive(Debug, Serialize)]
struct WorkerRow {
    cluster: String,
    #[serde(flatten)]
    worker: Worker,
}

/// Names of clusters and workers by id.
#[derive(Debug, Default)]
struct Places(BTreeMap<String, String>);

impl Places {
    /// Looks up the places of these instances. A root that does not list workers still shows its instances.
    async fn look_up(client: &Client, rows: &[InstanceRow<'_>]) -> Result<Self, Failure> {
        let mut names = BTreeMap::new();
        for Cluster { id, name, .. } in client.clusters().await? {
            if rows.iter().any(|row| row.instance.cluster_id == id && !row.instance.worker_id.is_empty()) {
                match client.workers(&id).await {
                    Ok(workers) => {
                        names.extend(workers.into_iter().map(|worker| (worker.id, worker.facts.name)));
                    }
                    Err(error) if error.kind() == ClientErrorKind::NotFound => {}
                    Err(error) => return Err(error.into()),
                }
            }
            names.insert(id, name);
        }
        Ok(Self(names))
    }

    fn name<'a>(&'a self, id: &'a str) -> &'a str {
        self.0.get(id).map_or(id, String::as_str)
    }
}

/// Status words in the colours of the dashboard.
fn status_cell(status: &str) -> Cell {
    let tone = match status {
        "RUNNING" | "COMPLETED" => Tone::Good,
        "REQUESTED" | "CLUSTER_SCHEDULED" | "NODE_SCHEDULED" | "CREATING" | "CREATED" => Tone::Pending,
        "" | "UNDEPLOYED" => Tone::Plain,
        _ => Tone::Bad,
    };
    Cell::toned(status, tone)
}

/// The revision, and while instances are being replaced how many are.
fn revision_cell(service: &Service) -> Cell {
    match &service.rollout {
        Some(rollout) if matches!(rollout.state.as_str(), "running" | "rolling-back") => {
            let (revision, updated, total) = (rollout.revision, rollout.updated, rollout.total);
            Cell::toned(format!("{revision} ({updated}/{total})"), Tone::Pending)
        }
        Some(rollout) if rollout.state == "rolled-back" => {
            Cell::toned(format!("{} (back)", service.revision), Tone::Bad)
        }
        _ => service.revision.into(),
    }
}

fn connected_cell(connected: bool) -> Cell {
    if connected { Cell::toned("connected", Tone::Good) } else { Cell::toned("away", Tone::Bad) }
}

fn availability_cell(availability: &str) -> Cell {
    let tone = if matches!(availability, "cordoned" | "draining") { Tone::Pending } else { Tone::Plain };
    Cell::toned(availability, tone)
}

/// `512M`, `15.6G`: short enough for a column.
fn mebibytes(amount: f64) -> String {
    if amount < 1024.0 { format!("{amount:.0}M") } else { format!("{:.1}G", amount / 1024.0) }
}

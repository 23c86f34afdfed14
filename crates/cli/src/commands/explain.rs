//! `oak explain`: why an instance is where it is, or nowhere, and what would help.

use clap::Args;
use oak_client::{Client, ExplainedCluster, ExplainedWorker, Explanation};
use oak_model::Resources;
use oak_model::resources::Cores;

use super::{Failure, find};
use crate::output::{Cell, Format, Output, Table, Tone, clean};

/// About what.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// SERVICE/NUMBER for an instance; SERVICE alone for one more instance
    #[arg(value_name = "SERVICE[/N]")]
    subject: String,
    /// Number of the instance, if it is not part of the first argument
    #[arg(value_name = "INSTANCE")]
    number: Option<u32>,
    /// List every worker, however many there are
    #[arg(long)]
    all: bool,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl Arguments {
    pub(super) async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let (name, number) = find::split_number(&self.subject)?;
        let number = match (number, self.number) {
            (Some(one), Some(other)) if one != other => {
                return Err(Failure::usage(format!("`{}` and {other} name two instances", self.subject)));
            }
            (one, other) => one.or(other),
        };
        let service = find::service(client, name).await?;
        let explained = client.explain(&service.id, number, self.all).await?;
        match self.output {
            Format::Json => output.json(&[explained])?,
            Format::Table => write(&explained, output)?,
        }
        Ok(())
    }
}

/// Writes an explanation for people: the answer, what would help, then every cluster with its workers.
pub(super) fn write(explained: &Explanation, output: &mut Output<'_>) -> std::io::Result<()> {
    let subject = match explained.number {
        Some(number) => format!("{} instance {number}", clean(&explained.job_name)),
        None => format!("one more instance of {}", clean(&explained.job_name)),
    };
    match &explained.place {
        Some(place) => output.line(format_args!(
            "{subject}: worker {} of cluster {}",
            clean(&place.worker_name),
            clean(&place.cluster_name)
        ))?,
        None => output.line(format_args!("{subject}: no place"))?,
    }
    output.line(format_args!("  status      {}: {}", explained.status, clean(&explained.status_detail)))?;
    output.line(format_args!("  needs       {}", explained.needs))?;
    let (able, total) = (explained.workers_that_can_take_it, explained.workers_total);
    output.line(format_args!("  candidates  {able} of {total} workers can take it"))?;
    if let Some(suggestion) = &explained.suggestion {
        output.line(format_args!("  suggestion  {}", clean(&suggestion.text)))?;
    }
    for cluster in &explained.clusters {
        write_cluster(cluster, output)?;
    }
    Ok(())
}

fn write_cluster(cluster: &ExplainedCluster, output: &mut Output<'_>) -> std::io::Result<()> {
    let reasons: Vec<_> = cluster.reasons.iter().map(|reason| clean(&reason.text)).collect();
    let reasons = if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join(", ")) };
    let share = cluster.commitment_percent;
    output.line("")?;
    output.line(format_args!("cluster {}{reasons} ({share:.0} % reserved)", clean(&cluster.cluster_name)))?;
    if cluster.workers.is_empty() {
        return output.line("no workers");
    }
    let mut table = Table::new(&["WORKER", "FREE", "OF", "RESERVED", "SAME", "ANSWER"]);
    for worker in &cluster.workers {
        table.row(row(worker, cluster.reasons.is_empty()));
    }
    output.table(&table)?;
    if cluster.workers_not_listed > 0 {
        output.line(format_args!("and {} more; --all lists them", cluster.workers_not_listed))?;
    }
    Ok(())
}

fn row(worker: &ExplainedWorker, is_asked: bool) -> [Cell; 6] {
    let reasons: Vec<_> = worker.reasons.iter().map(|reason| reason.text.as_str()).collect();
    let answer = match (worker.chosen, reasons.is_empty()) {
        (true, true) => Cell::toned("chosen", Tone::Good),
        (true, false) => Cell::toned(format!("chosen; {}", reasons.join(", ")), Tone::Pending),
        (false, true) if is_asked => Cell::toned("can take it", Tone::Plain),
        (false, true) => Cell::toned("could take it", Tone::Plain),
        (false, false) => Cell::toned(reasons.join(", "), Tone::Bad),
    };
    [
        Cell::from(&worker.worker_name),
        Cell::from(amounts(worker.free)),
        Cell::from(amounts(worker.capacity)),
        Cell::from(format!("{:.0} %", worker.commitment_percent)),
        Cell::from(worker.instances_of_service),
        answer,
    ]
}

/// The amounts that decide most often, short.
fn amounts(resources: Resources) -> String {
    format!("{} MiB, {} CPU", resources.memory_mib, Cores(resources.cpu_millis))
}

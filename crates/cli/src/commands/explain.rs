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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::output::Style;

    fn shown(explained: serde_json::Value) -> String {
        let explained: Explanation = serde_json::from_value(explained).expect("an explanation");
        let (mut data, mut talk) = (Vec::new(), Vec::new());
        let style = Style { colour: false, width: None };
        let mut output = Output { data: &mut data, talk: &mut talk, style };
        write(&explained, &mut output).expect("written to memory");
        String::from_utf8(data).expect("text")
    }

    #[test]
    fn says_what_would_help_before_the_details() {
        let text = shown(json!({
            "job_name": "shop.default.web.default", "instance_number": 3,
            "status": "NO_WORKER_CAPACITY", "status_detail": "full", "place": null,
            "needs": {"cpu_millis": 1000, "memory_mib": 800, "storage_mib": 0},
            "workers_total": 2, "workers_that_can_take_it": 0,
            "suggestion": {"text": "lower memory from 800 to 512", "changes": []},
            "clusters": [{
                "cluster_name": "garage", "commitment_percent": 40.0, "workers_total": 2,
                "workers": [{
                    "worker_name": "pi1\u{1b}[2J",
                    "reasons": [{"rule": "memory", "text": "512 of 1024 MiB memory free, 800 needed"}],
                    "free": {"cpu_millis": 40000, "memory_mib": 512, "storage_mib": 0},
                    "capacity": {"cpu_millis": 40000, "memory_mib": 1024, "storage_mib": 0},
                    "commitment_percent": 50.0, "instances_of_service": 0
                }],
                "workers_not_listed": 1
            }]
        }));
        let expected = "\
shop.default.web.default instance 3: no place
  status      NO_WORKER_CAPACITY: full
  needs       800 MiB memory, 1 CPU
  candidates  0 of 2 workers can take it
  suggestion  lower memory from 800 to 512

cluster garage (40 % reserved)
WORKER   FREE             OF                RESERVED  SAME  ANSWER
pi1 [2J  512 MiB, 40 CPU  1024 MiB, 40 CPU  50 %      0     512 of 1024 MiB memory free, 800 needed
and 1 more; --all lists them
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_placed_instance_names_its_worker_first() {
        let text = shown(json!({
            "job_name": "a.b.c.d", "instance_number": 0, "status": "RUNNING", "status_detail": "running",
            "place": {"cluster_name": "garage", "worker_name": "pi2"},
            "clusters": [{"cluster_name": "garage", "chosen": true, "workers": [
                {"worker_name": "pi2", "chosen": true}
            ]}]
        }));
        assert!(text.starts_with("a.b.c.d instance 0: worker pi2 of cluster garage\n"), "{text}");
        assert!(text.contains("chosen"), "{text}");
    }
}

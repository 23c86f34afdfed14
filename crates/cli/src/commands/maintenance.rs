//! `oak cordon`, `oak uncordon`, `oak drain`: taking a machine out of service and back.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use clap::Args;
use oak_client::{Client, ClientErrorKind, InstanceOnWorker, WorkerDetails};
use oak_model::Availability;

use super::{EXIT_FAILURE, Failure, duration};
use crate::output::{Output, clean};

/// Which worker.
#[derive(Args, Clone, Debug)]
pub(crate) struct Worker {
    /// Name or id of the worker
    worker: String,
}

impl Worker {
    pub(super) async fn set(
        self,
        client: &Client,
        availability: Availability,
        output: &mut Output<'_>,
    ) -> Result<(), Failure> {
        let now = client.set_availability(&self.worker, availability).await?;
        let (name, word) = (clean(&now.worker.facts.name), clean(&now.worker.availability));
        output.line(format_args!("worker {name} is {word}, with {}", counted(now.worker.instances)))?;
        Ok(())
    }
}

/// What to drain and whether to wait.
#[derive(Args, Clone, Debug)]
pub(crate) struct Drain {
    #[command(flatten)]
    worker: Worker,
    /// Wait until nothing is left on the worker
    #[arg(long)]
    wait: bool,
    /// How long to wait, such as 90s, 5m or 1h; the worker goes on draining afterwards
    #[arg(
        long,
        default_value = "5m",
        value_parser = duration::parse,
        value_name = "TIME",
        requires = "wait"
    )]
    timeout: Duration,
}

/// Time between two looks at the worker.
const PAUSE: Duration = Duration::from_millis(500);

impl Drain {
    pub(super) async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let began = client.set_availability(&self.worker.worker, Availability::Draining).await?;
        let name = clean(&began.worker.facts.name);
        if !self.wait {
            let left = counted(began.worker.instances);
            output.line(format_args!("worker {name} is draining, with {left} left"))?;
            output.say(format_args!("`oak drain {name} --wait` shows the progress"))?;
            return Ok(());
        }
        let deadline = Instant::now() + self.timeout;
        let id = began.worker.id.clone();
        let mut progress = Progress::default();
        let mut now = began;
        loop {
            progress.tell(&now, output)?;
            if is_empty(&now) {
                output.line(format_args!("worker {name} is empty"))?;
                return Ok(());
            }
            if now.worker.availability != Availability::Draining.as_str() {
                let word = &now.worker.availability;
                return Err(Failure::new(
                    EXIT_FAILURE,
                    format!("worker {name} is not being drained any more: somebody made it {word}"),
                ));
            }
            if Instant::now() >= deadline {
                return Err(self.not_empty(&now));
            }
            tokio::time::sleep(PAUSE).await;
            match client.worker(&id).await {
                Ok(newer) => now = newer,
                // A root that restarts forgets nothing of this.
                Err(error) if error.kind() == ClientErrorKind::Unreachable && Instant::now() < deadline => {
                    progress.say("root", &format!("waiting for the root: {error}"), output)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn not_empty(&self, now: &WorkerDetails) -> Failure {
        let name = &now.worker.facts.name;
        let (left, waited) = (counted(now.worker.instances), duration::shown(self.timeout));
        let mut failure = Failure::new(EXIT_FAILURE, format!("worker {name} has {left} left after {waited}"));
        for reason in reasons(now) {
            failure = failure.cause(reason);
        }
        failure.hint(format!(
            "it goes on draining: `oak drain {name} --wait` waits again, `oak uncordon {name}` opens it"
        ))
    }
}

/// Whether nothing runs there any more. A worker that is away may still run what it was not told to stop.
fn is_empty(now: &WorkerDetails) -> bool {
    now.worker.instances == 0 && now.instance_list.is_empty()
}

/// Reasons that are listed.
const LISTED: usize = 20;

/// Why a worker is not empty, one line each.
fn reasons(now: &WorkerDetails) -> Vec<String> {
    let mut reasons: Vec<String> = now.instance_list.iter().take(LISTED).map(reason).collect();
    if now.instance_list.len() > LISTED {
        reasons.push(format!("and {} more", now.instance_list.len() - LISTED));
    }
    let listed = u32::try_from(now.instance_list.len()).unwrap_or(u32::MAX);
    match now.worker.instances.saturating_sub(listed) {
        0 => {}
        more if now.worker.connected => reasons.push(format!("{} being stopped", counted(more))),
        more => {
            reasons.push(format!(
                "{} placed elsewhere, but perhaps still there: the worker is not connected",
                counted(more)
            ));
        }
    }
    reasons
}

fn reason(instance: &InstanceOnWorker) -> String {
    let InstanceOnWorker { job_name, number, status, status_detail, one_shot, .. } = instance;
    if *one_shot {
        return format!("{job_name}/{number}: one-shot, left to finish: {status_detail}");
    }
    format!("{job_name}/{number}: {status}: {status_detail}")
}

fn counted(instances: u32) -> String {
    if instances == 1 { "1 instance".to_owned() } else { format!("{instances} instances") }
}

/// Talks only about what is new.
#[derive(Debug, Default)]
struct Progress {
    said: BTreeSet<(String, String)>,
    left: Option<u32>,
}

impl Progress {
    fn tell(&mut self, now: &WorkerDetails, output: &mut Output<'_>) -> Result<(), Failure> {
        if self.left != Some(now.worker.instances) {
            self.left = Some(now.worker.instances);
            let name = clean(&now.worker.facts.name);
            output.say(format_args!("worker {name}: {} left", counted(now.worker.instances)))?;
        }
        // Most have nothing to say before it is their turn.
        let is_special = |instance: &&InstanceOnWorker| {
            instance.one_shot || !instance.status_detail.starts_with("running")
        };
        for instance in now.instance_list.iter().filter(is_special) {
            let about = format!("{}/{}", instance.job_name, instance.number);
            self.say(&about, &reason(instance), output)?;
        }
        Ok(())
    }

    /// Says what was not said before; numbers that count something do not make it new.
    fn say(&mut self, about: &str, text: &str, output: &mut Output<'_>) -> Result<(), Failure> {
        let without_numbers = text.replace(|letter: char| letter.is_ascii_digit(), "");
        if self.said.insert((about.to_owned(), without_numbers)) {
            output.say(format_args!("  {}", clean(text)))?;
        }
        Ok(())
    }
}

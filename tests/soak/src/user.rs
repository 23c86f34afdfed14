//! A user who works through the REST API while things go wrong.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use oak_e2e::{Api, Page, let_pass};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use serde_json::Value;

use crate::record::{Operation, Record};
use crate::report::Answers;
use crate::timeline::Timeline;

const MOST_APPLICATIONS: usize = 6;
/// Three processes each; two cores have other things to do too.
const MOST_INSTANCES: usize = 14;

/// The user with everything it needs.
pub(crate) struct User<'a> {
    pub(crate) api: &'a Api<'a>,
    pub(crate) timeline: &'a Timeline,
    pub(crate) random: StdRng,
    pub(crate) answers: Answers,
}

/// What became of a request.
enum Outcome {
    Acknowledged(Value),
    /// It reached nobody.
    NotSent,
    /// Whether it was done is not known.
    Unknown(String),
}

impl User<'_> {
    /// Does random things until a moment.
    pub(crate) fn work(&mut self, record: &mut Record, until: Instant) -> anyhow::Result<()> {
        while Instant::now() < until {
            if let Some((name, operation)) = self.choose(record) {
                self.perform(record, &name, operation).with_context(|| format!("{operation:?} of {name}"))?;
            }
            let_pass(self.pause());
        }
        Ok(())
    }

    /// Mostly slow, so that things live long enough to see faults, and sometimes in haste.
    fn pause(&mut self) -> Duration {
        let is_hasty = self.random.random_bool(0.3);
        Duration::from_millis(if is_hasty { 0 } else { self.random.random_range(200..1500) })
    }

    fn choose(&mut self, record: &mut Record) -> Option<(String, Operation)> {
        let certain = record.applications.iter().filter(|(_, application)| application.doubt.is_none());
        let existing = certain.map(|(name, _)| name.clone()).choose(&mut self.random);
        let is_full = record.applications.len() >= MOST_APPLICATIONS;
        let total: usize = record.applications.values().map(|it| it.instances.len()).sum();
        let Some(name) = existing.filter(|_| is_full || !self.random.random_bool(0.15)) else {
            return (!is_full).then(|| (String::new(), Operation::Create));
        };
        let application = record.applications.get(&name)?;
        let one = application.instances.iter().choose(&mut self.random).copied();
        let operation = match (one, self.random.random_range(0..10)) {
            (Some(number), 0..3) => Operation::Undeploy(number),
            (_, 3) if self.random.random_bool(0.3) => Operation::Delete,
            _ if total < MOST_INSTANCES => Operation::Deploy,
            (Some(number), _) => Operation::Undeploy(number),
            (None, _) => Operation::Delete,
        };
        Some((name, operation))
    }

    fn perform(&mut self, record: &mut Record, name: &str, operation: Operation) -> anyhow::Result<()> {
        let (name, outcome) = if operation == Operation::Create {
            let (name, application) = record.next(self.random.random_bool(0.5));
            let outcome = self.ask("POST", "/api/application/", Some(&application.descriptor(&name)))?;
            if matches!(outcome, Outcome::NotSent) {
                return self.count(&name, operation, &outcome);
            }
            record.applications.insert(name.clone(), application);
            (name, outcome)
        } else {
            // Looked up each time: a user has not more than the names.
            let Ok(Some((application, service))) = self.ids(name) else { return Ok(()) };
            let (method, path) = match operation {
                Operation::Deploy => ("POST", format!("/api/service/{service}/instance")),
                Operation::Undeploy(number) => {
                    ("DELETE", format!("/api/service/{service}/instance/{number}"))
                }
                Operation::Create | Operation::Delete => {
                    ("DELETE", format!("/api/application/{application}"))
                }
            };
            (name.to_owned(), self.ask(method, &path, None)?)
        };
        self.count(&name, operation, &outcome)?;
        let application = record.applications.get_mut(&name).context("an unknown application")?;
        match (outcome, operation) {
            (Outcome::NotSent, _) | (Outcome::Acknowledged(_), Operation::Create) => {}
            (Outcome::Unknown(_), _) => application.doubt = Some(operation),
            (Outcome::Acknowledged(answer), Operation::Deploy) => {
                let number = answer["instance_number"].as_u64().context("no instance number")?;
                ensure!(application.instances.insert(number), "{name} got instance {number} twice");
            }
            (Outcome::Acknowledged(_), Operation::Undeploy(number)) => {
                application.instances.remove(&number);
            }
            (Outcome::Acknowledged(_), Operation::Delete) => {
                record.applications.remove(&name);
            }
        }
        Ok(())
    }

    fn count(&mut self, name: &str, operation: Operation, outcome: &Outcome) -> anyhow::Result<()> {
        let (word, detail) = match outcome {
            Outcome::Acknowledged(_) => ("acknowledged", ""),
            Outcome::NotSent => ("not sent", ""),
            Outcome::Unknown(reason) => ("without answer", reason.as_str()),
        };
        self.timeline.note(format!("    user: {operation:?} of {name}: {word} {detail}"));
        *self.answers.entry((operation.name(), word)).or_insert(0) += 1;
        Ok(())
    }

    /// Ids of the application and the service with this name.
    fn ids(&self, name: &str) -> anyhow::Result<Option<(String, String)>> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let service = self.api.service(name)?;
        Ok(text(&service["applicationID"]).zip(text(&service["microserviceID"])))
    }

    /// Sends one request.
    ///
    /// # Errors
    /// It was refused as wrong, and nothing was wrong with it.
    fn ask(&self, method: &str, path: &str, body: Option<&str>) -> anyhow::Result<Outcome> {
        Ok(match self.api.send(method, path, body) {
            Ok(Page { status: 200..300, body, .. }) => {
                Outcome::Acknowledged(serde_json::from_str(&body).unwrap_or_default())
            }
            Ok(Page { status, body, .. }) if status >= 500 => {
                Outcome::Unknown(format!("{status} {}", body.trim()))
            }
            Ok(page) => bail!("{method} {path} was refused with {}: {}", page.status, page.body),
            Err(error) if format!("{error:#}").contains("Connection refused") => Outcome::NotSent,
            Err(error) => Outcome::Unknown(format!("{error:#}")),
        })
    }
}

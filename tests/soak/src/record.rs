//! What a user knows to be so because it was acknowledged, and what it does not know because no answer came.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use anyhow::{Context as _, ensure};
use oak_e2e::{Microservice, application};
use serde_json::{Value, json};

use crate::observer::{AT_MOST_ONE, RUN, SERVICE};

const IMAGE: &str = "docker.io/library/nginx:latest";
/// The shell stays the first process, because nginx writes over its environment. It ends at once when asked to.
const COMMAND: &str = "trap 'exit 0' TERM QUIT; nginx -g 'daemon off;' & wait";

/// Applications and their instances as somebody saw them.
pub(crate) type Seen = BTreeMap<String, BTreeSet<u64>>;

/// Something a user does with an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Delete,
    Deploy,
    Undeploy(u64),
}

impl Operation {
    /// For counting.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Deploy => "deploy",
            Self::Undeploy(_) => "undeploy",
        }
    }
}

/// An application with one service of the same name.
#[derive(Clone, Debug)]
pub(crate) struct Application {
    pub(crate) index: u32,
    pub(crate) at_most_one: bool,
    /// Acknowledged instances.
    pub(crate) instances: BTreeSet<u64>,
    /// What was asked last and not answered. Nothing more is asked until it is known what became of it.
    pub(crate) doubt: Option<Operation>,
}

impl Application {
    /// Its port on every worker that has an instance.
    pub(crate) fn port(&self) -> u16 {
        20_000 + u16::try_from(self.index % 10_000).unwrap_or(0)
    }

    /// Its service address.
    pub(crate) fn address(&self) -> Ipv4Addr {
        let byte = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
        Ipv4Addr::new(10, 30, 128 + byte(self.index / 250 % 100), 1 + byte(self.index % 250))
    }

    /// The document to create it with.
    pub(crate) fn descriptor(&self, name: &str) -> String {
        let environment = [
            format!("{RUN}={}", std::process::id()),
            format!("{SERVICE}={name}"),
            format!("{AT_MOST_ONE}={}", u8::from(self.at_most_one)),
        ];
        let mut service = Microservice::new(name, IMAGE)
            .set("cmd", json!(["sh", "-c", COMMAND]))
            .set("memory", json!(40))
            .set("environment", json!(environment))
            .set("port", json!(format!("{}:80", self.port())))
            .set("addresses", json!({ "rr_ip": self.address() }));
        if self.at_most_one {
            service = service.set("at_most_one", json!(true));
        }
        application(name, [service])
    }

    /// Whether what somebody saw agrees with what is known; `None` when there was no such application.
    fn agrees(&self, seen: Option<&BTreeSet<u64>>) -> bool {
        match (self.doubt, seen) {
            (Some(Operation::Create), None) | (Some(Operation::Delete), None) => true,
            (_, None) => false,
            (doubt, Some(seen)) => {
                let mut more = seen.difference(&self.instances);
                let mut less = self.instances.difference(seen);
                match (more.next(), more.next(), less.next(), less.next()) {
                    (None, None, None, None) => true,
                    (Some(_), None, None, None) => doubt == Some(Operation::Deploy),
                    (None, None, Some(gone), None) => doubt == Some(Operation::Undeploy(*gone)),
                    _ => false,
                }
            }
        }
    }
}

/// All applications by name.
#[derive(Clone, Default)]
pub(crate) struct Record {
    pub(crate) applications: BTreeMap<String, Application>,
    /// How many were ever made.
    pub(crate) created: u32,
}

/// Short, for messages.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |application: &Application| {
            let mark = if application.at_most_one { "!" } else { "" };
            let doubt = application.doubt.map(|doubt| format!(" and perhaps {doubt:?}"));
            format!("{:?}{mark}{}", application.instances, doubt.unwrap_or_default())
        };
        f.debug_map().entries(self.applications.iter().map(|(name, it)| (name, short(it)))).finish()
    }
}

impl Record {
    /// A new application, which is not created yet, and its name.
    pub(crate) fn next(&mut self, at_most_one: bool) -> (String, Application) {
        self.created += 1;
        let application =
            Application { index: self.created, at_most_one, instances: BTreeSet::new(), doubt: None };
        (format!("soak{}", self.created), application)
    }

    /// Compares what the API shows with what was acknowledged.
    ///
    /// # Errors
    /// An acknowledged write is missing, or something is there that nobody asked for.
    pub(crate) fn agrees(&self, seen: &Seen) -> anyhow::Result<()> {
        for name in seen.keys() {
            ensure!(self.applications.contains_key(name), "{name} is there, which nobody asked for");
        }
        for (name, application) in &self.applications {
            let seen = seen.get(name);
            ensure!(
                application.agrees(seen),
                "{name} has the instances {seen:?}, acknowledged are {:?}, without an answer is {:?}",
                application.instances,
                application.doubt
            );
        }
        Ok(())
    }

    /// What was in doubt is now known to be as it was seen.
    pub(crate) fn settle(&mut self, seen: &Seen) {
        self.applications.retain(|name, application| {
            application.doubt = None;
            let Some(instances) = seen.get(name) else { return false };
            application.instances.clone_from(instances);
            true
        });
    }
}

/// The instances of each service in an answer of the API, and those that it does not call running.
///
/// # Errors
/// The answer is not what the API promises.
pub(crate) fn read_services(answer: &Value) -> anyhow::Result<(Seen, Vec<String>)> {
    let mut seen = BTreeMap::new();
    let mut not_running = Vec::new();
    for service in answer.as_array().context("services are a list")? {
        let name = service["microservice_name"].as_str().context("a service without a name")?;
        let instances = service["instance_list"].as_array().context("no list of instances")?;
        let mut numbers = BTreeSet::new();
        for instance in instances {
            let number = instance["instance_number"].as_u64().context("an instance without a number")?;
            numbers.insert(number);
            let status = instance["status"].as_str().unwrap_or_default();
            let detail = instance["status_detail"].as_str().unwrap_or_default();
            if status != "RUNNING" || detail.contains("not connected") {
                not_running.push(format!("{name}/{number} is {status}: {detail}"));
            }
        }
        seen.insert(name.to_owned(), numbers);
    }
    Ok((seen, not_running))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(instances: &[u64], doubt: Option<Operation>) -> Record {
        let mut record = Record::default();
        let (name, mut application) = record.next(false);
        application.instances = instances.iter().copied().collect();
        application.doubt = doubt;
        record.applications.insert(name, application);
        record
    }

    fn agrees(record: &Record, seen: Option<&[u64]>) -> bool {
        let seen = seen.map(|seen| ("soak1".to_owned(), seen.iter().copied().collect()));
        record.agrees(&seen.into_iter().collect()).is_ok()
    }

    #[test]
    fn without_doubt_only_what_was_acknowledged_agrees() {
        let record = record(&[0, 1], None);
        assert!(agrees(&record, Some(&[0, 1])));
        for wrong in [None, Some(&[][..]), Some(&[0]), Some(&[0, 1, 2]), Some(&[0, 2])] {
            assert!(!agrees(&record, wrong), "{wrong:?}");
        }
        let surprise = BTreeMap::from([("other".to_owned(), BTreeSet::new())]);
        assert!(record.agrees(&surprise).is_err());
    }

    #[test]
    fn an_operation_without_answer_was_done_wholly_or_not_at_all() {
        let deploy = record(&[0], Some(Operation::Deploy));
        assert!(agrees(&deploy, Some(&[0])) && agrees(&deploy, Some(&[0, 4])));
        assert!(!agrees(&deploy, Some(&[0, 4, 5])) && !agrees(&deploy, Some(&[4])) && !agrees(&deploy, None));
        let undeploy = record(&[0, 1], Some(Operation::Undeploy(1)));
        assert!(agrees(&undeploy, Some(&[0])) && agrees(&undeploy, Some(&[0, 1])));
        assert!(!agrees(&undeploy, Some(&[1])));
        let delete = record(&[0, 1], Some(Operation::Delete));
        assert!(agrees(&delete, None) && agrees(&delete, Some(&[0, 1])) && !agrees(&delete, Some(&[0])));
        let create = record(&[], Some(Operation::Create));
        assert!(agrees(&create, None) && agrees(&create, Some(&[])) && !agrees(&create, Some(&[0])));
    }
}

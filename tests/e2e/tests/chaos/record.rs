//! What a user knows to be so because it was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use oak_e2e::{Api, Microservice, Refused, application, eventually, let_pass};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use serde_json::json;

/// Ends at once when it is asked to.
const COMMAND: &str = "trap 'exit 0' TERM; sleep 100000 & wait";

/// Applications by name; each has one service of the same name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    applications: BTreeMap<String, Application>,
    created: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Application {
    instances: BTreeSet<u64>,
}

/// One thing a user does.
#[derive(Clone, Debug)]
enum Operation {
    Create(String),
    Delete(String),
    Deploy(String),
    Undeploy(String, u64),
}

/// The state of an application by the API, if it exists.
type Seen = Option<Application>;

impl Record {
    /// Does random things until all are done or one gets no answer; finds out then what became of that one.
    pub(crate) fn work(
        &mut self,
        api: &Api<'_>,
        image: &str,
        operations: u32,
        random: &mut StdRng,
    ) -> anyhow::Result<()> {
        for _ in 0..operations {
            let operation = self.choose(random);
            let result = self.perform(api, image, &operation);
            if let Err(error) = result {
                // A refusal is an answer: in these operations nothing is wrong.
                if error.downcast_ref::<Refused>().is_some_and(|refused| refused.status < 500) {
                    return Err(error).with_context(|| format!("{operation:?}"));
                }
                self.find_out(api, &operation)?;
            }
            let_pass(Duration::from_millis(random.random_range(0..150)));
        }
        Ok(())
    }

    fn choose(&mut self, random: &mut StdRng) -> Operation {
        let existing = self.applications.keys().choose(random).cloned();
        let Some(name) = existing.filter(|_| !random.random_bool(0.3)) else {
            self.created += 1;
            return Operation::Create(format!("app{}", self.created));
        };
        let running = self.applications.get(&name).map(|application| &application.instances);
        let one = running.and_then(|instances| instances.iter().choose(random).copied());
        match (one, random.random_range(0..10)) {
            (Some(number), 0..3) => Operation::Undeploy(name, number),
            (Some(_), 3..5) => Operation::Delete(name),
            _ => Operation::Deploy(name),
        }
    }

    fn perform(&mut self, api: &Api<'_>, image: &str, operation: &Operation) -> anyhow::Result<()> {
        match operation {
            Operation::Create(name) => {
                let service = Microservice::new(name, image).set("cmd", json!(["sh", "-c", COMMAND]));
                let service = service.set("memory", json!(20));
                api.create(&application(name, [service]))?;
                // Acknowledged: it must be there from now on. Its id is read when there is somebody to ask.
                self.applications.insert(name.clone(), Application::default());
            }
            Operation::Delete(name) => {
                api.delete_application(name)?;
                self.applications.remove(name);
            }
            Operation::Deploy(name) => {
                let number = api.deploy(name)?;
                let entry = self.applications.get_mut(name).context("unknown application")?;
                ensure!(entry.instances.insert(number), "{name} got instance {number} twice");
            }
            Operation::Undeploy(name, number) => {
                api.undeploy(name, i64::try_from(*number)?)?;
                let entry = self.applications.get_mut(name).context("unknown application")?;
                entry.instances.remove(number);
            }
        }
        Ok(())
    }

    /// An operation without an answer was done wholly or not at all.
    fn find_out(&mut self, api: &Api<'_>, operation: &Operation) -> anyhow::Result<()> {
        let (Operation::Create(name)
        | Operation::Delete(name)
        | Operation::Deploy(name)
        | Operation::Undeploy(name, _)) = operation;
        let seen = eventually("the root answers again", Duration::from_secs(60), || see(api, name))?;
        let before = self.applications.get(name).cloned();
        let number = seen.as_ref().and_then(|seen| seen.instances.last().copied());
        let known = |seen: &Seen| seen.as_ref().map(|application| application.instances.clone());
        let mut after = before.clone();
        match operation {
            Operation::Create(_) => after = Some(Application::default()),
            Operation::Delete(_) => after = None,
            Operation::Deploy(_) => {
                let known = after.as_ref().and_then(|application| application.instances.last().copied());
                if let (Some(after), Some(number)) =
                    (after.as_mut(), number.filter(|number| known < Some(*number)))
                {
                    after.instances.insert(number);
                }
            }
            Operation::Undeploy(_, number) => {
                if let Some(after) = after.as_mut() {
                    after.instances.remove(number);
                }
            }
        }
        if known(&seen) != known(&before) && known(&seen) != known(&after) {
            bail!("{operation:?} had no answer and was done halfway: {before:?} became {seen:?}");
        }
        match seen {
            Some(seen) => self.applications.insert(name.clone(), seen),
            None => self.applications.remove(name),
        };
        Ok(())
    }

    /// Succeeds if the API shows exactly what was acknowledged and everything runs; returns where.
    pub(crate) fn equals(&self, api: &Api<'_>) -> anyhow::Result<BTreeMap<String, String>> {
        let mut running = BTreeMap::new();
        let services = api.call("GET", "/api/services/", None)?;
        let services = services.as_array().context("services are a list")?;
        let names: BTreeSet<&str> =
            services.iter().filter_map(|it| it["microservice_name"].as_str()).collect();
        let known: BTreeSet<&str> = self.applications.keys().map(String::as_str).collect();
        ensure!(names == known, "there are {names:?}, acknowledged are {known:?}");
        for service in services {
            let name = service["microservice_name"].as_str().unwrap_or_default();
            let id = service["microserviceID"].as_str().context("a service without an id")?;
            let instances = service["instance_list"].as_array().context("no list of instances")?;
            let numbers: BTreeSet<u64> =
                instances.iter().filter_map(|it| it["instance_number"].as_u64()).collect();
            let acknowledged = self.applications.get(name).map(|it| &it.instances);
            ensure!(
                Some(&numbers) == acknowledged,
                "{name} has {numbers:?}, acknowledged are {acknowledged:?}"
            );
            for instance in instances {
                let (status, detail) =
                    (&instance["status"], instance["status_detail"].as_str().unwrap_or_default());
                let is_current = !detail.contains("not connected");
                ensure!(status == "RUNNING" && is_current, "{name}: {status} {detail}");
                let worker = instance["worker_name"].as_str().unwrap_or_default().to_owned();
                running.insert(format!("{id}.{}", instance["instance_number"]), worker);
            }
        }
        Ok(running)
    }

    /// Deletes what is left.
    pub(crate) fn delete_everything(&mut self, api: &Api<'_>) -> anyhow::Result<()> {
        while let Some((name, _)) = self.applications.pop_first() {
            api.delete_application(&name)?;
        }
        Ok(())
    }
}

fn see(api: &Api<'_>, name: &str) -> anyhow::Result<Seen> {
    if api.find_application(name)?.is_none() {
        return Ok(None);
    }
    let service = api.service(name)?;
    let instances = service["instance_list"].as_array().context("no list of instances")?;
    Ok(Some(Application {
        instances: instances.iter().filter_map(|instance| instance["instance_number"].as_u64()).collect(),
    }))
}

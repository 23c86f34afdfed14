//! What really runs: looked up in the process table of the real machine, without asking oak.
//!
//! Every container of the soak has its name in its environment ([`crate::record`]). A container is told from another one
//! of the same instance by its process namespace.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use oak_e2e::{containers, let_pass};

use crate::site::Machines;

/// Variable with the id of the process that runs the soak: others may run on the same machine.
pub(crate) const RUN: &str = "SOAK_RUN";
/// Variable with the name of the service.
pub(crate) const SERVICE: &str = "SOAK_SERVICE";
/// Variable that is `1` where at most one container of an instance may run.
pub(crate) const AT_MOST_ONE: &str = "SOAK_AT_MOST_ONE";

/// Between two looks.
const EVERY: Duration = Duration::from_millis(40);
/// A longer pause between two looks is counted.
const LONG_PAUSE: Duration = Duration::from_millis(100);

/// A running container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sighting {
    pub(crate) service: String,
    pub(crate) number: u64,
    pub(crate) machine: String,
    /// Name of its cgroup.
    pub(crate) container: String,
    /// Its process namespace.
    pub(crate) namespace: String,
    pub(crate) at_most_one: bool,
    /// One of its processes.
    pub(crate) process: Process,
}

/// A process id that is not mistaken when it is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    started: u64,
}

/// Who a process belongs to.
#[derive(Clone, Debug)]
struct Identity {
    service: String,
    number: u64,
    at_most_one: bool,
    namespace: String,
}

/// Figures about the looks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Looks {
    pub(crate) count: u64,
    pub(crate) longest_pause: Duration,
    pub(crate) long_pauses: u64,
    pub(crate) most_containers: usize,
    /// Looks that showed an instance twice which may be there twice for a while.
    pub(crate) permitted_doubles: u64,
}

/// Watches the machines from the real one.
#[derive(Debug)]
pub(crate) struct Observer<'host> {
    machines: &'host Machines,
    known: Mutex<HashMap<Process, Identity>>,
    looks: Mutex<Looks>,
    violation: Mutex<Option<String>>,
    stop: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'host> Observer<'host> {
    pub(crate) fn new(machines: &'host Machines) -> Self {
        Self {
            machines,
            known: Mutex::default(),
            looks: Mutex::default(),
            violation: Mutex::default(),
            stop: AtomicBool::new(false),
        }
    }

    /// Looks again and again until [`Observer::stop`].
    pub(crate) fn watch(&self) {
        let mut last = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            let seen = self.look();
            let doubles = doubles(&seen);
            for (first, second) in &doubles {
                // The looks at both were not at the same time: who was seen first must still be there now.
                if first.at_most_one && second.process.is_alive() && first.process.is_alive() {
                    let text = format!(
                        "two containers of {}/{}, of which at most one may run: {first:?} and {second:?}",
                        first.service, first.number
                    );
                    lock(&self.violation).get_or_insert(text);
                }
            }
            let pause = last.elapsed();
            last = Instant::now();
            let mut looks = lock(&self.looks);
            looks.count += 1;
            looks.longest_pause = looks.longest_pause.max(pause);
            looks.long_pauses += u64::from(pause > LONG_PAUSE);
            looks.most_containers = looks.most_containers.max(seen.len());
            looks.permitted_doubles += u64::from(doubles.iter().any(|(first, _)| !first.at_most_one));
            drop(looks);
            let_pass(EVERY);
        }
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// The first thing seen that must not be.
    pub(crate) fn violation(&self) -> Option<String> {
        lock(&self.violation).clone()
    }

    pub(crate) fn looks(&self) -> Looks {
        *lock(&self.looks)
    }

    /// All containers that run now on the machines of the workers.
    pub(crate) fn look(&self) -> Vec<Sighting> {
        let mut seen = Vec::new();
        let mut alive = Vec::new();
        let mut known = lock(&self.known);
        for host in self.machines.workers() {
            // Without cgroups there are no containers.
            for (container, pids) in containers(host).unwrap_or_default() {
                let mut found: BTreeMap<String, Sighting> = BTreeMap::new();
                for process in pids.into_iter().filter_map(Process::find) {
                    let identity = match known.get(&process) {
                        Some(identity) => identity.clone(),
                        None => match Identity::of(process.pid) {
                            Some(identity) => known.entry(process).or_insert(identity).clone(),
                            None => continue,
                        },
                    };
                    alive.push(process);
                    found.entry(identity.namespace.clone()).or_insert_with(|| Sighting {
                        service: identity.service,
                        number: identity.number,
                        machine: host.name().to_owned(),
                        container: container.clone(),
                        namespace: identity.namespace,
                        at_most_one: identity.at_most_one,
                        process,
                    });
                }
                seen.extend(found.into_values());
            }
        }
        let alive: BTreeSet<Process> = alive.into_iter().collect();
        known.retain(|process, _| alive.contains(process));
        seen
    }

    /// Processes of containers anywhere on the real machine that are in none of the containers' cgroups.
    pub(crate) fn strays(&self, seen: &[Sighting]) -> Vec<String> {
        let namespaces: BTreeSet<&str> = seen.iter().map(|sighting| sighting.namespace.as_str()).collect();
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse::<i32>().ok());
        pids.filter_map(|pid| {
            Process::find(pid)?;
            let identity = Identity::of(pid)?;
            let is_stray = !namespaces.contains(identity.namespace.as_str());
            is_stray.then(|| format!("process {pid} of {}/{}", identity.service, identity.number))
        })
        .collect()
    }
}

/// Pairs of containers of the same instance.
fn doubles(seen: &[Sighting]) -> Vec<(Sighting, Sighting)> {
    let mut first_of: BTreeMap<(&str, u64), &Sighting> = BTreeMap::new();
    let mut doubles = Vec::new();
    for sighting in seen {
        match first_of.get(&(sighting.service.as_str(), sighting.number)) {
            Some(first) => doubles.push(((*first).clone(), sighting.clone())),
            None => drop(first_of.insert((&sighting.service, sighting.number), sighting)),
        }
    }
    doubles
}

impl Process {
    /// The living process with this id.
    fn find(pid: i32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in brackets may contain anything; state and further fields follow the last bracket (proc_pid_stat(5)).
        let mut fields = text.rsplit_once(')')?.1.split_whitespace();
        let is_dead = matches!(fields.next()?, "Z" | "X");
        let started = fields.nth(18)?.parse().ok()?;
        (!is_dead).then_some(Self { pid, started })
    }

    fn is_alive(self) -> bool {
        Self::find(self.pid) == Some(self)
    }
}

impl Identity {
    /// Who a process is by its environment; `None` if it is no process of a container of ours.
    fn of(pid: i32) -> Option<Self> {
        let directory = Path::new("/proc").join(pid.to_string());
        let environment = fs::read(directory.join("environ")).ok()?;
        let environment: HashMap<String, String> = environment
            .split(|byte| *byte == 0)
            .filter_map(|entry| {
                let (name, value) = std::str::from_utf8(entry).ok()?.split_once('=')?;
                Some((name.to_owned(), value.to_owned()))
            })
            .collect();
        if environment.get(RUN)? != &std::process::id().to_string() {
            return None;
        }
        let namespace = fs::read_link(directory.join("ns/pid")).ok()?;
        Some(Self {
            service: environment.get(SERVICE)?.clone(),
            number: environment.get("HOSTNAME")?.strip_prefix("instance-")?.parse().ok()?,
            at_most_one: environment.get(AT_MOST_ONE).is_some_and(|value| value == "1"),
            namespace: namespace.to_string_lossy().into_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use oak_e2e::{eventually, soon};

    use super::*;

    #[test]
    fn a_process_is_recognised_by_its_environment_until_it_ends() {
        let mut child = Command::new("sleep")
            .arg("1000")
            .env(RUN, std::process::id().to_string())
            .env(SERVICE, "soak1")
            .env("HOSTNAME", "instance-3")
            .env(AT_MOST_ONE, "1")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let found = eventually("the process has its environment", soon(), || {
            Identity::of(pid).ok_or_else(|| anyhow::anyhow!("not yet"))
        });
        let process = Process::find(pid);
        child.kill().unwrap();
        child.wait().unwrap();
        let found = found.unwrap();
        assert_eq!((found.service.as_str(), found.number, found.at_most_one), ("soak1", 3, true));
        assert!(!process.unwrap().is_alive());
        assert!(Identity::of(1).is_none());
    }

    #[test]
    fn only_containers_of_the_same_instance_are_doubles() {
        let sighting = |number, namespace: &str| Sighting {
            service: "soak1".to_owned(),
            number,
            machine: "worker-a".to_owned(),
            container: format!("x.{number}"),
            namespace: namespace.to_owned(),
            at_most_one: true,
            process: Process { pid: 1, started: 1 },
        };
        assert!(doubles(&[sighting(0, "a"), sighting(1, "b")]).is_empty());
        assert_eq!(doubles(&[sighting(0, "a"), sighting(0, "b")]).len(), 1);
    }
}

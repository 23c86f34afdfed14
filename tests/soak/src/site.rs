//! The machines and what runs on them.

use std::collections::BTreeMap;

use anyhow::Context as _;
use oak_e2e::{Api, Host, Oak, World};

use crate::disk::Disk;
use crate::role::{CLUSTERS, Role};

/// The machines, each on a cable of its own.
#[derive(Debug)]
pub(crate) struct Machines {
    hosts: BTreeMap<Role, Host>,
    disks: BTreeMap<Role, Disk>,
}

impl Machines {
    pub(crate) fn create(world: &World) -> anyhow::Result<Self> {
        // All disks first: every machine begins with a copy of the mounts, also at later boots.
        let mut disks = BTreeMap::new();
        for role in Role::all() {
            if let Some(size) = role.small_disk() {
                let path = world.directory().join(role.to_string()).join("data");
                disks.insert(role, Disk::mount(&path, size)?);
            }
        }
        let mut hosts = BTreeMap::new();
        for role in Role::all() {
            hosts.insert(role, world.host_on_cable(&role.to_string(), role.number())?);
        }
        Ok(Self { hosts, disks })
    }

    pub(crate) fn host(&self, role: Role) -> anyhow::Result<&Host> {
        self.hosts.get(&role).with_context(|| format!("there is no {role}"))
    }

    /// The machines of the workers.
    pub(crate) fn workers(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(|(role, _)| matches!(role, Role::Worker(_))).map(|(_, host)| host)
    }

    pub(crate) fn disk(&self, role: Role) -> anyhow::Result<&Disk> {
        self.disks.get(&role).with_context(|| format!("{role} has no small disk"))
    }

    pub(crate) fn small_disks(&self) -> Vec<Role> {
        self.disks.keys().copied().collect()
    }
}

/// The processes on the machines.
#[derive(Debug)]
pub(crate) struct Site<'host> {
    oaks: BTreeMap<Role, Oak<'host>>,
}

impl<'host> Site<'host> {
    /// Starts everything and joins it with tokens.
    pub(crate) fn start(world: &World, machines: &'host Machines, api: &Api<'_>) -> anyhow::Result<Self> {
        let mut oaks = BTreeMap::new();
        for role in Role::all() {
            let name = role.to_string();
            let address = |role: Role| Ok::<_, anyhow::Error>(machines.host(role)?.address().to_string());
            let (words, ready) = match role {
                Role::Root => (vec!["root".to_owned()], "root ready"),
                Role::Cluster(_) => {
                    let token = api.token("cluster", None, 600)?;
                    (
                        words("cluster", "--root", &address(Role::Root)?, &name, &token),
                        "connected to the root",
                    )
                }
                Role::Worker(index) => {
                    let cluster = Role::Cluster(index % CLUSTERS);
                    let token = api.token("worker", Some(&cluster.to_string()), 600)?;
                    let parent = address(cluster)?;
                    (words("worker", "--cluster", &parent, &name, &token), "connected to the cluster")
                }
            };
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let mut oak = world.oak(machines.host(role)?, &words)?;
            oak.start_until(ready)?;
            oaks.insert(role, oak);
        }
        Ok(Self { oaks })
    }

    pub(crate) fn oak(&mut self, role: Role) -> anyhow::Result<&mut Oak<'host>> {
        self.oaks.get_mut(&role).with_context(|| format!("there is no {role}"))
    }

    pub(crate) fn oaks(&self) -> impl Iterator<Item = (Role, &Oak<'host>)> {
        self.oaks.iter().map(|(role, oak)| (*role, oak))
    }
}

fn words(role: &str, parent: &str, address: &str, name: &str, token: &str) -> Vec<String> {
    [role, parent, address, "--name", name, "--token", token].map(str::to_owned).to_vec()
}

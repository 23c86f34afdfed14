//! Harness of the end-to-end tests: the real program, real containers, a real registry, several machines.
//!
//! A machine is a [`Host`]: a set of namespaces (network, processes, mounts, cgroups, host name) behind one virtual
//! cable to a switch. When its first process ends, the kernel ends everything in it, so nothing survives a test,
//! not even a killed one. What is shared with the machine that runs the tests: files and the kernel.
//!
//! ```text
//! World ── switch (bridge, registry) ──┬── Host "root"    ── Oak (oak root …)
//!                                      ├── Host "cluster" ── Oak (oak cluster …)
//!                                      └── Host "worker"  ── Oak (oak worker …) ── containers
//! ```
//!
//! * [`World::run`] is the frame of every scenario: one at a time, a fresh directory, kept when the scenario fails.
//! * [`Host`] can be switched off and on, runs commands, tells which processes, mounts, devices, rules and cgroups it has ([`Footprint`]).
//! * [`Inside`] is the network of an instance, to send from it what no program in it can.
//! * [`Stream`] is a connection between two instances on which bytes go all the time, in both directions.
//! * [`Router`] is a site behind a NAT.
//! * [`Cable`] is a bad line of a machine: slow, lossy, cut.
//! * [`Oak`] is one running `oak`: killed, ended and started again at will.
//! * [`Api`] speaks to a root as a client on its machine would, without any code of the product.
//! * [`Watch`] asks for a page all the time and knows when nobody answered.
//! * [`eventually`] waits for a condition. Nothing here waits for a time.
//!
//! Environment: `OAK_BINARY` is the program under test, `OAK_E2E_LOG` its log filter. A failed scenario prints where
//! its files are: `e2e/<scenario>` in cargo's output directory.

mod api;
mod cable;
mod cgroup;
mod descriptor;
mod footprint;
mod host;
mod http;
mod inside;
mod oak;
mod process;
mod pypi;
mod router;
mod stream;
mod tiers;
mod transfer;
mod variant;
mod wait;
mod watch;
mod world;

pub use api::{Api, Instance, Refused};
pub use cable::{Cable, Conditions, Counters, Direction, Passage};
pub use cgroup::{container_cgroups, containers, cpu_time, favour, processes_of};
pub use descriptor::{IDLE, Microservice, application};
pub use footprint::Footprint;
pub use host::{Families, Host, Output};
pub use http::{Page, get, request};
pub use inside::{Echo, Inside};
pub use oak::Oak;
pub use process::{is_alive, resident_kib};
pub use pypi::install;
pub use router::{Nat, Router};
pub use stream::Stream;
pub use tiers::{CLUSTER, Machines, Tiers};
pub use transfer::{encrypted_bytes, while_transferring};
pub use wait::{eventually, let_pass, pause, soon};
pub use watch::{Answer, Watch};
pub use world::World;

/// The descriptor of the manual, unchanged: a `curl` client and an `nginx` server behind `10.30.55.55`.
pub const CURL_APPLICATION: &str = include_str!("../fixtures/deploy_curl_application.json");

//! Network of one worker node: a namespace per instance, service addresses decided in the kernel, host
//! ports, the way to other nodes, and nothing left when it is taken down.
//!
//! ```text
//!  namespace           host
//!  ┌──────────┐  veth  ┌──────────────┐  route 10.18.0.2/32
//!  │ eth0     ├────────┤ oak0-1f0c9a… ├──────┐            ┌── eth0 of the host
//!  │ 10.18.0.2│        └──────────────┘      ├─ forward ──┤
//!  └──────────┘        ┌──────────────┐      │            └── other instances
//!                      │ oak0         ├──────┘
//!                      │ 10.18.0.1/25 │  routes 10.18.0.0/25, 10.30.0.0/16: nobody there, refused
//!                      └──────────────┘
//!                      ┌──────────────┐  TUN of the agent
//!                      │ oak0u        ├──── calls to unknown addresses wait
//!                      └──────────────┘  route 10.30.0.0/16 while the agent runs
//!                      ┌──────────────┐  TUN of whoever encrypts
//!                      │ oak0e        ├──── a node that encrypts, subnet 10.18.0.128/25
//!                      └──────────────┘  route 10.18.0.128/25
//!                      ┌──────────────┐  VXLAN, UDP port 50104; oak0v for nodes that have only IPv6
//!                      │ oak0t        ├──── a node that does not: 192.0.2.13, subnet 10.18.1.0/25
//!                      └──────────────┘  route 10.18.1.0/25 via 10.18.1.1
//! ```
//!
//! The bridge `oak0` has no ports: it is the gateway's address and the route to service addresses. Each
//! instance hangs on a *routed* veth pair with permanent neighbour entries, so there is no layer 2
//! between instances, no ARP, and no dependence on `br_netfilter` (see `links`).
//!
//! One nftables table holds all rules. Each change is one transaction: of what differs, of everything
//! at the start and when that fails:
//!
//! ```text
//!  from a device ─► guard ─► prerouting ───────────────► forward ──────────► postrouting
//!                   raw      @tenants   who may call it   refuse if to oak0   instance → its 10.30 address
//!                   forged   @services  10.30.0.1 → turn  from_instances      host → 10.18.0.1
//!                   127/8    @instances 10.30.1.2 → 1:1   to_parking          egress → masquerade
//!                   ::1, ff  @tcp_ports, @udp_ports       from_tunnel         others to oak0e, t, v → 10.18.0.1
//!                            (local addresses only)       to_instances        strays: unconnected nodes
//!                                                         else refuse
//!  from the host ─► output (same maps) ─► host: refuse what is still 10.30 and not for oak0u
//! ```
//!
//! * A service's flow is sent to the next backend in turn by `numgen`, or by its caller with `jhash`, and connection tracking
//!   keeps it there: any protocol, ICMP and fragments included. The server sees the client's *instance address*
//!   (as in the original Oakestra), the client sees the address it called. Answers to an instance address
//!   come back through the gateway, which also makes calls to oneself work.
//! * An instance calls what its tenant reaches ([`Tenant`]): a map leads from its address to the chain of the tenant, a set
//!   there says whether the address it calls is translated. What it does not reach is refused if it is somebody's (`@owned`).
//!   The host may call everything.
//! * An address without ready backend is refused at once (TCP reset, ICMP unreachable). So is a namespace
//!   address called directly, and whatever tries to reach an instance from outside without a port.
//! * Port 53 of the gateway is the name server of the node (crate `dns`): instances and the host reach it, an
//!   application that has host port 53 does not take it over, and nobody else gets there.
//! * Host ports match addresses of this host only, from anywhere including the host and 127.0.0.1.
//!   Callers from outside keep their source address.
//! * When a backend is gone its tracked flows are forgotten; one that is merely not ready finishes its
//!   TCP connections.
//!
//! * Backends may be on other nodes ([`NodeNetwork::set_peers`]). The client's node chooses the backend;
//!   between nodes packets carry namespace addresses, and the server's node shows its instance the
//!   client's instance address (its namespace address, if nobody told of it). The host is seen as its node's
//!   gateway. From a tunnel only packets from a subnet that is routed there pass, and only to
//!   instances of this node: another node reaches neither the host nor its name server, ports or
//!   networks. Instances cannot send to the tunnels' ports. To a node that encrypts ([`Way::Encrypted`]) packets go to
//!   a device that somebody else made, and that lets in only what it has decrypted. VXLAN ([`Way::Plain`]) believes the
//!   underlay network: who can send UDP packets to its port can speak as any node that is reached by it.
//! * An address that is not in the table at all is unknown: calls by instances and the host go to the
//!   device `oak0u`, which is the agent's, and wait there for up to 2 s while [`NodeNetwork::next_unknown`]
//!   tells of them. [`NodeNetwork::apply`] with the address sends them on, or has them refused if it has no
//!   ready backend (`@refused`). Else the caller hears that the host is unreachable. Without an agent the
//!   device is not there, and unknown addresses are refused at once by way of `oak0`.
//!
//! Life cycle: [`NodeNetwork::open`] makes or adopts; an agent may die at any instant, because an instance's
//! record is written before its devices and the device's alias, set last, says that it is whole.
//! Rules outlive the agent. [`teardown`] removes everything without an agent. All of it happens in
//! the network namespace of the thread that calls `open`.
//!
//! Everything has an IPv6 address that follows from its IPv4 address (`oak_model::ipv6`), as far as this host has IPv6: the same
//! rules stand in the table a second time, and callers of this crate speak of IPv4 addresses only.
//!
//! This crate does not allocate addresses, and asks other nodes only how far they are
//! ([`NodeNetwork::round_trips`]).

mod check;
mod config;
mod content;
mod echo;
mod error;
mod firewall;
mod flows;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod holder;
mod host;
mod links;
mod look;
mod names;
mod namespace;
mod netlink;
mod nft;
mod node;
mod park;
mod parking;
mod peers;
mod record;
mod ruleset;
mod share;
mod sys;
mod sysctl;
mod table;
mod teardown;
mod thread;

pub use config::NetworkConfig;
pub use error::{ErrorList, NetworkError};
pub use firewall::Applied;
pub use holder::{PortHolder, port_holder};
pub use links::Attached;
pub use look::{Choice, Chosen, Fate, Look, Rules};
pub use names::{encrypted_name, kernel_name, plain_name, plain6_name};
pub use namespace::run_in;
pub use node::{Attach, NodeNetwork};
pub use park::Unknown;
pub use peers::{Peer, PeerProblem, Way, is_host};
pub use table::{
    Balancing, InstanceAddress, PortMapping, PortProtocol, Service, ServiceTable, TableProblem, Tenant,
};
pub use teardown::teardown;

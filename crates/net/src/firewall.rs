//! The nftables table of the node: what is loaded, and loading what should be. Blocking, on one thread.

use std::net::Ipv4Addr;

use tokio::sync::mpsc::Receiver;
use tracing::{debug, warn};

use crate::check::CheckedTable;
use crate::config::NetworkConfig;
use crate::error::{NetworkError, Tried};
use crate::flows::{FlowJudge, may_strand_flows};
use crate::host::Start;
use crate::names::{parking_name, tunnel_names};
use crate::netlink::conntrack::{self, Flow};
use crate::netlink::{Socket, rules};
use crate::nft;
use crate::park::Unknown;
use crate::parking::Parking;
use crate::ruleset::{change, render};
use crate::table::{ServiceTable, TableProblem};

/// What became of a service table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Whether the kernel was told anything; false if it knew all this.
    pub changed: bool,
    /// Entries left out; everything else is in force.
    pub problems: Vec<TableProblem>,
    /// Tracked flows that were forgotten because their backend is gone.
    pub forgotten_flows: usize,
}

/// Owner of the nftables table.
#[derive(Debug)]
pub(crate) struct Firewall {
    config: NetworkConfig,
    socket: Socket,
    /// Table of the last transaction of this process; none after a restart.
    loaded: Option<CheckedTable>,
    /// None if this host cannot.
    parking: Option<Parking>,
    notes: Vec<String>,
}

impl Firewall {
    /// Leaves an adopted table as it is, so that services work until the first `apply` of a restarted
    /// agent; makes an empty one otherwise.
    ///
    /// Also returns where unknown addresses are told, which is nowhere on a host without TUN devices.
    pub(crate) fn open(
        config: &NetworkConfig,
        start: Start,
    ) -> Result<(Self, Option<Receiver<Unknown>>), NetworkError> {
        let socket = Socket::netfilter().tried(|| "open a netfilter socket".to_owned())?;
        let mut firewall =
            Self { config: config.clone(), socket, loaded: None, parking: None, notes: Vec::new() };
        if start == Start::Fresh || !firewall.is_loaded() {
            let rules = render(config, &CheckedTable::default());
            nft::run(&rules, "make the table")?;
        }
        match Parking::open(config) {
            Ok((parking, unknown)) => {
                firewall.parking = Some(parking);
                Ok((firewall, Some(unknown)))
            }
            Err(error) => {
                let trouble = "calls to addresses that are not known yet are refused instead of waiting";
                let remedy = "/dev/net/tun is needed (modprobe tun)";
                let device = parking_name(&config.bridge);
                firewall.notes.push(format!("cannot make device {device} ({error}): {trouble}; {remedy}"));
                Ok((firewall, None))
            }
        }
    }

    /// What on this host gets in the way; for people.
    pub(crate) fn notes(&mut self) -> Vec<String> {
        let NetworkConfig { bridge, tunnel_port, encrypted_port, kernel_port, .. } = &self.config;
        let mut notes = self.notes.clone();
        let tunnels = tunnel_names(bridge).join(", ");
        let forward = format!(
            "drops forwarded packets by default; instances reach nothing unless it accepts input and output devices \
             {bridge}-*, and no other worker unless it accepts devices {tunnels}"
        );
        let input = format!(
            "drops packets to this host by default; instances find no names unless it accepts udp and tcp port 53 of \
             input devices {bridge}-*, and other workers do not get through unless it accepts udp ports \
             {encrypted_port}, {tunnel_port} and {kernel_port}"
        );
        for (hook, trouble) in [(rules::FORWARD, forward), (rules::INPUT, input)] {
            let chains = rules::dropping_chains(&mut self.socket, hook).unwrap_or_default();
            let foreign =
                chains.into_iter().filter(|chain| !chain.starts_with(&format!("{}/", self.config.table)));
            notes.extend(foreign.map(|chain| format!("chain {chain} {trouble}")));
        }
        notes
    }

    /// Brings the kernel to `table` in one transaction, if it is not there already.
    pub(crate) fn apply(&mut self, table: &ServiceTable) -> Result<Applied, NetworkError> {
        let (checked, problems) = table.check(&self.config)?;
        // Somebody may have flushed all rules of the host; then ours must come back.
        let is_there = self.is_loaded();
        if self.loaded.as_ref() == Some(&checked) && is_there {
            return Ok(Applied { problems, ..Applied::default() });
        }
        self.load(self.loaded.as_ref().filter(|_| is_there), &checked)?;
        let before = self.loaded.take();
        let forgotten_flows = if may_strand_flows(before.as_ref(), &checked) {
            let config = self.config.clone();
            let judge = FlowJudge::new(&config, &checked);
            self.forget(|flow| judge.is_stale(flow))
        } else {
            0
        };
        if let Some(parking) = &self.parking {
            parking.release(checked.known_addresses(), checked.refused_to_some());
        }
        self.loaded = Some(checked);
        Ok(Applied { changed: true, problems, forgotten_flows })
    }

    /// Tells the kernel the difference, or everything if that does not work: somebody may have changed our table.
    fn load(&self, former: Option<&CheckedTable>, checked: &CheckedTable) -> Result<(), NetworkError> {
        if let Some(former) = former {
            let change = change(&self.config, former, checked);
            if change.is_empty() {
                return Ok(());
            }
            match nft::run(&change, "change the table") {
                Ok(()) => return Ok(()),
                Err(error) => warn!(%error, "the table is made anew"),
            }
        }
        nft::run(&render(&self.config, checked), "replace the table")
    }

    /// Forgets every flow of an address that is free now, so that its next owner starts clean.
    pub(crate) fn forget_address(&mut self, address: Ipv4Addr) {
        self.forget(|flow| flow.original.source == address || flow.reply.source == address);
    }

    fn is_loaded(&mut self) -> bool {
        rules::has_table(&mut self.socket, &self.config.table).unwrap_or(false)
    }

    /// New rules are in force whether or not this works; old flows would end by time-out.
    fn forget(&mut self, is_stale: impl FnMut(&Flow) -> bool) -> usize {
        match conntrack::forget(&mut self.socket, is_stale) {
            Ok(0) => 0,
            Ok(count) => {
                debug!(count, "forgot flows of removed backends");
                count
            }
            Err(error) => {
                warn!(%error, "cannot forget flows of removed backends");
                0
            }
        }
    }
}

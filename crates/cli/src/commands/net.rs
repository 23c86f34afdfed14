//! `oak net`: the network of the worker on this machine: what each pair of workers uses, where a packet goes, and what an
//! instance sends and receives. Speaks to nobody: it reads what the worker stored and what the kernel has.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use clap::{Args, Subcommand};
use oak_model::chain;
use oak_worker::inspect::{
    AddressState, BackendState, InspectError, Inspection, KernelState, NetworkStatus, PathKind, PeerState,
    RelayState, ServiceState, WayState,
};

use super::backup::data_directory;
use super::{EXIT_FAILURE, Failure};
use crate::config::{Config, Override};
use crate::output::{Cell, Format, Output, Table, Tone};

/// What to look at.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Directory of the state
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<String>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Clone, Debug)]
enum Action {
    /// Show how other workers are reached and why, and the services this one knows
    Status {
        /// Form of the listing
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Explain where a packet of an instance goes, and where it stops
    Trace {
        /// Instance of this worker: service, `service.number`, full name or address
        instance: String,
        /// Address or name it is sent to
        to: String,
        /// Form of the listing
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Replace the key of this worker for packets of other workers; traffic goes on
    RotateKey,
    /// Show the packets of an instance with tcpdump; ends with Ctrl-C
    Capture {
        /// Instance of this worker: service, `service.number`, full name or address
        instance: String,
        /// What to show, in the language of tcpdump
        #[arg(trailing_var_arg = true)]
        filter: Vec<String>,
        /// End after so many packets
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        count: Option<u32>,
        /// Write them to a file instead
        #[arg(short, long, value_name = "FILE")]
        write: Option<PathBuf>,
    },
}

impl Arguments {
    /// The settings that flags give.
    pub(crate) fn overrides(&self) -> Vec<Override> {
        data_directory(self.data_dir.as_ref())
    }

    /// Looks and prints.
    pub(crate) fn run(self, config: &Config, output: &mut Output<'_>) -> Result<(), Failure> {
        if !rustix::process::geteuid().is_root() {
            return Err(Failure::new(EXIT_FAILURE, "only root sees the network of a worker").hint("use sudo"));
        }
        let directory = config.data_dir.join("worker");
        let inspection = || Inspection::open(&directory).map_err(failure);
        match self.action {
            Action::RotateKey => rotate_key(&directory, output),
            Action::Status { output: format } => {
                let status = inspection()?.status().map_err(failure)?;
                if format == Format::Json { Ok(output.json(&[status])?) } else { show(&status, output) }
            }
            Action::Trace { instance, to, output: format } => {
                trace(&inspection()?, &instance, &to, format, output)
            }
            Action::Capture { instance, filter, count, write } => {
                let instance = inspection()?.instance(&instance).map_err(failure)?;
                let arguments = tcpdump_arguments(&filter, count, write.as_deref());
                output.say(format_args!("packets of {} ({})", instance.name, instance.address))?;
                capture(&instance.namespace, &arguments)
            }
        }
    }
}

fn rotate_key(directory: &Path, output: &mut Output<'_>) -> Result<(), Failure> {
    oak_worker::request_key_rotation(directory).map_err(|error| {
        Failure::new(EXIT_FAILURE, format!("cannot ask the worker in {} for a new key", directory.display()))
            .cause(error.to_string())
            .hint("--data-dir or OAK_DATA_DIR names another data directory")
    })?;
    output.say("the worker makes a new key within a second, or when it starts; `oak net status` shows it")?;
    Ok(())
}

fn failure(error: InspectError) -> Failure {
    let message = chain(&error);
    match error {
        InspectError::NotOne { .. } | InspectError::NotAttached { .. } => Failure::not_found(message),
        InspectError::NoNetwork { .. } => Failure::new(EXIT_FAILURE, message)
            .hint("--data-dir or OAK_DATA_DIR names another data directory"),
        InspectError::Store(_) | InspectError::Corrupt(_) | InspectError::Network(_) => {
            Failure::new(EXIT_FAILURE, message)
        }
    }
}

fn trace(
    inspection: &Inspection,
    instance: &str,
    to: &str,
    format: Format,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let instance = inspection.instance(instance).map_err(failure)?;
    let trace = inspection.trace(&instance, to).map_err(failure)?;
    if format == Format::Json {
        return Ok(output.json(&[trace])?);
    }
    for step in &trace.steps {
        output.line(format_args!("{:<9} {}", step.about, step.text))?;
    }
    output.line(if trace.arrives { "it gets there" } else { "it does not get there" })?;
    Ok(())
}

fn show(status: &NetworkStatus, output: &mut Output<'_>) -> Result<(), Failure> {
    let outside = status.outside.map_or_else(
        || "no NAT towards its cluster".to_owned(),
        |address| format!("seen by its cluster as {address}"),
    );
    output.line(format_args!("this worker has {}; {outside}", list(&status.subnets)))?;
    if let Some(key) = status.public_key {
        output.line(format_args!("its key is {key}"))?;
    }
    for relay in &status.relays {
        output.line(relay_line(relay))?;
    }
    if let Some(KernelState::Missing(why)) = &status.kernel {
        output.line(format_args!("its kernel does not encrypt: {why}"))?;
    }
    output.line("")?;
    let mut peers = Table::new(&[
        "WORKER",
        "SUBNET",
        "KEY",
        "WAY",
        "PATH",
        "SEEN AS",
        "RTT",
        "HANDSHAKE",
        "SENT",
        "RECEIVED",
        "WHY",
    ]);
    for peer in &status.peers {
        peers.row(peer_row(peer));
    }
    output.table(&peers)?;
    output.line("")?;
    let mut addresses = Table::new(&["SERVICE", "ADDRESS", "IPV6", "POLICY", "INSTANCES"]);
    for service in &status.services {
        for address in &service.addresses {
            addresses.row(address_row(service, address));
        }
    }
    output.table(&addresses)?;
    output.line("")?;
    let mut backends = Table::new(&["SERVICE", "INSTANCE", "ADDRESS", "WORKER", "READY", "WHY"]);
    for service in &status.services {
        for backend in &service.backends {
            backends.row(backend_row(service, backend));
        }
    }
    output.table(&backends)?;
    Ok(())
}

fn list(subnets: &[impl ToString]) -> String {
    subnets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn relay_line(relay: &RelayState) -> String {
    let state = if relay.is_registered { "passes packets on" } else { "does not answer" };
    let seen = relay.seen_as.map(|address| format!("; it sees this worker as {address}"));
    format!("relay {} {state}{}", relay.address, seen.unwrap_or_default())
}

fn peer_row(peer: &PeerState) -> [Cell; 11] {
    let way = match peer.way {
        WayState::Encrypted => Cell::toned("encrypted", Tone::Good),
        WayState::Plain => Cell::toned("plain", Tone::Pending),
        WayState::None => Cell::toned("none", Tone::Bad),
    };
    let path = match (peer.path, peer.path_kind) {
        (Some(address), Some(PathKind::Straight)) if peer.in_kernel => format!("{address} straight, kernel"),
        (Some(address), Some(PathKind::Straight)) => format!("{address} straight"),
        (Some(address), Some(PathKind::Relay)) => format!("{address} relay"),
        (Some(address), None) => address.to_string(),
        (None, _) => String::new(),
    };
    let ago = |ms: u64| format!("{} s ago", ms / 1000);
    let bytes = |bytes: Option<u64>| bytes.map(|bytes| bytes.to_string()).unwrap_or_default();
    [
        peer.worker.to_string().into(),
        list(&peer.subnets).into(),
        peer.public_key.map(|key| short(&key.to_string())).unwrap_or_default().into(),
        way,
        path.into(),
        seen_as(peer).into(),
        peer.round_trip_us.map(|us| format!("{}.{:03} ms", us / 1000, us % 1000)).unwrap_or_default().into(),
        peer.last_handshake_ms.map(ago).unwrap_or_default().into(),
        bytes(peer.sent_bytes).into(),
        bytes(peer.received_bytes).into(),
        peer.why.as_str().into(),
    ]
}

/// Enough of a key to tell it from others.
fn short(key: &str) -> String {
    key.chars().take(8).chain(['…']).collect()
}

/// Where relays and its cluster see a worker.
fn seen_as(peer: &PeerState) -> String {
    let ports = peer.seen_as.iter().map(ToString::to_string);
    let is_new = |address: &IpAddr| peer.seen_as.iter().all(|seen| seen.ip() != *address);
    let outside = peer.outside.filter(is_new).map(|address| address.to_string());
    ports.chain(outside).collect::<Vec<_>>().join(", ")
}

fn address_row(service: &ServiceState, address: &AddressState) -> [Cell; 5] {
    let chosen: Vec<String> = address.chosen.iter().map(ToString::to_string).collect();
    let chosen = if chosen.is_empty() { "none".to_owned() } else { chosen.join(", ") };
    [
        service.name.as_str().into(),
        address.address.to_string().into(),
        address.ipv6.to_string().into(),
        address.policy.name().into(),
        chosen.into(),
    ]
}

fn backend_row(service: &ServiceState, backend: &BackendState) -> [Cell; 6] {
    let ready =
        if backend.is_ready { Cell::toned("yes", Tone::Good) } else { Cell::toned("no", Tone::Pending) };
    [
        service.name.as_str().into(),
        backend.number.into(),
        backend.instance_address.to_string().into(),
        backend.worker.map_or_else(|| "here".to_owned(), |worker| worker.to_string()).into(),
        ready,
        backend.why.as_str().into(),
    ]
}

/// Arguments of tcpdump: names are not looked up, because the questions would be packets of the instance.
fn tcpdump_arguments(filter: &[String], count: Option<u32>, write: Option<&Path>) -> Vec<String> {
    let mut arguments: Vec<String> = ["-n", "-l", "-i", "eth0"].map(str::to_owned).to_vec();
    if let Some(count) = count {
        arguments.extend(["-c".to_owned(), count.to_string()]);
    }
    if let Some(file) = write {
        // Otherwise it becomes another user, who may not write here.
        arguments.extend(["-Z", "root", "-w"].map(str::to_owned));
        arguments.push(file.display().to_string());
    }
    arguments.push("--".to_owned());
    arguments.extend(filter.iter().cloned());
    arguments
}

fn capture(namespace: &Path, arguments: &[String]) -> Result<(), Failure> {
    let run = || Command::new("tcpdump").args(arguments).status();
    let ended = oak_worker::inspect::run_in(namespace, run)
        .map_err(|error| Failure::new(EXIT_FAILURE, chain(&error)))?;
    match ended {
        Ok(status) => ended_well(status),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Failure::new(EXIT_FAILURE, "tcpdump is not installed on this machine")
                .hint("apt-get install tcpdump"))
        }
        Err(error) => Err(Failure::new(EXIT_FAILURE, "cannot start tcpdump").cause(error.to_string())),
    }
}

/// tcpdump has said what there is to say.
fn ended_well(status: ExitStatus) -> Result<(), Failure> {
    if status.success() { Ok(()) } else { Err(Failure::silent(EXIT_FAILURE)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_never_taken_for_an_option() {
        let filter = ["-w".to_owned(), "/etc/passwd".to_owned()];
        let arguments = tcpdump_arguments(&filter, Some(3), None);
        assert_eq!(arguments, ["-n", "-l", "-i", "eth0", "-c", "3", "--", "-w", "/etc/passwd"]);
        let arguments = tcpdump_arguments(&[], None, Some(Path::new("out.pcap")));
        assert_eq!(arguments, ["-n", "-l", "-i", "eth0", "-Z", "root", "-w", "out.pcap", "--"]);
    }
}

//! Devices, addresses and namespaces of the node: blocking, on one thread, which owns them all.
//!
//! Instances hang on the host by routed veth pairs, not on ports of the bridge. On hosts where bridged
//! traffic passes netfilter (`br_netfilter`: every Docker or Kubernetes host), a packet translated to
//! another instance would be bridged straight to that instance's port, and dropped there because ports are
//! isolated. Routed pairs behave the same everywhere and leave nothing to reach on layer 2. The
//! bridge has no ports; it carries the gateway address and the routes to service addresses.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use oak_model::ipv6;
use tracing::{debug, info, warn};

use crate::config::NetworkConfig;
use crate::error::{ErrorList, NetworkError, Tried};
use crate::host::{self, Start};
use crate::names::{check_id, device_name, device_prefix, mac, short_id};
use crate::namespace;
use crate::netlink::Socket;
use crate::netlink::link::{self, Link, VethPair};
use crate::netlink::route::{self, PrefixRoute, Route};
use crate::peers::{self, Peer, PeerProblem};
use crate::record::{AttachmentRecord, StateDirectory};
use crate::sysctl;

/// An instance that has a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Instance id.
    pub id: String,
    /// Its address inside the namespace.
    pub address: Ipv4Addr,
    /// File that names the network namespace, for `setns` or an OCI `linux.namespaces[].path`.
    pub namespace: PathBuf,
}

/// What is left to do after a `detach`.
#[derive(Debug, Default)]
pub(crate) struct Detached {
    /// Free now; its flows should be forgotten.
    pub(crate) address: Option<Ipv4Addr>,
    /// Index of the device to remove.
    pub(crate) device: Option<u32>,
    /// What could not be removed so far.
    pub(crate) errors: ErrorList,
}

/// Owner of all devices and namespaces.
#[derive(Debug)]
pub(crate) struct Links {
    config: NetworkConfig,
    directory: StateDirectory,
    socket: Socket,
    attached: BTreeMap<String, Attached>,
    // Held, not read: keeps a second agent out.
    _lock: File,
}

impl Links {
    /// Makes or adopts everything that is not of a single instance, and removes half-made remains.
    pub(crate) fn open(config: &NetworkConfig) -> Result<(Self, Start), NetworkError> {
        config.check()?;
        let directory = StateDirectory::new(&config.state_directory);
        directory.create()?;
        let lock = directory.lock()?;
        let mut socket = Socket::route().tried(|| "open a netlink socket".to_owned())?;
        host::check_ranges(&mut socket, config)?;
        let start = host::prepare(config, &directory)?;
        host::ensure_gateway(&mut socket, config)?;
        let mut links =
            Self { config: config.clone(), directory, socket, attached: BTreeMap::new(), _lock: lock };
        links.adopt(start)?;
        Ok((links, start))
    }

    /// See [`peers::set`].
    pub(crate) fn set_peers(&mut self, peers: &[Peer]) -> Result<Vec<PeerProblem>, NetworkError> {
        peers::set(&mut self.socket, &self.config, peers)
    }

    /// Everything attached, by id.
    pub(crate) fn attached(&self) -> Vec<Attached> {
        self.attached.values().cloned().collect()
    }

    /// Gives an instance a namespace with `eth0`, or completes what it has.
    pub(crate) fn attach(&mut self, id: &str, address: Ipv4Addr) -> Result<Attached, NetworkError> {
        check_id(id)?;
        self.check_address(id, address)?;
        let short_id = short_id(id);
        self.check_name(id, &short_id)?;
        if self.attached.get(id).is_some_and(|known| known.address != address) {
            self.attached.remove(id);
            self.remove_remains(&short_id).into_result()?;
        }
        let namespace = self.directory.namespace(&short_id);
        let had_namespace = namespace::is_alive(&namespace);
        if had_namespace && self.attached.contains_key(id) && self.is_complete(id, &short_id)? {
            return Ok(self.remember(id, address, namespace));
        }
        let record = AttachmentRecord { id: id.to_owned(), address };
        self.directory.write_attachment(&short_id, &record)?;
        let outcome = self.connect(id, &short_id, address);
        if outcome.is_err() && !had_namespace {
            // The cause is what the caller needs to hear; leftovers have a record and are found again.
            if let Err(error) = self.remove_remains(&short_id).into_result() {
                warn!(instance = %id, %error, "failed attachment left something behind");
            }
        }
        outcome?;
        Ok(self.remember(id, address, namespace))
    }

    /// Removes what `attach` made, except for the device, which takes tens of milliseconds to go: its
    /// removal is the caller's, on another thread and by index, so that a device which the next
    /// `attach` makes under the same name is safe.
    pub(crate) fn detach(&mut self, id: &str) -> Result<Detached, NetworkError> {
        check_id(id)?;
        let short_id = short_id(id);
        let record = self.directory.attachment(&short_id);
        if record.as_ref().is_some_and(|record| record.id != id) {
            return Ok(Detached::default());
        }
        let device = self.find_instance_device(&short_id)?;
        let known = self.attached.remove(id).map(|known| known.address);
        let mut errors = ErrorList::default();
        errors.note(namespace::remove(&self.directory.namespace(&short_id)));
        if errors.0.is_empty() {
            errors.note(self.directory.remove_attachment(&short_id));
        }
        Ok(Detached {
            address: known.or(record.map(|record| record.address)),
            device: device.map(|link| link.index),
            errors,
        })
    }

    fn remember(&mut self, id: &str, address: Ipv4Addr, namespace: PathBuf) -> Attached {
        let attached = Attached { id: id.to_owned(), address, namespace };
        self.attached.insert(id.to_owned(), attached.clone());
        attached
    }

    fn check_address(&self, id: &str, address: Ipv4Addr) -> Result<(), NetworkError> {
        if !self.config.is_assignable(address) {
            return Err(NetworkError::AddressOutside { address, subnet: self.config.subnet });
        }
        let mut others = self.attached.values();
        match others.find(|other| other.address == address && other.id != id) {
            Some(holder) => Err(NetworkError::AddressInUse { address, holder: holder.id.clone() }),
            None => Ok(()),
        }
    }

    fn check_name(&self, id: &str, short_id: &str) -> Result<(), NetworkError> {
        let device = device_name(&self.config.bridge, short_id);
        let same_name = |other: &&Attached| {
            other.id != id && device_name(&self.config.bridge, &crate::names::short_id(&other.id)) == device
        };
        match self.attached.values().find(same_name) {
            Some(holder) => {
                Err(NetworkError::NameCollision { id: id.to_owned(), holder: holder.id.clone(), device })
            }
            None => Ok(()),
        }
    }

    /// The alias is set last, so a device that has it is whole.
    fn is_complete(&mut self, id: &str, short_id: &str) -> Result<bool, NetworkError> {
        let link = self.find_instance_device(short_id)?;
        Ok(link.is_some_and(|link| link.is_up && link.alias == id))
    }

    /// Makes namespace (unless it lives), veth pair and routes.
    fn connect(&mut self, id: &str, short_id: &str, address: Ipv4Addr) -> Result<(), NetworkError> {
        let path = self.directory.namespace(short_id);
        let mut inside = if namespace::is_alive(&path) {
            namespace::run_in(&path, Socket::route)?.tried(|| "open a netlink socket".to_owned())?
        } else {
            namespace::create(&path)?
        };
        let name = device_name(&self.config.bridge, short_id);
        self.delete_device(short_id)?;
        let file = File::open(&path).tried(|| format!("open {}", path.display()))?;
        let pair = VethPair {
            name: &name,
            mac: mac(self.config.gateway()),
            peer_mac: mac(address),
            peer_namespace: file.as_fd(),
            mtu: self.config.mtu,
        };
        link::create_veth(&mut self.socket, &pair).tried(|| format!("make device {name}"))?;
        self.configure_inside(&mut inside, address)?;
        self.configure_outside(&name, address)?;
        self.complete(id, &name, &mut inside)
    }

    fn configure_inside(&self, socket: &mut Socket, address: Ipv4Addr) -> Result<(), NetworkError> {
        let what = || format!("configure the namespace of {address}");
        let gateway = self.config.gateway();
        let up = |socket: &mut Socket, name: &str| -> std::io::Result<u32> {
            let link = link::find(socket, name)?;
            let index = link.ok_or(std::io::ErrorKind::NotFound)?.index;
            if name != "lo" {
                let _ = link::forbid_link_local(socket, index);
            }
            link::set_up(socket, index)?;
            Ok(index)
        };
        up(socket, "lo").tried(what)?;
        let device = up(socket, "eth0").tried(what)?;
        let prefix = self.config.subnet_of(address).map_or(32, |subnet| subnet.prefix_len());
        let own = Ipv4Net::new_assert(address, prefix);
        self.address_inside(socket, device, own.into(), gateway.into()).tried(what)?;
        if self.config.ipv6 {
            self.address_inside6(socket, device, address).tried(what)?;
        }
        Ok(())
    }

    fn address_inside6(&self, socket: &mut Socket, device: u32, address: Ipv4Addr) -> std::io::Result<()> {
        let subnet = self.config.subnet_of(address).and_then(ipv6::node_network);
        let prefix = subnet.map_or(128, |subnet| subnet.prefix_len());
        let own = Ipv6Net::new_assert(ipv6::node(address), prefix);
        self.address_inside(socket, device, own.into(), self.config.gateway6().into())
    }

    /// The prefix is for programs that look at it. There is no route to the subnet: neighbours are reached through the
    /// gateway, which decides.
    fn address_inside(
        &self,
        socket: &mut Socket,
        device: u32,
        own: IpNet,
        gateway: IpAddr,
    ) -> std::io::Result<()> {
        route::add_address(socket, device, own, PrefixRoute::None)?;
        route::replace_neighbour(socket, device, gateway, mac(self.config.gateway()))?;
        let to_gateway =
            Route { destination: IpNet::from(gateway), device, gateway: None, source: None, metric: 0 };
        route::replace_route(socket, &to_gateway)?;
        let everywhere = match own {
            IpNet::V4(_) => Ipv4Net::default().into(),
            IpNet::V6(_) => Ipv6Net::default().into(),
        };
        let default = Route { destination: everywhere, gateway: Some(gateway), ..to_gateway };
        route::replace_route(socket, &default)
    }

    fn configure_outside(&mut self, name: &str, address: Ipv4Addr) -> Result<(), NetworkError> {
        let what = || format!("configure device {name}");
        let missing = || NetworkError::System { what: what(), source: std::io::ErrorKind::NotFound.into() };
        let device = self.find(name)?.ok_or_else(missing)?.index;
        let socket = &mut self.socket;
        let _ = link::forbid_link_local(socket, device);
        // Answers to 127.0.0.1:port come in here on their way back to 127.0.0.1.
        sysctl::write(&format!("ipv4/conf/{name}/route_localnet"), "1")?;
        sysctl::write(&format!("ipv4/conf/{name}/forwarding"), "1")?;
        link::set_up(socket, device).tried(what)?;
        let gateway = self.config.gateway();
        route_to(socket, device, address, address.into(), gateway.into()).tried(what)?;
        if self.config.ipv6 {
            self.route_to6(device, address).tried(what)?;
        }
        Ok(())
    }

    fn route_to6(&mut self, device: u32, address: Ipv4Addr) -> std::io::Result<()> {
        let (own, gateway) = (ipv6::node(address), self.config.gateway6());
        route_to(&mut self.socket, device, address, own.into(), gateway.into())
    }

    /// Gives an instance of an earlier agent the IPv6 address it did not have.
    fn complete6(&mut self, attached: &Attached) -> Result<(), NetworkError> {
        let what = || format!("give {} an IPv6 address", attached.id);
        let find = |socket: &mut Socket, name: &str| -> std::io::Result<u32> {
            Ok(link::find(socket, name)?.ok_or(std::io::ErrorKind::NotFound)?.index)
        };
        let mut inside = namespace::run_in(&attached.namespace, Socket::route)?.tried(what)?;
        let device = find(&mut inside, "eth0").tried(what)?;
        self.address_inside6(&mut inside, device, attached.address).tried(what)?;
        let name = device_name(&self.config.bridge, &short_id(&attached.id));
        let device = find(&mut self.socket, &name).tried(what)?;
        self.route_to6(device, attached.address).tried(what)
    }

    /// Waits for both ends to work, then marks the device as whole.
    fn complete(&mut self, id: &str, name: &str, inside: &mut Socket) -> Result<(), NetworkError> {
        let what = || format!("complete device {name}");
        let runs_inside = link::await_running(inside, "eth0").tried(what)?;
        let runs_outside = link::await_running(&mut self.socket, name).tried(what)?;
        if !(runs_inside && runs_outside) {
            debug!(device = name, runs_inside, runs_outside, "first packets may be lost");
        }
        if let Some(link) = self.find(name)? {
            link::set_alias(&mut self.socket, link.index, id).tried(what)?;
        }
        Ok(())
    }

    /// Takes over living attachments and removes what a crash or a reboot left of others.
    fn adopt(&mut self, start: Start) -> Result<(), NetworkError> {
        for short_id in self.directory.short_ids()? {
            let namespace = self.directory.namespace(&short_id);
            let record = self.directory.attachment(&short_id);
            let record = record.filter(|record| crate::names::short_id(&record.id) == short_id);
            if let Some(record) = record
                && namespace::is_alive(&namespace)
            {
                if !self.config.is_assignable(record.address) {
                    warn!(
                        instance = %record.id,
                        address = %record.address,
                        subnet = %self.config.subnet,
                        "instance has an address of another subnet and no network until attached anew"
                    );
                }
                let adopted = self.remember(&record.id, record.address, namespace);
                if start == Start::Fresh
                    && self.config.ipv6
                    && let Err(error) = self.complete6(&adopted)
                {
                    warn!(instance = %adopted.id, %error, "an instance has no IPv6 until it is started anew");
                }
                continue;
            }
            info!(short_id, "removing remains of an instance network");
            let errors = self.remove_remains(&short_id);
            if let Err(error) = errors.into_result() {
                warn!(short_id, %error, "remains of an instance network stay");
            }
        }
        self.remove_nameless_devices()
    }

    /// Devices of ours without an attachment.
    fn remove_nameless_devices(&mut self) -> Result<(), NetworkError> {
        let wanted: Vec<String> =
            self.attached.keys().map(|id| device_name(&self.config.bridge, &short_id(id))).collect();
        for link in instance_devices(&mut self.socket, &self.config.bridge)? {
            if !wanted.contains(&link.name) {
                info!(device = %link.name, "removing device without instance");
                link::delete(&mut self.socket, link.index)
                    .tried(|| format!("remove device {}", link.name))?;
            }
        }
        Ok(())
    }

    /// Removes device, namespace and record of one short id, as far as they exist.
    fn remove_remains(&mut self, short_id: &str) -> ErrorList {
        let mut errors = ErrorList::default();
        errors.note(self.delete_device(short_id));
        errors.note(namespace::remove(&self.directory.namespace(short_id)));
        // The record goes last and only if nothing is left for it to name.
        if errors.0.is_empty() {
            errors.note(self.directory.remove_attachment(short_id));
        }
        errors
    }

    fn delete_device(&mut self, short_id: &str) -> Result<(), NetworkError> {
        let Some(link) = self.find_instance_device(short_id)? else {
            return Ok(());
        };
        link::delete(&mut self.socket, link.index).tried(|| format!("remove device {}", link.name))
    }

    /// The host end of an instance's veth pair; refuses a device of that name that is not ours.
    fn find_instance_device(&mut self, short_id: &str) -> Result<Option<Link>, NetworkError> {
        let device = device_name(&self.config.bridge, short_id);
        match self.find(&device)? {
            Some(link) if !link.is_ours("veth") => Err(NetworkError::ForeignDevice { device }),
            found => Ok(found),
        }
    }

    fn find(&mut self, name: &str) -> Result<Option<Link>, NetworkError> {
        link::find(&mut self.socket, name).tried(|| format!("look for device {name}"))
    }
}

/// The way from the host to one address of an instance, whose device is known by its IPv4 address.
fn route_to(
    socket: &mut Socket,
    device: u32,
    instance: Ipv4Addr,
    address: IpAddr,
    gateway: IpAddr,
) -> std::io::Result<()> {
    route::replace_neighbour(socket, device, address, mac(instance))?;
    let source = Some(gateway);
    let route = Route { destination: IpNet::from(address), device, gateway: None, source, metric: 0 };
    route::replace_route(socket, &route)
}

/// Host ends of instances' veth pairs, whole or not.
pub(crate) fn instance_devices(socket: &mut Socket, bridge: &str) -> Result<Vec<Link>, NetworkError> {
    let mut links = link::all(socket).tried(|| "list network devices".to_owned())?;
    links.retain(|link| is_instance_device(link, bridge));
    Ok(links)
}

/// Whether a device is the host end of an instance's veth pair.
pub(crate) fn is_instance_device(link: &Link, bridge: &str) -> bool {
    link.is_ours("veth") && link.name.starts_with(&device_prefix(bridge))
}

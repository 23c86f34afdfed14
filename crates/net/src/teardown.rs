//! Removal of everything this crate ever made on a node, for when no agent runs any more. Goes on after
//! every failure and reports all of them.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use tracing::debug;

use crate::config::{check_bridge, check_table};
use crate::error::{ErrorList, NetworkError, Tried};
use crate::links::is_instance_device;
use crate::names::{encrypted_name, kernel_name, parking_name, plain_name, plain6_name};
use crate::namespace;
use crate::netlink::link::{Link, OAK_GROUP};
use crate::netlink::{Socket, conntrack, link, route, rules, vxlan, wireguard};
use crate::nft;
use crate::record::{StateDirectory, current_boot};
use crate::ruleset;
use crate::sysctl;
use crate::thread::StateThread;

/// Removes namespaces, devices, the tunnels, the gateway device, the nftables table and state files, and puts
/// host settings back that were changed in this boot. Succeeds if there is nothing to remove.
///
/// Works from what it finds as well as from what was recorded, so it also cleans after crashes and
/// lost state directories.
///
/// # Errors
/// [`NetworkError::Busy`] while an agent has the network open (nothing is touched), and
/// [`NetworkError::Leftovers`] with everything that could not be removed.
pub async fn teardown(
    state_directory: impl Into<PathBuf>,
    bridge: &str,
    table: &str,
) -> Result<(), NetworkError> {
    check_bridge(bridge)?;
    check_table(table)?;
    let (state_directory, bridge, table) = (state_directory.into(), bridge.to_owned(), table.to_owned());
    let work = move || Ok(((), remove_all(&state_directory, &bridge, &table)));
    let (_thread, outcome) = StateThread::<()>::start("oak-net-down", work).await?;
    outcome
}

fn remove_all(state_directory: &Path, bridge: &str, table: &str) -> Result<(), NetworkError> {
    let directory = StateDirectory::new(state_directory);
    let _lock = match directory.exists() {
        true => Some(directory.lock()?),
        false => None,
    };
    let mut errors = ErrorList::default();
    let record = directory.network();
    let mut subnets: Vec<Ipv4Net> = record.iter().flat_map(|record| record.config.subnets()).collect();
    match Socket::route().tried(|| "open a netlink socket".to_owned()) {
        Ok(mut socket) => remove_devices(&mut socket, bridge, &mut subnets, &mut errors),
        Err(error) => errors.0.push(error),
    }
    remove_namespaces(&directory, &mut errors);
    errors.note(remove_table(table, &subnets));
    let settings = record.filter(|record| record.boot == current_boot());
    for setting in settings.iter().flat_map(|r| &r.changed_settings) {
        errors.note(sysctl::restore(setting));
    }
    // Without errors only: the records say what is left.
    if errors.0.is_empty() {
        errors.note(directory.remove());
    }
    errors.into_result()
}

/// Removes instances' devices, the tunnels and the gateway device with their routes, and notes which subnets it had.
fn remove_devices(socket: &mut Socket, bridge: &str, subnets: &mut Vec<Ipv4Net>, errors: &mut ErrorList) {
    let is_gateway = |link: &Link| link.is_ours("bridge") && link.name == bridge;
    let mut links = match link::all(socket).tried(|| "list network devices".to_owned()) {
        Ok(links) => links,
        Err(error) => return errors.0.push(error),
    };
    links.retain(|link| link.group == OAK_GROUP);
    let plain = [plain_name(bridge), plain6_name(bridge)];
    let is_plain = |link: &Link| link.is_ours(vxlan::KIND) && plain.contains(&link.name);
    // The kernel removes it with its agent, but may still be about to.
    let is_parking = |link: &Link| link.is_ours("tun") && link.name == parking_name(bridge);
    // Left by who encrypts if that was killed.
    let is_encrypted = |link: &Link| link.is_ours("tun") && link.name == encrypted_name(bridge);
    let is_kernel = |link: &Link| link.is_ours(wireguard::KIND) && link.name == kernel_name(bridge);
    let is_tunnel = |link: &Link| is_plain(link) || is_encrypted(link) || is_kernel(link);
    let is_ours = |link: &Link| {
        is_gateway(link) || is_parking(link) || is_tunnel(link) || is_instance_device(link, bridge)
    };
    if let Some(gateway) = links.iter().find(|link| is_gateway(link)) {
        let addresses = route::addresses(socket, gateway.index).unwrap_or_default();
        subnets.extend(addresses.iter().filter_map(|address| match address {
            ipnet::IpNet::V4(address) => Some(address.trunc()),
            ipnet::IpNet::V6(_) => None,
        }));
    }
    // All at once takes as long as one, but must not take another worker's in the same namespace.
    if !links.is_empty() && links.iter().all(is_ours) && link::delete_group(socket).is_ok() {
        return;
    }
    for link in links.iter().filter(|link| is_ours(link)) {
        let what = || format!("remove device {}", link.name);
        errors.note(link::delete(socket, link.index).tried(what));
    }
}

fn remove_namespaces(directory: &StateDirectory, errors: &mut ErrorList) {
    match directory.short_ids() {
        Ok(short_ids) => {
            for short_id in short_ids {
                errors.note(namespace::remove(&directory.namespace(&short_id)));
            }
        }
        Err(error) => errors.0.push(error),
    }
}

/// Removes the rules, then the flows they made. Flows that stay end by time-out.
fn remove_table(table: &str, subnets: &[Ipv4Net]) -> Result<(), NetworkError> {
    let mut socket = Socket::netfilter().tried(|| "open a netfilter socket".to_owned())?;
    if rules::has_table(&mut socket, table).unwrap_or(true) {
        nft::run(&ruleset::removal(table), "remove the table")?;
    }
    let ours = |address: &Ipv4Addr| subnets.iter().any(|subnet| subnet.contains(address));
    let forgotten =
        conntrack::forget(&mut socket, |flow| ours(&flow.original.source) || ours(&flow.reply.source));
    if let Err(error) = forgotten {
        debug!(%error, "flows of removed instances end by time-out");
    }
    Ok(())
}

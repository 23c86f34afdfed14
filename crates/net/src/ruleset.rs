//! The whole nftables table as text, from settings and service table. Pure: what the kernel is told
//! can be read and tested without a kernel. The picture is in the crate's documentation.

use std::fmt::{self, Write as _};

use oak_model::ipv6;

use crate::check::CheckedTable;
use crate::config::NetworkConfig;
use crate::content::Content;
use crate::names::{device_prefix, encrypted_name, kernel_name, parking_name, plain_name, plain6_name};

/// To be counted up with every change of the chains below: rules of an earlier agent with another number are
/// replaced at once, because what it did not know (the tunnel) would not be guarded.
pub(crate) const VERSION: u32 = 5;

/// Renders one transaction that replaces our table whatever its state; nothing else is touched.
pub(crate) fn render(config: &NetworkConfig, table: &CheckedTable) -> String {
    let mut text = removal(&config.table);
    // Writing to a String cannot fail.
    let _ = write_table(&mut text, config, table);
    text
}

/// Renders one transaction that brings our table from what [`render`] or this made of `former` to what `render` makes of
/// `table`; nothing if it is the same. What does not change goes on without noticing, rotations included.
pub(crate) fn change(config: &NetworkConfig, former: &CheckedTable, table: &CheckedTable) -> String {
    let content = |table| Content::new(table, config.ipv6);
    content(table).difference(&content(former), &config.table)
}

/// Renders the removal of our table, which succeeds whether or not it exists.
pub(crate) fn removal(table: &str) -> String {
    format!("add table inet {table}\ndelete table inet {table}\n")
}

fn write_table(out: &mut String, config: &NetworkConfig, table: &CheckedTable) -> fmt::Result {
    writeln!(out, "table inet {} {{", config.table)?;
    Content::new(table, config.ipv6).write(out)?;
    write_chains(out, config)?;
    writeln!(out, "}}")
}

fn write_chains(out: &mut String, config: &NetworkConfig) -> fmt::Result {
    let ports = format!("\"{}*\"", device_prefix(&config.bridge));
    let bridge = format!("\"{}\"", config.bridge);
    let Tunnels { all: tunnels, encrypted, plain, kernel } = Tunnels::new(config);
    let parking = format!("\"{}\"", parking_name(&config.bridge));
    let tunnel_ports =
        format!("{{ {}, {}, {} }}", config.encrypted_port, config.kernel_port, config.tunnel_port);
    let (subnet, gateway) = (one_of(config.subnets()), config.gateway());
    let (nodes, services) = (config.node_range, config.service_range);
    let Six {
        guard: guard6,
        tunnel_guard: tunnel_guard6,
        translate: translate6,
        waiters: waiters6,
        prerouting: prerouting6,
        output: output6,
        postrouting: postrouting6,
        strays: strays6,
        stray_instances: stray_instances6,
        from_instances: from_instances6,
        refused: refused6,
        host: host6,
        host_waiters: host_waiters6,
        families,
    } = Six::new(config);
    // Reasons, in the order of the rules:
    // The rules of IPv6 say the same as those before them.
    // guard: 127/8 of the host is theirs to attack because replies to
    //   127.0.0.1:port need route_localnet; a source address that is not routed to its device is forged.
    //   So other nodes send only from addresses of nodes, and only to addresses of this one. Who encrypts and the kernel
    //   may carry the two directions of a flow; both know which node has which addresses.
    // prerouting: only instances call services; ports are looked at only for addresses of this host.
    //   The gateway's name server stays reachable even when an application has the host port 53.
    //   Other nodes have translated what they send.
    // input: the name server is for this node only; other nodes only answer the host, and measure how far it is.
    //   An instance that sends to a tunnel's port would speak as another node, here or elsewhere.
    // postrouting: an instance, also of another node, is seen as its instance address, else (and the host)
    //   as the gateway, so that answers return here to be translated back; outside, instances look
    //   like the host. Other nodes accept only addresses of this node.
    // strays: what `from_instances` refuses, for the host and for packets that waited.
    // from_instances: without its node, an address of a node must not leave by the default route.
    // forward: the kernel does not tell both ends of a connection how long packets between nodes may be, who encrypts does.
    //   What is routed to the gateway device has no instance behind it. `invalid` is dropped
    //   because it is not translated and would show inner addresses outside.
    // output: the device a packet leaves by is not known anew after translation, so look at addresses;
    //   what still has a service address was not translated.
    // to_parking and host: what is unknown waits, what is known to have no backend is refused.
    // prerouting and output: somebody has to be told of these calls, as long as there is somebody.
    // prerouting and output: instances call what their tenant reaches. Packets that waited leave as if the host
    //   sent them, so they are looked at again.
    // to_parking: nobody outside may call services, so nobody outside may wait for them.
    write!(
        out,
        "\tchain refuse {{
		meta l4proto tcp reject with tcp reset
		reject with icmpx type port-unreachable
	}}
	chain from_instances {{
		{stray_instances6}
		oifname != {ports} oifname != {tunnels} ct direction original ip daddr {nodes} goto refuse
		oifname != {ports} oifname != {tunnels} udp dport {tunnel_ports} goto refuse
		ct state established,related accept
		ct state invalid drop
		ct status dnat accept
		ip daddr {nodes} goto refuse
		ip daddr {subnet} goto refuse
		ip daddr {services} goto refuse
		{from_instances6}
	}}
	chain to_instances {{
		ct state established,related accept
		ct status dnat accept
		goto refuse
	}}
	chain translate {{
		ip daddr vmap @services
		dnat ip to ip daddr map @instances
		{translate6}
	}}
	chain to_parking {{
		ip daddr @refused goto refuse
		{refused6}
		iifname {ports} ip saddr vmap @waiters
		{waiters6}
		iifname {ports} accept
		goto refuse
	}}
	chain from_tunnel {{
		ct state established,related accept
		ct state invalid drop
		oifname {ports} accept
		drop
	}}
	chain guard {{
		type filter hook prerouting priority -300; policy accept;
		iifname {ports} ip daddr 127.0.0.0/8 drop
		{guard6}
		iifname {ports} fib saddr . iif oif 0 drop
		iifname {tunnels} ip daddr != {subnet} drop
		{tunnel_guard6}
		iifname {plain} fib saddr . iif oif 0 drop
		iifname {encrypted} fib saddr oifname != {encrypted} drop
	}}
	chain prerouting {{
		type nat hook prerouting priority -100; policy accept;
		iifname {tunnels} accept
		iifname {ports} ip daddr @untold fib daddr oifname {parking} accept
		iifname {ports} ip saddr vmap @tenants
		{prerouting6}
		ip daddr {gateway} udp dport 53 accept
		ip daddr {gateway} tcp dport 53 accept
		{families} fib daddr type local tcp dport vmap @tcp_ports
		{families} fib daddr type local udp dport vmap @udp_ports
	}}
	chain input {{
		type filter hook input priority 0; policy accept;
		iifname {tunnels} ct state established,related accept
		iifname {tunnels} ip daddr {gateway} icmp type echo-request limit rate 1000/second burst 100 packets accept
		iifname {tunnels} drop
		iifname {ports} udp dport {tunnel_ports} drop
		iifname {ports} accept
		iif lo accept
		ip daddr {gateway} udp dport 53 drop
		ip daddr {gateway} tcp dport 53 drop
	}}
	chain output {{
		type nat hook output priority -100; policy accept;
		ip daddr @untold oifname {parking} accept
		ip saddr vmap @tenants
		ip saddr != {subnet} jump translate
		ip saddr {gateway} jump translate
		{output6}
		ip daddr {gateway} udp dport 53 accept
		ip daddr {gateway} tcp dport 53 accept
		{families} fib daddr type local tcp dport vmap @tcp_ports
		{families} fib daddr type local udp dport vmap @udp_ports
	}}
	chain postrouting {{
		type nat hook postrouting priority 100; policy accept;
		oifname {ports} ip saddr {gateway} accept
		oifname {ports} snat ip to ip saddr map @identities
		oifname {ports} ip saddr {subnet} snat ip to {gateway}
		oifname {ports} meta nfproto ipv4 fib saddr type local snat ip to {gateway}
		oifname {tunnels} ip saddr != {subnet} snat ip to {gateway}
		{postrouting6}
		oifname != {ports} oifname != {bridge} ip saddr {subnet} ip daddr != {nodes} ip daddr != {services} masquerade
	}}
	chain strays {{
		type filter hook postrouting priority 90; policy accept;
		oifname {ports} accept
		oifname {tunnels} accept
		oifname {bridge} accept
		ip saddr {subnet} ip daddr {nodes} ct status dnat ct direction original drop
		{strays6}
	}}
	chain forward {{
		type filter hook forward priority 0; policy accept;
		oifname {kernel} tcp flags syn tcp option maxseg size set rt mtu
		oifname {bridge} goto refuse
		oifname {parking} goto to_parking
		iifname {ports} jump from_instances
		iifname {tunnels} goto from_tunnel
		oifname {ports} jump to_instances
		oifname {tunnels} jump to_instances
	}}
	chain host {{
		type filter hook output priority 0; policy accept;
		ip daddr @refused goto refuse
		oifname != {parking} ip daddr {services} goto refuse
		{refused6}
		{host6}
		oifname {parking} ip saddr vmap @waiters
		{host_waiters6}
	}}
"
    )
}

/// The devices to other nodes, as rules name them.
struct Tunnels {
    all: String,
    encrypted: String,
    plain: String,
    kernel: String,
}

impl Tunnels {
    fn new(config: &NetworkConfig) -> Self {
        let [encrypted, kernel, plain, plain6] = [encrypted_name, kernel_name, plain_name, plain6_name]
            .map(|name| format!("\"{}\"", name(&config.bridge)));
        Self {
            all: format!("{{ {encrypted}, {kernel}, {plain}, {plain6} }}"),
            encrypted: format!("{{ {encrypted}, {kernel} }}"),
            plain: format!("{{ {plain}, {plain6} }}"),
            kernel,
        }
    }
}

/// What an address in any of these networks is compared with.
fn one_of<N: fmt::Display>(networks: impl Iterator<Item = N>) -> String {
    let all: Vec<_> = networks.map(|network| network.to_string()).collect();
    if let [only] = &all[..] { only.clone() } else { format!("{{ {} }}", all.join(", ")) }
}

/// Rules of IPv6 that stand between those of IPv4; without IPv6 there are only those that let nothing through.
#[derive(Debug, Default)]
struct Six {
    guard: String,
    tunnel_guard: String,
    translate: String,
    waiters: String,
    prerouting: String,
    output: String,
    postrouting: String,
    strays: String,
    stray_instances: String,
    from_instances: String,
    refused: String,
    host: String,
    host_waiters: String,
    /// Whose host ports lead to instances.
    families: &'static str,
}

impl Six {
    fn new(config: &NetworkConfig) -> Self {
        let ports = format!("\"{}*\"", device_prefix(&config.bridge));
        let bridge = format!("\"{}\"", config.bridge);
        let tunnels = Tunnels::new(config).all;
        let parking = format!("\"{}\"", parking_name(&config.bridge));
        if !config.ipv6 {
            return Self {
                guard: format!("iifname {ports} meta nfproto ipv6 drop"),
                tunnel_guard: format!("iifname {tunnels} meta nfproto ipv6 drop"),
                families: "meta nfproto ipv4",
                ..Self::default()
            };
        }
        let (subnet, gateway) = (one_of(config.subnets6()), config.gateway6());
        let (nodes, services) = (ipv6::NODES, ipv6::SERVICES);
        Self {
            // No neighbour has to be asked for or told of, and there are no routers among instances.
            guard: format!("iifname {ports} ip6 daddr {{ ::1, ff00::/8, fe80::/10 }} drop"),
            tunnel_guard: format!("iifname {tunnels} ip6 daddr != {subnet} drop"),
            translate: "ip6 daddr vmap @services6
		dnat ip6 to ip6 daddr map @instances6"
                .to_owned(),
            waiters: format!("iifname {ports} ip6 saddr vmap @waiters6"),
            prerouting: format!(
                "iifname {ports} ip6 daddr @untold6 fib daddr oifname {parking} accept
		iifname {ports} ip6 saddr vmap @tenants6"
            ),
            output: format!(
                "ip6 daddr @untold6 oifname {parking} accept
		ip6 saddr vmap @tenants6
		ip6 saddr != {subnet} jump translate
		ip6 saddr {gateway} jump translate"
            ),
            postrouting: format!(
                "oifname {ports} ip6 saddr {gateway} accept
		oifname {ports} snat ip6 to ip6 saddr map @identities6
		oifname {ports} ip6 saddr {subnet} snat ip6 to {gateway}
		oifname {ports} meta nfproto ipv6 fib saddr type local snat ip6 to {gateway}
		oifname {tunnels} ip6 saddr != {subnet} snat ip6 to {gateway}
		oifname != {ports} oifname != {bridge} ip6 saddr {subnet} ip6 daddr != {nodes} ip6 daddr != {services} masquerade"
            ),
            strays: format!("ip6 saddr {subnet} ip6 daddr {nodes} ct status dnat ct direction original drop"),
            stray_instances: format!(
                "oifname != {ports} oifname != {tunnels} ct direction original ip6 daddr {nodes} goto refuse"
            ),
            from_instances: format!(
                "ip6 daddr {nodes} goto refuse
		ip6 daddr {services} goto refuse"
            ),
            refused: "ip6 daddr @refused6 goto refuse".to_owned(),
            host: format!("oifname != {parking} ip6 daddr {services} goto refuse"),
            host_waiters: format!("oifname {parking} ip6 saddr vmap @waiters6"),
            families: "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NetworkConfig {
        NetworkConfig::new("/var/lib/oak/net", "10.18.0.0/25".parse().unwrap())
    }

    #[test]
    fn the_table_is_removed_and_made_in_one_transaction() {
        let text = render(&config(), &CheckedTable::default());
        assert!(text.starts_with("add table inet oakestra\ndelete table inet oakestra\ntable inet"));
        assert!(!text.contains("elements"), "empty lists are syntax errors");
    }

    #[test]
    fn what_the_kernel_decrypts_is_treated_as_what_the_engine_decrypts() {
        for ipv6 in [true, false] {
            let text = render(&NetworkConfig { ipv6, ..config() }, &CheckedTable::default());
            let rules: Vec<&str> =
                text.lines().filter(|rule| rule.contains("oak0e") || rule.contains("oak0w")).collect();
            let is_of_both = |rule: &&str| rule.contains("oak0e") && rule.contains("oak0w");
            // Only one says how long packets may be: the engine does that itself.
            assert_eq!(rules.iter().filter(|rule| !is_of_both(rule)).count(), 1, "{rules:#?}");
            let ports = text.lines().filter(|rule| rule.contains("50103") || rule.contains("50106"));
            assert!(ports.clone().count() == 2 && ports.clone().all(|rule| rule.contains("50103, 50106")));
        }
    }

    #[test]
    fn every_rule_about_devices_names_only_this_node() {
        let other = NetworkConfig { bridge: "oak7".to_owned(), table: "oak_seven".to_owned(), ..config() };
        let text = render(&other, &CheckedTable::default());
        assert!(text.contains("\"oak7-*\"") && !text.contains("oak0") && !text.contains("oakestra"));
    }
}

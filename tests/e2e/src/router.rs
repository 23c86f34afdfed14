//! A site of its own behind a NAT.
//!
//! ```text
//! switch 10.99.0.0/24 ── eth0 [router] br0 192.168.1.1 ──┬── 192.168.1.2
//!                                                        └── 192.168.1.3
//! ```
//!
//! All sites have the same addresses inside, as sites have.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;

use crate::{Host, World};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

/// How a router gives out ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nat {
    /// The port of the inside if it is free, and only for packets of whom it was sent to.
    PortRestricted,
    /// Another port for each destination.
    Symmetric,
}

/// A router with a site behind it.
#[derive(Debug)]
pub struct Router {
    host: Host,
}

impl Router {
    /// A router on the switch; `number` is the last part of its address there. With a cable its line can be made bad.
    ///
    /// # Errors
    /// The kernel refuses, or `nft` is not there.
    pub fn create(world: &World, name: &str, number: u8, nat: Nat) -> anyhow::Result<Self> {
        let host = world.host_on_cable(name, number)?;
        let ports = match nat {
            Nat::PortRestricted => "",
            Nat::Symmetric => " random,fully-random",
        };
        let inside = format!("{GATEWAY}/24");
        for words in [
            &["ip", "link", "add", "name", "br0", "type", "bridge"][..],
            &["ip", "address", "add", &inside, "dev", "br0"],
            &["ip", "link", "set", "br0", "up"],
            &["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"],
            &[
                "nft",
                &format!(
                    "table ip nat {{ \
                     chain out {{ type nat hook postrouting priority srcnat; oifname eth0 masquerade{ports}; }}; \
                     chain in {{ type filter hook input priority filter; iifname eth0 ct state new drop; }}; \
                     chain through {{ type filter hook forward priority filter; iifname eth0 ct state new drop; }}; \
                 }}"
                ),
            ],
        ] {
            host.check(words)?;
        }
        Ok(Self { host })
    }

    /// The machine itself.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// A machine of the site; `number` is the last part of its address, 2–254.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn machine(&self, world: &World, name: &str, number: u8) -> anyhow::Result<Host> {
        let [first, second, third, _] = GATEWAY.octets();
        let address = Ipv4Addr::new(first, second, third, number);
        let host = Host::create(name, world.directory(), address, None)?;
        host.plug_into(&self.host, GATEWAY)?;
        Ok(host)
    }

    /// Passes on what comes to this UDP port from outside to a machine of the site.
    ///
    /// # Errors
    /// `nft` is not there.
    pub fn forward(&self, port: u16, to: SocketAddrV4) -> anyhow::Result<()> {
        let rules = format!(
            "add chain ip nat forwarded {{ type nat hook prerouting priority dstnat; }}; \
             add rule ip nat forwarded iifname eth0 udp dport {port} dnat to {to}; \
             insert rule ip nat through ct status dnat accept"
        );
        self.host.check(&["nft", &rules]).map(drop)
    }

    /// Forgets all its mappings, as a router that restarts does, and gives out only these ports from now on.
    ///
    /// # Errors
    /// `nft` is not there.
    pub fn rebind(&self, world: &World, ports: RangeInclusive<u16>) -> anyhow::Result<()> {
        let (first, last) = (ports.start(), ports.end());
        let rules = format!(
            "flush chain ip nat out; \
             add rule ip nat out oifname eth0 meta l4proto {{ tcp, udp }} masquerade to :{first}-{last}; \
             add rule ip nat out oifname eth0 masquerade"
        );
        self.host.check(&["nft", &rules])?;
        // The kernel forgets what is masqueraded behind a device that is switched off.
        let gateway = world.switch().address();
        let off_and_on =
            format!("ip link set eth0 down && ip link set eth0 up && ip route add default via {gateway}");
        self.host.check(&["sh", "-c", &off_and_on]).map(drop)
    }

    /// Passes on nothing more between the site and this address.
    ///
    /// # Errors
    /// `nft` is not there.
    pub fn cut(&self, other: Ipv4Addr) -> anyhow::Result<()> {
        let rules = format!(
            "table ip cut {{ chain through {{ type filter hook forward priority -10; \
             ip saddr {other} drop; ip daddr {other} drop; }}; }}"
        );
        self.host.check(&["nft", &rules]).map(drop)
    }

    /// Passes on everything again.
    ///
    /// # Errors
    /// Nothing was cut.
    pub fn mend(&self) -> anyhow::Result<()> {
        self.host.check(&["nft", "delete table ip cut"]).map(drop)
    }
}

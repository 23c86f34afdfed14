//! A site of its own behind a NAT.
//!
//! ```text
//! switch 10.99.0.0/24 ── eth0 [router] br0 192.168.1.1 ──┬── 192.168.1.2
//!                                                        └── 192.168.1.3
//! ```
//!
//! All sites have the same addresses inside, as sites have.

use std::net::Ipv4Addr;

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

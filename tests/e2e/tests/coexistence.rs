//! Workers on machines that have a firewall already: what is in the way is named with what to accept, that is enough, and
//! the firewall is afterwards as it was.

use anyhow::ensure;
use oak_e2e::{Host, Machines, Microservice, Tiers, World, application, eventually, soon};
use serde_json::json;

const WEB: &str = "10.30.50.1";
const PORT: u16 = 8080;

/// What Docker makes of a machine, with a network and a container that publishes a port.
const DOCKER: &str = "
table ip filter {
    chain INPUT { type filter hook input priority filter; policy accept; }
    chain FORWARD {
        type filter hook forward priority filter; policy drop;
        jump DOCKER-USER
        jump DOCKER-ISOLATION-STAGE-1
        oifname docker0 ct state related,established accept
        oifname docker0 jump DOCKER
        iifname docker0 oifname != docker0 accept
        iifname docker0 oifname docker0 accept
    }
    chain OUTPUT { type filter hook output priority filter; policy accept; }
    chain DOCKER { iifname != docker0 oifname docker0 ip daddr 172.17.0.2 tcp dport 80 accept; }
    chain DOCKER-ISOLATION-STAGE-1 { iifname docker0 oifname != docker0 jump DOCKER-ISOLATION-STAGE-2; return; }
    chain DOCKER-ISOLATION-STAGE-2 { oifname docker0 drop; return; }
    chain DOCKER-USER { return; }
}
table ip nat {
    chain PREROUTING { type nat hook prerouting priority dstnat; fib daddr type local jump DOCKER; }
    chain OUTPUT { type nat hook output priority -100; ip daddr != 127.0.0.0/8 fib daddr type local jump DOCKER; }
    chain POSTROUTING {
        type nat hook postrouting priority srcnat;
        oifname != docker0 ip saddr 172.17.0.0/16 masquerade
    }
    chain DOCKER { iifname docker0 return; iifname != docker0 tcp dport 9090 dnat to 172.17.0.2:80; }
}";

/// What firewalld makes of a machine whose zone has `ssh` open: chains that end with a refusal of everything.
const FIREWALLD: &str = "
table inet firewalld {
    chain filter_PREROUTING { type filter hook prerouting priority filter + 10; icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept; }
    chain nat_PREROUTING { type nat hook prerouting priority dstnat + 10; }
    chain nat_POSTROUTING { type nat hook postrouting priority srcnat + 10; }
    chain filter_INPUT {
        type filter hook input priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname lo accept
        ct state invalid drop
        jump filter_INPUT_ZONES
        reject with icmpx admin-prohibited
    }
    chain filter_FORWARD {
        type filter hook forward priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname lo accept
        ct state invalid drop
        jump filter_FORWARD_ZONES
        reject with icmpx admin-prohibited
    }
    chain filter_OUTPUT { type filter hook output priority filter + 10; policy accept; oifname lo accept; }
    chain filter_INPUT_ZONES { iifname eth0 tcp dport 22 accept; }
    chain filter_FORWARD_ZONES { }
}";

/// A firewall by hand that drops what it does not know.
const STRICT: &str = "
table inet guard {
    chain input {
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        iif lo accept
    }
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
    }
}";

/// A machine with a firewall.
struct Guarded {
    name: &'static str,
    rules: &'static str,
    /// Its tables, as `nft` lists them.
    tables: &'static [&'static str],
    /// What the log says is in the way.
    warned_of: &'static [&'static str],
    /// Rules that accept what the log says.
    accept: &'static str,
}

const MACHINES: [Guarded; 3] = [
    Guarded {
        name: "Docker",
        rules: DOCKER,
        tables: &["ip filter", "ip nat"],
        warned_of: &["chain filter/FORWARD"],
        accept: "insert rule ip filter DOCKER-USER iifname \"oak0-*\" accept; \
                 insert rule ip filter DOCKER-USER oifname \"oak0-*\" accept",
    },
    Guarded {
        name: "firewalld",
        rules: FIREWALLD,
        tables: &["inet firewalld"],
        warned_of: &["chain firewalld/filter_FORWARD", "chain firewalld/filter_INPUT"],
        accept: "add rule inet firewalld filter_FORWARD_ZONES iifname \"oak0-*\" accept; \
                 add rule inet firewalld filter_FORWARD_ZONES oifname \"oak0-*\" accept; \
                 add rule inet firewalld filter_INPUT_ZONES iifname \"oak0-*\" meta l4proto { tcp, udp } th dport 53 accept; \
                 add rule inet firewalld filter_INPUT_ZONES udp dport { 50103, 50104, 50106 } accept",
    },
    Guarded {
        name: "a strict one",
        rules: STRICT,
        tables: &["inet guard"],
        warned_of: &["chain guard/forward", "chain guard/input"],
        accept: "add rule inet guard forward iifname \"oak0-*\" accept; \
                 add rule inet guard forward oifname \"oak0-*\" accept; \
                 add rule inet guard input iifname \"oak0-*\" meta l4proto { tcp, udp } th dport 53 accept; \
                 add rule inet guard input udp dport { 50103, 50104, 50106 } accept",
    },
];

impl Guarded {
    fn protect(&self, host: &Host) -> anyhow::Result<()> {
        if self.name == "Docker" {
            for words in [
                &["ip", "link", "add", "name", "docker0", "type", "bridge"][..],
                &["ip", "address", "add", "172.17.0.1/16", "dev", "docker0"],
                &["ip", "link", "set", "docker0", "up"],
            ] {
                host.check(words)?;
            }
        }
        host.check(&["nft", self.rules]).map(drop)
    }

    /// Its tables with everything that tells one rule from another.
    fn listed(&self, host: &Host) -> anyhow::Result<String> {
        let list = |table: &&str| {
            let words =
                [&["nft", "--handle", "list", "table"][..], &table.split(' ').collect::<Vec<_>>()].concat();
            host.check(&words)
        };
        self.tables.iter().map(list).collect()
    }
}

/// Of each worker: a server, which everybody calls, and a client.
fn shop() -> String {
    let workers = ["worker-a", "worker-b", "worker-c"].iter().enumerate();
    let services = workers.flat_map(|(number, worker)| {
        let web = Microservice::nginx(&format!("web{number}"))
            .set("addresses", json!({ "rr_ip": format!("{WEB}{number}") }))
            .set("port", json!(format!("{PORT}:80")));
        let client = Microservice::idle(&format!("client{number}"));
        [web, client].map(|service| service.on(worker).set("replicas", json!(1)))
    });
    application("shop", services.collect::<Vec<_>>())
}

/// The client of each worker fetches the page of each server, by name and by address, and something from outside; from
/// outside everybody reaches the host ports.
fn all_reach_all(world: &World, machines: &Machines) -> anyhow::Result<()> {
    let targets: Vec<String> =
        (0..3).flat_map(|number| [format!("web{number}"), format!("{WEB}{number}")]).collect();
    let outside = format!("http://{}/v2/", world.registry_address());
    let fetch = format!(
        "for t in {}; do curl -sS --max-time 3 http://$t/ | grep -q 'Welcome to nginx' || echo $t; done; \
         curl -sS -f --max-time 3 -o /dev/null {outside} || echo outside",
        targets.join(" ")
    );
    for number in 0..3 {
        let client = format!("client{number}");
        let output = world.command(&machines.root, &["exec", &client, "--", "sh", "-c", &fetch])?;
        ensure!(output.code == Some(0) && output.stdout.trim().is_empty(), "{client} misses: {output:?}");
        let url = format!("http://{}:{PORT}/", machines.workers[number].address());
        let page = world.switch().check(&["curl", "-sS", "--max-time", "3", &url])?;
        ensure!(page.contains("Welcome to nginx"), "{url}: {page}");
    }
    Ok(())
}

#[test]
fn a_worker_names_what_is_in_its_way_and_leaves_it_as_it_was() -> anyhow::Result<()> {
    World::run("coexistence", |world| {
        let machines = Machines::create(world, 3)?;
        let guarded: Vec<(&Guarded, &Host)> = MACHINES.iter().zip(&machines.workers).collect();
        for (firewall, host) in &guarded {
            firewall.protect(host)?;
        }
        let mut tiers = Tiers::start(world, &machines)?;
        // Before anything runs there.
        for (number, (firewall, _)) in guarded.iter().enumerate() {
            for chain in firewall.warned_of {
                tiers.workers[number].wait_for_log(chain)?;
            }
        }
        tiers.api.create(&shop())?;
        for (number, (firewall, _)) in guarded.iter().enumerate() {
            for service in [format!("web{number}"), format!("client{number}")] {
                tiers.api.wait_running(&service, 1)?;
            }
            let log = tiers.workers[number].log_of_this_life()?;
            let warnings = log.lines().filter(|line| line.contains("by default")).count();
            ensure!(warnings == firewall.warned_of.len(), "{}: {log}", firewall.name);
            // It is as the log says: nothing gets out.
            let curl = format!("curl -sS --max-time 2 http://{WEB}{}/", (number + 1) % 3);
            let client = format!("client{number}");
            let output = world.command(&machines.root, &["exec", &client, "--", "sh", "-c", &curl])?;
            ensure!(output.code != Some(0), "{}: {output:?}", firewall.name);
        }
        let mut before = Vec::new();
        for (firewall, host) in &guarded {
            host.check(&["nft", firewall.accept])?;
            before.push(firewall.listed(host)?);
        }
        eventually("everything works", soon() * 2, || all_reach_all(world, &machines))?;
        for ((firewall, host), before) in guarded.iter().zip(&before) {
            ensure!(firewall.listed(host)? == *before, "{} was changed", firewall.name);
        }
        for worker in &mut tiers.workers {
            worker.terminate()?;
        }
        for ((firewall, host), before) in guarded.iter().zip(&before) {
            let down = world.command(host, &["down"])?;
            ensure!(down.code == Some(0), "{down:?}");
            let after = firewall.listed(host)?;
            ensure!(after == *before, "{} was {before} and is {after}", firewall.name);
            let tables = host.check(&["nft", "list", "tables"])?;
            ensure!(tables.lines().count() == firewall.tables.len(), "{tables}");
        }
        let devices = machines.workers[0].check(&["cat", "/proc/net/dev"])?;
        ensure!(devices.contains("docker0") && !devices.contains("oak0"), "{devices}");
        Ok(())
    })
}

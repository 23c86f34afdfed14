//! Connections on which nothing is sent, through a service address to an instance on another worker: what changes around
//! them does not end them, and the kernel remembers them for days.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use oak_e2e::{
    Host, Inside, Machines, Microservice, Tiers, World, application, containers, eventually, soon,
};
use serde_json::json;

const WEB: Ipv4Addr = Ipv4Addr::new(10, 30, 50, 1);
const PORT: u16 = 7007;
const REMEMBERED: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established";
/// Of each agent.
const RESTARTS: usize = 8;
/// What the worker must not shorten: a day.
const LONG: u32 = 24 * 60 * 60;

/// A service with an instance on each worker, and a client on the second one.
fn shop() -> String {
    let web = Microservice::nginx("web")
        .on("worker-a;worker-b")
        .set("addresses", json!({ "rr_ip": WEB.to_string() }))
        .set("max_instances_per_node", json!(1))
        .set("replicas", json!(2));
    let client = Microservice::idle("client").on("worker-b");
    application("shop", [web, client.set("replicas", json!(1))])
}

/// Both ends of a connection to the instance on the first worker.
struct Connection {
    client: TcpStream,
    server: TcpStream,
}

impl Connection {
    /// Connects until it is the turn of that instance, where `listener` is.
    fn open(connect: impl Fn() -> anyhow::Result<TcpStream>, listener: &TcpListener) -> anyhow::Result<Self> {
        listener.set_nonblocking(true)?;
        let (client, server) = eventually("the instance on the other worker has its turn", soon(), || {
            let client = connect()?;
            let server = accepted(listener, client.local_addr()?.port())?;
            Ok((client, server))
        })?;
        server.set_nonblocking(false)?;
        for end in [&client, &server] {
            end.set_read_timeout(Some(Duration::from_secs(3)))?;
        }
        Ok(Self { client, server })
    }

    /// Both ends say something, the client first.
    fn works(&mut self) -> anyhow::Result<()> {
        self.client_speaks()?;
        self.server_speaks()
    }

    fn client_speaks(&mut self) -> anyhow::Result<()> {
        say(&mut self.client, &mut self.server).context("from the client")
    }

    fn server_speaks(&mut self) -> anyhow::Result<()> {
        say(&mut self.server, &mut self.client).context("from the server")
    }
}

/// The connection from this port. It is accepted a moment after it is made, if it is not the turn of the other instance;
/// those that were given up are in the queue, too.
fn accepted(listener: &TcpListener, port: u16) -> anyhow::Result<TcpStream> {
    eventually("it is accepted here", Duration::from_millis(500), || {
        let mut waiting = std::iter::from_fn(|| listener.accept().ok());
        let found = waiting.find(|(_, from)| from.port() == port).context("not here")?;
        Ok(found.0)
    })
}

fn say(from: &mut TcpStream, to: &mut TcpStream) -> anyhow::Result<()> {
    from.write_all(b"x")?;
    to.read_exact(&mut [0])?;
    Ok(())
}

/// What the kernel of a machine remembers of connections to our port: seconds that are left, and the line.
fn remembered(host: &Host) -> anyhow::Result<Vec<(u32, String)>> {
    let table = host.check(&["cat", "/proc/net/nf_conntrack"])?;
    let ours =
        table.lines().filter(|line| line.contains("ESTABLISHED") && line.contains(&format!("={PORT} ")));
    let left = |line: &str| line.split_whitespace().nth(4)?.parse().ok();
    ours.map(|line| Ok((left(line).with_context(|| format!("no time in {line}"))?, line.to_owned())))
        .collect()
}

#[test]
fn what_changes_around_an_idle_connection_does_not_end_it() -> anyhow::Result<()> {
    World::run("idle", |world| {
        let machines = Machines::create(world, 2)?;
        let mut tiers = Tiers::start(world, &machines)?;
        tiers.api.create(&shop())?;
        for (service, count) in [("web", 2), ("client", 1)] {
            tiers.api.wait_running(service, count)?;
        }
        let [here, there] = [&machines.workers[1], &machines.workers[0]];
        let server = Inside::of(there, "nginx")?;
        let listener = server.listen(PORT)?;
        let neighbour = Inside::of(here, "nginx")?.listen(PORT)?;
        let client = Inside::of(here, "sleep 10000")?;
        let to = SocketAddr::from((WEB, PORT));
        let mut connections = [
            Connection::open(|| client.connect(to), &listener)?,
            Connection::open(|| Ok(here.within(|| TcpStream::connect_timeout(&to, soon()))??), &listener)?,
        ];
        connections.iter_mut().try_for_each(Connection::works)?;
        let is_remembered = |after: &str| is_remembered_for_days(&machines).context(after.to_owned());
        is_remembered("the first words")?;

        other_services_come_and_go(&tiers, &machines)?;
        is_remembered("changes of other services")?;
        neighbour_goes(&tiers, &machines, neighbour)?;
        is_remembered("the end of a neighbour")?;
        // Often: what an agent does first is a matter of microseconds.
        for restart in 0..2 * RESTARTS {
            let worker = &mut tiers.workers[restart % 2];
            worker.kill()?;
            worker.start_until("worker ready")?;
            worker.wait_for_log("connected to the cluster")?;
            eventually("the agent has done its first work", soon(), || {
                ensure!(worker.log_of_this_life()?.contains("path to another worker"));
                Ok(())
            })?;
            is_remembered("the restart of an agent")?;
        }
        tiers.cluster.kill()?;
        tiers.cluster.start_until("cluster ready")?;
        for worker in &mut tiers.workers {
            // Once at the start, once again.
            eventually("the worker is back at the cluster", soon(), || {
                ensure!(worker.log_of_this_life()?.matches("connected to the cluster").count() >= 2);
                Ok(())
            })?;
        }
        is_remembered("the restart of the cluster")?;
        other_services_come_and_go(&tiers, &machines)?;
        is_remembered("changes after the restarts")?;
        // Who speaks first must not matter.
        let [inside, machine] = &mut connections;
        inside.server_speaks()?;
        machine.client_speaks()?;
        connections.iter_mut().try_for_each(Connection::works)?;
        drop(connections);
        forgotten(&machines, &client, &listener)
    })
}

/// Both kernels remember the connections for at least a day from the last packet on.
fn is_remembered_for_days(machines: &Machines) -> anyhow::Result<()> {
    for host in &machines.workers {
        let time: u32 = host.check(&["cat", REMEMBERED])?.trim().parse()?;
        ensure!(time >= LONG, "{} remembers for {time} s only", host.name());
        let lines = remembered(host)?;
        ensure!(
            lines.len() >= 2 && lines.iter().all(|(left, _)| *left > LONG - 600),
            "{}: {lines:?}",
            host.name()
        );
    }
    Ok(())
}

/// An instance on each worker, with a host port.
fn other_services_come_and_go(tiers: &Tiers<'_>, machines: &Machines) -> anyhow::Result<()> {
    let other = Microservice::nginx("other").set("replicas", json!(2)).set("port", json!("8080:80"));
    let before = machines.workers.iter().map(containers).collect::<anyhow::Result<Vec<_>>>()?;
    tiers.api.create(&application("other", [other.set("max_instances_per_node", json!(1))]))?;
    tiers.api.wait_running("other", 2)?;
    tiers.api.delete_application("other")?;
    for (host, before) in machines.workers.iter().zip(&before) {
        eventually("nothing of the other service is left", soon(), || {
            let now = containers(host)?;
            ensure!(now.keys().all(|name| before.contains_key(name)), "{now:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// The other instance of the same service is removed.
fn neighbour_goes(tiers: &Tiers<'_>, machines: &Machines, neighbour: TcpListener) -> anyhow::Result<()> {
    let all = tiers.api.instances("web")?;
    let gone = all.iter().find(|instance| instance.worker == "worker-b").context("no neighbour")?;
    drop(neighbour);
    tiers.api.undeploy("web", i64::try_from(gone.number)?)?;
    eventually("only the client is left", soon(), || {
        let left = containers(&machines.workers[1])?;
        ensure!(left.len() == 1, "{left:?}");
        Ok(())
    })
}

/// A connection that is idle for longer than a kernel remembers it (made short here) goes on: on the worker of the called
/// instance whoever speaks first, on that of the caller if the caller does.
fn forgotten(machines: &Machines, client: &Inside, listener: &TcpListener) -> anyhow::Result<()> {
    let to = SocketAddr::from((WEB, PORT));
    for (host, speaks) in [
        (0, Connection::client_speaks as fn(&mut Connection) -> anyhow::Result<()>),
        (0, Connection::server_speaks),
        (1, Connection::client_speaks),
    ] {
        let host = &machines.workers[host];
        let mut connection = Connection::open(|| client.connect(to), listener)?;
        connection.works()?;
        let usual = host.check(&["cat", REMEMBERED])?;
        host.check(&["sh", "-c", &format!("echo 1 >{REMEMBERED}")])?;
        // The next packet counts with the new time.
        connection.works()?;
        let port = connection.client.local_addr()?.port();
        eventually("the kernel has forgotten the connection", soon(), || {
            let lines = remembered(host)?;
            ensure!(!lines.iter().any(|(_, line)| line.contains(&format!("={port} "))), "{lines:?}");
            Ok(())
        })?;
        host.check(&["sh", "-c", &format!("echo {} >{REMEMBERED}", usual.trim())])?;
        let forgot = || format!("forgotten by {}", host.name());
        speaks(&mut connection).with_context(forgot)?;
        connection.works().with_context(forgot)?;
    }
    Ok(())
}

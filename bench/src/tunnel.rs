//! The encrypted path between nodes, against a plain cable and wireguard-go, in turns.
//!
//! Two network namespaces with a veth pair between them. On it, side by side: nothing (the cable itself, routed), our
//! engine, wireguard-go. Once with the segmentation offloads of the cable (as between virtual machines), once without
//! (every packet on the cable has at most 1500 bytes, as on a wire).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use oak_tunnel::{Client, Path, Peer, PrivateKey, TunnelConfig};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::Settings;
use crate::process::{cpu_time, wait_until};
use crate::table::verdict;

/// Rounds if nothing smaller is asked for.
const ROUNDS: usize = 5;
const SECONDS: u32 = 4;
const ROUND_TRIPS: usize = 3_000;
const LIMIT: Duration = Duration::from_secs(20);

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A machine.
struct Node(Process);

impl Node {
    fn new() -> anyhow::Result<Self> {
        let own = fs::read_link("/proc/self/ns/net")?;
        let child = Command::new("unshare").args(["--net", "--", "sleep", "36000"]).spawn()?;
        let node = Self(Process(child));
        wait_until("a namespace", LIMIT, || fs::read_link(node.path()).is_ok_and(|other| other != own))?;
        Ok(node)
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.0.id())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path())).arg("--").arg(program);
        command
    }

    fn run(&self, line: &str) -> anyhow::Result<()> {
        let mut words = line.split(' ');
        let output = self.command(words.next().context("no program")?).args(words).output()?;
        if !output.status.success() {
            bail!("{line}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// A refused connection is an answer.
    fn reaches(&self, address: &'static str) -> bool {
        let connect = || -> anyhow::Result<bool> {
            match TcpStream::connect_timeout(&address.parse()?, Duration::from_secs(1)) {
                Ok(_) => Ok(true),
                Err(error) => Ok(error.kind() == std::io::ErrorKind::ConnectionRefused),
            }
        };
        self.inside(connect).unwrap_or(false)
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        let file = File::open(self.path())?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                work()
            });
            thread.join().unwrap_or_else(|_| bail!("the thread panicked"))
        })
    }
}

/// One of the three ways.
struct Way {
    name: &'static str,
    /// Address of b on it.
    target: &'static str,
    own: &'static str,
    processes: Vec<Process>,
}

#[derive(Default)]
struct Samples {
    gigabits: Vec<f64>,
    cpu_per_gigabit: Vec<f64>,
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Runs the measurement and prints its result.
pub(crate) fn run(settings: &Settings) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let (a, b) = (Node::new()?, Node::new()?);
    a.run(&format!("ip link add up0 type veth peer name up0 netns {}", b.0.0.id()))?;
    for (node, number) in [(&a, 1), (&b, 2)] {
        node.run("ip link set lo up")?;
        node.run(&format!("ip address add 192.0.2.{number}/24 dev up0"))?;
        node.run("ip link set up0 up")?;
    }
    let mut ways = vec![Way { name: "routed", target: "192.0.2.2", own: "192.0.2.1", processes: vec![] }];
    ways.push(ours(&a, &b, directory.path())?);
    match wireguard_go(&a, &b, directory.path()) {
        Ok(way) => ways.push(way),
        Err(error) => println!("skipped: wireguard-go: {error:#}"),
    }
    let server = b.command("iperf3").args(["-s"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let server = Process(server.context("cannot run iperf3")?);
    let listens = || {
        a.command("iperf3").args(["-c", "192.0.2.2", "-n", "1K"]).output().is_ok_and(|o| o.status.success())
    };
    wait_until("iperf3", LIMIT, listens)?;
    let rounds = settings.rounds.min(ROUNDS);
    for (title, offloads) in
        [("with offloads of the cable", "on"), ("every packet at most 1500 bytes", "off")]
    {
        for node in [&a, &b] {
            let offload =
                format!("ethtool -K up0 tso {offloads} gso {offloads} tx-udp-segmentation {offloads}");
            if let Err(error) = node.run(&offload) {
                println!("skipped: {title}: {error:#}");
            }
            node.run("ethtool -K up0 gro on")?;
        }
        measure(title, rounds, &a, &b, &ways, &server)?;
    }
    Ok(())
}

fn measure(
    title: &str,
    rounds: usize,
    a: &Node,
    b: &Node,
    ways: &[Way],
    server: &Process,
) -> anyhow::Result<()> {
    let mut bulk: BTreeMap<(usize, u32), Samples> = BTreeMap::new();
    let mut trips: Vec<Vec<Duration>> = vec![Vec::new(); ways.len()];
    for _ in 0..rounds {
        for streams in [1, 8] {
            for (place, way) in ways.iter().enumerate() {
                let (gigabits, cpu) = transfer(a, way, streams, server)?;
                let samples = bulk.entry((place, streams)).or_default();
                samples.gigabits.push(gigabits);
                samples.cpu_per_gigabit.push(cpu);
            }
        }
        for (place, way) in ways.iter().enumerate() {
            trips[place].extend(round_trips(a, b, way)?);
        }
    }
    println!("\ntunnel, {title} ({rounds} rounds, medians)\n");
    println!(
        "| way | 1 stream Gbit/s | CPU s/Gbit | 8 streams Gbit/s | CPU s/Gbit | RTT 64 B p50 µs | p99 µs |"
    );
    println!("|---|---|---|---|---|---|---|");
    let speed =
        |place: usize, streams: u32| bulk.get(&(place, streams)).map_or(f64::NAN, |s| median(&s.gigabits));
    let cpu = |place: usize, streams: u32| {
        bulk.get(&(place, streams)).map_or(f64::NAN, |s| median(&s.cpu_per_gigabit))
    };
    for (place, way) in ways.iter().enumerate() {
        trips[place].sort_unstable();
        let quantile = |share: f64| {
            let at = (trips[place].len() as f64 * share) as usize;
            trips[place].get(at).map_or(f64::NAN, |trip| trip.as_secs_f64() * 1e6)
        };
        println!(
            "| {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.0} | {:.0} |",
            way.name,
            speed(place, 1),
            cpu(place, 1),
            speed(place, 8),
            cpu(place, 8),
            quantile(0.5),
            quantile(0.99)
        );
    }
    let share = speed(1, 1) / speed(0, 1);
    println!("\nours: {share:.2} of routed with one stream (budget 0.30, {})", verdict(share >= 0.3));
    if ways.len() > 2 {
        let ratio = speed(1, 1) / speed(2, 1);
        println!("ours: {ratio:.2} of wireguard-go with one stream (budget 1, {})", verdict(ratio >= 1.0));
    }
    Ok(())
}

/// Gbit/s, and CPU seconds of everything involved per Gbit.
fn transfer(a: &Node, way: &Way, streams: u32, server: &Process) -> anyhow::Result<(f64, f64)> {
    let involved: Vec<u32> = way.processes.iter().chain([server]).map(|process| process.0.id()).collect();
    let used = || involved.iter().map(|pid| cpu_time(*pid).unwrap_or_default()).sum::<Duration>();
    let before = used();
    let output = a
        .command("iperf3")
        .args(["-J", "-c", way.target, "-t", &SECONDS.to_string(), "-P", &streams.to_string()])
        .output()?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).context("iperf3 says nothing")?;
    let end = &report["end"];
    let bits =
        end["sum_received"]["bytes"].as_f64().with_context(|| format!("{}: {report}", way.name))? * 8.0;
    let seconds = end["sum_received"]["seconds"].as_f64().context("no time")?;
    let client = end["cpu_utilization_percent"]["host_total"].as_f64().unwrap_or(0.0) / 100.0 * seconds;
    let cpu = (used() - before).as_secs_f64() + client;
    Ok((bits / seconds / 1e9, cpu / (bits / 1e9)))
}

/// Round trips of 64 bytes over UDP, one after the other.
fn round_trips(a: &Node, b: &Node, way: &Way) -> anyhow::Result<Vec<Duration>> {
    let echo = b.inside(|| Ok(UdpSocket::bind((way.target, 0))?))?;
    let target = echo.local_addr()?;
    let client = a.inside(|| Ok(UdpSocket::bind((way.own, 0))?))?;
    client.connect(target)?;
    client.set_read_timeout(Some(Duration::from_secs(2)))?;
    let thread = std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = echo.recv_from(&mut buffer) {
            if length == 0 || echo.send_to(&buffer[..length], from).is_err() {
                break;
            }
        }
    });
    let mut times = Vec::with_capacity(ROUND_TRIPS);
    let mut buffer = [0; 64];
    for number in 0..ROUND_TRIPS + 200 {
        let began = Instant::now();
        client.send(&[7; 64])?;
        client.recv(&mut buffer).with_context(|| format!("{}: an echo is missing", way.name))?;
        if number >= 200 {
            times.push(began.elapsed());
        }
    }
    client.send(&[])?;
    let _ = thread.join();
    Ok(times)
}

fn ours(a: &Node, b: &Node, directory: &std::path::Path) -> anyhow::Result<Way> {
    let program = std::env::current_exe()?.with_file_name("oak-tunnel");
    let mut processes = Vec::new();
    let mut clients = Vec::new();
    for (node, name, own) in [(a, "a", 0), (b, "b", 1)] {
        let config = TunnelConfig::new("tun0", 51820, directory.join(name));
        let file: PathBuf = directory.join(format!("{name}.json"));
        fs::write(&file, serde_json::to_vec(&config)?)?;
        let engine = node.command(&program.display().to_string()).arg(&file).stderr(Stdio::null()).spawn()?;
        processes.push(Process(engine));
        let client = Client::new(&config);
        wait_until("the engine", LIMIT, || client.status().is_ok())?;
        clients.push(client);
        node.run(&format!("ip address add 10.18.{own}.1/26 dev tun0"))?;
        node.run(&format!("ip route add 10.18.{}.0/26 dev tun0", 1 - own))?;
    }
    for (own, other, number) in [(0, 1, 2), (1, 0, 1)] {
        let peer = Peer {
            name: "other".to_owned(),
            public_key: clients[other].status()?.public_key,
            paths: vec![Path::Direct(format!("192.0.2.{number}:51820").parse()?)],
            networks: vec![format!("10.18.{other}.0/26").parse()?],
            ..Peer::default()
        };
        clients[own].set_peers(vec![peer])?;
    }
    wait_until("our tunnel", LIMIT, || a.reaches("10.18.1.1:9"))?;
    Ok(Way { name: "oak-tunnel", target: "10.18.1.1", own: "10.18.0.1", processes })
}

fn wireguard_go(a: &Node, b: &Node, directory: &std::path::Path) -> anyhow::Result<Way> {
    let keys = [PrivateKey::generate(), PrivateKey::generate()];
    let mut processes = Vec::new();
    for (node, own, other) in [(a, 0, 1), (b, 1, 0)] {
        // Its control socket is visible on the whole machine.
        let name = format!("bwg{own}x{}", std::process::id() % 100_000);
        let file = directory.join(format!("go{own}.key"));
        fs::write(&file, String::from(keys[own].clone()))?;
        let mut command = node.command("wireguard-go");
        processes
            .push(Process(command.args(["-f", &name]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?));
        wait_until("wireguard-go", LIMIT, || node.run(&format!("wg show {name}")).is_ok())?;
        node.run(&format!(
            "wg set {name} listen-port 51821 private-key {} peer {} endpoint 192.0.2.{}:51821 allowed-ips 10.19.{other}.0/26",
            file.display(),
            keys[other].public(),
            other + 1
        ))?;
        node.run(&format!("ip address add 10.19.{own}.1/26 dev {name}"))?;
        node.run(&format!("ip link set {name} mtu 1420 up"))?;
        node.run(&format!("ip route add 10.19.{other}.0/26 dev {name}"))?;
    }
    wait_until("wireguard-go", LIMIT, || a.reaches("10.19.1.1:9"))?;
    Ok(Way { name: "wireguard-go", target: "10.19.1.1", own: "10.19.0.1", processes })
}

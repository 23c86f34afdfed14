//! How fast packets get from one machine to another, on several ways in turns.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::machine;
use crate::node::{LIMIT, Place, Process};
use crate::process::wait_until;

const SECONDS: u32 = 4;
const ROUND_TRIPS: usize = 3_000;
/// The first ones set up connections and caches.
const WARM_UP: usize = 200;

/// A way from one place to another.
pub(crate) struct Way {
    pub(crate) name: String,
    pub(crate) from: Place,
    pub(crate) to: Place,
    /// Address of the client on this way.
    pub(crate) own: Ipv4Addr,
    /// What the client calls.
    pub(crate) target: Ipv4Addr,
    /// Address under which the server takes it.
    pub(crate) listens: Ipv4Addr,
}

/// What was measured on one way.
#[derive(Default)]
pub(crate) struct Samples {
    /// Gbit/s and CPU seconds of the machine per Gbit, by the number of streams.
    bulk: BTreeMap<u32, Vec<(f64, f64)>>,
    trips: Vec<Duration>,
}

impl Samples {
    /// Gbit/s, median.
    pub(crate) fn speed(&self, streams: u32) -> f64 {
        median(self.bulk.get(&streams).into_iter().flatten().map(|sample| sample.0))
    }

    fn cpu(&self, streams: u32) -> f64 {
        median(self.bulk.get(&streams).into_iter().flatten().map(|sample| sample.1))
    }

    /// Round trip in microseconds.
    pub(crate) fn trip(&self, share: f64) -> f64 {
        let mut trips: Vec<_> = self.trips.iter().map(|trip| trip.as_secs_f64() * 1e6).collect();
        trips.sort_by(f64::total_cmp);
        trips.get((trips.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN)
    }

    /// One round more.
    pub(crate) fn add(&mut self, way: &Way) -> anyhow::Result<()> {
        for streams in [1, 8] {
            self.bulk.entry(streams).or_default().push(transfer(way, streams)?);
        }
        self.trips.extend(round_trips(way)?);
        Ok(())
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// One line for each way.
pub(crate) fn print(title: &str, rounds: usize, ways: &[Way], samples: &[Samples]) {
    println!("\n{title} ({rounds} rounds, medians; CPU of the whole machine)\n");
    println!(
        "| way | 1 stream Gbit/s | CPU s/Gbit | 8 streams Gbit/s | CPU s/Gbit | RTT 64 B p50 µs | p99 µs |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (way, of) in ways.iter().zip(samples) {
        println!(
            "| {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.0} | {:.0} |",
            way.name,
            of.speed(1),
            of.cpu(1),
            of.speed(8),
            of.cpu(8),
            of.trip(0.5),
            of.trip(0.99)
        );
    }
}

/// Starts the other end of [`Samples::add`].
pub(crate) fn serve(place: &Place) -> anyhow::Result<Process> {
    let server: Child = place
        .command("iperf3")
        .args(["-s"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot run iperf3")?;
    let server = Process(server);
    wait_until("iperf3", LIMIT, || place.reaches("127.0.0.1:5201"))?;
    Ok(server)
}

/// Gbit/s, and CPU seconds of the machine per Gbit.
fn transfer(way: &Way, streams: u32) -> anyhow::Result<(f64, f64)> {
    let busy = machine::busy()?;
    let output = way
        .from
        .command("iperf3")
        .args(["-J", "-B", &way.own.to_string(), "-c", &way.target.to_string()])
        .args(["-t", &SECONDS.to_string(), "-P", &streams.to_string()])
        .output()?;
    let busy = machine::busy()? - busy;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).context("iperf3 says nothing")?;
    let received = &report["end"]["sum_received"];
    let bits = received["bytes"].as_f64().with_context(|| format!("{}: {report}", way.name))? * 8.0;
    let seconds = received["seconds"].as_f64().context("no time")?;
    Ok((bits / seconds / 1e9, busy.as_secs_f64() / (bits / 1e9)))
}

/// Keeps the calling thread on the first processor.
fn pin() -> anyhow::Result<()> {
    let mut first = CpuSet::new();
    first.set(0);
    sched_setaffinity(None, &first).context("cannot choose a processor")
}

/// Round trips of 64 bytes over UDP, one after the other. Both ends are on one processor: on two, what is measured is how
/// long a virtual one takes to wake up.
fn round_trips(way: &Way) -> anyhow::Result<Vec<Duration>> {
    std::thread::scope(|scope| {
        let trips = scope.spawn(|| pinned_round_trips(way));
        trips.join().unwrap_or_else(|_| anyhow::bail!("the thread panicked"))
    })
}

fn pinned_round_trips(way: &Way) -> anyhow::Result<Vec<Duration>> {
    pin()?;
    let echo = way.to.inside(|| Ok(UdpSocket::bind((way.listens, 0))?))?;
    let port = echo.local_addr()?.port();
    let client = way.from.inside(|| Ok(UdpSocket::bind((way.own, 0))?))?;
    client.connect((way.target, port))?;
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
    for number in 0..ROUND_TRIPS + WARM_UP {
        let began = Instant::now();
        client.send(&[7; 64])?;
        client.recv(&mut buffer).with_context(|| format!("{}: an echo is missing", way.name))?;
        if number >= WARM_UP {
            times.push(began.elapsed());
        }
    }
    client.send(&[])?;
    let _ = thread.join();
    Ok(times)
}

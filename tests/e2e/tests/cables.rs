//! The cables of played machines: what they are told to do is what happens to real packets.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use oak_e2e::{Cable, Conditions, Direction, Host, Passage, World, eventually, soon};

const MILLISECOND: Duration = Duration::from_millis(1);

#[test]
fn packets_are_late_lost_and_swallowed_as_asked() -> anyhow::Result<()> {
    World::run("cables", |world| {
        let far = world.host_on_cable("far", 10)?;
        let near = world.host("near", 11)?;
        let cable = far.cable()?;
        let pair = Pair::between(&near, &far)?;

        let quick = pair.round_trip()?;
        cable.set(Conditions { delay: 40 * MILLISECOND, ..Conditions::default() });
        let slow = pair.round_trip()?;
        // The best of several: what is above is the machine that runs the test.
        ensure!((80 * MILLISECOND..80 * MILLISECOND + quick + 10 * MILLISECOND).contains(&slow), "{slow:?}");

        cable.set_one(Direction::Incoming, Conditions { loss: 0.2, ..Conditions::default() });
        cable.set_one(Direction::Outgoing, Conditions::default());
        let before = cable.counters(Direction::Incoming);
        let arrived = pair.arriving(cable, 2000)?;
        let lost = cable.counters(Direction::Incoming).lost - before.lost;
        // Expected are 1600 with a standard deviation of 18.
        ensure!((1500..=1700).contains(&arrived), "{arrived} of 2000 arrived");
        ensure!((300..=500).contains(&lost), "{lost} were lost");

        cable.mend();
        cable.set_one(Direction::Outgoing, Conditions { passage: Passage::Silent, ..Conditions::default() });
        ensure!(pair.arriving(cable, 50)? == 50, "what goes in was cut too");
        ensure!(pair.round_trip().is_err(), "an answer came through a cut");
        cable.cut();
        ensure!(pair.arriving(cable, 50)? == 0, "something came through a cut");
        cable.mend();
        pair.round_trip().context("after mending")?;

        connections_are_reset(&near, &far)
    })
}

/// Both ends of a connection, and whoever tries to make a new one, are told; the machine can then be switched off and
/// on, and the cable is still as it was.
fn connections_are_reset(near: &Host, far: &Host) -> anyhow::Result<()> {
    let cable = far.cable()?;
    let listener = far.within(|| TcpListener::bind((far.address(), 7001)))??;
    let mut caller = connect(near, far)?;
    let (mut called, _) = listener.accept()?;
    caller.write_all(b"x")?;
    called.read_exact(&mut [0])?;
    cable.set(Conditions { passage: Passage::Reset, ..Conditions::default() });
    caller.write_all(b"y")?;
    for (name, stream) in [("caller", &mut caller), ("called", &mut called)] {
        stream.set_read_timeout(Some(soon()))?;
        let error = stream.read(&mut [0]).err().with_context(|| format!("the {name} was not told"))?;
        ensure!(error.kind() == std::io::ErrorKind::ConnectionReset, "the {name} was told {error}");
    }
    let started = Instant::now();
    ensure!(connect(near, far).is_err() && started.elapsed() < soon(), "a new connection came through");
    cable.mend();
    connect(near, far).map(drop)
}

#[test]
fn a_machine_comes_back_after_a_power_cut_without_anything_but_its_files() -> anyhow::Result<()> {
    World::run("power", |world| {
        let host = world.host_on_cable("machine", 10)?;
        let boot = host.check(&["cat", "/proc/sys/kernel/random/boot_id"])?;
        let file = host.directory().join("kept");
        host.check(&["touch", &file.to_string_lossy()])?;
        let mut sleeper = host.command("sleep").arg("1000").spawn()?;
        // Something that is stopped must not keep the machine.
        let mut stopped = host.command("sh").args(["-c", "kill -STOP $$"]).spawn()?;
        host.check(&["mount", "-t", "tmpfs", "left", "/mnt"])?;
        host.check(&["nft", "add table inet left"])?;
        host.cable()?.set(Conditions { delay: MILLISECOND, ..Conditions::default() });

        host.power_off()?;
        sleeper.wait()?;
        stopped.wait()?;
        ensure!(host.run(&["true"])?.code != Some(0), "something runs on a machine that is off");
        ensure!(host.power_off().is_err(), "switched off twice");

        world.power_on(&host)?;
        ensure!(host.check(&["cat", "/proc/sys/kernel/random/boot_id"])? != boot, "the same boot");
        ensure!(
            !host.check(&["cat", "/proc/self/mounts"])?.contains("left /mnt"),
            "the mount is still there"
        );
        ensure!(host.check(&["nft", "list", "ruleset"])?.is_empty(), "the rules are still there");
        ensure!(file.exists(), "the file is gone");
        ensure!(host.cable()?.conditions(Direction::Outgoing).delay == MILLISECOND);
        host.wait_for_port(world.registry_address())
    })
}

fn connect(from: &Host, to: &Host) -> anyhow::Result<TcpStream> {
    let address = SocketAddr::from((to.address(), 7001));
    Ok(from.within(|| TcpStream::connect_timeout(&address, soon()))??)
}

/// A socket on each machine.
struct Pair {
    near: UdpSocket,
    far: UdpSocket,
    to_far: SocketAddr,
}

impl Pair {
    fn between(near: &Host, far: &Host) -> anyhow::Result<Self> {
        let bind = |host: &Host| host.within(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 7000)));
        let pair =
            Self { near: bind(near)??, far: bind(far)??, to_far: SocketAddr::from((far.address(), 7000)) };
        // Neighbours are found before anything is measured.
        eventually("the machines see each other", soon(), || pair.once().map(drop))?;
        Ok(pair)
    }

    fn once(&self) -> anyhow::Result<Duration> {
        let start = Instant::now();
        self.near.send_to(b"?", self.to_far)?;
        self.far.set_read_timeout(Some(Duration::from_millis(500)))?;
        let (_, back) = self.far.recv_from(&mut [0; 16])?;
        self.far.send_to(b"!", back)?;
        self.near.set_read_timeout(Some(Duration::from_millis(500)))?;
        self.near.recv_from(&mut [0; 16])?;
        Ok(start.elapsed())
    }

    /// The best time of ten there and back.
    fn round_trip(&self) -> anyhow::Result<Duration> {
        let mut best = self.once()?;
        for _ in 1..10 {
            best = best.min(self.once()?);
        }
        Ok(best)
    }

    /// How many of `count` packets arrive at the far machine. They are sent no faster than the cable takes them, so
    /// that no queue overflows.
    fn arriving(&self, cable: &Cable, count: u64) -> anyhow::Result<u64> {
        const UNDER_WAY: u64 = 64;
        let taken = || cable.counters(Direction::Incoming).accepted;
        let before = taken();
        let mut arrived = 0;
        self.far.set_nonblocking(true)?;
        for sent in 0..count {
            eventually("the cable takes what is sent", soon(), || {
                ensure!(sent < taken() - before + UNDER_WAY);
                Ok(())
            })?;
            self.near.send_to(b"?", self.to_far)?;
            while self.far.recv_from(&mut [0; 16]).is_ok() {
                arrived += 1;
            }
        }
        self.far.set_nonblocking(false)?;
        // What is still under way; a second of silence is the end.
        self.far.set_read_timeout(Some(Duration::from_secs(1)))?;
        while self.far.recv_from(&mut [0; 16]).is_ok() {
            arrived += 1;
        }
        Ok(arrived)
    }
}

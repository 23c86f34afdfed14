//! Two machines as network namespaces with a cable between them, an engine on each, and traffic.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use oak_tunnel::{Client, KernelConfig, Path, Peer, PrivateKey, Status, TunnelConfig};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

pub(crate) const PORT: u16 = 51820;

/// A process that is killed and waited for when the test ends, however it ends.
pub(crate) struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) struct Node {
    pub(crate) client: Client,
    pub(crate) config: TunnelConfig,
    engine: Option<Process>,
    /// Keeps the namespace.
    holder: Process,
    file: PathBuf,
}

pub(crate) struct World {
    pub(crate) a: Node,
    pub(crate) b: Node,
    pub(crate) directory: TempDir,
}

pub(crate) fn eventually(what: &str, condition: impl FnMut() -> bool) {
    within(Duration::from_secs(30), what, condition);
}

#[allow(clippy::disallowed_methods, reason = "the one place where a test waits, always for a condition")]
pub(crate) fn within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {} s", limit.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn is_installed(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).exists()))
}

pub(crate) fn stranger() -> Peer {
    let public_key = PrivateKey::from_bytes([77; 32]).public();
    Peer { name: "stranger".to_owned(), public_key, ..Peer::default() }
}

impl Node {
    pub(crate) fn new(directory: &std::path::Path, name: &str) -> Self {
        let holder = Command::new("unshare").args(["--net", "--", "sleep", "900"]).spawn().unwrap();
        let holder = Process(holder);
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let namespace = format!("/proc/{}/ns/net", holder.0.id());
        eventually("the namespace", || fs::read_link(&namespace).is_ok_and(|other| other != own));
        let config = TunnelConfig::new("tun0", PORT, directory.join(name));
        let file = directory.join(format!("{name}.json"));
        fs::write(&file, serde_json::to_vec(&config).unwrap()).unwrap();
        Self { client: Client::new(&config), config, engine: None, holder, file }
    }

    fn namespace(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.0.id())
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.namespace())).arg("--").arg(program);
        command
    }

    pub(crate) fn try_run(&self, line: &str) -> Result<(), String> {
        let (program, arguments) = line.split_once(' ').unwrap();
        let output = self.command(program).args(arguments.split(' ')).output().unwrap();
        let text = || format!("{line}\n{output:?}");
        if output.status.success() { Ok(()) } else { Err(text()) }
    }

    pub(crate) fn run(&self, line: &str) {
        self.try_run(line).unwrap();
    }

    /// Waits until the address answers: a refused connection is an answer, too.
    pub(crate) fn reaches(&self, address: &str) {
        let target = SocketAddr::new(address.parse().unwrap(), 9);
        let limit = Duration::from_secs(5);
        eventually(address, || match self.inside(|| TcpStream::connect_timeout(&target, limit)) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        });
    }

    /// Runs on a thread inside the namespace; sockets made there stay there.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(self.namespace()).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            });
            thread.join().unwrap()
        })
    }

    /// The next engine has a lane in the kernel.
    pub(crate) fn use_kernel(&mut self, device: &str, port: u16) {
        self.config.kernel = Some(KernelConfig { device: device.to_owned(), port, is_used: true });
        fs::write(&self.file, serde_json::to_vec(&self.config).unwrap()).unwrap();
    }

    /// The next engine has none any more.
    pub(crate) fn leave_kernel(&mut self) {
        self.config.kernel.as_mut().unwrap().is_used = false;
        fs::write(&self.file, serde_json::to_vec(&self.config).unwrap()).unwrap();
    }

    pub(crate) fn start(&mut self) {
        self.start_with(|_| {});
    }

    /// Starts an engine whose process is prepared in some way.
    pub(crate) fn start_with(&mut self, prepare: impl FnOnce(&mut Command)) {
        let mut command = self.command(env!("CARGO_BIN_EXE_oak-tunnel"));
        prepare(command.arg(&self.file));
        self.engine = Some(Process(command.spawn().unwrap()));
        eventually("the engine", || self.client.status().is_ok());
    }

    pub(crate) fn status(&self) -> Status {
        self.client.status().unwrap()
    }

    /// The path to the only peer.
    pub(crate) fn path(&self) -> Option<Path> {
        self.status().peers[0].path
    }

    /// Process of the engine.
    pub(crate) fn pid(&self) -> u32 {
        self.engine.as_ref().unwrap().0.id()
    }

    /// A cable to another machine; both ends get this name.
    pub(crate) fn cable(&self, name: &str, other: &Self, other_name: &str) {
        let namespace = other.holder.0.id();
        self.run(&format!("ip link add {name} type veth peer name {other_name} netns {namespace}"));
        self.run(&format!("ip link set {name} up"));
        other.run(&format!("ip link set {other_name} up"));
    }

    /// Feeds nft with a table.
    pub(crate) fn nft(&self, rules: &str) {
        let mut command = self.command("nft");
        let mut child = command.args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{rules}");
    }

    /// What a program says.
    pub(crate) fn ask(&self, line: &str) -> String {
        let mut words = line.split(' ');
        let output = self.command(words.next().unwrap()).args(words).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn second_engine(&self) -> ExitStatus {
        self.command(env!("CARGO_BIN_EXE_oak-tunnel")).arg(&self.file).status().unwrap()
    }

    pub(crate) fn kill(&mut self) {
        self.engine = None;
    }

    /// Kills the engine (SIGKILL) and starts another one.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.start();
    }

    /// Waits for the engine to end by itself.
    pub(crate) fn wait(&mut self) {
        let mut engine = self.engine.take().unwrap();
        eventually("the end of the engine", || engine.0.try_wait().unwrap().is_some());
    }
}

/// Whether this machine lets us; says so if not.
pub(crate) fn may_run() -> bool {
    let may = rustix::process::geteuid().is_root() && std::path::Path::new("/dev/net/tun").exists();
    if !may {
        eprintln!("skipped: needs root and /dev/net/tun");
    }
    may
}

impl World {
    fn cables() -> Option<Self> {
        if !may_run() {
            return None;
        }
        let directory = tempfile::Builder::new().prefix("oak-tunnel-").tempdir().unwrap();
        let (a, b) = (Node::new(directory.path(), "a"), Node::new(directory.path(), "b"));
        a.cable("up0", &b, "up0");
        for (node, number) in [(&a, 1), (&b, 2)] {
            node.run("ip link set lo up");
            node.run(&format!("ip address add 192.0.2.{number}/24 dev up0"));
            node.run(&format!("ip address add 2001:db8::{number}/64 dev up0 nodad"));
        }
        Some(Self { a, b, directory })
    }

    /// Two machines with cables and no engines.
    pub(crate) fn without_engines() -> Option<Self> {
        Self::cables()
    }

    /// The same with any machines.
    pub(crate) fn of(a: Node, b: Node, directory: TempDir) -> Self {
        Self { a, b, directory }
    }

    /// Two engines that know nothing of each other; the devices have addresses and routes.
    pub(crate) fn new() -> Option<Self> {
        let mut world = Self::cables()?;
        world.a.start();
        world.b.start();
        world.address();
        Some(world)
    }

    /// Only a has an engine, and no peers.
    pub(crate) fn with_one_engine() -> Option<Self> {
        let mut world = Self::cables()?;
        world.a.start();
        Some(world)
    }

    pub(crate) fn address(&self) {
        Self::address_node(&self.a, (0, 1), (1, 2));
        self.address_b();
    }

    pub(crate) fn address_b(&self) {
        Self::address_node(&self.b, (1, 2), (0, 1));
    }

    fn address_node(node: &Node, own: (u8, u8), other: (u8, u8)) {
        node.run(&format!("ip address add 10.18.{}.1/26 dev tun0", own.0));
        node.run(&format!("ip route add 10.18.{}.0/26 dev tun0", other.0));
        node.run(&format!("ip address add fc00:{}::1/64 dev tun0 nodad", own.1));
        node.run(&format!("ip route add fc00:{}::/64 dev tun0", other.1));
    }

    pub(crate) fn peer_a(&self, at: Option<SocketAddr>) -> Peer {
        Peer {
            name: "a".to_owned(),
            public_key: self.a.client.status().unwrap().public_key,
            paths: at.map(Path::Direct).into_iter().collect(),
            networks: vec!["10.18.0.0/26".parse().unwrap(), "fc00:1::/64".parse().unwrap()],
            ..Peer::default()
        }
    }

    pub(crate) fn peer_b(&self, at: SocketAddr) -> Peer {
        Peer {
            name: "b".to_owned(),
            public_key: self.b.client.status().unwrap().public_key,
            paths: vec![Path::Direct(at)],
            networks: vec!["10.18.1.0/26".parse().unwrap(), "fc00:2::/64".parse().unwrap()],
            ..Peer::default()
        }
    }

    /// Makes them peers. Only a knows where the other one is: b learns it.
    pub(crate) fn connect(&self, b: SocketAddr) {
        self.b.client.set_peers(vec![self.peer_a(None)]).unwrap();
        self.a.client.set_peers(vec![self.peer_b(b)]).unwrap();
        self.a.reaches("10.18.1.1");
    }
}

/// Starts wireguard-go on b, as a peer of a.
pub(crate) fn wireguard_go(world: &World) -> Process {
    // The name of its control socket is visible on the whole machine.
    let name = format!("oakwg{}", std::process::id() % 1_000_000);
    let key = PrivateKey::from_bytes([42; 32]);
    let preshared = oak_tunnel::PresharedKey::from_bytes([43; 32]);
    let secret = |file: &str, text: String| {
        let path = world.directory.path().join(file);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.display().to_string()
    };
    let key_file = secret("go.key", key.clone().into());
    let preshared_file = secret("go.psk", preshared.clone().into());
    let mut command = world.b.command("wireguard-go");
    let child = command.args(["-f", &name]).stdout(Stdio::null()).spawn().unwrap();
    let process = Process(child);
    eventually("wireguard-go", || world.b.try_run(&format!("wg show {name}")).is_ok());
    let ours = world.a.client.status().unwrap().public_key;
    world.b.run(&format!(
        "wg set {name} listen-port {PORT} private-key {key_file} peer {ours} preshared-key {preshared_file} \
         endpoint 192.0.2.1:{PORT} allowed-ips 10.18.0.0/26"
    ));
    world.b.run(&format!("ip address add 10.18.1.1/26 dev {name}"));
    world.b.run(&format!("ip link set {name} up"));
    world.b.run(&format!("ip route add 10.18.0.0/26 dev {name}"));
    world.a.run("ip address add 10.18.0.1/26 dev tun0");
    world.a.run("ip route add 10.18.1.0/26 dev tun0");
    let peer = Peer {
        name: "go".to_owned(),
        public_key: key.public(),
        preshared_key: Some(preshared),
        paths: vec![Path::Direct("192.0.2.2:51820".parse().unwrap())],
        networks: vec!["10.18.1.0/26".parse().unwrap()],
        ..Peer::default()
    };
    world.a.client.set_peers(vec![peer]).unwrap();
    process
}

/// A TCP connection whose content both ends can compute.
pub(crate) struct Transfer {
    stream: TcpStream,
    sent: u64,
    receiver: JoinHandle<u64>,
}

const BLOCK: usize = 1 << 16;

fn content(at: u64) -> Vec<u8> {
    let mut state = at.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut block = Vec::with_capacity(BLOCK);
    while block.len() < BLOCK {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        block.extend_from_slice(&state.to_le_bytes());
    }
    block
}

impl Transfer {
    pub(crate) fn start(from: &Node, to: &Node, address: &str) -> Self {
        let address: std::net::IpAddr = address.parse().unwrap();
        let listener = to.inside(|| TcpListener::bind((address, 0)).unwrap());
        let target = listener.local_addr().unwrap();
        let receiver = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut block = vec![0; BLOCK];
            let mut received = 0;
            loop {
                match stream.read_exact(&mut block) {
                    Ok(()) => assert!(block == content(received), "content at {received}"),
                    Err(_) => return received,
                }
                received += BLOCK as u64;
                stream.write_all(&[1]).unwrap();
            }
        });
        let limit = Duration::from_secs(20);
        let stream = from.inside(|| TcpStream::connect_timeout(&target, limit).unwrap());
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
        Self { stream, sent: 0, receiver }
    }

    /// Sends bytes and waits until the other end has checked them.
    pub(crate) fn send(&mut self, bytes: u64) {
        let blocks = bytes / BLOCK as u64;
        for _ in 0..blocks {
            self.stream.write_all(&content(self.sent)).unwrap();
            self.sent += BLOCK as u64;
        }
        let mut checked = vec![0; usize::try_from(blocks).unwrap()];
        self.stream.read_exact(&mut checked).unwrap();
    }

    pub(crate) fn finish(self) {
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(self.receiver.join().unwrap(), self.sent);
    }
}

//! The process: threads of the data path, the control thread, the socket of the agent.

mod agent;
pub(crate) mod control;
pub(crate) mod egress;
pub(crate) mod ingress;
mod kernel;
pub(crate) mod outgoing;
pub(crate) mod shared;
pub(crate) mod state;

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use rustix::fs::{FlockOperation, flock};

use self::control::{Control, ORDERS, Order};
use self::egress::Egress;
use self::ingress::Ingress;
use self::outgoing::Outgoing;
use self::shared::{Shared, now};
use self::state::State;
use crate::config::{InvalidConfig, TunnelConfig};
use crate::core::gate::Gate;
use crate::key::PrivateKey;
use crate::packet::merge::Merge;
use crate::request::{Answer, MAX_LINE, Request};
use crate::sys;
use crate::sys::udp::Udp;
use crate::tried::{SystemError, Tried};

/// Receive and send buffers of each socket: 20 ms at 1.6 Gbit/s.
const BUFFER: i32 = 4 << 20;
/// Threads for each direction, if nothing else is said.
const MOST_THREADS: usize = 4;
/// So often, every 50 ms, it is looked whether the engine before this one has ended.
const ENDING_TRIES: u32 = 20;
/// A local program that is slower than this is not served.
const PATIENCE: Duration = Duration::from_secs(2);

/// An engine that could not start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A setting is out of its range.
    #[error("wrong setting")]
    Config(#[from] InvalidConfig),
    /// The system refused something.
    #[error(transparent)]
    System(#[from] SystemError),
    /// Another engine uses the directory.
    #[error("another tunnel engine runs in {0}")]
    Running(std::path::PathBuf),
}

/// Runs an engine in the network namespace of the calling thread, until a client tells it to stop. The process must
/// end after this: threads of the data path sleep in the kernel and hold the device until then.
///
/// # Errors
///
/// When it cannot start. Once it runs, what fails is logged, and the engine goes on.
pub fn run(config: &TunnelConfig) -> Result<(), EngineError> {
    config.check()?;
    let directory = &config.directory;
    state::prepare(directory).tried(|| format!("make directory {}", directory.display()))?;
    let _lock = lock_directory(config)?;
    // Signals to the agent's group are not for the engine. A process that leads a group already has its own.
    let _ = rustix::process::setsid();
    let file = config.state_file();
    let state = match State::read(&file).tried(|| format!("read {}", file.display()))? {
        Some(state) => state,
        None => {
            let state = State::new(PrivateKey::generate());
            state.write(&file).tried(|| format!("write {}", file.display()))?;
            state
        }
    };
    let processors = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let count = config.threads.unwrap_or(processors.min(MOST_THREADS));
    let what = || format!("open device {}", config.device);
    let queues = repeat(count, || sys::open_tun(&config.device)).tried(what)?;
    sys::bring_up(&config.device, config.mtu).tried(|| format!("switch on device {}", config.device))?;
    let sockets = repeat(count, || Udp::shared(config.port, BUFFER))
        .tried(|| format!("open UDP port {}", config.port))?;
    if !sockets[0].has_ipv6() {
        tracing::warn!(port = config.port, "no IPv6 on this machine: peers are reached over IPv4 only");
    }
    let (orders, inbox) = sync_channel(ORDERS);
    let mut secret = [0; 32];
    StdRng::from_os_rng().fill_bytes(&mut secret);
    let shared = Arc::new(Shared::new(orders.clone(), Gate::new(now(), secret), config.mtu));
    start(&shared, &queues, &sockets)?;
    listen(config, orders)?;
    let reply = Control::new(config.clone(), state, shared, Arc::clone(&sockets[0])).run(&inbox);
    let _ = sys::set_persistent(&queues[0], false);
    if let Some(kernel) = &config.kernel {
        let _ = kernel::remove(kernel);
    }
    let _ = std::fs::remove_file(config.control_socket());
    if let Some(reply) = reply {
        // The process ends with this function, so the answer must have been written: its receiver is given up then.
        while reply.send(Answer::Done).is_ok() {}
    }
    Ok(())
}

/// Removes the device of an engine that does not run, with its addresses and routes; succeeds if there is none.
pub fn remove(config: &TunnelConfig) -> Result<(), EngineError> {
    config.check()?;
    if let Some(kernel) = &config.kernel {
        kernel::remove(kernel)?;
    }
    let what = || format!("remove device {}", config.device);
    let tun = sys::open_tun(&config.device).tried(what)?;
    Ok(sys::set_persistent(&tun, false).tried(what)?)
}

fn repeat<T>(count: usize, mut open: impl FnMut() -> io::Result<T>) -> io::Result<Vec<Arc<T>>> {
    (0..count).map(|_| open().map(Arc::new)).collect()
}

fn lock_directory(config: &TunnelConfig) -> Result<File, EngineError> {
    let path = config.directory.join("lock");
    let open = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = open.tried(|| format!("open {}", path.display()))?;
    // One that was told to stop may need a moment for its last steps.
    for _ in 0..ENDING_TRIES {
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Ok(file);
        }
        let pause = rustix::time::Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        let _ = rustix::event::poll(&mut [], Some(&pause));
    }
    Err(EngineError::Running(config.directory.clone()))
}

/// Starts the threads of the data path.
fn start(shared: &Arc<Shared>, queues: &[Arc<OwnedFd>], sockets: &[Arc<Udp>]) -> Result<(), EngineError> {
    for (number, (tun, socket)) in queues.iter().zip(sockets).enumerate() {
        let egress = Egress {
            shared: Arc::clone(shared),
            tun: Arc::clone(tun),
            socket: Arc::clone(socket),
            outgoing: Outgoing::new(),
            sent: Vec::new(),
            target: None,
        };
        spawn(&format!("tunnel-out-{number}"), move || egress.run())?;
        let ingress = Ingress {
            shared: Arc::clone(shared),
            socket: Arc::clone(socket),
            queues: queues.to_vec(),
            random: StdRng::from_os_rng(),
            merge: Merge::default(),
        };
        spawn(&format!("tunnel-in-{number}"), move || ingress.run())?;
    }
    Ok(())
}

/// Starts a thread of the data path. If one ends, the process does: half an engine is worse than a restarted one.
fn spawn(name: &str, work: impl FnOnce() -> io::Result<()> + Send + 'static) -> Result<(), EngineError> {
    let builder = thread::Builder::new().name(name.to_owned());
    let thread = name.to_owned();
    let guarded = move || {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        tracing::error!(thread, ?outcome, "a thread of the data path ended");
        std::process::exit(1);
    };
    builder.spawn(guarded).tried(|| format!("start thread {name}"))?;
    Ok(())
}

/// Serves the control socket: one connection at a time, one question each.
fn listen(config: &TunnelConfig, orders: SyncSender<Order>) -> Result<(), EngineError> {
    let path = config.control_socket();
    let _ = std::fs::remove_file(&path);
    let what = || format!("open {}", path.display());
    let listener = UnixListener::bind(&path).tried(what)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).tried(what)?;
    spawn("tunnel-control", move || {
        for stream in listener.incoming() {
            if let Err(error) = stream.and_then(|stream| serve(stream, &orders)) {
                tracing::debug!(%error, "a question was not answered");
            }
        }
        Ok(())
    })
}

fn serve(mut stream: UnixStream, orders: &SyncSender<Order>) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let (reply, answer) = sync_channel(1);
    let mut line = Vec::new();
    BufReader::new((&stream).take(MAX_LINE)).read_until(b'\n', &mut line)?;
    let answer = match serde_json::from_slice::<Request>(&line) {
        Err(error) => Answer::Refused(format!("not a request: {error}")),
        Ok(request) => {
            orders.send(Order::Request(Box::new(request), reply)).map_err(io::Error::other)?;
            answer.recv().map_err(io::Error::other)?
        }
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    stream.write_all(&text)?;
    drop(answer);
    Ok(())
}

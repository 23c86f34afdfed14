//! The agent's side of the sockets. Calls block for milliseconds, and for a few seconds at most; in an async program
//! they belong on a thread that may block.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use crate::config::{Peer, TunnelConfig};
use crate::engine::frames::{ADDRESS, MAX_FRAME, unwrap, wrap};
use crate::key::PrivateKey;
use crate::path::Path;
use crate::request::{Answer, MAX_LINE, Request, Status};

/// An engine answers within microseconds unless its machine is overloaded.
const PATIENCE: Duration = Duration::from_secs(5);

/// A call that was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No engine runs, or it does not answer.
    #[error("cannot reach the tunnel engine at {socket}")]
    Unreachable {
        /// Its control socket.
        socket: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The engine says why; nothing was changed.
    #[error("the tunnel engine refused: {0}")]
    Refused(String),
}

/// Talks to one engine; each call is a connection of its own, so that a restarted engine is found again.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// For the engine with this configuration, whether it runs or not.
    pub fn new(config: &TunnelConfig) -> Self {
        Self { socket: config.control_socket() }
    }

    /// Replaces all peers. They are on disk when this returns.
    pub fn set_peers(&self, peers: Vec<Peer>) -> Result<(), ClientError> {
        self.done(&Request::SetPeers { peers })
    }

    /// Replaces the key of this node; sessions go on. Peers have to be told the new public key within a minute, the
    /// former one is answered until the next rotation.
    pub fn set_key(&self, private_key: PrivateKey) -> Result<(), ClientError> {
        self.done(&Request::SetKey { private_key })
    }

    /// Sends a peer's packets over this path from now on, until one comes from elsewhere.
    pub fn use_path(&self, peer: &str, path: Path) -> Result<(), ClientError> {
        self.done(&Request::UsePath { peer: peer.to_owned(), path })
    }

    /// Makes a new session with a peer at once, trying all its paths; the one that answers first is used.
    pub fn handshake(&self, peer: &str) -> Result<(), ClientError> {
        self.done(&Request::Handshake { peer: peer.to_owned() })
    }

    /// State of the engine.
    pub fn status(&self) -> Result<Status, ClientError> {
        match self.ask(&Request::Status)? {
            Answer::Status(status) => Ok(status),
            Answer::Refused(why) => Err(ClientError::Refused(why)),
            Answer::Done => Err(ClientError::Refused("an answer to another question".to_owned())),
        }
    }

    /// Ends the engine and removes its device, with addresses and routes.
    pub fn stop(&self) -> Result<(), ClientError> {
        self.done(&Request::Stop)
    }

    fn done(&self, request: &Request) -> Result<(), ClientError> {
        match self.ask(request)? {
            Answer::Done => Ok(()),
            Answer::Refused(why) => Err(ClientError::Refused(why)),
            Answer::Status(_) => Err(ClientError::Refused("an answer to another question".to_owned())),
        }
    }

    fn ask(&self, request: &Request) -> Result<Answer, ClientError> {
        let unreachable = |source| ClientError::Unreachable { socket: self.socket.clone(), source };
        self.exchange(request).map_err(unreachable)
    }

    fn exchange(&self, request: &Request) -> io::Result<Answer> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        let mut answer = Vec::new();
        BufReader::new(stream.take(MAX_LINE)).read_until(b'\n', &mut answer)?;
        Ok(serde_json::from_slice(&answer)?)
    }
}

/// Sends and receives frames on the engine's UDP port: punching, relay control. A frame begins with a byte from
/// [`crate::FIRST_FRAME`] and has at most [`MAX_FRAME`] bytes. The socket that sent last gets what is received.
#[derive(Debug)]
pub struct FrameSocket {
    socket: UnixDatagram,
    own: PathBuf,
}

impl FrameSocket {
    /// Connects to the engine; `own` is the path of a socket that is made, and replaced if it exists.
    pub fn connect(config: &TunnelConfig, own: &FilePath) -> io::Result<Self> {
        let _ = std::fs::remove_file(own);
        let socket = UnixDatagram::bind(own)?;
        let frames = Self { socket, own: own.to_owned() };
        frames.socket.connect(config.frame_socket())?;
        // An empty message says who listens.
        frames.socket.send(&[])?;
        Ok(frames)
    }

    /// Sends a frame. Errors: one that is too long or begins with another byte, or no engine.
    pub fn send(&self, to: SocketAddr, frame: &[u8]) -> io::Result<()> {
        let begins_well = frame.first().is_some_and(|first| *first >= crate::path::FIRST_FRAME);
        if frame.len() > MAX_FRAME || !begins_well {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        self.socket.send(&wrap(to, frame))?;
        Ok(())
    }

    /// Waits for a frame, up to the time limit.
    pub fn receive(&self, limit: Duration) -> io::Result<(SocketAddr, Vec<u8>)> {
        self.socket.set_read_timeout(Some(limit))?;
        let mut buffer = [0; ADDRESS + MAX_FRAME];
        loop {
            let length = self.socket.recv(&mut buffer)?;
            if let Some((from, frame)) = unwrap(&buffer[..length]) {
                return Ok((from, frame.to_vec()));
            }
        }
    }
}

impl Drop for FrameSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.own);
    }
}

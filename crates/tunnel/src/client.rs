//! The agent's side of the control socket. Calls block for milliseconds, and for a few seconds at most; in an async program
//! they belong on a thread that may block.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::{Peer, Relay, TunnelConfig};
use crate::key::PrivateKey;
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

    /// For the engine whose directory this is ([`TunnelConfig::directory`]).
    pub fn at(directory: &std::path::Path) -> Self {
        Self { socket: TunnelConfig::new("", 0, directory.to_owned()).control_socket() }
    }

    /// Replaces all peers. They are on disk when this returns.
    pub fn set_peers(&self, peers: Vec<Peer>) -> Result<(), ClientError> {
        self.done(&Request::SetPeers { peers })
    }

    /// Replaces the key of this node; sessions go on. Peers who were not told the new public key yet reach this node, and are
    /// reached, by the former one as long as that is given. Both are on disk when this returns.
    pub fn set_key(
        &self,
        private_key: PrivateKey,
        former_key: Option<PrivateKey>,
    ) -> Result<(), ClientError> {
        self.done(&Request::SetKey { private_key, former_key })
    }

    /// Replaces the relays to which this node tells where it is. They are on disk when this returns.
    pub fn set_relays(&self, relays: Vec<Relay>) -> Result<(), ClientError> {
        self.done(&Request::SetRelays { relays })
    }

    /// Makes a new session with a peer at once, on all its paths.
    pub fn handshake(&self, peer: &str) -> Result<(), ClientError> {
        self.done(&Request::Handshake { peer: peer.to_owned() })
    }

    /// State of the engine.
    pub fn status(&self) -> Result<Status, ClientError> {
        match self.ask(&Request::Status)? {
            Answer::Status(status) => Ok(*status),
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

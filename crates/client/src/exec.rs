//! Programs run inside instances.

use std::fmt;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use oak_model::exec::{ExecMessage, SUBPROTOCOL, TerminalSize};
use reqwest::{Method, Upgraded};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::client::{Call, Client};
use crate::error::ClientError;

/// A fixed one: the answer to it is not checked, because nothing between a client that trusts its server and the server
/// could have made it up.
const KEY: &str = "b2FrLWV4ZWMtY2xpZW50IQ==";

type Socket = WebSocketStream<Upgraded>;

/// To a program.
pub struct ExecWriter(SplitSink<Socket, Message>);

/// From a program.
pub struct ExecReader(SplitStream<Socket>);

impl fmt::Debug for ExecWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecWriter").finish_non_exhaustive()
    }
}

impl fmt::Debug for ExecReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecReader").finish_non_exhaustive()
    }
}

impl ExecWriter {
    /// Sends a message; waits while the program is slow. False if it is gone.
    pub async fn send(&mut self, message: &ExecMessage) -> bool {
        self.0.send(Message::Binary(message.to_message().into())).await.is_ok()
    }
}

impl ExecReader {
    /// The next message; `None` when the connection is closed. Safe to cancel.
    pub async fn next(&mut self) -> Option<ExecMessage> {
        loop {
            match self.0.next().await?.ok()? {
                Message::Binary(bytes) => return ExecMessage::parse(&bytes).ok(),
                Message::Close(_) => return None,
                Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }
}

impl Client {
    /// Runs a program inside instance `number` of a service; with a terminal if its size is given.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with 404 if there is no such instance, 409 if the program cannot be run.
    pub async fn exec(
        &self,
        service: &str,
        number: u32,
        command: &[String],
        terminal: Option<TerminalSize>,
    ) -> Result<(ExecWriter, ExecReader), ClientError> {
        let number = number.to_string();
        let action = format!("run a program in instance {number} of service {service}");
        let path = ["api", "service", service, "instance", &number, "exec"];
        let mut call = Call::new(Method::GET, &path, action);
        for word in command {
            call = call.query("command", word);
        }
        if let Some(size) = terminal {
            call = call.query("tty", true).query("columns", size.columns).query("rows", size.rows);
        }
        let call = call.upgrade(&[
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", KEY),
            ("sec-websocket-protocol", SUBPROTOCOL),
        ]);
        let response = self.open(&call).await?;
        let upgraded = response.upgrade().await.map_err(|source| self.unreachable(&call.action, source))?;
        let config = WebSocketConfig::default();
        let socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(config)).await;
        let (writer, reader) = socket.split();
        Ok((ExecWriter(writer), ExecReader(reader)))
    }
}

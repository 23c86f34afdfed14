//! Running a program inside an instance, over a WebSocket.
//!
//! Messages are those of [`oak_model::exec`]: the number of a channel, then its bytes. Nothing is kept here but one
//! message per direction, so a slow client slows the program down and the other way round. A client that goes away
//! ends the program.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::ws::{
    CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code, rejection::WebSocketUpgradeRejection,
};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{Sink, SinkExt, StreamExt};
use oak_control::root::Refusal;
use oak_model::exec::{Channel, ExecEnd, ExecMessage, FrameReader, MAX_PAYLOAD, SUBPROTOCOL, TerminalSize};
use oak_model::{InstanceKey, ServiceId};
use tokio::time::{Instant, interval_at};
use tracing::info;

use super::answer::Answer;
use super::caller::Caller;
use super::error::ApiError;
use super::logs::{BoxFuture, LogError, LogStream};
use super::parameter::Parameter;
use super::slots::Slot;
use super::{Shared, standing};

/// Programs at the same time.
pub(super) const CONCURRENT: usize = 64;
/// Of one user.
pub(super) const PER_USER: usize = 16;
/// How long the way to the worker may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// A program and a client that have nothing to say to each other for so long are parted.
const IDLE: Duration = Duration::from_secs(30 * 60);
/// How often a client is asked for a sign of life. Also how its end is noticed while the program takes no input, so that
/// nothing is read from the client.
const PING: Duration = Duration::from_secs(5);
/// A client that does not answer, or takes nothing, for so long is gone.
const SILENCE: Duration = Duration::from_secs(60);
/// Largest message of a client: a full payload with its channel.
const LARGEST: usize = MAX_PAYLOAD + 1;
/// Bytes of a command line; a request between tiers has 64 KiB.
const COMMAND_BYTES: usize = 32 << 10;

/// Where programs are run.
pub trait ExecSource: Send + Sync + 'static {
    /// Runs a program inside an instance. Both directions carry frames of [`oak_model::exec`]; dropping either ends
    /// the program.
    fn open(
        &self,
        key: InstanceKey,
        command: Vec<String>,
        terminal: Option<TerminalSize>,
    ) -> BoxFuture<'_, Result<ExecStreams, LogError>>;
}

/// The way to a program and back.
pub struct ExecStreams {
    /// To the program.
    pub sender: Box<dyn ByteSender>,
    /// From the program.
    pub receiver: LogStream,
}

/// Takes bytes; waits while the other side is slow.
pub trait ByteSender: Send {
    /// Sends bytes.
    fn send(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), LogError>>;
}

/// What to run.
struct Wanted {
    command: Vec<String>,
    terminal: Option<TerminalSize>,
}

const QUERY_RULE: &str = "the query must hold command=<word> once per word of the command line (or cmd=<program>), and \
                          may hold tty=true with columns=<number> and rows=<number>";

impl Wanted {
    fn of(pairs: Vec<(String, String)>) -> Result<Self, ApiError> {
        let rule = || ApiError::bad_request(QUERY_RULE);
        let (mut command, mut tty) = (Vec::new(), false);
        let mut size = TerminalSize { columns: 80, rows: 24 };
        for (name, value) in pairs {
            match name.as_str() {
                "command" | "cmd" => command.push(value),
                "tty" => tty = value.parse().map_err(|_| rule())?,
                "columns" => size.columns = value.parse().map_err(|_| rule())?,
                "rows" => size.rows = value.parse().map_err(|_| rule())?,
                _ => return Err(rule()),
            }
        }
        let bytes: usize = command.iter().map(|word| word.len() + 1).sum();
        if command.first().is_none_or(String::is_empty)
            || bytes > COMMAND_BYTES
            || command.iter().any(|word| word.contains('\0'))
        {
            return Err(rule());
        }
        Ok(Self { command, terminal: tty.then_some(size) })
    }
}

/// `GET /api/service/<id>/instance/<number>/exec?command=…`, upgraded to a WebSocket.
pub(super) async fn open(
    State(api): State<Shared>,
    caller: Caller,
    Parameter((service, number)): Parameter<(ServiceId, u32)>,
    wanted: Result<Query<Vec<(String, String)>>, QueryRejection>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Answer {
    let Query(pairs) = wanted.map_err(|_| ApiError::bad_request(QUERY_RULE))?;
    let Wanted { command, terminal } = Wanted::of(pairs)?;
    let key = InstanceKey { service, number };
    let scope = caller.scope();
    let found = api.parts.root.call(move |root, _, _| {
        scope.service(root, service)?;
        root.instance(key).map(|_| ()).ok_or_else(|| ApiError::from(Refusal::UnknownInstance(key)))
    });
    found.await??;
    let upgrade = upgrade.map_err(|rejection| {
        let message = format!("this path speaks WebSocket with the protocol {SUBPROTOCOL}: {rejection}");
        ApiError::new(StatusCode::BAD_REQUEST, message)
    })?;
    let slot = api.execs.take(&caller)?;
    let program = command.first().cloned().unwrap_or_default();
    let opened = tokio::time::timeout(PATIENCE, api.parts.exec.open(key, command, terminal)).await;
    let late = |_| LogError::Unreachable("the worker did not answer in time".to_owned());
    let streams = opened.map_err(late)?.map_err(about_exec)?;
    // The command line may hold passwords; its first word tells enough.
    info!(instance = %key, user = caller.0.name, program, "program run inside an instance");
    let upgrade = upgrade.protocols([SUBPROTOCOL]).max_message_size(LARGEST).max_frame_size(LARGEST);
    let lost = standing::lost(Arc::clone(&api), caller, Caller::scope, service);
    Ok(upgrade.on_upgrade(move |socket| serve(socket, streams, lost, slot)))
}

fn about_exec(error: LogError) -> ApiError {
    let (status, text) = match error {
        LogError::NotThere(why) => (StatusCode::CONFLICT, format!("the program cannot be run: {why}")),
        LogError::Unreachable(why) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("the instance cannot be reached: {why}"))
        }
        LogError::Failed(why) => (StatusCode::BAD_GATEWAY, format!("the program cannot be run: {why}")),
    };
    ApiError::new(status, text)
}

/// When something was last heard, milliseconds since the start.
struct Activity {
    start: Instant,
    client: AtomicU64,
    data: AtomicU64,
    /// The program takes no input: nothing is read from the client, and its answers to pings are not seen.
    is_client_unread: AtomicBool,
}

impl Activity {
    fn new() -> Self {
        let (client, data) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { start: Instant::now(), client, data, is_client_unread: AtomicBool::new(false) }
    }

    fn is_client_silent(&self) -> bool {
        !self.is_client_unread.load(Ordering::Relaxed) && self.silent_for(&self.client) > SILENCE
    }

    fn note(&self, what: &AtomicU64) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        what.store(now, Ordering::Relaxed);
    }

    fn silent_for(&self, what: &AtomicU64) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(what.load(Ordering::Relaxed)))
    }
}

/// Passes on what both sides say until one of them is gone or `lost` resolves. Dropping the streams ends the program.
async fn serve(
    socket: WebSocket,
    streams: ExecStreams,
    lost: impl Future<Output = &'static str>,
    slot: Slot,
) {
    let activity = Activity::new();
    let (mut to_client, from_client) = socket.split();
    // The two directions must not wait for each other: a program may write before it reads on.
    let close = tokio::select! {
        close = forward(from_client, streams.sender, &activity) => close,
        close = back(&mut to_client, streams.receiver, &activity) => close,
        reason = lost => Some((close_code::POLICY, reason)),
    };
    if let Some((code, reason)) = close {
        let frame = CloseFrame { code, reason: reason.into() };
        // A client that is gone does not need it.
        let _ =
            tokio::time::timeout(Duration::from_secs(5), to_client.send(Message::Close(Some(frame)))).await;
    }
    drop(slot);
}

type Close = Option<(u16, &'static str)>;

/// From the client to the program, until the client is gone.
async fn forward(
    mut from_client: SplitStream<WebSocket>,
    mut to_program: Box<dyn ByteSender>,
    activity: &Activity,
) -> Close {
    while let Some(Ok(message)) = from_client.next().await {
        activity.note(&activity.client);
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Ping(_) | Message::Pong(_) => continue,
            Message::Close(_) => return Some((close_code::NORMAL, "")),
            Message::Text(_) => return Some((close_code::UNSUPPORTED, "messages must be binary")),
        };
        let message = match ExecMessage::parse(&bytes) {
            Ok(message) if matches!(message.channel, Channel::Stdin | Channel::Resize) => message,
            Ok(_) => return Some((close_code::POLICY, "clients write to the channels 0 and 4 only")),
            Err(_) => return Some((close_code::POLICY, "not a message of oak.exec.v1")),
        };
        activity.note(&activity.data);
        activity.is_client_unread.store(true, Ordering::Relaxed);
        if to_program.send(message.to_frame().into()).await.is_err() {
            // The other direction tells why.
            std::future::pending::<()>().await;
        }
        activity.note(&activity.client);
        activity.is_client_unread.store(false, Ordering::Relaxed);
    }
    None
}

/// Sends a message to the client; `None` if it is gone or takes nothing.
async fn say(to_client: &mut (impl Sink<Message> + Unpin), message: Message) -> Option<()> {
    tokio::time::timeout(SILENCE, to_client.send(message)).await.ok()?.ok()
}

/// From the program to the client, until the program has ended.
async fn back(
    to_client: &mut SplitSink<WebSocket, Message>,
    mut from_program: LogStream,
    activity: &Activity,
) -> Close {
    let mut frames = FrameReader::default();
    let mut ping = interval_at(Instant::now() + PING, PING);
    loop {
        // Both branches are cancel-safe.
        let piece = tokio::select! {
            piece = from_program.next() => piece,
            _ = ping.tick() => {
                if activity.is_client_silent() {
                    return None;
                }
                if activity.silent_for(&activity.data) > IDLE {
                    return Some((close_code::AWAY, "nothing was written or read for half an hour"));
                }
                say(to_client, Message::Ping(Bytes::new())).await?;
                continue;
            }
        };
        let lost = |error: String| ExecMessage::end(&ExecEnd { error: Some(error), ..ExecEnd::default() });
        match piece {
            Some(Ok(piece)) => frames.push(&piece),
            Some(Err(error)) => {
                let message = lost(error.to_string()).to_message();
                say(to_client, Message::Binary(message.into())).await?;
                return Some((close_code::ERROR, "the way to the program broke"));
            }
            None => {
                let message = lost("the worker did not say how the program ended".to_owned()).to_message();
                say(to_client, Message::Binary(message.into())).await?;
                return Some((close_code::ERROR, "the way to the program broke"));
            }
        }
        activity.note(&activity.data);
        while let Ok(Some(message)) = frames.next_message() {
            say(to_client, Message::Binary(message.to_message().into())).await?;
            if message.channel == Channel::End {
                return Some((close_code::NORMAL, ""));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::sink;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up() {
        let mut deaf = Box::pin(sink::unfold((), |(), _: Message| async {
            std::future::pending::<Result<(), ()>>().await
        }));
        let said = tokio::time::timeout(2 * SILENCE, say(&mut deaf, Message::Ping(Bytes::new()))).await;
        assert_eq!(said, Ok(None));
    }
}

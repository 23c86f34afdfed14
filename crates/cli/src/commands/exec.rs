//! `oak exec`: a program inside an instance.

use std::io::{self, IsTerminal, Write};

use clap::Args;
use oak_client::{Client, ExecReader, ExecWriter};
use oak_model::exec::{Channel, ExecEnd, ExecMessage, TerminalSize};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Failure, find};
use crate::output::Output;

/// Bytes read from standard input at once.
const BLOCK: usize = 16 << 10;
/// What shells answer for a program that a signal ended: this and its number.
const SIGNALLED: i32 = 128;

/// What to run, and how.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Pass standard input on
    #[arg(short = 'i', long)]
    interactive: bool,
    /// With a terminal
    #[arg(short = 't', long)]
    tty: bool,
    /// SERVICE/NUMBER; the number may be left out while the service has one instance
    #[arg(value_name = "SERVICE[/N]")]
    instance: String,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// The terminal of this process, without echo and line editing until dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    /// `None` if standard input is no terminal.
    fn enter() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

fn size() -> TerminalSize {
    let found = terminal_size::terminal_size();
    found.map_or(TerminalSize { columns: 80, rows: 24 }, |(width, height)| TerminalSize {
        columns: width.0,
        rows: height.0,
    })
}

impl Arguments {
    pub(super) async fn run(self, client: &Client, output: &mut Output<'_>) -> Result<(), Failure> {
        let (service, instance) = find::instance(client, &self.instance).await?;
        let terminal = self.tty.then(size);
        let opened = client.exec(&service.id, instance.number, &self.command, terminal).await?;
        let raw = (self.tty && self.interactive && io::stdin().is_terminal()).then(RawTerminal::enter);
        let resized = self.tty.then(|| signal(SignalKind::window_change())).transpose()?;
        let (writer, reader) = opened;
        let end = tokio::select! {
            end = read(reader, output) => end?,
            () = feed(writer, self.interactive, resized) => None,
        };
        drop(raw);
        finish(end)
    }
}

fn finish(end: Option<ExecEnd>) -> Result<(), Failure> {
    let lost = || Failure::new(super::EXIT_FAILURE, "the connection to the program broke");
    let end = end.ok_or_else(lost)?;
    let code = match (end.code, end.signal, end.error) {
        (_, _, Some(error)) => return Err(lost().cause(error)),
        (Some(code), _, None) => code,
        (None, Some(signal), None) => SIGNALLED + signal,
        (None, None, None) => return Err(lost()),
    };
    match u8::try_from(code).unwrap_or(super::EXIT_FAILURE) {
        0 => Ok(()),
        code => Err(Failure::silent(code)),
    }
}

/// Prints what the program writes, until it ends.
async fn read(mut reader: ExecReader, output: &mut Output<'_>) -> io::Result<Option<ExecEnd>> {
    while let Some(message) = reader.next().await {
        let to: &mut dyn Write = match message.channel {
            Channel::Stdout => output.data,
            Channel::Stderr => output.talk,
            Channel::End => return Ok(serde_json::from_slice(&message.payload).ok()),
            Channel::Stdin | Channel::Resize => continue,
        };
        to.write_all(&message.payload)?;
        to.flush()?;
    }
    Ok(None)
}

/// Passes input and sizes on until the program is gone.
async fn feed(mut writer: ExecWriter, interactive: bool, mut resized: Option<Signal>) {
    let mut stdin = tokio::io::stdin();
    let mut block = vec![0; BLOCK];
    let mut is_open = interactive;
    if !interactive && !writer.send(&ExecMessage::new(Channel::Stdin, Vec::new())).await {
        return std::future::pending().await;
    }
    loop {
        let resize = async {
            match &mut resized {
                Some(resized) => resized.recv().await,
                None => std::future::pending().await,
            }
        };
        // Both branches are cancel-safe.
        let message = tokio::select! {
            read = stdin.read(&mut block), if is_open => {
                let length = read.unwrap_or(0);
                is_open = length > 0;
                ExecMessage::new(Channel::Stdin, block.get(..length).unwrap_or_default())
            }
            _ = resize => {
                ExecMessage::new(Channel::Resize, serde_json::to_vec(&size()).unwrap_or_default())
            }
        };
        if !writer.send(&message).await {
            // The reader hears why.
            return std::future::pending().await;
        }
    }
}

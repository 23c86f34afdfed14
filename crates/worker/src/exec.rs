//! Programs run inside instances on request of the cluster.
//!
//! Both directions carry frames of [`oak_model::exec`]. Output is read only as fast as it is taken; input is taken only
//! as fast as the program reads. Whoever asked and goes away ends the program: it dies with its [`Exec`].

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use oak_link::{BulkError, BulkOffer, BulkReceiver, BulkSender};
use oak_model::exec::{Channel, ExecEnd, ExecMessage, FrameReader, TerminalSize};
use oak_model::{InstanceKey, chain};
use oak_runtime::{Exec, ExecError, ExecIo, ExecRequest, ExecStatus, ExecStream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Instant;

use crate::container::container_id;
use crate::operations::Operations;

/// Programs at the same time on this worker.
pub(crate) const CONCURRENT: usize = 64;
/// Bytes read from a program at once.
const BLOCK: usize = 16 << 10;
/// After the program has ended, what processes it left behind still write is read for so long.
const LAST_OUTPUT: Duration = Duration::from_millis(500);
/// What ends the input on a terminal.
const END_OF_INPUT: u8 = 4;
/// How long the last words may take to be read.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Answers a request to run a program.
pub(crate) async fn serve(
    offer: BulkOffer,
    key: InstanceKey,
    command: Vec<String>,
    terminal: Option<TerminalSize>,
    operations: Arc<Operations>,
) {
    let Ok(_permit) = Arc::clone(&operations.execs).try_acquire_owned() else {
        return offer.refuse("too many programs are being run on this worker");
    };
    let exec = match start(key, command, terminal, &operations).await {
        Ok(exec) => exec,
        Err(error) => return offer.refuse(&error),
    };
    // Accepting may fail: the program ends with `exec`.
    let passed = match offer.accept().await {
        Ok(stream) => {
            let (sender, receiver) = stream.split();
            follow(exec, sender, receiver).await
        }
        Err(error) => Err(error),
    };
    if let Err(error) = passed {
        tracing::debug!(instance = %key, %error, "whoever ran a program went away; it was ended");
    }
}

async fn start(
    key: InstanceKey,
    args: Vec<String>,
    terminal: Option<TerminalSize>,
    operations: &Operations,
) -> Result<Exec, String> {
    let id = container_id(key).map_err(|error| chain(&error))?;
    let request = ExecRequest {
        args,
        environment: operations.secrets.environment_of(key),
        working_directory: None,
        terminal: terminal.map(runtime_size),
    };
    operations.runtime.exec(&id, request).await.map_err(|error| chain(&error))
}

fn runtime_size(size: TerminalSize) -> oak_runtime::TerminalSize {
    oak_runtime::TerminalSize { rows: size.rows, columns: size.columns }
}

async fn follow(exec: Exec, mut sender: BulkSender, mut receiver: BulkReceiver) -> Result<(), BulkError> {
    let Exec { io, mut end } = exec;
    // Seen also while the program takes no input, so that nothing is received.
    let gone = sender.gone();
    let ended = match io {
        ExecIo::Pipes { stdin, stdout, stderr } => {
            tokio::select! {
                gone = feed(stdin, &mut receiver) => return Err(gone),
                ended = read_pipes(stdout, stderr, &mut end, &mut sender) => ended?,
                () = gone => return Err(BulkError::Cancelled),
            }
        }
        ExecIo::Terminal(terminal) => {
            tokio::select! {
                ended = Terminal::new(terminal).follow(&mut end, &mut sender, &mut receiver) => ended?,
                () = gone => return Err(BulkError::Cancelled),
            }
        }
    };
    let end = match ended {
        Ok(ExecStatus { code, signal }) => ExecEnd { code, signal, error: None },
        Err(error) => ExecEnd { error: Some(chain(&error)), ..ExecEnd::default() },
    };
    sender.send(ExecMessage::end(&end).to_frame().into()).await?;
    sender.finish().await?;
    // Dropping the receiver now would cancel what is still on its way.
    let read = async { while let Some(Ok(_)) = receiver.recv().await {} };
    let _ = tokio::time::timeout(LAST_WORDS, read).await;
    Ok(())
}

/// Gives input to the program until the other side is gone.
async fn feed(stdin: ExecStream, receiver: &mut BulkReceiver) -> BulkError {
    let mut stdin = Some(stdin);
    let mut frames = FrameReader::default();
    loop {
        match receiver.recv().await {
            Some(Ok(piece)) => frames.push(&piece),
            Some(Err(error)) => return error,
            None => return BulkError::Cancelled,
        }
        loop {
            let message = match frames.next_message() {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(error) => return BulkError::Failed(error.to_string()),
            };
            if message.channel != Channel::Stdin {
                continue;
            }
            let wrote = match &mut stdin {
                Some(stdin) if !message.payload.is_empty() => stdin.write_all(&message.payload).await.is_ok(),
                Some(_) => false,
                None => true,
            };
            if !wrote {
                // The end of the input, or of the program's interest in it.
                stdin = None;
            }
        }
    }
}

type Ended = Result<ExecStatus, ExecError>;

/// Passes output on until the program has ended and its pipes are closed.
async fn read_pipes(
    mut stdout: ExecStream,
    mut stderr: ExecStream,
    end: &mut oak_runtime::ExecEnd,
    sender: &mut BulkSender,
) -> Result<Ended, BulkError> {
    let (mut block, mut error_block) = (vec![0; BLOCK], vec![0; BLOCK]);
    let (mut has_output, mut has_errors) = (true, true);
    let mut ended: Option<(Ended, Instant)> = None;
    while ended.is_none() || has_output || has_errors {
        let until = ended.as_ref().map_or_else(Instant::now, |(_, at)| *at + LAST_OUTPUT);
        // All branches are cancel-safe.
        let (channel, text) = tokio::select! {
            read = stdout.read(&mut block), if has_output => {
                let length = read.unwrap_or(0);
                has_output = length > 0;
                (Channel::Stdout, block.get(..length).unwrap_or_default())
            }
            read = stderr.read(&mut error_block), if has_errors => {
                let length = read.unwrap_or(0);
                has_errors = length > 0;
                (Channel::Stderr, error_block.get(..length).unwrap_or_default())
            }
            status = end.wait(), if ended.is_none() => {
                ended = Some((status, Instant::now()));
                continue;
            }
            () = tokio::time::sleep_until(until), if ended.is_some() => break,
        };
        if !text.is_empty() {
            sender.send(ExecMessage::new(channel, text).to_frame().into()).await?;
        }
    }
    match ended {
        Some((status, _)) => Ok(status),
        None => Ok(end.wait().await),
    }
}

/// The other side of the program's terminal: one file, read and written at the same time.
struct Terminal {
    stream: ExecStream,
    /// Read from the client, not yet taken by the program.
    input: Vec<u8>,
}

enum Moved {
    /// The program showed something.
    Shown(usize),
    /// The program took input.
    Taken(usize),
}

impl Terminal {
    const fn new(stream: ExecStream) -> Self {
        Self { stream, input: Vec::new() }
    }

    async fn follow(
        mut self,
        end: &mut oak_runtime::ExecEnd,
        sender: &mut BulkSender,
        receiver: &mut BulkReceiver,
    ) -> Result<Ended, BulkError> {
        let mut block = vec![0; BLOCK];
        let mut frames = FrameReader::default();
        let mut is_open = true;
        let mut ended: Option<(Ended, Instant)> = None;
        while is_open || ended.is_none() {
            self.take_in(&mut frames)?;
            let is_full = !self.input.is_empty();
            let until = ended.as_ref().map_or_else(Instant::now, |(_, at)| *at + LAST_OUTPUT);
            // All branches are cancel-safe.
            tokio::select! {
                moved = self.moved(&mut block), if is_open => match moved {
                    Ok(Moved::Shown(0)) | Err(_) => is_open = false,
                    Ok(Moved::Shown(length)) => {
                        let text = block.get(..length).unwrap_or_default();
                        sender.send(ExecMessage::new(Channel::Stdout, text).to_frame().into()).await?;
                    }
                    Ok(Moved::Taken(length)) => {
                        self.input.drain(..length.min(self.input.len()));
                    }
                },
                piece = receiver.recv(), if !is_full || !is_open => match piece {
                    Some(piece) => frames.push(&piece?),
                    None => return Err(BulkError::Cancelled),
                },
                status = end.wait(), if ended.is_none() => ended = Some((status, Instant::now())),
                () = tokio::time::sleep_until(until), if ended.is_some() => break,
            }
        }
        match ended {
            Some((status, _)) => Ok(status),
            None => Ok(end.wait().await),
        }
    }

    /// Takes the next input and every change of the size before it.
    fn take_in(&mut self, frames: &mut FrameReader) -> Result<(), BulkError> {
        while self.input.is_empty() {
            let message = frames.next_message().map_err(|error| BulkError::Failed(error.to_string()))?;
            let Some(message) = message else { break };
            match message.channel {
                Channel::Stdin if message.payload.is_empty() => self.input.push(END_OF_INPUT),
                Channel::Stdin => self.input = message.payload,
                Channel::Resize => {
                    if let Ok(size) = serde_json::from_slice::<TerminalSize>(&message.payload)
                        && let Err(error) = self.stream.resize(runtime_size(size))
                    {
                        tracing::debug!(%error, "the terminal keeps its size");
                    }
                }
                Channel::Stdout | Channel::Stderr | Channel::End => {}
            }
        }
        Ok(())
    }

    async fn moved(&mut self, block: &mut [u8]) -> io::Result<Moved> {
        let (mut stream, input) = (pin!(&mut self.stream), &self.input);
        poll_fn(|context| {
            let mut room = ReadBuf::new(block);
            match Pin::new(&mut **stream).poll_read(context, &mut room) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(Moved::Shown(room.filled().len()))),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
            if input.is_empty() {
                return Poll::Pending;
            }
            Pin::new(&mut **stream).poll_write(context, input).map_ok(Moved::Taken)
        })
        .await
    }
}

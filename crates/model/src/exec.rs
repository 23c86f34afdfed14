//! What travels between a program inside an instance and whoever started it there.
//!
//! A *message* is a byte that names the channel, and the rest, its payload. WebSockets carry one message per binary
//! message. On the byte streams between tiers each is a *frame*: four bytes length (big endian, channel included), then
//! the message.

use serde::{Deserialize, Serialize};

/// Largest payload of one message, bytes.
pub const MAX_PAYLOAD: usize = 64 << 10;

/// Name of the protocol as WebSockets negotiate it.
pub const SUBPROTOCOL: &str = "oak.exec.v1";

/// What the payload of a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Channel {
    /// To the program; an empty payload is the end of its input.
    Stdin = 0,
    /// From the program; with a terminal everything it shows.
    Stdout = 1,
    /// From the program; never with a terminal.
    Stderr = 2,
    /// From the program, once, the last message: an [`ExecEnd`] in JSON.
    End = 3,
    /// To the program: a [`TerminalSize`] in JSON.
    Resize = 4,
}

impl Channel {
    /// The channel of this number.
    #[must_use]
    pub const fn of(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Stdin),
            1 => Some(Self::Stdout),
            2 => Some(Self::Stderr),
            3 => Some(Self::End),
            4 => Some(Self::Resize),
            _ => None,
        }
    }
}

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Characters per line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// How a program ended, or why it could not be run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecEnd {
    /// Exit code, if it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// Signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Why it could not be run or followed to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecMessage {
    /// What it is.
    pub channel: Channel,
    /// At most [`MAX_PAYLOAD`] bytes.
    pub payload: Vec<u8>,
}

/// Bytes are not messages of this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    /// There is no such channel.
    #[error("a message begins with {0}, which is no channel of {SUBPROTOCOL}")]
    Channel(u8),
    /// Nothing, not even a channel.
    #[error("a message is empty: it must begin with the number of its channel")]
    Empty,
    /// More than [`MAX_PAYLOAD`].
    #[error("a message is larger than {MAX_PAYLOAD} bytes")]
    TooLarge,
}

impl ExecMessage {
    /// A message.
    #[must_use]
    pub fn new(channel: Channel, payload: impl Into<Vec<u8>>) -> Self {
        Self { channel, payload: payload.into() }
    }

    /// The last message.
    #[must_use]
    pub fn end(end: &ExecEnd) -> Self {
        Self::new(Channel::End, serde_json::to_vec(end).unwrap_or_default())
    }

    /// Reads a message of a WebSocket.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadMessage> {
        let (first, payload) = bytes.split_first().ok_or(BadMessage::Empty)?;
        let channel = Channel::of(*first).ok_or(BadMessage::Channel(*first))?;
        if payload.len() > MAX_PAYLOAD {
            return Err(BadMessage::TooLarge);
        }
        Ok(Self { channel, payload: payload.to_vec() })
    }

    /// As one message of a WebSocket.
    #[must_use]
    pub fn to_message(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.payload.len() + 1);
        bytes.push(self.channel as u8);
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    /// As a frame between tiers.
    #[must_use]
    pub fn to_frame(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len() + 1).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(self.payload.len() + 5);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.push(self.channel as u8);
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}

/// Puts messages together from the pieces of a byte stream. Holds at most one unfinished frame and the last piece.
#[derive(Debug, Default)]
pub struct FrameReader {
    bytes: Vec<u8>,
    /// Bytes that were read already.
    done: usize,
}

impl FrameReader {
    /// Takes the next piece.
    pub fn push(&mut self, piece: &[u8]) {
        self.bytes.drain(..self.done);
        self.done = 0;
        self.bytes.extend_from_slice(piece);
    }

    /// The next whole message, `None` when more is needed.
    ///
    /// # Errors
    /// The stream is not one of this protocol; it cannot go on.
    pub fn next_message(&mut self) -> Result<Option<ExecMessage>, BadMessage> {
        let rest = self.bytes.get(self.done..).unwrap_or_default();
        let Some((length, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > MAX_PAYLOAD + 1 {
            return Err(BadMessage::TooLarge);
        }
        let Some(message) = rest.get(..length) else { return Ok(None) };
        let message = ExecMessage::parse(message)?;
        self.done += 4 + length;
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message() -> impl Strategy<Value = ExecMessage> {
        (0..5_u8, prop::collection::vec(any::<u8>(), 0..200))
            .prop_map(|(channel, payload)| ExecMessage::new(Channel::of(channel).unwrap(), payload))
    }

    proptest! {
        #[test]
        fn messages_survive_any_cutting(messages in prop::collection::vec(message(), 0..10), size in 1..40_usize) {
            let bytes: Vec<u8> = messages.iter().flat_map(ExecMessage::to_frame).collect();
            let mut reader = FrameReader::default();
            let mut found = Vec::new();
            for piece in bytes.chunks(size) {
                reader.push(piece);
                while let Some(message) = reader.next_message().unwrap() {
                    found.push(message);
                }
            }
            prop_assert_eq!(found, messages);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut reader = FrameReader::default();
            reader.push(&bytes);
            while let Ok(Some(_)) = reader.next_message() {}
            let _ = ExecMessage::parse(&bytes);
        }
    }

    #[test]
    fn what_is_too_large_is_refused_before_it_is_there() {
        let mut reader = FrameReader::default();
        reader.push(&(MAX_PAYLOAD as u32 + 2).to_be_bytes());
        assert_eq!(reader.next_message(), Err(BadMessage::TooLarge));
        assert_eq!(ExecMessage::parse(&[]), Err(BadMessage::Empty));
        assert_eq!(ExecMessage::parse(&[9]), Err(BadMessage::Channel(9)));
    }
}

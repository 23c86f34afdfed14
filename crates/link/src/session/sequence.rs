//! Pure checks of incoming frames: their order and the reassembly of chunks.

use bytes::{Bytes, BytesMut};

/// Why a frame was not acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OrderError {
    #[error("frame {found} of session {session} came, expected {expected}")]
    Sequence { session: u64, expected: u64, found: u64 },
    #[error("a frame of session {found} came in session {expected}")]
    ForeignSession { expected: u64, found: u64 },
}

/// Checks that the frames of one direction of one session come complete and in order.
#[derive(Debug, Default)]
pub(crate) struct FrameOrder {
    accepted: u64,
    session: u64,
    peer_knows_session: bool,
}

impl FrameOrder {
    /// Sets the id of the session, once it is known.
    pub(crate) fn bind(&mut self, session: u64) {
        self.session = session;
    }

    /// Tells whether the peer has used the id, so has seen the welcome.
    pub(crate) fn is_known_to_peer(&self) -> bool {
        self.peer_knows_session
    }

    /// Accepts the next frame or says why not. Session 0 stands for "not known yet" and is accepted until the peer
    /// used the real id once.
    pub(crate) fn accept(&mut self, session: u64, sequence: u64) -> Result<(), OrderError> {
        let is_unknown = session == 0 && !self.peer_knows_session;
        if !is_unknown && session != self.session {
            return Err(OrderError::ForeignSession { expected: self.session, found: session });
        }
        let expected = self.accepted + 1;
        if sequence != expected {
            return Err(OrderError::Sequence { session: self.session, expected, found: sequence });
        }
        self.accepted = expected;
        self.peer_knows_session |= session != 0;
        Ok(())
    }
}

/// The chunks of a message exceed the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message is larger than {limit} bytes")]
pub(crate) struct MessageTooLarge {
    limit: usize,
}

/// Joins chunks to messages.
#[derive(Debug)]
pub(crate) struct Assembler {
    limit: usize,
    parts: BytesMut,
}

impl Assembler {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, parts: BytesMut::new() }
    }

    /// Takes a chunk; returns the message if it was the last one.
    pub(crate) fn push(&mut self, data: Bytes, last: bool) -> Result<Option<Bytes>, MessageTooLarge> {
        if self.parts.len().saturating_add(data.len()) > self.limit {
            return Err(MessageTooLarge { limit: self.limit });
        }
        if last && self.parts.is_empty() {
            return Ok(Some(data));
        }
        self.parts.extend_from_slice(&data);
        Ok(last.then(|| std::mem::take(&mut self.parts).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn accepts_exactly_the_unbroken_order(session in 1_u64.., length in 1_u64..50) {
            let mut order = FrameOrder::default();
            order.bind(session);
            for sequence in 1..=length {
                let known = if sequence < 3 { 0 } else { session };
                prop_assert_eq!(order.accept(known, sequence), Ok(()));
            }
        }

        #[test]
        fn refuses_gaps_and_repetitions(length in 0_u64..20, wrong in 0_u64..40) {
            prop_assume!(wrong != length + 1);
            let mut order = FrameOrder::default();
            order.bind(7);
            for sequence in 1..=length {
                order.accept(7, sequence).unwrap();
            }
            let expected = OrderError::Sequence { session: 7, expected: length + 1, found: wrong };
            prop_assert_eq!(order.accept(7, wrong), Err(expected));
            // A refused frame changes nothing.
            prop_assert_eq!(order.accept(7, length + 1), Ok(()));
        }

        #[test]
        fn refuses_frames_of_other_sessions(own in 1_u64.., other: u64) {
            prop_assume!(own != other);
            let mut order = FrameOrder::default();
            order.bind(own);
            order.accept(own, 1).unwrap();
            prop_assert_eq!(order.accept(other, 2), Err(OrderError::ForeignSession { expected: own, found: other }));
        }

        #[test]
        fn any_chunking_gives_the_same_message(message: Vec<u8>, cuts in proptest::collection::vec(1_usize..20, 0..20)) {
            let mut assembler = Assembler::new(message.len());
            let mut rest = Bytes::from(message.clone());
            for cut in cuts {
                let part = rest.split_to(cut.min(rest.len()));
                prop_assert_eq!(assembler.push(part, false), Ok(None));
            }
            prop_assert_eq!(assembler.push(rest, true), Ok(Some(message.into())));
        }

        #[test]
        fn never_holds_more_than_the_limit(limit in 0_usize..100, sizes in proptest::collection::vec(0_usize..50, 1..20)) {
            let mut assembler = Assembler::new(limit);
            let mut total = 0;
            for size in sizes {
                let fits = total + size <= limit;
                prop_assert_eq!(assembler.push(vec![0; size].into(), false).is_ok(), fits);
                if !fits { break }
                total += size;
            }
        }
    }
}

//! Questions and answers between engines, inside a session: an inner packet that begins with a zero byte, which is no
//! packet of IP, so that every other WireGuard drops it.
//!
//! | bytes | what |
//! |---|---|
//! | 0 | 0 |
//! | 1 | 1 question, 2 answer |
//! | 2 | step of the size plus 1, 0 if the size does not matter |
//! | 3 … 7 | 0 |
//! | 8 … 15 | clock of the asker in microseconds; the answer repeats it |
//!
//! A question whose size matters is padded to that size; answers are short.

/// Length of an answer and of a short question.
pub(crate) const LENGTH: usize = 16;
const QUESTION: u8 = 1;
const ANSWER: u8 = 2;

/// A question or an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) is_answer: bool,
    /// See [`super::paths::Ask::step`].
    pub(crate) step: Option<usize>,
    /// Of the asker.
    pub(crate) clock_us: u64,
}

impl Probe {
    /// Reads a decrypted packet; `None` if it is something else.
    pub(crate) fn read(packet: &[u8]) -> Option<Self> {
        let (head, _) = packet.split_first_chunk::<LENGTH>()?;
        let [0, kind @ (QUESTION | ANSWER), step, 0, 0, 0, 0, 0, clock @ ..] = *head else { return None };
        Some(Self {
            is_answer: kind == ANSWER,
            step: step.checked_sub(1).map(usize::from),
            clock_us: u64::from_be_bytes(clock),
        })
    }

    /// Its bytes, without padding.
    pub(crate) fn write(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[1] = if self.is_answer { ANSWER } else { QUESTION };
        bytes[2] = self.step.and_then(|step| u8::try_from(step + 1).ok()).unwrap_or(0);
        bytes[8..].copy_from_slice(&self.clock_us.to_be_bytes());
        bytes
    }

    /// The answer to this question.
    pub(crate) fn answer(&self) -> Self {
        Self { is_answer: true, ..*self }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_read_as_it_was_written(is_answer: bool, step in prop::option::of(0_usize..255), clock_us: u64, pad in 0_usize..2000) {
            let probe = Probe { is_answer, step, clock_us };
            let mut bytes = probe.write().to_vec();
            bytes.resize(LENGTH + pad, 0);
            prop_assert_eq!(Probe::read(&bytes), Some(probe));
            prop_assert_eq!(crate::packet::outline(&bytes), None);
        }

        #[test]
        fn a_packet_of_ip_is_none(mut bytes in prop::collection::vec(any::<u8>(), 1..60), version in prop_oneof![Just(4_u8), Just(6)]) {
            bytes[0] = version << 4 | bytes[0] & 15;
            prop_assert_eq!(Probe::read(&bytes), None);
        }
    }
}

//! Reads decisions from the fuzzer's bytes. At the end of the bytes everything is zero.

/// What is left of the bytes.
pub(super) struct Steps<'a>(pub(super) &'a [u8]);

impl<'a> Steps<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    pub(super) fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    pub(super) fn long(&mut self) -> u64 {
        (0..8).fold(0, |value, _| value << 8 | u64::from(self.byte()))
    }

    /// A length of two bytes, and so many bytes if there are.
    pub(super) fn bytes(&mut self) -> &'a [u8] {
        let length = usize::from(self.word()).min(self.0.len());
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        bytes
    }

    /// Changes a message, or leaves it as it is. Returns whether it is still what it was.
    pub(super) fn change(&mut self, message: &mut Vec<u8>) -> bool {
        match self.byte() % 8 {
            1 => {
                let place = usize::from(self.word()) % message.len().max(1);
                let mask = self.byte();
                let Some(byte) = message.get_mut(place) else { return true };
                *byte ^= mask;
                mask == 0
            }
            2 => {
                let length = usize::from(self.word()) % (message.len() + 1);
                let is_whole = length == message.len();
                message.truncate(length);
                is_whole
            }
            3 => {
                let more = self.bytes();
                message.extend_from_slice(more);
                more.is_empty()
            }
            _ => true,
        }
    }
}

//! Entries for the fuzzer (`fuzz/`): each takes any bytes and must neither panic nor break what it asserts. Its corpus is
//! replayed by the tests of this crate.
#![allow(clippy::expect_used, reason = "what cannot be is a panic, and the fuzzer looks for those")]

mod control;
mod datagram;
mod mate;
mod packet;
mod relay;
mod steps;

pub use control::control;
pub use datagram::datagram;
pub use packet::packet;
pub use relay::relay;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    fn replay(target: &str, entry: fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
        let mut count = 0;
        for file in fs::read_dir(corpus).unwrap() {
            entry(&fs::read(file.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 0, "the corpus of {target} is empty");
    }

    #[test]
    fn the_corpora_are_survived() {
        replay("tunnel_datagram", super::datagram);
        replay("relay_datagram", super::relay);
        replay("inner_packet", super::packet);
        replay("tunnel_control", super::control);
    }
}

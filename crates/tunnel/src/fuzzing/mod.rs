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
#[path = "../../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::replay::replay;

    #[test]
    fn the_corpora_are_survived() {
        replay("tunnel_datagram", super::datagram);
        replay("relay_datagram", super::relay);
        replay("inner_packet", super::packet);
        replay("tunnel_control", super::control);
    }
}

//! What comes to the UDP port of the encrypted tunnel.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| oak_tunnel::fuzzing::datagram(data));

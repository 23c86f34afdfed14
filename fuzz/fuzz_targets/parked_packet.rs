//! Packets to unknown addresses.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| oak_net::fuzzing::parked_packet(data));

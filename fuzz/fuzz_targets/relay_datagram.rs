//! What comes to the UDP port of a relay.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| oak_tunnel::fuzzing::relay(data));

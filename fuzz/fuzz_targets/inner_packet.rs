//! What the kernel and peers hand to the tunnel: inner packets.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| oak_tunnel::fuzzing::packet(data));

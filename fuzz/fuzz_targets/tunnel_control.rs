//! What comes to the control socket of the tunnel.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| oak_tunnel::fuzzing::control(data));

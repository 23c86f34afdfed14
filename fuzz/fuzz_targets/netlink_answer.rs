//! What the kernel answers.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| oak_net::fuzzing::netlink_answer(data));

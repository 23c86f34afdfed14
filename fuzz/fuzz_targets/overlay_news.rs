//! What a cluster tells a worker of others.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| oak_control::fuzzing::overlay_news(data));

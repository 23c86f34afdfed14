//! What resolvers answer to the name server.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| oak_dns::fuzzing::answer(data));

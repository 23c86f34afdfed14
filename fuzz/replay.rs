//! Replays a corpus; part of the tests of each crate with entries for the fuzzer.

use std::fs;
use std::path::Path;

/// Feeds an entry with everything that is kept for its target.
pub(super) fn replay(target: &str, entry: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut count = 0;
    for file in fs::read_dir(corpus).unwrap() {
        entry(&fs::read(file.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0, "the corpus of {target} is empty");
}

#!/usr/bin/env bash
# Root, two clusters and four workers under random faults, watched from outside; see docs/reliability.md.
# SOAK_MINUTES: how long (60). SOAK_SEED: repeats the decisions of an earlier run. OAK_BINARY: another program.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$root"

scripts/setup.sh build run test
cargo build --package oak-cli --package oak-soak
# In a mount namespace of its own, so that nothing stays mounted even if the soak is killed. Not `sudo -E`: only these.
as_root unshare --mount --propagation private env \
    CARGO_TARGET_DIR="$target" \
    OAK_BINARY="${OAK_BINARY:-$target/debug/oak}" \
    SOAK_MINUTES="${SOAK_MINUTES:-60}" \
    SOAK_SEED="${SOAK_SEED:-}" \
    RUST_BACKTRACE=0 \
    "$target/debug/oak-soak"

#!/usr/bin/env bash
# Measures the release build against the budgets of the design; see docs/performance.md. Takes about a quarter of an hour.
# Numbers of different machines, or of a busy one, say nothing about each other.
# Usage: scripts/bench.sh [all|deploy|idle|micro|reads|start|overlay] [--rounds N]
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$root"

# crun, the measure for starts of containers, comes with the packages for tests.
scripts/setup.sh build run test bench
cargo build --release --quiet --package oak-cli --package oak-tunnel
cargo build --release --quiet --package oak-bench
as_root "$target/release/oak-bench" "$@" --oak "$oak"

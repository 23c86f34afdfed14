#!/usr/bin/env bash
# Runs the benchmarks of all crates. Numbers of different machines, or of a busy one, say nothing about each other.
# Usage: scripts/bench.sh [FILTER]
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$root"

scripts/setup.sh build run
cargo bench --workspace --benches -- "$@"

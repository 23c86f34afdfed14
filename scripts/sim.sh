#!/usr/bin/env bash
# Simulates thousands of histories in which everything goes wrong, with a release build and all processors. Ends with
# the first scenario of which a seed breaks a rule; the seed is printed with the command that replays it.
# Usage: scripts/sim.sh [--seeds N] [SCENARIO...]      (10000 seeds over the mixed scenarios if none is named)
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$root"

seeds=10000
if [ "${1:-}" = --seeds ]; then
    seeds="${2:?--seeds needs a number}"
    shift 2
fi
[ $# -gt 0 ] || set -- deploy/scenarios/mixed-small.toml deploy/scenarios/mixed-several.toml \
    deploy/scenarios/mixed-removals.toml deploy/scenarios/mixed-full.toml deploy/scenarios/lost-root.toml \
    deploy/scenarios/restored-root.toml

scripts/setup.sh build
cargo build --release --quiet --package oak-cli
each=$(((seeds + $# - 1) / $#))
for scenario in "$@"; do
    "$oak" sim "$scenario" --seeds "0..$each"
done
say "all $((each * $#)) histories are good"

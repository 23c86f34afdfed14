#!/usr/bin/env bash
# Lets schemathesis (from PyPI) invent requests from the document of the API, against a system of its own with
# something in it: no answer may be a fault of the server or differ from the document, and every operation must be
# reached. Prints which statuses each one answered. `make test` does the same with few examples and always the same seed.
# Usage: scripts/schemathesis.sh [--examples N] [--seed N]
# Environment: SCHEMATHESIS_EXAMPLES, SCHEMATHESIS_SEED do the same; OAK_BINARY is the program, a debug build without it.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$root"

examples="${SCHEMATHESIS_EXAMPLES:-20}"
seed="${SCHEMATHESIS_SEED:-$RANDOM}"
while [ $# -gt 0 ]; do
    case "$1" in
    --examples) examples="${2:?--examples needs a number}" ;;
    --seed) seed="${2:?--seed needs a number}" ;;
    *) die "unknown argument '$1'; there are: --examples N, --seed N" ;;
    esac
    shift 2
done
[ "$(id -u)" -eq 0 ] || die "it runs containers and needs root: sudo make schemathesis"

scripts/setup.sh build run test
if [ -z "${OAK_BINARY:-}" ]; then
    cargo build --quiet --package oak-cli
    OAK_BINARY="$target/debug/oak"
fi
say "seed $seed, $examples examples"
OAK_E2E=1 OAK_BINARY="$OAK_BINARY" SCHEMATHESIS_EXAMPLES="$examples" SCHEMATHESIS_SEED="$seed" \
    cargo test --quiet --package oak-e2e --test schemathesis -- --nocapture

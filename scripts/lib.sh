# Shared by the scripts beside it: where things are, messages, waiting. Sourced, not run.
# shellcheck shell=bash disable=SC2034

set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
target="${CARGO_TARGET_DIR:-$root/target}"

# What `make up` runs and where it keeps its state; each can be set from outside.
oak="${OAK_BINARY:-$target/release/oak}"
data_dir="${OAK_DATA_DIR:-$root/.oak}"
api="${OAK_SERVER:-http://127.0.0.1:10000}"
demo_url="${OAK_DEMO_URL:-http://127.0.0.1:8080/}"
log_file="$data_dir/oak.log"

say() { printf '%s\n' "$*" >&2; }

die() {
    say "error: $*"
    exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

# Runs a command as root: directly, or through sudo.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif has sudo; then
        sudo "$@"
    else
        die "this needs root and there is no sudo: $*"
    fi
}

# wait_until SECONDS COMMAND...: true as soon as the command is, false when the time is over.
wait_until() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.2
    done
}

answers() { curl --noproxy '*' --fail --silent --output /dev/null --max-time 2 "$1"; }

#!/usr/bin/env bash
# Stops what scripts/up.sh started: agents, containers, network. What is stored stays for the next start.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

[ -x "$oak" ] || die "there is no $oak; build it with: cargo build --release --package oak-cli"
as_root "$oak" down --data-dir "$data_dir"

#!/usr/bin/env bash
# Removes build output and the state of `make up`. Refuses while something of it is in use.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

# Deleting below a mounted container root would delete inside the container.
if grep -qF " $data_dir/" /proc/self/mountinfo; then
    die "containers are mounted below $data_dir; run 'make down' first"
fi
if answers "$api/healthz"; then
    die "oak still runs at $api; run 'make down' first"
fi
if [ -e "$data_dir" ]; then
    # Only what looks like ours: the variable may point anywhere.
    [ -e "$log_file" ] || die "$data_dir does not look like a data directory of 'make up'; remove it yourself"
    as_root rm -rf --one-file-system -- "$data_dir"
fi
(cd "$root" && cargo clean)

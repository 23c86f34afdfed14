#!/usr/bin/env bash
# Builds oak, starts root, cluster and worker in one process, deploys the demo and waits until it answers.
# A second run finds everything as it should be and only says where to look.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

show_log() {
    say "--- last lines of $log_file ---"
    as_root tail -n 20 "$log_file" >&2 || true
}

ready_or_gone() { answers "$api/healthz" || [ ! -d "/proc/$1" ]; }

start() {
    local pid
    say "starting oak, log in $log_file"
    as_root mkdir -p "$data_dir"
    # In a session of its own, so that neither a closed terminal nor Ctrl-C here ends it.
    # shellcheck disable=SC2016
    pid="$(as_root sh -c 'umask 077; setsid "$1" up --data-dir "$2" >>"$3" 2>&1 </dev/null & echo $!' \
        sh "$oak" "$data_dir" "$log_file")"
    wait_until 60 ready_or_gone "$pid" || true
    if ! answers "$api/healthz"; then
        show_log
        [ -d "/proc/$pid" ] || die "oak ended while it was starting; the log tells why"
        die "oak is not ready after 60 s; look at the log, then try 'make down' and 'make up'"
    fi
}

# Not `grep -q`: it would close the pipe early, which counts as a failure of the writer.
demo_is_running() { "$oak" get instances -o json | grep '"RUNNING"' >/dev/null; }

deploy_demo() {
    "$oak" apply -f "$root/deploy/demo.json" >&2
    if ! wait_until 60 demo_is_running || ! wait_until 30 answers "$demo_url"; then
        "$oak" get instances >&2 || true
        show_log
        die "the demo does not answer at $demo_url"
    fi
}

"$root/scripts/setup.sh" build run
say "building (the first time takes some minutes)"
(cd "$root" && cargo build --release --quiet --package oak-cli)
if answers "$api/healthz"; then
    say "oak is running already"
else
    start
fi
deploy_demo

cat <<END
oak is up.

  demo        $demo_url
  dashboard   $api/
  API         $api/api
  log         $log_file
  commands    $oak get services      (and: get instances, logs, apply, --help)

Stop everything with: make down
END

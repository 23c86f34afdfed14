#!/usr/bin/env bash
# Lets schemathesis (from PyPI) invent requests from the document of the API, against a root of its own: no answer may
# be a fault of the server or differ from the document. Ends with the requests that do; a seed repeats a run.
# Usage: scripts/schemathesis.sh [--examples N] [--seed N]
# Environment: OAK_BINARY, the program under test; a debug build is made without it.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$root"

version=4.32.5
examples=50
seed=$RANDOM
while [ $# -gt 0 ]; do
    case "$1" in
    --examples) examples="${2:?--examples needs a number}" ;;
    --seed) seed="${2:?--seed needs a number}" ;;
    *) die "unknown argument '$1'; there are: --examples N, --seed N" ;;
    esac
    shift 2
done

has jq || die "jq is missing: install it"
venv="$target/schemathesis-$version"
if [ ! -e "$venv/complete" ]; then
    python3 -m venv --clear "$venv" || die "python3 with the module venv is missing: install python3-venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$version" ||
        die "schemathesis cannot be installed from PyPI"
    touch "$venv/complete"
fi
if [ -z "${OAK_BINARY:-}" ]; then
    cargo build --quiet --package oak-cli
    oak="$target/debug/oak"
fi

work="$(mktemp -d)"
export OAK_ROOT_NETWORK_API_PORT=off
"$oak" root --listen 127.0.0.1:0 --dashboard off --data-dir "$work/data" 2>"$work/log" >/dev/null &
server=$!
finish() {
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    cd "$root"
    rm -rf "$work"
}
trap finish EXIT
wait_until 30 grep -q 'root ready' "$work/log" || die "the root does not start: $(cat "$work/log")"
api="http://$(grep -oE 'address=[0-9.:]+' "$work/log" | head -n 1 | cut -d = -f 2)"

# Something to look at, so that not every answer is 404.
token="$(curl -fsS "$api/api/auth/login" -d '{"username":"Admin","password":"Admin"}' | jq -r .token)"
bearer=(-H "Authorization: Bearer $token")
create() {
    jq -n --arg name "$1" '{sla_version: "v2.0", customerID: "Admin", applications: [{application_name: $name,
        application_namespace: "test", microservices: [{microservice_name: "one", microservice_namespace: "test",
        virtualization: "container", code: "docker.io/library/nginx:latest", memory: 10}]}]}' |
        curl -fsS "${bearer[@]}" "$api/api/application" -d @- |
        jq -r --arg name "$1" 'fromjson | .[] | select(.application_name == $name) | .applicationID, .microservices[0]'
}
{ read -r application && read -r service; } < <(create kept)
user="$(curl -fsS "${bearer[@]}" "$api/api/user/Admin" | jq -r '._id["$oid"]')"
for _ in 1 2 3; do curl -fsS -X POST "${bearer[@]}" "$api/api/service/$service/instance" >/dev/null; done
address="$(curl -fsS "${bearer[@]}" "$api/api/service/$service" | jq -r 'fromjson | .RR_ip')"

# Reading and changing meet what exists; removing does not, because it would be gone for all others. 501 is a documented
# answer of this API, not a fault.
cat >"$work/schemathesis.toml" <<END
[checks]
not_a_server_error.expected-statuses = ["2xx", "4xx", "501", "503", "504"]

[[operations]]
include-path = "/api/application/{id}"
exclude-method = "DELETE"
parameters = { "path.id" = "$application" }

[[operations]]
include-path = "/api/services/{application}"
parameters = { "path.application" = "$application" }

[[operations]]
include-path = "/api/applications/{user}"
parameters = { "path.user" = "$user" }

[[operations]]
include-path-regex = "^/api/service/[{]id[}]"
exclude-method = "DELETE"
parameters = { "path.id" = "$service" }

[[operations]]
include-path-regex = "[{]service[}]"
parameters = { "path.service" = "$service" }

[[operations]]
include-path-regex = "[{]address[}]"
parameters = { "path.address" = "$address" }
END

say "seed $seed; log of the root in $work/log while it runs"
status=0
# It keeps notes where it is started. Refreshing needs another token than all the rest; the stream of events has no end.
cd "$work"
"$venv/bin/schemathesis" --config-file "$work/schemathesis.toml" run "$api/docs/openapi.json" --url "$api" \
    -H "Authorization: Bearer $token" --max-examples "$examples" --seed "$seed" \
    --checks not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance \
    --exclude-path-regex '^/api/(auth/refresh|events)$' || status=$?
! grep -E 'panicked|a request failed' "$work/log" >&2 || die "the root had faults"
[ "$status" -eq 0 ] || die "schemathesis found answers that are not documented: see above; repeat with --seed $seed"
say "every answer was a documented one"

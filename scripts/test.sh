#!/usr/bin/env bash
# Everything that has to pass: static rules, unit and property tests, documentation examples, end-to-end tests.
# Usage: scripts/test.sh [check] [unit] [e2e]      (all three if none is named)
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$root"

[ $# -gt 0 ] || set -- check unit e2e
skipped="$target/skipped.txt"
mkdir -p "$target"
: >"$skipped"

# Tests print `skipped: <reason>` where they cannot run; a passing test's output is only in the report.
collect_skipped() {
    grep -rhoE 'skipped: [^<]*' "$@" 2>/dev/null | sort | uniq -c >>"$skipped" || true
}

# run_tests PROFILE CARGO-ARGUMENTS...
run_tests() {
    local profile="$1"
    shift
    if has cargo-nextest; then
        cargo nextest run --profile "$profile" --no-tests=pass "$@"
        # Always here, wherever cargo puts its output.
        collect_skipped "$root/target/nextest/$profile/junit.xml"
        return
    fi
    cargo test "$@" -- --show-output 2>&1 | tee "$target/$profile-tests.log"
    collect_skipped "$target/$profile-tests.log"
}

# Not `grep -q`: it would close the pipe early, which counts as a failure of the writer.
has_package() { cargo metadata --no-deps --format-version 1 | grep "\"name\":\"$1\"" >/dev/null; }

for part in "$@"; do
    case "$part" in
    check)
        scripts/setup.sh build test
        cargo xtask check
        ;;
    unit)
        scripts/setup.sh build run test
        run_tests unit --workspace --exclude oak-e2e
        if has cargo-nextest; then cargo test --workspace --doc --quiet; fi
        ;;
    e2e)
        scripts/setup.sh build run test
        if ! has_package oak-e2e; then
            echo "skipped: end-to-end tests, there is no package oak-e2e" >>"$skipped"
        elif [ "$(id -u)" -ne 0 ]; then
            echo "skipped: end-to-end tests, they need root (sudo make test)" >>"$skipped"
        else
            cargo build --package oak-cli
            OAK_BINARY="${OAK_E2E_BINARY:-$target/debug/oak}" OAK_E2E=1 run_tests e2e --package oak-e2e
        fi
        ;;
    *) die "unknown part '$part'; there are: check, unit, e2e" ;;
    esac
done

if [ -s "$skipped" ]; then
    echo "Not everything was run:"
    sed 's/^/  /' "$skipped"
fi

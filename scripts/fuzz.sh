#!/usr/bin/env bash
# Feeds everything that reads what others send with invented bytes, guided by coverage (libFuzzer). The targets are in fuzz/.
# Usage: scripts/fuzz.sh [run] [TARGET...]        each for FUZZ_SECONDS (3600), FUZZ_JOBS (1) at a time; ends with the
#                                                 first crash and says how to repeat it
#        scripts/fuzz.sh replay TARGET FILE...    once, with these inputs
#        scripts/fuzz.sh keep [TARGET...]         puts what is worth it of what was found into fuzz/corpus
#        scripts/fuzz.sh list
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$root"

seconds="${FUZZ_SECONDS:-3600}"
jobs="${FUZZ_JOBS:-1}"
# What of one target is kept in the repository, bytes in all and of each input.
keep_bytes=16384
keep_longest=1024
work="$target/fuzz"
host="$(rustc -vV | sed -n 's/^host: //p')"

# Instrumentation by LLVM's own pass, so that the stable compiler does it. There is no address sanitizer in it.
flags=(-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg=fuzzing -Ccodegen-units=1 -Cdebug-assertions=on
    -Coverflow-checks=on)

targets() { sed -n '/^\[\[bin\]\]/,$ s/^name = "\(.*\)"/\1/p' fuzz/Cargo.toml; }

build() {
    # A target of its own, or build scripts would be instrumented, too.
    RUSTC_WRAPPER="$root/scripts/fuzz-rustc.sh" RUSTFLAGS="${flags[*]}" cargo build --release --quiet --manifest-path fuzz/Cargo.toml \
        --target "$host" --target-dir "$work/target"
}

program() { echo "$work/target/$host/release/$1"; }

# In a network of its own where that is possible: what is tried can reach nobody.
alone() {
    if unshare --net true 2>/dev/null; then
        # shellcheck disable=SC2016
        unshare --net sh -c 'ip link set lo up && exec "$@"' fuzz "$@"
    else
        "$@"
    fi
}

run_target() {
    local name="$1" log="$work/$1.log"
    mkdir -p "$work/corpus/$name" "$work/crashes" "fuzz/corpus/$name"
    say "$name: $seconds s, log in $log"
    if ! alone "$(program "$name")" "$work/corpus/$name" "fuzz/corpus/$name" -max_total_time="$seconds" \
        -max_len=4096 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 -verbosity=1 \
        -artifact_prefix="$work/crashes/$name-" >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        local file
        file="$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)"
        die "$name failed; repeat it with: scripts/fuzz.sh replay $name ${file:-FILE}"
    fi
    say "$name: clean, $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") executions," \
        "$(find "$work/corpus/$name" -type f | wc -l) inputs"
}

# The smallest inputs that together reach what is reached, until there is enough.
keep_target() {
    local name="$1" merged="$work/merged/$1" file size total=0
    rm -rf "$merged"
    mkdir -p "$merged" "$work/corpus/$name" "fuzz/corpus/$name"
    alone "$(program "$name")" -set_cover_merge=1 -max_len="$keep_longest" "$merged" "fuzz/corpus/$name" "$work/corpus/$name" \
        >"$work/$name-keep.log" 2>&1
    # Those with a name of their own were put there by somebody, and stay.
    find "fuzz/corpus/$name" -type f -regextype posix-extended -regex '.*/[0-9a-f]{40}' -delete
    while read -r size file; do
        total=$((total + size))
        [ "$total" -le "$keep_bytes" ] || break
        cp "$file" "fuzz/corpus/$name/"
    done < <(find "$merged" -type f -printf '%s %p\n' | sort -n)
    say "$name: $(find "fuzz/corpus/$name" -type f | wc -l) of $(find "$merged" -type f | wc -l) inputs kept"
}

what="${1:-run}"
[ $# -eq 0 ] || shift
case "$what" in
run)
    [ $# -gt 0 ] || mapfile -t all < <(targets)
    [ $# -eq 0 ] || all=("$@")
    build
    # Each in a subshell: the first failure ends the rest.
    running=0
    for name in "${all[@]}"; do
        if [ "$running" -ge "$jobs" ]; then
            wait -n || exit 1
            running=$((running - 1))
        fi
        (run_target "$name") &
        running=$((running + 1))
    done
    while [ "$running" -gt 0 ]; do
        wait -n || exit 1
        running=$((running - 1))
    done
    ;;
replay)
    build
    alone "$(program "${1:?TARGET is missing}")" "${@:2}"
    ;;
keep)
    [ $# -gt 0 ] || mapfile -t all < <(targets)
    [ $# -eq 0 ] || all=("$@")
    build
    for name in "${all[@]}"; do keep_target "$name"; done
    ;;
list) targets ;;
*) die "unknown part '$what'; there are: run, replay, keep, list" ;;
esac

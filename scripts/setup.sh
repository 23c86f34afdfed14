#!/usr/bin/env bash
# Installs the Debian packages that are missing for building, running or testing. Does nothing if none is.
# Usage: scripts/setup.sh [build] [run] [test] [bench]      (the first three if none is named)
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

# For each purpose: what to look for (a command, or a file if it begins with a slash), and the package that brings it.
needs() {
    case "$1" in
    build) printf '%s\n' "cc gcc" "/usr/include/stdio.h libc6-dev" "make make" ;;
    run) printf '%s\n' "nft nftables" "ip iproute2" "curl curl" ;;
    test) printf '%s\n' "git git" "docker-registry docker-registry" "crun crun" "unshare util-linux" "hostname hostname" \
        "dig bind9-dnsutils" "pidof sysvinit-utils" "perl perl-base" ;;
    bench) printf '%s\n' "iperf3 iperf3" "ethtool ethtool" "wireguard-go wireguard-go" "wg wireguard-tools" ;;
    *) die "unknown purpose '$1'; there are: build, run, test, bench" ;;
    esac
}

is_there() {
    case "$1" in
    /*) [ -e "$1" ] ;;
    # Many users do not have the administrators' directories in their path.
    *) has "$1" || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ] ;;
    esac
}

[ $# -gt 0 ] || set -- build run test
missing=()
for purpose in "$@"; do
    list="$(needs "$purpose")"
    while read -r thing package; do
        is_there "$thing" || missing+=("$package")
    done <<<"$list"
done

wants_lists=no
for purpose in "$@"; do
    if [ "$purpose" = build ] && ! has cargo; then
        die "cargo is missing: install Rust $(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml") or newer (https://rustup.rs)"
    fi
    # The test images are made from packages; apt has to know which there are.
    if [ "$purpose" = test ] && has apt-cache && [ -z "$(apt-cache show --no-all-versions nginx 2>/dev/null)" ]; then
        wants_lists=yes
    fi
done

[ "${#missing[@]}" -gt 0 ] || [ "$wants_lists" = yes ] || exit 0

has apt-get || die "missing: ${missing[*]} (Debian names). This system has no apt-get; please install them yourself."
say "installing: ${missing[*]:-package lists}"
as_root apt-get update -qq || say "warning: package lists could not be refreshed, trying with the old ones"
[ "${#missing[@]}" -gt 0 ] || exit 0
as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2

# The package starts a registry at boot, open to the network; the tests start their own.
case " ${missing[*]} " in
*" docker-registry "*)
    if [ -d /run/systemd/system ]; then
        as_root systemctl disable --now docker-registry.service >&2 || say "warning: docker-registry.service runs"
    fi
    ;;
esac

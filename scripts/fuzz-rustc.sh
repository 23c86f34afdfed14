#!/usr/bin/env bash
# The compiler of scripts/fuzz.sh: leaves ciphers and hashes without instrumentation and checks. What they do does not depend on the
# bytes, and a target that shakes hands would do hardly anything else.
# Usage: as cargo calls a RUSTC_WRAPPER
set -euo pipefail

ciphers='aead|blake2|block_buffer|chacha20|chacha20poly1305|cipher|crypto_common|ctutils|curve25519_dalek|digest'
ciphers+='|hybrid_array|inout|poly1305|ring|subtle|universal_hash|x25519_dalek'
if [[ " $* " =~ \ --crate-name\ ($ciphers)\  ]]; then
    arguments=()
    for argument in "$@"; do
        case "$argument" in
        -Cpasses=sancov-module | -Cllvm-args=-sanitizer-coverage-* | -Cdebug-assertions=on | -Coverflow-checks=on) ;;
        *) arguments+=("$argument") ;;
        esac
    done
    set -- "${arguments[@]}"
fi
exec "$@"

#!/usr/bin/env bash
# Builds the three binaries with one line of progress in place of cargo's hundreds. Compiler errors are shown in full.
#
#   scripts/build.sh [cargo build options]

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# How often a line is added where the output is no terminal and cannot be rewritten in place.
readonly LINE_EVERY_SECONDS=20

# Counts cargo's machine-readable messages; one is sent for each crate that is ready, also for those built before.
progress() {
    local message crates=0 shown=0
    if [[ -t 2 ]]; then
        printf '\rbuilding …' >&2
    fi
    while IFS= read -r message; do
        [[ $message == *'"reason":"compiler-artifact"'* && $message == *'"fresh":false'* ]] || continue
        crates=$((crates + 1))
        if [[ -t 2 ]]; then
            printf '\rbuilding: %d crates, %d s ' "$crates" "$SECONDS" >&2
        elif ((SECONDS - shown >= LINE_EVERY_SECONDS)); then
            shown=$SECONDS
            printf 'building: %d crates, %d s\n' "$crates" "$SECONDS" >&2
        fi
    done
    if [[ -t 2 ]]; then
        printf '\r\033[K' >&2
    fi
    if ((crates > 0)); then
        printf 'built: %d crates in %d s\n' "$crates" "$SECONDS" >&2
    fi
}

cargo build --quiet --workspace --bins --message-format json-render-diagnostics "$@" </dev/null | progress

#!/usr/bin/env bash
# Runs each fuzz target for FUZZ_SECONDS (default 300), beginning with sound files. Needs a nightly compiler and cargo-fuzz,
# and says in one line which of them is missing. What is found stays in fuzz/artifacts.
#
#   scripts/fuzz.sh [TARGET…]

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

seconds=${FUZZ_SECONDS:-300}
cargo +nightly --version >/dev/null 2>&1 || { echo 'fuzzing needs a nightly compiler: rustup toolchain install nightly'; exit 1; }
cargo fuzz --version >/dev/null 2>&1 || { echo 'fuzzing needs cargo-fuzz: cargo install cargo-fuzz --locked'; exit 1; }

targets=("$@")
if ((${#targets[@]} == 0)); then
    targets=(segment aside cursor folder snapshot)
fi
cargo run --quiet --manifest-path fuzz/Cargo.toml --example seeds -- fuzz/corpus
for target in "${targets[@]}"; do
    echo "$target: $seconds s"
    cargo +nightly fuzz run "$target" -- -max_total_time="$seconds" -max_len=16384 -verbosity=0 -print_final_stats=1
done

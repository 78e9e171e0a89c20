#!/usr/bin/env bash
# Everything that CI checks, one line a step, ending with the counts of the test runners. The log of a step is printed
# only where the step failed. Nothing is left behind but the target folder.
#
#   scripts/test.sh
#
# It reads no terminal and uses no fixed port or path, so that two checkouts can be tested at the same time.

# With job control each step is a process group of its own, so that an interrupt reaches all of it.
set -uom pipefail
exec </dev/null
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

export CARGO_TERM_COLOR=never CARGO_TERM_PROGRESS_WHEN=never
# Given to rustc for the workspace's own crates only; RUSTFLAGS would rebuild every dependency.
readonly DENY=(-- -D warnings)

logs=$(mktemp -d "${TMPDIR:-/tmp}/ridethrough-test.XXXXXX")
step_pid=''
failed_steps=()
passed=0 failed=0 skipped=0

stop() {
    trap - INT TERM
    if [[ -n $step_pid ]]; then
        kill -TERM -- "-$step_pid" 2>/dev/null
        wait "$step_pid" 2>/dev/null
    fi
    echo 'interrupted'
    exit 130
}
trap stop INT TERM
trap 'rm -rf "$logs"' EXIT

# step NAME COMMAND…: runs it with its output in $log. The command runs in the background because bash answers a
# signal only between foreground commands.
step() {
    local name=$1 started=$SECONDS
    shift
    log=$logs/${name//[^a-z0-9]/-}.log
    printf '%-44s' "$name"
    "$@" >"$log" 2>&1 &
    step_pid=$!
    if wait "$step_pid"; then
        printf 'ok    %4d s\n' $((SECONDS - started))
        step_pid=''
        return 0
    fi
    printf 'FAIL  %4d s\n' $((SECONDS - started))
    step_pid=''
    failed_steps+=("$name")
    sed 's/^/    /' "$log"
    return 1
}

skip() { printf '%-44sskipped: %s\n' "$1" "$2"; }

# The last number before WORD in the text on standard input, or 0.
number_before() {
    local found
    found=$(grep -oE "[0-9]+ $1" | tail -n 1)
    echo "${found%% *}" | grep -E '^[0-9]+$' || echo 0
}

# Adds nextest's summary line: `Summary [1.2s] 9 tests run: 7 passed (1 slow), 1 failed, 1 timed out, 3 skipped`.
# What a filter left out counts as skipped there, so a filtered run says `filtered` and adds none of those.
count_nextest() {
    local summary word
    summary=$(grep -E '^ *Summary \[' "$log" | tail -n 1)
    passed=$((passed + $(number_before 'passed' <<<"$summary")))
    if [[ ${1:-} != filtered ]]; then
        skipped=$((skipped + $(number_before 'skipped' <<<"$summary")))
    fi
    for word in 'failed' 'timed out' 'exec failed'; do
        failed=$((failed + $(number_before "$word" <<<"$summary")))
    done
}

# Adds the `test result:` lines of the standard test harness, one for each test binary.
count_libtest() {
    local summary
    while IFS= read -r summary; do
        passed=$((passed + $(number_before 'passed' <<<"$summary")))
        failed=$((failed + $(number_before 'failed' <<<"$summary")))
        skipped=$((skipped + $(number_before 'ignored' <<<"$summary")))
    done < <(grep -E '^test result: ' "$log")
}

# --- the steps ---------------------------------------------------------------------------------------------------------

core_features() {
    awk '/^\[/ { inside = ($0 == "[features]") } inside && /^[a-z][a-z0-9_-]* *=/ && !/^default/ { print $1 }' core/Cargo.toml
}

# The library must compile with no feature, with each alone, and with all of them.
check_features() {
    local feature
    cargo clippy --quiet -p ridethrough --lib --no-default-features "${DENY[@]}" || return 1
    while IFS= read -r feature; do
        echo "feature $feature alone:"
        cargo clippy --quiet -p ridethrough --lib --no-default-features --features "$feature" "${DENY[@]}" || return 1
    done < <(core_features)
}

build_binaries() {
    cargo build --quiet --workspace --bins &&
        cargo build --quiet -p ridethrough-chaos --example naive &&
        cargo build --quiet -p ridethrough --features service --example shifts &&
        cargo build --quiet -p ridethrough-server --features sabotage,nats --bin ridethrough-server-sabotage --example broadcaster
}

# The standard harness knows no test groups, so the tests that need a quiet machine run one by one.
libtest() {
    cargo test --workspace --exclude ridethrough-tests --exclude ridethrough-chaos --lib --bins --tests --no-fail-fast
    local outcome=$?
    cargo test -p ridethrough-tests -p ridethrough-chaos --tests --no-fail-fast -- --test-threads=1 && return "$outcome"
}

run_tests() {
    if cargo nextest --version >/dev/null 2>&1; then
        local profile=default
        [[ -z ${CI:-} ]] || profile=ci
        step 'tests' cargo nextest run --workspace --profile "$profile" --no-fail-fast
        count_nextest
        step 'tests of the features backoff and tower' cargo nextest run -p ridethrough --no-default-features \
            --features backoff,tower --profile "$profile" --no-fail-fast -E 'test(/backoff/) or binary(layers)'
        count_nextest filtered
        step 'tests of the features oidc and nats' cargo nextest run -p ridethrough-server --features oidc,nats \
            --profile "$profile" --no-fail-fast -E 'test(/oidc|nats/)'
        count_nextest filtered
        step 'tests of the feature otel' cargo nextest run -p ridethrough-server --features otel \
            --profile "$profile" --no-fail-fast -E 'test(/trace/)'
        count_nextest filtered
    else
        step 'tests' libtest
        count_libtest
        step 'tests of the features backoff and tower' cargo test -p ridethrough --lib --test layers \
            --no-default-features --features backoff,tower --no-fail-fast
        count_libtest
        step 'tests of the features oidc and nats' cargo test -p ridethrough-server --lib --features oidc,nats \
            --no-fail-fast -- oidc nats
        count_libtest
        step 'tests of the feature otel' cargo test -p ridethrough-server --lib --features otel --no-fail-fast trace
        count_libtest
    fi
}

step 'format' cargo fmt --all --check -- --color never
step 'clippy, all targets and features' cargo clippy --quiet --workspace --all-targets --all-features "${DENY[@]}"
step 'library, each feature alone' check_features
if ! reason=$(scripts/browser.sh); then
    skip 'browser test' "$reason"
fi
if step 'build' build_binaries; then
    run_tests
    step 'tests in the documentation' cargo test --workspace --doc --no-fail-fast
    count_libtest
else
    skip 'tests' 'the build failed'
fi
if reason=$(scripts/foreign-clients.sh fetch "$logs/clients"); then
    step "toxiproxy's clients" scripts/foreign-clients.sh run "$logs/clients"
else
    skip "toxiproxy's clients" "$reason"
fi
if reason=$(scripts/httplint.sh fetch "$logs/httplint"); then
    step 'httplint' scripts/httplint.sh run "$logs/httplint"
else
    skip 'httplint' "$reason"
fi
step 'documentation, links' env RUSTDOCFLAGS='-D warnings' cargo doc --quiet --workspace --no-deps --all-features
if cargo deny --version >/dev/null 2>&1; then
    step 'dependencies' cargo deny --offline check licenses bans sources
else
    skip 'dependencies' 'cargo-deny is not installed'
fi
if command -v shellcheck >/dev/null; then
    step 'shell scripts' shellcheck .ci/run scripts/*.sh
else
    skip 'shell scripts' 'shellcheck is not installed'
fi

if ((${#failed_steps[@]})); then
    printf 'failed: %s\n' "$(printf '%s; ' "${failed_steps[@]}" | sed 's/; $//')"
fi
if ((skipped)); then
    printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
else
    printf '%d passed, %d failed\n' "$passed" "$failed"
fi
((${#failed_steps[@]} == 0 && failed == 0 && passed > 0))

#!/usr/bin/env bash
# Runs the public suite of tests for HTTP caches (https://cache-tests.fyi) against `ridethrough-proxy` and holds the
# results against docs/cache-tests.md. The suite is fetched into target/ at one commit and never becomes part of this
# repository.
#
#   scripts/cache-tests.sh          all of it, about a minute and a half
#   scripts/cache-tests.sh ID       one test, with what was asked and answered

set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit 1
readonly root
readonly SUITE='https://github.com/http-tests/cache-tests.git'
readonly COMMIT='b55b8bda3dbb8c927c04e85bd8d496a8caa3e4ba'
readonly CLIENT='undici@7.16.0'
# The suite gives each request ten seconds; all of it takes about 70.
readonly PATIENCE_SECONDS=300
readonly FETCH_SECONDS=120

target="$root/${CARGO_TARGET_DIR:-target}"
folder="$target/cache-tests"
suite="$folder/suite"
pids=()

stop() {
    local pid
    for pid in "${pids[@]}"; do
        kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null
    done
    pids=()
}
trap stop EXIT
trap 'exit 130' INT TERM

give_up() {
    echo "cache-tests: $1" >&2
    exit "${2:-1}"
}

fetch() {
    { node --version && npm --version && git --version; } >/dev/null 2>&1 ||
        give_up 'node 20 or later, npm and git are needed' 3
    mkdir -p "$folder"
    if [[ $(git -C "$suite" rev-parse HEAD 2>/dev/null) != "$COMMIT" ]]; then
        rm -rf "$suite"
        if ! timeout "$FETCH_SECONDS" git clone --quiet --no-checkout "${RIDETHROUGH_CACHE_TESTS:-$SUITE}" "$suite" ||
            ! git -C "$suite" checkout --quiet "$COMMIT"; then
            give_up 'the suite cannot be fetched' 3
        fi
    fi
    # Beside the suite, where node looks too: it stays as it was fetched.
    if [[ ! -e $folder/node_modules/undici ]]; then
        timeout "$FETCH_SECONDS" npm install --prefix "$folder" --silent --no-audit --no-fund --ignore-scripts \
            "$CLIENT" >/dev/null 2>&1 || give_up "npm cannot fetch $CLIENT" 3
    fi
}

# A port that is free now; the suite's server cannot choose one itself.
free_port() {
    node -e 'const s=require("net").createServer().listen(0,"127.0.0.1",()=>{console.log(s.address().port);s.close()})'
}

# wait_for WHAT COMMAND…: until it succeeds, for ten seconds at the most.
wait_for() {
    local what=$1 waited
    shift
    for waited in {1..100}; do
        "$@" >/dev/null 2>&1 && return 0
        sleep 0.1
    done
    give_up "$what did not start within $waited tenths of a second"
}

start() {
    local port
    port=$(free_port) || give_up 'no free port'
    (cd "$suite" && exec env npm_config_protocol=http npm_config_port="$port" \
        npm_config_pidfile="$folder/origin.pid" node test-engine/server/server.mjs) >"$folder/origin.log" 2>&1 &
    pids+=($!)
    wait_for 'the suite'\''s server' grep -q Listening "$folder/origin.log"
    # Tests break connections on purpose, many at once: no breaker may take the backend away from the others.
    cat >"$folder/proxy.toml" <<TOML
[proxy]
access_log = false
log_filter = "warn"
[checks]
path = "/README.md"
[breaker]
consecutive_failures = 1000000
[backends]
urls = ["http://127.0.0.1:$port"]
TOML
    "$target/debug/ridethrough-proxy" --config "$folder/proxy.toml" --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 \
        >"$folder/proxy.out" 2>"$folder/proxy.log" &
    pids+=($!)
    wait_for 'the proxy' grep -q '^listening' "$folder/proxy.out"
    address=$(sed -n 's/^listening main=\([^ ]*\).*/\1/p' "$folder/proxy.out")
}

(cd "$root" && cargo build --quiet -p ridethrough-proxy --bin ridethrough-proxy) || exit 1
fetch
start
cd "$suite" || exit 1
export npm_config_base="http://$address" npm_config_id="${1:-}" npm_package_config_id=''
if [[ -n ${1:-} ]]; then
    timeout "$PATIENCE_SECONDS" node --no-warnings test-engine/cli.mjs
    exit
fi
timeout "$PATIENCE_SECONDS" node --no-warnings test-engine/cli.mjs >"$folder/results.json" 2>"$folder/client.log" ||
    give_up "the suite did not end well; see $folder/client.log"
node --no-warnings "$root/scripts/cache-tests/judge.mjs" "$suite" "$folder/results.json" "$root/docs/cache-tests.md"

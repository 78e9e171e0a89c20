#!/usr/bin/env bash
# Drives `ridethrough-chaos proxy` through clients of toxiproxy that nobody here wrote, each unchanged from its
# registry. Nothing is installed but into a folder that goes away.
#
#   scripts/foreign-clients.sh              fetch the clients and run a scenario through each
#   scripts/foreign-clients.sh fetch DIR    only fetch; says what is missing and fails where none can be had
#   scripts/foreign-clients.sh run DIR      only run those that were fetched

set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit 1
readonly root
readonly PYTHON_CLIENT='toxiproxy-python==0.1.1'
readonly NODE_CLIENT='toxiproxy-node-client@4.1.0'
# A registry that does not answer must not hold up anybody.
readonly PATIENCE_SECONDS=10

complaints=()
proxy_pid=''

# complain TEXT: why one of them cannot be had; always fails.
complain() {
    complaints+=("$1")
    return 1
}

fetch_python() {
    command -v python3 >/dev/null || complain 'python3 is not installed' || return 1
    python3 -m venv "$1/python" >/dev/null 2>&1 || complain 'python3 makes no environments here' || return 1
    "$1/python/bin/pip" install --quiet --disable-pip-version-check --retries 0 --timeout "$PATIENCE_SECONDS" \
        "$PYTHON_CLIENT" >/dev/null 2>&1 || complain "pip cannot fetch $PYTHON_CLIENT" || return 1
    touch "$1/python/fetched"
}

fetch_node() {
    { node --version && npm --version; } >/dev/null 2>&1 || complain 'node and npm are not installed' || return 1
    mkdir -p "$1/node" || return 1
    npm install --prefix "$1/node" --silent --no-audit --no-fund --ignore-scripts --fetch-retries=0 \
        --fetch-timeout="${PATIENCE_SECONDS}000" "$NODE_CLIENT" >/dev/null 2>&1 ||
        complain "npm cannot fetch $NODE_CLIENT" || return 1
    touch "$1/node/fetched"
}

# Both are tried; one is enough.
fetch() {
    local had=1
    fetch_python "$1" && had=0
    fetch_node "$1" && had=0
    if ((had)); then
        (IFS=';'; echo "${complaints[*]}")
    fi
    return "$had"
}

stop_proxy() {
    if [[ -n $proxy_pid ]]; then
        kill "$proxy_pid" 2>/dev/null
        wait "$proxy_pid" 2>/dev/null
        proxy_pid=''
    fi
}

# Starts a proxy for one scenario and sets `interface` to its address.
start_proxy() {
    # The shell opens it only in the background: an earlier run's address must not be read meanwhile.
    : >"$1"
    "$root/${CARGO_TARGET_DIR:-target}/debug/ridethrough-chaos" proxy --listen 127.0.0.1:0 --seed 7 >"$1" &
    proxy_pid=$!
    local waited
    for waited in {1..100}; do
        interface=$(grep -oE 'http://[0-9.:]+' "$1") && return 0
        kill -0 "$proxy_pid" 2>/dev/null || break
        sleep 0.1
    done
    echo "the proxy did not start within $waited tenths of a second"
    return 1
}

# scenario NAME COMMAND…: COMMAND gets the address of the interface as its last argument.
scenario() {
    local name=$1 outcome=0
    shift
    start_proxy "$folder/$name.log" && "$@" "$interface" || outcome=1
    stop_proxy
    ((outcome)) && echo "$name: FAILED"
    return "$outcome"
}

run() {
    folder=$1
    local failed=0
    (cd "$root" && cargo build --quiet -p ridethrough-chaos --bin ridethrough-chaos) || return 1
    if [[ -e $folder/python/fetched ]]; then
        scenario 'toxiproxy-python' "$folder/python/bin/python" "$root/scripts/foreign-clients/scenario.py" || failed=1
    fi
    if [[ -e $folder/node/fetched ]]; then
        NODE_PATH=$folder/node/node_modules scenario 'toxiproxy-node-client' \
            node "$root/scripts/foreign-clients/scenario.cjs" || failed=1
    fi
    return "$failed"
}

trap stop_proxy EXIT
trap 'exit 130' INT TERM
case ${1:-} in
fetch) fetch "${2:?fetch needs a folder}" ;;
run) run "${2:?run needs a folder}" ;;
'')
    own=$(mktemp -d "${TMPDIR:-/tmp}/ridethrough-clients.XXXXXX") || exit 1
    trap 'stop_proxy; rm -rf "$own"' EXIT
    fetch "$own" && run "$own"
    outcome=$?
    for complaint in "${complaints[@]}"; do
        echo "skipped: $complaint"
    done
    exit "$outcome"
    ;;
*)
    echo "unknown argument $1" >&2
    exit 2
    ;;
esac

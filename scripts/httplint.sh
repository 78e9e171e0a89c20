#!/usr/bin/env bash
# Holds every kind of answer that the proxy makes by itself against the rules of HTTP, as httplint (PyPI) knows them.
#
#   scripts/httplint.sh              fetch httplint and judge the answers
#   scripts/httplint.sh fetch DIR    only fetch; says what is missing and fails where it cannot be had
#   scripts/httplint.sh run DIR      only judge, with what was fetched; RAW=1 shows warnings too

set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit 1
readonly root
readonly HTTPLINT='httplint==2026.10.4'
# A registry that does not answer must not hold up anybody.
readonly PATIENCE_SECONDS=20
# Nobody listens there.
readonly NOBODY='http://127.0.0.1:1'

proxy_pid=''
work=''

complain() {
    echo "$*"
    exit 1
}

clean_up() {
    if [[ -n $proxy_pid ]]; then
        kill "$proxy_pid" 2>/dev/null
        wait "$proxy_pid" 2>/dev/null
    fi
    [[ -z $work ]] || rm -rf "$work"
}
trap clean_up EXIT

fetch() {
    command -v curl >/dev/null || complain 'curl is not installed'
    command -v python3 >/dev/null || complain 'python3 is not installed'
    [[ ! -e $1/fetched ]] || return 0
    python3 -m venv "$1" >/dev/null 2>&1 || complain 'python3 makes no environments here'
    "$1/bin/pip" install --quiet --disable-pip-version-check --retries 0 --timeout "$PATIENCE_SECONDS" \
        "$HTTPLINT" >/dev/null 2>&1 || complain "pip cannot fetch $HTTPLINT"
    touch "$1/fetched"
}

start_proxy() {
    local program="${CARGO_TARGET_DIR:-$root/target}/debug/ridethrough-proxy" line=''
    [[ -x $program ]] || complain "there is no $program; build it first"
    : >"$work/out"
    "$program" --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --backend "$NOBODY" >"$work/out" 2>"$work/log" &
    proxy_pid=$!
    for _ in {1..100}; do
        read -r line <"$work/out" && break
        sleep 0.1
    done
    [[ $line == listening* ]] || complain "the proxy did not start: $(cat "$work/log")"
    address=${line#*main=}
    address=${address%% *}
}

judged=0
failed=0

# judge NAME CURL-ARGUMENTS…: one answer.
judge() {
    local name=$1 notes
    shift
    curl --silent --show-error --http1.1 --include --max-time 10 "$@" >"$work/answer" ||
        complain "$name: no answer"
    notes=$("$tools/bin/httplint" --now <"$work/answer" 2>&1) || notes="* [BAD] it cannot be read: $notes"
    # That a status 414 was sent is what is meant, and no error.
    notes=$(grep -v "won't accept a URI this long" <<<"$notes")
    judged=$((judged + 1))
    if [[ -n ${RAW:-} ]]; then
        printf '%s: %s\n%s\n' "$name" "$(head -n 1 "$work/answer")" "$notes"
    fi
    if grep -q '\[BAD\]' <<<"$notes"; then
        failed=$((failed + 1))
        printf '%s:\n%s\n' "$name" "$(grep '\[BAD\]' <<<"$notes")"
        sed -n '1,/^\r*$/p' "$work/answer"
    fi
}

run() {
    tools=$1
    work=$(mktemp -d) || exit 1
    start_proxy
    local url="http://$address" html='Accept: text/html'
    for round in refused away; do
        judge "page ($round)" -H "$html" "$url/"
        judge "page in Arabic ($round)" -H "$html" -H 'Accept-Language: ar' "$url/"
        judge "problem ($round)" "$url/"
        judge "image ($round)" -H 'Sec-Fetch-Dest: image' -H 'Accept: image/avif,*/*' "$url/a.png"
        judge "image without SVG ($round)" -H 'Sec-Fetch-Dest: image' -H 'Accept: image/png' "$url/a.png"
        judge "style ($round)" -H 'Sec-Fetch-Dest: style' "$url/a.css"
        judge "script ($round)" -H 'Sec-Fetch-Dest: script' "$url/a.js"
        judge "font ($round)" -H 'Sec-Fetch-Dest: font' "$url/a.woff2"
        judge "gRPC ($round)" -H 'Content-Type: application/grpc' -d '' "$url/a.B/C"
        judge "event stream ($round)" -H 'Accept: text/event-stream' -H 'Last-Event-ID: 7' "$url/events"
        judge "websocket ($round)" -H 'Connection: Upgrade' -H 'Upgrade: websocket' "$url/ws"
        judge "form ($round)" -H "$html" -d 'title=tea&key=k-1&password=x' "$url/todos"
        judge "write ($round)" -H 'Idempotency-Key: k-1' -H 'Content-Type: application/json' -d '{}' "$url/api/todos"
        judge "status ($round)" "$url/.ridethrough/status?waiter=ff&round=1"
    done
    judge 'status, posted' -d '' "$url/.ridethrough/status"
    judge 'hidden path' "$url/metrics"
    judge 'hidden path, page' -H "$html" "$url/metrics"
    judge 'method' -X TRACE "$url/"
    judge 'too large' -H 'Content-Length: 99999999' -d 'x' "$url/"
    judge 'address too long' "$url/$(printf 'a%.0s' {1..9000})"
    judge 'control character' "$url/%00"
    judge 'host' -H 'Host: a b' "$url/"
    judge 'connection option' -H 'Connection: authorization' "$url/"
    for probe in livez readyz startupz; do
        judge "$probe" "$url/$probe"
    done
    echo "httplint: $judged answers, $failed with an error"
    ((failed == 0))
}

case ${1:-} in
    fetch) fetch "$2" ;;
    run) run "$2" ;;
    '')
        folder=${CARGO_TARGET_DIR:-$root/target}/httplint
        (fetch "$folder") && run "$folder"
        ;;
    *) complain "usage: scripts/httplint.sh [fetch DIR | run DIR]" ;;
esac

#!/usr/bin/env bash
# Holds the proxy against h2spec (https://github.com/summerwind/h2spec), over TLS, where it speaks HTTP/2 alone. Without
# TLS one case of 146 cannot be met by whoever speaks HTTP/1.1 on the same port: a wrong preface is answered in HTTP/1.1.
#
#   scripts/h2spec.sh PROXY [H2SPEC]     H2SPEC is looked for in PATH where it is not named
#
# No backend is needed: what is tested is done with before one is asked.

set -uo pipefail
readonly proxy=${1:?name the binary of the proxy}
h2spec=${2:-$(command -v h2spec)} || { echo 'h2spec is not installed'; exit 2; }
command -v openssl >/dev/null || { echo 'openssl is not installed'; exit 2; }
# For the listener to come up.
readonly PATIENCE_SECONDS=30

folder=$(mktemp -d) || exit 1
proxy_pid=''
tidy_up() {
    [[ -z $proxy_pid ]] || kill "$proxy_pid" 2>/dev/null
    rm -rf "$folder"
}
trap tidy_up EXIT

openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost \
    -keyout "$folder/key.pem" -out "$folder/certificate.pem" 2>/dev/null || exit 1
printf '[listen.tls]\ncertificate = "%s"\nkey = "%s"\n' "$folder/certificate.pem" "$folder/key.pem" >"$folder/proxy.toml"

"$proxy" --config "$folder/proxy.toml" --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 \
    --backend http://127.0.0.1:9 >"$folder/out" 2>"$folder/log" &
proxy_pid=$!
for ((second = 0; second < PATIENCE_SECONDS; second++)); do
    port=$(sed -n 's/^listening main=.*:\([0-9]*\) .*/\1/p' "$folder/out")
    [[ -z $port ]] || break
    sleep 1
done
[[ -n $port ]] || { cat "$folder/log"; exit 1; }
"$h2spec" --host 127.0.0.1 --port "$port" --tls --insecure --timeout 5 || exit 1

#!/usr/bin/env bash
# Holds the server against its OpenAPI document with schemathesis, with the database there and away. The tool is fetched
# from PyPI into an environment below target, and stays there.
#
#   scripts/schemathesis.sh

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly VERSION='4.32.5'
readonly ENVIRONMENT="${CARGO_TARGET_DIR:-target}/schemathesis"

command -v python3 >/dev/null || {
    echo 'schemathesis needs python3' >&2
    exit 1
}
if [[ "$("$ENVIRONMENT/bin/pip" show schemathesis 2>/dev/null | sed -n 's/^Version: //p')" != "$VERSION" ]]; then
    python3 -m venv "$ENVIRONMENT"
    "$ENVIRONMENT/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$VERSION"
fi
RIDETHROUGH_SCHEMATHESIS="$(realpath -s "$ENVIRONMENT")/bin/schemathesis"
export RIDETHROUGH_SCHEMATHESIS
exec "${CARGO:-cargo}" test --quiet -p ridethrough-tests --test e2e schemathesis:: -- --ignored --nocapture

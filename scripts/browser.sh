#!/usr/bin/env bash
# Gets what the browser test needs: Chromium with chromedriver, and axe-core, which looks for barriers on a page. Where
# something is missing and cannot be had it says what, and fails; the test is then skipped.
#
#   scripts/browser.sh
#
# axe-core goes into the target folder. Chromium is only installed by root on Debian, as in a container of CI: a developer
# may want another one. Where nothing is missing nothing changes.

set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
readonly AXE='axe-core@4.14.1'
# A registry that does not answer must not hold up anybody.
readonly PATIENCE_SECONDS=20
readonly LOCK_WAIT_SECONDS=600

folder=${CARGO_TARGET_DIR:-target}/browser
work=''
trap 'rm -rf "$work"' EXIT

complain() {
    echo "$*"
    exit 1
}

has_browser() { command -v chromedriver >/dev/null && { command -v chromium || command -v google-chrome; } >/dev/null; }

install_browser() {
    [[ -e /etc/debian_version ]] && ((EUID == 0)) || return 1
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout="$LOCK_WAIT_SECONDS")
    "${apt[@]}" update >/dev/null 2>&1 &&
        "${apt[@]}" install --no-install-recommends chromium chromium-driver fonts-dejavu-core >/dev/null 2>&1
}

# npm checks what it fetches against the registry's own digest.
fetch_axe() {
    npm --version >/dev/null 2>&1 || complain 'npm is not installed, which fetches axe-core'
    if ! mkdir -p "$folder" || ! work=$(mktemp -d "$folder/fetch.XXXXXX"); then
        complain "$folder cannot be written to"
    fi
    (
        cd "$work" &&
            npm pack --silent --fetch-retries=0 --fetch-timeout="${PATIENCE_SECONDS}000" "$AXE" &&
            tar -xzf axe-core-*.tgz
    ) >/dev/null 2>&1 || complain "npm cannot fetch $AXE"
    mv "$work/package/axe.min.js" "$folder/axe.min.js"
}

has_browser || install_browser || complain 'chromium and chromedriver are not installed (Debian: chromium, chromium-driver)'
has_browser || complain 'chromium and chromedriver were installed and are not found'
[[ -s $folder/axe.min.js ]] || fetch_axe

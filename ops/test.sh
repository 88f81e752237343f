#!/bin/bash
# Installs what the tests need and runs them. `--long` runs the full counts of every proof; the rest goes to cargo test.
set -euo pipefail
cd "$(dirname "$0")/.."
. ops/prerequisites.sh

case ${1:-} in
--long)
    export PGKEEP_TEST_LONG=1
    shift
    ;;
-h | --help)
    echo "usage: ops/test.sh [--long] [ARGUMENTS OF cargo test]"
    exit 0
    ;;
esac

require_rust
require_programs "$PG15_BIN/postgres:postgresql-15" zstd:zstd openssl:openssl strace:strace setpriv:util-linux \
    age:age ssh-keygen:openssh-client
require_postgresql_18
require_object_stores

# cargo prints one summary line per test binary; the last line here adds them up.
say "building and running the tests${PGKEEP_TEST_LONG:+, full counts}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
cargo test --quiet --no-fail-fast "$@" 2>&1 | tee "$log" || status=$?
awk '/^test result:/ { binaries++; passed += $4; failed += $6; ignored += $8 }
     END { printf "%d test binaries: %d passed; %d failed; %d ignored\n", binaries, passed, failed, ignored }' "$log"
exit "$status"

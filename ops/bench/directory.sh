#!/bin/bash
# How fast a directory dump with several jobs is beside pg_dump's own, and how much memory and room on this host it takes:
# both sides in one run, alternating, medians printed with their targets. Exits 0 when every run worked.
set -euo pipefail
cd "$(dirname "$0")/../.."
. ops/prerequisites.sh
. ops/cluster.sh

usage() {
    cat <<'TEXT'
usage: ops/bench/directory.sh [--size-mb N] [--rounds N] [--keep DIR]
  --size-mb N   size of the database's rows as COPY writes them (default 2000); needs about 6 times as much disk
  --rounds N    rounds of every contender (default 5)
  --keep DIR    make the cluster in DIR and leave it there for the next run, which must ask for the same size
TEXT
}

misused() { usage >&2 && exit 2; }

size_mb=2000 rounds=5 keep=''
while [ $# -gt 0 ]; do
    case $1 in
    --size-mb | --rounds | --keep) [ -n "${2:-}" ] || misused ;;
    esac
    case $1 in
    --size-mb) size_mb=$2 && shift 2 ;;
    --rounds) rounds=$2 && shift 2 ;;
    --keep) keep=$2 && shift 2 ;;
    -h | --help) usage && exit 0 ;;
    *) misused ;;
    esac
done
for number in "$size_mb" "$rounds"; do
    [[ $number =~ ^[1-9][0-9]*$ ]] || misused
done

require_programs "$PG15_BIN/postgres:postgresql-15" zstd:zstd setpriv:util-linux
require_rust
say "building pgkeep"
cargo build --release --quiet

. ops/bench/world.sh

export TMPDIR=$world/scratch
mkdir "$TMPDIR"
peer_dump() { exec pg_dump -Fd -j2 --compress="$1" -f "$world/peer" bench; }
keep_dump() {
    exec pgkeep dump -d bench --format directory --jobs 2 --repo "$world/repository" --check "$1" --progress none -q
}
keep_custom() { exec pgkeep dump -d bench --repo "$world/repository" --check decode --progress none -q; }
forget() { rm -rf "$world/repository" "$world/peer" "$PGKEEP_STATE_DIR"; }

say "reading everything once"
pg_dump -Fc -Z0 bench | wc -c | awk '{ printf "archive without compression: %.0f MB\n", $1 / 1e6 }'

# The gzip of pg_dump 15, and at its fastest; zstd, where this pg_dump has it.
levels=(6 1)
if pg_dump --compress=zstd:3 --schema-only bench >/dev/null 2>&1; then levels+=(zstd:3); fi
for ((round = 1; round <= rounds; round++)); do
    printf 'round %d of %d\n' "$round" "$rounds"
    for level in "${levels[@]}"; do
        forget
        contend "pg_dump -Fd -j2 -Z $level" peer_dump "$level"
    done
    for check in decode read-back; do
        forget
        contend "pgkeep, check $check" keep_dump "$check"
    done
    forget
    contend 'pgkeep, custom' keep_custom
done
stored=$(du -sb "$world/repository" | cut -f1)

printf '\n%-28s %9s\n' "median of $rounds" seconds
for name in "${levels[@]/#/pg_dump -Fd -j2 -Z }" 'pgkeep, check decode' 'pgkeep, check read-back' 'pgkeep, custom'; do
    printf '%-28s %9.2f   (%s)\n' "$name" "$(median "${samples[$name]}")" "${samples[$name]% }"
done
awk -v bytes="$stored" 'BEGIN { printf "stored: %.0f MB\n", bytes / 1e6 }'

printf '\n'
target 'directory dump : pg_dump -Fd -j2' "$(ratio 'pgkeep, check decode' 'pg_dump -Fd -j2 -Z 6')" 1.1 ''
for level in "${levels[@]:1}"; do
    printf '%-52s %8.2f\n' "directory dump : pg_dump -Fd -j2 -Z $level" \
        "$(ratio 'pgkeep, check decode' "pg_dump -Fd -j2 -Z $level")"
done
printf '%-52s %8.2f\n' 'directory dump : custom dump' "$(ratio 'pgkeep, check decode' 'pgkeep, custom')"
target 'memory of a directory dump' "$(mb "${peak_kb['pgkeep, check decode']}")" 150 MB
target 'memory of a directory dump with read-back' "$(mb "${peak_kb['pgkeep, check read-back']}")" 150 MB
if [ "$missed" = 0 ]; then echo 'every target met'; else echo "$missed targets missed"; fi

#!/bin/bash
# How fast a dump and its restore are beside the stock tools, and how much memory they take: both sides in one run,
# alternating, medians printed with their targets. Exits 0 when every run worked, whatever the figures.
set -euo pipefail
cd "$(dirname "$0")/../.."
. ops/prerequisites.sh
. ops/cluster.sh

usage() {
    cat <<'TEXT'
usage: ops/bench/dump.sh [--size-mb N] [--rounds N] [--keep DIR] [--peers-only]
  --size-mb N   size of the database's rows as COPY writes them (default 2000); needs about 7 times as much disk
  --rounds N    rounds of every contender (default 5)
  --keep DIR    make the cluster in DIR and leave it there for the next run, which must ask for the same size
  --peers-only  the stock tools only: what this machine can do
TEXT
}

misused() { usage >&2 && exit 2; }

size_mb=2000 rounds=5 keep='' peers_only=''
while [ $# -gt 0 ]; do
    case $1 in
    --size-mb | --rounds | --keep) [ -n "${2:-}" ] || misused ;;
    esac
    case $1 in
    --size-mb) size_mb=$2 && shift 2 ;;
    --rounds) rounds=$2 && shift 2 ;;
    --keep) keep=$2 && shift 2 ;;
    --peers-only) peers_only=1 && shift ;;
    -h | --help) usage && exit 0 ;;
    *) misused ;;
    esac
done
for number in "$size_mb" "$rounds"; do
    [[ $number =~ ^[1-9][0-9]*$ ]] || misused
done

require_programs "$PG15_BIN/postgres:postgresql-15" zstd:zstd setpriv:util-linux age-keygen:age
if [ -z "$peers_only" ]; then
    require_rust
    say "building pgkeep"
    cargo build --release --quiet
fi

. ops/bench/world.sh

for left_over in bench_restored one_row_restored; do dropdb --if-exists "$left_over" 2>/dev/null; done

pipe_to_zstd() { set -o pipefail; pg_dump -Fc -Z0 bench | zstd -q -3 -T2 >"$world/peer.zst" && sync "$world/peer.zst"; }
gzip_dump() { pg_dump -Fc bench >"$world/peer.dump"; }
keep_dump() { exec pgkeep dump -d bench --repo "$world/repository" --check "$1" --progress none -q; }
keep_encrypted() {
    exec pgkeep dump -d bench --repo "$world/repository" --check decode --recipients-file "$world/recipients" \
        --progress none -q
}
restore_peer() { zstd -q -d -f "$world/peer.zst" -o "$world/plain.dump" && pg_restore -j 2 -d bench_restored "$world/plain.dump"; }
restore_keep() {
    exec pgkeep restore dump latest -d bench --into bench_restored --jobs 2 --analyze none --repo "$world/repository" \
        --progress none -q
}

age-keygen 2>/dev/null | age-keygen -y >"$world/recipients"

say "reading everything once"
pg_dump -Fc -Z0 bench | wc -c | awk '{ printf "archive without compression: %.0f MB\n", $1 / 1e6 }'
pg_dump -Fc -Z0 bench | zstd -q -3 -T2 | wc -c | awk '{ printf "archive in zstd -3: %.0f MB\n", $1 / 1e6 }'

for ((round = 1; round <= rounds; round++)); do
    printf 'dump, round %d of %d\n' "$round" "$rounds"
    rm -f "$world/peer.zst"
    contend 'pg_dump -Z0 | zstd -3 -T2' pipe_to_zstd
    contend 'pg_dump -Fc' gzip_dump
    rm -f "$world/peer.dump"
    [ -z "$peers_only" ] || continue
    for check in decode read-back; do
        rm -rf "$world/repository" "$PGKEEP_STATE_DIR"
        contend "pgkeep, check $check" keep_dump "$check"
    done
    rm -rf "$world/repository" "$PGKEEP_STATE_DIR"
    contend 'pgkeep, encrypted' keep_encrypted
    # What is restored below is in clear.
    rm -rf "$world/repository" "$PGKEEP_STATE_DIR"
    contend 'pgkeep, check decode' keep_dump decode
done

for ((round = 1; round <= rounds; round++)); do
    printf 'restore, round %d of %d\n' "$round" "$rounds"
    createdb -T template0 bench_restored
    contend 'zstd -d; pg_restore -j 2' restore_peer
    rm -f "$world/plain.dump"
    dropdb bench_restored
    [ -z "$peers_only" ] || continue
    in_database postgres -c CHECKPOINT
    contend 'pgkeep restore --jobs 2' restore_keep
    dropdb bench_restored
    in_database postgres -c CHECKPOINT
done

printf '\n%-28s %9s\n' "median of $rounds" seconds
for name in 'pg_dump -Z0 | zstd -3 -T2' 'pg_dump -Fc' 'pgkeep, check decode' 'pgkeep, check read-back' 'pgkeep, encrypted' \
    'zstd -d; pg_restore -j 2' 'pgkeep restore --jobs 2'; do
    [ -z "${samples[$name]:-}" ] || printf '%-28s %9.2f   (%s)\n' "$name" "$(median "${samples[$name]}")" "${samples[$name]% }"
done
[ -z "$peers_only" ] || exit 0

rm -rf "$world/repository" "$PGKEEP_STATE_DIR"
measure pgkeep dump -d one_row --repo "$world/repository" --check read-back --progress none -q
one_row_kb=$peak
measure pgkeep restore dump latest -d one_row --into one_row_restored --analyze none --repo "$world/repository" --progress none -q
one_row_restore_kb=$peak
dropdb one_row_restored

version_ms=()
for _ in {1..21}; do
    began=$EPOCHREALTIME
    pgkeep --version >/dev/null
    version_ms+=("$(awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { print (b - a) * 1000 }')")
done

printf '\n'
target 'dump : pg_dump -Z0 | zstd' "$(ratio 'pgkeep, check decode' 'pg_dump -Z0 | zstd -3 -T2')" 1.15 ''
target 'dump : pg_dump -Fc' "$(ratio 'pgkeep, check decode' 'pg_dump -Fc')" 0.55 ''
printf '%-52s %8.2f\n' 'with read-back : without' "$(ratio 'pgkeep, check read-back' 'pgkeep, check decode')"
target 'encrypted : in clear' "$(ratio 'pgkeep, encrypted' 'pgkeep, check decode')" 1.15 ''
target 'restore : zstd -d; pg_restore -j 2' "$(ratio 'pgkeep restore --jobs 2' 'zstd -d; pg_restore -j 2')" 1.15 ''
target 'memory of a dump' "$(mb "${peak_kb['pgkeep, check decode']}")" 150 MB
target 'memory of a dump with read-back' "$(mb "${peak_kb['pgkeep, check read-back']}")" 150 MB
target 'memory of a dump that is encrypted' "$(mb "${peak_kb['pgkeep, encrypted']}")" 150 MB
target 'memory of a dump with one row of 100 MB' "$(mb "$one_row_kb")" 150 MB
target 'memory of a restore' "$(mb "${peak_kb['pgkeep restore --jobs 2']}")" 300 MB
target 'memory of a restore with one row of 100 MB' "$(mb "$one_row_restore_kb")" 300 MB
target 'pgkeep --version' "$(median "${version_ms[*]}")" 10 ms
if [ "$missed" = 0 ]; then echo 'every target met'; else echo "$missed targets missed"; fi

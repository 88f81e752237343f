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

require_programs "$PG15_BIN/postgres:postgresql-15" zstd:zstd setpriv:util-linux
if [ -z "$peers_only" ]; then
    require_rust
    say "building pgkeep"
    cargo build --release --quiet
fi

world=$(mktemp -d /tmp/pgkeep-bench-XXXXXX)
leave() {
    local status=$?
    trap - EXIT INT TERM HUP
    [ -z "${contender:-}" ] || kill "$contender" 2>/dev/null || true
    cluster_stop "$([ -n "$keep" ] && echo INT || echo QUIT)"
    rm -rf "$world"
    exit "$status"
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
chmod 755 "$world"

for variable in $(compgen -e | grep -E '^(PG|PGKEEP_)' | grep -v '^PGKEEP_TEST_'); do unset "$variable"; done
export PGKEEP_STATE_DIR=$world/state
PATH=$(realpath -m "${CARGO_TARGET_DIR:-target}/release"):$PG15_BIN:$PATH
export PATH

if [ -n "$keep" ]; then
    mkdir -p "$keep"
    keep=$(realpath "$keep")
fi
# The server writes as a real one does (fsync on); only its checkpoints are kept from falling into some rounds.
cluster_start "${keep:-$world}/server" shared_buffers=512MB max_wal_size=8GB checkpoint_timeout=1h maintenance_work_mem=256MB \
    autovacuum=off

in_database() { psql --no-psqlrc --quiet --tuples-only --no-align --set ON_ERROR_STOP=1 --dbname "$@"; }

# Rows of about 1 kB: words as people write them, JSON as programs write it, and the random part that both have.
fill() {
    say "filling a database of $size_mb MB"
    createdb bench
    in_database bench --set rows="$((size_mb * 1024 / 4))" >/dev/null <<'SQL'
CREATE FUNCTION words(seed int, count int) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT string_agg((ARRAY['the','backup','of','a','server','that','nobody','restored','is','hope','and','orders','were',
        'shipped','to','customer','Größe','with','an','invoice','about','数据','price','returned','because','it','broke',
        'again','on','Monday','see','ticket'])[1 + (hashint8(seed::bigint * 1000 + n) & 31)], ' ')
    FROM generate_series(1, count) n
$$;
CREATE TABLE articles (id bigint PRIMARY KEY, author int NOT NULL, title text NOT NULL, body text NOT NULL);
CREATE TABLE comments (id bigint PRIMARY KEY, article bigint NOT NULL, at timestamptz NOT NULL, body text NOT NULL);
CREATE TABLE events (id bigint PRIMARY KEY, at timestamptz NOT NULL, body jsonb NOT NULL);
CREATE TABLE sessions (id uuid PRIMARY KEY, at timestamptz NOT NULL, body json NOT NULL);
INSERT INTO articles SELECT n, n % 1000, words(n, 6), words(n + 1, 160) || md5(n::text) FROM generate_series(1, :rows) n;
INSERT INTO comments SELECT n, n / 2, timestamptz '2025-01-01 00:00:00+00' + n * interval '1 second', words(-n, 165) FROM generate_series(1, :rows) n;
INSERT INTO events SELECT n, timestamptz '2025-01-01 00:00:00+00' + n * interval '1 second',
    jsonb_build_object('kind', words(n, 1), 'trace', md5(n::text), 'user', n % 5000, 'amount', n / 7.0, 'text', words(n + 7, 100),
                       'tags', jsonb_build_array(words(n, 1), words(n + 1, 1), n % 17), 'headers', jsonb_build_object('host',
                       'shop.example.org', 'agent', words(n % 50, 12), 'id', sha256(n::text::bytea)::text))
    FROM generate_series(1, :rows) n;
INSERT INTO sessions SELECT md5(n::text)::uuid, timestamptz '2025-01-01 00:00:00+00' + n * interval '1 second',
    json_build_object('token', sha256(n::text::bytea)::text, 'ip', '10.' || n % 256 || '.0.1', 'pages', words(n, 130))
    FROM generate_series(1, :rows) n;
CREATE INDEX ON articles (author);
CREATE INDEX ON comments (article);
CREATE INDEX ON events (at);
VACUUM ANALYZE;
SQL
    createdb one_row
    in_database one_row <<'SQL'
CREATE TABLE documents (id int PRIMARY KEY, body text NOT NULL);
ALTER TABLE documents ALTER body SET STORAGE EXTERNAL;
INSERT INTO documents SELECT 1, string_agg(md5(n::text), '') FROM generate_series(1, 100 * 1024 * 1024 / 32) n;
SQL
    in_database bench -c CHECKPOINT
    in_database postgres -c "COMMENT ON DATABASE bench IS '$size_mb MB'"
}

found=$(in_database postgres -c "SELECT coalesce(shobj_description(oid, 'pg_database'), 'unfinished') FROM pg_database WHERE datname = 'bench'")
case $found in
"$size_mb MB") ;;
'') fill ;;
*) die "the cluster in $keep holds a database of $found, not of $size_mb MB" "remove $keep, or ask for that size" ;;
esac

for left_over in bench_restored one_row_restored; do dropdb --if-exists "$left_over" 2>/dev/null; done

declare -A samples peak_kb
elapsed='' peak=''

# measure COMMAND …: how long it took (elapsed, seconds) and the most memory its process had (peak, kB).
# Every contender is watched alike, by shell builtins, so that watching costs nobody more than another.
measure() {
    local began=$EPOCHREALTIME name value
    peak=0
    "$@" >"$world/out" 2>&1 </dev/null &
    contender=$!
    # A read that nobody answers is a wait without a process.
    while kill -0 "$contender" 2>/dev/null; do
        if [ -r "/proc/$contender/status" ]; then
            while read -r name value _; do
                if [ "$name" = VmHWM: ] && [ "$value" -gt "$peak" ]; then peak=$value; fi
            done 2>/dev/null <"/proc/$contender/status" || true
        fi
        read -r -t 0.02 _ <>"$world/never" || true
    done
    if ! wait "$contender"; then
        cat "$world/out" >&2
        die "this contender failed: $*"
    fi
    contender=
    elapsed=$(awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.3f", b - a }')
}
mkfifo "$world/never"

# contend NAME COMMAND …
contend() {
    local name=$1
    shift
    sync # what the last one left to write is not this one's to wait for
    measure "$@"
    samples[$name]+="$elapsed "
    [ "$peak" -le "${peak_kb[$name]:-0}" ] || peak_kb[$name]=$peak
    printf '  %-28s %9.2f s\n' "$name" "$elapsed"
}

median() { tr ' ' '\n' <<<"$1" | grep . | sort -g | awk '{ v[NR] = $1 } END { print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'; }

pipe_to_zstd() { set -o pipefail; pg_dump -Fc -Z0 bench | zstd -q -3 -T2 >"$world/peer.zst" && sync "$world/peer.zst"; }
gzip_dump() { pg_dump -Fc bench >"$world/peer.dump"; }
keep_dump() { exec pgkeep dump -d bench --repo "$world/repository" --check "$1" --progress none -q; }
restore_peer() { zstd -q -d -f "$world/peer.zst" -o "$world/plain.dump" && pg_restore -j 2 -d bench_restored "$world/plain.dump"; }
restore_keep() {
    exec pgkeep restore dump latest -d bench --into bench_restored --jobs 2 --analyze none --repo "$world/repository" \
        --progress none -q
}

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
for name in 'pg_dump -Z0 | zstd -3 -T2' 'pg_dump -Fc' 'pgkeep, check decode' 'pgkeep, check read-back' \
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

missed=0
# target WHAT FIGURE LIMIT UNIT
target() {
    local verdict=met
    awk -v a="$2" -v b="$3" 'BEGIN { exit !(a <= b) }' || { verdict=MISSED && missed=$((missed + 1)); }
    printf '%-52s %8.2f %-3s target %6.2f   %s\n' "$1" "$2" "$4" "$3" "$verdict"
}
ratio() { awk -v a="$(median "${samples[$1]}")" -v b="$(median "${samples[$2]}")" 'BEGIN { print a / b }'; }
mb() { awk -v kb="$1" 'BEGIN { print kb * 1024 / 1e6 }'; }

printf '\n'
target 'dump : pg_dump -Z0 | zstd' "$(ratio 'pgkeep, check decode' 'pg_dump -Z0 | zstd -3 -T2')" 1.15 ''
target 'dump : pg_dump -Fc' "$(ratio 'pgkeep, check decode' 'pg_dump -Fc')" 0.55 ''
printf '%-52s %8.2f\n' 'with read-back : without' "$(ratio 'pgkeep, check read-back' 'pgkeep, check decode')"
target 'restore : zstd -d; pg_restore -j 2' "$(ratio 'pgkeep restore --jobs 2' 'zstd -d; pg_restore -j 2')" 1.15 ''
target 'memory of a dump' "$(mb "${peak_kb['pgkeep, check decode']}")" 150 MB
target 'memory of a dump with read-back' "$(mb "${peak_kb['pgkeep, check read-back']}")" 150 MB
target 'memory of a dump with one row of 100 MB' "$(mb "$one_row_kb")" 150 MB
target 'memory of a restore' "$(mb "${peak_kb['pgkeep restore --jobs 2']}")" 300 MB
target 'memory of a restore with one row of 100 MB' "$(mb "$one_row_restore_kb")" 300 MB
target 'pgkeep --version' "$(median "${version_ms[*]}")" 10 ms
if [ "$missed" = 0 ]; then echo 'every target met'; else echo "$missed targets missed"; fi

# shellcheck shell=bash disable=SC2154 # what it leans on is set by the script that sources it
# What the benchmarks share: a world that is taken down whatever happens, a database to dump, contenders that are watched
# alike, medians beside their targets. Sourced, never run; prerequisites.sh and cluster.sh come before it.

world=$(mktemp -d /tmp/pgkeep-bench-XXXXXX)
leave() {
    local status=$?
    trap - EXIT INT TERM HUP
    [ -z "${contender:-}" ] || kill "$contender" 2>/dev/null || true
    if [ -n "${store:-}" ]; then
        # Its data are thrown away, and one that is starting does not listen to less.
        kill -KILL "$store" 2>/dev/null || true
        wait "$store" 2>/dev/null || true
    fi
    cluster_stop "$([ -n "$keep" ] && echo INT || echo QUIT)"
    rm -rf "$world"
    # shellcheck disable=SC2086 # patterns of names
    rm -f ${traces:-}
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

missed=0
# target WHAT FIGURE LIMIT UNIT
target() {
    local verdict=met
    awk -v a="$2" -v b="$3" 'BEGIN { exit !(a <= b) }' || { verdict=MISSED && missed=$((missed + 1)); }
    printf '%-52s %8.2f %-3s target %6.2f   %s\n' "$1" "$2" "$4" "$3" "$verdict"
}
ratio() { awk -v a="$(median "${samples[$1]}")" -v b="$(median "${samples[$2]}")" 'BEGIN { print a / b }'; }
mb() { awk -v kb="$1" 'BEGIN { print kb * 1024 / 1e6 }'; }


#!/bin/bash
# One whole life of a dump, on a machine with nothing but Debian and a Rust toolchain: a shop's database is dumped,
# verified, restored under another name and compared, row by row. Everything happens in a temporary directory that is
# gone afterwards; only packages that were missing stay installed, and the compiled program stays in target/.
set -euo pipefail
cd "$(dirname "$0")/.."
. ops/prerequisites.sh
. ops/cluster.sh

case $# in
0) ;;
*)
    echo "usage: ops/quickstart.sh"
    exit 2
    ;;
esac

require_rust
require_programs "$PG15_BIN/postgres:postgresql-15" setpriv:util-linux

say "building pgkeep (the first time takes some minutes)"
if [ -t 2 ]; then cargo build --release; else cargo build --release --quiet; fi
program_dir=$(realpath "${CARGO_TARGET_DIR:-target}/release")

# Not $TMPDIR: the path of a socket must be short.
world=$(mktemp -d /tmp/pgkeep-quickstart-XXXXXX)
leave() {
    local status=$?
    trap - EXIT INT TERM HUP
    cluster_stop QUIT
    rm -rf "$world"
    exit "$status"
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
chmod 755 "$world" # the server runs as another user when we are root

# The tool sees these variables and what it finds by itself; nothing of the caller's.
for variable in $(compgen -e | grep -E '^(PG|PGKEEP_)' | grep -v '^PGKEEP_TEST_'); do unset "$variable"; done
export PGKEEP_STATE_DIR=$world/state
export PATH=$program_dir:$PG15_BIN:$PATH

say "starting a throwaway PostgreSQL 15 and filling a shop"
cluster_start "$world/server" fsync=off shared_buffers=128MB max_wal_size=4GB
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --dbname postgres --file ops/quickstart.sql >/dev/null

run() {
    printf '\n$ %s\n' "$*"
    "$@"
}

repository=$world/backups
printf '\nThe shop is in PGHOST=%s PGPORT=%s PGUSER=%s; no configuration file exists.\n' "$PGHOST" "$PGPORT" "$PGUSER"
run pgkeep dump -d shop --repo "$repository"
run pgkeep report list --repo "$repository"
run pgkeep verify --repo "$repository"
run pgkeep verify --deep --repo "$repository"
run pgkeep restore dump latest -d shop --into shop_restored --repo "$repository"

# Per table: its rows, and the sum of a 64-bit hash of every row, which no order of rows changes.
contents() {
    psql --no-psqlrc --quiet --tuples-only --no-align --field-separator ' ' --set ON_ERROR_STOP=1 --dbname "$1" <<'SQL'
SET search_path = pg_catalog;
SET timezone = 'UTC';
SELECT format('SELECT %L, count(*), coalesce(sum(hashtextextended((t.*)::text, 0)::numeric), 0) FROM %s t',
              c.oid::regclass, c.oid::regclass)
FROM pg_class c WHERE relkind IN ('r', 'p', 'm') AND NOT relispartition AND relnamespace = 'shop'::regnamespace
ORDER BY relname
\gexec
SELECT format('SELECT %L, last_value, is_called::int FROM %s', c.oid::regclass, c.oid::regclass)
FROM pg_class c WHERE relkind = 'S' AND relnamespace = 'shop'::regnamespace
ORDER BY relname
\gexec
SQL
}

# Does what was dumped equal what was restored? Prints a line per table and sequence; fails if one differs.
compare() {
    local source restored
    source=$(contents shop)
    restored=$(contents shop_restored)
    [ -n "$source" ] || die "the shop has no tables"
    awk '
        function verdict(same) { if (!same) differing++; return same ? "equal" : "DIFFERENT" }
        FNR == NR { rows[$1] = $2; sum[$1] = $3; order[++n] = $1; next }
        { restored_rows[$1] = $2; restored_sum[$1] = $3; if (!($1 in rows)) { order[++n] = $1; rows[$1] = "missing"; sum[$1] = "-" } }
        END {
            line = "%-28s %10s %10s  %24s %24s  %s\n"
            printf line, "table or sequence", "rows", "restored", "checksum", "restored", ""
            for (i = 1; i <= n; i++) {
                t = order[i]
                if (!(t in restored_rows)) { restored_rows[t] = "missing"; restored_sum[t] = "-" }
                # As text: awk counts in floating point, where two long sums may look alike.
                same = (rows[t] "" == restored_rows[t] "") && (sum[t] "" == restored_sum[t] "")
                printf line, t, rows[t], restored_rows[t], sum[t], restored_sum[t], verdict(same)
            }
            exit differing > 0
        }' <(printf '%s\n' "$source") <(printf '%s\n' "$restored")
}

schema() { pg_dump --schema-only --dbname "$1" | grep -vE '^\\(un)?restrict |^$'; }

printf '\nThe shop and what came out of the backup:\n'
compare || die "the restored database differs from the shop"
if difference=$(diff <(schema shop) <(schema shop_restored)); then
    printf '%-28s equal\n' "schema, owners, rights"
else
    printf '%s\n' "$difference"
    die "the restored schema differs from the shop's"
fi

run pgkeep report --repo "$repository"

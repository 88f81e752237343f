#!/bin/bash
# What it costs to keep a dump in an object store, alone and beside a local copy, and how long a thousand backups take to
# list there: a local directory and a SeaweedFS server on this machine in one run, alternating, medians with their
# targets. Exits 0 when every run worked, whatever the figures.
set -euo pipefail
cd "$(dirname "$0")/../.."
. ops/prerequisites.sh
. ops/cluster.sh

usage() {
    cat <<'TEXT'
usage: ops/bench/stores.sh [--size-mb N] [--rounds N] [--backups N] [--keep DIR]
  --size-mb N   size of the database's rows as COPY writes them (default 2000); needs about 7 times as much disk
  --rounds N    rounds of every contender (default 5)
  --backups N   how many backups are listed (default 1000); making them takes some minutes
  --keep DIR    make the cluster in DIR and leave it there for the next run, which must ask for the same size
TEXT
}

misused() { usage >&2 && exit 2; }

size_mb=2000 rounds=5 backups=1000 keep=''
while [ $# -gt 0 ]; do
    case $1 in
    --size-mb | --rounds | --backups | --keep) [ -n "${2:-}" ] || misused ;;
    esac
    case $1 in
    --size-mb) size_mb=$2 && shift 2 ;;
    --rounds) rounds=$2 && shift 2 ;;
    --backups) backups=$2 && shift 2 ;;
    --keep) keep=$2 && shift 2 ;;
    -h | --help) usage && exit 0 ;;
    *) misused ;;
    esac
done
for number in "$size_mb" "$rounds" "$backups"; do
    [[ $number =~ ^[1-9][0-9]*$ ]] || misused
done

require_programs "$PG15_BIN/postgres:postgresql-15" setpriv:util-linux
require_rust
require_object_stores
say "building pgkeep"
cargo build --release --quiet

. ops/bench/world.sh

# A server on loopback whose data lie on the same disk as the local repository.
export AWS_ACCESS_KEY_ID=bench AWS_SECRET_ACCESS_KEY=benchbenchbench
port=$((20000 + RANDOM % 20000))
mkdir "$world/weed" "$world/weed/data" "$world/weed/log"
"$PGKEEP_TEST_WEED" -logdir="$world/weed/log" mini -dir="$world/weed/data" -ip=127.0.0.1 -ip.bind=127.0.0.1 \
    -s3.port=$port -master.port=$((port + 1)) -volume.port=$((port + 2)) -filer.port=$((port + 3)) -admin.port=$((port + 4)) \
    -master.telemetry=false -admin.ui=false -webdav=false -s3.port.iceberg=0 -s3.port.lance=0 \
    -s3.allowDeleteBucketNotEmpty=false -s3.autoCreateBucket=false -bucket=bench >"$world/weed/out" 2>&1 &
store=$!
# It puts its sockets there without asking.
traces=$(for ((i = 0; i < 5; i++)); do printf '/tmp/seaweedfs-*-%d.sock /tmp/seaweedfs-*-%d.sock ' $((port + i)) $((port + i + 10000)); done)
s3="s3://bench/backups?endpoint=http://127.0.0.1:$port"
# Ready is a bucket in which there is no repository yet (exit code 8).
for ((i = 0; i < 60; i++)); do
    ready=0
    pgkeep report list --repo "$s3" >/dev/null 2>&1 || ready=$?
    if [ "$ready" = 8 ]; then break; fi
    sleep 0.2
done

forget() { rm -rf "$world"/repository* "$PGKEEP_STATE_DIR"; }
keep_dump() {
    local words=(-d bench --check "$1" --progress none -q) repository
    shift
    for repository in "$@"; do words+=(--repo "$repository"); done
    exec pgkeep dump "${words[@]}"
}

for ((round = 1; round <= rounds; round++)); do
    printf 'round %d of %d\n' "$round" "$rounds"
    contend 'local' keep_dump decode "$world/repository"
    contend 'SeaweedFS' keep_dump decode "$s3"
    forget
    contend 'local and SeaweedFS' keep_dump decode "$world/repository" "$s3"
    forget
    contend 'the same with read-back' keep_dump read-back "$world/repository" "$s3"
    forget
done

# A thousand backups of a small database, in several databases because names tell seconds.
say "making $backups backups"
list="s3://bench/list?endpoint=http://127.0.0.1:$port"
databases=()
for n in {1..20}; do createdb "small_$n" && databases+=(-d "small_$n"); done
for ((made = 0; made < backups; made += 20)); do
    pgkeep dump "${databases[@]}" --repo "$list" --no-globals --progress none -q
done
for n in {1..20}; do dropdb "small_$n"; done
for ((round = 1; round <= rounds; round++)); do
    contend "list $backups" pgkeep report list --repo "$list" --json
done

printf '\n%-28s %9s\n' "median of $rounds" seconds
for name in 'local' 'SeaweedFS' 'local and SeaweedFS' 'the same with read-back' "list $backups"; do
    printf '%-28s %9.2f   (%s)\n' "$name" "$(median "${samples[$name]}")" "${samples[$name]% }"
done

printf '\n'
target 'SeaweedFS : local' "$(ratio 'SeaweedFS' 'local')" 1.8 ''
target 'local and SeaweedFS : SeaweedFS' "$(ratio 'local and SeaweedFS' 'SeaweedFS')" 1.2 ''
target "list $backups backups" "$(median "${samples[list $backups]}")" 2 s
target 'memory of a dump to SeaweedFS' "$(mb "${peak_kb['SeaweedFS']}")" 150 MB
target 'memory of a dump to both' "$(mb "${peak_kb['local and SeaweedFS']}")" 150 MB
target 'memory of a dump to both with read-back' "$(mb "${peak_kb['the same with read-back']}")" 150 MB
if [ "$missed" = 0 ]; then echo 'every target met'; else echo "$missed targets missed"; fi

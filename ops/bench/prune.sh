#!/bin/bash
# How long it takes to plan what goes and what stays of ten thousand backups in a local directory, and to remove most of
# them. Exits 0 when every run worked, whatever the figures.
set -euo pipefail
cd "$(dirname "$0")/../.."
. ops/prerequisites.sh

usage() {
    cat <<'TEXT'
usage: ops/bench/prune.sh [--backups N] [--rounds N]
  --backups N   how many backups there are (default 10000)
  --rounds N    how often it is planned (default 5)
TEXT
}

misused() { usage >&2 && exit 2; }

backups=10000 rounds=5
while [ $# -gt 0 ]; do
    case $1 in
    --backups | --rounds) [ -n "${2:-}" ] || misused ;;
    esac
    case $1 in
    --backups) backups=$2 && shift 2 ;;
    --rounds) rounds=$2 && shift 2 ;;
    -h | --help) usage && exit 0 ;;
    *) misused ;;
    esac
done
for number in "$backups" "$rounds"; do
    [[ $number =~ ^[1-9][0-9]*$ ]] || misused
done

require_rust
say "building pgkeep"
cargo build --release --quiet --bin pgkeep --example many_backups
target=$(realpath -m "${CARGO_TARGET_DIR:-target}/release")
PATH=$target:$PATH

world=$(mktemp -d /tmp/pgkeep-bench-XXXXXX)
trap 'rm -rf "$world"' EXIT
export PGKEEP_STATE_DIR=$world/state
say "making $backups backups"
"$target/examples/many_backups" "$world/repository" "$backups"

# timed COMMAND …: how long it took, in seconds.
timed() {
    local began=$EPOCHREALTIME
    "$@" >"$world/out" 2>&1 || { cat "$world/out" >&2 && die "this failed: $*"; }
    awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.3f\n", b - a }'
}
rules=(--keep-daily 7 --keep-weekly 4 --keep-monthly 12 --repo "$world/repository")

plan() { pgkeep prune "${rules[@]}" -q --json; }
apply() { pgkeep prune "${rules[@]}" --apply -q --json; }

plans=()
for ((round = 1; round <= rounds; round++)); do
    plans+=("$(timed plan)")
    printf '  plan %d   %6.3f s\n' "$round" "${plans[-1]}"
done
median=$(printf '%s\n' "${plans[@]}" | sort -g | awk '{ v[NR] = $1 } END { print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }')
verdict=$(awk -v a="$median" 'BEGIN { print a <= 1 ? "met" : "MISSED" }')
printf '\nplan of %d backups, median of %d: %.3f s   target 1 s   %s\n' "$backups" "$rounds" "$median" "$verdict"
printf 'removing them by these rules: %.1f s\n' "$(timed apply)"

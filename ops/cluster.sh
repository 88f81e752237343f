# shellcheck shell=bash
# A throwaway PostgreSQL server for a script. Sourced, never run; needs prerequisites.sh.

# cluster_start DIR [SETTING=VALUE …]: makes a cluster of $PG15_BIN in DIR, unless there is one, and starts it.
# Sets PGHOST, PGPORT and PGUSER for everything that follows, and CLUSTER_PID for cluster_stop.
# It listens on a socket in DIR and nowhere else, so that no port can be taken. It dies with the script.
cluster_start() {
    local dir=$1 setting
    shift
    # PostgreSQL refuses to run as root.
    local as_server=(setpriv --pdeathsig QUIT)
    [ "$(id -u)" != 0 ] || as_server+=(--reuid postgres --regid postgres --init-groups)
    if [ ! -e "$dir/data/PG_VERSION" ]; then
        mkdir "$dir"
        chmod 755 "$dir"
        [ "$(id -u)" != 0 ] || chown postgres:postgres "$dir"
        (
            cd "$dir"
            "${as_server[@]}" "$PG15_BIN/initdb" --pgdata "$dir/data" --username postgres --auth trust --encoding UTF8 \
                --locale C.UTF-8 --no-sync --no-instructions >"$dir/initdb.log" 2>&1
        ) || { cat "$dir/initdb.log" >&2; die "initdb of $PG15_BIN failed"; }
    fi
    local options=(-c listen_addresses= -c "unix_socket_directories=$dir" -c port=5432)
    for setting in "$@"; do options+=(-c "$setting"); done
    (cd "$dir" && exec "${as_server[@]}" "$PG15_BIN/postgres" -D "$dir/data" "${options[@]}") >"$dir/log" 2>&1 </dev/null &
    CLUSTER_PID=$!
    export PGHOST=$dir PGPORT=5432 PGUSER=postgres
    local tries=0
    until "$PG15_BIN/pg_isready" --quiet; do
        tries=$((tries + 1))
        if ! kill -0 "$CLUSTER_PID" 2>/dev/null || [ "$tries" -gt 600 ]; then
            cat "$dir/log" >&2
            die "the server in $dir did not start"
        fi
        sleep 0.1
    done
}

# cluster_stop [SIGNAL]: stops the server by its own pid and waits until it is gone. The default, QUIT, is for a cluster
# that is thrown away; INT shuts it down in order.
cluster_stop() {
    [ -n "${CLUSTER_PID:-}" ] || return 0
    kill "-${1:-QUIT}" "$CLUSTER_PID" 2>/dev/null || true
    wait "$CLUSTER_PID" 2>/dev/null || true
    CLUSTER_PID=
}

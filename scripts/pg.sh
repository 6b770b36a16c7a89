# shellcheck shell=bash
# Throwaway PostgreSQL servers, for scripts to source. Expects `set -euo pipefail`.
#
#   pg_setup           finds the programs, makes $PG_DIR and says how to run things unprivileged
#   pg_init NAME PORT  makes a cluster; its superuser is `postgres`, with the password in PGPASSWORD
#   pg_replica NAME PORT PRIMARY_PORT
#   pg_start NAME      starts it and waits until it answers
#   pg_kill NAME       kills it as a crash would
#   pg_cleanup         ends every server and removes $PG_DIR

PG_BIN=
PG_DIR=
# Prefix of a command that runs as an unprivileged user (PostgreSQL refuses root).
PG_AS=()
declare -A PG_PID=() PG_PORT=()

pg_setup() {
    local initdb
    # Debian keeps the programs apart by version: take the newest. Elsewhere all of them stand beside initdb.
    initdb=$(find /usr/lib/postgresql -path '*/bin/initdb' 2>/dev/null | sort -V | tail -n 1) || true
    [[ $initdb ]] || initdb=$(readlink -f "$(command -v initdb)") || true
    [[ ! $initdb ]] || PG_BIN=$(dirname "$initdb")
    [[ $PG_BIN ]] || {
        echo "PostgreSQL's initdb is not found: scripts/install-deps.sh postgres" >&2
        return 1
    }
    PG_DIR=$(mktemp -d "${TMPDIR:-/tmp}/pgweir.XXXXXX")
    PG_AS=(setpriv)
    if ((EUID == 0)); then
        local user=nobody
        ! id postgres >/dev/null 2>&1 || user=postgres
        PG_AS=(setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups)
        chown "$user" "$PG_DIR"
    fi
    chmod 755 "$PG_DIR"
    export PGPASSWORD=${PGPASSWORD:-$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')}
}

# A free port, remembered so that it is not given twice: the wanted one if nobody listens there.
declare -A PG_TAKEN=()
free_port() {
    local port=${1:-0}
    # Below the range that the kernel hands out to connecting sockets, so that none of those lands on it meanwhile.
    until ((port)) && [[ ! ${PG_TAKEN[$port]-} ]] && ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
        port=$((20000 + RANDOM % 10000))
    done
    PG_TAKEN[$port]=1
    # shellcheck disable=SC2034 # the result: a subshell would forget what is taken
    FREE_PORT=$port
}

pg_init() {
    local name=$1 port=$2 data=$PG_DIR/$1
    printf '%s\n' "$PGPASSWORD" >"$PG_DIR/.password"
    chmod 644 "$PG_DIR/.password"
    "${PG_AS[@]}" "$PG_BIN/initdb" -D "$data" -U postgres --auth=scram-sha-256 --pwfile="$PG_DIR/.password" \
        --encoding=UTF8 --locale=C.UTF-8 --no-sync >"$PG_DIR/$name.initdb.log" 2>&1 || {
        cat "$PG_DIR/$name.initdb.log" >&2
        return 1
    }
    rm -f "$PG_DIR/.password"
    cat >>"$data/postgresql.conf" <<CONF
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 100
shared_buffers = '64MB'
# The data is thrown away: nothing has to survive the machine.
fsync = off
full_page_writes = off
wal_keep_size = '64MB'
CONF
    PG_PORT[$name]=$port
}

pg_replica() {
    local name=$1 port=$2 primary=$3
    "${PG_AS[@]}" "$PG_BIN/pg_basebackup" -h 127.0.0.1 -p "$primary" -U postgres -D "$PG_DIR/$name" \
        --write-recovery-conf --checkpoint=fast --no-sync
    PG_PORT[$name]=$port
}

pg_start() {
    local name=$1 data=$PG_DIR/$1 port=${PG_PORT[$1]}
    # Should this script be killed, the server goes too.
    "${PG_AS[@]}" --pdeathsig QUIT "$PG_BIN/postgres" -D "$data" -c "port=$port" </dev/null >>"$PG_DIR/$name.log" 2>&1 &
    PG_PID[$name]=$!
    local try
    for ((try = 0; try < 300; try++)); do
        "$PG_BIN/pg_isready" -q -h 127.0.0.1 -p "$port" && return
        kill -0 "${PG_PID[$name]}" 2>/dev/null || break
        sleep 0.1
    done
    echo "$name did not start:" >&2
    tail -n 20 "$PG_DIR/$name.log" >&2
    return 1
}

pg_kill() {
    local pid=${PG_PID[$1]} children
    read -r children <"/proc/$pid/task/$pid/children" || children=
    # shellcheck disable=SC2086 # a list of numbers
    kill -KILL "$pid" $children 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    unset "PG_PID[$1]"
}

pg_cleanup() {
    [[ $PG_DIR ]] || return 0
    local pid
    for pid in ${PG_PID[@]+"${PG_PID[@]}"}; do
        kill -QUIT "$pid" 2>/dev/null || true
    done
    for pid in ${PG_PID[@]+"${PG_PID[@]}"}; do
        wait "$pid" 2>/dev/null || true
    done
    PG_PID=()
    rm -rf "$PG_DIR"
    PG_DIR=
}

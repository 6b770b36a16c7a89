#!/usr/bin/env bash
# A throwaway cluster with pgweir before it: a primary and two streaming replicas (database `app`), and two shards
# (database `shop`). Prints what to try and stays until Ctrl-C, which removes everything.
#
#   scripts/demo.sh           print the lines and wait
#   scripts/demo.sh --tour    run each line, check what it shows, and exit
set -euo pipefail
cd "$(dirname "$0")/.."

tour=
case ${1-} in
--tour) tour=yes ;;
'') ;;
*)
    echo "usage: scripts/demo.sh [--tour]" >&2
    exit 2
    ;;
esac

# shellcheck source=scripts/pg.sh
source scripts/pg.sh
# shellcheck source=scripts/tour.sh
source scripts/tour.sh

say() { printf '%s\n' "$*"; }

PGWEIR_PID=
cleanup() {
    local status=$?
    trap - EXIT INT TERM HUP
    if ((status)) && [[ $PG_DIR && -s $PG_DIR/pgweir.log ]]; then
        say "--- the end of pgweir's log" >&2
        tail -n 20 "$PG_DIR/pgweir.log" >&2
    fi
    if [[ $PGWEIR_PID ]]; then
        # Not a drain: nobody is left to drain for.
        kill -KILL "$PGWEIR_PID" 2>/dev/null || true
        wait "$PGWEIR_PID" 2>/dev/null || true
    fi
    pg_cleanup
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# psql straight to a server, as its superuser.
server_psql() {
    local name=$1 database=$2
    shift 2
    "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "${PG_PORT[$name]}" -U postgres -d "$database" "$@"
}

make_roles() {
    server_psql "$1" postgres <<'SQL'
create role app login password 'secret';
create role probe login password 'secret' in role pg_monitor;
SQL
}

start_app_servers() {
    local name
    say "starting a primary and two streaming replicas"
    free_port 5501 && pg_init primary "$FREE_PORT"
    pg_start primary
    make_roles primary
    server_psql primary postgres -c 'create database app owner app'
    server_psql primary app <<'SQL'
set role app;
create table counter (n int not null);
insert into counter values (0);
SQL
    PGPASSWORD=secret "$PG_BIN/pgbench" -i -q -s 1 -h 127.0.0.1 -p "${PG_PORT[primary]}" -U app app 2>/dev/null
    for name in replica1 replica2; do
        free_port $((PG_PORT[primary] + ${name#replica}))
        pg_replica "$name" "$FREE_PORT" "${PG_PORT[primary]}"
        pg_start "$name"
    done
}

start_shards() {
    local name
    say "starting two shards"
    for name in shard1 shard2; do
        free_port $((PG_PORT[primary] + 2 + ${name#shard})) && pg_init "$name" "$FREE_PORT"
        pg_start "$name"
        make_roles "$name"
        server_psql "$name" postgres -c 'create database shop owner app'
        server_psql "$name" shop <<'SQL'
set role app;
create table countries (code text primary key, name text not null);
create table customers (id bigint primary key, name text not null, country text not null);
create table orders (customer_id bigint not null, id bigint not null, item text not null, amount int not null,
                     primary key (customer_id, id));
insert into countries values ('es', 'Spain'), ('jp', 'Japan'), ('pl', 'Poland');
SQL
    done
}

write_config() {
    printf '"%s" "secret"\n' app admin >"$PG_DIR/users.txt"
    cat >"$PG_DIR/pgweir.toml" <<TOML
[pgweir]
listen_addr = "127.0.0.1"
listen_port = $LISTEN_PORT
http_listen = "127.0.0.1:$HTTP_PORT"
auth_type = "scram-sha-256"
auth_file = "$PG_DIR/users.txt"
admin_users = ["admin"]
# Few, so that pooling shows: 50 clients of the tour share these.
default_pool_size = 5
# Quick, so that a failure shows.
probe_interval = "500ms"
probe_timeout = "1s"
breaker_failures = 3
breaker_cooldown = "3s"

[databases.app]
primary = "postgres://127.0.0.1:${PG_PORT[primary]}/app"
replicas = [
    "postgres://127.0.0.1:${PG_PORT[replica1]}/app",
    "postgres://127.0.0.1:${PG_PORT[replica2]}/app",
]
probe_user = "probe"
probe_password = "secret"

[databases.shop]
probe_user = "probe"
probe_password = "secret"

[[databases.shop.shards]]
name = "s1"
slots = [[0, 8191]]
primary = "postgres://127.0.0.1:${PG_PORT[shard1]}/shop"

[[databases.shop.shards]]
name = "s2"
slots = [[8192, 16383]]
primary = "postgres://127.0.0.1:${PG_PORT[shard2]}/shop"

[databases.shop.tables]
customers = { key = "id", type = "bigint" }
orders = { key = "customer_id", type = "bigint" }
countries = { reference = true }
TOML
}

start_pgweir() {
    local program=${CARGO_TARGET_DIR:-target}/debug/pgweir
    say "starting pgweir"
    if ((EUID == 0)); then
        # The unprivileged user may not reach root's directories.
        cp "$program" "$PG_DIR/pgweir"
        program=$PG_DIR/pgweir
    fi
    "${PG_AS[@]}" --pdeathsig KILL "$program" "$PG_DIR/pgweir.toml" </dev/null >"$PG_DIR/pgweir.log" 2>&1 &
    PGWEIR_PID=$!
    local try
    for ((try = 0; try < 100; try++)); do
        "$PG_BIN/psql" -X -q -c 'select 1' "$APP" >/dev/null 2>&1 && return
        kill -0 "$PGWEIR_PID" 2>/dev/null || break
        sleep 0.1
    done
    say "pgweir did not start" >&2
    return 1
}

# Through pgweir, one statement a customer and order, so that each row goes where its key's hash says.
load_shop() {
    local countries=(es jp pl) items=(tea coffee bread) id
    say "loading the shop through pgweir"
    for ((id = 1; id <= 100; id++)); do
        say "insert into customers (id, name, country) values ($id, 'customer $id', '${countries[id % 3]}');"
        say "insert into orders (customer_id, id, item, amount) values ($id, 1, '${items[id % 3]}', $((id % 7 + 1)));"
        say "insert into orders (customer_id, id, item, amount) values ($id, 2, '${items[(id + 1) % 3]}', 1);"
    done | "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 "$SHOP"
}

scripts/install-deps.sh build postgres demo
say "building"
cargo build --locked --quiet
pg_setup
export PATH=$PG_BIN:$PATH
free_port 6432 && LISTEN_PORT=$FREE_PORT
free_port 9127 && HTTP_PORT=$FREE_PORT
APP=postgres://app:secret@127.0.0.1:$LISTEN_PORT/app
SHOP=postgres://app:secret@127.0.0.1:$LISTEN_PORT/shop
CONSOLE=postgres://admin:secret@127.0.0.1:$LISTEN_PORT/pgweir
start_app_servers
start_shards
write_config
start_pgweir
load_shop

if [[ $tour ]]; then
    tour_run
else
    tour_print
    say
    say "pgweir's configuration and log: $PG_DIR/pgweir.toml, $PG_DIR/pgweir.log"
    say "Ctrl-C ends and removes everything."
    # That is no failure.
    trap 'exit 0' INT TERM
    wait "$PGWEIR_PID"
fi

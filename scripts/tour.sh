# shellcheck shell=bash
# What the demo shows: each stop is a command to paste and a check of its output. Sourced by demo.sh, which sets APP, SHOP
# and CONSOLE (connection URLs), HTTP_PORT, PG_PORT and PG_BIN.
#
# `stop TITLE COMMAND CHECK` prints the first two; on a tour it also runs the command, prints its output and runs the
# function CHECK, which finds the output in $OUT and the exit status in $STATUS, says in $SEEN what was seen, and fails
# when that is wrong.

TOURING=
OUT=
STATUS=0
SEEN=
FAILED=0

stop() {
    local title=$1 command=$2 check=$3
    printf '\n# %s\n%s\n' "$title" "$command"
    [[ $TOURING ]] || return 0
    STATUS=0
    OUT=$(bash -c "$command" 2>&1) || STATUS=$?
    printf '%s\n' "$OUT" | sed 's/^/    /'
    verdict "$check"
}

verdict() {
    SEEN=
    if "$@"; then
        printf '  ok: %s\n' "$SEEN"
    else
        printf '  WRONG: %s\n' "${SEEN:-exit status $STATUS}"
        FAILED=$((FAILED + 1))
    fi
}

# What psql prints for one value, asked of a server directly and not through pgweir.
direct() { PGPASSWORD=secret "$PG_BIN/psql" -XAtq -h 127.0.0.1 -p "${PG_PORT[$1]}" -U "$2" -d "$3" -c "$4"; }

no_failed_transaction() {
    ((STATUS == 0)) && [[ $OUT == *'number of failed transactions: 0 '* && $OUT != *aborted* ]]
}

check_pooling() {
    local name count total=0 seen=
    no_failed_transaction || { SEEN="pgbench had failures"; return 1; }
    for name in primary replica1 replica2; do
        count=$(direct "$name" probe app \
            "select count(*) from pg_stat_activity where usename = 'app' and backend_type = 'client backend'")
        seen+="${seen:+, }$count on $name"
        ((count <= 5)) || { SEEN="more server connections than default_pool_size = 5: $seen"; return 1; }
        total=$((total + count))
    done
    # The pool keeps its connections when the clients are gone.
    ((total > 0)) || { SEEN="no server connection was kept"; return 1; }
    SEEN="50 clients ran prepared statements over server connections: $seen"
}

check_replicas_read() {
    SEEN="reads must be spread over ports ${PG_PORT[replica1]} and ${PG_PORT[replica2]}"
    ((STATUS == 0)) && [[ $OUT == *" ${PG_PORT[replica1]}"* && $OUT == *" ${PG_PORT[replica2]}"* ]] &&
        [[ $OUT != *" ${PG_PORT[primary]}"* ]] || return 1
    SEEN="both replicas answered, and the primary (port ${PG_PORT[primary]}) was left in peace"
}

check_write() {
    SEEN="an update must reach the primary, port ${PG_PORT[primary]}"
    ((STATUS == 0)) && [[ $OUT == *"${PG_PORT[primary]}"* ]] || return 1
    SEEN="the write went to the primary"
}

check_own_writes() {
    SEEN="expected 100 pairs without a stale read"
    ((STATUS == 0)) && [[ $OUT == '100 pairs, 0 stale' ]] || return 1
    SEEN="a session reads what it has written, whoever answers"
}

check_sharded_row() {
    SEEN="the order of customer 4242 must come back"
    ((STATUS == 0)) && [[ $OUT == *'4242'*'chocolate'* ]] || return 1
    local on1 on2
    on1=$(direct shard1 app shop 'select count(*) from orders where customer_id = 4242')
    on2=$(direct shard2 app shop 'select count(*) from orders where customer_id = 4242')
    SEEN="it is $on1 times on s1 and $on2 times on s2"
    ((on1 + on2 == 1))
}

check_placement() {
    local name total=0 count stray range
    for name in shard1 shard2; do
        range='0 and 8191'
        [[ $name == shard1 ]] || range='8192 and 16383'
        # PostgreSQL's own hash says where a row belongs.
        IFS='|' read -r count stray < <(direct "$name" app shop "select count(*), count(*) filter (where not
            ((hashint8extended(customer_id, 8816678312871386365) & 16383) + 10467) & 16383 between $range) from orders
            where customer_id <= 100")
        SEEN+="${SEEN:+, }$count orders on $name ($stray astray)"
        ((stray == 0 && count > 0)) || return 1
        total=$((total + count))
    done
    ((total == 200)) && [[ $OUT == *$'\n'* ]]
}

check_join() {
    SEEN="customer 42 is from Spain"
    ((STATUS == 0)) && [[ $OUT == *"customer 42|Spain"* ]]
}

check_scatter() {
    local on1 on2
    on1=$(direct shard1 app shop 'select count(*) from orders')
    on2=$(direct shard2 app shop 'select count(*) from orders')
    SEEN="expected the $on1 orders of s1 and the $on2 of s2"
    ((STATUS == 0 && on1 > 0 && on2 > 0)) && [[ $OUT == "$((on1 + on2))|"* ]] || return 1
    SEEN="$on1 orders of s1 and $on2 of s2 are one answer"
}

check_refusal() {
    SEEN="expected an error with SQLSTATE 0A000"
    ((STATUS != 0)) && [[ $OUT == *'0A000'* ]] || return 1
    SEEN="refused with a reason: never a wrong answer"
}

check_pools() {
    SEEN="expected a row for each pool"
    ((STATUS == 0)) && [[ $OUT == *cl_active* && $OUT == *sv_idle* ]] && grep -q 'app *| *app' <<<"$OUT" || return 1
    SEEN="PgBouncer's columns, so its dashboards work"
}

check_show_replicas() {
    SEEN="both replicas must be listed"
    ((STATUS == 0)) && [[ $OUT == *"${PG_PORT[replica1]}"* && $OUT == *"${PG_PORT[replica2]}"* ]] || return 1
    SEEN="both replicas with their health"
}

check_show_shards() {
    SEEN="both shards must be listed"
    ((STATUS == 0)) && [[ $OUT == *s1* && $OUT == *s2* && $OUT == *16383* ]] || return 1
    SEEN="the slots of each shard"
}

check_explain() {
    SEEN="the route of the statement must be named"
    ((STATUS == 0)) && grep -qi 'replica' <<<"$OUT" || return 1
    SEEN="where it would go, and why"
}

check_metrics() {
    SEEN="expected families named pgweir_..."
    ((STATUS == 0)) && grep -q '^pgweir_' <<<"$OUT" || return 1
    SEEN="$(grep -c '^pgweir_' <<<"$OUT") lines for Prometheus"
}

check_health() {
    SEEN="expected a success"
    ((STATUS == 0)) || return 1
    SEEN="it takes traffic"
}

tour_stops() {
    stop "Pooling: 50 clients with prepared statements in transaction mode share at most 5 connections to each server" \
        "pgbench -n -S -M prepared -c 50 -j 2 -t 100 '$APP'" check_pooling
    stop "Reads are answered by the replicas: the ports of the servers that answered 60 queries" \
        "yes 'select inet_server_port();' | head -n 60 | psql -XAtq '$APP' | sort | uniq -c" check_replicas_read
    stop "Writes go to the primary" \
        "psql -X '$APP' -c 'update counter set n = n returning inet_server_port()'" check_write
    stop "A session reads its own writes: 100 times a write, and at once a read that may go to a replica" \
        "for i in \$(seq 100); do echo 'update counter set n = n + 1 returning n; select n from counter;'; done |
    psql -XAtq '$APP' | awk 'NR % 2 { n = \$1; next } \$1 != n { stale++ } END { print NR / 2 \" pairs, \" stale + 0 \" stale\" }'" \
        check_own_writes
    stop "Sharding: a row goes to the shard that owns its key's slot, and is found there" \
        "psql -X '$SHOP' -c \"insert into orders (customer_id, id, item, amount) values (4242, 1, 'chocolate', 2)\" -c 'select * from orders where customer_id = 4242'" \
        check_sharded_row
    stop "The sample orders were loaded through pgweir: here are those of three customers (the check counts both shards)" \
        "for id in 1 2 3; do psql -XAt '$SHOP' -c \"select customer_id, item from orders where customer_id = \$id\"; done" \
        check_placement
    stop "A reference table has a copy on every shard, so it joins there" \
        "psql -XAt '$SHOP' -c 'select c.name, k.name from customers c join countries k on k.code = c.country where c.id = 42'" \
        check_join
    stop "What no key ties to one shard is asked of all, and answered as one server would" \
        "psql -XAt '$SHOP' -c 'select count(*), sum(amount), avg(amount) from orders'" check_scatter
    stop "What cannot be proven right is refused: this would write on every shard" \
        "psql -X -v VERBOSITY=verbose '$SHOP' -c 'update orders set amount = 0'" check_refusal
    stop "The console: pools" "psql -X '$CONSOLE' -c 'show pools'" check_pools
    stop "The console: replicas" "psql -X '$CONSOLE' -c 'show replicas'" check_show_replicas
    stop "The console: shards" "psql -X '$CONSOLE' -c 'show shards'" check_show_shards
    stop "Why a statement goes where it goes" \
        "psql -X '$CONSOLE' -c \"explain route for app 'select * from counter'\"" check_explain
    stop "Metrics for Prometheus" "curl -sf http://127.0.0.1:$HTTP_PORT/metrics | grep -v '^#' | head -n 20" check_metrics
    stop "Health for a load balancer" "curl -sf http://127.0.0.1:$HTTP_PORT/health/ready" check_health
}

FAILOVER_TITLE="A replica is killed under load: no read fails"

tour_print() {
    TOURING=
    tour_stops
    printf '\n# %s (in two terminals)\n' "$FAILOVER_TITLE"
    printf '%s\n' "pgbench -n -S -c 20 -j 2 -T 20 -P 1 '$APP'" "kill -9 ${PG_PID[replica2]}"
}

check_failover() {
    SEEN="reads failed when the replica was killed"
    no_failed_transaction || return 1
    SEEN="a replica died under 20 clients, and no read failed"
}

check_return() {
    local try ports
    SEEN="the restarted replica got no reads within 30 s"
    for ((try = 0; try < 60; try++)); do
        ports=$(printf 'select inet_server_port();\n%.0s' {1..20} | psql -XAtq "$APP" 2>&1) || true
        if [[ $ports == *"${PG_PORT[replica2]}"* ]]; then
            SEEN="reads go to it again"
            return 0
        fi
        sleep 0.5
    done
    return 1
}

tour_failover() {
    local log=$PG_DIR/failover.log pgbench
    printf '\n# %s\n%s\n' "$FAILOVER_TITLE" "pgbench -n -S -c 20 -j 2 -T 6 '$APP' & sleep 2; kill -9 ${PG_PID[replica2]}"
    STATUS=0
    "$PG_BIN/pgbench" -n -S -c 20 -j 2 -T 6 "$APP" >"$log" 2>&1 &
    pgbench=$!
    sleep 2
    pg_kill replica2
    wait "$pgbench" || STATUS=$?
    OUT=$(<"$log")
    printf '%s\n' "$OUT" | sed 's/^/    /'
    verdict check_failover
    printf '\n# It is started again, and gets reads once its probes succeed\n'
    pg_start replica2
    verdict check_return
}

tour_run() {
    TOURING=yes
    tour_stops
    tour_failover
    if ((FAILED)); then
        printf '\n%s of the stops were WRONG\n' "$FAILED"
        return 1
    fi
    printf '\nThe tour is over: everything was as it should be.\n'
}

#!/usr/bin/env bash
# PostgreSQL's own regression suite, run twice with its parallel schedule: against a server directly, and against another through pgweir
# in transaction mode. What fails directly as well is the machine's doing and does not count. docs/regress.md lists what may differ. Then
# libpq's tests of pipelines, with upstream's traces of what the client sends and gets.
#
#   scripts/regress.sh [DIRECTORY]     the results of both runs are kept in DIRECTORY (target/regress/results)
#
# Needs PostgreSQL 15 or newer. Its sources are fetched by `apt-get source` for the very version that is installed, unless
# PGWEIR_REGRESS_SOURCE names the unpacked ones. PGWEIR_REGRESS_POOL is the pool's size.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/pg.sh
source scripts/pg.sh

results=${1:-target/regress/results}
pool=${PGWEIR_REGRESS_POOL:-12}
binary=${PGWEIR_BINARY:-target/debug/pgweir}
PGWEIR_PID=

cleanup() {
    local status=$?
    trap - EXIT INT TERM HUP
    if [[ $PGWEIR_PID ]]; then
        kill -KILL "$PGWEIR_PID" 2>/dev/null || true
        wait "$PGWEIR_PID" 2>/dev/null || true
    fi
    pg_cleanup
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# The suite of the installed version, with its library of C functions, in $1, and libpq_pipeline in $2.
sources() {
    # apt removes from its lists what it did not fetch: our own file stands elsewhere.
    local version package tree lists=$PWD/target/regress/lists from=$PWD/target/regress/sources
    version=$("$PG_BIN/postgres" --version | sed -E 's/^[^0-9]*([0-9.]+).*/\1/')
    tree=target/regress/postgresql-$version
    if [[ ${PGWEIR_REGRESS_SOURCE-} ]]; then
        tree=$PGWEIR_REGRESS_SOURCE
    elif [[ ! -d $tree ]]; then
        mkdir -p "$lists/partial" "$from"
        package=$(dpkg-query -W -f '${Version}' "postgresql-${version%%.*}")
        sed -E 's/^Types: *deb$/Types: deb-src/; s/^deb /deb-src /' /etc/apt/sources.list.d/debian.sources \
            >"$from/regress.sources"
        local apt=(-o "Dir::Etc::sourcelist=/dev/null" -o "Dir::Etc::sourceparts=$from" -o "Dir::State::Lists=$lists")
        apt-get "${apt[@]}" update -qq
        (cd target/regress && apt-get "${apt[@]}" source -qq --download-only "postgresql-${version%%.*}=$package")
        tar -C target/regress -xf "target/regress/postgresql-${version%%.*}_$version.orig.tar.bz2"
    fi
    if [[ ! -f $tree/src/test/regress/regress.so ]]; then
        (
            cd "$tree"
            [[ -f src/include/pg_config.h ]] || ./configure --quiet --without-readline --without-zlib >/dev/null 2>&1
            make -s -C src/backend generated-headers
            cd src/test/regress
            cc -O1 -fPIC -shared -I../../include -I../../port -I../../interfaces/libpq -I. -o regress.so regress.c
        )
    fi
    cp -r "$tree/src/test/regress" "$1"
    cp "$(dirname "$PG_BIN")"/lib/{autoinc,refint}.so "$1"
    make -s -C "$tree/src/port" libpgport.a
    make -s -C "$tree/src/common" libpgcommon.a
    cp -r "$tree/src/test/modules/libpq_pipeline" "$2"
    cc -O1 -I"$tree/src/include" -I"$tree/src/interfaces/libpq" -o "$2/libpq_pipeline" "$2/libpq_pipeline.c" \
        "$tree/src/common/libpgcommon.a" "$tree/src/port/libpgport.a" -lpq -lm
}

# Runs the suite against a port, with its results in $PG_DIR/$1.
suite() {
    local name=$1 port=$2 owner
    mkdir "$PG_DIR/$name.out"
    owner=$(stat -c %U "$PG_DIR")
    chown -R "$owner" "$PG_DIR/$name.out" "$PG_DIR/suite"
    (
        cd "$PG_DIR/$name.out"
        "${PG_AS[@]}" "$(dirname "$PG_BIN")/lib/pgxs/src/test/regress/pg_regress" --use-existing --host=127.0.0.1 --port="$port" \
            --user=postgres --dbname=regression --bindir="$PG_BIN" --inputdir="$PG_DIR/suite" --outputdir="$PG_DIR/$name.out" \
            --dlpath="$PG_DIR/suite" --schedule="$PG_DIR/suite/parallel_schedule" >"$PG_DIR/$name.result" 2>&1 || true
    )
    rm -rf "${results:?}/$name"
    mkdir -p "$results"
    cp -r "$PG_DIR/$name.out" "$results/$name"
    cp "$PG_DIR/$name.result" "$results/$name.result"
}

# libpq's tests of pipelines against a port; those that are well, traces included, are listed in a file as of pg_regress.
pipelines() {
    local name=$1 port=$2 dir=$PG_DIR/pipeline out=$results/$1.pipeline test expected
    rm -rf "$out"
    mkdir -p "$out"
    for test in $("$dir/libpq_pipeline" tests); do
        local options=(-r 700)
        expected=$dir/traces/$test.trace
        [[ ! -f $expected ]] || options+=(-t "$out/$test.trace")
        if ! timeout 60 "$dir/libpq_pipeline" "${options[@]}" "$test" \
            "host=127.0.0.1 port=$port user=postgres dbname=postgres" >"$out/$test.log" 2>&1; then
            echo "test pipeline/$test ... FAILED (see $out/$test.log)"
        elif [[ -f $expected ]] && ! diff -u "$expected" "$out/$test.trace" >"$out/$test.diff"; then
            echo "test pipeline/$test ... FAILED (another trace: $out/$test.diff)"
        else
            echo "test pipeline/$test ... ok "
        fi
    done >>"$results/$name.result"
}

# The tests of a run that are well.
passed() {
    sed -nE 's/^(test )? *([a-z0-9_./]+) +\.\.\. ok .*/\2/p' "$results/$1.result" | sort
}

cluster() {
    local name=$1
    free_port
    pg_init "$name" "$FREE_PORT"
    # The suite connects as roles that it makes.
    echo 'host all all 127.0.0.1/32 trust' >"$PG_DIR/$name/pg_hba.conf"
    echo "max_prepared_transactions = 2" >>"$PG_DIR/$name/postgresql.conf"
    pg_start "$name"
    local psql=("$PG_BIN/psql" -qX -h 127.0.0.1 -p "${PG_PORT[$name]}" -U postgres -d postgres)
    "${psql[@]}" -c "CREATE DATABASE regression TEMPLATE template0 LOCALE 'C'"
    # As pg_regress does with a database that it makes itself.
    local setting
    for setting in lc_messages lc_monetary lc_numeric lc_time; do
        "${psql[@]}" -c "ALTER DATABASE regression SET $setting TO 'C'"
    done
    "${psql[@]}" -c "ALTER DATABASE regression SET bytea_output TO 'hex'" \
        -c "ALTER DATABASE regression SET timezone_abbreviations TO 'Default'"
}

pg_setup
sources "$PG_DIR/suite" "$PG_DIR/pipeline"
[[ ${PGWEIR_REGRESS_DIRECT-} ]] || {
    cluster direct
    suite direct "${PG_PORT[direct]}"
    pipelines direct "${PG_PORT[direct]}"
    pg_kill direct
}
cluster pooled
free_port
port=$FREE_PORT
printf '"postgres" ""\n' >"$PG_DIR/users.txt"
cat >"$PG_DIR/pgweir.toml" <<TOML
[pgweir]
listen_addr = "127.0.0.1"
listen_port = $port
auth_type = "trust"
auth_file = "$PG_DIR/users.txt"
admin_users = ["postgres"]
pool_mode = "transaction"
default_pool_size = $pool
query_wait_timeout = "120s"
# No statement of the suite comes so often that anything could be learned of it.
sequence_values = "keep"
[databases."*"]
primary = "postgres://127.0.0.1:${PG_PORT[pooled]}/"
TOML
"$binary" "$PG_DIR/pgweir.toml" >"$PG_DIR/pgweir.log" 2>&1 &
PGWEIR_PID=$!
until "$PG_BIN/pg_isready" -q -h 127.0.0.1 -p "$port"; do
    kill -0 "$PGWEIR_PID"
    sleep 0.1
done
suite pooled "$port"
pipelines pooled "$port"
cp "$PG_DIR/pgweir.log" "$results/"
all=$(grep -oE '^test: .*' "$PG_DIR/suite/parallel_schedule" | cut -d: -f2 | wc -w)
suite_passed() { passed "$1" | grep -vc '^pipeline/' || true; }
pipelines_passed() { passed "$1" | grep -c '^pipeline/' || true; }
echo "directly: $(suite_passed direct) of $all pass; through pgweir, in transaction mode, with $pool server connections: $(suite_passed pooled)"
echo "pipelines of libpq: directly $(pipelines_passed direct) of $("$PG_DIR/pipeline/libpq_pipeline" tests | wc -w) pass; through pgweir: $(pipelines_passed pooled)"
lost=$(comm -23 <(passed direct) <(passed pooled))
# Those that are known to differ, with the reason: rows of a table in docs/regress.md.
known=$(sed -nE 's/^\| `([a-z0-9_./]+)` \|.*/\1/p' docs/regress.md | sort)
# Those that differ by nothing but the warning of docs/regress.md, which comes to whoever loads plpgsql on the server that `guc` had.
warned=$(awk '
    function told() { if (name && plain) print name }
    /^diff / { told(); name = $NF; sub(/.*\//, "", name); sub(/\.out$/, "", name); plain = 1; next }
    /^(\+\+\+|---) / { next }
    /^[+-]/ && !/^\+(WARNING:  invalid configuration parameter name "plpgsql\.extra_foo_warnings"|DETAIL:  "plpgsql" is now a reserved prefix)/ { plain = 0 }
    END { told() }' "$results/pooled/regression.diffs" 2>/dev/null || true)
known=$(printf '%s\n' "$known" "$warned" | sort -u)
unexpected=$(comm -23 <(echo "$lost") <(echo "$known"))
[[ ! $lost ]] || echo "not as directly:" $lost
[[ ! $unexpected ]] || {
    echo "and not listed in docs/regress.md:" $unexpected "(see $results/pooled)" >&2
    exit 1
}

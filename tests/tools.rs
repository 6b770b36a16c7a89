//! The tools and drivers that people use work through pgweir as they do without it: psql, pgbench, psycopg, tokio-postgres.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![allow(clippy::panic, reason = "a failed step is a failed test")]
#![allow(clippy::print_stderr, reason = "a soak tells what it did")]

mod common;

use std::io::Write;
use std::time::Duration;

use common::cluster::Cluster;
use common::tools::{self, Running};
use common::weir::Weir;
use futures_util::{SinkExt, StreamExt};

/// A primary with pgweir before it; 10 server connections per pool.
fn site() -> (Cluster, Weir) {
    let cluster = Cluster::start();
    let weir = Weir::builder().general("default_pool_size = 10").cluster("app", &cluster, &[]).start();
    (cluster, weir)
}

// psql.

/// Runs a psql script; its output.
fn psql(port: u16, database: &str, script: &str) -> String {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(script.as_bytes()).unwrap();
    let path = file.path().to_str().unwrap();
    let mut command = tools::psql_command(port, database, &["-v", "ON_ERROR_STOP=1", "-f", path]);
    Running::start(&mut command).wait(tools::TIMEOUT).ok()
}

#[test]
fn psql_describes_the_same() {
    let (cluster, weir) = site();
    cluster.sql(
        "CREATE TABLE t (id int PRIMARY KEY, name text DEFAULT 'x' CHECK (name <> ''));
         CREATE TABLE child (t_id int REFERENCES t ON DELETE CASCADE);
         CREATE INDEX by_name ON t (name) WHERE name IS NOT NULL;
         CREATE VIEW v AS SELECT id FROM t;
         CREATE SEQUENCE s;
         CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT n * 2';
         COMMENT ON TABLE t IS 'a table';
         CREATE ROLE reader; GRANT SELECT ON t TO reader",
    );
    for command in [
        "\\d",
        "\\dt",
        "\\d t",
        "\\d+ t",
        "\\d child",
        "\\d by_name",
        "\\d+ v",
        "\\di",
        "\\di+",
        "\\ds",
        "\\dv",
        "\\df",
        "\\df+ twice",
        "\\sf twice",
        "\\sv v",
        "\\l",
        "\\du",
        "\\du+",
        "\\dn",
        "\\dn+",
        "\\dp",
        "\\dT",
        "\\dx",
        "\\do +",
        "\\dC",
        "\\da max",
        "\\db",
        "\\dd",
        "\\drds",
        "\\dS pg_class",
        "\\z t",
        "\\encoding",
    ] {
        // The size of a database changes by itself, and \l does not show it.
        let (direct, through) = (psql(cluster.port(), "postgres", command), psql(weir.port(), "app", command));
        assert_eq!(through, direct, "{command}");
    }
    let info = psql(weir.port(), "app", "\\conninfo");
    assert!(
        info.contains(&format!("at port \"{}\"", weir.port())) || info.contains(&weir.port().to_string()),
        "{info}"
    );
}

#[test]
fn psql_copies_watches_and_scripts() {
    let (cluster, weir) = site();
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from.csv"), dir.path().join("to.csv"));
    let rows: String = (0..5000).map(|n| format!("{n},\"a, b {n}\"\n")).collect();
    std::fs::write(&from, &rows).unwrap();
    let script = format!(
        "CREATE TABLE t (a int, b text);
         \\copy t FROM '{}' WITH (FORMAT csv)
         \\copy (SELECT a, b FROM t ORDER BY a) TO '{}' WITH (FORMAT csv, FORCE_QUOTE (b))
         COPY t FROM STDIN;\n90000\tlast\n\\.\n
         SELECT count(*) FROM t \\gset
         \\echo count :count
         SELECT 1 AS one, 2 AS two \\gx
         SELECT 'SELECT 40 + 2 AS answer' \\gexec
         SELECT $1::int + $2 AS bound \\bind 1 2 \\g
         \\set FETCH_COUNT 1000
         SELECT a FROM t ORDER BY a;
         \\gdesc\n",
        from.display(),
        to.display()
    );
    // \bind came with psql 16.
    let version = psql(weir.port(), "app", "\\echo :VERSION_NUM");
    let old = version.trim().parse::<u32>().unwrap() < 160_000;
    let script: String = script
        .lines()
        .filter(|line| !(old && line.contains("\\bind")))
        .map(|l| format!("{}\n", l.trim_start()))
        .collect();
    let out = psql(weir.port(), "app", &script);
    assert_eq!(std::fs::read_to_string(&to).unwrap(), rows);
    assert!(out.contains("COPY 5000") && out.contains("COPY 1"), "{}", common::tail(&out, 20));
    assert!(
        out.contains("count 5001") && out.contains("answer") && out.contains("42"),
        "{}",
        &out[..400.min(out.len())]
    );
    assert!(out.contains("90000"), "the fetched rows are not all there");
    assert_eq!(cluster.value("SELECT count(*) FROM t"), "5001");

    // \watch goes on until it is stopped, or its statement fails: here, when the sequence is at its end.
    cluster.sql("CREATE SEQUENCE s MAXVALUE 4");
    let mut input = tempfile::NamedTempFile::new().unwrap();
    input.write_all(b"SELECT nextval('s') \\watch 0.01\n").unwrap();
    let mut command = tools::psql_command(weir.port(), "app", &["-At", "-f", input.path().to_str().unwrap()]);
    let out = Running::start(&mut command).wait(tools::TIMEOUT);
    assert_eq!(out.stdout.lines().filter(|line| line.parse::<u32>().is_ok()).collect::<Vec<_>>(), ["1", "2", "3", "4"]);
    assert!(out.stderr.contains("nextval: reached maximum value of sequence"), "{}", out.stderr);
}

#[test]
fn psql_shows_errors_and_goes_on() {
    let (_cluster, weir) = site();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"SELECT 1/0;\nSELEC;\nBEGIN;\nSELECT nothing;\nSELECT 1;\nROLLBACK;\nSELECT 'still here';\n")
        .unwrap();
    let mut command = tools::psql_command(weir.port(), "app", &["-At", "-f", file.path().to_str().unwrap()]);
    let out = Running::start(&mut command).wait(tools::TIMEOUT);
    assert_eq!(out.stdout, "BEGIN\nROLLBACK\nstill here\n");
    for text in [
        "division by zero",
        "syntax error at or near \"SELEC\"",
        "LINE 1: SELECT nothing",
        "current transaction is aborted",
    ] {
        assert!(out.stderr.contains(text), "{text}: {}", out.stderr);
    }
}

// pgbench.

/// pgbench with 50 clients for two seconds, or as many as `make soak` says; panics unless all of it went well.
fn bench(weir: &Weir, args: &[&str]) {
    let seconds = std::env::var("PGWEIR_SOAK_SECONDS").unwrap_or_else(|_| "2".to_owned());
    let mut all = vec!["-n", "-c", "50", "-j", "2", "-T", &seconds];
    all.extend(args);
    let limit = Duration::from_secs(60 + seconds.parse::<u64>().unwrap());
    let out = Running::start(&mut tools::pgbench_command(weir.port(), "app", &all)).wait(limit);
    assert!(out.status.success(), "{args:?}: {}\n{}\n{}", out.status, out.stdout, common::tail(&out.stderr, 5));
    assert!(out.stdout.contains("number of failed transactions: 0 "), "{args:?}: {}", out.stdout);
    assert!(!out.stderr.contains("ERROR") && !out.stderr.contains("aborted"), "{args:?}: {}", out.stderr);
    let done = out.stdout.lines().find_map(|line| line.strip_prefix("number of transactions actually processed: "));
    assert!(done.unwrap().parse::<u64>().unwrap() >= 50, "{}", out.stdout);
    eprintln!("pgbench {args:?} for {seconds} s: {} transactions, none failed", done.unwrap());
}

fn check_pgbench(protocol: &str) {
    let (cluster, weir) = site();
    tools::pgbench(weir.port(), "app", &["-i", "-q", "-s", "2"]).ok();
    let sums = || {
        cluster.sql(
            "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),
                    (SELECT sum(bbalance) FROM pgbench_branches), (SELECT sum(delta) FROM pgbench_history)",
        )
    };
    bench(&weir, &["-M", protocol, "-S"]);
    bench(&weir, &["-M", protocol]);
    // Whatever was done was done once and as a whole.
    let row = sums().remove(0);
    assert!(row.iter().all(|sum| *sum == row[0] && !sum.is_empty()), "{row:?}");

    let mut script = tempfile::NamedTempFile::new().unwrap();
    script
        .write_all(
            b"\\set aid random(1, 200000)\n\\set delta random(-5, 5)\nBEGIN;\nSAVEPOINT a;\n\
              UPDATE pgbench_accounts SET abalance = abalance + 1000 WHERE aid = :aid;\nROLLBACK TO a;\n\
              SELECT abalance FROM pgbench_accounts WHERE aid = :aid;\nSAVEPOINT b;\n\
              INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (0, 0, :aid, :delta, now());\n\
              UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;\nRELEASE b;\nCOMMIT;\n",
        )
        .unwrap();
    bench(&weir, &["-M", protocol, "-f", script.path().to_str().unwrap()]);
    let row = sums().remove(0);
    assert_eq!(row[0], row[3], "accounts and history differ: {row:?}");
    // 50 clients were served by 10 connections, and none is left in a transaction.
    let used = cluster.value("SELECT count(*) FROM pg_stat_activity WHERE datname = 'postgres' AND backend_type = 'client backend' AND application_name = 'pgbench'");
    assert!(used.parse::<u32>().unwrap() <= 10, "{used} server connections");
    let open = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'";
    assert_eq!(cluster.value(open), "0");
}

#[test]
fn pgbench_simple() {
    check_pgbench("simple");
}

#[test]
fn pgbench_extended() {
    check_pgbench("extended");
}

#[test]
fn pgbench_prepared() {
    // pgbench prepares by calls that wait while other clients of the same thread are in a transaction. They end because a statement
    // that one client has prepared is prepared for the next without a server.
    check_pgbench("prepared");
}

// psycopg 3.

/// Runs Python with `connect()` and psycopg at hand.
fn python(weir: &Weir, script: &str) -> String {
    let head = "import psycopg\nfrom psycopg import sql, rows\ndef connect(**k):\n    return psycopg.connect(**k)\n";
    tools::python(weir.port(), "app", &format!("{head}{script}")).ok()
}

#[test]
fn psycopg_parameters_and_transactions() {
    let (_cluster, weir) = site();
    let out = python(
        &weir,
        r#"
import datetime, decimal, uuid
with connect() as c:
    row = c.execute("SELECT %s::int, %s, %s::numeric, %s::date, %s::uuid, %s::int[], %s::bytea, %s::jsonb",
        (7, "x'y", decimal.Decimal("1.50"), datetime.date(2024, 2, 29), uuid.UUID(int=5), [1, None, 3], b"\x00\xff",
         psycopg.types.json.Jsonb({"a": [1]}))).fetchone()
    print(row)
    cur = c.cursor(binary=True)
    print(cur.execute("SELECT %b::int8, now() IS NOT NULL", (2**40,)).fetchone())
    c.execute("CREATE TABLE t (id int PRIMARY KEY, b text)")
    # Server-side prepared: from the first time, and from the fifth.
    for n in range(20):
        c.execute("INSERT INTO t VALUES (%s, %s)", (n, "b"), prepare=True)
    for n in range(20):
        assert c.execute("SELECT id FROM t WHERE id = %s", (n,)).fetchone() == (n,)
    c.commit()
    cur = c.cursor()
    cur.executemany("INSERT INTO t VALUES (%s, %s)", [(n, "many") for n in range(100, 1100)])
    cur.executemany("INSERT INTO t VALUES (%s, %s) RETURNING id", [(n, "ret") for n in range(2000, 2005)], returning=True)
    got = []
    while True:
        got.append(cur.fetchone()[0])
        if not cur.nextset():
            break
    print(got)
    c.commit()
    # Savepoints by nested blocks.
    with c.transaction():
        c.execute("UPDATE t SET b = 'outer' WHERE id = 1")
        try:
            with c.transaction():
                c.execute("UPDATE t SET b = 'inner' WHERE id = 1")
                c.execute("INSERT INTO t VALUES (1, 'duplicate')")
        except psycopg.errors.UniqueViolation as e:
            print(e.diag.sqlstate, e.diag.constraint_name)
        with c.transaction("named"):
            c.execute("UPDATE t SET b = 'second' WHERE id = 2")
    print(c.execute("SELECT b FROM t WHERE id IN (1, 2) ORDER BY id").fetchall())
    try:
        with c.transaction():
            c.execute("DELETE FROM t")
            raise psycopg.Rollback()
    except psycopg.Rollback:
        pass
    print(c.execute("SELECT count(*) FROM t").fetchone()[0], c.info.transaction_status.name)
with connect(autocommit=True) as c:
    print(c.execute("SELECT count(*) FROM t").fetchone()[0], c.info.transaction_status.name)
    try:
        c.execute("SELECT 1/0")
    except psycopg.errors.DivisionByZero as e:
        print(e.diag.message_primary, c.info.transaction_status.name)
    with c.transaction():
        c.execute("SELECT 1")
    with c.cursor() as cur:
        print(sum(r[0] for r in cur.stream("SELECT generate_series(1, 1000)")))
with connect() as c:
    with c.cursor(name="named") as cur:
        cur.itersize = 100
        cur.execute("SELECT generate_series(1, 1000)")
        print(sum(r[0] for r in cur))
"#,
    );
    assert_eq!(
        out,
        "(7, \"x'y\", Decimal('1.50'), datetime.date(2024, 2, 29), UUID('00000000-0000-0000-0000-000000000005'), \
         [1, None, 3], b'\\x00\\xff', {'a': [1]})\n\
         (1099511627776, True)\n\
         [2000, 2001, 2002, 2003, 2004]\n\
         23505 t_pkey\n\
         [('outer',), ('second',)]\n\
         1025 INTRANS\n\
         1025 IDLE\n\
         division by zero IDLE\n\
         500500\n\
         500500\n"
    );
}

#[test]
fn psycopg_pipelines_copies_and_notifies() {
    let (_cluster, weir) = site();
    let out = python(
        &weir,
        r#"
assert psycopg.Pipeline.is_supported()
with connect(autocommit=True) as c:
    c.execute("CREATE TABLE t (id int PRIMARY KEY, b text)")
    with c.pipeline() as p:
        for n in range(200):
            c.execute("INSERT INTO t VALUES (%s, %s)", (n, str(n)))
        cur = c.execute("SELECT count(*) FROM t")
        p.sync()
        print(cur.fetchone()[0])
        one = [c.execute("SELECT b FROM t WHERE id = %s", (n,), prepare=True) for n in range(50)]
        print([x.fetchone()[0] for x in one] == [str(n) for n in range(50)])
    try:
        with c.pipeline() as p:
            c.execute("INSERT INTO t VALUES (1000, 'gone')")
            c.execute("SELECT 1/0")
            c.execute("INSERT INTO t VALUES (1001, 'skipped')")
    except psycopg.Error as e:
        print(type(e).__name__)
    print(c.execute("SELECT count(*) FROM t WHERE id >= 1000").fetchone()[0], c.info.transaction_status.name)
    # COPY in and out, in text, rows and binary.
    with c.cursor() as cur:
        with cur.copy("COPY t FROM STDIN") as copy:
            for n in range(5000, 15000):
                copy.write_row((n, "r" * (n % 50)))
        with cur.copy("COPY (SELECT * FROM t WHERE id < 2 ORDER BY id) TO STDOUT") as copy:
            print([bytes(x) for x in copy])
        with cur.copy("COPY (SELECT id FROM t WHERE id >= 5000 ORDER BY id) TO STDOUT (FORMAT binary)") as copy:
            copy.set_types(["int4"])
            print(sum(r[0] for r in copy.rows()))
        try:
            with cur.copy("COPY t FROM STDIN") as copy:
                copy.write(b"70000\tgood\n")
                raise RuntimeError("stop")
        except (RuntimeError, psycopg.errors.QueryCanceled) as e:
            print(type(e).__name__)
        try:
            with cur.copy("COPY t FROM STDIN") as copy:
                copy.write(b"not a number\tx\n")
        except psycopg.errors.InvalidTextRepresentation as e:
            print(e.sqlstate)
    print(c.execute("SELECT count(*) FROM t").fetchone()[0])
with connect(autocommit=True) as a, connect(autocommit=True) as b:
    a.execute("LISTEN news")
    b.execute("NOTIFY news, 'one'")
    b.execute("SELECT pg_notify('news', 'two')")
    got = []
    for n in a.notifies():
        got.append((n.channel, n.payload))
        if len(got) == 2:
            break
    print(got)
    a.execute("UNLISTEN *")
"#,
    );
    assert_eq!(
        out,
        "200\nTrue\nDivisionByZero\n0 IDLE\n[b'0\\t0\\n', b'1\\t1\\n']\n99995000\nQueryCanceled\n22P02\n10200\n\
         [('news', 'one'), ('news', 'two')]\n"
    );
}

#[test]
fn psycopg_clients_share_servers_with_their_prepared_statements() {
    let (cluster, weir) = site();
    cluster
        .sql("CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t SELECT n, 0 FROM generate_series(1, 30) AS n");
    let out = python(
        &weir,
        r#"
import threading
failed = []
def work(me):
    try:
        with connect(autocommit=True) as c:
            for n in range(40):
                # The same name means another text in every session.
                c.execute(f"UPDATE t SET n = n + 1 WHERE id = %s AND {me} = {me}", (me,), prepare=True)
                assert c.execute(f"SELECT n, {me} FROM t WHERE id = %s", (me,), prepare=True).fetchone() == (n + 1, me)
                if n % 10 == 0:
                    with c.transaction():
                        c.execute("SET LOCAL statement_timeout = '30s'")
                        c.execute("SELECT count(*) FROM t", prepare=True)
    except Exception as e:
        failed.append(repr(e))
threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 31)]
[t.start() for t in threads]
[t.join() for t in threads]
print(failed)
"#,
    );
    assert_eq!(out, "[]\n");
    assert_eq!(cluster.value("SELECT sum(n) FROM t"), "1200");
    let used = cluster.value("SELECT count(*) FROM pg_stat_activity WHERE datname = 'postgres' AND backend_type = 'client backend' AND application_name NOT LIKE 'pgweir %' AND pid <> pg_backend_pid()");
    assert!(used.parse::<u32>().unwrap() <= 10, "{used} server connections");
}

// tokio-postgres.

/// A connected client, its connection driven by a task.
async fn connect(weir: &Weir) -> tokio_postgres::Client {
    let text = format!("host=127.0.0.1 port={} user=postgres dbname=app connect_timeout=10", weir.port());
    let (client, connection) = tokio_postgres::connect(&text, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    client
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(40), future).await.expect("it hangs") })
}

#[test]
fn tokio_postgres_types_and_transactions() {
    let (_cluster, weir) = site();
    block_on(async {
        let mut client = connect(&weir).await;
        client
            .batch_execute("CREATE TABLE t (id int PRIMARY KEY, b text, c float8[]); CREATE TYPE mood AS ENUM ('sad')")
            .await
            .unwrap();
        let insert = client.prepare("INSERT INTO t VALUES ($1, $2, $3)").await.unwrap();
        for id in 0..10_i32 {
            let done = client.execute(&insert, &[&id, &format!("b{id}"), &vec![0.5, f64::from(id)]]).await.unwrap();
            assert_eq!(done, 1);
        }
        let row = client.query_one("SELECT id, b, c, NULL::text FROM t WHERE id = $1", &[&3_i32]).await.unwrap();
        assert_eq!((row.get::<_, i32>(0), row.get::<_, &str>(1), row.get::<_, Vec<f64>>(2)), (3, "b3", vec![0.5, 3.0]));
        assert_eq!(row.get::<_, Option<String>>(3), None);
        // A type that the driver asks the catalog about, with statements of its own.
        let row = client.query_one("SELECT 'sad'::mood", &[]).await.unwrap();
        assert_eq!(row.columns()[0].type_().name(), "mood");
        assert_eq!(
            client.query_typed("SELECT $1", &[(&5_i64, tokio_postgres::types::Type::INT8)]).await.unwrap()[0]
                .get::<_, i64>(0),
            5
        );

        let mut transaction = client.transaction().await.unwrap();
        transaction.execute(&insert, &[&100_i32, &"x", &Vec::<f64>::new()]).await.unwrap();
        let savepoint = transaction.savepoint("inside").await.unwrap();
        let error = savepoint.execute(&insert, &[&100_i32, &"x", &Vec::<f64>::new()]).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "23505");
        savepoint.rollback().await.unwrap();
        let portal = transaction.bind("SELECT generate_series(1, 10)", &[]).await.unwrap();
        let first = transaction.query_portal(&portal, 4).await.unwrap();
        let rest = transaction.query_portal(&portal, 0).await.unwrap();
        assert_eq!((first.len(), rest.len(), rest[0].get::<_, i32>(0)), (4, 6, 5));
        transaction.commit().await.unwrap();
        // Dropped: rolled back.
        let transaction = client.transaction().await.unwrap();
        transaction.execute("DELETE FROM t", &[]).await.unwrap();
        drop(transaction);
        assert_eq!(client.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get::<_, i64>(0), 11);
        let read_only = client.build_transaction().read_only(true).start().await.unwrap();
        let error = read_only.execute("DELETE FROM t", &[]).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "25006");
        read_only.rollback().await.unwrap();
        assert_eq!(client.simple_query("SELECT 1; SELECT 2").await.unwrap().len(), 6);
    });
}

#[test]
fn tokio_postgres_pipelines_copies_and_cancels() {
    let (cluster, weir) = site();
    block_on(async {
        let client = connect(&weir).await;
        client.batch_execute("CREATE TABLE t (id int, b text)").await.unwrap();
        // Futures polled together are sent without waiting for one another.
        let select = client.prepare("SELECT $1::int * 2").await.unwrap();
        let values: Vec<i32> = (0..300).collect();
        let parameters: Vec<[&(dyn tokio_postgres::types::ToSql + Sync); 1]> =
            values.iter().map(|value| [value as &(dyn tokio_postgres::types::ToSql + Sync)]).collect();
        let mut answers: Vec<_> = parameters.iter().map(|value| Box::pin(client.query_one(&select, value))).collect();
        std::future::poll_fn(|cx| {
            // Started in order; each is awaited below.
            for answer in &mut answers {
                assert!(answer.as_mut().poll(cx).is_pending());
            }
            std::task::Poll::Ready(())
        })
        .await;
        for (value, answer) in values.iter().zip(answers) {
            assert_eq!(answer.await.unwrap().get::<_, i32>(0), value * 2);
        }
        let (first, failed, last) = tokio::join!(
            client.query_one("SELECT 1", &[]),
            client.query_one("SELECT 1/0", &[]),
            client.query_one("SELECT 3", &[])
        );
        assert_eq!((first.unwrap().get::<_, i32>(0), last.unwrap().get::<_, i32>(0)), (1, 3));
        assert_eq!(failed.unwrap_err().code().unwrap().code(), "22012");

        let sink = client.copy_in::<_, bytes::Bytes>("COPY t FROM STDIN").await.unwrap();
        let mut sink = std::pin::pin!(sink);
        for chunk in 0..100 {
            let rows: String = (0..100).map(|row| format!("{}\tx\n", chunk * 100 + row)).collect();
            sink.send(bytes::Bytes::from(rows)).await.unwrap();
        }
        assert_eq!(sink.finish().await.unwrap(), 10_000);
        let stream = client.copy_out("COPY t TO STDOUT").await.unwrap();
        assert_eq!(collect(stream).await.lines().count(), 10_000);
        // Dropped in the middle: the COPY fails, the session goes on.
        drop(client.copy_in::<_, bytes::Bytes>("COPY t FROM STDIN").await.unwrap());
        assert_eq!(client.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get::<_, i64>(0), 10_000);

        let token = client.cancel_token();
        let cancel = async {
            while cluster
                .sql("SELECT 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND state = 'active'")
                .is_empty()
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            token.cancel_query(tokio_postgres::NoTls).await.unwrap();
        };
        let (slept, ()) = tokio::join!(client.query("SELECT pg_sleep(600)", &[]), cancel);
        assert_eq!(slept.unwrap_err().code().unwrap().code(), "57014");
        assert_eq!(client.query_one("SELECT 5", &[]).await.unwrap().get::<_, i32>(0), 5);
    });
}

/// All that comes out of a COPY.
async fn collect(stream: tokio_postgres::CopyOutStream) -> String {
    let mut stream = std::pin::pin!(stream);
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece.unwrap());
    }
    String::from_utf8(bytes).unwrap()
}

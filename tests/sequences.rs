//! currval() and lastval() in another transaction than the nextval(): PostgreSQL's answer, or an error, and never another client's value.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::time::Duration;

use common::cluster::Cluster;
use common::raw::RawClient;
use common::weir::{Builder, Weir};
use common::wire::show;
use common::{SERVER_PID, eventually};
use pgweir::clock;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

const SOON: Duration = Duration::from_secs(15);

fn over(port: u16, database: &str, size: u32, settings: &str) -> Builder {
    let server = format!("primary = \"postgres://127.0.0.1:{port}/{database}\"");
    Weir::builder().database(&format!("[databases.app]\n{server}\npool_size = {size}\n{settings}"))
}

/// Tables whose rows take values, in several ways.
const TABLES: &str = "CREATE SEQUENCE s;
    CREATE TABLE t (id serial, v text);
    CREATE TABLE u (id int GENERATED ALWAYS AS IDENTITY, v text);
    CREATE TABLE other (id serial, v text);
    CREATE TABLE audit (id serial, of text);
    CREATE TABLE watched (id int, v text);
    CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN INSERT INTO audit (of) VALUES (TG_OP); RETURN NEW; END$$;
    CREATE TRIGGER watch BEFORE INSERT OR UPDATE ON watched FOR EACH ROW EXECUTE FUNCTION watch();
    CREATE FUNCTION newest(text) RETURNS bigint LANGUAGE plpgsql AS
        $$BEGIN RETURN currval(pg_get_serial_sequence($1, 'id')); END$$;
    CREATE VIEW takes AS SELECT nextval('s') AS v;
    DO $$BEGIN CREATE ROLE writer; EXCEPTION WHEN duplicate_object THEN NULL; END$$;
    GRANT ALL ON ALL TABLES IN SCHEMA public TO writer;
    GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO writer;";

/// The answer by the extended protocol.
fn extended(client: &mut RawClient, sql: &str) -> String {
    client.parse("", sql, &[]);
    client.bind("", "", &[]);
    client.describe_portal("");
    client.execute("", 0);
    client.sync();
    show(&client.read_until_ready())
}

fn run(client: &mut RawClient, sql: &str, by_extended: bool) -> String {
    if by_extended { extended(client, sql) } else { client.run(sql) }
}

/// A question in another transaction has been asked once, so that such are expected.
fn learn(client: &mut RawClient) {
    assert!(client.run("SELECT nextval('s')").contains("C(SELECT 1) Z(I)"));
    client.value("SELECT lastval()");
}

/// What a session does that takes values and asks for them; each line is a transaction or a part of one.
const SCRIPT: &[&str] = &[
    "SELECT lastval()",
    "SELECT currval('t_id_seq')",
    "SELECT currval('nosuch')",
    "INSERT INTO t (v) VALUES ('a')",
    "SELECT currval('t_id_seq')",
    "SELECT lastval()",
    "SELECT 1",
    "SELECT count(*) FROM t",
    "SELECT lastval()",
    "SELECT currval('u_id_seq')",
    "INSERT INTO u (v) VALUES ('a'), ('b'), ('c')",
    "SELECT currval('u_id_seq'), lastval(), currval('t_id_seq')",
    "INSERT INTO t (v) SELECT v FROM u",
    "SELECT currval(pg_get_serial_sequence('t', 'id'))",
    "SELECT newest('t')",
    "SELECT newest('u')",
    "UPDATE t SET v = 'z'",
    "SELECT lastval()",
    // A sequence is not rolled back.
    "BEGIN",
    "INSERT INTO t (v) VALUES ('b')",
    "SAVEPOINT x",
    "INSERT INTO u (v) VALUES ('d')",
    "ROLLBACK TO x",
    "SELECT lastval()",
    "ROLLBACK",
    "SELECT lastval(), currval('t_id_seq')",
    "BEGIN",
    "SELECT lastval()",
    "SELECT nextval('s')",
    "SELECT 1 / 0",
    "SELECT lastval()",
    "ROLLBACK",
    "SELECT lastval(), currval('s')",
    "SELECT setval('s', 100)",
    "SELECT currval('s')",
    "SELECT setval('s', 200, false)",
    "SELECT currval('s')",
    // By triggers, and by what another role may do.
    "INSERT INTO watched VALUES (1, 'a')",
    "SELECT lastval(), currval('audit_id_seq')",
    "UPDATE watched SET v = 'b'",
    "SELECT lastval(), currval('audit_id_seq')",
    "SET ROLE writer",
    "INSERT INTO t (v) VALUES ('c')",
    "SELECT lastval()",
    "RESET ROLE",
    "SELECT currval('t_id_seq')",
    "SELECT v > 0 FROM takes",
    "SELECT lastval()",
    "WITH x AS (INSERT INTO t (v) VALUES ('w') RETURNING id) SELECT count(*) FROM x",
    "SELECT lastval()",
    "DO $$BEGIN PERFORM nextval('s'); END$$",
    "SELECT currval('s')",
    "TRUNCATE t RESTART IDENTITY",
    "SELECT currval('t_id_seq')",
    "INSERT INTO nosuch VALUES (1)",
    "SELECT lastval()",
    "DISCARD SEQUENCES",
    "SELECT lastval()",
    "SELECT currval('t_id_seq')",
    "INSERT INTO t (v) VALUES ('d')",
    "SELECT lastval()",
    "SELECT currval('u_id_seq')",
    "DISCARD ALL",
    "SELECT lastval()",
    "SELECT nextval('s'); SELECT currval('s')",
    "SELECT lastval()",
];

/// A session beside another that takes values all the time is told what it would be told alone.
#[test]
fn values_are_told_as_by_a_server_of_its_own() {
    let cluster = Cluster::start();
    let mut number = 0;
    for (settings, size) in [("sequence_values = \"keep\"", 2), ("", 2), ("", 3)] {
        for by_extended in [false, true] {
            let [direct, pooled] = [0, 1].map(|part| format!("d{}", number + part));
            number += 2;
            for name in [&direct, &pooled] {
                cluster.sql(&format!("CREATE DATABASE {name}"));
                cluster.sql_in(name, TABLES);
            }
            let weir = over(cluster.port(), &pooled, size, settings).start();
            let (mut beside, mut own) = (weir.client("app"), cluster.client(&direct));
            if settings.is_empty() {
                beside.run("INSERT INTO other (v) VALUES ('x')");
                beside.value("SELECT lastval()");
            }
            let mut client = weir.client("app");
            for sql in SCRIPT {
                let one = !by_extended || !sql.contains("; ");
                let by_extended = by_extended && one;
                let (heard, meant) = (run(&mut client, sql, by_extended), run(&mut own, sql, by_extended));
                assert_eq!(heard, meant, "{sql} over {size} with {settings:?}, extended: {by_extended}");
                assert!(beside.run("INSERT INTO other (v) VALUES ('x')").contains("C(INSERT 0 1) Z(I)"));
                if sql.contains("lastval()") {
                    assert!(!beside.run("SELECT lastval() = max(id) FROM other").contains("D(f)"));
                }
            }
        }
    }
}

/// COPY takes values as well, and function calls of the fast path.
#[test]
fn copied_rows_take_values() {
    let cluster = Cluster::start();
    cluster.sql(TABLES);
    let weir = over(cluster.port(), "postgres", 2, "").start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    learn(&mut a);
    a.query("COPY t (v) FROM STDIN");
    a.read_until(b'G');
    a.copy_data(b"a\nb\n");
    a.copy_done();
    a.read_until_ready();
    b.run("INSERT INTO t (v) VALUES ('c')");
    assert_eq!(a.value("SELECT currval('t_id_seq')"), "2");
    assert_eq!(b.value("SELECT currval('t_id_seq')"), "3");
    let nextval = cluster.value("SELECT 'nextval(regclass)'::regprocedure::oid").parse().unwrap();
    let sequence = cluster.value("SELECT 't_id_seq'::regclass::oid");
    a.function_call(nextval, &[Some(&sequence)]);
    a.read_until_ready();
    b.run("INSERT INTO t (v) VALUES ('d')");
    assert_eq!(a.value("SELECT currval('t_id_seq'), lastval()"), "4");
    assert_eq!(b.value("SELECT currval('t_id_seq')"), "5");
}

/// Nobody is told of another's, whoever has the server; and the first question is answered where nobody has used it since.
#[test]
fn the_first_question_is_answered_where_nobody_was_since() {
    let cluster = Cluster::start();
    cluster.sql(TABLES);
    let weir = over(cluster.port(), "postgres", 1, "").start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    a.run("INSERT INTO t (v) VALUES ('a')");
    assert_eq!(a.value("SELECT lastval()"), "1");
    drop(a);
    assert_eq!(b.run("SELECT lastval()"), "T(lastval:20) E(55000) Z(I)", "it has none");
    // Others come in between.
    let weir = over(cluster.port(), "postgres", 1, "").start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    a.run("INSERT INTO t (v) VALUES ('a')");
    b.run("INSERT INTO t (v) VALUES ('b')");
    assert_eq!(a.run("SELECT lastval()"), "E(55000) Z(I)");
    assert!(weir.http_get("/metrics").1.contains("sequence_values"), "it is counted");
    a.run("INSERT INTO t (v) VALUES ('a')");
    assert_eq!(a.value("SELECT lastval()"), "4");
}

/// What a view takes is taken.
#[test]
fn what_reads_take_is_not_told_to_others() {
    let cluster = Cluster::start();
    cluster.sql(TABLES);
    let weir = over(cluster.port(), "postgres", 1, "").start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    for _ in 0..3 {
        assert!(a.run("SELECT v FROM takes").contains("C(SELECT 1) Z(I)"));
        std::thread::sleep(Duration::from_millis(300));
        b.run("BEGIN");
        b.run("UPDATE t SET v = 'b'");
        let heard = b.run("SELECT lastval()");
        assert!(heard.contains("E(55000)") && !heard.contains("D("), "{heard}");
        b.run("ROLLBACK");
    }
}

/// Who may be asked about keeps its server while nobody needs it, and is seen to.
#[test]
fn a_server_is_held_until_others_need_it() {
    let cluster = Cluster::start();
    cluster.sql(TABLES);
    let weir = over(cluster.port(), "postgres", 1, "").start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    learn(&mut a);
    a.run("INSERT INTO t (v) VALUES ('a')");
    let pins = weir.admin_table("SHOW PINS");
    assert_eq!(pins.len(), 1, "{pins:?}");
    assert_eq!(pins[0]["reason"], "sequence_state");
    let began = clock::now();
    assert_eq!(b.value("SELECT 1"), "1");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(weir.admin("SHOW PINS").is_empty());
    // It is answered even so: nobody has taken values there since.
    assert_eq!(a.value("SELECT currval('t_id_seq')"), "1");
    a.run("INSERT INTO t (v) VALUES ('a')");
    b.run("INSERT INTO other (v) VALUES ('b')");
    assert_eq!(a.run("SELECT lastval()"), "E(55000) Z(I)", "b has had the server forget them");
    // So the operator gets it.
    a.run("INSERT INTO t (v) VALUES ('a')");
    a.value("SELECT lastval()");
    let began = clock::now();
    weir.admin("PAUSE app");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    weir.admin("RESUME app");
    assert_eq!(a.value("SELECT 1"), "1");
}

/// Who waits for a server that is held for nothing has it as soon as `sequence_hold` allows.
#[test]
fn who_waits_is_not_kept_waiting() {
    let cluster = Cluster::start();
    cluster.sql(TABLES);
    let weir = over(cluster.port(), "postgres", 1, "sequence_values = \"keep\"\nsequence_hold = \"20ms\"").start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    let mut waits: Vec<Duration> = (0..5)
        .map(|_| {
            a.run("INSERT INTO t (v) VALUES ('a')");
            std::thread::sleep(Duration::from_millis(300));
            let began = clock::now();
            b.value("SELECT 1");
            began.elapsed()
        })
        .collect();
    waits.sort_unstable();
    assert!(waits[1] < Duration::from_millis(200), "{waits:?}");
}

/// A server that has been held for long is as much the client's for `sequence_hold` as one that is new to it.
#[test]
fn a_question_right_behind_its_statement_is_answered_however_old_the_hold() {
    let cluster = Cluster::start();
    cluster.sql(TABLES);
    let weir = over(cluster.port(), "postgres", 1, "sequence_hold = \"50ms\"").start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    learn(&mut a);
    std::thread::sleep(Duration::from_millis(1500));
    for _ in 0..3 {
        a.run("INSERT INTO t (v) VALUES ('a')");
        b.query("SELECT 1");
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(a.value("SELECT lastval() = max(id) FROM t"), "t");
        b.read_until_ready();
    }
}

/// A question waits for a server that is busy for a moment.
#[test]
fn a_question_waits_for_the_server_where_its_values_are() {
    let cluster = Cluster::start();
    cluster.sql(TABLES);
    let weir = over(cluster.port(), "postgres", 2, "sequence_values = \"release\"\nsequence_hold = \"2s\"").start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    a.run("INSERT INTO t (v) VALUES ('a')");
    b.query("SELECT pg_sleep(0.3)");
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(a.value("SELECT lastval()"), "1");
    b.read_until_ready();
}

/// What is only held counts for nothing where state keeps servers.
#[test]
fn what_is_held_takes_no_place_of_what_is_pinned() {
    let cluster = Cluster::start();
    cluster.sql(TABLES);
    let weir = over(cluster.port(), "postgres", 3, "sequence_values = \"keep\"\nmax_pinned_connections = 1").start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    a.run("INSERT INTO t (v) VALUES ('a')");
    assert_eq!(b.run("CREATE TEMP TABLE x (y int)"), "C(CREATE TABLE) Z(I)");
    assert!(a.run("CREATE TEMP TABLE x (y int)").contains("E(53300)"));
    a.run("INSERT INTO t (v) VALUES ('a')");
    assert_eq!(a.value("SELECT lastval()"), "2");
}

/// Notifications come while the server is held.
#[test]
fn who_listens_is_told_while_its_server_is_held() {
    let cluster = Cluster::start();
    cluster.sql(TABLES);
    let weir = over(cluster.port(), "postgres", 2, "sequence_values = \"keep\"").start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    a.run("LISTEN ch");
    a.run("INSERT INTO t (v) VALUES ('a')");
    assert_eq!(weir.admin("SHOW PINS").len(), 1);
    b.run("NOTIFY ch");
    a.set_read_timeout(SOON);
    a.read_until(b'A');
    assert_eq!(a.value("SELECT lastval()"), "1");
}

/// A question within a statement that may take values as well.
#[test]
fn what_writes_may_ask_as_well() {
    let cluster = Cluster::start();
    cluster.sql(TABLES);
    cluster.sql("CREATE TABLE child (parent bigint)");
    let parents = "SELECT string_agg(parent::text, ' ') FROM child";
    let weir = over(cluster.port(), "postgres", 2, "").start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    for by_extended in [false, true] {
        cluster.sql("TRUNCATE child");
        for sql in [
            "INSERT INTO child VALUES (currval('t_id_seq'))",
            "INSERT INTO child SELECT lastval()",
            "UPDATE child SET parent = lastval()",
            "SELECT parent FROM child WHERE parent = currval('t_id_seq') FOR UPDATE",
            "CREATE TABLE IF NOT EXISTS made AS SELECT currval('t_id_seq')",
        ] {
            run(&mut a, "INSERT INTO t (v) VALUES ('a')", by_extended);
            b.run("INSERT INTO t (v) VALUES ('b')");
            let heard = run(&mut a, sql, by_extended);
            // The first of all is where nobody knows that it will be asked.
            assert!(!heard.contains("E(") || sql.starts_with("INSERT INTO child VALUES"), "{sql}: {heard}");
        }
    }
    let right = cluster.value("SELECT bool_and(v = 'a') FROM child JOIN t ON id = parent");
    assert_eq!(right, "t", "{}", cluster.value(parents));
}

/// Code that is made when all that was there had been read, and known to ask for nothing.
#[test]
fn code_that_is_made_later_tells_nothing_of_others() {
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE t (id serial, v text)");
    let weir = over(cluster.port(), "postgres", 2, "").start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    let read = |client: &mut RawClient| {
        client.run("INSERT INTO t (v) VALUES ('b')");
        std::thread::sleep(Duration::from_millis(500));
        client.run("INSERT INTO t (v) VALUES ('b')");
    };
    read(&mut b);
    a.run("CREATE FUNCTION f() RETURNS bigint LANGUAGE sql AS 'SELECT lastval()'");
    let heard = a.run("SELECT f()");
    assert!(heard.contains("E(55000)") && !heard.contains("D("), "{heard}");
    // In a transaction that has begun before.
    cluster.sql("DROP FUNCTION f()");
    let weir = over(cluster.port(), "postgres", 3, "").start();
    let [mut a, mut b, mut c] = [0; 3].map(|_| weir.client("app"));
    read(&mut b);
    a.run("BEGIN");
    a.run("UPDATE t SET v = 'a' WHERE id < 0");
    c.run("CREATE FUNCTION f() RETURNS bigint LANGUAGE sql AS 'SELECT lastval()'");
    let heard = a.run("SELECT f()");
    assert!(heard.contains("E(55000)") && !heard.contains("D("), "{heard}");
}

/// A server that was lent when nobody had asked yet, and tells others' values, is not held for questions that it cannot answer.
#[test]
fn what_tells_others_values_is_not_held() {
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE t (id serial, v text)");
    let weir = over(cluster.port(), "postgres", 3, "").start();
    let [mut a, mut b, mut c] = [0; 3].map(|_| weir.client("app"));
    b.run("INSERT INTO t (v) VALUES ('b')");
    std::thread::sleep(Duration::from_millis(500));
    b.run("INSERT INTO t (v) VALUES ('b')");
    a.run("BEGIN");
    a.run("UPDATE t SET v = 'a' WHERE id < 0");
    c.run("SELECT lastval()");
    a.run("INSERT INTO t (v) VALUES ('a')");
    a.run("COMMIT");
    a.run("SELECT lastval()");
    a.run("INSERT INTO t (v) VALUES ('a')");
    assert_eq!(a.value("SELECT lastval() = max(id) FROM t"), "t");
}

/// What has nothing to do with sequences ends no hold and takes nothing of what is awaited.
#[test]
fn what_is_no_statement_about_data_changes_nothing() {
    let cluster = Cluster::start();
    cluster.sql(TABLES);
    let weir = over(cluster.port(), "postgres", 1, "").start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    learn(&mut a);
    for between in ["DISCARD PLANS", "DISCARD TEMP", "SET work_mem = '5MB'", "SHOW work_mem"] {
        a.run("INSERT INTO t (v) VALUES ('a')");
        b.query("SELECT 1");
        a.run(between);
        assert_eq!(a.value("SELECT lastval() = max(id) FROM t"), "t", "{between}");
        b.read_until_ready();
    }
}

/// Where a client's values are, reads on replicas change nothing.
#[test]
fn reads_on_replicas_take_nothing() {
    let primary = Cluster::start();
    let replica = primary.replica();
    primary.sql(TABLES);
    primary.sql("CREATE FUNCTION harmless() RETURNS int STABLE LANGUAGE plpgsql AS $$BEGIN RETURN 1; END$$");
    primary.wait_replayed(&replica);
    let url = |cluster: &Cluster| format!("\"postgres://127.0.0.1:{}/postgres\"", cluster.port());
    let servers = format!("primary = {}\nreplicas = [{}]", url(&primary), url(&replica));
    let weir = Weir::builder()
        .general("probe_interval = \"100ms\"")
        .database(&format!("[databases.app]\n{servers}\nsequence_values = \"release\""))
        .start();
    let mut a = weir.client("app");
    eventually("the replica is read from", SOON, || {
        let at = a.value("SELECT harmless() + inet_server_port() - 1");
        (at == replica.port().to_string()).then_some(())
    });
    a.run("INSERT INTO t (v) VALUES ('a')");
    a.run("/* pgweir: replica */ SELECT harmless()");
    a.run("/* pgweir: replica */ UPDATE t SET v = 'b' WHERE id < 0");
    a.run("SELECT harmless()");
    assert_eq!(a.value("SELECT currval('t_id_seq')"), "1");
}

/// When the server ends while it is held, its client notices nothing but that its values are lost.
#[test]
fn a_server_that_is_held_may_end() {
    let cluster = Cluster::start();
    cluster.sql(TABLES);
    let weir = over(cluster.port(), "postgres", 1, "").start();
    let mut a = weir.client("app");
    learn(&mut a);
    for _ in 0..3 {
        a.run("INSERT INTO t (v) VALUES ('a')");
        cluster.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'");
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(a.value("SELECT 1"), "1");
        let heard = a.run("SELECT lastval()");
        assert!(heard.contains("E(55000)") && !heard.contains("D("), "{heard}");
    }
}

/// RESET leads back to what startup gave, on a server that is held too.
#[test]
fn a_reset_on_a_server_that_is_held_leads_to_what_startup_gave() {
    let cluster = Cluster::start();
    cluster.sql(TABLES);
    let weir = over(cluster.port(), "postgres", 2, "sequence_values = \"keep\"").start();
    for by_extended in [false, true] {
        for (name, startup, other) in [("datestyle", "German, DMY", "ISO, YMD"), ("work_mem", "5MB", "6MB")] {
            let mut a = weir.login("postgres", "app").param(name, startup).connect().unwrap();
            for reset in [format!("RESET {name}"), "RESET ALL".to_owned(), "DISCARD ALL".to_owned()] {
                a.run("INSERT INTO t (v) VALUES ('a')");
                run(&mut a, &format!("SET {name} = '{}'", other.replace(", ", "', '")), by_extended);
                a.run("INSERT INTO t (v) VALUES ('a')");
                assert_eq!(a.value(&format!("SHOW {name}")), other);
                run(&mut a, &reset, by_extended);
                assert_eq!(a.value(&format!("SHOW {name}")), startup, "{reset}, extended: {by_extended}");
                a.run("INSERT INTO t (v) VALUES ('a')");
                assert_eq!(a.value(&format!("SHOW {name}")), startup, "{reset}, extended: {by_extended}");
                assert_eq!(a.value("SELECT lastval() = max(id) FROM t"), "t");
            }
        }
    }
}

/// A statement that nobody asks about keeps no server for long.
#[test]
fn what_nobody_asks_about_is_learned() {
    let cluster = Cluster::start();
    cluster.sql(TABLES);
    let weir = over(cluster.port(), "postgres", 2, "").start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    for _ in 0..3 {
        b.run("INSERT INTO other (v) VALUES ('x')");
        assert!(weir.admin("SHOW PINS").is_empty(), "nobody has asked yet");
    }
    learn(&mut a);
    a.run("DISCARD ALL");
    for _ in 0..20 {
        b.run("INSERT INTO other (v) VALUES ('x')");
    }
    drop(b);
    let mut b = weir.client("app");
    eventually("nothing is kept", SOON, || weir.admin("SHOW PINS").is_empty().then_some(()));
    b.run("INSERT INTO other (v) VALUES ('x')");
    assert!(weir.admin("SHOW PINS").is_empty(), "no question has followed so many");
    // Until one does.
    b.value("SELECT lastval()");
    b.run("DISCARD ALL");
    b.run("INSERT INTO other (v) VALUES ('x')");
    assert_eq!(weir.admin("SHOW PINS").len(), 1);
}

/// The operator's word.
#[test]
fn servers_are_held_only_where_that_is_allowed() {
    let cluster = Cluster::start();
    cluster.sql(TABLES);
    for settings in ["sequence_values = \"release\"", "on_session_state = \"error\""] {
        let weir = over(cluster.port(), "postgres", 1, settings).start();
        let (mut a, mut b) = (weir.client("app"), weir.client("app"));
        learn(&mut a);
        for _ in 0..3 {
            a.run("INSERT INTO t (v) VALUES ('a')");
            assert!(weir.admin("SHOW PINS").is_empty());
            b.run("INSERT INTO t (v) VALUES ('b')");
            assert_eq!(a.run("SELECT lastval()"), "E(55000) Z(I)", "{settings}");
        }
    }
}

/// Code that asks, and does not say so.
const UNREAD: &str = "CREATE FUNCTION asks() RETURNS bigint LANGUAGE plpgsql AS
    $$DECLARE v bigint; BEGIN EXECUTE 'SELECT last' || 'val()' INTO v; RETURN v; END$$";

/// Two clients over one database that has nothing but a table, and `code`, all of which is known.
fn two_over(cluster: &Cluster, size: u32, code: &str) -> (Weir, [RawClient; 2]) {
    cluster.sql("DROP TABLE IF EXISTS t; DROP FUNCTION IF EXISTS asks(); CREATE TABLE t (id serial, v text)");
    if !code.is_empty() {
        cluster.sql(code);
    }
    let weir = over(cluster.port(), "postgres", size, "").start();
    let clients = [weir.client("app"), weir.client("app")];
    (weir, clients)
}

/// A statement that takes a value, on a database whose code is known after the first.
fn take(client: &mut RawClient) {
    client.run("INSERT INTO t (v) VALUES ('a')");
    std::thread::sleep(Duration::from_millis(400));
    client.run("INSERT INTO t (v) VALUES ('a')");
}

fn is_undefined(heard: &str) -> bool {
    heard.contains("E(55000)") && !heard.contains("D(") && !heard.contains("N(")
}

/// Whoever calls code that nobody can read is told what a server of its own would tell: its own values, or that there are none.
#[test]
fn code_that_nobody_can_read_is_told_nothing_of_others() {
    const BLOCK: &str =
        "DO $$DECLARE v bigint; BEGIN EXECUTE 'SELECT last' || 'val()' INTO v; RAISE NOTICE '%', v; END$$";
    const XML: &str = "SELECT query_to_xml('SELECT last' || 'val()', true, true, '')";
    let cluster = Cluster::start();
    for by_extended in [false, true] {
        for (code, asks) in [(UNREAD, "SELECT asks()"), ("", BLOCK), ("", XML)] {
            for before in
                [&[][..], &["BEGIN"], &["BEGIN", "SELECT 1 FROM t"], &["BEGIN", "UPDATE t SET v = 'b' WHERE id < 0"]]
            {
                let (_weir, [mut a, mut b]) = two_over(&cluster, 1, code);
                take(&mut a);
                before.iter().for_each(|sql| assert!(!run(&mut b, sql, by_extended).contains("E("), "{sql}"));
                let heard = run(&mut b, asks, by_extended);
                assert!(is_undefined(&heard), "{asks} behind {before:?}: {heard}");
                b.run("ROLLBACK");
                // Once more, when it is known that such texts are run.
                a.run("INSERT INTO t (v) VALUES ('a')");
                before.iter().for_each(|sql| assert!(!run(&mut b, sql, by_extended).contains("E("), "{sql}"));
                let heard = run(&mut b, asks, by_extended);
                assert!(is_undefined(&heard), "{asks} behind {before:?}: {heard}");
                b.run("ROLLBACK");
            }
        }
    }
}

/// The same where the session keeps its server, and its own values it is told of.
#[test]
fn who_keeps_its_server_is_told_its_own_by_code_that_nobody_can_read() {
    let cluster = Cluster::start();
    let (_weir, [mut a, mut b]) = two_over(&cluster, 1, UNREAD);
    take(&mut a);
    b.run("SELECT pg_advisory_lock(1)");
    assert!(is_undefined(&b.run("SELECT asks()")));
    for _ in 0..2 {
        b.run("INSERT INTO t (v) VALUES ('b')");
        b.run("UPDATE t SET v = 'c' WHERE id < 0");
        assert_eq!(b.value("SELECT asks() = max(id) FROM t"), "t");
    }
    b.run("SELECT pg_advisory_unlock(1)");
    // A transaction is told its own, too, and keeps what it has.
    take(&mut a);
    b.run("BEGIN");
    b.run("INSERT INTO t (v) VALUES ('b')");
    assert_eq!(b.value("SELECT asks() = max(id) FROM t"), "t");
    b.run("SELECT pg_advisory_lock(1)");
    b.run("COMMIT");
    assert_eq!(b.value("SELECT asks() = max(id) FROM t"), "t");
    b.run("DISCARD ALL");
    // And whoever took the last one here.
    a.run("INSERT INTO t (v) VALUES ('a')");
    assert_eq!(a.value("SELECT asks() = max(id) FROM t"), "t");
}

/// Code that is made when a session keeps a server already where others have taken values.
#[test]
fn code_that_is_made_later_tells_who_keeps_its_server_nothing_of_others() {
    let cluster = Cluster::start();
    for (takes, code) in [
        ("UPDATE t SET v = 'b' WHERE id < 0", UNREAD),
        ("SELECT 1", UNREAD),
        ("SELECT 1", "CREATE FUNCTION asks() RETURNS bigint LANGUAGE sql AS 'SELECT lastval()'"),
    ] {
        let (weir, [mut a, mut b]) = two_over(&cluster, 2, "");
        take(&mut a);
        b.run("BEGIN");
        b.run(takes);
        b.run("SELECT pg_advisory_lock(1)");
        b.run("COMMIT");
        let mut c = weir.client("app");
        c.run(code);
        let heard = b.run("SELECT asks()");
        assert!(is_undefined(&heard), "{takes}, {code}: {heard}");
        b.run("INSERT INTO t (v) VALUES ('b')");
        assert_eq!(b.value("SELECT asks() = max(id) FROM t"), "t", "{takes}, {code}");
    }
}

/// A session's server is held on through a reload, or its values are found where they are.
#[test]
fn a_reload_takes_no_values_away() {
    let cluster = Cluster::start();
    cluster.sql(TABLES);
    let mut weir = over(cluster.port(), "postgres", 1, "sequence_values = \"keep\"").start();
    let mut a = weir.client("app");
    for size in [2, 3] {
        a.run("INSERT INTO t (v) VALUES ('a')");
        eventually("it is held", SOON, || (weir.admin("SHOW PINS").len() == 1).then_some(()));
        let server = a.value(SERVER_PID);
        weir.reconfigure(|_| over(cluster.port(), "postgres", size, "sequence_values = \"keep\""));
        weir.admin("RELOAD");
        assert_eq!(a.value("SELECT lastval() = max(id) FROM t"), "t");
        assert_eq!(a.value(SERVER_PID), server);
    }
    // Another database of that name is another server.
    cluster.sql("CREATE DATABASE elsewhere");
    a.run("INSERT INTO t (v) VALUES ('a')");
    weir.reconfigure(|_| over(cluster.port(), "elsewhere", 1, "sequence_values = \"keep\""));
    weir.admin("RELOAD");
    let heard = a.run("SELECT lastval()");
    assert!(is_undefined(&heard), "{heard}");
    assert_eq!(a.value("SELECT current_database()"), "elsewhere");
}

/// The operator's commands have servers that are held closed at once, and the log says why.
#[test]
fn a_server_that_is_held_is_the_operators() {
    let cluster = Cluster::start();
    cluster.sql(TABLES);
    let weir = over(cluster.port(), "postgres", 2, "sequence_values = \"keep\"").start();
    let mut a = weir.client("app");
    for command in ["RECONNECT app", "PAUSE app", "KILL app"] {
        a.run("INSERT INTO t (v) VALUES ('a')");
        let server = a.value(SERVER_PID);
        eventually("it is held", SOON, || (weir.admin("SHOW PINS").len() == 1).then_some(()));
        let began = clock::now();
        weir.admin(command);
        let closed = || {
            let log = weir.log_text();
            let line = log.lines().find(|line| line.contains("server connection closed") && line.contains(&server));
            line.map(str::to_owned)
        };
        let line = eventually("it is closed", SOON, closed);
        assert!(line.contains("it was to be closed when free") || command == "KILL app", "{command}: {line}");
        assert!(!line.contains("served long enough"), "{command}: {line}");
        assert!(began.elapsed() < Duration::from_secs(5), "{command}: {:?}", began.elapsed());
        if command != "RECONNECT app" {
            weir.admin("RESUME app");
        }
        if command == "KILL app" {
            a = weir.client("app");
        }
        let heard = a.run("SELECT lastval()");
        assert!(is_undefined(&heard), "{command}: {heard}");
        assert_ne!(a.value(SERVER_PID), server);
    }
}

/// What stands in one pipeline belongs together, and what comes behind it is told of it; under their own names, too.
#[test]
fn pipelines_and_named_statements_are_told_their_own() {
    let cluster = Cluster::start();
    cluster.sql(TABLES);
    let weir = over(cluster.port(), "postgres", 1, "").start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    learn(&mut a);
    let inserts = "INSERT INTO t (v) VALUES ('a')";
    let bind = |client: &mut RawClient, name: &str| {
        client.bind("", name, &[]);
        client.execute("", 0);
    };
    for (name, sql) in
        [("ins", inserts), ("ask", "SELECT lastval()"), ("cur", "SELECT currval('t_id_seq')"), ("one", "SELECT 1")]
    {
        a.parse(name, sql, &[]);
    }
    a.sync();
    a.read_until_ready();
    let mut newest = 0;
    for round in 0..3 {
        // Others wait, and take values of their own in between.
        b.run("INSERT INTO other (v) VALUES ('b')");
        for name in ["ins", "ask", "ins", "one", "cur"] {
            bind(&mut a, name);
        }
        b.query("SELECT 1");
        a.sync();
        newest += 2;
        let told = format!(
            "2 C(INSERT 0 1) 2 D({}) C(SELECT 1) 2 C(INSERT 0 1) 2 D(1) C(SELECT 1) 2 D({newest}) C(SELECT 1) Z(I)",
            newest - 1
        );
        assert_eq!(show(&a.read_until_ready()), told, "{round}");
        // In the next two pipelines, sent at once.
        for name in ["ask", "cur"] {
            bind(&mut a, name);
            a.sync();
        }
        for _ in 0..2 {
            assert_eq!(show(&a.read_until_ready()), format!("2 D({newest}) C(SELECT 1) Z(I)"), "{round}");
        }
        b.read_until_ready();
    }
    // A question before the statement, and an error between them.
    bind(&mut a, "ask");
    bind(&mut a, "ins");
    a.sync();
    newest += 1;
    assert_eq!(show(&a.read_until_ready()), format!("2 D({}) C(SELECT 1) 2 C(INSERT 0 1) Z(I)", newest - 1));
    bind(&mut a, "ins");
    a.parse("", "SELECT 1 / 0", &[]);
    bind(&mut a, "");
    bind(&mut a, "ask");
    a.sync();
    newest += 1;
    assert!(show(&a.read_until_ready()).contains("E(22012)"));
    bind(&mut a, "cur");
    a.sync();
    assert_eq!(show(&a.read_until_ready()), format!("2 D({newest}) C(SELECT 1) Z(I)"), "a sequence is not rolled back");
}

/// Who asks nothing of a server at that moment does not notice that it ends, whether it is held or rests.
#[test]
fn servers_that_are_ended_while_nobody_has_them_are_missed_by_nobody() {
    const END: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'";
    let cluster = Cluster::start();
    cluster.sql(TABLES);
    for (settings, sqls) in [
        ("", &["SELECT 1", "SELECT count(*) FROM u", "UPDATE u SET v = 'x' WHERE id < 0", "BEGIN"][..]),
        (
            "sequence_values = \"keep\"",
            &["INSERT INTO t (v) VALUES ('a')", "SELECT 1", "SELECT count(*) FROM u", "BEGIN"],
        ),
    ] {
        let weir = over(cluster.port(), "postgres", 4, settings).start();
        let mut clients = [0; 4].map(|_| weir.client("app"));
        let mut operator = cluster.client("postgres");
        for by_extended in [false, true] {
            for sql in sqls {
                for round in 0..15 {
                    for client in &mut clients {
                        client.run("SELECT 1");
                        client.run(if settings.is_empty() { "SELECT 2" } else { "INSERT INTO t (v) VALUES ('b')" });
                    }
                    operator.run(END);
                    // Some before it has happened, and some after.
                    std::thread::sleep(Duration::from_micros(100 * round));
                    for client in &mut clients {
                        let heard = run(client, sql, by_extended);
                        assert!(!heard.contains("E("), "{sql} with {settings:?}: {heard}");
                        client.run("ROLLBACK");
                    }
                }
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Insert(usize),
    Next,
    Read,
    Current(usize),
    Last,
    Block,
    Discard,
    Leave,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..2_usize).prop_map(Step::Insert),
        2 => Just(Step::Next),
        2 => Just(Step::Read),
        4 => (0..2_usize).prop_map(Step::Current),
        4 => Just(Step::Last),
        1 => Just(Step::Block),
        1 => Just(Step::Discard),
        1 => Just(Step::Leave),
    ]
}

/// What a session knows.
#[derive(Debug, Clone, Default)]
struct Known {
    of: [Option<String>; 2],
    last: Option<String>,
}

/// Sessions that come, take values, ask and leave, over fewer servers: each is told its own newest value or an error; over as many as there
/// are sessions, its own newest value.
#[test]
fn nobody_is_told_anything_but_its_own_newest_value() {
    let cluster = Cluster::start();
    cluster.sql(TABLES);
    for (size, sessions) in [(1, 2), (2, 3), (3, 3)] {
        let weir =
            over(cluster.port(), "postgres", size, "sequence_values = \"keep\"\nsequence_hold = \"5ms\"").start();
        let steps = prop::collection::vec((0..sessions, step(), any::<bool>()), 1..40);
        let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(24) });
        runner
            .run(&steps, |steps| {
                let mut clients: Vec<_> = (0..sessions).map(|_| weir.client("app")).collect();
                let mut known = vec![Known::default(); sessions];
                for (who, step, by_extended) in steps {
                    let told = check(&weir, &mut clients[who], &mut known[who], step, by_extended);
                    if let Some((told, meant)) = told {
                        let error = told.contains("E(55000)") && !told.contains("D(");
                        let right = meant.as_ref().is_some_and(|meant| told.contains(&format!("D({meant}) ")));
                        let must = size as usize >= sessions && meant.is_some();
                        prop_assert!(right || (error && !must), "{step:?} of {who}: {told}, {meant:?} is meant");
                    }
                }
                Ok(())
            })
            .unwrap();
    }
}

/// Takes a step; what was told and what was meant.
fn check(
    weir: &Weir,
    client: &mut RawClient,
    known: &mut Known,
    step: Step,
    by_extended: bool,
) -> Option<(String, Option<String>)> {
    const TABLE: [&str; 2] = ["t", "u"];
    let value =
        |heard: &str| heard.split_once("D(").and_then(|(_, rest)| rest.split_once(')')).map(|(v, _)| v.to_owned());
    match step {
        Step::Insert(table) => {
            let heard =
                run(client, &format!("INSERT INTO {} (v) VALUES ('x') RETURNING id", TABLE[table]), by_extended);
            known.last = value(&heard);
            known.of[table] = value(&heard);
        }
        Step::Next => known.last = value(&run(client, "SELECT nextval('s')", by_extended)),
        Step::Read => drop(run(client, "SELECT 1", by_extended)),
        Step::Current(table) => {
            let heard = run(client, &format!("SELECT currval('{}_id_seq')", TABLE[table]), by_extended);
            return Some((heard, known.of[table].clone()));
        }
        Step::Last => return Some((run(client, "SELECT lastval()", by_extended), known.last.clone())),
        Step::Block => {
            client.run("BEGIN");
            let heard = client.run("SELECT lastval()");
            client.run("ROLLBACK");
            return Some((heard, known.last.clone()));
        }
        Step::Discard => {
            client.run("DISCARD SEQUENCES");
            *known = Known::default();
        }
        Step::Leave => {
            *client = weir.client("app");
            // Until its server is back the others have fewer.
            std::thread::sleep(Duration::from_millis(20));
            *known = Known::default();
        }
    }
    None
}

//! What functions, triggers, defaults, rules and views do to their session where the SQL does not show it: two clients that share one
//! server neither see each other's nor lose their own.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::time::Duration;

use common::cluster::Cluster;
use common::raw::RawClient;
use common::weir::Weir;
use common::wire::show;
use common::{SERVER_PID, eventually};

const SOON: Duration = Duration::from_secs(15);

fn over(cluster: &Cluster, size: u32) -> Weir {
    over_with(cluster, size, "")
}

fn over_with(cluster: &Cluster, size: u32, settings: &str) -> Weir {
    let port = cluster.port();
    let server = format!("primary = \"postgres://127.0.0.1:{port}/postgres\"");
    Weir::builder().database(&format!("[databases.app]\n{server}\npool_size = {size}\n{settings}")).start()
}

/// How often servers of the pool were reset.
fn resets(weir: &Weir) -> u64 {
    let (_, text) = weir.http_get("/metrics");
    let lines = text.lines().filter(|line| line.starts_with("pgweir_pool_resets_total{"));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// Uses somebody's function until that needs no reset any more: what the database runs is known by then.
fn learn(weir: &Weir, client: &mut RawClient) {
    eventually("the database's code is known", SOON, || {
        let before = resets(weir);
        assert!(!client.run("SELECT neutral()").contains("E("));
        assert_eq!(client.value("SELECT 1"), "1");
        (resets(weir) == before).then_some(())
    });
}

/// Runs `sql` once as text and once as statement.
fn both_ways(client: &mut RawClient, sql: &str) {
    let answer = client.run(sql);
    assert!(!answer.contains("E("), "{sql}: {answer}");
    client.parse("", sql, &[]);
    client.bind("", "", &[]);
    client.execute("", 0);
    client.sync();
    let answer = show(&client.read_until_ready());
    assert!(!answer.contains("E("), "{sql}: {answer}");
}

/// Everything that a server's session may have of its own, as far as it can be seen. Of channels a function asks: of a client's text
/// pgweir would answer that itself.
const TRACES: &str = "SELECT coalesce(current_setting('app.tenant', true), '') || ' ' || current_setting('work_mem') || ' ' || \
    (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()) || \
    (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()) || \
    (SELECT count(*) FROM channels()) || (SELECT count(*) FROM pg_cursors WHERE is_holdable) || \
    (SELECT count(*) FROM pg_prepared_statements WHERE from_sql)";

const CODE: &str = "
CREATE TABLE t (id int);
CREATE FUNCTION channels() RETURNS SETOF text LANGUAGE sql AS 'SELECT pg_listening_channels()';
CREATE TABLE log (id serial, what text);
CREATE FUNCTION neutral() RETURNS int LANGUAGE plpgsql AS
    $$BEGIN PERFORM set_config('app.tenant', 'mine', true); UPDATE log SET what = 'x' WHERE id = -1; RETURN 1; END$$;
CREATE FUNCTION sets() RETURNS int LANGUAGE plpgsql STABLE AS
    $$BEGIN PERFORM set_config('app.tenant', 'hers', false); RETURN 1; END$$;
CREATE FUNCTION sets_deep() RETURNS int LANGUAGE sql AS 'SELECT sets()';
CREATE FUNCTION set_word() RETURNS int LANGUAGE plpgsql AS $$BEGIN SET work_mem = '7MB'; RETURN 1; END$$;
CREATE FUNCTION clause() RETURNS int LANGUAGE plpgsql SET work_mem = '7MB' AS $$BEGIN RETURN 1; END$$;
CREATE FUNCTION locks() RETURNS int LANGUAGE plpgsql AS $$BEGIN PERFORM pg_advisory_lock(7); RETURN 1; END$$;
CREATE FUNCTION makes_temp() RETURNS int LANGUAGE plpgsql AS $$BEGIN CREATE TEMP TABLE IF NOT EXISTS x (a int); RETURN 1; END$$;
CREATE FUNCTION temp_in_time() RETURNS int LANGUAGE plpgsql AS
    $$BEGIN CREATE TEMP TABLE y (a int) ON COMMIT DROP; RETURN 1; END$$;
CREATE FUNCTION listens() RETURNS int LANGUAGE plpgsql AS $$BEGIN LISTEN x; RETURN 1; END$$;
CREATE FUNCTION dynamic(what text) RETURNS int LANGUAGE plpgsql AS $$BEGIN EXECUTE what; RETURN 1; END$$;
CREATE FUNCTION sets_for_trigger() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN PERFORM set_config('app.tenant', 'hers', false); RETURN NULL; END$$;
CREATE TABLE triggered (id int);
CREATE TRIGGER g AFTER INSERT ON triggered EXECUTE FUNCTION sets_for_trigger();
CREATE TABLE defaulted (id int, v int DEFAULT sets());
CREATE TABLE checked (id int CHECK (id + sets() > 0));
CREATE TABLE ruled (id int);
CREATE RULE r AS ON INSERT TO ruled DO ALSO SELECT sets();
CREATE VIEW viewed AS SELECT sets() AS v;
CREATE VIEW over_triggered AS SELECT * FROM triggered;
CREATE TABLE parent (id int PRIMARY KEY);
INSERT INTO parent SELECT generate_series(1, 9);
CREATE TABLE child (id int REFERENCES parent ON DELETE CASCADE);
CREATE TRIGGER g AFTER DELETE ON child EXECUTE FUNCTION sets_for_trigger();
CREATE PROCEDURE proc() LANGUAGE plpgsql AS $$BEGIN PERFORM sets_deep(); END$$;
CREATE PROCEDURE neutral_proc() LANGUAGE plpgsql AS $$BEGIN PERFORM neutral(); COMMIT; END$$;
CREATE FUNCTION plus(point, point) RETURNS int LANGUAGE sql AS 'SELECT sets()';
CREATE OPERATOR @@@ (LEFTARG = point, RIGHTARG = point, FUNCTION = plus);
CREATE FUNCTION lower(int) RETURNS int LANGUAGE sql AS 'SELECT sets()';
";

/// Where the schema of temporary objects comes first by what a role, the database or connect_query says, tables are made there without any
/// word of the client's.
#[test]
fn a_table_that_a_default_makes_temporary_keeps_the_server() {
    const TEMP: &str = "SELECT relname FROM pg_class WHERE relpersistence = 't' AND relkind = 'r'";
    for (sql, connect_query) in [
        ("ALTER ROLE postgres SET search_path = pg_temp, public", "SELECT 1"),
        ("ALTER DATABASE postgres SET search_path = pg_temp", "SELECT 1"),
        ("SELECT 1", "SET search_path = pg_temp"),
    ] {
        let cluster = Cluster::start();
        cluster.sql(CODE);
        cluster.sql(sql);
        let weir = Weir::builder()
            .database(&format!(
                "[databases.app]\nprimary = \"postgres://127.0.0.1:{}/postgres\"\npool_size = 1\nconnect_query = \"{connect_query}\"",
                cluster.port()
            ))
            .start();
        let (mut a, mut b) = (weir.client("app"), weir.client("app"));
        eventually("the database's code is known", SOON, || {
            let before = resets(&weir);
            assert!(!b.run("SELECT public.clause()").contains("E("));
            assert_eq!(b.value("SELECT 1"), "1");
            (resets(&weir) == before).then_some(())
        });
        for makes in ["CREATE TABLE mine AS SELECT 'secret' AS v", "DO $$BEGIN CREATE TABLE mine (v text); END$$"] {
            let answer = a.run(makes);
            assert!(!answer.contains("E("), "{makes}: {answer}");
            b.query(TEMP);
            b.expect_silence(Duration::from_millis(150));
            assert_eq!(a.value(TEMP), "mine", "{makes}: it is lost");
            assert_eq!(a.run("DROP TABLE mine"), "C(DROP TABLE) Z(I)");
            assert_eq!(show(&b.read_until_ready()), "T(relname:19) C(SELECT 0) Z(I)", "{makes}");
        }
        // What makes none keeps none.
        assert_eq!(a.run("CREATE TABLE public.others (v text)"), "C(CREATE TABLE) Z(I)");
        assert_eq!(b.value("SELECT 1"), "1");
    }
}

/// What plainly makes state keeps the server, which so is neither seen by the other nor lost.
#[test]
fn what_functions_make_stays_with_its_client() {
    let cluster = Cluster::start();
    cluster.sql(CODE);
    let weir = over(&cluster, 2);
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    learn(&weir, &mut b);
    let clean = b.value(TRACES);
    for make in [
        "SELECT sets()",
        "SELECT sets_deep()",
        "SELECT set_word()",
        "SELECT locks()",
        "SELECT makes_temp()",
        "SELECT listens()",
        "INSERT INTO triggered VALUES (1)",
        "INSERT INTO over_triggered VALUES (1)",
        "INSERT INTO defaulted (id) VALUES (1)",
        "INSERT INTO checked VALUES (1)",
        "INSERT INTO ruled VALUES (1)",
        "SELECT * FROM viewed",
        "DELETE FROM parent WHERE id = (SELECT min(id) FROM parent)",
        "CALL proc()",
        "SELECT point '(1,1)' @@@ point '(1,1)'",
        "SELECT lower(1)",
        "DO $$BEGIN PERFORM pg_advisory_lock(7); END$$",
    ] {
        both_ways(&mut a, make);
        let own = a.value(TRACES);
        assert_ne!(own, clean, "{make}: the owner has lost it");
        for _ in 0..2 {
            assert_eq!(b.value(TRACES), clean, "{make}: leaks");
            assert_eq!(a.value(TRACES), own, "{make}: the owner has lost it");
        }
        // In a transaction.
        assert_eq!(a.run("DISCARD ALL"), "C(DISCARD ALL) Z(I)");
        assert_eq!(a.run("BEGIN"), "C(BEGIN) Z(T)");
        both_ways(&mut a, make);
        assert_eq!(a.run("COMMIT"), "C(COMMIT) Z(I)");
        assert_eq!(a.value(TRACES), own, "{make}: the owner has lost it");
        assert_eq!(b.value(TRACES), clean, "{make}: leaks");
        // A client that vanishes leaves nothing.
        drop(std::mem::replace(&mut a, weir.client("app")));
        let mut third = weir.client("app");
        for client in [&mut a, &mut b, &mut third] {
            assert_eq!(client.value(TRACES), clean, "{make}: leaks");
        }
    }
}

/// DDL computes expressions, a view may stand for PostgreSQL's settings, and a foreign table may be a session's own: all without any code of
/// the database's that leaves something.
#[test]
fn what_ddl_and_views_of_settings_leave_stays_with_its_client() {
    let cluster = Cluster::start();
    cluster.sql(
        "CREATE FUNCTION neutral() RETURNS int LANGUAGE sql AS 'SELECT 1';
         CREATE TABLE t (a int, id text);
         INSERT INTO t VALUES (1, 'x');
         CREATE DOMAIN d AS text;
         CREATE TABLE of_d (a d);
         INSERT INTO of_d VALUES ('x');
         CREATE TABLE p (a text) PARTITION BY LIST (a);
         CREATE VIEW vs AS SELECT name, setting FROM pg_settings;
         CREATE VIEW over_vs AS SELECT * FROM vs;
         CREATE FUNCTION by_view() RETURNS int LANGUAGE plpgsql AS
             $$BEGIN UPDATE vs SET setting = '9MB' WHERE name = 'work_mem'; RETURN 1; END$$;
         CREATE FUNCTION by_tree() RETURNS int LANGUAGE sql BEGIN ATOMIC
             UPDATE pg_settings SET setting = '9MB' WHERE name = 'work_mem'; SELECT 1; END;
         CREATE FUNCTION looks() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT count(setting)::int FROM pg_settings; END;
         CREATE EXTENSION file_fdw;
         CREATE SERVER files FOREIGN DATA WRAPPER file_fdw",
    );
    let weir = over(&cluster, 2);
    const STATE: &str = "SELECT coalesce(current_setting('app.tenant', true), '') || ' ' || current_setting('work_mem') || ' ' || \
        (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()) || \
        (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())";
    let mut b = weir.client("app");
    learn(&weir, &mut b);
    let clean = b.value(STATE);
    const SETS: &str = "set_config('app.tenant', 'evil', false)";
    let check = |make: &str, b: &mut RawClient| {
        let mut a = weir.client("app");
        let answer = a.run(make);
        assert!(!answer.contains("E("), "{make}: {answer}");
        if make.starts_with("DROP") {
            return;
        }
        let own = a.value(STATE);
        assert_ne!(own, clean, "{make}: the owner has lost it");
        for _ in 0..2 {
            assert_eq!(b.value(STATE), clean, "{make}: leaks");
            assert_eq!(a.value(STATE), own, "{make}: the owner has lost it");
        }
    };
    for make in [
        format!("ALTER TABLE t ADD COLUMN c text DEFAULT {SETS}"),
        format!("ALTER TABLE t ALTER COLUMN id TYPE text USING {SETS}"),
        format!("ALTER TABLE t ADD CHECK ({SETS} IS NOT NULL)"),
        format!("CREATE TABLE p1 PARTITION OF p FOR VALUES IN ({SETS})"),
        "DROP TABLE p1".to_owned(),
        format!("CREATE SCHEMA other CREATE TABLE p1 PARTITION OF public.p FOR VALUES IN ({SETS})"),
        "ALTER TABLE t ADD COLUMN l bool DEFAULT pg_try_advisory_lock(77)".to_owned(),
        "UPDATE vs SET setting = '9MB' WHERE name = 'work_mem'".to_owned(),
        "UPDATE over_vs SET setting = '9MB' WHERE name = 'work_mem'".to_owned(),
        "SELECT by_view()".to_owned(),
        "SELECT by_tree()".to_owned(),
        "CREATE FOREIGN TABLE pg_temp.t (a text) SERVER files OPTIONS (filename 'PG_VERSION')".to_owned(),
    ] {
        check(&make, &mut b);
    }
    // Whoever only reads settings keeps nothing.
    let mut a = weir.client("app");
    for reads in ["SELECT looks()", "SELECT count(*) FROM over_vs"] {
        assert!(!a.run(reads).contains("E("), "{reads}");
    }
    let pins = || weir.admin_table("SHOW PINS").len();
    eventually("nobody keeps a server", SOON, || (pins() == 0).then_some(()));
    // From then on this is what any statement may run that uses a type.
    check(&format!("ALTER DOMAIN d ADD CHECK ({SETS} IS NOT NULL)"), &mut b);
}

/// What is not understood is cleaned up after, on the spot.
#[test]
fn what_is_not_understood_reaches_nobody() {
    let cluster = Cluster::start();
    cluster.sql(CODE);
    let weir = over(&cluster, 1);
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    // From the very first statement on, when nothing is known.
    assert!(!a.run("SELECT dynamic('SET app.tenant = ''hers''')").contains("E("));
    assert_eq!(b.value("SELECT coalesce(current_setting('app.tenant', true), '')"), "");
    learn(&weir, &mut b);
    let clean = b.value(TRACES);
    let before = resets(&weir);
    let all = [
        "SELECT dynamic('SET app.tenant = ''hers''')",
        "SELECT dynamic('CREATE TEMP TABLE IF NOT EXISTS ' || 'z' || ' (a int)')",
        "SELECT dynamic('LISTEN ' || 'x')",
        "DO $$BEGIN EXECUTE 'SELECT pg_advisory_' || 'lock(1)'; END$$",
    ];
    for make in all {
        both_ways(&mut a, make);
        assert_eq!(b.value(TRACES), clean, "{make}: leaks");
        assert_eq!(a.run("BEGIN"), "C(BEGIN) Z(T)");
        both_ways(&mut a, make);
        assert_eq!(a.run("COMMIT"), "C(COMMIT) Z(I)");
        assert_eq!(b.value(TRACES), clean, "{make}: leaks");
    }
    // A lock by the fast path: pg_advisory_lock(int, int).
    a.function_call(2885, &[Some("\0\0\0\x01")]);
    a.read_until_ready();
    assert_eq!(b.value(TRACES), clean, "the fast path leaks");
    assert!(resets(&weir) >= before + 3 * all.len() as u64, "each was cleaned up after");
}

/// Who uses what leaves nothing pays nothing, and a change is noticed before anybody could use it.
#[test]
fn neutral_code_costs_nothing_until_it_changes() {
    let cluster = Cluster::start();
    cluster.sql(CODE);
    let weir = over(&cluster, 1);
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    learn(&weir, &mut a);
    let clean = b.value(TRACES);
    let before = resets(&weir);
    for sql in [
        "SELECT neutral()",
        "SELECT clause()",
        "SELECT temp_in_time()",
        "INSERT INTO log (what) VALUES ('a')",
        "UPDATE log SET what = upper('b')",
        "SELECT * FROM log",
        "SELECT nextval('log_id_seq')",
        "SELECT pg_advisory_xact_lock(1)",
        "CREATE TEMP TABLE gone (a int) ON COMMIT DROP",
    ] {
        let answer = a.run(sql);
        assert!(!answer.contains("E("), "{sql}: {answer}");
        assert_eq!(b.value(TRACES), clean, "{sql}");
    }
    assert!(a.run("CALL neutral_proc()").starts_with("C(CALL)"));
    assert_eq!(b.value(TRACES), clean);
    assert_eq!(resets(&weir), before);
    // Replaced through pgweir: in a statement, in a transaction, by two statements of one text.
    let stateful = "CREATE OR REPLACE FUNCTION neutral() RETURNS int LANGUAGE plpgsql AS \
        $$BEGIN PERFORM set_config('app.tenant', 'hers', false); RETURN 1; END$$";
    let back = "CREATE OR REPLACE FUNCTION neutral() RETURNS int LANGUAGE sql AS 'SELECT 1'";
    for change in [stateful.to_owned(), format!("BEGIN; {stateful}; COMMIT"), format!("{stateful}; SELECT neutral()")] {
        assert!(!a.run(&change).contains("E("), "{change}");
        assert!(!a.run("SELECT neutral()").contains("E("));
        // Kept or cleaned; where it is kept the other waits for the end of its owner.
        drop(std::mem::replace(&mut a, weir.client("app")));
        assert_eq!(b.value(TRACES), clean, "{change}: leaks");
        assert!(!a.run(back).contains("E("));
        learn(&weir, &mut a);
    }
    // A trigger on a table that had none.
    assert!(!b.run("CREATE TRIGGER g AFTER INSERT ON t EXECUTE FUNCTION sets_for_trigger()").contains("E("));
    assert!(!a.run("INSERT INTO t VALUES (1)").contains("E("));
    drop(a);
    assert_eq!(b.value(TRACES), clean, "the trigger leaks");
}

/// What is seen by nobody else may run code all the same.
#[test]
fn code_in_what_is_ones_own_is_cleaned_up_after() {
    let cluster = Cluster::start();
    cluster.sql(CODE);
    let weir = over(&cluster, 1);
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    learn(&weir, &mut a);
    let clean = b.value(TRACES);
    let copies = |client: &mut RawClient| {
        client.query("COPY t FROM STDIN WHERE sets() > 0");
        client.read_until(b'G');
        client.copy_data(b"1\n");
        client.copy_done();
        assert!(!show(&client.read_until_ready()).contains("E("));
    };
    a.run("BEGIN");
    a.run("CREATE TEMP TABLE x (a int, b int DEFAULT sets()) ON COMMIT DROP");
    a.run("INSERT INTO x (a) VALUES (1)");
    assert_eq!(a.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(b.value(TRACES), clean, "a temporary table's default leaks");
    assert!(!a.run("EXPLAIN SELECT * FROM t WHERE id = sets()").contains("E("));
    assert_eq!(b.value(TRACES), clean, "what is computed for a plan leaks");
    copies(&mut a);
    drop(a);
    assert_eq!(b.value(TRACES), clean, "the condition of a COPY leaks");
}

/// Who uses a type runs what checks its values, be it written or declared.
#[test]
fn what_types_do_reaches_nobody() {
    let cluster = Cluster::start();
    cluster.sql(CODE);
    cluster.sql(
        "CREATE FUNCTION valid(text) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN PERFORM sets(); RETURN true; END$$;
         CREATE DOMAIN word AS text CHECK (valid(VALUE))",
    );
    let oid: u32 = cluster.value("SELECT 'word'::regtype::oid").parse().unwrap();
    let weir = over(&cluster, 1);
    let mut b = weir.client("app");
    const TENANT: &str = "SELECT coalesce(current_setting('app.tenant', true), '')";
    for declared in [false, true] {
        let mut a = weir.client("app");
        if declared {
            a.parse("", "SELECT $1", &[oid]);
            a.bind("", "", &[Some("5")]);
            a.execute("", 0);
            a.sync();
            assert!(!show(&a.read_until_ready()).contains("E("));
        } else {
            assert!(!a.run("SELECT '5'::word").contains("E("));
        }
        drop(a);
        assert_eq!(b.value(TENANT), "", "declared: {declared}");
        drop(std::mem::replace(&mut b, weir.client("app")));
    }
}

/// A change of code counts until it is certain that it is over, however it is made.
#[test]
fn changes_of_code_are_noticed_whoever_finishes_them() {
    let cluster = Cluster::with_config(&[("max_prepared_transactions", "5")]);
    cluster.sql(CODE);
    cluster.sql(
        "CREATE TABLE u (id int); CREATE TABLE v (id int); CREATE TABLE w (id int);
         CREATE FUNCTION triggers() RETURNS int LANGUAGE plpgsql AS $$BEGIN
           EXECUTE 'CREATE TRIGGER g AFTER INSERT ON v EXECUTE FUNCTION sets_for_trigger()'; RETURN 1; END$$",
    );
    let weir = over(&cluster, 1);
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    learn(&weir, &mut a);
    let clean = b.value(TRACES);
    let leaks = |table: &str| {
        let (mut a, mut b) = (weir.client("app"), weir.client("app"));
        assert!(!a.run(&format!("INSERT INTO {table} VALUES (1)")).contains("E("), "{table}");
        drop(a);
        assert_eq!(b.value(TRACES), clean, "{table}: the trigger leaks");
    };
    let trigger = |table: &str| format!("CREATE TRIGGER g AFTER INSERT ON {table} EXECUTE FUNCTION sets_for_trigger()");
    // By another transaction.
    a.run("BEGIN");
    a.run(&trigger("t"));
    assert_eq!(a.run("PREPARE TRANSACTION 'x'"), "C(PREPARE TRANSACTION) Z(I)");
    learn(&weir, &mut b);
    assert_eq!(a.run("COMMIT PREPARED 'x'"), "C(COMMIT PREPARED) Z(I)");
    leaks("t");
    // By a function.
    learn(&weir, &mut b);
    assert!(!a.run("SELECT triggers()").contains("E("));
    leaks("v");
    // In a text that is not read.
    learn(&weir, &mut b);
    assert_eq!(a.run(&format!("/*{}*/ {}", "x".repeat(1 << 20), trigger("u"))), "C(CREATE TRIGGER) Z(I)");
    // Whatever else it did keeps the server for it.
    drop(a);
    leaks("u");
    // By a server process whose client has gone while it waited for a lock.
    learn(&weir, &mut b);
    let mut holder = cluster.client("postgres");
    assert_eq!(holder.run("BEGIN; LOCK TABLE w"), "C(BEGIN) C(LOCK TABLE) Z(T)");
    let mut gone = weir.client("app");
    gone.query(&trigger("w"));
    eventually("it waits for the lock", SOON, || {
        (cluster.value("SELECT count(*) FROM pg_locks WHERE NOT granted") == "1").then_some(())
    });
    drop(gone);
    for _ in 0..20 {
        // Others ask for the code meanwhile.
        assert!(!b.run("SELECT neutral()").contains("E("));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(holder.run("COMMIT"), "C(COMMIT) Z(I)");
    eventually("the trigger is made", SOON, || {
        (cluster.value("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'w'::regclass") == "1").then_some(())
    });
    leaks("w");
}

/// After a reset it would still be there: such a server serves nobody else.
#[test]
fn what_no_reset_ends_ends_with_the_connection() {
    let cluster = Cluster::start();
    cluster.sql(CODE);
    cluster
        .sql("CREATE FUNCTION seeds() RETURNS int LANGUAGE plpgsql AS $$BEGIN PERFORM setseed(0.5); RETURN 1; END$$");
    let weir = over(&cluster, 1);
    let mut b = weir.client("app");
    learn(&weir, &mut b);
    let block = "DO $$BEGIN PERFORM setseed(0.5); END$$";
    for make in ["SELECT setseed(0.5)", "SELECT seeds()", "LOAD 'auto_explain'", block] {
        let mut a = weir.client("app");
        assert!(!a.run(make).contains("E("), "{make}");
        let server = a.value(SERVER_PID);
        drop(a);
        assert_ne!(b.value(SERVER_PID), server, "{make}");
    }
    // Also when its client says that it is done.
    let mut a = weir.client("app");
    assert!(!a.run("SELECT setseed(0.5)").contains("E("));
    let server = a.value(SERVER_PID);
    assert_eq!(a.run("DISCARD ALL"), "C(DISCARD ALL) Z(I)");
    assert_ne!(b.value(SERVER_PID), server);
}

/// No client is told a sequence value that another's statement took, whoever asks and however.
#[test]
fn sequence_values_of_others_are_not_told() {
    let cluster = Cluster::start();
    cluster.sql(CODE);
    let weir = over(&cluster, 1);
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    learn(&weir, &mut b);
    a.run("INSERT INTO log (what) VALUES ('a')");
    // The server has been a's: what a transaction of b's is told after a write may not be its own.
    b.run("BEGIN");
    b.run("UPDATE t SET id = 1");
    assert_eq!(b.run("SELECT lastval()"), "E(55000) Z(E)");
    b.run("ROLLBACK");
    a.run("INSERT INTO log (what) VALUES ('a')");
    // From now on the server says so itself.
    b.run("BEGIN");
    b.run("UPDATE t SET id = 1");
    assert_eq!(b.run("SELECT lastval()"), "T(lastval:20) E(55000) Z(E)");
    b.run("ROLLBACK");
    assert_eq!(b.run("BEGIN"), "C(BEGIN) Z(T)");
    b.run("INSERT INTO log (what) VALUES ('b')");
    assert_eq!(b.value("SELECT lastval()"), "3");
    assert_eq!(b.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(b.run("DISCARD ALL"), "C(DISCARD ALL) Z(I)");
    // Where a function asks.
    for create in [
        "CREATE FUNCTION asks() RETURNS bigint LANGUAGE plpgsql AS $$BEGIN RETURN lastval(); END$$",
        "CREATE FUNCTION takes() RETURNS bigint LANGUAGE plpgsql AS \
            $$BEGIN INSERT INTO log (what) VALUES ('x'); RETURN lastval(); END$$",
    ] {
        assert!(b.run(create).starts_with("C(CREATE FUNCTION)"));
    }
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    a.run("INSERT INTO log (what) VALUES ('a')");
    assert_eq!(b.run("SELECT asks()"), "T(asks:20) E(55000) Z(I)");
    assert_eq!(b.value("SELECT takes()"), "5");
}

/// What is sent behind a DISCARD ALL runs behind it.
#[test]
fn discard_all_sets_free_of_what_came_before_it() {
    let cluster = Cluster::start();
    cluster.sql(CODE);
    let weir = over(&cluster, 1);
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    learn(&weir, &mut a);
    for sql in ["DISCARD ALL", "SELECT locks()"] {
        a.parse("", sql, &[]);
        a.bind("", "", &[]);
        a.execute("", 0);
    }
    a.sync();
    assert!(!show(&a.read_until_ready()).contains("E("));
    b.query("SELECT 1");
    b.expect_silence(Duration::from_millis(150));
    assert_eq!(a.run("DISCARD ALL"), "C(DISCARD ALL) Z(I)");
    b.read_until_ready();
    assert_eq!(b.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), "0");
}

/// Code of another language, by PL/pgSQL's own handler: the catalog says no more of those that are not installed here.
const OTHER: &str = "
CREATE LANGUAGE other HANDLER plpgsql_call_handler INLINE plpgsql_inline_handler VALIDATOR plpgsql_validator;
CREATE FUNCTION other() RETURNS int LANGUAGE other AS 'BEGIN RETURN 1; END';
CREATE FUNCTION other_stable() RETURNS int LANGUAGE other STABLE AS 'BEGIN RETURN 1; END';
CREATE FUNCTION other_immutable() RETURNS int LANGUAGE other IMMUTABLE AS 'BEGIN RETURN 1; END';
CREATE FUNCTION calls_other() RETURNS int LANGUAGE plpgsql AS $$BEGIN RETURN other(); END$$;
CREATE FUNCTION other_trigger() RETURNS trigger LANGUAGE other AS 'BEGIN RETURN NEW; END';
CREATE TABLE watched (id int);
CREATE TRIGGER w BEFORE INSERT ON watched FOR EACH ROW EXECUTE FUNCTION other_trigger();
CREATE VIEW shows_other AS SELECT other() AS v;
";

/// What may run it, by itself or by code that nobody can read.
const RUNS_OTHER: &[&str] = &[
    "SELECT other()",
    "SELECT other_stable()",
    "SELECT calls_other()",
    "INSERT INTO watched VALUES (1)",
    "SELECT * FROM shows_other",
    "DO LANGUAGE other 'BEGIN END'",
    "SELECT dynamic('SELECT other()')",
    "DO $$BEGIN EXECUTE 'SELECT ' || 'other()'; END$$",
    "SELECT query_to_xml('SELECT other()', true, true, '')",
    "EXPLAIN ANALYZE SELECT other()",
];

/// Variables of the process are met by nobody: the server is closed behind its client, and not before.
#[test]
fn what_other_languages_keep_ends_with_the_server() {
    let cluster = Cluster::start();
    cluster.sql(CODE);
    cluster.sql(OTHER);
    let weir = over(&cluster, 1);
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    learn(&weir, &mut b);
    let mut server = b.value(SERVER_PID);
    let mut has_changed = |b: &mut RawClient| {
        let before = std::mem::replace(&mut server, b.value(SERVER_PID));
        server != before
    };
    for runs in RUNS_OTHER {
        both_ways(&mut a, runs);
        assert!(has_changed(&mut b), "{runs}");
        // Undone it is as well, or left in the middle.
        a.run("BEGIN");
        assert!(!a.run(runs).contains("E("), "{runs}");
        a.run("ROLLBACK");
        assert!(has_changed(&mut b), "{runs}");
        a.run("BEGIN");
        a.run(runs);
        drop(std::mem::replace(&mut a, weir.client("app")));
        assert!(has_changed(&mut b), "{runs}");
    }
    // What changes code, as DO may, and was left in the middle, is over when its server is known to be gone.
    eventually("the code is known", SOON, || {
        a.run("SELECT neutral()");
        (!has_changed(&mut b)).then_some(())
    });
    for leaves_none in ["SELECT neutral()", "SELECT 1 FROM watched", "SELECT other_immutable()"] {
        both_ways(&mut a, leaves_none);
        assert!(!has_changed(&mut b), "{leaves_none}");
    }
    // Made by the transaction that runs it.
    a.run("BEGIN");
    a.run("CREATE FUNCTION made() RETURNS int LANGUAGE other AS 'BEGIN RETURN 1; END'");
    assert_eq!(a.value("SELECT made()"), "1");
    a.run("ROLLBACK");
    assert!(has_changed(&mut b), "what was made");
    // Within one transaction, or by a session that keeps its server, it is one server.
    a.run("BEGIN");
    let own = a.value(SERVER_PID);
    assert_eq!(a.value("SELECT other()"), "1");
    assert_eq!(a.value(SERVER_PID), own);
    a.run("COMMIT");
    a.run("SELECT pg_advisory_lock(7)");
    let own = a.value(SERVER_PID);
    assert_eq!(a.value("SELECT other()"), "1");
    assert_eq!(a.value(SERVER_PID), own);
    a.run("SELECT pg_advisory_unlock(7)");
    assert!(has_changed(&mut b), "what was pinned");
    assert!(weir.log_text().contains("its client left what no reset ends"));
}

/// Where the code is known to keep nothing, a reset will do.
#[test]
fn servers_that_ran_other_languages_are_reset_where_that_is_enough() {
    let cluster = Cluster::start();
    cluster.sql(CODE);
    cluster.sql(OTHER);
    let weir = over_with(&cluster, 1, "language_state = \"reset\"");
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    learn(&weir, &mut b);
    let server = b.value(SERVER_PID);
    for runs in RUNS_OTHER {
        let before = resets(&weir);
        both_ways(&mut a, runs);
        assert_eq!(b.value(SERVER_PID), server, "{runs}");
        assert!(resets(&weir) > before, "{runs}");
    }
}

/// A language without functions changes nothing for other code, until there is one.
#[test]
fn a_language_that_nobody_uses_closes_no_server() {
    let cluster = Cluster::start();
    cluster.sql(CODE);
    cluster.sql("CREATE LANGUAGE other HANDLER plpgsql_call_handler INLINE plpgsql_inline_handler");
    let weir = over(&cluster, 1);
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    learn(&weir, &mut b);
    let server = b.value(SERVER_PID);
    both_ways(&mut a, "SELECT dynamic('SELECT 1')");
    assert_eq!(b.value(SERVER_PID), server);
    a.run("DO LANGUAGE other 'BEGIN END'");
    assert_ne!(b.value(SERVER_PID), server);
    // From the moment on that it is made, before it is known what it is.
    assert!(a.run("CREATE FUNCTION other() RETURNS int LANGUAGE other AS 'BEGIN RETURN 1; END'").contains("C("));
    let server = b.value(SERVER_PID);
    assert_eq!(a.value("SELECT other()"), "1");
    assert_ne!(b.value(SERVER_PID), server);
}

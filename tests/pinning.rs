//! Sessions that keep a server for their state: whether they may, how many, for how long, and what is told of them.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::time::Duration;

use common::cluster::Cluster;
use common::raw::RawClient;
use common::weir::{Builder, Weir};
use common::wire::{Message, ServerError, show};

const SOON: Duration = Duration::from_secs(15);

fn over(cluster: &Cluster, settings: &str) -> Builder {
    let port = cluster.port();
    Weir::builder().database(&format!(
        "[databases.app]\nprimary = \"postgres://127.0.0.1:{port}/postgres\"\npool_size = 5\n{settings}"
    ))
}

/// Waits for something to be true.
fn until(what: &str, mut probe: impl FnMut() -> bool) {
    common::eventually(what, SOON, || probe().then_some(()));
}

/// The error of a statement.
fn refusal(client: &mut RawClient, sql: &str) -> ServerError {
    client.rows(sql).expect_err(sql)
}

fn field(error: &ServerError, kind: char) -> &str {
    error.fields.get(&kind).map_or("", String::as_str)
}

/// Statements that leave state which only their server has, with the name of its kind.
const STATE: [(&str, &str); 8] = [
    ("CREATE TEMP TABLE mine (id int)", "temp_object"),
    ("SELECT 1 AS a INTO TEMP mine", "temp_object"),
    ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "hold_cursor"),
    ("SELECT pg_advisory_lock(7)", "advisory_lock"),
    ("PREPARE p AS SELECT 1", "sql_prepare"),
    ("SELECT setseed(0.5)", "seed"),
    ("LOAD 'plpgsql'", "load"),
    ("SELECT makes_one()", "temp_object"),
];

const MAKES_ONE: &str = "CREATE FUNCTION makes_one() RETURNS void LANGUAGE plpgsql AS \
     $$BEGIN CREATE TEMP TABLE IF NOT EXISTS mine (id int); END$$";

/// What is in functions is known soon after the database is first used.
fn wait_for_census(client: &mut RawClient) {
    until("what functions do is known", || client.run("BEGIN; SELECT makes_one(); ROLLBACK").contains("E("));
}

#[test]
fn state_is_an_error_where_it_shall_be() {
    let cluster = Cluster::start();
    cluster.sql(MAKES_ONE);
    let weir = over(&cluster, "on_session_state = \"error\"").start();
    let mut a = weir.client("app");
    wait_for_census(&mut a);
    for (sql, kind) in STATE {
        let error = refusal(&mut a, sql);
        assert_eq!(error.code, "0A000", "{sql}");
        assert!(
            field(&error, 'D').contains(&format!("({kind})")) && field(&error, 'H').starts_with("Better: "),
            "{sql}: {error:?}"
        );
        // In a block it fails the block, as any error.
        assert_eq!(a.run("BEGIN"), "C(BEGIN) Z(T)");
        assert_eq!(refusal(&mut a, sql).code, "0A000", "{sql}");
        assert_eq!(refusal(&mut a, "SELECT 1").code, "25P02");
        assert_eq!(a.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    }
    // The extended protocol.
    a.parse("", "SELECT pg_advisory_lock(7)", &[]);
    a.bind("", "", &[]);
    a.execute("", 0);
    a.sync();
    let prepared = show(&a.read_until_ready());
    assert!(prepared.contains("0A000") && prepared.ends_with("Z(I)"), "{prepared}");
    // What goes with its transaction, or follows the client, is none of it.
    for sql in [
        "BEGIN; CREATE TEMP TABLE gone (id int) ON COMMIT DROP; COMMIT",
        "SELECT pg_advisory_xact_lock(7)",
        "SET work_mem = '1MB'",
        "LISTEN news",
        "BEGIN; DECLARE c CURSOR FOR SELECT 1; FETCH c; COMMIT",
    ] {
        assert!(!a.run(sql).contains("E("), "{sql}");
    }
    assert!(weir.admin("SHOW PINS").is_empty());
    let metrics = weir.http_get("/metrics").1;
    assert!(metrics.contains("refused_statements_total{reason=\"session_state\"}"), "{metrics}");
}

/// Nothing is asked of who has the server to himself.
#[test]
fn in_session_mode_state_is_no_error() {
    let cluster = Cluster::start();
    cluster.sql(MAKES_ONE);
    let weir =
        over(&cluster, "on_session_state = \"error\"\nmax_pinned_connections = 1\npinned_idle_timeout = \"1s\"\npool_mode = \"session\"").start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    for client in [&mut a, &mut b] {
        for (sql, _) in STATE.iter().filter(|(sql, _)| !sql.contains("INTO TEMP") && !sql.contains("advisory")) {
            let answer = client.run(sql);
            assert!(!answer.contains("E("), "{sql}: {answer}");
        }
    }
    a.expect_silence(Duration::from_secs(2));
    assert_eq!(a.value("SELECT 1"), "1");
    assert!(!weir.http_get("/metrics").1.contains("pinned_sessions{"));
}

#[test]
fn so_many_sessions_keep_a_server_and_no_more() {
    let cluster = Cluster::start();
    let weir = over(&cluster, "max_pinned_connections = 2").start();
    let mut clients: Vec<_> = (0..4).map(|_| weir.client("app")).collect();
    for client in &mut clients[..2] {
        assert_eq!(client.run("CREATE TEMP TABLE mine (id int)"), "C(CREATE TABLE) Z(I)");
        // Who keeps one already may leave more on it.
        assert!(!client.run("SELECT pg_advisory_lock_shared(7)").contains("E("));
    }
    let error = refusal(&mut clients[2], "CREATE TEMP TABLE mine (id int)");
    assert_eq!(error.code, "53300");
    assert!(field(&error, 'D').starts_with("max_pinned_connections is 2;"), "{error:?}");
    // Its session goes on, and needs no server.
    assert_eq!(clients[2].value("SELECT 1"), "1");
    assert_eq!(weir.admin("SHOW PINS").len(), 4);
    // A place is free when the state is gone, and when the client is.
    assert!(!clients[0].run("SELECT pg_advisory_unlock_shared(7)").contains("E("));
    assert_eq!(clients[0].run("DROP TABLE mine"), "C(DROP TABLE) Z(I)");
    until("the place of the first is free", || {
        clients[2].run("CREATE TEMP TABLE mine (id int)") == "C(CREATE TABLE) Z(I)"
    });
    assert_eq!(refusal(&mut clients[3], "DECLARE c CURSOR WITH HOLD FOR SELECT 1").code, "53300");
    drop(clients.remove(1));
    until("the place of the second is free", || {
        !clients[2].run("DECLARE c CURSOR WITH HOLD FOR SELECT 1").contains("E(")
    });
    // A statement that fails takes no place for good.
    drop(clients);
    until("all have left", || weir.admin("SHOW PINS").is_empty());
    let mut rest: Vec<_> = (0..3).map(|_| weir.client("app")).collect();
    for client in &mut rest {
        assert!(client.run("CREATE TEMP TABLE mine (id nothing)").contains("42704"));
    }
    until("places are free", || !rest[0].run("CREATE TEMP TABLE IF NOT EXISTS mine (id int)").contains("E("));
    assert_eq!(rest[1].run("CREATE TEMP TABLE mine (id int)"), "C(CREATE TABLE) Z(I)");
}

/// Many at once: never more than there may be, and in the end none are counted.
#[test]
fn places_are_counted_exactly() {
    let cluster = Cluster::start();
    let weir = over(&cluster, "max_pinned_connections = 3").general("workers = 2").start();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for turn in 0..20 {
                    let mut client = weir.client("app");
                    let made = client.run("CREATE TEMP TABLE mine (id int)");
                    assert!(made == "C(CREATE TABLE) Z(I)" || made.contains("53300"), "{made}");
                    assert!(weir.admin("SHOW PINS").len() <= 3);
                    if turn % 3 == 0 && !made.contains("E(") {
                        assert_eq!(client.run("DROP TABLE mine"), "C(DROP TABLE) Z(I)");
                    }
                }
            });
        }
    });
    until("nothing is kept", || weir.admin("SHOW PINS").is_empty());
    let mut three: Vec<_> = (0..3).map(|_| weir.client("app")).collect();
    for client in &mut three {
        until("all places are free", || !client.run("CREATE TEMP TABLE IF NOT EXISTS mine (id int)").contains("E("));
    }
    until("the gauge tells them", || weir.http_get("/metrics").1.contains("pinned_sessions{reason=\"temp_object\"} 3"));
    drop(three);
    until("the gauge falls", || weir.http_get("/metrics").1.contains("pinned_sessions{reason=\"temp_object\"} 0"));
}

#[test]
fn who_keeps_a_server_and_does_nothing_is_closed() {
    let cluster = Cluster::start();
    let weir = over(&cluster, "pinned_idle_timeout = \"3s\"").start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    assert_eq!(b.value("SELECT 1"), "1");
    assert_eq!(a.run("CREATE TEMP TABLE mine (id int)"), "C(CREATE TABLE) Z(I)");
    // As long as it does something it stays, and so does who is in a transaction.
    assert_eq!(a.run("BEGIN"), "C(BEGIN) Z(T)");
    assert!(a.run("SELECT pg_sleep(3.5)").ends_with("Z(T)"));
    a.expect_silence(Duration::from_millis(3500));
    assert_eq!(a.run("COMMIT"), "C(COMMIT) Z(I)");
    let error = a.read_to_end().iter().find_map(Message::error).unwrap();
    assert_eq!(error.code, "57P05");
    assert!(
        error.message.contains("pinned idle timeout") && field(&error, 'D').contains("pinned_idle_timeout is 3 s"),
        "{error:?}"
    );
    // Who keeps nothing is not meant.
    assert_eq!(b.value("SELECT 1"), "1");
    assert!(weir.http_get("/metrics").1.contains("timeouts_total{limit=\"pinned_idle_timeout\"} 1"));
}

/// The log tells once for a kind and a database, with the statement and what avoids it.
#[test]
fn the_first_of_a_kind_is_logged() {
    let cluster = Cluster::start();
    let weir = over(&cluster, "").start();
    for _ in 0..2 {
        let mut client = weir.client("app");
        assert_eq!(client.run("CREATE TEMP TABLE mine (id int)"), "C(CREATE TABLE) Z(I)");
        assert!(!client.run("SELECT pg_advisory_lock(7)").contains("E("));
    }
    weir.wait_log("pg_advisory_xact_lock()");
    weir.wait_log("ON COMMIT DROP");
    let mut last = weir.client("app");
    assert!(!last.run("SELECT setseed(0.5), 's3cret'").contains("E("));
    weir.wait_log("setseed() only where");
    let log = weir.log_text();
    assert!(!log.contains("s3cret"), "{log}");
    let told =
        |kind: &str| log.lines().filter(|l| l.contains("the first here for this reason") && l.contains(kind)).count();
    assert_eq!((told("temp_object"), told("advisory_lock")), (1, 1), "{log}");
    assert!(log.contains("CREATE TEMP TABLE mine") || log.contains("CREATE TABLE"), "{log}");
}

const CODE: &str = "
    CREATE SEQUENCE s;
    CREATE FUNCTION sets_and_raises() RETURNS void LANGUAGE plpgsql AS
        $$BEGIN PERFORM set_config('app.tenant', 'undone', false); RAISE EXCEPTION 'no'; END$$;
    CREATE FUNCTION sets() RETURNS void LANGUAGE plpgsql AS $$BEGIN PERFORM set_config('app.tenant', 'set', false); END$$;
    CREATE FUNCTION makes_and_drops() RETURNS void LANGUAGE plpgsql AS $$BEGIN CREATE TEMP TABLE gone (i int); DROP TABLE gone; END$$;
    CREATE FUNCTION locks_and_unlocks() RETURNS void LANGUAGE plpgsql AS
        $$BEGIN PERFORM pg_advisory_lock(3); PERFORM pg_advisory_unlock(3); END$$;
    CREATE FUNCTION unlocks() RETURNS void LANGUAGE plpgsql AS $$BEGIN PERFORM pg_advisory_unlock(4); END$$;
    CREATE FUNCTION listens() RETURNS void LANGUAGE plpgsql AS $$BEGIN LISTEN news; END$$;
    CREATE PROCEDURE commits_and_raises() LANGUAGE plpgsql AS
        $$BEGIN PERFORM set_config('app.tenant', 'committed', false); COMMIT; RAISE EXCEPTION 'no'; END$$";

/// A pool of one connection.
fn on_one(cluster: &Cluster) -> Weir {
    let primary = format!("postgres://127.0.0.1:{}/postgres", cluster.port());
    Weir::builder().database(&format!("[databases.one]\nprimary = \"{primary}\"\npool_size = 1")).start()
}

/// What might have been made and was not, or is over within one statement, keeps no server.
#[test]
fn what_is_not_there_keeps_no_server() {
    let cluster = Cluster::start();
    cluster.sql(CODE);
    let mut holder = cluster.client("postgres");
    holder.value("SELECT pg_advisory_lock(1)");
    let weir = on_one(&cluster);
    let (mut a, mut b) = (weir.client("one"), weir.client("one"));
    for texts in [
        &["SELECT pg_try_advisory_lock(1)"][..],
        &["BEGIN", "SELECT pg_try_advisory_lock_shared(1)", "COMMIT"],
        &["SELECT locks_and_unlocks()"],
        &["DO $$BEGIN PERFORM pg_advisory_lock(3); PERFORM pg_advisory_unlock(3); END$$"],
        &["SELECT pg_advisory_lock(4)", "SELECT unlocks()"],
        &["SELECT makes_and_drops()"],
        &["DO $$BEGIN CREATE TEMP TABLE gone (i int); DROP TABLE gone; END$$"],
        &["SELECT sets_and_raises()"],
        &["BEGIN", "SELECT sets_and_raises()", "ROLLBACK"],
        &["BEGIN", "SELECT sets()", "ROLLBACK"],
        &["BEGIN; SELECT sets(); ROLLBACK"],
        &["BEGIN", "SAVEPOINT x", "SELECT sets_and_raises()", "ROLLBACK TO x", "COMMIT"],
        &["SELECT listens()", "UNLISTEN *"],
        &["BEGIN", "SELECT nextval('s')", "SELECT lastval()", "COMMIT"],
        &["SET search_path = public, pg_temp", "CREATE TABLE not_temporary (id int)", "DROP TABLE not_temporary"],
    ] {
        for text in texts {
            a.run(text);
        }
        // Also by the extended protocol.
        for text in texts {
            a.parse("", text, &[]);
            a.bind("", "", &[]);
            a.execute("", 0);
            a.sync();
            a.read_until_ready();
        }
        until(&format!("{texts:?} keep no server"), || weir.admin("SHOW PINS").is_empty());
        assert_eq!(b.value("SELECT 1"), "1", "{texts:?}");
    }
    assert_eq!(a.value("SHOW search_path"), "public, pg_temp");
    assert_eq!(b.run("SELECT lastval()"), "T(lastval:20) E(55000) Z(I)");
    // A cursor that the protocol closes.
    assert_eq!(a.run("DECLARE c CURSOR WITH HOLD FOR SELECT 1"), "C(DECLARE CURSOR) Z(I)");
    a.close_portal("c");
    a.sync();
    a.read_until_ready();
    assert_eq!(b.value("SELECT 1"), "1");
    until("nothing is kept", || weir.admin("SHOW PINS").is_empty());
}

/// What might have been undone and was not does.
#[test]
fn what_is_there_keeps_its_server() {
    const TENANT: &str = "SELECT coalesce(current_setting('app.tenant', true), '')";
    let cluster = Cluster::start();
    cluster.sql(CODE);
    let weir = on_one(&cluster);
    let mut b = weir.client("one");
    for (texts, tenant) in [
        (&["SELECT sets()"][..], "set"),
        (&["BEGIN", "SELECT sets()", "SAVEPOINT x", "SELECT 1 / 0", "ROLLBACK TO x", "COMMIT"], "set"),
        (&["BEGIN; SELECT sets(); COMMIT; SELECT 1 / 0"], "set"),
        (&["SELECT sets()", "SELECT sets_and_raises()"], "set"),
        (&["CALL commits_and_raises()"], "committed"),
        (&["BEGIN", "SELECT 1", "ROLLBACK; SELECT sets()"], "set"),
        (&["SELECT pg_try_advisory_lock(5)", "SELECT 1", "SELECT 1"], ""),
        (&["SET search_path = pg_temp", "CREATE TABLE mine (id int)"], ""),
        (&["SET search_path = nowhere, pg_temp", "CREATE TABLE mine (id int)"], ""),
    ] {
        let mut a = weir.client("one");
        texts.iter().for_each(|text| drop(a.run(text)));
        b.query(TENANT);
        b.expect_silence(Duration::from_millis(150));
        assert_eq!(a.value(TENANT), tenant, "{texts:?}");
        drop(a);
        assert_eq!(show(&b.read_until_ready()), "T(coalesce:25) D() C(SELECT 1) Z(I)", "{texts:?}");
    }
    // What was sent ahead: behind a text that fails, and behind ROLLBACK in one pipeline.
    for fails in [true, false] {
        let mut a = weir.client("one");
        if fails {
            a.query("SELECT 1 / 0");
            a.query("SELECT sets()");
            a.read_until_ready();
        } else {
            a.run("BEGIN");
            a.run("SELECT 1");
            for text in ["ROLLBACK", "SELECT sets()"] {
                a.parse("", text, &[]);
                a.bind("", "", &[]);
                a.execute("", 0);
            }
            a.sync();
        }
        a.read_until_ready();
        b.query(TENANT);
        b.expect_silence(Duration::from_millis(150));
        assert_eq!(a.value(TENANT), "set", "{fails}");
        drop(a);
        assert_eq!(show(&b.read_until_ready()), "T(coalesce:25) D() C(SELECT 1) Z(I)", "{fails}");
    }
}

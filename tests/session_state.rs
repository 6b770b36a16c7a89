//! Two clients that share one server: what one sets is neither seen by the other (a leak) nor gone for itself (a loss).

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::time::Duration;

use common::cluster::Cluster;
use common::eventually;
use common::raw::RawClient;
use common::weir::{Builder, Weir};
use common::wire::show;

const SOON: Duration = Duration::from_secs(15);

fn over(cluster: &Cluster, size: u32) -> Builder {
    Weir::builder().database(&format!(
        "[databases.app]\nprimary = \"postgres://127.0.0.1:{}/postgres\"\npool_size = {size}",
        cluster.port()
    ))
}

/// The setting as each of the two sees it, several times in turn.
fn in_turn(name: &str, a: (&mut RawClient, &str), b: (&mut RawClient, &str)) {
    for _ in 0..3 {
        assert_eq!(a.0.value(&format!("SHOW {name}")), a.1, "{name} of the first");
        assert_eq!(b.0.value(&format!("SHOW {name}")), b.1, "{name} of the second");
    }
}

/// Settings, two values each as SHOW tells them, and whether PostgreSQL reports their changes.
const SETTINGS: &[(&str, &str, &str)] = &[
    ("application_name", "one app", "it's \"another\""),
    ("DateStyle", "German, DMY", "SQL, MDY"),
    ("IntervalStyle", "iso_8601", "sql_standard"),
    ("TimeZone", "Asia/Tokyo", "America/New_York"),
    ("client_encoding", "LATIN1", "WIN1252"),
    ("standard_conforming_strings", "off", "on"),
    ("work_mem", "5MB", "6MB"),
    ("statement_timeout", "50s", "1min"),
    ("app.tenant", "tenant 'a'", "back\\slash"),
];

fn literal(value: &str) -> String {
    format!("E'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

#[test]
fn settings_neither_leak_nor_get_lost() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).start();
    let (mut a, mut b, mut bystander) = (weir.client("app"), weir.client("app"), weir.client("app"));
    let server = bystander.value(common::SERVER_PID);
    for (name, first, second) in SETTINGS {
        let default = bystander.rows(&format!("SELECT current_setting('{name}', true)")).unwrap().concat().concat();
        assert!(a.run(&format!("SET {name} = {}", literal(first))).starts_with("C(SET) "));
        let seen = bystander.rows(&format!("SELECT current_setting('{name}', true)")).unwrap().concat().concat();
        assert_eq!(seen, default, "{name} leaks");
        assert!(b.run(&format!("SET {name} TO {}", literal(second))).starts_with("C(SET) "));
        in_turn(name, (&mut a, first), (&mut b, second));
        let seen = bystander.rows(&format!("SELECT current_setting('{name}', true)")).unwrap().concat().concat();
        assert_eq!(seen, default, "{name} leaks");
    }
    // All of them are still there, and RESET brings back the default.
    for (name, first, second) in SETTINGS {
        in_turn(name, (&mut a, first), (&mut b, second));
    }
    let default = bystander.value("SHOW work_mem");
    assert!(a.run("RESET work_mem").starts_with("C(RESET)"));
    in_turn("work_mem", (&mut a, &default), (&mut b, "6MB"));
    assert!(a.run("RESET ALL").starts_with("C(RESET)"));
    let zone = bystander.value("SHOW TimeZone");
    in_turn("TimeZone", (&mut a, &zone), (&mut b, "America/New_York"));
    assert!(b.run("DISCARD ALL").contains("C(DISCARD ALL)"));
    in_turn("TimeZone", (&mut a, &zone), (&mut b, &zone));
    in_turn("work_mem", (&mut a, &default), (&mut b, &default));
    assert_eq!(bystander.value(common::SERVER_PID), server, "all of it on one server");
    assert_eq!(cluster.value("SELECT count(*) FROM pg_stat_activity WHERE client_addr IS NOT NULL AND application_name NOT LIKE 'pgweir %'"), "1");
}

#[test]
fn search_path_follows_its_client() {
    let cluster = Cluster::start();
    cluster.sql("CREATE SCHEMA s1; CREATE SCHEMA \"S 2\"; CREATE TABLE s1.t AS SELECT 1 AS v; CREATE TABLE \"S 2\".t AS SELECT 2 AS v");
    let weir = over(&cluster, 1).start();
    let (mut a, mut b, mut c) = (weir.client("app"), weir.client("app"), weir.client("app"));
    assert_eq!(a.run("SET search_path = s1, public"), "C(SET) Z(I)");
    assert_eq!(b.run("SET search_path TO \"S 2\", s1"), "C(SET) Z(I)");
    for _ in 0..3 {
        assert_eq!((a.value("SELECT v FROM t"), b.value("SELECT v FROM t")), ("1".into(), "2".into()));
        assert_eq!(c.run("SELECT v FROM t"), "E(42P01) Z(I)");
    }
    // By the extended protocol, in one exchange with its use.
    c.parse("", "SET search_path = \"S 2\"", &[]);
    c.bind("", "", &[]);
    c.execute("", 0);
    c.parse("", "SELECT v FROM t", &[]);
    c.bind("", "", &[]);
    c.execute("", 0);
    c.sync();
    assert_eq!(show(&c.read_until_ready()), "1 2 C(SET) 1 2 D(2) C(SELECT 1) Z(I)");
    assert_eq!(a.value("SELECT v FROM t"), "1");
    assert_eq!(c.value("SELECT v FROM t"), "2");
}

#[test]
fn settings_follow_transactions() {
    let cluster = Cluster::start();
    // What the server reports is followed on one server. Other settings changed within a block keep it, so there are two.
    for (name, before, after, size) in [("TimeZone", "Asia/Tokyo", "Europe/Rome", 1_u8), ("work_mem", "5MB", "6MB", 2)]
    {
        let weir = over(&cluster, size.into()).start();
        let (mut a, mut b) = (weir.client("app"), weir.client("app"));
        let default = b.value(&format!("SHOW {name}"));
        a.run(&format!("SET {name} = '{before}'"));
        b.run("SELECT 1");
        // Undone by ROLLBACK, kept by COMMIT.
        a.run("BEGIN");
        a.run(&format!("SET {name} = '{after}'"));
        assert_eq!(a.value(&format!("SHOW {name}")), after);
        a.run("ROLLBACK");
        in_turn(name, (&mut a, before), (&mut b, &default));
        a.run("BEGIN");
        a.run(&format!("SET {name} = '{after}'"));
        a.run("COMMIT");
        assert_eq!(a.value(&format!("SHOW {name}")), after);
        a.run(&format!("SET {name} = '{before}'"));
        // LOCAL ends with the transaction.
        a.run("BEGIN");
        a.run(&format!("SET LOCAL {name} = '{after}'"));
        assert_eq!(a.value(&format!("SHOW {name}")), after);
        a.run("COMMIT");
        assert_eq!(a.value(&format!("SHOW {name}")), before);
        // Undone to a savepoint.
        a.run("BEGIN");
        a.run("SAVEPOINT s");
        a.run(&format!("SET {name} = '{after}'"));
        a.run("ROLLBACK TO s");
        a.run("COMMIT");
        assert_eq!(a.value(&format!("SHOW {name}")), before);
        // Undone with the implicit transaction of one text.
        a.run(&format!("SET {name} = '{after}'; SELECT 1/0"));
        assert_eq!(a.value(&format!("SHOW {name}")), before);
        a.run(&format!("BEGIN; SET {name} = '{after}'; ROLLBACK"));
        assert_eq!(a.value(&format!("SHOW {name}")), before);
        // A RESET is undone too.
        a.run(&format!("BEGIN; RESET {name}"));
        assert_eq!(a.value(&format!("SHOW {name}")), default);
        a.run("ROLLBACK");
        assert_eq!(a.value(&format!("SHOW {name}")), before);
        // Nothing of it is left, on whichever server.
        drop(a);
        let mut both = [b, weir.client("app")];
        for _ in 0..2 {
            both.iter_mut().take(size.into()).for_each(|client| assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)"));
            for client in both.iter_mut().take(size.into()) {
                assert_eq!(client.value(&format!("SHOW {name}")), default);
                assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
            }
        }
    }
}

#[test]
fn set_config_and_identity_stay_with_their_client() {
    let cluster = Cluster::start();
    cluster.sql("CREATE ROLE tenant; GRANT tenant TO postgres");
    let weir = over(&cluster, 2).start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    a.run("SELECT set_config('app.user', '42', false)");
    a.run("SET ROLE tenant");
    for _ in 0..3 {
        assert_eq!(b.rows("SELECT current_setting('app.user', true), current_user").unwrap(), [["", "postgres"]]);
        assert_eq!(a.rows("SELECT current_setting('app.user'), current_user").unwrap(), [["42", "tenant"]]);
    }
    drop(a);
    let mut others: Vec<_> = (0..2).map(|_| weir.client("app")).collect();
    eventually("both servers are free", SOON, || {
        let rows: Vec<_> = others.iter_mut().map(|c| c.run("BEGIN")).collect();
        let seen: Vec<_> = others
            .iter_mut()
            .map(|c| c.rows("SELECT coalesce(current_setting('app.user', true), ''), current_user").unwrap())
            .collect();
        others.iter_mut().for_each(|c| assert_eq!(c.run("COMMIT"), "C(COMMIT) Z(I)"));
        assert!(seen.iter().all(|rows| *rows == [["", "postgres"]]), "{seen:?}");
        (rows.len() == 2).then_some(())
    });
}

#[test]
fn settings_given_at_startup() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).start();
    let login = || weir.login("postgres", "app");
    let mut plain = login().connect().unwrap();
    let mut a = login()
        .param("application_name", "starter")
        .param("DateStyle", "German")
        .param("client_encoding", "utf-8")
        .param("client_min_messages", "error")
        .param("options", "-c work_mem=5MB -c search_path=a,\\ b --statement-timeout=7000 -capp.x=1")
        .param("extra_float_digits", "2")
        .connect()
        .unwrap();
    // Reported as the server spells them.
    assert_eq!(a.params["application_name"], "starter");
    assert_eq!(a.params["DateStyle"], "German, DMY");
    assert_eq!(a.params["client_encoding"], "UTF8");
    assert_eq!(plain.params["DateStyle"], "ISO, MDY");
    let default = cluster.value("SHOW work_mem");
    for _ in 0..2 {
        in_turn("application_name", (&mut a, "starter"), (&mut plain, ""));
        in_turn("DateStyle", (&mut a, "German, DMY"), (&mut plain, "ISO, MDY"));
        in_turn("work_mem", (&mut a, "5MB"), (&mut plain, &default));
        in_turn("search_path", (&mut a, "a, b"), (&mut plain, "\"$user\", public"));
        in_turn("statement_timeout", (&mut a, "7s"), (&mut plain, "0"));
        in_turn("extra_float_digits", (&mut a, "2"), (&mut plain, "1"));
        in_turn("client_min_messages", (&mut a, "error"), (&mut plain, "notice"));
        assert_eq!(a.value("SHOW app.x"), "1");
        // RESET returns to what startup gave.
        a.run("SET work_mem = '9MB'");
        a.run("SET DateStyle = 'SQL'");
        in_turn("work_mem", (&mut a, "9MB"), (&mut plain, &default));
        a.run("RESET work_mem");
        in_turn("work_mem", (&mut a, "5MB"), (&mut plain, &default));
        a.run("RESET ALL");
    }
    // One that the server does not take is the server's own error, and nothing remains of it.
    let refused = login().param("options", "-c work_mem=nonsense").connect().unwrap_err();
    assert_eq!(refused.code(), "22023");
    assert_eq!(login().param("no_such_setting", "1").connect().unwrap_err().code(), "42704");
    assert_eq!(plain.value("SHOW work_mem"), default);
    // Taken and thrown away when so configured.
    let weir = over(&cluster, 1).general("ignore_startup_parameters = [\"work_mem\", \"no_such_setting\"]").start();
    let mut client =
        weir.login("postgres", "app").param("work_mem", "5MB").param("no_such_setting", "1").connect().unwrap();
    assert_eq!(client.value("SHOW work_mem"), default);
}

/// The first client does `keep`; until it has done `end` the other waits for the only server. Afterwards `trace` is empty.
fn pins(keep: &str, end: Option<&str>, trace: &str) {
    let cluster = Cluster::start();
    cluster.sql("CREATE SEQUENCE seq");
    let weir = over(&cluster, 1).start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    let answer = a.run(keep);
    assert!(answer.ends_with("Z(I)") && !answer.contains("E("), "{answer}");
    b.query(trace);
    b.expect_silence(Duration::from_millis(150));
    // Its owner still has it.
    let rows = a.rows(trace).unwrap();
    assert!(!rows.is_empty(), "{keep} is lost");
    match end {
        Some(end) => assert!(!a.run(end).contains("E("), "{end}"),
        None => drop(a),
    }
    let messages = b.read_until_ready();
    assert!(!messages.iter().any(|m| matches!(m.tag, b'D' | b'E')), "{keep}: {}", show(&messages));
    assert_eq!(b.value("SELECT 1"), "1");
}

const TEMP: &str = "SELECT relname FROM pg_class WHERE relpersistence = 't' AND relkind = 'r'";
const LOCKS: &str = "SELECT objid FROM pg_locks WHERE locktype = 'advisory'";

#[test]
fn temporary_table_keeps_the_server() {
    pins("CREATE TEMP TABLE mine (id int)", None, TEMP);
    for end in ["DISCARD ALL", "DROP TABLE mine", "DISCARD TEMP", "ALTER TABLE mine RENAME TO hers; DROP TABLE hers"] {
        pins("CREATE TEMP TABLE mine AS SELECT 1", Some(end), TEMP);
    }
}

/// Where the schema of temporary objects comes first, they are made without saying so.
#[test]
fn a_table_that_search_path_makes_temporary_keeps_the_server() {
    for path in ["SET LOCAL search_path = pg_temp", "SELECT set_config('search_path', 'pg_temp', true)"] {
        pins(&format!("BEGIN; {path}; CREATE TABLE mine (id int); COMMIT"), Some("DROP TABLE pg_temp.mine"), TEMP);
    }
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).start();
    let mut a = weir.login("postgres", "app").param("options", "-csearch_path=pg_temp").connect().unwrap();
    assert_eq!(a.run("CREATE TABLE mine (id int)"), "C(CREATE TABLE) Z(I)");
    let mut b = weir.client("app");
    b.query(TEMP);
    b.expect_silence(Duration::from_millis(150));
    assert_eq!(a.run("DROP TABLE mine"), "C(DROP TABLE) Z(I)");
    assert_eq!(show(&b.read_until_ready()), "T(relname:19) C(SELECT 0) Z(I)");
    // Nothing is made by who only looks.
    assert_eq!(a.value("SELECT 1"), "1");
    assert_eq!(b.value("SELECT 1"), "1");
}

/// And so are those that functions make, whenever they and the path come to be.
#[test]
fn a_table_that_a_function_makes_where_search_path_says_keeps_the_server() {
    const MAKES: &str =
        "CREATE FUNCTION makes() RETURNS void LANGUAGE plpgsql AS $$BEGIN CREATE TABLE mine (id int); END$$";
    for makes in [
        "SET search_path = pg_temp; SELECT public.makes()",
        "COMMIT; BEGIN; SET LOCAL search_path = pg_temp; SELECT public.makes(); COMMIT",
    ] {
        pins(&format!("BEGIN; {MAKES}; {makes}; COMMIT"), None, TEMP);
    }
}

#[test]
fn advisory_lock_keeps_the_server() {
    pins("SELECT pg_advisory_lock(7)", None, LOCKS);
    pins("SELECT pg_try_advisory_lock(7)", Some("DISCARD ALL"), LOCKS);
    pins("SELECT pg_advisory_lock(7)", Some("SELECT pg_advisory_unlock(7)"), LOCKS);
    pins("SELECT pg_advisory_lock(7), pg_advisory_lock_shared(8)", Some("SELECT pg_advisory_unlock_all()"), LOCKS);
}

/// A failure undoes what belongs to the transaction, and a session's locks do not.
#[test]
fn a_lock_that_a_failed_statement_took_keeps_the_server() {
    const FAILS: &str = "SELECT pg_advisory_lock(7), 1 / (random() * 0)::int";
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    a.parse("p", FAILS, &[]);
    a.sync();
    a.read_until_ready();
    let fail = |a: &mut RawClient, how: usize| match how {
        0 => drop(a.run(FAILS)),
        1 => ["BEGIN", FAILS, "ROLLBACK"].iter().for_each(|sql| drop(a.run(sql))),
        2 => drop(a.run(&format!("COPY ({FAILS}) TO STDOUT"))),
        3 => assert!(a.run("EXECUTE p").contains("E(22012)")),
        _ => {
            a.bind("", "p", &[]);
            a.execute("", 0);
            a.sync();
            a.read_until_ready();
        }
    };
    for how in 0..5 {
        fail(&mut a, how);
        b.query("SELECT 1");
        b.expect_silence(Duration::from_millis(150));
        assert_eq!(a.value(LOCKS), "7", "{how}: it is lost");
        // It was taken once: one lock too few to be set free by one call would keep the server.
        assert_eq!(a.value("SELECT pg_advisory_unlock(7)"), "t");
        assert_eq!(show(&b.read_until_ready()), "T(?column?:23) D(1) C(SELECT 1) Z(I)", "{how}");
        assert_eq!(b.rows(LOCKS).unwrap().len(), 0);
    }
    // One that has not run has taken none.
    assert_eq!(a.run("SELECT pg_advisory_lock(7) FROM nothing"), "E(42P01) Z(I)");
    assert_eq!(b.value("SELECT 1"), "1");
}

/// What EXECUTE runs is what its name stood for when it was sent.
#[test]
fn a_statement_that_is_closed_while_it_runs_keeps_the_server() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    a.parse("p", "SELECT pg_advisory_lock(7), pg_sleep(0.3)", &[]);
    a.sync();
    a.read_until_ready();
    a.query("EXECUTE p");
    a.close_statement("p");
    a.sync();
    a.read_until_ready();
    a.read_until_ready();
    b.query("SELECT 1");
    b.expect_silence(Duration::from_millis(150));
    assert_eq!(a.value(LOCKS), "7");
}

#[test]
fn cursor_and_sql_prepare_keep_the_server() {
    pins("DECLARE c CURSOR WITH HOLD FOR SELECT 1", None, "SELECT name FROM pg_cursors WHERE is_holdable");
    pins("PREPARE p AS SELECT 1", None, "SELECT name FROM pg_prepared_statements WHERE from_sql");
    let (cursor, prepared) = ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "PREPARE p AS SELECT 1");
    pins(cursor, Some("CLOSE c"), "SELECT name FROM pg_cursors WHERE is_holdable");
    pins(prepared, Some("DEALLOCATE p"), "SELECT name FROM pg_prepared_statements WHERE from_sql");
}

#[test]
fn second_server_serves_the_others() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 2).start();
    let (mut a, mut b, mut c) = (weir.client("app"), weir.client("app"), weir.client("app"));
    a.run("CREATE TEMP TABLE mine AS SELECT 'a' AS v");
    a.run("LISTEN news");
    for _ in 0..3 {
        assert_eq!(b.run("SELECT v FROM mine"), "E(42P01) Z(I)");
        assert_eq!(c.value("SELECT 1"), "1");
        assert_eq!(a.value("SELECT v FROM mine"), "a");
    }
    // What it listens for arrives while it does nothing.
    assert_eq!(b.run("NOTIFY news, 'hello'"), "C(NOTIFY) Z(I)");
    let sender = |message: &common::wire::Message| u32::from_be_bytes(message.body[..4].try_into().unwrap());
    let told = a.read_message();
    assert_eq!(told.to_string(), "A(news,hello)");
    assert_ne!(sender(&told), a.pid);
    // Its own come under the process id that it was given.
    a.query("NOTIFY news, 'from me'");
    let own = a.read_until_ready().into_iter().find(|m| m.tag == b'A').unwrap();
    assert_eq!((own.to_string().as_str(), sender(&own)), ("A(news,from me)", a.pid));
}

#[test]
fn transactional_kinds_do_not_keep_the_server() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    for sql in [
        "BEGIN; CREATE TEMP TABLE gone (id int) ON COMMIT DROP; COMMIT",
        "BEGIN; CREATE TEMP TABLE gone (id int); ROLLBACK",
        "SELECT pg_advisory_xact_lock(1)",
        "BEGIN; SET LOCAL work_mem = '1MB'; COMMIT",
        "SET work_mem = '2MB'",
        "NOTIFY x",
    ] {
        assert!(!a.run(sql).contains("E("), "{sql}");
        assert_eq!(b.value("SELECT 1"), "1", "{sql}");
    }
}

/// What a server knows of sequences is the doing of whoever had it last: nobody is told another's values.
#[test]
fn sequence_values_are_ones_own_or_refused() {
    let cluster = Cluster::start();
    cluster.sql("CREATE SEQUENCE s; CREATE TABLE t (id serial, v text)");
    let weir = over(&cluster, 1).start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    a.run("INSERT INTO t (v) VALUES ('a')");
    a.run("SELECT nextval('s')");
    for ask in ["SELECT currval('s')", "SELECT lastval()", "SELECT 1 WHERE currval('t_id_seq') = 1"] {
        let refused = |heard: &str| heard.contains("E(55000)") && !heard.contains("D(");
        assert!(refused(&b.run(ask)), "{ask}");
        assert_eq!(b.run("BEGIN"), "C(BEGIN) Z(T)");
        assert_eq!(b.run("SELECT 1 FROM t"), "T(?column?:23) D(1) C(SELECT 1) Z(T)");
        assert!(refused(&b.run(ask)), "{ask}");
        assert_eq!(b.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
        b.parse("", ask, &[]);
        b.bind("", "", &[]);
        b.execute("", 0);
        b.sync();
        assert!(refused(&show(&b.read_until_ready())), "{ask}");
    }
    // In one's own transaction, text or statement.
    b.run("BEGIN");
    b.run("INSERT INTO t (v) VALUES ('b')");
    assert_eq!(b.value("SELECT lastval()"), "2");
    b.run("COMMIT");
    b.run("DISCARD ALL");
    assert!(b.run("SELECT nextval('s'); SELECT currval('s')").contains("D(2) C(SELECT 1) Z(I)"));
    b.run("DISCARD ALL");
    assert!(b.run("INSERT INTO t (v) VALUES ('c') RETURNING currval('t_id_seq')").contains("D(3)"));
}

/// Asked by what runs it later, or within: nobody is told of what others did.
#[test]
fn sequence_values_are_nobody_elses_however_they_are_asked_for() {
    let cluster = Cluster::start();
    cluster.sql("CREATE SEQUENCE s");
    for asks in
        [&["PREPARE p AS SELECT lastval()", "EXECUTE p"][..], &["DO $$BEGIN RAISE NOTICE '%', lastval(); END$$"]]
    {
        let weir = over(&cluster, 1).start();
        let (mut a, mut b) = (weir.client("app"), weir.client("app"));
        a.run("SELECT nextval('s')");
        let heard: Vec<String> = asks.iter().map(|ask| b.run(ask)).collect();
        assert!(heard.iter().any(|heard| heard.contains("E(55000)")), "{asks:?}: {heard:?}");
        assert!(!heard.iter().any(|heard| heard.contains("D(") || heard.contains("N(")), "{asks:?}: {heard:?}");
    }
}

/// An advisory lock that EXECUTE took stays when the statement is gone.
#[test]
fn what_a_prepared_statement_took_stays_without_it() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 2).start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    a.run("PREPARE p AS SELECT pg_advisory_lock(5)");
    a.run("EXECUTE p");
    assert_eq!(a.run("DEALLOCATE p"), "C(DEALLOCATE) Z(I)");
    assert_eq!(b.value("SELECT pg_try_advisory_lock(5)"), "f");
    assert_eq!(a.value("SELECT pg_advisory_unlock(5)"), "t");
    assert_eq!(b.value("SELECT pg_try_advisory_lock(5)"), "t");
}

/// So does what it made long after it was prepared, when the server has said that there is nothing; by whichever protocol it is executed.
#[test]
fn what_a_statement_prepared_long_ago_makes_stays_without_it() {
    let cluster = Cluster::start();
    cluster
        .sql("CREATE FUNCTION makes() RETURNS void LANGUAGE plpgsql AS $$BEGIN CREATE TEMP TABLE mine (id int); END$$");
    let weir = over(&cluster, 1).start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    let look = |client: &mut RawClient| client.rows(&format!("{TEMP} UNION ALL SELECT 'lock' FROM ({LOCKS}) AS l"));
    for (prepared, begun) in [("pg_advisory_lock(5)", false), ("makes()", false), ("makes()", true)] {
        for by_protocol in [false, true] {
            if begun {
                a.run("BEGIN");
            }
            a.run(&format!("PREPARE p AS SELECT {prepared}"));
            if begun {
                a.run("ROLLBACK");
            }
            (0..4).for_each(|_| assert_eq!(a.value("SELECT 1"), "1"));
            if by_protocol {
                a.bind("", "p", &[]);
                a.execute("", 0);
                a.sync();
                assert_eq!(show(&a.read_until_ready()), "2 D() C(SELECT 1) Z(I)");
            } else {
                assert!(a.run("EXECUTE p").contains("C(SELECT 1) Z(I)"));
            }
            assert_eq!(a.run("DEALLOCATE p"), "C(DEALLOCATE) Z(I)");
            b.query("SELECT 1");
            b.expect_silence(Duration::from_millis(150));
            assert_eq!(look(&mut a).unwrap().len(), 1, "{prepared} is lost, by protocol: {by_protocol}");
            assert_eq!(a.run("DISCARD ALL"), "C(DISCARD ALL) Z(I)");
            assert_eq!(show(&b.read_until_ready()), "T(?column?:23) D(1) C(SELECT 1) Z(I)");
        }
    }
}

/// What was loaded into a server or decides its random numbers is not met by others.
#[test]
fn libraries_and_seeds_keep_the_server() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 2).start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    for keep in ["LOAD 'auto_explain'", "SELECT setseed(0.5)", "BEGIN; SET LOCAL seed = 0.5; COMMIT"] {
        assert!(a.run(keep).ends_with("Z(I)"), "{keep}");
        let server = a.value(common::SERVER_PID);
        for _ in 0..3 {
            assert_ne!(b.value(common::SERVER_PID), server, "{keep}");
            assert_eq!(a.value(common::SERVER_PID), server, "{keep}");
        }
        assert_eq!(a.run("DISCARD ALL"), "C(DISCARD ALL) Z(I)");
    }
}

/// What was bound while something before it ran is known when it is executed.
#[test]
fn a_portal_that_was_bound_ahead_keeps_what_it_leaves() {
    const TENANT: &str = "SELECT coalesce(current_setting('app.tenant', true), '')";
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    a.query("SELECT 1 FROM pg_sleep(0.2)");
    a.parse("", "SET app.tenant = 'a'", &[]);
    a.bind("", "", &[]);
    a.flush();
    a.read_until_ready();
    a.execute("", 0);
    a.sync();
    assert_eq!(show(&a.read_until_ready()), "1 2 C(SET) Z(I)");
    for _ in 0..2 {
        assert_eq!((b.value(TENANT), a.value(TENANT)), (String::new(), "a".to_owned()));
    }
    // In the next block.
    a.run("BEGIN");
    ["SELECT 1 FROM pg_sleep(0.2)", "COMMIT", "BEGIN"].into_iter().for_each(|text| a.query(text));
    a.parse("", "SELECT 1 FROM pg_advisory_lock(1)", &[]);
    a.bind("p", "", &[]);
    a.sync();
    (0..4).for_each(|_| drop(a.read_until_ready()));
    a.execute("p", 0);
    a.sync();
    assert_eq!(show(&a.read_until_ready()), "D(1) C(SELECT 1) Z(T)");
    assert_eq!(a.run("COMMIT"), "C(COMMIT) Z(I)");
    b.query(LOCKS);
    b.expect_silence(Duration::from_millis(150));
    drop(a);
    assert!(!b.read_until_ready().iter().any(|message| message.tag == b'D'), "it leaks");
}

/// A Bind that fails has made no portal: what is executed under its name is something else.
#[test]
fn a_portal_that_was_not_made_sets_nothing() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    a.run("BEGIN");
    a.run("SAVEPOINT x");
    a.parse("", "SET app.tenant = 'phantom'", &[]);
    a.bind("c", "", &[Some("one too many")]);
    a.sync();
    assert_eq!(show(&a.read_until_ready()), "1 E(08P01) Z(E)");
    a.run("ROLLBACK TO x");
    a.run("DECLARE c CURSOR FOR SELECT 1");
    a.execute("c", 0);
    a.sync();
    assert_eq!(show(&a.read_until_ready()), "D(1) C(SELECT 1) Z(T)");
    a.run("COMMIT");
    const TENANT: &str = "SELECT coalesce(current_setting('app.tenant', true), '')";
    for _ in 0..2 {
        assert_eq!((b.value(TENANT), a.value(TENANT)), (String::new(), String::new()));
    }
}

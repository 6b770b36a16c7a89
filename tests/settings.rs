//! Settings are their client's alone: every form of SET, RESET and set_config(), with PostgreSQL's transactions, between clients that
//! share one server.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::fmt::Write as _;
use std::time::Duration;

use common::cluster::Cluster;
use common::eventually;
use common::fake::{FakeServer, Step};
use common::raw::{Address, Login, RawClient};
use common::weir::Weir;
use common::wire::{backend, show};

fn one_server(cluster: &Cluster) -> Weir {
    let primary = format!("primary = \"postgres://127.0.0.1:{}/postgres\"", cluster.port());
    Weir::builder().users("\"app\" \"\"").database(&format!("[databases.app]\n{primary}\npool_size = 1")).start()
}

/// Two servers, that of a user whose defaults are changed.
fn two_servers(cluster: &Cluster) -> Weir {
    let primary = format!("primary = \"postgres://127.0.0.1:{}/postgres\"", cluster.port());
    Weir::builder().database(&format!("[databases.app]\n{primary}\npool_size = 2")).start()
}

fn with_roles() -> Cluster {
    let cluster = Cluster::start();
    cluster.sql("CREATE ROLE tenant; CREATE ROLE other; GRANT tenant, other TO postgres");
    cluster
}

/// The setting, or nothing, as its session sees it.
fn seen(client: &mut RawClient, name: &str) -> String {
    client.value(&format!("SELECT coalesce(current_setting('{name}', true), '')"))
}

/// Runs a statement by the extended protocol.
fn run_extended(client: &mut RawClient, sql: &str, values: &[Option<&str>]) -> String {
    client.parse("", sql, &[]);
    client.bind("", "", values);
    client.execute("", 0);
    client.sync();
    show(&client.read_until_ready())
}

/// A statement that sets, what it sets, and the value as it is shown then.
const FORMS: &[(&str, &str, &str)] = &[
    ("SET SESSION work_mem = '5MB'", "work_mem", "5MB"),
    ("SET work_mem = 5120", "work_mem", "5MB"),
    ("SET sort_mem = '6MB'", "work_mem", "6MB"),
    ("SET TIME ZONE INTERVAL '+02:00' HOUR TO MINUTE", "TimeZone", "<+02>-02"),
    ("SET TIME ZONE 'Asia/Tokyo'", "TimeZone", "Asia/Tokyo"),
    ("SET NAMES 'LATIN1'", "client_encoding", "LATIN1"),
    ("SET XML OPTION DOCUMENT", "xmloption", "document"),
    ("SET SCHEMA 'a \"b'", "search_path", "\"a \"\"b\""),
    ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "default_transaction_read_only", "on"),
    (
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "default_transaction_isolation",
        "serializable",
    ),
    ("SET default_text_search_config = 'simple'", "default_text_search_config", "pg_catalog.simple"),
    ("SET ROLE tenant", "role", "tenant"),
    ("SET SESSION AUTHORIZATION tenant", "session_authorization", "tenant"),
    ("SET app.who = 'it''s \\'", "app.who", "it's \\"),
    ("SELECT set_config('app.who', '42', false)", "app.who", "42"),
    ("SELECT set_config('role', 'other', false), set_config('app.who', 'é', NULL)", "app.who", "é"),
    ("SELECT set_config('app.who', (SELECT 'of a query'), false)", "app.who", "of a query"),
    ("SELECT set_config('work_mem', v, false) FROM (VALUES ('7MB'), ('8MB')) t (v)", "work_mem", "8MB"),
    (
        "SELECT set_config('role', current_setting('role') , false), set_config('app.who', current_user::text, false)",
        "app.who",
        "postgres",
    ),
];

/// Around a statement: what comes before and after it, and whether it lasts.
const PLACES: &[(&[&str], &[&str], bool)] = &[
    (&[], &[], true),
    (&["BEGIN"], &["COMMIT"], true),
    (&["BEGIN"], &["ROLLBACK"], false),
    (&["BEGIN"], &["SELECT 1/0", "COMMIT"], false),
    (&["BEGIN", "SAVEPOINT s"], &["RELEASE s", "COMMIT"], true),
    (&["BEGIN", "SAVEPOINT s"], &["ROLLBACK TO s", "COMMIT"], false),
    (&["BEGIN", "SET LOCAL geqo = off", "SAVEPOINT s"], &["SELECT 1/0", "ROLLBACK TO s", "RELEASE s", "COMMIT"], false),
    (&["BEGIN"], &["SAVEPOINT s", "RESET ALL", "ROLLBACK TO s", "COMMIT AND CHAIN", "ROLLBACK"], true),
];

#[test]
fn every_form_in_every_place() {
    let cluster = with_roles();
    let weir = one_server(&cluster);
    let mut bystander = weir.client("app");
    let pid = bystander.value("SELECT pg_backend_pid()");
    let mut wrong = String::new();
    for (form, name, value) in FORMS {
        for (before, after, lasts) in PLACES {
            for extended in [false, true] {
                let mut client = weir.client("app");
                let default = seen(&mut bystander, name);
                let mut said = String::new();
                for sql in before.iter().chain([form]).chain(*after) {
                    let answer = if extended { run_extended(&mut client, sql, &[]) } else { client.run(sql) };
                    let _infallible = write!(said, "{sql}: {answer}; ");
                }
                for turn in 0..2 {
                    let theirs = seen(&mut bystander, name);
                    let own = seen(&mut client, name);
                    if theirs != default || own != if *lasts { (*value).to_owned() } else { default.clone() } {
                        let _infallible =
                            writeln!(wrong, "{said} turn {turn}: the others see {theirs:?}, it sees {own:?}");
                    }
                }
                client.run("DISCARD ALL");
                if seen(&mut client, name) != default {
                    let _infallible = writeln!(wrong, "{said}: not discarded");
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert_eq!(bystander.value("SELECT pg_backend_pid()"), pid, "all of it on one server");
    assert!(weir.admin_table("SHOW PINS").is_empty());
}

#[test]
fn values_given_as_parameters() {
    let cluster = with_roles();
    let weir = one_server(&cluster);
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    let check = |a: &mut RawClient, b: &mut RawClient, value: &str, what: &str| {
        for _ in 0..2 {
            assert_eq!(seen(b, "app.who"), "", "{what} leaks");
            assert_eq!(seen(a, "app.who"), value, "{what} is lost");
        }
    };
    let sql = "SELECT set_config($1, $2, $3)";
    assert!(!run_extended(&mut a, sql, &[Some("app.who"), Some("one"), Some("false")]).contains("E("));
    check(&mut a, &mut b, "one", "text");
    run_extended(&mut a, sql, &[Some("app.who"), Some("local"), Some("on")]);
    check(&mut a, &mut b, "one", "local");
    run_extended(&mut a, sql, &[Some("app.who"), None, None]);
    check(&mut a, &mut b, "", "null");
    a.parse("s", sql, &[]);
    a.bind_binary("p", "s", &[Some(b"App.Who"), Some("zwei ü".as_bytes()), Some(&[0])]);
    a.execute("p", 0);
    a.sync();
    a.read_until_ready();
    check(&mut a, &mut b, "zwei ü", "binary");
    run_extended(&mut a, "SELECT set_config('app.who', $1::int::text, false)", &[Some("0042")]);
    check(&mut a, &mut b, "42", "converted");
    // A row is all there is, but the portal does not say so; and another is bound and never run.
    a.bind("p", "s", &[Some("app.who"), Some("suspended"), Some("f")]);
    a.execute("p", 1);
    a.bind("q", "s", &[Some("app.who"), Some("never"), Some("f")]);
    a.sync();
    assert!(show(&a.read_until_ready()).contains(" s 2 Z(I)"));
    check(&mut a, &mut b, "suspended", "suspended");
    // A pipeline that fails has set nothing.
    a.bind("p", "s", &[Some("app.who"), Some("failed"), Some("f")]);
    a.execute("p", 0);
    a.parse("", "SELECT 1/0", &[]);
    a.bind("", "", &[]);
    a.execute("", 0);
    a.sync();
    a.read_until_ready();
    check(&mut a, &mut b, "suspended", "failed");
    // In another encoding.
    a.run("SET client_encoding = 'LATIN1'");
    a.parse("", "SELECT set_config('app.who', $1, false)", &[]);
    a.bind_binary("", "", &[Some(&[0xe9])]);
    a.execute("", 0);
    a.sync();
    a.read_until_ready();
    assert_eq!(seen(&mut b, "app.who"), "");
    assert_eq!(a.value("SELECT encode(convert_to(current_setting('app.who'), 'UTF8'), 'hex')"), "c3a9");
    // A name that nobody knows keeps the server.
    assert_eq!(weir.admin_table("SHOW PINS").len(), 0);
    a.run("SELECT set_config(n, 'x', false) FROM (VALUES ('app.who')) t (n)");
    assert_eq!(weir.admin_table("SHOW PINS")[0]["reason"], "setting");
    a.run("DISCARD ALL");
    assert_eq!(seen(&mut b, "app.who"), "");
}

#[test]
fn a_reset_within_a_transaction_returns_to_what_startup_gave() {
    let cluster = with_roles();
    let weir = one_server(&cluster);
    let options = "-c work_mem=5MB -c app.who=starter -c timezone=Asia/Tokyo -c role=tenant";
    let mut a = weir.login("postgres", "app").param("options", options).connect().unwrap();
    let mut b = weir.client("app");
    let names = ["work_mem", "app.who", "TimeZone", "role"];
    let all = |client: &mut RawClient| names.map(|name| seen(client, name));
    let given = ["5MB", "starter", "Asia/Tokyo", "tenant"];
    let default = all(&mut b);
    for reset in [
        "RESET work_mem",
        "RESET app.who; SET TIME ZONE DEFAULT",
        "RESET ALL",
        "RESET SESSION AUTHORIZATION",
        "RESET ROLE",
    ] {
        for end in ["COMMIT", "ROLLBACK"] {
            assert_eq!(all(&mut a), given);
            a.run("SET work_mem = '9MB'; SET app.who = 'x'; SET timezone = 'UTC'; SET ROLE other");
            let set = all(&mut a);
            a.run("BEGIN");
            assert!(!a.run(reset).contains("E("), "{reset}");
            let within = all(&mut a);
            for (((name, now), given), set) in names.iter().zip(&within).zip(given).zip(&set) {
                // With the session's user its role goes.
                let none = *name == "role" && reset == "RESET SESSION AUTHORIZATION";
                assert!(if none { now == "none" } else { now == given || now == set }, "{reset}: {within:?}");
            }
            assert_ne!(within, set, "{reset}");
            a.run("SAVEPOINT s; SET work_mem = '1MB'; RESET work_mem; ROLLBACK TO s");
            assert_eq!(all(&mut a), within, "{reset}");
            a.run(end);
            assert_eq!(all(&mut b), default);
            assert_eq!(all(&mut a), if end == "COMMIT" { within } else { set }, "{reset}, {end}");
            a.run("DISCARD ALL");
        }
    }
}

/// What a role or database begins with changes for those who were there before as well, when they get a connection anew.
#[test]
fn new_defaults_are_those_of_the_next_connections() {
    let cluster = with_roles();
    let weir = two_servers(&cluster);
    let (mut a, mut b, mut busy) = (weir.client("app"), weir.client("app"), weir.client("app"));
    assert_eq!((a.value("SELECT 1"), b.value("SELECT 1")), ("1".to_owned(), "1".to_owned()));
    for (alter, name, value) in [
        ("ALTER DATABASE postgres SET work_mem = '7MB'", "work_mem", "7MB"),
        ("ALTER ROLE postgres SET app.who = 'default'", "app.who", "default"),
        ("ALTER ROLE postgres IN DATABASE postgres SET TimeZone = 'Asia/Tokyo'", "TimeZone", "Asia/Tokyo"),
        ("BEGIN; ALTER DATABASE postgres SET work_mem = '8MB'; COMMIT", "work_mem", "8MB"),
        ("ALTER ROLE postgres SET search_path = 's1, public'", "search_path", "\"s1, public\""),
    ] {
        // Somebody's transaction goes on where it is.
        busy.run("BEGIN");
        let before = busy.value(&format!("SELECT coalesce(current_setting('{name}', true), '')"));
        assert!(!a.run(alter).contains("E("), "{alter}");
        assert_eq!(b.value(&format!("SHOW {name}")), value, "{alter}");
        assert_eq!(a.value(&format!("SHOW {name}")), value, "{alter}");
        assert_eq!(busy.value(&format!("SELECT coalesce(current_setting('{name}', true), '')")), before, "{alter}");
        assert_eq!(busy.run("COMMIT"), "C(COMMIT) Z(I)");
        assert_eq!(busy.value(&format!("SHOW {name}")), value, "{alter}");
    }
    assert_eq!(weir.client("app").params["TimeZone"], "Asia/Tokyo", "newcomers are told");
}

#[test]
fn a_client_that_leaves_takes_its_settings_along() {
    let cluster = with_roles();
    let weir = one_server(&cluster);
    let mut bystander = weir.client("app");
    let default = bystander
        .rows("SELECT current_setting('work_mem'), current_user, coalesce(current_setting('app.who', true), '')")
        .unwrap();
    for last in [
        "SELECT 1",
        "BEGIN; SET work_mem = '3MB'; SET ROLE other; SET app.who = 'b'",
        "BEGIN; SAVEPOINT s; RESET ROLE; ROLLBACK TO s; SET app.who = 'c'",
        "SET work_mem = '4MB'; COMMIT; BEGIN; SET work_mem = '3MB'",
        "BEGIN; SELECT set_config('work_mem', (SELECT '6MB'), false)",
        "BEGIN; SET work_mem = '3MB'; SELECT 1/0",
    ] {
        let mut client = weir.client("app");
        client.run("SET work_mem = '2MB'; SET ROLE tenant; SET app.who = 'a'");
        client.run(last);
        drop(client);
        let rows = bystander
            .rows("SELECT current_setting('work_mem'), current_user, coalesce(current_setting('app.who', true), '')")
            .unwrap();
        assert_eq!(rows, default, "{last}");
    }
}

/// What only a superuser may set cannot be brought along by the login's user.
#[test]
fn a_superusers_setting_made_under_another_role_keeps_the_server() {
    let cluster = with_roles();
    cluster.sql("CREATE ROLE boss SUPERUSER; CREATE ROLE app LOGIN; GRANT boss TO app");
    let weir = one_server(&cluster);
    let mut a = weir.login("app", "app").connect().unwrap();
    let mut b = weir.login("app", "app").connect().unwrap();
    a.run("SET ROLE boss");
    assert_eq!(seen(&mut b, "role"), "none");
    a.run("SET work_mem = '3MB'");
    assert_eq!(seen(&mut b, "role"), "none");
    a.run("SET log_duration = on");
    a.run("RESET ROLE");
    b.query("SHOW log_duration");
    b.expect_silence(Duration::from_millis(150));
    assert_eq!((seen(&mut a, "log_duration"), seen(&mut a, "work_mem")), ("on".to_owned(), "3MB".to_owned()));
    assert_eq!(weir.admin_table("SHOW PINS")[0]["reason"], "identity");
    drop(a);
    assert!(show(&b.read_until_ready()).contains("D(off)"));
}

/// PostgreSQL reports just before ReadyForQuery, and only what differs from what it has reported last.
#[test]
fn a_reset_that_is_undone_before_anything_is_reported() {
    let cluster = Cluster::start();
    let weir = one_server(&cluster);
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    a.run("SET client_encoding = 'LATIN1'; SET timezone = 'Asia/Tokyo'");
    let check = |a: &mut RawClient, b: &mut RawClient, what: &str| {
        for _ in 0..2 {
            let other = (seen(b, "timezone"), seen(b, "client_encoding"));
            assert!(other.0 != "Asia/Tokyo" && other.1 == "UTF8", "{what}: {other:?}");
            let own = (seen(a, "timezone"), seen(a, "client_encoding"));
            assert_eq!(own, ("Asia/Tokyo".to_owned(), "LATIN1".to_owned()), "{what}");
        }
    };
    for text in [
        "RESET ALL; SELECT 1/0",
        "BEGIN; RESET timezone; RESET client_encoding; ROLLBACK",
        "RESET ALL; SET timezone = 'Asia/Tokyo'; SET client_encoding = 'LATIN1'",
        "BEGIN; SAVEPOINT s; RESET ALL; ROLLBACK TO s; COMMIT",
    ] {
        a.run(text);
        check(&mut a, &mut b, text);
    }
    for sql in ["RESET client_encoding", "RESET ALL", "SELECT 1/0"] {
        a.parse("", sql, &[]);
        a.bind("", "", &[]);
        a.execute("", 0);
    }
    a.sync();
    assert!(show(&a.read_until_ready()).contains("22012"));
    check(&mut a, &mut b, "a pipeline");
    // One that is not undone.
    a.run("RESET timezone; SELECT 1");
    assert_eq!(seen(&mut a, "timezone"), seen(&mut b, "timezone"));
}

/// Something that a client does.
type Way = Box<dyn Fn(&mut RawClient)>;

/// Where nobody can see what a text does, its client keeps the server if it may have left anything behind.
#[test]
fn settings_made_where_nobody_sees_keep_the_server() {
    let cluster = Cluster::start();
    let weir = one_server(&cluster);
    let mut b = weir.client("app");
    let pins = || weir.admin_table("SHOW PINS").len();
    let mut ways: Vec<(&str, Way)> = Vec::new();
    let latin1 = |a: &mut RawClient, text: &[u8]| {
        a.send(b'Q', &[text, b"\0"].concat());
        assert!(!show(&a.read_until_ready()).contains("E("));
    };
    ways.push((
        "another encoding",
        Box::new(move |a| {
            a.run("SET client_encoding = 'LATIN1'");
            // What can be told to leave nothing does not.
            latin1(a, b"SELECT '\xe9', 1 AS \xe9");
            assert_eq!(seen(a, "app.t"), "");
            latin1(a, b"SET app.t = 'leak \xe9'");
        }),
    ));
    ways.push((
        "savepoints in it",
        Box::new(move |a| {
            a.run("SET client_encoding = 'LATIN1'");
            a.run("BEGIN; SET app.t = 'leak'");
            latin1(a, b"SAVEPOINT \xe9; SET app.t = 'other'; ROLLBACK TO \xe9");
            a.run("COMMIT");
        }),
    ));
    ways.push((
        "a long text",
        Box::new(|a| {
            let sql = format!("SELECT set_config('app.t', 'leak', false) /* {} */", "x".repeat(1 << 20));
            assert!(!a.run(&sql).contains("E("));
        }),
    ));
    ways.push((
        "a view",
        Box::new(|a| {
            a.run("SET app.t = 'x'");
            assert!(!a.run("UPDATE pg_settings SET setting = 'leak' WHERE name = 'app.t'").contains("E("));
            a.run("UPDATE pg_settings SET setting = '3MB' WHERE name = 'work_mem'");
            a.run("SELECT set_config('app.t', 'leak', false)");
        }),
    ));
    ways.push((
        "the fast path",
        Box::new(|a| {
            a.function_call(2078, &[Some("app.t"), Some("leak"), Some("f")]);
            assert!(!show(&a.read_until_ready()).contains("E("));
        }),
    ));
    ways.push((
        "backslashes",
        Box::new(|a| {
            a.run("SET standard_conforming_strings = off");
            assert!(!a.run(r"SELECT '\'||'; SET app.t = ''leak''; --'").contains("leak"));
            a.run(r"SELECT '\'||'; SET app.t='leak'; --'");
        }),
    ));
    ways.push((
        "backslashes, by the extended protocol",
        Box::new(|a| {
            a.run("SET standard_conforming_strings = off");
            run_extended(a, r"SELECT '\'||', set_config($$app.t$$, $$leak$$, false) --'", &[]);
        }),
    ));
    for (what, way) in &ways {
        let mut a = weir.client("app");
        let before = (seen(&mut b, "work_mem"), seen(&mut b, "app.t"));
        way(&mut a);
        assert_eq!(pins(), 1, "{what}");
        b.query("SELECT current_setting('work_mem'), coalesce(current_setting('app.t', true), '')");
        b.expect_silence(Duration::from_millis(100));
        assert_eq!(a.value("SELECT left(current_setting('app.t'), 4)"), "leak", "{what}");
        drop(a);
        let told = show(&b.read_until_ready());
        assert!(told.contains(&format!("D({}|{})", before.0, before.1)), "{what}: {told}");
    }
    // Large objects are opened and read so, and leave nothing.
    let mut a = weir.client("app");
    a.function_call(715, &[Some("0")]);
    assert!(!show(&a.read_until_ready()).contains("E("));
    assert_eq!(pins(), 0);
}

#[test]
fn what_has_not_run_has_set_nothing() {
    let cluster = Cluster::start();
    cluster.sql("CREATE PROCEDURE fails() LANGUAGE plpgsql AS 'BEGIN COMMIT; RAISE EXCEPTION ''no''; END'");
    let weir = one_server(&cluster);
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    let mut own = Login::new(Address::Tcp(cluster.port()), "postgres", "postgres").connect().unwrap();
    let set = "SELECT set_config('app.who', 'prepared', false)";
    for client in [&mut a, &mut own] {
        client.parse("p", set, &[]);
        client.parse("r", "ROLLBACK", &[]);
        client.sync();
        client.read_until_ready();
    }
    let mut step = |what: &str, run: &dyn Fn(&mut RawClient)| {
        run(&mut a);
        run(&mut own);
        for _ in 0..2 {
            assert_eq!(seen(&mut b, "app.who"), "", "{what} leaks");
            assert_eq!(seen(&mut a, "app.who"), seen(&mut own, "app.who"), "{what}");
        }
    };
    step("one that ran", &|c| drop(c.run("SET app.who = 'first'")));
    step("EXPLAIN", &|c| drop(c.run("EXPLAIN EXECUTE p")));
    step("no data", &|c| drop(c.run(&format!("DROP TABLE IF EXISTS t; CREATE TABLE t AS {set} WITH NO DATA"))));
    step("no table", &|c| drop(c.run(&format!("CREATE TABLE IF NOT EXISTS t AS {set}"))));
    step("EXECUTE", &|c| drop(c.run("EXECUTE p")));
    step("a prepared ROLLBACK", &|c| {
        c.run("BEGIN; SET app.who = 'in a block'");
        c.run("EXECUTE r");
        c.run("COMMIT");
    });
    step("a portal that is exhausted", &|c| {
        c.bind("portal", "p", &[]);
        c.execute("portal", 0);
        c.parse("", "SET app.who = 'later'", &[]);
        c.bind("", "", &[]);
        c.execute("", 0);
        c.execute("portal", 0);
        c.sync();
        assert!(!show(&c.read_until_ready()).contains("E("));
    });
    step("a procedure that commits and fails", &|c| {
        for sql in ["SET app.who = 'halfway'", "CALL fails()"] {
            c.parse("", sql, &[]);
            c.bind("", "", &[]);
            c.execute("", 0);
        }
        c.sync();
        c.read_until_ready();
    });
    assert!(weir.admin_table("SHOW PINS").is_empty());
}

/// The server is asked whether a pin is over, and what follows at once does not run under its default meanwhile.
#[test]
fn a_question_about_pins_keeps_back_nothing_that_startup_gave() {
    let cluster = with_roles();
    let weir = one_server(&cluster);
    let mut a = weir.login("postgres", "app").param("options", "-c work_mem=7MB -c app.who=starter").connect().unwrap();
    a.run("PREPARE p AS SELECT 1");
    for reset in ["RESET work_mem; RESET app.who", "RESET ALL"] {
        a.run("PREPARE q AS SELECT 2");
        a.query(&format!("DEALLOCATE q; {reset}"));
        a.query("SELECT current_setting('work_mem'), current_setting('app.who')");
        a.read_until_ready();
        assert!(show(&a.read_until_ready()).contains("D(7MB|starter)"), "{reset}");
    }
    // With the last statement goes the server, and whoever has it next finds nothing of this.
    a.query("DEALLOCATE p; RESET work_mem");
    a.query("SHOW work_mem");
    a.read_until_ready();
    assert!(show(&a.read_until_ready()).contains("D(7MB)"));
    assert_eq!(weir.client("app").value("SHOW work_mem"), "4MB");
    assert!(weir.admin_table("SHOW PINS").is_empty());
}

#[test]
fn what_startup_gave_is_there_for_what_follows_a_reset() {
    let cluster = with_roles();
    let weir = one_server(&cluster);
    let login = || weir.login("postgres", "app").param("options", "-c app.who=starter -c role=tenant");
    let mut a = login().connect().unwrap();
    for reset in ["RESET app.who", "RESET ALL", "DISCARD ALL"] {
        a.run("SET app.who = 'x'");
        a.query(reset);
        a.query("SELECT current_setting('app.who')");
        a.read_until_ready();
        assert!(show(&a.read_until_ready()).contains("D(starter)"), "{reset}");
    }
    // What cannot be set again fails the block, and says why.
    cluster.sql("REVOKE tenant FROM postgres; DROP ROLE tenant");
    a.run("BEGIN; RESET ROLE");
    let told = a.run("SELECT 1");
    assert!(told.contains("E(22023)"), "{told}");
    a.run("ROLLBACK");
    drop(a);
    // A role that is gone is no reason to be locked out.
    let mut a = weir.client("app");
    let mut b = weir.client("app");
    for reset in ["RESET ROLE", "DISCARD ALL"] {
        cluster.sql("CREATE ROLE gone");
        a.run("SET ROLE gone");
        assert_eq!(seen(&mut b, "role"), "none");
        cluster.sql("DROP ROLE gone");
        assert!(a.run("SELECT 1").contains("E(22023)"));
        assert!(!a.run(reset).contains("E("), "{reset}");
        assert_eq!(seen(&mut a, "role"), "none", "{reset}");
    }
}

/// Steps for the random test; `?` is a value.
const STEPS: &[&str] = &[
    "SET work_mem = '?MB'",
    "SET app.who = 'u?'",
    "SET app.who = 'u?'; SET LOCAL app.who = 'local ?'",
    "SET statement_timeout = '?min'",
    "SET search_path = s?, public",
    "SET timezone = 'Etc/GMT+?'",
    "SET application_name = 'app ?'",
    "SET LOCAL work_mem = '1?MB'",
    "SET LOCAL timezone = 'Etc/GMT-?'",
    "SET LOCAL ROLE other",
    "SET ROLE tenant",
    "SET ROLE none",
    "RESET ROLE",
    "SET SESSION AUTHORIZATION other",
    "RESET SESSION AUTHORIZATION",
    "RESET work_mem",
    "RESET app.who",
    "RESET timezone",
    "RESET ALL",
    "DISCARD ALL",
    "SELECT set_config('app.who', 'f?', false)",
    "SELECT set_config('work_mem', '?MB', true)",
    "SELECT set_config('app.who', 'g' || ?, false)",
    "SELECT set_config('timezone', 'Etc/GMT' || v, false) FROM (VALUES ('+1'), ('-?')) t (v)",
    "SET work_mem = '2?MB'; SELECT 1/0",
    "SET app.who = 'h?'; COMMIT; SET work_mem = '3?MB'; SELECT 1/0",
    "BEGIN; SET app.who = 'i?'; SAVEPOINT a; SET app.who = 'j?'; ROLLBACK TO a; COMMIT",
    "RESET ALL; SELECT 1/0",
    "BEGIN; RESET timezone; ROLLBACK",
    "RESET ALL; SET timezone = 'Etc/GMT+?'",
    "SET timezone = 'Etc/GMT+?'; RESET timezone",
    "BEGIN; SAVEPOINT a; RESET ALL; RESET timezone; ROLLBACK TO a; COMMIT",
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "SELECT 1",
    "SELECT 1/0",
    "nonsense",
    "BEGIN",
    "BEGIN",
    "BEGIN",
    "SAVEPOINT a",
    "SAVEPOINT b",
    "SAVEPOINT a",
    "ROLLBACK TO a",
    "ROLLBACK TO b",
    "RELEASE a",
    "RELEASE b",
    "COMMIT",
    "ROLLBACK",
    "COMMIT AND CHAIN",
    "ROLLBACK AND CHAIN",
];

const SHOWN: &str = "SELECT current_user, session_user, current_setting('role'), current_setting('work_mem'), \
    coalesce(current_setting('app.who', true), ''), current_setting('statement_timeout'), current_setting('search_path'), \
    current_setting('timezone'), current_setting('application_name'), current_setting('default_transaction_isolation')";

/// A client and, beside it, one that has a server of its own.
struct Twins {
    pooled: RawClient,
    own: RawClient,
    last: u8,
}

impl Twins {
    fn new(weir: &Weir, cluster: &Cluster, at: usize) -> Self {
        let login = |port: u16, database: &str| {
            let login = Login::new(Address::Tcp(port), "postgres", database);
            let login = if at == 1 { login.param("options", "-c work_mem=9MB -c app.who=starter") } else { login };
            login.connect().unwrap()
        };
        Self { pooled: login(weir.port(), "app"), own: login(cluster.port(), "postgres"), last: b'I' }
    }

    /// Runs it on both; what each was answered, without what was reported.
    fn run(&mut self, sql: &str, extended: bool) -> (String, String) {
        let mut run = |client: &mut RawClient| {
            if extended {
                client.parse("", sql, &[]);
                client.bind("", "", &[]);
                client.execute("", 0);
                client.sync();
            } else {
                client.query(sql);
            }
            let messages: Vec<_> = client.read_until_ready().into_iter().filter(|m| m.tag != b'S').collect();
            self.last = messages.last().unwrap().body[0];
            show(&messages)
        };
        (run(&mut self.pooled), run(&mut self.own))
    }
}

#[test]
fn nobody_can_tell_from_a_server_of_its_own() {
    let cluster = with_roles();
    let weir = one_server(&cluster);
    let seed = std::env::var("PGWEIR_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random::<u64>);
    let mut state = seed;
    let mut random = |below: usize| {
        // Knuth's.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    let mut all: Vec<_> = (0..3).map(|at| Twins::new(&weir, &cluster, at)).collect();
    let mut at = 0;
    let mut history = String::new();
    for _ in 0..1500 {
        if all[at].last == b'I' {
            // Between transactions it is anybody's turn.
            at = random(3);
        }
        if random(60) == 0 {
            all[at] = Twins::new(&weir, &cluster, at);
            let _infallible = writeln!(history, "{at}: comes again");
        }
        let sql = STEPS[random(STEPS.len())].replace('?', &(1 + random(5)).to_string());
        // What startup gave is not there again before the end of a text.
        let extended = random(3) == 0 && !sql.contains(';');
        let _infallible = writeln!(history, "{at}: {sql}{}", if extended { " (extended)" } else { "" });
        let (pooled, own) = all[at].run(&sql, extended);
        assert_eq!(pooled, own, "PGWEIR_SEED={seed}\n{history}");
        let (pooled, own) = all[at].run(SHOWN, random(2) == 0);
        assert_eq!(pooled, own, "PGWEIR_SEED={seed}\n{history}");
    }
    assert!(weir.admin_table("SHOW PINS").is_empty());
}

/// What the last client set is taken from its server for the next one; if that fails it is not the next one's fault.
#[test]
fn what_another_set_fails_nobody() {
    let cluster = Cluster::start();
    cluster.sql("CREATE ROLE app LOGIN; GRANT SET ON PARAMETER log_min_duration_statement TO app");
    let weir = Weir::builder()
        .database(&format!(
            "[databases.app]\nprimary = \"postgres://app@127.0.0.1:{}/postgres\"\npool_size = 1",
            cluster.port()
        ))
        .start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    assert_eq!(a.run("SET log_min_duration_statement = 60000"), "C(SET) Z(I)");
    cluster.sql("REVOKE SET ON PARAMETER log_min_duration_statement FROM app");
    assert_eq!(b.value("SHOW log_min_duration_statement"), "-1");
    // Its owner is told, for it is not what it was any more.
    assert_eq!(a.run("SELECT 1"), "E(42501) Z(I)");
    assert_eq!(b.value("SELECT 1"), "1");
}

/// What ends transactions by itself, in a pipeline that is no block: what is for good is what PostgreSQL says, and nobody else meets it.
#[test]
fn a_pipeline_that_ends_its_transaction_on_the_way() {
    let cluster = with_roles();
    cluster.sql(
        "CREATE PROCEDURE back() LANGUAGE plpgsql AS 'BEGIN ROLLBACK; END'; \
         CREATE PROCEDURE keep() LANGUAGE plpgsql AS 'BEGIN COMMIT; END'",
    );
    let weir = one_server(&cluster);
    let mut other = weir.client("app");
    other.run("SET app.who = 'other'");
    for pipeline in [
        &["SET app.who = 'x'", "CALL back()"][..],
        &["SET app.who = 'x'", "CALL keep()"],
        &["SET app.who = 'x'", "CALL keep()", "SELECT 1/0"],
        &["SET app.who = 'x'", "CALL keep()", "SET app.who = 'before'", "SELECT 1/0"],
        &["SET app.who = 'x'", "DO $$BEGIN ROLLBACK; END$$", "SET app.more = 'y'"],
        &["SET ROLE tenant", "CALL back()"],
        &["RESET app.who", "CALL back()"],
        &["SET app.who = 'x'", "PREPARE TRANSACTION 'x'"],
        &["SET app.who = 'x'", "COMMIT", "SELECT 1/0"],
        &["SET app.who = 'x'", "COMMIT"],
        &["SET app.who = 'x'", "ROLLBACK", "SET app.more = 'y'"],
        &["BEGIN", "SET app.who = 'x'", "COMMIT", "SET app.more = 'y'", "SELECT 1/0"],
    ] {
        let mut twins = Twins::new(&weir, &cluster, 0);
        twins.run("SET app.who = 'before'", false);
        let (pooled, own) = (pipelined(&mut twins.pooled, pipeline), pipelined(&mut twins.own, pipeline));
        assert_eq!(pooled, own, "{pipeline:?}");
        assert_eq!(other.value("SELECT current_user || ' ' || current_setting('app.who')"), "postgres other");
        let (pooled, own) = twins.run(&format!("{SHOWN}, coalesce(current_setting('app.more', true), '')"), false);
        assert_eq!(pooled, own, "{pipeline:?}");
    }
}

/// Statements up to one Sync; what is answered, without what is reported.
fn pipelined(client: &mut RawClient, statements: &[&str]) -> String {
    for sql in statements {
        client.parse("", sql, &[]);
        client.bind("", "", &[]);
        client.execute("", 0);
    }
    client.sync();
    let messages: Vec<_> = client.read_until_ready().into_iter().filter(|m| m.tag != b'S').collect();
    show(&messages)
}

/// A cancel request that comes late, or a timeout, may hit what the server is asked behind the client's back. That is asked once more, and keeps
/// the server if it fails again.
#[test]
fn a_question_that_is_cancelled_is_asked_once_more() {
    let question =
        |answer: Vec<u8>| vec![Step::ExpectText(b'Q', "current_setting('a.x'".to_owned()), Step::Send(answer)];
    let cancelled = [backend::error("ERROR", "57014", "canceling statement"), backend::ready(b'I')].concat();
    let told = backend::one_value("encode", "76");
    let failed = [backend::error("ERROR", "53200", "out of memory"), backend::ready(b'I')].concat();
    for (answers, pins) in [
        (vec![cancelled.clone(), told.clone()], 0),
        (vec![failed.clone(), failed.clone()], 1),
        // A cancel request says nothing of the setting, however many come.
        (vec![cancelled.clone(), cancelled.clone(), failed, told], 0),
        (vec![cancelled; 9], 1),
    ] {
        let asked = 1 + answers.len();
        let set = [backend::complete("SET"), backend::ready(b'I')].concat();
        let server = FakeServer::serve(move |_| {
            let set = vec![Step::ExpectText(b'Q', "FROM CURRENT".to_owned()), Step::Send(set.clone())];
            let questions = answers.iter().cloned().flat_map(question);
            let last = vec![Step::ExpectText(b'Q', "SELECT 1".to_owned()), Step::Send(backend::one_value("v", "1"))];
            let steps = Step::login().into_iter().chain(set).chain(questions).chain(last);
            steps.chain([Step::ExpectClose]).collect()
        });
        let primary = format!("primary = \"postgres://127.0.0.1:{}/d\"", server.port());
        let weir = Weir::builder().database(&format!("[databases.app]\n{primary}\npool_size = 1")).start();
        let mut client = weir.client("app");
        assert_eq!(client.run("SET a.x FROM CURRENT"), "C(SET) Z(I)");
        // Else what it asks next may come between the two.
        eventually("all are asked", Duration::from_secs(15), || (server.received(0).len() >= asked).then_some(()));
        assert_eq!(client.value("SELECT 1"), "1");
        assert_eq!(weir.admin_table("SHOW PINS").len(), pins);
        drop((client, weir));
        assert_eq!(server.deviations(), Vec::<String>::new());
    }
}

/// Savepoints that are released take no place, and more than can be kept have the server asked at the end.
#[test]
fn savepoints_without_end_keep_no_server() {
    let cluster = Cluster::start();
    let weir = one_server(&cluster);
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    let pairs = |times: usize, text: &str| text.repeat(times);
    for (text, times, expected) in [
        ("SAVEPOINT s; SET work_mem = '4MB'; RELEASE s;", 400, "4MB"),
        ("SAVEPOINT s; SET work_mem = '5MB';", 300, "3MB"),
    ] {
        assert_eq!(a.run("BEGIN; SET work_mem = '3MB'; SET a.x = '1'").matches("E(").count(), 0);
        // Ten settings more, so that each savepoint takes the place of twelve.
        let more: String = (0..10).map(|n| format!("SET a.y{n} = '{n}';")).collect();
        a.run(&more);
        for _ in 0..15 {
            assert_eq!(a.run(&pairs(times, text)).matches("E(").count(), 0);
        }
        if expected == "3MB" {
            // Names that hide each other: the last goes back to where it stood.
            assert_eq!(a.run("ROLLBACK TO s").matches("E(").count(), 0);
            let released = "RELEASE s;".repeat(300);
            for _ in 0..14 {
                a.run(&released);
            }
            a.run(&"RELEASE s;".repeat(299));
            assert_eq!(a.run("ROLLBACK TO s"), "C(ROLLBACK) Z(T)");
        }
        assert_eq!(a.run("COMMIT"), "C(COMMIT) Z(I)");
        assert_eq!((seen(&mut b, "work_mem"), seen(&mut b, "a.x")), ("4MB".to_owned(), String::new()));
        assert_eq!((seen(&mut a, "work_mem"), seen(&mut a, "a.y9")), (expected.to_owned(), "9".to_owned()));
        assert!(weir.admin_table("SHOW PINS").is_empty());
    }
}

//! Settings that a server lacks go ahead of the client's statement, in the same write (`session::settings::ahead`): they cost no round trip,
//! and nothing runs where one of them is refused.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::time::Duration;

use common::cluster::Cluster;
use common::eventually;
use common::fake::{FakeServer, Step};
use common::raw::RawClient;
use common::weir::Weir;
use common::wire::{self, backend, show};

const SOON: Duration = Duration::from_secs(15);

fn before(port: u16) -> Weir {
    let primary = format!("primary = \"postgres://127.0.0.1:{port}/postgres\"");
    Weir::builder().users("\"app\" \"\"").database(&format!("[databases.app]\n{primary}\npool_size = 1")).start()
}

/// The setting, or nothing, as its session sees it.
fn seen(client: &mut RawClient, name: &str) -> String {
    client.value(&format!("SELECT coalesce(current_setting('{name}', true), '')"))
}

fn run_extended(client: &mut RawClient, sql: &str) -> String {
    client.parse("", sql, &[]);
    client.bind("", "", &[]);
    client.execute("", 0);
    client.sync();
    show(&client.read_until_ready())
}

// What a server reads and says.

fn text(tag: u8, part: &str) -> Step {
    Step::ExpectText(tag, part.to_owned())
}

fn done(tag: &str) -> Vec<u8> {
    [backend::complete(tag), backend::ready(b'I')].concat()
}

fn closed() -> Vec<u8> {
    wire::frame(b'3', b"")
}

/// What comes ahead of the client's message, whose text holds this.
fn ahead(part: &str) -> Vec<Step> {
    let guarded = [Step::Expect(b'D'), Step::Expect(b'C'), text(b'Q', "\0")];
    [vec![Step::Expect(b'C'), text(b'Q', part)], guarded.to_vec()].concat()
}

/// The answer, when the server takes it.
fn taken() -> Vec<u8> {
    let guard = [wire::frame(b't', &[0, 0]), wire::frame(b'T', &[0, 0]), closed(), wire::frame(b'I', b"")].concat();
    [closed(), backend::complete("RESET"), done("PREPARE"), guard, backend::ready(b'I')].concat()
}

/// The server answers nothing before it has read both the settings and the statement: whoever waited for an answer between them would wait for
/// ever.
#[test]
fn settings_that_differ_cost_no_round_trip() {
    let script = [
        Step::login(),
        vec![text(b'Q', "SET a.x"), Step::Send(done("SET"))],
        ahead("RESET \"a\".\"x\";PREPARE"),
        vec![text(b'Q', "SELECT 1"), Step::Send([taken(), backend::one_value("v", "1")].concat())],
        ahead("set_config('a.x','1',false);PREPARE"),
        vec![text(b'P', "SELECT 2"), Step::Expect(b'B'), Step::Expect(b'E'), Step::Expect(b'S')],
        vec![Step::Send([taken(), wire::frame(b'1', b""), wire::frame(b'2', b""), done("SELECT 0")].concat())],
        // It has them now, so nothing goes ahead any more.
        vec![text(b'Q', "SELECT 3"), Step::Send(backend::one_value("v", "3"))],
        vec![text(b'Q', "SELECT 4"), Step::Send(backend::one_value("v", "4")), Step::ExpectClose],
    ]
    .concat();
    let server = FakeServer::start(vec![script]);
    let weir = before(server.port());
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    assert_eq!(a.run("SET a.x = 1"), "C(SET) Z(I)");
    assert_eq!(b.value("SELECT 1"), "1");
    assert_eq!(run_extended(&mut a, "SELECT 2"), "1 2 C(SELECT 0) Z(I)");
    assert_eq!(a.value("SELECT 3"), "3");
    assert_eq!(a.value("SELECT 4"), "4");
    drop((a, b));
    drop(weir);
    assert_eq!(server.finish(), Vec::<String>::new());
}

/// However many they are, one text brings them all.
#[test]
fn five_settings_cost_no_round_trip() {
    const NAMES: [&str; 5] = ["a.v", "b.v", "c.v", "d.v", "e.v"];
    let five = |of: fn(&str) -> String, between: &str| NAMES.map(of).join(between);
    let resets = five(|name| format!("RESET \"{}\".\"v\"", &name[..1]), ";");
    let sets = five(|name| format!("pg_catalog.set_config('{name}','1',false)"), ",");
    let all_done = [backend::complete("SET").repeat(5), backend::ready(b'I')].concat();
    let script = [
        Step::login(),
        vec![text(b'Q', "SET e.v"), Step::Send(all_done)],
        ahead(&format!("{resets};PREPARE")),
        vec![text(b'Q', "SELECT 1"), Step::Send([taken(), backend::one_value("v", "1")].concat())],
        ahead(&format!("SELECT {sets};PREPARE")),
        vec![text(b'Q', "SELECT 2"), Step::Send([taken(), backend::one_value("v", "2")].concat())],
        vec![text(b'Q', "SELECT 3"), Step::Send(backend::one_value("v", "3")), Step::ExpectClose],
    ]
    .concat();
    let server = FakeServer::start(vec![script]);
    let weir = before(server.port());
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    assert_eq!(a.run(&five(|name| format!("SET {name} = 1"), "; ")), format!("{}Z(I)", "C(SET) ".repeat(5)));
    assert_eq!(b.value("SELECT 1"), "1");
    assert_eq!(a.value("SELECT 2"), "2");
    assert_eq!(a.value("SELECT 3"), "3");
    drop((a, b));
    drop(weir);
    assert_eq!(server.finish(), Vec::<String>::new());
}

/// PostgreSQL says what it has done before it says that it ends the session: the statement has not run, and goes to another connection.
#[test]
fn a_server_that_goes_before_it_has_taken_them_has_not_run_the_statement() {
    let farewell = wire::frame(b'E', b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0RProcessInterrupts\0\0");
    let server = FakeServer::serve(move |connection| {
        let first = [
            vec![text(b'Q', "SET a.x"), Step::Send(done("SET"))],
            ahead("RESET \"a\".\"x\""),
            vec![text(b'Q', "SELECT 1"), Step::Send([closed(), farewell.clone()].concat()), Step::Close],
        ];
        let next = [vec![text(b'Q', "SELECT 1"), Step::Send(backend::one_value("v", "1")), Step::ExpectClose]];
        [Step::login(), if connection == 0 { first.concat() } else { next.concat() }].concat()
    });
    let weir = before(server.port());
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    assert_eq!(a.run("SET a.x = 1"), "C(SET) Z(I)");
    assert_eq!(b.value("SELECT 1"), "1");
    drop((a, b));
    drop(weir);
    assert_eq!(server.finish(), Vec::<String>::new());
}

/// What was written anew for its client is so once more when it is sent again: whom it signals the text on the server does not say.
#[test]
fn a_signal_that_was_passed_over_is_sent_all_the_same() {
    let farewell = wire::frame(b'E', b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0RProcessInterrupts\0\0");
    let server = FakeServer::serve(move |connection| {
        let first = [
            vec![text(b'Q', "SET a.x"), Step::Send(done("SET"))],
            ahead("RESET \"a\".\"x\""),
            vec![text(b'Q', "pg_has_role"), Step::Send([closed(), farewell.clone()].concat()), Step::Close],
        ];
        // Another connection may be asked first what code there is: that learns nothing.
        let next = vec![Step::Loop(vec![Step::Answer(vec![(b'Q', backend::one_value("pg_terminate_backend", "t"))])])];
        [Step::login(), if connection == 0 { first.concat() } else { next }].concat()
    });
    let weir = before(server.port());
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    assert_eq!(a.run("SET a.x = 1"), "C(SET) Z(I)");
    assert_eq!(b.value(&format!("SELECT pg_terminate_backend({})", a.pid)), "t");
    assert_eq!(show(&a.read_to_end()), "E(FATAL 57P01)");
    drop((a, b));
    drop(weir);
    assert_eq!(server.finish(), Vec::<String>::new());
}

/// One that refuses the settings and has the guard all the same (its commit has failed, say) may have run the statement without them: that is
/// never told as a success, and nobody else gets the connection.
#[test]
fn settings_that_failed_behind_their_guard_end_the_connection() {
    let server = FakeServer::serve(move |connection| {
        let failed = [closed(), backend::complete("RESET"), backend::complete("PREPARE")].concat();
        let failed = [failed, backend::error("ERROR", "40001", "could not commit"), backend::ready(b'I')].concat();
        let guard = [wire::frame(b't', &[0, 0]), wire::frame(b'T', &[0, 0]), closed(), wire::frame(b'I', b"")].concat();
        let all = [failed, guard, backend::ready(b'I'), backend::one_value("v", "1")].concat();
        let first = [
            vec![text(b'Q', "SET a.x"), Step::Send(done("SET"))],
            ahead("RESET \"a\".\"x\""),
            vec![text(b'Q', "SELECT 1"), Step::TrySend(all), Step::ExpectClose],
        ];
        let next = [vec![text(b'Q', "SELECT 2"), Step::Send(backend::one_value("v", "2")), Step::ExpectClose]];
        [Step::login(), if connection == 0 { first.concat() } else { next.concat() }].concat()
    });
    let weir = before(server.port());
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    assert_eq!(a.run("SET a.x = 1"), "C(SET) Z(I)");
    b.query("SELECT 1");
    let heard = b.read_to_end();
    assert_eq!(show(&heard), "E(FATAL 08006)");
    let error = heard[0].error().unwrap();
    assert!(error.fields[&'D'].contains("may have run"), "{error:?}");
    assert_eq!(weir.client("app").value("SELECT 2"), "2");
    assert_eq!(server.accepted(), 2);
    drop(weir);
    assert_eq!(server.finish(), Vec::<String>::new());
}

/// A time-out or cancel request that hits what comes behind the guard has nothing passed over: the statement has run, and is not done again.
#[test]
fn what_fails_behind_the_guard_ends_the_connection() {
    let late = wire::frame(b'E', b"SERROR\0VERROR\0C57014\0Mcanceling statement due to statement timeout\0\0");
    let server = FakeServer::serve(move |connection| {
        let guard = [wire::frame(b't', &[0, 0]), wire::frame(b'T', &[0, 0]), closed(), late.clone()].concat();
        let answer = [closed(), backend::complete("RESET"), done("PREPARE"), guard, backend::ready(b'I')].concat();
        let first = [
            vec![text(b'Q', "SET a.x"), Step::Send(done("SET"))],
            ahead("RESET \"a\".\"x\""),
            vec![
                text(b'Q', "SELECT 1"),
                Step::TrySend([answer, backend::one_value("v", "1")].concat()),
                Step::ExpectClose,
            ],
        ];
        let next = [vec![text(b'Q', "SELECT 2"), Step::Send(backend::one_value("v", "2")), Step::ExpectClose]];
        [Step::login(), if connection == 0 { first.concat() } else { next.concat() }].concat()
    });
    let weir = before(server.port());
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    assert_eq!(a.run("SET a.x = 1"), "C(SET) Z(I)");
    // No table, so that no other connection asks what writing one would do.
    b.query("SELECT 1");
    let messages = b.read_to_end();
    assert_eq!(show(&messages), "E(FATAL 08006)");
    let told = messages.iter().find_map(wire::Message::error).unwrap();
    assert!(told.fields[&'D'].contains("may have run"), "{told}");
    assert_eq!(weir.client("app").value("SELECT 2"), "2");
    drop((a, b));
    drop(weir);
    assert_eq!(server.finish(), Vec::<String>::new());
}

/// A setting that is not taken any more: the statement behind it must not run, whatever it is and whatever is sent behind it.
#[test]
fn nothing_runs_where_a_setting_is_refused() {
    let cluster = Cluster::start();
    cluster.sql("CREATE ROLE tenant; CREATE TABLE t (v text); GRANT ALL ON t TO PUBLIC; GRANT tenant TO postgres");
    let weir = before(cluster.port());
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    a.run("SET work_mem = '3MB'; SET ROLE tenant");
    assert_eq!(seen(&mut b, "role"), "none");
    let failed = "E(22023)";
    let extended = |a: &mut RawClient, sql: &str| {
        a.parse("", sql, &[]);
        a.bind("", "", &[]);
        a.execute("", 0);
    };
    // What is sent, and how it is answered.
    type Case<'a> = (&'a dyn Fn(&mut RawClient), &'a [&'a str]);
    let cases: &[Case<'_>] = &[
        (&|a| a.query("INSERT INTO t VALUES ('simple')"), &["E Z"]),
        (&|a| a.query("INSERT INTO t VALUES ('text'); SELECT 1"), &["E Z"]),
        (&|a| a.query("BEGIN"), &["E Z"]),
        (&|a| a.query("VACUUM t"), &["E Z"]),
        (&|a| a.query("COPY t FROM STDIN"), &["E Z"]),
        (
            &|a| {
                extended(a, "INSERT INTO t VALUES ('extended')");
                a.sync();
            },
            &["E Z"],
        ),
        (
            &|a| {
                extended(a, "COPY t FROM STDIN");
                a.sync();
            },
            &["E Z"],
        ),
        (&|a| a.function_call(957, &[Some("-1")]), &["E Z"]),
        // Several, sent before any is answered, of which the first alone goes with the settings.
        (
            &|a| {
                a.query("INSERT INTO t VALUES ('first')");
                a.query("INSERT INTO t VALUES ('second')");
                extended(a, "INSERT INTO t VALUES ('third')");
                a.sync();
            },
            &["E Z", "E Z", "E Z"],
        ),
        (
            &|a| {
                extended(a, "INSERT INTO t VALUES ('bound')");
                a.query("INSERT INTO t VALUES ('behind')");
            },
            &["E Z"],
        ),
        (
            &|a| {
                extended(a, "INSERT INTO t VALUES ('flushed')");
                a.flush();
                assert_eq!(show(&a.read_until(b'E')), failed);
                a.execute("", 0);
                a.sync();
            },
            &["Z"],
        ),
    ];
    for (number, (send, answers)) in cases.iter().enumerate() {
        assert_eq!(seen(&mut b, "role"), "none");
        assert_eq!((seen(&mut a, "role"), seen(&mut a, "work_mem")), ("tenant".to_owned(), "3MB".to_owned()));
        assert_eq!((seen(&mut b, "role"), seen(&mut b, "work_mem")), ("none".to_owned(), "4MB".to_owned()));
        cluster.sql("ALTER ROLE tenant RENAME TO gone");
        send(&mut a);
        for answer in *answers {
            let expected = answer.replace('E', failed).replace('Z', "Z(I)");
            assert_eq!(show(&a.read_until_ready()), expected, "case {number}");
        }
        // By the round trip, which is what it comes to until it works again.
        assert_eq!(a.run("INSERT INTO t VALUES ('again')"), format!("{failed} Z(I)"), "case {number}");
        cluster.sql("ALTER ROLE gone RENAME TO tenant");
    }
    assert_eq!(cluster.value("SELECT count(*) FROM t"), "0");
    let (_, metrics) = weir.http_get("/metrics");
    let each = format!("reason=\"settings\"}} {}", cases.len());
    assert!(metrics.contains(&each), "each was sent ahead: {metrics}");
    assert_eq!(a.run("INSERT INTO t VALUES (current_user)"), "C(INSERT 0 1) Z(I)");
    assert_eq!(cluster.value("SELECT v FROM t"), "tenant");
    assert_eq!(seen(&mut b, "role"), "none");
}

/// Whatever comes behind settings finds a transaction of its own that begins with it.
#[test]
fn what_follows_settings_begins_its_own_transaction() {
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE t (v text)");
    let weir = before(cluster.port());
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    a.run("SET work_mem = '3MB'; SET a.x = 'of a'; SET search_path = public; SET statement_timeout = '1h'");
    let mut other = |what: &str| assert_eq!(seen(&mut b, "a.x"), "", "{what}");
    for _ in 0..2 {
        other("before");
        let same = "SELECT now() = statement_timestamp() AND current_setting('a.x') = 'of a'";
        assert_eq!(a.value(same), "t");
        other("a query");
        assert_eq!(a.run("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE"), "C(BEGIN) Z(T)");
        assert_eq!(seen(&mut a, "transaction_isolation"), "serializable");
        assert_eq!(a.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
        other("a block");
        assert_eq!(a.run("VACUUM t"), "C(VACUUM) Z(I)");
        other("a query that is no part of a transaction");
        assert!(run_extended(&mut a, "VACUUM t").ends_with("C(VACUUM) Z(I)"));
        other("the same by the extended protocol");
        assert!(run_extended(&mut a, "SELECT 1/0").ends_with("E(22012) Z(I)"));
        assert_eq!(seen(&mut a, "work_mem"), "3MB");
        other("an error");
        assert_eq!(a.run("SELECT 1/0"), "E(22012) Z(I)");
        other("an error of a query");
        a.query("COPY t FROM STDIN");
        assert_eq!(show(&a.read_until(b'G')), "G(0,1)");
        a.copy_data(b"copied\n");
        a.copy_done();
        assert_eq!(show(&a.read_until_ready()), "C(COPY 1) Z(I)");
        other("COPY");
        a.parse("", "COPY t FROM STDIN", &[]);
        a.bind("", "", &[]);
        a.execute("", 0);
        a.sync();
        a.copy_data(b"copied\n");
        a.copy_done();
        a.sync();
        assert_eq!(show(&a.read_until_ready()), "1 2 G(0,1) C(COPY 1) Z(I)");
        other("COPY by the extended protocol");
        // Described and flushed, then bound.
        a.parse("s", "SELECT current_setting($1)", &[]);
        a.describe_statement("s");
        a.flush();
        assert_eq!(show(&a.read_until(b'T')), "1 t(25) T(current_setting:25)");
        a.bind("", "s", &[Some("a.x")]);
        a.execute("", 0);
        a.close_statement("s");
        a.sync();
        assert_eq!(show(&a.read_until_ready()), "2 D(of a) C(SELECT 1) 3 Z(I)");
        other("what was flushed");
        a.function_call(957, &[Some("-1")]);
        assert_eq!(show(&a.read_until_ready()).matches("E(").count(), 0);
        other("a function call");
        assert_eq!(
            a.run("SET a.x = 'again'; SELECT current_setting('a.x'); SET a.x = 'of a'").matches("again").count(),
            1
        );
        other("SET");
        assert_eq!(a.run("BEGIN; SET a.x = 'lost'; ROLLBACK"), "C(BEGIN) C(SET) C(ROLLBACK) Z(I)");
        assert_eq!(a.run("SET client_encoding = 'LATIN1'"), "C(SET) S(client_encoding=LATIN1) Z(I)");
        other("what is in another encoding");
        assert_eq!(seen(&mut a, "a.x"), "of a");
        assert_eq!(a.run("SET client_encoding = 'UTF8'"), "C(SET) S(client_encoding=UTF8) Z(I)");
        assert_eq!(
            a.value("SELECT count(*) FROM ROWS FROM (pg_prepared_statement()) WHERE name = 'pgweir_guard'"),
            "0"
        );
    }
    assert!(weir.admin_table("SHOW PINS").is_empty());
    eventually("one connection did it all", SOON, || (weir.admin_table("SHOW SERVERS").len() == 1).then_some(()));
    let (_, metrics) = weir.http_get("/metrics");
    assert!(!metrics.contains("reason=\"settings\"}"), "nothing was refused: {metrics}");
}

/// Whoever takes the guard's name keeps nobody from his settings, and gets nobody to run without them.
#[test]
fn the_name_of_the_guard_is_nobodys() {
    let cluster = Cluster::start();
    let primary = format!("primary = \"postgres://127.0.0.1:{}/postgres\"", cluster.port());
    let weir = Weir::builder()
        .users("\"app\" \"\"")
        .general("max_prepared_statements = 0")
        .database(&format!("[databases.app]\n{primary}\npool_size = 1"))
        .start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    assert_eq!(a.run("SET a.x = 'of a'"), "C(SET) Z(I)");
    b.parse("pgweir_guard", "SELECT 1", &[]);
    b.sync();
    assert_eq!(show(&b.read_until_ready()), "1 Z(I)");
    assert_eq!(seen(&mut a, "a.x"), "of a");
    assert_eq!(seen(&mut b, "a.x"), "");
    let (_, metrics) = weir.http_get("/metrics");
    assert!(!metrics.contains("reason=\"settings\"}"), "nothing was refused: {metrics}");
}

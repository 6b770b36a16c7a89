//! LISTEN without a server of one's own: clients on a pool of one, told by the connection that listens for all of them.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::time::Duration;

use common::cluster::Cluster;
use common::eventually;
use common::raw::RawClient;
use common::weir::{Builder, Weir};
use common::wire::{Message, show};

const SOON: Duration = Duration::from_secs(15);
const QUIET: Duration = Duration::from_millis(150);

fn over(cluster: &Cluster) -> Builder {
    Weir::builder().database(&format!(
        "[databases.app]\nprimary = \"postgres://127.0.0.1:{}/postgres\"\npool_size = 1",
        cluster.port()
    ))
}

fn sender(message: &Message) -> u32 {
    u32::from_be_bytes(message.body[..4].try_into().unwrap())
}

/// What comes to a client that does nothing.
fn told(client: &mut RawClient, expected: &[&str]) {
    for one in expected {
        assert_eq!(client.read_message().to_string(), *one);
    }
}

fn extended(client: &mut RawClient, sql: &str) -> String {
    client.parse("", sql, &[]);
    client.bind("", "", &[]);
    client.execute("", 0);
    client.sync();
    show(&client.read_until_ready())
}

fn channels(client: &mut RawClient) -> String {
    client.rows("SELECT pg_listening_channels()").unwrap().concat().join(",")
}

#[test]
fn many_listen_on_a_pool_of_one() {
    let cluster = Cluster::start();
    let weir = over(&cluster).start();
    let (mut a, mut b, mut c) = (weir.client("app"), weir.client("app"), weir.client("app"));
    assert_eq!(a.run("LISTEN news"), "C(LISTEN) Z(I)");
    assert_eq!(extended(&mut b, "LISTEN news"), "1 2 C(LISTEN) Z(I)");
    b.parse("again", "LISTEN \"Other; News\"", &[]);
    b.bind("", "again", &[]);
    b.execute("", 0);
    b.sync();
    assert_eq!(show(&b.read_until_ready()), "1 2 C(LISTEN) Z(I)");
    assert_eq!(
        (channels(&mut a), channels(&mut b), channels(&mut c)),
        ("news".into(), "Other; News,news".into(), String::new())
    );
    assert_eq!(
        b.run("SELECT * FROM pg_listening_channels() AS x WHERE x = 'news'"),
        "T(x:25) D(news) C(SELECT 1) Z(I)"
    );
    assert_eq!(weir.admin("SHOW PINS"), Vec::<Vec<String>>::new(), "nobody keeps the server");
    assert_eq!(c.run("NOTIFY news, 'one'"), "C(NOTIFY) Z(I)");
    assert_eq!(c.run("SELECT pg_notify('Other; News', 'two')"), "T(pg_notify:2278) D() C(SELECT 1) Z(I)");
    cluster.sql("NOTIFY news, 'three'");
    told(&mut a, &["A(news,one)", "A(news,three)"]);
    told(&mut b, &["A(news,one)", "A(Other; News,two)", "A(news,three)"]);
    // Equal ones of one transaction are one; the order is that of the commits.
    c.run("BEGIN; NOTIFY news, 'x'; NOTIFY news, 'y'; NOTIFY news, 'x'");
    cluster.sql("NOTIFY news, 'before'");
    c.run("COMMIT");
    c.run("BEGIN; NOTIFY news, 'never'; ROLLBACK");
    told(&mut a, &["A(news,before)", "A(news,x)", "A(news,y)"]);
    told(&mut b, &["A(news,before)", "A(news,x)", "A(news,y)"]);
    // While a transaction is open nothing comes.
    a.run("BEGIN");
    cluster.sql("NOTIFY news, 'while open'");
    told(&mut b, &["A(news,while open)"]);
    assert_eq!(a.run("SELECT 1"), "T(?column?:23) D(1) C(SELECT 1) Z(T)");
    a.expect_silence(QUIET);
    assert_eq!(a.run("COMMIT"), "C(COMMIT) A(news,while open) Z(I)");
    // What waited for the end of the transaction in which it is left is not told any more.
    a.run("LISTEN more; BEGIN");
    cluster.sql("NOTIFY news, 'left'; NOTIFY more, 'kept'");
    told(&mut b, &["A(news,left)"]);
    eventually("both are here", SOON, || {
        (a.run("SELECT pg_sleep(0.1)") == "T(pg_sleep:2278) D() C(SELECT 1) Z(T)").then_some(())
    });
    assert_eq!(a.run("UNLISTEN news; COMMIT; LISTEN news"), "C(UNLISTEN) C(COMMIT) C(LISTEN) A(more,kept) Z(I)");
    // Who listens no longer is told nothing; the server is asked for no more than somebody wants.
    assert_eq!(a.run("UNLISTEN news; UNLISTEN more"), "C(UNLISTEN) C(UNLISTEN) Z(I)");
    assert_eq!(b.run("DISCARD ALL"), "C(DISCARD ALL) Z(I)");
    assert_eq!(c.run("NOTIFY news, 'nobody'"), "C(NOTIFY) Z(I)");
    a.expect_silence(QUIET);
    b.expect_silence(QUIET);
    assert_eq!(channels(&mut b), "");
    // Who comes later misses what was before and nothing after.
    for i in 0..20 {
        cluster.sql(&format!("NOTIFY late, 'before {i}'"));
        assert_eq!(a.run("LISTEN late"), "C(LISTEN) Z(I)");
        cluster.sql(&format!("NOTIFY late, 'after {i}'"));
        told(&mut a, &[&format!("A(late,after {i})")]);
        assert_eq!(a.run("UNLISTEN *"), "C(UNLISTEN) Z(I)");
    }
    drop((a, b));
    let listeners =
        || cluster.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgweir listener'");
    eventually("nobody listens", SOON, || (listeners() == "0").then_some(()));
    assert_eq!(c.run("LISTEN again"), "C(LISTEN) Z(I)");
    cluster.sql("NOTIFY again");
    told(&mut c, &["A(again,)"]);
}

#[test]
fn listening_is_transactional() {
    let cluster = Cluster::start();
    let weir = over(&cluster).start();
    let mut a = weir.client("app");
    let heard = |a: &mut RawClient, expected: &str| {
        assert_eq!(channels(a), expected);
        for channel in ["x", "y", "z"] {
            cluster.sql(&format!("NOTIFY {channel}"));
        }
        let expected: Vec<_> = expected.split(',').filter(|c| !c.is_empty()).map(|c| format!("A({c},)")).collect();
        told(a, &expected.iter().map(String::as_str).collect::<Vec<_>>());
        a.expect_silence(Duration::from_millis(50));
    };
    assert_eq!(a.run("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(a.run("LISTEN x"), "C(LISTEN) Z(T)");
    assert_eq!(channels(&mut a), "", "not before it commits");
    cluster.sql("NOTIFY x, 'too early'");
    assert_eq!(a.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    heard(&mut a, "");
    a.run("BEGIN; LISTEN x; SAVEPOINT s; LISTEN y; ROLLBACK TO s; LISTEN z");
    assert_eq!(a.run("COMMIT"), "C(COMMIT) Z(I)");
    heard(&mut a, "x,z");
    assert!(a.run("LISTEN y; SELECT 1/0").ends_with("E(22012) Z(I)"));
    heard(&mut a, "x,z");
    a.run("BEGIN; UNLISTEN x");
    assert!(a.run("SELECT 1/0").ends_with("Z(E)"));
    assert_eq!(a.run("LISTEN y"), "E(25P02) Z(E)");
    assert_eq!(a.run("COMMIT"), "C(ROLLBACK) Z(I)");
    heard(&mut a, "x,z");
    a.run("BEGIN; SAVEPOINT s; UNLISTEN *; SELECT 1/0");
    assert_eq!(a.run("ROLLBACK TO s; UNLISTEN z; COMMIT"), "C(ROLLBACK) C(UNLISTEN) C(COMMIT) Z(I)");
    heard(&mut a, "x");
    // By the extended protocol, with an error behind it in one exchange, and pipelined.
    a.parse("l", "LISTEN y", &[]);
    a.bind("", "l", &[]);
    a.execute("", 0);
    a.parse("", "SELECT 1/0", &[]);
    a.bind("", "", &[]);
    a.execute("", 0);
    a.sync();
    assert!(show(&a.read_until_ready()).contains("C(LISTEN)"));
    heard(&mut a, "x");
    for sql in ["LISTEN y", "LISTEN z", "SELECT 1"] {
        a.parse("", sql, &[]);
        a.bind("", "", &[]);
        a.execute("", 0);
        a.sync();
    }
    for _ in 0..3 {
        a.read_until_ready();
    }
    heard(&mut a, "x,y,z");
}

/// A client knows its own notifications by its process id, whoever else uses its server, and has them before the end of its answer.
#[test]
fn ones_own_come_under_ones_own_id() {
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE t (); CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NOTIFY news, 'by a trigger'; RETURN NULL; END $$; \
                 CREATE TRIGGER tell AFTER INSERT ON t FOR EACH STATEMENT EXECUTE FUNCTION tell()");
    let weir = over(&cluster).start();
    let (mut a, mut b, mut c) = (weir.client("app"), weir.client("app"), weir.client("app"));
    a.run("LISTEN news");
    b.run("LISTEN news");
    for i in 0..15 {
        // The third listens to nothing, and its server is lent to the first right behind it.
        c.run(&format!("NOTIFY news, 'c {i}'"));
        a.query(&format!("NOTIFY news, 'a {i}'"));
        let mut answer = a.read_until_ready();
        let own = answer
            .iter()
            .position(|m| m.to_string() == format!("A(news,a {i})"))
            .unwrap_or_else(|| panic!("{}", show(&answer)));
        assert_eq!(sender(&answer[own]), a.pid);
        assert_eq!(answer.last().unwrap().to_string(), "Z(I)", "{}", show(&answer));
        answer.retain(|m| m.to_string() == format!("A(news,c {i})"));
        let of_c = if answer.is_empty() { a.read_message() } else { answer.remove(0) };
        assert_eq!(of_c.to_string(), format!("A(news,c {i})"));
        assert!(sender(&of_c) < 4_194_304, "another's");
        for who in ["c", "a"] {
            let heard = b.read_message();
            assert_eq!(heard.to_string(), format!("A(news,{who} {i})"));
            assert!(sender(&heard) < 4_194_304);
        }
    }
    a.query("INSERT INTO t DEFAULT VALUES");
    let answer = a.read_until_ready();
    assert_eq!(show(&answer), "C(INSERT 0 1) A(news,by a trigger) Z(I)");
    assert_eq!(sender(&answer[1]), a.pid);
    a.run("BEGIN");
    assert_eq!(extended(&mut a, "NOTIFY news, 'in a block'"), "1 2 C(NOTIFY) Z(T)");
    a.query("COMMIT");
    let answer = a.read_until_ready();
    assert_eq!(show(&answer), "C(COMMIT) A(news,in a block) Z(I)");
    assert_eq!(sender(&answer[1]), a.pid);
    assert_eq!(
        a.run("BEGIN; LISTEN more; NOTIFY more, 'mine'; COMMIT"),
        "C(BEGIN) C(LISTEN) C(NOTIFY) C(COMMIT) A(more,mine) Z(I)"
    );
}

/// From the commit on, whoever sends: also what comes before we have read that it has committed.
#[test]
fn what_comes_before_a_commit_is_read_is_heard() {
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE workers (id int)");
    let weir = over(&cluster).start();
    let mut a = weir.client("app");
    assert_eq!(a.run("LISTEN a; NOTIFY a, 'x'"), "C(LISTEN) C(NOTIFY) A(a,x) Z(I)");
    let later = "BEGIN; LISTEN b; NOTIFY b, 'y'; COMMIT; SELECT pg_sleep(0.3)";
    assert!(a.run(later).ends_with("C(SELECT 1) A(b,y) Z(I)"));
    // Another sees the row, which is there with the listening, and answers at once.
    a.query("BEGIN; INSERT INTO workers VALUES (1); LISTEN c; COMMIT; NOTIFY a, 'z'; SELECT pg_sleep(1)");
    eventually("the row is there", SOON, || (cluster.value("SELECT count(*) FROM workers") == "1").then_some(()));
    cluster.sql("NOTIFY c, 'at once'");
    let answer = show(&a.read_until_ready());
    assert!(answer.contains(" A(c,at once) "), "{answer}");
    // What is rolled back after all was never listened to.
    a.run("BEGIN; LISTEN d");
    a.query("SELECT pg_sleep(0.5); SELECT 1/0; COMMIT");
    cluster.sql("NOTIFY d");
    a.read_until_ready();
    assert_eq!(a.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    assert_eq!(channels(&mut a), "a,b,c");
    cluster.sql("NOTIFY a, 'after'");
    told(&mut a, &["A(a,after)"]);
}

/// What is lost is told.
#[test]
fn listeners_learn_of_what_they_may_have_missed() {
    let cluster = Cluster::start();
    let weir = over(&cluster).start();
    let (mut a, mut busy, mut bystander) = (weir.client("app"), weir.client("app"), weir.client("app"));
    a.run("LISTEN news");
    busy.run("LISTEN news");
    busy.run("BEGIN");
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgweir listener'";
    assert_eq!(cluster.value(end), "t");
    let farewell = a.read_to_end();
    assert_eq!(show(&farewell), "E(FATAL 08006)");
    assert!(farewell[0].error().unwrap().message.contains("on which notifications come"), "{:?}", farewell[0].error());
    // A transaction is not cut.
    assert_eq!(busy.value("SELECT 1"), "1");
    assert_eq!(busy.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(show(&busy.read_to_end()), "E(FATAL 08006)");
    assert_eq!(bystander.value("SELECT 1"), "1", "who does not listen notices nothing");
    let mut again = weir.client("app");
    assert_eq!(again.run("LISTEN news"), "C(LISTEN) Z(I)");
    cluster.sql("NOTIFY news, 'healed'");
    told(&mut again, &["A(news,healed)"]);
    // Who was about to listen is told as well.
    let mut open = weir.client("app");
    assert_eq!(open.run("BEGIN; LISTEN more"), "C(BEGIN) C(LISTEN) Z(T)");
    assert_eq!(cluster.value(end), "t");
    assert_eq!(open.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(show(&open.read_to_end()), "E(FATAL 08006)");
    assert_eq!(show(&again.read_to_end()), "E(FATAL 08006)");
    let mut again = weir.client("app");
    assert_eq!(again.run("LISTEN news"), "C(LISTEN) Z(I)");
    // Who does not read is ended and delays nobody.
    let mut slow = weir.client("app");
    slow.run("LISTEN news");
    slow.run("BEGIN");
    for round in 0..8 {
        cluster.sql(&format!(
            "SELECT pg_notify('news', repeat('x', 7900) || g) FROM generate_series(1, 100) g WHERE {round} >= 0"
        ));
        for _ in 0..100 {
            assert_eq!(again.read_message().tag, b'A');
        }
    }
    assert_eq!(slow.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(show(&slow.read_to_end()), "E(FATAL 54000)");
    assert_eq!(again.value("SELECT 1"), "1");
}

/// The farewell of a client that writes without a pause, which comes within `time`.
fn farewell(busy: &mut RawClient, time: Duration) -> Message {
    let from = pgweir::clock::now();
    while from.elapsed() < time {
        busy.query("NOTIFY other");
        loop {
            match busy.try_read_message().unwrap() {
                Some(message) if message.tag == b'Z' => break,
                Some(message) if message.tag == b'E' => return message,
                Some(_) => {}
                None => panic!("it left without a word"),
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("it was told nothing in {time:?}");
}

/// Its own questions do not put off the one where the database is.
#[test]
fn a_listener_that_is_never_quiet_learns_that_its_database_is_elsewhere() {
    let (old, new) = (Cluster::start(), Cluster::start());
    let mut weir = over(&old).start();
    let mut busy = weir.client("app");
    busy.run("LISTEN news");
    weir.reconfigure(|_| over(&new));
    weir.hup();
    let told = farewell(&mut busy, SOON).error().unwrap();
    assert_eq!((told.code.as_str(), told.severity.as_str()), ("08006", "FATAL"));
    assert!(told.message.contains("the database is elsewhere now"), "{told:?}");
}

/// Whatever becomes of a session or its configuration, it stops to listen when it says so, and hears nothing twice.
#[test]
fn who_listens_already_is_followed_wherever_it_goes() {
    let cluster = Cluster::start();
    let mut weir = over(&cluster).start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    for client in [&mut a, &mut b] {
        assert_eq!(client.run("LISTEN x; LISTEN y"), "C(LISTEN) C(LISTEN) Z(I)");
    }
    let heard = |client: &mut RawClient, expected: &[&str]| {
        cluster.sql("NOTIFY x; NOTIFY y; NOTIFY z");
        told(client, expected);
        client.expect_silence(QUIET);
    };
    weir.reconfigure(|_| over(&cluster).database("server_lifetime = \"50min\""));
    weir.hup();
    weir.wait_log("configuration reloaded");
    assert_eq!(a.run("UNLISTEN x; LISTEN y; LISTEN z"), "C(UNLISTEN) C(LISTEN) C(LISTEN) Z(I)");
    assert_eq!(channels(&mut a), "y,z");
    heard(&mut a, &["A(y,)", "A(z,)"]);
    assert_eq!(weir.admin("SHOW PINS"), Vec::<Vec<String>>::new(), "what servers are like is known from before");
    a.run("SET client_encoding = 'LATIN1'");
    assert_eq!(a.run("UNLISTEN y; LISTEN z"), "C(UNLISTEN) C(LISTEN) Z(I)");
    heard(&mut a, &["A(z,)"]);
    // What it comes to listen to now, its server tells it; the rest goes on.
    assert_eq!(a.run("LISTEN x"), "C(LISTEN) Z(I)");
    assert_eq!(channels(&mut a), "z,x");
    a.run("SET client_encoding = 'UTF8'");
    assert_eq!(a.run("LISTEN x"), "C(LISTEN) Z(I)");
    cluster.sql("NOTIFY x");
    told(&mut a, &["A(x,)"]);
    a.expect_silence(QUIET);
    assert_eq!(a.run("UNLISTEN *"), "C(UNLISTEN) Z(I)");
    assert_eq!(channels(&mut a), "");
    heard(&mut a, &[]);
}

#[test]
fn who_cannot_be_listened_for_keeps_his_server() {
    let cluster = Cluster::start();
    let weir = over(&cluster)
        .database(&format!(
            "[databases.session]\nprimary = \"postgres://127.0.0.1:{}/postgres\"\npool_mode = \"session\"",
            cluster.port()
        ))
        .start();
    let mut latin = weir.login("postgres", "app").param("client_encoding", "LATIN1").connect().unwrap();
    let mut session = weir.client("session");
    for client in [&mut latin, &mut session] {
        assert_eq!(client.run("LISTEN news"), "C(LISTEN) Z(I)");
        cluster.sql("NOTIFY news, 'é'");
        assert_eq!(client.read_message().tag, b'A');
    }
    drop(latin);
    let mut utf8 = weir.client("app");
    assert_eq!(channels(&mut utf8), "");
    utf8.run("LISTEN news");
    utf8.run("SET client_encoding = 'LATIN1'");
    cluster.sql("NOTIFY news, 'plain'");
    told(&mut utf8, &["A(news,plain)"]);
    cluster.sql("NOTIFY news, 'é'");
    assert_eq!(show(&utf8.read_to_end()), "E(FATAL 0A000)");
    // Without a server to ask it fails where PostgreSQL's would.
    let mut late = weir.client("app");
    late.run("SELECT 1");
    cluster.stop();
    assert!(late.run("LISTEN news").starts_with("E(08"));
}

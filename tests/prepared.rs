//! Prepared statements follow their client from server to server, are shared where they are equal, and never mix.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::SERVER_PID;
use common::cluster::Cluster;
use common::eventually;
use common::raw::RawClient;
use common::tools;
use common::weir::{Builder, Weir};
use common::wire::show;
use tokio_postgres::types::ToSql;

fn over(cluster: &Cluster, size: u32) -> Builder {
    Weir::builder().general("server_round_robin = true").database(&format!(
        "[databases.app]\nprimary = \"postgres://127.0.0.1:{}/postgres\"\npool_size = {size}",
        cluster.port()
    ))
}

/// Opens both connections of a pool of two: they then take turns.
fn warm(weir: &Weir) {
    let mut both = [weir.client("app"), weir.client("app")];
    both.iter_mut().for_each(|client| assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)"));
    both.iter_mut().for_each(|client| assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)"));
    // And what the database's code is: until then clients keep their servers.
    assert_eq!(both[0].value("SELECT 1 + 1"), "2");
    let free = || weir.admin_table("SHOW POOLS").iter().all(|pool| pool["sv_active"] == "0");
    eventually("the database's code is known", Duration::from_secs(15), || free().then_some(()));
}

fn prepare(client: &mut RawClient, name: &str, sql: &str) {
    client.parse(name, sql, &[]);
    client.sync();
    assert_eq!(show(&client.read_until_ready()), "1 Z(I)", "{name}: {sql}");
}

/// Bind, Execute, Sync of a named statement: the compact answer.
fn execute(client: &mut RawClient, name: &str, values: &[Option<&str>]) -> String {
    client.bind("", name, values);
    client.execute("", 0);
    client.sync();
    show(&client.read_until_ready())
}

/// Statements prepared on the server that this client's next transaction gets.
fn on_server(client: &mut RawClient) -> usize {
    client.value("SELECT count(*) FROM ROWS FROM (pg_prepared_statement())").parse().unwrap()
}

#[test]
fn statements_follow_their_clients() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 2).start();
    warm(&weir);
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    prepare(&mut a, "s", &format!("SELECT 'a', ({SERVER_PID}), $1::int"));
    prepare(&mut b, "s", &format!("SELECT 'b', ({SERVER_PID}), $1::int"));
    prepare(&mut a, "only a", "SELECT 'only a'");
    let mut servers = [BTreeSet::new(), BTreeSet::new()];
    for turn in 0..12 {
        let number = turn.to_string();
        for (client, who) in [(&mut a, 0), (&mut b, 1)] {
            client.bind("", "s", &[Some(&number)]);
            client.execute("", 0);
            client.sync();
            let messages = client.read_until_ready();
            let row = messages.iter().find_map(|m| m.row()).unwrap_or_else(|| panic!("{}", show(&messages)));
            assert_eq!(row[0].as_deref(), Some(["a", "b"][who]));
            assert_eq!(row[2].as_deref(), Some(number.as_str()));
            servers[who].insert(row[1].clone().unwrap());
        }
        // Every third turn one server is skipped, so that both see both.
        if turn % 3 == 0 {
            b.run("SELECT 1");
        }
    }
    assert!(servers.iter().all(|seen| seen.len() == 2), "{servers:?}");
    assert_eq!(execute(&mut a, "only a", &[]), "2 D(only a) C(SELECT 1) Z(I)");
    assert_eq!(execute(&mut b, "only a", &[]), "E(26000) Z(I)");
}

/// Preparing what is prepared elsewhere waits for no server; what is new does, and so does a statement whose names may mean
/// something else here.
#[test]
fn known_statements_are_prepared_without_a_server() {
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE t (a int)");
    let weir = over(&cluster, 1).start();
    let (mut a, mut b, mut c) = (weir.client("app"), weir.client("app"), weir.client("app"));
    c.run("SET search_path = public");
    prepare(&mut a, "s", "SELECT count(*) FROM t");
    assert_eq!(a.run("BEGIN"), "C(BEGIN) Z(T)");
    // The only server is taken.
    prepare(&mut b, "mine", "SELECT count(*) FROM t");
    b.parse("mine", "SELECT count(*) FROM t", &[]);
    b.sync();
    b.close_statement("mine");
    b.parse("mine", "SELECT count(*) FROM t", &[]);
    b.sync();
    c.parse("s", "SELECT count(*) FROM t", &[]);
    c.sync();
    // The search_path of c is another.
    c.expect_silence(Duration::from_millis(200));
    a.run("INSERT INTO t VALUES (1)");
    assert_eq!(a.run("COMMIT"), "C(COMMIT) Z(I)");
    // A name twice is an error, from whoever says it.
    assert_eq!(show(&b.read_until_ready()), "E(42P05) Z(I)");
    assert_eq!(show(&b.read_until_ready()), "3 1 Z(I)");
    assert_eq!(show(&c.read_until_ready()), "1 Z(I)");
    assert_eq!(execute(&mut b, "mine", &[]), "2 D(1) C(SELECT 1) Z(I)");
    // What a server would refuse by now is refused when it is run.
    cluster.sql("DROP TABLE t");
    prepare(&mut b, "again", "SELECT count(*) FROM t");
    assert_eq!(execute(&mut b, "again", &[]), "E(42P01) Z(I)");
    assert_eq!(b.run("SELECT 1"), "T(?column?:23) D(1) C(SELECT 1) Z(I)");
}

/// Between Flush and Sync the server may still hold what the exchange has made: nobody else gets it.
#[test]
fn a_server_is_kept_until_the_sync() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    prepare(&mut a, "s", &format!("SELECT ({SERVER_PID}), $1::text"));
    for rounds in 0..2 {
        a.bind("", "s", &[Some("early")]);
        a.execute("", 0);
        a.flush();
        a.read_until(b'C');
        b.query("SELECT 'mine'");
        b.expect_silence(Duration::from_millis(150));
        if rounds == 1 {
            // An error does not end the exchange either.
            a.bind("", "unknown", &[]);
            a.flush();
            a.read_until(b'E');
            b.expect_silence(Duration::from_millis(150));
        }
        a.sync();
        assert_eq!(show(&a.read_until_ready()), "Z(I)");
        assert!(show(&b.read_until_ready()).contains("D(mine)"));
    }
}

#[test]
fn describe_on_a_server_that_has_not_seen_it() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 2).start();
    warm(&weir);
    let mut client = weir.client("app");
    prepare(&mut client, "d", "SELECT $1::int8 AS n");
    for _ in 0..4 {
        client.describe_statement("d");
        client.sync();
        assert_eq!(show(&client.read_until_ready()), "t(20) T(n:20) Z(I)");
    }
}

#[test]
fn equal_statements_are_shared() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).start();
    let mut clients: Vec<_> = (0..5).map(|_| weir.client("app")).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        prepare(client, &format!("name {number}"), "SELECT $1::int + 1");
        assert_eq!(execute(client, &format!("name {number}"), &[Some("1")]), "2 D(2) C(SELECT 1) Z(I)");
    }
    assert_eq!(on_server(&mut clients[0]), 1);
    // Other types of parameters are another statement.
    clients[0].parse("typed", "SELECT $1::int + 1", &[23]);
    clients[0].sync();
    assert_eq!(show(&clients[0].read_until_ready()), "1 Z(I)");
    assert_eq!(on_server(&mut clients[0]), 2);
    // One closes it, one leaves: the others still have it.
    clients[1].close_statement("name 1");
    clients[1].sync();
    assert_eq!(show(&clients[1].read_until_ready()), "3 Z(I)");
    assert_eq!(execute(&mut clients[1], "name 1", &[Some("1")]), "E(26000) Z(I)");
    clients.remove(2);
    assert_eq!(execute(&mut clients[0], "name 0", &[Some("5")]), "2 D(6) C(SELECT 1) Z(I)");
}

#[test]
fn deallocate_concerns_its_own_client() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    for sql in ["DEALLOCATE s", "DEALLOCATE PREPARE s", "DEALLOCATE ALL", "DISCARD ALL"] {
        prepare(&mut a, "s", "SELECT 'shared'");
        prepare(&mut b, "s", "SELECT 'shared'");
        let tag = match sql {
            "DISCARD ALL" => "DISCARD ALL",
            "DEALLOCATE ALL" => "DEALLOCATE ALL",
            _ => "DEALLOCATE",
        };
        assert_eq!(a.run(sql), format!("C({tag}) Z(I)"));
        assert_eq!(execute(&mut a, "s", &[]), "E(26000) Z(I)", "{sql}");
        assert_eq!(execute(&mut b, "s", &[]), "2 D(shared) C(SELECT 1) Z(I)", "{sql}");
        b.close_statement("s");
        b.sync();
        assert_eq!(show(&b.read_until_ready()), "3 Z(I)");
    }
    // By the extended protocol; one that fails changes nothing.
    prepare(&mut a, "s", "SELECT 'shared'");
    for (sql, answer) in [("DEALLOCATE nope", "1 E(26000) Z(I)"), ("DEALLOCATE s", "1 2 C(DEALLOCATE) Z(I)")] {
        a.parse("", sql, &[]);
        a.bind("", "", &[]);
        a.execute("", 0);
        a.sync();
        let said = show(&a.read_until_ready());
        assert!(said == answer || said == answer.replace("1 E", "1 2 E"), "{sql}: {said}");
        let expected = if sql.ends_with("nope") { "2 D(shared) C(SELECT 1) Z(I)" } else { "E(26000) Z(I)" };
        assert_eq!(execute(&mut a, "s", &[]), expected, "{sql}");
    }
}

/// What is prepared behind a DEALLOCATE ALL, without waiting for it, is there afterwards.
#[test]
fn names_given_behind_deallocate_all_stay() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).start();
    for all in ["DISCARD ALL", "DEALLOCATE ALL"] {
        let mut client = weir.client("app");
        prepare(&mut client, "old", "SELECT 'old'");
        client.query(all);
        client.parse("new", "SELECT 'new'", &[]);
        client.parse("old", "SELECT 'again'", &[]);
        client.sync();
        assert!(show(&client.read_until_ready()).ends_with("ALL) Z(I)"));
        assert_eq!(show(&client.read_until_ready()), "1 1 Z(I)");
        assert_eq!(execute(&mut client, "new", &[]), "2 D(new) C(SELECT 1) Z(I)");
        assert_eq!(execute(&mut client, "old", &[]), "2 D(again) C(SELECT 1) Z(I)");
        client.run("DEALLOCATE ALL");
    }
    // In one pipeline; the server has both statements before.
    let mut client = weir.client("app");
    prepare(&mut client, "x", "SELECT 'new'");
    assert_eq!(execute(&mut client, "x", &[]), "2 D(new) C(SELECT 1) Z(I)");
    client.parse("", "DEALLOCATE ALL", &[]);
    client.bind("", "", &[]);
    client.execute("", 0);
    client.parse("y", "SELECT 'new'", &[]);
    assert_eq!(execute(&mut client, "y", &[]), "1 2 C(DEALLOCATE ALL) 1 2 D(new) C(SELECT 1) Z(I)");
    assert_eq!(execute(&mut client, "y", &[]), "2 D(new) C(SELECT 1) Z(I)");
    assert_eq!(execute(&mut client, "x", &[]), "E(26000) Z(I)");
}

/// PostgreSQL has one list of names for SQL and for the protocol.
#[test]
fn sql_runs_what_the_protocol_has_prepared() {
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE t AS SELECT 5 AS a");
    let weir = over(&cluster, 2).start();
    warm(&weir);
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    prepare(&mut a, "s", "SELECT a + $1::int AS sum FROM t");
    prepare(&mut b, "s", "SELECT 'other'");
    for number in 0..4 {
        let sum = 5 + number;
        assert_eq!(a.run(&format!("EXECUTE s({number})")), format!("T(sum:23) D({sum}) C(SELECT 1) Z(I)"));
        assert_eq!(b.run("EXECUTE s"), "T(?column?:25) D(other) C(SELECT 1) Z(I)");
        assert!(a.value("EXPLAIN (COSTS off) EXECUTE s(1)").contains("Seq Scan"));
        // The extended protocol describes it too.
        a.parse("", "EXECUTE s(1)", &[]);
        a.describe_statement("");
        a.bind("", "", &[]);
        a.describe_portal("");
        a.execute("", 0);
        a.sync();
        assert_eq!(show(&a.read_until_ready()), "1 t() T(sum:23) 2 T(sum:23) D(6) C(SELECT 1) Z(I)");
        b.run("SELECT 1");
    }
    prepare(&mut a, "runs it", "EXECUTE s(2)");
    for _ in 0..3 {
        assert_eq!(execute(&mut a, "runs it", &[]), "2 D(7) C(SELECT 1) Z(I)");
        b.run("SELECT 1");
    }
    assert_eq!(a.run("CREATE TABLE made AS EXECUTE s(10)"), "C(SELECT 1) Z(I)");
    assert_eq!(b.value("SELECT sum FROM made"), "15");
    assert_eq!(a.run("BEGIN; EXECUTE s(1); COMMIT"), "C(BEGIN) T(sum:23) D(6) C(SELECT 1) C(COMMIT) Z(I)");
    assert_eq!(a.run("PREPARE s AS SELECT 1"), "E(42P05) Z(I)");
    // Neither name is left on the servers, and nobody is kept on one.
    for client in [&mut a, &mut b] {
        assert_eq!(
            client.value("SELECT count(*) FROM ROWS FROM (pg_prepared_statement()) WHERE name NOT LIKE 'pgweir%'"),
            "0"
        );
    }
    assert_eq!(a.run("DEALLOCATE s; EXECUTE s(1)"), "C(DEALLOCATE) E(26000) Z(I)");
    assert_eq!(execute(&mut b, "s", &[]), "2 D(other) C(SELECT 1) Z(I)");

    // Its errors are its own, in and out of a transaction.
    prepare(&mut a, "s", "SELECT 10 / sum FROM made");
    cluster.sql("DROP TABLE made");
    assert_eq!(a.run("EXECUTE s"), "E(42P01) Z(I)");
    assert_eq!(a.run("SELECT 1/0; EXECUTE s"), "E(22012) Z(I)");
    assert_eq!(a.run("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(a.run("EXECUTE s"), "E(42P01) Z(E)");
    assert_eq!(a.run("EXECUTE s"), "E(25P02) Z(E)");
    assert_eq!(a.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    a.parse("", "EXECUTE s", &[]);
    a.sync();
    assert_eq!(show(&a.read_until_ready()), "E(42P01) Z(I)");
    // What it does to the session counts as if it were written out.
    prepare(&mut a, "lock", "SELECT pg_advisory_lock(77)");
    assert_eq!(a.run("EXECUTE lock"), "T(pg_advisory_lock:2278) D() C(SELECT 1) Z(I)");
    for _ in 0..3 {
        assert_eq!(a.value("SELECT pg_advisory_unlock(77) AND pg_try_advisory_lock(77)"), "t", "it keeps its server");
    }
    drop(a);
    let left = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    eventually("the lock is gone", Duration::from_secs(10), || (cluster.value(left) == "0").then_some(()));
}

/// A DEALLOCATE that is never reached leaves nothing on the server.
#[test]
fn a_lent_name_is_never_seen_by_the_next_client() {
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE t (v text)");
    let weir = over(&cluster, 1).start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    prepare(&mut a, "s", "SELECT 'of a'");
    // The Sync is held back behind the COPY, which fails.
    for sql in ["EXECUTE s", "COPY nowhere FROM STDIN"] {
        a.parse("", sql, &[]);
        a.bind("", "", &[]);
        a.execute("", 0);
    }
    a.sync();
    assert_eq!(show(&a.read_until_ready()), "1 2 D(of a) C(SELECT 1) 1 2 E(42P01) Z(I)");
    assert_eq!(b.run("EXECUTE s"), "E(26000) Z(I)");
    // One that begins takes nothing but its data: the name goes back when it is over.
    for (end, answer) in [("done", "C(COPY 1) Z(I)"), ("fail", "E(57014) Z(I)")] {
        a.query("EXECUTE s; COPY t FROM STDIN");
        assert_eq!(show(&a.read_until(b'G')), "T(?column?:25) D(of a) C(SELECT 1) G(0,1)");
        a.copy_data(b"one\n");
        if end == "done" {
            a.copy_done()
        } else {
            a.copy_fail("no more")
        }
        assert_eq!(show(&a.read_until_ready()), answer);
        assert_eq!(b.run("EXECUTE s"), "E(26000) Z(I)", "after {end}");
    }
    // In the extended protocol as well, where a Sync within the data counts for nothing.
    for sql in ["EXECUTE s", "COPY t FROM STDIN"] {
        a.parse("", sql, &[]);
        a.bind("", "", &[]);
        a.execute("", 0);
    }
    a.flush();
    assert_eq!(show(&a.read_until(b'G')), "1 2 D(of a) C(SELECT 1) 1 2 G(0,1)");
    a.sync();
    a.copy_data(b"two\n");
    a.copy_done();
    a.sync();
    assert_eq!(show(&a.read_until_ready()), "C(COPY 1) Z(I)");
    assert_eq!(b.run("EXECUTE s"), "E(26000) Z(I)");
    assert_eq!(b.run("PREPARE s AS SELECT 'of b'"), "C(PREPARE) Z(I)");
    assert_eq!(cluster.value("SELECT count(*) FROM t"), "2");
}

#[test]
fn an_unreached_deallocate_leaves_nothing() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    prepare(&mut a, "mine", "SELECT 'a'");
    assert_eq!(execute(&mut a, "mine", &[]), "2 D(a) C(SELECT 1) Z(I)");
    let left = "SELECT count(*) FROM ROWS FROM (pg_prepared_statement()) WHERE name = 'mine'";
    assert!(a.run("SELECT 1/0; DEALLOCATE mine").ends_with("E(22012) Z(I)"));
    assert_eq!(b.value(left), "0");
    assert_eq!(execute(&mut a, "mine", &[]), "2 D(a) C(SELECT 1) Z(I)");
    for (sql, answer) in [("SELECT 1/0", "E(22012)"), ("SELECT 1", "D(1) C(SELECT 1)")] {
        a.parse("", sql, &[]);
        a.bind("", "", &[]);
        a.execute("", 0);
        a.parse("", "DEALLOCATE mine", &[]);
        a.bind("", "", &[]);
        a.execute("", 0);
        a.sync();
        assert!(show(&a.read_until_ready()).contains(answer));
        assert_eq!(b.value(left), "0");
    }
    assert_eq!(execute(&mut a, "mine", &[]), "E(26000) Z(I)");
    // In a block the answer stays right, and so does what follows.
    prepare(&mut a, "mine", "SELECT 'a'");
    assert_eq!(a.run("BEGIN"), "C(BEGIN) Z(T)");
    assert!(a.run("SELECT 1/0; DEALLOCATE mine").ends_with("E(22012) Z(E)"));
    assert_eq!(a.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    assert_eq!(execute(&mut a, "mine", &[]), "2 D(a) C(SELECT 1) Z(I)");
    assert_eq!(b.value(left), "0");
}

/// Statements that go from a server unseen, or by the name they have there, are prepared again.
#[test]
fn lost_statements_are_prepared_again() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    prepare(&mut a, "s", "SELECT 'here'");
    assert_eq!(execute(&mut a, "s", &[]), "2 D(here) C(SELECT 1) Z(I)");
    let code = "DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$";
    assert_eq!(b.run(code), "C(DO) Z(I)");
    assert_eq!(execute(&mut a, "s", &[]), "2 D(here) C(SELECT 1) Z(I)");
    // Within its own transaction it fails once, as it would without us.
    assert_eq!(a.run("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(a.run(code), "C(DO) Z(T)");
    assert_eq!(execute(&mut a, "s", &[]), "E(26000) Z(E)");
    assert_eq!(a.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    assert_eq!(execute(&mut a, "s", &[]), "2 D(here) C(SELECT 1) Z(I)");
}

/// What is believed of a server after a reset is what the reset query says.
#[test]
fn a_reset_query_is_taken_by_its_word() {
    for reset in ["RESET ALL", "deallocate all; reset all", "DISCARD ALL", "SELECT 1"] {
        let cluster = Cluster::start();
        let weir = Weir::builder()
            .general(&format!("server_reset_query = \"{reset}\""))
            .database(&format!(
                "[databases.app]\nprimary = \"postgres://127.0.0.1:{}/postgres\"\npool_size = 1",
                cluster.port()
            ))
            .start();
        let (mut a, mut b) = (weir.client("app"), weir.client("app"));
        prepare(&mut a, "s", "SELECT 'here'");
        b.run("SET work_mem = '5MB'");
        for _ in 0..3 {
            assert_eq!(execute(&mut a, "s", &[]), "2 D(here) C(SELECT 1) Z(I)", "{reset}");
            assert_eq!(b.value("SHOW work_mem"), "5MB");
            assert_eq!(b.run("DO 'BEGIN END'"), "C(DO) Z(I)");
            assert_eq!(b.value("SHOW work_mem"), "5MB", "{reset}");
            assert_eq!(a.value("SHOW work_mem"), "4MB", "{reset}");
        }
    }
}

#[test]
fn server_holds_no_more_than_the_cap() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).general("max_prepared_statements = 3").start();
    let mut client = weir.client("app");
    for number in 0..10 {
        prepare(&mut client, &format!("s{number}"), &format!("SELECT {number}"));
    }
    assert_eq!(on_server(&mut client), 3);
    for _ in 0..2 {
        for number in 0..10 {
            let answer = execute(&mut client, &format!("s{number}"), &[]);
            assert_eq!(answer, format!("2 D({number}) C(SELECT 1) Z(I)"));
        }
    }
    // All ten in one pipeline.
    for number in 0..10 {
        client.bind("", &format!("s{number}"), &[]);
        client.execute("", 0);
    }
    client.sync();
    let expected: String = (0..10).map(|number| format!("2 D({number}) C(SELECT 1) ")).collect();
    assert_eq!(show(&client.read_until_ready()), format!("{expected}Z(I)"));
    assert_eq!(on_server(&mut client), 3);
}

#[test]
fn eviction_that_fails_is_undone() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).general("max_prepared_statements = 2").start();
    let mut client = weir.client("app");
    for name in ["a", "b", "c", "d"] {
        prepare(&mut client, name, &format!("SELECT '{name}'"));
    }
    for round in 0..4 {
        // The server fails first; what would make room and prepare anew is skipped there.
        client.parse("", "SELECT 1/0", &[]);
        client.bind("", "", &[]);
        client.execute("", 0);
        for name in ["a", "b"] {
            client.bind("", name, &[]);
            client.execute("", 0);
        }
        let new = format!("new {round}");
        client.parse(&new, "SELECT 'new'", &[]);
        client.sync();
        assert_eq!(show(&client.read_until_ready()).replace("1 2 E", "1 E"), "1 E(22012) Z(I)");
        assert_eq!(execute(&mut client, &new, &[]), "E(26000) Z(I)");
        for name in ["d", "c", "a", "b"] {
            assert_eq!(execute(&mut client, name, &[]), format!("2 D({name}) C(SELECT 1) Z(I)"), "round {round}");
        }
        assert!(on_server(&mut client) <= 2);
    }
}

#[test]
fn table_changes_between_executions() {
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE t AS SELECT 1 AS a");
    let weir = over(&cluster, 2).start();
    warm(&weir);
    let mut client = weir.client("app");
    prepare(&mut client, "all", "SELECT * FROM t");
    for _ in 0..2 {
        assert_eq!(execute(&mut client, "all", &[]), "2 D(1) C(SELECT 1) Z(I)");
    }
    cluster.sql("ALTER TABLE t ADD b int DEFAULT 2");
    // PostgreSQL refuses the old plan; drivers then close the statement and prepare it anew, which must help on every server.
    for _ in 0..2 {
        let answer = execute(&mut client, "all", &[]);
        if answer == "E(0A000) Z(I)" {
            client.close_statement("all");
            client.parse("all", "SELECT * FROM t", &[]);
            client.sync();
            assert_eq!(show(&client.read_until_ready()), "3 1 Z(I)");
        } else {
            assert_eq!(answer, "2 D(1|2) C(SELECT 1) Z(I)");
        }
    }
    for _ in 0..4 {
        assert_eq!(execute(&mut client, "all", &[]), "2 D(1|2) C(SELECT 1) Z(I)");
    }
    // A newcomer who prepares the same text gets the new table.
    let mut other = weir.client("app");
    other.parse("x", "SELECT * FROM t", &[]);
    other.describe_statement("x");
    other.sync();
    assert_eq!(show(&other.read_until_ready()), "1 t() T(a:23,b:23) Z(I)");
}

/// PostgreSQL refuses the old plan once, and the client hears of it; it need not do anything for the next use to be of one prepared anew.
#[test]
fn a_statement_whose_table_has_changed_is_prepared_anew() {
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE t AS SELECT 1 AS a");
    let weir = over(&cluster, 1).start();
    let mut client = weir.client("app");
    prepare(&mut client, "all", "SELECT * FROM t");
    assert_eq!(execute(&mut client, "all", &[]), "2 D(1) C(SELECT 1) Z(I)");
    for (column, row) in [("b", "1|2"), ("c", "1|2|2")] {
        cluster.sql(&format!("ALTER TABLE t ADD {column} int DEFAULT 2"));
        assert_eq!(execute(&mut client, "all", &[]), "E(0A000) Z(I)");
        for _ in 0..3 {
            assert_eq!(execute(&mut client, "all", &[]), format!("2 D({row}) C(SELECT 1) Z(I)"));
        }
    }
}

#[test]
fn names_are_sent_as_they_are_when_not_followed() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).general("max_prepared_statements = 0\npool_mode = \"session\"").start();
    let mut client = weir.client("app");
    prepare(&mut client, "plain", "SELECT 'as is'");
    assert_eq!(client.value("SELECT name FROM pg_prepared_statements"), "plain");
    assert_eq!(execute(&mut client, "plain", &[]), "2 D(as is) C(SELECT 1) Z(I)");
    client.parse("plain", "SELECT 2", &[]);
    client.sync();
    assert_eq!(show(&client.read_until_ready()), "E(42P05) Z(I)");
}

#[test]
fn parses_are_counted() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    for client in [&mut a, &mut b] {
        prepare(client, "s", "SELECT 1");
        for _ in 0..3 {
            assert_eq!(execute(client, "s", &[]), "2 D(1) C(SELECT 1) Z(I)");
        }
    }
    let stats = weir.admin_table("SHOW STATS");
    let app = stats.iter().find(|row| row["database"] == "app").unwrap();
    let count = |name: &str| app[name].parse::<u64>().unwrap();
    assert_eq!(count("total_client_parse_count"), 2);
    assert_eq!(count("total_bind_count"), 6);
    assert_eq!(count("total_server_parse_count"), 1);
}

/// CVE class: a cache that crosses users. What is known of a statement by one user's doing answers for nobody else: not that it may be
/// run, nor what it returns.
#[test]
fn what_one_user_may_another_may_not() {
    let cluster = Cluster::start();
    cluster.sql(
        "CREATE USER may; CREATE USER may_not; CREATE TABLE secret AS SELECT 'told' AS v; GRANT SELECT ON secret TO may; \
         CREATE TABLE tenants AS SELECT unnest(ARRAY['may', 'may_not']) AS owner; GRANT SELECT ON tenants TO public; \
         ALTER TABLE tenants ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON tenants USING (owner = current_user); \
         CREATE SCHEMA may AUTHORIZATION may; CREATE TABLE may.own AS SELECT 'of may' AS v; GRANT SELECT ON may.own TO may",
    );
    let weir = over(&cluster, 2).users("\"may\" \"\"\n\"may_not\" \"\"").start();
    let (mut may, mut may_not) =
        (weir.login("may", "app").connect().unwrap(), weir.login("may_not", "app").connect().unwrap());
    for round in 0..3 {
        let name = format!("s{round}");
        prepare(&mut may, &name, "SELECT v FROM secret");
        assert_eq!(execute(&mut may, &name, &[]), "2 D(told) C(SELECT 1) Z(I)");
        may_not.parse(&name, "SELECT v FROM secret", &[]);
        may_not.sync();
        assert_eq!(show(&may_not.read_until_ready()), "1 Z(I)");
        assert_eq!(execute(&mut may_not, &name, &[]), "E(42501) Z(I)");
        assert_eq!(may_not.run("SELECT v FROM secret"), "E(42501) Z(I)");
        // A name that only one of them finds.
        let name = format!("own{round}");
        prepare(&mut may, &name, "SELECT v FROM own");
        assert_eq!(execute(&mut may, &name, &[]), "2 D(of may) C(SELECT 1) Z(I)");
        may_not.parse(&name, "SELECT v FROM own", &[]);
        may_not.sync();
        assert_eq!(show(&may_not.read_until_ready()), "E(42P01) Z(I)");
        // Rows that are each one's own.
        for (client, owner) in [(&mut may, "may"), (&mut may_not, "may_not")] {
            let name = format!("rows{round}");
            prepare(client, &name, "SELECT owner FROM tenants");
            assert_eq!(execute(client, &name, &[]), format!("2 D({owner}) C(SELECT 1) Z(I)"));
        }
    }
}

// Drivers.

#[test]
fn pgbench_prepared() {
    let cluster = Cluster::start();
    tools::pgbench(cluster.port(), "postgres", &["-i", "-q", "-s", "1"]).ok();
    let weir = over(&cluster, 2).start();
    for mode in ["prepared", "extended", "simple"] {
        for script in ["-S", "-N"] {
            // A thread each: pgbench prepares by blocking calls, which would stop those of its thread who hold a server.
            let args = ["-M", mode, script, "-n", "-c", "8", "-j", "8", "-t", "50"];
            let report = tools::pgbench(weir.port(), "app", &args).ok();
            assert!(report.contains("number of transactions actually processed: 400/400"), "{report}");
        }
    }
}

#[test]
fn psycopg_prepared() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 2).start();
    warm(&weir);
    let script = r#"
import psycopg
with psycopg.connect(autocommit=True, prepare_threshold=0) as a, psycopg.connect(autocommit=True, prepare_threshold=0) as b:
    for i in range(20):
        assert a.execute("SELECT %s::int + 1", (i,)).fetchone() == (i + 1,)
        assert b.execute("SELECT %s::int + 2", (i,)).fetchone() == (i + 2,)
    a.execute("CREATE TABLE t (id int, v text)")
    with a.cursor() as cur:
        cur.executemany("INSERT INTO t VALUES (%s, %s)", [(i, str(i)) for i in range(100)])
        with cur.copy("COPY t FROM STDIN") as copy:
            copy.write_row((100, "copied"))
    with b.pipeline():
        cursors = [b.execute("SELECT v FROM t WHERE id = %s", (i,)) for i in (1, 50, 100)]
    assert [c.fetchone() for c in cursors] == [("1",), ("50",), ("copied",)]
    with b.transaction():
        b.execute("DELETE FROM t WHERE id = %s", (1,))
    try:
        b.execute("SELECT 1 / %s", (0,))
    except psycopg.errors.DivisionByZero:
        pass
    print(b.execute("SELECT count(*) FROM t", prepare=True).fetchone()[0])
"#;
    assert_eq!(tools::python(weir.port(), "app", script).ok(), "100\n");
}

#[test]
fn tokio_postgres_prepared() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 2).start();
    warm(&weir);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let config = format!("host=127.0.0.1 port={} user=postgres dbname=app", weir.port());
        let (client, connection) = tokio_postgres::connect(&config, tokio_postgres::NoTls).await.unwrap();
        let (other, other_connection) = tokio_postgres::connect(&config, tokio_postgres::NoTls).await.unwrap();
        let tasks = [tokio::spawn(connection), tokio::spawn(other_connection)];
        let add = client.prepare("SELECT $1::int4 + $2::int4").await.unwrap();
        let multiply = other.prepare("SELECT $1::int4 * $2::int4").await.unwrap();
        for number in 0..20_i32 {
            // Both at once: the driver pipelines what is asked for at the same time.
            let (one, two, three) = (1_i32, 2_i32, 3_i32);
            let (first, second): ([&(dyn ToSql + Sync); 2], [&(dyn ToSql + Sync); 2]) =
                ([&number, &one], [&number, &two]);
            let third: [&(dyn ToSql + Sync); 2] = [&number, &three];
            let (sum, sum_again, product) = tokio::join!(
                client.query_one(&add, &first),
                client.query_one(&add, &second),
                other.query_one(&multiply, &third),
            );
            assert_eq!(sum.unwrap().get::<_, i32>(0), number + 1);
            assert_eq!(sum_again.unwrap().get::<_, i32>(0), number + 2);
            assert_eq!(product.unwrap().get::<_, i32>(0), number * 3);
        }
        // Dropping it closes it on the server's side of the driver.
        drop(add);
        let again = client.prepare("SELECT $1::int4 + $2::int4").await.unwrap();
        assert_eq!(client.query_one(&again, &[&1_i32, &1_i32]).await.unwrap().get::<_, i32>(0), 2);
        let error = client.query_one("SELECT 1/$1::int4", &[&0_i32]).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "22012");
        drop((client, other, again, multiply));
        for task in tasks {
            task.await.unwrap().unwrap();
        }
    });
}

/// PostgreSQL reads literals when it parses a text, by the settings of that moment: who has others shares no statement with the rest.
#[test]
fn literals_are_read_by_the_settings_of_their_client() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    const NOON: &str =
        "SELECT extract(epoch FROM '2024-01-01 12:00'::timestamptz)::int8, '01/02/2024'::date - '2024-01-01'::date";
    prepare(&mut a, "s", NOON);
    assert_eq!(execute(&mut a, "s", &[]), "2 D(1704110400|1) C(SELECT 1) Z(I)");
    b.run("SET timezone = 'Asia/Tokyo'");
    b.run("SET datestyle = 'ISO, DMY'");
    prepare(&mut b, "s", NOON);
    assert_eq!(execute(&mut b, "s", &[]), "2 D(1704078000|31) C(SELECT 1) Z(I)");
    assert_eq!(execute(&mut a, "s", &[]), "2 D(1704110400|1) C(SELECT 1) Z(I)");
    // Whoever changes them reads the text anew, wherever that happens to be.
    a.run("SET timezone = 'Asia/Tokyo'");
    assert_eq!(execute(&mut a, "s", &[]), "2 D(1704078000|1) C(SELECT 1) Z(I)");
    // A text without literals is shared all the same.
    prepare(&mut a, "n", "SELECT $1::int + 1");
    prepare(&mut b, "n", "SELECT $1::int + 1");
    execute(&mut b, "n", &[Some("1")]);
    execute(&mut a, "n", &[Some("1")]);
    let count = "SELECT count(*) FROM ROWS FROM (pg_prepared_statement()) WHERE statement = 'SELECT $1::int + 1'";
    assert_eq!(a.value(count), "1");
}

/// Our statements go by names on servers that SQL finds as well: they are nobody's to run or take away.
#[test]
fn names_of_ours_mean_nothing_in_sql() {
    let cluster = Cluster::start();
    let weir = Weir::builder()
        .database(&format!(
            "[databases.app]\nprimary = \"postgres://127.0.0.1:{}/postgres\"\npool_size = 1",
            cluster.port()
        ))
        .start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    a.parse("mine", "SELECT 1", &[]);
    a.sync();
    a.read_until_ready();
    let name = b.value("SELECT name FROM ROWS FROM (pg_prepared_statement())");
    for sql in [format!("EXECUTE {name}"), format!("DEALLOCATE {name}"), format!("PREPARE {name} AS SELECT 2")] {
        assert_eq!(b.run(&sql), "E(26000) Z(I)", "{sql}");
        b.parse("", &sql, &[]);
        b.sync();
        assert_eq!(show(&b.read_until_ready()), "E(26000) Z(I)", "{sql}");
        assert_eq!(b.run("BEGIN"), "C(BEGIN) Z(T)");
        assert_eq!(b.run(&sql), "E(26000) Z(E)", "{sql}");
        assert_eq!(b.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    }
    assert_eq!(b.value("SELECT name FROM ROWS FROM (pg_prepared_statement())"), name);
}

/// PostgreSQL passes over everything between an error and the client's Sync: none of ours may end that.
#[test]
fn sql_that_names_a_statement_is_passed_over_like_anything_else() {
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE t (id int)");
    let weir = Weir::builder()
        .database(&format!(
            "[databases.app]\nprimary = \"postgres://127.0.0.1:{}/postgres\"\npool_size = 1",
            cluster.port()
        ))
        .start();
    for sql in ["DEALLOCATE mine", "PREPARE mine AS SELECT 2"] {
        let talk = |client: &mut RawClient| {
            client.parse("mine", "SELECT 1", &[]);
            client.sync();
            client.read_until_ready();
            client.parse("", "SELECT nothing", &[]);
            client.query(sql);
            client.parse("", "INSERT INTO t VALUES (1)", &[]);
            client.bind("", "", &[]);
            client.execute("", 0);
            client.sync();
            let answer = show(&client.read_until_ready());
            client.query("SELECT 1");
            answer + " " + &show(&client.read_until_ready())
        };
        assert_eq!(talk(&mut weir.client("app")), talk(&mut cluster.client("postgres")), "{sql}");
    }
    assert_eq!(cluster.value("SELECT count(*) FROM t"), "0");
}

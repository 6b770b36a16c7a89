//! The process id that a client is given at its login means something: to `pg_backend_pid()`, to the functions that signal sessions, and
//! to look-ups among the processes of the server.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::time::Duration;

use common::cluster::Cluster;
use common::eventually;
use common::raw::RawClient;
use common::weir::{Builder, Weir};
use common::wire::{Message, show};

const SOON: Duration = Duration::from_secs(15);
const INT4: u32 = 23;

fn over(cluster: &Cluster, size: u32) -> Builder {
    Weir::builder().database(&format!(
        "[databases.app]\nprimary = \"postgres://127.0.0.1:{}/postgres\"\npool_size = {size}",
        cluster.port()
    ))
}

/// Name and type of the only column, by the message itself.
fn column(messages: &[Message]) -> (String, u32) {
    let described = messages.iter().find(|m| m.tag == b'T').unwrap();
    let name = described.columns().unwrap().concat();
    let oid = &described.body[2 + name.len() + 1 + 6..][..4];
    (name, u32::from_be_bytes(oid.try_into().unwrap()))
}

/// A statement by the extended protocol: what comes back.
fn extended(client: &mut RawClient, sql: &str, values: &[Option<&str>]) -> Vec<Message> {
    client.parse("", sql, &[]);
    client.bind("", "", values);
    client.describe_portal("");
    client.execute("", 0);
    client.sync();
    client.read_until_ready()
}

fn row(messages: &[Message]) -> Vec<Option<String>> {
    let rows: Vec<_> = messages.iter().filter_map(Message::row).collect();
    assert_eq!(rows.len(), 1, "{}", show(messages));
    rows.concat()
}

fn errors(messages: &[Message]) -> Vec<(String, String)> {
    messages
        .iter()
        .filter(|m| matches!(m.tag, b'E' | b'N'))
        .filter_map(Message::error)
        .map(|e| (e.code, e.message))
        .collect()
}

/// Whether the session is over, with PostgreSQL's words for it.
fn ended(client: &mut RawClient) {
    let told = client.read_to_end();
    assert_eq!(
        errors(&told),
        [("57P01".to_owned(), "terminating connection due to administrator command".to_owned())],
        "{}",
        show(&told)
    );
}

#[test]
fn ones_own_is_the_one_that_was_given() {
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE t (id int, pid int)");
    let weir = over(&cluster, 1).start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    assert!(a.pid > 4_194_304 && b.pid > 4_194_304 && a.pid != b.pid, "no process of Linux has them");
    a.parse("mine", "SELECT pg_backend_pid()", &[]);
    a.sync();
    b.parse("mine", "SELECT pg_backend_pid()", &[]);
    b.sync();
    a.read_until_ready();
    b.read_until_ready();
    for _ in 0..2 {
        for client in [&mut a, &mut b] {
            let own = client.pid.to_string();
            client.query("SELECT pg_backend_pid()");
            let answer = client.read_until_ready();
            assert_eq!((column(&answer), row(&answer)), (("pg_backend_pid".to_owned(), INT4), vec![Some(own.clone())]));
            let answer = extended(client, "SELECT pg_backend_pid()", &[]);
            assert_eq!((column(&answer), row(&answer)), (("pg_backend_pid".to_owned(), INT4), vec![Some(own.clone())]));
            client.bind("", "mine", &[]);
            client.execute("", 0);
            client.sync();
            assert_eq!(row(&client.read_until_ready()), [Some(own.clone())]);
            client.describe_statement("mine");
            client.bind_binary("", "mine", &[]);
            client.execute("", 0);
            client.sync();
            let answer = client.read_until_ready();
            assert_eq!(column(&answer), ("pg_backend_pid".to_owned(), INT4));
            let told = answer.iter().find(|m| m.tag == b'D').unwrap();
            assert_eq!(told.body[6..], client.pid.to_be_bytes(), "{}", show(&answer));
            // In any place of a statement, and in blocks.
            client.run("BEGIN");
            for sql in [
                "SELECT pg_catalog.pg_backend_pid()::text",
                "SELECT p FROM (SELECT DISTINCT pg_backend_pid() AS p ORDER BY pg_backend_pid()) x",
                "SELECT * FROM pg_backend_pid()",
                "SELECT q FROM pg_backend_pid() AS q",
                "SELECT pg_backend_pid() FROM generate_series(1, 3) GROUP BY pg_backend_pid()",
                "INSERT INTO t VALUES (1, pg_backend_pid()) RETURNING pid",
                "WITH x AS (SELECT pg_backend_pid() /* of us */ AS p) SELECT p FROM x WHERE p = pg_backend_pid()",
            ] {
                assert_eq!(client.value(sql), own, "{sql}");
            }
            assert!(client.run("PREPARE p(int) AS SELECT $1, pg_backend_pid()").starts_with("C(PREPARE)"));
            assert_eq!(client.rows("EXECUTE p(pg_backend_pid())").unwrap(), [[own.clone(), own.clone()]]);
            client.run("DEALLOCATE p; COMMIT");
            assert_eq!(client.run("DISCARD ALL"), "C(DISCARD ALL) Z(I)");
            client.parse("mine", "SELECT pg_backend_pid()", &[]);
            client.sync();
            client.read_until_ready();
            assert_eq!(
                client.run(&format!("SELECT 1 FROM t WHERE pid = {own} LIMIT 1")),
                "T(?column?:23) D(1) C(SELECT 1) Z(I)"
            );
            assert!(client.run("SELECT 1/0, pg_backend_pid()").starts_with("E(22012)"));
        }
    }
    // What is stored is for whoever reads it.
    a.run("CREATE VIEW who AS SELECT pg_backend_pid() AS pid");
    assert_eq!(a.value("SELECT pid < 4194304 FROM who"), "t");
}

#[test]
fn look_ups_find_the_process_that_serves_a_client() {
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE jobs (pid int, name text); INSERT INTO jobs VALUES (4194999, 'a job')");
    let weir = over(&cluster, 2).start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    b.run("BEGIN");
    let server = b.value(common::SERVER_PID);
    let (own, other) = (a.pid.to_string(), b.pid.to_string());
    let of = |pid: &str| format!("SELECT pid, state FROM pg_stat_activity WHERE pid = {pid}");
    assert_eq!(a.rows(&of(&other)).unwrap(), [[server.as_str(), "idle in transaction"]]);
    assert_eq!(
        a.rows(&of("$1").replace("$1", &format!("'{other}'::int"))).unwrap(),
        [[server.as_str(), "idle in transaction"]]
    );
    for sql in
        [of("$1"), of("$1::int"), of("$1::bigint"), of("ANY (ARRAY[0])").replace("= ANY (ARRAY[0])", "IN (0, $1)")]
    {
        let found = row(&extended(&mut a, &sql, &[Some(&other)]));
        assert_eq!(found[0].as_deref(), Some(server.as_str()), "{sql}");
        // Oneself, whichever server it will be.
        assert_eq!(row(&extended(&mut a, &sql, &[Some(&own)]))[1].as_deref(), Some("active"), "{sql}");
    }
    a.parse("look", &of("$1"), &[INT4]);
    a.bind_binary("", "look", &[Some(&b.pid.to_be_bytes())]);
    a.execute("", 0);
    a.sync();
    assert!(show(&a.read_until_ready()).contains("C(SELECT 1)"));
    assert_eq!(a.rows(&of(&own)).unwrap()[0][1], "active");
    assert_eq!(
        a.value(&format!("SELECT count(*) FROM pg_locks WHERE pid = {other} AND virtualtransaction IS NULL")),
        "0"
    );
    assert_eq!(a.value(&format!("SELECT cardinality(pg_blocking_pids({other}))")), "0");
    // Real ones stay what they are, and what is no process of the server is not found.
    assert_eq!(a.rows(&of(&server)).unwrap().len(), 1);
    assert_eq!(
        a.value("SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND pid = 2000000000"),
        "0"
    );
    b.run("COMMIT");
    eventually("it has no server", SOON, || a.rows(&of(&other)).unwrap().is_empty().then_some(()));
    // Data is nobody's business.
    assert_eq!(a.value("SELECT name FROM jobs WHERE pid = 4194999"), "a job");
    a.run(&format!("INSERT INTO jobs VALUES ({other}, 'of b')"));
    b.run("BEGIN; SELECT 1");
    assert_eq!(a.value(&format!("SELECT name FROM jobs WHERE pid = {other}")), "of b");
    let joined = format!("SELECT name FROM jobs j LEFT JOIN pg_stat_activity a ON a.pid = 0 WHERE j.pid = {other}");
    assert_eq!(a.value(&joined), "of b");
}

#[test]
fn sessions_are_ended_by_the_id_that_they_know() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 2).start();
    let mut killer = weir.client("app");
    let server = killer.value(common::SERVER_PID);
    let literal = |pid: u32| format!("SELECT pg_terminate_backend({pid})");
    // At rest.
    let mut victim = weir.client("app");
    killer.query(&literal(victim.pid));
    let answer = killer.read_until_ready();
    assert_eq!((column(&answer), row(&answer)), (("pg_terminate_backend".to_owned(), 16), vec![Some("t".to_owned())]));
    assert!(show(&answer).ends_with("C(SELECT 1) Z(I)"));
    ended(&mut victim);
    // In a transaction, by a parameter of either format, with a time to wait, by a named argument.
    for how in 0..4 {
        let mut victim = weir.client("app");
        victim.run("BEGIN; CREATE TABLE undone ()");
        let pid = victim.pid.to_string();
        match how {
            0 => assert_eq!(
                row(&extended(&mut killer, "SELECT pg_terminate_backend($1)", &[Some(&pid)])),
                [Some("t".to_owned())]
            ),
            1 => {
                killer.parse("", "SELECT pg_terminate_backend($1::int, $2)", &[INT4, 20]);
                killer.bind_binary("", "", &[Some(&victim.pid.to_be_bytes()), Some(&5000_i64.to_be_bytes())]);
                killer.execute("", 0);
                killer.sync();
                let answer = killer.read_until_ready();
                assert_eq!(answer.iter().find(|m| m.tag == b'D').unwrap().body[6..], [1], "{}", show(&answer));
            }
            2 => assert_eq!(
                killer.value(&format!("SELECT pg_terminate_backend(pid => '{pid}', timeout => 100) AS x")),
                "t"
            ),
            _ => {
                killer.parse("kill", "SELECT pg_terminate_backend($1)", &[]);
                killer.bind("", "kill", &[Some(&pid)]);
                killer.execute("", 0);
                killer.sync();
                assert_eq!(row(&killer.read_until_ready()), [Some("t".to_owned())]);
            }
        }
        ended(&mut victim);
        eventually("it is rolled back", SOON, || {
            (cluster.value("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%'") == "0").then_some(())
        });
    }
    // While its statement runs, which ends too; within a block of the killer's.
    let mut victim = weir.client("app");
    victim.query("SELECT pg_sleep(600)");
    let runs =
        || cluster.value("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%sleep(600)'");
    eventually("it sleeps", SOON, || (runs() == "1").then_some(()));
    killer.run("BEGIN");
    assert_eq!(killer.value(&literal(victim.pid)), "t");
    ended(&mut victim);
    eventually("nothing sleeps", SOON, || (runs() == "0").then_some(()));
    assert_eq!(killer.run("COMMIT"), "C(COMMIT) Z(I)");
    // What has gone, and what never was, is no process; a real process is the server's business.
    killer.query(&literal(victim.pid));
    let answer = killer.read_until_ready();
    assert_eq!(row(&answer), [Some("f".to_owned())]);
    assert!(errors(&answer)[0].1.contains(&format!("PID {} is not a PostgreSQL", victim.pid)), "{}", show(&answer));
    let mut direct = cluster.client("postgres");
    let real: u32 = direct.value("SELECT pg_backend_pid()").parse().unwrap();
    assert_eq!(killer.value(&literal(real)), "t");
    ended(&mut direct);
    // What does not happen ends nobody.
    let mut spared = weir.client("app");
    killer.run("BEGIN; SELECT 1/0");
    assert!(killer.run(&literal(spared.pid)).starts_with("E(25P02)"));
    killer.run("ROLLBACK");
    assert!(killer.run(&format!("SELECT 1/0; {}", literal(spared.pid))).starts_with("E(22012)"));
    assert_eq!(row(&extended(&mut killer, "SELECT pg_terminate_backend($1)", &[None])), [None]);
    killer.parse("", &literal(spared.pid), &[]);
    killer.describe_statement("");
    killer.sync();
    assert!(show(&killer.read_until_ready()).ends_with("T(pg_terminate_backend:16) Z(I)"));
    assert_eq!(spared.value("SELECT 1"), "1");
    // Oneself.
    let own = killer.pid;
    assert_eq!(killer.value("SELECT count(*) FROM pg_stat_activity WHERE pid = pg_backend_pid()"), "1");
    killer.query(&literal(own));
    ended_in_answer(&mut killer);
    spared.query("SELECT pg_terminate_backend(pg_backend_pid())");
    ended_in_answer(&mut spared);
    let mut last = weir.client("app");
    assert_eq!(last.value("SELECT 1"), "1");
    assert!(!server.is_empty());
}

/// The answer to what ended the session ends with that, and is not said to have been complete.
fn ended_in_answer(client: &mut RawClient) {
    let told = client.read_to_end();
    assert!(show(&told).ends_with("E(FATAL 57P01)") && !show(&told).contains("C("), "{}", show(&told));
}

#[test]
fn statements_are_cancelled_by_the_id_of_their_client() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 2).start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    let sleeping = || {
        cluster.value("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%sleep(600)'")
            == "1"
    };
    for by_parameter in [false, true] {
        b.query("SELECT pg_sleep(600)");
        eventually("it sleeps", SOON, || sleeping().then_some(()));
        let answer = if by_parameter {
            extended(&mut a, "SELECT pg_cancel_backend($1)", &[Some(&b.pid.to_string())])
        } else {
            a.query(&format!("SELECT pg_cancel_backend({})", b.pid));
            a.read_until_ready()
        };
        assert_eq!((column(&answer), row(&answer)), (("pg_cancel_backend".to_owned(), 16), vec![Some("t".to_owned())]));
        assert_eq!(show(&b.read_until_ready()), "T(pg_sleep:2278) E(57014) Z(I)");
    }
    // One that rests has nothing to cancel, and whoever gets its server next is not hit.
    assert_eq!(a.value(&format!("SELECT pg_cancel_backend({})", b.pid)), "t");
    for _ in 0..20 {
        assert_eq!(a.value("SELECT 1"), "1");
        assert_eq!(b.value("SELECT 1"), "1");
    }
    // Oneself, as PostgreSQL does it.
    let own = a.pid;
    assert!(a.run(&format!("SELECT pg_cancel_backend({own})")).contains("E(57014)"));
    assert!(show(&extended(&mut a, "SELECT pg_cancel_backend($1)", &[Some(&own.to_string())])).contains("E(57014)"));
    assert_eq!(a.value("SELECT 1"), "1");
    // One that waits for a server.
    let weir = over(&cluster, 1).start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    a.run("BEGIN");
    b.query("SELECT 2");
    eventually("it waits", SOON, || {
        (weir.admin_table("SHOW POOLS").iter().any(|pool| pool["cl_waiting"] == "1")).then_some(())
    });
    assert_eq!(a.value(&format!("SELECT pg_cancel_backend({})", b.pid)), "t");
    assert_eq!(show(&b.read_until_ready()), "E(57014) Z(I)");
    a.run("COMMIT");
    assert_eq!(b.value("SELECT 3"), "3");
}

#[test]
fn only_who_may_signals_others() {
    let cluster = Cluster::start();
    cluster.sql(
        "CREATE ROLE ann LOGIN; CREATE ROLE bob LOGIN; CREATE ROLE warden LOGIN IN ROLE pg_signal_backend; CREATE ROLE boss LOGIN IN ROLE ann; \
         CREATE ROLE joker LOGIN NOINHERIT; GRANT ann TO joker; GRANT bob TO joker",
    );
    let weir = over(&cluster, 2)
        .users(
            r#""ann" "x"
"bob" "x"
"warden" "x"
"boss" "x"
"joker" "x"
"postgres" "x""#,
        )
        .start();
    let client = |user: &str| weir.login(user, "app").connect().unwrap();
    let not_member = "must be a member of the role whose process is being terminated or member of pg_signal_backend";
    for (who, whom, refusal) in [
        ("ann", "bob", Some(not_member)),
        ("ann", "postgres", Some("must be a superuser to terminate superuser process")),
        ("warden", "postgres", Some("must be a superuser to terminate superuser process")),
        ("joker", "bob", Some(not_member)),
        ("ann", "ann", None),
        ("boss", "ann", None),
        ("warden", "bob", None),
        ("postgres", "ann", None),
        ("postgres", "postgres", None),
    ] {
        let (mut from, mut to) = (client(who), client(whom));
        let sql = format!("SELECT pg_terminate_backend({})", to.pid);
        match refusal {
            None => {
                assert_eq!(from.value(&sql), "t", "{who} ends {whom}");
                ended(&mut to);
            }
            Some(words) => {
                from.query(&sql);
                assert_eq!(
                    errors(&from.read_until_ready()),
                    [("42501".to_owned(), words.to_owned())],
                    "{who} ends {whom}"
                );
                let answer = extended(&mut from, "SELECT pg_terminate_backend($1)", &[Some(&to.pid.to_string())]);
                assert_eq!(errors(&answer), [("42501".to_owned(), words.to_owned())], "{who} ends {whom}");
                assert_eq!(to.value("SELECT 1"), "1");
            }
        }
    }
    // The role counts that the statement runs as.
    let (mut joker, mut bob) = (client("joker"), client("bob"));
    let sql = format!("SELECT pg_cancel_backend({})", bob.pid);
    joker.run("BEGIN; SET LOCAL ROLE ann");
    joker.query(&sql);
    let words = "must be a member of the role whose query is being canceled or member of pg_signal_backend";
    assert_eq!(errors(&joker.read_until_ready()), [("42501".to_owned(), words.to_owned())]);
    joker.run("ROLLBACK; BEGIN; SET LOCAL ROLE bob");
    assert_eq!(joker.value(&sql), "t");
    joker.run("COMMIT");
    assert_eq!(bob.value("SELECT 1"), "1");
}

/// The processes of one server know nothing of those of another.
#[test]
fn clients_of_other_servers_are_unknown() {
    let (one, two) = (Cluster::start(), Cluster::start());
    let weir = over(&one, 1)
        .database(&format!("[databases.other]\nprimary = \"postgres://127.0.0.1:{}/postgres\"", two.port()))
        .database(&format!("[databases.same]\nprimary = \"postgres://127.0.0.1:{}/template1\"", one.port()))
        .general("peer_id = 7")
        .start();
    let (mut here, mut there, mut same) = (weir.client("app"), weir.client("other"), weir.client("same"));
    assert_eq!(here.value("SELECT pg_backend_pid()"), here.pid.to_string(), "also with the number of a peer in it");
    here.query(&format!("SELECT pg_terminate_backend({})", there.pid));
    let answer = here.read_until_ready();
    assert_eq!((row(&answer), errors(&answer)[0].0.as_str()), (vec![Some("f".to_owned())], "01000"));
    assert_eq!(there.value("SELECT 1"), "1");
    assert_eq!(here.value(&format!("SELECT pg_terminate_backend({})", same.pid)), "t");
    ended(&mut same);
}

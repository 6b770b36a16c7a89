//! The pool keeps its promises: never a connection too many, service in turn, clear errors when there is none to be had, and no
//! trace of clients that leave in the middle of something.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::cluster::Cluster;
use common::ports::Port;
use common::raw::{LoginError, RawClient};
use common::weir::{Builder, Weir};
use common::wire::{ServerError, frontend, show};
use common::{eventually, guard};

const SOON: Duration = Duration::from_secs(15);

/// pgweir with the database `app` over `size` connections to this cluster.
fn over(cluster: &Cluster, size: u32) -> Builder {
    Weir::builder().database(&format!(
        "[databases.app]\nprimary = \"postgres://127.0.0.1:{}/postgres\"\npool_size = {size}",
        cluster.port()
    ))
}

/// Connections to the cluster by TCP: those of pgweir.
fn connections(observer: &mut RawClient) -> usize {
    let count =
        "SELECT count(*) FROM pg_stat_activity WHERE client_addr IS NOT NULL AND application_name NOT LIKE 'pgweir %'";
    observer.value(count).parse().unwrap()
}

fn backend(client: &mut RawClient) -> String {
    client.value(common::SERVER_PID)
}

/// The one error among the answers up to ReadyForQuery.
fn error_of(client: &mut RawClient) -> ServerError {
    let messages = client.read_until_ready();
    let errors: Vec<ServerError> = messages.iter().filter(|m| m.tag == b'E').filter_map(|m| m.error()).collect();
    assert_eq!(errors.len(), 1, "{}", show(&messages));
    errors.into_iter().next().unwrap()
}

/// Waits until that many clients wait for a connection.
fn wait_queued(weir: &Weir, count: usize) {
    let console = &mut weir.console().unwrap();
    eventually(&format!("{count} clients wait"), SOON, || {
        console.query("SHOW POOLS");
        let messages = console.read_until_ready();
        let columns = messages.iter().find_map(|m| m.columns()).unwrap();
        let at = columns.iter().position(|name| name == "cl_waiting").unwrap();
        let waiting = messages.iter().filter_map(|m| m.row()).filter_map(|row| row[at].clone()?.parse::<usize>().ok());
        (waiting.sum::<usize>() == count).then_some(())
    });
}

#[test]
fn fifty_clients_share_three_connections() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 3).start();
    let done = AtomicBool::new(false);
    let most = std::thread::scope(|scope| {
        let observer = scope.spawn(|| {
            let mut observer = cluster.client("postgres");
            let mut most = 0;
            while !done.load(Ordering::Relaxed) {
                most = most.max(connections(&mut observer));
            }
            most
        });
        let clients: Vec<_> = (0..50)
            .map(|number| {
                let weir = &weir;
                scope.spawn(move || {
                    let mut client = weir.client("app");
                    for turn in 0..10 {
                        let answer = client.run(&format!("SELECT {number} * 100 + {turn}, pg_sleep(0.001)"));
                        let expected = number * 100 + turn;
                        assert_eq!(answer, format!("T(?column?:23,pg_sleep:2278) D({expected}|) C(SELECT 1) Z(I)"));
                    }
                })
            })
            .collect();
        let failed = clients.into_iter().filter_map(|client| client.join().err()).count();
        done.store(true, Ordering::Relaxed);
        assert_eq!(failed, 0);
        observer.join().unwrap()
    });
    assert_eq!(most, 3);
}

#[test]
fn waiting_clients_are_served_in_turn() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).start();
    let mut holder = weir.client("app");
    holder.run("CREATE TABLE turns (place serial, client int)");
    holder.run("BEGIN");
    let mut clients: Vec<_> = (0..12).map(|_| weir.client("app")).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.query(&format!("INSERT INTO turns (client) VALUES ({number})"));
        wait_queued(&weir, number + 1);
    }
    assert_eq!(holder.run("COMMIT"), "C(COMMIT) Z(I)");
    for client in &mut clients {
        assert_eq!(show(&client.read_until_ready()), "C(INSERT 0 1) Z(I)");
    }
    let order: Vec<String> = cluster.sql("SELECT client FROM turns ORDER BY place").into_iter().flatten().collect();
    assert_eq!(order, (0..12).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn waiting_too_long_is_an_error_and_the_session_goes_on() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).general("query_wait_timeout = \"300ms\"").start();
    let (mut holder, mut waiter) = (weir.client("app"), weir.client("app"));
    holder.run("BEGIN");
    waiter.query("SELECT 1");
    let error = error_of(&mut waiter);
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("ERROR", "53300"));
    assert!(error.message.contains("query_wait_timeout") && error.message.contains("1 of 1 is in use"), "{error}");
    // That of the database, which has one of its own.
    let hint = &error.fields[&'H'];
    assert!(hint.contains("pool_size") && !hint.contains("default_pool_size"), "{hint}");
    // By the extended protocol: one error for all of the exchange, and nothing remembered of it.
    waiter.parse("s", "SELECT 1", &[]);
    waiter.bind("", "s", &[]);
    waiter.execute("", 0);
    waiter.sync();
    assert_eq!(error_of(&mut waiter).code, "53300");
    holder.run("COMMIT");
    waiter.bind("", "s", &[]);
    waiter.sync();
    assert_eq!(error_of(&mut waiter).code, "26000");
    waiter.parse("s", "SELECT 2", &[]);
    waiter.bind("", "s", &[]);
    waiter.execute("", 0);
    waiter.sync();
    assert_eq!(show(&waiter.read_until_ready()), "1 2 D(2) C(SELECT 1) Z(I)");
}

#[test]
fn too_many_clients_are_refused_but_the_console_is_open() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 2).general("max_client_conn = 3").start();
    // Who is at the console takes no place.
    let consoles: Vec<_> = (0..3).map(|_| weir.console().unwrap()).collect();
    let mut clients: Vec<_> = (0..3).map(|_| weir.client("app")).collect();
    let refused = weir.login("postgres", "app").connect().unwrap_err();
    let LoginError::Server(error) = refused else { panic!("{refused:?}") };
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "53300"));
    assert!(error.message.contains("no more connections allowed"), "{error}");
    assert!(!weir.admin("SHOW VERSION").is_empty());
    // Those inside notice nothing; when one leaves another may come.
    assert_eq!(clients[0].value("SELECT 1"), "1");
    clients.pop();
    eventually("room for one", SOON, || weir.login("postgres", "app").connect().ok());
    drop(consoles);
}

#[test]
fn user_may_have_a_pool_size_of_his_own() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 5).database("[users.postgres]\npool_size = 1").start();
    let (mut first, mut second) = (weir.client("app"), weir.client("app"));
    first.run("BEGIN");
    second.query("SELECT 1");
    wait_queued(&weir, 1);
    assert_eq!(first.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(show(&second.read_until_ready()), "T(?column?:23) D(1) C(SELECT 1) Z(I)");
}

// Clients that leave in the middle.

#[test]
fn killed_in_a_transaction() {
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE t (id int)");
    let weir = over(&cluster, 1).start();
    let mut client = weir.client("app");
    let pid = backend(&mut client);
    client.run("BEGIN");
    client.run("INSERT INTO t VALUES (1)");
    drop(client);
    let mut next = weir.client("app");
    assert_eq!(next.value("SELECT count(*) FROM t"), "0");
    assert_eq!(backend(&mut next), pid, "the connection is used again");
    // Also one that says goodbye, and one whose transaction has failed.
    next.run("BEGIN; INSERT INTO t VALUES (2)");
    next.terminate();
    assert_eq!(show(&next.read_to_end()), "");
    let mut next = weir.client("app");
    assert_eq!(next.value("SELECT count(*) FROM t"), "0");
    assert_eq!(next.run("BEGIN; SELECT 1/0"), "C(BEGIN) E(22012) Z(E)");
    drop(next);
    assert_eq!(backend(&mut weir.client("app")), pid);
}

#[test]
fn killed_in_a_copy() {
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE t (id int)");
    let weir = over(&cluster, 1).start();
    for whole in [true, false] {
        let mut client = weir.client("app");
        client.query("COPY t FROM STDIN");
        client.read_until(b'G');
        client.copy_data(b"1\n2\n");
        if !whole {
            client.send_bytes(&[b'd', 0, 0, 1, 0, b'3', b'\n']);
        }
        drop(client);
        assert_eq!(weir.client("app").value("SELECT count(*) FROM t"), "0");
    }
    let mut client = weir.client("app");
    client.query("COPY (SELECT repeat('x', 1000) FROM generate_series(1, 100000)) TO STDOUT");
    client.read_until(b'd');
    drop(client);
    assert_eq!(weir.client("app").value("SELECT count(*) FROM t"), "0");
    eventually("one connection", SOON, || (connections(&mut cluster.client("postgres")) == 1).then_some(()));
}

#[test]
fn killed_in_a_message() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).start();
    let pid = backend(&mut weir.client("app"));
    let parse = frontend::parse("half", "SELECT 'a statement that never comes whole'", &[]);
    let half = &parse[..parse.len() / 2];
    // Alone, after messages that are whole, and in a transaction.
    let mut client = weir.client("app");
    client.send_bytes(half);
    drop(client);
    let mut client = weir.client("app");
    client.parse("whole", "SELECT 1", &[]);
    client.bind("", "whole", &[]);
    client.send_bytes(half);
    drop(client);
    let mut client = weir.client("app");
    client.run("BEGIN");
    client.send_bytes(half);
    drop(client);
    assert_eq!(backend(&mut weir.client("app")), pid);
    // In the middle of an exchange that has begun on the server.
    let mut client = weir.client("app");
    client.parse("", "SELECT 1", &[]);
    client.flush();
    client.read_until(b'1');
    client.send_bytes(half);
    drop(client);
    assert_eq!(weir.client("app").value("SELECT 1"), "1");
}

#[test]
fn killed_while_its_query_runs() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).start();
    let mut client = weir.client("app");
    client.query("SELECT pg_sleep(600)");
    let running = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)' AND state = 'active'";
    eventually("the query runs", SOON, || (!cluster.sql(running).is_empty()).then_some(()));
    drop(client);
    assert_eq!(weir.client("app").value("SELECT 1"), "1");
}

#[test]
fn killed_while_it_waits() {
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE t (id int)");
    let weir = over(&cluster, 1).start();
    let mut holder = weir.client("app");
    holder.run("BEGIN");
    let mut waiter = weir.client("app");
    waiter.query("INSERT INTO t VALUES (1)");
    wait_queued(&weir, 1);
    drop(waiter);
    wait_queued(&weir, 0);
    holder.run("COMMIT");
    assert_eq!(holder.value("SELECT count(*) FROM t"), "0");
}

// Connections come and go.

#[test]
fn resting_connections_are_closed() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 2).general("server_idle_timeout = \"1s\"").start();
    let mut client = weir.client("app");
    let pid = backend(&mut client);
    let mut observer = cluster.client("postgres");
    eventually("no connection", SOON, || (connections(&mut observer) == 0).then_some(()));
    assert_ne!(backend(&mut client), pid);
}

#[test]
fn old_connections_are_closed() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).general("server_lifetime = \"1s\"").start();
    let mut client = weir.client("app");
    // One in use is not closed, however old it is.
    client.run("BEGIN");
    let pid = backend(&mut client);
    assert_eq!(client.run("SELECT pg_sleep(1.5)"), "T(pg_sleep:2278) D() C(SELECT 1) Z(T)");
    assert_eq!(backend(&mut client), pid);
    client.run("COMMIT");
    assert_ne!(backend(&mut client), pid);
}

#[test]
fn pool_in_use_is_kept_warm() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 5).general("min_pool_size = 3").start();
    let mut client = weir.client("app");
    let pid = backend(&mut client);
    let mut observer = cluster.client("postgres");
    eventually("three connections", SOON, || (connections(&mut observer) == 3).then_some(()));
    cluster.sql(&format!("SELECT pg_terminate_backend({pid})"));
    eventually("it is gone", SOON, || (!guard::alive(pid.parse().unwrap())).then_some(()));
    eventually("three again", SOON, || (connections(&mut observer) == 3).then_some(()));
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn dead_connection_at_rest_is_found_before_it_is_lent() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).start();
    let mut client = weir.client("app");
    for _ in 0..5 {
        let pid = backend(&mut client);
        cluster.sql(&format!("SELECT pg_terminate_backend({pid})"));
        eventually("it is gone", SOON, || (!guard::alive(pid.parse().unwrap())).then_some(()));
        assert_ne!(backend(&mut client), pid);
    }
}

#[test]
fn server_killed_in_a_query_is_one_error_for_one_client() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 3).start();
    let (mut first, mut second, mut idle) = (weir.client("app"), weir.client("app"), weir.client("app"));
    second.run("BEGIN; CREATE TABLE t (id int)");
    first.run("BEGIN");
    let pid = backend(&mut first);
    first.query("SELECT pg_sleep(600)");
    let running = format!("SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND state = 'active'");
    eventually("the query runs", SOON, || (!cluster.sql(&running).is_empty()).then_some(()));
    cluster.sql(&format!("SELECT pg_terminate_backend({pid})"));
    let told = first.read_to_end();
    let errors: Vec<_> = told.iter().filter(|m| m.tag == b'E').map(ToString::to_string).collect();
    assert_eq!(errors, ["E(FATAL 57P01)"]);
    assert_eq!(second.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(idle.value("SELECT count(*) FROM t"), "0");
}

#[test]
fn crashed_server_is_one_error_for_those_in_flight() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 3).start();
    let (mut busy, mut open, mut idle) = (weir.client("app"), weir.client("app"), weir.client("app"));
    assert_eq!(idle.value("SELECT 1"), "1");
    open.run("BEGIN");
    busy.run("BEGIN");
    let pid = backend(&mut busy);
    busy.query("SELECT pg_sleep(600)");
    // kill -9 of a backend: PostgreSQL throws everybody out and recovers.
    guard::send(pid.parse().unwrap(), nix::sys::signal::Signal::SIGKILL);
    let told = busy.read_to_end();
    let errors: Vec<_> = told.iter().filter(|m| m.tag == b'E').filter_map(|m| m.error()).collect();
    assert_eq!(errors.len(), 1, "{}", show(&told));
    assert_eq!((errors[0].severity.as_str(), errors[0].code.as_str()), ("FATAL", "08006"), "{}", errors[0]);
    assert!(errors[0].message.contains("server connection lost"), "{}", errors[0]);
    // A transaction that is gone ends its client too.
    let told = open.read_to_end();
    assert_eq!(told.iter().filter(|m| m.tag == b'E').count(), 1, "{}", show(&told));
    eventually("PostgreSQL is back", SOON, || cluster.try_client("postgres").ok());
    assert_eq!(idle.value("SELECT 1"), "1");
}

// Modes.

#[test]
fn session_mode_keeps_the_server_and_cleans_it() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).general("pool_mode = \"session\"").start();
    let mut first = weir.client("app");
    let pid = backend(&mut first);
    let default = first.value("SHOW work_mem");
    first.run("SET work_mem = '7MB'");
    first.run("CREATE TEMP TABLE mine (id int)");
    first.run("PREPARE st AS SELECT 1");
    first.run("SELECT pg_advisory_lock(1)");
    assert_eq!(first.value("SHOW work_mem"), "7MB");
    let mut second = weir.client("app");
    second.query(common::SERVER_PID);
    wait_queued(&weir, 1);
    assert_eq!(backend(&mut first), pid);
    drop(first);
    assert_eq!(second.read_until_ready().iter().find_map(|m| m.row()).unwrap()[0].as_deref(), Some(pid.as_str()));
    assert_eq!(second.value("SHOW work_mem"), default);
    assert_eq!(second.run("TABLE mine"), "E(42P01) Z(I)");
    assert_eq!(second.run("EXECUTE st"), "E(26000) Z(I)");
    assert_eq!(second.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), "0");
}

#[test]
fn statement_mode_refuses_blocks() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).general("pool_mode = \"statement\"").start();
    let mut client = weir.client("app");
    client.query("BEGIN");
    let error = error_of(&mut client);
    assert_eq!(error.code, "0A000");
    assert!(error.message.contains("statement pooling mode"), "{error}");
    client.parse("", "START TRANSACTION", &[]);
    client.bind("", "", &[]);
    client.execute("", 0);
    client.sync();
    assert_eq!(show(&client.read_until_ready()), "E(0A000) Z(I)");
    client.query("SELECT 1; COMMIT");
    assert_eq!(error_of(&mut client).code, "0A000");
    assert_eq!(client.run("SELECT 1; SELECT 2 AS b"), "T(?column?:23) D(1) C(SELECT 1) T(b:23) D(2) C(SELECT 1) Z(I)");
}

// Servers that do not let us in.

#[test]
fn server_that_cannot_be_reached_is_named() {
    let nobody = Port::claim();
    let weir = Weir::builder()
        .database(&format!("[databases.app]\nprimary = \"postgres://127.0.0.1:{}/postgres\"", nobody.number()))
        .start();
    for _ in 0..2 {
        let refused = weir.login("postgres", "app").connect().unwrap_err();
        let LoginError::Server(error) = refused else { panic!("{refused:?}") };
        assert!(matches!(error.code.as_str(), "08001" | "08006"), "{error}");
        assert!(error.message.contains(&format!("127.0.0.1:{}", nobody.number())), "{error}");
    }
}

#[test]
fn server_refuses_our_login() {
    let cluster = Cluster::start();
    cluster.sql("CREATE USER app PASSWORD 'right'");
    cluster.set_hba("host all all 127.0.0.1/32 scram-sha-256");
    let weir = Weir::builder()
        .database(&format!(
            "[databases.app]\nprimary = \"postgres://app:wrong@127.0.0.1:{}/postgres\"\n\
             [databases.none]\nprimary = \"postgres://app:right@127.0.0.1:{}/nosuch\"",
            cluster.port(),
            cluster.port()
        ))
        .start();
    for (database, code, text) in [("app", "28P01", "password authentication failed"), ("none", "3D000", "nosuch")] {
        for _ in 0..2 {
            let refused = weir.login("postgres", database).connect().unwrap_err();
            let LoginError::Server(error) = refused else { panic!("{refused:?}") };
            assert_eq!(error.code, code, "{error}");
            assert!(error.message.contains("login to server 127.0.0.1") && error.message.contains(text), "{error}");
        }
    }
}

#[test]
fn server_that_was_away_is_used_again() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).general("server_login_retry = \"200ms\"").start();
    let mut client = weir.client("app");
    assert_eq!(client.value("SELECT 1"), "1");
    cluster.stop();
    client.query("SELECT 1");
    let error = error_of(&mut client);
    assert!(error.code.starts_with("08") || error.code.starts_with("57"), "{error}");
    assert!(error.message.contains(&cluster.port().to_string()), "{error}");
    cluster.restart();
    eventually("it is used again", SOON, || client.rows("SELECT 1").ok());
}

/// A COPY that fails as it begins, its Sync sent early and its data late: the client is told once, and goes on.
#[test]
fn copy_that_fails_as_it_begins() {
    let cluster = Cluster::start();
    cluster.sql(
        "CREATE TABLE guarded (a int);
         CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''not now''; END';
         CREATE TRIGGER no BEFORE INSERT ON guarded FOR EACH STATEMENT EXECUTE FUNCTION no();
         CREATE TABLE open (a int)",
    );
    let weir = Weir::builder().cluster("app", &cluster, &[]).start();
    let mut client = weir.client("app");
    for round in 0..20 {
        for (sql, rest) in [
            ("COPY guarded FROM STDIN", "E(P0001) Z(I)"),
            ("COPY missing FROM STDIN", "E(42P01) Z(I)"),
            ("COPY open FROM STDIN", "C(COPY 1) Z(I)"),
        ] {
            client.parse("", sql, &[]);
            client.bind("", "", &[]);
            client.execute("", 0);
            client.sync();
            let mut answer = Vec::new();
            if sql.contains("missing") {
                answer = client.read_until_ready();
            } else {
                if round % 2 == 0 {
                    answer = client.read_until(b'G');
                }
                client.copy_data(b"1\n");
                client.copy_done();
                client.sync();
                answer.extend(client.read_until_ready());
            }
            let answer = show(&answer);
            assert!(answer.ends_with(rest), "{sql}: {answer}");
            assert_eq!(client.value("SELECT 1"), "1");
        }
    }
    assert_eq!(cluster.value("SELECT count(*) FROM open"), "20");
}

#[test]
fn a_wrong_startup_setting_costs_no_connection() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 3).start();
    let wrong = || weir.login("postgres", "app").param("work_mem", "bogus").connect().map(drop).unwrap_err();
    assert_eq!(wrong().code(), "22023");
    for _ in 0..4 {
        assert_eq!(wrong().code(), "22023");
    }
    assert_eq!(weir.client("app").value("SHOW work_mem"), "4MB");
    let opened = weir.log_text().lines().filter(|line| line.contains("server connection opened")).count();
    // Another may be made while the first is cleaned up.
    assert!(opened <= 2, "{}", weir.log_text());
}

//! Cancel requests reach the statement they mean, and no other.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::cluster::Cluster;
use common::eventually;
use common::raw::{self, Address, Login, RawClient};
use common::weir::{Builder, Weir};
use common::wire::{Message, PROTOCOL_3_2, show};

const SOON: Duration = Duration::from_secs(15);

fn over(cluster: &Cluster, size: u32) -> Builder {
    Weir::builder().database(&format!(
        "[databases.app]\nprimary = \"postgres://127.0.0.1:{}/postgres\"\npool_size = {size}",
        cluster.port()
    ))
}

/// Starts a query that would take ten minutes and waits until it runs.
fn sleep(client: &mut RawClient, cluster: &Cluster) {
    client.query("SELECT pg_sleep(600)");
    eventually("the query runs", SOON, || (sleeping(cluster) > 0).then_some(()));
}

fn sleeping(cluster: &Cluster) -> usize {
    let sql = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)' AND state = 'active'";
    cluster.sql(sql).len()
}

/// What was said but the description of a result, which may or may not be sent before the first row.
fn said(messages: &[Message]) -> String {
    let told: Vec<Message> = messages.iter().filter(|m| m.tag != b'T').cloned().collect();
    show(&told)
}

#[test]
fn statement_is_cancelled_and_the_session_goes_on() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).start();
    let mut client = weir.client("app");
    for _ in 0..3 {
        sleep(&mut client, &cluster);
        client.cancel();
        assert_eq!(said(&client.read_until_ready()), "E(57014) Z(I)");
        assert_eq!(client.value("SELECT 1"), "1");
    }
    // In a transaction it fails the transaction.
    client.run("BEGIN");
    sleep(&mut client, &cluster);
    client.cancel();
    assert_eq!(said(&client.read_until_ready()), "E(57014) Z(E)");
    assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    // By the extended protocol.
    client.parse("", "SELECT pg_sleep(600)", &[]);
    client.bind("", "", &[]);
    client.execute("", 0);
    client.sync();
    eventually("the query runs", SOON, || (sleeping(&cluster) > 0).then_some(()));
    client.cancel();
    assert_eq!(said(&client.read_until_ready()), "1 2 E(57014) Z(I)");
}

#[test]
fn wrong_keys_are_ignored() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 2).start();
    let (mut client, other) = (weir.client("app"), weir.client("app"));
    sleep(&mut client, &cluster);
    let address = Address::Tcp(weir.port());
    let wrong: Vec<u8> = client.key.iter().map(|byte| byte ^ 1).collect();
    raw::cancel(&address, client.pid, &wrong);
    raw::cancel(&address, client.pid, &other.key);
    raw::cancel(&address, other.pid, &client.key);
    raw::cancel(&address, client.pid.wrapping_add(1), &client.key);
    raw::cancel(&address, client.pid, &[&client.key[..], &[0; 4]].concat());
    // The right one of another, who does nothing.
    other.cancel();
    client.expect_silence(Duration::from_millis(300));
    assert_eq!(sleeping(&cluster), 1);
    client.cancel();
    assert_eq!(said(&client.read_until_ready()), "E(57014) Z(I)");
}

#[test]
fn cancel_comes_too_late() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).start();
    let mut client = weir.client("app");
    for _ in 0..20 {
        assert_eq!(client.value("SELECT 1"), "1");
        client.cancel();
        assert_eq!(client.value("SELECT 2"), "2");
    }
}

#[test]
fn waiting_client_is_cancelled() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).start();
    let (mut holder, mut waiter) = (weir.client("app"), weir.client("app"));
    holder.run("BEGIN; CREATE TABLE t (id int)");
    waiter.query("INSERT INTO t VALUES (1)");
    let waits = || weir.admin_table("SHOW POOLS").iter().any(|row| row["cl_waiting"] == "1");
    eventually("it waits", SOON, || waits().then_some(()));
    waiter.cancel();
    assert_eq!(show(&waiter.read_until_ready()), "E(57014) Z(I)");
    assert_eq!(holder.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(waiter.value("SELECT count(*) FROM t"), "0");
}

/// Takes from everybody what tells a configuration of text search: who is to set one waits until the connection says ROLLBACK.
fn hold_settings(cluster: &Cluster) -> RawClient {
    let mut holder = cluster.client("postgres");
    // What servers know of it they forget.
    assert_eq!(holder.run("UPDATE pg_ts_config SET cfgname = cfgname WHERE cfgname = 'own'"), "C(UPDATE 1) Z(I)");
    assert_eq!(holder.run("BEGIN; LOCK TABLE pg_catalog.pg_ts_config"), "C(BEGIN) C(LOCK TABLE) Z(T)");
    holder
}

fn setting_waits(cluster: &Cluster) {
    let sql =
        "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%set_config(%default_text%'";
    eventually("the setting waits", SOON, || (!cluster.sql(sql).is_empty()).then_some(()));
}

const OWN_CONFIG: &str = "CREATE TEXT SEARCH CONFIGURATION own (COPY = simple)";
const SHOW_CONFIG: &str = "SHOW default_text_search_config";

/// What a server is told ahead of a statement is part of that to who cancels it.
#[test]
fn a_request_that_hits_settings_sent_ahead_cancels_the_statement() {
    let cluster = Cluster::start();
    cluster.sql(OWN_CONFIG);
    cluster.sql("CREATE TABLE ran (id int)");
    let weir = over(&cluster, 1).start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    a.run("SET default_text_search_config = 'public.own'");
    // The last one waits for its settings by themselves, for it speaks of a name.
    for (sql, is_simple) in [
        ("INSERT INTO ran VALUES (1)", true),
        ("INSERT INTO ran VALUES (2)", false),
        ("BEGIN; INSERT INTO ran VALUES (3); COMMIT", true),
        ("PREPARE mine AS SELECT 1; INSERT INTO ran VALUES (4)", true),
    ] {
        assert_eq!(b.value(SHOW_CONFIG), "pg_catalog.simple");
        let mut holder = hold_settings(&cluster);
        if is_simple {
            a.query(sql);
        } else {
            a.parse("", sql, &[]);
            a.bind("", "", &[]);
            a.execute("", 0);
            a.sync();
        }
        setting_waits(&cluster);
        a.cancel();
        assert_eq!(show(&a.read_until_ready()), "E(57014) Z(I)", "{sql}");
        assert_eq!(holder.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
        assert_eq!(b.value("SELECT count(*) FROM ran"), "0", "{sql}");
        assert_eq!(a.value(SHOW_CONFIG), "public.own");
    }
}

/// What a server is asked or told behind the client's back is not what its client cancels.
#[test]
fn a_request_that_hits_what_is_told_in_between_cancels_the_statement_behind_it() {
    let cluster = Cluster::start();
    cluster.sql(OWN_CONFIG);
    let weir = over(&cluster, 1).start();
    let login = Login::new(Address::Tcp(weir.port()), "postgres", "app");
    let mut a = login.param("options", "-c default_text_search_config=public.own").connect().unwrap();
    assert_eq!(a.value("SELECT count(pg_advisory_lock(1))"), "1");
    for _ in 0..2 {
        let mut holder = hold_settings(&cluster);
        // In one go: the second is sent behind what gives back the setting that the first has taken.
        a.query("RESET default_text_search_config");
        a.query("SELECT pg_sleep(600)");
        assert_eq!(show(&a.read_until_ready()), "C(RESET) Z(I)");
        setting_waits(&cluster);
        a.cancel();
        assert_eq!(holder.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
        assert_eq!(said(&a.read_until_ready()), "E(57014) Z(I)");
        assert_eq!(a.value(SHOW_CONFIG), "public.own");
    }
}

#[test]
fn storm_hits_nobody_else() {
    // One client is cancelled all the time while it runs statements of a millisecond, on servers that it shares with three others.
    const CANCELS: usize = 400;
    let cluster = Cluster::start();
    let weir = over(&cluster, 2).start();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut target = weir.client("app");
        let (pid, key) = (target.pid, target.key.clone());
        let address = Address::Tcp(weir.port());
        let bystanders: Vec<_> = (0..3)
            .map(|_| {
                let (weir, done) = (&weir, &done);
                scope.spawn(move || {
                    let mut client = weir.client("app");
                    let mut turns = 0_u32;
                    while !done.load(Ordering::Relaxed) {
                        let answer = client.run(&format!("SELECT {turns}, pg_sleep(0.001)"));
                        let right = format!("T(?column?:23,pg_sleep:2278) D({turns}|) C(SELECT 1) Z(I)");
                        if answer != right {
                            return Err(answer);
                        }
                        turns += 1;
                    }
                    Ok(turns)
                })
            })
            .collect();
        let done_with_target = &done;
        let hit = scope.spawn(move || {
            let mut hit = 0_u32;
            while !done_with_target.load(Ordering::Relaxed) {
                target.query("SELECT pg_sleep(0.001)");
                match said(&target.read_until_ready()).as_str() {
                    "D() C(SELECT 1) Z(I)" => {}
                    "E(57014) Z(I)" => hit += 1,
                    other => return Err(other.to_owned()),
                }
            }
            Ok(hit)
        });
        let storms: Vec<_> = (0..2)
            .map(|_| {
                let (address, key) = (address.clone(), key.clone());
                scope.spawn(move || (0..CANCELS / 2).for_each(|_| raw::cancel(&address, pid, &key)))
            })
            .collect();
        let storms: Vec<_> = storms.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        assert!(storms.iter().all(Result::is_ok));
        let hit = hit.join().unwrap();
        assert!(hit.as_ref().is_ok_and(|hit| *hit > 0), "{hit:?}");
        for bystander in bystanders {
            let turns = bystander.join().unwrap();
            assert!(turns.as_ref().is_ok_and(|turns| *turns > 0), "{turns:?}");
        }
    });
}

#[test]
fn long_keys_of_protocol_3_2() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).start();
    let mut client = weir.login("postgres", "app").protocol(PROTOCOL_3_2).connect().unwrap();
    assert_eq!(client.key.len(), 32);
    assert_eq!(weir.client("app").key.len(), 4);
    sleep(&mut client, &cluster);
    raw::cancel(&Address::Tcp(weir.port()), client.pid, &client.key[..4]);
    raw::cancel(&Address::Tcp(weir.port()), client.pid, &client.key[..31]);
    client.expect_silence(Duration::from_millis(200));
    client.cancel();
    assert_eq!(said(&client.read_until_ready()), "E(57014) Z(I)");
}

#[test]
fn cancel_is_let_in_when_clients_are_too_many() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).general("max_client_conn = 1").start();
    let mut client = weir.client("app");
    sleep(&mut client, &cluster);
    client.cancel();
    assert_eq!(said(&client.read_until_ready()), "E(57014) Z(I)");
}

/// A cancel request needs a connection of its own, but no place in the pool: all of a full pool can be cancelled at once, and those
/// who wait for it too.
#[test]
fn a_full_pool_is_cancelled_at_once() {
    const CLIENTS: usize = 8;
    let cluster = Cluster::start();
    let weir = over(&cluster, 3).general("max_db_connections = 3").start();
    let mut clients: Vec<RawClient> = (0..CLIENTS).map(|_| weir.client("app")).collect();
    clients.iter_mut().for_each(|client| client.query("SELECT pg_sleep(600)"));
    let waiting = || weir.admin_table("SHOW POOLS").iter().any(|row| row["cl_waiting"] == (CLIENTS - 3).to_string());
    eventually("three run, the others wait", SOON, || (sleeping(&cluster) == 3 && waiting()).then_some(()));
    std::thread::scope(|scope| {
        for client in &clients {
            scope.spawn(|| client.cancel());
        }
    });
    // Whoever came to run in the place of one that was cancelled is cancelled there.
    for client in &mut clients {
        client.cancel();
        assert_eq!(said(&client.read_until_ready()), "E(57014) Z(I)");
    }
    eventually("nothing runs", SOON, || (sleeping(&cluster) == 0).then_some(()));
    for client in &mut clients {
        assert_eq!(client.value("SELECT 1"), "1");
    }
    let pool = weir.admin_table("SHOW POOLS").into_iter().find(|row| row["database"] == "app").unwrap();
    for column in ["cl_active_cancel_req", "cl_waiting_cancel_req", "sv_active_cancel", "sv_being_canceled"] {
        assert_eq!(pool[column], "0", "{column}");
    }
    let connections = cluster.value(
        "SELECT count(*) FROM pg_stat_activity WHERE client_addr IS NOT NULL AND application_name NOT LIKE 'pgweir %'",
    );
    assert!(connections.parse::<u32>().unwrap() <= 3, "{connections}");
}

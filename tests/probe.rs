//! What the prober finds out about real servers, as SHOW REPLICAS shows it: role, lag, latency, breaker and the last error.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::cluster::Cluster;
use common::eventually;
use common::weir::Weir;

const PATIENCE: Duration = Duration::from_secs(20);

type Row = BTreeMap<String, String>;

fn weir(primary: &Cluster, replicas: &[&Cluster], lines: &str) -> Weir {
    let url = |cluster: &Cluster| format!("\"postgres://127.0.0.1:{}/postgres\"", cluster.port());
    let replicas = replicas.iter().map(|replica| url(replica)).collect::<Vec<_>>().join(", ");
    Weir::builder()
        .general("probe_interval = \"100ms\"\nprobe_timeout = \"400ms\"\nbreaker_cooldown = \"200ms\"")
        .general("breaker_failures = 3")
        .database(&format!(
            "[databases.app]\nuser = \"postgres\"\nprimary = {}\nreplicas = [{replicas}]\n{lines}",
            url(primary)
        ))
        .start()
}

/// The row of a server.
fn row(weir: &Weir, server: &Cluster) -> Row {
    let rows = weir.admin_table("SHOW REPLICAS");
    let port = server.port().to_string();
    rows.into_iter().find(|row| row["port"] == port).unwrap_or_else(|| panic!("no row of port {port}"))
}

/// Waits until the row of a server is as wanted; the row.
fn wait(weir: &Weir, server: &Cluster, what: &str, wanted: impl Fn(&Row) -> bool) -> Row {
    let mut last = Row::new();
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually(what, PATIENCE, || {
            last = row(weir, server);
            wanted(&last).then_some(())
        });
    }));
    assert!(found.is_ok(), "{what}: the row is {last:?}");
    last
}

fn number(row: &Row, column: &str) -> u64 {
    row[column].parse().unwrap_or_else(|_| panic!("{column} is no number: {row:?}"))
}

#[test]
fn servers_in_good_health_are_described() {
    let primary = Cluster::start();
    let replica = primary.replica();
    let weir = weir(&primary, &[&replica], "");
    let first = wait(&weir, &replica, "the replica was probed", |row| row["lag_bytes"] == "0");
    assert_eq!(first["database"], "app");
    assert_eq!(first["host"], "127.0.0.1");
    assert_eq!(first["role"], "replica");
    assert_eq!(first["weight"], "1");
    assert_eq!(first["breaker"], "closed");
    assert_eq!(first["last_error"], "");
    assert_eq!(number(&first, "lag_us"), 0);
    assert!((1..2_000_000).contains(&number(&first, "latency_us")), "{first:?}");
    let weight: f64 = first["effective_weight"].parse().unwrap();
    assert!(weight > 1.0 && weight <= 2.0, "{first:?}");
    let first = wait(&weir, &primary, "the primary was probed", |row| !row["latency_us"].is_empty());
    assert_eq!((first["role"].as_str(), first["breaker"].as_str()), ("primary", "closed"));
}

#[test]
fn lag_is_seen_and_a_limit_keeps_reads_away() {
    let primary = Cluster::start();
    primary.sql("CREATE TABLE t (a int)");
    let replica = primary.replica();
    primary.wait_replayed(&replica);
    let weir = weir(&primary, &[&replica], "max_lag = \"1s\"\nconsistency = \"eventual\"");
    wait(&weir, &replica, "the replica was probed", |row| row["lag_bytes"] == "0");
    let mut client = weir.client("app");
    assert_eq!(client.value("SELECT inet_server_port()"), replica.port().to_string());
    replica.sql("SELECT pg_wal_replay_pause()");
    let lags = wait(&weir, &replica, "the lag passes the limit", |row| {
        primary.sql("INSERT INTO t VALUES (1)");
        row["lag_us"].parse::<u64>().is_ok_and(|lag| lag > 1_000_000)
    });
    assert!(number(&lags, "lag_bytes") > 0);
    // A slow replica is not a broken one.
    assert_eq!(lags["breaker"], "closed");
    assert_eq!(client.value("SELECT inet_server_port()"), primary.port().to_string());
    replica.sql("SELECT pg_wal_replay_resume()");
    wait(&weir, &replica, "the replica caught up", |row| row["lag_bytes"] == "0" && row["lag_us"] == "0");
    assert_eq!(client.value("SELECT inet_server_port()"), replica.port().to_string());
}

#[test]
fn idle_primary_makes_no_lag() {
    let primary = Cluster::start();
    let replica = primary.replica();
    let weir = weir(&primary, &[&replica], "max_lag = \"500ms\"");
    wait(&weir, &replica, "the replica was probed", |row| row["lag_bytes"] == "0");
    // The last commit is older than the limit by now, and nothing is missing.
    std::thread::sleep(Duration::from_millis(1200));
    let row = row(&weir, &replica);
    assert_eq!((row["lag_us"].as_str(), row["lag_bytes"].as_str()), ("0", "0"));
    assert_eq!(weir.client("app").value("SELECT inet_server_port()"), replica.port().to_string());
}

#[test]
fn replica_without_its_primary_is_told_from_one_that_is_up_to_date() {
    let primary = Cluster::start();
    primary.sql("CREATE TABLE t (a int)");
    let replica = primary.replica();
    primary.wait_replayed(&replica);
    let weir = weir(&primary, &[&replica], "max_lag = \"1s\"");
    wait(&weir, &replica, "the replica was probed", |row| row["lag_bytes"] == "0");
    // The WAL no longer comes; what came is all replayed, so that the replica believes to be up to date.
    replica.sql("ALTER SYSTEM SET primary_conninfo = 'host=/nowhere'");
    replica.reload();
    let row = wait(&weir, &replica, "the lag is seen", |row| {
        primary.sql("INSERT INTO t VALUES (1)");
        row["lag_us"].parse::<u64>().is_ok_and(|lag| lag > 1_000_000)
    });
    assert!(number(&row, "lag_bytes") > 0);
    assert_eq!(weir.client("app").value("SELECT inet_server_port()"), primary.port().to_string());
}

#[test]
fn breaker_opens_and_closes_with_the_probes() {
    let primary = Cluster::start();
    let replica = primary.replica();
    let weir = weir(&primary, &[&replica], "");
    wait(&weir, &replica, "the replica was probed", |row| row["lag_bytes"] == "0");
    replica.kill9();
    let row = wait(&weir, &replica, "the breaker opens", |row| row["breaker"] == "open");
    assert!(row["last_error"].contains("refused") || row["last_error"].contains("connect"), "{row:?}");
    assert_eq!(row["effective_weight"], "0.000");
    replica.restart();
    wait(&weir, &replica, "the breaker closes", |row| row["breaker"] == "closed" && row["lag_bytes"] == "0");

    replica.freeze();
    let row = wait(&weir, &replica, "the breaker opens", |row| row["breaker"] == "open");
    assert!(row["last_error"].contains("no answer within"), "{row:?}");
    replica.thaw();
    wait(&weir, &replica, "the breaker closes", |row| row["breaker"] == "closed");
    // The primary was well all the time.
    assert_eq!(self::row(&weir, &primary)["last_error"], "");
}

#[test]
fn refused_probe_is_not_held_against_the_server() {
    let primary = Cluster::start();
    let replica = primary.replica();
    let weir = weir(&primary, &[&replica], "probe_user = \"nobody_there\"");
    let row = wait(&weir, &replica, "the probe is refused", |row| !row["last_error"].is_empty());
    assert!(row["last_error"].contains("28000") && row["last_error"].contains("nobody_there"), "{row:?}");
    std::thread::sleep(Duration::from_millis(800));
    let told = || weir.log_text().matches("probes are refused").count();
    eventually("each server is told of", PATIENCE, || (told() >= 2).then_some(()));
    assert_eq!(told(), 2, "once of each server");
    assert_eq!(self::row(&weir, &replica)["breaker"], "closed");
    assert_eq!(weir.client("app").value("SELECT inet_server_port()"), replica.port().to_string());
}

#[test]
fn promoted_replica_is_the_primary() {
    let primary = Cluster::start();
    primary.sql("CREATE TABLE t (a int)");
    let replica = primary.replica();
    primary.wait_replayed(&replica);
    let weir = weir(&primary, &[&replica], "");
    wait(&weir, &replica, "the replica was probed", |row| row["lag_bytes"] == "0");
    wait(&weir, &primary, "the primary was probed", |row| !row["latency_us"].is_empty());
    primary.kill9();
    replica.promote();
    wait(&weir, &replica, "the promotion is seen", |row| row["role"] == "primary");
    let mut client = weir.client("app");
    assert_eq!(client.value("INSERT INTO t VALUES (1) RETURNING inet_server_port()"), replica.port().to_string());
    // The old primary comes back as what it was, and gets nothing.
    primary.restart();
    wait(&weir, &primary, "the old primary is probed", |row| row["breaker"] == "closed" && row["role"] != "primary");
    assert_eq!(client.value("INSERT INTO t VALUES (2) RETURNING inet_server_port()"), replica.port().to_string());
    assert_eq!(client.value("SELECT count(*) FROM t"), "2");
}

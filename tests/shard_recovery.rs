//! Two-phase commit when pgweir or a server is killed at each step: all shards or none, and nothing stays prepared.
//!
//! A step is held by a lock on the table of decisions, by a server that is stopped, or by a proxy that is.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]
#![allow(clippy::print_stderr, reason = "a soak tells what it did")]

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::cluster::Cluster;
use common::eventually;
use common::raw::RawClient;
use common::weir::Weir;
use common::wire::{Message, show};
use pgweir::clock;

const SOON: Duration = Duration::from_secs(45);

/// `app` over two servers; both rows of a transfer lie on different ones.
struct Bank {
    shards: Vec<Cluster>,
    weir: Weir,
}

/// Keys on the first and the second shard.
fn keys(shards: &[Cluster]) -> (Vec<i64>, Vec<i64>) {
    let sql = |first: usize, last: usize| {
        format!(
            "SELECT k FROM generate_series(1, 100000) k \
             WHERE (((hashint8extended(k, 8816678312871386365) & 16383) + 10467) & 16383) BETWEEN {first} AND {last}"
        )
    };
    let read = |sql: String| shards[0].sql(&sql).into_iter().map(|row| row[0].parse().unwrap()).collect();
    (read(sql(0, 8191)), read(sql(8192, 16383)))
}

impl Bank {
    fn start() -> Self {
        let shards = vec![Cluster::start(), Cluster::start()];
        let mut toml = String::from(
            "[databases.app]\nprobe_user = \"postgres\"\nprobe_interval = \"200ms\"\ncross_shard_writes = \"two_phase\"\n",
        );
        for (n, (cluster, slots)) in shards.iter().zip(["[[0, 8191]]", "[[8192, 16383]]"]).enumerate() {
            cluster.sql("CREATE TABLE ledger (k int8 PRIMARY KEY, transfer int8 NOT NULL, amount int8 NOT NULL)");
            toml += &format!(
                "[[databases.app.shards]]\nname = \"s{n}\"\nslots = {slots}\nprimary = \"{}\"\n",
                cluster.url("postgres")
            );
        }
        toml += "[databases.app.tables]\nledger = { key = \"k\", type = \"bigint\" }\n";
        let bank = Self { shards, weir: Weir::builder().database(&toml).start() };
        for cluster in &bank.shards {
            eventually("the table of decisions", SOON, || {
                (cluster.value("SELECT to_regclass('pgweir.dtx') IS NOT NULL") == "t").then_some(())
            });
        }
        bank
    }

    fn prepared(&self) -> usize {
        let count = |cluster: &Cluster| cluster.value("SELECT count(*) FROM pg_prepared_xacts WHERE gid <> 'theirs'");
        self.shards.iter().map(|cluster| count(cluster).parse::<usize>().unwrap()).sum()
    }

    /// Waits until nothing is prepared, and no decision is kept for nothing.
    fn wait_clean(&self) {
        eventually("nothing is prepared", SOON, || (self.prepared() == 0).then_some(()));
        eventually("nothing is kept", SOON, || {
            let kept = |cluster: &Cluster| cluster.value("SELECT count(*) FROM pgweir.dtx") == "0";
            self.shards.iter().all(kept).then_some(())
        });
    }

    /// How many rows of a transfer each shard has.
    fn rows(&self, transfer: i64) -> Vec<String> {
        let sql = format!("SELECT count(*) FROM ledger WHERE transfer = {transfer}");
        self.shards.iter().map(|cluster| cluster.value(&sql)).collect()
    }

    /// Sends a transfer and waits until its first part is prepared; the second shard, which decides, is kept from it by `blocker`.
    fn held(&self, transfer: i64) -> (RawClient, RawClient) {
        let (first, second) = keys(&self.shards);
        let mut blocker = self.shards[1].client("postgres");
        blocker.run("BEGIN");
        blocker.run("LOCK pgweir.dtx IN SHARE MODE");
        let mut client = self.weir.client("app");
        client.query(&transfer_sql(
            transfer,
            first[usize::try_from(transfer).unwrap()],
            second[usize::try_from(transfer).unwrap()],
        ));
        eventually("the first part is prepared", SOON, || (self.prepared() == 1).then_some(()));
        eventually("the decision waits", SOON, || {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT INTO pgweir.dtx%commit%'";
            (self.shards[1].value(sql) == "1").then_some(())
        });
        (client, blocker)
    }
}

fn transfer_sql(transfer: i64, from: i64, to: i64) -> String {
    format!("INSERT INTO ledger (k, transfer, amount) VALUES ({from}, {transfer}, -7), ({to}, {transfer}, 7)")
}

fn code(messages: &[Message]) -> String {
    messages.iter().find_map(Message::error).map(|error| error.code).unwrap_or_else(|| show(messages))
}

#[test]
fn the_proxy_dies_before_the_decision() {
    let bank = Bank::start();
    bank.shards[0].sql("CREATE TABLE other (a int4)");
    bank.shards[0].sql("BEGIN; INSERT INTO other VALUES (1); PREPARE TRANSACTION 'theirs'");
    let (_client, mut blocker) = bank.held(1);
    bank.weir.kill9();
    // Nor does what it has sent become true.
    bank.shards[1]
        .sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'INSERT INTO pgweir.dtx%'");
    blocker.run("ROLLBACK");
    assert_eq!(bank.prepared(), 1);
    bank.weir.restart();
    bank.wait_clean();
    assert_eq!(bank.rows(1), ["0", "0"]);
    bank.weir.wait_log("a prepared transaction that was left behind is ended");
    assert!(bank.weir.http_get("/metrics").1.contains("pgweir_recovered_transactions_total{outcome=\"rollback\"} 1"));
    // What others have prepared is theirs.
    assert_eq!(bank.shards[0].value("SELECT count(*) FROM pg_prepared_xacts WHERE gid = 'theirs'"), "1");
    bank.shards[0].sql("ROLLBACK PREPARED 'theirs'");
}

#[test]
fn the_proxy_dies_while_the_decision_is_made() {
    let bank = Bank::start();
    let (_client, mut blocker) = bank.held(1);
    bank.weir.kill9();
    bank.weir.restart();
    // Recovery waits behind it, and then sees what it was.
    blocker.run("ROLLBACK");
    bank.wait_clean();
    assert_eq!(bank.rows(1), ["1", "1"]);
}

#[test]
fn a_shard_dies_after_the_decision() {
    let bank = Bank::start();
    let (mut client, mut blocker) = bank.held(1);
    bank.shards[0].kill9();
    blocker.run("ROLLBACK");
    // It is decided, and so it will be.
    assert_eq!(show(&client.read_until_ready()), "C(INSERT 0 2) Z(I)");
    bank.shards[0].restart();
    bank.wait_clean();
    assert_eq!(bank.rows(1), ["1", "1"]);
    assert!(bank.weir.http_get("/metrics").1.contains("pgweir_recovered_transactions_total{outcome=\"commit\"} 1"));
}

#[test]
fn proxy_and_shard_die_after_the_decision() {
    let bank = Bank::start();
    let (_client, mut blocker) = bank.held(1);
    bank.shards[0].freeze();
    blocker.run("ROLLBACK");
    eventually("it is decided", SOON, || {
        (bank.shards[1].value("SELECT count(*) FROM pgweir.dtx WHERE outcome = 'commit'") == "1").then_some(())
    });
    bank.weir.kill9();
    bank.shards[0].kill9();
    bank.weir.restart();
    bank.shards[0].restart();
    bank.wait_clean();
    assert_eq!(bank.rows(1), ["1", "1"]);
}

#[test]
fn the_shard_that_decides_dies() {
    let bank = Bank::start();
    let (mut client, blocker) = bank.held(1);
    bank.shards[1].kill9();
    drop(blocker);
    bank.shards[1].restart();
    // Its answer was lost, so it is asked, and has decided nothing.
    let answer = client.read_until_ready();
    assert_eq!(code(&answer), "08006", "{}", show(&answer));
    bank.wait_clean();
    assert_eq!(bank.rows(1), ["0", "0"]);
    // And it goes on.
    let (first, second) = keys(&bank.shards);
    eventually("the shards are back", SOON, || {
        client.query(&transfer_sql(2, first[2], second[2]));
        (show(&client.read_until_ready()) == "C(INSERT 0 2) Z(I)").then_some(())
    });
}

#[test]
fn who_decides_cannot_be_asked_for_long() {
    let bank = Bank::start();
    let (client, blocker) = bank.held(1);
    bank.shards[1].kill9();
    drop(blocker);
    let mut client = client;
    client.set_read_timeout(Duration::from_secs(60));
    let answer = client.read_until_ready();
    assert_eq!(code(&answer), "08007", "{}", show(&answer));
    assert_eq!(bank.shards[0].value("SELECT count(*) FROM pg_prepared_xacts"), "1", "nothing is guessed");
    bank.shards[1].restart();
    bank.wait_clean();
    assert_eq!(bank.rows(1), ["0", "0"]);
}

#[test]
fn nobody_commits_the_work_of_another() {
    let bank = Bank::start();
    let (_client, mut blocker) = bank.held(1);
    let gid = bank.shards[0].value("SELECT gid FROM pg_prepared_xacts");
    let whole = gid.rsplit_once(':').unwrap().0.to_owned();
    bank.weir.kill9();
    bank.shards[1]
        .sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'INSERT INTO pgweir.dtx%'");
    blocker.run("ROLLBACK");
    bank.shards[1].sql("CREATE ROLE mallory LOGIN");
    let forged = format!(
        "SET ROLE mallory; INSERT INTO pgweir.dtx (gid, outcome, participants) VALUES ('{whole}', 'commit', '')"
    );
    bank.shards[1].sql(&forged);
    let owned = bank.shards[1].try_sql_in(
        "postgres",
        &format!("SET ROLE mallory; INSERT INTO pgweir.dtx (gid, outcome, participants, owner) VALUES ('{whole}x', 'commit', '', 'postgres')"),
    );
    assert_eq!(owned.unwrap_err().code, "42501");
    bank.weir.restart();
    eventually("nothing is prepared", SOON, || (bank.prepared() == 0).then_some(()));
    assert_eq!(bank.rows(1), ["0", "0"]);
}

/// Transfers by several clients while pgweir and the servers are killed: a few seconds, or as long as `PGWEIR_SOAK_SECONDS` says.
#[test]
fn money_is_neither_made_nor_lost_under_load() {
    let soak: Option<u64> = std::env::var("PGWEIR_SOAK_SECONDS").ok().map(|s| s.parse().unwrap());
    let bank = Bank::start();
    let (first, second) = keys(&bank.shards);
    let until = clock::now() + Duration::from_secs(soak.unwrap_or(8));
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut kills = BTreeMap::new();
    let outcomes: Vec<(i64, String)> = std::thread::scope(|scope| {
        let clients: Vec<_> =
            (0..4).map(|_| scope.spawn(|| transfers(&bank, (&first, &second), &next, &stop))).collect();
        let mut turn = 0_usize;
        while clock::now() < until {
            std::thread::sleep(Duration::from_millis(700 + 131 * (turn as u64 % 5)));
            match turn % 3 {
                2 => {
                    bank.weir.kill9();
                    bank.weir.restart();
                    *kills.entry("pgweir").or_insert(0) += 1;
                }
                shard => {
                    bank.shards[shard].kill9();
                    bank.shards[shard].restart();
                    *kills.entry("server").or_insert(0) += 1;
                }
            }
            turn += 1;
        }
        stop.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    bank.wait_clean();
    let mut halves: BTreeMap<i64, Vec<String>> = BTreeMap::new();
    let mut sum = 0_i64;
    for row in bank.shards.iter().flat_map(|cluster| cluster.sql("SELECT transfer, amount FROM ledger")) {
        halves.entry(row[0].parse().unwrap()).or_default().push(row[1].clone());
        sum += row[1].parse::<i64>().unwrap();
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (transfer, outcome) in &outcomes {
        *counts.entry(outcome.as_str()).or_default() += 1;
        let there = halves.get(transfer).map_or(0, Vec::len);
        match outcome.as_str() {
            "done" => assert_eq!(there, 2, "transfer {transfer} was acknowledged"),
            "refused" => assert_eq!(there, 0, "transfer {transfer} was refused"),
            _ => assert!(there == 0 || there == 2, "half of transfer {transfer}"),
        }
    }
    eprintln!("transfers: {counts:?}; killed: {kills:?}");
    assert!(halves.values().all(|rows| rows.len() == 2), "half a transfer");
    assert_eq!(sum, 0);
    assert!(counts.get("done").is_some_and(|done| *done > 20), "{counts:?}");
}

/// Transfers until `stop`; what was said of each.
fn transfers(
    bank: &Bank,
    (first, second): (&[i64], &[i64]),
    next: &AtomicU64,
    stop: &AtomicBool,
) -> Vec<(i64, String)> {
    let mut outcomes = Vec::new();
    let mut client: Option<RawClient> = None;
    while !stop.load(Ordering::Relaxed) {
        let Some(connection) = &mut client else {
            client = bank.weir.login("postgres", "app").connect().ok();
            if client.is_none() {
                std::thread::sleep(Duration::from_millis(20));
            }
            continue;
        };
        connection.set_read_timeout(Duration::from_secs(90));
        let transfer = next.fetch_add(1, Ordering::Relaxed);
        let at = usize::try_from(transfer).unwrap();
        let (Some(from), Some(to), transfer) = (first.get(at), second.get(at), i64::try_from(transfer).unwrap()) else {
            break;
        };
        let sql = transfer_sql(transfer, *from, *to);
        let sent = connection.try_send_bytes(&common::wire::frontend::query(&sql));
        let mut outcome = if sent.is_ok() { "lost" } else { "lost unsent" }.to_owned();
        let mut ready = false;
        while let Ok(Some(message)) = connection.try_read_message() {
            match message.tag {
                b'C' => "done".clone_into(&mut outcome),
                b'E' => {
                    let error = message.error().unwrap();
                    // Nobody knows; everything else says that nothing was done.
                    outcome = if error.code == "08007" || error.severity == "FATAL" {
                        error.code
                    } else {
                        "refused".to_owned()
                    };
                }
                b'Z' => {
                    ready = true;
                    break;
                }
                _ => {}
            }
        }
        if !ready {
            client = None;
        }
        outcomes.push((transfer, outcome));
    }
    outcomes
}

//! Two-phase commit when pgweir or a server is killed at each step: all shards or none, and nothing stays prepared.
//!
//! A step is held by a lock on the table of decisions, by a server that is stopped, or by a proxy that is.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]
#![allow(clippy::print_stderr, reason = "a soak tells what it did")]

#[path = "../common/mod.rs"]
mod common;
mod steps;

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
        Self::start_as("postgres")
    }

    /// pgweir looks after it as `prober`.
    fn start_as(prober: &str) -> Self {
        let shards = vec![Cluster::start(), Cluster::start()];
        let mut toml = format!(
            "[databases.app]\nprobe_user = \"{prober}\"\nprobe_interval = \"200ms\"\ncross_shard_writes = \"two_phase\"\n",
        );
        for (n, (cluster, slots)) in shards.iter().zip(["[[0, 8191]]", "[[8192, 16383]]"]).enumerate() {
            cluster.sql("CREATE TABLE ledger (k int8 PRIMARY KEY, transfer int8 NOT NULL, amount int8 NOT NULL)");
            cluster.sql("CREATE ROLE teller; CREATE ROLE clerk LOGIN IN ROLE teller; GRANT ALL ON ledger TO teller");
            cluster.sql("GRANT CREATE ON DATABASE postgres TO clerk; GRANT pg_read_all_settings TO clerk");
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

    /// Waits until nothing is prepared.
    fn wait_clean(&self) {
        eventually("nothing is prepared", SOON, || (self.prepared() == 0).then_some(()));
    }

    /// Leaves a transfer's first part prepared, as a proxy would that dies, and of which the second shard decides: of the role teller.
    fn leave(&self, transfer: i64) {
        let key = keys(&self.shards).0[usize::try_from(transfer).unwrap()];
        self.shards[0].sql(&format!(
            "SET ROLE teller; BEGIN; INSERT INTO ledger VALUES ({key}, {transfer}, -7); \
             PREPARE TRANSACTION 'pgweir:app:s1:{transfer:032x}:s0'"
        ));
    }

    /// How many rows of a transfer each shard has.
    fn rows(&self, transfer: i64) -> Vec<String> {
        let sql = format!("SELECT count(*) FROM ledger WHERE transfer = {transfer}");
        self.shards.iter().map(|cluster| cluster.value(&sql)).collect()
    }

    /// A client in the block of a transfer, but for its last text, which is the other that is returned.
    fn begun(&self, transfer: i64, by: By) -> (RawClient, String) {
        let (first, second) = keys(&self.shards);
        let at = usize::try_from(transfer).unwrap();
        let mut texts = texts(by, transfer, first[at], second[at]);
        let last = texts.pop().unwrap();
        let mut client = self.weir.client("app");
        // Connections that died with a server are found out one by one.
        eventually("the block is there", SOON, || {
            let goes_on = texts.iter().all(|text| client.run(text).ends_with("Z(T)"));
            if !goes_on {
                client.run("ROLLBACK");
            }
            goes_on.then_some(())
        });
        (client, last)
    }

    /// Sends a transfer and waits until its first part is prepared; the second shard, which decides, is kept from it by `blocker`.
    fn held(&self, transfer: i64, by: By) -> (RawClient, RawClient) {
        let (mut client, last) = self.begun(transfer, by);
        let mut blocker = self.shards[1].client("postgres");
        blocker.run("BEGIN");
        blocker.run("LOCK pgweir.dtx IN SHARE MODE");
        client.query(&last);
        eventually("the first part is prepared", SOON, || (self.prepared() == 1).then_some(()));
        eventually("the decision waits", SOON, || {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%INSERT INTO pgweir.dtx%''commit''%'";
            (self.shards[1].value(sql) == "1").then_some(())
        });
        (client, blocker)
    }
}

/// How a transfer is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Statement,
    Block,
}

const BOTH: [(i64, By); 2] = [(1, By::Statement), (2, By::Block)];

/// What is sent for it, in order.
fn texts(by: By, transfer: i64, from: i64, to: i64) -> Vec<String> {
    let row = |k, amount| format!("INSERT INTO ledger (k, transfer, amount) VALUES ({k}, {transfer}, {amount})");
    match by {
        By::Statement => vec![transfer_sql(transfer, from, to)],
        By::Block => vec!["BEGIN".to_owned(), row(from, -7), row(to, 7), "COMMIT".to_owned()],
    }
}

fn tag(by: By) -> &'static str {
    match by {
        By::Statement => "INSERT 0 2",
        By::Block => "COMMIT",
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
    for (transfer, by) in BOTH {
        dies_before_the_decision(&bank, transfer, by);
    }
    // What others have prepared is theirs.
    assert_eq!(bank.shards[0].value("SELECT count(*) FROM pg_prepared_xacts WHERE gid = 'theirs'"), "1");
    bank.shards[0].sql("ROLLBACK PREPARED 'theirs'");
}

fn dies_before_the_decision(bank: &Bank, transfer: i64, by: By) {
    let (_client, mut blocker) = bank.held(transfer, by);
    bank.weir.kill9();
    // Nor does what it has sent become true.
    bank.shards[1].sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE pid <> pg_backend_pid() AND query LIKE '%INSERT INTO pgweir.dtx%''commit''%'",
    );
    blocker.run("ROLLBACK");
    assert_eq!(bank.prepared(), 1);
    bank.weir.restart();
    bank.wait_clean();
    assert_eq!(bank.rows(transfer), ["0", "0"]);
    bank.weir.wait_log("a prepared transaction that was left behind is ended");
    assert!(bank.weir.http_get("/metrics").1.contains("pgweir_recovered_transactions_total{outcome=\"rollback\"} 1"));
}

#[test]
fn the_proxy_dies_while_the_decision_is_made() {
    let bank = Bank::start();
    for (transfer, by) in BOTH {
        let (_client, mut blocker) = bank.held(transfer, by);
        bank.weir.kill9();
        bank.weir.restart();
        // Recovery waits behind it, and then sees what it was.
        blocker.run("ROLLBACK");
        bank.wait_clean();
        assert_eq!(bank.rows(transfer), ["1", "1"], "{by:?}");
    }
}

#[test]
fn a_shard_dies_after_the_decision() {
    let bank = Bank::start();
    for (transfer, by) in BOTH {
        let (mut client, mut blocker) = bank.held(transfer, by);
        bank.shards[0].kill9();
        blocker.run("ROLLBACK");
        // It is decided, and so it will be, if a little later on the one that is not there.
        let answer = client.read_until_ready();
        assert_eq!(show(&answer), format!("N(WARNING 01000) C({}) Z(I)", tag(by)));
        assert!(answer[0].error().unwrap().message.contains("\"s0\""), "{:?}", answer[0].error());
        bank.shards[0].restart();
        bank.wait_clean();
        assert_eq!(bank.rows(transfer), ["1", "1"]);
        let recovered = format!("pgweir_recovered_transactions_total{{outcome=\"commit\"}} {transfer}");
        assert!(bank.weir.http_get("/metrics").1.contains(&recovered));
    }
}

#[test]
fn proxy_and_shard_die_after_the_decision() {
    let bank = Bank::start();
    for (transfer, by) in BOTH {
        let (_client, mut blocker) = bank.held(transfer, by);
        bank.shards[0].freeze();
        blocker.run("ROLLBACK");
        eventually("it is decided", SOON, || {
            let decided = bank.shards[1].value("SELECT count(*) FROM pgweir.dtx WHERE outcome = 'commit'");
            (decided == transfer.to_string()).then_some(())
        });
        bank.weir.kill9();
        bank.shards[0].kill9();
        bank.weir.restart();
        bank.shards[0].restart();
        bank.wait_clean();
        assert_eq!(bank.rows(transfer), ["1", "1"], "{by:?}");
    }
}

#[test]
fn the_shard_that_decides_dies() {
    let bank = Bank::start();
    for (transfer, by) in BOTH {
        let (mut client, blocker) = bank.held(transfer, by);
        bank.shards[1].kill9();
        drop(blocker);
        bank.shards[1].restart();
        // Its answer was lost, so it is asked, and has decided nothing.
        let answer = client.read_until_ready();
        assert_eq!(code(&answer), "08006", "{}", show(&answer));
        bank.wait_clean();
        assert_eq!(bank.rows(transfer), ["0", "0"], "{by:?}");
        // And it goes on.
        let (first, second) = keys(&bank.shards);
        let (other, at) = (transfer + 2, usize::try_from(transfer + 2).unwrap());
        eventually("the shards are back", SOON, || {
            client.query(&transfer_sql(other, first[at], second[at]));
            (show(&client.read_until_ready()) == "C(INSERT 0 2) Z(I)").then_some(())
        });
    }
}

#[test]
fn who_decides_cannot_be_asked_for_long() {
    let bank = Bank::start();
    let (client, blocker) = bank.held(1, By::Statement);
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
    let (_client, mut blocker) = bank.held(1, By::Statement);
    let gid = bank.shards[0].value("SELECT gid FROM pg_prepared_xacts");
    let whole = gid.rsplit_once(':').unwrap().0.to_owned();
    bank.weir.kill9();
    bank.shards[1].sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE pid <> pg_backend_pid() AND query LIKE '%INSERT INTO pgweir.dtx%''commit''%'",
    );
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

#[test]
fn a_decision_counts_after_set_role() {
    let bank = Bank::start();
    let (first, second) = keys(&bank.shards);
    let deciding = &bank.shards[1];
    deciding.sql("CREATE TABLE other (a int4)");
    deciding.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    deciding.reload();
    // Whoever commits there now waits for a standby that does not come.
    let mut waiting = deciding.client("postgres");
    let waits = |what: &str| {
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '{what}'");
        eventually("it waits for a standby", SOON, || (deciding.value(&sql) == "1").then_some(()));
    };
    waiting.query("DO $$ BEGIN FOR i IN 1..10000 LOOP INSERT INTO other VALUES (i); COMMIT; PERFORM pg_sleep(0.01); END LOOP; END $$");
    waits("DO %");
    let mut client = bank.weir.client("app");
    client.run("SET ROLE teller");
    client.query(&transfer_sql(1, first[1], second[1]));
    let decision = "%INSERT INTO pgweir.dtx%''commit''%";
    waits(decision);
    // It is committed there already, and only the answer is lost.
    deciding.sql(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '{decision}'"));
    deciding.sql("ALTER SYSTEM RESET synchronous_standby_names");
    deciding.reload();
    assert_eq!(show(&client.read_until_ready()), "C(INSERT 0 2) Z(I)");
    bank.wait_clean();
    assert_eq!(bank.rows(1), ["1", "1"]);
    assert_eq!(deciding.value("SELECT owner FROM pgweir.dtx"), "teller");
}

#[test]
fn a_decision_outlives_a_crash_whatever_the_session_has_set() {
    let bank = Bank::start();
    let (first, second) = keys(&bank.shards);
    // So that nobody but who commits writes it to the disk.
    bank.shards[1].sql("ALTER SYSTEM SET wal_writer_delay = '10s'");
    bank.shards[1].sql("ALTER SYSTEM SET synchronous_commit = off");
    bank.shards[1].reload();
    eventually("commits are asynchronous", SOON, || {
        (bank.shards[1].value("SHOW synchronous_commit") == "off").then_some(())
    });
    let mut client = bank.weir.client("app");
    client.run("SET synchronous_commit = off");
    client.query(&transfer_sql(1, first[1], second[1]));
    assert_eq!(show(&client.read_until_ready()), "C(INSERT 0 2) Z(I)");
    bank.shards[1].kill9();
    bank.shards[1].restart();
    bank.wait_clean();
    assert_eq!(bank.rows(1), ["1", "1"]);
}

#[test]
fn waiting_for_a_decision_leaves_no_processes_behind() {
    let bank = Bank::start();
    let mut blocker = bank.shards[1].client("postgres");
    blocker.run("BEGIN");
    blocker.run("LOCK pgweir.dtx");
    bank.leave(1);
    let asking = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%pgweir.dtx%'";
    eventually("recovery waits", SOON, || (bank.shards[1].value(asking) == "1").then_some(()));
    let until = clock::now() + Duration::from_secs(26);
    while clock::now() < until {
        let count = bank.shards[1].value(asking);
        assert!(count == "0" || count == "1", "{count}");
        std::thread::sleep(Duration::from_millis(250));
    }
    blocker.run("ROLLBACK");
    bank.wait_clean();
}

#[test]
fn a_role_that_never_logs_in_is_no_obstacle() {
    let bank = Bank::start_as("clerk");
    bank.leave(1);
    bank.wait_clean();
    assert_eq!(bank.rows(1), ["0", "0"]);
}

#[test]
fn what_is_left_is_ended_without_the_setting() {
    let bank = Bank::start();
    let path = bank.weir.config_path();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("two_phase"));
    std::fs::write(&path, text.replace("two_phase", "best_effort")).unwrap();
    bank.weir.admin("RELOAD");
    bank.leave(1);
    bank.wait_clean();
    assert_eq!(bank.rows(1), ["0", "0"]);
}

#[test]
fn who_still_commits_is_not_disturbed() {
    let bank = Bank::start();
    let mut alive = bank.shards[1].client("postgres");
    alive.run("BEGIN");
    // The lower half of the transaction's number.
    alive.run("SELECT pg_advisory_xact_lock_shared(1)");
    bank.leave(1);
    std::thread::sleep(Duration::from_secs(12));
    assert_eq!(bank.prepared(), 1, "it was taken for dead");
    assert_eq!(bank.shards[1].value("SELECT count(*) FROM pgweir.dtx"), "0");
    drop(alive);
    bank.wait_clean();
    // pgweir has such a lock while it commits.
    let (mut client, mut blocker) = bank.held(2, By::Statement);
    let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock' AND granted";
    assert_eq!(bank.shards[1].value(held), "1");
    blocker.run("ROLLBACK");
    assert_eq!(show(&client.read_until_ready()), "C(INSERT 0 2) Z(I)");
    assert_eq!(bank.shards[1].value(held), "0");
}

#[test]
fn old_decisions_are_forgotten() {
    let bank = Bank::start();
    let (first, second) = keys(&bank.shards);
    let mut client = bank.weir.client("app");
    client.run(&transfer_sql(1, first[1], second[1]));
    client.run(&transfer_sql(2, first[2], second[2]));
    let deciding = &bank.shards[1];
    // Of a shard that this proxy does not know.
    deciding.sql(
        "UPDATE pgweir.dtx SET participants = participants || ',s2' WHERE gid = (SELECT min(gid) FROM pgweir.dtx)",
    );
    deciding.sql("UPDATE pgweir.dtx SET at = at - interval '2 hours'");
    client.run(&transfer_sql(3, first[3], second[3]));
    deciding.sql("INSERT INTO pgweir.dtx (gid, outcome, participants, at) VALUES ('pgweir:app:it''s', 'abort', '', now() - interval '1 day')");
    eventually("what nobody needs is gone", SOON, || {
        (deciding.value("SELECT count(*) FROM pgweir.dtx") == "2").then_some(())
    });
    assert_eq!(deciding.value("SELECT count(*) FROM pgweir.dtx WHERE participants LIKE '%s2'"), "1");
    assert_eq!(deciding.value("SELECT count(*) FROM pgweir.dtx WHERE at > now() - interval '1 hour'"), "1");
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

/// Runs a text: the state that the client is in then, if the connection still is.
fn step(client: &mut RawClient, sql: &str) -> Option<String> {
    client.try_send_bytes(&common::wire::frontend::query(sql)).ok()?;
    while let Ok(Some(message)) = client.try_read_message() {
        if message.tag == b'Z' {
            return Some(String::from_utf8_lossy(&message.body).into_owned());
        }
    }
    None
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
    'transfers: while !stop.load(Ordering::Relaxed) {
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
        let by = if transfer % 2 == 0 { By::Statement } else { By::Block };
        let texts = texts(by, transfer, *from, *to);
        let (sql, before) = texts.split_last().unwrap();
        for text in before {
            match step(connection, text).as_deref() {
                Some("T") => {}
                Some(_) => {
                    // Nothing was done, and nothing will be.
                    step(connection, "ROLLBACK");
                    outcomes.push((transfer, "refused".to_owned()));
                    continue 'transfers;
                }
                None => {
                    client = None;
                    outcomes.push((transfer, "refused".to_owned()));
                    continue 'transfers;
                }
            }
        }
        let sent = connection.try_send_bytes(&common::wire::frontend::query(sql));
        let mut outcome = if sent.is_ok() { "lost" } else { "lost unsent" }.to_owned();
        let mut ready = false;
        while let Ok(Some(message)) = connection.try_read_message() {
            match message.tag {
                b'C' if message.to_string() == "C(ROLLBACK)" => "refused".clone_into(&mut outcome),
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

//! Statements that write on several shards: all shards or none, the answer of one server, or a refusal.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod common;

use std::time::Duration;

use common::cluster::Cluster;
use common::eventually;
use common::raw::RawClient;
use common::weir::Weir;
use common::wire::{Message, show};

const SOON: Duration = Duration::from_secs(20);

/// `app` over databases of one cluster, and an unsharded database with the same tables.
struct Sharded {
    cluster: Cluster,
    weir: Weir,
    count: usize,
}

const TABLES: &str = "CREATE TABLE t (k int8 PRIMARY KEY, v text DEFAULT 'none', n int4 CHECK (n < 1000));
    CREATE TABLE x (name varchar(20) PRIMARY KEY, v int4);
    CREATE TABLE r (code int4 PRIMARY KEY, name text, at timestamptz DEFAULT now())";

impl Sharded {
    fn start(count: usize, settings: &str) -> Self {
        Self::over(Cluster::start(), count, settings)
    }

    fn over(cluster: Cluster, count: usize, settings: &str) -> Self {
        cluster.sql("CREATE DATABASE whole");
        cluster.sql_in("whole", TABLES);
        let mut toml = format!("[databases.app]\ndefault_shard = \"s0\"\nprobe_user = \"postgres\"\n{settings}\n");
        for n in 0..count {
            cluster.sql(&format!("CREATE DATABASE s{n}"));
            cluster.sql_in(&format!("s{n}"), TABLES);
            let (first, last) = (16384 * n / count, 16384 * (n + 1) / count - 1);
            toml += &format!(
                "[[databases.app.shards]]\nname = \"s{n}\"\nslots = [[{first}, {last}]]\nprimary = \"{}\"\n",
                cluster.url(&format!("s{n}"))
            );
        }
        toml += "[databases.app.tables]\nt = { key = \"k\", type = \"bigint\" }\nx = { key = \"name\", type = \"varchar\" }\n\
                 r = { reference = true }\n";
        let weir = Weir::builder().database(&toml).start();
        let this = Self { cluster, weir, count };
        if settings.contains("two_phase") && this.cluster.value("SHOW max_prepared_transactions") != "0" {
            for n in 0..count {
                eventually("the table of decisions", SOON, || {
                    (this.on(n, "SELECT to_regclass('pgweir.dtx') IS NOT NULL") == "t").then_some(())
                });
            }
        }
        this
    }

    fn client(&self) -> RawClient {
        self.weir.client("app")
    }

    /// The first value of a query on one shard.
    fn on(&self, shard: usize, sql: &str) -> String {
        self.cluster.sql_in(&format!("s{shard}"), sql)[0][0].clone()
    }

    /// The rows of a query on all shards, sorted.
    fn all(&self, sql: &str) -> Vec<Vec<String>> {
        let mut rows: Vec<_> = (0..self.count).flat_map(|n| self.cluster.sql_in(&format!("s{n}"), sql)).collect();
        rows.sort();
        rows
    }

    /// How many rows of a table each shard has.
    fn counts(&self, table: &str) -> Vec<usize> {
        (0..self.count).map(|n| self.on(n, &format!("SELECT count(*) FROM {table}")).parse().unwrap()).collect()
    }

    fn nothing_prepared(&self) {
        assert_eq!(self.cluster.value("SELECT count(*) FROM pg_prepared_xacts"), "0");
    }
}

fn extended(client: &mut RawClient, sql: &str, oids: &[u32], values: &[Option<&str>]) -> Vec<Message> {
    client.parse("", sql, oids);
    client.bind("", "", values);
    client.describe_portal("");
    client.execute("", 0);
    client.sync();
    client.read_until_ready()
}

fn error(messages: &[Message]) -> (String, String, String) {
    let error = messages.iter().find_map(Message::error).unwrap_or_else(|| panic!("{}", show(messages)));
    (error.code.clone(), error.message.clone(), error.fields.get(&'H').cloned().unwrap_or_default())
}

fn ask(client: &mut RawClient, sql: &str) -> Vec<Message> {
    client.query(sql);
    client.read_until_ready()
}

/// INSERT of keys 1 to `count`, each with a value.
fn insert(count: usize, more: &str) -> String {
    let rows: Vec<String> = (1..=count).map(|k| format!("({k}, 'v, ({k}', {})", k % 7)).collect();
    format!("INSERT INTO t (k, v, n) VALUES {} {more}", rows.join(", "))
}

#[test]
fn rows_go_to_their_shards_as_if_there_were_one() {
    for settings in ["cross_shard_writes = \"two_phase\"", "cross_shard_writes = \"best_effort\""] {
        let sharded = Sharded::start(3, settings);
        let (mut client, mut whole) = (sharded.client(), sharded.cluster.client("whole"));
        let mut same = |sql: &str| {
            let (one, several) = (whole.run(sql), client.run(sql));
            assert_eq!(several, one, "{sql}");
            several
        };
        assert!(same(&insert(40, "RETURNING k, v, n")).ends_with("C(INSERT 0 40) Z(I)"));
        same("INSERT INTO t (k) VALUES (101), (102), (103), (104) RETURNING *");
        same(
            "INSERT INTO t AS a (k, v, n) VALUES (105, DEFAULT, NULL), /* (1, */ (106, 'it''s', -3), (107, E'\\'', 2+3) RETURNING a.k + 1 AS \"next, ()\"",
        );
        same(&insert(50, "ON CONFLICT (k) DO NOTHING"));
        same(&insert(60, "ON CONFLICT (k) DO UPDATE SET v = 'new ' || excluded.v, n = t.n + 1 RETURNING v, n"));
        same("INSERT INTO x (name, v) VALUES ('a', 1), ('żółć', 2), ('', 3), ('d', 4) RETURNING name");
        // One server's error is the statement's, and nothing is left of it on any shard.
        assert!(same("INSERT INTO t (k, n) VALUES (201, 1), (202, 2), (203, 1000), (204, 5)").starts_with("E(23514)"));
        assert!(same("INSERT INTO t (k, n) VALUES (205, 1), (206, 2), (1, 3), (207, 5)").starts_with("E(23505)"));
        assert!(same("INSERT INTO t (k, nix) VALUES (208, 1), (209, 2), (210, 3)").starts_with("E(42703)"));
        let mut all = sharded.cluster.sql_in("whole", "SELECT * FROM t");
        all.sort();
        assert_eq!(sharded.all("SELECT * FROM t"), all);
        assert!(sharded.counts("t").iter().all(|count| *count > 5), "{:?}", sharded.counts("t"));
        sharded.nothing_prepared();
        let decided: usize =
            sharded.all("SELECT to_regclass('pgweir.dtx') IS NOT NULL").iter().filter(|row| row[0] == "t").count();
        assert_eq!(decided, if settings.contains("two_phase") { 3 } else { 0 });
    }
}

#[test]
fn parameters_in_text_and_binary_and_prepared_statements() {
    let sharded = Sharded::start(3, "cross_shard_writes = \"two_phase\"");
    let (mut client, mut whole) = (sharded.client(), sharded.cluster.client("whole"));
    let sql = "INSERT INTO t (k, v, n) VALUES ($1, $2, $3), ($4, $2, $5), ($6, 'c', $3) RETURNING n, k, v";
    for oids in [&[][..], &[20, 25, 23, 20, 23, 20]] {
        for base in [10, 20, 30] {
            let base = base + oids.len() * 10;
            let keys: Vec<String> = (1..4).map(|k| (base + k).to_string()).collect();
            let values = [Some(&*keys[0]), Some("b"), Some("7"), Some(&*keys[1]), None, Some(&*keys[2])];
            let both = [&mut whole, &mut client].map(|client| show(&extended(client, sql, oids, &values)));
            assert_eq!(both[1], both[0]);
            assert!(both[1].starts_with("1 2 T("), "{}", both[1]);
        }
    }
    // Prepared once, with keys on other shards each time, in binary.
    for client in [&mut whole, &mut client] {
        client.parse("p", "INSERT INTO t (k, v, n) VALUES ($1, 'x', $2), ($3, 'y', $4)", &[20, 23, 20, 23]);
        client.describe_statement("p");
        client.sync();
        assert_eq!(show(&client.read_until_ready()), "1 t(20,23,20,23) n Z(I)");
        for base in 100..120_i64 {
            let keys = [(base * 2).to_be_bytes(), (base * 2 + 1).to_be_bytes()];
            let number = 5_i32.to_be_bytes();
            client.bind_binary("", "p", &[Some(&keys[0][..]), Some(&number), Some(&keys[1]), None]);
            client.execute("", 0);
            client.sync();
            assert_eq!(show(&client.read_until_ready()), "2 C(INSERT 0 2) Z(I)");
        }
        // A value that is none is the error of the shard that gets it.
        let bad = extended(
            client,
            "INSERT INTO t (k, n) VALUES ($1, $2), ($3, $4), ($5, $6)",
            &[20, 23, 20, 23, 20, 23],
            &[Some("901"), Some("1"), Some("902"), Some("one"), Some("903"), Some("3")],
        );
        assert_eq!(error(&bad).0, "22P02");
        assert_eq!(client.run("SELECT 1"), "T(?column?:23) D(1) C(SELECT 1) Z(I)");
    }
    let mut all = sharded.cluster.sql_in("whole", "SELECT * FROM t");
    all.sort();
    assert_eq!(sharded.all("SELECT * FROM t"), all);
    sharded.nothing_prepared();
}

#[test]
fn what_cannot_be_split_is_refused_with_a_hint() {
    let sharded = Sharded::start(3, "cross_shard_writes = \"two_phase\"");
    let mut client = sharded.client();
    for (sql, why) in [
        ("INSERT INTO t (k, v) VALUES (1, now()), (2, 'b'), (3, 'c')", "time of its server"),
        ("INSERT INTO t (k, n) VALUES (1, random()::int4), (2, 1), (3, 1)", "another value on each shard"),
        ("INSERT INTO t (k, n) VALUES (1, nextval('s')), (2, 1), (3, 1)", "nextval"),
        (
            "INSERT INTO t (k, v) VALUES (1, 'a'), (2, 'b'), (3, 'c') ON CONFLICT DO NOTHING",
            "does not contain the sharding key",
        ),
        (
            "INSERT INTO t (k, v) VALUES (1, 'a'), (2, 'b'), (3, 'c') ON CONFLICT (k) DO NOTHING RETURNING k",
            "order is not known",
        ),
        ("INSERT INTO t (k, v) VALUES (1, 'a'), (2, 'b'), (3, 'c'); SELECT 1", "different shards"),
        ("INSERT INTO t (k, v) VALUES (1, (SELECT 'a')), (2, 'b'), (3, 'c')", "sub-query"),
    ] {
        let (code, message, hint) = error(&ask(&mut client, sql));
        assert_eq!(code, "0A000", "{sql}: {message}");
        assert!(message.contains(why), "{sql}: {message}");
        assert!(!hint.is_empty(), "{sql}");
    }
    // Within a block, and in a pipeline, only one shard can write.
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    let (code, message, hint) = error(&ask(&mut client, &insert(9, "")));
    assert_eq!(
        (code.as_str(), message.contains("writes on several shards is not supported within a transaction")),
        ("0A000", true),
        "{message}"
    );
    assert!(hint.contains("outside of a transaction block"), "{hint}");
    assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    assert_eq!(sharded.counts("t"), [0, 0, 0]);

    let plain = Sharded::start(2, "");
    let (code, message, hint) = error(&ask(&mut plain.client(), &insert(9, "")));
    assert_eq!((code.as_str(), message.contains("belong to different shards")), ("0A000", true), "{message}");
    assert!(hint.contains("cross_shard_writes"), "{hint}");
}

#[test]
fn two_phase_commit_is_refused_where_it_is_not_possible() {
    let cluster = Cluster::with_config(&[("max_prepared_transactions", "0")]);
    let sharded = Sharded::over(cluster, 2, "cross_shard_writes = \"two_phase\"");
    sharded.weir.wait_log("max_prepared_transactions is 0");
    let mut client = sharded.client();
    let (code, message, hint) = error(&ask(&mut client, &insert(9, "")));
    assert_eq!((code.as_str(), message.contains("max_prepared_transactions is 0")), ("0A000", true), "{message}");
    assert!(hint.contains("SHOW SHARDS"), "{hint}");
    assert_eq!(client.run("INSERT INTO t (k) VALUES (1)"), "C(INSERT 0 1) Z(I)");
}

#[test]
fn the_route_is_told() {
    let sharded = Sharded::start(2, "cross_shard_writes = \"two_phase\"");
    let rows = sharded.weir.admin("EXPLAIN ROUTE 'INSERT INTO t (k) VALUES (1), (2), (3), (4), (5), (6)'");
    let told: Vec<String> = rows.iter().map(|row| row.join(": ")).collect();
    for line in
        ["plan: several shards, which write", "shards: s0, s1", "its own rows, in a transaction", "two-phase commit"]
    {
        assert!(told.iter().any(|row| row.contains(line)), "{line}: {told:?}");
    }
}

#[test]
fn a_cancelled_statement_leaves_nothing() {
    let sharded = Sharded::start(2, "cross_shard_writes = \"two_phase\"");
    // One shard waits for a lock.
    let mut blocker = sharded.cluster.client("s1");
    blocker.run("BEGIN");
    blocker.run("LOCK t");
    let mut client = sharded.client();
    client.query(&insert(20, ""));
    eventually("the insert waits", SOON, || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        (sharded.cluster.value(sql) == "1").then_some(())
    });
    client.cancel();
    assert_eq!(show(&client.read_until_ready()), "E(57014) Z(I)");
    blocker.run("ROLLBACK");
    assert_eq!(sharded.counts("t"), [0, 0]);
    assert!(client.run(&insert(20, "")).ends_with("C(INSERT 0 20) Z(I)"));
    sharded.nothing_prepared();
}

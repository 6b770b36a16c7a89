//! Statements that write on several shards: all shards or none, the answer of one server, or a refusal.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod common;
#[path = "shard_writes/connections.rs"]
mod connections;
#[path = "shard_writes/present.rs"]
mod present;
#[path = "shard_writes/told.rs"]
mod told;

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
        ("INSERT INTO t (k, v) VALUES (1, (SELECT 'a')), (2, 'b'), (3, 'c')", "different shards"),
    ] {
        let (code, message, hint) = error(&ask(&mut client, sql));
        assert_eq!(code, "0A000", "{sql}: {message}");
        assert!(message.contains(why), "{sql}: {message}");
        assert!(!hint.is_empty(), "{sql}");
    }
    // Within a block it is undone with it.
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(client.run(&insert(9, "")), "C(INSERT 0 9) Z(T)");
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

#[test]
fn copied_rows_of_a_reference_table_mean_the_same_everywhere() {
    let sharded = Sharded::start(2, "cross_shard_writes = \"two_phase\"");
    let mut client = sharded.client();
    let mut copy = |sql: &str, data: &str| {
        client.query(sql);
        client.read_until(b'G');
        client.copy_data(data.as_bytes());
        client.copy_done();
        client.read_until_ready()
    };
    for (sql, data) in [
        ("COPY r FROM STDIN", "1\tnow\t2024-01-02 03:04:05+00\n2\tnow\tnow\n"),
        ("COPY r (at, code, name) FROM STDIN", "Today,1,x\n".replace(',', "\t").as_str()),
        ("COPY r FROM STDIN (FORMAT csv)", "1,x,\"tomorrow 12:00\"\n"),
    ] {
        let (code, message, hint) = error(&copy(sql, data));
        assert_eq!(code, "0A000", "{sql}: {message}");
        assert!(message.contains("the present") && !hint.is_empty(), "{message} {hint}");
        assert_eq!(sharded.counts("r"), [0, 0]);
    }
    // A name may be any word, and what cannot be read the server refuses.
    let told = copy("COPY r FROM STDIN", "1\tnow\t2024-01-02 03:04:05+00\n2\ttoday\t\\N\n");
    assert_eq!(show(&told), "C(COPY 2) Z(I)");
    assert_eq!(sharded.counts("r"), [2, 2]);
    assert_eq!(error(&copy("COPY r FROM STDIN", "3\n")).0, "22P04");
    assert_eq!(error(&copy("COPY r FROM STDIN", "3\tx\tnever\n")).0, "22007");
    assert_eq!(sharded.counts("r"), [2, 2]);
    sharded.nothing_prepared();
}

#[test]
fn explain_of_a_write_shows_the_route_and_each_shards_plan_and_writes_nothing() {
    let sharded = Sharded::start(3, "cross_shard_writes = \"two_phase\"\nunkeyed_writes = true");
    let mut client = sharded.client();
    assert_eq!(client.run(&insert(20, "")), "C(INSERT 0 20) Z(I)");
    let lines = |reply: &[Message]| -> Vec<String> {
        assert!(show(reply).contains("C(EXPLAIN) Z"), "{}", show(reply));
        reply.iter().filter_map(Message::row).map(|row| row[0].clone().unwrap()).collect()
    };
    for (sql, plan) in [
        (insert(60, "ON CONFLICT (k) DO NOTHING"), "  Insert on t"),
        ("UPDATE t SET n = n + 1".to_owned(), "  Update on t"),
        ("DELETE FROM t WHERE n = 3".to_owned(), "  Delete on t"),
        ("INSERT INTO r (code, name, at) VALUES (1, 'a', '2024-01-01')".to_owned(), "  Insert on r"),
        ("UPDATE r SET name = 'x'".to_owned(), "  Update on r"),
    ] {
        let told = lines(&ask(&mut client, &format!("EXPLAIN (COSTS off) {sql}")));
        assert_eq!(told[0], "Several shards: s0, s1, s2", "{sql}");
        assert!(
            told.iter().any(|line| line.starts_with("  Proof: "))
                && told.iter().any(|line| line.starts_with("  Step: "))
        );
        for shard in 0..3 {
            let at = told.iter().position(|line| *line == format!("Shard s{shard}:")).unwrap();
            assert_eq!(told[at + 1], plan, "{told:?}");
        }
        let reply = ask(&mut client, &format!("EXPLAIN (FORMAT json) {sql}"));
        // Behind the numbers of columns and of bytes.
        let row = &reply.iter().find(|message| message.tag == b'D').unwrap().body[6..];
        let json: serde_json::Value = serde_json::from_slice(row).unwrap();
        let shards: Vec<&str> = json.as_array().unwrap().iter().map(|query| query["Shard"].as_str().unwrap()).collect();
        assert_eq!(shards, ["s0", "s1", "s2"]);
        assert!((0..3).all(|at| json[at]["Plan"]["Operation"].is_string()), "{json}");
        let (code, message, hint) = error(&ask(&mut client, &format!("EXPLAIN ANALYZE {sql}")));
        assert!(code == "0A000" && message.contains("EXPLAIN ANALYZE") && !hint.is_empty(), "{sql}: {code} {message}");
    }
    // By the extended protocol, each shard by the rows that are its own.
    let two = "EXPLAIN INSERT INTO t (k, n) VALUES ($1, $2), ($3, $4), ($5, $6), ($7, $8), ($9, $10), ($11, $12)";
    let values: Vec<String> = (0..12).map(|n| (1000 + n).to_string()).collect();
    let values: Vec<Option<&str>> = values.iter().map(|value| Some(value.as_str())).collect();
    let reply = extended(&mut client, two, &[], &values);
    assert!(show(&reply).starts_with("1 2 T(QUERY PLAN:25) D(Several shards: s"), "{}", show(&reply));
    // What is refused is refused under EXPLAIN, and what the servers refuse too.
    for (sql, wanted) in [
        ("EXPLAIN UPDATE r SET name = random()::text", "0A000"),
        ("EXPLAIN INSERT INTO t (k, n) VALUES (1, random()), (2, 1), (3, 1)", "0A000"),
        ("EXPLAIN UPDATE t SET nothing = 1", "42703"),
    ] {
        assert_eq!(error(&ask(&mut client, sql)).0, wanted, "{sql}");
    }
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    let (code, _, hint) = error(&ask(&mut client, "EXPLAIN UPDATE t SET n = 1"));
    assert!(code == "0A000" && !hint.is_empty());
    assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    assert_eq!(client.value("SELECT count(*) FROM t WHERE n < 7"), "20");
    assert_eq!(sharded.counts("r"), [0, 0, 0]);
    // On one shard it is run, once and in its transaction.
    let once = "EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) UPDATE t SET n = n + 1 WHERE k = 1 RETURNING n";
    for (block, n) in [(true, "2"), (false, "2")] {
        if block {
            assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
        }
        let told = lines(&ask(&mut client, once));
        assert!(told[0].starts_with("One shard: s") && told[2].starts_with("Update on t"), "{told:?}");
        assert_eq!(client.value("SELECT n FROM t WHERE k = 1"), n);
        if block {
            assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
            assert_eq!(client.value("SELECT n FROM t WHERE k = 1"), "1");
        }
    }
    sharded.nothing_prepared();
}

/// Each shard has a clock of its own.
#[test]
fn a_parameter_that_means_the_present_is_the_same_on_every_shard() {
    let sharded = Sharded::start(3, "cross_shard_writes = \"two_phase\"\nunkeyed_writes = true");
    let mut client = sharded.client();
    assert!(client.run("ALTER TABLE t ADD at timestamptz, ADD d date, ADD p tstzrange").ends_with("Z(I)"));
    const TIMESTAMPTZ: u32 = 1184;
    let clocks = |keys: &str| {
        let sql =
            format!("SELECT DISTINCT at, d, now() - at BETWEEN '0' AND '1min' FROM t WHERE {keys} AND at IS NOT NULL");
        let mut found = sharded.all(&sql);
        found.dedup();
        found
    };
    let rows = |from: usize| -> Vec<String> { (from..from + 12).map(|k| k.to_string()).collect() };
    for (from, block, oids) in [(100, false, &[][..]), (200, true, &[]), (300, false, &[0, TIMESTAMPTZ, 0, 25])] {
        let keys = rows(from);
        let (mut values, mut places) = (Vec::new(), Vec::new());
        for (at, key) in keys.iter().enumerate() {
            // A text may be any word.
            values.extend([
                Some(key.as_str()),
                Some(if at == 0 { "NOW" } else { "now" }),
                Some("today"),
                Some("Today now"),
            ]);
            let first = 4 * at + 1;
            places.push(format!("(${first}, ${}, ${}, ${})", first + 1, first + 2, first + 3));
        }
        let sql = format!("INSERT INTO t (k, at, d, v) VALUES {}", places.join(", "));
        let oids: Vec<u32> = oids.iter().copied().cycle().take(if oids.is_empty() { 0 } else { 48 }).collect();
        if block {
            assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
        }
        let told = show(&extended(&mut client, &sql, &oids, &values));
        assert!(told.contains("C(INSERT 0 12)"), "{told}");
        if block {
            assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
        }
        let found = clocks(&format!("k BETWEEN {from} AND {}", from + 99));
        assert!(found.len() == 1 && found[0][2] == "t", "{found:?}");
        let counts = |n: usize| sharded.on(n, &format!("SELECT count(*) FROM t WHERE v = 'Today now' AND k >= {from}"));
        assert!((0..3).filter(|n| counts(*n) != "0").count() > 1);
    }
    // Where all shards do the same, and within other values.
    let told = show(&extended(&mut client, "UPDATE t SET at = $1::timestamptz, d = NULL", &[], &[Some("now")]));
    assert!(told.contains("C(UPDATE 36)"), "{told}");
    assert_eq!(clocks("true").len(), 1);
    let told = show(&extended(&mut client, "UPDATE t SET p = $1", &[], &[Some("[now,tomorrow)")]));
    assert!(told.contains("C(UPDATE 36)"), "{told}");
    let mut periods = sharded.all("SELECT DISTINCT p::text FROM t");
    periods.dedup();
    assert_eq!(periods.len(), 1, "{periods:?}");
    // What it is no value of, and what becomes the present only when it is computed.
    let two = "INSERT INTO t (k, at) VALUES ($1, $2), ($3, $4), ($5, $6)";
    let wrong = [Some("1"), Some("now and then"), Some("2"), Some("now"), Some("3"), None];
    assert_eq!(error(&extended(&mut client, two, &[], &wrong)).0, "22007");
    let cast = "INSERT INTO t (k, at) VALUES ($1, $2::text::timestamptz), ($3, NULL), ($4, NULL)";
    let (code, message, hint) =
        error(&extended(&mut client, cast, &[], &[Some("1"), Some("now"), Some("2"), Some("3")]));
    assert!(code == "0A000" && message.contains("present") && !hint.is_empty(), "{code} {message}");
    assert_eq!(sharded.all("SELECT count(*) FROM t WHERE k < 100"), [["0"], ["0"], ["0"]]);
    sharded.nothing_prepared();
}

#[test]
fn a_cancel_request_that_a_shard_passes_over_counts_all_the_same() {
    let sharded = Sharded::start(2, "cross_shard_writes = \"two_phase\"");
    // What the first shard runs takes no notice, as a shard does that has just answered.
    sharded.cluster.sql_in(
        "s0",
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(30); RETURN NULL; \
           EXCEPTION WHEN query_canceled THEN RETURN NULL; END $$; \
         CREATE TRIGGER slow AFTER INSERT ON t FOR EACH STATEMENT EXECUTE FUNCTION slow()",
    );
    let mut client = sharded.client();
    for block in [false, true] {
        if block {
            assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
        }
        client.query(&insert(20, ""));
        eventually("the first shard is at it", SOON, || {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
            (sharded.cluster.value(sql) == "1").then_some(())
        });
        client.cancel();
        let state = if block { "E" } else { "I" };
        assert_eq!(show(&client.read_until_ready()), format!("E(57014) Z({state})"));
        client.run("ROLLBACK");
        assert_eq!(sharded.counts("t"), [0, 0]);
    }
    sharded.nothing_prepared();
}

#[test]
fn reference_tables_stay_alike_on_all_shards() {
    let sharded = Sharded::start(3, "cross_shard_writes = \"two_phase\"");
    let (mut client, mut whole) = (sharded.client(), sharded.cluster.client("whole"));
    let at = "timestamptz '2024-01-02 03:04:05+00'";
    for sql in [
        format!("INSERT INTO r (code, name, at) VALUES (1, 'a', {at}), (2, DEFAULT, {at}) RETURNING code, name"),
        format!(
            "INSERT INTO r (code, name, at) VALUES (1, 'b', {at}) ON CONFLICT (code) DO UPDATE SET name = r.name || excluded.name"
        ),
        "UPDATE r SET name = upper(name) WHERE code < 5 RETURNING *".to_owned(),
        "UPDATE r SET name = 'x' WHERE code = 77".to_owned(),
        format!("INSERT INTO r (code, name, at) VALUES (2, 'again', {at})"),
        "DELETE FROM r WHERE code = 2".to_owned(),
        // A default that is one constant.
        "UPDATE r SET name = DEFAULT WHERE code = 1 RETURNING name".to_owned(),
    ] {
        assert_eq!(client.run(&sql), whole.run(&sql), "{sql}");
    }
    let wanted = sharded.cluster.sql_in("whole", "SELECT * FROM r ORDER BY code");
    for shard in 0..3 {
        assert_eq!(sharded.cluster.sql_in(&format!("s{shard}"), "SELECT * FROM r ORDER BY code"), wanted, "s{shard}");
    }
    let answer =
        extended(&mut client, "UPDATE r SET name = $1 WHERE code = $2 RETURNING name", &[], &[Some("z"), Some("1")]);
    assert_eq!(show(&answer), "1 2 T(name:25) D(z) C(UPDATE 1) Z(I)");
    assert_eq!(sharded.all("SELECT name FROM r"), vec![vec!["z"]; 3]);
    for (sql, why) in [
        ("INSERT INTO r (code, name) VALUES (5, 'e')", "default"),
        // Without a list of columns it is not known which are given.
        ("INSERT INTO r VALUES (5, 'e')", "default"),
        ("INSERT INTO r (code, at) VALUES (5, DEFAULT)", "default"),
        ("UPDATE r SET at = DEFAULT WHERE code = 1", "default"),
        (
            "INSERT INTO r (code, name, at) VALUES (1, 'a', '2024-01-02 03:04:05+00') ON CONFLICT (code) DO UPDATE SET at = DEFAULT",
            "default",
        ),
        ("INSERT INTO r (code, at) VALUES (5, now())", "time of its server"),
        ("UPDATE r SET name = random()::text", "another value on each shard"),
        ("DELETE FROM r WHERE at < now()", "time of its server"),
        ("UPDATE r SET name = t.v FROM t WHERE t.k = r.code", "reference"),
    ] {
        let (code, message, hint) = error(&ask(&mut client, sql));
        assert_eq!((code.as_str(), message.contains(why), hint.is_empty()), ("0A000", true, false), "{sql}: {message}");
    }
    sharded.nothing_prepared();
}

#[test]
fn what_a_reference_table_does_by_itself_makes_no_copies_differ() {
    let sharded = Sharded::start(2, "cross_shard_writes = \"two_phase\"");
    let mut client = sharded.client();
    let everywhere = |sql: &str| (0..2).for_each(|n| drop(sharded.cluster.sql_in(&format!("s{n}"), sql)));
    let refused = |client: &mut RawClient, sql: &str, why: &str| {
        // A check that came between two shards has another reason, until the next one.
        eventually(&format!("{sql} is refused: {why}"), Duration::from_secs(60), || {
            let (code, message, hint) = error(&ask(client, sql));
            assert_eq!((code.as_str(), hint.is_empty()), ("0A000", false), "{sql}: {message}");
            message.contains(why).then_some(())
        });
    };
    let insert = "INSERT INTO r (code, name, at) VALUES (7, 'g', '2024-01-02 03:04:05+00')";
    assert_eq!(client.run(insert), "C(INSERT 0 1) Z(I)");
    // A default of a domain.
    everywhere(
        "CREATE DOMAIN drawn AS float8 DEFAULT random(); ALTER TABLE r ADD d drawn DEFAULT NULL; ALTER TABLE r ALTER d DROP DEFAULT",
    );
    refused(&mut client, &insert.replace('7', "8"), "compute");
    everywhere("ALTER TABLE r DROP d");
    // A default that is not the same.
    everywhere("ALTER TABLE r ADD e int4 DEFAULT 1");
    sharded.cluster.sql_in("s1", "ALTER TABLE r ALTER e SET DEFAULT 2");
    refused(&mut client, &insert.replace('7', "8"), "not the same");
    everywhere("ALTER TABLE r DROP e");
    for sql in ["ALTER TABLE r ADD u uuid DEFAULT gen_random_uuid()", "ALTER TABLE r ADD u timestamptz DEFAULT now()"] {
        refused(&mut client, sql, "cannot write on several shards");
    }
    refused(&mut client, "ALTER TABLE r ADD n serial", "sequence");
    let present = extended(&mut client, "UPDATE r SET at = $1 WHERE code = 7", &[], &[Some("now")]);
    assert!(show(&present).contains("C(UPDATE 1)"), "{}", show(&present));
    assert_eq!(sharded.on(0, "SELECT at FROM r WHERE code = 7"), sharded.on(1, "SELECT at FROM r WHERE code = 7"));
    let named = extended(&mut client, "UPDATE r SET name = $1 WHERE code = 7", &[25], &[Some("now")]);
    assert!(show(&named).contains("C(UPDATE 1)"), "{}", show(&named));
    everywhere(
        "CREATE FUNCTION draw() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.name := random(); RETURN NEW; END'; \
         CREATE TRIGGER draws BEFORE INSERT OR UPDATE ON r FOR EACH ROW EXECUTE FUNCTION draw()",
    );
    for sql in
        [insert, "UPDATE r SET name = 'h'", "DELETE FROM r", "COPY r FROM STDIN", "COPY r (code, name, at) FROM STDIN"]
    {
        refused(&mut client, sql, "trigger \"draws\"");
    }
    everywhere("ALTER TABLE r DISABLE TRIGGER draws");
    assert!(show(&ask(&mut client, "UPDATE r SET name = 'h'")).contains("C(UPDATE 1)"));
    assert_eq!(sharded.all("SELECT code, name FROM r"), vec![vec!["7", "h"]; 2]);
    sharded.nothing_prepared();
}

#[test]
fn statements_without_a_key_reach_all_shards_where_that_is_wanted() {
    let sharded = Sharded::start(3, "cross_shard_writes = \"two_phase\"\nunkeyed_writes = true");
    let (mut client, mut whole) = (sharded.client(), sharded.cluster.client("whole"));
    for sql in [
        insert(30, ""),
        "UPDATE t SET n = n + 100 WHERE v LIKE '%1%'".to_owned(),
        "DELETE FROM t WHERE n = 3".to_owned(),
        "UPDATE t SET n = 2000 WHERE k < 9".to_owned(),
        "DELETE FROM t WHERE n = 12345".to_owned(),
    ] {
        assert_eq!(client.run(&sql), whole.run(&sql), "{sql}");
    }
    let mut all = sharded.cluster.sql_in("whole", "SELECT * FROM t");
    all.sort();
    assert_eq!(sharded.all("SELECT * FROM t"), all);
    let answer = extended(&mut client, "DELETE FROM t WHERE n >= $1 RETURNING k", &[23], &[Some("0")]);
    let rows = answer.iter().filter(|message| message.tag == b'D').count();
    assert_eq!((rows, sharded.counts("t")), (all.len(), vec![0, 0, 0]));
    sharded.nothing_prepared();

    let plain = Sharded::start(2, "cross_shard_writes = \"two_phase\"");
    let (code, _, hint) = error(&ask(&mut plain.client(), "DELETE FROM t"));
    assert_eq!((code.as_str(), hint.contains("unkeyed_writes")), ("0A000", true), "{hint}");
}

#[test]
fn tables_are_made_changed_and_emptied_on_all_shards() {
    let sharded = Sharded::start(3, "cross_shard_writes = \"two_phase\"");
    let mut client = sharded.client();
    client.run(&insert(30, ""));
    for (sql, tag) in [
        ("ALTER TABLE t ADD COLUMN more int4 DEFAULT 5", "ALTER TABLE"),
        ("CREATE INDEX t_more ON t (more)", "CREATE INDEX"),
        ("CREATE INDEX CONCURRENTLY t_n ON t (n)", "CREATE INDEX"),
        ("VACUUM t", "VACUUM"),
        ("ANALYZE t", "ANALYZE"),
        ("COMMENT ON TABLE t IS 'rows'", "COMMENT"),
        ("CREATE SCHEMA apart", "CREATE SCHEMA"),
        ("CREATE TYPE mood AS ENUM ('sad', 'ok')", "CREATE TYPE"),
        ("GRANT SELECT ON t TO PUBLIC", "GRANT"),
        ("DROP TABLE r", "DROP TABLE"),
        ("CREATE TABLE r (code int4 PRIMARY KEY)", "CREATE TABLE"),
        ("TRUNCATE t", "TRUNCATE TABLE"),
    ] {
        assert_eq!(client.run(sql), format!("C({tag}) Z(I)"), "{sql}");
    }
    for shard in 0..3 {
        let is = |sql: &str| assert_eq!(sharded.on(shard, sql), "t", "{sql} on s{shard}");
        is("SELECT count(*) = 0 FROM t");
        is("SELECT count(*) = 3 FROM pg_index WHERE indrelid = 't'::regclass AND indisvalid");
        is("SELECT to_regnamespace('apart') IS NOT NULL AND to_regtype('mood') IS NOT NULL");
        is("SELECT obj_description('t'::regclass) = 'rows'");
    }
    // What one shard will not do is done on none.
    sharded.cluster.sql_in("s2", "CREATE TABLE apart.x (a int4); ALTER TABLE t ADD COLUMN late int4");
    assert!(client.run("ALTER TABLE t ADD COLUMN late int4").starts_with("E(42701)"));
    assert_eq!(
        sharded.on(0, "SELECT count(*) FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'late'"),
        "0"
    );
    // Outside of transactions each shard is told of.
    sharded.cluster.sql_in("s1", "CREATE INDEX t_v ON t (v)");
    let answer = ask(&mut client, "CREATE INDEX CONCURRENTLY t_v ON t (v)");
    let failed = answer.iter().find_map(Message::error).unwrap();
    assert_eq!(failed.code, "42P07", "{}", failed.message);
    assert!(failed.message.contains("failed on 1 of 3 shards"), "{}", failed.message);
    assert!(
        failed.fields[&'D'].contains("Shard \"s0\": done.") && failed.fields[&'D'].contains("Shard \"s1\": relation"),
        "{failed:?}"
    );
    // A table that is not listed lives on the default shard.
    assert_eq!(client.run("CREATE TABLE unlisted (a int4)"), "C(CREATE TABLE) Z(I)");
    assert_eq!(sharded.all("SELECT to_regclass('unlisted') IS NOT NULL"), [["f"], ["f"], ["t"]]);
    for sql in ["CREATE DATABASE more", "DO 'BEGIN END'", "CREATE TABLE t AS SELECT 1 AS k", "TRUNCATE t, unlisted"] {
        let (code, message, hint) = error(&ask(&mut client, sql));
        assert_eq!((code.as_str(), hint.is_empty()), ("0A000", false), "{sql}: {message}");
    }
    sharded.nothing_prepared();
}

#[test]
fn writers_of_several_shards_never_wait_in_a_circle() {
    let sharded = Sharded::start(2, "cross_shard_writes = \"two_phase\"");
    let key = |which: &str| {
        let slot = "(((hashint8extended(k, 8816678312871386365) & 16383) + 10467) & 16383)";
        sharded.cluster.value(&format!("SELECT min(k) FROM generate_series(1, 100) k WHERE {slot} {which} 8192"))
    };
    let (a, b) = (key("<"), key(">="));
    std::thread::scope(|scope| {
        for (x, y) in [(&a, &b), (&b, &a)] {
            let mut client = sharded.client();
            scope.spawn(move || {
                for _ in 0..60 {
                    let sql = format!(
                        "INSERT INTO t (k, n) VALUES ({x}, 1), ({y}, 1) ON CONFLICT (k) DO UPDATE SET n = t.n + 1"
                    );
                    assert_eq!(client.run(&sql), "C(INSERT 0 2) Z(I)");
                }
            });
        }
    });
    assert_eq!(sharded.all("SELECT n FROM t"), [["120"], ["120"]]);
}

/// COPY FROM STDIN of these pieces; the compact form of what follows CopyInResponse.
fn copy_in(client: &mut RawClient, sql: &str, pieces: &[&[u8]]) -> String {
    client.query(sql);
    let begun = client.read_message();
    if begun.tag != b'G' {
        let rest = client.read_until_ready();
        return format!("{begun} {}", show(&rest));
    }
    pieces.iter().for_each(|piece| client.copy_data(piece));
    client.copy_done();
    show(&client.read_until_ready())
}

/// 20,000 rows, or as many as `make soak` wants.
#[test]
fn copied_rows_lie_on_their_shards_and_add_up() {
    let count = if std::env::var("PGWEIR_SOAK_SECONDS").is_ok() { 1_000_000 } else { 20_000 };
    let sharded = Sharded::start(4, "cross_shard_writes = \"two_phase\"");
    let (mut client, mut whole) = (sharded.client(), sharded.cluster.client("whole"));
    for client in [&mut whole, &mut client] {
        client.set_read_timeout(Duration::from_secs(120));
        client.query("COPY t (n, k, v) FROM STDIN");
        assert_eq!(client.read_message().tag, b'G');
        let mut data = String::new();
        for k in 0..i64::try_from(count).unwrap() {
            data += &format!("{}\t{}\ttext\\t{k}\n", k % 1000, k * 37 - 5000);
            if data.len() > 60_000 {
                client.copy_data(data.as_bytes());
                data.clear();
            }
        }
        client.copy_data(data.as_bytes());
        client.copy_done();
        assert_eq!(show(&client.read_until_ready()), format!("C(COPY {count}) Z(I)"));
    }
    let sum = "SELECT count(*), sum(hashtextextended(t::text, 0)) FROM t";
    let slot = "(((hashint8extended(k, 8816678312871386365) & 16383) + 10467) & 16383)";
    for shard in 0..4 {
        let own = format!("{sum} WHERE {slot} * 4 / 16384 = {shard}");
        assert_eq!(
            sharded.cluster.sql_in(&format!("s{shard}"), sum),
            sharded.cluster.sql_in("whole", &own),
            "s{shard}"
        );
    }
    let total: usize = sharded.counts("t").iter().sum();
    assert_eq!(total, count);
    sharded.nothing_prepared();
}

#[test]
fn formats_of_copy_and_what_fails_in_it() {
    let sharded = Sharded::start(3, "cross_shard_writes = \"two_phase\"");
    let (mut client, mut whole) = (sharded.client(), sharded.cluster.client("whole"));
    let csv: Vec<String> = (1..40).map(|k| format!("\"v,\n{k}\",{k}\r\n")).collect();
    let csv = format!("v,k\r\n{}", csv.concat());
    let halves = csv.as_bytes().split_at(101);
    let rows: Vec<String> = (100..130).map(|k| format!("{k}\tv{k}\t\\N\n")).collect();
    // A binary stream as the server writes it.
    sharded.cluster.sql_in(
        "whole",
        "CREATE TABLE b (k int8, v text, n int4); INSERT INTO b SELECT k, 'b', 1 FROM generate_series(200, 230) k",
    );
    whole.query("COPY b TO STDOUT (FORMAT binary)");
    let binary: Vec<Vec<u8>> = whole
        .read_until_ready()
        .into_iter()
        .filter(|message| message.tag == b'd')
        .map(|message| message.body)
        .collect();
    let binary: Vec<&[u8]> = binary.iter().map(Vec::as_slice).collect();
    for (sql, pieces) in [
        ("COPY t (v, k) FROM STDIN (FORMAT csv, HEADER)", &[halves.0, halves.1][..]),
        ("COPY t FROM STDIN", &[rows.concat().as_bytes()]),
        ("COPY t FROM STDIN WITH BINARY", &binary),
        ("COPY public.t (k) FROM STDIN", &[b"301\n302\n", b"303\n\\.\n"]),
        ("COPY t (k) FROM STDIN", &[]),
        ("COPY x FROM STDIN", &["a b\t1\nżółć\t2\n\\\\x\t3\nd\t4".as_bytes()]),
        ("COPY r FROM STDIN", &[b"1\ta\t2024-01-01 00:00:00+00\n2\tb\t\\N\n"]),
        // Whoever fails, nothing is copied anywhere.
        ("COPY t (k) FROM STDIN", &[b"401\n402\n403\n301\n"]),
        ("COPY t (k, n) FROM STDIN", &[b"501\t1\n502\t2\n503\t1000\n504\t4\n"]),
        ("COPY t (k, n) FROM STDIN", &[b"601\t1\n602\t2\n603\n604\t4\n"]),
        ("COPY t (k, n) FROM STDIN", &[b"701\t1\nx\t2\n"]),
        ("COPY t (k, nix) FROM STDIN", &[]),
    ] {
        assert_eq!(copy_in(&mut client, sql, pieces), copy_in(&mut whole, sql, pieces), "{sql}");
    }
    let mut all = sharded.cluster.sql_in("whole", "SELECT * FROM t");
    all.sort();
    assert_eq!(sharded.all("SELECT * FROM t"), all);
    assert_eq!(sharded.counts("r"), [2, 2, 2]);
    assert_eq!(sharded.counts("x").iter().sum::<usize>(), 4);
    // By the extended protocol; what is sent after an error is passed over.
    for client in [&mut whole, &mut client] {
        for (data, told) in [
            (&b"801\n802\n803\n"[..], "C(COPY 3) Z(I)"),
            (b"804\n801\n805\n", "E(23505) Z(I)"),
            (b"806\n807\n", "C(COPY 2) Z(I)"),
        ] {
            client.parse("", "COPY t (k) FROM STDIN", &[]);
            client.bind("", "", &[]);
            client.execute("", 0);
            client.sync();
            assert_eq!(show(&client.read_until(b'G')), "1 2 G(0,1)");
            client.copy_data(data);
            client.copy_done();
            client.sync();
            assert_eq!(show(&client.read_until_ready()), told);
        }
    }
    client.query("COPY t (k) FROM STDIN");
    client.read_until(b'G');
    client.copy_data(b"901\n902\n");
    client.copy_fail("enough");
    assert_eq!(show(&client.read_until_ready()), "E(57014) Z(I)");
    // Row by row: who waits for more before it writes must not have a client wait that wants to hear of its row.
    for client in [&mut whole, &mut client] {
        client.query("COPY t (k, n) FROM STDIN");
        client.read_until(b'G');
        for row in [&b"921\t1\n"[..], b"92", b"2\t1000\n"] {
            client.copy_data(row);
        }
        assert_eq!(show(&client.read_until_ready()), "E(23514) Z(I)");
    }
    // It vanishes in the middle.
    let mut leaver = sharded.client();
    leaver.query("COPY t (k) FROM STDIN");
    leaver.read_until(b'G');
    leaver.copy_data(b"911\n912\n913\n");
    drop(leaver);
    for (sql, pieces, code) in [
        ("COPY t (k) FROM STDIN", &[&b"\\N\n"[..]][..], "0A000"),
        ("COPY t (n) FROM STDIN", &[], "0A000"),
        ("COPY t (k) FROM STDIN (FREEZE)", &[], "0A000"),
        ("COPY r (code) FROM STDIN", &[], "0A000"),
        ("COPY t TO PROGRAM 'cat'", &[], "0A000"),
    ] {
        assert_eq!(copy_in(&mut client, sql, pieces), format!("E({code}) Z(I)"), "{sql}");
    }
    assert_eq!(client.run("SELECT 1"), "T(?column?:23) D(1) C(SELECT 1) Z(I)");
    eventually("nothing is open", SOON, || {
        let open = "SELECT count(*) FROM pg_stat_activity WHERE state <> 'idle' AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
        (sharded.cluster.value(open) == "0").then_some(())
    });
    let mut all = sharded.cluster.sql_in("whole", "SELECT * FROM t");
    all.sort();
    assert_eq!(sharded.all("SELECT * FROM t"), all);
    sharded.nothing_prepared();
}

#[test]
fn rows_copied_out_are_one_stream() {
    // A read needs no setting.
    let sharded = Sharded::start(3, "");
    sharded.cluster.sql_in("whole", "INSERT INTO t SELECT k, 'v, ' || k, k % 9 FROM generate_series(1, 500) k");
    for shard in 0..3 {
        let slot = "(((hashint8extended(k, 8816678312871386365) & 16383) + 10467) & 16383)";
        let sql = format!(
            "INSERT INTO t SELECT k, 'v, ' || k, k % 9 FROM generate_series(1, 500) k WHERE {slot} * 3 / 16384 = {shard}"
        );
        sharded.cluster.sql_in(&format!("s{shard}"), &sql);
    }
    let (mut client, mut whole) = (sharded.client(), sharded.cluster.client("whole"));
    let out = |client: &mut RawClient, sql: &str| {
        let messages = ask(client, sql);
        let (data, frame): (Vec<Message>, Vec<Message>) = messages.into_iter().partition(|message| message.tag == b'd');
        (data.into_iter().map(|message| message.body).collect::<Vec<_>>(), show(&frame))
    };
    for sql in [
        "COPY t TO STDOUT",
        "COPY t (v, k) TO STDOUT (FORMAT csv, HEADER)",
        "COPY public.t TO STDOUT (DELIMITER ';')",
        "COPY r TO STDOUT",
    ] {
        let (mut one, mut several) = (out(&mut whole, sql), out(&mut client, sql));
        if sql.contains("HEADER") {
            assert_eq!(one.0.first(), several.0.first(), "{sql}");
        }
        one.0.sort();
        several.0.sort();
        assert_eq!(several, one, "{sql}");
    }
    // A binary stream of all is one that a server takes.
    let (data, told) = out(&mut client, "COPY t TO STDOUT (FORMAT binary)");
    assert!(told.ends_with("C(COPY 500) Z(I)"), "{told}");
    sharded.cluster.sql_in("whole", "CREATE TABLE back (LIKE t)");
    let pieces: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    assert_eq!(copy_in(&mut whole, "COPY back FROM STDIN (FORMAT binary)", &pieces), "C(COPY 500) Z(I)");
    let differ = "SELECT count(*) FROM (SELECT * FROM back EXCEPT SELECT * FROM t) x";
    assert_eq!(sharded.cluster.sql_in("whole", differ), [["0"]]);
    client.parse("", "COPY t TO STDOUT", &[]);
    client.bind("", "", &[]);
    client.execute("", 0);
    client.sync();
    let messages = client.read_until_ready();
    assert_eq!(messages.iter().filter(|message| message.tag == b'd').count(), 500);
    let frame: Vec<Message> = messages.into_iter().filter(|message| message.tag != b'd').collect();
    assert_eq!(show(&frame), "1 2 H(0,3) c C(COPY 500) Z(I)");
    assert!(
        ask(&mut client, "COPY t (nix) TO STDOUT")
            .iter()
            .any(|message| message.error().is_some_and(|e| e.code == "42703"))
    );
    assert_eq!(client.run("SELECT 1"), "T(?column?:23) D(1) C(SELECT 1) Z(I)");
}

//! Statements that several shards answer: whole and right, or an error; never a part. By both protocols, with clients that are slow,
//! cancel, or vanish, and with servers that fail.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod common;

use std::time::Duration;

use common::cluster::Cluster;
use common::fake::{FakeServer, Step, greeting};
use common::ports::Port;
use common::raw::RawClient;
use common::weir::Weir;
use common::wire::{Message, backend, frame, show};
use pgweir::clock;

/// How long anything may take that must not hang.
const SOON: Duration = Duration::from_secs(20);

/// `app` over databases of one cluster; each row of `t` lies where its key says, `r` is everywhere.
struct Sharded {
    cluster: Cluster,
    weir: Weir,
    count: usize,
}

impl Sharded {
    fn start(count: usize, general: &str, more: &str) -> Self {
        let cluster = Cluster::start();
        let mut toml = format!("[databases.app]\ndefault_shard = \"s0\"\nprobe_user = \"postgres\"\n{more}\n");
        for n in 0..count {
            cluster.sql(&format!("CREATE DATABASE s{n}"));
            let (first, last) = slots(n, count);
            toml += &format!(
                "[[databases.app.shards]]\nname = \"s{n}\"\nslots = [[{first}, {last}]]\nprimary = \"{}\"\n",
                cluster.url(&format!("s{n}"))
            );
            cluster.sql_in(
                &format!("s{n}"),
                &format!(
                    "CREATE TABLE t (k int8 PRIMARY KEY, v text, n int4, x float8);
                     CREATE TABLE o (id int4, k int8 NOT NULL, amount numeric);
                     CREATE TABLE r (code int4 PRIMARY KEY, name text);
                     CREATE FUNCTION own(int8) RETURNS int8 IMMUTABLE LANGUAGE sql AS 'SELECT $1';
                     INSERT INTO r SELECT i, 'name ' || i FROM generate_series(1, 5) i;
                     INSERT INTO t SELECT k, 'v' || k, k % 7, k / 3.0 FROM generate_series(1, 300) k WHERE {home};
                     INSERT INTO o SELECT i, k, k + i / 10.0 FROM generate_series(1, 100) k, generate_series(1, 2) i WHERE {home}",
                    home = home(first, last)
                ),
            );
        }
        toml += "[databases.app.tables]\n\
                 t = { key = \"k\", type = \"bigint\" }\n\
                 o = { key = \"k\", type = \"bigint\" }\n\
                 r = { reference = true }\n";
        let weir = Weir::builder().general(general).database(&toml).start();
        Self { cluster, weir, count }
    }

    fn client(&self) -> RawClient {
        self.weir.client("app")
    }

    /// Waits until every server connection rests.
    fn wait_quiet(&self) {
        let until = clock::now() + SOON;
        loop {
            let busy: Vec<_> =
                self.weir.admin_table("SHOW SERVERS").into_iter().filter(|server| server["state"] != "idle").collect();
            if busy.is_empty() {
                return;
            }
            assert!(clock::now() < until, "{busy:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// How many statements like this run on the servers.
    fn running(&self, text: &str) -> usize {
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '{text}%'");
        self.cluster.value(&sql).parse().unwrap()
    }

    fn wait_running(&self, text: &str, wanted: usize) {
        let until = clock::now() + SOON;
        while self.running(text) != wanted {
            assert!(clock::now() < until, "{} run", self.running(text));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn slots(number: usize, count: usize) -> (usize, usize) {
    (16384 * number / count, 16384 * (number + 1) / count - 1)
}

fn home(first: usize, last: usize) -> String {
    format!("(((hashint8extended(k, 8816678312871386365) & 16383) + 10467) & 16383) BETWEEN {first} AND {last}")
}

/// The rows of a reply in order of their text.
fn sorted(messages: &[Message]) -> Vec<Vec<Option<String>>> {
    let mut rows: Vec<_> = messages.iter().filter_map(Message::row).collect();
    rows.sort();
    rows
}

/// The tags of a reply, rows as one.
fn tags(messages: &[Message]) -> String {
    let shown = messages.iter().filter(|m| m.tag != b'D').map(|m| match m.tag {
        b'T' => format!("T({})", m.columns().unwrap().join(", ")),
        b't' => "t".to_owned(),
        _ => m.to_string(),
    });
    shown.collect::<Vec<_>>().join(" ")
}

fn ask(client: &mut RawClient, sql: &str, values: &[Option<&str>]) -> Vec<Message> {
    client.parse("", sql, &[]);
    client.bind("", "", values);
    client.describe_portal("");
    client.execute("", 0);
    client.sync();
    client.read_until_ready()
}

#[test]
fn rows_of_all_shards_by_both_protocols() {
    let sharded = Sharded::start(3, "", "");
    let mut client = sharded.client();
    client.query("SELECT k, v FROM t WHERE n = 3");
    let simple = client.read_until_ready();
    assert_eq!(tags(&simple), "T(k, v) C(SELECT 43) Z(I)");
    let wanted: Vec<Vec<Option<String>>> = {
        let mut rows: Vec<_> =
            (1..=300).filter(|k| k % 7 == 3).map(|k: i64| vec![Some(k.to_string()), Some(format!("v{k}"))]).collect();
        rows.sort();
        rows
    };
    assert_eq!(sorted(&simple), wanted);
    let extended = ask(&mut client, "SELECT k, v FROM t WHERE n = $1", &[Some("3")]);
    assert_eq!(tags(&extended), "1 2 T(k, v) C(SELECT 43) Z(I)");
    assert_eq!(sorted(&extended), wanted);

    // Prepared and described before, without Describe later, and used again; in binary.
    client.parse("s", "SELECT k FROM t WHERE n = $1 AND k > $2", &[]);
    client.describe_statement("s");
    client.sync();
    assert_eq!(tags(&client.read_until_ready()), "1 t T(k) Z(I)");
    for (n, count) in [("1", 43), ("6", 43), ("9", 0)] {
        client.bind("p", "s", &[Some(n), Some("0")]);
        client.execute("p", 0);
        client.close_portal("p");
        client.sync();
        assert_eq!(tags(&client.read_until_ready()), format!("2 C(SELECT {count}) 3 Z(I)"));
    }
    client.bind_binary("", "s", &[Some(&3_i32.to_be_bytes()), Some(&290_i64.to_be_bytes())]);
    client.execute("", 0);
    client.sync();
    let messages = client.read_until_ready();
    assert_eq!(tags(&messages), "2 C(SELECT 1) Z(I)");
    assert!(messages.iter().any(|m| m.tag == b'D' && m.body.ends_with(&297_i64.to_be_bytes())), "{}", show(&messages));

    // Joins with reference tables and by the key; some shards by their keys; groups that lie on one shard; no row at all.
    for (sql, count) in [
        ("SELECT t.k, r.name FROM t JOIN r ON r.code = t.n WHERE t.k <= 70", 50),
        ("SELECT t.k, r.name FROM t LEFT JOIN r ON r.code = t.n WHERE t.k <= 70", 70),
        ("SELECT t.v, o.amount FROM t JOIN o ON o.k = t.k", 200),
        ("SELECT t.v, o.amount FROM t LEFT JOIN o ON o.k = t.k AND o.id = 1", 300),
        ("SELECT v FROM t WHERE k IN (1, 2, 3, 4, 5, 1000)", 5),
        ("SELECT v FROM t WHERE k = ANY (ARRAY[1, 2, 3])", 3),
        ("SELECT v FROM t WHERE k = 1 + 4", 1),
        ("SELECT v FROM t WHERE k + 1 = 5", 1),
        ("SELECT k, count(*), sum(amount) FROM o GROUP BY k HAVING count(*) > 1", 100),
        ("SELECT k, id, row_number() OVER (PARTITION BY k ORDER BY id) FROM o", 200),
        // What is asked of a text's collation does not know the select list's numbers and names.
        ("SELECT k, v FROM t GROUP BY 1, 2 ORDER BY v, 1", 300),
        ("SELECT 1, k, lower(v) AS w, count(*) FROM t GROUP BY 1, k, w ORDER BY w DESC LIMIT 5", 5),
        ("SELECT k, max(v) FROM t GROUP BY 1 HAVING count(*) = 1 ORDER BY max(v), 1", 300),
        // Dates are written as the servers write them by default.
        ("SELECT min('2024-01-01'::date + n), max(v COLLATE \"C\") FROM t", 1),
        ("SELECT FROM t", 300),
        ("SELECT v FROM t WHERE k = 1 AND k = 2", 0),
        ("SELECT v FROM t WHERE false", 0),
    ] {
        let messages = ask(&mut client, sql, &[]);
        assert!(show(&messages).ends_with(&format!("C(SELECT {count}) Z(I)")), "{sql}: {}", tags(&messages));
        client.query(sql);
        assert_eq!(sorted(&client.read_until_ready()), sorted(&messages), "{sql}");
    }
    // The statement's text is wrong on every shard, or on some values only.
    for (sql, wanted) in [
        ("SELECT nothing FROM t", "E(42703) Z(I)"),
        ("SELECT v FROM t WHERE v = 1", "E(42883) Z(I)"),
        ("SELECT 1 / (k - 17) FROM t", "E(22012) Z(I)"),
    ] {
        client.query(sql);
        let messages = client.read_until_ready();
        assert!(tags(&messages).ends_with(wanted), "{sql}: {}", tags(&messages));
        assert!(!tags(&messages).contains("C("), "{sql}: {}", tags(&messages));
        let messages = ask(&mut client, sql, &[]);
        assert!(tags(&messages).ends_with(wanted), "{sql}: {}", tags(&messages));
    }
    // A name is only taken where its text was.
    client.parse("bad", "SELECT nothing FROM t", &[]);
    client.bind("", "bad", &[]);
    client.execute("", 0);
    client.sync();
    assert_eq!(show(&client.read_until_ready()), "E(42703) Z(I)");
    client.parse("bad", "SELECT v FROM t WHERE k < $1", &[]);
    client.bind("", "bad", &[Some("3")]);
    client.execute("", 0);
    client.sync();
    assert_eq!(tags(&client.read_until_ready()), "1 2 C(SELECT 2) Z(I)");
    sharded.wait_quiet();
}

#[test]
fn what_cannot_be_done_is_refused() {
    let sharded = Sharded::start(2, "", "");
    let mut client = sharded.client();
    for sql in [
        "SELECT own(k) FROM t",
        "SELECT k, now() FROM t",
        "SELECT k FROM t, o",
        "SELECT k FROM t FOR UPDATE",
        "SELECT (SELECT count(*) FROM t)",
        "SELECT EXISTS (SELECT 1 FROM t WHERE v = 'x')",
        "SELECT k FROM t UNION SELECT k FROM o",
        "SELECT r.code FROM r LEFT JOIN t ON t.n = r.code",
        "SELECT 1; SELECT k FROM t",
        "DECLARE c CURSOR WITH HOLD FOR SELECT k FROM t",
    ] {
        client.query(sql);
        let messages = client.read_until_ready();
        assert_eq!(show(&messages), "E(0A000) Z(I)", "{sql}");
        let error = messages.iter().find_map(Message::error).unwrap();
        assert!(error.fields.get(&'H').is_some_and(|hint| !hint.is_empty()), "{sql}: {error:?}");
    }
    // Within a transaction whose beginning no other shard can be told, and in a pipeline in which another portal comes between.
    for begin in ["BEGIN; SELECT v FROM t WHERE k = 1", "BEGIN ISOLATION LEVEL REPEATABLE READ"] {
        client.run(begin);
        assert_eq!(client.run("SELECT k FROM t"), "E(0A000) Z(E)", "{begin}");
        assert_eq!(client.run("SELECT v FROM t WHERE k = 1"), "E(25P02) Z(E)");
        assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    }
    client.parse("", "SELECT k FROM t", &[]);
    for portal in ["one", "two"] {
        client.bind(portal, "", &[]);
    }
    for portal in ["one", "two"] {
        client.execute(portal, 0);
    }
    client.sync();
    assert_eq!(show(&client.read_until_ready()), "E(0A000) Z(I)");
    client.parse("", "SELECT k FROM t", &[]);
    client.bind("", "", &[]);
    client.execute("", 5);
    client.sync();
    // Outside of a block the portal is gone with the Sync, as PostgreSQL's is.
    let part = client.read_until_ready();
    assert_eq!(part.iter().filter(|message| message.tag == b'D').count(), 5);
    assert_eq!(part.iter().map(|message| char::from(message.tag)).collect::<String>(), "12DDDDDsZ");
    // Parse and Describe with Flush first, as some drivers do.
    client.parse("f", "SELECT k FROM t WHERE k < $1", &[]);
    client.describe_statement("f");
    client.flush();
    assert_eq!(tags(&client.read_until(b'T')), "1 t T(k)");
    client.bind("", "f", &[Some("5")]);
    client.execute("", 0);
    client.sync();
    assert_eq!(tags(&client.read_until_ready()), "2 C(SELECT 4) Z(I)");
    // The order of texts that were converted for the client is not theirs on the server, which can be asked for it.
    for (sql, converted) in [
        ("SELECT v FROM t ORDER BY v COLLATE \"C\" LIMIT 1", "C(SELECT 1) Z(I)"),
        ("SELECT max(v COLLATE \"C\") FROM t", "E(0A000) Z(I)"),
    ] {
        client.run("SET client_encoding = 'WIN1250'");
        assert!(client.run(sql).ends_with(converted), "{sql}");
        client.run("SET client_encoding = 'UTF8'");
        assert!(client.run(sql).ends_with("C(SELECT 1) Z(I)"), "{sql}");
    }
    // Columns that differ between shards.
    sharded.cluster.sql_in("s1", "ALTER TABLE t ALTER COLUMN n TYPE int8");
    client.query("SELECT n FROM t");
    let messages = client.read_until_ready();
    assert_eq!(show(&messages), "E(0A000) Z(I)");
    sharded.wait_quiet();
    // One shard can answer, until the next check has seen the difference: then statements by key are refused as well.
    let by_key = client.run("SELECT v FROM t WHERE k = 1");
    assert!(["T(v:25) D(v1) C(SELECT 1) Z(I)", "E(0A000) Z(I)"].contains(&&*by_key), "{by_key}");
}

#[test]
fn large_answers_slow_clients_and_those_that_vanish() {
    let sharded = Sharded::start(3, "", "");
    let big = "SELECT k, repeat(v, 2000) FROM t";
    let mut client = sharded.client();
    client.query(big);
    std::thread::sleep(Duration::from_millis(300));
    let memory: u64 = sharded.weir.admin_table("SHOW SERVERS").len() as u64;
    assert!(memory >= 3);
    let messages = client.read_until_ready();
    assert!(tags(&messages).ends_with("C(SELECT 300) Z(I)"), "{}", tags(&messages));
    let bytes: usize = messages.iter().map(|m| m.body.len()).sum();
    assert!(bytes > 2_000_000, "{bytes}");
    // One that goes in the middle: what runs for it is cancelled, and the servers serve others.
    for _ in 0..3 {
        let mut gone = sharded.client();
        gone.query("SELECT k, pg_sleep(0.05), repeat(v, 2000) FROM t");
        drop(gone);
    }
    sharded.wait_running("SELECT k, pg_sleep", 0);
    sharded.wait_quiet();
    assert_eq!(tags(&ask(&mut client, "SELECT k FROM t", &[])), "1 2 T(k) C(SELECT 300) Z(I)");
}

#[test]
fn a_cancel_request_reaches_all_shards_and_an_error_ends_the_others() {
    let sharded = Sharded::start(3, "query_timeout = \"5s\"", "");
    let mut client = sharded.client();
    client.query("SELECT k, pg_sleep(0.5) FROM t");
    sharded.wait_running("SELECT k, pg_sleep", 3);
    client.cancel();
    let messages = client.read_until_ready();
    assert!(tags(&messages).ends_with("E(57014) Z(I)"), "{}", tags(&messages));
    sharded.wait_running("SELECT k, pg_sleep", 0);
    sharded.wait_quiet();
    // One shard fails at once, the others would sleep.
    let started = clock::now();
    client.query(
        "SELECT CASE WHEN k = 17 THEN 1 / (k - 17) ELSE pg_sleep(100)::text::int END FROM t WHERE k = 17 OR k > 200",
    );
    let messages = client.read_until_ready();
    assert!(tags(&messages).contains("E("), "{}", tags(&messages));
    assert!(started.elapsed() < SOON);
    sharded.wait_running("SELECT CASE", 0);
    sharded.wait_quiet();
    // The server's own limit, and ours.
    client.run("SET statement_timeout = '200ms'");
    let reply = client.run("SELECT k, pg_sleep(1) FROM t");
    assert!(reply.ends_with("E(57014) Z(I)"), "{reply}");
    client.run("RESET statement_timeout");
    client.query("SELECT k, pg_sleep(1) FROM t");
    let end = client.read_to_end();
    assert!(tags(&end).ends_with("E(FATAL 57014)"), "{}", tags(&end));
    sharded.wait_running("SELECT k, pg_sleep", 0);
    sharded.wait_quiet();
}

/// What is asked of a shard before the statement waits for locks as the statement would, and ends with it.
#[test]
fn nothing_runs_on_of_a_statement_that_ends_before_it_began() {
    let sharded = Sharded::start(2, "query_timeout = \"3s\"", "");
    let mut locker = sharded.cluster.client("s0");
    locker.run("BEGIN; LOCK TABLE t");
    let asks = || {
        let mut client = sharded.client();
        client.query("SELECT sum(n) FROM t");
        sharded.wait_running("SELECT sum(n)", 1);
        client
    };
    let mut client = asks();
    client.cancel();
    assert_eq!(show(&client.read_until_ready()), "E(57014) Z(I)");
    sharded.wait_running("SELECT sum(n)", 0);
    drop(asks());
    sharded.wait_running("SELECT sum(n)", 0);
    assert_eq!(show(&asks().read_to_end()), "E(FATAL 57014)");
    sharded.wait_running("SELECT sum(n)", 0);
    sharded.wait_quiet();
    locker.run("ROLLBACK");
    assert_eq!(client.value("SELECT sum(n) FROM t"), "903");
}

#[test]
fn a_server_that_goes_fails_the_statement_and_not_the_session() {
    let sharded = Sharded::start(2, "", "");
    let mut client = sharded.client();
    client.query("SELECT k, pg_sleep(0.2) FROM t");
    sharded.wait_running("SELECT k, pg_sleep", 2);
    sharded.cluster.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 's1' AND query LIKE 'SELECT k, pg_sleep%'");
    let messages = client.read_until_ready();
    assert!(tags(&messages).ends_with("E(57P01) Z(I)"), "{}", tags(&messages));
    assert!(!tags(&messages).contains("C("), "{}", tags(&messages));
    sharded.wait_quiet();
    assert_eq!(tags(&ask(&mut client, "SELECT k FROM t", &[])), "1 2 T(k) C(SELECT 300) Z(I)");
}

/// Many clients, each needing a connection of every pool.
fn crowd(sharded: &Sharded, clients: usize) {
    std::thread::scope(|scope| {
        for n in 0..clients {
            scope.spawn(move || {
                let mut client = sharded.client();
                for round in 0..8 {
                    if (n + round) % 3 == 0 {
                        let reply = client.run(&format!("SELECT v FROM t WHERE k = {}", n + 1));
                        assert!(reply.ends_with("C(SELECT 1) Z(I)"), "{reply}");
                    }
                    let messages = ask(&mut client, "SELECT k FROM t", &[]);
                    assert!(tags(&messages).ends_with("C(SELECT 300) Z(I)"), "{}", tags(&messages));
                }
            });
        }
    });
    sharded.wait_quiet();
}

#[test]
fn nobody_waits_in_a_circle() {
    crowd(&Sharded::start(3, "", "pool_size = 1"), 8);
    // Pools that share a limit.
    let sharded = Sharded::start(3, "", "pool_size = 4\nmax_db_connections = 4");
    crowd(&sharded, 8);
    let few = Sharded::start(3, "", "max_db_connections = 2");
    let mut client = few.client();
    assert_eq!(client.run("SELECT k FROM t"), "E(53300) Z(I)");
    assert_eq!(client.run("SELECT v FROM t WHERE k = 1"), "T(v:25) D(v1) C(SELECT 1) Z(I)");
}

#[test]
fn pause_ends_although_a_statement_waits_with_half_of_its_connections() {
    let sharded = Sharded::start(2, "", "pool_size = 1");
    // One client keeps the last shard busy, another has the first and waits for it.
    let key = (1..).find(|k| on_last(&sharded, *k)).unwrap();
    let mut busy = sharded.client();
    busy.run("BEGIN");
    busy.run(&format!("SELECT v FROM t WHERE k = {key}"));
    let mut waiting = sharded.client();
    waiting.query("SELECT k FROM t");
    let until = clock::now() + SOON;
    while sharded.weir.admin_table("SHOW POOLS").iter().all(|pool| pool["cl_waiting"] == "0") {
        assert!(clock::now() < until);
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::scope(|scope| {
        let pause = scope.spawn(|| sharded.weir.admin("PAUSE app"));
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(busy.run("COMMIT"), "C(COMMIT) Z(I)");
        pause.join().unwrap();
    });
    sharded.weir.admin("RESUME app");
    let messages = waiting.read_until_ready();
    assert!(tags(&messages).ends_with("C(SELECT 300) Z(I)"), "{}", tags(&messages));
}

#[test]
fn what_one_server_would_fail_at_or_sort_otherwise() {
    let sharded = Sharded::start(2, "", "");
    let mut client = sharded.client();
    client.run("SET extra_float_digits = 1");
    let [first, last] = ["s0", "s1"].map(|shard| sharded.cluster.sql_in(shard, "SELECT min(k) FROM t")[0][0].clone());
    for shard in ["s0", "s1"] {
        let sql =
            format!("UPDATE t SET x = CASE k WHEN {first} THEN 1e200 ELSE -1e200 END WHERE k IN ({first}, {last})");
        sharded.cluster.sql_in(shard, &sql);
    }
    // PostgreSQL keeps the squares for the average as well.
    let both = format!("FROM t WHERE k IN ({first}, {last})");
    assert_eq!(client.run(&format!("SELECT avg(x) {both}")), "T(avg:701) E(22003) Z(I)");
    assert_eq!(
        client.run(&format!("SELECT avg(x::real) FROM t WHERE k IN ({first}, {last}) AND x > 1e300")),
        "T(avg:701) D(\\N) C(SELECT 1) Z(I)"
    );
    assert_eq!(client.run(&format!("SELECT avg(x / 1e200) {both}")), "T(avg:701) D(0) C(SELECT 1) Z(I)");
    // A column of type name has the collation C; what is made of it, or of a text, may have another.
    for shard in ["s0", "s1"] {
        sharded.cluster.sql_in(shard, "ALTER TABLE t ADD COLUMN id name; UPDATE t SET id = v");
    }
    client.query("SELECT id FROM t ORDER BY id");
    let reply = client.read_until_ready();
    let names: Vec<_> = reply.iter().filter_map(Message::row).collect();
    assert!(names.len() == 300 && names.is_sorted(), "{}", tags(&reply));
    assert_eq!(client.run("SELECT min(id COLLATE \"und-x-icu\") FROM t"), "E(0A000) Z(I)");
    // A shard sorts what has another.
    let mut rows = |sql: &str| -> Vec<Option<String>> {
        client.query(sql);
        let reply = client.read_until_ready();
        reply.iter().filter_map(Message::row).map(|row| row[0].clone()).collect()
    };
    let sorted = rows("SELECT v FROM t ORDER BY id COLLATE \"und-x-icu\", k");
    assert_eq!(sorted.len(), 300);
    assert_eq!(rows("SELECT v FROM t ORDER BY v::name, k").len(), 300);
    let groups =
        rows("SELECT id COLLATE \"und-x-icu\" AS i, count(*) FROM t GROUP BY id COLLATE \"und-x-icu\" ORDER BY i");
    let mut distinct = sorted;
    distinct.dedup();
    assert_eq!(groups, distinct);
}

#[test]
fn parameters_have_the_types_that_the_whole_statement_gives_them() {
    let sharded = Sharded::start(2, "", "");
    let mut client = sharded.client();
    let sql = "SELECT n + $1 AS m, sum(k) FROM t WHERE k > $2 GROUP BY n + $1 ORDER BY m LIMIT $3";
    let reply = ask(&mut client, sql, &[Some("10"), Some("290"), Some("2")]);
    assert_eq!(show(&reply), "1 2 T(m:23,sum:1700) D(10|294) D(11|295) C(SELECT 2) Z(I)");
    // No question but the first has the one that only a key shows.
    let sql = "SELECT v || $1 AS w, max(n) FROM t WHERE k = ANY ($2) GROUP BY w";
    let reply = ask(&mut client, sql, &[Some("!"), Some("{1,2,3,4,5,6}")]);
    assert!(tags(&reply).ends_with("C(SELECT 6) Z(I)"), "{}", show(&reply));
}

/// As a server does it: one format for all columns, or one for each.
#[test]
fn result_formats_are_counted() {
    let sharded = Sharded::start(2, "", "");
    let mut clients = [sharded.cluster.client("s0"), sharded.client()];
    for sql in ["SELECT k, n FROM t ORDER BY k", "SELECT n, count(*) FROM t GROUP BY n"] {
        for formats in 0..4_u8 {
            let failures = clients.each_mut().map(|client| {
                client.parse("", sql, &[]);
                let codes = [[0, 1].repeat(usize::from(formats))].concat();
                client.send(b'B', &[&[0; 7], &[formats][..], &codes].concat());
                client.execute("", 0);
                client.sync();
                client.read_until_ready().iter().find_map(Message::error).map(|e| (e.code, e.message))
            });
            assert_eq!(failures[0], failures[1], "{sql}");
            assert_eq!(failures[0].is_some(), formats == 3, "{sql}");
        }
    }
}

#[test]
fn what_drivers_send_around_a_statement() {
    let sharded = Sharded::start(2, "", "");
    let mut client = sharded.client();
    // A name is closed before it is used anew.
    for (name, sql, wanted) in [
        ("s", "SELECT k FROM t", "3 1 2 T(k) C(SELECT 300) Z(I)"),
        ("s", "SELECT v FROM t", "3 1 2 T(v) C(SELECT 300) Z(I)"),
        ("s", "SELECT nothing FROM t", "3 E(42703) Z(I)"),
        ("s", "SELECT n FROM t", "3 1 2 T(n) C(SELECT 300) Z(I)"),
        ("", "SELECT k FROM t", "3 1 2 T(k) C(SELECT 300) Z(I)"),
    ] {
        client.close_statement(name);
        client.parse(name, sql, &[]);
        client.bind("", name, &[]);
        client.describe_portal("");
        client.execute("", 0);
        client.sync();
        assert_eq!(tags(&client.read_until_ready()), wanted, "{sql}");
    }
    // Too long to be looked at as a whole; values that no shard takes; parameters without values.
    let reply = ask(&mut client, "SELECT k FROM t WHERE v <> $1", &[Some(&"x".repeat(300 * 1024))]);
    assert_eq!(show(&reply), "E(0A000) Z(I)");
    let error = reply.iter().find_map(Message::error).unwrap();
    assert!(error.message.contains("256 KiB"), "{error:?}");
    assert_eq!(show(&ask(&mut client, "SELECT k FROM t WHERE n < $1", &[Some("x")])), "1 E(22P02) Z(I)");
    assert_eq!(client.run("SELECT k FROM t WHERE n < $1"), "E(42P02) Z(I)");
    // The number of the table is the default shard's, or none.
    let [ours, other] =
        ["s0", "s1"].map(|shard| sharded.cluster.sql_in(shard, "SELECT 't'::regclass::oid")[0][0].clone());
    assert_ne!(ours, other);
    for sql in ["SELECT k FROM t", "SELECT k FROM t ORDER BY k"] {
        for _ in 0..3 {
            client.query(sql);
            let reply = client.read_until_ready();
            let columns = reply.iter().find(|m| m.tag == b'T').unwrap();
            let table = u32::from_be_bytes(columns.body[4..8].try_into().unwrap());
            assert_eq!(table.to_string(), ours, "{sql}");
        }
    }
    let more = Sharded::start(3, "", "");
    let mut client = more.client();
    let keys = ["s1", "s2"].map(|shard| more.cluster.sql_in(shard, "SELECT min(k) FROM t")[0][0].clone());
    for order in ["", " ORDER BY k"] {
        client.query(&format!("SELECT k FROM t WHERE k IN ({}){order}", keys.join(", ")));
        let reply = client.read_until_ready();
        assert_eq!(tags(&reply), "T(k) C(SELECT 2) Z(I)");
        let columns = reply.iter().find(|m| m.tag == b'T').unwrap();
        assert_eq!(columns.body[4..10], [0; 6]);
    }
}

#[test]
fn who_waits_for_one_shard_or_database_keeps_no_other() {
    // A limit that databases share, and one of them paused.
    let sharded = Sharded::start(2, "", "");
    let urls = ["s0", "s1"].map(|shard| sharded.cluster.url(shard));
    let down = [Port::claim(), Port::claim()];
    let more = |name: &str, second: &str, lines: &str| {
        format!(
            "[databases.{name}]\ndefault_shard = \"s0\"\npool_size = 1\n{lines}\n\
             [[databases.{name}.shards]]\nname = \"s0\"\nslots = [[0, 8191]]\nprimary = \"{}\"\n\
             [[databases.{name}.shards]]\nname = \"s1\"\nslots = [[8192, 16383]]\n{second}\n\
             [databases.{name}.tables]\nt = {{ key = \"k\", type = \"bigint\" }}\n",
            urls[0]
        )
    };
    let nowhere = down.each_ref().map(|port| format!("\"postgres://127.0.0.1:{}/s1\"", port.number()));
    let weir = Weir::builder()
        .general("max_user_connections = 6\nquery_timeout = \"4s\"")
        .database(&more("one", &format!("primary = \"{}\"", urls[1]), ""))
        .database(&more("two", &format!("primary = \"{}\"", urls[1]), ""))
        .database(&more(
            "ill",
            &format!("servers = [{}]", nowhere.join(", ")),
            "user = \"postgres\"\nfailover_timeout = \"6s\"",
        ))
        .start();
    let waiting = |database: &str| {
        let until = clock::now() + SOON;
        let waits =
            |row: &std::collections::BTreeMap<String, String>| row["database"] == database && row["state"] == "waiting";
        while !weir.admin_table("SHOW CLIENTS").iter().any(waits) {
            assert!(clock::now() < until, "nobody waits in {database}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let mut paused = weir.client("one");
    weir.admin("PAUSE one");
    paused.query("SELECT k FROM t");
    waiting("one");
    let mut other = weir.client("two");
    assert_eq!(tags(&ask(&mut other, "SELECT k FROM t", &[])), "1 2 T(k) C(SELECT 300) Z(I)");
    paused.cancel();
    assert_eq!(show(&paused.read_until_ready()), "E(57014) Z(I)");
    weir.admin("RESUME one");
    assert_eq!(tags(&ask(&mut paused, "SELECT k FROM t", &[])), "1 2 T(k) C(SELECT 300) Z(I)");

    // One shard has no primary: the only connection to the other is free all the while.
    let mut ill = weir.client("ill");
    ill.query("SELECT k FROM t");
    waiting("ill");
    let near = sharded.cluster.sql_in("s0", "SELECT min(k) FROM t")[0][0].clone();
    let mut well = weir.client("ill");
    for _ in 0..5 {
        let reply = well.run(&format!("SELECT k FROM t WHERE k = {near}"));
        assert_eq!(reply, format!("T(k:20) D({near}) C(SELECT 1) Z(I)"));
        assert!(
            weir.admin_table("SHOW CLIENTS").iter().any(|row| row["database"] == "ill" && row["state"] == "waiting")
        );
    }
    let reply = ill.read_until_ready();
    assert_eq!(show(&reply), "E(08006) Z(I)");
    let error = reply.iter().find_map(Message::error).unwrap();
    assert!(error.message.contains("failover_timeout"), "{error:?}");

    // The time for a statement counts from its coming, as for one shard.
    let far = sharded.cluster.sql_in("s1", "SELECT min(k) FROM t")[0][0].clone();
    let mut busy = weir.client("two");
    busy.run("BEGIN");
    busy.run(&format!("SELECT v FROM t WHERE k = {far}"));
    other.query(&format!("SELECT k, pg_sleep(2.5) FROM t WHERE k IN ({near}, {far})"));
    std::thread::sleep(Duration::from_millis(2500));
    busy.run("COMMIT");
    let end = other.read_to_end();
    assert!(tags(&end).ends_with("E(FATAL 57014)"), "{}", tags(&end));
}

/// pgweir before two shards, each of which answers every statement of the extended protocol by these bytes.
fn before_fakes(answers: [Vec<u8>; 2]) -> (Weir, Vec<FakeServer>) {
    let servers: Vec<FakeServer> = answers
        .into_iter()
        .map(|answer| {
            let own = [backend::complete("SET"), backend::ready(b'I')].concat();
            let login = vec![Step::ExpectStartupOrCancel, Step::Send(greeting(4711, &[1, 2, 3, 4]))];
            let steps = [login, vec![Step::Loop(vec![Step::Answer(vec![(b'S', answer), (b'Q', own)])])]].concat();
            FakeServer::serve(move |_| steps.clone())
        })
        .collect();
    let mut toml = "[databases.app]\ndefault_shard = \"s0\"\n".to_owned();
    for (n, server) in servers.iter().enumerate() {
        let (first, last) = slots(n, 2);
        toml += &format!(
            "[[databases.app.shards]]\nname = \"s{n}\"\nslots = [[{first}, {last}]]\nprimary = \"postgres://127.0.0.1:{}/d\"\n",
            server.port()
        );
    }
    toml += "[databases.app.tables]\nt = { key = \"k\", type = \"bigint\" }\n";
    (Weir::builder().general("workers = 1").database(&toml).start(), servers)
}

/// A whole answer, with this in the middle and at its end.
fn answer(middle: &[u8], status: u8) -> Vec<u8> {
    let begun = [frame(b'1', b""), frame(b'2', b""), backend::row_description(&[("k", 20)])].concat();
    [begun, middle.to_vec(), backend::complete("SELECT 0"), backend::ready(status)].concat()
}

#[test]
fn servers_that_misbehave() {
    // In a transaction that nobody began: such a connection goes to nobody.
    let (weir, servers) = before_fakes([answer(b"", b'I'), answer(b"", b'T')]);
    let mut client = weir.client("app");
    for n in 1..=2 {
        // The other shard may not have answered by then.
        let reply = show(&ask(&mut client, "SELECT k FROM t", &[]));
        assert!(matches!(&reply[..], "1 2 E(08006) Z(I)" | "1 2 T(k:20) E(08006) Z(I)"), "{reply}");
        let asked = |at: &usize| servers[1].received(*at).iter().any(|message| message.tag == b'P');
        assert_eq!((0..servers[1].accepted()).filter(asked).count(), n);
    }
    // Fails after Bind, before it says what the columns are.
    let failing = [frame(b'1', b""), frame(b'2', b""), backend::error("ERROR", "XX001", "ill"), backend::ready(b'I')];
    let (weir, _servers) = before_fakes([Vec::new(), failing.concat()]);
    let mut client = weir.client("app");
    assert_eq!(show(&ask(&mut client, "SELECT k FROM t", &[])), "1 2 E(XX001) Z(I)");
    assert_eq!(client.run("SELECT k FROM t"), "E(XX001) Z(I)");
    // Rows beyond all measure.
    let endless = [b"D".to_vec(), (100_i32 << 20).to_be_bytes().to_vec(), vec![0; 100]].concat();
    let (weir, _servers) = before_fakes([answer(b"", b'I'), answer(&endless, b'I')]);
    let reply = weir.client("app").run("SELECT k FROM t");
    assert!(matches!(&reply[..], "E(54000) Z(I)" | "T(k:20) E(54000) Z(I)"), "{reply}");
    // Notices without end wait at the server for a client that does not read.
    let notices = backend::notice("NOTICE", "00000", &"x".repeat(1000)).repeat(100_000);
    let (weir, _servers) = before_fakes([answer(b"", b'I'), answer(&notices, b'I')]);
    let mut client = weir.client("app");
    client.query("SELECT k FROM t");
    std::thread::sleep(Duration::from_secs(2));
    let status = std::fs::read_to_string(format!("/proc/{}/status", weir.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kilobytes < 90_000, "{line}");
    let reply = client.read_until_ready();
    assert_eq!(reply.iter().filter(|m| m.tag == b'N').count(), 100_000);
    let rest: Vec<Message> = reply.into_iter().filter(|m| m.tag != b'N').collect();
    assert_eq!(show(&rest), "T(k:20) C(SELECT 0) Z(I)");
}

/// Whether a key lies on the last shard.
fn on_last(sharded: &Sharded, key: i64) -> bool {
    let last = sharded.count - 1;
    let found = sharded.cluster.sql_in(&format!("s{last}"), &format!("SELECT 1 FROM t WHERE k = {key}"));
    !found.is_empty()
}

/// Waits until SHOW SHARDS says of the second shard what `wanted` wants.
fn wait_check(sharded: &Sharded, wanted: impl Fn(&str) -> bool) {
    common::eventually("the check of s1", Duration::from_secs(60), || {
        let rows = sharded.weir.admin_table("SHOW SHARDS");
        let check = &rows.iter().find(|row| row["shard"] == "s1").unwrap()["check"];
        wanted(check).then_some(())
    });
}

#[test]
fn shards_that_are_not_alike_do_not_answer_together() {
    let sharded = Sharded::start(2, "", "");
    sharded.cluster.sql_in("s0", "CREATE TYPE mood AS ENUM ('a', 'b'); ALTER TABLE r ADD COLUMN m mood");
    sharded.cluster.sql_in("s1", "CREATE TYPE mood AS ENUM ('a', 'b'); ALTER TABLE r ADD COLUMN m mood");
    let mut client = sharded.client();
    let refused = |client: &mut RawClient, sql: &str| -> String {
        client.query(sql);
        let messages = client.read_until_ready();
        assert_eq!(show(&messages), "E(0A000) Z(I)", "{sql}");
        messages.iter().find_map(Message::error).unwrap().message
    };
    let joined = "SELECT count(*) FROM t JOIN r ON t.n = r.code";
    for (change, back, sql, why) in [
        (
            "ALTER DATABASE s1 SET timezone = 'Asia/Tokyo'",
            "ALTER DATABASE s1 RESET timezone",
            "SELECT k FROM t",
            "Asia/Tokyo",
        ),
        (
            "ALTER TABLE t RENAME TO t_; CREATE VIEW t AS SELECT * FROM t_",
            "DROP VIEW t; ALTER TABLE t_ RENAME TO t",
            "SELECT k FROM t",
            "\"public.t\" is a view",
        ),
        (
            "ALTER TABLE r ALTER COLUMN name TYPE varchar(99)",
            "ALTER TABLE r ALTER COLUMN name TYPE text",
            joined,
            "has `name character varying(99) (pg_catalog.\"varchar\")` as column 2, on the default shard `name text (pg_catalog.text)`",
        ),
        (
            "ALTER TYPE mood ADD VALUE 'c' BEFORE 'a'",
            "ALTER TABLE r DROP COLUMN m; DROP TYPE mood; CREATE TYPE mood AS ENUM ('a', 'b'); ALTER TABLE r ADD COLUMN m mood",
            joined,
            "enum 'c','a','b'",
        ),
    ] {
        wait_check(&sharded, |check| check == "ok");
        client.run(joined);
        sharded.cluster.sql_in("s1", change);
        sharded.weir.admin("RELOAD");
        wait_check(&sharded, |check| check.starts_with("failed: ") && check.contains(why));
        let message = refused(&mut client, sql);
        assert!(message.contains("shard \"s1\": ") && message.contains(why), "{message}");
        // One shard can answer as before, unless it would write values in another way, and so can all where the table plays no part.
        let by_key = client.run("SELECT v FROM t WHERE k = 1");
        let answered = if why.contains("Tokyo") { "E(0A000) Z(I)" } else { "T(v:25) D(v1) C(SELECT 1) Z(I)" };
        assert_eq!(by_key, answered, "{change}");
        let others = client.run("SELECT count(*) FROM o");
        assert_eq!(others.contains("D(200)"), !why.contains("Tokyo"), "{change}: {others}");
        // It is asked again.
        sharded.cluster.sql_in("s1", back);
    }
    wait_check(&sharded, |check| check == "ok");
    assert_eq!(client.run("SELECT count(*) FROM t"), "T(count:20) D(300) C(SELECT 1) Z(I)");
    sharded.weir.wait_log("what several shards would have to answer is refused");
}

#[test]
fn parameters_that_each_shard_reads_in_its_own_way_are_refused() {
    let sharded = Sharded::start(2, "", "");
    let mut client = sharded.client();
    let shown = "SELECT $1::timestamptz IS NULL, v FROM t WHERE n = 3";
    assert_eq!(show(&ask(&mut client, shown, &[Some("Now")])), "E(0A000) Z(I)");
    assert!(tags(&ask(&mut client, shown, &[Some("2020-01-01")])).ends_with("C(SELECT 43) Z(I)"));
    let condition = "SELECT v FROM t WHERE $1::timestamptz <= now()";
    assert!(tags(&ask(&mut client, condition, &[Some("yesterday")])).ends_with("C(SELECT 300) Z(I)"));
    client.parse("", "SELECT v FROM t WHERE n = $1::text::int4", &[99_999]);
    client.bind("", "", &[Some("3")]);
    client.execute("", 0);
    client.sync();
    assert_eq!(show(&client.read_until_ready()), "E(0A000) Z(I)");
    sharded.wait_quiet();
}

/// What a policy of the tables does to the servers' sessions reaches nobody.
#[test]
fn what_code_does_unseen_is_cleaned_up_after() {
    let sharded = Sharded::start(2, "", "pool_size = 1");
    sharded.cluster.sql("CREATE ROLE tenant");
    for shard in ["s0", "s1"] {
        sharded.cluster.sql_in(
            shard,
            "CREATE FUNCTION sets() RETURNS boolean LANGUAGE plpgsql AS
                 $$BEGIN PERFORM set_config('app.tenant', 'hers', false); RETURN true; END$$;
             ALTER TABLE t ENABLE ROW LEVEL SECURITY;
             CREATE POLICY p ON t USING (sets());
             GRANT SELECT ON t TO tenant",
        );
    }
    let (mut a, mut b) = (sharded.client(), sharded.client());
    assert!(a.run("SET ROLE tenant").starts_with("C(SET) "));
    assert_eq!(a.value("SELECT count(*) FROM t"), "300");
    for shard in ["s0", "s1"] {
        let sql = format!("/* pgweir: shard={shard} */ SELECT coalesce(current_setting('app.tenant', true), '')");
        assert_eq!(b.value(&sql), "", "{shard}");
    }
}

//! What proxies that shard get wrong, by name: each statement is answered over three shards as one server answers it, or refused with
//! 0A000 and a hint, and rows lie where their keys say. docs/sharding.md lists the mistakes and the tests here.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod common;

use std::time::Duration;

use common::cluster::Cluster;
use common::raw::RawClient;
use common::weir::Weir;
use common::wire::{Message, show};

const SHARDS: usize = 3;

fn slots(number: usize) -> (usize, usize) {
    (16384 * number / SHARDS, 16384 * (number + 1) / SHARDS - 1)
}

fn home(hash: &str, number: usize) -> String {
    let (first, last) = slots(number);
    format!("((({hash}(k, 8816678312871386365) & 16383) + 10467) & 16383) BETWEEN {first} AND {last}")
}

/// Database `one` has all rows, `s0` to `s2` have those of their keys: `t` and `o` by a bigint, `w` by a varchar, `r` everywhere.
struct Pair {
    cluster: Cluster,
    _weir: Weir,
    one: RawClient,
    sharded: RawClient,
    /// Whether it writes on several shards.
    writes: bool,
}

impl Pair {
    fn start() -> Self {
        Self::start_with("")
    }

    /// One where what writes on several shards is refused, and one where it is done.
    fn both() -> [Self; 2] {
        ["", "cross_shard_writes = \"two_phase\"\nunkeyed_writes = true\n"].map(Self::start_with)
    }

    fn start_with(settings: &str) -> Self {
        let cluster = Cluster::start();
        let mut toml = format!("[databases.app]\ndefault_shard = \"s0\"\nprobe_user = \"postgres\"\n{settings}");
        let fill = |integer: &str, text: &str| {
            format!(
                "CREATE TABLE t (k int8 PRIMARY KEY, g int4, v text COLLATE \"und-x-icu\", f bool, n numeric);
                 CREATE TABLE o (k int8 NOT NULL, id int4, amount numeric);
                 CREATE TABLE w (k varchar(20) PRIMARY KEY, n int4);
                 CREATE TABLE r (code int4, name text COLLATE \"C\");
                 INSERT INTO r VALUES (0, 'zero'), (1, 'one'), (2, 'two');
                 INSERT INTO t SELECT k, nullif(k % 4, 3), (ARRAY['a', 'B', 'ä', 'A', NULL])[1 + k % 5], k % 2 = 0, k / 2.0
                   FROM generate_series(1, 60) k WHERE {integer};
                 INSERT INTO o SELECT k, i, k + i FROM generate_series(1, 60) k, generate_series(1, 2) i WHERE {integer};
                 INSERT INTO w SELECT k, k::int FROM (SELECT i::text AS k FROM generate_series(100, 140) i) x WHERE {text}"
            )
        };
        cluster.sql("CREATE DATABASE one");
        cluster.sql_in("one", &fill("true", "true"));
        for n in 0..SHARDS {
            cluster.sql(&format!("CREATE DATABASE s{n}"));
            cluster.sql_in(&format!("s{n}"), &fill(&home("hashint8extended", n), &home("hashtextextended", n)));
            let (first, last) = slots(n);
            toml += &format!(
                "[[databases.app.shards]]\nname = \"s{n}\"\nslots = [[{first}, {last}]]\nprimary = \"{}\"\n",
                cluster.url(&format!("s{n}"))
            );
        }
        toml += "[databases.app.tables]\nt = { key = \"k\", type = \"bigint\" }\no = { key = \"k\", type = \"bigint\" }\n\
                 w = { key = \"k\", type = \"varchar\" }\nr = { reference = true }\n";
        let weir = Weir::builder().database(&toml).start();
        let writes = !settings.is_empty();
        if writes {
            for n in 0..SHARDS {
                common::eventually("the table of decisions", Duration::from_secs(20), || {
                    let there = cluster.sql_in(&format!("s{n}"), "SELECT to_regclass('pgweir.dtx') IS NOT NULL");
                    (there[0][0] == "t").then_some(())
                });
            }
        }
        let (one, sharded) = (cluster.client("one"), weir.client("app"));
        Self { cluster, _weir: weir, one, sharded, writes }
    }

    /// What writes on several shards: it is done where the settings allow it, and refused where not.
    #[track_caller]
    fn written(&mut self, sql: &str) {
        assert_eq!(self.same_or_refused(sql), self.writes, "{sql}");
    }

    /// The answer is that of one server; rows are compared in any order unless the statement sorts them.
    #[track_caller]
    fn same(&mut self, sql: &str) {
        let [theirs, ours] = [&mut self.one, &mut self.sharded].map(|client| {
            client.query(sql);
            client.read_until_ready()
        });
        assert!(!ours.iter().any(|m| m.tag == b'E'), "{sql}: {}", show(&ours));
        assert_eq!(lines(&ours, sql), lines(&theirs, sql), "{sql}");
    }

    /// It is refused, and the session goes on.
    #[track_caller]
    fn refused(&mut self, sql: &str) {
        self.sharded.query(sql);
        let answer = self.sharded.read_until_ready();
        let error = answer.iter().find_map(Message::error).unwrap_or_else(|| panic!("{sql}: {}", show(&answer)));
        assert_eq!(error.code, "0A000", "{sql}: {error:?}");
        assert!(error.fields.get(&'H').is_some_and(|hint| !hint.is_empty()), "{sql}: no hint");
    }

    /// One of both, for what may come to be supported; whether it was done.
    #[track_caller]
    fn same_or_refused(&mut self, sql: &str) -> bool {
        self.sharded.query(sql);
        let ours = self.sharded.read_until_ready();
        if ours.iter().filter_map(Message::error).any(|error| error.code == "0A000") {
            self.at_home();
            return false;
        }
        self.one.query(sql);
        let theirs = self.one.read_until_ready();
        assert_eq!(lines(&ours, sql), lines(&theirs, sql), "{sql}");
        self.at_home();
        true
    }

    /// All shards together have the rows of the one server, each where its key says.
    #[track_caller]
    fn at_home(&self) {
        for (table, hash) in [("t", "hashint8extended"), ("o", "hashint8extended"), ("w", "hashtextextended")] {
            let rows = format!("SELECT x::text FROM {table} x ORDER BY x::text COLLATE \"C\"");
            let one = self.cluster.sql_in("one", &rows);
            let mut all: Vec<_> = Vec::new();
            for n in 0..SHARDS {
                let database = format!("s{n}");
                let strays = format!("SELECT k FROM {table} WHERE NOT {}", home(hash, n));
                assert!(self.cluster.sql_in(&database, &strays).is_empty(), "rows of {table} on s{n} belong elsewhere");
                all.extend(self.cluster.sql_in(&database, &rows));
            }
            all.sort();
            assert_eq!(all, one, "{table}");
        }
    }
}

/// An answer without the numbers of tables; sorted unless the statement sorts.
fn lines(messages: &[Message], sql: &str) -> Vec<String> {
    let mut lines: Vec<String> = messages.iter().map(|message| show(std::slice::from_ref(message))).collect();
    if !sql.contains("ORDER BY") || sql.contains("OVER") {
        lines.sort();
    }
    lines
}

#[test]
fn a_key_counts_in_where_alone() {
    let mut pair = Pair::start();
    for sql in [
        "SELECT count(*) FILTER (WHERE k = 1) FROM t",
        "SELECT CASE WHEN k = 1 THEN 'one' ELSE 'other' END, count(*) FROM t GROUP BY 1",
        "SELECT k FROM t ORDER BY (k = 1), k",
        "SELECT k = 1, k FROM t",
    ] {
        pair.same(sql);
    }
    for mut pair in Pair::both() {
        pair.written("UPDATE t SET f = (k = 5)");
    }
}

#[test]
fn what_is_computed_is_no_key() {
    let mut pair = Pair::start();
    pair.same("SELECT g FROM t WHERE k = 1 + 4");
    pair.same("SELECT g FROM t WHERE k + 1 = 5");
    for mut pair in Pair::both() {
        pair.written("UPDATE t SET g = 9 WHERE k = 1 + 4");
        pair.written("DELETE FROM t WHERE k + 1 = 5");
        pair.same_or_refused("UPDATE t SET k = 1 + 4 WHERE k = 5");
        pair.same_or_refused("UPDATE t SET k = 1 + 4 WHERE g = 1 AND k < 0");
    }
}

#[test]
fn sub_queries_see_all_shards_or_none() {
    let mut pair = Pair::start();
    pair.same_or_refused("SELECT EXISTS (SELECT 1 FROM t WHERE v = 'x')");
    pair.same_or_refused("SELECT (SELECT count(*) FROM t)");
    pair.same_or_refused("WITH x AS (SELECT k FROM t WHERE k < 9) SELECT count(*) FROM x");
}

#[test]
fn set_operations_agree_on_the_shard() {
    let mut pair = Pair::start();
    pair.same_or_refused("SELECT g FROM t WHERE k = 1 UNION SELECT g FROM t WHERE k = 2");
    pair.same_or_refused("SELECT k FROM t UNION ALL SELECT k FROM o");
    pair.same_or_refused("SELECT k FROM t EXCEPT SELECT k FROM o WHERE id = 1");
}

#[test]
fn limit_and_offset_count_once() {
    let mut pair = Pair::start();
    for sql in ["SELECT k FROM t LIMIT 5", "SELECT k FROM t OFFSET 50", "SELECT k FROM t LIMIT 5 OFFSET 58"] {
        let counts = [&mut pair.one, &mut pair.sharded].map(|client| {
            client.query(sql);
            client.read_until_ready().iter().filter(|message| message.tag == b'D').count()
        });
        assert_eq!(counts[0], counts[1], "{sql}");
    }
    pair.same("SELECT k FROM t ORDER BY k OFFSET 40");
    pair.same("SELECT k FROM t ORDER BY k DESC LIMIT 4 OFFSET 10");
}

#[test]
fn groups_are_whole_whatever_names_them() {
    let mut pair = Pair::start();
    for sql in [
        "SELECT k % 3, count(*) FROM t GROUP BY k % 3",
        "SELECT k % 3 AS m, sum(g) FROM t GROUP BY m",
        "SELECT count(*) FROM t GROUP BY g",
        "SELECT g FROM t GROUP BY g",
        "SELECT g, count(*) FROM t WHERE k IN (1, 2, 3, 4) GROUP BY g",
        "SELECT r.name, count(*) FROM t JOIN r ON r.code = t.g GROUP BY r.name",
    ] {
        pair.same(sql);
    }
}

#[test]
fn expressions_are_computed_of_whole_aggregates() {
    let mut pair = Pair::start();
    for sql in [
        "SELECT coalesce(sum(g), 0) FROM t",
        "SELECT coalesce(sum(g), 0) FROM t WHERE k < 0",
        "SELECT count(*) * 2 FROM t",
        "SELECT count(DISTINCT k), count(DISTINCT o.k) FILTER (WHERE id = 1) * 2 FROM o",
        "SELECT id, count(DISTINCT k), count(DISTINCT k) > 9 FROM o WHERE k < 30 GROUP BY id",
        "SELECT count(DISTINCT w.k) FROM w HAVING count(DISTINCT k) > 40",
        "SELECT g, sum(n) / count(*) FROM t GROUP BY g",
        "SELECT g FROM t GROUP BY g ORDER BY sum(n) + 1",
        "SELECT g, count(*) FROM t GROUP BY g HAVING count(*) > 14",
        "SELECT 1 FROM t HAVING count(*) = 60",
    ] {
        pair.same(sql);
    }
}

#[test]
fn averages_and_variances_are_of_all_rows() {
    let mut pair = Pair::start();
    for sql in [
        "SELECT avg(id) FROM o",
        "SELECT avg(n), avg(g), avg(k) FROM t",
        "SELECT var_samp(g) FROM t WHERE k IN (1, 2) AND g = 1",
        "SELECT var_samp(n), var_pop(n), stddev(n) FROM t",
    ] {
        pair.same(sql);
    }
    assert_eq!(pair.sharded.run("SELECT avg(id) FROM o"), "T(avg:1700) D(1.5000000000000000) C(SELECT 1) Z(I)");
}

#[test]
fn orders_are_those_of_the_server() {
    let mut pair = Pair::start();
    for sql in [
        "SELECT DISTINCT ON (t.g) t.g, t.k FROM t ORDER BY t.g, t.k DESC",
        "SELECT v FROM t ORDER BY k % 7, k",
        "SELECT v FROM t ORDER BY n DESC",
        "SELECT g, k FROM t ORDER BY g NULLS FIRST, k",
        "SELECT g, k FROM t ORDER BY g DESC NULLS LAST, k",
        "SELECT v, k FROM t ORDER BY v, k",
        "SELECT v, k FROM t ORDER BY v COLLATE \"C\" DESC, k LIMIT 9",
    ] {
        pair.same(sql);
    }
}

#[test]
fn windows_and_joins_see_whole_partitions() {
    let mut pair = Pair::start();
    pair.same("SELECT k, sum(id) OVER (PARTITION BY k) FROM o");
    pair.same("SELECT t.k, o.id FROM t JOIN o ON t.k = o.k WHERE t.g = 1");
    pair.same_or_refused("SELECT k, row_number() OVER (ORDER BY k) FROM t");
    pair.same_or_refused("SELECT t.k, o.k FROM t JOIN o ON t.g = o.id");
    pair.same_or_refused("SELECT r.name, t.k FROM r LEFT JOIN t ON r.code = t.k");
}

#[test]
fn cursors_and_merge_are_not_half_done() {
    Pair::both().into_iter().for_each(cursors_and_merge);
}

fn cursors_and_merge(mut pair: Pair) {
    pair.same_or_refused(
        "MERGE INTO t USING r ON t.g = r.code WHEN MATCHED THEN UPDATE SET v = r.name WHEN NOT MATCHED THEN DO NOTHING",
    );
    pair.sharded.run("BEGIN");
    pair.sharded.query("DECLARE c CURSOR FOR SELECT k FROM t");
    let answer = pair.sharded.read_until_ready();
    let refused = answer.iter().filter_map(Message::error).any(|error| error.code == "0A000");
    if !refused {
        pair.sharded.query("FETCH ALL FROM c");
        let rows = pair.sharded.read_until_ready().iter().filter(|message| message.tag == b'D').count();
        assert_eq!(rows, 60, "a cursor over all shards has all rows");
    }
    pair.sharded.run("ROLLBACK");
    pair.at_home();
}

#[test]
fn rows_of_an_insert_go_where_their_keys_say() {
    Pair::both().into_iter().for_each(rows_of_an_insert);
}

fn rows_of_an_insert(mut pair: Pair) {
    pair.written("INSERT INTO t (k, g) VALUES (1001, 1), (1002, 2), (1003, 3), (1004, 4)");
    pair.written(
        "INSERT INTO t (k, g) VALUES (1001, 1), (1002, 2), (1003, 3), (1004, 4), (1005, 5) ON CONFLICT (k) DO NOTHING",
    );
    pair.same_or_refused("INSERT INTO t (k, g) SELECT i, 0 FROM generate_series(2001, 2009) i");
    pair.same_or_refused("INSERT INTO t (g) VALUES (7)");
    for key in 3001..3020 {
        assert!(pair.same_or_refused(&format!("INSERT INTO t (k, g) VALUES ({key}, 1)")));
    }
}

/// A literal takes the type of the key: `'123'` of a varchar is a text.
#[test]
fn digits_of_a_text_key_are_a_text() {
    let mut pair = Pair::start();
    for key in [100, 111, 123, 140] {
        pair.same(&format!("SELECT n FROM w WHERE k = '{key}'"));
        assert!(pair.same_or_refused(&format!("UPDATE w SET n = n + 1 WHERE k = '{key}'")));
    }
    assert!(pair.same_or_refused("INSERT INTO w (k, n) VALUES ('0123', 1)"));
}

#[test]
fn statements_of_one_text_are_not_routed_by_the_first() {
    let mut pair = Pair::start();
    for (a, b) in [(1, 2), (1, 1), (2, 3), (5, 6)] {
        pair.same_or_refused(&format!("UPDATE t SET g = 50 WHERE k = {a}; UPDATE t SET g = 51 WHERE k = {b}"));
        pair.same_or_refused(&format!("SELECT g FROM t WHERE k = {a}; SELECT g FROM t WHERE k = {b}"));
    }
    pair.same_or_refused("SELECT count(*) FROM t; SELECT count(*) FROM o");
}

/// The messages up to where COPY takes data, or all.
fn first_of(client: &mut RawClient) -> Vec<Message> {
    let mut messages = Vec::new();
    while !messages.last().is_some_and(|message: &Message| matches!(message.tag, b'G' | b'Z')) {
        messages.push(client.read_message());
    }
    messages
}

/// COPY with its data; none if it is refused.
fn copy_in(client: &mut RawClient, sql: &str, data: &[u8]) -> Option<String> {
    client.query(sql);
    let mut first = first_of(client);
    if first.last().is_some_and(|message| message.tag == b'G') {
        client.send(b'd', data);
        client.send(b'c', b"");
        first = client.read_until_ready();
    }
    let refused = first.iter().filter_map(Message::error).any(|error| error.code == "0A000");
    (!refused).then(|| show(&first))
}

#[test]
fn copy_splits_rows_or_is_refused() {
    Pair::both().into_iter().for_each(copy_splits_rows);
}

fn copy_splits_rows(mut pair: Pair) {
    for (sql, data) in [
        ("COPY o FROM STDIN", "4001\t1\t1\n4002\t1\t1\n4003\t1\t1\n"),
        ("COPY o (id, k) FROM STDIN WITH (FORMAT csv)", "1,5001\n1,5002\n1,5003\n"),
    ] {
        let ours = copy_in(&mut pair.sharded, sql, data.as_bytes());
        assert_eq!(ours.is_some(), pair.writes, "{sql}");
        if let Some(ours) = ours {
            assert_eq!(Some(ours), copy_in(&mut pair.one, sql, data.as_bytes()), "{sql}");
        }
        pair.at_home();
    }
}

/// What COPY TO sends; none if it is refused.
fn copy_out(client: &mut RawClient, sql: &str) -> Option<Vec<Vec<u8>>> {
    client.query(sql);
    let answer = client.read_until_ready();
    let refused = answer.iter().filter_map(Message::error).any(|error| error.code == "0A000");
    let data = answer.iter().filter(|message| message.tag == b'd').map(|message| message.body.to_vec());
    (!refused).then(|| data.collect())
}

#[test]
fn copy_to_is_one_stream_or_is_refused() {
    let mut pair = Pair::start();
    for sql in
        ["COPY t TO STDOUT", "COPY t TO STDOUT WITH (FORMAT csv, HEADER)", "COPY t TO STDOUT WITH (FORMAT binary)"]
    {
        let ours = copy_out(&mut pair.sharded, sql).unwrap();
        let theirs = copy_out(&mut pair.one, sql).unwrap();
        if sql.contains("binary") {
            // One signature at the start and one end of the stream, and as many bytes between.
            let [ours, theirs] = [ours.concat(), theirs.concat()];
            assert!(ours.starts_with(b"PGCOPY\n") && ours.ends_with(&[255, 255]), "{sql}");
            assert_eq!(ours.len(), theirs.len(), "{sql}");
            continue;
        }
        let sorted = |lines: Vec<Vec<u8>>| {
            let mut lines: Vec<_> = lines.concat().split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
            let header = lines.first().cloned();
            lines.sort();
            (sql.contains("HEADER").then_some(header), lines)
        };
        assert_eq!(sorted(ours), sorted(theirs), "{sql}");
    }
}

#[test]
fn what_is_refused_says_why_and_what_to_do() {
    let mut pair = Pair::start();
    for sql in [
        "SELECT k, rank() OVER (ORDER BY g) FROM t",
        "SELECT t.k FROM t JOIN o ON t.g = o.id",
        "SELECT count(DISTINCT g) FROM t",
        "SELECT g, count(*) FROM t GROUP BY ROLLUP (g)",
        "UPDATE t SET k = 7 WHERE k = 8",
        "INSERT INTO t (g) VALUES (7)",
    ] {
        pair.refused(sql);
    }
}

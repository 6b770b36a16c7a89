//! The differential test of reads over shards: one unsharded PostgreSQL against pgweir over 1, 2, 3 and 7 shards with the same rows, by
//! every protocol. The answer is equal, or the statement is refused with 0A000; the share of refused statements is printed.
//!
//! `PGWEIR_DIFFERENTIAL` says how many statements are tried (`make soak` tries many), `PGWEIR_SEED` where they begin.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod common;
#[path = "scatter_differential/parts.rs"]
mod parts;

use std::collections::BTreeMap;

use common::cluster::Cluster;
use common::raw::RawClient;
use common::weir::Weir;
use common::wire::Message;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

const COUNTS: [usize; 4] = [1, 2, 3, 7];
const KEYS: i64 = 150;

/// NULLs, ties, NaN, both infinities, -0, 1.0 beside 1.00, mixed case and accents; all by the key, so that every copy is the same.
const FILL: &str = "
    CREATE TABLE t (k int8 PRIMARY KEY, g int4, v text, c text COLLATE \"C\", w text COLLATE \"und-x-icu\", d numeric, n numeric(8, 2), x float8, b bool,
                    ts timestamptz, day date, u uuid, s int2);
    CREATE TABLE o (k int8 NOT NULL, id int4 NOT NULL, amount numeric, note text COLLATE \"C\");
    CREATE TABLE r (code int4 PRIMARY KEY, name text COLLATE \"C\");
    INSERT INTO r SELECT i, 'name ' || i FROM generate_series(0, 4) i;
    INSERT INTO t SELECT k, CASE WHEN k % 11 = 0 THEN NULL ELSE k % 6 END,
        (ARRAY['a', 'A', 'b', 'ä', 'Ä', 'z', '', NULL, 'ab', 'aB'])[1 + k % 10],
        (ARRAY['a', 'A', 'b', 'ä', 'Ä', 'z', '', NULL, 'ab', 'aB'])[1 + k % 10],
        (ARRAY['a', 'A', 'b', 'ä', 'Ä', 'z', '', NULL, 'ab', 'aB'])[1 + k % 10],
        (ARRAY['1.0', '1.00', '2', 'NaN', '-0.5', '10000.0001', NULL, '1e20'])[1 + k % 8]::numeric,
        (k % 13) / 4.0,
        (ARRAY['NaN', 'Infinity', '-Infinity', '-0', '0', '1.5', '2.25', NULL, '1.5'])[1 + k % 9]::float8,
        CASE WHEN k % 7 = 0 THEN NULL ELSE k % 2 = 0 END,
        '2024-01-01 00:00:00+00'::timestamptz + (k % 9) * interval '1 hour 1 microsecond',
        '2024-01-01'::date + (k % 5)::int, ('00000000-0000-0000-0000-0000000000' || lpad((k % 17)::text, 2, '0'))::uuid, (k % 4)::int2
      FROM generate_series(1, KEYS) k WHERE HOME;
    INSERT INTO o SELECT k, i, k + i / 10.0, 'note ' || (k + i) % 5 FROM generate_series(1, KEYS) k, generate_series(1, 2) i
      WHERE HOME AND k % 3 <> 0";

fn fill(home: &str) -> String {
    FILL.replace("KEYS", &KEYS.to_string()).replace("HOME", home)
}

fn slots(number: usize, count: usize) -> (usize, usize) {
    (16384 * number / count, 16384 * (number + 1) / count - 1)
}

/// The last of seven shards has no row.
const SLOT: &str = "(((hashint8extended(k, 8816678312871386365) & 16383) + 10467) & 16383)";

fn start() -> (Cluster, Weir) {
    let cluster = Cluster::with_config(&[("max_connections", "200")]);
    let inhabited = format!("{SLOT} < {}", 16384 * 6 / 7);
    cluster.sql("CREATE DATABASE one");
    cluster.sql_in("one", &fill(&inhabited));
    let mut toml = String::new();
    for count in COUNTS {
        toml += &format!("[databases.app{count}]\ndefault_shard = \"s0\"\nprobe_user = \"postgres\"\n");
        for n in 0..count {
            let name = format!("s{count}_{n}");
            cluster.sql(&format!("CREATE DATABASE {name}"));
            let (first, last) = slots(n, count);
            cluster.sql_in(&name, &fill(&format!("{SLOT} BETWEEN {first} AND {last} AND {inhabited}")));
            toml += &format!(
                "[[databases.app{count}.shards]]\nname = \"s{n}\"\nslots = [[{first}, {last}]]\nprimary = \"{}\"\n",
                cluster.url(&name)
            );
        }
        toml += &format!(
            "[databases.app{count}.tables]\nt = {{ key = \"k\", type = \"bigint\" }}\no = {{ key = \"k\", type = \"bigint\" }}\nr = {{ reference = true }}\n"
        );
    }
    let weir = Weir::builder().database(&toml).start();
    (cluster, weir)
}

/// A statement, and what it is a test of.
struct Query {
    construct: &'static str,
    sql: String,
    /// Its rows come in one order only.
    ordered: bool,
    /// The value of `$1`, if it has one.
    value: Option<String>,
}

const COLUMNS: [&str; 13] = ["k", "g", "v", "c", "w", "d", "n", "x", "b", "ts", "day", "u", "s"];
const EXPRESSIONS: [&str; 8] =
    ["k % 5", "lower(c)", "coalesce(g, -1)", "n * 2", "g + s", "CASE WHEN b THEN 1 ELSE 0 END", "length(v)", "-x"];
/// Over keys (`KEY`) and aggregates.
const COMPUTED: [&str; 16] = [
    "coalesce(sum(g), 0)",
    "count(*) * 2",
    "sum(n) / count(*)",
    "sum(g) - sum(s) FILTER (WHERE b)",
    "round(avg(n), 2)",
    "max(k) - min(k)",
    "CASE WHEN count(*) > 10 THEN 'many' ELSE 'few' END",
    "sum(k) + 1",
    "greatest(min(g), max(s))",
    "nullif(count(g), 0)",
    "100.0 * count(g) / nullif(count(*), 0)",
    "max(c) || '!'",
    "bool_or(b) AND count(*) > 3",
    "array[min(k), max(k)]",
    "to_char(max(ts), 'YYYY-MM-DD')",
    "1",
];
const HAVINGS: [&str; 9] = [
    "count(*) > 20",
    "sum(g) > 30 OR max(k) < 140",
    "min(n) IS NOT NULL",
    "avg(g) BETWEEN 1 AND 4",
    "bool_or(b)",
    "count(*) FILTER (WHERE k > 75) = count(g)",
    "sum(n) / count(*) > 1.5",
    "NOT (max(c) = 'z')",
    "false",
];
const CONDITIONS: [&str; 17] = [
    "g = 2",
    "k > 75",
    "k = 17",
    "k IN (1, 2, 3, 40)",
    "k = ANY (ARRAY[5, 6, 7])",
    "k = ANY ('{5,6,7,NULL,40}')",
    "k = ANY ('{17}'::int8[])",
    "k = ANY ('{}')",
    "v LIKE 'a%'",
    "d IS NULL",
    "x > 0 OR b",
    "k = 1 + 4",
    "k + 1 = 5",
    "false",
    "NOT b",
    "g BETWEEN 1 AND 3 AND s <> 2",
    "k <> 3",
];
const AGGREGATES: [&str; 22] = [
    "count(*)",
    "count(g)",
    "sum(g)",
    "sum(k)",
    "sum(n)",
    "sum(d)",
    "min(n)",
    "max(k)",
    "min(day)",
    "max(ts)",
    "avg(g)",
    "avg(n)",
    "avg(k)",
    "bool_and(b)",
    "bool_or(b)",
    "every(b)",
    "var_samp(g)",
    "stddev(n)",
    "var_pop(k)",
    "count(*) FILTER (WHERE k = 1)",
    "sum(s)",
    "max(c)",
];
/// Right or refused: what others get wrong, and what is not supported.
const OTHERS: [(&str, &str); 69] = [
    ("distinct_order_by", "SELECT DISTINCT g FROM t ORDER BY k"),
    ("distinct_order_by", "SELECT DISTINCT * FROM o ORDER BY k + 1"),
    ("distinct_order_by", "SELECT DISTINCT *, k + 1 FROM o ORDER BY o.k + 1, id"),
    ("distinct_order_by", "SELECT DISTINCT t.g FROM t ORDER BY g DESC LIMIT 3"),
    ("case_of_key", "SELECT CASE WHEN k = 1 THEN 'one' ELSE 'other' END, count(*) FROM t GROUP BY 1"),
    ("order_by_key_condition", "SELECT k FROM t ORDER BY (k = 1), k"),
    ("exists", "SELECT EXISTS (SELECT 1 FROM t WHERE v = 'x')"),
    ("scalar_sub_query", "SELECT (SELECT count(*) FROM t)"),
    ("union", "SELECT k FROM t WHERE k = 1 UNION SELECT k FROM t WHERE k = 2"),
    ("union_all", "SELECT k FROM t UNION ALL SELECT k FROM o"),
    ("group_by_unselected", "SELECT count(*) FROM t GROUP BY g"),
    ("group_without_aggregate", "SELECT g FROM t GROUP BY g"),
    ("group_by_alias", "SELECT k % 3 AS m, count(*) FROM t GROUP BY m"),
    ("group_by_alias_of_column", "SELECT k % 3 AS g, count(*) FROM t GROUP BY g, k % 3"),
    ("coalesce_of_sum", "SELECT coalesce(sum(g), 0) FROM t"),
    ("aggregate_times_two", "SELECT count(*) * 2 FROM t"),
    ("coalesce_of_sum", "SELECT coalesce(sum(g), 0) FROM t WHERE false"),
    ("having_alone", "SELECT 1 FROM t HAVING count(*) > 1"),
    ("having_alone", "SELECT 1 FROM t HAVING sum(g) IS NULL"),
    ("computed_error", "SELECT 1 / (count(*) - count(*)) FROM t"),
    ("text_order_by", "SELECT w, k FROM t ORDER BY w DESC, k LIMIT 7 OFFSET 20"),
    ("text_order_by", "SELECT DISTINCT w FROM t ORDER BY w"),
    ("text_order_by", "SELECT DISTINCT ON (w) w, k FROM t ORDER BY w, k DESC"),
    ("text_order_by", "SELECT w, count(*) FROM t GROUP BY w ORDER BY w"),
    ("text_order_by", "SELECT * FROM t ORDER BY w, k"),
    ("text_order_by", "SELECT upper(w) || c COLLATE \"C\", k FROM t ORDER BY 1, 2"),
    ("distinct_on", "SELECT DISTINCT ON (g) g, k FROM t ORDER BY g, k DESC"),
    ("distinct_on", "SELECT DISTINCT ON (t.s) t.s, t.k FROM t ORDER BY t.s DESC, t.k"),
    ("having", "SELECT g, count(*) FROM t GROUP BY g HAVING count(*) > 20"),
    ("having_by_key", "SELECT k, count(*) FROM o GROUP BY k HAVING count(*) > 1"),
    ("window", "SELECT k, row_number() OVER (ORDER BY k) FROM t"),
    ("window_by_key", "SELECT k, id, sum(id) OVER (PARTITION BY k ORDER BY id) FROM o"),
    ("non_key_join", "SELECT t.k, o.k FROM t JOIN o ON t.g = o.id"),
    ("key_join", "SELECT t.k, o.id, o.amount FROM t JOIN o ON t.k = o.k WHERE t.g = 1"),
    ("key_left_join", "SELECT t.k, o.id FROM t LEFT JOIN o ON t.k = o.k ORDER BY t.k, o.id NULLS FIRST"),
    ("reference_join", "SELECT r.name, count(*) FROM t JOIN r ON r.code = t.g GROUP BY r.name"),
    ("reference_left_join", "SELECT t.k, r.name FROM t LEFT JOIN r ON r.code = t.g"),
    ("reference_outer", "SELECT r.code, t.k FROM r LEFT JOIN t ON r.code = t.k"),
    ("cte", "WITH x AS (SELECT k FROM t) SELECT count(*) FROM x"),
    ("var_samp_of_one", "SELECT var_samp(g) FROM t WHERE k = ANY (ARRAY[17, 18]) AND g = 0"),
    ("avg_of_partials", "SELECT avg(id) FROM o WHERE k IN (1, 2, 4, 5)"),
    ("count_distinct", "SELECT count(DISTINCT g) FROM t"),
    ("string_agg", "SELECT string_agg(c, ',') FROM t WHERE g = 1"),
    ("limit_null", "SELECT k FROM t ORDER BY k LIMIT NULL OFFSET 3"),
    ("limit_expression", "SELECT k FROM t ORDER BY k LIMIT 2 + 3"),
    ("in_list_groups", "SELECT g, count(*) FROM t WHERE k IN (1, 2, 3) GROUP BY g"),
    ("row_aggregate", "SELECT t.count FROM t"),
    ("clock", "SELECT k, now() - now() FROM t"),
    ("error", "SELECT 1 / (k - 17) FROM t"),
    ("error", "SELECT nothing FROM t ORDER BY 1"),
    ("error", "SELECT g, count(*) FROM t"),
    ("union_of_shards", "SELECT g FROM t WHERE k = 1 OR k = 2"),
    ("rollup", "SELECT g, s, count(*) FROM t GROUP BY ROLLUP (g, s)"),
    ("rollup", "SELECT k, count(*) FROM o GROUP BY GROUPING SETS ((k), ())"),
    ("rollup", "SELECT g, grouping(g), sum(s) FROM t GROUP BY CUBE (g)"),
    ("with_ties", "SELECT g FROM t ORDER BY g FETCH FIRST 3 ROWS WITH TIES"),
    ("with_ties", "SELECT s FROM t ORDER BY s OFFSET 2 FETCH NEXT 1 ROW WITH TIES"),
    ("tablesample", "SELECT count(*) FROM t TABLESAMPLE SYSTEM (100)"),
    (
        "window_by_key",
        "SELECT k, id, row_number() OVER w, rank() OVER w FROM o WINDOW w AS (PARTITION BY k ORDER BY id)",
    ),
    ("window_by_key", "SELECT k, id, count(*) OVER (PARTITION BY k, id) FROM o ORDER BY k, id LIMIT 7"),
    ("window", "SELECT k, lag(k) OVER (ORDER BY k) FROM t WHERE k IN (1, 2, 3, 4)"),
    ("window", "SELECT g, rank() OVER (PARTITION BY g ORDER BY k) FROM t"),
    ("window_of_groups", "SELECT g, sum(count(*)) OVER () FROM t GROUP BY g"),
    ("ordered_set", "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY g) FROM t"),
    ("array_agg", "SELECT g, array_agg(k ORDER BY k) FROM t GROUP BY g"),
    ("srf", "SELECT k, generate_series(1, 2) FROM t WHERE g = 1"),
    ("lateral_function", "SELECT t.k, i FROM t, generate_series(1, s) i"),
    ("values_join", "SELECT t.k, x.a FROM t JOIN (VALUES (1, 'a'), (2, 'b')) x (k, a) USING (k)"),
    ("sub_query_limit", "SELECT count(*) FROM (SELECT k FROM t ORDER BY k LIMIT 5) x"),
];

fn generate(rng: &mut SmallRng) -> Query {
    let mut value = None;
    let pick = |rng: &mut SmallRng, from: &[&str]| (*from.choose(rng).unwrap()).to_owned();
    let mut condition = String::new();
    if rng.random_bool(0.6) {
        condition = format!(" WHERE {}", pick(rng, &CONDITIONS));
    } else if rng.random_bool(0.4) {
        condition = " WHERE g = $1".to_owned();
        value = Some(rng.random_range(0..7).to_string());
    }
    let mut list = Vec::new();
    for _ in 0..rng.random_range(1..4) {
        let from: &[&str] = if rng.random_bool(0.7) { &COLUMNS } else { &EXPRESSIONS };
        list.push(pick(rng, from));
    }
    let direction = |rng: &mut SmallRng| pick(rng, &["", " DESC", " NULLS FIRST", " DESC NULLS LAST"]);
    match rng.random_range(0..13) {
        11 | 12 => {
            let (construct, sql) = parts::generate(rng, KEYS);
            Query { construct, sql, ordered: false, value: None }
        }
        0..=3 => {
            let star = rng.random_bool(0.15);
            let shown = if star { "*".to_owned() } else { list.join(", ") };
            let mut sql = format!("SELECT {shown} FROM t{condition}");
            let ordered = rng.random_bool(0.75);
            if ordered {
                let key = if !star && rng.random_bool(0.3) { "1".to_owned() } else { pick(rng, &COLUMNS) };
                sql += &format!(" ORDER BY {key}{}, t.k{}", direction(rng), direction(rng));
                if rng.random_bool(0.5) {
                    sql += &format!(" LIMIT {}", rng.random_range(0..20));
                }
                if rng.random_bool(0.3) {
                    sql += &format!(" OFFSET {}", rng.random_range(0..9));
                }
            }
            Query { construct: if ordered { "order_by" } else { "rows" }, sql, ordered, value }
        }
        4 => {
            let mut sql = format!("SELECT DISTINCT {} FROM t{condition}", list.join(", "));
            let ordered = rng.random_bool(0.5);
            if ordered {
                // Mostly one that is shown; all are, so that the order is one.
                let first = if rng.random_bool(0.8) { list[0].clone() } else { pick(rng, &COLUMNS) };
                let keys: Vec<String> = (1..=list.len()).map(|number| number.to_string()).collect();
                sql += &format!(" ORDER BY {first}{}, {}", direction(rng), keys.join(", "));
            }
            Query { construct: if ordered { "distinct_order_by" } else { "distinct" }, sql, ordered, value }
        }
        5 | 6 => {
            let grouped = rng.random_bool(0.75);
            let from: &[&str] = if rng.random_bool(0.7) { &COLUMNS } else { &EXPRESSIONS };
            let key = pick(rng, from);
            let mut shown: Vec<String> = (0..rng.random_range(1..3)).map(|_| pick(rng, &COMPUTED)).collect();
            if rng.random_bool(0.5) {
                shown.push(pick(rng, &AGGREGATES));
            }
            if grouped && rng.random_bool(0.7) {
                let shape =
                    *["KEY", "(KEY)::text || '.'", "KEY IS NULL", "coalesce((KEY)::text, '-')"].choose(rng).unwrap();
                shown.insert(0, shape.replace("KEY", &key));
            }
            let distinct = if rng.random_bool(0.15) { "DISTINCT " } else { "" };
            let mut sql = format!("SELECT {distinct}{} FROM t{condition}", shown.join(", "));
            if grouped {
                sql += &format!(" GROUP BY {key}");
            }
            let having = rng.random_bool(0.5);
            if having {
                sql += &format!(" HAVING {}", pick(rng, &HAVINGS));
            }
            let ordered = grouped && distinct.is_empty() && rng.random_bool(0.5);
            if ordered {
                let first = pick(rng, &["", "sum(g) + 1, ", "count(*) * -1 DESC, ", "max(k) - min(k) NULLS FIRST, "]);
                sql += &format!(" ORDER BY {first}{key}{}", direction(rng));
                if rng.random_bool(0.4) {
                    sql += &format!(" LIMIT {}", rng.random_range(0..5));
                }
                if rng.random_bool(0.2) {
                    sql += &format!(" OFFSET {}", rng.random_range(0..3));
                }
            }
            let construct = match (having, ordered) {
                (true, _) => "having",
                (false, true) => "computed_order_by",
                (false, false) => "computed",
            };
            Query { construct, sql, ordered, value }
        }
        7..=9 => {
            let grouped = rng.random_bool(0.7);
            let from: &[&str] = if rng.random_bool(0.7) { &COLUMNS } else { &EXPRESSIONS };
            let key = pick(rng, from);
            let mut shown: Vec<String> = (0..rng.random_range(1..4)).map(|_| pick(rng, &AGGREGATES)).collect();
            if grouped && rng.random_bool(0.8) {
                shown.insert(0, key.clone());
            }
            let mut sql = format!("SELECT {} FROM t{condition}", shown.join(", "));
            if grouped {
                sql += &format!(" GROUP BY {key}");
            }
            let ordered = grouped && rng.random_bool(0.4);
            if ordered {
                sql += &format!(" ORDER BY {key}{}", direction(rng));
                if rng.random_bool(0.4) {
                    sql += &format!(" LIMIT {}", rng.random_range(0..5));
                }
            }
            Query { construct: if grouped { "group_by" } else { "aggregate" }, sql, ordered, value }
        }
        _ => {
            let (construct, sql) = OTHERS.choose(rng).unwrap();
            Query { construct, sql: (*sql).to_owned(), ordered: is_ordered(sql), value: None }
        }
    }
}

/// Whether it says in which order its rows come; what stands in OVER says nothing of it.
fn is_ordered(sql: &str) -> bool {
    sql.contains("ORDER BY") && !sql.contains("OVER")
}

/// How a statement is sent.
#[derive(Debug, Clone, Copy)]
enum Way {
    Simple,
    Text,
    Binary,
    Prepared,
}

/// Sends the statement; [`answer`] reads what comes.
fn send(client: &mut RawClient, query: &Query, way: Way, again: bool) {
    let values: Vec<Option<&str>> = query.value.iter().map(|v| Some(v.as_str())).collect();
    match way {
        Way::Simple => client.query(&query.sql.replace("$1", query.value.as_deref().unwrap_or("$1"))),
        Way::Text => {
            client.parse("", &query.sql, &[]);
            client.bind("", "", &values);
            client.describe_portal("");
            client.execute("", 0);
            client.sync();
        }
        Way::Binary => {
            client.parse("", &query.sql, &[]);
            let numbers: Vec<_> = values.iter().map(|v| v.unwrap().parse::<i32>().unwrap().to_be_bytes()).collect();
            let values: Vec<Option<&[u8]>> = numbers.iter().map(|v| Some(&v[..])).collect();
            client.bind_binary("", "", &values);
            client.describe_portal("");
            client.execute("", 0);
            client.sync();
        }
        Way::Prepared => {
            if !again {
                client.close_statement("p");
                client.parse("p", &query.sql, &[]);
                client.describe_statement("p");
                client.sync();
            }
            client.bind("", "p", &values);
            client.execute("", 0);
            client.sync();
        }
    }
}

/// The answer to what was sent: of a statement that could not be prepared, the error of that.
fn answer(client: &mut RawClient, way: Way, again: bool) -> Vec<Message> {
    if !again && matches!(way, Way::Prepared) {
        let prepared = client.read_until_ready();
        let executed = client.read_until_ready();
        return if prepared.iter().any(|m| m.tag == b'E') { prepared } else { executed };
    }
    client.read_until_ready()
}

/// What is compared: columns without the numbers of their tables, tags, SQLSTATE classes, rows.
fn normal(messages: &[Message], ordered: bool) -> Vec<String> {
    let (mut frame, mut rows) = (Vec::new(), Vec::new());
    for message in messages {
        match message.tag {
            b'D' => rows.push(format!("{:?}", message.body)),
            b'E' => {
                let class: String = message.error().unwrap().fields[&'C'].chars().take(2).collect();
                return vec![format!("E {class}")];
            }
            b'T' => frame.push(format!("T {:?}", columns(&message.body))),
            _ => frame.push(message.to_string()),
        }
    }
    if !ordered {
        rows.sort();
    }
    frame.into_iter().chain(rows).collect()
}

/// Name, type, size, modifier and format of each column.
fn columns(body: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut rest = &body[2..];
    let mut columns = Vec::new();
    while !rest.is_empty() {
        let end = rest.iter().position(|b| *b == 0).unwrap();
        columns.push((String::from_utf8_lossy(&rest[..end]).into_owned(), rest[end + 7..end + 19].to_vec()));
        rest = &rest[end + 19..];
    }
    columns
}

fn is_refused(messages: &[Message]) -> bool {
    messages.iter().filter_map(Message::error).any(|e| e.fields[&'C'] == "0A000")
}

/// What a run has found.
#[derive(Default)]
struct Found {
    /// By construct: how many answers of several shards there were, and how many of these were refusals.
    seen: BTreeMap<&'static str, (u64, u64)>,
    /// Statements by each protocol.
    asked: u64,
    wrong: Vec<String>,
}

impl Found {
    fn add(&mut self, other: Self) {
        for (construct, (asked, refused)) in other.seen {
            let tally = self.seen.entry(construct).or_default();
            *tally = (tally.0 + asked, tally.1 + refused);
        }
        self.asked += other.asked;
        self.wrong.extend(other.wrong);
    }
}

/// One client of the server, and one of each number of shards.
struct Clients {
    direct: RawClient,
    sharded: Vec<(usize, RawClient)>,
}

impl Clients {
    fn new(cluster: &Cluster, weir: &Weir) -> Self {
        let sharded = COUNTS.iter().map(|count| (*count, weir.client(&format!("app{count}")))).collect();
        Self { direct: cluster.client("one"), sharded }
    }

    /// Asks all in every way and compares.
    fn compare(&mut self, query: &Query, found: &mut Found) {
        found.asked += 1;
        for way in [Way::Simple, Way::Text, Way::Binary, Way::Prepared] {
            // Asked at once, so that nobody waits for one of them alone.
            send(&mut self.direct, query, way, false);
            self.sharded.iter_mut().for_each(|(_, client)| send(client, query, way, false));
            let theirs = normal(&answer(&mut self.direct, way, false), query.ordered);
            for (count, client) in &mut self.sharded {
                let ours = answer(client, way, false);
                let tally = found.seen.entry(query.construct).or_default();
                if *count > 1 {
                    tally.0 += 1;
                }
                if is_refused(&ours) {
                    tally.1 += 1;
                    continue;
                }
                let ours = normal(&ours, query.ordered);
                if ours != theirs {
                    found.wrong.push(format!(
                        "{} ({way:?}, {count} shards, $1 = {:?})\n    ours:   {ours:?}\n    theirs: {theirs:?}",
                        query.sql, query.value
                    ));
                }
                if matches!(way, Way::Prepared) && !theirs[0].starts_with('E') {
                    send(client, query, way, true);
                    let again = normal(&answer(client, way, true), query.ordered);
                    if again != ours {
                        found.wrong.push(format!(
                            "{}: prepared, the second time, {count} shards\n    {again:?}\n    {ours:?}",
                            query.sql
                        ));
                    }
                }
            }
        }
    }
}

#[test]
fn equal_or_refused() {
    let number = |name: &str, default: u64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let (tries, seed) = (number("PGWEIR_DIFFERENTIAL", 80), number("PGWEIR_SEED", 1));
    // Most of the time each waits for an answer.
    let threads = tries.div_ceil(100).clamp(1, 4);
    let (cluster, weir) = start();
    let mut found = Found::default();
    let mut clients = Clients::new(&cluster, &weir);
    for (construct, sql) in OTHERS {
        let query = Query { construct, sql: sql.to_owned(), ordered: is_ordered(sql), value: None };
        clients.compare(&query, &mut found);
    }
    for (construct, sql) in parts::all(KEYS) {
        clients.compare(&Query { construct, sql, ordered: false, value: None }, &mut found);
    }
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..threads)
            .map(|thread| {
                let (cluster, weir) = (&cluster, &weir);
                scope.spawn(move || {
                    let mut clients = Clients::new(cluster, weir);
                    let mut rng = SmallRng::seed_from_u64(seed.wrapping_add(thread << 32));
                    let mut found = Found::default();
                    for _ in 0..tries.div_ceil(threads) {
                        clients.compare(&generate(&mut rng), &mut found);
                    }
                    found
                })
            })
            .collect();
        runs.into_iter().for_each(|run| found.add(run.join().unwrap()));
    });
    let (asked, refused) = found.seen.values().fold((0, 0), |sum, tally| (sum.0 + tally.0, sum.1 + tally.1));
    println!("seed {seed}: {} statements by each protocol, {refused} of {asked} answers refused", found.asked);
    for (construct, (asked, refused)) in &found.seen {
        println!("{construct:26} {refused:6} of {asked:6} refused");
    }
    assert!(
        found.wrong.is_empty(),
        "{} of {asked} wrong:\n{}",
        found.wrong.len(),
        found.wrong.iter().take(12).map(|w| w.chars().take(1500).collect::<String>()).collect::<Vec<_>>().join("\n")
    );
}

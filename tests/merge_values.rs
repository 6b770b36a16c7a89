//! What is merged of several shards is what one PostgreSQL says: the order of values of every type, aggregates with their scale.
//!
//! A table stands for the whole; its rows with one number in column `shard` stand for a shard.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod common;

use std::collections::BTreeMap;

use common::cluster::Cluster;
use common::raw::RawClient;
use common::wire::Cursor;
use pgweir::shard::merge::aggregate::{Aggregate, Combine, decompose};
use pgweir::shard::merge::{
    Collation, Column, Distinct, Format, Merge, Output, Shape, SortKey, Source, Spec, TextRules, groups_by_bytes,
};

const RULES: TextRules = TextRules { iso_dates: true, exact_floats: true };
const SHARDS: usize = 4;

/// Columns and DataRow bodies of a query.
fn fetch(client: &mut RawClient, sql: &str, format: Format) -> (Vec<Column>, Vec<Vec<u8>>) {
    client.parse("", sql, &[]);
    match format {
        Format::Text => client.bind("", "", &[]),
        Format::Binary => client.bind_binary("", "", &[]),
    }
    client.describe_portal("");
    client.execute("", 0);
    client.sync();
    let messages = client.read_until_ready();
    if let Some(error) = messages.iter().find(|message| message.tag == b'E') {
        panic!("{sql}: {}", error.error().unwrap());
    }
    let description = messages.iter().find(|message| message.tag == b'T').unwrap();
    let mut at = Cursor(&description.body);
    let count = at.int16().unwrap();
    let column = |_| {
        at.text().unwrap();
        at.take(6).unwrap();
        let type_oid = at.int32().unwrap().cast_unsigned();
        at.take(2).unwrap();
        let type_modifier = at.int32().unwrap();
        assert_eq!(Format::from_code(at.int16().unwrap()), Some(format));
        Column { type_oid, type_modifier, format, collation: Collation::Bytes }
    };
    let columns = (0..count).map(column).collect();
    (columns, messages.into_iter().filter(|message| message.tag == b'D').map(|message| message.body).collect())
}

/// Merges what the query gives for each shard; `{shard}` in it stands for the number.
fn merged(client: &mut RawClient, spec: &Spec, sql: &str, format: Format) -> Vec<Vec<u8>> {
    let answers: Vec<_> =
        (0..SHARDS).map(|shard| fetch(client, &sql.replace("{shard}", &shard.to_string()), format)).collect();
    let mut merge =
        Merge::new(spec.clone(), answers[0].0.clone(), RULES, SHARDS).unwrap_or_else(|e| panic!("{sql}: {e}"));
    let mut result = Vec::new();
    for (shard, (_, rows)) in answers.iter().enumerate() {
        rows.iter().for_each(|row| merge.push(shard, row).unwrap_or_else(|e| panic!("{sql}: {e}")));
        merge.end(shard).unwrap();
    }
    while let Some(row) = merge.pop().unwrap() {
        result.push(row);
    }
    assert!(merge.is_done());
    result
}

fn values(body: &[u8]) -> Vec<Option<Vec<u8>>> {
    let mut at = Cursor(body);
    let count = at.int16().unwrap();
    (0..count).map(|_| at.value().unwrap().map(<[u8]>::to_vec)).collect()
}

fn texts(body: &[u8]) -> Vec<Option<String>> {
    values(body).into_iter().map(|value| value.map(|bytes| String::from_utf8(bytes).unwrap())).collect()
}

fn rows(output: Vec<Output>) -> Spec {
    Spec {
        shape: Shape::Rows,
        output,
        sort: Vec::new(),
        distinct: Distinct::All,
        offset: 0,
        limit: None,
        memory_limit: Spec::MEMORY_LIMIT,
    }
}

/// Types, and an expression over `r` (a random number from 0 to 1) and `i` (a counter) that gives their values.
const TYPES: &[(&str, &str)] = &[
    ("bool", "r < 0.5"),
    ("int2", "(r * 200 - 100)::int"),
    ("int4", "((r - 0.5) * 4e9)::int8"),
    ("int8", "((r - 0.5) * 1.8e19)::numeric(20)"),
    ("oid", "(r * 4e9)::int8"),
    ("float4", "(ARRAY['NaN', 'Infinity', '-Infinity', '-0', '0', '1e-40', ((r - 0.5) * 1e30)::text, (r * 9)::int::text])[1 + i % 8]"),
    ("float8", "(ARRAY['NaN', 'Infinity', '-Infinity', '-0', '0', '5e-324', ((r - 0.5) * 1e300)::text, (r - 0.5)::text])[1 + i % 8]"),
    (
        "numeric",
        "(ARRAY['NaN', 'Infinity', '-Infinity', '1', '1.0', '1.00', '0.000', ((r - 0.5) * 1e9)::text,
                ((r - 0.5)::numeric * 10 ^ (i % 60 - 30)::numeric)::text, round((r * 1e6)::numeric, i % 7)::text])[1 + i % 10]",
    ),
    ("uuid", "md5(r::text)"),
    ("bytea", "decode(substr(md5(r::text), 1, i % 9 * 2), 'hex')"),
    ("\"char\"", "chr(1 + (r * 126)::int)"),
    ("name", "substr('aBc ~é_0' || md5(r::text), 1 + i % 9, 1 + i % 4)"),
    ("text COLLATE \"C\"", "substr('aBc ~é_0😀' || md5(r::text), 1 + i % 9, i % 4)"),
    ("varchar(9) COLLATE \"C\"", "substr('aBc ~é_0' || md5(r::text), 1 + i % 9, i % 4)"),
    ("char(4) COLLATE \"C\"", "substr('aBc  ~é' || md5(r::text), 1 + i % 9, i % 4)"),
    ("date", "(ARRAY['infinity', '-infinity', (date '4714-11-24 BC' + (r * 2e9)::int)::text, (date '2000-02-27' + i % 5)::text])[1 + i % 4]"),
    ("time", "(ARRAY['24:00', '00:00', (time '00:00' + r * interval '1 day')::text])[1 + i % 3]"),
    ("timetz", "(time '00:00' + (i % 7) * interval '1 hour')::text || (ARRAY['+00', '-01', '+05:30', '+01:00:09', '-15:59'])[1 + (r * 4)::int]"),
    ("timestamp", "(ARRAY['infinity', '-infinity', (timestamp '4713-01-01 BC' + r * interval '290000 years')::text,
                          (timestamp '2024-02-29' + r * interval '3 seconds')::text])[1 + i % 4]"),
    ("timestamptz", "(ARRAY['infinity', '-infinity', (timestamp '4713-01-02 BC' + r * interval '290000 years')::text,
                            (timestamp '2024-10-27' + r * interval '3 hours')::text])[1 + i % 4]"),
    ("interval", "(ARRAY[(r * interval '1 month')::text, '1 month', '30 days', '720:00:00', '-1 year', (r * interval '-9 years')::text])[1 + i % 6]"),
];

#[test]
fn the_order_is_postgresqls() {
    let cluster = Cluster::start();
    let mut client = cluster.client("postgres");
    client.run("SELECT setseed(0.25)");
    for (at, (name, expression)) in TYPES.iter().enumerate() {
        let table = format!(
            "CREATE TABLE v{at} AS SELECT x, dense_rank() OVER (ORDER BY x)::text AS rank, i % {SHARDS} AS shard FROM (
                 SELECT i, CASE WHEN i % 13 > 0 THEN ({expression})::text::{name} END AS x
                 FROM (SELECT i, random() AS r FROM generate_series(1, 400) i) g OFFSET 0) g"
        );
        let done = client.run(&table);
        assert!(!done.contains("E("), "{name}: {:?}", client.rows(&table));
        let distinct = client.value(&format!("SELECT count(DISTINCT rank) FROM v{at}"));
        for zone in ["UTC", "Europe/Dublin"] {
            client.run(&format!("SET TimeZone = '{zone}'"));
            for format in [Format::Text, Format::Binary] {
                if format == Format::Text && *name == "interval" {
                    continue;
                }
                for (descending, nulls_first) in [(false, false), (true, true), (false, true), (true, false)] {
                    let sort = vec![SortKey { source: Source::Column(0), descending, nulls_first }];
                    let spec = Spec { sort, ..rows(vec![Output { source: Source::Column(1), format }]) };
                    let direction = if descending { "DESC" } else { "ASC" };
                    let nulls = if nulls_first { "FIRST" } else { "LAST" };
                    let order = format!("ORDER BY x {direction} NULLS {nulls}");
                    let sql = format!("SELECT x, rank FROM v{at} WHERE shard = {{shard}} {order}");
                    let got = merged(&mut client, &spec, &sql, format);
                    // Equal values have one rank, so the sequence of ranks is the same however ties fall.
                    let (_, expected) = fetch(&mut client, &format!("SELECT rank FROM v{at} {order}"), format);
                    assert_eq!(got, expected, "{name} {order} {format:?}");
                    let spec = Spec { distinct: Distinct::FirstBy(1), ..spec };
                    let got = merged(&mut client, &spec, &sql, format).len().to_string();
                    assert_eq!(got, distinct, "{name}: values that are equal");
                }
            }
        }
    }
}

/// The statement for the shards and the specification of `SELECT trial, aggregates ... GROUP BY trial ORDER BY trial`.
fn grouped(client: &mut RawClient, table: &str, aggregates: &[(&str, &str)], format: Format) -> (String, Spec) {
    let mut pushed = vec!["trial".to_owned()];
    let mut combined = Vec::new();
    for (name, argument) in aggregates {
        let type_oid = fetch(client, &format!("SELECT {argument} FROM {table} LIMIT 0"), format).0[0].type_oid;
        let decomposed = decompose(name, Some(type_oid)).unwrap();
        let parts = (pushed.len()..).take(decomposed.parts.len()).collect();
        pushed.extend(decomposed.parts.iter().map(|part| part.sql(argument)));
        combined.push(Aggregate { combine: decomposed.combine, parts });
    }
    let sources = [Source::Column(0)].into_iter().chain((0..combined.len()).map(Source::Aggregate));
    let spec = Spec {
        sort: vec![SortKey { source: Source::Column(0), descending: false, nulls_first: false }],
        shape: Shape::Groups { keys: vec![0], aggregates: combined },
        ..rows(sources.map(|source| Output { source, format }).collect())
    };
    (format!("SELECT {} FROM {table} WHERE shard = {{shard}} GROUP BY trial", pushed.join(", ")), spec)
}

fn whole(table: &str, aggregates: &[(&str, &str)]) -> String {
    let list: Vec<String> = aggregates.iter().map(|(name, argument)| format!("{name}({argument})")).collect();
    format!("SELECT trial, {} FROM {table} GROUP BY trial ORDER BY trial", list.join(", "))
}

const SPREAD: [&str; 8] = ["avg", "sum", "var_pop", "var_samp", "variance", "stddev_pop", "stddev_samp", "stddev"];

#[test]
fn aggregates_of_exact_numbers_are_the_same_to_the_last_digit() {
    let cluster = Cluster::start();
    let mut client = cluster.client("postgres");
    // 1500 groups of 0 to 9 rows that count, over shards that may have none of them.
    let table = format!(
        "CREATE TABLE n AS SELECT trial, (random() * {last})::int AS shard,
            ((r - 0.5) * 60000)::int2 AS a, ((r - 0.5) * 10 ^ (trial % 10))::int4 AS b, ((r - 0.5) * 10 ^ (trial % 19))::int8 AS c,
            CASE WHEN trial % 50 = 1 AND s < 0.2 THEN (ARRAY['NaN', 'Infinity', '-Infinity'])[1 + (s * 14)::int]::numeric
                 ELSE round((r - 0.5)::numeric * 10 ^ (trial % 40 - 15)::numeric, (s * (trial % 30))::int) END AS d,
            CASE WHEN s > 0.3 THEN ((r * 1000)::int8::numeric / (1 + trial % 7))::numeric(20, 6) END AS e,
            CASE WHEN s > 0.3 THEN r > 0.2 END AS f, md5(r::text) AS t
         FROM (SELECT trial, random() AS r, random() AS s FROM generate_series(1, 1500) trial, generate_series(1, 9) k
               WHERE k <= 1 + trial % 9) g",
        last = SHARDS - 1
    );
    client.run("SELECT setseed(0.5)");
    assert!(!client.run(&table).contains("E("), "{:?}", client.rows(&table));
    let mut aggregates: Vec<(&str, &str)> =
        SPREAD.iter().flat_map(|name| "abcde".split("").filter(|c| !c.is_empty()).map(move |c| (*name, c))).collect();
    aggregates.extend([
        ("count", "*"),
        ("count", "e"),
        ("min", "a"),
        ("max", "e"),
        ("min", "c"),
        ("max", "t COLLATE \"C\""),
    ]);
    aggregates.extend([
        ("bool_and", "f"),
        ("bool_or", "f"),
        ("every", "f"),
        ("bit_and", "a"),
        ("bit_or", "b"),
        ("bit_xor", "c"),
    ]);
    for format in [Format::Text, Format::Binary] {
        let pushable: Vec<_> = aggregates.iter().copied().filter(|(_, argument)| *argument != "*").collect();
        let (sql, spec) = grouped(&mut client, "n", &pushable, format);
        let got = merged(&mut client, &spec, &sql, format);
        let (columns, expected) = fetch(&mut client, &whole("n", &pushable), format);
        assert_eq!(got.len(), 1500);
        for (got, expected) in got.iter().zip(&expected) {
            if got != expected {
                let (got, expected) = (values(got), values(expected));
                let at = got.iter().zip(&expected).position(|(a, b)| a != b).unwrap();
                let show = |value: &Option<Vec<u8>>| value.as_ref().map(|v| String::from_utf8_lossy(v).into_owned());
                panic!(
                    "{:?} of trial {:?}: {:?}, not {:?}",
                    pushable[at - 1],
                    show(&got[0]),
                    show(&got[at]),
                    show(&expected[at])
                );
            }
        }
        let merge = Merge::new(spec, fetch(&mut client, &sql.replace("{shard}", "0"), format).0, RULES, 1).unwrap();
        let types: Vec<u32> = columns.iter().map(|column| column.type_oid).collect();
        assert_eq!(merge.output_types(), types);
    }
}

#[test]
fn aggregates_of_floats_are_the_same_but_for_the_order_of_their_sums() {
    let cluster = Cluster::start();
    let mut client = cluster.client("postgres");
    client.run("SELECT setseed(0.75)");
    let table = format!(
        "CREATE TABLE n AS SELECT trial, (random() * {last})::int AS shard, (trial % 20 * 1000 + r)::float8 AS a, r::float4 AS b,
            CASE WHEN trial % 9 = 0 AND s < 0.1 THEN (ARRAY['NaN', 'Infinity', '-Infinity'])[1 + (s * 29)::int]::float8
                 WHEN s > 0.2 THEN (r * 100)::int::float8 END AS c
         FROM (SELECT trial, random() AS r, random() AS s FROM generate_series(1, 1000) trial, generate_series(1, 12) k
               WHERE k <= 1 + trial % 12) g",
        last = SHARDS - 1
    );
    assert!(!client.run(&table).contains("E("), "{:?}", client.rows(&table));
    let aggregates: Vec<(&str, &str)> =
        SPREAD.iter().flat_map(|name| ["a", "b", "c"].map(|column| (*name, column))).collect();
    let (sql, spec) = grouped(&mut client, "n", &aggregates, Format::Text);
    let got = merged(&mut client, &spec, &sql, Format::Text);
    let (_, expected) = fetch(&mut client, &whole("n", &aggregates), Format::Text);
    for (got, expected) in got.iter().zip(&expected) {
        let (got, expected) = (texts(got), texts(expected));
        for ((got, expected), (name, column)) in got.iter().zip(&expected).skip(1).zip(&aggregates) {
            if got == expected {
                continue;
            }
            let (Some(got), Some(expected)) = (got, expected) else {
                panic!("{name}({column}): {got:?}, not {expected:?}")
            };
            let (got, expected): (f64, f64) = (got.parse().unwrap(), expected.parse().unwrap());
            let scale = if *column == "b" && *name == "sum" { 1e-5 } else { 1e-9 };
            assert!(
                (got - expected).abs() <= scale * expected.abs().max(1.0),
                "{name}({column}): {got}, not {expected}"
            );
        }
    }
}

#[test]
fn what_is_grouped_by_bytes_is_so_for_postgresql_too() {
    let cluster = Cluster::start();
    let equal_image = cluster.sql(
        "SELECT DISTINCT c.opcintype FROM pg_opclass c JOIN pg_am m ON m.oid = c.opcmethod AND m.amname = 'btree'
         JOIN pg_amproc p ON p.amprocfamily = c.opcfamily AND p.amproclefttype = c.opcintype AND p.amprocnum = 4 WHERE c.opcdefault",
    );
    let known: BTreeMap<u32, bool> = equal_image.iter().map(|row| (row[0].parse().unwrap(), true)).collect();
    for type_oid in 1..5000 {
        // varchar has the operators of text, name has its own.
        let as_type = if type_oid == 1043 { 25 } else { type_oid };
        assert!(!groups_by_bytes(type_oid, -1) || known.contains_key(&as_type), "{type_oid}");
    }
    assert!(!known.contains_key(&1700) && !known.contains_key(&701));
    // The scale is the type's, whatever the values were.
    assert_eq!(
        cluster.value("SELECT string_agg(DISTINCT x::numeric(5, 2)::text, ' ') FROM (VALUES (1.0), (1.00), (1)) v(x)"),
        "1.00"
    );
    assert!(groups_by_bytes(1700, (5 << 16) + 2 + 4));
    assert_eq!(decompose("count", None).unwrap().combine, Combine::Count);
}

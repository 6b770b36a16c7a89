//! Keys of several columns. By (bigint, text) the keys (1,a), (1,b), (2,a), (3,c) are on s1, (1,e), (1,g), (2,c), (2,e), (3,a), (3,b) on s0;
//! by (bigint, bigint) the keys (1,1), (1,2), (3,3) on s1, (1,3), (1,4), (3,1) on s0. By one column 1 is on s0, 2 and 3 are on s1.

use super::*;
use crate::shard::table_key::KeyColumn;
use crate::sql::parse::facts;

const INT8: KeyType = KeyType::Integer { width: 8 };

fn several() -> ShardMap {
    let sharded = |columns: &[(&str, KeyType)]| {
        let columns =
            columns.iter().map(|(name, key_type)| KeyColumn { name: (*name).to_owned(), key_type: *key_type });
        Table::Sharded { key: TableKey::new(columns.collect()).unwrap() }
    };
    let tables = [
        ("items", sharded(&[("tenant", INT8), ("item", KeyType::Text)])),
        ("lines", sharded(&[("tenant", KeyType::Integer { width: 4 }), ("item", KeyType::Text)])),
        ("stock", sharded(&[("t", INT8), ("i", KeyType::Text)])),
        ("pairs", sharded(&[("a", INT8), ("b", INT8)])),
        ("turned", sharded(&[("item", KeyType::Text), ("tenant", INT8)])),
        ("tenants", sharded(&[("tenant", INT8)])),
        ("countries", Table::Reference),
    ];
    ShardMap {
        tables: tables.into_iter().map(|(name, table)| (("public".into(), name.into()), table)).collect(),
        ..map()
    }
}

fn planned_as(sql: &str, values: Option<&[Option<&[u8]>]>, change: impl FnOnce(&mut PlanContext<'_>)) -> ShardPlan {
    let map = several();
    let bound = values.map(|values| BoundParams { values, formats: &[], types: &[] });
    let facts = facts(sql.as_bytes());
    assert!(facts.unparsed.is_none(), "{sql}: {:?}", facts.unparsed);
    let mut cx = PlanContext { text: Some(sql), bound, ..context(&map) };
    change(&mut cx);
    plan_query(&facts, &cx)
}

fn planned(sql: &str, values: Option<&[Option<&[u8]>]>) -> ShardPlan {
    planned_as(sql, values, |_| {})
}

#[track_caller]
fn all(cases: &[(&str, &str)]) {
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|(sql, wanted)| {
            let plan = planned(sql, Some(&[]));
            (word(&plan) != *wanted).then(|| format!("{sql}\n  wanted {wanted}, got {plan:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_column_must_be_tied() {
    all(&[
        ("SELECT * FROM items WHERE tenant = 1 AND item = 'a'", "s1"),
        ("SELECT * FROM items WHERE item = 'e' AND tenant = 1", "s0"),
        ("SELECT * FROM items WHERE (tenant, item) = (1, 'e')", "s0"),
        ("SELECT * FROM items i WHERE (i.item, tenant) = ('a', 2) AND n > 3", "s1"),
        ("SELECT * FROM items WHERE (tenant, item) IN ((1, 'e'))", "s0"),
        // In the other order the columns hash otherwise.
        ("SELECT count(*) FROM turned WHERE tenant = 1 AND item = 'a'", "s0"),
        ("DELETE FROM items WHERE tenant = 1 AND item = 'a'", "s1"),
        ("UPDATE items SET n = 1 WHERE tenant = 2 AND item = 'c'", "s0"),
        // One column says nothing.
        ("SELECT * FROM items WHERE tenant = 1", "s0+s1"),
        ("SELECT * FROM items WHERE item = 'a'", "s0+s1"),
        ("SELECT * FROM items WHERE tenant = 1 OR item = 'a'", "s0+s1"),
        ("SELECT * FROM items WHERE tenant = 1 AND item > 'a'", "s0+s1"),
        ("SELECT * FROM items WHERE tenant = 1 AND item = lower('A')", "s0+s1"),
        ("DELETE FROM items WHERE tenant = 1", NO),
        ("UPDATE items SET n = 1 WHERE item = 'a'", NO),
        ("UPDATE items SET n = 1 WHERE tenant = 1 AND item = lower('A')", NO),
        ("SELECT * FROM items WHERE tenant = 1 AND tenant = 2 AND item = 'a'", "s0"),
        ("DELETE FROM items WHERE tenant = 1 AND item = 'a' AND item = 'b'", NO),
    ]);
    let no_key = message(planned("DELETE FROM items WHERE tenant = 1", Some(&[])));
    assert!(no_key.contains("no condition ties \"item\" of table \"items\""), "{no_key}");
}

#[test]
fn lists_are_multiplied_and_rows_are_not() {
    all(&[
        ("SELECT * FROM items WHERE tenant = 1 AND item IN ('a', 'b')", "s1"),
        ("SELECT * FROM items WHERE tenant = 1 AND item IN ('a', 'e')", "s0+s1"),
        // Nothing is equal to NULL.
        ("SELECT * FROM items WHERE tenant = 1 AND item IN ('a', NULL)", "s1"),
        ("SELECT * FROM items WHERE (tenant, item) IN ((1, 'e'), (NULL, 'a'))", "s0"),
        ("SELECT * FROM items WHERE tenant = 1 AND item = NULL", "s0+s1"),
        ("SELECT * FROM items WHERE tenant IN (1, 2) AND item IN ('a')", "s1"),
        ("SELECT * FROM items WHERE tenant IN (1, 2) AND item = ANY ('{a}')", "s1"),
        ("SELECT * FROM items WHERE tenant = ANY (ARRAY[1, 2]) AND item = 'e'", "s0"),
        // (1,c) and (2,a) are on s1.
        ("SELECT * FROM items WHERE (tenant, item) IN ((1, 'e'), (2, 'c'))", "s0"),
        ("SELECT * FROM items WHERE (n, item, tenant) IN ((5, 'e', 1), (6, 'c', 2))", "s0"),
        ("SELECT * FROM items WHERE tenant IN (1, 2) AND item IN ('e', 'c')", "s0+s1"),
        ("SELECT * FROM items WHERE tenant = 1 AND (n, item) IN ((5, 'e'), (6, 'g'))", "s0"),
        ("DELETE FROM items WHERE (tenant, item) IN ((1, 'e'), (2, 'c'))", "s0"),
        ("DELETE FROM items WHERE (tenant, item) IN ((1, 'e'), (1, 'a'))", NO),
        ("UPDATE items SET n = 1 WHERE tenant = 1 AND item IN ('a', 'b')", "s1"),
        ("UPDATE items SET n = 1 WHERE tenant = 1 AND item = ANY ('{a,b}')", "s1"),
        ("UPDATE items SET n = 1 WHERE tenant = 1 AND item = ANY ('{a,e}')", NO),
        ("DELETE FROM items WHERE tenant IN (1, 2) AND item IN ('e', 'c')", NO),
        ("SELECT * FROM items WHERE (tenant, item) IN ((1, 'e'), (2, lower('C')))", "s0+s1"),
    ]);
    // Very many keys are not counted out.
    let list = |from: usize| (from..from + 120).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
    let many = format!("SELECT * FROM pairs WHERE a IN ({}) AND b IN ({})", list(0), list(0));
    assert_eq!(word(&planned(&many, Some(&[]))), "s0+s1");
}

#[test]
fn joins_tie_all_columns() {
    all(&[
        ("SELECT * FROM items JOIN lines USING (tenant, item)", "s0+s1"),
        ("SELECT * FROM items NATURAL JOIN lines", "s0+s1"),
        ("SELECT * FROM items i JOIN stock s ON (s.t, s.i) = (i.tenant, i.item)", "s0+s1"),
        ("SELECT * FROM items i LEFT JOIN stock s ON s.t = i.tenant AND s.i = i.item", "s0+s1"),
        (
            "SELECT * FROM items i, lines l, stock s WHERE i.tenant = l.tenant AND l.item = i.item AND s.t = l.tenant AND s.i = i.item",
            "s0+s1",
        ),
        ("SELECT * FROM items i JOIN lines l USING (tenant, item) WHERE i.tenant = 1 AND l.item = 'a'", "s1"),
        ("SELECT * FROM items i JOIN lines l USING (tenant, item) WHERE tenant = 1 AND item = 'a'", "s1"),
        (
            "SELECT * FROM items i JOIN lines l ON l.tenant = i.tenant AND l.item = i.item WHERE l.tenant = 1 AND l.item = 'e'",
            "s0",
        ),
        (
            "SELECT * FROM items i JOIN lines l ON l.tenant = i.tenant AND l.item = i.item WHERE i.tenant = 1 AND l.item IN ('e', 'a')",
            "s0+s1",
        ),
        ("SELECT * FROM items i JOIN countries c ON c.n = i.n WHERE i.tenant = 1 AND i.item = 'e'", "s0"),
        // By a part of the key, in another order, with a key of one column.
        ("SELECT * FROM items JOIN lines USING (tenant)", NO),
        ("SELECT * FROM items i JOIN lines l ON i.tenant = l.tenant", NO),
        ("SELECT * FROM items i LEFT JOIN lines l ON i.tenant = l.tenant WHERE i.item = l.item", NO),
        ("SELECT * FROM items i JOIN lines l ON i.tenant = l.tenant AND i.item = 'a' AND l.item = 'a'", NO),
        ("SELECT * FROM pairs x JOIN pairs y ON x.a = y.b AND x.b = y.a", NO),
        ("SELECT * FROM pairs x JOIN pairs y ON x.a = y.a AND x.a = y.b", NO),
        ("SELECT * FROM items JOIN turned USING (tenant, item)", NO),
        ("SELECT * FROM items JOIN tenants USING (tenant)", NO),
        ("SELECT * FROM items NATURAL JOIN tenants", NO),
        ("SELECT * FROM items i JOIN lines l USING (tenant) WHERE i.item = 'a' AND i.tenant = 1", NO),
        // Both on one shard, each by itself.
        (
            "SELECT * FROM items i JOIN tenants t USING (tenant) WHERE i.item = 'e' AND i.tenant = 1 AND t.tenant = 1",
            "s0",
        ),
        (
            "SELECT * FROM items i JOIN tenants t USING (tenant) WHERE i.item = 'a' AND i.tenant = 1 AND t.tenant = 1",
            NO,
        ),
    ]);
}

#[test]
fn queries_within_agree_by_all_columns() {
    all(&[
        ("SELECT EXISTS (SELECT 1 FROM items WHERE tenant = 1 AND item = 'a')", "s1"),
        (
            "SELECT * FROM items i WHERE tenant = 1 AND item = 'a' AND EXISTS (SELECT 1 FROM lines l WHERE l.tenant = i.tenant AND l.item = i.item)",
            "s1",
        ),
        (
            "SELECT * FROM items i WHERE tenant = 1 AND item = 'a' AND EXISTS (SELECT 1 FROM lines l WHERE l.tenant = 1 AND l.item = i.item)",
            "s1",
        ),
        (
            "SELECT * FROM items i WHERE tenant = 1 AND item = 'a' AND (tenant, item) IN (SELECT t, i FROM stock WHERE t = 1 AND i = 'a')",
            "s1",
        ),
        ("DELETE FROM items WHERE (tenant, item) IN (SELECT t, i FROM stock WHERE t = 1 AND i = 'e')", "s0"),
        (
            "WITH x AS (SELECT tenant, item FROM items WHERE tenant = 1 AND item = 'a') SELECT * FROM x JOIN lines USING (tenant, item)",
            "s1",
        ),
        (
            "SELECT 1 FROM items WHERE tenant = 1 AND item = 'a' UNION ALL SELECT 1 FROM lines WHERE tenant = 2 AND item = 'a'",
            "s1",
        ),
        (
            "SELECT * FROM items i, LATERAL (SELECT * FROM lines l WHERE (l.tenant, l.item) = (i.tenant, i.item) LIMIT 3) x WHERE i.tenant = 1 AND i.item = 'e'",
            "s0",
        ),
        ("SELECT EXISTS (SELECT 1 FROM items WHERE tenant = 1 AND item IN ('a', 'b'))", "s1"),
        // All that is said of a column counts, in any order, and of what it is equal to.
        ("SELECT EXISTS (SELECT 1 FROM items WHERE item = 'e' AND item IN ('a', 'e') AND tenant = 1)", "s0"),
        ("SELECT EXISTS (SELECT 1 FROM items WHERE item IN ('a', 'e') AND item = 'e' AND tenant = 1)", "s0"),
        (
            "SELECT EXISTS (SELECT 1 FROM lines l JOIN items i ON l.tenant = i.tenant AND l.item = i.item WHERE l.item IN ('a', 'e') AND i.item = 'e' AND i.tenant = 1 LIMIT 1)",
            "s0",
        ),
        ("SELECT EXISTS (SELECT 1 FROM items WHERE item = 'e' AND item = 'a' AND tenant = 1)", "s0"),
        // (2,a) and (1,b) are on s1 as well as (1,a), (2,b).
        ("SELECT EXISTS (SELECT 1 FROM items WHERE tenant IN (1, 2) AND item IN ('a', 'b'))", "s1"),
        ("SELECT EXISTS (SELECT 1 FROM items WHERE tenant = 1)", NO),
        ("SELECT EXISTS (SELECT 1 FROM items WHERE tenant = 1 AND item IN ('a', 'e'))", NO),
        (
            "SELECT 1 FROM items WHERE tenant = 1 AND item = 'a' UNION ALL SELECT 1 FROM lines WHERE tenant = 1 AND item = 'e'",
            NO,
        ),
        (
            "SELECT * FROM items i WHERE tenant = 1 AND item = 'a' AND EXISTS (SELECT 1 FROM lines l WHERE l.tenant = i.tenant)",
            NO,
        ),
        (
            "SELECT * FROM items i WHERE tenant = 1 AND item = 'a' AND EXISTS (SELECT 1 FROM turned l WHERE l.tenant = i.item::int AND l.item = i.item)",
            NO,
        ),
        ("DELETE FROM items WHERE (tenant, item) IN (SELECT i, t FROM stock WHERE t = 1 AND i = 'e')", NO),
        ("DELETE FROM items WHERE (tenant, item) IN (SELECT t, i FROM stock WHERE t = 1)", NO),
    ]);
}

#[test]
fn rows_are_written_where_all_columns_say() {
    all(&[
        ("INSERT INTO items (tenant, item, n) VALUES (1, 'a', 5)", "s1"),
        ("INSERT INTO items (n, item, tenant) VALUES (5, 'e', 1), (6, 'g', 1)", "s0"),
        ("INSERT INTO items (tenant, item) VALUES (1, 'a') ON CONFLICT (tenant, item) DO UPDATE SET n = 1", "s1"),
        (
            "INSERT INTO items (tenant, item) VALUES (1, 'a') ON CONFLICT (item, tenant) DO UPDATE SET item = excluded.item",
            "s1",
        ),
        ("INSERT INTO items (tenant, item) SELECT tenant, item FROM lines WHERE tenant = 1 AND item = 'a'", "s1"),
        ("INSERT INTO items (tenant, item) SELECT 1, i FROM stock WHERE t = 2 AND i = 'a'", "s1"),
        ("WITH i AS (INSERT INTO items (tenant, item) VALUES (1, 'a'), (1, 'b') RETURNING n) SELECT * FROM i", "s1"),
        (
            "MERGE INTO items i USING (VALUES (1, 'a')) v (t, k) ON i.tenant = v.t AND i.item = v.k WHEN MATCHED THEN UPDATE SET n = 1 WHEN NOT MATCHED THEN INSERT (tenant, item) VALUES (v.t, v.k)",
            "s1",
        ),
        ("UPDATE items SET tenant = 1, item = 'a', n = 7 WHERE tenant = 1 AND item = 'a'", "s1"),
        ("UPDATE items SET item = 'a' WHERE tenant = 1 AND item = 'a'", "s1"),
        // Every row that is listed gets what is given, beside what it keeps. (1,c) is on s1, (1,g) and (2,e) on s0.
        ("UPDATE items SET item = 'c' WHERE (tenant, item) IN ((1, 'e'), (2, 'c'))", NO),
        ("UPDATE items SET tenant = 1 WHERE (tenant, item) IN ((1, 'e'), (2, 'c'))", NO),
        ("UPDATE items SET item = 'e' WHERE (tenant, item) IN ((1, 'e'), (2, 'c'))", "s0"),
        ("UPDATE items SET tenant = 1, item = 'e' WHERE (tenant, item) IN ((1, 'e'), (2, 'c'))", "s0"),
        ("UPDATE items SET tenant = 1, item = 'a' WHERE (tenant, item) IN ((1, 'e'), (2, 'c'))", NO),
        ("UPDATE items SET item = 'c' WHERE (tenant, item) IN ((1, 'e'), (2, 'c')) AND tenant = 2", "s0"),
        ("UPDATE items SET item = 'b' WHERE tenant = 1 AND item IN ('a', 'b')", "s1"),
        (
            "UPDATE items i SET n = s.n FROM stock s WHERE (s.t, s.i) = (i.tenant, i.item) AND i.tenant = 1 AND s.i = 'a'",
            "s1",
        ),
        (
            "DELETE FROM items i USING stock s WHERE s.t = i.tenant AND s.i = i.item AND i.tenant = 1 AND i.item = 'e'",
            "s0",
        ),
        // Without a column, with NULL, on several shards.
        ("INSERT INTO items (tenant, n) VALUES (1, 5)", NO),
        ("INSERT INTO items (tenant, item) VALUES (1, NULL)", NO),
        ("INSERT INTO items (tenant, item) VALUES (1, DEFAULT)", NO),
        ("INSERT INTO items (tenant, item) VALUES (1, lower('A'))", NO),
        ("INSERT INTO items (tenant, item) VALUES (1, 'a')  , (1, 'e')", NO),
        ("INSERT INTO items VALUES (1, 'a')", NO),
        ("INSERT INTO items DEFAULT VALUES", NO),
        ("INSERT INTO items (tenant, item) VALUES (1, 'a ')", NO),
        ("INSERT INTO items (tenant, item) VALUES (1, 'a') ON CONFLICT (item) DO NOTHING", NO),
        ("INSERT INTO items (tenant, item) VALUES (1, 'a') ON CONFLICT (tenant, item) DO UPDATE SET item = 'b'", NO),
        ("INSERT INTO items (tenant, item) SELECT tenant, 'e' FROM lines WHERE tenant = 1 AND item = 'a'", NO),
        ("INSERT INTO items (tenant, item) SELECT tenant, item FROM lines WHERE tenant = 1", NO),
        (
            "INSERT INTO items (tenant, item) SELECT l.tenant, s.i FROM lines l LEFT JOIN stock s ON (s.t, s.i) = (l.tenant, l.item) WHERE l.tenant = 1 AND l.item = 'a'",
            NO,
        ),
        ("WITH i AS (INSERT INTO items (tenant, item) VALUES (1, 'a'), (1, 'e') RETURNING n) SELECT * FROM i", NO),
        ("UPDATE items SET item = 'b' WHERE tenant = 1 AND item = 'a'", NO),
        ("UPDATE items SET item = 'e' WHERE tenant = 1 AND item = 'a'", NO),
        ("UPDATE items SET tenant = 2 WHERE tenant = 1", NO),
        ("UPDATE items SET item = 'e' WHERE tenant = 1 AND item IN ('a', 'b')", NO),
        ("UPDATE items SET item = lower(item) WHERE tenant = 1 AND item = 'a'", NO),
        (
            "UPDATE items i SET item = s.i FROM stock s WHERE (s.t, s.i) = (i.tenant, i.item) AND i.tenant = 1 AND s.i = 'a'",
            NO,
        ),
        (
            "MERGE INTO items i USING (VALUES (1, 'a')) v (t, k) ON i.tenant = v.t AND i.item = v.k WHEN NOT MATCHED THEN INSERT (tenant, item) VALUES (v.t, 'e')",
            NO,
        ),
    ]);
    let message = message(planned("INSERT INTO items (tenant, n) VALUES (1, 5)", Some(&[])));
    assert!(message.contains("does not give its sharding key \"item\""), "{message}");
}

#[test]
fn an_insert_is_split_by_whole_keys() {
    let mut map = several();
    map.writes.cross = crate::shard::map::CrossShardWrites::BestEffort;
    let word_of = |sql: &str| {
        let cx = PlanContext { text: Some(sql), ..context(&map) };
        word(&plan_query(&facts(sql.as_bytes()), &cx))
    };
    for (sql, wanted) in [
        ("INSERT INTO items (tenant, item) VALUES (1, 'a'), (1, 'e')", "s0&s1"),
        ("INSERT INTO items (tenant, item) VALUES (1, 'a'), (1, 'e') ON CONFLICT (item, tenant) DO NOTHING", "s0&s1"),
        ("INSERT INTO items (tenant, item) VALUES (1, 'a'), (1, 'e') ON CONFLICT (tenant) DO NOTHING", NO),
        ("COPY items FROM STDIN", "s0&s1"),
        ("ALTER TABLE items DROP COLUMN item", NO),
        ("ALTER TABLE items DROP COLUMN tenant", NO),
        ("ALTER TABLE items RENAME COLUMN item TO x", NO),
        ("ALTER TABLE items RENAME COLUMN tenant TO x", NO),
        ("ALTER TABLE items RENAME COLUMN n TO x", "s0&s1"),
        ("ALTER TABLE items ALTER COLUMN item TYPE bytea USING item::bytea", NO),
        ("ALTER TABLE items ALTER COLUMN tenant TYPE int4", "s0&s1"),
        ("ALTER TABLE items ADD COLUMN x int", "s0&s1"),
    ] {
        assert_eq!(word_of(sql), wanted, "{sql}");
    }
}

#[test]
fn groups_lie_on_one_shard_only_by_all_columns() {
    let by_key = |sql: &str| match planned(sql, Some(&[])) {
        ShardPlan::Scatter(scatter) => Some(scatter.select.grouped_by_key),
        _ => None,
    };
    assert_eq!(by_key("SELECT tenant, item, avg(n) FROM items GROUP BY tenant, item"), Some(true));
    assert_eq!(by_key("SELECT item, tenant, n, array_agg(v) FROM items GROUP BY 1, 2, 3"), Some(true));
    assert_eq!(
        by_key(
            "SELECT i.tenant, i.item, count(DISTINCT s.n) FROM items i JOIN stock s ON (s.t, s.i) = (i.tenant, i.item) GROUP BY i.tenant, i.item"
        ),
        Some(true)
    );
    assert_eq!(by_key("SELECT tenant, count(*) FROM items GROUP BY tenant"), Some(false));
    assert_eq!(by_key("SELECT item, sum(n) FROM items GROUP BY item"), Some(false));
    for sql in [
        "SELECT tenant, count(DISTINCT v) FROM items GROUP BY tenant",
        "SELECT tenant, count(DISTINCT item) FROM items GROUP BY tenant",
        "SELECT count(DISTINCT tenant) FROM items",
        "SELECT count(DISTINCT item) FROM items",
        "SELECT row_number() OVER (PARTITION BY tenant ORDER BY n) FROM items",
        "SELECT row_number() OVER (PARTITION BY item ORDER BY n) FROM items",
        "SELECT s.t, s.i, count(DISTINCT i.n) FROM items i LEFT JOIN stock s ON (s.t, s.i) = (i.tenant, i.item) GROUP BY s.t, s.i",
    ] {
        assert_eq!(word(&planned(sql, Some(&[]))), NO, "{sql}");
    }
    let sql = "SELECT row_number() OVER (PARTITION BY item, n, tenant ORDER BY n) FROM items";
    assert_eq!(word(&planned(sql, Some(&[]))), "s0+s1");
}

#[test]
fn parameters_of_several_columns() {
    let sql = "SELECT * FROM items WHERE tenant = $1 AND item = $2";
    assert!(matches!(planned(sql, None), ShardPlan::NeedsParameter { .. }));
    assert_eq!(word(&planned(sql, Some(&[Some(b"1"), Some(b"a")]))), "s1");
    assert_eq!(word(&planned(sql, Some(&[Some(b"1"), Some(b"e")]))), "s0");
    assert_eq!(word(&planned(sql, Some(&[Some(b"x"), Some(b"e")]))), "22P02");
    assert_eq!(planned(sql, Some(&[None, Some(b"e")])), ShardPlan::Single { shard: ShardIndex(0), why: Why::NoRow });
    assert_eq!(planned(sql, Some(&[Some(b"1"), None])), ShardPlan::Single { shard: ShardIndex(0), why: Why::NoRow });
    let rows = "DELETE FROM items WHERE (tenant, item) IN (($1, $2), ($1, $3))";
    assert!(matches!(planned(rows, None), ShardPlan::NeedsParameter { .. }));
    assert_eq!(word(&planned(rows, Some(&[Some(b"1"), Some(b"a"), Some(b"b")]))), "s1");
    assert_eq!(word(&planned(rows, Some(&[Some(b"1"), Some(b"a"), Some(b"e")]))), NO);
    // One parameter for columns of two types has one type, which is not known here.
    let both = "SELECT * FROM items WHERE tenant = $1 AND item = $1";
    assert_eq!(word(&planned(both, Some(&[Some(b"1")]))), NO);
    let twice = "SELECT * FROM pairs WHERE a = $1 AND b = $1";
    assert_eq!(word(&planned(twice, Some(&[Some(b"1")]))), "s1");
    let insert = "INSERT INTO items (tenant, item) VALUES ($1, $2), ($1, $3)";
    assert_eq!(word(&planned(insert, Some(&[Some(b"1"), Some(b"a"), Some(b"b")]))), "s1");
    assert_eq!(word(&planned(insert, Some(&[Some(b"1"), Some(b"a"), None]))), NO);
    let nested = "SELECT EXISTS (SELECT 1 FROM items WHERE tenant = $1 AND item = ANY ($2))";
    assert_eq!(word(&planned(nested, Some(&[Some(b"1"), Some(b"{a,b}")]))), "s1");
    assert_eq!(word(&planned(nested, Some(&[Some(b"1"), Some(b"{a,e}")]))), NO);
}

#[test]
fn a_key_is_chosen_as_a_row() {
    let chosen = |key: &'static str, sql: &str| {
        let map = several();
        let cx = PlanContext { text: Some(sql), sharding_key: Some(key), ..context(&map) };
        word(&plan_query(&facts(sql.as_bytes()), &cx))
    };
    assert_eq!(chosen("(1,a)", "SELECT * FROM items"), "s1");
    assert_eq!(chosen("(1,\"e\")", "SELECT tenant FROM items WHERE tenant = 1"), "s0");
    assert_eq!(chosen("(1,a)", "SELECT * FROM items WHERE tenant = 1 AND item = 'a'"), "s1");
    assert_eq!(chosen("(1,a)", "SELECT * FROM items WHERE tenant = 1 AND item = 'b'"), NO);
    assert_eq!(chosen("(1,a)", "SELECT * FROM items WHERE tenant = 1 AND item IN ('a', 'e')"), NO);
    assert_eq!(chosen("(1,a)", "INSERT INTO items (tenant, item) VALUES (1, 'e')"), NO);
    assert_eq!(chosen("(1,a)", "UPDATE items SET item = 'e' WHERE n = 5"), NO);
    assert_eq!(chosen("(1,a)", "UPDATE items SET tenant = 1, item = 'a', n = 7 WHERE tenant = 1 AND item = 'a'"), "s1");
    assert_eq!(chosen("(1,a)", "UPDATE items SET tenant = 1, item = 'a' WHERE n = 5"), "s1");
    assert_eq!(chosen("(1,a)", "UPDATE items SET tenant = 1, item = 'b' WHERE n = 5"), NO);
    assert_eq!(chosen("(1,a)", "UPDATE items SET n = 1"), "s1");
    // What is said of one column contradicts it as well.
    for (sql, wanted) in [
        ("UPDATE items SET n = 1 WHERE tenant = 1", "s1"),
        ("UPDATE items SET n = 1 WHERE tenant = 2", NO),
        ("UPDATE items SET n = 1 WHERE item = 'b'", NO),
        ("SELECT * FROM items WHERE tenant = 2", NO),
        ("SELECT * FROM items WHERE tenant IN (1, 2)", "s1"),
        ("SELECT * FROM items WHERE tenant IN (2, 3)", NO),
        ("SELECT * FROM items WHERE (tenant, n) IN ((2, 5), (3, 5))", NO),
        ("SELECT * FROM items i JOIN lines l USING (tenant, item) WHERE l.tenant = 2", NO),
        ("SELECT EXISTS (SELECT FROM items WHERE tenant = 2)", NO),
        ("DELETE FROM items WHERE tenant = 2 AND n > 4", NO),
        ("SELECT * FROM items WHERE tenant > 1", "s1"),
    ] {
        assert_eq!(chosen("(1,a)", sql), wanted, "{sql}");
    }
    // A shard has keys of all tenants.
    let by_name = planned_as("UPDATE items SET n = 1 WHERE tenant = 2", Some(&[]), |cx| cx.shard = Some("s1"));
    assert_eq!(word(&by_name), "s1");
    for bad in ["1", "(1)", "(1,a,b)", "(1,)", "(,a)", "(x,a)"] {
        assert_ne!(chosen(bad, "SELECT * FROM items"), "s1", "{bad}");
        assert!(matches!(chosen(bad, "SELECT * FROM items").as_str(), NO | "22P02"), "{bad}");
    }
    for hint in [
        "/* pgweir: sharding_key='(1,a)' */ SELECT * FROM items",
        "SELECT 1 FROM items /* pgweir: sharding_key=(1,a) */",
    ] {
        assert_eq!(word(&planned(hint, Some(&[]))), "s1");
    }
    assert_eq!(word(&planned("/* pgweir: sharding_key=(1,'a') */ SELECT * FROM items", Some(&[]))), NO);
    let named =
        planned_as("UPDATE items SET n = 1 WHERE tenant = 1 AND item = 'a'", Some(&[]), |cx| cx.shard = Some("s0"));
    assert_eq!(word(&named), NO);
}

#[test]
fn a_chosen_shard_is_held_against_the_rows_that_are_listed() {
    let chosen = |shard: &'static str, sql: &str| word(&planned_as(sql, Some(&[]), |cx| cx.shard = Some(shard)));
    let listed = "SELECT * FROM items WHERE (tenant, item) IN ((1, 'e'), (2, 'c'))";
    assert_eq!((chosen("s0", listed), chosen("s1", listed)), ("s0".to_owned(), NO.to_owned()));
    assert_eq!(chosen("s0", "SELECT * FROM items WHERE (tenant, item) IN ((1, 'e'), (1, 'a'))"), NO);
    assert_eq!(chosen("s1", "UPDATE items SET item = 'b', n = 1 WHERE tenant = 1 AND item IN ('a', 'b')"), "s1");
    assert_eq!(chosen("s1", "UPDATE items SET item = 'e' WHERE tenant = 1 AND item IN ('a', 'b')"), NO);
    // What is said of another table says nothing of what the rows keep.
    assert_eq!(chosen("s1", "UPDATE items SET item = 'b' FROM stock WHERE t = 1 AND i = 'a'"), NO);
    // Very many, of one column: all of one shard.
    let shards = map();
    let of_s0 = (0_i64..).filter(|n| shards.owner(slot_of_columns([Key::Integer(*n).hash()])) == ShardIndex(0));
    let many = of_s0.take(10_100).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
    assert_eq!(chosen("s0", &format!("DELETE FROM tenants WHERE tenant IN ({many})")), "s0");
    assert_eq!(chosen("s1", &format!("DELETE FROM tenants WHERE tenant IN ({many})")), NO);
    assert_eq!(
        word(&planned(&format!("SELECT EXISTS (SELECT 1 FROM tenants WHERE tenant IN ({many}))"), Some(&[]))),
        "s0"
    );
}

#[test]
fn very_many_rows_are_looked_at_once() {
    let rows = (0..9_000).map(|n| format!("({n}, 'x{n}')")).collect::<Vec<_>>().join(", ");
    let from = crate::clock::now();
    assert_eq!(word(&planned(&format!("DELETE FROM items WHERE (tenant, item) IN ({rows})"), Some(&[]))), NO);
    assert!(from.elapsed().as_secs() < 20, "{:?}", from.elapsed());
}

proptest! {
    /// What finds a row is what placed it.
    #[test]
    fn rows_are_found_where_they_are_put(tenant: i64, item in "[a-zż ]{0,12}[a-z]") {
        let insert = planned("INSERT INTO items (item, tenant) VALUES ($1, $2)", Some(&[Some(item.as_bytes()), Some(tenant.to_string().as_bytes())]));
        let expected = slot_of_columns([Key::Integer(tenant).hash(), Key::Text(item.as_bytes()).hash()]);
        prop_assert_eq!(&insert, &ShardPlan::Single { shard: map().owner(expected), why: Why::Key(expected) });
        let found = planned(&format!("SELECT 1 FROM items WHERE (item, tenant) = ('{item}', {tenant})"), Some(&[]));
        prop_assert_eq!(found, insert);
    }
}

#[test]
fn returning_shows_what_the_update_has_written() {
    let insert = |update: &str, item: &str| {
        format!("WITH u AS ({update}) INSERT INTO lines (tenant, item) SELECT tenant, {item} FROM u")
    };
    let moves = "UPDATE items SET tenant = 2 WHERE tenant = 1 AND item = 'a'";
    for (sql, wanted) in [
        // (1,a), (1,b), (2,a) are on s1, (2,c) is not.
        (insert(&format!("{moves} RETURNING tenant"), "'c'"), NO),
        (insert(&format!("{moves} RETURNING *"), "'c'"), NO),
        (insert(&format!("{moves} RETURNING items.*"), "'c'"), NO),
        (insert(&format!("{moves} RETURNING (SELECT items.tenant) AS tenant"), "'c'"), NO),
        (insert(&format!("{moves} RETURNING (SELECT (SELECT items.tenant)) AS tenant"), "'c'"), NO),
        (format!("{moves} RETURNING (SELECT count(*) FROM lines l WHERE l.tenant = items.tenant AND l.item = 'c')"), NO),
        // What it leaves as it was.
        (insert("UPDATE items SET n = 2 WHERE tenant = 1 AND item = 'a' RETURNING tenant", "'b'"), "s1"),
        (insert("UPDATE items SET n = 2 WHERE tenant = 1 AND item = 'a' RETURNING *", "item"), "s1"),
        ("WITH u AS (UPDATE items SET tenant = 2 WHERE tenant = 1 AND item = 'a' RETURNING item) INSERT INTO lines (tenant, item) SELECT 1, item FROM u".to_owned(), "s1"),
        // A condition speaks of the row as it was.
        ("UPDATE items SET tenant = 2 FROM lines l WHERE items.tenant = 1 AND items.item = 'a' AND l.tenant = items.tenant AND l.item = 'b'".to_owned(), "s1"),
        ("UPDATE items SET tenant = 2 WHERE tenant = 1 AND item = 'a' AND EXISTS (SELECT FROM lines l WHERE l.tenant = items.tenant AND l.item = items.item)".to_owned(), "s1"),
    ] {
        assert_eq!(word(&planned(&sql, Some(&[]))), wanted, "{sql}");
    }
}

#[test]
fn what_is_inserted_may_become_known_by_later_conditions() {
    all(&[
        // (1,2) and (1,1) are on s1, (1,3) is on s0.
        (
            "INSERT INTO pairs (a, b) SELECT x.a, y.b FROM pairs x JOIN pairs y ON x.a = y.a AND x.b = y.b WHERE x.a = 1 AND y.b IN (2, 3) AND x.b = 2",
            "s1",
        ),
        (
            "INSERT INTO pairs (a, b) SELECT x.a, y.b FROM pairs x JOIN pairs y ON x.a = y.a AND x.b = y.b WHERE x.a = 1 AND y.b IN (2, 3)",
            NO,
        ),
    ]);
    let differ =
        message(planned("INSERT INTO pairs (a, b) SELECT a, b FROM pairs WHERE a = 1 AND b IN (2, 3)", Some(&[])));
    assert!(differ.contains("rows"), "{differ}");
}

//! What looks like a proof and is none: texts that are read and planned as a client's are.

use super::*;
use crate::sql::parse::facts;

/// The plan of a text in one word, where `change` makes the context.
fn planned(sql: &str, change: impl for<'a> FnOnce(&mut PlanContext<'a>)) -> String {
    let map = map();
    let mut cx = PlanContext { text: Some(sql), ..context(&map) };
    change(&mut cx);
    word(&plan_query(&facts(sql.as_bytes()), &cx))
}

/// The same with one parameter, declared to be of a type.
fn bound(sql: &str, value: Option<&[u8]>, oid: u32) -> String {
    let map = map();
    let (values, types) = ([value], [oid]);
    let params = BoundParams { values: &values, formats: &[], types: &types };
    let cx = PlanContext { text: Some(sql), bound: Some(params), ..context(&map) };
    word(&plan_query(&facts(sql.as_bytes()), &cx))
}

#[test]
fn numbers_of_own_types_are_the_default_shards() {
    for (sql, own, plain) in [
        ("SELECT $1 FROM orders WHERE customer_id = 1", "s0", "s0"),
        ("SELECT $1 FROM orders WHERE customer_id = 2", NO, "s1"),
        ("INSERT INTO orders (customer_id, v) VALUES (2, $1)", NO, "s1"),
        ("UPDATE orders SET v = $1 WHERE customer_id = 2", NO, "s1"),
        ("/* pgweir: shard=s1 */ SELECT $1", NO, "s1"),
        ("SELECT $1", "s0", "any"),
        ("SELECT name FROM countries WHERE m = $1", "s0", "any"),
        ("COMMIT", "any", "any"),
    ] {
        assert_eq!(bound(sql, Some(b"a"), 16390), own, "{sql}");
        assert_eq!(bound(sql, Some(b"a"), 25), plain, "{sql}");
    }
}

#[test]
fn servers_that_differ_are_not_asked_for_each_other() {
    let place = |name: &str| ("public".to_owned(), name.to_owned());
    let settings = Distrust { keys: Some("timezone".to_owned()), ..Distrust::default() };
    let columns = Distrust { tables: [(place("countries"), "columns".to_owned())].into(), ..Distrust::default() };
    for (sql, by_settings, by_columns) in [
        ("SELECT * FROM orders WHERE customer_id = 2", NO, "s1"),
        ("SELECT * FROM orders o JOIN countries c ON o.v = c.v WHERE o.customer_id = 2", NO, NO),
        ("SELECT * FROM countries", "s0", NO),
        ("SELECT now()::text", "s0", "any"),
        ("SELECT * FROM anything", "s0", "s0"),
        ("SHOW timezone", "any", "any"),
    ] {
        let map = map();
        for (distrust, expected) in [(&settings, by_settings), (&columns, by_columns)] {
            let cx = PlanContext { text: Some(sql), distrust, ..context(&map) };
            assert_eq!(word(&plan_query(&facts(sql.as_bytes()), &cx)), expected, "{sql}");
        }
    }
}

#[test]
fn a_key_that_is_no_proof_is_refused_with_what_to_do() {
    for (sql, hint) in [
        (
            "SELECT * FROM (SELECT customer_id, count(*) FROM orders GROUP BY customer_id) s WHERE s.customer_id = 1",
            "inside the sub-query",
        ),
        ("SELECT v FROM orders WHERE customer_id = (SELECT max(id) FROM countries)", "as a parameter"),
    ] {
        let map = map();
        let cx = PlanContext { text: Some(sql), ..context(&map) };
        let ShardPlan::Reject(error) = plan_query(&facts(sql.as_bytes()), &cx) else { panic!("{sql}") };
        assert_eq!(error.sqlstate, SqlState::FEATURE_NOT_SUPPORTED, "{sql}");
        assert!(error.hint.as_deref().is_some_and(|told| told.contains(hint)), "{sql}: {error:?}");
    }
}

#[test]
fn what_is_written_on_several_shards_is_done_alike() {
    let place = |name: &str| ("public".to_owned(), name.to_owned());
    let mut map = map();
    map.writes = crate::shard::map::Writes { cross: crate::shard::map::CrossShardWrites::BestEffort, unkeyed: true };
    let versions = Distrust { scatter: Some("version".to_owned()), ..Distrust::default() };
    let make = Distrust { scatter_of: [(place("countries"), "collate".to_owned())].into(), ..Distrust::default() };
    let trust = Distrust::default();
    for (sql, by_versions, by_make) in [
        ("UPDATE countries SET n = 1 WHERE name < 'x'", NO, NO),
        ("INSERT INTO countries (n) VALUES (1)", NO, NO),
        ("DELETE FROM orders WHERE v < 'x'", NO, "s0&s1"),
        ("UPDATE orders SET v = c.name FROM countries c WHERE c.n = orders.n", NO, NO),
        ("INSERT INTO orders (customer_id) VALUES (1), (2)", "s0&s1", "s0&s1"),
        ("COPY countries FROM STDIN", NO, NO),
        ("COPY orders FROM STDIN", "s0&s1", "s0&s1"),
        ("COPY orders FROM STDIN WHERE v < 'x'", NO, "s0&s1"),
        ("ALTER TABLE countries ADD COLUMN x text DEFAULT upper('x')", NO, NO),
        ("ALTER TABLE countries ADD COLUMN x text DEFAULT 'x'", "s0&s1", "s0&s1"),
        ("TRUNCATE countries", "s0&s1", "s0&s1"),
        ("UPDATE orders SET v = 1 WHERE customer_id = 2 AND v < 'x'", "s1", "s1"),
    ] {
        let planned = |distrust| {
            let cx = PlanContext { text: Some(sql), distrust, ..context(&map) };
            word(&plan_query(&facts(sql.as_bytes()), &cx))
        };
        let expected = if by_versions == "s1" { "s1" } else { "s0&s1" };
        assert_eq!(planned(&trust), expected, "{sql}");
        assert_eq!(planned(&versions), by_versions, "{sql}");
        assert_eq!(planned(&make), by_make, "{sql}");
    }
}

#[test]
fn what_foreign_keys_follow_is_refused() {
    let place = |name: &str| ("public".to_owned(), name.to_owned());
    let distrust = Distrust {
        updates: [(place("customers"), [("ext".to_owned(), "cascade".to_owned())].into())].into(),
        deletes: [(place("plain"), "default".to_owned())].into(),
        ..Distrust::default()
    };
    for (sql, expected) in [
        ("UPDATE customers SET ext = 5 WHERE id = 2", NO),
        ("UPDATE customers SET n = 5 WHERE id = 2", "s1"),
        ("UPDATE customers SET (n, ext) = (1, 2) WHERE id = 2", NO),
        ("DELETE FROM customers WHERE id = 2", "s1"),
        ("INSERT INTO customers (id, ext) VALUES (2, 1)", "s1"),
        ("INSERT INTO customers (id, ext) VALUES (2, 1) ON CONFLICT (id) DO UPDATE SET ext = 3", NO),
        ("INSERT INTO customers (id, ext) VALUES (2, 1) ON CONFLICT (id) DO UPDATE SET n = 3", "s1"),
        ("WITH a AS (UPDATE customers SET ext = 5 WHERE id = 2 RETURNING id) SELECT id FROM a", NO),
        ("SELECT ext FROM customers WHERE id = 2", "s1"),
        ("DELETE FROM plain", NO),
        ("UPDATE plain SET a = 1", "s0"),
        ("SELECT * FROM plain", "s0"),
    ] {
        let map = map();
        let cx = PlanContext { text: Some(sql), distrust: &distrust, ..context(&map) };
        assert_eq!(word(&plan_query(&facts(sql.as_bytes()), &cx)), expected, "{sql}");
    }
}

#[test]
fn a_merged_column_is_no_key() {
    for (sql, expected) in [
        (
            "SELECT * FROM (VALUES (2::float8)) v (customer_id) JOIN orders USING (customer_id) WHERE customer_id = 2",
            NO,
        ),
        ("SELECT * FROM orders NATURAL JOIN (VALUES (2)) v (customer_id) WHERE customer_id = 2", NO),
        (
            "SELECT * FROM orders JOIN generate_series(1, 2) AS customer_id USING (customer_id) WHERE orders.customer_id = 2",
            "s1",
        ),
        ("SELECT * FROM orders, (VALUES (2)) v (x) WHERE customer_id = 2", "s1"),
        ("INSERT INTO codes (code) VALUES ('abcdefgh'::\"VARCHAR\")", NO),
        ("INSERT INTO codes (code) VALUES ('abcdefgh'::varchar)", "s1"),
        ("SELECT * FROM orders WHERE customer_id = '2'::\"bigint\"", "s0+s1"),
    ] {
        assert_eq!(planned(sql, |_| ()), expected, "{sql}");
    }
}

#[test]
fn null_may_be_taken_for_is_null() {
    for (sql, expected) in [
        ("SELECT * FROM orders WHERE customer_id = NULL", "s0+s1"),
        ("DELETE FROM orders WHERE customer_id = NULL", NO),
        ("SELECT o.v FROM orders o JOIN customers c ON o.customer_id = c.id WHERE o.customer_id = NULL", "s0+s1"),
        ("SELECT * FROM orders WHERE customer_id IN (NULL, 2)", "s1"),
    ] {
        assert_eq!(planned(sql, |_| ()), expected, "{sql}");
    }
}

/// The same on a chosen shard.
fn chosen(sql: &str, shard: &'static str) -> String {
    planned(sql, |cx| cx.shard = Some(shard))
}

#[test]
fn on_a_chosen_shard_no_rows_come_in_unread() {
    for (sql, expected) in [
        ("UPDATE orders SET customer_id = 2 WHERE CURRENT OF c", NO),
        ("DELETE FROM orders WHERE CURRENT OF c", "s0"),
        ("CREATE TABLE x AS WITH i AS (INSERT INTO orders (customer_id) VALUES (2) RETURNING *) SELECT * FROM i", NO),
        ("WITH i AS (INSERT INTO orders (customer_id) VALUES (2) RETURNING *) SELECT * INTO x FROM i", NO),
        ("MERGE INTO orders USING anything a ON true WHEN NOT MATCHED THEN INSERT (customer_id) VALUES (2)", NO),
        ("COPY orders FROM STDIN", NO),
        ("COPY orders TO STDOUT", "s0"),
        ("CREATE TABLE x AS SELECT * FROM orders", "s0"),
        ("SELECT * INTO x FROM orders", "s0"),
        ("ALTER TABLE orders ADD COLUMN x int4", "s0"),
        ("TRUNCATE orders CASCADE", "s0"),
    ] {
        assert_eq!(chosen(sql, "s0"), expected, "{sql}");
    }
}

#[test]
fn all_keys_are_held_against_a_chosen_shard() {
    // 1 and 42 are on s0, 2 and -1 on s1.
    for (sql, on_s0, on_s1) in [
        ("SELECT * FROM orders WHERE customer_id IN (1, 42)", "s0", NO),
        ("SELECT * FROM orders WHERE customer_id IN (1, 2)", NO, NO),
        ("DELETE FROM orders WHERE customer_id IN (2, -1)", NO, "s1"),
        ("SELECT * FROM orders JOIN countries USING (customer_id) WHERE customer_id = 2", NO, "s1"),
        ("SELECT * FROM orders o NATURAL JOIN countries WHERE customer_id IN (2, -1)", NO, "s1"),
        ("SELECT * FROM orders WHERE v IN (1, 2)", "s0", "s1"),
    ] {
        assert_eq!(chosen(sql, "s0"), on_s0, "{sql}");
        assert_eq!(chosen(sql, "s1"), on_s1, "{sql}");
    }
}

#[test]
fn effects_of_one_place_do_not_follow_a_key() {
    for (sql, key_on_s0, key_on_s1) in [
        ("SELECT pg_try_advisory_lock(7) FROM orders WHERE customer_id = K", "s0", NO),
        ("SELECT pg_advisory_xact_lock(7) FROM orders WHERE customer_id = K", "s0", NO),
        ("UPDATE orders SET v = nextval('s') WHERE customer_id = K", "s0", NO),
        ("INSERT INTO orders (customer_id, v) VALUES (K, nextval('s'))", "s0", NO),
        ("DELETE FROM orders WHERE customer_id = K RETURNING pg_catalog.pg_notify('c', v)", "s0", NO),
        ("SELECT currval('s') FROM orders WHERE customer_id = K", "s0", "s1"),
    ] {
        assert_eq!(planned(&sql.replace('K', "1"), |_| ()), key_on_s0, "{sql}");
        assert_eq!(planned(&sql.replace('K', "2"), |_| ()), key_on_s1, "{sql}");
        assert_eq!(chosen(&sql.replace('K', "2"), "s1"), "s1", "{sql}");
    }
}

#[test]
fn conflicts_are_found_by_the_key() {
    let place = ("public".to_owned(), "customers".to_owned());
    let distrust = Distrust { loose: [place].into(), ..Distrust::default() };
    for (conflict, strict, loose) in [
        ("", "s1", "s1"),
        ("ON CONFLICT (id) DO NOTHING", "s1", "s1"),
        ("ON CONFLICT (email, id) DO UPDATE SET v = 1", "s1", "s1"),
        ("ON CONFLICT (email) DO UPDATE SET v = 1", NO, NO),
        ("ON CONFLICT (lower(email)) DO NOTHING", NO, NO),
        ("ON CONFLICT DO NOTHING", "s1", NO),
        ("ON CONFLICT ON CONSTRAINT customers_pkey DO NOTHING", "s1", NO),
    ] {
        let sql = format!("INSERT INTO customers (id, email) VALUES (2, 'x') {conflict}");
        assert_eq!(planned(&sql, |_| ()), strict, "{sql}");
        let map = map();
        let cx = PlanContext { text: Some(&sql), distrust: &distrust, ..context(&map) };
        assert_eq!(word(&plan_query(&facts(sql.as_bytes()), &cx)), loose, "{sql}");
    }
}

#[test]
fn what_reaches_further_than_its_names_is_refused() {
    for (sql, expected) in [
        ("TRUNCATE anything CASCADE", NO),
        ("TRUNCATE anything", "s0"),
        ("ALTER TABLE anything ADD COLUMN x int8 REFERENCES orders (customer_id)", NO),
        ("ALTER TABLE anything ADD CONSTRAINT x FOREIGN KEY (x) REFERENCES public.orders (customer_id)", NO),
        ("ALTER TABLE anything ATTACH PARTITION orders DEFAULT", NO),
        ("ALTER TABLE anything INHERIT orders", NO),
        ("ALTER TABLE anything ADD COLUMN x int8 REFERENCES anything (id)", "s0"),
        ("CREATE SEQUENCE s OWNED BY orders.v", NO),
        ("ALTER SEQUENCE s OWNED BY public.orders.v", NO),
        ("ALTER SEQUENCE s OWNED BY NONE", "s0"),
        // Locks.
        ("SELECT * FROM orders o JOIN countries c ON o.v = c.v WHERE o.customer_id = 2 FOR UPDATE", NO),
        ("SELECT * FROM orders o JOIN countries c ON o.v = c.v WHERE o.customer_id = 2 FOR SHARE OF c", NO),
        ("SELECT * FROM orders o JOIN countries c ON o.v = c.v WHERE o.customer_id = 2 FOR UPDATE OF o", "s1"),
        ("SELECT * FROM anything a, countries FOR UPDATE OF countries", NO),
        ("SELECT * FROM anything a, countries FOR UPDATE OF a", "s0"),
        // What is another on every shard.
        ("SELECT pg_relation_size('orders')", NO),
        ("SELECT pg_total_relation_size('public.orders'::regclass)", NO),
        ("SELECT pg_relation_size('anything')", "s0"),
        ("SELECT to_regclass('orders')::oid", "s0"),
        ("SELECT 'orders'::regclass::oid", "s0"),
        ("SELECT 1", "any"),
    ] {
        assert_eq!(planned(sql, |_| ()), expected, "{sql}");
    }
}

#[test]
fn sub_selects_are_held_against_a_chosen_shard() {
    for (sql, on_s0, on_s1) in [
        ("SELECT * FROM (SELECT * FROM orders WHERE customer_id = 2) x", NO, "s1"),
        ("SELECT EXISTS (SELECT FROM orders o WHERE o.customer_id IN (2, -1))", NO, "s1"),
        ("WITH c AS (SELECT * FROM orders WHERE customer_id = 1) SELECT * FROM c", "s0", NO),
        ("SELECT 1 FROM orders WHERE customer_id = 1 UNION SELECT 2 FROM orders WHERE customer_id = 42", "s0", NO),
        ("SELECT * FROM (SELECT * FROM orders) x", "s0", "s1"),
    ] {
        assert_eq!(chosen(sql, "s0"), on_s0, "{sql}");
        assert_eq!(chosen(sql, "s1"), on_s1, "{sql}");
    }
}

#[test]
fn a_key_may_be_given_to_its_own_row() {
    for (sql, expected) in [
        ("UPDATE orders SET customer_id = 2, v = 1 WHERE customer_id = 2", "s1"),
        ("UPDATE orders AS o SET customer_id = '2' WHERE o.customer_id = 2", "s1"),
        ("UPDATE orders SET customer_id = 1 WHERE customer_id = 2", NO),
        ("UPDATE orders SET customer_id = 2", NO),
        ("UPDATE orders SET customer_id = customer_id + 1 WHERE customer_id = 2", NO),
        ("UPDATE orders SET (customer_id, v) = (2, 1) WHERE customer_id = 2", NO),
        ("UPDATE orders SET customer_id = NULL WHERE customer_id = 2", NO),
        ("UPDATE orders SET customer_id = DEFAULT WHERE customer_id = 2", NO),
        ("UPDATE codes SET code = 'abcdefgh' WHERE code = 'abcdefgh'", "s1"),
        ("UPDATE codes SET code = 'abcdefgh ' WHERE code = 'abcdefgh '", NO),
        (
            "INSERT INTO orders (customer_id, v) VALUES (2, 1) ON CONFLICT (customer_id) DO UPDATE SET customer_id = EXCLUDED.customer_id, v = EXCLUDED.v",
            "s1",
        ),
        (
            "INSERT INTO orders (customer_id, v) VALUES (2, 1) ON CONFLICT (customer_id) DO UPDATE SET customer_id = EXCLUDED.v",
            NO,
        ),
        (
            "INSERT INTO orders (customer_id, v) VALUES (2, 1) ON CONFLICT (customer_id) DO UPDATE SET customer_id = 2",
            NO,
        ),
    ] {
        assert_eq!(planned(sql, |_| ()), expected, "{sql}");
    }
    assert_eq!(chosen("UPDATE orders SET customer_id = 2 WHERE v = 1", "s1"), "s1");
    assert_eq!(chosen("UPDATE orders SET customer_id = 2 WHERE v = 1", "s0"), NO);
    let same = "UPDATE orders SET customer_id = $1 WHERE customer_id = $1";
    assert_eq!(bound(same, Some(b"2"), 20), "s1");
    assert_eq!(planned(same, |_| ()), "$1");
}

#[test]
fn lists_of_keys_on_one_shard_are_written_there() {
    for (sql, expected) in [
        ("UPDATE orders SET v = 1 WHERE customer_id IN (2, 2)", "s1"),
        ("UPDATE orders SET v = 1 WHERE customer_id IN (2, -1) AND v = 3", "s1"),
        ("DELETE FROM orders WHERE customer_id = ANY (ARRAY[1, 42])", "s0"),
        ("UPDATE orders SET v = 1 WHERE (customer_id, v) = (2, 3)", "s1"),
        ("DELETE FROM orders WHERE (customer_id, v) IN ((2, 1), (2, 3))", "s1"),
        ("DELETE FROM orders WHERE (v, customer_id) IN ((2, 1), (2, 2))", NO),
        ("DELETE FROM orders o USING customers c WHERE (o.customer_id, c.id) = (2, 2)", "s1"),
        ("DELETE FROM orders o USING customers c WHERE (o.customer_id, c.id) = (c.id, -1)", "s1"),
        ("DELETE FROM orders o USING customers c WHERE (o.customer_id, c.id) = (2, 1)", NO),
        ("UPDATE orders SET v = 1 WHERE customer_id BETWEEN 2 AND 2", "s1"),
        ("DELETE FROM orders WHERE customer_id IN (1, 2)", NO),
        ("DELETE FROM orders WHERE customer_id IN (2, v)", NO),
        ("DELETE FROM orders WHERE customer_id IN (2, NULL)", NO),
        ("DELETE FROM orders WHERE v IN (2, 2)", NO),
        ("DELETE FROM orders WHERE NOT customer_id IN (2, 2)", NO),
    ] {
        assert_eq!(planned(sql, |_| ()), expected, "{sql}");
    }
}

#[test]
fn no_row_has_the_key_null() {
    for (sql, expected) in [
        ("SELECT * FROM orders WHERE customer_id = $1", "s0"),
        ("UPDATE orders SET v = 1 WHERE customer_id = $1 AND v = 2", "s0"),
        ("DELETE FROM orders WHERE customer_id = $1::int8", "s0"),
        ("INSERT INTO orders (customer_id) VALUES ($1)", NO),
        ("SELECT * FROM orders WHERE v = $1 AND customer_id = 2", "s1"),
    ] {
        assert_eq!(bound(sql, None, 20), expected, "{sql}");
    }
}

#[test]
fn what_a_reset_makes_of_search_path_is_not_known() {
    for sql in [
        "RESET search_path; SELECT * FROM orders WHERE customer_id = 2",
        "RESET ALL; SELECT * FROM orders WHERE customer_id = 2",
        "SET search_path TO DEFAULT; SELECT * FROM orders WHERE customer_id = 2",
    ] {
        assert_eq!(planned(sql, |cx| cx.own_search_path = true), NO, "{sql}");
        assert_eq!(planned(sql, |_| ()), "s1", "nothing is changed by it: {sql}");
    }
    let qualified = "RESET ALL; SELECT * FROM public.orders WHERE customer_id = 2";
    assert_eq!(planned(qualified, |cx| cx.own_search_path = true), "s1");
}

#[test]
fn no_temporary_table_hides_a_listed_one_until_its_transaction_ends() {
    for (sql, wanted) in [
        ("CREATE TABLE pg_temp.orders (customer_id bigint, n int) ON COMMIT DROP", NO),
        ("CREATE TABLE pg_temp.orders ON COMMIT DROP AS SELECT 1 AS customer_id", NO),
        ("CREATE TABLE pg_temp.countries (code int) ON COMMIT DROP", NO),
        ("CREATE TABLE pg_temp.others (customer_id bigint) ON COMMIT DROP", "s0"),
        ("CREATE TEMP TABLE others ON COMMIT DROP AS SELECT 1", "s0"),
        // The session keeps its server.
        ("CREATE TABLE pg_temp.orders (customer_id bigint, n int)", "s0"),
    ] {
        assert_eq!(planned(sql, |_| ()), wanted, "{sql}");
    }
    assert_eq!(chosen("CREATE TEMP TABLE orders (customer_id bigint) ON COMMIT DROP", "s1"), NO);
    assert_eq!(chosen("CREATE TEMP TABLE orders ON COMMIT DROP AS SELECT 1", "s1"), NO);
}

#[test]
fn copies_are_read_where_the_statement_goes() {
    for (sql, wanted) in [
        ("DECLARE c CURSOR FOR SELECT * FROM countries", "any"),
        ("DECLARE c CURSOR FOR SELECT * FROM countries a JOIN countries b USING (code)", "any"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT * FROM countries", "s0"),
        ("DECLARE c CURSOR FOR SELECT * FROM countries, notes", "s0"),
        ("DECLARE c CURSOR FOR SELECT * FROM countries FOR UPDATE", NO),
        ("DECLARE c CURSOR FOR SELECT * FROM countries, orders", NO),
        ("DECLARE c CURSOR FOR SELECT * FROM countries, orders WHERE customer_id = 2", "s1"),
        ("INSERT INTO notes SELECT name FROM countries", "s0"),
        ("INSERT INTO notes SELECT name FROM countries FOR UPDATE", NO),
        ("INSERT INTO notes SELECT name FROM countries, orders", NO),
        ("INSERT INTO countries SELECT name FROM notes", NO),
        ("WITH d AS (DELETE FROM countries RETURNING name) INSERT INTO notes SELECT name FROM d", NO),
        ("MERGE INTO notes USING countries c ON c.code = notes.code WHEN MATCHED THEN DELETE", "s0"),
        ("MERGE INTO countries c USING notes ON c.code = notes.code WHEN MATCHED THEN DELETE", NO),
    ] {
        assert_eq!(planned(sql, |_| ()), wanted, "{sql}");
    }
}

#[test]
fn limits_are_refused_as_postgresql_refuses_them() {
    for (sql, wanted) in [
        ("SELECT v FROM orders LIMIT -1", "2201W"),
        ("SELECT v FROM orders OFFSET -1", "2201X"),
        ("SELECT v FROM orders LIMIT -1 OFFSET -1", "2201X"),
        ("SELECT v FROM orders LIMIT 1 + 1", NO),
    ] {
        assert_eq!(planned(sql, |_| ()), wanted, "{sql}");
    }
    for (sql, value, oid, wanted) in [
        ("SELECT v FROM orders LIMIT $1", "-1", 0, "2201W"),
        ("SELECT v FROM orders OFFSET $1", "-1", 20, "2201X"),
        ("SELECT v FROM orders LIMIT $1", "ten", 0, "22P02"),
        ("SELECT v FROM orders LIMIT $1", "99999999999999999999", 0, "22003"),
        ("SELECT v FROM orders LIMIT $1", " 3 ", 0, "s0+s1"),
        ("SELECT v FROM orders LIMIT $1::int2", "70000", 0, "22003"),
        ("SELECT v FROM orders LIMIT $1::int2", "70000", 23, "22003"),
        ("SELECT v FROM orders LIMIT $1::int4", "3", 20, "s0+s1"),
        ("SELECT v FROM orders LIMIT $1", "3", 21, "s0+s1"),
        // What PostgreSQL makes of other types is not computed here.
        ("SELECT v FROM orders LIMIT $1", "3", 1700, NO),
    ] {
        assert_eq!(bound(sql, Some(value.as_bytes()), oid), wanted, "{sql} {value}");
    }
    assert_eq!(bound("SELECT v FROM orders LIMIT $1", None, 0), "s0+s1");
}

//! Statements with queries in them, read and planned as a client's are. 1, 42 and 'abc' are on s0, 2, -1 and 'abcdefgh' on s1.

use super::*;
use crate::sql::parse::facts;

fn planned(sql: &str, values: Option<&[Option<&[u8]>]>) -> ShardPlan {
    let map = map();
    let bound = values.map(|values| BoundParams { values, formats: &[], types: &[] });
    let facts = facts(sql.as_bytes());
    assert!(facts.unparsed.is_none(), "{sql}: {:?}", facts.unparsed);
    plan_query(&facts, &PlanContext { text: Some(sql), bound, ..context(&map) })
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

/// 'abc' is a key of s0, and so is its slot as a tag's; '{abcdefgh}' as a text is on s0, by its tag on s1.
#[test]
fn tags_are_hashed_alike_among_themselves_alone() {
    assert_eq!((word(&planned("SELECT 1 FROM codes WHERE code = '{abcdefgh}'", Some(&[])))).as_str(), "s0");
    all(&[
        ("SELECT * FROM carts WHERE code = '{abcdefgh}.x'", "s1"),
        ("SELECT * FROM carts WHERE code = '{abcdefgh}.x'::varchar", "s1"),
        ("SELECT * FROM carts c JOIN lines l ON l.code = c.code WHERE c.code = '{abcdefgh}'", "s1"),
        ("SELECT * FROM carts c JOIN lines l USING (code) WHERE code = 'x{abcdefgh}'", "s1"),
        ("SELECT * FROM carts c JOIN lines l USING (code)", "s0+s1"),
        ("SELECT * FROM carts WHERE code = '{abc}1' AND EXISTS (SELECT 1 FROM lines WHERE code = '{abc}2')", "s0"),
        ("SELECT * FROM carts WHERE code IN ('{abcdefgh}1', '{abcdefgh}2')", "s1"),
        ("SELECT * FROM carts WHERE code = ANY ('{\"{abcdefgh}1\",\"{abcdefgh}2\"}')", "s1"),
        ("SELECT * FROM carts WHERE code = ANY ('{\"{abcdefgh}1\",abc}'::text[])", "s0+s1"),
        ("INSERT INTO carts (code) SELECT code FROM lines WHERE code = '{abcdefgh}'", "s1"),
        ("UPDATE carts SET code = '{abcdefgh}2' WHERE code = '{abcdefgh}1'", "s1"),
        ("UPDATE carts SET code = '{abc}' WHERE code = '{abcdefgh}'", NO),
        // The same text, on another shard.
        ("SELECT * FROM carts c JOIN codes USING (code)", NO),
        ("SELECT * FROM carts c JOIN codes o ON o.code = c.code", NO),
        ("SELECT * FROM carts c NATURAL JOIN codes", NO),
        ("SELECT * FROM carts c JOIN codes USING (code) WHERE code = '{abcdefgh}'", NO),
        ("SELECT * FROM carts c JOIN codes o ON o.code = c.code WHERE c.code = '{abcdefgh}'", NO),
        ("INSERT INTO carts (code) SELECT code FROM codes WHERE code = '{abcdefgh}'", NO),
        ("WITH x AS (SELECT code FROM codes WHERE code = '{abcdefgh}') SELECT * FROM x JOIN carts USING (code)", NO),
        // Where both are on one shard, by their own ways.
        ("SELECT * FROM carts c JOIN codes o ON o.code = c.code WHERE c.code = 'abc' AND o.code = 'abc'", "s0"),
    ]);
}

#[test]
fn queries_that_agree_are_one_shards() {
    all(&[
        ("SELECT EXISTS (SELECT 1 FROM orders WHERE customer_id = 2)", "s1"),
        ("SELECT CASE WHEN EXISTS (SELECT FROM orders WHERE customer_id = 2) THEN 1 ELSE 0 END", "s1"),
        ("SELECT (SELECT count(*) FROM orders WHERE customer_id = 2), (SELECT name FROM customers WHERE id = 2)", "s1"),
        ("SELECT * FROM (SELECT * FROM orders WHERE customer_id = 2) o", "s1"),
        ("SELECT * FROM (SELECT count(*) FROM orders WHERE customer_id = 2 LIMIT 1) o, countries", "s1"),
        ("SELECT * FROM customers c WHERE id = 2 AND EXISTS (SELECT 1 FROM orders o WHERE o.customer_id = c.id)", "s1"),
        (
            "SELECT * FROM customers c WHERE 2 = c.id AND NOT EXISTS (SELECT 1 FROM orders WHERE c.id = customer_id)",
            "s1",
        ),
        (
            "SELECT id IN (SELECT customer_id FROM orders WHERE customer_id = 2) OR true FROM customers WHERE id = 2",
            "s1",
        ),
        (
            "SELECT * FROM customers c WHERE id = 2 AND (name = 'a' OR EXISTS (SELECT 1 FROM orders o WHERE o.customer_id = c.id))",
            "s1",
        ),
        ("SELECT * FROM orders WHERE customer_id = 2 AND code IN (SELECT code FROM countries)", "s1"),
        ("SELECT * FROM orders WHERE customer_id = 2 AND n > (SELECT avg(n) FROM orders WHERE customer_id = 2)", "s1"),
        (
            "SELECT * FROM customers c, LATERAL (SELECT * FROM orders o WHERE o.customer_id = c.id LIMIT 3) x WHERE c.id = 2",
            "s1",
        ),
        (
            "SELECT * FROM customers c LEFT JOIN LATERAL (SELECT * FROM orders o WHERE o.customer_id = c.id LIMIT 3) x ON true WHERE c.id = 2",
            "s1",
        ),
        ("SELECT 1 FROM orders WHERE customer_id = 2 UNION ALL SELECT 2 FROM customers WHERE id = 2", "s1"),
        ("SELECT 1 FROM orders WHERE customer_id = 2 UNION ALL SELECT 2 FROM countries ORDER BY 1", "s1"),
        ("SELECT 1 FROM orders WHERE customer_id = 1 EXCEPT SELECT 2 FROM customers WHERE id = 42", "s0"),
        ("SELECT 1 FROM orders WHERE customer_id = -1 INTERSECT (VALUES (1), (2))", "s1"),
        ("WITH x AS (SELECT * FROM orders WHERE customer_id = 2) SELECT * FROM x", "s1"),
        (
            "WITH x AS (SELECT * FROM orders WHERE customer_id = 2) SELECT * FROM x JOIN customers c ON c.id = x.customer_id WHERE c.id = 2",
            "s1",
        ),
        // What a query gives of a key is on the key's shard too.
        (
            "WITH x AS (SELECT customer_id FROM orders WHERE customer_id = 2) SELECT * FROM x JOIN customers c ON c.id = x.customer_id",
            "s1",
        ),
        (
            "WITH x AS (SELECT * FROM orders WHERE customer_id = 2) SELECT * FROM x JOIN customers c ON c.id = x.customer_id",
            "s1",
        ),
        (
            "WITH x (a, b) AS (SELECT n, customer_id FROM orders WHERE customer_id = 2) SELECT * FROM x JOIN customers c ON c.id = x.b",
            "s1",
        ),
        (
            "WITH x AS (SELECT n AS id FROM orders WHERE customer_id = 2) SELECT * FROM x JOIN customers c ON c.id = x.id WHERE c.id = 2",
            "s1",
        ),
        (
            "WITH x AS (SELECT customer_id AS id FROM orders WHERE customer_id = 2) SELECT * FROM x JOIN customers USING (id)",
            "s1",
        ),
        ("SELECT * FROM orders a JOIN orders b USING (customer_id) WHERE customer_id = 2", "s1"),
        ("SELECT * FROM orders a LEFT JOIN orders b USING (customer_id) WHERE customer_id = 2", "s1"),
        (
            "SELECT * FROM orders a LEFT JOIN customers c ON c.id = a.customer_id AND c.id = 2 WHERE a.customer_id = 2",
            "s1",
        ),
        ("SELECT * FROM customers WHERE id IN (SELECT customer_id FROM orders WHERE customer_id = 2)", "s1"),
        (
            "WITH RECURSIVE x AS (SELECT n, parent FROM orders WHERE customer_id = 2 UNION ALL \
             SELECT o.n, o.parent FROM orders o JOIN x ON x.parent = o.n WHERE o.customer_id = 2) SELECT * FROM x",
            "s1",
        ),
        (
            "WITH RECURSIVE x AS (SELECT customer_id, n FROM orders WHERE customer_id = 2 UNION ALL \
             SELECT o.customer_id, o.n FROM orders o JOIN x ON x.n = o.parent AND o.customer_id = x.customer_id) SELECT * FROM x",
            "s1",
        ),
        (
            "WITH RECURSIVE x (a, b) AS (SELECT customer_id, n FROM orders WHERE customer_id = 2 UNION \
             SELECT x.a, o.n FROM orders o JOIN x ON x.b = o.parent WHERE x.a = o.customer_id) \
             SELECT * FROM x JOIN customers c ON c.id = x.a",
            "s1",
        ),
        ("EXPLAIN SELECT EXISTS (SELECT 1 FROM orders WHERE customer_id = 2)", "s1"),
        ("SELECT 1 FROM codes WHERE code = 'abcdefgh' UNION SELECT 2 FROM orders WHERE customer_id = 2", "s1"),
        ("SELECT * FROM (SELECT 2 AS id) s JOIN customers c ON c.id = s.id", "s1"),
        ("SELECT * FROM (VALUES (2), (-1)) s (id) JOIN customers c ON c.id = s.id", "s1"),
        (
            "SELECT * FROM customers c WHERE c.id IN (2, -1) AND EXISTS (SELECT 1 FROM orders o WHERE o.customer_id = c.id)",
            "s1",
        ),
        ("SELECT EXISTS (SELECT 1 FROM orders WHERE customer_id = ANY ('{2,-1}'))", "s1"),
        ("SELECT EXISTS (SELECT 1 FROM public.orders WHERE public.orders.customer_id = 2)", "s1"),
        ("SELECT EXISTS (SELECT 1 FROM audit.log WHERE log.id = 2)", "s1"),
        // A query of WITH may have a table's name: it is no table then.
        ("WITH customers AS (SELECT 1 AS id) SELECT * FROM customers JOIN orders ON customer_id = customers.id", "s0"),
        ("WITH orders AS (SELECT * FROM orders WHERE customer_id = 2) SELECT * FROM orders", "s1"),
        ("SELECT * FROM (SELECT code FROM countries) c, orders WHERE customer_id = 2", "s1"),
    ]);
}

#[test]
fn queries_that_do_not_agree_are_refused() {
    all(&[
        ("SELECT EXISTS (SELECT 1 FROM orders)", NO),
        ("SELECT EXISTS (SELECT 1 FROM orders WHERE v = 'x')", NO),
        ("SELECT (SELECT count(*) FROM orders)", NO),
        ("SELECT * FROM customers WHERE id = 2 AND EXISTS (SELECT 1 FROM orders WHERE customer_id = 1)", NO),
        ("SELECT 1 FROM orders WHERE customer_id = 1 UNION SELECT 1 FROM orders WHERE customer_id = 2", NO),
        ("SELECT 1 FROM orders WHERE customer_id = 1 UNION SELECT 1 FROM orders", NO),
        // OR, NOT, CASE and outer joins are no conjunctions.
        (
            "SELECT * FROM customers c WHERE id = 2 AND EXISTS (SELECT 1 FROM orders o WHERE o.customer_id = c.id OR o.n = 1)",
            NO,
        ),
        ("SELECT * FROM customers c WHERE id = 2 OR EXISTS (SELECT 1 FROM orders o WHERE o.customer_id = c.id)", NO),
        (
            "SELECT * FROM customers c WHERE id = 2 AND EXISTS (SELECT 1 FROM orders o WHERE NOT o.customer_id = c.id)",
            NO,
        ),
        ("SELECT EXISTS (SELECT 1 FROM orders WHERE CASE WHEN customer_id = 2 THEN true END)", NO),
        ("SELECT EXISTS (SELECT customer_id = 2 FROM orders)", NO),
        ("SELECT EXISTS (SELECT 1 FROM countries r LEFT JOIN orders o ON true AND r.n = 2)", NO),
        ("SELECT EXISTS (SELECT 1 FROM orders o LEFT JOIN countries r ON o.customer_id = 2)", NO),
        ("SELECT EXISTS (SELECT 1 FROM orders o RIGHT JOIN customers c ON o.customer_id = 2 AND c.id = 2)", NO),
        ("SELECT EXISTS (SELECT 1 FROM orders o FULL JOIN customers c ON o.customer_id = 2 AND c.id = 2)", NO),
        (
            "SELECT EXISTS (SELECT 1 FROM orders a LEFT JOIN orders b ON a.customer_id = b.customer_id WHERE b.customer_id IS NULL)",
            NO,
        ),
        // The sub-query says nothing of the table outside.
        ("SELECT * FROM customers c WHERE EXISTS (SELECT 1 FROM orders o WHERE o.customer_id = c.id AND c.id = 2)", NO),
        (
            "SELECT * FROM customers c WHERE NOT EXISTS (SELECT 1 FROM orders o WHERE o.customer_id = 2 AND c.id = 2)",
            NO,
        ),
        ("SELECT * FROM customers WHERE id NOT IN (SELECT customer_id FROM orders WHERE customer_id = 2)", NO),
        ("SELECT * FROM customers WHERE id = ALL (SELECT customer_id FROM orders WHERE customer_id = 2)", NO),
        ("SELECT * FROM customers WHERE id <> ANY (SELECT customer_id FROM orders WHERE customer_id = 2)", NO),
        ("SELECT * FROM customers WHERE (id IN (SELECT customer_id FROM orders WHERE customer_id = 2)) IS TRUE", NO),
        // A name that may be that of another table.
        ("SELECT * FROM orders WHERE customer_id = 2 AND EXISTS (SELECT 1 FROM customers WHERE id = customer_id)", NO),
        (
            "SELECT * FROM customers WHERE id = 2 AND EXISTS (SELECT 1 FROM countries JOIN orders ON customer_id = id)",
            NO,
        ),
        ("SELECT EXISTS (SELECT 1 FROM customers, orders WHERE id = 2)", NO),
        // An alias hides the name, and may be another table's.
        ("SELECT EXISTS (SELECT 1 FROM orders customers, customers orders WHERE orders.customer_id = 2)", NO),
        ("SELECT EXISTS (SELECT 1 FROM orders o, customers c WHERE orders.customer_id = 2 AND c.id = 2)", NO),
        ("SELECT * FROM customers c WHERE id = 2 AND EXISTS (SELECT 1 FROM orders c WHERE c.customer_id = c.id)", NO),
        (
            "SELECT * FROM customers c WHERE id = 2 AND EXISTS (SELECT 1 FROM orders o, countries c WHERE o.customer_id = c.id)",
            NO,
        ),
        // ON sees its own join alone: c is that outside.
        (
            "SELECT * FROM customers c WHERE c.id = 2 AND EXISTS \
             (SELECT 1 FROM customers c, orders o JOIN orders p ON o.customer_id = c.id AND p.customer_id = c.id)",
            NO,
        ),
        // A sub-query that is not LATERAL does not see its neighbours.
        ("SELECT * FROM customers c, (SELECT * FROM orders o WHERE o.customer_id = c.id) x WHERE c.id = 2", NO),
        (
            "SELECT (SELECT 1 FROM customers c, (SELECT * FROM orders o WHERE o.customer_id = c.id) x LIMIT 1) FROM countries c",
            NO,
        ),
        ("SELECT * FROM LATERAL (SELECT * FROM orders o WHERE o.customer_id = c.id) x, customers c WHERE c.id = 2", NO),
        // Names of WITH.
        ("WITH x AS (SELECT * FROM orders) SELECT * FROM x, customers WHERE customers.id = 2", NO),
        ("WITH x AS (SELECT * FROM orders) SELECT * FROM x WHERE customer_id = 2", NO),
        (
            "WITH orders AS (SELECT 1 AS customer_id) SELECT * FROM public.orders WHERE customer_id = 2 AND n IN (SELECT n FROM public.orders)",
            NO,
        ),
        ("WITH RECURSIVE orders AS (SELECT * FROM orders WHERE customer_id = 2) SELECT * FROM orders, customers", NO),
        ("WITH c AS (SELECT 2 AS id) SELECT * FROM orders o JOIN c ON o.customer_id = c.n", NO),
        (
            "WITH x AS (SELECT n AS customer_id FROM orders WHERE customer_id = 2) SELECT * FROM x JOIN customers c ON c.id = x.customer_id",
            NO,
        ),
        (
            "WITH x (customer_id) AS (SELECT n, customer_id FROM orders WHERE customer_id = 2) SELECT * FROM x JOIN customers c ON c.id = x.customer_id",
            NO,
        ),
        (
            "WITH x AS (SELECT o.*, 1 AS customer_id FROM orders o WHERE o.customer_id = 2) SELECT * FROM x JOIN customers c ON c.id = x.customer_id",
            NO,
        ),
        (
            "WITH x AS (SELECT customer_id FROM orders WHERE customer_id = 2 UNION SELECT 1) SELECT * FROM x JOIN customers c ON c.id = x.customer_id",
            NO,
        ),
        (
            "WITH x AS (SELECT customer_id FROM orders WHERE customer_id = 2 UNION SELECT n FROM countries) SELECT * FROM x JOIN customers c ON c.id = x.customer_id",
            NO,
        ),
        (
            "WITH RECURSIVE x AS (SELECT customer_id FROM orders WHERE customer_id = 2 UNION SELECT x.customer_id + 1 FROM x) \
             SELECT * FROM x JOIN customers c ON c.id = x.customer_id",
            NO,
        ),
        (
            "WITH RECURSIVE x AS (SELECT customer_id, n FROM orders WHERE customer_id = 2 UNION ALL \
             SELECT o.customer_id, o.n FROM orders o JOIN x ON x.n = o.parent) SELECT * FROM x",
            NO,
        ),
        (
            "WITH RECURSIVE x AS (SELECT customer_id, n FROM orders WHERE customer_id = 2 UNION ALL \
             SELECT o.customer_id, o.n FROM orders o JOIN x ON x.n = o.customer_id) SELECT * FROM x",
            NO,
        ),
        (
            "WITH RECURSIVE x AS (SELECT customer_id, n FROM orders WHERE customer_id = 2 UNION ALL \
             SELECT x.n, x.customer_id FROM x) SELECT * FROM x JOIN customers c ON c.id = x.customer_id",
            NO,
        ),
        (
            "WITH RECURSIVE x AS (SELECT customer_id, n FROM orders WHERE customer_id = 2 UNION ALL \
             SELECT o.n, o.customer_id FROM orders o JOIN x ON o.customer_id = x.customer_id) SELECT * FROM x JOIN customers c ON c.id = x.customer_id",
            NO,
        ),
        (
            "WITH RECURSIVE x AS (SELECT customer_id, n FROM orders UNION ALL \
             SELECT o.customer_id, o.n FROM orders o JOIN x ON o.customer_id = x.customer_id) SELECT * FROM x WHERE customer_id = 2",
            NO,
        ),
        // A table's own key proves nothing of it.
        ("SELECT EXISTS (SELECT 1 FROM orders o WHERE o.customer_id = o.customer_id)", NO),
        (
            "SELECT EXISTS (SELECT 1 FROM orders o, LATERAL (SELECT o.customer_id AS k UNION SELECT 2) s WHERE o.customer_id = s.k)",
            NO,
        ),
        ("SELECT EXISTS (SELECT 1 FROM orders a, orders b WHERE a.customer_id = b.customer_id)", NO),
        // Types by which different keys are equal.
        ("SELECT * FROM (VALUES (9007199254740992), (NULL::float8)) v (id) JOIN customers c ON c.id = v.id", NO),
        ("SELECT EXISTS (SELECT 1 FROM customers c WHERE c.id IN (9007199254740992, NULL::float8))", NO),
        ("SELECT * FROM (SELECT 2::float8 AS id) v JOIN customers USING (id)", NO),
        ("SELECT EXISTS (SELECT 1 FROM codes c JOIN devices d ON c.code = d.id WHERE c.code = 'abc')", NO),
        ("SELECT EXISTS (SELECT 1 FROM orders AS o (customer_id, b) WHERE o.customer_id = 2)", NO),
        ("SELECT EXISTS (SELECT 1 FROM orders TABLESAMPLE system (10) WHERE customer_id = 2)", NO),
        ("SELECT EXISTS (SELECT 1 FROM orders NATURAL JOIN customers WHERE customer_id = 2 AND id = 2)", NO),
        (
            "SELECT EXISTS (SELECT 1 FROM (orders JOIN countries ON true) AS j (customer_id, b) WHERE customer_id = 2)",
            NO,
        ),
        ("SELECT EXISTS (SELECT 1 FROM orders WHERE customer_id = 2), (SELECT 1 FROM notes)", NO),
        ("SELECT EXISTS (SELECT 1 FROM orders WHERE customer_id IN (1, 2))", NO),
        ("SELECT EXISTS (SELECT 1 FROM orders WHERE (customer_id = 2) = false)", NO),
        (
            "SELECT EXISTS (SELECT 1 FROM countries WHERE n = 2 FOR UPDATE), (SELECT 1 FROM orders WHERE customer_id = 2)",
            NO,
        ),
    ]);
}

#[test]
fn parameters_of_queries() {
    let sql = "SELECT EXISTS (SELECT 1 FROM orders WHERE customer_id = $1)";
    assert_eq!(word(&planned(sql, None)), "$1");
    assert_eq!(word(&planned(sql, Some(&[Some(b"2")]))), "s1");
    assert_eq!(word(&planned(sql, Some(&[Some(b"x")]))), "22P02");
    let plan = planned(sql, Some(&[None]));
    assert_eq!(plan, ShardPlan::Single { shard: ShardIndex(0), why: Why::NoRow });
    let twice = "SELECT 1 FROM orders WHERE customer_id = $1 UNION ALL SELECT 1 FROM customers WHERE id = $2";
    assert_eq!(word(&planned(twice, None)), "$1");
    assert_eq!(word(&planned(twice, Some(&[Some(b"2"), Some(b"-1")]))), "s1");
    assert_eq!(word(&planned(twice, Some(&[Some(b"2"), Some(b"1")]))), NO);
    assert_eq!(word(&planned(twice, Some(&[Some(b"2"), None]))), "s1");
    let same = "SELECT 1 FROM orders WHERE customer_id = $1 UNION ALL SELECT 1 FROM customers WHERE id = $1";
    assert_eq!(
        word(&planned(same, Some(&[Some(b"99999999999")]))),
        word(&planned("SELECT 1 FROM orders WHERE customer_id = 99999999999", Some(&[])))
    );
    // It may be a numeric, of which the server makes another key.
    let other =
        "SELECT 1 FROM orders WHERE customer_id = $1 UNION ALL SELECT 1 FROM customers WHERE id = $1 AND n = $1";
    assert_eq!(word(&planned(other, Some(&[Some(b"99999999999")]))), NO);
    assert_eq!(word(&planned(other, Some(&[Some(b"2")]))), "s1");
    // Each use counts once, by whatever ways it is reached, and among values of another type it is none.
    let twice = "WITH v AS (SELECT $1 AS k) INSERT INTO orders (customer_id, n) SELECT k, 1 FROM v UNION ALL SELECT k, $1 FROM v";
    assert_eq!(word(&planned(twice, Some(&[Some(b"99999999999")]))), NO);
    let beside = "SELECT 1 FROM orders WHERE customer_id = $1 UNION ALL SELECT 1 FROM customers WHERE id = 99999999999 AND id IN ($1, 2.5)";
    assert_eq!(word(&planned(beside, Some(&[Some(b"99999999999")]))), NO);
    assert_eq!(word(&planned(&beside.replace("2.5", "3"), Some(&[Some(b"99999999999")]))), "s1");
    // Lists are read when they are bound.
    for sql in
        ["UPDATE orders SET n = 1 WHERE customer_id IN ($1, $2)", "DELETE FROM orders WHERE customer_id IN ($1, 2)"]
    {
        assert_eq!(word(&planned(sql, None)), "$1", "{sql}");
        assert_eq!(word(&planned(sql, Some(&[Some(b"2"), Some(b"-1")]))), "s1", "{sql}");
        assert_eq!(word(&planned(sql, Some(&[Some(b"1"), Some(b"2")]))), NO, "{sql}");
    }
    // One of two types of keys.
    let mixed = "SELECT 1 FROM orders WHERE customer_id = $1 UNION ALL SELECT 1 FROM codes WHERE code = $1";
    assert_eq!(word(&planned(mixed, Some(&[Some(b"2")]))), NO);
    assert_eq!(
        word(&planned("SELECT EXISTS (SELECT 1 FROM orders WHERE customer_id = ANY ($1))", Some(&[Some(b"{2,-1}")]))),
        "s1"
    );
    assert_eq!(
        word(&planned("SELECT EXISTS (SELECT 1 FROM orders WHERE customer_id = ANY ($1))", Some(&[Some(b"{2,1}")]))),
        NO
    );
}

#[test]
fn writes_whose_queries_agree_are_one_shards() {
    all(&[
        ("UPDATE customers c SET n = 1 FROM orders o WHERE c.id = 2 AND o.customer_id = c.id", "s1"),
        ("UPDATE customers SET n = (SELECT count(*) FROM orders WHERE customer_id = customers.id) WHERE id = 2", "s1"),
        ("DELETE FROM customers c USING orders o WHERE o.customer_id = 2 AND o.customer_id = c.id", "s1"),
        (
            "UPDATE orders SET n = 1 WHERE customer_id = 2 AND oid IN \
             (SELECT oid FROM orders WHERE customer_id = 2 ORDER BY oid LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING oid",
            "s1",
        ),
        ("DELETE FROM orders WHERE customer_id = 2 AND n IN (SELECT n FROM countries)", "s1"),
        ("DELETE FROM orders WHERE customer_id IN (SELECT id FROM customers WHERE id = 2)", "s1"),
        ("UPDATE orders SET customer_id = 2, n = 1 WHERE customer_id = 2 AND n IN (SELECT n FROM countries)", "s1"),
        ("WITH d AS (DELETE FROM orders WHERE customer_id = 2 RETURNING *) SELECT count(*) FROM d", "s1"),
        (
            "WITH d AS (DELETE FROM orders WHERE customer_id = 2 RETURNING *) INSERT INTO customers (id, n) SELECT customer_id, n FROM d",
            "s1",
        ),
        (
            "WITH u AS (UPDATE orders SET n = 1 WHERE customer_id = 2 RETURNING n) INSERT INTO customers (id) VALUES (2)",
            "s1",
        ),
        ("WITH i AS (INSERT INTO customers (id) VALUES (2), (-1) RETURNING id) SELECT * FROM i", "s1"),
        (
            "WITH i AS (INSERT INTO customers (id) VALUES (2) RETURNING id) INSERT INTO orders (customer_id) SELECT id FROM i",
            "s1",
        ),
        ("WITH c AS (SELECT 1) INSERT INTO customers (id) VALUES (2)", "s1"),
        (
            "INSERT INTO orders (customer_id, note) SELECT 2, 'y' WHERE NOT EXISTS (SELECT 1 FROM orders WHERE customer_id = 2)",
            "s1",
        ),
        ("INSERT INTO orders (customer_id, note) SELECT id, name FROM customers WHERE id = 2", "s1"),
        ("INSERT INTO orders (note, customer_id) SELECT c.name, 2 FROM customers c WHERE id = -1", "s1"),
        ("INSERT INTO orders (customer_id, note) SELECT 2, name FROM countries", "s1"),
        ("INSERT INTO orders (customer_id) SELECT 2", "s1"),
        ("INSERT INTO orders (customer_id, n) VALUES (2, (SELECT max(n) FROM orders WHERE customer_id = 2))", "s1"),
        ("INSERT INTO orders (customer_id, n) VALUES (2, (SELECT max(n) FROM countries))", "s1"),
        (
            "INSERT INTO orders (customer_id, n) SELECT 2, 1 FROM countries ON CONFLICT (customer_id) DO UPDATE SET n = excluded.n",
            "s1",
        ),
        (
            "MERGE INTO customers c USING (VALUES (2, 'x')) AS s (id, name) ON c.id = s.id \
             WHEN MATCHED THEN UPDATE SET name = s.name WHEN NOT MATCHED THEN INSERT (id, name) VALUES (s.id, s.name)",
            "s1",
        ),
        (
            "MERGE INTO customers c USING (SELECT * FROM orders WHERE customer_id = 2) s ON c.id = s.customer_id \
             WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (name, id) VALUES (s.note, s.customer_id)",
            "s1",
        ),
        ("MERGE INTO customers c USING countries r ON c.id = 2 AND c.n = r.n WHEN MATCHED THEN UPDATE SET n = 1", "s1"),
        ("UPDATE orders SET n = 1 WHERE customer_id = ANY ('{2,-1}')", "s1"),
        ("UPDATE orders SET n = 1 WHERE customer_id = ANY ('{2,-1}') AND n = 3", "s1"),
        ("UPDATE orders SET n = 1 WHERE customer_id IN (2, 2)", "s1"),
        ("DELETE FROM orders o USING countries r WHERE o.customer_id IN (2, -1) AND o.n = r.n", "s1"),
    ]);
}

#[test]
fn writes_that_are_not_proven_are_refused() {
    all(&[
        ("UPDATE customers c SET n = 1 FROM orders o WHERE c.id = 2", NO),
        ("UPDATE customers c SET n = 1 FROM orders o WHERE o.customer_id = 2", NO),
        ("UPDATE countries SET n = 1 FROM orders o WHERE o.customer_id = 2 AND o.n = countries.n", NO),
        ("UPDATE orders SET n = 1 WHERE oid IN (SELECT oid FROM orders WHERE customer_id = 2)", NO),
        ("UPDATE orders SET n = 1 WHERE customer_id = 2 AND oid IN (SELECT oid FROM orders ORDER BY oid LIMIT 1)", NO),
        ("UPDATE orders SET customer_id = 1 WHERE customer_id = 2 AND n IN (SELECT n FROM countries)", NO),
        ("UPDATE orders SET customer_id = n WHERE customer_id = 2 AND n IN (SELECT n FROM countries)", NO),
        ("UPDATE orders SET (customer_id, n) = (SELECT 2, 1) WHERE customer_id = 2", NO),
        ("UPDATE orders SET n = 1 WHERE customer_id = ANY ('{2,1}')", NO),
        (
            "DELETE FROM orders USING customers WHERE customer_id = 2 OR customer_id = customers.id AND customers.id = 2",
            NO,
        ),
        ("WITH d AS (DELETE FROM orders RETURNING *) SELECT count(*) FROM d, customers WHERE id = 2", NO),
        ("WITH d AS (DELETE FROM orders WHERE customer_id = 1) DELETE FROM customers WHERE id = 2", NO),
        (
            "WITH u AS (UPDATE orders SET customer_id = 1 WHERE customer_id = 2) SELECT 1 FROM customers WHERE id = 2",
            NO,
        ),
        ("WITH i AS (INSERT INTO countries (n) VALUES (1)) SELECT 1 FROM customers WHERE id = 2", NO),
        ("WITH i AS (INSERT INTO notes (n) VALUES (1)) SELECT 1 FROM customers WHERE id = 2", NO),
        ("WITH i AS (INSERT INTO orders (customer_id) VALUES (1)) SELECT 1 FROM customers WHERE id = 2", NO),
        ("WITH i AS (INSERT INTO orders (customer_id) VALUES (2), (1)) SELECT 1 FROM customers WHERE id = 2", NO),
        ("WITH i AS (INSERT INTO orders (n) VALUES (2)) SELECT 1 FROM customers WHERE id = 2", NO),
        ("WITH i AS (INSERT INTO orders DEFAULT VALUES) SELECT 1 FROM customers WHERE id = 2", NO),
        ("WITH i AS (INSERT INTO orders (customer_id) VALUES (2) ON CONFLICT (n) DO NOTHING) SELECT 1", NO),
        ("INSERT INTO orders (customer_id) SELECT 2 ON CONFLICT (customer_id) DO UPDATE SET customer_id = 1", NO),
        ("INSERT INTO orders (customer_id) SELECT id FROM customers", NO),
        ("INSERT INTO orders (customer_id) SELECT id + 1 FROM customers WHERE id = 2", NO),
        ("INSERT INTO orders (customer_id) SELECT n FROM customers WHERE id = 2", NO),
        ("INSERT INTO orders (customer_id) SELECT 1 FROM customers WHERE id = 2", NO),
        ("INSERT INTO orders (customer_id) SELECT generate_series(1, 3)", NO),
        (
            "INSERT INTO orders (customer_id) SELECT b.customer_id FROM orders a LEFT JOIN orders b ON b.customer_id = 2 WHERE a.customer_id = 2",
            NO,
        ),
        (
            "INSERT INTO orders (customer_id) SELECT customer_id FROM orders WHERE customer_id = 2 GROUP BY ROLLUP (customer_id)",
            NO,
        ),
        ("INSERT INTO orders (customer_id) OVERRIDING SYSTEM VALUE SELECT 2", NO),
        ("INSERT INTO orders (customer_id) SELECT 2.5", NO),
        ("INSERT INTO orders (customer_id) SELECT NULL", NO),
        ("INSERT INTO orders (customer_id) SELECT 2 UNION SELECT 1", NO),
        ("INSERT INTO countries (n) SELECT n FROM orders WHERE customer_id = 2", NO),
        ("INSERT INTO notes (n) SELECT n FROM orders WHERE customer_id = 2", NO),
        ("INSERT INTO codes (code) SELECT id FROM customers WHERE id = 2", NO),
        ("INSERT INTO codes (code) SELECT 'abcdefgh '", NO),
        ("INSERT INTO orders (customer_id, n) VALUES (2, (SELECT max(n) FROM orders))", NO),
        (
            "MERGE INTO customers c USING orders o ON c.id = o.customer_id AND o.customer_id = 2 WHEN NOT MATCHED THEN INSERT (id) VALUES (o.customer_id)",
            NO,
        ),
        ("MERGE INTO customers c USING countries r ON c.n = r.n WHEN MATCHED THEN DELETE", NO),
        ("MERGE INTO customers c USING countries r ON c.id = 2 WHEN NOT MATCHED THEN INSERT (id) VALUES (1)", NO),
        ("MERGE INTO customers c USING countries r ON c.id = 2 WHEN NOT MATCHED THEN INSERT (id) VALUES (r.n)", NO),
        ("MERGE INTO customers c USING countries r ON c.id = 2 WHEN MATCHED THEN UPDATE SET id = 1", NO),
        ("MERGE INTO customers c USING countries r ON c.id = 2 WHEN NOT MATCHED THEN INSERT (n) VALUES (1)", NO),
        ("MERGE INTO customers c USING countries r ON c.id = 2 WHEN NOT MATCHED THEN INSERT DEFAULT VALUES", NO),
        ("MERGE INTO countries r USING customers c ON c.id = 2 WHEN MATCHED THEN DELETE", NO),
        // A row that is inserted sees the source alone.
        (
            "MERGE INTO customers c USING generate_series(1, 10) id ON c.id = 2 WHEN NOT MATCHED THEN INSERT (id) VALUES (id)",
            NO,
        ),
        ("MERGE INTO customers c USING countries r ON c.id = 2 WHEN NOT MATCHED THEN INSERT (id) VALUES (id)", NO),
        ("MERGE INTO customers c USING countries r ON c.id = 2 WHEN NOT MATCHED THEN INSERT (id) VALUES (c.id)", NO),
        (
            "MERGE INTO customers c USING countries r ON c.id = 2 WHEN NOT MATCHED AND EXISTS \
             (SELECT 1 FROM orders o WHERE o.customer_id = id) THEN INSERT (id) VALUES (2)",
            NO,
        ),
        (
            "MERGE INTO customers c USING countries r ON c.id = 2 WHEN NOT MATCHED THEN INSERT (id, n) \
             VALUES (2, (SELECT max(n) FROM orders WHERE customer_id = c.id))",
            NO,
        ),
        (
            "MERGE INTO customers c USING countries r ON c.id = 2 WHEN MATCHED AND EXISTS \
             (SELECT 1 FROM orders o WHERE o.customer_id = c.id) THEN DELETE",
            "s1",
        ),
        // One element may be several columns.
        ("INSERT INTO orders (n, customer_id, v) SELECT (r).*, 2 FROM countries r", NO),
        ("INSERT INTO orders (n, customer_id, v) SELECT (r.pair).*, 2 FROM countries r", NO),
        ("INSERT INTO orders (n, customer_id, v) SELECT r.*, 2 FROM countries r", NO),
        ("INSERT INTO orders (n, customer_id, v) VALUES (('(7,1)'::pair).*, 2)", NO),
        ("INSERT INTO orders (n, customer_id, v) VALUES (('(7,1)'::pair).*, 2), (1, 2, 3)", NO),
        ("WITH i AS (INSERT INTO orders (n, customer_id, v) VALUES (('(7,1)'::pair).*, 2)) SELECT 1", NO),
        ("INSERT INTO orders (n, customer_id) SELECT x.* FROM countries r, LATERAL (VALUES (r.*, 2)) x (a, b)", NO),
        ("WITH v (a, b, c) AS (VALUES (('(7,1)'::pair).*, 2)) INSERT INTO orders (customer_id) SELECT b FROM v", NO),
        (
            "WITH d AS (DELETE FROM customers c WHERE id = 2 RETURNING (c.pair).*, id) \
             INSERT INTO orders (n, customer_id, v) SELECT 1, x.b, 1 FROM d x (a, b)",
            NO,
        ),
        (
            "MERGE INTO customers c USING countries r ON c.id = 2 WHEN NOT MATCHED THEN INSERT (n, id, v) VALUES (r.*, 2)",
            NO,
        ),
        (
            "MERGE INTO customers c USING countries r ON c.id = 2 WHEN NOT MATCHED THEN INSERT (n, id, v) VALUES ((r).*, 2)",
            NO,
        ),
    ]);
    // Nor is it known on a shard that the user has chosen.
    let map = map();
    for sql in [
        "INSERT INTO orders (n, customer_id, v) VALUES (('(7,1)'::pair).*, 2)",
        "INSERT INTO orders (n, customer_id, v) SELECT (r).*, 2 FROM countries r",
    ] {
        let cx = PlanContext { text: Some(sql), shard: Some("s1"), ..context(&map) };
        assert_eq!(word(&plan_query(&facts(sql.as_bytes()), &cx)), NO, "{sql}");
    }
    assert_eq!(word(&planned("INSERT INTO notes (a, b, c) VALUES (('(7,1)'::pair).*, 2)", Some(&[]))), "s0");
}

/// The query of a COPY or a cursor is held against the shard that the user has chosen.
#[test]
fn what_has_a_query_is_held_against_the_choice() {
    let map = map();
    let chosen = |sql: &str, key: Option<&'static str>, shard: Option<&'static str>| {
        let cx = PlanContext { text: Some(sql), sharding_key: key, shard, ..context(&map) };
        word(&plan_query(&facts(sql.as_bytes()), &cx))
    };
    for (query, by_key, by_shard) in [
        ("SELECT * FROM orders", "s1", "s1"),
        ("SELECT * FROM orders WHERE customer_id = 2", "s1", "s1"),
        ("SELECT * FROM orders WHERE customer_id = -1", NO, "s1"),
        ("SELECT * FROM orders WHERE customer_id = 1", NO, NO),
        ("SELECT count(*) FROM orders WHERE customer_id IN (1, 2)", NO, NO),
        ("SELECT count(*) FROM orders o JOIN customers c ON c.id = o.customer_id WHERE c.id = 1", NO, NO),
        ("SELECT * FROM orders ORDER BY 1 LIMIT 3", "s1", "s1"),
    ] {
        for sql in [
            query.to_owned(),
            format!("COPY ({query}) TO STDOUT (FORMAT csv)"),
            format!("COPY ({query}) TO '/tmp/x'"),
            format!("DECLARE c CURSOR FOR {query}"),
        ] {
            assert_eq!(chosen(&sql, Some("2"), None), by_key, "{sql}");
            assert_eq!(chosen(&sql, None, Some("s1")), by_shard, "{sql}");
            let hinted = format!("/* pgweir: shard=s1 */ {sql}");
            assert_eq!(chosen(&hinted, None, None), by_shard, "{hinted}");
        }
    }
    for (written, expected) in [
        ("UPDATE orders SET n = 1 WHERE customer_id = 2 RETURNING n", "s1"),
        ("DELETE FROM orders WHERE customer_id = 2 RETURNING n", "s1"),
        ("INSERT INTO orders (customer_id) VALUES (2) RETURNING n", "s1"),
        ("UPDATE orders SET n = 1 WHERE customer_id = 1 RETURNING n", NO),
        ("INSERT INTO orders (customer_id) VALUES (1) RETURNING n", NO),
    ] {
        let sql = format!("COPY ({written}) TO STDOUT");
        assert_eq!(chosen(&sql, Some("2"), None), expected, "{sql}");
    }
    // Beside others in one text.
    for (key, expected) in [("2", "s1"), ("-1", "s1"), ("1", NO)] {
        let query = format!("SELECT * FROM orders WHERE customer_id = {key}");
        for sql in [
            format!("COPY ({query}) TO STDOUT; SELECT 1"),
            format!("SET LOCAL statement_timeout = 0; COPY ({query}) TO STDOUT"),
            format!("BEGIN; DECLARE c CURSOR FOR {query}; FETCH ALL FROM c; COMMIT"),
            format!("BEGIN; DECLARE a CURSOR FOR SELECT * FROM orders; DECLARE c CURSOR FOR {query}"),
        ] {
            assert_eq!(chosen(&sql, None, Some("s1")), expected, "{sql}");
        }
    }
    assert_eq!(chosen("COPY (SELECT * FROM orders WHERE customer_id = 2) TO STDOUT; SELECT 1", None, None), NO);
    assert_eq!(chosen("COPY orders TO '/tmp/x'", None, Some("s1")), NO);
    assert_eq!(chosen("COPY orders FROM '/tmp/x'", None, Some("s1")), NO);
}

#[test]
fn cursors_go_where_their_query_does() {
    all(&[
        ("DECLARE c CURSOR FOR SELECT * FROM orders WHERE customer_id = 2", "s1"),
        ("DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT * FROM orders WHERE customer_id = 1", "s0"),
        ("DECLARE c CURSOR FOR SELECT * FROM orders o JOIN customers c ON c.id = o.customer_id WHERE c.id = 2", "s1"),
        ("DECLARE c CURSOR FOR SELECT * FROM orders WHERE customer_id = 2 FOR UPDATE", "s1"),
        ("DECLARE c CURSOR FOR SELECT * FROM orders", NO),
        ("DECLARE c CURSOR FOR SELECT * FROM orders WHERE customer_id IN (1, 2)", NO),
        ("DECLARE c CURSOR FOR SELECT * FROM orders WHERE customer_id = 2 OR n = 1", NO),
        ("DECLARE c CURSOR FOR SELECT * FROM orders, notes WHERE customer_id = 1", NO),
        ("PREPARE p AS SELECT * FROM orders WHERE customer_id = 2", NO),
        ("CREATE TABLE x AS SELECT * FROM orders WHERE customer_id = 2", NO),
    ]);
}

#[test]
fn copies_go_where_their_query_does() {
    all(&[
        ("COPY (SELECT * FROM orders WHERE customer_id = 2) TO STDOUT", "s1"),
        ("COPY (SELECT count(*) FROM orders WHERE customer_id = 2) TO STDOUT WITH CSV HEADER", "s1"),
        (
            "COPY (SELECT * FROM orders o JOIN customers c ON c.id = o.customer_id WHERE c.id = 1 ORDER BY 1) TO STDOUT",
            "s0",
        ),
        ("COPY (WITH x AS (SELECT * FROM orders WHERE customer_id = 2) SELECT * FROM x) TO STDOUT", "s1"),
        ("COPY (DELETE FROM orders WHERE customer_id = 2 RETURNING n) TO STDOUT", "s1"),
        ("COPY (INSERT INTO orders (customer_id) VALUES (2) RETURNING n) TO STDOUT", "s1"),
        ("COPY (SELECT * FROM countries) TO STDOUT", "any"),
        ("COPY (SELECT * FROM orders) TO STDOUT", "s0&s1"),
        ("COPY (SELECT n + 1 FROM orders WHERE n > 3) TO STDOUT", "s0&s1"),
        ("COPY (SELECT * FROM orders WHERE customer_id IN (1, 2)) TO STDOUT", "s0&s1"),
        ("COPY (SELECT customer_id, count(*) FROM orders GROUP BY customer_id) TO STDOUT", "s0&s1"),
        ("COPY (SELECT * FROM orders ORDER BY n) TO STDOUT", NO),
        ("COPY (SELECT * FROM orders LIMIT 5) TO STDOUT", NO),
        ("COPY (SELECT count(*) FROM orders) TO STDOUT", NO),
        ("COPY (SELECT DISTINCT n FROM orders) TO STDOUT", NO),
        ("COPY (SELECT now(), n FROM orders) TO STDOUT", NO),
        ("COPY (SELECT * FROM orders, notes WHERE customer_id = 1) TO STDOUT", NO),
        ("COPY (SELECT * FROM orders WHERE customer_id = 2) TO '/tmp/x'", NO),
        ("COPY (SELECT * FROM orders WHERE customer_id = 2) TO PROGRAM 'cat'", NO),
        ("COPY (INSERT INTO orders (customer_id) VALUES (1), (2) RETURNING n) TO STDOUT", NO),
        ("COPY (SELECT * FROM orders WHERE customer_id = 2) TO STDOUT; SELECT 1", NO),
    ]);
}

/// What is neither read nor refused costs little, whatever the text.
#[test]
fn made_up_statements_end() {
    let mut sql = "SELECT * FROM orders WHERE customer_id = 2".to_owned();
    for number in 0..60 {
        sql = format!(
            "SELECT * FROM ({sql}) a{number}, ({}) b{number}",
            if number % 2 == 0 { "SELECT 1" } else { "SELECT 2" }
        );
    }
    assert_eq!(word(&planned(&sql, Some(&[]))), "s1");
    let union = vec!["SELECT 1 FROM orders WHERE customer_id = 2"; 60].join(" UNION ALL ");
    assert_eq!(word(&planned(&union, Some(&[]))), "s1");
    let many = vec!["SELECT 1 FROM orders WHERE customer_id = 2"; 500].join(" UNION ALL ");
    assert_eq!(word(&planned(&many, Some(&[]))), NO);
    let mut with = "WITH x0 AS (SELECT customer_id FROM orders WHERE customer_id = 2)".to_owned();
    for number in 1..25 {
        with += &format!(", x{number} AS (SELECT * FROM x{0} UNION ALL SELECT * FROM x{0})", number - 1);
    }
    let plan = planned(&format!("{with} SELECT * FROM x24 JOIN customers c ON c.id = x24.customer_id"), Some(&[]));
    assert_eq!(word(&plan), NO);
}

#[test]
fn a_key_that_is_given_must_be_where_the_rows_of_a_list_are() {
    all(&[
        ("UPDATE orders SET customer_id = 1 WHERE customer_id IN (1, 42)", "s0"),
        // 2 is on the other shard: no row would be found there.
        ("UPDATE orders SET customer_id = 2 WHERE customer_id IN (1, 42)", NO),
        ("UPDATE orders SET customer_id = 2 WHERE customer_id = 1 AND customer_id IN (1, 42)", NO),
    ]);
}

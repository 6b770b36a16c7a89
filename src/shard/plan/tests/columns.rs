//! INSERT without a column list: the columns are those that all shards were found to have.

use super::*;
use crate::sql::parse::facts;

#[test]
fn values_are_those_of_the_tables_columns() {
    let columns = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let place = |name: &str| ("public".to_owned(), name.to_owned());
    let known = [(place("orders"), columns(&["n", "customer_id", "v"])), (place("customers"), columns(&["id", "n"]))];
    let distrust = Distrust { columns: known.into(), ..Distrust::default() };
    let map = map();
    for (sql, wanted) in [
        ("INSERT INTO orders VALUES (1, 2, 'a')", "s1"),
        ("INSERT INTO orders VALUES (2, 1)", "s0"),
        ("INSERT INTO orders AS o VALUES (2, 1), (3, 42) ON CONFLICT (customer_id) DO NOTHING", "s0"),
        ("INSERT INTO public.orders VALUES (1, 2)", "s1"),
        ("INSERT INTO orders SELECT 1, 2, 'a' WHERE NOT EXISTS (SELECT 1 FROM orders WHERE customer_id = 2)", "s1"),
        ("INSERT INTO orders SELECT n, id FROM customers WHERE id = 2", "s1"),
        ("WITH i AS (INSERT INTO customers VALUES (2, 3) RETURNING id) SELECT * FROM i", "s1"),
        ("MERGE INTO customers c USING countries r ON c.id = 2 WHEN NOT MATCHED THEN INSERT VALUES (2, r.n)", "s1"),
        // Another shard, a default, a place that nothing tells.
        ("INSERT INTO orders VALUES (1, 2), (1, 1)", NO),
        ("INSERT INTO orders VALUES (1)", NO),
        ("INSERT INTO orders VALUES (1, DEFAULT)", NO),
        ("INSERT INTO orders DEFAULT VALUES", NO),
        ("INSERT INTO orders SELECT id, n FROM customers WHERE id = 2", NO),
        ("INSERT INTO orders SELECT *, 2 FROM customers WHERE id = 2", NO),
        ("INSERT INTO orders SELECT (r).*, 2 FROM countries r", NO),
        ("INSERT INTO orders VALUES (('(7,1)'::pair).*, 2)", NO),
        ("INSERT INTO orders SELECT 1", NO),
        ("INSERT INTO codes VALUES ('abc')", NO),
        ("INSERT INTO audit.orders VALUES (1, 2)", "s0"),
    ] {
        let cx = PlanContext { text: Some(sql), distrust: &distrust, ..context(&map) };
        let plan = plan_query(&facts(sql.as_bytes()), &cx);
        assert_eq!(word(&plan), wanted, "{sql}: {plan:?}");
    }
    // A bare column is that of a query further out if no table within has one of that name.
    for (sql, wanted) in [
        (
            "SELECT * FROM orders WHERE customer_id = 2 AND EXISTS (SELECT 1 FROM customers WHERE id = customer_id)",
            "s1",
        ),
        ("SELECT * FROM customers WHERE id = 2 AND EXISTS (SELECT 1 FROM orders WHERE customer_id = id)", "s1"),
        (
            "SELECT * FROM customers WHERE id = 2 AND EXISTS (SELECT 1 FROM orders, (VALUES (1)) x (y) WHERE customer_id = id)",
            "s1",
        ),
        (
            "SELECT * FROM customers WHERE id = 2 AND EXISTS (SELECT 1 FROM orders, (VALUES (1)) x (id) WHERE customer_id = id)",
            NO,
        ),
        (
            "SELECT * FROM customers WHERE id = 2 AND EXISTS (SELECT 1 FROM orders, (VALUES (1, 2)) x (y) WHERE customer_id = id)",
            NO,
        ),
        (
            "SELECT * FROM customers WHERE id = 2 AND EXISTS (SELECT 1 FROM orders, generate_series(1, 2) id WHERE customer_id = id)",
            NO,
        ),
        (
            "SELECT * FROM customers WHERE id = 2 AND EXISTS (SELECT 1 FROM orders, countries WHERE customer_id = id)",
            NO,
        ),
        ("SELECT n FROM customers c WHERE id = 2 AND EXISTS (SELECT 1 FROM orders WHERE customer_id = n)", NO),
        ("SELECT EXISTS (SELECT 1 FROM customers, orders WHERE customer_id = 2 AND id = customer_id)", "s1"),
        ("SELECT EXISTS (SELECT 1 FROM orders a, orders b WHERE customer_id = 2)", NO),
        // What VALUES names its columns; a star may be of a table further out, whose columns nobody knows.
        (
            "SELECT 1 FROM (SELECT 2 AS column01) z, LATERAL (SELECT 1 FROM (VALUES (1)) x, orders WHERE customer_id = column01) y",
            "s1",
        ),
        (
            "SELECT 1 FROM (SELECT 2 AS column1) z, LATERAL (SELECT 1 FROM (VALUES (1)) x, orders WHERE customer_id = column1) y",
            "s0",
        ),
        (
            "SELECT 1 FROM countries r WHERE EXISTS (SELECT 1 FROM customers c WHERE c.id = 2 AND EXISTS \
             (SELECT 1 FROM (SELECT r.*) s, orders o WHERE o.customer_id = id))",
            NO,
        ),
    ] {
        let cx = PlanContext { text: Some(sql), distrust: &distrust, ..context(&map) };
        let plan = plan_query(&facts(sql.as_bytes()), &cx);
        assert_eq!(word(&plan), wanted, "{sql}: {plan:?}");
    }
    let default =
        plan_query(&facts(b"INSERT INTO orders VALUES (1)"), &PlanContext { distrust: &distrust, ..context(&map) });
    assert!(message(default).contains("leaves its sharding key \"customer_id\" to the column's default"));
}

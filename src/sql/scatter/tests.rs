use super::*;

fn place(table: &TableRef) -> Place {
    let sharded = |key: &str, family| Place::Sharded { key: vec![(key.to_owned(), family)] };
    match table.name.as_str() {
        "t" | "u" => sharded("k", 0),
        "o" => sharded("id", 0),
        "w" => sharded("k", 1),
        "r" | "r2" => Place::Reference,
        _ => Place::Elsewhere,
    }
}

fn reading(sql: &str) -> Result<Reading, Unfit> {
    read(sql, &place)
}

fn selected(sql: &str) -> Result<Select, Unfit> {
    reading(sql)?.select.map(|select| *select)
}

#[test]
fn rows_that_are_joined_lie_together_or_it_is_refused() {
    for from in [
        "t",
        "t AS x",
        "public.t",
        "t, r",
        "t JOIN r ON t.a = r.a",
        "t LEFT JOIN r ON t.a = r.a",
        "r RIGHT JOIN t ON t.a = r.a",
        "t CROSS JOIN r",
        "t JOIN u ON t.k = u.k",
        "t JOIN u USING (k)",
        "t NATURAL JOIN u",
        "t NATURAL LEFT JOIN u LEFT JOIN u u2 ON u2.k = t.k",
        "t NATURAL FULL JOIN u",
        "t NATURAL JOIN r",
        "t JOIN u ON (t.a, t.k) = (u.a, u.k)",
        "t JOIN u ON (t.k, t.a) IN ((u.k, 1))",
        "t LEFT JOIN u ON ROW(u.k, 1) = ROW(t.k, t.a)",
        "t LEFT JOIN u USING (k)",
        "t FULL JOIN u ON t.k = u.k",
        "t JOIN o ON o.id = t.k AND t.a > 1",
        "(t JOIN u ON t.k = u.k) LEFT JOIN o ON o.id = u.k",
        "t LEFT JOIN (u JOIN r ON u.a = r.a) ON t.k = u.k",
        "t a JOIN t b ON a.k = b.k",
        "t JOIN u USING (k) JOIN r USING (a) JOIN u u2 USING (k)",
        "t JOIN r USING (a) JOIN u USING (k)",
        "t, u WHERE t.k = u.k",
        "t, u, o WHERE o.id = u.k AND t.k = o.id",
        "t JOIN u ON t.k = u.k LEFT JOIN r ON t.a = u.a",
        "t JOIN u ON t.k = u.k FULL JOIN o ON o.id = u.k",
        "t LEFT JOIN (u CROSS JOIN o) ON t.k = u.k AND t.k = o.id",
    ] {
        let read = reading(&format!("SELECT 1 FROM {from}"));
        assert!(read.is_ok(), "{from}: {read:?}");
    }
    for from in [
        "r",
        "other",
        "t, other",
        "t, u",
        "t, t x",
        "t JOIN u ON t.k = u.a",
        "t JOIN u ON t.k = k",
        "t JOIN u ON t.k = u.k OR true",
        "t JOIN u ON NOT t.k = u.k",
        "t JOIN u ON t.k <> u.k",
        "t JOIN u ON t.k + 0 = u.k",
        "t JOIN u ON t.k OPERATOR(app.=) u.k",
        "t JOIN w ON t.k = w.k",
        "t LEFT JOIN u ON t.a = u.a WHERE t.k = u.k",
        "t LEFT JOIN u ON true",
        // An outer join shows the rows of a side though ON is false: it proves nothing about that side.
        "t CROSS JOIN u LEFT JOIN r ON t.k = u.k",
        "r RIGHT JOIN (t CROSS JOIN u) ON t.k = u.k",
        "t JOIN u ON t.a = u.a + 1 LEFT JOIN o ON o.id = t.k AND u.k = t.k",
        "o FULL JOIN (t JOIN u ON t.a = u.a + 1) ON t.k = u.k AND t.k = o.id",
        "(t JOIN u ON t.a = u.a + 1) FULL JOIN o ON t.k = u.k AND t.k = o.id",
        "t LEFT JOIN (u CROSS JOIN o) ON u.k = o.id",
        "r LEFT JOIN t ON t.a = r.a",
        "t RIGHT JOIN r ON t.a = r.a",
        "t FULL JOIN r ON t.a = r.a",
        // The column that USING makes is the reference table's, or that of a table whose key is another.
        "t JOIN r USING (k) JOIN u USING (k)",
        "r JOIN t USING (k) JOIN u USING (k)",
        "t JOIN (r JOIN u USING (k)) USING (k)",
        "t JOIN o USING (k) JOIN u USING (k) WHERE o.id = t.k",
        "t NATURAL JOIN o",
        "t NATURAL JOIN w",
        "r NATURAL LEFT JOIN t",
        "t NATURAL JOIN r JOIN u USING (k)",
        "t NATURAL JOIN r NATURAL JOIN u",
        "t JOIN u USING (a)",
        "t JOIN u ON (t.k, 1) = (u.a, u.k)",
        "t JOIN u ON (t.k, t.a) <> (u.k, u.a)",
        "t JOIN u ON (t.k, t.a) IN ((u.k, 1), (u.a, 2))",
        "t JOIN u ON ROW(t.*) = ROW(u.k, u.a)",
        "(t JOIN u ON t.k = u.k) AS j",
        "t AS x (k, a), u WHERE x.k = u.k",
        "(SELECT * FROM t) s",
        "t, LATERAL (SELECT 1) s",
        "t, generate_series(1, 2)",
        "t TABLESAMPLE bernoulli (10)",
        "t UNION SELECT 1 FROM t",
    ] {
        let read = reading(&format!("SELECT 1 FROM {from}"));
        assert!(read.is_err(), "{from}: {read:?}");
    }
    for sql in ["WITH x AS (SELECT 1) SELECT 1 FROM t", "VALUES (1)", "TABLE t; TABLE t", "INSERT INTO t VALUES (1)"] {
        assert!(reading(sql).is_err(), "{sql}");
    }
}

#[test]
fn what_goes_as_it_stands() {
    for sql in [
        "SELECT * FROM t",
        "TABLE t",
        "SELECT a, lower(b) || 'x', CASE WHEN a > 1 THEN 2 END, $1::int FROM t WHERE a = $2 AND c > now()",
        "SELECT a FROM t WHERE a = ANY ($1) AND b LIKE 'x%' AND c BETWEEN 1 AND 2 AND d IS NULL AND e IN (1, 2)",
        "SELECT k, count(*) FROM t GROUP BY k",
        "SELECT k, sum(a) FROM t GROUP BY k, b HAVING count(*) > 1",
        "SELECT k AS x, sum(a) FROM t GROUP BY 1",
        "SELECT a, row_number() OVER (PARTITION BY k ORDER BY a) FROM t",
        "SELECT t.k, string_agg(u.b, ',' ORDER BY u.b) FROM t JOIN u ON t.k = u.k GROUP BY t.k",
        "SELECT random(), a FROM t",
        "SELECT t.*, r.* FROM t JOIN r ON t.a = r.a",
        "SELECT t.t, (c).* FROM t WHERE (a, b) = (1, 2)",
        "SELECT k FROM t WHERE b::tsvector @@ $1::tsquery",
        "SELECT a FROM t WHERE b = current_date AND c > localtimestamp(0) OR d < current_time",
        "SELECT a FROM t LIMIT ALL",
        "SELECT a FROM t LIMIT NULL OFFSET NULL",
    ] {
        let select = selected(sql);
        assert!(select.as_ref().is_ok_and(|select| select.plain), "{sql}: {select:?}");
    }
}

#[test]
fn what_is_refused() {
    for (sql, construct) in [
        ("SELECT f(a) FROM t", "function"),
        ("SELECT app.lower(a) FROM t", "function"),
        ("SELECT a FROM t WHERE f(a)", "function"),
        ("SELECT nextval('s') FROM t", "function"),
        ("SELECT pg_backend_pid() FROM t", "function"),
        ("SELECT now() FROM t", "clock"),
        ("SELECT current_date FROM t", "clock"),
        ("SELECT a FROM t WHERE b = current_user", "server_name"),
        ("SELECT a FROM t WHERE b = session_user AND c > current_date", "server_name"),
        ("SELECT a FROM t JOIN r ON r.a = current_catalog", "server_name"),
        ("SELECT current_schema FROM t", "server_name"),
        ("SELECT a FROM t ORDER BY b - now()", "clock"),
        ("SELECT 'now'::timestamptz FROM t", "clock"),
        ("SELECT coalesce(d, 'today') FROM t", "clock"),
        ("SELECT ROW(a, b), k FROM t", "row"),
        ("SELECT (a, b) FROM t", "row"),
        ("SELECT t FROM t", "row"),
        ("SELECT x, k FROM t x", "row"),
        ("SELECT k FROM t WHERE t = $1", "row"),
        ("SELECT to_jsonb(t) FROM t", "row"),
        ("SELECT to_jsonb(t.*) FROM t", "row"),
        ("SELECT k FROM t JOIN r ON t.a = r.a WHERE r.* IS NULL", "row"),
        ("SELECT (t).* FROM t", "row"),
        ("SELECT hashenum(a) FROM t", "function"),
        ("SELECT k FROM t WHERE b @@ 'x'", "text_search"),
        ("SELECT k FROM t WHERE b::tsvector @@ c", "text_search"),
        ("SELECT k FROM t WHERE b OPERATOR(pg_catalog.@@) c::tsquery", "text_search"),
        ("SELECT ctid FROM t", "system_column"),
        ("SELECT t.tableoid FROM t", "system_column"),
        ("SELECT t.count FROM t", "row_function"),
        ("SELECT 't'::regclass FROM t", "catalog_type"),
        ("SELECT unnest(a) FROM t", "set_function"),
        ("SELECT (SELECT 1) FROM t", "sub_query"),
        ("SELECT 1 FROM t WHERE EXISTS (SELECT 1)", "sub_query"),
        ("SELECT row_number() OVER () FROM t", "window"),
        ("SELECT rank() OVER (PARTITION BY a) FROM t", "window"),
        ("SELECT count(*) OVER w FROM t WINDOW w AS (PARTITION BY k)", "window"),
        ("SELECT a, count(*) FROM t GROUP BY ROLLUP (a)", "grouping_sets"),
        ("SELECT count(DISTINCT a) FROM t", "aggregate_distinct"),
        ("SELECT sum(DISTINCT k) FROM t", "aggregate_distinct"),
        ("SELECT count(DISTINCT k + 0) FROM t", "aggregate_distinct"),
        ("SELECT count(DISTINCT u.k) FROM t LEFT JOIN u ON t.k = u.k", "aggregate_distinct"),
        ("SELECT string_agg(a, ',') FROM t", "aggregate"),
        ("SELECT array_agg(a ORDER BY a) FROM t", "aggregate_order"),
        ("SELECT a + b, count(*) FROM t GROUP BY a", "expression_of_groups"),
        ("SELECT a, count(*) FROM t GROUP BY a HAVING b > 1", "expression_of_groups"),
        ("SELECT sum(a) + b FROM t", "expression_of_groups"),
        ("SELECT max(a) FROM t GROUP BY b ORDER BY sum(a) + c", "expression_of_groups"),
        ("SELECT a, count(*) FROM t GROUP BY a HAVING count(DISTINCT b) > 1", "aggregate_distinct"),
        ("SELECT max(a COLLATE \"C\") || 'x' FROM t", "collation"),
        ("SELECT lower(a COLLATE \"C\") || 'x' FROM t GROUP BY lower(a COLLATE \"C\")", "collation"),
        ("SELECT pgweir_0, count(*) + 1 FROM t GROUP BY pgweir_0", "name"),
        ("SELECT count(*) + 1 FROM t ORDER BY 'x'", "constant"),
        ("SELECT a FROM t ORDER BY a FETCH FIRST 2 ROWS WITH TIES", "with_ties"),
        ("SELECT a FROM t LIMIT 2 + 3", "limit"),
        ("SELECT a FROM t LIMIT (-1)::int4", "limit"),
        ("SELECT a FROM t LIMIT 1.5", "limit"),
        ("SELECT a FROM t LIMIT 32768::int2", "limit"),
        ("SELECT a FROM t OFFSET 2147483648::int4", "limit"),
        ("SELECT * FROM t ORDER BY 2", "ordinal"),
        ("SELECT a FROM t ORDER BY 2", "ordinal"),
        ("SELECT a FROM t ORDER BY 'x'", "constant"),
        ("SELECT a FROM t ORDER BY a USING <", "order_by_using"),
        ("SELECT DISTINCT ON (a) a, b FROM t", "distinct_on"),
        ("SELECT DISTINCT ON (a) a, b FROM t ORDER BY b, a", "distinct_on"),
        ("SELECT random() FROM t ORDER BY random()", "draws"),
        ("SELECT k, random() AS r FROM t ORDER BY r", "draws"),
        ("SELECT k, random() FROM t ORDER BY 1, 2 LIMIT 3", "draws"),
        ("SELECT a, sum(random()) AS s FROM t GROUP BY a ORDER BY s", "draws"),
        ("SELECT random() AS r, count(*) FROM t GROUP BY r", "draws"),
        ("SELECT upper(a)::text, upper(b) FROM t ORDER BY upper", "alias"),
    ] {
        let select = selected(sql);
        assert_eq!(select.as_ref().err().map(|unfit| unfit.construct), Some(construct), "{sql}: {select:?}");
    }
}

#[test]
fn clauses_are_taken_apart() {
    let sorts = |sql: &str| -> Vec<(String, bool, bool)> {
        let select = selected(sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        assert!(!select.plain && select.groups.is_none(), "{sql}");
        select.sort.into_iter().map(|s| (s.sql, s.descending, s.nulls_first)).collect()
    };
    let key = |sql: &str, descending, nulls_first| (sql.to_owned(), descending, nulls_first);
    assert_eq!(sorts("SELECT a FROM t ORDER BY b"), [key("b", false, false)]);
    assert_eq!(sorts("SELECT a FROM t ORDER BY b DESC, a NULLS FIRST"), [key("b", true, true), key("a", false, true)]);
    assert_eq!(sorts("SELECT a + 1 AS b FROM t ORDER BY b DESC NULLS LAST"), [key("a + 1", true, false)]);
    assert_eq!(sorts("SELECT a + 1 AS b FROM t ORDER BY b + 1"), [key("b + 1", false, false)]);
    assert_eq!(
        sorts("SELECT b, lower(a) FROM t ORDER BY 2, 1"),
        [key("lower(a)", false, false), key("b", false, false)]
    );
    assert_eq!(sorts("SELECT upper(b) FROM t ORDER BY upper"), [key("upper(b)", false, false)]);
    // A type names a column only where nothing that is cast does; `text` is a column of the table.
    assert_eq!(sorts("SELECT k, c::date FROM t ORDER BY c"), [key("c::date", false, false)]);
    assert_eq!(sorts("SELECT upper(b)::text FROM t ORDER BY text"), [key("text", false, false)]);
    assert_eq!(sorts("SELECT upper(b)::text FROM t ORDER BY upper"), [key("upper(b)::text", false, false)]);
    assert_eq!(sorts("SELECT (b || 'x')::varchar FROM t ORDER BY varchar"), [key("(b || 'x')::varchar", false, false)]);
    assert_eq!(
        sorts("SELECT CASE WHEN a THEN 1 ELSE b END, CASE WHEN a THEN 1 END FROM t ORDER BY b, \"case\""),
        [key("CASE WHEN a THEN 1 ELSE b END", false, false), key("CASE WHEN a THEN 1 END", false, false)]
    );
    assert_eq!(sorts("SELECT least(a, b) FROM t ORDER BY greatest"), [key("\"greatest\"", false, false)]);
    assert_eq!(
        sorts("SELECT (c).f::int4 FROM t ORDER BY f, c"),
        [key("(c).f::int4", false, false), key("c", false, false)]
    );
    assert_eq!(sorts("SELECT a + 1 FROM t ORDER BY \"?column?\""), [key("a + 1", false, false)]);
    assert_eq!(sorts("SELECT *, b FROM t ORDER BY a COLLATE \"C\""), [key("a COLLATE \"C\"", false, false)]);
    assert_eq!(sorts("SELECT a FROM t ORDER BY random()"), [key("random()", false, false)]);
    assert_eq!(sorts("SELECT random(), a FROM t ORDER BY 2"), [key("a", false, false)]);
    assert_eq!(sorts("SELECT k, max(a) FROM t GROUP BY k ORDER BY max(a)"), [key("max(a)", false, false)]);

    let select =
        selected("SELECT DISTINCT ON (b, a) c FROM t WHERE a = 'x''y' ORDER BY a, b, c LIMIT $2 OFFSET 3").unwrap();
    assert_eq!(select.distinct, Distinct::On(2, "b, a".to_owned()));
    assert_eq!((select.limit, select.offset), (Bound::Param(2, i64::MAX.unsigned_abs()), Bound::Rows(3)));
    assert_eq!(select.tail, " FROM t WHERE a = 'x''y'");
    assert_eq!(select.order_by, " ORDER BY a, b, c");

    let select =
        selected("SELECT t.b, count(*), sum(a) FILTER (WHERE k = 1) AS s FROM t GROUP BY b ORDER BY 2 DESC, b")
            .unwrap();
    let groups = select.groups.unwrap();
    assert_eq!(groups.keys, ["t.b"]);
    let whats: Vec<What> = select.targets.iter().map(|t| t.what).collect();
    assert_eq!(whats, [What::Key(0), What::Aggregate(0), What::Aggregate(1)]);
    assert_eq!(groups.aggregates[1].filter, " FILTER (WHERE k = 1)");
    let sorts: Vec<(What, bool)> = select.sort.iter().map(|s| (s.what, s.descending)).collect();
    assert_eq!(sorts, [(What::Aggregate(0), true), (What::Key(0), false)]);

    let bounded = selected("SELECT a FROM t LIMIT 32767::int2 OFFSET $1::int4").unwrap();
    assert_eq!((bounded.limit, bounded.offset), (Bound::Rows(32767), Bound::Param(1, i32::MAX.unsigned_abs().into())));
    let counted = selected("SELECT count(DISTINCT k), count(DISTINCT t.k) FILTER (WHERE b > 5), count(k) FROM t");
    let aggregates = counted.unwrap().groups.unwrap().aggregates;
    assert_eq!(aggregates.iter().map(|aggregate| aggregate.distinct).collect::<Vec<_>>(), [true, true, false]);
    let groups = selected("SELECT lower(b) AS x, max(a) FROM t GROUP BY x").unwrap().groups.unwrap();
    assert_eq!((groups.keys, groups.not_columns), (vec!["lower(b)".to_owned()], vec!["x".to_owned()]));
    // A cast column is grouped by as itself.
    let groups = selected("SELECT b::date, max(a) FROM t GROUP BY b").unwrap().groups.unwrap();
    assert_eq!((groups.keys, groups.not_columns), (vec!["b".to_owned()], Vec::new()));
    let bounds = |sql: &str| selected(sql).map(|select| (select.limit, select.offset)).unwrap();
    assert_eq!(bounds("SELECT a FROM t LIMIT -1 OFFSET -99999999999"), (Bound::Negative, Bound::Negative));
    let nullable = selected("SELECT u.k, count(*) FROM t LEFT JOIN u ON t.k = u.k GROUP BY u.k").unwrap();
    assert!(nullable.groups.is_some(), "the group of NULL lies on every shard");
    assert!(selected("SELECT t.k, count(*) FROM t LEFT JOIN u ON t.k = u.k GROUP BY t.k").unwrap().plain);
}

/// What is computed of whole groups is written over columns in the place of keys and aggregates.
#[test]
fn groups_are_finished_over_columns() {
    let finish = |sql: &str| {
        let select = selected(sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        let groups = select.groups.unwrap();
        (select.finish.unwrap(), groups.keys.len(), groups.aggregates.len())
    };
    let targets = |sql: &str| finish(sql).0.targets;
    assert_eq!(targets("SELECT count(*) * 2, coalesce(sum(a), 0) FROM t"), ["pgweir_0 * 2", "COALESCE(pgweir_1, 0)"]);
    assert_eq!(targets("SELECT sum(a) / count(*), sum(a) FROM t"), ["pgweir_0 / pgweir_1", "pgweir_0"]);
    assert_eq!(
        targets("SELECT (a % 5) * 2, a % 5, max(b) || 'x' FROM t GROUP BY a % 5"),
        ["pgweir_0 * 2", "pgweir_0", "pgweir_1 || 'x'"]
    );
    assert_eq!(targets("SELECT t.a + 1, 1 FROM t GROUP BY a"), ["pgweir_0 + 1", "1"], "one table has one column a");
    assert_eq!(
        targets("SELECT CASE WHEN a IS NULL THEN sum(b) FILTER (WHERE c > 1) ELSE $1 END FROM t GROUP BY a"),
        ["CASE WHEN pgweir_0 IS NULL THEN pgweir_1 ELSE $1 END"]
    );
    assert_eq!(
        targets("SELECT upper(a COLLATE \"C\") FROM t GROUP BY a COLLATE \"C\""),
        ["upper(pgweir_0 COLLATE \"C\")"],
        "a collation that is named goes before others"
    );
    let (having, keys, aggregates) =
        finish("SELECT b FROM t GROUP BY b, c HAVING count(*) > $1 AND c < 3 ORDER BY max(a) - min(a) DESC, 1");
    assert_eq!((having.needed, keys, aggregates), (true, 2, 3));
    assert_eq!(having.having.unwrap(), "pgweir_2 > $1 AND pgweir_1 < 3");
    let sort: Vec<String> = having.sort.iter().map(Sort::clause).collect();
    assert_eq!(sort, ["(pgweir_3 - pgweir_4) DESC NULLS FIRST", "(pgweir_0) ASC NULLS LAST"]);
    assert!(!finish("SELECT b, count(*) FROM t GROUP BY b").0.needed);
    assert_eq!(finish("SELECT 1 FROM t HAVING true").2, 1, "the group is seen by a count");
}

#[test]
fn parameters_that_are_seen() {
    let shown = |sql: &str| reading(sql).unwrap().shown_params;
    assert_eq!(shown("SELECT coalesce(d, $2) FROM t WHERE a = $1 LIMIT $3"), [2]);
    assert_eq!(shown("SELECT $1::timestamptz, k, max(a) FROM t GROUP BY k, b || $2 ORDER BY c - $3"), [1, 3, 2]);
    for (value, present) in [("now", true), (" ToDay 04:05", true), ("nowhere", false), ("2020-01-01", false)] {
        assert_eq!(is_present(value.as_bytes()), present, "{value}");
    }
}

#[test]
fn lists_are_those_that_every_row_obeys() {
    let count = |sql: &str| reading(sql).unwrap().lists.len();
    assert_eq!(count("SELECT 1 FROM t WHERE k = 1 AND a IN (1, 2) AND b = ANY ($1)"), 3);
    assert_eq!(count("SELECT 1 FROM t JOIN u ON t.k = u.k AND t.k IN (1, 2)"), 1);
    assert_eq!(count("SELECT 1 FROM t LEFT JOIN u ON t.k = u.k AND t.k IN (1, 2)"), 0);
    assert_eq!(count("SELECT 1 FROM t WHERE k NOT IN (1, 2) AND k <> ALL ($1) AND (k = 1 OR a = 2) AND NOT k = 1"), 0);
}

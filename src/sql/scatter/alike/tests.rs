//! What is told apart, and that no place of a statement is forgotten.

use proptest::prelude::*;

use super::*;

fn construct<T>(checked: &Result<T, Unfit>) -> &'static str {
    checked.as_ref().err().map_or("", |unfit| unfit.construct)
}

#[test]
fn what_differs_between_shards_is_not_for_all() {
    for (text, of_rows, of_reference) in [
        ("UPDATE t SET n = n + 1, v = upper(v) WHERE v LIKE 'a%' RETURNING *", "", ""),
        ("DELETE FROM t", "", ""),
        // Which rows are meant may depend on the clock a little, but copies must stay alike.
        ("DELETE FROM t WHERE at < now()", "", "clock"),
        ("UPDATE t SET n = random()", "", "random"),
        ("UPDATE t SET at = now()", "clock", "clock"),
        ("UPDATE t SET v = (SELECT 'a')", "sub_query", "sub_query"),
        ("UPDATE t SET v = f(v)", "function", "function"),
        ("DELETE FROM t RETURNING ctid", "system_column", "system_column"),
        ("WITH a AS (SELECT 1) DELETE FROM t", "statement", "statement"),
        ("INSERT INTO t (a, b) VALUES (1, DEFAULT) ON CONFLICT DO NOTHING", "statement", ""),
        ("INSERT INTO t (a, b) VALUES (1, now())", "statement", "clock"),
        ("INSERT INTO t SELECT 1", "statement", "place"),
        ("INSERT INTO t (VALUES (1), (2)) ORDER BY random() LIMIT 1", "statement", "place"),
    ] {
        assert_eq!(construct(&unkeyed(text)), of_rows, "{text}");
        assert_eq!(construct(&reference(text)), of_reference, "{text}");
    }
}

#[test]
fn columns_that_are_set_to_their_defaults_are_told() {
    for (text, columns) in [
        ("UPDATE t SET at = DEFAULT, n = 1, v = DEFAULT WHERE n = 2", &["at", "v"][..]),
        ("UPDATE t SET n = 1", &[]),
        ("INSERT INTO t (a, at) VALUES (1, '2024-01-02') ON CONFLICT (a) DO UPDATE SET b = 1, at = DEFAULT", &["at"]),
        // What VALUES give is counted by rows.
        ("INSERT INTO t (a, at) VALUES (1, DEFAULT)", &[]),
        ("DELETE FROM t", &[]),
    ] {
        assert_eq!(reference(text).unwrap(), columns, "{text}");
    }
    // Among several at once it is not looked for.
    assert!(reference("UPDATE t SET (at, n) = (DEFAULT, 1)").is_err());
}

#[test]
fn what_stands_beside_the_table_is_looked_at() {
    for (text, of_rows, of_reference) in [
        (
            "UPDATE t SET at = v.at FROM (VALUES (1, now()), (2, now())) AS v (id, at) WHERE t.n = v.id",
            "clock",
            "clock",
        ),
        ("UPDATE t SET at = v.at FROM (VALUES (1, 'now')) AS v (id, at) WHERE t.n = v.id", "clock", "clock"),
        ("UPDATE t SET at = s.now FROM (SELECT now() AS now) s", "clock", "clock"),
        ("UPDATE t SET n = s.x FROM (SELECT (random() * 1000)::int AS x) s", "random", "random"),
        ("UPDATE t SET v = x FROM random() x", "from_function", "from_function"),
        ("UPDATE t SET v = s.x FROM (SELECT v AS x FROM r ORDER BY v LIMIT 1) s", "sub_query", "sub_query"),
        ("UPDATE t SET v = s.x FROM (VALUES (1), (2) LIMIT 1) s (x)", "sub_query", "sub_query"),
        ("UPDATE t SET v = s.x FROM (SELECT 1 UNION SELECT 2) s (x)", "sub_query", "sub_query"),
        ("UPDATE t SET v = r.v FROM r TABLESAMPLE system (50) WHERE r.n = t.n", "tablesample", "tablesample"),
        ("DELETE FROM t USING (SELECT floor(random() * 5)::int AS c) s WHERE t.n = s.c", "random", "random"),
        ("DELETE FROM t USING (VALUES (1), (2)) s (c) WHERE t.n = s.c AND random() < 0.5", "random", "random"),
        ("DELETE FROM t USING (VALUES (1), (2)) s (c) WHERE t.n = s.c", "", ""),
        ("DELETE FROM t USING (VALUES ('a'), ('b')) s (c) WHERE t.v = s.c RETURNING s", "row", "row"),
        ("UPDATE t SET v = r.v FROM r WHERE r.n = t.n", "", "from"),
        (
            "UPDATE t SET v = r.v FROM r JOIN r q ON q.n = r.n AND q.v = current_database() WHERE r.n = t.n",
            "function",
            "from",
        ),
        ("UPDATE t SET v = r.v FROM r JOIN r q ON random() < 0.5", "random", "from"),
        ("UPDATE t SET v = r.v FROM r LEFT JOIN r q ON true", "from", "from"),
        ("UPDATE t SET a[(random() * 5)::int] = 1", "", "random"),
        ("UPDATE t SET a[extract(second from now())::int] = 1", "clock", "clock"),
    ] {
        assert_eq!(construct(&unkeyed(text)), of_rows, "{text}");
        assert_eq!(construct(&reference(text)), of_reference, "{text}");
    }
}

#[test]
fn copies_are_changed_by_one_row_each() {
    for (text, is_told) in [
        ("UPDATE r SET v = s.v FROM (VALUES (1, 'a')) s (n, v)", true),
        ("UPDATE r SET v = s.v FROM (SELECT 'a' AS v) s", true),
        ("UPDATE r SET v = s.v FROM (VALUES (1, 'a'), (2, 'b')) s (n, v) WHERE r.n = s.n", true),
        (
            "UPDATE r AS t SET v = s.v FROM (VALUES (1::int8, 'a'), (-2, 'b')) s (n, v) WHERE s.n = t.n AND t.v <> ''",
            true,
        ),
        ("UPDATE r SET v = s.column2 FROM (VALUES (1, 'a'), (2, 'b')) s WHERE r.n = s.column1", true),
        ("UPDATE r SET v = s.v FROM (VALUES (1, 'a'), (2, 'b')) s (n, v), (VALUES (5)) w (x) WHERE r.n = s.n", true),
        ("UPDATE r SET v = s.v FROM (VALUES (1, 'a'), (1, 'b')) s (n, v) WHERE r.n = s.n", false),
        ("UPDATE r SET v = s.v FROM (VALUES (1, 'a'), ($1, 'b')) s (n, v) WHERE r.n = s.n", false),
        // They may be equal by a collation.
        ("UPDATE r SET v = s.v FROM (VALUES ('a', 'a'), ('A', 'b')) s (n, v) WHERE r.n = s.n", false),
        ("UPDATE r SET v = s.v FROM (VALUES (1::text, 'a'), (2::text, 'b')) s (n, v) WHERE r.n = s.n", false),
        ("UPDATE r SET v = s.v FROM (VALUES (1, 'a'), (2, 'b')) s (n, v) WHERE n = s.n", false),
        ("UPDATE r SET v = s.v FROM (VALUES (1, 'a'), (2, 'b')) s (n, v) WHERE r.n = s.n OR r.n = 1", false),
        ("UPDATE r SET v = s.v FROM (VALUES (1, 'a'), (2, 'b')) s (n, v) WHERE r.n >= s.n", false),
        ("UPDATE r SET v = s.v FROM (VALUES (1, 'a'), (2, 'b')) s (n, v) WHERE s.n = s.n", false),
        ("UPDATE r SET v = s.v FROM (VALUES (1, 'a'), (2, 'b')) s (n, v) WHERE r.v = s.v", false),
        ("UPDATE r SET v = s.v FROM (VALUES (1, 2), (2, 2)) s (n, v) WHERE r.n = s.v", false),
        ("UPDATE r SET v = s.v FROM (VALUES (1), (2)) s (n), (VALUES (1), (2)) w (v) WHERE r.n = s.n", false),
        ("UPDATE r SET v = 'x' FROM (VALUES (1), (2)) s (n)", false),
    ] {
        assert_eq!(construct(&reference(text)), if is_told { "" } else { "from" }, "{text}");
        assert_eq!(unkeyed(text), Ok(()), "{text}");
    }
}

/// Expressions that are not the same on every shard, with `of_rows` if a row of its own may have one.
const EXPRESSIONS: [(&str, bool); 9] = [
    ("random()", true),
    ("abs(clock_timestamp() - now())", false),
    ("now()", false),
    ("CURRENT_TIMESTAMP", false),
    ("current_database()", false),
    ("CURRENT_USER", false),
    ("nextval('s')", false),
    ("own(1)", false),
    ("(SELECT max(x) FROM r2)", false),
];

/// Expressions around one.
const AROUND: [&str; 16] = [
    "?",
    "(? IS NULL)::int",
    "coalesce(?, NULL)",
    "CASE WHEN ? IS NULL THEN 1 ELSE 2 END",
    "CASE ? WHEN NULL THEN 1 END",
    "CASE WHEN true THEN ? END",
    "ARRAY[1, ?]",
    "(ARRAY[1, 2])[?]",
    "(? || 'a') COLLATE \"C\"",
    "(1 IN (2, ?))",
    "(1 BETWEEN 2 AND ?)",
    "(1 = ANY (ARRAY[?]))",
    "greatest(1, ?)",
    "(NOT (? IS DISTINCT FROM 1))",
    "CAST(? AS text)",
    "lower(lower(?))",
];

/// Statements with a place for an expression, and whether it only decides which rows count.
const PLACES: [(&str, bool); 33] = [
    ("UPDATE t SET v = ?", false),
    ("UPDATE t SET n = 1, v = ? WHERE n = 2", false),
    ("UPDATE t SET (n, v) = (1, ?)", false),
    ("UPDATE t SET (n, v) = ROW(1, ?)", false),
    ("UPDATE t SET (n, v) = (SELECT 1, ?)", false),
    ("UPDATE t SET a[?] = 1", false),
    ("UPDATE t SET a[1:?] = '{}'", false),
    ("UPDATE t SET c.f[?].g = 1", false),
    ("UPDATE t SET v = 1 WHERE v = ?", true),
    ("UPDATE t SET v = 1 WHERE n = 1 OR NOT v < ?", true),
    ("UPDATE t SET v = 1 RETURNING ?", false),
    ("UPDATE t SET v = 1 RETURNING v, ? AS x", false),
    ("UPDATE t SET v = s.x FROM (VALUES (?)) s (x)", false),
    ("UPDATE t SET v = s.x FROM (VALUES (1, 2), (2, ?)) s (y, x) WHERE s.y = t.n", false),
    ("UPDATE t SET v = s.x FROM (SELECT ? AS x) s", false),
    ("UPDATE t SET v = s.x FROM (SELECT 1 AS x WHERE ? IS NULL) s", false),
    ("UPDATE t SET v = s.x FROM (SELECT 1 AS x ORDER BY ?) s", false),
    ("UPDATE t SET v = s.x FROM (SELECT 1 AS x LIMIT ?) s", false),
    ("UPDATE t SET v = s.x FROM (SELECT 1 AS x GROUP BY ? HAVING ? IS NULL) s", false),
    ("UPDATE t SET v = s.x FROM (SELECT count(*) OVER w AS x WINDOW w AS (PARTITION BY ?)) s", false),
    ("UPDATE t SET v = s.x FROM (WITH w AS (SELECT ? AS x) SELECT x FROM w) s", false),
    ("UPDATE t SET v = s.x FROM LATERAL (VALUES (t.n, ?)) s (y, x)", false),
    ("UPDATE t SET v = s.x FROM own(?) s (x)", false),
    ("UPDATE t SET v = s.x FROM ROWS FROM (own(?)) s (x)", false),
    ("UPDATE t SET v = s.x FROM json_table(?, '$' COLUMNS (x int PATH '$.x')) s", false),
    ("UPDATE t SET v = s.x FROM xmltable('/a' PASSING (?) COLUMNS x int PATH 'b') s", false),
    ("UPDATE t SET v = s.x FROM (VALUES (1)) s (x) JOIN (VALUES (2)) u (y) ON s.x = ?", true),
    ("UPDATE t SET v = s.x FROM (VALUES (1)) s (x) LEFT JOIN (VALUES (2)) u (y) ON s.x = ?", true),
    ("UPDATE t SET v = r.v FROM r TABLESAMPLE bernoulli (?)", false),
    ("WITH w AS (SELECT ? AS x) UPDATE t SET v = w.x FROM w", false),
    ("DELETE FROM t WHERE v = ?", true),
    ("DELETE FROM t USING (VALUES (?)) s (x) WHERE t.n = s.x RETURNING ?", false),
    ("DELETE FROM t USING (VALUES (1)) s (x) JOIN (VALUES (2)) u (y) ON u.y = ? WHERE t.n = s.x", true),
];

/// The same of INSERT, which is one for reference tables alone, or split by its rows.
const INSERTS: [&str; 15] = [
    "INSERT INTO t (k, v) VALUES (1, 2), (2, ?)",
    "INSERT INTO t (k, v) VALUES (1, 2), (2, 3) RETURNING ?",
    "INSERT INTO t (k, a[?]) VALUES (1, 2), (2, 3)",
    "INSERT INTO t (k, v) VALUES (1, 2), (2, 3) ON CONFLICT (k) DO UPDATE SET v = ?",
    "INSERT INTO t (k, v) VALUES (1, 2), (2, 3) ON CONFLICT (k) DO UPDATE SET a[?] = 1",
    "INSERT INTO t (k, v) VALUES (1, 2), (2, 3) ON CONFLICT (k) DO UPDATE SET v = 1 WHERE t.v = ?",
    "INSERT INTO t (k, v) VALUES (1, 2), (2, 3) ON CONFLICT (k, (?)) DO NOTHING",
    "INSERT INTO t (k, v) VALUES (1, 2), (2, 3) ON CONFLICT (k) WHERE v = ? DO NOTHING",
    "INSERT INTO t (k, v) VALUES (1, 2), (2, 3) ON CONFLICT (k) DO UPDATE SET (v, n) = (1, ?)",
    "INSERT INTO t (k, v) (VALUES (1, 2), (2, 3)) ORDER BY ?",
    "INSERT INTO t (k, v) (VALUES (1, 2), (2, 3)) LIMIT ?",
    "INSERT INTO t (k, v) (VALUES (1, 2), (2, 3)) OFFSET ?",
    "INSERT INTO t (k, v) WITH w AS (SELECT ?) VALUES (1, 2), (2, 3)",
    "INSERT INTO t (k, v) SELECT 1, ?",
    "WITH w AS (SELECT ?) INSERT INTO t (k, v) VALUES (1, 2), (2, 3)",
];

#[test]
fn no_place_is_forgotten() {
    for (around, (expression, of_rows)) in AROUND.iter().flat_map(|around| EXPRESSIONS.map(|of| (around, of))) {
        let put = |place: &str| place.replace('?', &around.replace('?', expression));
        for (place, is_condition) in PLACES {
            let text = put(place);
            assert!(pg_raw_parse::parse(&text).is_ok(), "{text}");
            assert!(reference(&text).is_err(), "{text}");
            let joined = ["FROM (", "FROM LATERAL", "USING ("].iter().any(|word| text.contains(word));
            let is_clock = expression.contains("now()") || expression == "CURRENT_TIMESTAMP";
            let may = (of_rows && !joined) || (is_clock && is_condition);
            assert!(may || unkeyed(&text).is_err(), "{text}");
        }
        for place in INSERTS {
            let text = put(place);
            assert!(pg_raw_parse::parse(&text).is_ok(), "{text}");
            assert!(reference(&text).is_err(), "{text}");
            assert!(super::super::rows(&text, &["k"]).is_err(), "{text}");
        }
    }
    // And with what is the same everywhere the places that are looked at are allowed.
    let harmless = |place: &&str| reference(&place.replace('?', "1")).is_ok();
    let places: Vec<&str> = PLACES.iter().map(|(place, _)| *place).filter(|place| harmless(place)).collect();
    assert_eq!(places.len(), 17, "{places:?}");
    let inserts: Vec<&str> = INSERTS.into_iter().filter(harmless).collect();
    assert_eq!(inserts.len(), 8, "{inserts:?}");
}

/// Harmless expressions.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![Just("n".to_owned()), Just("1".to_owned()), Just("$1".to_owned()), Just("'a'".to_owned())];
    leaf.prop_recursive(3, 12, 3, |inner| {
        (0..AROUND.len(), inner).prop_map(|(around, inner)| AROUND[around].replace('?', &inner))
    })
}

proptest! {
    /// One expression that differs makes the difference, whatever stands around it.
    #[test]
    fn one_that_differs_is_found(place in 0..PLACES.len(), around in expression(), of in 0..EXPRESSIONS.len()) {
        let (place, _) = PLACES[place];
        let text = place.replace('?', &format!("coalesce(({around})::text, ({})::text)", EXPRESSIONS[of].0));
        prop_assert!(pg_raw_parse::parse(&text).is_ok(), "{text}");
        prop_assert!(reference(&text).is_err(), "{text}");
    }
}

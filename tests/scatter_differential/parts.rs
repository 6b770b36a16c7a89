//! Statements of several queries: where all ask for one key they are answered, where the keys differ they may be refused. What looks like
//! a proof and is none is among them.

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// KEY is a key, OTHER mostly the same, COND a condition on t.
const STATEMENTS: [(&str, &str); 55] = [
    ("part_exists", "SELECT EXISTS (SELECT 1 FROM t WHERE k = KEY AND COND), EXISTS (SELECT 1 FROM o WHERE k = OTHER)"),
    ("part_exists", "SELECT CASE WHEN EXISTS (SELECT 1 FROM o WHERE k = KEY) THEN 1 ELSE 0 END"),
    ("part_exists", "SELECT k, v FROM t WHERE k = KEY AND EXISTS (SELECT 1 FROM o WHERE o.k = t.k AND id > 1)"),
    ("part_exists", "SELECT k FROM t WHERE k = KEY AND NOT EXISTS (SELECT 1 FROM o WHERE o.k = t.k OR o.id = 2)"),
    ("part_exists", "SELECT k FROM t WHERE k = KEY OR EXISTS (SELECT 1 FROM o WHERE o.k = t.k AND o.k = OTHER)"),
    ("part_exists", "SELECT k FROM t WHERE EXISTS (SELECT 1 FROM o WHERE o.k = t.k AND t.k = KEY)"),
    ("part_exists", "SELECT k FROM t WHERE k = KEY AND EXISTS (SELECT 1 FROM o WHERE k = k)"),
    (
        "part_exists",
        "SELECT k FROM t WHERE k = KEY AND EXISTS (SELECT 1 FROM t, o JOIN o p ON o.k = t.k AND p.k = t.k)",
    ),
    ("part_scalar", "SELECT (SELECT count(*) FROM o WHERE k = KEY), (SELECT max(g) FROM t WHERE k = OTHER)"),
    ("part_scalar", "SELECT v, (SELECT count(*) FROM o WHERE o.k = t.k) FROM t WHERE k = KEY AND COND"),
    ("part_scalar", "SELECT id FROM o WHERE k = KEY AND amount > (SELECT min(amount) FROM o WHERE k = OTHER)"),
    ("part_scalar", "SELECT k, (SELECT name FROM r WHERE code = g) FROM t WHERE k = KEY"),
    ("part_in", "SELECT k FROM t WHERE k IN (SELECT k FROM o WHERE k = KEY)"),
    ("part_in", "SELECT k FROM t WHERE k NOT IN (SELECT k FROM o WHERE k = KEY)"),
    ("part_in", "SELECT k FROM t WHERE k = KEY AND g NOT IN (SELECT id FROM o WHERE k = OTHER)"),
    ("part_in", "SELECT k FROM t WHERE k = KEY AND g IN (SELECT code FROM r)"),
    ("part_in", "SELECT k FROM t WHERE k = ANY (SELECT id FROM o WHERE k = KEY)"),
    ("part_from", "SELECT * FROM (SELECT k, g FROM t WHERE k = KEY AND COND) s"),
    ("part_from", "SELECT * FROM (SELECT k, g FROM t) s WHERE s.k = KEY"),
    ("part_from", "SELECT s.g, o.id FROM (SELECT k, g FROM t WHERE k = KEY) s JOIN o ON o.k = s.k"),
    ("part_from", "SELECT s.g, o.id FROM (SELECT g AS k, g FROM t WHERE k = KEY) s JOIN o ON o.k = s.k"),
    (
        "part_from",
        "SELECT s.g, o.id FROM (SELECT g AS k, k AS g FROM t WHERE k = KEY) s (k, g) LEFT JOIN o ON o.k = s.g AND o.k = OTHER",
    ),
    ("part_from", "SELECT t.v, s.k FROM t JOIN (VALUES (KEY), (OTHER)) s (k) ON s.k = t.k"),
    ("part_from", "SELECT t.v, s.k FROM t JOIN (VALUES (KEY), (OTHER)) s (k) USING (k)"),
    (
        "part_lateral",
        "SELECT t.g, s.id FROM t, LATERAL (SELECT id FROM o WHERE o.k = t.k ORDER BY id LIMIT 1) s WHERE t.k = KEY",
    ),
    (
        "part_lateral",
        "SELECT t.g, s.id FROM t LEFT JOIN LATERAL (SELECT id FROM o WHERE o.k = t.k AND COND) s ON true WHERE t.k = KEY",
    ),
    ("part_lateral", "SELECT s.n FROM t, LATERAL (SELECT count(*) AS n FROM o WHERE o.k = t.k + 1) s WHERE t.k = KEY"),
    ("part_union", "SELECT g FROM t WHERE k = KEY UNION ALL SELECT id FROM o WHERE k = OTHER"),
    ("part_union", "SELECT g FROM t WHERE k = KEY UNION SELECT code FROM r"),
    ("part_union", "SELECT id FROM o WHERE k = KEY EXCEPT SELECT g FROM t WHERE k = OTHER"),
    ("part_union", "SELECT id FROM o WHERE k = KEY INTERSECT SELECT id FROM o WHERE COND"),
    (
        "part_with",
        "WITH x AS (SELECT * FROM o WHERE k = KEY) SELECT x.id, t.v FROM x JOIN t ON t.k = x.k WHERE t.k = OTHER",
    ),
    ("part_with", "WITH x AS (SELECT * FROM o WHERE k = KEY) SELECT x.id, t.v FROM x JOIN t USING (k)"),
    ("part_with", "WITH x AS (SELECT id, id AS k FROM o WHERE o.k = KEY) SELECT x.id, t.v FROM x JOIN t USING (k)"),
    (
        "part_with",
        "WITH x AS (SELECT k FROM o WHERE k = KEY UNION ALL SELECT code FROM r) SELECT t.v FROM x JOIN t USING (k)",
    ),
    ("part_with", "WITH t AS (SELECT 1 AS k) SELECT o.id FROM t, o WHERE o.k = KEY"),
    ("part_with", "WITH o AS (SELECT * FROM o WHERE k = KEY) SELECT count(*) FROM o"),
    ("part_with", "WITH x AS (SELECT * FROM o) SELECT x.id FROM x JOIN t ON t.k = KEY AND x.id = t.g"),
    (
        "part_with",
        "WITH x AS MATERIALIZED (SELECT k, count(*) AS n FROM o WHERE k = KEY GROUP BY k) SELECT t.g, n FROM t LEFT JOIN x ON x.k = t.k WHERE t.k = OTHER",
    ),
    (
        "part_recursive",
        "WITH RECURSIVE x AS (SELECT id FROM o WHERE k = KEY AND id = 1 UNION SELECT o.id FROM o JOIN x ON o.id = x.id + 1 WHERE o.k = OTHER) SELECT * FROM x",
    ),
    (
        "part_recursive",
        "WITH RECURSIVE x AS (SELECT k FROM t WHERE k = KEY UNION SELECT k + 1 FROM x WHERE k < 20) SELECT o.id FROM x JOIN o ON o.k = x.k",
    ),
    ("part_rows", "SELECT k, id FROM o WHERE (k, id) = (KEY, 1)"),
    ("part_rows", "SELECT k, id FROM o WHERE (id, k) IN ((1, KEY), (2, OTHER), (2, KEY))"),
    ("part_rows", "SELECT k, g FROM t WHERE (k, g) IN ((KEY, NULL), (OTHER, 2), (KEY, 3)) OR COND"),
    ("part_rows", "SELECT t.g, o.id FROM t JOIN o ON (t.k, 1) = (o.k, o.id) WHERE (t.k, 2) = (KEY, t.g) OR COND"),
    ("part_rows", "SELECT count(*) FROM t WHERE (k, g) < (KEY, 3)"),
    ("part_rows", "SELECT k, g FROM t WHERE k BETWEEN KEY AND KEY AND COND"),
    ("part_natural", "SELECT t.g, id FROM t NATURAL JOIN o WHERE t.k = KEY AND COND"),
    ("part_natural", "SELECT k, g, id FROM t NATURAL LEFT JOIN o WHERE COND"),
    ("part_natural", "SELECT count(*), sum(id) FROM o NATURAL JOIN o AS p"),
    ("part_natural", "SELECT o.k, count(*) FROM t NATURAL FULL JOIN o WHERE o.k IN (KEY, OTHER) GROUP BY o.k"),
    ("part_natural", "SELECT t.k, name FROM t NATURAL JOIN r WHERE COND"),
    ("part_join", "SELECT k, t.g, o.id FROM t JOIN o USING (k) WHERE k = KEY AND COND"),
    ("part_join", "SELECT k, t.g, o.id FROM t LEFT JOIN o USING (k) WHERE k = KEY"),
    ("part_join", "SELECT t.g, o.id FROM t LEFT JOIN o ON o.k = t.k AND o.k = KEY WHERE t.k = OTHER"),
];

const CONDITIONS: [&str; 6] = ["true", "false", "g = 2", "g IS NULL", "g > 1", "g < 3 OR g = 5"];

/// A statement, and what it is a test of.
pub(crate) fn generate(rng: &mut SmallRng, keys: i64) -> (&'static str, String) {
    let (construct, sql) = *STATEMENTS.choose(rng).unwrap();
    (construct, fill(sql, rng, keys))
}

/// Each of them once.
pub(crate) fn all(keys: i64) -> Vec<(&'static str, String)> {
    let mut rng = SmallRng::seed_from_u64(7);
    STATEMENTS.iter().map(|(construct, sql)| (*construct, fill(sql, &mut rng, keys))).collect()
}

fn fill(sql: &str, rng: &mut SmallRng, keys: i64) -> String {
    let key = rng.random_range(1..=keys + 5);
    let other = if rng.random_bool(0.75) { key } else { rng.random_range(1..=keys) };
    let written = |key: i64, rng: &mut SmallRng| match rng.random_range(0..4) {
        0 => format!("'{key}'"),
        1 => format!("{key}::int8"),
        _ => key.to_string(),
    };
    let bare = sql.contains("VALUES (KEY)") || sql.contains("WITH t AS");
    let (key, other) =
        if bare { (key.to_string(), other.to_string()) } else { (written(key, rng), written(other, rng)) };
    let condition = if sql.contains("FROM o WHERE COND") || sql.contains("= t.k AND COND") {
        "id > 1"
    } else {
        CONDITIONS.choose(rng).unwrap()
    };
    sql.replace("KEY", &key).replace("OTHER", &other).replace("COND", &format!("({condition})"))
}

//! Statements that read `t`, `o` and `r`: the grammar that is merged, and what others answer wrongly.

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use crate::compare::{Param, Query, Value};
use crate::data::KEYS;
use crate::parts;

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

/// A statement about `t`, `o` and `r`.
pub(crate) fn generate(rng: &mut SmallRng) -> Query {
    let mut params = Vec::new();
    let pick = |rng: &mut SmallRng, from: &[&str]| (*from.choose(rng).unwrap()).to_owned();
    let mut condition = String::new();
    if rng.random_bool(0.6) {
        condition = format!(" WHERE {}", pick(rng, &CONDITIONS));
    } else if rng.random_bool(0.4) {
        condition = " WHERE g = $1".to_owned();
        let mut value = || Some(Value::int4(rng.random_range(0..7)));
        params.push(Param { oid: 0, values: [value(), value()] });
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
            Query::new(construct, sql, false)
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
            Query { construct: if ordered { "order_by" } else { "rows" }, sql, ordered, params, data: None }
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
            Query {
                construct: if ordered { "distinct_order_by" } else { "distinct" },
                sql,
                ordered,
                params,
                data: None,
            }
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
            Query { construct, sql, ordered, params, data: None }
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
            Query { construct: if grouped { "group_by" } else { "aggregate" }, sql, ordered, params, data: None }
        }
        _ => {
            let (construct, sql) = OTHERS.choose(rng).unwrap();
            Query::new(construct, (*sql).to_owned(), is_ordered(sql))
        }
    }
}

/// Whether it says in which order its rows come; what stands in OVER says nothing of it.
fn is_ordered(sql: &str) -> bool {
    sql.contains("ORDER BY") && !sql.contains("OVER")
}

/// Each of the written ones once.
pub(crate) fn all() -> Vec<Query> {
    let others = OTHERS.iter().map(|(construct, sql)| Query::new(construct, (*sql).to_owned(), is_ordered(sql)));
    others.chain(parts::all(KEYS).into_iter().map(|(construct, sql)| Query::new(construct, sql, false))).collect()
}

/// A condition on `t` alone.
pub(crate) fn condition(rng: &mut SmallRng) -> &'static str {
    CONDITIONS.choose(rng).unwrap()
}

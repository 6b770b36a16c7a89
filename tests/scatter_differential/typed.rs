//! Statements that read tables by keys of every type.

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use crate::compare::Query;
use crate::writer::{About, Writer};

/// `@` and a word: see [`Writer::fill`].
const STATEMENTS: [(&str, &str); 55] = [
    ("typed_rows", "SELECT k, g, c FROM @a WHERE @key(k)"),
    ("typed_rows", "SELECT * FROM @a WHERE @key(k)"),
    ("typed_rows", "SELECT g, n FROM @a x WHERE @key(x.k) AND @cond(x.)"),
    ("typed_rows", "SELECT k, g FROM @a WHERE @cond() AND @key(k) ORDER BY g@dir, k@dir@limit"),
    ("typed_rows", "SELECT k FROM @a WHERE @key(k) OR @cond()"),
    ("typed_rows", "SELECT k, id, note FROM @b WHERE @key(k) AND @bcond() ORDER BY id@dir, k@limit"),
    ("typed_rows", "SELECT k, c FROM @a ORDER BY k@dir@limit"),
    ("typed_groups", "SELECT count(*), min(g), sum(n) FROM @a WHERE @key(k)"),
    ("typed_groups", "SELECT k, count(*), sum(amount) FROM @b WHERE @key(k) GROUP BY k"),
    ("typed_groups", "SELECT id, count(*), sum(amount) FROM @b WHERE @key(k) GROUP BY id ORDER BY id@dir"),
    ("typed_groups", "SELECT k, max(id) FROM @b GROUP BY k HAVING count(*) > 1 ORDER BY k@dir@limit"),
    ("typed_groups", "SELECT count(DISTINCT k), count(k) FROM @b WHERE @bcond()"),
    ("typed_groups", "SELECT count(*) FILTER (WHERE @key(k)) FROM @a"),
    ("typed_groups", "SELECT CASE WHEN @key(k) THEN 1 ELSE 0 END, count(*) FROM @a GROUP BY 1"),
    ("typed_groups", "SELECT max(k COLLATE \"C\"), min(k) FROM @a"),
    ("typed_distinct", "SELECT DISTINCT k FROM @b WHERE @key(k)"),
    ("typed_distinct", "SELECT DISTINCT k FROM @b ORDER BY k@dir"),
    ("typed_distinct", "SELECT DISTINCT ON (k) k, id, note FROM @b WHERE @bcond() ORDER BY k, id@dir"),
    ("typed_window", "SELECT k, id, row_number() OVER (PARTITION BY k ORDER BY id) FROM @b WHERE @key(k)"),
    ("typed_join", "SELECT x.k, x.g, y.id FROM @a x JOIN @b y ON x.k = y.k WHERE @key(x.k)"),
    ("typed_join", "SELECT x.g, y.id, y.amount FROM @a x JOIN @b y ON y.k = x.k AND @key(y.k) WHERE @cond(x.)"),
    ("typed_join", "SELECT k, g, id FROM @a JOIN @b USING (k) WHERE @bcond()"),
    ("typed_join", "SELECT x.k, y.id FROM @a x LEFT JOIN @b y ON x.k = y.k AND @bcond(y.) WHERE @key(x.k)"),
    ("typed_join", "SELECT x.k, y.k FROM @a x, @b y WHERE @key(x.k) AND @key(y.k)"),
    ("typed_join", "SELECT k, g, id FROM @a NATURAL LEFT JOIN @b WHERE @key(k)"),
    ("typed_join_like", "SELECT x.k, y.id FROM @a x JOIN @likeb y ON x.k = y.k WHERE @cond(x.)"),
    ("typed_join_like", "SELECT x.k, x.g, y.g FROM @a x JOIN @likea y ON y.k = x.k WHERE @key(x.k)"),
    ("typed_join_like", "SELECT count(*) FROM @likea x LEFT JOIN @b y USING (k)"),
    ("typed_join_like", "SELECT x.g FROM @a x WHERE EXISTS (SELECT 1 FROM @likeb y WHERE y.k = x.k) AND @key(x.k)"),
    ("typed_reference", "SELECT x.k, ref.name FROM @a x JOIN ref ON ref.code = x.g WHERE @key(x.k)"),
    (
        "typed_parts",
        "SELECT k FROM @a x WHERE @key(x.k) AND EXISTS (SELECT 1 FROM @b y WHERE y.k = x.k AND @bcond(y.))",
    ),
    ("typed_parts", "SELECT (SELECT count(*) FROM @b WHERE k = @val), (SELECT max(g) FROM @a WHERE k = @val)"),
    ("typed_parts", "SELECT k FROM @a WHERE k IN (SELECT k FROM @b WHERE @key(k))"),
    ("typed_parts", "WITH x AS (SELECT * FROM @b WHERE @key(k)) SELECT x.id, g FROM x JOIN @a USING (k)"),
    ("typed_parts", "SELECT id FROM @b WHERE k = @val UNION ALL SELECT g FROM @a WHERE k = @val"),
    ("typed_parts", "SELECT s.g FROM (SELECT k, g FROM @a) s WHERE @key(s.k)"),
    ("typed_values", "SELECT x.g, v.i FROM @a x JOIN (VALUES (@typed, 1), (@typed, 2)) v (k, i) ON v.k = x.k"),
    ("typed_values", "SELECT x.g FROM @a x, (SELECT @typed AS k) v WHERE v.k = x.k AND @cond(x.)"),
    ("typed_values", "SELECT k, id FROM @b WHERE (k, id) IN ((@val, 1), (@val, 2))"),
    ("typed_renamed", "SELECT * FROM @a AS x (kk, k) WHERE x.k = 2"),
    ("typed_renamed", "SELECT x.g FROM @a AS x (g, k, c, n) WHERE @key(x.g)"),
    ("typed_renamed", "SELECT g AS k, c FROM @a WHERE @key(k) ORDER BY k@dir, c"),
    ("typed_renamed", "SELECT k AS g, count(*) FROM @b GROUP BY g, k"),
    ("typed_renamed", "SELECT s.k FROM (SELECT k AS q, g AS k FROM @a) s WHERE @key(s.q)"),
    ("typed_renamed", "SELECT s.id FROM (SELECT id, k FROM @b WHERE @bcond()) s WHERE @key(s.k) ORDER BY s.id@dir"),
    ("typed_renamed", "SELECT j.k, j.id FROM (@a x JOIN @b y USING (k)) j WHERE @key(j.k)"),
    ("typed_renamed", "SELECT x.k FROM @a x JOIN @b k ON k.k = x.k WHERE @key(k.k)"),
    ("typed_outer", "SELECT x.k, y.k FROM @a x FULL JOIN @b y ON x.k = y.k AND @key(y.k)"),
    ("typed_outer", "SELECT x.k, y.id FROM @a x LEFT JOIN @b y ON x.k = y.k AND @key(x.k) WHERE @cond(x.)"),
    ("typed_outer", "SELECT x.k, y.id FROM @b y RIGHT JOIN @a x ON x.k = y.k WHERE @key(y.k)"),
    ("typed_outer", "SELECT k, count(id) FROM @a LEFT JOIN @b USING (k) GROUP BY k ORDER BY k@dir@limit"),
    ("typed_groups", "SELECT k, g, sum(n) FROM @a WHERE @key(k) GROUP BY k, g HAVING @cond()"),
    ("typed_in_query", "SELECT k FROM @a WHERE k = (SELECT k FROM @b WHERE @key(k) LIMIT 1)"),
    ("typed_in_query", "SELECT k FROM @a WHERE k NOT IN (SELECT k FROM @b WHERE @bcond())"),
    ("typed_lock", "SELECT k, g FROM @a WHERE k = @val FOR UPDATE"),
];

/// A statement about tables of one type of key; about one key, if one is given.
pub(crate) fn generate(rng: &mut SmallRng, about: Option<&About>) -> Query {
    let (construct, template) = *STATEMENTS.choose(rng).unwrap();
    let mut writer = Writer::about(rng, about);
    let sql = writer.fill(template);
    let ordered = template.contains("ORDER BY") && !template.contains("OVER");
    Query { construct, sql, ordered, params: writer.params, data: None }
}

//! Statements that write.

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use crate::compare::Query;
use crate::writer::{About, Writer};

/// `@` and a word: see [`Writer::fill`]. `ROWS` are several rows of `a`, `BROWS` of `b`, `REFROWS` of `ref`.
const STATEMENTS: [(&str, &str); 92] = [
    ("insert", "INSERT INTO @a (k, g, c, n) VALUES (@val, @int, @txt, @num)@ret"),
    ("insert", "INSERT INTO @a VALUES (@val, @int, @txt, @num)@ret"),
    ("insert", "INSERT INTO @a (g, k) VALUES (@int, @val)@ret"),
    ("insert", "INSERT INTO @b (id, k, amount) VALUES (@id, @val, @int)@bret"),
    ("insert", "INSERT INTO @b (k, id, note) VALUES (@val, @id, DEFAULT)@bret"),
    ("insert", "INSERT INTO @b AS y VALUES (@val, @id) RETURNING y.note, y.k"),
    ("insert_rows", "INSERT INTO @a (k, g, c, n) VALUES ROWS@ret"),
    ("insert_rows", "INSERT INTO @a VALUES ROWS@ret"),
    ("insert_rows", "INSERT INTO @b (k, id, amount, note) VALUES BROWS@bret"),
    ("insert_rows", "INSERT INTO @b VALUES BROWS@bret"),
    ("conflict_nothing", "INSERT INTO @a (k, g, c, n) VALUES ROWS ON CONFLICT DO NOTHING@ret"),
    ("conflict_nothing", "INSERT INTO @a (k, g, c, n) VALUES ROWS ON CONFLICT (k) DO NOTHING@ret"),
    ("conflict_nothing", "INSERT INTO @b (k, id, amount, note) VALUES BROWS ON CONFLICT (k, id) DO NOTHING@bret"),
    ("conflict_nothing", "INSERT INTO @a (k, g) VALUES (@val, @int) ON CONFLICT DO NOTHING@ret"),
    (
        "conflict_update",
        "INSERT INTO @a AS x (k, g, c, n) VALUES ROWS ON CONFLICT (k) DO UPDATE SET g = excluded.g, c = x.c || '+'@ret",
    ),
    (
        "conflict_update",
        "INSERT INTO @a AS x (k, g) VALUES (@val, @int) ON CONFLICT (k) DO UPDATE SET g = coalesce(x.g, 0) + 1 WHERE x.g < 5 RETURNING x.k, x.g",
    ),
    (
        "conflict_update",
        "INSERT INTO @b AS y VALUES BROWS ON CONFLICT (k, id) DO UPDATE SET amount = coalesce(y.amount, 0) + excluded.amount@bret",
    ),
    ("conflict_update", "INSERT INTO @a AS x (k, g) VALUES (@val, @int) ON CONFLICT (k) DO UPDATE SET k = @val, g = 9"),
    ("insert_select", "INSERT INTO @a (k, g) SELECT @typed, @int@ret"),
    ("insert_select", "INSERT INTO @b (k, id, note) SELECT k, id + 10, note FROM @b WHERE @key(k) AND id < 10@bret"),
    (
        "insert_select",
        "INSERT INTO @b (k, id, amount) SELECT k, 9, g FROM @a WHERE @key(k) ON CONFLICT DO NOTHING@bret",
    ),
    ("insert_select", "INSERT INTO @b (k, id) SELECT @typed, id + 20 FROM @b WHERE k = @val AND id < 20"),
    ("insert_select", "INSERT INTO @a (k, g) SELECT @typed, 1 WHERE NOT EXISTS (SELECT 1 FROM @a WHERE k = @val)@ret"),
    ("insert_select", "INSERT INTO @a (k, g) SELECT x.k, 1 FROM (VALUES (@typed), (@typed)) x (k)@ret"),
    ("insert_select", "INSERT INTO @b (k, id) SELECT @typed, i FROM generate_series(30, 32) i ON CONFLICT DO NOTHING"),
    ("insert_select", "INSERT INTO @a (k, g) SELECT k, id FROM @b ON CONFLICT DO NOTHING"),
    ("insert_select", "INSERT INTO @likea (k, g) SELECT k, g FROM @a WHERE @key(k) ON CONFLICT DO NOTHING"),
    (
        "insert_select",
        "INSERT INTO @b (k, id, note) SELECT x.k, 40, ref.name FROM @a x JOIN ref ON ref.code = x.g WHERE @key(x.k) ON CONFLICT DO NOTHING",
    ),
    ("update", "UPDATE @a SET g = @int WHERE @key(k)@ret"),
    ("update", "UPDATE @a x SET c = coalesce(c, '') || '.', n = n + 1 WHERE @key(x.k) AND @cond(x.)@ret"),
    ("update", "UPDATE @a SET (g, c) = (@int, @txt) WHERE k = @val@ret"),
    ("update", "UPDATE @b SET amount = coalesce(amount, 0) + 1 WHERE @key(k) AND @bcond()@bret"),
    ("update", "UPDATE @b SET note = DEFAULT WHERE k = @val AND id = @id@bret"),
    ("update", "UPDATE @b SET id = -id WHERE @key(k)@bret"),
    ("update", "UPDATE @a SET g = (SELECT max(id) FROM @b y WHERE y.k = @a.k) WHERE @key(k)@ret"),
    ("update", "UPDATE @a SET g = (@key(k))::int WHERE @key(k)@ret"),
    ("update_unkeyed", "UPDATE @a SET g = coalesce(g, 0) + 1@ret"),
    ("update_unkeyed", "UPDATE @a SET c = @txt WHERE @cond()@ret"),
    ("update_unkeyed", "UPDATE @b SET amount = id * 2 WHERE @bcond()@bret"),
    ("update_unkeyed", "UPDATE @a SET n = n * 2 WHERE @cond() OR @key(k)@ret"),
    ("update_unkeyed", "UPDATE @a SET g = (SELECT count(*) FROM @b y WHERE y.k = @a.k)"),
    ("update_of_key", "UPDATE @a SET k = @val WHERE k = @val@ret"),
    ("update_of_key", "UPDATE @a SET k = k, g = 5 WHERE @key(k)@ret"),
    ("update_from", "UPDATE @b y SET note = x.c FROM @a x WHERE x.k = y.k AND @key(x.k) RETURNING y.k, y.id, y.note"),
    ("update_from", "UPDATE @b y SET amount = x.g FROM @a x WHERE x.k = y.k AND @cond(x.) RETURNING y.id, x.g"),
    (
        "update_from",
        "UPDATE @a x SET c = v.c FROM (VALUES (@typed, 'one'), (@typed, 'one')) v (k, c) WHERE v.k = x.k RETURNING x.k, x.c",
    ),
    ("update_from", "UPDATE @a x SET c = ref.name FROM ref WHERE ref.code = x.g AND @key(x.k) RETURNING x.k, ref.name"),
    ("update_from", "UPDATE @a x SET c = ref.name FROM ref WHERE ref.code = x.g AND ref.n > 10"),
    (
        "update_from",
        "UPDATE @a x SET g = v.g FROM (VALUES ('a', 3), ('A', 4)) v (c, g) WHERE v.c = x.c RETURNING x.k, x.g",
    ),
    ("delete", "DELETE FROM @a WHERE @key(k)@ret"),
    ("delete", "DELETE FROM @a x WHERE @key(x.k) AND @cond(x.)@ret"),
    ("delete", "DELETE FROM @b WHERE @key(k) AND @bcond()@bret"),
    ("delete", "DELETE FROM @b y WHERE y.k = @val AND NOT EXISTS (SELECT 1 FROM @a x WHERE x.k = y.k)@bret"),
    ("delete_unkeyed", "DELETE FROM @a WHERE g = @int@ret"),
    ("delete_unkeyed", "DELETE FROM @b WHERE id > 5@bret"),
    ("delete_unkeyed", "DELETE FROM @b WHERE id = @id AND @bcond()@bret"),
    ("delete_using", "DELETE FROM @b y USING @a x WHERE x.k = y.k AND @key(y.k) RETURNING y.k, y.id, x.g"),
    ("delete_using", "DELETE FROM @b y USING @a x WHERE x.k = y.k AND x.g = @int"),
    (
        "delete_using",
        "DELETE FROM @b y USING (VALUES (@typed, 1), (@typed, 2)) v (k, id) WHERE (y.k, y.id) = (v.k, v.id) RETURNING y.k, y.id",
    ),
    ("delete_using", "DELETE FROM @a x USING ref WHERE ref.code = x.g AND ref.n = 30 RETURNING x.k"),
    (
        "merge",
        "MERGE INTO @a x USING (VALUES (@typed, 1)) v (k, g) ON x.k = v.k WHEN MATCHED THEN UPDATE SET g = v.g WHEN NOT MATCHED THEN INSERT (k, g) VALUES (v.k, v.g)",
    ),
    (
        "merge",
        "MERGE INTO @a x USING (SELECT @typed AS k) v ON x.k = v.k AND x.k = @val WHEN MATCHED AND x.g > 2 THEN DELETE WHEN MATCHED THEN UPDATE SET g = 4 WHEN NOT MATCHED THEN INSERT VALUES (@val, 6)",
    ),
    (
        "merge",
        "MERGE INTO @b y USING @a x ON x.k = y.k AND @key(x.k) AND @key(y.k) WHEN MATCHED THEN UPDATE SET amount = x.g WHEN NOT MATCHED THEN DO NOTHING",
    ),
    ("merge", "MERGE INTO @b y USING @a x ON x.k = y.k WHEN MATCHED THEN DELETE"),
    ("with", "WITH d AS (DELETE FROM @b WHERE k = @val RETURNING *) SELECT count(*), sum(id) FROM d"),
    (
        "with",
        "WITH u AS (UPDATE @a SET g = 3 WHERE k = @val RETURNING k, g) UPDATE @b y SET amount = u.g FROM u WHERE u.k = y.k AND y.k = @val RETURNING y.id",
    ),
    (
        "with",
        "WITH i AS (INSERT INTO @a (k, g) VALUES (@val, 1) ON CONFLICT DO NOTHING RETURNING k) SELECT count(*) FROM i",
    ),
    ("with", "WITH d AS (DELETE FROM @a WHERE @key(k) RETURNING g) SELECT g FROM d"),
    ("reference", "INSERT INTO ref VALUES REFROWS"),
    (
        "reference",
        "INSERT INTO ref (code, name, n) VALUES REFROWS ON CONFLICT (code) DO UPDATE SET name = excluded.name RETURNING *",
    ),
    ("reference", "INSERT INTO ref (code, n) VALUES (@code, @int) ON CONFLICT DO NOTHING RETURNING code"),
    ("reference", "UPDATE ref SET n = n + 1 WHERE code > @code RETURNING code, n"),
    (
        "reference",
        "UPDATE ref SET name = v.name FROM (VALUES (1, 'one'), (2, 'two')) v (code, name) WHERE v.code = ref.code RETURNING ref.*",
    ),
    ("reference", "DELETE FROM ref WHERE code = @code RETURNING *"),
    ("reference", "DELETE FROM ref USING (VALUES (3), (4)) v (code) WHERE v.code = ref.code"),
    ("reference", "UPDATE ref SET n = (SELECT count(*) FROM @a WHERE g = ref.code)"),
    ("reference", "DELETE FROM ref WHERE code NOT IN (SELECT g FROM @a WHERE g IS NOT NULL)"),
    ("insert", "INSERT INTO @a (k, g) VALUES (@val, 1) ON CONFLICT ON CONSTRAINT @a_pkey DO UPDATE SET g = 8@ret"),
    ("insert", "INSERT INTO @b DEFAULT VALUES"),
    (
        "insert_rows",
        "INSERT INTO @b (k, id) VALUES (@val, 50), (@val, 51), (@val, 52) RETURNING id, k, note || 'x' AS note",
    ),
    (
        "insert_rows",
        "INSERT INTO @a AS x (c, n, k) VALUES (@txt, @num, @val), (DEFAULT, 1 + 1, @val), (upper('a'), NULL, @val) RETURNING x.*",
    ),
    ("conflict_nothing", "INSERT INTO @b AS y VALUES BROWS ON CONFLICT ON CONSTRAINT @b_pkey DO NOTHING@bret"),
    (
        "conflict_update",
        "INSERT INTO @a (k, g) VALUES (@val, 1), (@val, 2) ON CONFLICT (k) DO UPDATE SET n = excluded.g WHERE excluded.g > 1 RETURNING *",
    ),
    ("update", "UPDATE ONLY @a AS x SET n = 1 WHERE (x.k) = @val OR x.k = @val@ret"),
    ("update", "UPDATE @a SET g = (SELECT count(*) FROM @b WHERE k = @val) WHERE k = @val@ret"),
    ("update", "UPDATE @a SET c = (SELECT name FROM ref WHERE code = g) WHERE @key(k)@ret"),
    ("delete", "DELETE FROM @a AS x WHERE x.k IN (SELECT y.k FROM @b y WHERE y.k = @val)@ret"),
    ("delete", "DELETE FROM @a WHERE k = @val AND g = (SELECT min(id) FROM @b WHERE k = @val)"),
    ("delete_using", "DELETE FROM @b USING @a x WHERE x.k = @b.k AND x.k = @val AND @cond(x.)"),
    (
        "with",
        "WITH a AS (UPDATE @a SET g = 1 WHERE k = @val RETURNING k), b AS (DELETE FROM @b WHERE k = @val RETURNING k) SELECT * FROM a UNION ALL SELECT * FROM b",
    ),
    ("reference", "INSERT INTO ref SELECT code + 10, name, n FROM ref WHERE code < 2 ON CONFLICT DO NOTHING"),
    ("truncate", "TRUNCATE @b"),
];

/// A statement that writes; all of it about one key, if one is given.
pub(crate) fn generate(rng: &mut SmallRng, about: Option<&About>) -> Query {
    let (construct, template) = loop {
        let chosen = *STATEMENTS.choose(rng).unwrap();
        // What empties a table leaves little to compare.
        if chosen.0 != "truncate" || rng.random_bool(0.2) {
            break chosen;
        }
    };
    let mut writer = Writer::about(rng, about);
    // Its data comes by itself.
    if about.is_none() && writer.rng.random_bool(0.05) {
        return copy(writer);
    }
    let (before, row, behind) = ["REFROWS", "BROWS", "ROWS"]
        .iter()
        .find_map(|rows| template.split_once(rows).map(|(before, behind)| (before, *rows, behind)))
        .unwrap_or((template, "", ""));
    let mut sql = writer.fill(before);
    if !row.is_empty() {
        let count = writer.rng.random_range(1..6);
        let row = match row {
            "ROWS" => "(@val, @int, @txt, @num)",
            "BROWS" => "(@val, @id, @int, @txt)",
            _ => "(@code, @txt, @int)",
        };
        let rows: Vec<String> = (0..count).map(|_| writer.fill(row)).collect();
        sql += &rows.join(", ");
    }
    sql += &writer.fill(behind);
    // Rows come back as they were given.
    let ordered = construct == "insert_rows";
    Query { construct, sql, ordered, params: writer.params, data: None }
}

/// Rows for a table by COPY.
fn copy(mut writer: Writer<'_>) -> Query {
    let (sql, columns) = match writer.rng.random_range(0..5) {
        0 => (writer.fill("COPY @b FROM STDIN"), "kiit"),
        1 => (writer.fill("COPY @b (note, k, id) FROM STDIN"), "tki"),
        2 => ("COPY ref FROM STDIN".to_owned(), "iti"),
        3 => (writer.fill("COPY @a FROM STDIN"), "kitn"),
        _ => (writer.fill("COPY @a (g, k) FROM STDIN WHERE g > 0"), "ik"),
    };
    let escaped = |text: &str| text.replace('\\', "\\\\").replace('\t', "\\t");
    let mut data = String::new();
    for _ in 0..writer.rng.random_range(0..6) {
        let values: Vec<String> = columns
            .chars()
            .map(|column| match column {
                'k' => escaped(&writer.key()),
                'i' => writer.rng.random_range(0..9).to_string(),
                'n' => writer.pick(&["1.5", "-3", "\\N", "1000"]),
                _ => writer.pick(&["a", "", "ä", "\\N", "x\\ty"]),
            })
            .collect();
        data += &(values.join("\t") + "\n");
    }
    Query { data: Some(data), ..Query::new("copy_from", sql, false) }
}

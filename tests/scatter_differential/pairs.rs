//! Tables whose key is two columns, `p` and `q`, and statements about them.

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use crate::compare::Query;
use crate::data::SEED;
use crate::keys::{KINDS, quoted};
use crate::writer::Writer;

pub(crate) const TABLES: &str = "
    CREATE TABLE p (j text NOT NULL, k int8 NOT NULL, g int4 CHECK (g < 1000), c text COLLATE \"C\", PRIMARY KEY (k, j));
    CREATE TABLE q (k int8 NOT NULL, id int4 NOT NULL, j text NOT NULL, g int4, PRIMARY KEY (j, id, k));";

pub(crate) const CONFIGURED: &str = "p = { key = [\"k\", \"j\"], type = [\"bigint\", \"text\"] }\n\
    q = { key = [\"k\", \"j\"], type = [\"bigint\", \"text\"] }\n";

pub(crate) const NAMES: [&str; 2] = ["p", "q"];

const TEXTS: [&str; 6] = ["", "a", "A", "ä", "x y", "it's"];
/// How many values the other column has.
const NUMBERS: usize = 9;

/// `K`: a number of the key, `J`: a text of it, `T`: the table with a dot.
const CONDITIONS: [&str; 14] = [
    "Tk = K AND Tj = J",
    "Tj = J AND Tk = K",
    "(Tk, Tj) = (K, J)",
    "Tk IN (K, K) AND Tj = J",
    "Tk = K AND Tj IN (J, J)",
    "Tk = ANY (ARRAY[K]) AND Tj = ANY (ARRAY[J, J])",
    "(Tj, Tk) IN ((J, K), (J, K))",
    "((Tk = K AND Tj = J) OR (Tk = K AND Tj = J))",
    "Tk = K",
    "Tj = J",
    "Tk = K AND Tj = J AND Tg > 1",
    "Tk = K AND Tj <> J",
    "Tk = K AND Tj = J AND Tk = K",
    "NOT (Tk = K AND Tj = J)",
];

/// `@T` is a condition on the key of the table that is `T` there.
const READS: [&str; 12] = [
    "SELECT k, j, g FROM p WHERE @",
    "SELECT * FROM q WHERE @ ORDER BY j COLLATE \"C\", id, k LIMIT 4",
    "SELECT count(*), sum(g), max(j COLLATE \"C\") FROM p WHERE @",
    "SELECT j, count(*) FROM q WHERE @ GROUP BY j",
    "SELECT k, j, count(*) FROM q GROUP BY k, j",
    "SELECT x.k, x.g, y.id FROM p x JOIN q y ON x.k = y.k AND x.j = y.j WHERE @x.",
    "SELECT j, k, y.id FROM p JOIN q y USING (j, k)",
    "SELECT x.k, y.id FROM p x LEFT JOIN q y ON (x.j, x.k) = (y.j, y.k) WHERE @x.",
    "SELECT x.k, y.id FROM p x JOIN q y ON x.k = y.k WHERE @x. AND @y.",
    "SELECT k FROM p x WHERE EXISTS (SELECT 1 FROM q y WHERE y.k = x.k AND y.j = x.j) AND @x.",
    "SELECT DISTINCT k, j FROM q WHERE @",
    "SELECT x.g, ref.name FROM p x JOIN ref ON ref.code = x.g WHERE @x.",
];

const WRITES: [(&str, &str); 23] = [
    ("pair_insert", "INSERT INTO p (k, j, g) VALUES (K, J, 1)"),
    ("pair_insert", "INSERT INTO p VALUES (J, K, 2, 'new'), (J, K, 3, 'new') RETURNING *"),
    ("pair_insert", "INSERT INTO q (j, k, id) VALUES (J, K, 7), (J, K, 8), (J, K, 9) ON CONFLICT DO NOTHING"),
    (
        "pair_insert",
        "INSERT INTO p AS x (g, j, k) VALUES (4, J, K) ON CONFLICT (k, j) DO UPDATE SET g = x.g + 1 RETURNING g",
    ),
    ("pair_insert", "INSERT INTO p (j, k) VALUES (J, K) ON CONFLICT (k, j) DO UPDATE SET j = excluded.j || '!'"),
    ("pair_insert", "INSERT INTO p (k, g) VALUES (K, 1)"),
    ("pair_insert_select", "INSERT INTO q (k, j, id, g) SELECT k, j, 20, g FROM p WHERE @ ON CONFLICT DO NOTHING"),
    ("pair_insert_select", "INSERT INTO q (k, j, id) SELECT k, j || '', 21 FROM p WHERE @ ON CONFLICT DO NOTHING"),
    ("pair_insert_select", "INSERT INTO q (k, j, id) SELECT K, J, 22"),
    ("pair_update", "UPDATE p SET g = coalesce(g, 0) + 1 WHERE @ RETURNING k, j, g"),
    ("pair_update", "UPDATE q SET g = 5, id = id + 30 WHERE @"),
    ("pair_update", "UPDATE p SET c = 'all'"),
    ("pair_update", "UPDATE q y SET g = x.g FROM p x WHERE x.k = y.k AND x.j = y.j AND @x. RETURNING y.id, x.g"),
    ("pair_update_of_key", "UPDATE p SET j = J WHERE @"),
    ("pair_update_of_key", "UPDATE p SET k = K, g = 1 WHERE @ RETURNING *"),
    ("pair_update_of_key", "UPDATE p SET (j, k) = (J, K) WHERE k = K AND j = J"),
    ("pair_update_of_key", "UPDATE q SET k = k, j = j, g = 6 WHERE @"),
    ("pair_update_of_key", "UPDATE q SET j = J WHERE k = K"),
    ("pair_delete", "DELETE FROM p WHERE @ RETURNING j, k"),
    ("pair_delete", "DELETE FROM q y USING p x WHERE (x.k, x.j) = (y.k, y.j) AND @y."),
    ("pair_delete", "DELETE FROM q WHERE g = 2 AND @"),
    (
        "pair_merge",
        "MERGE INTO p x USING (VALUES (KT, JT)) v (k, j) ON x.k = v.k AND x.j = v.j WHEN MATCHED THEN UPDATE SET g = 9 WHEN NOT MATCHED THEN INSERT (k, j) VALUES (v.k, v.j)",
    ),
    ("pair_merge", "MERGE INTO q y USING p x ON x.k = y.k AND x.j = y.j AND @y. WHEN MATCHED THEN UPDATE SET g = x.g"),
];

/// The slot of a row, as PostgreSQL combines the hashes of both columns: of the first, only the bits that come to be among the last 14.
pub(crate) fn slot() -> String {
    let first = format!("(((hashint8extended(k, {SEED}) & 2097151) + 370915) & 2097151)");
    format!("(({first} # ((hashtextextended(j, {SEED}) & 16383) + 10467 + ({first} >> 7))) & 16383)")
}

/// Fills both with the rows that are at home under this condition on SLOT.
pub(crate) fn fill(home: &str) -> String {
    let texts: Vec<String> = TEXTS.iter().map(|text| quoted(text)).collect();
    let (texts, home) = (texts.join(", "), home.replace("SLOT", &slot()));
    let numbers = numbers().join(", ");
    let pairs = format!(
        "unnest(ARRAY[{texts}]) WITH ORDINALITY t (j, n), unnest(ARRAY[{numbers}]::int8[]) WITH ORDINALITY s (k, m)"
    );
    format!(
        "INSERT INTO p SELECT j, k, nullif((n + m) % 6, 5), 'c' || n FROM {pairs} WHERE (n + m) % 3 <> 0 AND {home};
         INSERT INTO q SELECT k, id, j, n * m % 4 FROM {pairs}, generate_series(1, 2) id WHERE (n * m + id) % 3 <> 0 AND {home};"
    )
}

fn numbers() -> &'static [&'static str] {
    let large = KINDS.iter().find(|kind| kind.name == "int8").map_or(&[][..], |kind| kind.keys);
    &large[..NUMBERS]
}

/// A statement about them.
pub(crate) fn generate(rng: &mut SmallRng, writes: bool) -> Query {
    let (construct, template) =
        if writes { *WRITES.choose(rng).unwrap() } else { ("typed_pair", *READS.choose(rng).unwrap()) };
    let mut writer = Writer::new(rng);
    let mut parts = template.split('@');
    let mut sql = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let condition = *CONDITIONS.choose(writer.rng).unwrap();
        let alias = if part.starts_with("x.") || part.starts_with("y.") { &part[..2] } else { "" };
        sql += &format!("({})", of(condition, alias));
        sql += &part[alias.len()..];
    }
    let ordered = sql.contains("ORDER BY") || (construct == "pair_insert" && sql.contains("RETURNING"));
    let sql = values(&mut writer, &sql);
    Query { ordered, params: writer.params, ..Query::new(construct, sql, ordered) }
}

/// The condition on the table with this alias.
fn of(condition: &str, alias: &str) -> String {
    ["Tk", "Tj", "Tg"].iter().fold(condition.to_owned(), |sql, column| {
        sql.replace(column, &format!("{alias}{}", column.to_lowercase().trim_start_matches('t')))
    })
}

/// Writes keys for `K` and `J` that are words of their own; `KT` and `JT` have their types wherever they stand.
fn values(writer: &mut Writer<'_>, template: &str) -> String {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut sql = String::new();
    let mut rest = template;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        match word {
            "K" | "KT" => {
                let number = *numbers().choose(writer.rng).unwrap();
                let typed = if word == "KT" { "::int8" } else { "" };
                sql += &match writer.rng.random_range(0..4) {
                    0 => writer.bind(20, "int8", number) + typed,
                    1 => format!("'{number}'::int8"),
                    _ => format!("{number}{typed}"),
                };
            }
            "J" | "JT" => {
                let text = *TEXTS.choose(writer.rng).unwrap();
                let typed = if word == "JT" { "::text" } else { "" };
                sql += &match writer.rng.random_range(0..4) {
                    0 => writer.bind(25, "text", text) + typed,
                    1 => format!("{}::text", quoted(text)),
                    _ => quoted(text) + typed,
                };
            }
            word => sql += word,
        }
        let other = behind.find(is_word).unwrap_or(behind.len());
        sql += &behind[..other];
        rest = &behind[other..];
    }
    sql
}

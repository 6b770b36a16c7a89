//! Whether the servers are as the map says: what to ask each shard, what its answers mean, and what is not to be believed then.
//!
//! A hash of ours that is not the server's, or a key column of another type or collation than configured, would put rows where nobody
//! finds them: statements by such keys are refused. A table that is not there yet is only told of.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::hash;
use super::key::type_of_oid;
use super::map::{DEFAULT_SCHEMA, KeyType, ShardMap, Table};
use super::table_key::{KeyColumn, TableKey};

/// What is wrong with a shard's server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What becomes of it.
    pub effect: Effect,
    /// What was found.
    pub message: String,
    /// What to do.
    pub advice: &'static str,
}

/// What becomes of a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// No statement by key is let through.
    NoKeys,
    /// Text keys beyond ASCII are not let through.
    NoTextBeyondAscii,
    /// No statement by the key of this table is let through: schema and name.
    NotByKeyOf(String, String),
    /// No statement that writes this table is let through, as code runs behind it: schema and name.
    NoWriteOf(String, String),
    /// No statement that may change this column of a table is let through, as a foreign key follows it: schema, name and column.
    NoUpdateOf(String, String, String),
    /// No statement that deletes rows of this table is let through, as a foreign key follows: schema and name.
    NoDeleteOf(String, String),
    /// The table (schema and name) has a unique index or an exclusion constraint without its key: rows that it forbids may lie on different
    /// shards.
    LooselyUnique(String, String),
    /// The table (schema and name) has a unique index by which different keys are equal: the same, whatever columns ON CONFLICT names.
    OtherwiseUnique(String, String),
    /// No statement is answered by several shards.
    NoScatter,
    /// No statement with this table is answered by several shards: schema and name.
    NoScatterOf(String, String),
    /// No transaction is committed by two-phase commit.
    NoTwoPhase,
    /// None.
    Warning,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// How far the check of one shard is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// The server was not asked yet; why the last attempt failed, if there was one.
    Pending(Option<String>),
    /// It was asked; what is wrong.
    Done(Vec<Finding>),
}

impl Default for Check {
    fn default() -> Self {
        Self::Pending(None)
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pending(None) => f.write_str("pending"),
            Self::Pending(Some(why)) => write!(f, "pending: {why}"),
            Self::Done(findings) if findings.is_empty() => f.write_str("ok"),
            Self::Done(findings) => {
                let warns = |effect: &Effect| {
                    matches!(effect, Effect::Warning | Effect::LooselyUnique(..) | Effect::OtherwiseUnique(..))
                };
                let failed = findings.iter().any(|finding| !warns(&finding.effect));
                f.write_str(if failed { "failed" } else { "warning" })?;
                for (place, finding) in findings.iter().enumerate() {
                    write!(f, "{} {finding}", if place == 0 { ":" } else { ";" })?;
                }
                Ok(())
            }
        }
    }
}

/// What is not to be believed, by the checks of all shards.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Distrust {
    /// Why no statement by key is let through.
    pub keys: Option<String>,
    /// Whether text keys beyond ASCII are not let through.
    pub beyond_ascii: bool,
    /// Why statements by the keys of these tables are not let through, by schema and name.
    pub tables: BTreeMap<(String, String), String>,
    /// Why statements that write these tables are not let through, by schema and name.
    pub writes: BTreeMap<(String, String), String>,
    /// Why statements that may change these columns are not let through: by schema and name of the table, then by column.
    pub updates: BTreeMap<(String, String), BTreeMap<String, String>>,
    /// Why statements that delete rows of these tables are not let through, by schema and name.
    pub deletes: BTreeMap<(String, String), String>,
    /// The tables with a unique index or an exclusion constraint without their key, by schema and name.
    pub loose: BTreeSet<(String, String)>,
    /// Those with a unique index by which different keys are equal, by schema and name.
    pub loose_keys: BTreeSet<(String, String)>,
    /// Why several shards do not answer a statement.
    pub scatter: Option<String>,
    /// Why several shards do not answer a statement with one of these tables.
    pub scatter_of: BTreeMap<(String, String), String>,
    /// Why no transaction is committed by two-phase commit.
    pub two_phase: Option<String>,
    /// What can be believed: the columns of listed tables in order, by schema and name, where all shards say the same.
    pub columns: BTreeMap<(String, String), Vec<String>>,
}

impl Distrust {
    /// What follows from the checks of the shards, each with its name.
    pub fn of<'a>(checks: impl Iterator<Item = (&'a str, &'a Check)>) -> Self {
        let mut distrust = Self::default();
        let checks: Vec<_> = checks.collect();
        // What is so on the default shard too is asked for each user, and found there.
        let has =
            |check: &Check, finding: &Finding| matches!(check, Check::Done(findings) if findings.contains(finding));
        let is_known =
            |finding: &&Finding| finding.advice == HIDES && checks.iter().all(|(_, check)| has(check, finding));
        for (shard, check) in &checks {
            let Check::Done(findings) = check else { continue };
            for finding in findings.iter().filter(|finding| !is_known(finding)) {
                let why = || format!("shard \"{shard}\": {finding}");
                match &finding.effect {
                    Effect::NoKeys => drop(distrust.keys.get_or_insert_with(why)),
                    Effect::NoTextBeyondAscii => distrust.beyond_ascii = true,
                    Effect::NotByKeyOf(schema, name) => {
                        distrust.tables.entry((schema.clone(), name.clone())).or_insert_with(why);
                    }
                    Effect::NoWriteOf(schema, name) => {
                        distrust.writes.entry((schema.clone(), name.clone())).or_insert_with(why);
                    }
                    Effect::NoUpdateOf(schema, name, column) => {
                        let of_table = distrust.updates.entry((schema.clone(), name.clone())).or_default();
                        of_table.entry(column.clone()).or_insert_with(why);
                    }
                    Effect::NoDeleteOf(schema, name) => {
                        distrust.deletes.entry((schema.clone(), name.clone())).or_insert_with(why);
                    }
                    Effect::LooselyUnique(schema, name) => {
                        distrust.loose.insert((schema.clone(), name.clone()));
                    }
                    Effect::OtherwiseUnique(schema, name) => {
                        distrust.loose_keys.insert((schema.clone(), name.clone()));
                    }
                    Effect::NoScatter => drop(distrust.scatter.get_or_insert_with(why)),
                    Effect::NoScatterOf(schema, name) => {
                        distrust.scatter_of.entry((schema.clone(), name.clone())).or_insert_with(why);
                    }
                    Effect::NoTwoPhase => drop(distrust.two_phase.get_or_insert_with(why)),
                    Effect::Warning => {}
                }
            }
        }
        distrust
    }
}

/// What the answer to [`READY_SQL`](crate::shard::commit::recovery::READY_SQL) means, and why the table of decisions could not be made,
/// if that was tried.
#[must_use]
pub fn judge_two_phase(rows: &[Vec<Option<String>>], not_made: Option<&str>) -> Option<Finding> {
    let cell = |at: usize| rows.first().and_then(|row| row.get(at)).and_then(Option::as_deref);
    let finding = |message: String, advice| Some(Finding { effect: Effect::NoTwoPhase, message, advice });
    if cell(0).and_then(|most| most.parse::<u32>().ok()).is_none_or(|most| most == 0) {
        return finding(
            "max_prepared_transactions is 0, and cross_shard_writes = \"two_phase\" needs prepared transactions"
                .to_owned(),
            "Set max_prepared_transactions to max_connections in postgresql.conf of the server and its standbys, and restart them.",
        );
    }
    match (cell(1), not_made) {
        (Some("t"), _) if cell(2) != Some("t") => finding(
            "table pgweir.dtx does not have the columns that two-phase commit needs".to_owned(),
            "Rename the table and let probe_user make it anew, or make it as README says.",
        ),
        (Some("t"), _) if cell(3) != Some("t") => finding(
            "probe_user may not delete from table pgweir.dtx, in which two-phase commit keeps its decisions".to_owned(),
            "GRANT DELETE ON pgweir.dtx to probe_user.",
        ),
        (Some("t"), _) => None,
        (_, why) => finding(
            format!(
                "table pgweir.dtx, which two-phase commit needs, cannot be made: {}",
                why.unwrap_or("it is not there")
            ),
            "Give probe_user the right CREATE on the database, or make the table as README says.",
        ),
    }
}

/// Asks for the server's own encoding: one row of one column.
pub const ENCODING_SQL: &str = "SELECT pg_catalog.current_setting('server_encoding')";

/// What the encoding means for this map.
#[must_use]
pub fn judge_encoding(map: &ShardMap, encoding: &str) -> Option<Finding> {
    if encoding.eq_ignore_ascii_case("utf8") || !key_types(map).contains(&KeyType::Text) {
        return None;
    }
    Some(Finding {
        effect: Effect::NoTextBeyondAscii,
        message: format!(
            "server_encoding is {encoding}: text keys beyond ASCII cannot be hashed as the server hashes them"
        ),
        advice: "Use a database with encoding UTF8, or ASCII keys only.",
    })
}

/// The types of the key columns of a map, each once.
#[must_use]
pub fn key_types(map: &ShardMap) -> Vec<KeyType> {
    let mut types = Vec::new();
    for column in map.tables.values().filter_map(Table::key).flat_map(TableKey::columns) {
        if !types.contains(&column.key_type.column()) {
            types.push(column.key_type.column());
        }
    }
    types
}

/// Holds the answer to [`hash::self_test_sql`] against our own hash.
#[must_use]
pub fn judge_hash(key_type: KeyType, utf8: bool, rows: &[Vec<Option<String>>]) -> Option<Finding> {
    let theirs =
        rows.iter().map(|row| row.first().and_then(Option::as_deref).and_then(|cell| cell.parse::<i64>().ok()));
    if theirs.eq(hash::self_test_expected(key_type, utf8).into_iter().map(Some)) {
        return None;
    }
    Some(Finding {
        effect: Effect::NoKeys,
        message: format!("the server hashes {} keys in another way than pgweir", key_type.name()),
        advice: "Use PostgreSQL as released: rows cannot be found by their keys on this server.",
    })
}

/// What to do about a schema of a role's name, which comes before the default one for that role.
const HIDES: &str = "Drop or rename what hides the table, or make it on every shard.";

/// Schema and name of a table, and a column of its key with its place there.
type Line<'a> = (&'a (String, String), Option<(usize, &'a KeyColumn)>);

/// The listed tables, each once for every column of its key; a reference table once, without one.
fn lines(map: &ShardMap) -> impl Iterator<Item = Line<'_>> {
    map.tables.iter().flat_map(|(place, table)| {
        let columns = table.key().map(TableKey::columns).unwrap_or_default();
        let none = columns.is_empty().then_some((place, None));
        none.into_iter().chain(columns.iter().enumerate().map(move |column| (place, Some(column))))
    })
}

/// Asks of all listed tables whether they are there, of what type and collation their keys are, and which schemas of roles hide them: see
/// [`judge_tables`].
/// None for a map without tables.
#[must_use]
pub fn tables_sql(map: &ShardMap) -> Option<String> {
    let literal = |text: &str| format!("E'{}'::pg_catalog.text", text.replace('\\', "\\\\").replace('\'', "''"));
    let row = |(number, ((schema, name), column)): (usize, Line<'_>)| {
        let key = column.map_or_else(|| "NULL".to_owned(), |(_, column)| literal(&column.name));
        format!("({number}, {}, {}, {key})", literal(schema), literal(name))
    };
    let rows: Vec<String> = lines(map).enumerate().map(row).collect();
    (!rows.is_empty()).then(|| {
        format!(
            "SELECT a.n, c.oid, CASE WHEN t.typbasetype <> 0 THEN t.typbasetype ELSE t.oid END, \
               pg_catalog.format_type(f.atttypid, f.atttypmod), k.collisdeterministic, \
               (SELECT pg_catalog.string_agg(h.nspname::pg_catalog.text, ', ' ORDER BY h.nspname) FROM pg_catalog.pg_namespace AS h \
                JOIN pg_catalog.pg_roles AS u ON u.rolname = h.nspname \
                JOIN pg_catalog.pg_class AS x ON x.relnamespace = h.oid \
                WHERE a.schema = {} AND h.nspname::pg_catalog.text <> a.schema AND x.relname::pg_catalog.text = a.name), \
               NULLIF(f.attgenerated, ''), c.relkind IN ('r', 'p') AND NOT f.attnotnull AND NOT t.typnotnull \
             FROM (VALUES {}) AS a (n, schema, name, key) \
             LEFT JOIN pg_catalog.pg_namespace AS s ON s.nspname::pg_catalog.text = a.schema \
             LEFT JOIN pg_catalog.pg_class AS c ON c.relnamespace = s.oid AND c.relname::pg_catalog.text = a.name \
               AND c.relkind IN ('r', 'p', 'v', 'm', 'f') \
             LEFT JOIN pg_catalog.pg_attribute AS f ON f.attrelid = c.oid AND f.attname::pg_catalog.text = a.key \
               AND f.attnum > 0 AND NOT f.attisdropped \
             LEFT JOIN pg_catalog.pg_type AS t ON t.oid = f.atttypid \
             LEFT JOIN pg_catalog.pg_collation AS k ON k.oid = f.attcollation \
             ORDER BY a.n",
            literal(DEFAULT_SCHEMA),
            rows.join(", ")
        )
    })
}

/// Asks for the unique indexes and exclusion constraints of the sharded tables that do not keep rows with different keys apart: the number of the table,
/// the name, whether it is a constraint, and whether it has the key but with another equality. See [`judge_unique`]. None for a map without
/// such tables.
///
/// The key is one of the columns that decide (not of those that INCLUDE adds), and is equal as PostgreSQL's own operators say, under a
/// collation by which different texts differ.
#[must_use]
pub fn unique_sql(map: &ShardMap) -> Option<String> {
    let literal = |text: &str| format!("E'{}'::pg_catalog.text", text.replace('\\', "\\\\").replace('\'', "''"));
    let row = |(number, ((schema, name), column)): (usize, Line<'_>)| {
        let (_, column) = column?;
        Some(format!("({number}, {}, {}, {})", literal(schema), literal(name), literal(&column.name)))
    };
    let rows: Vec<String> = lines(map).enumerate().filter_map(row).collect();
    (!rows.is_empty()).then(|| {
        format!(
            "SELECT a.n, x.relname, i.indisexclusion, p.place IS NOT NULL \
             FROM (VALUES {}) AS a (n, schema, name, key) \
             JOIN pg_catalog.pg_namespace AS s ON s.nspname::pg_catalog.text = a.schema \
             JOIN pg_catalog.pg_class AS c ON c.relnamespace = s.oid AND c.relname::pg_catalog.text = a.name \
             JOIN pg_catalog.pg_attribute AS f ON f.attrelid = c.oid AND f.attname::pg_catalog.text = a.key \
             JOIN pg_catalog.pg_index AS i ON i.indrelid = c.oid AND (i.indisunique OR i.indisexclusion) \
             JOIN pg_catalog.pg_class AS x ON x.oid = i.indexrelid \
             LEFT JOIN LATERAL (SELECT g.place FROM pg_catalog.generate_series(0, i.indnkeyatts - 1) AS g (place) \
               WHERE i.indkey[g.place] = f.attnum LIMIT 1) AS p ON true \
             LEFT JOIN pg_catalog.pg_constraint AS e ON e.conindid = x.oid AND e.contype IN ('x', 'p', 'u') AND e.conrelid = c.oid \
             WHERE p.place IS NULL \
               OR EXISTS (SELECT FROM pg_catalog.pg_collation AS o \
                 WHERE o.oid = i.indcollation[p.place] AND NOT o.collisdeterministic) \
               OR CASE WHEN i.indisexclusion THEN NOT EXISTS (SELECT FROM pg_catalog.pg_operator AS o \
                   WHERE o.oid = e.conexclop[p.place + 1] AND o.oid < 16384 AND o.oprname = '=') \
                 ELSE i.indclass[p.place] >= 16384 END \
             ORDER BY a.n, x.relname",
            rows.join(", ")
        )
    })
}

/// What the answer to [`unique_sql`] means.
#[must_use]
pub fn judge_unique(map: &ShardMap, rows: &[Vec<Option<String>>]) -> Vec<Finding> {
    let finding = |row: &Vec<Option<String>>| {
        let number: usize = row.first()?.as_deref()?.parse().ok()?;
        let ((schema, name), _) = lines(map).nth(number)?;
        let index = row.get(1)?.as_deref()?;
        let is = |at: usize| row.get(at).is_some_and(|cell| cell.as_deref() == Some("t"));
        let kind = if is(2) { "exclusion constraint" } else { "unique index" };
        let place = (schema.clone(), name.clone());
        let (effect, has) = if is(3) && !is(2) {
            (Effect::OtherwiseUnique(place.0, place.1), "compares the sharding key so that different keys may be equal")
        } else if is(3) {
            (Effect::LooselyUnique(place.0, place.1), "does not compare the sharding key by =")
        } else {
            (Effect::LooselyUnique(place.0, place.1), "does not have the sharding key")
        };
        Some(Finding {
            effect,
            message: format!(
                "{kind} \"{index}\" of table \"{schema}.{name}\" {has}: it says nothing of rows on other shards"
            ),
            advice: "Add the sharding key to the columns that it compares, or do not rely on it.",
        })
    };
    let mut findings: Vec<Finding> = Vec::new();
    for found in rows.iter().filter_map(finding) {
        // Each column of a key that an index lacks says the same.
        if !findings.contains(&found) {
            findings.push(found);
        }
    }
    findings
}

/// What the answer to [`tables_sql`] means.
#[must_use]
pub fn judge_tables(map: &ShardMap, rows: &[Vec<Option<String>>]) -> Vec<Finding> {
    let judge = |((place, column), row): (_, &Vec<_>)| [judge_line(place, column, row), judge_null(place, column, row)];
    lines(map).zip(rows).flat_map(judge).flatten().collect()
}

/// Whether a column of the key of a table may be NULL, which is no key.
fn judge_null(
    (schema, name): &(String, String),
    column: Option<(usize, &KeyColumn)>,
    row: &[Option<String>],
) -> Option<Finding> {
    let key = &column?.1.name;
    row.get(7).and_then(Option::as_deref).filter(|nullable| *nullable == "t").map(|_| Finding {
        effect: Effect::Warning,
        message: format!(
            "column \"{key}\" of table \"{schema}.{name}\" may be NULL: rows without a key are refused, and belong to no shard where they come past pgweir"
        ),
        advice: "ALTER TABLE ... ALTER COLUMN ... SET NOT NULL.",
    })
}

fn judge_line(
    (schema, name): &(String, String),
    column: Option<(usize, &KeyColumn)>,
    row: &[Option<String>],
) -> Option<Finding> {
    let cell = |at: usize| row.get(at).and_then(Option::as_deref);
    let warning = |message: String, advice| Some(Finding { effect: Effect::Warning, message, advice });
    let distrusted = |message: String, advice| {
        Some(Finding { effect: Effect::NotByKeyOf(schema.clone(), name.clone()), message, advice })
    };
    let shown = format!("table \"{schema}.{name}\"");
    let is_first = column.is_none_or(|(place, _)| place == 0);
    if cell(1).is_none() && !is_first {
        return None;
    }
    if cell(1).is_none() {
        // What is made later may be of any make: it is asked about again first.
        return distrusted(
            format!("{shown} is listed but does not exist"),
            "Create it on every shard, or take it out of the configuration.",
        );
    }
    if let Some(schemas) = cell(5).filter(|_| is_first) {
        return distrusted(
            format!("{shown} is hidden by another of its name from the roles that have a schema of theirs: {schemas}"),
            HIDES,
        );
    }
    let KeyColumn { name: key, key_type } = column?.1;
    let Some(oid) = cell(2) else {
        return distrusted(
            format!("{shown} has no column \"{key}\""),
            "Name the key column of the table in the configuration.",
        );
    };
    let has = cell(3).unwrap_or("unknown");
    match oid.parse().ok().and_then(type_of_oid) {
        Some(found) if found == key_type.column() => {}
        Some(found) if found.reads_as(*key_type) => {
            return warning(
                format!("column \"{key}\" of {shown} is {has}, configured as {}", key_type.name()),
                "Write the column's type in the configuration.",
            );
        }
        _ => {
            return distrusted(
                format!("column \"{key}\" of {shown} is {has}, configured as {}", key_type.name()),
                "Write the column's type in the configuration; only integers, text, varchar and uuid can be keys.",
            );
        }
    }
    if cell(4) == Some("f") {
        return distrusted(
            format!("column \"{key}\" of {shown} has a nondeterministic collation, by which different keys are equal"),
            "Give the column a deterministic collation.",
        );
    }
    cell(6).map(|_| Finding {
        effect: Effect::NoWriteOf(schema.clone(), name.clone()),
        message: format!(
            "column \"{key}\" of {shown} is generated from others, so that whoever changes these may move a row to another shard"
        ),
        advice: "Name a column as the key that is written itself.",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ShardIndex;

    const INT8: KeyType = KeyType::Integer { width: 8 };

    fn map() -> ShardMap {
        let sharded = |key: &str, key_type| Table::sharded(key, key_type);
        let tables = [("codes", sharded("c", KeyType::Text)), ("orders", sharded("k", INT8)), ("r", Table::Reference)];
        ShardMap::new(
            vec!["s0".into(), "s1".into()],
            vec![vec![(0, 8191)], vec![(8192, 16383)]],
            tables.into_iter().map(|(name, table)| (("public".into(), name.into()), table)).collect(),
            ShardIndex(0),
        )
        .unwrap()
    }

    fn row(cells: [&str; 5]) -> Vec<Option<String>> {
        cells.iter().map(|cell| (!cell.is_empty()).then(|| (*cell).to_owned())).collect()
    }

    fn judged(orders: [&str; 5]) -> Vec<(Effect, String)> {
        let rows = [row(["0", "1", "25", "text", "t"]), row(orders), row(["2", "1", "", "", ""])];
        judge_tables(&map(), &rows).into_iter().map(|finding| (finding.effect, finding.message)).collect()
    }

    #[test]
    fn tables_are_held_against_the_map() {
        let not_by_key = || Effect::NotByKeyOf("public".into(), "orders".into());
        assert_eq!(judged(["1", "1", "20", "bigint", ""]), []);
        let missing = "table \"public.orders\" is listed but does not exist".to_owned();
        assert_eq!(judged(["1", "", "", "", ""]), [(not_by_key(), missing)]);
        let narrow = "column \"k\" of table \"public.orders\" is integer, configured as bigint".to_owned();
        assert_eq!(judged(["1", "1", "23", "integer", ""]), [(Effect::Warning, narrow)]);
        let none = "table \"public.orders\" has no column \"k\"".to_owned();
        assert_eq!(judged(["1", "1", "", "", ""]), [(not_by_key(), none)]);
        for (oid, name) in [("1700", "numeric"), ("25", "text"), ("16500", "citext")] {
            let other = format!("column \"k\" of table \"public.orders\" is {name}, configured as bigint");
            assert_eq!(judged(["1", "1", oid, name, ""]), [(not_by_key(), other)]);
        }
        let collated = judge_tables(&map(), &[row(["0", "1", "25", "text", "f"])]);
        assert!(collated[0].message.contains("nondeterministic"), "{collated:?}");
        assert_eq!(collated[0].effect, Effect::NotByKeyOf("public".into(), "codes".into()));
    }

    #[test]
    fn a_key_that_may_be_null_is_told_of() {
        let judged = |nullable: &str| {
            let mut orders = row(["1", "1", "20", "bigint", ""]);
            orders.extend([None, None, (!nullable.is_empty()).then(|| nullable.to_owned())]);
            judge_tables(&map(), &[row(["0", "1", "25", "text", "t"]), orders, row(["2", "1", "", "", ""])])
        };
        let found = judged("t");
        assert_eq!(found.iter().map(|finding| &finding.effect).collect::<Vec<_>>(), [&Effect::Warning]);
        assert!(found[0].message.starts_with("column \"k\" of table \"public.orders\" may be NULL"), "{found:?}");
        // A view says nothing of its columns.
        assert_eq!((judged("f"), judged("")), (vec![], vec![]));
    }

    #[test]
    fn a_schema_of_a_role_that_not_every_shard_has_hides_a_table() {
        let hidden = |by: &str| {
            let mut row = row(["1", "1", "20", "bigint", ""]);
            row.push((!by.is_empty()).then(|| by.to_owned()));
            let rows = [tests::row(["0", "1", "25", "text", "t"]), row, tests::row(["2", "1", "", "", ""])];
            Check::Done(judge_tables(&map(), &rows))
        };
        let (app, other, none) = (hidden("app"), hidden("app, other"), hidden(""));
        assert!(app.to_string().ends_with("from the roles that have a schema of theirs: app"), "{app}");
        let place = ("public".to_owned(), "orders".to_owned());
        let distrusts =
            |checks: [&Check; 2]| Distrust::of(["s0", "s1"].into_iter().zip(checks)).tables.contains_key(&place);
        let pending = Check::default();
        for checks in [[&none, &app], [&app, &none], [&app, &other], [&pending, &app]] {
            assert!(distrusts(checks), "{checks:?}");
        }
        // What the default shard has too is found for each user.
        assert!(!distrusts([&app, &app]) && !distrusts([&none, &none]));
        assert!(tables_sql(&map()).unwrap().contains("a.schema = E'public'::pg_catalog.text"));
    }

    #[test]
    fn every_hash_must_agree() {
        for utf8 in [false, true] {
            for key_type in key_types(&map()) {
                let expected = hash::self_test_expected(key_type, utf8);
                let mut rows: Vec<_> = expected.iter().map(|hash| vec![Some(hash.to_string())]).collect();
                assert_eq!(judge_hash(key_type, utf8, &rows), None);
                rows[3] = vec![Some("7".to_owned())];
                assert_eq!(judge_hash(key_type, utf8, &rows).unwrap().effect, Effect::NoKeys);
                rows.truncate(3);
                assert!(judge_hash(key_type, utf8, &rows).is_some(), "too few rows");
            }
        }
    }

    #[test]
    fn one_shard_is_enough_for_distrust() {
        let finding = |effect, message: &str| Finding { effect, message: message.to_owned(), advice: "" };
        let good = Check::Done(Vec::new());
        let bad = Check::Done(vec![
            finding(Effect::Warning, "a"),
            finding(Effect::NoKeys, "b"),
            finding(Effect::NoTextBeyondAscii, "c"),
            finding(Effect::NotByKeyOf("s".into(), "t".into()), "d"),
            finding(Effect::NoScatter, "e"),
            finding(Effect::NoScatterOf("s".into(), "u".into()), "f"),
            finding(Effect::NoWriteOf("s".into(), "w".into()), "g"),
            finding(Effect::LooselyUnique("s".into(), "x".into()), "h"),
            finding(Effect::OtherwiseUnique("s".into(), "y".into()), "i"),
            finding(Effect::NoUpdateOf("s".into(), "z".into(), "c".into()), "j"),
            finding(Effect::NoDeleteOf("s".into(), "z".into()), "k"),
        ]);
        let pending = Check::Pending(Some("gone".into()));
        assert_eq!(Distrust::of([("s0", &good), ("s1", &pending)].into_iter()), Distrust::default());
        let distrust = Distrust::of([("s0", &good), ("s1", &bad)].into_iter());
        let expected = Distrust {
            keys: Some("shard \"s1\": b".into()),
            beyond_ascii: true,
            tables: [(("s".to_owned(), "t".to_owned()), "shard \"s1\": d".to_owned())].into(),
            writes: [(("s".to_owned(), "w".to_owned()), "shard \"s1\": g".to_owned())].into(),
            updates: [(("s".to_owned(), "z".to_owned()), [("c".to_owned(), "shard \"s1\": j".to_owned())].into())]
                .into(),
            deletes: [(("s".to_owned(), "z".to_owned()), "shard \"s1\": k".to_owned())].into(),
            loose: [("s".to_owned(), "x".to_owned())].into(),
            loose_keys: [("s".to_owned(), "y".to_owned())].into(),
            scatter: Some("shard \"s1\": e".into()),
            scatter_of: [(("s".to_owned(), "u".to_owned()), "shard \"s1\": f".to_owned())].into(),
            two_phase: None,
            columns: BTreeMap::new(),
        };
        assert_eq!(distrust, expected);
        assert_eq!(bad.to_string(), "failed: a; b; c; d; e; f; g; h; i; j; k");
        assert_eq!((good.to_string(), pending.to_string()), ("ok".into(), "pending: gone".into()));
        assert_eq!(Check::Done(vec![finding(Effect::Warning, "a")]).to_string(), "warning: a");
    }

    #[test]
    fn two_phase_commit_needs_prepared_transactions_and_the_table() {
        let judged = |most, there, not_made| judge_two_phase(&[row([most, there, "t", "t", ""])], not_made);
        let cells = |columns, delete| judge_two_phase(&[row(["64", "t", columns, delete, ""])], None).unwrap();
        assert!(cells("f", "t").message.contains("columns") && cells("t", "f").message.contains("may not delete"));
        assert_eq!(judged("64", "t", None), None);
        assert_eq!(judged("0", "t", None).unwrap().effect, Effect::NoTwoPhase);
        assert!(judged("64", "f", Some("permission denied")).unwrap().message.ends_with("permission denied"));
        assert!(judge_two_phase(&[], None).is_some());
        let check = Check::Done(judged("0", "t", None).into_iter().collect());
        let distrust = Distrust::of([("s0", &check)].into_iter());
        assert!(distrust.two_phase.is_some_and(|why| why.starts_with("shard \"s0\": max_prepared_transactions is 0")));
    }

    #[test]
    fn the_encoding_matters_for_text_keys() {
        assert_eq!(judge_encoding(&map(), "UTF8"), None);
        assert_eq!(judge_encoding(&map(), "LATIN1").unwrap().effect, Effect::NoTextBeyondAscii);
        let mut without = map();
        without.tables.retain(|(_, name), _| name != "codes");
        assert_eq!(judge_encoding(&without, "LATIN1"), None);
    }

    #[test]
    fn names_are_quoted() {
        let mut map = map();
        map.tables.insert(("S".into(), "it's \\".into()), Table::Reference);
        let sql = tables_sql(&map).unwrap();
        assert!(sql.contains(r"(0, E'S'::pg_catalog.text, E'it''s \\'::pg_catalog.text, NULL)"), "{sql}");
        map.tables.clear();
        assert_eq!(tables_sql(&map), None);
    }
}

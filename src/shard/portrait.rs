//! What an answer depends on beside the rows, shard by shard: the server's version, locales and settings, and the make of the listed
//! tables.
//!
//! Several shards answer one statement only if each gives an expression the value that the others would. So each shard is asked for its
//! portrait, and where that is not the default shard's, no statement is answered by several, nor by key where settings or columns differ. What the text of a statement, its
//! parameters and the client's own settings say is the same everywhere and needs no comparison.

use std::fmt::Write;

use super::check::{Effect, Finding};
use super::map::ShardMap;

/// What is asked: names with values, and what each listed table is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Portrait {
    /// The server and the database, as names with values.
    facts: Vec<(String, Option<String>)>,
    /// The listed tables, in the order of the map; none for one that is not there.
    tables: Vec<Option<Make>>,
}

/// The make of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Make {
    /// `relkind`.
    kind: String,
    /// Each column, in order: its name and type in words, [`APART`], and what else its values depend on.
    columns: Vec<String>,
}

/// Stands between what a column is and by which rules its values are compared.
const APART: char = '\u{1f}';

/// Settings that decide what a value is or how it is written. A client that sets one sets it everywhere; one that does not gets what each
/// server has for it.
const SETTINGS: [&str; 16] = [
    "array_nulls",
    "bytea_output",
    "datestyle",
    "default_text_search_config",
    "extra_float_digits",
    "intervalstyle",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "quote_all_identifiers",
    "search_path",
    "standard_conforming_strings",
    "timezone",
    "timezone_abbreviations",
    "transform_null_equals",
    "xmlbinary",
];

/// The name of what roles set for themselves of these.
const SETTINGS_OF_ROLES: &str = "settings of roles";

/// Asks for the server's version as one number.
pub const VERSION_SQL: &str = "SELECT pg_catalog.current_setting('server_version_num')";

/// Asks a server of this version number for what is not about tables: names and values. To be asked before the session sets anything.
#[must_use]
pub fn facts_sql(version: u32) -> String {
    // The catalog has other columns in each version.
    let mut columns = vec!["datcollate", "datctype"];
    if version >= 150_000 {
        columns.extend(["datlocprovider", "datcollversion"]);
    }
    match version {
        170_000.. => columns.push("datlocale"),
        150_000.. => columns.push("daticulocale"),
        _ => {}
    }
    if version >= 160_000 {
        columns.push("daticurules");
    }
    let mut sql = "SELECT 'major version', (pg_catalog.current_setting('server_version_num')::pg_catalog.int4 / 10000)::pg_catalog.text \
         UNION ALL SELECT 'server_encoding', pg_catalog.current_setting('server_encoding')"
        .to_owned();
    let mut database = |name: &str, value: &str| {
        let _infallible = write!(
            sql,
            " UNION ALL SELECT '{name}', ({value})::pg_catalog.text FROM pg_catalog.pg_database AS d \
             WHERE d.datname = pg_catalog.current_database()"
        );
    };
    for column in columns {
        database(column, &format!("d.{column}"));
    }
    if version >= 150_000 {
        database("version of the collation", "pg_catalog.pg_database_collation_actual_version(d.oid)");
    }
    let names: Vec<String> = SETTINGS.iter().map(|name| format!("('{name}')")).collect();
    let _infallible = write!(
        sql,
        " UNION ALL SELECT s.name, pg_catalog.current_setting(s.name, true) FROM (VALUES {names}) AS s (name) \
         UNION ALL SELECT '{SETTINGS_OF_ROLES}', pg_catalog.string_agg(x.who || ' ' || x.what, ', ' \
           ORDER BY (x.who || ' ' || x.what) COLLATE \"C\") \
         FROM (SELECT COALESCE(r.rolname::pg_catalog.text, '*') AS who, u.what, s.setdatabase, \
             pg_catalog.lower(pg_catalog.split_part(u.what, '=', 1)) AS name \
           FROM pg_catalog.pg_db_role_setting AS s \
           LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = s.setrole, pg_catalog.unnest(s.setconfig) AS u (what) \
           WHERE s.setdatabase = 0 OR s.setdatabase = (SELECT d.oid FROM pg_catalog.pg_database AS d \
             WHERE d.datname = pg_catalog.current_database())) AS x \
         WHERE x.name IN (SELECT n.name FROM (VALUES {names}) AS n (name))",
        names = names.join(", ")
    );
    sql
}

/// Asks what the listed tables are: for each its number in the map, `relkind`, and the columns in words, one a line. None for a map
/// without tables.
#[must_use]
pub fn tables_sql(map: &ShardMap) -> Option<String> {
    let literal = |text: &str| format!("E'{}'::pg_catalog.text", text.replace('\\', "\\\\").replace('\'', "''"));
    let row = |(number, (schema, name)): (usize, &(String, String))| {
        format!("({number}, {}, {})", literal(schema), literal(name))
    };
    let rows: Vec<String> = map.tables.keys().enumerate().map(row).collect();
    (!rows.is_empty()).then(|| {
        format!(
            "SELECT a.n, c.relkind, (SELECT pg_catalog.string_agg( \
                 pg_catalog.quote_ident(f.attname::pg_catalog.text) || ' ' || pg_catalog.format_type(f.atttypid, f.atttypmod) \
                 || ' (' || pg_catalog.quote_ident(m.nspname::pg_catalog.text) || '.' || pg_catalog.quote_ident(t.typname::pg_catalog.text) || ')' \
                 || E'\\x1f' || COALESCE(' collate ' || pg_catalog.quote_ident(w.nspname::pg_catalog.text) || '.' \
                   || pg_catalog.quote_ident(k.collname::pg_catalog.text) \
                   || COALESCE(' version ' || pg_catalog.pg_collation_actual_version(k.oid), '') \
                   || COALESCE(' indexed by version ' || k.collversion, ''), '') \
                 || COALESCE(' enum ' || (SELECT pg_catalog.string_agg(pg_catalog.quote_literal(e.enumlabel::pg_catalog.text), ',' \
                   ORDER BY e.enumsortorder) FROM pg_catalog.pg_enum AS e \
                   WHERE e.enumtypid IN (t.oid, t.typelem, t.typbasetype)), ''), \
                 E'\\n' ORDER BY f.attnum) \
               FROM pg_catalog.pg_attribute AS f \
               JOIN pg_catalog.pg_type AS t ON t.oid = f.atttypid \
               JOIN pg_catalog.pg_namespace AS m ON m.oid = t.typnamespace \
               LEFT JOIN pg_catalog.pg_collation AS k ON k.oid = f.attcollation AND k.oid <> 100 \
               LEFT JOIN pg_catalog.pg_namespace AS w ON w.oid = k.collnamespace \
               WHERE f.attrelid = c.oid AND f.attnum > 0 AND NOT f.attisdropped) \
             FROM (VALUES {}) AS a (n, schema, name) \
             LEFT JOIN pg_catalog.pg_namespace AS s ON s.nspname::pg_catalog.text = a.schema \
             LEFT JOIN pg_catalog.pg_class AS c ON c.relnamespace = s.oid AND c.relname::pg_catalog.text = a.name \
               AND c.relkind IN ('r', 'p', 'v', 'm', 'f') \
             ORDER BY a.n",
            rows.join(", ")
        )
    })
}

impl Portrait {
    /// Of the answers to [`facts_sql`] and [`tables_sql`].
    #[must_use]
    pub fn of(facts: Vec<Vec<Option<String>>>, tables: Vec<Vec<Option<String>>>) -> Self {
        let fact = |row: Vec<Option<String>>| {
            let mut cells = row.into_iter();
            (cells.next().flatten().unwrap_or_default(), cells.next().flatten())
        };
        let make = |row: Vec<Option<String>>| {
            let mut cells = row.into_iter().skip(1);
            let kind = cells.next().flatten()?;
            let columns = cells.next().flatten().unwrap_or_default();
            Some(Make { kind, columns: columns.lines().map(str::to_owned).collect() })
        };
        let mut facts: Vec<_> = facts.into_iter().map(fact).collect();
        facts.sort();
        Self { facts, tables: tables.into_iter().map(make).collect() }
    }

    /// The names of the columns of a listed table, by its number in the map; none if it is not there.
    #[must_use]
    pub fn columns(&self, table: usize) -> Option<Vec<String>> {
        let make = self.tables.get(table)?.as_ref()?;
        make.columns.iter().map(|column| name(column)).collect()
    }

    /// What of it forbids several shards to answer, whatever the others are.
    #[must_use]
    pub fn judge(&self, map: &ShardMap) -> Vec<Finding> {
        let judge = |((schema, name), make): (&(String, String), &Option<Make>)| {
            let kind = match make.as_ref()?.kind.as_str() {
                "v" => "a view",
                "m" => "a materialized view",
                "f" => "a foreign table",
                _ => return None,
            };
            Some(Finding {
                effect: Effect::NoScatterOf(schema.clone(), name.clone()),
                message: format!(
                    "\"{schema}.{name}\" is {kind}: whether its rows lie where their keys say is not known"
                ),
                advice: "List the tables that are under it, and ask those.",
            })
        };
        map.tables.keys().zip(&self.tables).filter_map(judge).collect()
    }

    /// Where it is not as the default shard's.
    #[must_use]
    pub fn compare(&self, default: &Self, map: &ShardMap) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (name, theirs) in &default.facts {
            let ours = self.facts.iter().find(|(other, _)| other == name).and_then(|(_, value)| value.as_deref());
            let theirs = theirs.as_deref();
            if ours != theirs {
                // By their keys statements find a shard whatever its collations, but what they mean there and how values are written
                // must not depend on the shard.
                let is_setting = name == SETTINGS_OF_ROLES || SETTINGS.contains(&name.as_str());
                findings.push(Finding {
                    effect: if is_setting { Effect::NoKeys } else { Effect::NoScatter },
                    message: format!(
                        "{name} is {}, on the default shard {}",
                        ours.unwrap_or("not set"),
                        theirs.unwrap_or("not set")
                    ),
                    advice: "Make all shards alike, by ALTER DATABASE ... SET or in postgresql.conf.",
                });
            }
        }
        // Servers of different versions do not tell the same.
        for ((schema, name), (ours, theirs)) in map.tables.keys().zip(self.tables.iter().zip(&default.tables)) {
            // A table that is not there is an error of the server's.
            let (Some(ours), Some(theirs)) = (ours, theirs) else { continue };
            if let Some((grave, message)) = ours.differs(theirs) {
                let place = (schema.clone(), name.clone());
                findings.push(Finding {
                    effect: if grave {
                        Effect::NotByKeyOf(place.0, place.1)
                    } else {
                        Effect::NoScatterOf(place.0, place.1)
                    },
                    message: format!("table \"{schema}.{name}\" {message}"),
                    advice: "Make the table alike on all shards: the same columns, in the same order.",
                });
            }
        }
        findings
    }
}

/// The name that a column's words begin with, as `quote_ident` writes it.
fn name(column: &str) -> Option<String> {
    let Some(quoted) = column.strip_prefix('"') else { return column.split(' ').next().map(str::to_owned) };
    let mut name = String::new();
    let mut chars = quoted.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '"' && chars.next_if_eq(&'"').is_none() {
            return Some(name);
        }
        name.push(c);
    }
    None
}

impl Make {
    /// How it differs from the default shard's, and whether a column has another name or type there: what was prepared on one shard does
    /// not fit the other then. One that has a few columns more at the end is on its way to be alike.
    fn differs(&self, default: &Self) -> Option<(bool, String)> {
        let what = |column: &String| column.split(APART).next().unwrap_or_default().to_owned();
        let grave = self.columns.iter().zip(&default.columns).any(|(ours, theirs)| what(ours) != what(theirs));
        let longest = self.columns.len().max(default.columns.len());
        let pairs = (0..longest).map(|at| (at, self.columns.get(at), default.columns.get(at)));
        let shown = |column: Option<&String>| {
            column.map_or("nothing".to_owned(), |column| format!("`{}`", column.replace(APART, "")))
        };
        pairs.into_iter().find(|(_, ours, theirs)| ours != theirs).map(|(at, ours, theirs)| {
            let number = at.saturating_add(1);
            (grave, format!("has {} as column {number}, on the default shard {}", shown(ours), shown(theirs)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ShardIndex;
    use crate::shard::map::Table;

    fn map() -> ShardMap {
        let table = |name: &str| (("public".to_owned(), name.to_owned()), Table::Reference);
        ShardMap::new(
            vec!["s0".into(), "s1".into()],
            vec![vec![(0, 8191)], vec![(8192, 16383)]],
            [table("a"), table("it's \\")].into(),
            ShardIndex(0),
        )
        .unwrap()
    }

    fn rows(rows: &[&[&str]]) -> Vec<Vec<Option<String>>> {
        rows.iter().map(|row| row.iter().map(|c| (!c.is_empty()).then(|| (*c).to_owned())).collect()).collect()
    }

    fn told(findings: Vec<Finding>) -> Vec<(&'static str, String)> {
        let word = |effect| match effect {
            Effect::NoKeys => "keys",
            Effect::NotByKeyOf(..) => "by key",
            Effect::NoScatter => "scatter",
            Effect::NoScatterOf(..) => "scatter of",
            Effect::NoTextBeyondAscii
            | Effect::NoTwoPhase
            | Effect::LooselyUnique(..)
            | Effect::OtherwiseUnique(..)
            | Effect::NoWriteOf(..)
            | Effect::NoUpdateOf(..)
            | Effect::NoDeleteOf(..)
            | Effect::Warning => "else",
        };
        findings.into_iter().map(|f| (word(f.effect), f.message)).collect()
    }

    #[test]
    fn shards_are_compared_with_the_default_one() {
        let facts = rows(&[&["timezone", "UTC"], &["daticulocale", ""]]);
        let one = Portrait::of(facts.clone(), rows(&[&["0", "r", "k int8\nv text"], &["1", "", ""]]));
        assert_eq!(one.compare(&one, &map()), []);
        assert_eq!(one.judge(&map()), []);
        let turned = rows(&[&["daticulocale", "de"], &["timezone", "UTC"]]);
        let other = Portrait::of(turned, rows(&[&["0", "r", "k int8"], &["1", "r", "x int4"]]));
        assert_eq!(
            told(other.compare(&one, &map())),
            [
                ("scatter", "daticulocale is de, on the default shard not set".to_owned()),
                ("scatter of", "table \"public.a\" has nothing as column 2, on the default shard `v text`".to_owned()),
            ]
        );
        // A partitioned table is as good as a plain one.
        let same = Portrait::of(facts.clone(), rows(&[&["0", "p", "k int8\nv text"], &["1", "", ""]]));
        assert_eq!(same.compare(&one, &map()), []);
        for (kind, word) in [("v", "a view"), ("m", "a materialized view"), ("f", "a foreign table")] {
            let view = Portrait::of(facts.clone(), rows(&[&["0", kind, "k int8\nv text"], &["1", "", ""]]));
            let found = view.judge(&map());
            assert_eq!(found[0].effect, Effect::NoScatterOf("public".into(), "a".into()));
            assert!(found[0].message.contains(word), "{found:?}");
        }
    }

    #[test]
    fn what_would_give_values_of_other_columns_or_another_form_stops_keys_too() {
        let made =
            |facts: &[&[&str]], columns: &str| Portrait::of(rows(facts), rows(&[&["0", "r", columns], &["1", "", ""]]));
        let default = made(&[&["bytea_output", "hex"], &["search_path", "public"]], "k int8\x1f\nv text\x1f enum 'a'");
        let same: &[&[&str]] = &[&["bytea_output", "hex"], &["search_path", "public"]];
        for (facts, columns, expected) in [
            (same, "v text\x1f enum 'a'\nk int8\x1f", "by key"),
            (same, "k int4\x1f\nv text\x1f enum 'a'", "by key"),
            (same, "k int8\x1f\nv text\x1f enum 'b'", "scatter of"),
            (same, "k int8\x1f\nv text\x1f enum 'a'\nn int4\x1f", "scatter of"),
            (same, "k int8\x1f", "scatter of"),
            (same, "k int8\x1f\nn int4\x1f\nv text\x1f enum 'a'", "by key"),
            (&[&["bytea_output", "escape"], &["search_path", "public"]], "k int8\x1f\nv text\x1f enum 'a'", "keys"),
            (&[&["bytea_output", "hex"], &["search_path", "alt"]], "k int8\x1f\nv text\x1f enum 'a'", "keys"),
        ] {
            let told = told(made(facts, columns).compare(&default, &map()));
            assert_eq!(told.iter().map(|(word, _)| *word).collect::<Vec<_>>(), [expected], "{told:?}");
            assert!(!told[0].1.contains('\x1f'), "{told:?}");
        }
    }

    #[test]
    fn names_are_quoted_and_lists_sorted() {
        assert!(SETTINGS.is_sorted());
        let sql = tables_sql(&map()).unwrap();
        assert!(sql.contains(r"(1, E'public'::pg_catalog.text, E'it''s \\'::pg_catalog.text)"), "{sql}");
        assert!(!facts_sql(140_009).contains("datcollversion"));
        assert!(facts_sql(160_001).contains("daticulocale") && !facts_sql(170_001).contains("daticulocale"));
    }
}

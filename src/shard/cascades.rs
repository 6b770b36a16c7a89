//! Foreign keys: those whose actions write other rows than a statement does (ON UPDATE and ON DELETE with CASCADE, SET NULL and SET
//! DEFAULT), and those to rows that lie elsewhere.
//!
//! The server carries actions out on the shard of the row that is written. They must not give rows of a sharded table another key than they
//! lie by, nor change a copy of a reference table on one shard alone. See
//! <https://www.postgresql.org/docs/current/ddl-constraints.html#DDL-CONSTRAINTS-FK>.

use std::collections::BTreeSet;

use super::check::{Effect, Finding};
use super::map::{ShardMap, Table};
use super::table_key::{KeyColumn, TableKey};
use crate::sql::hidden::assign;

/// Asks for the foreign keys: schema and table that have it, schema and table that it is to, what is done ON UPDATE and ON DELETE
/// (letters of `pg_constraint`), its columns, those that it is to in the same order, those that ON DELETE sets, and the name; columns stand
/// apart by `APART`. Partitions stand under the name of their table.
pub const SQL: &str = "SELECT n.nspname, c.relname, m.nspname, p.relname, k.confupdtype, k.confdeltype, \
      (SELECT pg_catalog.string_agg(a.attname::pg_catalog.text, E'\\x1f' ORDER BY u.ord) \
        FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY AS u (num, ord) \
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = u.num), \
      (SELECT pg_catalog.string_agg(a.attname::pg_catalog.text, E'\\x1f' ORDER BY u.ord) \
        FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY AS u (num, ord) \
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.confrelid AND a.attnum = u.num), \
      (SELECT pg_catalog.string_agg(a.attname::pg_catalog.text, E'\\x1f' ORDER BY u.ord) \
        FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY AS u (num, ord) \
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = u.num \
        WHERE COALESCE(j.cols, 'null') IN ('null', '[]') OR j.cols OPERATOR(pg_catalog.@>) pg_catalog.to_jsonb(u.num)), \
      k.conname \
    FROM pg_catalog.pg_constraint AS k \
    CROSS JOIN LATERAL (SELECT pg_catalog.to_jsonb(k) OPERATOR(pg_catalog.->) 'confdelsetcols') AS j (cols) \
    JOIN pg_catalog.pg_class AS c ON c.oid = COALESCE(pg_catalog.pg_partition_root(k.conrelid)::pg_catalog.oid, k.conrelid) \
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
    JOIN pg_catalog.pg_class AS p ON p.oid = COALESCE(pg_catalog.pg_partition_root(k.confrelid)::pg_catalog.oid, k.confrelid) \
    JOIN pg_catalog.pg_namespace AS m ON m.oid = p.relnamespace \
    WHERE k.contype = 'f' AND k.conparentid = 0 \
    ORDER BY n.nspname, c.relname, k.conname";

/// Stands between the columns.
const APART: char = '\u{1f}';

/// A table: schema and name.
type Place = (String, String);

/// A foreign key.
struct ForeignKey {
    of: Place,
    to: Place,
    on_update: Action,
    on_delete: Action,
    columns: Vec<String>,
    referenced: Vec<String>,
    /// The columns that ON DELETE sets.
    sets: Vec<String>,
    name: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    /// NO ACTION, RESTRICT.
    None,
    Cascade,
    /// SET NULL, SET DEFAULT.
    Set,
}

impl ForeignKey {
    fn of(row: &[Option<String>]) -> Option<Self> {
        let cell = |at: usize| row.get(at)?.clone();
        let list = |at: usize| Some(cell(at)?.split(APART).map(str::to_owned).collect::<Vec<_>>());
        let action = |at: usize| match cell(at).as_deref() {
            Some("c") => Action::Cascade,
            Some("n" | "d") => Action::Set,
            _ => Action::None,
        };
        Some(Self {
            of: (cell(0)?, cell(1)?),
            to: (cell(2)?, cell(3)?),
            on_update: action(4),
            on_delete: action(5),
            columns: list(6)?,
            referenced: list(7)?,
            sets: list(8).unwrap_or_default(),
            name: cell(9).unwrap_or_default(),
        })
    }
}

/// What the answer to [`SQL`] means.
#[must_use]
pub fn judge(map: &ShardMap, rows: &[Vec<Option<String>>]) -> Vec<Finding> {
    let keys: Vec<ForeignKey> = rows.iter().filter_map(|row| ForeignKey::of(row)).collect();
    let graph = Graph { map, keys: &keys };
    let written: BTreeSet<&Place> = keys.iter().map(|key| &key.to).collect();
    let mut findings = Vec::new();
    for place in written {
        let columns: BTreeSet<&String> =
            keys.iter().filter(|key| key.to == *place).flat_map(|key| &key.referenced).collect();
        for column in columns {
            // A statement that changes a key has been held against the shard where the rows are: those that keep to the key keep to it.
            let kept = graph.table(place).and_then(Table::key).is_some_and(|key| key.has(column));
            let start = Step { root: place, at: place, what: What::Changed(column), kept };
            if let Some(why) = graph.follow(start) {
                findings.push(Finding {
                    effect: Effect::NoUpdateOf(place.0.clone(), place.1.clone(), column.clone()),
                    message: format!("UPDATE of column \"{column}\" of table \"{}.{}\" {why}", place.0, place.1),
                    advice: ADVICE,
                });
            }
        }
        if let Some(why) = graph.follow(Step { root: place, at: place, what: What::Deleted, kept: false }) {
            findings.push(Finding {
                effect: Effect::NoDeleteOf(place.0.clone(), place.1.clone()),
                message: format!("DELETE from table \"{}.{}\" {why}", place.0, place.1),
                advice: ADVICE,
            });
        }
    }
    findings
}

/// The foreign keys from one sharded table to another that do not carry the whole sharding key of both, column by column: the rows that they
/// are to may lie on other shards, where the server does not find them.
#[must_use]
pub fn judge_places(map: &ShardMap, rows: &[Vec<Option<String>>]) -> Vec<Finding> {
    let judged = |key: ForeignKey| {
        let (own, other) = (sharded(map, &key.of)?, sharded(map, &key.to)?);
        if key.carries(own, other) {
            return None;
        }
        Some(Finding {
            effect: Effect::Warning,
            message: format!(
                "foreign key \"{}\" of table \"{}.{}\" does not carry the sharding key to table \"{}.{}\": rows are refused whose row there is on another shard",
                key.name, key.of.0, key.of.1, key.to.0, key.to.1
            ),
            advice: if own.same_family(other) {
                "Make the foreign key of all columns of the sharding key, each to the one in the same place, or drop it."
            } else {
                "Give both tables sharding keys of as many columns, of like types in the same order, and the foreign key these columns; or drop it."
            },
        })
    };
    rows.iter().filter_map(|row| ForeignKey::of(row)).filter_map(judged).collect()
}

/// The sharding key of a table, if it has one.
fn sharded<'a>(map: &'a ShardMap, place: &Place) -> Option<&'a TableKey> {
    map.table(Some(&place.0), &place.1).and_then(Table::key)
}

/// What triggers (rows as in [`Behind::triggers`](super::behind::Behind::triggers)) make of that: one that may change such a column does so
/// whatever the statement says.
#[must_use]
pub fn by_triggers(findings: &[Finding], triggers: &[Vec<Option<String>>]) -> Vec<Finding> {
    let mut found = Vec::new();
    for finding in findings {
        let Effect::NoUpdateOf(schema, table, column) = &finding.effect else { continue };
        for row in triggers {
            let [Some(of), Some(on), Some(trigger), Some(changes), _, Some(language), text, Some(built_in)] =
                row.as_slice()
            else {
                continue;
            };
            let reads = language == "plpgsql";
            let assigns = || !reads || assign::may_assign(text.as_deref().unwrap_or_default(), column);
            if (of, on) == (schema, table) && changes == "t" && built_in != "t" && assigns() {
                found.push(Finding {
                    effect: Effect::NoWriteOf(schema.clone(), table.clone()),
                    message: format!(
                        "trigger \"{trigger}\" of table \"{schema}.{table}\" may change column \"{column}\", which a foreign key follows"
                    ),
                    advice: ADVICE,
                });
            }
        }
    }
    found
}

const ADVICE: &str = "Make the foreign key anew without ON UPDATE and ON DELETE for it, or do it in statements that name the sharding key.";

struct Graph<'a> {
    map: &'a ShardMap,
    keys: &'a [ForeignKey],
}

/// What has become of rows of a table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What<'a> {
    Changed(&'a String),
    Deleted,
}

/// What becomes of rows of the table `at`, by a statement that writes the table `root`.
#[derive(Clone, Copy)]
struct Step<'a> {
    root: &'a Place,
    at: &'a Place,
    what: What<'a>,
    /// What is changed is of the key of `at`, whose rows have then whole keys of the shard on which they are.
    kept: bool,
}

impl<'a> Graph<'a> {
    fn table(&self, place: &Place) -> Option<&Table> {
        self.map.table(Some(&place.0), &place.1)
    }

    /// Why what follows of it by foreign keys must not be.
    fn follow(&self, start: Step<'a>) -> Option<String> {
        let is_copy = |place: &Place| matches!(self.table(place), Some(Table::Reference));
        let (mut todo, mut seen) = (vec![start], BTreeSet::new());
        while let Some(step) = todo.pop() {
            for key in self.keys.iter().filter(|key| key.to == *step.at) {
                for what in key.does(step.what) {
                    if is_copy(&key.of) && !is_copy(step.root) {
                        return Some(format!(
                            "writes by a foreign key reference table \"{}\", of which each shard has a copy",
                            key.of.1
                        ));
                    }
                    let mut kept = false;
                    if let (Some(of), What::Changed(changed)) = (sharded(self.map, &key.of), what)
                        && of.has(changed)
                    {
                        let carried = || sharded(self.map, &key.to).is_some_and(|to| key.carries(of, to));
                        kept = step.kept && key.on_update == Action::Cascade && carried();
                        if !kept {
                            return Some(format!(
                                "changes by a foreign key the sharding key \"{changed}\" of rows of table \"{}\", which then lie on the wrong shard",
                                key.of.1
                            ));
                        }
                    }
                    if seen.insert((&key.of, what, kept)) {
                        todo.push(Step { root: step.root, at: &key.of, what, kept });
                    }
                }
            }
        }
        None
    }
}

impl ForeignKey {
    /// Whether it carries the whole key of the table that has it to the whole key of the other, column by column.
    fn carries(&self, own: &TableKey, other: &TableKey) -> bool {
        let carried = |(a, b): (&KeyColumn, &KeyColumn)| {
            self.columns.iter().zip(&self.referenced).any(|(column, to)| *column == a.name && *to == b.name)
        };
        own.same_family(other) && own.columns().iter().zip(other.columns()).all(carried)
    }

    /// What it does to the rows that have it when rows that it is to are changed or deleted.
    fn does(&self, what: What<'_>) -> Vec<What<'_>> {
        match (what, self.on_update, self.on_delete) {
            (What::Changed(column), Action::Cascade, _) => {
                let pairs = self.referenced.iter().zip(&self.columns);
                pairs.filter(|(referenced, _)| *referenced == column).map(|(_, own)| What::Changed(own)).collect()
            }
            (What::Changed(column), Action::Set, _) if self.referenced.contains(column) => {
                self.columns.iter().map(What::Changed).collect()
            }
            (What::Deleted, _, Action::Cascade) => vec![What::Deleted],
            (What::Deleted, _, Action::Set) => self.sets.iter().map(What::Changed).collect(),
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ShardIndex;
    use crate::shard::map::KeyType;

    /// `x` by id, `y` and `u` by k, `p` by a and b, `q` by c and d; tables `c` and `d` everywhere.
    fn map() -> ShardMap {
        let pair = |name: &str, columns: [&str; 2]| {
            let columns = columns.map(|name| KeyColumn { name: name.to_owned(), key_type: KeyType::Text });
            let key = TableKey::new(columns.to_vec()).unwrap();
            (("public".to_owned(), name.to_owned()), Table::Sharded { key })
        };
        let sharded =
            |name: &str, key: &str| (("public".to_owned(), name.to_owned()), Table::sharded(key, KeyType::Text));
        let reference = |name: &str| (("public".to_owned(), name.to_owned()), Table::Reference);
        ShardMap::new(
            vec!["a".into(), "b".into()],
            vec![vec![(0, 1)], vec![(2, 16383)]],
            [
                sharded("x", "id"),
                sharded("y", "k"),
                sharded("u", "k"),
                reference("c"),
                reference("d"),
                pair("p", ["a", "b"]),
                pair("q", ["c", "d"]),
            ]
            .into(),
            ShardIndex(0),
        )
        .unwrap()
    }

    /// What is found of foreign keys, each written `table columns > table columns, update, delete, set`.
    fn found(keys: &[&str]) -> Vec<String> {
        let row = |key: &&str| {
            let parts: Vec<&str> = key.split([' ', '>', ',']).filter(|part| !part.is_empty()).collect();
            let [of, columns, to, referenced, update, delete, rest @ ..] = parts.as_slice() else { panic!("{key}") };
            let [columns, referenced] = [columns, referenced].map(|list| list.replace('+', "\x1f"));
            let sets = rest.first().map_or_else(|| columns.clone(), |sets| (*sets).to_owned());
            let lists = [columns.as_str(), referenced.as_str(), sets.as_str()];
            let cells = [["public", *of, "public"], [*to, *update, *delete], lists].concat();
            cells.iter().map(|cell| Some((*cell).to_owned())).collect()
        };
        let rows: Vec<Vec<Option<String>>> = keys.iter().map(row).collect();
        let effect = |finding: Finding| match finding.effect {
            Effect::NoUpdateOf(_, table, column) => format!("update {table}.{column}"),
            Effect::NoDeleteOf(_, table) => format!("delete {table}"),
            other => panic!("{other:?}"),
        };
        judge(&map(), &rows).into_iter().map(effect).collect()
    }

    #[test]
    fn triggers_change_what_foreign_keys_follow() {
        let finding = Finding {
            effect: Effect::NoUpdateOf("public".into(), "x".into(), "ext".into()),
            message: String::new(),
            advice: "",
        };
        let found = |table: &str, changes: &str, language: &str, text: &str| {
            let row = ["public", table, "moves", changes, "f", language, text, "f"].map(|cell| Some(cell.to_owned()));
            by_triggers(std::slice::from_ref(&finding), &[row.to_vec()]).len()
        };
        let moves = "BEGIN NEW.ext := 5; RETURN NEW; END";
        assert_eq!(found("x", "t", "plpgsql", moves), 1);
        assert_eq!(found("x", "t", "c", "moves"), 1);
        assert_eq!(found("x", "f", "plpgsql", moves), 0, "it comes after the row");
        assert_eq!(found("y", "t", "plpgsql", moves), 0);
        assert_eq!(found("x", "t", "plpgsql", "BEGIN NEW.n := 5; RETURN NEW; END"), 0);
    }

    #[test]
    fn foreign_keys_carry_the_whole_key_in_its_order() {
        let map = map();
        for (of, columns, to, referenced, good) in [
            ("q", "c\x1fd", "p", "a\x1fb", true),
            ("q", "n\x1fd\x1fc", "p", "m\x1fb\x1fa", true),
            ("q", "d\x1fc", "p", "a\x1fb", false),
            ("q", "c", "p", "a", false),
            ("q", "c", "y", "k", false),
            ("y", "k", "x", "id", true),
            ("y", "n", "x", "id", false),
            ("y", "n", "c", "code", true),
            ("plain", "n", "x", "id", true),
        ] {
            let row = ["public", of, "public", to, "a", "a", columns, referenced, columns, "f"];
            let row: Vec<Option<String>> = row.iter().map(|cell| Some((*cell).to_owned())).collect();
            assert_eq!(judge_places(&map, &[row]).is_empty(), good, "{of} {columns} > {to} {referenced}");
        }
    }

    #[test]
    fn keys_that_foreign_keys_change_are_found() {
        for (keys, expected) in [
            (&["u k > c code, c, a"] as &[_], "update c.code"),
            (&["u k > c code, n, a"], "update c.code"),
            (&["u k > c code, a, d"], "delete c"),
            (&["u k > c code, a, n"], "delete c"),
            // Rows that go with those of the same shard, and columns that are no keys.
            (&["u k > c code, a, c"], ""),
            (&["u v > c code, c, n"], ""),
            (&["y k > x ext, c, a"], "update x.ext"),
            // Its key follows the whole key, which keeps to its shard.
            (&["y k > x id, c, c"], ""),
            (&["y k > x id, c, a", "u k > y k, c, a"], ""),
            (&["y k > x id, n, a"], "update x.id"),
            (&["y v > x id, c, a", "u k > y v, c, a"], "update x.id; update y.v"),
            // A part of one, all of one, and one in another order.
            (&["y k > p b, c, a"], "update p.b"),
            (&["q c+d > p a+b, c, a"], ""),
            (&["q d+c > p a+b, c, a"], "update p.a; update p.b"),
            (&["q c+d > p a+b, n, a"], "update p.a; update p.b"),
            (&["q n+d > p a+b, c, a"], "update p.b"),
            (&["y k > plain id, c, a"], "update plain.id"),
            // Of several columns.
            (&["y k+v > x id+ext, c, a"], ""),
            (&["y k+v > x id+ext, n, a"], "update x.ext; update x.id"),
            (&["y k+v > x id+ext, a, n, v"], ""),
            (&["y k+v > x id+ext, a, n"], "delete x"),
            // Through others.
            (&["d code > c code, c, c", "u k > d code, c, n"], "update c.code; delete c; update d.code; delete d"),
            (&["d code > c code, c, a", "c code > d code, c, a", "u v > d code, c, n"], ""),
            // A copy that one shard alone would change.
            (&["d n > x ext, c, c"], "update x.ext; delete x"),
            (&["d n > c n, c, c"], ""),
        ] {
            assert_eq!(found(keys).join("; "), expected, "{keys:?}");
        }
    }
}

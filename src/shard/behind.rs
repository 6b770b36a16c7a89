//! What runs behind tables unseen: triggers, rules, and policies of row-level security.
//!
//! They run on the shard of the statement, so they may read or write only what is there: tables of the same key, and reference
//! tables to read. What their code names is read from its text ([`crate::sql::hidden::body`]): a name of a table counts as one wherever
//! it stands, and so does what the functions name that it calls. Another sharded table that is named is believed to be asked for rows of
//! the same key, for which the text has no proof.

use std::collections::{BTreeMap, BTreeSet};

use super::check::{Effect, Finding};
use super::map::{KeyType, ShardMap, Table};
use super::table_key::TableKey;
use crate::sql::catalog::tables_by_text;
use crate::sql::hidden::{assign, body};

/// Rows as a server gives them.
pub type Rows = Vec<Vec<Option<String>>>;

/// What a server tells of what is behind its tables.
#[derive(Debug, Clone, Default)]
pub struct Behind {
    /// Rules and policies of listed tables: `rule`, `relation` or `function`; the table's number in the map; the name of the rule or the
    /// policy; schema (none for a function) and name of what the policy names.
    pub rules: Rows,
    /// Triggers of all tables: schema, table, trigger, `t` if it may change a row before it is written, then name, language and text of its
    /// function, and whether that is PostgreSQL's own.
    pub triggers: Rows,
    /// Functions that are not PostgreSQL's own: name, language, text.
    pub functions: Rows,
    /// Tables and views: schema and name.
    pub relations: Rows,
}

/// Words by which a text may write.
const WRITES: [&str; 6] = ["copy", "delete", "insert", "merge", "truncate", "update"];

/// What a piece of code names.
#[derive(Debug, Default)]
struct Code {
    names: BTreeSet<String>,
    /// Those that are not only columns of the row that a trigger runs for.
    apart: BTreeSet<String>,
    /// It may do anything: its language is not read, or it runs a text that it makes.
    unknown: bool,
}

impl Code {
    fn writes(&self) -> bool {
        WRITES.iter().any(|word| self.names.contains(*word))
    }
}

impl Behind {
    /// What is not to be believed for it.
    #[must_use]
    pub fn judge(&self, map: &ShardMap) -> Vec<Finding> {
        let reader = Reader::new(self, map);
        let rules = self.rules.iter().filter_map(|row| reader.rule(row, map));
        let triggers = self.triggers.iter().filter_map(|row| reader.trigger(row, map));
        rules.chain(triggers).collect()
    }
}

/// What code is judged by.
struct Reader<'a> {
    functions: BTreeMap<&'a str, Vec<(&'a str, &'a str)>>,
    unlisted: BTreeSet<&'a str>,
    sharded: BTreeSet<&'a str>,
    /// The keys of the sharded ones, by name.
    keys: Vec<(&'a str, &'a TableKey)>,
    reference: BTreeSet<&'a str>,
}

impl<'a> Reader<'a> {
    fn new(behind: &'a Behind, map: &'a ShardMap) -> Self {
        let mut functions: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
        for row in &behind.functions {
            if let [Some(name), Some(language), Some(text)] = row.as_slice() {
                functions.entry(name).or_default().push((language, text));
            }
        }
        let unlisted = behind.relations.iter().filter_map(|row| match row.as_slice() {
            [Some(schema), Some(name)] if map.table(Some(schema), name).is_none() => Some(name.as_str()),
            _ => None,
        });
        let of = |reference: bool| {
            let tables = map.tables.iter().filter(move |(_, table)| matches!(table, Table::Reference) == reference);
            tables.map(|((_, name), _)| name.as_str()).collect()
        };
        let keys = map.tables.iter().filter_map(|((_, name), table)| Some((name.as_str(), table.key()?)));
        Self { functions, unlisted: unlisted.collect(), sharded: of(false), keys: keys.collect(), reference: of(true) }
    }

    /// What a text names, with the functions that it may call.
    fn code(&self, language: &str, text: &str) -> Code {
        let mut code = Code::default();
        let mut todo = vec![(language.to_owned(), text.to_owned())];
        let mut seen = BTreeSet::new();
        while let Some((language, text)) = todo.pop() {
            if !matches!(language.as_str(), "sql" | "plpgsql") {
                code.unknown = true;
                continue;
            }
            let body = body::read(&language, &text);
            code.apart.extend(body.apart);
            for name in body.names {
                if seen.insert(name.clone()) {
                    let called = self.functions.get(name.as_str()).into_iter().flatten();
                    todo.extend(called.map(|(language, text)| ((*language).to_owned(), (*text).to_owned())));
                    code.names.insert(name);
                }
            }
        }
        code.unknown |= code.names.contains("execute") || tables_by_text().any(|name| code.names.contains(name));
        code
    }

    /// Why code may read or write what is not on its shard, or is more than that.
    fn strays(&self, code: &Code, beside_sharded: bool) -> Option<String> {
        let named = |tables: &BTreeSet<&str>| code.names.iter().find(|name| tables.contains(name.as_str())).cloned();
        if code.unknown {
            return Some("runs code that cannot be read".to_owned());
        }
        if let Some(name) = named(&self.reference).filter(|_| code.writes()) {
            return Some(format!("may write reference table \"{name}\", of which each shard has a copy"));
        }
        if beside_sharded {
            named(&self.unlisted).map(|name| format!("names \"{name}\", which is on the default shard only"))
        } else {
            named(&self.sharded).map(|name| format!("names sharded table \"{name}\""))
        }
    }

    /// Why code beside a table may look for rows of the same key where they are not.
    fn hashes_otherwise(&self, code: &Code, table: Option<&Table>) -> Option<String> {
        let own = table?.key()?;
        let named = || self.keys.iter().filter(|(name, _)| code.names.contains(*name));
        if let Some((name, _)) = named().find(|(_, key)| key.width() != own.width()) {
            return Some(format!(
                "names sharded table \"{name}\", whose rows lie elsewhere: its sharding key has not as many columns"
            ));
        }
        if let Some((name, _)) = named().find(|(_, key)| tags(key) != tags(own)) {
            return Some(format!(
                "names sharded table \"{name}\", whose equal keys lie elsewhere: only one of the two goes by a tag"
            ));
        }
        let turned = |key: &TableKey| {
            let elsewhere = |(place, name): (usize, &str)| own.place(name).is_some_and(|other| other != place);
            key.names().enumerate().any(elsewhere)
        };
        if let Some((name, _)) = named().find(|(_, key)| own.width() > 1 && (!own.same_family(key) || turned(key))) {
            return Some(format!(
                "names sharded table \"{name}\", whose equal keys lie elsewhere: its sharding key has the columns in another order or of other types"
            ));
        }
        // By a part of its key rows of several shards are meant. What the row has that the trigger runs for ties no other.
        let partly = |key: &TableKey| key.names().find(|column| !code.apart.contains(*column)).map(str::to_owned);
        let (name, column) =
            named().filter(|(_, key)| key.width() > 1).find_map(|(name, key)| Some((name, partly(key)?)))?;
        Some(format!(
            "names sharded table \"{name}\" but not \"{column}\" of its sharding key: rows with only a part of a key lie on several shards"
        ))
    }

    fn rule(&self, row: &[Option<String>], map: &ShardMap) -> Option<Finding> {
        let [Some(kind), Some(number), Some(what), schema, name] = row else { return None };
        let ((table_schema, table), _) = map.tables.iter().nth(number.parse().ok()?)?;
        let shown = format!("\"{table_schema}.{table}\"");
        let name = name.as_deref().unwrap_or_default();
        let place = (table_schema.clone(), table.clone());
        if kind == "rule" {
            return Some(Finding {
                effect: Effect::NoWriteOf(place.0, place.1),
                message: format!("rule \"{what}\" of table {shown} makes other statements of those that write it"),
                advice: "Drop the rule: what its statements write is not looked at.",
            });
        }
        let why = match (kind.as_str(), schema) {
            ("relation", Some(schema)) => match map.table(Some(schema), name) {
                Some(Table::Reference) => return None,
                Some(Table::Sharded { .. }) => format!("reads sharded table \"{name}\""),
                None => format!("reads \"{name}\", which is on the default shard only"),
            },
            ("function", _) => {
                let bodies = self.functions.get(name)?;
                let strays = |(language, text): &(&str, &str)| {
                    let code = self.code(language, text);
                    let sharded = code.names.iter().find(|name| self.sharded.contains(name.as_str()));
                    let by_name = || sharded.map(|name| format!("names sharded table \"{name}\""));
                    self.strays(&code, true).or_else(by_name)
                };
                format!("calls {name}(), which {}", bodies.iter().find_map(strays)?)
            }
            _ => return None,
        };
        Some(Finding {
            effect: Effect::NotByKeyOf(place.0, place.1),
            message: format!("policy \"{what}\" of table {shown} {why}"),
            advice: "List the table that the policy reads as a reference table, or ask settings of the session in it.",
        })
    }

    fn trigger(&self, row: &[Option<String>], map: &ShardMap) -> Option<Finding> {
        let [
            Some(schema),
            Some(table),
            Some(trigger),
            Some(changes),
            Some(function),
            Some(language),
            text,
            Some(built_in),
        ] = row
        else {
            return None;
        };
        if built_in == "t" {
            return None;
        }
        let text = text.as_deref().unwrap_or_default();
        let code = self.code(language, text);
        let listed = map.table(Some(schema), table);
        let why = match listed {
            Some(Table::Sharded { key }) if changes == "t" => {
                let changed = key.names().find(|column| assign::may_assign(text, column));
                changed
                    .map(|column| format!("may change the sharding key \"{column}\" of rows before they are written"))
            }
            _ => None,
        };
        let beside_sharded = matches!(listed, Some(Table::Sharded { .. }));
        let why =
            why.or_else(|| self.strays(&code, beside_sharded)).or_else(|| self.hashes_otherwise(&code, listed))?;
        Some(Finding {
            effect: Effect::NoWriteOf(schema.clone(), table.clone()),
            message: format!("trigger \"{trigger}\" of table \"{schema}.{table}\", which calls {function}(), {why}"),
            advice: "Let the trigger keep to tables of the same sharding key, or write the table on a chosen shard.",
        })
    }
}

/// Which columns of a key are hashed by a tag.
fn tags(key: &TableKey) -> Vec<bool> {
    key.columns().iter().map(|column| column.key_type == KeyType::Tagged).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ShardIndex;
    use crate::shard::table_key::KeyColumn;

    fn map() -> ShardMap {
        let sharded = |name: &str| (("public".to_owned(), name.to_owned()), Table::sharded("k", KeyType::Text));
        let reference = (("public".to_owned(), "ref".to_owned()), Table::Reference);
        let by_tag = Table::sharded("k", KeyType::Tagged);
        let tagged = (("public".to_owned(), "tagged".to_owned()), by_tag);
        let pair = |name: &str, columns: [&str; 2], second: KeyType| {
            let types = [KeyType::Text, second];
            let column = |(name, key_type): (&str, KeyType)| KeyColumn { name: name.to_owned(), key_type };
            let key = TableKey::new(columns.into_iter().zip(types).map(column).collect()).unwrap();
            (("public".to_owned(), name.to_owned()), Table::Sharded { key })
        };
        ShardMap::new(
            vec!["a".into(), "b".into()],
            vec![vec![(0, 1)], vec![(2, 16383)]],
            [
                sharded("orders"),
                reference,
                sharded("sums"),
                tagged,
                pair("twins", ["a", "b"], KeyType::Text),
                pair("twos", ["a", "b"], KeyType::Text),
                pair("turned", ["b", "a"], KeyType::Text),
                pair("typed", ["a", "b"], KeyType::Integer { width: 8 }),
                pair("unlike", ["x", "y"], KeyType::Text),
            ]
            .into(),
            ShardIndex(0),
        )
        .unwrap()
    }

    fn rows(rows: &[&[&str]]) -> Rows {
        rows.iter().map(|row| row.iter().map(|c| (!c.is_empty()).then(|| (*c).to_owned())).collect()).collect()
    }

    /// What is found of a trigger.
    fn trigger(table: &str, before: bool, language: &str, text: &str) -> Option<String> {
        let behind = Behind {
            triggers: rows(&[&["public", table, "x", if before { "t" } else { "f" }, "f", language, text, "f"]]),
            functions: rows(&[
                &["logs", "plpgsql", "BEGIN INSERT INTO audit VALUES (1); END"],
                &["deep", "sql", "SELECT logs()"],
                &["far", "c", "far"],
            ]),
            relations: rows(&[&["public", "audit"], &["public", "orders"], &["public", "src"]]),
            rules: Rows::new(),
        };
        let mut found = behind.judge(&map());
        assert!(found.len() < 2);
        found.pop().map(|finding| {
            assert_eq!(finding.effect, Effect::NoWriteOf("public".into(), table.into()));
            finding.message
        })
    }

    #[test]
    fn triggers_name_keys_of_several_columns_whole() {
        for (table, before, text, expected) in [
            ("twins", false, "BEGIN INSERT INTO twos (a, b) VALUES (NEW.a, NEW.b); RETURN NULL; END", None),
            ("twins", true, "BEGIN NEW.n := 1; RETURN NEW; END", None),
            ("twins", false, "BEGIN INSERT INTO unlike (x, y) VALUES (NEW.a, NEW.b); RETURN NULL; END", None),
            ("twins", false, "BEGIN DELETE FROM twos WHERE (a, twos.b) = (OLD.a, OLD.b); RETURN NULL; END", None),
            (
                "twins",
                false,
                "BEGIN INSERT INTO turned (a, b) VALUES (NEW.a, NEW.b); RETURN NULL; END",
                Some("in another order"),
            ),
            (
                "twins",
                false,
                "BEGIN INSERT INTO typed (a, b) VALUES (NEW.a, 1); RETURN NULL; END",
                Some("of other types"),
            ),
            (
                "twins",
                true,
                "BEGIN IF (SELECT count(*) FROM twins WHERE a = NEW.a) > 9 THEN RAISE 'no %', NEW.b; END IF; RETURN NEW; END",
                Some("but not \"b\""),
            ),
            ("twins", false, "BEGIN PERFORM 1 FROM twos WHERE a = NEW.a; RETURN NULL; END", Some("but not \"b\"")),
            ("twins", false, "BEGIN DELETE FROM twins WHERE b = OLD.b; RETURN NULL; END", Some("but not \"a\"")),
            ("twins", false, "BEGIN INSERT INTO sums VALUES (NEW.a, NEW.b); RETURN NULL; END", Some("as many columns")),
            (
                "orders",
                false,
                "BEGIN INSERT INTO twos (a, b) VALUES (1, NEW.k); RETURN NULL; END",
                Some("as many columns"),
            ),
            ("twins", true, "BEGIN NEW.b := 'x'; RETURN NEW; END", Some("may change the sharding key \"b\"")),
        ] {
            let found = trigger(table, before, "plpgsql", text);
            assert_eq!(found.is_some(), expected.is_some(), "{text}: {found:?}");
            assert!(expected.is_none_or(|part| found.unwrap().contains(part)), "{text}");
        }
    }

    #[test]
    fn triggers_keep_to_their_shard() {
        for (table, before, text, expected) in [
            ("orders", true, "BEGIN NEW.at := now(); RETURN NEW; END", None),
            ("orders", false, "BEGIN INSERT INTO sums VALUES (NEW.k, 1); RETURN NULL; END", None),
            ("orders", true, "BEGIN IF NEW.k = 'x' THEN RAISE 'no'; END IF; RETURN NEW; END", None),
            ("orders", true, "BEGIN PERFORM 1 FROM ref WHERE code = NEW.n; RETURN NEW; END", None),
            ("orders", false, "BEGIN INSERT INTO audit VALUES (NEW.k); RETURN NULL; END", Some("names \"audit\"")),
            ("orders", false, "BEGIN PERFORM logs(); RETURN NULL; END", Some("names \"audit\"")),
            ("orders", false, "BEGIN PERFORM deep(); RETURN NULL; END", Some("names \"audit\"")),
            ("orders", false, "BEGIN PERFORM far(); RETURN NULL; END", Some("cannot be read")),
            ("orders", false, "BEGIN EXECUTE 'x'; RETURN NULL; END", Some("cannot be read")),
            (
                "orders",
                false,
                "BEGIN UPDATE ref SET n = 1; RETURN NULL; END",
                Some("may write reference table \"ref\""),
            ),
            ("orders", true, "BEGIN NEW.k := lower(NEW.k); RETURN NEW; END", Some("may change the sharding key")),
            ("orders", true, "BEGIN NEW.k = 'x'; RETURN NEW; END", Some("may change the sharding key")),
            (
                "orders",
                true,
                "BEGIN SELECT 1, 'x' INTO NEW.n, NEW.k; RETURN NEW; END",
                Some("may change the sharding key"),
            ),
            ("orders", true, "BEGIN NEW := OLD; RETURN NEW; END", Some("may change the sharding key")),
            (
                "orders",
                true,
                "DECLARE r orders; BEGIN r := NEW; r.k := 'x'; RETURN r; END",
                Some("may change the sharding key"),
            ),
            ("orders", false, "BEGIN NEW.k := 'x'; RETURN NULL; END", None),
            (
                "src",
                false,
                "BEGIN INSERT INTO orders VALUES (NEW.x); RETURN NULL; END",
                Some("names sharded table \"orders\""),
            ),
            (
                "orders",
                false,
                "BEGIN DELETE FROM tagged WHERE k = OLD.k; RETURN NULL; END",
                Some("names sharded table \"tagged\", whose equal keys lie elsewhere"),
            ),
            (
                "tagged",
                false,
                "BEGIN PERFORM 1 FROM tagged, sums; RETURN NULL; END",
                Some("names sharded table \"sums\", whose equal keys lie elsewhere"),
            ),
            ("tagged", false, "BEGIN DELETE FROM tagged WHERE k = OLD.k; RETURN NULL; END", None),
            ("src", false, "BEGIN INSERT INTO audit VALUES (NEW.x); RETURN NULL; END", None),
            (
                "ref",
                false,
                "BEGIN INSERT INTO sums VALUES (NEW.x); RETURN NULL; END",
                Some("names sharded table \"sums\""),
            ),
        ] {
            let found = trigger(table, before, "plpgsql", text);
            match expected {
                None => assert_eq!(found, None, "{text}"),
                Some(why) => assert!(found.as_ref().is_some_and(|found| found.contains(why)), "{text}: {found:?}"),
            }
        }
        assert!(trigger("orders", false, "plpython3u", "pass").unwrap().contains("cannot be read"));
    }

    #[test]
    fn policies_and_rules_keep_to_their_shard() {
        let behind = Behind {
            rules: rows(&[
                &["relation", "0", "p0", "public", "ref"],
                &["relation", "0", "p1", "public", "members"],
                &["relation", "0", "p2", "public", "sums"],
                &["function", "0", "p3", "", "mine"],
                &["function", "0", "p4", "", "reads"],
                &["rule", "2", "r", "", ""],
                &["relation", "77", "p", "public", "members"],
            ]),
            functions: rows(&[
                &["mine", "sql", "SELECT current_setting('app.tenant')"],
                &["reads", "sql", "SELECT tenant FROM members"],
            ]),
            relations: rows(&[&["public", "members"]]),
            triggers: Rows::new(),
        };
        let found: Vec<_> = behind.judge(&map()).into_iter().map(|f| f.message).collect();
        assert_eq!(
            found,
            [
                "policy \"p1\" of table \"public.orders\" reads \"members\", which is on the default shard only",
                "policy \"p2\" of table \"public.orders\" reads sharded table \"sums\"",
                "policy \"p4\" of table \"public.orders\" calls reads(), which names \"members\", which is on the default shard only",
                "rule \"r\" of table \"public.sums\" makes other statements of those that write it",
            ]
        );
    }
}

//! What statements may write that their SQL does not show: functions declared VOLATILE that run when a relation is read (views, policies),
//! when something becomes a value of a type (domains, casts), or that go by a name which a statement takes for PostgreSQL's own.
//!
//! Such a statement looks like a read. Where it runs, on a primary that has replicas, it is a write all the same: what its session reads
//! next must show it, and it is not done twice. Functions that a statement names as somebody's own are judged by their text already.
//!
//! Everything goes by its bare name, as in the rest of the census; a database without such code has an empty list, and costs nothing.

use std::collections::{HashMap, HashSet};

use super::super::catalog::is_unexplained;
use super::super::facts::StatementFacts;
use super::{HARMLESS, Row, Runner, TAKES_VALUES, Volatility};

/// Operators that a statement may use without writing them: `IN`, `BETWEEN`, `CASE x WHEN`, `JOIN ... USING`.
const UNWRITTEN: [&str; 4] = ["=", "<>", "<=", ">="];
/// Functions of PostgreSQL's own that make values of the type of what they are given.
const MAKES_ROWS: [&str; 4] =
    ["json_populate_record", "json_populate_recordset", "jsonb_populate_record", "jsonb_populate_recordset"];

/// What writes, by how it is reached.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Writers {
    functions: HashSet<String>,
    /// Those of the functions that `row.name` calls.
    fields: HashSet<String>,
    operators: HashSet<String>,
    /// Relations that are read.
    reads: HashSet<String>,
    /// Types that something is cast to.
    types: HashSet<String>,
    /// Nobody can be told: what is cast without a word, or compared.
    anybody: bool,
}

impl Writers {
    /// Whether a statement may write by what it reaches.
    pub(super) fn may_write(&self, statement: &StatementFacts) -> bool {
        if self.is_empty() {
            return false;
        }
        let mentions = &statement.mentions;
        let among = |known: &HashSet<String>, names: &[String]| {
            !known.is_empty() && names.iter().any(|name| known.contains(name))
        };
        let makes_rows = |name: &String| MAKES_ROWS.contains(&name.as_str());
        self.anybody
            || among(&self.functions, &mentions.functions)
            || among(&self.fields, &mentions.fields)
            || among(&self.operators, &mentions.operators)
            || among(&self.operators, &mentions.foreign_operators)
            || UNWRITTEN.iter().any(|name| self.operators.contains(*name))
            || among(&self.types, &mentions.types)
            || (!self.types.is_empty() && mentions.functions.iter().any(makes_rows))
            || (!self.reads.is_empty()
                && statement.shape.tables().iter().any(|t| is_unexplained(t) && self.reads.contains(&t.name)))
    }

    /// Whether a parameter of a type that is not PostgreSQL's own may do so.
    pub(super) fn by_type(&self) -> bool {
        self.anybody || !self.types.is_empty()
    }

    fn is_empty(&self) -> bool {
        self.functions.is_empty() && self.len() == 0 && !self.anybody
    }

    /// How much is known but for functions.
    fn len(&self) -> usize {
        self.operators.len() + self.reads.len() + self.types.len()
    }
}

/// What is reached.
enum Target {
    Function(String),
    Relation(String),
    Type(String),
}

/// Who reaches it.
enum Source {
    /// An aggregate, as long as no function with a body has its name.
    Aggregate(String),
    Operator(String),
    Read(String),
    Type(String),
    Anybody,
}

/// What the catalog says of it, row by row.
#[derive(Default)]
pub(super) struct Draft {
    /// By name: whether one of them may write.
    functions: HashMap<String, bool>,
    fields: Vec<String>,
    edges: Vec<(Source, Target)>,
}

impl Draft {
    pub(super) fn note(&mut self, row: &Row) {
        match row {
            Row::Function { name, language, volatility, extension, .. } => {
                // Superusers answer for those, and they are known.
                let is_known = matches!(&**language, "c" | "internal") && HARMLESS.contains(&&**extension);
                *self.functions.entry(name.clone()).or_default() |= *volatility == Volatility::Volatile && !is_known;
            }
            Row::Field(name) => self.fields.push(name.clone()),
            Row::Runs(runner, name) => {
                // PostgreSQL's own are told of only where they stand behind what is read.
                if TAKES_VALUES.contains(&&**name) && !matches!(runner, Runner::Write(_)) {
                    self.functions.insert(name.clone(), true);
                }
                let from = match runner {
                    Runner::Function(name) => Source::Aggregate(name.clone()),
                    Runner::Operator(name) => Source::Operator(name.clone()),
                    Runner::Read(name) => Source::Read(name.clone()),
                    Runner::Write(_) | Runner::Anybody | Runner::Ddl => return,
                };
                self.edges.push((from, Target::Function(name.clone())));
            }
            Row::Reaches(Runner::Read(name), other) => {
                self.edges.push((Source::Read(name.clone()), Target::Relation(other.clone())));
            }
            Row::Casts(to, function) => {
                let from = to.clone().map_or(Source::Anybody, Source::Type);
                self.edges.push((from, Target::Function(function.clone())));
            }
            Row::Has(name, part) => self.edges.push((Source::Type(name.clone()), Target::Type(part.clone()))),
            Row::Makes(relation, made) => {
                self.edges.push((Source::Read(relation.clone()), Target::Type(made.clone())));
            }
            Row::Reaches(..) | Row::Cascades(..) | Row::TempInPath | Row::Language => {}
        }
    }

    /// Lets everything write that reaches what writes.
    pub(super) fn finish(self) -> Writers {
        let writing = self.functions.iter().filter(|(_, writes)| **writes).map(|(name, _)| name.clone());
        let mut found = Writers { functions: writing.collect(), ..Writers::default() };
        loop {
            let before = (found.functions.len(), found.len());
            for (from, target) in &self.edges {
                let writes = match target {
                    Target::Function(name) => found.functions.contains(name),
                    Target::Relation(name) => found.reads.contains(name),
                    Target::Type(name) => found.types.contains(name),
                };
                if !writes {
                    continue;
                }
                let (into, name) = match from {
                    Source::Anybody => {
                        found.anybody = true;
                        continue;
                    }
                    // Of one with a body it counts what it promises itself.
                    Source::Aggregate(name) if self.functions.contains_key(name) => continue,
                    Source::Aggregate(name) => (&mut found.functions, name),
                    Source::Operator(name) => (&mut found.operators, name),
                    Source::Read(name) => (&mut found.reads, name),
                    Source::Type(name) => (&mut found.types, name),
                };
                if !into.contains(name) {
                    into.insert(name.clone());
                }
            }
            if before == (found.functions.len(), found.len()) {
                break;
            }
        }
        found.fields = self.fields.into_iter().filter(|name| found.functions.contains(name)).collect();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::parse::facts;
    use super::super::Census;
    use super::*;

    fn function(name: &str, volatile: bool, language: &str, extension: &str) -> Row {
        let (name, language) = (name.to_owned(), language.to_owned());
        let volatility = if volatile { Volatility::Volatile } else { Volatility::Stable };
        Row::Function { name, language, volatility, text: String::new(), extension: extension.to_owned() }
    }

    fn census() -> Census {
        let own = |name: &str| name.to_owned();
        Census::of([
            function("logit", true, "plpgsql", ""),
            function("looks", false, "plpgsql", ""),
            function("lower", true, "sql", ""),
            function("touched", true, "sql", ""),
            function("gen_salt", true, "c", "pgcrypto"),
            Row::Field(own("touched")),
            Row::Field(own("looks")),
            Row::Runs(Runner::Read(own("secured")), own("logit")),
            Row::Runs(Runner::Read(own("seen")), own("looks")),
            Row::Runs(Runner::Read(own("salted")), own("gen_salt")),
            Row::Reaches(Runner::Read(own("over")), own("secured")),
            Row::Reaches(Runner::Read(own("above")), own("over")),
            Row::Makes(own("makes"), own("dom")),
            Row::Runs(Runner::Operator(own("~")), own("logit")),
            Row::Runs(Runner::Function(own("max")), own("logit")),
            Row::Runs(Runner::Function(own("looks")), own("logit")),
            Row::Casts(Some(own("dom")), own("logit")),
            Row::Has(own("pair"), own("dom")),
            Row::Has(own("other"), own("mood")),
        ])
    }

    #[test]
    fn what_is_reached_is_found() {
        let census = census();
        for (sql, writes) in [
            ("SELECT 1", false),
            ("SELECT a = 1 FROM t WHERE a IN (1, 2)", false),
            ("SELECT * FROM secured", true),
            ("SELECT count(*) FROM (SELECT * FROM s.secured) AS x", true),
            ("SELECT * FROM over", true),
            ("SELECT * FROM above", true),
            ("SELECT * FROM pg_catalog.secured", false),
            ("SELECT * FROM seen, salted", false),
            ("SELECT * FROM makes", true),
            ("SELECT lower('a')", true),
            ("SELECT pg_catalog.lower('a')", false),
            ("SELECT upper('a')", false),
            ("SELECT t.touched FROM t", true),
            ("SELECT touched FROM t", false),
            ("SELECT t.looks FROM t", false),
            ("SELECT a ~ b FROM t", true),
            ("SELECT a ~* b FROM t", false),
            ("SELECT max(a) FROM t", true),
            ("SELECT 'a'::dom", true),
            ("SELECT dom 'a'", true),
            ("SELECT '{a}'::dom[]", true),
            ("SELECT CAST(ROW('a') AS pair)", true),
            ("SELECT 'a'::other, 'a'::text", false),
            ("SELECT jsonb_populate_record(t, '{}') FROM t", true),
        ] {
            assert_eq!(census.may_write(&facts(sql.as_bytes()), false), writes, "{sql}");
        }
        assert!(census.may_write(&facts(b"SELECT $1"), true), "of a parameter's type");
    }

    #[test]
    fn what_nobody_can_tell_may_be_anywhere() {
        let own = |name: &str| name.to_owned();
        let equality = Census::of([function("f", true, "sql", ""), Row::Runs(Runner::Operator(own("=")), own("f"))]);
        assert!(equality.may_write(&facts(b"SELECT a IN (1) FROM t"), false));
        let implicit = Census::of([function("f", true, "sql", ""), Row::Casts(None, own("f"))]);
        assert!(implicit.may_write(&facts(b"SELECT * FROM t"), false));
        assert!(!implicit.may_write(&facts(b"SELECT 1"), false));
        let nothing = Census::of([function("f", false, "sql", ""), Row::Casts(None, own("f"))]);
        assert!(!nothing.may_write(&facts(b"SELECT * FROM t"), true));
    }
}

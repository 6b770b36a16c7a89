//! Objects that go by a name which a statement may mean innocently: a user's function `lower`, an operator `=`, a function that is
//! called as `row.name`, a relation before the listed one in search_path.
//!
//! Which function a call means depends on types, which are not known here. So a name counts as a shadow when any function of it
//! outside PostgreSQL itself may read tables that nobody named; there are hardly ever any. They are asked for once for each user
//! and search_path and kept as [`super::catalog`] keeps its answers.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::StatementFacts;
use super::functions;

/// What to ask for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShadowQuestion {
    /// The session's search_path, where it is not the server's default.
    pub search_path: Option<String>,
    /// The tables that are listed for the sharding under the schema `public`.
    pub listed: Vec<String>,
}

impl ShadowQuestion {
    /// Names that are taken for PostgreSQL's own functions although an older server may not have them.
    #[must_use]
    pub fn later_functions() -> &'static [&'static str] {
        functions::LATER_READS
    }
}

/// The answer. All names are those that the search_path finds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shadows {
    /// Functions that bear a built-in name and may read any table.
    pub functions: BTreeSet<String>,
    /// Functions of one composite argument that may read any table: `row.name` calls them.
    pub fields: BTreeSet<String>,
    /// Operators whose functions may read any table.
    pub operators: BTreeSet<String>,
    /// The same, where the search_path does not find them.
    pub hidden_operators: BTreeSet<String>,
    /// Functions that bear a built-in name and are aggregates, window functions, VOLATILE, or give several rows.
    pub gatherers: BTreeSet<String>,
    /// Aggregates of one argument that may be a row: `row.name` calls them.
    pub row_gatherers: BTreeSet<String>,
    /// There is an operator `=` for types that sharding keys have, which may be taken before PostgreSQL's own.
    pub equality: bool,
    /// Types that sharding keys have of whose name the search_path finds another first: it puts `pg_catalog` behind another schema.
    pub types: BTreeSet<String>,
    /// Listed tables instead of which the search_path finds that of another schema.
    pub elsewhere: BTreeMap<String, String>,
    /// Listed tables of whose name there is another in a schema named like a role, which `SET ROLE` may bring into search_path.
    pub by_role: BTreeMap<String, String>,
}

/// What a statement may mean unknowingly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shadow {
    /// It calls this function.
    Function(String),
    /// It uses this operator.
    Operator(String),
    /// It compares a key by a user's operator.
    Equality,
    /// It may cast a key to this type.
    Type(String),
}

/// Operators that a statement may use without writing them: `IN`, `BETWEEN`, `CASE x WHEN`, `JOIN ... USING`.
const UNWRITTEN: [&str; 4] = ["=", "<>", "<=", ">="];

impl Shadows {
    /// The first shadow that a statement steps into.
    #[must_use]
    pub fn over(&self, statement: &StatementFacts) -> Option<Shadow> {
        let mentions = &statement.mentions;
        let hit = |names: &BTreeSet<String>, used: &[String]| {
            // Nearly always there is no shadow at all.
            if names.is_empty() { None } else { used.iter().find(|name| names.contains(*name)).cloned() }
        };
        if let Some(name) = hit(&self.functions, &mentions.functions).or_else(|| hit(&self.fields, &mentions.fields)) {
            return Some(Shadow::Function(name));
        }
        let unwritten = || UNWRITTEN.iter().find(|name| self.operators.contains(**name)).map(|name| (*name).to_owned());
        let operator = hit(&self.operators, &mentions.operators)
            .or_else(|| hit(&self.operators, &mentions.foreign_operators))
            .or_else(|| hit(&self.hidden_operators, &mentions.foreign_operators))
            .or_else(unwritten);
        if let Some(name) = operator {
            return Some(Shadow::Operator(name));
        }
        if statement.shape.tables().is_empty() {
            return None;
        }
        let by_type = self.types.first().map(|name| Shadow::Type(name.clone()));
        by_type.or(self.equality.then_some(Shadow::Equality))
    }
}

impl Shadows {
    /// The first name by which a statement may mean an aggregate, or its like, of somebody's.
    #[must_use]
    pub fn gatherer<'a>(&self, statement: &'a StatementFacts) -> Option<&'a str> {
        let mentions = &statement.mentions;
        let by_name = mentions.functions.iter().find(|name| self.gatherers.contains(*name));
        by_name.or_else(|| mentions.fields.iter().find(|name| self.row_gatherers.contains(*name))).map(String::as_str)
    }
}

/// Whether shadows may fall on a statement.
#[must_use]
pub fn may_matter(statement: &StatementFacts) -> bool {
    !statement.mentions.is_empty() || !statement.shape.tables().is_empty()
}

#[cfg(test)]
mod tests {
    use super::super::parse::facts;
    use super::*;

    fn shadows() -> Shadows {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Shadows {
            functions: names(&["log"]),
            fields: names(&["peers"]),
            operators: names(&["===", "<>"]),
            hidden_operators: names(&["~=="]),
            ..Shadows::default()
        }
    }

    fn over(shadows: &Shadows, sql: &str) -> Option<Shadow> {
        let facts = facts(sql.as_bytes());
        assert!(facts.unparsed.is_none(), "{sql}: {:?}", facts.unparsed);
        facts.statements.iter().find_map(|statement| shadows.over(statement))
    }

    #[test]
    fn a_name_is_enough() {
        let mut only = shadows();
        only.operators.remove("<>");
        let function = |name: &str| Some(Shadow::Function(name.to_owned()));
        let operator = |name: &str| Some(Shadow::Operator(name.to_owned()));
        for (sql, expected) in [
            ("SELECT log(2)", function("log")),
            ("SELECT pg_catalog.log(2)", None),
            ("SELECT a FROM t WHERE log(a) = 1", function("log")),
            ("INSERT INTO t VALUES (log(1)) RETURNING t.x", function("log")),
            ("EXPLAIN ANALYZE SELECT log(2)", function("log")),
            ("SELECT ln(2), log FROM t", None),
            ("SELECT t.peers FROM t", function("peers")),
            ("SELECT s.t.peers FROM s.t", function("peers")),
            ("SELECT (t).peers FROM t", function("peers")),
            ("SELECT (f(1)).a.peers", function("peers")),
            ("SELECT peers, peers.a FROM t peers", None),
            ("SELECT 1 ORDER BY 1 USING ===", operator("===")),
            ("SELECT 1 === 2", operator("===")),
            ("SELECT 1 === ANY (ARRAY[1])", operator("===")),
            ("SELECT 1 OPERATOR(s.===) 2", operator("===")),
            ("SELECT 1 === ALL (SELECT 2)", operator("===")),
            ("SELECT 1 OPERATOR(pg_catalog.===) 2", None),
            ("SELECT 1 OPERATOR(s.~==) 2", operator("~==")),
            ("SELECT 1 ~== 2", None),
            ("SELECT * FROM t WHERE a = 1", None),
        ] {
            assert_eq!(over(&only, sql), expected, "{sql}");
        }
        // What IN and CASE use is not written.
        assert_eq!(over(&shadows(), "SELECT 1"), operator("<>"));
        let equality = Shadows { equality: true, ..Shadows::default() };
        assert_eq!(over(&equality, "SELECT * FROM t"), Some(Shadow::Equality));
        assert_eq!(over(&equality, "SELECT 1"), None);
    }

    #[test]
    fn only_what_has_names_is_asked_about() {
        for (sql, expected) in [
            ("SELECT 1", false),
            ("SET x = 1", false),
            ("COMMIT", false),
            ("SELECT now()", true),
            ("SELECT 1 + 1", true),
            ("TABLE t", true),
            ("TRUNCATE t", true),
        ] {
            assert_eq!(facts(sql.as_bytes()).statements.iter().any(may_matter), expected, "{sql}");
        }
    }

    #[test]
    fn parameters_that_occur_twice() {
        let repeated = |sql: &str| -> Vec<(u16, Option<String>)> {
            let facts = facts(sql.as_bytes());
            facts.statements[0].repeated.iter().map(|used| (used.number, used.cast.clone())).collect()
        };
        assert_eq!(repeated("SELECT $1, $2 FROM t WHERE k = $3"), []);
        let cast = |name: &str| Some(name.to_owned());
        assert_eq!(
            repeated(
                "SELECT $1::text, $2 FROM t WHERE k = $1 AND a = ANY ($1::int[]) AND b = $1::varchar(3)::text LIMIT $3"
            ),
            [(1, cast("text")), (1, None), (1, cast("")), (1, cast(""))]
        );
        assert_eq!(repeated("EXPLAIN SELECT $1 FROM t WHERE k = $1::int8"), [(1, None), (1, cast("int8"))]);
        assert_eq!(repeated("INSERT INTO t (k, v) VALUES ($1, $2), ($1, $2)").len(), 4);
        assert_eq!(repeated("WITH c AS (SELECT $1) SELECT (SELECT $1) FROM t JOIN u ON t.a = $1 GROUP BY $1").len(), 4);
    }
}

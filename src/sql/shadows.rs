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
    /// There is an operator `=` for types that sharding keys have, which may be taken before PostgreSQL's own.
    pub equality: bool,
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
        (self.equality && !statement.shape.tables().is_empty()).then_some(Shadow::Equality)
    }
}

/// Whether shadows may fall on a statement.
#[must_use]
pub fn may_matter(statement: &StatementFacts) -> bool {
    !statement.mentions.is_empty() || !statement.shape.tables().is_empty()
}

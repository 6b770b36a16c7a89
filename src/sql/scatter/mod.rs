//! Reads a SELECT that several shards are to answer: which parts of it each shard can do by itself, and how it is written for them.
//!
//! The shard planner asks here, with the places of the tables; what comes back is plain data. A statement is taken apart only
//! as far as it is understood in full: every node of its tree is of a kind that is known here, or it is [`Unfit`].
//!
//! `from` proves that the rows that are joined lie on one shard, `expression` looks through the expressions, `names` says what
//! functions are, `alike` looks at writes that all shards do as they stand, `select` sorts the parts of the statement, `finish` what is computed of whole groups, `explain` reads EXPLAIN, `computed` and `literals` find texts that may become a time, and `write` turns parts of the tree into SQL again: by the parser's own
//! deparser, and what it writes is read again and must be the same tree.

mod alike;
mod computed;
mod copy;
mod explain;
mod expression;
mod finish;
mod from;
mod literals;
mod names;
mod rekey;
mod rows;
mod select;
mod whole;
mod write;

use std::panic::{AssertUnwindSafe, catch_unwind};

use pg_raw_parse::Node;

use super::facts::{ColumnRef, KeyValue, TableRef};
use super::touch::RowList;
pub use alike::{reference, unkeyed};
pub use computed::Casts;
pub use copy::{Condition, CopyFormat, CopyIn, copied_query, copy_in, copy_out, inner_query};
pub use explain::{Explain, explained};
pub use finish::{Finish, column};
pub use literals::{Literals, OfColumn, literals};
pub use rekey::{Altered, Column, columns};
pub use rows::{Rows, rows};
pub use select::{Aggregate, Bound, Distinct, Groups, Select, Sort, Target, What};
pub use whole::{Parted, Runs, keeps_copies, parted, renamed_schema, runs};

/// The longest statement that is taken apart, in bytes.
const MAX_BYTES: usize = 64 * 1024;

/// Where a table of the statement lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// By its key, as all tables of the database that have keys of this family.
    Sharded {
        /// The columns of the key in their order, each with its family: tables whose numbers are equal one by one have keys that are
        /// equal on the same shard.
        key: Vec<(String, u8)>,
    },
    /// On every shard in full.
    Reference,
    /// On one shard alone.
    Elsewhere,
}

/// Why several shards cannot answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// The construct, as one word: the metric of refusals and tests tell them apart by it.
    pub construct: &'static str,
    /// What it is in the statement: completes "several shards cannot answer a statement ...".
    pub why: String,
    /// What to do instead; none: tie it to one shard.
    pub hint: Option<&'static str>,
}

impl Unfit {
    pub(crate) fn new(construct: &'static str, why: impl Into<String>) -> Self {
        Self { construct, why: why.into(), hint: None }
    }

    pub(crate) fn hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }
}

/// The values that a column is compared with, of which one must be equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Values {
    /// `= x`, `IN (x, y)`, `= ANY (ARRAY[x, y])`.
    Each(Vec<KeyValue>),
    /// `= ANY ($1)`, `= ANY ('{...}')`.
    Array(KeyValue),
}

/// A statement that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The columns that must be equal to one of some values in every row of the result, by the conjuncts of WHERE and of inner joins.
    pub lists: Vec<(ColumnRef, Values)>,
    /// The columns that together must be one of several rows; `lists` has what follows for each.
    pub row_lists: Vec<RowList>,
    /// How many tables it names in FROM; any more are in sub-queries.
    pub tables: usize,
    /// How many of them are sharded: they are joined by their keys.
    pub joined: usize,
    /// The parameters whose values are seen, grouped or sorted by.
    pub shown_params: Vec<u16>,
    /// It is only to be explained.
    pub explain: Option<Explain>,
    /// Its parts, or why they cannot be done by each shard for itself.
    pub select: Result<Box<Select>, Unfit>,
}

/// Whether a value is a text that dates and times take for the present, which each shard's clock would tell, or has such texts in it.
#[must_use]
pub fn is_present(value: &[u8]) -> bool {
    expression::is_present(value)
}

/// The same of a value in binary, where what stands before a text may be anything.
#[must_use]
pub fn has_present(value: &[u8]) -> bool {
    expression::has_present(value)
}

/// Reads a text that is one SELECT on sharded tables.
///
/// # Errors
/// It is not one, or its rows come of several shards: then no single shard has its answer either.
pub fn read(text: &str, place: &dyn Fn(&TableRef) -> Place) -> Result<Reading, Unfit> {
    if text.len() > MAX_BYTES {
        return Err(Unfit::new("length", "that is longer than 64 KiB"));
    }
    // As in `parse`: what the bindings believe of the tree may prove wrong.
    catch_unwind(AssertUnwindSafe(|| read_tree(text, place)))
        .unwrap_or_else(|_| Err(Unfit::new("syntax", "on which the parser failed")))
}

fn read_tree(text: &str, place: &dyn Fn(&TableRef) -> Place) -> Result<Reading, Unfit> {
    let tree = pg_raw_parse::parse(text).map_err(|_| Unfit::new("syntax", "that cannot be parsed"))?;
    let mut statements = tree.stmts();
    let (explain, select) = match (statements.next(), statements.next()) {
        (Some(Node::SelectStmt(select)), None) => (None, select),
        (Some(Node::ExplainStmt(stmt)), None) => {
            let (explain, select) = explain::read(stmt)?;
            (Some(explain), select)
        }
        _ => return Err(Unfit::new("statement", "that is not one plain SELECT")),
    };
    let from = from::read(select, place)?;
    let (lists, row_lists) = (from.lists(select), from.row_lists(select));
    let shown_params = select::shown_params(select);
    let select = select::read(select, &from).map(Box::new);
    Ok(Reading { lists, row_lists, tables: from.len(), joined: from.sharded(), shown_params, explain, select })
}

#[cfg(test)]
mod tests;

//! Takes INSERT ... VALUES apart by its rows, so that each shard can be sent its own.
//!
//! What a shard is sent are pieces of the text itself. That the pieces are rows is not believed of the lexer: there must be as many as the
//! parser has found, each with its first value in it.

use std::collections::BTreeSet;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pg_raw_parse::{Node, nodes, raw};

use super::Unfit;
use super::alike;
use super::expression::{self, Clause, Found};
use super::from::From;
use super::literals;
use crate::sql::scan::Lexer;

/// An INSERT of several rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    /// Where each row stands in the text.
    rows: Vec<Range<usize>>,
    /// The parameters of each row.
    params: Vec<BTreeSet<u16>>,
    /// The parameters of what follows the rows.
    common: BTreeSet<u16>,
    /// Whether it returns rows.
    pub returning: bool,
    /// Whether a row may be left out without an error: ON CONFLICT DO NOTHING, or DO UPDATE with WHERE.
    pub skips: bool,
}

impl Rows {
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none, which no INSERT has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The statement with these rows only.
    #[must_use]
    pub fn part(&self, text: &str, of: &[usize]) -> String {
        let (Some(first), Some(last)) = (self.rows.first(), self.rows.last()) else { return text.to_owned() };
        let rows: Vec<&str> = of.iter().filter_map(|at| text.get(self.rows.get(*at)?.clone())).collect();
        let (head, tail) = (text.get(..first.start).unwrap_or_default(), text.get(last.end..).unwrap_or_default());
        format!("{head}{}{tail}", rows.join(", "))
    }

    /// The parameters that the statement with these rows uses.
    #[must_use]
    pub fn params(&self, of: &[usize]) -> BTreeSet<u16> {
        let of_rows = of.iter().filter_map(|at| self.params.get(*at)).flatten();
        of_rows.chain(&self.common).copied().collect()
    }
}

/// Reads a text that is one INSERT ... VALUES into a table whose key is these columns.
///
/// # Errors
/// Why its rows cannot go to several shards.
pub fn rows(text: &str, key: &[&str]) -> Result<Rows, Unfit> {
    // As in `parse`: what the bindings believe of the tree may prove wrong.
    catch_unwind(AssertUnwindSafe(|| read(text, key)))
        .unwrap_or_else(|_| Err(Unfit::new("syntax", "on which the parser failed")))
}

fn read(text: &str, key: &[&str]) -> Result<Rows, Unfit> {
    let other = || Unfit::new("statement", "that is not one plain INSERT of VALUES");
    let tree = pg_raw_parse::parse(text).map_err(|_| Unfit::new("syntax", "that cannot be parsed"))?;
    let mut statements = tree.stmts();
    let (Some(Node::InsertStmt(insert)), None) = (statements.next(), statements.next()) else { return Err(other()) };
    let Node::SelectStmt(select) = insert.select_stmt() else { return Err(other()) };
    if insert.with_clause().is_some() || select.with_clause().is_some() {
        return Err(Unfit::new("with", "with WITH before an INSERT of several shards"));
    }
    let ranges = Lexer::rows(text.as_bytes()).ok_or_else(other)?;
    let lists: Vec<_> = select.values_lists().iter().filter_map(|row| row.as_node_list()).collect();
    if lists.len() != ranges.len() || lists.is_empty() {
        return Err(other());
    }
    let mut params = Vec::with_capacity(lists.len());
    let mut seen = Vec::new();
    for (list, range) in lists.iter().zip(&ranges) {
        let first = list.iter().next().and_then(place).and_then(|at| usize::try_from(at).ok());
        if !first.is_some_and(|at| range.contains(&at)) {
            return Err(other());
        }
        let mut numbers = Vec::new();
        for (at, value) in list.iter().enumerate() {
            // What a literal means that stands for its column, whoever runs the statement asks.
            if !matches!(value, Node::SetToDefault(_)) && literals::of_row(insert, at, value).is_none() {
                same_everywhere(value)?;
            }
            expression::params(value, &mut numbers);
            seen.push(value);
        }
        params.push(numbers.into_iter().collect());
    }
    let mut common = Vec::new();
    let skips = conflict(insert, key, &mut common)?;
    let returning = returned(insert.returning_clause(), &mut common)?;
    if !select.sort_clause().is_empty() {
        return Err(other());
    }
    if returning && skips {
        return Err(Unfit::new(
            "returning",
            "that returns rows and may leave some out, so that their order is not known",
        )
        .hint("Leave RETURNING out, or send one INSERT for each shard."));
    }
    let conflict = insert.on_conflict_clause();
    seen.extend(conflict.iter().flat_map(|clause| clause.target_list()).map(|target| target.val()));
    seen.extend(conflict.map(|clause| clause.where_clause()));
    seen.extend(insert.returning_clause().into_iter().flat_map(|clause| clause.exprs().iter()));
    alike::is_all(Node::InsertStmt(insert), seen.into_iter())?;
    Ok(Rows { rows: ranges, params, common: common.into_iter().collect(), returning, skips })
}

/// Where a value begins in the text.
fn place(node: Node<'_>) -> Option<i32> {
    match node {
        Node::A_Const(value) => Some(value.location),
        Node::ParamRef(param) => Some(param.location),
        Node::SetToDefault(default) => Some(default.location),
        Node::A_ArrayExpr(array) => Some(array.location),
        Node::FuncCall(call) => Some(call.location),
        Node::TypeCast(cast) => place(cast.arg()),
        Node::A_Expr(expr) => match expr.lexpr() {
            Node::None => Some(expr.location),
            left => place(left),
        },
        _ => None,
    }
}

/// Whether every shard gives an expression of one row the same value.
///
/// # Errors
/// It does not, or it is not understood.
pub(super) fn same_everywhere(node: Node<'_>) -> Result<(), Unfit> {
    let mut found = Found::default();
    expression::check(node, Clause::Output, &From::default(), &mut found)?;
    if found.draws { Err(random()) } else { Ok(()) }
}

pub(super) fn random() -> Unfit {
    Unfit::new("random", "with a function that draws another value on each shard")
        .hint("Give the value as a constant or a parameter.")
}

/// Reads ON CONFLICT; whether rows may be left out.
fn conflict(insert: &nodes::InsertStmt, key: &[&str], params: &mut Vec<u16>) -> Result<bool, Unfit> {
    let Some(conflict) = insert.on_conflict_clause() else { return Ok(false) };
    let has_key = conflict.infer().is_some_and(|infer| {
        let is_named = |column: &&str| {
            infer.index_elems().iter().any(|element| match element {
                Node::IndexElem(element) => {
                    element.name() == Some(*column) && element.collation().is_empty() && element.opclass().is_empty()
                }
                _ => false,
            })
        };
        key.iter().all(is_named) && matches!(infer.where_clause(), Node::None)
    });
    if !has_key {
        return Err(Unfit::new("conflict", "with ON CONFLICT whose target does not contain the sharding key")
            .hint("Name the columns of a unique index with the sharding key: ON CONFLICT (key, ...)."));
    }
    for target in conflict.target_list() {
        if literals::of_target(target).is_none() {
            same_everywhere(target.val())?;
        }
        expression::params(target.val(), params);
    }
    same_everywhere(conflict.where_clause())?;
    expression::params(conflict.where_clause(), params);
    let nothing = conflict.action == raw::OnConflictAction::ONCONFLICT_NOTHING;
    Ok(nothing || !matches!(conflict.where_clause(), Node::None))
}

/// Reads RETURNING; whether there is one.
pub(super) fn returned(clause: Option<&nodes::ReturningClause>, params: &mut Vec<u16>) -> Result<bool, Unfit> {
    let Some(clause) = clause else { return Ok(false) };
    let unknown = || Unfit::new("syntax", "with RETURNING that is not understood");
    if !clause.options().is_empty() {
        return Err(unknown());
    }
    for node in clause.exprs() {
        let Node::ResTarget(target) = node else { return Err(unknown()) };
        let value = target.val();
        let star = matches!(value, Node::ColumnRef(reference)
            if reference.fields().iter().next_back().is_some_and(|last| matches!(last, Node::A_Star(_))));
        if !star {
            same_everywhere(value)?;
        }
        expression::params(value, params);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_the_text_without_the_other_rows() {
        let text = "INSERT INTO t -- VALUES (0)\n AS \"values\" (k, v)\nVALUES (1, '),('), /* (9) */ ($1, $$)($$),(ARRAY[3], f($2::int)) RETURNING k + $3;";
        // A function that nobody knows is not the same everywhere.
        assert_eq!(rows(text, &["k"]).unwrap_err().construct, "function");
        let text = text.replace("f($2::int)", "abs($2::int)");
        let read = rows(&text, &["k"]).unwrap();
        assert_eq!((read.len(), read.returning, read.skips), (3, true, false));
        let head = "INSERT INTO t -- VALUES (0)\n AS \"values\" (k, v)\nVALUES ";
        assert_eq!(read.part(&text, &[0, 2]), format!("{head}(1, '),('), (ARRAY[3], abs($2::int)) RETURNING k + $3;"));
        assert_eq!(read.part(&text, &[1]), format!("{head}($1, $$)($$) RETURNING k + $3;"));
        assert_eq!(read.params(&[0]), BTreeSet::from([3]));
        assert_eq!(read.params(&[1, 2]), BTreeSet::from([1, 2, 3]));
    }

    #[test]
    fn what_is_no_row_is_not_taken_for_one() {
        for (text, construct) in [
            ("INSERT INTO t AS values (k) VALUES (1), (2)", "statement"),
            ("INSERT INTO t (k) SELECT 1", "statement"),
            ("INSERT INTO t (k) VALUES (2), (1) ORDER BY 1", "statement"),
            ("WITH a AS (SELECT 1) INSERT INTO t (k) VALUES (1), (2)", "with"),
            ("INSERT INTO t (k) VALUES (1), (2) ON CONFLICT DO NOTHING", "conflict"),
            ("INSERT INTO t (k) VALUES (1), (2) ON CONFLICT (v) DO NOTHING", "conflict"),
            ("INSERT INTO t (k) VALUES (1), (2) ON CONFLICT (k COLLATE ci) DO NOTHING", "conflict"),
            ("INSERT INTO t (k) VALUES (1), (2) ON CONFLICT ON CONSTRAINT c DO NOTHING", "conflict"),
            ("INSERT INTO t (k) VALUES (1), (2) ON CONFLICT (k) DO UPDATE SET v = now()", "clock"),
            ("INSERT INTO t (k) VALUES (1), (2) RETURNING ctid", "system_column"),
            ("INSERT INTO t (k) VALUES ('now'::text), ('b')", "clock"),
            ("INSERT INTO t (k, v[1]) VALUES (1, 'now'), (2, 'b')", "clock"),
            ("INSERT INTO t (k) VALUES (1), (2) ON CONFLICT (k) DO UPDATE SET v = upper('now')", "clock"),
        ] {
            assert_eq!(rows(text, &["k"]).unwrap_err().construct, construct, "{text}");
        }
        assert!(
            rows("INSERT INTO t VALUES (1), (2) ON CONFLICT (a, k) DO UPDATE SET v = excluded.v WHERE t.v > 1", &["k"])
                .unwrap()
                .skips
        );
    }
}

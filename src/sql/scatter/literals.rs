//! Literals that may mean the present, where their columns decide what they are: `VALUES (1, 'see you now')`.

use pg_raw_parse::{ConstValue, Node, nodes};

use super::Unfit;
use super::expression::is_present;
use super::whole::read;
use crate::sql::facts::TableRef;
use crate::sql::walk::table_ref;

/// A column of the table that is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OfColumn {
    /// By its name.
    Named(String),
    /// By its place among all columns, counted from 0.
    At(usize),
}

/// Such literals of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Literals {
    /// The table that is written.
    pub table: TableRef,
    /// The columns whose values they are.
    pub columns: Vec<OfColumn>,
}

/// Reads a text that is one statement; none: it has no such literals.
///
/// # Errors
/// It is not read.
pub fn literals(text: &str) -> Result<Option<Literals>, Unfit> {
    read(text, |node| {
        let (relation, columns) = match node {
            Node::InsertStmt(insert) => {
                let Node::SelectStmt(select) = insert.select_stmt() else { return Ok(None) };
                let rows = select.values_lists().iter().filter_map(|row| row.as_node_list());
                let of_rows = rows.flat_map(|row| row.iter().enumerate());
                let mut columns: Vec<OfColumn> = of_rows.filter_map(|(at, value)| of_row(insert, at, value)).collect();
                let conflict = insert.on_conflict_clause();
                columns.extend(conflict.iter().flat_map(|clause| clause.target_list()).filter_map(of_target));
                (insert.relation(), columns)
            }
            Node::UpdateStmt(update) => {
                (update.relation(), update.target_list().iter().filter_map(of_target).collect())
            }
            _ => return Ok(None),
        };
        Ok(relation.filter(|_| !columns.is_empty()).map(|var| Literals { table: table_ref(var), columns }))
    })
}

/// The column whose value it is that stands at this place of a row of an INSERT, if it is such a literal.
pub(super) fn of_row(insert: &nodes::InsertStmt, at: usize, value: Node<'_>) -> Option<OfColumn> {
    if !speaks(value) {
        return None;
    }
    if insert.cols().is_empty() {
        return Some(OfColumn::At(at));
    }
    match insert.cols().iter().nth(at) {
        Some(Node::ResTarget(column)) => named(column),
        _ => None,
    }
}

/// The column that such a literal is assigned to by SET.
pub(super) fn of_target(target: &nodes::ResTarget) -> Option<OfColumn> {
    if speaks(target.val()) { named(target) } else { None }
}

/// A part of a column, `a[1]` or `a.b`, is of another type.
fn named(target: &nodes::ResTarget) -> Option<OfColumn> {
    let whole = target.indirection().is_empty();
    target.name().filter(|_| whole).map(|name| OfColumn::Named(name.to_owned()))
}

fn speaks(value: Node<'_>) -> bool {
    let Node::A_Const(constant) = value else { return false };
    matches!(constant.val(), Some(ConstValue::String(text)) if is_present(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_that_stand_for_a_column_are_found() {
        let of = |text: &str| {
            let found = literals(text).unwrap();
            let names = found.iter().flat_map(|found| &found.columns).map(|column| match column {
                OfColumn::Named(name) => name.clone(),
                OfColumn::At(at) => at.to_string(),
            });
            names.collect::<Vec<_>>().join(" ")
        };
        for (text, expected) in [
            ("INSERT INTO t (k, v) VALUES (1, 'see you now'), (2, 'x')", "v"),
            ("INSERT INTO t VALUES (1, 'now'), ('Today', 'nowhere')", "1 0"),
            ("INSERT INTO t (k, v[1]) VALUES (1, 'now')", ""),
            ("INSERT INTO t (k, v) VALUES (1, 'now'::text), (1, upper('now'))", ""),
            ("INSERT INTO t (k) VALUES (1) ON CONFLICT (k) DO UPDATE SET v = 'now', w.a = 'now'", "v"),
            ("UPDATE t SET v = 'now', w = 'then', x[1] = 'now' WHERE y = 'now'", "v"),
            ("DELETE FROM t WHERE v = 'now'", ""),
        ] {
            assert_eq!(of(text), expected, "{text}");
        }
        let found = literals("UPDATE \"A\".t SET v = 'now'").unwrap().unwrap();
        assert_eq!((found.table.schema.as_deref(), found.table.name.as_str()), (Some("A"), "t"));
        assert!(literals("no sql").is_err());
    }
}

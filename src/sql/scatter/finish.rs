//! What is computed of whole groups: HAVING, and expressions over keys and aggregates.
//!
//! Groups are brought together first; then one server computes the rest, with each key and each aggregate as a column. So the
//! statement's expressions are written anew with columns in the place of these, by the parser's own trees.

use pg_raw_parse::make::owned;
use pg_raw_parse::transform::transform;
use pg_raw_parse::{Node, nodes};

use super::Unfit;
use super::names;
use super::select::Sort;
use super::write;
use crate::sql::walk::children;

/// How the columns of groups are called; a statement that has such a name is not taken apart.
const PREFIX: &str = "pgweir_";

/// What is computed of whole groups, over columns that are called by [`column()`]: the keys first, then the aggregates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finish {
    /// It must be: the statement has HAVING, or expressions.
    pub needed: bool,
    /// The select list.
    pub targets: Vec<String>,
    /// HAVING.
    pub having: Option<String>,
    /// ORDER BY.
    pub sort: Vec<Sort>,
}

/// What a column of groups is called.
#[must_use]
pub fn column(at: usize) -> String {
    format!("{PREFIX}{at}")
}

/// What stands for an expression.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stands<'a> {
    /// The column with this place.
    Column(usize),
    /// The same under the collation that the key names itself.
    Collated(usize, &'a nodes::CollateClause),
}

/// An expression over columns of groups; `of` says which of its parts are such columns.
///
/// # Errors
/// Something of it is neither key nor aggregate nor made of these.
pub(super) fn over_groups<'a>(
    node: Node<'_>,
    mut of: impl FnMut(Node<'_>) -> Result<Option<Stands<'a>>, Unfit>,
) -> Result<String, Unfit> {
    if any(node, &mut |node| is_column(node, true)) {
        return Err(Unfit::new("name", format!("with a name that begins with {PREFIX}")));
    }
    let mut failed = None;
    let target = owned(|mem| {
        let mut value = mem.make_unique(node);
        transform(&mut value, |place| {
            if failed.is_some() || matches!(place.as_ref(), Node::None) {
                return None;
            }
            let stands = match of(place.as_ref()) {
                Ok(None) => return Some(place),
                Ok(Some(stands)) => stands,
                Err(unfit) => {
                    failed = Some(unfit);
                    return None;
                }
            };
            let reference = |at: usize| {
                let name = mem.make_string(Some(&column(at)));
                mem.make_column_ref(mem.make_list(&[name.uncast()])).uncast()
            };
            place.replace(match stands {
                Stands::Column(at) => reference(at),
                Stands::Collated(at, original) => {
                    let mut collated = mem.make_node::<nodes::CollateClause>();
                    collated.as_mut().set_arg(reference(at));
                    collated.as_mut().set_collname(mem.make_unique(original.collname()));
                    collated.uncast()
                }
            });
            None
        });
        mem.make_res_target(None, mem.empty(), value)
    });
    if let Some(unfit) = failed {
        return Err(unfit);
    }
    if any(target.val(), &mut |node| is_column(node, false)) {
        return Err(expression_of_groups());
    }
    write::expression(target.val())
}

/// Whether an expression names a collation.
pub(super) fn names_collation(node: Node<'_>) -> bool {
    any(node, &mut |node| matches!(node, Node::CollateClause(_)))
}

/// Whether it is an aggregate, and no window function.
pub(super) fn is_aggregate(call: &nodes::FuncCall) -> bool {
    let name = call.funcname().iter().filter_map(Node::as_str).next_back();
    call.over().is_none() && name.is_some_and(names::is_aggregate)
}

pub(super) fn expression_of_groups() -> Unfit {
    Unfit::new(
        "expression_of_groups",
        "whose groups lie on several shards and that shows or sorts by what is neither a key of GROUP BY nor made of keys and aggregates",
    )
    .hint("Name the column in GROUP BY, or group by the sharding key.")
}

/// Whether a node is a column: one of groups, or any other.
fn is_column(node: Node<'_>, of_groups: bool) -> bool {
    let Node::ColumnRef(reference) = node else { return false };
    let ours = |field: Node<'_>| field.as_str().is_some_and(|name| name.starts_with(PREFIX));
    reference.fields().iter().any(ours) == of_groups
}

/// Whether one of the nodes of an expression is like that.
fn any(root: Node<'_>, like: &mut dyn FnMut(Node<'_>) -> bool) -> bool {
    let mut stack = vec![root];
    let mut below = Vec::new();
    while let Some(node) = stack.pop() {
        if like(node) {
            return true;
        }
        // What is not known was refused already.
        let _known = children(node, &mut below);
        stack.append(&mut below);
    }
    false
}

//! INSERT of VALUES, UPDATE and DELETE that several shards run as they stand: whether each does the same, or its part, with them.
//!
//! Every expression of such a statement is looked at, wherever it stands: what one shard draws, reads from its clock or knows of itself
//! must not decide what becomes of a row on another. That no place is forgotten is counted ([`is_all`]).

use std::collections::BTreeSet;

use pg_raw_parse::{ConstValue, Node, nodes, raw};

use super::Unfit;
use super::expression::{self, Clause, Found};
use super::from::From;
use super::literals;
use super::rows::{random, returned};
use super::whole::{other, read};
use crate::sql::shape::{self, Equals, cast_name, column, equalities};
use crate::sql::walk::{children, set_operation, table_ref};

/// Joins within joins.
const MAX_DEPTH: usize = 64;

/// Whether UPDATE or DELETE without a key does on each shard what it would do to the rows there if there was one server.
///
/// # Errors
/// Why not.
pub fn unkeyed(text: &str) -> Result<(), Unfit> {
    read(text, |node| match node {
        Node::UpdateStmt(_) | Node::DeleteStmt(_) => Places::of(node)?.check(node, false),
        _ => Err(other()),
    })
}

/// Whether INSERT of VALUES, UPDATE or DELETE of a reference table does the same on every shard, as far as the text tells; the columns that it
/// sets to their defaults, which are the table's to tell.
///
/// # Errors
/// Why not.
pub fn reference(text: &str) -> Result<Vec<String>, Unfit> {
    read(text, |node| {
        let places = Places::of(node)?;
        if let Some(table) = &places.table {
            return Err(from(format!("that joins a reference table with \"{table}\"")));
        }
        places.check(node, true)?;
        match node {
            Node::UpdateStmt(update) if !places.matches_once(update) => Err(from(
                "where several rows of VALUES may change one row of a reference table, and which does it is not told".to_owned(),
            )
            .hint("Tie a column of VALUES that has another whole number in each row to one of the table, both with their tables' names: WHERE t.id = v.id. Or write SET column = CASE id WHEN ... END.")),
            _ => Ok(places.defaults),
        }
    })
}

fn from(why: String) -> Unfit {
    Unfit::new("from", why)
        .hint("Give the values as constants or parameters: FROM (VALUES (1, 'a'), ...) AS v (id, name).")
}

/// VALUES, or SELECT of one row, in FROM or USING.
struct Derived<'a> {
    /// Its name.
    name: String,
    /// The names of its columns, as far as they were given.
    columns: Vec<String>,
    rows: Vec<Vec<Node<'a>>>,
}

/// Where expressions stand in a statement.
#[derive(Default)]
struct Places<'a> {
    all: Vec<(Node<'a>, Clause)>,
    /// The columns that SET gives their defaults.
    defaults: Vec<String>,
    /// Literals that stand for their columns and may mean the present: whoever runs the statement asks what they mean.
    literals: Vec<Node<'a>>,
    returning: Option<&'a nodes::ReturningClause>,
    /// A table beside the one that is written.
    table: Option<String>,
    derived: Vec<Derived<'a>>,
    /// The names in FROM or USING.
    names: Vec<String>,
}

impl<'a> Places<'a> {
    /// Of a statement without WITH.
    fn of(node: Node<'a>) -> Result<Self, Unfit> {
        let mut places = Self::default();
        match node {
            Node::InsertStmt(insert) if insert.with_clause().is_none() => places.insert(insert)?,
            Node::UpdateStmt(update) if update.with_clause().is_none() => {
                places.assigned(update.target_list().iter());
                places.all.push((update.where_clause(), Clause::Condition));
                places.returning = update.returning_clause();
                for item in update.from_clause() {
                    places.from(item, 0)?;
                }
            }
            Node::DeleteStmt(delete) if delete.with_clause().is_none() => {
                places.all.push((delete.where_clause(), Clause::Condition));
                places.returning = delete.returning_clause();
                for item in delete.using_clause() {
                    places.from(item, 0)?;
                }
            }
            _ => return Err(other()),
        }
        Ok(places)
    }

    fn insert(&mut self, insert: &'a nodes::InsertStmt) -> Result<(), Unfit> {
        let Node::SelectStmt(select) = insert.select_stmt() else { return Err(other()) };
        for column in insert.cols() {
            if let Node::ResTarget(column) = column {
                self.all.extend(column.indirection().iter().map(|node| (node, Clause::Output)));
            }
        }
        for row in select.values_lists().iter().filter_map(|row| row.as_node_list()) {
            for (at, value) in row.iter().enumerate() {
                match literals::of_row(insert, at, value) {
                    Some(_) => self.literals.push(value),
                    None => self.all.push((value, Clause::Output)),
                }
            }
        }
        if let Some(conflict) = insert.on_conflict_clause() {
            if let Some(infer) = conflict.infer() {
                for element in infer.index_elems() {
                    if let Node::IndexElem(element) = element {
                        self.all.push((element.expr(), Clause::Output));
                    }
                }
                self.all.push((infer.where_clause(), Clause::Output));
            }
            self.assigned(conflict.target_list().iter());
            self.all.push((conflict.where_clause(), Clause::Output));
        }
        self.returning = insert.returning_clause();
        Ok(())
    }

    /// What is assigned, and the subscripts of what it is assigned to.
    fn assigned(&mut self, targets: impl Iterator<Item = &'a nodes::ResTarget>) {
        for target in targets {
            if matches!(target.val(), Node::SetToDefault(_)) {
                self.defaults.extend(target.name().map(str::to_owned));
            }
            match literals::of_target(target) {
                Some(_) => self.literals.push(target.val()),
                None => self.all.push((target.val(), Clause::Output)),
            }
            self.all.extend(target.indirection().iter().map(|node| (node, Clause::Output)));
        }
    }

    /// An item of FROM or USING.
    fn from(&mut self, item: Node<'a>, depth: usize) -> Result<(), Unfit> {
        if depth > MAX_DEPTH {
            return Err(from("that joins very many tables".to_owned()));
        }
        match item {
            Node::RangeVar(var) => {
                let table = table_ref(var);
                self.names.push(table.alias.clone().unwrap_or_else(|| table.name.clone()));
                self.table.get_or_insert(table.name);
                Ok(())
            }
            Node::JoinExpr(join) if join.jointype == raw::JoinType::JOIN_INNER && join.alias().is_none() => {
                self.all.push((join.quals(), Clause::Condition));
                self.from(join.larg(), depth + 1)?;
                self.from(join.rarg(), depth + 1)
            }
            Node::RangeSubselect(inner) => {
                let derived = derived(inner)?;
                self.all.extend(derived.rows.iter().flatten().map(|value| (*value, Clause::Output)));
                self.names.push(derived.name.clone());
                self.derived.push(derived);
                Ok(())
            }
            Node::RangeTableSample(_) => {
                Err(Unfit::new("tablesample", "with TABLESAMPLE, which each shard would draw by itself"))
            }
            Node::RangeFunction(_) => Err(Unfit::new("from_function", "with a function in FROM")
                .hint("Give its rows as constants or parameters: FROM (VALUES (1), (2)) AS v (id).")),
            Node::JoinExpr(_) => Err(from("with an outer join or an alias of a join".to_owned())),
            _ => Err(from("with something in FROM that is not understood".to_owned())),
        }
    }

    /// Whether all shards give the expressions the same value, as far as it matters: where not `strict`, a condition may depend on the clock
    /// a little, and each row have a value of its own that is drawn for it.
    fn check(&self, node: Node<'a>, strict: bool) -> Result<(), Unfit> {
        let mut found = Found::default();
        let from = From::named(self.names.clone());
        for (place, clause) in &self.all {
            let clause = if strict { Clause::Output } else { *clause };
            if !matches!(place, Node::SetToDefault(_)) {
                expression::check(*place, clause, &from, &mut found)?;
            }
        }
        let mut shown = Vec::new();
        if let Some(clause) = self.returning {
            returned(Some(clause), &mut Vec::new())?;
            let values = clause.exprs().iter().filter_map(|node| match node {
                Node::ResTarget(target) => Some(target.val()),
                _ => None,
            });
            for value in values.filter(|value| !shape::spreads(*value)) {
                expression::check(value, Clause::Output, &from, &mut found)?;
            }
            shown.extend(clause.exprs().iter());
        }
        if found.draws && (strict || !self.names.is_empty()) {
            return Err(random());
        }
        is_all(node, self.all.iter().map(|(place, _)| *place).chain(self.literals.iter().copied()).chain(shown))
    }

    /// Whether at most one row of FROM belongs to each row of the table: what is assigned would be that of any of them otherwise.
    fn matches_once(&self, update: &nodes::UpdateStmt) -> bool {
        let Some(target) = update.relation().map(table_ref) else { return false };
        let mut several = self.derived.iter().filter(|derived| derived.rows.len() != 1);
        match (several.next(), several.next()) {
            (None, _) => true,
            (Some(derived), None) => {
                let target = target.alias.unwrap_or(target.name);
                conjuncts(update.where_clause()).into_iter().any(|node| derived.is_tied_by(node, &target))
            }
            _ => false,
        }
    }
}

impl Derived<'_> {
    /// Whether a condition ties a column of it, in which no value comes twice, to one of the table.
    fn is_tied_by(&self, condition: Node<'_>, target: &str) -> bool {
        let Node::A_Expr(expr) = condition else { return false };
        let is_of = |node: Node<'_>, table: &str| column(node).filter(|column| column.qualifier == [table]);
        equalities(expr).into_iter().any(|(left, equals)| {
            let Equals::One(right) = equals else { return false };
            let mine = match (is_of(left, &self.name), is_of(right, &self.name)) {
                (Some(mine), None) if is_of(right, target).is_some() => mine,
                (None, Some(mine)) if is_of(left, target).is_some() => mine,
                _ => return false,
            };
            self.place_of(&mine.column).is_some_and(|place| self.is_unique(place))
        })
    }

    /// Columns without a name are called `column1` and so on in VALUES.
    fn place_of(&self, name: &str) -> Option<usize> {
        let width = self.rows.first()?.len();
        (0..width).find(|at| match self.columns.get(*at) {
            Some(given) => given == name,
            None => name == format!("column{}", at.saturating_add(1)),
        })
    }

    /// Whether a column has another whole number in each row. Other values that are written differently may be equal: by a collation, or
    /// by their type.
    fn is_unique(&self, place: usize) -> bool {
        let mut seen = BTreeSet::new();
        self.rows.iter().all(|row| row.get(place).and_then(|value| integer(*value)).is_some_and(|n| seen.insert(n)))
    }
}

fn integer(node: Node<'_>) -> Option<i32> {
    match node {
        Node::TypeCast(cast) => {
            let name = cast.type_name().and_then(cast_name)?;
            let is_integer = matches!(name.as_str(), "int2" | "int4" | "int8" | "smallint" | "integer" | "bigint");
            integer(cast.arg()).filter(|_| is_integer)
        }
        Node::A_Const(constant) => match constant.val() {
            Some(ConstValue::Integer(value)) => Some(value),
            _ => None,
        },
        _ => None,
    }
}

/// Reads a sub-query that names no table and gives the rows that are written there, in full.
fn derived(inner: &nodes::RangeSubselect) -> Result<Derived<'_>, Unfit> {
    let Node::SelectStmt(select) = inner.subquery() else { return Err(other()) };
    let plain = set_operation(select).is_none()
        && select.with_clause().is_none()
        && select.distinct_clause().is_empty()
        && select.from_clause().is_empty()
        && matches!(select.where_clause(), Node::None)
        && select.group_clause().is_empty()
        && matches!(select.having_clause(), Node::None)
        && select.window_clause().is_empty()
        && select.sort_clause().is_empty()
        && matches!((select.limit_count(), select.limit_offset()), (Node::None, Node::None))
        && select.locking_clause().is_empty()
        && select.into_clause().is_none();
    if !plain {
        return Err(Unfit::new("sub_query", "with a sub-query that is more than VALUES or a SELECT of constants")
            .hint("Give its rows as constants or parameters: FROM (VALUES (1, 'a'), ...) AS v (id, name)."));
    }
    let rows: Vec<Vec<Node<'_>>> = if select.values_lists().is_empty() {
        vec![select.target_list().iter().map(|target| target.val()).collect()]
    } else {
        let lists = select.values_lists().iter().filter_map(|row| row.as_node_list());
        lists.map(|row| row.iter().collect()).collect()
    };
    if rows.iter().flatten().any(|value| shape::spreads(*value)) {
        return Err(from("with * in VALUES".to_owned()));
    }
    let alias = inner.alias();
    let name = alias.and_then(|alias| alias.aliasname()).unwrap_or_default().to_owned();
    let columns =
        alias.into_iter().flat_map(|alias| alias.colnames().iter()).filter_map(Node::as_str).map(str::to_owned);
    Ok(Derived { name, columns: columns.collect(), rows })
}

/// The terms of a conjunction.
fn conjuncts(condition: Node<'_>) -> Vec<Node<'_>> {
    let (mut stack, mut terms) = (vec![condition], Vec::new());
    while let Some(node) = stack.pop() {
        match node {
            Node::BoolExpr(b) if b.boolop == raw::BoolExprType::AND_EXPR => stack.extend(b.args()),
            node => terms.push(node),
        }
    }
    terms
}

/// Whether `seen` are all expressions of a statement: they have as many values and names in them as the whole has.
///
/// # Errors
/// There is one more, in a place that nobody looks at.
pub(super) fn is_all<'a>(statement: Node<'a>, seen: impl Iterator<Item = Node<'a>>) -> Result<(), Unfit> {
    let mut sum = Some(0_usize);
    for node in seen {
        sum = sum.zip(weight(node)).map(|(sum, weight)| sum.saturating_add(weight));
    }
    if sum.is_some() && sum == weight(statement) {
        return Ok(());
    }
    Err(Unfit::new("place", "with an expression in a place where none is expected"))
}

/// How many values and names there are in a tree: in these every expression ends. None if it has something that is not known.
fn weight(root: Node<'_>) -> Option<usize> {
    let (mut stack, mut below, mut weight) = (vec![root], Vec::new(), 0_usize);
    while let Some(node) = stack.pop() {
        let counts = matches!(
            node,
            Node::A_Const(_)
                | Node::ColumnRef(_)
                | Node::CurrentOfExpr(_)
                | Node::FuncCall(_)
                | Node::MergeSupportFunc(_)
                | Node::ParamRef(_)
                | Node::SQLValueFunction(_)
                | Node::SetToDefault(_)
                | Node::SubLink(_)
        );
        weight = weight.saturating_add(usize::from(counts));
        if !children(node, &mut below) {
            return None;
        }
        stack.append(&mut below);
    }
    Some(weight)
}

#[cfg(test)]
mod tests;

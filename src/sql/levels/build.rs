//! From a statement's tree to its queries.

use std::rc::Rc;

use pg_raw_parse::{Node, nodes, raw};

use super::{
    Body, Condition, Item, Items, Level, Levels, Operand, Outer, Output, Query, Shows, Source, Using, Value, Write,
};
use crate::sql::facts::{ColumnRef, KeyValue, TableRef};
use crate::sql::shape::{Equals, array_value, column, conflict_assigned, equalities, key_value, spreads};
use crate::sql::touch::conflict;
use crate::sql::walk::{Seen, children, set_operation, table_ref};

/// Queries within queries, joins within joins.
const MAX_DEPTH: usize = 64;
/// Queries and items of one statement.
const MAX_PARTS: usize = 512;

/// The queries of a SELECT, INSERT, UPDATE, DELETE or MERGE. None where it has something that is not understood.
pub(in crate::sql) fn of_query(node: Node<'_>) -> Option<Levels> {
    let mut build = Build::default();
    build.query(node, None, &None)?;
    Some(build.levels)
}

/// Whether a statement is more than one table with conditions, after the walk over it.
pub(in crate::sql) fn is_nested(node: Node<'_>, seen: &Seen<'_>) -> bool {
    let is_plain = match node {
        Node::SelectStmt(_) => seen.selects.len() == 1,
        Node::UpdateStmt(_) | Node::DeleteStmt(_) => seen.selects.is_empty(),
        Node::InsertStmt(insert) => {
            let values = |select: &nodes::SelectStmt| !select.values_lists().is_empty();
            seen.selects.len() == 1 && matches!(insert.select_stmt(), Node::SelectStmt(select) if values(select))
        }
        _ => false,
    };
    !is_plain || seen.tables.len() > 1 || seen.tables.iter().any(|found| found.nested.is_some())
}

/// The names of WITH that can be seen, innermost first, each with the number of its query.
struct Scope<'a> {
    name: &'a str,
    query: usize,
    outer: Scopes<'a>,
}

type Scopes<'a> = Option<Rc<Scope<'a>>>;

fn in_scope(scope: &Scopes<'_>, name: &str) -> Option<usize> {
    let mut next = scope.as_ref();
    while let Some(scope) = next {
        if scope.name == name {
            return Some(scope.query);
        }
        next = scope.outer.as_ref();
    }
    None
}

/// From where names are looked for, if there is anything further out.
type Place = Option<Outer>;

#[derive(Default)]
struct Build {
    levels: Levels,
    depth: usize,
    parts: usize,
}

impl Build {
    /// A statement that gives rows; its number.
    fn query<'a>(&mut self, node: Node<'a>, outer: Place, scope: &Scopes<'a>) -> Option<usize> {
        let number = self.reserve()?;
        self.fill(number, node, outer, scope)?;
        Some(number)
    }

    fn reserve(&mut self) -> Option<usize> {
        self.part()?;
        self.levels.queries.push(Query { renamed: Vec::new(), body: Body::Unknown });
        Some(self.levels.queries.len() - 1)
    }

    fn part(&mut self) -> Option<()> {
        self.parts += 1;
        (self.parts <= MAX_PARTS).then_some(())
    }

    fn fill<'a>(&mut self, number: usize, node: Node<'a>, outer: Place, scope: &Scopes<'a>) -> Option<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let body = match node {
            Node::SelectStmt(select) => self.select(select, outer, scope)?,
            Node::InsertStmt(insert) => self.insert(insert, outer, scope)?,
            Node::UpdateStmt(update) => self.update(update, outer, scope)?,
            Node::DeleteStmt(delete) => self.delete(delete, outer, scope)?,
            Node::MergeStmt(merge) => self.merge(merge, outer, scope)?,
            _ => return None,
        };
        self.levels.queries.get_mut(number)?.body = body;
        self.depth -= 1;
        Some(())
    }

    fn level(&mut self, outer: Place) -> Option<usize> {
        self.part()?;
        self.levels.levels.push(Level { outer, ..Level::default() });
        Some(self.levels.levels.len() - 1)
    }

    /// All items of a level.
    fn all(&self, level: usize) -> Items {
        0..self.levels.levels.get(level).map_or(0, |level| level.items.len())
    }

    /// WITH: its queries see what is further out than the query that it stands before.
    fn with<'a>(
        &mut self,
        with: Option<&'a nodes::WithClause>,
        outer: &Place,
        scope: &Scopes<'a>,
    ) -> Option<Scopes<'a>> {
        let mut seen = scope.clone();
        let Some(with) = with else { return Some(seen) };
        let mut queries = Vec::new();
        for cte in with.ctes() {
            let query = self.reserve()?;
            let before = seen.clone();
            seen = Some(Rc::new(Scope { name: cte.ctename().unwrap_or_default(), query, outer: seen }));
            queries.push((cte, query, before));
        }
        for (cte, query, before) in queries {
            if cte.search_clause().is_some() || cte.cycle_clause().is_some() {
                return None;
            }
            self.fill(query, cte.ctequery(), outer.clone(), if with.recursive { &seen } else { &before })?;
            self.levels.queries.get_mut(query)?.renamed = names(cte.aliascolnames().iter())?;
        }
        Some(seen)
    }

    fn select<'a>(&mut self, select: &'a nodes::SelectStmt, outer: Place, scope: &Scopes<'a>) -> Option<Body> {
        let scope = &self.with(select.with_clause(), &outer, scope)?;
        let level = self.level(outer.clone())?;
        if set_operation(select).is_some() {
            let arms = (select.larg()?, select.rarg()?);
            let left = self.query(Node::SelectStmt(arms.0), outer.clone(), scope)?;
            let right = self.query(Node::SelectStmt(arms.1), outer, scope)?;
            self.rest(select, level, scope)?;
            return Some(Body::Set(left, right));
        }
        for item in select.from_clause() {
            self.from(item, level, scope, 0)?;
        }
        let at = Outer::of(level, self.all(level));
        self.conjuncts(select.where_clause(), &at, at.sees.clone(), scope)?;
        for target in select.target_list() {
            self.expression(target.into(), &at, scope)?;
        }
        for row in select.values_lists() {
            self.expression(row, &at, scope)?;
        }
        self.rest(select, level, scope)?;
        if !select.values_lists().is_empty() {
            let values = |node: Node<'_>| (!spreads(node)).then(|| key_value(node));
            let rows = select.values_lists().iter().map(|row| row.as_node_list()?.iter().map(values).collect());
            return Some(Body::Rows(rows.collect::<Option<_>>()?));
        }
        let set = |node: Node<'_>| matches!(node, Node::GroupingSet(_));
        if select.group_clause().iter().any(set) {
            // They show NULL for what they do not group by.
            return Some(Body::Unknown);
        }
        let outputs = select.target_list().iter().map(output).collect::<Option<_>>()?;
        Some(Body::Select { level, outputs })
    }

    /// The clauses of a SELECT that say nothing of where its rows lie.
    fn rest<'a>(&mut self, select: &'a nodes::SelectStmt, level: usize, scope: &Scopes<'a>) -> Option<()> {
        let at = Outer::of(level, self.all(level));
        let lists = [select.distinct_clause(), select.group_clause(), select.window_clause()];
        let nodes = lists.into_iter().flatten().chain(select.sort_clause().iter().map(Into::into));
        let single = [select.having_clause(), select.limit_offset(), select.limit_count()];
        nodes.chain(single).try_for_each(|node| self.expression(node, &at, scope))
    }

    fn target(&mut self, level: usize, var: Option<&nodes::RangeVar>) -> Option<()> {
        let table = table_ref(var?);
        let renamed = names(var?.alias().into_iter().flat_map(|alias| alias.colnames()))?;
        self.item(level, Some(shown(&table)), Source::Table(table), renamed)
    }

    fn item(&mut self, level: usize, name: Option<String>, source: Source, renamed: Vec<String>) -> Option<()> {
        self.part()?;
        self.levels.levels.get_mut(level)?.items.push(Item { name, source, renamed, nullable: false });
        Some(())
    }

    fn insert<'a>(&mut self, insert: &'a nodes::InsertStmt, outer: Place, scope: &Scopes<'a>) -> Option<Body> {
        if insert.override_ != raw::OverridingKind::OVERRIDING_NOT_SET {
            // The values given may not be the ones that are stored.
            return None;
        }
        let scope = &self.with(insert.with_clause(), &outer, scope)?;
        let rows = match insert.select_stmt() {
            Node::None => None,
            // It does not see the target.
            rows => Some(self.query(rows, outer.clone(), scope)?),
        };
        let level = self.level(outer)?;
        self.target(level, insert.relation())?;
        let target = self.all(level);
        let mut changed = Vec::new();
        if let Some(clause) = insert.on_conflict_clause() {
            self.item(level, Some("excluded".to_owned()), Source::Other, Vec::new())?;
            self.expression(Node::OnConflictClause(clause), &Outer::of(level, self.all(level)), scope)?;
            changed = conflict_assigned(clause);
        }
        let columns: Vec<String> = names_of_targets(insert.cols().iter())?;
        let columns = (!columns.is_empty()).then_some(columns);
        let write = Write::Insert { columns, rows, conflict: conflict(insert), changed };
        self.levels.levels.get_mut(level)?.write = Some(write);
        self.returning(level, target, insert.returning_clause(), scope)
    }

    fn update<'a>(&mut self, update: &'a nodes::UpdateStmt, outer: Place, scope: &Scopes<'a>) -> Option<Body> {
        let scope = &self.with(update.with_clause(), &outer, scope)?;
        let level = self.level(outer)?;
        self.target(level, update.relation())?;
        for item in update.from_clause() {
            self.from(item, level, scope, 0)?;
        }
        let at = Outer::of(level, self.all(level));
        self.conjuncts(update.where_clause(), &at, at.sees.clone(), scope)?;
        let mut given = Vec::new();
        for target in update.target_list() {
            self.expression(target.into(), &at, scope)?;
            let simple = target.indirection().is_empty();
            let value = if simple { key_value(target.val()) } else { KeyValue::Expression };
            given.push((target.name()?.to_owned(), value));
        }
        self.levels.levels.get_mut(level)?.write = Some(Write::Update(given));
        self.returning(level, at.sees, update.returning_clause(), scope)
    }

    fn delete<'a>(&mut self, delete: &'a nodes::DeleteStmt, outer: Place, scope: &Scopes<'a>) -> Option<Body> {
        let scope = &self.with(delete.with_clause(), &outer, scope)?;
        let level = self.level(outer)?;
        self.target(level, delete.relation())?;
        for item in delete.using_clause() {
            self.from(item, level, scope, 0)?;
        }
        let at = Outer::of(level, self.all(level));
        self.conjuncts(delete.where_clause(), &at, at.sees.clone(), scope)?;
        self.levels.levels.get_mut(level)?.write = Some(Write::Delete);
        self.returning(level, at.sees, delete.returning_clause(), scope)
    }

    /// The source's rows are kept whether a row of the target is found or not: what they are joined by says something of the target alone.
    fn merge<'a>(&mut self, merge: &'a nodes::MergeStmt, outer: Place, scope: &Scopes<'a>) -> Option<Body> {
        let scope = &self.with(merge.with_clause(), &outer, scope)?;
        let level = self.level(outer)?;
        self.target(level, merge.relation())?;
        let target = self.all(level);
        self.from(merge.source_relation(), level, scope, 0)?;
        let at = Outer::of(level, self.all(level));
        self.conjuncts(merge.join_condition(), &at, target.clone(), scope)?;
        let (mut inserts, mut changed) = (Vec::new(), Vec::new());
        for when in merge.merge_when_clauses() {
            let of_source = raw::MergeMatchKind::MERGE_WHEN_NOT_MATCHED_BY_SOURCE;
            if when.match_kind == of_source || when.override_ != raw::OverridingKind::OVERRIDING_NOT_SET {
                return None;
            }
            // Where there is no row of the target, its names mean nothing; they may be the source's or those of functions.
            let not_there = raw::MergeMatchKind::MERGE_WHEN_NOT_MATCHED_BY_TARGET;
            let source = Outer::of(level, target.end..at.sees.end);
            let sees = if when.match_kind == not_there { source } else { at.clone() };
            self.expression(when.condition(), &sees, scope)?;
            for node in when.target_list().iter().chain(when.values()) {
                self.expression(node, &sees, scope)?;
            }
            match when.command_type {
                raw::CmdType::CMD_INSERT => {
                    let columns = names_of_targets(when.target_list().iter())?;
                    if when.values().iter().any(spreads) {
                        return None;
                    }
                    let values = when.values().iter().map(value).collect();
                    inserts.push(((!columns.is_empty()).then_some(columns), values));
                }
                raw::CmdType::CMD_UPDATE => changed.extend(names_of_targets(when.target_list().iter())?),
                raw::CmdType::CMD_DELETE | raw::CmdType::CMD_NOTHING => {}
                _ => return None,
            }
        }
        self.levels.levels.get_mut(level)?.write = Some(Write::Merge { inserts, changed });
        self.returning(level, at.sees, merge.returning_clause(), scope)?;
        // It may show of each row whether it is of the source or of the target.
        Some(Body::Unknown)
    }

    fn returning<'a>(
        &mut self,
        level: usize,
        sees: Items,
        clause: Option<&'a nodes::ReturningClause>,
        scope: &Scopes<'a>,
    ) -> Option<Body> {
        let mut outputs = Vec::new();
        for node in clause.into_iter().flat_map(|clause| clause.exprs()) {
            let written = Outer { written: true, ..Outer::of(level, sees.clone()) };
            self.expression(node, &written, scope)?;
            let Node::ResTarget(target) = node else { return None };
            outputs.push(output(target)?);
        }
        if clause.is_some_and(|clause| !clause.options().is_empty()) {
            return Some(Body::Unknown);
        }
        Some(Body::Select { level, outputs })
    }

    /// What stands in FROM; its items.
    fn from<'a>(&mut self, node: Node<'a>, level: usize, scope: &Scopes<'a>, depth: usize) -> Option<Items> {
        if depth > MAX_DEPTH {
            return None;
        }
        let first = self.all(level).end;
        // LATERAL sees what stands before it.
        let before = Outer::of(level, 0..first);
        match node {
            Node::JoinExpr(join) => return self.join(join, level, scope, depth),
            Node::RangeVar(var) => {
                let table = table_ref(var);
                let renamed = names(var.alias().into_iter().flat_map(|alias| alias.colnames()))?;
                let with = if table.schema.is_none() { in_scope(scope, &table.name) } else { None };
                let name = Some(shown(&table));
                self.item(level, name, with.map_or(Source::Table(table), Source::Query), renamed)?;
            }
            Node::RangeSubselect(sub) => {
                let outer = if sub.lateral { Some(before) } else { self.levels.levels.get(level)?.outer.clone() };
                let query = self.query(sub.subquery(), outer, scope)?;
                let name = sub.alias().and_then(|alias| alias.aliasname()).map(str::to_owned);
                let renamed = names(sub.alias().into_iter().flat_map(|alias| alias.colnames()))?;
                self.item(level, name, Source::Query(query), renamed)?;
            }
            Node::RangeFunction(function) => {
                for node in function.functions() {
                    self.expression(node, &before, scope)?;
                }
                let alias = function.alias().and_then(|alias| alias.aliasname());
                let name = alias.or_else(|| own_name(function))?.to_owned();
                self.item(level, Some(name), Source::Other, Vec::new())?;
            }
            _ => return None,
        }
        Some(first..first + 1)
    }

    fn join<'a>(&mut self, join: &'a nodes::JoinExpr, level: usize, scope: &Scopes<'a>, depth: usize) -> Option<Items> {
        // NATURAL joins by columns that are not written; an alias hides and renames.
        if join.is_natural || join.alias().is_some() || join.join_using_alias().is_some() {
            return None;
        }
        let left = self.from(join.larg(), level, scope, depth + 1)?;
        let right = self.from(join.rarg(), level, scope, depth + 1)?;
        let both = left.start..right.end;
        let (binds, nullable, shows) = match join.jointype {
            raw::JoinType::JOIN_INNER => (both.clone(), 0..0, Shows::Both),
            raw::JoinType::JOIN_LEFT => (right.clone(), right.clone(), Shows::Left),
            raw::JoinType::JOIN_RIGHT => (left.clone(), left.clone(), Shows::Right),
            raw::JoinType::JOIN_FULL => (0..0, both.clone(), Shows::Either),
            _ => return None,
        };
        for item in self.levels.levels.get_mut(level)?.items.get_mut(nullable)? {
            item.nullable = true;
        }
        self.conjuncts(join.quals(), &Outer::of(level, both.clone()), binds.clone(), scope)?;
        for name in join.using_clause() {
            let name = name.sval()?.to_owned();
            let using = Using { name, left: left.clone(), right: right.clone(), binds: binds.clone(), shows };
            self.levels.levels.get_mut(level)?.merged.push(using);
        }
        Some(both)
    }

    /// The terms of a condition that rows of `binds` must meet.
    fn conjuncts<'a>(&mut self, condition: Node<'a>, at: &Outer, binds: Items, scope: &Scopes<'a>) -> Option<()> {
        let mut stack = vec![condition];
        while let Some(node) = stack.pop() {
            let found = match node {
                Node::BoolExpr(b) if b.boolop == raw::BoolExprType::AND_EXPR => {
                    stack.extend(b.args());
                    continue;
                }
                Node::SubLink(link) => self.in_query(link, at, scope)?,
                node => {
                    self.expression(node, at, scope)?;
                    equal(node)
                }
            };
            for (column, equals) in found {
                self.part()?;
                let condition = Condition { binds: binds.clone(), sees: at.sees.clone(), column, equals };
                self.levels.levels.get_mut(at.level)?.conditions.push(condition);
            }
        }
        Some(())
    }

    /// `column IN (SELECT ...)`, `(column, column) IN (SELECT ...)`.
    fn in_query<'a>(
        &mut self,
        link: &'a nodes::SubLink,
        at: &Outer,
        scope: &Scopes<'a>,
    ) -> Option<Vec<(ColumnRef, Operand)>> {
        self.expression(link.testexpr(), at, scope)?;
        let query = self.query(link.subselect(), Some(at.clone()), scope)?;
        let operator = link.oper_name().iter().map(Node::as_str).collect::<Vec<_>>();
        let is_equal = matches!(operator.as_slice(), [] | [Some("=")] | [Some("pg_catalog"), Some("=")]);
        let any = link.sub_link_type == raw::SubLinkType::ANY_SUBLINK && is_equal;
        let columns: Vec<Node<'_>> = match link.testexpr() {
            Node::RowExpr(row) if row.args().iter().any(spreads) => Vec::new(),
            Node::RowExpr(row) => row.args().iter().collect(),
            test => vec![test],
        };
        let columns = columns.into_iter().enumerate().filter(|_| any);
        Some(columns.filter_map(|(place, test)| Some((column(test)?, Operand::Query(query, place)))).collect())
    }

    /// The queries in an expression.
    fn expression<'a>(&mut self, node: Node<'a>, at: &Outer, scope: &Scopes<'a>) -> Option<()> {
        let mut stack = vec![node];
        while let Some(node) = stack.pop() {
            match node {
                Node::SubLink(link) => {
                    self.query(link.subselect(), Some(at.clone()), scope)?;
                    stack.push(link.testexpr());
                }
                Node::SelectStmt(_) | Node::RangeVar(_) | Node::WithClause(_) => return None,
                node => {
                    if !children(node, &mut stack) {
                        return None;
                    }
                }
            }
        }
        Some(())
    }
}

/// What a term says that a column is equal to, either way round.
fn equal(node: Node<'_>) -> Vec<(ColumnRef, Operand)> {
    let Node::A_Expr(expr) = node else { return Vec::new() };
    let of = |(left, equals): (Node<'_>, Equals<'_>)| match equals {
        Equals::One(right) => match (column(left), column(right)) {
            (Some(a), Some(b)) => vec![(a.clone(), Operand::Column(b.clone())), (b, Operand::Column(a))],
            (Some(a), None) => vec![(a, Operand::Values(vec![key_value(right)]))],
            (None, Some(b)) => vec![(b, Operand::Values(vec![key_value(left)]))],
            (None, None) => Vec::new(),
        },
        Equals::OneOf(values) => {
            let values = || Operand::Values(values.iter().map(|value| key_value(*value)).collect());
            column(left).map(|column| (column, values())).into_iter().collect()
        }
        Equals::Element(array) => {
            column(left).map(|column| (column, Operand::Array(array_value(array)))).into_iter().collect()
        }
    };
    equalities(expr).into_iter().flat_map(of).collect()
}

/// A column that is shown; none where it is as many as a row has that is computed.
fn output(target: &nodes::ResTarget) -> Option<Output> {
    let value = value(target.val());
    if let Node::ColumnRef(reference) = target.val() {
        let mut fields: Vec<_> = reference.fields().iter().collect();
        if let Some(Node::A_Star(_)) = fields.last() {
            fields.pop();
            let qualifier: Option<Vec<String>> = fields.into_iter().map(|f| f.as_str().map(str::to_owned)).collect();
            return qualifier.map(Output::Star);
        }
    }
    if spreads(target.val()) {
        return None;
    }
    let own = match &value {
        Value::Column(column) => Some(column.column.clone()),
        Value::Constant(_) | Value::Other => None,
    };
    Some(Output::Column { name: target.name().map(str::to_owned).or(own), value })
}

fn value(node: Node<'_>) -> Value {
    if let Some(column) = column(node) {
        return Value::Column(column);
    }
    match key_value(node) {
        KeyValue::Expression => Value::Other,
        constant => Value::Constant(constant),
    }
}

/// The name of the only function of a FROM item, by which it goes without an alias.
fn own_name(function: &nodes::RangeFunction) -> Option<&str> {
    if function.is_rowsfrom {
        return None;
    }
    match function.functions().get(0)?.as_node_list()?.get(0)? {
        Node::FuncCall(call) => call.funcname().iter().next_back()?.as_str(),
        _ => None,
    }
}

fn shown(table: &TableRef) -> String {
    table.alias.as_ref().unwrap_or(&table.name).clone()
}

fn names<'a>(nodes: impl Iterator<Item = Node<'a>>) -> Option<Vec<String>> {
    nodes.map(|node| node.as_str().map(str::to_owned)).collect()
}

/// The columns of a list; none where one is only written in part.
fn names_of_targets<'a>(targets: impl Iterator<Item = Node<'a>>) -> Option<Vec<String>> {
    let name = |node: Node<'_>| match node {
        Node::ResTarget(target) if target.indirection().is_empty() => target.name().map(str::to_owned),
        _ => None,
    };
    targets.map(name).collect()
}

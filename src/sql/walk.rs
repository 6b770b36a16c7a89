//! One pass over a statement's tree: the tables, the function calls and the sub-statements in it.
//!
//! The pass keeps its own stack, so a tree of any depth costs heap and never the thread's stack. (The grammar's parser
//! bounds its own stack too: it answers "memory exhausted".) Children come from PostgreSQL's own list of them, one node at
//! a time; a node that it does not know is reported as such, because an unseen child could hide a write.

use std::collections::BTreeSet;
use std::rc::Rc;

use pg_raw_parse::walk::{Recurse, walk_manual};
use pg_raw_parse::{Node, nodes, raw};

use super::facts::{Mentions, ParamUse, TableRef};
use super::shape::cast_name;
use super::touch::Dml;

/// Name look-ups among common table expressions that one text may cost; only hostile texts come near.
const SCOPE_BUDGET: u32 = 2_000_000;

/// Types of PostgreSQL's own that statements name as if they were anybody's, sorted. (Others stand in `pg_catalog` once they are parsed.)
const TYPES: [&str; 40] = [
    "_text",
    "box",
    "bytea",
    "cidr",
    "circle",
    "date",
    "daterange",
    "inet",
    "int4range",
    "int8range",
    "json",
    "jsonb",
    "jsonpath",
    "line",
    "lseg",
    "macaddr",
    "macaddr8",
    "money",
    "name",
    "numrange",
    "oid",
    "path",
    "pg_lsn",
    "point",
    "polygon",
    "regclass",
    "regnamespace",
    "regproc",
    "regprocedure",
    "regrole",
    "regtype",
    "text",
    "tid",
    "tsquery",
    "tsrange",
    "tstzrange",
    "tsvector",
    "uuid",
    "xid",
    "xml",
];

/// A table that a statement names.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) table: TableRef,
    /// What stands between the top level and the table, if anything does.
    pub(super) nested: Option<&'static str>,
}

/// What one pass saw, in the order of the tree.
#[derive(Default)]
pub(super) struct Seen<'a> {
    pub(super) tables: Vec<Found>,
    pub(super) calls: Vec<&'a nodes::FuncCall>,
    /// The parameters.
    pub(super) params: Vec<ParamUse>,
    /// What stands behind a dot.
    fields: BTreeSet<&'a str>,
    /// Operators, and whether another schema than `pg_catalog` is written before them.
    operators: BTreeSet<(&'a str, bool)>,
    /// Types that are not known for PostgreSQL's own.
    types: BTreeSet<&'a str>,
    /// The first thing that makes a query more than a read: a DML statement, a locking clause, INTO.
    pub(super) writes: Option<&'static str>,
    /// What INSERT, UPDATE, DELETE and MERGE write, at any depth.
    pub(super) targets: Vec<(Dml, TableRef)>,
    /// FOR UPDATE and the like.
    pub(super) locking: Vec<&'a nodes::LockingClause>,
    /// All SELECTs.
    pub(super) selects: Vec<&'a nodes::SelectStmt>,
    /// It casts to a type whose values are numbers of objects.
    pub(super) casts_to_number: bool,
    /// The targets of SELECT INTO.
    pub(super) into: Vec<&'a nodes::IntoClause>,
    /// WHERE CURRENT OF occurs.
    pub(super) current_of: bool,
    /// A node that PostgreSQL's walker does not know, or more work than a text may cause: nothing is certain.
    pub(super) unknown: bool,
    budget_used: u32,
}

impl<'a> Seen<'a> {
    /// Notes the names of a node that need not be PostgreSQL's own.
    fn mention(&mut self, node: Node<'a>) {
        match node {
            Node::ColumnRef(column) => {
                if let Some(name) = column.fields().iter().skip(1).last().and_then(Node::as_str) {
                    self.fields.insert(name);
                }
            }
            Node::A_Indirection(indirection) => {
                self.fields.extend(indirection.indirection().iter().filter_map(Node::as_str));
            }
            Node::A_Expr(expr) => self.operator(expr.name().iter()),
            Node::SubLink(link) => self.operator(link.oper_name().iter()),
            Node::SortBy(sort) => self.operator(sort.use_op().iter()),
            Node::TypeName(name) => self.type_name(name),
            Node::TypeCast(cast) => cast.type_name().into_iter().for_each(|name| self.type_name(name)),
            _ => {}
        }
    }

    fn type_name(&mut self, name: &'a nodes::TypeName) {
        let parts: Vec<_> = name.names().iter().filter_map(|part| part.sval()).collect();
        match parts.as_slice() {
            ["pg_catalog", _] | [] => {}
            [known] if TYPES.binary_search(known).is_ok() => self.casts_to_number |= known.starts_with("reg"),
            [.., name] => drop(self.types.insert(name)),
        }
    }

    fn operator(&mut self, parts: impl Iterator<Item = Node<'a>>) {
        let (mut schema, mut name) = (None, None);
        for part in parts {
            (schema, name) = (name, part.as_str());
        }
        match (schema, name) {
            // Beyond doubt.
            (Some("pg_catalog"), _) | (_, None) => {}
            (schema, Some(name)) => {
                self.operators.insert((name, schema.is_some()));
            }
        }
    }

    /// What it all mentions, but for functions.
    pub(super) fn mentions(&self) -> Mentions {
        let operators = |foreign: bool| {
            self.operators.iter().filter(|(_, f)| *f == foreign).map(|(name, _)| (*name).to_owned()).collect()
        };
        Mentions {
            functions: Vec::new(),
            fields: self.fields.iter().map(|name| (*name).to_owned()).collect(),
            operators: operators(false),
            foreign_operators: operators(true),
            types: self.types.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn param(&mut self, param: &nodes::ParamRef, cast: Option<String>) {
        // What is no parameter of a Bind is an error on the server.
        if let Ok(number) = u16::try_from(param.number) {
            self.params.push(ParamUse { number, cast });
        }
    }

    /// The uses of the parameters that occur more than once.
    pub(super) fn repeated_params(&self) -> Vec<ParamUse> {
        let mut numbers: Vec<u16> = self.params.iter().map(|used| used.number).collect();
        numbers.sort_unstable();
        let repeated = |number: u16| {
            let first = numbers.partition_point(|n| *n < number);
            numbers.get(first.saturating_add(1)) == Some(&number)
        };
        self.params.iter().filter(|used| repeated(used.number)).cloned().collect()
    }
}

/// The names of the common table expressions that can be seen from a node, innermost first.
struct Scope<'a> {
    name: &'a str,
    outer: Scopes<'a>,
}

type Scopes<'a> = Option<Rc<Scope<'a>>>;

impl Drop for Scope<'_> {
    /// Frees a long chain without recursion.
    fn drop(&mut self) {
        let mut next = self.outer.take();
        while let Some(scope) = next {
            next = Rc::into_inner(scope).and_then(|mut s| s.outer.take());
        }
    }
}

struct Item<'a> {
    node: Node<'a>,
    scope: Scopes<'a>,
    nested: Option<&'static str>,
}

/// Walks `root` and everything below it.
pub(super) fn walk<'a>(root: Node<'a>, seen: &mut Seen<'a>) {
    let mut stack = vec![Item { node: root, scope: None, nested: None }];
    let mut children = Vec::new();
    while let Some(item) = stack.pop() {
        visit(&item, seen, &mut children);
        // The stack is last in, first out: reversed, the tables come in the order of the text.
        stack.extend(children.drain(..).rev());
    }
}

/// The table behind a range variable.
pub(super) fn table_ref(var: &nodes::RangeVar) -> TableRef {
    TableRef {
        schema: var.schemaname().map(str::to_owned),
        name: var.relname().unwrap_or_default().to_owned(),
        alias: var.alias().and_then(|a| a.aliasname()).map(str::to_owned),
    }
}

fn visit<'a>(item: &Item<'a>, seen: &mut Seen<'a>, out: &mut Vec<Item<'a>>) {
    let nested = item.nested;
    seen.mention(item.node);
    match item.node {
        Node::RangeVar(var) => range_var(var, item, seen),
        Node::SelectStmt(select) => {
            if let Some(locking) = select.locking_clause().first() {
                seen.writes.get_or_insert(lock_name(locking));
            }
            seen.locking.extend(select.locking_clause());
            seen.selects.push(select);
            let set = set_operation(select);
            let scope = with_clause(select.with_clause(), item, out);
            push_children(item.node, &scope, nested.or(set), None, seen, out);
        }
        Node::InsertStmt(stmt) => {
            dml(Dml::Insert, stmt.relation(), nested, seen);
            let scope = with_clause(stmt.with_clause(), item, out);
            push_children(item.node, &scope, nested, stmt.relation(), seen, out);
        }
        Node::UpdateStmt(stmt) => {
            dml(Dml::Update, stmt.relation(), nested, seen);
            let scope = with_clause(stmt.with_clause(), item, out);
            push_children(item.node, &scope, nested, stmt.relation(), seen, out);
        }
        Node::DeleteStmt(stmt) => {
            dml(Dml::Delete, stmt.relation(), nested, seen);
            let scope = with_clause(stmt.with_clause(), item, out);
            push_children(item.node, &scope, nested, stmt.relation(), seen, out);
        }
        Node::MergeStmt(stmt) => {
            dml(Dml::Merge, stmt.relation(), nested, seen);
            let scope = with_clause(stmt.with_clause(), item, out);
            push_children(item.node, &scope, nested, stmt.relation(), seen, out);
        }
        Node::IntoClause(into) => {
            seen.writes.get_or_insert("SELECT INTO");
            seen.into.push(into);
            if let Some(var) = into.rel() {
                seen.tables.push(Found { table: table_ref(var), nested });
            }
        }
        Node::FuncCall(call) => {
            seen.calls.push(call);
            push_children(item.node, &item.scope, nested, None, seen, out);
        }
        Node::ParamRef(param) => seen.param(param, None),
        Node::TypeCast(cast) => match cast.arg() {
            Node::ParamRef(param) => {
                seen.param(param, Some(cast.type_name().and_then(cast_name).unwrap_or_default()));
            }
            _ => push_children(item.node, &item.scope, nested, None, seen, out),
        },
        Node::SubLink(_) | Node::RangeSubselect(_) => {
            push_children(item.node, &item.scope, nested.or(Some("sub-query")), None, seen, out);
        }
        Node::JoinExpr(join) => {
            push_children(item.node, &item.scope, nested.or(join_barrier(join)), None, seen, out);
        }
        Node::CurrentOfExpr(_) => seen.current_of = true,
        // Its names are those of FROM items, not tables.
        Node::LockingClause(_) => {}
        _ => push_children(item.node, &item.scope, nested, None, seen, out),
    }
}

/// Why conditions on a join's tables say less than they seem to.
pub(super) fn join_barrier(join: &nodes::JoinExpr) -> Option<&'static str> {
    if join.jointype != raw::JoinType::JOIN_INNER {
        Some("outer join")
    } else if join.alias().is_some() {
        // `(a JOIN b ON ...) AS j (x, y)` hides and renames their columns.
        Some("join alias")
    } else {
        None
    }
}

/// The set operation of a SELECT that is not a plain one.
pub(super) fn set_operation(select: &nodes::SelectStmt) -> Option<&'static str> {
    match select.op {
        raw::SetOperation::SETOP_NONE => None,
        raw::SetOperation::SETOP_INTERSECT => Some("INTERSECT"),
        raw::SetOperation::SETOP_EXCEPT => Some("EXCEPT"),
        _ => Some("UNION"),
    }
}

fn lock_name(locking: &nodes::LockingClause) -> &'static str {
    match locking.strength {
        raw::LockClauseStrength::LCS_FORKEYSHARE => "FOR KEY SHARE",
        raw::LockClauseStrength::LCS_FORSHARE => "FOR SHARE",
        raw::LockClauseStrength::LCS_FORNOKEYUPDATE => "FOR NO KEY UPDATE",
        _ => "FOR UPDATE",
    }
}

/// The target of a DML statement is always a table, even where a common table expression has its name.
fn dml(what: Dml, target: Option<&nodes::RangeVar>, nested: Option<&'static str>, seen: &mut Seen<'_>) {
    seen.writes.get_or_insert(what.as_str());
    if let Some(var) = target {
        seen.targets.push((what, table_ref(var)));
        seen.tables.push(Found { table: table_ref(var), nested });
    }
}

fn range_var<'a>(var: &'a nodes::RangeVar, item: &Item<'a>, seen: &mut Seen<'a>) {
    if var.schemaname().is_none() && in_scope(&item.scope, var.relname().unwrap_or_default(), seen) {
        return;
    }
    // `t AS x (a, b)` renames the columns: a condition on `a` is not one on t's column `a`.
    let renamed = var.alias().is_some_and(|a| !a.colnames().is_empty());
    let nested = item.nested.or(renamed.then_some("column alias list"));
    seen.tables.push(Found { table: table_ref(var), nested });
}

fn in_scope(scope: &Scopes<'_>, name: &str, seen: &mut Seen<'_>) -> bool {
    let mut next = scope.as_ref();
    while let Some(scope) = next {
        seen.budget_used += 1;
        if seen.budget_used > SCOPE_BUDGET {
            seen.unknown = true;
            return false;
        }
        if scope.name == name {
            return true;
        }
        next = scope.outer.as_ref();
    }
    false
}

/// Queues the queries of a WITH and returns the scope of the statement below it. Without RECURSIVE a query sees only the
/// names before its own. See <https://www.postgresql.org/docs/current/queries-with.html>.
fn with_clause<'a>(with: Option<&'a nodes::WithClause>, item: &Item<'a>, out: &mut Vec<Item<'a>>) -> Scopes<'a> {
    let mut scope = item.scope.clone();
    let Some(with) = with else { return scope };
    let nested = item.nested.or(Some("common table expression"));
    let first = out.len();
    for cte in with.ctes() {
        out.push(Item { node: cte.ctequery(), scope: scope.clone(), nested });
        scope = Some(Rc::new(Scope { name: cte.ctename().unwrap_or_default(), outer: scope }));
    }
    if with.recursive {
        for query in &mut out[first..] {
            query.scope.clone_from(&scope);
        }
    }
    scope
}

/// Queues the children of a node, but for its WITH clause and for `target`, which are dealt with by then.
fn push_children<'a>(
    node: Node<'a>,
    scope: &Scopes<'a>,
    nested: Option<&'static str>,
    target: Option<&nodes::RangeVar>,
    seen: &mut Seen<'a>,
    out: &mut Vec<Item<'a>>,
) {
    match class(node) {
        Class::Leaf => return,
        Class::Inner => {}
        Class::Unknown => {
            seen.unknown = true;
            return;
        }
    }
    walk_manual::<()>(node, |child| {
        let handled = match child {
            Node::WithClause(_) | Node::None => true,
            Node::RangeVar(var) => target.is_some_and(|t| std::ptr::eq(t, var)),
            _ => false,
        };
        if !handled {
            out.push(Item { node: child, scope: scope.clone(), nested });
        }
        Recurse::no()
    });
}

/// Adds the children of a node; false if it is of a kind that PostgreSQL's walker does not know, which ends the process.
pub(super) fn children<'a>(node: Node<'a>, out: &mut Vec<Node<'a>>) -> bool {
    match class(node) {
        Class::Leaf => true,
        Class::Unknown => false,
        Class::Inner => {
            walk_manual::<()>(node, |child| {
                if !matches!(child, Node::None) {
                    out.push(child);
                }
                Recurse::no()
            });
            true
        }
    }
}

enum Class {
    /// Has no children that matter.
    Leaf,
    /// PostgreSQL's walker knows its children.
    Inner,
    Unknown,
}

/// Whether PostgreSQL's walker knows the children of a node, which has some.
pub(super) fn is_walkable(node: Node<'_>) -> bool {
    matches!(class(node), Class::Inner)
}

fn class(node: Node<'_>) -> Class {
    match node {
        Node::NodeList(list) if list.is_empty() => Class::Leaf,
        Node::None
        | Node::A_Const(_)
        | Node::A_Star(_)
        | Node::Alias(_)
        | Node::BitString(_)
        | Node::Boolean(_)
        | Node::ColumnRef(_)
        | Node::CurrentOfExpr(_)
        | Node::Float(_)
        | Node::Integer(_)
        | Node::JsonFormat(_)
        | Node::MergeSupportFunc(_)
        | Node::ParamRef(_)
        | Node::RangeVar(_)
        | Node::ReturningOption(_)
        | Node::SQLValueFunction(_)
        | Node::SetToDefault(_)
        | Node::String(_) => Class::Leaf,
        Node::NodeList(_)
        | Node::A_ArrayExpr(_)
        | Node::A_Expr(_)
        | Node::A_Indices(_)
        | Node::A_Indirection(_)
        | Node::BoolExpr(_)
        | Node::BooleanTest(_)
        | Node::CaseExpr(_)
        | Node::CoalesceExpr(_)
        | Node::CollateClause(_)
        | Node::ColumnDef(_)
        | Node::CommonTableExpr(_)
        | Node::DeleteStmt(_)
        | Node::FuncCall(_)
        | Node::GroupingFunc(_)
        | Node::GroupingSet(_)
        | Node::IndexElem(_)
        | Node::InferClause(_)
        | Node::InsertStmt(_)
        | Node::JoinExpr(_)
        | Node::JsonAggConstructor(_)
        | Node::JsonArgument(_)
        | Node::JsonArrayAgg(_)
        | Node::JsonArrayConstructor(_)
        | Node::JsonArrayQueryConstructor(_)
        | Node::JsonBehavior(_)
        | Node::JsonConstructorExpr(_)
        | Node::JsonFuncExpr(_)
        | Node::JsonIsPredicate(_)
        | Node::JsonKeyValue(_)
        | Node::JsonObjectAgg(_)
        | Node::JsonObjectConstructor(_)
        | Node::JsonOutput(_)
        | Node::JsonParseExpr(_)
        | Node::JsonReturning(_)
        | Node::JsonScalarExpr(_)
        | Node::JsonSerializeExpr(_)
        | Node::JsonTable(_)
        | Node::JsonTableColumn(_)
        | Node::JsonTablePathSpec(_)
        | Node::JsonValueExpr(_)
        | Node::MergeStmt(_)
        | Node::MergeWhenClause(_)
        | Node::MinMaxExpr(_)
        | Node::MultiAssignRef(_)
        | Node::NamedArgExpr(_)
        | Node::NullTest(_)
        | Node::OnConflictClause(_)
        | Node::RangeFunction(_)
        | Node::RangeSubselect(_)
        | Node::RangeTableFunc(_)
        | Node::RangeTableFuncCol(_)
        | Node::RangeTableSample(_)
        | Node::ResTarget(_)
        | Node::ReturningClause(_)
        | Node::RowExpr(_)
        | Node::SelectStmt(_)
        | Node::SortBy(_)
        | Node::SubLink(_)
        | Node::TypeCast(_)
        | Node::TypeName(_)
        | Node::UpdateStmt(_)
        | Node::WindowDef(_)
        | Node::XmlExpr(_)
        | Node::XmlSerialize(_) => Class::Inner,
        _ => Class::Unknown,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn types_are_sorted() {
        assert!(super::TYPES.is_sorted());
    }
}

//! What the shard planner sees of a SELECT, INSERT, UPDATE or DELETE.
//!
//! An equality is only taken from where it must hold for every row that the statement touches: the top-level AND
//! conjuncts of WHERE, and of ON in inner joins.

use pg_raw_parse::{ConstValue, Node, nodes, raw};

use super::facts::{ColumnRef, KeyValue, LiteralKind, ShardShape, TableRef, Verb};
use super::touch::{RowList, Touch};
use super::walk::{Found, Seen, join_barrier, set_operation};

/// The shape of a statement that is neither DML nor SELECT: every table it names.
pub(super) fn other(seen: Seen<'_>, what: &'static str) -> ShardShape {
    ShardShape::Other { tables: tables(seen.tables), what }
}

/// The shape of a SELECT, INSERT, UPDATE, DELETE or MERGE, after the walk over it. What else its conditions say goes to `touch`.
pub(super) fn of_query(node: Node<'_>, seen: Seen<'_>, touch: &mut Touch) -> ShardShape {
    if seen.unknown {
        return other(seen, "a statement with unknown syntax");
    }
    if seen.tables.is_empty() {
        return ShardShape::NoTables;
    }
    if seen.current_of {
        return other(seen, "WHERE CURRENT OF");
    }
    match node {
        Node::SelectStmt(_) if !seen.into.is_empty() => other(seen, "SELECT INTO"),
        Node::SelectStmt(select) => {
            let mut conjuncts = Conjuncts::default();
            if set_operation(select).is_none() {
                conjuncts.add(select.where_clause());
                conjuncts.add_joins(select.from_clause().iter());
                conjuncts.forget_merged(select.from_clause().iter());
            }
            filtered(Verb::Select, seen, conjuncts, Vec::new(), touch)
        }
        Node::UpdateStmt(update) => {
            let mut conjuncts = Conjuncts::default();
            conjuncts.add(update.where_clause());
            conjuncts.add_joins(update.from_clause().iter());
            conjuncts.forget_merged(update.from_clause().iter());
            let assigned = assigned(update.target_list().iter());
            filtered(Verb::Update, seen, conjuncts, assigned, touch)
        }
        Node::DeleteStmt(delete) => {
            let mut conjuncts = Conjuncts::default();
            conjuncts.add(delete.where_clause());
            conjuncts.add_joins(delete.using_clause().iter());
            conjuncts.forget_merged(delete.using_clause().iter());
            filtered(Verb::Delete, seen, conjuncts, Vec::new(), touch)
        }
        Node::InsertStmt(insert) => of_insert(insert, seen),
        Node::MergeStmt(_) => other(seen, "MERGE"),
        _ => other(seen, "this statement"),
    }
}

/// The tables that a SELECT names in FROM, and what its columns must be equal to one of.
pub(super) fn conditions(select: &nodes::SelectStmt) -> (Vec<TableRef>, Vec<(ColumnRef, KeyValue)>) {
    let mut conjuncts = Conjuncts::default();
    conjuncts.add(select.where_clause());
    conjuncts.add_joins(select.from_clause().iter());
    let (mut tables, mut stack) = (Vec::new(), select.from_clause().iter().collect::<Vec<_>>());
    while let Some(node) = stack.pop() {
        match node {
            Node::RangeVar(var) => tables.push(super::walk::table_ref(var)),
            Node::JoinExpr(join) => stack.extend([join.larg(), join.rarg()]),
            _ => {}
        }
    }
    let Conjuncts { mut constants, lists, .. } = conjuncts;
    let listed =
        |(column, values): (ColumnRef, Vec<KeyValue>)| values.into_iter().map(move |value| (column.clone(), value));
    constants.extend(lists.into_iter().flat_map(listed));
    (tables, constants)
}

/// INSERT with rows we can read. `INSERT ... DEFAULT VALUES` has the empty column list and no row: every column takes its
/// default.
fn of_insert(insert: &nodes::InsertStmt, seen: Seen<'_>) -> ShardShape {
    let names: Vec<String> = column_names(insert.cols().iter());
    let on_conflict = insert.on_conflict_clause().map(conflict_assigned).unwrap_or_default();
    if insert.override_ != raw::OverridingKind::OVERRIDING_NOT_SET {
        // The values given may not be the ones that are stored.
        return other(seen, "INSERT ... OVERRIDING");
    }
    let (columns, rows) = match insert.select_stmt() {
        Node::None => (Some(Vec::new()), Vec::new()),
        Node::SelectStmt(select) if is_bare_values(select) => {
            let rows = || select.values_lists().iter().filter_map(|row| row.as_node_list());
            if rows().any(|row| row.iter().any(spreads)) {
                return other(seen, "INSERT ... VALUES with .*");
            }
            let rows = rows().map(|row| row.iter().map(key_value).collect()).collect();
            ((!names.is_empty()).then_some(names), rows)
        }
        _ => return other(seen, "INSERT ... SELECT"),
    };
    ShardShape::Insert { tables: tables(seen.tables), columns, rows, assigned: on_conflict }
}

/// The columns that ON CONFLICT DO UPDATE gives another value than they have: a column of the conflict's target is equal to that of the
/// row that came.
pub(super) fn conflict_assigned(clause: &nodes::OnConflictClause) -> Vec<String> {
    let in_target = |name: &str| {
        clause.infer().is_some_and(|infer| {
            infer.index_elems().iter().any(|elem| matches!(elem, Node::IndexElem(elem) if elem.name() == Some(name)))
        })
    };
    let same = |target: &&nodes::ResTarget| {
        let (Some(name), Some(value)) = (target.name(), column(target.val())) else { return false };
        value.column == name && value.qualifier == ["excluded"] && target.indirection().is_empty() && in_target(name)
    };
    assigned(clause.target_list().iter().filter(|target| !same(target)))
}

/// VALUES whose rows are all inserted: no LIMIT, no OFFSET, no set operation.
fn is_bare_values(select: &nodes::SelectStmt) -> bool {
    !select.values_lists().is_empty()
        && set_operation(select).is_none()
        && matches!((select.limit_count(), select.limit_offset()), (Node::None, Node::None))
}

fn filtered(verb: Verb, seen: Seen<'_>, conjuncts: Conjuncts, assigned: Vec<String>, touch: &mut Touch) -> ShardShape {
    (touch.lists, touch.merged, touch.arrays) = (conjuncts.lists, conjuncts.merged, conjuncts.arrays);
    touch.row_lists = conjuncts.row_lists;
    let nested = seen.tables.iter().find_map(|f| f.nested);
    let top = seen.tables.iter().filter(|f| f.nested.is_none()).map(|f| f.table.clone()).collect();
    let equalities = conjuncts.constants;
    ShardShape::Filtered { verb, tables: tables(seen.tables), top, equalities, assigned, nested }
}

fn tables(found: Vec<Found>) -> Vec<TableRef> {
    found.into_iter().map(|f| f.table).collect()
}

fn assigned<'a>(targets: impl Iterator<Item = &'a nodes::ResTarget>) -> Vec<String> {
    targets.filter_map(|t| t.name().map(str::to_owned)).collect()
}

fn column_names<'a>(targets: impl Iterator<Item = Node<'a>>) -> Vec<String> {
    let names = targets.filter_map(|node| match node {
        Node::ResTarget(target) => target.name().map(str::to_owned),
        _ => None,
    });
    names.collect()
}

/// The equalities that hold for every row.
#[derive(Default)]
struct Conjuncts {
    constants: Vec<(ColumnRef, KeyValue)>,
    /// What IN says.
    lists: Vec<(ColumnRef, Vec<KeyValue>)>,
    /// What IN says of rows.
    row_lists: Vec<RowList>,
    /// Those of columns that may be merged ones.
    merged: Vec<(ColumnRef, KeyValue)>,
    /// A column is compared with the elements of an array that is one value.
    arrays: bool,
}

impl Conjuncts {
    fn add(&mut self, condition: Node<'_>) {
        let mut stack = vec![condition];
        while let Some(node) = stack.pop() {
            match node {
                Node::BoolExpr(b) if b.boolop == raw::BoolExprType::AND_EXPR => {
                    let at = stack.len();
                    stack.extend(b.args());
                    stack[at..].reverse();
                }
                Node::A_Expr(expr) => self.add_comparison(expr),
                _ => {}
            }
        }
    }

    /// The ON conditions of inner joins that are not below anything else.
    fn add_joins<'a>(&mut self, from: impl Iterator<Item = Node<'a>>) {
        let mut stack: Vec<_> = from.collect();
        while let Some(node) = stack.pop() {
            let Node::JoinExpr(join) = node else { continue };
            if join_barrier(join).is_none() {
                self.add(join.quals());
                stack.push(join.rarg());
                stack.push(join.larg());
            }
        }
    }

    /// USING and NATURAL make one column of several, which may be of another type than any table's: where they occur, a column without
    /// a qualifier may be such a one. See <https://www.postgresql.org/docs/current/queries-table-expressions.html#QUERIES-JOIN>.
    fn forget_merged<'a>(&mut self, from: impl Iterator<Item = Node<'a>>) {
        let mut stack: Vec<_> = from.collect();
        while let Some(node) = stack.pop() {
            let Node::JoinExpr(join) = node else { continue };
            if join.is_natural || !join.using_clause().is_empty() {
                let constants = std::mem::take(&mut self.constants);
                let (merged, constants) = constants.into_iter().partition(|(column, _)| column.qualifier.is_empty());
                (self.merged, self.constants) = (merged, constants);
                for (column, values) in &self.lists {
                    let values = values.iter().filter(|_| column.qualifier.is_empty());
                    self.merged.extend(values.map(|value| (column.clone(), value.clone())));
                }
                for column in self.row_lists.iter_mut().flat_map(|list| &mut list.columns) {
                    if column.as_ref().is_some_and(|column| column.qualifier.is_empty()) {
                        *column = None;
                    }
                }
                return self.lists.retain(|(column, _)| !column.qualifier.is_empty());
            }
            stack.extend([join.larg(), join.rarg()]);
        }
    }

    fn add_comparison(&mut self, expr: &nodes::A_Expr) {
        self.row_lists.extend(row_list(expr));
        for (left, equals) in equalities(expr) {
            match equals {
                Equals::One(right) => match (column(left), column(right)) {
                    (Some(a), None) => self.constants.push((a, key_value(right))),
                    (None, Some(b)) => self.constants.push((b, key_value(left))),
                    // Two columns: a constant is not handed on from one to the other, because equality is not transitive across types
                    // and collations.
                    (Some(_), Some(_)) | (None, None) => {}
                },
                Equals::OneOf(values) => {
                    let values = || values.iter().map(|value| key_value(*value)).collect();
                    self.lists.extend(column(left).map(|column| (column, values())));
                }
                Equals::Element(_) => self.arrays = true,
            }
        }
    }
}

/// What an expression is equal to.
pub(super) enum Equals<'a> {
    /// This.
    One(Node<'a>),
    /// One of these, by IN or as an element of `ARRAY[...]`.
    OneOf(Vec<Node<'a>>),
    /// An element of this array.
    Element(Node<'a>),
}

/// What must be equal where a comparison is true. That of rows is the comparison of their columns, one by one
/// (<https://www.postgresql.org/docs/current/functions-comparisons.html#ROW-WISE-COMPARISON>); BETWEEN a constant and the same is one
/// with it.
pub(super) fn equalities(expr: &nodes::A_Expr) -> Vec<(Node<'_>, Equals<'_>)> {
    let (left, right) = (expr.lexpr(), expr.rexpr());
    if expr.kind == raw::A_Expr_Kind::AEXPR_BETWEEN {
        let bounds: Vec<_> = right.as_node_list().into_iter().flat_map(|list| list.iter()).collect();
        return match bounds.as_slice() {
            [low, high] if is_same_literal(*low, *high) => vec![(left, Equals::One(*low))],
            _ => Vec::new(),
        };
    }
    if !is_operator(expr, "=") {
        return Vec::new();
    }
    match expr.kind {
        raw::A_Expr_Kind::AEXPR_OP => match (row(left), row(right)) {
            (Some(left), Some(right)) if left.len() == right.len() => {
                left.into_iter().zip(right.into_iter().map(Equals::One)).collect()
            }
            (None, None) => vec![(left, Equals::One(right))],
            _ => Vec::new(),
        },
        raw::A_Expr_Kind::AEXPR_IN => {
            let Some(list) = right.as_node_list() else { return Vec::new() };
            let values: Vec<_> = list.iter().collect();
            match row(left) {
                None => vec![(left, one_of(values))],
                Some(left) => {
                    let rows: Option<Vec<_>> =
                        values.into_iter().map(|value| row(value).filter(|row| row.len() == left.len())).collect();
                    let Some(rows) = rows else { return Vec::new() };
                    let nth = |at: usize| one_of(rows.iter().filter_map(|row| row.get(at).copied()).collect());
                    left.into_iter().enumerate().map(|(at, left)| (left, nth(at))).collect()
                }
            }
        }
        raw::A_Expr_Kind::AEXPR_OP_ANY => vec![match right {
            Node::A_ArrayExpr(array) if column(left).is_some() => {
                (left, Equals::OneOf(array.elements().iter().collect()))
            }
            array => (left, Equals::Element(array)),
        }],
        _ => Vec::new(),
    }
}

/// What an IN of rows says of its columns together, where there are several rows.
pub(super) fn row_list(expr: &nodes::A_Expr) -> Option<RowList> {
    if expr.kind != raw::A_Expr_Kind::AEXPR_IN || !is_operator(expr, "=") {
        return None;
    }
    let left = row(expr.lexpr())?;
    let values = expr.rexpr().as_node_list().filter(|list| list.len() > 1)?;
    let rows: Option<Vec<_>> = values.iter().map(|value| row(value).filter(|row| row.len() == left.len())).collect();
    let rows = rows?.into_iter().map(|row| row.into_iter().map(key_value).collect()).collect();
    Some(RowList { columns: left.into_iter().map(column).collect(), rows })
}

fn one_of(values: Vec<Node<'_>>) -> Equals<'_> {
    match values.as_slice() {
        [value] => Equals::One(*value),
        _ => Equals::OneOf(values),
    }
}

/// The columns of a row that is written as one; none where they are not all written.
fn row(node: Node<'_>) -> Option<Vec<Node<'_>>> {
    let Node::RowExpr(row) = node else { return None };
    let columns: Vec<_> = row.args().iter().collect();
    (!columns.iter().any(|column| spreads(*column))).then_some(columns)
}

fn is_same_literal(a: Node<'_>, b: Node<'_>) -> bool {
    let a = key_value(a);
    matches!(a, KeyValue::Literal { .. }) && a == key_value(b)
}

/// Whether the expression's operator is `name`, without a schema or with that of PostgreSQL's own.
pub(super) fn is_operator(expr: &nodes::A_Expr, name: &str) -> bool {
    let mut parts = expr.name().iter();
    match (parts.next().and_then(Node::as_str), parts.next().and_then(Node::as_str), parts.next()) {
        (Some(op), None, None) => op == name,
        (Some("pg_catalog"), Some(op), None) => op == name,
        _ => false,
    }
}

pub(super) fn column(node: Node<'_>) -> Option<ColumnRef> {
    let Node::ColumnRef(reference) = node else { return None };
    let mut qualifier = Vec::new();
    for field in reference.fields() {
        qualifier.push(field.as_str()?.to_owned());
    }
    let column = qualifier.pop()?;
    Some(ColumnRef { qualifier, column })
}

/// Whether an element of a list stands for several columns: `x.*`, `(x).*`. Where one does, the places of those behind it are not known.
pub(super) fn spreads(node: Node<'_>) -> bool {
    let is_star = |node: Node<'_>| matches!(node, Node::A_Star(_));
    match node {
        Node::ColumnRef(reference) => reference.fields().iter().any(is_star),
        Node::A_Indirection(indirection) => indirection.indirection().iter().any(is_star),
        _ => false,
    }
}

/// The value of an expression, where it is a constant, perhaps under one cast.
pub(super) fn key_value(node: Node<'_>) -> KeyValue {
    match node {
        Node::TypeCast(cast) => match cast.type_name().and_then(cast_name) {
            Some(name) => with_cast(uncast_value(cast.arg()), name),
            None => KeyValue::Expression,
        },
        // The minus of `-42::bigint` binds looser than the cast.
        Node::A_Expr(expr) if expr.kind == raw::A_Expr_Kind::AEXPR_OP && matches!(expr.lexpr(), Node::None) => {
            let inner = match expr.rexpr() {
                Node::TypeCast(cast) => match cast.type_name().and_then(cast_name) {
                    Some(name) => with_cast(uncast_value(cast.arg()), name),
                    None => KeyValue::Expression,
                },
                inner => uncast_value(inner),
            };
            if is_operator(expr, "-") {
                negate(inner)
            } else if is_operator(expr, "+") && is_integer(&inner) {
                inner
            } else {
                KeyValue::Expression
            }
        }
        _ => uncast_value(node),
    }
}

/// What a column is compared with by `= ANY (...)`: an array as a text or a parameter. A cast is that of its elements.
pub(super) fn array_value(node: Node<'_>) -> KeyValue {
    let Node::TypeCast(cast) = node else { return key_value(node) };
    let name = cast.type_name().filter(|name| name.array_bounds().len() == 1).and_then(element_name);
    match name {
        Some(name) => with_cast(uncast_value(cast.arg()), name),
        None => KeyValue::Expression,
    }
}

fn is_integer(value: &KeyValue) -> bool {
    matches!(value, KeyValue::Literal { kind: LiteralKind::Integer, .. })
}

fn negate(value: KeyValue) -> KeyValue {
    match value {
        KeyValue::Literal { kind: LiteralKind::Integer, text, cast } => {
            let text = match text.strip_prefix('-') {
                Some(positive) => positive.to_owned(),
                None if text == "0" => text,
                None => format!("-{text}"),
            };
            KeyValue::Literal { kind: LiteralKind::Integer, text, cast }
        }
        _ => KeyValue::Expression,
    }
}

fn with_cast(value: KeyValue, name: String) -> KeyValue {
    match value {
        KeyValue::Literal { kind, text, cast: _ } => KeyValue::Literal { kind, text, cast: Some(name) },
        KeyValue::Param { number, cast: _ } => KeyValue::Param { number, cast: Some(name) },
        // A NULL of some type may give that type to what it stands among.
        KeyValue::Null | KeyValue::Default | KeyValue::Expression => KeyValue::Expression,
    }
}

fn uncast_value(node: Node<'_>) -> KeyValue {
    match node {
        Node::A_Const(constant) => constant.val().map_or(KeyValue::Null, literal),
        Node::ParamRef(param) => match u16::try_from(param.number) {
            Ok(number) if number > 0 => KeyValue::Param { number, cast: None },
            _ => KeyValue::Expression,
        },
        Node::SetToDefault(_) => KeyValue::Default,
        _ => KeyValue::Expression,
    }
}

fn literal(value: ConstValue<'_>) -> KeyValue {
    let (kind, text) = match value {
        ConstValue::Integer(i) => (LiteralKind::Integer, i.to_string()),
        ConstValue::Float(text) => {
            let digits = text.strip_prefix('-').unwrap_or(text);
            // Beyond int4 an integer comes as a "float" of digits; so do 0x... and 1_000_000_000_000, which older servers
            // read differently.
            if digits.bytes().all(|c| c.is_ascii_digit()) {
                (LiteralKind::Integer, text.to_owned())
            } else if digits.contains(['x', 'X', 'o', 'O', 'b', 'B', '_']) {
                return KeyValue::Expression;
            } else {
                (LiteralKind::Float, text.to_owned())
            }
        }
        ConstValue::String(text) => (LiteralKind::String, text.to_owned()),
        ConstValue::Boolean(value) => (LiteralKind::Other, value.to_string()),
        ConstValue::BitString(text) => (LiteralKind::Other, text.to_owned()),
        _ => return KeyValue::Expression,
    };
    KeyValue::Literal { kind, text, cast: None }
}

/// The name of a built-in type without a modifier, as the grammar has folded it: a quoted `"VARCHAR"` is somebody's own. A cast to `varchar(3)` cuts its value, one to an array or to somebody's
/// own type does who knows what: they have no name here, and the value under them is an expression.
pub(super) fn cast_name(name: &nodes::TypeName) -> Option<String> {
    if name.array_bounds().is_empty() { element_name(name) } else { None }
}

/// The name of a type, whether an array of it is meant or not.
fn element_name(name: &nodes::TypeName) -> Option<String> {
    if name.setof || name.pct_type || !name.typmods().is_empty() {
        return None;
    }
    let mut parts = name.names().iter().filter_map(|part| part.sval());
    match (parts.next(), parts.next(), parts.next()) {
        // The grammar makes int8 of bigint: by the word itself only a type can be meant that was quoted, somebody's own.
        (Some("smallint" | "integer" | "int" | "bigint" | "character varying"), None, None) => None,
        (Some(last), None, None) | (Some("pg_catalog"), Some(last), None) => Some(last.to_owned()),
        _ => None,
    }
}

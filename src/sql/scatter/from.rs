//! FROM: whether the rows that a statement joins lie on one shard together.
//!
//! A row of the result is made of one row (or, by an outer join, none) of each table. Each shard can make its part of the result by
//! itself if all rows of sharded tables in one row of the result lie on the same shard: their keys are tied by equality. A
//! reference table may stand anywhere but where its own rows would be shown unmatched, for every shard would show them.

use pg_raw_parse::{Node, nodes, raw};

use super::{Place, Unfit, Values};
use crate::sql::facts::{ColumnRef, TableRef};
use crate::sql::shape::{Equals, array_value, column, equalities, key_value, row_list};
use crate::sql::touch::RowList;
use crate::sql::walk::{set_operation, table_ref};

/// Tables in one statement.
const MAX_TABLES: usize = 32;
/// Joins within joins, and conditions within conditions.
const MAX_DEPTH: usize = 64;

/// The tables of a FROM clause.
#[derive(Debug, Default)]
pub(super) struct From {
    tables: Vec<Joined>,
    /// Keys are tied that are not of one family.
    unlike: bool,
    /// Numbers that groups have been given.
    numbered: usize,
}

#[derive(Debug)]
struct Joined {
    table: TableRef,
    place: Place,
    /// Its columns may be NULL because nothing matched.
    nullable: bool,
    /// Of each column of its key, what is equal to it has the same number; at the start nothing has.
    groups: Vec<usize>,
    /// The columns by which joins above it have made one of several.
    merged: Vec<String>,
    /// A NATURAL JOIN above it has done so with columns that are not known.
    natural: bool,
}

/// A column of a key: the number of its table, and its place in the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct KeyPart {
    table: usize,
    place: usize,
}

/// The tables of one part of the tree of joins, which follow one another.
#[derive(Debug, Clone, Copy)]
struct Part {
    first: usize,
    end: usize,
    /// There is an outer join in it.
    outer: bool,
}

fn joins(why: &str) -> Unfit {
    Unfit::new("join", why).hint(
        "Join sharded tables by their sharding keys, list small tables as reference tables, or choose one shard with SET pgweir.shard = 'name'.",
    )
}

/// Reads the FROM clause of a SELECT.
///
/// # Errors
/// The rows that are joined may lie on different shards.
pub(super) fn read(select: &nodes::SelectStmt, place: &dyn Fn(&TableRef) -> Place) -> Result<From, Unfit> {
    if let Some(set) = set_operation(select) {
        return Err(Unfit::new("set_operation", format!("with {set}"))
            .hint("Send one statement for each part, and bring the answers together in the application."));
    }
    if select.with_clause().is_some() {
        return Err(Unfit::new("with", "with WITH").hint("Write it as one plain SELECT."));
    }
    if !select.values_lists().is_empty() || select.into_clause().is_some() || !select.locking_clause().is_empty() {
        return Err(Unfit::new("statement", "that is not a plain SELECT"));
    }
    let mut from = From::default();
    let mut outer = false;
    for item in select.from_clause() {
        outer |= from.join(item, place, 0)?.outer;
    }
    for (a, b) in ties(select.where_clause()) {
        from.tie(&a, &b);
    }
    let whole = Part { first: 0, end: from.tables.len(), outer };
    if from.sharded() == 0 {
        return Err(Unfit::new("join", "without a sharded table at its top level"));
    }
    if !from.is_together(whole) {
        let why = if from.unlike {
            "that joins sharded tables by keys that are hashed differently, by their type or by a tag: equal ones lie on different shards"
        } else {
            "that joins sharded tables by something else than their sharding keys"
        };
        return Err(joins(why));
    }
    Ok(from)
}

impl From {
    /// What is known by these names, and has no key.
    pub(super) fn named(names: Vec<String>) -> Self {
        let joined = |name| Joined {
            table: TableRef { schema: None, name, alias: None },
            place: Place::Reference,
            nullable: false,
            groups: Vec::new(),
            merged: Vec::new(),
            natural: false,
        };
        Self { tables: names.into_iter().map(joined).collect(), ..Self::default() }
    }

    /// How many tables there are.
    pub(super) fn len(&self) -> usize {
        self.tables.len()
    }

    /// How many tables are sharded.
    pub(super) fn sharded(&self) -> usize {
        self.sharded_in(Part { first: 0, end: self.tables.len(), outer: false })
    }

    /// Whether there is only one table.
    pub(super) fn is_single(&self) -> bool {
        self.tables.len() == 1
    }

    /// Whether rows with different values of some expressions, NULL among them, may lie on one shard, but rows with the same values never
    /// on several: they have a sharding key among them, all of its columns.
    pub(super) fn has_key<'n>(&self, nodes: impl Iterator<Item = Node<'n>>) -> bool {
        let found: Vec<KeyPart> = nodes.filter_map(|node| self.keyed(&column(node)?)).collect();
        self.tables.iter().enumerate().any(|(at, table)| {
            let is_among = |place: usize| found.iter().any(|part| part.table == at && part.place == place);
            !table.nullable && table.width() > 0 && (0..table.width()).all(is_among)
        })
    }

    /// Whether an expression is a column of a sharding key.
    pub(super) fn is_of_key(&self, node: Node<'_>) -> bool {
        let Some(part) = column(node).and_then(|c| self.keyed(&c)) else { return false };
        self.tables.get(part.table).is_some_and(|t| !t.nullable)
    }

    /// What the columns must be equal to.
    pub(super) fn lists(&self, select: &nodes::SelectStmt) -> Vec<(ColumnRef, Values)> {
        let mut lists = Vec::new();
        conditions(select, &mut |node| lists.extend(self::lists(node)));
        lists
    }

    /// The rows that several columns together must be equal to one of. A name without a qualifier may be another column where there are
    /// several tables, which is found out as it is of lists.
    pub(super) fn row_lists(&self, select: &nodes::SelectStmt) -> Vec<RowList> {
        let mut lists = Vec::new();
        conditions(select, &mut |node| {
            if let Node::A_Expr(expr) = node {
                lists.extend(row_list(expr));
            }
        });
        lists
    }

    /// Whether a bare name is that of a table, and so may be its whole row.
    pub(super) fn is_row(&self, name: &str) -> bool {
        self.tables.iter().any(|Joined { table, .. }| table.alias.as_ref().unwrap_or(&table.name) == name)
    }

    fn sharded_in(&self, part: Part) -> usize {
        let tables = self.tables.get(part.first..part.end).unwrap_or_default();
        tables.iter().filter(|t| matches!(t.place, Place::Sharded { .. })).count()
    }

    /// Whether the keys of all sharded tables in a part are tied to each other.
    fn is_together(&self, part: Part) -> bool {
        let tables = self.tables.get(part.first..part.end).unwrap_or_default();
        let mut groups = tables.iter().filter(|t| matches!(t.place, Place::Sharded { .. })).map(|t| &t.groups);
        let first = groups.next();
        groups.all(|group| Some(group) == first)
    }

    fn join(&mut self, node: Node<'_>, place: &dyn Fn(&TableRef) -> Place, depth: usize) -> Result<Part, Unfit> {
        if depth > MAX_DEPTH || self.tables.len() >= MAX_TABLES {
            return Err(joins("that joins very many tables"));
        }
        let join = match node {
            Node::RangeVar(var) => return self.table(var, place),
            Node::JoinExpr(join) => join,
            Node::RangeSubselect(_) => {
                return Err(Unfit::new("sub_query", "with a sub-query in FROM").hint(
                    "Put the condition on the sharding key inside the sub-query (a condition on what it gives says nothing of the table), or write it as one plain SELECT.",
                ));
            }
            Node::RangeTableSample(_) => {
                return Err(Unfit::new("tablesample", "with TABLESAMPLE, which each shard would draw by itself"));
            }
            Node::RangeFunction(_) => return Err(Unfit::new("from_function", "with a function in FROM")),
            _ => return Err(Unfit::new("from", "with something in FROM that is not understood")),
        };
        if join.alias().is_some() || join.join_using_alias().is_some() {
            return Err(joins("with an alias of a join"));
        }
        let left = self.join(join.larg(), place, depth + 1)?;
        let right = self.join(join.rarg(), place, depth + 1)?;
        let inner = join.jointype == raw::JoinType::JOIN_INNER;
        let both = Part { first: left.first, end: right.end, outer: left.outer || right.outer || !inner };
        if !inner {
            self.shown_alone_lie_together(join.jointype, left, right)?;
        }
        for (a, b) in ties(join.quals()) {
            // What an outer join's ON says of one side alone is no condition on that side's rows: they are shown without it too.
            if inner || self.cross(&a, &b, left, right) {
                self.tie(&a, &b);
            }
        }
        for name in join.using_clause().iter().filter_map(nodes::String::sval) {
            if !left.outer && !right.outer {
                self.tie_by_name(left, right, name);
            }
            self.merge(both, name);
        }
        if join.is_natural {
            self.join_naturally(left, right);
        }
        if inner {
            return Ok(both);
        }
        let (left_sharded, right_sharded) = (self.sharded_in(left) > 0, self.sharded_in(right) > 0);
        let shown_alone = match join.jointype {
            raw::JoinType::JOIN_LEFT => !left_sharded && right_sharded,
            raw::JoinType::JOIN_RIGHT => left_sharded && !right_sharded,
            raw::JoinType::JOIN_FULL => left_sharded != right_sharded,
            _ => return Err(joins("with a join that is not understood")),
        };
        if shown_alone {
            return Err(joins("that shows rows of a reference table beside which no row of a sharded table stands"));
        }
        if !self.is_together(both) {
            return Err(joins("with an outer join of sharded tables by something else than their sharding keys"));
        }
        let (left_null, right_null) = match join.jointype {
            raw::JoinType::JOIN_LEFT => (false, true),
            raw::JoinType::JOIN_RIGHT => (true, false),
            _ => (true, true),
        };
        for (part, null) in [(left, left_null), (right, right_null)] {
            for table in self.tables.get_mut(part.first..part.end).unwrap_or_default() {
                table.nullable |= null;
            }
        }
        Ok(both)
    }

    /// The rows of a side that an outer join shows whether ON holds or not must lie together without it.
    fn shown_alone_lie_together(&self, kind: raw::JoinType::Type, left: Part, right: Part) -> Result<(), Unfit> {
        let sides: &[Part] = match kind {
            raw::JoinType::JOIN_LEFT => &[left],
            raw::JoinType::JOIN_RIGHT => &[right],
            _ => &[left, right],
        };
        if sides.iter().all(|side| self.is_together(*side)) {
            return Ok(());
        }
        Err(joins("with an outer join that shows rows of sharded tables which are not joined by their sharding keys"))
    }

    /// Whether one column is of a table on the left, and the other of one on the right.
    fn cross(&self, a: &ColumnRef, b: &ColumnRef, left: Part, right: Part) -> bool {
        let (Some(a), Some(b)) = (self.keyed(a), self.keyed(b)) else { return false };
        let is_in = |part: Part, at: KeyPart| (part.first..part.end).contains(&at.table);
        (is_in(left, a) && is_in(right, b)) || (is_in(left, b) && is_in(right, a))
    }

    fn table(&mut self, var: &nodes::RangeVar, place: &dyn Fn(&TableRef) -> Place) -> Result<Part, Unfit> {
        if var.alias().is_some_and(|a| !a.colnames().is_empty()) {
            return Err(joins("with other names for the columns of a table"));
        }
        let table = table_ref(var);
        let place = place(&table);
        if place == Place::Elsewhere {
            return Err(joins("with a table that lives on one shard only"));
        }
        let first = self.tables.len();
        let columns = if let Place::Sharded { key } = &place { key.len() } else { 0 };
        let groups = (self.numbered..).take(columns).collect();
        self.numbered += columns;
        self.tables.push(Joined { table, place, nullable: false, groups, merged: Vec::new(), natural: false });
        Ok(Part { first, end: first + 1, outer: false })
    }

    /// The sharded table of whose key a column is.
    fn keyed(&self, column: &ColumnRef) -> Option<KeyPart> {
        let mut spoken_of = (0..self.tables.len()).filter(|at| self.speaks_of(&column.qualifier, *at));
        let at = spoken_of.next()?;
        if spoken_of.next().is_some() {
            return None;
        }
        self.tables.get(at)?.part(at, &column.column)
    }

    /// Whether a column so qualified is one of the table.
    fn speaks_of(&self, qualifier: &[String], at: usize) -> bool {
        let Some(Joined { table, .. }) = self.tables.get(at) else { return false };
        match qualifier {
            [] => self.is_single(),
            [name] => table.alias.as_ref().unwrap_or(&table.name) == name,
            [schema, name] => table.alias.is_none() && table.name == *name && table.schema.as_ref() == Some(schema),
            _ => false,
        }
    }

    /// Two columns are equal in every row.
    fn tie(&mut self, a: &ColumnRef, b: &ColumnRef) {
        if let (Some(a), Some(b)) = (self.keyed(a), self.keyed(b)) {
            self.bring_together(a, b);
        }
    }

    fn tie_by_name(&mut self, left: Part, right: Part, name: &str) {
        let is_key = |table: &Joined| table.part(0, name).is_some();
        let keyed = |part: Part| -> Option<KeyPart> {
            let tables = self.tables.get(part.first..part.end)?;
            // The column may be that of any table which takes part, of another type, by which different keys are equal.
            let takes_part = |table: &Joined| table.natural || table.merged.iter().any(|merged| merged == name);
            if tables.iter().any(|table| takes_part(table) && !is_key(table)) {
                return None;
            }
            (part.first..part.end).find_map(|at| self.tables.get(at)?.part(at, name))
        };
        if let (Some(a), Some(b)) = (keyed(left), keyed(right)) {
            self.bring_together(a, b);
        }
    }

    /// NATURAL: by the columns that both sides have, which are not written. Two sharded tables have their keys among them if these have one
    /// name; what others have in common is not known.
    fn join_naturally(&mut self, left: Part, right: Part) {
        let key = |part: Part| match self.tables.get(part.first..part.end).unwrap_or_default() {
            [Joined { place: Place::Sharded { key }, .. }] => Some(key.clone()),
            _ => None,
        };
        if let (Some(a), Some(b)) = (key(left), key(right)) {
            for (place, (name, _)) in a.iter().enumerate() {
                if let Some(other) = b.iter().position(|(other, _)| other == name) {
                    let part = |table, place| KeyPart { table, place };
                    self.bring_together(part(left.first, place), part(right.first, other));
                }
            }
        }
        for table in self.tables.get_mut(left.first..right.end).unwrap_or_default() {
            table.natural = true;
        }
    }

    /// The tables of a part, as far as they have such a column, have it in common.
    fn merge(&mut self, part: Part, name: &str) {
        for table in self.tables.get_mut(part.first..part.end).unwrap_or_default() {
            table.merged.push(name.to_owned());
        }
    }

    /// Two columns of keys are equal.
    fn bring_together(&mut self, a: KeyPart, b: KeyPart) {
        let of = |part: KeyPart| {
            let table = self.tables.get(part.table)?;
            let Place::Sharded { key } = &table.place else { return None };
            Some((*table.groups.get(part.place)?, key.get(part.place)?.1))
        };
        let (Some((a, x)), Some((b, y))) = (of(a), of(b)) else { return };
        if x == y {
            let groups = self.tables.iter_mut().flat_map(|table| &mut table.groups);
            groups.filter(|group| **group == b).for_each(|group| *group = a);
        } else {
            self.unlike = true;
        }
    }
}

impl Joined {
    /// How many columns its key has; 0 without one.
    fn width(&self) -> usize {
        self.groups.len()
    }

    /// The column of its key of that name; `at`: the number of the table.
    fn part(&self, at: usize, name: &str) -> Option<KeyPart> {
        let Place::Sharded { key } = &self.place else { return None };
        key.iter().position(|(column, _)| column == name).map(|place| KeyPart { table: at, place })
    }
}

/// Calls `each` for every term that must hold for a row of the result: of WHERE, and of ON of inner joins that are not below others.
fn conditions<'a>(select: &'a nodes::SelectStmt, each: &mut dyn FnMut(Node<'a>)) {
    conjuncts(select.where_clause(), each);
    let mut stack: Vec<Node<'_>> = select.from_clause().iter().collect();
    while let Some(node) = stack.pop() {
        if let Node::JoinExpr(join) = node
            && join.jointype == raw::JoinType::JOIN_INNER
        {
            conjuncts(join.quals(), each);
            stack.push(join.larg());
            stack.push(join.rarg());
        }
    }
}

/// Calls `each` for every term of a conjunction.
fn conjuncts<'a>(condition: Node<'a>, each: &mut dyn FnMut(Node<'a>)) {
    let mut stack = vec![condition];
    while let Some(node) = stack.pop() {
        match node {
            Node::BoolExpr(b) if b.boolop == raw::BoolExprType::AND_EXPR => stack.extend(b.args()),
            Node::None => {}
            node => each(node),
        }
    }
}

/// The pairs of columns that a condition says are equal.
fn ties(condition: Node<'_>) -> Vec<(ColumnRef, ColumnRef)> {
    let mut ties = Vec::new();
    conjuncts(condition, &mut |node| {
        let Node::A_Expr(expr) = node else { return };
        for (left, equals) in equalities(expr) {
            if let Equals::One(right) = equals
                && let (Some(a), Some(b)) = (column(left), column(right))
            {
                ties.push((a, b));
            }
        }
    });
    ties
}

/// The values that a condition says columns are equal to one of.
fn lists(node: Node<'_>) -> Vec<(ColumnRef, Values)> {
    let Node::A_Expr(expr) = node else { return Vec::new() };
    let of = |(left, equals): (Node<'_>, Equals<'_>)| match equals {
        Equals::One(right) => match (column(left), column(right)) {
            (Some(column), None) => Some((column, Values::Each(vec![key_value(right)]))),
            (None, Some(column)) => Some((column, Values::Each(vec![key_value(left)]))),
            _ => None,
        },
        Equals::OneOf(values) => Some((column(left)?, Values::Each(values.into_iter().map(key_value).collect()))),
        Equals::Element(array) => Some((column(left)?, Values::Array(array_value(array)))),
    };
    equalities(expr).into_iter().filter_map(of).collect()
}

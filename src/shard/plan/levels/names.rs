//! What names mean in the queries of a statement.
//!
//! A name is only believed to be a key where PostgreSQL cannot take it for anything else: where a table surely has the column and another
//! item only may have it, PostgreSQL refuses the name as ambiguous or means that table; where none surely has it and one may, nothing is
//! known, and no query further out is looked at. Which columns a table has beside its key, the checks of the shards have found.

use std::cell::Cell;

use super::super::PlanContext;
use super::super::relations::{self, Home};
use crate::shard::map::{DEFAULT_SCHEMA, KeyType};
use crate::shard::table_key::TableKey;
use crate::sql::facts::{ColumnRef, KeyValue};
use crate::sql::levels::{Body, Condition, Item, Items, Level, Levels, Operand, Output, Shows, Source, Using, Value};

/// How many steps the look-ups of one statement may take; only made-up statements come near.
const MAX_STEPS: u32 = 100_000;
/// Queries that take a column from one another.
const MAX_DEPTH: usize = 32;

/// Columns that every table has: <https://www.postgresql.org/docs/current/ddl-system-columns.html>.
const SYSTEM_COLUMNS: [&str; 6] = ["cmax", "cmin", "ctid", "tableoid", "xmax", "xmin"];

/// An item, by its level and its number there.
pub(super) type At = (usize, usize);

/// A column of the key of an item, by its place there.
pub(super) type KeyPart = (At, usize);

/// Where a value comes from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Leaf<'a> {
    /// The column of the key of this table, by its place there.
    Key(KeyPart),
    /// A constant.
    Value(&'a KeyValue),
}

/// Where the values of a column come from: one of these places for each row.
#[derive(Debug, Default)]
pub(super) struct Leaves<'a> {
    pub(super) leaves: Vec<Leaf<'a>>,
    /// An outer join may show NULL for it.
    pub(super) nullable: bool,
}

/// Whether an item has a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Has {
    Yes,
    No,
    Maybe,
}

/// Where a query has a column.
enum Found {
    /// Its place among the columns; none if that cannot be counted.
    Place(Option<usize>),
    /// By a `*`: as this item has it.
    Through(At),
    No,
    Maybe,
}

/// The names of a statement.
pub(super) struct Names<'a> {
    pub(super) levels: &'a Levels,
    cx: &'a PlanContext<'a>,
    steps: Cell<u32>,
}

impl<'a> Names<'a> {
    pub(super) fn new(levels: &'a Levels, cx: &'a PlanContext<'a>) -> Self {
        Self { levels, cx, steps: Cell::new(0) }
    }

    pub(super) fn item(&self, (level, item): At) -> Option<&'a Item> {
        self.levels.levels.get(level)?.items.get(item)
    }

    /// The key of a table, if an item is a sharded table whose columns go by their names.
    pub(super) fn key(&self, at: At) -> Option<&'a TableKey> {
        let item = self.item(at)?;
        let Source::Table(table) = &item.source else { return None };
        match relations::home(table, self.cx.map) {
            Home::Sharded { key } if item.renamed.is_empty() => Some(key),
            Home::Sharded { .. } | Home::Reference | Home::Unlisted => None,
        }
    }

    /// Which column of the key of this item a column is.
    pub(super) fn key_part(&self, at: At, name: &str) -> Option<KeyPart> {
        self.key(at)?.place(name).map(|place| (at, place))
    }

    /// The type of a column of a key.
    pub(super) fn part_type(&self, (at, place): KeyPart) -> Option<KeyType> {
        self.key(at)?.columns().get(place).map(|column| column.key_type)
    }

    /// The items that a column may be of: several, which are all sharded tables with that column in their key, where joins have made one of
    /// theirs. None: it is not known.
    pub(super) fn resolve(&self, level: usize, sees: &Items, column: &ColumnRef) -> Option<Vec<At>> {
        let (mut number, mut sees, mut written) = (level, sees, false);
        loop {
            self.step()?;
            let level = self.levels.levels.get(number)?;
            let found = if column.qualifier.is_empty() {
                self.bare(number, level, sees, &column.column)
            } else {
                qualified(number, level, sees, &column.qualifier)
            };
            match found {
                Named::Here(items) => {
                    let changed = written && items.iter().any(|at| self.is_changed(*at, &column.column));
                    return (!changed).then_some(items);
                }
                Named::Unknown => return None,
                Named::Further => {
                    let outer = level.outer.as_ref()?;
                    (number, sees, written) = (outer.level, &outer.sees, outer.written);
                }
            }
        }
    }

    /// Whether RETURNING shows another value of a column than the item's rows had: the level writes it.
    fn is_changed(&self, (level, item): At, name: &str) -> bool {
        item == 0 && self.levels.levels.get(level).is_none_or(|level| level.changes(name))
    }

    /// The items of a level among `sees` that a bare name means there; none if that is not known.
    pub(super) fn resolve_within(&self, level: usize, sees: &Items, name: &str) -> Option<Vec<At>> {
        match self.bare(level, self.levels.levels.get(level)?, sees, name) {
            Named::Here(items) => Some(items),
            Named::Further | Named::Unknown => None,
        }
    }

    fn bare(&self, number: usize, level: &Level, sees: &Items, name: &str) -> Named {
        let (mut surely, mut perhaps) = (Vec::new(), false);
        for item in sees.clone() {
            match self.has((number, item), name, 0) {
                Has::Yes => surely.push((number, item)),
                Has::Maybe => perhaps = true,
                Has::No => {}
            }
        }
        let joined = |u: &&Using| u.name == name && sees.start <= u.left.start && u.right.end <= sees.end;
        let merged: Vec<_> = level.merged.iter().filter(joined).collect();
        if merged.is_empty() {
            return match (surely.len(), perhaps) {
                (1, _) => Named::Here(surely),
                (0, false) => Named::Further,
                _ => Named::Unknown,
            };
        }
        // One column of several, whose type may be that of any.
        let of_one_family = || {
            let mut types = surely.iter().map(|at| self.family(*at, name));
            let first = types.next().flatten();
            first.is_some_and(|first| types.all(|t| t.is_some_and(|t| t.reads_as(first))))
        };
        if perhaps || !of_one_family() {
            return Named::Unknown;
        }
        // Of an outer join it is the column of the side whose rows are all shown.
        for using in merged {
            match using.shows {
                Shows::Both => {}
                Shows::Left => surely.retain(|(_, item)| !using.right.contains(item)),
                Shows::Right => surely.retain(|(_, item)| !using.left.contains(item)),
                Shows::Either => return Named::Unknown,
            }
        }
        if surely.is_empty() { Named::Unknown } else { Named::Here(surely) }
    }

    /// The family of keys that a column of an item is of, if its values are keys of tables.
    fn family(&self, at: At, name: &str) -> Option<KeyType> {
        let leaves = self.leaves(at, name)?;
        let mut types = leaves.leaves.iter().map(|leaf| match leaf {
            Leaf::Key(part) => self.part_type(*part),
            Leaf::Value(_) => None,
        });
        let first = types.next()??;
        types.all(|t| t.is_some_and(|t| t.reads_as(first))).then_some(first)
    }

    fn has(&self, at: At, name: &str, depth: usize) -> Has {
        let Some(item) = self.item(at) else { return Has::Maybe };
        match &item.source {
            Source::Table(_) if self.key_part(at, name).is_some() => Has::Yes,
            Source::Table(table) if item.renamed.is_empty() => match relations::columns(None, table, self.cx) {
                Some(columns) if columns.iter().any(|column| column == name) => Has::Yes,
                // Each has columns of PostgreSQL's own as well.
                Some(_) if !SYSTEM_COLUMNS.contains(&name) => Has::No,
                _ => Has::Maybe,
            },
            Source::Table(_) | Source::Other => Has::Maybe,
            Source::Query(query) => match self.find(*query, &item.renamed, name, depth + 1) {
                Found::Place(_) | Found::Through(_) => Has::Yes,
                Found::No => Has::No,
                Found::Maybe => Has::Maybe,
            },
        }
    }

    /// Where a query has a column; `renamed`: the names that an alias gives its first ones.
    fn find(&self, query: usize, renamed: &[String], name: &str, depth: usize) -> Found {
        if depth > MAX_DEPTH || self.step().is_none() {
            return Found::Maybe;
        }
        let Some(query) = self.levels.queries.get(query) else { return Found::Maybe };
        let renamed = if renamed.is_empty() { &query.renamed } else { renamed };
        if !renamed.is_empty() {
            let mut places = (0..renamed.len()).filter(|place| renamed.get(*place).is_some_and(|r| r == name));
            return match (places.next(), places.next()) {
                (Some(place), None) => Found::Place(Some(place)),
                (None, _) if width(&query.body) == Some(renamed.len()) => Found::No,
                _ => Found::Maybe,
            };
        }
        match &query.body {
            Body::Unknown => Found::Maybe,
            Body::Set(left, _) => match self.find(*left, &[], name, depth + 1) {
                // By place alone the other part's column is known.
                Found::Through(_) => Found::Place(None),
                found => found,
            },
            Body::Rows(rows) => {
                let width = rows.first().map_or(0, Vec::len);
                let place = (0..width).find(|place| name == format!("column{}", place.saturating_add(1)));
                place.map_or(Found::No, |place| Found::Place(Some(place)))
            }
            Body::Select { level, outputs } => self.find_output(*level, outputs, name, depth),
        }
    }

    fn find_output(&self, level: usize, outputs: &[Output], name: &str, depth: usize) -> Found {
        let (mut found, mut perhaps, mut stars) = (Vec::new(), false, false);
        for (place, output) in outputs.iter().enumerate() {
            match output {
                Output::Column { name: Some(own), .. } if own == name => {
                    found.push(Found::Place((!stars).then_some(place)));
                }
                Output::Column { name: Some(_), .. } => {}
                Output::Column { name: None, .. } => perhaps = true,
                Output::Star(qualifier) => {
                    stars = true;
                    let Some(inner) = self.levels.levels.get(level) else { return Found::Maybe };
                    if inner.merged.iter().any(|using| using.name == name) {
                        return Found::Maybe;
                    }
                    // It may be of a query further out.
                    perhaps |= !qualifier.is_empty() && !inner.items.iter().any(|item| speaks_of(qualifier, item));
                    for number in 0..inner.items.len() {
                        let Some(item) = inner.items.get(number) else { continue };
                        if !qualifier.is_empty() && !speaks_of(qualifier, item) {
                            continue;
                        }
                        match self.has((level, number), name, depth + 1) {
                            Has::Yes => found.push(Found::Through((level, number))),
                            Has::Maybe => perhaps = true,
                            Has::No => {}
                        }
                    }
                }
            }
        }
        let mut found = found.into_iter();
        match (found.next(), found.next()) {
            // If another column has that name too, PostgreSQL refuses it as ambiguous.
            (Some(only), None) => only,
            (None, _) if !perhaps => Found::No,
            _ => Found::Maybe,
        }
    }

    /// Where the values of an item's column come from; none: it is not known.
    pub(super) fn leaves(&self, at: At, name: &str) -> Option<Leaves<'a>> {
        let mut leaves = Leaves::default();
        self.gather(at, name, &mut leaves, 0)?;
        Some(leaves)
    }

    /// The same of a column of a query, by its place.
    pub(super) fn leaves_of(&self, query: usize, place: usize) -> Option<Leaves<'a>> {
        let mut leaves = Leaves::default();
        self.gather_place(query, place, &mut leaves, 0)?;
        Some(leaves)
    }

    fn gather(&self, at: At, name: &str, into: &mut Leaves<'a>, depth: usize) -> Option<()> {
        self.step()?;
        let item = self.item(at).filter(|_| depth <= MAX_DEPTH)?;
        into.nullable |= item.nullable;
        match &item.source {
            Source::Table(_) => into.leaves.push(Leaf::Key(self.key_part(at, name)?)),
            Source::Other => return None,
            Source::Query(query) => match self.find(*query, &item.renamed, name, depth) {
                Found::Place(place) => self.gather_place(*query, place?, into, depth + 1)?,
                Found::Through(inner) if self.is_changed(inner, name) => return None,
                Found::Through(inner) => self.gather(inner, name, into, depth + 1)?,
                Found::No | Found::Maybe => return None,
            },
        }
        Some(())
    }

    fn gather_place(&self, query: usize, place: usize, into: &mut Leaves<'a>, depth: usize) -> Option<()> {
        self.step()?;
        match &self.levels.queries.get(query).filter(|_| depth <= MAX_DEPTH)?.body {
            Body::Unknown => None,
            Body::Set(left, right) => {
                self.gather_place(*left, place, into, depth + 1)?;
                match self.repeats(query, *right, place) {
                    Some(nullable) => into.nullable |= nullable,
                    None => self.gather_place(*right, place, into, depth + 1)?,
                }
                Some(())
            }
            Body::Rows(rows) => rows.iter().try_for_each(|row| {
                into.leaves.push(Leaf::Value(row.get(place)?));
                Some(())
            }),
            Body::Select { level, outputs } => {
                if outputs.get(..=place)?.iter().any(|output| matches!(output, Output::Star(_))) {
                    return None;
                }
                let Output::Column { value, .. } = outputs.get(place)? else { return None };
                let sees = 0..self.levels.levels.get(*level)?.items.len();
                self.gather_value(*level, &sees, value, into, depth)
            }
        }
    }

    /// Whether the second part of a recursive query has in this column only what the rows have that it begins with: the query's own column,
    /// or the key of a table that must be equal to it. And whether it may be NULL.
    fn repeats(&self, query: usize, part: usize, place: usize) -> Option<bool> {
        let Body::Select { level: number, outputs } = &self.levels.queries.get(part)?.body else { return None };
        if outputs.get(..=place)?.iter().any(|output| matches!(output, Output::Star(_))) {
            return None;
        }
        let Output::Column { value: Value::Column(shown), .. } = outputs.get(place)? else { return None };
        let level = self.levels.levels.get(*number)?;
        let sees = 0..level.items.len();
        let [at] = self.resolve(*number, &sees, shown)?[..] else { return None };
        let nullable = self.item(at)?.nullable;
        if self.is_own(at, query, &shown.column, place) {
            return Some(nullable);
        }
        let is_tied = |condition: &&Condition| {
            let Operand::Column(other) = &condition.equals else { return false };
            let resolved = |column: &ColumnRef| self.resolve(*number, &condition.sees, column);
            condition.binds.contains(&at.1)
                && resolved(&condition.column).is_some_and(|found| found == [at])
                && condition.column.column == shown.column
                && resolved(other)
                    .is_some_and(|found| matches!(found[..], [own] if self.is_own(own, query, &other.column, place)))
        };
        let is_key = at.0 == *number && self.key_part(at, &shown.column).is_some();
        (is_key && level.conditions.iter().any(|condition| is_tied(&condition))).then_some(nullable)
    }

    /// Whether an item is the query itself, and its column the one at that place.
    fn is_own(&self, at: At, query: usize, name: &str, place: usize) -> bool {
        let Some(Item { source: Source::Query(own), renamed, .. }) = self.item(at) else { return false };
        *own == query && matches!(self.find(query, renamed, name, 0), Found::Place(Some(found)) if found == place)
    }

    /// Where a value in a level comes from, whose names may mean the items that it sees: in a write it is one of RETURNING, or of what it
    /// inserts, which is no value of its target.
    pub(super) fn leaves_of_value(&self, level: usize, sees: &Items, value: &'a Value) -> Option<Leaves<'a>> {
        let mut leaves = Leaves::default();
        self.gather_value(level, sees, value, &mut leaves, 0)?;
        Some(leaves)
    }

    fn gather_value(
        &self,
        level: usize,
        sees: &Items,
        value: &'a Value,
        into: &mut Leaves<'a>,
        depth: usize,
    ) -> Option<()> {
        match value {
            Value::Constant(value) => into.leaves.push(Leaf::Value(value)),
            Value::Column(column) => {
                for at in self.resolve(level, sees, column)? {
                    if at.0 == level && self.is_changed(at, &column.column) {
                        return None;
                    }
                    self.gather(at, &column.column, into, depth + 1)?;
                }
            }
            Value::Other => return None,
        }
        Some(())
    }

    fn step(&self) -> Option<()> {
        self.steps.set(self.steps.get().saturating_add(1));
        (self.steps.get() <= MAX_STEPS).then_some(())
    }
}

/// How many columns a query gives, where that can be counted.
fn width(body: &Body) -> Option<usize> {
    match body {
        Body::Rows(rows) => rows.first().map(Vec::len),
        Body::Select { outputs, .. } => {
            let counted = outputs.iter().all(|output| matches!(output, Output::Column { .. }));
            counted.then_some(outputs.len())
        }
        Body::Set(..) | Body::Unknown => None,
    }
}

/// What a name means in one level.
enum Named {
    Here(Vec<At>),
    /// Nothing has it: it is looked for further out.
    Further,
    Unknown,
}

fn qualified(number: usize, level: &Level, sees: &Items, qualifier: &[String]) -> Named {
    let named: Vec<At> = sees
        .clone()
        .filter(|item| level.items.get(*item).is_some_and(|item| speaks_of(qualifier, item)))
        .map(|item| (number, item))
        .collect();
    match named.len() {
        0 => Named::Further,
        1 => Named::Here(named),
        _ => Named::Unknown,
    }
}

/// Whether a column so qualified is one of this item: by its alias, which hides the name; by its name; by schema and name.
fn speaks_of(qualifier: &[String], item: &Item) -> bool {
    match (qualifier, &item.source) {
        ([name], _) => item.name.as_ref() == Some(name),
        ([schema, name] | [_, schema, name], Source::Table(table)) => {
            table.alias.is_none() && table.name == *name && table.schema.as_deref().unwrap_or(DEFAULT_SCHEMA) == schema
        }
        _ => false,
    }
}

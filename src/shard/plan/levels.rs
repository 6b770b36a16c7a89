//! Whether all queries of a statement, at any depth, ask one shard.
//!
//! A table of the statement is *settled* on a shard when the statement means the same with only those of its rows whose keys that shard
//! owns: a condition says so that every row which matters must meet, by constants or by the key of a table that is settled already (whose
//! rows are then on that shard wherever they are seen, or NULL). It does not matter where a query stands, under OR or in the target list:
//! its own result is the same. When all sharded tables are settled on one shard, that shard alone knows the answer. An INSERT is settled
//! where the keys of its rows belong.

mod names;

use std::collections::{BTreeMap, BTreeSet};

use super::params::Params;
use super::relations::{self, Home};
use super::{PlanContext, ShardPlan, StatementFacts, Stop, TableRef, Why, believe, effects, refusal};
use crate::id::{ShardIndex, Slot};
use crate::shard::key::{EXPRESSION, Key, KeyError, array};
use crate::shard::map::KeyType;
use crate::sql::facts::{ColumnRef, KeyValue};
use crate::sql::levels::{Items, Level, Levels, Operand, Source, Using, Write};
use names::{At, Leaf, Leaves, Names};

/// Where a table's rows are that matter.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Settled {
    /// It has none: a key would have to be equal to NULL.
    Nowhere,
    On(ShardIndex),
    /// Where this parameter says, which is not bound yet.
    Unbound(u16),
}

/// Plans a statement whose sharded tables are all settled on one shard; none if they are not.
///
/// # Errors
/// They are settled on different shards or have a key that cannot be read ([`Stop::Untied`]: several shards may still answer), a parameter
/// must be known first, or it does something that one shard may not do.
pub(super) fn plan(statement: &StatementFacts, cx: &PlanContext<'_>) -> Result<Option<ShardPlan>, Stop> {
    let Some(levels) = statement.touch.levels.as_deref() else { return Ok(None) };
    let tables = statement.shape.tables();
    if !same_tables(levels, tables) || tables.iter().any(|t| relations::home(t, cx.map) == Home::Unlisted) {
        return Ok(None);
    }
    for table in tables {
        believe(table, cx)?;
    }
    effects::locks_no_copy(statement, cx)?;
    let mut proof = Proof::new(levels, statement, cx);
    proof.writes_no_copy()?;
    while proof.round()? {}
    proof.conclude()
}

/// Tables in one statement.
const MAX_TABLES: usize = 64;

/// Whether the queries have the tables that the statement names, and no others.
fn same_tables(levels: &Levels, named: &[TableRef]) -> bool {
    let here: Vec<&TableRef> = levels.tables().collect();
    let count = |table: &TableRef| here.iter().filter(|other| **other == table).count();
    let count_named = |table: &TableRef| named.iter().filter(|other| *other == table).count();
    here.len() == named.len()
        && named.len() <= MAX_TABLES
        && named.iter().all(|table| count(table) == count_named(table))
}

struct Proof<'a> {
    names: Names<'a>,
    cx: &'a PlanContext<'a>,
    /// By family of keys.
    params: Vec<(KeyType, Params)>,
    statement: &'a StatementFacts,
    settled: BTreeMap<At, Settled>,
    /// Where rows belong that MERGE inserts and UPDATE moves.
    given: Vec<Settled>,
    /// The slots of the constants by which tables are settled.
    slots: BTreeSet<Slot>,
    /// A text key ends in a space, which the column of another table may cut.
    spaced: bool,
    /// Why a key cannot be read, and whose it is.
    failed: Option<(At, KeyError)>,
}

impl<'a> Proof<'a> {
    fn new(levels: &'a Levels, statement: &'a StatementFacts, cx: &'a PlanContext<'a>) -> Self {
        let names = Names::new(levels, cx);
        let mut proof = Self {
            names,
            cx,
            params: Vec::new(),
            statement,
            settled: BTreeMap::new(),
            given: Vec::new(),
            slots: BTreeSet::new(),
            spaced: false,
            failed: None,
        };
        proof.params = proof.read_params();
        proof
    }

    /// How parameters are used as keys, each use once.
    fn read_params(&self) -> Vec<(KeyType, Params)> {
        let mut keys: Vec<(KeyType, Vec<&KeyValue>)> = Vec::new();
        if self.statement.repeated.is_empty() {
            return Vec::new();
        }
        let mut add = |key_type: KeyType, values: Vec<&'a KeyValue>| match keys
            .iter_mut()
            .find(|(family, _)| family.reads_as(key_type))
        {
            Some((_, all)) => all.extend(values),
            None => keys.push((key_type, values)),
        };
        for (number, level) in self.names.levels.levels.iter().enumerate() {
            for condition in &level.conditions {
                if let Operand::Values(values) = &condition.equals
                    && let Some(key_type) = self.key_type(number, &condition.sees, &condition.column)
                    // One of another type may give all of them its own.
                    && values.iter().all(|value| self.is_of_key(value, key_type))
                {
                    add(key_type, values.iter().collect());
                }
            }
            let Some((key, key_type)) = self.names.key((number, 0)) else { continue };
            match &level.write {
                Some(Write::Update(given)) => {
                    add(key_type, given.iter().filter(|(name, _)| name == key).map(|(_, value)| value).collect());
                }
                Some(Write::Insert { columns, rows: Some(rows), .. }) => {
                    let leaves =
                        self.place(columns.as_deref(), (number, 0)).and_then(|p| self.names.leaves_of(*rows, p));
                    let values = leaves.into_iter().flat_map(|leaves| leaves.leaves).filter_map(|leaf| match leaf {
                        Leaf::Value(value) => Some(value),
                        Leaf::Key(_) => None,
                    });
                    add(key_type, values.collect());
                }
                Some(Write::Insert { .. } | Write::Delete | Write::Merge { .. }) | None => {}
            }
        }
        keys.into_iter()
            .map(|(family, mut values)| {
                // What a query gives may be taken by several.
                let mut known = BTreeSet::new();
                values.retain(|value| known.insert(std::ptr::from_ref::<KeyValue>(value)));
                (family, Params::of(&self.statement.repeated, values.into_iter()))
            })
            .collect()
    }

    /// Whether a value takes the type of the key that it is compared with, or has it.
    fn is_of_key(&self, value: &KeyValue, key_type: KeyType) -> bool {
        matches!(
            Key::from_value(value, key_type, self.cx.bound, self.cx.utf8),
            Ok(_) | Err(KeyError::Unbound(_) | KeyError::Null | KeyError::Invalid(_))
        )
    }

    /// The type of the key that a column is.
    fn key_type(&self, level: usize, sees: &Items, column: &ColumnRef) -> Option<KeyType> {
        let at = *self.names.resolve(level, sees, column)?.first()?;
        self.names.key(at).filter(|(key, _)| *key == column.column).map(|(_, key_type)| key_type)
    }

    /// Whether no reference table is written, which would reach one of its copies.
    fn writes_no_copy(&self) -> Result<(), Stop> {
        for level in &self.names.levels.levels {
            if let (Some(_), Some(target)) = (&level.write, target(level))
                && relations::home(target, self.cx.map) == Home::Reference
            {
                return Err(refusal::reference_write(&target.name).into());
            }
        }
        Ok(())
    }

    /// Looks at all conditions once; whether a table was settled by one.
    fn round(&mut self) -> Result<bool, Stop> {
        let before = self.settled.len();
        for (number, level) in self.names.levels.levels.iter().enumerate() {
            for condition in &level.conditions {
                let Some(found) = self.names.resolve(number, &condition.sees, &condition.column) else { continue };
                for at in found {
                    let Some(key_type) = self.open(at, number, &condition.binds, &condition.column.column) else {
                        continue;
                    };
                    let settled = match &condition.equals {
                        Operand::Values(values) => self.by_values(at, values.iter(), key_type),
                        Operand::Array(array) => self.by_array(array, key_type),
                        Operand::Column(column) => self.by_column(at, number, &condition.sees, column, key_type),
                        Operand::Query(query) => {
                            self.names.leaves_of(*query, 0).and_then(|leaves| self.by_leaves(at, &leaves, key_type))
                        }
                    };
                    self.settled.extend(settled.map(|settled| (at, settled)));
                }
            }
            for using in &level.merged {
                self.by_using(number, using);
            }
            if let Some(Write::Insert { .. }) = &level.write {
                self.insert(number, level)?;
            }
        }
        Ok(self.settled.len() > before)
    }

    /// The type of the key of a table, if that is the column, the condition binds its rows, and it is not settled yet.
    fn open(&self, at: At, level: usize, binds: &Items, column: &str) -> Option<KeyType> {
        let (key, key_type) = self.names.key(at)?;
        let bound = at.0 == level && binds.contains(&at.1) && key == column;
        (bound && !self.settled.contains_key(&at)).then_some(key_type)
    }

    /// By constants, of which its key is equal to one.
    fn by_values<'v>(
        &mut self,
        at: At,
        values: impl ExactSizeIterator<Item = &'v KeyValue>,
        key_type: KeyType,
    ) -> Option<Settled> {
        let alone = values.len() == 1;
        let mut whole = Settled::Nowhere;
        for value in values {
            let settled = match self.read(value, key_type) {
                Ok(slot) => Settled::On(self.cx.map.owner(slot)),
                Err(KeyError::Unbound(number)) => Settled::Unbound(number),
                // No row is equal to it. (A NULL that is written may be taken for IS NULL, and one of a list may give it its type.)
                Err(KeyError::Null) if alone && matches!(value, KeyValue::Param { .. }) => Settled::Nowhere,
                Err(error) => {
                    self.failed.get_or_insert((at, error));
                    return None;
                }
            };
            whole = join(whole, settled)?;
        }
        Some(whole)
    }

    fn read(&mut self, value: &KeyValue, key_type: KeyType) -> Result<Slot, KeyError> {
        if let Some((_, params)) = self.params.iter().find(|(family, _)| family.reads_as(key_type)) {
            params.check(value, key_type, self.cx.bound)?;
        } else {
            Params::of(&self.statement.repeated, std::iter::empty()).check(value, key_type, self.cx.bound)?;
        }
        let key = Key::from_value(value, key_type, self.cx.bound, self.cx.utf8)?;
        self.spaced |= key.ends_in_space();
        self.slots.insert(key.slot());
        Ok(key.slot())
    }

    fn by_array(&mut self, array: &KeyValue, key_type: KeyType) -> Option<Settled> {
        if let KeyValue::Param { number, .. } = array {
            let Some(bound) = self.cx.bound else { return Some(Settled::Unbound(*number)) };
            // Its type is that of the use which the server comes to first.
            if bound.declared(*number).is_none() && self.statement.repeated.iter().any(|used| used.number == *number) {
                return None;
            }
        }
        let slots = array::slots(array, key_type, self.cx.bound, self.cx.utf8)?;
        let whole = slots
            .iter()
            .try_fold(Settled::Nowhere, |whole, slot| join(whole, Settled::On(self.cx.map.owner(*slot))))?;
        self.slots.extend(slots);
        // It may hold keys that end in one.
        self.spaced |= key_type.is_text();
        Some(whole)
    }

    fn by_column(
        &mut self,
        at: At,
        level: usize,
        sees: &Items,
        column: &ColumnRef,
        key_type: KeyType,
    ) -> Option<Settled> {
        // One of several that a join has made one: they are equal.
        let found = self.names.resolve(level, sees, column)?;
        found.into_iter().find_map(|other| {
            let leaves = self.names.leaves(other, &column.column)?;
            self.by_leaves(at, &leaves, key_type)
        })
    }

    /// By what its key is equal to one of.
    fn by_leaves(&mut self, at: At, leaves: &Leaves<'a>, key_type: KeyType) -> Option<Settled> {
        let mut whole = Settled::Nowhere;
        for leaf in &leaves.leaves {
            let settled = match leaf {
                Leaf::Key(other) => {
                    let (_, other_type) = self.names.key(*other)?;
                    // What is not settled yet says nothing; a table's own key least.
                    self.settled.get(other).filter(|_| *other != at && other_type.same_family(key_type))?.clone()
                }
                Leaf::Value(value) => match self.read(value, key_type) {
                    Ok(slot) => Settled::On(self.cx.map.owner(slot)),
                    Err(KeyError::Unbound(number)) => Settled::Unbound(number),
                    Err(_) => return None,
                },
            };
            whole = join(whole, settled)?;
        }
        (!leaves.leaves.is_empty()).then_some(whole)
    }

    /// The columns that a join makes one: those of its two sides are equal, if both are keys beyond doubt.
    fn by_using(&mut self, level: usize, using: &Using) {
        let column = ColumnRef { qualifier: Vec::new(), column: using.name.clone() };
        for (side, other) in [(&using.left, &using.right), (&using.right, &using.left)] {
            let (Some(found), Some(others)) = (self.side(level, side, &column), self.side(level, other, &column))
            else {
                continue;
            };
            for at in found {
                let Some(key_type) = self.open(at, level, &using.binds, &using.name) else { continue };
                let settled = others.iter().find_map(|other| {
                    let leaves = self.names.leaves(*other, &using.name)?;
                    self.by_leaves(at, &leaves, key_type)
                });
                self.settled.extend(settled.map(|settled| (at, settled)));
            }
        }
    }

    /// The items of one side of a join that have the column.
    fn side(&self, level: usize, side: &Items, column: &ColumnRef) -> Option<Vec<At>> {
        let found = self.names.resolve_within(level, side, &column.column)?;
        (!found.is_empty()).then_some(found)
    }

    /// The place of the key among the values of an INSERT.
    fn place(&self, columns: Option<&[String]>, target: At) -> Option<usize> {
        let (key, _) = self.names.key(target)?;
        let Source::Table(table) = &self.names.item(target)?.source else { return None };
        relations::columns(columns, table, self.cx)?.iter().position(|column| column == key)
    }

    fn insert(&mut self, number: usize, level: &'a Level) -> Result<(), Stop> {
        let at = (number, 0);
        let Some(Write::Insert { columns, rows, conflict, changed }) = &level.write else { return Ok(()) };
        let (Some(table), Some((key, key_type)), false) =
            (target(level), self.names.key(at), self.settled.contains_key(&at))
        else {
            return Ok(());
        };
        if changed.iter().any(|column| column == key) {
            return Err(refusal::key_assigned(&table.name, key).into());
        }
        effects::conflict_is_by_key(conflict, table, key, self.cx)?;
        let Some(place) = self.place(columns.as_deref(), at) else {
            let refusal = if columns.is_none() {
                refusal::no_column_list(&table.name, key)
            } else {
                refusal::no_key_given(&table.name, key)
            };
            return Err(refusal.into());
        };
        let rows = rows.ok_or_else(|| refusal::no_key_given(&table.name, key))?;
        if let Some(leaves) = self.names.leaves_of(rows, place) {
            let settled = self.stored(at, table, &leaves, key_type)?;
            self.settled.extend(settled.map(|settled| (at, settled)));
        }
        Ok(())
    }

    /// Where a row belongs whose key comes from there.
    fn stored(
        &mut self,
        at: At,
        table: &TableRef,
        leaves: &Leaves<'a>,
        key_type: KeyType,
    ) -> Result<Option<Settled>, Stop> {
        let mut whole = None;
        for leaf in &leaves.leaves {
            let settled = match leaf {
                // NULL is nowhere at home.
                Leaf::Key(_) if leaves.nullable => None,
                Leaf::Key(other) => self
                    .names
                    .key(*other)
                    .filter(|(_, other_type)| other_type.same_family(key_type))
                    .and_then(|_| self.settled.get(other).cloned()),
                Leaf::Value(value) => match self.read(value, key_type) {
                    Ok(slot) => Some(Settled::On(self.cx.map.owner(slot))),
                    Err(KeyError::Unbound(parameter)) => Some(Settled::Unbound(parameter)),
                    Err(error) => {
                        self.failed.get_or_insert((at, error));
                        None
                    }
                },
            };
            let Some(settled) = settled else { return Ok(None) };
            whole = match whole {
                None => Some(settled),
                Some(whole) => match join(whole, settled) {
                    Some(both) => Some(both),
                    None => return Err(refusal::rows_differ(&table.name).into()),
                },
            };
        }
        Ok(whole)
    }

    /// What UPDATE and MERGE give the keys of their targets.
    fn given(&mut self) -> Result<(), Stop> {
        for (number, level) in self.names.levels.levels.iter().enumerate() {
            let at = (number, 0);
            let (Some(table), Some((key, key_type))) = (target(level), self.names.key(at)) else { continue };
            match &level.write {
                Some(Write::Update(given)) => {
                    for (_, value) in given.iter().filter(|(column, _)| column == key) {
                        match self.read(value, key_type) {
                            Ok(slot) => self.given.push(Settled::On(self.cx.map.owner(slot))),
                            Err(KeyError::Unbound(parameter)) => self.given.push(Settled::Unbound(parameter)),
                            Err(_) => return Err(refusal::key_assigned(&table.name, key).into()),
                        }
                        self.spaces(table, key, key_type)?;
                    }
                }
                Some(Write::Merge { inserts, changed }) => {
                    if changed.iter().any(|column| column == key) {
                        return Err(refusal::key_assigned(&table.name, key).into());
                    }
                    for (columns, values) in inserts {
                        let place = self.place(columns.as_deref(), at);
                        let value = place.and_then(|place| values.get(place));
                        // There is no row of the target: its names are not seen.
                        let sees = 1..level.items.len();
                        let leaves = value.and_then(|value| self.names.leaves_of_value(number, &sees, value));
                        let settled = match leaves {
                            Some(leaves) => self.stored(at, table, &leaves, key_type)?,
                            None => None,
                        };
                        self.given.push(settled.ok_or_else(|| refusal::no_key_given(&table.name, key))?);
                        self.spaces(table, key, key_type)?;
                    }
                }
                Some(Write::Insert { .. }) => self.spaces(table, key, key_type)?,
                Some(Write::Delete) | None => {}
            }
        }
        Ok(())
    }

    /// A key that is stored may be cut, and be another then.
    fn spaces(&self, table: &TableRef, key: &str, key_type: KeyType) -> Result<(), Stop> {
        if self.spaced && key_type.is_text() {
            return Err(refusal::trailing_space(&table.name, key).into());
        }
        Ok(())
    }

    fn conclude(mut self) -> Result<Option<ShardPlan>, Stop> {
        for (number, level) in self.names.levels.levels.iter().enumerate() {
            for (item, source) in level.items.iter().enumerate() {
                let Source::Table(table) = &source.source else { continue };
                let at = (number, item);
                let Home::Sharded { key, .. } = relations::home(table, self.cx.map) else { continue };
                if self.settled.contains_key(&at) {
                    continue;
                }
                return match self.failed {
                    Some((failed, error)) if failed == at && !is_computed(&error) => {
                        Err(Stop::Untied(refusal::bad_key(&table.name, key, error)))
                    }
                    _ => Ok(None),
                };
            }
        }
        self.given()?;
        let mut whole = Settled::Nowhere;
        for settled in self.settled.into_values().chain(self.given) {
            let (one, other) = (whole.clone(), settled.clone());
            whole = match (join(whole, settled), one, other) {
                (Some(whole), ..) => whole,
                (None, Settled::On(one), Settled::On(other)) => {
                    let map = self.cx.map;
                    return Err(Stop::Untied(refusal::shards_differ(map.name(one), map.name(other))));
                }
                (None, ..) => return Ok(None),
            };
        }
        let mut slots = self.slots.iter();
        Ok(Some(match (whole, slots.next(), slots.next()) {
            (Settled::Unbound(number), ..) => return Err(Stop::Unbound(number)),
            (Settled::Nowhere, ..) => ShardPlan::single(self.cx.map.default_shard, Why::NoRow),
            (Settled::On(shard), Some(slot), None) => ShardPlan::single(shard, Why::Key(*slot)),
            (Settled::On(shard), ..) => ShardPlan::single(shard, Why::Keys(self.slots.len())),
        }))
    }
}

/// Whether a key that is no constant may be one of several shards' all the same.
fn is_computed(error: &KeyError) -> bool {
    matches!(error, KeyError::Null | KeyError::NotConstant(EXPRESSION))
}

/// Both; none if they are on different shards.
fn join(a: Settled, b: Settled) -> Option<Settled> {
    match (a, b) {
        (Settled::Nowhere, other) | (other, Settled::Nowhere) => Some(other),
        (Settled::On(a), Settled::On(b)) => (a == b).then_some(Settled::On(a)),
        // Where it belongs shows when it is bound.
        (Settled::Unbound(number), _) | (_, Settled::Unbound(number)) => Some(Settled::Unbound(number)),
    }
}

/// The table that a level writes.
fn target(level: &Level) -> Option<&TableRef> {
    level.write.as_ref()?;
    match &level.items.first()?.source {
        Source::Table(table) => Some(table),
        Source::Query(_) | Source::Other => None,
    }
}

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
use super::tuples::Tuples;
use super::{PlanContext, ShardPlan, StatementFacts, Stop, TableRef, Why, believe, effects, refusal};
use crate::id::{ShardIndex, Slot};
use crate::shard::key::{EXPRESSION, Key, KeyError, array};
use crate::shard::map::KeyType;
use crate::shard::table_key::{KeyColumn, TableKey};
use crate::sql::facts::{ColumnRef, KeyValue};
use crate::sql::levels::{Items, Level, Levels, Operand, Source, Using, Write};
use names::{At, KeyPart, Leaf, Leaves, Names};

/// Where a table's rows are that matter.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Settled {
    /// It has none: a key would have to be equal to NULL.
    Nowhere,
    On(ShardIndex),
    /// Where this parameter says, which is not bound yet.
    Unbound(u16),
}

/// What a column of a key has in the rows that matter.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fact {
    /// Nothing: it would have to be equal to NULL.
    Nothing,
    /// One of the values with these hashes.
    OneOf(BTreeSet<u64>),
    /// What this parameter says, which is not bound yet.
    Unbound(u16),
}

impl Fact {
    fn hash(hash: u64) -> Self {
        Self::OneOf(BTreeSet::from([hash]))
    }

    /// What this and the other say together.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nothing, _) | (_, Self::Nothing) => Self::Nothing,
            // It shows when it is bound.
            (Self::Unbound(number), _) | (_, Self::Unbound(number)) => Self::Unbound(number),
            (Self::OneOf(a), Self::OneOf(b)) => Self::OneOf(a.intersection(&b).copied().collect()),
        }
    }

    /// What this or the other says.
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nothing, other) | (other, Self::Nothing) => other,
            (Self::OneOf(mut a), Self::OneOf(b)) => {
                a.extend(b);
                Self::OneOf(a)
            }
            // It shows when it is bound.
            (Self::Unbound(number), _) | (_, Self::Unbound(number)) => Self::Unbound(number),
        }
    }
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
    let mut rounds = 0;
    while proof.round(rounds < MAX_NARROWING)? {
        rounds += 1;
    }
    proof.conclude()
}

/// Tables in one statement.
const MAX_TABLES: usize = 64;
/// Rounds in which what is known becomes less: only made-up statements need more.
const MAX_NARROWING: usize = 2 * MAX_TABLES;

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
    /// What is known of the columns of keys.
    facts: BTreeMap<KeyPart, Fact>,
    /// Less is left of a fact since the round began.
    narrowed: bool,
    /// Where rows belong that MERGE inserts and UPDATE moves.
    given: Vec<Settled>,
    /// The slots of the constants by which tables are settled.
    slots: BTreeSet<Slot>,
    /// A text key ends in a space, which the column of another table may cut.
    spaced: bool,
    /// Why a key cannot be read, and whose it is.
    failed: Option<(KeyPart, KeyError)>,
}

impl<'a> Proof<'a> {
    fn new(levels: &'a Levels, statement: &'a StatementFacts, cx: &'a PlanContext<'a>) -> Self {
        let names = Names::new(levels, cx);
        let mut proof = Self {
            names,
            cx,
            params: Vec::new(),
            statement,
            facts: BTreeMap::new(),
            narrowed: false,
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
            let Some(key) = self.names.key((number, 0)) else { continue };
            for KeyColumn { name: key, key_type } in key.columns() {
                match &level.write {
                    Some(Write::Update(given)) => {
                        add(*key_type, given.iter().filter(|(name, _)| name == key).map(|(_, value)| value).collect());
                    }
                    Some(Write::Insert { columns, rows: Some(rows), .. }) => {
                        let place = self.place(columns.as_deref(), (number, 0), key);
                        let leaves = place.and_then(|p| self.names.leaves_of(*rows, p));
                        let values =
                            leaves.into_iter().flat_map(|leaves| leaves.leaves).filter_map(|leaf| match leaf {
                                Leaf::Value(value) => Some(value),
                                Leaf::Key(_) => None,
                            });
                        add(*key_type, values.collect());
                    }
                    Some(Write::Insert { .. } | Write::Delete | Write::Merge { .. }) | None => {}
                }
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
        self.names.key_part(at, &column.column).and_then(|part| self.names.part_type(part))
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

    /// Looks at all conditions once; whether something was found out of a key by one, or less is left of what was (if `narrowing` counts).
    fn round(&mut self, narrowing: bool) -> Result<bool, Stop> {
        let before = self.facts.len();
        self.narrowed = false;
        for (number, level) in self.names.levels.levels.iter().enumerate() {
            for condition in &level.conditions {
                let Some(found) = self.names.resolve(number, &condition.sees, &condition.column) else { continue };
                for at in found {
                    let Some((part, key_type)) = self.open(at, number, &condition.binds, &condition.column.column)
                    else {
                        continue;
                    };
                    let fact = match &condition.equals {
                        Operand::Values(values) => self.by_values(part, values.iter(), key_type),
                        Operand::Array(array) => self.by_array(array, key_type),
                        Operand::Column(column) => self.by_column(part, number, &condition.sees, column, key_type),
                        Operand::Query(query, place) => self
                            .names
                            .leaves_of(*query, *place)
                            .and_then(|leaves| self.by_leaves(part, &leaves, key_type)),
                    };
                    self.learn(part, fact);
                }
            }
            for using in &level.merged {
                self.by_using(number, using);
            }
            if let Some(Write::Insert { .. }) = &level.write {
                self.insert(number, level)?;
            }
        }
        Ok(self.facts.len() > before || (self.narrowed && narrowing))
    }

    /// Takes in what is known of a column. Of a key of one column it is only of use if one shard owns all of it; of several, all that is
    /// said of a column counts.
    fn learn(&mut self, part: KeyPart, fact: Option<Fact>) {
        let Some(fact) = fact else { return };
        if self.is_alone(part.0) && self.lies(std::slice::from_ref(&fact)).is_none() {
            return;
        }
        let Some(known) = self.facts.get(&part) else {
            self.facts.insert(part, fact);
            return;
        };
        let both = known.clone().and(fact);
        if both != *known {
            self.narrowed = true;
            self.facts.insert(part, both);
        }
    }

    /// Whether the key of an item is one column.
    fn is_alone(&self, at: At) -> bool {
        self.names.key(at).is_none_or(|key| key.width() == 1)
    }

    /// Where the keys are whose columns have these facts; none if they are on several shards, or very many.
    fn lies(&self, facts: &[Fact]) -> Option<Settled> {
        if facts.contains(&Fact::Nothing) {
            return Some(Settled::Nowhere);
        }
        if let Some(number) = facts.iter().find_map(Fact::unbound) {
            return Some(Settled::Unbound(number));
        }
        let slots = slots_of(facts)?;
        let mut owners = slots.iter().map(|slot| self.cx.map.owner(*slot));
        let Some(first) = owners.next() else { return Some(Settled::Nowhere) };
        owners.all(|owner| owner == first).then_some(Settled::On(first))
    }

    /// The column of a key and its type, if it is one, the condition binds its table's rows, and there is something to be learnt of it: of
    /// a key of one column once, and of rows that are inserted only what they are given.
    fn open(&self, at: At, level: usize, binds: &Items, column: &str) -> Option<(KeyPart, KeyType)> {
        let part = self.names.key_part(at, column)?;
        let bound = at.0 == level && binds.contains(&at.1);
        let key_type = self.names.part_type(part)?;
        let inserts =
            || matches!(self.names.levels.levels.get(level).and_then(|l| l.write.as_ref()), Some(Write::Insert { .. }));
        let narrows = !(self.is_alone(at) || at.1 == 0 && inserts());
        (bound && (narrows || !self.facts.contains_key(&part))).then_some((part, key_type))
    }

    /// By constants, of which it is equal to one.
    fn by_values<'v>(
        &mut self,
        part: KeyPart,
        values: impl ExactSizeIterator<Item = &'v KeyValue>,
        key_type: KeyType,
    ) -> Option<Fact> {
        let alone = values.len() == 1;
        let mut whole = Fact::Nothing;
        for value in values {
            let fact = match self.read(value, key_type) {
                Ok(hash) => Fact::hash(hash),
                Err(KeyError::Unbound(number)) => Fact::Unbound(number),
                // No row is equal to it. (A NULL that is written may be taken for IS NULL, and one of a list may give it its type.)
                Err(KeyError::Null) if alone && matches!(value, KeyValue::Param { .. }) => Fact::Nothing,
                Err(error) => {
                    self.failed.get_or_insert((part, error));
                    return None;
                }
            };
            whole = whole.or(fact);
        }
        Some(whole)
    }

    fn read(&mut self, value: &KeyValue, key_type: KeyType) -> Result<u64, KeyError> {
        if let Some((_, params)) = self.params.iter().find(|(family, _)| family.reads_as(key_type)) {
            params.check(value, key_type, self.cx.bound)?;
        } else {
            Params::of(&self.statement.repeated, std::iter::empty()).check(value, key_type, self.cx.bound)?;
        }
        let key = Key::from_value(value, key_type, self.cx.bound, self.cx.utf8)?;
        self.spaced |= key.ends_in_space();
        Ok(key.hash())
    }

    fn by_array(&mut self, array: &KeyValue, key_type: KeyType) -> Option<Fact> {
        if let KeyValue::Param { number, .. } = array {
            let Some(bound) = self.cx.bound else { return Some(Fact::Unbound(*number)) };
            // Its type is that of the use which the server comes to first.
            if bound.declared(*number).is_none() && self.statement.repeated.iter().any(|used| used.number == *number) {
                return None;
            }
        }
        let hashes = array::hashes(array, key_type, self.cx.bound, self.cx.utf8)?;
        // It may hold keys that end in one.
        self.spaced |= key_type.is_text();
        Some(if hashes.is_empty() { Fact::Nothing } else { Fact::OneOf(hashes.into_iter().collect()) })
    }

    fn by_column(
        &mut self,
        part: KeyPart,
        level: usize,
        sees: &Items,
        column: &ColumnRef,
        key_type: KeyType,
    ) -> Option<Fact> {
        // One of several that a join has made one: they are equal.
        let found = self.names.resolve(level, sees, column)?;
        found.into_iter().find_map(|other| {
            let leaves = self.names.leaves(other, &column.column)?;
            self.by_leaves(part, &leaves, key_type)
        })
    }

    /// By what it is equal to one of.
    fn by_leaves(&mut self, part: KeyPart, leaves: &Leaves<'a>, key_type: KeyType) -> Option<Fact> {
        let mut whole = Fact::Nothing;
        for leaf in &leaves.leaves {
            let fact = match leaf {
                Leaf::Key(other) => {
                    let other_type = self.names.part_type(*other)?;
                    // Of what nothing is known yet it says nothing; a column of itself least.
                    self.facts.get(other).filter(|_| *other != part && other_type.same_family(key_type))?.clone()
                }
                Leaf::Value(value) => match self.read(value, key_type) {
                    Ok(hash) => Fact::hash(hash),
                    Err(KeyError::Unbound(number)) => Fact::Unbound(number),
                    Err(_) => return None,
                },
            };
            whole = whole.or(fact);
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
                let Some((part, key_type)) = self.open(at, level, &using.binds, &using.name) else { continue };
                let fact = others.iter().find_map(|other| {
                    let leaves = self.names.leaves(*other, &using.name)?;
                    self.by_leaves(part, &leaves, key_type)
                });
                self.learn(part, fact);
            }
        }
    }

    /// The items of one side of a join that have the column.
    fn side(&self, level: usize, side: &Items, column: &ColumnRef) -> Option<Vec<At>> {
        let found = self.names.resolve_within(level, side, &column.column)?;
        (!found.is_empty()).then_some(found)
    }

    /// The place of a column of the key among the values of an INSERT.
    fn place(&self, columns: Option<&[String]>, target: At, name: &str) -> Option<usize> {
        let Source::Table(table) = &self.names.item(target)?.source else { return None };
        relations::columns(columns, table, self.cx)?.iter().position(|column| column == name)
    }

    /// Settles the rows of an INSERT where the keys belong that they are given, once one shard owns all of these.
    fn insert(&mut self, number: usize, level: &'a Level) -> Result<(), Stop> {
        if let Some(facts) = self.inserted(number, level)?.filter(|facts| self.lies(facts).is_some()) {
            let parts = facts.into_iter().enumerate().map(|(place, fact)| (((number, 0), place), fact));
            self.facts.extend(parts);
        }
        Ok(())
    }

    /// What the columns of the key get of the rows of an INSERT that is not settled; none if that is not known.
    fn inserted(&mut self, number: usize, level: &'a Level) -> Result<Option<Vec<Fact>>, Stop> {
        let at = (number, 0);
        let Some(Write::Insert { columns, rows, conflict, changed }) = &level.write else { return Ok(None) };
        let (Some(table), Some(key), false) = (target(level), self.names.key(at), self.facts.contains_key(&(at, 0)))
        else {
            return Ok(None);
        };
        if let Some(name) = key.names().find(|name| changed.iter().any(|column| column == name)) {
            return Err(refusal::key_assigned(&table.name, name).into());
        }
        effects::conflict_is_by_key(conflict, table, key, self.cx)?;
        let mut facts = Vec::with_capacity(key.width());
        for (place, KeyColumn { name, key_type }) in key.columns().iter().enumerate() {
            let Some(among) = self.place(columns.as_deref(), at, name) else {
                let refusal = if columns.is_none() {
                    refusal::no_column_list(&table.name, name)
                } else {
                    refusal::no_key_given(&table.name, name)
                };
                return Err(refusal.into());
            };
            let rows = rows.ok_or_else(|| refusal::no_key_given(&table.name, name))?;
            let leaves = self.names.leaves_of(rows, among);
            facts.push(leaves.and_then(|leaves| self.stored((at, place), &leaves, *key_type)));
        }
        Ok(facts.into_iter().collect())
    }

    /// What a column of a key gets that comes from there; none if that is not known.
    fn stored(&mut self, part: KeyPart, leaves: &Leaves<'a>, key_type: KeyType) -> Option<Fact> {
        let mut whole = None;
        for leaf in &leaves.leaves {
            let fact = match leaf {
                // NULL is nowhere at home.
                Leaf::Key(_) if leaves.nullable => return None,
                Leaf::Key(other) => {
                    self.names.part_type(*other).filter(|other_type| other_type.same_family(key_type))?;
                    self.facts.get(other)?.clone()
                }
                Leaf::Value(value) => match self.read(value, key_type) {
                    Ok(hash) => Fact::hash(hash),
                    Err(KeyError::Unbound(parameter)) => Fact::Unbound(parameter),
                    Err(error) => {
                        self.failed.get_or_insert((part, error));
                        return None;
                    }
                },
            };
            whole = Some(match whole {
                None => fact,
                Some(whole) => fact.or(whole),
            });
        }
        whole
    }

    /// What UPDATE and MERGE give the keys of their targets.
    fn given(&mut self) -> Result<(), Stop> {
        for (number, level) in self.names.levels.levels.iter().enumerate() {
            let at = (number, 0);
            let (Some(table), Some(key)) = (target(level), self.names.key(at)) else { continue };
            match &level.write {
                Some(Write::Update(given)) => self.moved(at, table, key, given)?,
                Some(Write::Merge { inserts, changed }) => {
                    if let Some(name) = key.names().find(|name| changed.iter().any(|column| column == name)) {
                        return Err(refusal::key_assigned(&table.name, name).into());
                    }
                    for (columns, values) in inserts {
                        let mut facts = Vec::with_capacity(key.width());
                        for (place, KeyColumn { name, key_type }) in key.columns().iter().enumerate() {
                            let among = self.place(columns.as_deref(), at, name);
                            let value = among.and_then(|among| values.get(among));
                            // There is no row of the target: its names are not seen.
                            let sees = 1..level.items.len();
                            let leaves = value.and_then(|value| self.names.leaves_of_value(number, &sees, value));
                            let fact = leaves.and_then(|leaves| self.stored((at, place), &leaves, *key_type));
                            facts.push(fact.ok_or_else(|| refusal::no_key_given(&table.name, name))?);
                        }
                        let settled = self.lies(&facts).ok_or_else(|| refusal::rows_differ(&table.name))?;
                        self.given.push(settled);
                        self.spaces(table, key)?;
                    }
                }
                Some(Write::Insert { .. }) => self.spaces(table, key)?,
                Some(Write::Delete) | None => {}
            }
        }
        Ok(())
    }

    /// Where the rows of an UPDATE belong afterwards, if it gives a column of their key.
    fn moved(&mut self, at: At, table: &TableRef, key: &TableKey, given: &[(String, KeyValue)]) -> Result<(), Stop> {
        if !given.iter().any(|(column, _)| key.has(column)) {
            return Ok(());
        }
        let mut facts = Vec::with_capacity(key.width());
        for (place, KeyColumn { name, key_type }) in key.columns().iter().enumerate() {
            let refusal = || refusal::key_assigned(&table.name, name);
            let mut values = given.iter().filter(|(column, _)| column == name);
            let fact = match (values.next(), values.next()) {
                (None, _) => self.facts.get(&(at, place)).cloned().ok_or_else(refusal)?,
                (Some((_, value)), None) => match self.read(value, *key_type) {
                    Ok(hash) => Fact::hash(hash),
                    Err(KeyError::Unbound(parameter)) => Fact::Unbound(parameter),
                    Err(_) => return Err(refusal().into()),
                },
                (Some(_), Some(_)) => return Err(refusal().into()),
            };
            facts.push(fact);
        }
        let settled = self.lies(&facts).ok_or_else(|| refusal::key_assigned(&table.name, &key.quoted()))?;
        self.given.push(settled);
        self.spaces(table, key)
    }

    /// A key that is stored may be cut, and be another then.
    fn spaces(&self, table: &TableRef, key: &TableKey) -> Result<(), Stop> {
        match key.columns().iter().find(|column| column.key_type.is_text()) {
            Some(column) if self.spaced => Err(refusal::trailing_space(&table.name, &column.name).into()),
            _ => Ok(()),
        }
    }

    /// Where a sharded table's rows are, as far as they matter.
    ///
    /// # Errors
    /// Not all columns of its key are known, or they are on several shards: then [`Stop::Untied`] if a column's value cannot be read.
    fn settle(&mut self, at: At, table: &TableRef, key: &TableKey) -> Result<Option<Settled>, Stop> {
        let facts: Option<Vec<Fact>> = (0..key.width()).map(|place| self.facts.get(&(at, place)).cloned()).collect();
        let Some(facts) = facts else {
            return match &self.failed {
                Some(((failed, place), error)) if *failed == at && !is_computed(error) => {
                    let name = key.columns().get(*place).map_or("", |column| column.name.as_str());
                    Err(Stop::Untied(refusal::bad_key(&table.name, name, error.clone())))
                }
                _ => Ok(None),
            };
        };
        self.slots.extend(slots_of(&facts).unwrap_or_default());
        Ok(self.lies(&facts))
    }

    fn conclude(mut self) -> Result<Option<ShardPlan>, Stop> {
        let mut all = Vec::new();
        for (number, level) in self.names.levels.levels.iter().enumerate() {
            // All is said of its rows that will be.
            if let (Some(_), Some(table)) = (self.inserted(number, level)?, target(level)) {
                return Err(refusal::rows_differ(&table.name).into());
            }
        }
        for (number, level) in self.names.levels.levels.iter().enumerate() {
            for (item, source) in level.items.iter().enumerate() {
                let Source::Table(table) = &source.source else { continue };
                let Home::Sharded { key } = relations::home(table, self.cx.map) else { continue };
                let Some(settled) = self.settle((number, item), table, key)? else { return Ok(None) };
                all.push(settled);
            }
        }
        self.given()?;
        let mut whole = Settled::Nowhere;
        for settled in all.into_iter().chain(std::mem::take(&mut self.given)) {
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

impl Fact {
    fn unbound(&self) -> Option<u16> {
        match self {
            Self::Unbound(number) => Some(*number),
            Self::Nothing | Self::OneOf(_) => None,
        }
    }
}

/// The slots of the keys whose columns have these facts; none if there are very many, or not all are known.
fn slots_of(facts: &[Fact]) -> Option<BTreeSet<Slot>> {
    let mut tuples = Tuples::new(facts.len());
    for (place, fact) in facts.iter().enumerate() {
        if let Fact::OneOf(hashes) = fact {
            tuples.narrow(place, hashes.iter().copied());
        }
    }
    tuples.slots()
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

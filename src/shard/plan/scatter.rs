//! Reads of several shards: which shards, what each is asked, and how their answers become one.
//!
//! The proof has two parts. Each row of the result is made of rows of one shard ([`crate::sql::scatter`] reads that from FROM), so all
//! shards together have all of it and none has anything twice. And each expression has the same value wherever it is computed.
//! What is left is order, limits, and groups to which several shards have rows: that is the merge's work ([`crate::shard::merge`]).
//!
//! The shards answer each by a snapshot of its own: rows that a transaction moves or writes on several shards at that moment may be seen
//! on one and not yet on another.

mod finished;
mod pushed;

use std::collections::BTreeSet;

use super::effects::FIRST_OWN_OID;
use super::params::Params;
use super::proof;
use super::relations::{self, Home};
use super::tuples::Tuples;
use super::{PlanContext, ShardPlan, StatementFacts, Stop, Why, believe, refusal};
use crate::error::Error;
use crate::id::ShardIndex;
use crate::shard::hash::slot_of;
use crate::shard::key::{Key, KeyError, array};
use crate::shard::map::KeyType;
use crate::shard::table_key::TableKey;
use crate::sql::facts::{Access, ColumnRef, KeyValue, TableRef};
use crate::sql::scatter::{Bound, Distinct, Explain, Place, Reading, Select, Unfit, Values, is_present, read};
pub use finished::Last;
pub use pushed::{Collated, Needs, Pushed, Seen};

/// A read of several shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scatter {
    /// Which, in ascending order.
    pub shards: Vec<ShardIndex>,
    /// It is only to be explained.
    pub explain: Option<Explain>,
    /// The statement's parts.
    pub select: Select,
    /// LIMIT.
    pub limit: Option<u64>,
    /// OFFSET.
    pub offset: u64,
    /// Parameters that LIMIT and OFFSET alone use, with their types: what the shards are sent does not name them.
    pub spent: Vec<(u16, u32)>,
    /// Parameters that it names more than once. PostgreSQL takes the type of the use that it comes to first, which need not be the first in
    /// what the shards are sent: the statement as it came decides.
    pub repeated: BTreeSet<u16>,
    /// Why the shards' answers together are the answer.
    pub proof: Vec<String>,
}

impl Scatter {
    /// Whether the statement itself is to be asked about, for what the shards are sent instead is not wrong where it is: a key of ORDER BY
    /// that DISTINCT does not show is shown to us.
    #[must_use]
    pub fn hides_error(&self) -> bool {
        self.select.distinct == Distinct::Rows && !self.select.sort.is_empty()
    }

    /// What is done, in words: what the shards are asked, and what becomes of their answers.
    #[must_use]
    pub fn steps(&self) -> Vec<String> {
        let mut steps = Vec::new();
        match (self.select.plain, &self.select.groups) {
            (true, _) => steps.push("the statement is sent to each shard as it stands".to_owned()),
            (false, None) => steps.push(format!("each shard is sent: {}", self.rows().sql)),
            (false, Some(groups)) => {
                steps.push(format!("each shard is asked for parts of groups{}", self.select.tail));
                let whole = if groups.keys.is_empty() { "one group".to_owned() } else { groups.keys.join(", ") };
                steps.push(format!("parts are brought together by {whole}"));
            }
        }
        if let Some(finish) = self.select.finish.as_ref().filter(|finish| finish.needed) {
            let having = finish.having.as_ref().map(|having| format!(" where {having}")).unwrap_or_default();
            steps.push(format!("one shard computes of the groups: {}{having}", finish.targets.join(", ")));
        }
        match &self.select.distinct {
            Distinct::All => {}
            Distinct::Rows => steps.push("equal rows are left out".to_owned()),
            Distinct::On(_, on) => steps.push(format!("the first row of each {on} is taken")),
        }
        if self.select.sort.is_empty() {
            steps.push("the rows are passed on in any order".to_owned());
        } else {
            steps.push(format!("sorted rows are merged:{}", self.select.order_by));
        }
        if self.offset > 0 {
            steps.push(format!("{} rows are left out", self.offset));
        }
        if let Some(limit) = self.limit {
            steps.push(format!("after {limit} rows the shards are cancelled"));
        }
        steps
    }
}

/// What LIMIT or OFFSET says.
fn bound(
    bound: Bound,
    name: &str,
    statement: &StatementFacts,
    cx: &PlanContext<'_>,
    spent: &mut Vec<(u16, u32)>,
) -> Result<Option<u64>, Stop> {
    let (number, most) = match bound {
        Bound::None => return Ok(None),
        Bound::Rows(rows) => return Ok(Some(rows)),
        Bound::Negative => return Err(refusal::negative_bound(name).into()),
        Bound::Param(number, most) => (number, most),
    };
    // It is only parsed, or explained.
    let Some(params) = cx.bound else { return Ok(None) };
    let value = params.values.get(usize::from(number).saturating_sub(1)).copied().flatten();
    let in_binary = value.filter(|_| params.text(number).is_none()).map(<[u8]>::len);
    if !statement.repeated.iter().any(|used| used.number == number) {
        spent.push((number, in_binary.map_or(20, type_of_width)));
    }
    // It is read as a value that is compared with a column of the type of its cast would be.
    let (width, cast) = if most == u64::from(i16::MAX.unsigned_abs()) {
        (2, Some("int2".to_owned()))
    } else if most == u64::from(i32::MAX.unsigned_abs()) {
        (4, Some("int4".to_owned()))
    } else {
        (8, None)
    };
    match Key::from_value(&KeyValue::Param { number, cast }, KeyType::Integer { width }, cx.bound, cx.utf8) {
        Ok(Key::Integer(rows)) => u64::try_from(rows).map(Some).map_err(|_| refusal::negative_bound(name).into()),
        Err(KeyError::Null) => Ok(None),
        Err(KeyError::Invalid(error)) => Err(error.into()),
        Ok(_) | Err(_) => Err(refusal::bad_bound(name).into()),
    }
}

/// The integer type whose binary values are so long.
fn type_of_width(bytes: usize) -> u32 {
    match bytes {
        2 => 21,
        4 => 23,
        _ => 20,
    }
}

/// Plans a SELECT that no key ties to one shard; `refusal` says why.
///
/// # Errors
/// Several shards cannot answer it either.
pub(super) fn plan(statement: &StatementFacts, refusal: Error, cx: &PlanContext<'_>) -> Result<ShardPlan, Stop> {
    let Some(text) = cx.text else { return Err(refusal.into()) };
    if super::access(statement, cx) != Access::Read || !statement.effects.is_empty() {
        return Err(refusal.into());
    }
    if cx.catalog.is_some_and(|c| c.shadows().is_none()) {
        return Err(refusal::not_looked_up("search_path").into());
    }
    let tables = statement.shape.tables();
    for table in tables {
        believe(table, cx)?;
    }
    // Without a single sharded table on top, `refusal` knows better what is wrong.
    let reading = read(text, &|table| place(table, cx)).map_err(refuse)?;
    if reading.tables != tables.len() {
        let unfit = Unfit::new("sub_query", "with a sub-query").hint("Ask in two statements, the second with the value of the first as a parameter (key = $1), or write it as a join by the sharding keys.");
        return Err(refuse(unfit));
    }
    let shards = Narrowed::by(&reading, tables, statement, cx)?;
    if let ([shard], Some(count)) = (shards.shards.as_slice(), shards.keys) {
        return Ok(ShardPlan::single(*shard, Why::Keys(count)));
    }
    if let Some(name) = cx.catalog.and_then(|c| c.shadows()).and_then(|s| s.gatherer(statement)) {
        return Err(refusal::shadowed_aggregate(name).into());
    }
    if let Some(why) = distrusted(tables, cx) {
        return Err(refusal::scatter_distrusted(why).into());
    }
    check_params(&reading.shown_params, cx)?;
    let Reading { joined, select, explain, .. } = reading;
    let select = *select.map_err(refuse)?;
    let mut proof = vec![shards.proof];
    if joined > 1 {
        proof.push(format!("its {joined} sharded tables are joined by their keys"));
    }
    if select.grouped_by_key {
        proof.push("each group lies on one shard, for it is grouped by the sharding key".to_owned());
    }
    let mut spent = Vec::new();
    // In the order in which PostgreSQL looks at them.
    let offset = bound(select.offset, "OFFSET", statement, cx, &mut spent)?.unwrap_or(0);
    let limit = bound(select.limit, "LIMIT", statement, cx, &mut spent)?;
    let repeated = statement.repeated.iter().map(|used| used.number).collect();
    let shards = shards.shards;
    Ok(ShardPlan::Scatter(Box::new(Scatter { shards, explain, select, limit, offset, spent, repeated, proof })))
}

/// Why the shards may not have the same make of the statement's tables, as far as they were checked.
fn distrusted<'a>(tables: &[TableRef], cx: &PlanContext<'a>) -> Option<&'a str> {
    let distrust = cx.distrust;
    if let Some(why) = &distrust.scatter {
        return Some(why);
    }
    if distrust.scatter_of.is_empty() {
        return None;
    }
    tables.iter().find_map(|table| distrust.scatter_of.get(&relations::placed(table))).map(String::as_str)
}

/// Refuses parameters that each shard would read in a way of its own. `shown`: those whose values are seen.
fn check_params(shown: &[u16], cx: &PlanContext<'_>) -> Result<(), Stop> {
    let Some(bound) = cx.bound else { return Ok(()) };
    if bound.types.iter().any(|oid| *oid >= FIRST_OWN_OID) {
        let unfit = Unfit::new("parameter_type", "with a parameter of a type that has another number on each shard");
        return Err(refuse(unfit.hint("Declare its type as text or leave it out, and write a cast: $1::mood.")));
    }
    let value = |number: &u16| bound.values.get(usize::from(*number).checked_sub(1)?).copied().flatten();
    if shown.iter().filter_map(value).any(is_present) {
        let unfit =
            Unfit::new("clock", "that may show the time of its server by a parameter, which differs between shards");
        return Err(refuse(unfit.hint("Give the time itself, or use it in WHERE only.")));
    }
    Ok(())
}

fn refuse(unfit: Unfit) -> Stop {
    Stop::Refuse(refusal::unfit(&unfit.why, unfit.hint).because(unfit.construct))
}

fn place(table: &TableRef, cx: &PlanContext<'_>) -> Place {
    match relations::home(table, cx.map) {
        Home::Sharded { key } => {
            let family = |key_type: KeyType| match key_type {
                KeyType::Integer { .. } => 0,
                KeyType::Text => 1,
                KeyType::Uuid => 2,
                KeyType::Tagged => 3,
            };
            let columns = key.columns().iter().map(|column| (column.name.clone(), family(column.key_type)));
            Place::Sharded { key: columns.collect() }
        }
        Home::Reference => Place::Reference,
        Home::Unlisted => Place::Elsewhere,
    }
}

/// The shards that may have rows.
struct Narrowed {
    shards: Vec<ShardIndex>,
    /// How many keys were asked for, where that narrowed them.
    keys: Option<usize>,
    proof: String,
}

impl Narrowed {
    /// By the lists of keys, of which each row of the result has one.
    fn by(
        reading: &Reading,
        tables: &[TableRef],
        statement: &StatementFacts,
        cx: &PlanContext<'_>,
    ) -> Result<Self, Stop> {
        let all: Vec<ShardIndex> =
            (0..cx.map.names.len()).filter_map(|i| u16::try_from(i).ok()).map(ShardIndex).collect();
        let owners: BTreeSet<ShardIndex> = cx.map.owners.iter().copied().collect();
        let every = all.into_iter().filter(|shard| owners.contains(shard));
        let key = tables.iter().find_map(|table| match relations::home(table, cx.map) {
            Home::Sharded { key } => Some(key),
            Home::Reference | Home::Unlisted => None,
        });
        let narrowed = match key {
            Some(key) if key.width() > 1 => of_several(reading, key, tables, statement, cx),
            _ => of_one(reading, tables, statement, cx)?,
        };
        Ok(match narrowed {
            Some((shards, count)) if !shards.is_empty() => {
                let proof = format!("{count} sharding keys that it asks for lie there");
                Self { shards: shards.into_iter().collect(), keys: Some(count), proof }
            }
            // No row is like that: any shard says so, with the right columns.
            Some((_, count)) => {
                let proof = "its conditions on sharding keys exclude each other".to_owned();
                Self { shards: every.take(1).collect(), keys: Some(count), proof }
            }
            None => {
                let proof = "no condition ties it to fewer shards than all".to_owned();
                Self { shards: every.collect(), keys: None, proof }
            }
        })
    }
}

/// The shards of keys of one column, and how many keys they are: by each list; none without one.
fn of_one(
    reading: &Reading,
    tables: &[TableRef],
    statement: &StatementFacts,
    cx: &PlanContext<'_>,
) -> Result<Option<(BTreeSet<ShardIndex>, usize)>, Stop> {
    let mut narrowed: Option<(BTreeSet<ShardIndex>, usize)> = None;
    for (column, values) in &reading.lists {
        let Some(of) = proof::key_column(column, tables, cx) else { continue };
        let Some(found) = shards_of(values, of.key_type, statement, cx)? else { continue };
        narrowed = Some(match narrowed {
            None => found,
            Some((shards, count)) => (shards.intersection(&found.0).copied().collect(), count.min(found.1)),
        });
    }
    Ok(narrowed)
}

/// The shards of keys of several columns, and how many keys they are: by all lists together. The sharded tables in one row of the result
/// have one key, so that what is said of a column of one is said of all.
fn of_several(
    reading: &Reading,
    key: &TableKey,
    tables: &[TableRef],
    statement: &StatementFacts,
    cx: &PlanContext<'_>,
) -> Option<(BTreeSet<ShardIndex>, usize)> {
    if cx.distrust.keys.is_some() {
        return None;
    }
    let each = reading.lists.iter().filter_map(|(column, values)| match values {
        Values::Each(values) => Some((column, values.as_slice())),
        Values::Array(_) => None,
    });
    let each: Vec<(&ColumnRef, &[KeyValue])> = each.collect();
    let read = proof::Reading::new(tables, &each, &statement.repeated, cx);
    let mut tuples = Tuples::new(key.width());
    // What is not bound yet narrows nothing: the statement is planned again.
    let mut unbound = None;
    for (column, values) in each {
        if let Some((place, hashes)) = read.list(column, values, &mut unbound) {
            tuples.narrow(place, hashes);
        }
    }
    for (column, values) in &reading.lists {
        if let Values::Array(value) = values
            && let Some(of) = proof::key_column(column, tables, cx)
            && let Some(hashes) = hashes_of_array(value, of.key_type, statement, cx)
        {
            tuples.narrow(of.place, hashes);
        }
    }
    for list in &reading.row_lists {
        if let Some((_, rows)) = read.rows(list, &mut unbound) {
            tuples.narrow_to_rows(rows);
        }
    }
    let slots = tuples.slots()?;
    Some((slots.iter().map(|slot| cx.map.owner(*slot)).collect(), slots.len()))
}

/// The shards of a list of keys, and how many they are; none if one of them cannot be told.
fn shards_of(
    values: &Values,
    key_type: KeyType,
    statement: &StatementFacts,
    cx: &PlanContext<'_>,
) -> Result<Option<(BTreeSet<ShardIndex>, usize)>, Stop> {
    if cx.distrust.keys.is_some() {
        return Ok(None);
    }
    let values = match values {
        Values::Each(values) => values,
        Values::Array(value) => return Ok(shards_of_array(value, key_type, statement, cx)),
    };
    if let [KeyValue::Null] = values.as_slice() {
        // transform_null_equals may make IS NULL of it.
        return Ok(None);
    }
    let params = Params::of(&statement.repeated, values.iter());
    let mut shards = BTreeSet::new();
    for value in values {
        let key =
            params.check(value, key_type, cx.bound).and_then(|()| Key::from_value(value, key_type, cx.bound, cx.utf8));
        match key {
            Ok(key) => drop(shards.insert(cx.map.owner(key.slot()))),
            // Nothing is equal to it.
            Err(KeyError::Null) if matches!(value, KeyValue::Null) => {}
            Err(_) => return Ok(None),
        }
    }
    Ok(Some((shards, values.len())))
}

/// The same of an array.
fn shards_of_array(
    value: &KeyValue,
    key_type: KeyType,
    statement: &StatementFacts,
    cx: &PlanContext<'_>,
) -> Option<(BTreeSet<ShardIndex>, usize)> {
    let hashes = hashes_of_array(value, key_type, statement, cx)?;
    Some((hashes.iter().map(|hash| cx.map.owner(slot_of(*hash))).collect(), hashes.len()))
}

/// The hashes of an array's elements. The type of a parameter that is used more than once is that of the use that the server comes to first.
fn hashes_of_array(
    value: &KeyValue,
    key_type: KeyType,
    statement: &StatementFacts,
    cx: &PlanContext<'_>,
) -> Option<Vec<u64>> {
    if let (KeyValue::Param { number, .. }, Some(bound)) = (value, cx.bound)
        && bound.declared(*number).is_none()
        && statement.repeated.iter().any(|used| used.number == *number)
    {
        return None;
    }
    array::hashes(value, key_type, cx.bound, cx.utf8)
}

//! Finds the keys that a statement's equalities tie its sharded tables to.

use std::collections::{BTreeMap, BTreeSet};

use super::params::Families;
use super::relations::{self, Home};
use super::tuples::{Rows, Tuples};
use super::{PlanContext, Slot, Stop, TableRef, refusal};
use crate::id::ShardIndex;
use crate::shard::hash;
use crate::shard::key::{EXPRESSION, Key, KeyError};
use crate::shard::map::{DEFAULT_SCHEMA, KeyType};
use crate::shard::table_key::{TableKey, slot_of_columns};
use crate::sql::facts::{ColumnRef, KeyValue, ParamUse};
use crate::sql::touch::RowList;

/// A value that a column of a key must be equal to.
pub(super) struct Compared<'a> {
    /// The number of the table in `top`.
    pub(super) table: usize,
    /// The place of the column in its key.
    pub(super) place: usize,
    /// The value.
    pub(super) key: Result<Key<'a>, KeyError>,
}

/// The equalities that speak of the key of one of the sharded tables in `top`, read as keys. A column without a qualifier is
/// taken for a table's only if there is no other table.
pub(super) fn keys<'a>(
    top: &'a [TableRef],
    equalities: &'a [(ColumnRef, KeyValue)],
    repeated: &'a [ParamUse],
    cx: &PlanContext<'a>,
) -> impl Iterator<Item = Compared<'a>> {
    let of_keys = || equalities.iter().filter_map(|(c, value)| Some((key_column(c, top, cx)?, value)));
    let params = Families::of(repeated, of_keys().map(|(column, value)| (column.key_type, value)));
    let (bound, utf8) = (cx.bound, cx.utf8);
    of_keys().collect::<Vec<_>>().into_iter().map(move |(OfKey { table, place, key_type }, value)| {
        let decided = params.check(value, key_type, bound);
        let key = decided.and_then(|()| Key::from_value(value, key_type, bound, utf8));
        Compared { table, place, key }
    })
}

/// The first sharded table of `top`, which is the only one or the one that is written, and its key.
fn only_sharded<'a>(top: &'a [TableRef], cx: &PlanContext<'a>) -> Option<(&'a TableRef, &'a TableKey)> {
    top.iter().find_map(|table| match relations::home(table, cx.map) {
        Home::Sharded { key } => Some((table, key)),
        Home::Reference | Home::Unlisted => None,
    })
}

/// The slot that the only sharded table of `top` is tied to.
///
/// One constant for each column of its key is proof enough, whatever else is said of it: rows that pass a conjunction pass each of its
/// terms.
///
/// # Errors
/// There is no constant, or two that differ.
pub(super) fn slot(
    top: &[TableRef],
    equalities: &[(ColumnRef, KeyValue)],
    repeated: &[ParamUse],
    cx: &PlanContext<'_>,
) -> Result<Slot, Stop> {
    let Some((table, key)) = only_sharded(top, cx) else { return Err(refusal::lost().into()) };
    let mut proven: Vec<Option<u64>> = vec![None; key.width()];
    let mut failed: Vec<Option<KeyError>> = vec![None; key.width()];
    let mut unbound: Option<u16> = None;
    // Of one column other keys of the same slot are as good.
    let same = |a: u64, b: u64| a == b || (key.width() == 1 && hash::slot_of(a) == hash::slot_of(b));
    for Compared { place, key, .. } in keys(top, equalities, repeated, cx) {
        let (Some(proven), Some(failed)) = (proven.get_mut(place), failed.get_mut(place)) else { continue };
        match key {
            Ok(key) => {
                if proven.is_some_and(|before| !same(before, key.hash())) {
                    return Err(Stop::Untied(refusal::contradictory()));
                }
                *proven = Some(key.hash());
            }
            Err(KeyError::Unbound(number)) => unbound = Some(number),
            Err(error) => *failed = Some(error),
        }
    }
    if let Some(number) = unbound {
        // It may turn out to contradict what is proven.
        return Err(Stop::Unbound(number));
    }
    if let Some(hashes) = proven.iter().copied().collect::<Option<Vec<u64>>>() {
        return Ok(slot_of_columns(hashes));
    }
    // What is wrong with a value says more than that another column has none.
    let columns = || key.columns().iter().zip(&proven).zip(&failed).filter(|((_, proven), _)| proven.is_none());
    if let Some((column, error)) = columns().find_map(|((column, _), failed)| Some((column, failed.clone()?))) {
        let computed = matches!(error, KeyError::Null | KeyError::NotConstant(EXPRESSION));
        let refusal = refusal::bad_key(&table.name, &column.name, error);
        return Err(if computed { Stop::Untied(refusal) } else { refusal.into() });
    }
    let missing: Vec<&str> = columns().map(|((column, _), _)| column.name.as_str()).collect();
    let is_missing = |column: &ColumnRef| missing.contains(&column.column.as_str());
    let unqualified = equalities.iter().find(|(column, _)| column.qualifier.is_empty() && is_missing(column));
    Err(Stop::Untied(match unqualified {
        Some((column, _)) => refusal::ambiguous(&table.name, &column.column),
        None => refusal::no_key(&table.name, &missing.join("\", \"")),
    }))
}

/// Whether a key must be equal to a parameter that is NULL, so that there is no row. (A NULL that is written may be taken for IS NULL, by
/// `transform_null_equals`.)
pub(super) fn is_null(
    top: &[TableRef],
    equalities: &[(ColumnRef, KeyValue)],
    repeated: &[ParamUse],
    cx: &PlanContext<'_>,
) -> bool {
    let is_param = |(_, value): &&(ColumnRef, KeyValue)| matches!(value, KeyValue::Param { .. });
    let of_params: Vec<_> = equalities.iter().filter(is_param).cloned().collect();
    keys(top, &of_params, repeated, cx).any(|compared| compared.key == Err(KeyError::Null))
}

/// What a statement says of the keys of its tables beside single constants.
pub(super) struct Listed<'a> {
    /// What IN says of columns.
    pub(super) lists: &'a [(ColumnRef, Vec<KeyValue>)],
    /// What IN says of rows of columns.
    pub(super) rows: &'a [RowList],
}

/// The shard to which all keys belong that the lists allow, and how many lists' values or keys they are.
///
/// # Errors
/// A parameter of a list must be known first.
pub(super) fn listed(
    top: &[TableRef],
    equalities: &[(ColumnRef, KeyValue)],
    listed: &Listed<'_>,
    repeated: &[ParamUse],
    cx: &PlanContext<'_>,
) -> Result<Option<(ShardIndex, usize)>, Stop> {
    match only_sharded(top, cx) {
        Some((table, key)) if key.width() > 1 => listed_of_several(top, (table, key), equalities, listed, repeated, cx),
        Some(_) => listed_of_one(top, listed.lists, repeated, cx),
        None => Ok(None),
    }
}

/// Of a key of one column: by a list of its own.
fn listed_of_one(
    top: &[TableRef],
    lists: &[(ColumnRef, Vec<KeyValue>)],
    repeated: &[ParamUse],
    cx: &PlanContext<'_>,
) -> Result<Option<(ShardIndex, usize)>, Stop> {
    let mut unbound = None;
    for (column, values) in lists {
        let each: Vec<_> = values.iter().map(|value| (column.clone(), value.clone())).collect();
        let read: Vec<_> = keys(top, &each, repeated, cx).map(|compared| compared.key).collect();
        for key in &read {
            if let Err(KeyError::Unbound(number)) = key {
                unbound.get_or_insert(*number);
            }
        }
        let mut shards = read.into_iter().map(|key| key.ok().map(|key| cx.map.owner(key.slot())));
        if let Some(Some(first)) = shards.next()
            && shards.all(|shard| shard == Some(first))
        {
            return Ok(Some((first, values.len())));
        }
    }
    unbound.map_or(Ok(None), |number| Err(Stop::Unbound(number)))
}

/// Of a key of several columns: by all that is said of each, and of several together.
fn listed_of_several(
    top: &[TableRef],
    (table, key): (&TableRef, &TableKey),
    equalities: &[(ColumnRef, KeyValue)],
    listed: &Listed<'_>,
    repeated: &[ParamUse],
    cx: &PlanContext<'_>,
) -> Result<Option<(ShardIndex, usize)>, Stop> {
    let (tuples, _) = known(top, (table, key), Said { equalities, listed, given: &[] }, repeated, cx)?;
    let Some(slots) = tuples.slots() else { return Ok(None) };
    let mut shards = slots.iter().map(|slot| cx.map.owner(*slot));
    let first = shards.next();
    Ok(first.filter(|first| shards.all(|shard| shard == *first)).map(|shard| (shard, slots.len())))
}

/// What a statement says of a key.
#[derive(Clone, Copy)]
pub(super) struct Said<'a> {
    pub(super) equalities: &'a [(ColumnRef, KeyValue)],
    pub(super) listed: &'a Listed<'a>,
    /// What it gives the columns of the key of its rows.
    pub(super) given: &'a [(ColumnRef, KeyValue)],
}

/// The slots of the keys that rows have when their columns are given other values; none if they are not known, or very many.
///
/// # Errors
/// A parameter must be known first.
pub(super) fn moved(
    top: &[TableRef],
    said: Said<'_>,
    repeated: &[ParamUse],
    cx: &PlanContext<'_>,
) -> Result<Option<BTreeSet<Slot>>, Stop> {
    let Some(of) = only_sharded(top, cx) else { return Ok(None) };
    let (tuples, given) = known(top, of, said, repeated, cx)?;
    Ok(given.and_then(|given| tuples.slots_with(&given)))
}

/// Each value as a list of its own.
fn one_by_one(pairs: &[(ColumnRef, KeyValue)]) -> impl Iterator<Item = (&ColumnRef, &[KeyValue])> {
    pairs.iter().map(|(column, value)| (column, std::slice::from_ref(value)))
}

/// The hashes of what the columns of a key are given, by their places.
type Given = Vec<(usize, u64)>;

/// What is known of a key, and the hashes of what its columns are given, by their places; none if one of these cannot be told.
fn known(
    top: &[TableRef],
    (table, key): (&TableRef, &TableKey),
    said: Said<'_>,
    repeated: &[ParamUse],
    cx: &PlanContext<'_>,
) -> Result<(Tuples, Option<Given>), Stop> {
    let Said { equalities, listed, given } = said;
    let lists = one_by_one(equalities).chain(listed.lists.iter().map(|(column, values)| (column, values.as_slice())));
    let lists: Vec<(&ColumnRef, &[KeyValue])> = lists.collect();
    let uses: Vec<(&ColumnRef, &[KeyValue])> = lists.iter().copied().chain(one_by_one(given)).collect();
    let read = Reading::new(top, &uses, repeated, cx);
    let mut tuples = Tuples::new(key.width());
    let mut unbound = None;
    let is_own = |number: usize| top.get(number).is_some_and(|other| std::ptr::eq(other, table));
    let of_own = |column: &ColumnRef| key_column(column, top, cx).is_some_and(|of| is_own(of.table));
    for (column, values) in lists.into_iter().filter(|(column, _)| of_own(column)) {
        if let Some((place, hashes)) = read.list(column, values, &mut unbound) {
            tuples.narrow(place, hashes);
        }
    }
    for list in listed.rows {
        if let Some((number, rows)) = read.rows(list, &mut unbound)
            && is_own(number)
        {
            tuples.narrow_to_rows(rows);
        }
    }
    let mut one = |column, value| {
        let (place, hashes) = read.list(column, std::slice::from_ref(value), &mut unbound)?;
        Some((place, *hashes.first()?))
    };
    let given = given.iter().map(|(column, value)| one(column, value)).collect();
    match unbound {
        Some(number) => Err(Stop::Unbound(number)),
        None => Ok((tuples, given)),
    }
}

/// Reads lists of values for columns of keys.
pub(super) struct Reading<'a> {
    top: &'a [TableRef],
    params: Families,
    cx: &'a PlanContext<'a>,
}

impl<'a> Reading<'a> {
    /// `lists`: all in which parameters give keys, each use once. (What is said of rows is among them, column by column.)
    pub(super) fn new(
        top: &'a [TableRef],
        lists: &[(&ColumnRef, &[KeyValue])],
        repeated: &[ParamUse],
        cx: &'a PlanContext<'a>,
    ) -> Self {
        let mut values: Vec<(KeyType, &KeyValue)> = Vec::new();
        for (column, list) in lists {
            if let Some(of) = key_column(column, top, cx) {
                values.extend(list.iter().map(|value| (of.key_type, value)));
            }
        }
        let params = Families::of(repeated, values.iter().copied());
        Self { top, params, cx }
    }

    /// The place of the column in a key, and the hashes of a list's values; none if the column is none of a key, or a value cannot be told.
    /// Of several values a NULL that is written is left out: nothing is equal to it. (Alone it may be taken for IS NULL.)
    pub(super) fn list(
        &self,
        column: &ColumnRef,
        values: &[KeyValue],
        unbound: &mut Option<u16>,
    ) -> Option<(usize, Vec<u64>)> {
        let of = key_column(column, self.top, self.cx)?;
        let alone = values.len() == 1;
        let values = values.iter().filter(|value| alone || !matches!(value, KeyValue::Null));
        let hashes: Vec<Option<u64>> = values.map(|value| self.hash(value, of.key_type, unbound)).collect();
        Some((of.place, hashes.into_iter().collect::<Option<_>>()?))
    }

    /// The same of rows, and the number of the table; of the columns those that are of a key.
    pub(super) fn rows(&self, list: &RowList, unbound: &mut Option<u16>) -> Option<(usize, Rows)> {
        let of = |column: &Option<ColumnRef>| key_column(column.as_ref()?, self.top, self.cx);
        let columns: Vec<(usize, OfKey)> =
            list.columns.iter().enumerate().filter_map(|(at, column)| Some((at, of(column)?))).collect();
        // Of two tables they are no row of one key.
        let table = columns.first()?.1.table;
        if columns.iter().any(|(_, of)| of.table != table) {
            return None;
        }
        let mut read = Vec::with_capacity(list.rows.len());
        for row in &list.rows {
            if list.rows.len() > 1 && columns.iter().any(|(at, _)| row.get(*at) == Some(&KeyValue::Null)) {
                continue;
            }
            let hashes = columns.iter().map(|(at, of)| self.hash(row.get(*at)?, of.key_type, unbound));
            read.push(hashes.collect::<Vec<Option<u64>>>());
        }
        let hashes = read.into_iter().map(|row| row.into_iter().collect()).collect::<Option<Vec<Vec<u64>>>>()?;
        Some((table, Rows { places: columns.iter().map(|(_, of)| of.place).collect(), hashes }))
    }

    fn hash(&self, value: &KeyValue, key_type: KeyType, unbound: &mut Option<u16>) -> Option<u64> {
        let decided = self.params.check(value, key_type, self.cx.bound);
        match decided.and_then(|()| Key::from_value(value, key_type, self.cx.bound, self.cx.utf8)) {
            Ok(key) => Some(key.hash()),
            Err(KeyError::Unbound(number)) => {
                unbound.get_or_insert(number);
                None
            }
            Err(_) => None,
        }
    }
}

/// The keys that a statement speaks of.
#[derive(Debug, Default)]
pub(super) struct Spoken<'a> {
    /// The slots of those that it names whole.
    pub(super) slots: Vec<Slot>,
    /// What it says of columns of others.
    pub(super) parts: Vec<Part<'a>>,
}

/// What a statement says of a column of a key of which it does not name all columns.
#[derive(Debug)]
pub(super) struct Part<'a> {
    pub(super) column: &'a str,
    /// Its place in the key.
    pub(super) place: usize,
    /// The hashes of the values that it may have.
    pub(super) hashes: BTreeSet<u64>,
}

/// The keys that a statement speaks of, for each table by itself: of a key of one column every value's, of several every key
/// that can be made of the values of its columns, or of those rows of them that are listed. None: they are very many.
///
/// # Errors
/// A parameter must be known first.
pub(super) fn spoken_of<'a>(
    top: &[TableRef],
    equalities: &[(ColumnRef, KeyValue)],
    row_lists: &[RowList],
    repeated: &[ParamUse],
    cx: &PlanContext<'a>,
) -> Result<Option<Spoken<'a>>, Stop> {
    let mut tables: BTreeMap<usize, (&TableKey, Tuples)> = BTreeMap::new();
    for Compared { table, place, key } in keys(top, equalities, repeated, cx) {
        let Some(Home::Sharded { key: of }) = top.get(table).map(|table| relations::home(table, cx.map)) else {
            continue;
        };
        match key {
            Ok(key) => {
                let (_, tuples) = tables.entry(table).or_insert_with(|| (of, Tuples::new(of.width())));
                tuples.widen(place, key.hash());
            }
            Err(KeyError::Unbound(number)) => return Err(Stop::Unbound(number)),
            // It proves nothing, and nothing needs proof.
            Err(
                KeyError::Null
                | KeyError::Default
                | KeyError::NotConstant(_)
                | KeyError::Undecided(_)
                | KeyError::Invalid(_),
            ) => {}
        }
    }
    let read = Reading::new(top, &one_by_one(equalities).collect::<Vec<_>>(), repeated, cx);
    for list in row_lists {
        let mut unbound = None;
        if let Some((table, rows)) = read.rows(list, &mut unbound)
            && let Some((_, tuples)) = tables.get_mut(&table)
        {
            tuples.narrow_to_rows(rows);
        }
    }
    let mut spoken = Spoken::default();
    for (of, tuples) in tables.into_values() {
        if tuples.unknown().is_some() {
            let parts = tuples.into_columns().zip(of.names()).enumerate();
            let part = |(place, (hashes, column))| Some(Part { column, place, hashes: hashes? });
            spoken.parts.extend(parts.filter_map(part));
            continue;
        }
        match tuples.slots() {
            Some(slots) => spoken.slots.extend(slots),
            None => return Ok(None),
        }
    }
    Ok(Some(spoken))
}

/// A merged column, as if it were this table's: it is equal to it.
pub(super) fn qualified(column: &ColumnRef, table: &TableRef) -> ColumnRef {
    let qualifier = match (&table.alias, &table.schema) {
        (None, Some(schema)) => vec![schema.clone(), table.name.clone()],
        (alias, _) => vec![alias.as_ref().unwrap_or(&table.name).clone()],
    };
    ColumnRef { qualifier, column: column.column.clone() }
}

/// A column of a key.
#[derive(Debug, Clone, Copy)]
pub(super) struct OfKey {
    /// The number of the table in `top`.
    pub(super) table: usize,
    /// The place of the column in the key.
    pub(super) place: usize,
    /// Its type.
    pub(super) key_type: KeyType,
}

/// Which column of a key a column is, if it is one.
pub(super) fn key_column(column: &ColumnRef, top: &[TableRef], cx: &PlanContext<'_>) -> Option<OfKey> {
    let mut spoken_of = top.iter().enumerate().filter(|(_, table)| speaks_of(&column.qualifier, table, top));
    let (number, table) = spoken_of.next()?;
    if spoken_of.next().is_some() {
        return None;
    }
    match relations::home(table, cx.map) {
        Home::Sharded { key } => {
            let place = key.place(&column.column)?;
            Some(OfKey { table: number, place, key_type: key.columns().get(place)?.key_type })
        }
        Home::Reference | Home::Unlisted => None,
    }
}

/// Whether a column so qualified is one of `table`: by its alias, which hides the name; by its name; by schema and name.
fn speaks_of(qualifier: &[String], table: &TableRef, top: &[TableRef]) -> bool {
    match qualifier {
        [] => top.len() == 1,
        [name] => table.alias.as_ref().unwrap_or(&table.name) == name,
        [schema, name] | [_, schema, name] => {
            table.alias.is_none() && table.name == *name && table.schema.as_deref().unwrap_or(DEFAULT_SCHEMA) == schema
        }
        _ => false,
    }
}

//! Finds the keys that a statement's equalities tie its sharded tables to.

use super::params::Params;
use super::relations::{self, Home};
use super::{PlanContext, Slot, Stop, TableRef, refusal};
use crate::id::ShardIndex;
use crate::shard::key::{EXPRESSION, Key, KeyError};
use crate::shard::map::{DEFAULT_SCHEMA, KeyType};
use crate::sql::facts::{ColumnRef, KeyValue, ParamUse};

/// The equalities that speak of the key of one of the sharded tables in `top`, read as keys. A column without a qualifier is
/// taken for a table's only if there is no other table.
pub(super) fn keys<'a>(
    top: &'a [TableRef],
    equalities: &'a [(ColumnRef, KeyValue)],
    repeated: &'a [ParamUse],
    cx: &PlanContext<'a>,
) -> impl Iterator<Item = Result<Key<'a>, KeyError>> {
    // Keys of another family than the first are not counted: their parameters are then undecided.
    let of_keys = || equalities.iter().filter_map(|(c, value)| Some((key_type_of(c, top, cx)?, value)));
    let first = of_keys().next().map(|(key_type, _)| key_type);
    let alike = of_keys().filter(|(key_type, _)| first.is_some_and(|first| first.reads_as(*key_type)));
    let params = Params::of(repeated, alike.map(|(_, value)| value));
    equalities.iter().filter_map(move |(column, value)| {
        let key_type = key_type_of(column, top, cx)?;
        let decided = params.check(value, key_type, cx.bound);
        Some(decided.and_then(|()| Key::from_value(value, key_type, cx.bound, cx.utf8)))
    })
}

/// The slot that the only sharded table of `top` is tied to.
///
/// One constant is proof enough, whatever else is said of the key: rows that pass a conjunction pass each of its terms.
///
/// # Errors
/// There is no constant, or two that differ.
pub(super) fn slot(
    top: &[TableRef],
    equalities: &[(ColumnRef, KeyValue)],
    repeated: &[ParamUse],
    cx: &PlanContext<'_>,
) -> Result<Slot, Stop> {
    let mut proven: Option<Slot> = None;
    let mut unbound: Option<u16> = None;
    let mut failed: Option<KeyError> = None;
    for key in keys(top, equalities, repeated, cx) {
        match key {
            Ok(key) => {
                let slot = key.slot();
                if proven.is_some_and(|before| before != slot) {
                    return Err(Stop::Untied(refusal::contradictory()));
                }
                proven = Some(slot);
            }
            Err(KeyError::Unbound(number)) => unbound = Some(number),
            Err(error) => failed = Some(error),
        }
    }
    if let Some(number) = unbound {
        // It may turn out to contradict what is proven.
        return Err(Stop::Unbound(number));
    }
    if let Some(slot) = proven {
        return Ok(slot);
    }
    let (table, key) = top
        .iter()
        .find_map(|table| match relations::home(table, cx.map) {
            Home::Sharded { key, .. } => Some((table.name.as_str(), key)),
            Home::Reference | Home::Unlisted => None,
        })
        .unwrap_or(("?", "?"));
    if let Some(error) = failed {
        let computed = matches!(error, KeyError::Null | KeyError::NotConstant(EXPRESSION));
        let refusal = refusal::bad_key(table, key, error);
        return Err(if computed { Stop::Untied(refusal) } else { refusal.into() });
    }
    let unqualified = equalities.iter().any(|(column, _)| column.qualifier.is_empty() && column.column == key);
    Err(Stop::Untied(if unqualified { refusal::ambiguous(table, key) } else { refusal::no_key(table, key) }))
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
    keys(top, &of_params, repeated, cx).any(|key| key == Err(KeyError::Null))
}

/// The shard to which all keys of a list belong, and how many they are.
///
/// # Errors
/// A parameter of a list must be known first.
pub(super) fn listed(
    top: &[TableRef],
    lists: &[(ColumnRef, Vec<KeyValue>)],
    repeated: &[ParamUse],
    cx: &PlanContext<'_>,
) -> Result<Option<(ShardIndex, usize)>, Stop> {
    let mut unbound = None;
    for (column, values) in lists {
        let each: Vec<_> = values.iter().map(|value| (column.clone(), value.clone())).collect();
        let read: Vec<_> = keys(top, &each, repeated, cx).collect();
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

/// A merged column, as if it were this table's: it is equal to it.
pub(super) fn qualified(column: &ColumnRef, table: &TableRef) -> ColumnRef {
    let qualifier = match (&table.alias, &table.schema) {
        (None, Some(schema)) => vec![schema.clone(), table.name.clone()],
        (alias, _) => vec![alias.as_ref().unwrap_or(&table.name).clone()],
    };
    ColumnRef { qualifier, column: column.column.clone() }
}

/// The type of the key that a column is, if it is one.
pub(super) fn key_type_of(column: &ColumnRef, top: &[TableRef], cx: &PlanContext<'_>) -> Option<KeyType> {
    let mut spoken_of = top.iter().filter(|table| speaks_of(&column.qualifier, table, top));
    let table = spoken_of.next()?;
    if spoken_of.next().is_some() {
        return None;
    }
    match relations::home(table, cx.map) {
        Home::Sharded { key, key_type } if key == column.column => Some(key_type),
        Home::Sharded { .. } | Home::Reference | Home::Unlisted => None,
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

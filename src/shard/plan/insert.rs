//! INSERT ... VALUES: where the keys of its rows send it.

use super::params::Families;
use super::relations::{self, Home, Relations};
use super::{
    Chosen, PlanContext, ShardPlan, StatementFacts, Stop, TableRef, Why, believe, chosen, effects, levels, refusal,
    write,
};
use crate::error::{Error, SqlState};
use crate::id::{ShardIndex, Slot};
use crate::shard::key::{Key, KeyError};
use crate::shard::table_key::{KeyColumn, TableKey, slot_of_columns};
use crate::sql::facts::{KeyValue, ParamUse};
use crate::sql::touch::Conflict;

/// A [`ShardShape::Insert`].
pub(super) struct Insert<'a> {
    pub(super) statement: &'a StatementFacts,
    pub(super) tables: &'a [TableRef],
    pub(super) columns: Option<&'a [String]>,
    pub(super) rows: &'a [Vec<KeyValue>],
    pub(super) assigned: &'a [String],
    pub(super) repeated: &'a [ParamUse],
    pub(super) conflict: &'a Conflict,
}

impl Insert<'_> {
    pub(super) fn plan(&self, relations: &Relations<'_>, cx: &PlanContext<'_>) -> Result<ShardPlan, Stop> {
        let Some(target) = self.tables.first() else {
            return Err(Error::us(SqlState::INTERNAL_ERROR, "an INSERT without a table").into());
        };
        let home = relations::home(target, cx.map);
        let others_sharded = relations.sharded().saturating_sub(usize::from(matches!(home, Home::Sharded { .. })));
        let chosen = chosen(cx, Some(relations))?;
        if chosen.is_none()
            && relations.sharded() > 0
            && let Some(plan) = levels::plan(self.statement, cx)?
        {
            return Ok(plan);
        }
        if others_sharded > 0 {
            // Also on a chosen shard: a WITH may write that table unseen.
            return Err(refusal::insert_reads_sharded(&target.name).into());
        }
        if chosen.is_none() && self.tables.len() > 1 && relations.listed() > 0 {
            // A reference table may be written by a WITH, which would reach one copy only.
            return Err(refusal::insert_reads_others(&target.name).into());
        }
        match home {
            Home::Sharded { key } => {
                believe(target, cx)?;
                effects::conflict_is_by_key(self.conflict, target, key, cx)?;
                self.plan_rows(target, key, chosen.as_ref(), cx)
            }
            Home::Reference => match chosen {
                Some(chosen) => Ok(chosen.plan()),
                None => {
                    let refusal = refusal::reference_write(&target.name);
                    write::reference_table(self.tables, refusal, (relations::placed(target), self.given()), cx)
                }
            },
            Home::Unlisted => {
                let default = || ShardPlan::single(cx.map.default_shard, Why::Unlisted);
                Ok(chosen.map_or_else(default, |chosen| chosen.plan()))
            }
        }
    }

    /// The columns that every row gives a value.
    fn given(&self) -> write::Given {
        let has_value = |place: usize| {
            let value = |row: &Vec<KeyValue>| row.get(place).is_some_and(|value| *value != KeyValue::Default);
            self.rows.iter().all(value)
        };
        self.columns.map_or(write::Given::Unknown, |columns| {
            let named = columns.iter().enumerate().filter(|(place, _)| has_value(*place));
            write::Given::These(named.map(|(_, column)| column.clone()).collect())
        })
    }

    /// Every row must say its key, and all must belong to one shard.
    fn plan_rows(
        &self,
        target: &TableRef,
        key: &TableKey,
        chosen: Option<&Chosen>,
        cx: &PlanContext<'_>,
    ) -> Result<ShardPlan, Stop> {
        let table = target.name.as_str();
        if let Some(name) = key.names().find(|name| self.assigned.iter().any(|column| column == name)) {
            return Err(refusal::key_assigned(table, name).into());
        }
        let places = self.places(target, key, cx)?;
        let each =
            self.rows.iter().flat_map(|row| places.iter().filter_map(|(c, at)| Some((c.key_type, row.get(*at)?))));
        let params = Families::of(self.repeated, each);
        let mut found: Option<(Slot, ShardIndex)> = None;
        let mut shards = Vec::with_capacity(self.rows.len());
        for row in self.rows {
            let slot = slot_of_row(table, row, &places, &params, cx)?;
            let shard = cx.map.owner(slot);
            if let Some(chosen) = chosen {
                chosen.check(slot, cx.map)?;
            }
            found.get_or_insert((slot, shard));
            shards.push(shard);
        }
        let (slot, shard) = found.ok_or_else(|| refusal::no_key_given(table, &key.quoted()))?;
        if let Some(other) = shards.iter().find(|other| **other != shard) {
            let disagree = refusal::rows_disagree(table, cx.map.name(shard), cx.map.name(*other));
            return write::insert(&shards, key, disagree, cx);
        }
        let why = if self.rows.len() == 1 { Why::Key(slot) } else { Why::Rows(self.rows.len()) };
        Ok(ShardPlan::single(shard, why))
    }

    /// The columns of the key, each with its place among the values of a row.
    fn places<'k>(
        &self,
        target: &TableRef,
        key: &'k TableKey,
        cx: &PlanContext<'_>,
    ) -> Result<Vec<(&'k KeyColumn, usize)>, Stop> {
        let table = target.name.as_str();
        let columns = relations::columns(self.columns, target, cx)
            .ok_or_else(|| refusal::no_column_list(table, &key.quoted()))?;
        let place = |of: &'k KeyColumn| {
            let place = columns.iter().position(|column| *column == of.name);
            place.map(|place| (of, place)).ok_or_else(|| Stop::from(refusal::no_key_given(table, &of.name)))
        };
        key.columns().iter().map(place).collect()
    }
}

/// The slot of a row, whose key stands at these places.
fn slot_of_row(
    table: &str,
    row: &[KeyValue],
    places: &[(&KeyColumn, usize)],
    params: &Families,
    cx: &PlanContext<'_>,
) -> Result<Slot, Stop> {
    let mut hashes = Vec::with_capacity(places.len());
    for (KeyColumn { name, key_type }, place) in places {
        let value = row.get(*place).ok_or_else(|| refusal::key_by_default(table, name))?;
        let decided = params.check(value, *key_type, cx.bound);
        match decided.and_then(|()| Key::from_value(value, *key_type, cx.bound, cx.utf8)) {
            Ok(read) if read.ends_in_space() => return Err(refusal::trailing_space(table, name).into()),
            Ok(read) => hashes.push(read.hash()),
            Err(KeyError::Unbound(number)) => return Err(Stop::Unbound(number)),
            Err(error) => return Err(refusal::bad_key(table, name, error).into()),
        }
    }
    Ok(slot_of_columns(hashes))
}

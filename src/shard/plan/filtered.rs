//! SELECT, UPDATE and DELETE: where their conditions send them.

use std::collections::BTreeSet;

use super::relations::{self, Home, Relations};
use super::{
    Chosen, PlanContext, ShardPlan, StatementFacts, Stop, TableRef, Verb, Why, access, believe, believe_table, chosen,
    effects, levels, proof, refusal, scatter, write,
};
use crate::error::Error;
use crate::id::Slot;
use crate::shard::key::KeyError;
use crate::sql::facts::{Access, ColumnRef, KeyValue};

/// A [`ShardShape::Filtered`], without its list of tables.
pub(super) struct Filtered<'a> {
    pub(super) statement: &'a StatementFacts,
    pub(super) verb: Verb,
    pub(super) top: &'a [TableRef],
    pub(super) equalities: &'a [(ColumnRef, KeyValue)],
    pub(super) assigned: &'a [String],
    pub(super) nested: Option<&'static str>,
}

impl Filtered<'_> {
    /// The table that UPDATE or DELETE writes.
    fn target(&self) -> Option<&TableRef> {
        match self.verb {
            Verb::Select => None,
            Verb::Update | Verb::Delete => self.top.first(),
        }
    }

    /// No table of it is sharded.
    pub(super) fn plan_unsharded(&self, relations: &Relations<'_>, cx: &PlanContext<'_>) -> Result<ShardPlan, Stop> {
        if let Some(chosen) = chosen(cx, None)? {
            return Ok(chosen.plan());
        }
        effects::locks_no_copy(self.statement, cx)?;
        let writes = access(self.statement, cx) == Access::Write;
        if let Some(reference) = relations.first_reference() {
            let target = self.target().map(|table| relations::home(table, cx.map));
            // Below the top level a WITH may write it unseen.
            let may_write = target == Some(Home::Reference) || (self.nested.is_some() && writes);
            if may_write || (writes && relations.unlisted() == 0) {
                let refusal = refusal::reference_write(&reference.name);
                let is_plain = self.nested.is_none() && self.top.len() == 1 && relations.unlisted() == 0;
                return if is_plain && target == Some(Home::Reference) && self.statement.effects.is_empty() {
                    write::reference_table(
                        self.statement.shape.tables(),
                        refusal,
                        (relations::placed(reference), write::Given::All),
                        cx,
                    )
                } else {
                    Err(refusal.into())
                };
            }
        }
        if relations.unlisted() > 0 {
            return Ok(ShardPlan::single(cx.map.default_shard, Why::Unlisted));
        }
        if writes {
            return Ok(ShardPlan::single(cx.map.default_shard, Why::DefaultShard));
        }
        for table in self.statement.shape.tables() {
            believe_table(table, cx)?;
        }
        Ok(ShardPlan::AnyShard { why: "it reads only reference tables" })
    }

    /// At least one table of it is sharded.
    pub(super) fn plan(&self, relations: &Relations<'_>, cx: &PlanContext<'_>) -> Result<ShardPlan, Stop> {
        let chosen = chosen(cx, Some(relations))?;
        let given = self.key_given(cx)?;
        if given.is_empty() {
            return match chosen {
                Some(chosen) => self.plan_chosen(&chosen, cx),
                None => self.plan_by_key(relations, cx),
            };
        }
        let Some(target) = self.target() else { return Err(refusal::lost().into()) };
        let Home::Sharded { key } = relations::home(target, cx.map) else { return Err(refusal::lost().into()) };
        let refusal = || refusal::key_assigned(&target.name, &key.quoted());
        match chosen {
            // What its rows are given is one more key that it speaks of; of several columns, with those that it leaves.
            Some(chosen) => {
                for slot in self.slots_given(&given, cx)?.ok_or_else(refusal)? {
                    chosen.check(slot, cx.map)?;
                }
                self.plan_chosen(&chosen, cx)
            }
            None => match self.plan_given(&given, refusal, relations, cx) {
                Err(Stop::Untied(refusal)) => levels::plan(self.statement, cx)?.ok_or(Stop::Untied(refusal)),
                planned => planned,
            },
        }
    }

    /// The slots of the keys that rows have when they are `given` these columns; none if they are not known.
    fn slots_given(
        &self,
        given: &[(ColumnRef, KeyValue)],
        cx: &PlanContext<'_>,
    ) -> Result<Option<BTreeSet<Slot>>, Stop> {
        let touch = &self.statement.touch;
        let listed = proof::Listed { lists: &touch.lists, rows: &touch.row_lists };
        let said = proof::Said { equalities: self.equalities, listed: &listed, given };
        proof::moved(self.top, said, &self.statement.repeated, cx)
    }

    /// Plans it by its conditions: the keys that its rows are given must belong where they are. A single key may only be given itself, or
    /// one of its slot.
    fn plan_given(
        &self,
        given: &[(ColumnRef, KeyValue)],
        refusal: impl Fn() -> Error,
        relations: &Relations<'_>,
        cx: &PlanContext<'_>,
    ) -> Result<ShardPlan, Stop> {
        let planned = self.plan_one_shard(relations, cx)?;
        let ShardPlan::Single { shard, why } = &planned else { return Err(Stop::Untied(refusal())) };
        let stays = |slot: &Slot| match why {
            Why::NoRow => true,
            Why::Key(before) => slot == before,
            _ => cx.map.owner(*slot) == *shard,
        };
        match self.slots_given(given, cx)? {
            Some(slots) if slots.iter().all(stays) => Ok(planned),
            _ => Err(Stop::Untied(refusal())),
        }
    }

    /// The columns of the key that an UPDATE gives all of its rows, as conditions; none if it leaves the key as it is.
    ///
    /// # Errors
    /// It gives them another than can be read here.
    fn key_given(&self, cx: &PlanContext<'_>) -> Result<Vec<(ColumnRef, KeyValue)>, Stop> {
        let Some(target) = self.target() else { return Ok(Vec::new()) };
        let Home::Sharded { key } = relations::home(target, cx.map) else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        for name in key.names().filter(|name| self.assigned.iter().any(|column| column == name)) {
            all.push(self.column_given(target, name, cx)?);
        }
        Ok(all)
    }

    fn column_given(&self, target: &TableRef, name: &str, cx: &PlanContext<'_>) -> Result<(ColumnRef, KeyValue), Stop> {
        let refusal = || Stop::Refuse(refusal::key_assigned(&target.name, name));
        let mut values = self.statement.touch.given.iter().filter(|(column, _)| column == name);
        let (Some((_, value)), None) = (values.next(), values.next()) else { return Err(refusal()) };
        let column = proof::qualified(&ColumnRef { qualifier: Vec::new(), column: name.to_owned() }, target);
        let given = (column, value.clone());
        let read = proof::keys(self.top, std::slice::from_ref(&given), &self.statement.repeated, cx).next();
        match read.map(|compared| compared.key) {
            // Its column may cut a space.
            Some(Ok(key)) if key.ends_in_space() => Err(refusal()),
            Some(Ok(_)) => Ok(given.clone()),
            Some(Err(KeyError::Unbound(number))) => Err(Stop::Unbound(number)),
            Some(Err(_)) | None => Err(refusal()),
        }
    }

    /// The user has chosen the shard: the statement means the rows of that shard, unless its keys say otherwise.
    fn plan_chosen(&self, chosen: &Chosen, cx: &PlanContext<'_>) -> Result<ShardPlan, Stop> {
        if let Some(nested) = self.nested
            && access(self.statement, cx) == Access::Write
        {
            // A WITH could insert rows or move keys unseen.
            return Err(refusal::nested_write(nested).into());
        }
        let repeated = &self.statement.repeated;
        let touch = &self.statement.touch;
        let listed = touch.lists.iter().flat_map(|(column, values)| values.iter().map(move |value| (column, value)));
        let equal = self.equalities.iter().map(|(column, value)| (column, value));
        let merged = touch.merged.iter().flat_map(|(column, value)| {
            let tables = self.statement.shape.tables().iter();
            tables.map(move |table| (proof::qualified(column, table), value)).collect::<Vec<_>>()
        });
        let merged: Vec<(ColumnRef, &KeyValue)> = merged.collect();
        let all = equal.chain(listed).chain(merged.iter().map(|(column, value)| (column, *value)));
        let all: Vec<(ColumnRef, KeyValue)> = all.map(|(column, value)| (column.clone(), value.clone())).collect();
        let inner = touch.inner.iter().map(|(tables, equal)| (tables.as_slice(), equal.as_slice(), [].as_slice()));
        let top = (self.top, all.as_slice(), touch.row_lists.as_slice());
        for (tables, equal, row_lists) in std::iter::once(top).chain(inner) {
            let spoken = proof::spoken_of(tables, equal, row_lists, repeated, cx)?;
            let spoken = spoken.ok_or_else(refusal::very_many_keys)?;
            spoken.slots.iter().try_for_each(|slot| chosen.check(*slot, cx.map))?;
            spoken.parts.iter().try_for_each(|part| chosen.check_part(part))?;
        }
        Ok(chosen.plan())
    }

    fn plan_by_key(&self, relations: &Relations<'_>, cx: &PlanContext<'_>) -> Result<ShardPlan, Stop> {
        effects::locks_no_copy(self.statement, cx)?;
        let refusal = match self.plan_one_shard(relations, cx) {
            Err(Stop::Untied(_)) if self.verb == Verb::Select && self.statement.touch.locks_rows() => {
                refusal::locks_several()
            }
            Err(Stop::Untied(refusal)) => refusal,
            planned => return planned,
        };
        let (refusal, better) = match levels::plan(self.statement, cx) {
            Ok(Some(plan)) => return Ok(plan),
            Ok(None) => (refusal, None),
            Err(Stop::Untied(better)) => (refusal, Some(better)),
            Err(stop) => return Err(stop),
        };
        let planned = if self.verb == Verb::Select {
            scatter::plan(self.statement, refusal, cx)
        } else if self.is_unkeyed(relations, cx) {
            write::unkeyed_rows(self.statement.shape.tables(), refusal, cx)
        } else {
            Err(Stop::Untied(refusal))
        };
        match (planned, better) {
            (Err(Stop::Refuse(_) | Stop::Untied(_)), Some(better)) => Err(better.into()),
            (planned, _) => planned,
        }
    }

    /// Whether it is UPDATE or DELETE of rows of one sharded table, which other shards have of their own.
    fn is_unkeyed(&self, relations: &Relations<'_>, cx: &PlanContext<'_>) -> bool {
        let of_sharded = |table: &TableRef| matches!(relations::home(table, cx.map), Home::Sharded { .. });
        self.target().is_some_and(of_sharded)
            && self.nested.is_none()
            && relations.sharded() == 1
            && relations.unlisted() == 0
            && self.statement.effects.is_empty()
    }

    fn plan_one_shard(&self, relations: &Relations<'_>, cx: &PlanContext<'_>) -> Result<ShardPlan, Stop> {
        let Some(table) = relations.only_sharded()? else {
            return Err(refusal::lost().into());
        };
        if let Some(nested) = self.nested {
            return Err(Stop::Untied(refusal::nested(&table.name, nested)));
        }
        // What `top` does not list is below the top level, whatever `nested` says.
        let on_top = self.top.iter().filter(|t| matches!(relations::home(t, cx.map), Home::Sharded { .. })).count();
        if on_top != 1 {
            return Err(Stop::Untied(refusal::nested(&table.name, "a sub-query")));
        }
        if let Some(target) = self.target()
            && relations::home(target, cx.map) == Home::Reference
        {
            return Err(refusal::reference_write(&target.name).into());
        }
        for table in self.statement.shape.tables() {
            believe(table, cx)?;
        }
        let repeated = &self.statement.repeated;
        if proof::is_null(self.top, self.equalities, repeated, cx) {
            return Ok(ShardPlan::single(cx.map.default_shard, Why::NoRow));
        }
        match proof::slot(self.top, self.equalities, repeated, cx) {
            Ok(slot) => Ok(ShardPlan::single(cx.map.owner(slot), Why::Key(slot))),
            Err(Stop::Untied(refusal)) if self.verb != Verb::Select => {
                let touch = &self.statement.touch;
                let listed = proof::Listed { lists: &touch.lists, rows: &touch.row_lists };
                let found = proof::listed(self.top, self.equalities, &listed, repeated, cx)?;
                found.map(|(shard, count)| ShardPlan::single(shard, Why::Keys(count))).ok_or(Stop::Untied(refusal))
            }
            Err(stop) => Err(stop),
        }
    }
}

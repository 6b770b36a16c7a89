//! What a statement does beside reading and writing rows by their keys: a plan is held against that, or refused for it.

use std::collections::BTreeSet;

use super::relations::{self, Home};
use super::{
    PlanContext, ShardPlan, ShardShape, StatementFacts, TableRef, Verb, Why, access, believe, is_chosen, refusal,
};
use crate::error::Error;
use crate::shard::map::Table;
use crate::shard::table_key::TableKey;
use crate::sql::facts::Access;
use crate::sql::touch::{Conflict, Dml};

/// The first number of an object that is not PostgreSQL's own.
pub const FIRST_OWN_OID: u32 = 16384;

/// Holds a plan against what the shards may read or answer otherwise than the default one.
pub(super) fn settle(plan: ShardPlan, statement: &StatementFacts, cx: &PlanContext<'_>) -> ShardPlan {
    if let (ShardPlan::Single { .. }, true, Some(made)) =
        (&plan, statement.touch.fleeting, statement.shape.tables().first())
        && cx.map.lists_name(&made.name)
    {
        // The session keeps no server for it, so that the transaction may go on with shards where the name means the listed table.
        return ShardPlan::Reject(refusal::hides_listed(&made.name));
    }
    let own_type = cx.bound.is_some_and(|bound| bound.types.iter().any(|oid| *oid >= FIRST_OWN_OID));
    match plan {
        ShardPlan::Single { shard, .. } if shard != cx.map.default_shard => {
            if own_type {
                // The number that its client has for the type is the default shard's.
                return ShardPlan::Reject(refusal::own_type());
            }
            match &statement.touch.one_place {
                Some(function) if !is_chosen(cx) => ShardPlan::Reject(refusal::one_place(function)),
                _ => plan,
            }
        }
        ShardPlan::Fan(_) if own_type => ShardPlan::Reject(refusal::own_type()),
        ShardPlan::Fan(_) => {
            let mut targets = statement.touch.targets.iter().map(|(_, target)| believe(target, cx));
            targets.find_map(Result::err).map_or(plan, ShardPlan::Reject)
        }
        ShardPlan::AnyShard { .. }
            if (own_type || statement.touch.own_server || cx.distrust.keys.is_some())
                && access(statement, cx) != Access::Neutral =>
        {
            ShardPlan::single(cx.map.default_shard, Why::ShardsDiffer)
        }
        plan => plan,
    }
}

/// Whether it runs no code that writes elsewhere, nor asks for what no shard can tell: how large a table is that is spread over all.
///
/// # Errors
/// It does.
pub(super) fn check(statement: &StatementFacts, cx: &PlanContext<'_>) -> Result<(), Error> {
    if is_chosen(cx) {
        return Ok(());
    }
    if !cx.distrust.writes.is_empty() {
        nothing_runs_behind(statement, cx)?;
    }
    if !cx.distrust.updates.is_empty() || !cx.distrust.deletes.is_empty() {
        no_foreign_key_follows(statement, cx)?;
    }
    for name in &statement.touch.sizes_of {
        let mut parts = name.split('.').map(|part| part.trim().trim_matches('"')).rev();
        let table = parts.next().unwrap_or_default();
        if let Some(Table::Sharded { .. }) = cx.map.table(parts.next(), table) {
            return Err(refusal::size_of_part(table));
        }
    }
    Ok(())
}

/// Whether no trigger or rule runs behind what it writes that the checks have found to reach other tables than are there.
fn nothing_runs_behind(statement: &StatementFacts, cx: &PlanContext<'_>) -> Result<(), Error> {
    for (_, target) in &statement.touch.targets {
        let relation = cx.catalog.and_then(|catalog| catalog.relation(target));
        let reached = relation.map_or_else(|| vec![relations::placed(target)], |relation| relation.reaches.clone());
        if let Some(why) = reached.iter().find_map(|place| cx.distrust.writes.get(place)) {
            return Err(refusal::write_distrusted(&target.name, why));
        }
    }
    Ok(())
}

/// Whether it changes no column, nor deletes rows, which a foreign key follows to where it must not.
fn no_foreign_key_follows(statement: &StatementFacts, cx: &PlanContext<'_>) -> Result<(), Error> {
    let assigned = assigned(statement);
    for (what, target) in &statement.touch.targets {
        let relation = cx.catalog.and_then(|catalog| catalog.relation(target));
        let reached = relation.map_or_else(|| vec![relations::placed(target)], |relation| relation.reaches.clone());
        for place in reached.iter().chain([&relations::placed(target)]) {
            let updated = cx.distrust.updates.get(place).filter(|_| *what != Dml::Delete);
            let is_assigned = |column: &String| assigned.is_none_or(|assigned| assigned.contains(column));
            let update = updated.and_then(|columns| columns.iter().find(|(column, _)| is_assigned(column)));
            let delete = cx.distrust.deletes.get(place).filter(|_| matches!(what, Dml::Delete | Dml::Merge));
            if let Some(why) = update.map(|(_, why)| why).or(delete) {
                return Err(refusal::write_distrusted(&target.name, why));
            }
        }
    }
    Ok(())
}

/// The columns that a statement with one target may change; none if that is not known.
fn assigned(statement: &StatementFacts) -> Option<&[String]> {
    let [(what, _)] = statement.touch.targets.as_slice() else { return None };
    match &statement.shape {
        // What another query of it writes is not assigned by itself.
        ShardShape::Filtered { verb: Verb::Update, assigned, .. } if *what == Dml::Update => Some(assigned.as_slice()),
        ShardShape::Insert { assigned, .. } if *what == Dml::Insert => Some(assigned.as_slice()),
        ShardShape::Other { .. } if *what == Dml::Insert && statement.touch.conflict == Conflict::None => Some(&[]),
        _ => None,
    }
}

/// Whether a statement on a chosen shard, whose keys nobody has read, puts no rows into a sharded table, nor moves any.
///
/// # Errors
/// It may.
pub(super) fn rows_are_checked(statement: &StatementFacts, cx: &PlanContext<'_>) -> Result<(), Error> {
    let sharded = |table: &TableRef| matches!(relations::home(table, cx.map), Home::Sharded { .. });
    match statement.touch.targets.iter().find(|(what, table)| *what != Dml::Delete && sharded(table)) {
        Some((what, table)) => Err(refusal::rows_unchecked(what.as_str(), &table.name)),
        None => Ok(()),
    }
}

/// Whether ON CONFLICT finds every row that it is to find on the shard of the key.
///
/// # Errors
/// A row on another shard may be in conflict.
pub(super) fn conflict_is_by_key(
    conflict: &Conflict,
    table: &TableRef,
    key: &TableKey,
    cx: &PlanContext<'_>,
) -> Result<(), Error> {
    let is_in = |tables: &BTreeSet<(String, String)>| !tables.is_empty() && tables.contains(&relations::placed(table));
    let by_key = match conflict {
        Conflict::None => true,
        Conflict::Columns(columns) => key.missing_in(columns).is_none() && !is_in(&cx.distrust.loose_keys),
        Conflict::Any => !is_in(&cx.distrust.loose) && !is_in(&cx.distrust.loose_keys),
    };
    if by_key { Ok(()) } else { Err(refusal::conflict_not_by_key(&table.name, &key.quoted())) }
}

/// Whether it locks no row of a reference table, of which each shard has one.
///
/// # Errors
/// It does.
pub(super) fn locks_no_copy(statement: &StatementFacts, cx: &PlanContext<'_>) -> Result<(), Error> {
    let reference = |table: &&TableRef| relations::home(table, cx.map) == Home::Reference;
    match statement.shape.tables().iter().filter(reference).find(|table| statement.touch.locks(table)) {
        Some(table) => Err(refusal::reference_lock(&table.name)),
        None => Ok(()),
    }
}

//! Tables that a statement touches without naming them: behind views, by inheritance, in the code of functions.
//!
//! Where the user has chosen the shard, that is what he gets. Else a statement is only let through when the catalog shows that
//! what it cannot see is no listed table, and that its names mean what they seem to ([`crate::sql::shadows`]). Triggers, rules and policies of row-level security
//! are looked at by the checks of the shards ([`crate::shard::behind`]). Not seen even so: what casts and column defaults call; that runs where
//! the row is.

use super::{PlanContext, StatementFacts, Table, TableRef, access, ddl, refusal};
use crate::error::Error;
use crate::sql::catalog::{Relation, is_unexplained};
use crate::sql::facts::Access;
use crate::sql::shadows::{self, Shadow, Shadows};
use crate::sql::touch::Dml;

/// Looks at every function and every unlisted relation of the statement.
///
/// # Errors
/// One of them may touch a listed table.
pub(super) fn check(statement: &StatementFacts, cx: &PlanContext<'_>) -> Result<(), Error> {
    let Some(catalog) = &cx.catalog else { return Ok(()) };
    if super::is_chosen(cx) {
        return targets_are_seen(statement, cx);
    }
    if shadows::may_matter(statement) {
        let shadows = catalog.shadows().ok_or_else(|| refusal::not_looked_up("search_path"))?;
        step_into(shadows, statement, cx)?;
    }
    for function in &statement.functions {
        let called = || match &function.schema {
            Some(schema) => format!("{schema}.{}()", function.name),
            None => format!("{}()", function.name),
        };
        if function.runs_text {
            return Err(refusal::function_unseen(&called()));
        }
        match catalog.function(function) {
            None => return Err(refusal::not_looked_up(&function.name)),
            Some(f) if f.reads_unseen => return Err(refusal::function_unseen(&called())),
            Some(_) => {}
        }
    }
    if ddl::decides(statement) {
        return Ok(());
    }
    for table in statement.shape.tables().iter().chain(&statement.touch.made_of) {
        if cx.map.table(table.schema.as_deref(), &table.name).is_some() || !is_unexplained(table) {
            continue;
        }
        let relation = catalog.relation(table).ok_or_else(|| refusal::not_looked_up(&table.name))?;
        relation_reaches(table, relation, access(statement, cx) == Access::Write, cx)?;
    }
    Ok(())
}

/// On a chosen shard: what puts rows into relations that are not listed puts them into no sharded table, whose keys nobody has read.
fn targets_are_seen(statement: &StatementFacts, cx: &PlanContext<'_>) -> Result<(), Error> {
    for (what, target) in statement.touch.targets.iter().filter(|(what, _)| *what != Dml::Delete) {
        let relation = cx.catalog.and_then(|catalog| catalog.relation(target));
        let reached = relation.into_iter().flat_map(|relation| &relation.reaches);
        for (schema, name) in reached {
            if let Some(Table::Sharded { .. }) = cx.map.table(Some(schema), name)
                && cx.map.table(target.schema.as_deref(), &target.name).is_none()
            {
                return Err(refusal::rows_unchecked(what.as_str(), name));
            }
        }
    }
    Ok(())
}

/// Names that mean something else than they seem to.
fn step_into(shadows: &Shadows, statement: &StatementFacts, cx: &PlanContext<'_>) -> Result<(), Error> {
    match shadows.over(statement) {
        None => {}
        Some(Shadow::Function(name)) => return Err(refusal::shadowing_function(&name)),
        Some(Shadow::Operator(name)) => return Err(refusal::operator_unseen(&name)),
        Some(Shadow::Type(name)) => return Err(refusal::type_unseen(&name)),
        Some(Shadow::Equality) => return Err(refusal::own_equality()),
    }
    let named = statement.shape.tables().iter().chain(&statement.touch.made_of);
    for table in named.filter(|t| t.schema.is_none() && cx.map.table(None, &t.name).is_some()) {
        let other = shadows.elsewhere.get(&table.name);
        if let Some(schema) = other.or_else(|| shadows.by_role.get(&table.name).filter(|_| cx.changed_role)) {
            return Err(refusal::listed_elsewhere(&table.name, schema));
        }
    }
    Ok(())
}

fn relation_reaches(table: &TableRef, relation: &Relation, writes: bool, cx: &PlanContext<'_>) -> Result<(), Error> {
    for (place, (schema, name)) in relation.reaches.iter().enumerate() {
        match cx.map.table(Some(schema), name) {
            None => {}
            // The relation itself comes first.
            Some(_) if place == 0 => return Err(refusal::is_listed(name, schema)),
            // Every shard has all of it; only a write would be missing elsewhere.
            Some(Table::Reference) if !writes => {}
            Some(_) => return Err(refusal::reaches_listed(&table.name, schema, name)),
        }
    }
    match &relation.reads_unseen {
        Some(function) => Err(refusal::view_function_unseen(&table.name, function)),
        None => Ok(()),
    }
}

//! DDL and maintenance: whether what a statement is about is on every shard, or on the default one alone.
//!
//! Listed tables are on every shard, and with them what belongs to them: indexes, triggers, policies, sequences of their columns,
//! partitions, and the views that are made of them. Of a name alone the catalog tells whose it is. Everything else is the default shard's.

use super::relations::{self, Home};
use super::{Own, PlanContext, ShardPlan, StatementFacts, Stop, TableRef, Why, refusal, write};
use crate::shard::map::{KeyType, Table};
use crate::shard::table_key::{KeyColumn, TableKey};
use crate::sql::catalog::is_unexplained;
use crate::sql::scatter::{Altered, columns};
use crate::sql::touch::About;

/// Where a relation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// On every shard, as it is listed or belongs to what is. `copies`: each has the same rows.
    All { copies: bool },
    /// On the default shard, which has it alone.
    Default,
    /// The default shard has nothing of that name; others may.
    Missing,
}

/// Whether [`plan`] finds out by itself what the relations of a statement reach. (What makes state of its session is planned as other
/// statements are.)
pub(super) fn decides(statement: &StatementFacts) -> bool {
    statement.touch.about.is_some() && statement.effects.is_empty() && !statement.shape.tables().is_empty()
}

/// Plans a utility statement that names relations.
///
/// # Errors
/// Some of them are on all shards, others are not; or it cannot be done on all.
pub(super) fn plan(
    statement: &StatementFacts,
    what: &str,
    about: About,
    cx: &PlanContext<'_>,
) -> Result<ShardPlan, Stop> {
    let tables = statement.shape.tables();
    let place = match about {
        About::Tables | About::Refers | About::Relations => existing(tables, what, about, cx)?,
        About::Made => made(tables, &statement.touch.made_of, what, cx)?,
        About::New => new(tables, what, cx)?,
    };
    if let (Some(was), Some(is)) = (tables.first(), &statement.touch.becomes) {
        renamed(was, is, what, cx)?;
    }
    let name = tables.first().map_or("?", |table| &table.name);
    match place {
        Place::Default if statement.touch.cascades => Err(refusal::cascades().into()),
        Place::Default => Ok(ShardPlan::single(cx.map.default_shard, Why::Unlisted)),
        Place::All { copies } => write::utility(what, tables, copies, refusal::on_every_shard(what, name), cx),
        Place::Missing => write::utility(what, tables, false, refusal::perhaps_on_every_shard(what, name), cx),
    }
}

/// Where all of the relations are that a statement changes or looks after.
fn existing(tables: &[TableRef], what: &str, about: About, cx: &PlanContext<'_>) -> Result<Place, Stop> {
    let mut all: Option<(Place, &TableRef)> = None;
    for table in tables {
        let found = place(table, what, cx)?;
        let found = match (about, found, cx.own) {
            // A block over several shards may have made it on all of them, or another by its name.
            (_, Place::Missing | Place::Default, Own::OnSeveral) => {
                return Err(refusal::made_here(&table.name).into());
            }
            // The configuration says which tables all shards have.
            (About::Tables | About::Refers, Place::Missing, _) | (_, Place::Missing, Own::OnOne) => Place::Default,
            _ => found,
        };
        match (all, found) {
            (None, _) => all = Some((found, table)),
            (Some((Place::All { copies: a }, first)), Place::All { copies: b }) => {
                // A foreign key to copies makes no copy of the table.
                all = Some((Place::All { copies: a || (b && about != About::Refers) }, first));
            }
            (Some((first, _)), _) if first == found => {}
            // A foreign key to copies asks that of its own shard.
            (Some((Place::Default, _)), Place::All { copies: true }) if about == About::Refers => {}
            (Some((Place::Missing, first)), _) | (Some((_, first)), Place::Missing) => {
                return Err(refusal::apart_perhaps(what, &first.name, &table.name).into());
            }
            (Some((Place::All { .. }, on_all)), _) => {
                return Err(refusal::apart(what, &on_all.name, &table.name).into());
            }
            (Some((Place::Default, first)), _) => {
                return Err(refusal::apart(what, &table.name, &first.name).into());
            }
        }
    }
    Ok(all.map_or(Place::Default, |(place, _)| place))
}

/// Whether a relation may take another name: one that is listed is a promise of how its rows are spread.
fn renamed(was: &TableRef, is: &TableRef, what: &str, cx: &PlanContext<'_>) -> Result<(), Stop> {
    if !cx.default_search_path && is.schema.is_none() && cx.map.lists_name(&is.name) {
        return Err(refusal::search_path(&is.name).into());
    }
    let listed = |table: &TableRef| cx.map.table(table.schema.as_deref(), &table.name);
    match listed(is) {
        Some(table) if listed(was) != Some(table) => Err(refusal::becomes_listed(what, &was.name, &is.name).into()),
        _ => Ok(()),
    }
}

/// Where something new belongs that is made of others: where they are.
fn made(tables: &[TableRef], of: &[TableRef], what: &str, cx: &PlanContext<'_>) -> Result<Place, Stop> {
    let (mut on_all, mut on_default): (Option<&TableRef>, Option<&TableRef>) = (None, None);
    let (mut sharded, mut copies, mut of_catalog) = (false, false, None);
    for table in of {
        if is_of_catalog(table, cx) {
            of_catalog.get_or_insert(table);
            continue;
        }
        match place(table, what, cx)? {
            Place::All { copies: true } => {
                copies = true;
                on_all.get_or_insert(table);
            }
            Place::All { copies: false } => {
                sharded = true;
                on_all = Some(table);
            }
            // This transaction may have made it on several shards, or another by its name.
            Place::Default | Place::Missing if cx.own == Own::OnSeveral => {
                return Err(refusal::made_here(&table.name).into());
            }
            Place::Default | Place::Missing => drop(on_default.get_or_insert(table)),
        }
    }
    // Every shard has a catalog. Beside rows that are spread each reads its own, on a chosen shard; beside copies any shard would be asked, which
    // are not alike in that.
    if let (Some(copy), None, Some(_), false) = (on_all, on_default, of_catalog, sharded) {
        return Err(refusal::beside_catalog(what, &copy.name).into());
    }
    let is_view = !matches!(what, "CREATE TABLE");
    let belongs = match (on_all, on_default) {
        // The default shard has copies to read as well.
        (Some(_), Some(_)) if is_view && !sharded => Place::Default,
        (Some(on_all), Some(on_default)) => {
            return Err(refusal::apart(what, &on_all.name, &on_default.name).into());
        }
        (Some(_), None) => Place::All { copies: copies && !sharded },
        (None, _) => Place::Default,
    };
    let Some(itself) = tables.first() else { return Ok(belongs) };
    // It may be listed itself, or take the place of another.
    let home = relations::home(itself, cx.map);
    let listed = home != Home::Unlisted;
    if let Place::All { copies } = belongs
        && listed
        && copies != (home == Home::Reference)
    {
        return Err(refusal::listed_otherwise(what, &itself.name).into());
    }
    let placed = match (place(itself, what, cx)?, belongs, on_default) {
        (all @ Place::All { .. }, Place::Default, None) if listed => all,
        (Place::All { .. }, Place::Default, Some(other)) if listed => {
            return Err(refusal::apart(what, &itself.name, &other.name).into());
        }
        (Place::All { .. }, Place::Default, _) | (Place::Default, Place::All { .. }, _) => {
            return Err(refusal::moves(what, &itself.name).into());
        }
        // It may take the place of one that this transaction has made on all shards.
        (Place::Missing | Place::Default, Place::Default, _) if cx.own == Own::OnSeveral => {
            return Err(refusal::made_here(&itself.name).into());
        }
        _ => belongs,
    };
    if !is_view {
        // A partition may have foreign keys of its own.
        refers(itself, tables, placed, what, cx)?;
    }
    Ok(placed)
}

/// Where a table belongs, or a sequence, which the configuration alone says.
fn new(tables: &[TableRef], what: &str, cx: &PlanContext<'_>) -> Result<Place, Stop> {
    let Some((itself, others)) = tables.split_first() else { return Ok(Place::Default) };
    let placed = match relations::home(itself, cx.map) {
        Home::Sharded { .. } => Place::All { copies: false },
        Home::Reference => Place::All { copies: true },
        Home::Unlisted => Place::Default,
    };
    refers(itself, others, placed, what, cx)?;
    Ok(placed)
}

/// Whether what is new may name the others from where it is placed.
fn refers(itself: &TableRef, others: &[TableRef], placed: Place, what: &str, cx: &PlanContext<'_>) -> Result<(), Stop> {
    for other in others.iter().filter(|other| *other != itself) {
        match (placed, place(other, what, cx)?) {
            (_, Place::Default | Place::Missing) if cx.own == Own::OnSeveral => {
                return Err(refusal::made_here(&other.name).into());
            }
            (Place::Default | Place::Missing, Place::All { .. }) if what == "CREATE SEQUENCE" => {
                return Err(refusal::counts_apart(&other.name).into());
            }
            // A foreign key to copies asks that of its own shard.
            (Place::Default | Place::Missing, Place::All { copies: false }) => {
                return Err(refusal::apart(what, &other.name, &itself.name).into());
            }
            (Place::All { .. }, Place::Default | Place::Missing) => {
                return Err(refusal::apart(what, &itself.name, &other.name).into());
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether a relation is PostgreSQL's own.
fn is_of_catalog(table: &TableRef, cx: &PlanContext<'_>) -> bool {
    let found = cx.catalog.and_then(|catalog| catalog.relation(table)).and_then(|relation| relation.reaches.first());
    let own = |schema: &str| matches!(schema, "pg_catalog" | "information_schema");
    !is_unexplained(table) || found.is_some_and(|(schema, _)| own(schema))
}

/// Where a relation is.
fn place(table: &TableRef, what: &str, cx: &PlanContext<'_>) -> Result<Place, Stop> {
    if !cx.default_search_path && table.schema.is_none() && cx.map.lists_name(&table.name) {
        return Err(refusal::search_path(&table.name).into());
    }
    match relations::home(table, cx.map) {
        Home::Sharded { .. } => return Ok(Place::All { copies: false }),
        Home::Reference => return Ok(Place::All { copies: true }),
        Home::Unlisted => {}
    }
    let Some(catalog) = cx.catalog.filter(|_| is_unexplained(table)) else { return Ok(Place::Default) };
    let relation = catalog.relation(table).ok_or_else(|| refusal::not_looked_up(&table.name))?;
    let Some((schema, name)) = relation.reaches.first() else {
        // Types are made on every shard.
        return Ok(if relation.is_type { Place::All { copies: false } } else { Place::Missing });
    };
    if cx.map.table(Some(schema), name).is_some() {
        return Err(refusal::is_listed(name, schema).into());
    }
    if let Some(function) = &relation.reads_unseen
        && matches!(what, "CREATE MATERIALIZED VIEW" | "REFRESH MATERIALIZED VIEW")
    {
        // Its rows are computed now.
        return Err(refusal::view_function_unseen(&table.name, function).into());
    }
    let listed = relation.reaches.iter().filter_map(|(schema, name)| cx.map.table(Some(schema), name));
    let mut copies = listed.map(|table| *table == Table::Reference);
    let copies = copies.next().map(|first| first && copies.all(|copy| copy));
    let on_default = |(schema, name): &(String, String)| cx.map.table(Some(schema), name).is_none();
    Ok(match copies {
        None => Place::Default,
        // A view of copies and of a table that the default shard has alone.
        Some(true) if relation.is_view && relation.tables.iter().any(on_default) => Place::Default,
        Some(copies) => Place::All { copies },
    })
}

/// The table and its key, if a text may give rows another key than they lie by.
pub(super) fn rekeyed(text: &str, cx: &PlanContext<'_>) -> Option<(String, String)> {
    columns(text).into_iter().find_map(|column| {
        let keys: Vec<&KeyColumn> = match relations::home(&column.table, cx.map) {
            Home::Sharded { key } => key.columns().iter().collect(),
            Home::Reference => Vec::new(),
            // A partition or a parent of any of them.
            Home::Unlisted => cx.map.tables.values().filter_map(Table::key).flat_map(TableKey::columns).collect(),
        };
        let moves = |key_type: KeyType| match &column.altered {
            Altered::Cast(types) => types.iter().any(|name| !hashes_alike(name, key_type)),
            Altered::Computed | Altered::Renamed | Altered::Dropped => true,
        };
        let found = keys.into_iter().find(|key| key.name == column.name && moves(key.key_type));
        found.map(|key| (column.table.name.clone(), key.name.clone()))
    })
}

/// Whether a key that is cast to this type hashes as it did.
fn hashes_alike(name: &str, key_type: KeyType) -> bool {
    match key_type {
        KeyType::Integer { .. } => matches!(name, "int2" | "int4" | "int8"),
        KeyType::Text | KeyType::Tagged => matches!(name, "text" | "varchar"),
        KeyType::Uuid => name == "uuid",
    }
}

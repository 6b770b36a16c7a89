//! Where the tables of a statement live.

use super::{PlanContext, ShardMap, Stop, Table, TableRef, refusal};
use crate::error::Error;
use crate::shard::map::DEFAULT_SCHEMA;
use crate::shard::table_key::TableKey;

/// Where a table lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Home<'m> {
    /// By the slot of its key.
    Sharded { key: &'m TableKey },
    /// On every shard, in full.
    Reference,
    /// On the default shard.
    Unlisted,
}

/// Schema and name of a table, as the configuration lists it: without a schema it is in the default one.
pub(super) fn placed(table: &TableRef) -> (String, String) {
    (table.schema.clone().unwrap_or_else(|| DEFAULT_SCHEMA.to_owned()), table.name.clone())
}

/// Where one table lives.
pub(super) fn home<'m>(table: &TableRef, map: &'m ShardMap) -> Home<'m> {
    match map.table(table.schema.as_deref(), &table.name) {
        Some(Table::Sharded { key }) => Home::Sharded { key },
        Some(Table::Reference) => Home::Reference,
        None => Home::Unlisted,
    }
}

/// Whether a search_path has no other schemas than the server starts with: `public`, that of the role, PostgreSQL's own. What the role's
/// own schema has before `public` the catalog tells.
#[must_use]
pub fn is_plain_path(path: &str) -> bool {
    path.split(',').map(str::trim).all(|schema| {
        let folded = schema.to_ascii_lowercase();
        matches!(folded.as_str(), "public" | "pg_catalog")
            || matches!(schema, "\"public\"" | "\"$user\"" | "\"pg_catalog\"")
    })
}

/// The columns that an INSERT gives values: those of its list, else those of the table, as the shards were last found to have them.
pub(super) fn columns<'a>(list: Option<&'a [String]>, table: &TableRef, cx: &PlanContext<'a>) -> Option<&'a [String]> {
    list.or_else(|| cx.distrust.columns.get(&placed(table)).map(Vec::as_slice))
}

/// A key like those of all sharded tables of the map; none if they differ or there are none.
pub(super) fn common_key(map: &ShardMap) -> Option<&TableKey> {
    let mut keys = map.tables.values().filter_map(Table::key);
    let first = keys.next()?;
    keys.all(|key| key.same_family(first)).then_some(first)
}

/// The tables of a statement, counted by where they live; a table named twice counts twice.
#[derive(Debug, Default)]
pub(super) struct Relations<'a> {
    sharded: Group<'a>,
    reference: Group<'a>,
    unlisted: Group<'a>,
    key: Option<&'a TableKey>,
    keys_differ: bool,
}

#[derive(Debug, Default)]
struct Group<'a> {
    first: Option<&'a TableRef>,
    count: usize,
}

impl<'a> Group<'a> {
    fn add(&mut self, table: &'a TableRef) {
        self.first.get_or_insert(table);
        self.count = self.count.saturating_add(1);
    }
}

impl<'a> Relations<'a> {
    /// Counts them.
    ///
    /// # Errors
    /// A name without a schema that may or may not be a listed table, as search_path was changed.
    pub(super) fn of(tables: &'a [TableRef], cx: &PlanContext<'a>) -> Result<Self, Error> {
        let mut relations = Self::default();
        for table in tables {
            if !cx.default_search_path && table.schema.is_none() && cx.map.lists_name(&table.name) {
                return Err(refusal::search_path(&table.name));
            }
            match home(table, cx.map) {
                Home::Sharded { key } => {
                    let first = *relations.key.get_or_insert(key);
                    relations.keys_differ |= !first.same_family(key);
                    relations.sharded.add(table);
                }
                Home::Reference => relations.reference.add(table),
                Home::Unlisted => relations.unlisted.add(table),
            }
        }
        Ok(relations)
    }

    pub(super) fn sharded(&self) -> usize {
        self.sharded.count
    }

    pub(super) fn unlisted(&self) -> usize {
        self.unlisted.count
    }

    /// Sharded and reference tables.
    pub(super) fn listed(&self) -> usize {
        self.sharded.count.saturating_add(self.reference.count)
    }

    pub(super) fn first_sharded(&self) -> Option<&'a TableRef> {
        self.sharded.first
    }

    pub(super) fn first_reference(&self) -> Option<&'a TableRef> {
        self.reference.first
    }

    pub(super) fn first_listed(&self) -> Option<&'a TableRef> {
        self.sharded.first.or(self.reference.first)
    }

    /// A key like those of the sharded tables; none without sharded tables.
    ///
    /// # Errors
    /// They differ, so one sharding key cannot speak of all.
    pub(super) fn key(&self) -> Result<Option<&'a TableKey>, Error> {
        if self.keys_differ { Err(refusal::key_types_differ()) } else { Ok(self.key) }
    }

    /// The one sharded table, beside which there are only reference tables.
    ///
    /// # Errors
    /// There are several, or tables that only the default shard has.
    pub(super) fn only_sharded(&self) -> Result<Option<&'a TableRef>, Stop> {
        match (self.sharded.first, self.unlisted.first) {
            (Some(sharded), Some(unlisted)) => Err(refusal::mixed(&sharded.name, &unlisted.name).into()),
            (Some(sharded), None) if self.sharded.count > 1 => Err(Stop::Untied(refusal::several(&sharded.name))),
            (sharded, _) => Ok(sharded),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_plain_path;

    #[test]
    fn paths_by_which_names_mean_what_they_did() {
        for path in
            ["public", "\"$user\", public", "\"$user\",public", "Public , pg_catalog", "\"public\"", "pg_catalog"]
        {
            assert!(is_plain_path(path), "{path}");
        }
        for path in
            ["", "app", "app, public", "\"Public\"", "$user", "public,", "pg_temp, public", "\"public, app\"", "\"\""]
        {
            assert!(!is_plain_path(path), "{path}");
        }
    }
}

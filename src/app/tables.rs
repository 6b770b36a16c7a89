//! SHOW TABLES: every shard's primary is asked for its tables, and what it says is held against the map.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::checks;
use super::probers::credentials_of;
use crate::client::database::{Live, LiveDatabase};
use crate::health::probe::Credentials;
use crate::id::ShardIndex;
use crate::metrics::snapshot::{TableKind, TableSnapshot};
use crate::server;
use crate::shard::map::Table;

/// Schema and name.
type Name = (String, String);

/// How a table is spread, and the columns of the key with their types.
type Kind = (TableKind, Option<(String, String)>);

/// What a shard has, and whether it is a table and no view.
type Found = BTreeMap<Name, bool>;

/// The tables of all sharded databases.
pub(super) async fn of(live: &Live) -> Vec<TableSnapshot> {
    let mut all = Vec::new();
    for database in live.all().into_iter().filter(|database| database.config.map.is_sharded()) {
        let credentials = credentials_of(&database.config, live);
        let shards = (0..u16::try_from(database.config.shards.len()).unwrap_or(u16::MAX)).map(ShardIndex);
        let asked: Vec<_> = shards
            .map(|shard| {
                let (database, credentials) = (Arc::clone(&database), credentials.clone());
                tokio::task::spawn_local(async move { ask(&database, shard, credentials.as_ref()).await })
            })
            .collect();
        let mut found = Vec::with_capacity(asked.len());
        for answer in asked {
            found.push(answer.await.ok().flatten());
        }
        all.extend(compare(&database, &found));
    }
    all
}

/// A shard's tables; none if nobody there answers.
async fn ask(database: &LiveDatabase, shard: ShardIndex, credentials: Option<&Credentials>) -> Option<Found> {
    for (target, settings) in checks::targets(database, shard, credentials) {
        match server::check::tables(&target, &settings).await {
            Ok(tables) => return Some(tables),
            Err(why) => {
                let (database, shard) = (&database.config.name, database.config.map.name(shard));
                tracing::warn!(database, shard, error = why, "the shard was not asked for its tables");
            }
        }
    }
    None
}

/// A line for each table that is listed, and each that was found and is not; `found` by shard.
fn compare(database: &LiveDatabase, found: &[Option<Found>]) -> Vec<TableSnapshot> {
    let map = &database.config.map;
    let mut kinds: BTreeMap<Name, Kind> = BTreeMap::new();
    // A view that is not listed is no table of anybody's.
    for (name, _) in found.iter().flatten().flatten().filter(|(_, is_table)| **is_table) {
        kinds.insert(name.clone(), (TableKind::Unsharded, None));
    }
    for (name, table) in &map.tables {
        let kind = match table {
            Table::Sharded { key } => (TableKind::Sharded, Some(key.shown())),
            Table::Reference => (TableKind::Reference, None),
        };
        kinds.insert(name.clone(), kind);
    }
    let line = |(name, (kind, key)): (Name, Kind)| {
        let shards = |wanted: &dyn Fn(usize, Option<bool>) -> bool| {
            let has = found.iter().map(|tables| tables.as_ref().map(|tables| tables.contains_key(&name)));
            let wanted = has.enumerate().filter(|(at, has)| wanted(*at, *has)).map(|(at, _)| at);
            wanted.filter_map(|at| map.names.get(at).cloned()).collect()
        };
        let should = |at: usize| kind != TableKind::Unsharded || at == usize::from(map.default_shard.0);
        TableSnapshot {
            database: database.config.name.clone(),
            found_on: shards(&|_, has| has == Some(true)),
            missing_on: shards(&|at, has| has == Some(false) && should(at)),
            not_asked: shards(&|_, has| has.is_none()),
            schema: name.0.clone(),
            name: name.1.clone(),
            kind,
            key,
        }
    };
    kinds.into_iter().map(line).collect()
}

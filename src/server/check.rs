//! Asking a shard's server whether it is as the configuration says: see [`crate::shard::check`].

use std::collections::BTreeMap;
use std::io;

use crate::error::Error;
use crate::id::WorkerId;
use crate::server::behind;
use crate::server::login::{self, LoginSettings};
use crate::server::{Connection, Target};
use crate::shard::behind::Behind;
use crate::shard::cascades;
use crate::shard::check::{self, Finding};
use crate::shard::commit::recovery;
use crate::shard::hash;
use crate::shard::map::{CrossShardWrites, ShardMap};
use crate::shard::portrait::{self, Portrait};

/// What is wrong with a server, and what it is like.
pub type Answer = (Vec<Finding>, Portrait);

/// Asks the server, on a connection of its own.
///
/// # Errors
/// Why it could not be asked: those of the login and of the server, or no answer within the time of a login.
pub async fn run(target: &Target, settings: &LoginSettings, map: &ShardMap) -> Result<Answer, String> {
    // The connection stays with the thread that asks.
    let mut connection = login::login(target, settings, WorkerId(0)).await.map_err(|error| error.message)?;
    match tokio::time::timeout(settings.timeout, exchange(&mut connection, map)).await {
        Ok(Ok(Ok(answer))) => Ok(answer),
        Ok(Ok(Err(error))) => Err(format!("server {}: {}", target.address(), error.message)),
        Ok(Err(error)) => Err(format!("server {}: {error}", target.address())),
        Err(_) => Err(format!("server {}: no answer within {} s", target.address(), settings.timeout.as_secs_f64())),
    }
}

async fn exchange(connection: &mut Connection, map: &ShardMap) -> io::Result<Result<Answer, Error>> {
    /// The rows, or the server's error to the caller.
    macro_rules! rows {
        ($sql:expr) => {
            match connection.rows($sql).await? {
                Ok(rows) => rows,
                Err(error) => return Ok(Err(error)),
            }
        };
    }
    let mut findings = Vec::new();
    let encoding = rows!(check::ENCODING_SQL).into_iter().flatten().flatten().next().unwrap_or_default();
    findings.extend(check::judge_encoding(map, &encoding));
    let version = rows!(portrait::VERSION_SQL).into_iter().flatten().flatten().next();
    let facts = rows!(&portrait::facts_sql(version.and_then(|version| version.parse().ok()).unwrap_or(0)));
    if let Err(error) = connection.run("SET client_encoding = 'UTF8'; SET standard_conforming_strings = on").await? {
        return Ok(Err(error));
    }
    let utf8 = encoding.eq_ignore_ascii_case("utf8");
    for key_type in check::key_types(map) {
        let rows = rows!(&hash::self_test_sql(key_type, utf8));
        findings.extend(check::judge_hash(key_type, utf8, &rows));
    }
    if let Some(sql) = check::tables_sql(map) {
        findings.extend(check::judge_tables(map, &rows!(&sql)));
    }
    if let Some(sql) = check::unique_sql(map) {
        findings.extend(check::judge_unique(map, &rows!(&sql)));
    }
    let foreign_keys = rows!(cascades::SQL);
    let followed = cascades::judge(map, &foreign_keys);
    findings.extend(cascades::judge_places(map, &foreign_keys));
    let behind = Behind {
        rules: match behind::rules_sql(map) {
            Some(sql) => rows!(&sql),
            None => Vec::new(),
        },
        triggers: rows!(&behind::triggers_sql()),
        functions: Vec::new(),
        relations: Vec::new(),
    };
    findings.extend(cascades::by_triggers(&followed, &behind.triggers));
    findings.extend(followed);
    // Mostly there are none, and the texts of all functions need not be read.
    let behind = if behind.triggers.is_empty() && behind.rules.is_empty() {
        behind
    } else {
        Behind { functions: rows!(&behind::functions_sql()), relations: rows!(behind::RELATIONS_SQL), ..behind }
    };
    findings.extend(behind.judge(map));
    let makes = match portrait::tables_sql(map) {
        Some(sql) => rows!(&sql),
        None => Vec::new(),
    };
    if map.writes.cross == CrossShardWrites::TwoPhase {
        let mut ready = rows!(recovery::READY_SQL);
        let missing = ready.first().and_then(|row| row.get(1)).is_some_and(|there| there.as_deref() == Some("f"));
        let not_made = if missing { connection.run(recovery::CREATE_SQL).await?.err() } else { None };
        if missing {
            ready = rows!(recovery::READY_SQL);
        }
        findings.extend(check::judge_two_phase(&ready, not_made.as_ref().map(|error| error.message.as_str())));
    }
    let portrait = Portrait::of(facts, makes);
    findings.extend(portrait.judge(map));
    Ok(Ok((findings, portrait)))
}

/// Asks for tables and what can be read like them, but for PostgreSQL's own, temporary ones and partitions: schema and name.
const TABLES_SQL: &str = "SELECT n.nspname, c.relname, c.relkind IN ('r', 'p', 'f') FROM pg_catalog.pg_class AS c \
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm') AND NOT c.relispartition AND c.relpersistence <> 't' \
      AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')";

/// What can be read in a server's database, by schema and name, and whether it is a table and no view. Asked for on a connection of its own.
///
/// # Errors
/// Those of [`run`].
pub async fn tables(target: &Target, settings: &LoginSettings) -> Result<BTreeMap<(String, String), bool>, String> {
    let mut connection = login::login(target, settings, WorkerId(0)).await.map_err(|error| error.message)?;
    let rows = match tokio::time::timeout(settings.timeout, connection.rows(TABLES_SQL)).await {
        Ok(Ok(Ok(rows))) => rows,
        Ok(Ok(Err(error))) => return Err(format!("server {}: {}", target.address(), error.message)),
        Ok(Err(error)) => return Err(format!("server {}: {error}", target.address())),
        Err(_) => {
            return Err(format!("server {}: no answer within {} s", target.address(), settings.timeout.as_secs_f64()));
        }
    };
    let name = |row: Vec<Option<String>>| {
        let mut cells = row.into_iter();
        let name = (cells.next().flatten()?, cells.next().flatten()?);
        Some((name, cells.next().flatten()? == "t"))
    };
    Ok(rows.into_iter().filter_map(name).collect())
}

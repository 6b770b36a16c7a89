//! EXPLAIN ROUTE: where a statement would go now, decided by the code that decides it for clients.

use std::sync::Arc;

use crate::client::database::LiveDatabase;
use crate::client::fresh;
use crate::client::plan::{Need, Planner};
use crate::client::segment::Segment;
use crate::clock;
use crate::config::PoolMode;
use crate::id::ShardIndex;
use crate::metrics::describe;
use crate::route::decide::{self, Request};
use crate::session::settings::{ClientSettings, Values};
use crate::session::{Intake, Keep, Session};
use crate::shard::plan::{Own, ShardPlan};
use crate::sql::catalog::is_unexplained;
use crate::sql::facts::{
    Access, ConfigArg, PinReason, QueryFacts, RouteHint, SessionEffect, StatementFacts, TableRef, TransactionEffect,
};
use crate::sql::parse;
use crate::sql::touch::About;
use crate::wire::encode;

/// The lines of the answer: item and value. The statement is taken as the first of a session that speaks UTF8
/// and has set nothing.
#[must_use]
pub fn explain(database: &LiveDatabase, sql: &str) -> Vec<(&'static str, String)> {
    let facts = Arc::new(parse::facts(sql.as_bytes()));
    let mut lines = vec![("database", database.config.name.clone())];
    lines.push(("class", class(facts.access()).to_owned()));
    lines.push(("why", why(&facts)));
    let by_hub = database.config.pool_mode != PoolMode::Session && !database.config.map.is_sharded();
    lines.push(("effects", effects(&facts, by_hub)));
    let keep = if database.config.pool_mode == PoolMode::Session { Keep::Session } else { Keep::Transaction };
    let settings = Values::from([("client_encoding".to_owned(), "UTF8".to_owned())]);
    let session = Session::new(keep, true, ClientSettings::new(settings));
    let mut segment = Segment::default();
    let asks_catalog = asks_catalog(database, &facts);
    let mut bytes = Vec::new();
    encode::query(&mut bytes, sql.as_bytes());
    segment.push(Intake::Query(facts), bytes.len());
    let distrust = database.distrust.load();
    let planner = Planner {
        map: &database.config.map,
        session: &session,
        mode: database.config.pool_mode,
        default_route: database.config.route,
        server_utf8: true,
        distrust: &distrust,
        in_block: false,
        wrote: false,
        knows_its_values: !database.config.map.is_sharded(),
        catalog: None,
        own: Own::None,
    };
    match planner.plan(segment.whole(&bytes)) {
        Ok(need) => route(database, &need, &mut lines),
        Err(error) => {
            lines.push(("plan", "refused".to_owned()));
            lines.push(("error", format!("{}: {}", error.sqlstate, error.message)));
            lines.extend(error.detail.map(|detail| ("detail", detail)));
            lines.extend(error.hint.map(|hint| ("hint", hint)));
        }
    }
    if asks_catalog {
        let note = "no server was asked: what is not listed is taken for the default shard's here, and for a client its catalog decides";
        lines.push(("note", note.to_owned()));
    }
    lines
}

/// Whether it is DDL of which the default shard's catalog tells on which shards it is done: by names of views, indexes, partitions.
fn asks_catalog(database: &LiveDatabase, facts: &QueryFacts) -> bool {
    let map = &database.config.map;
    let unknown = |table: &TableRef| map.table(table.schema.as_deref(), &table.name).is_none() && is_unexplained(table);
    let asks = |s: &StatementFacts| {
        // Where a new one goes that is made of no other, the configuration says.
        let itself = usize::from(s.touch.about == Some(About::New));
        s.touch.about.is_some() && s.shape.tables().iter().skip(itself).chain(&s.touch.made_of).any(unknown)
    };
    let chosen = facts.hints.shard.is_some() || facts.hints.sharding_key.is_some();
    map.is_sharded() && !chosen && facts.statements.iter().any(asks)
}

fn route(database: &LiveDatabase, need: &Need, lines: &mut Vec<(&'static str, String)>) {
    let map = &database.config.map;
    let (shard, plan) = match &need.plan {
        ShardPlan::Single { shard, why } => (Some(*shard), format!("one shard: {why}")),
        ShardPlan::AnyShard { why } => (None, format!("any shard: {why}")),
        ShardPlan::NeedsParameter { number } => {
            lines.push(("plan", format!("the shard depends on parameter ${number}, which is not known here")));
            return;
        }
        ShardPlan::Scatter(scatter) => {
            let kind = "several shards, whose answers become one";
            return several(database, (kind, &scatter.shards), &scatter.proof, scatter.steps(), lines);
        }
        ShardPlan::Fan(fan) => {
            let kind = if fan.reads() { "several shards, which are read" } else { "several shards, which write" };
            return several(database, (kind, &fan.shards), &fan.proof, fan.steps(), lines);
        }
        // The planner has turned it into an error.
        ShardPlan::Reject(error) => (None, error.message.clone()),
    };
    lines.push(("plan", plan));
    // Any shard: the one in use, and at the start of a session the default one.
    let shard: ShardIndex = shard.unwrap_or(map.default_shard);
    lines.push(("shard", map.name(shard).to_owned()));
    lines.push(("hint", hint(need.hint).to_owned()));
    let Some(health) = database.health.get(usize::from(shard.0)) else { return };
    let now = clock::now();
    let request = Request {
        access: need.access,
        hint: need.hint,
        begin_read_only: need.begin_read_only,
        balance: database.config.health.balance,
        fallback: database.config.health.fallback,
        fresh: fresh::needed(&database.config.health, health, fresh::Seen::default(), now),
        turn: health.next_turn(),
    };
    let mut views = Vec::new();
    health.views(now, &mut views);
    match decide::decide(&request, &views, &[], &mut rand::rng()) {
        Ok(route) => {
            let servers = database.config.shards.get(usize::from(shard.0)).map(|s| s.servers.as_slice());
            let server = servers.and_then(|servers| servers.get(usize::from(route.server.0)));
            lines.push(("role", route.role.as_str().to_owned()));
            lines.push(("server", server.map(describe::address).unwrap_or_default()));
            lines.push(("reason", route.why.as_str().to_owned()));
        }
        Err(error) => lines.push(("error", format!("{}: {}", error.sqlstate, error.message))),
    }
}

/// A statement of several shards.
fn several(
    database: &LiveDatabase,
    (kind, shards): (&str, &[ShardIndex]),
    proof: &[String],
    steps: Vec<String>,
    lines: &mut Vec<(&'static str, String)>,
) {
    let names: Vec<&str> = shards.iter().map(|shard| database.config.map.name(*shard)).collect();
    lines.push(("plan", kind.to_owned()));
    lines.push(("shards", names.join(", ")));
    lines.extend(proof.iter().map(|proof| ("proof", proof.clone())));
    lines.extend(steps.into_iter().map(|step| ("step", step)));
}

fn class(access: Access) -> &'static str {
    match access {
        Access::Neutral => "neutral",
        Access::Read => "read",
        Access::Local => "primary's own",
        Access::Write => "write",
    }
}

fn hint(hint: RouteHint) -> &'static str {
    match hint {
        RouteHint::Auto => "auto",
        RouteHint::Primary => "primary",
        RouteHint::Replica => "replica",
    }
}

/// What made the text that class: of its statements the first with the strongest access decides.
fn why(facts: &QueryFacts) -> String {
    if let Some((message, position)) = &facts.unparsed {
        let place = position.map(|p| format!(" at character {p}")).unwrap_or_default();
        return format!("it could not be parsed: {message}{place}");
    }
    let strongest = facts.access();
    facts.statements.iter().find(|s| s.access == strongest).map_or("it is empty", |s| s.why).to_owned()
}

/// What it leaves in the session and does to the transaction block. Values of settings are left out: they may be secret. `by_hub`: others
/// listen in the name of a session that speaks UTF8.
fn effects(facts: &QueryFacts, by_hub: bool) -> String {
    let mut effects = Vec::new();
    for statement in &facts.statements {
        match statement.transaction {
            TransactionEffect::None => {}
            TransactionEffect::Begin { read_only: true } => effects.push("begins a read-only transaction".to_owned()),
            TransactionEffect::Begin { read_only: false } => effects.push("begins a transaction".to_owned()),
            TransactionEffect::Commit { .. } => effects.push("commits".to_owned()),
            TransactionEffect::Rollback { .. } => effects.push("rolls back".to_owned()),
            TransactionEffect::Savepoint | TransactionEffect::RollbackTo | TransactionEffect::Release => {
                effects.push("savepoint".to_owned());
            }
            TransactionEffect::PrepareTransaction => effects.push("prepares a transaction".to_owned()),
            TransactionEffect::FinishPrepared => effects.push("ends a prepared transaction".to_owned()),
        }
        effects.extend(statement.effects.iter().map(|effect| match effect {
            SessionEffect::Set { name, .. }
            | SessionEffect::SetUnknown { name }
            | SessionEffect::SetByParams { name: ConfigArg::Literal(name), .. } => format!("sets {name}"),
            SessionEffect::Local { name, .. } => {
                format!("sets {} for the transaction", name.as_deref().unwrap_or("something"))
            }
            SessionEffect::SetByParams { .. } => "sets what a parameter names".to_owned(),
            SessionEffect::Reset { name } => format!("resets {name}"),
            SessionEffect::ResetAll => "resets all settings".to_owned(),
            SessionEffect::DiscardAll => "discards the session's state".to_owned(),
            SessionEffect::DeallocateAll => "forgets all prepared statements".to_owned(),
            SessionEffect::Deallocate { name } => format!("forgets prepared statement {name}"),
            SessionEffect::Pin(PinReason::Listen) if by_hub => {
                "listens, by a connection that sessions share".to_owned()
            }
            // Known in its transaction alone, behind which nobody keeps the server for that.
            SessionEffect::Pin(PinReason::SequenceState) => "asks for sequence values of its transaction".to_owned(),
            SessionEffect::Pin(reason) => format!("keeps its server: {}", reason.as_str()),
        }));
    }
    if effects.is_empty() { "none".to_owned() } else { effects.join(", ") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;
    use crate::net::dns::{self, Dns};
    use crate::net::tls::{Connector, ServerTls};

    fn lines(sql: &str) -> BTreeMap<&'static str, String> {
        let text = "[users.someone]\npassword = \"x\"\n[databases.a]\nprimary = \"postgres://127.0.0.1:1/a\"\nreplicas = [\"postgres://127.0.0.1:2/a\"]\n";
        let config = Arc::new(crate::config::parse(text, Path::new("t.toml")).unwrap());
        let tls = Arc::new(ServerTls::new(Connector::new(&config.general.server_tls).unwrap()));
        let means = (tls, Dns::new(dns::Settings::default()));
        let database =
            LiveDatabase::after(None, config.databases["a"].clone(), Arc::clone(&config), None, means, Arc::default());
        explain(&database, sql).into_iter().collect()
    }

    #[test]
    fn reads_and_writes_part() {
        let read = lines("select 1 from t");
        assert_eq!((read["class"].as_str(), read["role"].as_str()), ("read", "replica"), "{read:?}");
        assert_eq!((read["server"].as_str(), read["reason"].as_str()), ("127.0.0.1:2", "read"));
        let write = lines("insert into t values (1)");
        assert_eq!((write["class"].as_str(), write["role"].as_str()), ("write", "primary"), "{write:?}");
        assert_eq!(write["server"], "127.0.0.1:1");
        let hinted = lines("/* pgweir: primary */ select 1 from t");
        assert_eq!((hinted["hint"].as_str(), hinted["reason"].as_str()), ("primary", "hint_primary"));
    }

    #[test]
    fn effects_are_told_without_values() {
        let set = lines("set application_name = 'hunter2'");
        assert_eq!(set["effects"], "sets application_name");
        assert!(!format!("{set:?}").contains("hunter2"));
        assert_eq!(lines("listen x")["effects"], "listens, by a connection that sessions share");
        assert_eq!(lines("create temp table t ()")["effects"], "keeps its server: temp_object");
        assert_eq!(lines("begin read only")["effects"], "begins a read-only transaction");
    }

    #[test]
    fn nonsense_is_a_write_and_a_bad_hint_is_refused() {
        let nonsense = lines("selec 1");
        assert_eq!((nonsense["class"].as_str(), nonsense["role"].as_str()), ("write", "primary"));
        assert!(nonsense["why"].contains("could not be parsed"), "{nonsense:?}");
        let refused = lines("/* pgweir: nowhere */ select 1");
        assert_eq!(refused["plan"], "refused");
        assert!(refused["error"].starts_with("22023"), "{refused:?}");
    }
}

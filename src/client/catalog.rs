//! What a segment needs to know of the server's catalog before it can be planned.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::client::database::{LiveDatabase, UserPools};
use crate::client::plan::{Need, Planner, Question};
use crate::client::segment::Stretch;
use crate::client::sequences;
use crate::client::task::Client;
use crate::clock;
use crate::config::{Fallback, PoolMode};
use crate::error::{Error, SqlState};
use crate::id::{ShardIndex, WorkerId};
use crate::pool::Pool;
use crate::route::decide::{self, Freshness, Request};
use crate::server;
use crate::shard::check::Distrust;
use crate::shard::map::{DEFAULT_SCHEMA, ShardMap};
use crate::shard::plan::Own;
use crate::sql::catalog::{self, Answers, CatalogView, Function, Name, Questions};
use crate::sql::facts::{Access, PinReason, QueryFacts, RouteHint, StatementFacts, TableRef};
use crate::sql::shadows::{self, ShadowQuestion};
use crate::wire::message::TransactionStatus;

/// How long a statement that the checks of the shards stand against waits for fresh ones.
const CHECKED_WITHIN: Duration = Duration::from_secs(3);

/// The outcome of planning.
#[derive(Debug)]
pub(super) enum Planned {
    /// What the segment needs.
    Need(Need),
    /// These must be asked first. None: the shards must be checked.
    Ask(Questions),
    /// These must be asked before it is known whether a replica may serve it.
    Weigh(Vec<Name>),
    /// It is refused.
    Refused(Error),
}

/// What is known of the columns of tables, beside their keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Columns {
    /// What the checks have found.
    Known,
    /// Less: the catalog has changed since.
    Doubted,
    /// Less, whatever the checks find: this transaction or this text has changed them, or may.
    Changed,
}

/// A question under way.
pub(super) type LookUp = Pin<Box<dyn Future<Output = Result<(), Error>>>>;

impl Client {
    /// Plans the segment by what is known of the catalog. `linked`: a server is lent already; `changed`: and the transaction there
    /// may have changed its catalog, which nobody else sees yet; `wrote`: and the client has written there.
    pub(super) fn plan(&self, linked: bool, changed: bool, wrote: bool) -> Planned {
        let planned = self.plan_stretch(self.segment.whole(self.input.bytes()), linked, changed, wrote);
        let asks_values = match &planned {
            Planned::Need(need) => {
                if need.asks_sequences {
                    self.database.hidden.note_asks();
                }
                need.question != Question::None
            }
            Planned::Refused(error) => error.reason == Some(sequences::LOST),
            Planned::Ask(_) | Planned::Weigh(_) => false,
        };
        if asks_values {
            self.learns_question();
        }
        planned
    }

    /// The same of these messages.
    pub(super) fn plan_stretch(&self, stretch: Stretch<'_>, linked: bool, changed: bool, wrote: bool) -> Planned {
        let columns_are_known = self.database.columns_are_known();
        let distrust = self.database.distrust.load();
        let planner = Planner {
            map: &self.database.config.map,
            session: &self.session,
            mode: self.pools.mode,
            default_route: self.route,
            distrust: &distrust,
            server_utf8: self.pools.server_utf8.load(Ordering::Acquire),
            in_block: self.holds_block() || (linked && self.session.status() != TransactionStatus::Idle),
            wrote,
            knows_its_values: self.knows_its_values(),
            catalog: None,
            own: Own::None,
        };
        let map = &self.database.config.map;
        let texts = || stretch.items.iter().filter_map(|(intake, _)| intake.facts());
        if texts().any(|facts| facts.asks_sequences()) {
            self.database.hidden.note_asks();
        }
        let columns = if !map.is_sharded() {
            Columns::Known
        } else if changed || texts().any(|facts| facts.changes_catalog()) {
            Columns::Changed
        } else if columns_are_known {
            Columns::Known
        } else {
            Columns::Doubted
        };
        let calls = |facts: &QueryFacts| facts.statements.iter().any(|s| !s.functions.is_empty());
        // Without functions nothing is undecided, and elsewhere than on a sharded database a view is as good as a table.
        let matters = if map.is_sharded() {
            texts().any(|f| calls(f) || f.statements.iter().any(shadows::may_matter))
        } else {
            !linked && self.pools.mode != PoolMode::Session && self.has_replicas() && texts().any(|f| calls(f))
        };
        if !matters {
            return self.plan_by(&planner, stretch, columns);
        }
        let mut catalog = self.pools.catalog.lock();
        catalog.follow(self.database.catalog_epoch.load(Ordering::Acquire));
        let settings = self.session.settings();
        let view = CatalogView { catalog: &catalog, search_path: settings.get("search_path"), now: clock::now() };
        let chosen = |name| settings.get(name).is_some_and(|value| !value.is_empty());
        let chosen = chosen("pgweir.shard") || chosen("pgweir.sharding_key");
        let mut questions = Questions::default();
        let unsure = changed
            || self.session.is_pinned_by(PinReason::TempObject)
            || texts().any(|f| f.changes_catalog() && f.statements.len() > 1);
        for facts in texts() {
            let chosen = chosen || facts.hints.shard.is_some() || facts.hints.sharding_key.is_some();
            let unlisted = |table: &TableRef| map.table(table.schema.as_deref(), &table.name).is_none();
            let led_elsewhere = |table: &TableRef| table.schema.is_none() && unlisted(table);
            if map.is_sharded() && !chosen && self.session.has_local_path() && calls_or_reads(facts, &led_elsewhere) {
                return Planned::Refused(local_path());
            }
            if map.is_sharded() && !chosen && unsure && calls_or_reads(facts, &unlisted) {
                return Planned::Refused(own_objects());
            }
            let more = match (map.is_sharded(), chosen) {
                (false, _) => view.ask_functions(facts),
                (true, false) => view.ask_all(facts, unlisted),
                (true, true) => view.ask_targets(facts, unlisted),
            };
            questions.add(more);
            if map.is_sharded()
                && !chosen
                && view.shadows().is_none()
                && facts.statements.iter().any(shadows::may_matter)
            {
                questions.shadows = Some(shadow_question(map, settings.get("search_path")));
            }
        }
        if !questions.is_empty() {
            return Planned::Ask(questions);
        }
        let own = match (unsure, changed && self.spread.is_some()) {
            (false, _) => Own::None,
            (true, false) => Own::OnOne,
            (true, true) => Own::OnSeveral,
        };
        self.plan_by(&Planner { catalog: Some(view), own, ..planner }, stretch, columns)
    }

    /// Plans without the columns that may be others now. What needs them waits for the checks, where these can tell.
    fn plan_by(&self, planner: &Planner<'_>, stretch: Stretch<'_>, columns: Columns) -> Planned {
        let plan = |planner: &Planner<'_>| planner.plan(stretch);
        if columns == Columns::Known {
            return finish(plan(planner));
        }
        let distrust = Distrust { columns: BTreeMap::new(), ..planner.distrust.clone() };
        let error = match plan(&Planner { distrust: &distrust, ..*planner }) {
            Ok(need) => return Planned::Need(need),
            Err(error) => error,
        };
        // They may have answered since `columns` was found out: it is planned again at once then, by what they have found.
        let waits = columns == Columns::Doubted && (!self.database.is_checked() || self.database.columns_are_known());
        // Whether it can be planned by the old ones says nothing of the new ones, but that it needs them.
        let lacks_columns = error.reason == Some("columns");
        let changed = columns == Columns::Changed && !planner.distrust.columns.is_empty();
        if lacks_columns && !waits && !changed || !lacks_columns && plan(planner).is_err() {
            return Planned::Refused(error);
        }
        if waits { Planned::Ask(Questions::default()) } else { Planned::Refused(columns_changed()) }
    }

    pub(super) fn has_replicas(&self) -> bool {
        self.database.config.shards.iter().any(|shard| shard.servers.len() > 1)
    }

    /// Waits until the shards are checked once more after the last change of their catalog, which may have mended what is wrong.
    pub(super) fn wait_for_checks(&self) -> LookUp {
        let database = Arc::clone(&self.database);
        Box::pin(async move {
            let epoch = database.catalog_epoch.load(Ordering::Acquire);
            // If they take longer, what is known stands.
            let _late = tokio::time::timeout(CHECKED_WITHIN, database.wait_checked(epoch)).await;
            Ok(())
        })
    }

    /// Asks the catalog, or waits for the checks. Where the answer only decides between primary and replica, no answer means the primary.
    pub(super) fn look_up(&self, questions: Questions) -> LookUp {
        let (database, pools) = (Arc::clone(&self.database), Arc::clone(&self.pools));
        let worker = self.cx.id;
        if questions.is_empty() {
            return Box::pin(async move {
                let checked = async {
                    // Other DDL meanwhile has them asked again.
                    while !database.is_checked() {
                        database.wait_checked(database.catalog_epoch.load(Ordering::Acquire)).await;
                    }
                };
                // Whoever waited in vain does not wait once more.
                tokio::time::timeout(CHECKED_WITHIN, checked).await.map_err(|_| columns_changed())
            });
        }
        Box::pin(async move { look_up(&database, &pools, worker, questions).await })
    }
}

/// Whether the text calls a function or reads a relation that only the catalog can explain.
fn calls_or_reads(facts: &QueryFacts, unlisted: &dyn Fn(&TableRef) -> bool) -> bool {
    let unknown = |s: &StatementFacts| {
        !s.functions.is_empty() || s.shape.tables().iter().any(|t| catalog::is_unexplained(t) && unlisted(t))
    };
    facts.statements.iter().any(|s| !s.changes_catalog && unknown(s))
}

fn shadow_question(map: &ShardMap, search_path: Option<&str>) -> ShadowQuestion {
    let listed = map.tables.keys().filter(|(schema, _)| schema == DEFAULT_SCHEMA).map(|(_, name)| name.clone());
    ShadowQuestion { search_path: search_path.map(str::to_owned), listed: listed.collect() }
}

fn own_objects() -> Error {
    Error::us(
        SqlState::FEATURE_NOT_SUPPORTED,
        "on a sharded database, what this session alone can see (temporary objects, or those made in this transaction) cannot be \
         used without a shard: it may hide or read sharded tables",
    )
    .hint("Choose the shard with SET pgweir.shard = 'name' first, or commit before it is used.")
}

fn local_path() -> Error {
    Error::us(
        SqlState::FEATURE_NOT_SUPPORTED,
        "this transaction has a search_path of its own, so that it is not known on which shards the statement's names lead to what",
    )
    .hint("Write the schema before each name, or SET search_path before the transaction.")
    .because("search_path")
}

fn columns_changed() -> Error {
    Error::us(
        SqlState::FEATURE_NOT_SUPPORTED,
        "the columns of its tables may have been changed, and not all shards have told since which they are: the statement has no column \
         list, or columns without their tables' names",
    )
    .hint("Write the column list, and the table before each column; or send it again when the change is committed.")
    .because("columns")
}

fn finish(planned: Result<Need, Error>) -> Planned {
    match planned {
        Ok(need) => Planned::Need(need),
        Err(error) => Planned::Refused(error),
    }
}

async fn look_up(
    database: &LiveDatabase,
    pools: &UserPools,
    worker: WorkerId,
    questions: Questions,
) -> Result<(), Error> {
    // One at a time for each user: what many clients want to know at once is mostly the same.
    let asked = clock::now();
    let mut turn = pools.looking_up.lock().await;
    let questions = {
        let mut catalog = pools.catalog.lock();
        catalog.follow(database.catalog_epoch.load(Ordering::Acquire));
        catalog.unanswered(questions, clock::now())
    };
    if questions.is_empty() {
        return Ok(());
    }
    let epoch = database.catalog_epoch.load(Ordering::Acquire);
    // Whoever waited for a turn in vain does not try the same once more.
    let in_vain = turn.as_ref().filter(|(when, _)| *when >= asked).map(|(_, error)| error.clone());
    let is_news = in_vain.is_none();
    let answers = match in_vain {
        Some(error) => Err(error),
        None => ask(database, pools, worker, &questions).await,
    };
    let answers = match answers {
        Ok(answers) => answers,
        Err(error) if database.config.map.is_sharded() => {
            match shadows_anyway(database, pools, worker, &questions).await {
                Some(answers) => answers,
                None => {
                    if is_news {
                        *turn = Some((clock::now(), error.clone()));
                    }
                    return Err(error);
                }
            }
        }
        Err(error) => {
            tracing::warn!(database = database.config.name, %error, "functions are taken to write: the catalog cannot be asked");
            let unknown = Function { exists: false, volatile: true, reads_unseen: true };
            Answers { functions: vec![unknown; questions.functions.len()], ..Answers::default() }
        }
    };
    let mut catalog = pools.catalog.lock();
    catalog.follow(epoch);
    catalog.learn(questions, answers, clock::now());
    Ok(())
}

/// About shadows any shard can be asked when the default one does not answer: they are to have the same functions and schemas. What was
/// known before does too, for a while.
async fn shadows_anyway(
    database: &LiveDatabase,
    pools: &UserPools,
    worker: WorkerId,
    questions: &Questions,
) -> Option<Answers> {
    let question = questions.shadows.as_ref()?;
    if !questions.functions.is_empty() || !questions.relations.is_empty() {
        return None;
    }
    if pools.catalog.lock().renew_shadows(question, clock::now()) {
        return Some(Answers::default());
    }
    for shard in (0..u16::try_from(database.config.shards.len()).unwrap_or(u16::MAX)).map(ShardIndex) {
        if shard != database.config.map.default_shard
            && let Ok(answers) = ask_shard(database, pools, worker, questions, shard).await
        {
            return Some(answers);
        }
    }
    None
}

/// Asks the primary of the default shard.
async fn ask(
    database: &LiveDatabase,
    pools: &UserPools,
    worker: WorkerId,
    questions: &Questions,
) -> Result<Answers, Error> {
    ask_shard(database, pools, worker, questions, database.config.map.default_shard).await
}

/// The pool of a shard's primary.
pub(super) fn primary_pool(database: &LiveDatabase, pools: &UserPools, shard: ShardIndex) -> Result<Arc<Pool>, Error> {
    let mut views = Vec::new();
    if let Some(health) = database.health.get(usize::from(shard.0)) {
        health.views(clock::now(), &mut views);
    }
    let request = Request {
        access: Access::Write,
        hint: RouteHint::Auto,
        begin_read_only: false,
        balance: database.config.health.balance,
        fallback: Fallback::Primary,
        fresh: Freshness::default(),
        turn: 0,
    };
    let route = decide::decide(&request, &views, &[], &mut rand::rng())?;
    let pool = database.pool(pools, shard, route.server);
    pool.ok_or_else(|| Error::us(SqlState::INTERNAL_ERROR, "the route names no server"))
}

async fn ask_shard(
    database: &LiveDatabase,
    pools: &UserPools,
    worker: WorkerId,
    questions: &Questions,
    shard: ShardIndex,
) -> Result<Answers, Error> {
    let pool = primary_pool(database, pools, shard)?;
    server::catalog::ask(&pool.target, &pool.login_settings(), worker, questions).await
}

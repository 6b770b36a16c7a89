//! Ends a transaction on several shards as [`crate::shard::commit`] orders. From here on nothing stops for the client: not a cancel request,
//! nor that it leaves.

use std::sync::Arc;
use std::time::Duration;

use super::super::leg::{Leg, State};
use super::reply::{self, Reply};
use super::{Work, join_all, run};
use crate::client::database::{LiveDatabase, UserPools};
use crate::client::task::Client;
use crate::clock;
use crate::config::Role;
use crate::error::{Error, SqlState};
use crate::id::{ServerIndex, ShardIndex, WorkerId};
use crate::server::asking::Asking;
use crate::server::{Target, login};
use crate::shard::commit::gid::Gid;
use crate::shard::commit::recovery::Owner;
use crate::shard::commit::{Answer, Commit, Mode, Order, Outcome, recovery};
use crate::shard::plan::Fan;
use crate::wire::encode;
use crate::wire::message::{self, TransactionStatus};

/// How long a shard may take for one step of a commit. It may wait for a standby, so that this is long; what comes of it later is
/// found out as after a crash.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the shard that decides is asked what it has decided, when it did not say so.
const RESOLVING: Duration = Duration::from_secs(15);
/// Between two tries.
const TRY_AGAIN: Duration = Duration::from_millis(200);
/// How often a shard is told to end what it has prepared.
const ENDED_AGAIN: u32 = 3;
/// The end of another proxy's or our own recovery: the decision is there already.
const UNIQUE_VIOLATION: SqlState = SqlState(*b"23505");
/// There is no table of decisions.
const UNDEFINED_TABLE: SqlState = SqlState(*b"42P01");
/// Its name.
const DECISIONS: &[u8] = b"pgweir.dtx";

/// A step that was carried out.
struct Step {
    answer: Answer,
    /// The ErrorResponse of the shard, or why it is not known.
    error: Option<Result<Vec<u8>, String>>,
}

/// A transaction that is to be committed, shard by shard.
pub(in crate::client::scatter) struct Whole {
    /// How several writers commit.
    pub(in crate::client::scatter) mode: Mode,
    /// Its shards.
    pub(in crate::client::scatter) shards: Vec<ShardIndex>,
    /// On which it has written.
    pub(in crate::client::scatter) wrote: Vec<bool>,
    /// As which user, as each tells it.
    pub(in crate::client::scatter) owners: Vec<String>,
}

impl Whole {
    /// Of one statement.
    pub(super) fn of(fan: &Fan, replies: &[Reply]) -> Self {
        Self {
            mode: fan.mode,
            shards: fan.shards.clone(),
            wrote: replies.iter().map(|reply| reply.wrote).collect(),
            owners: replies.iter().map(|reply| reply.owner.clone()).collect(),
        }
    }
}

impl Client {
    /// Commits.
    ///
    /// # Errors
    /// The ErrorResponse that the client is told.
    pub(in crate::client::scatter) async fn commit(&mut self, legs: &mut [Leg], whole: &Whole) -> Result<(), Vec<u8>> {
        let map = &self.database.config.map;
        let mut commit = Commit::new(whole.mode, &whole.wrote);
        let name = |at: usize| whole.shards.get(at).map_or("?", |shard| map.name(*shard));
        let owner_on = |at: usize| whole.owners.get(at).map_or("", String::as_str);
        let owner = owner_on(commit.decides()).to_owned();
        if let Some(other) = commit.writers().find(|at| commit.is_two_phase() && owner_on(*at) != owner) {
            // Whoever finds a part would not believe the decision of another user.
            let error = users_differ(name(other), name(commit.decides()));
            roll_back(legs).await;
            return Err(run::encoded(&error));
        }
        let gid = Gid {
            database: self.database.config.name.clone(),
            decides: name(commit.decides()).to_owned(),
            number: rand::random(),
        };
        let writers: Vec<&str> = commit.writers().map(name).collect();
        let mut errors: Vec<Option<Result<Vec<u8>, String>>> = legs.iter().map(|_| None).collect();
        loop {
            let orders = commit.orders();
            if orders.is_empty() {
                break;
            }
            let mut steps: Vec<(usize, Work<'_, Step>)> = Vec::new();
            for (at, leg) in legs.iter_mut().enumerate() {
                let Some((_, order)) = orders.iter().find(|(of, _)| *of == at).copied() else { continue };
                let shard = name(at);
                let work: Work<'_, Step> = match order {
                    Order::Resolve => {
                        let whom = Whom { pools: Arc::clone(&self.pools), shard: leg.shard, worker: self.cx.id };
                        Box::pin(resolve(Arc::clone(&self.database), whom, &gid, &owner))
                    }
                    Order::CommitPrepared | Order::RollbackPrepared => {
                        Box::pin(insist(leg, order, sql(order, &gid, shard, &writers)))
                    }
                    order => Box::pin(carry_out(leg, order, sql(order, &gid, shard, &writers))),
                };
                steps.push((at, work));
            }
            let (places, works): (Vec<usize>, Vec<Work<'_, Step>>) = steps.into_iter().unzip();
            for (at, step) in places.into_iter().zip(join_all(works).await) {
                commit.answered(at, step.answer);
                if let (Some(error), Some(place @ None)) = (step.error, errors.get_mut(at)) {
                    *place = Some(error);
                }
            }
        }
        let error = |at: usize| errors.get(at).and_then(Option::as_ref);
        let names =
            |places: &[usize]| places.iter().map(|at| format!("\"{}\"", name(*at))).collect::<Vec<_>>().join(", ");
        match commit.outcome() {
            Some(Outcome::Committed { late }) => {
                if !late.is_empty() {
                    tracing::warn!(
                        database = %self.database.config.name, gid = %gid.whole(), shards = %names(late),
                        "a transaction is committed, but these shards have not done their part yet; recovery will"
                    );
                    encode::notice(self.output.tail(), "WARNING", &not_yet(&names(late)));
                }
                Ok(())
            }
            Some(Outcome::RolledBack { by }) => Err(match error(*by) {
                Some(Ok(body)) if is_unique_violation(body) && commit.is_two_phase() && *by == commit.decides() => {
                    run::encoded(&given_up())
                }
                Some(Ok(body)) if commit.is_two_phase() && *by == commit.decides() && lacks_table(body) => {
                    run::encoded(&no_table(name(*by)))
                }
                Some(Ok(body)) => run::error_of_shard(body, name(*by)),
                Some(Err(why)) => run::encoded(&lost(name(*by), why, commit.is_two_phase())),
                None => run::encoded(&not_committed(name(*by))),
            }),
            Some(Outcome::Unknown { shards }) => {
                Err(run::encoded(&unknown(&names(shards), commit.is_two_phase().then_some(&gid))))
            }
            Some(Outcome::Partly { committed, not, unknown }) => {
                Err(run::encoded(&partly(&names(committed), &names(not), &names(unknown))))
            }
            // There is always one when there are no more orders.
            None => Err(run::encoded(&unknown(&names(&[]), commit.is_two_phase().then_some(&gid)))),
        }
    }
}

/// As whom, and where, the shard that decides is asked.
struct Whom {
    pools: Arc<UserPools>,
    shard: ShardIndex,
    worker: WorkerId,
}

impl Whom {
    /// The shard's primary as it is now; another may have taken over since.
    fn target(&self, database: &LiveDatabase) -> Result<(Target, login::LoginSettings), &'static str> {
        const NONE: &str = "there is no primary to be asked";
        let place = usize::from(self.shard.0);
        let (config, health) = database.config.shards.get(place).zip(database.health.get(place)).ok_or(NONE)?;
        let configured = || config.servers.iter().position(|server| server.role == Role::Primary);
        let acting = health.acting_primary(clock::now());
        let primary = acting.or_else(|| u16::try_from(configured()?).ok().map(ServerIndex)).ok_or(NONE)?;
        if health.server(primary).is_some_and(|server| server.is_fenced()) {
            return Err("its primary was replaced by another server");
        }
        let pool = database.pool(&self.pools, self.shard, primary).ok_or(NONE)?;
        Ok((pool.target.clone(), pool.login_settings()))
    }
}

/// What a shard is sent.
fn sql(order: Order, gid: &Gid, shard: &str, writers: &[&str]) -> String {
    match order {
        Order::Commit => "COMMIT".to_owned(),
        Order::Rollback | Order::Resolve => "ROLLBACK".to_owned(),
        Order::Hold => recovery::hold_sql(gid),
        Order::Prepare => recovery::prepare_sql(gid, shard),
        Order::Decide => recovery::decide_sql(gid, writers),
        Order::CommitPrepared => format!("COMMIT PREPARED '{}'", gid.part(shard)),
        Order::RollbackPrepared => format!("ROLLBACK PREPARED '{}'", gid.part(shard)),
    }
}

/// The command tag of success: PostgreSQL answers COMMIT and PREPARE TRANSACTION of a failed transaction by ROLLBACK, without an error.
fn tag(order: Order) -> &'static str {
    match order {
        Order::Commit | Order::Decide => "COMMIT",
        Order::Rollback | Order::Resolve => "ROLLBACK",
        Order::Hold => "SELECT",
        Order::Prepare => "PREPARE TRANSACTION",
        Order::CommitPrepared => "COMMIT PREPARED",
        Order::RollbackPrepared => "ROLLBACK PREPARED",
    }
}

/// Has a shard do one step.
async fn carry_out(leg: &mut Leg, order: Order, sql: String) -> Step {
    let lost = |leg: &mut Leg, why: String| {
        leg.lost(&why);
        Step { answer: Answer::Lost, error: Some(Err(why)) }
    };
    if leg.state == State::Lost {
        return Step { answer: Answer::Lost, error: Some(Err("its connection is lost".to_owned())) };
    }
    match tokio::time::timeout(PATIENCE, exchange(leg, &sql)).await {
        Err(_) => lost(leg, format!("it did not answer within {} s", PATIENCE.as_secs())),
        Ok(Err(error)) => lost(leg, error.to_string()),
        Ok(Ok(Said { tags, error, status })) => {
            let done = error.is_none() && tags.last().is_some_and(|last| last.starts_with(tag(order)));
            if order == Order::Hold && done && status == TransactionStatus::InTransaction {
                return Step { answer: Answer::Done, error: None };
            }
            if status != TransactionStatus::Idle {
                // What failed within the transaction is still in it.
                let ended = tokio::time::timeout(PATIENCE, exchange(leg, "ROLLBACK")).await;
                match ended {
                    Ok(Ok(Said { status: TransactionStatus::Idle, .. })) => {}
                    _ => leg.lost("it did not roll back"),
                }
            }
            if leg.state != State::Lost {
                leg.is_ready();
            }
            // Who finished it before us has decided as we have.
            let finished = matches!(order, Order::CommitPrepared | Order::RollbackPrepared)
                && error.as_deref().is_some_and(|body| code(body) == SqlState::UNDEFINED_OBJECT);
            let answer = if done || finished { Answer::Done } else { Answer::Refused };
            Step { answer, error: error.map(Ok) }
        }
    }
}

/// Has a shard end what it has prepared. That may be refused once: by a cancel request that was meant for what was before.
async fn insist(leg: &mut Leg, order: Order, sql: String) -> Step {
    for _ in 1..ENDED_AGAIN {
        let step = carry_out(leg, order, sql.clone()).await;
        if step.answer != Answer::Refused {
            return step;
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
    carry_out(leg, order, sql).await
}

/// What a shard says to a simple query.
struct Said {
    tags: Vec<String>,
    error: Option<Vec<u8>>,
    status: TransactionStatus,
}

async fn exchange(leg: &mut Leg, sql: &str) -> std::io::Result<Said> {
    let mut request = Vec::with_capacity(sql.len() + 8);
    encode::query(&mut request, sql.as_bytes());
    leg.ask(&request);
    let (mut tags, mut error) = (Vec::new(), None);
    let status = reply::exchange(leg, |_, tag, body| match tag {
        b'C' => {
            let text = message::command_complete(&body).unwrap_or_default();
            tags.push(String::from_utf8_lossy(text).into_owned());
        }
        b'E' if error.is_none() => error = Some(body),
        _ => {}
    })
    .await?;
    Ok(Said { tags, error, status })
}

/// Rolls back all that can be; what cannot ends with its connection.
pub(super) async fn roll_back(legs: &mut [Leg]) {
    // Those that were not asked have begun nothing, those that are lost have ended.
    let works = legs.iter_mut().filter(|leg| leg.state == State::Asked);
    let works = works.map(|leg| -> Work<'_, Step> { Box::pin(carry_out(leg, Order::Rollback, "ROLLBACK".to_owned())) });
    join_all(works.collect()).await;
}

/// Finds out what the shard that decides has decided, and if it has not, makes sure that it is not committed.
async fn resolve(database: Arc<LiveDatabase>, whom: Whom, gid: &Gid, owner: &str) -> Step {
    let mut why = String::new();
    let until = clock::now() + RESOLVING;
    while clock::now() < until {
        let asked = match whom.target(&database) {
            Ok((target, settings)) => ask(&target, &settings, whom.worker, gid, owner).await,
            Err(none) => Err(none.to_owned()),
        };
        match asked {
            Ok(committed) => {
                tracing::info!(database = %database.config.name, gid = %gid.whole(), committed, "the decision of a transaction was found out");
                return Step { answer: if committed { Answer::Done } else { Answer::Refused }, error: None };
            }
            Err(error) => why = error,
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
    Step { answer: Answer::Lost, error: Some(Err(why)) }
}

async fn ask(
    target: &Target,
    settings: &login::LoginSettings,
    worker: WorkerId,
    gid: &Gid,
    owner: &str,
) -> Result<bool, String> {
    let mut asking = Asking::open(target, settings, worker, RESOLVING).await?;
    let decision = recovery::decision_sql(gid);
    let mut rows = asking.rows(&decision).await?.map_err(|error| error.message)?;
    if rows.is_empty() {
        asking.run(&recovery::abort_sql(gid)).await?.map_err(|error| error.message)?;
        rows = asking.rows(&decision).await?.map_err(|error| error.message)?;
    }
    // Of another user's row nothing follows but that ours is not there.
    recovery::commits(&rows, Owner::Digits(owner)).ok_or_else(|| "its decision is not there".to_owned())
}

fn code(body: &[u8]) -> SqlState {
    SqlState::from_bytes(message::error_field(body, b'C').unwrap_or_default())
}

fn is_unique_violation(body: &[u8]) -> bool {
    let is = |field, text: &[u8]| message::error_field(body, field) == Some(text);
    code(body) == UNIQUE_VIOLATION && is(b's', b"pgweir") && is(b't', b"dtx")
}

/// Whether it says that there is no table of decisions.
fn lacks_table(body: &[u8]) -> bool {
    let names = |text: &[u8]| text.windows(DECISIONS.len()).any(|part| part == DECISIONS);
    code(body) == UNDEFINED_TABLE && message::error_field(body, b'M').is_some_and(names)
}

/// Nobody has looked at the shard yet, or somebody has dropped it since.
fn no_table(shard: &str) -> Error {
    Error::us(
        SqlState::OBJECT_NOT_IN_STATE,
        format!("shard \"{shard}\" does not have table pgweir.dtx yet, which two-phase commit needs; nothing was changed"),
    )
    .hint("pgweir makes it when it has checked the shard, which takes seconds: send the statement again. SHOW SHARDS on the console tells what keeps it from that; RELOAD has the shards checked at once.")
    .because("no_two_phase")
}

/// While it was being committed.
fn lost(shard: &str, why: &str, two_phase: bool) -> Error {
    let error = Error::server(
        SqlState::CONNECTION_FAILURE,
        format!("the connection to shard \"{shard}\" was lost before the transaction was committed: {why}"),
    );
    if two_phase {
        error
            .detail("It is or will be rolled back on every shard; a shard that cannot be asked now may hold its locks for some seconds.")
            .hint("The statement can be sent again.")
    } else {
        error.detail("The transaction is rolled back on every shard.").hint("The statement can be sent again.")
    }
}

/// The server has rolled back without an error.
fn not_committed(shard: &str) -> Error {
    Error::server(
        SqlState(*b"40000"),
        format!(
            "shard \"{shard}\" has rolled back instead of committing; the transaction is rolled back on every shard"
        ),
    )
    .hint("The statement can be sent again.")
}

/// All is decided.
fn not_yet(shards: &str) -> Error {
    Error::server(
        SqlState(*b"01000"),
        format!("the transaction is committed, but shards {shards} show it only when they can be asked again"),
    )
}

fn users_differ(shard: &str, other: &str) -> Error {
    Error::us(
        SqlState::FEATURE_NOT_SUPPORTED,
        format!("the statement is run as different users on shards \"{shard}\" and \"{other}\", so that two-phase commit is not possible; nothing was changed"),
    )
    .hint("Log in to all shards as the same user, or use cross_shard_writes = \"best_effort\".")
}

/// Recovery was faster.
fn given_up() -> Error {
    Error::us(
        SqlState(*b"40001"),
        "the transaction was rolled back on every shard: it took so long to commit that another proxy gave it up",
    )
    .hint("The statement can be sent again.")
}

/// `prepared`: the name of the transaction, if parts of it were prepared.
fn unknown(shards: &str, prepared: Option<&Gid>) -> Error {
    let error = Error::server(
        SqlState::TRANSACTION_RESOLUTION_UNKNOWN,
        format!(
            "it is not known whether the transaction was committed: connections to shards {shards} were lost meanwhile"
        ),
    );
    match prepared {
        Some(gid) => error
            .detail(format!(
                "It is committed on all of its shards or on none, as soon as they can be asked. Its name is {}.",
                gid.whole()
            ))
            .hint("Look whether what it wrote is there before it is sent again."),
        None => error.hint("Look on each shard whether what it wrote is there."),
    }
}

fn partly(committed: &str, not: &str, unknown: &str) -> Error {
    let of = |what: &str, shards: &str| if shards.is_empty() { String::new() } else { format!(", {what} {shards}") };
    let told = [of("committed on", committed), of("not committed on", not), of("not known of", unknown)].concat();
    Error::server(
        SqlState(*b"40003"),
        format!("the statement was not committed on all of its shards: {}", told.trim_start_matches(", ")),
    )
    .hint("Mend the rows by hand. With cross_shard_writes = \"two_phase\" all shards commit or none.")
}

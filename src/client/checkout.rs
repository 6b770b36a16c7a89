//! A server for a segment: which one, and a connection to it that has the client's settings.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use crate::client::attempt::{Attempt, Stays, crashed};
use crate::client::failover;
use crate::client::fresh::{self, Seen};
use crate::client::limits::Overdue;
use crate::client::plan::{Need, Question};
use crate::client::relay::{CatchUp, Link};
use crate::client::sequences;
use crate::client::shared::Activity;
use crate::client::silence::Silence;
use crate::client::task::{Client, FOR_EVER, Stopped, lost, micros};
use crate::client::token;
use crate::clock;
use crate::config::{ReadBalance, Role};
use crate::error::{Error, Severity, SqlState};
use crate::health::server::{InFlight, ServerHealth};
use crate::health::view::ServerView;
use crate::id::ShardIndex;
use crate::pool::{self, Asked, AskedFor, Checkout, Pool, Ticket, Verdict};
use crate::route::decide::{self, Freshness, Request, Route, Why};
use crate::session::sequences::{Past, Told};
use crate::session::settings::TEMP_BUFFERS;
use crate::session::{Intake, ServerState};
use crate::shard::plan::ShardPlan;
use crate::sql::facts::{Access, QueryFacts, RouteHint};
use crate::wire::encode;

/// Connections that may fail `server_check_query` before the client is told.
const CHECKS: u32 = 100;
/// Who waits for one server and no other looks so often whether it is there.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Connections that may fail to become a client's because of what others left on them.
const INHERITED: u32 = 3;

impl Client {
    pub(super) fn request(&self, need: &Need, attempt: &Attempt) -> (ShardIndex, Request) {
        let shard = match &need.plan {
            ShardPlan::Single { shard, .. } => *shard,
            // Where a block of several begins.
            ShardPlan::Scatter(scatter) => {
                scatter.shards.first().copied().unwrap_or(self.database.config.map.default_shard)
            }
            ShardPlan::Fan(fan) => fan.shards.first().copied().unwrap_or(self.database.config.map.default_shard),
            _ => self.database.config.map.default_shard,
        };
        let begun = self.held_begin.as_deref();
        let begin_read_only = need.begin_read_only || begun.is_some_and(|block| block.read_only);
        let in_block = begun.is_some() && !begin_read_only;
        let access = if attempt.primary || in_block { Access::Write } else { need.access };
        let health = &self.database.config.health;
        let request = Request {
            access,
            hint: if attempt.primary { RouteHint::Primary } else { need.hint },
            begin_read_only,
            balance: health.balance,
            fallback: health.fallback,
            // Those of the moment are filled in where the server is chosen.
            fresh: Freshness::default(),
            turn: 0,
        };
        (shard, request)
    }

    pub(super) async fn link(
        &mut self,
        shard: ShardIndex,
        request: &Request,
        attempt: &mut Attempt,
    ) -> Result<Box<Link>, Stopped> {
        // What came from the queue of the short way has waited there.
        let since = self.claim.as_ref().map_or_else(clock::moment, |claim| claim.since());
        let Lent { checkout, in_flight, route, ahead } = self.lend(shard, request, attempt).await?;
        let mut link = Link::boxed(checkout, in_flight, route.role, shard, route.server, since);
        link.sends_ahead(ahead);
        Ok(link)
    }

    /// Chooses a server and gets a connection to it that has the client's settings, or is to be sent them ahead of the segment, where the attempt
    /// says that it may.
    pub(super) async fn lend(
        &mut self,
        shard: ShardIndex,
        request: &Request,
        attempt: &mut Attempt,
    ) -> Result<Lent, Stopped> {
        let mut last_error: Option<Error> = None;
        loop {
            let now = clock::moment();
            let (route, in_flight) = match self.choose(shard, request, attempt, now) {
                Ok((route, _)) if attempt.crash.is_some() && route.role == Role::Primary => {
                    return Err(Stopped::Refused(crashed()));
                }
                Ok((route, server)) if !self.must_wait(shard, (&route, server.server()), attempt, now) => {
                    (route, server)
                }
                Err(error) if !self.may_wait(shard, request) => {
                    return Err(Stopped::Refused(last_error.unwrap_or(error)));
                }
                Ok(_) | Err(_) if attempt.stays != Stays::Waits => {
                    attempt.stays = Stays::Left;
                    let error = || Error::server(SqlState::CONNECTION_FAILURE, "there is no primary to be asked");
                    return Err(Stopped::Refused(last_error.unwrap_or_else(error)));
                }
                Ok(_) | Err(_) => {
                    Box::pin(self.await_primary(shard, request, attempt, last_error.as_ref())).await?;
                    continue;
                }
            };
            let Some(pool) = self.database.pool(&self.pools, shard, route.server) else {
                return Err(Stopped::Refused(Error::us(SqlState::INTERNAL_ERROR, "the route names no server")));
            };
            let (replicated, several) = (self.replicated(shard).is_some(), self.has_several(shard));
            let replaceable = several || route.role == Role::Replica;
            let silence = || replaceable.then(|| Silence::since_now(in_flight.server()));
            let confirm = (route.role == Role::Primary && replicated).then(|| in_flight.server());
            let asked = self.claim.as_ref().map_or(now, |claim| claim.since());
            match self.checkout(&pool, asked, &silence, confirm, attempt).await {
                Ok((checkout, ahead)) => {
                    let read = route.role == Role::Replica || matches!(request.access, Access::Read | Access::Local);
                    self.count_checkout(&pool, &in_flight, read, asked);
                    self.database.routes.count(route.why);
                    return Ok(Lent { checkout, in_flight, route, ahead });
                }
                Err(Stopped::Refused(error)) if is_unreachable(&error) && !attempt.excluded.contains(&route.server) => {
                    tracing::debug!(pool = %pool.name(), %error, "server cannot be used, another is tried");
                    attempt.excluded.push(route.server);
                    last_error = Some(error);
                }
                // The password has changed while the client waited in the queue of the old one. What it adopts is in force, so this
                // does not go on for ever.
                Err(Stopped::Refused(error))
                    if error.sqlstate.class() == "28" && self.spread.is_none() && self.pools.is_replaced() =>
                {
                    tracing::debug!(pool = %pool.name(), %error, "the login is another one by now, which is tried");
                    self.adopt_pools().map_err(Stopped::End)?;
                }
                Err(stopped) => return Err(stopped),
            }
        }
    }

    /// The server that the request goes to now, where it counts as under way from here on.
    pub(super) fn choose(
        &self,
        shard: ShardIndex,
        request: &Request,
        attempt: &mut Attempt,
        now: Instant,
    ) -> Result<(Route, InFlight), Error> {
        let internal = || Error::us(SqlState::INTERNAL_ERROR, "the route names no server");
        let health = self.database.health.get(usize::from(shard.0)).ok_or_else(internal)?;
        if let Some(chosen) = self.chosen_before(shard, request, attempt, now) {
            return Ok(chosen);
        }
        let (one, mut several) = (health.only_view(now), self.cx.views.borrow_mut());
        if one.is_none() {
            health.views(now, &mut several);
        }
        let views: &[ServerView] = one.as_ref().map_or(&several, std::slice::from_ref);
        let settings = &self.database.config.health;
        // A single server needs no token.
        let told = (views.len() > 1).then(|| self.session.settings().get(token::NAME)).flatten();
        let told = told.and_then(|text| token::of_shard(text, usize::from(shard.0)));
        let seen = Seen { last_write: self.last_write(), token: told };
        let fresh = fresh::needed(settings, health, seen, now);
        let turn = if settings.balance == ReadBalance::RoundRobin { health.next_turn() } else { 0 };
        let request = &Request { fresh, turn, ..*request };
        loop {
            let route = decide::decide(request, views, &attempt.excluded, &mut *self.cx.rng.borrow_mut())?;
            let server = health.server(route.server).ok_or_else(internal)?;
            if matches!(route.why, Why::OwnWritesNotReplayed | Why::TooStale) {
                health.hurry();
            }
            if route.role == Role::Primary || route.why == Why::LastResort {
                return Ok((route, server.begin_anyway(now)));
            }
            match server.begin(now) {
                Some(in_flight) => return Ok((route, in_flight)),
                None => attempt.excluded.push(route.server),
            }
        }
    }

    /// The replica that the short way has chosen, and stands in the queue of: its place there would be lost by another choice. Not where anything
    /// has turned out against it since.
    fn chosen_before(
        &self,
        shard: ShardIndex,
        request: &Request,
        attempt: &Attempt,
        now: Instant,
    ) -> Option<(Route, InFlight)> {
        let claim = self.claim.as_ref().filter(|_| attempt.excluded.is_empty() && self.has_several(shard))?;
        let reads = (request.hint, request.access) == (RouteHint::Auto, Access::Read);
        let key = &claim.pool().key;
        let server = self.database.health.get(usize::from(shard.0))?.server(key.server)?;
        if !reads || key.shard != shard || !Arc::ptr_eq(server, &claim.pool().health) || !server.is_at_peace() {
            return None;
        }
        let route = Route { server: key.server, role: Role::Replica, why: Why::Read };
        server.begin(now).map(|in_flight| (route, in_flight))
    }

    fn count_checkout(&self, pool: &Pool, in_flight: &InFlight, read: bool, asked: Instant) {
        let waited = clock::moment().saturating_duration_since(asked);
        pool.counters.wait_time.record(waited);
        if read {
            in_flight.server().count_read();
        }
        pool.counters.totals.add(&crate::metrics::counters::Counts {
            server_assignment_count: 1,
            wait_time: micros(waited),
            ..Default::default()
        });
    }

    /// A connection of the pool, with the client's settings, or what is to be sent to it ahead of the segment.
    async fn checkout(
        &mut self,
        pool: &Arc<Pool>,
        since: Instant,
        silence: &dyn Fn() -> Option<Silence>,
        confirm: Option<&Arc<ServerHealth>>,
        attempt: &mut Attempt,
    ) -> Result<(Checkout, Option<Box<CatchUp>>), Stopped> {
        let (mut tries, mut failed, mut inherited) = (0, 0, 0);
        // What an open block has set for itself it is told when it is begun there as well, so that a savepoint can take it back.
        let of_block = self.spread.is_some().then(|| self.session.settings().before_transaction());
        loop {
            let claim = self.claim.take().filter(|claim| claim.is_of(pool));
            let queued_since = claim.as_ref().map_or_else(clock::moment, |claim| claim.since());
            let own = match (self.values.past(), attempt.question) {
                (Past::At(_), Question::None) if claim.is_some() || !self.expects_questions() => None,
                (Past::At(_), Question::None) => self.server_of_values(pool).here(),
                (Past::At(_), question) => {
                    let own = Box::pin(self.await_server_of_values(pool, silence)).await?;
                    if own.is_none() && question == Question::Alone {
                        self.cx.shared.count_refusal(sequences::LOST);
                        return Err(Stopped::Refused(sequences::lost()));
                    }
                    own
                }
                (Past::None | Past::Scattered, _) => None,
            };
            let asked = match (own, claim) {
                (Some(checkout), _) => Ok(Asked::Now(checkout)),
                (None, claim) => claim.and_then(|claim| claim.take_up()).unwrap_or_else(|| pool.ask(self.cx.id)),
            };
            // It stands in the queue of the pool now: the next in line may come forward.
            drop(attempt.place.take());
            let mut checkout = match asked.map_err(Stopped::Refused)? {
                Asked::Now(checkout) => checkout,
                Asked::Later(ticket) => Box::pin(self.wait(ticket, pool, (since, queued_since), silence())).await?,
            };
            if checkout.is_unproven()
                && let Err(error) = Box::pin(self.prove(&mut checkout, silence())).await?
            {
                // What died while it rested says nothing of the next one, but not for ever.
                failed += 1;
                if failed > CHECKS || pool.settings().check.as_ref().is_some_and(pool::Check::is_always) {
                    return Err(Stopped::Refused(error));
                }
                continue;
            }
            let Some(connection) = checkout.as_mut() else { continue };
            if connection.state.was_reset && self.changes_temp_buffers(&connection.state) {
                // It would refuse that, and is closed.
                continue;
            }
            if let Some(server) = confirm {
                if failover::is_standby(connection) == Some(true) {
                    // What the empty query fails with does not matter: it was answered.
                    let asked = tokio::time::timeout(pool.settings().login.timeout, connection.run(";"));
                    let gone = match Box::pin(self.aside(asked, silence())).await? {
                        Ok(Ok(_)) => None,
                        Ok(Err(error)) => Some(error.to_string()),
                        Err(_) => Some("it does not answer".to_owned()),
                    };
                    if let Some(why) = gone {
                        tries += 1;
                        if tries > 3 {
                            return Err(Stopped::Refused(lost(&why)));
                        }
                        continue;
                    }
                }
                if !failover::takes_writes(connection, server) {
                    checkout.release(Verdict::Clean);
                    return Err(Stopped::Refused(failover::is_a_standby(&pool.name())));
                }
            }
            let shard = pool.key.shard;
            let foreign = connection.state.sequences.is_foreign_to(self.values.past());
            let forgets = foreign && (self.must_forget(&connection.state, shard) || self.forgets_ahead(shard));
            let sql = match (
                connection.state.settings.catch_up(of_block.as_ref().unwrap_or(self.session.settings())),
                forgets,
            ) {
                (None, false) => return Ok((checkout, None)),
                (settings, true) => format!("DISCARD SEQUENCES;{}", settings.unwrap_or_default()),
                (Some(settings), false) => settings,
            };
            // What is held back for the client would be lost with an answer that nobody is to be told of.
            let ahead = attempt.ahead && self.output.is_empty();
            let (server, client) = (&connection.state.settings, of_block.as_ref().unwrap_or(self.session.settings()));
            if ahead && server.reads_texts_for(client) && server.keeps_isolation_for(client) {
                return Ok((checkout, Some(Box::new(CatchUp { sql, forgets }))));
            }
            let as_new = connection.state.settings.is_as_new();
            let limit = pool.settings().login.timeout;
            // Who is cancelled meanwhile leaves a connection of which nobody knows what it has: it is closed.
            let run = tokio::time::timeout(limit, connection.run(&sql));
            match Box::pin(self.aside(run, silence())).await? {
                Ok(Ok(Ok(()))) => {
                    let wanted = of_block.as_ref().unwrap_or(self.session.settings());
                    connection.state.settings.caught_up(wanted);
                    if forgets {
                        connection.state.sequences = Told::Nobodys;
                    }
                    self.settings_refused = false;
                    return Ok((checkout, None));
                }
                // Maybe because of what another has set: its timeout, what takes rights to be undone. A reset takes that away.
                Ok(Ok(Err(_))) if !as_new && inherited < INHERITED => {
                    inherited += 1;
                    checkout.release(Verdict::Dirty);
                }
                Ok(Ok(Err(_))) if self.escapes() => checkout.release(Verdict::Dirty),
                Ok(Ok(Err(error))) => {
                    checkout.release(Verdict::Dirty);
                    let message = format!("a setting of the session could not be applied: {}", error.message);
                    return Err(Stopped::Refused(Error { message, ..error }));
                }
                // A connection that died while it rested: another is tried, but not for ever.
                _ if tries < 3 => tries += 1,
                _ => return Err(Stopped::Refused(lost("the server closed every connection that was tried"))),
            }
        }
    }

    /// The server where the client's values of sequences are, all of them and nobody else's.
    fn server_of_values(&self, pool: &Arc<Pool>) -> AskedFor {
        let Some(slot) = self.values.place_in(pool) else { return AskedFor::Gone };
        match pool.ask_for(slot, self.cx.id) {
            AskedFor::Here(checkout) => {
                let told = checkout.as_ref().map(|connection| connection.state.sequences);
                if told.is_some_and(|told| self.values.are_told(told)) {
                    return AskedFor::Here(checkout);
                }
                checkout.release(Verdict::Clean);
                AskedFor::Gone
            }
            other => other,
        }
    }

    /// The same, which may be lent to another for a moment: that is waited for, for `sequence_hold` at most.
    async fn await_server_of_values(
        &mut self,
        pool: &Arc<Pool>,
        silence: &dyn Fn() -> Option<Silence>,
    ) -> Result<Option<Checkout>, Stopped> {
        let limit = self.database.config.pinning.sequence_hold;
        let began = clock::now();
        loop {
            match self.server_of_values(pool) {
                AskedFor::Here(checkout) => return Ok(Some(checkout)),
                AskedFor::Gone => return Ok(None),
                AskedFor::Later if clock::now().saturating_duration_since(began) >= limit => return Ok(None),
                AskedFor::Later => {
                    Box::pin(self.aside(tokio::time::sleep(LOOK_AGAIN.min(limit)), silence())).await?;
                }
            }
        }
    }

    /// Whether the server, which may tell values of sequences that are another's, must forget them before the client has it.
    pub(super) fn must_forget(&self, server: &ServerState, shard: ShardIndex) -> bool {
        server.sequences.is_foreign_to(self.values.past())
            && (self.database.hidden.minds_sequences(shard) || self.expects_questions())
    }

    /// Whether the server is to be given other `temp_buffers` than it has, ahead of the segment or by that.
    fn changes_temp_buffers(&self, server: &ServerState) -> bool {
        let wanted = self.session.settings().get(TEMP_BUFFERS);
        let sets = |facts: &Arc<QueryFacts>| facts.statements.iter().any(|s| s.sets(TEMP_BUFFERS));
        (wanted.is_some() && wanted != server.settings.other(TEMP_BUFFERS))
            || self.segment.items.iter().filter_map(|(intake, _)| intake.facts()).any(sets)
    }

    /// Whether the segment does nothing but reset settings, which are not wanted any more then.
    fn escapes(&mut self) -> bool {
        match self.segment.items.as_slice() {
            [(Intake::Query(facts), _)] => {
                let facts = Arc::clone(facts);
                self.session.escape(&facts)
            }
            _ => false,
        }
    }

    /// Asks a connection that has rested whether it still answers.
    async fn prove(&mut self, checkout: &mut Checkout, silence: Option<Silence>) -> Result<Result<(), Error>, Stopped> {
        self.aside(checkout.check(), silence).await
    }

    /// The outcome of what is done on a connection before the client's work, while the client is there, nobody cancels and the server does
    /// not fall silent.
    async fn aside<T>(&mut self, work: impl Future<Output = T>, silence: Option<Silence>) -> Result<T, Stopped> {
        let handle = Arc::clone(self.handle());
        // So that a cancel request finds it.
        handle.set_activity(Activity::Waiting);
        let work = async {
            match silence {
                Some(silence) => silence.or(&handle, work).await,
                None => Some(work.await),
            }
        };
        let done = self.attend(work, FOR_EVER).await;
        handle.cancel_is_done();
        handle.set_activity(Activity::Idle);
        match done? {
            Some(Some(done)) => Ok(done),
            _ => Err(Stopped::Refused(lost("it answers nothing any more"))),
        }
    }

    /// Waits in the queue, while the client is there, nobody cancels and the time is not up.
    async fn wait(
        &mut self,
        mut ticket: Ticket,
        pool: &Pool,
        (since, queued_since): (Instant, Instant),
        silence: Option<Silence>,
    ) -> Result<Checkout, Stopped> {
        let handle = Arc::clone(self.handle());
        self.shows_wait(since);
        let now = clock::now();
        let queued = now.saturating_duration_since(queued_since);
        let (limit, overdue) =
            self.limits.wait(now.saturating_duration_since(since), queued).unwrap_or((FOR_EVER, None));
        let worker = self.cx.id;
        let granted = async {
            match silence {
                Some(silence) => silence.or(&handle, ticket.wait(worker)).await,
                None => Some(ticket.wait(worker).await),
            }
        };
        let mut granted = pin!(granted);
        let notify = self.live.config.general.query_wait_notify;
        let first = notify.saturating_sub(queued);
        let mut waited = Ok(None);
        let mut left = limit;
        if !notify.is_zero() && first < limit {
            waited = self.attend(granted.as_mut(), first).await;
            left = limit.saturating_sub(first);
            if matches!(waited, Ok(None)) {
                self.tell_queued(pool);
            }
        }
        if matches!(waited, Ok(None)) {
            waited = self.attend(granted, left).await;
        }
        let outcome = match waited {
            Ok(Some(Some(granted))) => granted.map_err(Stopped::Refused),
            Ok(Some(None)) => Err(Stopped::Refused(lost("it answers nothing any more"))),
            Ok(None) if overdue == Some(Overdue::Query) => {
                self.cx.shared.count_timeout("query_timeout");
                Err(Stopped::Refused(self.limits.waited_in_vain()))
            }
            Ok(None) => {
                self.cx.shared.count_timeout("query_wait_timeout");
                let own = pool.settings().limits.size != self.live.config.general.default_pool_size as usize;
                let size = if own { "pool_size" } else { "default_pool_size" };
                Err(Stopped::Refused(pool_full(pool, self.limits.most_wait(), size)))
            }
            Err(stopped) => Err(stopped),
        };
        self.hides_wait();
        handle.cancel_is_done();
        outcome
    }

    /// From here on others see it wait for a server, as it has since `since`.
    pub(super) fn shows_wait(&self, since: Instant) {
        let handle = self.handle();
        handle.set_activity(Activity::Waiting);
        let started = since.saturating_duration_since(self.cx.shared.started);
        handle.waits_since_us.store(micros(started).max(1), Ordering::Relaxed);
    }

    /// It waits no more.
    pub(super) fn hides_wait(&self) {
        let handle = self.handle();
        handle.waits_since_us.store(0, Ordering::Relaxed);
        handle.set_activity(Activity::Idle);
    }

    /// `query_wait_notify`: tells the client why it has no answer.
    fn tell_queued(&mut self, pool: &Pool) {
        let c = pool.counts();
        let why = if pool.is_paused() { "the database is paused" } else { "all server connections are in use" };
        let notice = Error::us(SqlState::SUCCESS, format!("the statement waits for a server connection: {why}"))
            .detail(format!(
                "{} in this pool; {} in use.",
                waiting(c.waiting),
                match c.active + c.active_cancel {
                    1 => "1 connection is".to_owned(),
                    others => format!("{others} connections are"),
                }
            ));
        encode::notice(self.output.tail(), "NOTICE", &notice);
        let mut cx = Context::from_waker(Waker::noop());
        // What the socket does not take now goes with what follows, and who has left is noticed by the wait.
        drop(self.output.poll_flush(&mut self.stream, &mut cx));
    }
}

/// A connection that was lent to the client.
pub(super) struct Lent {
    pub(super) checkout: Checkout,
    pub(super) in_flight: InFlight,
    pub(super) route: Route,
    /// What the server is to be sent ahead of the segment.
    pub(super) ahead: Option<Box<CatchUp>>,
}

/// Whether another server may do better: this one could not be reached or is not taking connections.
fn is_unreachable(error: &Error) -> bool {
    error.severity == Severity::Error
        && matches!(error.sqlstate.class(), "08" | "57")
        && error.sqlstate != SqlState::QUERY_CANCELED
}

/// How many clients wait, as a message says it.
fn waiting(clients: usize) -> String {
    if clients == 1 { "1 client waits".to_owned() } else { format!("{clients} clients wait") }
}

/// `size`: the setting that the pool's size comes from.
pub(super) fn pool_full(pool: &Pool, limit: Duration, size: &str) -> Error {
    let c = pool.counts();
    let in_vain = format!("no server connection became free within {} s (query_wait_timeout)", limit.as_secs_f64());
    tracing::warn!(pool = %pool.name(), active = c.active + c.active_cancel, waiting = c.waiting, paused = pool.is_paused(), "{in_vain}");
    if pool.is_paused() {
        return Error::us(SqlState::TOO_MANY_CONNECTIONS, format!("{in_vain}: the database is paused"))
            .hint("RESUME on the console ends the pause.");
    }
    if let Some(error) = pool.failing() {
        return Error::us(SqlState::TOO_MANY_CONNECTIONS, format!("{in_vain}: {}", error.message))
            .hint("New connections fail, so only those that were open are lent; the message says why.");
    }
    let used = c.active + c.active_cancel;
    Error::us(
        SqlState::TOO_MANY_CONNECTIONS,
        format!(
            "{in_vain}: {used} of {} {} in use and {}",
            pool.settings().limits.size + pool.settings().limits.reserve,
            if used == 1 { "is" } else { "are" },
            waiting(c.waiting)
        ),
    )
    .hint(format!("Raise {size}, shorten transactions, or raise query_wait_timeout."))
}

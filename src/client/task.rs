//! The life of a logged-in client: gather a segment, plan it, get a server for it, relay until the server can go back.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::client::WorkerContext;
use crate::client::block::Block;
use crate::client::catalog::{LookUp, Planned};
use crate::client::database::{Live, LiveDatabase, UserPools};
use crate::client::failover::{self, Waiting};
use crate::client::fresh::{self, Seen};
use crate::client::limits::{Limits, Overdue, Timer};
use crate::client::listen::Listener;
use crate::client::lost::Lost;
use crate::client::own;
use crate::client::plan::Need;
use crate::client::popular;
use crate::client::relay::{Cause, Ended, Link};
use crate::client::segment::Segment;
use crate::client::shared::{Activity, ClientHandle, Order, Registered};
use crate::client::silence::Silence;
use crate::client::suspend;
use crate::client::token;
use crate::clock;
use crate::config::{PoolMode, ReadBalance, Role};
use crate::error::{Error, Severity, SqlState};
use crate::health::line::Place;
use crate::health::server::{InFlight, ServerHealth};
use crate::health::view::ServerView;
use crate::id::{ServerIndex, ShardIndex};
use crate::net::{Buffer, Stream};
use crate::pool::{self, Asked, Checkout, Pool, Ticket, Verdict};
use crate::route::decide::{self, Freshness, Request, Route, Why};
use crate::session::settings::ClientSettings;
use crate::session::{Intake, Session, Values};
use crate::shard::plan::ShardPlan;
use crate::sql::facts::{Access, QueryFacts, RouteHint, TransactionEffect};
use crate::wire::message::{Parse, TransactionStatus};
use crate::wire::{encode, frame};

/// A client is not read from while this many bytes wait to be sent to it.
pub const HIGH_WATER: usize = 256 * 1024;

/// Connections that may fail `server_check_query` before the client is told.
const CHECKS: u32 = 100;

/// How often a statement may lose its server in all.
const MOST_FAILURES: u32 = 16;
/// How long a server that loses one process may take to die altogether.
const DYING: Duration = Duration::from_millis(100);
/// How long a server may take to accept a connection, when the question is whether it is there.
const DIAL: Duration = Duration::from_secs(1);
/// Connections that may fail to become a client's because of what others left on them.
const INHERITED: u32 = 3;

/// A wait without a limit.
const FOR_EVER: Duration = Duration::from_secs(86_400 * 365);

/// Why a client's session ends.
#[derive(Debug)]
pub enum End {
    /// It said goodbye, or its socket is gone.
    Gone,
    /// It is told why.
    Told(Error),
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// A client.
pub struct Client {
    pub(super) stream: Stream,
    pub(super) input: Buffer,
    pub(super) output: Buffer,
    pub(super) session: Session,
    pub(super) segment: Segment,
    pub(super) cx: Rc<WorkerContext>,
    pub(super) live: Arc<Live>,
    pub(super) database: Arc<LiveDatabase>,
    pub(super) pools: Arc<UserPools>,
    registered: Registered,
    generation: u64,
    last_write: Option<Instant>,
    /// Where its statements go that say nothing themselves.
    pub(super) route: RouteHint,
    /// How long it may take for what; as of that generation.
    pub(super) limits: Limits,
    limits_of: u64,
    pub(super) timer: Timer,
    /// Since when it has asked for nothing, if that is limited.
    rests_since: Option<Instant>,
    /// Unnamed statements that come often are left unnamed for the moment.
    leaves_unnamed: bool,
    /// The client's messages are passed over up to the next Sync: one of them was refused while no server was linked.
    skipping: bool,
    /// Its part in listening, if it ever listened.
    pub(super) listener: Option<Box<Listener>>,
    /// A block that was answered for but begins only when the first statement shows the shard.
    held_begin: Option<Box<Block>>,
}

/// What a retry of a segment must do differently.
#[derive(Debug)]
pub(super) struct Attempt {
    /// Servers that were tried.
    pub(super) excluded: Vec<ServerIndex>,
    primary: bool,
    /// How often a server that had the segment was of no use for it. No wait begins that anew.
    failures: u32,
    /// What became of it on a server that lives: it ended the process that served it.
    crash: Option<Error>,
    /// When the segment was first asked for.
    pub(super) asked: Instant,
    /// The wait for a primary, if there has been one.
    pub(super) waiting: Option<Waiting>,
    /// Its place before all others who wait, until it stands in a pool's queue.
    pub(super) place: Option<Place>,
    /// Whether it waits for a primary.
    pub(super) stays: Stays,
}

/// What is done where there is no primary, and one may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stays {
    /// It is waited for.
    Waits,
    /// It is not, for connections are held that others need.
    Leaves,
    /// That has happened: what was given as an error is no more than this.
    Left,
}

impl Attempt {
    /// The first, now.
    pub(super) fn new() -> Self {
        let (excluded, stays) = (Vec::new(), Stays::Waits);
        Self {
            excluded,
            primary: false,
            failures: 0,
            crash: None,
            asked: clock::moment(),
            waiting: None,
            place: None,
            stays,
        }
    }
}

impl Client {
    /// A client that has logged in.
    #[expect(clippy::too_many_arguments, reason = "the parts of a client, each made at another stage of its login")]
    pub(super) fn new(
        stream: Stream,
        input: Buffer,
        mut session: Session,
        cx: Rc<WorkerContext>,
        live: Arc<Live>,
        database: Arc<LiveDatabase>,
        pools: Arc<UserPools>,
        registered: Registered,
        generation: u64,
    ) -> Self {
        session.serves(pools.id);
        let limits = Limits::of(&live.config, &registered.handle.database, &registered.handle.user);
        Self {
            route: database.route(&registered.handle.user),
            limits,
            limits_of: generation,
            timer: Timer::default(),
            rests_since: None,
            stream,
            input,
            output: Buffer::default(),
            session,
            segment: Segment::default(),
            cx,
            live,
            database,
            pools,
            registered,
            generation,
            last_write: None,
            leaves_unnamed: false,
            skipping: false,
            listener: None,
            held_begin: None,
        }
    }

    /// As others see it.
    pub(super) fn handle(&self) -> &Arc<ClientHandle> {
        &self.registered.handle
    }

    /// Serves the client until it leaves or must go: why.
    pub(super) async fn run(&mut self) -> String {
        let end = loop {
            if let Err(end) = self.turn().await {
                break end;
            }
        };
        let said_goodbye = matches!(self.segment.items.last(), Some((Intake::Terminate, _)));
        let reason = match &end {
            End::Told(error) => error.message.to_string(),
            End::Gone if said_goodbye => "it said goodbye".to_owned(),
            End::Gone => "it is gone without goodbye".to_owned(),
        };
        if let End::Told(error) = end {
            if self.live.config.general.log_pooler_errors {
                tracing::warn!(client = %self.handle().id, %error, "client is closed");
            }
            encode::error(self.output.tail(), &error.fatal());
        }
        // A client that does not take its last bytes within a second does without.
        let flush = poll_fn(|cx| self.output.poll_flush(&mut self.stream, cx));
        drop(Box::pin(tokio::time::timeout(Duration::from_secs(1), flush)).await);
        reason
    }

    /// Waits for a segment and serves it.
    async fn turn(&mut self) -> Result<(), End> {
        if self.output.len() >= HIGH_WATER {
            // Answers of ours, which the client does not read.
            self.drain().await?;
        }
        self.gather().map_err(End::Told)?;
        if self.segment.complete {
            self.refresh()?;
            // In a box: most clients are idle, and what a segment needs is several times what they need. What is seldom needed has
            // boxes of its own, for this one is made and moved for each segment.
            return Box::pin(self.serve()).await;
        }
        self.rest().await
    }

    /// Sends until less than [`HIGH_WATER`] waits to be sent; follows orders.
    async fn drain(&mut self) -> Result<(), End> {
        let handle = Arc::clone(self.handle());
        let mut woken: Pin<Box<_>> = Box::pin(handle.wake.notified());
        poll_fn(|cx| {
            while woken.as_mut().poll(cx).is_ready() {
                woken = Box::pin(handle.wake.notified());
            }
            if matches!(handle.standing_order(), Order::Drain | Order::Kill) {
                return Poll::Ready(Err(End::Told(terminated_as(&handle))));
            }
            if handle.is_asked() {
                self.tell();
            }
            if let Err(end) = self.take_notifications() {
                return Poll::Ready(Err(end));
            }
            match self.output.poll_flush(&mut self.stream, cx) {
                Poll::Ready(Err(e)) => Poll::Ready(Err(e.into())),
                _ if self.output.len() < HIGH_WATER => Poll::Ready(Ok(())),
                _ => Poll::Pending,
            }
        })
        .await
    }

    /// Sends what waits and reads more; follows orders.
    async fn rest(&mut self) -> Result<(), End> {
        if self.output.is_empty() {
            self.output.shrink();
        }
        if self.input.is_empty() {
            self.input.shrink();
            self.segment = Segment::default();
        }
        let handle = Arc::clone(self.handle());
        let mut woken = pin!(handle.wake.notified());
        self.refresh_limits();
        let due = self.limits.any_of_rest().then(|| *self.rests_since.get_or_insert_with(clock::now));
        let due = due.and_then(|since| self.limits.rest(since, self.held_begin.is_some()));
        poll_fn(|cx| {
            match handle.standing_order() {
                Order::None => {}
                // It came too late: nothing is under way.
                Order::Cancel => handle.cancel_is_done(),
                Order::Drain if self.held_begin.is_some() => {}
                Order::Drain | Order::Kill => return Poll::Ready(Err(End::Told(terminated_as(&handle)))),
            }
            if let Err(end) = self.take_notifications() {
                return Poll::Ready(Err(end));
            }
            let flushed = match self.output.poll_flush(&mut self.stream, cx) {
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e.into())),
                polled => polled.is_ready(),
            };
            if handle.has_errand() && self.rests_or_tells(flushed) {
                return woken.as_mut().poll(cx).map(Ok);
            }
            if self.output.len() < HIGH_WATER
                && let Poll::Ready(read) = self.input.poll_fill(&mut self.stream, cx)
            {
                return Poll::Ready(match read {
                    Ok(0) => Err(End::Gone),
                    Ok(_) => Ok(()),
                    Err(e) => Err(e.into()),
                });
            }
            if let Some((at, overdue)) = due
                && self.timer.passed(at, cx)
            {
                return Poll::Ready(Err(End::Told(self.time_is_up(overdue))));
            }
            if woken.as_mut().poll(cx).is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    }

    /// Does what it was asked beside orders; whether it is at rest because of SUSPEND, with nothing in its buffers.
    fn rests_or_tells(&self, flushed: bool) -> bool {
        let handle = self.handle();
        if handle.is_asked() {
            self.tell();
        }
        if !handle.is_suspended() || !flushed || !self.input.is_empty() {
            return false;
        }
        handle.set_flushed();
        true
    }

    /// Reads messages from the input into the segment, as far as they are whole and the segment goes. Whether it wants more bytes; else
    /// it waits for an answer.
    pub(super) fn gather(&mut self) -> Result<bool, Error> {
        let max = self.live.config.general.max_packet_size as usize;
        while !self.segment.complete {
            let bytes = self.input.bytes().get(self.segment.len..).unwrap_or_default();
            let next = frame::next(bytes, max).map_err(|e| {
                Error::client_fatal(SqlState::PROTOCOL_VIOLATION, format!("invalid frontend message: {e}"))
            })?;
            let Some(frame) = next else { return Ok(true) };
            if self.session.waits_for_unnamed(&frame, self.segment.gives_unnamed()) {
                return Ok(false);
            }
            if frame.tag == b'Q' && self.live.config.general.disable_pqexec {
                return Err(pqexec_disabled());
            }
            let len = frame.bytes.len();
            let (cx, sharded) = (&self.cx, self.database.config.map.is_sharded());
            let facts = |text: &[u8], values| {
                let mut known = cx.facts.borrow_mut();
                if values == Values::Needed || sharded { known.get(text) } else { known.get_without_values(text) }
            };
            let registry = &cx.shared.registry;
            let limits = popular::limits(&self.live.config.general, self.pools.mode).filter(|_| !self.leaves_unnamed);
            let popular = |parse: &Parse<'_>, settings: &ClientSettings| {
                let facts = || facts(parse.sql, Values::Needed);
                cx.popular.borrow_mut().get(parse, (registry, settings), limits?, facts)
            };
            let intake = self.session.intake(frame, registry, facts, popular)?;
            let (intake, len) = match intake.facts() {
                Some(facts) if facts.pids || facts.listens => self.identify(intake, self.segment.len, len),
                _ => (intake, len),
            };
            self.segment.push(intake, len);
        }
        Ok(false)
    }

    /// Follows a reload as far as the limits go, which also bind a client that asks for nothing.
    pub(super) fn refresh_limits(&mut self) {
        let generation = self.cx.shared.generation.load(Ordering::Acquire);
        if generation != self.limits_of {
            self.limits_of = generation;
            let config = Arc::clone(&self.cx.shared.live.load().config);
            self.limits = Limits::of(&config, &self.handle().database, &self.handle().user);
        }
    }

    /// Follows a reload: the database may be another now.
    fn refresh(&mut self) -> Result<(), End> {
        if self.pools.is_replaced() {
            self.adopt_pools()?;
        }
        let generation = self.cx.shared.generation.load(Ordering::Acquire);
        if generation == self.generation {
            return Ok(());
        }
        self.generation = generation;
        let old = std::mem::replace(&mut self.live, self.cx.shared.live.load_full());
        let name = &self.handle().database;
        // What the wildcard would make of its name now may be another database.
        let removed = old.databases.contains_key(&**name) && !self.live.databases.contains_key(&**name);
        let Some(database) = (if removed { None } else { self.live.database_for_client(name) }) else {
            return Err(End::Told(Error::us_fatal(
                SqlState::ADMIN_SHUTDOWN,
                format!("database \"{name}\" was removed from the configuration"),
            )));
        };
        self.route = database.route(&self.registered.handle.user);
        if !Arc::ptr_eq(&database, &self.database) {
            self.database = database;
            self.adopt_pools()?;
        }
        Ok(())
    }

    /// Follows a reload while nothing of a segment has been sent, if that lies where it did.
    pub(super) fn follow_reload(&mut self) -> Result<(), End> {
        let live = self.cx.shared.live.load_full();
        let name = &self.handle().database;
        let next = live.database(name).filter(|next| next.config.map == self.database.config.map);
        if self.database.retired.load(Ordering::Acquire) && next.is_some() { self.refresh() } else { Ok(()) }
    }

    /// Goes over to the pools that the database has for the client now.
    fn adopt_pools(&mut self) -> Result<(), End> {
        let (user, database) = (&self.registered.handle.user, &self.registered.handle.database);
        let Some(pools) = self.database.adopt(&self.pools, user) else {
            let message = format!("the servers of database \"{database}\" are logged in to as \"{user}\" from now on");
            return Err(End::Told(Error::us_fatal(SqlState::ADMIN_SHUTDOWN, message).hint("Connect again.")));
        };
        self.pools = pools;
        self.session.serves(self.pools.id);
        Ok(())
    }

    /// Serves the complete segment.
    async fn serve(&mut self) -> Result<(), End> {
        // Whatever the client knew when it asked is older than this.
        clock::begin_moment();
        self.rests_since = None;
        self.refresh_limits();
        if matches!(self.segment.items.last(), Some((Intake::Terminate, _))) {
            return Err(End::Gone);
        }
        if self.skipping {
            self.skip();
            return Ok(());
        }
        self.handle().requested_us.store(micros(clock::wall()), Ordering::Relaxed);
        if self.held_begin.as_ref().is_some_and(|block| block.lost.is_some()) {
            return self.serve_lost();
        }
        if self.asks_for_token() {
            return Box::pin(self.show_token()).await;
        }
        if let Some(waits) = self.listens_first() {
            match Box::pin(self.ask_first(waits)).await {
                Ok(()) => {}
                Err(Stopped::Refused(error)) => return Box::pin(self.refuse(error)).await,
                Err(Stopped::End(end)) => return Err(end),
            }
        }
        if self.answer_locally() {
            return Ok(());
        }
        let need = loop {
            let looking_up = match self.weigh(self.plan(false, false, false)) {
                Planned::Need(need) => break need,
                Planned::Refused(error) => return Box::pin(self.refuse(error)).await,
                Planned::Ask(questions) => self.look_up(questions),
                Planned::Weigh(names) => self.look_up_readings(names),
            };
            match Box::pin(self.ask_first(looking_up)).await {
                Ok(()) => {}
                Err(Stopped::Refused(error)) => return Box::pin(self.refuse(error)).await,
                Err(Stopped::End(end)) => return Err(end),
            }
        };
        if self.hold_begin(&need) {
            return Ok(());
        }
        if let ShardPlan::Scatter(scatter) = &need.plan {
            return Box::pin(self.scatter(&need, scatter)).await;
        }
        self.execute(need).await
    }

    /// Passes over a segment after a refusal.
    fn skip(&mut self) {
        let segment = self.segment.take();
        let synced = segment.ends_with_sync();
        self.input.consume(segment.len);
        for (intake, _) in segment.items.into_iter().rev() {
            self.session.withdraw(intake);
        }
        if synced {
            self.skipping = false;
            let status = self.idle_status();
            encode::ready_for_query(self.output.tail(), status);
        }
    }

    /// The status that the client believes in while it has no server.
    pub(super) fn idle_status(&self) -> TransactionStatus {
        match self.held_begin.as_deref() {
            Some(Block { lost: Some(Lost::Told), .. }) => TransactionStatus::Failed,
            Some(_) => TransactionStatus::InTransaction,
            None => TransactionStatus::Idle,
        }
    }

    /// What its lost block is, which is taken from it.
    pub(super) fn take_lost(&mut self) -> Option<Lost> {
        self.held_begin.take().and_then(|block| block.lost)
    }

    /// When its last write was acknowledged.
    pub(super) fn last_write(&self) -> Option<Instant> {
        self.last_write
    }

    /// Passes over what the client sends up to the next Sync.
    pub(super) fn skip_to_sync(&mut self) {
        self.skipping = true;
    }

    /// Whether the segment is one text that asks for or sets a setting of ours.
    pub(super) fn concerns_own(&self) -> bool {
        let [(Intake::Query(facts), _)] = self.segment.items.as_slice() else { return false };
        let text = crate::wire::message::query(self.input.bytes().get(5..self.segment.len).unwrap_or_default());
        own::sole_change(facts).is_some() || text.is_some_and(|text| own::sole_show(text).is_some())
    }

    /// Answers a text that concerns a setting of ours, unless it is to fail in a block; `status` is what the client is in.
    pub(super) fn answer_own(&mut self, status: TransactionStatus) -> bool {
        let [(Intake::Query(facts), _)] = self.segment.items.as_slice() else { return false };
        let text = crate::wire::message::query(self.input.bytes().get(5..self.segment.len).unwrap_or_default());
        let out = self.output.tail();
        if let Some(name) = text.and_then(own::sole_show).filter(|name| *name != token::NAME) {
            let value = own::shown(name, self.session.settings());
            encode::row_description(out, &[(name, 25)]);
            encode::data_row(out, &[Some(value)]);
            encode::command_complete(out, "SHOW");
        } else if let Some((name, value)) = own::sole_change(facts) {
            match value.map_or(Ok(()), |v| own::check(name, v, &self.database.config.map)) {
                Ok(()) => {
                    self.session.set_own(name, value);
                    encode::command_complete(out, if value.is_some() { "SET" } else { "RESET" });
                }
                Err(_) if status != TransactionStatus::Idle => return false,
                Err(error) => encode::error(out, &error),
            }
        } else {
            return false;
        }
        encode::ready_for_query(self.output.tail(), status);
        let segment = self.segment.take();
        self.input.consume(segment.len);
        true
    }

    /// Answers a segment that concerns no server.
    pub(super) fn answer_locally(&mut self) -> bool {
        let status = self.idle_status();
        if let [(Intake::Query(facts), _)] = self.segment.items.as_slice() {
            let facts = Arc::clone(facts);
            return self.answer_own(status) || (self.held_begin.is_some() && self.end_held_begin(&facts));
        }
        let prepares_here = self.held_begin.is_none() && self.segment.ends_with_sync();
        let answered_here = |intake: &Intake| match intake {
            Intake::Parse { statement, named: Some(_), .. } => prepares_here && self.session.is_accepted(statement),
            Intake::Refuse { .. } => false,
            intake => !intake.needs_server(),
        };
        if !self.segment.items.iter().all(|(intake, _)| answered_here(intake)) {
            return false;
        }
        let segment = self.segment.take();
        self.input.consume(segment.len);
        for (intake, _) in segment.items {
            match intake {
                // Another server of the same pools has it; the one that gets the first Bind is sent it then.
                Intake::Parse { .. } => {
                    self.count_parse();
                    self.output.extend(encode::PARSE_COMPLETE);
                }
                Intake::CloseStatement { .. } => self.output.extend(encode::CLOSE_COMPLETE),
                Intake::Sync => encode::ready_for_query(self.output.tail(), status),
                // PostgreSQL ignores these outside of a COPY.
                _ => {}
            }
        }
        self.note_prepared();
        true
    }

    /// Lets others see how many statements it has prepared, if that has changed.
    pub(super) fn note_prepared(&self) {
        let now = u32::try_from(self.session.prepared_statements()).unwrap_or(u32::MAX);
        let shown = &self.handle().prepared;
        if shown.load(Ordering::Relaxed) != now {
            shown.store(now, Ordering::Relaxed);
        }
    }

    /// Counts a Parse that no server saw where others of the database are counted.
    fn count_parse(&self) {
        let shard = self.database.config.map.default_shard;
        if let Some(pool) = self.database.pool(&self.pools, shard, ServerIndex(0)) {
            let one = crate::metrics::counters::Counts { client_parse_count: 1, ..Default::default() };
            pool.counters.totals.add(&one);
        }
    }

    /// COMMIT or ROLLBACK of a block that no server has seen.
    fn end_held_begin(&mut self, facts: &QueryFacts) -> bool {
        let [statement] = facts.statements.as_slice() else { return false };
        let tag = match statement.transaction {
            TransactionEffect::Commit { chain: false } => "COMMIT",
            TransactionEffect::Rollback { chain: false } => "ROLLBACK",
            _ => return false,
        };
        self.held_begin = None;
        encode::command_complete(self.output.tail(), tag);
        encode::ready_for_query(self.output.tail(), TransactionStatus::Idle);
        let segment = self.segment.take();
        self.input.consume(segment.len);
        true
    }

    /// On a sharded database a BEGIN alone is answered here and sent with the first statement, which shows the shard.
    fn hold_begin(&mut self, need: &Need) -> bool {
        if !self.database.config.map.is_sharded() || self.pools.mode == PoolMode::Session || self.held_begin.is_some() {
            return false;
        }
        let [(Intake::Query(facts), len)] = self.segment.items.as_slice() else { return false };
        let [statement] = facts.statements.as_slice() else { return false };
        let (TransactionEffect::Begin { .. }, ShardPlan::AnyShard { .. }) = (statement.transaction, &need.plan) else {
            return false;
        };
        let body = self.input.bytes().get(5..*len).unwrap_or_default();
        let text = crate::wire::message::query(body).unwrap_or_default();
        let Some(block) = Block::begin(text, Arc::clone(facts)) else { return false };
        let tag = statement.why;
        self.held_begin = Some(Box::new(block));
        // The kind of statement is the tag of its answer.
        encode::command_complete(self.output.tail(), tag);
        encode::ready_for_query(self.output.tail(), TransactionStatus::InTransaction);
        let segment = self.segment.take();
        self.input.consume(segment.len);
        true
    }

    /// Refuses the segment. In a block that no server has seen, a server is made to fail in the client's name, so that the block
    /// fails as PostgreSQL's would.
    pub(super) async fn refuse(&mut self, error: Error) -> Result<(), End> {
        if self.live.config.general.log_pooler_errors {
            tracing::info!(client = %self.handle().id, %error, "statement refused");
        }
        self.cx.shared.count_refusal(reason(&error));
        if error.severity == Severity::Fatal {
            return Err(End::Told(error));
        }
        if self.held_begin.is_some() {
            self.replace_by_refusal(error);
            let plan = ShardPlan::AnyShard { why: "refused" };
            let need = Need {
                access: Access::Write,
                hint: RouteHint::Auto,
                begin_read_only: false,
                changes_catalog: false,
                asks_sequences: false,
                wrote: false,
                plan,
            };
            return self.execute(need).await;
        }
        self.refuse_here(&error);
        Ok(())
    }

    /// Answers the segment by an error of ours; nothing of it has reached a server.
    pub(super) fn refuse_here(&mut self, error: &Error) {
        let segment = self.segment.take();
        self.input.consume(segment.len);
        let simple = segment.items.last().is_some_and(|(intake, _)| intake.is_simple());
        let synced = segment.ends_with_sync();
        for (intake, _) in segment.items.into_iter().rev() {
            self.session.withdraw(intake);
        }
        encode::error(self.output.tail(), error);
        if simple || synced {
            let status = self.idle_status();
            encode::ready_for_query(self.output.tail(), status);
        } else {
            self.skipping = true;
        }
    }

    /// Puts a refusal in the place of the segment's first message that asks for something; the rest is skipped by the server.
    pub(super) fn replace_by_refusal(&mut self, error: Error) {
        let mut error = Some(Box::new(error));
        for (intake, _) in &mut self.segment.items {
            let simple = intake.is_simple();
            if (intake.needs_server() || matches!(intake, Intake::Refuse { .. }))
                && let Some(error) = error.take()
            {
                let refused = std::mem::replace(intake, Intake::Refuse { error, simple });
                self.session.withdraw(refused);
            }
        }
    }

    /// Gets a server and relays; again on another where that is certain to be unnoticed.
    async fn execute(&mut self, mut need: Need) -> Result<(), End> {
        let mut attempt = Attempt::new();
        // Once is enough: what fails as an unnamed statement too is wrong by itself, and would be tried for ever.
        let mut leaves_unnamed = false;
        loop {
            let (shard, request) = self.request(&need, &attempt);
            let link = match self.link(shard, &request, &mut attempt).await {
                Ok(link) => link,
                Err(Stopped::Refused(error)) => {
                    let told = attempt.crash.as_ref().filter(|_| error.sqlstate != SqlState::QUERY_CANCELED);
                    self.refuse_here(told.unwrap_or(&error));
                    // The block never began, and it has failed.
                    if self.held_begin.take().is_some() {
                        return Err(End::Told(error.fatal()));
                    }
                    return Ok(());
                }
                Err(Stopped::End(end)) => return Err(end),
            };
            let role = link.role();
            let server = link.server();
            let (ended, wrote) = self.relay(link, &need).await;
            if wrote {
                self.last_write = Some(clock::now());
            }
            match ended {
                Ended::Released => return Ok(()),
                Ended::Client(end) => return Err(end),
                Ended::Again => {
                    self.cx.shared.count_retry("kept_plan");
                    leaves_unnamed = true;
                    self.gather_again(leaves_unnamed)?;
                }
                Ended::Retry(cause) => {
                    self.gather_again(leaves_unnamed)?;
                    attempt.failures += 1;
                    attempt.excluded.push(server);
                    match cause {
                        Cause::NeedsPrimary { writes } => {
                            attempt.primary = true;
                            if writes {
                                (need.access, need.wrote) = (Access::Write, true);
                                self.remember_write();
                            }
                        }
                        Cause::Broken { sent: true } if self.serves_on(shard, server).await => {
                            let error = crashed();
                            if attempt.crash.is_some() {
                                self.refuse_here(&error);
                                // As above.
                                return if self.held_begin.take().is_some() {
                                    Err(End::Told(error.fatal()))
                                } else {
                                    Ok(())
                                };
                            }
                            attempt.crash = Some(error);
                            // Once more, but not where it could end the work of all, and not when it has become another.
                            attempt.stays = Stays::Leaves;
                        }
                        Cause::Broken { .. } | Cause::Leaves => {}
                    }
                    tracing::info!(client = %self.handle().id, ?role, ?cause, "statement is retried on another server");
                    let primary = matches!(cause, Cause::NeedsPrimary { .. });
                    self.cx.shared.count_retry(if primary { "needs_primary" } else { "elsewhere" });
                    if attempt.failures > MOST_FAILURES {
                        return Err(End::Told(lost("too many servers failed")));
                    }
                }
            }
        }
    }

    /// The segment was taken for a read, and a standby would not do it: from now on it goes to the primary at once.
    fn remember_write(&self) {
        let mut readings = self.pools.readings.lock();
        readings.follow(self.database.catalog_epoch.load(Ordering::Acquire));
        let all: Vec<_> = self.segment.items.iter().filter_map(|(intake, _)| intake.facts()).collect();
        // Which of several it was is not known, but where some cannot have been it, they were not.
        let some = all.iter().any(|facts| !facts.plainly_reads());
        all.into_iter().filter(|facts| !some || !facts.plainly_reads()).for_each(|facts| readings.refuse(facts));
    }

    /// Whether a server that broke a connection without a word still takes new ones: then it was one of its processes that died, and what
    /// that was asked may be why. (When one has crashed, the server ends all others, but takes connections, if only to say that it
    /// recovers.)
    async fn serves_on(&self, shard: ShardIndex, server: ServerIndex) -> bool {
        let Some(pool) = self.database.pool(&self.pools, shard, server) else { return false };
        // What dies as a whole does not do so at once.
        tokio::time::sleep(DYING).await;
        tokio::time::timeout(DIAL, pool.target.takes_connections(&pool.settings.login)).await.unwrap_or(false)
    }

    /// Reads the segment once more that was put back into the input; `as_it_came`: with its unnamed statements as such.
    fn gather_again(&mut self, as_it_came: bool) -> Result<(), End> {
        self.leaves_unnamed = as_it_came;
        let gathered = self.gather();
        self.leaves_unnamed = false;
        gathered.map_err(End::Told)?;
        if as_it_came {
            // Of a Bind or Describe whose Parse came in an earlier segment the session knows only what servers keep.
            self.segment.items.iter_mut().for_each(|(intake, _)| intake.leave_unnamed());
        }
        Ok(())
    }

    pub(super) fn request(&self, need: &Need, attempt: &Attempt) -> (ShardIndex, Request) {
        let shard = match &need.plan {
            ShardPlan::Single { shard, .. } => *shard,
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

    async fn link(
        &mut self,
        shard: ShardIndex,
        request: &Request,
        attempt: &mut Attempt,
    ) -> Result<Box<Link>, Stopped> {
        let since = clock::moment();
        let Lent { checkout, in_flight, route } = self.lend(shard, request, attempt).await?;
        Ok(Link::boxed(checkout, in_flight, route.role, shard, route.server, since))
    }

    /// Chooses a server and gets a connection to it that has the client's settings.
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
            let replicated = self.replicated(shard).is_some();
            let silence =
                || (replicated || route.role == Role::Replica).then(|| Silence::since_now(in_flight.server()));
            let confirm = (route.role == Role::Primary && replicated).then(|| in_flight.server());
            match self.checkout(&pool, now, &silence, confirm, &mut attempt.place).await {
                Ok(checkout) => {
                    let read = route.role == Role::Replica || matches!(request.access, Access::Read | Access::Local);
                    self.count_checkout(&pool, &in_flight, read, now);
                    self.database.routes.count(route.why);
                    return Ok(Lent { checkout, in_flight, route });
                }
                Err(Stopped::Refused(error)) if is_unreachable(&error) && !attempt.excluded.contains(&route.server) => {
                    tracing::debug!(pool = %pool.name(), %error, "server cannot be used, another is tried");
                    attempt.excluded.push(route.server);
                    last_error = Some(error);
                }
                Err(stopped) => return Err(stopped),
            }
        }
    }

    fn choose(
        &self,
        shard: ShardIndex,
        request: &Request,
        attempt: &mut Attempt,
        now: Instant,
    ) -> Result<(Route, InFlight), Error> {
        let internal = || Error::us(SqlState::INTERNAL_ERROR, "the route names no server");
        let health = self.database.health.get(usize::from(shard.0)).ok_or_else(internal)?;
        let (one, mut several) = (health.only_view(now), Vec::new());
        if one.is_none() {
            health.views(now, &mut several);
        }
        let views: &[ServerView] = one.as_ref().map_or(&several, std::slice::from_ref);
        let settings = &self.database.config.health;
        // A single server needs no token.
        let told = (views.len() > 1).then(|| self.session.settings().get(token::NAME)).flatten();
        let told = told.and_then(|text| token::of_shard(text, usize::from(shard.0)));
        let seen = Seen { last_write: self.last_write, token: told };
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

    /// A connection of the pool, with the client's settings.
    async fn checkout(
        &mut self,
        pool: &Arc<Pool>,
        since: Instant,
        silence: &dyn Fn() -> Option<Silence>,
        confirm: Option<&Arc<ServerHealth>>,
        place: &mut Option<Place>,
    ) -> Result<Checkout, Stopped> {
        let (mut tries, mut failed, mut inherited) = (0, 0, 0);
        loop {
            let asked = pool.ask(self.cx.id);
            // It stands in the queue of the pool now: the next in line may come forward.
            drop(place.take());
            let mut checkout = match asked.map_err(Stopped::Refused)? {
                Asked::Now(checkout) => checkout,
                Asked::Later(ticket) => Box::pin(self.wait(ticket, pool, since, silence())).await?,
            };
            if checkout.is_unproven()
                && let Err(error) = Box::pin(self.prove(&mut checkout, silence())).await?
            {
                // What died while it rested says nothing of the next one, but not for ever.
                failed += 1;
                if failed > CHECKS || pool.settings.check.as_ref().is_some_and(pool::Check::is_always) {
                    return Err(Stopped::Refused(error));
                }
                continue;
            }
            let Some(connection) = checkout.as_mut() else { continue };
            if let Some(server) = confirm {
                if failover::is_standby(connection) == Some(true) {
                    // What the empty query fails with does not matter: it was answered.
                    let asked = tokio::time::timeout(pool.settings.login.timeout, connection.run(";"));
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
            let forgets = connection.state.stale_sequences && self.database.hidden.minds_sequences(pool.key.shard);
            let sql = match (connection.state.settings.catch_up(self.session.settings()), forgets) {
                (None, false) => return Ok(checkout),
                (settings, true) => format!("DISCARD SEQUENCES;{}", settings.unwrap_or_default()),
                (Some(settings), false) => settings,
            };
            let as_new = connection.state.settings.is_as_new();
            let limit = pool.settings.login.timeout;
            let run = Box::pin(tokio::time::timeout(limit, connection.run(&sql)));
            let ran = match silence() {
                Some(silence) => Box::pin(silence.or(self.handle(), run)).await,
                None => Some(run.await),
            };
            let Some(ran) = ran else { return Err(Stopped::Refused(lost("it answers nothing any more"))) };
            match ran {
                Ok(Ok(Ok(()))) => {
                    connection.state.settings.caught_up(self.session.settings());
                    connection.state.stale_sequences &= !forgets;
                    return Ok(checkout);
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
        since: Instant,
        silence: Option<Silence>,
    ) -> Result<Checkout, Stopped> {
        let handle = Arc::clone(self.handle());
        handle.set_activity(Activity::Waiting);
        let started = since.saturating_duration_since(self.cx.shared.started);
        handle.waits_since_us.store(micros(started).max(1), Ordering::Relaxed);
        let (limit, overdue) =
            self.limits.wait(clock::now().saturating_duration_since(since)).unwrap_or((FOR_EVER, None));
        let worker = self.cx.id;
        let granted = async {
            match silence {
                Some(silence) => silence.or(&handle, ticket.wait(worker)).await,
                None => Some(ticket.wait(worker).await),
            }
        };
        let mut granted = pin!(granted);
        let notify = self.live.config.general.query_wait_notify;
        let mut waited = Ok(None);
        let mut left = limit;
        if !notify.is_zero() && notify < limit {
            waited = self.attend(granted.as_mut(), notify).await;
            left = limit.saturating_sub(notify);
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
                let own = pool.settings.limits.size != self.live.config.general.default_pool_size as usize;
                let size = if own { "pool_size" } else { "default_pool_size" };
                Err(Stopped::Refused(pool_full(pool, limit, size)))
            }
            Err(stopped) => Err(stopped),
        };
        handle.waits_since_us.store(0, Ordering::Relaxed);
        handle.cancel_is_done();
        handle.set_activity(Activity::Idle);
        outcome
    }

    /// `query_wait_notify`: tells the client why it has no answer.
    fn tell_queued(&mut self, pool: &Pool) {
        let c = pool.counts();
        let why = if pool.is_paused() { "the database is paused" } else { "all server connections are in use" };
        let notice = Error::us(SqlState::SUCCESS, format!("the statement waits for a server connection: {why}"))
            .detail(format!(
                "{} clients wait in this pool; {} connections are in use.",
                c.waiting,
                c.active + c.active_cancel
            ));
        encode::notice(self.output.tail(), "NOTICE", &notice);
        let mut cx = Context::from_waker(Waker::noop());
        // What the socket does not take now goes with what follows, and who has left is noticed by the wait.
        drop(self.output.poll_flush(&mut self.stream, &mut cx));
    }

    /// Waits until the catalog is asked, as long as for a server.
    async fn ask_first(&mut self, looking_up: LookUp) -> Result<(), Stopped> {
        let limit = self.live.config.general.query_wait_timeout;
        let limit = if limit.is_zero() { FOR_EVER } else { limit };
        // So that a cancel request finds it.
        self.handle().set_activity(Activity::Waiting);
        let asked = self.attend(looking_up, limit).await;
        self.handle().cancel_is_done();
        self.handle().set_activity(Activity::Idle);
        match asked? {
            Some(answered) => answered.map_err(Stopped::Refused),
            None => Err(Stopped::Refused(catalog_silent(limit))),
        }
    }

    /// Waits for `future`, while the client is there, nobody cancels and the time is not up (`None`).
    pub(super) async fn attend<T>(
        &mut self,
        future: impl Future<Output = T>,
        limit: Duration,
    ) -> Result<Option<T>, Stopped> {
        let handle = Arc::clone(self.handle());
        let mut future = pin!(future);
        let mut late = pin!(tokio::time::sleep(limit));
        let mut woken: Pin<Box<_>> = Box::pin(handle.wake.notified());
        poll_fn(|cx| {
            if let Poll::Ready(outcome) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(Some(outcome)));
            }
            while woken.as_mut().poll(cx).is_ready() {
                woken = Box::pin(handle.wake.notified());
            }
            match handle.standing_order() {
                Order::Cancel => {
                    let error = Error::client(SqlState::QUERY_CANCELED, "canceling statement due to user request");
                    return Poll::Ready(Err(Stopped::Refused(error)));
                }
                Order::Kill => return Poll::Ready(Err(Stopped::End(End::Told(terminated_as(&handle))))),
                Order::None | Order::Drain => {}
            }
            if handle.is_asked() {
                self.tell();
            }
            if late.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(None));
            }
            // What the client sends meanwhile waits in the kernel, beyond one read; its leaving is noticed.
            while self.input.len() < self.segment.len + HIGH_WATER {
                match self.input.poll_fill(&mut self.stream, cx) {
                    Poll::Ready(Ok(n)) if n > 0 => {}
                    Poll::Ready(_) => return Poll::Ready(Err(Stopped::End(End::Gone))),
                    Poll::Pending => break,
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Whether a block was answered for that no server has seen.
    pub(super) fn holds_block(&self) -> bool {
        self.held_begin.is_some()
    }

    /// Takes the block that is to begin before anything else.
    pub(super) fn take_held_begin(&mut self) -> Option<Block> {
        self.held_begin.take().map(|held| *held)
    }

    /// Holds a block back once more.
    pub(super) fn hold_again(&mut self, held: Option<Block>) {
        self.held_begin = held.map(Box::new);
    }
}

/// A connection that was lent to the client.
pub(super) struct Lent {
    pub(super) checkout: Checkout,
    pub(super) in_flight: InFlight,
    pub(super) route: Route,
}

/// Why no server was got.
#[derive(Debug)]
pub(super) enum Stopped {
    /// The segment is answered by this error.
    Refused(Error),
    /// The session ends.
    End(End),
}

/// Microseconds, as counters keep them.
pub(super) fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

/// Whether another server may do better: this one could not be reached or is not taking connections.
fn is_unreachable(error: &Error) -> bool {
    error.severity == Severity::Error
        && matches!(error.sqlstate.class(), "08" | "57")
        && error.sqlstate != SqlState::QUERY_CANCELED
}

pub(super) fn terminated() -> Error {
    Error::us_fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection due to administrator command")
}

/// What a client is told that must go.
pub(super) fn terminated_as(handle: &ClientHandle) -> Error {
    if handle.is_overdue() { suspend::overdue() } else { terminated() }
}

fn pqexec_disabled() -> Error {
    Error::client_fatal(
        SqlState::FEATURE_NOT_SUPPORTED,
        "the simple query protocol is switched off here (disable_pqexec), and the client used it",
    )
    .hint("Use the extended protocol (statements with parameters), or set disable_pqexec to false.")
}

/// The error of what may have ended the server's process that it ran in.
fn crashed() -> Error {
    lost("server closed the connection unexpectedly")
        .detail("The server itself goes on: its process that ran the statement has ended, perhaps because of it.")
        .hint("The statement is not tried again. The server's log may tell why.")
}

/// The error of a lost server connection.
pub(super) fn lost(why: &str) -> Error {
    Error::server(SqlState::CONNECTION_FAILURE, format!("server connection lost: {why}"))
}

fn catalog_silent(limit: Duration) -> Error {
    let seconds = limit.as_secs_f64();
    Error::us(
        SqlState::TOO_MANY_CONNECTIONS,
        format!("the server's catalog, which decides where the statement goes, did not answer within {seconds} s (query_wait_timeout)"),
    )
    .hint("SHOW SERVERS and SHOW REPLICAS on the console tell how the servers are.")
}

/// `size`: the setting that the pool's size comes from.
fn pool_full(pool: &Pool, limit: Duration, size: &str) -> Error {
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
    Error::us(
        SqlState::TOO_MANY_CONNECTIONS,
        format!(
            "{in_vain}: {} of {} are in use and {} clients wait",
            c.active + c.active_cancel,
            pool.settings.limits.size + pool.settings.limits.reserve,
            c.waiting
        ),
    )
    .hint(format!("Raise {size}, shorten transactions, or raise query_wait_timeout."))
}

/// A word for the metric of refused statements.
fn reason(error: &Error) -> &'static str {
    match error.sqlstate {
        SqlState::FEATURE_NOT_SUPPORTED => "not_supported",
        SqlState::SYNTAX_ERROR => "syntax",
        SqlState::INVALID_PARAMETER_VALUE | SqlState::UNDEFINED_OBJECT => "setting",
        SqlState::INVALID_STATEMENT_NAME | SqlState::DUPLICATE_STATEMENT => "statement_name",
        SqlState::PROTOCOL_VIOLATION => "protocol",
        _ => "other",
    }
}

//! The life of a logged-in client: gather a segment, plan it, get a server for it, relay until the server can go back.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::client::WorkerContext;
use crate::client::block::Block;
use crate::client::catalog::{LookUp, Planned};
use crate::client::database::{Live, LiveDatabase, UserPools};
use crate::client::limits::{Limits, Overdue, Timer};
use crate::client::listen::Listener;
use crate::client::lost::Lost;
use crate::client::own;
use crate::client::pieces::{self, Pieces};
use crate::client::plan::{Need, Question};
use crate::client::popular;
use crate::client::relay::shortcut::Shortcut;
use crate::client::scatter::spread::Spread;
use crate::client::segment::Segment;
use crate::client::sequences;
use crate::client::shared::{Activity, ClientHandle, Order, Registered};
use crate::client::suspend;
use crate::client::token;
use crate::clock::{self, Stamp};
use crate::config::PoolMode;
use crate::error::{Error, Severity, SqlState};
use crate::id::ServerIndex;
use crate::net::{Buffer, Stream};
use crate::pool::Claim;
use crate::session::reading::Reader;
use crate::session::{Intake, Naming, Session, Values};
use crate::shard::plan::{PlanKind, ShardPlan};
use crate::sql::facts::{Access, QueryFacts, RouteHint, TransactionEffect};
use crate::wire::message::{Parse, TransactionStatus};
use crate::wire::{encode, frame};

/// A client is not read from while this many bytes wait to be sent to it.
pub const HIGH_WATER: usize = 256 * 1024;

/// A wait without a limit.
pub(super) const FOR_EVER: Duration = Duration::from_secs(86_400 * 365);

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
    last_write: Stamp,
    /// Where its values of sequences are.
    pub(super) values: sequences::Values,
    /// Where its statements go that say nothing themselves.
    pub(super) route: RouteHint,
    /// How long it may take for what; as of that generation.
    pub(super) limits: Rc<Limits>,
    limits_of: u64,
    pub(super) timer: Timer,
    /// Since when it has asked for nothing, if that is limited.
    pub(super) rests_since: Stamp,
    /// Unnamed statements that come often are left unnamed for the moment.
    pub(super) leaves_unnamed: bool,
    /// A server has refused a setting that was sent ahead, and none has taken all since.
    pub(super) settings_refused: bool,
    /// The client's messages are passed over up to the next Sync: one of them was refused while no server was linked.
    pub(super) skipping: bool,
    /// Its part in listening, if it ever listened.
    pub(super) listener: Option<Box<Listener>>,
    /// A transaction block that several shards take part in.
    pub(super) spread: Option<Box<Spread>>,
    /// A block that was answered for but begins only when the first statement shows the shard.
    pub(super) held_begin: Option<Box<Block>>,
    /// What is left of a pipeline that is taken piece by piece.
    pub(super) pieces: Option<Box<Pieces>>,
    /// Where ordinary statements of its go.
    pub(super) shortcut: Shortcut,
    /// What the statement that is served was given on the short way, before it came to the long one.
    pub(super) claim: Option<Box<Claim>>,
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
        let limits = cx.limits.share(limits);
        Self {
            route: database.route(&registered.handle.user),
            limits,
            limits_of: generation,
            timer: Timer::default(),
            rests_since: Stamp::default(),
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
            last_write: Stamp::default(),
            values: sequences::Values::default(),
            leaves_unnamed: false,
            settings_refused: false,
            skipping: false,
            listener: None,
            spread: None,
            held_begin: None,
            pieces: None,
            shortcut: Shortcut::Unknown,
            claim: None,
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
        self.drop_spread();
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
            if self.spread.is_none() {
                // A block of several shards ends on the shards that it knows, whatever the map says now.
                self.refresh()?;
            }
            // In boxes: most clients are idle, and what a segment needs is several times what they need. What is seldom needed has
            // boxes of its own, for these are made and moved for each segment.
            if let Some(flight) = self.takes_shortcut() {
                return Box::pin(self.fly(flight)).await;
            }
            return Box::pin(self.serve()).await;
        }
        self.rest().await
    }

    /// Sends until less than [`HIGH_WATER`] waits to be sent; follows orders.
    async fn drain(&mut self) -> Result<(), End> {
        let handle = Arc::clone(self.handle());
        poll_fn(|cx| {
            // What it rings for is looked at below.
            handle.bell.has_rung(cx);
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
            self.segment.put_by();
        }
        self.refresh_limits();
        let begun = self.begun_at();
        let due = self.limits.any_of_rest(begun.is_some()).then(|| self.begin_rest());
        let due = due.and_then(|since| self.limits.rest_between(since, self.is_in_block(), begun));
        poll_fn(|cx| self.poll_resting(due, cx)).await
    }

    /// Since when it rests: now, if it did not yet.
    fn begin_rest(&mut self) -> Instant {
        self.rests_since.get().unwrap_or_else(|| {
            let now = clock::now();
            self.rests_since = Stamp::of(now);
            now
        })
    }

    fn poll_resting(&mut self, due: Option<(Instant, Overdue)>, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let rung = |client: &Self, cx: &Context<'_>| {
            if client.handle().bell.has_rung(cx) { Poll::Ready(Ok(())) } else { Poll::Pending }
        };
        match self.handle().standing_order() {
            Order::None => {}
            // It came too late: nothing is under way.
            Order::Cancel => self.handle().cancel_is_done(),
            Order::Drain if self.is_in_block() => {}
            Order::Drain | Order::Kill => return Poll::Ready(Err(End::Told(terminated_as(self.handle())))),
        }
        if self.listener.is_some() {
            self.take_notifications()?;
        }
        let flushed = self.output.poll_flush(&mut self.stream, cx)?.is_ready();
        if self.handle().has_errand() && self.rests_or_tells(flushed) {
            return rung(self, cx);
        }
        if self.output.len() < HIGH_WATER
            && let Poll::Ready(read) = self.input.poll_fill(&mut self.stream, cx)?
        {
            return Poll::Ready(if read == 0 { Err(End::Gone) } else { Ok(()) });
        }
        if let Some((at, overdue)) = due
            && self.timer.passed(at, cx)
        {
            return Poll::Ready(Err(End::Told(self.time_is_up(overdue))));
        }
        rung(self, cx)
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
        if self.is_in_pieces() && self.segment.items.is_empty() {
            self.take_piece();
        }
        let implicit = self.is_implicit();
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
            if self.session.waits_for_names(&frame, self.segment.names) {
                if self.segment.items.is_empty() {
                    return Ok(false);
                }
                self.segment.push(Intake::Flush, 0);
                continue;
            }
            if frame.tag == b'Q' && self.live.config.general.disable_pqexec {
                return Err(pqexec_disabled());
            }
            match frame.tag {
                // It is a piece by itself: it ends the transaction.
                b'S' if implicit && !self.segment.items.is_empty() => {
                    self.segment.push(Intake::Sync, 0);
                    break;
                }
                b'Q' | b'F' if implicit => return Err(pieces::no_sync()),
                _ => {}
            }
            let len = frame.bytes.len();
            let (cx, sharded) = (&self.cx, self.database.config.map.is_sharded());
            let facts = |text: &[u8], values| {
                let mut known = cx.facts.borrow_mut();
                if values == Values::Needed || sharded { known.get(text) } else { known.get_without_values(text) }
            };
            if frame.tag == b'P' {
                self.session.catalog_is_at(self.database.types_epoch.load(Ordering::Acquire));
            }
            let registry = &cx.shared.registry;
            let limits = popular::limits(&self.live.config.general, self.pools.mode).filter(|_| !self.leaves_unnamed);
            let popular = |parse: &Parse<'_>, reader: &Reader<'_>| {
                let facts = || facts(parse.sql, Values::Needed);
                cx.popular.borrow_mut().get(parse, (registry, reader), limits?, facts)
            };
            let intake = self.session.intake(frame, registry, facts, popular)?;
            let (intake, len) = match intake.facts() {
                Some(facts) if facts.pids || facts.listens => self.identify(intake, self.segment.len, len),
                _ => (intake, len),
            };
            self.segment.names = self.session.names_behind(&intake, self.segment.names);
            self.segment.push(intake, len);
            if self.segment.is_cut() && self.segment.names == Naming::Taken {
                // What follows waits for its answers.
                self.segment.push(Intake::Flush, 0);
            }
        }
        self.comes_to_sync();
        Ok(false)
    }

    /// Follows a reload as far as the limits go, which also bind a client that asks for nothing.
    pub(super) fn refresh_limits(&mut self) {
        let generation = self.cx.shared.generation.load(Ordering::Acquire);
        if generation != self.limits_of {
            self.limits_of = generation;
            let config = Arc::clone(&self.cx.shared.live.load().config);
            self.limits = self.cx.limits.share(Limits::of(&config, &self.handle().database, &self.handle().user));
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
        self.shortcut = Shortcut::Unknown;
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

    /// Whether there has been a reload, or another login, that it has not followed yet.
    pub(super) fn is_outdated(&self) -> bool {
        self.pools.is_replaced() || self.cx.shared.generation.load(Ordering::Acquire) != self.generation
    }

    /// Follows a reload while nothing of a segment has been sent, if that lies where it did.
    pub(super) fn follow_reload(&mut self) -> Result<(), End> {
        if self.spread.is_some() {
            return Ok(());
        }
        let live = self.cx.shared.live.load_full();
        let name = &self.handle().database;
        let next = live.database(name).filter(|next| next.config.map == self.database.config.map);
        if self.database.retired.load(Ordering::Acquire) && next.is_some() { self.refresh() } else { Ok(()) }
    }

    /// Goes over to the pools that the database has for the client now.
    pub(super) fn adopt_pools(&mut self) -> Result<(), End> {
        let (user, database) = (&self.registered.handle.user, &self.registered.handle.database);
        // What is stored may be newer than the configuration that the client goes by.
        let live = self.cx.shared.live.load();
        let stored = live.users.get(&**user).map(|credential| credential.secret());
        let Some(pools) = self.database.adopt(&self.pools, user, stored) else {
            let message = format!("the servers of database \"{database}\" are logged in to as \"{user}\" from now on");
            return Err(End::Told(Error::us_fatal(SqlState::ADMIN_SHUTDOWN, message).hint("Connect again.")));
        };
        self.pools = pools;
        self.shortcut = Shortcut::Unknown;
        self.session.serves(self.pools.id);
        Ok(())
    }

    /// Serves the complete segment.
    pub(super) async fn serve(&mut self) -> Result<(), End> {
        // Whatever the client knew when it asked is older than this.
        clock::begin_moment();
        self.rests_since = Stamp::default();
        self.refresh_limits();
        if matches!(self.segment.items.last(), Some((Intake::Terminate, _))) {
            return Err(End::Gone);
        }
        if self.ends_implicit() {
            return Box::pin(self.end_implicit()).await;
        }
        if self.skipping {
            self.skip(self.idle_status());
            return Ok(());
        }
        if self.claim.is_none() {
            self.handle().asks(clock::moment().saturating_duration_since(self.cx.shared.started));
        }
        if self.held_begin.as_ref().is_some_and(|block| block.lost.is_some()) {
            return self.serve_lost();
        }
        if self.spread.is_some() {
            return Box::pin(self.serve_spread()).await;
        }
        match self.sole_show() {
            Some(token::NAME) => return Box::pin(self.show_token()).await,
            Some(name) => {
                self.show_own(name, self.idle_status());
                return Ok(());
            }
            None => {}
        }
        if let Some(waits) = self.listens_first() {
            match Box::pin(self.ask_first(waits)).await {
                Ok(()) => {}
                Err(Stopped::Refused(error)) => return Box::pin(self.refuse(error)).await,
                Err(Stopped::End(end)) => return Err(end),
            }
        }
        self.hold_leading_begin();
        if self.answer_locally() {
            return Ok(());
        }
        let mut checks_are_fresh = false;
        let need = loop {
            let planned = self.weigh(self.plan(false, false, false));
            if self.may_go_in_pieces(&planned) && Box::pin(self.goes_in_pieces(&planned)).await? {
                return Ok(());
            }
            let looking_up = match planned {
                Planned::Need(need) => break need,
                Planned::Refused(error)
                    if reason(&error) == "distrust"
                        && !self.database.is_checked()
                        && !std::mem::replace(&mut checks_are_fresh, true) =>
                {
                    self.wait_for_checks()
                }
                Planned::Refused(error) => {
                    self.count_plan(PlanKind::Refused);
                    return Box::pin(self.refuse(error)).await;
                }
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
        if self.holds_block() {
            // It begins on one of the shards, and is planned again when others are needed.
            if !matches!(need.plan, ShardPlan::Scatter(_) | ShardPlan::Fan(_)) {
                self.count_plan(need.plan.kind());
            }
            return self.execute(need).await;
        }
        self.count_plan(need.plan.kind());
        if let ShardPlan::Fan(fan) = &need.plan {
            return Box::pin(self.fan(&need, fan)).await;
        }
        if let ShardPlan::Scatter(scatter) = &need.plan {
            return Box::pin(self.scatter(&need, scatter)).await;
        }
        self.execute(need).await
    }

    /// Counts a plan of a statement, which decides something on a sharded database only.
    pub(super) fn count_plan(&self, kind: PlanKind) {
        if self.database.config.map.is_sharded() {
            self.database.plans.count(kind);
        }
    }

    /// Passes over a segment after a refusal; the client is in `status`.
    pub(super) fn skip(&mut self, status: TransactionStatus) {
        let segment = self.segment.take();
        let synced = segment.ends_with_sync() && !segment.goes_on();
        self.input.consume(segment.len);
        for (intake, _) in segment.items.into_iter().rev() {
            self.session.withdraw(intake);
        }
        if synced {
            self.skipping = false;
            encode::ready_for_query(self.output.tail(), status);
        }
    }

    /// The status that the client believes in while it has no server.
    pub(super) fn idle_status(&self) -> TransactionStatus {
        match self.held_begin.as_deref() {
            Some(Block { lost: Some(Lost::Told | Lost::Spread { .. }), .. }) => TransactionStatus::Failed,
            Some(_) => TransactionStatus::InTransaction,
            None if self.spread.is_some() => self.session.status(),
            None => TransactionStatus::Idle,
        }
    }

    /// What its lost block is, which is taken from it.
    pub(super) fn take_lost(&mut self) -> Option<Lost> {
        self.held_begin.take().and_then(|block| block.lost)
    }

    /// When its last write was acknowledged.
    pub(super) fn last_write(&self) -> Option<Instant> {
        self.last_write.get()
    }

    /// A write of its was acknowledged.
    pub(super) fn has_written(&mut self, at: Instant) {
        self.last_write = Stamp::of(at);
    }

    /// Passes over what the client sends up to the next Sync.
    pub(super) fn skip_to_sync(&mut self) {
        self.skipping = true;
    }

    /// Answers by the value of a setting of ours, which is not the token.
    pub(super) fn show_own(&mut self, name: &'static str, status: TransactionStatus) {
        let value = own::shown(name, self.session.settings(), self.database.config.partial_results);
        self.answer_show(name, &value, status);
    }

    /// Whether the segment is one text that sets a setting of ours.
    pub(super) fn changes_own(&self) -> bool {
        let [(Intake::Query(facts), _)] = self.segment.items.as_slice() else { return false };
        own::sole_change(facts).is_some()
    }

    /// Answers a text that sets a setting of ours, unless it is to fail in a block; `status` is what the client is in.
    pub(super) fn answer_own(&mut self, status: TransactionStatus) -> bool {
        let [(Intake::Query(facts), _)] = self.segment.items.as_slice() else { return false };
        let out = self.output.tail();
        let Some((name, value)) = own::sole_change(facts) else { return false };
        let checked = value.map_or(Ok(()), |v| own::check(name, v, &self.database.config.map));
        match checked.and_then(|()| own::check_forms(facts, status != TransactionStatus::Idle)) {
            Ok(()) => {
                self.session.set_own(name, value);
                encode::command_complete(out, if value.is_some() { "SET" } else { "RESET" });
            }
            Err(_) if status != TransactionStatus::Idle => return false,
            Err(error) => encode::error(out, &error),
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
        let goes_on = segment.goes_on();
        for (intake, _) in segment.items {
            match intake {
                // Another server of the same pools has it; the one that gets the first Bind is sent it then.
                Intake::Parse { .. } => {
                    self.count_parse();
                    self.output.extend(encode::PARSE_COMPLETE);
                }
                Intake::CloseStatement { .. } => self.output.extend(encode::CLOSE_COMPLETE),
                Intake::Sync if !goes_on => encode::ready_for_query(self.output.tail(), status),
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
                question: Question::None,
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
        self.pass_over_pieces(0);
        let simple = segment.items.last().is_some_and(|(intake, _)| intake.is_simple());
        let synced = segment.ends_with_sync() && !segment.goes_on();
        let mut items = segment.items.into_iter().peekable();
        // What it closes first is closed: a name must not go on to mean what it did. Portals have ended with the transaction.
        let closes = |intake: &Intake| matches!(intake, Intake::CloseStatement { .. } | Intake::ClosePortal { .. });
        while items.next_if(|(intake, _)| closes(intake)).is_some() {
            self.output.extend(encode::CLOSE_COMPLETE);
        }
        let refused = items.next();
        for (intake, _) in items.rev() {
            self.session.withdraw(intake);
        }
        if let Some((intake, _)) = refused {
            self.session.withdraw_failed(intake);
        }
        self.note_prepared();
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
        self.pass_over_pieces(self.segment.len);
        let mut error = Some(Box::new(error));
        for (intake, _) in &mut self.segment.items {
            let simple = intake.is_simple();
            if (intake.needs_server() || matches!(intake, Intake::Refuse { .. }))
                && let Some(error) = error.take()
            {
                let refused = std::mem::replace(intake, Intake::Refuse { error, simple });
                self.session.withdraw_failed(refused);
            }
        }
    }

    /// Waits until the catalog is asked, as long as for a server.
    pub(super) async fn ask_first(&mut self, looking_up: LookUp) -> Result<(), Stopped> {
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
        poll_fn(|cx| {
            if let Poll::Ready(outcome) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(Some(outcome)));
            }
            // What it rings for is looked at below.
            handle.bell.has_rung(cx);
            match handle.standing_order() {
                Order::Cancel => {
                    return Poll::Ready(Err(Stopped::Refused(cancelled())));
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

    /// Whether a block is open while no server is linked.
    fn is_in_block(&self) -> bool {
        self.held_begin.is_some() || self.spread.is_some()
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

/// The error of a statement that its client has cancelled.
pub(super) fn cancelled() -> Error {
    Error::client(SqlState::QUERY_CANCELED, "canceling statement due to user request")
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

/// A word for the metric of refused statements.
fn reason(error: &Error) -> &'static str {
    if let Some(reason) = error.reason {
        return reason;
    }
    match error.sqlstate {
        SqlState::FEATURE_NOT_SUPPORTED => "not_supported",
        SqlState::SYNTAX_ERROR => "syntax",
        SqlState::INVALID_PARAMETER_VALUE | SqlState::UNDEFINED_OBJECT => "setting",
        SqlState::INVALID_STATEMENT_NAME | SqlState::DUPLICATE_STATEMENT => "statement_name",
        SqlState::PROTOCOL_VIOLATION => "protocol",
        _ => "other",
    }
}

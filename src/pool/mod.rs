//! A pool: the connections to one server as one user, lent to clients for as long as [`crate::session::Session`] needs them.
//!
//! [`ledger`] decides; this module holds the connections, wakes those who wait, dials and resets.

pub mod checkout;
pub mod counters;
pub mod ledger;
pub mod quota;
pub mod share;
pub mod standing;
#[cfg(test)]
mod tests;
pub mod ticket;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::oneshot;

use crate::clock;
use crate::config::{EMPTY_QUERY, Host, LoadBalance};
use crate::error::{Error, SqlState};
use crate::health::server::ServerHealth;
use crate::id::{ServerIndex, ShardIndex, WorkerId};
use crate::net::connect::Attempt;
use crate::net::dns::Dns;
use crate::net::tls::{Negotiated, Tls};
use crate::server::cancel;
use crate::server::connection::Secret;
use crate::server::login::{self, LoginSettings};
use crate::server::{Address, Connection, Target};
use crate::session::settings::REPORTED;
pub use checkout::{Checkout, Verdict};
use counters::{CountedCancel, PoolCounters};
use ledger::{Acquire, Backoff, Counts, Freed, Ledger, Limits, SlotId, SlotState, This, WaiterId, Wanted};
pub use share::{Logs, Share, Shares};
pub use ticket::{Asked, AskedFor, Claim, Ticket};

/// Time to the second attempt when a server cannot be reached.
const FIRST_RETRY: Duration = Duration::from_millis(250);

/// What a pool is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// The database, as clients name it.
    pub database: String,
    /// The user, as clients name it.
    pub user: String,
    /// The shard.
    pub shard: ShardIndex,
    /// The server among the shard's.
    pub server: ServerIndex,
}

/// The settings of a pool.
#[derive(Debug, Clone)]
pub struct PoolSettings {
    /// Connections at most.
    pub limits: Limits,
    /// How long a client waits before a connection of the reserve is made for it; zero: none is.
    pub reserve_after: Duration,
    /// Connections kept open while the pool is in use.
    pub min_size: usize,
    /// For logins.
    pub login: LoginSettings,
    /// Time between a failed login and the next try, at most.
    pub login_retry: Duration,
    /// Idle connections are closed after this; zero: never.
    pub idle_timeout: Duration,
    /// Connections are closed when idle after this; zero: never.
    pub lifetime: Duration,
    /// Run when a client leaves state behind; empty: the connection is closed instead.
    pub reset_query: String,
    /// Whether a connection that has rested still answers.
    pub check: Option<Check>,
    /// How long a cancel request may take; zero: as long as a login.
    pub cancel_timeout: Duration,
    /// Which of several hosts a new connection goes to.
    pub load_balance: LoadBalance,
    /// What the log tells of its connections.
    pub logs: Arc<Logs>,
}

/// The question to a connection that has rested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    query: String,
    /// Who rested for less is not asked.
    after: Duration,
}

impl Check {
    /// `query` as the setting `server_check_query` says it; none if it is empty.
    #[must_use]
    pub fn of(query: &str, after: Duration) -> Option<Self> {
        let sql = if query == EMPTY_QUERY { "" } else { query };
        (!query.trim().is_empty()).then(|| Self { query: sql.to_owned(), after })
    }

    /// Whether a connection that has rested since `since` is asked.
    #[must_use]
    pub fn is_due(&self, since: Instant) -> bool {
        clock::moment().saturating_duration_since(since) >= self.after
    }

    /// Whether also a connection that is new is asked.
    #[must_use]
    pub fn is_always(&self) -> bool {
        self.after.is_zero()
    }
}

/// Why connections are closed, for the log.
const GIVEN_UP: &str = "it was to be closed when free (RECONNECT, PAUSE, KILL, a reload)";
const WORN: &str = "it has served long enough (server_lifetime)";
const TOO_MANY: &str = "there are more than pool_size and reserve_pool_size say";
const LOST: &str = "it is not where it was left";

/// A connection as SHOW SERVERS lists it.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// Its slot.
    pub slot: SlotId,
    /// Its state.
    pub state: SlotState,
    /// Since when.
    pub since: Instant,
    /// When the login was done; `None` before.
    pub created: Option<Instant>,
    /// The server process.
    pub pid: u32,
    /// Our end, for TCP.
    pub local: Option<std::net::SocketAddr>,
    /// The server's end, for TCP.
    pub peer: Option<std::net::SocketAddr>,
    /// What TLS agreed on; none: it has no TLS.
    pub tls: Option<Negotiated>,
    /// It is closed when it is given back.
    pub close_needed: bool,
    /// Statements prepared on it.
    pub prepared: u32,
    /// What is known of it while it is with nobody.
    pub resting: Option<Resting>,
}

/// A connection that is with nobody.
#[derive(Debug, Clone)]
pub struct Resting {
    /// The descriptor of its socket.
    pub descriptor: Option<i32>,
    /// Bytes that came meanwhile and are to be looked at before it is lent.
    pub unread: usize,
    /// Bytes of memory that its buffers take.
    pub memory: u64,
    /// Reported settings, as the server has them: `application_name` and those of SHOW FDS.
    pub settings: Vec<(&'static str, String)>,
}

impl Resting {
    fn of(connection: &Connection) -> Self {
        let shown = |name: &'static str| Some((name, connection.state.settings.reported(name)?.to_owned()));
        Self {
            descriptor: connection.stream.descriptor(),
            unread: connection.input.len(),
            memory: connection.input.memory() + connection.output.memory(),
            settings: REPORTED.iter().filter_map(|name| shown(name)).collect(),
        }
    }
}

#[derive(Debug, Clone)]
pub(in crate::pool) struct Known {
    created: Instant,
    pid: u32,
    secret: Secret,
    addresses: Option<(std::net::SocketAddr, std::net::SocketAddr)>,
    tls: Option<Negotiated>,
    /// Where it leads: of several hosts, the one.
    host: Host,
    /// How many statements are prepared on it.
    prepared: Arc<AtomicU32>,
}

impl Known {
    /// What is to be known of a connection that leads to `host`.
    fn of(connection: &Connection, host: Host) -> Self {
        Self {
            created: connection.created,
            pid: connection.pid,
            secret: connection.secret.clone(),
            addresses: connection.stream.addresses(),
            tls: connection.stream.tls().and_then(Tls::negotiated),
            host,
            prepared: Arc::clone(&connection.prepared),
        }
    }

    /// The very address that it leads to.
    fn at(&self) -> Option<IpAddr> {
        self.addresses.map(|(peer, _)| peer.ip())
    }

    /// Whether the name that it was made to no longer has its address.
    fn has_moved(&self, dns: &Dns) -> bool {
        matches!((&self.host, self.at()), (Host::Tcp(name), Some(at)) if dns.is_gone(name, at))
    }
}

/// What was in the books of a connection that was taken out of them, to be closed.
type Gone = (Option<Known>, Option<Box<Connection>>);

type Waiting = oneshot::Sender<Result<Checkout, Error>>;

#[derive(Debug)]
struct Inner {
    ledger: Ledger,
    idle: FxHashMap<SlotId, Box<Connection>>,
    known: FxHashMap<SlotId, Known>,
    waiting: HashMap<WaiterId, Waiting>,
    last_error: Option<Error>,
    /// When the last login failed, as long as none has succeeded since.
    failed_at: Option<Instant>,
    /// Those who keep a connection that they do not use, until somebody needs it.
    holders: FxHashMap<SlotId, Waker>,
}

/// The connections to one server as one user.
#[derive(Debug)]
pub struct Pool {
    /// What it is for.
    pub key: PoolKey,
    /// Whom it logs in to.
    pub target: Target,
    /// Its settings: a reload may change them.
    settings: ArcSwap<PoolSettings>,
    /// How its server is.
    pub health: Arc<ServerHealth>,
    /// What it has done.
    pub counters: PoolCounters,
    /// Connections that sessions keep for state that only they have, or are about to have.
    pub kept: AtomicU32,
    /// What its connections count for beside its own limits.
    shares: Vec<Arc<Share>>,
    inner: Mutex<Inner>,
    next_waiter: AtomicU64,
    /// Counts to the host that the next connection goes to.
    turn: AtomicUsize,
}

impl Inner {
    /// Takes the idle connections that are condemned out of the books.
    fn take_condemned(&mut self) -> Vec<Gone> {
        let slots = self.ledger.expire(Duration::ZERO, Duration::ZERO, 0, clock::now());
        slots.into_iter().map(|slot| (self.known.remove(&slot), self.idle.remove(&slot))).collect()
    }

    /// Why this connection is closed rather than handed on, if it is.
    fn over(&self, slot: SlotId, lifetime: Duration, now: Instant) -> Option<&'static str> {
        let reason = if self.ledger.is_condemned(slot) { GIVEN_UP } else { WORN };
        self.ledger.is_worn(slot, lifetime, now).then_some(reason)
    }

    /// Whether somebody needs this connection, or it has served long enough.
    fn wants_back(&self, slot: SlotId, lifetime: Duration, now: Instant) -> Wanted {
        if self.ledger.is_worn(slot, lifetime, now) { Wanted::Yes } else { self.ledger.wants_back(slot, now) }
    }

    /// Why there is no connection, after a login has failed, and when the next is tried.
    fn failing(&self) -> Error {
        let error = self
            .last_error
            .clone()
            .unwrap_or_else(|| Error::server(SqlState::CONNECTION_FAILURE, "logins to the server have been failing"));
        let left = self.ledger.retry_at().map(|at| at.saturating_duration_since(clock::now()));
        match left.filter(|left| !left.is_zero() && error.detail.is_none()) {
            Some(left) => {
                error.detail(format!("The next attempt is in {:.1} s (server_login_retry).", left.as_secs_f64()))
            }
            None => error,
        }
    }
}

impl Pool {
    /// An empty pool. `generations`: what it has in common with those whose place it takes.
    #[must_use]
    pub fn new(
        key: PoolKey,
        target: Target,
        settings: PoolSettings,
        health: Arc<ServerHealth>,
        (mut shares, generations): (Vec<Arc<Share>>, Option<Arc<Share>>),
    ) -> Arc<Self> {
        let size_at = generations.is_some().then_some(shares.len());
        shares.extend(generations);
        let quotas = shares.iter().map(|share| Arc::clone(&share.quota)).collect();
        let inner = Inner {
            ledger: Ledger::sharing(settings.limits, quotas, size_at),
            idle: FxHashMap::default(),
            known: FxHashMap::default(),
            waiting: HashMap::new(),
            last_error: None,
            failed_at: None,
            holders: FxHashMap::default(),
        };
        let (inner, next_waiter, counters) = (Mutex::new(inner), AtomicU64::new(1), PoolCounters::default());
        let (turn, kept) = (AtomicUsize::new(0), AtomicU32::new(0));
        let settings = ArcSwap::from_pointee(settings);
        let pool = Arc::new(Self { key, target, settings, health, counters, kept, shares, inner, next_waiter, turn });
        pool.shares.iter().for_each(|share| share.join(&pool));
        pool
    }

    /// Its settings now.
    pub fn settings(&self) -> Guard<Arc<PoolSettings>> {
        self.settings.load()
    }

    /// What logins to its server need.
    #[must_use]
    pub fn login_settings(&self) -> LoginSettings {
        self.settings.load().login.clone()
    }

    /// Goes by other settings from now on. Connections above the new limits are closed when they rest.
    pub fn follow(&self, settings: PoolSettings) {
        self.inner.lock().ledger.set_limits(settings.limits);
        self.settings.store(Arc::new(settings));
        Self::call_holders(self.inner.lock());
    }

    /// Asks for a connection for a client on `worker`.
    ///
    /// # Errors
    /// When logins to the server have been failing: the error of the last one.
    pub fn ask(self: &Arc<Self>, worker: WorkerId) -> Result<Asked, Error> {
        loop {
            let now = clock::moment();
            let waiter = WaiterId(self.next_waiter.fetch_add(1, Ordering::Relaxed));
            let mut inner = self.inner.lock();
            match inner.ledger.acquire(waiter, worker, now) {
                Acquire::Reuse(slot) => {
                    let connection = inner.idle.remove(&slot);
                    let over = inner.over(slot, self.settings().lifetime, now);
                    drop(inner);
                    let Some(connection) = connection else {
                        self.discard(slot, LOST);
                        continue;
                    };
                    let checkout = Checkout::new(Arc::clone(self), slot, connection);
                    if let Some(checkout) = checkout.prepare(worker, over) {
                        return Ok(Asked::Now(checkout));
                    }
                }
                Acquire::Queued(dial) => {
                    let (sender, receiver) = oneshot::channel();
                    inner.waiting.insert(waiter, sender);
                    let starved = inner.ledger.starved_of().is_some();
                    Self::call_holders(inner);
                    self.dial(dial);
                    if starved {
                        self.make_room();
                    }
                    return Ok(Asked::Later(Ticket::new(Arc::clone(self), waiter, receiver)));
                }
                // The prober may know that it is back.
                Acquire::Refused if self.health.answered_after(inner.failed_at.unwrap_or(now)) => {
                    inner.ledger.retry_now();
                }
                Acquire::Refused => return Err(inner.failing()),
            }
        }
    }

    /// This connection and no other.
    pub fn ask_for(self: &Arc<Self>, slot: SlotId, worker: WorkerId) -> AskedFor {
        let now = clock::moment();
        let mut inner = self.inner.lock();
        match inner.ledger.acquire_this(slot, now) {
            This::Yours => {}
            This::Later => return AskedFor::Later,
            This::Gone => return AskedFor::Gone,
        }
        let connection = inner.idle.remove(&slot);
        let over = inner.over(slot, self.settings().lifetime, now);
        drop(inner);
        let Some(connection) = connection else {
            self.discard(slot, LOST);
            return AskedFor::Gone;
        };
        let checkout = Checkout::new(Arc::clone(self), slot, connection).prepare(worker, over);
        checkout.map_or(AskedFor::Gone, AskedFor::Here)
    }

    /// Whether somebody would be better off if this connection, which is lent and does nothing, were given back. If not, `waker` is called as
    /// soon as that may be otherwise.
    pub fn wants_back(&self, slot: SlotId, waker: Option<&Waker>) -> Wanted {
        let now = clock::now();
        let mut inner = self.inner.lock();
        let wanted = inner.wants_back(slot, self.settings().lifetime, now);
        if let Some(waker) = waker.filter(|_| wanted != Wanted::Yes) {
            match inner.holders.get_mut(&slot) {
                Some(known) => known.clone_from(waker),
                None => drop(inner.holders.insert(slot, waker.clone())),
            }
        }
        wanted
    }

    /// This connection, which is lent and does nothing, is given back now if somebody needs it; whether somebody does.
    pub fn gives_way(&self, slot: SlotId) -> bool {
        let now = clock::now();
        let mut inner = self.inner.lock();
        let worn = inner.ledger.is_worn(slot, self.settings().lifetime, now);
        worn || inner.ledger.gives_way(slot, now)
    }

    /// Has those look whether they are needed who keep connections that they do not use.
    fn call_holders(mut inner: parking_lot::MutexGuard<'_, Inner>) {
        let holders = std::mem::take(&mut inner.holders);
        drop(inner);
        holders.into_values().for_each(Waker::wake);
    }

    /// A connection that rests on `worker` and `fits`, if the next one to be lent does. Nothing changes if it does not, but that it has
    /// rested from now on. Whether it is still usable has not been looked at: see [`Checkout::prepare`].
    pub fn lend_at_once(
        self: &Arc<Self>,
        worker: WorkerId,
        fits: impl FnOnce(&mut Connection) -> bool,
    ) -> Option<Checkout> {
        let now = clock::moment();
        let mut inner = self.inner.lock();
        let slot = inner.ledger.acquire_at_once(worker, now)?;
        let Some(mut connection) = inner.idle.remove(&slot) else {
            drop(inner);
            self.discard(slot, LOST);
            return None;
        };
        let settings = self.settings();
        let worn = inner.ledger.is_worn(slot, settings.lifetime, now);
        // It may still have ended, or said something: `Checkout::prepare` looks.
        let doubted = settings.check.as_ref().is_some_and(|check| check.is_due(connection.heard));
        if worn || doubted || connection.worker != worker || !fits(&mut connection) {
            inner.ledger.put_back(slot, now);
            inner.idle.insert(slot, connection);
            return None;
        }
        drop(inner);
        Some(Checkout::new(Arc::clone(self), slot, connection))
    }

    /// Takes a clean connection back that was lent by [`Pool::lend_at_once`]. Whether it has served long enough is seen when it is lent next.
    fn rest(self: &Arc<Self>, slot: SlotId, mut connection: Box<Connection>) {
        let now = clock::moment();
        connection.heard = now;
        let mut inner = self.inner.lock();
        if inner.ledger.rest(slot, now) {
            inner.idle.insert(slot, connection);
            return;
        }
        drop(inner);
        self.release(slot, connection, Verdict::Clean);
    }

    /// Logs in for this slot, on the worker whose thread this is; without one, others may need what this pool does not.
    fn dial(self: &Arc<Self>, slot: Option<SlotId>) {
        let Some(slot) = slot else {
            self.tell_stranded();
            return self.leave_room();
        };
        let worker = WorkerId::here();
        let pool = Arc::clone(self);
        tracing::debug!(pool = %self.name(), "logging in to the server");
        tokio::task::spawn_local(async move {
            let settings = pool.login_settings();
            let changes = settings.dns.changes();
            match pool.login(&settings, worker).await {
                Ok((connection, host)) => pool.dialled(slot, connection, host, changes),
                Err(error) => pool.dial_failed(slot, error),
            }
        });
    }

    /// Logs in at the host whose turn it is, or at the next that can be reached.
    async fn login(&self, settings: &LoginSettings, worker: WorkerId) -> Result<(Box<Connection>, Host), Error> {
        let balanced = self.settings().load_balance == LoadBalance::RoundRobin;
        let turn = if balanced { self.turn.fetch_add(1, Ordering::Relaxed) } else { self.turn.load(Ordering::Relaxed) };
        let mut outcome = Err(Error::server(SqlState::CONNECTION_FAILURE, "the server has no host"));
        for (step, target) in self.target.each(turn).enumerate() {
            outcome = login::login(&target, settings, worker).await.map(|c| (c, target.host.clone()));
            match &outcome {
                Err(error) if login::is_unreachable(error) => {
                    tracing::debug!(pool = %self.name(), %error, "this host cannot be reached");
                }
                _ => {
                    if !balanced {
                        self.turn.store(turn.wrapping_add(step), Ordering::Relaxed);
                    }
                    return outcome;
                }
            }
        }
        outcome
    }

    /// Tells those who wait in vain, so that they try another server.
    fn tell_stranded(&self) {
        let mut inner = self.inner.lock();
        let told = inner.ledger.strand(clock::now());
        if told.is_empty() {
            return;
        }
        let error = inner.failing();
        let senders: Vec<_> = told.iter().filter_map(|w| inner.waiting.remove(w)).collect();
        drop(inner);
        for sender in senders {
            // A waiter that has left needs no answer.
            drop(sender.send(Err(error.clone())));
        }
    }

    /// A login is done. When it began, names had had so many `changes`.
    fn dialled(self: &Arc<Self>, slot: SlotId, connection: Box<Connection>, host: Host, changes: u64) {
        if self.settings().logs.opened() {
            let tls = connection.stream.tls().and_then(Tls::negotiated).map(tracing::field::display);
            tracing::info!(pool = %self.name(), pid = connection.pid, tls, "server connection opened");
        }
        let now = clock::now();
        self.health.on_connected();
        let mut inner = self.inner.lock();
        inner.last_error = None;
        inner.failed_at = None;
        let known = Known::of(&connection, host);
        // Only what changed on the way counts: the next login would lead there, too, and the one after it, without a pause.
        let dns = self.login_settings().dns;
        let changed = dns.changes() != changes;
        if changed && known.has_moved(&dns) {
            inner.ledger.condemn(slot);
        }
        inner.known.insert(slot, known);
        inner.ledger.moved(slot, connection.worker);
        let freed = inner.ledger.login_done(slot, now);
        self.settle(inner, slot, Some(connection), freed);
    }

    fn dial_failed(self: &Arc<Self>, slot: SlotId, error: Error) {
        tracing::warn!(pool = %self.name(), %error, "login to the server failed");
        let now = clock::now();
        // A refusal by a server that is up (a wrong password, too many connections) says nothing against the server.
        let unreachable = login::is_unreachable(&error);
        if unreachable {
            self.health.on_connect_failure(&error.message, now);
        }
        let mut inner = self.inner.lock();
        inner.last_error = Some(error.clone());
        inner.failed_at = Some(now);
        // A server that is down may be up again soon; one that refuses us has to be told so by somebody first.
        let most = self.settings().login_retry;
        let first = if unreachable { FIRST_RETRY.min(most) } else { most };
        let told = inner.ledger.login_failed(slot, Backoff { first, most }, now);
        let senders: Vec<_> = told.iter().filter_map(|w| inner.waiting.remove(w)).collect();
        Self::call_holders(inner);
        self.leave_room();
        for sender in senders {
            // A waiter that has left needs no answer.
            drop(sender.send(Err(error.clone())));
        }
    }

    /// Carries out what the ledger decided about a connection that became free.
    fn settle(
        self: &Arc<Self>,
        mut inner: parking_lot::MutexGuard<'_, Inner>,
        slot: SlotId,
        connection: Option<Box<Connection>>,
        freed: Freed,
    ) {
        match freed {
            Freed::Give(waiter) => {
                let sender = inner.waiting.remove(&waiter);
                let connection = connection.or_else(|| inner.idle.remove(&slot));
                drop(inner);
                let Some(connection) = connection else { return self.discard(slot, LOST) };
                let checkout = Checkout::new(Arc::clone(self), slot, connection);
                match sender {
                    // Who left in this very moment gives it back by dropping what was sent.
                    Some(sender) => {
                        if let Err(Ok(checkout)) = sender.send(Ok(checkout)) {
                            checkout.release(Verdict::Clean);
                        }
                    }
                    None => checkout.release(Verdict::Clean),
                }
            }
            Freed::Idle | Freed::Wait => {
                if let Some(connection) = connection {
                    inner.idle.insert(slot, connection);
                }
            }
            Freed::Close(dial) => {
                let known = inner.known.remove(&slot);
                let connection = connection.or_else(|| inner.idle.remove(&slot));
                drop(inner);
                drop(connection);
                self.log_closed(known, GIVEN_UP);
                self.dial(dial);
            }
        }
    }

    fn release(self: &Arc<Self>, slot: SlotId, mut connection: Box<Connection>, verdict: Verdict) {
        match verdict {
            Verdict::Clean => {}
            Verdict::Dirty => return self.reset(slot, connection),
            Verdict::Spoilt => return self.discard(slot, "its client left what no reset ends"),
        }
        let now = clock::moment();
        connection.heard = now;
        let mut inner = self.inner.lock();
        if let Some(reason) = inner.over(slot, self.settings().lifetime, now) {
            let known = inner.known.remove(&slot);
            let dial = inner.ledger.discard(slot, now);
            drop(inner);
            self.log_closed(known, reason);
            return self.dial(dial);
        }
        let freed = inner.ledger.release(slot, now);
        self.settle(inner, slot, Some(connection), freed);
    }

    /// Cleans a connection of what its client left, then frees it; a connection that cannot be cleaned is closed.
    fn reset(self: &Arc<Self>, slot: SlotId, mut connection: Box<Connection>) {
        let settings = Guard::into_inner(self.settings());
        if settings.reset_query.trim().is_empty() {
            return self.discard(slot, "its client left state behind, and server_reset_query is empty");
        }
        self.counters.resets.fetch_add(1, Ordering::Relaxed);
        self.inner.lock().ledger.resetting(slot, clock::now());
        let pool = Arc::clone(self);
        tokio::task::spawn_local(async move {
            let sql = &settings.reset_query;
            let done = tokio::time::timeout(settings.login.timeout, connection.run(sql)).await;
            if matches!(done, Ok(Ok(Ok(())))) {
                connection.state.ran(sql);
                connection.state.was_reset = true;
                connection.note_prepared();
                pool.release(slot, connection, Verdict::Clean);
            } else {
                tracing::warn!(pool = %pool.name(), "server connection could not be reset and is closed");
                pool.discard(slot, "it could not be reset");
            }
        });
    }

    fn discard(self: &Arc<Self>, slot: SlotId, reason: &str) {
        let mut inner = self.inner.lock();
        let known = inner.known.remove(&slot);
        inner.idle.remove(&slot);
        let dial = inner.ledger.discard(slot, clock::now());
        drop(inner);
        self.log_closed(known, reason);
        self.dial(dial);
    }

    /// Writes into the log that a connection of the books is closed; what is in no books was told of as a login that failed.
    fn log_closed(&self, known: Option<Known>, reason: &str) {
        if let Some(known) = known.filter(|_| self.settings().logs.closed()) {
            let age = clock::now().saturating_duration_since(known.created).as_secs();
            tracing::info!(pool = %self.name(), pid = known.pid, reason, age, "server connection closed");
        }
    }

    /// Begins to cancel the statement that a client runs on `slot`: from here on the connection goes to nobody else until the request
    /// is done. `None`: no client has it any more.
    #[must_use]
    pub fn begin_cancel(self: &Arc<Self>, slot: SlotId) -> Option<CancelRequest> {
        let mut inner = self.inner.lock();
        if !inner.ledger.cancel_begins(slot) {
            return None;
        }
        let known = inner.known.get(&slot);
        let (pid, secret) = known.map_or_else(Default::default, |known| (known.pid, known.secret.clone()));
        let host = known.map_or(&self.target.host, |known| &known.host).clone();
        let (at, tls) = (known.and_then(Known::at), known.and_then(|known| known.tls));
        // What nobody could read on the connection itself is not sent in the clear beside it.
        let attempt = if tls.is_some() { Attempt::Required } else { Attempt::Plain };
        Some(CancelRequest { pool: Arc::clone(self), slot, pid, secret, host, at, attempt, over: false })
    }

    /// Closes what has rested or lived too long or died while resting, keeps the pool `warm` (`min_pool_size`), and retries logins
    /// for those who wait. To be called about once a second, on one worker.
    pub fn maintain(self: &Arc<Self>, worker: WorkerId, warm: bool) {
        let (now, settings) = (clock::now(), self.settings());
        let mut inner = self.inner.lock();
        let mut closed: Vec<(Gone, &str)> = Vec::new();
        let keep = if warm { settings.min_size } else { 0 };
        let given_up: Vec<SlotId> = inner.known.keys().copied().filter(|s| inner.ledger.is_condemned(*s)).collect();
        // Of what is in use too, which is not asked about.
        let idle = settings.idle_timeout;
        let over = |since: Instant| !idle.is_zero() && now.saturating_duration_since(since) > idle;
        let unneeded: Vec<SlotId> =
            inner.ledger.slots().filter(|(_, _, since)| over(*since)).map(|(slot, ..)| slot).collect();
        for slot in inner.ledger.expire(settings.idle_timeout, settings.lifetime, keep, now) {
            let known = inner.known.remove(&slot);
            let age = known.as_ref().map(|known| now.saturating_duration_since(known.created));
            let worn = !settings.lifetime.is_zero() && age.is_some_and(|age| age >= settings.lifetime);
            let reason = match (given_up.contains(&slot), worn) {
                (true, _) => GIVEN_UP,
                (_, true) => WORN,
                _ if !unneeded.contains(&slot) => TOO_MANY,
                _ => "nobody needed it (server_idle_timeout)",
            };
            closed.push(((known, inner.idle.remove(&slot)), reason));
        }
        let resting: Vec<SlotId> = inner.idle.keys().copied().collect();
        let mut dials = Vec::new();
        for slot in resting {
            let idle = inner.ledger.state(slot).is_some_and(|(s, _)| s == SlotState::Idle);
            if idle && inner.idle.get_mut(&slot).is_some_and(|c| !c.is_usable()) {
                let gone = (inner.known.remove(&slot), inner.idle.remove(&slot));
                closed.push((gone, "the server has closed it or said what nobody asked for"));
                dials.extend(inner.ledger.discard(slot, now));
            }
        }
        if inner.failed_at.is_some_and(|at| self.health.answered_after(at)) {
            inner.ledger.retry_now();
        }
        // All that a greater limit leaves room for.
        dials.extend(std::iter::from_fn(|| inner.ledger.dial_overdue(worker, now)));
        let after = settings.reserve_after;
        dials.extend(std::iter::from_fn(|| inner.ledger.open_reserve(after, worker, now)));
        if warm {
            dials.extend(inner.ledger.warm(settings.min_size, worker, now));
        }
        let mut holders = std::mem::take(&mut inner.holders);
        holders.retain(|slot, _| inner.ledger.state(*slot).is_some_and(|(state, _)| state == SlotState::Active));
        let needed = holders.keys().any(|slot| inner.wants_back(*slot, settings.lifetime, now) != Wanted::No);
        inner.holders = holders;
        if needed {
            // What no event has told them: it has served long enough, or what pools share has run short.
            Self::call_holders(inner);
        } else {
            drop(inner);
        }
        for ((known, connection), reason) in closed {
            drop(connection);
            self.log_closed(known, reason);
        }
        for slot in dials {
            self.dial(Some(slot));
        }
        self.make_room();
        self.leave_room();
    }

    /// Nothing is lent any more until [`Pool::resume`].
    pub fn pause(&self) {
        let mut inner = self.inner.lock();
        inner.ledger.pause();
        Self::call_holders(inner);
    }

    /// Lending goes on. To be called on a worker, which logs in for those who wait.
    pub fn resume(self: &Arc<Self>) {
        let mut inner = self.inner.lock();
        let (given, dials) = inner.ledger.resume(clock::now());
        drop(inner);
        for (waiter, slot) in given {
            let inner = self.inner.lock();
            self.settle(inner, slot, None, Freed::Give(waiter));
        }
        for slot in dials {
            self.dial(Some(slot));
        }
    }

    /// Closes every connection: the idle ones now, the others when they come back.
    pub fn close_all(&self) {
        let mut inner = self.inner.lock();
        inner.ledger.condemn_all();
        let closed = inner.take_condemned();
        Self::call_holders(inner);
        self.close(closed, GIVEN_UP);
        self.leave_room_at_home();
    }

    fn close(&self, closed: Vec<Gone>, reason: &str) {
        for (known, connection) in closed {
            drop(connection);
            self.log_closed(known, reason);
        }
    }

    /// Closes the connections to addresses that the name of their host no longer has: the idle ones now, the others when they come back.
    pub fn leave_moved(&self) {
        let mut inner = self.inner.lock();
        let dns = self.login_settings().dns;
        let moved: Vec<SlotId> = inner.known.iter().filter(|(_, k)| k.has_moved(&dns)).map(|(slot, _)| *slot).collect();
        moved.iter().for_each(|slot| inner.ledger.condemn(*slot));
        let closed = if moved.is_empty() { Vec::new() } else { inner.take_condemned() };
        Self::call_holders(inner);
        self.close(closed, "the name of its host leads elsewhere");
        self.leave_room_at_home();
    }

    /// Whether no connection is lent, being cleaned or logging in. Those that stand are not lent.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let c = self.counts();
        c.active - c.standing.min(c.active) + c.active_cancel + c.being_canceled + c.resetting + c.testing + c.login
            == 0
    }

    /// Whether it has no connection and nobody waits for one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let inner = self.inner.lock();
        inner.ledger.is_empty() && inner.ledger.counts().waiting == 0
    }

    /// Whether nothing is lent because of PAUSE.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.inner.lock().ledger.is_paused()
    }

    /// Why logins have been failing, if the last one has.
    #[must_use]
    pub fn failing(&self) -> Option<Error> {
        let inner = self.inner.lock();
        inner.last_error.is_some().then(|| inner.failing())
    }

    /// The numbers now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let inner = self.inner.lock();
        let settings = self.settings();
        let rested = settings.check.as_ref().map_or(0, |check| inner.ledger.rested(check.after, clock::now()));
        Counts { rested, ..inner.ledger.counts() }
    }

    /// How long the first in the queue has waited.
    #[must_use]
    pub fn oldest_wait(&self) -> Duration {
        let oldest = self.inner.lock().ledger.oldest_wait();
        oldest.map_or(Duration::ZERO, |since| clock::now().saturating_duration_since(since))
    }

    /// The connections, those that are being made included.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        let inner = self.inner.lock();
        let infos = inner.ledger.slots().map(|(slot, state, since)| {
            let known = inner.known.get(&slot);
            ConnectionInfo {
                slot,
                state,
                since,
                created: known.map(|known| known.created),
                pid: known.map_or(0, |known| known.pid),
                peer: known.and_then(|known| known.addresses).map(|a| a.0),
                local: known.and_then(|known| known.addresses).map(|a| a.1),
                tls: known.and_then(|known| known.tls),
                close_needed: inner.ledger.is_condemned(slot),
                prepared: known.map_or(0, |known| known.prepared.load(Ordering::Relaxed)),
                resting: inner.idle.get(&slot).map(|connection| Resting::of(connection)),
            }
        });
        infos.collect()
    }

    /// Whether a connection is to be closed when it is given back.
    #[must_use]
    pub fn is_condemned(&self, slot: SlotId) -> bool {
        self.inner.lock().ledger.is_condemned(slot)
    }

    /// Statements prepared on its connections, over all of them.
    #[must_use]
    pub fn prepared_statements(&self) -> u64 {
        let inner = self.inner.lock();
        inner.known.values().map(|known| u64::from(known.prepared.load(Ordering::Relaxed))).sum()
    }

    /// `database/user@server`, for logs.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}@{}", self.key.database, self.key.user, self.target.address())
    }
}

/// A cancel request under way. Dropped before its end, it may still be carried out: the connection is closed when its client has done
/// with it.
#[derive(Debug)]
pub struct CancelRequest {
    pool: Arc<Pool>,
    slot: SlotId,
    pid: u32,
    secret: Secret,
    host: Host,
    /// Its name may have several addresses: the process is at this one.
    at: Option<IpAddr>,
    attempt: Attempt,
    over: bool,
}

impl CancelRequest {
    /// Sends it, and waits until it can hit nothing any more. `sent` becomes true when the server has been asked.
    pub async fn send(mut self, sent: &AtomicBool) {
        let pool = &self.pool;
        let mut counted = CountedCancel::new(&pool.counters);
        let settings = Guard::into_inner(pool.settings());
        let (limit, timeout) = (settings.cancel_timeout, settings.login.timeout);
        let timeout = if limit.is_zero() { timeout } else { limit };
        let address = Address { host: &self.host, port: pool.target.port, at: self.at };
        let login = &settings.login;
        let means = (&*login.tls.get(), &*login.dns);
        let is_sent = || {
            counted.is_sent();
            sent.store(true, Ordering::Relaxed);
        };
        let asked = cancel::cancel(address, (self.pid, &self.secret), timeout, self.attempt, means, is_sent).await;
        self.over = match asked {
            Ok(over) => over,
            Err(error) => {
                tracing::warn!(pool = %pool.name(), %error, "cancel request failed");
                true
            }
        };
    }
}

impl Drop for CancelRequest {
    fn drop(&mut self) {
        let mut inner = self.pool.inner.lock();
        if !self.over {
            inner.ledger.condemn(self.slot);
        }
        if let Some(freed) = inner.ledger.cancel_done(self.slot, clock::now()) {
            self.pool.settle(inner, self.slot, None, freed);
        }
    }
}

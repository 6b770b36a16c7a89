//! What all clients share: the live configuration, who is connected, and the keys that cancel.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::clock;
use crate::error::{Error, SqlState};
use crate::health::server::ServerHealth;
use crate::id::{ClientId, WorkerId};
use crate::metrics::report::Report;
use crate::net::tls::Negotiated;
use crate::pool::Pool;
use crate::pool::ledger::SlotId;
use crate::server::connection::Secret;
use crate::session::prepared::Registry;
use crate::sql::cache::CacheSize;
use crate::wire::startup::Replication;

use super::bell::Bell;
use super::database::Live;
use super::keys::KeyRing;
use super::listen::Hubs;
use super::mark::Mark;
pub use super::mark::Order;
use super::peers::Outcomes;
use super::predecessors::Predecessors;
use super::report::Reports;
use super::suspend::Suspension;
use super::task::micros;

/// Sessions that keep their server for one reason.
#[derive(Debug, Clone, Copy, Default)]
pub struct PinCount {
    /// That ever did.
    pub total: u64,
    /// That do now.
    pub now: u64,
}

/// Logins to the console at a time that count for no limit.
const CONSOLE_LOGINS: usize = 64;

/// What all clients share.
#[derive(Debug)]
pub struct Shared {
    /// All that is made from the configuration; replaced by a reload.
    pub live: ArcSwap<Live>,
    /// Grows with every replacement of `live`.
    pub generation: AtomicU64,
    /// Prepared statements.
    pub registry: Registry,
    /// Who is connected and logged in.
    pub clients: DashMap<ClientId, Arc<ClientHandle>>,
    /// Who is at the console. They are no clients of a database: none of the limits counts them.
    pub visitors: DashMap<ClientId, Arc<ClientHandle>>,
    /// Cancel requests on their way to a server.
    pub cancels: DashMap<ClientId, Canceling>,
    /// How much each worker's cache of texts keeps.
    pub caches: Mutex<Vec<Arc<CacheSize>>>,
    /// Console commands so far.
    pub commands: AtomicU64,
    /// Whether SUSPEND is in force.
    pub suspension: watch::Sender<Suspension>,
    /// What clients have told of themselves: see [`super::report`].
    pub reports: Reports,
    /// Those who listen for clients.
    pub hubs: Hubs,
    /// Who can be cancelled.
    keys: KeyRing<ClientHandle>,
    /// Cancel requests that are being carried out.
    pub cancelling: AtomicU32,
    /// Cancel requests with keys that peers gave out, by what became of them.
    pub passed_on: Outcomes,
    /// Connections that count for `max_client_conn`, those logging in included.
    pub connections: AtomicU32,
    /// Clients per database and per user.
    seats: Mutex<HashMap<SeatOf, Arc<Bench>>>,
    /// Places for logins to the console that have proven nothing yet.
    console_door: Arc<Semaphore>,
    /// Clients logging in, and connections that are accepted and have come no further.
    pub logging_in: AtomicU32,
    /// Statements refused, by reason.
    pub refused: Mutex<std::collections::BTreeMap<&'static str, u64>>,
    /// Segments tried again on another server, by reason.
    pub retried: Mutex<std::collections::BTreeMap<&'static str, u64>>,
    /// Parts of transactions that recovery has ended, by what became of them.
    pub recovered: Mutex<std::collections::BTreeMap<&'static str, u64>>,
    /// Sessions that had to keep their server, by reason.
    pub pinned: Mutex<std::collections::BTreeMap<&'static str, PinCount>>,
    /// Logins that failed, by the class of the reason.
    pub failed_logins: Mutex<std::collections::BTreeMap<&'static str, u64>>,
    /// Logins refused because too many clients are there, by the limit.
    pub turned_away: Mutex<std::collections::BTreeMap<&'static str, u64>>,
    /// Clients whose time was up, by the limit.
    pub timeouts: Mutex<std::collections::BTreeMap<&'static str, u64>>,
    /// Cancel requests that came.
    pub cancel_requests: AtomicU64,
    /// Those who have come to the console.
    pub at_console: AtomicU32,
    /// The processes that this one has taken over from.
    pub predecessors: Predecessors,
    /// Whether new clients are refused because the process ends.
    pub draining: AtomicBool,
    /// Whether another process has taken over: who is here stays, and new clients go there.
    pub handed_over: AtomicBool,
    /// When the process started.
    pub started: Instant,
    next_id: AtomicU64,
}

/// What a client is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Nothing; no server.
    Idle,
    /// In the queue for a server.
    Waiting,
    /// With a server.
    Active,
}

/// A cancel request that is being carried out, as SHOW CLIENTS lists it.
#[derive(Debug)]
pub struct Canceling {
    /// Whose statement is to be cancelled.
    pub target: Arc<ClientHandle>,
    /// Where it came from, and our address; `None` for a unix socket.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// When it came, as time since the Unix epoch.
    pub since: Duration,
    /// Whether the server has been asked.
    pub sent: Arc<AtomicBool>,
}

/// How a client comes in.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// Its worker.
    pub worker: WorkerId,
    /// Its address and ours; `None` for a unix socket.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// What TLS agreed on.
    pub tls: Option<Negotiated>,
    /// The client's process, for a unix socket.
    pub peer_pid: Option<u32>,
    /// Whether it wants a WAL sender.
    pub replication: Option<Replication>,
}

/// A client as others see it.
#[derive(Debug)]
pub struct ClientHandle {
    /// Its number.
    pub id: ClientId,
    /// The user it logged in as.
    pub user: Arc<str>,
    /// The database it asked for.
    pub database: Arc<str>,
    /// Its address and ours; `None` for a unix socket. Smaller than as socket addresses.
    ends: Option<[(IpAddr, u16); 2]>,
    /// What TLS agreed on; none: it has no TLS.
    pub tls: Option<Negotiated>,
    /// Whether it has a WAL sender.
    pub replication: Option<Replication>,
    /// When it logged in, in microseconds since the Unix epoch.
    connected_us: u64,
    /// The process id it was given.
    pub pid: u32,
    /// Its own process, for a unix socket.
    pub peer_pid: Option<u32>,
    /// Its worker.
    pub worker: WorkerId,
    /// `application_name`.
    pub application_name: Mutex<Box<str>>,
    /// When it last sent a statement, in microseconds since the start of the process; 0: never.
    pub requested_us: AtomicU64,
    /// Since when it waits, in microseconds since the start of the process; 0: it does not.
    pub waits_since_us: AtomicU64,
    /// Cancel requests that its servers were sent.
    pub cancels_sent: AtomicU64,
    /// Its prepared statements.
    pub prepared: AtomicU32,
    /// Rung for an order.
    pub bell: Bell,
    activity: AtomicU8,
    mark: Mark,
    links: Mutex<Links>,
}

/// The servers that a client has.
#[derive(Debug, Default)]
pub enum Links {
    /// None.
    #[default]
    None,
    /// One, as nearly always.
    One(Arc<Pool>, SlotId),
    /// Those that a statement for several shards runs on.
    Several(Box<Vec<(Arc<Pool>, SlotId)>>),
}

impl Links {
    /// They.
    fn iter(&self) -> impl Iterator<Item = (&Arc<Pool>, SlotId)> {
        let (one, several) = match self {
            Self::None => (None, None),
            Self::One(pool, slot) => (Some((pool, *slot)), None),
            Self::Several(all) => (None, Some(all.iter().map(|(pool, slot)| (pool, *slot)))),
        };
        one.into_iter().chain(several.into_iter().flatten())
    }
}

/// Where a connection comes from, for the log.
#[must_use]
pub fn origin(address: Option<SocketAddr>, process: Option<u32>) -> String {
    match (address, process) {
        (Some(address), _) => address.to_string(),
        (None, Some(pid)) => format!("unix (process {pid})"),
        (None, None) => "unix".to_owned(),
    }
}

impl ClientHandle {
    /// Its address and ours; `None` for a unix socket.
    #[must_use]
    pub fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.ends.map(|[peer, own]| (peer.into(), own.into()))
    }

    /// Where it comes from, for the log: address and port, or the process at the other end of the unix socket.
    #[must_use]
    pub fn origin(&self) -> String {
        origin(self.addresses().map(|(peer, _)| peer), self.peer_pid)
    }

    /// Writes into the log that it has logged in.
    pub fn log_connected(&self) {
        tracing::info!(
            target: "pgweir::client",
            client = %self.id,
            user = &*self.user,
            database = &*self.database,
            peer = self.origin(),
            tls = self.tls.map(tracing::field::display),
            replication = self.replication.map(Replication::as_str),
            "client connected"
        );
    }

    /// Writes into the log that it has left, or had to.
    pub fn log_disconnected(&self, reason: &str) {
        let age = clock::wall().saturating_sub(self.connected()).as_secs();
        let (user, database) = (&*self.user, &*self.database);
        tracing::info!(target: "pgweir::client", client = %self.id, user, database, peer = self.origin(), reason, age, "client disconnected");
    }

    /// When it logged in, as time since the Unix epoch.
    #[must_use]
    pub fn connected(&self) -> Duration {
        Duration::from_micros(self.connected_us)
    }

    /// What it is doing.
    #[must_use]
    pub fn activity(&self) -> Activity {
        match self.activity.load(Ordering::Relaxed) {
            0 => Activity::Idle,
            1 => Activity::Waiting,
            _ => Activity::Active,
        }
    }

    /// It sends a statement, so long after the start of the process.
    pub fn asks(&self, at: Duration) {
        self.requested_us.store(micros(at).max(1), Ordering::Relaxed);
    }

    /// It does something else now.
    pub fn set_activity(&self, activity: Activity) {
        let value = match activity {
            Activity::Idle => 0,
            Activity::Waiting => 1,
            Activity::Active => 2,
        };
        self.activity.store(value, Ordering::Relaxed);
    }

    /// The servers it has.
    #[must_use]
    pub fn links(&self) -> Vec<(Arc<Pool>, SlotId)> {
        self.links.lock().iter().map(|(pool, slot)| (Arc::clone(pool), slot)).collect()
    }

    /// It has got servers, or has them no more. While this is being changed no cancel request can start.
    pub fn set_links(&self, links: Links) {
        *self.links.lock() = links;
    }

    /// Gives it an order. A lesser one never replaces a greater one.
    pub fn order(&self, order: Order) {
        self.mark.order(order);
        self.bell.ring();
    }

    /// Whether it was told nothing that it has not done: there is no order, and nothing beside one.
    #[must_use]
    pub fn is_untold(&self) -> bool {
        self.mark.is_blank()
    }

    /// The order that stands.
    #[must_use]
    pub fn standing_order(&self) -> Order {
        self.mark.standing_order()
    }

    /// A cancel order is carried out (or has come too late).
    pub fn cancel_is_done(&self) {
        self.mark.cancel_is_done();
    }

    /// From now on it rests as soon as nothing waits in its buffers; or no longer.
    pub fn suspend(&self, on: bool) {
        self.mark.suspend(on);
        self.bell.ring();
    }

    /// Whether it is to rest.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.mark.is_suspended()
    }

    /// Nothing waits in its buffers, and nothing is read any more until it is told to go on.
    pub fn set_flushed(&self) {
        self.mark.set_flushed();
    }

    /// Whether it rests.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.mark.is_flushed()
    }

    /// Ends it: it did not come to rest in time.
    pub fn suspend_in_vain(&self) {
        self.mark.set_overdue();
        self.bell.ring();
    }

    /// Whether that is why it ends.
    #[must_use]
    pub fn is_overdue(&self) -> bool {
        self.mark.is_overdue()
    }

    /// Whether there is something beside an order: it is to rest, or to give a report.
    #[must_use]
    pub fn has_errand(&self) -> bool {
        self.mark.has_errand()
    }

    /// Asks for a report; see [`super::report`].
    pub fn ask(&self) {
        self.mark.ask(true);
        self.bell.ring();
    }

    /// Whether a report was asked for and not given yet.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.mark.is_asked()
    }

    /// It gives its report now.
    pub(super) fn answers(&self) {
        self.mark.ask(false);
    }

    /// Cancels what it is doing: its statement on a server, or its wait for one. `sent` becomes true when the server has been asked.
    pub async fn cancel(&self, sent: &AtomicBool) {
        // Under the lock, or the server might be another client's by the time that the request begins.
        let mut requests: Vec<Pin<Box<_>>> = Vec::new();
        {
            let links = self.links.lock();
            if matches!(*links, Links::None) && self.activity() == Activity::Waiting {
                drop(links);
                return self.order(Order::Cancel);
            }
            if !matches!(*links, Links::None) {
                self.cancels_sent.fetch_add(1, Ordering::AcqRel);
            }
            requests
                .extend(links.iter().filter_map(|(pool, slot)| Some(Box::pin(pool.begin_cancel(slot)?.send(sent)))));
        }
        // All at once: one server that hangs keeps no other from being asked.
        poll_fn(|cx| {
            requests.retain_mut(|request| request.as_mut().poll(cx).is_pending());
            if requests.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Shared {
    /// The state of a process that has just started with `live`.
    #[must_use]
    pub fn new(live: Live) -> Arc<Self> {
        let keys = KeyRing::new(live.config.general.peer());
        Arc::new(Self {
            live: ArcSwap::from_pointee(live),
            generation: AtomicU64::new(0),
            registry: Registry::default(),
            clients: DashMap::new(),
            visitors: DashMap::new(),
            cancels: DashMap::new(),
            caches: Mutex::default(),
            commands: AtomicU64::new(0),
            suspension: watch::Sender::new(Suspension::None),
            reports: Reports::default(),
            hubs: Hubs::default(),
            keys,
            cancelling: AtomicU32::new(0),
            passed_on: Outcomes::default(),
            connections: AtomicU32::new(0),
            seats: Mutex::default(),
            console_door: Arc::new(Semaphore::new(CONSOLE_LOGINS)),
            logging_in: AtomicU32::new(0),
            refused: Mutex::default(),
            retried: Mutex::default(),
            recovered: Mutex::default(),
            pinned: Mutex::default(),
            failed_logins: Mutex::default(),
            turned_away: Mutex::default(),
            timeouts: Mutex::default(),
            cancel_requests: AtomicU64::new(0),
            at_console: AtomicU32::new(0),
            predecessors: Predecessors::default(),
            draining: AtomicBool::new(false),
            handed_over: AtomicBool::new(false),
            started: clock::now(),
            next_id: AtomicU64::new(1),
        })
    }

    /// Replaces what was made from the configuration.
    pub fn install(&self, live: Live) {
        self.live.store(Arc::new(live));
        self.generation.fetch_add(1, Ordering::Release);
        // For limits on what they are in the middle of, or on their rest.
        for client in &self.clients {
            client.bell.ring();
        }
    }

    /// Wakes the clients that wait for one of `servers`, or for a connection: see `client::silence`.
    pub fn wake_users_of(&self, servers: &[Arc<ServerHealth>]) {
        let of_these = |pool: &Arc<Pool>| servers.iter().any(|server| Arc::ptr_eq(server, &pool.health));
        for client in &self.clients {
            let linked = client.links.lock().iter().any(|(pool, _)| of_these(pool));
            if linked || client.activity() != Activity::Idle {
                client.bell.ring();
            }
        }
    }

    /// Ends the replication connections of a database, or of all: their servers come back to no pool that could close them.
    pub fn end_streams(&self, database: Option<&str>) {
        let is_meant = |client: &ClientHandle| database.is_none_or(|name| *client.database == *name);
        let runs = |client: &ClientHandle| client.replication.is_some() && client.activity() == Activity::Active;
        let streams = self.clients.iter().filter(|client| runs(client) && is_meant(client));
        streams.for_each(|client| client.order(Order::Kill));
    }

    /// Wakes the clients whose server is to be closed: see `server_fast_close`.
    pub fn wake_those_to_close(&self) {
        for client in &self.clients {
            if client.links.lock().iter().any(|(pool, slot)| pool.is_condemned(slot)) {
                client.bell.ring();
            }
        }
    }

    /// Counts a refused statement.
    pub fn count_refusal(&self, reason: &'static str) {
        *self.refused.lock().entry(reason).or_default() += 1;
    }

    /// Counts a segment that is tried again on another server.
    pub fn count_retry(&self, reason: &'static str) {
        *self.retried.lock().entry(reason).or_default() += 1;
    }

    /// Counts a prepared transaction that was left behind and is ended.
    pub fn count_recovered(&self, outcome: &'static str) {
        *self.recovered.lock().entry(outcome).or_default() += 1;
    }

    /// Counts a login that failed.
    pub fn count_failed_login(&self, error: &Error) {
        let reason = match error.sqlstate {
            SqlState::INVALID_PASSWORD => "password",
            SqlState::INVALID_AUTHORIZATION => "not_allowed",
            SqlState::UNDEFINED_DATABASE => "no_database",
            SqlState::TOO_MANY_CONNECTIONS => "too_many",
            SqlState::PROTOCOL_VIOLATION => "protocol",
            SqlState::CANNOT_CONNECT_NOW | SqlState::ADMIN_SHUTDOWN => "not_now",
            state if state.class() == "08" => "server",
            _ => "other",
        };
        *self.failed_logins.lock().entry(reason).or_default() += 1;
    }

    /// Counts somebody who was refused because of a limit on clients.
    fn count_turned_away(&self, limit: &'static str) {
        *self.turned_away.lock().entry(limit).or_default() += 1;
    }

    /// Counts a client whose time was up.
    pub fn count_timeout(&self, limit: &'static str) {
        *self.timeouts.lock().entry(limit).or_default() += 1;
    }

    /// Counts a connection in, if there is room for one more.
    ///
    /// # Errors
    /// 53300 when `max` connections are there.
    pub fn admit(self: &Arc<Self>, max: u32) -> Result<Admitted, Error> {
        let admitted =
            self.connections.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < max).then_some(n + 1));
        match admitted {
            Ok(_) => Ok(Admitted(Arc::clone(self))),
            Err(_) => {
                self.count_turned_away("max_client_conn");
                Err(Error::us_fatal(
                    SqlState::TOO_MANY_CONNECTIONS,
                    format!("no more connections allowed: {max} clients are connected"),
                )
                .hint("Raise max_client_conn, or let clients share connections."))
            }
        }
    }

    /// Counts someone who wants to the console until it is known who that is: nobody could be kept from opening such connections. Where they
    /// are too many, each takes the place of a client of `max`.
    ///
    /// # Errors
    /// 53300 when there is no such place either.
    pub fn admit_to_console(self: &Arc<Self>, max: u32) -> Result<AtConsoleDoor, Error> {
        match Arc::clone(&self.console_door).try_acquire_owned() {
            Ok(permit) => Ok(AtConsoleDoor::Spare(permit)),
            Err(_) => self.admit(max).map(AtConsoleDoor::Client).map_err(|error| {
                error.hint(
                    "The system user that runs pgweir gets in by the unix socket; SHOW CLIENTS tells who is there.",
                )
            }),
        }
    }

    /// Counts a client in for a database or a user, if `max` (0: no limit) has room for one more.
    ///
    /// # Errors
    /// 53300 when `max` clients are there.
    pub fn seat(self: &Arc<Self>, of: &SeatOf, max: u32) -> Result<Seat, Error> {
        let mut seats = self.seats.lock();
        let bench = if let Some(bench) = seats.get(of) {
            Arc::clone(bench)
        } else {
            let new = Bench { shared: Arc::downgrade(self), of: of.clone(), taken: AtomicU32::new(0) };
            Arc::clone(seats.entry(of.clone()).or_insert(Arc::new(new)))
        };
        let taken = bench.taken.load(Ordering::Relaxed);
        if max > 0 && taken >= max {
            let (what, name, setting) = match of {
                SeatOf::Database(name) => ("database", name, "max_db_client_connections"),
                SeatOf::User(name) => ("user", name, "max_user_client_connections"),
            };
            self.count_turned_away(setting);
            return Err(Error::us_fatal(
                SqlState::TOO_MANY_CONNECTIONS,
                format!("no more connections allowed for {what} \"{name}\": {max} clients are connected"),
            )
            .hint(format!("Raise {setting}, or let clients share connections.")));
        }
        bench.taken.store(taken.saturating_add(1), Ordering::Relaxed);
        drop(seats);
        Ok(Seat(bench))
    }

    /// Enters a client that has logged in; it leaves when the first of the results is dropped. The second is the other half of its cancel
    /// key.
    #[must_use]
    pub fn register(
        self: &Arc<Self>,
        user: Arc<str>,
        database: Arc<str>,
        way: Way,
        secret_len: usize,
    ) -> (Registered, Secret) {
        let (registered, secret) = self.enter(&self.clients, user, database, way, secret_len);
        // Neither SUSPEND nor RESUME comes between the question and what follows from it.
        let suspension = self.suspension.borrow();
        if *suspension != Suspension::None {
            registered.handle.suspend(true);
        }
        drop(suspension);
        (registered, secret)
    }

    /// The same for somebody at the console.
    #[must_use]
    pub fn register_visitor(
        self: &Arc<Self>,
        user: Arc<str>,
        database: Arc<str>,
        way: Way,
        secret_len: usize,
    ) -> (Registered, Secret) {
        self.enter(&self.visitors, user, database, way, secret_len)
    }

    fn enter(
        self: &Arc<Self>,
        list: &DashMap<ClientId, Arc<ClientHandle>>,
        user: Arc<str>,
        database: Arc<str>,
        way: Way,
        secret_len: usize,
    ) -> (Registered, Secret) {
        let Way { worker, addresses, tls, peer_pid, replication } = way;
        let id = self.next_id();
        let handle = |pid| {
            Arc::new(ClientHandle {
                id,
                user,
                database,
                ends: addresses.map(|(peer, own)| [peer, own].map(|end| (end.ip(), end.port()))),
                tls,
                replication,
                connected_us: u64::try_from(clock::wall().as_micros()).unwrap_or(u64::MAX),
                pid,
                peer_pid,
                worker,
                application_name: Mutex::default(),
                requested_us: AtomicU64::new(0),
                waits_since_us: AtomicU64::new(0),
                cancels_sent: AtomicU64::new(0),
                prepared: AtomicU32::new(0),
                bell: Bell::default(),
                activity: AtomicU8::new(0),
                mark: Mark::default(),
                links: Mutex::default(),
            })
        };
        let (handle, secret) = self.keys.give_out(secret_len, handle);
        list.insert(id, Arc::clone(&handle));
        (Registered { shared: Arc::clone(self), handle }, secret)
    }

    /// A number for whoever comes.
    pub fn next_id(&self) -> ClientId {
        ClientId(self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    /// Lists a cancel request until the first of the results is dropped; the second is to become true when the server has been asked.
    #[must_use]
    pub fn list_cancel(
        self: &Arc<Self>,
        target: &Arc<ClientHandle>,
        addresses: Option<(SocketAddr, SocketAddr)>,
    ) -> (Listed, Arc<AtomicBool>) {
        let id = self.next_id();
        let sent = Arc::new(AtomicBool::new(false));
        let (target, since) = (Arc::clone(target), clock::wall());
        self.cancels.insert(id, Canceling { target, addresses, since, sent: Arc::clone(&sent) });
        (Listed { shared: Arc::clone(self), id }, sent)
    }

    /// Whoever knows itself by this process id.
    #[must_use]
    pub fn by_pid(&self, pid: u32) -> Vec<Arc<ClientHandle>> {
        self.keys.owners(pid)
    }

    /// The client that a cancel key belongs to.
    #[must_use]
    pub fn by_key(&self, pid: u32, secret: &Secret) -> Option<Arc<ClientHandle>> {
        self.keys.find(pid, secret)
    }
}

/// Someone who logs in to the console, as long as that takes.
#[derive(Debug)]
pub enum AtConsoleDoor {
    /// In one of the places for that.
    Spare(OwnedSemaphorePermit),
    /// In the place of a client.
    Client(Admitted),
}

/// A connection that is counted; counted out when dropped.
#[derive(Debug)]
pub struct Admitted(Arc<Shared>);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Whose clients are counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SeatOf {
    /// Those of a database.
    Database(Arc<str>),
    /// Those of a user.
    User(Arc<str>),
}

/// The clients of one database or user.
#[derive(Debug)]
struct Bench {
    shared: Weak<Shared>,
    of: SeatOf,
    /// How many there are; changed only by who holds the lock of all seats.
    taken: AtomicU32,
}

/// A client that is counted for its database or user; counted out when dropped.
#[derive(Debug)]
pub struct Seat(Arc<Bench>);

impl Seat {
    /// The name of the database or user, of which there is one for all its clients.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        match &self.0.of {
            SeatOf::Database(name) | SeatOf::User(name) => name,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(shared) = self.0.shared.upgrade() else { return };
        let mut seats = shared.seats.lock();
        let taken = self.0.taken.load(Ordering::Relaxed).saturating_sub(1);
        self.0.taken.store(taken, Ordering::Relaxed);
        if taken == 0 {
            seats.remove(&self.0.of);
        }
    }
}

/// A cancel request that is listed until this is dropped.
#[derive(Debug)]
pub struct Listed {
    shared: Arc<Shared>,
    id: ClientId,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.shared.cancels.remove(&self.id);
    }
}

/// A client that is entered; leaves when dropped.
#[derive(Debug)]
pub struct Registered {
    shared: Arc<Shared>,
    /// As others see it.
    pub handle: Arc<ClientHandle>,
}

impl Registered {
    /// Gives a report of it.
    pub(super) fn tell(&self, report: Report) {
        self.shared.reports.tell(&self.handle, report);
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.shared.keys.take_back(self.handle.pid, &self.handle);
        self.shared.clients.remove(&self.handle.id);
        if self.shared.visitors.remove(&self.handle.id).is_some() && self.shared.visitors.is_empty() {
            // While it lasts nobody can come to say RESUME.
            if self.shared.resume() {
                tracing::warn!("the last console has gone while the process was suspended: it resumes");
            }
        }
    }
}

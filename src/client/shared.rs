//! What all clients share: the live configuration, who is connected, and the keys that cancel.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock;
use crate::error::{Error, SqlState};
use crate::health::server::ServerHealth;
use crate::id::{ClientId, WorkerId};
use crate::net::tls::Negotiated;
use crate::pool::Pool;
use crate::pool::ledger::SlotId;
use crate::server::connection::Secret;
use crate::session::prepared::Registry;
use crate::wire::startup::Replication;

use super::database::Live;
use super::keys::KeyRing;
use super::peers::Outcomes;
use super::predecessors::Predecessors;

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
    /// Clients logging in.
    pub logging_in: AtomicU32,
    /// Statements refused, by reason.
    pub refused: Mutex<std::collections::BTreeMap<&'static str, u64>>,
    /// Segments tried again on another server, by reason.
    pub retried: Mutex<std::collections::BTreeMap<&'static str, u64>>,
    /// Sessions that had to keep their server, by reason.
    pub pinned: Mutex<std::collections::BTreeMap<&'static str, u64>>,
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

/// What a client is told to do by someone else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Nothing.
    None,
    /// Give up waiting: its statement was cancelled.
    Cancel,
    /// End when no transaction is open: the process ends.
    Drain,
    /// End now.
    Kill,
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
    /// Its address and ours; `None` for a unix socket.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// What TLS agreed on; none: it has no TLS.
    pub tls: Option<Negotiated>,
    /// Whether it has a WAL sender.
    pub replication: Option<Replication>,
    /// When it logged in, as time since the Unix epoch.
    pub connected: Duration,
    /// The process id it was given.
    pub pid: u32,
    /// Its worker.
    pub worker: WorkerId,
    /// `application_name`.
    pub application_name: Mutex<String>,
    /// When it last sent a statement, as time since the Unix epoch in microseconds.
    pub requested_us: AtomicU64,
    /// Since when it waits, in microseconds since the start of the process; 0: it does not.
    pub waits_since_us: AtomicU64,
    /// Its prepared statements.
    pub prepared: AtomicU32,
    /// Why it keeps its server, joined by commas; empty: it does not.
    pub pins: Mutex<String>,
    /// Woken for an order.
    pub wake: Notify,
    activity: AtomicU8,
    order: AtomicU8,
    link: Mutex<Option<(Arc<Pool>, SlotId)>>,
}

impl ClientHandle {
    /// What it is doing.
    #[must_use]
    pub fn activity(&self) -> Activity {
        match self.activity.load(Ordering::Relaxed) {
            0 => Activity::Idle,
            1 => Activity::Waiting,
            _ => Activity::Active,
        }
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

    /// The server it has.
    #[must_use]
    pub fn link(&self) -> Option<(Arc<Pool>, SlotId)> {
        self.link.lock().clone()
    }

    /// It has got a server, or has one no more. While this is being changed no cancel request can start.
    pub fn set_link(&self, link: Option<(Arc<Pool>, SlotId)>) {
        *self.link.lock() = link;
    }

    /// Gives it an order.
    pub fn order(&self, order: Order) {
        let value = match order {
            Order::None => 0,
            Order::Cancel => 1,
            Order::Drain => 2,
            Order::Kill => 3,
        };
        // A lesser order never replaces a greater one.
        self.order.fetch_max(value, Ordering::AcqRel);
        self.wake.notify_waiters();
    }

    /// The order that stands.
    #[must_use]
    pub fn standing_order(&self) -> Order {
        match self.order.load(Ordering::Acquire) {
            0 => Order::None,
            1 => Order::Cancel,
            2 => Order::Drain,
            _ => Order::Kill,
        }
    }

    /// A cancel order is carried out (or has come too late).
    pub fn cancel_is_done(&self) {
        let _stood = self.order.compare_exchange(1, 0, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Cancels what it is doing: its statement on a server, or its wait for one.
    pub async fn cancel(&self) {
        // Under the lock, or the server might be another client's by the time that the request begins.
        let begun = self.link.lock().as_ref().map(|(pool, slot)| pool.begin_cancel(*slot));
        match begun {
            Some(Some(request)) => request.send().await,
            Some(None) => {}
            None if self.activity() == Activity::Waiting => self.order(Order::Cancel),
            None => {}
        }
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
            keys,
            cancelling: AtomicU32::new(0),
            passed_on: Outcomes::default(),
            connections: AtomicU32::new(0),
            seats: Mutex::default(),
            logging_in: AtomicU32::new(0),
            refused: Mutex::default(),
            retried: Mutex::default(),
            pinned: Mutex::default(),
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
            client.wake.notify_waiters();
        }
    }

    /// Wakes the clients that wait for one of `servers`, or for a connection: see `client::silence`.
    pub fn wake_users_of(&self, servers: &[Arc<ServerHealth>]) {
        let of_these = |pool: &Arc<Pool>| servers.iter().any(|server| Arc::ptr_eq(server, &pool.health));
        for client in &self.clients {
            let linked = client.link.lock().as_ref().is_some_and(|(pool, _)| of_these(pool));
            if linked || client.activity() != Activity::Idle {
                client.wake.notify_waiters();
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

    /// Counts a session that must keep its server from now on.
    pub fn count_pin(&self, reason: &'static str) {
        *self.pinned.lock().entry(reason).or_default() += 1;
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
            Err(_) => Err(Error::us_fatal(
                SqlState::TOO_MANY_CONNECTIONS,
                format!("no more connections allowed: {max} clients are connected"),
            )
            .hint("Raise max_client_conn, or let clients share connections.")),
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
        let Way { worker, addresses, tls, replication } = way;
        let id = ClientId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let handle = |pid| {
            Arc::new(ClientHandle {
                id,
                user,
                database,
                addresses,
                tls,
                replication,
                connected: clock::wall(),
                pid,
                worker,
                application_name: Mutex::default(),
                requested_us: AtomicU64::new(0),
                waits_since_us: AtomicU64::new(0),
                prepared: AtomicU32::new(0),
                pins: Mutex::default(),
                wake: Notify::new(),
                activity: AtomicU8::new(0),
                order: AtomicU8::new(0),
                link: Mutex::new(None),
            })
        };
        let (handle, secret) = self.keys.give_out(secret_len, handle);
        self.clients.insert(id, Arc::clone(&handle));
        (Registered { shared: Arc::clone(self), handle }, secret)
    }

    /// The client that a cancel key belongs to.
    #[must_use]
    pub fn by_key(&self, pid: u32, secret: &Secret) -> Option<Arc<ClientHandle>> {
        self.keys.find(pid, secret)
    }
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

/// A client that is entered; leaves when dropped.
#[derive(Debug)]
pub struct Registered {
    shared: Arc<Shared>,
    /// As others see it.
    pub handle: Arc<ClientHandle>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.shared.keys.take_back(self.handle.pid, &self.handle);
        self.shared.clients.remove(&self.handle.id);
    }
}

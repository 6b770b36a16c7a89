//! What the parts of the process have in common beside the clients: replaced databases, statistics, and the way to the main thread.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::admin::parse::ShutdownMode;
use crate::client::database::{Live, LiveDatabase};
use crate::client::{Shared, console};
use crate::clock;
use crate::config::Host;
use crate::config::diff::Changes;
use crate::error::{Error, SqlState};
use crate::id::{ConnectionId, WorkerId};
use crate::metrics::averages::Averages;
use crate::metrics::counters::Counts;
use crate::metrics::snapshot::{ListenerSnapshot, Reloads};
use crate::pool::Pool;
use crate::pool::ledger::SlotId;

use super::live;

/// Bits of a connection's number that its slot in the pool takes; the pool's number has the rest.
const SLOT_BITS: u32 = 20;

/// So many paused databases are named: the line in which another process is told is not long.
const NAMED: usize = 2;

/// What someone asks of the main thread.
#[derive(Debug)]
pub enum Request {
    /// Read the configuration again; the answer is what changed, or every mistake.
    Reload(oneshot::Sender<Result<Changes, Vec<String>>>),
    /// Change a setting until the next reload.
    Set {
        /// The setting.
        name: String,
        /// Its value.
        value: String,
        /// What changed, or every mistake.
        answer: oneshot::Sender<Result<String, Vec<String>>>,
    },
    /// End.
    Shutdown(ShutdownMode),
    /// Hand over to the process at the other end.
    HandOver(UnixStream),
}

/// The state of the process.
#[derive(Debug)]
pub struct State {
    /// Clients and what they share.
    pub shared: Arc<Shared>,
    /// The averages of SHOW STATS.
    pub averages: Mutex<Averages>,
    /// Reloads so far.
    pub reloads: Mutex<Reloads>,
    /// Whether PAUSE without a name is in force.
    pub paused: AtomicBool,
    /// Settings that SET has changed since the last reload.
    pub changed: Mutex<BTreeSet<String>>,
    /// Sockets that are listened on.
    pub listeners: Mutex<Vec<ListenerSnapshot>>,
    /// To the main thread.
    pub requests: mpsc::Sender<Request>,
    retired: Mutex<Retired>,
    numbers: Mutex<Numbers>,
}

/// Databases that a reload has replaced, and what was counted by those that are gone.
#[derive(Debug, Default)]
struct Retired {
    databases: Vec<Arc<LiveDatabase>>,
    past: BTreeMap<String, Counts>,
}

/// Numbers of pools, for as long as they live.
#[derive(Debug, Default)]
struct Numbers {
    next: u64,
    known: HashMap<usize, (Weak<Pool>, u64)>,
}

impl State {
    /// The state of a process that starts.
    #[must_use]
    pub fn new(shared: Arc<Shared>, requests: mpsc::Sender<Request>) -> Arc<Self> {
        let reloads = Reloads { loaded_at: clock::wall(), ..Reloads::default() };
        Arc::new(Self {
            shared,
            averages: Mutex::new(Averages::new()),
            reloads: Mutex::new(reloads),
            paused: AtomicBool::new(false),
            changed: Mutex::default(),
            listeners: Mutex::default(),
            requests,
            retired: Mutex::default(),
            numbers: Mutex::default(),
        })
    }

    /// The databases at work and then those that were replaced and still have connections.
    #[must_use]
    pub fn databases(&self) -> Vec<Arc<LiveDatabase>> {
        // Under the lock, or one that is being replaced would be among neither.
        let retired = self.retired.lock();
        let mut all = self.shared.live.load().all();
        all.extend(retired.databases.iter().cloned());
        all
    }

    /// Whether another process may take over.
    ///
    /// # Errors
    /// Why it may not.
    pub fn may_hand_over(&self) -> Result<(), Error> {
        if self.shared.draining.load(Ordering::Acquire) {
            return Err(Error::us(SqlState::CANNOT_CONNECT_NOW, "pgweir is shutting down")
                .hint("Start again when it has ended."));
        }
        let Some(state) = self.held_back() else { return Ok(()) };
        // The next process knows nothing of it, and who waits here would wait for RESUME of this one.
        Err(Error::us(SqlState::OBJECT_NOT_IN_STATE, state).hint("RESUME first."))
    }

    /// What holds clients back, if anything does.
    fn held_back(&self) -> Option<String> {
        if self.shared.is_suspended() {
            return Some("pgweir is suspended".to_owned());
        }
        if self.paused.load(Ordering::Acquire) {
            return Some("pgweir is paused".to_owned());
        }
        // Who waits in a database that a reload has replaced is held back as well.
        let paused: BTreeSet<String> =
            self.databases().iter().filter(|db| db.is_paused()).map(|db| format!("{:?}", db.config.name)).collect();
        let named: Vec<&str> = paused.iter().take(NAMED).map(String::as_str).collect();
        let more = paused.len().saturating_sub(named.len());
        match named.as_slice() {
            [] => None,
            [one] => Some(format!("the database {one} is paused")),
            several if more == 0 => Some(format!("the databases {} are paused", several.join(" and "))),
            several => Some(format!("the databases {} and {more} more are paused", several.join(", "))),
        }
    }

    /// What operators have said at the console that a process which takes over knows nothing of; none: nothing.
    #[must_use]
    pub fn not_handed_over(&self) -> Option<String> {
        let live = self.shared.live.load();
        let disabled = live.all().into_iter().filter(|db| db.disabled.load(Ordering::Acquire));
        let disabled: Vec<_> = disabled.map(|db| db.config.name.clone()).collect();
        let changed: Vec<_> = self.changed.lock().iter().cloned().collect();
        let told = [("disabled databases", disabled), ("settings changed by SET", changed)];
        let told: Vec<_> = told
            .iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(what, names)| format!("{what}: {}", names.join(", ")))
            .collect();
        (!told.is_empty()).then(|| told.join("; "))
    }

    /// A reload puts what it made in the place of what was.
    pub fn replace(&self, new: Live) {
        let mut retired = self.retired.lock();
        let replaced = live::succeed(&new, &self.shared.live.load());
        // Also for those that are listed for the first time.
        let held = self.paused.load(Ordering::Acquire);
        new.made.held.store(held, Ordering::Release);
        new.all().iter().for_each(|database| database.held.store(held, Ordering::Release));
        self.shared.install(new);
        retired.databases.extend(replaced.iter().cloned());
        drop(retired);
        leave(&replaced);
        let live = self.shared.live.load();
        for old in &replaced {
            let is_elsewhere = live.database(&old.config.name).is_none_or(|new| new.config.shards != old.config.shards);
            if is_elsewhere {
                self.shared.end_streams(Some(&old.config.name));
            }
        }
    }

    /// PAUSE of everything or its end: `each` is told of every database, after it is marked. False if that was in force already. A reload
    /// comes before all of this or after it: what it puts in the place of another is held as that one was, with the pools of that one.
    pub fn hold_all(&self, held: bool, each: impl Fn(&LiveDatabase)) -> bool {
        let retired = self.retired.lock();
        if self.paused.swap(held, Ordering::AcqRel) == held {
            return false;
        }
        let live = self.shared.live.load();
        // In this order: a database that the wildcard makes meanwhile is marked, or is among all.
        live.made.held.store(held, Ordering::Release);
        for database in live.all().iter().chain(&retired.databases) {
            // In this order: a pool that is made meanwhile sees the mark.
            database.held.store(held, Ordering::Release);
            each(database);
        }
        true
    }

    /// Nobody comes to these any more: connections that are lent end when they come back.
    pub fn retire(&self, databases: Vec<Arc<LiveDatabase>>) {
        leave(&databases);
        self.retired.lock().databases.extend(databases);
    }

    /// Looks after all pools; to be called about once a second on one worker.
    pub fn tick(&self, worker: WorkerId) {
        if self.shared.is_suspended() {
            // Nothing is to move.
            return;
        }
        let live = self.shared.live.load_full();
        let unused = live.expire_made();
        if !unused.is_empty() {
            let names: Vec<_> = unused.iter().map(|database| database.config.name.as_str()).collect();
            tracing::info!(
                databases = names.join(", "),
                "databases made from the wildcard are forgotten: nobody uses them"
            );
            self.retire(unused);
        }
        // A process that ends opens nothing for those to come, who go to another after a takeover.
        let (draining, handed_over) = (&self.shared.draining, &self.shared.handed_over);
        let stays = !draining.load(Ordering::Acquire) && !handed_over.load(Ordering::Acquire);
        for database in live.all() {
            database.pools_to_tend().iter().for_each(|(pool, warm)| pool.maintain(worker, *warm && stays));
        }
        if live.config.general.server_fast_close {
            self.shared.wake_those_to_close();
        }
        let mut retired = self.retired.lock();
        let Retired { databases, past } = &mut *retired;
        for database in live.all() {
            let ended = database.take_ended();
            if !ended.is_empty() {
                *past.entry(database.config.name.clone()).or_default() += totals_of(&ended);
            }
        }
        databases.retain(|database| {
            let pools = database.pools();
            for pool in &pools {
                // Who waited before the reload still gets a connection; nobody else does, so none is kept.
                if pool.counts().waiting > 0 {
                    pool.maintain(worker, false);
                }
                pool.close_all();
            }
            let needed = Arc::strong_count(database) > 1 || !pools.iter().all(|pool| pool.is_quiet());
            if !needed {
                *past.entry(database.config.name.clone()).or_default() += totals_of(&pools);
            }
            needed
        });
    }

    /// Closes the connections to addresses that the names of their hosts no longer have, or have left: of `name`.
    pub fn leave_moved(&self, name: &str) {
        for database in self.databases() {
            // What is at the other address has a WAL of its own: until its prober has asked, nobody looks for his own writes there.
            for (shard, health) in database.config.shards.iter().zip(&database.health) {
                let servers = shard.servers.iter().zip(health.servers());
                let named =
                    servers.filter(|(s, _)| s.host.each().iter().any(|h| matches!(h, Host::Tcp(n) if n == name)));
                named.for_each(|(_, health)| health.forget_position());
            }
            database.pools().iter().for_each(|pool| pool.leave_moved());
        }
    }

    /// What went through each database since the start. Databases that are no more are in it.
    #[must_use]
    pub fn totals(&self) -> BTreeMap<String, Counts> {
        // Both under one lock, so that what moves from one to the other is counted once.
        let retired = self.retired.lock();
        let mut totals = retired.past.clone();
        let live = self.shared.live.load();
        for database in live.all().iter().chain(&retired.databases) {
            *totals.entry(database.config.name.clone()).or_default() += totals_of(&database.pools());
        }
        totals
    }

    /// What went through the console: PgBouncer counts a command as a query and a transaction.
    #[must_use]
    pub fn console_totals(&self) -> Counts {
        let commands = self.shared.commands.load(Ordering::Relaxed);
        Counts { xact_count: commands, query_count: commands, ..Counts::default() }
    }

    /// Takes a sample for the averages.
    pub fn sample(&self) {
        let mut totals = self.totals();
        totals.insert(console::NAME.to_owned(), self.console_totals());
        self.averages.lock().sample(clock::now(), totals);
    }

    /// Writes the averages into the log.
    pub fn log_stats(&self) {
        let counts = self.averages.lock().overall();
        let Counts { xact_count, query_count, received, sent, xact_time, query_time, wait_time, .. } = counts;
        let Counts { client_parse_count, server_parse_count, bind_count, .. } = counts;
        tracing::info!(
            "stats: {xact_count} xacts/s, {query_count} queries/s, {client_parse_count} client parses/s, \
             {server_parse_count} server parses/s, {bind_count} binds/s, in {received} B/s, out {sent} B/s, \
             xact {xact_time} us, query {query_time} us, wait {wait_time} us"
        );
    }

    /// The number of a server connection, unique as long as the process lives (and its pools make less than a million each).
    #[must_use]
    pub fn connection_id(&self, pool: &Arc<Pool>, slot: SlotId) -> ConnectionId {
        let number = self.numbers.lock().of(pool);
        ConnectionId((number << SLOT_BITS) | (slot.0 & ((1 << SLOT_BITS) - 1)))
    }
}

impl Numbers {
    fn of(&mut self, pool: &Arc<Pool>) -> u64 {
        let place = Arc::as_ptr(pool) as usize;
        // The weak pointer keeps the place from being used again.
        if let Some((_, number)) = self.known.get(&place) {
            return *number;
        }
        self.known.retain(|_, (pool, _)| pool.strong_count() > 0);
        let number = self.next;
        self.next += 1;
        self.known.insert(place, (Arc::downgrade(pool), number));
        number
    }
}

fn totals_of(pools: &[Arc<Pool>]) -> Counts {
    pools.iter().map(|pool| pool.counters.totals.snapshot()).sum()
}

/// Closes the connections of databases that are no longer at work, the lent ones when they come back.
fn leave(databases: &[Arc<LiveDatabase>]) {
    for database in databases {
        database.retired.store(true, Ordering::Release);
        database.pools().iter().for_each(|pool| pool.close_all());
    }
}

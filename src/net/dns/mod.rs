//! Names of servers: one resolver with one memory for the whole process.
//!
//! `cache` is what is known, for how long, and what changed; `files` reads the system's files; `ask` asks. A look-up is made by
//! [`Dns::run`], a task of the main thread: no worker waits for a file or a name server, a look-up goes on when nobody waits for it any
//! more, and all who want one name wait for one look-up. Names in use are looked up again when their time is over, without being asked
//! for, so that a change is seen while all connections stand.

mod ask;
pub mod cache;
pub mod files;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

use crate::clock;
use ask::Asker;
pub use cache::Failure;
use cache::{Cache, HostRow, Part, Times, Word, ZoneRow};

/// How long who wants to connect waits for a look-up when there are addresses from before.
const PATIENCE: Duration = Duration::from_millis(250);
/// Look-ups under way at a time.
const LOOKUPS: usize = 64;

/// How names are resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How long addresses (`dns_max_ttl`) and failures (`dns_nxdomain_ttl`) are remembered.
    pub times: Times,
    /// How often the serial numbers of zones are asked for (`dns_zone_check_period`); zero: never.
    pub zone_period: Duration,
    /// A file instead of the system's resolv.conf (`resolv_conf`).
    pub resolv_conf: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        let remembered = Duration::from_secs(15);
        Self { times: Times { found: remembered, failed: remembered }, zone_period: Duration::ZERO, resolv_conf: None }
    }
}

/// What the resolver has done and is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Picture {
    /// The names.
    pub hosts: Vec<HostRow>,
    /// Their zones.
    pub zones: Vec<ZoneRow>,
    /// Look-ups under way, of names and of serial numbers.
    pub queries: u64,
    /// Look-ups that wait until there are fewer.
    pub pending: u64,
    /// Look-ups that found addresses since the start.
    pub found: u64,
    /// Those that were told that there is no such name.
    pub no_name: u64,
    /// Those that got no answer.
    pub trouble: u64,
    /// Addresses that a name no longer had.
    pub gone: u64,
}

/// The resolver.
#[derive(Debug)]
pub struct Dns {
    settings: Mutex<Settings>,
    cache: Mutex<Cache>,
    /// Something is to be looked up, or the settings are others.
    work: Notify,
    /// A look-up has ended.
    answered: Notify,
    places: Semaphore,
    queries: AtomicU64,
    pending: AtomicU64,
    found: AtomicU64,
    no_name: AtomicU64,
    trouble: AtomicU64,
    gone: AtomicU64,
    /// How often a name left an address.
    changes: AtomicU64,
    /// Names that left an address which they still have.
    left: Mutex<Vec<String>>,
}

impl Dns {
    /// One that knows nothing yet. Look-ups are made where [`Self::run`] runs.
    #[must_use]
    pub fn new(settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            settings: Mutex::new(settings),
            cache: Mutex::default(),
            work: Notify::new(),
            answered: Notify::new(),
            places: Semaphore::new(LOOKUPS),
            queries: AtomicU64::new(0),
            pending: AtomicU64::new(0),
            found: AtomicU64::new(0),
            no_name: AtomicU64::new(0),
            trouble: AtomicU64::new(0),
            gone: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            left: Mutex::default(),
        })
    }

    /// The settings are these from now on, and the configuration uses these hosts. Of those that are `staying`, one address is used until
    /// it cannot be reached: what is known of such a server must not be known of another.
    pub fn configure(&self, settings: Settings, used: BTreeSet<String>, staying: BTreeSet<String>) {
        let others =
            std::mem::replace(&mut *self.settings.lock(), settings.clone()).resolv_conf != settings.resolv_conf;
        let mut cache = self.cache.lock();
        cache.use_only(used.into_iter().filter(|name| name.parse::<IpAddr>().is_err()).collect(), staying);
        cache.shorten(settings.times, others, clock::now());
        drop(cache);
        self.work.notify_one();
    }

    /// The addresses of a host, in the order in which to try them. Takes as long as the look-up does, unless the answer is known; if there
    /// are addresses from before, not long.
    ///
    /// # Errors
    /// Why there are none.
    pub async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, Failure> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        let word = self.cache.lock().ask(host, clock::now());
        let (seen, has_old) = match word {
            Word::Addresses(addresses) => return Ok(addresses),
            Word::Failed(failure) => return Err(failure),
            Word::Wait { seen, has_old } => (seen, has_old),
        };
        self.work.notify_one();
        let answer = self.answer_since(host, seen);
        if !has_old {
            return answer.await;
        }
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(answer) => answer,
            Err(_) => {
                let old = self.cache.lock().old(host);
                old.ok_or_else(|| Failure::Trouble("it is being looked up".to_owned()))
            }
        }
    }

    async fn answer_since(&self, host: &str, seen: u64) -> Result<Vec<IpAddr>, Failure> {
        loop {
            let answered = self.answered.notified();
            tokio::pin!(answered);
            // From here on no answer is missed.
            answered.as_mut().enable();
            if let Some(outcome) = self.cache.lock().answer_since(host, seen) {
                return outcome;
            }
            answered.await;
        }
    }

    /// Whether a connection that was made to `host` leads to an address which the name no longer has.
    #[must_use]
    pub fn is_gone(&self, host: &str, address: IpAddr) -> bool {
        self.cache.lock().is_gone(host, address)
    }

    /// A connection to `host` was made, at this address.
    pub fn reached(&self, host: &str, address: IpAddr) {
        if self.cache.lock().reached(host, address) {
            tracing::info!(name = host, %address, "the name leads to another of its addresses: connections to the others are closed");
            self.changes.fetch_add(1, Ordering::AcqRel);
            self.left.lock().push(host.to_owned());
            self.work.notify_one();
        }
    }

    /// How often names have left an address so far. Who connected without a change of it in between went where the name led.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Whether nobody can connect to `host` because its name is still being looked up.
    #[must_use]
    pub fn is_awaited(&self, host: &str) -> bool {
        self.cache.lock().is_awaited(host)
    }

    /// What it knows and does.
    #[must_use]
    pub fn picture(&self) -> Picture {
        let cache = self.cache.lock();
        Picture {
            hosts: cache.hosts(clock::now()),
            zones: cache.zones(),
            queries: self.queries.load(Ordering::Relaxed),
            pending: self.pending.load(Ordering::Relaxed),
            found: self.found.load(Ordering::Relaxed),
            no_name: self.no_name.load(Ordering::Relaxed),
            trouble: self.trouble.load(Ordering::Relaxed),
            gone: self.gone.load(Ordering::Relaxed),
        }
    }

    /// Makes the look-ups, for ever. Each time that a name has lost or left an address, `on_gone` is called with it. Needs a local runtime.
    pub async fn run(self: Arc<Self>, on_gone: impl Fn(&str) + 'static) {
        let (asker, on_gone) = (Rc::new(Asker::default()), Rc::new(on_gone));
        tokio::task::spawn_local(Arc::clone(&self).watch_zones(Rc::clone(&asker)));
        loop {
            let now = clock::now();
            let (wanted, next) = {
                let mut cache = self.cache.lock();
                (cache.take_wanted(now), cache.next())
            };
            for name in wanted {
                let (dns, asker, on_gone) = (Arc::clone(&self), Rc::clone(&asker), Rc::clone(&on_gone));
                tokio::task::spawn_local(async move {
                    if Box::pin(dns.look_up(&name, &asker)).await {
                        on_gone(&name);
                    }
                });
            }
            let left = std::mem::take(&mut *self.left.lock());
            left.iter().for_each(|name| on_gone(name));
            tokio::select! {
                () = self.work.notified() => {}
                () = until(next) => {}
            }
        }
    }

    /// One look-up; whether the name has lost an address.
    async fn look_up(&self, name: &str, asker: &Asker) -> bool {
        let resolv_conf = self.settings.lock().resolv_conf.clone();
        let parts = self.in_place(asker.addresses(name, resolv_conf)).await;
        let (now, times) = (clock::now(), self.settings.lock().times);
        let found: Vec<IpAddr> = [&parts.0, &parts.1].into_iter().flat_map(addresses_of).copied().collect();
        let counter = match &parts {
            _ if !found.is_empty() => &self.found,
            (Part::Trouble(_), _) | (_, Part::Trouble(_)) => &self.trouble,
            _ => &self.no_name,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        match &parts {
            _ if !found.is_empty() => tracing::debug!(name, ?found, "name looked up"),
            (Part::Trouble(why), _) | (_, Part::Trouble(why)) | (Part::Nothing(why), _) => {
                tracing::warn!(name, "look-up failed: {why}");
            }
            (Part::Found(..), _) => {}
        }
        let gone = self.cache.lock().answered(name, parts, times, now);
        self.answered.notify_waiters();
        // Another time may be the next.
        self.work.notify_one();
        if !gone.is_empty() {
            self.gone.fetch_add(gone.len() as u64, Ordering::Relaxed);
            self.changes.fetch_add(1, Ordering::AcqRel);
            tracing::info!(
                name,
                ?gone,
                ?found,
                "the name has other addresses: connections to those it lost are closed"
            );
        }
        !gone.is_empty()
    }

    /// Asks when there is a place for it.
    async fn in_place<T>(&self, asking: impl Future<Output = T>) -> T {
        self.pending.fetch_add(1, Ordering::Relaxed);
        // It is never closed.
        let place = self.places.acquire().await;
        self.pending.fetch_sub(1, Ordering::Relaxed);
        self.queries.fetch_add(1, Ordering::Relaxed);
        let answer = asking.await;
        self.queries.fetch_sub(1, Ordering::Relaxed);
        drop(place);
        answer
    }

    /// Asks for the serial numbers of all zones, one after the other, once a period.
    async fn watch_zones(self: Arc<Self>, asker: Rc<Asker>) {
        /// How soon a period that was set is noticed.
        const GLANCE: Duration = Duration::from_secs(1);
        let mut last = clock::now();
        loop {
            let period = self.settings.lock().zone_period;
            let left = period.saturating_sub(clock::now().saturating_duration_since(last));
            if period.is_zero() || !left.is_zero() {
                tokio::time::sleep(if period.is_zero() { GLANCE } else { left.min(GLANCE) }).await;
                continue;
            }
            last = clock::now();
            let zones: Vec<String> = self.cache.lock().zones().into_iter().map(|zone| zone.name).collect();
            for zone in zones {
                let resolv_conf = self.settings.lock().resolv_conf.clone();
                let Some(serial) = self.in_place(asker.serial(&zone, resolv_conf)).await else {
                    tracing::debug!(zone, "the zone's serial number could not be found out");
                    continue;
                };
                if self.cache.lock().serial(&zone, serial) {
                    tracing::info!(zone, serial, "the zone has another serial number: its names are looked up");
                    self.work.notify_one();
                }
            }
        }
    }
}

fn addresses_of(part: &Part) -> &[IpAddr] {
    match part {
        Part::Found(addresses) => addresses,
        Part::Nothing(_) | Part::Trouble(_) => &[],
    }
}

/// For ever, if never.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

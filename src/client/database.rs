//! The live side of the configuration: users' credentials, databases with the health of their servers, and pools.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::auth::hba::{Maps, Rules};
use crate::auth::login::PassThrough;
use crate::auth::secret::{Credential, Example, Mock, Secret};
use crate::auth::server_login::ServerCredential;
use crate::client::external::Outside;
use crate::client::hidden::Hidden;
use crate::client::peers::Peers;
use crate::client::scatter::told::Told;
use crate::clock;
use crate::config::{Config, Database, PoolMode, Role, User};
use crate::error::Error;
use crate::health::shard::ShardHealth;
use crate::id::{ServerIndex, ShardIndex};
use crate::net::dns::Dns;
use crate::net::tls::{Acceptor, ServerTls};
use crate::pool::ledger::Limits;
use crate::pool::{self, Pool, PoolKey, PoolSettings, Share, Shares};
use crate::route::decide::Why;
use crate::server::login::LoginSettings;
use crate::server::{Derived, Target};
use crate::session::settings::Values;
use crate::shard::check::{Check, Distrust};
use crate::shard::checks::Checks;
use crate::shard::plan::PlanKind;
use crate::shard::portrait::Portrait;
use crate::sql::catalog::Catalog;
use crate::sql::facts::RouteHint;
use crate::sql::readings::Readings;

static NEXT_POOLS: AtomicU64 = AtomicU64::new(1);

/// All that is made from one configuration.
#[derive(Debug)]
pub struct Live {
    /// The configuration.
    pub config: Arc<Config>,
    /// The files that the configuration names, by their settings, each by a digest of its content.
    pub files: BTreeMap<&'static str, (PathBuf, [u8; 32])>,
    /// Who may log in, from the auth file and `[users]`.
    pub users: BTreeMap<String, Arc<Credential>>,
    /// Which proof is asked of whom, under `auth_type = "hba"`.
    pub rules: Rules,
    /// Who is asked for passwords that others know.
    pub outside: Outside,
    /// Which users a system user or a certificate's name may be.
    pub maps: Maps,
    /// Makes TLS with clients; none: it is off.
    pub acceptor: Option<Acceptor>,
    /// Makes TLS with servers.
    pub server_tls: Arc<ServerTls>,
    /// Knows the addresses of servers.
    pub dns: Arc<Dns>,
    /// Limits of connections that several pools share.
    pub shares: Arc<Shares>,
    /// What users who do not exist are shown.
    pub mock: Arc<Mock>,
    /// The configured databases.
    pub databases: BTreeMap<String, Arc<LiveDatabase>>,
    /// Those made from the wildcard.
    pub made: Made,
    /// Who carries out cancel requests for keys that are not ours.
    pub peers: Peers,
}

/// Databases that were made from the wildcard, because a client named them.
#[derive(Debug, Default)]
pub struct Made {
    /// The same map under every configuration: a client that rests holds on to an old one, and what that one holds is in use.
    databases: Arc<Mutex<BTreeMap<String, Arc<LiveDatabase>>>>,
    /// Whether the map is another configuration's now; changes under its lock.
    superseded: AtomicBool,
    /// Whether PAUSE without a name is in force: it holds new ones too.
    pub held: AtomicBool,
    /// The first secret that `auth_query` brought for one of them, as an example.
    pub seen: OnceLock<Example>,
}

impl Made {
    /// Those of the configuration before, until [`Live::succeed`] has looked at each.
    #[must_use]
    pub fn after(old: Option<&Self>) -> Self {
        Self { databases: old.map(|old| Arc::clone(&old.databases)).unwrap_or_default(), ..Self::default() }
    }
}

impl Live {
    /// A database by its name: configured, or made from the wildcard before.
    #[must_use]
    pub fn database(&self, name: &str) -> Option<Arc<LiveDatabase>> {
        self.databases.get(name).cloned().or_else(|| self.made.databases.lock().get(name).cloned())
    }

    /// The database that a client named; made from the wildcard when it must be.
    #[must_use]
    pub fn database_for_client(&self, name: &str) -> Option<Arc<LiveDatabase>> {
        if let Some(database) = self.databases.get(name) {
            return Some(Arc::clone(database));
        }
        let wildcard = self.config.wildcard.as_ref()?;
        let mut made = self.made.databases.lock();
        if let Some(database) = made.get(name) {
            return Some(Arc::clone(database));
        }
        let database = self.make(wildcard.named(name), None);
        database.held.store(self.made.held.load(Ordering::Acquire), Ordering::Release);
        if self.made.superseded.load(Ordering::Acquire) {
            // Who asks began before a reload. In the map it would be what others get from now on, made from a wildcard that is no
            // more; so it is his alone, until he follows the reload.
            database.retired.store(true, Ordering::Release);
            return Some(database);
        }
        tracing::info!(database = name, "database made from the wildcard");
        made.insert(name.to_owned(), Arc::clone(&database));
        Some(database)
    }

    fn make(&self, config: Database, old: Option<&LiveDatabase>) -> Arc<LiveDatabase> {
        let secret = stored_secret(&config, &self.users);
        let (means, shares) = ((Arc::clone(&self.server_tls), Arc::clone(&self.dns)), Arc::clone(&self.shares));
        LiveDatabase::after(old, config, Arc::clone(&self.config), secret, means, shares)
    }

    /// Takes the place of `old`: operators' words, pools and the databases that a wildcard made go over. What is left is returned: nobody
    /// is to come to those databases any more.
    pub fn succeed(&self, old: &Self, alike: impl Fn(&LiveDatabase, &Database) -> bool) -> Vec<Arc<LiveDatabase>> {
        self.made.held.store(old.made.held.load(Ordering::Acquire), Ordering::Release);
        if old.config.wildcard == self.config.wildcard
            && let Some(seen) = old.made.seen.get()
        {
            // What strangers are shown must not change by a reload.
            self.made.seen.get_or_init(|| *seen);
        }
        let mut replaced = Vec::new();
        // A database that was listed may be one of the wildcard's now, and the other way round.
        let mut made = self.made.databases.lock();
        old.made.superseded.store(true, Ordering::Release);
        let were_made = std::mem::take(&mut *made);
        for (name, database) in old.databases.iter().chain(&were_made) {
            let was_made = were_made.contains_key(name);
            let would_be = || self.config.wildcard.as_ref().map(|wildcard| wildcard.named(name));
            let new = match (self.databases.get(name), would_be()) {
                (Some(new), _) => Some(Arc::clone(new)),
                (None, Some(config)) if was_made && alike(database, &config) => Some(Arc::clone(database)),
                (None, Some(config)) if was_made || database.is_told() => Some(self.make(config, Some(database))),
                (None, _) => None,
            };
            let Some(new) = new else {
                replaced.push(Arc::clone(database));
                continue;
            };
            if Arc::ptr_eq(&new, database) {
                database.follow_secrets(&self.users);
            } else {
                new.stays_told(database);
                new.take_pools(database, &self.users);
                replaced.push(Arc::clone(database));
            }
            if !self.databases.contains_key(name) {
                made.insert(name.clone(), new);
            }
        }
        replaced
    }

    /// All databases: the configured ones, then those made from the wildcard.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<LiveDatabase>> {
        self.databases.values().cloned().chain(self.made.databases.lock().values().cloned()).collect()
    }

    /// Those made from the wildcard.
    #[must_use]
    pub fn all_made(&self) -> Vec<Arc<LiveDatabase>> {
        self.made.databases.lock().values().cloned().collect()
    }

    /// Forgets a database that the wildcard made for a client whose login to it then failed, if nobody else is in it.
    pub fn forget_failed(&self, database: &Arc<LiveDatabase>) {
        let mut made = self.made.databases.lock();
        let is_it = made.get(&database.config.name).is_some_and(|known| Arc::ptr_eq(known, database));
        let is_it = is_it && !database.is_told();
        // One is the map's, the other the caller's.
        if is_it && Arc::strong_count(database) <= 2 && database.is_empty() {
            made.remove(&database.config.name);
        }
    }

    /// Takes out those made from the wildcard that nobody has used for `autodb_idle_timeout`. One that is paused or disabled stays: it
    /// would come back as another.
    #[must_use]
    pub fn expire_made(&self) -> Vec<Arc<LiveDatabase>> {
        let limit = self.config.general.autodb_idle_timeout;
        let now = clock::now();
        let mut expired = Vec::new();
        self.made.databases.lock().retain(|_, database| {
            // Whoever is connected to it has it too; nobody can come in while the map is locked.
            if Arc::strong_count(database) > 1 || limit.is_zero() || database.is_told() {
                *database.last_used.lock() = now;
            }
            let idle = now.saturating_duration_since(*database.last_used.lock());
            if idle > limit && !limit.is_zero() {
                expired.push(Arc::clone(database));
                return false;
            }
            true
        });
        expired
    }
}

/// What is stored of the user that a database's servers are logged in to as, when the database itself has no password.
#[must_use]
pub fn stored_secret(database: &Database, users: &BTreeMap<String, Arc<Credential>>) -> Option<Secret> {
    let user = database.user.as_ref().filter(|_| database.password.is_none())?;
    users.get(user).map(|credential| credential.secret().clone())
}

/// A database at work.
#[derive(Debug)]
pub struct LiveDatabase {
    /// Its configuration.
    pub config: Database,
    /// Health of the servers, by shard. A database that a reload puts in the place of this one has the same, if they are probed alike.
    pub health: Vec<Arc<ShardHealth>>,
    /// How far the checks of the shards are; none for an unsharded database.
    checks: Mutex<Checks>,
    /// What follows from them.
    pub distrust: ArcSwap<Distrust>,
    /// Whether PAUSE or KILL with its name holds it.
    pub paused: AtomicBool,
    /// Whether PAUSE without a name does.
    pub held: AtomicBool,
    /// Whether DISABLE keeps new clients out.
    pub disabled: AtomicBool,
    /// Whether a reload has replaced it: its pools serve nobody new.
    pub retired: AtomicBool,
    /// What is stored of its `user`: see [`stored_secret`].
    pub secret: Option<Secret>,
    last_used: Mutex<Instant>,
    /// Counts the statements that may have changed what the servers' catalogs say; goes on from one reload to the next, as pools do that
    /// know things as of an epoch.
    pub catalog_epoch: Arc<AtomicU64>,
    /// The number of the last change, of all in the process, of what names in texts stand for and of which types that is. Procedures are not counted: see
    /// [`crate::sql::facts::StatementFacts::changes_types`].
    pub types_epoch: AtomicU32,
    /// Told of each change of [`Self::catalog_epoch`], for those who check the shards.
    pub catalog_changed: Arc<Notify>,
    /// The epoch at which each shard was asked last, by shard.
    checked: watch::Sender<Vec<u64>>,
    /// By shard: whether it answered when it was asked last, and the epoch of the last answer.
    answered: Mutex<Vec<(bool, Option<u64>)>>,
    /// All shards have answered at the epochs before this one.
    answered_before: AtomicU64,
    /// What its statements may leave behind on servers unseen.
    pub hidden: Arc<Hidden>,
    /// Kinds of state ([`crate::sql::facts::PinReason`], a bit each) that the log has told of.
    pub pins_told: AtomicU32,
    /// Counts the choices of a server.
    pub routes: RouteCounts,
    /// Counts the plans of statements, if it is sharded.
    pub plans: PlanCounts,
    general: Arc<Config>,
    server_tls: Arc<ServerTls>,
    dns: Arc<Dns>,
    shares: Arc<Shares>,
    users: Mutex<HashMap<String, Arc<UserPools>>>,
    /// By `auth_user`: pools whose connections no client gets.
    auth: Mutex<HashMap<String, Arc<UserPools>>>,
    /// Pools in whose place are others, as long as something is left of them.
    left: Mutex<Vec<Arc<UserPools>>>,
    /// The first secret that `auth_query` brought, as an example.
    pub seen: OnceLock<Example>,
}

/// How often a server was chosen for which reason.
#[derive(Debug, Default)]
pub struct RouteCounts([AtomicU64; Why::ALL.len()]);

impl RouteCounts {
    /// Counts a choice.
    pub fn count(&self, why: Why) {
        // The reasons are listed in the order of their numbers.
        if let Some(count) = self.0.get(why as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Those that were made, with the name of the database.
    pub fn counts<'a>(&'a self, database: &'a str) -> impl Iterator<Item = (String, &'static str, u64)> + 'a {
        let all = Why::ALL.iter().zip(&self.0).map(|(why, n)| (why.as_str(), n.load(Ordering::Relaxed)));
        all.filter(|(_, n)| *n > 0).map(|(why, n)| (database.to_owned(), why, n))
    }
}

/// How often statements of a sharded database were planned in which way.
#[derive(Debug, Default)]
pub struct PlanCounts([AtomicU64; PlanKind::ALL.len()]);

impl PlanCounts {
    /// Counts a plan.
    pub fn count(&self, kind: PlanKind) {
        // The kinds are listed in the order of their numbers.
        if let Some(count) = self.0.get(kind as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Those that were made, with the name of the database.
    pub fn counts<'a>(&'a self, database: &'a str) -> impl Iterator<Item = (String, &'static str, u64)> + 'a {
        let all = PlanKind::ALL.iter().zip(&self.0).map(|(kind, n)| (kind.as_str(), n.load(Ordering::Relaxed)));
        all.filter(|(_, n)| *n > 0).map(|(kind, n)| (database.to_owned(), kind, n))
    }
}

/// The pools of one user of a database.
#[derive(Debug)]
pub struct UserPools {
    /// A number of their own in the process, never zero.
    pub id: u64,
    /// The user: of clients, or the database's own.
    pub user: String,
    /// How long servers are kept.
    pub mode: PoolMode,
    /// What servers report at login, once one has; and what they made of settings that clients gave at startup.
    pub welcome: Mutex<Welcome>,
    /// Whether the default shard's server_encoding is UTF8, as it reports at login.
    pub server_utf8: AtomicBool,
    /// What is known of functions and relations, as this user sees them.
    pub catalog: Mutex<Catalog>,
    /// Held by who asks for more of it; when that failed last, and why.
    pub looking_up: tokio::sync::Mutex<Option<(Instant, Error)>>,
    /// What is known of reading relations, as this user names them.
    pub readings: Mutex<Readings>,
    /// Held by who asks for more of that.
    pub weighing: tokio::sync::Mutex<()>,
    /// What shards have said of statements that several of them answer.
    pub(super) told: Mutex<Told>,
    /// Others were made for the user since, with another password: clients go over to those.
    replaced: AtomicBool,
    purpose: Purpose,
    credential: ServerCredential,
    server_user: String,
    /// A reload may change them.
    settings: ArcSwap<PoolSettings>,
    /// What the connections count for: the database and the user of the servers.
    shares: Vec<Arc<Share>>,
    pools: Vec<Vec<OnceLock<Arc<Pool>>>>,
}

/// How many beginnings are remembered.
const USUAL: usize = 8;

/// Who gets the connections of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Clients.
    Clients,
    /// Nobody: passwords are asked for on them.
    Passwords,
}

/// What servers say at login.
#[derive(Debug, Default)]
pub struct Welcome {
    /// Settings reported at login, as the server spells them.
    pub parameters: Option<Arc<Vec<(String, String)>>>,
    /// The same under the configuration before, as long as nobody has logged in under this one: who was in then goes by them.
    before: Option<Arc<Vec<(String, String)>>>,
    /// What a server made of a setting: `(name, value)` as the client gave it, and the value as the server took it.
    pub accepted: HashMap<(String, String), String>,
    /// What clients began with last, the newest at the end.
    began: VecDeque<Arc<Values>>,
}

impl Welcome {
    /// The settings reported at login, or at one under the configuration before.
    #[must_use]
    pub fn last_known(&self) -> Option<&Arc<Vec<(String, String)>>> {
        self.parameters.as_ref().or(self.before.as_ref())
    }

    /// What servers say has changed, and is asked of the next.
    pub fn forget(&mut self) {
        self.before = self.parameters.take().or(self.before.take());
        self.accepted.clear();
    }

    /// `values` as other clients have them already, if one of the last did: the clients of an application all begin with the same.
    pub fn usual(&mut self, values: Values) -> Arc<Values> {
        if let Some(known) = self.began.iter().find(|known| ***known == values) {
            return Arc::clone(known);
        }
        if self.began.len() == USUAL {
            self.began.pop_front();
        }
        let values = Arc::new(values);
        self.began.push_back(Arc::clone(&values));
        values
    }
}

/// Changes of what names stand for, in all databases. A database that a reload makes anew goes on from here.
static CHANGES: AtomicU32 = AtomicU32::new(0);

impl LiveDatabase {
    /// The catalog has changed; `types`: with it perhaps what names in texts stand for. Whoever checks the shards is told.
    pub fn catalog_is_changed(&self, types: bool) {
        if types {
            self.types_epoch.store(CHANGES.fetch_add(1, Ordering::AcqRel).wrapping_add(1), Ordering::Release);
        }
        self.catalog_epoch.fetch_add(1, Ordering::AcqRel);
        self.catalog_changed.notify_waiters();
    }

    /// Starts with no connection, to take the place of `old` (see [`Self::take_pools`]). What is known of its servers stays known: who
    /// has lost its place as a primary must not be believed again for the sake of a reload. `secret`: see [`stored_secret`].
    #[must_use]
    pub fn after(
        old: Option<&Self>,
        config: Database,
        general: Arc<Config>,
        secret: Option<Secret>,
        (server_tls, dns): (Arc<ServerTls>, Arc<Dns>),
        shares: Arc<Shares>,
    ) -> Arc<Self> {
        let now = clock::now();
        let checks = Checks::new(if config.map.is_sharded() { config.shards.len() } else { 0 });
        let shards = config.shards.len();
        let hidden = match old {
            Some(old) if old.config.shards == config.shards => Arc::clone(&old.hidden),
            Some(old) => Arc::new(Hidden::after(&old.hidden, shards)),
            None => Arc::new(Hidden::new(shards)),
        };
        let health = match old {
            Some(old) if old.is_probed_as(&config, secret.as_ref()) => old.health.clone(),
            _ => config.shards.iter().map(|s| Arc::new(ShardHealth::new(s, &config.health, now))).collect(),
        };
        let probed = config.probe_user.is_some() || config.user.is_some();
        let known = old.iter().filter(|_| probed).flat_map(|old| &old.health);
        known.for_each(|old| health.iter().for_each(|new: &Arc<_>| new.inherit(old, now)));
        // What strangers are shown must not change by a reload, while the same servers are asked the same.
        let asks = |db: &Database| (db.auth_user.clone(), db.auth_query.clone(), db.auth_dbname.clone());
        let asked = old.filter(|old| old.config.shards == config.shards && asks(&old.config) == asks(&config));
        let seen = asked.and_then(|old| old.seen.get().copied()).map(OnceLock::from).unwrap_or_default();
        Arc::new(Self {
            config,
            health,
            checks: Mutex::new(checks),
            distrust: ArcSwap::default(),
            paused: AtomicBool::new(false),
            held: AtomicBool::new(false),
            disabled: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            secret,
            last_used: Mutex::new(now),
            pins_told: AtomicU32::new(0),
            catalog_epoch: old.map(|old| Arc::clone(&old.catalog_epoch)).unwrap_or_default(),
            catalog_changed: old.map(|old| Arc::clone(&old.catalog_changed)).unwrap_or_default(),
            types_epoch: AtomicU32::new(CHANGES.load(Ordering::Acquire)),
            checked: watch::Sender::default(),
            answered: Mutex::new(vec![(false, None); shards]),
            answered_before: AtomicU64::new(0),
            hidden,
            routes: RouteCounts::default(),
            plans: PlanCounts::default(),
            general,
            server_tls,
            dns,
            shares,
            users: Mutex::default(),
            auth: Mutex::default(),
            left: Mutex::default(),
            seen,
        })
    }

    /// Whether the probers of this database's servers would be those of one with this configuration.
    fn is_probed_as(&self, config: &Database, secret: Option<&Secret>) -> bool {
        let asks =
            |db: &Database| (db.probe_user.clone(), db.probe_password.clone(), db.user.clone(), db.password.clone());
        self.config.shards == config.shards
            && self.config.health == config.health
            && asks(&self.config) == asks(config)
            && self.secret.as_ref() == secret
    }

    /// The pools on whose connections passwords are asked for as `user`; `secret` is what is stored of it.
    #[must_use]
    pub fn auth_pools(&self, user: &str, secret: Option<&Secret>) -> Arc<UserPools> {
        let own = self.config.password.as_deref().filter(|_| self.config.user.as_deref() == Some(user));
        let own = own.and_then(|password| Secret::parse(password).ok());
        let credential = ServerCredential::new(own.as_ref().or(secret), &PassThrough::Nothing);
        let mut auth = self.auth.lock();
        if let Some(pools) = auth.get(user).filter(|pools| pools.credential == credential) {
            return Arc::clone(pools);
        }
        let mut pools = self.make(user, credential, Purpose::Passwords);
        user.clone_into(&mut pools.server_user);
        let pools = Arc::new(pools);
        let old = auth.insert(user.to_owned(), Arc::clone(&pools));
        drop(auth);
        old.into_iter().for_each(|old| self.leave(old));
        pools
    }

    /// The pools of `user`. `pass_through` is what its login taught us, `secret` what is stored of it.
    #[must_use]
    pub fn user_pools(&self, user: &str, secret: Option<&Secret>, pass_through: &PassThrough) -> Arc<UserPools> {
        let user = self.pool_user(user);
        let mut users = self.users.lock();
        let credential = self.server_credential(secret, pass_through);
        if let Some(pools) = users.get(user).filter(|p| p.credential.covers(&credential)) {
            return Arc::clone(pools);
        }
        // What the user's other logins taught stays known, or his clients would take the pools from each other by turns.
        let merged = users.get(user).and_then(|p| p.credential.merged(&credential));
        let pools = Arc::new(self.make(user, merged.unwrap_or(credential), Purpose::Clients));
        let old = users.insert(user.to_owned(), Arc::clone(&pools));
        drop(users);
        old.into_iter().for_each(|old| self.leave(old));
        pools
    }

    /// Others are in the place of these: their clients go over to those, and their connections close as they come back.
    fn leave(&self, old: Arc<UserPools>) {
        old.replaced.store(true, Ordering::Release);
        self.left.lock().push(Arc::clone(&old));
        old.each(&mut |pool| pool.close_all());
    }

    /// Pools that others have replaced, and of which nothing is left any more: taken out. To be called now and then: connections that were
    /// made since for who had waited close here, when nobody waits any more.
    #[must_use]
    pub fn take_ended(&self) -> Vec<Arc<Pool>> {
        let mut ended = Vec::new();
        self.left.lock().retain(|user| {
            let mut pools = Vec::new();
            user.each(&mut |pool| pools.push(Arc::clone(pool)));
            let is_over = pools.iter().all(|pool| pool.is_empty());
            if is_over {
                ended.append(&mut pools);
            }
            pools.iter().filter(|pool| pool.counts().waiting == 0).for_each(|pool| pool.close_all());
            !is_over
        });
        ended
    }

    /// Takes over the pools of the database whose place it takes, with their connections, where servers and what they are logged in to
    /// with stay: limits of number and time change in place. `users`: what is stored of them now.
    pub fn take_pools(&self, old: &Self, users: &BTreeMap<String, Arc<Credential>>) {
        if !self.reaches_as(old) {
            return;
        }
        let stays = |pools: &UserPools| {
            self.mode_of(&pools.user) == pools.mode
                && if self.logs_in_itself() {
                    pools.credential == self.server_credential(None, &PassThrough::Nothing)
                } else {
                    pools.credential.is_current(users.get(&pools.user).map(|stored| stored.secret()))
                }
        };
        let taken: Vec<_> = old.users.lock().extract_if(|_, pools| stays(pools)).collect();
        self.users.lock().extend(taken);
        // Whether they may be asked with what is known now is looked at whenever they are.
        self.auth.lock().extend(old.auth.lock().drain());
        self.left.lock().append(&mut old.left.lock());
        for pools in self.users.lock().values().chain(self.auth.lock().values()) {
            let settings = self.pool_settings(&pools.user, pools.purpose);
            self.shares_of(&pools.server_user);
            pools.each(&mut |pool| pool.follow(settings.clone()));
            pools.settings.store(Arc::new(settings));
        }
    }

    /// Whether connections are made to the same servers, as the same user and in the same way.
    fn reaches_as(&self, old: &Self) -> bool {
        let way = |db: &Self| {
            let Database { user, connect_query, startup, .. } = &db.config;
            let password = db.config.password.is_some();
            (user.clone(), password, connect_query.clone(), startup.parameters(), db.general.general.server_tls.clone())
        };
        // Those of a server that is known for another would be judged by what becomes of that one.
        let known = self.health.iter().zip(&old.health).all(|(new, old)| Arc::ptr_eq(new, old));
        self.config.shards == old.config.shards && known && way(self) == way(old)
    }

    /// Replaces the pools of users of whom something else is stored than what their servers are logged in to with.
    pub fn follow_secrets(&self, users: &BTreeMap<String, Arc<Credential>>) {
        if self.logs_in_itself() {
            return;
        }
        let mut known = self.users.lock();
        let mut replaced = Vec::new();
        for (user, pools) in known.iter_mut() {
            let stored = users.get(user).map(|stored| stored.secret());
            if pools.credential.is_current(stored) {
                continue;
            }
            let new = self.make(user, ServerCredential::new(stored, &PassThrough::Nothing), Purpose::Clients);
            new.is_known_from(pools);
            replaced.push(std::mem::replace(pools, Arc::new(new)));
        }
        drop(known);
        replaced.into_iter().for_each(|old| self.leave(old));
    }

    /// Whether servers are logged in to with what the configuration of the database says, whoever the client is.
    fn logs_in_itself(&self) -> bool {
        self.config.user.is_some() || self.config.password.is_some()
    }

    /// The pools here of `user`, who came to `old` under another configuration of the database; `stored` is what is stored of it now. None
    /// where servers are logged in to as the client from now on and were not before: what it takes is not known before the client logs in
    /// again.
    #[must_use]
    pub fn adopt(&self, old: &UserPools, user: &str, stored: Option<&Secret>) -> Option<Arc<UserPools>> {
        let user = self.pool_user(user);
        let mut users = self.users.lock();
        if let Some(pools) = users.get(user) {
            return Some(Arc::clone(pools));
        }
        let own = self.logs_in_itself();
        if !own && old.user != user {
            return None;
        }
        let credential = match stored {
            _ if own => self.server_credential(None, &PassThrough::Nothing),
            stored if !old.credential.is_current(stored) => ServerCredential::new(stored, &PassThrough::Nothing),
            _ => old.credential.clone(),
        };
        let pools = Arc::new(self.make(user, credential, Purpose::Clients));
        pools.is_known_from(old);
        users.insert(user.to_owned(), Arc::clone(&pools));
        Some(pools)
    }

    /// Whose pools a client gets: its own, or those of the database's `user`, which all clients of such a database share.
    fn pool_user<'a>(&'a self, client: &'a str) -> &'a str {
        self.config.user.as_deref().unwrap_or(client)
    }

    /// Every pool there is, and whether it is to be kept warm: while somebody is connected to it, and always for a `user` of the
    /// database's own, whose pools need nobody's login.
    #[must_use]
    pub fn pools_to_tend(&self) -> Vec<(Arc<Pool>, bool)> {
        let own = self.config.user.as_deref();
        if let Some(user) = own.filter(|_| self.config.min_pool_size > 0) {
            let pools = self.user_pools(user, None, &PassThrough::Nothing);
            for (shard, config) in (0..).map(ShardIndex).zip(&self.config.shards) {
                (0..)
                    .map(ServerIndex)
                    .zip(&config.servers)
                    .for_each(|(server, _)| drop(self.pool(&pools, shard, server)));
            }
        }
        let mut all = Vec::new();
        for user in self.users.lock().values() {
            // One is the map's, every other a client's.
            let warm = own.is_some() || Arc::strong_count(user) > 1;
            user.each(&mut |pool| all.push((Arc::clone(pool), warm)));
        }
        for user in self.auth.lock().values().chain(self.left.lock().iter()) {
            user.each(&mut |pool| all.push((Arc::clone(pool), false)));
        }
        all
    }

    /// With a `user` of its own the database's servers are logged in to with the database's password, else as the client.
    fn server_credential(&self, secret: Option<&Secret>, pass_through: &PassThrough) -> ServerCredential {
        let own = self.config.password.as_deref().and_then(|p| Secret::parse(p).ok());
        match (&self.config.user, own) {
            (_, Some(own)) => ServerCredential::new(Some(&own), &PassThrough::Nothing),
            (Some(_), None) => ServerCredential::new(self.secret.as_ref(), &PassThrough::Nothing),
            (None, None) => ServerCredential::new(secret, pass_through),
        }
    }

    /// What logins to its servers need.
    #[must_use]
    pub fn login_settings(&self) -> LoginSettings {
        let general = &self.general.general;
        LoginSettings {
            timeout: general.server_connect_timeout,
            tcp: general.tcp,
            max_statements: general.max_prepared_statements.max(1) as usize,
            tls: Arc::clone(&self.server_tls),
            dns: Arc::clone(&self.dns),
        }
    }

    /// Takes in how far the check of a shard is, and what it is like if it was asked; which checks came out otherwise than before.
    pub fn set_check(&self, shard: ShardIndex, check: Check, portrait: Option<Portrait>) -> Vec<(ShardIndex, Check)> {
        if let Some((answers, _)) = self.answered.lock().get_mut(usize::from(shard.0)) {
            *answers = portrait.is_some();
        }
        let mut checks = self.checks.lock();
        let news = checks.set(&self.config.map, shard, check, portrait);
        // Columns may be others where nothing is wrong.
        let distrust = checks.distrust(&self.config.map);
        if **self.distrust.load() != distrust {
            self.distrust.store(Arc::new(distrust));
        }
        let check = |shard: ShardIndex| Some((shard, checks.all().nth(usize::from(shard.0))?.clone()));
        news.into_iter().filter_map(check).collect()
    }

    /// The check of a shard has asked what there was at an epoch of the catalog, or could not.
    pub fn note_checked(&self, shard: ShardIndex, epoch: u64) {
        let place = usize::from(shard.0);
        let mut all = self.answered.lock();
        if let Some((true, answered)) = all.get_mut(place) {
            *answered = Some(epoch);
        }
        let first = all.iter().map(|(_, answered)| answered.map_or(0, |epoch| epoch.saturating_add(1))).min();
        self.answered_before.store(first.unwrap_or(0), Ordering::Release);
        drop(all);
        self.checked.send_modify(|epochs| {
            if epochs.len() <= place {
                epochs.resize(place.saturating_add(1), 0);
            }
            if let Some(known) = epochs.get_mut(place) {
                *known = epoch;
            }
        });
    }

    /// Whether the shards have been asked since the catalog changed last.
    #[must_use]
    pub fn is_checked(&self) -> bool {
        let epoch = self.catalog_epoch.load(Ordering::Acquire);
        all_checked(&self.checked.borrow(), epoch, self.config.shards.len())
    }

    /// Whether the columns of tables are as the checks have found them: all shards have answered since the catalog changed last. To be asked
    /// before [`Self::distrust`] is loaded.
    #[must_use]
    pub fn columns_are_known(&self) -> bool {
        let epoch = self.catalog_epoch.load(Ordering::Acquire);
        self.answered_before.load(Ordering::Acquire) > epoch
    }

    /// Waits until all shards have been asked at this epoch of the catalog or a later one.
    pub async fn wait_checked(&self, epoch: u64) {
        let mut checked = self.checked.subscribe();
        // The sender lives as long as this.
        let _ended = checked.wait_for(|epochs| all_checked(epochs, epoch, self.config.shards.len())).await;
    }

    /// How far the checks of the shards are, by shard; none for an unsharded database.
    #[must_use]
    pub fn checks(&self) -> Vec<Check> {
        self.checks.lock().all().cloned().collect()
    }

    fn pool_settings(&self, user: &str, purpose: Purpose) -> PoolSettings {
        let general = &self.general.general;
        let own = self.general.users.get(user);
        PoolSettings {
            limits: Limits {
                size: own.and_then(|u: &User| u.pool_size).unwrap_or(self.config.pool_size) as usize,
                reserve: own.and_then(|u| u.reserve_pool_size).unwrap_or(self.config.reserve_pool_size) as usize,
                round_robin: general.server_round_robin,
            },
            reserve_after: general.reserve_pool_timeout,
            min_size: if purpose == Purpose::Clients { self.config.min_pool_size as usize } else { 0 },
            login: self.login_settings(),
            login_retry: general.server_login_retry,
            idle_timeout: general.server_idle_timeout,
            lifetime: self.config.server_lifetime,
            reset_query: general.server_reset_query.clone(),
            check: pool::Check::of(&general.server_check_query, general.server_check_delay),
            cancel_timeout: general.cancel_wait_timeout,
            load_balance: self.config.load_balance_hosts,
            logs: Arc::clone(&self.shares.logs),
        }
    }

    /// What the connections to servers as `server_user` count for, with the limits of now.
    fn shares_of(&self, server_user: &str) -> Vec<Arc<Share>> {
        let own_most = self.general.users.get(server_user).and_then(|u| u.max_user_connections);
        vec![
            self.shares.database(&self.config.name, self.config.max_db_connections),
            self.shares.user(server_user, own_most.unwrap_or(self.general.general.max_user_connections)),
        ]
    }

    fn mode_of(&self, user: &str) -> PoolMode {
        self.general.users.get(user).and_then(|user| user.pool_mode).unwrap_or(self.config.pool_mode)
    }

    fn make(&self, user: &str, credential: ServerCredential, purpose: Purpose) -> UserPools {
        let server_user = self.config.user.clone().unwrap_or_else(|| user.to_owned());
        UserPools {
            id: NEXT_POOLS.fetch_add(1, Ordering::Relaxed),
            user: user.to_owned(),
            mode: self.mode_of(user),
            welcome: Mutex::default(),
            server_utf8: AtomicBool::new(false),
            catalog: Mutex::default(),
            looking_up: tokio::sync::Mutex::default(),
            readings: Mutex::default(),
            weighing: tokio::sync::Mutex::default(),
            told: Mutex::default(),
            replaced: AtomicBool::new(false),
            purpose,
            credential,
            shares: self.shares_of(&server_user),
            server_user,
            settings: ArcSwap::from_pointee(self.pool_settings(user, purpose)),
            pools: self.config.shards.iter().map(|s| s.servers.iter().map(|_| OnceLock::new()).collect()).collect(),
        }
    }

    /// The pool to a server.
    #[must_use]
    pub fn pool(&self, pools: &UserPools, shard: ShardIndex, server: ServerIndex) -> Option<Arc<Pool>> {
        let cell = pools.pools.get(usize::from(shard.0))?.get(usize::from(server.0))?;
        let config = self.config.shards.get(usize::from(shard.0))?.servers.get(usize::from(server.0))?;
        let health = self.health.get(usize::from(shard.0))?.server(server)?;
        let pool = cell.get_or_init(|| {
            let key = PoolKey { database: self.config.name.clone(), user: pools.user.clone(), shard, server };
            let generations = (pools.purpose == Purpose::Clients).then(|| self.shares.pool(&key));
            let (parameters, connect_query) = match pools.purpose {
                Purpose::Clients => (self.config.startup.parameters(), self.config.connect_query.clone()),
                // Names go and come as clients send them, whatever else is set for the database.
                Purpose::Passwords => (vec![("client_encoding".to_owned(), "UTF8".to_owned())], None),
            };
            let target = Target {
                host: config.host.clone(),
                port: config.port,
                dbname: config.dbname.clone(),
                user: pools.server_user.clone(),
                credential: pools.credential.clone(),
                derived: Derived::default(),
                parameters,
                connect_query,
            };
            let (settings, shares) = (PoolSettings::clone(&pools.settings.load()), (pools.shares.clone(), generations));
            let pool = Pool::new(key, target, settings, Arc::clone(health), shares);
            if self.is_paused() {
                pool.pause();
            }
            pool
        });
        Some(Arc::clone(pool))
    }

    /// Whether statements wait for RESUME, of the database or of all.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire) || self.held.load(Ordering::Acquire)
    }

    /// Whether an operator has said something of it alone that holds until he takes it back: PAUSE, KILL or DISABLE.
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.paused.load(Ordering::Acquire) || self.disabled.load(Ordering::Acquire)
    }

    /// Takes over what operators have said of the database whose place it takes: a reload is no RESUME and no ENABLE.
    pub fn stays_told(&self, old: &Self) {
        for (new, old) in [(&self.paused, &old.paused), (&self.held, &old.held), (&self.disabled, &old.disabled)] {
            new.store(old.load(Ordering::Acquire), Ordering::Release);
        }
    }

    /// Every pool there is.
    #[must_use]
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        let mut all = Vec::new();
        for users in [&self.users, &self.auth] {
            for user in users.lock().values() {
                user.each(&mut |pool| all.push(Arc::clone(pool)));
            }
        }
        self.left.lock().iter().for_each(|user| user.each(&mut |pool| all.push(Arc::clone(pool))));
        all
    }

    /// Whether it has no connection and nobody waits for one.
    fn is_empty(&self) -> bool {
        self.pools().iter().all(|pool| pool.is_empty())
    }

    /// Every user of clients there are pools for.
    #[must_use]
    pub fn users(&self) -> Vec<Arc<UserPools>> {
        self.users.lock().values().cloned().collect()
    }

    /// Where statements of `user` go that say nothing themselves.
    #[must_use]
    pub fn route(&self, user: &str) -> RouteHint {
        self.general.users.get(user).and_then(|u| u.route).unwrap_or(self.config.route)
    }

    /// Role that a server is configured for.
    #[must_use]
    pub fn role(&self, shard: ShardIndex, server: ServerIndex) -> Role {
        let shard = self.config.shards.get(usize::from(shard.0));
        shard.and_then(|s| s.servers.get(usize::from(server.0))).map_or(Role::Primary, |s| s.role)
    }
}

impl UserPools {
    /// Whether its connections count for a limit that several pools share, and the least of such limits.
    #[must_use]
    pub fn shared_limit(&self) -> Option<usize> {
        self.shares.iter().filter_map(|share| share.quota.most()).min()
    }

    /// The turns to be taken, in this order, by who takes connections of several of these pools: one for each limit that they share.
    #[must_use]
    pub fn turns(&self) -> Vec<Arc<tokio::sync::Mutex<()>>> {
        let limited = self.shares.iter().filter(|share| share.quota.most().is_some());
        limited.map(|share| Arc::clone(&share.turn)).collect()
    }

    /// Whether the user has others now, which [`LiveDatabase::adopt`] gives.
    #[must_use]
    pub fn is_replaced(&self) -> bool {
        self.replaced.load(Ordering::Acquire)
    }

    /// What the servers of `old` said at login is what those of these will say, as far as anybody can tell.
    fn is_known_from(&self, old: &Self) {
        self.server_utf8.store(old.server_utf8.load(Ordering::Acquire), Ordering::Release);
        self.welcome.lock().before = old.welcome.lock().last_known().cloned();
    }

    fn each(&self, f: &mut dyn FnMut(&Arc<Pool>)) {
        self.pools.iter().flatten().filter_map(OnceLock::get).for_each(f);
    }
}

fn all_checked(epochs: &[u64], epoch: u64, shards: usize) -> bool {
    epochs.len() >= shards && epochs.iter().all(|checked| *checked >= epoch)
}

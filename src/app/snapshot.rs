//! A picture of the process, for the console, the metrics and the health pages.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::client::database::{Live, LiveDatabase};
use crate::client::shared::{Activity, ClientHandle};
use crate::clock;
use crate::config::{PoolMode, Role, settings};
use crate::health::breaker;
use crate::health::server::ServerSnapshot;
use crate::health::view::Duty;
use crate::id::{ClientId, ConnectionId};
use crate::metrics::counters::Counts;
use crate::metrics::describe;
use crate::metrics::snapshot::{
    BreakerState, ClientSnapshot, ClientState, ClientStates, ConnectionSnapshot, DatabaseSnapshot, Detail, DnsHost,
    DnsSnapshot, DnsZone, Endpoint, LoginSnapshot, PoolSnapshot, Readiness, ReplicaSnapshot, ServerConnectionSnapshot,
    ServerState, ServerStates, Setting, ShardSnapshot, Snapshot, SnapshotSource, State as ProcessState, StatsSnapshot,
    UserSnapshot,
};
use crate::net::dns::Picture;
use crate::net::dns::cache::{HostRow, ZoneRow};
use crate::pool::ledger::{Counts as Slots, SlotState};
use crate::pool::{ConnectionInfo, Pool};
use crate::wire::startup::Replication;

use super::state::State;

impl SnapshotSource for State {
    fn snapshot(&self, detail: Detail) -> Snapshot {
        let live = self.shared.live.load_full();
        let databases = self.databases();
        let state = self.process_state();
        let shards: Vec<ShardSnapshot> = live.all().iter().flat_map(|db| shards(db)).collect();
        let replicas = replicas(&live);
        let (clients, servers) = match detail {
            Detail::Summary => (Vec::new(), Vec::new()),
            Detail::Full => self.connections(&live, &databases),
        };
        let shared = &self.shared;
        Snapshot {
            taken_at: clock::wall(),
            uptime: clock::now().saturating_duration_since(shared.started),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state,
            readiness: Readiness::judge(state, &shards, &replicas),
            databases: live.all().iter().map(|db| database(db)).collect(),
            pools: pools(&databases),
            logins: self.logins(),
            clients_logging_in: shared.logging_in.load(Ordering::Relaxed),
            clients,
            servers,
            users: users(&live),
            replicas,
            shards,
            stats: self.stats(&live),
            overall_averages: self.averages.lock().overall(),
            settings: settings::show_config(&live.config).into_iter().map(Setting::from).collect(),
            refused: shared.refused.lock().iter().map(|(reason, n)| (*reason, *n)).collect(),
            retried: shared.retried.lock().iter().map(|(reason, n)| (*reason, *n)).collect(),
            routes: live.all().iter().flat_map(|db| db.routes.counts(&db.config.name).collect::<Vec<_>>()).collect(),
            pins: shared.pinned.lock().iter().map(|(reason, n)| (*reason, *n)).collect(),
            prepared_statements: shared.registry.len() as u64,
            cancel_requests: cancel_requests(&databases),
            reloads: *self.reloads.lock(),
            dns: dns(live.dns.picture()),
        }
    }
}

fn dns(picture: Picture) -> DnsSnapshot {
    let Picture { hosts, zones, queries, pending, found, no_name, trouble, gone } = picture;
    let host = |h: HostRow| DnsHost { name: h.name, ttl: h.ttl, addresses: h.addresses };
    let zone = |z: ZoneRow| DnsZone { name: z.name, serial: z.serial, names: count(z.names) };
    DnsSnapshot {
        hosts: hosts.into_iter().map(host).collect(),
        zones: zones.into_iter().map(zone).collect(),
        queries,
        pending,
        lookups: [("found", found), ("no_name", no_name), ("trouble", trouble)],
        gone,
    }
}

/// The shards of a database and what their checks have found.
fn shards(database: &LiveDatabase) -> Vec<ShardSnapshot> {
    let checks = database.checks().into_iter().map(Some).chain(std::iter::repeat(None));
    let shards = describe::shards(&database.config);
    shards.into_iter().zip(checks).map(|(shard, check)| ShardSnapshot { check, ..shard }).collect()
}

impl State {
    fn process_state(&self) -> ProcessState {
        if self.shared.draining.load(Ordering::Acquire) {
            ProcessState::Draining
        } else if self.paused.load(Ordering::Acquire) {
            ProcessState::Paused
        } else {
            ProcessState::Active
        }
    }

    fn logins(&self) -> Vec<LoginSnapshot> {
        let mut logins: BTreeMap<(String, String), u32> = BTreeMap::new();
        for client in &self.shared.clients {
            *logins.entry((client.database.to_string(), client.user.to_string())).or_default() += 1;
        }
        let entry = |((database, user), clients)| LoginSnapshot { database, user, clients };
        logins.into_iter().map(entry).collect()
    }

    fn stats(&self, live: &Live) -> Vec<StatsSnapshot> {
        let mut totals = self.totals();
        for database in live.all() {
            totals.entry(database.config.name.clone()).or_default();
        }
        let averages = self.averages.lock();
        let entry =
            |(database, totals): (String, Counts)| StatsSnapshot { averages: averages.of(&database), database, totals };
        totals.into_iter().map(entry).collect()
    }

    fn connections(
        &self,
        live: &Live,
        databases: &[Arc<LiveDatabase>],
    ) -> (Vec<ClientSnapshot>, Vec<ServerConnectionSnapshot>) {
        let port = live.config.general.listen_port;
        let now = Moment { instant: clock::now(), wall: clock::wall(), started: self.shared.started };
        let mut lent: HashMap<ConnectionId, (ClientId, String)> = HashMap::new();
        let mut clients = Vec::new();
        for handle in &self.shared.clients {
            let server = handle.link().map(|(pool, slot)| self.connection_id(&pool, slot));
            if let Some(id) = server {
                lent.insert(id, (handle.id, handle.application_name.lock().clone()));
            }
            clients.push(client(&handle, server, port, &now));
        }
        clients.sort_by_key(|c| c.id);
        let mut servers = Vec::new();
        for pool in databases.iter().flat_map(|db| db.pools()) {
            for info in pool.connections() {
                let id = self.connection_id(&pool, info.slot);
                servers.push(server(&pool, &info, id, lent.get(&id), &now));
            }
        }
        servers.sort_by_key(|s| s.id);
        (clients, servers)
    }
}

/// One moment on both clocks.
struct Moment {
    instant: Instant,
    wall: Duration,
    started: Instant,
}

impl Moment {
    fn wall_of(&self, instant: Instant) -> Duration {
        self.wall.saturating_sub(self.instant.saturating_duration_since(instant))
    }
}

fn database(db: &LiveDatabase) -> DatabaseSnapshot {
    let paused = db.paused.load(Ordering::Acquire);
    let disabled = db.disabled.load(Ordering::Acquire);
    DatabaseSnapshot { paused, disabled, ..describe::database(&db.config) }
}

/// Users who can log in and users with overrides.
fn users(live: &Live) -> Vec<UserSnapshot> {
    let mut users: BTreeMap<&str, UserSnapshot> = BTreeMap::new();
    for name in live.users.keys() {
        users.insert(name, UserSnapshot { name: name.clone(), ..UserSnapshot::default() });
    }
    for (name, user) in &live.config.users {
        users.insert(name, describe::user(name, user));
    }
    users.into_values().collect()
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn states(c: &Slots) -> ServerStates {
    ServerStates {
        // The ledger counts the active ones with those whose statement is being cancelled apart.
        active: count(c.active),
        active_cancel: count(c.active_cancel),
        being_canceled: count(c.being_canceled),
        idle: count(c.idle.saturating_sub(c.rested)),
        used: count(c.rested),
        tested: count(c.resetting + c.testing),
        login: count(c.login),
    }
}

/// One entry per (database, user, shard, server): where a reload has replaced a pool, the old and the new one are one entry, for
/// metrics must not name the same thing twice.
fn pools(databases: &[Arc<LiveDatabase>]) -> Vec<PoolSnapshot> {
    let mut all: BTreeMap<(String, String, String, String), PoolSnapshot> = BTreeMap::new();
    for db in databases {
        let modes: HashMap<String, PoolMode> = db.users().iter().map(|u| (u.user.clone(), u.mode)).collect();
        for pool in db.pools() {
            let Some(one) = self::pool(db, &pool, &modes) else { continue };
            let key = (one.database.clone(), one.user.clone(), one.shard.clone(), one.server.clone());
            match all.get_mut(&key) {
                None => drop(all.insert(key, one)),
                Some(sum) => {
                    sum.servers += one.servers;
                    sum.clients += one.clients;
                    sum.max_wait = sum.max_wait.max(one.max_wait);
                    sum.totals += one.totals;
                    sum.query_time += one.query_time;
                    sum.wait_time += one.wait_time;
                    sum.prepared_statements = sum.prepared_statements.saturating_add(one.prepared_statements);
                }
            }
        }
    }
    all.into_values().collect()
}

fn pool(db: &LiveDatabase, pool: &Pool, modes: &HashMap<String, PoolMode>) -> Option<PoolSnapshot> {
    let shard = db.config.shards.get(usize::from(pool.key.shard.0))?;
    let server = shard.servers.get(usize::from(pool.key.server.0))?;
    let counts = pool.counts();
    Some(PoolSnapshot {
        database: pool.key.database.clone(),
        user: pool.key.user.clone(),
        shard: shard.name.clone(),
        server: describe::address(server),
        role: server.role,
        pool_mode: modes.get(&pool.key.user).copied().unwrap_or(db.config.pool_mode),
        servers: states(&counts),
        clients: ClientStates {
            // A server is lent to one client each.
            active: count(counts.active.saturating_add(counts.active_cancel)),
            waiting: count(counts.waiting),
            active_cancel_req: count(counts.active_cancel.saturating_add(counts.being_canceled)),
            waiting_cancel_req: 0,
        },
        max_wait: pool.oldest_wait(),
        totals: pool.counters.totals.snapshot(),
        query_time: pool.counters.query_time.snapshot(),
        wait_time: pool.counters.wait_time.snapshot(),
        prepared_statements: 0,
    })
}

fn cancel_requests(databases: &[Arc<LiveDatabase>]) -> u64 {
    let pools = databases.iter().flat_map(|db| db.pools());
    pools.map(|pool| pool.counters.cancel_requests.load(Ordering::Relaxed)).sum()
}

fn replicas(live: &Live) -> Vec<ReplicaSnapshot> {
    let now = clock::now();
    let mut all = Vec::new();
    for db in live.all() {
        let pools = db.pools();
        for (at, (shard, health)) in db.config.shards.iter().zip(&db.health).enumerate() {
            for (server, seen) in shard.servers.iter().zip(health.snapshots(now)) {
                let ours = pools.iter().filter(|p| usize::from(p.key.shard.0) == at && p.key.server == seen.index);
                let assigned: u64 = ours.map(|p| p.counters.totals.snapshot().server_assignment_count).sum();
                all.push(ReplicaSnapshot {
                    database: db.config.name.clone(),
                    shard: shard.name.clone(),
                    host: describe::host(&server.host),
                    port: server.port,
                    writes: assigned.saturating_sub(seen.reads),
                    ..replica(seen)
                });
            }
        }
    }
    all
}

/// What the health of a server says; where it is, and its writes, are left to the caller.
fn replica(seen: ServerSnapshot) -> ReplicaSnapshot {
    ReplicaSnapshot {
        database: String::new(),
        shard: String::new(),
        host: String::new(),
        port: 0,
        role: if seen.duty == Duty::Primary { Role::Primary } else { Role::Replica },
        state: seen.standing.as_str(),
        weight: seen.weight,
        effective_weight: seen.effective_weight,
        latency: seen.latency,
        lag_bytes: seen.lag_bytes,
        lag: seen.lag,
        in_flight: seen.in_flight,
        unreachable: seen.unreachable,
        breaker: match seen.breaker {
            breaker::BreakerState::Closed => BreakerState::Closed,
            breaker::BreakerState::HalfOpen => BreakerState::HalfOpen,
            breaker::BreakerState::Open => BreakerState::Open,
        },
        last_error_age: seen.last_error.as_ref().map(|(_, age)| *age),
        last_error: seen.last_error.map(|(message, _)| message),
        reads: seen.reads,
        writes: 0,
    }
}

fn endpoint(address: Option<SocketAddr>, port: u16) -> Endpoint {
    match address {
        Some(address) => Endpoint { addr: address.ip().to_string(), port: address.port() },
        None => Endpoint { addr: "unix".to_owned(), port },
    }
}

fn client(c: &ClientHandle, server: Option<ConnectionId>, port: u16, now: &Moment) -> ClientSnapshot {
    let waits_since = match c.waits_since_us.load(Ordering::Relaxed) {
        0 => None,
        us => Some(Duration::from_micros(us)),
    };
    let uptime = now.instant.saturating_duration_since(now.started);
    ClientSnapshot {
        id: c.id,
        state: match c.activity() {
            Activity::Idle => ClientState::Idle,
            Activity::Waiting => ClientState::Waiting,
            Activity::Active => ClientState::Active,
        },
        wait: waits_since.map_or(Duration::ZERO, |since| uptime.saturating_sub(since)),
        server,
        connection: ConnectionSnapshot {
            user: c.user.to_string(),
            database: c.database.to_string(),
            replication: c.replication.map(Replication::as_str),
            remote: endpoint(c.addresses.map(|a| a.0), port),
            local: endpoint(c.addresses.map(|a| a.1), port),
            connected_at: c.connected,
            requested_at: match c.requested_us.load(Ordering::Relaxed) {
                0 => c.connected,
                us => Duration::from_micros(us),
            },
            close_needed: false,
            remote_pid: None,
            tls: c.tls.map(|tls| tls.to_string()).unwrap_or_default(),
            application_name: c.application_name.lock().clone(),
            prepared_statements: c.prepared.load(Ordering::Relaxed),
        },
    }
}

fn server(
    pool: &Pool,
    info: &ConnectionInfo,
    id: ConnectionId,
    lent: Option<&(ClientId, String)>,
    now: &Moment,
) -> ServerConnectionSnapshot {
    ServerConnectionSnapshot {
        id,
        state: match info.state {
            SlotState::Idle if pool.settings.check.as_ref().is_some_and(|c| c.is_due(info.since)) => ServerState::Used,
            SlotState::Login => ServerState::New,
            SlotState::Idle => ServerState::Idle,
            SlotState::Active => ServerState::Active,
            SlotState::BeingCanceled => ServerState::BeingCanceled,
            SlotState::Resetting | SlotState::Testing => ServerState::Tested,
        },
        client: lent.map(|(client, _)| *client),
        connection: ConnectionSnapshot {
            user: pool.key.user.clone(),
            database: pool.key.database.clone(),
            replication: None,
            remote: endpoint(info.peer, pool.target.port),
            local: endpoint(info.local, pool.target.port),
            connected_at: now.wall_of(info.created.unwrap_or(info.since)),
            requested_at: now.wall_of(info.since),
            close_needed: info.close_needed,
            remote_pid: Some(info.pid),
            tls: info.tls.map(|tls| tls.to_string()).unwrap_or_default(),
            application_name: lent.map(|(_, name)| name.clone()).unwrap_or_default(),
            prepared_statements: 0,
        },
    }
}

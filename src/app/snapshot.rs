//! A picture of the process, for the console, the metrics and the health pages.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::client::console;
use crate::client::database::{Live, LiveDatabase};
use crate::client::shared::{Activity, Canceling, ClientHandle, Order, Shared};
use crate::clock;
use crate::config::{Peer, PoolMode, Role, settings};
use crate::health::breaker;
use crate::health::members::MemberRole;
use crate::health::server::ServerSnapshot;
use crate::health::view::Duty;
use crate::id::{ClientId, ConnectionId, PeerId};
use crate::metrics::counters::Counts;
use crate::metrics::describe;
use crate::metrics::report::{Report, Settings, SocketReport, shortened};
use crate::metrics::snapshot::{
    BreakerState, ClientSnapshot, ClientState, ClientStates, ConnectionSnapshot, ConsoleSnapshot, DatabaseSnapshot,
    Detail, DnsHost, DnsSnapshot, DnsZone, Endpoint, LoginSnapshot, PeerSnapshot, PoolSnapshot, Readiness,
    ReplicaSnapshot, ServerConnectionSnapshot, ServerState, ServerStates, Setting, ShardSnapshot, Snapshot,
    SnapshotSource, State as ProcessState, StatementSnapshot, StatsSnapshot, UserSnapshot,
};
use crate::net::dns::Picture;
use crate::net::dns::cache::{HostRow, ZoneRow};
use crate::pool::ledger::{Counts as Slots, SlotState};
use crate::pool::{ConnectionInfo, Pool};
use crate::session::prepared::Statement;
use crate::wire::startup::Replication;

use super::memory;
use super::state::State;

impl SnapshotSource for State {
    fn snapshot(&self, detail: Detail) -> Snapshot {
        self.picture(detail, &HashMap::new())
    }
}

impl State {
    /// The state now, with what clients have told of themselves.
    #[must_use]
    pub fn picture(&self, detail: Detail, reports: &HashMap<ClientId, Report>) -> Snapshot {
        let live = self.shared.live.load_full();
        let databases = self.databases();
        let shards: Vec<ShardSnapshot> = live.all().iter().flat_map(|db| shards(db)).collect();
        let replicas = replicas(&live);
        let mut picture = self.summary(&live, &databases, shards, replicas);
        match detail {
            Detail::Summary => {}
            Detail::Statements => picture.statements = statements(&self.shared),
            Detail::Full => {
                (picture.clients, picture.servers) = self.connections(&live, &databases, reports);
                picture.visitors = self.visitors(&live);
                picture.cancels = self.cancels(&live);
                picture.listeners.clone_from(&self.listeners.lock());
                picture.memory = memory::of(self, &databases, &picture.clients, &picture.servers);
            }
        }
        picture
    }

    fn summary(
        &self,
        live: &Live,
        databases: &[Arc<LiveDatabase>],
        shards: Vec<ShardSnapshot>,
        replicas: Vec<ReplicaSnapshot>,
    ) -> Snapshot {
        let (shared, state) = (&self.shared, self.process_state());
        let cancels = count(shared.cancels.len());
        let logins = self.logins();
        let users = users(live, &logins);
        Snapshot {
            taken_at: clock::wall(),
            uptime: clock::now().saturating_duration_since(shared.started),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state,
            readiness: Readiness::judge(state, &shards, &replicas),
            databases: live.all().iter().map(|db| database(db)).collect(),
            pools: pools(databases),
            logins,
            clients_logging_in: shared.logging_in.load(Ordering::Relaxed),
            console: self.console(live, cancels),
            users,
            replicas,
            shards,
            stats: self.stats(live),
            overall_averages: self.averages.lock().overall(),
            settings: settings::show_config(&live.config).into_iter().map(Setting::from).collect(),
            refused: shared.refused.lock().iter().map(|(reason, n)| (*reason, *n)).collect(),
            recovered: shared.recovered.lock().iter().map(|(outcome, n)| (*outcome, *n)).collect(),
            retried: shared.retried.lock().iter().map(|(reason, n)| (*reason, *n)).collect(),
            plans: live.all().iter().flat_map(|db| db.plans.counts(&db.config.name).collect::<Vec<_>>()).collect(),
            routes: live.all().iter().flat_map(|db| db.routes.counts(&db.config.name).collect::<Vec<_>>()).collect(),
            pins: shared.pinned.lock().iter().map(|(reason, n)| (*reason, n.total, n.now)).collect(),
            listening: shared.hubs.counts(),
            prepared_statements: shared.registry.len() as u64,
            cancel_requests: shared.cancel_requests.load(Ordering::Relaxed),
            failed_logins: shared.failed_logins.lock().iter().map(|(reason, n)| (*reason, *n)).collect(),
            turned_away: shared.turned_away.lock().iter().map(|(limit, n)| (*limit, *n)).collect(),
            timeouts: shared.timeouts.lock().iter().map(|(limit, n)| (*limit, *n)).collect(),
            peers: peers(live),
            peer_cancel_requests: if live.config.general.peer().is_some() {
                shared.passed_on.counts().collect()
            } else {
                Vec::new()
            },
            reloads: *self.reloads.lock(),
            dns: dns(live.dns.picture()),
            ..Snapshot::default()
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
        if self.shared.draining.load(Ordering::Acquire) || self.shared.handed_over.load(Ordering::Acquire) {
            ProcessState::Draining
        } else if self.shared.is_suspended() {
            ProcessState::Suspended
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
        reports: &HashMap<ClientId, Report>,
    ) -> (Vec<ClientSnapshot>, Vec<ServerConnectionSnapshot>) {
        let port = live.config.general.listen_port;
        let now = Moment::now(self);
        let mut lent: HashMap<ConnectionId, Borrower> = HashMap::new();
        let mut clients = Vec::new();
        for handle in &self.shared.clients {
            let used: Vec<_> = handle.links().iter().map(|(pool, slot)| self.connection_id(pool, *slot)).collect();
            let server = used.first().copied();
            let report = reports.get(&handle.id);
            for id in used {
                let application_name = handle.application_name.lock().to_string();
                let socket = report.and_then(|report| report.server.clone());
                let replication = handle.replication.map(Replication::as_str);
                lent.insert(id, Borrower { client: handle.id, application_name, socket, replication });
            }
            clients.push(ClientSnapshot { report: report.cloned(), ..client(&handle, server, port, &now) });
        }
        clients.sort_by_key(|c| c.id);
        let mut servers = Vec::new();
        for pool in databases.iter().flat_map(|db| db.pools()) {
            for info in pool.connections() {
                let id = self.connection_id(&pool, info.slot);
                servers.push(server(&pool, info, id, lent.remove(&id), &now));
            }
        }
        servers.sort_by_key(|s| s.id);
        (clients, servers)
    }

    /// Who is at the console. PgBouncer's word for them is `idle`, whatever they do: they have no server.
    fn visitors(&self, live: &Live) -> Vec<ClientSnapshot> {
        let (port, now) = (live.config.general.listen_port, Moment::now(self));
        let visitor = |handle: &ClientHandle| ClientSnapshot {
            state: ClientState::Idle,
            wait: Duration::ZERO,
            ..client(handle, None, port, &now)
        };
        let mut visitors: Vec<_> = self.shared.visitors.iter().map(|handle| visitor(&handle)).collect();
        visitors.sort_by_key(|c| c.id);
        visitors
    }

    /// Cancel requests on their way. Who sends one does not say who it is.
    fn cancels(&self, live: &Live) -> Vec<ClientSnapshot> {
        let port = live.config.general.listen_port;
        let cancel = |(id, cancel): (ClientId, &Canceling)| {
            let sent = cancel.sent.load(Ordering::Relaxed);
            let wait = if sent { Duration::ZERO } else { clock::wall().saturating_sub(cancel.since) };
            ClientSnapshot {
                id,
                state: if sent { ClientState::ActiveCancel } else { ClientState::WaitingCancel },
                wait,
                server: None,
                pid: 0,
                report: None,
                connection: ConnectionSnapshot {
                    user: NOBODY.to_owned(),
                    database: cancel.target.database.to_string(),
                    replication: None,
                    remote: endpoint(cancel.addresses.map(|a| a.0), port),
                    local: endpoint(cancel.addresses.map(|a| a.1), port),
                    connected_at: cancel.since,
                    requested_at: cancel.since,
                    close_needed: false,
                    remote_pid: None,
                    tls: String::new(),
                    application_name: String::new(),
                    prepared_statements: 0,
                },
            }
        };
        let mut cancels: Vec<_> =
            self.shared.cancels.iter().map(|entry| cancel((*entry.key(), entry.value()))).collect();
        cancels.sort_by_key(|c| c.id);
        cancels
    }

    fn console(&self, live: &Live, cancels: u32) -> ConsoleSnapshot {
        ConsoleSnapshot {
            clients: count(self.shared.visitors.len()),
            port: live.config.general.listen_port,
            cancels,
            totals: self.console_totals(),
            averages: self.averages.lock().of(console::NAME),
        }
    }
}

/// As PgBouncer shows the user of a connection that has none.
const NOBODY: &str = "(nouser)";

/// Who has a server connection.
struct Borrower {
    client: ClientId,
    application_name: String,
    socket: Option<SocketReport>,
    /// Whether its client has a WAL sender, and which.
    replication: Option<&'static str>,
}

fn statements(shared: &Shared) -> Vec<StatementSnapshot> {
    let one = |(statement, uses): (Arc<Statement>, usize)| StatementSnapshot {
        name: statement.server_name().to_owned(),
        uses: uses as u64,
        types: statement.oids(),
        text: shortened(&statement.sql),
    };
    shared.registry.all().into_iter().map(one).collect()
}

/// One moment on both clocks.
struct Moment {
    instant: Instant,
    wall: Duration,
    started: Instant,
}

impl Moment {
    fn now(state: &State) -> Self {
        Self { instant: clock::now(), wall: clock::wall(), started: state.shared.started }
    }

    fn wall_of(&self, instant: Instant) -> Duration {
        self.wall.saturating_sub(self.instant.saturating_duration_since(instant))
    }
}

fn database(db: &LiveDatabase) -> DatabaseSnapshot {
    let paused = db.is_paused();
    let disabled = db.disabled.load(Ordering::Acquire);
    DatabaseSnapshot { paused, disabled, ..describe::database(&db.config) }
}

/// Users who can log in, users with overrides, and who is logged in without being listed (`auth_query` knows him); limits that they do
/// not have themselves are those of all.
fn users(live: &Live, logins: &[LoginSnapshot]) -> Vec<UserSnapshot> {
    let general = &live.config.general;
    let plain = |name: &str| UserSnapshot {
        name: name.to_owned(),
        max_connections: general.max_user_connections,
        max_client_connections: general.max_user_client_connections,
        ..UserSnapshot::default()
    };
    let names = live.users.keys().chain(logins.iter().map(|login| &login.user));
    let mut users: BTreeMap<&str, UserSnapshot> = names.map(|name| (&**name, plain(name))).collect();
    for (name, user) in &live.config.users {
        let own = describe::user(name, user);
        let max_connections = user.max_user_connections.unwrap_or(general.max_user_connections);
        let max_client_connections = user.max_user_client_connections.unwrap_or(general.max_user_client_connections);
        users.insert(name, UserSnapshot { max_connections, max_client_connections, ..own });
    }
    users.into_values().collect()
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// `cancels`: connections that carry a cancel request, beside the slots.
fn states(c: &Slots, cancels: u32) -> ServerStates {
    ServerStates {
        // Those whose statement is being cancelled are with their client as long as it has not ended.
        active: count(c.active.saturating_add(c.active_cancel)),
        active_cancel: cancels,
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
                    sum.resets = sum.resets.saturating_add(one.resets);
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
    let sent = pool.counters.cancels_sent.load(Ordering::Relaxed);
    Some(PoolSnapshot {
        database: pool.key.database.clone(),
        user: pool.key.user.clone(),
        shard: shard.name.clone(),
        server: describe::address(server),
        role: server.role,
        pool_mode: modes.get(&pool.key.user).copied().unwrap_or(db.config.pool_mode),
        servers: states(&counts, sent),
        clients: ClientStates {
            // A server is lent to one client each.
            active: count(counts.active.saturating_add(counts.active_cancel)),
            waiting: count(counts.waiting),
            active_cancel_req: sent,
            waiting_cancel_req: pool.counters.cancels_waiting.load(Ordering::Relaxed),
        },
        max_wait: pool.oldest_wait(),
        totals: pool.counters.totals.snapshot(),
        query_time: pool.counters.query_time.snapshot(),
        resets: pool.counters.resets.load(Ordering::Relaxed),
        wait_time: pool.counters.wait_time.snapshot(),
        prepared_statements: pool.prepared_statements(),
    })
}

fn peers(live: &Live) -> Vec<PeerSnapshot> {
    let size = live.config.general.default_pool_size;
    let peer = |(id, peer): (&PeerId, &Peer)| PeerSnapshot {
        id: *id,
        host: describe::host(&peer.host),
        port: peer.port,
        pool_size: peer.pool_size.unwrap_or(size),
        requests: live.peers.requests(*id),
    };
    live.config.peers.iter().map(peer).collect()
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
        timeline: seen.timeline,
        patroni: seen.member.map(MemberRole::as_str),
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
        pid: c.pid,
        report: None,
        connection: ConnectionSnapshot {
            user: c.user.to_string(),
            database: c.database.to_string(),
            replication: c.replication.map(Replication::as_str),
            remote: endpoint(c.addresses().map(|a| a.0), port),
            local: endpoint(c.addresses().map(|a| a.1), port),
            connected_at: c.connected(),
            requested_at: match c.requested_us.load(Ordering::Relaxed) {
                0 => c.connected(),
                us => now.wall.saturating_sub(uptime.saturating_sub(Duration::from_micros(us))),
            },
            close_needed: matches!(c.standing_order(), Order::Drain | Order::Kill),
            remote_pid: c.peer_pid,
            tls: c.tls.map(|tls| tls.to_string()).unwrap_or_default(),
            application_name: c.application_name.lock().to_string(),
            prepared_statements: c.prepared.load(Ordering::Relaxed),
        },
    }
}

fn server(
    pool: &Pool,
    info: ConnectionInfo,
    id: ConnectionId,
    lent: Option<Borrower>,
    now: &Moment,
) -> ServerConnectionSnapshot {
    let reported = |name: &str| {
        let settings = info.resting.iter().flat_map(|resting| &resting.settings);
        settings.clone().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    };
    let resting = info.resting.as_ref().map(|resting| SocketReport {
        descriptor: resting.descriptor,
        received: resting.unread as u64,
        unread: resting.unread as u64,
        memory: resting.memory,
        settings: Settings::of(reported),
        ..SocketReport::default()
    });
    let application_name = match &lent {
        Some(borrower) => borrower.application_name.clone(),
        None => reported("application_name").unwrap_or_default().to_owned(),
    };
    let (remote, local) = if info.created.is_some() {
        (endpoint(info.peer, pool.target.port), endpoint(info.local, pool.target.port))
    } else {
        // Nothing stands yet: where it is to lead is all that is known.
        let remote = Endpoint { addr: describe::host(&pool.target.host), port: pool.target.port };
        (remote, Endpoint { addr: String::new(), port: 0 })
    };
    ServerConnectionSnapshot {
        id,
        state: match info.state {
            SlotState::Idle if pool.settings().check.as_ref().is_some_and(|c| c.is_due(info.since)) => {
                ServerState::Used
            }
            SlotState::Login => ServerState::New,
            SlotState::Idle => ServerState::Idle,
            SlotState::Active => ServerState::Active,
            SlotState::BeingCanceled => ServerState::BeingCanceled,
            SlotState::Resetting | SlotState::Testing => ServerState::Tested,
        },
        client: lent.as_ref().map(|borrower| borrower.client),
        connection: ConnectionSnapshot {
            user: pool.key.user.clone(),
            database: pool.key.database.clone(),
            replication: lent.as_ref().and_then(|borrower| borrower.replication),
            remote,
            local,
            connected_at: now.wall_of(info.created.unwrap_or(info.since)),
            requested_at: now.wall_of(info.since),
            close_needed: info.close_needed,
            remote_pid: Some(info.pid),
            tls: info.tls.map(|tls| tls.to_string()).unwrap_or_default(),
            application_name,
            prepared_statements: info.prepared,
        },
        socket: lent.and_then(|borrower| borrower.socket).or(resting),
    }
}

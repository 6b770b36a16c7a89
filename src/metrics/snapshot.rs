//! A picture of the whole process at one moment: plain data that the console, Prometheus and the health pages read.
//!
//! Whoever owns the live state fills it. Moments of wall time are durations since the Unix epoch. Nothing here ever holds
//! a password.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::counters::{Counts, HistogramSnapshot};
use super::report::{Report, SocketReport};
use crate::config::{LoadBalance, PoolMode, Role};
use crate::id::{ClientId, ConnectionId, PeerId};
use crate::shard::check::Check;
use crate::shard::map::ShardMap;

/// Gives snapshots to those who ask.
pub trait SnapshotSource: Send + Sync {
    /// The state now. `detail` says whether the lists of single connections are wanted.
    fn snapshot(&self, detail: Detail) -> Snapshot;
}

/// How much of a snapshot is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Detail {
    /// Everything but the lists of single things, which stay empty: enough for metrics and health, and its cost does not grow with the
    /// number of connections.
    Summary,
    /// With the connections, and the memory that all takes.
    Full,
    /// With the shared prepared statements.
    Statements,
}

/// The process at one moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Snapshot {
    /// Wall time since the Unix epoch.
    pub taken_at: Duration,
    /// Since the start of the process.
    pub uptime: Duration,
    /// pgweir's version, e.g. `0.1.0`.
    pub version: String,
    /// What the process as a whole is doing.
    pub state: State,
    /// Whether it should be given new clients; see [`Readiness::judge`].
    pub readiness: Readiness,
    /// The configured databases; the console is not one of them.
    pub databases: Vec<DatabaseSnapshot>,
    /// One per (database, user, shard, server).
    pub pools: Vec<PoolSnapshot>,
    /// Clients logged in, one entry per (database, user).
    pub logins: Vec<LoginSnapshot>,
    /// Clients that are connected but not logged in yet.
    pub clients_logging_in: u32,
    /// The console, which PgBouncer counts among the databases.
    pub console: ConsoleSnapshot,
    /// Every client ([`Detail::Full`] only).
    pub clients: Vec<ClientSnapshot>,
    /// Who is at the console ([`Detail::Full`] only).
    pub visitors: Vec<ClientSnapshot>,
    /// Cancel requests under way ([`Detail::Full`] only).
    pub cancels: Vec<ClientSnapshot>,
    /// Sockets that are listened on ([`Detail::Full`] only).
    pub listeners: Vec<ListenerSnapshot>,
    /// What takes memory ([`Detail::Full`] only).
    pub memory: Vec<MemorySnapshot>,
    /// The shared prepared statements ([`Detail::Statements`] only).
    pub statements: Vec<StatementSnapshot>,
    /// Every server connection ([`Detail::Full`] only).
    pub servers: Vec<ServerConnectionSnapshot>,
    /// The known users.
    pub users: Vec<UserSnapshot>,
    /// Every server, primaries included.
    pub replicas: Vec<ReplicaSnapshot>,
    /// Every shard; an unsharded database has one.
    pub shards: Vec<ShardSnapshot>,
    /// The tables of sharded databases (SHOW TABLES only: the shards are asked for it).
    pub tables: Vec<TableSnapshot>,
    /// Plans of statements on sharded databases since the start: the database, the kind (a short fixed word), and how many.
    pub plans: Vec<(String, &'static str, u64)>,
    /// Totals and averages, one entry per database. They outlive the pools that counted them.
    pub stats: Vec<StatsSnapshot>,
    /// Averages over all databases together: [`super::averages::Averages::overall`].
    pub overall_averages: Counts,
    /// The settings in force, as SHOW CONFIG lists them.
    pub settings: Vec<Setting>,
    /// Statements refused since the start, by reason (a short fixed word such as `cross_shard`, never client text).
    pub refused: Vec<(&'static str, u64)>,
    /// Segments that were tried again on another server since the start, by reason.
    pub retried: Vec<(&'static str, u64)>,
    /// Parts of transactions over several shards that were left behind and ended since the start, by outcome.
    pub recovered: Vec<(&'static str, u64)>,
    /// Choices of a server since the start: the database, why (a short fixed word), and how many.
    pub routes: Vec<(String, &'static str, u64)>,
    /// Sessions that kept a server for their state, by reason: ever, and now.
    pub pins: Vec<(&'static str, u64, u64)>,
    /// Clients that others listen for now, and the channels that are listened to for them.
    pub listening: (u64, u64),
    /// Shared prepared statements now known.
    pub prepared_statements: u64,
    /// Cancel requests that clients, or peers for theirs, sent since the start.
    pub cancel_requests: u64,
    /// Logins that failed since the start, by the class of the reason.
    pub failed_logins: Vec<(&'static str, u64)>,
    /// Logins refused because too many clients were there, since the start, by the limit.
    pub turned_away: Vec<(&'static str, u64)>,
    /// Clients whose time was up since the start, by the limit.
    pub timeouts: Vec<(&'static str, u64)>,
    /// The processes of `[peers]`, by their numbers; our own may be among them.
    pub peers: Vec<PeerSnapshot>,
    /// Cancel requests with keys that peers gave out, since the start: what became of them (a short fixed word), and how many.
    pub peer_cancel_requests: Vec<(&'static str, u64)>,
    /// Configuration reloads.
    pub reloads: Reloads,
    /// Names of servers.
    pub dns: DnsSnapshot,
}

/// What the resolver knows and has done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DnsSnapshot {
    /// The names that were looked up.
    pub hosts: Vec<DnsHost>,
    /// The zones that they are in.
    pub zones: Vec<DnsZone>,
    /// Look-ups under way.
    pub queries: u64,
    /// Look-ups that wait until there are fewer.
    pub pending: u64,
    /// Look-ups since the start, by how they ended: `found`, `no_name` or `trouble`.
    pub lookups: [(&'static str, u64); 3],
    /// Addresses that a name no longer had, since the start.
    pub gone: u64,
}

/// The name of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsHost {
    /// The name.
    pub name: String,
    /// How long what is known of it still holds.
    pub ttl: Duration,
    /// Its addresses; none if there are none.
    pub addresses: Vec<IpAddr>,
}

/// A zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsZone {
    /// Its name.
    pub name: String,
    /// Its serial number, once it was asked for.
    pub serial: Option<u32>,
    /// Known names in it.
    pub names: u32,
}

/// What the process as a whole is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum State {
    /// Serving.
    #[default]
    Active,
    /// PAUSE without a database: queries wait.
    Paused,
    /// SUSPEND.
    Suspended,
    /// Shutting down: no new clients.
    Draining,
}

impl State {
    /// Its word for the health pages and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Suspended => "suspended",
            Self::Draining => "draining",
        }
    }
}

/// Whether a load balancer should send clients here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It should; what cannot be reached all the same, a line each.
    Ready(Vec<String>),
    /// It should not; why, a line each.
    NotReady(Vec<String>),
}

impl Default for Readiness {
    fn default() -> Self {
        Self::Ready(Vec::new())
    }
}

impl Readiness {
    /// Not ready while the process is paused or draining, or while no shard of any database has a primary that takes traffic: one
    /// database that is down must not take the others away.
    #[must_use]
    pub fn judge(state: State, shards: &[ShardSnapshot], servers: &[ReplicaSnapshot]) -> Self {
        let mut reasons = Vec::new();
        if state != State::Active {
            reasons.push(format!("the process is {}", state.as_str()));
        }
        let mut any = shards.is_empty();
        for shard in shards {
            let reachable = servers.iter().any(|s| {
                s.database == shard.database
                    && s.shard == shard.name
                    && s.role == Role::Primary
                    && s.breaker != BreakerState::Open
                    && !s.unreachable
            });
            any |= reachable;
            if !reachable {
                reasons.push(format!(
                    "database \"{}\" has no reachable primary on shard \"{}\"",
                    shard.database, shard.name
                ));
            }
        }
        if any && state == State::Active { Self::Ready(reasons) } else { Self::NotReady(reasons) }
    }

    /// Whether it should.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready(_))
    }

    /// What is amiss, a line each.
    #[must_use]
    pub fn reasons(&self) -> &[String] {
        match self {
            Self::Ready(reasons) | Self::NotReady(reasons) => reasons,
        }
    }
}

/// The console as a database.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConsoleSnapshot {
    /// Who is logged in to it.
    pub clients: u32,
    /// The port it listens on.
    pub port: u16,
    /// Cancel requests are no clients of a database yet.
    pub cancels: u32,
    /// Its commands since the start.
    pub totals: Counts,
    /// Over the last full `stats_period`.
    pub averages: Counts,
}

/// A socket that is listened on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSnapshot {
    /// Its descriptor.
    pub descriptor: i32,
    /// Where it listens.
    pub local: Endpoint,
}

/// Things of one kind and the memory they take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemorySnapshot {
    /// What they are.
    pub name: &'static str,
    /// Bytes of one.
    pub size: u64,
    /// How many there are.
    pub used: u64,
    /// Bytes of all of them, with what they own.
    pub total: u64,
}

impl MemorySnapshot {
    /// `used` things that own nothing beside their `size`.
    #[must_use]
    pub fn of(name: &'static str, size: usize, used: usize) -> Self {
        let (size, used) = (size as u64, used as u64);
        Self { name, size, used, total: size.saturating_mul(used) }
    }
}

/// A shared prepared statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatementSnapshot {
    /// Its name on servers.
    pub name: String,
    /// How many clients, servers and requests under way hold it.
    pub uses: u64,
    /// Declared types of its parameters.
    pub types: Vec<u32>,
    /// Its text, shortened.
    pub text: String,
}

/// A configured database.
#[derive(Debug, Clone, PartialEq)]
pub struct DatabaseSnapshot {
    /// The name that clients use.
    pub name: String,
    /// The hosts of its primaries, comma-separated; none for the console.
    pub host: Option<String>,
    /// The port of its first primary.
    pub port: u16,
    /// The database's name on the server.
    pub dbname: String,
    /// The user that servers are logged in to as, if not the client's own.
    pub force_user: Option<String>,
    /// Server connections per (user, server) at most.
    pub pool_size: u32,
    /// Server connections kept open per pool.
    pub min_pool_size: u32,
    /// Additional connections when clients wait long; 0: none.
    pub reserve_pool_size: u32,
    /// Age at which idle server connections are closed; zero: never.
    pub server_lifetime: Duration,
    /// When servers go back to the pool.
    pub pool_mode: PoolMode,
    /// Which of several hosts a connection goes to; none when there is but one.
    pub load_balance_hosts: Option<LoadBalance>,
    /// Server connections at most over all users; 0: no limit.
    pub max_connections: u32,
    /// Clients at most; 0: no limit.
    pub max_client_connections: u32,
    /// PAUSE db.
    pub paused: bool,
    /// DISABLE db.
    pub disabled: bool,
}

/// The connections of one (database, user, shard, server).
#[derive(Debug, Clone, PartialEq)]
pub struct PoolSnapshot {
    /// The database.
    pub database: String,
    /// The user that its servers are logged in to as.
    pub user: String,
    /// The shard's name.
    pub shard: String,
    /// The server as `host:port`.
    pub server: String,
    /// The server's role.
    pub role: Role,
    /// When servers go back to the pool.
    pub pool_mode: PoolMode,
    /// Its server connections by state.
    pub servers: ServerStates,
    /// The clients that are in it now, by state.
    pub clients: ClientStates,
    /// How long the first in the queue has waited; zero when nobody waits.
    pub max_wait: Duration,
    /// What went through it since the start.
    pub totals: Counts,
    /// Time of queries.
    pub query_time: HistogramSnapshot,
    /// How often a connection had to be cleaned before the next client could have it.
    pub resets: u64,
    /// Time that clients waited for one of its servers.
    pub wait_time: HistogramSnapshot,
    /// Prepared statements on its servers, over all of them.
    pub prepared_statements: u64,
}

/// Server connections by state, as SHOW POOLS names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServerStates {
    /// Given to a client.
    pub active: u32,
    /// Forwarding a cancel request.
    pub active_cancel: u32,
    /// Could be idle, but a cancel request aimed at them is still under way.
    pub being_canceled: u32,
    /// Ready for a client.
    pub idle: u32,
    /// Idle for so long that they are checked before use.
    pub used: u32,
    /// Being reset or checked.
    pub tested: u32,
    /// Connecting or logging in.
    pub login: u32,
}

impl ServerStates {
    /// With the states' words.
    #[must_use]
    pub fn named(&self) -> [(&'static str, u32); 7] {
        [
            ("active", self.active),
            ("active_cancel", self.active_cancel),
            ("being_canceled", self.being_canceled),
            ("idle", self.idle),
            ("used", self.used),
            ("tested", self.tested),
            ("login", self.login),
        ]
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.named().iter().fold(0, |sum, (_, n)| sum.saturating_add(*n))
    }
}

impl std::ops::AddAssign for ServerStates {
    fn add_assign(&mut self, other: Self) {
        self.active = self.active.saturating_add(other.active);
        self.active_cancel = self.active_cancel.saturating_add(other.active_cancel);
        self.being_canceled = self.being_canceled.saturating_add(other.being_canceled);
        self.idle = self.idle.saturating_add(other.idle);
        self.used = self.used.saturating_add(other.used);
        self.tested = self.tested.saturating_add(other.tested);
        self.login = self.login.saturating_add(other.login);
    }
}

/// Clients that are in a pool, by state. Clients that are logged in and ask for nothing are in none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientStates {
    /// Have a server.
    pub active: u32,
    /// Wait for a server.
    pub waiting: u32,
    /// Cancel requests forwarded, the server's answer outstanding.
    pub active_cancel_req: u32,
    /// Cancel requests not forwarded yet.
    pub waiting_cancel_req: u32,
}

impl ClientStates {
    /// With the states' words.
    #[must_use]
    pub fn named(&self) -> [(&'static str, u32); 4] {
        [
            ("active", self.active),
            ("waiting", self.waiting),
            ("active_cancel_req", self.active_cancel_req),
            ("waiting_cancel_req", self.waiting_cancel_req),
        ]
    }
}

impl std::ops::AddAssign for ClientStates {
    fn add_assign(&mut self, other: Self) {
        self.active = self.active.saturating_add(other.active);
        self.waiting = self.waiting.saturating_add(other.waiting);
        self.active_cancel_req = self.active_cancel_req.saturating_add(other.active_cancel_req);
        self.waiting_cancel_req = self.waiting_cancel_req.saturating_add(other.waiting_cancel_req);
    }
}

/// How many clients of a user are logged in to a database, whatever they do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginSnapshot {
    /// The database.
    pub database: String,
    /// The user, as in [`PoolSnapshot::user`].
    pub user: String,
    /// How many.
    pub clients: u32,
}

/// An address as SHOW CLIENTS writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The address without a port; `unix` for a unix socket.
    pub addr: String,
    /// The port; the listen port for a unix socket.
    pub port: u16,
}

/// What the lists of clients and of servers have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionSnapshot {
    /// The user.
    pub user: String,
    /// The database that the client asked for.
    pub database: String,
    /// What it replicates, if it has a WAL sender.
    pub replication: Option<&'static str>,
    /// The other end.
    pub remote: Endpoint,
    /// Our end.
    pub local: Endpoint,
    /// When it was made: wall time since the Unix epoch.
    pub connected_at: Duration,
    /// When the latest request came: wall time since the Unix epoch.
    pub requested_at: Duration,
    /// It will be closed as soon as it is free.
    pub close_needed: bool,
    /// The other end's process, where known: a server's backend, a client on a unix socket.
    pub remote_pid: Option<u32>,
    /// Version and cipher, or empty.
    pub tls: String,
    /// The client's `application_name` (for a server: of the client that has it), or empty.
    pub application_name: String,
    /// Prepared statements: those the client made, or those on the server.
    pub prepared_statements: u32,
}

/// One client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientSnapshot {
    /// Which.
    pub id: ClientId,
    /// What it does.
    pub state: ClientState,
    /// How long it has waited for a server; zero if it does not.
    pub wait: Duration,
    /// The server it has.
    pub server: Option<ConnectionId>,
    /// Half of its cancel key, the one that is no secret.
    pub pid: u32,
    /// What it tells of itself, if it was asked.
    pub report: Option<Report>,
    /// The rest.
    pub connection: ConnectionSnapshot,
}

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientState {
    /// Has a server.
    Active,
    /// Asks for nothing.
    Idle,
    /// Waits for a server.
    Waiting,
    /// A cancel request, forwarded.
    ActiveCancel,
    /// A cancel request, not forwarded yet.
    WaitingCancel,
}

impl ClientState {
    /// The word of SHOW CLIENTS.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Idle => "idle",
            Self::Waiting => "waiting",
            Self::ActiveCancel => "active_cancel_req",
            Self::WaitingCancel => "waiting_cancel_req",
        }
    }
}

/// One server connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConnectionSnapshot {
    /// Which.
    pub id: ConnectionId,
    /// What it does.
    pub state: ServerState,
    /// The client that has it.
    pub client: Option<ClientId>,
    /// Its socket: known while it is with nobody, and of others if their client was asked.
    pub socket: Option<SocketReport>,
    /// The rest.
    pub connection: ConnectionSnapshot,
}

/// What a server connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServerState {
    /// Connecting or logging in.
    New,
    /// Given to a client.
    Active,
    /// Ready.
    Idle,
    /// Idle for so long that it is checked before use.
    Used,
    /// Being reset or checked.
    Tested,
    /// Forwarding a cancel request.
    ActiveCancel,
    /// Waits for a cancel request that aims at it.
    BeingCanceled,
}

impl ServerState {
    /// The word of SHOW SERVERS.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Active => "active",
            Self::Idle => "idle",
            Self::Used => "used",
            Self::Tested => "tested",
            Self::ActiveCancel => "active_cancel",
            Self::BeingCanceled => "being_canceled",
        }
    }
}

/// A known user and the overrides of `[users]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UserSnapshot {
    /// The name.
    pub name: String,
    /// Override of the pool size.
    pub pool_size: Option<u32>,
    /// Override of the reserve pool's size.
    pub reserve_pool_size: Option<u32>,
    /// Override of the pool mode.
    pub pool_mode: Option<PoolMode>,
    /// Server connections at most; 0: no limit.
    pub max_connections: u32,
    /// Clients at most; 0: no limit.
    pub max_client_connections: u32,
}

/// A server and its health.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplicaSnapshot {
    /// The database.
    pub database: String,
    /// The shard's name.
    pub shard: String,
    /// Name, address or socket directory.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Its role.
    pub role: Role,
    /// How it stands: `up`, `lagging`, `down`, `fenced`, `standby` or `unknown`.
    pub state: &'static str,
    /// The timeline that it last reported.
    pub timeline: Option<u32>,
    /// What Patroni says that it is; none where it says nothing, or is not asked.
    pub patroni: Option<&'static str>,
    /// The configured weight.
    pub weight: f64,
    /// The weight after its health, 0 while it gets no reads; none where it is no replica.
    pub effective_weight: Option<f64>,
    /// Smoothed response time; none before the first measure.
    pub latency: Option<Duration>,
    /// How far its replay is behind the primary's WAL, in bytes; none if not known.
    pub lag_bytes: Option<u64>,
    /// How far in time; none if not known.
    pub lag: Option<Duration>,
    /// Queries under way.
    pub in_flight: u32,
    /// No connection could be made a moment ago.
    pub unreachable: bool,
    /// Its circuit breaker.
    pub breaker: BreakerState,
    /// What went wrong last; stays after it recovered.
    pub last_error: Option<String>,
    /// How long ago that was.
    pub last_error_age: Option<Duration>,
    /// Reads sent to it since the start.
    pub reads: u64,
    /// Writes sent to it since the start.
    pub writes: u64,
}

/// A circuit breaker's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BreakerState {
    /// Traffic flows.
    Closed,
    /// One probe is let through.
    HalfOpen,
    /// No traffic.
    Open,
}

impl BreakerState {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Closed, Self::HalfOpen, Self::Open];

    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

/// A process that carries out cancel requests for us, and we for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSnapshot {
    /// Its number.
    pub id: PeerId,
    /// Name, address or socket directory.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Cancel requests on their way to it at most.
    pub pool_size: u32,
    /// Those that there are; none for ourselves, and while we have no number.
    pub requests: Option<PeerRequests>,
}

/// Cancel requests for a peer, by how far they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PeerRequests {
    /// In the queue for a place.
    pub waiting: u32,
    /// Have a place; the peer is being connected to.
    pub connecting: u32,
    /// With the peer, which is not done yet.
    pub sent: u32,
}

impl PeerRequests {
    /// With the states' words.
    #[must_use]
    pub fn named(&self) -> [(&'static str, u32); 3] {
        [("waiting", self.waiting), ("connecting", self.connecting), ("sent", self.sent)]
    }
}

/// A shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardSnapshot {
    /// The database.
    pub database: String,
    /// Its name.
    pub name: String,
    /// The slots it owns, as [`slot_ranges`] gives them.
    pub slots: Vec<RangeInclusive<u16>>,
    /// Its servers as `host:port`, the primary first.
    pub servers: Vec<String>,
    /// Whether tables that are not listed live here.
    pub is_default: bool,
    /// Whether its primary is as configured; none for an unsharded database.
    pub check: Option<Check>,
}

/// A table of a sharded database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSnapshot {
    /// The database.
    pub database: String,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// How it is spread.
    pub kind: TableKind,
    /// The columns of its key and their types, as they are configured; none for what is not sharded.
    pub key: Option<(String, String)>,
    /// The shards whose primary has it.
    pub found_on: Vec<String>,
    /// The shards whose primary should have it and has not.
    pub missing_on: Vec<String>,
    /// The shards whose primary could not be asked.
    pub not_asked: Vec<String>,
}

/// How a table is spread over shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TableKind {
    /// By a key.
    Sharded,
    /// A full copy on every shard.
    Reference,
    /// Not listed: it lives on the default shard.
    Unsharded,
}

impl TableKind {
    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sharded => "sharded",
            Self::Reference => "reference",
            Self::Unsharded => "unsharded",
        }
    }
}

/// The slots of each shard as ranges: ascending, disjoint, none adjacent to the next. One entry per shard of the map.
#[must_use]
pub fn slot_ranges(map: &ShardMap) -> Vec<Vec<RangeInclusive<u16>>> {
    let mut ranges: Vec<Vec<RangeInclusive<u16>>> = vec![Vec::new(); map.names.len()];
    let mut first = 0;
    for run in map.owners.chunk_by(|a, b| a == b) {
        let last = first + run.len() - 1;
        if let (Some(owner), Ok(from), Ok(to)) = (run.first(), u16::try_from(first), u16::try_from(last))
            && let Some(list) = ranges.get_mut(usize::from(owner.0))
        {
            list.push(from..=to);
        }
        first = last + 1;
    }
    ranges
}

/// What went through a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatsSnapshot {
    /// The database.
    pub database: String,
    /// Since the start.
    pub totals: Counts,
    /// Over the last full `stats_period`: [`super::averages::Averages::of`].
    pub averages: Counts,
}

/// A setting as SHOW CONFIG lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its name.
    pub key: &'static str,
    /// Its value in the form of the configuration file.
    pub value: String,
    /// The value when it is not set.
    pub default: String,
    /// Whether a reload changes it.
    pub changeable: bool,
}

impl From<(&'static str, String, String, bool)> for Setting {
    /// From a row of the configuration's table of settings: key, value, default, changeable.
    fn from((key, value, default, changeable): (&'static str, String, String, bool)) -> Self {
        Self { key, value, default, changeable }
    }
}

/// Configuration reloads since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reloads {
    /// How many took effect.
    pub succeeded: u64,
    /// How many were refused, the old configuration staying in force.
    pub failed: u64,
    /// When the configuration in force was loaded: wall time since the Unix epoch.
    pub loaded_at: Duration,
}

/// The word of SHOW and metrics for a pool mode.
#[must_use]
pub fn pool_mode_word(mode: PoolMode) -> &'static str {
    match mode {
        PoolMode::Session => "session",
        PoolMode::Transaction => "transaction",
        PoolMode::Statement => "statement",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::id::ShardIndex;
    use crate::metrics::example;
    use crate::shard::map::SLOTS;

    fn map(owners: Vec<ShardIndex>) -> ShardMap {
        ShardMap {
            epoch: 1,
            owners,
            names: (0..4).map(|i| format!("s{i}")).collect(),
            tables: BTreeMap::new(),
            default_shard: ShardIndex(0),
            writes: crate::shard::map::Writes::default(),
        }
    }

    #[test]
    fn not_ready_names_every_reason() {
        let s = example::snapshot();
        assert_eq!(Readiness::judge(State::Active, &s.shards, &s.replicas), Readiness::default());
        let mut servers = s.replicas.clone();
        for server in servers.iter_mut().filter(|s| s.database == "shop" && s.role == Role::Primary) {
            server.breaker = BreakerState::Open;
        }
        let judged = Readiness::judge(State::Draining, &s.shards, &servers);
        let Readiness::NotReady(reasons) = judged else { panic!("{judged:?}") };
        assert_eq!(
            reasons,
            ["the process is draining", "database \"shop\" has no reachable primary on shard \"default\""]
        );
    }

    #[test]
    fn one_database_that_is_down_is_told_and_leaves_the_process_ready() {
        let mut s = example::snapshot();
        let down = |s: &mut Snapshot, name: &str| {
            let primaries = s.replicas.iter_mut().filter(|r| r.database == name && r.role == Role::Primary);
            primaries.for_each(|r| r.unreachable = true);
        };
        let mut names: Vec<String> = s.shards.iter().map(|shard| shard.database.clone()).collect();
        names.dedup();
        assert!(names.len() > 1, "{names:?}");
        down(&mut s, &names[0]);
        let judged = Readiness::judge(State::Active, &s.shards, &s.replicas);
        assert!(judged.is_ready() && judged.reasons().iter().all(|why| why.contains(&names[0])), "{judged:?}");
        assert!(!judged.reasons().is_empty());
        names.iter().for_each(|name| down(&mut s, name));
        assert!(!Readiness::judge(State::Active, &s.shards, &s.replicas).is_ready());
    }

    #[test]
    fn an_open_replica_does_not_make_the_process_unready() {
        let s = example::snapshot();
        let mut servers = s.replicas.clone();
        servers.iter_mut().filter(|s| s.role == Role::Replica).for_each(|s| s.breaker = BreakerState::Open);
        assert_eq!(Readiness::judge(State::Active, &s.shards, &servers), Readiness::default());
    }

    proptest! {
        #[test]
        fn slot_ranges_hold_each_slot_once_at_its_owner(cuts in prop::collection::vec((0..SLOTS, 0..4_u16), 0..12)) {
            let mut owners = vec![ShardIndex(0); usize::from(SLOTS)];
            for (from, owner) in cuts {
                owners[usize::from(from)..].fill(ShardIndex(owner));
            }
            let map = map(owners);
            let ranges = slot_ranges(&map);
            let mut seen = 0_usize;
            for (shard, list) in ranges.iter().enumerate() {
                for pair in list.windows(2) {
                    prop_assert!(pair[0].end() + 1 < *pair[1].start());
                }
                for slot in list.iter().cloned().flatten() {
                    prop_assert_eq!(usize::from(map.owners[usize::from(slot)].0), shard);
                    seen += 1;
                }
            }
            prop_assert_eq!(seen, usize::from(SLOTS));
        }
    }
}

//! The checked configuration: what the rest of pgweir is built from.
//!
//! `raw` reads TOML into a tree that knows its lines; `check` turns that into these types, with `database`, `sharding` and
//! `address` for the servers, and reports every mistake at once with its line and the nearest valid name. `settings` is the
//! table of settings, `field` reads and writes one value, `units` durations and sizes, `tls` what TLS needs; `diff` says what a reload changes.

mod address;
mod check;
mod convert;
mod database;
pub mod diff;
mod field;
mod ini;
mod peers;
mod pinning;
mod places;
mod raw;
pub mod settings;
mod sharding;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod units;

pub(crate) use address::decode as percent_decode;
pub use check::Dialect;
pub use ini::table::document as pgbouncer_settings;
pub use pinning::{LanguageState, OnSessionState, Pinning, SequenceValues};
pub use places::Places;
pub(crate) use raw::expected;
pub use settings::is_usual_auth_query;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::id::PeerId;
use crate::shard::map::{ShardMap, Writes};
use crate::sql::facts::RouteHint;
use tls::TlsSettings;

/// A whole configuration, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The file it came from.
    pub path: PathBuf,
    /// The kind of that file: its defaults are ours or PgBouncer's.
    pub dialect: Dialect,
    /// Settings of the process and defaults of the databases.
    pub general: General,
    /// Databases by the name that clients use.
    pub databases: BTreeMap<String, Database>,
    /// The database `*`: what a database is made of that clients name and nobody has configured.
    pub wildcard: Option<Database>,
    /// Users of `[users]`, by name: overrides, and passwords beside those of the auth file.
    pub users: BTreeMap<String, User>,
    /// The processes that carry out each other's cancel requests, by their numbers; our own may be among them.
    pub peers: BTreeMap<PeerId, Peer>,
    /// Where the settings stand.
    pub places: Places,
    /// What was accepted though it means nothing here.
    pub warnings: Vec<String>,
    /// The settings of PgBouncer that mean nothing here, with value and default; none in a file of our own.
    pub idle: BTreeMap<&'static str, [String; 2]>,
    /// The files as they were read.
    pub sources: Sources,
    /// What SET on the console has changed since.
    pub set: Overrides,
}

/// Reads a file's bytes.
type Read<'a> = &'a dyn Fn(&Path) -> io::Result<Vec<u8>>;

/// Settings of `[pgweir]` by name, as SET on the console gave them.
pub type Overrides = BTreeMap<String, String>;

/// The files of a configuration: what SET changes one setting of, whatever has become of the files on the disk.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Sources(BTreeMap<PathBuf, Vec<u8>>);

impl fmt::Debug for Sources {
    // Their content may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// When a server connection goes back to the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PoolMode {
    /// When the client disconnects.
    Session,
    /// When the transaction ends.
    Transaction,
    /// After every statement; transaction blocks are refused.
    Statement,
}

impl PoolMode {
    /// The word of the setting and of SHOW.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Transaction => "transaction",
            Self::Statement => "statement",
        }
    }
}

/// How clients prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuthType {
    /// The user must exist in the auth file; no password is asked.
    Trust,
    /// No check at all: every user name is let in, and servers are logged in to as the database's `user`.
    Any,
    /// Clear-text password.
    Plain,
    /// MD5 challenge; SCRAM is used for users with a SCRAM verifier.
    Md5,
    /// SCRAM-SHA-256.
    ScramSha256,
    /// A TLS certificate whose common name is the user's.
    Cert,
    /// As the rules of `auth_hba_file` say.
    Hba,
    /// Clear-text password, checked by an LDAP server.
    Ldap,
    /// Clear-text password, checked by PAM.
    Pam,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogFormat {
    /// One line of text an event.
    Text,
    /// One JSON object an event.
    Json,
}

/// The part of the system that messages to syslog are said to be of; the values are those of syslog(3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[allow(missing_docs, reason = "the names are syslog's own")]
#[repr(u8)]
pub enum Facility {
    User = 1,
    Mail = 2,
    #[default]
    Daemon = 3,
    Auth = 4,
    Syslog = 5,
    Lpr = 6,
    News = 7,
    Uucp = 8,
    Cron = 9,
    AuthPriv = 10,
    Ftp = 11,
    Local0 = 16,
    Local1 = 17,
    Local2 = 18,
    Local3 = 19,
    Local4 = 20,
    Local5 = 21,
    Local6 = 22,
    Local7 = 23,
}

impl Facility {
    /// Its number, 0 to 23.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }
}

/// Whether and how log lines go to the system's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyslogSettings {
    /// Whether they do (`syslog`, default false).
    pub on: bool,
    /// As of which part of the system (`syslog_facility`, default daemon).
    pub facility: Facility,
    /// Under which name (`syslog_ident`, default pgweir).
    pub ident: String,
    /// The log daemon's socket (`syslog_socket`, default /dev/log).
    pub socket: PathBuf,
}

impl Default for SyslogSettings {
    fn default() -> Self {
        let (ident, socket) = ("pgweir".to_owned(), PathBuf::from("/dev/log"));
        Self { on: false, facility: Facility::default(), ident, socket }
    }
}

/// A text that may hold a secret, so that it is never printed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct SecretText(pub Option<String>);

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hidden(self.0.is_some()).fmt(f)
    }
}

/// `[pgweir]`: the process, and defaults for every database. The names are those of the settings.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub struct General {
    /// Addresses to listen on; `*` is every address; empty: no TCP.
    pub listen_addr: Vec<String>,
    /// TCP port, also the number in the unix socket's name.
    pub listen_port: u16,
    /// Directory of the unix socket `.s.PGSQL.PORT`; `@` begins a name in the abstract namespace.
    pub unix_socket_dir: Option<PathBuf>,
    /// Mode bits of the unix socket (default 0777).
    pub unix_socket_mode: u32,
    /// Group of the unix socket; none: that of the process.
    pub unix_socket_group: Option<String>,
    /// Let other processes listen on the same TCP port (SO_REUSEPORT, default false).
    pub so_reuseport: bool,
    /// Our number among the processes of `[peers]`, 1 to 16383; 0 (the default): we have no peers.
    pub peer_id: u16,
    /// User to become after the start, when started by root.
    pub user: Option<String>,
    /// File that holds the process id for as long as the process lives.
    pub pidfile: Option<PathBuf>,
    /// File that the next reload reads; none: the one this came from.
    pub conffile: Option<PathBuf>,
    /// File that the log is written to as well; opened anew by a reload.
    pub logfile: Option<PathBuf>,
    /// Log lines to the system's log.
    pub syslog: SyslogSettings,
    /// Worker threads; 0: one per core.
    pub workers: u16,
    /// How clients authenticate.
    pub auth_type: AuthType,
    /// File of `"user" "secret"` lines: clear text, `md5...` or `SCRAM-SHA-256$...`.
    pub auth_file: Option<PathBuf>,
    /// Rules in the form of pg_hba.conf, for `auth_type = "hba"`.
    pub auth_hba_file: Option<PathBuf>,
    /// Maps in the form of pg_ident.conf, for those rules.
    pub auth_ident_file: Option<PathBuf>,
    /// Whom to ask under `auth_type = "ldap"`, and how: options as in pg_hba.conf. May hold a password.
    pub auth_ldap_options: SecretText,
    /// The name of our service under `auth_type = "pam"` (default pgweir).
    pub auth_pam_service: String,
    /// Iterations of the SCRAM verifiers that are made of clear passwords (default 4096; 1 to 2^24).
    pub scram_iterations: u32,
    /// Default of [`Database::auth_user`].
    pub auth_user: Option<String>,
    /// Default of [`Database::auth_query`].
    pub auth_query: String,
    /// Default of [`Database::auth_dbname`].
    pub auth_dbname: Option<String>,
    /// Users who may run every console command.
    pub admin_users: Vec<String>,
    /// Users who may run SHOW on the console.
    pub stats_users: Vec<String>,
    /// Client connections at most, over all.
    pub max_client_conn: u32,
    /// Default of [`Database::max_db_client_connections`].
    pub max_db_client_connections: u32,
    /// Client connections per user at most, over all databases; 0 (the default): no limit.
    pub max_user_client_connections: u32,
    /// Default of [`Database::max_db_connections`].
    pub max_db_connections: u32,
    /// Server connections per user of servers at most, over all databases; 0 (the default): no limit.
    pub max_user_connections: u32,
    /// Default of [`Database::pool_mode`].
    pub pool_mode: PoolMode,
    /// Server connections per (user, database, server) at most (default 20).
    pub default_pool_size: u32,
    /// Server connections kept open per pool while a client is connected, or always where the database has a user (default 0).
    pub min_pool_size: u32,
    /// Server connections per pool beyond its size, for clients that wait long (default 0).
    pub reserve_pool_size: u32,
    /// How long such a client has waited (default 5 s); zero: the reserve is not used.
    pub reserve_pool_timeout: Duration,
    /// Prepared statements kept on a server connection (default 200); 0: named statements are not followed across servers.
    pub max_prepared_statements: u32,
    /// An unnamed statement that has come this often is kept by servers (default 0: none is).
    pub prepare_unnamed: u32,
    /// Largest message taken from a client, in bytes (default 1 GiB).
    pub max_packet_size: u32,
    /// How long a statement may wait for a server (default 120 s); zero: for ever.
    pub query_wait_timeout: Duration,
    /// Who waits for a server for this long is told so by a notice (default 5 s); zero: nobody is.
    pub query_wait_notify: Duration,
    /// How long a cancel request may take on its way to the server (default 10 s); zero: `server_connect_timeout`.
    pub cancel_wait_timeout: Duration,
    /// Asked on a server connection that has rested for `server_check_delay` before it is lent (default [`EMPTY_QUERY`]); empty: none.
    pub server_check_query: String,
    /// How long a server connection may rest and still be lent unasked (default 30 s); zero: it is always asked.
    pub server_check_delay: Duration,
    /// Whether clients may not use the simple query protocol (default false).
    pub disable_pqexec: bool,
    /// Idle server connections are closed after this (default 600 s); zero: never.
    pub server_idle_timeout: Duration,
    /// Server connections older than this are closed when they become idle (default 3600 s); zero: never.
    pub server_lifetime: Duration,
    /// Whether a server that a session keeps for good is closed, and the session with it, as soon as no transaction is open, when it is
    /// to be closed at all (default false).
    pub server_fast_close: bool,
    /// How long connecting and logging in to a server may take (default 15 s).
    pub server_connect_timeout: Duration,
    /// How long to wait after a failed login to a server before the next try (default 15 s).
    pub server_login_retry: Duration,
    /// How long a client may take to log in (default 60 s); zero: for ever.
    pub client_login_timeout: Duration,
    /// How long the addresses of a server's name are used before it is looked up again, whatever its records say (default 15 s); zero: it
    /// is looked up whenever a server is connected to.
    pub dns_max_ttl: Duration,
    /// How long it is remembered that a name has no addresses, or could not be looked up (default 15 s).
    pub dns_nxdomain_ttl: Duration,
    /// How often the zones of the names are asked for their serial numbers: when one is new, its names are looked up again (default 0:
    /// never).
    pub dns_zone_check_period: Duration,
    /// A file instead of /etc/resolv.conf.
    pub resolv_conf: Option<PathBuf>,
    /// A statement that is not answered for this long is cancelled, and its client closed (default 0: never).
    pub query_timeout: Duration,
    /// A client that is in one transaction for this long is closed (default 0: never).
    pub transaction_timeout: Duration,
    /// A client that has no server and asks for nothing for this long is closed (default 0: never).
    pub client_idle_timeout: Duration,
    /// A client in a transaction that sends nothing for this long is closed (default 0: never).
    pub idle_transaction_timeout: Duration,
    /// Statements that reset a server connection whose client left state behind (default `DISCARD ALL`).
    pub server_reset_query: String,
    /// Run `server_reset_query` also in transaction mode at every release (default false).
    pub server_reset_query_always: bool,
    /// Startup parameters taken from clients and thrown away.
    pub ignore_startup_parameters: Vec<String>,
    /// What is taken out of the startup parameter `options` although that is ignored (default `IntervalStyle`).
    pub track_extra_parameters: Vec<String>,
    /// Prefer the server connection that has rested longest (default false: the one used last).
    pub server_round_robin: bool,
    /// A database made from `*` that nobody has used for this long is forgotten (default 3600 s); zero: never.
    pub autodb_idle_timeout: Duration,
    /// Add the client's address to the `application_name` of its startup (default false).
    pub application_name_add_host: bool,
    /// How long SUSPEND waits until nothing is half done, before it closes who is in the middle of something (default 10 s); zero: for ever.
    pub suspend_timeout: Duration,
    /// How long SIGTERM and SIGINT wait for transactions to end (default 30 s); zero, PgBouncer's way: there is no limit, and SIGTERM
    /// waits for clients to leave.
    pub shutdown_timeout: Duration,
    /// Console statistics are averaged over this period (default 60 s).
    pub stats_period: Duration,
    /// Address of the HTTP listener for /metrics and /health, e.g. `127.0.0.1:9127`.
    pub http_listen: Option<std::net::SocketAddr>,
    /// Log connects (default true).
    pub log_connections: bool,
    /// Log disconnects (default true).
    pub log_disconnections: bool,
    /// Log errors that clients are told by pgweir itself (default true).
    pub log_pooler_errors: bool,
    /// Log averages once per `stats_period` (default true).
    pub log_stats: bool,
    /// Form of the log.
    pub log_format: LogFormat,
    /// A tracing filter, e.g. `info` or `pgweir=debug` (default `info`).
    pub log_level: String,
    /// Options of TCP sockets, on both sides.
    pub tcp: TcpSettings,
    /// Pending connections of a listener (default 128).
    pub listen_backlog: u32,
    /// TLS with clients (default: off).
    pub client_tls: TlsSettings,
    /// TLS with servers (default: where they offer it).
    pub server_tls: TlsSettings,
    /// How replicas are probed and judged; a database may override it.
    pub health: HealthSettings,
    /// What becomes of sessions that keep a server; a database may override it.
    pub pinning: Pinning,
}

impl General {
    /// Our number among our peers, if we have any.
    #[must_use]
    pub fn peer(&self) -> Option<PeerId> {
        (self.peer_id > 0).then_some(PeerId(self.peer_id))
    }
}

/// Options of TCP sockets towards clients and servers. Where one is 0, the system's own value stands. See tcp(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpSettings {
    /// Keep-alive (`tcp_keepalive`, default true).
    pub keepalive: bool,
    /// Seconds of silence before the first keep-alive probe (`tcp_keepidle`).
    pub keepidle: u32,
    /// Seconds between two probes (`tcp_keepintvl`).
    pub keepintvl: u32,
    /// Unanswered probes after which the connection is closed (`tcp_keepcnt`).
    pub keepcnt: u32,
    /// Milliseconds that sent bytes may stay unacknowledged (`tcp_user_timeout`).
    pub user_timeout: u32,
    /// Bytes of the socket's buffers (`tcp_socket_buffer`).
    pub socket_buffer: u32,
}

/// How replicas are probed and judged.
#[derive(Debug, Clone, PartialEq)]
pub struct HealthSettings {
    /// Time between two probes of a server (`probe_interval`, default 1 s).
    pub probe_interval: Duration,
    /// Deadline of a probe (`probe_timeout`, default 2 s).
    pub probe_timeout: Duration,
    /// Consecutive failures that open a breaker (`breaker_failures`, default 5).
    pub breaker_failures: u32,
    /// How long an open breaker keeps traffic away at first (`breaker_cooldown`, default 60 s).
    pub breaker_cooldown: Duration,
    /// A replica further behind than this gets no reads (`max_lag`, default 0: no limit).
    pub max_lag: Duration,
    /// A replica that lacks more bytes of WAL than this gets no reads (`max_lag_bytes`, default 0: no limit).
    pub max_lag_bytes: u32,
    /// Which writes a replica must have for a read (`consistency`, default `session`).
    pub consistency: Consistency,
    /// A replica that is not known to have everything that is older than this gets no reads (`max_staleness`, default 0: no limit).
    pub max_staleness: Duration,
    /// What a read gets when no replica is fit for it (`replica_fallback`, default `primary`).
    pub fallback: Fallback,
    /// The availability zone that this process is in: replicas of it are preferred (`zone`, default none).
    pub zone: Option<String>,
    /// How long statements wait while no server takes writes (`failover_timeout`, default 30 s); zero: they fail at once.
    pub failover_timeout: Duration,
    /// Time between two questions to Patroni (`patroni_interval`, 100 ms at least, default 1 s).
    pub patroni_interval: Duration,
    /// Which of the replicas in good health gets a read (`load_balance`, default `weighted_random`).
    pub balance: ReadBalance,
}

/// Which writes a replica must have for a read to go to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Consistency {
    /// The session's own.
    #[default]
    Session,
    /// None.
    Eventual,
    /// Those of every session of this process, and of others up to the newest sample of the primary's position.
    Strong,
}

impl Consistency {
    /// The word of the setting.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Eventual => "eventual",
            Self::Strong => "strong",
        }
    }
}

/// What a read gets when no replica is fit for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Fallback {
    /// The primary.
    #[default]
    Primary,
    /// An error.
    Error,
}

impl Fallback {
    /// The word of the setting.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Error => "error",
        }
    }
}

/// Which of the replicas in good health gets a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ReadBalance {
    /// One at random, by weight and health.
    #[default]
    WeightedRandom,
    /// The one with the least under way for its weight.
    LeastInflight,
    /// Of two at random the one that answers faster, counted with what is under way; slower answers count at once, faster ones bit
    /// by bit.
    PeakEwma,
    /// Each in its turn, whatever the weights (but for 0).
    RoundRobin,
}

impl ReadBalance {
    /// The word of the setting.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WeightedRandom => "weighted_random",
            Self::LeastInflight => "least_inflight",
            Self::PeakEwma => "peak_ewma",
            Self::RoundRobin => "round_robin",
        }
    }
}

/// A database that clients connect to. Its `Debug` hides the passwords.
#[derive(Clone, PartialEq)]
pub struct Database {
    /// The name that clients use.
    pub name: String,
    /// When servers go back to the pool.
    pub pool_mode: PoolMode,
    /// Server connections per (user, server) at most.
    pub pool_size: u32,
    /// Server connections kept open per pool: see [`General::min_pool_size`].
    pub min_pool_size: u32,
    /// Server connections beyond `pool_size` for clients that have waited for `reserve_pool_timeout`.
    pub reserve_pool_size: u32,
    /// User to log in to servers as; none: the client's own name.
    pub user: Option<String>,
    /// Password for that user; none: from `[users]` or the auth file.
    pub password: Option<String>,
    /// User as whom the secrets of users who are not listed are asked from a server; none: nobody else is let in.
    pub auth_user: Option<String>,
    /// The question: `$1` is the user's name, the answer one row of the name and the secret.
    pub auth_query: String,
    /// The database that is asked; none: this one.
    pub auth_dbname: Option<String>,
    /// User of the prober; none: `user`, or else the first user with a known password is not guessed: probes are off and said so.
    pub probe_user: Option<String>,
    /// Password of the prober.
    pub probe_password: Option<String>,
    /// Run on every new server connection; an error of it is logged.
    pub connect_query: Option<String>,
    /// Server connections older than this are closed when they become idle; zero: never.
    pub server_lifetime: Duration,
    /// Override of the process's `query_wait_timeout`.
    pub query_wait_timeout: Option<Duration>,
    /// Client connections at most, over all users; 0: no limit.
    pub max_db_client_connections: u32,
    /// Server connections at most, over all users and servers; 0: no limit.
    pub max_db_connections: u32,
    /// Which of several hosts a new connection goes to.
    pub load_balance_hosts: LoadBalance,
    /// Settings asked of servers at login.
    pub startup: StartupSettings,
    /// Where statements go that say nothing themselves (`route`, default auto).
    pub route: RouteHint,
    /// Probing and breakers.
    pub health: HealthSettings,
    /// Whether reads of several shards go without those that cannot be reached (`partial_results`, default no).
    pub partial_results: bool,
    /// Sessions that keep a server.
    pub pinning: Pinning,
    /// The shards; exactly one for a database that is not sharded.
    pub shards: Vec<Shard>,
    /// What statements may write, on a sharded database; the map has it too.
    pub writes: Writes,
    /// Slots, tables and the default shard.
    pub map: ShardMap,
}

/// Which of several hosts of one server entry a new connection goes to; it goes on to the next when one cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LoadBalance {
    /// Each to the next.
    RoundRobin,
    /// To the one that worked last.
    Disable,
}

impl LoadBalance {
    /// The word of the setting and of SHOW.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::Disable => "disable",
        }
    }
}

/// Settings that servers are asked for at login, in the place of their own defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StartupSettings {
    /// `application_name`.
    pub application_name: Option<String>,
    /// `client_encoding`.
    pub client_encoding: Option<String>,
    /// `datestyle`.
    pub datestyle: Option<String>,
    /// `timezone`.
    pub timezone: Option<String>,
}

impl StartupSettings {
    /// Those that are set, for the startup packet.
    #[must_use]
    pub fn parameters(&self) -> Vec<(String, String)> {
        let Self { application_name, client_encoding, datestyle, timezone } = self;
        let all = [
            ("application_name", application_name),
            ("client_encoding", client_encoding),
            ("datestyle", datestyle),
            ("timezone", timezone),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?))).collect()
    }
}

/// How `server_check_query` says that the question is an empty query.
pub const EMPTY_QUERY: &str = "<empty>";

/// The name of the wildcard database, and the name of the database on its server when none is given.
pub const WILDCARD: &str = "*";

impl Database {
    /// A database without servers that has all its settings from `[pgweir]`.
    fn inherited(name: &str, general: &General) -> Self {
        Self {
            name: name.to_owned(),
            pool_mode: general.pool_mode,
            pool_size: general.default_pool_size,
            min_pool_size: general.min_pool_size,
            reserve_pool_size: general.reserve_pool_size,
            user: None,
            password: None,
            auth_user: general.auth_user.clone(),
            auth_query: general.auth_query.clone(),
            auth_dbname: general.auth_dbname.clone(),
            probe_user: None,
            probe_password: None,
            connect_query: None,
            server_lifetime: general.server_lifetime,
            query_wait_timeout: None,
            max_db_client_connections: general.max_db_client_connections,
            max_db_connections: general.max_db_connections,
            load_balance_hosts: LoadBalance::RoundRobin,
            startup: StartupSettings::default(),
            route: RouteHint::Auto,
            health: general.health.clone(),
            partial_results: false,
            pinning: general.pinning.clone(),
            shards: Vec::new(),
            writes: Writes::default(),
            map: ShardMap::single(),
        }
    }

    /// The database that a client gets which asks for `name` and finds only the wildcard.
    #[must_use]
    pub fn named(&self, name: &str) -> Self {
        let mut own = Self { name: name.to_owned(), ..self.clone() };
        let servers = own.shards.iter_mut().flat_map(|shard| &mut shard.servers);
        for server in servers.filter(|server| server.dbname == WILDCARD) {
            name.clone_into(&mut server.dbname);
        }
        own
    }
}

/// One shard: its primary and replicas.
#[derive(Debug, Clone, PartialEq)]
pub struct Shard {
    /// Its name, unique within the database (the only shard of an unsharded database is called `default`).
    pub name: String,
    /// Its servers; the primary first.
    pub servers: Vec<Server>,
    /// The REST interfaces of the Patroni that looks after them (`patroni`, default none).
    pub patroni: Vec<HttpAddress>,
}

/// Where somebody answers by HTTP, without TLS.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HttpAddress {
    /// A name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for HttpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "http://[{host}]:{port}") } else { write!(f, "http://{host}:{port}") }
    }
}

/// What a server is configured to be, or used as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Takes writes.
    Primary,
    /// Takes reads.
    Replica,
    /// Whatever the probes find it to be. Only configured, never what a server is used as.
    Auto,
}

impl Role {
    /// The word of SHOW and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Auto => "auto",
        }
    }
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name or address.
    Tcp(String),
    /// A directory with the unix socket; `@` begins a name in the abstract namespace.
    Unix(PathBuf),
    /// Several that are as good as each other.
    Several(Vec<Self>),
}

impl Host {
    /// Itself, or each of several.
    #[must_use]
    pub fn each(&self) -> &[Self] {
        match self {
            Self::Several(hosts) => hosts,
            one => std::slice::from_ref(one),
        }
    }
}

impl fmt::Display for Host {
    /// The name, the socket's directory, or all of several, separated by commas.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(name) => f.write_str(name),
            Self::Unix(directory) => write!(f, "{}", directory.display()),
            Self::Several(hosts) => {
                let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
                f.write_str(&hosts.join(","))
            }
        }
    }
}

/// A PostgreSQL server.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Where.
    pub host: Host,
    /// Its port.
    pub port: u16,
    /// The database's name on it.
    pub dbname: String,
    /// What it is.
    pub role: Role,
    /// Share of the reads relative to the other replicas (default 1.0; 0: none unless nothing else is left).
    pub weight: f64,
    /// The availability zone that it is in, if that is known.
    pub zone: Option<String>,
}

/// `[users.NAME]`. Its `Debug` hides the password.
#[derive(Clone, PartialEq, Default)]
pub struct User {
    /// Clear text, `md5...` or `SCRAM-SHA-256$...`.
    pub password: Option<String>,
    /// Override of the pool mode.
    pub pool_mode: Option<PoolMode>,
    /// Override of the pool size.
    pub pool_size: Option<u32>,
    /// Override of the database's `route`.
    pub route: Option<RouteHint>,
    /// Client connections at most, over all databases; 0: no limit.
    pub max_user_client_connections: Option<u32>,
    /// Server connections at most, over all databases; 0: no limit.
    pub max_user_connections: Option<u32>,
    /// Override of the reserve's size.
    pub reserve_pool_size: Option<u32>,
    /// Override of the process's `query_timeout`.
    pub query_timeout: Option<Duration>,
    /// Override of the process's `transaction_timeout`.
    pub transaction_timeout: Option<Duration>,
    /// Override of the process's `client_idle_timeout`.
    pub client_idle_timeout: Option<Duration>,
    /// Override of the process's `idle_transaction_timeout`.
    pub idle_transaction_timeout: Option<Duration>,
    /// Override of the database's `query_wait_timeout`.
    pub query_wait_timeout: Option<Duration>,
}

/// `[peers.NUMBER]`: a process like us, PgBouncer's or ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Where it listens; one that it alone listens to.
    pub host: Host,
    /// Its port (default 6432).
    pub port: u16,
    /// Cancel requests on their way to it at most; none: `default_pool_size`.
    pub pool_size: Option<u32>,
}

impl Server {
    /// The server in messages: `host:port/dbname`.
    #[must_use]
    pub fn address(&self) -> String {
        match &self.host {
            Host::Tcp(host) if host.contains(':') => format!("[{host}]:{}/{}", self.port, self.dbname),
            host => format!("{host}:{}/{}", self.port, self.dbname),
        }
    }
}

/// Stands where a secret is or is not.
struct Hidden(bool);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 { "Some(********)" } else { "None" })
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Every field by name, so that a new one is not forgotten.
        let Self {
            name,
            pool_mode,
            pool_size,
            min_pool_size,
            reserve_pool_size,
            user,
            password,
            auth_user,
            auth_query,
            auth_dbname,
            probe_user,
            probe_password,
            connect_query,
            server_lifetime,
            query_wait_timeout,
            max_db_client_connections,
            max_db_connections,
            load_balance_hosts,
            startup,
            route,
            health,
            partial_results,
            pinning,
            shards,
            writes,
            map,
        } = self;
        f.debug_struct("Database")
            .field("name", name)
            .field("pool_mode", pool_mode)
            .field("pool_size", pool_size)
            .field("min_pool_size", min_pool_size)
            .field("reserve_pool_size", reserve_pool_size)
            .field("user", user)
            .field("password", &Hidden(password.is_some()))
            .field("auth_user", auth_user)
            .field("auth_query", auth_query)
            .field("auth_dbname", auth_dbname)
            .field("probe_user", probe_user)
            .field("probe_password", &Hidden(probe_password.is_some()))
            .field("connect_query", connect_query)
            .field("server_lifetime", server_lifetime)
            .field("query_wait_timeout", query_wait_timeout)
            .field("max_db_client_connections", max_db_client_connections)
            .field("max_db_connections", max_db_connections)
            .field("load_balance_hosts", load_balance_hosts)
            .field("startup", startup)
            .field("route", route)
            .field("health", health)
            .field("partial_results", partial_results)
            .field("pinning", pinning)
            .field("shards", shards)
            .field("writes", writes)
            // The owners of 16384 slots are no reading matter.
            .field("map.names", &map.names)
            .field("map.tables", &map.tables)
            .field("map.default_shard", &map.default_shard)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            password,
            pool_mode,
            pool_size,
            route,
            max_user_client_connections,
            reserve_pool_size,
            max_user_connections,
            query_timeout,
            transaction_timeout,
            client_idle_timeout,
            idle_transaction_timeout,
            query_wait_timeout,
        } = self;
        f.debug_struct("User")
            .field("password", &Hidden(password.is_some()))
            .field("pool_mode", pool_mode)
            .field("pool_size", pool_size)
            .field("route", route)
            .field("max_user_client_connections", max_user_client_connections)
            .field("reserve_pool_size", reserve_pool_size)
            .field("max_user_connections", max_user_connections)
            .field("query_timeout", query_timeout)
            .field("transaction_timeout", transaction_timeout)
            .field("client_idle_timeout", client_idle_timeout)
            .field("idle_transaction_timeout", idle_transaction_timeout)
            .field("query_wait_timeout", query_wait_timeout)
            .finish()
    }
}

/// A mistake in a configuration file. Never quotes a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// The line, counted from 1; 0: the file as a whole.
    pub line: usize,
    /// What is wrong, and what may have been meant.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path.display(), self.message),
            line => write!(f, "{}:{line}: {}", self.path.display(), self.message),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Reads and checks a configuration file, ours or pgbouncer.ini. The auth file is not opened.
///
/// A file is taken for pgbouncer.ini by its extension `.ini`, or by a section `[pgbouncer]` when it is not `.toml` either.
///
/// # Errors
/// Every mistake of the file at once, by line; or that it cannot be read.
pub fn load(path: &Path) -> Result<Config, Vec<ConfigError>> {
    whole(examine(path))
}

/// The same with what can be understood of a file with mistakes, so that those of the files that it names can be told at once. Without
/// a mistake there is always a configuration; with one it is good for nothing else.
#[must_use]
pub fn examine(path: &Path) -> (Option<Config>, Vec<ConfigError>) {
    let sources = RefCell::new(Sources::default());
    let read = |path: &Path| {
        let bytes = std::fs::read(path)?;
        sources.borrow_mut().0.insert(path.to_owned(), bytes.clone());
        Ok(bytes)
    };
    let (config, mistakes) = read_with(path, &Overrides::new(), &read);
    (config.map(|config| Config { sources: sources.into_inner(), ..config }), mistakes)
}

/// The configuration that has no mistakes.
fn whole((config, mistakes): (Option<Config>, Vec<ConfigError>)) -> Result<Config, Vec<ConfigError>> {
    config.filter(|_| mistakes.is_empty()).ok_or(mistakes)
}

impl Config {
    /// The configuration with a setting of `[pgweir]` changed, and all that follows from it. The files are not read again.
    ///
    /// # Errors
    /// There is no such setting, it needs a restart, or its value is wrong, by itself or with the others.
    pub fn with(&self, name: &str, value: &str) -> Result<Self, Vec<ConfigError>> {
        let mut set = self.set.clone();
        let (name, value) = match (name, value.trim()) {
            // PgBouncer's setting.
            ("verbose", "0") => ("log_level", "info"),
            ("verbose", "1") => ("log_level", "debug"),
            ("verbose", number) if number.parse::<u32>().is_ok() => ("log_level", "trace"),
            _ => (name, value),
        };
        set.insert(name.to_owned(), value.to_owned());
        let read = |path: &Path| self.sources.0.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into());
        let config = whole(read_with(&self.path, &set, &read))?;
        Ok(Self { sources: self.sources.clone(), set, ..config })
    }
}

fn read_with(path: &Path, set: &Overrides, read: Read<'_>) -> (Option<Config>, Vec<ConfigError>) {
    let error = |line: usize, message: String| (None, vec![ConfigError { path: path.to_owned(), line, message }]);
    let bytes = match read(path) {
        Ok(bytes) => bytes,
        Err(why) => return error(0, format!("cannot read the file: {why}")),
    };
    if ini::is_ini(path, &bytes) {
        return ini::load(path, set, read);
    }
    match String::from_utf8(bytes) {
        Ok(text) => parse_with(&text, path, set),
        Err(why) => {
            let good = why.as_bytes().iter().take(why.utf8_error().valid_up_to());
            let line = good.filter(|byte| **byte == b'\n').count().saturating_add(1);
            error(line, "not valid UTF-8".to_owned())
        }
    }
}

/// Reads pgbouncer.ini and writes it in the form of our own file, passwords included. What had no equal is in its comments.
///
/// # Errors
/// Every mistake of the file; or that it is no pgbouncer.ini.
pub fn convert(path: &Path) -> Result<String, Vec<ConfigError>> {
    let config = load(path)?;
    if std::fs::read(path).is_ok_and(|bytes| ini::is_ini(path, &bytes)) {
        return Ok(convert::to_toml(&config));
    }
    Err(vec![ConfigError { path: path.to_owned(), line: 0, message: "is pgweir's own form already".to_owned() }])
}

/// Checks the text of a TOML file; `path` is where it came from: errors name it, and relative file names start there.
///
/// # Errors
/// Every mistake at once, by line.
pub fn parse(text: &str, path: &Path) -> Result<Config, Vec<ConfigError>> {
    whole(parse_with(text, path, &Overrides::new()))
}

fn parse_with(text: &str, path: &Path, set: &Overrides) -> (Option<Config>, Vec<ConfigError>) {
    let (root, syntax) = raw::from_toml(text);
    let mut mistakes = raw::Mistakes::new(path);
    let origin = check::Origin { base: General::default(), dialect: Dialect::Toml, path, set };
    let config = check::config(&root, origin, &mut mistakes);
    mistakes.add_syntax(syntax);
    (Some(config), mistakes.into_sorted())
}

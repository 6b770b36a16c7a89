//! The table of settings: one row a setting. Parsing, SHOW CONFIG, SET and `conf/pgweir.full.toml` all read it.
//!
//! Defaults live in `General::default()`; their texts are derived, so they cannot disagree.

use std::time::Duration;

use super::field::Field;
use super::raw::{Node, suggest};
use super::tls::{SslMode, TlsSettings};
use super::{
    AuthType, Config, Consistency, Database, Dialect, Fallback, General, HealthSettings, LogFormat, Peer, Pinning,
    PoolMode, ReadBalance, SecretText, SyslogSettings, TcpSettings, User,
};

/// One setting of a section.
pub struct Setting<T: 'static> {
    /// Its name in the file and on the console.
    pub name: &'static str,
    /// What it does, in one line.
    pub description: &'static str,
    /// Whether a reload takes it over; the others need a restart.
    pub changeable: bool,
    field: fn(&mut T) -> Field<'_>,
}

/// What is known of a setting of `[pgweir]`, without its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// Its name in the file and on the console.
    pub name: &'static str,
    /// What it does, in one line.
    pub description: &'static str,
    /// Whether a reload takes it over; the others need a restart.
    pub changeable: bool,
}

impl<T> Setting<T> {
    fn info(&self) -> Info {
        Info { name: self.name, description: self.description, changeable: self.changeable }
    }

    /// The value as the file writes it, secrets included.
    pub(super) fn written(&self, target: &mut T) -> String {
        (self.field)(target).export()
    }

    pub(super) fn set(&self, target: &mut T, node: &Node) -> Result<(), String> {
        (self.field)(target).set(node)
    }
}

const fn row<T>(name: &'static str, description: &'static str, field: fn(&mut T) -> Field<'_>) -> Setting<T> {
    Setting { name, description, changeable: true, field }
}

const fn fixed<T>(name: &'static str, description: &'static str, field: fn(&mut T) -> Field<'_>) -> Setting<T> {
    Setting { name, description, changeable: false, field }
}

/// The largest message of the protocol: its length is a signed 32-bit number.
const LARGEST_PACKET: u32 = i32::MAX as u32;
/// What the kernel takes for the times of keep-alive, in seconds: see tcp(7).
const SHORT: u32 = 32_767;
/// What `auth::scram` works on at most.
const MANY_ITERATIONS: u32 = 1 << 24;
/// PgBouncer's limit of the numbers of peers.
pub(super) const MOST_PEER: u16 = 16_383;
/// More connections than this are a mistake of typing.
const MANY: u32 = 1_000_000;

/// PgBouncer's question, with every name qualified: it means the same whatever is in the database. A password past its VALID UNTIL is
/// none, and who may not log in is nobody.
pub(super) const AUTH_QUERY: &str = "SELECT rolname, CASE WHEN rolvaliduntil < pg_catalog.now() THEN NULL ELSE rolpassword END \
                                     FROM pg_catalog.pg_authid WHERE rolname = $1 AND rolcanlogin";

/// Whether a question reads nothing but `pg_authid`, as the default and PgBouncer's do: what it answers is the same in every database of a
/// server.
#[must_use]
pub fn is_usual_auth_query(query: &str) -> bool {
    let bare = |text: &str| text.to_lowercase().replace("pg_catalog.", "").split_whitespace().collect::<String>();
    bare(query).trim_end_matches(';') == bare(AUTH_QUERY)
}

/// `[pgweir]`, without the settings of [`HEALTH`] and [`PINNING`].
pub(super) static GENERAL: &[Setting<General>] = &[
    fixed("listen_addr", "Addresses to listen on, separated by commas; \"*\" is all; empty: no TCP.", |g| {
        Field::Listen(&mut g.listen_addr)
    }),
    fixed("listen_port", "TCP port, also the number in the unix socket's name.", |g| {
        Field::Small(&mut g.listen_port, 1, u16::MAX)
    }),
    fixed(
        "unix_socket_dir",
        "Directory of the unix socket .s.PGSQL.PORT; \"@\" begins an abstract name; empty: none.",
        |g| Field::Path(&mut g.unix_socket_dir),
    ),
    fixed("unix_socket_mode", "Mode bits of the unix socket, in octal.", |g| Field::Mode(&mut g.unix_socket_mode)),
    fixed("unix_socket_group", "Group of the unix socket; empty: that of the process.", |g| {
        Field::Name(&mut g.unix_socket_group)
    }),
    fixed("so_reuseport", "Let other processes listen on the same TCP port (SO_REUSEPORT).", |g| {
        Field::Flag(&mut g.so_reuseport)
    }),
    fixed("peer_id", "Our number among the processes of [peers]; 0: we have no peers.", |g| {
        Field::Small(&mut g.peer_id, 0, MOST_PEER)
    }),
    fixed("user", "User to become after the start, when started by root; empty: stay.", |g| Field::Name(&mut g.user)),
    fixed("pidfile", "File that holds the process id; relative to the directory of this file; empty: none.", |g| {
        Field::Path(&mut g.pidfile)
    }),
    row("conffile", "File that the next reload reads instead of this one; empty: this one.", |g| {
        Field::Path(&mut g.conffile)
    }),
    row("logfile", "File that the log is written to as well, opened anew by a reload; empty: none.", |g| {
        Field::Path(&mut g.logfile)
    }),
    row("syslog", "Write the log to the system's log as well.", |g| Field::Flag(&mut g.syslog.on)),
    row(
        "syslog_facility",
        "As of which part of the system: daemon, user, auth, authpriv, local0 to local7, ...",
        |g| Field::Facility(&mut g.syslog.facility),
    ),
    row("syslog_ident", "Under which name.", |g| Field::Text(&mut g.syslog.ident)),
    row("syslog_socket", "The socket of the log daemon.", |g| Field::File(&mut g.syslog.socket)),
    fixed("workers", "Worker threads; 0: one per core.", |g| Field::Small(&mut g.workers, 0, 1024)),
    row("auth_type", "How clients authenticate: trust, any, plain, md5, scram-sha-256, cert, hba, ldap or pam.", |g| {
        Field::Auth(&mut g.auth_type)
    }),
    row("auth_file", "File of \"user\" \"password\" lines; relative to the directory of this file.", |g| {
        Field::Path(&mut g.auth_file)
    }),
    row("auth_hba_file", "Rules in the form of pg_hba.conf, for auth_type = \"hba\".", |g| {
        Field::Path(&mut g.auth_hba_file)
    }),
    row("auth_ident_file", "Maps in the form of pg_ident.conf, for the rules of auth_hba_file.", |g| {
        Field::Path(&mut g.auth_ident_file)
    }),
    row(
        "auth_ldap_options",
        "Whom to ask for auth_type = \"ldap\": options as of the method ldap in pg_hba.conf.",
        |g| Field::SecretText(&mut g.auth_ldap_options.0),
    ),
    row("auth_pam_service", "The name of our service for auth_type = \"pam\", and for rules that name none.", |g| {
        Field::Text(&mut g.auth_pam_service)
    }),
    row("scram_iterations", "Iterations of the SCRAM verifiers that are made of clear passwords.", |g| {
        Field::Count(&mut g.scram_iterations, 1, MANY_ITERATIONS)
    }),
    row(
        "auth_user",
        "User as whom the secrets of users who are not listed are asked from a server; empty: nobody.",
        |g| Field::Name(&mut g.auth_user),
    ),
    row("auth_query", "The question: $1 is the user's name, the answer one row of the name and the secret.", |g| {
        Field::Text(&mut g.auth_query)
    }),
    row("auth_dbname", "The database of [databases] that is asked; empty: the one the client wants.", |g| {
        Field::Name(&mut g.auth_dbname)
    }),
    row("admin_users", "Users who may run every command of the console.", |g| Field::Names(&mut g.admin_users)),
    row("stats_users", "Users who may run SHOW on the console.", |g| Field::Names(&mut g.stats_users)),
    row("max_client_conn", "Client connections at most, over all.", |g| Field::Count(&mut g.max_client_conn, 1, MANY)),
    row("max_db_client_connections", "Client connections per database at most; 0: no limit.", |g| {
        Field::Count(&mut g.max_db_client_connections, 0, MANY)
    }),
    row("max_user_client_connections", "Client connections per user at most, over all databases; 0: no limit.", |g| {
        Field::Count(&mut g.max_user_client_connections, 0, MANY)
    }),
    row(
        "max_db_connections",
        "Server connections per database at most, over all users and servers; 0: no limit.",
        |g| Field::Count(&mut g.max_db_connections, 0, MANY),
    ),
    row(
        "max_user_connections",
        "Server connections per user of servers at most, over all databases; 0: no limit.",
        |g| Field::Count(&mut g.max_user_connections, 0, MANY),
    ),
    row("pool_mode", "When a server goes back to the pool: session, transaction or statement.", |g| {
        Field::Pool(&mut g.pool_mode)
    }),
    row("default_pool_size", "Server connections per user, database and server at most.", |g| {
        Field::Count(&mut g.default_pool_size, 1, MANY)
    }),
    row(
        "min_pool_size",
        "Server connections kept open per pool: as long as a client is connected, or always where the database has a user.",
        |g| Field::Count(&mut g.min_pool_size, 0, MANY),
    ),
    row("reserve_pool_size", "Server connections per pool beyond its size, for clients that wait long.", |g| {
        Field::Count(&mut g.reserve_pool_size, 0, MANY)
    }),
    row("reserve_pool_timeout", "How long a client waits for one of the reserve; 0: the reserve is not used.", |g| {
        Field::Time(&mut g.reserve_pool_timeout)
    }),
    row("max_prepared_statements", "Prepared statements kept on a server connection; 0: they are not followed.", |g| {
        Field::Count(&mut g.max_prepared_statements, 0, MANY)
    }),
    row(
        "prepare_unnamed",
        "An unnamed statement that has come this often is kept by servers as a prepared one; 0: none is.",
        |g| Field::Count(&mut g.prepare_unnamed, 0, MANY),
    ),
    row("max_packet_size", "Largest message taken from a client.", |g| {
        Field::Size(&mut g.max_packet_size, 1024, LARGEST_PACKET)
    }),
    row("query_wait_timeout", "How long a statement may wait for a server; 0: for ever.", |g| {
        Field::Time(&mut g.query_wait_timeout)
    }),
    row("query_wait_notify", "Who waits this long for a server is told so by a notice; 0: nobody is.", |g| {
        Field::Time(&mut g.query_wait_notify)
    }),
    row(
        "cancel_wait_timeout",
        "How long a cancel request may take on its way to the server; 0: server_connect_timeout.",
        |g| Field::Time(&mut g.cancel_wait_timeout),
    ),
    row(
        "server_check_query",
        "Asked on a connection that rested for server_check_delay, before it is lent; \"<empty>\": an empty query; empty: none.",
        |g| Field::Text(&mut g.server_check_query),
    ),
    row(
        "server_check_delay",
        "How long a server connection may rest and be lent unasked; 0: it is always asked.",
        |g| Field::Time(&mut g.server_check_delay),
    ),
    row("server_idle_timeout", "Idle server connections are closed after this; 0: never.", |g| {
        Field::Time(&mut g.server_idle_timeout)
    }),
    row("server_lifetime", "Server connections older than this are closed once idle; 0: never.", |g| {
        Field::Time(&mut g.server_lifetime)
    }),
    row(
        "server_fast_close",
        "Close a server that a session keeps for good, and the session, as soon as no transaction is open, after RECONNECT or new settings.",
        |g| Field::Flag(&mut g.server_fast_close),
    ),
    row("server_connect_timeout", "How long connecting and logging in to a server may take.", |g| {
        Field::TimeAbove(&mut g.server_connect_timeout)
    }),
    row(
        "server_login_retry",
        "Longest wait after a failed login to a server; the first is 0.25 s, each next one twice as long, a good probe ends it.",
        |g| Field::Time(&mut g.server_login_retry),
    ),
    row(
        "dns_max_ttl",
        "How long the addresses of a server's name are used before it is looked up again, whatever its records say; 0: every time.",
        |g| Field::Time(&mut g.dns_max_ttl),
    ),
    row("dns_nxdomain_ttl", "How long it is remembered that a look-up failed, or that there is no such name.", |g| {
        Field::Time(&mut g.dns_nxdomain_ttl)
    }),
    row(
        "dns_zone_check_period",
        "How often zones are asked for their serial numbers; a new one makes their names be looked up again; 0: never.",
        |g| Field::Time(&mut g.dns_zone_check_period),
    ),
    row(
        "resolv_conf",
        "A file instead of /etc/resolv.conf; its nameserver lines may name a port: 10.0.0.1:5353.",
        |g| Field::Path(&mut g.resolv_conf),
    ),
    row("client_login_timeout", "How long a client may take for its part of a login; 0: for ever.", |g| {
        Field::Time(&mut g.client_login_timeout)
    }),
    row("query_timeout", "A statement unanswered for this long is cancelled and its client closed; 0: never.", |g| {
        Field::Time(&mut g.query_timeout)
    }),
    row("transaction_timeout", "A client in one transaction for this long is closed; 0: never.", |g| {
        Field::Time(&mut g.transaction_timeout)
    }),
    row("client_idle_timeout", "A client that asks for nothing for this long is closed; 0: never.", |g| {
        Field::Time(&mut g.client_idle_timeout)
    }),
    row("idle_transaction_timeout", "A client silent for this long in a transaction is closed; 0: never.", |g| {
        Field::Time(&mut g.idle_transaction_timeout)
    }),
    row("server_reset_query", "Resets a server connection whose client left state behind.", |g| {
        Field::Text(&mut g.server_reset_query)
    }),
    row("server_reset_query_always", "Run server_reset_query at every release, also in transaction mode.", |g| {
        Field::Flag(&mut g.server_reset_query_always)
    }),
    row("ignore_startup_parameters", "Startup parameters taken from clients and thrown away.", |g| {
        Field::Names(&mut g.ignore_startup_parameters)
    }),
    row("track_extra_parameters", "What is taken out of `options` although that is thrown away.", |g| {
        Field::Names(&mut g.track_extra_parameters)
    }),
    row("application_name_add_host", "Add the client's address to the application_name it starts with.", |g| {
        Field::Flag(&mut g.application_name_add_host)
    }),
    row(
        "autodb_idle_timeout",
        "A database made from \"*\" that is unused for this long is forgotten; 0: never.",
        |g| Field::Time(&mut g.autodb_idle_timeout),
    ),
    row("server_round_robin", "Prefer the server connection that has rested longest to the one used last.", |g| {
        Field::Flag(&mut g.server_round_robin)
    }),
    row(
        "suspend_timeout",
        "How long SUSPEND waits until nothing is half done, before it closes who is in the middle of something; 0: for ever.",
        |g| Field::Time(&mut g.suspend_timeout),
    ),
    row(
        "shutdown_timeout",
        "How long SIGTERM and SIGINT wait for transactions to end; 0: for ever, and SIGTERM for all clients to leave.",
        |g| Field::Time(&mut g.shutdown_timeout),
    ),
    row("disable_pqexec", "Close clients that use the simple query protocol (the console still takes it).", |g| {
        Field::Flag(&mut g.disable_pqexec)
    }),
    row("stats_period", "Averages of the console are taken over this period.", |g| {
        Field::TimeAbove(&mut g.stats_period)
    }),
    fixed("http_listen", "ADDRESS:PORT of the HTTP listener for /metrics and /health; empty: none.", |g| {
        Field::Socket(&mut g.http_listen)
    }),
    row("log_connections", "Log when clients connect.", |g| Field::Flag(&mut g.log_connections)),
    row("log_disconnections", "Log when clients disconnect, and why.", |g| Field::Flag(&mut g.log_disconnections)),
    row("log_pooler_errors", "Log errors that clients are told by pgweir itself.", |g| {
        Field::Flag(&mut g.log_pooler_errors)
    }),
    row("log_stats", "Log averages once per stats_period.", |g| Field::Flag(&mut g.log_stats)),
    fixed("log_format", "Form of the log: text or json.", |g| Field::Log(&mut g.log_format)),
    row("log_level", "Log level, also by module: \"info\", \"warn,pgweir::pool=debug\".", |g| {
        Field::Filter(&mut g.log_level)
    }),
    row("tcp_keepalive", "TCP keep-alive on client and server connections.", |g| Field::Flag(&mut g.tcp.keepalive)),
    row("tcp_keepidle", "Seconds of silence before the first keep-alive probe; 0: the system's.", |g| {
        Field::Count(&mut g.tcp.keepidle, 0, SHORT)
    }),
    row("tcp_keepintvl", "Seconds between two keep-alive probes; 0: the system's.", |g| {
        Field::Count(&mut g.tcp.keepintvl, 0, SHORT)
    }),
    row("tcp_keepcnt", "Unanswered keep-alive probes that close a connection; 0: the system's.", |g| {
        Field::Count(&mut g.tcp.keepcnt, 0, 127)
    }),
    row("tcp_user_timeout", "Milliseconds that sent bytes may stay unacknowledged; 0: the system's.", |g| {
        Field::Count(&mut g.tcp.user_timeout, 0, LARGEST_PACKET)
    }),
    row("tcp_socket_buffer", "Bytes of a TCP socket's buffers; 0: the system's.", |g| {
        Field::Size(&mut g.tcp.socket_buffer, 0, LARGEST_PACKET)
    }),
    fixed("listen_backlog", "Pending connections of a listener.", |g| Field::Count(&mut g.listen_backlog, 1, 65_535)),
    row("client_tls_sslmode", "TLS with clients: disable, allow, prefer, require, verify-ca or verify-full.", |g| {
        Field::Ssl(&mut g.client_tls.mode)
    }),
    row("client_tls_cert_file", "Our certificate for clients, followed by its chain, in PEM.", |g| {
        Field::Path(&mut g.client_tls.cert_file)
    }),
    row("client_tls_key_file", "The private key of that certificate, in PEM.", |g| {
        Field::Path(&mut g.client_tls.key_file)
    }),
    row(
        "client_tls_ca_file",
        "Authorities that clients' certificates must be of, in PEM; below verify-ca a client may have none.",
        |g| Field::Path(&mut g.client_tls.ca_file),
    ),
    row("client_tls_protocols", "Versions of TLS with clients: secure (both), tlsv1.2 or tlsv1.3.", |g| {
        Field::Protocols(&mut g.client_tls.protocols)
    }),
    row("client_tls_ciphers", "Cipher suites with clients, the preferred first; default: all of rustls.", |g| {
        Field::Ciphers(&mut g.client_tls.ciphers)
    }),
    row(
        "client_tls13_ciphers",
        "Those of TLS 1.3, where they are to be others; default: as above, or all of rustls.",
        |g| Field::Ciphers13(&mut g.client_tls.ciphers13),
    ),
    row(
        "client_tls_ecdhcurve",
        "Curves on which keys are exchanged with clients: auto (all), or X25519, secp256r1, secp384r1.",
        |g| Field::Curves(&mut g.client_tls.curves),
    ),
    row("server_tls_sslmode", "TLS with servers: disable, allow, prefer, require, verify-ca or verify-full.", |g| {
        Field::Ssl(&mut g.server_tls.mode)
    }),
    row(
        "server_tls_ca_file",
        "Authorities that servers' certificates must be of, in PEM (verify-ca, verify-full); empty: those the system trusts.",
        |g| Field::Path(&mut g.server_tls.ca_file),
    ),
    row("server_tls_cert_file", "Our certificate for servers that ask for one, followed by its chain, in PEM.", |g| {
        Field::Path(&mut g.server_tls.cert_file)
    }),
    row("server_tls_key_file", "The private key of that certificate, in PEM.", |g| {
        Field::Path(&mut g.server_tls.key_file)
    }),
    row("server_tls_protocols", "Versions of TLS with servers: secure (both), tlsv1.2 or tlsv1.3.", |g| {
        Field::Protocols(&mut g.server_tls.protocols)
    }),
    row("server_tls_ciphers", "Cipher suites with servers, the preferred first; default: all of rustls.", |g| {
        Field::Ciphers(&mut g.server_tls.ciphers)
    }),
    row(
        "server_tls13_ciphers",
        "Those of TLS 1.3, where they are to be others; default: as above, or all of rustls.",
        |g| Field::Ciphers13(&mut g.server_tls.ciphers13),
    ),
    row(
        "server_tls_ecdhcurve",
        "Curves on which keys are exchanged with servers: auto (all), or X25519, secp256r1, secp384r1.",
        |g| Field::Curves(&mut g.server_tls.curves),
    ),
];

/// How replicas are probed and judged: settings of `[pgweir]` that a database may override.
pub(super) static HEALTH: &[Setting<HealthSettings>] = &[
    row("probe_interval", "Time between two probes of a server.", |h| Field::TimeAbove(&mut h.probe_interval)),
    row("probe_timeout", "Deadline of a probe.", |h| Field::TimeAbove(&mut h.probe_timeout)),
    row("breaker_failures", "Failures in a row after which a server gets no traffic for a while.", |h| {
        Field::Count(&mut h.breaker_failures, 1, MANY)
    }),
    row("breaker_cooldown", "How long a failed server gets no traffic at first.", |h| {
        Field::TimeAbove(&mut h.breaker_cooldown)
    }),
    row("max_lag", "A replica further behind than this gets no reads; 0: no limit.", |h| Field::Time(&mut h.max_lag)),
    row("max_lag_bytes", "A replica that lacks more bytes of WAL than this gets no reads; 0: no limit.", |h| {
        Field::Size(&mut h.max_lag_bytes, 0, LARGEST_PACKET)
    }),
    row(
        "consistency",
        "Which writes a read from a replica sees: the session's own (session), those of all (strong), any (eventual).",
        |h| Field::Consistency(&mut h.consistency),
    ),
    row("max_staleness", "Replicas not known to have everything older than this get no reads; 0: no limit.", |h| {
        Field::Time(&mut h.max_staleness)
    }),
    row("load_balance", "Which replica gets a read: weighted_random, least_inflight, peak_ewma or round_robin.", |h| {
        Field::Reads(&mut h.balance)
    }),
    row("zone", "Our availability zone: replicas of the same zone are preferred; empty: no preference.", |h| {
        Field::Name(&mut h.zone)
    }),
    row("replica_fallback", "What a read gets that no replica is fit for: the primary, or an error.", |h| {
        Field::Fallback(&mut h.fallback)
    }),
    row(
        "failover_timeout",
        "How long statements wait while no server takes writes, after the first probes; 0: they fail at once.",
        |h| Field::Time(&mut h.failover_timeout),
    ),
    row("patroni_interval", "Time between two questions to Patroni, where patroni says who that is.", |h| {
        Field::TimeFrom(&mut h.patroni_interval, Duration::from_millis(100))
    }),
];

/// Sessions that keep a server: settings of `[pgweir]` that a database may override.
pub(super) static PINNING: &[Setting<Pinning>] = &[
    row(
        "on_session_state",
        "What a statement gets whose state only its server has (a temporary table, say): the session keeps it (pin), or an error.",
        |p| Field::State(&mut p.on_session_state),
    ),
    row(
        "max_pinned_connections",
        "Connections of a pool that sessions may keep for such state; 0: no limit but the pool's size.",
        |p| Field::Count(&mut p.max_pinned_connections, 0, MANY),
    ),
    row("pinned_idle_timeout", "How long a client that keeps a server may ask for nothing; 0: for ever.", |p| {
        Field::Time(&mut p.pinned_idle_timeout)
    }),
    row(
        "sequence_values",
        "Behind which statements a session may keep its server, for currval() and lastval(): those that such questions follow (learn), all that may take a value (keep), none (release).",
        |p| Field::Sequences(&mut p.sequence_values),
    ),
    row(
        "sequence_hold",
        "For how long it does so behind a statement while others wait for a server; for 20 times as long at most if it goes on asking.",
        |p| Field::TimeFrom(&mut p.sequence_hold, Duration::from_millis(1)),
    ),
    row(
        "language_state",
        "What becomes of a server that has run code of another language than SQL and PL/pgSQL, which may keep variables that no reset takes away: close, or reset.",
        |p| Field::Languages(&mut p.language_state),
    ),
];

/// `[databases.NAME]`, without [`HEALTH`], [`PINNING`] and the servers.
pub(super) static DATABASE: &[Setting<Database>] = &[
    row("pool_mode", "Overrides pool_mode of [pgweir].", |d| Field::Pool(&mut d.pool_mode)),
    row("pool_size", "Server connections per user and server at most; default: default_pool_size.", |d| {
        Field::Count(&mut d.pool_size, 1, MANY)
    }),
    row("min_pool_size", "Overrides min_pool_size of [pgweir].", |d| Field::Count(&mut d.min_pool_size, 0, MANY)),
    row("reserve_pool_size", "Overrides reserve_pool_size of [pgweir].", |d| {
        Field::Count(&mut d.reserve_pool_size, 0, MANY)
    }),
    row("user", "User to log in to servers as, in one pool for all clients; default: the client's own name.", |d| {
        Field::Name(&mut d.user)
    }),
    row("password", "Password of that user; default: from [users] or auth_file.", |d| Field::Secret(&mut d.password)),
    row("auth_user", "Overrides auth_user of [pgweir].", |d| Field::Name(&mut d.auth_user)),
    row("auth_query", "Overrides auth_query of [pgweir].", |d| Field::Text(&mut d.auth_query)),
    row("auth_dbname", "Overrides auth_dbname of [pgweir].", |d| Field::Name(&mut d.auth_dbname)),
    row("connect_query", "Run on every new server connection; an error of it is logged.", |d| {
        Field::Name(&mut d.connect_query)
    }),
    row("server_lifetime", "Overrides server_lifetime of [pgweir].", |d| Field::Time(&mut d.server_lifetime)),
    row("query_wait_timeout", "Overrides query_wait_timeout of [pgweir].", |d| {
        Field::TimeOver(&mut d.query_wait_timeout)
    }),
    row("max_db_client_connections", "Overrides max_db_client_connections of [pgweir].", |d| {
        Field::Count(&mut d.max_db_client_connections, 0, MANY)
    }),
    row("max_db_connections", "Overrides max_db_connections of [pgweir].", |d| {
        Field::Count(&mut d.max_db_connections, 0, MANY)
    }),
    row("load_balance_hosts", "Of several hosts, new connections take turns (round-robin) or stay (disable).", |d| {
        Field::Balance(&mut d.load_balance_hosts)
    }),
    row("application_name", "Asked of servers at login.", |d| Field::Name(&mut d.startup.application_name)),
    row("client_encoding", "Asked of servers at login.", |d| Field::Name(&mut d.startup.client_encoding)),
    row("datestyle", "Asked of servers at login.", |d| Field::Name(&mut d.startup.datestyle)),
    row("timezone", "Asked of servers at login.", |d| Field::Name(&mut d.startup.timezone)),
    row("probe_user", "User of the prober; default: user.", |d| Field::Name(&mut d.probe_user)),
    row("probe_password", "Password of the prober.", |d| Field::Secret(&mut d.probe_password)),
    row("route", "Where statements go that say nothing themselves: auto, primary or replica.", |d| {
        Field::Route(&mut d.route)
    }),
    row(
        "cross_shard_writes",
        "Sharded: statements that write on several shards are refused (refuse), committed on one shard after the other (best_effort) or by two-phase commit (two_phase).",
        |d| Field::CrossShard(&mut d.writes.cross),
    ),
    row("unkeyed_writes", "Sharded: UPDATE and DELETE without a sharding key go to all shards.", |d| {
        Field::Flag(&mut d.writes.unkeyed)
    }),
    row(
        "partial_results",
        "Sharded: reads of several shards go without those that cannot be reached, with a warning; default for pgweir.partial_results.",
        |d| Field::Flag(&mut d.partial_results),
    ),
];

/// Keys of `[databases.NAME]` that say where the servers are and what lives on them.
pub(super) static DATABASE_SHAPE: &[(&str, &str)] = &[
    ("host", "Simple form: the server's host name, address or socket directory; several separated by commas."),
    ("port", "Simple form: the server's port; default 5432."),
    ("dbname", "Simple form: the database's name on the server; default: the name clients use."),
    ("primary", "The primary: \"postgres://[user[:password]@]host[:port][/dbname]\"."),
    ("replicas", "The replicas: addresses, or { url = ..., weight = ..., zone = ... }."),
    ("servers", "In the place of primary and replicas: all of them, and the probes find out which is what."),
    (
        "patroni",
        "REST interfaces of the Patroni that looks after these servers: [\"http://host:8008\", ...]; default: none.",
    ),
    ("shards", "[[databases.NAME.shards]]: the shards of a sharded database."),
    ("tables", "[databases.NAME.tables]: the tables of a sharded database."),
    ("default_shard", "The shard of the tables that are not listed; default: the first."),
];

/// Keys of `[[databases.NAME.shards]]`.
pub(super) static SHARD: &[(&str, &str)] = &[
    ("name", "The shard's name."),
    ("slots", "Its slots: ranges of 0 to 16383, both ends included."),
    ("primary", "Its primary."),
    ("replicas", "Its replicas."),
    ("servers", "In the place of both: its servers, and the probes find out which is what."),
    ("patroni", "REST interfaces of the Patroni that looks after them."),
];

/// Keys of a replica written as a table.
pub(super) static REPLICA: &[(&str, &str)] = &[
    ("url", "Its address."),
    ("weight", "Its share of the reads relative to the others; default 1.0."),
    ("zone", "Its availability zone; default: not known."),
];

/// Keys of a table of `[databases.NAME.tables]`.
pub(super) static TABLE: &[(&str, &str)] = &[
    ("key", "The sharding key: a column, or a list of columns."),
    ("type", "The column's type, or a list of the columns' types."),
    ("tag", "true: of a text key only the part within braces is hashed, as Redis Cluster does it."),
    ("reference", "true: a full copy on every shard, no key."),
];

/// `[users.NAME]`.
pub(super) static USER: &[Setting<User>] = &[
    row("password", "Clear text, \"md5...\" or \"SCRAM-SHA-256$...\".", |u| Field::Secret(&mut u.password)),
    row("pool_mode", "Overrides pool_mode of the database.", |u| Field::PoolOver(&mut u.pool_mode)),
    row("pool_size", "Overrides pool_size of the database.", |u| Field::CountOver(&mut u.pool_size, 1, MANY)),
    row("route", "Overrides route of the database.", |u| Field::RouteOver(&mut u.route)),
    row("reserve_pool_size", "Overrides reserve_pool_size of the database.", |u| {
        Field::CountOver(&mut u.reserve_pool_size, 0, MANY)
    }),
    row("max_user_client_connections", "Overrides max_user_client_connections of [pgweir].", |u| {
        Field::CountOver(&mut u.max_user_client_connections, 0, MANY)
    }),
    row("max_user_connections", "Overrides max_user_connections of [pgweir].", |u| {
        Field::CountOver(&mut u.max_user_connections, 0, MANY)
    }),
    row("query_timeout", "Overrides query_timeout of [pgweir].", |u| Field::TimeOver(&mut u.query_timeout)),
    row("transaction_timeout", "Overrides transaction_timeout of [pgweir].", |u| {
        Field::TimeOver(&mut u.transaction_timeout)
    }),
    row("client_idle_timeout", "Overrides client_idle_timeout of [pgweir].", |u| {
        Field::TimeOver(&mut u.client_idle_timeout)
    }),
    row("idle_transaction_timeout", "Overrides idle_transaction_timeout of [pgweir].", |u| {
        Field::TimeOver(&mut u.idle_transaction_timeout)
    }),
    row("query_wait_timeout", "Overrides query_wait_timeout of the database.", |u| {
        Field::TimeOver(&mut u.query_wait_timeout)
    }),
];

/// `[peers.NUMBER]`.
pub(super) static PEER: &[Setting<Peer>] = &[
    row("host", "Its host name, address or socket directory.", |p| Field::Host(&mut p.host)),
    row("port", "Its port; default 6432.", |p| Field::Small(&mut p.port, 1, u16::MAX)),
    row("pool_size", "Cancel requests on their way to it at most, others wait; default: default_pool_size.", |p| {
        Field::CountOver(&mut p.pool_size, 1, MANY)
    }),
];

/// Settings of PgBouncer that have no counterpart here, so that a message can say so.
pub(super) static PGBOUNCER_ONLY: &[&str] =
    &["job_name", "pkt_buf", "sbuf_loopcnt", "service_name", "tcp_defer_accept", "verbose"];

impl Default for General {
    fn default() -> Self {
        Self {
            listen_addr: vec!["127.0.0.1".to_owned()],
            listen_port: 6432,
            unix_socket_dir: None,
            unix_socket_mode: 0o777,
            unix_socket_group: None,
            so_reuseport: false,
            peer_id: 0,
            user: None,
            pidfile: None,
            conffile: None,
            logfile: None,
            syslog: SyslogSettings::default(),
            workers: 0,
            auth_type: AuthType::ScramSha256,
            auth_file: None,
            auth_hba_file: None,
            auth_ident_file: None,
            auth_ldap_options: SecretText::default(),
            auth_pam_service: "pgweir".to_owned(),
            scram_iterations: 4096,
            auth_user: None,
            auth_query: AUTH_QUERY.to_owned(),
            auth_dbname: None,
            admin_users: Vec::new(),
            stats_users: Vec::new(),
            max_client_conn: 1000,
            max_db_client_connections: 0,
            max_user_client_connections: 0,
            max_db_connections: 0,
            max_user_connections: 0,
            pool_mode: PoolMode::Transaction,
            default_pool_size: 20,
            min_pool_size: 0,
            reserve_pool_size: 0,
            reserve_pool_timeout: Duration::from_secs(5),
            max_prepared_statements: 200,
            prepare_unnamed: 0,
            max_packet_size: 1 << 30,
            query_wait_timeout: Duration::from_secs(120),
            query_wait_notify: Duration::from_secs(5),
            cancel_wait_timeout: Duration::from_secs(10),
            server_check_query: super::EMPTY_QUERY.to_owned(),
            server_check_delay: Duration::from_secs(30),
            disable_pqexec: false,
            server_idle_timeout: Duration::from_secs(600),
            server_lifetime: Duration::from_secs(3600),
            server_fast_close: false,
            server_connect_timeout: Duration::from_secs(15),
            server_login_retry: Duration::from_secs(15),
            client_login_timeout: Duration::from_secs(60),
            dns_max_ttl: Duration::from_secs(15),
            dns_nxdomain_ttl: Duration::from_secs(15),
            dns_zone_check_period: Duration::ZERO,
            resolv_conf: None,
            query_timeout: Duration::ZERO,
            transaction_timeout: Duration::ZERO,
            client_idle_timeout: Duration::ZERO,
            idle_transaction_timeout: Duration::ZERO,
            server_reset_query: "DISCARD ALL".to_owned(),
            server_reset_query_always: false,
            ignore_startup_parameters: Vec::new(),
            track_extra_parameters: vec!["IntervalStyle".to_owned()],
            application_name_add_host: false,
            autodb_idle_timeout: Duration::from_secs(3600),
            server_round_robin: false,
            suspend_timeout: Duration::from_secs(10),
            shutdown_timeout: Duration::from_secs(30),
            stats_period: Duration::from_secs(60),
            http_listen: None,
            log_connections: true,
            log_disconnections: true,
            log_pooler_errors: true,
            log_stats: true,
            log_format: LogFormat::Text,
            log_level: "info".to_owned(),
            tcp: TcpSettings::default(),
            listen_backlog: 128,
            client_tls: TlsSettings::new(SslMode::Disable),
            server_tls: TlsSettings::new(SslMode::Prefer),
            health: HealthSettings::default(),
            pinning: Pinning::default(),
        }
    }
}

impl Default for TcpSettings {
    fn default() -> Self {
        Self { keepalive: true, keepidle: 0, keepintvl: 0, keepcnt: 0, user_timeout: 0, socket_buffer: 0 }
    }
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self {
            probe_interval: Duration::from_secs(1),
            probe_timeout: Duration::from_secs(2),
            breaker_failures: 5,
            breaker_cooldown: Duration::from_secs(60),
            max_lag: Duration::ZERO,
            max_lag_bytes: 0,
            consistency: Consistency::Session,
            max_staleness: Duration::ZERO,
            fallback: Fallback::Primary,
            zone: None,
            failover_timeout: Duration::from_secs(30),
            patroni_interval: Duration::from_secs(1),
            balance: ReadBalance::WeightedRandom,
        }
    }
}

/// Every setting of `[pgweir]`, in the order of the documentation.
pub fn settings() -> impl Iterator<Item = Info> {
    GENERAL.iter().map(Setting::info).chain(HEALTH.iter().map(Setting::info)).chain(PINNING.iter().map(Setting::info))
}

/// The rows of SHOW CONFIG, sorted: name, value, default (that of the form of the file: ours or PgBouncer's) and whether a reload or
/// SET changes it. Values are written as PgBouncer does: durations in seconds, sizes in bytes, flags as 0 and 1.
#[must_use]
pub fn show_config(config: &Config) -> Vec<(&'static str, String, String, bool)> {
    let shown = values(&config.general, |field| field.show());
    let defaults = match config.dialect {
        Dialect::Toml => General::default(),
        Dialect::Ini => super::ini::defaults(),
    };
    let defaults = values(&defaults, |field| field.show());
    let mut rows: Vec<_> = shown
        .into_iter()
        .zip(defaults)
        .map(|((info, value), (_, default))| match config.dialect {
            Dialect::Toml => (info.name, value, default, info.changeable),
            Dialect::Ini => {
                let shown = |value| super::ini::shown(info.name, value);
                (info.name, shown(value), shown(default), info.changeable)
            }
        })
        .collect();
    // PgBouncer's, of which nothing is kept but the level that it stands for.
    rows.push(("verbose", verbose(&config.general.log_level).to_owned(), "0".to_owned(), true));
    rows.extend(config.idle.iter().map(|(name, [value, default])| (*name, value.clone(), default.clone(), false)));
    // The file has a name also where no setting gives it.
    for (_, value, ..) in rows.iter_mut().filter(|(name, value, ..)| *name == "conffile" && value.is_empty()) {
        *value = config.path.display().to_string();
    }
    rows.sort_unstable();
    rows
}

/// PgBouncer's number for a level.
fn verbose(level: &str) -> &'static str {
    match level {
        "debug" => "1",
        "trace" => "2",
        _ => "0",
    }
}

/// Changes one setting of `[pgweir]` by its text, as the console's SET does. Databases that took their own value from the
/// old one are not changed.
///
/// # Errors
/// There is no such setting, it needs a restart, or the value is wrong: the message says which.
pub fn set(general: &mut General, name: &str, text: &str) -> Result<(), String> {
    let info = settings()
        .find(|info| info.name == name)
        .ok_or_else(|| format!("unknown setting {name:?}{}", suggest(name, settings().map(|info| info.name))))?;
    if !info.changeable {
        return Err(format!("{name} cannot be changed without a restart"));
    }
    set_general(general, name, &Node::Text(text.to_owned())).unwrap_or(Ok(())).map_err(|why| format!("{name} {why}"))
}

/// The section `[pgweir]` with every setting at its default, each under a line that explains it.
#[must_use]
pub fn document() -> String {
    let mut text = String::from("[pgweir]\n");
    for (info, value) in values(&General::default(), |field| field.write()) {
        let restart = if info.changeable { "" } else { " Needs a restart." };
        text.push_str(&format!("# {}{restart}\n{} = {value}\n", info.description, info.name));
    }
    text
}

/// Sets a setting of `[pgweir]`; none when there is no such setting.
pub(super) fn set_general(general: &mut General, name: &str, node: &Node) -> Option<Result<(), String>> {
    match GENERAL.iter().find(|setting| setting.name == name) {
        Some(setting) => Some(setting.set(general, node)),
        None => set_health(&mut general.health, name, node).or_else(|| set_pinning(&mut general.pinning, name, node)),
    }
}

/// Sets a setting of [`HEALTH`]; none when there is no such setting.
pub(super) fn set_health(health: &mut HealthSettings, name: &str, node: &Node) -> Option<Result<(), String>> {
    HEALTH.iter().find(|setting| setting.name == name).map(|setting| setting.set(health, node))
}

/// Sets a setting of [`PINNING`]; none when there is no such setting.
fn set_pinning(pinning: &mut Pinning, name: &str, node: &Node) -> Option<Result<(), String>> {
    PINNING.iter().find(|setting| setting.name == name).map(|setting| setting.set(pinning, node))
}

/// Every setting of `[pgweir]` with its value, written by `text`.
pub(super) fn values(general: &General, text: impl Fn(&Field<'_>) -> String) -> Vec<(Info, String)> {
    // A field is a place to write to; a copy serves to read it.
    let mut copy = general.clone();
    let mut rows = Vec::with_capacity(GENERAL.len() + HEALTH.len() + PINNING.len());
    for setting in GENERAL {
        rows.push((setting.info(), text(&(setting.field)(&mut copy))));
    }
    for setting in HEALTH {
        rows.push((setting.info(), text(&(setting.field)(&mut copy.health))));
    }
    for setting in PINNING {
        rows.push((setting.info(), text(&(setting.field)(&mut copy.pinning))));
    }
    rows
}

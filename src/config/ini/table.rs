//! Every setting of PgBouncer 1.25, its default there, and what becomes of it here. `docs/pgbouncer.md` is made from it.

use super::super::settings;

/// What becomes of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It does what it does in PgBouncer.
    Same,
    /// It does that and more, or what it guards against cannot happen.
    Better,
    /// There is nothing here that it could change: accepted, and named once in a warning.
    NoMeaning,
}

/// How PgBouncer reads a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// As it is.
    Text,
    /// A word; upper and lower case are the same.
    Word,
    /// The name of a file, relative to the working directory.
    File,
    /// The directory of a unix socket: the same, unless `@` begins a name in the abstract namespace.
    Directory,
    /// A whole number as in C: 0x begins a hexadecimal one, 0 an octal one.
    Whole,
    /// The same, for mode bits.
    Mode,
    /// The same, where everything but 0 means yes.
    Flag,
    /// Seconds, with or without a fraction.
    Seconds,
}

/// A setting of PgBouncer.
pub(super) struct Row {
    pub(super) name: &'static str,
    /// Its default. One that is negative says "as the section above", and then so do the others.
    pub(super) defaults: &'static [&'static str],
    pub(super) kind: Kind,
    pub(super) standing: Standing,
    /// For the documentation.
    note: &'static str,
    /// Whether it has no effect in PgBouncer either, by what the other settings are.
    pub(super) moot: Option<Moot>,
}

/// Looks at the other settings of the section, by name.
pub(super) type Moot = fn(&dyn Fn(&str) -> String) -> bool;

const fn row(name: &'static str, defaults: &'static [&'static str], kind: Kind, note: &'static str) -> Row {
    Row { name, defaults, kind, standing: Standing::Same, note, moot: None }
}

impl Row {
    const fn better(self) -> Self {
        Self { standing: Standing::Better, ..self }
    }

    const fn idle(self) -> Self {
        Self { standing: Standing::NoMeaning, ..self }
    }

    const fn unless(self, moot: Moot) -> Self {
        Self { moot: Some(moot), ..self }
    }
}

use Kind::{Directory, File, Flag, Mode, Seconds, Text, Whole, Word};

const FROM_GENERAL: &str = "0: as in `[pgbouncer]`";

const CIPHERS: &str = "names of suites, OpenSSL's or rustls's; of expressions those like `HIGH:!aNULL`, which leave out what rustls does not have";

/// `[pgbouncer]`.
pub(super) static GENERAL: &[Row] = &[
    row("admin_users", &[""], Text, ""),
    row("application_name_add_host", &["0"], Flag, ""),
    row("auth_dbname", &[""], Text, ""),
    row("auth_file", &[""], File, "the same `userlist.txt`; every mistake in it is told"),
    row(
        "auth_hba_file",
        &[""],
        File,
        "with `include`, `@file`, `samehost`, `samenet` and `clientcert=`; what is not understood is an error",
    )
    .unless(without_hba),
    row("auth_ident_file", &[""], File, "regular expressions and `\\1` as in PostgreSQL").unless(without_hba),
    row("auth_ldap_options", &[""], Text, "needs the feature `ldap`").unless(|get| get("auth_type") != "ldap"),
    row(
        "auth_query",
        &[settings::AUTH_QUERY],
        Text,
        "asked on connections that clients never get; the default qualifies its names",
    )
    .better(),
    row(
        "auth_type",
        &["md5"],
        Word,
        "any, trust, plain, md5, scram-sha-256, cert, hba; ldap and pam with the features of these names",
    ),
    row("auth_user", &[""], Text, ""),
    row("autodb_idle_timeout", &["3600"], Seconds, ""),
    row(
        "cancel_wait_timeout",
        &["10"],
        Seconds,
        "for the whole request; only those for peers wait for a place in a pool",
    )
    .better(),
    row("client_idle_timeout", &["0"], Seconds, ""),
    row("client_login_timeout", &["60"], Seconds, ""),
    row("client_tls13_ciphers", &[""], Text, CIPHERS).unless(without_client_tls),
    row("client_tls_ca_file", &[""], File, "").unless(without_client_tls),
    row("client_tls_cert_file", &[""], File, "").unless(without_client_tls),
    row("client_tls_ciphers", &["default"], Text, CIPHERS).unless(without_client_tls),
    row(
        "client_tls_dheparams",
        &["auto"],
        Text,
        "there are no suites with finite-field keys: keys are exchanged on curves",
    )
    .idle(),
    row("client_tls_ecdhcurve", &["auto"], Text, "X25519, prime256v1 or secp384r1; not `none`")
        .unless(without_client_tls),
    row("client_tls_key_file", &[""], File, "").unless(without_client_tls),
    row("client_tls_protocols", &["secure"], Text, "TLS 1.2 and 1.3, no older ones").unless(without_client_tls),
    row("client_tls_sslmode", &["disable"], Word, ""),
    row("conffile", &[""], File, "read at the next reload"),
    row("default_pool_size", &["20"], Whole, ""),
    row("disable_pqexec", &["0"], Flag, ""),
    row("dns_max_ttl", &["15"], Seconds, "names in use are looked up again unasked").better(),
    row("dns_nxdomain_ttl", &["15"], Seconds, "while no answer can be had, the addresses from before stay in use")
        .better(),
    row("dns_zone_check_period", &["0"], Seconds, ""),
    row("idle_transaction_timeout", &["0"], Seconds, ""),
    row("ignore_startup_parameters", &[""], Text, "parameters that are not listed are applied instead of refused; of `options`, if it is listed, what is tracked is taken")
        .better(),
    row("job_name", &["pgbouncer"], Text, "it named a Windows service").idle(),
    row("listen_addr", &[""], Text, ""),
    row("listen_backlog", &["128"], Whole, "`-R` can change it"),
    row("listen_port", &["6432"], Whole, ""),
    row("log_connections", &["1"], Flag, ""),
    row("log_disconnections", &["1"], Flag, ""),
    row("log_pooler_errors", &["1"], Flag, ""),
    row("log_stats", &["1"], Flag, ""),
    row("logfile", &[""], File, ""),
    row("max_client_conn", &["100"], Whole, "console connections are not counted: an operator always gets in").better(),
    row("max_db_client_connections", &["0"], Whole, ""),
    row("max_db_connections", &["0"], Whole, "over all servers of the database"),
    row("max_packet_size", &["2147483647"], Whole, "for what clients send; results are never held"),
    row("max_prepared_statements", &["200"], Whole, "SQL's own PREPARE and EXECUTE work as well").better(),
    row("max_user_client_connections", &["0"], Whole, ""),
    row("max_user_connections", &["0"], Whole, ""),
    row("min_pool_size", &["0"], Whole, "capped at the pool size"),
    row("peer_id", &["0"], Whole, ""),
    row("pidfile", &[""], File, ""),
    row("pkt_buf", &["4096"], Whole, "buffers are as large as what is in them").idle(),
    row("pool_mode", &["session"], Word, ""),
    row("query_timeout", &["0"], Seconds, "the statement is cancelled on its server as well").better(),
    row("query_wait_notify", &["5"], Seconds, ""),
    row("query_wait_timeout", &["120"], Seconds, ""),
    row("reserve_pool_size", &["0"], Whole, ""),
    row("reserve_pool_timeout", &["5"], Seconds, ""),
    row("resolv_conf", &[""], File, "a reload changes it; `nameserver` takes ports as well").better(),
    row("sbuf_loopcnt", &["5"], Whole, "no connection can hold up the others").idle(),
    row("scram_iterations", &["4096"], Whole, ""),
    row("server_check_delay", &["30"], Seconds, "besides, a connection is looked at whenever it is lent").better(),
    row("server_check_query", &["<empty>"], Text, ""),
    row("server_connect_timeout", &["15"], Seconds, ""),
    row("server_fast_close", &["0"], Flag, ""),
    row("server_idle_timeout", &["600"], Seconds, ""),
    row("server_lifetime", &["3600"], Seconds, ""),
    row("server_login_retry", &["15"], Seconds, ""),
    row("server_reset_query", &["DISCARD ALL"], Text, "runs only for clients that left state behind").better(),
    row("server_reset_query_always", &["0"], Flag, ""),
    row("server_round_robin", &["0"], Flag, ""),
    row("server_tls13_ciphers", &[""], Text, CIPHERS).unless(without_server_tls),
    row("server_tls_ca_file", &[""], File, "").unless(without_server_tls),
    row("server_tls_cert_file", &[""], File, "").unless(without_server_tls),
    row("server_tls_ciphers", &["default"], Text, CIPHERS).unless(without_server_tls),
    row("server_tls_key_file", &[""], File, "").unless(without_server_tls),
    row("server_tls_protocols", &["secure"], Text, "TLS 1.2 and 1.3, no older ones").unless(without_server_tls),
    row("server_tls_sslmode", &["prefer"], Word, ""),
    row("service_name", &["pgbouncer"], Text, "it named a Windows service").idle(),
    row("so_reuseport", &["0"], Flag, ""),
    row("stats_period", &["60"], Seconds, ""),
    row("stats_users", &[""], Text, ""),
    row("suspend_timeout", &["10"], Seconds, ""),
    row("syslog", &["0"], Flag, "the time is left to the log daemon"),
    row("syslog_facility", &["daemon"], Word, "").unless(without_syslog),
    row("syslog_ident", &["pgbouncer"], Text, "").unless(without_syslog),
    row("tcp_defer_accept", &["1"], Flag, "a connection that says nothing costs next to nothing").idle(),
    row("tcp_keepalive", &["1"], Flag, ""),
    row("tcp_keepcnt", &["0"], Whole, ""),
    row("tcp_keepidle", &["0"], Whole, ""),
    row("tcp_keepintvl", &["0"], Whole, ""),
    row("tcp_socket_buffer", &["0"], Whole, ""),
    row("tcp_user_timeout", &["0"], Whole, ""),
    row("track_extra_parameters", &["IntervalStyle"], Text, "every setting stays with its client; the list counts where `options` is ignored")
        .better(),
    row("transaction_timeout", &["0"], Seconds, ""),
    row("unix_socket_dir", &["/tmp"], Directory, ""),
    row("unix_socket_group", &[""], Text, ""),
    row("unix_socket_mode", &["0777"], Mode, ""),
    row("user", &[""], Text, ""),
    row("verbose", &["0"], Whole, "1 is `log_level = \"debug\"`, 2 and more \"trace\"; SET and a reload change it at once"),
];

/// A database of `[databases]`.
pub(super) static DATABASE: &[Row] = &[
    row("application_name", &[], Text, ""),
    row("auth_dbname", &[], Text, ""),
    row("auth_query", &[], Text, ""),
    row("auth_user", &[], Text, ""),
    row("client_encoding", &[], Text, ""),
    row("connect_query", &[], Text, "what it sets stays, whatever clients set or reset"),
    row("datestyle", &[], Text, ""),
    row("dbname", &[], Text, ""),
    row("host", &[], Text, ""),
    row("load_balance_hosts", &["round-robin"], Word, ""),
    row("max_db_client_connections", &["-1", "0"], Whole, FROM_GENERAL),
    row("max_db_connections", &["-1", "0"], Whole, FROM_GENERAL),
    row("min_pool_size", &["-1"], Whole, "capped at the pool size"),
    row("password", &[], Text, ""),
    row("pool_mode", &[], Word, ""),
    row("pool_size", &["-1"], Whole, ""),
    row("port", &["5432"], Whole, ""),
    row("query_wait_timeout", &["-1"], Seconds, ""),
    row("reserve_pool", &["-1"], Whole, "the old name of `reserve_pool_size`"),
    row("reserve_pool_size", &["-1"], Whole, ""),
    row("server_lifetime", &["-1"], Seconds, ""),
    row("timezone", &[], Text, ""),
    row("user", &[], Text, ""),
];

/// A user of `[users]`.
pub(super) static USER: &[Row] = &[
    row("client_idle_timeout", &["0"], Seconds, FROM_GENERAL),
    row("idle_transaction_timeout", &["0"], Seconds, FROM_GENERAL),
    row("max_user_client_connections", &["-1", "0"], Whole, FROM_GENERAL),
    row("max_user_connections", &["-1", "0"], Whole, FROM_GENERAL),
    row("pool_mode", &[], Word, ""),
    row("pool_size", &["-1"], Whole, ""),
    row("query_timeout", &["0"], Seconds, FROM_GENERAL),
    row("query_wait_timeout", &["-1"], Seconds, ""),
    row("reserve_pool_size", &["-1"], Whole, ""),
    row("transaction_timeout", &["0"], Seconds, FROM_GENERAL),
];

/// A peer of `[peers]`: of no use without `peer_id`, as a warning says.
pub(super) static PEER: &[Row] = &[
    row("host", &[], Text, "of several that are as good as each other, the first that can be reached"),
    row("pool_size", &["-1"], Whole, ""),
    row("port", &["6432"], Whole, ""),
];

fn without_hba(get: &dyn Fn(&str) -> String) -> bool {
    get("auth_type") != "hba"
}

fn without_client_tls(get: &dyn Fn(&str) -> String) -> bool {
    get("client_tls_sslmode") == "disable"
}

fn without_server_tls(get: &dyn Fn(&str) -> String) -> bool {
    get("server_tls_sslmode") == "disable"
}

fn without_syslog(get: &dyn Fn(&str) -> String) -> bool {
    get("syslog") == "0"
}

/// Whether `[pgweir]` has the setting.
pub(super) fn in_general(name: &str) -> bool {
    settings::settings().any(|info| info.name == name)
}

/// Whether `[databases.NAME]` has the setting.
pub(super) fn in_database(name: &str) -> bool {
    settings::DATABASE.iter().any(|setting| setting.name == name)
        || settings::DATABASE_SHAPE.iter().any(|(key, _)| *key == name)
}

/// Whether `[users.NAME]` has the setting.
pub(super) fn in_user(name: &str) -> bool {
    settings::USER.iter().any(|setting| setting.name == name)
}

/// Whether `[peers.NUMBER]` has the setting.
pub(super) fn in_peer(name: &str) -> bool {
    settings::PEER.iter().any(|setting| setting.name == name)
}

/// The sections of the documentation.
const SECTIONS: [(&str, &[Row]); 4] =
    [("[pgbouncer]", GENERAL), ("[databases]", DATABASE), ("[users]", USER), ("[peers]", PEER)];

/// The tables of `docs/pgbouncer.md`.
#[must_use]
pub fn document() -> String {
    let mut text = String::new();
    for (title, rows) in SECTIONS {
        text.push_str(&format!("## {title}\n\n| setting | here | |\n|---|---|---|\n"));
        for row in rows {
            let standing = match row.standing {
                Standing::Same => "same",
                Standing::Better => "better",
                Standing::NoMeaning => "no meaning here",
            };
            text.push_str(&format!("| `{}` | {standing} | {} |\n", row.name, row.note));
        }
        text.push('\n');
    }
    text
}

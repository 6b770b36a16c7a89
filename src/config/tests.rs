//! The whole way from text to configuration, and the mistakes on it.

use std::path::Path;

use proptest::prelude::*;

use super::settings::{document, settings, show_config};
use super::tls::{CURVES, Protocols, SUITES, SslMode};
use super::*;
use crate::id::{PeerId, ShardIndex};
use crate::shard::map::{KeyType, Table};
use crate::sql::facts::RouteHint;

const SMALL: &str = include_str!("../../conf/pgweir.toml");
const FULL: &str = include_str!("../../conf/pgweir.full.toml");

/// What a file must have to be right beside the part under test.
const USERS: &str = "[users.u]\npassword = \"HUNTER2\"\n";

fn read(text: &str) -> Config {
    parse(text, Path::new("etc/pgweir.toml")).unwrap_or_else(|errors| panic!("{}", said(&errors).join("\n")))
}

fn said(errors: &[ConfigError]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

/// The mistakes of a text, as `line: message`.
fn mistakes(text: &str) -> Vec<String> {
    let errors = parse(text, Path::new("c")).err().unwrap_or_else(|| panic!("taken: {text}"));
    said(&errors).into_iter().map(|error| error.strip_prefix("c:").unwrap().to_owned()).collect()
}

/// Asserts that a text with `[users]` after it has this one mistake.
#[track_caller]
fn refused(text: &str, expected: &str) {
    assert_eq!(mistakes(&format!("{text}\n{USERS}")), [expected], "{text}");
}

#[test]
fn the_small_file_is_right() {
    let config = read(SMALL);
    assert_eq!(config.warnings, Vec::<String>::new());
    let server = &config.databases["postgres"].shards[0].servers[0];
    assert_eq!((server.address().as_str(), server.role), ("127.0.0.1:5432/postgres", Role::Primary));
    assert_eq!(config.general.http_listen.unwrap().port(), 9127);
    assert!(config.users["postgres"].password.is_some());
}

#[test]
fn the_full_file_holds_every_setting_at_its_default() {
    let config = read(FULL);
    assert_eq!(config.general, General::default());
    assert_eq!(config.warnings, Vec::<String>::new());
    assert!(FULL.contains(&document()), "[pgweir] is not as the table of settings has it:\n{}", document());
}

#[test]
fn the_full_file_shows_every_key_of_the_other_sections() {
    let section = |from: &str, to: &str| {
        let start = FULL.find(from).unwrap();
        &FULL[start..FULL[start..].find(to).map_or(FULL.len(), |end| start + end)]
    };
    let databases = section("[databases.simple]", "[users.");
    let names = settings::DATABASE.iter().map(|s| s.name).chain(settings::HEALTH.iter().map(|s| s.name));
    let names = names.chain(settings::PINNING.iter().map(|s| s.name));
    let shape = [settings::DATABASE_SHAPE, settings::SHARD, settings::REPLICA, settings::TABLE].concat();
    for name in names.chain(shape.into_iter().map(|(name, _)| name)).filter(|name| !["shards", "tables"].contains(name))
    {
        assert!(databases.contains(&format!("{name} = ")), "{name}");
    }
    let users = section("[users.", "[peers.");
    for setting in settings::USER {
        assert!(users.contains(&format!("{} = ", setting.name)), "{}", setting.name);
    }
    let peers = section("[peers.", "\0");
    for setting in settings::PEER {
        assert!(peers.contains(&format!("# {} = ", setting.name)), "{}", setting.name);
    }
    // They are in comments, for they would be of no effect.
    let uncommented = peers.replace("\n# ", "\n").replace("Host name", "# Host name").replace("Cancel", "# Cancel");
    assert_eq!(read(&format!("[pgweir]\npeer_id = 1\n{uncommented}\n{USERS}")).peers.len(), 2);
}

/// With `PGWEIR_BLESS` set the page is brought up to date instead.
#[test]
fn settings_of_pgbouncer_are_documented() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/pgbouncer.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (head, _) = page.split_once("## [pgbouncer]").unwrap_or((&page, ""));
    let expected = format!("{head}{}", pgbouncer_settings());
    if std::env::var_os("PGWEIR_BLESS").is_some() {
        std::fs::write(path, &expected).unwrap();
    } else {
        assert_eq!(page, expected, "docs/pgbouncer.md is not what src/config/ini/table.rs says");
    }
}

#[test]
fn the_wildcard_stands_for_databases_that_are_not_listed() {
    let config = read(&format!("[databases.\"*\"]\nhost = \"a,b\"\n[databases.app]\nhost = \"c\"\n{USERS}"));
    assert_eq!(config.databases.keys().collect::<Vec<_>>(), ["app"]);
    let wildcard = config.wildcard.unwrap();
    let server = |database: &Database| database.shards[0].servers[0].address();
    assert_eq!(server(&wildcard.named("x")), "a,b:5432/x");
    let one = read(&format!("[databases.\"*\"]\nhost = \"a\"\ndbname = \"real\"\n{USERS}")).wildcard.unwrap();
    assert_eq!((one.named("x").name.as_str(), server(&one.named("x")).as_str()), ("x", "a:5432/real"));
}

#[test]
fn every_default_reads_back() {
    let mut general = General::default();
    for (info, text) in settings::values(&General::default(), |field| field.show()) {
        let taken = settings::set_general(&mut general, info.name, &raw::Node::Text(text.clone()));
        assert_eq!(taken, Some(Ok(())), "{} = {text:?}", info.name);
    }
    assert_eq!(general, General::default());
}

#[test]
fn names_of_settings_are_unique_and_none_is_said_to_be_unsupported() {
    let mut names: Vec<_> = settings().map(|info| info.name).collect();
    assert!(settings().all(|info| !settings::PGBOUNCER_ONLY.contains(&info.name)));
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn every_setting_of_the_process_is_read() {
    let general = read(&format!(
        r#"
[pgweir]
listen_addr = "127.0.0.1, ::1"
listen_port = 7000
unix_socket_dir = "/run/pgweir"
unix_socket_mode = "0700"
syslog = true
syslog_facility = "local3"
syslog_ident = "weir"
syslog_socket = "log.sock"
workers = 4
auth_type = "hba"
auth_hba_file = "hba"
auth_ident_file = "ident"
auth_file = "userlist.txt"
auth_ldap_options = "ldapserver=h"
auth_pam_service = "db"
scram_iterations = 600
auth_user = "looker"
auth_query = "SELECT a, b FROM f($1)"
auth_dbname = "app"
admin_users = "root, boss"
stats_users = ["viewer"]
max_client_conn = 10
pool_mode = "session"
default_pool_size = 7
min_pool_size = 2
max_prepared_statements = 0
prepare_unnamed = 3
max_packet_size = "64kB"
query_wait_timeout = "500ms"
server_idle_timeout = 5
server_lifetime = "1h"
server_fast_close = 1
server_connect_timeout = 2.5
server_login_retry = "0"
dns_max_ttl = "12s"
dns_nxdomain_ttl = "13s"
dns_zone_check_period = "14s"
resolv_conf = "resolv.conf"
client_login_timeout = "5min"
idle_transaction_timeout = "1d"
query_timeout = "6s"
transaction_timeout = "7s"
client_idle_timeout = "8s"
query_wait_notify = "9s"
cancel_wait_timeout = 0
server_check_query = "SELECT 1"
server_check_delay = "11s"
disable_pqexec = true
server_reset_query = ""
server_reset_query_always = 1
ignore_startup_parameters = "extra_float_digits"
track_extra_parameters = "search_path"
server_round_robin = true
suspend_timeout = 12
shutdown_timeout = "0s"
stats_period = "10s"
http_listen = "[::1]:9127"
log_connections = false
log_disconnections = "no"
log_format = "json"
log_level = "warn,pgweir::pool=debug"
tcp_keepalive = false
reserve_pool_size = 4
reserve_pool_timeout = 1.5
tcp_keepidle = 1
tcp_keepintvl = 2
tcp_keepcnt = 3
tcp_user_timeout = 4
tcp_socket_buffer = "64kB"
unix_socket_group = "g"
conffile = "other.toml"
so_reuseport = true
peer_id = 5
user = "u"
pidfile = "/run/pid"
logfile = "log"
max_db_client_connections = 8
max_user_client_connections = 9
max_db_connections = 11
max_user_connections = 12
application_name_add_host = true
autodb_idle_timeout = "1min"
log_pooler_errors = false
log_stats = false
listen_backlog = 4096
client_tls_sslmode = "verify-ca"
client_tls_cert_file = "etc/c.crt"
client_tls_key_file = "etc/c.key"
client_tls_ca_file = "/etc/ca.crt"
client_tls_protocols = "tlsv1.3"
client_tls13_ciphers = "TLS_CHACHA20_POLY1305_SHA256"
client_tls_ecdhcurve = "P-384, x25519"
client_tls_ciphers = ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384"]
server_tls_sslmode = "verify-full"
server_tls_ca_file = "ca.crt"
server_tls_cert_file = "s.crt"
server_tls_key_file = "s.key"
server_tls_protocols = ["tlsv1.2"]
server_tls_ciphers = "ECDHE-RSA-AES256-GCM-SHA384"
server_tls13_ciphers = "TLS_AES_256_GCM_SHA384"
server_tls_ecdhcurve = "prime256v1"
probe_interval = "2s"
probe_timeout = "3s"
breaker_failures = 1
breaker_cooldown = "4s"
max_lag = "5s"
consistency = "eventual"
load_balance = "peak_ewma"
max_lag_bytes = "1MB"
max_staleness = "6s"
replica_fallback = "error"
zone = "a"
failover_timeout = "7s"
patroni_interval = "8s"
on_session_state = "error"
max_pinned_connections = 4
pinned_idle_timeout = "8s"
sequence_values = "keep"
sequence_hold = "9ms"
language_state = "reset"
[databases.app]
host = "h"
{USERS}"#
    ))
    .general;
    let seconds = Duration::from_secs;
    let expected = General {
        listen_addr: vec!["127.0.0.1".into(), "::1".into()],
        listen_port: 7000,
        unix_socket_dir: Some("/run/pgweir".into()),
        unix_socket_mode: 0o700,
        syslog: SyslogSettings {
            on: true,
            facility: Facility::Local3,
            ident: "weir".into(),
            socket: "etc/log.sock".into(),
        },
        workers: 4,
        auth_type: AuthType::Hba,
        auth_hba_file: Some("etc/hba".into()),
        auth_ident_file: Some("etc/ident".into()),
        auth_file: Some("etc/userlist.txt".into()),
        auth_ldap_options: SecretText(Some("ldapserver=h".into())),
        auth_pam_service: "db".into(),
        scram_iterations: 600,
        auth_user: Some("looker".into()),
        auth_query: "SELECT a, b FROM f($1)".into(),
        auth_dbname: Some("app".into()),
        admin_users: vec!["root".into(), "boss".into()],
        stats_users: vec!["viewer".into()],
        max_client_conn: 10,
        pool_mode: PoolMode::Session,
        default_pool_size: 7,
        min_pool_size: 2,
        max_prepared_statements: 0,
        prepare_unnamed: 3,
        max_packet_size: 65_536,
        query_wait_timeout: Duration::from_millis(500),
        server_idle_timeout: seconds(5),
        server_lifetime: seconds(3600),
        server_fast_close: true,
        server_connect_timeout: Duration::from_millis(2500),
        server_login_retry: Duration::ZERO,
        dns_max_ttl: seconds(12),
        dns_nxdomain_ttl: seconds(13),
        dns_zone_check_period: seconds(14),
        resolv_conf: Some("etc/resolv.conf".into()),
        client_login_timeout: seconds(300),
        idle_transaction_timeout: seconds(86_400),
        query_timeout: seconds(6),
        transaction_timeout: seconds(7),
        client_idle_timeout: seconds(8),
        query_wait_notify: seconds(9),
        cancel_wait_timeout: Duration::ZERO,
        server_check_query: "SELECT 1".to_owned(),
        server_check_delay: seconds(11),
        disable_pqexec: true,
        server_reset_query: String::new(),
        server_reset_query_always: true,
        ignore_startup_parameters: vec!["extra_float_digits".into()],
        track_extra_parameters: vec!["search_path".into()],
        server_round_robin: true,
        suspend_timeout: seconds(12),
        shutdown_timeout: Duration::ZERO,
        stats_period: seconds(10),
        http_listen: Some("[::1]:9127".parse().unwrap()),
        log_connections: false,
        log_disconnections: false,
        log_format: LogFormat::Json,
        log_level: "warn,pgweir::pool=debug".into(),
        tcp: TcpSettings {
            keepalive: false,
            keepidle: 1,
            keepintvl: 2,
            keepcnt: 3,
            user_timeout: 4,
            socket_buffer: 65_536,
        },
        unix_socket_group: Some("g".into()),
        conffile: Some("etc/other.toml".into()),
        so_reuseport: true,
        peer_id: 5,
        user: Some("u".into()),
        pidfile: Some("/run/pid".into()),
        logfile: Some("etc/log".into()),
        max_db_client_connections: 8,
        max_user_client_connections: 9,
        max_db_connections: 11,
        max_user_connections: 12,
        application_name_add_host: true,
        autodb_idle_timeout: seconds(60),
        log_pooler_errors: false,
        log_stats: false,
        reserve_pool_size: 4,
        reserve_pool_timeout: Duration::from_millis(1500),
        listen_backlog: 4096,
        client_tls: TlsSettings {
            mode: SslMode::VerifyCa,
            cert_file: Some("etc/etc/c.crt".into()),
            key_file: Some("etc/etc/c.key".into()),
            ca_file: Some("/etc/ca.crt".into()),
            protocols: Protocols::Tls13,
            ciphers: vec![&SUITES[1], &SUITES[0]],
            ciphers13: vec![&SUITES[2]],
            curves: vec![&CURVES[2], &CURVES[0]],
        },
        server_tls: TlsSettings {
            mode: SslMode::VerifyFull,
            cert_file: Some("etc/s.crt".into()),
            key_file: Some("etc/s.key".into()),
            ca_file: Some("etc/ca.crt".into()),
            protocols: Protocols::Tls12,
            ciphers: vec![&SUITES[6]],
            ciphers13: vec![&SUITES[0]],
            curves: vec![&CURVES[1]],
        },
        health: HealthSettings {
            probe_interval: seconds(2),
            probe_timeout: seconds(3),
            breaker_failures: 1,
            breaker_cooldown: seconds(4),
            max_lag: seconds(5),
            max_lag_bytes: 1 << 20,
            consistency: Consistency::Eventual,
            max_staleness: seconds(6),
            fallback: Fallback::Error,
            zone: Some("a".to_owned()),
            failover_timeout: seconds(7),
            patroni_interval: seconds(8),
            balance: ReadBalance::PeakEwma,
        },
        pinning: Pinning {
            on_session_state: OnSessionState::Error,
            max_pinned_connections: 4,
            pinned_idle_timeout: seconds(8),
            sequence_values: SequenceValues::Keep,
            sequence_hold: Duration::from_millis(9),
            language_state: LanguageState::Reset,
        },
    };
    assert_eq!(general, expected);
    // Every setting of the table took part: none is left at its default.
    let values = |general: &General| settings::values(general, |field| field.write());
    for ((info, value), (_, default)) in values(&general).into_iter().zip(values(&General::default())) {
        if info.name != "server_lifetime" {
            assert_ne!(value, default, "{}", info.name);
        }
    }
}

#[test]
fn servers_may_stand_in_one_list() {
    let config = read(&format!(
        "[pgweir]\nauth_type = \"trust\"\nzone = \"b\"\n[databases.a]\nuser = \"u\"\n\
         servers = [\"postgres://h\", {{ url = \"postgres://g\", weight = 2, zone = \"b\" }}]\n{USERS}"
    ));
    let servers = &config.databases["a"].shards[0].servers;
    let found: Vec<_> = servers.iter().map(|s| (s.role, s.weight, s.zone.as_deref())).collect();
    assert_eq!(found, [(Role::Auto, 1.0, None), (Role::Auto, 2.0, Some("b"))]);
    assert_eq!(config.databases["a"].health.zone.as_deref(), Some("b"));
}

#[test]
fn a_database_with_replicas_is_read() {
    let config = read(&format!(
        r#"
[pgweir]
default_pool_size = 9
max_lag = "7s"
[databases.app]
primary = "postgres://joe:se%63ret@10.0.0.1:5433/real"
replicas = ["postgres:///?host=/tmp", {{ url = "postgres://[::1]/x", weight = 2.5 }}]
min_pool_size = 3
route = "replica"
probe_interval = "3s"
[databases.plain]
host = "/var/run/postgresql"
port = 5555
pool_mode = "session"
{USERS}"#
    ));
    let app = &config.databases["app"];
    assert_eq!((app.pool_size, app.min_pool_size, app.route), (9, 3, RouteHint::Replica));
    assert_eq!((app.user.as_deref(), app.password.as_deref()), (Some("joe"), Some("secret")));
    assert_eq!((app.health.probe_interval, app.health.max_lag), (Duration::from_secs(3), Duration::from_secs(7)));
    assert_eq!(app.health.probe_timeout, HealthSettings::default().probe_timeout);
    assert_eq!((app.shards.len(), app.shards[0].name.as_str()), (1, "default"));
    let seen: Vec<_> = app.shards[0].servers.iter().map(|s| (s.address(), s.role, s.weight)).collect();
    assert_eq!(
        seen,
        [
            ("10.0.0.1:5433/real".to_owned(), Role::Primary, 1.0),
            ("/tmp:5432/app".to_owned(), Role::Replica, 1.0),
            ("[::1]:5432/x".to_owned(), Role::Replica, 2.5),
        ]
    );
    let plain = &config.databases["plain"];
    assert_eq!(plain.pool_mode, PoolMode::Session);
    assert_eq!(plain.shards[0].servers[0].host, Host::Unix("/var/run/postgresql".into()));
    assert_eq!((plain.shards[0].servers[0].port, plain.shards[0].servers[0].dbname.as_str()), (5555, "plain"));
}

#[test]
fn a_sharded_database_is_read() {
    let config = read(&format!(
        "{BIG}tables.sales.refunds = {{ key = \"id\", type = \"uuid\" }}\n\
         tables.carts = {{ key = \"k\", type = \"varchar\", tag = true }}\n\
         tables.notes = {{ key = \"k\", type = \"text\", tag = false }}\n\
         tables.lines = {{ key = [\"tenant\", \"line\"], type = [\"int\", \"varchar\"] }}\n\
         tables.one = {{ key = [\"k\"], type = [\"uuid\"] }}\n{USERS}"
    ));
    let big = &config.databases["big"];
    assert_eq!(big.map.names, ["s0", "s1"]);
    assert_eq!((big.map.owners[8191], big.map.owners[8192]), (ShardIndex(0), ShardIndex(1)));
    assert_eq!(big.map.default_shard, ShardIndex(1));
    assert_eq!(big.shards[1].servers.len(), 2);
    let table = |schema: &str, name: &str| big.map.tables.get(&(schema.to_owned(), name.to_owned())).cloned();
    let key = |key: &str, key_type| Some(Table::sharded(key, key_type));
    assert_eq!(table("public", "orders"), key("customer_id", KeyType::Integer { width: 8 }));
    assert_eq!(table("sales", "items"), key("sku", KeyType::Text));
    assert_eq!(table("sales", "refunds"), key("id", KeyType::Uuid));
    assert_eq!(table("public", "carts"), key("k", KeyType::Tagged));
    assert_eq!(table("public", "notes"), key("k", KeyType::Text));
    assert_eq!(table("public", "one"), key("k", KeyType::Uuid));
    let lines = table("public", "lines").and_then(|table| table.key().map(crate::shard::table_key::TableKey::shown));
    assert_eq!(lines, Some(("tenant,line".to_owned(), "integer,text".to_owned())));
    assert_eq!(table("public", "countries"), Some(Table::Reference));
}

#[test]
fn users_are_read() {
    let config = read(
        "[users.alice]\npassword = \"p\"\npool_mode = \"session\"\npool_size = 5\nroute = \"primary\"\n\
         max_user_client_connections = 3\nreserve_pool_size = 2\nmax_user_connections = 6\nquery_timeout = 1\ntransaction_timeout = 2\n\
         client_idle_timeout = 3\nidle_transaction_timeout = 4\nquery_wait_timeout = 0\n",
    );
    let expected = User {
        password: Some("p".into()),
        pool_mode: Some(PoolMode::Session),
        pool_size: Some(5),
        route: Some(RouteHint::Primary),
        max_user_client_connections: Some(3),
        reserve_pool_size: Some(2),
        max_user_connections: Some(6),
        query_timeout: Some(Duration::from_secs(1)),
        transaction_timeout: Some(Duration::from_secs(2)),
        client_idle_timeout: Some(Duration::from_secs(3)),
        idle_transaction_timeout: Some(Duration::from_secs(4)),
        query_wait_timeout: Some(Duration::ZERO),
    };
    assert_eq!(config.users["alice"], expected);
    assert_eq!(config.warnings, ["no databases are configured: only the console can be connected to"]);
}

#[test]
fn three_mistakes_are_three_errors_in_the_order_of_the_file() {
    let text = "[pgweir]\nlisten_prot = 1\nworkers = -1\n[databases.app]\nhost = \"h\"\npool_mode = \"transction\"\n";
    let errors = parse(&format!("{text}{USERS}"), Path::new("conf/pgweir.toml")).unwrap_err();
    assert_eq!(
        said(&errors),
        [
            "conf/pgweir.toml:2: unknown setting \"listen_prot\" in [pgweir]; did you mean \"listen_port\"?",
            "conf/pgweir.toml:3: workers = \"-1\" is not a whole number from 0 to 1024",
            "conf/pgweir.toml:6: pool_mode = \"transction\" is not known; expected \"session\", \"transaction\" or \"statement\"; did you mean \"transaction\"?",
        ]
    );
}

#[test]
fn a_syntax_error_is_one_error_with_its_line_and_hides_no_other() {
    let found = mistakes("[pgweir]\nlisten_prot = 1\n\n[users.u]\npassword = \"HUNTER2\n");
    assert_eq!(found[0], "2: unknown setting \"listen_prot\" in [pgweir]; did you mean \"listen_port\"?");
    assert!(found.len() == 2 && found[1].starts_with("5: not valid TOML: "), "{found:?}");
    for secret in
        ["HUNTER2", "\"x\\HUNTER2\"", "\"x\"HUNTER2", "HUNTER2\"", "= HUNTER2", "[HUNTER2", "{ HUNTER2", "1HUNTER2"]
    {
        let found = mistakes(&format!("[users.u]\npassword = {secret}\n"));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(!found[0].contains("HUNTER2") && found[0].contains("not valid TOML"), "{found:?}");
    }
    let found = mistakes(&format!("[pgweir]\nworkers = 1\nworkers = 2\n{USERS}"));
    assert_eq!(found, ["3: not valid TOML: duplicate key"]);
}

#[test]
fn unknown_names_are_refused() {
    for (text, expected) in [
        ("[pgweri]", "1: unknown section \"pgweri\"; did you mean \"pgweir\"?"),
        ("[pgbouncer]", "1: unknown section [pgbouncer]; did you mean [pgweir]?"),
        ("[other]", "1: unknown section \"other\"; expected \"pgweir\", \"databases\", \"users\", \"peers\""),
        ("[user.x]\npassword = \"y\"", "1: unknown section \"user\"; did you mean \"users\"?"),
        ("listen_port = 1", "1: \"listen_port\" stands outside of a section; it belongs in [pgweir]"),
        ("[pgweir]\nfoo = 1", "2: unknown setting \"foo\" in [pgweir]"),
        (
            "[pgweir]\npkt_buf = 1",
            "2: unknown setting \"pkt_buf\" in [pgweir]; it is PgBouncer's and not supported here",
        ),
        ("[pgweir]\n\"a\\nb\" = 1", "2: unknown setting \"a\\nb\" in [pgweir]"),
        ("[pgweir]\nprobe_user = 1", "2: unknown setting \"probe_user\" in [pgweir]; it belongs in [databases.NAME]"),
        (
            "[databases.a]\nhost = \"h\"\nlisten_port = 1",
            "3: unknown setting \"listen_port\" in [databases.a]; it belongs in [pgweir]",
        ),
        (
            "[databases.\"a b\"]\nhost = \"h\"\nmax_lga = 1",
            "3: unknown setting \"max_lga\" in [databases.\"a b\"]; did you mean \"max_lag\"?",
        ),
        ("[users.a]\npasword = \"x\"", "2: unknown setting \"pasword\" in [users.a]; did you mean \"password\"?"),
        ("[users.a]\nx = \"x\"", "2: unknown setting \"x\" in [users.a]"),
        (
            "[databases.a]\nprimary = \"postgres://h\"\nreplicas = [{ url = \"postgres://g\", wieght = 1 }]",
            "3: unknown setting \"wieght\" in a replica of [databases.a]; did you mean \"weight\"?",
        ),
    ] {
        refused(text, expected);
    }
}

#[test]
fn wrong_values_of_the_process_are_refused() {
    for (line, expected) in [
        ("listen_addr = \"127.0.0.1:6432\"", LISTEN_WITH_PORT),
        (
            "listen_addr = [\"10.0.0.256\"]",
            "listen_addr = \"10.0.0.256\" is not an IP address, a host name or \"*\" (the port is listen_port)",
        ),
        ("listen_addr = [1]", "listen_addr has an item that must be a string, not a number"),
        ("listen_addr = \"\"", "nothing to listen on: listen_addr and unix_socket_dir are both empty"),
        ("listen_port = 0", "listen_port = \"0\" is not a whole number from 1 to 65535"),
        ("listen_port = 65536", "listen_port = \"65536\" is not a whole number from 1 to 65535"),
        ("listen_port = 1.5", "listen_port = \"1.5\" is not a whole number from 1 to 65535"),
        ("listen_port = true", "listen_port must be a number or a string, not a boolean"),
        ("unix_socket_mode = 777", "unix_socket_mode must be a string of octal digits, like \"0777\""),
        ("unix_socket_mode = \"0798\"", "unix_socket_mode must be a string of octal digits, like \"0777\""),
        ("auth_type = \"scram\"", AUTH_LIST),
        (
            "auth_type = \"mdd5\"",
            "auth_type = \"mdd5\" is not known; expected \"trust\", \"any\", \"plain\", \"md5\", \"scram-sha-256\", \"cert\", \"hba\", \"ldap\" or \"pam\"; did you mean \"md5\"?",
        ),
        ("default_pool_size = 0", "default_pool_size = \"0\" is not a whole number from 1 to 1000000"),
        ("min_pool_size = 21", "min_pool_size = 21 is more than default_pool_size = 20"),
        ("max_packet_size = \"1 lot\"", BAD_SIZE),
        ("max_packet_size = \"4GB\"", "max_packet_size = \"4GB\" is not between 1kB and 2147483647B"),
        ("query_wait_timeout = \"soon\"", BAD_DURATION),
        ("query_wait_timeout = \"5m\"", BAD_MINUTES),
        ("query_wait_timeout = -1", BAD_NEGATIVE),
        ("query_wait_timeout = inf", BAD_INFINITE),
        ("probe_interval = 0", "probe_interval must be more than zero"),
        ("patroni_interval = \"1us\"", "patroni_interval must be 100ms at least"),
        ("patroni_interval = \"99ms\"", "patroni_interval must be 100ms at least"),
        (
            "server_round_robin = \"maybe\"",
            "server_round_robin = \"maybe\" is not a boolean; expected \"true\", \"false\", \"yes\", \"no\", \"on\", \"off\", \"1\" or \"0\"",
        ),
        ("server_round_robin = []", "server_round_robin must be true or false, not a list"),
        ("http_listen = \"9127\"", "http_listen = \"9127\" is not ADDRESS:PORT, like \"127.0.0.1:9127\""),
        (
            "log_level = \"inof\"",
            "log_level = \"inof\" is not a log level; expected \"off\", \"error\", \"warn\", \"info\", \"debug\" or \"trace\"; did you mean \"info\"?",
        ),
        ("log_level = \"pgweir=x\"", LEVEL_LIST),
        (
            "log_format = \"jsn\"",
            "log_format = \"jsn\" is not known; expected \"text\" or \"json\"; did you mean \"json\"?",
        ),
        (
            "consistency = \"sesion\"",
            "consistency = \"sesion\" is not known; expected \"session\", \"eventual\" or \"strong\"; did you mean \"session\"?",
        ),
        ("server_reset_query = 5", "server_reset_query must be a string, not a number"),
        ("admin_users = 2020-01-01", "admin_users must be a string or a list of strings, not a date"),
        ("auth_file = \"a\\u0000b\"", "auth_file must not contain a zero byte"),
    ] {
        refused(&format!("[pgweir]\n{line}"), &format!("2: {expected}"));
    }
}

const LISTEN_WITH_PORT: &str =
    "listen_addr = \"127.0.0.1:6432\" is not an IP address, a host name or \"*\" (the port is listen_port)";
const AUTH_LIST: &str = "auth_type = \"scram\" is not known; expected \"trust\", \"any\", \"plain\", \"md5\", \"scram-sha-256\", \"cert\", \"hba\", \"ldap\" or \"pam\"; did you mean \"scram-sha-256\"?";
const LEVEL_LIST: &str =
    "log_level = \"x\" is not a log level; expected \"off\", \"error\", \"warn\", \"info\", \"debug\" or \"trace\"";
const BAD_SIZE: &str = "max_packet_size = \"1 lot\" is not a size; write it like \"65536\", \"64kB\" or \"1MB\"";
const BAD_DURATION: &str =
    "query_wait_timeout = \"soon\" is not a duration; write it like \"500ms\", \"30s\", \"5min\" or \"1h\"";
const BAD_NEGATIVE: &str =
    "query_wait_timeout = \"-1\" is not a duration; write it like \"500ms\", \"30s\", \"5min\" or \"1h\"";
const BAD_INFINITE: &str =
    "query_wait_timeout = \"inf\" is not a duration; write it like \"500ms\", \"30s\", \"5min\" or \"1h\"";
const BAD_MINUTES: &str =
    "query_wait_timeout = \"5m\" has the unit \"m\"; write \"min\" for minutes or \"ms\" for milliseconds";

#[test]
fn wrong_databases_are_refused() {
    let s = "host = \"h\"\n";
    let p = "primary = \"postgres://h\"\n";
    for (text, expected) in [
        ("[databases.pgweir]\n".to_owned() + s, "1: a database cannot be called \"pgweir\": that is the admin console"),
        ("[databases.pgbouncer]".into(), "1: a database cannot be called \"pgbouncer\": that is the admin console"),
        (
            format!("[databases.\"*\"]\n{p}replicas = []"),
            "3: [databases.\"*\"] cannot have replicas: list databases that have them by their names",
        ),
        ("[databases.\"\"]\n".to_owned() + s, "1: a database needs a name"),
        ("databases = 1".into(), "1: [databases] must be a table, not a number"),
        (
            "[databases]\na = \"host=h password=HUNTER2\"".into(),
            "2: [databases.a] must be a table with host, port and dbname, not a connection string",
        ),
        ("[databases.a]".into(), "1: [databases.a] has no server: it needs host, primary, servers or shards"),
        ("[databases.a]\nport = 1".into(), "1: [databases.a] has no server: it needs host, primary, servers or shards"),
        (format!("[databases.a]\n{p}{s}"), "3: host and primary exclude each other: [databases.a] has both"),
        ("[databases.a]\nreplicas = []".into(), "1: [databases.a] has no primary"),
        (
            "[databases.a]\nhost = \"h,1.2.3.400\"".into(),
            "2: host = \"1.2.3.400\" is not a host name, an IP address or the directory of a unix socket",
        ),
        (
            "[databases.a]\nhost = \"1.2.3.400\"".into(),
            "2: host = \"1.2.3.400\" is not a host name, an IP address or the directory of a unix socket",
        ),
        (
            "[databases.a]\nhost = \"postgres://u:HUNTER2@h\"".into(),
            "2: host must be a host name, an IP address or the directory of a unix socket; \
             a \"postgres://\" address belongs in primary",
        ),
        (format!("[databases.a]\n{s}port = 70000"), "3: port must be a number from 1 to 65535"),
        (format!("[databases.a]\n{s}dbname = \"\""), "3: dbname is empty or contains a zero byte"),
        ("[databases.a]\nprimary = \"h:5432\"".into(), "2: primary: a server address must begin with \"postgres://\""),
        (
            "[databases.a]\nuser = \"u\"\nprimary = \"postgres://h/d\"\npatroni = [\"https://h\"]".into(),
            "4: patroni of [databases.a]: an address of Patroni must be \"http://host:port\"; its REST interface is asked without \
             TLS only",
        ),
        (
            "[databases.a]\nuser = \"u\"\nprimary = \"postgres://h/d\"\npatroni = [\"http://u:HUNTER2@h:8008\"]".into(),
            "4: patroni of [databases.a]: an address of Patroni must be \"http://host:port\", without a path or a user: the page \
             /cluster is asked",
        ),
        (
            "[databases.a]\nuser = \"u\"\nprimary = \"postgres://h/d\"\npatroni = [\"http://h:x\"]".into(),
            "4: patroni of [databases.a]: the port of the server address is not a number from 1 to 65535",
        ),
        (
            "[databases.a]\nuser = \"u\"\nprimary = \"postgres://h/d\"\npatroni = [\"http://\"]".into(),
            "4: patroni of [databases.a]: an address of Patroni must be \"http://host:port\", with a host name or an IP address",
        ),
        (
            "[databases.a]\nuser = \"u\"\nprimary = \"postgres://h/d\"\npatroni = \"http://h\"".into(),
            "4: patroni must be a list, not a string",
        ),
        (
            "[databases.a]\nprimary = \"postgres://h/d\"\npatroni = [\"http://h\"]".into(),
            "1: [databases.a] has patroni, and so needs probe_user or user: what Patroni says has a probe look",
        ),
        (
            format!("[databases.a]\n{s}patroni = [\"http://h\"]"),
            "3: [databases.a] cannot have patroni: it looks after a primary and replicas, or servers",
        ),
        (
            "[databases.a]\nprimary = \"postgres://u:HUNTER2@h:x/d\"".into(),
            "2: primary: the port of the server address is not a number from 1 to 65535",
        ),
        (format!("[databases.a]\n{s}pool_size = 0"), "3: pool_size = \"0\" is not a whole number from 1 to 1000000"),
        (
            format!("[databases.a]\n{s}pool_size = 2\nmin_pool_size = 3"),
            "4: min_pool_size = 3 is more than pool_size = 2 in [databases.a]",
        ),
        (
            format!("[databases.a]\n{s}route = \"primery\""),
            "3: route = \"primery\" is not known; expected \"auto\", \"primary\" or \"replica\"; did you mean \"primary\"?",
        ),
        (format!("[databases.a]\n{s}password = \"HUNTER2\""), "3: [databases.a] has password but no user"),
        (
            format!("[databases.a]\n{s}probe_password = \"HUNTER2\""),
            "3: [databases.a] has probe_password but no probe_user",
        ),
        (format!("[databases.a]\n{s}user = \"u\"\npassword = \"\""), "4: password is empty"),
        (
            "[databases.a]\nprimary = \"postgres://x:HUNTER2@h\"\nreplicas = [\n \"postgres://y:HUNTER2@h\"]".into(),
            "4: the user of this address is not that of [databases.a]; all servers take one",
        ),
        (
            "[databases.a]\nuser = \"x\"\npassword = \"HUNTER2\"\nprimary = \"postgres://x:HUNTER3@h\"".into(),
            "4: the password of this address is not that of [databases.a]; all servers take one",
        ),
        (format!("[databases.a]\n{p}replicas = \"postgres://g\""), "3: replicas must be a list, not a string"),
        (
            format!("[databases.a]\n{p}replicas = [3]"),
            "3: a replica must be an address or { url = ..., weight = ... }, not a number",
        ),
        (format!("[databases.a]\n{p}replicas = [{{ weight = 1 }}]"), "3: a replica needs url"),
        (
            format!("[databases.a]\nuser = \"u\"\n{p}servers = [\"postgres://g\"]"),
            "4: servers and primary exclude each other: [databases.a] has both",
        ),
        ("[databases.a]\nuser = \"u\"\nservers = []".into(), "3: [databases.a] has no server"),
        (
            "[databases.a]\nservers = [\"postgres://h\", \"postgres://g\"]".into(),
            "1: [databases.a] has servers, and so needs probe_user or user to find out which is the primary",
        ),
        (weighted("-1"), "5: weight = -1 is not a number from 0 to 1000000"),
        (weighted("nan"), "5: weight = NaN is not a number from 0 to 1000000"),
        (weighted("inf"), "5: weight = inf is not a number from 0 to 1000000"),
        (weighted("\"much\""), "5: weight must be a number from 0 to 1000000, not a string"),
        (format!("[databases.a]\n{s}default_shard = \"x\""), "3: [databases.a] has default_shard but no shards"),
        (
            format!("[databases.a]\n{s}[databases.a.tables]\nt = {{ key = \"k\", type = \"int\" }}"),
            "3: [databases.a] has tables but no shards",
        ),
    ] {
        refused(&text, expected);
    }
}

/// A database whose replica on line 5 has this weight.
fn weighted(weight: &str) -> String {
    let head = "[databases.a]\nprimary = \"postgres://h\"\nreplicas = [\n\"postgres://g\",";
    format!("{head}\n{{ url = \"postgres://i\", weight = {weight} }}]")
}

const BIG: &str = r#"[[databases.big.shards]]
name = "s0"
slots = [[0, 8191]]
primary = "postgres://h0"
[[databases.big.shards]]
name = "s1"
slots = [[8192, 16383]]
primary = "postgres://h1"
replicas = ["postgres://h2"]
[databases.big]
default_shard = "s1"
tables.orders = { key = "customer_id", type = "bigint" }
tables.countries = { reference = true }
tables."sales.items" = { key = "sku", type = "VARCHAR" }
"#;

#[test]
fn wrong_shards_are_refused() {
    for (from, to, expected) in [
        ("\"s0\"\nslots", "\"s1\"\nslots", "6: [databases.big]: two shards are called \"s1\""),
        ("[[0, 8191]]", "[[0, 8192]]", OVERLAP),
        ("[[0, 8191]]", "[[0, 8190]]", "10: [databases.big]: slot 8191 belongs to no shard"),
        ("[[0, 8191]]", "[[8191, 0]]", "3: shard \"s0\" of [databases.big]: the range [8191, 0] ends before it begins"),
        ("16383]]", "16384]]", BAD_SLOTS),
        ("[[0, 8191]]", "3", "3: slots must be a list, not a number"),
        ("slots = [[0, 8191]]\n", "", "1: shard \"s0\" of [databases.big] has no slots"),
        ("name = \"s0\"\n", "", "1: a shard of [databases.big] has no name"),
        ("\"s0\"\n", "\"\"\n", "2: a shard of [databases.big] has an empty name"),
        ("primary = \"postgres://h0\"\n", "", "1: shard \"s0\" of [databases.big] has no primary"),
        (
            "primary = \"postgres://h0\"",
            "primary = \"postgres://h0\"\nprimery = 1",
            "5: unknown setting \"primery\" in a shard of [databases.big]; did you mean \"primary\"?",
        ),
        ("[databases.big]\n", "[databases.big]\nprimary = \"postgres://x\"\n", MIXED_PRIMARY),
        ("[databases.big]\n", "[databases.big]\nhost = \"x\"\n", MIXED_HOST),
        (
            "default_shard = \"s1\"",
            "default_shard = \"t1\"",
            "11: default_shard = \"t1\" is not a shard of [databases.big]; did you mean \"s1\"?",
        ),
        (
            "\"bigint\"",
            "\"bigit\"",
            "12: table orders of [databases.big]: type = \"bigit\" cannot be a sharding key; expected \"bigint\", \"int8\", \"integer\", \"int\", \"int4\", \"smallint\", \"int2\", \"text\", \"varchar\", \"character varying\" or \"uuid\"; did you mean \"bigint\"?",
        ),
        (
            "\"bigint\"",
            "\"numeric\"",
            "12: table orders of [databases.big]: type = \"numeric\" cannot be a sharding key; expected \"bigint\", \"int8\", \"integer\", \"int\", \"int4\", \"smallint\", \"int2\", \"text\", \"varchar\", \"character varying\" or \"uuid\"",
        ),
        (", type = \"bigint\"", "", "12: table orders of [databases.big] has a key but no type"),
        ("key = \"customer_id\", ", "", "12: table orders of [databases.big] needs key and type, or reference = true"),
        (
            "reference = true",
            "reference = true, key = \"a\"",
            "13: table countries of [databases.big] has both reference and key",
        ),
        ("reference = true", "reference = 1", "13: reference must be true or false, not a number"),
        ("reference = true", "referense = true", ""),
        (
            "\"bigint\"",
            "\"bigint\", tag = true",
            "12: table orders of [databases.big]: tag = true is for keys of type text or varchar, not bigint",
        ),
        ("\"bigint\"", "\"text\", tag = \"yes\"", "12: tag must be true or false, not a string"),
        (
            "\"bigint\"",
            "\"text\", tags = true",
            "12: unknown setting \"tags\" in table orders of [databases.big]; did you mean \"tag\"?",
        ),
        (
            "reference = true",
            "reference = true, tag = true",
            "13: table countries of [databases.big] has both reference and tag",
        ),
        (
            "\"customer_id\"",
            "[\"a\", \"b\"]",
            "12: table orders of [databases.big]: key has 2 columns, but type has 1 type: give the type of each column, in the same order",
        ),
        (
            "\"bigint\"",
            "[\"bigint\", \"text\"]",
            "12: table orders of [databases.big]: key has 1 column, but type has 2 types: give the type of each column, in the same order",
        ),
        (
            "\"customer_id\"",
            "[]",
            "12: table orders of [databases.big]: key is an empty list: a sharding key has at least one column",
        ),
        (
            "\"customer_id\"",
            "[1]",
            "12: table orders of [databases.big]: key, each item must be a string, not a number",
        ),
        (
            "\"customer_id\", type = \"bigint\"",
            "[\"a\", \"a\"], type = [\"bigint\", \"int\"]",
            "12: table orders of [databases.big]: column \"a\" is in the key twice",
        ),
        (
            "\"customer_id\", type = \"bigint\"",
            "[\"a\", \"\"], type = [\"bigint\", \"int\"]",
            "12: table orders of [databases.big]: key is empty",
        ),
        (
            "\"customer_id\", type = \"bigint\"",
            "[\"a\", \"b\"], type = [\"bigint\", \"txet\"]",
            "12: table orders of [databases.big]: type = \"txet\" cannot be a sharding key; expected \"bigint\", \"int8\", \"integer\", \"int\", \"int4\", \"smallint\", \"int2\", \"text\", \"varchar\", \"character varying\" or \"uuid\"; did you mean \"text\"?",
        ),
        (
            "\"customer_id\", type = \"bigint\"",
            "[\"a\", \"b\"], type = [\"bigint\", \"text\"], tag = true",
            "12: table orders of [databases.big]: tag = true is for keys of one column: make what they share a column of its own",
        ),
        ("\"customer_id\"", "\"\"", "12: table orders of [databases.big]: key is empty"),
        ("sales.items", ".items", "14: table \".items\" of [databases.big]: the name must be TABLE or SCHEMA.TABLE"),
        ("\"sales.items\"", "\"public.orders\"", "14: table orders of [databases.big] is listed twice"),
    ] {
        assert!(BIG.contains(from), "{from}");
        let text = BIG.replacen(from, to, 1);
        if expected.is_empty() {
            // A misspelt key is one mistake and the table without it another.
            assert_eq!(
                mistakes(&format!("{text}{USERS}")),
                [
                    "13: unknown setting \"referense\" in table countries of [databases.big]; did you mean \"reference\"?",
                    "13: table countries of [databases.big] needs key and type, or reference = true",
                ]
            );
        } else {
            refused(&text, expected);
        }
    }
}

#[test]
fn all_mistakes_of_a_sharded_database_are_told_at_once() {
    let text = BIG
        .replace("\"postgres://h0\"", "1")
        .replace("8192, ", "8000, ")
        .replace("= \"s1\"\nt", "= \"s2\"\nt")
        .replace("\"bigint\"", "\"float\"");
    assert_eq!(
        mistakes(&format!("{text}{USERS}")),
        [
            "4: primary must be a string, not a number",
            "7: [databases.big]: slots 8000 to 8191 belong to more than one shard: \"s0\", \"s1\"",
            "11: default_shard = \"s2\" is not a shard of [databases.big]; did you mean \"s0\"?",
            "12: table orders of [databases.big]: type = \"float\" cannot be a sharding key; expected \"bigint\", \"int8\", \"integer\", \"int\", \"int4\", \"smallint\", \"int2\", \"text\", \"varchar\", \"character varying\" or \"uuid\"",
        ]
    );
}

const OVERLAP: &str = "7: [databases.big]: slot 8192 belongs to more than one shard: \"s0\", \"s1\"";
const BAD_SLOTS: &str =
    "7: shard \"s1\" of [databases.big]: slots must be ranges like [[0, 16383]], of slots 0 to 16383";
const MIXED_PRIMARY: &str = "11: primary and shards exclude each other: [databases.big] has both";
const MIXED_HOST: &str = "11: host and shards exclude each other: [databases.big] has both";

#[test]
fn authentication_needs_somebody_to_know() {
    let found = mistakes("[databases.a]\nhost = \"h\"\n[pgweir]\nworkers = 1\n");
    assert_eq!(
        found,
        ["3: auth_type = \"scram-sha-256\" needs auth_file, auth_user, or users with passwords in [users]"]
    );
    let found = mistakes("[pgweir]\nworkers = 1\nauth_type = \"md5\"\n[users.x]\n");
    assert_eq!(found, ["3: auth_type = \"md5\" needs auth_file, auth_user, or users with passwords in [users]"]);
    let found = mistakes("[pgweir]\nauth_type = \"trust\"\n");
    assert_eq!(found, ["2: auth_type = \"trust\" needs auth_file, auth_user, or users in [users]"]);
    let found = mistakes("[pgweir]\nauth_type = \"any\"\n[databases.a]\nhost = \"h\"\n");
    assert_eq!(found, ["2: auth_type = \"any\" needs user in [databases.a]"]);
    for good in ["auth_type = \"trust\"\n[users.x]", "auth_type = \"any\"", "auth_file = \"/x\""] {
        assert!(parse(&format!("[pgweir]\n{good}\n"), Path::new("c")).is_ok(), "{good}");
    }
    assert_eq!(read("[pgweir]\nauth_file = \"/x\"\n").general.auth_file, Some("/x".into()));
}

#[test]
fn an_empty_file_names_no_line() {
    let errors = parse("", Path::new("c")).unwrap_err();
    assert_eq!(
        said(&errors),
        ["c: auth_type = \"scram-sha-256\" needs auth_file, auth_user, or users with passwords in [users]"]
    );
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let twice = "[databases.a]\nprimary = \"postgres://h\"\nreplicas = [\"postgres://h\"]\n";
    assert_eq!(
        read(&format!("{twice}{USERS}")).warnings,
        [
            "[databases.a] has replicas but neither probe_user nor user: its servers are not probed",
            "[databases.a] lists the server h:5432/a twice",
        ]
    );
}

#[test]
fn passwords_are_not_shown() {
    let config = read(&format!(
        "[databases.a]\nprimary = \"postgres://u:HUNTER2@h\"\nprobe_user = \"p\"\nprobe_password = \"HUNTER2\"\n{USERS}"
    ));
    assert_eq!(config.databases["a"].password.as_deref(), Some("HUNTER2"));
    let shown = format!("{config:?} {config:#?}");
    assert!(!shown.contains("HUNTER2") && shown.contains("********"), "{shown}");
}

#[test]
fn show_config_is_sorted_and_in_pgbouncers_units() {
    let config = read(&format!("[pgweir]\nmax_client_conn = 5\nquery_wait_timeout = \"1500ms\"\n{USERS}"));
    let rows = show_config(&config);
    assert!(rows.is_sorted_by(|a, b| a.0 < b.0));
    assert_eq!(rows.len(), settings().count() + 1, "and verbose");
    let row = |name: &str| rows.iter().find(|row| row.0 == name).cloned().unwrap();
    let text = |a: &'static str, b: &str, c: &str, d| (a, b.to_owned(), c.to_owned(), d);
    assert_eq!(row("max_client_conn"), text("max_client_conn", "5", "1000", true));
    assert_eq!(row("query_wait_timeout"), text("query_wait_timeout", "1.5", "120", true));
    assert_eq!(row("max_packet_size"), text("max_packet_size", "1073741824", "1073741824", true));
    assert_eq!(row("tcp_keepalive"), text("tcp_keepalive", "1", "1", true));
    assert_eq!(row("unix_socket_mode"), text("unix_socket_mode", "0777", "0777", false));
    assert_eq!(row("listen_addr"), text("listen_addr", "127.0.0.1", "127.0.0.1", false));
    assert_eq!(row("auth_file"), text("auth_file", "", "", true));
}

#[test]
fn settings_are_set_by_name() {
    let mut general = General::default();
    assert_eq!(settings::set(&mut general, "max_lag", "3s"), Ok(()));
    assert_eq!(settings::set(&mut general, "max_client_conn", "7"), Ok(()));
    assert_eq!((general.health.max_lag, general.max_client_conn), (Duration::from_secs(3), 7));
    let refused = |general: &mut General, name: &str, text: &str| settings::set(general, name, text).unwrap_err();
    assert_eq!(refused(&mut general, "workers", "3"), "workers cannot be changed without a restart");
    assert_eq!(refused(&mut general, "max_lga", "3"), "unknown setting \"max_lga\"; did you mean \"max_lag\"?");
    assert_eq!(
        refused(&mut general, "max_client_conn", "0"),
        "max_client_conn = \"0\" is not a whole number from 1 to 1000000"
    );
    assert_eq!(general.max_client_conn, 7);
}

#[test]
fn files_are_loaded() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pgweir.toml");
    let error = load(&path).unwrap_err();
    assert!(error[0].to_string().starts_with(&format!("{}: cannot read the file: ", path.display())), "{error:?}");
    std::fs::write(&path, SMALL).unwrap();
    assert_eq!(load(&path).unwrap().databases, read(SMALL).databases);
    std::fs::write(&path, b"[pgweir]\n# \xff\n").unwrap();
    assert_eq!(said(&load(&path).unwrap_err()), [format!("{}:2: not valid UTF-8", path.display())]);
}

proptest! {
    /// Whatever is cut out of a good file or put in: an answer, and each mistake on a line of the file.
    #[test]
    fn mutated_files_never_panic(
        full: bool,
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 0_usize..12, "[a-z0-9\"'=\\[\\]{}.,\n#*-]{0,4}"), 1..6),
    ) {
        let mut text = if full { FULL.replace("change me", "HUNTER2") } else { SMALL.to_owned() };
        for (at, cut, put) in edits {
            let bounds: Vec<usize> = text.char_indices().map(|(i, _)| i).collect();
            let start = if bounds.is_empty() { 0 } else { *at.get(&bounds) };
            let end = text.char_indices().map(|(i, _)| i).find(|i| *i >= start + cut).unwrap_or(text.len());
            text.replace_range(start..end, &put);
        }
        match parse(&text, Path::new("c")) {
            Ok(config) => prop_assert!(!config.databases.contains_key("*")),
            Err(errors) => {
                prop_assert!(!errors.is_empty());
                let lines = text.bytes().filter(|b| *b == b'\n').count() + 1;
                prop_assert!(errors.iter().all(|error| error.line <= lines));
                prop_assert!(errors.is_sorted_by_key(|error| error.line));
            }
        }
    }

    /// Whole values swapped for others: every setting meets every kind of value.
    #[test]
    fn any_value_of_any_setting_is_taken_or_refused(
        at in any::<prop::sample::Index>(),
        value in prop_oneof![
            Just("1".to_owned()), Just("-1".to_owned()), Just("0.5".to_owned()), Just("nan".to_owned()), Just("inf".to_owned()),
            Just("true".to_owned()), Just("[]".to_owned()), Just("[1, [2]]".to_owned()), Just("{ a = 1 }".to_owned()),
            Just("99999999999999999999999999999999999999999999".to_owned()), Just("1979-05-27".to_owned()),
            "\"[ -!#-\\[\\]-~]{0,12}\"",
        ],
    ) {
        let lines: Vec<&str> = FULL.lines().collect();
        let settings: Vec<usize> = (0..lines.len()).filter(|i| lines[*i].contains(" = ") && !lines[*i].starts_with('#')).collect();
        let chosen = *at.get(&settings);
        let key = lines[chosen].split(" = ").next().unwrap();
        let mut lines: Vec<String> = lines.into_iter().map(str::to_owned).collect();
        lines[chosen] = format!("{key} = {value}");
        if let Err(errors) = parse(&lines.join("\n"), Path::new("c")) {
            for error in &errors {
                prop_assert!(!error.message.contains("not valid TOML") || value.contains("999"), "{}: {}", lines[chosen], error);
            }
        }
    }
}

#[test]
fn auth_queries_are_checked_where_they_stand() {
    let base = "[pgweir]\nauth_user = \"u\"\n";
    let config = read(&format!(
        "{base}[databases.a]\nhost = \"h\"\n[databases.b]\nhost = \"h\"\nauth_user = \"\"\nauth_dbname = \"a\"\n"
    ));
    assert_eq!(config.databases["a"].auth_user.as_deref(), Some("u"));
    assert_eq!(
        (config.databases["b"].auth_user.as_deref(), config.databases["b"].auth_dbname.as_deref()),
        (None, Some("a"))
    );
    assert_eq!(config.databases["a"].auth_query, config.general.auth_query);
    let with =
        |general: &str, database: &str| mistakes(&format!("{base}{general}[databases.app]\nhost = \"h\"\n{database}"));
    assert_eq!(
        with("auth_query = \"SELECT 1\"\n", ""),
        ["3: auth_query of [pgweir] has no $1, which stands for the user's name"]
    );
    assert_eq!(
        with("", "auth_query = \"\"\n"),
        ["5: auth_query of [databases.app] has no $1, which stands for the user's name"]
    );
    assert_eq!(
        with("auth_dbname = \"ap\"\n", ""),
        ["3: auth_dbname = \"ap\" of [pgweir] is no database of [databases]; did you mean \"app\"?"]
    );
    assert_eq!(
        with("", "auth_dbname = \"pgbouncer\"\n"),
        ["5: auth_dbname of [databases.app] is the console, which has no users to ask for"]
    );
}

// Peers.

#[test]
fn peers_have_numbers() {
    let config = read(&format!(
        "[pgweir]\npeer_id = 2\n[peers.1]\nhost = \"/tmp/p1\"\n[peers.2]\nhost = \"h\"\nport = 1\npool_size = 3\n{USERS}"
    ));
    assert_eq!(config.general.peer(), Some(PeerId(2)));
    let first = Peer { host: Host::Unix("/tmp/p1".into()), port: 6432, pool_size: None };
    let own = Peer { host: Host::Tcp("h".to_owned()), port: 1, pool_size: Some(3) };
    assert_eq!(config.peers, [(PeerId(1), first), (PeerId(2), own)].into());
    assert_eq!(config.warnings, ["no databases are configured: only the console can be connected to"]);
    let without = read(&format!("[peers.1]\nhost = \"h\"\n{USERS}"));
    assert!(
        without.warnings.contains(&"[peers] has no effect without peer_id: no cancel request is passed on".to_owned())
    );
}

#[test]
fn mistakes_of_peers() {
    let number = "is not the number of a peer: peer_id is a whole number from 1 to 16383";
    let found = mistakes(&format!(
        "[pgweir]\npeer_id = 16384\n[peers.0]\nhost = \"h\"\n[peers.16384]\nhost = \"h\"\n[peers.two]\nhost = \"h\"\n\
         [peers.02]\nhost = \"h\"\n[peers.3]\nport = 1\n[peers.4]\nhost = \"postgres://u:HUNTER2@h\"\n[peers.5]\nhots = \"h\"\n\
         max_client_conn = 1\npool_size = 0\nhost = 1\n[peers]\n6 = \"host=h\"\n{USERS}"
    ));
    let expected = [
        "2: peer_id = \"16384\" is not a whole number from 0 to 16383".to_owned(),
        format!("3: [peers.0] {number}"),
        format!("5: [peers.16384] {number}"),
        format!("7: [peers.two] {number}"),
        format!("9: [peers.02] {number}"),
        "11: [peers.3] has no host".to_owned(),
        "14: host must be a host name, an IP address or the directory of a unix socket".to_owned(),
        "16: unknown setting \"hots\" in [peers.5]; did you mean \"host\"?".to_owned(),
        "17: unknown setting \"max_client_conn\" in [peers.5]; it belongs in [pgweir]".to_owned(),
        "18: pool_size = \"0\" is not a whole number from 1 to 1000000".to_owned(),
        "19: host must be a string, not a number".to_owned(),
        "21: [peers.6] must be a table, not a string".to_owned(),
    ];
    assert_eq!(found, expected);
    assert_eq!(mistakes(&format!("peers = 1\n{USERS}")), ["1: [peers] must be a table, not a number"]);
    refused("[peer.1]\nhost = \"h\"", "1: unknown section \"peer\"; did you mean \"peers\"?");
    refused("peer_id = 1", "1: \"peer_id\" stands outside of a section; it belongs in [pgweir]");
}

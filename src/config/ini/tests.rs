use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::super::tls::{SslMode, TlsSettings};
use super::super::{AuthType, Config, Facility, Host, Peer, PoolMode, User, settings};
use super::*;
use crate::id::PeerId;

/// Reads `pgbouncer.ini` of these files.
fn load_all(files: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let files: HashMap<&str, &str> = files.iter().copied().collect();
    let read = |path: &Path| {
        let text = path.to_str().and_then(|path| files.get(path));
        text.map(|text| text.as_bytes().to_vec()).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    };
    match load(Path::new("pgbouncer.ini"), &Overrides::new(), &read) {
        (Some(config), mistakes) if mistakes.is_empty() => Ok(config),
        (_, mistakes) => Err(mistakes.iter().map(ToString::to_string).collect()),
    }
}

fn parsed(text: &str) -> Result<Config, Vec<String>> {
    load_all(&[("pgbouncer.ini", text)])
}

/// A file whose `[pgbouncer]` has these lines too.
fn general(lines: &str) -> Result<Config, Vec<String>> {
    parsed(&format!("[databases]\na = host=h\n[pgbouncer]\nauth_file = users.txt\n{lines}\n"))
}

fn mistakes(text: &str) -> Vec<String> {
    parsed(text).map(|config| panic!("{text} was taken: {config:?}")).unwrap_err()
}

#[test]
fn what_zero_means_there_is_said_alike_by_file_and_set() {
    let shown = |config: &Config, name: &str| {
        settings::show_config(config).into_iter().find(|row| row.0 == name).map(|row| row.1).unwrap()
    };
    let zeros = [("server_lifetime", "0"), ("server_connect_timeout", "0")];
    let file = general("server_lifetime = 0\nserver_connect_timeout = 0").unwrap();
    let text: &[u8] = b"[databases]\na = host=h\n[pgbouncer]\nauth_file = users.txt\n";
    let set = zeros.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect();
    let (set, mistakes) = load(Path::new("pgbouncer.ini"), &set, &|_| Ok(text.to_vec()));
    assert!(mistakes.is_empty(), "{mistakes:?}");
    for config in [file, set.unwrap()] {
        assert_eq!(config.general.server_lifetime, Duration::from_micros(1), "used once");
        assert!(config.general.server_connect_timeout > Duration::from_secs(1_000_000_000));
        for (name, value) in zeros {
            assert_eq!(shown(&config, name), value, "{name}");
        }
    }
    assert_eq!(shown(&general("server_lifetime = 3600").unwrap(), "server_lifetime"), "3600");
}

#[test]
fn a_password_without_a_user_is_not_looked_at() {
    let config = parsed("[databases]\na = host=h password=hunter2\n[pgbouncer]\nauth_file = u\n").unwrap();
    assert_eq!((&config.databases["a"].password, &config.databases["a"].user), (&None, &None));
    assert_eq!(config.warnings, ["[databases] a has password but no user: as in PgBouncer it is not looked at"]);
}

#[test]
fn a_mode_that_is_meant_as_octal_is_told() {
    assert_eq!(
        general("unix_socket_mode = 777").unwrap_err(),
        [
            "pgbouncer.ini:5: unix_socket_mode = \"777\" is 1411 in octal digits, more than 0777: without a 0 before it the number is \
          decimal, as in PgBouncer; is 0777 meant?"
        ]
    );
    assert_eq!(general("unix_socket_mode = 0777").unwrap().general.unix_socket_mode, 0o777);
    assert_eq!(general("unix_socket_mode = 448").unwrap().general.unix_socket_mode, 0o700);
}

#[test]
fn a_file_as_operators_write_it() {
    let config = parsed(
        ";; comment\n[databases]\r\nforcedb = host=localhost port=300 user=baz password='it''s' pool_size=7\r\n\
         bar = host=/run/pg dbname=bazdb pool_mode=Transaction\nnohost =\n\"odd \"\"name\" = host=::1\n\n# users\n[users]\n\
         bob = pool_mode=session pool_size=3\n[pgbouncer] ; the rest\nlisten_addr = 127.0.0.1, ::1\nlisten_port=6000\n\
         auth_type = MD5\nauth_file = /etc/users.txt\npool_mode = transaction\nmax_client_conn = 0x10\n\
         unix_socket_dir = /run/pgbouncer\nunix_socket_mode = 0770\nserver_idle_timeout = 12.5\nlog_connections = 0\n\
         admin_users = root, boss\nverbose = 2\nserver_lifetime = 0\nmin_pool_size = 99\nserver_reset_query = DISCARD ALL; -- x\n\
         workers = 2",
    )
    .unwrap();
    let general = &config.general;
    assert_eq!((general.listen_addr.join(" "), general.listen_port), ("127.0.0.1 ::1".to_owned(), 6000));
    assert_eq!((general.auth_type, general.pool_mode), (AuthType::Md5, PoolMode::Transaction));
    assert_eq!((general.max_client_conn, general.unix_socket_mode, general.workers), (16, 0o770, 2));
    assert_eq!(general.server_idle_timeout, Duration::from_millis(12_500));
    assert_eq!(general.server_lifetime, Duration::from_micros(1), "0: used once");
    assert_eq!((general.min_pool_size, general.default_pool_size), (20, 20), "capped");
    assert!(!general.log_connections && general.log_disconnections);
    assert_eq!((general.admin_users.len(), general.log_level.as_str()), (2, "trace"));
    assert_eq!(general.server_reset_query, "DISCARD ALL; -- x", "no comment within a value");
    let forced = &config.databases["forcedb"];
    assert_eq!((forced.user.as_deref(), forced.password.as_deref(), forced.pool_size), (Some("baz"), Some("it's"), 7));
    assert_eq!(forced.min_pool_size, 7, "capped");
    let server = |name: &str| config.databases[name].shards[0].servers[0].clone();
    assert_eq!((server("forcedb").port, server("forcedb").dbname.as_str()), (300, "forcedb"));
    assert_eq!((server("bar").host, server("bar").dbname.as_str()), (Host::Unix("/run/pg".into()), "bazdb"));
    assert_eq!(server("nohost").host, Host::Unix("/run/pgbouncer".into()));
    assert_eq!(server("odd \"name").host, Host::Tcp("::1".to_owned()));
    assert_eq!((config.users["bob"].pool_mode, config.users["bob"].pool_size), (Some(PoolMode::Session), Some(3)));
    assert_eq!(config.warnings, [] as [String; 0]);
}

#[test]
fn defaults_are_pgbouncers() {
    let config = general("").unwrap();
    let general = &config.general;
    assert_eq!((general.pool_mode, general.auth_type), (PoolMode::Session, AuthType::Md5));
    assert_eq!((general.max_client_conn, general.listen_addr.len()), (100, 0));
    assert_eq!(general.unix_socket_dir.as_deref(), Some(Path::new("/tmp")));
    assert_eq!(general.shutdown_timeout, std::time::Duration::ZERO, "SIGTERM waits for clients");
    let here = std::env::current_dir().unwrap();
    assert_eq!(general.auth_file, Some(here.join("users.txt")), "from the working directory");
    assert_eq!(config.databases["a"].pool_mode, PoolMode::Session);
}

#[test]
fn every_default_is_taken_by_its_setting() {
    for row in table::GENERAL {
        let mut general = General::default();
        let default = row.defaults.first().unwrap_or_else(|| panic!("{} has a default", row.name));
        let node = Node::Text(normal(row.kind, default).unwrap());
        if let Some(outcome) = settings::set_general(&mut general, row.name, &node) {
            assert_eq!(outcome, Ok(()), "{} = {default}", row.name);
        } else {
            let standing = row.standing;
            assert!(standing != Standing::Same || row.name == "verbose", "{} is said to be the same", row.name);
        }
    }
}

#[test]
fn settings_of_pgbouncer_are_all_known() {
    let mut names: Vec<&str> = table::GENERAL.iter().map(|row| row.name).collect();
    assert!(names.is_sorted(), "in the order of the alphabet, for the documentation");
    names.dedup();
    assert_eq!(names.len(), table::GENERAL.len());
    for name in settings::PGBOUNCER_ONLY {
        let known = [table::GENERAL, table::DATABASE].iter().any(|rows| rows.iter().any(|row| row.name == *name));
        assert!(known, "{name}");
    }
}

#[test]
fn all_mistakes_are_told_with_their_places() {
    let files = [
        (
            "pgbouncer.ini",
            "early = 1\n[databases]\na = host=h nosuch=1 poolsize=2\nb = password='secret\nc = host=h port=x\n\
             d = host=h password=top secret\n%include more.ini\n%include missing.ini\n%inclde x\n[pgbuncer]\nx = 1\n",
        ),
        (
            "more.ini",
            "e = host=@abs:tract\npgbouncer = host=h\nmy db = host=h\n[pgbouncer]\nlisten_prot = 1\nlisten_port = 99999\n\
             pool_mode = often\nlog_connections = maybe\nserver_idle_timeout = -1\nhost\nauth_type = pan\nlisten_backlog = x\n[x\nauth_file=u",
        ),
    ];
    let expected = [
        "pgbouncer.ini:1: \"early\" stands before the first [section]",
        "pgbouncer.ini:3: unknown setting \"nosuch\" in [databases] a",
        "pgbouncer.ini:3: unknown setting \"poolsize\" in [databases] a; did you mean \"pool_size\"?",
        "pgbouncer.ini:4: [databases] b: the closing single quote of password is missing",
        "pgbouncer.ini:5: [databases] c: port = \"x\" is not a whole number",
        "pgbouncer.ini:6: [databases] d: expected key=value pairs; a value with spaces must stand in single quotes",
        "more.ini:1: host must be a host name, an IP address or the directory of a unix socket; \
         a \"postgres://\" address belongs in primary",
        "more.ini:2: a database cannot be called \"pgbouncer\": that is the admin console",
        "more.ini:3: the = behind the name is missing, or the name has a blank in it and must stand in double quotes",
        "more.ini:5: unknown setting \"listen_prot\" in [pgbouncer]; did you mean \"listen_port\"?",
        "more.ini:6: listen_port = \"99999\" is not a whole number from 1 to 65535",
        "more.ini:7: pool_mode = \"often\" is not known; expected \"session\", \"transaction\" or \"statement\"",
        "more.ini:8: log_connections = \"maybe\" is not a boolean; expected \"true\", \"false\", \"yes\", \"no\", \"on\", \"off\", \"1\" or \"0\"",
        "more.ini:9: server_idle_timeout = \"-1\" is not a number of seconds, like 15 or 0.5",
        "more.ini:10: expected NAME = VALUE, [SECTION], %include FILE or a comment",
        "more.ini:11: auth_type = \"pan\" is not known; expected \"trust\", \"any\", \"plain\", \"md5\", \"scram-sha-256\", \"cert\", \"hba\", \"ldap\" or \"pam\"; did you mean \"pam\"?",
        "more.ini:12: listen_backlog = \"x\" is not a whole number",
        "more.ini:13: the section's name is not closed: a \"]\" is missing",
        "pgbouncer.ini:8: %include missing.ini: cannot read the file: entity not found",
        "pgbouncer.ini:9: unknown directive; expected %include FILE",
        "pgbouncer.ini:10: unknown section [pgbuncer]; did you mean \"pgbouncer\"?",
    ];
    let found = load_all(&files).unwrap_err();
    let listing = found.join("\n");
    assert!(!listing.contains("secret"), "{listing}");
    for expected in expected {
        assert!(found.iter().any(|line| line == expected), "{expected}\nis not in\n{listing}");
    }
    let unexpected: Vec<_> = found.iter().filter(|line| !expected.contains(&line.as_str())).collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
}

#[test]
fn includes_are_read_in_place() {
    let config = load_all(&[
        ("pgbouncer.ini", "[pgbouncer]\nauth_type = any\n%include /etc/sub.ini\npool_mode = statement\n"),
        ("/etc/sub.ini", "listen_port = 7000\n%include dbs.ini\n[users]\nbob =\n[pgbouncer]\nauth_type=any"),
        ("dbs.ini", "\u{feff}[databases]\na = host=h user=u"),
    ])
    .unwrap();
    assert_eq!((config.general.pool_mode, config.general.listen_port), (PoolMode::Statement, 6432));
    assert_eq!(
        config.warnings,
        ["/etc/sub.ini:5: [pgbouncer] begins again, which puts back to their defaults, as in PgBouncer: auth_type, \
          listen_port"]
    );
    assert!(config.databases.contains_key("a") && config.users.contains_key("bob"));
    let own = load_all(&[("pgbouncer.ini", "[pgbouncer]\nauth_file = u\n%include pgbouncer.ini\n")]).unwrap_err();
    assert!(
        own[0].starts_with("pgbouncer.ini:3: %include pgbouncer.ini: files are included more than 10 deep"),
        "{own:?}"
    );
}

#[test]
fn the_last_value_counts() {
    let config = parsed(
        "[databases]\na = host=one host=two\nb = host=one\nb = host=three\n[pgbouncer]\nauth_type = trust\n\
         auth_file = u\nauth_type = any\nauth_type = md5",
    )
    .unwrap();
    let host = |name: &str| config.databases[name].shards[0].servers[0].host.clone();
    assert_eq!((host("a"), host("b")), (Host::Tcp("two".to_owned()), Host::Tcp("three".to_owned())));
    assert_eq!(config.general.auth_type, AuthType::Md5);
}

#[test]
fn what_has_no_meaning_is_named_once() {
    let config = general("pkt_buf = 8192\nsbuf_loopcnt = 0\njob_name = x").unwrap();
    assert_eq!(
        config.warnings,
        ["settings that have no meaning here and change nothing: job_name, pkt_buf, sbuf_loopcnt"]
    );
    assert!(general("pkt_buf = x").unwrap_err()[0].contains("pkt_buf = \"x\" is not a whole number"));
}

/// A value that is not the default of a row.
fn other(row: &Row) -> &'static str {
    match row.kind {
        Kind::Text | Kind::Word | Kind::File | Kind::Directory => "something-else",
        Kind::Whole | Kind::Seconds => "77",
        Kind::Mode => "0700",
        Kind::Flag if row.defaults[0] == "0" => "1",
        Kind::Flag => "0",
    }
}

#[test]
fn what_has_no_effect_without_another_is_taken_without_it() {
    assert!(general("auth_hba_file = x\nsyslog_facility = kern").is_ok());
    let errors = general("syslog = 1\nsyslog_facility = kern").unwrap_err();
    assert!(errors.len() == 1 && errors[0].contains("\"kern\" is not known"), "{errors:?}");
    let syslog = general("syslog = yes\nsyslog_facility = LOCAL3").unwrap().general.syslog;
    assert_eq!((syslog.on, syslog.facility, syslog.ident.as_str()), (true, Facility::Local3, "pgbouncer"));
}

#[test]
fn limits_of_nothing_are_those_of_the_section_above() {
    let limits = "max_db_connections=0 max_db_client_connections=0x0";
    let of_user = "max_user_connections=0 max_user_client_connections=-1 pool_size=2";
    let config = parsed(&format!(
        "[databases]\nb = host=h {limits}\nc = host=h max_db_connections=3\n[users]\nu = {of_user}\n[pgbouncer]\nauth_file = u\n\
         max_db_connections = 5\nmax_db_client_connections = 6\n"
    ))
    .unwrap();
    let of = |name: &str| (config.databases[name].max_db_connections, config.databases[name].max_db_client_connections);
    assert_eq!((of("b"), of("c")), ((5, 6), (3, 6)));
    let user = &config.users["u"];
    assert_eq!((user.max_user_connections, user.max_user_client_connections, user.pool_size), (None, None, Some(2)));
}

#[test]
fn tls_is_taken_as_pgbouncer_has_it() {
    let files = "client_tls_cert_file = c\nclient_tls_key_file = k\n";
    let config = general(&format!("{files}client_tls_sslmode = allow\nclient_tls_ciphers = fast")).unwrap();
    assert!(config.general.client_tls.ciphers.is_empty() && config.general.client_tls.cert_file.is_some());
    // Without TLS nothing of it counts, and so nothing can be wrong.
    let config = general(&format!("{files}client_tls_ciphers = HIGH:!aNULL")).unwrap();
    assert_eq!(config.general.client_tls, TlsSettings::new(SslMode::Disable));
    let errors = general(&format!("{files}client_tls_sslmode = allow\nclient_tls_ciphers = HIGH:!RSA")).unwrap_err();
    assert!(errors[0].contains("\"!RSA\" is not a cipher suite"), "{errors:?}");
    let config = general(&format!("{files}client_tls_sslmode = allow\nclient_tls_ciphers = HIGH:!aNULL")).unwrap();
    assert!(config.general.client_tls.ciphers.is_empty());
    let errors = general("client_tls_sslmode = require").unwrap_err();
    assert!(errors[0].contains("needs client_tls_cert_file"), "{errors:?}");
    let cert = format!("{files}auth_type = cert\nclient_tls_sslmode = verify-full\nclient_tls_ca_file = ca");
    assert_eq!(general(&cert).unwrap().general.auth_type, AuthType::Cert);
}

#[test]
fn peers_are_those_of_pgbouncer() {
    let text = |general: &str, peers: &str| format!("[pgbouncer]\nauth_file = u\n{general}\n[peers]\n{peers}\n");
    let peers = "1 = host=/tmp/p1\n02 = host=h port=1\n2 = host=h2 port=7 pool_size=2\n3 = host=a,b pool_size=-1";
    let config = parsed(&text("peer_id = 1", peers)).unwrap();
    assert_eq!(config.general.peer(), Some(PeerId(1)));
    let peer = |host, port, pool_size| Peer { host, port, pool_size };
    let tcp = |name: &str| Host::Tcp(name.to_owned());
    let expected = [
        (PeerId(1), peer(Host::Unix("/tmp/p1".into()), 6432, None)),
        (PeerId(2), peer(tcp("h2"), 7, Some(2))),
        (PeerId(3), peer(Host::Several(vec![tcp("a"), tcp("b")]), 6432, None)),
    ];
    assert_eq!(config.peers, expected.into(), "the last of each counts");
    assert!(!config.warnings.iter().any(|warning| warning.contains("peer")), "{:?}", config.warnings);
    let toml = converts(&text("peer_id = 1", peers));
    assert!(toml.contains("\n[peers.2]\nhost = \"h2\"\nport = 7\npool_size = 2\n"), "{toml}");
    assert!(toml.contains("\n[peers.3]\nhost = \"a,b\"\n"), "{toml}");
}

#[test]
fn peers_are_of_no_use_without_a_number() {
    let text = |general: &str, peers: &str| format!("[pgbouncer]\nauth_file = u\n{general}\n[peers]\n{peers}\n");
    let config = parsed(&text("", "1 = host=h port=1 pool_size=2")).unwrap();
    assert!(config.general.peer().is_none() && config.peers.len() == 1);
    assert!(config.warnings.iter().any(|w| w.starts_with("[peers] has no effect without peer_id")));
    let number = "is not the number of a peer: peer_id is a whole number from 1 to 16383";
    let wrong = "x = host=h\n0 = host=h\n16384 = host=h\n1 = hots=h\n2 = port=1\n3 = host=h port=0 pool_size=x\n4 = host\n\
                 5 = host=h=1 max_db_connections=1\n6 = host=h pool_size=0";
    assert_eq!(
        mistakes(&text("peer_id = 16384", wrong)),
        [
            "pgbouncer.ini:3: peer_id = \"16384\" is not a whole number from 0 to 16383",
            &format!("pgbouncer.ini:5: [peers] x {number}"),
            &format!("pgbouncer.ini:6: [peers] 0 {number}"),
            &format!("pgbouncer.ini:7: [peers] 16384 {number}"),
            "pgbouncer.ini:8: unknown setting \"hots\" in [peers] 1; did you mean \"host\"?",
            "pgbouncer.ini:8: [peers] 1 has no host",
            "pgbouncer.ini:9: [peers] 2 has no host",
            "pgbouncer.ini:10: [peers] 3: pool_size = \"x\" is not a whole number",
            "pgbouncer.ini:10: port = \"0\" is not a whole number from 1 to 65535",
            "pgbouncer.ini:11: [peers] 4: expected key=value pairs; a value with spaces must stand in single quotes",
            "pgbouncer.ini:12: unknown setting \"max_db_connections\" in [peers] 5; it belongs in [pgbouncer]",
            "pgbouncer.ini:12: host must be a host name, an IP address or the directory of a unix socket",
            "pgbouncer.ini:13: pool_size = \"0\" is not a whole number from 1 to 1000000",
        ]
    );
}

#[test]
fn the_kind_of_a_file_is_seen() {
    assert!(is_ini(Path::new("a.ini"), b"[pgweir]"));
    assert!(!is_ini(Path::new("a.toml"), b"[pgbouncer]"));
    assert!(is_ini(Path::new("a.conf"), b"; x\n  [pgbouncer]\n"));
    assert!(!is_ini(Path::new("a"), b"[pgweir]\nx = '[pgbouncer]'"));
}

#[test]
fn numbers_are_read_as_c_does() {
    for (text, number) in [("10", 10), ("010", 8), ("0x1F", 31), ("-1", -1), ("+5", 5), ("0", 0)] {
        assert_eq!(whole(text), Ok(number), "{text}");
    }
    for text in ["", "x", "1x", "08", "--1", "0x", "1 2", "99999999999999999999", "0x-1"] {
        assert!(whole(text).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "(\\[databases\\]|\\[pgbouncer\\]|\n|=| |'|\"|a|%include|host|1|;){0,30}") {
        drop(parsed(&text));
    }
}

/// What `pgweir convert` prints reads back as the same configuration.
fn converts(text: &str) -> String {
    let config = parsed(text).unwrap_or_else(|errors| panic!("{text}: {errors:?}"));
    let toml = super::super::convert::to_toml(&config);
    let back = super::super::parse(&toml, Path::new("/elsewhere/pgweir.toml"));
    let mut back = back.unwrap_or_else(|errors| panic!("{toml}\n{errors:?}"));
    (back.path, back.dialect, back.warnings) = (config.path.clone(), config.dialect, config.warnings.clone());
    (back.idle, back.places) = (config.idle.clone(), config.places.clone());
    assert_eq!(back, config, "{toml}");
    toml
}

#[test]
fn a_converted_file_is_the_same_configuration() {
    converts("[pgbouncer]\nauth_file = u\n");
    let toml = converts(
        "[databases]\n* = host=/run/pg port=6000\nlist = host=a,b load_balance_hosts=disable dbname='it''s \"it\"'\n\
         \"my \"\"db\" = user=u password='p w' connect_query='select ''x\\y''' timezone=UTC datestyle=ISO pool_size=3\n\
         six = host=::1 server_lifetime=0 client_encoding=utf8 application_name=app max_db_client_connections=4\n\
         [users]\nbob = pool_mode=session pool_size=4 max_user_client_connections=5\n\"o'b\" =\n[pgbouncer]\n\
         listen_addr = *\nauth_file = /etc/users.txt\npkt_buf = 1\nverbose = 1\nserver_reset_query =\nlogfile = log\n\
         pidfile = pid\nunix_socket_dir =\nserver_connect_timeout = 0\nmax_lag = 7\nunix_socket_dir = /run/b\n",
    );
    assert!(toml.contains("[databases.\"*\"]\nhost = \"/run/pg\"\nport = 6000\n\n[users.bob]"), "{toml}");
    assert!(toml.contains("# settings that have no meaning here and change nothing: pkt_buf\n"), "{toml}");
}

/// A value of a setting of `[pgbouncer]` or a database that is right, and not the default.
fn right(row: &Row) -> &'static str {
    match row.name {
        "auth_type" => "trust",
        "auth_dbname" => "b",
        "auth_ldap_options" => "ldapserver=h ldapprefix=x",
        "syslog_facility" => "local3",
        "auth_query" => "f($1)",
        "pool_mode" => "statement",
        "listen_addr" => "10.0.0.1",
        "load_balance_hosts" => "disable",
        "max_packet_size" => "4096",
        "client_tls_sslmode" | "server_tls_sslmode" => "require",
        "client_tls_protocols" | "server_tls_protocols" => "tlsv1.3",
        "client_tls_ciphers" | "server_tls_ciphers" => "TLS_AES_128_GCM_SHA256:ECDHE-RSA-AES256-GCM-SHA384",
        "client_tls13_ciphers" | "server_tls13_ciphers" => "TLS_AES_128_GCM_SHA256",
        "client_tls_ecdhcurve" => "prime256v1",
        _ => other(row),
    }
}

/// What a setting needs beside it to have an effect.
fn beside(row: &Row) -> String {
    let side = ["client", "server"].into_iter().find(|side| row.name.starts_with(&format!("{side}_tls")));
    let lines = |side| {
        let files = ["ca", "cert", "key"].map(|file| format!("{side}_tls_{file}_file = {file}\n"));
        format!("{side}_tls_sslmode = verify-ca\n{}", files.concat())
    };
    match row.name {
        "auth_hba_file" | "auth_ident_file" => "auth_type = hba\nauth_hba_file = h\n".to_owned(),
        "auth_ldap_options" => "auth_type = ldap\n".to_owned(),
        "syslog_facility" | "syslog_ident" => "syslog = 1\n".to_owned(),
        _ => side.map(lines).unwrap_or_default(),
    }
}

#[test]
fn every_setting_does_something_and_is_converted() {
    let with = |lines: &str| format!("[pgbouncer]\nauth_file = u\n{lines}\n[databases]\nb = host=h\n");
    for row in table::GENERAL {
        let general = |line: &str| with(&(beside(row) + line));
        let text = general(&format!("{} = {}", row.name, right(row)));
        converts(&text);
        if row.standing != Standing::NoMeaning {
            let (set, unset) = (parsed(&text).unwrap(), parsed(&general("")).unwrap());
            assert_ne!(set.general, unset.general, "{}", row.name);
        }
    }
    for row in table::DATABASE {
        let database = |more: &str| {
            let given = format!("[databases]\nb = host=h\na = host=h user=u pool_mode=session {more}");
            parsed(&format!("{given}\n[pgbouncer]\nauth_file = u")).unwrap().databases["a"].clone()
        };
        let more = format!("{}={}", row.name, right(row));
        // The smaller of the two counts.
        let (set, unset) = match row.name {
            "min_pool_size" => (database("min_pool_size=3"), database("")),
            _ => (database(&more), database("")),
        };
        assert_ne!(set, unset, "{}", row.name);
        converts(&format!("[databases]\na = host=h user=u {more}\n{}", with("")));
    }
    for row in table::USER {
        let text = format!("[users]\na = {}={}\n{}", row.name, right(row), with(""));
        converts(&text);
        assert_ne!(parsed(&text).unwrap().users["a"], User::default(), "{}", row.name);
    }
}

#[test]
fn settings_without_meaning_are_shown() {
    let config = parsed("[pgbouncer]\nauth_file = u\npkt_buf = 8192\nverbose = 1\n").unwrap();
    let rows = settings::show_config(&config);
    let row = |name: &str| rows.iter().find(|row| row.0 == name).map(|row| (row.1.as_str(), row.2.as_str(), row.3));
    assert_eq!(row("pkt_buf"), Some(("8192", "4096", false)));
    assert_eq!(row("verbose"), Some(("1", "0", true)));
    for name in ["sbuf_loopcnt", "tcp_defer_accept", "client_tls_dheparams", "job_name"] {
        assert!(row(name).is_some_and(|(value, default, _)| value == default), "{name}");
    }
    assert!(rows.is_sorted_by(|a, b| a.0 < b.0));
}

#[test]
fn defaults_are_shown_as_pgbouncers() {
    let config = parsed("[pgbouncer]\nauth_file = u\nmax_client_conn = 7\nmax_lag = 7\n").unwrap();
    let rows = settings::show_config(&config);
    for row in table::GENERAL {
        let (_, value, default, _) = rows.iter().find(|shown| shown.0 == row.name).unwrap();
        assert_eq!(Some(default.as_str()), row.defaults.first().copied(), "{}", row.name);
        match row.name {
            "max_client_conn" => assert_eq!((value.as_str(), default.as_str()), ("7", "100")),
            // The names of files that are there.
            "auth_file" | "conffile" => assert_ne!(value, default),
            _ => assert_eq!(value, default, "{}", row.name),
        }
    }
    // Those that only we have.
    let row = |name: &str| rows.iter().find(|row| row.0 == name).map(|row| (row.1.as_str(), row.2.as_str()));
    assert_eq!((row("shutdown_timeout"), row("max_lag")), (Some(("0", "0")), Some(("7", "0"))));
}

#[test]
fn what_is_given_twice_is_told_with_both_places() {
    let config = load_all(&[
        (
            "pgbouncer.ini",
            "[databases]\na = host=h\nb = host=h port=1 port=2\n%include more.ini\n[pgbouncer]\nauth_file = u\nmax_client_conn = 5\n[users]\nu = pool_size=2\nu = pool_size=3\n",
        ),
        ("more.ini", "a = host=other\n[pgbouncer]\nmax_client_conn = 4\nmax_client_conn = 6\n"),
    ]);
    let config = config.unwrap();
    let told = [
        "pgbouncer.ini:5: [pgbouncer] begins again, which puts back to their defaults, as in PgBouncer: max_client_conn",
        "more.ini:1: a of [databases] is given again, and this one counts: it was given at pgbouncer.ini:2",
        "pgbouncer.ini:3: port of [databases] b is given twice, and the last one counts",
        "pgbouncer.ini:10: u of [users] is given again, and this one counts: it was given at pgbouncer.ini:9",
    ];
    for line in told {
        assert!(config.warnings.iter().any(|warning| warning == line), "{line}: {:#?}", config.warnings);
    }
    assert_eq!(config.warnings.len(), told.len());
    assert_eq!(config.databases["a"].shards[0].servers[0].host, Host::Tcp("other".to_owned()));
    assert_eq!(config.databases["b"].shards[0].servers[0].port, 2);
    assert_eq!((config.users["u"].pool_size, config.general.max_client_conn), (Some(3), 5));
    let config = general("max_client_conn = 4\nmax_client_conn = 6").unwrap();
    let told = "pgbouncer.ini:6: max_client_conn of [pgbouncer] is given again, and this one counts: it was given at pgbouncer.ini:5";
    assert_eq!((config.warnings, config.general.max_client_conn), (vec![told.to_owned()], 6));
}

//! Who is let in, by which proof, and how pgweir proves to servers that it may act for them; and the packets before that.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::time::Duration;

use common::cluster::Cluster;
use common::raw::{Address, Login, LoginError, RawClient};
use common::weir::Weir;
use common::wire::{self, ServerError, frontend, show};

/// Methods of pg_hba.conf, each for a database of its name.
const SERVER_METHODS: [&str; 4] = ["trust", "password", "md5", "scram-sha-256"];

/// Users, all with the password `secret`: how the auth file has it, and how the server stores it.
const USERS: [(&str, &str); 3] = [("clear", "scram-sha-256"), ("md5", "md5"), ("scram", "scram-sha-256")];

fn cluster() -> (Cluster, String) {
    let cluster = Cluster::start();
    for (user, stored) in USERS {
        cluster.sql(&format!("SET password_encryption = '{stored}'; CREATE USER \"{user}\" PASSWORD 'secret'"));
    }
    let mut hba = String::new();
    for method in SERVER_METHODS {
        cluster.sql(&format!("CREATE DATABASE \"{method}\" TEMPLATE template0 STRATEGY file_copy"));
        hba += &format!("host \"{method}\" all 127.0.0.1/32 {method}\n");
    }
    cluster.set_hba(&hba);
    let verifier = |user: &str| cluster.value(&format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{user}'"));
    let users = format!(
        "\"clear\" \"secret\"\n\"md5\" \"{}\"\n\"scram\" \"{}\"\n\"none\" \"\"",
        verifier("md5"),
        verifier("scram")
    );
    (cluster, users)
}

fn weir(cluster: &Cluster, users: &str, auth_type: &str) -> Weir {
    let mut builder = Weir::builder().general(&format!("auth_type = \"{auth_type}\"")).users(users);
    for method in SERVER_METHODS {
        builder = builder.database(&format!(
            "[databases.{method}]\nprimary = \"postgres://127.0.0.1:{}/{method}\"\npool_size = 2",
            cluster.port()
        ));
    }
    builder.start()
}

fn refusal(login: Login) -> ServerError {
    match login.connect() {
        Err(LoginError::Server(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// The authentication requests that a user gets, or none when his secret does not do for this type.
fn requests(auth_type: &str, user: &str) -> Option<&'static str> {
    match (auth_type, user) {
        ("trust", _) => Some("R(0)"),
        ("plain", _) => Some("R(3) R(0)"),
        ("md5", "clear" | "md5") => Some("R(5) R(0)"),
        ("md5", _) | ("scram-sha-256", "clear" | "scram") => Some("R(10) R(11) R(12) R(0)"),
        _ => None,
    }
}

/// Whether what the login leaves in our hands satisfies the server.
fn satisfies(auth_type: &str, user: &str, method: &str) -> bool {
    let password = user == "clear" || auth_type == "plain";
    let keys = user == "scram" && matches!(auth_type, "md5" | "scram-sha-256");
    match (method, user) {
        ("trust", _) => true,
        ("password", _) => password,
        // An MD5 hash is as good as the password where the server asks for MD5.
        ("md5", "md5") => true,
        ("md5", _) => password || keys,
        (_, "md5") => false,
        _ => password || keys,
    }
}

/// Every user to every database under one `auth_type`.
fn matrix(auth_type: &str) {
    let (cluster, users) = cluster();
    let weir = weir(&cluster, &users, auth_type);
    for (user, _) in USERS {
        for method in SERVER_METHODS {
            let case = format!("{user} by {auth_type} to {method}");
            let login = weir.login(user, method);
            let right = if auth_type == "trust" { login.clone() } else { login.clone().password("secret") };
            let Some(requests) = requests(auth_type, user) else {
                assert_eq!(refusal(right).code, "28P01", "{case}");
                continue;
            };
            if !satisfies(auth_type, user, method) {
                let error = refusal(right);
                assert_eq!(error.severity.as_str(), "FATAL", "{case}: {error}");
                // 28P01 is the server's word, 08001 ours: nothing that we know of the user answers what it asks for.
                assert!(matches!(error.code.as_str(), "28P01" | "08001"), "{case}: {error}");
                assert!(error.message.contains("log"), "what was tried is said: {case}: {error}");
                continue;
            }
            // Twice: the second client finds the pool of the first.
            for _ in 0..2 {
                let mut client = right.clone().connect().unwrap_or_else(|error| panic!("{case}: {error:?}"));
                let asked: Vec<_> = client.greeting.iter().filter(|m| m.tag == b'R').cloned().collect();
                assert_eq!(show(&asked), requests, "{case}");
                let row = client.rows("SELECT current_user, current_database()").unwrap();
                assert_eq!(row, [[user, method]], "{case}");
            }
        }
    }
    if auth_type != "trust" {
        strangers(&weir);
    }
}

/// A wrong password, a user who has none and a user who does not exist cannot be told apart.
fn strangers(weir: &Weir) {
    for user in ["clear", "md5", "scram", "none", "nobody"] {
        let error = refusal(weir.login(user, "trust").password("wrong"));
        assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "28P01"), "{user}");
        assert_eq!(error.message, format!("password authentication failed for user \"{user}\""));
        assert_eq!(error.fields.keys().collect::<String>(), "CMSV", "{user}: nothing more is told");
    }
    for password in ["", "secret "] {
        assert_eq!(refusal(weir.login("clear", "trust").password(password)).code, "28P01");
    }
    // Nor is anything said about databases before the proof.
    assert_eq!(refusal(weir.login("clear", "nowhere").password("wrong")).code, "28P01");
    let error = refusal(weir.login("clear", "nowhere").password("secret"));
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "3D000"));
    assert_eq!(error.message, "database \"nowhere\" does not exist");
}

#[test]
fn matrix_of_trust() {
    matrix("trust");
}

#[test]
fn matrix_of_plain() {
    matrix("plain");
}

#[test]
fn matrix_of_md5() {
    matrix("md5");
}

#[test]
fn matrix_of_scram() {
    matrix("scram-sha-256");
}

#[test]
fn trust_lets_in_those_it_knows() {
    let cluster = Cluster::start();
    let weir = Weir::builder().cluster("app", &cluster, &[]).start();
    assert_eq!(weir.client("app").value("SELECT current_user"), "postgres");
    assert_eq!(refusal(weir.login("nobody", "app")).code, "28000");
    assert_eq!(refusal(weir.login("postgres", "nowhere")).code, "3D000");
    // Without a database the user's name stands for it.
    let mut client = RawClient::open(Address::Tcp(weir.port())).unwrap();
    client.send_bytes(&frontend::startup(wire::PROTOCOL_3_0, &[("user".into(), "postgres".into())]));
    let error = client.read_to_end().iter().find_map(|m| m.error()).unwrap();
    assert_eq!(error.message, "database \"postgres\" does not exist");
}

#[test]
fn any_lets_everybody_in_as_the_databases_user() {
    let cluster = Cluster::start();
    cluster.sql("CREATE USER app PASSWORD 'right'");
    cluster.set_hba("host all all 127.0.0.1/32 scram-sha-256");
    let weir = Weir::builder()
        .general("auth_type = \"any\"")
        .database(&format!(
            "[databases.app]\nprimary = \"postgres://127.0.0.1:{}/postgres\"\nuser = \"app\"\npassword = \"right\"",
            cluster.port()
        ))
        .start();
    for user in ["postgres", "whoever"] {
        let mut client = weir.login(user, "app").connect().unwrap();
        assert_eq!(client.value("SELECT current_user"), "app");
    }
}

#[test]
fn console_is_for_those_who_are_named() {
    let cluster = Cluster::start();
    let weir = Weir::builder()
        .general("auth_type = \"scram-sha-256\"\nadmin_users = \"boss\"\nstats_users = \"watcher\"")
        .users("\"boss\" \"b\"\n\"watcher\" \"w\"\n\"guest\" \"g\"")
        .cluster("app", &cluster, &[])
        .start();
    for database in ["pgweir", "pgbouncer"] {
        let mut boss = weir.login("boss", database).password("b").connect().unwrap();
        assert!(boss.rows("SHOW POOLS").is_ok());
        assert_eq!(weir.login("boss", database).password("x").connect().unwrap_err().code(), "28P01");
        let mut watcher = weir.login("watcher", database).password("w").connect().unwrap();
        assert!(watcher.rows("SHOW POOLS").is_ok());
        assert_eq!(watcher.rows("PAUSE").unwrap_err().code, "42501");
        assert_eq!(weir.login("guest", database).password("g").connect().unwrap_err().code(), "42501");
    }
}

// The packets before the login.

/// A trusting pgweir before a cluster.
fn trusting() -> (Cluster, Weir) {
    let cluster = Cluster::start();
    let weir = Weir::builder().cluster("app", &cluster, &[]).start();
    (cluster, weir)
}

#[test]
fn encryption_is_declined() {
    let (_cluster, weir) = trusting();
    for order in [[wire::SSL_REQUEST, wire::GSSENC_REQUEST], [wire::GSSENC_REQUEST, wire::SSL_REQUEST]] {
        let mut client = RawClient::open(Address::Tcp(weir.port())).unwrap();
        for code in order {
            assert_eq!(client.request_encryption(code), b'N');
        }
        let params = [("user", "postgres"), ("database", "app")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        client.send_bytes(&frontend::startup(wire::PROTOCOL_3_0, &params));
        assert!(show(&client.read_until_ready()).starts_with("R(0) "));
        assert_eq!(client.run("SELECT 1"), "T(?column?:23) D(1) C(SELECT 1) Z(I)");
    }
    // Not over and over.
    let mut client = RawClient::open(Address::Tcp(weir.port())).unwrap();
    assert_eq!(client.request_encryption(wire::SSL_REQUEST), b'N');
    client.send_bytes(&frontend::startup_packet(wire::SSL_REQUEST, &[]));
    assert_eq!(show(&client.read_to_end()), "E(FATAL 08P01)");
}

/// CVE class: lengths that overflow.
#[test]
fn malformed_first_packets_are_refused() {
    let (_cluster, weir) = trusting();
    let version = wire::PROTOCOL_3_0.to_be_bytes();
    let packet = |length: u32, rest: &[u8]| [&length.to_be_bytes()[..], rest].concat();
    let user = |rest: &[u8]| frontend::startup_packet(wire::PROTOCOL_3_0, &[b"user\0postgres\0", rest].concat());
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("length zero", packet(0, b""), "08P01"),
        ("shorter than its head", packet(7, &version), "08P01"),
        ("enormous", packet(u32::MAX, &version), "08P01"),
        ("larger than PostgreSQL takes", packet(10_001, &version), "08P01"),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), "08P01"),
        ("TLS without asking", [&[0x16, 3, 1, 2, 0, 1, 0, 1][..], &[0; 64]].concat(), "08P01"),
        ("no terminator", user(b""), "08P01"),
        ("a name without a value", user(b"database"), "08P01"),
        ("bytes behind the end", user(b"database\0app\0\0more"), "08P01"),
        ("not UTF-8", user(b"database\0\xff\xfe\0\0"), "08P01"),
        ("no user", frontend::startup_packet(wire::PROTOCOL_3_0, b"database\0app\0\0"), "28000"),
        ("protocol 2", frontend::startup(2 << 16, &[]), "0A000"),
        ("protocol 4", frontend::startup(4 << 16, &[]), "0A000"),
        ("an unknown request", frontend::startup_packet((1234 << 16) | 1, &[]), "08P01"),
        ("a cancel request cut short", frontend::startup_packet(wire::CANCEL_REQUEST, &[0; 5]), "08P01"),
        ("options that are none", user(b"database\0app\0options\0-x nonsense\0\0"), "22023"),
    ];
    for (what, bytes, code) in cases {
        let mut client = RawClient::open(Address::Tcp(weir.port())).unwrap();
        client.send_bytes(&bytes);
        assert_eq!(show(&client.read_to_end()), format!("E(FATAL {code})"), "{what}");
    }
    assert_eq!(weir.client("app").value("SELECT 1"), "1");
}

/// CVE class: messages out of their order.
#[test]
fn wrong_messages_during_the_login_are_refused() {
    let (_cluster, weir) = trusting();
    drop(weir);
    let cluster = Cluster::start();
    for (auth_type, asked) in [("plain", "R(3)"), ("md5", "R(5)"), ("scram-sha-256", "R(10)")] {
        let weir = Weir::builder()
            .general(&format!("auth_type = \"{auth_type}\""))
            .users("\"user\" \"secret\"")
            .cluster("app", &cluster, &[])
            .start();
        let params = [("user", "user"), ("database", "app")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        let answers: [Vec<u8>; 5] = [
            frontend::query("SELECT 1"),
            wire::frame(b'p', b""),
            wire::frame(b'p', b"no terminator"),
            wire::frame(b'p', &[b'x'; 70_000]),
            vec![b'p', 0xff, 0xff, 0xff, 0xff],
        ];
        for answer in answers {
            let mut client = RawClient::open(Address::Tcp(weir.port())).unwrap();
            client.send_bytes(&frontend::startup(wire::PROTOCOL_3_0, &params));
            assert_eq!(client.read_message().to_string(), asked);
            // It may have been refused before all of it was sent.
            drop(client.try_send_bytes(&answer));
            let told = show(&client.read_to_end());
            let start = &answer[..answer.len().min(20)];
            assert!(matches!(told.as_str(), "E(FATAL 08P01)" | ""), "{auth_type}, {start:?}: {told}");
            assert!(answer.len() > 1000 || told == "E(FATAL 08P01)", "{auth_type}, {start:?}: {told}");
        }
        assert_eq!(weir.login("user", "app").password("secret").connect().unwrap_err().code(), "28000");
    }
}

#[test]
fn startup_packet_in_pieces_and_nearly_as_large_as_may_be() {
    let (_cluster, weir) = trusting();
    let name = "n".repeat(9_000);
    let params = [("user", "postgres"), ("database", "app"), ("app.large", &name)];
    let packet = frontend::startup(wire::PROTOCOL_3_0, &params.map(|(n, v)| (n.to_owned(), v.to_owned())));
    let mut client = RawClient::open(Address::Tcp(weir.port())).unwrap();
    for piece in packet.chunks(700) {
        client.send_bytes(piece);
        std::thread::sleep(Duration::from_millis(1));
    }
    client.read_until_ready();
    assert_eq!(client.value("SHOW app.large"), name);
}

#[test]
fn newer_protocols_are_negotiated() {
    let (_cluster, weir) = trusting();
    let greeting = |login: Login| {
        let mut client = login.connect().unwrap();
        assert_eq!(client.value("SELECT 1"), "1");
        let told: Vec<_> = client.greeting.iter().filter(|m| m.tag == b'v').cloned().collect();
        (show(&told), client.key.len())
    };
    let login = || weir.login("postgres", "app");
    assert_eq!(greeting(login()), (String::new(), 4));
    assert_eq!(greeting(login().protocol(wire::PROTOCOL_3_2)), (String::new(), 32));
    // The newest version that is spoken, whole as PostgreSQL says it, and the number of options that are not known.
    assert_eq!(greeting(login().protocol((3 << 16) | 9)), ("v(196610,0)".to_owned(), 32));
    assert_eq!(greeting(login().param("_pq_.nonsense", "1")), ("v(196608,1)".to_owned(), 4));
}

#[test]
fn login_that_takes_too_long_is_ended() {
    let cluster = Cluster::start();
    let weir = Weir::builder().general("client_login_timeout = \"300ms\"").cluster("app", &cluster, &[]).start();
    let mut silent = RawClient::open(Address::Tcp(weir.port())).unwrap();
    let told = silent.read_to_end().iter().filter_map(|m| m.error()).next().unwrap();
    assert!(told.message.contains("client_login_timeout"), "{told}");
}

#[test]
fn unix_socket() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    let weir = Weir::builder()
        .general(&format!("unix_socket_dir = {:?}\nunix_socket_mode = \"0700\"", dir.path()))
        .cluster("app", &cluster, &[])
        .database(&format!(
            "[databases.local]\nprimary = \"postgres:///postgres?host={}&port={}\"",
            cluster.socket_dir().display(),
            cluster.port()
        ))
        .start();
    let path = dir.path().join(format!(".s.PGSQL.{}", weir.port()));
    common::eventually("the socket is there, with its mode", Duration::from_secs(5), || {
        let permissions = std::fs::metadata(&path).ok()?.permissions();
        (std::os::unix::fs::PermissionsExt::mode(&permissions) & 0o777 == 0o700).then_some(())
    });
    for database in ["app", "local"] {
        let mut client = Login::new(Address::Unix(path.clone()), "postgres", database).connect().unwrap();
        assert_eq!(client.value("SELECT 6 * 7"), "42");
        let by_tcp = client.value("SELECT client_addr IS NOT NULL FROM pg_stat_activity WHERE pid = pg_backend_pid()");
        assert_eq!(by_tcp, if database == "app" { "t" } else { "f" });
    }
    weir.term();
    weir.wait_exit(Duration::from_secs(15));
    assert!(!path.exists(), "the socket is removed at the end");
}

/// When a user's password changes, those who are in already share the new pool with those who come: one limit, one line in the views.
#[test]
fn a_changed_password_leaves_nobody_behind() {
    let cluster = Cluster::start();
    cluster.sql("CREATE USER ann PASSWORD 'old'");
    cluster.set_hba("host all all 127.0.0.1/32 scram-sha-256\n");
    let url = format!("[databases.app]\nprimary = \"postgres://127.0.0.1:{}/postgres\"\npool_size = 1", cluster.port());
    let mut weir = Weir::builder().general("auth_type = \"plain\"").users("\"ann\" \"old\"").database(&url).start();
    let mut before = weir.login("ann", "app").password("old").connect().unwrap();
    assert_eq!(before.value("SELECT current_user"), "ann");
    cluster.sql("ALTER USER ann PASSWORD 'new'");
    weir.reconfigure(|_| Weir::builder().general("auth_type = \"plain\"").users("\"ann\" \"new\"").database(&url));
    weir.hup();
    let mut after = common::eventually("the new password is taken", Duration::from_secs(10), || {
        weir.login("ann", "app").password("new").connect().ok()
    });
    assert_eq!(after.value("SELECT current_user"), "ann");
    assert_eq!(before.value("SELECT current_user"), "ann");
    // One connection for both.
    assert_eq!(before.run("BEGIN"), "C(BEGIN) Z(T)");
    after.query("SELECT 'at last'");
    after.expect_silence(Duration::from_millis(300));
    assert_eq!(before.run("COMMIT"), "C(COMMIT) Z(I)");
    assert!(show(&after.read_until_ready()).contains("D(at last)"));
}

/// Whoever is not let in, for whatever reason, is not counted any more when that is told.
#[test]
fn who_fails_to_log_in_leaves_no_count() {
    let cluster = Cluster::start();
    cluster.sql("CREATE USER app PASSWORD 'a'; CREATE USER wrong PASSWORD 'another'");
    cluster.set_hba("host all wrong 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust");
    let weir = Weir::builder()
        .general(
            "auth_type = \"scram-sha-256\"\nmax_client_conn = 6\nmax_user_client_connections = 2\n\
             max_db_client_connections = 3\nserver_login_retry = 0\nadmin_users = \"boss\"",
        )
        .users("\"app\" \"a\"\n\"wrong\" \"w\"\n\"boss\" \"b\"")
        .cluster("app", &cluster, &[])
        .start();
    let mut console = weir.login("boss", "pgbouncer").password("b").connect().unwrap();
    let mut count = |what: &str, key: &str, at: usize| -> String {
        let rows = console.rows(what).unwrap();
        rows.iter().find(|row| row[0] == key).unwrap()[at].clone()
    };
    let nobody = count("SHOW LISTS", "used_clients", 1);
    let login = |user: &str, password: &str| weir.login(user, "app").password(password);
    let params = [("user", "app"), ("database", "app")].map(|(n, v)| (n.to_owned(), v.to_owned()));
    for _ in 0..20 {
        assert_eq!(refusal(login("app", "no")).code, "28P01");
        assert_eq!(refusal(login("nobody", "no")).code, "28P01");
        assert_eq!(refusal(login("wrong", "w")).code, "28P01", "the server's word");
        assert_eq!(refusal(weir.login("app", "nowhere").password("a")).code, "3D000");
        assert_eq!(refusal(login("app", "a").param("options", "-c work_mem=nonsense")).code, "22023");
        assert_eq!(refusal(login("app", "a").param("no_such_setting", "1")).code, "42704");
        // In the middle of the proof.
        let mut client = RawClient::open(Address::Tcp(weir.port())).unwrap();
        client.send_bytes(&frontend::startup(wire::PROTOCOL_3_0, &params));
        assert_eq!(client.read_message().to_string(), "R(10)");
        drop(client);
    }
    common::eventually("nobody is there", Duration::from_secs(10), || {
        (count("SHOW LISTS", "used_clients", 1) == nobody && count("SHOW LISTS", "login_clients", 1) == "0")
            .then_some(())
    });
    assert_eq!(count("SHOW USERS", "app", 7), "0");
    assert_eq!(count("SHOW DATABASES", "app", 14), "0");
    // Exactly as many as the limits allow.
    let mut inside: Vec<RawClient> = (0..2).map(|_| login("app", "a").connect().unwrap()).collect();
    assert_eq!(refusal(login("app", "a")).code, "53300");
    assert_eq!(inside[1].value("SELECT current_user"), "app");
    assert_eq!((count("SHOW USERS", "app", 7), count("SHOW DATABASES", "app", 14)), ("2".into(), "2".into()));
}

/// The frames: a startup message, and a password message that claims a megabyte.
#[test]
fn what_proves_nothing_yet_is_kept_short() {
    let cluster = Cluster::start();
    let weir = Weir::builder()
        .general("auth_type = \"plain\"\nmax_client_conn = 1")
        .users("\"admin\" \"x\"")
        .cluster("app", &cluster, &[])
        .start();
    for database in ["app", "pgweir"] {
        let mut client = RawClient::open(Address::Tcp(weir.port())).unwrap();
        let params = [("user", "admin"), ("database", database)].map(|(n, v)| (n.to_owned(), v.to_owned()));
        client.send_bytes(&frontend::startup(wire::PROTOCOL_3_0, &params));
        assert_eq!(client.read_message().to_string(), "R(3)");
        // No more than the beginning of it is sent: it is refused for its length alone.
        client.send_bytes(&[&b"p"[..], &1_000_000_u32.to_be_bytes()[..], b"x"].concat());
        assert_eq!(show(&client.read_to_end()), "E(FATAL 08P01)", "{database}");
    }
}

#[test]
fn logins_to_the_console_are_counted_until_they_are_done() {
    let cluster = Cluster::start();
    let weir = Weir::builder()
        .general("auth_type = \"plain\"\nmax_client_conn = 2")
        .users("\"admin\" \"x\"")
        .cluster("app", &cluster, &[])
        .start();
    let begin = || {
        let mut client = RawClient::open(Address::Tcp(weir.port())).unwrap();
        let params = [("user", "admin"), ("database", "pgweir")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        client.send_bytes(&frontend::startup(wire::PROTOCOL_3_0, &params));
        let said = client.read_message();
        (client, said)
    };
    let mut begun: Vec<_> = (0..66).map(|_| begin()).collect();
    assert!(begun.iter().all(|(_, said)| said.to_string() == "R(3)"), "64 beside the clients, 2 instead of them");
    let error = begin().1.error().unwrap();
    assert_eq!(error.code, "53300", "{error}");
    assert!(error.fields[&'H'].contains("unix socket"), "{error}");
    // Who has proven who he is takes nobody's place.
    let (client, _) = &mut begun[65];
    client.send(b'p', b"x\0");
    client.read_until(b'Z');
    let (_, said) = begin();
    assert_eq!(said.to_string(), "R(3)");
}

#[test]
fn keys_that_were_derived_go_when_the_salt_does() {
    let cluster = Cluster::start();
    cluster.sql("CREATE USER ann PASSWORD 'secret'");
    cluster.set_hba("host all ann 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n");
    let weir = Weir::builder()
        .general("auth_type = \"scram-sha-256\"")
        .users("\"ann\" \"secret\"\n\"admin\" \"x\"")
        .cluster("app", &cluster, &[])
        .start();
    let mut ann = weir.login("ann", "app").password("secret").connect().unwrap();
    let mut console = weir.login("admin", "pgweir").password("x").connect().unwrap();
    for _ in 0..2 {
        for _ in 0..2 {
            assert_eq!(ann.value("SELECT current_user"), "ann");
            assert_eq!(console.run("RECONNECT"), "C(RECONNECT) Z(I)");
        }
        cluster.sql("ALTER USER ann PASSWORD 'secret'");
    }
    assert_eq!(ann.value("SELECT current_user"), "ann");
}

#[test]
fn who_comes_while_a_worker_is_behind_waits() {
    const COUNT: usize = 900;
    let cluster = Cluster::start();
    let weir = Weir::builder()
        .general("auth_type = \"plain\"\nmax_client_conn = 2000\nworkers = 1\nlisten_backlog = 2000")
        .cluster("app", &cluster, &[])
        .start();
    let params = [("user", "ann"), ("database", "app")].map(|(n, v)| (n.to_owned(), v.to_owned()));
    let startup = frontend::startup(wire::PROTOCOL_3_0, &params);
    // Faster than the worker can take them in.
    let come = |_| {
        let mut client = RawClient::open(Address::Tcp(weir.port())).unwrap();
        client.send_bytes(&startup);
        client
    };
    let mut clients: Vec<_> = (0..COUNT).map(come).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let said = client.try_read_message().unwrap_or_else(|error| panic!("{number}: {error}"));
        assert_eq!(said.map(|said| said.to_string()), Some("R(3)".to_owned()), "{number}");
    }
}

#[test]
fn the_log_alone_says_why_no_login_can_succeed() {
    let cluster = Cluster::start();
    let weir = Weir::builder()
        .general("auth_type = \"scram-sha-256\"")
        .users("\"md\" \"md545f2603610af569b6155c45067268c6b\"")
        .cluster("app", &cluster, &[])
        .start();
    weir.wait_log("only an md5 secret is known of \"md\", with which nobody can log in");
    for (user, why) in [
        ("ghost", "no such user: neither auth_file nor [users] nor auth_query knows it"),
        ("md", "only an md5 secret is known of the user, which SCRAM cannot check"),
    ] {
        let LoginError::Server(error) = weir.login(user, "app").password("x").connect().unwrap_err() else {
            panic!("the login of {user} was not refused in words")
        };
        assert_eq!(error.message, format!("password authentication failed for user \"{user}\""));
        assert!(!error.fields.contains_key(&'D') && !error.fields.contains_key(&'H'), "{error:?}");
        weir.wait_log(why);
    }
}

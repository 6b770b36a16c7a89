//! TLS on both sides: every mode, what is refused and why, and that nothing else changes by it.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use common::certs::{self, Authority, Pair};
use common::cluster::Cluster;
use common::eventually;
use common::fake::Step;
use common::raw::{self, Address, Login, LoginError, RawClient};
use common::tools::{self, Output, Running};
use common::weir::{Builder, Weir};
use common::wire::{self, frontend, show};

const SOON: Duration = Duration::from_secs(15);

/// A pgweir that speaks TLS with clients, and a directory for its files.
struct Front {
    authority: Authority,
    dir: tempfile::TempDir,
    weir: Weir,
}

fn client_tls(authority: &Authority, mode: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = authority.issue("localhost", &["localhost", "127.0.0.1"]).write(dir.path(), "weir");
    certs::write(dir.path(), "ca.crt", authority.cert());
    let lines =
        format!("client_tls_sslmode = \"{mode}\"\nclient_tls_cert_file = {cert:?}\nclient_tls_key_file = {key:?}");
    (dir, lines)
}

fn front(cluster: &Cluster, mode: &str, change: impl FnOnce(Builder) -> Builder) -> Front {
    let authority = Authority::new("the house");
    let (dir, lines) = client_tls(&authority, mode);
    let weir = change(Weir::builder().general(&lines).cluster("app", cluster, &[])).start();
    Front { authority, dir, weir }
}

impl Front {
    fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    /// A login over TLS, not made yet.
    fn login(&self, user: &str, database: &str) -> Login {
        self.weir.login(user, database).tls(self.authority.client(""))
    }

    fn client(&self) -> RawClient {
        self.login("postgres", "app").connect().unwrap()
    }

    fn psql(&self, options: &str, sql: &str) -> Output {
        psql(self.weir.port(), options, sql)
    }
}

/// `psql` with libpq's own words for TLS.
fn psql(port: u16, options: &str, sql: &str) -> Output {
    let target = format!("host=localhost hostaddr=127.0.0.1 dbname=app {options}");
    Running::start(&mut tools::psql_command(port, "app", &["-Atc", sql, &target])).wait(tools::TIMEOUT)
}

/// The `tls` column of SHOW CLIENTS for the one client of `app`.
fn shown(weir: &Weir) -> String {
    let rows = weir.admin_table("SHOW CLIENTS");
    let row = rows.into_iter().find(|row| row["database"] == "app").expect("a client of app");
    row["tls"].clone()
}

#[test]
fn psql_connects_in_every_mode() {
    let cluster = Cluster::start();
    let front = front(&cluster, "allow", |b| b);
    let ca = front.ca().display().to_string();
    for (options, encrypted) in [
        ("sslmode=disable".to_owned(), false),
        ("sslmode=allow".to_owned(), false),
        ("sslmode=prefer".to_owned(), true),
        ("sslmode=require".to_owned(), true),
        (format!("sslmode=verify-ca sslrootcert={ca}"), true),
        (format!("sslmode=verify-full sslrootcert={ca}"), true),
    ] {
        assert_eq!(front.psql(&options, "SELECT 40 + 2").ok(), "42\n", "{options}");
        let tls = front.psql(&options, "\\conninfo").ok().contains("SSL connection");
        assert_eq!(tls, encrypted, "{options}");
    }
    let other = certs::write(front.dir.path(), "other.crt", Authority::new("another house").cert());
    let refused = front.psql(&format!("sslmode=verify-ca sslrootcert={}", other.display()), "SELECT 1");
    assert!(refused.stderr.contains("certificate verify failed"), "{refused:?}");
}

#[test]
fn without_tls_it_is_refused_where_it_is_demanded() {
    let cluster = Cluster::start();
    let socket = tempfile::tempdir().unwrap();
    let front = front(&cluster, "require", |b| b.general(&format!("unix_socket_dir = {:?}", socket.path())));
    match front.weir.login("postgres", "app").connect() {
        Err(LoginError::Server(error)) => {
            assert_eq!(
                (error.code.as_str(), error.message.as_str()),
                ("28000", "connections without TLS are not accepted")
            );
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(front.client().value("SELECT 1"), "1");
    // Nobody can listen on a unix socket, so it needs no TLS and gets none.
    let path = socket.path().join(format!(".s.PGSQL.{}", front.weir.port()));
    let mut client = RawClient::open(Address::Unix(path.clone())).unwrap();
    assert_eq!(client.request_encryption(wire::SSL_REQUEST), b'N');
    assert_eq!(Login::new(Address::Unix(path), "postgres", "app").connect().unwrap().value("SELECT 1"), "1");
}

#[test]
fn versions_and_suites_are_those_of_the_settings_and_shown() {
    let cluster = Cluster::start();
    let mut front = front(&cluster, "prefer", |b| b);
    {
        let _client = front.client();
        assert_eq!(shown(&front.weir), "TLSv1.3/TLS_AES_256_GCM_SHA384");
    }
    front.weir.reconfigure(|b| {
        b.general("client_tls_protocols = \"tlsv1.2\"\nclient_tls_ciphers = \"ECDHE-ECDSA-AES128-GCM-SHA256\"")
    });
    front.weir.admin("RELOAD");
    let _client = front.client();
    assert_eq!(shown(&front.weir), "TLSv1.2/ECDHE-ECDSA-AES128-GCM-SHA256");
    let newer = front.psql("sslmode=require ssl_min_protocol_version=TLSv1.3", "SELECT 1");
    assert!(!newer.status.success(), "{newer:?}");
    front.weir.wait_log("the handshake failed");
}

#[test]
fn suites_of_tls_1_3_and_curves_are_those_of_the_settings() {
    let cluster = Cluster::start();
    let lines = "client_tls13_ciphers = \"TLS_AES_128_GCM_SHA256\"\nclient_tls_ecdhcurve = \"P-384\"\n\
                 client_tls_ciphers = \"ECDHE-ECDSA-AES256-GCM-SHA384\"";
    let chosen = front(&cluster, "prefer", |b| b.general(lines));
    {
        let _client = chosen.client();
        assert_eq!(shown(&chosen.weir), "TLSv1.3/TLS_AES_128_GCM_SHA256");
    }
    let openssl = |options: &[&str]| {
        let mut command = Command::new("openssl");
        let target = format!("127.0.0.1:{}", chosen.weir.port());
        command.args(["s_client", "-starttls", "postgres", "-connect", &target]).args(options);
        let said = Running::start(&mut command).wait(SOON);
        format!("{}{}", said.stdout, said.stderr)
    };
    let agreed = openssl(&["-curves", "X25519:secp384r1"]);
    assert!(agreed.contains("TLS_AES_128_GCM_SHA256") && agreed.contains("384 bits"), "{agreed}");
    let older = openssl(&["-tls1_2"]);
    assert!(older.contains("ECDHE-ECDSA-AES256-GCM-SHA384") && older.contains("384 bits"), "{older}");
    for refused in [["-curves", "X25519"], ["-ciphersuites", "TLS_AES_256_GCM_SHA384"]] {
        let said = openssl(&[&refused[..], &["-tls1_3"]].concat());
        assert!(said.contains("Cipher is (NONE)"), "{refused:?}: {said}");
    }
    // A list of older suites says nothing of TLS 1.3, as in PgBouncer.
    let older = front(&cluster, "prefer", |b| b.general("client_tls_ciphers = \"ECDHE-ECDSA-AES256-GCM-SHA384\""));
    let _client = older.client();
    assert_eq!(shown(&older.weir), "TLSv1.3/TLS_AES_256_GCM_SHA384");
}

/// CVE class: what came in the clear taken for encrypted.
#[test]
fn plain_bytes_behind_the_request_are_refused() {
    let cluster = Cluster::start();
    let front = front(&cluster, "prefer", |b| b);
    let mut client = RawClient::open(Address::Tcp(front.weir.port())).unwrap();
    let request = frontend::startup_packet(wire::SSL_REQUEST, &[]);
    let params = [("user", "postgres"), ("database", "app")].map(|(n, v)| (n.to_owned(), v.to_owned()));
    client.send_bytes(&[request, frontend::startup(wire::PROTOCOL_3_0, &params)].concat());
    let messages = client.read_to_end();
    let error = messages[0].error().unwrap();
    assert_eq!((error.code.as_str(), messages.len()), ("08P01", 1), "{messages:?}");
    assert!(error.message.contains("unencrypted data after SSL request"), "{error:?}");
}

/// The same from a server: what stands behind its `S` was sent by whoever could write into the stream.
#[test]
fn plain_bytes_behind_a_servers_answer_are_refused() {
    let hello = common::fake::greeting(1, &[1, 2, 3, 4]);
    // It is there before the request is.
    let fake = common::fake::FakeServer::serve(move |_| vec![Step::TrySend([b"S", &hello[..]].concat()), Step::Stall]);
    for mode in ["prefer", "require"] {
        let weir = Weir::builder()
            .general(&format!("server_tls_sslmode = \"{mode}\"\nserver_connect_timeout = \"2s\""))
            .database(&format!("[databases.app]\nprimary = \"postgres://127.0.0.1:{}/d\"", fake.port()))
            .start();
        match weir.login("postgres", "app").connect() {
            Err(LoginError::Server(error)) => assert!(error.code.starts_with("08"), "{mode}: {error}"),
            other => panic!("{mode}: {other:?}"),
        }
    }
}

#[test]
fn encryption_is_not_asked_for_twice() {
    let cluster = Cluster::start();
    let front = front(&cluster, "prefer", |b| b);
    let mut client = RawClient::open(Address::Tcp(front.weir.port())).unwrap();
    assert_eq!(client.request_encryption(wire::GSSENC_REQUEST), b'N');
    assert_eq!(client.request_encryption(wire::SSL_REQUEST), b'S');
    let mut client = client.encrypt(front.authority.client("")).unwrap();
    client.send_bytes(&frontend::startup_packet(wire::SSL_REQUEST, &[]));
    assert_eq!(show(&client.read_to_end()), "E(FATAL 08P01)");
}

#[test]
fn tls_may_come_first_if_it_names_the_protocol() {
    let cluster = Cluster::start();
    let front = front(&cluster, "require", |b| b);
    let open = || RawClient::open(Address::Tcp(front.weir.port())).unwrap();
    let mut client = open().encrypt(front.authority.client("postgresql")).unwrap();
    client.log_in(&front.weir.login("postgres", "app")).unwrap();
    assert_eq!(client.value("SELECT 1"), "1");
    let mut silent = open().encrypt(front.authority.client("")).unwrap();
    assert_eq!(show(&silent.read_to_end()), "E(FATAL 08P01)");
    let wrong = open().encrypt(front.authority.client("http/1.1")).unwrap_err();
    assert!(wrong.to_string().contains("NoApplicationProtocol"), "{wrong}");
}

#[test]
fn cancel_requests_come_over_tls() {
    let cluster = Cluster::start();
    let front = front(&cluster, "require", |b| b);
    let mut client = front.client();
    client.query("SELECT pg_sleep(600)");
    let running = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)' AND state = 'active'";
    eventually("the query runs", SOON, || (!cluster.sql(running).is_empty()).then_some(()));
    let mut request = RawClient::open(Address::Tcp(front.weir.port())).unwrap();
    assert_eq!(request.request_encryption(wire::SSL_REQUEST), b'S');
    let mut request = request.encrypt(front.authority.client("")).unwrap();
    request.send_bytes(&frontend::cancel(client.pid, &client.key));
    request.read_to_end();
    assert!(show(&client.read_until_ready()).ends_with("E(57014) Z(I)"));
    // libpq before 17 cancels in the clear whatever the connection has.
    client.query("SELECT pg_sleep(600)");
    eventually("the query runs again", SOON, || (!cluster.sql(running).is_empty()).then_some(()));
    raw::cancel(&Address::Tcp(front.weir.port()), client.pid, &client.key);
    assert!(show(&client.read_until_ready()).ends_with("E(57014) Z(I)"));
}

const MEGABYTES: usize = 24;

#[test]
fn much_is_copied_both_ways() {
    let mut cluster = Cluster::start();
    cluster.sql("CREATE TABLE t (i int, x text)");
    cluster.enable_tls(&certs::self_signed("server", &[]), None);
    let front = front(&cluster, "require", |b| b.general("server_tls_sslmode = \"require\""));
    let file = front.dir.path().join("rows");
    let rows = MEGABYTES * 1024;
    let text: String = (0..rows).map(|i| format!("{i}\t{}\n", format!("{:x}", i * 7919).repeat(1000 / 5))).collect();
    std::fs::write(&file, &text).unwrap();
    front.psql("sslmode=require", &format!("\\copy t FROM '{}'", file.display())).ok();
    let back = front.psql("sslmode=require", "COPY (SELECT * FROM t ORDER BY i) TO STDOUT").ok();
    assert_eq!(back.len(), text.len());
    assert!(back == text, "what was copied out is not what was copied in");
    // Rows instead of COPY, larger than any buffer.
    let long = front.psql("sslmode=require", "SELECT repeat('x', 20000000)").ok();
    assert_eq!(long.len(), 20_000_001);
}

#[test]
fn a_reload_brings_a_new_certificate_and_drops_nobody() {
    let cluster = Cluster::start();
    let front = front(&cluster, "prefer", |b| b);
    let mut old = front.client();
    let next = Authority::new("the next house");
    next.issue("localhost", &["localhost"]).write(front.dir.path(), "weir");
    front.weir.admin("RELOAD");
    let mut new = front.weir.login("postgres", "app").tls(next.client("")).connect().unwrap();
    assert_eq!((old.value("SELECT 1"), new.value("SELECT 2")), ("1".to_owned(), "2".to_owned()));
    assert!(front.login("postgres", "app").connect().is_err(), "the certificate is of another authority now");

    // A broken one is refused, and the old one stays.
    certs::write(front.dir.path(), "weir.crt", "no certificate\n");
    let mut console = front.weir.login("admin", "pgweir").tls(next.client("")).connect().unwrap();
    let error = console.rows("RELOAD").unwrap_err();
    let said = format!("{error:?}");
    assert!(said.contains("client_tls_cert_file") && said.contains("no certificate in it"), "{said}");
    assert_eq!(front.weir.login("postgres", "app").tls(next.client("")).connect().unwrap().value("SELECT 3"), "3");
    // A key that is not the certificate's.
    next.issue("localhost", &["localhost"]).write(front.dir.path(), "weir");
    certs::write(front.dir.path(), "weir.key", &next.issue("x", &[]).key);
    let said = format!("{:?}", console.rows("RELOAD").unwrap_err());
    assert!(said.contains("cannot be used together"), "{said}");
    assert_eq!(old.value("SELECT 4"), "4");
}

#[test]
fn clients_show_certificates() {
    let cluster = Cluster::start();
    cluster.sql("CREATE USER alice");
    let front = front(&cluster, "allow", |b| b);
    let dir = front.dir.path().to_owned();
    let (cert, key) = front.authority.issue("alice", &[]).write(&dir, "alice");
    let mine = format!("sslcert={} sslkey={}", cert.display(), key.display());
    let mut weir = front.weir;
    let ca = front.dir.path().join("ca.crt");
    weir.reconfigure(|b| {
        b.general(&format!("client_tls_ca_file = {ca:?}"))
            .general("auth_type = \"cert\"")
            .users("\"alice\" \"\"\n\"bob\" \"\"")
    });
    // The mode was given before: one line of it may stand.
    let text = std::fs::read_to_string(weir.config_path()).unwrap();
    std::fs::write(weir.config_path(), text.replace("= \"allow\"", "= \"verify-full\"")).unwrap();
    weir.hup();
    weir.wait_log("configuration reloaded");
    let run = |user: &str, options: &str| {
        psql(weir.port(), &format!("sslmode=require user={user} {options}"), "SELECT current_user")
    };
    assert_eq!(run("alice", &mine).ok(), "alice\n");
    let other = run("bob", &mine);
    assert!(other.stderr.contains("certificate authentication failed for user \"bob\""), "{other:?}");
    let none = run("alice", "sslcert=/nowhere sslkey=/nowhere");
    assert!(none.stderr.contains("certificate required"), "{none:?}");
    let forged = Authority::new("the house").issue("alice", &[]).write(&dir, "forged");
    let forged = run("alice", &format!("sslcert={} sslkey={}", forged.0.display(), forged.1.display()));
    assert!(!forged.status.success(), "{forged:?}");
}

// The server side.

/// A server with TLS whose certificate is for `hosts`, and the authority that issued it.
fn server(common_name: &str, hosts: &[&str]) -> (Cluster, Authority) {
    let authority = Authority::new("the servers' house");
    let mut cluster = Cluster::start();
    cluster.enable_tls(&authority.issue(common_name, hosts), None);
    (cluster, authority)
}

fn behind(host: &str, cluster: &Cluster, lines: &str) -> Weir {
    Weir::builder()
        .general(&format!("server_login_retry = 0\nprobe_interval = \"100ms\"\n{lines}"))
        .database(&format!(
            "[databases.app]\nuser = \"postgres\"\nprimary = \"postgres://{host}:{}/postgres\"",
            cluster.port()
        ))
        .start()
}

/// Whether the server says that this session has TLS.
const MY_TLS: &str = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

#[test]
fn servers_get_tls_by_the_mode() {
    let (cluster, _) = server("localhost", &["localhost"]);
    for (mode, encrypted) in [("disable", "f"), ("allow", "f"), ("prefer", "t"), ("require", "t")] {
        let weir = behind("127.0.0.1", &cluster, &format!("server_tls_sslmode = \"{mode}\""));
        assert_eq!(weir.client("app").value(MY_TLS), encrypted, "{mode}");
        let tls = &weir.admin_table("SHOW SERVERS")[0]["tls"];
        assert_eq!(tls, if encrypted == "t" { "TLSv1.3/TLS_AES_256_GCM_SHA384" } else { "" }, "{mode}");
    }
    // Where the server demands one or the other, allow and prefer find the way.
    cluster.set_hba("hostssl all all 127.0.0.1/32 trust");
    let weir = behind("127.0.0.1", &cluster, "server_tls_sslmode = \"allow\"");
    assert_eq!(weir.client("app").value(MY_TLS), "t");
    cluster.set_hba("hostnossl all all 127.0.0.1/32 trust");
    let weir = behind("127.0.0.1", &cluster, "server_tls_sslmode = \"prefer\"");
    assert_eq!(weir.client("app").value(MY_TLS), "f");
    let weir = behind("127.0.0.1", &cluster, "server_tls_sslmode = \"require\"");
    match weir.login("postgres", "app").connect() {
        Err(LoginError::Server(error)) => assert!(error.message.contains("no pg_hba.conf entry"), "{error:?}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_server_without_tls_is_refused_where_it_is_required() {
    let cluster = Cluster::start();
    let weir = behind("127.0.0.1", &cluster, "server_tls_sslmode = \"prefer\"");
    assert_eq!(weir.client("app").value(MY_TLS), "f");
    let weir = behind("127.0.0.1", &cluster, "server_tls_sslmode = \"require\"");
    match weir.login("postgres", "app").connect() {
        Err(LoginError::Server(error)) => assert!(error.message.contains("does not support TLS"), "{error:?}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn servers_are_checked() {
    let (mut cluster, authority) = server("db.example.com", &["localhost"]);
    let dir = tempfile::tempdir().unwrap();
    let right = certs::write(dir.path(), "right.crt", authority.cert());
    let wrong = certs::write(dir.path(), "wrong.crt", Authority::new("the servers' house").cert());
    let lines = |mode: &str, ca: &PathBuf| format!("server_tls_sslmode = \"{mode}\"\nserver_tls_ca_file = {ca:?}");
    let tried = |cluster: &Cluster, host: &str, mode: &str, ca: &PathBuf| {
        let weir = behind(host, cluster, &lines(mode, ca));
        match weir.login("postgres", "app").connect() {
            Ok(mut client) => client.value(MY_TLS),
            Err(LoginError::Server(error)) => error.message,
            Err(other) => panic!("{other:?}"),
        }
    };
    assert_eq!(tried(&cluster, "127.0.0.1", "verify-ca", &right), "t");
    assert_eq!(tried(&cluster, "localhost", "verify-full", &right), "t");
    let said = tried(&cluster, "127.0.0.1", "verify-full", &right);
    assert!(said.contains("is for another host"), "{said}");
    for mode in ["verify-ca", "verify-full"] {
        let said = tried(&cluster, "localhost", mode, &wrong);
        assert!(said.contains("not accepted"), "{said}");
    }
    // Without alternative names the common name counts, as with libpq.
    cluster.enable_tls(&authority.issue("localhost", &[]), None);
    assert_eq!(tried(&cluster, "localhost", "verify-full", &right), "t");
    let said = tried(&cluster, "127.0.0.1", "verify-full", &right);
    assert!(said.contains("is for another host"), "{said}");
    // A certificate that vouches for itself.
    let own = certs::self_signed("localhost", &["localhost"]);
    cluster.enable_tls(&own, None);
    let own = certs::write(dir.path(), "own.crt", &own.cert);
    assert_eq!(tried(&cluster, "localhost", "verify-full", &own), "t");
    let said = tried(&cluster, "localhost", "verify-ca", &right);
    assert!(said.contains("not accepted"), "{said}");
}

#[test]
fn we_show_servers_a_certificate() {
    let authority = Authority::new("the house");
    let mut cluster = Cluster::start();
    cluster.enable_tls(&authority.issue("localhost", &["localhost"]), Some(authority.cert()));
    cluster.set_hba("hostssl all all 127.0.0.1/32 cert");
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = authority.issue("postgres", &[]).write(dir.path(), "ours");
    let lines = format!(
        "server_tls_sslmode = \"require\"\nserver_tls_cert_file = {cert:?}\nserver_tls_key_file = {key:?}\n\
         server_tls_protocols = \"tlsv1.2\""
    );
    let weir = behind("127.0.0.1", &cluster, &lines);
    assert_eq!(
        weir.client("app").value("SELECT client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()"),
        "/CN=postgres"
    );
    assert!(weir.admin_table("SHOW SERVERS")[0]["tls"].starts_with("TLSv1.2/ECDHE-"));
}

#[test]
fn statements_are_cancelled_on_servers_with_tls() {
    let (cluster, _) = server("localhost", &["localhost"]);
    cluster.set_hba("hostssl all all 127.0.0.1/32 trust");
    let weir = behind("127.0.0.1", &cluster, "server_tls_sslmode = \"require\"");
    let mut client = weir.client("app");
    client.query("SELECT pg_sleep(600)");
    let running = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)' AND state = 'active'";
    eventually("the query runs", SOON, || (!cluster.sql(running).is_empty()).then_some(()));
    client.cancel();
    assert!(show(&client.read_until_ready()).ends_with("E(57014) Z(I)"));
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn workers_share_connections_with_tls() {
    let (cluster, _) = server("localhost", &["localhost"]);
    cluster.sql("CREATE TABLE hits (who int)");
    let authority = Authority::new("the house");
    let (_dir, lines) = client_tls(&authority, "prefer");
    let weir = Weir::builder()
        .general(&format!("{lines}\nworkers = 2\nserver_tls_sslmode = \"require\""))
        .database(&format!(
            "[databases.app]\nprimary = \"postgres://127.0.0.1:{}/postgres\"\npool_size = 1",
            cluster.port()
        ))
        .start();
    // One connection for clients on both workers: it moves with nearly every statement.
    let clients: Vec<_> = (0..4)
        .map(|who| {
            let login = weir.login("postgres", "app").tls(authority.client(""));
            std::thread::spawn(move || {
                let mut client = login.connect().unwrap();
                for i in 0..100 {
                    assert_eq!(client.run(&format!("INSERT INTO hits VALUES ({who})")), "C(INSERT 0 1) Z(I)");
                    let long = client.value(&format!("SELECT repeat('{i},', 30000)"));
                    assert_eq!(long.len(), format!("{i},").len() * 30_000);
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert_eq!(cluster.value("SELECT count(*) FROM hits"), "400");
    assert_eq!(weir.admin("SHOW SERVERS").len(), 1);
    // What was closed was closed with a goodbye.
    drop(weir);
    assert!(!cluster.log_text().contains("unexpected eof"), "{}", cluster.log_text());
}

#[test]
fn servers_are_probed_with_tls() {
    let (mut primary, authority) = server("localhost", &["localhost"]);
    let mut replica = primary.replica();
    // The replica has a copy of the primary's files.
    replica.configure(&[("ssl", "on")]);
    for cluster in [&primary, &replica] {
        cluster.set_hba("hostssl all all 127.0.0.1/32 trust");
    }
    let dir = tempfile::tempdir().unwrap();
    let ca = certs::write(dir.path(), "ca.crt", authority.cert());
    let url = |cluster: &Cluster| format!("\"postgres://localhost:{}/postgres\"", cluster.port());
    let weir = Weir::builder()
        .general("probe_interval = \"100ms\"\nbreaker_failures = 2\nbreaker_cooldown = \"200ms\"")
        .general(&format!("server_tls_sslmode = \"verify-full\"\nserver_tls_ca_file = {ca:?}"))
        .database(&format!(
            "[databases.app]\nuser = \"postgres\"\nprimary = {}\nreplicas = [{}]",
            url(&primary),
            url(&replica)
        ))
        .start();
    let row = |port: u16| {
        let rows = weir.admin_table("SHOW REPLICAS");
        rows.into_iter().find(|row| row["port"] == port.to_string()).unwrap()
    };
    eventually("the replica is probed", SOON, || (row(replica.port())["lag_bytes"] == "0").then_some(()));
    let tls = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'pgweir probe' AND ssl";
    assert_eq!(replica.value(tls), "1");
    // A certificate of nobody's: the replica is not trusted any more, and the log of probes says why.
    replica.enable_tls(&certs::self_signed("localhost", &["localhost"]), None);
    replica.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgweir probe'");
    eventually("the probe fails", SOON, || row(replica.port())["last_error"].contains("not accepted").then_some(()));
    primary.reload();
    primary.enable_tls(&authority.issue("localhost", &["localhost"]), None);
    assert_eq!(weir.client("app").value(MY_TLS), "t");
}

// Logins that are bound to the channel.

#[test]
fn logins_of_clients_are_bound_to_the_certificate() {
    let cluster = Cluster::start();
    let front =
        front(&cluster, "prefer", |b| b.general("auth_type = \"scram-sha-256\"").users("\"postgres\" \"secret\""));
    for (options, let_in) in [
        ("sslmode=require channel_binding=require password=secret", true),
        ("sslmode=require channel_binding=prefer password=secret", true),
        ("sslmode=require channel_binding=disable password=secret", true),
        ("sslmode=disable channel_binding=prefer password=secret", true),
        ("sslmode=disable channel_binding=require password=secret", false),
        ("sslmode=require channel_binding=require password=wrong", false),
    ] {
        let output = front.psql(options, "SELECT 1");
        assert_eq!(output.status.success(), let_in, "{options}: {output:?}");
    }
}

#[test]
fn logins_to_servers_are_bound_where_they_offer_it() {
    let (cluster, _) = server("localhost", &["localhost"]);
    cluster.sql("SET password_encryption = 'scram-sha-256'; ALTER USER postgres PASSWORD 'secret'");
    cluster.set_hba("hostssl all all 127.0.0.1/32 scram-sha-256");
    for (password, let_in) in [("secret", true), ("wrong", false)] {
        let weir = Weir::builder()
            .general("server_login_retry = 0\nserver_tls_sslmode = \"require\"")
            .database(&format!(
                "[databases.app]\nuser = \"postgres\"\npassword = \"{password}\"\n\
                 primary = \"postgres://127.0.0.1:{}/postgres\"",
                cluster.port()
            ))
            .start();
        match weir.login("postgres", "app").connect() {
            Ok(mut client) => assert_eq!((let_in, client.value(MY_TLS).as_str()), (true, "t")),
            Err(error) => assert_eq!((let_in, error.code()), (false, "28P01")),
        }
    }
}

// The configuration.

fn start_fails(lines: &str) -> String {
    Weir::builder().general(lines).try_start().err().expect("a mistake")
}

#[test]
fn the_authorities_of_the_system_do_for_servers() {
    let (cluster, authority) = server("localhost", &["localhost"]);
    let dir = tempfile::tempdir().unwrap();
    let right = certs::write(dir.path(), "right.crt", authority.cert());
    let wrong = certs::write(dir.path(), "wrong.crt", Authority::new("the servers' house").cert());
    let over = |bundle: &PathBuf, mode: &str| {
        let url = format!("[databases.app]\nprimary = \"postgres://localhost:{}/postgres\"", cluster.port());
        let lines = format!("server_tls_sslmode = \"{mode}\"");
        let builder = Weir::builder().general(&lines).database(&url);
        builder
            .env("SSL_CERT_FILE", bundle.to_str().unwrap())
            .env("SSL_CERT_DIR", dir.path().join("none").to_str().unwrap())
    };
    for mode in ["verify-ca", "verify-full"] {
        assert_eq!(over(&right, mode).start().client("app").value(MY_TLS), "t");
        match over(&wrong, mode).start().login("postgres", "app").connect() {
            Err(LoginError::Server(error)) => assert!(error.message.contains("not accepted"), "{error}"),
            other => panic!("{other:?}"),
        }
    }
    let why = over(&dir.path().join("nothing"), "verify-ca").try_start().err().expect("a mistake");
    assert!(why.contains("needs server_tls_ca_file, or authorities that the system trusts"), "{why}");
}

#[test]
fn mistakes_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let Pair { cert, key } = certs::self_signed("x", &[]);
    let (cert, key) = (certs::write(dir.path(), "x.crt", &cert), certs::write(dir.path(), "x.key", &key));
    let files = format!("client_tls_cert_file = {cert:?}\nclient_tls_key_file = {key:?}\n");
    for (lines, expected) in [
        ("client_tls_sslmode = \"require\"".to_owned(), "needs client_tls_cert_file and client_tls_key_file"),
        (format!("{files}client_tls_sslmode = \"verify-ca\""), "needs client_tls_ca_file"),
        (format!("server_tls_key_file = {key:?}"), "server_tls_key_file needs server_tls_cert_file"),
        ("server_tls_sslmode = \"verify_full\"".to_owned(), "did you mean \"verify-full\"?"),
        (
            "server_tls_ciphers = \"ECDHE-RSA-AES256-GCM-SHA385\"".to_owned(),
            "did you mean \"ECDHE-RSA-AES256-GCM-SHA384\"?",
        ),
        ("server_tls_protocols = \"tlsv1.1\"".to_owned(), "not spoken here"),
        (
            "server_tls_protocols = \"tlsv1.3\"\nserver_tls_ciphers = \"ECDHE-RSA-AES256-GCM-SHA384\"".to_owned(),
            "names no suite of the version",
        ),
        ("client_tls13_ciphers = \"ECDHE-RSA-AES256-GCM-SHA384\"".to_owned(), "is not a suite of TLS 1.3"),
        ("server_tls_ecdhcurve = \"secp521r1\"".to_owned(), "expected \"X25519\", \"secp256r1\" or \"secp384r1\""),
        ("auth_type = \"cert\"".to_owned(), "needs client_tls_sslmode"),
        (
            "client_tls_sslmode = \"allow\"\nclient_tls_cert_file = \"/nowhere\"\nclient_tls_key_file = \"/nowhere\""
                .to_owned(),
            "client_tls_cert_file /nowhere: cannot read the file",
        ),
        (
            format!("client_tls_sslmode = \"allow\"\nclient_tls_cert_file = {cert:?}\nclient_tls_key_file = {cert:?}"),
            "there is no private key in it",
        ),
    ] {
        let log = start_fails(&lines);
        assert!(log.contains(expected), "{lines}:\n{log}");
    }
}

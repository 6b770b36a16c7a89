//! An unchanged pgbouncer.ini: what it starts, and that PgBouncer itself takes the same file where it is installed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::cluster::Cluster;
use common::ports::Port;
use common::raw::{Address, Login};
use common::tools::{self, Output, Running};
use common::weir::{Weir, in_place};
use common::{eventually, install};

const SOON: Duration = Duration::from_secs(15);
const PGBOUNCER: &str = "/usr/sbin/pgbouncer";

fn pgweir(args: &[&str]) -> Output {
    Running::start(Command::new(env!("CARGO_BIN_EXE_pgweir")).args(args)).wait(SOON)
}

/// PgBouncer on a file, for as long as this lives.
struct Bouncer {
    _process: Running,
    _dir: tempfile::TempDir,
    port: Port,
}

impl Bouncer {
    /// Starts it; none where it is not installed.
    fn start(ini: &str, users: &str) -> Option<Self> {
        if !Path::new(PGBOUNCER).is_file() {
            return None;
        }
        let (dir, port) = (tempfile::tempdir().unwrap(), Port::claim());
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        fs::write(dir.path().join("userlist.txt"), users).unwrap();
        let path = dir.path().join("pgbouncer.ini");
        fs::write(&path, in_place(ini, dir.path(), port.number())).unwrap();
        let mut command = Command::new(PGBOUNCER);
        command.arg(&path).current_dir(dir.path());
        // It refuses to be root.
        if let Some(account) = install::account() {
            command.uid(account.uid).gid(account.gid);
        }
        let mut process = Running::start(&mut command);
        eventually("PgBouncer takes the file", SOON, || {
            if !process.runs() {
                let log = fs::read_to_string(dir.path().join("log.txt")).unwrap_or_default();
                panic!("PgBouncer does not take the file: {log}");
            }
            TcpStream::connect(("127.0.0.1", port.number())).is_ok().then_some(())
        });
        Some(Self { _process: process, _dir: dir, port })
    }
}

/// One psql as `user` with `password`.
fn psql(port: u16, user: &str, password: &str, database: &str, sql: &str) -> Output {
    let mut command = tools::psql_command(port, database, &["-Atc", sql]);
    Running::start(command.env("PGUSER", user).env("PGPASSWORD", password)).wait(tools::TIMEOUT)
}

/// A cluster with users of every kind of secret, which asks for passwords, and their userlist.txt.
fn cluster() -> (Cluster, String) {
    let cluster = Cluster::start();
    for (user, kind) in
        [("md", "md5"), ("scram", "scram-sha-256"), ("clear", "scram-sha-256"), ("svc", "scram-sha-256")]
    {
        cluster.sql(&format!("SET password_encryption = '{kind}'; CREATE USER {user} PASSWORD '{user} secret'"));
    }
    cluster.sql("CREATE DATABASE app");
    cluster.sql("CREATE DATABASE other");
    cluster.set_hba("host all md 127.0.0.1/32 md5\nhost all all 127.0.0.1/32 scram-sha-256");
    let stored = |user: &str| cluster.value(&format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{user}'"));
    let users = format!(
        "\"md\" \"{}\"\n\"scram\" \"{}\"\n\"clear\" \"clear secret\"\n\"svc\" \"svc secret\"\n\"boss\" \"boss secret\"\n\
         ; a comment\n\"eye\" \"eye secret\" and the rest of the line\n",
        stored("md"),
        stored("scram")
    );
    (cluster, users)
}

/// As Debian's package has it, with what operators change.
fn ini(cluster: &Cluster) -> String {
    let port = cluster.port();
    format!(
        ";;;\n;;; PgBouncer configuration file\n;;;\n\n[databases]\n\n;; redirect bardb to bazdb on localhost\n\
         ;bardb = host=localhost dbname=bazdb\napp = host=127.0.0.1 port={port}\n\
         quoted = host='127.0.0.1' port='{port}' dbname = app pool_size=3 connect_query='set app.who to ''x y'''\n\
         forced = host=127.0.0.1 port={port} dbname=app user=svc timezone=Asia/Tokyo client_encoding=LATIN1 \
         datestyle='SQL, DMY' application_name=behind\n\
         * = host=127.0.0.1 port={port}\n\n[users]\n\nclear = pool_mode=transaction\n\n[pgbouncer]\n\n\
         logfile = DIR/log.txt\npidfile = DIR/pid.txt\n\nlisten_addr = 127.0.0.1\nlisten_port = PORT\n\
         unix_socket_dir = DIR\nunix_socket_mode = 0777\n\nauth_type = md5\nauth_file = DIR/userlist.txt\n\n\
         admin_users = boss, root\nstats_users = eye\n\n%include DIR/more.ini\n\n\
         ;server_check_delay = 30\nserver_reset_query = DISCARD ALL\nserver_reset_query_always = 0\n\
         server_check_query = select 1\nignore_startup_parameters = extra_float_digits\nlog_connections = 1\n\
         pkt_buf = 4096\nlisten_backlog = 4096\nsbuf_loopcnt = 2\nclient_tls_sslmode = disable\n\
         client_tls_key_file =\ntcp_keepidle = 60\ntcp_socket_buffer = 0\ntcp_user_timeout = 10000\n\
         dns_max_ttl = 15\nverbose = 0\nstats_period = 60\n"
    )
    .replace("%include DIR/more.ini\n", "max_client_conn = 200\ndefault_pool_size = 0x5\nquery_timeout = 0.0\n")
}

/// What must look the same through both: user, password, database, statement.
const SAME: [(&str, &str, &str, &str); 10] = [
    ("md", "md secret", "app", "SELECT current_user, current_database()"),
    ("scram", "scram secret", "app", "SELECT current_user, current_database()"),
    ("clear", "clear secret", "app", "SELECT current_user, current_database()"),
    ("clear", "clear secret", "quoted", "SELECT current_user, current_database(), current_setting('app.who')"),
    ("md", "md secret", "forced", "SELECT current_user, current_database()"),
    ("clear", "clear secret", "forced", "SHOW timezone"),
    ("clear", "clear secret", "forced", "SHOW datestyle"),
    ("scram", "scram secret", "other", "SELECT current_user, current_database()"),
    ("boss", "boss secret", "pgbouncer", "SHOW HELP"),
    ("boss", "boss secret", "pgbouncer", "RELOAD"),
];

#[test]
fn one_file_for_both() {
    let (cluster, users) = cluster();
    let ini = ini(&cluster);
    let weir = Weir::builder().ini(&ini).users(&users).start();
    let answers = |port: u16| -> Vec<String> {
        let ask = |(user, password, database, sql)| psql(port, user, password, database, sql).ok();
        SAME.into_iter().map(ask).collect()
    };
    let ours = answers(weir.port());
    assert_eq!(ours[..3], ["md|app\n", "scram|app\n", "clear|app\n"]);
    assert_eq!(ours[3..8], ["clear|app|x y\n", "svc|app\n", "Asia/Tokyo\n", "SQL, DMY\n", "scram|other\n"]);
    if let Some(bouncer) = Bouncer::start(&ini, &users) {
        assert_eq!(answers(bouncer.port.number()), ours);
    }
    // What the file says is in force.
    let config = psql(weir.port(), "boss", "boss secret", "pgbouncer", "SHOW CONFIG").ok();
    for line in ["max_client_conn|200|", "default_pool_size|5|", "pool_mode|session|", "tcp_keepidle|60|"] {
        assert!(config.lines().any(|row| row.starts_with(line)), "{line}: {config}");
    }
    let databases = psql(weir.port(), "eye", "eye secret", "pgbouncer", "SHOW DATABASES").ok();
    assert!(
        databases.lines().any(|row| row.starts_with("forced|127.0.0.1|") && row.contains("|svc|5|")),
        "{databases}"
    );
    assert!(databases.lines().any(|row| row.starts_with("other|127.0.0.1|")), "made from the wildcard: {databases}");
    // Refusals.
    let wrong = psql(weir.port(), "md", "wrong", "app", "SELECT 1");
    assert!(!wrong.status.success() && wrong.stderr.contains("password authentication failed"), "{wrong:?}");
    let nowhere = psql(weir.port(), "clear", "clear secret", "nowhere", "SELECT 1");
    assert!(nowhere.stderr.contains("database \"nowhere\" does not exist"), "{nowhere:?}");
    weir.wait_log("no meaning here and change nothing: pkt_buf, sbuf_loopcnt");
}

/// What has another default in PgBouncer 1.25 than in the versions before it that may be installed.
const NEW_DEFAULTS: [&str; 6] =
    ["auth_query", "client_tls_ciphers", "server_check_query", "server_tls_ciphers", "server_tls_sslmode", "verbose"];

#[test]
fn the_defaults_at_the_console_are_pgbouncers() {
    let ini = "[databases]\n* = host=127.0.0.1 user=u\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = PORT\n\
               unix_socket_dir = DIR\nauth_type = any\nadmin_users = boss\nmax_client_conn = 77\n";
    let shown = |port: u16| -> BTreeMap<String, Vec<String>> {
        let text = psql(port, "boss", "", "pgbouncer", "SHOW CONFIG").ok();
        let row = |line: &str| line.split('|').map(str::to_owned).collect::<Vec<_>>();
        text.lines().map(row).map(|row| (row[0].clone(), row[1..].to_vec())).collect()
    };
    let weir = Weir::builder().ini(ini).start();
    let ours = shown(weir.port());
    assert_eq!(ours["max_client_conn"], ["77", "100", "yes"]);
    assert_eq!(ours["pool_mode"], ["session", "session", "yes"]);
    assert_eq!(ours["server_tls_sslmode"], ["prefer", "prefer", "yes"]);
    assert_eq!(ours["listen_port"], [weir.port().to_string().as_str(), "6432", "no"]);
    assert_eq!(ours["shutdown_timeout"], ["0", "0", "yes"], "SIGTERM waits for clients, as PgBouncer's");
    if let Some(bouncer) = Bouncer::start(ini, "") {
        for (key, row) in shown(bouncer.port.number()) {
            let our = ours.get(&key).unwrap_or_else(|| panic!("{key} is not shown"));
            if !NEW_DEFAULTS.contains(&key.as_str()) {
                assert_eq!(our[1], row[1], "{key}");
            }
        }
    }
}

#[test]
fn log_and_pid_files() {
    let (cluster, users) = cluster();
    let weir = Weir::builder().ini(&ini(&cluster)).users(&users).arg("-q").start();
    let file = |name: &str| fs::read_to_string(weir.dir().join(name)).unwrap_or_default();
    assert_eq!(file("pid.txt"), format!("{}\n", weir.pid()));
    eventually("a log", SOON, || file("log.txt").contains("pgweir is ready").then_some(()));
    assert_eq!(weir.log_text(), "", "-q keeps it from standard error");
    // A second one is kept away, by the pidfile alone.
    let mut second = ini(&cluster)
        .replace("unix_socket_dir = DIR", "unix_socket_dir =")
        .replace("auth_file = DIR/userlist.txt", "auth_file = /dev/null");
    second = in_place(&second, weir.dir(), Port::claim().number());
    let path = weir.dir().join("second.ini");
    fs::write(&path, second).unwrap();
    let refused = pgweir(&[path.to_str().unwrap()]);
    assert!(!refused.status.success() && refused.stderr.contains("does pgweir run already?"), "{refused:?}");
    // The log is moved away and opened anew.
    fs::rename(weir.dir().join("log.txt"), weir.dir().join("log.1")).unwrap();
    weir.hup();
    eventually("a new log", SOON, || weir.dir().join("log.txt").exists().then_some(()));
    psql(weir.port(), "md", "md secret", "app", "SELECT 1").ok();
    eventually("lines in it", SOON, || file("log.txt").contains("client connected").then_some(()));
    weir.term();
    weir.wait_exit(SOON);
    assert!(!weir.dir().join("pid.txt").exists(), "the pidfile goes with the process");
}

#[test]
fn a_file_in_the_background() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    let port = Port::claim();
    let text = "[databases]\n* = host=127.0.0.1 port=SERVER user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
                listen_port = PORT\nunix_socket_dir = DIR\nauth_type = any\npidfile = DIR/pid\nlogfile = DIR/log\n"
        .replace("SERVER", &cluster.port().to_string());
    let path = dir.path().join("pgbouncer.ini");
    let write = |text: &str| fs::write(&path, in_place(text, dir.path(), port.number())).unwrap();
    write(&text.replace("pidfile", ";"));
    let without = pgweir(&["-d", path.to_str().unwrap()]);
    assert!(!without.status.success() && without.stderr.contains("-d needs pidfile and logfile"), "{without:?}");
    write(&text);
    let output = pgweir(&["-d", "-v", path.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let pid =
        eventually("a pidfile", SOON, || fs::read_to_string(dir.path().join("pid")).ok()?.trim().parse::<i32>().ok());
    let process = nix::unistd::Pid::from_raw(pid);
    let answer = eventually("it accepts", SOON, || {
        let mut client = Login::new(Address::Tcp(port.number()), "anyone", "postgres").connect().ok()?;
        Some(client.value("SELECT current_user"))
    });
    assert_eq!(answer, "postgres");
    assert_eq!(nix::unistd::getsid(Some(process)).unwrap(), process, "it has a session of its own");
    // A second one cannot start, and tells that to whoever starts it.
    let second = pgweir(&["-d", path.to_str().unwrap()]);
    assert!(!second.status.success() && second.stderr.contains("does pgweir run already?"), "{second:?}");
    let other = dir.path().join("other.ini");
    let elsewhere = text.replace("DIR/pid", "DIR/pid2").replace("unix_socket_dir = DIR", "unix_socket_dir =");
    fs::write(&other, in_place(&elsewhere, dir.path(), port.number())).unwrap();
    let second = pgweir(&["-d", other.to_str().unwrap()]);
    assert!(!second.status.success() && second.stderr.contains("cannot listen on"), "{second:?}");
    // Also where the sockets of a service manager were for the one that starts it.
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgweir"));
    let second = Running::start(command.arg("-d").arg(&other).env("LISTEN_PID", "1").env("LISTEN_FDS", "1")).wait(SOON);
    assert!(!second.status.success() && second.stderr.contains("cannot listen on"), "{second:?}");
    assert!(!dir.path().join("pid2").exists());
    assert!(fs::read_to_string(dir.path().join("log")).unwrap().contains("DEBUG"), "-v logs more");
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGTERM).unwrap();
    eventually("it ends", SOON, || (!dir.path().join("pid").exists()).then_some(()));
}

#[test]
fn the_user_it_becomes() {
    let Some(account) = install::account() else { return };
    let cluster = Cluster::start();
    let ini = "[databases]\n* = host=127.0.0.1 port=SERVER user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
               listen_port = PORT\nunix_socket_dir =\nauth_type = any\nuser = postgres\n"
        .replace("SERVER", &cluster.port().to_string());
    let weir = Weir::builder().ini(&ini).start();
    let status = fs::read_to_string(format!("/proc/{}/status", weir.pid())).unwrap();
    let ids = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
    assert_eq!(ids.split_whitespace().skip(1).collect::<Vec<_>>(), [account.uid.to_string().as_str(); 4]);
    let unknown = Weir::builder().ini(&ini).arg("-u").arg("no-such-user").try_start().err().unwrap();
    assert!(unknown.contains("there is no user \"no-such-user\""), "{unknown}");
}

#[test]
fn two_hundred_databases() {
    let cluster = Cluster::start();
    let mut ini = "[databases]\n".to_owned();
    for number in 0..200 {
        ini += &format!("tenant_{number:03} = host=127.0.0.1 port={} dbname=postgres pool_size=2\n", cluster.port());
    }
    ini += "[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = PORT\nunix_socket_dir = DIR\nauth_type = trust\n\
            auth_file = DIR/userlist.txt\nadmin_users = admin\npool_mode = transaction\n";
    let weir = Weir::builder().ini(&ini).start();
    let names: Vec<String> = weir.admin("SHOW DATABASES").into_iter().map(|row| row[0].clone()).collect();
    assert_eq!(names.iter().filter(|name| name.starts_with("tenant_")).count(), 200);
    for name in ["tenant_000", "tenant_137", "tenant_199"] {
        assert_eq!(weir.client(name).value("SELECT 6 * 7"), "42");
    }
    if let Some(bouncer) = Bouncer::start(&ini, "\"postgres\" \"\"\n\"admin\" \"\"\n") {
        assert_eq!(psql(bouncer.port.number(), "postgres", "", "tenant_137", "SELECT 1").ok(), "1\n");
    }
}

#[test]
fn all_mistakes_with_their_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    fs::write(path("a.ini"), format!("[databases]\na = host=h prot=1\n%include {}\n", path("b.ini"))).unwrap();
    fs::write(path("b.ini"), "[pgbouncer]\nauth_file = /dev/null\nlisten_prot = 1\nlisten_backlog = x\n").unwrap();
    for args in [vec!["check"], vec!["convert"], vec![]] {
        let file = path("a.ini");
        let output = pgweir(&[args, vec![file.as_str()]].concat());
        let expected = [
            format!("{}:2: unknown setting \"prot\" in [databases] a; did you mean \"port\"?", path("a.ini")),
            format!(
                "{}:3: unknown setting \"listen_prot\" in [pgbouncer]; did you mean \"listen_port\"?",
                path("b.ini")
            ),
            format!("{}:4: listen_backlog = \"x\" is not a whole number", path("b.ini")),
        ];
        assert_eq!(output.stderr.lines().collect::<Vec<_>>(), expected);
        assert!(!output.status.success());
    }
}

#[test]
fn the_command_line_of_pgbouncer() {
    let (cluster, users) = cluster();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("userlist.txt"), users).unwrap();
    let path = dir.path().join("pgbouncer.ini");
    fs::write(&path, in_place(&ini(&cluster), dir.path(), 6432)).unwrap();
    let file = path.to_str().unwrap();
    assert!(pgweir(&["check", file]).ok().ends_with("ok\n"));
    let toml = pgweir(&["convert", file]).ok();
    let converted = dir.path().join("pgweir.toml");
    fs::write(&converted, &toml).unwrap();
    assert!(pgweir(&["check", converted.to_str().unwrap()]).ok().ends_with("ok\n"), "{toml}");
    let twice = pgweir(&["convert", converted.to_str().unwrap()]);
    assert!(twice.stderr.contains("is pgweir's own form already"), "{twice:?}");
    for args in [["-V", ""], ["--version", ""], ["-h", ""], ["--help", ""]] {
        assert!(pgweir(&args[..1]).ok().contains("pgweir"));
    }
    let version = pgweir(&["-V"]).ok();
    assert!(version.starts_with(&format!("pgweir {}\n", env!("CARGO_PKG_VERSION"))), "{version}");
    assert!(version.contains("\ntls: rustls\n"), "{version}");
    for wrong in [vec![], vec!["--nonsense", file], vec![file, file]] {
        let output = pgweir(&wrong);
        assert!(output.status.code() == Some(1) && output.stderr.contains("--help"), "{output:?}");
    }
}

#[test]
fn the_owner_at_the_console() {
    let (cluster, users) = cluster();
    let weir = Weir::builder().ini(&ini(&cluster)).users(&users).start();
    let come = |user: &str, database: &str| {
        let path = weir.dir().join(format!(".s.PGSQL.{}", weir.port()));
        Login::new(Address::Unix(path), user, database).password("wrong").connect()
    };
    for user in ["pgbouncer", "pgweir"] {
        let mut owner = come(user, "pgbouncer").unwrap();
        assert!(owner.rows("SHOW CLIENTS").is_ok() && owner.rows("PAUSE").is_ok() && owner.rows("RESUME").is_ok());
        // Not to the databases, and not from elsewhere.
        assert_eq!(come(user, "app").unwrap_err().code(), "28P01");
        assert_eq!(weir.login(user, "pgbouncer").password("wrong").connect().unwrap_err().code(), "28P01");
    }
    assert_eq!(come("boss", "pgbouncer").unwrap_err().code(), "28P01", "another name needs its password");
}

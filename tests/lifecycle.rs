//! The process from its command line to its end: mistakes in the configuration, ports in use, reload under load, drain, logs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod common;

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use common::cluster::Cluster;
use common::eventually;
use common::raw::{Address, Login, RawClient};
use common::tools::{self, Output, Running};
use common::weir::{Builder, Weir};
use common::wire::show;

const SOON: Duration = Duration::from_secs(15);

fn over(cluster: &Cluster) -> Builder {
    Weir::builder().cluster("app", cluster, &[])
}

fn pgweir(args: &[&str]) -> Output {
    Running::start(Command::new(env!("CARGO_BIN_EXE_pgweir")).args(args)).wait(SOON)
}

/// A configuration file of its own.
struct File {
    dir: tempfile::TempDir,
}

impl File {
    fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("pgweir.toml"), text).unwrap();
        Self { dir }
    }

    fn path(&self) -> String {
        self.dir.path().join("pgweir.toml").display().to_string()
    }
}

// The command line.

#[test]
fn help_and_version() {
    let version = pgweir(&["--version"]).ok();
    assert!(version.starts_with(&format!("pgweir {}\n", env!("CARGO_PKG_VERSION"))), "{version}");
    let help = pgweir(&["--help"]).ok();
    for word in ["check", "healthcheck", "convert", "FILE"] {
        assert!(help.contains(word), "{word} is not in {help}");
    }
    let nothing = pgweir(&[]);
    assert!(!nothing.status.success() && nothing.stderr.contains("<FILE>"), "{nothing:?}");
    let missing = pgweir(&["/nowhere/pgweir.toml"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(missing.stderr.contains("/nowhere/pgweir.toml"), "{missing:?}");
}

const MISTAKES: &str = "[pgweir]\n\
    auth_type = \"trust\"\n\
    listen_prot = 6432\n\
    server_idle_timeout = \"soon\"\n\
    [databases.app]\n\
    primary = \"postgres://127.0.0.1/app\"\n\
    pool_mod = \"session\"\n\
    [users.u]\n";

#[test]
fn all_mistakes_are_told_at_once() {
    let file = File::new(MISTAKES);
    for args in [vec![file.path()], vec!["check".to_owned(), file.path()]] {
        let output = pgweir(&args.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let lines: Vec<&str> = output.stderr.lines().collect();
        assert_eq!(lines.len(), 3, "{output:?}");
        for (line, number, words) in [
            (lines[0], 3, ["listen_prot", "listen_port"]),
            (lines[1], 4, ["server_idle_timeout", "soon"]),
            (lines[2], 7, ["pool_mod", "pool_mode"]),
        ] {
            assert!(line.starts_with(&format!("{}:{number}: ", file.path())), "{line}");
            assert!(words.iter().all(|word| line.contains(word)), "{line}");
        }
    }
}

#[test]
fn check_says_ok_to_the_examples() {
    for name in ["pgweir.toml", "pgweir.full.toml"] {
        let text = std::fs::read_to_string(format!("{}/conf/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let output = pgweir(&["check", &File::new(&text).path()]);
        assert!(output.status.success() && output.stdout.ends_with("ok\n"), "{name}: {output:?}");
    }
    // The auth file belongs to the configuration.
    let text = "[pgweir]\nauth_type = \"trust\"\nauth_file = \"missing.txt\"\n[databases.a]\nprimary = \"postgres://h/a\"\n[users.u]\n";
    let output = pgweir(&["check", &File::new(text).path()]);
    assert!(!output.status.success() && output.stderr.contains("missing.txt"), "{output:?}");
}

#[test]
fn healthcheck_by_exit_code() {
    let weir = Weir::builder().start();
    let ask = |path: &str| pgweir(&["healthcheck", "--url", &format!("http://127.0.0.1:{}{path}", weir.http_port())]);
    assert!(ask("/health/live").status.success());
    let missing = ask("/nothing");
    assert_eq!(missing.status.code(), Some(1));
    assert!(missing.stderr.contains("404"), "{missing:?}");
    weir.kill9();
    assert_eq!(ask("/health/live").status.code(), Some(1));
}

#[test]
fn a_port_in_use_is_told() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let text = format!(
        "[pgweir]\nauth_type = \"trust\"\nlisten_addr = \"127.0.0.1\"\nlisten_port = {port}\n[databases.a]\nprimary = \"postgres://h/a\"\n[users.u]\n"
    );
    let output = pgweir(&[&File::new(&text).path()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stderr.contains(&format!("127.0.0.1:{port}")) && output.stderr.contains("in use"), "{output:?}");
    // The port of HTTP, too.
    let text = format!(
        "[pgweir]\nauth_type = \"trust\"\nlisten_addr = \"127.0.0.1\"\nlisten_port = 0\nhttp_listen = \"127.0.0.1:{port}\"\n[databases.a]\nprimary = \"postgres://h/a\"\n[users.u]\n"
    );
    let output = pgweir(&[&File::new(&text).path()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(!output.stderr.is_empty() && !output.stderr.contains("panicked"), "{output:?}");
}

// The end.

#[test]
fn term_lets_transactions_finish() {
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE t (id int4)");
    let weir = over(&cluster).start();
    let mut busy = weir.client("app");
    busy.run("BEGIN");
    busy.run("INSERT INTO t VALUES (1)");
    let mut running = weir.client("app");
    running.query("SELECT pg_sleep(0.5), 7");
    let mut idle = weir.client("app");
    idle.value("SELECT 1");
    let mut fresh = weir.client("app");
    eventually("the query runs", SOON, || {
        let sql = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(0.5)%' AND state = 'active'";
        (!cluster.sql(sql).is_empty()).then_some(())
    });
    weir.term();
    for client in [&mut idle, &mut fresh] {
        assert_eq!(show(&client.read_to_end()), "E(FATAL 57P01)");
    }
    let reply = show(&running.read_to_end());
    assert!(reply.contains("D(|7) C(SELECT 1) Z(I) E(FATAL 57P01)"), "{reply}");
    // New clients are kept out, by a refusal or by a closed port.
    let late = weir.login("postgres", "app").connect().unwrap_err();
    assert!(["", "57P03"].contains(&late.code()), "{late:?}");
    assert_eq!(busy.run("INSERT INTO t VALUES (2)"), "C(INSERT 0 1) Z(T)");
    assert_eq!(busy.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(show(&busy.read_to_end()), "E(FATAL 57P01)");
    assert_eq!(weir.wait_exit(SOON).code(), Some(0));
    assert_eq!(cluster.value("SELECT count(*) FROM t"), "2");
    assert!(weir.log_text().contains("pgweir has ended"), "{}", weir.log_text());
    assert!(RawClient::open(Address::Tcp(weir.port())).is_err());
}

#[test]
fn shutdown_timeout_ends_what_does_not_end_itself() {
    let cluster = Cluster::start();
    let weir = over(&cluster).general("shutdown_timeout = \"300ms\"").start();
    let mut busy = weir.client("app");
    busy.run("BEGIN");
    busy.value("SELECT 1");
    weir.term();
    assert_eq!(show(&busy.read_to_end()), "E(FATAL 57P01)");
    assert_eq!(weir.wait_exit(SOON).code(), Some(0));
    eventually("its transaction is rolled back", SOON, || {
        let sql = "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name NOT LIKE 'pgweir %' AND client_port > 0";
        cluster.sql(sql).is_empty().then_some(())
    });
}

#[test]
fn a_second_signal_ends_at_once() {
    let cluster = Cluster::start();
    // Ten minutes: only the second signal can end it in time.
    let weir = over(&cluster).general("shutdown_timeout = \"10min\"").start();
    let mut busy = weir.client("app");
    busy.run("BEGIN");
    busy.value("SELECT 1");
    weir.int();
    weir.wait_log("shutting down");
    busy.value("SELECT 2");
    weir.int();
    assert_eq!(show(&busy.read_to_end()), "E(FATAL 57P01)");
    assert_eq!(weir.wait_exit(SOON).code(), Some(0));
}

/// A pgbouncer.ini: without any limit of time SIGTERM waits for clients, as in PgBouncer.
fn ini(cluster: &Cluster) -> Builder {
    Weir::builder().ini(
        &"[databases]\napp = host=127.0.0.1 port=SERVER dbname=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
          listen_port = PORT\nunix_socket_dir = DIR\nauth_type = trust\nauth_file = DIR/userlist.txt\n\
          admin_users = admin\npool_mode = transaction\n"
            .replace("SERVER", &cluster.port().to_string()),
    )
}

#[test]
fn term_waits_for_clients_where_there_is_no_limit() {
    let cluster = Cluster::start();
    let toml = over(&cluster).general("shutdown_timeout = 0\nunix_socket_dir = \"/tmp\"");
    for (builder, in_own_dir) in [(ini(&cluster), true), (toml, false)] {
        let weir = builder.start();
        let mut client = weir.client("app");
        weir.term();
        weir.wait_log("shutting down");
        eventually("TCP is closed", SOON, || RawClient::open(Address::Tcp(weir.port())).is_err().then_some(()));
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(100));
            assert_eq!(client.value("SELECT 1"), "1", "it may stay as long as it likes");
        }
        // The unix socket leads to the console, which shows who stays, and to nothing else.
        let dir = if in_own_dir { weir.dir() } else { std::path::Path::new("/tmp") };
        let path = dir.join(format!(".s.PGSQL.{}", weir.port()));
        let local = |user: &str, database: &str| Login::new(Address::Unix(path.clone()), user, database).connect();
        assert_eq!(local("postgres", "app").unwrap_err().code(), "57P03");
        let mut console = local("pgbouncer", "pgbouncer").unwrap();
        let clients = console.rows("SHOW CLIENTS").unwrap();
        assert_eq!(clients.iter().filter(|row| row[2] == "app").count(), 1, "{clients:?}");
        // What it cannot do any more it says at once.
        let late = console.rows("RELOAD").unwrap_err();
        assert!(late.to_string().contains("shutting down") || late.code == "F0000", "{late:?}");
        client.terminate();
        assert_eq!(weir.wait_exit(SOON).code(), Some(0));
        assert!(!path.exists());
    }
}

#[test]
fn int_waits_for_servers_where_there_is_no_limit() {
    let cluster = Cluster::start();
    let weir = ini(&cluster).start();
    let (mut busy, mut idle) = (weir.client("app"), weir.client("app"));
    busy.run("BEGIN");
    weir.int();
    assert_eq!(show(&idle.read_to_end()), "E(FATAL 57P01)");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(busy.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(weir.wait_exit(SOON).code(), Some(0));
}

#[test]
fn a_second_signal_and_quit_end_at_once() {
    let cluster = Cluster::start();
    for signals in [&[Signal::SIGTERM, Signal::SIGTERM][..], &[Signal::SIGTERM, Signal::SIGINT], &[Signal::SIGQUIT]] {
        let weir = ini(&cluster).start();
        let mut busy = weir.client("app");
        busy.run("BEGIN");
        weir.signal(signals[0]);
        if let Some(second) = signals.get(1) {
            weir.wait_log("shutting down");
            busy.value("SELECT 2");
            weir.signal(*second);
        }
        assert_eq!(show(&busy.read_to_end()), "E(FATAL 57P01)", "{signals:?}");
        assert_eq!(weir.wait_exit(SOON).code(), Some(0), "{signals:?}");
    }
}

#[test]
fn a_shutdown_can_be_hastened_at_the_console() {
    let cluster = Cluster::start();
    let weir = ini(&cluster).start();
    let mut console = weir.console().unwrap();
    let (mut busy, mut idle) = (weir.client("app"), weir.client("app"));
    busy.run("BEGIN");
    assert_eq!(console.run("SHUTDOWN WAIT_FOR_CLIENTS"), "C(SHUTDOWN) Z(I)");
    weir.wait_log("shutting down");
    assert_eq!(idle.value("SELECT 1"), "1");
    assert_eq!(console.run("SHUTDOWN WAIT_FOR_SERVERS"), "C(SHUTDOWN) Z(I)");
    assert_eq!(show(&idle.read_to_end()), "E(FATAL 57P01)");
    assert_eq!(busy.value("SELECT 1"), "1");
    assert_eq!(console.run("SHUTDOWN"), "C(SHUTDOWN) Z(I)");
    assert_eq!(show(&busy.read_to_end()), "E(FATAL 57P01)");
    assert_eq!(weir.wait_exit(SOON).code(), Some(0));
}

#[test]
fn user_signals_pause_and_resume() {
    let cluster = Cluster::start();
    let weir = over(&cluster).start();
    let state = |key: &str| weir.admin("SHOW STATE").into_iter().find(|row| row[0] == key).unwrap()[1].clone();
    let mut client = weir.client("app");
    let before = client.value(common::SERVER_PID);
    for _ in 0..2 {
        weir.signal(Signal::SIGUSR1);
        eventually("it is paused", SOON, || (state("paused") == "yes").then_some(()));
    }
    weir.wait_log("the command that a signal meant was refused");
    client.query(common::SERVER_PID);
    std::thread::sleep(Duration::from_millis(200));
    weir.signal(Signal::SIGUSR2);
    eventually("it goes on", SOON, || (state("active") == "yes").then_some(()));
    let answer = client.read_until_ready();
    let after = answer.iter().find_map(common::wire::Message::row).expect("a row")[0].clone().unwrap();
    assert_ne!(before, after, "the server was closed meanwhile");
}

// Reload.

#[test]
fn conffile_is_what_the_next_reload_reads() {
    let cluster = Cluster::start();
    let weir = over(&cluster).start();
    let shown = || weir.admin("SHOW CONFIG").into_iter().find(|row| row[0] == "conffile").unwrap();
    let first = weir.config_path().display().to_string();
    assert_eq!(shown(), ["conffile", &first, "", "yes"]);
    let text = std::fs::read_to_string(weir.config_path()).unwrap();
    let other = weir.dir().join("other.toml");
    std::fs::write(&other, text.replace("[databases.app]", "[databases.other]")).unwrap();
    weir.admin(&format!("SET conffile = '{}'", other.display()));
    assert_eq!(shown()[1], other.display().to_string());
    assert_eq!(weir.client("app").value("SELECT 1"), "1", "nothing else has changed yet");
    weir.hup();
    weir.wait_log("databases added: other");
    assert_eq!(weir.client("other").value("SELECT 1"), "1");
    assert_eq!(shown()[1], other.display().to_string());
    // It is read from now on, and a file that is not there changes nothing.
    weir.admin("RELOAD");
    assert_eq!(weir.client("other").value("SELECT 2"), "2");
    weir.admin("SET conffile = '/nowhere/weir.toml'");
    assert_eq!(weir.console().unwrap().rows("RELOAD").unwrap_err().code, "F0000");
    assert_eq!(weir.client("other").value("SELECT 3"), "3");
    weir.admin(&format!("SET conffile = '{first}'"));
    weir.admin("RELOAD");
    assert_eq!(weir.client("app").value("SELECT 4"), "4");
}

// Sockets in the abstract namespace.

#[test]
fn abstract_sockets_on_both_sides() {
    let cluster = Cluster::start();
    let name = format!("@pgweir-lifecycle-{}", std::process::id());
    // Mode and group say nothing about them.
    let general = format!("unix_socket_dir = {name:?}\nunix_socket_mode = \"0000\"");
    let back = over(&cluster).general(&general).start();
    back.wait_log(&format!("{name}/.s.PGSQL.{}", back.port()));
    // libpq spells it the same way.
    let target = format!("host={name} port={} dbname=app user=postgres", back.port());
    let psql = Running::start(&mut tools::psql_command(back.port(), "app", &["-Atc", "SELECT 6 * 7", &target]));
    assert_eq!(psql.wait(tools::TIMEOUT).ok(), "42\n");
    // So does our own way to a server.
    let section = format!("[databases.app]\nhost = {name:?}\nport = {}\ndbname = \"app\"", back.port());
    let front = Weir::builder().database(&section).start();
    assert_eq!(front.client("app").value("SELECT 7 * 6"), "42");
    let row = |weir: &Weir| weir.admin_table("SHOW DATABASES").into_iter().find(|row| row["name"] == "app").unwrap();
    assert_eq!(row(&front)["host"], name);
    // From pgbouncer.ini, where the directory is also that of servers without a host.
    let ini = format!(
        "[databases]\nnamed = host={name} port={0} dbname=app\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = PORT\n\
         unix_socket_dir = {name}\nauth_type = trust\nauth_file = DIR/userlist.txt\n",
        back.port()
    );
    let third = Weir::builder().ini(&ini).start();
    assert_eq!(third.client("named").value("SELECT 1"), "1");
    // One process at a time, and none when it is gone.
    let taken = Weir::builder().ini(&ini.replace("PORT\n", &format!("{}\n", third.port()))).try_start();
    assert!(taken.err().unwrap().contains("in use"));
    third.term();
    third.wait_exit(SOON);
}

#[test]
fn reload_under_load_drops_nothing() {
    let cluster = Cluster::start();
    tools::pgbench(cluster.port(), "postgres", &["-i", "-q", "-s", "1"]).ok();
    let mut weir = over(&cluster).start();
    let args = ["-n", "-S", "-c", "4", "-j", "1", "-T", "3", "-M", "prepared"];
    let mut load = Running::start(&mut tools::pgbench_command(weir.port(), "app", &args));
    let args = ["-n", "-c", "2", "-T", "3", "-b", "simple-update"];
    let writes = Running::start(&mut tools::pgbench_command(weir.port(), "app", &args));
    let mut reloads = 0;
    while load.runs() {
        // The pools are remade each time.
        weir.reconfigure(|builder| builder.general(&format!("# {reloads}")));
        let size = 5 + reloads % 3;
        let text = std::fs::read_to_string(weir.config_path()).unwrap();
        std::fs::write(
            weir.config_path(),
            text.replace("[databases.app]", &format!("[databases.app]\npool_size = {size}")),
        )
        .unwrap();
        weir.hup();
        reloads += 1;
        eventually("it is reloaded", SOON, || {
            (weir.log_text().matches("configuration reloaded").count() >= reloads).then_some(())
        });
        std::thread::sleep(Duration::from_millis(100));
    }
    for output in [load.wait(SOON), writes.wait(SOON)] {
        assert!(output.status.success() && !output.stderr.contains("ERROR"), "{output:?}");
        assert!(output.stdout.contains("number of failed transactions: 0 (0.000%)"), "{output:?}");
    }
    assert!(reloads >= 3, "{reloads}");
    let open = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name NOT LIKE 'pgweir %' AND client_port > 0";
    eventually("replaced servers are closed", SOON, || {
        (cluster.value(open).parse::<u32>().unwrap() <= 7).then_some(())
    });
}

#[test]
fn a_bad_reload_changes_nothing() {
    let cluster = Cluster::start();
    let weir = over(&cluster).start();
    let mut client = weir.client("app");
    std::fs::write(weir.config_path(), MISTAKES).unwrap();
    weir.hup();
    weir.wait_log("the old one stays in force");
    let log = weir.log_text();
    for word in ["listen_prot", "server_idle_timeout", "pool_mod"] {
        assert!(log.contains(word), "{word} is not in {log}");
    }
    assert_eq!(client.value("SELECT 1"), "1");
    assert_eq!(weir.client("app").value("SELECT 2"), "2");
    std::fs::remove_file(weir.config_path()).unwrap();
    weir.hup();
    eventually("told again", SOON, || {
        (weir.log_text().matches("the old one stays in force").count() == 2).then_some(())
    });
    assert_eq!(client.value("SELECT 3"), "3");
}

// Logs.

#[test]
fn logs_are_json_and_tell_no_secret() {
    let cluster = Cluster::with_config(&[("password_encryption", "scram-sha-256")]);
    cluster.sql("CREATE ROLE alice LOGIN PASSWORD 'hunter-alice'");
    cluster.set_hba("host all alice all scram-sha-256\nhost all all all trust");
    for auth_type in ["plain", "md5", "scram-sha-256"] {
        let weir = over(&cluster)
            .general(&format!("auth_type = \"{auth_type}\"\nlog_format = \"json\"\nlog_level = \"trace\""))
            .users("\"alice\" \"hunter-alice\"")
            .start();
        let mut client = weir.login("alice", "app").password("hunter-alice").connect().unwrap();
        assert_eq!(client.value("SELECT current_user"), "alice", "{auth_type}");
        let wrong = weir.login("alice", "app").password("hunter-wrong").connect().unwrap_err();
        assert_eq!(wrong.code(), "28P01", "{auth_type}");
        let unknown = weir.login("nobody", "app").password("hunter-nobody").connect().unwrap_err();
        assert_eq!(unknown.code(), "28P01", "{auth_type}");
        client.run("ALTER ROLE alice PASSWORD 'hunter-alice'");
        client.terminate();
        client.read_to_end();
        weir.hup();
        weir.wait_log("configuration reloaded");
        weir.term();
        assert!(weir.wait_exit(SOON).success());
        let log = weir.log_text();
        assert!(!log.contains("hunter"), "{auth_type}: {log}");
        let mut messages = Vec::new();
        for line in log.lines() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            assert!(value["timestamp"].is_string() && value["level"].is_string(), "{line}");
            messages.extend(value["message"].as_str().map(str::to_owned));
        }
        for message in ["pgweir is ready", "client connected", "login failed", "pgweir has ended"] {
            assert!(messages.iter().any(|m| m == message), "{message} is not in {messages:?}");
        }
    }
}

#[test]
fn who_comes_and_goes_is_logged_with_reasons() {
    let cluster = Cluster::start();
    let weir = Weir::builder()
        .general("server_idle_timeout = \"1s\"\nclient_idle_timeout = \"300ms\"")
        .cluster("app", &cluster, &[])
        .start();
    let mut polite = weir.client("app");
    let pid = polite.value(common::SERVER_PID);
    polite.terminate();
    drop(weir.client("app"));
    let _idle = weir.client("app");
    assert!(weir.login("nobody", "nowhere").connect().is_err());
    let line = |parts: &[&str]| {
        eventually("the line is there", SOON, || {
            let text = weir.log_text();
            text.lines().find(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned)
        })
    };
    line(&["client connected", "peer=\"127.0.0.1:"]);
    line(&["client disconnected", "reason=\"it said goodbye\"", "age=0"]);
    line(&["client disconnected", "reason=\"it is gone without goodbye\""]);
    line(&["client disconnected", "reason=\"terminating connection due to client idle timeout\""]);
    line(&["login failed", "user=\"nobody\"", "database=\"nowhere\"", "peer=\"127.0.0.1:"]);
    line(&["INFO", "server connection opened", &format!("pid={pid}")]);
    line(&["INFO", "server connection closed", &format!("pid={pid}"), "server_idle_timeout"]);
}

#[test]
fn as_many_files_may_be_open_as_the_system_allows() {
    let builder = Weir::builder().general("max_client_conn = 900");
    let weir = builder.start_by(|weir, pgweir| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -Sn 256; ulimit -Hn 512; exec \"$0\" \"$@\""]);
        shell.arg(pgweir.get_program()).args(pgweir.get_args());
        let log = std::fs::File::options().create(true).append(true).open(weir.dir().join("log")).unwrap();
        shell.stdout(log.try_clone().unwrap()).stderr(log);
        shell
    });
    weir.wait_log("only 512 files may be open (ulimit -Hn)");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", weir.pid())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["512", "512"], "{files}");
}

#[test]
fn databases_without_probes_are_told_of_once() {
    let section = |name: &str| format!("[databases.{name}]\nprimary = \"postgres://127.0.0.1:1/x\"");
    let mut weir = Weir::builder().database(&section("a")).database(&section("b")).start();
    let told = |weir: &Weir| weir.log_text().matches("servers are not probed").count();
    weir.wait_log("count=2 databases=\"a, b\"");
    assert_eq!(told(&weir), 1);
    weir.admin("RELOAD");
    weir.wait_log("changes=nothing changed");
    assert_eq!(told(&weir), 1, "that is known");
    weir.reconfigure(|builder| builder.database(&section("c")));
    weir.admin("RELOAD");
    weir.wait_log("count=3 databases=\"a, b, c\"");
    assert_eq!(told(&weir), 2);
}

#[test]
fn a_reload_tells_of_files_and_of_what_needs_a_restart() {
    let mut weir = Weir::builder().users("\"one\" \"a\"").start();
    let mut console = weir.console().unwrap();
    weir.reconfigure(|builder| builder.users("\"two\" \"b\""));
    assert_eq!(console.run("RELOAD"), "C(RELOAD) Z(I)");
    weir.wait_log("changes=auth_file read anew");
    assert_eq!(console.run("RELOAD"), "C(RELOAD) Z(I)");
    weir.wait_log("changes=nothing changed");
    weir.reconfigure(|builder| builder.general("workers = 7"));
    console.query("RELOAD");
    let told = console.read_until_ready();
    let notice = told.iter().find_map(|m| m.error()).unwrap();
    assert_eq!((notice.severity.as_str(), notice.message.as_str()), ("WARNING", "a restart is needed for workers"));
    assert!(show(&told).ends_with("C(RELOAD) Z(I)"), "{}", show(&told));
}

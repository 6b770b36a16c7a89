//! `-R`: another process takes over, and nobody notices.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;

use common::certs::{self, Authority};
use common::cluster::Cluster;
use common::eventually;
use common::ports::Port;
use common::raw::{self, Address, Login, LoginError, RawClient};
use common::tools::Running;
use common::weir::{Builder, Weir};
use common::wire::{PROTOCOL_3_0, frontend, show};

const SOON: Duration = Duration::from_secs(30);

/// A socket directory that others may use, and what makes pgweir use it.
fn over(cluster: &Cluster, dir: &tempfile::TempDir) -> Builder {
    let dir = dir.path();
    Weir::builder().general(&format!("unix_socket_dir = {dir:?}\npidfile = {:?}", dir.join("pid"))).cluster(
        "app",
        cluster,
        &[],
    )
}

fn socket(weir: &Weir, dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join(format!(".s.PGSQL.{}", weir.port()))
}

fn pidfile(dir: &tempfile::TempDir) -> String {
    fs::read_to_string(dir.path().join("pid")).unwrap_or_default().trim().to_owned()
}

/// Starts a query that would take ten minutes and waits until it runs.
fn sleep(client: &mut RawClient, cluster: &Cluster) {
    client.query("SELECT pg_sleep(600)");
    let sql = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)' AND state = 'active'";
    eventually("the query runs", SOON, || (!cluster.sql(sql).is_empty()).then_some(()));
}

// Clients.

/// What a client of the load does again and again, on a connection of its own each time.
fn visit(login: &Login, round: usize) -> Result<(), String> {
    let told = |error: LoginError| format!("login: {error:?}");
    let mut client = login.clone().connect().map_err(told)?;
    for turn in 0..5 {
        let sqls: &[&str] = match (round + turn) % 3 {
            0 => &["SELECT 1"],
            1 => &["BEGIN", "INSERT INTO t VALUES (1)", "SELECT pg_sleep(0.01)", "COMMIT"],
            _ => &["BEGIN", "INSERT INTO t VALUES (1)", "ROLLBACK"],
        };
        for sql in sqls {
            client.try_send_bytes(&frontend::query(sql)).map_err(|error| format!("{sql}: {error}"))?;
            let answer = show(&client.read_until_ready());
            if answer.contains("E(") {
                return Err(format!("{sql}: {answer}"));
            }
        }
    }
    client.terminate();
    Ok(())
}

#[test]
fn under_load_three_times_in_a_row() {
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE t (id int4)");
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("a house");
    let pair = authority.issue("localhost", &["localhost", "127.0.0.1"]);
    let cert = certs::write(dir.path(), "server.crt", &pair.cert);
    let key = certs::write(dir.path(), "server.key", &pair.key);
    let tls = format!("client_tls_sslmode = \"allow\"\nclient_tls_cert_file = {cert:?}\nclient_tls_key_file = {key:?}");
    let weir = over(&cluster, &dir).general(&tls).start();
    let (stop, visits) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut resting = weir.client("app");
    resting.run("SET application_name = 'resting'");
    std::thread::scope(|scope| {
        let load: Vec<_> = (0..16)
            .map(|number| {
                let login = weir.login("postgres", "app");
                let login = match number % 4 {
                    0 => login.tls(authority.client("")),
                    1 => Login::new(Address::Unix(socket(&weir, &dir)), "postgres", "app"),
                    _ => login,
                };
                let (stop, visits) = (&stop, &visits);
                scope.spawn(move || {
                    let mut round = number;
                    while !stop.load(Ordering::Relaxed) {
                        visit(&login, round).map_err(|why| format!("client {number}: {why}"))?;
                        visits.fetch_add(1, Ordering::Relaxed);
                        round += 1;
                    }
                    Ok::<_, String>(())
                })
            })
            .collect();
        let mut olds = Vec::new();
        for _ in 0..3 {
            let before = visits.load(Ordering::Relaxed);
            eventually("the load goes on", SOON, || (visits.load(Ordering::Relaxed) > before + 16).then_some(()));
            olds.push(weir.take_over().unwrap());
        }
        let before = visits.load(Ordering::Relaxed);
        eventually("the load goes on", SOON, || (visits.load(Ordering::Relaxed) > before + 16).then_some(()));
        stop.store(true, Ordering::Relaxed);
        for client in load {
            client.join().unwrap().unwrap();
        }
        // Only the first has somebody left.
        for old in olds.drain(1..) {
            assert_eq!(old.wait_exit(SOON).code(), Some(0));
        }
        assert_eq!(resting.value("SHOW application_name"), "resting", "it stays as long as it likes");
        assert!(olds[0].runs());
        resting.terminate();
        assert_eq!(olds.remove(0).wait_exit(SOON).code(), Some(0));
    });
    assert_eq!(pidfile(&dir), weir.pid().to_string());
    assert_eq!(weir.client("app").value("SELECT 1"), "1");
}

#[test]
fn a_transaction_of_the_old_one_goes_on() {
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE t (id int4)");
    let dir = tempfile::tempdir().unwrap();
    let weir = over(&cluster, &dir).start();
    let mut client = weir.client("app");
    // Accepted by the old one, and not yet logged in.
    let login = weir.login("postgres", "app");
    let mut half = RawClient::open(Address::Tcp(weir.port())).unwrap();
    half.request_encryption(common::wire::SSL_REQUEST);
    client.run("BEGIN");
    client.run("INSERT INTO t VALUES (1)");
    let mut old = weir.take_over().unwrap();
    assert_eq!(client.run("INSERT INTO t VALUES (2)"), "C(INSERT 0 1) Z(T)");
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    client.terminate();
    // It is not ended under the one who logs in.
    std::thread::sleep(Duration::from_millis(300));
    assert!(old.runs());
    half.log_in(&login).unwrap();
    assert_eq!(half.value("SELECT count(*) FROM t"), "2");
    half.terminate();
    assert_eq!(old.wait_exit(SOON).code(), Some(0));
}

#[test]
fn what_belongs_to_the_process_is_handed_over() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    let mut weir = over(&cluster, &dir).start();
    let first = weir.pid();
    assert_eq!(pidfile(&dir), first.to_string());
    let mut resting = weir.client("app");
    // The new one has another configuration.
    weir.reconfigure(|b| b.general("max_client_conn = 77\nlisten_addr = \"127.0.0.1, 127.0.0.2\"\nlisten_backlog = 7"));
    let old = weir.take_over().unwrap();
    assert_eq!((old.pid(), pidfile(&dir)), (first, weir.pid().to_string()));
    assert_ne!(first, weir.pid());
    let shown = |key: &str| weir.admin("SHOW CONFIG").into_iter().find(|row| row[0] == key).unwrap()[1].clone();
    assert_eq!((shown("max_client_conn").as_str(), shown("listen_backlog").as_str()), ("77", "7"));
    assert!(TcpStream::connect(("127.0.0.2", weir.port())).is_ok(), "it listens there as well");
    assert_eq!(weir.http_get("/health/ready").0, 200);
    let here = || Login::new(Address::Unix(socket(&weir, &dir)), "postgres", "app").connect().unwrap();
    assert_eq!(here().value("SELECT 1"), "1");
    resting.terminate();
    assert_eq!(old.wait_exit(SOON).code(), Some(0));
    // What was the old one's stays with the new one.
    assert_eq!(pidfile(&dir), weir.pid().to_string());
    assert_eq!(here().value("SELECT 2"), "2");
    assert_eq!(weir.http_get("/metrics").0, 200);
    // And goes with it.
    weir.term();
    assert_eq!(weir.wait_exit(SOON).code(), Some(0));
    assert!(!socket(&weir, &dir).exists() && !dir.path().join("pid").exists());
}

#[test]
fn the_old_one_follows_signals() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    let weir = over(&cluster, &dir).start();
    let (mut busy, mut idle) = (weir.client("app"), weir.client("app"));
    busy.run("BEGIN");
    let old = weir.take_over().unwrap();
    common::guard::send(old.pid(), Signal::SIGTERM);
    assert_eq!(show(&idle.read_to_end()), "E(FATAL 57P01)");
    assert_eq!(busy.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(show(&busy.read_to_end()), "E(FATAL 57P01)");
    assert_eq!(old.wait_exit(SOON).code(), Some(0));
    assert_eq!(weir.client("app").value("SELECT 1"), "1");
    assert!(socket(&weir, &dir).exists());
}

#[test]
fn the_old_one_is_paused_and_resumed_by_signals() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    let weir = over(&cluster, &dir).start();
    let mut client = weir.client("app");
    let old = weir.take_over().unwrap();
    common::guard::send(old.pid(), Signal::SIGUSR1);
    // It is told when it is given, and when it is done.
    eventually("PAUSE is done", SOON, || (weir.log_text().matches("command=\"PAUSE\"").count() == 2).then_some(()));
    client.query("SELECT 5");
    common::guard::send(old.pid(), Signal::SIGUSR2);
    assert!(show(&client.read_until_ready()).contains("C(SELECT 1) Z(I)"));
    client.terminate();
    assert_eq!(old.wait_exit(SOON).code(), Some(0));
}

#[test]
fn the_old_one_opens_its_log_anew() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    let [log, rotated] = ["log", "log.1"].map(|name| dir.path().join(name));
    let weir = over(&cluster, &dir).general(&format!("logfile = {log:?}")).start();
    let mut client = weir.client("app");
    let mut old = weir.take_over().unwrap();
    fs::rename(&log, &rotated).unwrap();
    common::guard::send(old.pid(), Signal::SIGHUP);
    eventually("there is a new file", SOON, || {
        fs::read_to_string(&log).unwrap_or_default().contains("the log file is opened anew").then_some(())
    });
    assert!(old.runs());
    client.terminate();
    assert_eq!(old.wait_exit(SOON).code(), Some(0));
    assert!(fs::read_to_string(&log).unwrap().contains("pgweir has ended"));
}

#[test]
fn what_was_said_at_the_console_is_told() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    let weir = over(&cluster, &dir).start();
    weir.admin("SET max_client_conn = 78");
    weir.admin("DISABLE app");
    assert!(weir.take_over().unwrap().wait_exit(SOON).success());
    weir.wait_log("not handed over: disabled databases: app; settings changed by SET: max_client_conn");
    weir.admin("SET max_client_conn = 78");
    weir.admin("RELOAD");
    let before = weir.log_text();
    assert!(weir.take_over().unwrap().wait_exit(SOON).success());
    assert!(!weir.log_text()[before.len()..].contains("not handed over"));
}

// Cancel requests.

#[test]
fn cancel_requests_find_one_that_had_no_number() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    let mut weir = over(&cluster, &dir).start();
    let mut client = weir.client("app");
    // One with these bits in its key is the new one's, or the peer's.
    while client.pid.to_be_bytes()[1..3] == [7, 0] || client.pid.to_be_bytes()[1..3] == [8, 0] {
        client = weir.client("app");
    }
    sleep(&mut client, &cluster);
    let peer = "[peers.8]\nhost = \"127.0.0.1\"\nport = 1";
    weir.reconfigure(|b| b.general("peer_id = 7").database(peer));
    let old = weir.take_over().unwrap();
    client.cancel();
    let answer = show(&client.read_until_ready());
    assert!(answer.ends_with("E(57014) Z(I)"), "{answer}");
    client.terminate();
    assert_eq!(old.wait_exit(SOON).code(), Some(0));
}

#[test]
fn cancel_requests_find_the_processes_before() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    let weir = over(&cluster, &dir).start();
    let (mut first, mut second) = (weir.client("app"), None);
    sleep(&mut first, &cluster);
    let mut olds = Vec::new();
    for _ in 0..2 {
        olds.push(weir.take_over().unwrap());
        second.get_or_insert_with(|| weir.client("app"));
    }
    // From the third process to the first, over TCP and the unix socket, and not by a wrong key.
    let wrong: Vec<u8> = first.key.iter().map(|byte| byte ^ 1).collect();
    raw::cancel(&Address::Tcp(weir.port()), first.pid, &wrong);
    assert_eq!(cluster.sql("SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)' AND state = 'active' AND pid <> pg_backend_pid()").len(), 1);
    for address in [Address::Tcp(weir.port()), Address::Unix(socket(&weir, &dir))] {
        raw::cancel(&address, first.pid, &first.key);
        let answer = show(&first.read_until_ready());
        assert!(answer.ends_with("E(57014) Z(I)"), "{answer}");
        sleep(&mut first, &cluster);
    }
    first.cancel();
    first.read_until_ready();
    // To the one in the middle, and when the first is gone.
    let mut second = second.unwrap();
    first.terminate();
    assert_eq!(olds.remove(0).wait_exit(SOON).code(), Some(0));
    sleep(&mut second, &cluster);
    second.cancel();
    let answer = show(&second.read_until_ready());
    assert!(answer.ends_with("E(57014) Z(I)"), "{answer}");
    second.terminate();
    assert_eq!(olds.remove(0).wait_exit(SOON).code(), Some(0));
    // Nobody is left to ask.
    raw::cancel(&Address::Tcp(weir.port()), second.pid, &second.key);
    assert_eq!(weir.client("app").value("SELECT 1"), "1");
}

// What goes wrong.

#[test]
fn one_that_cannot_start_changes_nothing() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    let mut weir = over(&cluster, &dir).start();
    let (pid, mut client) = (weir.pid(), weir.client("app"));
    let good = fs::read_to_string(weir.config_path()).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let http = format!("http_listen = \"127.0.0.1:{}\"", taken.local_addr().unwrap().port());
    for (line, expected) in [
        ("pool_mode = \"often\"", "pool_mode"),
        ("auth_file = \"/nowhere/users\"", "/nowhere/users"),
        (http.as_str(), "in use"),
        ("pidfile = \"/nowhere/pid\"", "/nowhere/pid"),
    ] {
        weir.reconfigure(|_| over(&cluster, &dir).general(""));
        let name = line.split(' ').next().unwrap();
        let others: Vec<&str> = good.lines().filter(|l| !l.starts_with(&format!("{name} "))).collect();
        fs::write(weir.config_path(), others.join("\n").replace("[pgweir]\n", &format!("[pgweir]\n{line}\n"))).unwrap();
        let Err(why) = weir.take_over() else { panic!("{line}: it took over") };
        assert!(why.contains(expected), "{line}: {why}");
        assert_eq!(client.value("SELECT 1"), "1");
        assert_eq!(weir.client("app").value("SELECT 2"), "2");
        let mut local = Login::new(Address::Unix(socket(&weir, &dir)), "postgres", "app").connect().unwrap();
        assert_eq!(local.value("SELECT 3"), "3");
        assert_eq!((weir.http_get("/health/ready").0, pidfile(&dir)), (200, pid.to_string()));
    }
    fs::write(weir.config_path(), good).unwrap();
    let old = weir.take_over().unwrap();
    client.terminate();
    assert_eq!(old.wait_exit(SOON).code(), Some(0));
}

/// What a process says that takes over, by any number.
const TAKE: &str = "take 1\n";

/// The next line that the old process says.
fn line(stream: &mut UnixStream) -> String {
    let (mut said, mut byte) = (Vec::new(), [0]);
    while !said.ends_with(b"\n") && stream.read(&mut byte).unwrap() > 0 {
        said.push(byte[0]);
    }
    String::from_utf8(said).unwrap()
}

/// Says what a process says that takes over, up to `end`.
fn successor(path: &PathBuf) -> (UnixStream, String) {
    let mut stream = eventually("it listens there", SOON, || UnixStream::connect(path).ok());
    stream.set_read_timeout(Some(SOON)).unwrap();
    let params = [("user", "pgbouncer"), ("database", "pgbouncer"), ("pgweir.takeover", "1")];
    let params = params.map(|(name, value)| (name.to_owned(), value.to_owned()));
    stream.write_all(&frontend::startup(PROTOCOL_3_0, &params)).unwrap();
    let mut said = Vec::new();
    let mut byte = [0];
    while !said.ends_with(b"end\n") && stream.read(&mut byte).unwrap() > 0 {
        said.push(byte[0]);
    }
    (stream, String::from_utf8(said).unwrap())
}

#[test]
fn one_that_dies_on_the_way_changes_nothing() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    let weir = over(&cluster, &dir).start();
    let path = socket(&weir, &dir);
    for (before, last) in ["", TAKE, "nonsense\n", "take 0\n"].into_iter().enumerate() {
        let (mut stream, said) = successor(&path);
        assert!(said.starts_with(&format!("hello 1 {}\n", weir.pid())), "{said}");
        stream.write_all(last.as_bytes()).unwrap();
        if last == TAKE {
            assert_eq!(line(&mut stream), "taken\n");
            // Nobody is refused meanwhile: they wait.
            std::thread::scope(|scope| {
                let late = scope.spawn(|| weir.client("app").value("SELECT 7"));
                std::thread::sleep(Duration::from_millis(300));
                assert!(!late.is_finished());
                drop(stream);
                assert_eq!(late.join().unwrap(), "7");
            });
        } else {
            drop(stream);
        }
        eventually("it is told", SOON, || (weir.log_text().matches("this one goes on").count() > before).then_some(()));
        assert_eq!(weir.client("app").value("SELECT 1"), "1");
    }
    // One at a time.
    let (first, _) = successor(&path);
    let (_second, said) = successor(&path);
    assert!(said.contains("another process is taking over already"), "{said}");
    drop(first);
    let old = eventually("a real one takes over", SOON, || weir.take_over().ok());
    assert_eq!(old.wait_exit(SOON).code(), Some(0));
}

#[test]
fn one_that_hangs_on_the_way_is_not_waited_for() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    let weir = over(&cluster, &dir).start();
    let (mut stream, _) = successor(&socket(&weir, &dir));
    stream.write_all(TAKE.as_bytes()).unwrap();
    assert_eq!(line(&mut stream), "taken\n");
    // It says no more, and holds on to its connection.
    let mut client = RawClient::open(Address::Tcp(weir.port())).unwrap();
    client.set_read_timeout(2 * SOON);
    client.log_in(&weir.login("postgres", "app")).unwrap();
    assert_eq!(client.value("SELECT 1"), "1");
    weir.wait_log("this one goes on");
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "it cannot take over any more");
    assert_eq!(pidfile(&dir), weir.pid().to_string());
    client.terminate();
    assert!(weir.take_over().unwrap().wait_exit(SOON).success());
}

#[test]
fn one_that_stalls_on_the_way_goes_on_if_the_other_has_given_up() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    let weir = over(&cluster, &dir).start();
    let mut client = weir.client("app");
    let (mut stream, _) = successor(&socket(&weir, &dir));
    stream.write_all(TAKE.as_bytes()).unwrap();
    assert_eq!(line(&mut stream), "taken\n");
    weir.signal(Signal::SIGSTOP);
    let status = format!("/proc/{}/status", weir.pid());
    eventually("it stands still", SOON, || fs::read_to_string(&status).unwrap().contains("State:\tT").then_some(()));
    // As one does that waits for `bye` in vain.
    stream.write_all(b"done\n").unwrap();
    drop(stream);
    weir.signal(Signal::SIGCONT);
    weir.wait_log("this one goes on");
    assert_eq!(weir.client("app").value("SELECT 1"), "1");
    let mut local = Login::new(Address::Unix(socket(&weir, &dir)), "postgres", "app").connect().unwrap();
    assert_eq!((local.value("SELECT 2"), client.value("SELECT 3")), ("2".to_owned(), "3".to_owned()));
    [local, client].iter_mut().for_each(RawClient::terminate);
    assert!(weir.take_over().unwrap().wait_exit(SOON).success());
}

#[test]
fn nobody_else_takes_over() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    let weir = over(&cluster, &dir).start();
    for user in ["pgbouncer", common::weir::ADMIN] {
        let asked = weir.login(user, "pgbouncer").param("pgweir.takeover", "1").connect();
        assert_eq!(asked.unwrap_err().code(), "42501", "{user}");
    }
    let local = Login::new(Address::Unix(socket(&weir, &dir)), common::weir::ADMIN, "pgbouncer");
    assert_eq!(local.param("pgweir.takeover", "1").connect().unwrap_err().code(), "42501");
    assert_eq!(weir.client("app").value("SELECT 1"), "1");
}

#[test]
fn one_that_is_paused_hands_nothing_over() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    let weir = over(&cluster, &dir).start();
    for (pause, resume) in [("PAUSE", "RESUME"), ("PAUSE app", "RESUME app")] {
        weir.admin(pause);
        let Err(why) = weir.take_over() else { panic!("it took over") };
        let what = if pause == "PAUSE" { "pgweir is paused" } else { "the database \"app\" is paused" };
        assert!(why.contains(what), "{why}");
        weir.admin(resume);
        assert_eq!(weir.client("app").value("SELECT 1"), "1");
    }
    assert!(weir.take_over().unwrap().wait_exit(SOON).success());
}

#[test]
fn one_that_is_paused_on_the_way_hands_nothing_over() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    let weir = over(&cluster, &dir).start();
    let mut console = weir.console().unwrap();
    for (pause, resume, what) in [
        ("PAUSE", "RESUME", "pgweir is paused"),
        ("PAUSE app", "RESUME app", "the database \"app\" is paused"),
        ("SUSPEND", "RESUME", "pgweir is suspended"),
    ] {
        for holds in [false, true] {
            let (mut stream, _) = successor(&socket(&weir, &dir));
            if holds {
                stream.write_all(TAKE.as_bytes()).unwrap();
                assert_eq!(line(&mut stream), "taken\n");
            }
            console.run(pause);
            stream.write_all(if holds { "done\n" } else { TAKE }.as_bytes()).unwrap();
            assert_eq!(line(&mut stream), format!("no {what}\n"), "{pause}, {holds}");
            console.run(resume);
            assert_eq!(weir.client("app").value("SELECT 1"), "1");
        }
    }
    console.terminate();
    assert!(eventually("it hands over", SOON, || weir.take_over().ok()).wait_exit(SOON).success());
}

#[test]
fn one_that_ends_hands_nothing_over() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    let weir = over(&cluster, &dir).start();
    let mut busy = weir.client("app");
    busy.run("BEGIN");
    weir.term();
    weir.wait_log("shutting down");
    let Err(why) = weir.take_over() else { panic!("it took over") };
    assert!(why.contains("pgweir is shutting down"), "{why}");
    busy.run("COMMIT");
    assert_eq!(weir.wait_exit(SOON).code(), Some(0));
}

#[test]
fn without_a_process_it_starts_as_usual() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    let weir = over(&cluster, &dir).arg("-R").start();
    weir.wait_log("no process runs there: starting as usual");
    assert_eq!(pidfile(&dir), weir.pid().to_string());
    // Also after one that was killed. Without a unix socket it could not know.
    weir.kill9();
    weir.restart();
    assert_eq!(weir.client("app").value("SELECT 1"), "1");
    let without = Weir::builder().cluster("app", &cluster, &[]).arg("--reboot").try_start();
    let why = without.err().expect("a process that runs could not be found");
    assert!(why.contains("-R needs unix_socket_dir"), "{why}");
}

#[test]
fn something_else_at_the_socket_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let port = Port::claim();
    let path = dir.path().join(format!(".s.PGSQL.{}", port.number()));
    let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
    let config = dir.path().join("pgweir.toml");
    let text = "[pgweir]\nauth_type = \"trust\"\nlisten_port = PORT\nunix_socket_dir = \"DIR\"\n\
                [databases.a]\nprimary = \"postgres://h/a\"\n[users.u]\n";
    fs::write(&config, common::weir::in_place(text, dir.path(), port.number())).unwrap();
    for (answer, expected) in [
        (&b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I"[..], "is not pgweir, or one that does not know how"),
        (b"E\0\0\0\x25SFATAL\0C08P01\0Munsupported x\0\0", "unsupported x"),
        (b"", "closed the connection"),
    ] {
        let asking = Running::start(Command::new(env!("CARGO_BIN_EXE_pgweir")).arg("-R").arg(&config));
        let (mut stream, _) = listener.accept().unwrap();
        let mut startup = [0; 8];
        stream.read_exact(&mut startup).unwrap();
        let mut rest = vec![0; usize::try_from(u32::from_be_bytes(startup[..4].try_into().unwrap())).unwrap() - 8];
        stream.read_exact(&mut rest).unwrap();
        stream.write_all(answer).unwrap();
        drop(stream);
        let output = asking.wait(SOON);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stderr.contains(expected), "{output:?}");
    }
}

// Beside other options.

#[test]
fn in_the_background() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    let port = Port::claim();
    let text = "[databases]\n* = host=127.0.0.1 port=SERVER user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
                listen_port = PORT\nunix_socket_dir = DIR\nauth_type = any\npidfile = DIR/pid\nlogfile = DIR/log\n"
        .replace("SERVER", &cluster.port().to_string());
    let path = dir.path().join("pgbouncer.ini");
    fs::write(&path, common::weir::in_place(&text, dir.path(), port.number())).unwrap();
    let manager = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    manager.set_read_timeout(Some(SOON)).unwrap();
    let start = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgweir"));
        command.args(args).arg(&path).env("NOTIFY_SOCKET", dir.path().join("notify"));
        let started = Running::start(&mut command).wait(SOON);
        assert!(started.status.success(), "{started:?}");
    };
    let pid = |but: i32| eventually("a pidfile", SOON, || pidfile(&dir).parse::<i32>().ok().filter(|pid| *pid != but));
    start(&["-d"]);
    let first = pid(0);
    let login = || Login::new(Address::Tcp(port.number()), "anyone", "postgres").connect();
    let mut client = eventually("it accepts", SOON, || login().ok());
    // Whoever reads the file right behind finds the new process.
    start(&["-d", "-R"]);
    let second = pidfile(&dir).parse::<i32>().unwrap();
    assert_ne!(second, first);
    // Not the one that connected: that is no more.
    let main = eventually("it is told who is the main process", SOON, || {
        let mut bytes = [0; 4096];
        let len = manager.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..len]).trim().strip_prefix("MAINPID=").map(str::to_owned)
    });
    assert_eq!(main, second.to_string());
    assert_eq!(login().unwrap().value("SELECT 1"), "1");
    assert_eq!(client.value("SELECT 2"), "2");
    let gone = |pid: i32| !common::guard::alive(pid.try_into().unwrap());
    assert!(!gone(first));
    client.terminate();
    eventually("the first ends", SOON, || gone(first).then_some(()));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(second), Signal::SIGTERM).unwrap();
    eventually("the second ends", SOON, || gone(second).then_some(()));
    assert!(!dir.path().join("pid").exists());
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(log.contains("taken over from the process that ran"), "{log}");
}

#[test]
fn as_another_user() {
    // Only root can become another.
    let Some(account) = common::install::account() else { return };
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let users = dir.path().join("users");
    fs::write(&users, "\"postgres\" \"\"\n").unwrap();
    fs::set_permissions(&users, fs::Permissions::from_mode(0o644)).unwrap();
    let weir = over(&cluster, &dir).general(&format!("auth_file = {users:?}")).arg("-u").arg("postgres").start();
    let mut client = weir.client("app");
    let old = weir.take_over().unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", weir.pid())).unwrap();
    assert!(status.contains(&format!("\nUid:\t{}\t", account.uid)), "{status}");
    assert_eq!(client.value("SELECT 1"), "1");
    client.terminate();
    assert_eq!(old.wait_exit(SOON).code(), Some(0));
    // Root is somebody else: it takes no sockets from this user, and is not taken for the owner.
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgweir"));
    let refused = Running::start(command.arg("-R").arg(weir.config_path())).wait(SOON);
    assert!(refused.stderr.contains(&format!("it is of another system user (uid {}", account.uid)), "{refused:?}");
    let local = Login::new(Address::Unix(socket(&weir, &dir)), "pgbouncer", "pgbouncer");
    assert_eq!(local.param("pgweir.takeover", "1").connect().unwrap_err().code(), "42501");
    assert_eq!(weir.client("app").value("SELECT 2"), "2");
}

#[test]
fn an_abstract_socket_too() {
    let cluster = Cluster::start();
    let name = format!("@pgweir-takeover-{}", std::process::id());
    let weir = Weir::builder().general(&format!("unix_socket_dir = {name:?}")).cluster("app", &cluster, &[]).start();
    let mut client = weir.client("app");
    let old = weir.take_over().unwrap();
    assert_eq!(weir.client("app").value("SELECT 1"), "1");
    assert_eq!(client.value("SELECT 2"), "2");
    client.terminate();
    assert_eq!(old.wait_exit(SOON).code(), Some(0));
    assert!(weir.take_over().unwrap().wait_exit(SOON).success());
}

#[test]
fn strangers_are_shown_the_same_salts_afterwards() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    let weir = over(&cluster, &dir).general("auth_type = \"scram-sha-256\"").start();
    let salts = || ["ghost", "nobody"].map(|user| raw::shown_salt(Address::Tcp(weir.port()), user, "app"));
    let before = salts();
    assert_ne!(before[0], before[1]);
    let old = weir.take_over().unwrap();
    assert_eq!(salts(), before);
    drop(old);
}

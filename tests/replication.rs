//! Replication connections through pgweir: PostgreSQL's own tools stream over them.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::time::Duration;

use common::cluster::Cluster;
use common::eventually;
use common::fake::{self, FakeServer, Step};
use common::tools;
use common::weir::Weir;
use common::wire::{frame, show};

const WAIT: Duration = Duration::from_secs(20);

fn start() -> (Cluster, Weir) {
    let cluster = Cluster::with_config(&[("wal_level", "logical")]);
    // Tools that want the WAL itself name no database but this.
    let physical = format!("[databases.replication]\nprimary = \"postgres://127.0.0.1:{}/postgres\"", cluster.port());
    let weir = Weir::builder().cluster("app", &cluster, &[]).database(&physical).users("\"clerk\" \"\"").start();
    (cluster, weir)
}

#[test]
fn changes_are_streamed_while_the_pool_serves_others() {
    let (cluster, weir) = start();
    cluster.sql("CREATE TABLE t (a int)");
    let dir = common::guard::temp_dir();
    let file = dir.join("changes");
    let slot = |action: &[&str]| {
        let mut args = vec!["-d", "app", "-S", "s"];
        args.extend_from_slice(action);
        tools::tool_command("pg_recvlogical", weir.port(), "app", &args)
    };
    tools::Running::start(&mut slot(&["--create-slot", "-P", "test_decoding"])).wait(WAIT).ok();
    let receiver = tools::Running::start(&mut slot(&["--start", "-f", file.to_str().unwrap()]));
    eventually("the receiver is shown", WAIT, || {
        weir.admin_table("SHOW CLIENTS").iter().any(|c| c["replication"] == "logical").then_some(())
    });
    let mut client = weir.client("app");
    for n in 0..50 {
        assert_eq!(client.run(&format!("INSERT INTO t VALUES ({n})")), "C(INSERT 0 1) Z(I)");
    }
    eventually("the last change has come", WAIT, || {
        let text = std::fs::read_to_string(&file).ok()?;
        text.contains("a[integer]:49").then_some(())
    });
    assert_eq!(
        cluster.value("SELECT count(*) FROM pg_stat_replication WHERE application_name = 'pg_recvlogical'"),
        "1"
    );
    drop(receiver);
    eventually("its server connection goes with it", WAIT, || {
        (cluster.value("SELECT count(*) FROM pg_stat_replication") == "0").then_some(())
    });
    assert!(weir.admin_table("SHOW CLIENTS").iter().all(|c| c["replication"] == "none"));
}

#[test]
fn a_base_backup_is_taken_through_it() {
    let (cluster, weir) = start();
    cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 50000) AS a");
    let dir = common::guard::temp_dir();
    let target = dir.join("backup");
    let args = ["-D", target.to_str().unwrap(), "-X", "stream", "-c", "fast"];
    tools::Running::start(&mut tools::tool_command("pg_basebackup", weir.port(), "replication", &args))
        .wait(WAIT * 3)
        .ok();
    assert!(target.join("PG_VERSION").is_file() && target.join("pg_wal").is_dir());
}

#[test]
fn it_is_refused_ended_and_told_apart() {
    let (cluster, weir) = start();
    let mut streaming = weir.login("postgres", "app").param("replication", "database").connect().unwrap();
    assert_eq!(streaming.rows("IDENTIFY_SYSTEM").unwrap().len(), 1);
    assert_eq!(streaming.value("SELECT 5"), "5", "a logical one takes statements too");
    let physical = weir.login("postgres", "replication").param("replication", "on").connect();
    assert!(physical.unwrap().rows("SELECT 5").is_err(), "a physical one takes none");
    let error = weir.login("postgres", "app").param("replication", "maybe").connect().unwrap_err();
    assert_eq!(error.code(), "22023", "{error:?}");
    let plain = weir.login("postgres", "app").param("replication", "off").connect();
    assert_eq!(plain.unwrap().value("SELECT 5"), "5");

    let clients = weir.admin_table("SHOW CLIENTS");
    let id = &clients.iter().find(|c| c["replication"] == "logical").unwrap()["id"];
    weir.admin(&format!("KILL_CLIENT {id}"));
    assert_eq!(show(&streaming.read_to_end()), "E(FATAL 57P01)");

    cluster.sql("CREATE ROLE clerk LOGIN");
    let error = weir.login("clerk", "app").param("replication", "database").connect().unwrap_err();
    assert_eq!(error.code(), "42501", "the server's own word: {error:?}");

    // At the end of the process there is no transaction to wait for.
    let mut streaming = weir.login("postgres", "app").param("replication", "database").connect().unwrap();
    assert_eq!(streaming.rows("IDENTIFY_SYSTEM").unwrap().len(), 1);
    weir.term();
    assert!(weir.wait_exit(WAIT).success());
    assert_eq!(show(&streaming.read_to_end()), "E(FATAL 57P01)");
}

#[test]
fn it_follows_the_console_and_reloads() {
    let (cluster, mut weir) = start();
    let stream = |weir: &Weir| weir.login("postgres", "app").param("replication", "database").connect();
    let mut first = stream(&weir).unwrap();
    assert_eq!(first.value("SELECT 5"), "5");
    weir.admin("RECONNECT app");
    assert_eq!(show(&first.read_to_end()), "E(FATAL 57P01)");
    weir.admin("PAUSE app");
    let login = weir.login("postgres", "app").param("replication", "database");
    let waits = std::thread::spawn(move || login.connect());
    eventually("it waits", WAIT, || {
        weir.admin_table("SHOW CLIENTS").iter().any(|c| c["state"] == "waiting").then_some(())
    });
    weir.admin("RESUME app");
    let mut second = waits.join().unwrap().unwrap();
    assert_eq!(second.value("SELECT 6"), "6");
    // Also one that waits follows DISABLE.
    weir.admin("PAUSE app");
    let login = weir.login("postgres", "app").param("replication", "database");
    let waits = std::thread::spawn(move || login.connect());
    eventually("it waits", WAIT, || {
        weir.admin_table("SHOW CLIENTS").iter().any(|c| c["state"] == "waiting").then_some(())
    });
    weir.admin("DISABLE app");
    weir.admin("RESUME app");
    assert_eq!(waits.join().unwrap().unwrap_err().code(), "57P03");
    weir.admin("ENABLE app");
    // Another address of the same server will do for another server.
    let moved = format!("[databases.app]\nprimary = \"postgres://localhost:{}/postgres\"", cluster.port());
    weir.reconfigure(|_| Weir::builder().database(&moved));
    weir.admin("RELOAD");
    assert_eq!(show(&second.read_to_end()), "E(FATAL 57P01)");
    assert_eq!(stream(&weir).unwrap().value("SELECT 7"), "7");
}

#[test]
fn a_stream_comes_to_rest_before_its_end() {
    const COUNT: usize = 600;
    let stream = frame(b'd', &[b'x'; 65_000]).repeat(COUNT);
    let server = FakeServer::serve(move |_| {
        let login = vec![Step::ExpectStartup, Step::Send(fake::greeting(4711, &[1, 2, 3, 4]))];
        [login, Step::reply(stream.clone())].concat()
    });
    let database = format!("[databases.app]\nprimary = \"postgres://127.0.0.1:{}/postgres\"", server.port());
    let weir = Weir::builder().general("suspend_timeout = 0").database(&database).start();
    let mut console = weir.console().unwrap();
    let mut client = weir.login("postgres", "app").param("replication", "database").connect().unwrap();
    client.query("START_REPLICATION");
    let (read, has_read) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        for number in 1..=COUNT {
            assert_eq!(client.read_message().tag, b'd');
            read.send(number).unwrap();
            // The server is always faster: what is sent to the client never ends by itself.
            std::thread::sleep(Duration::from_millis(3));
        }
    });
    has_read.recv().unwrap();
    assert_eq!(console.run("SUSPEND"), "C(SUSPEND) Z(I)");
    let read = has_read.try_iter().last().unwrap_or(1);
    assert!(read < COUNT, "it waited for the end of the stream");
    assert_eq!(console.run("RESUME"), "C(RESUME) Z(I)");
    reader.join().unwrap();
}

/// It is one of the pool's connections as far as numbers go, though nobody else ever gets it, and PAUSE does not wait for it.
#[test]
fn it_counts_as_one_of_the_pools() {
    let cluster = Cluster::with_config(&[("wal_level", "logical")]);
    let weir = Weir::builder()
        .general("query_wait_timeout = \"1s\"")
        .database(&format!(
            "[databases.app]\nprimary = \"postgres://postgres@127.0.0.1:{}/postgres\"\npool_size = 2\nmax_db_connections = 2",
            cluster.port()
        ))
        .start();
    let wal_sender = || weir.login("postgres", "app").param("replication", "database").connect();
    let numbers = |state: &str| {
        let pools = weir.admin_table("SHOW POOLS");
        pools.iter().find(|pool| pool["database"] == "app").map(|pool| pool[state].clone())
    };
    // Two that rest make room for it.
    let mut two = [weir.client("app"), weir.client("app")];
    two.iter_mut().for_each(|client| assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)"));
    two.iter_mut().for_each(|client| assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)"));
    eventually("both rest", WAIT, || (numbers("sv_idle").as_deref() == Some("2")).then_some(()));
    let mut sender = wal_sender().unwrap();
    assert!(sender.run("IDENTIFY_SYSTEM").contains("D("));
    // It waits no more, however long it has been there.
    std::thread::sleep(Duration::from_millis(1100));
    let servers = weir.admin_table("SHOW SERVERS");
    let streams: Vec<_> = servers.iter().filter(|server| server["replication"] == "logical").collect();
    assert_eq!((servers.len(), streams.len()), (2, 1), "{servers:?}");
    let clients = weir.admin_table("SHOW CLIENTS");
    let client = clients.iter().find(|client| client["replication"] == "logical").unwrap();
    assert_eq!((client["wait"].as_str(), client["wait_us"].as_str()), ("0", "0"));
    assert_eq!((&streams[0]["link"], &streams[0]["state"]), (&client["ptr"], &"active".to_owned()));
    let pid = cluster.value("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walsender'");
    assert_eq!(streams[0]["remote_pid"], pid);
    assert_eq!(numbers("sv_active").as_deref(), Some("1"));
    // Nobody has more than is left.
    assert_eq!(two[0].run("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(two[1].run("SELECT 1"), "E(53300) Z(I)");
    assert_eq!(wal_sender().unwrap_err().code(), "53300");
    assert_eq!(two[0].run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(weir.admin("PAUSE app").len(), 0);
    assert_eq!(weir.admin("RESUME app").len(), 0);
    assert_eq!(weir.admin("WAIT_CLOSE app").len(), 0);
    assert!(sender.run("IDENTIFY_SYSTEM").contains("D("));
    drop(sender);
    eventually("its place is free", WAIT, || (numbers("sv_active").as_deref() == Some("0")).then_some(()));
    two.iter_mut().for_each(|client| assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)"));
}

#[test]
fn what_the_wildcard_made_stays_as_long_as_somebody_streams() {
    let cluster = Cluster::with_config(&[("wal_level", "logical")]);
    let wildcard = format!("[databases.\"*\"]\nhost = \"127.0.0.1\"\nport = {}", cluster.port());
    let weir = Weir::builder().general("autodb_idle_timeout = 1").database(&wildcard).start();
    let there = || weir.admin_table("SHOW DATABASES").iter().any(|row| row["name"] == "template1");
    let mut sender = weir.login("postgres", "template1").param("replication", "database").connect().unwrap();
    assert!(sender.run("IDENTIFY_SYSTEM").contains("D("));
    std::thread::sleep(Duration::from_secs(4));
    assert!(there(), "it is in use");
    assert_eq!(weir.admin("RECONNECT template1").len(), 0);
    assert_eq!(show(&sender.read_to_end()), "E(FATAL 57P01)");
    eventually("nobody uses it", WAIT, || (!there()).then_some(()));
}

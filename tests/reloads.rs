//! What a reload leaves alone: connections and their limits, pauses, and clients whose password changes.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::time::Duration;

use common::cluster::Cluster;
use common::raw::RawClient;
use common::weir::{Builder, Weir};
use common::wire::show;
use common::{SERVER_PID, eventually};

const SOON: Duration = Duration::from_secs(15);

/// `[databases.NAME]` over one connection, with more lines.
fn section(name: &str, cluster: &Cluster, more: &str) -> String {
    let port = cluster.port();
    format!("[databases.{name}]\nprimary = \"postgres://127.0.0.1:{port}/postgres\"\n{more}\n")
}

/// A user that has nothing to do with the test: the reload that brings it is one about somebody else.
fn another(number: u32) -> String {
    format!("[users.nobody{number}]\npool_size = {number}")
}

fn reload(weir: &mut Weir, change: impl FnOnce(Builder) -> Builder) {
    weir.reconfigure(change);
    weir.admin("RELOAD");
}

/// A column of SHOW POOLS, over all pools of a database.
fn of_pools(weir: &Weir, database: &str, column: &str) -> u32 {
    let pools = weir.admin_table("SHOW POOLS");
    pools.iter().filter(|pool| pool["database"] == database).map(|pool| pool[column].parse::<u32>().unwrap()).sum()
}

fn of_database(weir: &Weir, database: &str, column: &str) -> String {
    let all = weir.admin_table("SHOW DATABASES");
    all.iter().find(|row| row["name"] == database).expect("the database")[column].clone()
}

fn wait_queued(weir: &Weir, database: &str, count: u32) {
    eventually("they wait", SOON, || (of_pools(weir, database, "cl_waiting") == count).then_some(()));
}

fn answer(client: &mut RawClient) -> String {
    show(&client.read_until_ready())
}

// PAUSE and RESUME of one database.

#[test]
fn a_database_is_paused_behind_a_reload_whoever_rests() {
    let cluster = Cluster::start();
    let mut weir = Weir::builder().cluster("app", &cluster, &[]).cluster("other", &cluster, &[]).start();
    let mut idle = weir.client("app");
    assert_eq!(idle.value("SELECT 1"), "1");
    let mut admin = weir.console().unwrap();
    weir.reconfigure(|b| b.database(&another(1)));
    for command in ["RELOAD", "PAUSE other", "RESUME other", "PAUSE app", "RESUME app"] {
        assert_eq!(admin.run(command), format!("C({}) Z(I)", command.split(' ').next().unwrap()), "{command}");
    }
    assert_eq!((of_database(&weir, "app", "paused"), of_database(&weir, "other", "paused")), ("0".into(), "0".into()));
    assert_eq!(idle.value("SELECT 2"), "2");
}

#[test]
fn pause_waits_for_what_began_before_a_reload() {
    let cluster = Cluster::start();
    let app = |more: &str| Weir::builder().database(&section("app", &cluster, more));
    let mut weir = app("").start();
    let (mut busy, mut held) = (weir.client("app"), weir.client("app"));
    busy.run("BEGIN");
    // The servers are set up otherwise from now on: others are in the place of these.
    reload(&mut weir, |_| app("connect_query = \"SELECT 1\""));
    let mut admin = weir.console().unwrap();
    admin.query("PAUSE app");
    admin.expect_silence(Duration::from_millis(300));
    held.query("SELECT 3");
    held.expect_silence(Duration::from_millis(200));
    assert_eq!(busy.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(answer(&mut admin), "C(PAUSE) Z(I)");
    assert_eq!(admin.run("RESUME app"), "C(RESUME) Z(I)");
    assert_eq!(answer(&mut held), "T(?column?:23) D(3) C(SELECT 1) Z(I)");
}

#[test]
fn resume_lets_go_who_waited_before_a_reload() {
    let cluster = Cluster::start();
    cluster.sql("CREATE ROLE late LOGIN");
    let app = |more: &str| Weir::builder().users("\"late\" \"\"").database(&section("app", &cluster, more));
    let mut weir = app("").start();
    let mut client = weir.client("app");
    assert_eq!(client.value("SELECT 1"), "1");
    weir.admin("PAUSE app");
    client.query("SELECT 2");
    std::thread::scope(|scope| {
        let login = weir.login("late", "app");
        let late = scope.spawn(move || login.connect().map(|mut client| client.value("SELECT 3")));
        wait_queued(&weir, "app", 2);
        reload(&mut weir, |_| app("connect_query = \"SELECT 1\""));
        assert_eq!(of_database(&weir, "app", "paused"), "1", "a reload is no RESUME");
        weir.admin("RESUME app");
        assert_eq!(answer(&mut client), "T(?column?:23) D(2) C(SELECT 1) Z(I)");
        assert_eq!(late.join().unwrap().unwrap(), "3");
    });
    assert_eq!(weir.console().unwrap().run("RESUME app"), "E(55000) Z(I)", "nothing of it is left");
}

// Passwords.

#[test]
fn clients_stay_when_their_password_changes() {
    let cluster = Cluster::start();
    cluster.sql("CREATE ROLE ann LOGIN PASSWORD 'first'");
    cluster.sql("CREATE ROLE md LOGIN");
    cluster.sql("SET password_encryption = 'md5'; ALTER ROLE md PASSWORD 'first'");
    cluster.set_hba("host all ann 127.0.0.1/32 scram-sha-256\nhost all md 127.0.0.1/32 md5");
    let md5 = || cluster.value("SELECT rolpassword FROM pg_authid WHERE rolname = 'md'");
    let with = |ann: &str, more: &str| {
        let users = format!("\"admin\" \"x\"\n\"ann\" \"{ann}\"\n\"md\" \"{}\"", md5());
        Weir::builder().general("auth_type = \"md5\"").users(&users).database(&section("app", &cluster, more))
    };
    let mut weir = with("first", "").start();
    let log_in = |weir: &Weir, user: &str| weir.login(user, "app").password("first").connect().unwrap();
    let (mut ann, mut md, mut busy) = (log_in(&weir, "ann"), log_in(&weir, "md"), log_in(&weir, "ann"));
    assert_eq!((ann.value("SELECT current_user"), md.value("SELECT current_user")), ("ann".into(), "md".into()));
    assert_eq!(busy.run("BEGIN"), "C(BEGIN) Z(T)");
    let mut admin = weir.login("admin", "pgweir").password("x").connect().unwrap();
    // Once with nothing else changed, and once with another database in the place of this one.
    for (password, more) in [("second", ""), ("third", "connect_query = \"SELECT 1\"")] {
        cluster.sql(&format!("ALTER ROLE ann PASSWORD '{password}'"));
        cluster.sql(&format!("SET password_encryption = 'md5'; ALTER ROLE md PASSWORD '{password}'"));
        weir.reconfigure(|_| with(password, more));
        assert_eq!(
            (admin.run("RELOAD"), admin.run("RECONNECT")),
            ("C(RELOAD) Z(I)".into(), "C(RECONNECT) Z(I)".into())
        );
        assert_eq!(ann.value("SELECT current_user"), "ann", "{password}");
        assert_eq!(md.value("SELECT current_user"), "md", "{password}");
        let mut new = weir.login("ann", "app").password(password).connect().unwrap();
        assert_eq!(new.value("SELECT current_user"), "ann");
        assert_eq!(busy.value("SELECT current_user"), "ann", "it has its server yet");
    }
    // What is left of the pools of before is waited for as well.
    admin.query("PAUSE");
    admin.expect_silence(Duration::from_millis(300));
    assert_eq!(busy.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(answer(&mut admin), "C(PAUSE) Z(I)");
}

#[test]
fn who_waits_while_the_password_changes_is_served_with_the_new_one() {
    let cluster = Cluster::start();
    cluster.sql("CREATE ROLE ann LOGIN PASSWORD 'first'");
    cluster.set_hba("host all ann 127.0.0.1/32 scram-sha-256");
    let with = |ann: &str| {
        let users = format!("\"admin\" \"x\"\n\"ann\" \"{ann}\"");
        let app = section("app", &cluster, "pool_size = 1");
        Weir::builder().general("auth_type = \"md5\"").users(&users).database(&app)
    };
    let mut weir = with("first").start();
    let log_in = |weir: &Weir| weir.login("ann", "app").password("first").connect().unwrap();
    let (mut busy, mut waits) = (log_in(&weir), log_in(&weir));
    let mut admin = weir.login("admin", "pgweir").password("x").connect().unwrap();
    assert_eq!(busy.run("BEGIN"), "C(BEGIN) Z(T)");
    waits.query("SELECT current_user");
    waits.expect_silence(Duration::from_millis(300));
    cluster.sql("ALTER ROLE ann PASSWORD 'second'");
    weir.reconfigure(|_| with("second"));
    assert_eq!(admin.run("RELOAD"), "C(RELOAD) Z(I)");
    // The place of its connection is taken by one that is logged in to as the queue would have it, with the old password.
    assert_eq!(busy.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(answer(&mut waits), "T(current_user:19) D(ann) C(SELECT 1) Z(I)");
}

#[test]
fn nothing_rests_in_what_is_left_of_the_pools_of_an_old_password() {
    let cluster = Cluster::start();
    cluster.sql("CREATE ROLE late LOGIN");
    let with = |password: &str| {
        let app = section("app", &cluster, "pool_size = 1");
        Weir::builder().users(&format!("\"late\" \"{password}\"")).database(&app)
    };
    let mut weir = with("first").start();
    let log_in = |weir: &Weir| weir.login("late", "app").connect().unwrap();
    let (mut busy, mut waits) = (log_in(&weir), log_in(&weir));
    assert_eq!(busy.run("BEGIN"), "C(BEGIN) Z(T)");
    waits.query("SELECT 1");
    wait_queued(&weir, "app", 1);
    // The server asks for none: who is in the queue is served there.
    reload(&mut weir, |_| with("second"));
    assert_eq!(busy.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(answer(&mut waits), "T(?column?:23) D(1) C(SELECT 1) Z(I)");
    let open = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'late'";
    eventually("it is closed behind the queue", SOON, || (cluster.value(open) == "0").then_some(()));
}

// Limits of size.

#[test]
fn the_size_of_a_pool_is_a_limit_over_reloads() {
    let cluster = Cluster::start();
    let app = |more: &str| Weir::builder().database(&section("app", &cluster, &format!("pool_size = 1\n{more}")));
    let mut weir = app("").start();
    let mut first = weir.client("app");
    assert_eq!(first.run("BEGIN"), "C(BEGIN) Z(T)");
    // By reloads about somebody else, and by those after which no connection is the same.
    let changes =
        [another(1), another(2), "connect_query = \"SELECT 1\"".to_owned(), "connect_query = \"SELECT 2\"".to_owned()];
    let mut queue: Vec<_> = changes.iter().map(|_| weir.client("app")).collect();
    for (waiting, (more, client)) in (1..).zip(changes.iter().zip(&mut queue)) {
        reload(&mut weir, |_| app(more));
        client.query("SELECT 5");
        wait_queued(&weir, "app", waiting);
        assert_eq!(of_database(&weir, "app", "current_connections"), "1");
    }
    let open =
        "SELECT count(*) FROM pg_stat_activity WHERE client_addr IS NOT NULL AND application_name NOT LIKE 'pgweir %'";
    assert_eq!(cluster.value(open), "1");
    assert_eq!(first.run("COMMIT"), "C(COMMIT) Z(I)");
    for client in &mut queue {
        assert_eq!(answer(client), "T(?column?:23) D(5) C(SELECT 1) Z(I)");
    }
    eventually("the last one is all there is", SOON, || (cluster.value(open) == "1").then_some(()));
}

#[test]
fn connections_stay_when_limits_change() {
    let cluster = Cluster::start();
    let app = |more: &str| {
        let wildcard = format!("[databases.\"*\"]\nhost = \"127.0.0.1\"\nport = {}", cluster.port());
        Weir::builder().database(&section("app", &cluster, "")).database(&wildcard).database(more)
    };
    let mut weir = app("").start();
    let (mut client, mut wild) = (weir.client("app"), weir.client("template1"));
    let before = (client.value(SERVER_PID), wild.value(SERVER_PID));
    let same = |client: &mut RawClient, wild: &mut RawClient, what: &str| {
        assert_eq!((client.value(SERVER_PID), wild.value(SERVER_PID)), before, "{what}");
    };
    for set in
        ["server_idle_timeout = 500", "default_pool_size = 7", "server_connect_timeout = 9", "max_user_connections = 8"]
    {
        weir.admin(&format!("SET {set}"));
        same(&mut client, &mut wild, set);
    }
    assert_eq!(of_database(&weir, "app", "pool_size"), "7");
    reload(&mut weir, |_| app(&another(1)));
    same(&mut client, &mut wild, "a line about somebody else");
    // Who has been idle all the while has no say in it.
    eventually("both rest", SOON, || {
        (of_pools(&weir, "app", "sv_idle") + of_pools(&weir, "template1", "sv_idle") == 2).then_some(())
    });
    assert!(weir.log_text().matches("server connection opened").count() <= 2, "{}", weir.log_text());
}

#[test]
fn a_new_size_is_followed_in_place() {
    let cluster = Cluster::start();
    let mut weir = Weir::builder().general("default_pool_size = 1").cluster("app", &cluster, &[]).start();
    let mut holders: Vec<_> = (0..3).map(|_| weir.client("app")).collect();
    holders.iter_mut().for_each(|client| client.query("BEGIN"));
    wait_queued(&weir, "app", 2);
    weir.admin("SET default_pool_size = 3");
    for client in &mut holders {
        assert_eq!(answer(client), "C(BEGIN) Z(T)");
    }
    assert_eq!(of_pools(&weir, "app", "sv_active"), 3);
    reload(&mut weir, |_| Weir::builder().general("default_pool_size = 2").cluster("app", &cluster, &[]));
    for client in &mut holders {
        assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    }
    eventually("one too many is closed as it comes back", SOON, || {
        (of_pools(&weir, "app", "sv_idle") == 2 && of_pools(&weir, "app", "sv_active") == 0).then_some(())
    });
    weir.admin("SET default_pool_size = 1");
    eventually("what rests follows", SOON, || (of_pools(&weir, "app", "sv_idle") == 1).then_some(()));
}

// Databases of the wildcard.

#[test]
fn a_database_that_is_taken_off_the_list_is_found_while_somebody_is_in_it() {
    let cluster = Cluster::start();
    let wildcard = format!("[databases.\"*\"]\nhost = \"127.0.0.1\"\nport = {}", cluster.port());
    let others = || Weir::builder().database(&wildcard);
    let mut weir = others().database(&section("app", &cluster, "")).start();
    let mut busy = weir.client("app");
    assert_eq!(busy.run("BEGIN"), "C(BEGIN) Z(T)");
    reload(&mut weir, |_| others());
    let mut admin = weir.console().unwrap();
    assert_eq!(admin.run("RECONNECT app"), "C(RECONNECT) Z(I)", "without a word of there being nothing to do");
    admin.query("WAIT_CLOSE app");
    admin.expect_silence(Duration::from_millis(300));
    assert_eq!(busy.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(answer(&mut admin), "C(WAIT_CLOSE) Z(I)");
    assert_ne!(admin.run("RECONNECT nobody"), "C(RECONNECT) Z(I)", "of this one there is a word");
}

#[test]
fn what_the_wildcard_made_is_forgotten_whoever_rests_behind_a_reload() {
    let cluster = Cluster::start();
    let wildcard = format!("[databases.\"*\"]\nhost = \"127.0.0.1\"\nport = {}", cluster.port());
    let app = || {
        let builder = Weir::builder().general("autodb_idle_timeout = 1").cluster("app", &cluster, &[]);
        builder.database(&wildcard)
    };
    let mut weir = app().start();
    let mut idle = weir.client("app");
    assert_eq!(idle.value("SELECT 1"), "1");
    let mut brief = weir.client("template1");
    assert_eq!(brief.value("SELECT 1"), "1");
    reload(&mut weir, |_| app().database(&another(1)));
    let there = |weir: &Weir| weir.admin_table("SHOW DATABASES").iter().any(|row| row["name"] == "template1");
    assert!(there(&weir), "its client is there yet");
    assert_eq!(brief.value("SELECT 2"), "2");
    brief.terminate();
    eventually("nobody uses it", SOON, || (!there(&weir)).then_some(()));
    assert_eq!(idle.value("SELECT 3"), "3");
}

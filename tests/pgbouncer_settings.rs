//! Settings that PgBouncer's users rely on, at work: the wildcard, lists of hosts, limits of clients, names and logs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use common::cluster::Cluster;
use common::raw::RawClient;
use common::tools::Running;
use common::weir::{Builder, Weir};
use common::{eventually, install};

const SOON: Duration = Duration::from_secs(15);

/// A wildcard database over a cluster.
fn wildcard(cluster: &Cluster, general: &str) -> Builder {
    let section = format!("[databases.\"*\"]\nhost = \"127.0.0.1\"\nport = {}", cluster.port());
    Weir::builder().general(general).database(&section)
}

fn names(weir: &Weir) -> BTreeSet<String> {
    weir.admin("SHOW DATABASES").into_iter().map(|row| row[0].clone()).collect()
}

fn pid(client: &mut RawClient) -> String {
    client.value(common::SERVER_PID)
}

// The wildcard.

#[test]
fn wildcard_makes_databases_and_forgets_them() {
    let cluster = Cluster::start();
    let weir = wildcard(&cluster, "autodb_idle_timeout = \"1s\"").start();
    // One that does not exist, and then does: nothing is remembered of it.
    assert_eq!(weir.login("postgres", "fresh").connect().unwrap_err().code(), "3D000");
    assert!(!names(&weir).contains("fresh"));
    cluster.sql("CREATE DATABASE fresh");
    let mut client = weir.client("fresh");
    assert_eq!(client.value("SELECT current_database()"), "fresh");
    assert!(names(&weir).contains("fresh"));
    // Whoever is connected keeps it, however long it is idle.
    let server = pid(&mut client);
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(pid(&mut client), server);
    drop(client);
    eventually("it is forgotten", SOON, || (!names(&weir).contains("fresh")).then_some(()));
    let left = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'fresh'";
    eventually("its connections are closed", SOON, || (cluster.value(left) == "0").then_some(()));
    // Another time it is made anew.
    assert_eq!(weir.client("fresh").value("SELECT 1"), "1");
}

#[test]
fn wildcard_outlives_a_reload_that_leaves_it_alone() {
    let cluster = Cluster::start();
    cluster.sql("CREATE DATABASE listed");
    let mut weir = wildcard(&cluster, "").start();
    let mut client = weir.client("listed");
    let server = pid(&mut client);
    weir.hup();
    weir.wait_log("nothing changed");
    assert_eq!(pid(&mut client), server, "the pool is the same");
    // Listed by its name it is another database, with a user of its own.
    cluster.sql("CREATE USER own");
    let section = format!("[databases.listed]\nhost = \"127.0.0.1\"\nport = {}\nuser = \"own\"", cluster.port());
    weir.reconfigure(|builder| builder.database(&section));
    weir.hup();
    weir.wait_log("databases added: listed");
    assert_eq!(client.value("SELECT current_user"), "own");
    assert_ne!(pid(&mut client), server);
}

#[test]
fn what_was_removed_is_not_sought_in_the_wildcard() {
    let cluster = Cluster::start();
    cluster.sql("CREATE DATABASE other");
    let section = |name: &str| format!("[databases.{name}]\nhost = \"127.0.0.1\"\nport = {}", cluster.port());
    let named = format!("{}\ndbname = \"postgres\"", section("other"));
    let mut weir = Weir::builder().database(&section("\"*\"")).database(&named).start();
    let (mut idle, mut busy) = (weir.client("other"), weir.client("other"));
    assert_eq!(idle.value("SELECT current_database()"), "postgres");
    busy.run("BEGIN");
    assert_eq!(busy.value("SELECT current_database()"), "postgres");
    weir.reconfigure(|_| Weir::builder().database(&section("\"*\"")));
    weir.hup();
    weir.wait_log("databases removed: other");
    // It may end its transaction where it began it.
    assert_eq!(busy.value("SELECT current_database()"), "postgres");
    assert_eq!(busy.run("COMMIT"), "C(COMMIT) Z(I)");
    for mut client in [idle, busy] {
        client.query("SELECT current_database()");
        let told = client.read_to_end();
        let error = told.iter().find_map(|m| m.error()).unwrap_or_else(|| panic!("{told:?}"));
        assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "57P01"));
        assert_eq!(error.message, "database \"other\" was removed from the configuration");
    }
    // Whoever comes from now on asks for it by that name.
    assert_eq!(weir.client("other").value("SELECT current_database()"), "other");
}

#[test]
fn wildcard_obeys_pause() {
    let cluster = Cluster::start();
    let weir = wildcard(&cluster, "").start();
    weir.admin("PAUSE");
    std::thread::scope(|scope| {
        let late = scope.spawn(|| weir.client("postgres").value("SELECT 7"));
        std::thread::sleep(Duration::from_millis(300));
        assert!(!late.is_finished(), "a database that is made during PAUSE is paused");
        weir.admin("RESUME");
        assert_eq!(late.join().unwrap(), "7");
    });
    let mut client = weir.client("postgres");
    weir.admin("PAUSE postgres");
    client.query("SELECT 8");
    weir.admin("RESUME postgres");
    client.read_until_ready();
}

// Several hosts.

/// A cluster at three addresses, and a pgweir that knows it by two and a half.
fn hosts(list: &str, balance: &str) -> (Cluster, Weir) {
    let cluster = Cluster::with_config(&[("listen_addresses", "127.0.0.1,127.0.0.2")]);
    let section = format!(
        "[databases.app]\nhost = \"{list}\"\nport = {}\ndbname = \"postgres\"\nload_balance_hosts = \"{balance}\"",
        cluster.port()
    );
    let weir = Weir::builder().general("pool_mode = \"session\"").database(&section).start();
    (cluster, weir)
}

/// The addresses that `n` clients at once are led to.
fn addresses(weir: &Weir, n: usize) -> Vec<String> {
    let mut clients: Vec<_> = (0..n).map(|_| weir.client("app")).collect();
    clients.iter_mut().map(|client| client.value("SELECT host(inet_server_addr())")).collect()
}

#[test]
fn hosts_take_turns() {
    let (_cluster, weir) = hosts("127.0.0.1,127.0.0.2", "round-robin");
    let led = addresses(&weir, 4);
    assert_eq!(led.iter().filter(|address| *address == "127.0.0.2").count(), 2, "{led:?}");
    let shown = weir.admin_table("SHOW DATABASES").into_iter().find(|row| row["name"] == "app").unwrap();
    assert_eq!((shown["host"].as_str(), shown["load_balance_hosts"].as_str()), ("127.0.0.1,127.0.0.2", "round-robin"));
    // A cancel request goes where the statement runs.
    for _ in 0..2 {
        let mut client = weir.client("app");
        client.query("SELECT pg_sleep(60)");
        std::thread::sleep(Duration::from_millis(100));
        client.cancel();
        let told = client.read_until_ready();
        assert!(told.iter().any(|m| m.error().is_some_and(|e| e.code == "57014")), "{told:?}");
    }
}

#[test]
fn hosts_stay_when_they_are_told_to() {
    let (_cluster, weir) = hosts("127.0.0.2,127.0.0.1", "disable");
    assert_eq!(addresses(&weir, 4), ["127.0.0.2"; 4]);
}

#[test]
fn a_host_that_does_not_answer_is_passed_over() {
    for balance in ["round-robin", "disable"] {
        let (_cluster, weir) = hosts("127.0.0.9, 127.0.0.2", balance);
        assert_eq!(addresses(&weir, 3), ["127.0.0.2"; 3], "{balance}");
    }
}

#[test]
fn the_code_of_several_hosts_is_known() {
    let cluster = Cluster::with_config(&[("listen_addresses", "127.0.0.1,127.0.0.2")]);
    cluster.sql("CREATE FUNCTION neutral() RETURNS int LANGUAGE plpgsql AS $$BEGIN RETURN 1; END$$");
    let section = format!(
        "[databases.app]\nhost = \"127.0.0.9,127.0.0.2\"\nport = {}\ndbname = \"postgres\"\npool_size = 1",
        cluster.port()
    );
    let weir = Weir::builder().database(&section).start();
    let mut client = weir.client("app");
    let resets = || {
        let (_, text) = weir.http_get("/metrics");
        let lines = text.lines().filter(|line| line.starts_with("pgweir_pool_resets_total{"));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>()
    };
    eventually("the database's code is known, so that nothing is reset", SOON, || {
        let before = resets();
        assert_eq!(client.value("SELECT neutral()"), "1");
        assert_eq!(client.value("SELECT 1"), "1");
        (resets() == before).then_some(())
    });
}

// What clients begin with.

#[test]
fn options_are_ignored_where_they_are_listed() {
    let cluster = Cluster::start();
    let start = |ignored: &str| {
        let general = format!("ignore_startup_parameters = \"{ignored}\"\ntrack_extra_parameters = \"search_path\"");
        wildcard(&cluster, &general).start()
    };
    let options = "-c work_mem=5MB -c search_path=mine -c timezone=Asia/Tokyo";
    let values = |weir: &Weir| {
        let mut client = weir.login("postgres", "postgres").param("options", options).connect().unwrap();
        ["work_mem", "search_path", "timezone"].map(|name| client.value(&format!("SHOW {name}")))
    };
    let weir = start("extra_float_digits,options");
    let default = cluster.value("SHOW work_mem");
    assert_eq!(values(&weir), [default.as_str(), "mine", "Asia/Tokyo"], "but for what is tracked");
    let odd = |weir: &Weir| weir.login("postgres", "postgres").param("options", "-B 100").connect().map(drop);
    odd(&weir).unwrap();
    drop(weir);
    let weir = start("extra_float_digits");
    assert_eq!(values(&weir), ["5MB", "mine", "Asia/Tokyo"]);
    assert_eq!(odd(&weir).unwrap_err().code(), "22023");
}

// Clients.

#[test]
fn clients_per_database_and_per_user() {
    let cluster = Cluster::start();
    cluster.sql("CREATE USER one; CREATE USER two");
    let weir = wildcard(&cluster, "max_db_client_connections = 2\nmax_user_client_connections = 3")
        .users("\"one\" \"\"\n\"two\" \"\"")
        .database("[users.two]\nmax_user_client_connections = 1")
        .database(&format!(
            "[databases.small]\nhost = \"127.0.0.1\"\nport = {}\ndbname = \"postgres\"\nmax_db_client_connections = 1",
            cluster.port()
        ))
        .start();
    let refused = |user: &str, database: &str, setting: &str| {
        let error = weir.login(user, database).connect().unwrap_err();
        assert_eq!(error.code(), "53300");
        assert!(format!("{error:?}").contains(setting), "{error:?}");
    };
    let first = weir.client("postgres");
    let _second = weir.login("one", "postgres").connect().unwrap();
    refused("one", "postgres", "max_db_client_connections");
    let _third = weir.login("two", "template1").connect().unwrap();
    refused("two", "template1", "max_user_client_connections");
    // A database may have a number of its own, of which the other knows nothing.
    let _only = weir.login("one", "small").connect().unwrap();
    refused("postgres", "small", "max_db_client_connections");
    // Who leaves makes room; who was refused took none.
    drop(first);
    eventually("room", SOON, || weir.login("one", "postgres").connect().ok());
    let shown = weir.admin_table("SHOW USERS").into_iter().find(|row| row["name"] == "two").unwrap();
    assert_eq!(shown["max_user_client_connections"], "1");
    let shown = weir.admin_table("SHOW DATABASES").into_iter().find(|row| row["name"] == "postgres").unwrap();
    assert_eq!(shown["max_client_connections"], "2");
}

#[test]
fn names_carry_the_address() {
    let cluster = Cluster::start();
    let weir = wildcard(&cluster, "application_name_add_host = true").start();
    let mut named = weir.login("postgres", "postgres").param("application_name", "shop").connect().unwrap();
    let name = named.value("SHOW application_name");
    assert!(name.starts_with("shop - 127.0.0.1:"), "{name}");
    let long = "n".repeat(62);
    let mut long = weir.login("postgres", "postgres").param("application_name", &long).connect().unwrap();
    let name = long.value("SHOW application_name");
    assert!(name.len() == 63 && name.contains("nnn - 127.0.0.1:"), "{name}");
    let name = weir.client("postgres").value("SHOW application_name");
    assert!(name.starts_with("app - 127.0.0.1:"), "{name}");
    named.query("SET application_name = 'mine'");
    named.read_until_ready();
    assert_eq!(named.value("SHOW application_name"), "mine", "only the start is changed");
}

// Servers.

#[test]
fn a_connect_query_may_fail() {
    let cluster = Cluster::start();
    let section = |query: &str| {
        format!(
            "[databases.a]\nhost = \"127.0.0.1\"\nport = {}\ndbname = \"postgres\"\nconnect_query = \"{query}\"",
            cluster.port()
        )
    };
    let weir = Weir::builder().database(&section("nonsense")).start();
    assert_eq!(weir.client("a").value("SELECT 1"), "1");
    weir.wait_log("connect_query failed");
    let weir = Weir::builder().database(&section("SET work_mem = '3MB'")).start();
    assert_eq!(weir.client("a").value("SHOW work_mem"), "3MB");
}

/// What connect_query sets is the connection's own: others may set and reset what they like.
#[test]
fn what_connect_query_sets_is_the_connections_own() {
    const QUERY: &str = "SET TimeZone = 'Asia/Tokyo'; SET search_path = app; SET statement_timeout = '50s'; \
                         SET app.who = 'it''s'; SET ROLE restricted";
    const ALL: &str = "SELECT concat_ws('|', current_setting('search_path'), current_setting('statement_timeout'), \
                       current_setting('app.who'), current_user, current_setting('TimeZone'))";
    const UNREPORTED: &str = "SELECT concat_ws('|', current_setting('search_path'), current_setting('statement_timeout'), \
                              current_setting('app.who'), current_user)";
    let cluster = Cluster::start();
    cluster.sql("CREATE ROLE restricted; GRANT restricted TO postgres; CREATE SCHEMA app");
    let weir = Weir::builder()
        .database(&format!(
            "[databases.a]\nhost = \"127.0.0.1\"\nport = {}\ndbname = \"postgres\"\npool_size = 1\nconnect_query = \"{QUERY}\"",
            cluster.port()
        ))
        .start();
    let (mut a, mut b) = (weir.client("a"), weir.client("a"));
    assert_eq!(a.params["TimeZone"], "Asia/Tokyo", "the client is told at its login");
    let own = "app|50s|it's|restricted";
    let all = format!("{own}|Asia/Tokyo");
    assert_eq!((a.value(ALL), b.value(ALL)), (all.clone(), all.clone()));
    let run = |client: &mut RawClient, sql: &str| {
        let answer = client.run(sql);
        assert!(!answer.contains("E("), "{sql}: {answer}");
    };
    for reset in [
        "RESET ALL",
        "RESET search_path; RESET app.who",
        "DISCARD ALL",
        "BEGIN; RESET search_path; RESET app.who; COMMIT",
    ] {
        run(&mut a, "SET search_path = x; SET TimeZone = 'Europe/Paris'; SET app.who = 'a'");
        for _ in 0..2 {
            assert_eq!(b.value(ALL), all, "before {reset}");
            assert_eq!(a.value(ALL), "x|50s|a|restricted|Europe/Paris");
        }
        run(&mut a, reset);
        assert_eq!(b.value(ALL), all, "{reset}");
        assert_eq!(a.value(UNREPORTED), own, "{reset}");
    }
    run(&mut a, "RESET ROLE");
    assert_eq!(b.value(ALL), all, "nobody else gets the rights of the login");
    // A reset of the server leads there as well.
    run(&mut a, "CREATE TEMP TABLE gone (i int)");
    drop(a);
    assert_eq!(b.value(ALL), all);
    assert_eq!(b.value("SELECT to_regclass('pg_temp.gone') IS NULL"), "t");
}

#[test]
fn without_a_reset_query_what_is_left_behind_ends_with_its_connection() {
    let cluster = Cluster::start();
    let weir = wildcard(&cluster, "server_reset_query = \"\"\ndefault_pool_size = 1").start();
    let mut clean = weir.client("postgres");
    let server = pid(&mut clean);
    drop(clean);
    let mut dirty = weir.client("postgres");
    assert_eq!(pid(&mut dirty), server, "nothing was left behind");
    dirty.query("CREATE TEMP TABLE left_behind ()");
    dirty.read_until_ready();
    drop(dirty);
    let mut next = weir.client("postgres");
    assert_eq!(next.value("SELECT to_regclass('left_behind') IS NULL"), "t");
    assert_ne!(pid(&mut next), server);
}

#[test]
fn a_connection_for_one_use() {
    let cluster = Cluster::start();
    let section = format!(
        "[databases.once]\nhost = \"127.0.0.1\"\nport = {}\ndbname = \"postgres\"\nserver_lifetime = \"1us\"",
        cluster.port()
    );
    let weir = Weir::builder().database(&section).start();
    let mut client = weir.client("once");
    assert_ne!(pid(&mut client), pid(&mut client));
}

// The process.

#[test]
fn two_processes_on_one_port() {
    let cluster = Cluster::start();
    let weir = wildcard(&cluster, "so_reuseport = true").start();
    let file = |name: &str| weir.dir().join(name).display().to_string();
    let text = fs::read_to_string(weir.config_path()).unwrap().replace("http_listen", "logfile = \"log.2\"\n#");
    fs::write(file("second.toml"), &text).unwrap();
    let second = Running::start(Command::new(env!("CARGO_BIN_EXE_pgweir")).arg("-q").arg(file("second.toml")));
    let log = || fs::read_to_string(file("log.2")).unwrap_or_default();
    eventually("the second one is ready", SOON, || log().contains("pgweir is ready").then_some(()));
    // The system spreads the connections: both get some.
    eventually("both serve", SOON, || {
        assert_eq!(weir.client("postgres").value("SELECT 1"), "1");
        (log().contains("client connected") && weir.log_text().contains("client connected")).then_some(())
    });
    drop(second);
    // Without the setting the port is one's own.
    fs::write(file("third.toml"), text.replace("so_reuseport = true", "")).unwrap();
    let third = Running::start(Command::new(env!("CARGO_BIN_EXE_pgweir")).arg(file("third.toml"))).wait(SOON);
    assert!(!third.status.success() && third.stderr.contains("in use"), "{third:?}");
}

#[test]
fn the_group_of_the_socket() {
    let Some(account) = install::account() else { return };
    let group = nix::unistd::Group::from_gid(account.gid.into()).unwrap().unwrap().name;
    let dir = tempfile::tempdir().unwrap();
    let general =
        format!("unix_socket_dir = {:?}\nunix_socket_group = {group:?}\nunix_socket_mode = \"0770\"", dir.path());
    let weir = Weir::builder().general(&general).start();
    let found = fs::metadata(dir.path().join(format!(".s.PGSQL.{}", weir.port()))).unwrap();
    assert_eq!((found.gid(), found.mode() & 0o777), (account.gid, 0o770));
    let unknown = Weir::builder().general(&general.replace(&group, "no-such-group")).try_start().err().unwrap();
    assert!(unknown.contains("there is no group \"no-such-group\""), "{unknown}");
}

#[test]
fn what_the_log_is_told() {
    let cluster = Cluster::start();
    let weir = wildcard(&cluster, "stats_period = 1").start();
    assert_eq!(weir.login("nobody", "postgres").connect().unwrap_err().code(), "28000");
    weir.wait_log("login failed");
    weir.wait_log("stats: 0 xacts/s");
    // The first line is of the first period.
    let busy = wildcard(&cluster, "stats_period = 3").start();
    let mut client = busy.client("postgres");
    for _ in 0..40 {
        client.value("SELECT 1");
    }
    busy.wait_log("stats: ");
    assert!(!busy.log_text().contains("stats: 0 xacts/s"), "{}", busy.log_text());
    let quiet = wildcard(&cluster, "stats_period = 1\nlog_stats = 0\nlog_pooler_errors = 0").start();
    assert_eq!(quiet.login("nobody", "postgres").connect().unwrap_err().code(), "28000");
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(quiet.client("postgres").value("SELECT 1"), "1");
    quiet.wait_log("client connected");
    let log = quiet.log_text();
    assert!(!log.contains("login failed") && !log.contains("stats:"), "{log}");
}

#[test]
fn the_systems_log_is_told_too() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("log");
    let settings = |on: bool| {
        format!("syslog = {on}\nsyslog_facility = \"local3\"\nsyslog_ident = \"weir\"\nsyslog_socket = {socket:?}")
    };
    let mut weir = wildcard(&cluster, &settings(true)).start();
    // The daemon may come later.
    weir.wait_log("syslog cannot be reached");
    let daemon = UnixDatagram::bind(&socket).unwrap();
    daemon.set_read_timeout(Some(SOON)).unwrap();
    let hear = |what: &str| {
        eventually(what, SOON, || {
            let mut bytes = [0; 8192];
            let n = daemon.recv(&mut bytes).unwrap();
            let line = String::from_utf8_lossy(&bytes[..n]).into_owned();
            line.contains(what).then_some(line)
        })
    };
    let _client = weir.client("postgres");
    hear("lines that syslog did not take");
    let line = hear("client connected");
    // local3 is 19, info 6.
    assert!(line.starts_with("<158>weir[") && line.contains("]: INFO pgweir::"), "{line}");
    weir.login("nobody", "postgres").connect().unwrap_err();
    assert!(hear("login failed").starts_with("<15"));
    weir.reconfigure(|_| wildcard(&cluster, &settings(false)));
    weir.hup();
    weir.wait_log("configuration reloaded");
    daemon.set_nonblocking(true).unwrap();
    while daemon.recv(&mut [0; 1]).is_ok() {}
    let told = || weir.log_text().matches("client connected").count();
    let before = told();
    let _another = weir.client("postgres");
    eventually("the log is told", SOON, || (told() > before).then_some(()));
    assert!(daemon.recv(&mut [0; 1]).is_err(), "a reload ends it");
    // And the console begins it again.
    weir.admin("SET syslog = 1");
    daemon.set_nonblocking(false).unwrap();
    let _third = weir.client("postgres");
    hear("client connected");
}

#[test]
fn the_reserve_serves_those_who_wait_long() {
    let cluster = Cluster::start();
    let general =
        "default_pool_size = 1\nreserve_pool_size = 1\nreserve_pool_timeout = \"500ms\"\npool_mode = \"session\"";
    let weir = wildcard(&cluster, general).start();
    let mut first = weir.client("postgres");
    let server = pid(&mut first);
    let mut second = weir.client("postgres");
    assert_ne!(pid(&mut second), server, "a connection of the reserve");
    // There is no third one.
    let mut third = weir.client("postgres");
    third.query("SELECT 3");
    // It has waited for longer than the one that got a connection of the reserve had to.
    let pool = eventually("it waits for long", Duration::from_secs(20), || {
        let pool = weir.admin_table("SHOW POOLS").into_iter().find(|row| row["database"] == "postgres").unwrap();
        (pool["maxwait"].parse::<u64>().unwrap() >= 2).then_some(pool)
    });
    assert_eq!((pool["sv_active"].as_str(), pool["cl_waiting"].as_str()), ("2", "1"));
    drop(first);
    assert!(third.read_until_ready().iter().any(|m| m.row().is_some()));
}

/// A database with a user of its own has one pool, of which all its clients' statements are run, whoever they are.
#[test]
fn clients_of_a_database_with_its_own_user_share_its_pool() {
    let cluster = Cluster::start();
    cluster.sql("CREATE USER svc; CREATE USER one; CREATE USER two");
    let section = format!(
        "[databases.app]\nhost = \"127.0.0.1\"\nport = {}\ndbname = \"postgres\"\nuser = \"svc\"\npool_size = 2",
        cluster.port()
    );
    let users = "\"one\" \"\"\n\"two\" \"\"";
    let weir = Weir::builder().database(&section).database("[users.svc]\nreserve_pool_size = 0").users(users).start();
    let mut clients: Vec<_> =
        ["one", "two", "postgres"].map(|user| weir.login(user, "app").connect().unwrap()).into_iter().collect();
    for client in &mut clients[..2] {
        assert_eq!(client.value("SELECT current_user"), "svc");
        assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
        client.value("SELECT 1");
    }
    // Two connections, and both are taken.
    clients[2].query("SELECT 3");
    clients[2].expect_silence(Duration::from_millis(300));
    let pools = weir.admin_table("SHOW POOLS");
    let pools: Vec<_> = pools.iter().filter(|row| row["database"] == "app").collect();
    assert_eq!(pools.len(), 1);
    let told = ["user", "cl_active", "cl_waiting", "sv_active"].map(|column| pools[0][column].as_str());
    assert_eq!(told, ["svc", "2", "1", "2"]);
    // The clients are still who they are.
    let mut users: Vec<_> =
        weir.admin_table("SHOW CLIENTS").into_iter().filter(|row| row["database"] == "app").collect();
    users.sort_by_key(|row| row["user"].clone());
    assert_eq!(users.iter().map(|row| row["user"].as_str()).collect::<Vec<_>>(), ["one", "postgres", "two"]);
    clients[0].run("COMMIT");
    clients[2].read_until_ready();
    assert_eq!(cluster.value("SELECT count(*) FROM pg_stat_activity WHERE usename = 'svc'"), "2");
}

/// `min_pool_size` needs nobody's login where the database has a user of its own, and elsewhere as long as somebody is connected.
#[test]
fn pools_are_kept_warm_as_long_as_pgbouncer_would() {
    let cluster = Cluster::start();
    cluster.sql("CREATE USER svc PASSWORD 's'; CREATE USER one");
    cluster.set_hba("host all svc 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust");
    let host = format!("host = \"127.0.0.1\"\nport = {}\ndbname = \"postgres\"", cluster.port());
    let sections = format!(
        "[databases.own]\n{host}\nuser = \"svc\"\nmin_pool_size = 2\n[databases.app]\n{host}\nmin_pool_size = 3"
    );
    let users = "\"svc\" \"s\"\n\"one\" \"\"";
    let weir = Weir::builder().general("server_idle_timeout = \"1s\"").database(&sections).users(users).start();
    let of_pools = "FROM pg_stat_activity WHERE application_name <> 'pgweir probe' AND usename";
    let of = |user: &str| cluster.value(&format!("SELECT count(*) {of_pools} = '{user}'"));
    eventually("two without any client", SOON, || (of("svc") == "2").then_some(()));
    assert_eq!(of("one"), "0");
    let one = weir.login("one", "app").connect().unwrap();
    eventually("three for who is connected", SOON, || (of("one") == "3").then_some(()));
    // Rest does not end them: they are the same ones.
    let pids = || cluster.sql(&format!("SELECT pid {of_pools} IN ('svc', 'one') ORDER BY pid"));
    let before = pids();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(pids(), before);
    drop(one);
    eventually("nobody is connected any more", SOON, || (of("one") == "0").then_some(()));
    assert_eq!(of("svc"), "2");
}

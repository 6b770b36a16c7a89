//! Limits on time and on connections are kept, by all and by each, and who passes one learns which it was.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::time::Duration;

use common::cluster::Cluster;
use common::eventually;
use common::raw::RawClient;
use common::weir::{Builder, Weir};
use common::wire::{ServerError, show};
use pgweir::clock;

const SOON: Duration = Duration::from_secs(15);
/// Longer than any limit of these tests.
const LONG: Duration = Duration::from_millis(1500);

/// pgweir with the database `app` over `size` connections to this cluster.
fn over(cluster: &Cluster, size: u32) -> Builder {
    let port = cluster.port();
    let database = format!("[databases.app]\nprimary = \"postgres://127.0.0.1:{port}/postgres\"\npool_size = {size}");
    Weir::builder().database(&database)
}

/// The one error that ended the session.
fn farewell(client: &mut RawClient) -> ServerError {
    let messages = client.read_to_end();
    let errors: Vec<ServerError> = messages.iter().filter_map(|m| m.error()).collect();
    assert_eq!(errors.len(), 1, "{}", show(&messages));
    errors.into_iter().next().unwrap()
}

/// The session is ended by that error, which names the setting.
fn ends(client: &mut RawClient, code: &str, setting: &str) {
    let error = farewell(client);
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", code), "{error}");
    assert!(error.fields[&'D'].starts_with(setting), "{error}");
}

/// What sleeps on the server in the name of pgweir.
fn sleepers(cluster: &Cluster) -> String {
    cluster.value("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%'")
}

#[test]
fn a_statement_that_takes_too_long_is_cancelled_on_its_server() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).general("query_timeout = \"500ms\"").start();
    let mut client = weir.client("app");
    let begun = clock::now();
    client.query("SELECT pg_sleep(60)");
    ends(&mut client, "57014", "query_timeout");
    assert!(begun.elapsed() >= Duration::from_millis(500));
    eventually("the server was told", SOON, || (sleepers(&cluster) == "0").then_some(()));
    // The only connection is to be had again.
    let mut client = weir.client("app");
    assert_eq!(client.value("SELECT 1"), "1");
    // By the extended protocol, in a transaction.
    client.run("BEGIN");
    client.parse("", "SELECT pg_sleep(60)", &[]);
    client.bind("", "", &[]);
    client.execute("", 0);
    client.sync();
    ends(&mut client, "57014", "query_timeout");
    assert_eq!(weir.client("app").value("SELECT 2"), "2");
}

#[test]
fn who_asks_nothing_has_no_query_timeout() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 2).general("query_timeout = \"2s\"").start();
    let (mut resting, mut open) = (weir.client("app"), weir.client("app"));
    assert_eq!(resting.value("SELECT 1"), "1");
    open.run("BEGIN");
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(open.value("SELECT 2"), "2");
    assert_eq!(open.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(resting.value("SELECT 3"), "3");
    // Many short statements are not a long one, in a pipeline neither. (Each is much shorter than the limit, and all of them are longer.)
    for _ in 0..6 {
        resting.query("SELECT pg_sleep(0.4)");
    }
    for _ in 0..6 {
        assert!(show(&resting.read_until_ready()).ends_with("Z(I)"));
    }
    // Nor is data that keeps coming.
    resting.run("CREATE TABLE copied (a int)");
    resting.query("COPY copied FROM STDIN");
    resting.read_until(b'G');
    for _ in 0..6 {
        resting.copy_data(b"1\n");
        std::thread::sleep(Duration::from_millis(400));
    }
    resting.copy_done();
    assert_eq!(show(&resting.read_until_ready()), "C(COPY 6) Z(I)");
}

#[test]
fn a_statement_that_gets_no_server_in_its_time_fails_and_the_session_goes_on() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).general("query_timeout = \"500ms\"").start();
    let (mut holder, mut waiter) = (weir.client("app"), weir.client("app"));
    holder.run("BEGIN");
    let error = waiter.rows("SELECT 1").unwrap_err();
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("ERROR", "57014"));
    assert!(error.message.contains("query_timeout"), "{error}");
    holder.run("COMMIT");
    assert_eq!(waiter.value("SELECT 1"), "1");
}

#[test]
fn transactions_that_last_or_rest_too_long_end() {
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE kept (a int)");
    let weir = over(&cluster, 1).general("transaction_timeout = \"1s\"\nidle_transaction_timeout = \"500ms\"").start();
    let mut resting = weir.client("app");
    let backend = resting.value(common::SERVER_PID);
    resting.run("BEGIN");
    resting.run("INSERT INTO kept VALUES (1)");
    ends(&mut resting, "25P03", "idle_transaction_timeout");
    let mut busy = weir.client("app");
    assert_eq!(busy.value(common::SERVER_PID), backend, "what rested is rolled back and its server lent again");
    busy.run("BEGIN");
    busy.run("INSERT INTO kept VALUES (2)");
    let begun = clock::now();
    while begun.elapsed() < Duration::from_millis(700) {
        busy.value("SELECT 1");
    }
    busy.query("SELECT pg_sleep(60)");
    ends(&mut busy, "25P04", "transaction_timeout");
    eventually("the server was told", SOON, || (sleepers(&cluster) == "0").then_some(()));
    // Many transactions of one client are not a long one.
    let mut client = weir.client("app");
    let begun = clock::now();
    while begun.elapsed() < LONG {
        client.run("BEGIN");
        client.run("COMMIT");
    }
    assert_eq!(client.value("SELECT count(*) FROM kept"), "0");
}

#[test]
fn a_client_that_asks_for_nothing_is_closed() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 2).general("client_idle_timeout = \"800ms\"").start();
    let mut never = weir.client("app");
    ends(&mut never, "57P05", "client_idle_timeout");
    let mut client = weir.client("app");
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(400));
        assert_eq!(client.value("SELECT 1"), "1");
    }
    // A transaction is no rest, nor is a statement that takes its time.
    client.run("BEGIN");
    client.expect_silence(LONG);
    assert_eq!(
        show(&{
            client.query("SELECT pg_sleep(1.2)");
            client.read_until_ready()
        }),
        "T(pg_sleep:2278) D() C(SELECT 1) Z(T)"
    );
    client.run("COMMIT");
    // Pieces of a message are no request.
    client.send_bytes(b"Q\0");
    ends(&mut client, "57P05", "client_idle_timeout");
}

#[test]
fn in_session_mode_as_well() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).general("client_idle_timeout = \"600ms\"\npool_mode = \"session\"").start();
    let mut client = weir.client("app");
    client.run("SET work_mem = '1MB'");
    ends(&mut client, "57P05", "client_idle_timeout");
    assert_ne!(weir.client("app").value("SHOW work_mem"), "1MB");
}

#[test]
fn users_and_databases_have_limits_of_their_own() {
    let cluster = Cluster::start();
    cluster.sql("CREATE ROLE hasty LOGIN; CREATE ROLE patient LOGIN");
    let users = "[users.hasty]\nquery_timeout = \"400ms\"\ntransaction_timeout = \"10s\"\nquery_wait_timeout = \"300ms\"\n\
                 idle_transaction_timeout = \"400ms\"\n[users.patient]\nquery_timeout = 0\nclient_idle_timeout = 0";
    let weir = over(&cluster, 1)
        .database("query_wait_timeout = \"200ms\"")
        .database(users)
        .users("\"hasty\" \"\"\n\"patient\" \"\"")
        .general("query_timeout = \"1s\"\nclient_idle_timeout = \"1s\"")
        .start();
    let connect = |user: &str| weir.login(user, "app").connect().unwrap();
    let mut patient = connect("patient");
    patient.query("SELECT pg_sleep(1.3)");
    assert!(show(&patient.read_until_ready()).ends_with("Z(I)"));
    patient.expect_silence(LONG);
    let mut hasty = connect("hasty");
    hasty.query("SELECT pg_sleep(60)");
    ends(&mut hasty, "57014", "query_timeout is 0.4 s");
    let mut hasty = connect("hasty");
    hasty.run("BEGIN");
    let mut other = connect("hasty");
    let error = other.rows("SELECT 1").unwrap_err();
    assert!(error.message.contains("0.3 s (query_wait_timeout)"), "{error}");
    ends(&mut hasty, "25P03", "idle_transaction_timeout is 0.4 s");
    let (mut holder, mut waiter) = (weir.client("app"), weir.client("app"));
    holder.run("BEGIN");
    let error = waiter.rows("SELECT 1").unwrap_err();
    assert!(error.message.contains("0.2 s (query_wait_timeout)"), "{error}");
    holder.query("SELECT pg_sleep(60)");
    ends(&mut holder, "57014", "query_timeout is 1 s");
}

#[test]
fn a_reload_brings_limits_to_those_who_are_there() {
    let cluster = Cluster::start();
    let mut weir = over(&cluster, 3).start();
    let (mut resting, mut sleeping, mut open) = (weir.client("app"), weir.client("app"), weir.client("app"));
    resting.value("SELECT 1");
    sleeping.query("SELECT pg_sleep(60)");
    open.run("BEGIN");
    eventually("it sleeps", SOON, || (sleepers(&cluster) == "1").then_some(()));
    let lines = "query_timeout = \"300ms\"\nidle_transaction_timeout = \"300ms\"\nclient_idle_timeout = \"300ms\"";
    weir.reconfigure(|builder| builder.general(lines));
    weir.hup();
    ends(&mut resting, "57P05", "client_idle_timeout");
    ends(&mut sleeping, "57014", "query_timeout");
    ends(&mut open, "25P03", "idle_transaction_timeout");
}

/// pgweir with two databases on this cluster, and users who may use both.
fn shared(cluster: &Cluster, general: &str, first: &str, users: &str) -> Weir {
    cluster.sql("CREATE ROLE one LOGIN; CREATE ROLE two LOGIN");
    let url = format!("primary = \"postgres://127.0.0.1:{}/postgres\"", cluster.port());
    let databases = format!("[databases.app]\n{url}\n{first}\n[databases.other]\n{url}\n{users}");
    Weir::builder().database(&databases).general(general).users("\"one\" \"\"\n\"two\" \"\"").start()
}

/// Connections of pgweir to the cluster.
fn connections(cluster: &Cluster) -> String {
    cluster.value(
        "SELECT count(*) FROM pg_stat_activity WHERE client_addr IS NOT NULL AND application_name NOT LIKE 'pgweir %'",
    )
}

#[test]
fn a_limit_per_database_is_shared_by_its_users() {
    let cluster = Cluster::start();
    let weir = shared(&cluster, "max_db_connections = 7\nquery_wait_timeout = \"500ms\"", "max_db_connections = 2", "");
    let connect = |user: &str, database: &str| weir.login(user, database).connect().unwrap();
    let (mut a, mut b, mut c) = (connect("one", "app"), connect("two", "app"), connect("two", "app"));
    a.run("BEGIN");
    b.run("BEGIN");
    let error = c.rows("SELECT 1").unwrap_err();
    assert_eq!(error.code, "53300");
    // Another database has a limit of its own.
    assert_eq!(connect("two", "other").value("SELECT 1"), "1");
    // Who waits gets the room that a connection of another pool leaves.
    c.query("SELECT 3");
    a.run("COMMIT");
    assert_eq!(show(&c.read_until_ready()), "T(?column?:23) D(3) C(SELECT 1) Z(I)");
    b.run("COMMIT");
    // Both rest now, and are the second user's: the first's statement closes one.
    assert_eq!(a.value("SELECT 4"), "4");
    let shown = weir.admin_table("SHOW DATABASES");
    let app = shown.iter().find(|row| row["name"] == "app").unwrap();
    assert_eq!((app["max_connections"].as_str(), app["current_connections"].as_str()), ("2", "2"));
    assert_eq!(shown.iter().find(|row| row["name"] == "other").unwrap()["max_connections"], "7");
    eventually("the connections are what the limit allows", SOON, || (connections(&cluster) == "3").then_some(()));
}

#[test]
fn a_limit_per_user_is_shared_by_the_databases() {
    let cluster = Cluster::start();
    let general = "max_user_connections = 1\nquery_wait_timeout = \"500ms\"";
    let weir = shared(&cluster, general, "", "[users.two]\nmax_user_connections = 2");
    let connect = |user: &str, database: &str| weir.login(user, database).connect().unwrap();
    let (mut a, mut b) = (connect("one", "app"), connect("one", "other"));
    // What rests in one database makes room for the other, back and forth.
    for _ in 0..3 {
        assert_eq!(a.value("SELECT 1"), "1");
        assert_eq!(b.value("SELECT 2"), "2");
    }
    a.run("BEGIN");
    assert_eq!(b.rows("SELECT 1").unwrap_err().code, "53300");
    let (mut c, mut d, mut e) = (connect("two", "app"), connect("two", "other"), connect("two", "app"));
    c.run("BEGIN");
    d.run("BEGIN");
    assert_eq!(e.rows("SELECT 1").unwrap_err().code, "53300");
    a.run("COMMIT");
    assert_eq!(b.value("SELECT 1"), "1");
}

#[test]
fn many_clients_on_all_workers_never_pass_a_shared_limit() {
    let cluster = Cluster::start();
    let weir = shared(&cluster, "workers = 4", "max_db_connections = 3", "");
    std::thread::scope(|scope| {
        for number in 0..24 {
            let weir = &weir;
            scope.spawn(move || {
                let user = ["one", "two", "postgres"][number % 3];
                let mut client = weir.login(user, "app").connect().unwrap();
                for turn in 0..10 {
                    assert_eq!(client.value(&format!("SELECT {turn} FROM pg_sleep(0.002)")), turn.to_string());
                }
            });
        }
        let mut console = weir.console().unwrap();
        for _ in 0..50 {
            console.query("SHOW DATABASES");
            let messages = console.read_until_ready();
            let columns = messages.iter().find_map(|m| m.columns()).unwrap();
            let at = columns.iter().position(|name| name == "current_connections").unwrap();
            for row in messages.iter().filter_map(|m| m.row()).filter(|row| row[0].as_deref() == Some("app")) {
                let current: usize = row[at].clone().unwrap().parse().unwrap();
                assert!(current <= 3, "{current}");
            }
        }
    });
}

#[test]
fn pgbouncers_file_sets_them() {
    let cluster = Cluster::start();
    let ini = format!(
        "[databases]\napp = host=127.0.0.1 port={} dbname=postgres query_wait_timeout=7\n[users]\n\
         hasty = query_timeout=0.4 client_idle_timeout=0\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = PORT\n\
         unix_socket_dir =\nauth_type = trust\nauth_file = DIR/userlist.txt\nadmin_users = admin\n\
         query_timeout = 3\ntransaction_timeout = 4\nclient_idle_timeout = 1.5\n",
        cluster.port()
    );
    cluster.sql("CREATE ROLE hasty LOGIN");
    let weir = Weir::builder().ini(&ini).users("\"hasty\" \"\"").start();
    let mut hasty = weir.login("hasty", "app").connect().unwrap();
    hasty.query("SELECT pg_sleep(60)");
    ends(&mut hasty, "57014", "query_timeout is 0.4 s");
    // 0 of a user is PgBouncer's "as above".
    ends(&mut weir.login("hasty", "app").connect().unwrap(), "57P05", "client_idle_timeout is 1.5 s");
    let shown = weir.admin("SHOW CONFIG");
    let value = |name: &str| shown.iter().find(|row| row[0] == name).unwrap()[1].clone();
    assert_eq!(["query_timeout", "transaction_timeout", "client_idle_timeout"].map(value), ["3", "4", "1.5"]);
}

/// A number of SHOW POOLS.
fn pool_number(weir: &Weir, column: &str) -> u64 {
    let mut console = weir.console().unwrap();
    console.query("SHOW POOLS");
    let messages = console.read_until_ready();
    let names = messages.iter().find_map(|m| m.columns()).unwrap();
    let at = names.iter().position(|name| name == column).unwrap();
    let rows = messages.iter().filter_map(|m| m.row()).filter(|row| row[0].as_deref() == Some("app"));
    rows.map(|row| row[at].as_deref().unwrap_or("0").parse::<u64>().unwrap()).sum()
}

#[test]
fn who_waits_long_for_a_server_is_told_so() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).general("query_wait_notify = \"300ms\"\nquery_wait_timeout = \"2s\"").start();
    let (mut holder, mut other) = (weir.client("app"), weir.client("app"));
    holder.run("BEGIN");
    other.query("SELECT 7");
    let notice = other.read_message();
    assert_eq!(notice.tag, b'N', "{}", show(std::slice::from_ref(&notice)));
    let told = notice.error().unwrap();
    assert_eq!((told.severity.as_str(), told.code.as_str()), ("NOTICE", "00000"));
    assert!(told.message.contains("all server connections are in use"), "{told}");
    assert_eq!(told.fields[&'D'], "1 client waits in this pool; 1 connection is in use.");
    holder.run("COMMIT");
    assert!(show(&other.read_until_ready()).ends_with("D(7) C(SELECT 1) Z(I)"));
    // It is not said twice, and the limit stays what it is.
    holder.run("BEGIN");
    let begun = clock::now();
    assert_eq!(other.run("SELECT 8"), "N(NOTICE 00000) E(53300) Z(I)");
    assert!(begun.elapsed() >= Duration::from_secs(2) && begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn connections_that_rested_are_asked_before_they_are_lent() {
    let cluster = Cluster::start();
    let settings = "server_check_delay = \"700ms\"\nserver_connect_timeout = \"1s\"\nworkers = 1";
    let weir = over(&cluster, 2).general(settings).start();
    let mut client = weir.client("app");
    let pid: u32 = client.value(common::SERVER_PID).parse().unwrap();
    eventually("it has rested", SOON, || (pool_number(&weir, "sv_used") == 1).then_some(()));
    assert_eq!(pool_number(&weir, "sv_idle"), 0);
    // It answers: the same connection is used.
    assert_eq!(client.value(common::SERVER_PID), pid.to_string());
    // It does not answer any more: another is, and the client notices no more than the wait.
    eventually("it has rested", SOON, || (pool_number(&weir, "sv_used") == 1).then_some(()));
    common::guard::freeze(pid);
    client.query(common::SERVER_PID);
    eventually("it is tested", SOON, || (pool_number(&weir, "sv_tested") == 1).then_some(()));
    let answer = client.read_until_ready();
    assert!(show(&answer).ends_with("C(SELECT 1) Z(I)"), "{}", show(&answer));
    let row = answer.iter().find_map(|m| m.row()).unwrap();
    assert_ne!(row[0].as_deref(), Some(pid.to_string().as_str()));
    common::guard::thaw_tree(pid);
}

#[test]
fn the_check_query_is_the_operators() {
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE asked (a int)");
    let check = "server_check_delay = 0\nserver_check_query = \"INSERT INTO asked VALUES (1)\"";
    let weir = over(&cluster, 1).general(check).start();
    let mut client = weir.client("app");
    for _ in 0..3 {
        client.value("SELECT 1");
    }
    assert!(cluster.value("SELECT count(*) FROM asked").parse::<u32>().unwrap() >= 3);
    // One that cannot work is told, and does not go round for ever.
    let weir = over(&cluster, 1).general("server_check_delay = 0\nserver_check_query = \"SELECT 1/0\"").start();
    let mut client = weir.client("app");
    client.query("SELECT 1");
    let messages = client.read_until_ready();
    let error = messages.iter().find_map(|m| m.error()).unwrap();
    assert_eq!(error.code, "22012");
    assert!(error.message.starts_with("server_check_query failed"), "{error}");
    // None at all.
    let weir = over(&cluster, 1).general("server_check_delay = 0\nserver_check_query = \"\"").start();
    assert_eq!(weir.client("app").value("SELECT 5"), "5");
}

#[test]
fn the_simple_protocol_can_be_switched_off() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).general("disable_pqexec = true").start();
    let mut client = weir.client("app");
    client.parse("", "SELECT 3", &[]);
    client.bind("", "", &[]);
    client.execute("", 0);
    client.sync();
    assert_eq!(show(&client.read_until_ready()), "1 2 D(3) C(SELECT 1) Z(I)");
    client.query("SELECT 1; SELECT 2");
    let error = farewell(&mut client);
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "0A000"), "{error}");
    assert!(error.message.contains("disable_pqexec"), "{error}");
    assert!(weir.console().unwrap().run("SHOW VERSION").starts_with("T("));
}

#[test]
fn a_cancel_request_that_nobody_takes_is_given_up() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 1).general("cancel_wait_timeout = \"500ms\"").start();
    let mut client = weir.client("app");
    client.query("SELECT pg_sleep(3)");
    eventually("it runs", SOON, || (sleepers(&cluster) == "1").then_some(()));
    // The kernel takes connections in the postmaster's name, but nobody answers them.
    common::guard::freeze(cluster.pid());
    std::thread::scope(|scope| {
        scope.spawn(|| client.cancel());
        let under_way = |n| move |weir: &Weir| (pool_number(weir, "sv_active_cancel") == n).then_some(());
        eventually("the request is under way", SOON, || under_way(1)(&weir));
        eventually("it is given up", SOON, || under_way(0)(&weir));
    });
    assert_eq!(pool_number(&weir, "sv_active"), 1, "the statement goes on");
    assert!(show(&client.read_until_ready()).ends_with("C(SELECT 1) Z(I)"));
    common::guard::thaw_tree(cluster.pid());
    // What may still be cancelled late is lent to nobody.
    assert_eq!(weir.client("app").value("SELECT 2"), "2");
}

/// A server that the network has swallowed, or that takes nothing any more, is given up after `tcp_user_timeout`, not after the quarter of
/// an hour that TCP is patient for.
#[test]
fn a_server_that_takes_nothing_any_more_is_given_up() {
    let cluster = Cluster::start();
    let weir = over(&cluster, 2).general("tcp_user_timeout = 1000").start();
    let (mut client, mut other) = (weir.client("app"), weir.client("app"));
    client.run("BEGIN");
    let pid: u32 = client.value(common::SERVER_PID).parse().unwrap();
    // Its kernel still acknowledges what fits into its buffers, and then no more.
    common::guard::freeze(pid);
    let begun = clock::now();
    // Who sends waits as well, until the connection is given up.
    let text = format!("SELECT length('{}')", "x".repeat(30_000_000));
    drop(client.try_send_bytes(&common::wire::frontend::query(&text)));
    let error = farewell(&mut client);
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "08006"), "{error}");
    assert!(begun.elapsed() >= Duration::from_secs(1) && begun.elapsed() < Duration::from_secs(60));
    assert_eq!(other.value("SELECT 1"), "1");
    common::guard::thaw_tree(pid);
}

/// A server that refuses us is not asked again before `server_login_retry` is over, however many clients come meanwhile.
#[test]
fn refused_logins_are_not_repeated_at_once() {
    let cluster = Cluster::start();
    cluster.sql("CREATE USER app PASSWORD 'right'");
    cluster.set_hba("host all all 127.0.0.1/32 scram-sha-256");
    let section = format!(
        "[databases.app]\nprimary = \"postgres://app:wrong@127.0.0.1:{}/postgres\"\nprobe_interval = \"1h\"",
        cluster.port()
    );
    let weir = Weir::builder().general("server_login_retry = \"3s\"").database(&section).start();
    let refused = || cluster.log_text().matches("password authentication failed for user \"app\"").count();
    let begun = clock::now();
    let mut clients = 0;
    while begun.elapsed() < Duration::from_secs(2) {
        let error = weir.login("postgres", "app").connect().unwrap_err();
        assert_eq!(error.code(), "28P01", "each is told");
        clients += 1;
    }
    assert!(clients > 20, "nobody is kept waiting: {clients}");
    let soon = refused();
    assert!(soon <= 3, "{soon} logins for {clients} clients");
    // And it is asked again when the time is over.
    eventually("it is asked again", SOON, || {
        drop(weir.login("postgres", "app").connect());
        (refused() > soon).then_some(())
    });
}

#[test]
fn what_limits_do_is_counted() {
    let cluster = Cluster::start();
    let general = "query_timeout = \"500ms\"\nclient_idle_timeout = \"700ms\"\nmax_client_conn = 2";
    let weir = over(&cluster, 1).general(general).start();
    let metric = |line: &str| {
        let (_, text) = weir.http_get("/metrics");
        let found = text.lines().find_map(|known| known.strip_prefix(line)?.trim().parse::<u64>().ok());
        found.unwrap_or(0)
    };
    let queries = || {
        let (_, text) = weir.http_get("/metrics");
        let of = text.lines().filter(|line| line.starts_with("pgweir_queries_total{"));
        of.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>()
    };
    assert_eq!(weir.login("postgres", "nowhere").connect().unwrap_err().code(), "3D000");
    assert_eq!(metric("pgweir_failed_logins_total{reason=\"no_database\"}"), 1);
    let mut slow = weir.client("app");
    let mut idle = weir.client("app");
    assert_eq!(weir.login("postgres", "app").connect().unwrap_err().code(), "53300");
    assert_eq!(metric("pgweir_refused_clients_total{limit=\"max_client_conn\"}"), 1);
    assert_eq!(metric("pgweir_failed_logins_total{reason=\"too_many\"}"), 1);
    let before = queries();
    slow.query("SELECT pg_sleep(60)");
    ends(&mut slow, "57014", "query_timeout");
    ends(&mut idle, "57P05", "client_idle_timeout");
    assert_eq!(metric("pgweir_timeouts_total{limit=\"query_timeout\"}"), 1);
    assert_eq!(metric("pgweir_timeouts_total{limit=\"client_idle_timeout\"}"), 1);
    assert_eq!(metric("pgweir_cancel_requests_total"), 0, "that was our own");
    eventually("the query is counted", SOON, || (queries() == before + 1).then_some(()));
    let mut client = weir.client("app");
    client.query("SELECT pg_sleep(60)");
    std::thread::sleep(Duration::from_millis(100));
    client.cancel();
    client.read_until_ready();
    assert_eq!(metric("pgweir_cancel_requests_total"), 1);
}

//! Tests of the test kit itself: what it promises to the other tests.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::time::Duration;

use common::cluster::Cluster;
use common::fake::{FakeServer, Step};
use common::raw::{Address, Login, LoginError, RawClient};
use common::weir::Weir;
use common::wire::{self, backend, show};
use common::{eventually, guard, tools};

// Clusters.

#[test]
fn cluster_answers_by_tcp_and_unix_socket() {
    let cluster = Cluster::with_config(&[("work_mem", "5MB"), ("cluster_name", "it's")]);
    assert_eq!(cluster.sql("SELECT 1, NULL, 'a' UNION ALL SELECT 2, 'x', 'b'"), [["1", "", "a"], ["2", "x", "b"]]);
    assert_eq!(cluster.value("SHOW work_mem"), "5MB");
    assert_eq!(cluster.value("SHOW cluster_name"), "it's");
    let mut client = RawClient::connect(cluster.port(), "postgres", "postgres");
    assert_eq!(client.run("SELECT 1 AS one"), "T(one:23) D(1) C(SELECT 1) Z(I)");
    assert_eq!(client.params["server_encoding"], "UTF8");
    assert_eq!(cluster.try_sql_in("postgres", "SELECT 1/0").unwrap_err().code, "22012");
}

#[test]
fn replica_streams_and_is_promoted() {
    let primary = Cluster::start();
    primary.sql("CREATE TABLE t (id int)");
    let replica = primary.replica();
    primary.sql("INSERT INTO t VALUES (1), (2)");
    primary.wait_replayed(&replica);
    assert_eq!(replica.sql("SELECT id FROM t ORDER BY id"), [["1"], ["2"]]);
    assert_eq!(replica.try_sql_in("postgres", "INSERT INTO t VALUES (3)").unwrap_err().code, "25006");

    primary.kill9();
    replica.promote();
    replica.sql("INSERT INTO t VALUES (3)");
    assert_eq!(replica.value("SELECT count(*) FROM t"), "3");
}

#[test]
fn replica_follows_the_promoted_one() {
    let primary = Cluster::start();
    let (first, second) = (primary.replica(), primary.replica());
    primary.kill9();
    first.promote();
    second.follow(&first);
    first.sql("CREATE TABLE after_failover ()");
    first.wait_replayed(&second);
    assert_eq!(second.value("SELECT to_regclass('after_failover')"), "after_failover");
}

#[test]
fn kill9_leaves_no_process_and_restart_recovers() {
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE t AS SELECT 1 AS id");
    let mut client = RawClient::connect(cluster.port(), "postgres", "postgres");
    client.query("SELECT pg_sleep(600)");
    let mut all = guard::children(cluster.pid());
    all.push(cluster.pid());
    assert!(all.len() > 4, "{all:?}");

    cluster.kill9();
    assert!(all.iter().all(|pid| !guard::alive(*pid)));
    assert_eq!(show(&client.read_to_end()), "");
    assert!(RawClient::open(Address::Tcp(cluster.port())).is_err());

    cluster.restart();
    assert_eq!(cluster.value("SELECT id FROM t"), "1");
    assert!(cluster.log_text().contains("automatic recovery in progress"));
}

#[test]
fn frozen_cluster_is_silent_until_it_thaws() {
    let cluster = Cluster::start();
    let mut client = RawClient::connect(cluster.port(), "postgres", "postgres");
    cluster.freeze();
    client.query("SELECT 1");
    client.expect_silence(Duration::from_millis(200));
    // The kernel still accepts for it.
    let mut newcomer = RawClient::open(Address::Tcp(cluster.port())).unwrap();
    newcomer.expect_silence(Duration::from_millis(50));
    cluster.thaw();
    assert_eq!(show(&client.read_until_ready()), "T(?column?:23) D(1) C(SELECT 1) Z(I)");
}

#[test]
fn stop_ends_sessions_in_good_order() {
    let cluster = Cluster::start();
    let mut client = RawClient::connect(cluster.port(), "postgres", "postgres");
    cluster.stop();
    assert_eq!(show(&client.read_to_end()), "E(FATAL 57P01)");
    cluster.restart();
    assert_eq!(cluster.value("SELECT 1"), "1");
}

#[test]
fn dropped_cluster_leaves_nothing() {
    let cluster = Cluster::start();
    let dir = cluster.socket_dir().to_owned();
    let mut all = guard::children(cluster.pid());
    all.push(cluster.pid());
    drop(cluster);
    assert!(all.iter().all(|pid| !guard::alive(*pid)));
    assert!(!dir.exists());
}

#[test]
fn watchdog_acts_when_the_handle_is_lost() {
    // What a killed test process leaves: a pipe that ends, and nobody who runs destructors.
    let dir = guard::temp_dir();
    let guardian = guard::Guardian::over(&dir);
    let mut parent = std::process::Command::new("sh").args(["-c", "sleep 600 & echo; wait"]).spawn().unwrap();
    let child = eventually("the child", Duration::from_secs(5), || guard::children(parent.id()).first().copied());
    guardian.watch(parent.id());
    drop(guardian);
    assert!(!parent.wait().unwrap().success());
    eventually("the child is dead", Duration::from_secs(5), || (!guard::alive(child)).then_some(()));
    assert!(!dir.exists());
}

#[test]
fn configure_reloads() {
    let mut cluster = Cluster::start();
    cluster.configure(&[("work_mem", "7MB")]);
    assert_eq!(cluster.value("SHOW work_mem"), "7MB");
}

// Authentication.

/// A cluster whose user `user` has the password `secret`, stored and asked for by `method`.
fn cluster_with_password(method: &str) -> Cluster {
    let cluster = Cluster::start();
    let stored = if method == "md5" { "md5" } else { "scram-sha-256" };
    cluster.sql(&format!("SET password_encryption = '{stored}'; CREATE USER \"user\" PASSWORD 'secret'"));
    cluster.set_hba(&format!("host all all 127.0.0.1/32 {method}"));
    cluster
}

fn check_password(method: &str, requests: &str) {
    let cluster = cluster_with_password(method);
    let login = Login::new(Address::Tcp(cluster.port()), "user", "postgres");
    let mut client = login.clone().password("secret").connect().unwrap();
    let asked: Vec<_> = client.greeting.iter().filter(|message| message.tag == b'R').cloned().collect();
    assert_eq!(show(&asked), requests);
    assert_eq!(client.value("SELECT current_user"), "user");
    assert_eq!(login.clone().password("wrong").connect().unwrap_err().code(), "28P01");
    assert!(matches!(login.connect(), Err(LoginError::Unexpected(_))));
}

#[test]
fn login_by_scram() {
    check_password("scram-sha-256", "R(10) R(11) R(12) R(0)");
}

#[test]
fn login_by_md5() {
    check_password("md5", "R(5) R(0)");
}

#[test]
fn login_by_clear_password() {
    check_password("password", "R(3) R(0)");
}

#[test]
fn login_refused_by_hba() {
    let cluster = Cluster::start();
    cluster.set_hba("host all all 127.0.0.1/32 reject");
    let refused = Login::new(Address::Tcp(cluster.port()), "postgres", "postgres").connect();
    assert_eq!(refused.unwrap_err().code(), "28000");
}

// The raw client against the real thing.

#[test]
fn simple_queries_in_compact_form() {
    let cluster = Cluster::start();
    let mut client = RawClient::connect(cluster.port(), "postgres", "postgres");
    assert_eq!(client.run(""), "I Z(I)");
    assert_eq!(client.run("SELEC"), "E(42601) Z(I)");
    assert_eq!(client.run("BEGIN; SELECT NULL AS a, 'x|y' AS b"), "C(BEGIN) T(a:25,b:25) D(\\N|x|y) C(SELECT 1) Z(T)");
    assert_eq!(client.run("SELECT 1/0"), "E(22012) Z(E)");
    assert_eq!(client.run("ROLLBACK; ROLLBACK"), "C(ROLLBACK) N(WARNING 25P01) C(ROLLBACK) Z(I)");
    assert_eq!(client.run("SET application_name = 'kit'"), "C(SET) S(application_name=kit) Z(I)");
    assert_eq!(client.params["application_name"], "kit");
    assert_eq!(client.run("LISTEN c; NOTIFY c, 'hi'"), "C(LISTEN) C(NOTIFY) A(c,hi) Z(I)");
    // int4pl by the fast path.
    client.function_call(177, &[Some("2"), Some("3")]);
    assert_eq!(show(&client.read_until_ready()), "V(5) Z(I)");
    client.terminate();
    assert_eq!(show(&client.read_to_end()), "");
}

#[test]
fn extended_queries_in_compact_form() {
    let cluster = Cluster::start();
    let mut client = RawClient::connect(cluster.port(), "postgres", "postgres");
    client.parse("s", "SELECT generate_series(1, $1)", &[23]);
    client.describe_statement("s");
    client.bind("p", "s", &[Some("3")]);
    client.describe_portal("p");
    client.execute("p", 2);
    client.flush();
    let described = "t(23) T(generate_series:23)";
    assert_eq!(show(&client.read_until(b's')), format!("1 {described} 2 T(generate_series:23) D(1) D(2) s"));
    client.execute("p", 0);
    client.close_portal("p");
    client.close_statement("s");
    client.sync();
    assert_eq!(show(&client.read_until_ready()), "D(3) C(SELECT 1) 3 3 Z(I)");

    client.parse("", "SELECT $1::int4", &[]);
    client.bind_binary("", "", &[Some(&7i32.to_be_bytes())]);
    client.describe_portal("");
    client.execute("", 0);
    client.sync();
    assert_eq!(show(&client.read_until_ready()), "1 2 T(int4:23:b) D(\\x00000007) C(SELECT 1) Z(I)");

    client.bind("", "missing", &[]);
    client.execute("", 0);
    client.sync();
    assert_eq!(show(&client.read_until_ready()), "E(26000) Z(I)");
}

#[test]
fn copy_in_and_out() {
    let cluster = Cluster::start();
    let mut client = RawClient::connect(cluster.port(), "postgres", "postgres");
    client.run("CREATE TABLE t (a int, b text)");
    client.query("COPY t FROM STDIN");
    assert_eq!(show(&client.read_until(b'G')), "G(0,2)");
    client.copy_data(b"1\tone\n2\t");
    client.copy_data(b"\\N\n");
    client.copy_done();
    assert_eq!(show(&client.read_until_ready()), "C(COPY 2) Z(I)");
    assert_eq!(client.run("COPY t TO STDOUT"), "H(0,2) d(1\\tone\\n) d(2\\t\\N\\n) c C(COPY 2) Z(I)");
    client.query("COPY t FROM STDIN");
    client.read_until(b'G');
    client.copy_fail("enough");
    assert_eq!(show(&client.read_until_ready()), "E(57014) Z(I)");
}

#[test]
fn cancel_ends_a_query() {
    let cluster = Cluster::start();
    let mut client = RawClient::connect(cluster.port(), "postgres", "postgres");
    client.query("SELECT pg_sleep(600)");
    eventually("the query runs", Duration::from_secs(5), || {
        let running = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)' AND state = 'active'";
        (!cluster.sql(running).is_empty()).then_some(())
    });
    client.cancel();
    // A description may go out before the first row is waited for.
    assert_eq!(
        client.read_until_ready().iter().filter(|m| m.tag == b'E').map(ToString::to_string).next().unwrap(),
        "E(57014)"
    );
}

#[test]
fn encryption_is_declined_and_versions_are_negotiated() {
    let cluster = Cluster::start();
    let mut client = RawClient::open(Address::Tcp(cluster.port())).unwrap();
    assert_eq!(client.request_encryption(wire::SSL_REQUEST), b'N');
    let login = Login::new(Address::Tcp(cluster.port()), "postgres", "postgres").param("_pq_.unknown", "1");
    let client = login.connect().unwrap();
    assert!(client.greeting.iter().any(|message| message.tag == b'v'), "{}", show(&client.greeting));
}

// Tools.

#[test]
fn psql_and_pgbench_run() {
    let cluster = Cluster::start();
    assert_eq!(tools::psql(cluster.port(), "postgres", "SELECT 6 * 7").ok(), "42\n");
    assert!(!tools::psql(cluster.port(), "postgres", "SELEC").status.success());
    tools::pgbench(cluster.port(), "postgres", &["-i", "-q", "-s", "1"]).ok();
    let report = tools::pgbench(cluster.port(), "postgres", &["-S", "-n", "-t", "20", "-c", "2"]).ok();
    assert!(report.contains("number of transactions actually processed: 40/40"), "{report}");
}

#[test]
fn psycopg_runs() {
    let cluster = Cluster::start();
    let script =
        "import psycopg\nwith psycopg.connect() as c:\n    print(c.execute('SELECT %s::int', (5,)).fetchone()[0])";
    assert_eq!(tools::python(cluster.port(), "postgres", script).ok(), "5\n");
}

#[test]
#[should_panic(expected = "not done within")]
fn tool_that_hangs_is_killed() {
    tools::Running::start(std::process::Command::new("sleep").arg("600")).wait(Duration::from_millis(50));
}

// The scripted server.

#[test]
fn fake_server_follows_its_script() {
    let mut script = Step::login();
    script.extend(Step::reply(backend::one_value("a", "1")));
    script.extend([
        Step::ExpectText(b'Q', "two".into()),
        Step::Send(backend::error("ERROR", "42601", "no")),
        Step::ready(b'E'),
    ]);
    script.push(Step::ExpectClose);
    let server = FakeServer::start(vec![script, vec![Step::ExpectCancel(4711, vec![1, 2, 3, 4]), Step::Close]]);
    let mut client = RawClient::connect(server.port(), "u", "d");
    assert_eq!(client.run("one"), "T(a:25) D(1) C(SELECT 1) Z(I)");
    assert_eq!(client.run("two"), "E(42601) Z(E)");
    client.cancel();
    client.terminate();
    drop(client);
    assert_eq!(server.startup(0).unwrap().params()["user"], "u");
    assert_eq!(server.finish(), Vec::<String>::new());
}

#[test]
fn fake_server_loops_until_the_client_closes() {
    let server =
        FakeServer::serve(|_| [Step::login(), vec![Step::Loop(Step::reply(backend::one_value("a", "1")))]].concat());
    for _ in 0..2 {
        let mut client = RawClient::connect(server.port(), "u", "d");
        assert_eq!(client.value("x"), "1");
        assert_eq!(client.value("x"), "1");
    }
    assert_eq!(server.accepted(), 2);
    assert_eq!(show(&server.received(0)), "Q Q");
    assert_eq!(server.finish(), Vec::<String>::new());
}

#[test]
fn fake_server_resets_and_breaks_off() {
    let half = backend::one_value("a", "1")[..10].to_vec();
    let server = FakeServer::start(vec![
        vec![Step::ExpectStartup, Step::Reset],
        [Step::login(), vec![Step::Expect(b'Q'), Step::Send(half), Step::Close]].concat(),
        [Step::login(), vec![Step::Stall]].concat(),
    ]);
    let address = Address::Tcp(server.port());
    let reset = Login::new(address, "u", "d").connect();
    assert!(matches!(reset, Err(LoginError::Io(error)) if error.kind() == std::io::ErrorKind::ConnectionReset));
    let mut client = RawClient::connect(server.port(), "u", "d");
    client.query("x");
    assert_eq!(client.try_read_message().unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    let mut client = RawClient::connect(server.port(), "u", "d");
    client.query("x");
    client.expect_silence(Duration::from_millis(100));
}

#[test]
fn fake_server_reports_deviations() {
    let server = FakeServer::start(vec![[Step::login(), vec![Step::Expect(b'P')]].concat()]);
    let mut client = RawClient::connect(server.port(), "u", "d");
    client.query("x");
    let deviations = server.finish();
    assert!(deviations.len() == 1 && deviations[0].starts_with("connection 0: step 2"), "{deviations:?}");
}

#[test]
#[should_panic(expected = "no script for it")]
fn fake_server_fails_the_test_when_dropped() {
    let server = FakeServer::start(Vec::new());
    let mut client = RawClient::open(Address::Tcp(server.port())).unwrap();
    client.read_to_end();
    eventually("noticed", Duration::from_secs(5), || (!server.deviations().is_empty()).then_some(()));
}

// pgweir itself.

#[test]
fn weir_config_lets_a_test_override_the_defaults() {
    let builder = Weir::builder().general("auth_type = \"md5\"").database("[databases.app]\nprimary = \"x\"");
    let text = builder.toml("/dir".as_ref(), 1234, 5678);
    let toml: toml::Table = text.parse().unwrap();
    assert_eq!(toml["pgweir"]["auth_type"].as_str(), Some("md5"));
    assert_eq!(toml["pgweir"]["listen_port"].as_integer(), Some(1234));
    assert_eq!(toml["databases"]["app"]["primary"].as_str(), Some("x"));
}

#[test]
fn weir_that_refuses_its_config_is_reported() {
    assert!(Weir::builder().general("no_such_setting = 1").try_start().is_err());
}

//! The process from outside: the command line, the console, signals, reloads and the HTTP pages.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::process::Command;
use std::time::Duration;

use common::cluster::Cluster;
use common::eventually;
use common::weir::Weir;

const WAIT: Duration = Duration::from_secs(10);

fn pgweir(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_pgweir")).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text)
}

fn lines(weir: &Weir, sql: &str) -> std::collections::BTreeMap<String, String> {
    let rows = weir.admin(&format!("EXPLAIN ROUTE FOR app $${sql}$$"));
    rows.into_iter().map(|row| (row[0].clone(), row[1].clone())).collect()
}

// The command line.

#[test]
fn mistakes_of_the_configuration_are_printed_one_a_line() {
    let dir = common::guard::temp_dir();
    let path = dir.join("bad.toml");
    std::fs::write(&path, "[pgweir]\nlisten_prot = 1\npool_mode = \"often\"\n").unwrap();
    for arguments in [vec![path.to_str().unwrap()], vec!["check", path.to_str().unwrap()]] {
        let (code, text) = pgweir(&arguments);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("bad.toml:2:") && text.contains("bad.toml:3:"), "{text}");
    }
    let (code, text) = pgweir(&["--version"]);
    assert!(code == Some(0) && text.starts_with(concat!("pgweir ", env!("CARGO_PKG_VERSION"), "\n")), "{text}");
    assert_eq!(pgweir(&["--help"]).0, Some(0));
    assert_eq!(pgweir(&[]).0, Some(1), "a file must be named");
}

#[test]
fn a_port_in_use_is_told_at_the_start() {
    let cluster = Cluster::start();
    let weir = Weir::builder().cluster("app", &cluster, &[]).start();
    let (code, text) = pgweir(&["check", weir.config_path().to_str().unwrap()]);
    assert_eq!((code, text.ends_with("ok\n")), (Some(0), true), "{text}");
    let (code, text) = pgweir(&[weir.config_path().to_str().unwrap()]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(&format!("cannot listen on 127.0.0.1:{}", weir.port())), "{text}");
}

#[test]
fn the_health_check_follows_the_page() {
    let cluster = Cluster::start();
    let weir = Weir::builder().cluster("app", &cluster, &[]).start();
    let url = |path: &str| format!("http://127.0.0.1:{}{path}", weir.http_port());
    assert_eq!(pgweir(&["healthcheck", "--url", &url("/health/live")]).0, Some(0));
    assert_eq!(pgweir(&["healthcheck", "--url", &url("/health/ready")]).0, Some(0));
    let file = weir.config_path();
    assert_eq!(pgweir(&["healthcheck", file.to_str().unwrap()]).0, Some(0), "by the file");
    assert_eq!(pgweir(&["healthcheck", "--url", &url("/nothing")]).0, Some(1));
}

// The console.

#[test]
fn shows_speak_of_what_is_there() {
    let cluster = Cluster::start();
    let weir = Weir::builder().cluster("app", &cluster, &[]).start();
    let mut client = weir.client("app");
    assert_eq!(client.value("SELECT 1"), "1");
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    let pools = weir.admin_table("SHOW POOLS");
    let pool = pools.iter().find(|p| p["database"] == "app").expect("the pool");
    assert_eq!((pool["user"].as_str(), pool["cl_active"].as_str(), pool["sv_active"].as_str()), ("postgres", "1", "1"));
    let mut clients = weir.admin_table("SHOW CLIENTS");
    clients.retain(|client| client["database"] == "app");
    let servers = weir.admin_table("SHOW SERVERS");
    assert_eq!(clients.len(), 1);
    // Another may have been made by the login.
    let lent: Vec<_> = servers.iter().filter(|s| s["state"] == "active").collect();
    assert_eq!(lent.len(), 1, "{servers:?}");
    assert_eq!((&clients[0]["link"], &lent[0]["link"]), (&lent[0]["ptr"], &clients[0]["ptr"]));
    assert_eq!(lent[0]["remote_pid"], client.value(common::SERVER_PID));
    client.run("COMMIT");
    let config = weir.admin_table("SHOW CONFIG");
    let port = config.iter().find(|row| row["key"] == "listen_port").expect("the port");
    assert_eq!(port["value"], weir.port().to_string());
    for show in ["STATS", "LISTS", "DATABASES", "USERS", "REPLICAS", "SHARDS", "TOTALS", "VERSION", "STATE", "SOCKETS"]
    {
        assert!(!weir.admin(&format!("SHOW {show}")).is_empty(), "SHOW {show}");
    }
    let (status, metrics) = weir.http_get("/metrics");
    assert_eq!(status, 200);
    assert!(metrics.contains("pgweir_pool_server_connections{"), "{metrics}");
}

#[test]
fn explain_route_says_where_statements_go() {
    let primary = Cluster::start();
    let replica = primary.replica();
    let weir = Weir::builder().cluster("app", &primary, &[&replica]).start();
    let read = lines(&weir, "select 'x'");
    assert_eq!((read["class"].as_str(), read["server"].as_str()), ("read", &*format!("127.0.0.1:{}", replica.port())));
    let write = lines(&weir, "create table t ()");
    assert_eq!(
        (write["class"].as_str(), write["server"].as_str()),
        ("write", &*format!("127.0.0.1:{}", primary.port()))
    );
}

#[test]
fn rights_and_errors() {
    let cluster = Cluster::start();
    let weir = Weir::builder()
        .general("stats_users = \"looker\"")
        .users("\"looker\" \"\"")
        .cluster("app", &cluster, &[])
        .start();
    let mut looker = weir.login("looker", "pgbouncer").connect().unwrap();
    assert!(!looker.rows("SHOW POOLS; ").unwrap().iter().any(Vec::is_empty));
    assert_eq!(looker.rows("PAUSE").unwrap_err().code, "42501");
    assert_eq!(weir.login("postgres", "pgweir").connect().unwrap_err().code(), "42501");
    let mut admin = weir.console().unwrap();
    assert_eq!(admin.rows("SHOW POLLS").unwrap_err().code, "42601");
    assert_eq!(admin.rows("PAUSE nowhere").unwrap_err().code, "3D000");
    assert_eq!(admin.rows("RESUME app").unwrap_err().code, "55000");
    assert_eq!(admin.run("SHOW HELP").split('(').next(), Some("N"));
    assert_eq!(admin.run(""), "I Z(I)");
}

#[test]
fn pause_waits_for_servers_and_holds_statements_until_resume() {
    let cluster = Cluster::start();
    let weir = Weir::builder().cluster("app", &cluster, &[]).start();
    let mut busy = weir.client("app");
    busy.run("BEGIN");
    let before = busy.value(common::SERVER_PID);
    let mut admin = weir.console().unwrap();
    admin.query("PAUSE app");
    admin.expect_silence(Duration::from_millis(300));
    let mut held = weir.client("app");
    held.query(common::SERVER_PID);
    held.expect_silence(Duration::from_millis(200));
    busy.run("COMMIT");
    assert_eq!(common::wire::show(&admin.read_until_ready()), "C(PAUSE) Z(I)");
    held.expect_silence(Duration::from_millis(200));
    assert_eq!(weir.admin_table("SHOW DATABASES")[0]["paused"], "1");
    weir.admin("RESUME app");
    let answer = held.read_until_ready();
    let after = answer.iter().find_map(common::wire::Message::row).expect("a row")[0].clone().unwrap();
    assert_ne!(before, after, "the server was closed");
}

// Reloads.

#[test]
fn a_reload_takes_over_what_is_right_and_nothing_else() {
    let cluster = Cluster::start();
    let mut weir = Weir::builder().general("default_pool_size = 1").cluster("app", &cluster, &[]).start();
    let mut client = weir.client("app");
    let before = client.value(common::SERVER_PID);
    weir.reconfigure(|b| b.cluster("more", &cluster, &[]));
    weir.hup();
    weir.wait_log("configuration reloaded");
    assert_eq!(weir.client("more").value("SELECT 2"), "2");
    assert_eq!(client.value(common::SERVER_PID), before, "an unchanged database keeps its connections");

    weir.reconfigure(|b| b.general("pool_mode = \"often\""));
    let error = weir.console().unwrap().rows("RELOAD").unwrap_err();
    assert_eq!(error.code, "F0000");
    weir.wait_log("the old one stays in force");
    assert_eq!(client.value("SELECT 3"), "3");
    let (_, metrics) = weir.http_get("/metrics");
    assert!(metrics.contains("pgweir_config_reloads_total{result=\"failure\"} 1"), "{metrics}");
}

#[test]
fn a_changed_database_gets_new_connections_once_transactions_end() {
    let (first, second) = (Cluster::start(), Cluster::start());
    let mut weir = Weir::builder().database(&section(&first)).start();
    let (mut in_block, mut idle) = (weir.client("app"), weir.client("app"));
    in_block.run("BEGIN");
    let port = |cluster: &Cluster| cluster.port().to_string();
    assert_eq!(in_block.value("SHOW port"), port(&first));
    assert_eq!(idle.value("SHOW port"), port(&first));
    weir.reconfigure(|_| Weir::builder().database(&section(&second)));
    weir.admin("RELOAD");
    assert_eq!(in_block.value("SHOW port"), port(&first), "a transaction ends where it began");
    assert_eq!(idle.value("SHOW port"), port(&second));
    in_block.run("COMMIT");
    assert_eq!(in_block.value("SHOW port"), port(&second));
    eventually("the old connections are closed", WAIT, || {
        let open = first.value("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name NOT LIKE 'pgweir %'");
        (open == "1").then_some(())
    });
}

#[test]
fn clients_of_a_database_that_loses_its_user_log_in_anew() {
    let cluster = Cluster::start();
    cluster.sql("CREATE ROLE someone LOGIN");
    let with_user = format!("{}\nuser = \"postgres\"", section(&cluster));
    let builder = |section: &str| Weir::builder().users("\"someone\" \"\"").database(section);
    let mut weir = builder(&with_user).start();
    let mut client = weir.login("someone", "app").connect().unwrap();
    let mut same = weir.login("postgres", "app").connect().unwrap();
    assert_eq!(client.value("SELECT current_user"), "postgres");
    weir.reconfigure(|_| builder(&section(&cluster)));
    weir.admin("RELOAD");
    // Its login has shown what is right for the client, and the servers want to know that now.
    client.query("SELECT current_user");
    let end = common::wire::show(&client.read_to_end());
    assert!(end.contains("E(FATAL 57P01)"), "{end}");
    assert_eq!(same.value("SELECT current_user"), "postgres");
    assert_eq!(weir.login("someone", "app").connect().unwrap().value("SELECT current_user"), "someone");
    // The other way nothing is missing.
    let mut client = weir.login("someone", "app").connect().unwrap();
    weir.reconfigure(|_| builder(&with_user));
    weir.admin("RELOAD");
    assert_eq!(client.value("SELECT current_user"), "postgres");
}

fn section(cluster: &Cluster) -> String {
    format!("[databases.app]\nprimary = \"{}\"", format_args!("postgres://127.0.0.1:{}/postgres", cluster.port()))
}

// The end.

#[test]
fn sigterm_lets_transactions_end() {
    let cluster = Cluster::start();
    let weir = Weir::builder().cluster("app", &cluster, &[]).start();
    let (mut busy, mut idle) = (weir.client("app"), weir.client("app"));
    busy.run("BEGIN");
    weir.term();
    let end = idle.read_to_end();
    assert!(common::wire::show(&end).contains("57P01"), "{}", common::wire::show(&end));
    assert_eq!(weir.http_get("/health/ready").0, 503);
    assert_eq!(weir.http_get("/health/live").0, 200);
    assert!(std::net::TcpStream::connect(("127.0.0.1", weir.port())).is_err(), "it accepts no more");
    assert_eq!(busy.value("SELECT 1"), "1");
    busy.run("COMMIT");
    assert_eq!(weir.wait_exit(WAIT).code(), Some(0));
}

#[test]
fn shutdown_timeout_and_a_second_signal_cut_it_short() {
    let cluster = Cluster::start();
    let weir = Weir::builder().general("shutdown_timeout = \"300ms\"").cluster("app", &cluster, &[]).start();
    let mut busy = weir.client("app");
    busy.run("BEGIN");
    weir.term();
    assert_eq!(weir.wait_exit(WAIT).code(), Some(0));

    let weir = Weir::builder().cluster("app", &cluster, &[]).start();
    let mut busy = weir.client("app");
    busy.run("BEGIN");
    weir.int();
    weir.wait_log("shutting down");
    weir.int();
    assert_eq!(weir.wait_exit(WAIT).code(), Some(0));
    busy.read_to_end();
}

#[test]
fn shutdown_from_the_console() {
    let cluster = Cluster::start();
    let weir = Weir::builder().cluster("app", &cluster, &[]).start();
    let mut busy = weir.client("app");
    busy.run("BEGIN");
    assert_eq!(weir.console().unwrap().run("SHUTDOWN WAIT_FOR_CLIENTS"), "C(SHUTDOWN) Z(I)");
    assert_eq!(busy.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(busy.value("SELECT 1"), "1", "it may stay as long as it likes");
    busy.terminate();
    assert_eq!(weir.wait_exit(WAIT).code(), Some(0));
}

// The log.

/// CVE class: a SHOW or a log that tells a secret.
#[test]
fn no_secret_is_logged() {
    let cluster = Cluster::start();
    let secret = "hunter2hunter2";
    let mut weir = Weir::builder()
        .general("log_level = \"trace\"\nauth_type = \"plain\"\nlog_format = \"json\"")
        .users(&format!("\"postgres\" \"{secret}\"\n\"admin\" \"{secret}\""))
        .database(&format!(
            "[databases.app]\nprimary = \"postgres://127.0.0.1:{}/postgres\"\nuser = \"postgres\"\npassword = \"{secret}\"",
            cluster.port()
        ))
        .start();
    let mut client = weir.login("postgres", "app").password(secret).connect().unwrap();
    assert_eq!(client.value("SELECT 1"), "1");
    assert!(weir.login("postgres", "app").password("hunter2wrong").connect().is_err());
    weir.reconfigure(|b| b.users("\"broken\" \"SCRAM-SHA-256$hunter2hunter2\""));
    weir.hup();
    weir.wait_log("the old one stays in force");
    let log = weir.log_text();
    assert!(!log.contains("hunter2"), "{log}");
    assert!(log.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{log}");
}

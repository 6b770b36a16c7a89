//! Logins that wait for a server: operators see them, can end them and are not held up by them, and whoever ends a wait says why.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::thread::JoinHandle;
use std::time::Duration;

use common::cluster::Cluster;
use common::eventually;
use common::raw::{LoginError, RawClient};
use common::weir::{Builder, Weir};

const SOON: Duration = Duration::from_secs(15);

type Waits = JoinHandle<Result<RawClient, LoginError>>;

/// A server with the user `late`, and pgweir in front of it.
fn start(builder: Builder) -> (Cluster, Weir) {
    let cluster = Cluster::start();
    cluster.sql("CREATE ROLE late LOGIN");
    let port = cluster.port();
    let app = format!("[databases.app]\nhost = \"127.0.0.1\"\nport = {port}\ndbname = \"postgres\"\npool_size = 1");
    let weir = builder.users("\"late\" \"\"").database(&app).start();
    (cluster, weir)
}

/// Begins a login that waits, as nothing is known yet of its user on servers.
fn waits(weir: &Weir) -> Waits {
    let login = weir.login("late", "app");
    let waits = std::thread::spawn(move || login.connect());
    eventually("it waits", SOON, || of(weir).map(drop));
    waits
}

/// What SHOW CLIENTS says of it.
fn of(weir: &Weir) -> Option<std::collections::BTreeMap<String, String>> {
    weir.admin_table("SHOW CLIENTS").into_iter().find(|client| client["user"] == "late" && client["state"] == "waiting")
}

fn refused(waits: Waits) -> String {
    waits.join().unwrap().map(|_| ()).unwrap_err().code().to_owned()
}

#[test]
fn a_login_that_waits_is_seen_and_can_be_ended() {
    let (_cluster, weir) = start(Weir::builder());
    weir.admin("PAUSE app");
    let login = waits(&weir);
    let database = weir.admin_table("SHOW DATABASES").into_iter().find(|row| row["name"] == "app").unwrap();
    assert_eq!(database["current_client_connections"], "1");
    assert!(weir.admin_table("SHOW SOCKETS").iter().any(|row| row["user"] == "late"));
    weir.admin(&format!("KILL_CLIENT {}", of(&weir).unwrap()["id"]));
    assert_eq!(refused(login), "57P01");
    let login = waits(&weir);
    weir.admin("KILL app");
    assert_eq!(refused(login), "57P01");
    weir.admin("RESUME app");
    assert_eq!(weir.login("late", "app").connect().unwrap().value("SELECT current_user"), "late");
    eventually("nothing is left", SOON, || {
        weir.admin_table("SHOW CLIENTS").iter().all(|c| c["user"] != "late").then_some(())
    });
}

#[test]
fn a_login_that_waits_is_told_of_the_end() {
    for end in ["SHUTDOWN WAIT_FOR_SERVERS", "SHUTDOWN WAIT_FOR_CLIENTS", "SIGTERM", "SIGINT"] {
        let (_cluster, weir) = start(Weir::builder());
        weir.admin("PAUSE app");
        let login = waits(&weir);
        match end {
            "SIGTERM" => weir.term(),
            "SIGINT" => weir.int(),
            command => drop(weir.console().unwrap().run(command)),
        }
        assert_eq!(refused(login), "57P03", "{end}");
        assert_eq!(weir.wait_exit(SOON).code(), Some(0), "{end}");
    }
}

#[test]
fn a_login_that_waits_holds_no_suspend_up() {
    let (_cluster, weir) = start(Weir::builder().general("suspend_timeout = 0"));
    weir.admin("PAUSE app");
    let login = waits(&weir);
    weir.admin("RESUME app");
    let mut busy = login.join().unwrap().unwrap();
    assert_eq!(busy.run("BEGIN"), "C(BEGIN) Z(T)");
    // Its settings are to be asked of a server, and there is none free.
    let login = weir.login("late", "app").param("DateStyle", "German, DMY");
    let login = std::thread::spawn(move || login.connect().map(|mut client| client.value("SHOW DateStyle")));
    eventually("it waits", SOON, || of(&weir).map(drop));
    let mut console = weir.console().unwrap();
    assert_eq!(console.run("SUSPEND"), "C(SUSPEND) Z(I)");
    assert!(!login.is_finished());
    assert_eq!(console.run("RESUME"), "C(RESUME) Z(I)");
    assert_eq!(busy.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(login.join().unwrap().unwrap(), "German, DMY");
}

#[test]
fn a_login_waits_for_as_long_as_the_configuration_says_now() {
    let (cluster, mut weir) = start(Weir::builder().general("query_wait_timeout = 600"));
    weir.admin("SET query_wait_timeout = 1");
    weir.admin("PAUSE app");
    assert_eq!(refused(waits(&weir)), "53300");
    // The client's own limit counts, also where servers are logged in to as somebody else.
    let port = cluster.port();
    let forced =
        format!("[databases.forced]\nhost = \"127.0.0.1\"\nport = {port}\ndbname = \"postgres\"\nuser = \"postgres\"");
    weir.reconfigure(|builder| builder.database(&forced).database("[users.late]\nquery_wait_timeout = 1"));
    weir.admin("RELOAD");
    weir.admin("PAUSE forced");
    let error = weir.login("late", "forced").connect().unwrap_err();
    assert_eq!(error.code(), "53300", "{error:?}");
    let (_, metrics) = weir.http_get("/metrics");
    let counted =
        metrics.lines().find(|line| line.contains("query_wait_timeout") && line.starts_with("pgweir_")).unwrap();
    assert!(counted.ends_with(" 2"), "{counted}");
}

#[test]
fn a_login_that_waited_is_refused_by_disable() {
    let (_cluster, weir) = start(Weir::builder());
    weir.admin("PAUSE app");
    let login = waits(&weir);
    weir.admin("DISABLE app");
    weir.admin("RESUME app");
    assert_eq!(refused(login), "57P03");
}

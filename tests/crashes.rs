//! A server that breaks a connection in the middle of a statement: whether it is dead, so that another is asked, or goes on, so that the
//! statement may be what ended its process.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![allow(clippy::panic, reason = "a failed step is a failed test")]

mod common;

use std::time::Duration;

use common::cluster::Cluster;
use common::eventually;
use common::fake::{FakeServer, Step};
use common::raw::RawClient;
use common::weir::Weir;
use common::wire::{backend, show};

const PATIENCE: Duration = Duration::from_secs(20);
const PORT: &str = "SELECT inet_server_port()";

/// A primary, and in the place of a replica somebody who logs the first client in, breaks off at its statement, and meets all who come
/// later by a script.
struct Site {
    weir: Weir,
    primary: Cluster,
    replica: FakeServer,
}

/// A server whose first connection breaks off at its statement; all others are met as `later` says.
fn crashing(later: Vec<Step>) -> FakeServer {
    let first = [Step::login(), vec![Step::ExpectUntil(b'Q'), Step::Close]].concat();
    FakeServer::serve(move |number| if number == 0 { first.clone() } else { later.clone() })
}

/// The lines that name the servers.
fn servers(primary: &Cluster, replicas: &[FakeServer; 2]) -> String {
    let url = |port| format!("\"postgres://127.0.0.1:{port}/postgres\"");
    let [one, other] = [0, 1].map(|at| url(replicas[at].port()));
    format!("primary = {}\nreplicas = [{one}, {other}]", url(primary.port()))
}

/// It says no more than that it recovers.
fn recovers() -> Vec<Step> {
    let error = backend::error("FATAL", "57P03", "the database system is in recovery mode");
    vec![Step::ExpectStartup, Step::Send(error), Step::Close]
}

impl Site {
    fn new(later: Vec<Step>) -> Self {
        let replica = crashing(later);
        let primary = Cluster::start();
        let url = |port| format!("\"postgres://127.0.0.1:{port}/postgres\"");
        let servers = format!("primary = {}\nreplicas = [{}]", url(primary.port()), url(replica.port()));
        let weir = Weir::builder().database(&format!("[databases.app]\n{servers}\n")).start();
        Self { weir, primary, replica }
    }

    fn client(&self) -> RawClient {
        self.weir.client("app")
    }
}

/// A balancer takes every connection, and closes it when there is nobody behind it.
#[test]
fn who_takes_connections_and_says_nothing_is_dead() {
    let site = Site::new(vec![Step::Close]);
    assert_eq!(site.client().value(PORT), site.primary.port().to_string());
}

/// One that says no more than that it recovers is there: the statement may have ended a process of its, and is not tried on the primary.
#[test]
fn who_says_that_it_recovers_is_there() {
    let site = Site::new(recovers());
    let mut client = site.client();
    assert_eq!(client.run(PORT), "E(08006) Z(I)");
    assert_eq!(
        client.run("/* pgweir: primary */ SELECT 1"),
        "T(?column?:23) D(1) C(SELECT 1) Z(I)",
        "the session goes on"
    );
}

/// While it is found out whether the server is there, the client can cancel, or leave.
#[test]
fn who_waits_for_that_is_heard() {
    let site = Site::new(vec![Step::Stall]);
    let mut client = site.client();
    client.query(PORT);
    eventually("the server is asked again", PATIENCE, || (site.replica.accepted() == 2).then_some(()));
    client.cancel();
    assert_eq!(show(&client.read_until_ready()), "E(57014) Z(I)");
    assert_eq!(client.run("/* pgweir: primary */ SELECT 1"), "T(?column?:23) D(1) C(SELECT 1) Z(I)");
}

/// A text that begins a block and ends the processes of two servers fails as a whole: the client is in no block, and no server is.
#[test]
fn a_block_fails_as_a_whole_when_its_text_crashes_two_servers() {
    let primary = Cluster::start();
    let replicas = [crashing(recovers()), crashing(recovers())];
    let weir = Weir::builder().database(&format!("[databases.app]\n{}\n", servers(&primary, &replicas))).start();
    let mut client = weir.client("app");
    assert_eq!(client.run("BEGIN READ ONLY; SELECT 1"), "E(08006) Z(I)");
    assert!(replicas.iter().all(|replica| replica.accepted() == 2), "one of them was not asked");
    assert_eq!(client.run("CREATE TABLE made (id int)"), "C(CREATE TABLE) Z(I)", "it is in no READ ONLY block");
    assert_eq!(primary.value("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"), "0");
}

/// A BEGIN that was answered for, and is sent with the first statement, ends nobody's process: where it breaks off the server is dead, and
/// the block begins elsewhere, on the primary at last.
#[test]
fn a_block_that_has_begun_nowhere_begins_elsewhere() {
    let primary = Cluster::start();
    primary.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    let replicas = [crashing(recovers()), crashing(recovers())];
    let servers = servers(&primary, &replicas);
    let shard = |name: &str, slots: &str| {
        format!("[[databases.app.shards]]\nname = \"{name}\"\nslots = [{slots}]\n{servers}\n")
    };
    let (a, b) = (shard("a", "[0, 8191]"), shard("b", "[8192, 16383]"));
    let table = "[databases.app.tables]\nt = { key = \"id\", type = \"integer\" }";
    let weir = Weir::builder().database(&format!("[databases.app]\n{a}{b}{table}\n")).start();
    let mut client = weir.client("app");
    assert_eq!(client.run("BEGIN READ ONLY"), "C(BEGIN) Z(T)");
    assert_eq!(client.run("SELECT count(*) FROM t WHERE id = 1"), "T(count:20) D(1) C(SELECT 1) Z(T)");
    assert!(replicas.iter().all(|replica| replica.accepted() > 0), "one of them was not asked");
    assert_eq!(client.value("SHOW transaction_read_only"), "on", "it is the block that it asked for");
    assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
}

/// A block whose first statement ends the process has begun there: it is lost, and the session goes on.
#[test]
fn a_block_is_lost_with_the_process_of_its_server() {
    let primary = Cluster::start();
    let begun = [backend::complete("BEGIN"), backend::ready(b'T')].concat();
    let serves = [Step::login(), Step::reply(begun), vec![Step::Expect(b'Q'), Step::Close]].concat();
    let replica = FakeServer::serve(move |number| if number == 0 { serves.clone() } else { recovers() });
    let url = |port| format!("\"postgres://127.0.0.1:{port}/postgres\"");
    let lines = format!("primary = {}\nreplicas = [{}]", url(primary.port()), url(replica.port()));
    let weir = Weir::builder().database(&format!("[databases.app]\n{lines}\n")).start();
    let mut client = weir.client("app");
    assert_eq!(client.run("BEGIN READ ONLY"), "C(BEGIN) Z(T)");
    assert_eq!(client.run("SELECT 1"), "E(57P01) Z(E)");
    assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    assert_eq!(client.run("/* pgweir: primary */ SELECT 1"), "T(?column?:23) D(1) C(SELECT 1) Z(I)");
}

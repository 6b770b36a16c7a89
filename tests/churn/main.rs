//! Clients without number come, work and vanish at any byte, over a pool of twenty: nobody is told what is another's, and when
//! all have gone nothing is left of them, neither in the numbers that are shown nor in what the process and the servers hold.
//!
//! A few seconds with 200 clients by itself; `make soak` takes 2,000 for `PGWEIR_SOAK_SECONDS`.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]
#![allow(clippy::print_stderr, reason = "a soak tells what it did")]

#[path = "../common/mod.rs"]
mod common;

mod client;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use client::Client;
use common::cluster::Cluster;
use common::eventually;
use common::raw::RawClient;
use common::weir::Weir;
use pgweir::clock;

/// Let in by its name.
pub(crate) const TRUSTED: &str = "trusted";
/// Let in by SCRAM.
pub(crate) const PROVEN: &str = "proven";
/// Of [`PROVEN`].
pub(crate) const PASSWORD: &str = "secret";

const POOL: usize = 20;
/// The pool's connections, as PostgreSQL has them.
const OF_THE_POOL: &str =
    "FROM pg_stat_activity WHERE client_addr IS NOT NULL AND application_name NOT LIKE 'pgweir %'";
/// Of each server.
const STATEMENTS: usize = 50;
/// How long the last of what they left may take to go.
const SETTLE: Duration = Duration::from_secs(60);

/// What all clients together have done.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    next: AtomicU64,
    /// Lives begun.
    pub(crate) lives: AtomicU64,
    /// Things done and answered rightly.
    pub(crate) turns: AtomicU64,
    /// COMMITs that may have been sent.
    pub(crate) commits_begun: AtomicU64,
    /// COMMITs that were answered.
    pub(crate) commits_known: AtomicU64,
    complaints: Mutex<Vec<String>>,
}

impl Tally {
    /// A number that nobody else gets.
    pub(crate) fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1_000_000
    }

    fn complain(&self, what: String) {
        self.complaints.lock().unwrap().push(what);
    }

    fn assert_content(&self) {
        let complaints = self.complaints.lock().unwrap();
        let first: Vec<&String> = complaints.iter().take(10).collect();
        assert!(complaints.is_empty(), "{} complaints: {first:#?}", complaints.len());
    }
}

/// Twenty connections that all users share, as the database's own.
fn start(cluster: &Cluster, dir: &Path, clients: usize) -> Weir {
    let rules = dir.join("hba.conf");
    fs::write(&rules, format!("host all {PROVEN} 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n"))
        .unwrap();
    let general = format!(
        "auth_type = \"hba\"\nauth_hba_file = {rules:?}\nscram_iterations = 100\nmax_client_conn = {}\n\
         max_prepared_statements = {STATEMENTS}\nquery_wait_timeout = 0\nlog_connections = false\n\
         log_disconnections = false\nlog_pooler_errors = false\nlisten_backlog = 4096",
        clients + 100
    );
    let database = format!(
        "[databases.app]\nprimary = \"postgres://postgres@127.0.0.1:{}/postgres\"\npool_size = {POOL}",
        cluster.port()
    );
    let users = format!("{TRUSTED:?} \"\"\n{PROVEN:?} {PASSWORD:?}");
    Weir::builder().general(&general).database(&database).users(&users).start()
}

/// So many clients at a time, each followed by the next when it leaves, and one in ten that stays.
fn churn(weir: &Weir, tally: &Arc<Tally>, clients: usize, time: Duration) {
    let until = clock::now() + time;
    let port = weir.port();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let places = (0..clients).map(|place| tokio::spawn(keep_place(place, port, Arc::clone(tally), until)));
        for place in places.collect::<Vec<_>>() {
            place.await.unwrap();
        }
    });
}

/// One client after the other, until the time is up.
async fn keep_place(place: usize, port: u16, tally: Arc<Tally>, until: Instant) {
    let steady = place.is_multiple_of(10);
    // Not all at the same moment.
    tokio::time::sleep(Duration::from_millis(place as u64 % 997)).await;
    while clock::now() < until {
        let seed = tally.lives.fetch_add(1, Ordering::Relaxed);
        if let Err(complaint) = Client::live(port, seed, &tally, steady, until).await {
            tally.complain(complaint);
            return;
        }
    }
}

/// The numbers of a row of SHOW POOLS that tell of clients and servers at work.
fn at_work(weir: &Weir) -> Vec<String> {
    let mut left = Vec::new();
    for row in weir.admin_table("SHOW POOLS").iter().filter(|row| row["database"] == "app") {
        for column in [
            "cl_active",
            "cl_waiting",
            "cl_active_cancel_req",
            "cl_waiting_cancel_req",
            "sv_active",
            "sv_active_cancel",
            "sv_being_canceled",
            "sv_tested",
            "sv_login",
            "maxwait",
        ] {
            if row[column] != "0" {
                left.push(format!("{column} = {}", row[column]));
            }
        }
    }
    left
}

/// Waits until all clients have gone and their servers are back.
fn settle(weir: &Weir) {
    let deadline = clock::now() + SETTLE;
    loop {
        let left = at_work(weir);
        if left.is_empty() && lists(weir)["login_clients"] == 0 {
            return;
        }
        assert!(clock::now() < deadline, "still there after {SETTLE:?}: {left:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn lists(weir: &Weir) -> BTreeMap<String, u64> {
    let rows = weir.admin_table("SHOW LISTS");
    rows.iter().map(|row| (row["list"].clone(), row["items"].parse().unwrap())).collect()
}

/// What the process holds.
#[derive(Debug)]
struct Holds {
    /// Memory in kB.
    resident: u64,
    /// Open files and sockets, beside the connections to servers.
    files: u64,
}

fn holds(weir: &Weir) -> Holds {
    let status = fs::read_to_string(format!("/proc/{}/status", weir.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let resident = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    let servers = weir.admin("SHOW SERVERS").len() as u64;
    let files = fs::read_dir(format!("/proc/{}/fd", weir.pid())).unwrap().count() as u64;
    Holds { resident, files: files - servers }
}

/// CVE class: an answer that reaches another client.
#[test]
fn clients_that_come_and_vanish_leave_nothing() {
    let soak: Option<u64> = std::env::var("PGWEIR_SOAK_SECONDS").ok().map(|s| s.parse().unwrap());
    let (clients, time) = soak.map_or((200, Duration::from_secs(6)), |s| (2_000, Duration::from_secs(s)));
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE ledger (id int8 PRIMARY KEY, fate text); CREATE TABLE scratch (id int8, v text)");
    let dir = tempfile::tempdir().unwrap();
    let weir = start(&cluster, dir.path(), clients);
    let tally = Arc::new(Tally::default());
    let probes = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgweir probe'";
    eventually("the server is probed", SETTLE, || (cluster.value(probes) == "1").then_some(()));
    let at_start = holds(&weir);
    // The console of the question before may still be on its way out: then one more would be missed for ever.
    let nobody = eventually("nobody is there but who asks", SETTLE, || {
        Some(lists(&weir)).filter(|now| now["used_clients"] == 1 && now["login_clients"] == 0)
    });

    churn(&weir, &tally, clients, time / 3);
    tally.assert_content();
    settle(&weir);
    let warm = holds(&weir);
    churn(&weir, &tally, clients, time - time / 3);
    tally.assert_content();
    settle(&weir);
    eventually("as many files as at the start", SETTLE, || (holds(&weir).files == at_start.files).then_some(()));
    let end = holds(&weir);
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    eprintln!(
        "{clients} clients at a time for {time:?}: {} lives, {} turns; {} kB at the start, {} kB warm, {} kB at the end",
        count(&tally.lives),
        count(&tally.turns),
        at_start.resident,
        warm.resident,
        end.resident
    );

    assert!(end.resident < warm.resident + warm.resident / 4 + 16_000, "memory grows: {at_start:?} {warm:?} {end:?}");
    numbers_are_exact(&weir, &cluster, &nobody);
    committed_is_what_was_answered(&cluster, &tally);
    servers_are_clean(&weir);
    traffic_is_counted_exactly(&weir);
}

/// Nobody is there but the console; what is shown of servers is what PostgreSQL has.
fn numbers_are_exact(weir: &Weir, cluster: &Cluster, nobody: &BTreeMap<String, u64>) {
    let shown = weir.admin_table("SHOW CLIENTS");
    assert!(shown.iter().all(|row| row["user"] == common::weir::ADMIN), "{shown:?}");
    // The console of the question before may still be on its way out.
    let lists = eventually("as many clients as at the start", SETTLE, || {
        let now = lists(weir);
        ["used_clients", "login_clients"].iter().all(|counted| now[*counted] == nobody[*counted]).then_some(now)
    });
    let servers = weir.admin_table("SHOW SERVERS");
    assert!(!servers.is_empty() && servers.len() <= POOL, "{}", servers.len());
    assert_eq!(lists["free_servers"] + lists["used_servers"], servers.len() as u64);
    let pools = weir.admin_table("SHOW POOLS");
    let pool = pools.iter().find(|row| row["database"] == "app").unwrap();
    let number = |column: &str| pool[column].parse::<usize>().unwrap();
    assert_eq!(at_work(weir), Vec::<String>::new());
    assert_eq!(number("sv_idle") + number("sv_used"), servers.len());
    let databases = weir.admin_table("SHOW DATABASES");
    let app = databases.iter().find(|row| row["name"] == "app").unwrap();
    assert_eq!(app["current_connections"], servers.len().to_string());
    assert_eq!(app["current_client_connections"], "0");
    for user in weir.admin_table("SHOW USERS").iter().filter(|row| [TRUSTED, PROVEN].contains(&row["name"].as_str())) {
        assert_eq!(user["current_client_connections"], "0", "{user:?}");
    }

    let shown: BTreeSet<String> = servers.iter().map(|row| row["remote_pid"].clone()).collect();
    let there = cluster.sql(&format!("SELECT pid, state {OF_THE_POOL}"));
    assert_eq!(there.iter().map(|row| row[0].clone()).collect::<BTreeSet<_>>(), shown);
    assert!(there.iter().all(|row| row[1] == "idle"), "{there:?}");
    assert_eq!(cluster.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), "0");
    assert_eq!(cluster.value("SELECT count(*) FROM pg_class WHERE relpersistence = 't' AND relkind = 'r'"), "0");

    let (_, metrics) = weir.http_get("/metrics");
    let known = metrics.lines().find_map(|line| line.strip_prefix("pgweir_prepared_statements ")).unwrap();
    assert!(known.parse::<usize>().unwrap() <= POOL * STATEMENTS, "{known} statements are kept");
}

/// What was rolled back or left open is not there; what was answered is.
fn committed_is_what_was_answered(cluster: &Cluster, tally: &Tally) {
    assert_eq!(cluster.value("SELECT count(*) FROM ledger WHERE fate = 'rollback'"), "0");
    let there: u64 = cluster.value("SELECT count(*) FROM ledger").parse().unwrap();
    let (known, begun) = (tally.commits_known.load(Ordering::Relaxed), tally.commits_begun.load(Ordering::Relaxed));
    assert!(known <= there && there <= begun, "{known} <= {there} <= {begun}");
}

/// Every server connection is what a fresh one is, but for the statements that are kept on it.
fn servers_are_clean(weir: &Weir) {
    let mut all: Vec<RawClient> = (0..POOL).map(|_| RawClient::connect(weir.port(), TRUSTED, "app")).collect();
    let mut pids = BTreeSet::new();
    for client in &mut all {
        assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
        pids.insert(client.value(common::SERVER_PID));
        let row = client
            .rows(
                "SELECT coalesce(current_setting('app.tenant', true), ''), current_setting('TimeZone') <> 'Asia/Tokyo', \
                 current_user, (SELECT count(*) FROM pg_listening_channels()), (SELECT count(*) FROM pg_cursors), \
                 (SELECT count(*) FROM ROWS FROM (pg_prepared_statement()) WHERE from_sql OR name NOT LIKE 'pgweir\\_%'), \
                 (SELECT count(*) FROM ROWS FROM (pg_prepared_statement()))",
            )
            .unwrap();
        assert_eq!(row[0][..6], ["", "t", "postgres", "0", "0", "0"], "{row:?}");
        assert!(row[0][6].parse::<usize>().unwrap() <= STATEMENTS, "{row:?}");
    }
    assert_eq!(pids.len(), POOL, "every one of them was seen");
}

/// From here on it is known what happens, and that is what the counters grow by.
fn traffic_is_counted_exactly(weir: &Weir) {
    let stats = || {
        let rows = weir.admin_table("SHOW STATS");
        let row = rows.into_iter().find(|row| row["database"] == "app").unwrap();
        move |name: &str| row[name].parse::<u64>().unwrap()
    };
    settle(weir);
    let before = stats();
    let mut client = RawClient::connect(weir.port(), TRUSTED, "app");
    for _ in 0..30 {
        assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
        assert_eq!(client.run("SELECT 1"), "T(?column?:23) D(1) C(SELECT 1) Z(T)");
        assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    }
    client.parse("counted", "SELECT 'counted'", &[]);
    for _ in 0..20 {
        client.bind("", "counted", &[]);
        client.execute("", 0);
        client.sync();
        client.read_until_ready();
    }
    for _ in 0..5 {
        // Whatever that takes behind the scenes, it is one statement.
        assert_eq!(client.run("EXECUTE counted"), "T(?column?:25) D(counted) C(SELECT 1) Z(I)");
    }
    drop(client);
    settle(weir);
    let after = stats();
    let grown = |name: &str| after(name) - before(name);
    assert_eq!(grown("total_xact_count"), 30 + 20 + 5);
    assert_eq!(grown("total_query_count"), 3 * 30 + 20 + 5);
    // An EXECUTE has something cleared away behind it; who is quicker than that finds its server still there.
    assert!((30 + 20 + 1..=30 + 20 + 5).contains(&grown("total_server_assignment_count")));
    assert_eq!(grown("total_client_parse_count"), 1);
    assert_eq!(grown("total_bind_count"), 20);
}

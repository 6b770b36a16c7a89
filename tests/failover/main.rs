//! The primary dies, hangs, is replaced or comes back: who is outside of a transaction sees a pause, who is inside one clear error,
//! and nothing acknowledged is lost. Shown with real streaming replicas that are promoted.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![allow(clippy::panic, reason = "a failed step is a failed test")]
#![allow(clippy::print_stderr, reason = "a load tells what it did")]

#[path = "../common/mod.rs"]
mod common;
mod patroni;
mod work;

use std::collections::BTreeMap;
use std::time::Duration;

use common::cluster::Cluster;
use common::eventually;
use common::raw::RawClient;
use common::weir::{Builder, Weir};
use common::wire::show;
use work::Work;

const PATIENCE: Duration = Duration::from_secs(20);
const PORT: &str = "SELECT inet_server_port()";

/// Three servers of which the first is the primary at the start, and pgweir before them; the database is `app`.
struct Site {
    weir: Weir,
    servers: [Cluster; 3],
}

impl Site {
    /// The servers stand in one list: the probes find out which is what.
    fn start(lines: &str) -> Self {
        Self::with(lines, |builder, _| builder)
    }

    fn with(lines: &str, more: impl FnOnce(Builder, &[Cluster; 3]) -> Builder) -> Self {
        let primary = Cluster::start();
        primary.sql(
            "CREATE TABLE log (session int, n int, PRIMARY KEY (session, n));
             CREATE TABLE t (id int PRIMARY KEY, at timestamptz DEFAULT clock_timestamp());",
        );
        let replicas = [primary.replica(), primary.replica()];
        let [a, b] = replicas;
        let servers = [primary, a, b];
        let urls: Vec<_> = servers.iter().map(|s| format!("\"postgres://127.0.0.1:{}/postgres\"", s.port())).collect();
        let builder = Weir::builder()
            .general("server_login_retry = \"100ms\"\nprobe_interval = \"100ms\"\nprobe_timeout = \"1s\"")
            .general("breaker_cooldown = \"200ms\"\nserver_connect_timeout = \"2s\"")
            .database(&format!("[databases.app]\nuser = \"postgres\"\nservers = [{}]\n{lines}\n", urls.join(", ")));
        let weir = more(builder, &servers).start();
        let site = Self { weir, servers };
        site.wait_state(0, "primary", "up");
        (1..3).for_each(|at| site.wait_state(at, "replica", "up"));
        site
    }

    fn client(&self) -> RawClient {
        self.weir.client("app")
    }

    fn port(&self, at: usize) -> String {
        self.servers[at].port().to_string()
    }

    /// The row of SHOW REPLICAS of a server.
    fn row(&self, at: usize) -> BTreeMap<String, String> {
        let rows = self.weir.admin_table("SHOW REPLICAS");
        rows.into_iter().find(|row| row["database"] == "app" && row["port"] == self.port(at)).unwrap()
    }

    fn wait_state(&self, at: usize, role: &str, state: &str) {
        eventually(&format!("server {at} is {role}, {state}"), PATIENCE, || {
            let row = self.row(at);
            (row["role"] == role && row["state"] == state).then_some(())
        });
    }

    /// Makes `heir` the primary, and lets the `other` replica follow it.
    fn promote(&self, heir: usize, other: usize) {
        self.servers[heir].promote();
        self.servers[other].follow(&self.servers[heir]);
    }

    /// Of the two replicas the one that has received more, and the other.
    fn heirs(&self, replicas: [usize; 2]) -> [usize; 2] {
        let [a, b] = replicas;
        let received = |at: usize| self.servers[at].value("SELECT pg_last_wal_receive_lsn() - '0/0'::pg_lsn");
        let number = |text: String| text.parse::<u64>().unwrap();
        if number(received(a)) >= number(received(b)) { [a, b] } else { [b, a] }
    }
}

/// What the client is told, with the codes of errors.
fn ask(client: &mut RawClient, sql: &str) -> String {
    client.run(sql)
}

/// Acknowledged writes must outlive the primary.
fn synchronous(primary: &Cluster) {
    primary.sql("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (*)'");
    primary.sql("SELECT pg_reload_conf()");
    eventually("replication is synchronous", PATIENCE, || {
        (!primary.value("SHOW synchronous_standby_names").is_empty()).then_some(())
    });
}

#[test]
fn crash_and_promotion_under_load_cost_a_pause() {
    let site = Site::start("");
    synchronous(&site.servers[0]);
    let work = Work::start(&site.weir, 50, site.servers[0].port());
    work.go_on_for(1500);
    site.servers[0].kill9();
    // Whoever wrote waits; whoever did not goes on.
    let mut reader = site.client();
    for _ in 0..50 {
        assert_ne!(reader.value(PORT), site.port(0));
    }
    let [heir, other] = site.heirs([1, 2]);
    site.promote(heir, other);
    site.wait_state(heir, "primary", "up");
    work.primary_is(site.servers[heir].port());
    work.go_on_for(1500);

    // The old primary comes back with its old history, and believes to be what it was.
    site.servers[0].restart();
    site.wait_state(0, "replica", "fenced");
    let port = site.port(0);
    let (_, metrics) = site.weir.http_get("/metrics");
    let fenced =
        |line: &&str| line.starts_with("pgweir_server_state") && line.contains(&port) && line.contains("fenced");
    assert!(metrics.lines().any(|line| fenced(&line)), "{metrics}");
    work.go_on_for(1500);
    let report = work.finish();
    eprintln!("crash: {report}");
    report.assert_clean();
    report.assert_kept(|sql| site.servers[heir].sql(sql));
}

#[test]
fn planned_switchover_costs_a_pause() {
    let site = Site::start("");
    let work = Work::start(&site.weir, 20, site.servers[0].port());
    work.go_on_for(500);
    // A fast shutdown sends all there is to the replicas.
    site.servers[0].stop();
    site.promote(1, 2);
    site.servers[0].rebuild_from(&site.servers[1]);
    site.wait_state(1, "primary", "up");
    work.primary_is(site.servers[1].port());
    site.wait_state(0, "replica", "up");
    work.go_on_for(1000);
    let report = work.finish();
    eprintln!("switchover: {report}");
    report.assert_clean();
    report.assert_kept(|sql| site.servers[1].sql(sql));
}

/// A client in a transaction is told once, finds its block failed, and goes on.
#[test]
fn transactions_fail_and_their_sessions_live_on() {
    let site = Site::start("");
    let mut idle = site.client();
    assert_eq!(ask(&mut idle, "BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(ask(&mut idle, "INSERT INTO t VALUES (1)"), "C(INSERT 0 1) Z(T)");
    let begun_with = |sql: &str| {
        let mut client = site.client();
        assert_eq!(ask(&mut client, "BEGIN"), "C(BEGIN) Z(T)");
        assert!(ask(&mut client, sql).ends_with("Z(T)"));
        client
    };
    let (mut rolls_back, mut commits) =
        (begun_with("INSERT INTO t VALUES (2)"), begun_with("INSERT INTO t VALUES (3)"));
    let mut extended = begun_with("INSERT INTO t VALUES (4)");
    let mut only_begun = site.client();
    assert_eq!(ask(&mut only_begun, "BEGIN ISOLATION LEVEL SERIALIZABLE"), "C(BEGIN) Z(T)");
    let mut failed = begun_with("SELECT 1");
    assert_eq!(ask(&mut failed, "SELECT no_such_column"), "E(42703) Z(E)");
    // In the middle of a statement: in a block, and by itself.
    let mut in_block = begun_with("SELECT 1");
    in_block.query("INSERT INTO t SELECT 5 FROM pg_sleep(30)");
    let mut alone = site.client();
    alone.query("INSERT INTO t SELECT 6 FROM pg_sleep(30)");
    let mut read = site.client();
    let rests = format!("pg_sleep(CASE inet_server_port() WHEN {} THEN 30 ELSE 0 END)", site.port(0));
    read.query(&format!("/* pgweir: primary */ SELECT inet_server_port() > 0 FROM {rests}"));
    // What stands alone in a pipeline is committed by its Sync, however long it has been answered.
    let mut piped = site.client();
    for sql in ["INSERT INTO t VALUES (8)", "SELECT pg_sleep(30)"] {
        piped.parse("", sql, &[]);
        piped.bind("", "", &[]);
        piped.execute("", 0);
        piped.flush();
    }
    piped.sync();
    let mut pinned = site.client();
    ask(&mut pinned, "CREATE TEMP TABLE mine (a int)");
    eventually("all are under way", PATIENCE, || {
        let active = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        (site.servers[0].value(active) == "4").then_some(())
    });
    site.servers[0].kill9();
    assert_eq!(show(&in_block.read_until_ready()), "E(57P01) Z(E)");
    let doubt = alone.read_until_ready();
    assert_eq!(show(&doubt), "E(08007) Z(I)");
    let told = doubt[0].error().unwrap();
    assert!(told.message.contains("not known whether it was done"), "{told}");
    let told = show(&piped.read_until_ready());
    assert!(told.starts_with("1 2 C(INSERT 0 1) ") && told.ends_with("E(08007) Z(I)"), "{told}");
    let gone = pinned.read_to_end();
    assert!(gone.iter().all(|m| m.tag == b'E'), "its tables were there: {}", show(&gone));

    // No server takes writes yet, and nobody needs one to leave a block.
    assert_eq!(ask(&mut idle, "SELECT 1"), "E(57P01) Z(E)");
    assert_eq!(ask(&mut idle, "SELECT 1"), "E(25P02) Z(E)");
    assert_eq!(ask(&mut idle, "ROLLBACK; SELECT 1"), "E(25P02) Z(E)", "half of it would be refused");
    assert_eq!(ask(&mut idle, "COMMIT"), "C(ROLLBACK) Z(I)");
    assert_eq!(ask(&mut rolls_back, "ROLLBACK"), "C(ROLLBACK) Z(I)", "which is what happened");
    assert_eq!(ask(&mut commits, "COMMIT"), "E(57P01) Z(I)", "which is not");
    assert_eq!(ask(&mut failed, "SELECT 1"), "E(25P02) Z(E)");
    assert_eq!(ask(&mut failed, "END"), "C(ROLLBACK) Z(I)");
    let send = |client: &mut RawClient, sql: &str| {
        client.parse("", sql, &[]);
        client.bind("", "", &[]);
        client.describe_portal("");
        client.execute("", 0);
        client.sync();
        show(&client.read_until_ready())
    };
    assert_eq!(send(&mut extended, "INSERT INTO t VALUES (7)"), "E(57P01) Z(E)");
    assert_eq!(send(&mut extended, "SELECT 1"), "E(25P02) Z(E)");
    assert_eq!(send(&mut extended, "ROLLBACK"), "1 2 n C(ROLLBACK) Z(I)");
    assert_eq!(ask(&mut in_block, "ROLLBACK"), "C(ROLLBACK) Z(I)");

    // Writes wait, reads do not.
    let mut writers: Vec<_> = [idle, rolls_back, commits, failed, extended, in_block, alone].into_iter().collect();
    for (at, client) in writers.iter_mut().enumerate() {
        client.query(&format!("INSERT INTO t VALUES ({})", 100 + at));
    }
    only_begun.query("INSERT INTO t VALUES (99) RETURNING current_setting('transaction_isolation')");
    assert_ne!(site.client().value(PORT), site.port(0));
    site.promote(1, 2);
    for client in &mut writers {
        assert_eq!(show(&client.read_until_ready()), "C(INSERT 0 1) Z(I)");
    }
    let begun = show(&only_begun.read_until_ready());
    assert!(
        begun.ends_with("D(serializable) C(INSERT 0 1) Z(T)"),
        "a block that had only begun begins elsewhere: {begun}"
    );
    assert_eq!(ask(&mut only_begun, "COMMIT"), "C(COMMIT) Z(I)");
    let seen = show(&read.read_until_ready());
    assert!(seen.contains("D(t)") && seen.ends_with("Z(I)"), "a read is asked again: {seen}");
    let ids = "SELECT string_agg(id::text, ',' ORDER BY id) FROM t";
    assert_eq!(site.servers[1].value(ids), "99,100,101,102,103,104,105,106");
}

/// While there is no primary, writes stand in line; the first to come is the first to be served.
#[test]
fn writes_wait_in_the_order_of_their_arrival() {
    let site = Site::start("pool_size = 1");
    let mut clients: Vec<_> = (0..12).map(|_| site.client()).collect();
    clients.iter_mut().for_each(|client| drop(client.value(PORT)));
    site.servers[0].kill9();
    for (id, client) in clients.iter_mut().enumerate() {
        client.query(&format!("INSERT INTO t VALUES ({id})"));
        eventually("it waits", PATIENCE, || {
            let waiting = site.weir.admin_table("SHOW CLIENTS");
            let count = waiting.iter().filter(|row| row["database"] == "app" && row["state"] == "waiting").count();
            (count > id).then_some(())
        });
    }
    // Who gives up while waiting leaves the others in their order.
    clients[3].cancel();
    assert_eq!(show(&clients[3].read_until_ready()), "E(57014) Z(I)");
    site.promote(2, 1);
    for (id, client) in clients.iter_mut().enumerate().filter(|(id, _)| *id != 3) {
        assert_eq!(show(&client.read_until_ready()), "C(INSERT 0 1) Z(I)", "{id}");
    }
    let order = site.servers[2].value("SELECT string_agg(id::text, ',' ORDER BY at) FROM t");
    assert_eq!(order, "0,1,2,4,5,6,7,8,9,10,11");
}

/// A primary that hangs is replaced: who waits for it, or is in the middle of something there, leaves.
#[test]
fn frozen_primary_is_fenced_when_another_takes_over() {
    let site = Site::start("");
    let mut in_block = site.client();
    ask(&mut in_block, "BEGIN");
    ask(&mut in_block, "INSERT INTO t VALUES (1)");
    site.servers[0].freeze();
    in_block.query("COMMIT");
    let mut writer = site.client();
    eventually("the probes notice", PATIENCE, || (site.row(0)["state"] == "down").then_some(()));
    writer.query("INSERT INTO t VALUES (2)");
    site.promote(1, 2);
    assert_eq!(show(&writer.read_until_ready()), "C(INSERT 0 1) Z(I)");
    assert_eq!(show(&in_block.read_until_ready()), "E(08007) Z(I)");
    assert_eq!(ask(&mut in_block, "INSERT INTO t VALUES (3)"), "C(INSERT 0 1) Z(I)");
    site.servers[0].thaw();
    site.wait_state(0, "replica", "fenced");
    for id in 10..30 {
        assert_eq!(ask(&mut writer, &format!("INSERT INTO t VALUES ({id})")), "C(INSERT 0 1) Z(I)");
    }
    assert_eq!(site.servers[1].value("SELECT count(*) FROM t"), "22");
}

/// Where statements do not wait for a primary, nobody stays with one that another has taken the place of either: what it wrote there
/// would be lost.
#[test]
fn a_fenced_primary_is_left_where_nothing_waits() {
    let site = Site::start("failover_timeout = 0");
    let mut pinned = site.client();
    assert_eq!(ask(&mut pinned, "CREATE TEMP TABLE mine (a int)"), "C(CREATE TABLE) Z(I)");
    let mut in_block = site.client();
    assert_eq!(ask(&mut in_block, "BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(ask(&mut in_block, "INSERT INTO t VALUES (1)"), "C(INSERT 0 1) Z(T)");
    site.promote(1, 2);
    site.wait_state(0, "replica", "fenced");
    for client in [&mut pinned, &mut in_block] {
        client.set_read_timeout(PATIENCE);
        let told = client.read_to_end();
        assert!(!told.is_empty() && told.iter().all(|m| m.tag == b'E'), "{}", show(&told));
    }
    assert_eq!(ask(&mut site.client(), "INSERT INTO t VALUES (2)"), "C(INSERT 0 1) Z(I)");
    assert_eq!(site.servers[0].value("SELECT count(*) FROM t"), "0");
    assert_eq!(site.servers[1].value("SELECT count(*) FROM t"), "1");
}

/// A fast shutdown tells each session that it ends, and so that its statement was not done: it is done by the next primary, unseen.
#[test]
fn writes_in_flight_at_a_switchover_are_done_by_the_next_primary() {
    let site = Site::start("");
    let mut clients: Vec<_> = (0..6).map(|_| site.client()).collect();
    for (at, client) in clients.iter_mut().enumerate() {
        let sql = format!(
            "INSERT INTO t SELECT {at} FROM pg_sleep(CASE inet_server_port() WHEN {} THEN 60 ELSE 0 END)",
            site.port(0)
        );
        if at % 2 == 0 {
            client.query(&sql);
        } else {
            client.parse("", &sql, &[]);
            client.bind("", "", &[]);
            client.execute("", 0);
            client.sync();
        }
    }
    eventually("all are under way", PATIENCE, || {
        let active = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        (site.servers[0].value(active) == "6").then_some(())
    });
    site.servers[0].stop();
    site.promote(1, 2);
    for (at, client) in clients.iter_mut().enumerate() {
        client.set_read_timeout(PATIENCE);
        let told = show(&client.read_until_ready());
        assert!(told.ends_with("C(INSERT 0 1) Z(I)"), "{at}: {told}");
    }
    assert_eq!(site.servers[1].value("SELECT string_agg(id::text, ',' ORDER BY id) FROM t"), "0,1,2,3,4,5");
}

/// Who is served until it leaves hears of a failover to the end: the process goes on probing while it ends.
#[test]
fn a_failover_is_followed_while_the_process_ends() {
    let site = Site::with("", |builder, _| builder.general("shutdown_timeout = 0"));
    let mut client = site.client();
    assert_eq!(ask(&mut client, "INSERT INTO t VALUES (1)"), "C(INSERT 0 1) Z(I)");
    site.weir.term();
    site.weir.wait_log("shutting down");
    site.servers[0].kill9();
    client.query("INSERT INTO t VALUES (2)");
    site.promote(1, 2);
    assert_eq!(show(&client.read_until_ready()), "C(INSERT 0 1) Z(I)");
    assert_eq!(site.servers[1].value("SELECT count(*) FROM t WHERE id = 2"), "1");
    drop(client);
    assert!(site.weir.wait_exit(PATIENCE).success());
}

/// After a start nothing is written before every server was heard of, or missed a probe. That takes `probe_timeout`, whatever
/// `failover_timeout` says.
#[test]
fn a_replica_that_says_nothing_at_the_start_refuses_no_write() {
    let primary = Cluster::start();
    primary.sql("CREATE TABLE t (id int)");
    // The kernel takes connections, and nobody answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = |port: u16| format!("\"postgres://127.0.0.1:{port}/postgres\"");
    let weir = Weir::builder()
        .general("probe_timeout = \"2s\"\nfailover_timeout = \"200ms\"")
        .database(&format!(
            "[databases.app]\nuser = \"postgres\"\nprimary = {}\nreplicas = [{}]\n",
            url(primary.port()),
            url(silent.local_addr().unwrap().port())
        ))
        .start();
    assert_eq!(ask(&mut weir.client("app"), "INSERT INTO t VALUES (1)"), "C(INSERT 0 1) Z(I)");
}

/// No primary for too long: an error that says so. A server that is called the primary and is none gets no write.
#[test]
fn waiting_has_an_end_and_roles_are_checked() {
    let site = Site::with("failover_timeout = \"1s\"", |builder, servers| {
        builder.database(&format!(
            "[databases.wrong]\nuser = \"postgres\"\nfailover_timeout = \"1s\"\nprimary = \"postgres://127.0.0.1:{}/postgres\"\n\
             replicas = [\"postgres://127.0.0.1:{}/postgres\"]",
            servers[1].port(),
            servers[2].port()
        ))
        .database(&format!(
            "[databases.unprobed]\nprimary = \"postgres://127.0.0.1:{}/postgres\"\n\
             replicas = [\"postgres://127.0.0.1:{}/postgres\"]",
            servers[1].port(),
            servers[2].port()
        ))
    });
    // Nobody but who writes finds out that it is none, on a connection that he has. When it hangs then, he is not deaf.
    let mut unprobed = site.weir.client("unprobed");
    unprobed.query("INSERT INTO t VALUES (0)");
    std::thread::sleep(Duration::from_millis(700));
    site.servers[1].freeze();
    std::thread::sleep(Duration::from_millis(1200));
    let since = pgweir::clock::now();
    unprobed.cancel();
    assert_eq!(show(&unprobed.read_until_ready()), "E(57014) Z(I)");
    assert!(since.elapsed() < Duration::from_secs(1), "it was deaf for {:?}", since.elapsed());
    site.servers[1].thaw();
    let mut client = site.weir.client("wrong");
    for _ in 0..2 {
        let error = client.rows("INSERT INTO t VALUES (1)").unwrap_err();
        assert_eq!(error.code, "08006", "{error}");
        assert!(error.message.contains("failover_timeout"), "{error}");
    }
    let rows = site.weir.admin_table("SHOW REPLICAS");
    let wrong = rows.iter().find(|row| row["database"] == "wrong" && row["port"] == site.port(1)).unwrap();
    assert_eq!((wrong["role"].as_str(), wrong["state"].as_str()), ("primary", "standby"));
    // It is promoted, and a connection that was made before serves at once.
    site.promote(1, 2);
    eventually("it takes writes", PATIENCE, || {
        (ask(&mut client, "INSERT INTO t VALUES (1)") == "C(INSERT 0 1) Z(I)").then_some(())
    });

    let mut app = site.client();
    eventually("the old primary is fenced", PATIENCE, || (site.row(0)["state"] == "fenced").then_some(()));
    site.servers[1].kill9();
    let error = app.rows("INSERT INTO t VALUES (2)").unwrap_err();
    assert_eq!(error.code, "08006", "{error}");
    assert!(error.message.contains("failover_timeout"), "{error}");
    assert_eq!(app.value(PORT), site.port(2), "the session lives on");
    for server in &site.servers[1..] {
        assert!(!server.log_text().contains("in a read-only transaction"), "a write reached a standby");
    }
}

/// A reload changes what it says, and nothing that was found out.
#[test]
fn a_reload_does_not_bring_the_old_primary_back() {
    let site = Site::start("");
    let mut client = site.client();
    site.servers[0].kill9();
    site.promote(1, 2);
    site.wait_state(1, "primary", "up");
    site.servers[0].restart();
    site.wait_state(0, "replica", "fenced");
    for n in 0..20 {
        site.weir.admin(&format!("SET server_idle_timeout = {}", 1000 + n));
        assert_eq!(ask(&mut client, &format!("INSERT INTO t VALUES ({n})")), "C(INSERT 0 1) Z(I)");
        assert_eq!(site.client().value("/* pgweir: primary */ SELECT count(*) FROM t"), (n + 1).to_string());
    }
    assert_eq!(site.servers[0].value("SELECT count(*) FROM t"), "0");

    // Who waits for a primary finds one that a reload brings.
    let reload = |from: &str, to: &str| {
        let text = std::fs::read_to_string(site.weir.config_path()).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(site.weir.config_path(), text.replace(from, to)).unwrap();
        site.weir.admin("RELOAD");
    };
    let url = |at: usize| format!("\"postgres://127.0.0.1:{}/postgres\"", site.port(at));
    reload(&format!(", {}", url(2)), "");
    site.wait_state(1, "primary", "up");
    site.servers[1].kill9();
    client.query("INSERT INTO t VALUES (50)");
    let mut second = site.client();
    second.query("INSERT INTO t VALUES (51)");
    eventually("they wait", PATIENCE, || {
        let waiting = site.weir.admin_table("SHOW CLIENTS");
        (waiting.iter().filter(|row| row["state"] == "waiting").count() == 2).then_some(())
    });
    site.servers[2].promote();
    reload(&url(1), &format!("{}, {}", url(1), url(2)));
    assert_eq!(show(&client.read_until_ready()), "C(INSERT 0 1) Z(I)");
    assert_eq!(show(&second.read_until_ready()), "C(INSERT 0 1) Z(I)");
    assert_eq!(site.servers[2].value("SELECT count(*) FROM t WHERE id IN (50, 51)"), "2");

    // So does one that finds a single server, for which nobody waits.
    site.servers[2].kill9();
    client.query("INSERT INTO t VALUES (60)");
    second.query("INSERT INTO t VALUES (61)");
    eventually("they wait again", PATIENCE, || {
        let waiting = site.weir.admin_table("SHOW CLIENTS");
        (waiting.iter().filter(|row| row["state"] == "waiting").count() == 2).then_some(())
    });
    reload(&format!("[{}, {}, {}]", url(0), url(1), url(2)), &format!("[{}]", url(0)));
    assert_eq!(show(&client.read_until_ready()), "C(INSERT 0 1) Z(I)");
    assert_eq!(show(&second.read_until_ready()), "C(INSERT 0 1) Z(I)");
    assert_eq!(site.servers[0].value("SELECT count(*) FROM t WHERE id IN (60, 61)"), "2");
}

/// Who waits for a primary of a database that is removed meanwhile can still be told to stop, and delays nobody.
#[test]
fn who_waits_in_a_database_that_is_no_more_can_be_cancelled() {
    let site = Site::start("");
    let mut client = site.client();
    site.servers[0].kill9();
    client.query("INSERT INTO t VALUES (1)");
    eventually("it waits", PATIENCE, || {
        let clients = site.weir.admin_table("SHOW CLIENTS");
        clients.iter().any(|row| row["state"] == "waiting").then_some(())
    });
    let text = std::fs::read_to_string(site.weir.config_path()).unwrap();
    std::fs::write(site.weir.config_path(), text.replace("[databases.app]", "[databases.other]")).unwrap();
    site.weir.admin("RELOAD");
    // It is the first in line, and looks around.
    std::thread::sleep(Duration::from_millis(300));
    client.cancel();
    client.set_read_timeout(Duration::from_secs(5));
    assert_eq!(show(&client.read_until_ready()), "E(57014) Z(I)");
}

/// A replica that nobody told of the new primary has all that it can receive, and is behind all the same: it receives nothing, or what
/// the old primary goes on writing.
#[test]
fn a_replica_left_behind_gets_no_reads() {
    left_behind("max_lag = \"1s\"");
}

/// What it has replayed may never have happened: that is no matter of how old it is.
#[test]
fn nor_without_a_limit_of_lag() {
    left_behind("");
}

fn left_behind(lines: &str) {
    let site = Site::start(lines);
    let mut client = site.client();
    site.servers[0].kill9();
    site.servers[1].promote();
    site.wait_state(1, "primary", "up");
    assert_eq!(ask(&mut client, "INSERT INTO t VALUES (1)"), "C(INSERT 0 1) Z(I)");
    site.wait_state(2, "replica", "lagging");
    site.servers[0].restart();
    site.wait_state(0, "replica", "fenced");
    site.servers[0].wait_streaming(&site.servers[2]);
    site.servers[0].sql("INSERT INTO t VALUES (2)");
    site.servers[0].wait_replayed(&site.servers[2]);
    std::thread::sleep(Duration::from_millis(500));
    for _ in 0..20 {
        assert_eq!(site.row(2)["state"], "lagging");
        assert_eq!(site.client().value("SELECT string_agg(id::text, ',') FROM t"), "1");
    }
}

/// A replica of a replica is a replica: its sessions read what they wrote, and it goes with the one that it follows.
#[test]
fn a_replica_of_a_replica_serves_reads() {
    let site = Site::start("max_lag = \"5s\"");
    site.servers[2].follow(&site.servers[1]);
    let mut client = site.client();
    let mut next = 0;
    let mut served = |client: &mut RawClient| {
        eventually("the last serves a read of what was written", PATIENCE, || {
            next += 1;
            assert_eq!(ask(client, &format!("INSERT INTO t VALUES ({next})")), "C(INSERT 0 1) Z(I)");
            for _ in 0..20 {
                let row = client.rows("SELECT count(*), inet_server_port() FROM t").unwrap().remove(0);
                assert_eq!(row[0], next.to_string(), "its own write is not there");
                if row[1] == site.port(2) {
                    return Some(());
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            None
        });
    };
    served(&mut client);
    // Cut off from its upstream for a moment it is asked for nothing that it lacks.
    site.servers[1].sql("SELECT pg_terminate_backend(pid) FROM pg_stat_replication");
    served(&mut client);
    site.servers[0].kill9();
    site.servers[1].promote();
    site.wait_state(1, "primary", "up");
    site.wait_state(2, "replica", "up");
    served(&mut client);
}

/// Replicas are paused, hang, die and come back, and the primary is replaced by a crash or as planned, again and again. For
/// `PGWEIR_SOAK_SECONDS` with 64 sessions under `make soak`, else once with fewer.
#[test]
fn everything_happens_in_a_loop_under_load() {
    let soak: Option<u64> = std::env::var("PGWEIR_SOAK_SECONDS").ok().map(|s| s.parse().unwrap());
    let (sessions, time) = soak.map_or((24, Duration::ZERO), |seconds| (64, Duration::from_secs(seconds)));
    let site = Site::start("");
    synchronous(&site.servers[0]);
    let work = Work::start(&site.weir, sessions, site.servers[0].port());
    let some = 10 * sessions as u64;
    work.go_on_for(some);
    let (began, mut rounds, mut order) = (pgweir::clock::now(), 0_u32, [0, 1, 2]);
    loop {
        let [old, a, b] = order;
        let servers = &site.servers;
        for replica in [a, b] {
            servers[replica].sql("SELECT pg_wal_replay_pause()");
        }
        work.go_on_for(some);
        for replica in [a, b] {
            servers[replica].sql("SELECT pg_wal_replay_resume()");
        }
        servers[a].freeze();
        work.go_on_for(some);
        servers[a].thaw();
        work.go_on_for(some);
        servers[b].kill9();
        work.go_on_for(some);
        servers[b].restart();
        servers[old].wait_streaming(&servers[b]);
        work.go_on_for(some);
        if rounds.is_multiple_of(2) {
            servers[old].kill9();
        } else {
            servers[old].stop();
        }
        let [heir, other] = site.heirs([a, b]);
        site.promote(heir, other);
        work.primary_is(servers[heir].port());
        synchronous(&servers[heir]);
        site.wait_state(heir, "primary", "up");
        work.go_on_for(some);
        servers[old].rebuild_from(&servers[heir]);
        site.wait_state(old, "replica", "up");
        work.go_on_for(some);
        order = [heir, other, old];
        rounds += 1;
        if began.elapsed() >= time {
            break;
        }
    }
    let report = work.finish();
    eprintln!("{rounds} rounds: {report}");
    report.assert_clean();
    report.assert_kept(|sql| site.servers[order[0]].sql(sql));
}

/// What a read must see is a setting; each is kept when replay stops everywhere.
#[test]
fn levels_of_consistency_and_limits_of_lag_are_kept() {
    let site = Site::with("consistency = \"strong\"", |builder, servers| {
        let urls: Vec<_> = servers.iter().map(|s| format!("\"postgres://127.0.0.1:{}/postgres\"", s.port())).collect();
        let like = |name: &str, lines: &str| {
            format!("[databases.{name}]\nuser = \"postgres\"\nservers = [{}]\n{lines}\n", urls.join(", "))
        };
        builder
            .database(&like("bounded", "consistency = \"eventual\"\nmax_staleness = \"1s\""))
            .database(&like(
                "never",
                "consistency = \"eventual\"\nmax_staleness = \"1s\"\nreplica_fallback = \"error\"",
            ))
            .database(&like("bytes", "max_lag_bytes = \"64kB\""))
            .database(&like("turns", "load_balance = \"round_robin\""))
            .database(&like("own", ""))
            .database(&like("loose", "consistency = \"eventual\""))
    });
    let count = "SELECT inet_server_port(), count(*) FROM t";
    let seen = |client: &mut RawClient| {
        let row = client.rows(count).unwrap().remove(0);
        (row[0].clone(), row[1].parse::<usize>().unwrap())
    };
    let client = |name: &str| site.weir.client(name);
    let from_replica = |client: &mut RawClient| {
        eventually("a replica serves the read", PATIENCE, || {
            let (port, rows) = seen(client);
            (port != site.port(0)).then_some(rows)
        })
    };
    let mut readers = ["app", "bounded", "never", "bytes", "turns"].map(client);
    readers.iter_mut().for_each(|reader| assert_eq!(from_replica(reader), 0));
    let [strong, bounded, never, bytes, turns] = &mut readers;

    let mut ports = BTreeMap::new();
    (0..100).for_each(|_| *ports.entry(turns.value(PORT)).or_insert(0) += 1);
    assert_eq!(ports.into_values().collect::<Vec<_>>(), [50, 50]);

    // Commits that wait for no disk are seen as well.
    let mut own = client("own");
    assert_eq!(own.run("SET synchronous_commit = off"), "C(SET) Z(I)");
    for id in 1..=50 {
        assert_eq!(own.run(&format!("INSERT INTO t VALUES ({id})")), "C(INSERT 0 1) Z(I)");
        assert_eq!(seen(&mut own).1, id, "its own write is not there");
    }
    for at in 1..3 {
        site.servers[0].wait_replayed(&site.servers[at]);
        site.servers[at].sql("SELECT pg_wal_replay_pause()");
        eventually("replay is paused", PATIENCE, || {
            site.servers[0].sql("SELECT pg_logical_emit_message(false, 'tick', 'x')");
            (site.servers[at].value("SELECT pg_get_wal_replay_pause_state()") == "paused").then_some(())
        });
    }
    // Another session's write is seen as soon as it was acknowledged.
    let mut writer = client("app");
    for id in 51..=100 {
        assert_eq!(writer.run(&format!("INSERT INTO t VALUES ({id})")), "C(INSERT 0 1) Z(I)");
        assert_eq!(seen(strong), (site.port(0), id));
    }
    // A token has another session see it, and nobody else.
    let token = writer.value("SHOW pgweir.causal_token");
    let mut loose = client("loose");
    assert_eq!(from_replica(&mut loose), 50);
    assert_eq!(loose.run("SET pgweir.causal_token = 'x'"), "E(22023) Z(I)");
    assert_eq!(loose.run(&format!("SET pgweir.causal_token = '{token}'")), "C(SET) Z(I)");
    (0..20).for_each(|_| assert_eq!(seen(&mut loose), (site.port(0), 100)));
    assert_eq!(loose.value("SHOW pgweir.causal_token"), token);
    let written = pgweir::clock::now();
    eventually("what is a second old is seen", PATIENCE, || (seen(bounded).1 == 100).then_some(()));
    std::thread::sleep(Duration::from_secs(1).saturating_sub(written.elapsed()));
    for _ in 0..20 {
        assert_eq!(seen(bounded), (site.port(0), 100));
        let refused = never.rows(count).unwrap_err();
        assert_eq!(refused.code, "57P03", "{refused}");
    }
    // Without a limit of bytes an idle session may go on reading there; with one it must not.
    site.servers[0].sql("SELECT pg_logical_emit_message(false, 'x', repeat('x', 200000))");
    eventually("the replicas lag", PATIENCE, || {
        let rows = site.weir.admin_table("SHOW REPLICAS");
        let lagging = rows.iter().filter(|row| row["database"] == "bytes" && row["state"] == "lagging");
        (lagging.count() == 2).then_some(())
    });
    assert_eq!(seen(bytes), (site.port(0), 100));
    let (_, metrics) = site.weir.http_get("/metrics");
    for why in ["too_stale", "replicas_lag", "own_writes_not_replayed"] {
        let counted =
            |line: &str| line.starts_with("pgweir_routes_total") && line.contains(why) && !line.ends_with(" 0");
        assert!(metrics.lines().any(counted), "{why}: {metrics}");
    }
    for at in 1..3 {
        site.servers[at].sql("SELECT pg_wal_replay_resume()");
    }
    for reader in [strong, bounded, never, bytes, &mut loose] {
        eventually("a replica serves the read again", PATIENCE, || {
            let row = reader.rows(count).ok()?.remove(0);
            assert_eq!(row[1], "100");
            (row[0] != site.port(0)).then_some(())
        });
    }
}

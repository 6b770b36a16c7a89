//! Reads go to replicas, writes to the primary, and a session sees what it wrote: shown with a primary and two streaming
//! replicas that are paused, killed, frozen, stopped and brought back.
//!
//! Which server ran a statement is what `inet_server_port()` says there. That no write was tried on a replica is read in the
//! replicas' logs, for pgweir would hide it from the client.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![allow(clippy::panic, reason = "a failed step is a failed test")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use common::cluster::Cluster;
use common::eventually;
use common::raw::RawClient;
use common::weir::{Builder, Weir};
use common::wire::show;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const PATIENCE: Duration = Duration::from_secs(20);
const PORT: &str = "SELECT inet_server_port()";
/// What a standby says of a write.
const REFUSAL: &str = "in a read-only transaction";

/// A primary, two replicas, and pgweir before them; the database is `app`.
struct Site {
    weir: Weir,
    primary: Cluster,
    replicas: [Cluster; 2],
}

impl Site {
    fn start() -> Self {
        Self::with("", |builder, _| builder)
    }

    /// `lines` go into `[databases.app]`; `more` adds databases and users, given the lines that name the servers.
    fn with(lines: &str, more: impl FnOnce(Builder, &str) -> Builder) -> Self {
        let primary = Cluster::start();
        primary.sql(
            "CREATE TABLE t (id int PRIMARY KEY, note text);
             CREATE SEQUENCE s;
             CREATE FUNCTION f() RETURNS int LANGUAGE sql VOLATILE AS 'INSERT INTO t VALUES (-1) ON CONFLICT DO NOTHING; SELECT 7'",
        );
        let replicas = [primary.replica(), primary.replica()];
        replicas.iter().for_each(|replica| primary.wait_replayed(replica));
        let servers = servers(&primary, &replicas);
        let builder = Weir::builder()
            .general("server_login_retry = \"100ms\"\nprobe_interval = \"100ms\"\nprobe_timeout = \"500ms\"")
            .general("breaker_cooldown = \"200ms\"\nserver_connect_timeout = \"2s\"")
            .database(&format!("[databases.app]\n{servers}{lines}\n"));
        let site = Self { weir: more(builder, &servers).start(), primary, replicas };
        site.wait_probed();
        site
    }

    /// Until both replicas are known for what they are: before that the session's own writes are nowhere.
    fn wait_probed(&self) {
        eventually("both replicas are probed", PATIENCE, || {
            let rows = self.weir.admin_table("SHOW REPLICAS");
            let known = rows.iter().filter(|row| row["database"] == "app" && !row["lag_bytes"].is_empty());
            (known.count() >= 2).then_some(())
        });
    }

    fn client(&self) -> RawClient {
        self.weir.client("app")
    }

    fn primary_port(&self) -> String {
        self.primary.port().to_string()
    }

    fn is_replica(&self, port: &str) -> bool {
        self.replicas.iter().any(|replica| replica.port().to_string() == port)
    }

    /// The row of SHOW REPLICAS of the server on `port`.
    fn state(&self, port: u16) -> BTreeMap<String, String> {
        let rows = self.weir.admin_table("SHOW REPLICAS");
        rows.into_iter().find(|row| row["database"] == "app" && row["port"] == port.to_string()).unwrap()
    }

    /// What the server on `port` is.
    fn place(&self, port: &str, sql: &str) -> Place {
        if port == self.primary_port() {
            Place::Primary
        } else {
            assert!(self.is_replica(port), "{sql}: {port} is none of the servers");
            Place::Replica
        }
    }

    /// No replica was ever asked to write.
    fn assert_no_refusals(&self) {
        for replica in &self.replicas {
            let log = replica.log_text();
            assert!(!log.contains(REFUSAL), "a write reached a replica:\n{log}");
        }
    }

    /// Pauses replay everywhere; returns when it has stopped.
    fn pause_replay(&self) {
        for replica in &self.replicas {
            replica.sql("SELECT pg_wal_replay_pause()");
            eventually("replay is paused", PATIENCE, || {
                // Replay notices between two records.
                self.primary.sql("SELECT pg_logical_emit_message(false, 'tick', 'x')");
                (replica.value("SELECT pg_get_wal_replay_pause_state()") == "paused").then_some(())
            });
        }
    }

    fn resume_replay(&self) {
        self.replicas.iter().for_each(|replica| drop(replica.sql("SELECT pg_wal_replay_resume()")));
    }
}

/// The lines that name the servers; the second replica is to get three times the reads of the first.
fn servers(primary: &Cluster, replicas: &[Cluster; 2]) -> String {
    let url = |cluster: &Cluster| format!("\"postgres://127.0.0.1:{}/postgres\"", cluster.port());
    format!(
        "user = \"postgres\"\nprimary = {}\nreplicas = [{{ url = {}, weight = 1 }}, {{ url = {}, weight = 3 }}]\n",
        url(primary),
        url(&replicas[0]),
        url(&replicas[1])
    )
}

/// Whether it is to take as long as it says somewhere, as under `make soak`.
fn is_soak() -> bool {
    std::env::var_os("PGWEIR_SOAK_SECONDS").is_some()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Primary,
    Replica,
}

/// Clients that read all the time; what any of them met that is not a row is kept.
struct Load {
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    /// Half of the clients use the simple protocol, half a named statement.
    fn start(site: &Site, clients: usize) -> Self {
        let (stop, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..clients).map(|number| {
            let (stop, reads, mut client) = (Arc::clone(&stop), Arc::clone(&reads), site.client());
            std::thread::spawn(move || {
                let mut bad = Vec::new();
                if number % 2 == 1 {
                    client.parse("s", PORT, &[]);
                    client.sync();
                    client.read_until_ready();
                }
                while !stop.load(Ordering::Relaxed) && bad.is_empty() {
                    if number % 2 == 1 {
                        client.bind("", "s", &[]);
                        client.execute("", 0);
                        client.sync();
                    } else {
                        client.query(PORT);
                    }
                    let answer = next_answer(&mut client);
                    if answer.contains("D(") && !answer.contains("E(") {
                        reads.fetch_add(1, Ordering::Relaxed);
                    } else {
                        bad.push(answer);
                    }
                }
                bad
            })
        });
        let threads = threads.collect();
        Self { stop, reads, threads }
    }

    /// Waits until `count` more reads were answered.
    fn go_on_for(&self, count: u64) {
        let until = self.reads.load(Ordering::Relaxed) + count;
        eventually("the reads go on", PATIENCE, || (self.reads.load(Ordering::Relaxed) >= until).then_some(()));
    }

    /// Stops; everything that went wrong.
    fn finish(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    }
}

/// The answer up to ReadyForQuery with the texts of its errors, or how the connection ended.
fn next_answer(client: &mut RawClient) -> String {
    let mut messages = Vec::new();
    loop {
        match client.try_read_message() {
            Ok(Some(message)) => {
                let done = message.tag == b'Z';
                messages.push(message);
                if done {
                    break;
                }
            }
            Ok(None) => return format!("{} and the end of the connection", show(&messages)),
            Err(error) => return format!("{} and {error}", show(&messages)),
        }
    }
    let errors: Vec<_> = messages.iter().filter_map(|m| m.error()).map(|e| format!("{e:?}")).collect();
    format!("{} {}", show(&messages), errors.join(" "))
}

// Where statements go.

/// 10,000 reads under `make soak`, which come within 2 % of the weights; else fewer, within what chance does to fewer as rarely.
#[test]
fn reads_are_shared_by_weight() {
    let count = if is_soak() { 10_000_u32 } else { 4_000 };
    let site = Site::start();
    let counts: Vec<BTreeMap<String, u32>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let (mut client, mut counts) = (site.client(), BTreeMap::new());
                    for _ in 0..count / 4 {
                        *counts.entry(client.value(PORT)).or_insert(0) += 1;
                    }
                    counts
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let on = |port: u16| counts.iter().filter_map(|counts| counts.get(&port.to_string())).sum::<u32>();
    let (light, heavy) = (on(site.replicas[0].port()), on(site.replicas[1].port()));
    assert_eq!(light + heavy, count, "{counts:?}");
    let share = f64::from(heavy) / f64::from(count);
    // Each read is a throw of its own, of which 2 % of 10,000 are 4.6 standard deviations.
    let bound = 0.02 * (10_000.0 / f64::from(count)).sqrt();
    assert!((share - 0.75).abs() < bound, "{share} of the reads instead of 0.75 went to the replica of weight 3");
    let (light_row, heavy_row) = (site.state(site.replicas[0].port()), site.state(site.replicas[1].port()));
    assert_eq!((light_row["reads"].as_str(), heavy_row["reads"].as_str()), (&*light.to_string(), &*heavy.to_string()));
}

#[test]
fn statements_go_where_they_belong() {
    let site = Site::start();
    let cases = [
        (PORT, Place::Replica),
        ("SELECT inet_server_port(), count(*) FROM t", Place::Replica),
        ("WITH r AS (SELECT count(*) FROM t) SELECT inet_server_port() FROM r", Place::Replica),
        ("VALUES (inet_server_port())", Place::Replica),
        ("SELECT 'INSERT INTO t', inet_server_port() -- DELETE", Place::Replica),
        ("INSERT INTO t VALUES (1) RETURNING inet_server_port()", Place::Primary),
        ("UPDATE t SET note = 'x' WHERE id = 1 RETURNING inet_server_port()", Place::Primary),
        ("DELETE FROM t WHERE id = 1 RETURNING inet_server_port()", Place::Primary),
        ("INSERT INTO t VALUES (1) RETURNING inet_server_port()", Place::Primary),
        ("SELECT inet_server_port() FROM t FOR UPDATE", Place::Primary),
        ("SELECT inet_server_port() FROM t FOR KEY SHARE", Place::Primary),
        ("SELECT inet_server_port(), nextval('s')", Place::Primary),
        ("SELECT inet_server_port(), setval('s', 5)", Place::Primary),
        ("SELECT inet_server_port(), f()", Place::Primary),
        ("WITH w AS (INSERT INTO t VALUES (2) RETURNING 1) SELECT inet_server_port() FROM w", Place::Primary),
        ("SELECT inet_server_port(), pg_advisory_xact_lock(1)", Place::Primary),
        ("SELECT inet_server_port(), txid_current()", Place::Primary),
        ("SELECT inet_server_port(), lo_create(0)", Place::Primary),
        ("SELECT inet_server_port(), pg_notify('c', '')", Place::Primary),
        ("SELECT (SELECT f()), inet_server_port()", Place::Primary),
        ("/* pgweir: primary */ SELECT inet_server_port()", Place::Primary),
        ("/* pgweir: replica */ SELECT inet_server_port()", Place::Replica),
        // A function that is not known is a write; who knows it can say so.
        ("/* pgweir: replica */ SELECT inet_server_port(), to_char(now(), 'YYYY')", Place::Replica),
        ("-- pgweir: primary\nSELECT inet_server_port()", Place::Replica),
    ];
    for (sql, expected) in cases {
        // More than once: a replica picked by chance must not look like a rule.
        for _ in 0..if expected == Place::Primary && !sql.contains("INSERT") { 3 } else { 1 } {
            let port = site.client().rows(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
            // A row that is there was asked for; a statement that touched none says nothing of its place.
            let Some(row) = port.first() else { continue };
            let port = row.iter().find(|value| value.parse::<u16>().is_ok_and(|p| p > 1024)).unwrap();
            assert_eq!(site.place(port, sql), expected, "{sql}");
        }
    }
    site.assert_no_refusals();
}

/// What a user's function may do is looked up once, and again after it has changed.
#[test]
fn functions_go_by_their_volatility() {
    let site = Site::start();
    site.primary.sql(
        "CREATE SCHEMA tools;
         CREATE FUNCTION pure() RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1';
         CREATE FUNCTION looks() RETURNS bigint STABLE LANGUAGE sql AS 'SELECT count(*) FROM t';
         CREATE FUNCTION tools.looks(int) RETURNS bigint STABLE LANGUAGE sql AS 'SELECT count(*) FROM t';
         CREATE FUNCTION writes() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM t';
         CREATE FUNCTION twofold(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1';
         CREATE FUNCTION twofold(text) RETURNS int VOLATILE LANGUAGE sql AS 'SELECT 1'",
    );
    site.replicas.iter().for_each(|replica| site.primary.wait_replayed(replica));
    let check = |sql: &str, expected: Place| {
        for _ in 0..3 {
            // A session of its own: one that may have written stays with the primary for a while.
            let port = site.client().value(sql);
            assert_eq!(site.place(&port, sql), expected, "{sql}");
        }
    };
    check("SELECT inet_server_port() + pure() - 1", Place::Replica);
    check("SELECT inet_server_port() + 0 * looks()", Place::Replica);
    check("SELECT inet_server_port() + 0 * tools.looks(1)", Place::Replica);
    check("SELECT inet_server_port() + 0 * writes()", Place::Primary);
    check("SELECT inet_server_port() + 0 * twofold(1)", Place::Primary);
    check("SELECT inet_server_port() + 0 * (looks() + writes())", Place::Primary);
    assert_eq!(site.client().run("ALTER FUNCTION writes() STABLE"), "C(ALTER FUNCTION) Z(I)");
    site.replicas.iter().for_each(|replica| site.primary.wait_replayed(replica));
    check("SELECT inet_server_port() + 0 * writes()", Place::Replica);
    assert_eq!(site.client().run("SELECT no_such_function()"), "E(42883) Z(I)");
    site.assert_no_refusals();
}

#[test]
fn transactions_stay_where_they_begin() {
    let site = Site::start();
    let mut client = site.client();
    for (begin, expected) in [
        ("BEGIN", Place::Primary),
        ("START TRANSACTION ISOLATION LEVEL REPEATABLE READ", Place::Primary),
        ("BEGIN READ ONLY", Place::Replica),
        ("START TRANSACTION READ ONLY", Place::Replica),
        ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", Place::Replica),
        ("/* pgweir: primary */ BEGIN READ ONLY", Place::Primary),
    ] {
        let mut client = site.client();
        let begun = client.run(begin);
        assert!(begun.ends_with("Z(T)"), "{begin}: {begun}");
        let first = client.value(PORT);
        assert_eq!(site.place(&first, begin), expected, "{begin}");
        for _ in 0..20 {
            assert_eq!(client.value(PORT), first, "{begin}: moved within the transaction");
        }
        assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    }
    // PostgreSQL's own answer to a write there, and the block goes on to be rolled back.
    assert_eq!(client.run("BEGIN READ ONLY"), "C(BEGIN) Z(T)");
    assert!(site.is_replica(&client.value(PORT)));
    assert_eq!(client.run("INSERT INTO t VALUES (3)"), "E(25006) Z(E)");
    assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    assert_eq!(client.run("INSERT INTO t VALUES (3)"), "C(INSERT 0 1) Z(I)");
}

#[test]
fn one_write_takes_the_whole_text_and_pipeline_along() {
    let site = Site::start();
    let mut client = site.client();
    let ports = client.rows("SELECT inet_server_port(); INSERT INTO t VALUES (1); SELECT inet_server_port()").unwrap();
    assert_eq!(ports, [[site.primary_port()], [site.primary_port()]]);
    let ports = site.client().rows("SELECT inet_server_port(); SELECT inet_server_port()").unwrap();
    assert!(ports[0] == ports[1] && site.is_replica(&ports[0][0]), "{ports:?}");

    let pipeline = |last: &str| {
        let mut client = site.client();
        for sql in [PORT, PORT, last] {
            client.parse("", sql, &[]);
            client.bind("", "", &[]);
            client.execute("", 0);
        }
        client.sync();
        show(&client.read_until_ready())
    };
    let read = "1 2 D(PORT) C(SELECT 1) ";
    let on = |port: &str, end: &str| format!("{}{end}", read.repeat(2).replace("PORT", port));
    assert_eq!(pipeline("DELETE FROM t"), on(&site.primary_port(), "1 2 C(DELETE 1) Z(I)"));
    let answer = pipeline("SELECT 1");
    let ends = "1 2 D(1) C(SELECT 1) Z(I)";
    assert!(site.replicas.iter().any(|r| answer == on(&r.port().to_string(), ends)), "{answer}");
    site.assert_no_refusals();
}

#[test]
fn hints_settings_and_defaults_route() {
    let site = Site::with("", |builder, servers| {
        builder
            .database(&format!("[databases.careful]\nroute = \"primary\"\n{servers}"))
            .database("[users.reporter]\nroute = \"replica\"")
            .users("\"reporter\" \"\"")
    });
    let mut client = site.client();
    let mut places = |sql: &str| {
        let done = client.run(sql);
        assert!(done.ends_with("Z(I)") && !done.contains("E("), "{sql}: {done}");
        (0..8).map(|_| site.place(&client.value(PORT), sql)).collect::<Vec<_>>()
    };
    assert_eq!(places("SET pgweir.route = 'primary'"), [Place::Primary; 8]);
    assert_eq!(places("SET pgweir.route TO replica"), [Place::Replica; 8]);
    assert_eq!(places("SET pgweir.route = 'primary'"), [Place::Primary; 8]);
    assert_eq!(places("RESET pgweir.route"), [Place::Replica; 8]);
    assert_eq!(client.run("SET pgweir.route = 'master'"), "E(22023) Z(I)");
    assert_eq!(client.value("SHOW pgweir.route"), "auto");
    assert_eq!(client.run("/* pgweir: mastre */ SELECT 1"), "E(22023) Z(I)");

    // At login.
    let mut login = site.weir.login("postgres", "app").param("pgweir.route", "primary").connect().unwrap();
    assert_eq!(login.value(PORT), site.primary_port());
    // Of the database, until the session or the statement says otherwise.
    let mut careful = site.weir.client("careful");
    assert_eq!(careful.value(PORT), site.primary_port());
    assert!(site.is_replica(&careful.value("/* pgweir: replica */ SELECT inet_server_port()")));
    careful.run("SET pgweir.route = 'auto'");
    assert!(site.is_replica(&careful.value(PORT)));
    // Of the user.
    let mut reporter = site.weir.login("reporter", "careful").connect().unwrap();
    assert!(site.is_replica(&reporter.value("SELECT inet_server_port() FROM (SELECT 1) AS x")));
    assert!(site.is_replica(&reporter.value(PORT)));
}

// Reading one's own writes.

#[test]
fn sessions_read_their_own_writes() {
    let site = Site::start();
    site.pause_replay();
    let (mut writer, mut other) = (site.client(), site.client());
    for id in 1..=50 {
        assert_eq!(writer.run(&format!("INSERT INTO t VALUES ({id})")), "C(INSERT 0 1) Z(I)");
        let seen = writer.rows(&format!("SELECT inet_server_port(), count(*) FROM t WHERE id = {id}")).unwrap();
        assert_eq!(seen, [[site.primary_port(), "1".to_owned()]]);
        // Others wrote nothing, and go on with the replicas, which have none of it.
        let seen = other.rows("SELECT inet_server_port(), count(*) FROM t").unwrap();
        assert!(site.is_replica(&seen[0][0]) && seen[0][1] == "0", "{seen:?}");
    }
    // A write in a transaction, and one by the extended protocol.
    writer.run("BEGIN");
    writer.run("UPDATE t SET note = 'x' WHERE id = 1");
    assert_eq!(writer.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(writer.value("SELECT note FROM t WHERE id = 1"), "x");
    writer.parse("w", "UPDATE t SET note = $1 WHERE id = 1", &[]);
    writer.bind("", "w", &[Some("y")]);
    writer.execute("", 0);
    writer.sync();
    assert_eq!(show(&writer.read_until_ready()), "1 2 C(UPDATE 1) Z(I)");
    assert_eq!(writer.value("SELECT note FROM t WHERE id = 1"), "y");
    // Once the replicas have it, they serve the writer again, and it is all there.
    site.resume_replay();
    eventually("the writer reads from replicas", PATIENCE, || {
        let seen = writer.rows("SELECT inet_server_port(), count(*), max(note) FROM t").unwrap();
        assert_eq!((seen[0][1].as_str(), seen[0][2].as_str()), ("50", "y"), "stale");
        site.is_replica(&seen[0][0]).then_some(())
    });
}

/// What one session met, of its own writes.
#[derive(Debug, Default)]
struct Pairs {
    on_primary: u32,
    on_replicas: u32,
    stale: Vec<String>,
}

impl Pairs {
    /// Reads what was written as `id`; whether a replica was asked.
    fn read(&mut self, client: &mut RawClient, id: u32, site: &Site) -> bool {
        let row =
            client.rows(&format!("SELECT count(*), inet_server_port() FROM t WHERE id = {id}")).unwrap().remove(0);
        if row[0] != "1" {
            self.stale.push(format!("{id} on {}", row[1]));
        }
        let on_replica = site.is_replica(&row[1]);
        *(if on_replica { &mut self.on_replicas } else { &mut self.on_primary }) += 1;
        on_replica
    }

    /// Writes, and reads what it wrote, so many times.
    fn run(mut self, site: &Site, first: u32, count: u32) -> Self {
        let mut client = site.client();
        for id in first..first + count {
            assert_eq!(client.run(&format!("INSERT INTO t VALUES ({id})")), "C(INSERT 0 1) Z(I)");
            self.read(&mut client, id, site);
            if id % 25 == 0 {
                // Time for the replicas to be trusted again, if they go on.
                for _ in 0..10 {
                    std::thread::sleep(Duration::from_millis(20));
                    if self.read(&mut client, id, site) {
                        break;
                    }
                }
            }
        }
        self
    }
}

/// 10,000 pairs under `make soak`, else 1,000, while replay stops and goes on at random: none is stale, and who writes nothing goes on with
/// the replicas.
#[test]
fn write_then_read_pairs_are_never_stale() {
    const WRITERS: u32 = 4;
    let each = if is_soak() { 10_000 / WRITERS } else { 1_000 / WRITERS };
    let site = Site::start();
    let done = AtomicBool::new(false);
    let (pairs, pauses, reads): (Vec<Pairs>, u32, u32) = std::thread::scope(|scope| {
        let (site, done) = (&site, &done);
        let writers: Vec<_> =
            (0..WRITERS).map(|at| scope.spawn(move || Pairs::default().run(site, at * each, each))).collect();
        let weather = scope.spawn(move || {
            let (mut rng, mut pauses) = (SmallRng::seed_from_u64(4), 0);
            while !done.load(Ordering::Relaxed) {
                let replica = &site.replicas[rng.random_range(0..2)];
                let pause = rng.random_bool(0.5);
                replica.sql(if pause { "SELECT pg_wal_replay_pause()" } else { "SELECT pg_wal_replay_resume()" });
                pauses += u32::from(pause);
                std::thread::sleep(Duration::from_millis(rng.random_range(0..120)));
            }
            site.resume_replay();
            pauses
        });
        let reader = scope.spawn(move || {
            let (mut client, mut reads) = (site.client(), 0);
            while !done.load(Ordering::Relaxed) {
                let port = client.value(PORT);
                assert!(site.is_replica(&port), "who wrote nothing was sent to {port}");
                reads += 1;
            }
            reads
        });
        let pairs: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        done.store(true, Ordering::Relaxed);
        let (pauses, reads) = (weather.join().unwrap(), reader.join().unwrap());
        (pairs.into_iter().map(|pairs| pairs.unwrap()).collect(), pauses, reads)
    });
    let stale: Vec<_> = pairs.iter().flat_map(|pairs| &pairs.stale).collect();
    assert!(stale.is_empty(), "{} of {} pairs: {stale:?}", stale.len(), WRITERS * each);
    let sum = |of: fn(&Pairs) -> u32| pairs.iter().map(of).sum::<u32>();
    let (primary, replicas) = (sum(|p| p.on_primary), sum(|p| p.on_replicas));
    assert!(primary > 0 && replicas > 0, "{primary} reads on the primary, {replicas} on replicas");
    assert!(pauses > 0 && reads > 0, "{pauses} pauses, {reads} reads of others");
}

/// By whichever protocol it is asked, within a block and without.
#[test]
fn the_token_is_told_wherever_it_is_asked_for() {
    const ASK: &str = "SHOW pgweir.causal_token";
    let site = Site::with("", |builder, servers| {
        builder
            .database(&format!("[databases.kept]\n{servers}pool_mode = \"session\"\n"))
            .database(&format!("[databases.loose]\n{servers}consistency = \"eventual\"\n"))
    });
    let shown = |answer: &str, around: [&str; 2]| {
        let token = answer.strip_prefix(around[0]).and_then(|rest| rest.strip_suffix(around[1]));
        let token = token.unwrap_or_else(|| panic!("{answer}"));
        assert!(!token.is_empty() && !token.contains(' '), "{answer}");
        token.to_owned()
    };
    let extended = |client: &mut RawClient, sql: &str| {
        client.parse("", sql, &[]);
        client.bind("", "", &[]);
        client.describe_portal("");
        client.execute("", 0);
        client.sync();
        show(&client.read_until_ready())
    };
    const ROW: &str = "T(pgweir.causal_token:25) D(";
    let mut client = site.client();
    assert_eq!(extended(&mut client, ASK), format!("1 2 {ROW}) C(SHOW) Z(I)"), "it has written nothing");
    assert_eq!(client.run("INSERT INTO t VALUES (1)"), "C(INSERT 0 1) Z(I)");
    shown(&extended(&mut client, ASK), [&format!("1 2 {ROW}"), ") C(SHOW) Z(I)"]);
    assert_eq!(extended(&mut client, "SHOW pgweir.route"), "1 2 T(pgweir.route:25) D(auto) C(SHOW) Z(I)");
    // Prepared in one exchange and run in another, by a name and without; with something else between.
    for name in ["s", ""] {
        client.parse(name, ASK, &[]);
        client.describe_statement(name);
        client.sync();
        assert!(show(&client.read_until_ready()).ends_with(" T(pgweir.causal_token:25) Z(I)"));
        if !name.is_empty() {
            assert_eq!(client.value("SELECT 1"), "1");
        }
        client.bind("", name, &[]);
        client.execute("", 0);
        client.sync();
        shown(&show(&client.read_until_ready()), ["2 D(", ") C(SHOW) Z(I)"]);
    }
    // Within blocks, on the primary and on a replica.
    for begin in ["BEGIN", "BEGIN READ ONLY"] {
        assert_eq!(client.run(begin), "C(BEGIN) Z(T)");
        client.run(if begin == "BEGIN" { "INSERT INTO t VALUES (2)" } else { "SELECT 1" });
        shown(&client.run(ASK), [ROW, ") C(SHOW) Z(T)"]);
        shown(&extended(&mut client, ASK), [&format!("1 2 {ROW}"), ") C(SHOW) Z(T)"]);
        assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    }
    client.run("BEGIN");
    client.run("SELECT 1/0");
    assert_eq!(client.run(ASK), "E(25P02) Z(E)");
    client.run("ROLLBACK");
    // It speaks of what was written, also where the server was never given back in between.
    site.pause_replay();
    for (id, database) in [(10, "app"), (11, "kept")] {
        let mut writer = site.weir.client(database);
        assert_eq!(writer.run(&format!("INSERT INTO t VALUES ({id})")), "C(INSERT 0 1) Z(I)");
        let token = shown(&extended(&mut writer, ASK), [&format!("1 2 {ROW}"), ") C(SHOW) Z(I)"]);
        let mut other = site.weir.client("loose");
        let count = format!("SELECT count(*) FROM t WHERE id = {id}");
        assert_eq!(other.value(&count), "0", "replay is paused");
        assert_eq!(other.run(&format!("SET pgweir.causal_token = '{token}'")), "C(SET) Z(I)");
        assert_eq!(other.value(&count), "1", "{database}");
    }
    site.resume_replay();
}

#[test]
fn eventual_consistency_reads_what_is_there() {
    let site = Site::with("consistency = \"eventual\"", |builder, _| builder);
    site.pause_replay();
    let mut client = site.client();
    assert_eq!(client.run("INSERT INTO t VALUES (1)"), "C(INSERT 0 1) Z(I)");
    for _ in 0..10 {
        let seen = client.rows("SELECT inet_server_port(), count(*) FROM t").unwrap();
        assert!(site.is_replica(&seen[0][0]) && seen[0][1] == "0", "{seen:?}");
    }
    site.resume_replay();
    eventually("the row arrives", PATIENCE, || (client.value("SELECT count(*) FROM t") == "1").then_some(()));
}

// Replicas that fail.

#[test]
fn killed_replica_costs_no_read_and_comes_back() {
    let site = Site::start();
    let load = Load::start(&site, 50);
    load.go_on_for(500);
    let [survivor, victim] = &site.replicas;
    victim.kill9();
    load.go_on_for(500);
    eventually("the dead replica is known to be dead", PATIENCE, || {
        (site.state(victim.port())["breaker"] == "open").then_some(())
    });
    load.go_on_for(500);
    let mut client = site.client();
    // On a busy machine the survivor may miss a deadline of its own under so many new connections.
    eventually("the survivor serves all reads", PATIENCE, || {
        (0..20).all(|_| client.value(PORT) == survivor.port().to_string()).then_some(())
    });
    victim.restart();
    eventually("the replica gets reads again", PATIENCE, || {
        (client.value(PORT) == victim.port().to_string()).then_some(())
    });
    assert_eq!(site.state(victim.port())["breaker"], "closed");
    load.go_on_for(200);
    assert_eq!(load.finish(), Vec::<String>::new());
}

#[test]
fn stopped_replica_costs_no_read() {
    let site = Site::start();
    let load = Load::start(&site, 50);
    load.go_on_for(300);
    // Every connection, those that rest in the pool too, is ended with 57P01.
    site.replicas[1].stop();
    load.go_on_for(500);
    site.replicas[1].restart();
    load.go_on_for(300);
    site.replicas[1].restart();
    load.go_on_for(300);
    assert_eq!(load.finish(), Vec::<String>::new());
}

#[test]
fn resting_connections_that_the_server_ended_are_not_used() {
    let site = Site::start();
    let mut clients: Vec<_> = (0..10).map(|_| site.client()).collect();
    for client in &mut clients {
        (0..5).for_each(|_| drop(client.value(PORT)));
    }
    for replica in &site.replicas {
        replica.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()");
    }
    for client in &mut clients {
        let port = client.value(PORT);
        assert!(site.is_replica(&port) || port == site.primary_port());
    }
}

#[test]
fn frozen_replica_is_left_within_the_probe_deadline() {
    let site = Site::start();
    let [survivor, frozen] = &site.replicas;
    let mut clients: Vec<_> = (0..4).map(|_| site.client()).collect();
    clients.iter_mut().for_each(|client| drop(client.value(PORT)));
    let load = Load::start(&site, 50);
    load.go_on_for(500);
    frozen.freeze();
    load.go_on_for(500);
    // Its breaker is opened by probes that got no answer; the reads need not even fail.
    eventually("the probes notice", PATIENCE, || (!site.state(frozen.port())["last_error"].is_empty()).then_some(()));
    assert_eq!(load.finish(), Vec::<String>::new());
    let mut newcomer = site.client();
    // As above.
    eventually("the survivor serves all reads", PATIENCE, || {
        (0..25).all(|_| newcomer.value(PORT) == survivor.port().to_string()).then_some(())
    });
    for client in &mut clients {
        for _ in 0..25 {
            assert_eq!(client.value(PORT), survivor.port().to_string());
        }
    }
    frozen.thaw();
    eventually("the replica gets reads again", PATIENCE, || {
        (newcomer.value(PORT) == frozen.port().to_string()).then_some(())
    });
}

/// Starts `sql` on the replica `wanted`; by chance a session may be sent to the other, then another one is tried.
fn start_on(site: &Site, wanted: &Cluster, sql: &str) -> RawClient {
    eventually("a read runs on the replica", PATIENCE, || {
        let mut client = site.client();
        client.query(sql);
        let running =
            format!("SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query = '{}'", sql.replace('\'', "''"));
        std::thread::sleep(Duration::from_millis(50));
        (!wanted.sql(&running).is_empty()).then_some(client)
    })
}

/// A server that hangs refuses nothing, so nobody would ever hear of it: the prober's deadline is that of the reads, too.
#[test]
fn read_in_flight_on_a_frozen_replica_goes_elsewhere() {
    let site = Site::start();
    let [survivor, frozen] = &site.replicas;
    let sql = "SELECT inet_server_port() FROM (SELECT pg_sleep(2)) AS waited";
    let mut reader = start_on(&site, frozen, sql);
    // One whose answer has begun, and one in a transaction that has seen what this server had to show.
    let begun = "SELECT inet_server_port(), repeat('x', 20000), pg_sleep(0.2) FROM generate_series(1, 60)";
    let mut begun_reader = start_on(&site, frozen, begun);
    assert_eq!(begun_reader.read_message().tag, b'T');
    let mut in_block = eventually("a transaction begins on the replica", PATIENCE, || {
        let mut client = site.client();
        client.run("BEGIN READ ONLY");
        (client.value(PORT) == frozen.port().to_string()).then_some(client)
    });
    in_block.query("SELECT count(*) FROM t, pg_sleep(2)");
    frozen.freeze();
    let since = pgweir::clock::now();
    assert_eq!(next_answer(&mut reader), format!("T(inet_server_port:23) D({}) C(SELECT 1) Z(I) ", survivor.port()));
    assert_eq!(reader.value(PORT), survivor.port().to_string(), "the session lives on");
    assert_eq!(show(&in_block.read_until_ready()), "E(57P01) Z(E)");
    assert_eq!(in_block.run("ROLLBACK"), "C(ROLLBACK) Z(I)", "the session lives on, if not its transaction");
    // In the middle of a row nothing can be said; between two, an error is. It never looks whole.
    let rest = next_answer(&mut begun_reader);
    assert!(rest.contains("unexpected end of file") || rest.contains("E(57P01) Z(I)"), "{rest}");
    assert!(!rest.contains("C("), "{rest}");
    let took = pgweir::clock::now() - since;
    assert!(took < Duration::from_secs(10), "{took:?}");
    frozen.thaw();
}

/// Who waits for a connection of a replica that hangs is sent elsewhere, too.
#[test]
fn waiters_for_a_frozen_replica_go_elsewhere() {
    let site = Site::with("pool_size = 1", |builder, _| builder);
    let [survivor, frozen] = &site.replicas;
    let sql = "SELECT inet_server_port() FROM (SELECT pg_sleep(1)) AS waited";
    let mut holder = start_on(&site, frozen, sql);
    let mut waiters: Vec<_> = (0..6).map(|_| site.client()).collect();
    waiters.iter_mut().for_each(|client| client.query(PORT));
    frozen.freeze();
    for client in waiters.iter_mut().chain([&mut holder]) {
        let answer = next_answer(client);
        let elsewhere = [survivor, &site.primary].map(|server| format!("D({})", server.port()));
        assert!(elsewhere.iter().any(|row| answer.contains(row)) && answer.ends_with("Z(I) "), "{answer}");
    }
    frozen.thaw();
}

#[test]
fn primary_reads_when_all_replicas_are_dead() {
    let site = Site::start();
    let load = Load::start(&site, 8);
    load.go_on_for(100);
    site.replicas.iter().for_each(Cluster::kill9);
    load.go_on_for(300);
    let mut client = site.client();
    assert_eq!(client.value(PORT), site.primary_port());
    assert_eq!(client.run("BEGIN READ ONLY"), "C(BEGIN) Z(T)");
    assert_eq!(client.value(PORT), site.primary_port());
    client.run("COMMIT");
    assert_eq!(client.run("INSERT INTO t VALUES (1)"), "C(INSERT 0 1) Z(I)");
    assert_eq!(load.finish(), Vec::<String>::new());
}

#[test]
fn full_pool_opens_no_breaker() {
    let site = Site::with("pool_size = 1", |builder, _| builder.general("query_wait_timeout = \"200ms\""));
    let mut holders: Vec<RawClient> = Vec::new();
    for replica in &site.replicas {
        let holder = eventually("the replica is held", PATIENCE, || {
            let mut client = site.client();
            if client.run("BEGIN READ ONLY") != "C(BEGIN) Z(T)" {
                // It asked for the replica that is held already.
                return None;
            }
            match client.rows(PORT) {
                Ok(rows) if rows[0][0] == replica.port().to_string() => Some(client),
                _ => None,
            }
        });
        holders.push(holder);
    }
    let mut refused = 0;
    for _ in 0..8 {
        match site.client().rows(PORT) {
            // On a machine with other things to do a probe may come too late, and its server is passed over for that.
            Ok(rows) => assert_eq!(rows[0][0], site.primary_port(), "a pool that is full lends nothing"),
            Err(error) => {
                assert_eq!(error.code, "53300", "{error}");
                assert!(error.message.contains("query_wait_timeout"), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "every read found another way");
    for replica in &site.replicas {
        let state = site.state(replica.port());
        assert_eq!((state["breaker"].as_str(), state["last_error"].as_str()), ("closed", ""), "{state:?}");
    }
    for holder in &mut holders {
        assert_eq!(holder.run("COMMIT"), "C(COMMIT) Z(I)");
    }
    assert!(site.is_replica(&site.client().value(PORT)));
}

#[test]
fn write_that_looks_like_a_read_is_done_on_the_primary() {
    let site = Site::start();
    site.primary.sql(
        "CREATE FUNCTION tick() RETURNS bigint LANGUAGE plpgsql VOLATILE AS
             'BEGIN INSERT INTO t SELECT coalesce(max(id), 0) + 1 FROM t; RETURN (SELECT count(*) FROM t); END';
         CREATE FUNCTION tick(int, int) RETURNS bigint LANGUAGE sql VOLATILE AS 'SELECT tick()';
         CREATE OPERATOR @#@ (FUNCTION = tick, LEFTARG = int, RIGHTARG = int);
         CREATE VIEW v AS SELECT tick() AS n, inet_server_port() AS port",
    );
    site.replicas.iter().for_each(|replica| site.primary.wait_replayed(replica));
    let (view, operator) = ("SELECT n, port FROM v", "SELECT 1 @#@ 2");
    for sql in [view, operator] {
        let facts = pgweir::sql::parse::facts(sql.as_bytes());
        assert_eq!(facts.access(), pgweir::sql::facts::Access::Read, "{sql} is no longer taken for a read");
    }
    let port = site.primary_port();
    assert_eq!(site.client().rows(view).unwrap(), [["1".to_owned(), port.clone()]]);
    assert_eq!(site.client().run(operator), "T(?column?:20) D(2) C(SELECT 1) Z(I)");
    // By the extended protocol, with names, and more than once.
    for count in 3..6 {
        let mut client = site.client();
        client.parse("s", view, &[]);
        client.describe_statement("s");
        client.bind("p", "s", &[]);
        client.execute("p", 0);
        client.sync();
        assert_eq!(
            show(&client.read_until_ready()),
            format!("1 t() T(n:20,port:23) 2 D({count}|{port}) C(SELECT 1) Z(I)")
        );
    }
    // Each was done once, and the session goes on reading its own write.
    let mut client = site.client();
    assert_eq!(client.rows(view).unwrap()[0][0], "6");
    assert_eq!(client.value("SELECT count(*) FROM t"), "6");
    assert!(site.replicas.iter().any(|replica| replica.log_text().contains(REFUSAL)), "no replica was ever tried");
    // In a transaction that said READ ONLY it is an error, as without a proxy.
    client.run("BEGIN READ ONLY");
    assert_eq!(client.run(operator), "T(?column?:20) E(25006) Z(E)");
    assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
}

/// What was taken for a read and writes is done once, whatever becomes of its server, and is a write in all that follows.
#[test]
fn write_in_disguise_is_done_once_and_seen() {
    let site = Site::start();
    site.primary.sql(
        "CREATE FUNCTION tick(int, int) RETURNS bigint LANGUAGE plpgsql VOLATILE AS
             'BEGIN INSERT INTO t SELECT coalesce(max(id), 0) + 1 FROM t; PERFORM pg_sleep($1); RETURN nextval(''s''); END';
         CREATE OPERATOR @#@ (FUNCTION = tick, LEFTARG = int, RIGHTARG = int);",
    );
    site.replicas.iter().for_each(|replica| site.primary.wait_replayed(replica));
    let mut client = site.client();
    let on_replicas = || -> Vec<_> {
        let pids =
            "SELECT pid FROM pg_stat_activity WHERE client_addr IS NOT NULL AND application_name NOT LIKE 'pgweir %'";
        site.replicas.iter().map(|replica| replica.sql(pids)).collect()
    };
    eventually("both replicas have a connection", PATIENCE, || {
        client.value(PORT);
        on_replicas().iter().all(|pids| !pids.is_empty()).then_some(())
    });
    let before = on_replicas();
    site.pause_replay();
    let count = "SELECT count(*) FROM t";
    let refusals = || site.replicas.iter().map(|r| r.log_text().matches(REFUSAL).count()).sum::<usize>();
    for n in 1..4 {
        assert_eq!(client.value("SELECT 0 @#@ 2"), n.to_string());
        assert_eq!(client.value(count), n.to_string(), "its own write is not there");
        assert_eq!(refusals(), 1, "it is remembered");
    }
    assert_eq!(on_replicas(), before, "a refusal costs no connection");
    let mut hinted = site.client();
    assert_eq!(hinted.value("/* pgweir: primary */ SELECT 0 @#@ 3"), "4");
    assert_eq!(hinted.value(count), "4", "its own write is not there");
    site.resume_replay();
    // It has counted when somebody ends its session, of which PostgreSQL says that it was not done. The server is there: it is not done
    // again either.
    for (n, sql) in [(5, "SELECT 30 @#@ 4"), (6, "/* pgweir: primary */ SELECT 30 @#@ 5")] {
        let mut client = site.client();
        client.query(sql);
        let running = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = '{sql}'");
        eventually("it runs", PATIENCE, || (!site.primary.sql(&running).is_empty()).then_some(()));
        assert_eq!(show(&client.read_until_ready()), "E(57P01) Z(I)", "{n}");
    }
}

/// A statement that writes by its text and was sent to a replica all the same may do something there: it is not done again.
#[test]
fn write_on_a_replica_is_not_tried_elsewhere() {
    let site = Site::start();
    site.primary.sql("CREATE FUNCTION slow() RETURNS int LANGUAGE sql VOLATILE AS 'SELECT pg_sleep(30); SELECT 1'");
    site.replicas.iter().for_each(|replica| site.primary.wait_replayed(replica));
    let sql = "/* pgweir: replica */ SELECT slow()";
    let mut client = site.client();
    client.query(sql);
    let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = '{sql}'");
    eventually("it runs on a replica", PATIENCE, || {
        site.replicas.iter().any(|replica| !replica.sql(&end).is_empty()).then_some(())
    });
    client.set_read_timeout(PATIENCE);
    assert_eq!(show(&client.read_until_ready()), "T(slow:23) E(08007) Z(I)");
    assert_eq!(
        client.run("/* pgweir: replica */ INSERT INTO t VALUES (1)"),
        "C(INSERT 0 1) Z(I)",
        "a refusal did nothing"
    );
}

/// What ends the process that serves it is tried once more, and never where it would end the work of everybody.
#[test]
fn read_that_crashes_its_server_does_not_go_round() {
    let site = Site::start();
    let sql = "SELECT pg_sleep(60)";
    let mut client = site.client();
    client.query(sql);
    let running = format!("SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query = '{sql}'");
    let mut crashed = Vec::new();
    for _ in 0..2 {
        let (at, pid) = eventually("it runs on a replica", PATIENCE, || {
            let on = |at: usize| site.replicas[at].sql(&running).pop().map(|row| (at, row[0].clone()));
            (0..2).filter(|at| !crashed.contains(at)).find_map(on)
        });
        crashed.push(at);
        common::guard::send(pid.parse().unwrap(), nix::sys::signal::Signal::SIGKILL);
    }
    let end = client.read_until_ready();
    assert_eq!(show(&end), "E(08006) Z(I)");
    assert!(site.primary.sql(&running).is_empty(), "it went on to the primary");
    assert_eq!(client.run("INSERT INTO t VALUES (1)"), "C(INSERT 0 1) Z(I)", "the session goes on");
    // One that the primary was to serve is not tried there again.
    let sql = "/* pgweir: primary */ SELECT pg_sleep(60)";
    client.query(sql);
    let running = format!("SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query = '{sql}'");
    let pid = eventually("it runs", PATIENCE, || site.primary.sql(&running).pop().map(|row| row[0].clone()));
    common::guard::send(pid.parse().unwrap(), nix::sys::signal::Signal::SIGKILL);
    assert_eq!(show(&client.read_until_ready()), "E(08006) Z(I)");
}

#[test]
fn dead_primary_is_named_and_reads_go_on() {
    let site = Site::with("failover_timeout = \"300ms\"", |builder, _| builder);
    let mut client = site.client();
    assert_eq!(client.run("INSERT INTO t VALUES (1)"), "C(INSERT 0 1) Z(I)");
    site.primary.wait_replayed(&site.replicas[0]);
    site.primary.wait_replayed(&site.replicas[1]);
    site.primary.kill9();
    for attempt in 0..3 {
        let mut writer = site.client();
        let error = writer.rows("INSERT INTO t VALUES (2)").unwrap_err();
        assert!(matches!(error.code.as_str(), "08006" | "08001" | "57P03"), "{error}");
        let address = format!("127.0.0.1:{}", site.primary.port());
        let text = format!("{error:?}");
        assert!(text.contains(&address), "attempt {attempt}: the error does not say what was tried: {text}");
        // The session lives on, and so do reads.
        assert!(site.is_replica(&writer.value(PORT)));
    }
    assert!(site.is_replica(&site.client().value(PORT)));
    site.primary.restart();
    let mut writer = site.client();
    eventually("writes work again", PATIENCE, || {
        (writer.run("INSERT INTO t VALUES (2)") == "C(INSERT 0 1) Z(I)").then_some(())
    });
    assert_eq!(writer.value("SELECT count(*) FROM t WHERE id = 2"), "1");
}

//! A statement may write though it looks like a read: by a policy, a domain, a cast, a function that bears a name of PostgreSQL's own, a
//! view. Shown with a primary and one streaming replica: its session sees what it wrote, it is done once, and a standby that would refuse
//! it is not asked, or not asked again.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![allow(clippy::panic, reason = "a failed step is a failed test")]

mod common;

use std::time::Duration;

use common::cluster::Cluster;
use common::eventually;
use common::raw::RawClient;
use common::weir::Weir;
use common::wire::show;

const PATIENCE: Duration = Duration::from_secs(20);
/// What a session has written, and where that is read.
const NOTES: &str = "SELECT count(*), inet_server_port() FROM audit";

/// Code that writes a row into `audit`, in all the places where no statement shows it.
const CODE: &str = "
CREATE ROLE app LOGIN;
CREATE ROLE ser LOGIN;
ALTER ROLE ser SET default_transaction_isolation = 'serializable';
GRANT pg_monitor TO app, ser;
GRANT ALL ON SCHEMA public TO app;
SET ROLE app;
CREATE TABLE audit (id serial, note text);
CREATE TABLE t (id int PRIMARY KEY, note text);
INSERT INTO t SELECT n, 'n' FROM generate_series(1, 5) AS n;
CREATE FUNCTION logit(what text) RETURNS bool LANGUAGE plpgsql VOLATILE AS
    $$BEGIN INSERT INTO audit (note) VALUES (what); RETURN true; END$$;
CREATE VIEW wv AS SELECT logit('view') AS l;
CREATE TABLE secured (id int);
INSERT INTO secured VALUES (1);
ALTER TABLE secured ENABLE ROW LEVEL SECURITY;
ALTER TABLE secured FORCE ROW LEVEL SECURITY;
CREATE POLICY p ON secured USING (logit('policy'));
CREATE DOMAIN dom AS text CHECK (logit(VALUE));
CREATE DOMAIN plain AS text CHECK (VALUE <> '');
CREATE TYPE holder AS (d dom);
CREATE TYPE ct AS (n int);
CREATE FUNCTION to_ct(int) RETURNS ct LANGUAGE sql VOLATILE AS $$SELECT logit('cast'); SELECT ROW($1)::ct$$;
CREATE FUNCTION lower(ct) RETURNS bool LANGUAGE sql VOLATILE AS $$SELECT logit('lower')$$;
CREATE FUNCTION like_ct(ct, ct) RETURNS bool LANGUAGE sql VOLATILE AS $$SELECT logit('like')$$;
CREATE OPERATOR ~ (LEFTARG = ct, RIGHTARG = ct, FUNCTION = like_ct);
CREATE FUNCTION touchrow(t) RETURNS bool LANGUAGE sql VOLATILE AS $$SELECT logit('row')$$;
CREATE FUNCTION stlsn() RETURNS text LANGUAGE plpgsql STABLE AS $$BEGIN RETURN pg_current_wal_lsn()::text; END$$;
CREATE VIEW vrec AS SELECT pg_is_in_recovery() AS r;
CREATE UNLOGGED TABLE unl (id int);
INSERT INTO unl VALUES (7);
CREATE TABLE parted (id int) PARTITION BY LIST (id);
CREATE UNLOGGED TABLE parted_unl PARTITION OF parted FOR VALUES IN (1);
RESET ROLE;
CREATE CAST (int AS ct) WITH FUNCTION to_ct(int);
GRANT SELECT ON t TO ser;
";

struct Pair {
    weir: Weir,
    primary: Cluster,
    replica: Cluster,
}

impl Pair {
    /// `sql` is done on the primary besides.
    fn start(sql: &str) -> Self {
        let primary = Cluster::start();
        let replica = primary.replica();
        primary.sql(CODE);
        primary.sql(sql);
        primary.wait_replayed(&replica);
        let urls = [&primary, &replica].map(|server| format!("\"postgres://127.0.0.1:{}/postgres\"", server.port()));
        let database = |name: &str, user: &str| {
            let servers = urls.join(", ");
            format!("[databases.{name}]\nuser = \"{user}\"\nprobe_user = \"postgres\"\nservers = [{servers}]\n")
        };
        let weir = Weir::builder()
            .general("workers = 1\nprobe_interval = \"100ms\"\nprobe_timeout = \"2s\"\nserver_login_retry = \"100ms\"")
            .database(&database("app", "app"))
            .database(&database("ser", "ser"))
            .start();
        let pair = Self { weir, primary, replica };
        eventually("the replicas are probed", PATIENCE, || {
            let rows = pair.weir.admin_table("SHOW REPLICAS");
            let known = rows.iter().filter(|row| row["role"] == "replica" && !row["lag_bytes"].is_empty());
            (known.count() == 2).then_some(())
        });
        pair.learn();
        pair
    }

    fn client(&self) -> RawClient {
        self.weir.client("app")
    }

    fn port(&self) -> String {
        self.primary.port().to_string()
    }

    /// Until a read on the primary counts as one: the database's code is known.
    fn learn(&self) {
        eventually("the database's code is known", PATIENCE, || {
            let mut client = self.client();
            client.value("/* pgweir: primary */ SELECT count(*) FROM t");
            (client.value("SELECT inet_server_port() FROM t") == self.replica.port().to_string()).then_some(())
        });
    }

    fn pause_replay(&self) {
        self.primary.wait_replayed(&self.replica);
        self.replica.sql("SELECT pg_wal_replay_pause()");
        eventually("replay is paused", PATIENCE, || {
            self.primary.sql("SELECT pg_logical_emit_message(false, 'tick', 'x')");
            (self.replica.value("SELECT pg_get_wal_replay_pause_state()") == "paused").then_some(())
        });
    }

    /// How often the replica has refused something.
    fn refusals(&self) -> usize {
        let log = self.replica.log_text();
        ["read-only transaction", "during recovery", "hot standby", "recovery is in progress"]
            .into_iter()
            .map(|words| log.matches(words).count())
            .sum()
    }

    /// Sends it by the extended protocol, in one pipeline up to a Sync.
    fn pipeline(client: &mut RawClient, texts: &[&str]) -> String {
        for sql in texts {
            client.parse("", sql, &[]);
            client.bind("", "", &[]);
            client.execute("", 0);
        }
        client.sync();
        show(&client.read_until_ready())
    }
}

/// Whatever it was that wrote, the session's next read shows it. What writes nothing costs no read its replica.
#[test]
fn what_a_read_writes_is_seen_by_its_session() {
    let pair = Pair::start("");
    let oid = pair.primary.value("SELECT 'dom'::regtype::oid").parse().unwrap();
    pair.pause_replay();
    let mut written = 0;
    let mut assert_seen = |mut client: RawClient, sql: &str| {
        let count: u32 = pair.primary.value("SELECT count(*) FROM audit").parse().unwrap();
        assert!(count > written, "{sql}: nothing was written");
        written = count;
        assert_eq!(client.rows(NOTES).unwrap(), [[count.to_string(), pair.port()]], "{sql}");
    };
    for sql in [
        "/* pgweir: primary */ SELECT * FROM secured",
        "/* pgweir: primary */ SELECT 'a'::dom",
        "/* pgweir: primary */ SELECT CAST(ROW('a') AS holder)",
        "/* pgweir: primary */ SELECT id FROM t WHERE 'a'::dom > ''",
        "/* pgweir: primary */ SELECT 1::ct",
        "/* pgweir: primary */ SELECT lower(ROW(1)::ct)",
        "/* pgweir: primary */ SELECT t.touchrow FROM t",
        "/* pgweir: primary */ SELECT NULL::ct ~ NULL::ct",
        "/* pgweir: primary */ SELECT * FROM wv",
        "SELECT pg_is_in_recovery(), l FROM wv",
        "SELECT pg_is_in_recovery(); SELECT * FROM wv",
        "SELECT pg_is_in_recovery() FROM secured",
    ] {
        let mut client = pair.client();
        let answer = client.run(sql);
        assert!(!answer.contains("E("), "{sql}: {answer}");
        assert_seen(client, sql);
    }
    // By the type of a parameter alone.
    let mut client = pair.client();
    client.run("SET pgweir.route = 'primary'");
    client.parse("", "SELECT $1 IS NULL", &[oid]);
    client.bind("", "", &[Some("a")]);
    client.execute("", 0);
    client.sync();
    assert_eq!(show(&client.read_until_ready()), "1 2 D(f) C(SELECT 1) Z(I)");
    client.run("SET pgweir.route = 'auto'");
    assert_seen(client, "SELECT $1 IS NULL");
    // Where SERIALIZABLE has sent it there.
    let mut client = pair.client();
    client.run("SET default_transaction_isolation = 'serializable'");
    client.run("SELECT * FROM wv");
    client.run("RESET default_transaction_isolation");
    assert_seen(client, "SELECT * FROM wv");

    let replica = pair.replica.port().to_string();
    for sql in [
        "/* pgweir: primary */ SELECT * FROM t",
        "/* pgweir: primary */ SELECT 'a'::plain, upper('a'), t.note FROM t WHERE note LIKE 'n' AND id IN (1, 2)",
        "SELECT pg_is_in_recovery()",
    ] {
        let mut client = pair.client();
        let answer = client.run(sql);
        assert!(!answer.contains("E("), "{sql}: {answer}");
        assert_eq!(client.rows(NOTES).unwrap()[0][1], replica, "{sql}");
    }
    assert_eq!(pair.refusals(), 0, "{}", pair.replica.log_text());
}

/// It waits for a standby that never answers, so that it is there and was not acknowledged, when its server dies: it is not done again.
#[test]
fn what_a_read_writes_is_done_once() {
    let pair = Pair::start("");
    pair.primary.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    pair.primary.reload();
    eventually("replication is synchronous", PATIENCE, || {
        (pair.primary.value("SHOW synchronous_standby_names") == "nobody").then_some(())
    });
    let mut client = pair.client();
    client.query("/* pgweir: primary */ SELECT id FROM secured");
    eventually("it waits", PATIENCE, || {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        (pair.primary.value(waits) == "1").then_some(())
    });
    pair.primary.wait_replayed(&pair.replica);
    assert_eq!(pair.replica.value("SELECT count(*) FROM audit"), "1");
    pair.primary.kill9();
    pair.replica.promote();
    client.set_read_timeout(PATIENCE);
    let answer = show(&client.read_until_ready());
    assert!(answer.ends_with("E(08007) Z(I)"), "{answer}");
    let mut after = pair.client();
    assert_eq!(after.run("INSERT INTO t VALUES (100)"), "C(INSERT 0 1) Z(I)");
    assert_eq!(pair.replica.value("SELECT count(*) FROM audit"), "1");
}

/// What the catalog says of relations keeps reads of them away from where they would be refused, in texts of several statements, in
/// pipelines, and in blocks that can still begin elsewhere.
#[test]
fn what_a_standby_refuses_is_not_asked_of_it() {
    let pair = Pair::start(
        "CREATE EXTENSION file_fdw;
         CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
         CREATE FOREIGN TABLE ff (line text) SERVER files OPTIONS (filename 'postmaster.pid');
         GRANT SELECT ON ff TO app",
    );
    for (sql, answer) in [
        ("SELECT count(*) >= 0 FROM secured", "D(t)"),
        ("SELECT id FROM unl", "D(7)"),
        ("SELECT count(*) FROM parted", "D(0)"),
    ] {
        let read = "SELECT 1 FROM t WHERE id = 1";
        for _ in 0..2 {
            let mut client = pair.client();
            for told in
                [client.run(&format!("{read}; {sql}")), Pair::pipeline(&mut client, &[read, sql]), client.run(sql)]
            {
                assert!(told.contains(answer) && !told.contains("E("), "{sql}: {told}");
            }
        }
    }
    for (sql, answer) in [("SELECT id FROM unl", "D(7)"), ("SELECT r FROM vrec", "D(f)")] {
        let mut client = pair.client();
        assert_eq!(client.run("BEGIN READ ONLY"), "C(BEGIN) Z(T)");
        let told = client.run(sql);
        assert!(told.contains(answer) && told.ends_with("Z(T)"), "{sql}: {told}");
        assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    }
    let pid = pair.client().value("SELECT line FROM ff LIMIT 1");
    assert_eq!(pid, pair.primary.pid().to_string(), "a file of another server");
    // A role's transactions may be SERIALIZABLE where no statement says so.
    let mut client = pair.weir.client("ser");
    for _ in 0..2 {
        assert_eq!(client.run("BEGIN READ ONLY"), "C(BEGIN) Z(T)");
        assert_eq!(client.value("SELECT count(*) FROM t"), "5");
        assert_eq!(client.value("SHOW transaction_isolation"), "serializable");
        assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    }
    assert_eq!(pair.refusals(), 0, "{}", pair.replica.log_text());
}

/// What shows only when it is tried is tried on the primary, unseen as long as nothing was told; in any case the replica is not asked again.
#[test]
fn what_a_standby_has_refused_is_remembered() {
    let pair = Pair::start("");
    // Behind the first rows. A text is known again from its second time on.
    let late = "SELECT id, CASE WHEN id > 3 THEN note::dom END FROM t";
    let texts = ["SELECT count(*) FROM t", "SELECT 'a'::dom"];
    let late = |client: &mut RawClient| client.run(late);
    let piped = |client: &mut RawClient| Pair::pipeline(client, &texts);
    for (ask, rows) in [(&late as &dyn Fn(&mut RawClient) -> String, "D(5|n)"), (&piped, "D(a)")] {
        let told: Vec<_> = (0..4).map(|_| ask(&mut pair.client())).collect();
        let failed = told.iter().filter(|told| told.contains("E(25006)")).count();
        assert!(failed <= 2 && told[3].contains(rows) && told[3].ends_with("Z(I)"), "{failed}: {told:?}");
    }
    // A function that promises to read may ask what a standby does not tell.
    let before = pair.refusals();
    for _ in 0..5 {
        assert!(pair.client().value("SELECT stlsn()").contains('/'));
    }
    let refused = pair.refusals() - before;
    assert!((1..=2).contains(&refused), "{refused}: {}", pair.replica.log_text());
}

/// The block has a snapshot: what is committed after it does not show, wherever it would begin anew.
#[test]
fn a_snapshot_stays_where_it_was_taken() {
    let pair = Pair::start("");
    let mut client = pair.client();
    assert_eq!(client.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"), "C(BEGIN) Z(T)");
    assert_eq!(client.value("SELECT 1"), "1");
    assert_eq!(pair.client().run("INSERT INTO t VALUES (50)"), "C(INSERT 0 1) Z(I)");
    pair.primary.wait_replayed(&pair.replica);
    assert_eq!(client.rows("SELECT count(*), pg_is_in_recovery() FROM t").unwrap(), [["5", "t"]]);
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    // Without one it goes where it belongs.
    assert_eq!(client.run("BEGIN READ ONLY"), "C(BEGIN) Z(T)");
    assert_eq!(client.value("SELECT 1"), "1");
    assert_eq!(client.rows("SELECT count(*), pg_is_in_recovery() FROM t").unwrap(), [["6", "f"]]);
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
}

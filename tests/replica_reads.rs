//! An application believes in one server. What it reads on a replica must be what the primary would have said, or the primary must
//! say it: shown with a primary and one streaming replica, so that every read which may go to a replica does.

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
const PORT: &str = "SELECT inet_server_port()";

struct Pair {
    weir: Weir,
    primary: Cluster,
    replica: Cluster,
}

impl Pair {
    /// `sql` is what the primary has and the replica has replayed.
    fn start(sql: &str) -> Self {
        Self::with(sql, "")
    }

    /// `lines` go into `[databases.app]`.
    fn with(sql: &str, lines: &str) -> Self {
        let primary = Cluster::with_config(&[("max_prepared_transactions", "5"), ("log_connections", "on")]);
        let replica = primary.replica();
        primary.sql("CREATE TABLE t (id int PRIMARY KEY)");
        primary.sql(sql);
        primary.wait_replayed(&replica);
        let url = |cluster: &Cluster| format!("\"postgres://127.0.0.1:{}/postgres\"", cluster.port());
        let weir = Weir::builder()
            .general("probe_interval = \"100ms\"\nprobe_timeout = \"2s\"")
            .database(&format!(
                "[databases.app]\nuser = \"postgres\"\nprimary = {}\nreplicas = [{}]\n{lines}",
                url(&primary),
                url(&replica)
            ))
            .start();
        let pair = Self { weir, primary, replica };
        eventually("the replica is probed", PATIENCE, || {
            let rows = pair.weir.admin_table("SHOW REPLICAS");
            rows.iter()
                .any(|row| row["port"] == pair.replica.port().to_string() && !row["lag_bytes"].is_empty())
                .then_some(())
        });
        pair
    }

    fn client(&self) -> RawClient {
        self.weir.client("app")
    }

    /// A statement that counts as a read, with the place where it ran as its last column.
    fn assert_place(&self, client: &mut RawClient, sql: &str, server: &Cluster) {
        let rows = client.rows(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
        let port = rows.first().and_then(|row| row.last()).unwrap_or_else(|| panic!("{sql}: no row"));
        assert_eq!(*port, server.port().to_string(), "{sql}: ran elsewhere");
    }

    fn on_primary(&self, sql: &str) {
        self.assert_place(&mut self.client(), sql, &self.primary);
    }

    fn on_replica(&self, sql: &str) {
        self.assert_place(&mut self.client(), sql, &self.replica);
    }
}

#[test]
fn what_is_a_servers_own_is_told_by_the_primary() {
    let pair = Pair::start("INSERT INTO t VALUES (1)");
    for local in [
        "SELECT pg_is_in_recovery()",
        "SELECT pg_last_wal_replay_lsn()",
        "SELECT count(*) FROM pg_stat_activity",
        "SELECT count(*) FROM pg_stat_user_tables",
        "SELECT count(*) FROM pg_locks",
        "SELECT count(*) FROM pg_sequences",
        "SELECT count(*) FROM pg_prepared_xacts",
        "SELECT current_setting('transaction_read_only')",
    ] {
        pair.on_primary(&format!("SELECT ({local}), inet_server_port()"));
    }
    pair.on_primary("SELECT setting FROM pg_settings WHERE name = 'port'");
    pair.on_replica("SELECT count(*), inet_server_port() FROM t");
    pair.on_replica("SELECT current_setting('search_path'), inet_server_port()");
    // Who wants to know it of a replica says so.
    pair.on_replica("/* pgweir: replica */ SELECT pg_is_in_recovery(), inet_server_port()");

    let mut client = pair.client();
    for (sql, expected) in [
        ("SHOW transaction_read_only", "off"),
        ("SHOW default_transaction_read_only", "off"),
        ("SHOW in_hot_standby", "off"),
        ("SELECT pg_is_in_recovery()", "f"),
        ("SELECT current_setting('in_hot_standby')", "off"),
        ("SHOW search_path", "\"$user\", public"),
    ] {
        for _ in 0..3 {
            assert_eq!(client.value(sql), expected, "{sql}");
        }
    }
    assert_eq!(client.value("SHOW port"), pair.primary.port().to_string());
    // Asking is not writing: the session's reads go on where they went.
    pair.assert_place(&mut client, PORT, &pair.replica);
    // By the extended protocol and in one text with a read.
    client.parse("", "SHOW transaction_read_only", &[]);
    client.bind("", "", &[]);
    client.execute("", 0);
    client.sync();
    assert_eq!(show(&client.read_until_ready()), "1 2 D(off) C(SHOW) Z(I)");
    let both = client.rows("SELECT inet_server_port(); SHOW port").unwrap();
    assert_eq!(both[0], both[1]);
}

#[test]
fn prepared_transactions_are_seen_on_the_primary() {
    let pair = Pair::start("CREATE SEQUENCE s");
    let mut client = pair.client();
    client.run("BEGIN");
    client.run("INSERT INTO t VALUES (7)");
    assert_eq!(client.run("PREPARE TRANSACTION 'p'"), "C(PREPARE TRANSACTION) Z(I)");
    assert_eq!(pair.client().value("SELECT gid FROM pg_prepared_xacts"), "p");
    assert_eq!(client.run("ROLLBACK PREPARED 'p'"), "C(ROLLBACK PREPARED) Z(I)");
    pair.primary.sql("SELECT nextval('s')");
    pair.primary.wait_replayed(&pair.replica);
    // A standby knows a sequence only 32 values ahead.
    assert_ne!(pair.replica.value("SELECT last_value FROM pg_sequences"), "1");
    assert_eq!(pair.client().value("SELECT last_value FROM pg_sequences"), "1");
}

/// A view is what it calls: what writes or locks runs on the primary, and is not even tried on a replica.
#[test]
fn views_and_sequences_go_where_they_belong() {
    let pair = Pair::start(
        "CREATE FUNCTION writes() RETURNS int LANGUAGE plpgsql VOLATILE AS
             'BEGIN INSERT INTO t SELECT coalesce(max(id), 0) + 1 FROM t; RETURN 1; END';
         CREATE FUNCTION looks() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM t';
         CREATE FUNCTION writes2(int, int) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT writes()';
         CREATE OPERATOR @#@ (FUNCTION = writes2, LEFTARG = int, RIGHTARG = int);
         CREATE SCHEMA app;
         CREATE SEQUENCE s;
         CREATE VIEW plain AS SELECT id, inet_server_port() AS port FROM t;
         CREATE VIEW looking AS SELECT looks(), random(), now(), inet_server_port() AS port;
         CREATE VIEW writing AS SELECT writes() AS w, inet_server_port() AS port;
         CREATE VIEW app.over AS SELECT * FROM writing;
         CREATE VIEW by_operator AS SELECT 1 @#@ 2 AS w, inet_server_port() AS port;
         CREATE VIEW in_subquery AS SELECT 1 AS a WHERE (SELECT writes()) > 0;
         CREATE VIEW locking AS SELECT pg_try_advisory_xact_lock(1), inet_server_port() AS port;
         CREATE VIEW sessions AS SELECT count(*), inet_server_port() AS port FROM pg_stat_activity;
         CREATE VIEW over_sequence AS SELECT last_value, inet_server_port() AS port FROM s;
         CREATE MATERIALIZED VIEW stored AS SELECT writes() AS w, 1 AS port;
         INSERT INTO t VALUES (100)",
    );
    for sql in ["SELECT * FROM plain", "SELECT * FROM looking", "SELECT w, inet_server_port() FROM stored"] {
        pair.on_replica(sql);
    }
    for sql in [
        "SELECT * FROM writing",
        "SELECT * FROM app.over",
        "SELECT * FROM by_operator",
        "SELECT a, inet_server_port() FROM in_subquery",
        "SELECT * FROM locking",
        "SELECT * FROM sessions",
        "SELECT * FROM over_sequence",
        "SELECT last_value, inet_server_port() FROM s",
        "SELECT p.id, w.port FROM plain AS p, (SELECT * FROM writing) AS w",
    ] {
        pair.on_primary(sql);
    }
    pair.primary.sql("SELECT nextval('s')");
    assert_eq!(pair.client().value("SELECT last_value FROM s"), "1");
    // By search_path, and by the extended protocol.
    let mut client = pair.client();
    client.run("SET search_path = app, public");
    pair.assert_place(&mut client, "SELECT * FROM over", &pair.primary);
    let mut client = pair.client();
    for _ in 0..2 {
        client.parse("s", "SELECT port FROM locking", &[]);
        client.bind("", "s", &[]);
        client.execute("", 0);
        client.close_statement("s");
        client.sync();
        let answer = show(&client.read_until_ready());
        assert_eq!(answer, format!("1 2 D({}) C(SELECT 1) 3 Z(I)", pair.primary.port()));
    }
    let log = pair.replica.log_text();
    assert!(!log.contains("read-only transaction"), "a view was tried on the replica:\n{log}");

    // A view that changes is noticed when the change passes, and what does not exist is the server's to say.
    assert_eq!(
        pair.client().run("CREATE OR REPLACE VIEW writing AS SELECT 1 AS w, inet_server_port() AS port"),
        "C(CREATE VIEW) Z(I)"
    );
    pair.primary.wait_replayed(&pair.replica);
    pair.on_replica("SELECT * FROM writing");
    assert_eq!(pair.client().run("SELECT * FROM no_such_view"), "E(42P01) Z(I)");
}

/// What relations are is asked on the side: reads go on when the primary is away, and tables of the session alone are served.
#[test]
fn reads_do_not_depend_on_the_catalog() {
    let pair = Pair::start("CREATE VIEW v AS SELECT inet_server_port() AS port");
    let mut client = pair.client();
    client.run("CREATE TEMP TABLE mine (a int)");
    client.run("INSERT INTO mine VALUES (5)");
    assert_eq!(client.value("SELECT a FROM mine"), "5");
    pair.primary.kill9();
    pair.on_replica("SELECT * FROM v");
    pair.on_replica("SELECT count(*), inet_server_port() FROM t");
}

/// While the primary is asked what a relation is, its client can cancel and leave.
#[test]
fn a_look_up_that_is_not_answered_can_be_cancelled() {
    let pair = Pair::start("CREATE VIEW v AS SELECT 1 AS a");
    let (mut client, mut leaver) = (pair.client(), pair.client());
    pair.primary.freeze();
    client.query("SELECT * FROM v");
    leaver.query("SELECT * FROM v");
    client.expect_silence(Duration::from_millis(300));
    client.cancel();
    assert_eq!(show(&client.read_until_ready()), "E(57014) Z(I)");
    drop(leaver);
    eventually("the one that left is gone", Duration::from_secs(5), || {
        (pair.weir.admin_table("SHOW CLIENTS").iter().filter(|c| c["database"] == "app").count() == 1).then_some(())
    });
    pair.primary.thaw();
    assert_eq!(client.value("SELECT a FROM v"), "1");
}

/// Once known, the names of a statement cost no look-up: the primary sees no more logins.
#[test]
fn names_are_looked_up_once() {
    let pair = Pair::start("CREATE VIEW v AS SELECT 1 AS a");
    let mut client = pair.client();
    client.value("SELECT count(*) FROM t, v");
    let logins = || {
        let log = pair.primary.log_text();
        let ours = |line: &str| line.contains("pgweir probe") || line.contains("pgweir census");
        log.lines().filter(|line| line.contains("connection authorized") && !ours(line)).count()
    };
    let before = logins();
    assert!(before > 0, "logins are logged");
    for _ in 0..300 {
        client.value("SELECT count(*) FROM t, v");
    }
    assert_eq!(logins(), before);
    client.value("SELECT count(*) FROM t, v, pg_catalog.pg_class, information_schema.tables AS i WHERE false");
    assert_eq!(logins(), before, "PostgreSQL's own relations are known");
}

// Transactions that begin READ ONLY, and so on the replica.

#[test]
fn a_block_that_has_done_nothing_moves_to_the_primary() {
    let pair = Pair::start("");
    for first in [
        "SELECT pg_try_advisory_xact_lock(1), inet_server_port()",
        "SELECT 1 FROM pg_advisory_xact_lock(1)",
        "SELECT pg_is_in_recovery()",
        "/* pgweir: primary */ SELECT 1",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SET TRANSACTION READ WRITE",
        "SET transaction_read_only = off",
    ] {
        for between in ["", "SET LOCAL statement_timeout = '9s'", "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"] {
            let mut client = pair.client();
            assert_eq!(client.run("BEGIN READ ONLY"), "C(BEGIN) Z(T)");
            if !between.is_empty() {
                assert_eq!(client.run(between), "C(SET) Z(T)");
            }
            let answer = client.run(first);
            assert!(answer.ends_with("Z(T)"), "{between}; {first}: {answer}");
            pair.assert_place(&mut client, PORT, &pair.primary);
            if between.contains("statement_timeout") {
                assert_eq!(client.value("SHOW statement_timeout"), "9s", "{first}");
            }
            let writes = first.contains("WRITE") || first.contains("off");
            let expected = if writes { "C(INSERT 0 1) Z(T)" } else { "E(25006) Z(E)" };
            assert_eq!(client.run("INSERT INTO t VALUES (1)"), expected, "{first}");
            assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
        }
    }
    // By the extended protocol.
    let mut client = pair.client();
    for sql in ["BEGIN READ ONLY", "SET TRANSACTION READ WRITE", "INSERT INTO t VALUES (2)", "COMMIT"] {
        client.parse("", sql, &[]);
        client.bind("", "", &[]);
        client.execute("", 0);
        client.sync();
        let answer = show(&client.read_until_ready());
        assert!(!answer.contains("E("), "{sql}: {answer}");
    }
    assert_eq!(client.value("SELECT count(*) FROM t"), "1");
    // One that says nothing of the kind stays.
    let mut client = pair.client();
    client.run("BEGIN READ ONLY");
    client.run("SET LOCAL statement_timeout = '9s'");
    pair.assert_place(&mut client, PORT, &pair.replica);
}

#[test]
fn no_lock_is_taken_on_a_replica() {
    let pair = Pair::start("");
    for lock in
        ["SELECT pg_advisory_xact_lock(1)", "SELECT pg_try_advisory_xact_lock_shared(1)", "SELECT pg_advisory_lock(1)"]
    {
        let mut client = pair.client();
        client.run("BEGIN READ ONLY");
        pair.assert_place(&mut client, PORT, &pair.replica);
        client.query(lock);
        let answer = client.read_until_ready();
        let error = answer.iter().find_map(common::wire::Message::error).unwrap_or_else(|| panic!("{lock}: no error"));
        assert_eq!(error.code, "0A000", "{error}");
        assert!(
            error.message.contains("advisory lock") && format!("{error:?}").contains("pgweir: primary"),
            "{error:?}"
        );
        assert_eq!(client.run("SELECT 1"), "E(25P02) Z(E)", "the transaction has failed, as after any error");
        assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
        assert_eq!(pair.replica.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), "0");
        assert_eq!(client.run("/* pgweir: primary */ BEGIN READ ONLY"), "C(BEGIN) Z(T)");
        client.value(PORT);
        assert!(client.run(lock).contains("D("), "{lock}");
        client.run("ROLLBACK");
    }
}

#[test]
fn serializable_runs_on_the_primary() {
    let pair = Pair::start("");
    for begin in [
        "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY",
        "START TRANSACTION READ ONLY, ISOLATION LEVEL SERIALIZABLE, DEFERRABLE",
    ] {
        let mut client = pair.client();
        client.run(begin);
        pair.assert_place(&mut client, PORT, &pair.primary);
        assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    }
    let mut client = pair.client();
    client.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
    pair.assert_place(&mut client, PORT, &pair.replica);
    client.run("COMMIT");
    client.run("SET default_transaction_isolation = 'serializable'");
    pair.assert_place(&mut client, "SELECT count(*), inet_server_port() FROM t", &pair.primary);
    client.run("RESET default_transaction_isolation");
    pair.assert_place(&mut client, "SELECT count(*), inet_server_port() FROM t", &pair.replica);
    drop(pair);
    // Where nobody here can know of it, the replica's refusal is not the last word.
    let pair = Pair::with("", "connect_query = \"SET default_transaction_isolation = 'serializable'\"");
    pair.on_primary("SELECT count(*), inet_server_port() FROM t");
}

#[test]
fn what_is_shown_of_replicas_is_true() {
    let pair = Pair::start("");
    let row = |server: &Cluster| {
        let rows = pair.weir.admin_table("SHOW REPLICAS");
        rows.into_iter().find(|row| row["port"] == server.port().to_string()).unwrap()
    };
    let metric = |start: &str| {
        let (_, page) = pair.weir.http_get("/metrics");
        let line = page.lines().find(|line| line.starts_with(start)).map(str::to_owned);
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or(0.0)
    };
    let primary = row(&pair.primary);
    assert_eq!((&*primary["role"], &*primary["state"], &*primary["effective_weight"]), ("primary", "up", ""));
    let replica = row(&pair.replica);
    assert_eq!((&*replica["state"], &*replica["last_error"], &*replica["last_error_age_us"]), ("up", "", ""));
    assert!(replica["effective_weight"].parse::<f64>().unwrap() > 0.0, "{replica:?}");

    // Reads that went to the primary for the session's own writes, and one that a replica does not answer.
    pair.replica.sql("SELECT pg_wal_replay_pause()");
    let mut client = pair.client();
    client.run("INSERT INTO t VALUES (1)");
    pair.assert_place(&mut client, PORT, &pair.primary);
    assert!(metric("pgweir_routes_total{database=\"app\",reason=\"own_writes_not_replayed\"}") >= 1.0);
    pair.replica.sql("SELECT pg_wal_replay_resume()");
    pair.on_primary("SELECT pg_is_in_recovery(), inet_server_port()");
    assert!(metric("pgweir_routes_total{database=\"app\",reason=\"primarys_own\"}") >= 1.0);
    pair.primary.sql(
        "CREATE FUNCTION position_now() RETURNS pg_lsn LANGUAGE plpgsql STABLE AS 'BEGIN RETURN pg_current_wal_lsn(); END'",
    );
    pair.primary.wait_replayed(&pair.replica);
    pair.on_primary("SELECT position_now(), inet_server_port()");
    assert!(metric("pgweir_retries_total{reason=\"needs_primary\"}") >= 1.0);

    pair.replica.kill9();
    eventually("the replica is down", PATIENCE, || (row(&pair.replica)["state"] == "down").then_some(()));
    let down = row(&pair.replica);
    assert_eq!(down["effective_weight"], "0.000");
    assert!(!down["last_error"].is_empty());
    pair.replica.restart();
    let up = eventually("the replica is up", PATIENCE, || Some(row(&pair.replica)).filter(|row| row["state"] == "up"));
    // What went wrong is still told, and how long ago.
    assert!(!up["last_error"].is_empty() && up["last_error_age_us"].parse::<u64>().unwrap() > 0, "{up:?}");
}

#[test]
fn reads_are_balanced_as_set() {
    for balance in ["least_inflight", "peak_ewma"] {
        let pair = Pair::with("", &format!("load_balance = \"{balance}\""));
        for _ in 0..5 {
            pair.on_replica(PORT);
        }
    }
}

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
        let primary = Cluster::with_config(&[("max_prepared_transactions", "5")]);
        let replica = primary.replica();
        primary.sql("CREATE TABLE t (id int PRIMARY KEY)");
        primary.sql(sql);
        primary.wait_replayed(&replica);
        let url = |cluster: &Cluster| format!("\"postgres://127.0.0.1:{}/postgres\"", cluster.port());
        let weir = Weir::builder()
            .general("probe_interval = \"100ms\"\nprobe_timeout = \"2s\"")
            .database(&format!(
                "[databases.app]\nuser = \"postgres\"\nprimary = {}\nreplicas = [{}]",
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
    assert_eq!(common::wire::show(&client.read_until_ready()), "1 2 D(off) C(SHOW) Z(I)");
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

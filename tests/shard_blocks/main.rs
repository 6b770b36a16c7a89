//! Transaction blocks that several shards take part in: what one server would do, or a refusal.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

#[path = "../common/mod.rs"]
mod common;
mod copies;
mod data;
mod ends;
mod limits;
mod pipelines;
mod portals;
mod settings;
mod truth;
mod unseen;

use std::time::Duration;

use common::cluster::Cluster;
use common::eventually;
use common::raw::RawClient;
use common::weir::{Builder, Weir};
use common::wire::{Message, show};

const SOON: Duration = Duration::from_secs(20);
const SHARDS: usize = 3;
const TABLES: &str = "CREATE TABLE t (k int8 PRIMARY KEY, v text, n int4 CHECK (n < 1000));
    CREATE TABLE r (code int4 PRIMARY KEY, name text)";
const TWO_PHASE: &str = "cross_shard_writes = \"two_phase\"\nunkeyed_writes = true";

fn slots(shard: usize) -> (usize, usize) {
    (16384 * shard / SHARDS, 16384 * (shard + 1) / SHARDS - 1)
}

/// `order`: in which the configuration names the shards.
fn configured(settings: &str, order: [usize; SHARDS], cluster: &Cluster, replica: Option<&Cluster>) -> Builder {
    let mut toml = format!("[databases.app]\ndefault_shard = \"s0\"\nprobe_user = \"postgres\"\n{settings}\n");
    for n in order {
        let ((first, last), name) = (slots(n), format!("s{n}"));
        let primary = cluster.url(&name);
        let servers = match replica {
            // The probes find out which is what.
            Some(replica) => format!("servers = [\"{primary}\", \"{}\"]", replica.url(&name)),
            None => format!("primary = \"{primary}\""),
        };
        toml += &format!("[[databases.app.shards]]\nname = \"{name}\"\nslots = [[{first}, {last}]]\n{servers}\n");
    }
    toml += "[databases.app.tables]\nt = { key = \"k\", type = \"bigint\" }\nr = { reference = true }\n";
    let builder = Weir::builder().database(&toml);
    match replica {
        Some(_) => builder.general("probe_interval = \"100ms\"\nprobe_timeout = \"1s\""),
        None => builder,
    }
}

/// `app` over three databases of one cluster, and an unsharded database with the same rows.
struct Sharded {
    cluster: Cluster,
    replica: Option<Cluster>,
    weir: Weir,
    /// A few keys of each shard.
    keys: Vec<Vec<i64>>,
}

impl Sharded {
    fn start(settings: &str) -> Self {
        Self::with_replica(settings, |_| None)
    }

    /// Each shard may have a replica as well.
    fn with_replica(settings: &str, replica: impl FnOnce(&Cluster) -> Option<Cluster>) -> Self {
        let cluster = Cluster::start();
        cluster.sql("CREATE DATABASE whole");
        let slot = "((hashint8extended(k, 8816678312871386365) & 16383) + 10467) & 16383";
        let fill = "INSERT INTO t SELECT k, 'v' || k, k % 7 FROM generate_series(1, 60) k";
        cluster.sql_in("whole", &format!("{TABLES}; {fill}"));
        let mut keys = Vec::new();
        for n in 0..SHARDS {
            let (first, last) = slots(n);
            let name = format!("s{n}");
            cluster.sql(&format!("CREATE DATABASE {name}"));
            cluster.sql_in(&name, &format!("{TABLES}; {fill} WHERE ({slot}) BETWEEN {first} AND {last}"));
            let rows = cluster.sql_in(&name, "SELECT k FROM t ORDER BY k LIMIT 5");
            keys.push(rows.iter().map(|row| row[0].parse().unwrap()).collect());
        }
        let replica = replica(&cluster);
        let weir = configured(settings, [0, 1, 2], &cluster, replica.as_ref()).start();
        let this = Self { cluster, replica, weir, keys };
        if settings.contains("two_phase") {
            for n in 0..SHARDS {
                eventually("the table of decisions", SOON, || {
                    (this.on(n, "SELECT to_regclass('pgweir.dtx') IS NOT NULL") == "t").then_some(())
                });
            }
        }
        this
    }

    fn client(&self) -> RawClient {
        self.weir.client("app")
    }

    fn key(&self, shard: usize) -> i64 {
        self.keys[shard][0]
    }

    fn on(&self, shard: usize, sql: &str) -> String {
        self.cluster.sql_in(&format!("s{shard}"), sql)[0][0].clone()
    }

    /// The rows of all shards are those of the unsharded table, and nothing is open or prepared any more.
    fn is_whole(&self) {
        let mut all: Vec<_> =
            (0..SHARDS).flat_map(|n| self.cluster.sql_in(&format!("s{n}"), "SELECT * FROM t")).collect();
        all.sort();
        let mut whole = self.cluster.sql_in("whole", "SELECT * FROM t");
        whole.sort();
        assert_eq!(all, whole);
        assert_eq!(self.cluster.value("SELECT count(*) FROM pg_prepared_xacts"), "0");
        self.nothing_open();
    }

    fn nothing_open(&self) {
        eventually("no transaction is open", SOON, || {
            let open = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'";
            (self.cluster.value(open) == "0").then_some(())
        });
    }

    /// Runs the statements one after the other on the unsharded database and over the shards: the answers are the same.
    fn same(&self, statements: &[&str]) {
        for way in [simple, extended] {
            self.cluster.sql_in("whole", "BEGIN; DELETE FROM t WHERE k > 60; COMMIT");
            let (mut whole, mut client) = (self.cluster.client("whole"), self.client());
            for sql in statements {
                let (theirs, ours) = (told(&way(&mut whole, sql)), told(&way(&mut client, sql)));
                assert_eq!(ours, theirs, "{sql}");
            }
        }
    }
}

fn simple(client: &mut RawClient, sql: &str) -> Vec<Message> {
    client.query(sql);
    client.read_until_ready()
}

fn extended(client: &mut RawClient, sql: &str) -> Vec<Message> {
    client.parse("", sql, &[]);
    client.bind("", "", &[]);
    client.describe_portal("");
    client.execute("", 0);
    client.sync();
    client.read_until_ready()
}

/// What is compared: rows, tags, of errors the SQLSTATE, and the state of the transaction.
fn told(messages: &[Message]) -> Vec<String> {
    // How many rows come before an error is chance.
    let failed = messages.iter().any(|message| message.tag == b'E');
    let is_shown = |tag| matches!(tag, b'C' | b'E' | b'Z') || (tag == b'D' && !failed);
    let shown = messages.iter().filter(|message| is_shown(message.tag));
    shown
        .map(|message| match message.error() {
            Some(error) if message.tag == b'E' => format!("E {}", error.code),
            _ => message.to_string(),
        })
        .collect()
}

fn error(messages: &[Message]) -> (String, String, String) {
    let error = messages.iter().find_map(Message::error).unwrap_or_else(|| panic!("{}", show(messages)));
    (error.code.clone(), error.message.clone(), error.fields.get(&'H').cloned().unwrap_or_default())
}

/// With what says how the protocol goes on.
fn told_of_part(messages: &[Message]) -> Vec<String> {
    messages.iter().filter(|message| message.tag != b'T').map(ToString::to_string).collect()
}

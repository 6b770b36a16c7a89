//! What an operator sees of shards: SHOW SHARDS, SHOW TABLES, SHOW SLOT FOR, and the metrics of plans and refusals.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::cluster::Cluster;
use common::raw::RawClient;
use common::weir::Weir;
use common::wire::{Message, ServerError};
use pgweir::shard::hash;

const SEED: &str = "8816678312871386365";

/// Two shards in databases of one cluster: `t` by a bigint, `w` by a text, `crm.u` by a uuid, `ref` everywhere, `plain` unlisted,
/// and `gone` on the first shard only.
fn start() -> (Cluster, Weir) {
    let cluster = Cluster::start();
    let mut toml = "[databases.app]\ndefault_shard = \"s0\"\nprobe_user = \"postgres\"\n".to_owned();
    for (n, slots) in ["[0, 8191]", "[8192, 16383]"].iter().enumerate() {
        cluster.sql(&format!("CREATE DATABASE d{n}"));
        cluster.sql_in(
            &format!("d{n}"),
            "CREATE TABLE t (k int8 NOT NULL, g int4); CREATE TABLE w (k text NOT NULL); CREATE TABLE ref (k int4); \
             CREATE SCHEMA crm; CREATE TABLE crm.u (k uuid NOT NULL); CREATE VIEW seen AS SELECT 1 AS one",
        );
        toml += &format!(
            "[[databases.app.shards]]\nname = \"s{n}\"\nslots = [{slots}]\nprimary = \"{}\"\n",
            cluster.url(&format!("d{n}"))
        );
    }
    cluster.sql_in("d0", "CREATE TABLE plain (id int4); CREATE TABLE gone (k int8 NOT NULL)");
    toml += "[databases.app.tables]\nt = { key = \"k\", type = \"bigint\" }\nw = { key = \"k\", type = \"text\" }\n\
             \"crm.u\" = { key = \"k\", type = \"uuid\" }\ngone = { key = \"k\", type = \"bigint\" }\nref = { reference = true }\n";
    let weir = Weir::builder().database(&toml).start();
    (cluster, weir)
}

fn refused(weir: &Weir, command: &str) -> ServerError {
    let mut console = weir.console().unwrap();
    console.query(command);
    let answer = console.read_until_ready();
    answer.iter().find_map(Message::error).unwrap_or_else(|| panic!("{command} is not refused"))
}

#[test]
fn show_tables_tells_kind_key_and_shards() {
    let (_cluster, weir) = start();
    let rows = weir.admin_table("SHOW TABLES");
    let lines: Vec<String> = rows
        .iter()
        .map(|row| {
            ["schema", "table", "kind", "key", "type", "found_on", "missing_on", "not_asked"]
                .map(|c| &*row[c])
                .join(" ")
        })
        .collect();
    assert_eq!(
        lines,
        [
            "crm u sharded k uuid s0,s1  ",
            "public gone sharded k bigint s0 s1 ",
            "public plain unsharded   s0  ",
            "public ref reference   s0,s1  ",
            "public t sharded k bigint s0,s1  ",
            "public w sharded k text s0,s1  ",
        ],
        "a view that is not listed is no table"
    );
}

#[test]
fn show_tables_names_the_shards_that_do_not_answer() {
    let (cluster, weir) = start();
    cluster.stop();
    let rows = weir.admin_table("SHOW TABLES");
    assert_eq!(rows.len(), 5, "what is listed");
    assert!(rows.iter().all(|row| row["not_asked"] == "s0,s1" && row["missing_on"].is_empty()), "{rows:?}");
}

/// The server's own hash says the slot.
#[test]
fn show_slot_agrees_with_the_server() {
    let (cluster, weir) = start();
    for (table, key, hash) in [
        ("t", "42", "hashint8extended(42, SEED)"),
        ("t", "-9223372036854775808", "hashint8extended((-9223372036854775808)::int8, SEED)"),
        ("w", "it''s żółć", "hashtextextended('it''s żółć', SEED)"),
        (
            "crm.u",
            "{123E4567-e89b-12d3-a456-426614174000}",
            "uuid_hash_extended('123e4567-e89b-12d3-a456-426614174000', SEED)",
        ),
    ] {
        let rows = weir.admin_table(&format!("SHOW SLOT FOR '{table}' '{key}'"));
        let server = cluster.value(&format!("SELECT {}", hash.replace("SEED", SEED)));
        let slot = cluster.value(&format!("SELECT (({} & 16383) + 10467) & 16383", hash.replace("SEED", SEED)));
        assert_eq!((rows.len(), &rows[0]["hash"], &rows[0]["slot"]), (1, &server, &slot), "{table} {key}");
        let shard = if slot.parse::<u32>().unwrap() < 8192 { "s0" } else { "s1" };
        assert_eq!(rows[0]["shard"], shard);
    }
    assert_eq!(weir.admin_table("show slot for app 't' '42'").len(), 1, "the database may be named");
}

#[test]
fn show_slot_refuses_with_what_to_do() {
    let (_cluster, weir) = start();
    for (command, state, hint) in [
        ("SHOW SLOT FOR 'tt' '1'", "42P01", "'t'"),
        ("SHOW SLOT FOR 'crm.uu' '1'", "42P01", "'crm.u'"),
        ("SHOW SLOT FOR 'ref' '1'", "22023", "SHOW TABLES"),
        ("SHOW SLOT FOR 't' 'one'", "22P02", "\"k\""),
        ("SHOW SLOT FOR ap 't' '1'", "3D000", "app"),
        ("SHOW SLOT FOR 't'", "42601", "SHOW SLOT FOR [database] 'table' 'key'"),
        ("SHOW SLOT", "42601", "SHOW SLOT FOR"),
    ] {
        let error = refused(&weir, command);
        assert_eq!(error.fields[&'C'], state, "{command}");
        assert!(error.fields[&'H'].contains(hint), "{command}: {error:?}");
    }
}

/// A key of the first or the second shard.
fn key(shard: u16) -> i64 {
    (1..).find(|key| hash::slot_of(hash::hash_integer(*key)).0 / 8192 == shard).unwrap()
}

/// Figures of each shard, by their names.
type Figures = [BTreeMap<String, u64>; 2];

/// How much more the later ones are.
fn difference(before: &Figures, after: &Figures, name: &str) -> [u64; 2] {
    [0, 1].map(|shard| after[shard][name] - before[shard][name])
}

/// What statements by key and over both shards add to the figures.
fn traffic(
    weir: &Weir,
    client: &mut RawClient,
    figures: impl Fn() -> Figures,
    check: impl Fn(&Figures, &Figures) -> bool,
) {
    for shard in [0, 1] {
        // What is asked once is asked now.
        client.run(&format!("SELECT g FROM t WHERE k = {}", key(shard)));
        client.run(&format!("INSERT INTO t (k, g) VALUES ({}, 0)", key(shard)));
    }
    client.run("SELECT count(*) FROM t");
    let before = figures();
    for _ in 0..7 {
        client.run(&format!("INSERT INTO t (k, g) VALUES ({}, 1)", key(1)));
    }
    for _ in 0..3 {
        client.run(&format!("SELECT g FROM t WHERE k = {}", key(0)));
    }
    for _ in 0..2 {
        client.run("SELECT count(*) FROM t");
    }
    // They are counted when a connection goes back, which is behind the answer.
    let mut last = figures();
    let found = (0..200).any(|_| {
        last = figures();
        check(&before, &last) || {
            std::thread::sleep(Duration::from_millis(50));
            false
        }
    });
    assert!(found, "{before:?} {last:?}\n{}", weir.log_text());
}

#[test]
fn show_shards_tells_slots_state_role_and_traffic() {
    let (cluster, weir) = start();
    let mut client = weir.client("app");
    let numbers = ["xact_count", "query_count", "bytes_received", "bytes_sent", "reads", "writes"];
    let figures = || {
        let rows = weir.admin_table("SHOW SHARDS");
        [0, 1].map(|at| numbers.map(|name| (name.to_owned(), rows[at][name].parse().unwrap())).into())
    };
    traffic(&weir, &mut client, figures, |before, after| {
        let more = |name| difference(before, after, name);
        let (received, sent) = (more("bytes_received"), more("bytes_sent"));
        more("query_count") == [5, 9]
            && more("xact_count") == [5, 9]
            && more("reads") == [5, 2]
            && more("writes") == [0, 7]
            && received[1] > received[0]
            && sent.iter().all(|bytes| *bytes > 0)
    });
    common::eventually("both are up", Duration::from_secs(20), || {
        weir.admin_table("SHOW SHARDS").iter().all(|row| row["state"] == "up").then_some(())
    });
    for (number, row) in weir.admin_table("SHOW SHARDS").iter().enumerate() {
        let slots = ["0-8191", "8192-16383"][number];
        let server = format!("127.0.0.1:{}", cluster.port());
        let shown =
            ["database", "shard", "slots", "slot_count", "is_default", "servers", "roles"].map(|name| &*row[name]);
        let (name, is_default, roles) = (format!("s{number}"), ["1", "0"][number], format!("{server} primary up"));
        assert_eq!(shown, ["app", &name, slots, "8192", is_default, &server, &roles]);
    }
    cluster.stop();
    common::eventually("both are down", Duration::from_secs(60), || {
        let rows = weir.admin_table("SHOW SHARDS");
        rows.iter().all(|row| row["state"] != "up" && !row["roles"].contains(" up")).then_some(())
    });
}

#[test]
fn metrics_tell_what_each_shard_did() {
    let (_cluster, weir) = start();
    let mut client = weir.client("app");
    let figures = || {
        let (_, text) = weir.http_get("/metrics");
        let of = |name: &str, labels: &[&str]| -> u64 {
            let is_it = |line: &&str| {
                line.starts_with(&format!("pgweir_{name}{{")) && labels.iter().all(|label| line.contains(label))
            };
            let samples: Vec<f64> =
                text.lines().filter(is_it).map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
            assert!(!samples.is_empty(), "no {name} with {labels:?}");
            samples.iter().sum::<f64>() as u64
        };
        ["shard=\"s0\"", "shard=\"s1\""].map(|shard| {
            let figures = [
                ("queries", of("queries_total", &[shard])),
                ("transactions", of("transactions_total", &[shard])),
                ("sent", of("sent_bytes_total", &[shard])),
                ("reads", of("routed_total", &[shard, "access=\"read\""])),
                ("writes", of("routed_total", &[shard, "access=\"write\""])),
            ];
            figures.map(|(name, figure)| (name.to_owned(), figure)).into()
        })
    };
    traffic(&weir, &mut client, figures, |before, after| {
        let more = |name| difference(before, after, name);
        more("queries") == [5, 9]
            && more("transactions") == [5, 9]
            && more("reads") == [5, 2]
            && more("writes") == [0, 7]
            && more("sent").iter().all(|bytes| *bytes > 0)
    });
}

/// The samples of a metric, by the value of one label.
fn metric(weir: &Weir, name: &str, label: &str) -> BTreeMap<String, u64> {
    let (_, text) = weir.http_get("/metrics");
    let samples = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
    samples
        .map(|line| {
            let (_, rest) = line.split_once(&format!("{label}=\"")).unwrap();
            let (value, _) = rest.split_once('"').unwrap();
            (value.to_owned(), line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64)
        })
        .collect()
}

#[test]
fn plans_and_refusals_are_counted_by_kind_and_reason() {
    let (_cluster, weir) = start();
    let mut client = weir.client("app");
    client.run("SELECT g FROM t WHERE k = 1");
    client.run("SELECT g FROM t WHERE k = 2");
    client.run("SELECT count(*) FROM t");
    client.run("SELECT 1");
    for (sql, reason) in [
        ("SELECT g, rank() OVER (ORDER BY g) FROM t", "window"),
        ("SELECT a.g FROM t a JOIN t b ON a.g = b.g", "join"),
        ("SELECT current_user FROM t", "server_name"),
        ("UPDATE t SET k = k + 1 WHERE k = 1", "key_update"),
        ("INSERT INTO t (g) VALUES (1)", "no_key"),
    ] {
        let before = metric(&weir, "pgweir_refused_statements_total", "reason").get(reason).copied().unwrap_or(0);
        client.query(sql);
        let answer = client.read_until_ready();
        let error = answer.iter().find_map(Message::error).unwrap_or_else(|| panic!("{sql} is not refused"));
        assert_eq!(error.fields[&'C'], "0A000", "{sql}");
        assert_eq!(
            metric(&weir, "pgweir_refused_statements_total", "reason").get(reason),
            Some(&(before + 1)),
            "{sql}"
        );
    }
    let plans = metric(&weir, "pgweir_plans_total", "kind");
    assert_eq!(plans["single"], 2);
    assert_eq!(plans["scatter"], 1);
    assert_eq!(plans["any_shard"], 1);
    assert_eq!(plans["refused"], 5);
}

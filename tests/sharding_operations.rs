//! What an operator sees of shards: SHOW SHARDS, SHOW TABLES, SHOW SLOT FOR, and the metrics of plans and refusals.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod common;

use std::collections::BTreeMap;

use common::cluster::Cluster;
use common::weir::Weir;
use common::wire::{Message, ServerError};

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

#[test]
fn show_shards_tells_state_role_and_traffic() {
    let (_cluster, weir) = start();
    let mut client = weir.client("app");
    for key in 0..20 {
        client.run(&format!("INSERT INTO t (k, g) VALUES ({key}, 1)"));
    }
    client.run("SELECT count(*) FROM t");
    for row in weir.admin_table("SHOW SHARDS") {
        assert!(row["roles"].contains("primary") && row["writes"].parse::<u64>().unwrap() > 0, "{row:?}");
        assert!(row["query_count"].parse::<u64>().unwrap() > 1, "{row:?}");
        assert!(["up", "unknown"].contains(&&*row["state"]), "{row:?}");
    }
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

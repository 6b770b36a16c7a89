//! Answers without the shards that cannot be reached: only where that is asked for, and never in silence.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod common;

use common::cluster::Cluster;
use common::raw::RawClient;
use common::weir::Weir;
use common::wire::{Message, show};

/// Two servers with a shard each.
fn start(settings: &str) -> ([Cluster; 2], Weir) {
    let clusters = [Cluster::start(), Cluster::start()];
    let mut toml = format!("[databases.app]\ndefault_shard = \"s0\"\nprobe_user = \"postgres\"\n{settings}\n");
    for (n, (first, last)) in [(0, 8191), (8192, 16383)].into_iter().enumerate() {
        let home = format!(
            "(((hashint8extended(k, 8816678312871386365) & 16383) + 10467) & 16383) BETWEEN {first} AND {last}"
        );
        clusters[n].sql(&format!(
            "CREATE TABLE t (k int8 PRIMARY KEY, n int4); INSERT INTO t SELECT k, 1 FROM generate_series(1, 100) k WHERE {home}"
        ));
        toml += &format!(
            "[[databases.app.shards]]\nname = \"s{n}\"\nslots = [[{first}, {last}]]\nprimary = \"{}\"\n",
            clusters[n].url("postgres")
        );
    }
    toml += "[databases.app.tables]\nt = { key = \"k\", type = \"bigint\" }\n";
    let weir = Weir::builder().general("query_wait_timeout = \"3s\"").database(&toml).start();
    (clusters, weir)
}

/// The rows of a statement, and the shards that a warning names.
fn rows(client: &mut RawClient, sql: &str) -> (Vec<String>, Option<String>) {
    client.query(sql);
    let reply = client.read_until_ready();
    assert!(!reply.iter().any(|message| message.tag == b'E'), "{sql}: {}", show(&reply));
    let warning = reply.iter().find(|message| message.tag == b'N').map(|message| {
        let text = String::from_utf8_lossy(&message.body).into_owned();
        assert!(text.contains("WARNING") && text.contains("01000"), "{text}");
        text
    });
    let rows = reply.iter().filter_map(Message::row).map(|row| row[0].clone().unwrap()).collect();
    (rows, warning)
}

#[test]
fn a_part_is_an_answer_where_it_is_asked_for_and_with_a_warning() {
    let (clusters, weir) = start("");
    let mut client = weir.client("app");
    let count = |cluster: &Cluster| cluster.value("SELECT count(*) FROM t");
    let here = count(&clusters[0]);
    let there = clusters[1].value("SELECT min(k) FROM t");
    assert_eq!(rows(&mut client, "SELECT count(*) FROM t"), (vec!["100".to_owned()], None));
    assert_eq!(client.value("SHOW pgweir.partial_results"), "off");
    assert_eq!(client.run("SET pgweir.partial_results = 'some'"), "E(22023) Z(I)");
    assert_eq!(client.run("SET pgweir.partial_results = on"), "C(SET) Z(I)");
    assert_eq!(client.value("SHOW pgweir.partial_results"), "on");
    assert_eq!(rows(&mut client, "SELECT count(*) FROM t").1, None, "all shards are there");
    clusters[1].stop();
    for sql in ["SELECT count(*) FROM t", "SELECT count(*) + 0 FROM t HAVING count(*) > 0"] {
        let (found, warning) = rows(&mut client, sql);
        assert_eq!(found, [here.as_str()], "{sql}");
        let warning = warning.unwrap_or_else(|| panic!("{sql}: no warning"));
        assert!(warning.contains("\"s1\"") && !warning.contains("\"s0\""), "{warning}");
    }
    let (found, warning) = rows(&mut client, "SELECT k FROM t ORDER BY k");
    assert_eq!(found.len().to_string(), here);
    assert!(warning.is_some());
    // A statement of one shard is that shard's affair.
    assert!(client.run(&format!("SELECT n FROM t WHERE k = {there}")).starts_with("E("));
    assert!(client.run(&format!("UPDATE t SET n = 2 WHERE k = {there}")).starts_with("E("));
    for off in ["SET pgweir.partial_results = off", "RESET pgweir.partial_results"] {
        client.run("SET pgweir.partial_results = on");
        client.run(off);
        assert!(client.run("SELECT count(*) FROM t").starts_with("E("), "{off}");
    }
    client.run("SET pgweir.partial_results = on");
    clusters[0].stop();
    assert!(client.run("SELECT count(*) FROM t").starts_with("E("), "nothing is no part");
    clusters.iter().for_each(Cluster::restart);
    weir.wait_log("an answer goes without shards");
}

#[test]
fn the_setting_of_the_database_is_the_default() {
    let (clusters, weir) = start("partial_results = true");
    let mut client = weir.client("app");
    assert_eq!(client.value("SHOW pgweir.partial_results"), "on");
    clusters[1].stop();
    assert!(rows(&mut client, "SELECT k FROM t").1.is_some());
    client.run("SET pgweir.partial_results = off");
    assert!(client.run("SELECT k FROM t").starts_with("E("));
}

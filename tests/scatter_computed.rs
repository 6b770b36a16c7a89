//! What one shard computes of the rows that several have brought together, and arrays of keys that say which shards are asked.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod common;

use common::cluster::Cluster;
use common::raw::RawClient;
use common::weir::Weir;
use common::wire::{Message, show};

/// Two shards in one cluster; each row of `t` lies where its key says, of 120,000 rows in all.
fn start() -> (Cluster, Weir) {
    let cluster = Cluster::start();
    let mut toml = "[databases.app]\ndefault_shard = \"s0\"\nprobe_user = \"postgres\"\n".to_owned();
    for (n, (first, last)) in [(0, 8191), (8192, 16383)].into_iter().enumerate() {
        cluster.sql(&format!("CREATE DATABASE s{n}"));
        let home = format!(
            "(((hashint8extended(k, 8816678312871386365) & 16383) + 10467) & 16383) BETWEEN {first} AND {last}"
        );
        cluster.sql_in(
            &format!("s{n}"),
            &format!(
                "CREATE TABLE t (k int8 PRIMARY KEY, v text COLLATE \"und-x-icu\", n int4);
                 INSERT INTO t SELECT k, 'v' || k % 10, k % 7 FROM generate_series(1, 120000) k WHERE {home}"
            ),
        );
        toml += &format!(
            "[[databases.app.shards]]\nname = \"s{n}\"\nslots = [[{first}, {last}]]\nprimary = \"{}\"\n",
            cluster.url(&format!("s{n}"))
        );
    }
    toml += "[databases.app.tables]\nt = { key = \"k\", type = \"bigint\" }\n";
    let weir = Weir::builder().database(&toml).start();
    (cluster, weir)
}

fn ask(client: &mut RawClient, sql: &str, values: &[Option<&str>]) -> Vec<Message> {
    client.parse("", sql, &[]);
    client.bind("", "", values);
    client.describe_portal("");
    client.execute("", 0);
    client.sync();
    client.read_until_ready()
}

#[test]
fn groups_are_computed_with_the_clients_parameters() {
    let (_cluster, weir) = start();
    let mut client = weir.client("app");
    let sql =
        "SELECT n * $1 AS m, count(*) / $2 FROM t WHERE k <= $3 GROUP BY n HAVING count(*) >= $4 ORDER BY sum(k) - $5";
    let reply = ask(&mut client, sql, &[Some("10"), Some("2"), Some("9"), Some("2"), Some("1")]);
    assert_eq!(show(&reply), "1 2 T(m:23,?column?:20) D(10|1) D(20|1) C(SELECT 2) Z(I)");
    // In binary, and the same statement with other values.
    client.parse("p", "SELECT n, sum(k) + $1 AS s FROM t WHERE k < 20 GROUP BY n HAVING n = $2", &[23, 23]);
    for (more, n, sum) in [(1_i32, 3_i32, 31_i64), (100, 6, 119)] {
        client.bind_binary("", "p", &[Some(&more.to_be_bytes()), Some(&n.to_be_bytes())]);
        client.execute("", 0);
        client.sync();
        let reply = client.read_until_ready();
        let row = reply.iter().find(|message| message.tag == b'D').unwrap_or_else(|| panic!("{}", show(&reply)));
        assert_eq!(row.body[6..10], n.to_be_bytes());
        // sum(bigint) is numeric; as a text by the simple protocol.
        let text = client.run(&format!("SELECT sum(k) + {more} FROM t WHERE k < 20 AND n = {n}"));
        assert!(text.contains(&format!("D({sum})")), "{text}");
    }
    assert_eq!(client.run("SELECT coalesce(sum(n), -1) FROM t WHERE k < 0"), "T(coalesce:20) D(-1) C(SELECT 1) Z(I)");
}

#[test]
fn a_parameter_in_several_places_has_the_type_that_the_statement_gives_it() {
    let (_cluster, weir) = start();
    let mut client = weir.client("app");
    // PostgreSQL comes to WHERE before ORDER BY: it is a bigint, as Describe says, though it is subtracted from a float8.
    for (order, rows) in [("k", ["12", "19", "26"]), ("v, k", ["40", "110", "180"])] {
        let sql = format!("SELECT k FROM t WHERE k > $1 ORDER BY abs(n::float8 - $1), {order} LIMIT 3");
        client.parse("", &sql, &[]);
        client.describe_statement("");
        client.sync();
        let described = client.read_until_ready();
        let types = described.iter().find(|message| message.tag == b't').unwrap();
        assert_eq!(types.body, [0, 1, 0, 0, 0, 20], "{}", show(&described));
        // A type that is declared as unknown says no more than none.
        for types in [&[][..], &[705]] {
            client.parse("", &sql, types);
            client.bind_binary("", "", &[Some(&5_i64.to_be_bytes())]);
            client.execute("", 0);
            client.sync();
            let reply = client.read_until_ready();
            let of_row = |m: &Message| i64::from_be_bytes(m.body[6..14].try_into().unwrap()).to_string();
            let found: Vec<String> = reply.iter().filter(|m| m.tag == b'D').map(of_row).collect();
            assert_eq!(found, rows, "{}", show(&reply));
        }
        // The same in an EXPLAIN: the shards are sent the value as what it is.
        let explained = ask(&mut client, &format!("EXPLAIN (ANALYZE, COSTS off) {sql}"), &[Some("5")]);
        assert!(show(&explained).contains("k > '5'::bigint"), "{}", show(&explained));
    }
    // What the shards are sent does not name it at all.
    let reply = ask(&mut client, "SELECT k FROM t WHERE k < 20 ORDER BY k LIMIT $1 OFFSET $1", &[Some("2")]);
    assert_eq!(show(&reply), "1 2 T(k:20) D(3) D(4) C(SELECT 2) Z(I)");
}

#[test]
fn limits_that_are_none_are_refused_as_postgresql_refuses_them() {
    let (_cluster, weir) = start();
    let mut client = weir.client("app");
    assert_eq!(client.run("SELECT k FROM t LIMIT -1"), "E(2201W) Z(I)");
    assert_eq!(client.run("SELECT k FROM t ORDER BY k OFFSET -1"), "E(2201X) Z(I)");
    for (value, code) in [("-1", "2201W"), ("ten", "22P02")] {
        let reply = show(&ask(&mut client, "SELECT k FROM t ORDER BY k LIMIT $1", &[Some(value)]));
        assert!(reply.ends_with(&format!("E({code}) Z(I)")), "{value}: {reply}");
    }
    let reply = ask(&mut client, "SELECT k FROM t ORDER BY k LIMIT $1", &[Some(" 1 ")]);
    assert_eq!(show(&reply), "1 2 T(k:20) D(1) C(SELECT 1) Z(I)");
}

#[test]
fn a_cast_column_keeps_its_name_in_order_by() {
    let (_cluster, weir) = start();
    let mut client = weir.client("app");
    // It is the text that is sorted by, as in PostgreSQL: the select list goes before the tables.
    assert_eq!(client.run("SELECT k::text FROM t ORDER BY k LIMIT 3"), "T(k:25) D(1) D(10) D(100) C(SELECT 3) Z(I)");
    // By GROUP BY the column is meant.
    let grouped = client.run("SELECT n::text, count(*) FROM t GROUP BY n ORDER BY n LIMIT 1");
    assert_eq!(grouped, "T(n:25,count:20) D(0|17142) C(SELECT 1) Z(I)");
}

#[test]
fn an_error_of_the_last_statement_is_the_statements_and_the_session_goes_on() {
    let (_cluster, weir) = start();
    let mut client = weir.client("app");
    for sql in ["SELECT 1 / (count(*) - 120000) FROM t", "SELECT n FROM t GROUP BY n HAVING 1 / (n - 3) > 0"] {
        assert!(client.run(sql).ends_with("E(22012) Z(I)"), "{sql}");
        assert_eq!(client.run("SELECT count(*) + 1 FROM t"), "T(?column?:20) D(120001) C(SELECT 1) Z(I)");
    }
    client.parse("", "SELECT 1 / (count(*) - 120000) FROM t", &[]);
    client.bind("", "", &[]);
    client.execute("", 0);
    client.sync();
    assert_eq!(show(&client.read_until_ready()), "1 2 E(22012) Z(I)");
}

#[test]
fn more_rows_than_can_go_back_are_refused_with_what_to_do() {
    let (_cluster, weir) = start();
    let mut client = weir.client("app");
    client.query("SELECT k, v FROM t ORDER BY v");
    let reply = client.read_until_ready();
    let error = reply.iter().find_map(Message::error).unwrap_or_else(|| panic!("{}", show(&reply)));
    assert_eq!(error.code, "54000");
    assert!(error.message.contains("100000 rows") && error.fields[&'H'].contains("LIMIT"), "{error:?}");
    let limited = client.run("SELECT v FROM t ORDER BY v DESC, k LIMIT 2");
    assert_eq!(limited, "T(v:25) D(v9) D(v9) C(SELECT 2) Z(I)");
    let plain = client.run("SELECT k FROM t ORDER BY v COLLATE \"C\", k LIMIT 1");
    assert_eq!(plain, "T(k:20) D(10) C(SELECT 1) Z(I)", "without limit where it is known here");
}

/// The shards that EXPLAIN ROUTE tells, by their names.
fn route(weir: &Weir, sql: &str) -> String {
    let rows = weir.admin_table(&format!("EXPLAIN ROUTE FOR app $${sql}$$"));
    let shards = rows.iter().find(|row| ["shard", "shards"].contains(&&*row["item"]));
    shards.map_or_else(|| panic!("{rows:?}"), |row| row["value"].clone())
}

fn singles(weir: &Weir) -> u64 {
    let (_, text) = weir.http_get("/metrics");
    let sample = text.lines().find(|line| line.starts_with("pgweir_plans_total{") && line.contains("\"single\""));
    sample.map_or(0, |line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64)
}

#[test]
fn arrays_of_keys_say_which_shards_are_asked() {
    let (cluster, weir) = start();
    let key = |shard: &str| cluster.sql_in(shard, "SELECT min(k) FROM t")[0][0].clone();
    let (a, b) = (key("s0"), key("s1"));
    for (list, shards) in [
        (format!("'{{{a}}}'"), "s0"),
        (format!("'{{{b}}}'"), "s1"),
        (format!("'{{{b}, NULL}}'::bigint[]"), "s1"),
        (format!("'{{{a},{b}}}'"), "s0, s1"),
        (format!("'{{{a}}}'::numeric[]"), "s0, s1"),
        (format!("ARRAY[{b}]"), "s1"),
    ] {
        assert_eq!(route(&weir, &format!("SELECT n FROM t WHERE k = ANY ({list})")), shards, "{list}");
    }
    let mut client = weir.client("app");
    for (sql, value, singly, rows) in [
        ("SELECT k FROM t WHERE k = ANY ($1)", format!("{{{b}}}"), 1, 1),
        ("SELECT k FROM t WHERE k = ANY ($1::bigint[])", format!("{{{a},{a}}}"), 1, 1),
        ("SELECT k FROM t WHERE k = ANY ($1) ORDER BY k", format!("{{{a},{b}}}"), 0, 2),
        ("SELECT k FROM t WHERE k = ANY ($1)", "{}".to_owned(), 1, 0),
    ] {
        let before = singles(&weir);
        let reply = ask(&mut client, sql, &[Some(&value)]);
        assert_eq!(reply.iter().filter(|message| message.tag == b'D').count(), rows, "{}", show(&reply));
        assert_eq!(singles(&weir) - before, singly, "{sql} {value}");
    }
    // In binary: one dimension, no NULLs, bigint, one element from index 1.
    let mut array = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 8].to_vec();
    array.extend_from_slice(&b.parse::<i64>().unwrap().to_be_bytes());
    let before = singles(&weir);
    client.parse("", "SELECT n FROM t WHERE k = ANY ($1)", &[]);
    client.bind_binary("", "", &[Some(&array)]);
    client.execute("", 0);
    client.sync();
    let reply = client.read_until_ready();
    assert_eq!((singles(&weir) - before, reply.iter().filter(|m| m.tag == b'D').count()), (1, 1), "{}", show(&reply));
    // What is no array is the server's to refuse.
    let reply = ask(&mut client, "SELECT n FROM t WHERE k = ANY ($1)", &[Some("5")]);
    assert!(show(&reply).ends_with("E(22P02) Z(I)"), "{}", show(&reply));
}

/// The route first, then each shard's own plan of what it is sent.
#[test]
fn explain_shows_the_route_and_each_shards_plan() {
    let (cluster, weir) = start();
    let mut client = weir.client("app");
    let plan = |client: &mut RawClient, sql: &str| -> Vec<String> {
        client.query(sql);
        let reply = client.read_until_ready();
        assert!(
            show(&reply).starts_with("T(QUERY PLAN:25)") && show(&reply).ends_with("C(EXPLAIN) Z(I)"),
            "{}",
            show(&reply)
        );
        reply.iter().filter_map(Message::row).map(|row| row[0].clone().unwrap()).collect()
    };
    let lines = plan(&mut client, "EXPLAIN (COSTS off) SELECT n, count(*) FROM t WHERE k < 50 GROUP BY n ORDER BY n");
    assert_eq!(lines[0], "Several shards: s0, s1");
    for wanted in ["  Proof: no condition", "  Step: each shard is asked for parts", "Shard s0:", "Shard s1:"] {
        assert!(lines.iter().any(|line| line.starts_with(wanted)), "{wanted}: {lines:?}");
    }
    let of = |shard: &str| lines.iter().skip_while(|line| **line != format!("Shard {shard}:")).nth(1).unwrap().clone();
    assert!(of("s0").contains("Aggregate") && of("s1").contains("Aggregate"), "{lines:?}");
    let limited = plan(&mut client, "EXPLAIN SELECT v FROM t ORDER BY k LIMIT 3");
    assert_eq!(
        limited.iter().filter(|line| line.contains("Limit")).count(),
        2,
        "each shard is sent the limit: {limited:?}"
    );
    let analyzed = plan(&mut client, "EXPLAIN ANALYZE SELECT k FROM t WHERE k = ANY ('{1,2,3,4}')");
    assert!(analyzed.iter().any(|line| line.contains("actual time")), "{analyzed:?}");
    // By the extended protocol.
    let reply = ask(&mut client, "EXPLAIN SELECT n FROM t WHERE n = $1", &[Some("1")]);
    assert!(show(&reply).starts_with("1 2 T(QUERY PLAN:25) D(Several shards: s0, s1)"), "{}", show(&reply));
    // One shard's plan is as that shard gives it, behind the route.
    let key = &cluster.sql_in("s1", "SELECT min(k) FROM t")[0][0];
    let of_one = format!("EXPLAIN (COSTS off) SELECT n FROM t WHERE k = {key}");
    let own: Vec<String> = cluster.sql_in("s1", &of_one).into_iter().map(|row| row[0].clone()).collect();
    for before in ["SELECT 1", "BEGIN", "SELECT count(*) FROM t", "ROLLBACK", "BEGIN"] {
        client.run(before);
        client.query(&of_one);
        let reply = client.read_until_ready();
        let lines: Vec<String> = reply.iter().filter_map(Message::row).map(|row| row[0].clone().unwrap()).collect();
        assert_eq!(lines[0], "One shard: s1", "{before}");
        assert!(lines[1].starts_with("  Why: its sharding key is in slot "), "{lines:?}");
        assert_eq!(lines[2..], own, "{before}");
    }
    // What follows an EXPLAIN that has failed is no EXPLAIN.
    assert_eq!(client.run(&format!("EXPLAIN SELECT nothing FROM t WHERE k = {key}")), "E(42703) Z(E)");
    assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    assert_eq!(client.value(&format!("SELECT k FROM t WHERE k = {key}")), *key);
    for (sql, state) in [
        ("EXPLAIN (FORMAT nothing) SELECT n FROM t", "0A000"),
        ("EXPLAIN SELECT rank() OVER (ORDER BY n) FROM t", "0A000"),
        ("EXPLAIN SELECT nothing FROM t", "42703"),
    ] {
        assert_eq!(client.run(sql), format!("E({state}) Z(I)"), "{sql}");
    }
    assert_eq!(client.run("SELECT count(*) FROM t"), "T(count:20) D(120000) C(SELECT 1) Z(I)");
}

#[test]
fn explain_in_other_formats_is_one_value_with_the_route_in_it() {
    let (cluster, weir) = start();
    let mut client = weir.client("app");
    let key = &cluster.sql_in("s1", "SELECT min(k) FROM t")[0][0];
    let value = |reply: &[Message], type_oid: u32| -> String {
        let told = show(reply);
        assert!(told.contains(&format!("T(QUERY PLAN:{type_oid})")) && told.ends_with("C(EXPLAIN) Z(I)"), "{told}");
        let mut rows = reply.iter().filter(|message| message.tag == b'D');
        // Behind the numbers of columns and of bytes.
        let value = String::from_utf8(rows.next().unwrap().body[6..].to_vec()).unwrap();
        assert!(rows.next().is_none());
        value
    };
    // A plan that is longer than what is read at once.
    let list: Vec<String> = (0..30_000).map(|n| n.to_string()).collect();
    let long = format!("t WHERE k = {key} AND n IN ({})", list.join(", "));
    for (from, shards) in [
        (format!("t WHERE k = {key}"), &["s1"][..]),
        ("t WHERE n = 3 ORDER BY k LIMIT 2".to_owned(), &["s0", "s1"]),
        ("(SELECT 1) x".to_owned(), &["s0"]),
        (long, &["s1"]),
    ] {
        let mut explain = |format: &str, type_oid: u32| {
            client.query(&format!("EXPLAIN (FORMAT {format}) SELECT 1 FROM {from}"));
            value(&client.read_until_ready(), type_oid)
        };
        let json: serde_json::Value = serde_json::from_str(&explain("json", 114)).unwrap();
        let queries = json.as_array().unwrap();
        assert_eq!(queries.iter().map(|query| query["Shard"].as_str().unwrap()).collect::<Vec<_>>(), shards);
        assert!(queries.iter().all(|query| query["Plan"]["Node Type"].is_string() && query["Route"].is_string()));
        let xml = explain("xml", 142);
        assert_eq!(cluster.value(&format!("SELECT ($xml${xml}$xml$)::xml IS DOCUMENT")), "t");
        assert_eq!(xml.matches("<Query>").count(), shards.len());
        let yaml = explain("yaml", 25);
        for shard in shards {
            assert!(xml.contains(&format!("<Shard>{shard}</Shard>")), "{xml}");
            assert!(yaml.lines().any(|line| line == format!("- Shard: \"{shard}\"")), "{yaml}");
        }
        assert_eq!(yaml.lines().filter(|line| line.starts_with("  Plan:")).count(), shards.len());
    }
    let reply = ask(&mut client, "EXPLAIN (ANALYZE, FORMAT json) SELECT n FROM t WHERE k = $1", &[Some(key)]);
    let json: serde_json::Value = serde_json::from_str(&value(&reply, 114)).unwrap();
    assert_eq!((&json[0]["Shard"], json[0]["Plan"]["Actual Rows"].is_number()), (&"s1".into(), true));
}

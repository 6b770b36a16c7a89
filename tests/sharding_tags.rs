//! `tag = true`: rows whose keys have the same text within braces lie on one shard, whichever way they come, and the same text as a key
//! of another table without tags does not count as theirs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod common;

use common::cluster::Cluster;
use common::raw::RawClient;
use common::weir::Weir;
use common::wire::{Message, show};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// What is hashed of `k`, as the server computes it.
const TAG: &str = "coalesce(substring(k from '^[^{]*\\{([^}]+)\\}'), k)";
const SLOT: &str = "(((hashtextextended(PART, 8816678312871386365) & 16383) + 10467) & 16383)";

struct Rig {
    cluster: Cluster,
    weir: Weir,
}

impl Rig {
    /// Two shards: `carts` and `lines` by tags, `notes` by the whole of its texts.
    fn start() -> Self {
        let cluster = Cluster::start();
        let mut toml = "[databases.app]\ndefault_shard = \"s0\"\nprobe_user = \"postgres\"\n\
                        cross_shard_writes = \"best_effort\"\n"
            .to_owned();
        for (n, slots) in ["[0, 8191]", "[8192, 16383]"].iter().enumerate() {
            cluster.sql(&format!("CREATE DATABASE d{n}"));
            cluster.sql_in(
                &format!("d{n}"),
                "CREATE TABLE carts (k text PRIMARY KEY, n int4); \
                 CREATE TABLE lines (k varchar(60) NOT NULL, id int4); CREATE TABLE notes (k text PRIMARY KEY, n int4)",
            );
            toml += &format!(
                "[[databases.app.shards]]\nname = \"s{n}\"\nslots = [{slots}]\nprimary = \"{}\"\n",
                cluster.url(&format!("d{n}"))
            );
        }
        toml += "[databases.app.tables]\ncarts = { key = \"k\", type = \"text\", tag = true }\n\
                 lines = { key = \"k\", type = \"varchar\", tag = true }\nnotes = { key = \"k\", type = \"text\" }\n";
        let weir = Weir::builder().database(&toml).start();
        Self { cluster, weir }
    }

    /// Each row of a table is where the server's own hash of `part` says; how many there are on each shard.
    #[track_caller]
    fn at_home(&self, table: &str, part: &str) -> [usize; 2] {
        [0, 1].map(|n| {
            let slot = SLOT.replace("PART", part);
            let sql = format!("SELECT k, {slot} / 8192 FROM {table}");
            let rows = self.cluster.sql_in(&format!("d{n}"), &sql);
            let strays: Vec<_> = rows.iter().filter(|row| row[1] != n.to_string()).collect();
            assert!(strays.is_empty(), "{table} on s{n}: {strays:?}");
            rows.len()
        })
    }
}

#[track_caller]
fn refused(client: &mut RawClient, sql: &str) -> String {
    client.query(sql);
    let messages = client.read_until_ready();
    assert_eq!(show(&messages), "E(0A000) Z(I)", "{sql}");
    let error = messages.iter().find_map(Message::error).unwrap();
    assert!(error.fields.get(&'H').is_some_and(|hint| !hint.is_empty()), "{sql}: no hint in {error:?}");
    error.fields[&'M'].clone()
}

/// What a COPY in one of the formats takes for this text.
fn copied(text: &str, csv: bool) -> String {
    if csv {
        return format!("\"{}\"", text.replace('"', "\"\""));
    }
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('\t', "\\t")
}

#[test]
fn rows_go_where_the_server_says_that_their_tags_belong() {
    let rig = Rig::start();
    let mut client = rig.weir.client("app");
    let mut rng = SmallRng::seed_from_u64(11);
    let alphabet: Vec<char> = "aab{{}}}x1\"\\\nżó😀".chars().collect();
    let mut keys: Vec<String> =
        ["", "{", "}", "{}", "{}{a}", "{{a}}b", "a}b{c}d", "{a}{b}", "a{", "{user1000}.following"]
            .map(str::to_owned)
            .to_vec();
    while keys.len() < 2000 {
        let key: String = (0..rng.random_range(1..14)).map(|_| alphabet[rng.random_range(0..alphabet.len())]).collect();
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    // A quarter each: INSERT of many rows, a parameter, COPY of text and of csv.
    let quarter = keys.len() / 4;
    let rows: Vec<String> = keys[..quarter].iter().map(|k| format!("('{}', 1)", k.replace('\'', "''"))).collect();
    for rows in rows.chunks(100) {
        let tag = client.run(&format!("INSERT INTO carts (k, n) VALUES {}", rows.join(", ")));
        assert!(tag.starts_with("C(INSERT 0 100)"), "{tag}");
    }
    client.parse("put", "INSERT INTO carts (k, n) VALUES ($1, 1)", &[]);
    client.sync();
    client.read_until_ready();
    for (number, key) in keys[quarter..2 * quarter].iter().enumerate() {
        if number % 2 == 0 {
            client.bind("", "put", &[Some(key)]);
        } else {
            client.bind_binary("", "put", &[Some(key.as_bytes())]);
        }
        client.execute("", 0);
        client.sync();
        assert_eq!(show(&client.read_until_ready()), "2 C(INSERT 0 1) Z(I)", "{key:?}");
    }
    for (csv, part) in [(false, &keys[2 * quarter..3 * quarter]), (true, &keys[3 * quarter..])] {
        let (format, comma) = if csv { ("csv", ',') } else { ("text", '\t') };
        client.query(&format!("COPY carts (n, k) FROM STDIN (FORMAT {format})"));
        client.read_until(b'G');
        let data: String = part.iter().map(|key| format!("1{comma}{}\n", copied(key, csv))).collect();
        client.copy_data(data.as_bytes());
        client.copy_done();
        let said = show(&client.read_until_ready());
        assert!(said.contains(&format!("C(COPY {})", part.len())), "{format}: {said}");
    }
    let counts = rig.at_home("carts", TAG);
    assert_eq!(counts.iter().sum::<usize>(), keys.len());
    assert!(counts.iter().all(|count| *count > 100), "{counts:?}");

    // And are found there.
    client.parse("get", "SELECT length(k) FROM carts WHERE k = $1", &[]);
    client.sync();
    client.read_until_ready();
    for key in keys.iter().step_by(20) {
        client.bind("", "get", &[Some(key)]);
        client.execute("", 0);
        client.sync();
        let messages = client.read_until_ready();
        let row = messages.iter().find_map(Message::row).unwrap_or_else(|| panic!("{key:?}: {}", show(&messages)));
        assert_eq!(row[0], Some(key.chars().count().to_string()), "{key:?}");
        let literal = format!("'{}'", key.replace('\'', "''"));
        assert_eq!(
            client.value(&format!("SELECT count(*) FROM carts WHERE k IN ({literal}, '{{nothing}}')")),
            "1",
            "{key:?}"
        );
        let array = format!("ARRAY[{literal}]");
        assert_eq!(client.value(&format!("SELECT count(*) FROM carts WHERE k = ANY ({array})")), "1", "{key:?}");
    }
    assert_eq!(client.value("SELECT count(*) FROM carts"), keys.len().to_string());
}

#[test]
fn rows_of_one_tag_are_written_and_joined_on_one_shard() {
    let rig = Rig::start();
    let mut client = rig.weir.client("app");
    for user in 0..40 {
        // One transaction, which could not write on two shards together by default.
        let rows = format!("('{{u{user}}}.a', 1), ('{{u{user}}}.b', 2), ('x{{u{user}}}', 3)");
        let plan = rig
            .weir
            .admin(&format!("EXPLAIN ROUTE FOR app 'INSERT INTO carts (k, n) VALUES {}'", rows.replace('\'', "''")));
        let text = format!("{plan:?}");
        assert!(text.contains("s0") != text.contains("s1"), "{text}");
        client.run(&format!("INSERT INTO carts (k, n) VALUES {rows}"));
        client.run(&format!("INSERT INTO lines (k, id) SELECT k, n FROM carts WHERE k = '{{u{user}}}.a'"));
        client.run(&format!("INSERT INTO notes (k, n) VALUES ('{{u{user}}}.a', {user})"));
    }
    rig.at_home("carts", TAG);
    rig.at_home("lines", TAG);
    let notes = rig.at_home("notes", "k");
    assert!(notes.iter().all(|count| *count > 0), "{notes:?}");
    let apart = |n: usize| {
        let sql = "SELECT count(*) FROM notes JOIN carts USING (k)";
        rig.cluster.sql_in(&format!("d{n}"), sql)[0][0].parse::<usize>().unwrap()
    };
    assert!(apart(0) + apart(1) < 40, "some equal texts lie on different shards, or the test shows nothing");

    assert_eq!(client.value("SELECT count(*) FROM carts JOIN lines USING (k)"), "40");
    assert_eq!(client.value("SELECT sum(n) FROM carts WHERE k = '{u7}.a' OR k = '{u7}.b'"), "3");
    let both = "SELECT (SELECT count(*) FROM lines WHERE k = '{u7}.a') + (SELECT n FROM carts WHERE k = '{u7}.b')";
    assert_eq!(client.value(both), "3");
    assert_eq!(client.run("UPDATE carts SET k = '{u7}.c' WHERE k = '{u7}.b'"), "C(UPDATE 1) Z(I)");
    assert_eq!(client.run("DELETE FROM carts WHERE k IN ('{u7}.c', 'x{u7}')"), "C(DELETE 2) Z(I)");
    rig.at_home("carts", TAG);

    for sql in [
        "SELECT count(*) FROM carts JOIN notes USING (k)",
        "SELECT count(*) FROM carts NATURAL JOIN notes",
        "SELECT count(*) FROM carts c, notes n WHERE n.k = c.k",
    ] {
        let message = refused(&mut client, sql);
        assert!(message.contains("hashed differently"), "{sql}: {message}");
    }
    for sql in [
        "SELECT count(*) FROM carts c LEFT JOIN notes n ON n.k = c.k",
        "SELECT * FROM carts c JOIN notes n ON n.k = c.k WHERE c.k = '{u7}.a'",
        "INSERT INTO carts (k, n) SELECT k, n FROM notes WHERE k = '{u8}.a'",
        "SELECT * FROM notes WHERE k = '{u9}.a' AND EXISTS (SELECT 1 FROM carts c WHERE c.k = notes.k)",
    ] {
        refused(&mut client, sql);
    }
}

#[test]
fn operators_see_which_keys_go_by_tags() {
    let rig = Rig::start();
    let types: Vec<String> =
        rig.weir.admin_table("SHOW TABLES").iter().map(|row| format!("{} {}", row["table"], row["type"])).collect();
    assert_eq!(types, ["carts text (tag)", "lines text (tag)", "notes text"]);
    for (table, part) in [("carts", "user1000"), ("notes", "{user1000}.following")] {
        let row = &rig.weir.admin_table(&format!("SHOW SLOT FOR '{table}' '{{user1000}}.following'"))[0];
        let slot = SLOT.replace("PART", &format!("'{part}'"));
        let hash = rig.cluster.value(&format!("SELECT hashtextextended('{part}', 8816678312871386365)"));
        assert_eq!((&row["hash"], &row["slot"]), (&hash, &rig.cluster.value(&format!("SELECT {slot}"))), "{table}");
    }
    // The checks take a text column for what it is.
    common::eventually("the checks", std::time::Duration::from_secs(20), || {
        let shards = rig.weir.admin_table("SHOW SHARDS");
        shards.iter().all(|row| row["check"] == "ok").then_some(())
    });
    let mut client = rig.weir.client("app");
    client.run("SET pgweir.sharding_key = 'x{user1000}'");
    let slot: u32 = rig.cluster.value(&format!("SELECT {}", SLOT.replace("PART", "'user1000'"))).parse().unwrap();
    client.run("INSERT INTO carts (k) VALUES ('{user1000}')");
    assert_eq!(rig.at_home("carts", TAG)[slot as usize / 8192], 1);
    let message = refused(&mut client, "INSERT INTO carts (k) VALUES ('{user1001}')");
    assert!(message.contains("sharding_key"), "{message}");
}

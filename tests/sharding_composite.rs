//! Sharding keys of several columns: rows lie where `PARTITION BY HASH (a, b)` says, statements are one shard's by all columns of the key
//! and never by some of them, and what pgweir answers is what one server answers.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod common;

use std::time::Duration;

use common::cluster::Cluster;
use common::eventually;
use common::raw::RawClient;
use common::weir::Weir;
use common::wire::{Message, show};
use pgweir::shard::key::Key;
use pgweir::shard::map::KeyType;
use pgweir::shard::table_key::slot_of_columns;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const SHARDS: usize = 3;
const SCHEMA: &str = "
    CREATE TABLE items (tenant int8, item text, n int4, v text, PRIMARY KEY (tenant, item));
    CREATE TABLE lines (note text, item varchar(40) NOT NULL, line int4, tenant int4 NOT NULL,
        FOREIGN KEY (tenant, item) REFERENCES items (tenant, item) ON DELETE CASCADE);
    CREATE TABLE devices (u uuid, s int2, k varchar(40), n int4, PRIMARY KEY (k, u, s));
    CREATE TABLE ref (code int4 PRIMARY KEY, name text);
    CREATE TABLE by_item (tenant int8, item text) PARTITION BY HASH (tenant, item);
    CREATE TABLE by_line (tenant int4, item varchar(40)) PARTITION BY HASH (tenant, item);
    CREATE TABLE by_device (u uuid, s int2, k varchar(40)) PARTITION BY HASH (u, s, k)";
const TABLES: &str = "[databases.app.tables]\n\
    items = { key = [\"tenant\", \"item\"], type = [\"bigint\", \"text\"] }\n\
    lines = { key = [\"tenant\", \"item\"], type = [\"integer\", \"varchar\"] }\n\
    devices = { key = [\"u\", \"s\", \"k\"], type = [\"uuid\", \"smallint\", \"varchar\"] }\n\
    ref = { reference = true }\n";

/// `app` over three databases of one cluster, and `whole` with the same tables.
struct Rig {
    cluster: Cluster,
    weir: Weir,
}

impl Rig {
    fn start() -> Self {
        Self::with("cross_shard_writes = \"best_effort\"\nunkeyed_writes = true\n", "", "")
    }

    fn with(settings: &str, schema: &str, tables: &str) -> Self {
        let cluster = Cluster::start();
        let mut toml = format!("[databases.app]\ndefault_shard = \"s0\"\nprobe_user = \"postgres\"\n{settings}");
        for name in ["whole", "s0", "s1", "s2"] {
            cluster.sql(&format!("CREATE DATABASE {name}"));
            cluster.sql_in(name, SCHEMA);
            cluster.sql_in(name, schema);
        }
        for n in 0..SHARDS {
            let (first, last) = (16384 * n / SHARDS, 16384 * (n + 1) / SHARDS - 1);
            toml += &format!(
                "[[databases.app.shards]]\nname = \"s{n}\"\nslots = [[{first}, {last}]]\nprimary = \"{}\"\n",
                cluster.url(&format!("s{n}"))
            );
        }
        let weir = Weir::builder().database(&(toml + TABLES + tables)).start();
        let rig = Self { cluster, weir };
        rig.checked();
        rig
    }

    /// Waits until all shards were checked; what was found.
    fn checked(&self) -> Vec<String> {
        eventually("the checks", Duration::from_secs(60), || {
            let rows = self.weir.admin_table("SHOW SHARDS");
            let checks: Vec<String> = rows.iter().map(|row| row["check"].clone()).collect();
            (checks.len() == SHARDS && !checks.iter().any(|check| check.starts_with("pending"))).then_some(checks)
        })
    }

    fn client(&self) -> RawClient {
        self.weir.client("app")
    }

    /// All rows of a table are on the shards that the server's own partition hash says; how many there are on each.
    #[track_caller]
    fn at_home(&self, table: &str, by: &str, key: &str) -> Vec<usize> {
        let counts = (0..SHARDS).map(|n| {
            let (first, last) = (16384 * n / SHARDS, 16384 * (n + 1) / SHARDS - 1);
            let sql = format!(
                "SELECT {key}, EXISTS (SELECT FROM generate_series({first}, {last}) r \
                 WHERE satisfies_hash_partition('{by}'::regclass, 16384, r, {key})) FROM {table}"
            );
            let rows = self.cluster.sql_in(&format!("s{n}"), &sql);
            let strays: Vec<_> = rows.iter().filter(|row| row.last().is_some_and(|home| home != "t")).collect();
            assert!(strays.is_empty(), "{table} on s{n}: {strays:?}");
            rows.len()
        });
        counts.collect()
    }
}

/// Rows in any order, and what else there is in its order.
fn sorted(messages: &[Message]) -> (Vec<String>, String) {
    let (rows, rest): (Vec<_>, Vec<_>) = messages.iter().cloned().partition(|message| message.tag == b'D');
    let mut rows: Vec<String> = rows.iter().map(|row| format!("{:?}", row.row())).collect();
    rows.sort();
    (rows, show(&rest))
}

/// A client of pgweir and one of the unsharded server, who say the same.
struct Pair {
    ours: RawClient,
    theirs: RawClient,
}

impl Pair {
    fn of(rig: &Rig) -> Self {
        Self { ours: rig.client(), theirs: rig.cluster.client("whole") }
    }

    #[track_caller]
    fn same(&mut self, sql: &str) -> usize {
        let [ours, theirs] = [&mut self.ours, &mut self.theirs].map(|client| {
            client.query(sql);
            client.read_until_ready()
        });
        assert_eq!(sorted(&ours), sorted(&theirs), "{sql}");
        ours.iter().filter(|message| message.tag == b'D').count()
    }

    /// The same with the rows in their order.
    #[track_caller]
    fn same_order(&mut self, sql: &str) {
        let [ours, theirs] = [&mut self.ours, &mut self.theirs].map(|client| {
            client.query(sql);
            let messages = client.read_until_ready();
            messages.iter().filter_map(Message::row).collect::<Vec<_>>()
        });
        assert_eq!(ours, theirs, "{sql}");
        assert!(!ours.is_empty(), "{sql}");
    }

    /// By the extended protocol, with parameters as texts and in binary.
    #[track_caller]
    fn same_bound(&mut self, sql: &str, values: &[Option<&[u8]>], types: &[u32], binary: bool) -> String {
        let [ours, theirs] = [&mut self.ours, &mut self.theirs].map(|client| {
            client.parse("", sql, types);
            if binary {
                client.bind_binary("", "", values);
            } else {
                let texts: Vec<Option<&str>> =
                    values.iter().map(|v| v.map(|v| std::str::from_utf8(v).unwrap())).collect();
                client.bind("", "", &texts);
            }
            client.execute("", 0);
            client.sync();
            client.read_until_ready()
        });
        assert_eq!(sorted(&ours), sorted(&theirs), "{sql}");
        show(&ours)
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

// The hash.

/// A random value of a type as a text, and its hash.
fn value(rng: &mut SmallRng, key_type: KeyType) -> (String, u64) {
    let alphabet: Vec<char> = "abcXYZ 019-_\"\\{}żó😀".chars().collect();
    let text = match key_type {
        KeyType::Integer { width: 2 } => rng.random::<i16>().to_string(),
        KeyType::Integer { width: 4 } => rng.random::<i32>().to_string(),
        KeyType::Integer { .. } => (rng.random::<i64>() >> rng.random_range(0..64)).to_string(),
        KeyType::Text | KeyType::Tagged => {
            (0..rng.random_range(0..30)).map(|_| alphabet[rng.random_range(0..alphabet.len())]).collect()
        }
        KeyType::Uuid => format!("{:032x}", rng.random::<u128>()),
    };
    let hash = Key::from_text(text.as_bytes(), key_type, true).unwrap().hash();
    (text, hash)
}

#[test]
fn rows_hash_as_partitions_do() {
    let cluster = Cluster::start();
    let types = [
        ("int2", KeyType::Integer { width: 2 }),
        ("int4", KeyType::Integer { width: 4 }),
        ("int8", KeyType::Integer { width: 8 }),
        ("text", KeyType::Text),
        ("varchar", KeyType::Text),
        ("uuid", KeyType::Uuid),
    ];
    let mut rng = SmallRng::seed_from_u64(3);
    let pairs = types.iter().flat_map(|a| types.iter().map(move |b| vec![*a, *b]));
    let triples = (0..12).map(|n| vec![types[n % 6], types[(n / 2 + 3) % 6], types[(5 * n + 1) % 6]]);
    for (number, key) in pairs.chain(triples).enumerate() {
        let names: Vec<String> = (0..key.len()).map(|n| format!("c{n}")).collect();
        let columns: Vec<String> = names.iter().zip(&key).map(|(name, (sql, _))| format!("{name} {sql}")).collect();
        let (columns, names) = (columns.join(", "), names.join(", "));
        cluster.sql(&format!("CREATE TABLE p{number} ({columns}) PARTITION BY HASH ({names})"));
        let rows: Vec<String> = (0..200)
            .map(|_| {
                let values: Vec<(String, u64)> = key.iter().map(|(_, key_type)| value(&mut rng, *key_type)).collect();
                let slot = slot_of_columns(values.iter().map(|(_, hash)| *hash));
                let literals = values.iter().zip(&key).map(|((text, _), (sql, _))| format!("'{text}'::{sql}"));
                format!("({}, {})", slot.0, literals.collect::<Vec<_>>().join(", "))
            })
            .collect();
        let count = |remainder: &str| {
            let sql = format!(
                "SET standard_conforming_strings = on; SELECT count(*) FROM (VALUES {}) AS v (slot, {names}) \
                 WHERE satisfies_hash_partition('p{number}'::regclass, 16384, {remainder}, {names})",
                rows.join(", ")
            );
            cluster.sql(&sql)[0][0].clone()
        };
        assert_eq!(count("slot"), "200", "{columns}");
        assert_eq!(count("(slot + 1) % 16384"), "0", "{columns}");
    }
}

// Statements.

/// Fills `items` and `lines` on both sides.
fn fill(pair: &mut Pair) {
    for tenant in 1..=6 {
        let rows: Vec<String> =
            (1..=12).map(|item| format!("({tenant}, 'item {item}', {}, 'v{}')", tenant * item, item % 4)).collect();
        pair.same(&format!("INSERT INTO items (tenant, item, n, v) VALUES {}", rows.join(", ")));
        let lines: Vec<String> =
            (1..=24).map(|line| format!("('note {line}', 'item {}', {line}, {tenant})", line % 12 + 1)).collect();
        pair.same(&format!("INSERT INTO lines VALUES {}", lines.join(", ")));
    }
    pair.same("INSERT INTO ref VALUES (1, 'one'), (2, 'two'), (3, 'three')");
}

#[test]
fn reads_are_what_one_server_answers() {
    let rig = Rig::start();
    let mut pair = Pair::of(&rig);
    fill(&mut pair);
    for (table, by) in [("items", "by_item"), ("lines", "by_line")] {
        let counts = rig.at_home(table, by, "tenant, item");
        assert!(counts.iter().all(|count| *count > 5), "{table}: {counts:?}");
    }
    for sql in [
        "SELECT * FROM items WHERE tenant = 3 AND item = 'item 5'",
        "SELECT * FROM items WHERE (tenant, item) = (3, 'item 5')",
        "SELECT * FROM items WHERE (tenant, item) IN ((3, 'item 5'), (4, 'item 6'), (9, 'none'))",
        "SELECT * FROM items WHERE tenant IN (1, 2) AND item = ANY (ARRAY['item 1', 'item 2', 'item 3'])",
        "SELECT * FROM items WHERE tenant = ANY ('{4,5}') AND item IN ('item 7', 'item 8')",
        "SELECT * FROM items WHERE tenant = 2",
        "SELECT * FROM items WHERE item = 'item 4'",
        "SELECT count(*), sum(n) FROM items WHERE tenant = 2 AND v <> 'v1'",
        "SELECT tenant, count(*), sum(n), avg(n) FROM items GROUP BY tenant",
        "SELECT item, max(n) FROM items GROUP BY item HAVING max(n) > 10",
        "SELECT tenant, item, array_agg(n), count(DISTINCT v) FROM items GROUP BY tenant, item",
        "SELECT tenant, item, row_number() OVER (PARTITION BY item, tenant ORDER BY line) FROM lines",
        "SELECT DISTINCT tenant FROM items",
        "SELECT DISTINCT v, tenant FROM items",
        "SELECT i.tenant, i.item, l.line FROM items i JOIN lines l USING (tenant, item)",
        "SELECT i.tenant, i.n, l.line FROM items i JOIN lines l ON l.tenant = i.tenant AND l.item = i.item AND l.line > 6",
        "SELECT i.tenant, i.item, count(l.line) FROM items i LEFT JOIN lines l ON (l.tenant, l.item) = (i.tenant, i.item) AND l.line < 9 GROUP BY i.tenant, i.item",
        "SELECT i.*, r.name FROM items i JOIN ref r ON r.code = i.tenant WHERE i.item = 'item 2'",
        "SELECT i.tenant, l.line FROM items i NATURAL JOIN lines l WHERE i.tenant = 5",
        "SELECT * FROM items i WHERE tenant = 1 AND item = 'item 1' AND EXISTS (SELECT FROM lines l WHERE l.tenant = i.tenant AND l.item = i.item)",
        "WITH x AS (SELECT tenant, item, n FROM items WHERE tenant = 2 AND item = 'item 2') SELECT x.n, l.line FROM x JOIN lines l USING (tenant, item)",
        "SELECT n FROM items WHERE tenant = 2 AND item = 'item 2' UNION ALL SELECT line FROM lines WHERE tenant = 2 AND item = 'item 2'",
        "SELECT * FROM items WHERE tenant = 1 AND tenant = 2 AND item = 'item 1'",
    ] {
        pair.same(sql);
    }
    for sql in [
        "SELECT tenant, item, n FROM items ORDER BY n DESC, tenant, item COLLATE \"C\" LIMIT 7 OFFSET 3",
        "SELECT tenant, sum(n) FROM items GROUP BY tenant ORDER BY 2 DESC, 1",
    ] {
        pair.same_order(sql);
    }
    // Parameters, as texts and in binary.
    let one = "SELECT n FROM items WHERE tenant = $1 AND item = $2";
    for tenant in 1_i64..=6 {
        for item in ["item 1", "item 7", "none"] {
            pair.same_bound(one, &[Some(tenant.to_string().as_bytes()), Some(item.as_bytes())], &[], false);
            pair.same_bound(one, &[Some(&tenant.to_be_bytes()), Some(item.as_bytes())], &[20, 25], true);
        }
    }
    let list = "SELECT n FROM items WHERE (tenant, item) IN (($1, $2), ($3, $4))";
    let values: [Option<&[u8]>; 4] = [Some(b"1"), Some(b"item 1"), Some(b"5"), Some(b"item 9")];
    assert!(pair.same_bound(list, &values, &[], false).contains("C(SELECT 2)"));
    assert!(pair.same_bound(one, &[None, Some(b"item 1")], &[], false).contains("C(SELECT 0)"));
}

#[test]
fn writes_are_what_one_server_does() {
    let rig = Rig::start();
    let mut pair = Pair::of(&rig);
    fill(&mut pair);
    pair.same_order(
        "INSERT INTO items (n, item, tenant) VALUES (1, 'x', 7), (2, 'y', 7), (3, 'z', 7), (4, 'x', 8), (5, 'y', 8) RETURNING tenant, item, n + 1",
    );
    for sql in [
        "INSERT INTO items (tenant, item, n) VALUES (7, 'x', 9), (7, 'w', 9), (8, 'x', 9) ON CONFLICT (tenant, item) DO NOTHING",
        "INSERT INTO items (tenant, item, n) VALUES (7, 'x', 9), (7, 'v', 9), (8, 'x', 9) ON CONFLICT (item, tenant) DO UPDATE SET n = excluded.n + items.n",
        "INSERT INTO items (tenant, item) VALUES (7, 'x')",
        "INSERT INTO items (tenant, item, v) SELECT tenant, item, 'copy' FROM items WHERE tenant = 1 AND item = 'item 1' ON CONFLICT (tenant, item) DO UPDATE SET v = excluded.v",
        "UPDATE items SET n = n + 1 WHERE tenant = 3 AND item = 'item 5' RETURNING n",
        "UPDATE items SET tenant = 3, item = 'item 5', n = 0 WHERE tenant = 3 AND item = 'item 5'",
        "UPDATE items SET v = 'all'",
        "UPDATE items SET v = 'of tenant' WHERE tenant = 4",
        "UPDATE items i SET v = l.note FROM lines l WHERE l.tenant = i.tenant AND l.item = i.item AND i.tenant = 2 AND i.item = 'item 3' AND l.line = 2",
        "DELETE FROM items WHERE tenant = 5 AND item = 'item 5'",
        "DELETE FROM lines WHERE tenant = 6",
        "INSERT INTO lines (tenant, item, line) VALUES (5, 'item 5', 1)",
        "MERGE INTO items i USING (VALUES (9, 'm')) v (t, k) ON i.tenant = v.t AND i.item = v.k WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (tenant, item) VALUES (v.t, v.k)",
    ] {
        pair.same(sql);
    }
    let insert = "INSERT INTO items (tenant, item, n) VALUES ($1, $2, 1), ($1, $3, 2)";
    pair.same_bound(insert, &[Some(b"20"), Some(b"p"), Some(b"q")], &[], false);
    pair.same_bound(insert, &[Some(&21_i64.to_be_bytes()), Some(b"p"), Some(b"r")], &[20, 25, 25], true);
    pair.same_bound("DELETE FROM items WHERE tenant = $1 AND item = $2", &[Some(b"20"), Some(b"q")], &[], false);
    // A block over shards, and one that is undone.
    for (tenant, end) in [(30, "COMMIT"), (31, "ROLLBACK")] {
        pair.same("BEGIN");
        for item in 1..=6 {
            pair.same(&format!("INSERT INTO items (tenant, item, n) VALUES ({tenant}, '{item}', {item})"));
        }
        pair.same(&format!("SELECT count(*) FROM items WHERE tenant = {tenant}"));
        pair.same(end);
    }
    pair.same("SELECT * FROM items");
    pair.same("SELECT * FROM lines");
    rig.at_home("items", "by_item", "tenant, item");
    rig.at_home("lines", "by_line", "tenant, item");
}

#[test]
fn the_rows_of_a_copy_are_split_by_whole_keys() {
    let rig = Rig::start();
    let mut client = rig.client();
    let mut rng = SmallRng::seed_from_u64(5);
    let mut devices = Vec::new();
    for n in 0..300 {
        let (u, s) = (uuid_text(rng.random()), rng.random::<i16>());
        devices.push((u, s, format!("k{}", n % 7), n));
    }
    let (text, rest) = devices.split_at(100);
    let (csv, binary) = rest.split_at(100);
    let lines = |rows: &[(String, i16, String, i32)], comma: &str| -> String {
        rows.iter()
            .map(|(u, s, k, n)| [u.clone(), s.to_string(), k.clone(), n.to_string()].join(comma) + "\n")
            .collect()
    };
    let mut copy = |sql: &str, data: &[u8]| {
        client.query(sql);
        client.read_until(b'G');
        client.copy_data(data);
        client.copy_done();
        show(&client.read_until_ready())
    };
    assert_eq!(copy("COPY devices FROM STDIN", lines(text, "\t").as_bytes()), "C(COPY 100) Z(I)");
    let turned: String = csv.iter().map(|(u, s, k, n)| format!("{n},\"{k}\",{s},{u}\n")).collect();
    assert_eq!(copy("COPY devices (n, k, s, u) FROM STDIN (FORMAT csv)", turned.as_bytes()), "C(COPY 100) Z(I)");
    let mut data = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    for (u, s, k, _) in binary {
        data.extend(3_i16.to_be_bytes());
        let hex: String = u.chars().filter(|c| *c != '-').collect();
        let fields = [
            k.as_bytes().to_vec(),
            u128::from_str_radix(&hex, 16).unwrap().to_be_bytes().to_vec(),
            s.to_be_bytes().to_vec(),
        ];
        for field in fields {
            data.extend(i32::try_from(field.len()).unwrap().to_be_bytes());
            data.extend(field);
        }
    }
    data.extend((-1_i16).to_be_bytes());
    assert_eq!(copy("COPY devices (k, u, s) FROM STDIN (FORMAT binary)", &data), "C(COPY 100) Z(I)");
    let counts = rig.at_home("devices", "by_device", "u, s, k");
    assert_eq!(counts.iter().sum::<usize>(), 300);
    assert!(counts.iter().all(|count| *count > 50), "{counts:?}");
    // NULL, a key that is none, a column that is not given: nothing of it is there.
    for data in ["123e4567-e89b-12d3-a456-426614174000\t1\t\\N\t1\n", "123e4567-e89b-12d3-a456-426614174000\tx\tk\t1\n"]
    {
        assert!(copy("COPY devices FROM STDIN", data.as_bytes()).starts_with("E("), "{data}");
    }
    client.query("COPY devices (u, s) FROM STDIN");
    let messages = client.read_until_ready();
    let error = messages.iter().find_map(Message::error).unwrap();
    assert!(error.fields[&'M'].contains("does not have its sharding key \"k\" among the columns"), "{error:?}");
    assert_eq!(rig.at_home("devices", "by_device", "u, s, k").iter().sum::<usize>(), 300);
    assert_eq!(client.value("SELECT count(*) FROM devices"), "300");
}

/// A uuid as PostgreSQL writes it.
fn uuid_text(number: u128) -> String {
    let hex = format!("{number:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[test]
fn a_part_of_a_key_is_never_enough() {
    let rig = Rig::with("", "", "");
    let mut client = rig.client();
    for sql in [
        "DELETE FROM items WHERE tenant = 1",
        "UPDATE items SET n = 1 WHERE item = 'a'",
        "UPDATE items SET item = 'b' WHERE tenant = 1 AND item = 'a'",
        "UPDATE items SET tenant = 2 WHERE tenant = 1 AND item = 'a'",
        "INSERT INTO items (tenant, n) VALUES (1, 2)",
        "INSERT INTO items (tenant, item) VALUES (1, NULL)",
        "INSERT INTO items (tenant, item) VALUES (1, 'a') ON CONFLICT (tenant) DO NOTHING",
        "SELECT * FROM items JOIN lines USING (tenant)",
        "SELECT * FROM items i JOIN lines l ON l.item = i.item",
        "SELECT tenant, array_agg(n) FROM items GROUP BY tenant",
        "SELECT count(DISTINCT tenant) FROM items",
        "SELECT count(DISTINCT item) FROM items GROUP BY tenant",
        "SELECT sum(n) OVER (PARTITION BY tenant) FROM items",
        "SELECT EXISTS (SELECT FROM items WHERE tenant = 1)",
    ] {
        refused(&mut client, sql);
    }
}

#[test]
fn no_column_of_a_key_is_renamed_or_dropped() {
    // Other columns of the table are: only the key is the reason.
    let rig = Rig::start();
    let mut client = rig.client();
    for sql in [
        "ALTER TABLE items RENAME COLUMN tenant TO other",
        "ALTER TABLE items RENAME COLUMN item TO other",
        "ALTER TABLE devices DROP COLUMN u",
        "ALTER TABLE devices DROP COLUMN k",
    ] {
        let message = refused(&mut client, sql);
        assert!(message.contains("key"), "{sql}: {message}");
    }
    assert_eq!(client.run("ALTER TABLE items RENAME COLUMN v TO other"), "C(ALTER TABLE) Z(I)");
    assert_eq!(client.run("ALTER TABLE devices DROP COLUMN n"), "C(ALTER TABLE) Z(I)");
}

// Choosing, and what the console says.

#[test]
fn a_key_is_chosen_as_a_row_and_shown_by_the_console() {
    let rig = Rig::start();
    let mut pair = Pair::of(&rig);
    fill(&mut pair);
    let mut client = rig.client();
    let slot = slot_of_columns([Key::Integer(3).hash(), Key::Text(b"item 5").hash()]).0;
    let owner = usize::from(slot) * SHARDS / 16384;
    let there = rig.cluster.sql_in(&format!("s{owner}"), "SELECT count(*) FROM items")[0][0].clone();
    client.run("SET pgweir.sharding_key = '(3,\"item 5\")'");
    assert_eq!(client.value("SELECT count(*) FROM items"), there);
    refused(&mut client, "SELECT * FROM items WHERE tenant = 1 AND item IN ('item 1', 'item 2', 'item 3')");
    // One column is enough to contradict it.
    refused(&mut client, "SELECT count(*) FROM items WHERE tenant = 1");
    refused(&mut client, "DELETE FROM items WHERE item = 'item 1'");
    client.run("RESET pgweir.sharding_key");
    assert_eq!(client.value("/* pgweir: sharding_key='(3,\"item 5\")' */ SELECT count(*) FROM items"), there);
    assert!(
        refused(&mut client, "/* pgweir: sharding_key=3 */ SELECT count(*) FROM items").contains("a row of 2 values")
    );

    let shown = &rig.weir.admin_table("SHOW SLOT FOR app 'items' '3' 'item 5'")[0];
    assert_eq!((shown["key"].as_str(), shown["type"].as_str()), ("tenant,item", "bigint,text"));
    assert_eq!((shown["slot"].clone(), shown["shard"].clone()), (slot.to_string(), format!("s{owner}")));
    let tables = rig.weir.admin_table("SHOW TABLES");
    let devices = tables.iter().find(|row| row["table"] == "devices").unwrap();
    assert_eq!((devices["key"].as_str(), devices["type"].as_str()), ("u,s,k", "uuid,smallint,text"));
    let route = rig.weir.admin_table("EXPLAIN ROUTE app 'SELECT 1 FROM items WHERE tenant = 3 AND item = ''item 5'''");
    assert!(format!("{route:?}").contains(&format!("s{owner}")), "{route:?}");
}

#[test]
fn the_checks_look_at_every_column() {
    let schema = "
        CREATE TABLE loose (a int8 NOT NULL, b text, id int8 UNIQUE, UNIQUE (a, id), UNIQUE (b, a));
        CREATE TABLE wrong (a int8 NOT NULL, b numeric NOT NULL);
        CREATE TABLE child (item text, tenant int8, a int8, PRIMARY KEY (tenant, item), FOREIGN KEY (a) REFERENCES loose (id));
        CREATE TABLE traced (tenant int8, item text, n int4, PRIMARY KEY (tenant, item));
        CREATE FUNCTION of_tenant() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM 1 FROM lines WHERE tenant = NEW.tenant; RETURN NULL; END';
        CREATE TRIGGER of_tenant AFTER INSERT ON traced FOR EACH ROW EXECUTE FUNCTION of_tenant()";
    let tables = "loose = { key = [\"a\", \"b\"], type = [\"bigint\", \"text\"] }\n\
                  wrong = { key = [\"a\", \"b\"], type = [\"bigint\", \"text\"] }\n\
                  child = { key = [\"tenant\", \"item\"], type = [\"bigint\", \"text\"] }\n\
                  lacks = { key = [\"a\", \"b\"], type = [\"bigint\", \"text\"] }\n\
                  traced = { key = [\"tenant\", \"item\"], type = [\"bigint\", \"text\"] }\n";
    let rig = Rig::with("", schema, tables);
    let check = rig.checked().remove(1);
    for said in [
        "column \"b\" of table \"public.loose\" may be NULL",
        "unique index \"loose_id_key\" of table \"public.loose\" does not have the sharding key",
        "unique index \"loose_a_id_key\" of table \"public.loose\" does not have the sharding key",
        "column \"b\" of table \"public.wrong\" is numeric, configured as text",
        "foreign key \"child_a_fkey\" of table \"public.child\" does not carry the sharding key to table \"public.loose\"",
        "table \"public.lacks\" is listed but does not exist",
        "names sharded table \"lines\" but not \"item\" of its sharding key",
    ] {
        assert_eq!(check.matches(said).count(), 1, "{said}: {check}");
    }
    assert!(!check.contains("loose_b_a_key") && !check.contains("lines_tenant_item_fkey"), "{check}");
    let mut client = rig.client();
    refused(&mut client, "SELECT * FROM wrong WHERE a = 1 AND b = '2'");
    refused(&mut client, "INSERT INTO loose (a, b, id) VALUES (1, 'x', 1) ON CONFLICT DO NOTHING");
    assert_eq!(
        client.run("INSERT INTO loose (a, b, id) VALUES (1, 'x', 1) ON CONFLICT (a, b) DO NOTHING"),
        "C(INSERT 0 1) Z(I)"
    );
    assert!(refused(&mut client, "INSERT INTO traced (tenant, item) VALUES (1, 'a')").contains("of_tenant"));
}

// Generated statements.

/// Statements over small domains of keys, so that many of them meet rows.
struct Generator(SmallRng);

impl Generator {
    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.0.random_range(0..of.len())]
    }

    fn tenant(&mut self) -> String {
        self.0.random_range(1..=6).to_string()
    }

    fn item(&mut self) -> String {
        format!("item {}", self.0.random_range(1..=12))
    }

    /// Something about the key of a table.
    fn term(&mut self, t: &str) -> String {
        let (a, b) = (self.tenant(), self.tenant());
        let (x, y) = (self.item(), self.item());
        match self.0.random_range(0..14) {
            0..=2 => format!("{t}.tenant = {a}"),
            3..=5 => format!("'{x}' = {t}.item"),
            6 => format!("{t}.tenant IN ({a}, {b})"),
            7 => format!("{t}.item IN ('{x}', '{y}')"),
            8 => format!("{t}.item = ANY ('{{{x},{y}}}')"),
            9 => format!("({t}.tenant, {t}.item) = ({a}, '{x}')"),
            10 => format!("({t}.item, {t}.tenant) IN (('{x}', {a}), ('{y}', {b}))"),
            11 => format!("{t}.tenant = ANY (ARRAY[{a}, {b}])"),
            12 => format!("({t}.tenant = {a} OR {t}.item = '{x}')"),
            _ => format!("NOT {t}.item = '{x}'"),
        }
    }

    fn condition(&mut self, t: &str) -> String {
        let terms: Vec<String> = (0..self.0.random_range(1..=3)).map(|_| self.term(t)).collect();
        terms.join(" AND ")
    }

    fn join(&mut self) -> String {
        let kind = self.one(&["JOIN", "JOIN", "LEFT JOIN", "FULL JOIN"]);
        let on = self.one(&[
            "USING (tenant, item)",
            "ON l.tenant = i.tenant AND l.item = i.item",
            "ON (l.item, l.tenant) = (i.item, i.tenant)",
            "ON l.tenant = i.tenant",
            "USING (item)",
            "ON l.tenant = i.tenant AND l.item = i.item AND l.line > 12",
        ]);
        format!("items i {kind} lines l {on}")
    }

    fn statement(&mut self) -> String {
        let (w, v) = (self.condition("i"), self.condition("l"));
        match self.0.random_range(0..16) {
            0..=2 => format!("SELECT * FROM items i WHERE {w}"),
            3 => format!("SELECT count(*), sum(n), min(n) FROM items i WHERE {w}"),
            4 => {
                let by = self.one(&["i.tenant", "i.item", "i.tenant, i.item", "i.item, i.v, i.tenant"]);
                let what =
                    self.one(&["count(*)", "sum(n)", "count(DISTINCT v)", "count(DISTINCT item)", "array_agg(n)"]);
                format!("SELECT {by}, {what} FROM items i WHERE {w} GROUP BY {by}")
            }
            5 => {
                let by = self.one(&["tenant", "item", "item, tenant", "tenant, v"]);
                format!("SELECT i.tenant, i.item, sum(n) OVER (PARTITION BY {by}) FROM items i WHERE {w}")
            }
            6 | 7 => format!(
                "SELECT i.tenant, i.n, l.line FROM {} WHERE {}",
                self.join(),
                if self.0.random() { w } else { v }
            ),
            8 => {
                let tied = self.one(&["l.tenant = i.tenant AND l.item = i.item", "l.tenant = i.tenant", "true"]);
                format!("SELECT i.n FROM items i WHERE {w} AND EXISTS (SELECT FROM lines l WHERE {tied} AND {v})")
            }
            9 => format!(
                "SELECT i.n FROM items i WHERE (tenant, item) IN (SELECT tenant, item FROM lines l WHERE {v}) AND {w}"
            ),
            10 => format!("SELECT n FROM items i WHERE {w} UNION ALL SELECT line FROM lines l WHERE {v}"),
            11 => format!(
                "WITH x AS (SELECT tenant, item, n FROM items i WHERE {w}) SELECT x.n, l.line FROM x JOIN lines l USING (tenant, item)"
            ),
            12 => format!("UPDATE items i SET n = n + 1 WHERE {w}"),
            13 => format!(
                "UPDATE lines l SET note = 'of ' || i.n FROM items i WHERE (l.tenant, l.item) = (i.tenant, i.item) AND {w}"
            ),
            14 => format!("DELETE FROM lines l WHERE {v} AND line = {}", self.0.random_range(1..=24)),
            _ => {
                let (a, x) = (self.tenant(), self.item());
                let assigned = self.one(&["item = 'item 3'", "tenant = 2", "tenant = 2, item = 'item 3'"]);
                let (b, y) = (self.tenant(), self.item());
                match self.0.random_range(0..5) {
                    0 => format!(
                        "INSERT INTO items (n, item, tenant) VALUES (1, '{x}', {a}), (2, '{x}x', {a}) ON CONFLICT (tenant, item) DO UPDATE SET n = items.n + excluded.n"
                    ),
                    1 => {
                        format!("INSERT INTO lines (tenant, item, line) SELECT tenant, item, 99 FROM items i WHERE {w}")
                    }
                    2 => format!("UPDATE lines i SET {assigned} WHERE {w}"),
                    _ => format!(
                        "UPDATE lines i SET {assigned} WHERE (i.item, i.tenant) IN (('{x}', {a}), ('{y}', {b}), (NULL, 1))"
                    ),
                }
            }
        }
    }
}

/// Every statement has the answer of one server, or is refused and does nothing. `PGWEIR_COMPOSITE_STATEMENTS` says how many there are.
#[test]
fn generated_statements_are_equal_or_refused() {
    let rounds: usize = std::env::var("PGWEIR_COMPOSITE_STATEMENTS").ok().and_then(|n| n.parse().ok()).unwrap_or(500);
    for (seed, settings) in [(1, ""), (2, "cross_shard_writes = \"best_effort\"\nunkeyed_writes = true\n")] {
        let rig = Rig::with(settings, "", "");
        let mut pair = Pair::of(&rig);
        let mut theirs = rig.cluster.client("whole");
        if settings.is_empty() {
            // Nothing is written on several shards here, so each row comes by itself.
            for tenant in 1..=6 {
                for item in 1..=12 {
                    pair.same(&format!("INSERT INTO items VALUES ({tenant}, 'item {item}', {item}, 'v{}')", item % 4));
                    pair.same(&format!(
                        "INSERT INTO lines VALUES ('note', 'item {item}', {}, {tenant})",
                        item + tenant
                    ));
                }
            }
        } else {
            fill(&mut pair);
        }
        let mut generator = Generator(SmallRng::seed_from_u64(seed));
        let mut refused = 0;
        for _ in 0..rounds {
            let sql = generator.statement();
            pair.ours.query(&sql);
            let ours = pair.ours.read_until_ready();
            if show(&ours).starts_with("E(0A000)") {
                refused += 1;
                continue;
            }
            theirs.query(&sql);
            assert_eq!(sorted(&ours), sorted(&theirs.read_until_ready()), "seed {seed}: {sql}");
        }
        println!("{refused} of {rounds} refused");
        assert!(refused * 10 < rounds * 7, "{refused} of {rounds} refused");
        pair.same("SELECT * FROM items");
        pair.same("SELECT * FROM lines");
        rig.at_home("items", "by_item", "tenant, item");
        rig.at_home("lines", "by_line", "tenant, item");
    }
}

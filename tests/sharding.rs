//! Sharding against real servers: every row lies where PostgreSQL's own hash says, and a statement on sharded tables is answered
//! as one unsharded server would answer it, or refused with 0A000 and a hint. It is never answered wrongly.

#![allow(clippy::needless_range_loop, reason = "the number is part of what is checked")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod common;

use std::collections::BTreeSet;

use common::cluster::Cluster;
use common::raw::RawClient;
use common::tools;
use common::weir::Weir;
use common::wire::{Message, ServerError, show};
use pgweir::id::Slot;
use pgweir::shard::hash;
use pgweir::shard::map::KeyType;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// `HASH_PARTITION_SEED`, as SQL says it.
const SEED: &str = "8816678312871386365";

const SCHEMA: &str = "
    CREATE TABLE t (k int8 PRIMARY KEY, v text, n int4);
    CREATE TABLE orders (id int4, k int8 NOT NULL, amount numeric);
    CREATE TABLE small (k int4 PRIMARY KEY, v text);
    CREATE TABLE u (k uuid PRIMARY KEY, v text);
    CREATE TABLE w (k text PRIMARY KEY, v text);
    CREATE TABLE vc (k varchar(40) PRIMARY KEY, v text);
    CREATE TABLE ref (code int4 PRIMARY KEY, name text);
    CREATE PROCEDURE clear_all() LANGUAGE sql AS 'DELETE FROM t';
    CREATE VIEW all_t AS SELECT * FROM t;
    CREATE VIEW all_t_again AS SELECT k, v FROM all_t WHERE n > 0;
    CREATE VIEW names AS SELECT code, upper(name) AS name FROM ref;
    CREATE FUNCTION total() RETURNS int8 STABLE LANGUAGE sql AS 'SELECT count(*) FROM t';
    CREATE FUNCTION twice(int4) RETURNS int4 IMMUTABLE LANGUAGE sql AS 'SELECT 2 * $1';
    CREATE VIEW counted AS SELECT total() AS n;
    CREATE TABLE child (extra int4) INHERITS (orders);
    CREATE AGGREGATE add_up(int4) (SFUNC = int4pl, STYPE = int4);
    CREATE FUNCTION add_total(int8, int4) RETURNS int8 STABLE LANGUAGE sql AS 'SELECT $1 + total()';
    CREATE AGGREGATE add_totals(int4) (SFUNC = add_total, STYPE = int8, INITCOND = '0');
    INSERT INTO ref SELECT i, 'name ' || i FROM generate_series(1, 5) i;";

/// A sharded database `app` over real clusters, the slots in equal parts.
struct Sharded {
    shards: Vec<Cluster>,
    weir: Weir,
}

impl Sharded {
    fn start(count: usize) -> Self {
        let shards: Vec<Cluster> = std::thread::scope(|scope| {
            let starting: Vec<_> = (0..count).map(|_| scope.spawn(Cluster::start)).collect();
            starting.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for shard in &shards {
            shard.sql(SCHEMA);
        }
        shards[0].sql("CREATE TABLE plain (id int4, v text)");
        let mut toml = "[databases.app]\ndefault_shard = \"s0\"\nprobe_user = \"postgres\"\n".to_owned();
        for (number, shard) in shards.iter().enumerate() {
            let (first, last) = slots(number, count);
            toml += &format!(
                "[[databases.app.shards]]\nname = \"s{number}\"\nslots = [[{first}, {last}]]\nprimary = \"postgres://127.0.0.1:{}/postgres\"\n",
                shard.port()
            );
        }
        toml += "[databases.app.tables]\n\
                 t = { key = \"k\", type = \"bigint\" }\n\
                 orders = { key = \"k\", type = \"bigint\" }\n\
                 small = { key = \"k\", type = \"integer\" }\n\
                 u = { key = \"k\", type = \"uuid\" }\n\
                 w = { key = \"k\", type = \"text\" }\n\
                 vc = { key = \"k\", type = \"varchar\" }\n\
                 ref = { reference = true }\n";
        let weir = Weir::builder().database(&toml).start();
        Self { shards, weir }
    }

    fn client(&self) -> RawClient {
        self.weir.client("app")
    }

    /// Which shard owns a slot.
    fn owner(&self, slot: Slot) -> usize {
        let count = self.shards.len();
        (0..count).find(|n| (slots(*n, count).0..=slots(*n, count).1).contains(&usize::from(slot.0))).unwrap()
    }

    fn shard_of(&self, key: i64) -> usize {
        self.owner(hash::slot_of(hash::hash_integer(key)))
    }

    fn shard_of_bytes(&self, key: &[u8]) -> usize {
        self.owner(hash::slot_of(hash::hash_bytes(key)))
    }

    /// The first `count` keys from 1 on that belong to a shard.
    fn keys(&self, shard: usize, count: usize) -> Vec<i64> {
        (1..).filter(|key| self.shard_of(*key) == shard).take(count).collect()
    }

    /// On every shard: no row of `table` lies elsewhere than the server's own hash says.
    fn assert_at_home(&self, table: &str, function: &str) {
        for (number, shard) in self.shards.iter().enumerate() {
            let (first, last) = slots(number, self.shards.len());
            let strays = shard.sql(&format!(
                "SELECT k FROM {table} WHERE ((({function}(k, {SEED}) & 16383) + 10467) & 16383) NOT BETWEEN {first} AND {last}"
            ));
            assert!(strays.is_empty(), "rows of {table} on s{number} that belong elsewhere: {strays:?}");
        }
    }

    fn counts(&self, table: &str) -> Vec<u64> {
        let count = |shard: &Cluster| shard.value(&format!("SELECT count(*) FROM {table}")).parse().unwrap();
        self.shards.iter().map(count).collect()
    }

    /// On which shards a query has rows.
    fn found_on(&self, sql: &str) -> Vec<usize> {
        (0..self.shards.len()).filter(|n| !self.shards[*n].sql(sql).is_empty()).collect()
    }
}

/// First and last slot of a shard.
fn slots(number: usize, count: usize) -> (usize, usize) {
    (16384 * number / count, 16384 * (number + 1) / count - 1)
}

/// The error in a reply; panics when there is none.
fn error(messages: &[Message]) -> ServerError {
    messages.iter().find_map(Message::error).unwrap_or_else(|| panic!("no error in {}", show(messages)))
}

/// The statement is refused with 0A000, a hint, and in the middle of nothing.
#[track_caller]
fn assert_refused(client: &mut RawClient, sql: &str) -> ServerError {
    client.query(sql);
    let messages = client.read_until_ready();
    assert_eq!(show(&messages), "E(0A000) Z(I)", "{sql}");
    let error = error(&messages);
    assert!(error.fields.get(&'H').is_some_and(|hint| !hint.is_empty()), "{sql}: no hint in {error:?}");
    error
}

// The hash.

#[test]
fn servers_hash_as_we_do() {
    let cluster = Cluster::start();
    let types = [2, 4, 8].map(|width| KeyType::Integer { width }).into_iter().chain([KeyType::Text, KeyType::Uuid]);
    for key_type in types {
        let answer: Vec<i64> =
            cluster.sql(&hash::self_test_sql(key_type, true)).iter().map(|row| row[0].parse().unwrap()).collect();
        assert!(!answer.is_empty());
        assert_eq!(answer, hash::self_test_expected(key_type, true), "{key_type:?}");
    }

    // Of each type 10,000 keys, or 100,000 under `make soak`.
    const COUNT: usize = 10_000;
    let rounds = if std::env::var("PGWEIR_SOAK_SECONDS").is_ok() { 10 } else { 1 };
    let mut rng = SmallRng::seed_from_u64(1);
    let hashes = |expression: &str, values: &[String]| -> Vec<u64> {
        let sql = format!(
            "SELECT {} FROM unnest('{{{}}}'::text[]) WITH ORDINALITY AS x(v, n) ORDER BY n",
            expression.replace("SEED", SEED),
            values.join(",")
        );
        cluster.sql(&sql).iter().map(|row| row[0].parse::<i64>().unwrap().cast_unsigned()).collect()
    };
    let alphabet: Vec<char> = "abcXYZ 019-_'\"\\{}żółć😀\u{301}".chars().collect();
    let hex = |bytes: &[u8]| format!("\"{}\"", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    for _ in 0..rounds {
        // All magnitudes, both signs.
        for (function, sql_type, bits) in
            [("hashint2extended", "int2", 16), ("hashint4extended", "int4", 32), ("hashint8extended", "int8", 64)]
        {
            let integers: Vec<i64> =
                (0..COUNT).map(|_| rng.random::<i64>() >> rng.random_range(64 - bits..64)).collect();
            let texts: Vec<String> = integers.iter().map(ToString::to_string).collect();
            let ours: Vec<u64> = integers.iter().map(|v| hash::hash_integer(*v)).collect();
            assert!(hashes(&format!("{function}(v::{sql_type}, SEED)"), &texts) == ours, "{sql_type}");
        }

        let strings: Vec<String> = (0..COUNT)
            .map(|_| (0..rng.random_range(0..40)).map(|_| alphabet[rng.random_range(0..alphabet.len())]).collect())
            .collect();
        let texts: Vec<String> = strings.iter().map(|v| hex(v.as_bytes())).collect();
        let ours: Vec<u64> = strings.iter().map(|v| hash::hash_bytes(v.as_bytes())).collect();
        for sql_type in ["text", "varchar", "varchar(40)"] {
            let expression = format!("hashtextextended(convert_from(decode(v, 'hex'), 'UTF8')::{sql_type}, SEED)");
            assert!(hashes(&expression, &texts) == ours, "{sql_type}");
        }

        let uuids: Vec<[u8; 16]> = (0..COUNT).map(|_| rng.random()).collect();
        let texts: Vec<String> = uuids.iter().map(|v| hex(v)).collect();
        let ours: Vec<u64> = uuids.iter().map(|v| hash::hash_bytes(v)).collect();
        assert!(hashes("uuid_hash_extended(v::uuid, SEED)", &texts) == ours, "uuid");
    }
}

#[test]
fn slots_are_those_of_hash_partitions() {
    // The row filter of the documentation, PARTITION BY HASH and we agree.
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE p (k int8) PARTITION BY HASH (k)");
    let rows = cluster.sql(&format!(
        "SELECT i, (((hashint8extended(i, {SEED}) & 16383) + 10467) & 16383),
                satisfies_hash_partition('p'::regclass, 16384, ((((hashint8extended(i, {SEED}) & 16383) + 10467) & 16383))::int, i)
         FROM generate_series(-500::int8, 500) i"
    ));
    for row in rows {
        assert_eq!(hash::slot_of(hash::hash_integer(row[0].parse().unwrap())).0.to_string(), row[1]);
        assert_eq!(row[2], "t", "{row:?}");
    }
}

// Rows by their key.

#[test]
fn ten_thousand_rows_lie_on_the_shard_of_their_hash() {
    let sharded = Sharded::start(2);
    let mut rng = SmallRng::seed_from_u64(2);
    let mut keys = BTreeSet::new();
    while keys.len() < 10_000 {
        keys.insert(rng.random::<i64>() >> rng.random_range(0..64));
    }
    let keys: Vec<i64> = keys.into_iter().collect();
    let mut client = sharded.client();
    client.parse("text", "INSERT INTO t (k, v) VALUES ($1, $2)", &[]);
    client.parse("binary", "INSERT INTO t (v, k) VALUES ('b', $1)", &[20]);
    client.sync();
    assert_eq!(show(&client.read_until_ready()), "1 1 Z(I)");
    for batch in keys.chunks(500) {
        for (number, key) in batch.iter().enumerate() {
            match number % 3 {
                0 => client.query(&format!("INSERT INTO t (k, v) VALUES ({key}, 's')")),
                1 => {
                    client.bind("", "text", &[Some(&key.to_string()), Some("t")]);
                    client.execute("", 0);
                    client.sync();
                }
                _ => {
                    client.bind_binary("", "binary", &[Some(&key.to_be_bytes())]);
                    client.execute("", 0);
                    client.sync();
                }
            }
        }
        for number in 0..batch.len() {
            let wanted = if number % 3 == 0 { "C(INSERT 0 1) Z(I)" } else { "2 C(INSERT 0 1) Z(I)" };
            assert_eq!(show(&client.read_until_ready()), wanted, "key {}", batch[number]);
        }
    }
    sharded.assert_at_home("t", "hashint8extended");
    let mut wanted = vec![0_u64; 2];
    for key in &keys {
        wanted[sharded.shard_of(*key)] += 1;
    }
    assert_eq!(sharded.counts("t"), wanted);
    assert!(wanted.iter().all(|count| *count > 1000), "{wanted:?}");
    for key in keys.iter().step_by(500) {
        assert_eq!(client.rows(&format!("SELECT k FROM t WHERE k = {key}")).unwrap(), [[key.to_string()]]);
    }
}

#[test]
fn three_shards_share_the_rows() {
    let sharded = Sharded::start(3);
    let mut client = sharded.client();
    for key in 0..300 {
        assert_eq!(client.run(&format!("INSERT INTO small (k, v) VALUES ({key}, 'x')")), "C(INSERT 0 1) Z(I)");
    }
    sharded.assert_at_home("small", "hashint4extended");
    let counts = sharded.counts("small");
    assert!(counts.iter().sum::<u64>() == 300 && counts.iter().all(|count| *count > 50), "{counts:?}");
    let listed = sharded.weir.admin_table("SHOW SHARDS");
    let slots: Vec<&str> = listed.iter().map(|row| &*row["slots"]).collect();
    assert_eq!(slots, ["0-5460", "5461-10921", "10922-16383"]);
}

#[test]
fn statements_by_key_by_every_protocol() {
    let sharded = Sharded::start(2);
    let mut client = sharded.client();
    let keys = [sharded.keys(0, 3), sharded.keys(1, 3)].concat();
    for key in &keys {
        client.run(&format!("INSERT INTO t (k, v, n) VALUES ({key}, 'first', {key})"));
    }
    // Simple.
    for key in &keys {
        assert_eq!(client.run(&format!("SELECT v FROM t WHERE k = {key}")), "T(v:25) D(first) C(SELECT 1) Z(I)");
        assert_eq!(client.run(&format!("UPDATE t SET v = 'simple' WHERE k = {key} AND n > 0")), "C(UPDATE 1) Z(I)");
        let home = sharded.shard_of(*key);
        assert_eq!(sharded.found_on(&format!("SELECT 1 FROM t WHERE k = {key} AND v = 'simple'")), [home]);
        let tags = client.run(&format!("SELECT n FROM t WHERE k = {key}; UPDATE t SET n = n + 1 WHERE k = {key}"));
        assert_eq!(tags, format!("T(n:23) D({key}) C(SELECT 1) C(UPDATE 1) Z(I)"));
    }
    // Extended, named statements prepared once; the key differs at each execution.
    client.parse("s", "SELECT v, k FROM t WHERE k = $1", &[]);
    client.describe_statement("s");
    client.sync();
    assert_eq!(show(&client.read_until_ready()), "1 t(20) T(v:25,k:20) Z(I)");
    for _ in 0..2 {
        for key in &keys {
            client.bind("", "s", &[Some(&key.to_string())]);
            client.execute("", 0);
            client.sync();
            assert_eq!(show(&client.read_until_ready()), format!("2 D(simple|{key}) C(SELECT 1) Z(I)"));
            client.bind_binary("", "s", &[Some(&key.to_be_bytes())]);
            client.execute("", 0);
            client.sync();
            let messages = client.read_until_ready();
            let row = messages.iter().find(|m| m.tag == b'D').unwrap_or_else(|| panic!("{}", show(&messages)));
            assert!(row.body.ends_with(&key.to_be_bytes()), "{row}");
        }
    }
    // An unnamed statement, parsed with its key's type unknown.
    for key in &keys {
        client.parse("", "UPDATE t SET v = $1 WHERE k = $2", &[]);
        client.bind("", "", &[Some("unnamed"), Some(&key.to_string())]);
        client.execute("", 0);
        client.sync();
        assert_eq!(show(&client.read_until_ready()), "1 2 C(UPDATE 1) Z(I)");
        let home = sharded.shard_of(*key);
        assert_eq!(sharded.found_on(&format!("SELECT 1 FROM t WHERE k = {key} AND v = 'unnamed'")), [home]);
    }
    // Keys of two shards in one pipeline, each with its own Sync.
    for key in &keys {
        client.bind("", "s", &[Some(&key.to_string())]);
        client.execute("", 0);
        client.sync();
    }
    for key in &keys {
        assert_eq!(show(&client.read_until_ready()), format!("2 D(unnamed|{key}) C(SELECT 1) Z(I)"));
    }
    for key in &keys {
        assert_eq!(client.run(&format!("DELETE FROM t WHERE k = {key}")), "C(DELETE 1) Z(I)");
    }
    assert_eq!(sharded.counts("t"), [0, 0]);
}

#[tokio::test]
async fn a_driver_with_binary_parameters() {
    let sharded = Sharded::start(2);
    let target = format!("host=127.0.0.1 port={} user=postgres dbname=app", sharded.weir.port());
    let (mut client, connection) = tokio_postgres::connect(&target, tokio_postgres::NoTls).await.unwrap();
    let driver = tokio::spawn(connection);
    let keys = [sharded.keys(0, 2), sharded.keys(1, 2)].concat();
    let insert = client.prepare("INSERT INTO t (k, v, n) VALUES ($1, $2, $3)").await.unwrap();
    let select = client.prepare("SELECT v, n FROM t WHERE k = $1").await.unwrap();
    for key in &keys {
        assert_eq!(client.execute(&insert, &[key, &"driver", &7_i32]).await.unwrap(), 1);
    }
    for key in &keys {
        let row = client.query_one(&select, &[key]).await.unwrap();
        assert_eq!((row.get::<_, String>(0), row.get::<_, i32>(1)), ("driver".to_owned(), 7));
        assert_eq!(client.execute("UPDATE t SET n = n + 1 WHERE k = $1", &[key]).await.unwrap(), 1);
    }
    sharded.assert_at_home("t", "hashint8extended");
    assert_eq!(sharded.counts("t"), [2, 2]);

    // A transaction of the driver: BEGIN by simple query, then a statement that is first prepared and then bound.
    for shard in 0..2 {
        let keys = sharded.keys(shard, 2);
        let transaction = client.transaction().await.unwrap();
        for key in &keys {
            let changed = transaction.execute("UPDATE t SET v = 'transaction' WHERE k = $1", &[key]).await;
            assert_eq!(changed.unwrap(), 1, "key {key} of s{shard}");
        }
        transaction.commit().await.unwrap();
        assert_eq!(sharded.found_on("SELECT 1 FROM t WHERE v = 'transaction'"), (0..=shard).collect::<Vec<_>>());
        // And one that ends with ROLLBACK.
        let transaction = client.transaction().await.unwrap();
        assert_eq!(transaction.execute("DELETE FROM t WHERE k = $1", &[&keys[0]]).await.unwrap(), 1);
        transaction.rollback().await.unwrap();
    }
    assert_eq!(sharded.counts("t"), [2, 2]);
    drop(client);
    driver.await.unwrap().unwrap();
}

#[test]
fn psycopg_uses_both_shards() {
    let sharded = Sharded::start(2);
    let (a, b) = (sharded.keys(0, 2), sharded.keys(1, 2));
    let script = format!(
        r"
import psycopg
with psycopg.connect() as c:
    for key in ({}, {}):
        with c.transaction():
            c.execute('INSERT INTO t (k, v) VALUES (%s, %s)', (key, 'ps'))
        c.commit()
    c.autocommit = True
    for prepare in (False, True):
        for key in ({}, {}):
            c.execute('INSERT INTO orders (k, id) VALUES (%s, %s)', (key, 1), prepare=prepare)
    for key in ({}, {}):
        print(c.execute('SELECT v FROM t WHERE k = %s', (key,)).fetchone()[0])
    try:
        c.execute('DELETE FROM t')
    except psycopg.errors.FeatureNotSupported as e:
        print('refused')
    with c.transaction():
        c.execute('UPDATE t SET v = %s WHERE k = %s', ('x', {}))
",
        a[0], b[0], a[1], b[1], a[0], b[0], b[0]
    );
    assert_eq!(tools::python(sharded.weir.port(), "app", &script).ok(), "ps\nps\nrefused\n");
    assert_eq!((sharded.counts("t"), sharded.counts("orders")), (vec![1, 1], vec![2, 2]));
    assert_eq!(sharded.found_on("SELECT 1 FROM t WHERE v = 'x'"), [1]);
}

#[test]
fn uuid_and_text_keys() {
    let sharded = Sharded::start(2);
    let mut client = sharded.client();
    let mut rng = SmallRng::seed_from_u64(3);
    for number in 0..60 {
        let key: [u8; 16] = rng.random();
        let text: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        match number % 4 {
            0 => assert_eq!(client.run(&format!("INSERT INTO u (k, v) VALUES ('{text}', 'x')")), "C(INSERT 0 1) Z(I)"),
            1 => {
                let written = format!("{{{}}}", text.to_uppercase());
                let sql = format!("INSERT INTO u (k, v) VALUES ('{written}'::uuid, 'x')");
                assert_eq!(client.run(&sql), "C(INSERT 0 1) Z(I)");
            }
            2 => {
                client.parse("", "INSERT INTO u (k, v) VALUES ($1, 'x')", &[]);
                client.bind("", "", &[Some(&text)]);
                client.execute("", 0);
                client.sync();
                assert_eq!(show(&client.read_until_ready()), "1 2 C(INSERT 0 1) Z(I)");
            }
            _ => {
                client.parse("", "INSERT INTO u (k, v) VALUES ($1, 'x')", &[2950]);
                client.bind_binary("", "", &[Some(&key)]);
                client.execute("", 0);
                client.sync();
                assert_eq!(show(&client.read_until_ready()), "1 2 C(INSERT 0 1) Z(I)");
            }
        }
        let home = sharded.shard_of_bytes(&key);
        assert_eq!(sharded.found_on(&format!("SELECT 1 FROM u WHERE k = '{text}'")), [home]);
        assert_eq!(client.run(&format!("SELECT v FROM u WHERE k = '{text}'")), "T(v:25) D(x) C(SELECT 1) Z(I)");
    }
    sharded.assert_at_home("u", "uuid_hash_extended");

    let texts = ["", "123", "0123", "user:1000", "{user1000}.following", "żółć", "😀", "it''s", "a b", "A", "a"];
    for table in ["w", "vc"] {
        for (number, text) in texts.iter().enumerate() {
            let plain = text.replace("''", "'");
            if number % 2 == 0 {
                let sql = format!("INSERT INTO {table} (k, v) VALUES ('{text}', '{number}')");
                assert_eq!(client.run(&sql), "C(INSERT 0 1) Z(I)", "{sql}");
            } else {
                client.parse("", &format!("INSERT INTO {table} (k, v) VALUES ($1, $2)"), &[]);
                client.bind_binary("", "", &[Some(plain.as_bytes()), Some(number.to_string().as_bytes())]);
                client.execute("", 0);
                client.sync();
                assert_eq!(show(&client.read_until_ready()), "1 2 C(INSERT 0 1) Z(I)", "{table} {text}");
            }
            let home = sharded.shard_of_bytes(plain.as_bytes());
            assert_eq!(
                sharded.found_on(&format!("SELECT 1 FROM {table} WHERE k = '{text}'")),
                [home],
                "{table} {text}"
            );
            let sql = format!("SELECT v FROM {table} WHERE k = '{text}'");
            assert_eq!(client.run(&sql), format!("T(v:25) D({number}) C(SELECT 1) Z(I)"), "{sql}");
        }
        sharded.assert_at_home(table, "hashtextextended");
    }
}

// Transactions.

#[test]
fn a_transaction_is_bound_to_its_first_shard() {
    let sharded = Sharded::start(2);
    let mut client = sharded.client();
    for shard in 0..2 {
        let keys = sharded.keys(shard, 4);
        assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
        assert_eq!(client.run(&format!("INSERT INTO t (k, v) VALUES ({}, 'tx')", keys[0])), "C(INSERT 0 1) Z(T)");
        assert_eq!(client.run(&format!("INSERT INTO orders (k, id) VALUES ({}, 1)", keys[1])), "C(INSERT 0 1) Z(T)");
        assert_eq!(sharded.counts("t")[shard], 0, "nothing is committed yet");
        assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
        assert_eq!((sharded.counts("t")[shard], sharded.counts("orders")[shard]), (1, 1));

        assert_eq!(client.run("START TRANSACTION ISOLATION LEVEL SERIALIZABLE"), "C(START TRANSACTION) Z(T)");
        let isolation = format!("SELECT current_setting('transaction_isolation') FROM t WHERE k = {}", keys[0]);
        assert!(client.run(&isolation).contains("D(serializable)"), "BEGIN's options reach the shard");
        assert_eq!(client.run(&format!("DELETE FROM t WHERE k = {}", keys[0])), "C(DELETE 1) Z(T)");
        assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
        assert_eq!(sharded.counts("t")[shard], 1);

        // The whole block in one text, and in one pipeline.
        let block = format!("BEGIN; INSERT INTO t (k, v) VALUES ({}, 'tx'); COMMIT", keys[2]);
        assert_eq!(client.run(&block), "C(BEGIN) C(INSERT 0 1) C(COMMIT) Z(I)");
        client.query("BEGIN");
        client.query(&format!("INSERT INTO t (k, v) VALUES ({}, 'tx')", keys[3]));
        client.query("COMMIT");
        let replies: Vec<String> = (0..3).map(|_| show(&client.read_until_ready())).collect();
        assert_eq!(replies, ["C(BEGIN) Z(T)", "C(INSERT 0 1) Z(T)", "C(COMMIT) Z(I)"]);
        assert_eq!(sharded.counts("t")[shard], 3);
    }
    sharded.assert_at_home("t", "hashint8extended");

    // A savepoint as the first statement, and a setting that holds for the transaction.
    let key = sharded.keys(1, 1)[0];
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(client.run(&format!("UPDATE t SET n = 1 WHERE k = {key}")), "C(UPDATE 1) Z(T)");
    assert_eq!(client.run("SAVEPOINT a"), "C(SAVEPOINT) Z(T)");
    assert_eq!(client.run(&format!("UPDATE t SET n = 2 WHERE k = {key}")), "C(UPDATE 1) Z(T)");
    assert_eq!(client.run("ROLLBACK TO a"), "C(ROLLBACK) Z(T)");
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(client.value(&format!("SELECT n FROM t WHERE k = {key}")), "1");
}

#[test]
fn a_transaction_by_the_extended_protocol() {
    let sharded = Sharded::start(2);
    let mut client = sharded.client();
    for shard in 0..2 {
        let keys = sharded.keys(shard, 2);
        // As JDBC does it: BEGIN and the first statement before one Sync.
        client.parse("", "BEGIN", &[]);
        client.bind("", "", &[]);
        client.execute("", 0);
        client.parse("", "INSERT INTO t (k, v) VALUES ($1, $2)", &[20, 25]);
        client.bind("", "", &[Some(&keys[0].to_string()), Some("x")]);
        client.execute("", 0);
        client.sync();
        assert_eq!(show(&client.read_until_ready()), "1 2 C(BEGIN) 1 2 C(INSERT 0 1) Z(T)");
        assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
        // As libpq's simple BEGIN followed by a statement prepared, described and only then bound.
        assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
        let name = format!("insert{shard}");
        client.parse(&name, "INSERT INTO t (k, v) VALUES ($1, $2)", &[]);
        client.describe_statement(&name);
        client.sync();
        assert_eq!(show(&client.read_until_ready()), "1 t(20,25) n Z(T)");
        client.bind_binary("", &name, &[Some(&keys[1].to_be_bytes()), Some(b"x")]);
        client.execute("", 0);
        client.sync();
        assert_eq!(show(&client.read_until_ready()), "2 C(INSERT 0 1) Z(T)", "key {} of s{shard}", keys[1]);
        assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    }
    assert_eq!(sharded.counts("t"), [2, 2]);
    sharded.assert_at_home("t", "hashint8extended");

    // What fails while it is prepared fails the block.
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    client.parse("", "SELECT nothing FROM t WHERE k = $1", &[]);
    client.describe_statement("");
    client.sync();
    assert_eq!(show(&client.read_until_ready()), "E(42703) Z(E)");
    assert_eq!(client.run("SELECT 1"), "E(25P02) Z(E)");
    assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
}

/// What belongs to no shard does not bind a block to one.
#[test]
fn a_block_waits_for_its_first_key() {
    let sharded = Sharded::start(2);
    let mut client = sharded.client();
    let extended = |client: &mut RawClient, sql: &str| show(&ask(client, sql, true));
    for shard in [1, 0] {
        let keys = sharded.keys(shard, 5);
        let insert = |key: i64| format!("INSERT INTO t (k, v) VALUES ({key}, current_setting('app.tenant', true))");
        let tenant = |key: i64| format!("SELECT v FROM t WHERE k = {key}");
        // BEGIN alone by the extended protocol.
        assert_eq!(extended(&mut client, "BEGIN"), "1 2 n C(BEGIN) Z(T)");
        assert_eq!(client.run(&insert(keys[0])), "C(INSERT 0 1) Z(T)");
        assert_eq!(extended(&mut client, "COMMIT"), "1 2 n C(COMMIT) Z(I)");
        // BEGIN with more in the same text.
        assert!(client.run("BEGIN; SHOW server_encoding").ends_with("C(SHOW) Z(T)"));
        assert_eq!(client.run(&insert(keys[1])), "C(INSERT 0 1) Z(T)");
        assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
        // Settings of the transaction, by either protocol, go along.
        for (key, by) in [(keys[2], false), (keys[3], true)] {
            assert!(show(&ask(&mut client, "BEGIN", by)).ends_with("C(BEGIN) Z(T)"));
            let isolation = ask(&mut client, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ -- as it were", by);
            assert!(show(&isolation).ends_with("C(SET) Z(T)"), "{}", show(&isolation));
            assert!(show(&ask(&mut client, "SET LOCAL app.tenant = 'one'", by)).ends_with("C(SET) Z(T)"));
            assert_eq!(client.run(&insert(key)), "C(INSERT 0 1) Z(T)");
            assert_eq!(client.value(&tenant(key)), "one");
            assert_eq!(client.value("SHOW transaction_isolation"), "repeatable read");
            assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
        }
        // What was set with the transaction ended with it, on both shards.
        for key in [keys[0], keys[2]] {
            let left = format!("SELECT coalesce(current_setting('app.tenant', true), '') FROM t WHERE k = {key}");
            assert_eq!(client.value(&left), "");
        }
        // A setting that fails fails the block.
        assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
        assert_eq!(client.run("SET LOCAL statement_timeout = 'soon'"), "E(22023) Z(E)");
        assert_eq!(client.run(&insert(keys[4])), "E(25P02) Z(E)");
        assert_eq!(client.run("COMMIT"), "C(ROLLBACK) Z(I)");
        // Once something has been done there, the block stays.
        assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
        assert_eq!(client.run("INSERT INTO plain VALUES (1, 'x')"), "C(INSERT 0 1) Z(T)");
        let other = client.run(&insert(keys[4]));
        assert_eq!(other, if shard == 0 { "C(INSERT 0 1) Z(T)" } else { "E(0A000) Z(E)" });
        assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    }
    assert_eq!(sharded.counts("t"), [4, 4]);
    sharded.assert_at_home("t", "hashint8extended");
}

/// The catalog is asked in the middle of a transaction too, and again after it has changed.
#[test]
fn views_and_functions_are_looked_up() {
    let sharded = Sharded::start(2);
    let mut client = sharded.client();
    let key = sharded.keys(0, 1)[0];
    client.run("BEGIN");
    client.run(&format!("UPDATE t SET n = 1 WHERE k = {key}"));
    assert_eq!(client.value("SELECT name FROM names WHERE code = 2"), "NAME 2");
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    let key = sharded.keys(1, 1)[0];
    client.run("BEGIN");
    assert_eq!(client.run(&format!("INSERT INTO t (k, n) VALUES ({key}, 4)")), "C(INSERT 0 1) Z(T)");
    assert_eq!(client.value(&format!("SELECT twice(n) FROM t WHERE k = {key}")), "8");
    client.query("SELECT count(*) FROM all_t");
    let messages = client.read_until_ready();
    assert_eq!(show(&messages), "E(0A000) Z(E)");
    assert!(error(&messages).message.contains("\"all_t\" is made of table \"public.t\""), "{}", error(&messages));
    assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");

    // By the client's own search_path.
    for shard in &sharded.shards {
        shard.sql("CREATE SCHEMA app; CREATE TABLE app.t (k int8, v text); CREATE TABLE app.mine (a int4)");
    }
    client.run("SET search_path = app");
    assert_eq!(client.value("SELECT count(*) FROM mine"), "0");
    let refused = assert_refused(&mut client, "SELECT count(*) FROM t");
    assert!(refused.message.contains("search_path"), "{refused}");
    client.run("RESET search_path");
    assert_eq!(client.run("SELECT count(*) FROM mine"), "E(42P01) Z(I)");

    // What changes by a statement of ours is known at once.
    assert_eq!(client.value("SELECT count(*) FROM plain"), "0");
    assert_eq!(client.run("DROP TABLE plain"), "C(DROP TABLE) Z(I)");
    assert_eq!(client.run("SELECT count(*) FROM plain"), "E(42P01) Z(I)");
    assert_eq!(client.run("/* pgweir: shard=s0 */ CREATE VIEW plain AS SELECT * FROM t"), "C(CREATE VIEW) Z(I)");
    assert_refused(&mut client, "SELECT count(*) FROM plain");
    let change = "CREATE OR REPLACE FUNCTION twice(int4) RETURNS int4 STABLE LANGUAGE sql AS 'SELECT 1'";
    assert_refused(&mut client, change);
    assert_eq!(client.run(&format!("/* pgweir: shard=s0 */ {change}")), "C(CREATE FUNCTION) Z(I)");
    assert_refused(&mut client, "SELECT twice(1)");
    assert_eq!(client.value("/* pgweir: shard=s1 */ SELECT twice(1)"), "2");
}

#[test]
fn leaving_the_shard_fails_the_transaction() {
    let sharded = Sharded::start(2);
    let mut client = sharded.client();
    let (here, there) = (sharded.keys(0, 1)[0], sharded.keys(1, 1)[0]);
    client.run(&format!("INSERT INTO t (k, v) VALUES ({there}, 'old')"));

    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(client.run(&format!("INSERT INTO t (k, v) VALUES ({here}, 'new')")), "C(INSERT 0 1) Z(T)");
    client.query(&format!("UPDATE t SET v = 'new' WHERE k = {there}"));
    let messages = client.read_until_ready();
    assert_eq!(show(&messages), "E(0A000) Z(E)");
    let refusal = error(&messages);
    assert!(refusal.message.contains("\"s0\"") && refusal.message.contains("\"s1\""), "{refusal}");
    assert!(refusal.fields.contains_key(&'H'), "{refusal:?}");
    assert_eq!(client.run(&format!("SELECT 1 FROM t WHERE k = {here}")), "E(25P02) Z(E)");
    assert_eq!(client.run(&format!("SELECT 1 FROM t WHERE k = {there}")), "E(25P02) Z(E)");
    assert_eq!(client.run("COMMIT"), "C(ROLLBACK) Z(I)");
    assert_eq!(sharded.counts("t"), [0, 1]);

    // By the extended protocol; the rest of the pipeline is skipped to the Sync.
    client.query("BEGIN");
    client.read_until_ready();
    client.parse("s", "UPDATE t SET v = 'new' WHERE k = $1", &[20]);
    client.bind("", "s", &[Some(&here.to_string())]);
    client.execute("", 0);
    client.sync();
    assert_eq!(show(&client.read_until_ready()), "1 2 C(UPDATE 0) Z(T)");
    for key in [there, here, there] {
        client.bind("", "s", &[Some(&key.to_string())]);
        client.execute("", 0);
    }
    client.sync();
    // What was sent before has written nothing there, so the first may; the second would write on another shard.
    assert_eq!(show(&client.read_until_ready()), "2 C(UPDATE 1) E(0A000) Z(E)");
    assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    assert_eq!(client.value(&format!("SELECT v FROM t WHERE k = {there}")), "old");

    // Refused as the first statement of the block: the block has failed, too.
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(client.run("DELETE FROM t"), "E(0A000) Z(E)");
    assert_eq!(client.run("SELECT 1"), "E(25P02) Z(E)");
    assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    // And the servers are in order again.
    assert_eq!(client.run(&format!("UPDATE t SET v = 'new' WHERE k = {there}")), "C(UPDATE 1) Z(I)");
    assert_eq!(sharded.counts("t"), [0, 1]);
}

#[test]
fn empty_blocks_reach_no_server() {
    let sharded = Sharded::start(2);
    let mut client = sharded.client();
    for (end, tag) in [("COMMIT", "COMMIT"), ("ROLLBACK", "ROLLBACK"), ("END", "COMMIT"), ("ABORT", "ROLLBACK")] {
        assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
        assert_eq!(client.run(end), format!("C({tag}) Z(I)"));
    }
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    client.sync();
    assert_eq!(show(&client.read_until_ready()), "Z(T)");
    assert_eq!(client.run("BEGIN"), "N(WARNING 25001) C(BEGIN) Z(T)");
    assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    // An error of the first statement is the block's.
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    let key = sharded.keys(1, 1)[0];
    assert_eq!(client.run(&format!("INSERT INTO t (k, n) VALUES ({key}, 1/0)")), "E(22012) Z(E)");
    assert_eq!(client.run("COMMIT"), "C(ROLLBACK) Z(I)");
    // COMMIT by the extended protocol.
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    client.parse("", "COMMIT", &[]);
    client.bind("", "", &[]);
    client.execute("", 0);
    client.sync();
    assert_eq!(show(&client.read_until_ready()), "1 2 C(COMMIT) Z(I)");
}

// Settings and hints.

#[test]
fn settings_and_hints_choose_the_shard() {
    let sharded = Sharded::start(2);
    let mut client = sharded.client();
    let (a, b) = (sharded.keys(0, 1)[0], sharded.keys(1, 1)[0]);
    for (shard, key) in [(0, a), (1, b)] {
        client.run(&format!("INSERT INTO t (k, v) VALUES ({key}, 'of s{shard}')"));
    }
    let ports: Vec<String> = sharded.shards.iter().map(|shard| shard.port().to_string()).collect();
    let whoami = "SELECT current_setting('port')";
    for (shard, key) in [(0, a), (1, b)] {
        assert_eq!(client.run(&format!("SET pgweir.shard = 's{shard}'")), "C(SET) Z(I)");
        assert_eq!(client.value("SHOW pgweir.shard"), format!("s{shard}"));
        assert_eq!(client.value(whoami), ports[shard]);
        assert_eq!(client.rows("SELECT v FROM t").unwrap(), [[format!("of s{shard}")]], "all rows of that shard");
        assert_eq!(client.run("RESET pgweir.shard"), "C(RESET) Z(I)");

        assert_eq!(client.run(&format!("SET pgweir.sharding_key = '{key}'")), "C(SET) Z(I)");
        assert_eq!(client.rows("SELECT v FROM t").unwrap(), [[format!("of s{shard}")]]);
        assert_eq!(client.run("RESET pgweir.sharding_key"), "C(RESET) Z(I)");

        let hinted = format!("/* pgweir: sharding_key={key} */ SELECT v FROM t");
        assert_eq!(client.rows(&hinted).unwrap(), [[format!("of s{shard}")]]);
        assert_eq!(client.rows(&format!("/* pgweir: shard=s{shard} */ {whoami}")).unwrap(), [[ports[shard].clone()]]);
    }
    // A contradiction is refused, by setting and by hint, and nothing is written.
    assert_refused(&mut client, &format!("/* pgweir: shard=s0 */ UPDATE t SET v = 'x' WHERE k = {b}"));
    assert_refused(&mut client, &format!("/* pgweir: sharding_key={a} */ UPDATE t SET v = 'x' WHERE k = {b}"));
    client.run("SET pgweir.shard = 's1'");
    assert_refused(&mut client, &format!("INSERT INTO t (k, v) VALUES ({}, 'x')", sharded.keys(0, 2)[1]));
    assert_refused(&mut client, &format!("SELECT v FROM t WHERE k = {a}"));
    client.parse("", "SELECT v FROM t WHERE k = $1", &[20]);
    client.bind("", "", &[Some(&a.to_string())]);
    client.execute("", 0);
    client.sync();
    assert_eq!(show(&client.read_until_ready()), "E(0A000) Z(I)");
    assert_eq!(client.value(&format!("SELECT v FROM t WHERE k = {b}")), "of s1");
    client.run("RESET pgweir.shard");
    assert_eq!(sharded.found_on("SELECT 1 FROM t WHERE v = 'x'"), Vec::<usize>::new());
    // What there is not.
    client.query("SET pgweir.shard = 's7'");
    let messages = client.read_until_ready();
    assert_eq!(show(&messages), "E(22023) Z(I)");
    assert!(error(&messages).fields[&'H'].contains("s0, s1"));
    assert_eq!(client.run("/* pgweir: shard=s7 */ SELECT 1"), "E(22023) Z(I)");
    assert_eq!(client.run("SET pgweir.nothing = 1"), "E(42704) Z(I)");
    assert_eq!(client.run("/* pgweir: nothing=1 */ SELECT 1"), "E(22023) Z(I)");
}

// Reference and unlisted tables.

#[test]
fn reference_and_unlisted_tables() {
    let sharded = Sharded::start(2);
    let mut client = sharded.client();
    assert_eq!(client.rows("SELECT name FROM ref WHERE code = 3").unwrap(), [["name 3"]]);
    assert_eq!(client.value("SELECT count(*) FROM ref"), "5");
    for shard in 0..2 {
        let key = sharded.keys(shard, 1)[0];
        client.run(&format!("INSERT INTO t (k, v, n) VALUES ({key}, 'x', 2)"));
        let joined = format!("SELECT t.v, ref.name FROM t JOIN ref ON ref.code = t.n WHERE t.k = {key}");
        assert_eq!(client.rows(&joined).unwrap(), [["x", "name 2"]]);
        // In a transaction it is read where the transaction is.
        client.run("BEGIN");
        client.run(&format!("UPDATE t SET n = 3 WHERE k = {key}"));
        assert_eq!(client.rows("SELECT name FROM ref WHERE code = 1").unwrap(), [["name 1"]]);
        assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    }
    for sql in ["INSERT INTO ref VALUES (9, 'x')", "UPDATE ref SET name = 'x'", "DELETE FROM ref", "TRUNCATE ref"] {
        assert_refused(&mut client, sql);
    }
    assert_eq!(sharded.counts("ref"), [5, 5]);
    assert_eq!(client.run("INSERT INTO plain VALUES (1, 'a'), (2, 'b')"), "C(INSERT 0 2) Z(I)");
    assert_eq!(client.value("SELECT count(*) FROM plain"), "2");
    assert_eq!(client.run("UPDATE plain SET v = 'c'"), "C(UPDATE 2) Z(I)");
    assert_eq!(sharded.shards[0].value("SELECT count(*) FROM plain WHERE v = 'c'"), "2");
    let key = sharded.keys(0, 1)[0];
    assert_refused(&mut client, &format!("SELECT * FROM plain, t WHERE t.k = {key}"));
    assert_eq!(client.run("SELECT * FROM no_such_table"), "E(42P01) Z(I)");
}

// Right or refused.

/// What peers answer wrongly (`K` and `L`: keys of different shards), and more of the kind.
const DOUBTFUL: &[&str] = &[
    "SELECT count(*) FROM orders o JOIN ref r ON o.k = r.code WHERE r.code = 2",
    "SELECT count(*) FROM t JOIN ref USING (n) WHERE n = K",
    "INSERT INTO t (k, v) OVERRIDING USER VALUE VALUES (L, 'x')",
    "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM public",
    "DROP SCHEMA IF EXISTS nothing",
    "SELECT set_config('a.b', '1', true)",
    "SELECT count(*) FROM all_t",
    "SELECT count(*) FROM public.all_t_again",
    "SELECT v FROM all_t WHERE k = K",
    "WITH a AS (SELECT * FROM all_t) SELECT count(*) FROM a",
    "SELECT name FROM ref WHERE code IN (SELECT n FROM all_t)",
    "UPDATE all_t SET v = 'x'",
    "INSERT INTO all_t (k, v) VALUES (L, 'x')",
    "SELECT total()",
    "SELECT public.total() + 1",
    "SELECT v FROM t WHERE k = K AND total() > 0",
    "SELECT n FROM counted",
    "SELECT count(*) FROM child",
    "INSERT INTO child (id, k) VALUES (1, L)",
    "SELECT add_totals(code) FROM ref",
    "SELECT add_up(code) FROM ref",
    "SELECT name FROM names WHERE code = 2",
    "SELECT twice(21)",
    "SELECT v FROM t WHERE k = K AND twice(1) = 2",
    "SELECT query_to_xml('SELECT count(*) FROM t', true, false, '')",
    "SELECT table_to_xml('t', true, false, '')",
    "SELECT nothing_of_the_kind()",
    "SELECT * FROM nothing_of_the_kind",
    "SELECT count(*) FILTER (WHERE k = K) FROM t",
    "SELECT sum(CASE WHEN k = K THEN 1 ELSE 0 END) FROM t",
    "SELECT CASE WHEN k = K THEN 'a' ELSE 'b' END FROM t",
    "SELECT k, v FROM t ORDER BY (k = K), k",
    "SELECT v FROM t WHERE k = 1+4",
    "SELECT v FROM t WHERE k + 1 = 5",
    "SELECT v FROM t WHERE k = K + 1",
    "SELECT v FROM t WHERE k = -(-K)",
    "SELECT v FROM t WHERE k = abs(K)",
    "SELECT EXISTS(SELECT 1 FROM t WHERE v = 'v7')",
    "SELECT (SELECT count(*) FROM t)",
    "SELECT (SELECT count(*) FROM t WHERE k = K)",
    "SELECT (SELECT v FROM t WHERE k = K), (SELECT v FROM t WHERE k = L)",
    "SELECT v FROM t WHERE k = K UNION SELECT v FROM t WHERE k = L ORDER BY 1",
    "SELECT v FROM t WHERE k = K UNION ALL SELECT v FROM t",
    "SELECT v FROM t WHERE k = K EXCEPT SELECT v FROM t",
    "SELECT count(*) FROM (SELECT k FROM t LIMIT 5) s",
    "SELECT k FROM t ORDER BY k LIMIT 5",
    "SELECT count(*) FROM t OFFSET 0",
    "SELECT k FROM t ORDER BY k OFFSET 3",
    "SELECT k FROM t ORDER BY k LIMIT 2+3 OFFSET 2",
    "SELECT k FROM t ORDER BY k LIMIT NULL",
    "SELECT n % 3, count(*) FROM t GROUP BY n % 3 ORDER BY 1",
    "SELECT n % 3 AS g, count(*) FROM t GROUP BY g ORDER BY g",
    "SELECT count(*) FROM t GROUP BY n % 3 ORDER BY 1",
    "SELECT n % 3 FROM t GROUP BY 1 ORDER BY 1",
    "SELECT coalesce(sum(n), 0) FROM t",
    "SELECT count(*) * 2 FROM t",
    "SELECT count(*) FROM t",
    "SELECT max(k), min(v) FROM t",
    "SELECT DISTINCT ON (t.n) t.n, t.k FROM t ORDER BY t.n, t.k",
    "SELECT DISTINCT n % 4 FROM t ORDER BY 1",
    "SELECT count(DISTINCT v) FROM t",
    "SELECT v FROM t ORDER BY n % 5, k",
    "SELECT v FROM t ORDER BY n, k",
    "SELECT k FROM t ORDER BY n DESC NULLS FIRST, k",
    "SELECT v FROM t ORDER BY v COLLATE \"C\" DESC",
    "SELECT n % 3, count(*) FROM t GROUP BY 1 HAVING count(*) > 5 ORDER BY 1",
    "SELECT k, row_number() OVER (ORDER BY k) FROM t",
    "SELECT k, sum(n) OVER (PARTITION BY n % 2) FROM t ORDER BY k",
    "SELECT a.k FROM t a JOIN t b ON a.n = b.n ORDER BY 1",
    "SELECT a.v FROM t a JOIN t b ON a.n = b.n WHERE a.k = K",
    "SELECT a.v, b.v FROM t a, t b WHERE a.k = K AND b.k = L",
    "SELECT a.v, o.id FROM t a JOIN orders o ON o.k = a.k WHERE a.k = K",
    "SELECT a.v, o.id FROM t a LEFT JOIN orders o ON o.k = a.k AND a.k = K ORDER BY 1, 2",
    "SELECT t.v FROM t FULL JOIN ref ON t.n = ref.code AND t.k = K ORDER BY 1",
    "SELECT ref.name FROM ref LEFT JOIN t ON t.n = ref.code AND t.k = K ORDER BY 1",
    "SELECT count(*) FROM ref WHERE EXISTS (SELECT 1 FROM t WHERE t.n = ref.code)",
    "SELECT count(*) FROM ref WHERE code IN (SELECT n FROM t WHERE k = K)",
    "SELECT v FROM t WHERE k = K AND n IN (SELECT n FROM t WHERE k = L)",
    "SELECT v FROM t WHERE k = (SELECT max(k) FROM t)",
    "WITH c AS (SELECT * FROM t) SELECT count(*) FROM c",
    "WITH c AS (SELECT * FROM t WHERE k = K) SELECT v FROM c",
    "WITH c AS (SELECT * FROM t) SELECT v FROM c WHERE k = K",
    "WITH t AS (SELECT 1 AS k, 'cte' AS v) SELECT v FROM t WHERE k = 1",
    "WITH RECURSIVE r AS (SELECT k, v FROM t WHERE k = K UNION ALL SELECT t.k, t.v FROM t JOIN r ON t.k = r.k + 1 WHERE t.k < 9) SELECT count(*) FROM r",
    "WITH d AS (DELETE FROM t WHERE k = K RETURNING v) SELECT v FROM d",
    "WITH d AS (DELETE FROM t RETURNING 1) SELECT count(*) FROM d",
    "SELECT v FROM t WHERE k IN (K, L) ORDER BY v",
    "SELECT n % 2, count(*) FROM t WHERE k IN (K, L) GROUP BY 1 ORDER BY 1",
    "SELECT count(*) FROM t WHERE k = ANY('{K,L}')",
    "SELECT count(*) FROM t WHERE k = ANY(ARRAY[K, L])",
    "SELECT v FROM t WHERE k IN (K)",
    "SELECT v FROM t WHERE k = ANY('{K}')",
    "SELECT count(*) FROM t WHERE k = K OR k = L",
    "SELECT count(*) FROM t WHERE k = K OR true",
    "SELECT count(*) FROM t WHERE NOT (k = K)",
    "SELECT count(*) FROM t WHERE (k = K) IS NOT TRUE",
    "SELECT count(*) FROM t WHERE k <> K",
    "SELECT count(*) FROM t WHERE k > K AND k < L",
    "SELECT count(*) FROM t WHERE k BETWEEN K AND K",
    "SELECT v FROM t WHERE k = K AND k = L",
    "SELECT v FROM t WHERE K = k",
    "SELECT v FROM t WHERE (k, n) = (K, K)",
    "SELECT v FROM t WHERE k IS NOT DISTINCT FROM K",
    "SELECT v FROM t WHERE k = 'K'",
    "SELECT v FROM t WHERE k = ' K '",
    "SELECT v FROM t WHERE k = K::int8",
    "SELECT v FROM t WHERE k = K::numeric",
    "SELECT v FROM t WHERE k = K.0",
    "SELECT v FROM t WHERE k::text = 'K'",
    "SELECT v FROM t WHERE k = NULL",
    "SELECT v FROM t WHERE k = K LIMIT 1 FOR UPDATE",
    "SELECT v FROM t AS x (k2, v, k) WHERE k = K ORDER BY 1",
    "SELECT v FROM (SELECT k AS n, v, n AS k FROM t) s WHERE k = K ORDER BY 1",
    "SELECT v FROM t TABLESAMPLE BERNOULLI (100) WHERE k = K",
    "SELECT v FROM ONLY t WHERE k = K",
    "SELECT v FROM public.t WHERE k = K",
    "TABLE t",
    "SELECT avg(amount) FROM orders",
    "SELECT avg(amount) FROM orders WHERE k = K",
    "SELECT var_samp(amount) FROM orders WHERE k = K AND id = 1",
    "SELECT var_samp(amount), stddev(amount) FROM orders",
    "SELECT v FROM w WHERE k = '123'",
    "SELECT v FROM vc WHERE k = '123'",
    "SELECT v FROM vc WHERE k = '0123'",
    "SELECT v FROM vc WHERE k = 123::text",
    "SELECT v FROM vc WHERE k = '123 '",
    "SELECT v FROM vc WHERE k = '123'::char(5)",
    "SELECT v FROM w WHERE k COLLATE \"C\" = '123'",
    "SELECT v FROM w WHERE lower(k) = '123'",
    "SELECT v FROM w WHERE k LIKE '123'",
    "SELECT v FROM small WHERE k = K",
    "SELECT v FROM small WHERE k = K::int8",
    "SELECT v FROM small WHERE k = 4294967296 + K",
    "BEGIN; DECLARE c CURSOR FOR SELECT k FROM t ORDER BY k; FETCH 7 FROM c; COMMIT",
    "BEGIN; DECLARE c CURSOR FOR SELECT v FROM t WHERE k = K; FETCH 7 FROM c; COMMIT",
    "SELECT v FROM t WHERE k = K; SELECT v FROM t WHERE k = L",
    "SELECT 1; SELECT v FROM t WHERE k = K",
    "SELECT v FROM t WHERE k = K; SELECT count(*) FROM t",
    "UPDATE t SET n = 5 WHERE k = K; UPDATE t SET n = 5 WHERE k = L",
    "UPDATE t SET n = CASE WHEN (k = 5) THEN 1 ELSE 0 END",
    "UPDATE t SET n = (k = 5)::int",
    "UPDATE t SET n = (k = 5)::int WHERE k = K",
    "UPDATE t SET n = 1 WHERE k = K OR k = L",
    "UPDATE t SET n = 1 WHERE k IN (K, L)",
    "UPDATE t SET n = (SELECT max(n) FROM t) WHERE k = K",
    "UPDATE t SET n = 1 FROM orders o WHERE o.k = t.k AND t.k = K",
    "UPDATE t SET n = o.id FROM orders o WHERE o.id = t.n AND t.k = K",
    "UPDATE t SET n = 77 WHERE k = K RETURNING k, n",
    "UPDATE t SET k = k",
    "UPDATE t SET k = L + 1000 WHERE k = K",
    "UPDATE t SET (n, k) = (1, 2) WHERE k = K",
    "DELETE FROM t WHERE n = 1",
    "DELETE FROM t USING orders o WHERE o.k = t.k AND t.k = K AND false",
    "INSERT INTO t (k, v) VALUES (100001, 'a'), (100002, 'b'), (100003, 'c'), (100004, 'd'), (100005, 'e')",
    "INSERT INTO t (k, v) SELECT i, 'x' FROM generate_series(200000, 200010) i",
    "INSERT INTO t (k, v) SELECT 300000, 'x'",
    "INSERT INTO t (k, v) SELECT k + 400000, v FROM t",
    "INSERT INTO t (k, v) VALUES ((SELECT max(k) + 1 FROM t), 'x')",
    "INSERT INTO t (k, v) VALUES (500000 + 1, 'x')",
    "INSERT INTO t (v) VALUES ('x')",
    "INSERT INTO t VALUES (600001, 'x', 1)",
    "INSERT INTO t (k, v) VALUES (DEFAULT, 'x')",
    "INSERT INTO t (k, v) VALUES (NULL, 'x')",
    "INSERT INTO t DEFAULT VALUES",
    "INSERT INTO t (k, v) VALUES (K, 'x') ON CONFLICT DO NOTHING",
    "INSERT INTO t (k, v) VALUES (K, 'x') ON CONFLICT (k) DO UPDATE SET v = EXCLUDED.v RETURNING k, v",
    "INSERT INTO t (k, v) VALUES (K, 'x') ON CONFLICT (k) DO UPDATE SET k = L + 2000",
    "INSERT INTO t (k, v) VALUES ('700001', 'x') RETURNING k",
    "INSERT INTO t (k, v) VALUES (700002.4, 'x') RETURNING k",
    "INSERT INTO vc (k, v) VALUES ('x7 ', 'x') RETURNING k",
    "INSERT INTO vc (k, v) VALUES (12345, 'x') RETURNING k",
    "MERGE INTO t USING (VALUES (K, 'm'), (L, 'm')) s(k, v) ON t.k = s.k WHEN MATCHED THEN UPDATE SET v = s.v",
    "MERGE INTO t USING ref ON t.n = ref.code AND t.k = K WHEN MATCHED THEN DELETE",
    "COPY t TO STDOUT",
    "COPY t TO STDOUT (FORMAT csv, HEADER)",
    "COPY (SELECT v FROM t WHERE k = K) TO STDOUT",
    "COPY (SELECT count(*) FROM t) TO STDOUT",
    "CREATE TABLE c AS SELECT * FROM t",
    "CREATE VIEW vt AS SELECT * FROM t",
    "SELECT * INTO c2 FROM t",
    "TRUNCATE t",
    "LOCK TABLE t",
    "EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) DELETE FROM t",
    "PREPARE p AS SELECT count(*) FROM t",
    "DO $$ BEGIN DELETE FROM t; END $$",
    "CALL clear_all()",
];

/// Those among [`DOUBTFUL`] that must be answered: refusing everything would be no feat.
const ANSWERED: &[&str] = &[
    "SELECT add_up(code) FROM ref",
    "SELECT name FROM names WHERE code = 2",
    "SELECT twice(21)",
    "SELECT v FROM t WHERE k = K AND twice(1) = 2",
    "SELECT nothing_of_the_kind()",
    "SELECT * FROM nothing_of_the_kind",
    "SELECT v FROM t WHERE K = k",
    "SELECT v FROM t WHERE k = 'K'",
    "SELECT v FROM t WHERE k = K::int8",
    "SELECT v FROM public.t WHERE k = K",
    "SELECT avg(amount) FROM orders WHERE k = K",
    "SELECT var_samp(amount) FROM orders WHERE k = K AND id = 1",
    "SELECT v FROM w WHERE k = '123'",
    "SELECT v FROM vc WHERE k = '123'",
    "SELECT v FROM small WHERE k = K",
    "SELECT 1; SELECT v FROM t WHERE k = K",
    "UPDATE t SET n = (k = 5)::int WHERE k = K",
    "UPDATE t SET n = 77 WHERE k = K RETURNING k, n",
    "INSERT INTO t (k, v) VALUES (K, 'x') ON CONFLICT DO NOTHING",
];

/// The tables' contents over all servers together, in order.
fn contents(servers: &mut [RawClient]) -> Vec<Vec<String>> {
    let tables = ["t", "orders", "small", "w", "vc"].map(|table| format!("SELECT '{table}', x::text FROM {table} x"));
    let sql = tables.join(" UNION ALL ");
    let mut all: Vec<_> = servers.iter_mut().flat_map(|server| server.rows(&sql).unwrap()).collect();
    all.sort();
    all
}

/// A reply with its rows in order, unless the statement says which order it wants.
fn normal(sql: &str, messages: &[Message]) -> String {
    let mut parts: Vec<String> = messages.iter().map(ToString::to_string).collect();
    if !sql.contains("ORDER BY") || sql.starts_with("WITH RECURSIVE") {
        parts.sort();
    }
    parts.join(" ")
}

/// How a statement is sent.
fn ask(client: &mut RawClient, sql: &str, extended: bool) -> Vec<Message> {
    if extended {
        client.parse("", sql, &[]);
        client.bind("", "", &[]);
        client.describe_portal("");
        client.execute("", 0);
        client.sync();
    } else {
        client.query(sql);
    }
    client.read_until_ready()
}

#[test]
fn right_or_refused() {
    let sharded = Sharded::start(3);
    let single = Cluster::start();
    single.sql(SCHEMA);
    let mut client = sharded.client();
    let mut load = Vec::new();
    for key in 1..=40 {
        load.push(format!("INSERT INTO t (k, v, n) VALUES ({key}, 'v{key}', {key})"));
        load.push(format!("INSERT INTO small (k, v) VALUES ({key}, 'v{key}')"));
        load.push(format!("INSERT INTO orders (id, k, amount) VALUES (1, {key}, {key}.5)"));
        load.push(format!("INSERT INTO orders (id, k, amount) VALUES (2, {key}, {})", key % 2 + 1));
    }
    for text in ["123", "0123", "abc"] {
        load.push(format!("INSERT INTO w (k, v) VALUES ('{text}', 'w {text}')"));
        load.push(format!("INSERT INTO vc (k, v) VALUES ('{text}', 'vc {text}')"));
    }
    let mut direct = single.client("postgres");
    for sql in &load {
        assert_eq!(client.run(sql), "C(INSERT 0 1) Z(I)", "{sql}");
        assert_eq!(direct.run(sql), "C(INSERT 0 1) Z(I)", "{sql}");
    }
    let mut all: Vec<RawClient> = sharded.shards.iter().map(|shard| shard.client("postgres")).collect();
    let mut only = [single.client("postgres")];
    assert_eq!(contents(&mut all), contents(&mut only));

    let (k, l) = (sharded.keys(1, 1)[0].to_string(), sharded.keys(2, 1)[0].to_string());
    let mut answered = BTreeSet::new();
    let mut wrong = Vec::new();
    for template in DOUBTFUL {
        let sql = fill(template, &k, &l);
        for extended in [false, true] {
            let ours = ask(&mut client, &sql, extended);
            if show(&ours).contains("E(0A000)") {
                let refusal = error(&ours);
                if !refusal.fields.contains_key(&'H') {
                    wrong.push(format!("{sql}: refused without a hint: {refusal}"));
                }
            } else {
                answered.insert(*template);
                let theirs = ask(&mut direct, &sql, extended);
                if normal(&sql, &ours) != normal(&sql, &theirs) {
                    wrong.push(format!(
                        "{sql} (extended: {extended})\n    ours:   {}\n    theirs: {}",
                        show(&ours),
                        show(&theirs)
                    ));
                }
            }
            if client.run("ROLLBACK; SELECT 1").ends_with("D(1) C(SELECT 1) Z(I)") {
                direct.run("ROLLBACK");
            } else {
                wrong.push(format!("{sql}: the session does not go on"));
                client = sharded.client();
            }
            if contents(&mut all) != contents(&mut only) {
                wrong.push(format!("{sql} (extended: {extended}): the tables differ now"));
                break;
            }
        }
    }
    for must in ANSWERED {
        if !answered.contains(must) {
            wrong.push(format!("{must}: refused, though its shard is plain"));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    sharded.assert_at_home("t", "hashint8extended");
    assert!(!sharded.weir.log_text().contains("a task failed"), "{}", sharded.weir.log_text());
}

/// Puts the keys in: `K` and `L` as words of their own.
fn fill(template: &str, k: &str, l: &str) -> String {
    let bytes: Vec<char> = template.chars().collect();
    let part = |c: Option<&char>| c.is_some_and(|c| c.is_alphanumeric() || *c == '_');
    let mut out = String::new();
    for (at, c) in bytes.iter().enumerate() {
        let alone = !part(at.checked_sub(1).and_then(|before| bytes.get(before))) && !part(bytes.get(at + 1));
        match c {
            'K' if alone => out += k,
            'L' if alone => out += l,
            other => out.push(*other),
        }
    }
    out
}

#[test]
fn refusals_leave_everything_as_it_was() {
    let sharded = Sharded::start(2);
    let mut client = sharded.client();
    let (a, b) = (sharded.keys(0, 2), sharded.keys(1, 2));
    for key in [a[0], b[0]] {
        client.run(&format!("INSERT INTO t (k, v, n) VALUES ({key}, 'old', 0)"));
    }
    for sql in [
        format!("INSERT INTO t (k, v) VALUES ({}, 'x'), ({}, 'x')", a[1], b[1]),
        "UPDATE t SET v = 'x'".to_owned(),
        "UPDATE t SET v = 'x' WHERE n = 0".to_owned(),
        "DELETE FROM t".to_owned(),
        format!("UPDATE t SET k = {} WHERE k = {}", b[1], a[0]),
        "COPY t FROM STDIN".to_owned(),
        "COPY t (k, v) FROM STDIN (FORMAT csv)".to_owned(),
        "COPY (SELECT count(*) FROM t) TO STDOUT".to_owned(),
        "TRUNCATE t".to_owned(),
        "SELECT v FROM t FOR UPDATE".to_owned(),
    ] {
        assert_refused(&mut client, &sql);
        assert_eq!(client.value(&format!("SELECT v FROM t WHERE k = {}", b[0])), "old");
        client.parse("", &sql, &[]);
        client.bind("", "", &[]);
        client.execute("", 0);
        client.sync();
        assert_eq!(show(&client.read_until_ready()), "E(0A000) Z(I)", "{sql}");
        assert_eq!(client.value(&format!("SELECT v FROM t WHERE k = {}", a[0])), "old");
    }
    // Rows of one shard go together.
    let sql = format!("INSERT INTO t (k, v) VALUES ({}, 'y'), ({}, 'y')", b[1], sharded.keys(1, 3)[2]);
    assert_eq!(client.run(&sql), "C(INSERT 0 2) Z(I)");
    assert_eq!(sharded.counts("t"), [1, 3]);
    // Keys by parameter that are no keys.
    client.parse("s", "SELECT v FROM t WHERE k = $1", &[20]);
    client.sync();
    client.read_until_ready();
    for (value, wanted) in [(Some("x"), "E(22P02) Z(I)"), (Some("99999999999999999999"), "E(22003) Z(I)")] {
        client.bind("", "s", &[value]);
        client.execute("", 0);
        client.sync();
        assert_eq!(show(&client.read_until_ready()), wanted, "{value:?}");
    }
    client.bind("", "s", &[None]);
    client.execute("", 0);
    client.sync();
    let reply = show(&client.read_until_ready());
    assert!(["E(0A000) Z(I)", "2 C(SELECT 0) Z(I)"].contains(&&*reply), "{reply}");
    client.bind_binary("", "s", &[Some(&[1, 2, 3])]);
    client.execute("", 0);
    client.sync();
    let reply = show(&client.read_until_ready());
    assert!(["E(22P03) Z(I)", "E(08P01) Z(I)"].contains(&&*reply), "{reply}");
    client.bind("", "s", &[Some(&b[0].to_string())]);
    client.execute("", 0);
    client.sync();
    assert_eq!(show(&client.read_until_ready()), "2 D(old) C(SELECT 1) Z(I)");
}

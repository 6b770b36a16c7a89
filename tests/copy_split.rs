//! The rows of COPY, split by their keys and joined again: what arrives on the shards is what one PostgreSQL reads from the same bytes,
//! and each row is where its key belongs. Tables of one server stand for the shards.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod common;

use common::cluster::Cluster;
use common::raw::RawClient;
use pgweir::shard::copy::{Joiner, Layout, Splitter, Target};
use pgweir::shard::map::KeyType;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const SHARDS: usize = 3;

/// The shard of a key by the server's own hash function.
fn shard_of(hash: &str) -> String {
    format!("(((({hash}(k, 8816678312871386365) & 16383) + 10467) & 16383) * {SHARDS} / 16384)")
}

fn owner(target: Target) -> Option<usize> {
    match target {
        Target::Slot(slot) => Some(usize::from(slot.0) * SHARDS / 16384),
        Target::All => None,
    }
}

/// COPY FROM STDIN of these bytes; the SQLSTATE if it fails.
fn copy_in(client: &mut RawClient, sql: &str, data: &[u8]) -> Result<(), String> {
    client.query(sql);
    client.read_until(b'G');
    client.copy_data(data);
    client.copy_done();
    let messages = client.read_until_ready();
    match messages.iter().find_map(|message| message.error()) {
        Some(error) => Err(error.code),
        None => Ok(()),
    }
}

/// The CopyData messages of COPY TO STDOUT.
fn copy_out(client: &mut RawClient, sql: &str) -> Vec<Vec<u8>> {
    client.query(sql);
    let messages = client.read_until_ready();
    assert!(messages.iter().any(|message| message.tag == b'H'), "{sql}: {messages:?}");
    messages.into_iter().filter(|message| message.tag == b'd').map(|message| message.body).collect()
}

/// What each shard gets; none if it is refused.
fn split(layout: &Layout, place: usize, key_type: KeyType, pieces: &[Vec<u8>]) -> Option<Vec<Vec<u8>>> {
    let mut splitter = Splitter::new(layout.clone(), place, key_type, true).unwrap();
    let mut shards = vec![Vec::new(); SHARDS];
    let mut sink = |target, bytes: &[u8]| match owner(target) {
        Some(shard) => shards[shard].extend_from_slice(bytes),
        None => shards.iter_mut().for_each(|shard| shard.extend_from_slice(bytes)),
    };
    for piece in pieces {
        splitter.push(piece, &mut sink).ok()?;
    }
    splitter.finish(&mut sink).ok()?;
    Some(shards)
}

fn layouts() -> Vec<(Layout, &'static str)> {
    let csv = |delimiter, quote, escape, null: &str, header| Layout::Csv {
        delimiter,
        quote,
        escape,
        null: null.into(),
        header,
    };
    vec![
        (Layout::text(), "FORMAT text"),
        (Layout::Text { delimiter: b'|', null: b"null".to_vec(), header: true }, "DELIMITER '|', NULL 'null', HEADER"),
        (Layout::csv(), "FORMAT csv"),
        (
            csv(b';', b'\'', b'\\', "\\N", true),
            "FORMAT csv, DELIMITER ';', QUOTE '''', ESCAPE '\\', NULL '\\N', HEADER",
        ),
        (Layout::Binary, "FORMAT binary"),
    ]
}

#[test]
fn rows_arrive_where_their_keys_belong_and_come_back() {
    let cluster = Cluster::start();
    let mut client = cluster.client("postgres");
    let nasty = r#"'a"b''c\d|e,f;g' || chr(9) || chr(10) || chr(13) || 'é😀\N.' || chr(8) || '""'"#;
    for (type_name, key_type, hash, key) in [
        ("text", KeyType::Text, "hashtextextended", format!("substr({nasty}, 1 + i % 29, (i / 29) % 7) || 'x'")),
        ("int8", KeyType::Integer { width: 8 }, "hashint8extended", "(i - 300) * 1234567890123".to_owned()),
        ("int2", KeyType::Integer { width: 2 }, "hashint2extended", "i - 300".to_owned()),
        ("uuid", KeyType::Uuid, "uuid_hash_extended", "md5(i::text)::uuid".to_owned()),
    ] {
        client.run("DROP TABLE IF EXISTS whole, joined, d0, d1, d2");
        let made = client.run(&format!(
            "CREATE TABLE whole AS SELECT CASE WHEN i % 5 > 0 THEN substr({nasty}, 1 + i % 27, i % 6) END AS v, ({key})::{type_name} AS k,
                 i AS n FROM generate_series(1, 600) i"
        ));
        assert!(!made.contains("E("), "{type_name}: {made}");
        for table in ["joined", "d0", "d1", "d2"] {
            client.run(&format!("CREATE TABLE {table} (LIKE whole)"));
        }
        for (layout, options) in layouts() {
            client.run("TRUNCATE joined, d0, d1, d2");
            let pieces = copy_out(&mut client, &format!("COPY whole (v, k, n) TO STDOUT ({options})"));
            let shards = split(&layout, 1, key_type, &pieces).unwrap();
            let mut joiner = Joiner::new(&layout, SHARDS);
            let mut joined = Vec::new();
            for (shard, data) in shards.iter().enumerate() {
                let from = format!("COPY d{shard} (v, k, n) FROM STDIN ({options})");
                copy_in(&mut client, &from, data).unwrap();
                let misplaced = format!("SELECT count(*) FROM d{shard} WHERE {} <> {shard}", shard_of(hash));
                assert_eq!(client.value(&misplaced), "0", "{type_name} {options}");
                for message in copy_out(&mut client, &format!("COPY d{shard} (v, k, n) TO STDOUT ({options})")) {
                    joined.extend_from_slice(joiner.pass(shard, &message).unwrap().unwrap_or_default());
                }
            }
            joined.extend_from_slice(joiner.end().unwrap_or_default());
            assert_eq!(joiner.rows(), 600);
            copy_in(&mut client, &format!("COPY joined (v, k, n) FROM STDIN ({options})"), &joined).unwrap();
            for table in ["joined", "(SELECT * FROM d0 UNION ALL SELECT * FROM d1 UNION ALL SELECT * FROM d2)"] {
                let differ = format!(
                    "SELECT count(*) FROM ((SELECT * FROM whole EXCEPT ALL SELECT * FROM {table} x)
                     UNION ALL (SELECT * FROM {table} y EXCEPT ALL SELECT * FROM whole)) z"
                );
                assert_eq!(client.value(&differ), "0", "{type_name} {options} {table}");
            }
        }
    }
}

/// Fields of all that has a meaning somewhere, mostly well-formed as a whole.
fn field(random: &mut SmallRng, csv: bool) -> String {
    const TEXT: &[&str] =
        &["a", "\\N", "\\t", "\\\\", "\\101", "\\x4a", "\\x", "\\7", "\\\n", "\\\t", "\\q", "\"", "1", "é", "\\.", "b"];
    const CSV: &[&str] =
        &["a", "\"\"", "\"b\n\"", "\"x,\"", "\"\"\"\"", "\\", "\\.", "'", "1", "é", "\"\\\"", "N", " c"];
    let parts = if csv { CSV } else { TEXT };
    let count = random.random_range(0..4);
    (0..count).map(|_| parts[random.random_range(0..parts.len())]).collect()
}

#[test]
fn any_data_are_read_as_the_server_reads_them() {
    let cluster = Cluster::start();
    let mut client = cluster.client("postgres");
    for table in ["whole", "d0", "d1", "d2"] {
        client.run(&format!("CREATE TABLE {table} (k text, v text)"));
    }
    let mut random = SmallRng::seed_from_u64(11);
    let mut taken = 0;
    for round in 0..250 {
        let csv = round % 2 == 1;
        let (layout, options, delimiter) =
            if csv { (Layout::csv(), "FORMAT csv", ',') } else { (Layout::text(), "FORMAT text", '\t') };
        let ending = ["\n", "\r\n", "\r"][round % 3];
        let mut data = String::new();
        for _ in 0..random.random_range(1..4) {
            data += &format!("{}{delimiter}{}{ending}", field(&mut random, csv), field(&mut random, csv));
        }
        match round % 11 {
            0 => data += &format!("\\.{ending}rubbish"),
            1 => drop(data.pop()),
            _ => {}
        }
        client.run("TRUNCATE whole, d0, d1, d2");
        let whole = copy_in(&mut client, &format!("COPY whole FROM STDIN ({options})"), data.as_bytes());
        let pieces: Vec<Vec<u8>> = data.as_bytes().chunks(1 + round % 5).map(<[u8]>::to_vec).collect();
        let Some(shards) = split(&layout, 0, KeyType::Text, &pieces) else { continue };
        let loaded: Vec<Result<(), String>> = shards
            .iter()
            .enumerate()
            .map(|(shard, data)| copy_in(&mut client, &format!("COPY d{shard} FROM STDIN ({options})"), data))
            .collect();
        assert_eq!(whole.is_ok(), loaded.iter().all(Result::is_ok), "{data:?} is {whole:?} and {loaded:?}");
        if whole.is_err() {
            continue;
        }
        taken += 1;
        let rows = client.rows("SELECT * FROM whole ORDER BY k COLLATE \"C\", v COLLATE \"C\"").unwrap();
        let of_shards = "SELECT 0 AS s, * FROM d0 UNION ALL SELECT 1, * FROM d1 UNION ALL SELECT 2, * FROM d2";
        let split = client
            .rows(&format!("SELECT k, v FROM ({of_shards}) d ORDER BY k COLLATE \"C\", v COLLATE \"C\""))
            .unwrap();
        assert_eq!(split, rows, "{data:?}");
        let misplaced = format!("SELECT count(*) FROM ({of_shards}) d WHERE s <> {}", shard_of("hashtextextended"));
        assert_eq!(client.value(&misplaced), "0", "{data:?}");
    }
    assert!(taken > 90, "only {taken} of 250 were taken");
}

//! The databases: unsharded ones, and shards of which the last of seven has no row.

use crate::common::cluster::Cluster;
use crate::common::eventually;
use crate::common::weir::Weir;
use crate::keys::KINDS;
use crate::pairs;

use std::time::Duration;

pub(crate) const COUNTS: [usize; 4] = [1, 2, 3, 7];
pub(crate) const KEYS: i64 = 150;
/// Of the hash of `PARTITION BY HASH`.
pub(crate) const SEED: &str = "8816678312871386365";

/// NULLs, ties, NaN, both infinities, -0, 1.0 beside 1.00, mixed case and accents; all by the key, so that every copy is the same.
const FILL: &str = "
    CREATE TABLE t (k int8 PRIMARY KEY, g int4, v text, c text COLLATE \"C\", w text COLLATE \"und-x-icu\", d numeric, n numeric(8, 2), x float8, b bool,
                    ts timestamptz, day date, u uuid, s int2);
    CREATE TABLE o (k int8 NOT NULL, id int4 NOT NULL, amount numeric, note text COLLATE \"C\");
    CREATE TABLE r (code int4 PRIMARY KEY, name text COLLATE \"C\");
    INSERT INTO r SELECT i, 'name ' || i FROM generate_series(0, 4) i;
    INSERT INTO t SELECT k, CASE WHEN k % 11 = 0 THEN NULL ELSE k % 6 END,
        (ARRAY['a', 'A', 'b', 'ä', 'Ä', 'z', '', NULL, 'ab', 'aB'])[1 + k % 10],
        (ARRAY['a', 'A', 'b', 'ä', 'Ä', 'z', '', NULL, 'ab', 'aB'])[1 + k % 10],
        (ARRAY['a', 'A', 'b', 'ä', 'Ä', 'z', '', NULL, 'ab', 'aB'])[1 + k % 10],
        (ARRAY['1.0', '1.00', '2', 'NaN', '-0.5', '10000.0001', NULL, '1e20'])[1 + k % 8]::numeric,
        (k % 13) / 4.0,
        (ARRAY['NaN', 'Infinity', '-Infinity', '-0', '0', '1.5', '2.25', NULL, '1.5'])[1 + k % 9]::float8,
        CASE WHEN k % 7 = 0 THEN NULL ELSE k % 2 = 0 END,
        '2024-01-01 00:00:00+00'::timestamptz + (k % 9) * interval '1 hour 1 microsecond',
        '2024-01-01'::date + (k % 5)::int, ('00000000-0000-0000-0000-0000000000' || lpad((k % 17)::text, 2, '0'))::uuid, (k % 4)::int2
      FROM generate_series(1, KEYS) k WHERE HOME;
    INSERT INTO o SELECT k, i, k + i / 10.0, 'note ' || (k + i) % 5 FROM generate_series(1, KEYS) k, generate_series(1, 2) i
      WHERE HOME AND k % 3 <> 0";

/// The tables of one kind of key alone, and what is the same on every shard; they are written as well.
const REFERENCE: &str = "CREATE TABLE ref (code int4 PRIMARY KEY, name text COLLATE \"C\", n int4 CHECK (n < 1000));";

/// Fills `ref`, everywhere alike.
const FILL_REFERENCE: &str =
    "INSERT INTO ref SELECT i, (ARRAY['a', 'A', 'ä', NULL])[1 + i % 4], i * 10 FROM generate_series(0, 5) i;";

/// Slots of one shard of several, both ends included.
pub(crate) fn slots(number: usize, count: usize) -> (usize, usize) {
    (16384 * number / count, 16384 * (number + 1) / count - 1)
}

/// The rows that live on this shard; of one alone, all: the last of seven has none.
fn home(number: usize, count: usize) -> String {
    let (first, last) = slots(number, count);
    format!("SLOT BETWEEN {first} AND {} ", last.min(16384 * 6 / 7 - 1))
}

fn fill_to_read(home: &str) -> String {
    let slot = format!("(((hashint8extended(k, {SEED}) & 16383) + 10467) & 16383)");
    FILL.replace("KEYS", &KEYS.to_string()).replace("HOME", &home.replace("SLOT", &slot))
}

/// Empties the tables with keys of every type, and fills them again; on the shard `number` of `count`.
pub(crate) fn refill(number: usize, count: usize) -> String {
    let names: Vec<String> = KINDS.iter().map(|kind| format!("a_{0}, b_{0}", kind.name)).collect();
    let rows: String = KINDS.iter().map(|kind| kind.fill(&home(number, count))).collect();
    let pairs = pairs::fill(&home(number, count));
    format!("TRUNCATE {}, {}, ref; {FILL_REFERENCE} {rows} {pairs}", names.join(", "), pairs::NAMES.join(", "))
}

/// Databases `one` and `oneN` without shards, `appN` over the N databases `sN_0` and so on.
pub(crate) fn start() -> (Cluster, Weir) {
    let cluster = Cluster::with_config(&[("max_connections", "300"), ("max_prepared_transactions", "60")]);
    let tables: String =
        KINDS.iter().map(|kind| kind.tables()).chain([REFERENCE.to_owned(), pairs::TABLES.to_owned()]).collect();
    let make = |name: &str, number: usize, count: usize| {
        cluster.sql(&format!("CREATE DATABASE {name}"));
        cluster.sql_in(name, &format!("{}; {tables} {}", fill_to_read(&home(number, count)), refill(number, count)));
    };
    make("one", 0, 1);
    let mut toml = String::new();
    for count in COUNTS {
        make(&format!("one{count}"), 0, 1);
        // The ways to commit on several shards, each.
        let commit = if count == 3 { "best_effort" } else { "two_phase" };
        toml += &format!(
            "[databases.app{count}]\ndefault_shard = \"s0\"\nprobe_user = \"postgres\"\ncross_shard_writes = \"{commit}\"\nunkeyed_writes = true\n"
        );
        for n in 0..count {
            let (name, (first, last)) = (format!("s{count}_{n}"), slots(n, count));
            make(&name, n, count);
            toml += &format!(
                "[[databases.app{count}.shards]]\nname = \"s{n}\"\nslots = [[{first}, {last}]]\nprimary = \"{}\"\n",
                cluster.url(&name)
            );
        }
        toml += &format!(
            "[databases.app{count}.tables]\nt = {{ key = \"k\", type = \"bigint\" }}\no = {{ key = \"k\", type = \"bigint\" }}\nr = {{ reference = true }}\nref = {{ reference = true }}\n"
        );
        toml += pairs::CONFIGURED;
        for kind in &KINDS {
            for table in ["a", "b"] {
                toml += &format!("{table}_{} = {{ key = \"k\", {} }}\n", kind.name, kind.configured);
            }
        }
    }
    let weir = Weir::builder().database(&toml).start();
    for count in COUNTS {
        for n in 0..count {
            eventually("the table of decisions, where there are any", Duration::from_secs(20), || {
                let there = cluster.sql_in(&format!("s{count}_{n}"), "SELECT to_regclass('pgweir.dtx') IS NOT NULL");
                (there[0][0] == "t" || matches!(count, 1 | 3)).then_some(())
            });
        }
    }
    (cluster, weir)
}

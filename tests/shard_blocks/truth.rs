//! What shards were asked before and is remembered, and when it counts no more.

use super::*;

/// Under any collation but that of bytes, `a1` comes before `B1`.
const MIXED_CASE: &str = "UPDATE t SET v = CASE WHEN k % 2 = 0 THEN 'a' ELSE 'B' END || k";
const SORTED: &str = "SELECT v FROM t ORDER BY v";

impl Sharded {
    fn in_mixed_case(&self, collation: &str) {
        for database in ["whole", "s0", "s1", "s2"] {
            self.cluster.sql_in(database, &format!("ALTER TABLE t ALTER v TYPE text COLLATE \"{collation}\""));
            self.cluster.sql_in(database, MIXED_CASE);
        }
        // The shards may have been compared in the middle of it.
        self.weir.admin("RELOAD");
        eventually("the shards are alike", SOON, || self.client().rows("SELECT max(k) FROM t").ok());
    }
}

/// What a transaction sees under a path of its own nobody else is told.
#[test]
fn a_block_that_sees_other_tables_teaches_nobody() {
    let sharded = Sharded::start("");
    sharded.in_mixed_case("und-x-icu");
    for n in 0..SHARDS {
        sharded.cluster.sql_in(
            &format!("s{n}"),
            "CREATE SCHEMA other; CREATE TABLE other.t (k int8 PRIMARY KEY, v text COLLATE \"C\", n int4);
             INSERT INTO other.t SELECT * FROM public.t",
        );
    }
    let theirs = sharded.cluster.client("whole").rows(SORTED).unwrap();
    let mut client = sharded.client();
    for sql in ["BEGIN", "/* pgweir: shard=s0 */ SET LOCAL search_path = other"] {
        assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
    }
    let told = simple(&mut client, SORTED);
    if let Some(refused) = told.iter().find_map(Message::error) {
        assert_eq!(refused.code, "0A000", "{}", refused.message);
    } else {
        let first = told.iter().find(|message| message.tag == b'D').unwrap().to_string();
        assert_eq!(first, "D(B1)", "by bytes");
    }
    client.run("ROLLBACK");
    assert_eq!(sharded.client().rows(SORTED).unwrap(), theirs);
    // What others are told is not for such a transaction either.
    for sql in ["BEGIN", "SELECT count(*) FROM t", "SET LOCAL statement_timeout = '50s'"] {
        assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
    }
    assert_eq!(client.rows(SORTED).unwrap(), theirs);
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
}

/// What has changed past the proxy is noticed by the order of the rows.
#[test]
fn an_order_that_has_changed_is_noticed() {
    let sharded = Sharded::start("");
    sharded.in_mixed_case("C");
    let mut client = sharded.client();
    let theirs = sharded.cluster.client("whole").rows(SORTED).unwrap();
    assert_eq!(client.rows(SORTED).unwrap(), theirs);
    // Nobody compares the shards in the middle of it.
    let mut owners: Vec<_> =
        ["whole", "s0", "s1", "s2"].iter().map(|database| sharded.cluster.client(database)).collect();
    for text in ["BEGIN; ALTER TABLE t ALTER v TYPE text COLLATE \"und-x-icu\"", "COMMIT"] {
        owners.iter_mut().for_each(|owner| assert!(!owner.run(text).contains("E("), "{text}"));
    }
    let theirs = owners[0].rows(SORTED).unwrap();
    match client.rows(SORTED) {
        Ok(rows) => assert_eq!(rows, theirs, "it was not remembered any more"),
        Err(error) => {
            assert_eq!(error.code, "40001", "{error:?}");
            assert!(
                error.message.contains("sorted its rows otherwise") && error.fields[&'H'].contains("again"),
                "{error:?}"
            );
        }
    }
    assert_eq!(client.rows(SORTED).unwrap(), theirs);
}

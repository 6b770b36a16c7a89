//! What becomes of the connections of shards, and of what was left on them, when a statement is not done.

use super::*;

#[test]
fn code_that_ran_before_a_copy_began_leaves_nothing_when_its_client_goes() {
    let sharded = Sharded::start(2, "cross_shard_writes = \"two_phase\"");
    sharded.cluster.sql_in(
        "s0",
        "CREATE FUNCTION locks() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_lock(7); RETURN NULL; END'; \
         CREATE TRIGGER locks BEFORE INSERT ON t FOR EACH STATEMENT EXECUTE FUNCTION locks()",
    );
    let locked = |kind: &str| {
        let sql = format!("SELECT count(*) FROM pg_locks WHERE {kind} AND NOT (locktype = 'advisory' AND objid <> 7)");
        sharded.cluster.value(&sql)
    };
    let mut holder = sharded.cluster.client("s1");
    assert_eq!(holder.run("BEGIN; LOCK TABLE t"), "C(BEGIN) C(LOCK TABLE) Z(T)");
    let mut client = sharded.client();
    client.query("COPY t (k) FROM STDIN");
    eventually("the second shard waits", SOON, || {
        (locked("locktype = 'advisory'") == "1" && locked("NOT granted") == "1").then_some(())
    });
    drop(client);
    eventually("the lock of the first is gone", SOON, || (locked("locktype = 'advisory'") == "0").then_some(()));
    holder.run("ROLLBACK");
}

#[test]
fn code_that_ran_for_explain_analyze_leaves_nothing_when_another_shard_fails() {
    let sharded = Sharded::start(2, "");
    for (shard, what) in [("s0", "PERFORM pg_advisory_lock(7)"), ("s1", "RAISE EXCEPTION 'no'")] {
        let code = format!("BEGIN {what}; RETURN true; END");
        sharded.cluster.sql_in(
            shard,
            &format!(
                "CREATE FUNCTION good(int4) RETURNS bool LANGUAGE plpgsql AS $${code}$$; \
                 CREATE DOMAIN good AS int4 CHECK (good(value)); INSERT INTO t (k, n) VALUES (1, 1)"
            ),
        );
    }
    let mut client = sharded.client();
    let (code, message, _) = error(&ask(&mut client, "EXPLAIN ANALYZE SELECT k FROM t WHERE n::good = 1"));
    assert_eq!((code.as_str(), message.as_str()), ("P0001", "no"));
    let sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7";
    eventually("the lock is gone", SOON, || (sharded.cluster.value(sql) == "0").then_some(()));
}

#[test]
fn what_is_refused_before_anything_is_asked_keeps_no_connection() {
    let sharded = Sharded::start(2, "cross_shard_writes = \"two_phase\"\npool_size = 1");
    let mut client = sharded.client();
    for (sql, max_rows, closes, wanted) in [
        ("EXPLAIN (FORMAT JSON) INSERT INTO t (k, n) VALUES (1, 1), (2, 2), (3, 3), (4, 4), (5, 5)", 1, false, "0A000"),
        ("EXPLAIN SELECT * FROM t", 1, false, "0A000"),
        ("COPY t (k) FROM STDIN", 0, true, "08P01"),
    ] {
        client.parse("", sql, &[]);
        client.bind("", "", &[]);
        client.execute("", max_rows);
        if closes {
            client.close_portal("");
        }
        client.sync();
        assert_eq!(error(&client.read_until_ready()).0, wanted, "{sql}");
        client.set_read_timeout(Duration::from_secs(4));
        assert_eq!(client.value("SELECT count(*) FROM t"), "0", "{sql}");
    }
}

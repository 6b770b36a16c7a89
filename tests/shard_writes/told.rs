//! What the client is told beside the answer.

use super::*;

#[test]
fn a_notice_of_all_shards_is_told_once() {
    let sharded = Sharded::start(3, "cross_shard_writes = \"two_phase\"");
    let mut client = sharded.client();
    let notices = |answer: &[Message]| show(answer).matches("N(").count();
    assert_eq!(notices(&ask(&mut client, "CREATE TABLE IF NOT EXISTS t (k int8)")), 1);
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(notices(&ask(&mut client, "ALTER TABLE t ADD COLUMN IF NOT EXISTS n int4")), 1);
    assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    // What one of them has to say is told as well.
    for n in 0..3 {
        let sql = format!(
            "CREATE FUNCTION says() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'all'; RAISE NOTICE 'all'; \
               RAISE NOTICE 'shard {n}'; RETURN NULL; END $$; \
             CREATE TRIGGER says AFTER UPDATE ON r FOR EACH STATEMENT EXECUTE FUNCTION says()"
        );
        sharded.cluster.sql_in(&format!("s{n}"), &sql);
    }
    let told = ask(&mut client, "UPDATE r SET name = 'x'");
    assert_eq!(notices(&told), 5, "{}", show(&told));
    let said: Vec<String> = told.iter().filter_map(Message::error).map(|notice| notice.message).collect();
    assert_eq!(said, ["all", "all", "shard 0", "shard 1", "shard 2"]);
}

#[test]
fn an_explain_gives_no_more_rows_than_were_asked_for() {
    let sharded = Sharded::start(2, "");
    let mut client = sharded.client();
    let mut rows = |sql: &str, most: u32| {
        client.parse("", sql, &[]);
        client.bind("", "", &[]);
        client.execute("", most);
        client.sync();
        let answer = client.read_until_ready();
        assert!(answer.iter().all(|message| message.error().is_none()), "{}", show(&answer));
        (show(&answer).matches("D(").count(), show(&answer).contains("One shard"))
    };
    assert_eq!(rows("EXPLAIN SELECT * FROM t WHERE k = 1", 1), (1, false));
    let (count, told) = rows("EXPLAIN SELECT * FROM t WHERE k = 1", 0);
    assert!(count > 2 && told);
    assert_eq!(rows("EXPLAIN (FORMAT JSON) SELECT * FROM t WHERE k = 1", 1).0, 1);
}

#[test]
fn a_write_before_the_table_of_decisions_is_there_says_so() {
    let sharded = Sharded::start(2, "cross_shard_writes = \"two_phase\"");
    let mut client = sharded.client();
    for n in 0..2 {
        sharded.cluster.sql_in(&format!("s{n}"), "DROP TABLE pgweir.dtx");
    }
    let (code, message, hint) = error(&ask(&mut client, &insert(20, "")));
    assert_eq!(code, "55000", "{message}");
    assert!(message.contains("pgweir.dtx") && hint.contains("SHOW SHARDS"), "{message} {hint}");
    assert_eq!(sharded.counts("t"), [0, 0]);
    sharded.nothing_prepared();
    sharded.weir.admin("RELOAD");
    eventually("the table is made anew", SOON, || client.run(&insert(20, "")).starts_with("C(INSERT").then_some(()));
}

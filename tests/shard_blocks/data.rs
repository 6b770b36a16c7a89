//! What a block of several shards reads and writes.

use super::*;

#[test]
fn reads_of_several_shards_see_what_the_block_wrote() {
    let sharded = Sharded::start("");
    let (a, b) = (sharded.key(1), sharded.key(2));
    let insert = format!("UPDATE t SET n = 900, v = 'mine' WHERE k = {a}");
    let other = format!("SELECT k, v FROM t WHERE k = {b}");
    let back = format!("UPDATE t SET n = 5, v = 'v{a}' WHERE k = {a}");
    sharded.same(&[
        "BEGIN",
        &insert,
        "SELECT count(*), sum(n), max(v COLLATE \"C\") FROM t",
        "SELECT k, n FROM t ORDER BY n DESC, k LIMIT 4",
        "SELECT n, count(*) FROM t GROUP BY n HAVING count(*) > 3 ORDER BY n",
        &other,
        "SELECT v FROM t WHERE n = 900",
        &insert,
        "COMMIT",
        "SELECT k, n FROM t ORDER BY n DESC, k LIMIT 2",
        "BEGIN",
        "SELECT count(*) FROM t",
        &back,
        "SELECT max(n) FROM t",
        &other,
        "ROLLBACK",
        "SELECT max(n) FROM t",
        "BEGIN",
        &other,
        &back,
        "SELECT n FROM t ORDER BY k",
        "COMMIT",
        "SELECT max(n) FROM t",
    ]);
    sharded.is_whole();
}

#[test]
fn a_begin_that_is_sent_with_the_first_statement() {
    let sharded = Sharded::start(TWO_PHASE);
    let (a, b) = (sharded.key(0), sharded.key(1));
    let mut answers = Vec::new();
    for mut client in [sharded.cluster.client("whole"), sharded.client()] {
        let mut told = Vec::new();
        for (round, first) in ["SELECT count(*) FROM t", "SELECT v FROM t WHERE k = 1"].into_iter().enumerate() {
            // As drivers do that keep BEGIN prepared.
            if round == 0 {
                client.parse("begin", "BEGIN", &[]);
            }
            client.bind("", "begin", &[]);
            client.execute("", 0);
            client.parse("", first, &[]);
            client.bind("", "", &[]);
            client.execute("", 0);
            client.sync();
            told.push(show(&client.read_until_ready()));
            for sql in [
                format!("UPDATE t SET n = n + 1 WHERE k = {a}"),
                format!("UPDATE t SET n = n - 1 WHERE k = {b}"),
                "SELECT sum(n) FROM t".to_owned(),
                "COMMIT".to_owned(),
            ] {
                told.push(show(&extended(&mut client, &sql)));
            }
        }
        // With a Sync of its own, and what fails behind it.
        told.push(show(&extended(&mut client, "BEGIN READ ONLY")));
        told.push(show(&extended(&mut client, "SHOW transaction_read_only")));
        told.push(show(&extended(&mut client, "ROLLBACK")));
        client.bind("", "begin", &[]);
        client.execute("", 0);
        client.parse("", "SELECT nothing FROM t", &[]);
        client.sync();
        told.push(show(&client.read_until_ready()));
        told.push(show(&extended(&mut client, "ROLLBACK")));
        answers.push(told);
    }
    assert_eq!(answers[1], answers[0]);
    sharded.is_whole();
}

#[test]
fn savepoints_and_settings_hold_on_every_shard() {
    let sharded = Sharded::start(TWO_PHASE);
    let (a, b, c) = (sharded.key(0), sharded.key(1), sharded.key(2));
    let set = |k: i64, n: i64| format!("UPDATE t SET n = {n} WHERE k = {k}");
    let wait = |k: i64| format!("SELECT current_setting('statement_timeout') FROM t WHERE k = {k}");
    sharded.same(&[
        "BEGIN",
        "SET LOCAL statement_timeout = '71s'",
        &wait(a),
        "SAVEPOINT one",
        &set(a, 100),
        &set(b, 101),
        "SAVEPOINT two",
        "SET LOCAL statement_timeout = '72s'",
        &wait(a),
        &wait(b),
        // The third comes later, and knows both savepoints and the setting.
        &set(c, 102),
        &wait(c),
        "SELECT sum(n) FROM t",
        "ROLLBACK TO two",
        &wait(a),
        &wait(b),
        &wait(c),
        "SELECT sum(n) FROM t",
        &set(c, 103),
        "RELEASE two",
        "SAVEPOINT three",
        // One shard alone fails, and all go on.
        &set(b, 5000),
        "SELECT 1",
        &set(a, 1),
        "ROLLBACK TO three",
        "SELECT sum(n) FROM t",
        &set(b, 104),
        "ROLLBACK TO nothing",
        "SELECT 1",
        "ROLLBACK TO three",
        &set(b, 105),
        "RELEASE two",
        "ROLLBACK TO one",
        "SELECT sum(n) FROM t",
        "ROLLBACK",
        "SELECT sum(n) FROM t",
        &wait(b),
        "BEGIN",
        &set(a, 110),
        &set(b, 111),
        "SAVEPOINT a",
        &set(c, 112),
        "ROLLBACK TO a",
        "COMMIT",
        "SELECT k, n FROM t WHERE n > 99 ORDER BY k",
        &set(a, 1),
        &set(b, 1),
        // What has failed before another shard takes part is not told to it.
        "BEGIN",
        &set(a, 2),
        "SAVEPOINT x",
        "SET LOCAL statement_timeout = 'nonsense'",
        "RELEASE x",
        "ROLLBACK TO x",
        &set(b, 2),
        &wait(b),
        "RELEASE x",
        "ROLLBACK",
    ]);
    sharded.is_whole();
}

#[test]
fn one_shard_is_written_unless_several_may_be() {
    let sharded = Sharded::start("");
    let (a, b) = (sharded.key(0), sharded.key(2));
    let mut client = sharded.client();
    let set = |k: i64| format!("UPDATE t SET n = 700 WHERE k = {k}");
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(client.run(&set(a)), "C(UPDATE 1) Z(T)");
    let refused = simple(&mut client, &set(b));
    let (code, message, hint) = error(&refused);
    assert_eq!(code, "0A000", "{message}");
    assert!(message.contains("written on shard \"s0\"") && hint.contains("two_phase"), "{message} {hint}");
    assert!(client.run(&format!("SELECT k FROM t WHERE k = {a}")).starts_with("E(25P02)"));
    assert_eq!(client.run("COMMIT"), "C(ROLLBACK) Z(I)");
    // Also on a shard that has been read last.
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(client.run(&set(a)), "C(UPDATE 1) Z(T)");
    assert!(client.run(&format!("SELECT n FROM t WHERE k = {b}")).ends_with("Z(T)"));
    assert!(error(&simple(&mut client, &set(b))).1.contains("written on shard \"s0\""));
    assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    // It read on the other before.
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    assert!(client.run(&format!("SELECT n FROM t WHERE k = {a}")).ends_with("Z(T)"));
    assert_eq!(client.run(&set(b)), "C(UPDATE 1) Z(T)");
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    // In the middle of an exchange nobody else has written either.
    for sql in ["BEGIN", "SELECT count(*) FROM t"] {
        assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
    }
    for (sql, ends) in [(format!("SELECT k FROM t WHERE k = {b}"), false), (set(b), true)] {
        client.parse("", &sql, &[]);
        client.bind("", "", &[]);
        client.execute("", 0);
        if ends { client.sync() } else { client.flush() }
    }
    let told = show(&client.read_until_ready());
    assert!(told.ends_with("C(UPDATE 1) Z(T)"), "{told}");
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(client.run(&format!("UPDATE t SET n = {} WHERE k = {b}", b % 7)), "C(UPDATE 1) Z(I)");
    sharded.is_whole();
}

#[test]
fn several_shards_commit_together_or_not_at_all() {
    for settings in [TWO_PHASE, "cross_shard_writes = \"best_effort\"\nunkeyed_writes = true"] {
        let sharded = Sharded::start(settings);
        let (a, b, c) = (sharded.key(0), sharded.key(1), sharded.key(2));
        let set = |k: i64, n: &str| format!("UPDATE t SET n = {n} WHERE k = {k} RETURNING n");
        sharded.same(&[
            "BEGIN",
            &set(a, "n + 10"),
            &set(b, "n - 10"),
            "SELECT sum(n) FROM t",
            &set(c, "n"),
            "COMMIT",
            "SELECT k, n FROM t ORDER BY k",
            "BEGIN",
            "UPDATE t SET v = v || '!'",
            "INSERT INTO t (k, v, n) VALUES (61, 'x', 1), (62, 'x', 2), (63, 'x', 3), (64, 'x', 4) RETURNING k, n",
            "SELECT count(*) FROM t WHERE v LIKE '%!' OR v = 'x'",
            "DELETE FROM t WHERE n = 3",
            "INSERT INTO r (code, name) VALUES (1, 'one')",
            "SELECT name, count(*) FROM r JOIN t ON t.n = r.code GROUP BY name",
            "ROLLBACK",
            "SELECT count(*) FROM t",
            "BEGIN",
            &set(a, "1"),
            "INSERT INTO t (k, v, n) VALUES (61, 'x', 1), (62, 'x', 2000), (63, 'x', 3), (64, 'x', 4)",
            &set(a, "2"),
            "COMMIT",
            "SELECT k, n FROM t ORDER BY k",
            "BEGIN",
            "SELECT count(*) FROM t",
            "SELECT 1 / (k - 17) FROM t",
            "SELECT 1",
            "ROLLBACK",
            "SELECT count(*) FROM t",
        ]);
        sharded.is_whole();
        for n in 0..SHARDS {
            assert_eq!(sharded.on(n, "SELECT count(*) FROM r"), "0");
        }
    }
}

#[test]
fn what_shards_have_not_in_common_is_refused() {
    let sharded = Sharded::start(TWO_PHASE);
    (0..SHARDS).for_each(|n| drop(sharded.cluster.sql_in(&format!("s{n}"), "CREATE SEQUENCE numbers")));
    let (a, b) = (sharded.key(0), sharded.key(1));
    let of = |k: i64| format!("SELECT n FROM t WHERE k = {k}");
    let mut client = sharded.client();
    // To prepare a question is not to ask it.
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(client.value("SELECT count(*) FROM t"), "60");
    client.parse("asks", "SELECT currval('numbers')", &[]);
    client.describe_statement("asks");
    client.sync();
    let told = show(&client.read_until_ready());
    assert!(told.starts_with("1 t") && told.ends_with("Z(T)"), "{told}");
    assert_eq!(client.value("SELECT count(*) FROM t"), "60");
    client.bind("", "asks", &[]);
    client.execute("", 0);
    client.sync();
    let (code, message, _) = error(&client.read_until_ready());
    assert!(code == "0A000" && message.contains("each has sequences"), "{code} {message}");
    assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    let mut refuses = |before: &[&str], sql: &str, code: &str, part: &str| {
        for sql in before {
            assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
        }
        let told = simple(&mut client, sql);
        let (is, message, hint) = error(&told);
        assert!(is == code && message.contains(part) && !hint.is_empty(), "{sql}: {is} {message} ({hint})");
        assert!(show(&told).ends_with("Z(E)"), "{}", show(&told));
        assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    };
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let begin = format!("BEGIN ISOLATION LEVEL {level}");
        refuses(&[&begin, &of(a)], &of(b), "0A000", "no snapshot in common");
        refuses(&[&begin], "SELECT count(*) FROM t", "0A000", "no snapshot in common");
        refuses(&["BEGIN", &format!("SET TRANSACTION ISOLATION LEVEL {level}"), &of(a)], &of(b), "0A000", "snapshot");
    }
    refuses(&["BEGIN", "SELECT count(*) FROM t"], "SET work_mem = '1MB'", "0A000", "sent to all");
    refuses(&["BEGIN", "SELECT count(*) FROM t"], "SAVEPOINT a; SELECT 1", "0A000", "sent to all");
    refuses(&["BEGIN", "SELECT count(*) FROM t"], "COMMIT AND CHAIN", "0A000", "sent to all");
    refuses(&["BEGIN", "SELECT count(*) FROM t"], "EXPLAIN SELECT count(*) FROM t", "0A000", "EXPLAIN");
    refuses(
        &["BEGIN", "SELECT count(*) FROM t", "SELECT nextval('numbers')"],
        "SELECT currval('numbers')",
        "0A000",
        "each has sequences",
    );
    refuses(&["BEGIN", "SELECT count(*) FROM t"], "VACUUM t", "25001", "inside a transaction block");
    // Alone, one shard can be whatever PostgreSQL is.
    assert_eq!(client.run("BEGIN ISOLATION LEVEL SERIALIZABLE"), "C(BEGIN) Z(T)");
    assert!(client.run(&of(a)).ends_with("Z(T)"));
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    sharded.is_whole();
}

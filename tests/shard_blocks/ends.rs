//! How a block of several shards ends.

use super::*;

#[test]
fn a_block_ends_with_its_client_or_a_shard() {
    let sharded = Sharded::start(TWO_PHASE);
    let set = |k: i64| format!("UPDATE t SET n = 800 WHERE k = {k}");
    for leaves in [true, false] {
        let mut client = sharded.client();
        assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
        for shard in 0..SHARDS {
            assert_eq!(client.run(&set(sharded.key(shard))), "C(UPDATE 1) Z(T)");
        }
        assert!(client.run("SELECT count(*) FROM t WHERE n = 800").contains("D(3)"));
        if leaves {
            drop(client);
        } else {
            // One of them dies, and with it the transaction.
            let ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                WHERE datname = 's1' AND state LIKE 'idle in transaction%'";
            assert_eq!(sharded.cluster.value(ended), "t");
            let told = simple(&mut client, "SELECT count(*) FROM t");
            assert!(show(&told).ends_with("Z(E)"), "{}", show(&told));
            assert_eq!(client.run("COMMIT"), "C(ROLLBACK) Z(I)");
            assert!(client.run("SELECT count(*) FROM t").ends_with("C(SELECT 1) Z(I)"));
        }
        sharded.is_whole();
    }
}

/// What PostgreSQL does in a failed block would be done on the shard that failed, and not on the others.
#[test]
fn nothing_goes_back_on_one_shard_alone() {
    let sharded = Sharded::start(TWO_PHASE);
    let (a, b, c) = (sharded.key(0), sharded.key(1), sharded.key(2));
    let set = |k: i64, n: i64| format!("UPDATE t SET n = {n} WHERE k = {k}");
    let fails = |client: &mut RawClient| {
        for sql in ["BEGIN", "SAVEPOINT p", &set(a, 500), &set(c, 501)] {
            assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
        }
        assert!(client.run(&set(b, 5000)).ends_with("Z(E)"));
    };
    let aborted = |answer: String| assert!(answer.starts_with("E(25P02)") && answer.ends_with("Z(E)"), "{answer}");
    for text in
        ["ROLLBACK AND CHAIN", "COMMIT AND CHAIN", "ROLLBACK; BEGIN", "ROLLBACK TO p; SELECT 1", "SELECT 1; ROLLBACK"]
    {
        let mut client = sharded.client();
        fails(&mut client);
        aborted(client.run(text));
        assert_eq!(client.run("ROLLBACK TO p"), "C(ROLLBACK) Z(T)", "{text}");
        assert_eq!(client.value("SELECT count(*) FROM t WHERE n > 499"), "0", "{text}");
        assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)", "{text}");
        sharded.is_whole();
    }
    // In a pipeline.
    let mut client = sharded.client();
    fails(&mut client);
    for sql in ["ROLLBACK TO p", "RELEASE p"] {
        client.parse("", sql, &[]);
        client.bind("", "", &[]);
        client.execute("", 0);
    }
    client.sync();
    aborted(show(&client.read_until_ready()));
    assert_eq!(client.run("COMMIT"), "C(ROLLBACK) Z(I)");
    sharded.is_whole();
}

/// Drivers prepare, with a Sync of its own, what they run later; and close what they have prepared before in front of it.
#[test]
fn to_prepare_the_end_does_not_end_it() {
    let sharded = Sharded::start(TWO_PHASE);
    let (a, b) = (sharded.key(0), sharded.key(1));
    let mut answers = Vec::new();
    for mut client in [sharded.cluster.client("whole"), sharded.client()] {
        let mut told = Vec::new();
        for (end, fails) in [("COMMIT", 0), ("ROLLBACK", 0), ("ROLLBACK", 1), ("COMMIT", 2), ("ROLLBACK", 2)] {
            for sql in ["BEGIN", &format!("UPDATE t SET n = n + 1 WHERE k = {a}")] {
                told.push(show(&simple(&mut client, sql)));
            }
            told.push(show(&simple(&mut client, &format!("UPDATE t SET n = n - 1 WHERE k = {b}"))));
            match fails {
                0 => {}
                // On one shard, and on several.
                1 => drop(simple(&mut client, &format!("UPDATE t SET n = 5000 WHERE k = {b}"))),
                _ => drop(simple(&mut client, "SELECT 1 / (k - 17) FROM t")),
            }
            client.parse("end", end, &[]);
            client.describe_statement("end");
            client.sync();
            told.push(show(&client.read_until_ready()));
            if fails == 0 {
                told.push(show(&simple(&mut client, "SELECT sum(n) FROM t")));
            }
            client.close_statement("old");
            client.bind("", "end", &[]);
            client.execute("", 0);
            client.close_portal("");
            client.sync();
            told.push(show(&client.read_until_ready()));
            client.close_statement("end");
            client.sync();
            told.push(show(&client.read_until_ready()));
        }
        answers.push(told);
    }
    assert_eq!(answers[1], answers[0]);
    sharded.is_whole();
}

/// The client of a block may rest while its shard gets another primary: what it has written is lost, and it is not told otherwise.
#[test]
fn a_commit_on_a_primary_that_was_replaced_is_refused() {
    let sharded = Sharded::with_replica(TWO_PHASE, |cluster| Some(cluster.replica()));
    let (a, b) = (sharded.key(0), sharded.key(1));
    let mut client = sharded.client();
    for sql in ["BEGIN", &format!("UPDATE t SET n = 900 WHERE k = {a}"), &format!("SELECT n FROM t WHERE k = {b}")] {
        assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
    }
    // So that the relay holds none of them.
    assert!(client.run("SELECT count(*) FROM t").ends_with("Z(T)"));
    sharded.replica.as_ref().unwrap().promote();
    let (port, name) = (sharded.cluster.port().to_string(), "s0");
    eventually("the old primary is fenced", SOON, || {
        let rows = sharded.weir.admin_table("SHOW REPLICAS");
        let fenced = |row: &&std::collections::BTreeMap<String, String>| {
            row["port"] == port && row.values().any(|value| value == name) && row["state"] == "fenced"
        };
        rows.iter().find(fenced).map(drop)
    });
    let told = simple(&mut client, "COMMIT");
    let (code, message, hint) = error(&told);
    assert!(code == "57P01" && message.contains("primary of shard \"s0\"") && !hint.is_empty(), "{code} {message}");
    assert!(show(&told).ends_with("Z(I)"), "{}", show(&told));
    assert_ne!(sharded.on(0, &format!("SELECT n FROM t WHERE k = {a}")), "900");
}

/// What is written is seen as soon as it is committed, not as soon as it was written.
#[test]
fn own_writes_are_seen_after_commit() {
    let settings = format!("{TWO_PHASE}\nconsistency = \"session\"");
    let sharded = Sharded::with_replica(&settings, |cluster| Some(cluster.replica()));
    let (a, b) = (sharded.key(0), sharded.key(1));
    let replica = sharded.replica.as_ref().unwrap();
    let mut client = sharded.client();
    for sql in ["BEGIN", "UPDATE t SET n = 77"] {
        assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
    }
    // The replica has all that was there when the statement was done.
    std::thread::sleep(Duration::from_secs(2));
    sharded.cluster.wait_replayed(replica);
    std::thread::sleep(Duration::from_millis(500));
    replica.sql("SELECT pg_wal_replay_pause()");
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    for k in [a, b] {
        assert_eq!(client.value(&format!("SELECT n FROM t WHERE k = {k}")), "77");
    }
    replica.sql("SELECT pg_wal_replay_resume()");
}

/// The block goes on with the shards that it has, and the next goes by the new map.
#[test]
fn a_reload_in_the_middle_of_a_block() {
    let mut sharded = Sharded::start(TWO_PHASE);
    let keys: Vec<i64> = (0..SHARDS).map(|n| sharded.key(n)).collect();
    let set = |k: i64, n: i64| format!("UPDATE t SET n = {n} WHERE k = {k}");
    let mut client = sharded.client();
    for sql in ["BEGIN", &set(keys[0], 600), &set(keys[1], 601), "SELECT count(*) FROM t"] {
        assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
    }
    let builder = configured(TWO_PHASE, [2, 0, 1], &sharded.cluster, None);
    sharded.weir.reconfigure(|_| builder);
    sharded.weir.admin("RELOAD");
    for (n, k) in keys.iter().enumerate() {
        assert_eq!(client.run(&set(*k, 700 + i64::try_from(n).unwrap())), "C(UPDATE 1) Z(T)", "shard {n}");
    }
    assert_eq!(client.value("SELECT count(*) FROM t WHERE n > 699"), "3");
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    for (n, k) in keys.iter().enumerate() {
        assert_eq!(sharded.on(n, &format!("SELECT n FROM t WHERE k = {k}")), (700 + n).to_string());
        assert_eq!(client.run(&set(*k, k % 7)), "C(UPDATE 1) Z(I)");
    }
    sharded.is_whole();
}

/// What PostgreSQL keeps over ROLLBACK its client is not to believe in when it is gone.
#[test]
fn state_that_outlives_a_rollback_is_not_lost_in_silence() {
    let sharded = Sharded::start(TWO_PHASE);
    for n in 0..SHARDS {
        let lock = "CREATE FUNCTION locks() RETURNS void LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_lock(7); END'";
        sharded.cluster.sql_in(&format!("s{n}"), lock);
    }
    let mut client = sharded.client();
    for end in ["ROLLBACK", "COMMIT"] {
        for sql in ["BEGIN", "SELECT count(*) FROM t", "/* pgweir: shard=s0 */ SELECT locks()"] {
            assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
        }
        let told = simple(&mut client, end);
        let (code, message, hint) = error(&told);
        assert!(code == "0A000" && message.contains("rolled back") && !hint.is_empty(), "{end}: {code} {message}");
        assert!(show(&told).ends_with("Z(I)"), "{}", show(&told));
        eventually("the lock is gone", SOON, || {
            let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7";
            (sharded.cluster.value(locks) == "0").then_some(())
        });
        assert_eq!(client.value("SELECT count(*) FROM t"), "60");
    }
    // Nor when the block has failed before its end.
    for end in ["ROLLBACK", "COMMIT"] {
        for sql in ["BEGIN", "SELECT count(*) FROM t", "/* pgweir: shard=s0 */ SELECT locks()"] {
            assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
        }
        assert!(client.run("SELECT 1 / (k - 17) FROM t").ends_with("Z(E)"));
        let told = simple(&mut client, end);
        let (code, message, _) = error(&told);
        assert!(code == "0A000" && message.contains("rolled back"), "{end}: {code} {message}");
        assert!(show(&told).ends_with("Z(I)"), "{}", show(&told));
        assert_eq!(client.value("SELECT count(*) FROM t"), "60");
    }
    sharded.is_whole();
}

/// What has written on several shards cannot say that it writes nothing: two phases write what was decided.
#[test]
fn what_has_written_on_several_is_not_made_read_only() {
    let sharded = Sharded::start(TWO_PHASE);
    let (a, b) = (sharded.key(0), sharded.key(1));
    let set = |k: i64| format!("UPDATE t SET n = 300 WHERE k = {k}");
    for sets in ["SET TRANSACTION READ ONLY", "SELECT set_config('transaction_read_only', 'on', true)"] {
        let mut client = sharded.client();
        for sql in ["BEGIN", &set(a), &set(b), sets] {
            assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
        }
        let told = simple(&mut client, "COMMIT");
        let (code, message, hint) = error(&told);
        assert!(code == "0A000" && message.contains("READ ONLY") && !hint.is_empty(), "{code} {message}");
        assert!(show(&told).ends_with("Z(I)"), "{}", show(&told));
        sharded.is_whole();
        // With one writer it is as ever, and what is taken back was not said.
        for sql in
            ["BEGIN", &format!("UPDATE t SET n = n WHERE k = {a}"), &format!("SELECT n FROM t WHERE k = {b}"), sets]
        {
            assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
        }
        assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
        for sql in [
            "BEGIN",
            &format!("UPDATE t SET n = n WHERE k = {a}"),
            &format!("UPDATE t SET n = n WHERE k = {b}"),
            "SAVEPOINT x",
            sets,
            "ROLLBACK TO x",
        ] {
            assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
        }
        assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    }
    sharded.is_whole();
}

/// What asks nothing is answered in a failed block as well, and a name that stands for nothing is no more than that.
#[test]
fn what_asks_nothing_is_answered_whatever_has_failed() {
    let sharded = Sharded::start(TWO_PHASE);
    let (a, b) = (sharded.key(0), sharded.key(1));
    let mut answers = Vec::new();
    for mut client in [sharded.cluster.client("whole"), sharded.client()] {
        let mut all = Vec::new();
        for sql in [
            "BEGIN",
            "SAVEPOINT x",
            &format!("SELECT n FROM t WHERE k = {a}"),
            &format!("SELECT n FROM t WHERE k = {b}"),
        ] {
            all.push(told(&simple(&mut client, sql)));
        }
        client.bind("", "nothing", &[]);
        client.execute("", 0);
        client.sync();
        all.push(told(&client.read_until_ready()));
        all.push(told(&simple(&mut client, "ROLLBACK TO x")));
        all.push(told(&simple(&mut client, "SELECT 1 / (k - 17) FROM t")));
        for sql in ["", ";", "-- nothing"] {
            all.push(simple(&mut client, sql).iter().map(ToString::to_string).collect());
        }
        all.push(told(&simple(&mut client, "SELECT 1")));
        all.push(told(&simple(&mut client, "ROLLBACK")));
        answers.push(all);
    }
    assert_eq!(answers[1], answers[0]);
    sharded.is_whole();
}

/// Sync and Close ask for nothing that could fail, and have one answer each, whatever has become of the block.
#[test]
fn what_asks_for_nothing_is_answered_once() {
    let sharded = Sharded::start(TWO_PHASE);
    let [a, b, c] = [0, 1, 2].map(|shard| sharded.key(shard));
    let read = |client: &mut RawClient, syncs: usize| {
        (0..syncs).map(|_| show(&client.read_until_ready())).collect::<Vec<_>>().join(" | ")
    };
    let idles = |client: &mut RawClient, told: &mut Vec<String>| {
        client.sync();
        told.push(read(client, 1));
        for _ in 0..3 {
            client.sync();
        }
        told.push(read(client, 3));
        client.flush();
        client.sync();
        told.push(read(client, 1));
        client.close_statement("nothing");
        client.flush();
        client.close_statement("");
        client.sync();
        client.close_portal("nothing");
        client.sync();
        client.flush();
        client.close_portal("");
        client.close_statement("nothing");
        client.sync();
        client.sync();
        told.push(read(client, 4));
    };
    let in_parts = |client: &mut RawClient, sql: &str| {
        client.parse("", sql, &[]);
        client.bind("", "", &[]);
        client.describe_portal("");
        for most in [2, 2, 0] {
            client.execute("", most);
        }
        client.sync();
        told(&client.read_until_ready()).join(" ")
    };
    // On the shard where the block began, on another, on none, and on several.
    let failures = [
        "SELECT FROM FROM t".to_owned(),
        format!("UPDATE t SET (n, v) = (1) WHERE k = {a}"),
        format!("UPDATE t SET (n, v) = (1) WHERE k = {b} RETURNING k"),
        format!("INSERT INTO t VALUES ({c}, 'v') RETURNING k, n"),
        format!("SELECT 1 / 0 FROM t WHERE k = {c}"),
        "SELECT nothing".to_owned(),
        "SELECT 1 / (n - n) FROM t".to_owned(),
    ];
    let mut answers = Vec::new();
    for mut client in [sharded.cluster.client("whole"), sharded.client()] {
        let mut told_all = Vec::new();
        for (number, fails) in failures.iter().enumerate() {
            let mut all = vec![fails.clone()];
            let set = format!("UPDATE t SET n = n WHERE k IN ({a}, {b}, {c})");
            for sql in ["BEGIN", &set, "SAVEPOINT s", &format!("SELECT n FROM t WHERE k = {b}")] {
                all.push(told(&simple(&mut client, sql)).join(" "));
                idles(&mut client, &mut all);
            }
            // Several shards give no rows in parts behind one another, and have all rolled back.
            let of_one = number + 1 < failures.len();
            all.push(if of_one { in_parts(&mut client, fails) } else { told(&simple(&mut client, fails)).join(" ") });
            idles(&mut client, &mut all);
            if of_one {
                all.push(told(&simple(&mut client, "ROLLBACK TO s")).join(" "));
                idles(&mut client, &mut all);
                all.push(told(&simple(&mut client, &format!("SELECT v FROM t WHERE k = {c}"))).join(" "));
                idles(&mut client, &mut all);
                all.push(told(&simple(&mut client, "SELECT count(*) FROM t")).join(" "));
            }
            idles(&mut client, &mut all);
            all.push(told(&simple(&mut client, "ROLLBACK")).join(" "));
            idles(&mut client, &mut all);
            told_all.push(all);
        }
        answers.push(told_all);
    }
    let (ours, theirs) = (answers.pop().unwrap(), answers.pop().unwrap());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs);
    }
    sharded.is_whole();
}

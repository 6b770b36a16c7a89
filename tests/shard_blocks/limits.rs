//! How long a block of several shards may take, and what is counted of it.

use pgweir::clock;

use super::*;

fn limited(settings: &str, general: &str) -> Sharded {
    let mut sharded = Sharded::start(settings);
    let builder = configured(settings, [0, 1, 2], &sharded.cluster, None).general(general);
    sharded.weir.reconfigure(|_| builder);
    sharded.weir.admin("RELOAD");
    sharded
}

/// Rests and statements of all kinds are the transaction's time, and a statement's time is its own.
#[test]
fn a_block_is_as_long_as_it_has_been_open() {
    let sharded = limited("", "transaction_timeout = \"5s\"\nquery_timeout = \"2s\"");
    let (a, b) = (sharded.key(0), sharded.key(1));
    let one = |k: i64| format!("SELECT n FROM t WHERE k = {k}");
    for asks in [true, false] {
        let mut client = sharded.client();
        let began = clock::now();
        for sql in ["BEGIN", &one(a), &one(b), "SELECT count(*) FROM t"] {
            assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
        }
        let mut round = 0;
        while asks && began.elapsed() < Duration::from_millis(3500) {
            // Of one shard, of another, and of all.
            let sql = [one(a), one(b), "SELECT count(*) FROM t".to_owned()][round % 3].clone();
            assert!(client.run(&sql).ends_with("Z(T)"), "after {:?}: {sql}", began.elapsed());
            std::thread::sleep(Duration::from_millis(150));
            round += 1;
        }
        // It comes while the client rests.
        let told = show(&client.read_to_end());
        assert!(told.contains("25P04"), "{told}");
        assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
        sharded.nothing_open();
    }
    // A statement of all shards is not longer than the rest of the transaction.
    let (mut client, mut other) = (sharded.client(), sharded.cluster.client("s2"));
    for sql in ["BEGIN", "LOCK TABLE t"] {
        assert!(other.run(sql).ends_with("Z(T)"), "{sql}");
    }
    for sql in ["BEGIN", &one(a), &one(b)] {
        assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
    }
    std::thread::sleep(Duration::from_millis(4000));
    client.query("SELECT count(*) FROM t");
    let told = show(&client.read_to_end());
    assert!(told.contains("25P04"), "{told}");
    assert_eq!(other.run("COMMIT"), "C(COMMIT) Z(I)");
    sharded.nothing_open();
    sharded.is_whole();
}

/// What is told to all shards may take its time, and its client may change its mind.
#[test]
fn a_slow_text_for_all_shards_is_not_its_servers_fault() {
    let sharded = Sharded::start(TWO_PHASE);
    for n in 0..SHARDS {
        sharded.cluster.sql_in(
            &format!("s{n}"),
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
                 $$BEGIN PERFORM pg_sleep(NEW.n); RETURN NULL; END$$;
             CREATE CONSTRAINT TRIGGER slow AFTER UPDATE ON t DEFERRABLE INITIALLY DEFERRED
                 FOR EACH ROW EXECUTE FUNCTION slow()",
        );
    }
    let (a, b) = (sharded.key(0), sharded.key(1));
    let open = |client: &mut RawClient, seconds: u32| {
        for sql in
            ["BEGIN", &format!("SELECT n FROM t WHERE k = {a}"), &format!("UPDATE t SET n = {seconds} WHERE k = {b}")]
        {
            assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
        }
    };
    let mut client = sharded.client();
    open(&mut client, 11);
    assert_eq!(client.run("SET CONSTRAINTS ALL IMMEDIATE"), "C(SET CONSTRAINTS) Z(T)");
    assert_eq!(client.value("SELECT count(*) FROM t WHERE n = 11"), "1");
    assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    // A cancel request ends it, and what runs.
    open(&mut client, 300);
    client.query("SET CONSTRAINTS ALL IMMEDIATE");
    let active = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SET CONSTRAINTS%'";
    eventually("the constraint is checked", SOON, || (sharded.cluster.value(active) == "1").then_some(()));
    client.cancel();
    let told = client.read_until_ready();
    assert!(error(&told).0 == "57014" && show(&told).ends_with("Z(E)"), "{}", show(&told));
    eventually("nothing runs on", SOON, || (sharded.cluster.value(active) == "0").then_some(()));
    assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    // So does KILL.
    open(&mut client, 300);
    client.query("SET CONSTRAINTS ALL IMMEDIATE");
    eventually("the constraint is checked", SOON, || (sharded.cluster.value(active) == "1").then_some(()));
    sharded.weir.admin("KILL app");
    let told = show(&client.read_to_end());
    assert!(told.contains("57P01"), "{told}");
    sharded.weir.admin("RESUME app");
    eventually("nothing runs on", SOON, || (sharded.cluster.value(active) == "0").then_some(()));
    sharded.is_whole();
}

/// Who waits in a circle gives back what it took, and nothing is closed for it.
#[test]
fn connections_that_were_taken_in_vain_are_given_back() {
    let sharded = Sharded::start(&format!("{TWO_PHASE}\npool_size = 1"));
    let read = |n: usize| format!("SELECT n AS marked FROM t WHERE k = {}", sharded.key(n));
    // The process of a shard's only server connection.
    let process = |n: usize| {
        let mut client = sharded.client();
        for sql in ["BEGIN", &read(n)] {
            assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
        }
        let pid =
            "SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction' AND query LIKE 'SELECT n AS marked%'";
        let pid = sharded.cluster.value(&format!("{pid} AND datname = 's{n}'"));
        assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
        pid
    };
    let pids: Vec<String> = (0..SHARDS).map(process).collect();
    let (mut client, mut holder) = (sharded.client(), sharded.client());
    for sql in ["BEGIN", &read(1)] {
        assert!(holder.run(sql).ends_with("Z(T)"), "{sql}");
    }
    // It has the last, takes the first, and waits for the second.
    for sql in ["BEGIN", &read(2)] {
        assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
    }
    let told = simple(&mut client, "SELECT count(*) FROM t");
    let (code, message, hint) = error(&told);
    assert!(
        code == "53300" && message.contains("within 3 s") && hint.contains("same order"),
        "{code} {message} {hint}"
    );
    assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    assert_eq!(holder.run("COMMIT"), "C(COMMIT) Z(I)");
    let after: Vec<String> = (0..SHARDS).map(process).collect();
    assert_eq!(after, pids, "no connection was closed");
    // Nor is one when the shard before it cannot begin.
    sharded.cluster.sql_in("s0", "CREATE TABLE side (a int4 CONSTRAINT only_here UNIQUE DEFERRABLE)");
    for sql in ["BEGIN", &read(0), "SET CONSTRAINTS only_here DEFERRED"] {
        assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
    }
    assert_eq!(error(&simple(&mut client, "SELECT count(*) FROM t")).0, "42704");
    assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    let after: Vec<String> = (0..SHARDS).map(process).collect();
    assert_eq!(after, pids, "no connection was closed");
    assert_eq!(client.value("SELECT count(*) FROM t"), "60");
    sharded.is_whole();
}

/// A transaction's time is counted once for each of its servers.
#[test]
fn the_time_of_a_block_is_counted_once() {
    let sharded = Sharded::start("");
    let (a, b) = (sharded.key(0), sharded.key(1));
    let mut client = sharded.client();
    let began = clock::now();
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    for round in 0..8 {
        let sql = format!("SELECT n FROM t WHERE k = {}", if round % 2 == 0 { a } else { b });
        assert!(client.run(&sql).ends_with("Z(T)"), "{sql}");
        std::thread::sleep(Duration::from_millis(250));
    }
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    let (open, held) = (began.elapsed(), Duration::from_millis(2000));
    let total = || -> u128 {
        let rows = sharded.weir.admin_table("SHOW STATS_TOTALS");
        rows.iter()
            .filter(|row| row["database"].starts_with("app"))
            .map(|row| row["xact_time"].parse::<u128>().unwrap())
            .sum()
    };
    // Both have it to the end, the second for as long as it has taken part.
    let counted =
        eventually("the transaction is counted", SOON, || Some(total()).filter(|total| *total >= held.as_micros()));
    assert!(counted <= 2 * open.as_micros(), "{counted} of {open:?}");
}

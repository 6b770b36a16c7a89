//! Pipelines whose statements belong to different shards, or to several: answered as one server answers them, frame by frame.

use std::thread;

use super::*;
use crate::common::tools::python;

const INSERT: &str = "INSERT INTO t (k, v, n) VALUES ($1, $2, $3)";

/// One statement of a pipeline: its text and its values.
type Step<'a> = (&'a str, Vec<String>);

fn step<'a>(sql: &'a str, values: &[&dyn ToString]) -> Step<'a> {
    (sql, values.iter().map(|value| value.to_string()).collect())
}

/// Sends the statements, each as drivers send those of a batch: a text that comes again is not parsed again.
fn send(client: &mut RawClient, steps: &[Step<'_>]) {
    let mut before = "";
    for (sql, values) in steps {
        if *sql != before {
            client.parse("", sql, &[]);
            before = sql;
        }
        let values: Vec<Option<&str>> = values.iter().map(|value| Some(&**value)).collect();
        client.bind("", "", &values);
        client.describe_portal("");
        client.execute("", 0);
    }
}

/// The answer to a pipeline, of errors the SQLSTATE.
fn ask(client: &mut RawClient, steps: &[Step<'_>]) -> String {
    send(client, steps);
    client.sync();
    show(&client.read_until_ready())
}

impl Sharded {
    /// Both ways in: a block that the client begins, and none.
    fn is_answered_alike(&self, what: &str, talk: impl Fn(&mut RawClient) -> Vec<String>) {
        let theirs = talk(&mut self.cluster.client("whole"));
        let ours = talk(&mut self.client());
        assert_eq!(ours, theirs, "{what}");
        self.is_whole();
    }

    /// Keys that no row has yet, of each shard by turns.
    fn new_keys(&self, count: usize) -> Vec<i64> {
        let slots_of = format!(
            "SELECT k, ((hashint8extended(k, 8816678312871386365) & 16383) + 10467) & 16383 \
             FROM generate_series(1000::int8, {}) k",
            1000 + 2 * count + 100
        );
        let mut by_shard = vec![Vec::new(); SHARDS];
        for row in self.cluster.sql(&slots_of) {
            let (k, slot): (i64, usize) = (row[0].parse().unwrap(), row[1].parse().unwrap());
            let shard = (0..SHARDS).find(|n| (slots(*n).0..=slots(*n).1).contains(&slot)).unwrap();
            by_shard[shard].push(k);
        }
        (0..count).map(|n| by_shard[n % SHARDS][n / SHARDS]).collect()
    }
}

#[test]
fn batches_are_answered_as_one_server_answers_them() {
    let sharded = Sharded::start(TWO_PHASE);
    let new = sharded.new_keys(9);
    let (a, b, c) = (sharded.key(0), sharded.key(1), sharded.key(2));
    let inserts: Vec<Step<'_>> = new.iter().map(|k| step(INSERT, &[k, &format!("new {k}"), &1])).collect();
    let mixed = [
        step("UPDATE t SET n = n + $2 WHERE k = $1 RETURNING k, n", &[&a, &3]),
        step("UPDATE t SET n = n + $2 WHERE k = $1 RETURNING k, n", &[&b, &3]),
        step("SELECT k, n FROM t WHERE k = $1", &[&a]),
        step("SELECT count(*), sum(n) FROM t", &[]),
        step("DELETE FROM t WHERE k = $1", &[&new[0]]),
        step("DELETE FROM t WHERE k = $1", &[&new[1]]),
        step("SELECT 1", &[]),
        step("SELECT n FROM t WHERE k = $1", &[&c]),
        step("UPDATE t SET n = 7 WHERE n < 0", &[]),
        step("SELECT k FROM t WHERE k > 1000 ORDER BY k", &[]),
        step("INSERT INTO t VALUES (1, 'x', 1) ON CONFLICT DO NOTHING", &[]),
    ];
    sharded.is_answered_alike("outside of a block", |client| {
        vec![ask(client, &inserts), ask(client, &mixed), client.run("SELECT count(*), sum(n) FROM t")]
    });
    let gone = "DELETE FROM t WHERE k > 60";
    sharded.is_answered_alike("clean", |client| vec![client.run(gone)]);
    sharded.is_answered_alike("in a block", |client| {
        vec![
            client.run("BEGIN"),
            ask(client, &inserts),
            ask(client, &mixed),
            client.run("SELECT count(*), sum(n) FROM t"),
            client.run("COMMIT"),
            client.run(gone),
        ]
    });
    // BEGIN in front of it, and COMMIT or ROLLBACK at its end, as drivers send them.
    for end in ["COMMIT", "ROLLBACK"] {
        let mut steps = vec![step("BEGIN", &[])];
        steps.extend(inserts.clone());
        let mut rest = mixed.to_vec();
        rest.push(step(end, &[]));
        sharded.is_answered_alike(end, |client| {
            vec![ask(client, &steps), ask(client, &rest), client.run("SELECT count(*) FROM t"), client.run(gone)]
        });
    }
    // Savepoints in the middle.
    let mut steps = inserts[..3].to_vec();
    steps.push(step("SAVEPOINT s", &[]));
    steps.extend(inserts[3..].to_vec());
    steps.push(step("ROLLBACK TO s", &[]));
    steps.push(step("SELECT count(*) FROM t", &[]));
    sharded.is_answered_alike("savepoints", |client| {
        // So that the shards know what the block is.
        let read = client.run("BEGIN") + &client.run("SELECT count(*) FROM t");
        vec![read, ask(client, &steps), client.run("COMMIT"), client.run(gone)]
    });
}

#[test]
fn an_error_in_the_middle_undoes_the_whole() {
    let sharded = Sharded::start(TWO_PHASE);
    let (new, b) = (sharded.new_keys(6), sharded.key(1));
    let inserts: Vec<Step<'_>> = new.iter().map(|k| step(INSERT, &[k, &"new", &1])).collect();
    let bad = [
        step(INSERT, &[&b, &"there already", &1]),
        step("SELECT 1 / (n - n) FROM t WHERE k = $1", &[&b]),
        step("SELECT nothing FROM t", &[]),
        step(INSERT, &[&b, &"many", &5000]),
    ];
    for wrong in bad {
        let mut steps = inserts[..4].to_vec();
        steps.push(wrong.clone());
        steps.extend(inserts[4..].to_vec());
        let count = "SELECT count(*) FROM t";
        sharded.is_answered_alike(wrong.0, |client| vec![ask(client, &steps), client.run(count)]);
        sharded.is_answered_alike(wrong.0, |client| {
            let (begun, told) = (client.run("BEGIN"), ask(client, &steps));
            // Where the block has failed everything but its end is refused.
            vec![begun, told, ask(client, &inserts[..2]), client.run("COMMIT"), client.run(count)]
        });
        sharded.is_answered_alike(wrong.0, |client| {
            let mut steps = steps.clone();
            steps.insert(0, step("BEGIN", &[]));
            steps.push(step("COMMIT", &[]));
            vec![ask(client, &steps), client.run("ROLLBACK"), client.run(count)]
        });
    }
}

/// What is checked at the end fails behind the answers, before ReadyForQuery.
#[test]
fn an_error_at_the_end_undoes_the_whole() {
    let sharded = Sharded::start(TWO_PHASE);
    for database in ["whole", "s0", "s1", "s2"] {
        sharded.cluster.sql_in(
            database,
            "CREATE FUNCTION checks() RETURNS trigger LANGUAGE plpgsql AS
                 $$BEGIN IF NEW.v = 'bad' THEN RAISE EXCEPTION 'it is bad'; END IF; RETURN NULL; END$$;
             CREATE CONSTRAINT TRIGGER late AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED
                 FOR EACH ROW EXECUTE FUNCTION checks()",
        );
    }
    let new = sharded.new_keys(6);
    for bad in 0..6 {
        let of = |n: usize| if n == bad { "bad" } else { "good" };
        let steps: Vec<_> = new.iter().enumerate().map(|(n, k)| step(INSERT, &[k, &of(n), &1])).collect();
        sharded.is_answered_alike("outside of a block", |client| {
            vec![ask(client, &steps), client.run("SELECT count(*) FROM t")]
        });
        let mut steps = steps.clone();
        steps.insert(0, step("BEGIN", &[]));
        steps.push(step("COMMIT", &[]));
        sharded
            .is_answered_alike("in a block", |client| vec![ask(client, &steps), client.run("SELECT count(*) FROM t")]);
    }
}

#[test]
fn where_shards_are_not_written_together_nothing_is_begun() {
    let sharded = Sharded::start("");
    let new = sharded.new_keys(2);
    let inserts: Vec<Step<'_>> = new.iter().map(|k| step(INSERT, &[k, &"new", &1])).collect();
    let mut client = sharded.client();
    let before =
        sharded.cluster.value("SELECT sum(xact_commit + xact_rollback) FROM pg_stat_database WHERE datname LIKE 's_'");
    send(&mut client, &inserts);
    client.sync();
    let told = client.read_until_ready();
    assert_eq!(show(&told), "E(0A000) Z(I)");
    let (_, message, hint) = error(&told);
    assert!(message.contains("cross_shard_writes") && hint.contains("two_phase"), "{message} {hint}");
    assert_eq!(client.value("SELECT count(*) FROM t"), "60", "after {before} transactions");
    // What reads on several shards and writes on one is none of that.
    let (a, b) = (sharded.key(0), sharded.key(1));
    let read = "SELECT v FROM t WHERE k = $1";
    let steps =
        [step(read, &[&a]), step("UPDATE t SET n = 2 WHERE k = $1", &[&b]), step(read, &[&a]), step(read, &[&b])];
    sharded.is_answered_alike("one writer", |client| vec![ask(client, &steps)]);
    // In a block the second says so.
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    let told = ask(&mut client, &inserts);
    assert!(told.starts_with("1 2 n C(INSERT 0 1)") && told.ends_with("E(0A000) Z(E)"), "{told}");
    assert_eq!(client.run("COMMIT"), "C(ROLLBACK) Z(I)");
    sharded.is_whole();
}

/// More than is held at once, and what ends with Flush.
#[test]
fn pipelines_that_come_in_parts() {
    let sharded = Sharded::start(TWO_PHASE);
    let new = sharded.new_keys(600);
    let long = "x".repeat(2000);
    let steps: Vec<Step<'_>> = new.iter().map(|k| step(INSERT, &[k, &format!("{k}{long}"), &1])).collect();
    let (count, gone) = ("SELECT count(*), sum(length(v)) FROM t", "DELETE FROM t WHERE k > 60");
    sharded.is_answered_alike("outside of a block", |client| {
        vec![ask(client, &steps), client.run(count), client.run(gone)]
    });
    let mut begun = steps.clone();
    begun.insert(0, step("BEGIN", &[]));
    sharded.is_answered_alike("in a block", |client| {
        vec![ask(client, &begun), client.run(count), client.run("COMMIT"), client.run(gone)]
    });
    // One of the last is wrong.
    let mut wrong = begun.clone();
    wrong[590].1[0] = "1".to_owned();
    sharded
        .is_answered_alike("an error", |client| vec![ask(client, &wrong), client.run("ROLLBACK"), client.run(count)]);
    sharded.is_answered_alike("an error", |client| vec![ask(client, &wrong[1..]), client.run(count)]);
    for begin in [true, false] {
        sharded.is_answered_alike("Flush", |client| {
            let mut told = Vec::new();
            if begin {
                told.push(client.run("BEGIN"));
            }
            for part in steps[..12].chunks(4) {
                send(client, part);
                client.flush();
                let answers: Vec<_> = (0..4 * 3 + 1).map(|_| client.read_message()).collect();
                told.push(show(&answers));
            }
            client.sync();
            told.push(show(&client.read_until_ready()));
            if begin {
                told.push(client.run("COMMIT"));
            }
            told.push(client.run(count));
            told.push(client.run(gone));
            told
        });
    }
}

#[test]
fn a_shard_that_goes_and_a_client_that_cancels() {
    let sharded = Sharded::start(TWO_PHASE);
    let new = sharded.new_keys(6);
    let sleep = "SELECT pg_sleep(20) FROM t WHERE k = $1";
    for cancels in [true, false] {
        for begin in [true, false] {
            let mut client = sharded.client();
            if begin {
                assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
            }
            let mut steps: Vec<Step<'_>> = new.iter().map(|k| step(INSERT, &[k, &"new", &1])).collect();
            steps.insert(4, step(sleep, &[&sharded.key(1)]));
            send(&mut client, &steps);
            client.sync();
            let asleep = "SELECT pid FROM pg_stat_activity WHERE datname = 's1' AND query LIKE '%pg_sleep%' AND state = 'active'";
            let pid = eventually("it sleeps", SOON, || {
                sharded.cluster.sql(&format!("{asleep} AND pid <> pg_backend_pid()")).pop()
            });
            if cancels {
                client.cancel();
                let told = show(&client.read_until_ready());
                assert!(told.contains("E(57014)") && told.ends_with(if begin { "Z(E)" } else { "Z(I)" }), "{told}");
                if begin {
                    assert_eq!(client.run("COMMIT"), "C(ROLLBACK) Z(I)");
                }
                assert_eq!(client.value("SELECT count(*) FROM t"), "60");
            } else {
                sharded.cluster.sql(&format!("SELECT pg_terminate_backend({})", pid[0]));
                // Its server is the only one: the session ends with it, as it would there.
                let told = show(&client.read_to_end());
                assert!(told.ends_with("E(FATAL 57P01)"), "{told}");
            }
            sharded.is_whole();
        }
    }
    // The client leaves.
    let mut client = sharded.client();
    let mut steps: Vec<Step<'_>> = new.iter().map(|k| step(INSERT, &[k, &"new", &1])).collect();
    steps.push(step(sleep, &[&sharded.key(1)]));
    send(&mut client, &steps);
    client.sync();
    thread::sleep(Duration::from_millis(300));
    drop(client);
    sharded.is_whole();
}

#[test]
fn psycopg_executes_many() {
    let sharded = Sharded::start(TWO_PHASE);
    let script = r#"
import os, psycopg
with psycopg.connect(prepare_threshold=3) as c:
    with c.cursor() as cur:
        cur.executemany("INSERT INTO t (k, v, n) VALUES (%s, %s, %s)", [(k, str(k), 1) for k in range(100, 200)])
        print(cur.rowcount)
        cur.executemany("UPDATE t SET n = n + 1 WHERE k = %s RETURNING k, n", [(k,) for k in range(100, 110)], returning=True)
        got = []
        while True:
            got += cur.fetchall()
            if not cur.nextset():
                break
        print(got)
    c.commit()
    try:
        c.cursor().executemany("INSERT INTO t (k, v, n) VALUES (%s, %s, %s)", [(k, str(k), 1) for k in range(201, 195, -1)])
    except psycopg.errors.UniqueViolation as e:
        print(type(e).__name__, c.info.transaction_status.name)
    c.rollback()
    with c.pipeline():
        for k in range(200, 230):
            c.execute("INSERT INTO t (k, v, n) VALUES (%s, %s, %s)", (k, str(k), 1))
        found = c.execute("SELECT count(*) FROM t WHERE k >= 100")
        c.commit()
        print(found.fetchone())
with psycopg.connect(autocommit=True) as c:
    with c.cursor() as cur:
        cur.executemany("DELETE FROM t WHERE k = %s", [(k,) for k in range(100, 230)])
        print(cur.rowcount)
    with c.pipeline():
        one = [c.execute("SELECT v FROM t WHERE k = %s", (k,)) for k in range(1, 40)]
    print([x.fetchone()[0] for x in one] == ["v%d" % k for k in range(1, 40)])
"#;
    let theirs = python(sharded.cluster.port(), "whole", script).ok();
    let ours = python(sharded.weir.port(), "app", script).ok();
    assert_eq!(ours, theirs);
    assert!(ours.starts_with("100\n") && ours.contains("UniqueViolation INERROR"), "{ours}");
    sharded.is_whole();
}

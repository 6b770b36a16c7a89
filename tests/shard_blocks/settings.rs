//! What is set, saved and told in a block of several shards.

use super::*;

/// What is set for the session is set on one server, and its client's alone.
#[test]
fn a_block_that_sets_for_the_session_stays_on_its_shard() {
    let sharded = Sharded::start(TWO_PHASE);
    let (b, c) = (sharded.key(1), sharded.key(2));
    let timeout = |k: i64| format!("SELECT current_setting('statement_timeout') FROM t WHERE k = {k}");
    let mut client = sharded.client();
    for sql in ["BEGIN", "SET statement_timeout = '77s'", &timeout(b)] {
        assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
    }
    let (code, message, _) = error(&simple(&mut client, &timeout(c)));
    assert!(code == "0A000" && message.contains("bound to shard \"s1\""), "{code} {message}");
    assert_eq!(client.run("COMMIT"), "C(ROLLBACK) Z(I)");
    for sql in ["BEGIN", "SET statement_timeout = '77s'", &timeout(b), "COMMIT"] {
        assert!(!client.run(sql).contains("E("), "{sql}");
    }
    assert_eq!(client.value(&timeout(c)), "77s");
    let mut other = sharded.client();
    for k in [b, c] {
        assert_eq!(other.value(&timeout(k)), "0");
    }
}

/// What other shards must be told is certain, or they do not take part: none fails at what the first has done.
#[test]
fn a_text_that_failed_in_part_keeps_a_block_on_its_shard() {
    let sharded = Sharded::start(TWO_PHASE);
    let (a, b) = (sharded.key(0), sharded.key(1));
    let of = |k: i64| format!("SELECT n FROM t WHERE k = {k}");
    let mut client = sharded.client();
    for sql in ["BEGIN", &of(a)] {
        assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
    }
    assert!(client.run("SAVEPOINT s; SET LOCAL work_mem = 'nonsense'").ends_with("Z(E)"));
    for sql in ["ROLLBACK TO s", &of(a)] {
        assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
    }
    let (code, message, hint) = error(&simple(&mut client, &of(b)));
    assert!(code == "0A000" && message.contains("bound to shard \"s0\""), "{code} {message}");
    assert!(hint.contains("by themselves"), "{hint}");
    assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    // What was sent before the answers were there.
    for sql in ["BEGIN", &of(a), "SAVEPOINT s"] {
        assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
    }
    client.query("SET LOCAL work_mem = 'nonsense'");
    client.query("ROLLBACK TO s");
    assert!(show(&client.read_until_ready()).ends_with("Z(E)"));
    assert!(show(&client.read_until_ready()).ends_with("Z(T)"));
    let told = simple(&mut client, &of(b));
    if let Some(refused) = told.iter().find_map(Message::error) {
        assert!(refused.code == "0A000" && refused.message.contains("bound to shard"), "{}", refused.message);
    }
    assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    // One that failed by itself has done nothing.
    for sql in ["BEGIN", &of(a), "SAVEPOINT s"] {
        assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
    }
    assert!(client.run("SET LOCAL work_mem = 'nonsense'").ends_with("Z(E)"));
    for sql in ["ROLLBACK TO s", &of(b), &of(a)] {
        assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
    }
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    sharded.is_whole();
}

/// Two that wait for each other on different shards are not seen by any server: none waits without end, whatever was rolled back.
#[test]
fn waits_for_locks_are_limited_after_rollback_to() {
    let sharded = Sharded::start(TWO_PHASE);
    let (a, b) = (sharded.key(0), sharded.key(1));
    let limit = |k: i64| format!("SELECT current_setting('lock_timeout') FROM t WHERE k = {k}");
    for first in [a, b] {
        let mut client = sharded.client();
        for sql in ["BEGIN", "SAVEPOINT x"] {
            assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
        }
        assert_eq!(client.run(&format!("UPDATE t SET n = 1 WHERE k = {first}")), "C(UPDATE 1) Z(T)");
        assert_eq!(client.value("SELECT count(*) FROM t"), "60");
        assert_eq!((client.value(&limit(a)), client.value(&limit(b))), ("10s".into(), "10s".into()));
        assert_eq!(client.run("ROLLBACK TO x"), "C(ROLLBACK) Z(T)");
        for k in [first, a, b, first] {
            assert_eq!(client.value(&limit(k)), "10s", "{k}");
        }
        assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    }
    sharded.is_whole();
}

/// The same where it is not the first that a text does, and where nothing follows but the end.
#[test]
fn waits_for_locks_are_limited_whatever_has_gone_back() {
    let sharded = Sharded::start(TWO_PHASE);
    for n in 0..SHARDS {
        sharded.cluster.sql_in(
            &format!("s{n}"),
            "CREATE TABLE noted (l text);
             CREATE FUNCTION notes() RETURNS trigger LANGUAGE plpgsql AS
                 $$BEGIN INSERT INTO noted VALUES (current_setting('lock_timeout')); RETURN NULL; END$$;
             CREATE CONSTRAINT TRIGGER g AFTER UPDATE ON t DEFERRABLE INITIALLY DEFERRED
                 FOR EACH ROW EXECUTE FUNCTION notes()",
        );
    }
    let (a, b) = (sharded.key(0), sharded.key(1));
    let (set, of) =
        (|k: i64| format!("UPDATE t SET n = n WHERE k = {k}"), |k: i64| format!("SELECT n FROM t WHERE k = {k}"));
    let limit = |k: i64| format!("SELECT current_setting('lock_timeout') FROM t WHERE k = {k}");
    let mut client = sharded.client();
    for sql in ["BEGIN", "SAVEPOINT p", &set(a), &set(b), "SAVEPOINT q; ROLLBACK TO p"] {
        assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
    }
    assert_eq!((client.value(&limit(a)), client.value(&limit(b))), ("10s".into(), "10s".into()));
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    for end in [&["COMMIT"][..], &["SET CONSTRAINTS ALL IMMEDIATE", "COMMIT"]] {
        for sql in ["BEGIN", &set(a), "SAVEPOINT p", &of(b), "ROLLBACK TO p"].into_iter().chain(end.iter().copied()) {
            assert!(!client.run(sql).contains("E("), "{sql}");
        }
    }
    assert_eq!(sharded.cluster.sql_in("s0", "SELECT * FROM noted"), [["10s"], ["10s"]]);
    sharded.is_whole();
}

/// A listener hears of what is there, and of nothing that was rolled back.
#[test]
fn a_notification_comes_with_the_writes_of_its_shard() {
    let sharded = Sharded::start(TWO_PHASE);
    let (a, b) = (sharded.key(0), sharded.key(1));
    let set = |k: i64, n: i64| format!("UPDATE t SET n = {n} WHERE k = {k}");
    for n in 0..SHARDS {
        sharded.cluster.sql_in(
            &format!("s{n}"),
            "CREATE FUNCTION tells() RETURNS void LANGUAGE plpgsql AS $$BEGIN PERFORM pg_notify('jobs', 'lost'); END$$;
             CREATE FUNCTION says() RETURNS void LANGUAGE plpgsql AS $$BEGIN NOTIFY jobs, 'lost'; END$$;
             CREATE FUNCTION calls() RETURNS void BEGIN ATOMIC SELECT tells(); END",
        );
    }
    let mut listener = sharded.cluster.client("s0");
    assert_eq!(listener.run("LISTEN jobs"), "C(LISTEN) Z(I)");
    for notify in [
        "NOTIFY jobs, 'lost'",
        "SELECT pg_notify('jobs', 'lost')",
        "SELECT pg_advisory_xact_lock(1), pg_notify('jobs', 'lost')",
    ] {
        let mut client = sharded.client();
        for sql in ["BEGIN", notify, &set(b, 300)] {
            assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
        }
        let told = simple(&mut client, "COMMIT");
        let (code, message, hint) = error(&told);
        assert!(code == "0A000" && message.contains("notifies on shard \"s0\"") && !hint.is_empty(), "{message}");
        assert!(show(&told).ends_with("Z(I)"));
        sharded.is_whole();
        // What comes behind an error is not answered.
        for sql in ["BEGIN", notify, &set(b, 300)] {
            assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
        }
        client.parse("", "COMMIT", &[]);
        client.bind("", "", &[]);
        client.execute("", 0);
        client.close_portal("");
        client.sync();
        assert_eq!(show(&client.read_until_ready()), "1 2 E(0A000) Z(I)");
        assert_eq!(client.value("SELECT count(*) FROM t"), "60");
        sharded.is_whole();
    }
    // Nor when code says so that writes nothing; what a trigger tells of its rows comes with them.
    for code in ["SELECT tells()", "SELECT says()", "SELECT calls()", "DO $$BEGIN PERFORM tells(); END$$"] {
        let mut client = sharded.client();
        for sql in ["BEGIN", &format!("/* pgweir: shard=s0 */ {code}"), &set(b, 300)] {
            assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
        }
        let told = simple(&mut client, "COMMIT");
        let (code, message, _) = error(&told);
        assert!(code == "0A000" && message.contains("notifies on shard \"s0\""), "{message}");
        sharded.is_whole();
    }
    let mut client = sharded.client();
    for sql in ["BEGIN", "/* pgweir: shard=s0 */ SELECT tells()", &format!("SELECT n FROM t WHERE k = {b}"), "ROLLBACK"]
    {
        assert!(!client.run(sql).contains("E("), "{sql}");
    }
    // With nothing written elsewhere it is as ever.
    let mut client = sharded.client();
    for sql in ["BEGIN", "NOTIFY jobs, 'found'", &set(a, a % 7), &format!("SELECT n FROM t WHERE k = {b}"), "COMMIT"] {
        assert!(!client.run(sql).contains("E("), "{sql}");
    }
    listener.query("SELECT 1");
    let heard = show(&listener.read_until_ready());
    assert!(heard.contains("found") && !heard.contains("lost"), "{heard}");
}

/// What is prepared belongs to who prepared it; when the transaction is over its session is somebody else again.
#[test]
fn a_role_of_the_transaction_cannot_prepare_it() {
    let sharded = Sharded::start(TWO_PHASE);
    sharded.cluster.sql("CREATE ROLE app");
    for n in 0..SHARDS {
        sharded.cluster.sql_in(&format!("s{n}"), "GRANT ALL ON ALL TABLES IN SCHEMA public TO app");
    }
    let (a, b) = (sharded.key(0), sharded.key(1));
    let set = |k: i64, n: i64| format!("UPDATE t SET n = {n} WHERE k = {k}");
    let mut client = sharded.client();
    let mut run = |statements: &[&str]| {
        for sql in statements {
            assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
        }
        let told = simple(&mut client, "COMMIT");
        assert!(show(&told).ends_with("Z(I)"), "{}", show(&told));
        told
    };
    let told = run(&["BEGIN", "SET LOCAL ROLE app", &set(a, 300), &set(b, 301)]);
    let (code, message, hint) = error(&told);
    assert!(code == "0A000" && message.contains("role of its own") && hint.contains("ROLE"), "{code} {message}");
    sharded.is_whole();
    let told = run(&["BEGIN", "SET LOCAL ROLE app", &set(a, 300), &set(b, 301), "SET LOCAL ROLE NONE"]);
    assert_eq!(show(&told), "C(COMMIT) Z(I)");
    let told = run(&["BEGIN", "SET LOCAL ROLE app", &set(a, a % 7), &format!("SELECT n FROM t WHERE k = {b}")]);
    assert_eq!(show(&told), "C(COMMIT) Z(I)");
    assert_eq!(show(&run(&["BEGIN", &set(a, a % 7), &set(b, b % 7)])), "C(COMMIT) Z(I)");
    sharded.is_whole();
}

/// What SET LOCAL has made of settings that are reported is over with the block, and the client is told so.
#[test]
fn settings_that_are_reported_end_with_the_block() {
    let sharded = Sharded::start("");
    let (a, b) = (sharded.key(0), sharded.key(1));
    let told_of = |messages: &[Message]| -> Vec<String> {
        messages.iter().filter(|message| message.tag == b'S').map(ToString::to_string).collect()
    };
    let mut answers = Vec::new();
    for mut client in [sharded.cluster.client("whole"), sharded.client()] {
        let mut told = Vec::new();
        for (end, fails) in [("COMMIT", false), ("ROLLBACK", false), ("ROLLBACK", true)] {
            let mut heard = Vec::new();
            for sql in [
                "BEGIN",
                "SET LOCAL TimeZone = 'Asia/Tokyo'",
                &format!("SELECT n FROM t WHERE k = {a}"),
                &format!("SELECT n FROM t WHERE k = {b}"),
                if fails { "SELECT 1 / (k - 17) FROM t" } else { "SELECT count(*) FROM t" },
                end,
            ] {
                heard.extend(told_of(&simple(&mut client, sql)));
            }
            told.push(heard);
            told.push(vec![client.value("SHOW TimeZone")]);
        }
        answers.push(told);
    }
    assert_eq!(answers[0][0].len(), 2, "{:?}", answers[0]);
    assert_eq!(answers[1], answers[0]);
}

#[test]
fn the_token_is_shown_within_a_block() {
    let sharded = Sharded::start(TWO_PHASE);
    let mut client = sharded.client();
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(client.value("SELECT count(*) FROM t"), "60");
    for way in [simple, extended] {
        let told = show(&way(&mut client, "SHOW pgweir.causal_token"));
        assert!(told.contains("T(pgweir.causal_token:25) D(") && told.ends_with("C(SHOW) Z(T)"), "{told}");
    }
    assert_eq!(client.value("SELECT count(*) FROM t"), "60");
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    sharded.is_whole();
}

/// A savepoint takes back what was set behind it on all shards, also on those that were needed only after that.
#[test]
fn a_savepoint_takes_back_what_is_reported_on_shards_that_came_later() {
    let sharded = Sharded::start(TWO_PHASE);
    let (a, b, c) = (sharded.key(0), sharded.key(1), sharded.key(2));
    let set = |k: i64| format!("UPDATE t SET n = n WHERE k = {k}");
    let shown = |k: i64| {
        format!(
            "SELECT current_setting('TimeZone'), current_setting('DateStyle'), current_setting('application_name') FROM t WHERE k = {k}"
        )
    };
    sharded.same(&[
        "BEGIN",
        "SET LOCAL application_name = 'of all'",
        &set(a),
        "SAVEPOINT p",
        "SET LOCAL TimeZone = 'Asia/Tokyo'",
        "SET LOCAL DateStyle = 'SQL, DMY'",
        "SET LOCAL application_name = 'of a part'",
        &shown(b),
        &shown(a),
        "ROLLBACK TO p",
        &shown(b),
        &shown(c),
        &shown(a),
        "SET LOCAL TimeZone = 'Asia/Kolkata'",
        &shown(c),
        "ROLLBACK TO p",
        "RELEASE p",
        &shown(c),
        &set(b),
        "COMMIT",
        &shown(b),
        &shown(c),
    ]);
    sharded.is_whole();
}

/// A block may make and end as many savepoints as it likes, also before another shard is needed.
#[test]
fn savepoints_that_are_ended_fill_no_block() {
    let sharded = Sharded::start(TWO_PHASE);
    let (a, b, c) = (sharded.key(0), sharded.key(1), sharded.key(2));
    let shown = |k: i64| format!("SELECT current_setting('app.x', true) FROM t WHERE k = {k}");
    let mut client = sharded.client();
    for sql in ["BEGIN", &format!("UPDATE t SET n = n WHERE k = {a}")] {
        assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
    }
    for other in [a, b] {
        for n in 0..200 {
            let name = format!("of_a_driver_that_likes_long_names_{n}");
            for sql in [
                format!("SAVEPOINT {name}"),
                format!("SET LOCAL app.x = '{n}'"),
                format!("RELEASE SAVEPOINT {name}"),
                format!("SAVEPOINT {name}"),
                "SET LOCAL app.x = 'taken back'".to_owned(),
                format!("ROLLBACK TO {name}"),
                format!("RELEASE {name}"),
            ]
            .iter()
            .skip(if n % 50 == 0 { 0 } else { 3 })
            {
                assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
            }
        }
        assert_eq!(client.value(&shown(other)), "150");
    }
    assert_eq!(client.value(&shown(c)), "150");
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    sharded.is_whole();
}

/// What the shards have rounded for the transaction is no longer what it was: nothing is made of it that one server would not have made.
#[test]
fn digits_that_the_transaction_leaves_out_are_not_believed() {
    let sharded = Sharded::start(TWO_PHASE);
    let mut client = sharded.client();
    assert_eq!(client.run("SET extra_float_digits = 2"), "C(SET) Z(I)");
    for sets in [
        "SET LOCAL extra_float_digits = 0",
        "SELECT set_config('extra_float_digits', '0', true)",
        "SELECT set_config('extra_'\n'float_digits', '0', true)",
    ] {
        for sql in [
            "SELECT sum(k::float8 / 7) FROM t",
            "SELECT avg(k::float8 / 7) FROM t",
            "SELECT k::float8 / 7 AS f FROM t ORDER BY f",
            "SELECT max(k::float8 / 7) FROM t",
        ] {
            let mut whole = sharded.cluster.client("whole");
            for text in ["BEGIN", sets] {
                assert!(whole.run(text).ends_with("Z(T)"), "{text}");
            }
            let theirs = whole.rows(sql).unwrap();
            for text in ["BEGIN", "SELECT count(*) FROM t", sets] {
                let told = client.run(text);
                assert!(told.ends_with("Z(T)"), "{text}: {told}");
            }
            match client.rows(sql) {
                Ok(ours) => assert_eq!(ours, theirs, "{sets}; {sql}"),
                Err(error) => {
                    assert!(error.code == "0A000" && error.message.contains("extra_float_digits"), "{error:?}")
                }
            }
            assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
        }
    }
    // What is set of something else makes no difference.
    for text in [
        "BEGIN",
        "SELECT count(*) FROM t",
        "SET LOCAL statement_timeout = '50s'",
        "SELECT sum(k::float8 / 7) FROM t",
        "COMMIT",
    ] {
        let told = client.run(text);
        assert!(!told.contains("E("), "{text}: {told}");
    }
}

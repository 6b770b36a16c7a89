//! What functions, triggers and DO do to a block of several shards that no text shows.

use pgweir::clock;

use super::*;

const ON_ALL: [usize; SHARDS] = [0, 1, 2];

impl Sharded {
    fn everywhere(&self, sql: &str) {
        ON_ALL.iter().for_each(|n| drop(self.cluster.sql_in(&format!("s{n}"), sql)));
    }
}

/// What code sets for the transaction is set on one shard; the others would answer as if it were not.
#[test]
fn what_code_sets_for_the_transaction_keeps_a_block_on_its_shard() {
    let sharded = Sharded::start(TWO_PHASE);
    let (a, b) = (sharded.key(0), sharded.key(1));
    sharded.everywhere(
        "CREATE FUNCTION set_tenant(text) RETURNS void LANGUAGE plpgsql AS
             $$BEGIN PERFORM set_config('app.tenant', $1, true); END$$;
         CREATE FUNCTION calls_that() RETURNS void LANGUAGE sql AS 'SELECT set_tenant(''2'')';
         CREATE FUNCTION defers() RETURNS void LANGUAGE plpgsql AS $$BEGIN SET CONSTRAINTS ALL DEFERRED; END$$;
         CREATE FUNCTION runs(text) RETURNS void LANGUAGE plpgsql AS $$BEGIN EXECUTE $1; END$$;
         CREATE FUNCTION harmless(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$BEGIN RETURN $1 + 1; END$$;
         CREATE FUNCTION on_update() RETURNS trigger LANGUAGE plpgsql AS
             $$BEGIN PERFORM set_tenant('3'); RETURN NULL; END$$;
         CREATE TRIGGER g AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION on_update()",
    );
    let of = |k: i64| format!("SELECT n, current_setting('app.tenant', true) FROM t WHERE k = {k}");
    let mut client = sharded.client();
    let refused = |client: &mut RawClient, sql: &str| {
        let told = simple(client, sql);
        let (code, message, hint) = error(&told);
        assert!(
            code == "0A000" && message.contains("may set something for the transaction"),
            "{sql}: {code} {message}"
        );
        assert!(hint.contains("set_config") && show(&told).ends_with("Z(E)"), "{sql}: {hint}");
        assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    };
    let sets = [
        "/* pgweir: shard=s0 */ SELECT set_tenant('1')",
        "/* pgweir: shard=s0 */ SELECT calls_that()",
        "/* pgweir: shard=s0 */ SELECT defers()",
        "/* pgweir: shard=s0 */ SELECT runs('SET LOCAL app.tenant = 1')",
        &format!("UPDATE t SET n = n WHERE k = {a}"),
        "/* pgweir: shard=s0 */ DO $$BEGIN SET LOCAL app.tenant = '4'; END$$",
        "/* pgweir: shard=s0 */ DO $$BEGIN PERFORM set_tenant('4'); END$$",
    ];
    for sql in sets {
        // Before another shard is needed, and after.
        assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
        assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
        refused(&mut client, &of(b));
        assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
        assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
        refused(&mut client, "SELECT count(*) FROM t");
        assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
        for sql in ["SELECT count(*) FROM t", &of(a), &of(b)] {
            assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
        }
        refused(&mut client, sql);
    }
    // On one shard it is as ever, and what is set by itself is told to all.
    for sql in ["BEGIN", "/* pgweir: shard=s0 */ SELECT set_tenant('1')", &of(a), "COMMIT"] {
        assert!(!client.run(sql).contains("E("), "{sql}");
    }
    for sql in ["BEGIN", "SELECT set_config('app.tenant', '6', true)", "SELECT harmless(1)"] {
        assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
    }
    for k in [b, a] {
        assert_eq!(client.rows(&of(k)).unwrap(), [[(k % 7).to_string(), "6".to_owned()]]);
    }
    for n in [1, 0] {
        assert_eq!(client.value(&format!("/* pgweir: shard=s{n} */ SELECT harmless(1)")), "2");
    }
    assert_eq!(client.value("SELECT count(*) FROM t"), "60");
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    sharded.is_whole();
}

/// What a block has made itself no census knows.
#[test]
fn code_that_the_block_makes_is_read_in_its_text() {
    let sharded = Sharded::start(TWO_PHASE);
    let made = "/* pgweir: shard=s1 */ SELECT made(1)";
    // Which is no reason to distrust what does not name it.
    sharded.everywhere("CREATE FUNCTION runs(text) RETURNS void LANGUAGE plpgsql AS $$BEGIN EXECUTE $1; END$$");
    let mut client = sharded.client();
    for sql in [
        "BEGIN",
        "SELECT count(*) FROM t",
        "ALTER TABLE t ADD made int DEFAULT 7",
        "CREATE FUNCTION made(int) RETURNS int LANGUAGE plpgsql AS $$BEGIN RETURN $1 + 1; END$$",
        made,
        "SELECT sum(n) FROM t",
    ] {
        assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
    }
    assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    for sql in [
        "BEGIN",
        "CREATE FUNCTION made(int) RETURNS int LANGUAGE plpgsql AS
             $$BEGIN SET LOCAL app.tenant = '1'; RETURN $1; END$$",
    ] {
        assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
    }
    let (code, message, _) = error(&simple(&mut client, made));
    assert!(code == "0A000" && message.contains("may set something"), "{code} {message}");
    assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    sharded.is_whole();
}

/// The server of who calls a function is judged by the code that a block over shards has committed.
#[test]
fn code_that_a_block_has_changed_is_known_to_have_changed() {
    let sharded = Sharded::start(&format!("{TWO_PHASE}\npool_size = 1"));
    sharded.everywhere("CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'");
    let mut client = sharded.client();
    // The census is of the old code; a server that nobody's code has spoilt is not reset.
    assert_eq!(client.value("/* pgweir: shard=s0 */ SELECT f()"), "1");
    for sql in [
        "BEGIN",
        "SELECT count(*) FROM t",
        "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE plpgsql AS
             $$BEGIN SET app.leaks = 'leaked'; RETURN 2; END$$",
    ] {
        assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
    }
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(client.value("/* pgweir: shard=s0 */ SELECT f()"), "2");
    drop(client);
    let mut other = sharded.client();
    assert_ne!(other.value("SELECT coalesce(current_setting('app.leaks', true), '')"), "leaked");
}

/// What code sets for the session it sets on one server as well: the others would answer as if it had not.
#[test]
fn what_code_sets_for_the_session_is_refused_in_a_block() {
    let sharded = Sharded::start(TWO_PHASE);
    sharded.everywhere(
        "CREATE FUNCTION of_session() RETURNS void LANGUAGE plpgsql AS $$BEGIN SET app.tenant = '1'; END$$;
         CREATE FUNCTION by_argument(bool) RETURNS void LANGUAGE plpgsql AS
             $$BEGIN PERFORM set_config('app.tenant', '2', $1); END$$;
         CREATE FUNCTION another() RETURNS void LANGUAGE plpgsql AS $$BEGIN SET ROLE NONE; END$$;
         CREATE FUNCTION atomic() RETURNS text BEGIN ATOMIC SELECT set_config('app.tenant', '3', false); END;
         CREATE FUNCTION on_update() RETURNS trigger LANGUAGE plpgsql AS
             $$BEGIN PERFORM set_config('app.tenant', '4', false); RETURN NULL; END$$;
         CREATE TRIGGER g AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION on_update()",
    );
    let mut client = sharded.client();
    for sql in [
        "/* pgweir: shard=s0 */ SELECT of_session()",
        "/* pgweir: shard=s0 */ SELECT by_argument(false)",
        "/* pgweir: shard=s0 */ SELECT another()",
        "/* pgweir: shard=s0 */ SELECT atomic()",
        "UPDATE t SET n = n",
    ] {
        refused_in_block(&mut client, sql, "may set something for the transaction");
    }
    sharded.is_whole();
}

/// Nor is anything kept for the session that code makes on several shards at once.
#[test]
fn what_code_makes_on_several_shards_is_refused_in_a_block() {
    let sharded = Sharded::start(TWO_PHASE);
    sharded.everywhere(
        "CREATE FUNCTION on_update() RETURNS trigger LANGUAGE plpgsql AS
             $$BEGIN PERFORM pg_advisory_lock(8); RETURN NULL; END$$;
         CREATE TRIGGER g AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION on_update()",
    );
    refused_in_block(&mut sharded.client(), "UPDATE t SET n = n", "only one server connection has");
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 8";
    assert_eq!(sharded.cluster.value(locks), "0");
    sharded.is_whole();
}

fn refused_in_block(client: &mut RawClient, sql: &str, why: &str) {
    for sql in ["BEGIN", "SELECT count(*) FROM t"] {
        assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
    }
    let told = simple(client, sql);
    let (code, message, hint) = error(&told);
    assert!(code == "0A000" && message.contains(why) && !hint.is_empty(), "{sql}: {code} {message}");
    assert!(show(&told).ends_with("Z(E)"), "{sql}");
    assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)", "{sql}");
}

/// The first statement is sent while no census is there; what it has made is known when the block goes on with others.
#[test]
fn what_was_sent_before_the_code_was_known_is_judged_when_others_take_part() {
    let sharded = Sharded::start(TWO_PHASE);
    sharded.everywhere(
        "CREATE FUNCTION locks() RETURNS void LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_lock(9); END'",
    );
    let mut client = sharded.client();
    for sql in ["BEGIN", "/* pgweir: shard=s0 */ SELECT locks()"] {
        assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
    }
    let told = simple(&mut client, "SELECT count(*) FROM t");
    assert!(error(&told).0 == "0A000" && show(&told).ends_with("Z(E)"), "{}", show(&told));
    // Whichever way it went: the lock is not lost in silence.
    let told = client.run("ROLLBACK");
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 9";
    assert!(told == "E(0A000) Z(I)" || sharded.cluster.value(locks) == "1", "{told}");
}

/// DDL on a table of the default shard that another keeps locked, and so is long under way. Who holds it ends by COMMIT.
fn under_way(sharded: &Sharded, ddl: &str) -> (RawClient, RawClient) {
    let (mut holder, mut changer) = (sharded.cluster.client("s0"), sharded.client());
    for sql in ["BEGIN", "LOCK TABLE side"] {
        assert!(holder.run(sql).ends_with("Z(T)"), "{sql}");
    }
    changer.query(ddl);
    let waiting =
        format!("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND starts_with(query, '{ddl}')");
    eventually("it waits", SOON, || (sharded.cluster.value(&waiting) == "1").then_some(()));
    (holder, changer)
}

/// What adds no code keeps nobody from knowing what runs.
#[test]
fn a_block_goes_on_while_indexes_and_keys_are_made() {
    let sharded = Sharded::start(TWO_PHASE);
    sharded.cluster.sql_in("s0", "CREATE TABLE side (a int4 NOT NULL, b bool)");
    for ddl in [
        "CREATE INDEX ON side (a) WHERE b",
        "CREATE INDEX CONCURRENTLY ON side (a)",
        "ALTER TABLE side ADD PRIMARY KEY (a)",
        "ALTER TABLE side ALTER a SET STATISTICS 500",
        "CREATE STATISTICS st ON a, b FROM side",
        "REINDEX TABLE side",
        "VACUUM side",
    ] {
        let (mut holder, mut changer) = under_way(&sharded, ddl);
        let mut client = sharded.client();
        for (sql, told) in [("BEGIN", "C(BEGIN) Z(T)"), ("SELECT count(*) FROM t", ""), ("COMMIT", "C(COMMIT) Z(I)")] {
            let answer = client.run(sql);
            assert!(!answer.contains("E(") && answer.ends_with(told), "{ddl}: {sql}: {answer}");
        }
        assert_eq!(holder.run("COMMIT"), "C(COMMIT) Z(I)");
        let answer = show(&changer.read_until_ready());
        assert!(!answer.contains("E(") && answer.ends_with("Z(I)"), "{ddl}: {answer}");
    }
    sharded.is_whole();
}

/// An index over an expression runs code at each write, and while it is long in the making nobody has read which: who is refused for that can
/// try again.
#[test]
fn a_block_that_cannot_know_the_code_is_to_be_tried_again() {
    let sharded = Sharded::start(TWO_PHASE);
    sharded.cluster.sql_in("s0", "CREATE TABLE side (a int4)");
    let (mut holder, mut changer) = under_way(&sharded, "CREATE INDEX ON side ((a + 1))");
    let mut client = sharded.client();
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    let began = clock::now();
    let (code, message, hint) = error(&simple(&mut client, "SELECT count(*) FROM t"));
    assert!(code == "40001" && message.contains("not known what code") && !hint.is_empty(), "{code} {message}");
    assert!(began.elapsed() < Duration::from_secs(8), "one wait for all shards: {:?}", began.elapsed());
    assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    assert_eq!(holder.run("COMMIT"), "C(COMMIT) Z(I)");
    assert!(show(&changer.read_until_ready()).ends_with("Z(I)"));
    for sql in ["BEGIN", "SELECT count(*) FROM t", "COMMIT"] {
        assert!(!client.run(sql).contains("E("), "{sql}");
    }
    sharded.is_whole();
}

/// A name without a schema is temporary where pg_temp comes first, on servers that others get.
#[test]
fn nothing_temporary_is_made_on_several_shards() {
    let sharded = Sharded::start(TWO_PHASE);
    let view = "CREATE VIEW of_t AS SELECT k FROM public.t";
    let mut client = sharded.client();
    assert_eq!(client.run("SET search_path = pg_temp"), "C(SET) Z(I)");
    let (code, message, hint) = error(&simple(&mut client, view));
    assert!(code == "0A000" && !hint.is_empty(), "{code} {message}");
    for n in ON_ALL {
        assert_eq!(sharded.on(n, "SELECT count(*) FROM pg_class WHERE relname = 'of_t'"), "0", "shard {n}");
    }
    assert_eq!(client.run("SET search_path = public"), "C(SET) Z(I)");
    assert_eq!(client.run(view), "C(CREATE VIEW) Z(I)");
    sharded.is_whole();
}

/// What no reset ends is nobody else's, whatever has become of the block that made it.
#[test]
fn what_no_reset_ends_is_not_left_to_others() {
    let sharded = Sharded::start(&format!("{TWO_PHASE}\npool_size = 1"));
    sharded.everywhere(
        "CREATE FUNCTION seeds() RETURNS void LANGUAGE plpgsql AS $$BEGIN PERFORM setseed(0.5); END$$;
         CREATE FUNCTION on_update() RETURNS trigger LANGUAGE plpgsql AS
             $$BEGIN IF NEW.n = 77 THEN PERFORM seeds(); END IF; RETURN NULL; END$$;
         CREATE TRIGGER g AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION on_update()",
    );
    let seeded = sharded.cluster.sql_in("s0", "SELECT setseed(0.5); SELECT random()").pop().unwrap().pop().unwrap();
    let (a, b) = (sharded.key(0), sharded.key(1));
    let (seeds, random) = ("/* pgweir: shard=s0 */ SELECT seeds()", "/* pgweir: shard=s0 */ SELECT random()");
    let leaves: &[&dyn Fn(RawClient)] = &[
        &|mut client: RawClient| drop(client.run("ROLLBACK")),
        &|mut client: RawClient| drop(client.run("COMMIT")),
        &drop,
    ];
    for leave in leaves {
        let mut client = sharded.client();
        let of = |k: i64| format!("SELECT n FROM t WHERE k = {k}");
        for sql in ["BEGIN", &of(a), &of(b)] {
            assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
        }
        drop(simple(&mut client, seeds));
        leave(client);
        assert_ne!(sharded.client().value(random), seeded);
    }
    // Nor what a statement of all shards has made.
    let mut client = sharded.client();
    assert!(client.run("UPDATE t SET n = 77 WHERE k > 0").ends_with("Z(I)"));
    drop(client);
    assert_ne!(sharded.client().value(random), seeded);
}

/// Code that a failed block has not changed after all does not keep others from knowing it.
#[test]
fn code_that_a_failed_block_has_not_changed_is_known() {
    let sharded = Sharded::start(&format!("{TWO_PHASE}\npool_size = 2"));
    let (a, b) = (sharded.key(0), sharded.key(1));
    let insert = |k: i64| format!("INSERT INTO t (k) VALUES ({k})");
    let made = "CREATE FUNCTION g() RETURNS int LANGUAGE sql AS 'SELECT 1'";
    let hinted = format!("/* pgweir: shard=s1 */ {made}");
    let blocks: &[&[&str]] = &[
        &["BEGIN", made, &insert(b), &insert(b), made, "ROLLBACK"],
        &["BEGIN", "SELECT count(*) FROM t", made, &insert(b), &insert(b), "COMMIT"],
        // Before the block has spread.
        &["BEGIN", "SAVEPOINT x", &hinted, &insert(b), &insert(b), "ROLLBACK TO x", &insert(a), "ROLLBACK"],
    ];
    for block in blocks {
        for gone in [false, true] {
            let mut client = sharded.client();
            let last = block.len() - 1;
            for sql in block.iter().take(if gone { last } else { last + 1 }) {
                drop(simple(&mut client, sql));
            }
            drop(client);
            let mut other = sharded.client();
            for sql in ["BEGIN", "SELECT count(*) FROM t", &format!("SELECT n FROM t WHERE k = {a}"), "COMMIT"] {
                let told = other.run(sql);
                assert!(!told.contains("E("), "{block:?}, {sql}: {told}");
            }
        }
    }
    sharded.is_whole();
}

/// A reload makes the database anew; who was in a transaction ends it in the one before, and what it has changed the others know of.
#[test]
fn code_that_changes_across_a_reload_is_known_to_have_changed() {
    let mut sharded = Sharded::start(&format!("{TWO_PHASE}\npool_size = 2"));
    sharded.everywhere("CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'");
    let (calls, asks) = (
        "/* pgweir: shard=s0 */ SELECT f()",
        "/* pgweir: shard=s0 */ SELECT coalesce(current_setting('app.leaks', true), '')",
    );
    for (round, all) in [(1, true), (2, false)] {
        let changes = format!(
            "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE plpgsql AS
             $$BEGIN SET app.leaks = '{round}'; RETURN {round} + 1; END$$"
        );
        let harmless = "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'";
        assert_eq!(sharded.client().run(harmless), "C(CREATE FUNCTION) Z(I)");
        let mut changer = sharded.client();
        let hinted = format!("/* pgweir: shard=s0 */ {changes}");
        let block: &[&str] = if all { &["BEGIN", "SELECT count(*) FROM t", &changes] } else { &["BEGIN", &hinted] };
        for sql in block {
            let told = changer.run(sql);
            assert!(told.ends_with("Z(T)"), "{sql}: {told}");
        }
        let settings = format!(
            "cross_shard_writes = \"best_effort\"\nunkeyed_writes = true\npool_size = 2\npartial_results = {all}"
        );
        let Sharded { cluster, weir, .. } = &mut sharded;
        weir.reconfigure(|_| configured(&settings, [0, 1, 2], cluster, None));
        weir.admin("RELOAD");
        let mut other = sharded.client();
        // The census is of what is there so far.
        for sql in ["BEGIN", "SELECT count(*) FROM t", calls, "COMMIT"] {
            assert!(!other.run(sql).contains("E("), "{sql}");
        }
        assert_eq!(changer.run("COMMIT"), "C(COMMIT) Z(I)");
        assert_eq!(other.value(calls), (round + 1).to_string());
        drop((other, changer));
        // On whichever of the servers.
        let mut both = [sharded.client(), sharded.client()];
        for client in &mut both {
            assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
            assert_ne!(client.value(asks), round.to_string());
        }
    }
}

//! What functions, triggers and DO do to a block of several shards that no text shows.

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

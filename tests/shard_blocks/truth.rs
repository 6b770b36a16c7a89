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

impl Sharded {
    /// A table of the same name in another schema, without rows.
    fn with_another(&self, schema: &str) {
        for n in 0..SHARDS {
            self.cluster.sql_in(
                &format!("s{n}"),
                &format!("CREATE SCHEMA {schema}; CREATE TABLE {schema}.t (k int8, v text, n int4); CREATE TABLE {schema}.x (k int8)"),
            );
        }
    }
}

fn is_refused(client: &mut RawClient, sql: &str) -> String {
    let told = simple(client, sql);
    let (code, message, hint) = error(&told);
    assert!(code == "0A000" && !hint.is_empty(), "{sql}: {code} {message}");
    assert!(show(&told).ends_with("Z(E)"), "{sql}: {}", show(&told));
    message
}

/// What decides where statements go is no transaction's own, whatever came before it in the block.
#[test]
fn where_names_lead_does_not_change_within_a_block() {
    let sharded = Sharded::start(TWO_PHASE);
    sharded.with_another("other");
    let (a, b) = (sharded.key(0), sharded.key(1));
    let of = |k: i64| format!("SELECT n FROM t WHERE k = {k}");
    let mut client = sharded.client();
    for sets in [
        "SET LOCAL search_path = other",
        "SELECT set_config('search_path', 'other', true)",
        "SAVEPOINT x; SET LOCAL search_path = other",
        "SET LOCAL pgweir.shard = 's1'",
        "SELECT set_config('pgweir.shard', 's1', true)",
    ] {
        for before in [&["SELECT count(*) FROM t"][..], &[&of(a), &of(b)], &[&of(a), &of(b), "SELECT count(*) FROM t"]]
        {
            assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
            for sql in before {
                assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
            }
            is_refused(&mut client, sets);
            assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
        }
    }
    // Nor behind a savepoint, when the block has failed.
    for sql in ["BEGIN", "SAVEPOINT x", "SELECT count(*) FROM t", &of(b)] {
        assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
    }
    assert!(client.run(&format!("SELECT 1 / 0 FROM t WHERE k = {b}")).ends_with("Z(E)"));
    is_refused(&mut client, "ROLLBACK TO x; SET LOCAL search_path = other");
    assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    sharded.is_whole();
}

/// Who chooses the shard may set it there; what follows without a choice is not planned as if nothing had been set.
#[test]
fn names_are_not_believed_behind_a_path_of_the_transaction() {
    let sharded = Sharded::start(TWO_PHASE);
    sharded.with_another("other");
    let (a, b) = (sharded.key(0), sharded.key(1));
    let sets = "/* pgweir: shard=s0 */ SET LOCAL search_path = other";
    let mut client = sharded.client();
    for sql in [
        "SELECT count(*) FROM t",
        &format!("UPDATE t SET n = 1 WHERE k = {a}"),
        &format!("SELECT n FROM t WHERE k = {b}"),
        "SELECT * FROM x",
    ] {
        for begin in [&["BEGIN", sets][..], &["BEGIN", "SAVEPOINT x", sets, "SELECT count(*) FROM public.t"]] {
            for text in begin {
                assert!(client.run(text).ends_with("Z(T)"), "{text}");
            }
            let message = is_refused(&mut client, sql);
            assert!(message.contains("search_path"), "{message}");
            assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
        }
        // Sent before the answer is there.
        client.run("BEGIN");
        client.query(sets);
        client.query(sql);
        assert_eq!(show(&client.read_until_ready()), "C(SET) Z(T)");
        assert_eq!(error(&client.read_until_ready()).0, "0A000", "{sql}");
        assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    }
    for sql in
        ["BEGIN", sets, "SELECT count(*) FROM public.t", &format!("UPDATE public.t SET n = n WHERE k = {b}"), "COMMIT"]
    {
        assert!(!client.run(sql).contains("E("), "{sql}");
    }
    assert_eq!(client.value("SELECT count(*) FROM t"), "60");
    sharded.is_whole();
}

/// `"$user"` leads to another schema under another role, also where that is the transaction's alone. When the checks of the shards have
/// noticed that, no statement of the table is planned any more, whoever sends it.
#[test]
fn a_role_of_the_transaction_brings_no_tables_of_its_own() {
    let sharded = Sharded::start(TWO_PHASE);
    sharded.cluster.sql("CREATE ROLE app");
    for n in 0..SHARDS {
        sharded.cluster.sql_in(
            &format!("s{n}"),
            "CREATE SCHEMA app; CREATE TABLE app.t (k int8, v text, n int4); GRANT ALL ON SCHEMA app TO app; GRANT ALL ON app.t, public.t TO app",
        );
    }
    let b = sharded.key(1);
    let mut client = sharded.client();
    for sets in ["SET LOCAL ROLE app", "SELECT set_config('role', 'app', true)"] {
        for before in [&["BEGIN", sets][..], &["BEGIN", "SAVEPOINT x", sets, "ROLLBACK TO x", sets]] {
            for sql in [
                "SELECT count(*) FROM t",
                &format!("UPDATE t SET n = 1 WHERE k = {b}"),
                &format!("SELECT n FROM t WHERE k = {b}"),
                "INSERT INTO t (k) VALUES (61)",
            ] {
                for text in before {
                    let told = simple(&mut client, text);
                    assert!(show(&told).ends_with("Z(T)"), "{text}: {:?}", told.iter().find_map(Message::error));
                }
                let message = is_refused(&mut client, sql);
                assert!(message.contains("app"), "{message}");
                assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
            }
        }
    }
    for n in 0..SHARDS {
        assert_eq!(sharded.on(n, "SELECT count(*) FROM app.t"), "0");
    }
    sharded.is_whole();
}

//! DDL and maintenance on a sharded database: on every shard where the object is every shard's, on the default shard where it is that
//! one's, and refused where it would be half done.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod common;

use common::cluster::Cluster;
use common::raw::RawClient;
use common::weir::Weir;
use common::wire::Message;

/// `app` over `s0`, which is the default shard, and `s1`. `t` and `part` are sharded, `r` is a reference table, `u` is not listed.
struct Sharded {
    cluster: Cluster,
    weir: Weir,
}

const TABLES: &str = "CREATE TABLE t (k int8 PRIMARY KEY, v text, n serial);
    CREATE TABLE part (k int8 NOT NULL, d int4) PARTITION BY LIST (d);
    CREATE TABLE r (code int4 PRIMARY KEY, name text);
    CREATE FUNCTION touched() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'";
const DEFAULT_ONLY: &str =
    "CREATE TABLE u (a int4 PRIMARY KEY, b text); CREATE INDEX u_b ON u (b); CREATE SEQUENCE counter;
    CREATE VIEW of_u AS SELECT * FROM u";

impl Sharded {
    fn start(settings: &str) -> Self {
        let cluster = Cluster::start();
        let mut toml = format!("[databases.app]\ndefault_shard = \"s0\"\nprobe_user = \"postgres\"\n{settings}\n");
        for n in 0..2 {
            cluster.sql(&format!("CREATE DATABASE s{n}"));
            cluster.sql_in(&format!("s{n}"), TABLES);
            let (first, last) = (8192 * n, 8192 * n + 8191);
            toml += &format!(
                "[[databases.app.shards]]\nname = \"s{n}\"\nslots = [[{first}, {last}]]\nprimary = \"{}\"\n",
                cluster.url(&format!("s{n}"))
            );
        }
        cluster.sql_in("s0", DEFAULT_ONLY);
        // Some of what is listed is not there yet.
        toml += "[databases.app.tables]\nt = { key = \"k\", type = \"bigint\" }\npart = { key = \"k\", type = \"bigint\" }\n\
                 r = { reference = true }\nabsent = { key = \"k\", type = \"text\" }\nlater = { key = \"k\", type = \"text\" }\n\
                 copies = { reference = true }\n";
        let weir = Weir::builder().database(&toml).start();
        let this = Self { cluster, weir };
        if settings.contains("two_phase") {
            common::eventually("the table of decisions", std::time::Duration::from_secs(20), || {
                (this.both("SELECT to_regclass('pgweir.dtx') IS NOT NULL") == ["t", "t"]).then_some(())
            });
        }
        this
    }

    fn client(&self) -> RawClient {
        self.weir.client("app")
    }

    /// The first value of a query on `s0` and on `s1`.
    fn both(&self, sql: &str) -> [String; 2] {
        ["s0", "s1"].map(|shard| self.cluster.sql_in(shard, sql)[0][0].clone())
    }
}

fn refused(client: &mut RawClient, sql: &str) -> (String, String) {
    client.query(sql);
    let answer = client.read_until_ready();
    let error = answer.iter().find_map(Message::error).unwrap_or_else(|| panic!("{sql} was not refused"));
    let hint = error.fields.get(&'H').cloned().unwrap_or_default();
    assert_eq!((error.code.as_str(), hint.is_empty()), ("0A000", false), "{sql}: {}", error.message);
    (error.message, hint)
}

#[test]
fn what_belongs_to_listed_tables_is_done_on_every_shard() {
    let sharded = Sharded::start("cross_shard_writes = \"two_phase\"");
    let mut client = sharded.client();
    client.run("INSERT INTO t (k, v) VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd')");
    let index = |name: &str| format!("to_regclass('{name}') IS NOT NULL");
    let no = |what: &str| format!("NOT ({what})");
    let comment = |object: &str, class: &str| format!("obj_description({object}, '{class}') = 'x'");
    for (sql, tag, shown) in [
        // Indexes, by their names alone.
        ("CREATE INDEX t_v ON t (v)", "CREATE INDEX", index("t_v")),
        ("COMMENT ON INDEX t_v IS 'x'", "COMMENT", comment("'t_v'::regclass", "pg_class")),
        (
            "ALTER INDEX t_v SET (fillfactor = 70)",
            "ALTER INDEX",
            "(SELECT reloptions IS NOT NULL FROM pg_class WHERE relname = 't_v')".into(),
        ),
        ("ALTER INDEX t_v RENAME TO t_w", "ALTER INDEX", index("t_w")),
        ("REINDEX INDEX t_w", "REINDEX", index("t_w")),
        ("REINDEX INDEX CONCURRENTLY t_w", "REINDEX", index("t_w")),
        (
            "CLUSTER t USING t_w",
            "CLUSTER",
            "(SELECT indisclustered FROM pg_index WHERE indexrelid = 't_w'::regclass)".into(),
        ),
        ("CLUSTER", "CLUSTER", "true".into()),
        ("DROP INDEX public.t_w", "DROP INDEX", no(&index("t_w"))),
        ("CREATE INDEX CONCURRENTLY t_v ON t (v)", "CREATE INDEX", index("t_v")),
        ("DROP INDEX CONCURRENTLY t_v", "DROP INDEX", no(&index("t_v"))),
        // Views of listed tables, and views of such views.
        ("CREATE VIEW of_t AS SELECT k, v FROM t", "CREATE VIEW", index("of_t")),
        ("CREATE OR REPLACE VIEW of_t AS SELECT k, v, n FROM t JOIN r ON r.code = t.n", "CREATE VIEW", index("of_t")),
        ("CREATE VIEW again AS WITH x AS (SELECT * FROM of_t) SELECT * FROM x", "CREATE VIEW", index("again")),
        ("COMMENT ON VIEW again IS 'x'", "COMMENT", comment("'again'::regclass", "pg_class")),
        ("COMMENT ON COLUMN again.v IS 'x'", "COMMENT", "col_description('again'::regclass, 2) = 'x'".into()),
        ("ALTER VIEW again ALTER v SET DEFAULT 'x'", "ALTER VIEW", index("again")),
        ("ALTER VIEW again RENAME TO once_more", "ALTER VIEW", index("once_more")),
        (
            "GRANT SELECT ON once_more TO PUBLIC",
            "GRANT",
            "has_table_privilege('pg_monitor', 'once_more', 'SELECT')".into(),
        ),
        ("DROP VIEW once_more, of_t", "DROP VIEW", no(&index("of_t"))),
        ("CREATE MATERIALIZED VIEW kept AS SELECT k, v FROM t", "SELECT 4", index("kept")),
        ("INSERT INTO t (k, v) VALUES (5, 'e'), (6, 'f'), (7, 'g'), (8, 'h')", "INSERT 0 4", "true".into()),
        (
            "REFRESH MATERIALIZED VIEW kept",
            "REFRESH MATERIALIZED VIEW",
            "(SELECT count(*) FROM kept) = (SELECT count(*) FROM t)".into(),
        ),
        ("CREATE UNIQUE INDEX kept_k ON kept (k)", "CREATE INDEX", index("kept_k")),
        ("REFRESH MATERIALIZED VIEW CONCURRENTLY kept", "REFRESH MATERIALIZED VIEW", "true".into()),
        ("ANALYZE kept", "ANALYZE", "true".into()),
        (
            "ALTER MATERIALIZED VIEW kept RENAME COLUMN v TO w",
            "ALTER MATERIALIZED VIEW",
            "(SELECT count(w) > 0 FROM kept)".into(),
        ),
        ("DROP MATERIALIZED VIEW IF EXISTS kept", "DROP MATERIALIZED VIEW", no(&index("kept"))),
        ("CREATE VIEW mine AS SELECT k, relname FROM t, pg_class", "CREATE VIEW", index("mine")),
        ("DROP VIEW mine", "DROP VIEW", no(&index("mine"))),
        // A view of copies has the same rows everywhere.
        ("CREATE VIEW names AS SELECT name FROM r", "CREATE VIEW", index("names")),
        ("DROP VIEW names", "DROP VIEW", no(&index("names"))),
        // What runs behind tables.
        (
            "CREATE TRIGGER touches BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION touched()",
            "CREATE TRIGGER",
            "(SELECT count(*) = 1 FROM pg_trigger WHERE tgname = 'touches')".into(),
        ),
        (
            "ALTER TRIGGER touches ON t RENAME TO touched",
            "ALTER TRIGGER",
            "(SELECT count(*) = 1 FROM pg_trigger WHERE tgname = 'touched')".into(),
        ),
        (
            "COMMENT ON TRIGGER touched ON t IS 'x'",
            "COMMENT",
            comment("(SELECT oid FROM pg_trigger WHERE tgname = 'touched')", "pg_trigger"),
        ),
        (
            "DROP TRIGGER touched ON t",
            "DROP TRIGGER",
            "(SELECT count(*) = 0 FROM pg_trigger WHERE tgname = 'touched')".into(),
        ),
        ("CREATE POLICY own ON t USING (v <> 'z')", "CREATE POLICY", "(SELECT count(*) = 1 FROM pg_policy)".into()),
        (
            "ALTER POLICY own ON t USING (v <> 'y')",
            "ALTER POLICY",
            "(SELECT count(*) = 1 FROM pg_policies WHERE qual LIKE '%y%')".into(),
        ),
        ("DROP POLICY own ON t", "DROP POLICY", "(SELECT count(*) = 0 FROM pg_policy)".into()),
        (
            "CREATE STATISTICS st ON v, n FROM t",
            "CREATE STATISTICS",
            "(SELECT count(*) = 1 FROM pg_statistic_ext)".into(),
        ),
        ("DROP STATISTICS st", "DROP STATISTICS", "(SELECT count(*) = 0 FROM pg_statistic_ext)".into()),
        // Sequences of their columns.
        (
            "ALTER SEQUENCE t_n_seq INCREMENT 5",
            "ALTER SEQUENCE",
            "(SELECT seqincrement = 5 FROM pg_sequence WHERE seqrelid = 't_n_seq'::regclass)".into(),
        ),
        ("ALTER SEQUENCE t_n_seq OWNED BY t.n", "ALTER SEQUENCE", "true".into()),
        (
            "GRANT USAGE ON SEQUENCE t_n_seq TO PUBLIC",
            "GRANT",
            "has_sequence_privilege('pg_monitor', 't_n_seq', 'USAGE')".into(),
        ),
        ("DROP SEQUENCE t_n_seq CASCADE", "DROP SEQUENCE", no(&index("t_n_seq"))),
        // Partitions.
        ("CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1)", "CREATE TABLE", index("part_1")),
        ("CREATE INDEX part_k ON part_1 (k)", "CREATE INDEX", index("part_k")),
        (
            "ALTER TABLE part_1 ADD CHECK (k > 0)",
            "ALTER TABLE",
            "(SELECT count(*) = 1 FROM pg_constraint WHERE conrelid = 'part_1'::regclass AND contype = 'c')".into(),
        ),
        ("TRUNCATE part_1", "TRUNCATE TABLE", index("part_1")),
        ("VACUUM part_1", "VACUUM", index("part_1")),
        ("DROP TABLE part_1", "DROP TABLE", no(&index("part_1"))),
        // What is nobody's table.
        ("CREATE TYPE pair AS (a int4, b int4)", "CREATE TYPE", "to_regtype('pair') IS NOT NULL".into()),
        ("COMMENT ON COLUMN pair.a IS 'x'", "COMMENT", "col_description('pair'::regclass, 1) = 'x'".into()),
        (
            "ALTER TYPE pair ADD ATTRIBUTE c text",
            "ALTER TYPE",
            "(SELECT count(*) = 3 FROM pg_attribute WHERE attrelid = 'pair'::regclass)".into(),
        ),
        (
            "ALTER TYPE pair RENAME ATTRIBUTE c TO d",
            "ALTER TYPE",
            "(SELECT count(*) = 1 FROM pg_attribute WHERE attrelid = 'pair'::regclass AND attname = 'd')".into(),
        ),
        ("DROP TYPE pair", "DROP TYPE", "to_regtype('pair') IS NULL".into()),
        ("CREATE DOMAIN small AS int4 CHECK (VALUE < 10)", "CREATE DOMAIN", "to_regtype('small') IS NOT NULL".into()),
        ("ALTER DOMAIN small SET DEFAULT 3", "ALTER DOMAIN", "to_regtype('small') IS NOT NULL".into()),
        (
            "CREATE FUNCTION one() RETURNS int4 IMMUTABLE LANGUAGE sql AS 'SELECT 1'",
            "CREATE FUNCTION",
            "one() = 1".into(),
        ),
        ("ALTER FUNCTION one() RENAME TO uno", "ALTER FUNCTION", "uno() = 1".into()),
        ("COMMENT ON FUNCTION uno() IS 'x'", "COMMENT", comment("'uno()'::regprocedure", "pg_proc")),
        ("DROP FUNCTION uno()", "DROP FUNCTION", "to_regproc('uno') IS NULL".into()),
        ("CREATE SCHEMA apart", "CREATE SCHEMA", "to_regnamespace('apart') IS NOT NULL".into()),
        ("ALTER SCHEMA apart RENAME TO aside", "ALTER SCHEMA", "to_regnamespace('aside') IS NOT NULL".into()),
        (
            "GRANT USAGE ON SCHEMA aside TO PUBLIC",
            "GRANT",
            "has_schema_privilege('pg_monitor', 'aside', 'USAGE')".into(),
        ),
        (
            "REVOKE USAGE ON SCHEMA aside FROM PUBLIC",
            "REVOKE",
            "NOT has_schema_privilege('pg_monitor', 'aside', 'USAGE')".into(),
        ),
        ("DROP SCHEMA aside", "DROP SCHEMA", "to_regnamespace('aside') IS NULL".into()),
        ("CREATE EXTENSION pgcrypto", "CREATE EXTENSION", "to_regproc('crypt') IS NOT NULL".into()),
        ("DROP EXTENSION pgcrypto", "DROP EXTENSION", "to_regproc('crypt') IS NULL".into()),
        ("REINDEX TABLE t", "REINDEX", "true".into()),
        // Which cannot run in a transaction.
        ("REINDEX TABLE part", "REINDEX", "true".into()),
        ("REINDEX SCHEMA public", "REINDEX", "true".into()),
        ("VACUUM (ANALYZE) t", "VACUUM", "true".into()),
        ("ANALYZE", "ANALYZE", "true".into()),
    ] {
        let answer = client.run(sql);
        // CASCADE tells what else is dropped.
        assert_eq!(answer.trim_start_matches("N(NOTICE 00000) "), format!("C({tag}) Z(I)"), "{sql}");
        assert_eq!(sharded.both(&format!("SELECT {shown}")), ["t", "t"], "{sql}: {shown}");
    }
    assert_eq!(sharded.cluster.value("SELECT count(*) FROM pg_prepared_xacts"), "0");
}

#[test]
fn what_is_the_default_shards_alone_is_changed_there() {
    // Without any setting.
    let sharded = Sharded::start("");
    let mut client = sharded.client();
    for (sql, tag) in [
        ("COMMENT ON TABLE u IS 'x'", "COMMENT"),
        ("COMMENT ON COLUMN u.b IS 'x'", "COMMENT"),
        ("CREATE INDEX u_ab ON u (a, b)", "CREATE INDEX"),
        ("ALTER INDEX u_ab RENAME TO u_ba", "ALTER INDEX"),
        ("REINDEX INDEX u_ba", "REINDEX"),
        ("DROP INDEX u_ba", "DROP INDEX"),
        ("CREATE TRIGGER g BEFORE INSERT ON u FOR EACH ROW EXECUTE FUNCTION touched()", "CREATE TRIGGER"),
        ("DROP TRIGGER g ON u", "DROP TRIGGER"),
        ("CREATE POLICY p ON u USING (true)", "CREATE POLICY"),
        ("ALTER POLICY p ON u USING (a > 0)", "ALTER POLICY"),
        ("COMMENT ON POLICY p ON u IS 'x'", "COMMENT"),
        ("DROP POLICY p ON u", "DROP POLICY"),
        ("CREATE STATISTICS st ON a, b FROM u", "CREATE STATISTICS"),
        ("ALTER SEQUENCE counter RESTART 7", "ALTER SEQUENCE"),
        ("GRANT USAGE ON SEQUENCE counter TO PUBLIC", "GRANT"),
        ("CREATE SEQUENCE another OWNED BY u.a", "CREATE SEQUENCE"),
        ("DROP SEQUENCE another, counter", "DROP SEQUENCE"),
        ("CREATE OR REPLACE VIEW of_u AS SELECT a, b FROM u LEFT JOIN r ON r.code = u.a", "CREATE VIEW"),
        ("CREATE VIEW again AS SELECT * FROM of_u", "CREATE VIEW"),
        ("ALTER VIEW again RENAME TO more", "ALTER VIEW"),
        ("CREATE MATERIALIZED VIEW kept AS SELECT * FROM more", "SELECT 0"),
        ("REFRESH MATERIALIZED VIEW kept", "REFRESH MATERIALIZED VIEW"),
        ("CREATE INDEX kept_a ON kept (a)", "CREATE INDEX"),
        ("DROP INDEX kept_a", "DROP INDEX"),
        ("ALTER TABLE u ADD CONSTRAINT u_r FOREIGN KEY (a) REFERENCES r", "ALTER TABLE"),
        ("ALTER TABLE u DROP CONSTRAINT u_r", "ALTER TABLE"),
        ("DROP MATERIALIZED VIEW kept", "DROP MATERIALIZED VIEW"),
        ("DROP VIEW more, of_u", "DROP VIEW"),
        ("CREATE TABLE w (a int4 REFERENCES r, b int4 REFERENCES u)", "CREATE TABLE"),
        ("DROP TABLE IF EXISTS w", "DROP TABLE"),
        ("VACUUM u", "VACUUM"),
    ] {
        assert_eq!(client.run(sql), format!("C({tag}) Z(I)"), "{sql}");
    }
    // Also what its transaction has made, or its session for itself.
    for sql in
        ["BEGIN", "CREATE INDEX u_ab ON u (a, b)", "CREATE VIEW v AS SELECT 1 AS a", "ALTER INDEX u_ab RENAME TO u_c"]
    {
        assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
    }
    for (sql, tag) in [("DROP VIEW v", "DROP VIEW"), ("DROP INDEX u_c", "DROP INDEX"), ("COMMIT", "COMMIT")] {
        assert!(client.run(sql).starts_with(&format!("C({tag})")), "{sql}");
    }
    assert_eq!(client.run("CREATE TEMP VIEW mine AS SELECT 1 AS a"), "C(CREATE VIEW) Z(I)");
    assert_eq!(client.run("DROP VIEW mine"), "C(DROP VIEW) Z(I)");
    assert_eq!(sharded.both("SELECT count(*) FROM pg_views WHERE schemaname = 'public'"), ["0", "0"]);
}

#[test]
fn nothing_is_half_done() {
    let sharded = Sharded::start("cross_shard_writes = \"two_phase\"");
    let mut client = sharded.client();
    for (sql, why) in [
        ("CREATE VIEW two AS SELECT * FROM t JOIN u ON t.n = u.a", "lives on the default shard only"),
        ("CREATE MATERIALIZED VIEW two AS SELECT a FROM u UNION SELECT n FROM t", "lives on the default shard only"),
        ("CREATE OR REPLACE VIEW of_u AS SELECT n AS a, v AS b FROM t", "not on the same shards"),
        ("GRANT SELECT ON t, u TO PUBLIC", "together with \"u\""),
        ("TRUNCATE u, t", "together with \"u\""),
        ("DROP INDEX u_b, t_pkey", "together with \"u_b\""),
        ("DROP VIEW IF EXISTS of_u, nowhere", "\"nowhere\""),
        ("ALTER TABLE u ADD FOREIGN KEY (a) REFERENCES t (k)", "together with \"u\""),
        ("CREATE TABLE w (a int8 REFERENCES t)", "together with \"w\""),
        ("CREATE SEQUENCE s OWNED BY t.n", "count on each shard"),
        ("CREATE SEQUENCE s OWNED BY r.code", "count on each shard"),
        ("ALTER SEQUENCE t_n_seq OWNED BY NONE", "is not listed"),
        ("ALTER TABLE t RENAME TO other", "is not listed"),
        ("ALTER TABLE t SET SCHEMA other", "is not listed"),
        ("CREATE FOREIGN TABLE far (a int4) SERVER s", "every shard"),
        ("IMPORT FOREIGN SCHEMA a FROM SERVER s INTO public", "every shard"),
        ("CREATE TEMP VIEW mine AS SELECT * FROM t", "not supported"),
        ("CREATE SUBSCRIPTION s CONNECTION '' PUBLICATION p", "every shard"),
        ("CREATE TABLESPACE x LOCATION '/x'", "every shard"),
        ("CREATE TABLE copy AS SELECT * FROM t", "not supported"),
        ("LOCK TABLE t", "not supported"),
    ] {
        let (message, _) = refused(&mut client, sql);
        assert!(message.contains(why), "{sql}: {message}");
    }
    // Nor gets anything the name of a table that is listed, unless it is spread as that.
    sharded.cluster.sql_in(
        "s0",
        "CREATE SCHEMA aside; CREATE TABLE aside.r (code int4); CREATE VIEW aside.gone AS SELECT 1 AS one",
    );
    for (sql, why) in [
        ("ALTER TABLE u RENAME TO absent", "which the configuration lists"),
        ("ALTER TABLE aside.r SET SCHEMA public", "which the configuration lists"),
        ("ALTER TABLE IF EXISTS nowhere RENAME TO absent", "which the configuration lists"),
        ("ALTER VIEW of_u RENAME TO absent", "which the configuration lists"),
        (
            "ALTER VIEW aside.gone SET SCHEMA public; SELECT 1; ALTER VIEW of_u RENAME TO absent",
            "which the configuration lists",
        ),
        ("ALTER SEQUENCE counter RENAME TO absent", "which the configuration lists"),
        ("ALTER INDEX u_b RENAME TO absent", "which the configuration lists"),
        ("ALTER TABLE t RENAME TO absent", "which the configuration lists"),
        ("ALTER TABLE r RENAME TO absent", "which the configuration lists"),
        ("CREATE TABLE absent AS SELECT 1 AS k", "not supported"),
        ("SELECT 1 AS k INTO absent", "not supported"),
        ("CREATE TABLE absent AS TABLE u", "not supported"),
        ("CREATE VIEW absent AS SELECT a AS k FROM u", "lives on the default shard only"),
        ("CREATE VIEW absent AS SELECT code AS k FROM r", "as what it is made of"),
        ("CREATE MATERIALIZED VIEW absent AS SELECT code AS k FROM r", "as what it is made of"),
        ("CREATE VIEW copies AS SELECT k FROM t", "as what it is made of"),
    ] {
        let (message, _) = refused(&mut client, sql);
        assert!(message.contains(why), "{sql}: {message}");
    }
    assert_eq!(sharded.both("SELECT to_regclass('absent') IS NULL AND to_regclass('copies') IS NULL"), ["t", "t"]);
    // What is listed alike may.
    for (sql, tag, there) in [
        ("CREATE TABLE absent (k text PRIMARY KEY, n int8)", "CREATE TABLE", "to_regclass('absent') IS NOT NULL"),
        ("ALTER TABLE absent RENAME TO later", "ALTER TABLE", "to_regclass('later') IS NOT NULL"),
        ("DROP TABLE later", "DROP TABLE", "to_regclass('absent') IS NULL AND to_regclass('later') IS NULL"),
    ] {
        assert_eq!(client.run(sql), format!("C({tag}) Z(I)"), "{sql}");
        assert_eq!(sharded.both(&format!("SELECT {there}")), ["t", "t"], "{sql}");
    }
    // What one shard will not do is done on none.
    sharded.cluster.sql_in("s1", "CREATE VIEW taken AS SELECT 1 AS one");
    assert_eq!(client.run("CREATE VIEW taken AS SELECT k FROM t"), "E(42P07) Z(I)");
    assert_eq!(sharded.both("SELECT to_regclass('taken') IS NULL"), ["t", "f"]);
    // A name that the default shard does not know may be another shard's.
    assert_eq!(client.run("DROP VIEW taken"), "E(42P01) Z(I)");
    assert_eq!(sharded.both("SELECT to_regclass('taken') IS NULL"), ["t", "f"]);
    assert!(client.run("DROP VIEW IF EXISTS taken").ends_with("C(DROP VIEW) Z(I)"));
    assert_eq!(sharded.both("SELECT to_regclass('taken') IS NULL"), ["t", "t"]);
    // A partition that leaves would be nobody's.
    assert_eq!(client.run("CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1)"), "C(CREATE TABLE) Z(I)");
    assert!(refused(&mut client, "ALTER TABLE part DETACH PARTITION part_1").0.contains("is not listed"));
    assert_eq!(client.run("DROP TABLE part_1"), "C(DROP TABLE) Z(I)");
    // On a chosen shard it is the operator's: one after the other, until none has it.
    assert_eq!(client.run("CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1)"), "C(CREATE TABLE) Z(I)");
    assert_eq!(client.run("INSERT INTO part (k, d) VALUES (1, 1), (2, 1), (3, 1), (4, 1)"), "C(INSERT 0 4) Z(I)");
    let attached = "SELECT count(*) FROM pg_inherits WHERE inhrelid = 'part_1'::regclass";
    for (shard, left) in [("s1", ["1", "0"]), ("s0", ["0", "0"])] {
        let detach = format!("/* pgweir: shard={shard} */ ALTER TABLE part DETACH PARTITION part_1");
        assert_eq!(client.run(&detach), "C(ALTER TABLE) Z(I)");
        assert_eq!(sharded.both(attached), left);
    }
    let rows: Vec<u32> =
        sharded.both("SELECT count(*) FROM part_1").iter().map(|count| count.parse().unwrap()).collect();
    assert!(rows.iter().sum::<u32>() == 4 && rows.iter().all(|count| *count > 0), "{rows:?}");
    assert_eq!(client.value("SELECT count(*) FROM part"), "0");
    for shard in ["s0", "s1"] {
        let read = client.value(&format!("/* pgweir: shard={shard} */ SELECT count(*) FROM part_1"));
        assert_eq!(read, rows[usize::from(shard == "s1")].to_string());
        assert_eq!(client.run(&format!("/* pgweir: shard={shard} */ DROP TABLE part_1")), "C(DROP TABLE) Z(I)");
    }
    // What a block makes on all shards is not found on one of them alone.
    for (made, named) in [
        ("CREATE VIEW of_t AS SELECT k FROM t", "GRANT SELECT ON of_t TO PUBLIC"),
        ("CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1)", "CREATE INDEX part_k ON part_1 (k)"),
    ] {
        assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
        assert!(client.run(made).ends_with("Z(T)"), "{made}");
        assert!(refused(&mut client, named).0.contains("this transaction has changed"), "{named}");
        client.run("ROLLBACK");
    }
    // What takes another's place does so after that is gone for all.
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(client.run("DROP VIEW of_u"), "C(DROP VIEW) Z(T)");
    assert!(refused(&mut client, "CREATE VIEW of_u AS SELECT k FROM t").1.contains("COMMIT"));
    client.run("ROLLBACK");
    // In a block that has changed several shards names may mean what nobody else sees.
    for sql in ["BEGIN", "CREATE INDEX t_v ON t (v)", "CREATE VIEW of_t AS SELECT k FROM t", "DROP INDEX t_pkey2"] {
        if sql.starts_with("DROP") {
            assert!(refused(&mut client, sql).0.contains("this transaction has changed"));
        } else {
            assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
        }
    }
    client.run("ROLLBACK");
    for sql in [
        "BEGIN",
        "ALTER TABLE t ADD COLUMN extra int4",
        "CREATE INDEX t_extra ON t (extra)",
        "ALTER INDEX t_pkey RENAME TO t_key",
    ] {
        assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
    }
    assert_eq!(client.run("CREATE INDEX CONCURRENTLY t_x ON t (extra)"), "E(25001) Z(E)");
    assert_eq!(client.run("COMMIT"), "C(ROLLBACK) Z(I)");
    assert_eq!(sharded.both("SELECT to_regclass('t_extra') IS NULL AND to_regclass('t_pkey') IS NOT NULL"), ["t", "t"]);

    // Without the setting it is the operator's, shard by shard.
    let plain = Sharded::start("");
    let mut client = plain.client();
    for sql in [
        "CREATE VIEW of_t AS SELECT * FROM t",
        "CREATE VIEW of_r AS SELECT * FROM r",
        "DROP INDEX t_pkey",
        "DROP INDEX IF EXISTS nothing",
        "ALTER SEQUENCE t_n_seq RESTART",
        "COMMENT ON COLUMN t.v IS 'x'",
        "DROP TRIGGER IF EXISTS x ON t",
        "CREATE TYPE pair AS (a int4)",
    ] {
        let (message, hint) = refused(&mut client, sql);
        assert!(hint.contains("cross_shard_writes") && hint.contains("pgweir.shard"), "{sql}: {message} {hint}");
        let chosen = sql.replace("DROP INDEX t_pkey", "ALTER INDEX t_pkey RENAME TO t_key");
        for shard in ["s0", "s1"] {
            let answer = client.run(&format!("/* pgweir: shard={shard} */ {chosen}"));
            assert!(answer.ends_with("Z(I)") && !answer.starts_with('E'), "{chosen}: {answer}");
        }
    }
    assert_eq!(plain.both("SELECT to_regclass('of_t') IS NOT NULL AND to_regclass('t_key') IS NOT NULL"), ["t", "t"]);
}

/// Of plain tables PostgreSQL runs them in a transaction, and of partitioned ones it does not.
#[test]
fn reindex_and_cluster_of_a_plain_table_are_a_part_of_their_block() {
    let sharded = Sharded::start("cross_shard_writes = \"two_phase\"");
    let mut client = sharded.client();
    assert_eq!(client.run("CREATE INDEX t_v ON t (v)"), "C(CREATE INDEX) Z(I)");
    let file = "SELECT pg_relation_filenode('t_v')";
    let clustered = "SELECT indisclustered FROM pg_index WHERE indexrelid = 't_v'::regclass";
    let ends = [("ROLLBACK", "f", true), ("COMMIT", "t", false)];
    for (end, is_clustered, same) in ends {
        let before = sharded.both(file);
        for (sql, told) in [
            ("BEGIN", "C(BEGIN) Z(T)"),
            ("INSERT INTO t (k, v) VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd')", "C(INSERT 0 4) Z(T)"),
            ("REINDEX INDEX t_v", "C(REINDEX) Z(T)"),
            ("REINDEX TABLE t", "C(REINDEX) Z(T)"),
            ("CLUSTER t USING t_v", "C(CLUSTER) Z(T)"),
            (end, &format!("C({end}) Z(I)")),
        ] {
            assert_eq!(client.run(sql), told, "{sql}");
        }
        let after = sharded.both(file);
        assert!([0, 1].iter().all(|shard| (before[*shard] == after[*shard]) == same), "{end}: {before:?} {after:?}");
        assert_eq!(sharded.both(clustered), [is_clustered, is_clustered]);
    }
    for sql in [
        "REINDEX TABLE part",
        "REINDEX INDEX CONCURRENTLY t_v",
        "REINDEX (CONCURRENTLY) TABLE t",
        "CLUSTER",
        "REINDEX SCHEMA public",
    ] {
        assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
        assert_eq!(
            client.run("INSERT INTO t (k, v) VALUES (11, 'a'), (12, 'b'), (13, 'c'), (14, 'd')"),
            "C(INSERT 0 4) Z(T)"
        );
        assert_eq!(client.run(sql), "E(25001) Z(E)", "{sql}");
        assert_eq!(client.run("COMMIT"), "C(ROLLBACK) Z(I)");
    }
    assert_eq!(client.value("SELECT count(*) FROM t"), "4");
    // By itself none needs a block.
    assert_eq!(client.run("REINDEX TABLE part"), "C(REINDEX) Z(I)");
}

/// Several remarks in one text: a composite type is every shard's, whoever says so first.
#[test]
fn a_composite_type_is_every_shards_in_one_text_as_well() {
    let sharded = Sharded::start("cross_shard_writes = \"two_phase\"");
    let mut client = sharded.client();
    assert_eq!(client.run("CREATE TYPE pair AS (a int4, b int4)"), "C(CREATE TYPE) Z(I)");
    let (message, hint) = refused(&mut client, "COMMENT ON COLUMN pair.a IS 'x'; COMMENT ON COLUMN pair.b IS 'x'");
    assert!(message.contains("every shard") && hint.contains("by itself"), "{message} {hint}");
    let said = "SELECT count(*) FROM pg_description WHERE objoid = 'pair'::regclass AND objsubid > 0";
    assert_eq!(sharded.both(said), ["0", "0"]);
    for column in ["a", "b"] {
        assert_eq!(client.run(&format!("COMMENT ON COLUMN pair.{column} IS 'x'")), "C(COMMENT) Z(I)");
    }
    assert_eq!(sharded.both(said), ["2", "2"]);
}

/// A view of copies and of a view that only the default shard has, though that reads no table: it is the default shard's.
#[test]
fn a_view_beside_one_of_no_table_is_where_that_is() {
    let sharded = Sharded::start("cross_shard_writes = \"two_phase\"");
    let mut client = sharded.client();
    for (sql, tag) in [
        ("CREATE VIEW one AS SELECT 1 AS one", "CREATE VIEW"),
        ("CREATE VIEW same AS SELECT * FROM one", "CREATE VIEW"),
        ("CREATE VIEW pairs AS SELECT r.name, same.one FROM r, same", "CREATE VIEW"),
        ("INSERT INTO r VALUES (1, 'a')", "INSERT 0 1"),
        ("COMMENT ON VIEW pairs IS 'x'", "COMMENT"),
        ("ALTER VIEW pairs RENAME TO others", "ALTER VIEW"),
    ] {
        assert_eq!(client.run(sql), format!("C({tag}) Z(I)"), "{sql}");
    }
    assert_eq!(sharded.both("SELECT to_regclass('others') IS NOT NULL"), ["t", "f"]);
    assert_eq!(client.value("SELECT name FROM others"), "a");
    assert_eq!(client.run("DROP VIEW others, same, one"), "C(DROP VIEW) Z(I)");
    // One of copies alone is every shard's still.
    assert_eq!(client.run("CREATE VIEW names AS SELECT name FROM r"), "C(CREATE VIEW) Z(I)");
    assert_eq!(client.run("CREATE VIEW again AS SELECT name FROM names"), "C(CREATE VIEW) Z(I)");
    assert_eq!(sharded.both("SELECT to_regclass('again') IS NOT NULL"), ["t", "t"]);
    assert_eq!(client.run("DROP VIEW again, names"), "C(DROP VIEW) Z(I)");
}

#[test]
fn views_are_read_rightly_or_refused() {
    let sharded = Sharded::start("cross_shard_writes = \"two_phase\"");
    let mut client = sharded.client();
    for sql in [
        "INSERT INTO t (k, v) VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd')",
        "INSERT INTO r VALUES (1, 'one')",
        "INSERT INTO u VALUES (1, 'only')",
        "CREATE VIEW of_t AS SELECT k, v FROM t",
        "CREATE VIEW again AS SELECT count(*) AS n FROM of_t",
        "CREATE MATERIALIZED VIEW kept AS SELECT k FROM t",
        "CREATE VIEW of_r AS SELECT name FROM r",
        "CREATE MATERIALIZED VIEW kept_r AS SELECT name FROM r",
    ] {
        let answer = client.run(sql);
        assert!(answer.ends_with("Z(I)") && !answer.starts_with('E'), "{sql}: {answer}");
    }
    for sql in [
        "SELECT * FROM of_t",
        "SELECT * FROM of_t WHERE k = 1",
        "SELECT n FROM again",
        "SELECT count(*) FROM kept",
        "SELECT t.k FROM t JOIN of_t USING (k) WHERE t.k = 1",
        "SELECT (SELECT count(*) FROM of_t)",
        "UPDATE of_t SET v = 'x' WHERE k = 1",
        "DELETE FROM of_t",
        "INSERT INTO of_t (k, v) VALUES (9, 'x')",
        "COPY of_t TO STDOUT",
        "UPDATE of_r SET name = 'x'",
    ] {
        let (message, _) = refused(&mut client, sql);
        assert!(message.contains("made of table"), "{sql}: {message}");
    }
    for (sql, value) in [
        ("SELECT name FROM of_r", "one"),
        ("SELECT name FROM kept_r", "one"),
        ("SELECT b FROM of_u", "only"),
        ("SELECT of_r.name FROM of_r JOIN u ON true", "one"),
    ] {
        assert_eq!(client.value(sql), value, "{sql}");
    }
    let parts: usize = ["s0", "s1"]
        .map(|shard| {
            client.value(&format!("/* pgweir: shard={shard} */ SELECT n FROM again")).parse::<usize>().unwrap()
        })
        .iter()
        .sum();
    assert_eq!(parts, 4);
}

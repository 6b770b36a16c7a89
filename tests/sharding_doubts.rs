//! Where a sharded database could be silently wrong although every key is read rightly: what was prepared on one shard runs on
//! another, what the servers have made differs, what runs behind a table is not in the statement, what is chosen does not last. In
//! each case the answer is right, or there is an error.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod common;

use std::time::Duration;

use common::cluster::Cluster;
use common::raw::RawClient;
use common::weir::Weir;
use common::wire::{Message, show};
use pgweir::shard::hash;

const SCHEMA: &str = "
    CREATE TABLE t (k int8 PRIMARY KEY, v text, n int4);
    CREATE TABLE o (k int8, id int8, note text, PRIMARY KEY (k, id));
    CREATE TABLE w (k text PRIMARY KEY, first text, last text);
    CREATE TABLE ref (code int4 PRIMARY KEY, name text);
    CREATE TABLE plain (id int8 PRIMARY KEY, x int8);";

const TABLES: &str = "\
    t = { key = \"k\", type = \"bigint\" }\n\
    o = { key = \"k\", type = \"bigint\" }\n\
    w = { key = \"k\", type = \"text\" }\n\
    ref = { reference = true }\n";

/// A sharded database `app` over two databases of one cluster, each with half of the slots.
struct Sharded {
    cluster: Cluster,
    weir: Weir,
}

impl Sharded {
    /// `schema` and then `own` of each shard are run beside the common tables.
    fn start(schema: &str, own: [&str; 2]) -> Self {
        Self::start_with(schema, own, "")
    }

    /// The same with more listed tables.
    fn start_with(schema: &str, own: [&str; 2], tables: &str) -> Self {
        Self::start_as("", schema, own, tables)
    }

    /// The same where statements write on several shards.
    fn writing(schema: &str, own: [&str; 2], tables: &str) -> Self {
        Self::start_as("cross_shard_writes = \"best_effort\"\nunkeyed_writes = true\n", schema, own, tables)
    }

    fn start_as(settings: &str, schema: &str, own: [&str; 2], tables: &str) -> Self {
        let cluster = Cluster::start();
        let mut toml = format!("[databases.app]\ndefault_shard = \"s0\"\nprobe_user = \"postgres\"\n{settings}");
        for (number, own) in own.iter().enumerate() {
            let name = format!("s{number}");
            cluster.sql(&format!("CREATE DATABASE {name}"));
            for sql in [SCHEMA, schema, own] {
                cluster.sql_in(&name, sql);
            }
            let (first, last) = (8192 * number, 8192 * number + 8191);
            toml += &format!(
                "[[databases.app.shards]]\nname = \"{name}\"\nslots = [[{first}, {last}]]\nprimary = \"{}\"\n",
                cluster.url(&name)
            );
        }
        let weir = Weir::builder().database(&(toml + "[databases.app.tables]\n" + TABLES + tables)).start();
        Self { cluster, weir }
    }

    fn client(&self) -> RawClient {
        self.weir.client("app")
    }

    /// The first key from `from` on that belongs to a shard.
    fn key(&self, shard: u16, from: i64) -> i64 {
        (from..).find(|key| hash::slot_of(hash::hash_integer(*key)).0 / 8192 == shard).unwrap()
    }

    fn on(&self, shard: u16, sql: &str) -> Vec<Vec<String>> {
        self.cluster.sql_in(&format!("s{shard}"), sql)
    }

    /// Waits until the checks of both shards say what `wanted` wants of them.
    fn wait_checks(&self, wanted: impl Fn(&[String]) -> bool) {
        common::eventually("the checks", Duration::from_secs(60), || {
            let rows = self.weir.admin_table("SHOW SHARDS");
            let checks: Vec<String> = rows.iter().map(|row| row["check"].clone()).collect();
            wanted(&checks).then_some(())
        });
    }

    fn wait_ok(&self) {
        self.wait_checks(|checks| checks.iter().all(|check| check == "ok"));
    }
}

/// The reason for which a statement is refused with 0A000 and a hint.
#[track_caller]
fn refused(client: &mut RawClient, sql: &str) -> String {
    client.query(sql);
    let messages = client.read_until_ready();
    reason(&messages, sql)
}

#[track_caller]
fn reason(messages: &[Message], sql: &str) -> String {
    let error = messages.iter().find_map(Message::error).unwrap_or_else(|| panic!("{sql}: {}", show(messages)));
    assert_eq!(error.fields[&'C'], "0A000", "{sql}: {error:?}");
    assert!(error.fields.get(&'H').is_some_and(|hint| !hint.is_empty()), "{sql}: no hint in {error:?}");
    error.fields[&'M'].clone()
}

/// Runs one statement by the extended protocol.
fn extended(client: &mut RawClient, sql: &str, oids: &[u32], values: &[Option<&str>]) -> Vec<Message> {
    client.parse("", sql, oids);
    client.bind("", "", values);
    client.execute("", 0);
    client.sync();
    client.read_until_ready()
}

// What the servers have made.

#[test]
fn a_types_number_is_that_of_one_shard() {
    let mood = "CREATE TYPE mood AS ENUM ('sad', 'glad')";
    // The number that the first shard has for it is another type's on the second, or nothing.
    let sharded = Sharded::start(
        "",
        [mood, "CREATE TYPE other AS ENUM ('sad', 'glad', 'x'); CREATE TYPE mood AS ENUM ('glad', 'sad')"],
    );
    let oid: u32 = sharded.on(0, "SELECT 'mood'::regtype::oid")[0][0].parse().unwrap();
    let mut client = sharded.client();
    for shard in [0, 1] {
        let key = sharded.key(shard, 1);
        client.run(&format!("INSERT INTO t (k, v) VALUES ({key}, 'v')"));
        let select = format!("SELECT v FROM t WHERE k = {key} AND $1::text <> ''");
        let messages = extended(&mut client, &select, &[oid], &[Some("sad")]);
        if shard == 0 {
            assert_eq!(show(&messages), "1 2 D(v) C(SELECT 1) Z(I)");
        } else {
            assert!(reason(&messages, &select).contains("another number"), "{}", show(&messages));
        }
        let insert = format!("INSERT INTO t (k, v) VALUES ({}, $1::text)", sharded.key(shard, 100));
        let messages = show(&extended(&mut client, &insert, &[oid], &[Some("sad")]));
        assert_eq!(messages.contains("INSERT 0 1"), shard == 0, "{messages}");
    }
    // By its name it goes anywhere.
    let key = sharded.key(1, 1);
    let select = format!("SELECT v FROM t WHERE k = {key} AND $1::mood > 'glad'");
    assert_eq!(show(&extended(&mut client, &select, &[], &[Some("sad")])), "1 2 D(v) C(SELECT 1) Z(I)");
}

#[test]
fn columns_in_another_order_are_not_asked_by_key() {
    let turned = "DROP TABLE w; CREATE TABLE w (k text PRIMARY KEY, last text, first text);
        DROP TABLE ref; CREATE TABLE ref (name text, code int4 PRIMARY KEY)";
    let sharded = Sharded::start("", ["", turned]);
    sharded.wait_checks(|checks| checks[0] == "ok" && checks[1].contains("as column 2"));
    let mut client = sharded.client();
    for sql in ["SELECT * FROM w WHERE k = 'a'", "INSERT INTO w (k, first) VALUES ('a', 'b')", "SELECT * FROM ref"] {
        let reason = refused(&mut client, sql);
        assert!(reason.contains("shard \"s1\"") && reason.contains("on the default shard"), "{sql}: {reason}");
    }
    // The others are as before, and the table is once it is alike.
    assert_eq!(client.run("SELECT v FROM t WHERE k = 1"), "T(v:25) C(SELECT 0) Z(I)");
    sharded.on(
        1,
        "DROP TABLE w; CREATE TABLE w (k text PRIMARY KEY, first text, last text);
        DROP TABLE ref; CREATE TABLE ref (code int4 PRIMARY KEY, name text)",
    );
    sharded.wait_ok();
    assert_eq!(client.run("INSERT INTO w (k, first) VALUES ('a', 'b')"), "C(INSERT 0 1) Z(I)");
}

#[test]
fn settings_that_differ_are_not_asked_by_key() {
    let alt = "CREATE SCHEMA alt; CREATE TABLE alt.o (k int8, id int8, note text)";
    let sharded = Sharded::start(alt, ["", "ALTER DATABASE s1 SET search_path = 'alt, public'"]);
    sharded.wait_checks(|checks| checks[1].contains("search_path"));
    let mut client = sharded.client();
    let key = sharded.key(1, 1);
    for sql in [
        format!("SELECT count(*) FROM o WHERE k = {key}"),
        format!("INSERT INTO public.o (k, id) VALUES ({key}, 1)"),
        "SELECT count(*) FROM o".to_owned(),
    ] {
        assert!(refused(&mut client, &sql).contains("search_path"), "{sql}");
    }
    sharded.on(1, "ALTER DATABASE s1 RESET search_path; ALTER DATABASE s1 SET bytea_output = 'escape'");
    sharded.wait_checks(|checks| checks[1].contains("bytea_output"));
    assert!(refused(&mut client, &format!("SELECT v::bytea FROM t WHERE k = {key}")).contains("bytea_output"));
    // What any shard could answer is the default shard's.
    for _ in 0..3 {
        assert_eq!(client.run("SELECT '\\xff'::bytea"), "T(bytea:17) D(\\xff) C(SELECT 1) Z(I)");
    }
    sharded.on(1, "ALTER DATABASE s1 RESET bytea_output");
    sharded.wait_ok();
    assert_eq!(client.run(&format!("SELECT v FROM t WHERE k = {key}")), "T(v:25) C(SELECT 0) Z(I)");
}

// What stands in the statement.

/// As after an upgrade of one server's libraries alone: the order of texts, and what is equal, may be another there.
#[test]
fn versions_of_collations_that_differ_are_not_asked_together() {
    let sharded = Sharded::start_with(
        "CREATE TABLE c (k int8 PRIMARY KEY, v text COLLATE \"en-x-icu\")",
        ["", ""],
        "c = { key = \"k\", type = \"bigint\" }\n",
    );
    sharded.wait_ok();
    let mut client = sharded.client();
    let key = sharded.key(1, 1);
    let answers = |client: &mut RawClient, sql: &str| {
        let told = client.run(sql);
        assert!(!told.contains("E(") && told.ends_with("Z(I)"), "{sql}: {told}");
    };
    let of_c = format!("SELECT v FROM c WHERE k = {key}");
    answers(&mut client, "SELECT v FROM c ORDER BY v");
    // Of a column: what was indexed by another version.
    sharded.on(1, "UPDATE pg_collation SET collversion = '0.1' WHERE collname = 'en-x-icu'");
    answers(&mut client, "COMMENT ON TABLE plain IS 'has all looked at anew'");
    sharded.wait_checks(|checks| checks[0] == "ok" && checks[1].contains("indexed by version 0.1"));
    let why = refused(&mut client, "SELECT v FROM c ORDER BY v");
    assert!(why.contains("s1") && why.contains("en-x-icu"), "{why}");
    answers(&mut client, &of_c);
    answers(&mut client, "SELECT count(*) FROM t");
    sharded.on(1, "ALTER COLLATION \"en-x-icu\" REFRESH VERSION");
    answers(&mut client, "COMMENT ON TABLE plain IS 'once more'");
    sharded.wait_ok();
    answers(&mut client, "SELECT v FROM c ORDER BY v");
    // Of the database.
    let set = |version: &str| {
        sharded.on(1, &format!("UPDATE pg_database SET datcollversion = {version} WHERE datname = current_database()"));
    };
    let before =
        sharded.on(0, "SELECT quote_nullable(datcollversion) FROM pg_database WHERE datname = current_database()");
    set("'0.1'");
    answers(&mut client, "COMMENT ON TABLE plain IS 'and again'");
    sharded.wait_checks(|checks| checks[0] == "ok" && checks[1].contains("datcollversion is 0.1"));
    for sql in ["SELECT count(*) FROM t", "SELECT v FROM c ORDER BY v"] {
        let why = refused(&mut client, sql);
        assert!(why.contains("datcollversion"), "{sql}: {why}");
    }
    answers(&mut client, &of_c);
    set(&before[0][0]);
    answers(&mut client, "COMMENT ON TABLE plain IS 'at last'");
    sharded.wait_ok();
    answers(&mut client, "SELECT count(*) FROM t");
}

#[test]
fn a_key_that_may_be_null_is_told_of() {
    let sharded =
        Sharded::start_with("CREATE TABLE c (k int8, v text)", ["", ""], "c = { key = \"k\", type = \"bigint\" }\n");
    sharded.wait_checks(|checks| {
        checks.iter().all(|check| {
            check.starts_with("warning: ") && check.contains("column \"k\" of table \"public.c\" may be NULL")
        })
    });
    sharded.weir.wait_log("may be NULL");
    let mut client = sharded.client();
    assert!(refused(&mut client, "INSERT INTO c (k, v) VALUES (NULL, 'a')").contains("NULL"));
    assert_eq!(client.run("INSERT INTO c (k, v) VALUES (1, 'a')"), "C(INSERT 0 1) Z(I)");
    assert_eq!(client.value("SELECT count(*) FROM c"), "1");
    for shard in [0, 1] {
        sharded.on(shard, "ALTER TABLE c ALTER k SET NOT NULL");
    }
    client.run("COMMENT ON TABLE plain IS 'has all looked at anew'");
    sharded.wait_ok();
}

#[test]
fn a_column_that_was_merged_is_not_the_key() {
    let sharded = Sharded::start("", ["", ""]);
    let mut client = sharded.client();
    // As float8 both are the same number.
    for key in [9_007_199_254_740_992_i64, 9_007_199_254_740_993] {
        client.run(&format!("INSERT INTO t (k, v) VALUES ({key}, 'v')"));
    }
    let from = "SELECT t.k FROM (VALUES (9007199254740992::float8)) v (k) JOIN t USING (k)";
    let reply = client.run(&format!("{from} WHERE k = 9007199254740992"));
    assert!(reply.contains("E(0A000)"), "{reply}");
    let reply = client.run(&format!("{from} WHERE t.k = 9007199254740992"));
    assert!(reply.contains("C(SELECT 1)"), "{reply}");
}

#[test]
fn a_quoted_name_is_somebodys_own_type() {
    let sharded = Sharded::start("CREATE DOMAIN \"VARCHAR\" AS varchar(2); CREATE DOMAIN \"bigint\" AS int8", ["", ""]);
    let mut client = sharded.client();
    for sql in [
        "INSERT INTO w (k, first) VALUES ('zzxyz'::\"VARCHAR\", 'x')",
        "SELECT first FROM w WHERE k = 'zzxyz'::\"VARCHAR\"",
        "DELETE FROM t WHERE k = '5'::\"bigint\"",
    ] {
        assert!(client.run(sql).contains("E(0A000)"), "{sql}");
    }
    // Nor is a plain one PostgreSQL's where the search_path says otherwise.
    sharded.on(0, "CREATE DOMAIN public.text AS varchar(2)");
    client.run("SET search_path = public, pg_catalog");
    let reason = refused(&mut client, "SELECT first FROM public.w WHERE k = 'zzxyz'::text");
    assert!(reason.contains("type \"text\""), "{reason}");
}

// What is chosen.

#[test]
fn the_choice_of_a_shard_is_no_part_of_a_transaction() {
    let sharded = Sharded::start("", ["", ""]);
    let mut client = sharded.client();
    for change in ["SET pgweir.shard = 's1'", "SET pgweir.sharding_key = '1'", "RESET pgweir.shard"] {
        assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
        let messages = {
            client.query(change);
            client.read_until_ready()
        };
        assert!(reason(&messages, change).contains("within a transaction"), "{change}");
        assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
        assert_eq!(client.run("SHOW pgweir.shard"), "T(pgweir.shard:25) D() C(SHOW) Z(I)");
    }
    // One text is a transaction as well, and so is a pipeline.
    let reply = client.run("SET pgweir.shard = 's1'; SELECT 1 / 0");
    assert!(reply.contains("E(22012)"), "{reply}");
    assert_eq!(client.run("SHOW pgweir.shard"), "T(pgweir.shard:25) D() C(SHOW) Z(I)");
    assert!(client.run("SET pgweir.shard = 's1'; SELECT 1").contains("C(SELECT 1)"));
    assert_eq!(client.run("SHOW pgweir.shard"), "T(pgweir.shard:25) D(s1) C(SHOW) Z(I)");
    let reply = client.run("RESET pgweir.shard; SELECT 1 / 0");
    assert!(reply.contains("E(22012)"), "{reply}");
    assert_eq!(client.run("SHOW pgweir.shard"), "T(pgweir.shard:25) D(s1) C(SHOW) Z(I)");
    // It holds within a transaction, and after.
    client.run("BEGIN");
    assert_eq!(client.run("SELECT current_database()"), "T(current_database:19) D(s1) C(SELECT 1) Z(T)");
    client.run("ROLLBACK");
    assert_eq!(client.run("RESET pgweir.shard"), "C(RESET) Z(I)");
    assert_eq!(client.run("SHOW pgweir.shard"), "T(pgweir.shard:25) D() C(SHOW) Z(I)");
}

#[test]
fn what_would_not_choose_a_shard_is_refused() {
    let sharded = Sharded::start("", ["", ""]);
    let mut client = sharded.client();
    for sql in [
        "SET LOCAL pgweir.shard = 's1'",
        "SELECT set_config('pgweir.shard', 's1', true)",
        "SELECT pg_catalog.set_config('PGWEIR.sharding_key', '1', false)",
        "SET LOCAL pgweir.route = 'primary'",
    ] {
        assert!(refused(&mut client, sql).contains("no effect"), "{sql}");
    }
    // By a parameter it may as well be search_path, which goes on a chosen shard only.
    client.run("SET pgweir.shard = 's1'");
    client.parse("p", "SELECT set_config($1, $2, false)", &[25, 25]);
    client.sync();
    assert_eq!(show(&client.read_until_ready()), "1 Z(I)");
    let mut bound = |name: &str| {
        client.bind("", "p", &[Some(name), Some("s1")]);
        client.execute("", 0);
        client.sync();
        client.read_until_ready()
    };
    assert!(reason(&bound("pgweir.shard"), "$1").contains("no effect"));
    assert_eq!(show(&bound("app.shard")), "2 D(s1) C(SELECT 1) Z(I)");
}

#[test]
fn rows_come_to_a_chosen_shard_by_their_keys_only() {
    let views = "CREATE VIEW vt AS SELECT * FROM t; CREATE TABLE pt (k int8, v text) PARTITION BY HASH (k);
        CREATE TABLE pt1 PARTITION OF pt FOR VALUES WITH (MODULUS 1, REMAINDER 0)";
    let cluster = Sharded::start_with(views, ["", ""], "pt = { key = \"k\", type = \"bigint\" }\n");
    let mut client = cluster.client();
    let (here, there) = (cluster.key(0, 1), cluster.key(1, 1));
    assert_eq!(client.run(&format!("INSERT INTO pt (k) VALUES ({here})")), "C(INSERT 0 1) Z(I)");
    client.run("SET pgweir.shard = 's0'");
    for sql in [
        format!("INSERT INTO vt (k) VALUES ({there})"),
        format!("INSERT INTO pt1 (k) VALUES ({there})"),
        format!("UPDATE pt1 SET k = {there} WHERE k = {here}"),
        format!("WITH x AS (INSERT INTO vt (k) VALUES ({there}) RETURNING k) SELECT * FROM x"),
        format!("INSERT INTO vt SELECT {there}"),
        format!("CREATE TABLE c AS WITH i AS (INSERT INTO t (k) VALUES ({there}) RETURNING k) SELECT * FROM i"),
        "COPY pt1 FROM STDIN".to_owned(),
    ] {
        assert!(refused(&mut client, &sql).contains("wrong shard"), "{sql}");
    }
    assert_eq!(client.run("DELETE FROM pt1"), "C(DELETE 1) Z(I)");
    assert_eq!(client.run("INSERT INTO plain (id) VALUES (1)"), "C(INSERT 0 1) Z(I)");
    client.run(&format!("INSERT INTO t (k) VALUES ({here})"));
    client.run("BEGIN");
    client.run("DECLARE c CURSOR FOR SELECT * FROM t");
    client.run("FETCH c");
    client.query(&format!("UPDATE t SET k = {there} WHERE CURRENT OF c"));
    assert!(reason(&client.read_until_ready(), "CURRENT OF").contains("wrong shard"));
    client.run("ROLLBACK");
    assert_eq!(cluster.on(0, "SELECT k FROM t")[0][0], here.to_string());
    // Keys in lists are held against the choice as well.
    assert!(refused(&mut client, &format!("SELECT k FROM t WHERE k IN ({there})")).contains("is chosen"));
    assert!(refused(&mut client, &format!("SELECT k FROM t JOIN o USING (k) WHERE k = {there}")).contains("is chosen"));
}

#[test]
fn indexes_and_sequences_of_sharded_tables_are_not_changed_on_one_shard() {
    let schema = "CREATE INDEX t_n ON t (n); CREATE SEQUENCE s OWNED BY t.n; CREATE INDEX plain_x ON plain (x);
        CREATE UNIQUE INDEX t_v ON t (v)";
    let sharded = Sharded::start(schema, ["", ""]);
    sharded.wait_checks(|checks| checks.iter().all(|check| check.contains("\"t_v\"") && check.starts_with("warning")));
    let mut client = sharded.client();
    for sql in [
        "DROP INDEX t_n",
        "ALTER INDEX t_n RENAME TO t_m",
        "REINDEX INDEX t_n",
        "ALTER SEQUENCE s RESTART",
        "DROP SEQUENCE s",
        "CREATE SEQUENCE s2 OWNED BY t.n",
        "ALTER TABLE plain ADD COLUMN q int8 REFERENCES t (k)",
        "TRUNCATE plain CASCADE",
    ] {
        refused(&mut client, sql);
    }
    assert_eq!(client.run("DROP INDEX plain_x"), "C(DROP INDEX) Z(I)");
    // A unique index without the key finds no row of another shard.
    let key = sharded.key(1, 1);
    for conflict in ["ON CONFLICT (v) DO NOTHING", "ON CONFLICT DO NOTHING"] {
        refused(&mut client, &format!("INSERT INTO t (k, v) VALUES ({key}, 'x') {conflict}"));
    }
    let insert = format!("INSERT INTO t (k, v) VALUES ({key}, 'x') ON CONFLICT (k) DO NOTHING");
    assert_eq!(client.run(&insert), "C(INSERT 0 1) Z(I)");
    // Locks and sizes.
    refused(&mut client, &format!("SELECT 1 FROM t JOIN ref ON t.n = ref.code WHERE t.k = {key} FOR UPDATE"));
    refused(&mut client, "SELECT pg_relation_size('t')");
    let number = sharded.on(0, "SELECT 't'::regclass::oid")[0][0].clone();
    client.run(&format!("SELECT v FROM t WHERE k = {key}"));
    assert_eq!(client.run("SELECT 't'::regclass::oid"), format!("T(oid:26) D({number}) C(SELECT 1) Z(I)"));
    // What means one place stays there.
    refused(&mut client, &format!("SELECT pg_try_advisory_lock(7) FROM t WHERE k = {key}"));
    refused(&mut client, &format!("UPDATE t SET n = nextval('s') WHERE k = {key}"));
}

// What runs behind a table.

#[test]
fn policies_rules_and_triggers_keep_to_their_shard() {
    let schema = "
        CREATE TABLE members (tenant text);
        ALTER TABLE w ENABLE ROW LEVEL SECURITY;
        CREATE POLICY seen ON w USING (EXISTS (SELECT FROM members WHERE tenant = w.first));
        CREATE RULE also AS ON INSERT TO ref DO ALSO INSERT INTO members VALUES ('x');
        CREATE FUNCTION spread() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN INSERT INTO o (k, id) VALUES (NEW.x, NEW.id); RETURN NULL; END $$;
        CREATE TRIGGER spread AFTER INSERT ON plain FOR EACH ROW EXECUTE FUNCTION spread();
        CREATE FUNCTION moves() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.k := NEW.k + 1; RETURN NEW; END $$;
        CREATE TRIGGER moves BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION moves();
        CREATE FUNCTION stamps() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.note := 'x'; RETURN NEW; END $$;
        CREATE TRIGGER stamps BEFORE INSERT ON o FOR EACH ROW EXECUTE FUNCTION stamps();";
    let sharded = Sharded::start(schema, ["", ""]);
    sharded.wait_checks(|checks| checks.iter().all(|check| check.starts_with("failed")));
    let mut client = sharded.client();
    let key = sharded.key(1, 1);
    for (sql, why) in [
        ("SELECT * FROM w WHERE k = 'a'".to_owned(), "policy \"seen\""),
        ("SELECT count(*) FROM w".to_owned(), "policy \"seen\""),
        (format!("INSERT INTO plain (id, x) VALUES (1, {key})"), "trigger \"spread\""),
        (format!("INSERT INTO t (k) VALUES ({key})"), "trigger \"moves\""),
        ("INSERT INTO ref VALUES (1, 'a')".to_owned(), "rule \"also\""),
    ] {
        assert!(refused(&mut client, &sql).contains(why), "{sql}");
    }
    // Reads of a table with a trigger are as ever, and a harmless trigger stands in nobody's way.
    assert_eq!(client.run(&format!("SELECT v FROM t WHERE k = {key}")), "T(v:25) C(SELECT 0) Z(I)");
    assert_eq!(client.run(&format!("INSERT INTO o (k, id) VALUES ({key}, 1)")), "C(INSERT 0 1) Z(I)");
    assert_eq!(sharded.on(1, "SELECT note FROM o"), [["x"]]);
    // What is mended through pgweir is seen at once.
    for shard in ["s0", "s1"] {
        client.run(&format!("SET pgweir.shard = '{shard}'"));
        for sql in ["DROP TRIGGER moves ON t", "DROP POLICY seen ON w"] {
            assert!(client.run(sql).ends_with("Z(I)"), "{sql}");
        }
    }
    client.run("RESET pgweir.shard");
    assert_eq!(client.run(&format!("INSERT INTO t (k) VALUES ({key})")), "C(INSERT 0 1) Z(I)");
    assert_eq!(client.run("SELECT * FROM w WHERE k = 'a'"), "T(k:25,first:25,last:25) C(SELECT 0) Z(I)");
}

// What is written on several shards.

#[test]
fn what_stands_beside_a_table_is_the_same_on_every_shard() {
    let sharded = Sharded::writing("INSERT INTO ref VALUES (1, 'a'), (2, 'b'), (3, 'c')", ["", ""], "");
    let mut client = sharded.client();
    for (sql, why) in [
        (
            "UPDATE ref SET name = v.at FROM (VALUES (1, now()::text), (2, '')) AS v (code, at) WHERE ref.code = v.code",
            "time",
        ),
        ("UPDATE ref SET name = s.x FROM (SELECT md5(random()::text) AS x) s", "another value"),
        ("UPDATE ref SET name = x::text FROM random() x", "function in FROM"),
        ("DELETE FROM ref USING (SELECT floor(random() * 5)::int AS c) s WHERE ref.code = s.c", "another value"),
        ("UPDATE ref SET name = v.x FROM (VALUES ('a', 'x'), ('A', 'y')) AS v (n, x) WHERE ref.name = v.n", "one row"),
        ("UPDATE ref SET name = q.name FROM ref q WHERE q.code = ref.code + 1", "reference"),
        ("UPDATE t SET n = s.x FROM (SELECT (random() * 1000)::int AS x) s", "another value"),
        ("UPDATE t SET v = s.now FROM (SELECT now()::text AS now) s", "time"),
        (
            "UPDATE t SET v = ref.name FROM ref JOIN ref q ON q.code = ref.code AND q.name = current_database()",
            "database",
        ),
        ("UPDATE t SET v = q.name FROM ref q TABLESAMPLE bernoulli (50) WHERE q.code = t.n", "TABLESAMPLE"),
        ("DELETE FROM t USING (SELECT name FROM ref LIMIT 1) s WHERE t.v = s.name", "reference"),
    ] {
        let reason = refused(&mut client, sql);
        assert!(reason.contains(why) || why == "reference", "{sql}: {reason}");
    }
    let now = extended(&mut client, "UPDATE t SET v = $1::text::timestamptz::text", &[], &[Some("now")]);
    assert!(reason(&now, "a parameter").contains("present"));
    let (a, b) = (sharded.key(0, 1), sharded.key(1, 1));
    client.run(&format!("INSERT INTO t (k, v, n) VALUES ({a}, 'x', 1), ({b}, 'y', 2)"));
    for (sql, tag) in [
        (
            "UPDATE ref SET name = v.x FROM (VALUES (1, 'one'), (2, 'two')) AS v (code, x) WHERE ref.code = v.code",
            "UPDATE 2",
        ),
        ("DELETE FROM ref USING (VALUES (3), (3)) AS v (code) WHERE ref.code = v.code", "DELETE 1"),
        ("UPDATE t SET v = ref.name FROM ref WHERE ref.code = t.n", "UPDATE 2"),
        ("UPDATE t SET n = v.n FROM (VALUES ('one', 11), ('two', 12)) AS v (name, n) WHERE v.name = t.v", "UPDATE 2"),
    ] {
        assert_eq!(client.run(sql), format!("C({tag}) Z(I)"), "{sql}");
    }
    for (shard, name, n) in [(0, "one", "11"), (1, "two", "12")] {
        assert_eq!(sharded.on(shard, "SELECT code, name FROM ref ORDER BY code"), [["1", "one"], ["2", "two"]]);
        assert_eq!(sharded.on(shard, "SELECT v, n FROM t"), [[name, n]]);
    }
}

#[test]
fn shards_that_compare_otherwise_are_not_written_together() {
    let collated = "ALTER TABLE ref ALTER name TYPE text COLLATE \"C\"; ALTER TABLE t ALTER v TYPE text COLLATE \"C\"";
    let sharded = Sharded::writing("INSERT INTO ref VALUES (1, 'b')", ["", collated], "");
    sharded.wait_checks(|checks| checks[0] == "ok" && checks[1].contains("\"public.ref\" has"));
    let mut client = sharded.client();
    for sql in [
        "UPDATE ref SET name = 'x' WHERE name < 'B'",
        "INSERT INTO ref VALUES (2, 'c')",
        "DELETE FROM t WHERE v < 'B'",
        "UPDATE o SET note = ref.name FROM ref WHERE ref.code = o.id",
        "COPY ref FROM STDIN",
        "COPY t FROM STDIN WHERE v < 'B'",
        "ALTER TABLE ref ADD COLUMN more text DEFAULT upper('a')",
    ] {
        let reason = refused(&mut client, sql);
        assert!(reason.contains("shard \"s1\"") && reason.contains("collate"), "{sql}: {reason}");
    }
    // What is the same all the same: one shard's own, other tables, and what mends it.
    let key = sharded.key(1, 1);
    assert_eq!(client.run(&format!("DELETE FROM t WHERE k = {key} AND v < 'B'")), "C(DELETE 0) Z(I)");
    assert_eq!(client.run("DELETE FROM o WHERE note < 'B'"), "C(DELETE 0) Z(I)");
    for sql in [
        "ALTER TABLE ref ALTER name TYPE text COLLATE \"default\"",
        "ALTER TABLE t ALTER v TYPE text COLLATE \"default\"",
    ] {
        assert_eq!(client.run(sql), "C(ALTER TABLE) Z(I)", "{sql}");
    }
    sharded.wait_ok();
    assert_eq!(client.run("UPDATE ref SET name = 'x' WHERE name < 'c'"), "C(UPDATE 1) Z(I)");
}

#[test]
fn copied_rows_of_reference_tables_are_not_drawn() {
    let sharded = Sharded::writing("", ["", ""], "");
    let mut client = sharded.client();
    let reason = refused(&mut client, "COPY ref FROM STDIN WHERE random() < 0.5");
    assert!(reason.contains("draw"), "{reason}");
}

// What would move rows.

#[test]
fn no_foreign_key_changes_a_sharding_key() {
    let schema = "
        CREATE TABLE c (code text PRIMARY KEY, name text);
        CREATE TABLE u (k text NOT NULL REFERENCES c ON UPDATE CASCADE, n int4);
        CREATE TABLE x (id int8 PRIMARY KEY, ext int8 UNIQUE, n int4);
        CREATE TABLE y (k int8 DEFAULT 5 REFERENCES x (ext) ON DELETE SET DEFAULT, n int4);
        CREATE TABLE z (k int8 REFERENCES x ON UPDATE CASCADE ON DELETE CASCADE, n int4);";
    let tables = "c = { reference = true }\nu = { key = \"k\", type = \"text\" }\nx = { key = \"id\", type = \"bigint\" }\n\
        y = { key = \"k\", type = \"bigint\" }\nz = { key = \"k\", type = \"bigint\" }\n";
    let sharded = Sharded::writing(schema, ["", ""], tables);
    sharded.wait_checks(|checks| checks.iter().all(|check| check.contains("UPDATE of column \"code\"")));
    let mut client = sharded.client();
    let key = sharded.key(1, 1);
    for (sql, tag) in [
        ("INSERT INTO c (code, name) VALUES ('D', 'd')".to_owned(), "INSERT 0 1"),
        ("UPDATE c SET name = 'e'".to_owned(), "UPDATE 1"),
        (format!("INSERT INTO x (id, ext) VALUES ({key}, {key})"), "INSERT 0 1"),
        (format!("UPDATE x SET n = 1 WHERE id = {key}"), "UPDATE 1"),
        (format!("INSERT INTO z (k) VALUES ({key})"), "INSERT 0 1"),
        ("DELETE FROM c WHERE code = 'no'".to_owned(), "DELETE 0"),
    ] {
        assert_eq!(client.run(&sql), format!("C({tag}) Z(I)"), "{sql}");
    }
    for (sql, table) in [
        ("UPDATE c SET code = 'DE' WHERE code = 'D'".to_owned(), "\"u\""),
        ("INSERT INTO c (code) VALUES ('D') ON CONFLICT (name) DO UPDATE SET code = 'DE'".to_owned(), "\"u\""),
        (format!("DELETE FROM x WHERE id = {key}"), "\"y\""),
        (format!("WITH a AS (DELETE FROM x WHERE id = {key} RETURNING id) SELECT * FROM a"), "\"y\""),
    ] {
        let reason = refused(&mut client, &sql);
        assert!(reason.contains("foreign key") && reason.contains(table), "{sql}: {reason}");
    }
}

#[test]
fn the_key_of_a_table_is_not_altered_under_its_rows() {
    let sharded = Sharded::writing("ALTER TABLE t ADD n8 int8", ["", ""], "");
    let mut client = sharded.client();
    for sql in [
        "ALTER TABLE t ALTER COLUMN k TYPE int8 USING k + 1000",
        "ALTER TABLE t ALTER k TYPE text",
        "ALTER TABLE t RENAME k TO old",
        "ALTER TABLE t DROP COLUMN k, ADD COLUMN k int8 DEFAULT 7",
        "ALTER TABLE w ALTER k TYPE text USING lower(k)",
        "ALTER TABLE w ALTER k TYPE varchar(3)",
    ] {
        assert!(refused(&mut client, sql).contains("another sharding key"), "{sql}");
    }
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    assert!(refused(&mut client, "ALTER TABLE t RENAME k TO old").contains("another sharding key"));
    assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    for sql in [
        "ALTER TABLE t ALTER k TYPE int8 USING k::int8",
        "ALTER TABLE w ALTER k TYPE varchar",
        "ALTER TABLE t ALTER n TYPE int8 USING n + 1",
        "ALTER TABLE t RENAME n8 TO n9",
        "ALTER TABLE ref ALTER code TYPE int8 USING code + 1",
    ] {
        assert_eq!(client.run(sql), "C(ALTER TABLE) Z(I)", "{sql}");
    }
}

#[test]
fn what_a_conflict_is_over_several_shards_is_not_guessed() {
    let schema = "
        CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
        CREATE UNIQUE INDEX by_v ON t (v) INCLUDE (k);
        CREATE UNIQUE INDEX by_k ON w (k COLLATE ci);
        CREATE TABLE e (k int8 NOT NULL, span int4range, EXCLUDE USING gist (span WITH &&));";
    let sharded = Sharded::start_with(schema, ["", ""], "e = { key = \"k\", type = \"bigint\" }\n");
    sharded.wait_checks(|checks| {
        checks.iter().all(|check| {
            check.starts_with("warning")
                && check.contains("unique index \"by_v\"")
                && check.contains("exclusion constraint \"e_span_excl\"")
                && check.contains("\"by_k\" of table \"public.w\" compares the sharding key")
        })
    });
    let mut client = sharded.client();
    for sql in [
        "INSERT INTO t (k, v) VALUES (5, 'a') ON CONFLICT DO NOTHING",
        "INSERT INTO e (k, span) VALUES (5, '[1,5)') ON CONFLICT DO NOTHING",
        "INSERT INTO w (k) VALUES ('a') ON CONFLICT DO NOTHING",
        "INSERT INTO w (k) VALUES ('a') ON CONFLICT (k) DO NOTHING",
        "INSERT INTO t (k) VALUES (5) ON CONFLICT (k int8_ops) DO NOTHING",
    ] {
        assert!(refused(&mut client, sql).contains("ON CONFLICT"), "{sql}");
    }
    for sql in [
        "INSERT INTO t (k, v) VALUES (5, 'a') ON CONFLICT (k) DO NOTHING",
        "INSERT INTO o (k, id) VALUES (5, 1) ON CONFLICT DO NOTHING",
        "INSERT INTO e (k, span) VALUES (5, '[1,5)')",
    ] {
        assert_eq!(client.run(sql), "C(INSERT 0 1) Z(I)", "{sql}");
    }
}

#[test]
fn a_table_is_believed_when_it_was_looked_at() {
    let late = "late = { key = \"k\", type = \"bigint\" }\n";
    let sharded = Sharded::start_with("", ["", ""], late);
    sharded.wait_checks(|checks| {
        checks.iter().all(|check| check.contains("\"public.late\" is listed but does not exist"))
    });
    let mut client = sharded.client();
    let insert = format!("INSERT INTO late (k) VALUES ({})", sharded.key(1, 1));
    assert!(refused(&mut client, &insert).contains("does not exist"));
    // Made through pgweir, by one shard after the other; of the wrong make on the second.
    client.run("SET pgweir.shard = 's0'");
    assert_eq!(client.run("CREATE TABLE late (k int8 NOT NULL)"), "C(CREATE TABLE) Z(I)");
    client.run("SET pgweir.shard = 's1'");
    assert_eq!(client.run("CREATE TABLE late (k numeric NOT NULL)"), "C(CREATE TABLE) Z(I)");
    client.run("RESET pgweir.shard");
    assert!(refused(&mut client, &insert).contains("is numeric, configured as bigint"));
    client.run("SET pgweir.shard = 's1'");
    assert_eq!(client.run("ALTER TABLE late ALTER COLUMN k TYPE int8"), "C(ALTER TABLE) Z(I)");
    client.run("RESET pgweir.shard");
    assert_eq!(client.run(&insert), "C(INSERT 0 1) Z(I)");
    // After a clean check it goes on: what is changed is seen, at once through pgweir.
    sharded.wait_ok();
    client.run("SET pgweir.shard = 's1'");
    assert_eq!(client.run("ALTER TABLE late ALTER COLUMN k TYPE numeric"), "C(ALTER TABLE) Z(I)");
    client.run("RESET pgweir.shard");
    sharded.wait_checks(|checks| checks[1].contains("is numeric"));
    assert!(refused(&mut client, &insert).contains("is numeric, configured as bigint"));
}

// What need not be refused.

#[test]
fn a_block_that_begins_with_what_any_shard_does_goes_where_its_key_says() {
    let sharded = Sharded::start("", ["", ""]);
    let mut client = sharded.client();
    let key = sharded.key(1, 1);
    client.run(&format!("INSERT INTO t (k, v) VALUES ({key}, 'v')"));
    for (first, wanted) in [
        ("SELECT 1", "T(?column?:23) D(1) C(SELECT 1) Z(T)"),
        ("SAVEPOINT a", "C(SAVEPOINT) Z(T)"),
        ("SELECT set_config('app.u', '1', true)", "T(set_config:25) D(1) C(SELECT 1) Z(T)"),
        ("SET work_mem = '5MB'", "C(SET) Z(T)"),
        ("SET CONSTRAINTS ALL DEFERRED", "C(SET CONSTRAINTS) Z(T)"),
    ] {
        client.run("RESET work_mem");
        client.run("BEGIN");
        assert_eq!(client.run(first), wanted, "{first}");
        let reply = client.run(&format!(
            "SELECT v, current_setting('work_mem'), current_setting('app.u', true) FROM t WHERE k = {key}"
        ));
        let work_mem = if first.contains("work_mem") { "5MB" } else { "4MB" };
        let tenant = if first.contains("app.u") { "1" } else { "" };
        assert!(reply.contains(&format!("D(v|{work_mem}|{tenant}")) && reply.ends_with("Z(T)"), "{first}: {reply}");
        if first.starts_with("SAVEPOINT") {
            client.run("SELECT 1 / 0");
            assert_eq!(client.run("ROLLBACK TO a"), "C(ROLLBACK) Z(T)");
        }
        assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)", "{first}");
    }
    assert_eq!(client.run("SHOW work_mem"), "T(work_mem:25) D(4MB) C(SHOW) Z(I)");
    // What it has set for good is kept, and taken back with the transaction.
    client.run("BEGIN");
    client.run("SET work_mem = '7MB'");
    client.run(&format!("SELECT v FROM t WHERE k = {key}"));
    client.run("COMMIT");
    assert_eq!(client.run("SHOW work_mem"), "T(work_mem:25) D(7MB) C(SHOW) Z(I)");
    client.run("BEGIN");
    client.run("SET work_mem = '8MB'");
    client.run(&format!("SELECT v FROM t WHERE k = {key}"));
    client.run("ROLLBACK");
    assert_eq!(client.run("SHOW work_mem"), "T(work_mem:25) D(7MB) C(SHOW) Z(I)");
    // ORMs that write all columns.
    let update = format!("UPDATE t SET k = {key}, v = 'w' WHERE k = {key}");
    assert_eq!(client.run(&update), "C(UPDATE 1) Z(I)");
    let upsert = format!(
        "INSERT INTO t (k, v) VALUES ({key}, 'x') ON CONFLICT (k) DO UPDATE SET k = EXCLUDED.k, v = EXCLUDED.v"
    );
    assert_eq!(client.run(&upsert), "C(INSERT 0 1) Z(I)");
    assert_eq!(sharded.on(1, "SELECT k, v FROM t"), [[key.to_string(), "x".to_owned()]]);
    let none = extended(&mut client, "SELECT count(*) FROM t WHERE k = $1", &[20], &[None]);
    assert_eq!(show(&none), "1 2 D(0) C(SELECT 1) Z(I)");
}

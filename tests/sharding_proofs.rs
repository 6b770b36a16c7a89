//! Statements with queries in them, whose every part asks one shard: each is sent there, and answers as one unsharded server with the same
//! rows does. What is not proven is refused, and changes nothing.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod common;

use std::time::Duration;

use common::cluster::Cluster;
use common::raw::RawClient;
use common::weir::Weir;
use common::wire::{Message, ServerError, show};

const SHARDS: usize = 3;
const SLOT: &str = "(((hashint8extended(k, 8816678312871386365) & 16383) + 10467) & 16383)";

/// Of three shards, s0 has key 1, s1 has 2 and 42, s2 has 5 and 11.
const SCHEMA: &str = "
    CREATE TABLE t (k int8 PRIMARY KEY, g int4, v text);
    CREATE TABLE o (k int8 NOT NULL, id int4 NOT NULL, parent int4, state text DEFAULT 'new', note text, PRIMARY KEY (k, id));
    CREATE TABLE d (k int8 NOT NULL DEFAULT 5, v text);
    CREATE TABLE r (code int4 PRIMARY KEY, name text);
    INSERT INTO r SELECT i, 'name ' || i FROM generate_series(0, 4) i;
    INSERT INTO t SELECT k, k % 5, 'v' || k FROM generate_series(1, 60) k WHERE HOME;
    INSERT INTO o (k, id, parent, note) SELECT k, i, CASE WHEN i > 1 THEN i / 2 END, 'note ' || k % 7
      FROM generate_series(1, 60) k, generate_series(1, 5) i WHERE HOME AND k % 4 <> 0;";

struct Rig {
    cluster: Cluster,
    weir: Weir,
}

impl Rig {
    fn start() -> Self {
        let cluster = Cluster::start();
        cluster.sql("CREATE DATABASE one");
        cluster.sql_in("one", &SCHEMA.replace("HOME", "true"));
        let mut toml = "[databases.app]\ndefault_shard = \"s0\"\nprobe_user = \"postgres\"\n".to_owned();
        for n in 0..SHARDS {
            let (first, last) = slots(n);
            cluster.sql(&format!("CREATE DATABASE s{n}"));
            cluster.sql_in(&format!("s{n}"), &SCHEMA.replace("HOME", &format!("{SLOT} BETWEEN {first} AND {last}")));
            toml += &format!(
                "[[databases.app.shards]]\nname = \"s{n}\"\nslots = [[{first}, {last}]]\nprimary = \"{}\"\n",
                cluster.url(&format!("s{n}"))
            );
        }
        toml += "[databases.app.tables]\n";
        for table in ["t", "o", "d"] {
            toml += &format!("{table} = {{ key = \"k\", type = \"bigint\" }}\n");
        }
        toml += "r = { reference = true }\n";
        let weir = Weir::builder().database(&toml).start();
        Self { cluster, weir }
    }

    fn clients(&self) -> (RawClient, RawClient) {
        (self.weir.client("app"), self.cluster.client("one"))
    }

    /// Waits until every shard was checked, and the checks are as wanted.
    fn wait_until(&self, what: &str, wanted: impl Fn(&[String]) -> bool) {
        common::eventually(what, Duration::from_secs(90), || {
            let rows = self.weir.admin_table("SHOW SHARDS");
            let checks: Vec<String> = rows.iter().map(|row| row["check"].clone()).collect();
            (checks.iter().all(|check| !check.contains("pending")) && wanted(&checks)).then_some(())
        });
    }

    fn wait_checks(&self) {
        self.wait_until("checks", |checks| checks.iter().all(|check| check.starts_with("ok")));
    }

    /// All shards together have what the one server has, each row where its key says.
    #[track_caller]
    fn assert_same(&self, after: &str) {
        for table in ["t", "o", "d"] {
            let all = format!("SELECT * FROM {table}");
            let mut theirs = self.cluster.sql_in("one", &all);
            let mut ours = Vec::new();
            for n in 0..SHARDS {
                let (first, last) = slots(n);
                let name = format!("s{n}");
                let strays = self.cluster.sql_in(&name, &format!("{all} WHERE {SLOT} NOT BETWEEN {first} AND {last}"));
                assert!(strays.is_empty(), "{after}: strays on {name}: {strays:?}");
                ours.extend(self.cluster.sql_in(&name, &all));
            }
            ours.sort();
            theirs.sort();
            assert_eq!(ours, theirs, "{table} after {after}");
        }
    }
}

fn slots(number: usize) -> (usize, usize) {
    (16384 * number / SHARDS, 16384 * (number + 1) / SHARDS - 1)
}

/// Rows in the order of their text, then what else was answered.
fn normal(messages: &[Message]) -> Vec<String> {
    let (mut rows, mut rest) = (Vec::new(), Vec::new());
    for message in messages {
        match message.tag {
            b'D' => rows.push(format!("{:?}", message.row())),
            b'E' => rest.push(format!("E {}", message.error().unwrap().fields[&'C'])),
            b'T' => {}
            _ => rest.push(message.to_string()),
        }
    }
    rows.sort();
    rows.into_iter().chain(rest).collect()
}

/// Asks both and compares; what is refused is no answer.
#[track_caller]
fn same(ours: &mut RawClient, theirs: &mut RawClient, sql: &str) {
    ours.query(sql);
    theirs.query(sql);
    let (messages, expected) = (ours.read_until_ready(), theirs.read_until_ready());
    assert_eq!(normal(&messages), normal(&expected), "{sql}: {:?}", messages.iter().find_map(Message::error));
}

/// The same with parameters, prepared and bound anew for each list of them.
#[track_caller]
fn same_bound(ours: &mut RawClient, theirs: &mut RawClient, sql: &str, lists: &[&[Option<&str>]]) {
    for client in [&mut *ours, &mut *theirs] {
        client.close_statement("p");
        client.parse("p", sql, &[]);
        client.describe_statement("p");
        client.sync();
        assert_eq!(show(&client.read_until_ready()).chars().next(), Some('3'), "{sql}");
    }
    for values in lists {
        let mut answers = Vec::new();
        for client in [&mut *ours, &mut *theirs] {
            client.bind("", "p", values);
            client.execute("", 0);
            client.sync();
            answers.push(client.read_until_ready());
        }
        let error = answers[0].iter().find_map(Message::error);
        assert_eq!(normal(&answers[0]), normal(&answers[1]), "{sql} with {values:?}: {error:?}");
    }
}

/// Refused with 0A000 and a hint.
#[track_caller]
fn refused(client: &mut RawClient, sql: &str) -> ServerError {
    client.query(sql);
    let messages = client.read_until_ready();
    assert_eq!(show(&messages), "E(0A000) Z(I)", "{sql}");
    let error = messages.iter().find_map(Message::error).unwrap();
    assert!(error.fields.get(&'H').is_some_and(|hint| !hint.is_empty()), "{sql}: no hint in {error:?}");
    error
}

#[test]
fn reads_whose_parts_agree() {
    let rig = Rig::start();
    let (mut ours, mut theirs) = rig.clients();
    for key in [1, 2, 5, 1000] {
        for sql in [
            "SELECT EXISTS (SELECT 1 FROM t WHERE k = KEY), EXISTS (SELECT FROM o WHERE o.k = KEY AND id > 9)",
            "SELECT CASE WHEN EXISTS (SELECT 1 FROM o WHERE k = KEY) THEN 'some' ELSE 'none' END",
            "SELECT (SELECT count(*) FROM o WHERE k = KEY), (SELECT max(v) FROM t WHERE k = KEY)",
            "SELECT * FROM (SELECT id, note FROM o WHERE k = KEY ORDER BY id DESC LIMIT 2) x JOIN r ON r.code = x.id",
            "SELECT v, (SELECT count(*) FROM o WHERE o.k = t.k), (SELECT name FROM r WHERE code = g) FROM t WHERE k = KEY",
            "SELECT * FROM t WHERE k = KEY AND NOT EXISTS (SELECT 1 FROM o WHERE o.k = t.k AND o.id = 99)",
            "SELECT * FROM o WHERE k = KEY AND id NOT IN (SELECT parent FROM o WHERE k = KEY)",
            "SELECT * FROM o WHERE k = KEY AND (id = 1 OR id IN (SELECT g FROM t WHERE t.k = o.k))",
            "SELECT t.v, x.id FROM t CROSS JOIN LATERAL (SELECT id FROM o WHERE o.k = t.k ORDER BY id LIMIT 2) x WHERE t.k = KEY",
            "SELECT t.v, o.id FROM t LEFT JOIN o ON o.k = t.k AND o.id > 3 WHERE t.k = KEY",
            "SELECT k, o.id FROM t JOIN o USING (k) WHERE k = KEY",
            "SELECT k, o.id FROM t LEFT JOIN o USING (k) WHERE k = KEY",
            "SELECT id FROM o WHERE k = KEY UNION ALL SELECT g FROM t WHERE k = KEY UNION ALL SELECT code FROM r",
            "SELECT id FROM o WHERE k = KEY EXCEPT SELECT parent FROM o WHERE k = KEY",
            "WITH x AS (SELECT * FROM o WHERE k = KEY) SELECT x.id, t.v FROM x JOIN t ON t.k = x.k WHERE t.k = KEY",
            "WITH x AS (SELECT * FROM o WHERE k = KEY) SELECT x.id, t.v FROM x JOIN t USING (k)",
            "WITH x AS (SELECT * FROM o WHERE k = KEY) SELECT x.id, t.v FROM x JOIN t USING (k) WHERE k = KEY",
            "SELECT v FROM t WHERE k = KEY AND EXISTS (SELECT 1 FROM o WHERE o.k = t.k AND id > g)",
            "WITH RECURSIVE x AS (SELECT k, id FROM o WHERE k = KEY AND id = 5 UNION ALL \
             SELECT o.k, o.parent FROM o JOIN x ON x.k = o.k AND x.id = o.id) SELECT id FROM x WHERE id IS NOT NULL",
            "WITH x AS (SELECT k, count(*) AS n FROM o WHERE k = KEY GROUP BY k) SELECT n, v FROM t LEFT JOIN x ON x.k = t.k WHERE t.k = KEY",
            "WITH RECURSIVE x AS (SELECT id FROM o WHERE k = KEY AND id = 5 UNION ALL SELECT o.parent FROM o JOIN x ON x.id = o.id WHERE o.k = KEY) \
             SELECT count(*), max(id) FROM x",
            "SELECT * FROM t WHERE k IN (SELECT k FROM o WHERE k = KEY)",
            "SELECT id FROM o WHERE (k, id) = (KEY, 2)",
            "SELECT id FROM o WHERE (id, k) IN ((2, KEY), (4, KEY), (NULL, KEY))",
            "SELECT t.v, o.id FROM t JOIN o ON (t.k, 2) = (o.k, o.id) WHERE (t.k, t.g) = (KEY, t.g)",
            "SELECT (SELECT count(*) FROM o WHERE (k, id) IN ((KEY, 1), (KEY, 2))), (SELECT v FROM t WHERE k BETWEEN KEY AND KEY)",
            "SELECT t.v, o.id FROM t NATURAL JOIN o WHERE o.k = KEY",
            "SELECT t.v, o.id FROM o NATURAL LEFT JOIN t WHERE o.k IN (KEY, KEY)",
            "SELECT count(*), max(name) FROM t NATURAL JOIN r WHERE t.k = KEY",
        ] {
            same(&mut ours, &mut theirs, &sql.replace("KEY", &key.to_string()));
        }
    }
    let lists: &[&[Option<&str>]] = &[&[Some("1")], &[Some("2")], &[Some("5")], &[Some("999")], &[None], &[Some("1")]];
    for sql in [
        "SELECT EXISTS (SELECT 1 FROM t WHERE k = $1)",
        "SELECT (SELECT count(*) FROM o WHERE o.k = t.k), v FROM t WHERE k = $1",
        "SELECT v FROM t WHERE k = $1 UNION ALL SELECT note FROM o WHERE k = $1",
        "WITH x AS (SELECT * FROM o WHERE k = $1) SELECT x.id, t.v FROM x JOIN t USING (k) WHERE t.k = $1",
        "SELECT count(*) FROM o WHERE k = $1 AND id > (SELECT avg(id) FROM o WHERE k = $1)",
        "SELECT count(*) FROM t WHERE k = $1",
        "SELECT id FROM o WHERE (k, id) = ($1, 3)",
        "SELECT id FROM o WHERE (k, id) IN (($1, 1), ($1, 2))",
    ] {
        same_bound(&mut ours, &mut theirs, sql, lists);
    }
    for sql in [
        "SELECT EXISTS (SELECT 1 FROM t WHERE v = 'v1')",
        "SELECT v FROM t WHERE k = 1 UNION ALL SELECT v FROM t WHERE k = 2",
        "SELECT v FROM t WHERE k = 1 OR EXISTS (SELECT 1 FROM o WHERE o.k = t.k)",
        "SELECT v FROM t WHERE k = 1 AND EXISTS (SELECT 1 FROM o WHERE o.k = t.k OR o.id = 4)",
        "SELECT v FROM t WHERE k = 1 AND EXISTS (SELECT 1 FROM o WHERE k = k)",
        "SELECT v FROM t WHERE k NOT IN (SELECT k FROM o WHERE k = 1)",
        "WITH x AS (SELECT * FROM o) SELECT x.id FROM x JOIN t ON t.k = 1 AND x.id = t.g",
        "WITH t AS (SELECT 1 AS k) SELECT * FROM public.t, o WHERE o.k = 1",
        "SELECT * FROM o t, t o WHERE t.k = 1",
        "SELECT 1 FROM t WHERE k = 1 AND EXISTS (SELECT 1 FROM t, o a JOIN o b ON a.k = t.k AND b.k = t.k)",
    ] {
        refused(&mut ours, sql);
    }
    // Errors are the server's.
    same(&mut ours, &mut theirs, "SELECT EXISTS (SELECT 1 FROM t WHERE k = 1 AND nothing = 2)");
    same(&mut ours, &mut theirs, "SELECT EXISTS (SELECT 1 FROM t WHERE k = 'x')");
}

#[test]
fn writes_whose_parts_agree() {
    let rig = Rig::start();
    let (mut ours, mut theirs) = rig.clients();
    for sql in [
        "UPDATE t SET v = o.note FROM o WHERE t.k = 5 AND o.k = t.k AND o.id = 2",
        "UPDATE t SET g = (SELECT count(*) FROM o WHERE o.k = t.k) WHERE k = 2",
        "DELETE FROM o USING t WHERE t.k = 1 AND o.k = t.k AND o.id > t.g + 2",
        "UPDATE o SET state = 'busy' WHERE k = 2 AND id IN \
         (SELECT id FROM o WHERE k = 2 AND state = 'new' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id",
        "UPDATE o SET state = 'busy' WHERE k = 2 AND id IN \
         (SELECT id FROM o WHERE k = 2 AND state = 'new' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id",
        "WITH gone AS (DELETE FROM o WHERE k = 5 AND id = 3 RETURNING *) INSERT INTO d (k, v) SELECT k, note FROM gone",
        "WITH u AS (UPDATE t SET g = g + 1 WHERE k = 11 RETURNING k, g) INSERT INTO o (k, id) SELECT k, 100 + g FROM u RETURNING k, id, state",
        "WITH i AS (INSERT INTO t (k, v) VALUES (100, 'new') RETURNING *) SELECT * FROM i",
        "INSERT INTO o (k, id, note) SELECT 2, 77, 'y' WHERE NOT EXISTS (SELECT 1 FROM o WHERE k = 2 AND id = 77)",
        "INSERT INTO o (k, id, note) SELECT 2, 77, 'y' WHERE NOT EXISTS (SELECT 1 FROM o WHERE k = 2 AND id = 77)",
        "INSERT INTO d (k, v) SELECT k, v FROM t WHERE k = 5",
        "INSERT INTO d (v, k) SELECT note, o.k FROM o JOIN t ON t.k = o.k WHERE t.k = 1",
        "INSERT INTO o (k, id) VALUES (1, (SELECT max(id) + 1 FROM o WHERE k = 1)) ON CONFLICT (k, id) DO UPDATE SET note = EXCLUDED.note",
        "MERGE INTO t USING (VALUES (5, 'merged'), (11, 'too')) AS s (k, v) ON t.k = s.k \
         WHEN MATCHED THEN UPDATE SET v = s.v WHEN NOT MATCHED THEN INSERT (k, v) VALUES (s.k, s.v)",
        "MERGE INTO t USING (SELECT k, max(id) AS n FROM o WHERE k = 2 GROUP BY k) s ON t.k = s.k \
         WHEN MATCHED THEN UPDATE SET g = s.n WHEN NOT MATCHED THEN INSERT (k, g) VALUES (s.k, s.n)",
        "UPDATE o SET note = 'both' WHERE k = ANY ('{5,11}') AND id = 1",
        "UPDATE o SET note = 'one' WHERE k IN (5, 5) AND id = 2",
        "DELETE FROM o WHERE k IN (SELECT k FROM t WHERE k = 42) AND id = 4",
    ] {
        same(&mut ours, &mut theirs, sql);
        rig.assert_same(sql);
    }
    let lists: &[&[Option<&str>]] =
        &[&[Some("1"), Some("a")], &[Some("2"), None], &[Some("5"), Some("c")], &[None, Some("d")]];
    for sql in [
        "UPDATE t SET v = $2 FROM o WHERE t.k = $1 AND o.k = t.k AND o.id = 1",
        "UPDATE t SET v = $2 WHERE k = $1",
        "WITH u AS (UPDATE t SET v = $2 WHERE k = $1 RETURNING k, v) INSERT INTO d (k, v) SELECT k, v FROM u",
        "DELETE FROM o WHERE k = $1 AND note = $2",
    ] {
        same_bound(&mut ours, &mut theirs, sql, lists);
        rig.assert_same(sql);
    }
    same_bound(
        &mut ours,
        &mut theirs,
        "UPDATE t SET g = 9 WHERE k = ANY ($1)",
        &[&[Some("{5,11}")], &[Some("{2}")], &[Some("{}")]],
    );
    rig.assert_same("= ANY ($1)");
    for sql in [
        "UPDATE t SET v = 'x' FROM o WHERE t.k = 5 AND o.id = t.g",
        "UPDATE o SET note = 'x' WHERE id IN (SELECT id FROM o WHERE k = 2)",
        "UPDATE o SET k = 1 WHERE k = 2 AND id IN (SELECT code FROM r)",
        "DELETE FROM o USING t WHERE t.k = 1 OR o.k = t.k",
        "WITH i AS (INSERT INTO t (k) VALUES (1001), (1002), (1003), (1004)) SELECT 1",
        "WITH x AS (UPDATE r SET name = 'x') SELECT 1 FROM t WHERE k = 1",
        "INSERT INTO d (k, v) SELECT k, v FROM t",
        "INSERT INTO d (k, v) SELECT k + 1, v FROM t WHERE k = 5",
        "INSERT INTO d (k, v) SELECT g, v FROM t WHERE k = 5",
        "INSERT INTO d (v) SELECT v FROM t WHERE k = 1",
        "INSERT INTO d (k) SELECT generate_series(1, 9)",
        "MERGE INTO t USING o ON t.k = o.k AND o.k = 5 WHEN NOT MATCHED THEN INSERT (k) VALUES (o.k)",
        "MERGE INTO t USING (VALUES (1), (2)) AS s (k) ON t.k = s.k WHEN MATCHED THEN DELETE",
        "UPDATE t SET g = 9 WHERE k = ANY ('{1,2}')",
    ] {
        refused(&mut ours, sql);
        rig.assert_same(sql);
    }
}

#[test]
fn inserts_without_a_column_list() {
    let rig = Rig::start();
    rig.wait_checks();
    let (mut ours, mut theirs) = rig.clients();
    for sql in [
        "INSERT INTO t VALUES (200, 1, 'a')",
        "INSERT INTO t VALUES (201, 1), (201, 2) ON CONFLICT (k) DO NOTHING",
        "INSERT INTO o VALUES (2, 50, NULL, DEFAULT, 'x') RETURNING *",
        "INSERT INTO d SELECT k, v FROM t WHERE k = 5",
        "WITH i AS (INSERT INTO d VALUES (5, 'i') RETURNING k) SELECT * FROM i",
        // Errors are the server's.
        "INSERT INTO t VALUES (200, 1, 'a', 'b')",
        "INSERT INTO t VALUES ('x', 1)",
    ] {
        same(&mut ours, &mut theirs, sql);
        rig.assert_same(sql);
    }
    let lists: &[&[Option<&str>]] = &[&[Some("300"), Some("a")], &[Some("301"), None], &[Some("302"), Some("c")]];
    same_bound(&mut ours, &mut theirs, "INSERT INTO t VALUES ($1, 7, $2)", lists);
    rig.assert_same("$1");
    for (sql, reason) in [
        ("INSERT INTO d VALUES (DEFAULT, 'x')", "DEFAULT, which only the server knows"),
        ("INSERT INTO d (v) VALUES ('x')", "does not give its sharding key"),
        ("INSERT INTO d DEFAULT VALUES", "does not give its sharding key"),
        ("INSERT INTO t VALUES (1001, 1), (1002, 1), (1003, 1), (1004, 1)", "different shards"),
        ("INSERT INTO d SELECT v, k FROM t WHERE k = 5", "INSERT"),
    ] {
        let refused = refused(&mut ours, sql);
        assert!(refused.message.contains(reason), "{sql}: {refused}");
        rig.assert_same(sql);
    }
    // After DDL through pgweir they are asked for again, and what needs them waits; within its transaction there is nobody to ask.
    let moves = "ALTER TABLE d DROP COLUMN k, ADD COLUMN k int8 NOT NULL DEFAULT 5";
    theirs.run(moves);
    for n in 0..SHARDS {
        assert_eq!(ours.run(&format!("/* pgweir: shard=s{n} */ {moves}")), "C(ALTER TABLE) Z(I)");
    }
    same(&mut ours, &mut theirs, "INSERT INTO d VALUES ('moved', 2)");
    rig.assert_same("columns that moved");
    assert_eq!(ours.run("/* pgweir: shard=s1 */ CREATE TABLE unlike ()"), "C(CREATE TABLE) Z(I)");
    assert_eq!(ours.run("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(ours.run("INSERT INTO d VALUES ('a block waits as well', 2)"), "C(INSERT 0 1) Z(T)");
    assert_eq!(ours.run("/* pgweir: shard=s1 */ ALTER TABLE d ADD COLUMN x int4"), "C(ALTER TABLE) Z(T)");
    ours.query("INSERT INTO d VALUES ('x', 2)");
    let messages = ours.read_until_ready();
    assert_eq!(show(&messages), "E(0A000) Z(E)");
    let told = messages.iter().find_map(Message::error).unwrap();
    assert!(told.message.contains("columns of its tables may have been changed"), "{told}");
    assert_eq!(ours.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    // The columns are what they are now, and must be alike.
    rig.cluster.sql_in("s1", "ALTER TABLE t DROP COLUMN k; ALTER TABLE t ADD COLUMN k int8");
    rig.wait_until("columns that differ", |checks| checks[1].contains("as column 1"));
    assert_eq!(ours.run("INSERT INTO t VALUES (200, 1, 'a')"), "E(0A000) Z(I)");
}

#[test]
fn a_plain_search_path_changes_no_name() {
    let rig = Rig::start();
    let (mut ours, mut theirs) = rig.clients();
    for path in ["public", "\"$user\", public", "public, pg_catalog", "PUBLIC"] {
        for client in [&mut ours, &mut theirs] {
            assert_eq!(client.run(&format!("SET search_path = {path}")), "C(SET) Z(I)");
        }
        for sql in [
            "SELECT v FROM t WHERE k = 5",
            "SELECT count(*) FROM t",
            "UPDATE t SET g = g + 1 WHERE k = 2",
            "SELECT name FROM r",
            "SELECT EXISTS (SELECT 1 FROM o WHERE k = 1)",
        ] {
            same(&mut ours, &mut theirs, sql);
        }
    }
    // As JDBC's currentSchema gives it.
    let login = rig.weir.login("postgres", "app").param("search_path", "public");
    let mut client = login.connect().unwrap();
    same(&mut client, &mut theirs, "SELECT v FROM t WHERE k = 5");
    // Another table of that name, before or instead of the listed one.
    // (On every shard: where one alone has it, the check of the shards has all statements by the table's key refused.)
    for n in 0..SHARDS {
        rig.cluster.sql_in(&format!("s{n}"), "CREATE SCHEMA postgres; CREATE TABLE postgres.t (k int8, v text)");
    }
    let mut client = rig.weir.client("app");
    for path in ["pg_catalog, \"$user\", public", "postgres, public", "pg_catalog, postgres", "nowhere"] {
        assert_eq!(client.run(&format!("SET search_path = {path}")), "C(SET) Z(I)");
        assert!(refused(&mut client, "SELECT v FROM t WHERE k = 5").message.contains("search_path"));
        same(&mut client, &mut theirs, "SELECT v FROM public.t WHERE k = 5");
    }
}

#[test]
fn cursors_by_a_key() {
    let rig = Rig::start();
    let (mut ours, mut theirs) = rig.clients();
    for key in [1, 2, 5] {
        for sql in [
            "BEGIN",
            "DECLARE c CURSOR FOR SELECT id, note FROM o WHERE k = KEY ORDER BY id",
            "FETCH 2 FROM c",
            "MOVE 1 IN c",
            "FETCH ALL FROM c",
            "CLOSE c",
            "DECLARE c SCROLL CURSOR FOR SELECT t.v, o.id FROM t JOIN o ON o.k = t.k WHERE t.k = KEY ORDER BY o.id",
            "FETCH LAST FROM c",
            "UPDATE t SET v = 'fetched' WHERE k = KEY",
            "COMMIT",
        ] {
            same(&mut ours, &mut theirs, &sql.replace("KEY", &key.to_string()));
        }
        rig.assert_same("a cursor");
    }
    // FETCH goes where the transaction began, and must find no other cursor of that name there.
    assert_eq!(ours.run("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(ours.run("DECLARE c CURSOR FOR SELECT id FROM o WHERE k = 1"), "C(DECLARE CURSOR) Z(T)");
    assert_eq!(ours.value("SELECT v FROM t WHERE k = 11"), "v11");
    assert_eq!(ours.value("FETCH 1 FROM c"), "1");
    assert_eq!(ours.run("DECLARE c CURSOR FOR SELECT id FROM o WHERE k = 5"), "E(0A000) Z(E)");
    assert_eq!(ours.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    assert_eq!(ours.run("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(ours.run("DECLARE c CURSOR FOR SELECT id FROM o WHERE k = 1 OR id = 2"), "E(0A000) Z(E)");
    assert_eq!(ours.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
}

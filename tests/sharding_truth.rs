//! What a sharded database must not believe: that a parameter is of the key's type, that a client speaks UTF-8, that a built-in
//! name is PostgreSQL's own function, that a name is the listed table, that the servers are as the configuration says. Each is
//! found out, or the statement is refused with a reason; the rows are never those of a wrong shard.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod common;

use common::cluster::Cluster;
use common::raw::RawClient;
use common::weir::Weir;
use common::wire::{Message, show};
use pgweir::shard::hash;

const SCHEMA: &str = "
    CREATE TABLE t (k int8 PRIMARY KEY, v text, n int4, f float8);
    CREATE TABLE w (k text PRIMARY KEY, v text, c char(20));
    CREATE TABLE ref (code int4 PRIMARY KEY, name text);";

const TABLES: &str = "\
    t = { key = \"k\", type = \"bigint\" }\n\
    w = { key = \"k\", type = \"text\" }\n\
    ref = { reference = true }\n";

/// A sharded database `app` over real clusters, the slots in equal parts.
struct Sharded {
    shards: Vec<Cluster>,
    weir: Weir,
}

impl Sharded {
    /// Two shards with `schema` beside the common tables.
    fn start(schema: &str) -> Self {
        let shards = clusters(2);
        for shard in &shards {
            shard.sql(SCHEMA);
            shard.sql(schema);
        }
        Self::over(shards, "postgres")
    }

    fn over(shards: Vec<Cluster>, dbname: &str) -> Self {
        let weir = Weir::builder().users("\"bob\" \"\"\n").database(&toml(&shards, dbname, TABLES)).start();
        Self { shards, weir }
    }

    fn client(&self) -> RawClient {
        self.weir.client("app")
    }

    fn shard_of(&self, hash: u64) -> usize {
        usize::from(hash::slot_of(hash).0) * self.shards.len() / 16384
    }

    fn shard_of_key(&self, key: i64) -> usize {
        self.shard_of(hash::hash_integer(key))
    }

    /// The first key from 1 on that belongs to a shard.
    fn key(&self, shard: usize) -> i64 {
        (1..).find(|key| self.shard_of_key(*key) == shard).unwrap()
    }
}

fn clusters(count: usize) -> Vec<Cluster> {
    std::thread::scope(|scope| {
        let starting: Vec<_> = (0..count).map(|_| scope.spawn(Cluster::start)).collect();
        starting.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn toml(shards: &[Cluster], dbname: &str, tables: &str) -> String {
    let mut toml = "[databases.app]\ndefault_shard = \"s0\"\nprobe_user = \"postgres\"\n".to_owned();
    for (number, shard) in shards.iter().enumerate() {
        let (first, last) = (16384 * number / shards.len(), 16384 * (number + 1) / shards.len() - 1);
        toml += &format!(
            "[[databases.app.shards]]\nname = \"s{number}\"\nslots = [[{first}, {last}]]\nprimary = \"postgres://127.0.0.1:{}/{dbname}\"\n",
            shard.port()
        );
    }
    toml + "[databases.app.tables]\n" + tables
}

/// Runs one statement by the extended protocol.
fn extended(client: &mut RawClient, sql: &str, oids: &[u32], value: &[u8], binary: bool) -> Vec<Message> {
    client.parse("", sql, oids);
    if binary {
        client.bind_binary("", "", &[Some(value)]);
    } else {
        client.bind("", "", &[Some(std::str::from_utf8(value).unwrap())]);
    }
    client.execute("", 0);
    client.sync();
    client.read_until_ready()
}

/// The statement is refused with 0A000 and a hint.
#[track_caller]
fn assert_refused(client: &mut RawClient, sql: &str) -> String {
    client.query(sql);
    let messages = client.read_until_ready();
    assert_eq!(show(&messages), "E(0A000) Z(I)", "{sql}");
    let error = messages.iter().find_map(Message::error).unwrap();
    assert!(error.fields.get(&'H').is_some_and(|hint| !hint.is_empty()), "{sql}: no hint in {error:?}");
    error.fields[&'M'].clone()
}

// Parameters.

/// Statements whose `$1` is of another type than the key's if the server comes to another use of it first.
const DOUBTFUL: &[&str] = &[
    "SELECT v FROM t WHERE $1::float8 > 0 AND k = $1::int8",
    "SELECT v FROM t WHERE k = $1::int8 AND $1::float8 > 0",
    "SELECT v FROM t WHERE $1::text <> '' AND k = $1::int8",
    "SELECT v FROM t WHERE k = $1 AND $1::text <> ''",
    "SELECT v FROM t WHERE $1::text <> '' AND k = $1",
    "SELECT $1::text FROM t WHERE k = $1::int8",
    "SELECT v FROM t WHERE f = $1 AND k = $1",
    "SELECT v FROM t WHERE k = $1 AND f = $1",
    "SELECT v FROM t JOIN (SELECT 1 AS x WHERE $1::float8 > 0) s ON true WHERE k = $1",
    "SELECT v FROM t WHERE $1::int8 > 0 AND k = $1::int4",
    "SELECT v FROM t WHERE k = $1::int4 AND n <> $1",
    "SELECT v FROM t WHERE k = $1 AND n IS DISTINCT FROM $1",
    "UPDATE t SET f = $1 WHERE k = $1 RETURNING v",
    "INSERT INTO t (f, k) VALUES ($1, $1) ON CONFLICT (k) DO UPDATE SET v = EXCLUDED.v RETURNING k",
    "INSERT INTO t (k, f) VALUES ($1, $1) ON CONFLICT (k) DO UPDATE SET v = EXCLUDED.v RETURNING k",
];

#[test]
fn a_parameter_is_of_the_type_that_the_server_gives_it() {
    let sharded = Sharded::start("");
    let single = Cluster::start();
    single.sql(SCHEMA);
    let (mut client, mut direct) = (sharded.client(), single.client("postgres"));
    // What 8 bytes are as text or float8 is another number than as bigint: for each of these the shards differ.
    let mut values: Vec<Vec<u8>> = ["4", "5", "7", "12345678", "23456789", "20000001", "20000002", "9007199254740993"]
        .iter()
        .map(|text| text.as_bytes().to_vec())
        .collect();
    let texts = values.len();
    for number in [1.0_f64, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0] {
        values.push(number.to_be_bytes().to_vec());
        values.push((number as i64).to_be_bytes().to_vec());
        values.push((number as i32).to_be_bytes().to_vec());
    }
    let mut keys: Vec<i64> = (1..20).chain([12_345_678, 23_456_789, 20_000_001, 20_000_002]).collect();
    keys.extend([9_007_199_254_740_992, 9_007_199_254_740_993]);
    for key in keys {
        let sql = format!("INSERT INTO t (k, v, f) VALUES ({key}, 'v{key}', {key})");
        assert_eq!(client.run(&sql), "C(INSERT 0 1) Z(I)", "{sql}");
        direct.run(&sql);
    }
    let mut wrong = Vec::new();
    let mut answered = vec![0; DOUBTFUL.len()];
    for (number, sql) in DOUBTFUL.iter().enumerate() {
        for oid in [0, 20, 23, 25, 701] {
            for (place, value) in values.iter().enumerate() {
                for binary in [false, true] {
                    if !binary && place >= texts {
                        continue;
                    }
                    // Only the key decides where, so what is written may be undone.
                    client.run("BEGIN");
                    direct.run("BEGIN");
                    let ours = show(&extended(&mut client, sql, &[oid], value, binary));
                    let theirs = show(&extended(&mut direct, sql, &[oid], value, binary));
                    client.run("ROLLBACK");
                    direct.run("ROLLBACK");
                    let errors = ours.contains("E(") && theirs.contains("E(");
                    if ours == theirs {
                        answered[number] += usize::from(!theirs.contains("E("));
                    } else if !errors && !ours.contains("E(0A000)") {
                        wrong.push(format!(
                            "{sql} [{oid}] {value:?} binary {binary}\n  ours   {ours}\n  theirs {theirs}"
                        ));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    // A declared type is believed, so that each is answered for some of them.
    let never: Vec<_> = DOUBTFUL.iter().zip(&answered).filter(|(_, n)| **n == 0).map(|(sql, _)| sql).collect();
    assert!(never.is_empty(), "refused whatever is declared: {never:?}");
}

#[test]
fn a_parameter_used_twice_alike_is_a_key() {
    let sharded = Sharded::start("");
    let mut client = sharded.client();
    let key = sharded.key(1);
    client.run(&format!("INSERT INTO t (k, v, n) VALUES ({key}, 'v', 1)"));
    let text = key.to_string();
    for sql in [
        "SELECT v FROM t WHERE k = $1 AND k = $1",
        "SELECT v FROM t WHERE k = $1::int8 AND $1::int8 > 0",
        // A small number is itself whatever the type.
        "SELECT v FROM t WHERE k = $1 AND n <> $1 + 1000",
        "UPDATE t SET n = $1 WHERE k = $1 RETURNING v",
    ] {
        let reply = show(&extended(&mut client, sql, &[], text.as_bytes(), false));
        assert!(reply.contains("D(v)"), "{sql}: {reply}");
    }
    let binary = extended(&mut client, "SELECT v FROM t WHERE $1::int4 > 0 AND k = $1::int4", &[], &[0; 4], true);
    assert_eq!(show(&binary), "1 2 C(SELECT 0) Z(I)");
    // A text is nobody's small number: char(20) would cut its space.
    client.run("INSERT INTO w (k, v, c) VALUES ('abc', 'v', 'abc')");
    for (sql, oids, wanted) in [
        ("SELECT v FROM w WHERE c = $1 AND k = $1", &[][..], "E(0A000) Z(I)"),
        ("SELECT v FROM w WHERE k = $1 AND c = $1", &[], "E(0A000) Z(I)"),
        ("SELECT v FROM w WHERE c = $1 AND k = $1", &[1042], "E(0A000) Z(I)"),
        ("SELECT v FROM w WHERE c = $1 AND k = $1", &[25], "1 2 D(v) C(SELECT 1) Z(I)"),
        ("SELECT v FROM w WHERE c = $1::text AND k = $1::text", &[], "1 2 D(v) C(SELECT 1) Z(I)"),
    ] {
        assert_eq!(show(&extended(&mut client, sql, oids, b"abc", false)), wanted, "{sql} {oids:?}");
    }
}

// Encodings.

#[test]
fn a_silent_client_speaks_what_the_server_told_it() {
    let shards = clusters(2);
    for shard in &shards {
        shard.sql(SCHEMA);
        shard.sql("ALTER ROLE postgres SET client_encoding = 'LATIN1'");
    }
    let sharded = Sharded::over(shards, "postgres");
    // "ä" of Latin-1 is one byte, which is no UTF-8; "Ã¤" of it are the two bytes of a UTF-8 "ä".
    let mut client = sharded.client();
    let insert = "INSERT INTO w (k, v) VALUES ($1, 'v')";
    for key in [&b"abc"[..], "ä".as_bytes(), "Ã¤".as_bytes(), "é1".as_bytes(), "é2".as_bytes(), "é3".as_bytes()] {
        let reply = show(&extended(&mut client, insert, &[25], key, false));
        let wanted = if key.is_ascii() { "1 2 C(INSERT 0 1) Z(I)" } else { "E(0A000) Z(I)" };
        assert_eq!(reply, wanted, "{key:?}");
    }
    let reason = assert_refused(&mut client, "SELECT v FROM w WHERE k = 'é'");
    assert!(reason.contains("client_encoding"), "{reason}");
    // Once it says UTF8 it is understood.
    assert!(client.run("SET client_encoding = 'UTF8'").starts_with("C(SET)"));
    for key in ["ä", "é1", "é2", "é3"] {
        assert_eq!(show(&extended(&mut client, insert, &[25], key.as_bytes(), false)), "1 2 C(INSERT 0 1) Z(I)");
        let home = sharded.shard_of(hash::hash_bytes(key.as_bytes()));
        let mut there = sharded.shards[home].client("postgres");
        there.run("SET client_encoding = 'UTF8'");
        assert_eq!(there.value(&format!("SELECT count(*) FROM w WHERE k = '{key}'")), "1", "{key}");
    }
}

#[test]
fn texts_beyond_ascii_are_no_keys_of_servers_in_another_encoding() {
    let shards = clusters(2);
    for shard in &shards {
        shard.sql("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
        shard.sql_in("latin", SCHEMA);
    }
    let sharded = Sharded::over(shards, "latin");
    let mut client = sharded.client();
    client.run("SET client_encoding = 'UTF8'");
    let reason = assert_refused(&mut client, "INSERT INTO w (k, v) VALUES ('é', 'v')");
    assert!(reason.contains("server_encoding"), "{reason}");
    assert_eq!(client.run("INSERT INTO w (k, v) VALUES ('abc', 'é')"), "C(INSERT 0 1) Z(I)");
    let home = sharded.shard_of(hash::hash_bytes(b"abc"));
    assert_eq!(sharded.shards[home].sql_in("latin", "SELECT k FROM w"), [["abc"]]);
}

// Names.

/// Objects with innocent names that read the sharded table.
const SHADOWS: &str = "
    CREATE FUNCTION log(text) RETURNS int8 STABLE LANGUAGE sql AS 'SELECT count(*) FROM t';
    CREATE FUNCTION lower(t) RETURNS int8 STABLE LANGUAGE sql AS 'SELECT count(*) FROM t';
    CREATE FUNCTION peers(t) RETURNS int8 STABLE LANGUAGE sql AS 'SELECT count(*) FROM t';
    CREATE FUNCTION is_in(int8, text) RETURNS bool STABLE LANGUAGE sql AS 'SELECT EXISTS (SELECT FROM t WHERE k = $1)';
    CREATE OPERATOR === (LEFTARG = int8, RIGHTARG = text, FUNCTION = is_in);
    CREATE SCHEMA aside;
    CREATE OPERATOR aside.~== (LEFTARG = int8, RIGHTARG = text, FUNCTION = is_in);
    CREATE FUNCTION aside.upper(int8) RETURNS int8 STABLE LANGUAGE sql AS 'SELECT count(*) FROM t';
    CREATE FUNCTION uuidv7() RETURNS int8 VOLATILE LANGUAGE sql AS 'SELECT count(*) FROM t';
    CREATE FUNCTION sqrt(text) RETURNS float8 IMMUTABLE LANGUAGE sql AS 'SELECT 2::float8';
    CREATE VIEW by_text AS SELECT query_to_xml('SELECT count(*) FROM t', true, true, '') AS x;
    CREATE VIEW by_operator AS SELECT 1::int8 === 'x' AS x;
    CREATE VIEW innocent AS SELECT lower('X') AS x;
    CREATE EXTENSION tablefunc; CREATE EXTENSION dblink; CREATE EXTENSION xml2;
    CREATE EXTENSION pgcrypto; CREATE EXTENSION \"uuid-ossp\"; CREATE EXTENSION pg_trgm; CREATE EXTENSION citext;
    CREATE EXTENSION hstore; CREATE EXTENSION unaccent; CREATE EXTENSION pgstattuple;";

#[test]
fn innocent_names_hide_no_sharded_table() {
    let sharded = Sharded::start(SHADOWS);
    let mut client = sharded.client();
    for key in 1..=20 {
        assert_eq!(client.run(&format!("INSERT INTO t (k, v, n) VALUES ({key}, 'v', 1)")), "C(INSERT 0 1) Z(I)");
    }
    for sql in [
        "SELECT log('x')",
        "SELECT log('x'::text), v FROM t WHERE k = 1",
        "SELECT lower(t) FROM t WHERE k = 1",
        "SELECT t.peers FROM t WHERE k = 1",
        "SELECT (t).peers FROM t WHERE k = 1",
        "SELECT public.t.peers FROM t WHERE k = 1",
        "SELECT s.peers FROM (SELECT t FROM t WHERE k = 1) x(s)",
        "UPDATE t SET n = t.peers WHERE k = 1",
        "DELETE FROM t WHERE k = 1 RETURNING t.peers",
        "SELECT v FROM t WHERE k = 1 AND 2::int8 === 'x'",
        "SELECT 2::int8 === 'x'",
        "SELECT 2::int8 OPERATOR(public.===) 'x'",
        "SELECT 2::int8 OPERATOR(aside.~==) 'x'",
        "SELECT uuidv7()",
        "INSERT INTO t (k, n) VALUES (1, uuidv7())",
        "SELECT aside.upper(1)",
        "SELECT x FROM by_text",
        "SELECT x FROM by_operator",
        "SELECT * FROM crosstab('SELECT v, k, n FROM t') AS c(a text, b int4)",
        "SELECT * FROM connectby('t', 'k', 'n', '1', 0) AS c(a int8, b int4, c int4)",
        "SELECT * FROM xpath_table('k', 'v', 't', '/a', 'true') AS c(a int8, b text)",
        "SELECT * FROM dblink('', 'SELECT count(*) FROM t') AS c(a int8)",
        "SELECT * FROM pgstattuple('t')",
    ] {
        for sql in [sql.to_owned(), format!("EXPLAIN ANALYZE {sql}")] {
            let reason = assert_refused(&mut client, &sql);
            assert!(reason.contains("on a sharded database is not supported"), "{sql}: {reason}");
        }
        assert_eq!(client.run("SET pgweir.shard = 's0'"), "C(SET) Z(I)");
        assert!(!client.run(&format!("BEGIN; {sql}; ROLLBACK")).contains("0A000"), "{sql} on a chosen shard");
        client.run("ROLLBACK");
        client.run("RESET pgweir.shard");
    }
    // What an ordinary application does goes on.
    for sql in [
        "SELECT upper(v), v || 'x', n + 1 FROM t WHERE k = 1",
        "SELECT t.v, t.n FROM t WHERE t.k = 1 AND t.n BETWEEN 1 AND 2 AND t.v LIKE 'v%' AND t.n IN (1, 2)",
        "SELECT sqrt(4), sqrt('x'), aside FROM (SELECT 1 AS aside) x",
        "SELECT x FROM innocent",
        "SELECT gen_salt('md5'), gen_random_bytes(4), encode(digest(v, 'sha1'), 'hex') FROM t WHERE k = 1",
        "SELECT pgp_sym_encrypt(v, 'x') FROM t WHERE k = 1",
        "SELECT uuid_generate_v4(), uuid_generate_v1() FROM t WHERE k = 1",
        "SELECT similarity(v, 'v'), v % 'v', v <-> 'v', show_limit() FROM t WHERE k = 1",
        "SELECT v::citext = 'V', regexp_replace(v::citext, 'a', 'b'), max(v::citext) FROM t WHERE k = 1 GROUP BY v",
        "SELECT hstore('a', v) -> 'a', unaccent(v), hstore(t) FROM t WHERE k = 1",
        "UPDATE t SET v = crypt('x', gen_salt('md5')) WHERE k = 1",
        "INSERT INTO t (k, v) VALUES (1000, uuid_generate_v4()::text)",
        "DELETE FROM t WHERE k = 1000",
    ] {
        let reply = client.run(sql);
        assert!(!reply.contains("E("), "{sql}: {reply}");
    }
    // What leaves a setting on its shard keeps the session there until that is gone.
    assert!(client.run("SELECT set_limit(0.3) FROM t WHERE k = 1").ends_with("Z(I)"));
    client.query("DELETE FROM t WHERE k = 1000");
    let error = client.read_until_ready().iter().find_map(|message| message.error()).unwrap();
    assert!(error.message.contains("this session keeps its server on shard \"s0\" (setting)"), "{error:?}");
    assert_eq!(client.run("DISCARD ALL"), "C(DISCARD ALL) Z(I)");
    assert_eq!(client.run("DELETE FROM t WHERE k = 1000"), "C(DELETE 0) Z(I)");
}

#[test]
fn an_own_equality_of_keys_is_not_trusted() {
    let sharded = Sharded::start(
        "CREATE TABLE vc (k varchar(40) PRIMARY KEY);
         CREATE FUNCTION alike(varchar, varchar) RETURNS bool IMMUTABLE LANGUAGE sql
             AS 'SELECT pg_catalog.lower($1::text) OPERATOR(pg_catalog.=) pg_catalog.lower($2::text)';
         CREATE OPERATOR = (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = alike);",
    );
    let mut client = sharded.client();
    let reason = assert_refused(&mut client, "SELECT v FROM w WHERE k = 'x'");
    assert!(reason.contains("operator ="), "{reason}");
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn a_name_is_the_listed_table_only_if_search_path_says_so() {
    let sharded = Sharded::start(
        "CREATE SCHEMA postgres; CREATE TABLE postgres.t (k int8, v text);
         CREATE SCHEMA other; CREATE TABLE other.w (k text, v text); CREATE VIEW other.ref AS SELECT 1 AS code;
         CREATE ROLE bob LOGIN SUPERUSER; ALTER ROLE bob SET search_path = other, public;
         CREATE ROLE carol SUPERUSER; CREATE SCHEMA carol; CREATE TABLE carol.w (k text, v text);",
    );
    let mut client = sharded.client();
    for sql in ["SELECT v FROM t WHERE k = 1", "INSERT INTO t (k, v) VALUES (1, 'x')", "DELETE FROM t WHERE k = 1"] {
        let reason = assert_refused(&mut client, sql);
        assert!(reason.contains("\"postgres.t\""), "{sql}: {reason}");
    }
    assert_eq!(client.run("INSERT INTO public.t (k, v) VALUES (1, 'x')"), "C(INSERT 0 1) Z(I)");
    assert_eq!(client.rows("SELECT v FROM public.t WHERE k = 1").unwrap(), [["x"]]);
    assert_eq!(client.run("INSERT INTO w (k, v) VALUES ('a', 'x')"), "C(INSERT 0 1) Z(I)");
    assert!(client.rows("SELECT code FROM ref").unwrap().is_empty());
    // The same names mean others to somebody else.
    let mut bob = sharded.weir.login("bob", "app").connect().unwrap();
    for (sql, place) in [("SELECT v FROM w WHERE k = 'a'", "\"other.w\""), ("SELECT code FROM ref", "\"other.ref\"")] {
        let reason = assert_refused(&mut bob, sql);
        assert!(reason.contains(place), "{sql}: {reason}");
    }
    assert_eq!(bob.rows("SELECT v FROM t WHERE k = 1").unwrap(), [["x"]]);
    assert_eq!(bob.rows("SELECT v FROM public.w WHERE k = 'a'").unwrap(), [["x"]]);
    // A role may bring a schema of its name.
    assert_eq!(client.run("SET ROLE carol"), "C(SET) Z(I)");
    let reason = assert_refused(&mut client, "SELECT v FROM w WHERE k = 'a'");
    assert!(reason.contains("\"carol.w\""), "{reason}");
    assert!(client.rows("SELECT code FROM ref").unwrap().is_empty());
}

#[test]
fn names_are_known_while_the_default_shard_is_down() {
    let sharded = Sharded::start("");
    let (there, key) = (sharded.key(0), sharded.key(1));
    let mut client = sharded.client();
    assert_eq!(client.run(&format!("INSERT INTO t (k, v) VALUES ({key}, 'v')")), "C(INSERT 0 1) Z(I)");
    // Everything is forgotten, and the shard that is asked first is gone.
    assert_eq!(client.run("SET pgweir.shard = 's1'"), "C(SET) Z(I)");
    assert_eq!(client.run("CREATE TABLE something_new ()"), "C(CREATE TABLE) Z(I)");
    assert_eq!(client.run("RESET pgweir.shard"), "C(RESET) Z(I)");
    sharded.shards[0].stop();
    assert_eq!(client.rows(&format!("SELECT v FROM t WHERE k = {key}")).unwrap(), [["v"]]);
    assert!(client.run(&format!("SELECT v FROM t WHERE k = {there}")).starts_with("E("));
}

// The servers.

/// Waits until SHOW SHARDS says of a shard what `wanted` wants; what it says.
fn wait_check(weir: &Weir, shard: &str, wanted: impl Fn(&str) -> bool) -> String {
    common::eventually(shard, std::time::Duration::from_secs(30), || {
        let rows = weir.admin_table("SHOW SHARDS");
        let check = rows.iter().find(|row| row["shard"] == shard).unwrap()["check"].clone();
        wanted(&check).then_some(check)
    })
}

#[test]
fn shards_are_checked_at_the_start() {
    let sharded = Sharded::start("");
    for shard in ["s0", "s1"] {
        wait_check(&sharded.weir, shard, |check| check == "ok");
    }
    let (_, metrics) = sharded.weir.http_get("/metrics");
    for line in [
        "pgweir_shard_check_pending{database=\"app\",shard=\"s1\"} 0",
        "pgweir_shard_check_failures{database=\"app\",shard=\"s1\"} 0",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}

#[test]
fn a_server_that_hashes_otherwise_gets_no_keys() {
    let shards = clusters(2);
    for shard in &shards {
        shard.sql(SCHEMA);
    }
    shards[1].sql(
        "CREATE OR REPLACE FUNCTION pg_catalog.hashint8extended(int8, int8) RETURNS int8 LANGUAGE sql IMMUTABLE
             AS 'SELECT 7::int8'",
    );
    let sharded = Sharded::over(shards, "postgres");
    let check = wait_check(&sharded.weir, "s1", |check| check.starts_with("failed"));
    assert!(check.contains("hashes bigint keys in another way"), "{check}");
    wait_check(&sharded.weir, "s0", |check| check == "ok");
    let mut client = sharded.client();
    for sql in ["SELECT v FROM t WHERE k = 1", "INSERT INTO t (k) VALUES (1)", "DELETE FROM w WHERE k = 'a'"] {
        let reason = assert_refused(&mut client, sql);
        assert!(reason.contains("shard \"s1\": the server hashes bigint keys in another way"), "{reason}");
    }
    assert_refused(&mut client, "/* pgweir: sharding_key=1 */ SELECT count(*) FROM t");
    // What needs no key goes on.
    assert_eq!(client.value("SELECT count(*) FROM ref"), "0");
    assert_eq!(client.value("/* pgweir: shard=s1 */ SELECT count(*) FROM t"), "0");
    let (_, health) = sharded.weir.http_get("/health/detailed");
    let health: serde_json::Value = serde_json::from_str(&health).unwrap();
    let shard = &health["databases"][0]["shards"][1];
    assert_eq!((&shard["name"], &shard["check"]), (&"s1".into(), &"findings".into()), "{health}");
    assert_eq!(shard["findings"][0]["refuses"], true, "{health}");
    let (_, metrics) = sharded.weir.http_get("/metrics");
    assert!(metrics.contains("pgweir_shard_check_failures{database=\"app\",shard=\"s1\"} 1"), "{metrics}");
    sharded.weir.wait_log("hashes bigint keys");
    let log = sharded.weir.log_text();
    let line = log.lines().find(|line| line.contains("hashes bigint keys")).unwrap();
    assert!(line.contains("ERROR") && line.contains("database=\"app\"") && line.contains("shard=\"s1\""), "{line}");
    // It is asked again, and believed once it is right.
    sharded.shards[1].sql(
        "CREATE OR REPLACE FUNCTION pg_catalog.hashint8extended(int8, int8) RETURNS int8 LANGUAGE internal IMMUTABLE STRICT
             AS 'hashint8extended'",
    );
    wait_check(&sharded.weir, "s1", |check| check == "ok");
    assert_eq!(client.run("INSERT INTO t (k) VALUES (1)"), "C(INSERT 0 1) Z(I)");
}

#[test]
fn tables_that_are_not_as_configured_are_told_of() {
    let shards = clusters(2);
    for shard in &shards {
        shard.sql(
            "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
             CREATE TABLE t (k int8 NOT NULL, v text); CREATE TABLE w (k text COLLATE loose NOT NULL, v text);
             CREATE TABLE numbers (k numeric NOT NULL); CREATE TABLE vc (k varchar(10) NOT NULL);
             CREATE DOMAIN id AS int8 NOT NULL; CREATE TABLE d (k id); CREATE TABLE narrow (k int4 NOT NULL)",
        );
    }
    shards[0].sql("CREATE TABLE ref (code int4)");
    let tables = TABLES.to_owned()
        + "numbers = { key = \"k\", type = \"bigint\" }\n\
           vc = { key = \"k\", type = \"varchar\" }\n\
           d = { key = \"k\", type = \"bigint\" }\n\
           narrow = { key = \"k\", type = \"bigint\" }\n\
           keyless = { key = \"id\", type = \"bigint\" }\n";
    shards.iter().for_each(|shard| drop(shard.sql("CREATE TABLE keyless (k int8)")));
    let mut weir = Weir::builder().database(&toml(&shards, "postgres", &tables)).start();
    let check = wait_check(&weir, "s1", |check| check.starts_with("failed"));
    for part in [
        "column \"k\" of table \"public.w\" has a nondeterministic collation",
        "column \"k\" of table \"public.numbers\" is numeric, configured as bigint",
        "column \"k\" of table \"public.narrow\" is integer, configured as bigint",
        "table \"public.keyless\" has no column \"id\"",
        "table \"public.ref\" is listed but does not exist",
    ] {
        assert!(check.contains(part), "{part} in {check}");
    }
    assert_eq!(check.split(';').count(), 5, "{check}");
    let check = wait_check(&weir, "s0", |check| check.starts_with("failed"));
    assert!(!check.contains("public.ref"), "{check}");
    let mut client = weir.client("app");
    for (sql, part) in [
        ("SELECT v FROM w WHERE k = 'a'", "nondeterministic"),
        ("INSERT INTO w (k) VALUES ('a')", "nondeterministic"),
        ("INSERT INTO numbers (k) VALUES (1)", "is numeric"),
    ] {
        let reason = assert_refused(&mut client, sql);
        assert!(reason.contains(part), "{sql}: {reason}");
    }
    for sql in ["INSERT INTO t (k) VALUES (1)", "INSERT INTO vc (k) VALUES ('a')", "INSERT INTO d (k) VALUES (1)"] {
        assert_eq!(client.run(sql), "C(INSERT 0 1) Z(I)", "{sql}");
    }
    assert_eq!(client.run("INSERT INTO narrow (k) VALUES (1)"), "C(INSERT 0 1) Z(I)", "a warning refuses nothing");
    // A reload asks anew.
    for shard in &shards {
        shard.sql(
            "DROP TABLE w, numbers, narrow, keyless; CREATE TABLE IF NOT EXISTS ref (code int4);
             CREATE TABLE w (k text NOT NULL); CREATE TABLE numbers (k int8 NOT NULL); CREATE TABLE narrow (k int8 PRIMARY KEY);
             CREATE TABLE keyless (id int8 NOT NULL)",
        );
    }
    weir.reconfigure(|builder| builder);
    weir.admin("RELOAD");
    for shard in ["s0", "s1"] {
        wait_check(&weir, shard, |check| check == "ok");
    }
    assert_eq!(client.run("INSERT INTO w (k) VALUES ('a')"), "C(INSERT 0 1) Z(I)");
}

#[test]
fn a_shard_that_is_down_is_checked_when_it_comes() {
    let shards = clusters(2);
    for shard in &shards {
        shard.sql(SCHEMA);
    }
    shards[1].stop();
    // Nobody is configured to probe: the first user who comes is asked as.
    let text = toml(&shards, "postgres", TABLES).replace("probe_user = \"postgres\"\n", "");
    let weir = Weir::builder().database(&text).start();
    assert_eq!(wait_check(&weir, "s0", |_| true), "pending");
    let _client = weir.client("app");
    wait_check(&weir, "s0", |check| check == "ok");
    let check = wait_check(&weir, "s1", |check| check != "pending");
    assert!(check.starts_with("pending: could not connect to server"), "{check}");
    shards[1].restart();
    wait_check(&weir, "s1", |check| check == "ok");
}

#[test]
fn a_search_path_on_its_way_is_not_overtaken() {
    let sharded = Sharded::start(
        "CREATE SCHEMA other; CREATE TABLE other.w (k text, v text); INSERT INTO other.w VALUES ('a', 'other')",
    );
    let run = |client: &mut RawClient, sql: &str| {
        client.parse("", sql, &[]);
        client.bind("", "", &[]);
        client.execute("", 0);
    };
    let select = "SELECT v FROM w WHERE k = 'a'";
    let mut seen = Vec::new();
    // In one pipeline.
    let mut client = sharded.client();
    run(&mut client, "SET search_path = other");
    run(&mut client, select);
    client.sync();
    seen.push(show(&client.read_until_ready()));
    // In the next pipeline, sent before the first is answered.
    let mut client = sharded.client();
    run(&mut client, "SET search_path = other");
    client.sync();
    run(&mut client, select);
    client.sync();
    client.read_until_ready();
    seen.push(show(&client.read_until_ready()));
    let mut client = sharded.client();
    client.query("SET search_path = other");
    client.query(select);
    client.read_until_ready();
    seen.push(show(&client.read_until_ready()));
    // The same of the settings that choose a shard.
    let mut client = sharded.client();
    run(&mut client, "SET pgweir.shard = 's1'");
    run(&mut client, "SELECT v FROM t WHERE k = 1");
    client.sync();
    seen.push(show(&client.read_until_ready()));
    assert_eq!(seen, ["E(0A000) Z(I)", "E(0A000) Z(I)", "E(0A000) Z(I)", "E(0A000) Z(I)",]);
    // Between two Syncs nothing can be waited for.
    let mut client = sharded.client();
    run(&mut client, "SET search_path = other");
    client.flush();
    client.read_until(b'C');
    run(&mut client, select);
    client.sync();
    assert_eq!(show(&client.read_until_ready()), "E(0A000) Z(I)");
    let mut client = sharded.client();
    let reason = assert_refused(&mut client, "SELECT set_config('search_path', 'other', false)");
    assert!(reason.contains("set_config"), "{reason}");
    // What the transaction alone has decides as well.
    for local in [
        "SET LOCAL client_encoding = 'LATIN1'",
        "SET LOCAL standard_conforming_strings = off",
        "SELECT set_config('client_encoding', 'LATIN1', true)",
    ] {
        let mut client = sharded.client();
        assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
        run(&mut client, local);
        run(&mut client, select);
        client.sync();
        assert!(show(&client.read_until_ready()).ends_with("E(0A000) Z(E)"), "{local}");
    }
    let mut client = sharded.client();
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    client.query("SET LOCAL standard_conforming_strings = off");
    client.query(select);
    assert_eq!(show(&client.read_until_ready()), "C(SET) S(standard_conforming_strings=off) Z(T)");
    assert_eq!(show(&client.read_until_ready()), "E(0A000) S(standard_conforming_strings=on) Z(E)");
    let mut client = sharded.client();
    // What decides nothing is not in the way, nor what waits for its answer.
    run(&mut client, "SET work_mem = '4MB'");
    run(&mut client, "SELECT set_config('my.own', '1', true)");
    run(&mut client, select);
    client.sync();
    assert_eq!(show(&client.read_until_ready()), "1 2 C(SET) 1 2 D(1) C(SELECT 1) 1 2 C(SELECT 0) Z(I)");
    client.query("SET client_encoding = 'UTF8'");
    client.query(select);
    assert_eq!(show(&client.read_until_ready()), "C(SET) Z(I)");
    assert_eq!(show(&client.read_until_ready()), "T(v:25) C(SELECT 0) Z(I)");
}

#[test]
fn backslashes_are_read_as_the_server_reads_them() {
    let shards = clusters(2);
    for shard in &shards {
        shard.sql(SCHEMA);
        shard.sql("ALTER ROLE postgres SET standard_conforming_strings = off; ALTER ROLE postgres SET escape_string_warning = off");
    }
    let sharded = Sharded::over(shards, "postgres");
    let mut client = sharded.client();
    let insert = r"INSERT INTO w (k, v) VALUES ('a\\b', 'v')";
    assert!(assert_refused(&mut client, insert).contains("standard_conforming_strings"));
    assert!(client.run("SET standard_conforming_strings = on").starts_with("C(SET)"));
    assert_eq!(client.run(insert), "C(INSERT 0 1) Z(I)");
    let home = sharded.shard_of(hash::hash_bytes(br"a\\b"));
    assert_eq!(sharded.shards[home].sql("SELECT k FROM w"), [[r"a\\b"]]);
}

//! What a client hears through pgweir is what it hears from PostgreSQL.
//!
//! Every script runs against PostgreSQL itself and through pgweir, over a pool of one server and over a pool of two that
//! take turns, and must give the same messages, with all fields of errors and notices.

#![allow(clippy::useless_format, reason = "the same form for every statement")]
#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

use common::cluster::Cluster;
use common::raw::RawClient;
use common::weir::Weir;
use common::wire::{Message, frontend};

/// A client and all that it has heard.
struct Talk {
    client: RawClient,
    heard: Vec<String>,
}

impl Deref for Talk {
    type Target = RawClient;

    fn deref(&self) -> &RawClient {
        &self.client
    }
}

impl DerefMut for Talk {
    fn deref_mut(&mut self) -> &mut RawClient {
        &mut self.client
    }
}

impl Talk {
    /// Hears everything up to ReadyForQuery.
    fn ready(&mut self) {
        self.until(b'Z');
    }

    /// Hears everything up to a message of this type.
    fn until(&mut self, tag: u8) {
        let messages = self.client.read_until(tag);
        self.heard.push(full(&messages));
    }

    /// A simple query and its answer.
    fn q(&mut self, sql: &str) {
        self.client.query(sql);
        self.ready();
    }

    /// Parse, Bind, Describe of the portal, Execute of the unnamed statement, without Sync.
    fn unnamed(&mut self, sql: &str, values: &[Option<&str>]) {
        self.client.parse("", sql, &[]);
        self.client.bind("", "", values);
        self.client.describe_portal("");
        self.client.execute("", 0);
    }
}

/// The compact form, with every field of errors and notices but the place in PostgreSQL's source.
fn full(messages: &[Message]) -> String {
    let one = |message: &Message| match message.error() {
        None => message.to_string(),
        Some(error) => {
            let told: BTreeMap<char, String> =
                error.fields.into_iter().filter(|(field, _)| !matches!(field, 'F' | 'L' | 'R')).collect();
            format!("{}{told:?}", char::from(message.tag))
        }
    };
    messages.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// One PostgreSQL, and pgweir before it with a database over one connection and one over two that take turns.
struct Pair {
    cluster: Cluster,
    weir: Weir,
}

impl Pair {
    fn start() -> Self {
        let cluster = Cluster::start();
        let database = |name: &str, size: u32| {
            format!("[databases.{name}]\nprimary = \"{}\"\npool_size = {size}", address(&cluster))
        };
        let weir = Weir::builder()
            .general("server_round_robin = true")
            .database(&database("one", 1))
            .database(&database("two", 2))
            .start();
        // Both connections of the second database are opened, so that its client changes server at every turn.
        let mut both = [weir.client("two"), weir.client("two")];
        both.iter_mut().for_each(|client| assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)"));
        both.iter_mut().for_each(|client| assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)"));
        Self { cluster, weir }
    }

    /// Runs the script everywhere; what PostgreSQL said.
    fn same(&self, script: impl Fn(&mut Talk)) -> String {
        let run = |client: RawClient| {
            let mut talk = Talk { client, heard: Vec::new() };
            script(&mut talk);
            talk.heard
        };
        let expected = run(RawClient::connect(self.cluster.port(), "postgres", "postgres"));
        for database in ["one", "two"] {
            let got = run(self.weir.client(database));
            for (at, (expected, got)) in expected.iter().zip(&got).enumerate() {
                assert!(expected == got, "{database}, reply {at}:\n{}\n{}", cut(expected), cut(got));
            }
            assert_eq!(expected.len(), got.len());
        }
        expected.join("\n")
    }
}

fn address(cluster: &Cluster) -> String {
    format!("postgres://127.0.0.1:{}/postgres", cluster.port())
}

/// Enough of a long text to see how it differs.
fn cut(text: &str) -> String {
    text.chars().take(3000).collect()
}

#[test]
fn simple_queries() {
    let pair = Pair::start();
    let heard = pair.same(|talk| {
        for sql in [
            "SELECT 1 AS one, NULL, 'x'",
            "",
            ";;",
            "-- nothing",
            "SELECT 1; SELECT 2 AS b; SELECT 'c'",
            "SELECT 1; SELECT 1/0; SELECT 2",
            "SELEC",
            "SELECT nope FROM pg_class",
            "SELECT 'unterminated",
            "CREATE TABLE p (id int PRIMARY KEY, v text); INSERT INTO p VALUES (1, 'a'), (2, NULL) RETURNING *",
            "INSERT INTO p VALUES (1, 'again')",
            "UPDATE p SET v = 'b' WHERE id = 2; DELETE FROM p",
            "VALUES (1), (2)",
            "EXPLAIN (COSTS off) SELECT 1",
            "SHOW server_version",
            "TABLE p",
            "DROP TABLE p",
            "DROP TABLE IF EXISTS p",
            "VACUUM",
            "SELECT 1; VACUUM",
            "DO $$ BEGIN RAISE NOTICE 'hear %', 1 USING DETAIL = 'd', HINT = 'h'; RAISE WARNING 'w'; END $$",
            "DO $$ BEGIN RAISE EXCEPTION 'own' USING ERRCODE = 'P0042', DETAIL = 'd'; END $$",
            "PREPARE st AS SELECT $1::int + 1; EXECUTE st(41); DEALLOCATE st",
            "EXECUTE st(1)",
            "LISTEN c",
            "NOTIFY c, 'self'",
            "UNLISTEN *",
        ] {
            talk.q(sql);
        }
    });
    for part in ["I Z(I)", "C(SELECT 1) T(b:23) D(2)", "22012", "42703", "hear 1", "P0042", "D(42)", "A(c,self)"] {
        assert!(heard.contains(part), "{part}: {heard}");
    }
}

#[test]
fn transactions() {
    let pair = Pair::start();
    let heard = pair.same(|talk| {
        for sql in [
            "BEGIN",
            "CREATE TABLE tx (id int)",
            "SAVEPOINT a",
            "INSERT INTO tx VALUES (1)",
            "SELECT 1/0",
            "SELECT 1",
            "ROLLBACK TO a",
            "SELECT count(*) FROM tx",
            "RELEASE a",
            "RELEASE a",
            "COMMIT",
            "COMMIT",
            "ROLLBACK",
            "START TRANSACTION ISOLATION LEVEL SERIALIZABLE READ ONLY",
            "BEGIN",
            "CREATE TABLE no (id int)",
            "ABORT",
            "BEGIN; SELECT 1; COMMIT; SELECT 2",
            "BEGIN; SELECT 1/0; COMMIT",
            "COMMIT AND CHAIN",
            "ROLLBACK",
            "BEGIN; COMMIT AND CHAIN",
            "ROLLBACK",
            "SAVEPOINT outside",
            "SET LOCAL work_mem = '1MB'",
            "BEGIN; DECLARE c CURSOR FOR SELECT generate_series(1, 5); FETCH 2 FROM c; MOVE 1 IN c; FETCH ALL c",
            "CLOSE c; CLOSE c",
            "END",
        ] {
            talk.q(sql);
        }
        // The extended protocol moves through transactions too, within one pipeline.
        talk.unnamed("BEGIN", &[]);
        talk.unnamed("SELECT 'in'", &[]);
        talk.sync();
        talk.ready();
        talk.unnamed("SELECT 1/0", &[]);
        talk.sync();
        talk.ready();
        talk.unnamed("COMMIT", &[]);
        talk.sync();
        talk.ready();
    });
    for part in ["Z(T)", "Z(E)", "25P02", "25P01", "25001", "25006", "3B001", "C(MOVE 1)", "34000", "D(in)"] {
        assert!(heard.contains(part), "{part}: {heard}");
    }
}

#[test]
fn extended_queries() {
    let pair = Pair::start();
    let heard = pair.same(|talk| {
        talk.unnamed("SELECT $1::int + 1 AS n, $2::text", &[Some("41"), None]);
        talk.sync();
        talk.ready();
        // A named statement, described before and after, over several turns.
        talk.parse("st", "SELECT $1::int8 * 2 AS twice WHERE $2", &[0, 16]);
        talk.describe_statement("st");
        talk.sync();
        talk.ready();
        for value in ["1", "21"] {
            talk.bind("", "st", &[Some(value), Some("t")]);
            talk.describe_portal("");
            talk.execute("", 0);
            talk.sync();
            talk.ready();
        }
        talk.describe_statement("st");
        talk.sync();
        talk.ready();
        talk.bind_binary("", "st", &[Some(&5i64.to_be_bytes()), Some(&[1])]);
        talk.execute("", 0);
        talk.sync();
        talk.ready();
        talk.close_statement("st");
        talk.close_statement("st");
        talk.close_portal("none");
        talk.sync();
        talk.ready();
        talk.bind("", "st", &[]);
        talk.sync();
        talk.ready();
        // Statements that return nothing, and no statement at all.
        talk.unnamed("SET work_mem = '5MB'", &[]);
        talk.unnamed("", &[]);
        talk.sync();
        talk.ready();
        talk.parse("", "", &[]);
        talk.describe_statement("");
        talk.sync();
        talk.ready();
        talk.q("SHOW work_mem");
        // Sync alone, twice; Flush alone.
        talk.sync();
        talk.flush();
        talk.sync();
        talk.ready();
        talk.ready();
    });
    for part in ["D(42|\\N)", "t(20,16) T(twice:20)", "D(42)", "3 3 3 Z(I)", "26000", "n C(SET)", "I Z(I)", "D(5MB)"] {
        assert!(heard.contains(part), "{part}: {heard}");
    }
}

#[test]
fn errors_skip_to_sync() {
    let pair = Pair::start();
    let heard = pair.same(|talk| {
        talk.q("CREATE TABLE skipped (id int)");
        // In Parse.
        talk.parse("bad", "SELEC", &[]);
        talk.bind("", "bad", &[]);
        talk.execute("", 0);
        talk.sync();
        talk.ready();
        // The name is free.
        talk.parse("bad", "SELECT 'now good'", &[]);
        talk.bind("", "bad", &[]);
        talk.execute("", 0);
        talk.sync();
        talk.ready();
        // In Bind, Execute and Describe; what follows is skipped, named statements and Close too.
        talk.parse("", "SELECT $1::int", &[]);
        talk.bind("", "", &[Some("x")]);
        talk.execute("", 0);
        talk.parse("after", "SELECT 1", &[]);
        talk.close_statement("bad");
        talk.unnamed("INSERT INTO skipped VALUES (1)", &[]);
        talk.sync();
        talk.ready();
        talk.bind("", "after", &[]);
        talk.sync();
        talk.ready();
        talk.bind("", "bad", &[]);
        talk.execute("", 0);
        talk.sync();
        talk.ready();
        talk.unnamed("INSERT INTO skipped VALUES (1)", &[]);
        talk.unnamed("SELECT 1/0", &[]);
        talk.unnamed("INSERT INTO skipped VALUES (2)", &[]);
        talk.sync();
        talk.ready();
        talk.describe_statement("nope");
        talk.sync();
        talk.ready();
        talk.describe_portal("nope");
        talk.sync();
        talk.ready();
        talk.execute("nope", 0);
        talk.sync();
        talk.ready();
        talk.bind("", "nope", &[]);
        talk.flush();
        talk.until(b'E');
        talk.execute("", 0);
        talk.sync();
        talk.ready();
        // Two statements in one Parse; the wrong number of parameters; a query in the middle of skipping.
        talk.parse("", "SELECT 1; SELECT 2", &[]);
        talk.sync();
        talk.ready();
        talk.parse("", "SELECT $1::int", &[]);
        talk.bind("", "", &[]);
        talk.sync();
        talk.ready();
        talk.q("TABLE skipped");
        talk.q("DROP TABLE skipped");
    });
    for part in ["42601", "D(now good)", "22P02", r#"prepared statement \"after\" does not exist"#, "34000", "08P01"] {
        assert!(heard.contains(part), "{part}: {heard}");
    }
    assert!(heard.contains("T(id:23) C(SELECT 0) Z(I)"), "{heard}");
}

#[test]
fn names_of_statements() {
    let pair = Pair::start();
    let heard = pair.same(|talk| {
        talk.parse("twice", "SELECT 1", &[]);
        talk.sync();
        talk.ready();
        talk.parse("twice", "SELECT 2", &[]);
        talk.sync();
        talk.ready();
        talk.parse("twice", "SELECT 1", &[]);
        talk.sync();
        talk.ready();
        talk.bind("", "twice", &[]);
        talk.execute("", 0);
        talk.sync();
        talk.ready();
        talk.bind("", "never", &[]);
        talk.sync();
        talk.ready();
        talk.describe_statement("never");
        talk.sync();
        talk.ready();
        // In one pipeline: made, closed, made anew with another text.
        talk.parse("again", "SELECT 'first'", &[]);
        talk.bind("", "again", &[]);
        talk.execute("", 0);
        talk.close_statement("again");
        talk.parse("again", "SELECT 'second'", &[]);
        talk.bind("", "again", &[]);
        talk.execute("", 0);
        talk.sync();
        talk.ready();
        talk.bind("", "again", &[]);
        talk.execute("", 0);
        talk.sync();
        talk.ready();
        // Inside of a transaction they fail the transaction.
        talk.q("BEGIN");
        talk.parse("again", "SELECT 3", &[]);
        talk.sync();
        talk.ready();
        talk.q("SELECT 1");
        talk.q("ROLLBACK");
        talk.q("BEGIN");
        talk.bind("", "never", &[]);
        talk.sync();
        talk.ready();
        talk.q("ROLLBACK");
        // The unnamed statement: gone after a simple query and after a failed Parse.
        talk.parse("", "SELECT 'unnamed'", &[]);
        talk.sync();
        talk.ready();
        talk.bind("", "", &[]);
        talk.execute("", 0);
        talk.sync();
        talk.ready();
        talk.q("SELECT 1");
        talk.bind("", "", &[]);
        talk.execute("", 0);
        talk.sync();
        talk.ready();
        // Deallocated by SQL.
        talk.q("DEALLOCATE twice");
        talk.bind("", "twice", &[]);
        talk.sync();
        talk.ready();
        talk.q("DEALLOCATE twice");
        talk.q("DEALLOCATE ALL");
        talk.bind("", "again", &[]);
        talk.sync();
        talk.ready();
        talk.parse("again", "SELECT 4", &[]);
        talk.bind("", "again", &[]);
        talk.execute("", 0);
        talk.sync();
        talk.ready();
        talk.q("DISCARD ALL");
        talk.describe_statement("again");
        talk.sync();
        talk.ready();
    });
    for part in [
        "42P05",
        r#"prepared statement \"twice\" already exists"#,
        r#"prepared statement \"never\" does not exist"#,
        "unnamed prepared statement does not exist",
        "D(first) C(SELECT 1) 3 1 2 D(second)",
        "D(unnamed)",
        "25P02",
    ] {
        assert!(heard.contains(part), "{part}: {heard}");
    }
}

#[test]
fn portals() {
    let pair = Pair::start();
    let heard = pair.same(|talk| {
        // Suspended within one exchange.
        talk.parse("", "SELECT generate_series(1, 5)", &[]);
        talk.bind("", "", &[]);
        talk.execute("", 2);
        talk.execute("", 2);
        talk.execute("", 2);
        talk.execute("", 2);
        talk.sync();
        talk.ready();
        // The portal is gone with its transaction, which ended at Sync.
        talk.parse("", "SELECT generate_series(1, 5)", &[]);
        talk.bind("por", "", &[]);
        talk.execute("por", 1);
        talk.sync();
        talk.ready();
        talk.execute("por", 1);
        talk.sync();
        talk.ready();
        // In a block it lives across Syncs, and is closed.
        talk.q("BEGIN");
        talk.parse("gen", "SELECT generate_series(1, $1::int)", &[]);
        talk.bind("p1", "gen", &[Some("4")]);
        talk.bind("p2", "gen", &[Some("3")]);
        talk.execute("p1", 3);
        talk.sync();
        talk.ready();
        talk.execute("p2", 1);
        talk.execute("p1", 0);
        talk.close_portal("p1");
        talk.sync();
        talk.ready();
        talk.execute("p2", 5);
        talk.execute("p1", 0);
        talk.sync();
        talk.ready();
        talk.q("ROLLBACK");
        talk.bind("dup", "gen", &[Some("1")]);
        talk.bind("dup", "gen", &[Some("1")]);
        talk.sync();
        talk.ready();
        // Flush in place of Sync: answers come, the exchange stays open.
        talk.parse("", "SELECT generate_series(1, 3)", &[]);
        talk.flush();
        talk.until(b'1');
        talk.bind("", "", &[]);
        talk.describe_portal("");
        talk.flush();
        talk.until(b'T');
        talk.execute("", 2);
        talk.flush();
        talk.until(b's');
        talk.execute("", 2);
        talk.flush();
        talk.until(b'C');
        talk.sync();
        talk.ready();
    });
    for part in
        ["D(1) D(2) s D(3) D(4) s D(5) C(SELECT 1)", "34000", "D(1) D(2) D(3) s Z(T)", "D(4) C(SELECT 1) 3", "42P03"]
    {
        assert!(heard.contains(part), "{part}: {heard}");
    }
}

#[test]
fn pipelines() {
    let pair = Pair::start();
    let heard = pair.same(|talk| {
        talk.q("CREATE TABLE pipe (id int PRIMARY KEY)");
        // Sent at once, as libpq's pipeline mode does: each Sync ends a transaction of its own.
        let mut bytes = Vec::new();
        for number in 0..20 {
            let value = (number % 15).to_string();
            bytes.extend(frontend::parse(&format!("s{number}"), "INSERT INTO pipe VALUES ($1)", &[23]));
            bytes.extend(frontend::bind("", &format!("s{number}"), &[Some(value.as_bytes())], 0));
            bytes.extend(frontend::execute("", 0));
            bytes.extend(common::wire::frame(b'S', &[]));
        }
        talk.send_bytes(&bytes);
        (0..20).for_each(|_| talk.ready());
        // A mix: simple queries between, a transaction over several Syncs, an error in the middle of it.
        let mut bytes = frontend::query("SELECT count(*) FROM pipe");
        for sql in ["BEGIN", "INSERT INTO pipe VALUES (100)", "SELECT 1/0", "INSERT INTO pipe VALUES (101)", "ROLLBACK"]
        {
            bytes.extend(frontend::parse("", sql, &[]));
            bytes.extend(frontend::bind("", "", &[], 0));
            bytes.extend(frontend::execute("", 0));
            bytes.extend(common::wire::frame(b'S', &[]));
        }
        bytes.extend(frontend::query("SELECT max(id) FROM pipe"));
        bytes.extend(frontend::query("SELEC"));
        bytes.extend(frontend::query("DROP TABLE pipe"));
        talk.send_bytes(&bytes);
        (0..9).for_each(|_| talk.ready());
    });
    assert_eq!(heard.matches("1 2 C(INSERT 0 1) Z(I)").count(), 15, "{heard}");
    assert_eq!(heard.matches("23505").count(), 5, "{heard}");
    assert!(heard.contains("D(15)") && heard.contains("25P02") && heard.contains("D(14)"), "{heard}");
}

#[test]
fn copy_by_simple_queries() {
    let pair = Pair::start();
    let heard = pair.same(|talk| {
        talk.q("CREATE TABLE copied (id int, v text)");
        talk.query("COPY copied FROM STDIN");
        talk.until(b'G');
        talk.copy_data(b"1\tone\n2\t");
        talk.copy_data(b"two\n");
        talk.copy_done();
        talk.ready();
        talk.q("COPY copied TO STDOUT");
        talk.q("COPY copied TO STDOUT (FORMAT binary)");
        // The client gives up.
        talk.query("COPY copied FROM STDIN");
        talk.until(b'G');
        talk.copy_data(b"3\tthree\n");
        talk.copy_fail("changed my mind");
        talk.ready();
        // Bad data: the error may come before the end of the data, and CopyDone then is passed over.
        talk.query("COPY copied FROM STDIN");
        talk.until(b'G');
        talk.copy_data(b"x\tbad\n");
        talk.copy_data(&[b"4\tfour\n".repeat(3), b"y\n".to_vec()].concat());
        talk.copy_done();
        talk.ready();
        talk.q("SELECT 'in order'");
        talk.query("COPY copied FROM STDIN");
        talk.until(b'G');
        talk.copy_data(b"x\tbad\n");
        talk.until(b'E');
        talk.ready();
        talk.copy_data(b"5\tlate\n");
        talk.copy_done();
        talk.q("SELECT 'late data is ignored'");
        // In a block, and among other statements.
        talk.q("BEGIN");
        talk.query("COPY copied FROM STDIN");
        talk.until(b'G');
        talk.copy_data(b"6\tsix\n");
        talk.copy_done();
        talk.ready();
        talk.q("SELECT count(*) FROM copied");
        talk.query("COPY copied FROM STDIN; SELECT 'after'");
        talk.until(b'G');
        talk.copy_data(b"7\tseven\n");
        talk.copy_done();
        talk.ready();
        talk.query("COPY copied FROM STDIN");
        talk.until(b'G');
        talk.copy_fail("in a block");
        talk.ready();
        talk.q("ROLLBACK");
        talk.q("SELECT 'before'; COPY (SELECT generate_series(1, 3)) TO STDOUT; SELECT 'after'");
        talk.q("COPY nowhere FROM STDIN");
        talk.q("COPY (SELECT 1/0) TO STDOUT");
        talk.q("DROP TABLE copied");
    });
    for part in [
        "C(COPY 2) Z(I)",
        "d(1\\tone\\n) d(2\\ttwo\\n) c C(COPY 2)",
        "changed my mind",
        "22P02",
        "D(in order)",
        "D(late data is ignored)",
        "C(COPY 1) T(?column?:25) D(after)",
        "42P01",
    ] {
        assert!(heard.contains(part), "{part}: {heard}");
    }
}

#[test]
fn copy_by_the_extended_protocol() {
    let pair = Pair::start();
    let heard = pair.same(|talk| {
        talk.q("CREATE TABLE copied (id int, v text)");
        // As libpq does: Sync before the data (ignored there), another after CopyDone.
        for name in ["", "cp"] {
            talk.parse(name, "COPY copied FROM STDIN", &[]);
            talk.bind("", name, &[]);
            talk.describe_portal("");
            talk.execute("", 0);
            talk.sync();
            talk.until(b'G');
            talk.copy_data(b"1\tone\n");
            talk.copy_done();
            talk.sync();
            talk.ready();
        }
        // Without the early Sync.
        talk.unnamed("COPY copied FROM STDIN", &[]);
        talk.flush();
        talk.until(b'G');
        talk.copy_data(b"2\ttwo\n");
        talk.copy_done();
        talk.sync();
        talk.ready();
        // All of it at once.
        talk.unnamed("COPY copied FROM STDIN", &[]);
        talk.sync();
        talk.copy_data(b"3\tthree\n");
        talk.copy_done();
        talk.sync();
        talk.ready();
        // CopyFail, bad data.
        talk.unnamed("COPY copied FROM STDIN", &[]);
        talk.sync();
        talk.until(b'G');
        talk.copy_fail("no more");
        talk.sync();
        talk.ready();
        talk.q("SELECT 'between'");
        talk.unnamed("COPY copied FROM STDIN", &[]);
        talk.flush();
        talk.until(b'G');
        talk.copy_data(b"bad\n");
        talk.copy_done();
        talk.sync();
        talk.ready();
        talk.unnamed("COPY (SELECT * FROM copied ORDER BY id) TO STDOUT", &[]);
        talk.sync();
        talk.ready();
        talk.parse("out", "COPY copied TO STDOUT", &[]);
        talk.bind("", "out", &[]);
        talk.execute("", 0);
        talk.sync();
        talk.ready();
        talk.q("DROP TABLE copied");
    });
    assert_eq!(heard.matches("C(COPY 1) Z(I)").count(), 4, "{heard}");
    for part in ["no more", "22P02", "D(between)", "d(3\\tthree\\n) c C(COPY 4) Z(I)"] {
        assert!(heard.contains(part), "{part}: {heard}");
    }
}

#[test]
fn parameter_status_stands_where_the_server_put_it() {
    let pair = Pair::start();
    let heard = pair.same(|talk| {
        for sql in [
            "SET application_name = 'parity'",
            "SELECT 1; SET TimeZone = 'Asia/Tokyo'; SELECT 2",
            "SELECT '2020-01-01 00:00+00'::timestamptz",
            "SET client_encoding = 'latin1'",
            "SHOW client_encoding",
            "RESET client_encoding",
            "SET DateStyle = 'German'",
            "SELECT '2020-02-01'::date",
            "BEGIN; SET IntervalStyle = 'iso_8601'; ROLLBACK",
            "SHOW IntervalStyle",
            "BEGIN",
            "SET LOCAL DateStyle = 'SQL, DMY'",
            "SELECT '2020-02-01'::date",
            "COMMIT",
            "SELECT '2020-02-01'::date",
            "SET standard_conforming_strings = off",
            r"SELECT 'a\\b'",
            "SET nonsense.x = 1; SHOW nonsense.x",
            "SET TimeZone = 'No/Where'",
            "SHOW TimeZone",
            "RESET ALL",
            "SHOW TimeZone",
            "SELECT set_config('application_name', 'by function', false)",
            "SHOW application_name",
            "DISCARD ALL",
            "SHOW application_name",
        ] {
            talk.q(sql);
        }
        talk.unnamed("SET application_name = 'extended'", &[]);
        talk.unnamed("SHOW application_name", &[]);
        talk.sync();
        talk.ready();
    });
    for part in [
        "C(SET) S(application_name=parity) Z(I)",
        "D(2020-01-01 09:00:00+09)",
        "D(01.02.2020)",
        "D(01/02/2020)",
        "D(extended)",
    ] {
        assert!(heard.contains(part), "{part}: {heard}");
    }
}

#[test]
fn function_calls_and_wrong_messages() {
    let pair = Pair::start();
    let heard = pair.same(|talk| {
        talk.function_call(177, &[Some("2"), Some("3")]);
        talk.ready();
        talk.function_call(177, &[Some("2"), Some("x")]);
        talk.ready();
        talk.function_call(999_999, &[]);
        talk.ready();
        talk.q("BEGIN");
        talk.function_call(177, &[Some("40"), Some("2")]);
        talk.ready();
        talk.q("ROLLBACK");
        // COPY messages out of place are ignored.
        talk.copy_data(b"stray");
        talk.copy_done();
        talk.copy_fail("stray");
        talk.q("SELECT 'still here'");
        talk.send(b'!', b"");
        let last = talk.read_to_end();
        talk.heard.push(full(&last));
    });
    for part in ["V(5) Z(I)", "22P02", "V(42) Z(T)", "D(still here)", "invalid frontend message type 33"] {
        assert!(heard.contains(part), "{part}: {heard}");
    }
}

#[test]
fn large_messages() {
    let pair = Pair::start();
    let heard = pair.same(|talk| {
        talk.q("SELECT repeat('x', 3000000)");
        talk.q("SELECT g, repeat('y', 20) FROM generate_series(1, 10000) g");
        talk.q(&format!("SELECT length('{}')", "q".repeat(2_000_000)));
        // Parse and Bind larger than any buffer, named and unnamed, with others around them in one write.
        let text = format!("SELECT length('{}'), length($1)", "p".repeat(1_500_000));
        let value = "v".repeat(2_500_000);
        for name in ["", "large"] {
            talk.parse("small", "SELECT 1", &[]);
            talk.parse(name, &text, &[25]);
            talk.bind("", name, &[Some(&value)]);
            talk.execute("", 0);
            talk.close_statement("small");
            talk.sync();
            talk.ready();
        }
        talk.bind("", "large", &[Some(&value[..1_200_000])]);
        talk.execute("", 0);
        talk.sync();
        talk.ready();
        // COPY data in one large message, and out again.
        talk.q("CREATE TABLE big (v text)");
        talk.query("COPY big FROM STDIN");
        talk.until(b'G');
        talk.copy_data(format!("{value}\n").as_bytes());
        talk.copy_data(&b"row\n".repeat(300_000));
        talk.copy_done();
        talk.ready();
        talk.q("SELECT count(*), sum(length(v)) FROM big");
        talk.q("COPY (SELECT v FROM big ORDER BY length(v) DESC LIMIT 2) TO STDOUT");
        talk.q("DROP TABLE big");
        talk.q(&format!(
            "DO $$ BEGIN RAISE NOTICE '%', repeat('n', 1500000); RAISE EXCEPTION '%', repeat('e', 1500000); END $$"
        ));
    });
    for part in
        ["D(2000000)", "D(1500000|2500000)", "D(1500000|1200000)", "C(COPY 300001)", "D(300001|3400000)", "D(10000|yyy"]
    {
        assert!(heard.contains(part), "{part}");
    }
}

#[test]
fn slow_reader_gets_everything() {
    // Far more than any buffer on the way holds: the answer waits for the reader, in pgweir and in the kernel.
    let pair = Pair::start();
    let heard = pair.same(|talk| {
        talk.query("SELECT repeat(chr(65 + g % 26), 100000) FROM generate_series(1, 300) g");
        talk.query("SELECT 'next'");
        std::thread::sleep(std::time::Duration::from_millis(300));
        talk.ready();
        talk.ready();
    });
    assert!(heard.contains("C(SELECT 300)") && heard.contains("D(next)"));
}

/// Names that stand for nothing in the middle of a pipeline, and what errors make of the unnamed statement.
#[test]
fn errors_within_pipelines() {
    let pair = Pair::start();
    let heard = pair.same(|talk| {
        // All of it is sent before anything is read.
        talk.query("SELEC");
        talk.bind("", "missing", &[]);
        talk.close_statement("");
        talk.flush();
        talk.sync();
        talk.parse("", "SELECT 'kept'", &[]);
        talk.sync();
        talk.bind("", "missing", &[]);
        talk.parse("b", "SELECT 'skipped'", &[]);
        talk.sync();
        // The unnamed statement has outlived all that; what comes before the missing name is answered.
        talk.bind("", "", &[]);
        talk.execute("", 0);
        talk.bind("", "b", &[]);
        talk.parse("", "SELECT 'skipped'", &[]);
        talk.sync();
        talk.bind("", "", &[]);
        talk.execute("", 0);
        talk.sync();
        (0..6).for_each(|_| talk.ready());
        // A Parse that fails takes the unnamed statement away; a later one is not touched by it.
        talk.parse("", "SELEC", &[]);
        talk.sync();
        talk.bind("", "", &[]);
        talk.sync();
        talk.parse("", "SELECT 'later'", &[]);
        talk.sync();
        talk.bind("", "", &[]);
        talk.execute("", 0);
        talk.sync();
        (0..4).for_each(|_| talk.ready());
        // A Parse that is skipped gives nothing.
        talk.parse("", "SELECT 'first'", &[]);
        talk.sync();
        talk.bind("", "missing", &[]);
        talk.parse("", "SELECT 'never'", &[]);
        talk.sync();
        talk.bind("", "", &[]);
        talk.execute("", 0);
        talk.sync();
        (0..3).for_each(|_| talk.ready());
        // Close, then a name that stands for nothing.
        talk.close_statement("missing");
        talk.bind("", "missing", &[]);
        talk.sync();
        talk.ready();
        talk.query("SELECT 'drops the unnamed statement'");
        talk.bind("", "", &[]);
        talk.sync();
        (0..2).for_each(|_| talk.ready());
    });
    assert_eq!(heard.matches("D(kept)").count(), 2, "{heard}");
    assert!(heard.contains("D(later)") && heard.contains("D(first)"), "{heard}");
    assert!(!heard.contains("skipped") && !heard.contains("never"), "{heard}");
}

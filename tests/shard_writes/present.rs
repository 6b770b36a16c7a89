//! Values that speak of the present: no two shards may take it from their own clocks, and no text may be taken for one.

use super::*;

const TEXT: u32 = 25;
const VARCHAR: u32 = 1043;
const TEXTS: u32 = 1009;
const UNKNOWN: u32 = 705;

fn start(count: usize) -> (Sharded, RawClient) {
    let sharded = Sharded::start(count, "cross_shard_writes = \"two_phase\"\nunkeyed_writes = true");
    let client = sharded.client();
    (sharded, client)
}

/// By pgweir, so that it does not see the shards differ meanwhile.
fn ddl(client: &mut RawClient, texts: &[&str]) {
    for sql in texts {
        let told = client.run(sql);
        assert!(told.ends_with("Z(I)") && !told.contains("E("), "{sql}: {told}");
    }
}

/// The rows of `VALUES`, each a key and a value.
fn rows(cast: &str) -> String {
    let rows: Vec<String> = (0..6).map(|n| format!("(${}, ${}{cast})", 2 * n + 1, 2 * n + 2)).collect();
    rows.join(", ")
}

fn keyed<'a>(keys: &'a [String], value: &'a str) -> Vec<Option<&'a str>> {
    keys.iter().flat_map(|key| [Some(key.as_str()), Some(value)]).collect()
}

fn keys(from: usize) -> Vec<String> {
    (from..from + 6).map(|k| k.to_string()).collect()
}

fn is_refused(answer: &[Message], what: &str) {
    let (code, message, hint) = error(answer);
    assert!(code == "0A000" && message.contains("present") && !hint.is_empty(), "{what}: {code} {message}");
}

fn binary(client: &mut RawClient, sql: &str, oids: &[u32], values: &[&[u8]]) -> Vec<Message> {
    client.parse("", sql, oids);
    client.bind_binary("", "", &values.iter().map(|value| Some(*value)).collect::<Vec<_>>());
    client.execute("", 0);
    client.sync();
    client.read_until_ready()
}

#[test]
fn a_text_that_is_cast_to_a_time_is_no_way_to_another_time_on_each_shard() {
    let (sharded, mut client) = start(3);
    ddl(&mut client, &["ALTER TABLE r ADD ats timestamptz[]", "ALTER TABLE t ADD at timestamptz"]);
    assert_eq!(client.run("INSERT INTO r (code, name, at, ats) VALUES (1, 'a', NULL, NULL)"), "C(INSERT 0 1) Z(I)");
    for (sql, oid, value) in [
        ("UPDATE r SET at = $1::timestamptz", VARCHAR, "now"),
        ("UPDATE r SET at = $1::timestamptz", TEXT, "Today 04:05"),
        ("UPDATE r SET at = date($1)", TEXT, "now"),
        ("UPDATE r SET at = timestamptz($1)", VARCHAR, "now"),
        ("UPDATE r SET at = coalesce($1, 'x')::timestamp", TEXT, "now"),
        ("UPDATE r SET ats = $1::timestamptz[]", TEXTS, "{now}"),
        ("UPDATE r SET ats = $1::timestamptz[]", TEXTS, "{n\\ow}"),
        ("UPDATE r SET at = v.x::timestamptz FROM (VALUES ($1)) AS v (x)", TEXT, "now"),
        ("UPDATE r SET at = $1::text::timestamptz", 0, "now"),
    ] {
        is_refused(&extended(&mut client, sql, &[oid], &[Some(value)]), sql);
        assert_eq!(sharded.all("SELECT 1 FROM r WHERE at IS NOT NULL OR ats IS NOT NULL").len(), 0, "{sql}");
    }
    let ours = keys(1);
    let oids: Vec<u32> = [20, VARCHAR].repeat(6);
    let insert = format!("INSERT INTO t (k, at) VALUES {}", rows("::timestamptz"));
    is_refused(&extended(&mut client, &insert, &oids, &keyed(&ours, "now")), &insert);
    assert_eq!(sharded.counts("t"), [0, 0, 0]);
    let told = show(&extended(&mut client, &insert, &oids, &keyed(&ours, "2024-01-02 03:04:05+00")));
    assert!(told.contains("C(INSERT 0 6)"), "{told}");
    // What is cast is another parameter, or becomes no time.
    for (sql, values) in [
        ("UPDATE r SET name = $1, at = $2::timestamptz", ["Sale ends today", "2024-01-02 03:04:05+00"]),
        ("UPDATE r SET name = $1::varchar(40), at = $2::timestamptz", ["see you now", "2024-01-02 03:04:05+00"]),
    ] {
        let told = show(&extended(&mut client, sql, &[VARCHAR, VARCHAR], &values.map(Some)));
        assert!(told.contains("C(UPDATE 1)"), "{sql}: {told}");
    }
    sharded.nothing_prepared();
}

#[test]
fn a_text_in_binary_says_the_same_as_one_in_text() {
    let (sharded, mut client) = start(3);
    ddl(&mut client, &["ALTER TABLE r ADD ats timestamptz[], ADD raw bytea"]);
    assert_eq!(client.run("INSERT INTO r (code, name, at, ats) VALUES (1, 'a', NULL, NULL)"), "C(INSERT 0 1) Z(I)");
    // One dimension, no NULL, of text; one element, from 1.
    let array = [&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 25, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 3], &b"now"[..]].concat();
    for (sql, value) in [
        ("UPDATE r SET at = $1::text::timestamptz", &b"now"[..]),
        ("UPDATE r SET at = date($1::varchar)", b"Yesterday"),
        ("UPDATE r SET ats = $1::text[]::timestamptz[]", &array),
    ] {
        is_refused(&binary(&mut client, sql, &[], &[value]), sql);
        assert_eq!(sharded.all("SELECT 1 FROM r WHERE at IS NOT NULL OR ats IS NOT NULL").len(), 0, "{sql}");
    }
    // Elsewhere such bytes mean nothing.
    let moment = b"\0\x02now\0\0\0";
    for (sql, value) in [("UPDATE r SET name = $1", &b"see you now"[..]), ("UPDATE r SET raw = $1", b"\0now\xff")] {
        let told = show(&binary(&mut client, sql, &[], &[value]));
        assert!(told.contains("C(UPDATE 1)"), "{sql}: {told}");
    }
    let told = show(&binary(&mut client, "UPDATE r SET at = $1::timestamptz::date", &[], &[moment]));
    assert!(told.contains("C(UPDATE 1)"), "a moment has no words: {told}");
    sharded.nothing_prepared();
}

#[test]
fn a_parameter_of_type_unknown_is_of_no_type_yet() {
    let (sharded, mut client) = start(3);
    assert_eq!(client.run("INSERT INTO r (code, name, at) VALUES (1, 'a', NULL)"), "C(INSERT 0 1) Z(I)");
    let told = show(&extended(&mut client, "UPDATE r SET at = $1", &[UNKNOWN], &[Some("now")]));
    assert!(told.contains("C(UPDATE 1)"), "{told}");
    assert_eq!(sharded.all("SELECT DISTINCT at FROM r").windows(2).filter(|pair| pair[0] != pair[1]).count(), 0);
    let ours = keys(1);
    let told = show(&extended(
        &mut client,
        &format!("INSERT INTO t (k, v) VALUES {}", rows("")),
        &[20, UNKNOWN].repeat(6),
        &keyed(&ours, "now"),
    ));
    assert!(told.contains("C(INSERT 0 6)"), "{told}");
    sharded.nothing_prepared();
}

#[test]
fn words_in_the_data_are_no_reason_to_refuse_it() {
    let (sharded, mut client) = start(3);
    ddl(
        &mut client,
        &[
            "CREATE DOMAIN title AS varchar(80) CHECK (value <> '')",
            "CREATE TYPE day AS ENUM ('today', 'later')",
            "CREATE DOMAIN moment AS timestamptz",
            "CREATE TYPE pair AS (a text, at timestamptz)",
            "ALTER TABLE t ADD title title, ADD day day, ADD days day[], ADD tags text[], ADD doc jsonb, ADD at timestamptz, \
               ADD ats timestamptz[], ADD moment moment, ADD pair pair",
        ],
    );
    let mut from = 0;
    let mut insert = |client: &mut RawClient, column: &str, value: &str, behind: &str| {
        from += 10;
        let sql = format!("INSERT INTO t (k, {column}) VALUES {} {behind}", rows(""));
        extended(client, &sql, &[], &keyed(&keys(from), value))
    };
    for (column, value) in [
        ("title", "Sale ends today"),
        ("day", "today"),
        ("days", "{today,later}"),
        ("tags", "{now,then}"),
        ("doc", "{\"at\": \"now\"}"),
        ("v", "see you now"),
    ] {
        let told = show(&insert(&mut client, column, value, ""));
        assert!(told.contains("C(INSERT 0 6)"), "{column}: {told}");
    }
    let behind = "ON CONFLICT (k) DO UPDATE SET n = (t.n + 1)::int, at = t.v::timestamptz";
    let told = show(&insert(&mut client, "v", "see you now", behind));
    assert!(told.contains("C(INSERT 0 6)"), "{told}");
    // Of these it is not known.
    for (column, value) in [("moment", "now"), ("pair", "(a,now)")] {
        is_refused(&insert(&mut client, column, value, ""), column);
    }
    // The same as literals.
    let mut literal = |client: &mut RawClient, column: &str, value: &str| {
        from += 10;
        let values: Vec<String> = (from..from + 6).map(|k| format!("({k}, '{value}')")).collect();
        ask(client, &format!("INSERT INTO t (k, {column}) VALUES {}", values.join(", ")))
    };
    for (column, value) in [
        ("v", "see you now"),
        ("title", "Sale ends today"),
        ("day", "today"),
        ("days", "{today}"),
        ("tags", "{now}"),
        ("doc", "[\"now\"]"),
    ] {
        assert_eq!(show(&literal(&mut client, column, value)), "C(INSERT 0 6) Z(I)", "{column}");
    }
    for (column, value) in [("at", "now"), ("ats", "{now}"), ("moment", "today"), ("pair", "(a,now)")] {
        is_refused(&literal(&mut client, column, value), column);
    }
    // The columns of the table are known again soon after they were changed.
    eventually("rows without a list of columns", SOON, || {
        let rows = "(901, 'now'), (902, 'today'), (903, 'x'), (904, 'x'), (905, 'x')";
        (client.run(&format!("INSERT INTO t VALUES {rows}")) == "C(INSERT 0 5) Z(I)").then_some(())
    });
    for (sql, wanted) in [
        ("UPDATE t SET v = 'now'", "C(UPDATE "),
        ("INSERT INTO r (code, name, at) VALUES (1, 'today', NULL)", "C(INSERT 0 1) Z(I)"),
        (
            "INSERT INTO r (code, name, at) VALUES (1, 'x', NULL) ON CONFLICT (code) DO UPDATE SET name = 'now'",
            "C(INSERT 0 1) Z(I)",
        ),
        ("UPDATE r SET name = 'yesterday'", "C(UPDATE 1) Z(I)"),
    ] {
        let told = client.run(sql);
        assert!(told.starts_with(wanted), "{sql}: {told}");
    }
    for sql in [
        "INSERT INTO r VALUES (2, 'a', 'now')",
        "INSERT INTO r (code, name, at) VALUES (1, 'x', NULL) ON CONFLICT (code) DO UPDATE SET at = 'now'",
        "UPDATE r SET at = 'now'",
        "UPDATE t SET at = 'now'",
        "EXPLAIN UPDATE r SET at = 'now'",
    ] {
        is_refused(&ask(&mut client, sql), sql);
    }
    assert_eq!(error(&ask(&mut client, "UPDATE r SET nothing = 'now'")).0, "42703");
    // In a block as well.
    // What code runs may be unknown for a moment: 40001.
    eventually("a block", SOON, || {
        assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
        let told = client.run("UPDATE r SET name = 'now'");
        if told != "C(UPDATE 1) Z(T)" {
            assert_eq!((&*told, &*client.run("ROLLBACK")), ("E(40001) Z(E)", "C(ROLLBACK) Z(I)"));
        }
        told.starts_with("C(").then_some(())
    });
    is_refused(&ask(&mut client, "UPDATE r SET at = 'now'"), "in a block");
    client.run("ROLLBACK");
    sharded.nothing_prepared();
}

#[test]
fn types_of_extensions_that_hold_texts_may_have_any_words() {
    let (sharded, mut client) = start(2);
    let there =
        sharded.cluster.value("SELECT count(*) FROM pg_available_extensions WHERE name IN ('citext', 'hstore')");
    if there != "2" {
        return;
    }
    ddl(
        &mut client,
        &["CREATE EXTENSION citext", "CREATE EXTENSION hstore", "ALTER TABLE t ADD c citext, ADD h hstore"],
    );
    for (from, column, value) in [(1, "c", "Now or never"), (11, "h", "\"at\"=>\"now\"")] {
        let sql = format!("INSERT INTO t (k, {column}) VALUES {}", rows(""));
        let told = show(&extended(&mut client, &sql, &[], &keyed(&keys(from), value)));
        assert!(told.contains("C(INSERT 0 6)"), "{column}: {told}");
    }
}

#[test]
fn rows_of_copy_are_looked_through_however_long_they_are() {
    let (sharded, mut client) = start(2);
    ddl(&mut client, &["ALTER TABLE r ADD ats timestamptz[], ADD tags text[]"]);
    let mut copy = |columns: &str, row: &str| {
        client.query(&format!("COPY r (code, name, at, {columns}) FROM STDIN"));
        client.read_until(b'G');
        client.copy_data(row.as_bytes());
        client.copy_done();
        client.read_until_ready()
    };
    let spaces = " ".repeat(61);
    let moments = ["2024-01-02"; 12].join(",");
    for row in [
        format!("1\ta\tnow{spaces}\t\\N\n"),
        format!("1\ta\t\\N\t{{{moments},now}}\n"),
        "1\ta\t\\N\t{n\\\\ow}\n".to_owned(),
    ] {
        is_refused(&copy("ats", &row), &row);
    }
    assert_eq!(show(&copy("ats", &format!("1\tnow\t2024-01-02\t{{{moments}}}\n"))), "C(COPY 1) Z(I)");
    assert_eq!(show(&copy("tags", "2\tnow\t2024-01-02\t{now,then}\n")), "C(COPY 1) Z(I)");
    assert_eq!(sharded.counts("r"), [2, 2]);
}

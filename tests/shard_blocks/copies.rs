//! COPY in a block of several shards: its rows are a part of the transaction.

use super::*;

/// What a client does in a block.
enum Step {
    /// A statement.
    Run(String),
    /// COPY FROM STDIN of these pieces.
    In(&'static str, Vec<String>),
    /// COPY TO STDOUT; its rows come in any order.
    Out(String),
}

fn run(sql: impl Into<String>) -> Step {
    Step::Run(sql.into())
}

fn take(sql: impl Into<String>) -> Step {
    Step::Out(sql.into())
}

/// Rows of `t` with these keys.
fn rows(keys: std::ops::Range<i64>) -> Vec<String> {
    keys.map(|k| format!("{k}\tc{k}\t{}\n", k % 7)).collect()
}

/// Begins a COPY by one of the protocols; what the server says before it takes data or gives some.
fn begin(client: &mut RawClient, sql: &str, extended: bool) {
    if extended {
        client.parse("", sql, &[]);
        client.bind("", "", &[]);
        client.execute("", 0);
        client.sync();
    } else {
        client.query(sql);
    }
}

/// The rest of a COPY FROM STDIN that has begun, up to its ReadyForQuery.
fn send(client: &mut RawClient, pieces: &[String], extended: bool) -> Vec<Message> {
    client.read_until(b'G');
    pieces.iter().for_each(|piece| client.copy_data(piece.as_bytes()));
    client.copy_done();
    if extended {
        client.sync();
    }
    client.read_until_ready()
}

/// COPY TO STDOUT: its messages, the rows sorted behind the header line where nothing says their order, and what else was told.
fn out(client: &mut RawClient, sql: &str, extended: bool) -> (Vec<Vec<u8>>, Vec<String>) {
    begin(client, sql, extended);
    let (data, rest): (Vec<Message>, Vec<Message>) =
        client.read_until_ready().into_iter().partition(|message| message.tag == b'd');
    let mut data: Vec<Vec<u8>> = data.into_iter().map(|message| message.body).collect();
    if !sql.contains("ORDER BY") && !sql.contains("binary") {
        let rows = data.get_mut(usize::from(sql.contains("HEADER"))..).unwrap_or_default();
        rows.sort();
    }
    (data, told_of_part(&rest))
}

/// How many rows a binary stream has, which is one from its signature to its end.
fn rows_of_stream(stream: &[u8]) -> usize {
    let rest = stream.strip_prefix(b"PGCOPY\n\xff\r\n\0").unwrap();
    let (mut rest, mut rows) = (&rest[8..], 0);
    loop {
        let (count, mut fields) = rest.split_at(2);
        if count == [255, 255] {
            assert!(fields.is_empty(), "{} bytes behind the end", fields.len());
            return rows;
        }
        for _ in 0..i16::from_be_bytes(count.try_into().unwrap()) {
            let (len, value) = fields.split_at(4);
            let len = i32::from_be_bytes(len.try_into().unwrap());
            fields = &value[usize::try_from(len).unwrap_or(0)..];
        }
        (rest, rows) = (fields, rows + 1);
    }
}

impl Sharded {
    /// Takes the steps on the unsharded database and over the shards, by both protocols: the answers are the same.
    fn same_steps(&self, steps: &[Step]) {
        for is_extended in [false, true] {
            self.cluster.sql_in("whole", "BEGIN; DELETE FROM t WHERE k > 60; COMMIT");
            drop(self.client().run("DELETE FROM t WHERE k > 60"));
            let (mut whole, mut client) = (self.cluster.client("whole"), self.client());
            for step in steps {
                match step {
                    Step::Run(sql) => {
                        let way = if is_extended { extended } else { simple };
                        assert_eq!(told(&way(&mut client, sql)), told(&way(&mut whole, sql)), "{sql}");
                    }
                    Step::In(sql, pieces) => {
                        let [ours, theirs] = [&mut client, &mut whole].map(|client| {
                            begin(client, sql, is_extended);
                            told(&send(client, pieces, is_extended))
                        });
                        assert_eq!(ours, theirs, "{sql}");
                    }
                    Step::Out(sql) => {
                        assert_eq!(out(&mut client, sql, is_extended), out(&mut whole, sql, is_extended), "{sql}");
                    }
                }
            }
        }
    }
}

#[test]
fn rows_of_a_copy_are_a_part_of_their_block() {
    let count = || run("SELECT count(*), sum(k), min(v COLLATE \"C\") FROM t");
    for settings in [TWO_PHASE, "cross_shard_writes = \"best_effort\"\nunkeyed_writes = true"] {
        let sharded = Sharded::start(settings);
        let a = sharded.key(1);
        let set = |n: i64| run(format!("UPDATE t SET n = {n} WHERE k = {a}"));
        sharded.same_steps(&[
            // As the first statement of its block, and behind others.
            run("BEGIN"),
            Step::In("COPY t FROM STDIN", rows(100..150)),
            count(),
            take("COPY t TO STDOUT"),
            set(900),
            take("COPY t (v, k, n) TO STDOUT (FORMAT csv)"),
            run("SAVEPOINT p"),
            Step::In("COPY t (n, k) FROM STDIN (FORMAT csv, HEADER)", vec!["n,k\n1,20".into(), "0\n2,201\n".into()]),
            Step::In("COPY t (k) FROM STDIN", Vec::new()),
            count(),
            run("ROLLBACK TO p"),
            count(),
            set(901),
            run("COMMIT"),
            count(),
            run("BEGIN"),
            set(a % 7),
            Step::In("COPY t FROM STDIN", rows(300..320)),
            run("UPDATE t SET v = 'both' WHERE k IN (300, 301, 302)"),
            take("COPY t TO STDOUT"),
            run("ROLLBACK"),
            count(),
            take("COPY t TO STDOUT"),
            run(format!("UPDATE t SET n = {} WHERE k = {a}", a % 7)),
        ]);
        sharded.is_whole();
    }
}

/// Over many messages, and as a binary stream.
#[test]
fn many_rows_and_other_formats_come_in_a_block() {
    let sharded = Sharded::start(TWO_PHASE);
    let mut client = sharded.client();
    let many: Vec<String> = rows(1000..21_000).chunks(50).map(|rows| rows.concat()).collect();
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    begin(&mut client, "COPY t FROM STDIN", false);
    assert_eq!(show(&send(&mut client, &many, false)), "C(COPY 20000) Z(T)");
    let (binary, rest) = out(&mut client, "COPY t TO STDOUT (FORMAT binary)", true);
    assert_eq!(rest.last().map(String::as_str), Some("Z(T)"));
    assert!(rest.contains(&"C(COPY 20060)".to_owned()), "{rest:?}");
    assert_eq!(rows_of_stream(&binary.concat()), 20_060);
    let (csv, _) = out(&mut client, "COPY t TO STDOUT (FORMAT csv, HEADER)", false);
    assert!(csv[0] == b"k,v,n\n" && csv.iter().filter(|line| **line == b"k,v,n\n").count() == 1);
    assert_eq!(csv.len(), 20_061);
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    let total: usize = (0..SHARDS).map(|n| sharded.on(n, "SELECT count(*) FROM t").parse::<usize>().unwrap()).sum();
    assert_eq!(total, 20_060);
    let slot = "((hashint8extended(k, 8816678312871386365) & 16383) + 10467) & 16383";
    for n in 0..SHARDS {
        let (first, last) = slots(n);
        let astray = format!("SELECT count(*) FROM t WHERE NOT ({slot}) BETWEEN {first} AND {last}");
        assert_eq!(sharded.on(n, &astray), "0");
    }
    sharded.nothing_open();
}

#[test]
fn a_copy_that_fails_fails_its_block_on_every_shard() {
    let sharded = Sharded::start(TWO_PHASE);
    let a = sharded.key(0);
    let set = run(format!("UPDATE t SET n = 800 WHERE k = {a}"));
    let mut steps = Vec::new();
    for (sql, pieces) in [
        // A constraint, a key that is there already, data that are wrong, and columns that are not there.
        ("COPY t (k, n) FROM STDIN", vec!["500\t1\n501\t2\n502\t1000\n503\t4\n".to_owned()]),
        ("COPY t (k) FROM STDIN", vec!["500\n501\n502\n".to_owned(), format!("503\n{a}\n")]),
        ("COPY t (k, n) FROM STDIN", vec!["500\t1\n501\n".to_owned()]),
        ("COPY t (k, n) FROM STDIN", vec!["500\t1\nx\t2\n".to_owned()]),
    ] {
        steps.extend([run("BEGIN"), Step::Run("SELECT count(*) FROM t".into())]);
        steps.push(run(format!("UPDATE t SET n = 800 WHERE k = {a}")));
        steps.push(Step::In(sql, pieces));
        steps.extend([run("SELECT 1"), run("COMMIT"), run("SELECT count(*), max(n) FROM t")]);
    }
    sharded.same_steps(&steps);
    sharded.is_whole();
    // Before it takes data, and by its client's will.
    for is_extended in [false, true] {
        for (sql, code) in [("COPY t (k, nix) FROM STDIN", "42703"), ("COPY t (nix) TO STDOUT", "42703")] {
            let mut client = sharded.client();
            assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
            let Step::Run(sql_of_set) = &set else { unreachable!() };
            assert_eq!(client.run(sql_of_set), "C(UPDATE 1) Z(T)");
            begin(&mut client, sql, is_extended);
            let told = client.read_until_ready();
            assert_eq!(error(&told).0, code, "{sql}");
            assert!(show(&told).ends_with("Z(E)"), "{}", show(&told));
            assert!(client.run("SELECT 1").starts_with("E(25P02)"));
            assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
            assert_eq!(client.value("SELECT count(*) FROM t"), "60");
        }
        let mut client = sharded.client();
        assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
        begin(&mut client, "COPY t (k) FROM STDIN", is_extended);
        client.read_until(b'G');
        client.copy_data(b"901\n902\n903\n904\n");
        client.copy_fail("enough");
        // What comes behind that is nobody's.
        client.copy_data(b"905\n");
        if is_extended {
            client.sync();
        }
        assert_eq!(show(&client.read_until_ready()), "E(57014) Z(E)");
        assert!(client.run("SELECT 1").starts_with("E(25P02)"));
        assert_eq!(client.run("COMMIT"), "C(ROLLBACK) Z(I)");
        assert_eq!(client.value("SELECT count(*) FROM t"), "60");
    }
    sharded.is_whole();
}

#[test]
fn a_copy_whose_client_goes_or_changes_its_mind_leaves_nothing() {
    let sharded = Sharded::start(TWO_PHASE);
    for vanishes in [true, false] {
        for sql in ["COPY t (k) FROM STDIN", "COPY t TO STDOUT"] {
            let mut client = sharded.client();
            assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
            begin(&mut client, "COPY t (k, v) FROM STDIN", false);
            // So much that it does not fit into what sockets take.
            let wide: Vec<String> = (2000..2200).map(|k| format!("{k}\t{}\n", "w".repeat(100_000))).collect();
            assert_eq!(show(&send(&mut client, &wide, false)), "C(COPY 200) Z(T)");
            begin(&mut client, sql, false);
            if sql.contains("FROM") {
                client.read_until(b'G');
                client.copy_data(b"911\n912\n913\n914\n");
            } else {
                client.read_until(b'd');
            }
            if !vanishes {
                client.cancel();
                let told = client.read_until_ready();
                assert_eq!(error(&told).0, "57014", "{sql}");
                assert_eq!(told.last().map(ToString::to_string).as_deref(), Some("Z(E)"), "{sql}");
                assert_eq!(client.run("COMMIT"), "C(ROLLBACK) Z(I)");
                assert_eq!(client.value("SELECT count(*) FROM t"), "60");
            }
            drop(client);
            sharded.is_whole();
        }
    }
    // A shard that dies in the middle.
    let mut client = sharded.client();
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    begin(&mut client, "COPY t (k) FROM STDIN", false);
    client.read_until(b'G');
    client.copy_data(b"911\n912\n913\n914\n");
    let ended =
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = 's1' AND query LIKE 'COPY%'";
    assert_eq!(sharded.cluster.value(ended), "1");
    let told = client.read_until_ready();
    assert!(show(&told).ends_with("Z(E)"), "{}", show(&told));
    assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    assert_eq!(client.value("SELECT count(*) FROM t"), "60");
    sharded.is_whole();
}

#[test]
fn copies_that_a_block_cannot_do_are_refused() {
    let sharded = Sharded::start(TWO_PHASE);
    let mut client = sharded.client();
    let refuses = |client: &mut RawClient, before: &[&str], sql: &str, part: &str| {
        before.iter().for_each(|sql| assert!(client.run(sql).ends_with("Z(T)"), "{sql}"));
        let told = simple(client, sql);
        let (code, message, hint) = error(&told);
        assert!(code == "0A000" && message.contains(part) && !hint.is_empty(), "{sql}: {code} {message} ({hint})");
        assert!(show(&told).ends_with("Z(E)"), "{}", show(&told));
        assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    };
    refuses(&mut client, &["BEGIN ISOLATION LEVEL REPEATABLE READ"], "COPY t FROM STDIN", "no snapshot in common");
    refuses(&mut client, &["BEGIN ISOLATION LEVEL SERIALIZABLE"], "COPY t TO STDOUT", "no snapshot in common");
    refuses(&mut client, &["BEGIN", "SELECT count(*) FROM t"], "COPY t (n) FROM STDIN", "sharding key");
    // A row without a key is noticed when it comes.
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    begin(&mut client, "COPY t (k) FROM STDIN", false);
    let told = send(&mut client, &["700\n\\N\n".to_owned()], false);
    assert_eq!(error(&told).0, "0A000");
    assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    // Every shard has a reference table, and gets all rows.
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    begin(&mut client, "COPY r FROM STDIN", false);
    assert_eq!(show(&send(&mut client, &["1\tone\n2\ttwo\n".to_owned()], false)), "C(COPY 2) Z(T)");
    assert_eq!(client.value("SELECT count(*) FROM r"), "2");
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    (0..SHARDS).for_each(|n| assert_eq!(sharded.on(n, "SELECT count(*) FROM r"), "2"));
    sharded.is_whole();
    // What may not be written on several shards is not; it is read all the same.
    let sharded = Sharded::start("");
    let mut client = sharded.client();
    let a = sharded.key(2);
    let wrote = format!("UPDATE t SET v = v WHERE k = {a}");
    for before in [&["BEGIN"] as &[&str], &["BEGIN", &wrote]] {
        before.iter().for_each(|sql| assert!(client.run(sql).ends_with("Z(T)"), "{sql}"));
        let (code, _, hint) = error(&simple(&mut client, "COPY t FROM STDIN"));
        assert!(code == "0A000" && hint.contains("cross_shard_writes ="), "{code} {hint}");
        assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    }
    // No setting would let these through.
    for written in ["INSERT INTO t (k) VALUES (1), (2), (3), (4)", "UPDATE t SET v = 'x'", "DELETE FROM t"] {
        let (_, message, hint) = error(&simple(&mut client, &format!("COPY ({written} RETURNING k) TO STDOUT")));
        assert!(message.contains("writes on several shards") && !hint.contains("_writes"), "{message} {hint}");
    }
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(client.run(&format!("UPDATE t SET v = 'mine' WHERE k = {a}")), "C(UPDATE 1) Z(T)");
    let (rows, _) = out(&mut client, "COPY t TO STDOUT", false);
    assert!(rows.iter().any(|row| row.starts_with(format!("{a}\tmine\t").as_bytes())));
    assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    sharded.is_whole();
}

#[test]
fn a_copy_of_a_query_goes_where_the_query_does() {
    let sharded = Sharded::start(TWO_PHASE);
    let (a, b, c) = (sharded.key(0), sharded.key(1), sharded.key(2));
    let copies = || {
        [
            // Of one shard.
            format!("COPY (SELECT v, n FROM t WHERE k = {b}) TO STDOUT"),
            format!("COPY (SELECT count(*), max(n) FROM t WHERE k = {c}) TO STDOUT (FORMAT csv, HEADER)"),
            format!("COPY (WITH x AS (SELECT * FROM t WHERE k = {a}) SELECT v FROM x ORDER BY 1) TO STDOUT"),
            format!("COPY (UPDATE t SET v = v || '!' WHERE k = {b} RETURNING k, v) TO STDOUT"),
            // Of several, whose rows are nobody's to bring together.
            "COPY (SELECT k, v FROM t) TO STDOUT".to_owned(),
            "COPY (SELECT k + 1, n * 2 AS n FROM t WHERE n > 2) TO STDOUT (FORMAT csv, HEADER)".to_owned(),
            format!("COPY (SELECT v FROM t WHERE k IN ({a}, {c})) TO STDOUT (DELIMITER ';')"),
            "COPY (SELECT k, count(*) FROM t GROUP BY k) TO STDOUT".to_owned(),
            "COPY (SELECT k, name FROM t JOIN r ON r.code = t.n) TO STDOUT".to_owned(),
            "COPY (SELECT name FROM r) TO STDOUT".to_owned(),
        ]
    };
    let write = |k: i64, n: i64| run(format!("UPDATE t SET n = {n} WHERE k = {k}"));
    let mut steps: Vec<Step> = copies().into_iter().map(take).collect();
    // On the shard where a block is, on another, and on all: they see what the block has written.
    steps.extend([run("BEGIN"), write(a, 500)]);
    steps.extend(copies().into_iter().map(take));
    steps.push(write(c, 501));
    steps.extend(copies().into_iter().map(take));
    steps.extend([run("ROLLBACK"), take("COPY (SELECT * FROM t) TO STDOUT")]);
    sharded.same_steps(&steps);
    sharded.is_whole();
    let mut client = sharded.client();
    for (sql, part) in [
        ("COPY (SELECT k FROM t ORDER BY k) TO STDOUT", "bring together"),
        ("COPY (SELECT k FROM t LIMIT 3) TO STDOUT", "bring together"),
        ("COPY (SELECT count(*) FROM t) TO STDOUT", "bring together"),
        ("COPY (SELECT DISTINCT n FROM t) TO STDOUT", "bring together"),
        ("COPY (UPDATE t SET v = 'x' RETURNING k) TO STDOUT", "writes on several shards"),
        ("COPY (SELECT now(), k FROM t) TO STDOUT", "cannot be answered"),
    ] {
        for before in [None, Some("BEGIN")] {
            before.iter().for_each(|sql| assert!(client.run(sql).ends_with("Z(T)")));
            let told = simple(&mut client, sql);
            let (code, message, hint) = error(&told);
            assert!(code == "0A000" && message.contains(part) && !hint.is_empty(), "{sql}: {message} ({hint})");
            assert!(client.run("ROLLBACK").ends_with("Z(I)"));
        }
    }
    sharded.is_whole();
}

/// Waits until somebody waits for a lock of the first shard.
fn waits_for_lock(sharded: &Sharded) {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = 's0' AND wait_event_type = 'Lock'";
    eventually("somebody waits for a lock", SOON, || (sharded.cluster.value(waiting) != "0").then_some(()));
}

/// A server does not notice that a connection is closed while it waits for a lock: it would go on, and keep its own locks.
#[test]
fn a_copy_that_waits_for_a_lock_is_cancelled_on_its_shard() {
    let sharded = Sharded::start(TWO_PHASE);
    let mut other = sharded.cluster.client("s0");
    // At its end, and in the middle of it.
    for (last, is_done) in [(150, true), (9000, false)] {
        for block in [false, true] {
            for vanishes in [false, true] {
                assert_eq!(other.run("BEGIN"), "C(BEGIN) Z(T)");
                assert_eq!(other.run("INSERT INTO t SELECT generate_series(100, 149)"), "C(INSERT 0 50) Z(T)");
                let mut client = sharded.client();
                if block {
                    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
                }
                begin(&mut client, "COPY t FROM STDIN", false);
                client.read_until(b'G');
                client.copy_data(rows(100..last).concat().as_bytes());
                if is_done {
                    client.copy_done();
                }
                waits_for_lock(&sharded);
                let since = pgweir::clock::now();
                if !vanishes {
                    client.cancel();
                    let told = client.read_until_ready();
                    assert_eq!(error(&told).0, "57014");
                    assert!(show(&told).ends_with(if block { "Z(E)" } else { "Z(I)" }), "{}", show(&told));
                }
                drop(client);
                // Long before `lock_timeout`.
                let open = "SELECT count(*) FROM pg_stat_activity WHERE datname LIKE 's_' AND pid <> pg_backend_pid() \
                            AND xact_start IS NOT NULL AND query NOT LIKE 'INSERT INTO t SELECT%'";
                let soon = Duration::from_secs(5);
                eventually("nobody waits", soon, || (sharded.cluster.value(open) == "0").then_some(()));
                assert!(since.elapsed() < Duration::from_secs(6), "{:?}", since.elapsed());
                assert_eq!(other.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
            }
        }
    }
    sharded.is_whole();
}

/// How long one waits for a server says nothing of how long a table may be locked.
#[test]
fn a_copy_waits_for_a_lock_as_other_statements_do() {
    let mut sharded = Sharded::start(TWO_PHASE);
    let weir = configured(TWO_PHASE, [0, 1, 2], &sharded.cluster, None);
    sharded.weir = weir.general("query_wait_timeout = \"500ms\"").start();
    let mut client = sharded.client();
    eventually("two-phase commit", SOON, || client.run("UPDATE t SET v = v").starts_with("C(UPDATE 60)").then_some(()));
    for sql in ["COPY t TO STDOUT", "COPY (SELECT k FROM t) TO STDOUT", "COPY t FROM STDIN"] {
        for block in [false, true] {
            let mut other = sharded.cluster.client("s0");
            assert!(other.run("BEGIN; LOCK TABLE t").ends_with("Z(T)"));
            if block {
                assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
            }
            begin(&mut client, sql, false);
            waits_for_lock(&sharded);
            std::thread::sleep(Duration::from_millis(1200));
            assert_eq!(other.run("COMMIT"), "C(COMMIT) Z(I)");
            let told =
                if sql.contains("FROM STDIN") { send(&mut client, &[], false) } else { client.read_until_ready() };
            let tag = if sql.contains("FROM STDIN") { "C(COPY 0)" } else { "C(COPY 60)" };
            let status = if block { "Z(T)" } else { "Z(I)" };
            assert!(show(&told).ends_with(&format!("{tag} {status}")), "{sql}: {}", show(&told));
            if block {
                assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
            }
        }
    }
    sharded.is_whole();
}

#[test]
fn a_copy_of_columns_that_are_not_alike_is_refused() {
    let sharded = Sharded::start(TWO_PHASE);
    let mut client = sharded.client();
    for n in 0..SHARDS {
        let order = if n == 0 { "ADD a int, ADD b int" } else { "ADD b int, ADD a int" };
        sharded.cluster.sql_in(&format!("s{n}"), &format!("ALTER TABLE t {order}, ADD c int{}", 4 + 4 * (n % 2)));
    }
    for block in [false, true] {
        for (sql, refused) in [
            ("COPY t (k, a, b) TO STDOUT", false),
            ("COPY (SELECT k, a, b FROM t) TO STDOUT (FORMAT csv)", false),
            ("COPY t TO STDOUT", true),
            ("COPY t (k, c) TO STDOUT (FORMAT binary)", true),
            ("COPY (SELECT * FROM t) TO STDOUT (FORMAT csv, HEADER)", true),
            ("COPY (SELECT c FROM t) TO STDOUT (FORMAT binary)", true),
        ] {
            if block {
                assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
            }
            begin(&mut client, sql, block);
            let told = client.read_until_ready();
            if refused {
                let (code, message, _) = error(&told);
                assert!(code == "0A000" && message.contains("column"), "{sql}: {code} {message}");
            } else {
                // Once a check has seen that the shards differ, nothing is answered by several.
                let told = show(&told);
                assert!(told.contains("C(COPY 60)") || told.contains("E(0A000)"), "{sql}: {told}");
            }
            if block {
                assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
            }
        }
    }
    sharded.nothing_open();
}

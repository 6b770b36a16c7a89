//! Transaction blocks that several shards take part in: what one server would do, or a refusal.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod common;

use std::time::Duration;

use common::cluster::Cluster;
use common::eventually;
use common::raw::RawClient;
use common::weir::{Builder, Weir};
use common::wire::{Message, show};

const SOON: Duration = Duration::from_secs(20);
const SHARDS: usize = 3;
const TABLES: &str = "CREATE TABLE t (k int8 PRIMARY KEY, v text, n int4 CHECK (n < 1000));
    CREATE TABLE r (code int4 PRIMARY KEY, name text)";
const TWO_PHASE: &str = "cross_shard_writes = \"two_phase\"\nunkeyed_writes = true";

fn slots(shard: usize) -> (usize, usize) {
    (16384 * shard / SHARDS, 16384 * (shard + 1) / SHARDS - 1)
}

/// `order`: in which the configuration names the shards.
fn configured(settings: &str, order: [usize; SHARDS], cluster: &Cluster, replica: Option<&Cluster>) -> Builder {
    let mut toml = format!("[databases.app]\ndefault_shard = \"s0\"\nprobe_user = \"postgres\"\n{settings}\n");
    for n in order {
        let ((first, last), name) = (slots(n), format!("s{n}"));
        let primary = cluster.url(&name);
        let servers = match replica {
            // The probes find out which is what.
            Some(replica) => format!("servers = [\"{primary}\", \"{}\"]", replica.url(&name)),
            None => format!("primary = \"{primary}\""),
        };
        toml += &format!("[[databases.app.shards]]\nname = \"{name}\"\nslots = [[{first}, {last}]]\n{servers}\n");
    }
    toml += "[databases.app.tables]\nt = { key = \"k\", type = \"bigint\" }\nr = { reference = true }\n";
    let builder = Weir::builder().database(&toml);
    match replica {
        Some(_) => builder.general("probe_interval = \"100ms\"\nprobe_timeout = \"1s\""),
        None => builder,
    }
}

/// `app` over three databases of one cluster, and an unsharded database with the same rows.
struct Sharded {
    cluster: Cluster,
    replica: Option<Cluster>,
    weir: Weir,
    /// A few keys of each shard.
    keys: Vec<Vec<i64>>,
}

impl Sharded {
    fn start(settings: &str) -> Self {
        Self::with_replica(settings, |_| None)
    }

    /// Each shard may have a replica as well.
    fn with_replica(settings: &str, replica: impl FnOnce(&Cluster) -> Option<Cluster>) -> Self {
        let cluster = Cluster::start();
        cluster.sql("CREATE DATABASE whole");
        let slot = "((hashint8extended(k, 8816678312871386365) & 16383) + 10467) & 16383";
        let fill = "INSERT INTO t SELECT k, 'v' || k, k % 7 FROM generate_series(1, 60) k";
        cluster.sql_in("whole", &format!("{TABLES}; {fill}"));
        let mut keys = Vec::new();
        for n in 0..SHARDS {
            let (first, last) = slots(n);
            let name = format!("s{n}");
            cluster.sql(&format!("CREATE DATABASE {name}"));
            cluster.sql_in(&name, &format!("{TABLES}; {fill} WHERE ({slot}) BETWEEN {first} AND {last}"));
            let rows = cluster.sql_in(&name, "SELECT k FROM t ORDER BY k LIMIT 5");
            keys.push(rows.iter().map(|row| row[0].parse().unwrap()).collect());
        }
        let replica = replica(&cluster);
        let weir = configured(settings, [0, 1, 2], &cluster, replica.as_ref()).start();
        let this = Self { cluster, replica, weir, keys };
        if settings.contains("two_phase") {
            for n in 0..SHARDS {
                eventually("the table of decisions", SOON, || {
                    (this.on(n, "SELECT to_regclass('pgweir.dtx') IS NOT NULL") == "t").then_some(())
                });
            }
        }
        this
    }

    fn client(&self) -> RawClient {
        self.weir.client("app")
    }

    fn key(&self, shard: usize) -> i64 {
        self.keys[shard][0]
    }

    fn on(&self, shard: usize, sql: &str) -> String {
        self.cluster.sql_in(&format!("s{shard}"), sql)[0][0].clone()
    }

    /// The rows of all shards are those of the unsharded table, and nothing is open or prepared any more.
    fn is_whole(&self) {
        let mut all: Vec<_> =
            (0..SHARDS).flat_map(|n| self.cluster.sql_in(&format!("s{n}"), "SELECT * FROM t")).collect();
        all.sort();
        let mut whole = self.cluster.sql_in("whole", "SELECT * FROM t");
        whole.sort();
        assert_eq!(all, whole);
        assert_eq!(self.cluster.value("SELECT count(*) FROM pg_prepared_xacts"), "0");
        self.nothing_open();
    }

    fn nothing_open(&self) {
        eventually("no transaction is open", SOON, || {
            let open = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'";
            (self.cluster.value(open) == "0").then_some(())
        });
    }

    /// Runs the statements one after the other on the unsharded database and over the shards: the answers are the same.
    fn same(&self, statements: &[&str]) {
        for way in [simple, extended] {
            self.cluster.sql_in("whole", "BEGIN; DELETE FROM t WHERE k > 60; COMMIT");
            let (mut whole, mut client) = (self.cluster.client("whole"), self.client());
            for sql in statements {
                let (theirs, ours) = (told(&way(&mut whole, sql)), told(&way(&mut client, sql)));
                assert_eq!(ours, theirs, "{sql}");
            }
        }
    }
}

fn simple(client: &mut RawClient, sql: &str) -> Vec<Message> {
    client.query(sql);
    client.read_until_ready()
}

fn extended(client: &mut RawClient, sql: &str) -> Vec<Message> {
    client.parse("", sql, &[]);
    client.bind("", "", &[]);
    client.describe_portal("");
    client.execute("", 0);
    client.sync();
    client.read_until_ready()
}

/// What is compared: rows, tags, of errors the SQLSTATE, and the state of the transaction.
fn told(messages: &[Message]) -> Vec<String> {
    // How many rows come before an error is chance.
    let failed = messages.iter().any(|message| message.tag == b'E');
    let is_shown = |tag| matches!(tag, b'C' | b'E' | b'Z') || (tag == b'D' && !failed);
    let shown = messages.iter().filter(|message| is_shown(message.tag));
    shown
        .map(|message| match message.error() {
            Some(error) if message.tag == b'E' => format!("E {}", error.code),
            _ => message.to_string(),
        })
        .collect()
}

fn error(messages: &[Message]) -> (String, String, String) {
    let error = messages.iter().find_map(Message::error).unwrap_or_else(|| panic!("{}", show(messages)));
    (error.code.clone(), error.message.clone(), error.fields.get(&'H').cloned().unwrap_or_default())
}

#[test]
fn reads_of_several_shards_see_what_the_block_wrote() {
    let sharded = Sharded::start("");
    let (a, b) = (sharded.key(1), sharded.key(2));
    let insert = format!("UPDATE t SET n = 900, v = 'mine' WHERE k = {a}");
    let other = format!("SELECT k, v FROM t WHERE k = {b}");
    let back = format!("UPDATE t SET n = 5, v = 'v{a}' WHERE k = {a}");
    sharded.same(&[
        "BEGIN",
        &insert,
        "SELECT count(*), sum(n), max(v COLLATE \"C\") FROM t",
        "SELECT k, n FROM t ORDER BY n DESC, k LIMIT 4",
        "SELECT n, count(*) FROM t GROUP BY n HAVING count(*) > 3 ORDER BY n",
        &other,
        "SELECT v FROM t WHERE n = 900",
        &insert,
        "COMMIT",
        "SELECT k, n FROM t ORDER BY n DESC, k LIMIT 2",
        "BEGIN",
        "SELECT count(*) FROM t",
        &back,
        "SELECT max(n) FROM t",
        &other,
        "ROLLBACK",
        "SELECT max(n) FROM t",
        "BEGIN",
        &other,
        &back,
        "SELECT n FROM t ORDER BY k",
        "COMMIT",
        "SELECT max(n) FROM t",
    ]);
    sharded.is_whole();
}

#[test]
fn a_begin_that_is_sent_with_the_first_statement() {
    let sharded = Sharded::start(TWO_PHASE);
    let (a, b) = (sharded.key(0), sharded.key(1));
    let mut answers = Vec::new();
    for mut client in [sharded.cluster.client("whole"), sharded.client()] {
        let mut told = Vec::new();
        for (round, first) in ["SELECT count(*) FROM t", "SELECT v FROM t WHERE k = 1"].into_iter().enumerate() {
            // As drivers do that keep BEGIN prepared.
            if round == 0 {
                client.parse("begin", "BEGIN", &[]);
            }
            client.bind("", "begin", &[]);
            client.execute("", 0);
            client.parse("", first, &[]);
            client.bind("", "", &[]);
            client.execute("", 0);
            client.sync();
            told.push(show(&client.read_until_ready()));
            for sql in [
                format!("UPDATE t SET n = n + 1 WHERE k = {a}"),
                format!("UPDATE t SET n = n - 1 WHERE k = {b}"),
                "SELECT sum(n) FROM t".to_owned(),
                "COMMIT".to_owned(),
            ] {
                told.push(show(&extended(&mut client, &sql)));
            }
        }
        // With a Sync of its own, and what fails behind it.
        told.push(show(&extended(&mut client, "BEGIN READ ONLY")));
        told.push(show(&extended(&mut client, "SHOW transaction_read_only")));
        told.push(show(&extended(&mut client, "ROLLBACK")));
        client.bind("", "begin", &[]);
        client.execute("", 0);
        client.parse("", "SELECT nothing FROM t", &[]);
        client.sync();
        told.push(show(&client.read_until_ready()));
        told.push(show(&extended(&mut client, "ROLLBACK")));
        answers.push(told);
    }
    assert_eq!(answers[1], answers[0]);
    sharded.is_whole();
}

#[test]
fn rows_are_fetched_in_parts() {
    let sharded = Sharded::start(TWO_PHASE);
    let (a, b) = (sharded.key(0), sharded.key(1));
    let statements = [
        // Of these the order is known, so that each part is the same.
        "SELECT k, v FROM t ORDER BY k",
        "SELECT k FROM t WHERE n > 2 ORDER BY n, k DESC LIMIT 17 OFFSET 2",
        "SELECT DISTINCT n FROM t ORDER BY n",
        "SELECT n, count(*), sum(k) FROM t GROUP BY n ORDER BY n",
        "SELECT n, count(*) * 2 AS twice FROM t GROUP BY n HAVING count(*) > 1 ORDER BY n",
        "SELECT k FROM t WHERE k < 0 ORDER BY k",
    ];
    let mut answers = Vec::new();
    for mut client in [sharded.cluster.client("whole"), sharded.client()] {
        let mut all = Vec::new();
        for sql in statements {
            for part in [1, 4, 7, 100] {
                assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
                client.parse("", sql, &[]);
                client.bind("C_1", "", &[]);
                client.describe_portal("C_1");
                client.execute("C_1", part);
                client.sync();
                let mut tags = Vec::new();
                for round in 0.. {
                    let answer = client.read_until_ready();
                    tags.push(told_of_part(&answer));
                    if !answer.iter().any(|message| message.tag == b's') {
                        break;
                    }
                    // Between two parts all else goes on, on the same connections.
                    if round < 3 {
                        let set = format!("UPDATE t SET v = v || 'x' WHERE k = {}", if round == 0 { a } else { b });
                        tags.push(told(&simple(&mut client, &set)));
                        tags.push(told(&extended(&mut client, "SELECT count(*) FROM t WHERE v LIKE '%x'")));
                    }
                    client.execute("C_1", if round == 4 { 0 } else { part });
                    client.sync();
                }
                // Closed before all has come, or after.
                client.close_portal("C_1");
                client.parse("", sql, &[]);
                client.bind("C_1", "", &[]);
                client.execute("C_1", 2);
                client.sync();
                tags.push(told_of_part(&client.read_until_ready()));
                client.close_portal("C_1");
                client.sync();
                tags.push(told_of_part(&client.read_until_ready()));
                client.execute("C_1", 2);
                client.sync();
                tags.push(told(&client.read_until_ready()));
                assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
                all.push((sql, part, tags));
            }
        }
        answers.push(all);
    }
    let (ours, theirs) = (answers.pop().unwrap(), answers.pop().unwrap());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs);
    }
    // Rows that are passed on as they come, in whatever order.
    let mut client = sharded.client();
    client.run("BEGIN");
    client.parse("", "SELECT k FROM t", &[]);
    client.bind("C_2", "", &[]);
    client.execute("C_2", 7);
    client.sync();
    let (mut rows, mut parts) = (Vec::new(), 0);
    loop {
        let answer = client.read_until_ready();
        rows.extend(answer.iter().filter(|message| message.tag == b'D').map(ToString::to_string));
        parts += 1;
        if !answer.iter().any(|message| message.tag == b's') {
            break;
        }
        client.execute("C_2", 7);
        client.sync();
    }
    rows.sort();
    rows.dedup();
    assert_eq!((rows.len(), parts), (60, 9));
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    // A write has no parts: some drivers ask for one row of what returns none.
    client.parse("", "INSERT INTO t (k, n) VALUES (71, 1), (72, 2), (73, 3), (74, 4)", &[]);
    client.bind("", "", &[]);
    client.execute("", 1);
    client.sync();
    assert_eq!(show(&client.read_until_ready()), "1 2 C(INSERT 0 4) Z(I)");
    assert_eq!(client.run("DELETE FROM t WHERE v IS NULL"), "C(DELETE 4) Z(I)");
    sharded.is_whole();
}

/// With what says how the protocol goes on.
fn told_of_part(messages: &[Message]) -> Vec<String> {
    messages.iter().filter(|message| message.tag != b'T').map(ToString::to_string).collect()
}

#[test]
fn savepoints_and_settings_hold_on_every_shard() {
    let sharded = Sharded::start(TWO_PHASE);
    let (a, b, c) = (sharded.key(0), sharded.key(1), sharded.key(2));
    let set = |k: i64, n: i64| format!("UPDATE t SET n = {n} WHERE k = {k}");
    let wait = |k: i64| format!("SELECT current_setting('statement_timeout') FROM t WHERE k = {k}");
    sharded.same(&[
        "BEGIN",
        "SET LOCAL statement_timeout = '71s'",
        &wait(a),
        "SAVEPOINT one",
        &set(a, 100),
        &set(b, 101),
        "SAVEPOINT two",
        "SET LOCAL statement_timeout = '72s'",
        &wait(a),
        &wait(b),
        // The third comes later, and knows both savepoints and the setting.
        &set(c, 102),
        &wait(c),
        "SELECT sum(n) FROM t",
        "ROLLBACK TO two",
        &wait(a),
        &wait(b),
        &wait(c),
        "SELECT sum(n) FROM t",
        &set(c, 103),
        "RELEASE two",
        "SAVEPOINT three",
        // One shard alone fails, and all go on.
        &set(b, 5000),
        "SELECT 1",
        &set(a, 1),
        "ROLLBACK TO three",
        "SELECT sum(n) FROM t",
        &set(b, 104),
        "ROLLBACK TO nothing",
        "SELECT 1",
        "ROLLBACK",
        "SELECT sum(n) FROM t",
        &wait(b),
        "BEGIN",
        &set(a, 110),
        &set(b, 111),
        "SAVEPOINT a",
        &set(c, 112),
        "ROLLBACK TO a",
        "COMMIT",
        "SELECT k, n FROM t WHERE n > 99 ORDER BY k",
        &set(a, 1),
        &set(b, 1),
    ]);
    sharded.is_whole();
}

#[test]
fn one_shard_is_written_unless_several_may_be() {
    let sharded = Sharded::start("");
    let (a, b) = (sharded.key(0), sharded.key(2));
    let mut client = sharded.client();
    let set = |k: i64| format!("UPDATE t SET n = 700 WHERE k = {k}");
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(client.run(&set(a)), "C(UPDATE 1) Z(T)");
    let refused = simple(&mut client, &set(b));
    let (code, message, hint) = error(&refused);
    assert_eq!(code, "0A000", "{message}");
    assert!(message.contains("written on shard \"s0\"") && hint.contains("two_phase"), "{message} {hint}");
    assert!(client.run(&format!("SELECT k FROM t WHERE k = {a}")).starts_with("E(25P02)"));
    assert_eq!(client.run("COMMIT"), "C(ROLLBACK) Z(I)");
    // It read on the other before.
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    assert!(client.run(&format!("SELECT n FROM t WHERE k = {a}")).ends_with("Z(T)"));
    assert_eq!(client.run(&set(b)), "C(UPDATE 1) Z(T)");
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(client.run(&format!("UPDATE t SET n = {} WHERE k = {b}", b % 7)), "C(UPDATE 1) Z(I)");
    sharded.is_whole();
}

#[test]
fn several_shards_commit_together_or_not_at_all() {
    for settings in [TWO_PHASE, "cross_shard_writes = \"best_effort\"\nunkeyed_writes = true"] {
        let sharded = Sharded::start(settings);
        let (a, b, c) = (sharded.key(0), sharded.key(1), sharded.key(2));
        let set = |k: i64, n: &str| format!("UPDATE t SET n = {n} WHERE k = {k} RETURNING n");
        sharded.same(&[
            "BEGIN",
            &set(a, "n + 10"),
            &set(b, "n - 10"),
            "SELECT sum(n) FROM t",
            &set(c, "n"),
            "COMMIT",
            "SELECT k, n FROM t ORDER BY k",
            "BEGIN",
            "UPDATE t SET v = v || '!'",
            "INSERT INTO t (k, v, n) VALUES (61, 'x', 1), (62, 'x', 2), (63, 'x', 3), (64, 'x', 4) RETURNING k, n",
            "SELECT count(*) FROM t WHERE v LIKE '%!' OR v = 'x'",
            "DELETE FROM t WHERE n = 3",
            "INSERT INTO r (code, name) VALUES (1, 'one')",
            "SELECT name, count(*) FROM r JOIN t ON t.n = r.code GROUP BY name",
            "ROLLBACK",
            "SELECT count(*) FROM t",
            "BEGIN",
            &set(a, "1"),
            "INSERT INTO t (k, v, n) VALUES (61, 'x', 1), (62, 'x', 2000), (63, 'x', 3), (64, 'x', 4)",
            &set(a, "2"),
            "COMMIT",
            "SELECT k, n FROM t ORDER BY k",
            "BEGIN",
            "SELECT count(*) FROM t",
            "SELECT 1 / (k - 17) FROM t",
            "SELECT 1",
            "ROLLBACK",
            "SELECT count(*) FROM t",
        ]);
        sharded.is_whole();
        for n in 0..SHARDS {
            assert_eq!(sharded.on(n, "SELECT count(*) FROM r"), "0");
        }
    }
}

#[test]
fn what_shards_have_not_in_common_is_refused() {
    let sharded = Sharded::start(TWO_PHASE);
    (0..SHARDS).for_each(|n| drop(sharded.cluster.sql_in(&format!("s{n}"), "CREATE SEQUENCE numbers")));
    let (a, b) = (sharded.key(0), sharded.key(1));
    let of = |k: i64| format!("SELECT n FROM t WHERE k = {k}");
    let mut client = sharded.client();
    // To prepare a question is not to ask it.
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(client.value("SELECT count(*) FROM t"), "60");
    client.parse("asks", "SELECT currval('numbers')", &[]);
    client.describe_statement("asks");
    client.sync();
    let told = show(&client.read_until_ready());
    assert!(told.starts_with("1 t") && told.ends_with("Z(T)"), "{told}");
    assert_eq!(client.value("SELECT count(*) FROM t"), "60");
    client.bind("", "asks", &[]);
    client.execute("", 0);
    client.sync();
    let (code, message, _) = error(&client.read_until_ready());
    assert!(code == "0A000" && message.contains("each has sequences"), "{code} {message}");
    assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    let mut refuses = |before: &[&str], sql: &str, code: &str, part: &str| {
        for sql in before {
            assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
        }
        let told = simple(&mut client, sql);
        let (is, message, hint) = error(&told);
        assert!(is == code && message.contains(part) && !hint.is_empty(), "{sql}: {is} {message} ({hint})");
        assert!(show(&told).ends_with("Z(E)"), "{}", show(&told));
        assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    };
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let begin = format!("BEGIN ISOLATION LEVEL {level}");
        refuses(&[&begin, &of(a)], &of(b), "0A000", "no snapshot in common");
        refuses(&[&begin], "SELECT count(*) FROM t", "0A000", "no snapshot in common");
        refuses(&["BEGIN", &format!("SET TRANSACTION ISOLATION LEVEL {level}"), &of(a)], &of(b), "0A000", "snapshot");
    }
    refuses(&["BEGIN", "SELECT count(*) FROM t"], "SET work_mem = '1MB'", "0A000", "sent to all");
    refuses(&["BEGIN", "SELECT count(*) FROM t"], "SAVEPOINT a; SELECT 1", "0A000", "sent to all");
    refuses(&["BEGIN", "SELECT count(*) FROM t"], "COMMIT AND CHAIN", "0A000", "sent to all");
    refuses(&["BEGIN", "SELECT count(*) FROM t"], "COPY t FROM STDIN", "0A000", "COPY");
    refuses(&["BEGIN", "SELECT count(*) FROM t"], "EXPLAIN SELECT count(*) FROM t", "0A000", "EXPLAIN");
    refuses(
        &["BEGIN", "SELECT count(*) FROM t", "SELECT nextval('numbers')"],
        "SELECT currval('numbers')",
        "0A000",
        "each has sequences",
    );
    refuses(&["BEGIN", "SELECT count(*) FROM t"], "VACUUM t", "25001", "inside a transaction block");
    // Alone, one shard can be whatever PostgreSQL is.
    assert_eq!(client.run("BEGIN ISOLATION LEVEL SERIALIZABLE"), "C(BEGIN) Z(T)");
    assert!(client.run(&of(a)).ends_with("Z(T)"));
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    sharded.is_whole();
}

#[test]
fn a_block_ends_with_its_client_or_a_shard() {
    let sharded = Sharded::start(TWO_PHASE);
    let set = |k: i64| format!("UPDATE t SET n = 800 WHERE k = {k}");
    for leaves in [true, false] {
        let mut client = sharded.client();
        assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
        for shard in 0..SHARDS {
            assert_eq!(client.run(&set(sharded.key(shard))), "C(UPDATE 1) Z(T)");
        }
        assert!(client.run("SELECT count(*) FROM t WHERE n = 800").contains("D(3)"));
        if leaves {
            drop(client);
        } else {
            // One of them dies, and with it the transaction.
            let ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                WHERE datname = 's1' AND state LIKE 'idle in transaction%'";
            assert_eq!(sharded.cluster.value(ended), "t");
            let told = simple(&mut client, "SELECT count(*) FROM t");
            assert!(show(&told).ends_with("Z(E)"), "{}", show(&told));
            assert_eq!(client.run("COMMIT"), "C(ROLLBACK) Z(I)");
            assert!(client.run("SELECT count(*) FROM t").ends_with("C(SELECT 1) Z(I)"));
        }
        sharded.is_whole();
    }
}

/// What PostgreSQL does in a failed block would be done on the shard that failed, and not on the others.
#[test]
fn nothing_goes_back_on_one_shard_alone() {
    let sharded = Sharded::start(TWO_PHASE);
    let (a, b, c) = (sharded.key(0), sharded.key(1), sharded.key(2));
    let set = |k: i64, n: i64| format!("UPDATE t SET n = {n} WHERE k = {k}");
    let fails = |client: &mut RawClient| {
        for sql in ["BEGIN", "SAVEPOINT p", &set(a, 500), &set(c, 501)] {
            assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
        }
        assert!(client.run(&set(b, 5000)).ends_with("Z(E)"));
    };
    let aborted = |answer: String| assert!(answer.starts_with("E(25P02)") && answer.ends_with("Z(E)"), "{answer}");
    for text in
        ["ROLLBACK AND CHAIN", "COMMIT AND CHAIN", "ROLLBACK; BEGIN", "ROLLBACK TO p; SELECT 1", "SELECT 1; ROLLBACK"]
    {
        let mut client = sharded.client();
        fails(&mut client);
        aborted(client.run(text));
        assert_eq!(client.run("ROLLBACK TO p"), "C(ROLLBACK) Z(T)", "{text}");
        assert_eq!(client.value("SELECT count(*) FROM t WHERE n > 499"), "0", "{text}");
        assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)", "{text}");
        sharded.is_whole();
    }
    // In a pipeline.
    let mut client = sharded.client();
    fails(&mut client);
    for sql in ["ROLLBACK TO p", "RELEASE p"] {
        client.parse("", sql, &[]);
        client.bind("", "", &[]);
        client.execute("", 0);
    }
    client.sync();
    aborted(show(&client.read_until_ready()));
    assert_eq!(client.run("COMMIT"), "C(ROLLBACK) Z(I)");
    sharded.is_whole();
}

/// Drivers prepare, with a Sync of its own, what they run later; and close what they have prepared before in front of it.
#[test]
fn to_prepare_the_end_does_not_end_it() {
    let sharded = Sharded::start(TWO_PHASE);
    let (a, b) = (sharded.key(0), sharded.key(1));
    let mut answers = Vec::new();
    for mut client in [sharded.cluster.client("whole"), sharded.client()] {
        let mut told = Vec::new();
        for (end, fails) in [("COMMIT", 0), ("ROLLBACK", 0), ("ROLLBACK", 1), ("COMMIT", 2), ("ROLLBACK", 2)] {
            for sql in ["BEGIN", &format!("UPDATE t SET n = n + 1 WHERE k = {a}")] {
                told.push(show(&simple(&mut client, sql)));
            }
            told.push(show(&simple(&mut client, &format!("UPDATE t SET n = n - 1 WHERE k = {b}"))));
            match fails {
                0 => {}
                // On one shard, and on several.
                1 => drop(simple(&mut client, &format!("UPDATE t SET n = 5000 WHERE k = {b}"))),
                _ => drop(simple(&mut client, "SELECT 1 / (k - 17) FROM t")),
            }
            client.parse("end", end, &[]);
            client.describe_statement("end");
            client.sync();
            told.push(show(&client.read_until_ready()));
            if fails == 0 {
                told.push(show(&simple(&mut client, "SELECT sum(n) FROM t")));
            }
            client.close_statement("old");
            client.bind("", "end", &[]);
            client.execute("", 0);
            client.close_portal("");
            client.sync();
            told.push(show(&client.read_until_ready()));
            client.close_statement("end");
            client.sync();
            told.push(show(&client.read_until_ready()));
        }
        answers.push(told);
    }
    assert_eq!(answers[1], answers[0]);
    sharded.is_whole();
}

/// What is set for the session is set on one server, and its client's alone.
#[test]
fn a_block_that_sets_for_the_session_stays_on_its_shard() {
    let sharded = Sharded::start(TWO_PHASE);
    let (b, c) = (sharded.key(1), sharded.key(2));
    let timeout = |k: i64| format!("SELECT current_setting('statement_timeout') FROM t WHERE k = {k}");
    let mut client = sharded.client();
    for sql in ["BEGIN", "SET statement_timeout = '77s'", &timeout(b)] {
        assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
    }
    let (code, message, _) = error(&simple(&mut client, &timeout(c)));
    assert!(code == "0A000" && message.contains("bound to shard \"s1\""), "{code} {message}");
    assert_eq!(client.run("COMMIT"), "C(ROLLBACK) Z(I)");
    for sql in ["BEGIN", "SET statement_timeout = '77s'", &timeout(b), "COMMIT"] {
        assert!(!client.run(sql).contains("E("), "{sql}");
    }
    assert_eq!(client.value(&timeout(c)), "77s");
    let mut other = sharded.client();
    for k in [b, c] {
        assert_eq!(other.value(&timeout(k)), "0");
    }
}

/// The client of a block may rest while its shard gets another primary: what it has written is lost, and it is not told otherwise.
#[test]
fn a_commit_on_a_primary_that_was_replaced_is_refused() {
    let sharded = Sharded::with_replica(TWO_PHASE, |cluster| Some(cluster.replica()));
    let (a, b) = (sharded.key(0), sharded.key(1));
    let mut client = sharded.client();
    for sql in ["BEGIN", &format!("UPDATE t SET n = 900 WHERE k = {a}"), &format!("SELECT n FROM t WHERE k = {b}")] {
        assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
    }
    // So that the relay holds none of them.
    assert!(client.run("SELECT count(*) FROM t").ends_with("Z(T)"));
    sharded.replica.as_ref().unwrap().promote();
    let (port, name) = (sharded.cluster.port().to_string(), "s0");
    eventually("the old primary is fenced", SOON, || {
        let rows = sharded.weir.admin_table("SHOW REPLICAS");
        let fenced = |row: &&std::collections::BTreeMap<String, String>| {
            row["port"] == port && row.values().any(|value| value == name) && row["state"] == "fenced"
        };
        rows.iter().find(fenced).map(drop)
    });
    let told = simple(&mut client, "COMMIT");
    let (code, message, hint) = error(&told);
    assert!(code == "57P01" && message.contains("primary of shard \"s0\"") && !hint.is_empty(), "{code} {message}");
    assert!(show(&told).ends_with("Z(I)"), "{}", show(&told));
    assert_ne!(sharded.on(0, &format!("SELECT n FROM t WHERE k = {a}")), "900");
}

/// What is written is seen as soon as it is committed, not as soon as it was written.
#[test]
fn own_writes_are_seen_after_commit() {
    let settings = format!("{TWO_PHASE}\nconsistency = \"session\"");
    let sharded = Sharded::with_replica(&settings, |cluster| Some(cluster.replica()));
    let (a, b) = (sharded.key(0), sharded.key(1));
    let replica = sharded.replica.as_ref().unwrap();
    let mut client = sharded.client();
    for sql in ["BEGIN", "UPDATE t SET n = 77"] {
        assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
    }
    // The replica has all that was there when the statement was done.
    std::thread::sleep(Duration::from_secs(2));
    sharded.cluster.wait_replayed(replica);
    std::thread::sleep(Duration::from_millis(500));
    replica.sql("SELECT pg_wal_replay_pause()");
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    for k in [a, b] {
        assert_eq!(client.value(&format!("SELECT n FROM t WHERE k = {k}")), "77");
    }
    replica.sql("SELECT pg_wal_replay_resume()");
}

/// The block goes on with the shards that it has, and the next goes by the new map.
#[test]
fn a_reload_in_the_middle_of_a_block() {
    let mut sharded = Sharded::start(TWO_PHASE);
    let keys: Vec<i64> = (0..SHARDS).map(|n| sharded.key(n)).collect();
    let set = |k: i64, n: i64| format!("UPDATE t SET n = {n} WHERE k = {k}");
    let mut client = sharded.client();
    for sql in ["BEGIN", &set(keys[0], 600), &set(keys[1], 601), "SELECT count(*) FROM t"] {
        assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
    }
    let builder = configured(TWO_PHASE, [2, 0, 1], &sharded.cluster, None);
    sharded.weir.reconfigure(|_| builder);
    sharded.weir.admin("RELOAD");
    for (n, k) in keys.iter().enumerate() {
        assert_eq!(client.run(&set(*k, 700 + i64::try_from(n).unwrap())), "C(UPDATE 1) Z(T)", "shard {n}");
    }
    assert_eq!(client.value("SELECT count(*) FROM t WHERE n > 699"), "3");
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    for (n, k) in keys.iter().enumerate() {
        assert_eq!(sharded.on(n, &format!("SELECT n FROM t WHERE k = {k}")), (700 + n).to_string());
        assert_eq!(client.run(&set(*k, k % 7)), "C(UPDATE 1) Z(I)");
    }
    sharded.is_whole();
}

/// Two that wait for each other on different shards are not seen by any server: none waits without end, whatever was rolled back.
#[test]
fn waits_for_locks_are_limited_after_rollback_to() {
    let sharded = Sharded::start(TWO_PHASE);
    let (a, b) = (sharded.key(0), sharded.key(1));
    let limit = |k: i64| format!("SELECT current_setting('lock_timeout') FROM t WHERE k = {k}");
    for first in [a, b] {
        let mut client = sharded.client();
        for sql in ["BEGIN", "SAVEPOINT x"] {
            assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
        }
        assert_eq!(client.run(&format!("UPDATE t SET n = 1 WHERE k = {first}")), "C(UPDATE 1) Z(T)");
        assert_eq!(client.value("SELECT count(*) FROM t"), "60");
        assert_eq!((client.value(&limit(a)), client.value(&limit(b))), ("10s".into(), "10s".into()));
        assert_eq!(client.run("ROLLBACK TO x"), "C(ROLLBACK) Z(T)");
        for k in [first, a, b, first] {
            assert_eq!(client.value(&limit(k)), "10s", "{k}");
        }
        assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    }
    sharded.is_whole();
}

/// A listener hears of what is there, and of nothing that was rolled back.
#[test]
fn a_notification_comes_with_the_writes_of_its_shard() {
    let sharded = Sharded::start(TWO_PHASE);
    let (a, b) = (sharded.key(0), sharded.key(1));
    let set = |k: i64, n: i64| format!("UPDATE t SET n = {n} WHERE k = {k}");
    let mut listener = sharded.cluster.client("s0");
    assert_eq!(listener.run("LISTEN jobs"), "C(LISTEN) Z(I)");
    for notify in [
        "NOTIFY jobs, 'lost'",
        "SELECT pg_notify('jobs', 'lost')",
        "SELECT pg_advisory_xact_lock(1), pg_notify('jobs', 'lost')",
    ] {
        let mut client = sharded.client();
        for sql in ["BEGIN", notify, &set(b, 300)] {
            assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
        }
        let told = simple(&mut client, "COMMIT");
        let (code, message, hint) = error(&told);
        assert!(code == "0A000" && message.contains("notifies on shard \"s0\"") && !hint.is_empty(), "{message}");
        assert!(show(&told).ends_with("Z(I)"));
        sharded.is_whole();
        // What comes behind an error is not answered.
        for sql in ["BEGIN", notify, &set(b, 300)] {
            assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
        }
        client.parse("", "COMMIT", &[]);
        client.bind("", "", &[]);
        client.execute("", 0);
        client.close_portal("");
        client.sync();
        assert_eq!(show(&client.read_until_ready()), "1 2 E(0A000) Z(I)");
        assert_eq!(client.value("SELECT count(*) FROM t"), "60");
        sharded.is_whole();
    }
    // With nothing written elsewhere it is as ever.
    let mut client = sharded.client();
    for sql in ["BEGIN", "NOTIFY jobs, 'found'", &set(a, a % 7), &format!("SELECT n FROM t WHERE k = {b}"), "COMMIT"] {
        assert!(!client.run(sql).contains("E("), "{sql}");
    }
    listener.query("SELECT 1");
    let heard = show(&listener.read_until_ready());
    assert!(heard.contains("found") && !heard.contains("lost"), "{heard}");
}

/// What is prepared belongs to who prepared it; when the transaction is over its session is somebody else again.
#[test]
fn a_role_of_the_transaction_cannot_prepare_it() {
    let sharded = Sharded::start(TWO_PHASE);
    sharded.cluster.sql("CREATE ROLE app");
    for n in 0..SHARDS {
        sharded.cluster.sql_in(&format!("s{n}"), "GRANT ALL ON ALL TABLES IN SCHEMA public TO app");
    }
    let (a, b) = (sharded.key(0), sharded.key(1));
    let set = |k: i64, n: i64| format!("UPDATE t SET n = {n} WHERE k = {k}");
    let mut client = sharded.client();
    let mut run = |statements: &[&str]| {
        for sql in statements {
            assert!(client.run(sql).ends_with("Z(T)"), "{sql}");
        }
        let told = simple(&mut client, "COMMIT");
        assert!(show(&told).ends_with("Z(I)"), "{}", show(&told));
        told
    };
    let told = run(&["BEGIN", "SET LOCAL ROLE app", &set(a, 300), &set(b, 301)]);
    let (code, message, hint) = error(&told);
    assert!(code == "0A000" && message.contains("role of its own") && hint.contains("ROLE"), "{code} {message}");
    sharded.is_whole();
    let told = run(&["BEGIN", "SET LOCAL ROLE app", &set(a, 300), &set(b, 301), "SET LOCAL ROLE NONE"]);
    assert_eq!(show(&told), "C(COMMIT) Z(I)");
    let told = run(&["BEGIN", "SET LOCAL ROLE app", &set(a, a % 7), &format!("SELECT n FROM t WHERE k = {b}")]);
    assert_eq!(show(&told), "C(COMMIT) Z(I)");
    assert_eq!(show(&run(&["BEGIN", &set(a, a % 7), &set(b, b % 7)])), "C(COMMIT) Z(I)");
    sharded.is_whole();
}

/// What SET LOCAL has made of settings that are reported is over with the block, and the client is told so.
#[test]
fn settings_that_are_reported_end_with_the_block() {
    let sharded = Sharded::start("");
    let (a, b) = (sharded.key(0), sharded.key(1));
    let told_of = |messages: &[Message]| -> Vec<String> {
        messages.iter().filter(|message| message.tag == b'S').map(ToString::to_string).collect()
    };
    let mut answers = Vec::new();
    for mut client in [sharded.cluster.client("whole"), sharded.client()] {
        let mut told = Vec::new();
        for (end, fails) in [("COMMIT", false), ("ROLLBACK", false), ("ROLLBACK", true)] {
            let mut heard = Vec::new();
            for sql in [
                "BEGIN",
                "SET LOCAL TimeZone = 'Asia/Tokyo'",
                &format!("SELECT n FROM t WHERE k = {a}"),
                &format!("SELECT n FROM t WHERE k = {b}"),
                if fails { "SELECT 1 / (k - 17) FROM t" } else { "SELECT count(*) FROM t" },
                end,
            ] {
                heard.extend(told_of(&simple(&mut client, sql)));
            }
            told.push(heard);
            told.push(vec![client.value("SHOW TimeZone")]);
        }
        answers.push(told);
    }
    assert_eq!(answers[0][0].len(), 2, "{:?}", answers[0]);
    assert_eq!(answers[1], answers[0]);
}

/// More rows of a portal come from where it was bound.
#[test]
fn portals_of_one_shard_go_on_there() {
    let sharded = Sharded::start("");
    let (a, b) = (sharded.key(0), sharded.key(1));
    let mut answers = Vec::new();
    for mut client in [sharded.cluster.client("whole"), sharded.client()] {
        let mut told = Vec::new();
        assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
        for k in [a, b] {
            for portal in ["", "C_1"] {
                client.parse(
                    "",
                    &format!("SELECT x.n, s FROM t x, generate_series(1, 5) s WHERE x.k = {k} ORDER BY s"),
                    &[],
                );
                client.bind(&if portal.is_empty() { String::new() } else { format!("{portal}{k}") }, "", &[]);
                client.execute(&if portal.is_empty() { String::new() } else { format!("{portal}{k}") }, 2);
                client.sync();
                told.push(told_of_part(&client.read_until_ready()));
            }
            client.bind("", "", &[]);
            client.execute("", 1);
            client.sync();
            told.push(told_of_part(&client.read_until_ready()));
        }
        for portal in [format!("C_1{b}"), String::new(), format!("C_1{a}"), format!("C_1{b}")] {
            client.execute(&portal, 1);
            client.sync();
            told.push(told_of_part(&client.read_until_ready()));
        }
        answers.push(told);
    }
    assert_eq!(answers[1], answers[0]);
}

/// What several shards write gives its rows once, and no other portal is taken for the rest of them.
#[test]
fn a_write_with_a_limit_of_rows_gives_no_more_of_them() {
    let sharded = Sharded::start(TWO_PHASE);
    let mut client = sharded.client();
    let write = |client: &mut RawClient, portal: &str| {
        client.parse("", "UPDATE t SET v = v || 'x' RETURNING k", &[]);
        client.bind(portal, "", &[]);
        client.execute(portal, 5);
        client.sync();
        let told = client.read_until_ready();
        let rows = told.iter().filter(|message| message.tag == b'D').count();
        assert!(rows == 5 && show(&told).ends_with("s Z(T)"), "{}", show(&told));
    };
    for portal in ["", "C_1"] {
        assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
        write(&mut client, portal);
        client.execute(portal, 5);
        client.sync();
        let told = client.read_until_ready();
        let (code, message, hint) = error(&told);
        assert!(code == "0A000" && message.contains("rows at once") && !hint.is_empty(), "{code} {message}");
        assert!(show(&told).ends_with("Z(E)"), "{}", show(&told));
        assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
        // When it is closed its name is free.
        assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
        write(&mut client, portal);
        client.close_portal(portal);
        client.sync();
        assert_eq!(show(&client.read_until_ready()), "3 Z(T)");
        write(&mut client, portal);
        client.close_portal(portal);
        client.parse("", "SELECT k FROM t ORDER BY k", &[]);
        client.bind(portal, "", &[]);
        client.execute(portal, 1);
        client.sync();
        assert_eq!(show(&client.read_until_ready()), "3 1 2 D(1) s Z(T)");
        client.execute(portal, 1);
        client.sync();
        assert_eq!(show(&client.read_until_ready()), "D(2) s Z(T)");
        assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    }
    sharded.is_whole();
}

#[test]
fn the_token_is_shown_within_a_block() {
    let sharded = Sharded::start(TWO_PHASE);
    let mut client = sharded.client();
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(client.value("SELECT count(*) FROM t"), "60");
    for way in [simple, extended] {
        let told = show(&way(&mut client, "SHOW pgweir.causal_token"));
        assert!(told.contains("T(pgweir.causal_token:25) D(") && told.ends_with("C(SHOW) Z(T)"), "{told}");
    }
    assert_eq!(client.value("SELECT count(*) FROM t"), "60");
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    sharded.is_whole();
}

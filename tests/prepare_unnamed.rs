//! `prepare_unnamed`: servers keep the unnamed statements that come often, and no client can tell.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::time::Duration;

use common::cluster::Cluster;
use common::raw::RawClient;
use common::tools;
use common::weir::{Builder, Weir};
use common::wire::{Message, show};

const TABLE: &str =
    "CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t SELECT n, 'a' || n FROM generate_series(1, 9) n";

fn over(cluster: &Cluster, often: u32, size: u32) -> Builder {
    Weir::builder().general(&format!("prepare_unnamed = {often}")).database(&format!(
        "[databases.app]\nprimary = \"postgres://127.0.0.1:{}/postgres\"\npool_size = {size}",
        cluster.port()
    ))
}

/// Parse, Bind, Describe, Execute and Sync of the unnamed statement.
fn run(client: &mut RawClient, sql: &str, values: &[Option<&str>]) -> Vec<Message> {
    client.parse("", sql, &[]);
    client.bind("", "", values);
    client.describe_portal("");
    client.execute("", 0);
    client.sync();
    client.read_until_ready()
}

/// Statements of ours on the only server: their texts, and how often their plans were made for the values and kept.
fn kept(client: &mut RawClient) -> Vec<Vec<String>> {
    let sql = "SELECT statement, custom_plans, generic_plans FROM ROWS FROM (pg_prepared_statement()) ORDER BY 1";
    let rows = client.rows(sql).unwrap();
    rows.into_iter().map(|row| row.into_iter().collect()).collect()
}

#[test]
fn what_comes_often_is_kept_and_shared() {
    let cluster = Cluster::start();
    cluster.sql(TABLE);
    // Each worker counts for itself.
    let weir = over(&cluster, 3, 1).general("workers = 1").start();
    let (mut a, mut b) = (weir.client("app"), weir.client("app"));
    const SELECT: &str = "SELECT a FROM t WHERE id = $1";
    for turn in 1..=2 {
        run(&mut a, SELECT, &[Some("1")]);
        assert_eq!(kept(&mut a), [[""; 3]; 0], "after {turn}");
    }
    let come = |client: &mut RawClient| {
        assert_eq!(show(&run(client, SELECT, &[Some("2")])), "1 2 T(a:25) D(a2) C(SELECT 1) Z(I)");
    };
    come(&mut a);
    come(&mut b);
    come(&mut a);
    assert_eq!(kept(&mut b), [[SELECT, "3", "0"]], "parsed once, for both");
    // What it does is decided by the server as for any prepared statement.
    a.run("SET plan_cache_mode = force_generic_plan");
    run(&mut a, SELECT, &[Some("2")]);
    assert_eq!(kept(&mut b), [[SELECT, "3", "1"]]);
    // Prepared, described and run one by one, as some drivers do; and of the session's own names nothing is taken.
    a.parse("", SELECT, &[]);
    a.describe_statement("");
    a.sync();
    assert_eq!(show(&a.read_until_ready()), "1 t(23) T(a:25) Z(I)");
    b.run("SELECT 1");
    a.bind("", "", &[Some("3")]);
    a.execute("", 0);
    a.sync();
    assert_eq!(show(&a.read_until_ready()), "2 D(a3) C(SELECT 1) Z(I)");
    // Utility statements have no plan, and without the setting none is kept.
    for _ in 0..5 {
        run(&mut a, "SET work_mem = '5MB'", &[]);
    }
    assert_eq!(kept(&mut b).len(), 1);
    let weir = over(&cluster, 0, 1).start();
    let mut client = weir.client("app");
    (0..5).for_each(|_| drop(run(&mut client, SELECT, &[Some("2")])));
    assert_eq!(kept(&mut client), [[""; 3]; 0]);
}

/// One conversation after the other, with PostgreSQL and through a pgweir whose servers keep all that they are sent.
#[test]
fn answers_are_those_of_unnamed_statements() {
    let cluster = Cluster::start();
    cluster.sql(TABLE);
    let weir = over(&cluster, 1, 1).start();
    let whole = |message: &Message| match message.error() {
        // Where the source text was reported from is the server's own matter; the rest is the client's.
        Some(error) => format!("{} {:?}", show(std::slice::from_ref(message)), error.fields.get(&'M')),
        None => format!("{} {:?}", show(std::slice::from_ref(message)), message.body),
    };
    let converse = |talk: &dyn Fn(&mut RawClient) -> Vec<Message>| {
        let mut direct = cluster.client("postgres");
        let expected: Vec<_> = talk(&mut direct).iter().map(whole).collect();
        for turn in 0..3 {
            let mut client = weir.client("app");
            let got: Vec<_> = talk(&mut client).iter().map(whole).collect();
            assert_eq!(got, expected, "turn {turn}");
        }
    };
    converse(&|c| run(c, "SELECT id, a FROM t WHERE id < $1 ORDER BY id", &[Some("4")]));
    converse(&|c| run(c, "INSERT INTO t SELECT $1::int, 'x' WHERE false RETURNING a", &[Some("4")]));
    converse(&|c| run(c, "UPDATE t SET a = a WHERE id = $1", &[Some("4")]));
    // Errors at each step.
    converse(&|c| run(c, "SELECT a FROM t WHERE id = $1", &[]));
    converse(&|c| run(c, "SELECT a FROM t WHERE id = $1", &[Some("four")]));
    converse(&|c| run(c, "SELECT 1 / (id - id) FROM t WHERE id = $1", &[Some("4")]));
    converse(&|c| run(c, "SELECT nothing FROM t WHERE id = $1", &[Some("4")]));
    converse(&|c| run(c, "SELECT FROM WHERE", &[]));
    // The unnamed statement goes with a simple query, and with an error.
    converse(&|c| {
        let mut all = run(c, "SELECT a FROM t WHERE id = $1", &[Some("4")]);
        c.query("SELECT 1");
        all.extend(c.read_until_ready());
        c.bind("", "", &[Some("4")]);
        c.sync();
        all.extend(c.read_until_ready());
        all.extend(run(c, "SELECT nothing", &[]));
        c.bind("", "", &[Some("4")]);
        c.sync();
        all.extend(c.read_until_ready());
        all
    });
    // Several in one pipeline, one of which fails; a block; a portal in parts; a Flush in between.
    converse(&|c| {
        for (sql, value) in
            [("SELECT a FROM t WHERE id = $1", "1"), ("SELECT 1 / $1::int", "0"), ("SELECT 2 + $1::int", "1")]
        {
            c.parse("", sql, &[]);
            c.bind("", "", &[Some(value)]);
            c.execute("", 0);
        }
        c.sync();
        let mut all = c.read_until_ready();
        all.extend(run(c, "BEGIN", &[]));
        all.extend(run(c, "SELECT a FROM t WHERE id = $1", &[Some("1")]));
        c.parse("", "SELECT id FROM t WHERE id < $1 ORDER BY 1", &[]);
        c.bind("", "", &[Some("5")]);
        c.execute("", 2);
        c.flush();
        all.extend(c.read_until(b's'));
        c.execute("", 0);
        c.sync();
        all.extend(c.read_until_ready());
        all.extend(run(c, "DELETE FROM t WHERE id = $1", &[Some("99")]));
        all.extend(run(c, "ROLLBACK", &[]));
        all
    });
}

#[test]
fn tables_that_change_are_not_noticed() {
    let cluster = Cluster::start();
    cluster.sql(TABLE);
    let weir = over(&cluster, 1, 1).start();
    let mut client = weir.client("app");
    const SELECT: &str = "SELECT * FROM t WHERE id = $1";
    let columns = |client: &mut RawClient| {
        let messages = run(client, SELECT, &[Some("1")]);
        assert!(messages.iter().all(|m| m.error().is_none()), "{}", show(&messages));
        messages.iter().find_map(|m| m.columns()).unwrap().len()
    };
    assert_eq!((columns(&mut client), columns(&mut client)), (2, 2));
    assert_eq!(kept(&mut client).len(), 1);
    for change in ["ADD COLUMN b int", "ALTER COLUMN b TYPE text", "DROP COLUMN b"] {
        cluster.sql(&format!("ALTER TABLE t {change}"));
        let expected = if change.starts_with("DROP") { 2 } else { 3 };
        assert_eq!(columns(&mut client), expected, "{change}");
        assert_eq!(columns(&mut client), expected, "{change}, again");
    }
    let (_, metrics) = weir.http_get("/metrics");
    assert!(metrics.contains("reason=\"kept_plan\"} 3"), "each was done again: {metrics}");
    // By a Describe before it is run.
    cluster.sql("ALTER TABLE t ADD COLUMN b int");
    client.parse("", SELECT, &[]);
    client.describe_statement("");
    client.sync();
    assert_eq!(show(&client.read_until_ready()), "1 t(23) T(id:23,a:25,b:23) Z(I)");
    // In a block it cannot be done again, so it was never kept there; what returns no rows is.
    assert_eq!(columns(&mut client), 3);
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(columns(&mut client), 3);
    let insert =
        |client: &mut RawClient, id: &str| show(&run(client, "INSERT INTO t (id, a) VALUES ($1, 'new')", &[Some(id)]));
    assert_eq!(insert(&mut client, "100"), "1 2 n C(INSERT 0 1) Z(T)");
    client.run("ALTER TABLE t DROP COLUMN b, ADD COLUMN c int DEFAULT 5");
    assert_eq!(columns(&mut client), 3);
    assert_eq!(insert(&mut client, "101"), "1 2 n C(INSERT 0 1) Z(T)");
    assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
    assert_eq!(cluster.value("SELECT string_agg(c::text, ',') FROM t WHERE id >= 100"), "5,5");
    // Parameters whose types were inferred from a column that has another type by now; what is wrong stays wrong, once.
    const BY_TEXT: &str = "UPDATE t SET id = id WHERE id = $1";
    let update = |client: &mut RawClient, id: &str| show(&run(client, BY_TEXT, &[Some(id)]));
    for _ in 0..2 {
        assert_eq!(update(&mut client, "1"), "1 2 n C(UPDATE 1) Z(I)");
        assert_eq!(update(&mut client, "3000000000"), "1 E(22003) Z(I)");
    }
    let opened =
        || weir.admin_table("SHOW SERVERS").into_iter().map(|row| row["connect_time"].clone()).collect::<Vec<_>>();
    let before = opened();
    cluster.sql("ALTER TABLE t ALTER COLUMN id TYPE bigint");
    assert_eq!(update(&mut client, "3000000000"), "1 2 n C(UPDATE 0) Z(I)");
    assert_eq!(update(&mut client, "1"), "1 2 n C(UPDATE 1) Z(I)");
    assert_eq!(opened(), before, "no connection was lost for it");
    // Pipelined, with something before it: unnamed there too.
    cluster.sql("ALTER TABLE t DROP COLUMN c");
    for _ in 0..2 {
        client.parse("", SELECT, &[]);
        client.bind("", "", &[Some("1")]);
        client.execute("", 0);
    }
    client.sync();
    assert_eq!(show(&client.read_until_ready()), "1 2 D(1|a1) C(SELECT 1) 1 2 D(1|a1) C(SELECT 1) Z(I)");
}

/// What was prepared in an earlier exchange is bound and described by itself, as pgx does: what is wrong is told, once.
#[test]
fn what_fails_without_its_parse_is_not_tried_for_ever() {
    let cluster = Cluster::start();
    cluster.sql(TABLE);
    let weir = over(&cluster, 1, 1).start();
    let mut client = weir.client("app");
    const SELECT: &str = "SELECT * FROM t WHERE id = $1";
    let prepare = |client: &mut RawClient| {
        client.parse("", SELECT, &[]);
        client.describe_statement("");
        client.sync();
        client.read_until_ready();
    };
    let bind = |client: &mut RawClient, values: &[Option<&str>]| {
        client.bind("", "", values);
        client.execute("", 0);
        client.sync();
        show(&client.read_until_ready())
    };
    for (values, answer) in
        [(&[Some("four")][..], "E(22P02) Z(I)"), (&[], "E(08P01) Z(I)"), (&[Some("4")], "2 D(4|a4) C(SELECT 1) Z(I)")]
    {
        prepare(&mut client);
        assert_eq!(bind(&mut client, values), answer);
    }
    prepare(&mut client);
    cluster.sql("ALTER TABLE t DROP COLUMN a");
    client.describe_statement("");
    client.sync();
    assert_eq!(show(&client.read_until_ready()), "t(23) T(id:23) Z(I)");
}

/// pgbench in the extended protocol while a table's columns come and go: not one statement fails.
#[test]
fn tables_that_change_under_load() {
    let cluster = Cluster::start();
    cluster.sql(TABLE);
    let weir = over(&cluster, 2, 4).start();
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("script.sql");
    std::fs::write(
        &script,
        "\\set id random(1, 9)\nSELECT * FROM t WHERE id = :id;\nUPDATE t SET a = 'x' WHERE id = :id;\n",
    )
    .unwrap();
    let args = ["-n", "-M", "extended", "-c", "8", "-T", "5", "-f", script.to_str().unwrap()];
    let mut bench = tools::Running::start(&mut tools::pgbench_command(weir.port(), "app", &args));
    while bench.runs() {
        for change in ["ADD COLUMN b int", "DROP COLUMN b"] {
            cluster.sql(&format!("ALTER TABLE t {change}"));
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    let out = bench.wait(Duration::from_secs(30)).ok();
    assert!(out.contains("number of failed transactions: 0 "), "{out}");
    let (_, metrics) = weir.http_get("/metrics");
    assert!(metrics.contains("reason=\"kept_plan\""), "plans were lost under way: {metrics}");
}

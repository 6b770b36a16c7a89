//! `pg_prepared_statements` shows a client what it has prepared, and nothing of others, whatever its server holds.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::cluster::Cluster;
use common::raw::RawClient;
use common::weir::Weir;
use common::wire::show;

const BOTH: &[&str] = &[
    "SELECT * FROM (SELECT name, statement, parameter_types, from_sql FROM pg_prepared_statements) p ORDER BY 1",
    "SELECT count(*) FROM pg_catalog.pg_prepared_statements",
    "SELECT count(*), min(name) FROM pg_prepared_statement()",
    "SELECT a.name, pg_catalog.pg_prepared_statements.from_sql FROM pg_catalog.pg_prepared_statements \
     JOIN pg_prepared_statements a USING (name) ORDER BY 1",
    "SELECT x, (SELECT count(*) FROM pg_prepared_statements WHERE name < x) FROM (VALUES ('b'), ('z')) v (x) ORDER BY 1",
    "TABLE pg_prepared_statements LIMIT 0",
    "SELECT bool_and(prepare_time <= now()), bool_and(custom_plans >= 0) FROM pg_prepared_statements WHERE NOT from_sql",
    "COPY (SELECT name FROM pg_prepared_statements ORDER BY 1) TO STDOUT",
];

fn simple(client: &mut RawClient, sql: &str) -> String {
    client.run(sql)
}

/// By the protocol's own statement, which is not to show itself, for it has no name.
fn extended(client: &mut RawClient, sql: &str) -> String {
    client.parse("", sql, &[]);
    client.bind("", "", &[]);
    client.describe_portal("");
    client.execute("", 0);
    client.sync();
    show(&client.read_until_ready())
}

/// One of a pool of one, and one that has a server of its own.
struct Twin(RawClient, RawClient);

impl Twin {
    fn new(weir: &Weir, cluster: &Cluster) -> Self {
        Self(weir.client("app"), cluster.client("postgres"))
    }

    fn same(&mut self, what: &str, act: impl Fn(&mut RawClient) -> String) {
        let (through, direct) = (act(&mut self.0), act(&mut self.1));
        assert_eq!(through, direct, "{what}");
    }

    fn prepare(&mut self, name: &str, sql: &str, types: &[u32]) {
        self.same(sql, |client| {
            client.parse(name, sql, types);
            client.sync();
            show(&client.read_until_ready())
        });
    }

    fn look(&mut self, when: &str) {
        for sql in BOTH {
            self.same(&format!("{when}: {sql}"), |client| simple(client, sql));
            self.same(&format!("{when}, extended: {sql}"), |client| extended(client, sql));
        }
    }
}

#[test]
fn each_sees_its_own_statements_by_its_own_names() {
    let cluster = Cluster::start();
    let weir = Weir::builder().cluster("app", &cluster, &[]).database("pool_size = 1").start();
    let (mut a, mut b) = (Twin::new(&weir, &cluster), Twin::new(&weir, &cluster));
    a.look("nobody has any");
    a.prepare("secret", "SELECT 'of a', $1::int, $2", &[0, 25]);
    a.prepare("typed", "SELECT $1, $2", &[23, 1009]);
    a.prepare("b'\\\u{e9}", "SELECT 'it''s \\ \u{e9}'", &[]);
    b.look("only the other has some");
    b.prepare("mine", "SELECT 'of b'", &[]);
    // The same text by another name: the server has one for both.
    b.prepare("theirs", "SELECT 'of a', $1::int, $2", &[0, 25]);
    for (who, twin) in [("a", &mut a), ("b", &mut b)] {
        twin.look(who);
        twin.same("in a block", |client| client.run("BEGIN"));
        twin.look(&format!("{who}, in a block"));
        twin.same("back", |client| client.run("ROLLBACK"));
    }
    // By a statement with a name, which shows itself.
    for twin in [&mut a, &mut b] {
        twin.prepare("list", "SELECT name, statement FROM pg_prepared_statements WHERE name > $1 ORDER BY 1", &[25]);
        twin.same("list", |client| {
            client.bind("", "list", &[Some("a")]);
            client.execute("", 0);
            client.sync();
            show(&client.read_until_ready())
        });
    }
    // What PREPARE makes keeps its server, so the others come first.
    b.same("DEALLOCATE", |client| client.run("DEALLOCATE mine"));
    b.look("b has taken one away");
    b.same("PREPARE", |client| client.run("PREPARE by_sql AS SELECT 3"));
    b.look("b has both kinds");
    b.same("DEALLOCATE ALL", |client| client.run("DEALLOCATE ALL"));
    b.look("b has none");
    b.same("a copy", |client| {
        client
            .run("CREATE TEMP TABLE copied AS SELECT name FROM pg_prepared_statements; TABLE copied; DROP TABLE copied")
    });
    // A server that has been sent nothing yet shows the texts all the same, but no types that were not declared.
    a.same("DEALLOCATE", |client| client.run("DEALLOCATE secret"));
    weir.admin("RECONNECT");
    a.look("on a new server");
    // In one pipeline with the Parse, and behind one that fails.
    a.same("a pipeline", |client| {
        client.parse("late", "SELECT 4", &[]);
        client.parse("", BOTH[0], &[]);
        client.bind("", "", &[]);
        client.execute("", 0);
        client.sync();
        client.parse("never", "SELECT nothing", &[]);
        client.sync();
        client.query(BOTH[0]);
        (0..3).map(|_| show(&client.read_until_ready())).collect()
    });
}

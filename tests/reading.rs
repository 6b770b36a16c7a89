//! A prepared statement means what its text meant to the client who prepared it, whoever shares it: by its `search_path`, the tables of that
//! moment, its own temporary ones, and the settings by which literals are read. Each step is what a server of the client's own answers.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::cluster::Cluster;
use common::raw::RawClient;
use common::weir::Weir;
use common::wire::{Message, show};

/// Two clients through pgweir over one server, and what each would have been without it.
struct Pair {
    through: [RawClient; 2],
    direct: [RawClient; 2],
    weir: Weir,
    /// The one behind pgweir, and the one that is asked directly.
    clusters: [Cluster; 2],
}

const A: usize = 0;
const B: usize = 1;

impl Pair {
    fn start(general: &str, schema: &str) -> Self {
        let clusters = [Cluster::start(), Cluster::start()];
        clusters.iter().for_each(|cluster| drop(cluster.sql(schema)));
        let weir = Weir::builder().general(general).database(&format!(
            "[databases.app]\nprimary = \"postgres://127.0.0.1:{}/postgres\"\npool_size = 1",
            clusters[0].port()
        ));
        let weir = weir.start();
        let through = [weir.client("app"), weir.client("app")];
        let direct = [0, 1].map(|_| RawClient::connect(clusters[1].port(), "postgres", "postgres"));
        Self { through, direct, weir, clusters }
    }

    /// The same by both ways, and the same answer; which is returned.
    #[track_caller]
    fn both(&mut self, who: usize, ask: impl Fn(&mut RawClient) -> String) -> String {
        let expected = ask(&mut self.direct[who]);
        let answer = ask(&mut self.through[who]);
        assert_eq!(answer, expected, "client {who}");
        answer
    }

    #[track_caller]
    fn run(&mut self, who: usize, sql: &str) -> String {
        self.both(who, |client| client.run(sql))
    }

    #[track_caller]
    fn prepare(&mut self, who: usize, name: &str, sql: &str) -> String {
        self.both(who, |client| {
            client.parse(name, sql, &[]);
            client.describe_statement(name);
            client.sync();
            types(&client.read_until_ready())
        })
    }

    #[track_caller]
    fn execute(&mut self, who: usize, name: &str, values: &[Option<&str>]) -> String {
        self.both(who, |client| execute(client, name, values))
    }

    /// A client that has just come, in the place of this one.
    fn renew(&mut self, who: usize) {
        self.through[who] = self.weir.client("app");
        self.direct[who] = RawClient::connect(self.clusters[1].port(), "postgres", "postgres");
    }
}

/// What was answered, with the types of parameters. Tables have other numbers on another cluster.
fn types(told: &[Message]) -> String {
    let types: String = told.iter().filter(|m| m.tag == b't').map(|m| format!(" {:?}", m.body)).collect();
    show(told) + &types
}

fn execute(client: &mut RawClient, name: &str, values: &[Option<&str>]) -> String {
    client.bind("", name, values);
    client.execute("", 0);
    client.sync();
    show(&client.read_until_ready())
}

const SCHEMAS: &str = "CREATE SCHEMA a; CREATE TABLE a.t (k timestamp, v int);
    CREATE SCHEMA b; CREATE TABLE b.t (k timestamptz, v text);
    CREATE TABLE public.t (k int, v bool); INSERT INTO public.t VALUES (12, true);
    INSERT INTO a.t VALUES ('2024-06-01 12:00', 1); INSERT INTO b.t VALUES ('2024-06-01 12:00+00', 'one');
    ALTER DATABASE postgres SET timezone = 'UTC';";
const BY_KEY: &str = "SELECT v FROM t WHERE k = $1";
const NOON: &[Option<&str>] = &[Some("2024-06-01 21:00+09")];

#[test]
fn names_mean_what_the_search_path_of_the_client_says() {
    let mut pair = Pair::start("", SCHEMAS);
    pair.run(A, "SET search_path = a");
    pair.run(B, "SET search_path = b");
    for _ in 0..3 {
        for who in [A, B] {
            pair.prepare(who, "s", BY_KEY);
            pair.execute(who, "s", NOON);
            pair.run(who, "DEALLOCATE s");
        }
    }
    // The role decides what "$user" is.
    for cluster in &pair.clusters {
        cluster.sql("CREATE ROLE a SUPERUSER; CREATE ROLE b SUPERUSER");
    }
    for (who, role) in [(A, "a"), (B, "b"), (A, "b"), (B, "a")] {
        pair.run(who, "RESET search_path");
        pair.run(who, &format!("SET ROLE {role}"));
        pair.prepare(who, "s", BY_KEY);
        pair.execute(who, "s", NOON);
        pair.run(who, "DEALLOCATE s; RESET ROLE");
    }
}

#[test]
fn so_they_do_where_it_is_the_transactions_own_or_on_its_way() {
    let mut pair = Pair::start("", SCHEMAS);
    for (who, path) in [(A, "a"), (B, "b"), (A, "b"), (B, "public"), (A, "a")] {
        for local in ["SET LOCAL search_path = ", "SELECT set_config('search_path', "] {
            let set = if local.ends_with("', ") { format!("{local}'{path}', true)") } else { format!("{local}{path}") };
            pair.run(who, "BEGIN");
            pair.run(who, &set);
            pair.prepare(who, "s", BY_KEY);
            pair.execute(who, "s", if path == "public" { &[Some("12")] } else { NOON });
            pair.run(who, "COMMIT");
            pair.run(who, "DEALLOCATE s");
        }
        pair.run(who, "BEGIN");
        pair.both(who, |client| {
            client.parse("p", "SELECT set_config('search_path', $1, true)", &[]);
            execute(client, "p", &[Some(path)])
        });
        pair.prepare(who, "s", BY_KEY);
        pair.execute(who, "s", if path == "public" { &[Some("12")] } else { NOON });
        pair.run(who, "COMMIT");
        pair.run(who, "DEALLOCATE ALL");
        // Without waiting for the answer to the SET.
        pair.both(who, |client| {
            client.parse("", &format!("SET search_path = {path}"), &[]);
            client.bind("", "", &[]);
            client.execute("", 0);
            client.parse("s", BY_KEY, &[]);
            client.describe_statement("s");
            client.sync();
            types(&client.read_until_ready())
        });
        pair.execute(who, "s", if path == "public" { &[Some("12")] } else { NOON });
        pair.run(who, "RESET search_path");
        pair.run(who, "DEALLOCATE s");
        pair.prepare(who, "s", BY_KEY);
        pair.execute(who, "s", &[Some("12")]);
        pair.run(who, "DEALLOCATE s");
    }
}

#[test]
fn parameters_are_of_the_types_of_now() {
    let mut pair = Pair::start("", SCHEMAS);
    pair.run(A, "CREATE TABLE c (k timestamp, v int)");
    pair.prepare(A, "s", "INSERT INTO c VALUES ($1, $2)");
    pair.execute(A, "s", &[Some("2024-06-01 12:00"), Some("1")]);
    // Within the transaction that changes them, and for others when it is over.
    pair.run(B, "BEGIN");
    pair.run(B, "ALTER TABLE c ALTER k TYPE timestamptz, ALTER v TYPE bigint");
    pair.prepare(B, "s", "INSERT INTO c VALUES ($1, $2)");
    pair.execute(B, "s", &[Some("2024-06-01 12:00+09"), Some("5000000000")]);
    pair.run(B, "COMMIT");
    pair.renew(A);
    pair.prepare(A, "s", "INSERT INTO c VALUES ($1, $2)");
    pair.execute(A, "s", &[Some("2024-06-01 12:00+09"), Some("5000000000")]);
    pair.run(A, "SELECT k, v FROM c");
}

#[test]
fn a_temporary_table_is_meant_by_nobody_else() {
    let mut pair = Pair::start("", SCHEMAS);
    pair.run(B, "CREATE TEMP TABLE t (k text, v text); INSERT INTO t VALUES ('x', 'mine')");
    pair.prepare(B, "s", BY_KEY);
    pair.execute(B, "s", &[Some("x")]);
    pair.run(B, "DROP TABLE pg_temp.t");
    pair.renew(B);
    for who in [A, B] {
        pair.prepare(who, "s", BY_KEY);
        pair.execute(who, "s", &[Some("12")]);
    }
}

#[test]
fn the_present_is_that_of_the_clients_own_parse() {
    let mut pair = Pair::start("prepare_unnamed = 2", SCHEMAS);
    let fresh = "SELECT clock_timestamp() - 'now'::timestamptz < '1s'";
    for name in ["s", "", "", "", ""] {
        for who in [A, B] {
            let answer = pair.both(who, |client| {
                client.parse(name, fresh, &[]);
                execute(client, name, &[])
            });
            assert!(answer.contains("D(t)"), "{answer}");
        }
        std::thread::sleep(std::time::Duration::from_millis(600));
    }
}

#[test]
fn literals_are_read_by_what_is_set_at_that_moment() {
    let mut pair = Pair::start("", SCHEMAS);
    let instant = "SELECT '2024-01-01 12:00'::timestamptz AT TIME ZONE 'UTC'";
    let array = "SELECT ('{NULL}'::text[])[1] IS NULL";
    for who in [A, B, A, B] {
        let zone = if who == A { "Asia/Tokyo" } else { "Europe/Paris" };
        pair.both(who, |client| {
            client.parse("", &format!("SET timezone = '{zone}'"), &[]);
            client.bind("", "", &[]);
            client.execute("", 0);
            client.parse("n", instant, &[]);
            execute(client, "n", &[])
        });
        pair.execute(who, "n", &[]);
        // Two messages of their own, sent together.
        pair.both(who, |client| {
            client.query("SET timezone = 'America/Lima'");
            client.parse("m", instant, &[]);
            client.bind("", "m", &[]);
            client.execute("", 0);
            client.sync();
            format!("{} {}", show(&client.read_until_ready()), show(&client.read_until_ready()))
        });
        pair.run(who, "RESET timezone");
        pair.run(who, "DEALLOCATE ALL");
        pair.prepare(who, "n", instant);
        pair.execute(who, "n", &[]);
        pair.run(who, "BEGIN");
        pair.run(who, if who == A { "SET LOCAL array_nulls = off" } else { "SELECT 1" });
        pair.prepare(who, "o", array);
        pair.execute(who, "o", &[]);
        pair.run(who, "COMMIT");
        pair.run(who, "DEALLOCATE ALL");
    }
}

/// What PostgREST does for each request, and Supabase: role, path and claims of one transaction.
#[test]
fn a_role_and_a_path_of_the_transaction_alone() {
    let mut pair = Pair::start("", SCHEMAS);
    for cluster in &pair.clusters {
        cluster.sql("CREATE ROLE a SUPERUSER; CREATE ROLE b SUPERUSER");
    }
    for (who, role) in [(A, "a"), (B, "b"), (A, "b"), (B, "a"), (A, "public")] {
        let values: &[Option<&str>] = if role == "public" { &[Some("12")] } else { NOON };
        if role != "public" {
            pair.run(who, "BEGIN");
            pair.run(who, &format!("SET LOCAL ROLE {role}"));
            pair.prepare(who, "s", BY_KEY);
            pair.execute(who, "s", values);
            pair.run(who, "COMMIT");
            pair.run(who, "DEALLOCATE ALL");
        }
        pair.run(who, "BEGIN");
        pair.both(who, |client| {
            let sets = "SELECT set_config('search_path', $1, true), set_config('app.claims', $2, true)";
            client.parse("p", sets, &[]);
            execute(client, "p", &[Some(role), Some("{}")])
        });
        pair.prepare(who, "s", BY_KEY);
        pair.execute(who, "s", values);
        pair.run(who, "ROLLBACK");
        pair.run(who, "DEALLOCATE ALL");
        // It was not called.
        pair.run(who, "BEGIN");
        pair.run(who, &format!("SELECT set_config('search_path', '{role}', true) WHERE false"));
        pair.prepare(who, "s", BY_KEY);
        pair.execute(who, "s", &[Some("12")]);
        pair.run(who, "ROLLBACK");
        pair.run(who, "DEALLOCATE ALL");
    }
}

#[test]
fn what_ends_with_its_transaction_ends_for_what_is_parsed_behind_it() {
    let mut pair = Pair::start("", SCHEMAS);
    for (who, path) in [(A, "a"), (B, "b"), (A, "b"), (B, "a")] {
        for ends in ["ROLLBACK", "COMMIT"] {
            pair.run(who, "BEGIN");
            pair.run(who, &format!("SET LOCAL search_path = {path}"));
            pair.both(who, |client| {
                client.query(ends);
                client.parse("s", BY_KEY, &[]);
                client.describe_statement("s");
                client.sync();
                format!("{} {}", show(&client.read_until_ready()), types(&client.read_until_ready()))
            });
            pair.execute(who, "s", &[Some("12")]);
            pair.run(who, "DEALLOCATE ALL");
            pair.run(who, "BEGIN");
            pair.run(who, &format!("SET LOCAL search_path = {path}"));
            pair.prepare(who, "s", BY_KEY);
            pair.execute(who, "s", NOON);
            pair.run(who, "COMMIT");
            pair.run(who, "DEALLOCATE ALL");
        }
    }
}

/// What only one client can know for a while does not cost it what it shares with others.
#[test]
fn who_was_alone_shares_again() {
    let mut pair = Pair::start("", SCHEMAS);
    let shared =
        "SELECT count(*) FROM ROWS FROM (pg_prepared_statement()) WHERE statement = 'SELECT v FROM t WHERE k = $1'";
    for who in [A, B] {
        pair.prepare(who, "s", BY_KEY);
        pair.execute(who, "s", &[Some("12")]);
    }
    for _ in 0..5 {
        for who in [A, B] {
            pair.run(who, "BEGIN; SET LOCAL array_nulls = off; SAVEPOINT p; ROLLBACK TO p");
            pair.execute(who, "s", &[Some("12")]);
            pair.run(who, "COMMIT");
            pair.run(who, "CREATE TEMP TABLE other (a int)");
            pair.execute(who, "s", &[Some("12")]);
            pair.run(who, "DROP TABLE other");
            pair.execute(who, "s", &[Some("12")]);
            // Names in quotes, comments and now() are what any application writes.
            pair.prepare(
                who,
                "o",
                "SELECT v FROM t WHERE \"k\" = $1 AND 'x' = 'x' AND now() > '2024-01-01' /* it's now */",
            );
            pair.run(who, "DEALLOCATE o");
        }
    }
    // Whatever was reset on the way.
    for who in [A, B] {
        pair.execute(who, "s", &[Some("12")]);
    }
    assert_eq!(pair.through[A].value(shared), "1", "one for both");
}

//! Transaction blocks on a sharded database are begun behind the client's back, once their shard is known. What fails then must fail
//! where the client sees it, and nothing of the block may run outside of it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod common;

use common::cluster::Cluster;
use common::raw::RawClient;
use common::weir::Weir;
use common::wire::show;
use pgweir::id::Slot;
use pgweir::shard::hash;

/// A sharded database over two servers, with `lines` for the second shard besides its primary.
fn weir(primaries: [&Cluster; 2], lines: &str) -> Weir {
    let url = |cluster: &Cluster| format!("postgres://127.0.0.1:{}/postgres", cluster.port());
    Weir::builder()
        .general("server_connect_timeout = \"3s\"")
        .database(&format!(
            "[databases.app]\ndefault_shard = \"s0\"\n\
             [[databases.app.shards]]\nname = \"s0\"\nslots = [[0, 8191]]\nprimary = \"{}\"\n\
             [[databases.app.shards]]\nname = \"s1\"\nslots = [[8192, 16383]]\nprimary = \"{}\"\n{lines}\n\
             [databases.app.tables]\nt = {{ key = \"k\", type = \"bigint\" }}\n",
            url(primaries[0]),
            url(primaries[1]),
        ))
        .start()
}

/// A key of the second shard.
fn key_of_second() -> i64 {
    (1..).find(|&k| hash::slot_of(hash::hash_integer(k)) >= Slot(8192)).unwrap()
}

fn insert(key: i64) -> String {
    format!("INSERT INTO t (k) VALUES ({key})")
}

fn by_extended(client: &mut RawClient, sql: &str) -> String {
    client.parse("", sql, &[]);
    client.bind("", "", &[]);
    client.execute("", 0);
    client.sync();
    show(&client.read_until_ready())
}

/// What a block has done moves with it to the shard of its first key. If that fails there, the statement does not run.
#[test]
fn a_moved_block_that_fails_has_failed() {
    let servers = [Cluster::start(), Cluster::start()];
    for server in &servers {
        server.sql("CREATE TABLE t (k int8 PRIMARY KEY)");
    }
    servers[0].sql("CREATE TEXT SEARCH CONFIGURATION public.here (COPY = simple)");
    let weir = weir([&servers[0], &servers[1]], "");
    let mut client = weir.client("app");
    let key = key_of_second();
    for extended in [false, true] {
        assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
        assert_eq!(client.run("SET LOCAL default_text_search_config = 'public.here'"), "C(SET) Z(T)");
        let answer = if extended { by_extended(&mut client, &insert(key)) } else { client.run(&insert(key)) };
        assert_eq!(answer, "E(22023) Z(E)");
        assert_eq!(client.run(&insert(key)), "E(25P02) Z(E)");
        assert_eq!(client.run("COMMIT"), "C(ROLLBACK) Z(I)");
    }
    assert_eq!(servers[1].value("SELECT count(*) FROM t"), "0");
    assert_eq!(client.run(&insert(key)), "C(INSERT 0 1) Z(I)");
}

/// A standby takes no SERIALIZABLE block. Where it is all there is, the block fails as a whole.
#[test]
fn a_begin_that_fails_fails_the_block() {
    let servers = [Cluster::start(), Cluster::start()];
    for server in &servers {
        server.sql("CREATE TABLE t (k int8 PRIMARY KEY)");
    }
    let standby = servers[1].replica();
    let key = key_of_second();
    servers[1].sql(&insert(key));
    servers[1].wait_replayed(&standby);
    let weir = weir([&servers[0], &standby], "");
    let mut client = weir.client("app");
    let read = format!("SELECT k FROM t WHERE k = {key}");
    for extended in [false, true] {
        assert_eq!(client.run("BEGIN ISOLATION LEVEL SERIALIZABLE"), "C(BEGIN) Z(T)");
        let answer = if extended { by_extended(&mut client, &read) } else { client.run(&read) };
        assert_eq!(answer, "E(0A000) Z(E)");
        assert_eq!(client.run(&read), "E(25P02) Z(E)");
        assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
        assert_eq!(client.value(&read), key.to_string());
    }
}

/// With a replica, such a block goes to the primary.
#[test]
fn a_begin_that_a_replica_refuses_goes_to_the_primary() {
    let servers = [Cluster::start(), Cluster::start()];
    for server in &servers {
        server.sql("CREATE TABLE t (k int8 PRIMARY KEY)");
    }
    let standby = servers[1].replica();
    let key = key_of_second();
    servers[1].sql(&insert(key));
    servers[1].wait_replayed(&standby);
    let weir = weir(
        [&servers[0], &servers[1]],
        &format!("replicas = [\"{}\"]", format_args!("postgres://127.0.0.1:{}/postgres", standby.port())),
    );
    let mut client = weir.client("app");
    let read = format!("SELECT k, pg_is_in_recovery() FROM t WHERE k = {key}");
    for begin in ["BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY", "BEGIN READ ONLY"] {
        for extended in [false, true] {
            assert_eq!(client.run(begin), "C(BEGIN) Z(T)");
            if begin.ends_with("LY") && !begin.contains("SERIAL") {
                assert_eq!(client.run("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"), "C(SET) Z(T)");
            }
            let answer = if extended { by_extended(&mut client, &read) } else { client.run(&read) };
            assert!(answer.ends_with(&format!("D({key}|f) C(SELECT 1) Z(T)")), "{answer}");
            assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
        }
    }
}

/// Drivers that prepare with Flush learn the types first, and only then say which key: the server that prepared it may not be the one.
#[test]
fn a_statement_prepared_with_flush_goes_where_its_key_is() {
    let servers = [Cluster::start(), Cluster::start()];
    for server in &servers {
        server.sql("CREATE TABLE t (k int8 PRIMARY KEY)");
    }
    let weir = weir([&servers[0], &servers[1]], "");
    let mut client = weir.client("app");
    let second = key_of_second();
    let first = (1..).find(|&k| hash::slot_of(hash::hash_integer(k)) < Slot(8192)).unwrap();
    let prepare = |client: &mut RawClient, name: &str, sql: &str| {
        client.parse(name, sql, &[]);
        client.describe_statement(name);
        client.flush();
    };
    let run = |client: &mut RawClient, name: &str, key: i64| {
        client.bind("", name, &[Some(&key.to_string())]);
        client.execute("", 0);
        client.sync();
    };
    for (number, key) in [second, first, second, first].into_iter().enumerate() {
        for (named, block) in [(false, false), (true, false), (false, true), (true, true)] {
            let name = if named { format!("s{number}{block}") } else { String::new() };
            if block {
                assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
            }
            prepare(&mut client, &name, "INSERT INTO t (k) VALUES ($1)");
            // Its answers come before the client goes on.
            assert_eq!(show(&client.read_until(b'n')), "1 t(20) n");
            run(&mut client, &name, key);
            let status = if block { "T" } else { "I" };
            assert_eq!(show(&client.read_until_ready()), format!("2 C(INSERT 0 1) Z({status})"));
            if block {
                assert_eq!(client.run("COMMIT"), "C(COMMIT) Z(I)");
            }
            assert_eq!(client.run(&format!("DELETE FROM t WHERE k = {key}")), "C(DELETE 1) Z(I)");
        }
    }
    // All at once.
    prepare(&mut client, "", "INSERT INTO t (k) VALUES ($1)");
    run(&mut client, "", second);
    let answer = show(&client.read_until_ready());
    assert!(answer.ends_with("n 2 C(INSERT 0 1) Z(I)"), "{answer}");
    // A mistake is told once, and the rest is skipped.
    prepare(&mut client, "", "INSERT INTO t (k) VALUES ($1, 1)");
    run(&mut client, "", second);
    assert_eq!(show(&client.read_until_ready()), "E(42601) Z(I)");
    assert_eq!(servers[1].value("SELECT count(*) FROM t"), "1");
    assert_eq!(servers[0].value("SELECT count(*) FROM t"), "0");
}

/// What follows a Flush is not known yet: what runs before it must run where a write can follow.
#[test]
fn a_read_with_flush_runs_where_a_write_may_follow() {
    let primary = Cluster::start();
    primary.sql("CREATE TABLE t (k int8)");
    let replica = primary.replica();
    primary.wait_replayed(&replica);
    let weir = Weir::builder().cluster("app", &primary, &[&replica]).start();
    let mut client = weir.client("app");
    let piece = |client: &mut RawClient, sql: &str| {
        client.parse("", sql, &[]);
        client.bind("", "", &[]);
        client.execute("", 0);
    };
    for _ in 0..3 {
        piece(&mut client, "SELECT inet_server_port() FROM t");
        client.flush();
        piece(&mut client, "INSERT INTO t VALUES (1)");
        client.sync();
        let answer = show(&client.read_until_ready());
        assert!(answer.ends_with("1 2 C(INSERT 0 1) Z(I)"), "{answer}");
    }
    // A read that is prepared with Flush is answered, and (for a session that has not written) runs on the replica.
    let mut client = weir.client("app");
    client.parse("", "SELECT count(*), inet_server_port() FROM t", &[]);
    client.describe_statement("");
    client.flush();
    assert!(show(&client.read_until(b'T')).starts_with("1 t"));
    client.bind("", "", &[]);
    client.execute("", 0);
    client.sync();
    let answer = show(&client.read_until_ready());
    assert!(answer.contains(&format!("|{})", replica.port())), "{answer}");
    // So it is when it turns out that a write follows it.
    client.parse("", "SELECT count(*) FROM t", &[]);
    client.describe_statement("");
    client.flush();
    assert!(show(&client.read_until(b'T')).starts_with("1 t"));
    piece(&mut client, "INSERT INTO t VALUES (2)");
    client.sync();
    assert_eq!(show(&client.read_until_ready()), "1 2 C(INSERT 0 1) Z(I)");
}

/// Settings of ours are shown and set in the middle of a block, and keep no server.
#[test]
fn own_settings_within_a_block() {
    let primary = Cluster::start();
    let weir = Weir::builder().cluster("app", &primary, &[]).start();
    let mut client = weir.client("app");
    assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
    assert_eq!(client.value("SHOW pgweir.route"), "auto");
    assert_eq!(client.run("SET pgweir.route = 'primary'"), "C(SET) Z(T)");
    assert_eq!(client.value("SHOW pgweir.route"), "primary");
    assert_eq!(client.run("SET pgweir.route = 'master'"), "E(22023) Z(E)");
    assert_eq!(client.run("SET pgweir.route = 'auto'"), "E(25P02) Z(E)");
    assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
    assert_eq!(client.value("SHOW pgweir.route"), "primary");
    let clients = weir.admin_table("SHOW SERVERS");
    assert!(clients.iter().all(|server| server["state"] == "idle"), "{clients:?}");
    // Behind what is not answered yet, in order.
    client.query("BEGIN");
    client.query("SELECT 1");
    client.query("SHOW pgweir.route");
    client.query("SELECT 2");
    let answers: Vec<_> = (0..4).map(|_| show(&client.read_until_ready())).collect();
    assert!(answers[2].contains("D(primary)") && answers[3].contains("D(2)"), "{answers:?}");
}

/// While a server is asked what a function does, its client can cancel, be ended, and leave.
#[test]
fn a_look_up_that_is_not_answered_can_be_cancelled() {
    let servers = [Cluster::start(), Cluster::start()];
    for server in &servers {
        server.sql(
            "CREATE TABLE t (k int8 PRIMARY KEY); CREATE FUNCTION f(int8) RETURNS int8 LANGUAGE sql AS 'SELECT $1'",
        );
    }
    let weir = weir([&servers[0], &servers[1]], "");
    let mut client = weir.client("app");
    let mut leaver = weir.client("app");
    assert_eq!(client.run(&insert(key_of_second())), "C(INSERT 0 1) Z(I)");
    servers[0].freeze();
    client.query("SELECT f(1)");
    leaver.query("SELECT f(2)");
    client.expect_silence(std::time::Duration::from_millis(300));
    client.cancel();
    assert_eq!(show(&client.read_until_ready()), "E(57014) Z(I)");
    assert_eq!(client.value(&format!("SELECT k FROM t WHERE k = {}", key_of_second())), key_of_second().to_string());
    drop(leaver);
    common::eventually("the one that left is gone", std::time::Duration::from_secs(5), || {
        (weir.admin_table("SHOW CLIENTS").iter().filter(|c| c["database"] == "app").count() == 1).then_some(())
    });
    servers[0].thaw();
    let last = client.run("SELECT f(3)");
    assert!(last.ends_with("Z(I)"), "{last}");
}

/// Those who wait for a look-up that fails are told together, not one time limit after the other.
#[test]
fn look_ups_fail_together() {
    let servers = [Cluster::start(), Cluster::start()];
    for server in &servers {
        server.sql(
            "CREATE TABLE t (k int8 PRIMARY KEY); CREATE FUNCTION f(int8) RETURNS int8 LANGUAGE sql AS 'SELECT $1'",
        );
    }
    let weir = weir([&servers[0], &servers[1]], "");
    let mut clients: Vec<_> = (0..8).map(|_| weir.client("app")).collect();
    servers[0].freeze();
    clients.iter_mut().for_each(|client| client.query("SELECT f(1)"));
    let asked = pgweir::clock::now();
    for client in &mut clients {
        let answer = show(&client.read_until_ready());
        assert!(answer.starts_with("E(08") && answer.ends_with("Z(I)"), "{answer}");
    }
    // One time limit, with room to spare, and not eight.
    assert!(asked.elapsed() < std::time::Duration::from_secs(12));
    servers[0].thaw();
}

/// A look-up that fails is no answer to another question: what another shard can tell is asked there.
#[test]
fn a_look_up_that_fails_fails_nobody_elses() {
    let servers = [Cluster::start(), Cluster::start()];
    for server in &servers {
        server.sql(
            "CREATE TABLE t (k int8 PRIMARY KEY); CREATE FUNCTION f(int8) RETURNS int8 LANGUAGE sql AS 'SELECT $1'",
        );
    }
    let weir = weir([&servers[0], &servers[1]], "");
    let (mut first, mut second) = (weir.client("app"), weir.client("app"));
    servers[0].freeze();
    first.query("SELECT f(1)");
    first.expect_silence(std::time::Duration::from_millis(300));
    second.query(&format!("SELECT count(*) FROM t WHERE k = {}", key_of_second()));
    let answer = show(&first.read_until_ready());
    assert!(answer.starts_with("E(08"), "{answer}");
    let answer = show(&second.read_until_ready());
    assert!(answer.contains("C(SELECT 1)"), "{answer}");
    servers[0].thaw();
}

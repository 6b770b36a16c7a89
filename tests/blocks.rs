//! Transaction blocks on a sharded database are begun behind the client's back, once their shard is known. What fails then must fail
//! where the client sees it, and nothing of the block may run outside of it.

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
    let weir = weir([&servers[0], &servers[1]], &format!("replicas = [\"{}\"]", format_args!("postgres://127.0.0.1:{}/postgres", standby.port())));
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

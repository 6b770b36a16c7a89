//! COPY leaves nothing behind: whatever comes too late, or breaks off, the next statement of this client and of the next is answered as
//! ever. What PostgreSQL says meanwhile is held against PostgreSQL in `tests/parity.rs`.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::time::Duration;

use common::cluster::Cluster;
use common::eventually;
use common::raw::RawClient;
use common::weir::Weir;
use common::wire::show;

/// One connection for all.
fn start() -> (Cluster, Weir) {
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE t (id int PRIMARY KEY, v text)");
    let weir = Weir::builder()
        .database(&format!(
            "[databases.app]\nprimary = \"postgres://127.0.0.1:{}/postgres\"\npool_size = 1",
            cluster.port()
        ))
        .start();
    (cluster, weir)
}

/// This client is where it was, the only connection is free, and in step with the next client.
fn assert_clean(client: &mut RawClient, weir: &Weir, status: char) {
    let expected = format!("T(?column?:25) D(still here) C(SELECT 1) Z({status})");
    assert_eq!(client.run("SELECT 'still here'"), expected);
    if status == 'I' {
        let mut next = weir.client("app");
        assert_eq!(next.run("SELECT 'next'"), "T(?column?:25) D(next) C(SELECT 1) Z(I)");
        assert_eq!(next.run("SELECT 'again'"), "T(?column?:25) D(again) C(SELECT 1) Z(I)");
        eventually("the connection is given back", Duration::from_secs(10), || {
            let pool = weir.admin_table("SHOW POOLS").into_iter().find(|row| row["database"] == "app").unwrap();
            (pool["sv_active"] == "0" && pool["cl_waiting"] == "0").then_some(())
        });
    }
}

/// The error has come, and the client sends the rest of its data and CopyDone nevertheless, as one must who pipelines.
#[test]
fn what_comes_after_the_error_leaves_no_request_behind() {
    let (_cluster, weir) = start();
    let mut client = weir.client("app");
    for ends in [b'c', b'f'] {
        for in_block in [false, true] {
            let (before, failed) = if in_block { ('T', 'E') } else { ('I', 'I') };
            if in_block {
                assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
            }
            assert_clean(&mut client, &weir, before);
            client.query("COPY t FROM STDIN");
            client.read_until(b'G');
            client.copy_data(b"bad\n");
            assert_eq!(show(&client.read_until_ready()), format!("E(22P02) Z({failed})"));
            for _ in 0..3 {
                client.copy_data(b"1\tlate\n");
            }
            client.send(ends, if ends == b'f' { b"no more\0" } else { b"" });
            if in_block {
                assert_eq!(client.run("SELECT 1"), "E(25P02) Z(E)");
                assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
            }
            assert_clean(&mut client, &weir, 'I');
        }
    }
    // Once more, and twice.
    client.copy_done();
    client.copy_done();
    assert_clean(&mut client, &weir, 'I');
}

/// The same by the extended protocol, where the server skips to the Sync.
#[test]
fn what_comes_after_the_error_is_skipped_to_the_sync() {
    let (_cluster, weir) = start();
    let mut client = weir.client("app");
    for (name, in_block) in [("", false), ("cp", false), ("", true)] {
        if in_block {
            assert_eq!(client.run("BEGIN"), "C(BEGIN) Z(T)");
        }
        client.parse(name, "COPY t FROM STDIN", &[]);
        client.bind("", name, &[]);
        client.execute("", 0);
        client.flush();
        client.read_until(b'G');
        client.copy_data(b"bad\n");
        client.read_until(b'E');
        client.copy_data(b"1\tlate\n");
        client.copy_done();
        client.sync();
        assert_eq!(show(&client.read_until_ready()), if in_block { "Z(E)" } else { "Z(I)" });
        if in_block {
            assert_eq!(client.run("ROLLBACK"), "C(ROLLBACK) Z(I)");
        }
        assert_clean(&mut client, &weir, 'I');
    }
}

/// The error comes after the data has ended: a constraint that is checked at the end.
#[test]
fn what_fails_at_its_end_is_one_error() {
    let (cluster, weir) = start();
    cluster.sql("CREATE TABLE late (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)");
    let mut client = weir.client("app");
    client.query("COPY late FROM STDIN");
    client.read_until(b'G');
    client.copy_data(b"1\n1\n");
    client.copy_done();
    assert_eq!(show(&client.read_until_ready()), "E(23505) Z(I)");
    assert_clean(&mut client, &weir, 'I');
    client.parse("", "COPY late FROM STDIN", &[]);
    client.bind("", "", &[]);
    client.execute("", 0);
    client.sync();
    client.read_until(b'G');
    client.copy_data(b"1\n1\n");
    client.copy_done();
    client.sync();
    let told = show(&client.read_until_ready());
    assert!(told == "C(COPY 2) E(23505) Z(I)" || told == "E(23505) Z(I)", "{told}");
    assert_clean(&mut client, &weir, 'I');
    assert_eq!(cluster.value("SELECT count(*) FROM late"), "0");
}

//! Clients that set, reset, lock, listen, prepare, make temporary tables, abort and vanish as chance has it, over a pool of a few
//! servers in transaction mode: each sees what a session of its own would show it, in every answer, and nothing of anybody else.
//!
//! A short time with few clients by itself; `make soak` takes 64 for `PGWEIR_SOAK_SECONDS`. `PGWEIR_SEED` repeats the choices of a run,
//! though not how the clients meet.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests are tests")]
#![allow(clippy::print_stderr, reason = "a soak tells what it did")]

#[path = "../common/mod.rs"]
mod common;

mod board;
mod client;
mod found;
mod model;
mod ops;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use board::{Board, Permits};
use client::{Client, Done, World};
use common::cluster::Cluster;
use common::eventually;
use common::weir::Weir;
use ops::SETTINGS;
use pgweir::clock;

const POOL: usize = 8;
/// Clients that may keep a server at a time: the others need some as well.
const PINNED: usize = 4;

fn prepare(cluster: &Cluster) {
    cluster.sql(
        "CREATE ROLE app LOGIN; CREATE ROLE tenant0; CREATE ROLE tenant1; GRANT tenant0, tenant1 TO app;
         CREATE TABLE documents (tenant text, v int);
         INSERT INTO documents SELECT 't' || t, v FROM generate_series(0, 2) t, generate_series(1, 2) v;
         ALTER TABLE documents ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON documents USING (tenant = current_setting('app.tenant', true));
         GRANT SELECT ON documents TO PUBLIC",
    );
}

/// What a session begins with.
fn defaults(weir: &Weir) -> BTreeMap<String, String> {
    let mut client = weir.login("app", "app").connect().unwrap();
    let show = |name: &str| format!("SELECT coalesce(current_setting('{name}', true), '')");
    SETTINGS.iter().map(|(name, _)| ((*name).to_owned(), client.value(&show(name)))).collect()
}

#[test]
fn each_sees_what_a_session_of_its_own_would_show() {
    let soak: Option<u64> = std::env::var("PGWEIR_SOAK_SECONDS").ok().map(|s| s.parse().unwrap());
    let (clients, time) = soak.map_or((32, Duration::from_secs(15)), |s| (64, Duration::from_secs(s)));
    let seed = std::env::var("PGWEIR_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random::<u64>);
    eprintln!("PGWEIR_SEED={seed}");
    let cluster = Cluster::start();
    prepare(&cluster);
    let primary = format!("primary = \"postgres://127.0.0.1:{}/postgres\"", cluster.port());
    let weir = Weir::builder()
        .general("log_connections = false\nlog_disconnections = false\nlog_pooler_errors = false")
        .users("\"app\" \"\"")
        .database(&format!("[databases.app]\n{primary}\npool_size = {POOL}"))
        .start();
    let defaults = defaults(&weir);
    let world = World { board: Board::default(), permits: Permits::new(PINNED), until: clock::now() + time };
    let (lives, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let total = Mutex::new(Done::default());
    let complaints = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                while clock::now() < world.until && !failed.load(Ordering::Relaxed) {
                    let life = lives.fetch_add(1, Ordering::Relaxed);
                    let of_life = seed ^ life.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    match Client::live(&world, weir.login("app", "app"), &defaults, life, of_life) {
                        Ok(done) => {
                            let mut total = total.lock().unwrap();
                            total.statements += done.statements;
                            total.notes += done.notes;
                            total.vanished += done.vanished;
                        }
                        Err(complaint) => {
                            failed.store(true, Ordering::Relaxed);
                            complaints.lock().unwrap().push(complaint);
                        }
                    }
                }
            });
        }
    });
    let complaints = complaints.into_inner().unwrap();
    // Others follow from the first.
    assert!(complaints.is_empty(), "PGWEIR_SEED={seed}, {} complaints: {}", complaints.len(), complaints[0]);
    let orders = world.board.check_order().unwrap_or_else(|complaint| panic!("PGWEIR_SEED={seed}: {complaint}"));
    let total = total.into_inner().unwrap();
    let lives = lives.into_inner();
    eprintln!(
        "{clients} clients for {time:?}: {lives} lives, {} of them vanished, {} statements, {} notifications ({orders} one behind the other); \
         0 differences",
        total.vanished, total.statements, total.notes
    );
    assert!(total.statements > 100 && total.notes > 10 && total.vanished > 0, "nothing was tried: {total:?}");
    nothing_is_left(&cluster, &weir);
}

/// Whoever had it has gone.
fn nothing_is_left(cluster: &Cluster, weir: &Weir) {
    let wait = Duration::from_secs(30);
    eventually("no pins", wait, || weir.admin_table("SHOW PINS").is_empty().then_some(()));
    let left = "SELECT (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory') + \
                (SELECT count(*) FROM pg_class WHERE relname LIKE 'temp%' AND relpersistence = 't')";
    eventually("no locks and no temporary tables", wait, || (cluster.value(left) == "0").then_some(()));
}

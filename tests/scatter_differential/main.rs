//! The differential test of shards: one unsharded PostgreSQL against pgweir over 1, 2, 3 and 7 shards with the same rows, by every
//! protocol. The outcome is equal, or the statement is refused with 0A000 and has changed nothing; the share of refused statements is printed,
//! and some of each kind must be answered. ROLLBACK TO alone may be answered by 25P02, where a statement of several shards has failed.
//!
//! `PGWEIR_DIFFERENTIAL` says how many statements are tried (`make soak` tries many), `PGWEIR_SEED` where they begin, `PGWEIR_SHOWN` how
//! many differences are told.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

#[path = "../common/mod.rs"]
mod common;
mod compare;
mod data;
mod dml;
mod keys;
mod pairs;
mod partitions;
mod parts;
mod queries;
mod typed;
mod writer;
mod writes;

use compare::{Clients, Floor, Found, number};
use data::COUNTS;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// With what each must answer.
const READS: Floor = Floor {
    answered: &[
        ("rows", 20),
        ("order_by", 20),
        ("group_by", 20),
        ("aggregate", 20),
        ("typed_rows", 20),
        ("typed_groups", 20),
        ("typed_join", 20),
        ("typed_pair", 20),
        ("parts_of_the_whole", 20),
    ],
    refused: 40,
};
const WRITES: Floor = Floor {
    answered: &[
        ("block", 8),
        ("savepoint", 8),
        ("insert", 20),
        ("insert_rows", 30),
        ("conflict_nothing", 20),
        ("conflict_update", 20),
        ("update", 8),
        ("update_unkeyed", 8),
        ("delete", 8),
        ("delete_unkeyed", 8),
        ("reference", 15),
        ("pair_update", 8),
        ("pair_insert", 30),
        ("copy_from", 30),
        ("copy_to", 15),
    ],
    refused: 45,
};

/// A seed of its own for each of several threads.
fn seed_of(thread: u64) -> u64 {
    number("PGWEIR_SEED", 1).wrapping_add(thread << 32)
}

#[test]
fn equal_or_refused() {
    let tries = number("PGWEIR_DIFFERENTIAL", 160);
    // Most of the time each waits for an answer.
    let threads = tries.div_ceil(100).clamp(1, 4);
    let (cluster, weir) = data::start();
    let mut found = Found::default();
    let mut clients = Clients::new(&cluster, &weir);
    for query in queries::all() {
        clients.compare(&query, &mut found);
    }
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..threads)
            .map(|thread| {
                let (cluster, weir) = (&cluster, &weir);
                scope.spawn(move || {
                    let mut clients = Clients::new(cluster, weir);
                    let mut rng = SmallRng::seed_from_u64(seed_of(thread));
                    let mut found = Found::default();
                    for _ in 0..tries.div_ceil(threads) {
                        let query = if rng.random_bool(0.1) {
                            pairs::generate(&mut rng, false)
                        } else if rng.random_bool(0.5) {
                            typed::generate(&mut rng, None)
                        } else {
                            queries::generate(&mut rng)
                        };
                        clients.compare(&query, &mut found);
                        for (count, client) in &mut clients.sharded {
                            partitions::compare(client, *count, &mut rng, &mut found);
                        }
                    }
                    found
                })
            })
            .collect();
        runs.into_iter().for_each(|run| found.add(run.join().unwrap()));
    });
    found.close("reads", &READS);
}

#[test]
fn writes_are_equal_or_refused() {
    let tries = number("PGWEIR_DIFFERENTIAL", 240);
    let (cluster, weir) = data::start();
    let mut found = Found::default();
    std::thread::scope(|scope| {
        let runs: Vec<_> = COUNTS
            .iter()
            .enumerate()
            .map(|(thread, count)| {
                let (cluster, weir) = (&cluster, &weir);
                scope.spawn(move || writes::Pair::new(cluster, weir, *count, seed_of(thread as u64)).run(tries))
            })
            .collect();
        runs.into_iter().for_each(|run| found.add(run.join().unwrap()));
    });
    writes::Pair::new(&cluster, &weir, 3, 1).finds_what_is_wrong();
    found.close("writes", &WRITES);
    // Whoever looks for what is left of transactions asks for nothing that is not there.
    assert!(!cluster.log_text().contains("relation \"pgweir.dtx\" does not exist"));
}

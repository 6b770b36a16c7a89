//! What the facts of a statement cost: parsed anew, and found in the cache.

use divan::{Bencher, black_box};
use pgweir::sql::cache::FactsCache;
use pgweir::sql::parse::facts;

/// A statement and its name in the table.
struct Case(&'static str, &'static str);

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

const CASES: &[Case] = &[
    Case("begin", "BEGIN"),
    Case("set", "SET search_path = app, public"),
    Case("point_select", "SELECT abalance FROM pgbench_accounts WHERE aid = $1"),
    Case("update", "UPDATE pgbench_accounts SET abalance = abalance + $1 WHERE aid = $2"),
    Case(
        "insert",
        "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES ($1, $2, $3, $4, CURRENT_TIMESTAMP)",
    ),
    Case(
        "three_way_join",
        "SELECT o.id, c.name, sum(l.price * l.quantity) AS total FROM orders o JOIN customers c ON c.id = o.customer_id \
         JOIN lines l ON l.order_id = o.id WHERE o.customer_id = 42 AND o.created_at > now() - interval '30 days' \
         GROUP BY o.id, c.name HAVING count(*) > 2 ORDER BY total DESC LIMIT 20",
    ),
];

fn main() {
    divan::main();
}

#[divan::bench(args = CASES)]
fn parsed(case: &Case) -> usize {
    facts(black_box(case.1.as_bytes())).statements.len()
}

#[divan::bench(args = CASES)]
fn cached(bencher: Bencher<'_, '_>, case: &Case) {
    let mut cache = FactsCache::new(1000, 1 << 20);
    // What comes twice is kept.
    for n in (0..500).chain(0..500) {
        cache.get(format!("SELECT {n}").as_bytes());
    }
    let text = case.1;
    bencher.bench_local(move || cache.get(black_box(text.as_bytes())));
}

/// 64 KB of rows: the longest texts that are common.
#[divan::bench]
fn long_insert(bencher: Bencher<'_, '_>) {
    let text = format!("INSERT INTO t (id, name) VALUES (1, 'a'){}", ", (123456, 'some name')".repeat(2800));
    bencher.bench_local(move || facts(black_box(text.as_bytes())));
}

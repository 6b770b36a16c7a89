//! What a checkout costs in the ledger alone.

use divan::{Bencher, black_box};
use pgweir::clock;
use pgweir::id::WorkerId;
use pgweir::pool::ledger::{Acquire, Freed, Ledger, Limits, WaiterId};

fn main() {
    divan::main();
}

fn full(size: usize) -> Ledger {
    let now = clock::now();
    let mut ledger = Ledger::new(Limits { size, reserve: 0, round_robin: false });
    let dialled: Vec<_> = (0..size as u64)
        .filter_map(|i| match ledger.acquire(WaiterId(i), WorkerId(0), now) {
            Acquire::Queued(slot) => slot,
            _ => None,
        })
        .collect();
    for slot in &dialled {
        ledger.login_done(*slot, now);
    }
    for slot in dialled {
        ledger.release(slot, now);
    }
    ledger
}

#[divan::bench(args = [1, 20, 200])]
fn acquire_and_release(bencher: Bencher<'_, '_>, size: usize) {
    let now = clock::now();
    let mut ledger = full(size);
    bencher.bench_local(|| {
        let Acquire::Reuse(slot) = ledger.acquire(black_box(WaiterId(1)), WorkerId(0), now) else {
            return Freed::Wait;
        };
        ledger.release(slot, now)
    });
}

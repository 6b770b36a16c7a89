//! The counters that the data path bumps: a handful of relaxed atomics per transaction.
//!
//! Make one [`Totals`] and one set of [`Histogram`]s per worker and pool, so that no two threads write the same cache
//! line, and add their snapshots up when somebody looks.

use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// PgBouncer's STATS totals as plain numbers. All grow only; times are in microseconds.
///
/// See <https://www.pgbouncer.org/usage.html#show-stats>.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Times a server was given to a client.
    pub server_assignment_count: u64,
    /// Transactions.
    pub xact_count: u64,
    /// Queries: simple queries and Syncs.
    pub query_count: u64,
    /// Bytes received from clients.
    pub received: u64,
    /// Bytes sent to clients.
    pub sent: u64,
    /// Time in transactions, idle within them included, µs.
    pub xact_time: u64,
    /// Time in queries, µs.
    pub query_time: u64,
    /// Time that clients waited for a server, counted when they got it, µs.
    pub wait_time: u64,
    /// Named prepared statements created by clients.
    pub client_parse_count: u64,
    /// Prepared statements that pgweir created on servers.
    pub server_parse_count: u64,
    /// Binds of prepared statements forwarded.
    pub bind_count: u64,
}

impl Counts {
    /// The figures in STATS's order.
    #[must_use]
    pub fn in_order(&self) -> [u64; 11] {
        [
            self.server_assignment_count,
            self.xact_count,
            self.query_count,
            self.received,
            self.sent,
            self.xact_time,
            self.query_time,
            self.wait_time,
            self.client_parse_count,
            self.server_parse_count,
            self.bind_count,
        ]
    }

    /// The figures of [`Counts::in_order`] back.
    #[must_use]
    pub(crate) fn from_order(figures: [u64; 11]) -> Self {
        let [
            server_assignment_count,
            xact_count,
            query_count,
            received,
            sent,
            xact_time,
            query_time,
            wait_time,
            client_parse_count,
            server_parse_count,
            bind_count,
        ] = figures;
        Self {
            server_assignment_count,
            xact_count,
            query_count,
            received,
            sent,
            xact_time,
            query_time,
            wait_time,
            client_parse_count,
            server_parse_count,
            bind_count,
        }
    }

    /// What was added since `earlier`; a figure that shrank counts as zero.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let (now, before) = (self.in_order(), earlier.in_order());
        Self::from_order(std::array::from_fn(|i| now[i].saturating_sub(before[i])))
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        let (a, b) = (self.in_order(), other.in_order());
        *self = Self::from_order(std::array::from_fn(|i| a[i].wrapping_add(b[i])));
    }
}

impl std::iter::Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |mut sum, c| {
            sum += c;
            sum
        })
    }
}

/// PgBouncer's STATS totals as atomics, for one worker and one pool.
///
/// The alignment keeps two workers' totals out of one cache line (and its prefetched neighbour). The figures that every
/// transaction bumps come first, in one line; those of prepared statements in the second.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub struct Totals {
    server_assignment_count: AtomicU64,
    xact_count: AtomicU64,
    query_count: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    xact_time: AtomicU64,
    query_time: AtomicU64,
    wait_time: AtomicU64,
    client_parse_count: AtomicU64,
    server_parse_count: AtomicU64,
    bind_count: AtomicU64,
}

impl Totals {
    /// All zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what a transaction (or a part of it) counted locally. A figure of zero costs nothing.
    pub fn add(&self, counts: &Counts) {
        for (total, figure) in self.cells().into_iter().zip(counts.in_order()) {
            if figure != 0 {
                total.fetch_add(figure, Relaxed);
            }
        }
    }

    /// The figures as they stand. They are read one by one: a transaction that ends meanwhile may be in some and not in others.
    #[must_use]
    pub fn snapshot(&self) -> Counts {
        Counts::from_order(self.cells().map(|c| c.load(Relaxed)))
    }

    fn cells(&self) -> [&AtomicU64; 11] {
        [
            &self.server_assignment_count,
            &self.xact_count,
            &self.query_count,
            &self.received,
            &self.sent,
            &self.xact_time,
            &self.query_time,
            &self.wait_time,
            &self.client_parse_count,
            &self.server_parse_count,
            &self.bind_count,
        ]
    }
}

/// Upper bounds of the histogram's buckets, inclusive, in microseconds: 100 µs to 60 s in steps of 1, 2.5 and 5.
pub const BOUNDS_US: [u64; 18] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// Buckets of a histogram: one per bound and one for what is beyond the last.
pub const BUCKETS: usize = BOUNDS_US.len() + 1;

/// A histogram of durations with fixed buckets. Recording takes two relaxed additions and no lock.
#[derive(Debug)]
#[repr(align(128))]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; BUCKETS], sum_us: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one duration. It is taken in whole microseconds, rounded down.
    pub fn record(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < us);
        if let Some(count) = self.buckets.get(bucket) {
            count.fetch_add(1, Relaxed);
            self.sum_us.fetch_add(us, Relaxed);
        }
    }

    /// The histogram as it stands.
    #[must_use]
    pub fn snapshot(&self) -> HistogramSnapshot {
        HistogramSnapshot {
            buckets: std::array::from_fn(|i| self.buckets[i].load(Relaxed)),
            sum_us: self.sum_us.load(Relaxed),
        }
    }
}

/// A histogram at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HistogramSnapshot {
    /// How many durations fell in each bucket (not cumulative); the last is beyond [`BOUNDS_US`].
    pub buckets: [u64; BUCKETS],
    /// The sum of the durations, µs.
    pub sum_us: u64,
}

impl HistogramSnapshot {
    /// How many durations were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, n| sum.wrapping_add(*n))
    }
}

impl AddAssign for HistogramSnapshot {
    fn add_assign(&mut self, other: Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(other.buckets) {
            *mine = mine.wrapping_add(theirs);
        }
        self.sum_us = self.sum_us.wrapping_add(other.sum_us);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn totals_keep_every_figure_in_its_own_place() {
        let totals = Totals::new();
        let counts = Counts::from_order(std::array::from_fn(|i| 10 + i as u64));
        totals.add(&counts);
        totals.add(&counts);
        let snapshot = totals.snapshot();
        assert_eq!(snapshot.in_order(), std::array::from_fn(|i| 20 + 2 * i as u64));
        assert_eq!((snapshot.received, snapshot.bind_count), (26, 40));
        assert_eq!(snapshot.since(&counts), counts);
        assert_eq!(counts.since(&snapshot), Counts::default(), "a counter that went back is no huge number");
    }

    #[test]
    fn the_hot_figures_share_one_cache_line_and_no_neighbour() {
        assert_eq!(align_of::<Totals>(), 128);
        assert_eq!(size_of::<Totals>(), 128);
        assert_eq!(std::mem::offset_of!(Totals, client_parse_count), 64);
    }

    #[test]
    fn totals_lose_nothing_between_threads() {
        let totals = Totals::new();
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    (0..1000).for_each(|_| totals.add(&Counts { query_count: 1, sent: 3, ..Counts::default() }))
                });
            }
        });
        assert_eq!(totals.snapshot(), Counts { query_count: 4000, sent: 12_000, ..Counts::default() });
    }

    #[test]
    fn a_duration_on_a_bound_belongs_to_it() {
        let h = Histogram::new();
        h.record(Duration::ZERO);
        h.record(Duration::from_micros(100));
        h.record(Duration::from_micros(101));
        h.record(Duration::from_secs(60));
        h.record(Duration::from_micros(60_000_001));
        h.record(Duration::MAX);
        let s = h.snapshot();
        assert_eq!((s.buckets[0], s.buckets[1], s.buckets[17], s.buckets[18]), (2, 1, 1, 2));
        assert_eq!(s.count(), 6);
    }

    proptest! {
        #[test]
        fn a_duration_lies_within_its_bucket(us in prop_oneof![0..2000_u64, 0..200_000_000_u64]) {
            let h = Histogram::new();
            h.record(Duration::from_micros(us));
            let s = h.snapshot();
            let bucket = s.buckets.iter().position(|n| *n == 1).unwrap();
            prop_assert_eq!(s.count(), 1);
            prop_assert_eq!(s.sum_us, us);
            prop_assert!(bucket == BUCKETS - 1 || us <= BOUNDS_US[bucket]);
            prop_assert!(bucket == 0 || us > BOUNDS_US[bucket - 1]);
        }

        #[test]
        fn merging_two_is_recording_into_one(
            a in prop::collection::vec(0..100_000_000_u64, 0..50),
            b in prop::collection::vec(0..100_000_000_u64, 0..50),
        ) {
            let (one, two, both) = (Histogram::new(), Histogram::new(), Histogram::new());
            a.iter().for_each(|us| one.record(Duration::from_micros(*us)));
            b.iter().for_each(|us| two.record(Duration::from_micros(*us)));
            a.iter().chain(&b).for_each(|us| both.record(Duration::from_micros(*us)));
            let mut merged = one.snapshot();
            merged += two.snapshot();
            prop_assert_eq!(merged, both.snapshot());
        }
    }
}

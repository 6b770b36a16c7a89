//! What a pool has done.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::metrics::counters::{Histogram, Totals};

/// The counters of a pool.
#[derive(Debug, Default)]
pub struct PoolCounters {
    /// PgBouncer's STATS.
    pub totals: Totals,
    /// How long queries took, from the first byte sent to ReadyForQuery.
    pub query_time: Histogram,
    /// How long clients waited for a connection.
    pub wait_time: Histogram,
    /// How often a connection had to be cleaned before the next client could have it.
    pub resets: AtomicU64,
    /// Cancel requests under way that the server has not been asked yet.
    pub cancels_waiting: AtomicU32,
    /// Those that it has been asked.
    pub cancels_sent: AtomicU32,
}

/// A cancel request that is counted until this is dropped.
pub(super) struct CountedCancel<'a> {
    counters: &'a PoolCounters,
    sent: bool,
}

impl<'a> CountedCancel<'a> {
    pub(super) fn new(counters: &'a PoolCounters) -> Self {
        counters.cancels_waiting.fetch_add(1, Ordering::Relaxed);
        Self { counters, sent: false }
    }

    /// The server has been asked.
    pub(super) fn is_sent(&mut self) {
        self.sent = true;
        self.counters.cancels_waiting.fetch_sub(1, Ordering::Relaxed);
        self.counters.cancels_sent.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for CountedCancel<'_> {
    fn drop(&mut self) {
        let counter = if self.sent { &self.counters.cancels_sent } else { &self.counters.cancels_waiting };
        counter.fetch_sub(1, Ordering::Relaxed);
    }
}

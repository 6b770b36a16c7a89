//! What a pool has done.

use std::sync::atomic::AtomicU64;

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
    /// Cancel requests sent to the server.
    pub cancel_requests: AtomicU64,
}

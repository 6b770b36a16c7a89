//! Which writes a replica must have before a session's read may go to it.

use std::time::Instant;

use crate::config::{Consistency, HealthSettings};
use crate::health::lsn::WalPoint;
use crate::health::shard::ShardHealth;
use crate::route::decide::Freshness;

/// What a session has seen of the database.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    /// When its last write was acknowledged.
    pub last_write: Option<Instant>,
    /// What it was told by `pgweir.causal_token`.
    pub token: Option<WalPoint>,
}

/// What the settings ask of a replica for a session that has seen so much.
#[must_use]
pub fn needed(settings: &HealthSettings, health: &ShardHealth, seen: Seen, now: Instant) -> Freshness {
    // Whoever sets a token asks for it, whatever the rule is.
    let told = Freshness { token: seen.token, ..Freshness::default() };
    let mut fresh = match settings.consistency {
        Consistency::Eventual => told,
        Consistency::Session => Freshness { last_write: seen.last_write, ..told },
        Consistency::Strong => {
            // As long as nothing is known of the primary, nothing is known of the replicas either.
            let since = Some(health.strong_since().unwrap_or(now));
            Freshness { last_write: seen.last_write, since, ..told }
        }
    };
    if !settings.max_staleness.is_zero() {
        fresh.since = fresh.since.max(now.checked_sub(settings.max_staleness));
    }
    fresh
}

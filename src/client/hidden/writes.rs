//! What statements may have written on their server that no text shows: see [`crate::sql::hidden`].
//!
//! Judged by the census of the server's shard. What that does not count for, because it is old or not there yet, may write.

use std::sync::atomic::Ordering;

use super::{Judged, Known};
use crate::clock;
use crate::sql::facts::QueryFacts;

impl Known {
    pub(super) fn may_write(&self, facts: &QueryFacts, own_types: bool) -> bool {
        self.census.may_write(facts, own_types)
    }
}

impl Judged {
    /// Whether something that was sent may have written, though it looks like a read.
    pub(in crate::client) fn may_have_written(&self) -> bool {
        let (Some(stamp), Some(database)) = (self.stamp, &self.database) else { return false };
        let hidden = &database.hidden;
        if self.writes || hidden.changes.begun.load(Ordering::Acquire) != stamp {
            return true;
        }
        if self.undecided.is_empty() {
            return false;
        }
        let of_shard = hidden.shards.get(usize::from(self.place.shard.0));
        let known = of_shard.and_then(|shard| shard.known.load_full()).filter(|k| k.counts(stamp, clock::now()));
        known.is_none_or(|known| self.undecided.iter().any(|(facts, own_types, _)| known.may_write(facts, *own_types)))
    }
}

//! The pools that share a limit: `max_db_connections` and `max_user_connections`, and the size over the generations of a pool.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::quota::Quota;
use super::{Pool, PoolKey};
use crate::clock;
use crate::id::WorkerId;

/// The pools of a database or of a user, or the generations of one, and what they share.
#[derive(Debug, Default)]
pub struct Share {
    /// The limit.
    pub quota: Arc<Quota>,
    /// Held by who takes connections of several of the pools: two that have half of what they need each would wait for each other.
    pub turn: Arc<tokio::sync::Mutex<()>>,
    members: Mutex<Vec<Weak<Pool>>>,
}

/// Shares as long as there are pools that have them: who has proven nothing can name any number of databases.
type By<Key> = Mutex<HashMap<Key, Weak<Share>>>;

/// All shares of the process; they outlive a reload, as lent connections do.
#[derive(Debug, Default)]
pub struct Shares {
    databases: By<String>,
    users: By<String>,
    /// By what the pools are for: one, and those whose place it has taken.
    pools: By<PoolKey>,
    /// What the log tells of server connections.
    pub logs: Arc<Logs>,
}

/// What the log tells of server connections: `log_connections` and `log_disconnections`, which a reload changes for pools that stay.
#[derive(Debug, Default)]
pub struct Logs {
    opened: AtomicBool,
    closed: AtomicBool,
}

impl Logs {
    /// Follows the configuration.
    pub fn set(&self, opened: bool, closed: bool) {
        self.opened.store(opened, Ordering::Relaxed);
        self.closed.store(closed, Ordering::Relaxed);
    }

    pub(super) fn opened(&self) -> bool {
        self.opened.load(Ordering::Relaxed)
    }

    pub(super) fn closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }
}

impl Shares {
    /// That of a database, with `most` connections from now on (0: no limit).
    #[must_use]
    pub fn database(&self, name: &str, most: u32) -> Arc<Share> {
        let share = share(&self.databases, name);
        share.quota.set_most(most as usize);
        share
    }

    /// That of a user of servers, with `most` connections from now on (0: no limit).
    #[must_use]
    pub fn user(&self, name: &str, most: u32) -> Arc<Share> {
        let share = share(&self.users, name);
        share.quota.set_most(most as usize);
        share
    }

    /// That of a pool and of those whose place it takes, which have connections lent yet. Its limits are the limit.
    #[must_use]
    pub fn pool(&self, key: &PoolKey) -> Arc<Share> {
        share(&self.pools, key)
    }
}

fn share<Key, Name>(of: &By<Key>, name: &Name) -> Arc<Share>
where
    Key: Borrow<Name> + Eq + Hash,
    Name: ToOwned<Owned = Key> + Eq + Hash + ?Sized,
{
    let mut of = of.lock();
    of.get(name).and_then(Weak::upgrade).unwrap_or_else(|| {
        // Instead of growing, as far as that does.
        if of.len() == of.capacity() {
            of.retain(|_, share| share.strong_count() > 0);
        }
        let share = Arc::<Share>::default();
        of.insert(name.to_owned(), Arc::downgrade(&share));
        share
    })
}

impl Share {
    /// Takes in a pool; those that are gone are forgotten.
    pub(super) fn join(&self, pool: &Arc<Pool>) {
        let mut members = self.members.lock();
        members.retain(|member| member.strong_count() > 0);
        members.push(Arc::downgrade(pool));
    }

    fn others(&self, pool: &Pool) -> Vec<Arc<Pool>> {
        let members = self.members.lock();
        let others = members.iter().filter_map(Weak::upgrade);
        others.filter(|other| !std::ptr::eq(Arc::as_ptr(other), pool)).collect()
    }
}

impl Pool {
    /// Closes the connection that has rested longest in another pool of the share that has none left for this pool; then one is made
    /// for who waits here.
    pub(super) fn make_room(self: &Arc<Self>) {
        // One of each share may have to go. First, for one may have gone before it was known that this pool waits.
        for closed in 0..=self.shares.len() {
            let dial = self.inner.lock().ledger.dial_overdue(WorkerId::here(), clock::now());
            if dial.is_some() {
                return self.dial(dial);
            }
            if closed == self.shares.len() {
                return;
            }
            let Some(at) = self.inner.lock().ledger.starved_of() else { return };
            let Some(share) = self.shares.get(at) else { return };
            let resting = share.others(self).into_iter().filter_map(|other| Some((other.rests_since()?, other)));
            let Some((_, other)) = resting.min_by_key(|(since, _)| *since) else {
                share.others(self).iter().for_each(|other| Self::call_holders(other.inner.lock()));
                return;
            };
            other.close_resting();
        }
    }

    /// After a connection has gone: one is made for those who wait in other pools for their part of what this pool shares.
    pub(super) fn leave_room(&self) {
        for share in self.shares.iter().filter(|share| share.quota.is_wanted()) {
            for other in share.others(self) {
                let next = || other.inner.lock().ledger.dial_overdue(WorkerId::here(), clock::now());
                while let Some(slot) = next() {
                    other.dial(Some(slot));
                }
            }
        }
    }

    /// The same where connections can be made; elsewhere it is left to [`Pool::maintain`].
    pub(super) fn leave_room_at_home(&self) {
        if WorkerId::here() != WorkerId::NONE {
            self.leave_room();
        }
    }

    /// Closes the connections that have rested longest, so that there is a place for one more of this pool: one here, or one of each share that
    /// has none left.
    pub(super) fn make_place(&self) {
        self.close_resting();
        for share in self.shares.iter().filter(|share| share.quota.is_full()) {
            let resting = share.others(self).into_iter().filter_map(|other| Some((other.rests_since()?, other)));
            if let Some((_, other)) = resting.min_by_key(|(since, _)| *since) {
                other.close_resting();
            }
        }
    }

    fn rests_since(&self) -> Option<std::time::Instant> {
        self.inner.lock().ledger.rests_since()
    }

    fn close_resting(&self) {
        let mut inner = self.inner.lock();
        let Some(slot) = inner.ledger.take_resting() else { return };
        let known = inner.known.remove(&slot);
        let connection = inner.idle.remove(&slot);
        drop(inner);
        drop(connection);
        self.log_closed(known, "another pool needs its place");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_that_nobody_has_are_forgotten() {
        let shares = Shares::default();
        let kept = shares.database("kept", 3);
        for name in 0..10_000 {
            drop((shares.database(&name.to_string(), 1), shares.user(&name.to_string(), 1)));
        }
        assert!(shares.databases.lock().capacity() < 100 && shares.users.lock().capacity() < 100);
        assert!(Arc::ptr_eq(&kept, &shares.database("kept", 4)));
        assert_eq!(kept.quota.most(), Some(4));
    }
}

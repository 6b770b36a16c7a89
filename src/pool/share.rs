//! The pools that share a limit: `max_db_connections` and `max_user_connections`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::Pool;
use super::quota::Quota;
use crate::clock;
use crate::id::WorkerId;

/// The pools of a database or of a user, and what they share.
#[derive(Debug, Default)]
pub struct Share {
    /// The limit.
    pub quota: Arc<Quota>,
    /// Held by who takes connections of several of the pools: two that have half of what they need each would wait for each other.
    pub turn: Arc<tokio::sync::Mutex<()>>,
    members: Mutex<Vec<Weak<Pool>>>,
}

/// All shares of the process; they outlive a reload, as lent connections do.
#[derive(Debug, Default)]
pub struct Shares {
    databases: Mutex<HashMap<String, Arc<Share>>>,
    users: Mutex<HashMap<String, Arc<Share>>>,
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
        share(&self.databases, name, most)
    }

    /// That of a user of servers, with `most` connections from now on (0: no limit).
    #[must_use]
    pub fn user(&self, name: &str, most: u32) -> Arc<Share> {
        share(&self.users, name, most)
    }
}

fn share(of: &Mutex<HashMap<String, Arc<Share>>>, name: &str, most: u32) -> Arc<Share> {
    let mut of = of.lock();
    let share = of.entry(name.to_owned()).or_default();
    share.quota.set_most(most as usize);
    Arc::clone(share)
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
    pub(super) fn make_room(self: &Arc<Self>, worker: WorkerId) {
        // One of each share may have to go.
        for _ in &self.shares {
            let Some(at) = self.inner.lock().ledger.starved_of() else { return };
            let Some(share) = self.shares.get(at) else { return };
            let resting = share.others(self).into_iter().filter_map(|other| Some((other.rests_since()?, other)));
            let Some((_, other)) = resting.min_by_key(|(since, _)| *since) else { return };
            other.close_resting();
            let dial = self.inner.lock().ledger.dial_overdue(worker, clock::now());
            if dial.is_some() {
                return self.dial(dial, worker);
            }
        }
    }

    /// After a connection has gone: one is made for those who wait in other pools for their part of what this pool shares.
    pub(super) fn leave_room(&self, worker: WorkerId) {
        for share in self.shares.iter().filter(|share| share.quota.is_wanted()) {
            for other in share.others(self) {
                let next = || other.inner.lock().ledger.dial_overdue(worker, clock::now());
                while let Some(slot) = next() {
                    other.dial(Some(slot), worker);
                }
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

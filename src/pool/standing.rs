//! Connections that stand beside those that are lent: each its client's alone as long as both live, as replication connections are. They count for
//! every limit and are listed as the others; PAUSE does not wait for them, for nothing that they do has an end.

use std::sync::Arc;

use super::checkout::Checkout;
use super::ledger::SlotId;
use super::{Known, Pool};
use crate::clock;
use crate::id::WorkerId;
use crate::server::Connection;

/// A place for a connection that is to stand; given back when it is dropped before there is one.
#[derive(Debug)]
pub struct Place {
    pool: Arc<Pool>,
    slot: Option<SlotId>,
}

impl Pool {
    /// A place among the connections that there may be; a connection that rests goes for it. None: all are lent.
    #[must_use]
    pub fn place(self: &Arc<Self>, worker: WorkerId) -> Option<Place> {
        let open = || self.inner.lock().ledger.stand(worker, clock::now());
        let slot = open().or_else(|| {
            self.make_place();
            open()
        })?;
        Some(Place { pool: Arc::clone(self), slot: Some(slot) })
    }
}

impl Place {
    /// The connection that has been made for it.
    #[must_use]
    pub fn take(mut self, connection: Box<Connection>) -> Option<Checkout> {
        let slot = self.slot.take()?;
        let known = Known::of(&connection, self.pool.target.host.clone());
        self.pool.inner.lock().known.insert(slot, known);
        Some(Checkout::new(Arc::clone(&self.pool), slot, connection))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.pool.discard(slot, "its login failed");
        }
    }
}

//! A connection that is lent.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use arc_swap::Guard;

use crate::clock;
use crate::error::{Error, SqlState};
use crate::id::WorkerId;
use crate::pool::Pool;
use crate::pool::ledger::SlotId;
use crate::server::Connection;

/// In what state a connection is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Outside a transaction, nothing under way, nothing of its client's left.
    Clean,
    /// The same, but its client's state is still there.
    Dirty,
    /// The same, and nothing takes that state away.
    Spoilt,
}

/// A connection that is dropped without a word.
const ABANDONED: &str = "its client left in the middle of something, or it broke";

/// A connection that is lent. Dropping it without [`Checkout::release`] closes the connection.
#[derive(Debug)]
pub struct Checkout {
    pool: Arc<Pool>,
    slot: SlotId,
    connection: Option<Box<Connection>>,
    lent: bool,
    /// Why it is closed when it is dropped, if that is known.
    closed_for: &'static str,
}

impl Checkout {
    pub(super) fn new(pool: Arc<Pool>, slot: SlotId, connection: Box<Connection>) -> Self {
        Self { pool, slot, connection: Some(connection), lent: true, closed_for: ABANDONED }
    }

    /// Makes it usable on `worker`; `None` if it is not (it is closed then). `over`: why it is to be closed in any case.
    #[must_use]
    pub fn prepare(mut self, worker: WorkerId, over: Option<&'static str>) -> Option<Self> {
        let mut connection = self.connection.take()?;
        if over.is_some() || !connection.is_usable() {
            self.closed_for = over.unwrap_or("the server has closed it or said what nobody asked for");
            return None;
        }
        if connection.worker != worker {
            connection = connection.move_to(worker).ok()?;
            self.pool.inner.lock().ledger.moved(self.slot, worker);
        }
        self.connection = Some(connection);
        Some(self)
    }

    /// Whether the connection has rested so long that it is to be asked whether it still answers.
    #[must_use]
    pub fn is_unproven(&self) -> bool {
        let settings = self.pool.settings();
        let check = settings.check.as_ref();
        check.is_some_and(|check| self.connection.as_ref().is_some_and(|c| check.is_due(c.heard)))
    }

    /// Asks the server whether it is still there. After an error the connection is of no use.
    ///
    /// # Errors
    /// The server's, or that it did not answer within `server_connect_timeout`.
    pub async fn check(&mut self) -> Result<(), Error> {
        let lost = |why: String| Error::server(SqlState::CONNECTION_FAILURE, format!("server connection lost: {why}"));
        let settings = Guard::into_inner(self.pool.settings());
        let (Some(check), Some(connection)) = (&settings.check, self.connection.as_mut()) else {
            return Ok(());
        };
        let limit = settings.login.timeout;
        self.pool.inner.lock().ledger.testing(self.slot, true, clock::now());
        let asked = tokio::time::timeout(limit, connection.run(&check.query)).await;
        let now = clock::now();
        self.pool.inner.lock().ledger.testing(self.slot, false, now);
        let answer = match asked {
            Ok(Ok(Ok(()))) => {
                connection.heard = now;
                Ok(())
            }
            Ok(Ok(Err(error))) => {
                Err(Error { message: format!("server_check_query failed: {}", error.message), ..error })
            }
            Ok(Err(error)) => Err(lost(error.to_string())),
            Err(_) => Err(lost(format!("it did not answer server_check_query within {} s", limit.as_secs_f64()))),
        };
        if let Err(error) = &answer {
            tracing::warn!(pool = %self.pool.name(), pid = connection.pid, %error, "server connection is closed");
        }
        answer
    }

    /// The pool it belongs to.
    #[must_use]
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Its slot.
    #[must_use]
    pub fn slot(&self) -> SlotId {
        self.slot
    }

    /// Gives it back.
    pub fn release(mut self, verdict: Verdict) {
        if let Some(connection) = self.connection.take() {
            self.lent = false;
            self.pool.release(self.slot, connection, verdict);
        }
    }

    /// Gives it back clean, where most likely nobody waits for it.
    pub fn rest(mut self) {
        if let Some(connection) = self.connection.take() {
            self.lent = false;
            self.pool.rest(self.slot, connection);
        }
    }
}

impl Deref for Checkout {
    type Target = Option<Box<Connection>>;

    fn deref(&self) -> &Self::Target {
        &self.connection
    }
}

impl DerefMut for Checkout {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.connection
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        if self.lent {
            // Whatever it is in the middle of, nobody else may have it.
            self.connection = None;
            self.pool.discard(self.slot, self.closed_for);
        }
    }
}

//! A place in the queue of a pool.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::sync::oneshot;

use crate::error::{Error, SqlState};
use crate::id::WorkerId;
use crate::pool::ledger::WaiterId;
use crate::pool::{Checkout, Pool, Verdict};

/// So often a client that waits is given another connection for one that has ended on its way.
const TRIES: u8 = 3;

/// A connection at once, or a place in the queue.
#[derive(Debug)]
pub enum Asked {
    /// Here it is.
    Now(Checkout),
    /// Wait.
    Later(Ticket),
}

/// The connection that was asked for and no other, or what stands in its way.
#[derive(Debug)]
pub enum AskedFor {
    /// Here it is.
    Here(Checkout),
    /// Another client has it, or nothing is lent now.
    Later,
    /// It is no more.
    Gone,
}

impl AskedFor {
    /// The connection, if it is there.
    #[must_use]
    pub fn here(self) -> Option<Checkout> {
        match self {
            Self::Here(checkout) => Some(checkout),
            Self::Later | Self::Gone => None,
        }
    }
}

/// A place in the queue; dropping it leaves the queue.
#[derive(Debug)]
pub struct Ticket {
    pool: Arc<Pool>,
    waiter: WaiterId,
    receiver: oneshot::Receiver<Result<Checkout, Error>>,
    /// It is in the queue no more.
    called: bool,
    /// Connections that have ended on their way here.
    tries: u8,
}

impl Ticket {
    /// The place of `waiter`, who is in the queue of `pool` and whom it calls by the sender of `receiver`.
    pub(super) fn new(pool: Arc<Pool>, waiter: WaiterId, receiver: oneshot::Receiver<Result<Checkout, Error>>) -> Self {
        Self { pool, waiter, receiver, called: false, tries: 0 }
    }

    /// The pool.
    #[must_use]
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Waits for the connection.
    ///
    /// # Errors
    /// When logins to the server fail, and when one connection after the other ends on its way here.
    pub async fn wait(&mut self, worker: WorkerId) -> Result<Checkout, Error> {
        poll_fn(|cx| self.poll_wait(worker, cx)).await
    }

    /// The same as a poll function. Once it is ready, the ticket is used up.
    ///
    /// # Errors
    /// As for [`Self::wait`].
    pub fn poll_wait(&mut self, worker: WorkerId, cx: &mut Context<'_>) -> Poll<Result<Checkout, Error>> {
        let closed = || Error::us(SqlState::ADMIN_SHUTDOWN, "the pool was closed");
        loop {
            let called = ready!(Pin::new(&mut self.receiver).poll(cx)).map_err(|_| closed())?;
            self.called = true;
            // A connection that was just given back by another client has been vetted by that.
            if let Some(checkout) = called?.prepare(worker, None) {
                return Poll::Ready(Ok(checkout));
            }
            // It has ended since, which is nobody's here: another will do.
            self.tries += 1;
            if self.tries > TRIES {
                return Poll::Ready(Err(Error::server(
                    SqlState::CONNECTION_FAILURE,
                    "the server connection was lost before it could be used",
                )));
            }
            let pool = Arc::clone(&self.pool);
            match pool.ask(worker)? {
                Asked::Now(checkout) => return Poll::Ready(Ok(checkout)),
                Asked::Later(ticket) => {
                    let tries = self.tries;
                    *self = ticket;
                    self.tries = tries;
                }
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.called {
            return;
        }
        let mut inner = self.pool.inner.lock();
        inner.ledger.cancel_wait(self.waiter);
        inner.waiting.remove(&self.waiter);
        drop(inner);
        // A connection that was sent in this moment is given back.
        if let Ok(Ok(checkout)) = self.receiver.try_recv() {
            checkout.release(Verdict::Clean);
        }
    }
}

/// What a client has been given by a pool, or waits for, which it may yet take up. What is not is given back.
#[derive(Debug)]
pub struct Claim {
    pool: Arc<Pool>,
    since: Instant,
    /// None: it was taken up.
    asked: Option<Result<Asked, Error>>,
}

impl Claim {
    /// What `pool` gave who asked at `since`.
    #[must_use]
    pub fn new(pool: Arc<Pool>, since: Instant, asked: Result<Asked, Error>) -> Self {
        Self { pool, since, asked: Some(asked) }
    }

    /// When the pool was asked.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Which pool that is.
    #[must_use]
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Whether it is one to this pool.
    #[must_use]
    pub fn is_of(&self, pool: &Arc<Pool>) -> bool {
        Arc::ptr_eq(&self.pool, pool)
    }

    /// Takes it up.
    #[must_use]
    pub fn take_up(mut self) -> Option<Result<Asked, Error>> {
        self.asked.take()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Who leaves the queue says so itself.
        if let Some(Ok(Asked::Now(checkout))) = self.asked.take() {
            checkout.release(Verdict::Clean);
        }
    }
}

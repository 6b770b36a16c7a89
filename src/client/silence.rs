//! Leaving a server that has fallen silent, or is fenced.
//!
//! A server that is stopped or behind a broken network refuses nothing: whoever waits for its answer waits for ever, and a
//! deadline per statement would cost every statement and end slow ones. The prober asks each server once per interval with a
//! deadline of its own. When nothing comes of a probe, the clients of that server are woken (`Shared::wake_users_of`), and
//! each looks here whether it has to leave: two atomic loads, made only when something woke the client anyway. A primary that another has
//! taken the place of is left in the same way: what would be committed there would be lost.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use crate::client::shared::ClientHandle;
use crate::health::server::ServerHealth;

/// What one probe without an answer may cost is only to ask elsewhere. What cannot be asked again is given up when this many
/// probes in a row brought nothing: a machine that was busy for the length of one deadline shall cost nobody a transaction.
const GIVE_UP: u32 = 3;

/// How silent a server has become since a client began to wait for it.
#[derive(Debug)]
pub(super) struct Silence {
    server: Arc<ServerHealth>,
    /// The fewest unanswered probes in a row seen since.
    from: u32,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Find {
    /// Wait on.
    Answers,
    /// Ask another server, if nothing is lost by that.
    Doubtful,
    /// Give up.
    Gone,
}

impl Silence {
    /// Of a server, from now on. (A silence that was known before did not keep the client from coming: there was no better server.)
    pub(super) fn since_now(server: &Arc<ServerHealth>) -> Self {
        Self { from: server.unanswered(), server: Arc::clone(server) }
    }

    /// Of a server of which so many probes in a row had been unanswered when the client began to wait for it.
    pub(super) fn since(server: &Arc<ServerHealth>, unanswered: u32) -> Self {
        Self { from: unanswered, server: Arc::clone(server) }
    }

    /// What the probes since then say.
    pub(super) fn find(&mut self) -> Find {
        if self.server.is_fenced() {
            return Find::Gone;
        }
        let unanswered = self.server.unanswered();
        self.from = self.from.min(unanswered);
        match unanswered - self.from {
            0 => Find::Answers,
            n if n < GIVE_UP => Find::Doubtful,
            _ => Find::Gone,
        }
    }

    /// The outcome of `work`, or none if the server falls silent first.
    pub(super) async fn or<T>(self, handle: &ClientHandle, work: impl Future<Output = T>) -> Option<T> {
        self.unless(|find| find != Find::Answers, handle, work).await
    }

    /// The same of what cannot be asked again: none if the server is given up first.
    pub(super) async fn or_gone<T>(self, handle: &ClientHandle, work: impl Future<Output = T>) -> Option<T> {
        self.unless(|find| find == Find::Gone, handle, work).await
    }

    async fn unless<T>(
        mut self,
        leaves: impl Fn(Find) -> bool,
        handle: &ClientHandle,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            // What it rings for is looked at below.
            handle.bell.has_rung(cx);
            if leaves(self.find()) { Poll::Ready(None) } else { Poll::Pending }
        })
        .await
    }
}

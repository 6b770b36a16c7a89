//! An ordinary statement that waits for its server before it takes the short way.
//!
//! Whatever else happens meanwhile is for the long way, which goes on with its place in the queue.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::{Boarding, Course, Flight, Single};
use crate::client::task::Client;
use crate::clock;
use crate::pool::{Asked, Checkout, Claim, Ticket};

/// A statement that waits.
pub(in crate::client) struct Queued {
    course: Course,
    ticket: Ticket,
    /// When somebody must be told, if anybody.
    until: Option<Instant>,
}

impl Queued {
    pub(super) fn new(course: Course, ticket: Ticket, until: Option<Instant>) -> Self {
        Self { course, ticket, until }
    }
}

impl Client {
    /// Until when it may wait in silence.
    pub(super) fn patience(&self, asked: Instant) -> Option<Instant> {
        let notify = self.live.config.general.query_wait_notify;
        let limit = self.limits.wait(Duration::ZERO, Duration::ZERO).map(|(limit, _)| limit);
        let least = limit.into_iter().chain((!notify.is_zero()).then_some(notify)).min();
        least.and_then(|least| asked.checked_add(least))
    }

    /// What comes after the wait.
    pub(super) fn poll_queue(&mut self, place: &mut Option<Queued>, cx: &mut Context<'_>) -> Poll<Boarding> {
        let told = self.handle().bell.has_rung(cx) || !self.handle().is_untold();
        let Some(queued) = place else { return Poll::Pending };
        let granted = queued.ticket.poll_wait(self.cx.id, cx);
        let woken = granted.is_pending() && (told || self.stream.poll_readable(cx));
        if granted.is_pending() && !woken && !queued.until.is_some_and(|at| self.timer.passed(at, cx)) {
            return Poll::Pending;
        }
        self.hides_wait();
        let Some(Queued { course, ticket, .. }) = place.take() else { return Poll::Pending };
        let pool = Arc::clone(ticket.pool());
        let given = match granted {
            Poll::Ready(Ok(checkout)) if !told => {
                clock::begin_moment();
                return Poll::Ready(self.boards(course, checkout, clock::moment()));
            }
            Poll::Ready(Ok(checkout)) => Ok(Asked::Now(checkout)),
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Ok(Asked::Later(ticket)),
        };
        Poll::Ready(Boarding::Back(Claim::new(pool, course.asked, given)))
    }

    /// Takes the server that it was lent at `since`, if that suits it.
    pub(super) fn boards(&mut self, course: Course, mut checkout: Checkout, since: Instant) -> Boarding {
        let peace = checkout.pool().health.is_at_peace() && !checkout.is_unproven();
        let single = Single::of(&self.segment).filter(|_| peace);
        let suits = match (single, checkout.as_mut()) {
            // It may have waited for just who has changed what it calls.
            (Some(single), Some(connection)) if !self.has_other_code(course.stamp) => {
                self.suits(&single, course.shard, connection)
            }
            _ => false,
        };
        if !suits {
            let pool = Arc::clone(checkout.pool());
            return Boarding::Back(Claim::new(pool, course.asked, Ok(Asked::Now(checkout))));
        }
        self.shows_link(&checkout);
        Boarding::Flight(Flight { course, checkout, since, sent: false })
    }
}

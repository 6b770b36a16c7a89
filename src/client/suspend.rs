//! SUSPEND: every client rests as soon as nothing waits in its buffers, and nothing is read or relayed until RESUME.
//!
//! What a server is working on goes on there, and its answer waits in the kernel. Listeners leave new connections in the kernel's
//! queues; who is logging in has until `suspend_timeout` to end that.

use super::shared::Shared;
use crate::error::{Error, SqlState};

/// Whether SUSPEND is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Suspension {
    /// It is not.
    None,
    /// It is.
    On,
    /// It is, and its time is up: nobody may be logging in any more.
    Overdue,
}

impl Shared {
    /// Tells every client to come to rest. False if that was done before.
    pub fn suspend(&self) -> bool {
        let begun = self.suspension.send_if_modified(|now| {
            let begins = *now == Suspension::None;
            if begins {
                *now = Suspension::On;
            }
            begins
        });
        // Who enters from here on sees it by itself.
        for client in self.clients.iter().filter(|_| begun) {
            client.suspend(true);
        }
        begun
    }

    /// Lets everybody go on. False if they were not suspended.
    pub fn resume(&self) -> bool {
        let resume = |now: &mut Suspension| std::mem::replace(now, Suspension::None) != Suspension::None;
        let was = self.suspension.send_if_modified(resume);
        for client in self.clients.iter().filter(|_| was) {
            client.suspend(false);
        }
        was
    }

    /// Whether SUSPEND is in force.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        *self.suspension.borrow() != Suspension::None
    }

    /// Whether everybody rests.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.logging_in.load(std::sync::atomic::Ordering::Relaxed) == 0
            && self.clients.iter().all(|client| client.is_flushed())
    }

    /// Ends who does not rest yet; how many of the clients that are.
    pub fn end_restless(&self) -> usize {
        self.suspension.send_if_modified(|now| {
            let is_on = *now == Suspension::On;
            if is_on {
                *now = Suspension::Overdue;
            }
            is_on
        });
        let restless = self.clients.iter().filter(|client| !client.is_flushed());
        restless.map(|client| client.suspend_in_vain()).count()
    }

    /// Returns when SUSPEND is in force.
    pub async fn until_suspended(&self) {
        drop(self.suspension.subscribe().wait_for(|now| *now != Suspension::None).await);
    }

    /// Returns when it is not.
    pub async fn until_resumed(&self) {
        drop(self.suspension.subscribe().wait_for(|now| *now == Suspension::None).await);
    }

    /// Returns when nobody may be logging in any more.
    pub async fn until_overdue(&self) {
        drop(self.suspension.subscribe().wait_for(|now| *now == Suspension::Overdue).await);
    }
}

/// What those are told who were not at rest in time.
pub(super) fn overdue() -> Error {
    Error::us_fatal(
        SqlState::ADMIN_SHUTDOWN,
        "terminating connection: the process is suspended, and what was under way did not end in time (suspend_timeout)",
    )
}

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
        self.suspension.send_if_modified(|now| {
            let begins = *now == Suspension::None;
            if begins {
                *now = Suspension::On;
                self.tell_to_rest(true);
            }
            begins
        })
    }

    /// Lets everybody go on. False if they were not suspended.
    pub fn resume(&self) -> bool {
        self.suspension.send_if_modified(|now| {
            let ends = std::mem::replace(now, Suspension::None) != Suspension::None;
            if ends {
                self.tell_to_rest(false);
            }
            ends
        })
    }

    /// Only under the lock of `suspension`: a SUSPEND and a RESUME that came together would else leave some as the one says, and some as
    /// the other. Who enters asks under the same lock: see [`Shared::register`].
    fn tell_to_rest(&self, on: bool) {
        self.clients.iter().for_each(|client| client.suspend(on));
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

    /// Ends who does not rest yet; how many of the clients that are, without those that were told before.
    pub fn end_restless(&self) -> usize {
        let mut told = 0;
        self.suspension.send_if_modified(|now| {
            if *now != Suspension::None {
                let restless = self.clients.iter().filter(|client| !client.is_flushed() && !client.is_overdue());
                told = restless.map(|client| client.suspend_in_vain()).count();
            }
            let is_on = *now == Suspension::On;
            if is_on {
                *now = Suspension::Overdue;
            }
            is_on
        });
        told
    }

    /// Everybody rests who is still here: who logs in from now on is in nobody's way.
    pub fn end_overdue(&self) {
        self.suspension.send_if_modified(|now| {
            let is_overdue = *now == Suspension::Overdue;
            if is_overdue {
                *now = Suspension::On;
            }
            is_overdue
        });
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

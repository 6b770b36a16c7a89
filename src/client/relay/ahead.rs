//! The client's settings ahead of its segment: when they may go that way, and what becomes of the segment where the server refuses one.
//!
//! It has not run then, nobody was told anything, and the round trip of settings ([`Client::checkout`](crate::client::checkout)) has the last
//! word: it knows what to try once more, and how to say that it is in vain.

use super::{Cause, Event, Held, Leave, Link};
use crate::client::task::{Client, lost};
use crate::clock;
use crate::config::PoolMode;
use crate::error::SqlState;
use crate::health::breaker::FailureKind;
use crate::server::Connection;
use crate::session::is_fatal;
use crate::session::settings::Ahead;
use crate::sql::facts::QueryFacts;
use crate::wire::message;

/// A longer segment, in bytes, is not kept to be sent again: beside it a round trip is nothing.
pub(super) const LONGEST: usize = 64 * 1024;

/// The text that brings a server to its client's settings.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::client) struct CatchUp {
    pub(in crate::client) sql: String,
    /// It has the server forget values of sequences as well.
    pub(in crate::client) forgets: bool,
}

/// What goes ahead of a link's first segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// Nothing, or that is over.
    Nothing,
    /// It is to go with the segment.
    Due(Box<CatchUp>),
    /// It was sent, and what the server says is the answer to it.
    Sent,
}

impl Link {
    /// This is to go ahead of the first segment.
    pub(in crate::client) fn sends_ahead(&mut self, catch_up: Option<Box<CatchUp>>) {
        self.ahead = catch_up.map_or(Sending::Nothing, Sending::Due);
    }
}

impl Client {
    /// Whether the segment may follow the client's settings in the same write: nothing but itself is sent with it, and it can be brought back.
    pub(in crate::client) fn may_follow_settings(&self) -> bool {
        // Lending a name to SQL takes a Sync of ours.
        let names = |facts: &QueryFacts| facts.statements.iter().any(|statement| statement.name_use.is_some());
        let by_itself = self.held_begin.is_none() && self.listener.is_none() && self.pools.mode != PoolMode::Session;
        by_itself
            && !self.settings_refused
            && self.segment.len <= LONGEST
            && !self.segment.items.iter().filter_map(|(intake, _)| intake.facts()).any(|facts| names(facts))
    }

    /// Before the first segment: what is to go ahead of it.
    pub(super) fn send_ahead(&mut self, link: &mut Link, connection: &mut Connection) {
        let Sending::Due(catch_up) = &link.ahead else { return };
        let Connection { state, output, .. } = connection;
        self.session.send_ahead(&catch_up.sql, catch_up.forgets, state, output.tail());
        link.ahead = Sending::Sent;
    }

    /// Takes a message of a server that was sent settings ahead.
    pub(super) fn follow_ahead(
        &mut self,
        tag: u8,
        body: &[u8],
        link: &mut Link,
        connection: &mut Connection,
    ) -> Result<(), Event> {
        if tag == b'E' && is_fatal(body) {
            return Err(farewell(link, body));
        }
        let Connection { state, output, .. } = connection;
        let ahead = self.session.on_ahead(tag, body, state, output.tail()).map_err(|desync| {
            tracing::error!(pool = %link.checkout.pool().name(), tag = %char::from(desync.tag), "settings that were sent ahead are in doubt");
            let error = lost("it is not certain that it has the settings of the session");
            Event::ServerLost(error.detail("The statement may have run without them."))
        })?;
        match ahead {
            Ahead::UnderWay => {}
            Ahead::Taken => {
                link.ahead = Sending::Nothing;
                // Nothing else may have it come back.
                link.replay =
                    link.replay.take().filter(|replay| replay.leave > Leave::Never || !replay.popular.is_empty());
                // The segment may begin with what is answered by us.
                self.session.take_local(self.output.tail());
            }
            Ahead::Refused => {
                link.ahead = Sending::Nothing;
                let Some(replay) = &mut link.replay else {
                    return Err(Event::ServerLost(lost("it has refused settings of the session")));
                };
                replay.held = Some(Held::PassedOver);
            }
        }
        Ok(())
    }
}

/// The server ends the session. PostgreSQL sends what it has done before it says so: then it has not come to the segment. Of a proxy nobody
/// knows.
fn farewell(link: &Link, body: &[u8]) -> Event {
    let state = SqlState::from_bytes(message::error_field(body, b'C').unwrap_or_default());
    let error = message::server_error(body);
    if FailureKind::of_sqlstate(state).is_some() {
        link.in_flight.server().on_admin_shutdown(&error.message, clock::now());
    }
    if message::error_field(body, b'R') == Some(b"ProcessInterrupts") {
        return Event::PassedOver { refused: false, quiet: false };
    }
    if let Some(event) = link.leaves_for(Cause::Leaves) {
        return event;
    }
    Event::ServerLost(error)
}

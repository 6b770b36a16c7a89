//! What a client with a server does beside its work: it rests for SUSPEND, tells what it is doing, and leaves a server that is to be
//! closed.

use std::task::{Context, Poll};

use super::{Link, MAX_COLLECTED, Opening};
use crate::client::report::of_buffers;
use crate::client::task::Client;
use crate::clock;
use crate::config::PoolMode;
use crate::error::{Error, SqlState};
use crate::metrics::report::{Doing, Report, Settings, SocketReport};
use crate::net::buffer::READ_SIZE;
use crate::server::Connection;
use crate::wire::frame;
use crate::wire::message::TransactionStatus;

impl Client {
    /// Whether it comes to rest here for SUSPEND: what came from either side is passed on and taken, and no message is half here.
    pub(super) fn is_at_rest(&mut self, link: &Link, connection: &mut Connection, cx: &mut Context<'_>) -> bool {
        let whole = link.client_rest == 0 && link.server_rest == 0;
        let waits = link.look_up.is_some() || link.opening != Opening::Over || !self.segment.items.is_empty();
        if !whole || waits || !self.input.is_empty() || !connection.input.is_empty() || !self.output.is_empty() {
            return false;
        }
        let sent = |flushed: Poll<std::io::Result<()>>| matches!(flushed, Poll::Ready(Ok(())));
        sent(connection.output.poll_flush(&mut connection.stream, cx))
            && sent(self.output.poll_flush(&mut self.stream, cx))
    }

    /// How much is read from the server at once, 0 being nothing. While the process is suspended no more than ends the message that has
    /// begun: else the next would always be half here, where they are large. And none is begun but for what must be over before it rests.
    pub(super) fn room_for_server(&self, link: &Link, connection: &Connection) -> usize {
        if !self.handle().is_suspended() {
            return READ_SIZE;
        }
        if link.server_rest > 0 {
            return link.server_rest;
        }
        let holds_back = link.replay.is_some() && !self.output.is_empty();
        let awaited = link.look_up.is_some() || link.opening != Opening::Over || holds_back;
        // It may take nothing of the client's before it is rid of what it says.
        let stuck = !connection.output.is_empty() || link.client_rest > 0;
        if connection.input.is_empty() && !awaited && !stuck && self.segment.items.is_empty() {
            return 0;
        }
        missing(connection.input.bytes(), MAX_COLLECTED)
    }

    /// The same of the client.
    pub(super) fn room_for_client(&self, link: &Link) -> usize {
        if !self.handle().is_suspended() {
            return READ_SIZE;
        }
        if link.client_rest > 0 {
            return link.client_rest;
        }
        let begun = self.input.bytes().get(self.segment.len..).unwrap_or_default();
        if self.segment.complete || (begun.is_empty() && self.segment.items.is_empty()) {
            return 0;
        }
        missing(begun, self.live.config.general.max_packet_size as usize)
    }

    /// Gives its report.
    pub(super) fn tell_with(&self, link: &Link, connection: &Connection) {
        let in_flight = !self.session.is_drained();
        let in_block = self.session.status() != TransactionStatus::Idle;
        let now = clock::now();
        let wall = |at| clock::wall().saturating_sub(now.saturating_duration_since(at));
        let doing = match (in_flight, in_block) {
            (true, _) => Doing::Active,
            (false, true) => Doing::IdleInTransaction,
            (false, false) => Doing::Nothing,
        };
        let since = if in_flight { link.query_since } else { in_block.then_some(link.since) };
        let text = self.session.under_way().and_then(|facts| self.text_of(facts));
        let mut client = self.socket_report();
        client.to_come = link.client_rest as u64;
        client.unsent = connection.output.len() as u64;
        client.sent = connection.output.start() as u64;
        let server = SocketReport {
            to_come: link.server_rest as u64,
            settings: Settings::of(|name| connection.state.settings.reported(name)),
            ..of_buffers(&connection.stream, &connection.input, Some(&self.output))
        };
        let report = Report {
            client,
            server: Some(server),
            doing,
            since: since.map(wall),
            text,
            pins: self.pin_reports(link),
            pinned_since: link.kept.since().map(wall),
        };
        self.cx.shared.reports.tell(self.handle(), report);
    }

    /// `server_fast_close`: whether the server is to be closed, and the session, to which it belongs for good, to end with it.
    pub(super) fn looks_for_close(&self, link: &mut Link) {
        link.to_close = self.live.config.general.server_fast_close
            && self.pools.mode == PoolMode::Session
            && link.checkout.pool().is_condemned(link.checkout.slot());
    }

    /// Why the session ends now, if its server is to be closed and no transaction is open on it.
    pub(super) fn closes(&self, link: &Link) -> Option<Error> {
        let free = link.to_close
            && self.session.is_drained()
            && !self.session.is_mid_exchange()
            && self.session.status() == TransactionStatus::Idle
            && self.segment.items.is_empty();
        free.then(|| {
            Error::us_fatal(
                SqlState::ADMIN_SHUTDOWN,
                "terminating connection: its server connection is to be closed, after RECONNECT or a change of its settings (server_fast_close)",
            )
            .hint("Connect again; the session gets a new server connection.")
        })
    }
}

/// How many bytes are missing to the end of the message at the front of `bytes`, or to that of its header, which says where it ends.
fn missing(bytes: &[u8], max: usize) -> usize {
    match frame::peek(bytes, max) {
        Ok(Some(header)) => header.len.saturating_sub(bytes.len()),
        Ok(None) => frame::HEADER_LEN.saturating_sub(bytes.len()),
        // Whoever reads on will say so.
        Err(_) => READ_SIZE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_to_its_end_and_no_further() {
        let mut message = vec![b'd', 0, 0, 0, 14];
        message.extend([7; 10]);
        let expected = [5, 4, 3, 2, 1, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0];
        for (here, missed) in expected.into_iter().enumerate() {
            assert_eq!(missing(&message[..here], 1000), missed, "of {here}");
        }
        message.push(b'd');
        assert_eq!(missing(&message, 1000), 0, "the next has begun, and this one waits for something else");
        assert_eq!(missing(&message, 10), READ_SIZE, "too long");
    }
}

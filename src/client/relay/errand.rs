//! What a client with a server does beside its work: it rests for SUSPEND, tells what it is doing, and leaves a server that is to be
//! closed.

use std::task::{Context, Poll};

use super::{Link, Opening};
use crate::client::report::of_buffers;
use crate::client::task::Client;
use crate::clock;
use crate::config::PoolMode;
use crate::error::{Error, SqlState};
use crate::metrics::report::{Doing, Report, Settings, SocketReport};
use crate::server::Connection;
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
            pins: self.pin_reports(),
            pinned_since: link.pinned_since.map(wall),
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

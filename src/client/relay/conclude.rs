//! The end of a relay: what is counted, and what becomes of the server and of the client.

use std::sync::Arc;
use std::time::Duration;

use super::{Cause, Ended, Event, Link};
use crate::client::failover::is_standby;
use crate::client::hidden::Judged;
use crate::client::task::{Client, End, lost, micros};
use crate::clock;
use crate::config::{Consistency, Role};
use crate::pool::Verdict;
use crate::server::Connection;
use crate::wire::message::TransactionStatus;

/// How long a client's open transaction may take to roll back after it has gone.
const ROLLBACK_TIMEOUT: Duration = Duration::from_secs(5);

impl Client {
    pub(super) fn note_catalog_change(&mut self, link: &mut Link) {
        // A statement that is sent ahead is answered only after the one before it has been concluded.
        let types = self.session.take_types_changed();
        if std::mem::take(&mut link.changes_catalog) || types {
            self.database.catalog_is_changed(types);
        }
    }

    /// Under `strong` others must see a write as soon as its client can have told them of it.
    pub(super) fn note_write(&self, link: &Link) {
        if self.database.config.health.consistency == Consistency::Strong
            && link.wrote()
            && let Some(health) = self.database.health.get(usize::from(link.shard.0))
        {
            health.on_write(clock::now());
        }
    }

    /// Counts what was done on the link. `goes_on`: its transaction is not over, and is counted when it is.
    pub(super) fn account(&mut self, link: &mut Link, goes_on: bool) {
        self.note_catalog_change(link);
        if !goes_on {
            let now = clock::moment();
            let rested =
                link.rests_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since)) + link.rested;
            link.counts.xact_time = micros(now.saturating_duration_since(link.since).saturating_sub(rested));
        }
        if let Some(connection) = link.checkout.as_mut() {
            link.counts.server_parse_count += std::mem::take(&mut connection.state.parses);
        }
        link.checkout.pool().counters.totals.add(&link.counts);
        self.note_prepared();
        self.note_application_name();
    }

    /// Lets others see `application_name`, if it has changed.
    pub(super) fn note_application_name(&self) {
        if let Some(name) = self.session.settings().get("application_name") {
            let mut shown = self.handle().application_name.lock();
            if **shown != *name {
                *shown = name.into();
            }
        }
    }

    /// Decides what becomes of the server, and of the client.
    pub(super) async fn conclude(&mut self, mut link: Box<Link>, event: Event) -> Ended {
        match event {
            Event::Release => {
                let verdict = self.verdict(&mut link, false);
                self.session.on_release();
                link.checkout.release(verdict);
                Ended::Released
            }
            Event::Spread => {
                if self.end_exchange(&mut link).await {
                    return Ended::Spread(link);
                }
                Box::pin(self.conclude(link, Event::ServerLost(lost("it answers nothing any more")))).await
            }
            Event::Retry(cause) => {
                if matches!(cause, Cause::Broken { .. }) {
                    link.in_flight.server().on_io_error("the connection was lost during a read", clock::now());
                }
                self.bring_back(&mut link, true);
                if cause == Cause::Rested && link.hold.is_some() {
                    // The transactions before it are over, and it is planned by itself.
                    if link.may_have_taken_values() {
                        self.values.lose();
                    }
                    return Ended::Released;
                }
                Ended::Retry(cause)
            }
            Event::Refused { writes, quiet } => {
                self.give_back_unheard(link, quiet, false);
                Ended::Retry(Cause::NeedsPrimary { writes })
            }
            Event::Again { quiet } => {
                if let Some(replay) = &link.replay {
                    self.renounce(&replay.popular);
                }
                self.give_back_unheard(link, quiet, false);
                Ended::Again
            }
            Event::PassedOver { refused, quiet } => {
                self.settings_refused |= refused;
                // Nothing of the segment has run, and the link has seen no other.
                link.judged.ended();
                (link.has_written, link.judged) = (false, Judged::default());
                self.give_back_unheard(link, quiet, true);
                Ended::PassedOver { refused }
            }
            Event::Move => {
                self.hold_again(link.begun.take());
                // What has not answered is closed.
                if self.end_exchange(&mut link).await {
                    Box::pin(self.clean_up(link)).await;
                }
                self.session.on_moved();
                Ended::Released
            }
            Event::ServerLost(error) => {
                if !link.farewell && error.sqlstate.class() != "57" && !link.in_flight.server().is_fenced() {
                    link.in_flight.server().on_io_error(&error.message, clock::now());
                }
                tracing::warn!(pool = %link.checkout.pool().name(), %error, "server connection lost");
                if self.outlives(&link) {
                    self.go_on_without(link, &error);
                    return Ended::Released;
                }
                // In the middle of a message nothing can be said any more.
                let mute = link.farewell || link.server_rest > 0;
                Ended::Client(if mute { End::Gone } else { End::Told(error.fatal()) })
            }
            Event::ClientGone => {
                Box::pin(self.clean_up(link)).await;
                Ended::Client(End::Gone)
            }
            Event::Cancel(error) => {
                let mute = link.server_rest > 0;
                if let Some(request) = link.checkout.pool().begin_cancel(link.checkout.slot()) {
                    // The connection counts until the server has been asked to end what nobody waits for any more.
                    tokio::task::spawn_local(async move {
                        request.send(&std::sync::atomic::AtomicBool::new(false)).await;
                        drop(link);
                    });
                }
                Ended::Client(if mute { End::Gone } else { End::Told(error) })
            }
            Event::Stop(error) => {
                let mute = link.server_rest > 0;
                Box::pin(self.clean_up(link)).await;
                Ended::Client(if mute { End::Gone } else { End::Told(error) })
            }
        }
    }

    /// Ends what the client has only prepared by a Sync of ours, if it has not sent one; whether the server has answered that.
    async fn end_exchange(&mut self, link: &mut Link) -> bool {
        let Some(connection) = link.checkout.as_mut().filter(|_| self.session.is_mid_exchange()) else { return true };
        let sync = Box::pin(tokio::time::timeout(ROLLBACK_TIMEOUT, connection.sync())).await;
        self.session.on_synced();
        matches!(sync, Ok(Ok(())))
    }

    /// Gives a server back that has answered the segment in vain, if it is at rest; else it is closed. `resets`: it is reset before anybody else
    /// gets it.
    fn give_back_unheard(&mut self, mut link: Box<Link>, quiet: bool, resets: bool) {
        let at_rest = quiet && self.session.may_release();
        self.bring_back(&mut link, !at_rest);
        if at_rest && let Some(connection) = link.checkout.as_mut() {
            connection.input = crate::net::Buffer::default();
            // What somebody's code has left there is not the client's, who is told nothing of it.
            let leaves_state = resets || link.judged.may_have_left();
            let verdict = self.verdict(&mut link, leaves_state);
            self.session.on_release();
            link.checkout.release(verdict);
        }
    }

    /// Puts the segment back into the input, as if no server had seen it. `lost`: the connection is closed, it is in the middle of it.
    fn bring_back(&mut self, link: &mut Link, lost: bool) {
        if lost && let Some(connection) = link.checkout.as_mut() {
            self.session.on_server_lost(&mut connection.state);
        }
        // What is behind the segment first; its bytes are read again as well.
        self.withdraw_pieces();
        let behind = self.segment.take();
        let unsent = behind.as_it_came(self.input.bytes());
        self.input.replace(0, behind.len, &unsent);
        for (intake, _) in behind.items.into_iter().rev() {
            self.session.withdraw(intake);
        }
        if let Some(replay) = link.replay.take() {
            let mut input = crate::net::Buffer::default();
            for undo in replay.names.into_iter().rev() {
                self.session.undo_name(undo);
            }
            input.extend(&replay.bytes);
            input.extend(self.input.bytes());
            self.input = input;
            self.output = crate::net::Buffer::default();
            // The segment is what begins it.
            link.begun = None;
        }
        // Else the segment was not sent yet, and what waits for the client is the answer to what came before.
        self.hold_again(link.begun.take());
    }

    /// In what state the server is given back.
    fn verdict(&mut self, link: &mut Link, leaves_state: bool) -> Verdict {
        let unseen = link.judged.may_have_written();
        if self.session.take_forgot_sequences() {
            self.values.forget();
        } else if link.has_written || unseen {
            let (pool, slot, role) = (Arc::clone(link.checkout.pool()), link.checkout.slot(), link.role);
            // A standby has none to give.
            let gives = |connection: &Connection| role == Role::Primary || is_standby(connection) != Some(true);
            if let Some(connection) = link.checkout.as_mut().filter(|connection| gives(connection)) {
                self.takes_values(&mut connection.state.sequences, &pool, slot);
            }
        }
        if self.session.spoils_server() {
            return Verdict::Spoilt;
        }
        let dirty = leaves_state || self.session.was_pinned() || self.live.config.general.server_reset_query_always;
        link.leaves.max(link.judged.least()).max(if dirty { Verdict::Dirty } else { Verdict::Clean })
    }

    /// The client has gone: its transaction is rolled back and the server given back, if nothing else is under way.
    async fn clean_up(&mut self, mut link: Box<Link>) {
        let quiet = self.session.is_drained()
            && !self.session.is_mid_exchange()
            && !self.session.has_lent()
            && link.client_rest == 0
            && link.server_rest == 0;
        if !quiet {
            return;
        }
        if self.session.status() != TransactionStatus::Idle {
            let Some(connection) = link.checkout.as_mut() else { return };
            let rolled_back = tokio::time::timeout(ROLLBACK_TIMEOUT, connection.run("ROLLBACK")).await;
            if !matches!(rolled_back, Ok(Ok(Ok(())))) {
                return;
            }
        }
        self.settle_hidden(&mut link.judged, link.shard);
        let leaves_state = self.session.leaves_state();
        let verdict = self.verdict(&mut link, leaves_state);
        // Whatever it has changed was rolled back or is told of already.
        link.judged.ended();
        link.checkout.release(verdict);
    }
}

//! Servers that clients keep for the state of their sessions: whether they may, how many there are, and what is told of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::client::relay::Link;
use crate::client::shared::Shared;
use crate::client::task::Client;
use crate::clock;
use crate::config::{OnSessionState, PoolMode};
use crate::error::{Error, SqlState};
use crate::id::ShardIndex;
use crate::pool::Pool;
use crate::session::{Intake, Pin};
use crate::sql::facts::PinReason;

/// What a link has to do with the state of its client's session.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Its place among those of the pool that are kept, or may be from the next statement on.
    seat: Option<Arc<Pool>>,
    /// The reasons that are counted as there, and where.
    shown: Option<(Arc<Shared>, Vec<PinReason>)>,
    /// Since when there are any.
    since: Option<Instant>,
}

impl Kept {
    /// Since when the client keeps the server.
    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Takes a place if fewer than `most` are taken; whether there is one.
    pub(super) fn take_seat(&mut self, pool: &Arc<Pool>, most: u32) -> bool {
        if self.seat.is_none() {
            let more = |taken: u32| (taken < most).then_some(taken + 1);
            if pool.kept.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_err() {
                return false;
            }
            self.seat = Some(Arc::clone(pool));
        }
        true
    }

    /// Follows what the server is kept for now; the reasons that are new.
    fn follow<'a>(&mut self, shared: &Arc<Shared>, pins: &'a [Pin]) -> Vec<&'a Pin> {
        let shown = self.shown.as_mut().map(|(_, reasons)| reasons);
        let is_shown = |pin: &&Pin| !shown.as_ref().is_some_and(|reasons| reasons.contains(&pin.reason));
        let new: Vec<&Pin> = pins.iter().filter(is_shown).collect();
        if new.is_empty() && shown.as_ref().map_or(0, |reasons| reasons.len()) == pins.len() {
            return new;
        }
        self.forget_shown();
        if pins.is_empty() {
            self.since = None;
            return new;
        }
        self.since.get_or_insert_with(clock::now);
        let reasons: Vec<_> = pins.iter().map(|pin| pin.reason).collect();
        {
            let mut pinned = shared.pinned.lock();
            reasons.iter().for_each(|reason| pinned.entry(reason.as_str()).or_default().now += 1);
            new.iter().for_each(|pin| pinned.entry(pin.reason.as_str()).or_default().total += 1);
        }
        self.shown = Some((Arc::clone(shared), reasons));
        new
    }

    fn forget_shown(&mut self) {
        if let Some((shared, reasons)) = self.shown.take() {
            let mut pinned = shared.pinned.lock();
            for reason in reasons {
                let count = pinned.entry(reason.as_str()).or_default();
                count.now = count.now.saturating_sub(1);
            }
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.forget_shown();
        if let Some(pool) = self.seat.take() {
            pool.kept.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Client {
    /// Refuses the segment, which is about to be sent, if it leaves state on the server that it may not leave there.
    pub(super) fn minds_state(&mut self, link: &mut Link) {
        let pinning = &self.database.config.pinning;
        let (most, refuses) = (pinning.max_pinned_connections, pinning.on_session_state == OnSessionState::Error);
        if self.pools.mode == PoolMode::Session || (most == 0 && !refuses) {
            return;
        }
        let replica = link.role() == crate::config::Role::Replica;
        let Some(reason) = self.would_pin(link.shard(), replica) else { return };
        let error = if refuses {
            not_here(reason)
        } else if link.take_seat(most) {
            return;
        } else {
            too_many(reason, most)
        };
        self.cx.shared.count_refusal("session_state");
        self.replace_by_refusal(error);
    }

    /// Why the server would be kept after the segment, as far as it is known before it is run.
    pub(super) fn would_pin(&self, shard: ShardIndex, replica: bool) -> Option<PinReason> {
        self.segment.items.iter().find_map(|(intake, _)| {
            let (facts, own_types) = match intake {
                Intake::Query(facts) => (facts, false),
                Intake::Bind { statement: Some(statement), .. } => (&statement.facts, statement.has_foreign_types()),
                _ => return None,
            };
            self.session.would_pin(facts).or_else(|| self.hidden_pin(facts, own_types, shard, replica))
        })
    }

    /// Counts and tells what the server is kept for now.
    pub(super) fn note_pins(&self, link: &mut Link) {
        if self.pools.mode == PoolMode::Session {
            return;
        }
        let held = link.held_for().map(|facts| Pin::for_sequences(facts.cloned()));
        let with_held: Vec<Pin>;
        let pins = match held {
            Some(held) => {
                with_held = self.session.pins().iter().cloned().chain([held]).collect();
                &with_held
            }
            None => self.session.pins(),
        };
        let new = link.kept.follow(&self.cx.shared, pins);
        if new.is_empty() {
            return;
        }
        // What showed only when it had happened may be one too many: it is there. What is only held goes when others need it.
        if new.iter().any(|pin| pin.reason != PinReason::SequenceState) {
            link.take_seat(u32::MAX);
        }
        for pin in new {
            let bit = 1 << (pin.reason as u32);
            if self.database.pins_told.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
                self.tell_first(pin);
            }
        }
    }

    /// The first of its kind in a database: whoever runs it may want to know, once.
    fn tell_first(&self, pin: &Pin) {
        let statement = self.pinning_text(pin).unwrap_or_default();
        // The log is read by more than may see what values there are.
        let kind = || pin.facts.iter().flat_map(|facts| &facts.statements).map(|s| s.why).next().unwrap_or_default();
        let quotes = |text: &str| {
            let dollar = |pair: &[u8]| matches!(pair, [b'$', next] if !next.is_ascii_digit());
            text.contains('\'') || text.as_bytes().windows(2).any(dollar)
        };
        let statement = if quotes(&statement) { kind() } else { &statement };
        let handle = self.handle();
        tracing::info!(
            client = %handle.id, database = %handle.database, user = %handle.user, reason = pin.reason.as_str(), statement,
            "a session keeps its server connection for its state, the first here for this reason; what avoids it: {}",
            instead_of(pin.reason)
        );
    }
}

/// What a client can do to need no server of its own.
fn instead_of(reason: PinReason) -> &'static str {
    match reason {
        PinReason::TempObject => {
            "CREATE TEMP TABLE ... ON COMMIT DROP within a transaction, or an ordinary table; DROP it when it is not needed any more"
        }
        PinReason::HoldCursor => {
            "a cursor without WITH HOLD, within a transaction; CLOSE it when it is not needed any more"
        }
        PinReason::AdvisoryLock => "pg_advisory_xact_lock(), which goes with its transaction",
        PinReason::Listen => "LISTEN under client_encoding UTF8 on a database that is not sharded",
        PinReason::Load => "session_preload_libraries on the server",
        PinReason::SqlPrepare => {
            "statements that are prepared by the protocol, as drivers do it, in the place of SQL's PREPARE"
        }
        PinReason::Identity => "to set it as the user who has logged in",
        PinReason::Setting => "SET, or set_config() of a name that stands in the text",
        PinReason::SequenceState => "INSERT ... RETURNING, or the value that nextval() gave",
        PinReason::Seed => "setseed() only where sessions are kept (pool_mode = \"session\")",
        PinReason::Handle => {
            "a connection of dblink's, a temporary slot or a backup only where sessions are kept (pool_mode = \"session\")"
        }
    }
}

/// What leaves such a state behind.
fn what(reason: PinReason) -> &'static str {
    match reason {
        PinReason::TempObject => "a temporary object",
        PinReason::HoldCursor => "a cursor WITH HOLD",
        PinReason::AdvisoryLock => "an advisory lock of the session",
        PinReason::Listen => "LISTEN",
        PinReason::Load => "LOAD",
        PinReason::SqlPrepare => "a statement prepared by SQL",
        PinReason::Identity => "a setting made in another role",
        PinReason::Setting => "a setting that cannot be followed",
        PinReason::SequenceState => "a question about the sequences of the session",
        PinReason::Seed => "a seed for random()",
        PinReason::Handle => "a connection, slot or backup of the session",
    }
}

fn not_here(reason: PinReason) -> Error {
    let message = format!("{} would have to stay on one server, and sessions may keep none here", what(reason));
    Error::us(SqlState::FEATURE_NOT_SUPPORTED, message)
        .detail(format!(
            "on_session_state is \"error\", and this is state that only its server has ({}).",
            reason.as_str()
        ))
        .hint(format!("Better: {}.", instead_of(reason)))
}

fn too_many(reason: PinReason, most: u32) -> Error {
    let message = format!("{} needs a server of the session's own, and as many are kept as may be", what(reason));
    Error::us(SqlState::TOO_MANY_CONNECTIONS, message)
        .detail(format!(
            "max_pinned_connections is {most}; SHOW PINS on the console tells which sessions keep one, and why."
        ))
        .hint(format!("Try again later, or raise max_pinned_connections. Better: {}.", instead_of(reason)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_words() {
        for reason in PinReason::ALL {
            let error = not_here(reason);
            assert!(error.message.starts_with(what(reason)) && error.hint.unwrap().contains(instead_of(reason)));
        }
        let texts: std::collections::BTreeSet<_> = PinReason::ALL.iter().map(|reason| what(*reason)).collect();
        assert_eq!(texts.len(), PinReason::ALL.len());
    }
}

//! The end of pins: the state for which a session keeps its server may be gone before the session is.
//!
//! After statements that may end such state (unlocking, DROP, CLOSE, DEALLOCATE, DISCARD, a rollback, a failure) the server is asked for it,
//! unseen, as soon as nothing is open or under way; and behind what may not have made it: a lock that was tried, code that is presumed to
//! leave something. What runs unseen may end it as well: so it is asked for behind later transactions too, ever more seldom. Whoever so
//! gives a server back has it reset, once: state that was not asked for may hang on what is gone.
//!
//! What code is presumed to have set nobody can be asked for, but an error or a rollback undoes it. Which messages these undo is known from
//! one moment to the next at which nothing is under way ([`Watch`]).

use std::sync::Arc;

use super::number::Number;
use super::settings::commits_before;
use super::{Keep, Pin, Session};
use crate::sql::facts::{Access, PinReason, QueryFacts, SessionEffect, StatementFacts, TransactionEffect};
use crate::sql::hidden::is_plain_text;
use crate::wire::message::TransactionStatus;

/// After so many transactions it is asked for the first time,
const PATIENCE: u8 = 2;
/// and after so many at most again.
const MOST_PATIENCE: u8 = 64;

/// How often pins are asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Transactions since the server was asked, and how many it takes until it is asked again.
    quiet: u8,
    most: u8,
}

impl Default for Patience {
    fn default() -> Self {
        Self { quiet: 0, most: PATIENCE }
    }
}

/// What is known of what the transaction undoes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watch {
    /// The number of the transaction's first message; none: part of it may have been committed.
    transaction: Number,
    /// The number of the first message that an error undoes; none: there may be a savepoint in between.
    part: Number,
    /// From which message on an error has undone what is sent up to the next moment of rest.
    undoing: Number,
    /// What these messages did was undone, the first and the last of them; nothing where the last is before the first.
    undone: (u64, u64),
}

impl Watch {
    /// Of a session that rests after so many messages.
    pub(super) fn from(sent: u64) -> Self {
        let here = Number::of(sent);
        Self { transaction: here, part: here, undoing: Number::NONE, undone: (1, 0) }
    }
}

/// What is asked of a server; true if the state is there. Outside of a transaction the locks that are held are the session's.
fn question(reason: PinReason) -> Option<&'static str> {
    Some(match reason {
        // All that is in a schema depends on it: <https://www.postgresql.org/docs/current/catalog-pg-depend.html>.
        PinReason::TempObject => {
            "SELECT FROM pg_catalog.pg_depend WHERE refclassid OPERATOR(pg_catalog.=) 2615 \
             AND refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()"
        }
        PinReason::HoldCursor => "SELECT FROM pg_catalog.pg_cursors WHERE is_holdable",
        PinReason::AdvisoryLock => {
            "SELECT FROM pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory' \
             AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()"
        }
        PinReason::SqlPrepare => "SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql",
        PinReason::Listen => "SELECT FROM pg_catalog.pg_listening_channels()",
        PinReason::Load
        | PinReason::Identity
        | PinReason::Setting
        | PinReason::SequenceState
        | PinReason::Seed
        | PinReason::Handle => return None,
    })
}

/// Whether it may commit what was done before it, or part of what it does.
fn may_commit(statement: &StatementFacts) -> bool {
    matches!(statement.why, "CALL" | "DO") || commits_before(statement)
}

impl Session {
    /// What a session keeps its server for may be gone.
    pub(super) fn ask_pins(&mut self) {
        self.asks_pins |= self.keep == Keep::Transaction && !self.pins.is_empty();
    }

    /// Whether the server is to be asked as soon as nothing is under way.
    #[must_use]
    pub fn asks_pins(&self) -> bool {
        self.asks_pins
    }

    /// The reasons to ask for, and the text that asks; none where an answer would not set the server free.
    pub(super) fn question_of_pins(&mut self) -> Option<(Vec<PinReason>, String)> {
        if !std::mem::take(&mut self.asks_pins) {
            return None;
        }
        let reasons: Vec<_> = self.pins.iter().map(|pin| pin.reason).collect();
        let questions: Vec<_> = reasons.iter().copied().map(question).collect::<Option<_>>()?;
        let columns: Vec<_> = questions.iter().map(|question| format!("EXISTS ({question})")).collect();
        (!reasons.is_empty()).then(|| (reasons, format!("SELECT {}", columns.join(", "))))
    }

    /// Why the session would keep its server after this, as far as the text shows: the first reason.
    #[must_use]
    pub fn would_pin(&self, facts: &QueryFacts) -> Option<PinReason> {
        if self.keep == Keep::Session {
            return None;
        }
        let of = |facts: &QueryFacts| {
            // Others come to listen in its name.
            let heard = !facts.steps.is_empty();
            let of_effects = facts.statements.iter().flat_map(|s| &s.effects).find_map(|effect| match effect {
                SessionEffect::Pin(PinReason::Listen) if heard => None,
                SessionEffect::Pin(PinReason::SequenceState) => None,
                SessionEffect::Pin(reason) => Some(*reason),
                _ => None,
            });
            let temp = self.temp_in_path || self.settings.begins_with_temp();
            let makes = |s: &StatementFacts| s.makes_object() && (temp || s.temp_in_path);
            of_effects.or_else(|| facts.statements.iter().any(makes).then_some(PinReason::TempObject))
        };
        of(facts).or_else(|| self.runs(facts).find_map(|executed| of(executed)))
    }

    /// Whether what runs unseen may make temporary objects without saying so.
    #[must_use]
    pub fn may_make_temp_unseen(&self) -> bool {
        self.temp_in_path || self.settings.names_temp()
    }

    /// Whether code that a text runs may have made temporary objects without saying so: what it calls, and triggers; where their schema comes
    /// first, also what views and the like call.
    pub(super) fn may_have_made_temp(&self, facts: &QueryFacts) -> bool {
        let writes = |s: &StatementFacts| s.access == Access::Write && !s.shape.tables().is_empty();
        let runs = |s: &StatementFacts| !s.functions.is_empty() || s.block.is_some() || writes(s);
        let first = || self.temp_in_path || self.settings.begins_with_temp();
        (self.may_make_temp_unseen() && facts.statements.iter().any(runs)) || (first() && !is_plain_text(facts))
    }

    /// It may have: the server says as soon as it can be asked.
    pub(super) fn presume_temp(&mut self, facts: &Arc<QueryFacts>) {
        self.pin_by(self.answered.get().unwrap_or(self.sent), PinReason::TempObject, Some(facts), true);
        self.ask_pins();
    }

    /// The session keeps its server from now on.
    pub fn pin(&mut self, reason: PinReason, facts: Option<&Arc<QueryFacts>>) {
        self.pin_by(self.answered.get().unwrap_or(self.sent), reason, facts, false);
    }

    /// The same for one of the `messages` that are about to be sent, as far as is known of the code that it runs.
    pub fn pin_ahead(&mut self, messages: usize, reason: PinReason, facts: Option<&Arc<QueryFacts>>) {
        self.pin_by(self.number_ahead(messages), reason, facts, true);
    }

    /// The number that [`Session::pin_ahead`] gives.
    #[must_use]
    pub fn number_ahead(&self, messages: usize) -> u64 {
        self.sent.saturating_add(messages.saturating_sub(1) as u64)
    }

    /// The same as [`Session::pin_ahead`] for what has been answered already; `number`: what that would have been ahead, or the largest if
    /// there are several.
    pub fn pin_behind(&mut self, number: u64, reason: PinReason, facts: Option<&Arc<QueryFacts>>) {
        let (undone, last_undone) = self.watch.undone;
        let is_undone = undone <= number && number <= last_undone;
        if reason == PinReason::Setting && is_undone {
            return;
        }
        let last = self.sent.saturating_sub(1);
        // A savepoint may have been made since. Of several nobody knows which was the first.
        let first = if number == u64::MAX { 0 } else { number.min(last) };
        self.pin_from((first, last), reason, facts, true);
        self.ask_pins();
    }

    pub(super) fn pin_by(&mut self, number: u64, reason: PinReason, facts: Option<&Arc<QueryFacts>>, presumed: bool) {
        self.pin_from((number, number), reason, facts, presumed);
    }

    fn pin_from(
        &mut self,
        (first, number): (u64, u64),
        reason: PinReason,
        facts: Option<&Arc<QueryFacts>>,
        presumed: bool,
    ) {
        self.spoils |= reason.outlives_discard();
        self.patience = Patience::default();
        match self.pins.iter_mut().find(|pin| pin.reason == reason) {
            Some(pin) => {
                pin.number = pin.number.max(number);
                pin.first = pin.first.min(first);
                pin.presumed &= presumed;
                pin.unasked |= presumed;
            }
            None => {
                let facts = facts.cloned();
                self.pins.push(Pin { reason, facts, number, first, presumed, unasked: presumed });
            }
        }
    }

    /// ReadyForQuery, and there are pins: what may be over is asked for.
    pub(super) fn look_at_pins(&mut self) {
        if self.status != TransactionStatus::Idle {
            return;
        }
        let sent = self.sent;
        let patience = &mut self.patience;
        patience.quiet = patience.quiet.saturating_add(1);
        let mut asks = patience.quiet >= patience.most;
        if asks {
            patience.quiet = 0;
            patience.most = patience.most.saturating_mul(2).min(MOST_PATIENCE);
        }
        for pin in self.pins.iter_mut().filter(|pin| pin.number < sent) {
            asks |= std::mem::take(&mut pin.unasked);
        }
        if asks {
            self.ask_pins();
        }
    }

    /// ReadyForQuery: from here on it may be known again what an end of the transaction undoes.
    pub(super) fn rest_pins(&mut self) {
        let here = self.pipeline.is_empty().then_some(self.sent);
        if let Some(first) = self.watch.undoing.take()
            && let Some(here) = here
        {
            self.watch.undone = (first, here.saturating_sub(1));
        }
        let here = here.map_or(Number::NONE, Number::of);
        match self.status {
            TransactionStatus::Idle => (self.watch.transaction, self.watch.part) = (here, here),
            TransactionStatus::InTransaction if self.watch.part == Number::NONE => self.watch.part = here,
            TransactionStatus::InTransaction | TransactionStatus::Failed => {}
        }
    }

    /// An error: what it undoes keeps no server.
    pub(super) fn pins_undone(&mut self) {
        let may_have_committed = |statement: &StatementFacts| may_commit(statement) || statement.why == "EXECUTE";
        let facts = self.pipeline.first_facts();
        if self.status == TransactionStatus::Idle
            && facts.is_some_and(|f| f.unparsed.is_some() || f.statements.iter().any(may_have_committed))
        {
            self.watch.part = Number::NONE;
        }
        self.watch.undoing = self.watch.part;
        if let Some(first) = self.watch.part.get() {
            self.undo_presumed(first, self.pipeline.end_of_failing(self.sent));
        }
    }

    /// A statement has completed: a rollback undoes what the transaction has set unseen, and whatever else begins or ends a part of one makes
    /// it uncertain what the next error undoes. `alone`: outside of a block; `last`: the last one of its text.
    pub(super) fn part_pins(&mut self, statement: &StatementFacts, tag: &[u8], (alone, last): (bool, bool)) {
        let may_commit = alone && may_commit(statement);
        if statement.transaction == TransactionEffect::None && !may_commit {
            return;
        }
        self.watch.part = Number::NONE;
        let ends = match statement.transaction {
            TransactionEffect::Commit { .. }
            | TransactionEffect::Rollback { .. }
            | TransactionEffect::PrepareTransaction => true,
            _ => may_commit,
        };
        // What stands behind it in its text is not undone.
        if ends
            && let Some(first) = self.watch.transaction.take().filter(|_| tag.starts_with(b"ROLLBACK"))
            && let Some(end) = self.answered.get().filter(|_| last)
        {
            self.undo_presumed(first, end);
            self.watch.undone = (first, end);
        }
    }

    /// What these messages did is undone, the first and the last of them; what was sent behind them is not. Of settings only what is presumed,
    /// for what is seen follows the transaction by itself.
    fn undo_presumed(&mut self, first: u64, last: u64) {
        let pins = self.pins.len();
        let stays = |pin: &Pin| pin.first < first || pin.number > last;
        self.pins.retain(|pin| pin.reason != PinReason::Setting || !pin.presumed || stays(pin));
        self.was_pinned |= self.pins.len() < pins;
    }

    /// State of this kind that was made by messages before that number is gone.
    pub(super) fn unpin(&mut self, reason: PinReason, before: u64) {
        let pins = self.pins.len();
        self.pins.retain(|pin| pin.reason != reason || pin.number >= before);
        self.was_pinned |= self.pins.len() < pins;
    }

    /// Whether the server is to be reset, because it was kept for state that is gone now, or has run what nobody knows.
    #[must_use]
    pub fn was_pinned(&self) -> bool {
        self.was_pinned
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::pipeline::{Kind, Request};
    use crate::session::settings::ClientSettings;

    #[test]
    fn a_question_is_asked_once_and_only_where_its_answer_may_help() {
        let mut session = Session::new(Keep::Transaction, true, ClientSettings::default());
        session.ask_pins();
        assert_eq!(session.question_of_pins(), None, "nothing is pinned");
        session.pin(PinReason::AdvisoryLock, None);
        session.pin(PinReason::TempObject, None);
        assert_eq!(session.question_of_pins(), None, "nothing has happened");
        session.ask_pins();
        let (reasons, sql) = session.question_of_pins().unwrap();
        assert_eq!(reasons, [PinReason::AdvisoryLock, PinReason::TempObject]);
        assert!(
            sql.starts_with("SELECT EXISTS (SELECT FROM pg_catalog.pg_locks") && sql.matches("EXISTS").count() == 2
        );
        assert_eq!(session.question_of_pins(), None);
        // What was sent since then is not what was asked for.
        session.unpin(PinReason::AdvisoryLock, 0);
        assert!(session.is_pinned_by(PinReason::AdvisoryLock));
        session.unpin(PinReason::AdvisoryLock, 1);
        assert!(!session.is_pinned_by(PinReason::AdvisoryLock) && session.was_pinned());
        session.pin(PinReason::Seed, None);
        session.ask_pins();
        assert_eq!(session.question_of_pins(), None, "that stays to the end");
    }

    /// The session has sent so many messages and rests.
    fn rests(session: &mut Session, sent: u64, status: TransactionStatus) {
        (session.sent, session.status) = (sent, status);
        session.look_at_pins();
        session.rest_pins();
    }

    #[test]
    fn what_is_presumed_to_be_set_goes_with_what_undoes_it() {
        let of = |sql: &str| crate::sql::parse::facts(sql.as_bytes());
        let fresh = || {
            let mut session = Session::new(Keep::Transaction, true, ClientSettings::default());
            rests(&mut session, 5, TransactionStatus::Idle);
            session
        };
        let fails = |session: &mut Session| {
            session.sent += 1;
            session.pins_undone();
        };
        let mut session = fresh();
        session.pin_ahead(1, PinReason::Setting, None);
        fails(&mut session);
        assert!(!session.is_pinned_by(PinReason::Setting) && session.was_pinned());
        // Committed before.
        let mut session = fresh();
        session.pin_ahead(1, PinReason::Setting, None);
        rests(&mut session, 6, TransactionStatus::Idle);
        session.pin_ahead(1, PinReason::Setting, None);
        fails(&mut session);
        assert!(session.is_pinned_by(PinReason::Setting));
        // Before a savepoint, and then with the whole transaction.
        let mut session = fresh();
        session.part_pins(&of("BEGIN").statements[0], b"BEGIN", (false, true));
        rests(&mut session, 6, TransactionStatus::InTransaction);
        session.pin_ahead(1, PinReason::Setting, None);
        rests(&mut session, 7, TransactionStatus::InTransaction);
        session.part_pins(&of("SAVEPOINT s").statements[0], b"SAVEPOINT", (false, true));
        fails(&mut session);
        assert!(session.is_pinned_by(PinReason::Setting));
        rests(&mut session, 8, TransactionStatus::InTransaction);
        fails(&mut session);
        assert!(session.is_pinned_by(PinReason::Setting));
        session.answered = Number::of(9);
        session.part_pins(&of("ROLLBACK").statements[0], b"ROLLBACK", (false, true));
        assert!(!session.is_pinned_by(PinReason::Setting));
        // The same for what is known only now.
        let mut session = fresh();
        let number = session.number_ahead(1);
        session.pins_undone();
        rests(&mut session, 6, TransactionStatus::Idle);
        session.pin_behind(number, PinReason::Setting, None);
        assert!(!session.is_pinned_by(PinReason::Setting));
        session.pin_behind(session.number_ahead(1), PinReason::Setting, None);
        assert!(session.is_pinned_by(PinReason::Setting));
        // What is plainly seen is followed otherwise, and locks stay.
        let mut session = fresh();
        session.pin_ahead(1, PinReason::AdvisoryLock, None);
        session.pin_ahead(1, PinReason::Setting, None);
        session.pin(PinReason::Setting, None);
        fails(&mut session);
        assert_eq!(session.pins().len(), 2);
    }

    #[test]
    fn what_was_sent_behind_it_an_end_does_not_undo() {
        let of = |sql: &str| crate::sql::parse::facts(sql.as_bytes());
        let at = |status| {
            let mut session = Session::new(Keep::Transaction, true, ClientSettings::default());
            rests(&mut session, 5, TransactionStatus::Idle);
            if status == TransactionStatus::InTransaction {
                session.part_pins(&of("BEGIN").statements[0], b"BEGIN", (false, true));
                rests(&mut session, 6, status);
            }
            session
        };
        // Two texts at once, of which the first fails.
        let mut session = at(TransactionStatus::Idle);
        let mut failing = Request::forward(Kind::Query { facts: Arc::default(), done: 0 });
        failing.number = 5;
        session.pipeline.push(failing);
        session.sent = 6;
        session.pin_ahead(1, PinReason::Setting, None);
        session.sent = 7;
        session.pins_undone();
        assert!(session.is_pinned_by(PinReason::Setting));
        // Behind ROLLBACK in its text, and in its pipeline; then before it.
        for (only, answered, stays) in [(false, 6, true), (true, 5, true), (true, 6, false)] {
            let mut session = at(TransactionStatus::InTransaction);
            session.pin_ahead(1, PinReason::Setting, None);
            (session.sent, session.answered) = (7, Number::of(answered));
            session.part_pins(&of("ROLLBACK").statements[0], b"ROLLBACK", (false, only));
            assert_eq!(session.is_pinned_by(PinReason::Setting), stays, "{only} {answered}");
        }
        // Learned only behind a savepoint that came after it.
        let mut session = at(TransactionStatus::InTransaction);
        let number = session.number_ahead(1);
        rests(&mut session, 7, TransactionStatus::InTransaction);
        session.part_pins(&of("SAVEPOINT s").statements[0], b"SAVEPOINT", (false, true));
        rests(&mut session, 8, TransactionStatus::InTransaction);
        session.sent = 9;
        session.pin_behind(number, PinReason::Setting, None);
        session.pins_undone();
        assert!(session.is_pinned_by(PinReason::Setting));
    }

    #[test]
    fn what_stays_is_asked_for_ever_more_seldom() {
        let mut session = Session::new(Keep::Transaction, true, ClientSettings::default());
        session.pin(PinReason::AdvisoryLock, None);
        let mut asked = Vec::new();
        for sent in 1..300 {
            rests(&mut session, sent, TransactionStatus::Idle);
            if session.question_of_pins().is_some() {
                asked.push(sent);
            }
        }
        assert_eq!(asked, [2, 6, 14, 30, 62, 126, 190, 254]);
    }
}

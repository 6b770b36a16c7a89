//! The end of pins: the state for which a session keeps its server may be gone before the session is.
//!
//! After statements that may end such state (unlocking, DROP, CLOSE, DEALLOCATE, DISCARD, a rollback, a failure) the server is asked for it,
//! unseen, as soon as nothing is open or under way. Whoever so gives a server back has it reset, once: state that was not asked for may
//! hang on what is gone.

use super::{Keep, Session};
use crate::sql::facts::{PinReason, QueryFacts, SessionEffect, StatementFacts};

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
        PinReason::Listen
        | PinReason::Load
        | PinReason::Identity
        | PinReason::Setting
        | PinReason::SequenceState
        | PinReason::Seed
        | PinReason::Handle => return None,
    })
}

impl Session {
    /// What a session keeps its server for may be gone.
    pub(super) fn ask_pins(&mut self) {
        self.asks_pins |= self.keep == Keep::Transaction && !self.pins.is_empty();
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
                SessionEffect::Pin(reason) => Some(*reason),
                _ => None,
            });
            let temp = self.temp_in_path || self.settings.names_temp();
            let makes = |s: &StatementFacts| s.makes_object() && (temp || s.temp_in_path);
            of_effects.or_else(|| facts.statements.iter().any(makes).then_some(PinReason::TempObject))
        };
        of(facts).or_else(|| self.executed(facts).find_map(|statement| of(&statement.facts)))
    }

    /// State of this kind that was made by messages before that number is gone.
    pub(super) fn unpin(&mut self, reason: PinReason, before: u64) {
        let pins = self.pins.len();
        self.pins.retain(|pin| pin.reason != reason || pin.number >= before);
        self.was_pinned |= self.pins.len() < pins;
    }

    /// Whether the server is to be reset, because it was kept for state that is gone now.
    #[must_use]
    pub fn was_pinned(&self) -> bool {
        self.was_pinned
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
}

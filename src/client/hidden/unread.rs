//! Code that nobody can read, which may ask for values of sequences: see [`crate::client::sequences`].
//!
//! Before such code runs, the server forgets what others did to sequences there, so that PostgreSQL itself says what there is to tell. As the
//! session's own values there go with it, that is done before it takes some where such code may follow: once such code has been called, ahead of
//! each block, and of what keeps the server.

use std::sync::atomic::Ordering;

use super::{Hidden, Judged, is_large_object};
use crate::client::task::Client;
use crate::clock;
use crate::id::ShardIndex;
use crate::session::Intake;
use crate::sql::facts::{QueryFacts, TransactionEffect};
use crate::sql::hidden;

impl Hidden {
    /// Whether clients call code that nobody can read, as far as that has shown.
    pub(in crate::client) fn runs_unread(&self) -> bool {
        self.changes.unread.load(Ordering::Acquire)
    }

    fn note_unread(&self) {
        self.changes.unread.store(true, Ordering::Release);
    }
}

impl Client {
    /// Whether the segment runs code on the shard's primary that may ask for values of sequences for all that is known. `judged`: of what was
    /// sent before it.
    pub(in crate::client) fn segment_runs_unread(&self, shard: ShardIndex, judged: Option<&Judged>) -> bool {
        let mut at = 0_usize;
        self.segment.items.iter().any(|(intake, len)| {
            let frame = self.input.bytes().get(at..at.saturating_add(*len)).unwrap_or_default();
            at = at.saturating_add(*len);
            let (facts, own_types) = match intake {
                Intake::Query(facts) => (facts, false),
                Intake::Bind { statement: Some(statement), .. } => (&statement.facts, statement.has_foreign_types()),
                Intake::Bind { statement: None, named: Some(name), .. } => {
                    return self.session.may_stand_for(name).any(|facts| self.is_unread(facts, false, shard, judged));
                }
                Intake::FunctionCall => return !is_large_object(frame),
                _ => return false,
            };
            let mut executed = self.session.runs(facts);
            self.is_unread(facts, own_types, shard, judged)
                || executed.any(|facts| self.is_unread(facts, false, shard, judged))
        })
    }

    fn is_unread(&self, facts: &QueryFacts, own_types: bool, shard: ShardIndex, judged: Option<&Judged>) -> bool {
        let hidden = &self.database.hidden;
        if hidden::is_unread(facts) {
            hidden.note_unread();
            return true;
        }
        if hidden::is_plain_text(facts) && !own_types {
            return false;
        }
        // Of code that the transaction has made, or the text itself, no census tells.
        let makes = facts.statements.len() > 1 && (facts.changes_code() || facts.makes_own_code());
        if makes || judged.is_some_and(|judged| judged.changes || judged.own_code) {
            return true;
        }
        let (begun, now) = (hidden.changes.begun.load(Ordering::Acquire), clock::now());
        let known = hidden.shards.get(usize::from(shard.0)).and_then(|shard| shard.known.load_full());
        let Some(known) = known.filter(|known| known.counts(begun, now)) else { return true };
        if known.census.runs_unread(facts) || (own_types && known.census.of_types().is_unknown()) {
            hidden.note_unread();
            return true;
        }
        known.of_text(facts, own_types, false, now).asks_sequences()
    }

    /// Whether a server that tells others' values is made to forget them for the sake of the segment, which is the first that is sent there.
    pub(in crate::client) fn forgets_ahead(&self, shard: ShardIndex) -> bool {
        let begins = || {
            let mut texts = self.segment.items.iter().filter_map(|(intake, _)| intake.facts());
            let begins = |effect: &TransactionEffect| matches!(effect, TransactionEffect::Begin { .. });
            self.held_begin.is_some()
                || self.spread.is_some()
                || self.segment.whole(self.input.bytes()).is_continued()
                || texts.any(|facts| facts.statements.iter().any(|statement| begins(&statement.transaction)))
        };
        let stays = || begins() || self.would_pin(shard, false).is_some();
        self.segment_runs_unread(shard, None) || (self.database.hidden.runs_unread() && stays())
    }
}

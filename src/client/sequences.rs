//! currval() and lastval() in another transaction than the nextval(): where a client's values are, and behind which statements of a database
//! such a question is to be expected.
//!
//! Whose values a server tells is followed by [`crate::session::sequences`]. A client whose values are on a server asks there and nowhere else,
//! as long as nobody has taken values there since. So that nobody does, a client keeps its server behind a statement that such a question may
//! follow (`relay/hold.rs`). Which those are is learned for each database: none before the first question; then all that may take a value,
//! until so many of their kind have been followed by none ([`QUIET`]).

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHasher};

use crate::client::task::Client;
use crate::config::{OnSessionState, PoolMode, SequenceValues};
use crate::error::{Error, SqlState};
use crate::pool::Pool;
use crate::pool::ledger::SlotId;
use crate::session::sequences::{Past, Told};
use crate::sql::facts::QueryFacts;

/// After so many statements of a kind, one after the other, that no question has followed, none is expected behind it.
const QUIET: u8 = 16;
/// Of so many kinds of statements of a database is that known; then all are expected to be asked about once more.
const KINDS: usize = 4096;

/// The reason of an error that says that values cannot be told.
pub(super) const LOST: &str = "sequence_values";

/// Statements that do the same to the same tables, as a number.
pub(super) type Kind = u64;

/// What is known of the questions of a database.
#[derive(Debug, Default)]
pub(super) struct Questions {
    /// Somebody has asked in another transaction.
    asked: AtomicBool,
    /// How many statements of a kind no question has followed since the last that one did.
    quiet: Mutex<FxHashMap<Kind, u8>>,
}

impl Questions {
    /// Whether there are any.
    pub(super) fn are_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    /// Whether one is to be expected behind a statement of this kind.
    pub(super) fn may_follow(&self, kind: Kind) -> bool {
        self.are_asked() && self.quiet.lock().get(&kind).is_none_or(|quiet| *quiet < QUIET)
    }

    /// One was asked, and the client's last statement that may have taken a value was of this kind.
    pub(super) fn followed(&self, kind: Option<Kind>) {
        if !self.are_asked() {
            self.asked.store(true, Ordering::Release);
        }
        if let Some(kind) = kind {
            self.quiet.lock().remove(&kind);
        }
    }

    /// None has followed a statement of this kind.
    pub(super) fn did_not_follow(&self, kind: Kind) {
        let mut quiet = self.quiet.lock();
        if quiet.len() >= KINDS && !quiet.contains_key(&kind) {
            quiet.clear();
        }
        let count = quiet.entry(kind).or_default();
        *count = count.saturating_add(1).min(QUIET);
    }
}

/// The kind of a text.
pub(super) fn kind(facts: &QueryFacts) -> Kind {
    let mut hasher = FxHasher::default();
    for statement in &facts.statements {
        statement.why.hash(&mut hasher);
        statement.shape.tables().iter().for_each(|table| table.name.hash(&mut hasher));
        statement.functions.iter().for_each(|function| function.name.hash(&mut hasher));
    }
    hasher.finish()
}

/// The kind of a call by the fast path: the function's number.
pub(super) fn function_kind(frame: &[u8]) -> Kind {
    let mut hasher = FxHasher::default();
    frame.get(5..9).hash(&mut hasher);
    hasher.finish()
}

/// Where a client's values are. A word for who has never taken one.
#[derive(Debug, Default)]
pub(super) struct Values(Option<Box<Places>>);

#[derive(Debug, Default)]
struct Places {
    past: Past,
    /// How often it has come to stay somewhere.
    stays: u32,
    /// Where it stays: the pool, by its address, and the connection. Whether that is still so, the connection tells.
    place: Option<(usize, SlotId)>,
    /// The kind of its last statement that may have taken one, where that matters.
    last: Option<Kind>,
}

impl Values {
    fn places(&mut self) -> &mut Places {
        self.0.get_or_insert_default()
    }

    /// Where they are.
    pub(super) fn past(&self) -> Past {
        self.0.as_ref().map_or(Past::None, |places| places.past)
    }

    /// Their connection, if it is one of this pool.
    pub(super) fn place_in(&self, pool: &Arc<Pool>) -> Option<SlotId> {
        let here = |(of, slot): (usize, SlotId)| (of == address(pool)).then_some(slot);
        let places = self.0.as_ref().filter(|places| matches!(places.past, Past::At(_)))?;
        places.place.and_then(here)
    }

    /// Whether they are on the server that tells these, all of them.
    pub(super) fn are_told(&self, told: Told) -> bool {
        matches!(told, Told::Of(stay) if self.past() == Past::At(stay))
    }

    /// The client, of that number, has perhaps taken some on this connection.
    pub(super) fn take(&mut self, told: &mut Told, client: u64, pool: &Arc<Pool>, slot: SlotId) {
        let Places { past, stays, place, .. } = self.places();
        if past.takes(told, client, stays) {
            *place = Some((address(pool), slot));
        }
    }

    /// The kind of a statement that may take some, and is the last of these.
    pub(super) fn note(&mut self, kind: Kind) {
        self.places().last = Some(kind);
    }

    /// It has none any more.
    pub(super) fn forget(&mut self) {
        if let Some(places) = &mut self.0 {
            places.past = Past::None;
        }
    }

    /// The server where it has perhaps taken some is lost.
    pub(super) fn lose(&mut self) {
        self.places().past = Past::Scattered;
    }

    /// It has perhaps taken some where they are not followed.
    pub(super) fn scatter(&mut self, told: &mut Told) {
        (self.places().past, *told) = (Past::Scattered, Told::Several);
    }
}

fn address(pool: &Arc<Pool>) -> usize {
    Arc::as_ptr(pool).addr()
}

impl Client {
    /// Whether a question may be asked of a server where the client has taken no values: of its own, or of one that knows none.
    pub(super) fn knows_its_values(&self) -> bool {
        self.follows_values() && self.values.past() != Past::Scattered
    }

    fn follows_values(&self) -> bool {
        self.pools.mode != PoolMode::Session && !self.database.config.map.is_sharded()
    }

    /// Whether servers are kept at all for the sake of questions.
    pub(super) fn expects_questions(&self) -> bool {
        let pinning = &self.database.config.pinning;
        let kept = match pinning.sequence_values {
            SequenceValues::Learn => self.database.hidden.questions().are_asked(),
            SequenceValues::Keep => true,
            SequenceValues::Release => false,
        };
        kept && self.follows_values() && pinning.on_session_state == OnSessionState::Pin
    }

    /// Whether a question is to be expected behind a statement of this kind that may take a value.
    pub(super) fn expects_question_behind(&self, kind: Kind) -> bool {
        self.expects_questions()
            && (self.database.config.pinning.sequence_values == SequenceValues::Keep
                || self.database.hidden.questions().may_follow(kind))
    }

    /// The client asks in another transaction than the one in which it took its last value.
    pub(super) fn learns_question(&self) {
        self.database.hidden.questions().followed(self.values.0.as_ref().and_then(|places| places.last));
    }

    /// What a client has perhaps taken on a connection is its own, as long as nobody else does.
    pub(super) fn takes_values(&mut self, told: &mut Told, pool: &Arc<Pool>, slot: SlotId) {
        if self.follows_values() {
            let client = self.handle().id.0;
            self.values.take(told, client, pool, slot);
        } else {
            self.values.scatter(told);
        }
    }
}

/// Nobody can tell the client's values any more.
pub(super) fn lost() -> Error {
    let message = "currval() and lastval() cannot be told: the server where this session took its values is not at hand, or others have used it for sequences since";
    Error::us(SqlState::OBJECT_NOT_IN_STATE, message)
        .because(LOST)
        .detail("Only the server that gave a value tells it, to whoever has it; between transactions it serves other clients, or is closed.")
        .hint("Ask right behind the statement that takes the value, or within its transaction; better use INSERT ... RETURNING. sequence_values = \"keep\" has servers kept behind all statements that take values.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse;

    #[test]
    fn questions_are_expected_where_they_have_been_asked() {
        let questions = Questions::default();
        let [a, b] =
            ["INSERT INTO a VALUES (1)", "INSERT INTO b VALUES (1)"].map(|text| kind(&parse::facts(text.as_bytes())));
        assert_ne!(a, b);
        assert_eq!(a, kind(&parse::facts(b"INSERT INTO a (x, y) VALUES ($1, 'z')")));
        assert!(!questions.may_follow(a), "nobody asks");
        questions.followed(Some(a));
        for _ in 0..QUIET {
            assert!(questions.may_follow(a) && questions.may_follow(b));
            questions.did_not_follow(b);
        }
        assert!(questions.may_follow(a) && !questions.may_follow(b));
        questions.followed(Some(b));
        assert!(questions.may_follow(b), "it was asked all the same");
    }

    #[test]
    fn what_is_learned_takes_little_room() {
        let questions = Questions::default();
        questions.followed(None);
        (0..10_000).for_each(|kind| questions.did_not_follow(kind));
        assert!(questions.quiet.lock().len() <= KINDS);
    }
}

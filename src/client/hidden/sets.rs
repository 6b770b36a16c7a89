//! What code that is seen in no text has set for the transaction at hand: see [`crate::sql::hidden::sets`].
//!
//! A block that several shards take part in is told of settings by its statements; what a function, a trigger or DO sets on one shard, the
//! others do not know of. So a block goes on with several shards only as long as it is certain that no code has set anything, and runs no
//! statement that may. What the census does not count for is not certain, so that it is waited for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Judged, Known, next_census};
use crate::client::limits::Overdue;
use crate::client::task::{Client, End, Stopped};
use crate::clock;
use crate::id::ShardIndex;
use crate::session::Intake;
use crate::sql::facts::QueryFacts;
use crate::sql::hidden::{self, sets};

/// How long a block of several shards waits for a census; without one, code may have set anything.
const LONGEST: Duration = Duration::from_secs(3);
/// Between two tries, while none may be taken.
const AGAIN: Duration = Duration::from_millis(20);

/// Until when a statement waits for what is not known of code, and which limit of the client's is passed then, if it is one.
pub(in crate::client) type Until = (Instant, Option<Overdue>);

/// Code that a text makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) struct NewCode {
    /// When it runs it may set something for the transaction.
    may_set: bool,
}

impl NewCode {
    /// By this text, beside the code that `known` tells of; none: it is not known.
    fn of(text: &[u8], known: Option<&Known>) -> Self {
        let Ok(text) = std::str::from_utf8(text) else { return Self { may_set: true } };
        Self { may_set: sets::may_define(text) || known.is_none_or(|known| known.census.may_let(text)) }
    }
}

impl Known {
    fn may_set(&self, facts: &QueryFacts, own_types: bool, replica: bool, now: Instant) -> bool {
        let before = self.before.iter().filter(|(_, until)| replica && now < *until).map(|(census, _)| census);
        before.chain([&self.census]).any(|census| census.may_set(facts, own_types))
    }

    /// Whether no code sets anything, nor did before the last changes.
    fn sets_nothing(&self, now: Instant) -> bool {
        let before = self.before.iter().filter(|(_, until)| now < *until).map(|(census, _)| census);
        before.chain([&self.census]).all(|census| census.sets_nothing())
    }
}

impl Judged {
    /// Follows a text that is about to be sent, and that is not plain.
    pub(super) fn follow_sets(&mut self, facts: &QueryFacts, own_types: bool, sees_own: bool, known: Option<&Known>) {
        self.sets |= sees_own && self.makes_setter;
        self.sets |= known.is_some_and(|known| known.may_set(facts, own_types, self.place.replica, clock::now()));
    }

    /// The same of one that makes code.
    pub(super) fn follow_text<'a>(
        &mut self,
        facts: &QueryFacts,
        text: &[u8],
        known: impl FnOnce() -> Option<&'a Known>,
    ) {
        if facts.changes_code() || facts.makes_own_code() {
            self.follow_made(NewCode::of(text, known()));
        }
    }

    pub(super) fn follow_made(&mut self, new: NewCode) {
        self.makes_setter |= new.may_set;
    }

    /// Whether something was sent while no census counted, and was not looked at since.
    pub(in crate::client) fn is_undecided(&self) -> bool {
        !self.undecided.is_empty()
    }

    /// Whether what was sent in this transaction may have set something for it; none: that is not known yet.
    pub(in crate::client) fn has_set(&self) -> Option<bool> {
        if self.sets {
            return Some(true);
        }
        let (Some(stamp), Some(database)) = (self.stamp, &self.database) else { return Some(false) };
        let hidden = &database.hidden;
        let (begun, now) = (hidden.changes.begun.load(Ordering::Acquire), clock::now());
        if !self.is_undecided() && begun == stamp {
            return Some(false);
        }
        let known = hidden.shards.get(usize::from(self.place.shard.0))?.known.load_full()?;
        known.counts(begun, now).then(|| {
            // Other code may have run than was read.
            let of_others = begun != stamp;
            let sets = |(facts, own_types, _): &(Arc<QueryFacts>, bool, u64)| {
                known.may_set(facts, *own_types, self.place.replica, now)
            };
            (of_others && !known.sets_nothing(now)) || self.undecided.iter().any(sets)
        })
    }
}

impl Client {
    /// What code the segment makes on these shards by `text`, if it may change what code runs.
    pub(in crate::client) fn new_code(&self, text: &[u8], shards: &[ShardIndex]) -> Option<NewCode> {
        let mut facts = self.segment.items.iter().filter_map(|(intake, _)| intake.facts());
        if !facts.any(|facts| facts.changes_code()) {
            return None;
        }
        let hidden = &self.database.hidden;
        let (begun, now) = (hidden.changes.begun.load(Ordering::Acquire), clock::now());
        let may_set = |shard: &ShardIndex| {
            let known = hidden.shards.get(usize::from(shard.0)).and_then(|shard| shard.known.load_full());
            NewCode::of(text, known.as_deref().filter(|known| known.counts(begun, now))).may_set
        };
        Some(NewCode { may_set: shards.iter().any(may_set) })
    }

    /// Makes up its mind about what was sent within a block of several shards while no census counted, if one counts now: the session may
    /// turn out to have what only that server has.
    pub(in crate::client) fn settle_within(&mut self, judged: &mut Judged) {
        let hidden = &self.database.hidden;
        let (begun, now) = (hidden.changes.begun.load(Ordering::Acquire), clock::now());
        let known = hidden.shards.get(usize::from(judged.place.shard.0)).and_then(|shard| shard.known.load_full());
        let Some(known) = known.filter(|known| judged.is_undecided() && known.counts(begun, now)) else { return };
        judged.writes |= judged.may_have_written();
        // Other code may have run than was read.
        if judged.stamp != Some(begun) {
            self.doubt(judged, Some(&known));
        }
        for (facts, own_types, number) in std::mem::take(&mut judged.undecided) {
            let traces = known.of_text(&facts, own_types, judged.place.replica, now);
            // Others see it when the block is committed.
            judged.changes |= traces.changes_code();
            let temp = known.census.may_make_temp(&facts, traces);
            self.apply((traces, temp), (&facts, number), judged);
        }
    }

    /// Until when a statement that begins now waits for what is not known, on all of its shards together.
    pub(in crate::client) fn known_until(&self) -> Until {
        let since = clock::now();
        let longest = since + LONGEST;
        match self.limits.statement(since, self.begun_at()) {
            Some((at, overdue)) if at < longest => (at, Some(overdue)),
            _ => (longest, None),
        }
    }

    /// What is found once the shard's census is known; none, where it does not become known in time.
    pub(in crate::client) async fn known_in_time(
        &mut self,
        shard: ShardIndex,
        (until, overdue): Until,
        find: impl Fn(&Self) -> Option<bool>,
    ) -> Result<Option<bool>, Stopped> {
        loop {
            if let Some(found) = find(self) {
                return Ok(Some(found));
            }
            let now = clock::now();
            if now >= until {
                return match overdue {
                    Some(overdue) => Err(Stopped::End(End::Told(self.time_is_up(overdue)))),
                    None => Ok(None),
                };
            }
            self.learn_hidden(&[shard]);
            let database = Arc::clone(&self.database);
            let waiting = async {
                next_census(database, shard).await;
                tokio::time::sleep(AGAIN).await;
            };
            let waited = self.attend(waiting, until.saturating_duration_since(now)).await;
            self.handle().cancel_is_done();
            waited?;
        }
    }

    /// Whether the segment may set something for the transaction by what it runs on this shard, unseen, where `judged` is known of the
    /// transaction; none: that is not known yet. `replica`: it runs on a replica.
    pub(in crate::client) fn sets_unseen(
        &self,
        judged: Option<&Judged>,
        shard: ShardIndex,
        replica: bool,
    ) -> Option<bool> {
        let mut texts = Vec::new();
        for (intake, _) in &self.segment.items {
            let (facts, own_types) = match intake {
                Intake::Query(facts) => (facts, false),
                Intake::Bind { statement: Some(statement), .. } => (&statement.facts, statement.has_foreign_types()),
                _ => continue,
            };
            texts.extend(self.session.runs(facts).map(|facts| (Arc::clone(facts), false)));
            texts.push((Arc::clone(facts), own_types));
        }
        texts.retain(|(facts, own_types)| *own_types || !hidden::is_plain_text(facts));
        if texts.is_empty() {
            return Some(false);
        }
        let hidden = &self.database.hidden;
        let (begun, now) = (hidden.changes.begun.load(Ordering::Acquire), clock::now());
        let known = hidden.shards.get(usize::from(shard.0))?.known.load();
        let known = known.as_ref().filter(|known| known.counts(begun, now))?;
        let own = judged.is_some_and(|judged| judged.makes_setter);
        Some(own || texts.iter().any(|(facts, own_types)| known.may_set(facts, *own_types, replica, now)))
    }
}

//! A server that its client keeps between two transactions because it may be asked for currval() or lastval() there: see
//! [`crate::client::sequences`].
//!
//! ```text
//!   the client rests, and a question may follow ──▶ held ──▶ a question: it is answered here, and the server held on
//!                                                     ├────▶ another statement: the same, unless others wait and it was held for long
//!                                                     └────▶ others wait, and nothing was asked for so long: given back
//! ```
//!
//! As long as nobody else needs the server, it is held without end; else for `sequence_hold`. What runs meanwhile runs on it, as if it were
//! pinned; but it is nobody's loss when it goes: the client is told nothing, and what it asks next goes elsewhere.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use super::Link;
use crate::client::sequences::{Kind, kind};
use crate::client::task::Client;
use crate::clock;
use crate::config::{PoolMode, Role};
use crate::server::Connection;
use crate::session::Intake;
use crate::sql::facts::{Access, QueryFacts};

/// Who has asked, and may ask once more, finds its server for so long, when others wait for one.
const AGAIN: Duration = Duration::from_millis(10);

/// Of `sequence_hold`, for so much a client holds a server that others wait for, however often it asks.
const ENDLESS: u32 = 20;

/// What a segment has to do with sequences.
#[derive(Debug)]
pub(super) enum Use {
    /// It may have taken a value.
    Took(Kind, Option<Arc<QueryFacts>>),
    /// It has asked for one.
    Asked(Option<Arc<QueryFacts>>),
    /// It has had the server forget them.
    Forgot,
}

/// A server that is held.
#[derive(Debug)]
pub(super) struct Hold {
    since: Instant,
    /// When a value was taken or asked for last.
    last: Instant,
    /// What was asked is answered, and nothing was taken since.
    answered: bool,
    /// The kind of statement behind which a question is awaited.
    awaits: Option<Kind>,
    /// The statement for which it is held.
    facts: Option<Arc<QueryFacts>>,
    /// When it is looked again whether others wait.
    look: Pin<Box<Sleep>>,
}

impl Hold {
    /// The statement for which it is held.
    pub(super) fn facts(&self) -> Option<&Arc<QueryFacts>> {
        self.facts.as_ref()
    }
}

impl Client {
    /// Notes what the segment, which is about to be sent, has to do with sequences. `asks_unseen`: by code that it calls.
    pub(super) fn note_use(&mut self, link: &mut Link, asks_unseen: bool) {
        if link.role != Role::Primary
            || self.pools.mode == PoolMode::Session
            || !(asks_unseen || self.expects_questions())
        {
            return;
        }
        let Some(used) = self.use_of_segment(asks_unseen) else { return };
        let transaction = link.counts.xact_count;
        match &used {
            Use::Took(kind, _) => {
                self.values.note(*kind);
                link.took_in = Some(transaction);
            }
            Use::Asked(_) if link.took_in != Some(transaction) => self.learns_question(),
            Use::Asked(_) | Use::Forgot => {}
        }
        link.used = Some(used);
    }

    /// The last thing that it has to do with them.
    fn use_of_segment(&self, asks_unseen: bool) -> Option<Use> {
        let mut used = None;
        for (intake, _) in &self.segment.items {
            let facts = match intake {
                Intake::Query(facts) => facts,
                Intake::Bind { statement: Some(statement), .. } => &statement.facts,
                Intake::FunctionCall => {
                    used = Some(Use::Took(0, None));
                    continue;
                }
                _ => continue,
            };
            for facts in std::iter::once(facts).chain(self.session.runs(facts)) {
                if facts.statements.iter().any(|statement| statement.why == "DISCARD") {
                    used = Some(Use::Forgot);
                } else if facts.asks_sequences() {
                    used = Some(Use::Asked(Some(Arc::clone(facts))));
                } else if facts.statements.iter().any(|statement| statement.access == Access::Write) {
                    used = Some(Use::Took(kind(facts), Some(Arc::clone(facts))));
                }
            }
        }
        match used {
            Some(Use::Took(_, facts)) if asks_unseen => Some(Use::Asked(facts)),
            None if asks_unseen => Some(Use::Asked(None)),
            used => used,
        }
    }

    /// The client rests, and its server could be given back: whether it is held. If so, the task is woken when that is to be looked at again.
    pub(super) fn holds(&mut self, link: &mut Link, connection: &Connection, cx: &mut Context<'_>) -> bool {
        match link.used.take() {
            Some(Use::Forgot) => link.hold = None,
            Some(Use::Took(kind, facts)) if self.expects_question_behind(kind) => self.hold(link, Some(kind), facts),
            Some(Use::Asked(facts)) if self.expects_questions() => self.hold(link, None, facts),
            _ => {}
        }
        if self.session.settings().lacks_anything() {
            // A RESET has taken from it what startup gave, which it gets when it is lent.
            link.hold = None;
            return false;
        }
        let limit = self.database.config.pinning.sequence_hold;
        let Some(hold) = &mut link.hold else { return false };
        let limit = if hold.answered { limit.min(AGAIN) } else { limit };
        let pool = link.checkout.pool();
        loop {
            let now = clock::now();
            let wanted = pool.wants_back(link.checkout.slot());
            let over = wanted && now.saturating_duration_since(hold.last) >= limit;
            // What came unasked the pool looks at.
            if over || self.is_outdated() || !connection.input.is_empty() {
                if let Some(kind) = hold.awaits {
                    self.database.hidden.questions().did_not_follow(kind);
                }
                link.hold = None;
                return false;
            }
            let at = if wanted { hold.last.checked_add(limit) } else { now.checked_add(limit) };
            hold.look.as_mut().reset(at.unwrap_or(now).into());
            if hold.look.as_mut().poll(cx).is_pending() {
                link.rests_since.get_or_insert(now);
                return true;
            }
        }
    }

    /// Holds the server from now on, or on.
    fn hold(&self, link: &mut Link, awaits: Option<Kind>, facts: Option<Arc<QueryFacts>>) {
        let now = clock::now();
        if let Some(hold) = &mut link.hold {
            (hold.last, hold.answered, hold.awaits) = (now, awaits.is_none(), awaits);
            return;
        }
        let most = self.database.config.pinning.max_pinned_connections;
        if most > 0 && !link.take_seat(most) {
            return;
        }
        let look = Box::pin(tokio::time::sleep_until(now.into()));
        let (since, last, answered) = (now, now, awaits.is_none());
        link.hold = Some(Box::new(Hold { since, last, answered, awaits, facts, look }));
        self.note_pins(link);
    }

    /// Whether the segment, which is complete, goes to the server that is held; else that is given back first.
    pub(super) fn goes_on(&self, link: &mut Link, connection: &Connection, cx: &mut Context<'_>) -> bool {
        let Some(hold) = link.hold.as_mut().filter(|_| self.session.may_release()) else { return true };
        let questions = self.database.hidden.questions();
        let texts = || self.segment.items.iter().filter_map(|(intake, _)| intake.facts());
        let asks = texts().any(|facts| facts.asks_sequences() || self.asks_unseen(facts, link.shard));
        let awaited = hold.awaits.take();
        let limit = self.database.config.pinning.sequence_hold;
        let held = clock::now().saturating_duration_since(hold.since);
        let wanted = || link.checkout.pool().wants_back(link.checkout.slot());
        let stays = if asks {
            // Who asks on and on leaves something for others as well.
            held < limit.saturating_mul(ENDLESS) || !wanted()
        } else {
            if let Some(kind) = awaited {
                questions.did_not_follow(kind);
            }
            let reads = self.has_several(link.shard) && texts().all(|facts| facts.access() < Access::Write);
            !reads && !self.is_outdated() && (held < limit || !wanted())
        };
        // Whether it has ended is the pool's to find out.
        let stays = stays && connection.input.is_empty() && !connection.stream.poll_readable(cx);
        match link.rests_since.take() {
            Some(since) if stays => link.rested += clock::now().saturating_duration_since(since),
            since => link.rests_since = since,
        }
        stays
    }
}

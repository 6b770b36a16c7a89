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
use crate::client::hidden::is_large_object;
use crate::client::sequences::{Kind, function_kind, kind};
use crate::client::task::Client;
use crate::clock;
use crate::config::{PoolMode, Role};
use crate::pool::ledger::{PROMPT, Wanted};
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
    /// Since when others have needed it, if they do.
    wanted: Option<Instant>,
    /// When a value was taken or asked for last.
    last: Instant,
    /// What was asked is answered, and nothing was taken since.
    answered: bool,
    /// The kind of statement behind which a question is awaited.
    awaits: Option<Kind>,
    /// The statement for which it is held.
    facts: Option<Arc<QueryFacts>>,
    /// When it is looked again whether others need it, if nobody else tells.
    look: Option<Pin<Box<Sleep>>>,
}

impl Hold {
    /// The statement for which it is held.
    pub(super) fn facts(&self) -> Option<&Arc<QueryFacts>> {
        self.facts.as_ref()
    }

    /// For how long others have needed it, if they do.
    fn wanted_for(&mut self, wanted: Wanted, now: Instant) -> Option<Duration> {
        self.wanted = (wanted == Wanted::Yes).then(|| self.wanted.unwrap_or(now));
        self.wanted.map(|since| now.saturating_duration_since(since))
    }

    /// Whether it is `at`; if not, the task is woken then.
    fn is_at(&mut self, at: Option<Instant>, now: Instant, cx: &mut Context<'_>) -> bool {
        let at = at.unwrap_or(now).into();
        let look = self.look.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        look.as_mut().reset(at);
        look.as_mut().poll(cx).is_ready()
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
        let transaction = link.counts.xact_count;
        let (asks, used) = self.use_of_segment(asks_unseen);
        if asks && link.took_in != Some(transaction) {
            self.learns_question();
        }
        let Some(used) = used else { return };
        if let Use::Took(kind, _) = &used {
            self.values.note(*kind);
            link.took_in = Some(transaction);
        }
        link.used = Some(used);
    }

    /// Whether it asks for values before it may take any, and the last thing that it has to do with them.
    fn use_of_segment(&self, asks_unseen: bool) -> (bool, Option<Use>) {
        let (mut asks, mut used, mut at) = (false, None, 0_usize);
        for (intake, len) in &self.segment.items {
            let frame = self.input.bytes().get(at..at.saturating_add(*len)).unwrap_or_default();
            at = at.saturating_add(*len);
            let facts = match intake {
                Intake::Query(facts) => facts,
                Intake::Bind { statement: Some(statement), .. } => &statement.facts,
                Intake::FunctionCall if !is_large_object(frame) => {
                    used = Some(Use::Took(function_kind(frame), None));
                    continue;
                }
                _ => continue,
            };
            for facts in std::iter::once(facts).chain(self.session.runs(facts)) {
                for statement in &facts.statements {
                    let asks_here = statement.asks_sequences();
                    asks |= asks_here && !matches!(used, Some(Use::Took(..)));
                    if statement.discards_sequences() {
                        used = Some(Use::Forgot);
                    } else if statement.access == Access::Write && !statement.asks_sequences_first() {
                        used = Some(Use::Took(kind(facts), Some(Arc::clone(facts))));
                    } else if asks_here {
                        used = Some(Use::Asked(Some(Arc::clone(facts))));
                    }
                }
            }
        }
        match used {
            Some(Use::Took(_, facts)) if asks_unseen => (true, Some(Use::Asked(facts))),
            None if asks_unseen => (true, Some(Use::Asked(None))),
            used => (asks, used),
        }
    }

    /// The client rests, and its server could be given back: whether it is held. If so, the task is woken when that is to be looked at again.
    pub(super) fn holds(&mut self, link: &mut Link, connection: &Connection, cx: &mut Context<'_>) -> bool {
        match link.used.take() {
            Some(Use::Forgot) => link.hold = None,
            // What others have taken there would be told as well.
            Some(_) if connection.state.sequences.is_foreign_to(self.values.past()) => link.hold = None,
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
        let least = limit.min(AGAIN);
        let limit = if hold.answered { least } else { limit };
        let (pool, slot) = (link.checkout.pool(), link.checkout.slot());
        loop {
            let now = clock::now();
            let wanted = pool.wants_back(slot, Some(cx.waker()));
            let wanted_for = hold.wanted_for(wanted, now);
            let since_last = now.saturating_duration_since(hold.last);
            // Who waits for a moment only needs no server of others.
            let over = wanted_for.is_some_and(|time| time >= least) && since_last >= limit;
            // What comes unasked the pool looks at, the server's end as well.
            let speaks = !connection.input.is_empty() || connection.stream.poll_readable(cx);
            if speaks || self.is_outdated() || (over && pool.gives_way(slot)) {
                if let Some(kind) = hold.awaits {
                    self.database.hidden.questions().did_not_follow(kind);
                }
                link.hold = None;
                return false;
            }
            let passed = match wanted {
                Wanted::No => false,
                Wanted::Perhaps => hold.is_at(now.checked_add(PROMPT), now, cx),
                Wanted::Yes => {
                    let left = least.saturating_sub(wanted_for.unwrap_or_default());
                    hold.is_at(now.checked_add(left.max(limit.saturating_sub(since_last))), now, cx)
                }
            };
            if !passed {
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
        let (wanted, last, answered) = (None, now, awaits.is_none());
        link.hold = Some(Box::new(Hold { wanted, last, answered, awaits, facts, look: None }));
        self.note_pins(link);
    }

    /// Whether the segment, which is complete, goes to the server that is held; else that is given back first.
    pub(super) fn goes_on(&self, link: &mut Link, connection: &Connection, cx: &mut Context<'_>) -> bool {
        let Some(hold) = link.hold.as_mut().filter(|_| self.session.may_release()) else { return true };
        let questions = self.database.hidden.questions();
        let texts = || self.segment.items.iter().filter_map(|(intake, _)| intake.facts());
        let asks = texts().any(|facts| facts.asks_sequences() || self.asks_unseen(facts, link.shard));
        let calls = self.segment.items.iter().any(|(intake, _)| matches!(intake, Intake::FunctionCall));
        let access =
            if calls { Access::Write } else { texts().map(|facts| facts.access()).max().unwrap_or(Access::Neutral) };
        let limit = self.database.config.pinning.sequence_hold;
        let wanted = link.checkout.pool().wants_back(link.checkout.slot(), None);
        let wanted_for = hold.wanted_for(wanted, clock::now()).unwrap_or_default();
        let stays = if asks {
            hold.awaits = None;
            // Who asks on and on leaves something for others as well.
            wanted_for < limit.saturating_mul(ENDLESS)
        } else {
            // What is no statement about data tells nothing of what follows.
            if access > Access::Neutral
                && let Some(kind) = hold.awaits.take()
            {
                questions.did_not_follow(kind);
            }
            let reads = self.has_several(link.shard) && matches!(access, Access::Read | Access::Local);
            !reads && !self.is_outdated() && wanted_for < limit
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

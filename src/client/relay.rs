//! Moving bytes between a client and its server, both ways at once, until the server can be given back.
//!
//! Written as one poll function: whatever can move moves, then the task sleeps until either socket can do more. Nothing is awaited
//! with a message half handled, so being dropped at any point loses nothing but the connection.

mod ahead;
mod conclude;
mod errand;
mod explain;
mod forward;
mod hold;
mod judge;
mod refusal;
pub(super) mod shortcut;

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

pub(super) use self::ahead::CatchUp;
use self::ahead::Sending;
use self::explain::Route;
pub(super) use self::forward::lock_on_replica;
use self::hold::{Hold, Use};
use self::judge::{judge, silenced};
use crate::client::block::{self, Block, Portable};
use crate::client::catalog::LookUp;
use crate::client::hidden::Judged;
use crate::client::kept::Kept;
use crate::client::limits::{Doing, Overdue, Watch};
use crate::client::plan::Need;
use crate::client::scatter::leg::Leg;
use crate::client::scatter::spread::{Part, Prologue};
use crate::client::shared::{Activity, Links, Order};
use crate::client::silence::Silence;
use crate::client::task::{Client, End, HIGH_WATER, lost, micros, terminated_as};
use crate::clock;
use crate::config::{PoolMode, Role};
use crate::error::Error;
use crate::health::server::InFlight;
use crate::id::{ServerIndex, ShardIndex};
use crate::metrics::counters::Counts;
use crate::net::buffer::with_scratch;
use crate::pool::{Checkout, Verdict};
use crate::server::Connection;
use crate::session::pipeline::Undo;
use crate::session::prepared::Statement;
use crate::session::{Action, Session};
use crate::shard::plan::ShardPlan;
use crate::sql::facts::{Access, QueryFacts};
use crate::wire::message::TransactionStatus;
use crate::wire::{encode, frame};

/// Longest message of a server that is collected; rows and COPY data are passed on in pieces instead.
const MAX_COLLECTED: usize = 1 << 30;

/// How a relay ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The server was given back.
    Released,
    /// The client's session is over.
    Client(End),
    /// The segment is to be tried on another server: nothing of its answer was sent on. Its bytes are in the input again.
    Retry(Cause),
    /// The same, on whichever server: a plan that one had kept was of no use any more.
    Again,
    /// The same: the server has passed over the segment behind the client's settings, which were sent ahead.
    PassedOver {
        /// It has not taken them; else it has ended the session before.
        refused: bool,
    },
    /// The segment needs other shards than this one as well: the block goes on with several.
    Spread(Box<Link>),
}

/// Why a segment is tried on another server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// A standby refuses it.
    NeedsPrimary {
        /// It writes (25006), whatever it was taken for.
        writes: bool,
    },
    /// The server goes, has fallen silent, or conflicts with its recovery.
    Leaves,
    /// The server has ended the session that ran the write before that was done, perhaps because it goes.
    Terminated,
    /// The server had been told to end the session before it was lent.
    Rested,
    /// The connection broke without a word, which is held against the server.
    Broken {
        /// It may have been the segment's doing: it was sent.
        sent: bool,
    },
}

/// When a segment may go to another server, as long as nothing of its answer was sent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Leave {
    /// Never.
    Never,
    /// To another connection, when the server ends the session (57P01, 57P05) at once: it was to end while nobody had it, and nothing was done.
    IfRested,
    /// When the server says goodbye (57P01) before it has answered the one statement, which then was not done: PostgreSQL lets nobody end
    /// a session while it commits, and says nothing more to one that it ends in the wait for a standby.
    IfUndone,
    /// When a standby refuses it, which then has not done it.
    IfRefused,
    /// Whatever became of the server: it can be done twice.
    Always,
}

/// What is known of the answer that is held back: the segment is sent again when the server is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// It failed for the sake of a kept plan, maybe.
    Renounced,
    /// A standby refuses it.
    Refused {
        /// As in [`Cause::NeedsPrimary`].
        writes: bool,
    },
    /// The server passes over it: it has not taken the client's settings.
    PassedOver,
}

/// A segment that can be tried again, as long as nothing of its answer has been sent.
#[derive(Debug)]
pub(super) struct Replay {
    pub(super) bytes: Vec<u8>,
    /// What the segment has done to the client's names, in order; confirmed by a server or not, it has not happened then.
    pub(super) names: Vec<Undo>,
    /// When it may be tried on another server.
    pub(super) leave: Leave,
    /// It ends with what the server answers by ReadyForQuery, also after an error.
    pub(super) ends: bool,
    /// Unnamed statements in it whose plans servers keep, and may find of no use any more.
    pub(super) popular: Vec<Arc<Statement>>,
    /// The server has bound one.
    pub(super) bound: bool,
    /// Nobody is told of its answer.
    pub(super) held: Option<Held>,
}

/// A server lent to a client.
#[expect(clippy::struct_excessive_bools, reason = "each tells another thing that has happened on the link")]
pub(super) struct Link {
    checkout: Checkout,
    in_flight: InFlight,
    role: Role,
    shard: ShardIndex,
    server: ServerIndex,
    since: Instant,
    /// Of a server that another may take the place of.
    silence: Option<Silence>,
    /// When its first segment may be tried elsewhere.
    leave: Leave,
    /// The session may go on without the server, so that its farewell is not for the client.
    outlived: bool,
    query_since: Option<Instant>,
    counts: Counts,
    replay: Option<Replay>,
    /// What goes ahead of the first segment.
    ahead: Sending,
    /// What the first row of the answer is to tell as well.
    route: Option<Box<Route>>,
    /// It was treated as a write: reads that follow must see it.
    wrote: bool,
    /// It is the primary of several servers, where it matters what looks like a read and writes: others read elsewhere, and may be asked
    /// once more.
    several: bool,
    /// It wrote indeed, so that the server's session may know of sequences by it.
    has_written: bool,
    /// How many requests to cancel had been passed on when something of ours was sent.
    cancels: u64,
    /// Something was sent that may change what the server's catalog says.
    changes_catalog: bool,
    /// What was sent since the client last rested has to do with sequences; in which transaction it has perhaps taken a value.
    used: Option<Use>,
    took_in: Option<u64>,
    /// The client keeps the server for a question about them.
    hold: Option<Box<Hold>>,
    /// For how long it has done nothing with it, and since when.
    rested: Duration,
    rests_since: Option<Instant>,
    /// It has been sent NOTIFY since its transaction began.
    notifies: bool,
    /// What may be left behind that nobody saw: temporary tables, settings.
    judged: Judged,
    /// The server's process, once what it sends is known for the client's own: see `client::listen`.
    pub(super) owned: Option<u32>,
    /// What was sent in its last transaction has been heard.
    pub(super) heard: bool,
    /// What must be heard before the client is told that a transaction is over.
    hearing: Option<LookUp>,
    /// What the segment that waits must know first.
    look_up: Option<LookUp>,
    /// When the client asked how far it has written, after it had written here.
    pub(super) asks_since: Option<Instant>,
    /// Bytes still to come of a message that is passed on in pieces, from the client and from the server.
    client_rest: usize,
    server_rest: usize,
    /// The server has said why it goes.
    farewell: bool,
    /// What the client keeps the server for, as it is counted.
    pub(super) kept: Kept,
    /// It is to be closed as soon as no transaction is open.
    to_close: bool,
    /// The block, as long as it belongs to no shard: it can still move to another.
    begun: Option<Block>,
    /// Since the client last synchronised, only statements were prepared and described: the server can be left as it was met.
    only_prepared: bool,
    /// The block is being opened on the server: the segment waits until that is known to have worked.
    opening: Opening,
    /// What other shards must be told before they can take part in the block; none: they cannot.
    prologue: Option<Prologue>,
    /// In what state it is given back at best, by what several shards of its block were asked together.
    leaves: Verdict,
    /// Texts that are to be added to it when they are answered.
    unconfirmed: Vec<Box<[u8]>>,
    /// The segment that waits for the block to begin needs several shards.
    spreads: bool,
    /// Other shards take part in the block, which began then.
    is_part: Option<Instant>,
}

/// How far a held-back block is on its way to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opening {
    /// There was none, or it stands.
    Over,
    /// Its text was sent.
    Sent,
    /// Its text failed, and a bare BEGIN was sent, so that there is a block to fail in.
    Bare,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "link to {}", self.checkout.pool().name())
    }
}

/// Why the poll function returns.
enum Event {
    Release,
    ClientGone,
    ServerLost(Error),
    Retry(Cause),
    /// A standby refuses the segment, and is ready.
    Refused {
        writes: bool,
        /// It has said nothing since.
        quiet: bool,
    },
    /// A plan that the server had kept for an unnamed statement is of no use any more; the server is ready.
    Again {
        /// It has said nothing since.
        quiet: bool,
    },
    /// The server has passed over the segment behind the client's settings; it is ready, or is to be closed.
    PassedOver {
        /// It has not taken them; else it has ended the session before.
        refused: bool,
        /// It has said nothing since.
        quiet: bool,
    },
    /// The server has done nothing yet that would have to be done again, and the segment needs another.
    Move,
    /// The block goes on with other shards as well.
    Spread,
    Stop(Error),
    /// The same, and what is under way is cancelled.
    Cancel(Error),
}

impl Link {
    /// In a box, for it goes through many hands.
    pub(super) fn boxed(
        checkout: Checkout,
        in_flight: InFlight,
        role: Role,
        shard: ShardIndex,
        server: ServerIndex,
        since: Instant,
    ) -> Box<Self> {
        Box::new(Self {
            checkout,
            in_flight,
            silence: None,
            leave: if role == Role::Replica { Leave::Always } else { Leave::Never },
            outlived: false,
            role,
            shard,
            server,
            since,
            query_since: None,
            counts: Counts::default(),
            replay: None,
            ahead: Sending::Nothing,
            route: None,
            wrote: false,
            several: false,
            has_written: false,
            cancels: 0,
            changes_catalog: false,
            used: None,
            took_in: None,
            hold: None,
            rested: Duration::ZERO,
            rests_since: None,
            notifies: false,
            judged: Judged::default(),
            owned: None,
            heard: false,
            hearing: None,
            look_up: None,
            asks_since: None,
            client_rest: 0,
            server_rest: 0,
            farewell: false,
            kept: Kept::default(),
            to_close: false,
            begun: None,
            only_prepared: false,
            opening: Opening::Over,
            prologue: None,
            leaves: Verdict::Clean,
            unconfirmed: Vec::new(),
            spreads: false,
            is_part: None,
        })
    }

    /// The link of a shard that takes part with others in a block that began at `begun`.
    pub(super) fn of_part(part: Part, begun: Instant) -> Option<Box<Self>> {
        let leg = part.leg?;
        let since = leg.since();
        let (checkout, in_flight) = leg.into_lent();
        let mut link = Self::boxed(checkout, in_flight, part.role, part.shard, part.server, since);
        link.is_part = Some(begun);
        (link.wrote, link.has_written, link.changes_catalog) = (part.wrote, part.has_written, part.changes_catalog);
        link.notifies = part.notifies;
        (link.judged, link.leaves) = (part.judged, part.leaves);
        Some(link)
    }

    /// What it leaves when others take part in its block as well, and what these must be told.
    pub(super) fn into_part(self: Box<Self>, leg: impl FnOnce(Checkout, InFlight) -> Leg) -> (Part, Option<Prologue>) {
        let (wrote, link) = (self.wrote(), *self);
        let part = Part {
            shard: link.shard,
            leg: Some(leg(link.checkout, link.in_flight)),
            role: link.role,
            server: link.server,
            wrote,
            has_written: link.has_written,
            notifies: link.notifies,
            changes_catalog: link.changes_catalog,
            judged: link.judged,
            leaves: link.leaves,
        };
        (part, link.prologue)
    }

    pub(super) fn role(&self) -> Role {
        self.role
    }

    pub(super) fn server(&self) -> ServerIndex {
        self.server
    }

    pub(super) fn replay_mut(&mut self) -> &mut Option<Replay> {
        &mut self.replay
    }

    /// What is known of an answer that nobody is told of: the segment is sent again when the server is ready.
    fn held(&self) -> Option<Held> {
        self.replay.as_ref()?.held
    }

    /// When the segment may be tried on another server.
    pub(super) fn leave(&self) -> Leave {
        self.replay.as_ref().map_or(Leave::Never, |replay| replay.leave)
    }

    /// Why the segment is tried elsewhere now that this server is of no use, if it may be.
    fn leaves_for(&self, cause: Cause) -> Option<Event> {
        match self.held() {
            // It was not done, and no other standby will do it either.
            Some(Held::Refused { writes }) => Some(Event::Retry(Cause::NeedsPrimary { writes })),
            Some(Held::PassedOver) => Some(Event::PassedOver { refused: true, quiet: false }),
            _ => (self.leave() == Leave::Always && !self.wrote_unseen()).then_some(Event::Retry(cause)),
        }
    }

    /// Takes a place among the servers that are kept, of which there may be `most`; whether there is one.
    pub(super) fn take_seat(&mut self, most: u32) -> bool {
        self.kept.take_seat(self.checkout.pool(), most)
    }

    /// For which statement it is held, if it is: none where that is not known.
    pub(super) fn held_for(&self) -> Option<Option<&Arc<QueryFacts>>> {
        self.hold.as_ref().map(|hold| hold.facts())
    }

    /// Whether values of sequences may have been taken there.
    pub(super) fn may_have_taken_values(&self) -> bool {
        self.has_written || self.judged.may_have_written()
    }

    /// Whether it was treated as a write, or may have been one.
    pub(super) fn wrote(&self) -> bool {
        self.wrote || self.wrote_unseen()
    }

    /// Whether something may have written that looks like a read: by what it reaches, not by its text.
    fn wrote_unseen(&self) -> bool {
        self.several && self.judged.may_have_written()
    }

    /// When the client asked for the server, or its transaction began.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    pub(super) fn shard(&self) -> ShardIndex {
        self.shard
    }

    /// Whether either side has been told whole messages only, and none that says goodbye.
    pub(super) fn is_between_messages(&self) -> bool {
        self.client_rest == 0 && self.server_rest == 0 && !self.farewell && self.opening == Opening::Over
    }

    /// The server is gone: the session forgets what it had there.
    pub(super) fn forget(&mut self, session: &mut Session) {
        if let Some(connection) = self.checkout.as_mut() {
            session.on_server_lost(&mut connection.state);
        }
    }

    /// The block, if it has done nothing but begin.
    pub(super) fn take_begun(&mut self) -> Option<Block> {
        self.begun.take()
    }
}

impl Client {
    /// Whether the segment, though it was taken for a read, may write on the linked primary for all that its text tells. Of no interest
    /// where there is no other server: nobody reads elsewhere, and nothing is tried again. What it may write beyond that is judged when
    /// it is sent.
    pub(super) fn may_write_unseen(&self, link: &Link) -> bool {
        link.several && !self.segment.plainly_reads()
    }

    /// Whether the segment is kept until its answer begins, for the case that the server's session has been told to end while it rested: it begins
    /// a transaction, does nothing that cannot be undone, and nothing stands behind it.
    pub(super) fn may_meet_an_end(&self) -> bool {
        let begins = || matches!(block::portable(&self.segment, self.input.bytes()), Portable::Again(_));
        // What ends sessions may have ended its own.
        let mut texts = self.segment.items.iter().filter_map(|(intake, _)| intake.facts());
        self.pools.mode != PoolMode::Session
            && self.output.is_empty()
            && !self.is_in_pieces()
            && self.input.len() == self.segment.len
            && self.segment.len <= ahead::LONGEST
            && !texts.any(|facts| facts.pids)
            && (self.segment.plainly_reads() || self.segment.is_one_write() || begins())
    }

    /// Relays the segment and what follows it, until the server is given back or something breaks. Also tells whether the client wrote.
    pub(super) async fn relay(&mut self, mut link: Box<Link>, need: &Need) -> (Ended, bool) {
        self.shows_link(&link.checkout);
        let several = self.has_several(link.shard);
        link.several = several && link.role == Role::Primary;
        let unsure = self.may_write_unseen(&link);
        link.wrote |= need.access == Access::Write || unsure;
        link.spreads = matches!(need.plan, ShardPlan::Scatter(_) | ShardPlan::Fan(_));
        // On a primary that may be replaced by another as well.
        link.outlived = self.replicated(link.shard).is_some() && self.pools.mode != PoolMode::Session;
        let replaceable = several || link.role == Role::Replica;
        link.silence = replaceable.then(|| Silence::since_now(link.in_flight.server()));
        link.leave = match link.role {
            _ if link.is_part.is_some() => Leave::Never,
            // What it does beyond the database, or by a function of another's, is done by a standby as well.
            Role::Replica if need.access == Access::Write => Leave::IfRefused,
            Role::Replica => Leave::Always,
            _ if link.outlived && need.access < Access::Write && !unsure => Leave::Always,
            _ if link.outlived && matches!(block::portable(&self.segment, self.input.bytes()), Portable::Again(_)) => {
                Leave::Always
            }
            _ if link.outlived && self.segment.is_one_write() => Leave::IfUndone,
            _ if self.may_meet_an_end() => Leave::IfRested,
            _ => Leave::Never,
        };
        link.changes_catalog |= need.changes_catalog;
        link.has_written |= need.wrote || unsure;
        link.route = self.told_route(need, link.shard);
        let event = self.relay_until(&mut link).await;
        self.end_relay(link, event).await
    }

    /// What becomes of the server, and of the client. Also tells whether the client wrote.
    async fn end_relay(&mut self, mut link: Box<Link>, event: Event) -> (Ended, bool) {
        self.disowns(&link);
        self.leaves_hub();
        self.hides_links();
        let changes = link.changes_catalog;
        self.account(&mut link, matches!(event, Event::Spread));
        if matches!(event, Event::Spread) {
            // That is so until the block ends.
            link.changes_catalog = changes;
        }
        let wrote = link.wrote();
        (self.conclude(link, event).await, wrote)
    }

    /// From here on the server can be asked to cancel what the client runs.
    fn shows_link(&self, checkout: &Checkout) {
        let handle = self.handle();
        handle.set_links(Links::One(Arc::clone(checkout.pool()), checkout.slot()));
        handle.set_activity(Activity::Active);
    }

    /// From here on no cancel request can start for the server; those under way are waited for by the ledger.
    fn hides_links(&self) {
        let handle = self.handle();
        handle.set_links(Links::None);
        handle.set_activity(Activity::Idle);
    }

    async fn relay_until(&mut self, link: &mut Link) -> Event {
        let Some(mut connection) = link.checkout.take() else { return Event::ServerLost(lost("it was never there")) };
        match self.take_held_begin() {
            // A block that has begun stays where it began.
            Some(held) => {
                self.session.begin(&held.text, Arc::clone(&held.facts), connection.output.tail());
                // What it sets for the session, each server would keep for whoever comes next.
                let of_session = held.facts.statements.iter().any(|statement| !statement.effects.is_empty());
                link.prologue = if of_session { None } else { Some(Prologue::from(&held)) };
                link.begun = Some(held);
                link.opening = Opening::Sent;
            }
            None if (link.leave > Leave::Never && self.output.is_empty()) || link.ahead != Sending::Nothing => {
                link.replay = Some(self.replay(link.leave));
            }
            None => {}
        }
        let begins = link.opening == Opening::Over;
        if begins && link.wrote {
            link.look_up = self.owns_first(link, &connection);
        }
        if link.look_up.is_none() {
            self.settle_popular(link, begins);
            if begins {
                self.forward_segment(link, &mut connection);
            }
        }
        self.relay_on(link, connection).await
    }

    /// Relays on what was begun.
    async fn relay_on(&mut self, link: &mut Link, mut connection: Box<Connection>) -> Event {
        let handle = Arc::clone(self.handle());
        let mut watch = match link.is_part {
            Some(begun) => Watch::within(clock::now(), Some(begun)),
            None => Watch::new(link.since),
        };
        self.looks_for_close(link);
        let event = poll_fn(|cx| {
            if handle.bell.has_rung(cx) {
                self.refresh_limits();
                self.looks_for_close(link);
            }
            if let Some(error) = self.ordered(&handle) {
                return Poll::Ready(self.ends(&handle, error));
            }
            if handle.is_asked() {
                self.tell_with(link, &connection);
            }
            if let Poll::Ready(event) = self.poll_relay(link, &mut connection, cx) {
                return Poll::Ready(event);
            }
            // The transaction may have ended just now, and nothing else would wake a session that keeps its server.
            if let Some(error) = self.ordered(&handle).or_else(|| self.closes(link)) {
                return Poll::Ready(self.ends(&handle, error));
            }
            if handle.is_suspended() && self.is_at_rest(link, &mut connection, cx) {
                handle.set_flushed();
                return Poll::Pending;
            }
            if let Some(event) = silenced(link) {
                let held = link.hold.is_some() && self.session.may_release();
                return Poll::Ready(if held { Event::Release } else { event });
            }
            match self.overdue(link, &mut watch, cx) {
                Some(event) => Poll::Ready(event),
                None => Poll::Pending,
            }
        })
        .await;
        *link.checkout = Some(connection);
        if matches!(event, Event::Spread)
            && link.is_part.is_none()
            && let Some(begun) = watch.transaction()
        {
            link.since = begun;
        }
        event
    }

    /// Whether a limit is passed; if not, the task is woken when it is.
    fn overdue(&mut self, link: &mut Link, watch: &mut Watch, cx: &mut Context<'_>) -> Option<Event> {
        if !self.limits.any_of_link() {
            return None;
        }
        let in_flight = !self.session.is_drained();
        let doing = Doing {
            in_flight,
            in_transaction: in_flight || self.session.status() != TransactionStatus::Idle,
            pinned: self.pools.mode != PoolMode::Session && !self.session.pins().is_empty(),
            asked: link.counts.received,
            answered: link.counts.query_count,
            transactions: link.counts.xact_count,
        };
        let (at, overdue) = watch.next(&self.limits, doing, clock::now())?;
        if !self.timer.passed(at, cx) {
            return None;
        }
        let error = self.time_is_up(overdue);
        if in_flight {
            // Its answer is not waited for, and would count otherwise.
            link.counts.query_count += 1;
        }
        Some(match overdue {
            Overdue::Query | Overdue::Transaction if in_flight => Event::Cancel(error),
            _ => Event::Stop(error),
        })
    }

    fn ordered(&self, handle: &super::shared::ClientHandle) -> Option<Error> {
        let terminated = || terminated_as(handle);
        match handle.standing_order() {
            Order::None => None,
            Order::Cancel => {
                // It was for the wait that is over.
                handle.cancel_is_done();
                None
            }
            Order::Drain => {
                (self.session.is_drained() && self.session.status() == TransactionStatus::Idle).then(terminated)
            }
            Order::Kill => Some(terminated()),
        }
    }

    /// The end that an order means. What runs at its server is cancelled there: nobody waits for it any more.
    fn ends(&self, handle: &super::shared::ClientHandle, error: Error) -> Event {
        if handle.standing_order() == Order::Kill && !self.session.is_drained() {
            Event::Cancel(error)
        } else {
            Event::Stop(error)
        }
    }

    fn poll_relay(&mut self, link: &mut Link, connection: &mut Connection, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            if self.handle().is_suspended() && self.is_at_rest(link, connection, cx) {
                return Poll::Pending;
            }
            let mut moved = false;
            if let Poll::Ready(Err(e)) = connection.output.poll_flush(&mut connection.stream, cx) {
                // What the server said before it went explains more than our failure to write.
                return Poll::Ready(match self.pump_server(link, connection, cx) {
                    Err(event) => event,
                    Ok(_) => Event::ServerLost(lost(&e.to_string())),
                });
            }
            // While it is kept for nothing but a census, what comes is not this client's: the pool looks at it.
            // The same while it is held.
            let rests = (link.judged.waits() || link.hold.is_some()) && self.session.may_release();
            if self.output.len() < HIGH_WATER {
                match if rests { Ok(false) } else { self.pump_server(link, connection, cx) } {
                    Ok(more) => moved |= more,
                    Err(event) => return Poll::Ready(event),
                }
                if let Err(event) = self.take_between_transactions(link) {
                    return Poll::Ready(event);
                }
                let unsent = connection.output.len();
                self.session.send_held(&mut connection.state, connection.output.tail());
                if connection.output.len() > unsent {
                    // Nobody else would see to it that it is sent.
                    moved = true;
                    link.cancels = self.handle().cancels_sent.load(Ordering::Acquire);
                }
            }
            if self.session.is_drained() && link.opening == Opening::Over {
                // It ended with Flush: the client waits for what came, and goes on from there.
                link.replay = None;
            }
            if self.output.len() >= HIGH_WATER {
                // More than can be held back: the client gets it, and the segment is not tried again.
                link.replay = None;
            }
            if link.replay.is_none() {
                let full = self.output.len() >= HIGH_WATER;
                if let Poll::Ready(Err(_)) = self.output.poll_flush(&mut self.stream, cx) {
                    return Poll::Ready(Event::ClientGone);
                }
                // The server was not read from for want of room, so nothing would wake us when it has more.
                moved |= full && self.output.len() < HIGH_WATER;
            }
            let rests = connection.output.is_empty() && link.client_rest == 0 && link.opening == Opening::Over;
            // The segment is not sent yet, and what it waits for is waited for once.
            let waits = self.listener.is_some() && link.look_up.is_some();
            if rests && !waits && self.session.may_release() {
                if self.poll_settle_hidden(&mut link.judged, link.shard, cx).is_pending() {
                    // What the client asks for next may belong elsewhere.
                    return Poll::Pending;
                }
                if self.session.may_release() && !self.holds(link, connection, cx) {
                    return Poll::Ready(Event::Release);
                }
                self.note_pins(link);
                // What it is kept for since then may not be there.
                moved |= self.session.asks_pins();
            }
            // Some of what it asks for is answered here: nothing more of it is read than it takes answers.
            if connection.output.is_empty() && self.output.len() < HIGH_WATER {
                match self.pump_client(link, connection, cx) {
                    Ok(more) => moved |= more,
                    Err(event) => return Poll::Ready(event),
                }
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }

    /// Puts notifications into the output where a server would send them: while no transaction is open and nothing is being answered.
    fn take_between_transactions(&mut self, link: &Link) -> Result<(), Event> {
        let between = self.listener.is_some()
            && self.session.status() == TransactionStatus::Idle
            && self.session.is_drained()
            && !self.session.is_mid_exchange()
            && link.server_rest == 0
            && link.replay.is_none();
        if !between {
            return Ok(());
        }
        self.take_notifications().map_err(|end| match end {
            End::Told(error) => Event::Stop(error),
            End::Gone => Event::ClientGone,
        })
    }

    /// Reads once from the server and passes on what came. Whether anything came.
    fn pump_server(
        &mut self,
        link: &mut Link,
        connection: &mut Connection,
        cx: &mut Context<'_>,
    ) -> Result<bool, Event> {
        if let Some(hearing) = &mut link.hearing {
            if hearing.as_mut().poll(cx).is_pending() {
                return Ok(false);
            }
            link.hearing = None;
            let mut input = std::mem::take(&mut connection.input);
            let taken = self.take_from_server(input.bytes(), link, connection, cx);
            connection.input = match taken {
                Ok(taken) => {
                    input.consume(taken);
                    input
                }
                Err(event) => return Err(event),
            };
            return Ok(true);
        }
        let most = self.room_for_server(link, connection);
        if most == 0 {
            return Ok(false);
        }
        if connection.input.is_empty() {
            return with_scratch(|scratch| {
                let room = most.min(scratch.len());
                let room = scratch.get_mut(..room).unwrap_or_default();
                match connection.stream.poll_read(cx, room) {
                    Poll::Pending => Ok(false),
                    Poll::Ready(read) => {
                        let bytes = self.arrived(link, read, room)?;
                        let taken = self.take_from_server(bytes, link, connection, cx)?;
                        connection.input.extend(bytes.get(taken..).unwrap_or_default());
                        Ok(true)
                    }
                }
            });
        }
        let mut input = std::mem::take(&mut connection.input);
        let result = match input.poll_fill_up_to(most, &mut connection.stream, cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(read) => match self.arrived(link, read, &[]) {
                Err(event) => Err(event),
                Ok(_) => self.take_from_server(input.bytes(), link, connection, cx).map(|taken| {
                    input.consume(taken);
                    true
                }),
            },
        };
        connection.input = input;
        result
    }

    /// What a read brought; its end is the server's.
    fn arrived<'a>(&self, link: &Link, read: std::io::Result<usize>, bytes: &'a [u8]) -> Result<&'a [u8], Event> {
        let why = match read {
            Ok(n) if n > 0 => return Ok(bytes.get(..n).unwrap_or_default()),
            Ok(_) => "server closed the connection unexpectedly".to_owned(),
            Err(e) => e.to_string(),
        };
        if link.opening != Opening::Over {
            return Err(Event::Retry(Cause::Broken { sent: false }));
        }
        Err(link.leaves_for(Cause::Broken { sent: true }).unwrap_or_else(|| Event::ServerLost(lost(&why))))
    }

    /// What was cancelled was ours, and the client's statement runs now: if the client has asked for that since ours was sent, it meant this.
    fn cancel_again(&self, link: &Link) {
        if self.handle().cancels_sent.load(Ordering::Acquire) == link.cancels {
            return;
        }
        let handle = Arc::clone(self.handle());
        tokio::task::spawn_local(async move { handle.cancel(&AtomicBool::new(false)).await });
    }

    /// Passes the server's messages on; returns how many bytes are done with.
    fn take_from_server(
        &mut self,
        bytes: &[u8],
        link: &mut Link,
        connection: &mut Connection,
        cx: &mut Context<'_>,
    ) -> Result<usize, Event> {
        let mut at = link.server_rest.min(bytes.len());
        link.server_rest -= at;
        // Bytes from here to `at` go to the client as they are.
        let mut run = 0;
        while let Some(header) = frame::peek(bytes.get(at..).unwrap_or_default(), MAX_COLLECTED)
            .map_err(|e| Event::ServerLost(lost(&e.to_string())))?
        {
            let end = at.saturating_add(header.len);
            let here = end.min(bytes.len());
            let whole = link.route.is_some() || self.session.reads_rows();
            if here < end && (whole || !matches!(header.tag, b'D' | b'd')) {
                break;
            }
            let body = bytes.get(at.saturating_add(frame::HEADER_LEN)..here).unwrap_or_default();
            if link.ahead == Sending::Sent {
                self.follow_ahead(header.tag, body, link, connection)?;
                (at, run) = (here, here);
                continue;
            }
            if header.tag == b'Z' && body == b"I" && link.owned.is_some() {
                link.hearing = self.hears_first(link);
                if link.hearing.is_some() {
                    break;
                }
            }
            let answers = header.tag == b'Z' && self.session.answers_client();
            if let Some(event) = judge(link, header.tag, body) {
                if matches!(event, Event::ServerLost(_)) {
                    // It has been taken for answered.
                    self.output.extend(bytes.get(run..at).unwrap_or_default());
                }
                return Err(event);
            }
            if header.tag == b'E' && link.role == Role::Replica && link.replay.is_none() {
                self.note_refusal(body);
            }
            if header.tag == b'E' && self.session.answers_client() {
                self.pass_over_pieces(self.segment.len);
            }
            let mut action = self.session.on_server(header.tag, body, &mut connection.state).map_err(|desync| {
                tracing::error!(pool = %link.checkout.pool().name(), tag = %char::from(desync.tag), "unexpected message of the server");
                Event::ServerLost(lost("the server sent a message that nobody asked for"))
            })?;
            if header.tag == b'Z' && self.session.take_missed_cancel() {
                self.cancel_again(link);
            }
            if header.tag == b'Z'
                && let Some(held) = link.held()
            {
                let quiet = here == bytes.len();
                return Err(match held {
                    Held::Renounced => Event::Again { quiet },
                    Held::Refused { writes } => Event::Refused { writes, quiet },
                    Held::PassedOver => Event::PassedOver { refused: true, quiet },
                });
            }
            if header.tag == b'A'
                && let Some(own) = own_notification(body, connection.pid, self.handle().pid)
            {
                action = Action::Replace(own);
            }
            if matches!(header.tag, b'D' | b'E')
                && action != Action::Swallow
                && let Some(route) = link.route.take()
                && let Some(told) = route.onto(body).filter(|_| header.tag == b'D')
            {
                action = Action::Replace(told);
            }
            if matches!(header.tag, b'C' | b's')
                && let Some(error) = self.send_signals()
            {
                self.output.extend(bytes.get(run..at).unwrap_or_default());
                return Err(Event::Stop(error));
            }
            if matches!(header.tag, b'C' | b'Z') && self.listener.is_some() {
                self.follow_channels();
                if header.tag == b'Z' && body == b"I" && answers {
                    // As a server does: before the end of the answer.
                    self.output.extend(bytes.get(run..at).unwrap_or_default());
                    run = at;
                    // What was lost is told between this transaction and the next.
                    drop(self.take_notifications());
                }
            }
            if action != Action::Forward {
                self.output.extend(bytes.get(run..at).unwrap_or_default());
                run = here;
            }
            if let Action::Replace(replacement) = action {
                self.output.extend(&replacement);
            }
            let mut local = Vec::new();
            self.session.take_local(&mut local);
            if !local.is_empty() {
                self.output.extend(bytes.get(run..here).unwrap_or_default());
                self.output.extend(&local);
                run = here;
            }
            link.server_rest = end - here;
            at = here;
            match header.tag {
                b'Z' => {
                    link.heard = false;
                    self.on_ready(link, answers);
                    connection.note_prepared();
                    if self.session.may_release() {
                        // What follows is not this client's: the pool looks at it.
                        break;
                    }
                }
                // Seldom, and it may be the name that others see.
                b'S' => self.note_application_name(),
                _ => {}
            }
        }
        let passed = bytes.get(run..at).unwrap_or_default();
        link.counts.sent += passed.len() as u64;
        if link.replay.is_some() {
            self.output.extend(passed);
        } else if self.output.write_through(passed, &mut self.stream, cx).is_err() {
            return Err(Event::ClientGone);
        }
        Ok(at)
    }

    /// `answers`: the client, who asked. What we ask for ourselves is not counted, but for a block that the client began earlier.
    fn on_ready(&mut self, link: &mut Link, answers: bool) {
        let counts = u64::from(answers || link.opening != Opening::Over);
        self.note_pins(link);
        self.note_prepared();
        link.counts.query_count += counts;
        if self.session.status() == TransactionStatus::Idle {
            // Before the client hears of it: whoever it tells must not meet old answers.
            self.note_catalog_change(link);
            self.note_write(link);
            if self.session.is_drained() {
                link.judged.ended();
                if link.judged.take_new_defaults() {
                    self.leave_old_defaults();
                }
            }
            link.counts.xact_count += counts;
        }
        if self.session.is_drained() {
            self.confirm_prologue(link);
        }
        if self.session.is_drained()
            && let Some(since) = link.query_since.take()
        {
            let now = clock::moment();
            let took = now.saturating_duration_since(since);
            link.counts.query_time += micros(took);
            link.checkout.pool().counters.query_time.record(took);
            link.in_flight.server().on_success(took, now);
        }
    }

    /// Reads from the client and sends on what it may send now. Whether anything happened.
    fn pump_client(
        &mut self,
        link: &mut Link,
        connection: &mut Connection,
        cx: &mut Context<'_>,
    ) -> Result<bool, Event> {
        let (mut moved, mut wants_more) = (false, false);
        if link.opening != Opening::Over && self.session.is_drained() {
            self.opened(link, connection)?;
            moved = true;
        }
        if let Some(look_up) = &mut link.look_up {
            let Poll::Ready(looked_up) = look_up.as_mut().poll(cx) else { return Ok(false) };
            link.look_up = None;
            if let Err(error) = looked_up {
                link.asks_since = None;
                self.replace_by_refusal(error);
                self.forward_segment(link, connection);
            }
            moved = true;
        }
        if link.replay.is_none() && link.opening == Opening::Over {
            moved |= self.stream_copy_data(link, connection);
            // Before the Sync the server may hold its answers back, so there is nothing to wait for.
            // A piece of what it has sent waits for what comes of the one before.
            let piece = self.is_in_pieces() && !self.session.is_drained();
            let names = self.session.names_in_doubt() && !self.session.is_mid_exchange();
            let wait = piece || names || self.session.holds_sync();
            if link.client_rest == 0 && !wait {
                wants_more = self.gather().map_err(Event::Stop)?;
                if self.segment.complete {
                    if !self.goes_on(link, connection, cx) {
                        return Err(Event::Release);
                    }
                    if link.hold.is_some() && self.session.may_release() && self.may_meet_an_end() {
                        link.leave = Leave::IfRested;
                        link.replay = Some(self.replay(link.leave));
                    }
                    moved |= self.send_segment(link, connection)?;
                }
            }
        }
        let most = self.room_for_client(link);
        if most > 0 && (self.input.len() < self.segment.len + HIGH_WATER || wants_more) {
            match self.input.poll_fill_up_to(most, &mut self.stream, cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(n)) if n > 0 => moved = true,
                Poll::Ready(_) => return Err(Event::ClientGone),
            }
        }
        Ok(moved)
    }

    /// Passes COPY data on in pieces, without collecting the message.
    fn stream_copy_data(&mut self, link: &mut Link, connection: &mut Connection) -> bool {
        if link.client_rest == 0 {
            let max = self.live.config.general.max_packet_size as usize;
            match frame::peek(self.input.bytes(), max) {
                Ok(Some(header)) if header.tag == b'd' && self.segment.items.is_empty() => {
                    link.client_rest = header.len
                }
                _ => return false,
            }
        }
        let n = link.client_rest.min(self.input.len());
        connection.output.extend(self.input.bytes().get(..n).unwrap_or_default());
        self.input.consume(n);
        link.client_rest -= n;
        link.counts.received += n as u64;
        n > 0
    }
}

/// A notification that the client itself has sent, by the process id that it knows as its own: clients tell theirs from others' by that.
fn own_notification(body: &[u8], server_pid: u32, client_pid: u32) -> Option<Vec<u8>> {
    let (sender, rest) = body.split_first_chunk::<4>()?;
    (u32::from_be_bytes(*sender) == server_pid).then(|| {
        let mut out = Vec::new();
        encode::frame(&mut out, b'A', |b| {
            b.extend_from_slice(&client_pid.to_be_bytes());
            b.extend_from_slice(rest);
        });
        out
    })
}

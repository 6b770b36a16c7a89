//! The short way of an ordinary statement that is a transaction by itself, which most are: it goes to a server, and its answer comes in one piece
//! and goes back.
//!
//! Where there is one server, nothing is planned, routed or remembered for it: what the long way would find out is known beforehand
//! ([`QueryFacts::is_ordinary`](crate::sql::facts::QueryFacts::is_ordinary), [`Session::is_at_ease`](crate::session::Session::is_at_ease),
//! [`Shortcut`]). Elsewhere it is planned and routed as on the long way, and goes on here if that leads to the one server of a shard, or reads on a
//! replica. That it leaves nothing behind is seen by its answer ([`answer::is_whole`]). Until then its messages stay in the
//! segment, and their bytes in the input.
//!
//! Whatever turns out otherwise (an error, a notice, an answer in pieces, an order, a client that sends more or leaves, a limit that is passed) is
//! no case of its own here: the statement is then entered where it would stand had it come by the long way, and goes on there (`Client::lengthen`).
//! So this must do nothing that the long way would not have done by then, and no more than it can do again.

mod queue;

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use self::queue::Queued;
use super::{Cause, Ended, Event, Leave, Link};
use crate::client::attempt::{Attempt, Tried};
use crate::client::catalog::Planned;
use crate::client::hidden::Judged;
use crate::client::plan::Need;
use crate::client::segment::Segment;
use crate::client::sequences;
use crate::client::silence::Silence;
use crate::client::task::{Client, End, lost, micros};
use crate::clock::{self, Stamp};
use crate::config::{Consistency, Fallback, PoolMode, Role};
use crate::health::server::InFlight;
use crate::id::{ServerIndex, ShardIndex, StatementId};
use crate::metrics::counters::Counts;
use crate::net::buffer::with_scratch;
use crate::pool::{Asked, Checkout, Claim, Pool};
use crate::route::decide::{Route, Why};
use crate::server::Connection;
use crate::session::Intake;
use crate::session::prepared::Statement;
use crate::shard::plan::{PlanKind, ShardPlan};
use crate::sql::facts::{Access, QueryFacts, RouteHint};
use crate::wire::answer::{self, Expected};
use crate::wire::{encode, message};

/// Whether a client's ordinary statements all go one way.
#[derive(Debug)]
pub(in crate::client) enum Shortcut {
    /// It has not been looked at since the last reload.
    Unknown,
    /// They do not.
    None,
    /// To a server of this pool.
    To(Arc<Pool>),
    /// Each is planned.
    Planned,
}

/// What a statement needs that is planned to belong to one shard.
struct OneShard {
    need: Need,
    shard: ShardIndex,
}

/// A statement that takes the short way.
pub(in crate::client) enum Departure {
    /// It need not wait.
    Now(Boarding),
    /// It waits for a server.
    Queued(Queued),
}

/// What comes of it when there is a server.
pub(in crate::client) enum Boarding {
    /// It goes there.
    Flight(Flight),
    /// The long way begins, with what it was given.
    Back(Claim),
}

/// What is known of a statement on the short way beforehand.
pub(in crate::client) struct Course {
    in_flight: InFlight,
    /// When the pool was asked for a server.
    asked: Instant,
    /// See [`Client::leaves_nothing`].
    stamp: Option<u64>,
    expected: Expected,
    /// What the server's unnamed statement is when all is answered; none: what it was.
    unnamed: Option<Option<StatementId>>,
    access: Access,
    shard: ShardIndex,
    route: Route,
    /// How many probes in a row its server had left unanswered before.
    unanswered: u32,
}

/// A statement on the short way.
pub(in crate::client) struct Flight {
    course: Course,
    checkout: Checkout,
    /// When it was lent.
    since: Instant,
    sent: bool,
}

/// How a flight ends.
enum Flown {
    /// All is done.
    Landed,
    /// The long way goes on with this.
    Onward(Box<Link>, Option<Event>),
    /// Nothing was sent: the long way begins, with what it was given.
    Back(Option<Claim>),
}

/// The route of a statement to the only server of its shard.
fn to_the_one(server: ServerIndex, access: Access) -> Route {
    let why = match access {
        Access::Write => Why::Write,
        Access::Local => Why::PrimarysOwn,
        Access::Read | Access::Neutral => Why::NoReplica,
    };
    Route { server, role: Role::Primary, why }
}

/// A segment that is one statement.
struct Single<'a> {
    facts: &'a Arc<QueryFacts>,
    /// By the extended protocol, and whether servers know it by a name.
    statement: Option<(&'a Arc<Statement>, bool)>,
    expected: Expected,
}

impl<'a> Single<'a> {
    /// Query; or Parse, Bind, Describe, Execute and Sync, where Parse and Describe may be missing, and all else is unnamed or a statement whose
    /// name is followed.
    fn of(segment: &'a Segment) -> Option<Self> {
        let items = segment.items.as_slice();
        if let [(Intake::Query(facts), _)] = items {
            return Some(Self { facts, statement: None, expected: Expected::Simple });
        }
        let (parsed, items) = match items {
            [(Intake::Parse { statement, named: None, .. }, _), rest @ ..] => (Some(statement), rest),
            all => (None, all),
        };
        let [(Intake::Bind { statement: Some(statement), named, portal }, _), items @ ..] = items else { return None };
        let (described, items) = match items {
            [(Intake::DescribePortal, _), rest @ ..] => (true, rest),
            rest => (false, rest),
        };
        let [(Intake::Execute { portal: executed }, _), (Intake::Sync, _)] = items else { return None };
        let name = named.as_deref();
        let is_one = parsed.is_none_or(|parsed| name.is_none() && Arc::ptr_eq(parsed, statement));
        // An unnamed one that goes by a name on servers may have to be sent again.
        let is_plain = portal.is_empty() && executed.is_empty() && name != Some(b"");
        let expected = Expected::Extended { parsed: parsed.is_some(), described };
        let statement = Some((statement, named.is_some()));
        (is_one && is_plain).then_some(Self { facts: &statement?.0.facts, statement, expected })
    }

    fn parses(&self) -> bool {
        matches!(self.expected, Expected::Simple | Expected::Extended { parsed: true, .. })
    }

    /// Whether the server knows what the segment takes for granted.
    fn is_known_to(&self, connection: &mut Connection) -> bool {
        match self.statement {
            Some((statement, true)) => connection.state.statements.touch(statement.id),
            Some((statement, false)) => self.parses() || connection.state.unnamed == Some(statement.id),
            None => true,
        }
    }

    /// What the server's unnamed statement is then.
    fn unnamed(&self) -> Option<Option<StatementId>> {
        match self.statement {
            None => Some(None),
            Some((statement, _)) => self.parses().then_some(Some(statement.id)),
        }
    }
}

impl Flight {
    /// How long it waited for its server.
    fn waited(&self) -> Duration {
        self.since.saturating_duration_since(self.course.asked)
    }
}

impl Client {
    /// Sets the segment, which is complete, on the short way, if it may go that way.
    pub(in crate::client) fn takes_shortcut(&mut self) -> Option<Departure> {
        let apart = self.skipping || self.listener.is_some() || self.held_begin.is_some() || self.spread.is_some();
        let more_waits = self.input.len() != self.segment.len;
        if apart || more_waits || !self.session.is_at_ease() || !self.handle().is_untold() {
            return None;
        }
        if matches!(self.shortcut, Shortcut::Unknown) {
            self.shortcut = self.shortcut();
        }
        if matches!(self.shortcut, Shortcut::None) {
            return None;
        }
        let single = Single::of(&self.segment).filter(|single| single.facts.is_ordinary())?;
        if single.facts.access() == Access::Write && self.expects_questions() {
            let kind = sequences::kind(single.facts);
            self.values.note(kind);
            if self.expects_question_behind(kind) {
                // The server is held behind it.
                return None;
            }
        }
        // The server may read backslashes otherwise: see `Session::may_misread`.
        let text = self.segment.items.first().and_then(|(_, len)| self.input.bytes().get(5..*len)).unwrap_or_default();
        if single.parses() && memchr::memchr(b'\\', text).is_some() {
            return None;
        }
        // Whatever the client knew when it asked is older than this.
        clock::begin_moment();
        let asked = clock::moment();
        let need = match &self.shortcut {
            Shortcut::To(_) => None,
            _ => Some(self.needs_one(single.facts)?),
        };
        let (shard, access) = match &need {
            Some(OneShard { need, shard }) => (*shard, need.access),
            None => (self.database.config.map.default_shard, single.facts.access()),
        };
        let several = need.is_some() && self.has_several(shard);
        let own_types = single.statement.is_some_and(|(statement, _)| statement.has_foreign_types());
        let stamp = self.leaves_nothing(single.facts, own_types, (shard, several))?;
        // Nothing before here may count as a choice: the long way chooses again.
        let chosen = match &need {
            Some(OneShard { need, .. }) if several => Some(self.replica_for(need, asked)?),
            _ => None,
        };
        let only;
        let pool = match &self.shortcut {
            Shortcut::To(pool) => pool,
            _ => {
                let server = chosen.as_ref().map_or(ServerIndex(0), |(route, _)| route.server);
                only = self.database.pool(&self.pools, shard, server)?;
                &only
            }
        };
        if !pool.health.is_at_peace() {
            return None;
        }
        let lent = pool.lend_at_once(self.cx.id, |connection| self.suits(&single, shard, connection));
        // Else whoever comes next would take its place in the queue.
        let given = match lent {
            Some(checkout) => Asked::Now(checkout),
            None => pool.ask(self.cx.id).ok()?,
        };
        let to_the_one = || (to_the_one(pool.key.server, access), pool.health.begin_anyway(asked));
        let (route, in_flight) = chosen.unwrap_or_else(to_the_one);
        let course = Course {
            unanswered: in_flight.server().unanswered(),
            in_flight,
            asked,
            stamp,
            expected: single.expected,
            unnamed: single.unnamed(),
            access,
            shard,
            route,
        };
        self.handle().asks(asked.saturating_duration_since(self.cx.shared.started));
        self.rests_since = Stamp::default();
        Some(match given {
            Asked::Now(checkout) => Departure::Now(self.boards(course, checkout, asked)),
            Asked::Later(ticket) => {
                self.shows_wait(asked);
                Departure::Queued(Queued::new(course, ticket, self.patience(asked)))
            }
        })
    }

    /// Whether a statement may go to this server as it is.
    fn suits(&self, single: &Single<'_>, shard: ShardIndex, connection: &mut Connection) -> bool {
        connection.state.settings.plainly_agrees(self.session.settings())
            // What plainly reads asks for none, and takes none.
            && (single.facts.access() < Access::Write || !self.must_forget(&connection.state, shard))
            && single.is_known_to(connection)
    }

    /// What the configuration says of it.
    fn shortcut(&self) -> Shortcut {
        let (config, general) = (&self.database.config, &self.live.config.general);
        let by_transaction = self.pools.mode != PoolMode::Session && !general.server_reset_query_always;
        let plain = self.route == RouteHint::Auto
            && config.health.fallback != Fallback::Error
            && config.health.consistency != Consistency::Strong;
        if !(by_transaction && plain) {
            return Shortcut::None;
        }
        if self.has_replicas() || config.map.is_sharded() {
            return Shortcut::Planned;
        }
        let pool = self.database.pool(&self.pools, config.map.default_shard, ServerIndex(0));
        pool.map_or(Shortcut::None, Shortcut::To)
    }

    /// Whether planning an ordinary text would come to [`Need::plain_read`]: nothing but its own words and a few settings decide.
    fn reads_plainly(&self, facts: &QueryFacts) -> bool {
        let settings = self.session.settings();
        !self.database.config.map.is_sharded()
            && facts.access() == Access::Read
            && facts.statements.iter().all(|statement| statement.functions.is_empty())
            && settings.get("pgweir.route").is_none()
            && settings.get("default_transaction_isolation").is_none()
    }

    /// What an ordinary statement needs of one shard, as it is planned on the long way. None where it needs more than this way gives, or where that
    /// has something to ask or to refuse.
    fn needs_one(&self, facts: &QueryFacts) -> Option<OneShard> {
        if facts.access() != Access::Read && self.has_replicas() {
            return None;
        }
        let planned = if self.reads_plainly(facts) {
            Planned::Need(Need::plain_read(self.database.config.map.default_shard))
        } else {
            self.plan(false, false, false)
        };
        let Planned::Need(need) = self.weigh(planned) else { return None };
        let &ShardPlan::Single { shard, .. } = &need.plan else { return None };
        let Need { hint, begin_read_only, changes_catalog, asks_sequences, .. } = &need;
        let plain = *hint == RouteHint::Auto && !begin_read_only && !changes_catalog && !asks_sequences;
        let fits = need.access == Access::Read || !self.has_several(shard);
        (plain && fits).then_some(OneShard { need, shard })
    }

    /// The replica that it is read on; none where that is the primary, or nobody.
    fn replica_for(&self, need: &Need, now: Instant) -> Option<(Route, InFlight)> {
        let mut attempt = Attempt::new();
        let (shard, request) = self.request(need, &attempt);
        self.choose(shard, &request, &mut attempt, now).ok().filter(|(route, _)| route.role == Role::Replica)
    }

    /// Brings the statement to its server and the answer back.
    pub(in crate::client) async fn fly(&mut self, departure: Departure) -> Result<(), End> {
        let boarding = match departure {
            Departure::Now(boarding) => boarding,
            Departure::Queued(queued) => {
                let mut queued = Some(queued);
                poll_fn(|cx| self.poll_queue(&mut queued, cx)).await
            }
        };
        let flown = match boarding {
            Boarding::Back(claim) => Flown::Back(Some(claim)),
            Boarding::Flight(flight) => {
                let mut flight = Some(flight);
                poll_fn(|cx| self.poll_flight(&mut flight, cx)).await?
            }
        };
        match flown {
            Flown::Landed => Ok(()),
            Flown::Onward(link, event) => Box::pin(self.go_on(link, event)).await,
            Flown::Back(claim) => {
                self.claim = claim.map(Box::new);
                let served = Box::pin(self.serve()).await;
                // It needed none, or another.
                self.claim = None;
                served
            }
        }
    }

    /// The long way from here on, where the statement stands as if it had come by it.
    async fn go_on(&mut self, mut link: Box<Link>, event: Option<Event>) -> Result<(), End> {
        self.refresh_limits();
        let event = match (event, link.checkout.take()) {
            (None, Some(connection)) => self.relay_on(&mut link, connection).await,
            (event, connection) => {
                *link.checkout = connection;
                event.unwrap_or_else(|| Event::ServerLost(lost("it was never there")))
            }
        };
        let (role, shard, server, asked) = (link.role, link.shard, link.server, link.since);
        let (ended, wrote) = self.end_relay(link, event).await;
        if role == Role::Replica {
            let mut attempt = Attempt::new();
            (attempt.asked, attempt.ahead) = (asked, self.may_follow_settings());
            let tried = Tried { ended, wrote, role, shard, server };
            return self.execute_from(Need::plain_read(shard), attempt, Some(tried)).await;
        }
        if wrote {
            self.has_written(clock::now());
        }
        match ended {
            // It is in the input once more.
            Ended::Released | Ended::Retry(Cause::Rested) => Ok(()),
            Ended::Client(end) => Err(end),
            // Nothing is kept that could be tried again, and it belongs to one shard.
            Ended::Retry(_) | Ended::Again | Ended::PassedOver { .. } | Ended::Spread(_) => {
                Err(End::Told(lost("its answer was cut short")))
            }
        }
    }

    fn poll_flight(&mut self, flight: &mut Option<Flight>, cx: &mut Context<'_>) -> Poll<Result<Flown, End>> {
        let told = self.handle().bell.has_rung(cx) || !self.handle().is_untold();
        let onward = |client: &mut Self, flight: Option<Flight>| {
            Poll::Ready(Ok(flight.map_or(Flown::Back(None), |flight| Flown::Onward(client.lengthen(flight), None))))
        };
        let Some(flying) = flight.as_mut() else { return Poll::Ready(Ok(Flown::Back(None))) };
        let (asked, expected) = (flying.course.asked, flying.course.expected);
        if !flying.sent {
            let Some(connection) = flying.checkout.as_mut() else { return Poll::Ready(Ok(Flown::Back(None))) };
            // What was said while it rested is looked at before it is lent. From here on we are woken for what it says.
            if told || !connection.input.is_empty() || connection.stream.poll_readable(cx) {
                return Poll::Ready(Ok(self.turn_back(flight.take())));
            }
            let sent = self.send(flying, cx);
            if !sent || self.stream.poll_readable(cx) || self.is_late(asked, cx) {
                return onward(self, flight.take());
            }
            return Poll::Pending;
        }
        if told {
            return onward(self, flight.take());
        }
        with_scratch(|scratch| {
            let connection = flight.as_mut().and_then(|flight| flight.checkout.as_mut());
            let Some(connection) = connection else { return Poll::Ready(Err(End::Told(lost("it was never there")))) };
            let read = match connection.stream.poll_read(cx, scratch) {
                Poll::Ready(read) => read,
                Poll::Pending if self.stream.poll_readable(cx) || self.is_late(asked, cx) => {
                    return onward(self, flight.take());
                }
                Poll::Pending => return Poll::Pending,
            };
            let Some(flown) = flight.take() else { return Poll::Ready(Err(End::Told(lost("it was never there")))) };
            let bytes = read.as_ref().ok().and_then(|n| scratch.get(..*n));
            match bytes.filter(|bytes| answer::is_whole(bytes, expected)) {
                Some(bytes) => Poll::Ready(self.land(flown, bytes, cx).map(|()| Flown::Landed)),
                None => Poll::Ready(Ok(self.take_off_course(flown, read, scratch, cx))),
            }
        })
    }

    /// Nothing was sent: the connection is the long way's, unless it has ended.
    fn turn_back(&self, flight: Option<Flight>) -> Flown {
        self.hides_links();
        let claim = flight.and_then(|flight| {
            let Flight { course, checkout, .. } = flight;
            let pool = Arc::clone(checkout.pool());
            let checkout = checkout.prepare(self.cx.id, None)?;
            Some(Claim::new(pool, course.asked, Ok(Asked::Now(checkout))))
        });
        Flown::Back(claim)
    }

    /// Sends the segment; whether the server's socket has taken all of it.
    fn send(&self, flight: &mut Flight, cx: &mut Context<'_>) -> bool {
        flight.sent = true;
        let Some(connection) = flight.checkout.as_mut() else { return false };
        let bytes = self.input.bytes().get(..self.segment.len).unwrap_or_default();
        let Connection { stream, output, .. } = &mut **connection;
        let written = match self.segment.items.first() {
            Some((Intake::Bind { statement: Some(statement), named: Some(_), .. }, len)) => {
                let (bind, rest) = bytes.split_at_checked(*len).unwrap_or_default();
                let values = message::bind(bind.get(5..).unwrap_or_default()).map(|bind| bind.rest).unwrap_or_default();
                encode::bind(output.tail(), b"", statement.server_name().as_bytes(), values);
                output.extend(rest);
                Ok(())
            }
            _ => output.write_through(bytes, stream, cx),
        };
        match written.map(|()| output.poll_flush(stream, cx)) {
            Ok(Poll::Ready(Ok(()))) => return true,
            Ok(Poll::Pending) => {}
            Err(_) | Ok(Poll::Ready(Err(_))) => {
                // It shows again on the long way, with what the server said before it went.
                output.truncate(0);
                flight.sent = false;
            }
        }
        false
    }

    /// Whether a limit is passed; if not, the task is woken when it is.
    fn is_late(&mut self, since: Instant, cx: &mut Context<'_>) -> bool {
        let limit = if self.limits.any_of_link() { self.limits.statement(since, None) } else { None };
        limit.is_some_and(|(at, _)| self.timer.passed(at, cx))
    }

    /// What is counted when a server was lent.
    fn count_flight(&self, flight: &Flight) {
        let course = &flight.course;
        flight.checkout.pool().counters.wait_time.record(flight.waited());
        if course.access < Access::Write {
            course.in_flight.server().count_read();
        }
        self.database.routes.count(course.route.why);
        self.count_plan(PlanKind::Single);
    }

    /// All is answered: the client gets it, and the server goes back.
    fn land(&mut self, flight: Flight, bytes: &[u8], cx: &mut Context<'_>) -> Result<(), End> {
        self.count_flight(&flight);
        let waited = flight.waited();
        let Flight { course, mut checkout, since, .. } = flight;
        let Course { in_flight, stamp, unnamed, access, expected, shard, .. } = course;
        let writes = access == Access::Write;
        let sent = self.output.write_through(bytes, &mut self.stream, cx);
        let received = self.segment.len;
        self.session.has_passed(self.segment.items.len());
        self.segment.clear();
        self.input.consume(received);
        let (pool, slot) = (Arc::clone(checkout.pool()), checkout.slot());
        if let Some(connection) = checkout.as_mut() {
            connection.state.unnamed = unnamed.unwrap_or(connection.state.unnamed);
            if writes {
                self.takes_values(&mut connection.state.sequences, &pool, slot);
            }
        }
        let now = clock::moment();
        let took = now.saturating_duration_since(since);
        let us = micros(took);
        let counters = &checkout.pool().counters;
        counters.query_time.record(took);
        counters.totals.add(&Counts {
            server_assignment_count: 1,
            xact_count: 1,
            query_count: 1,
            received: received as u64,
            sent: bytes.len() as u64,
            // With the wait, as on the long way.
            xact_time: us.saturating_add(micros(waited)),
            query_time: us,
            wait_time: micros(waited),
            bind_count: u64::from(expected != Expected::Simple),
            ..Counts::default()
        });
        in_flight.server().on_success(took, now);
        if writes {
            self.has_written(now);
        }
        self.hides_links();
        if self.has_other_code(stamp) {
            checkout.release(self.verdict_of_other_code(shard));
        } else {
            checkout.rest();
        }
        sent.map_err(End::from)
    }

    /// Something else has come than was expected: it is taken in on the long way.
    fn take_off_course(&mut self, flight: Flight, read: io::Result<usize>, room: &[u8], cx: &mut Context<'_>) -> Flown {
        let mut link = self.lengthen(flight);
        let Some(mut connection) = link.checkout.take() else { return Flown::Onward(link, None) };
        let taken = match self.arrived(&link, read, room) {
            Ok(bytes) => self.take_from_server(bytes, &mut link, &mut connection, cx).map(|taken| {
                connection.input.extend(bytes.get(taken..).unwrap_or_default());
            }),
            Err(event) => Err(event),
        };
        // What the server says behind the whole answer is not this client's: the pool looks at it.
        let over = taken.is_ok()
            && self.session.may_release()
            && connection.output.is_empty()
            && self.poll_settle_hidden(&mut link.judged, link.shard, cx).is_ready()
            && self.session.may_release();
        *link.checkout = Some(connection);
        Flown::Onward(link, taken.err().or_else(|| over.then_some(Event::Release)))
    }

    /// The statement as it stands on the long way: lent for, and sent if it was.
    fn lengthen(&mut self, flight: Flight) -> Box<Link> {
        self.count_flight(&flight);
        let waited = flight.waited();
        let Flight { course, checkout, since, sent } = flight;
        let Course { in_flight, asked, stamp, access, shard, route, unanswered, .. } = course;
        let writes = access == Access::Write;
        let silence = || Silence::since(in_flight.server(), unanswered);
        let silence = (route.role == Role::Replica).then(silence);
        let mut link = Link::boxed(checkout, in_flight, route.role, shard, route.server, asked);
        link.silence = silence;
        if route.role == Role::Replica {
            link.outlived = self.replicated(shard).is_some();
            link.replay = self.output.is_empty().then(|| self.replay(link.leave));
        } else if self.may_meet_an_end() {
            link.leave = Leave::IfRested;
            link.replay = Some(self.replay(link.leave));
        }
        link.counts.server_assignment_count = 1;
        link.counts.wait_time = micros(waited);
        (link.wrote, link.has_written) = (writes, writes);
        link.judged = Judged::since(stamp);
        link.query_since = Some(since);
        if let Some(mut connection) = link.checkout.take() {
            let unsent = std::mem::take(&mut connection.output);
            if sent {
                // It runs: whether it may was decided before.
                self.enter_segment(&mut link, &mut connection);
                // What was written just now has been sent, as far as it does not wait there.
                connection.output = unsent;
            } else {
                self.forward_segment(&mut link, &mut connection);
            }
            *link.checkout = Some(connection);
        }
        link
    }
}

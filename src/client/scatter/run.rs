//! Moves what the shards send to the client, until all have ended or one has failed.
//!
//! Written as one poll function, as the relay of one server is. A shard is not read from while too much waits for the client, and at most
//! one read and one unfinished row of each is held.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::fetch::Fetch;
use super::leg::{Leg, State};
use super::prepare::{Gather, Prepared};
use super::{Extended, request, request_part};
use crate::client::limits::{Doing, Watch};
use crate::client::segment::Segment;
use crate::client::shared::Order;
use crate::client::task::{Client, End, HIGH_WATER, terminated_as};
use crate::clock;
use crate::error::{Error, SqlState};
use crate::health::breaker::FailureKind;
use crate::id::ShardIndex;
use crate::net::Buffer;
use crate::pool::ledger::SlotId;
use crate::pool::{Pool, Verdict};
use crate::session::is_fatal;
use crate::shard::merge;
use crate::wire::frame::FrameError;
use crate::wire::message::Reader;
use crate::wire::{encode, frame, message};

/// Longest message of a shard: it is held whole, and there may be one of each shard for every client.
pub(super) const MAX_MESSAGE: usize = 64 << 20;

/// How it ended.
pub(super) enum Outcome {
    /// All rows have been passed on.
    Done,
    /// This ErrorResponse is the statement's answer.
    Failed(Vec<u8>),
    /// The client's session is over.
    Ended(End),
}

/// A statement under way on several shards.
pub(super) struct Run {
    legs: Vec<Leg>,
    extended: Option<Extended>,
    /// Brings the rows together; without it they are passed on.
    gather: Option<Gather>,
    /// What the client is told of columns, if that is not what the shards say.
    header: Option<Vec<u8>>,
    /// The first RowDescription that came.
    columns: Option<Vec<u8>>,
    /// All shards have said what their columns are, and the client was told.
    begun: bool,
    rows: u64,
    /// A shard's columns are not what one has announced.
    outdated: bool,
    /// It is within the client's transaction: nothing is cancelled, for that would end it.
    in_block: bool,
    /// Shards that have done their part, of a transaction that goes on.
    spare: Vec<Leg>,
    /// Rows that the client asks for at most; 0: all.
    most: u64,
    /// They are asked for in parts.
    pub(super) fetch: Option<Fetch>,
    /// The shard whose numbers of tables the client knows.
    home: ShardIndex,
    /// When the client asked.
    since: Instant,
}

impl Run {
    /// Asks all. The client has asked at `since`; `home` is the default shard.
    pub(super) fn new(
        mut legs: Vec<Leg>,
        extended: Option<Extended>,
        prepared: Prepared,
        segment: &Segment,
        (home, since): (ShardIndex, Instant),
        in_block: bool,
    ) -> Self {
        let most = extended.as_ref().map_or(0, |extended| extended.most);
        // Within a block the client may ask for the rest.
        let fetch = (in_block && most > 0).then(|| Fetch::new(most, legs.len()));
        let request = match &fetch {
            Some(fetch) => {
                let part = (fetch.portal(), most);
                request_part(&prepared.sql, &prepared.types, &prepared.bound, part)
            }
            None => request(&prepared.sql, &prepared.types, &prepared.bound),
        };
        for leg in &mut legs {
            leg.ask(&request);
        }
        super::count_segment(&mut legs, segment);
        let gather = prepared.gather;
        let (header, columns) = (gather.as_ref().map(|gather| gather.header.clone()), None);
        Self {
            legs,
            extended,
            gather,
            header,
            columns,
            begun: false,
            rows: 0,
            outdated: false,
            in_block,
            spare: Vec::new(),
            most: u64::from(most),
            fetch,
            home,
            since,
        }
    }

    /// What is left to do by one of the shards, which is asked now, and the others are given back; or the same, if nothing is left, and
    /// which of both it is.
    pub(super) fn next(mut self, verdict: Verdict) -> (Self, bool) {
        let Some(last) = self.gather.as_mut().and_then(|gather| gather.last.take()) else { return (self, false) };
        let mut legs = self.legs.into_iter();
        let mut first: Vec<Leg> = legs.next().into_iter().collect();
        if self.in_block {
            self.spare.extend(legs);
        } else {
            legs.for_each(|leg| leg.finish(verdict));
        }
        let request = last.request();
        for leg in &mut first {
            leg.ask_again(&request);
        }
        if let Some(fetch) = &mut self.fetch {
            fetch.begin_last();
        }
        (Self { legs: first, gather: None, columns: None, begun: false, rows: 0, ..self }, true)
    }

    /// Whether the client has as many rows as it asked for.
    pub(super) fn is_suspended(&self) -> bool {
        match &self.fetch {
            Some(fetch) => fetch.is_full(),
            None => self.most > 0 && self.passed() >= self.most,
        }
    }

    /// Rows that were passed on to the client, of all that it was given without parts.
    fn passed(&self) -> u64 {
        if self.collects() { 0 } else { self.gather.as_ref().map_or(self.rows, |gather| gather.merge.rows()) }
    }

    /// Its connections, for as long as the client has what it asked for.
    pub(super) fn take_legs(&mut self) -> Vec<Leg> {
        let mut legs = std::mem::take(&mut self.legs);
        legs.append(&mut self.spare);
        legs
    }

    /// Goes on with its connections; the last of its stages may need only the first.
    pub(super) fn resume(&mut self, legs: Vec<Leg>, since: Instant, closes: bool) {
        if let Some(extended) = &mut self.extended {
            (extended.closed, extended.parse, extended.close) = (0, false, closes);
        }
        let count = self.fetch.as_ref().map_or(legs.len(), Fetch::legs);
        let mut legs = legs.into_iter();
        self.legs = legs.by_ref().take(count).collect();
        self.spare = legs.collect();
        self.since = since;
        self.legs.iter_mut().filter(|leg| !leg.is_lost()).for_each(|leg| leg.state = State::Ready);
    }

    /// The merge, the rows that wait, and the connections.
    pub(super) fn parts(&mut self) -> (Option<&mut Gather>, Option<&mut Fetch>, &mut [Leg]) {
        (self.gather.as_mut(), self.fetch.as_mut(), &mut self.legs)
    }

    /// Whether what comes is not for the client.
    fn collects(&self) -> bool {
        self.gather.as_ref().is_some_and(|gather| gather.last.is_some())
    }

    /// Whom a cancel request goes to.
    pub(super) fn links(&self) -> Vec<(Arc<Pool>, SlotId)> {
        self.legs.iter().map(Leg::link).collect()
    }

    /// Whether the statement's text was taken.
    pub(super) fn is_parsed(&self) -> bool {
        self.legs.iter().any(|leg| leg.parsed)
    }

    /// Whether it was what came after the values that failed, as far as shards have failed.
    fn is_bound(&self) -> bool {
        let failed = |leg: &&Leg| matches!(leg.state, State::Failed | State::Lost);
        let all = self.legs.iter().filter(failed).all(|leg| leg.bound);
        all && self.legs.iter().any(|leg| leg.bound)
    }

    /// What the client is told before the error that ends the statement: what was done before it.
    pub(super) fn before_error(&self, out: &mut Vec<u8>) {
        let Some(extended) = self.extended.as_ref().filter(|_| !self.begun || self.collects()) else { return };
        extended.tell_closed(out);
        if !self.is_parsed() {
            return;
        }
        if extended.parse {
            out.extend_from_slice(encode::PARSE_COMPLETE);
        }
        if self.is_bound() {
            out.extend_from_slice(encode::BIND_COMPLETE);
        }
    }

    /// Has the merge take something in.
    fn merges(&mut self, take: impl FnOnce(&mut Gather) -> Result<(), Error>) -> Result<(), Outcome> {
        let Some(gather) = &mut self.gather else { return Ok(()) };
        take(gather).map_err(|error| {
            if error.reason != Some(merge::DISORDERED) || !gather.recalls {
                return failed(&error);
            }
            self.outdated = true;
            failed(&sorted_otherwise())
        })
    }

    /// Whether a shard's columns are not what was known of them.
    pub(super) fn is_outdated(&self) -> bool {
        self.outdated
    }

    /// Rows passed on.
    pub(super) fn rows(&self) -> u64 {
        if let Some(fetch) = &self.fetch {
            return fetch.told();
        }
        self.gather.as_ref().map_or(self.rows, |gather| gather.merge.rows())
    }

    /// What the client waits for beside rows.
    pub(super) fn extended(&self) -> Option<&Extended> {
        self.extended.as_ref()
    }

    /// Gives the connections back.
    pub(super) fn finish(self, verdict: Verdict) {
        self.legs.into_iter().for_each(|leg| leg.finish(verdict));
    }

    /// Takes in a shard's RowDescription.
    fn describe(&mut self, at: usize, body: &[u8]) -> Result<(), Error> {
        let at_home = self.legs.get(at).is_some_and(|leg| leg.shard == self.home);
        match &self.columns {
            None if self.gather.as_ref().is_some_and(|gather| !gather.expects(body)) => {
                self.outdated = true;
                return Err(columns_differ());
            }
            None if at_home => self.columns = Some(body.to_vec()),
            None => self.columns = Some(without_tables(body).ok_or_else(malformed)?),
            Some(first) if !same_columns(first, body) => return Err(columns_differ()),
            Some(_) if at_home => self.columns = Some(body.to_vec()),
            Some(_) => {}
        }
        if let Some(leg) = self.legs.get_mut(at) {
            leg.state = State::Described;
        }
        Ok(())
    }

    /// Tells the client of the columns once all shards have.
    fn begin(&mut self, out: &mut Vec<u8>) {
        if self.begun || self.legs.iter().any(|leg| leg.state == State::Asked) {
            return;
        }
        self.begun = true;
        if self.collects() {
            return;
        }
        let describe = match &self.extended {
            None => true,
            Some(extended) => {
                extended.tell_closed(out);
                if extended.parse {
                    out.extend_from_slice(encode::PARSE_COMPLETE);
                }
                out.extend_from_slice(encode::BIND_COMPLETE);
                extended.describe
            }
        };
        let shown = self.header.as_ref().or(self.columns.as_ref());
        if let Some(columns) = shown.filter(|_| describe) {
            encode::frame(out, b'T', |b| b.extend_from_slice(columns));
        }
    }

    /// All shards have ended, or what they still send is not needed.
    fn is_over(&self) -> bool {
        let ended = self.legs.iter().all(|leg| leg.state == State::Ready);
        if self.fetch.is_some() {
            return ended;
        }
        if self.begun && self.is_suspended() {
            return true;
        }
        match &self.gather {
            None => ended,
            Some(gather) if !self.begun || !gather.merge.is_done() => false,
            Some(_) if self.in_block => ended,
            Some(_) => ended || self.legs.iter().any(|leg| leg.state == State::Described),
        }
    }
}

impl Client {
    /// Moves everything until it is over; follows orders, limits and the client's leaving.
    pub(super) async fn run_scatter(&mut self, run: &mut Run) -> Outcome {
        let handle = Arc::clone(self.handle());
        let mut watch = Watch::within(run.since, self.begun_at());
        poll_fn(|cx| {
            if handle.bell.has_rung(cx) {
                self.refresh_limits();
            }
            match handle.standing_order() {
                Order::Kill => return Poll::Ready(Outcome::Ended(End::Told(terminated_as(&handle)))),
                // It was for the wait that is over.
                Order::Cancel => handle.cancel_is_done(),
                Order::None | Order::Drain => {}
            }
            if handle.is_asked() {
                self.tell();
            }
            if let Poll::Ready(outcome) = self.poll_scatter(run, cx) {
                return Poll::Ready(outcome);
            }
            let silent = run.legs.iter_mut().position(|leg| leg.state < State::Ready && leg.is_silent());
            if let Some(at) = silent {
                return Poll::Ready(self.lose(run, at, "it answers nothing any more, probes neither"));
            }
            if !self.limits.any_of_link() {
                return Poll::Pending;
            }
            let doing =
                Doing { in_flight: true, in_transaction: true, pinned: false, asked: 0, answered: 0, transactions: 0 };
            match watch.next(&self.limits, doing, clock::now()) {
                Some((at, overdue)) if self.timer.passed(at, cx) => {
                    Poll::Ready(Outcome::Ended(End::Told(self.time_is_up(overdue))))
                }
                _ => Poll::Pending,
            }
        })
        .await
    }

    fn poll_scatter(&mut self, run: &mut Run, cx: &mut Context<'_>) -> Poll<Outcome> {
        loop {
            if self.handle().is_suspended() {
                return self.poll_rest(cx);
            }
            let mut moved = false;
            for at in 0..run.legs.len() {
                match self.poll_leg(run, at, cx) {
                    Ok(more) => moved |= more,
                    Err(outcome) => return Poll::Ready(outcome),
                }
            }
            match self.take_rows(run) {
                Ok(more) => moved |= more,
                Err(error) => return Poll::Ready(failed(&error)),
            }
            let full = self.output.len() >= HIGH_WATER;
            if let Poll::Ready(Err(_)) = self.output.poll_flush(&mut self.stream, cx) {
                return Poll::Ready(Outcome::Ended(End::Gone));
            }
            // No shard was read from for want of room, so nothing would wake us when one has more.
            moved |= full && self.output.len() < HIGH_WATER;
            if run.is_over() {
                return Poll::Ready(Outcome::Done);
            }
            // What the client sends meanwhile waits in the kernel, beyond one read; its leaving is noticed.
            while self.input.len() < HIGH_WATER {
                match self.input.poll_fill(&mut self.stream, cx) {
                    Poll::Ready(Ok(n)) if n > 0 => {}
                    Poll::Ready(_) => return Poll::Ready(Outcome::Ended(End::Gone)),
                    Poll::Pending => break,
                }
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }

    /// Passes on rows that were brought together; whether any were taken, also such as are not shown: there is room for others then.
    fn take_rows(&mut self, run: &mut Run) -> Result<bool, Error> {
        let most = run.most;
        let taken_here = run.begun && run.fetch.is_none();
        let Some(gather) = run.gather.as_mut().filter(|_| taken_here) else { return Ok(false) };
        let before = gather.merge.taken();
        while self.output.len() < HIGH_WATER {
            if most > 0 && gather.last.is_none() && gather.merge.rows() >= most {
                break;
            }
            let Some(row) = gather.merge.pop()? else { break };
            if let Some(last) = &mut gather.last {
                last.push(&row)?;
                continue;
            }
            encode::frame(self.output.tail(), b'D', |b| b.extend_from_slice(&row));
        }
        Ok(gather.merge.taken() != before)
    }

    /// Because of SUSPEND: only whole messages are on the way to the client, and when they are gone it is at rest.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        match self.output.poll_flush(&mut self.stream, cx) {
            Poll::Ready(Ok(())) => self.handle().set_flushed(),
            Poll::Ready(Err(_)) => return Poll::Ready(Outcome::Ended(End::Gone)),
            Poll::Pending => {}
        }
        Poll::Pending
    }

    /// Writes to a shard and reads from it once; whether anything came.
    fn poll_leg(&mut self, run: &mut Run, at: usize, cx: &mut Context<'_>) -> Result<bool, Outcome> {
        let Some(leg) = run.legs.get_mut(at) else { return Ok(false) };
        if leg.state >= State::Ready {
            return Ok(false);
        }
        let Some(connection) = leg.connection() else { return Ok(false) };
        let mut input = std::mem::take(&mut connection.input);
        // A server that takes nothing more may have said why.
        let unwritable = matches!(connection.output.poll_flush(&mut connection.stream, cx), Poll::Ready(Err(_)));
        let outcome = self.read_leg(run, at, &mut input, cx);
        if let Some(connection) = run.legs.get_mut(at).and_then(Leg::connection) {
            connection.input = input;
        }
        match outcome {
            Ok(false) if unwritable => Err(self.lose(run, at, "it takes no more")),
            outcome => outcome,
        }
    }

    fn read_leg(
        &mut self,
        run: &mut Run,
        at: usize,
        input: &mut Buffer,
        cx: &mut Context<'_>,
    ) -> Result<bool, Outcome> {
        let mut moved = false;
        loop {
            // Those that had to wait come first.
            let before = input.len();
            let wants_more = self.take_messages(run, at, input)?;
            moved |= input.len() != before;
            let is_ready = run.legs.get(at).is_none_or(|leg| leg.state >= State::Ready);
            if !wants_more || is_ready {
                return Ok(moved);
            }
            let Some(connection) = run.legs.get_mut(at).and_then(Leg::connection) else { return Ok(moved) };
            match input.poll_fill(&mut connection.stream, cx) {
                Poll::Pending => return Ok(moved),
                Poll::Ready(Ok(n)) if n > 0 => moved = true,
                Poll::Ready(Ok(_)) => return Err(self.lose(run, at, "server closed the connection unexpectedly")),
                Poll::Ready(Err(e)) => return Err(self.lose(run, at, &e.to_string())),
            }
        }
    }

    /// Takes a shard's whole messages; whether more are wanted of it now.
    fn take_messages(&mut self, run: &mut Run, at: usize, input: &mut Buffer) -> Result<bool, Outcome> {
        loop {
            let next = match frame::next(input.bytes(), MAX_MESSAGE) {
                Ok(Some(next)) => next,
                Ok(None) => return Ok(true),
                Err(FrameError::TooLong { tag: b'D', .. }) => return Err(failed(&row_too_long())),
                Err(e) => return Err(self.lose(run, at, &e.to_string())),
            };
            let (len, body) = (next.bytes.len(), next.body());
            let Some(leg) = run.legs.get_mut(at) else { return Ok(false) };
            match (next.tag, leg.state) {
                (b'1', State::Asked) => leg.parsed = true,
                (b'2', State::Asked) => leg.bound = true,
                (b'T', State::Asked) => {
                    if let Err(error) = run.describe(at, body) {
                        return Err(failed(&error));
                    }
                    run.begin(self.output.tail());
                }
                (b'D', State::Described) if run.fetch.is_some() => {
                    if !run.begun {
                        return Ok(false);
                    }
                    leg.counts.sent += len as u64;
                    match (&mut run.gather, &mut run.fetch) {
                        (Some(gather), _) if gather.merge.is_done() => {}
                        (Some(_), _) => run.merges(|gather| gather.merge.push(at, body))?,
                        (None, Some(fetch)) => fetch.hold(body),
                        (None, None) => {}
                    }
                }
                (b's', State::Described) if run.fetch.is_some() => leg.state = State::Complete,
                (b'D', State::Described) => {
                    if !run.begun || self.output.len() >= HIGH_WATER || run.most > 0 && run.rows >= run.most {
                        return Ok(false);
                    }
                    leg.counts.sent += len as u64;
                    match &mut run.gather {
                        None => {
                            self.output.extend(next.bytes);
                            run.rows += 1;
                        }
                        // More than is shown: it comes to its end without being cancelled.
                        Some(gather) if run.in_block && gather.merge.is_done() => {}
                        Some(gather) if !gather.merge.wants(at) => return Ok(false),
                        Some(_) => run.merges(|gather| gather.merge.push(at, body))?,
                    }
                }
                (b'C', State::Described) => {
                    leg.state = State::Complete;
                    if let Some(fetch) = &mut run.fetch {
                        fetch.end(at);
                    }
                    if let Some(gather) = &mut run.gather
                        && !(run.in_block && gather.merge.is_done())
                    {
                        gather.merge.end(at).map_err(|error| failed(&error))?;
                    }
                }
                (b'Z', State::Complete) if body == b"T" && run.in_block => {
                    leg.is_ready_within();
                    input.consume(len);
                    return Ok(false);
                }
                (b'Z', State::Complete) if body == b"I" && !run.in_block => {
                    leg.is_ready();
                    input.consume(len);
                    return Ok(false);
                }
                (b'E', _) => {
                    leg.state = State::Failed;
                    let state = SqlState::from_bytes(message::error_field(body, b'C').unwrap_or_default());
                    if is_fatal(body) {
                        leg.state = State::Lost;
                        if FailureKind::of_sqlstate(state).is_some() {
                            let text =
                                message::error_field(body, b'M').map(String::from_utf8_lossy).unwrap_or_default();
                            leg.in_flight.server().on_admin_shutdown(&text, clock::now());
                        }
                    }
                    let shard = self.database.config.map.name(leg.shard);
                    // Of a simple query nothing is bound, and the server could not tell that parameters were too many.
                    let unbound = run.extended.is_none() && leg.parsed && !leg.bound;
                    let error = if unbound && state == SqlState::PROTOCOL_VIOLATION {
                        encoded(&no_parameter())
                    } else {
                        error_of_shard(body, shard)
                    };
                    input.consume(len);
                    return Err(Outcome::Failed(error));
                }
                (b'N', _) => {
                    if self.output.len() >= HIGH_WATER {
                        return Ok(false);
                    }
                    self.output.extend(next.bytes);
                }
                (b'S', _) => {
                    if let Some(connection) = leg.connection() {
                        connection.report(body);
                    }
                }
                (b'A', _) => {}
                (tag, _) => {
                    let (pool, _) = leg.link();
                    tracing::error!(pool = %pool.name(), tag = %char::from(tag), "unexpected message of the server");
                    return Err(self.lose(run, at, "the server sent a message that nobody asked for"));
                }
            }
            input.consume(len);
        }
    }

    /// A shard's connection is lost, and with it the statement.
    fn lose(&self, run: &mut Run, at: usize, why: &str) -> Outcome {
        let Some(leg) = run.legs.get_mut(at) else { return failed(&lost("?", why)) };
        leg.lost(why);
        let shard = self.database.config.map.name(leg.shard);
        tracing::warn!(pool = %leg.link().0.name(), %why, "server connection lost");
        failed(&lost(shard, why))
    }
}

pub(super) fn failed(error: &Error) -> Outcome {
    Outcome::Failed(encoded(error))
}

pub(super) fn encoded(error: &Error) -> Vec<u8> {
    let mut out = Vec::new();
    encode::error(&mut out, error);
    out
}

fn malformed() -> Error {
    Error::server(SqlState::INTERNAL_ERROR, "a shard described the statement in a way that is not understood")
}

fn no_parameter() -> Error {
    Error::client(SqlState(*b"42P02"), "there is no parameter $1")
        .detail("The statement was sent as a simple query, which has no parameters.")
}

fn row_too_long() -> Error {
    Error::us(
        SqlState::PROGRAM_LIMIT_EXCEEDED,
        format!("a row of a statement that reads several shards is longer than {} MiB", MAX_MESSAGE >> 20),
    )
    .hint("Read large values by statements that are tied to one shard by their sharding key.")
}

fn lost(shard: &str, why: &str) -> Error {
    Error::server(SqlState::CONNECTION_FAILURE, format!("the connection to shard \"{shard}\" was lost: {why}"))
        .hint("Nothing was changed: the statement can be sent again.")
}

/// By what was remembered of it.
fn sorted_otherwise() -> Error {
    Error::server(SqlState(*b"40001"), "a shard has sorted its rows otherwise than was known of the columns")
        .detail("A column's collation has changed a short while ago, past this process.")
        .hint("Send the statement again: what was known is forgotten.")
}

pub(super) fn columns_differ() -> Error {
    Error::us(SqlState::FEATURE_NOT_SUPPORTED, "the shards do not give the same columns for the statement")
        .detail("Names, types (by their OIDs) or modifiers of the result's columns differ.")
        .hint("Make the tables alike on all shards; cast values of types of your own, whose OIDs differ, to text.")
}

/// Whether two RowDescriptions are of the same columns: table and place in it may differ, for these are numbers of one catalog.
pub(super) fn same_columns(a: &[u8], b: &[u8]) -> bool {
    let columns = |body| -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut r = Reader::new(body);
        let count = r.count(19)?;
        (0..count)
            .map(|_| {
                let name = r.cstr()?.to_vec();
                r.bytes(6)?;
                Some((name, r.bytes(12)?.to_vec()))
            })
            .collect()
    };
    columns(a).is_some_and(|a| columns(b) == Some(a))
}

/// The same columns of no table, for the numbers of tables differ from shard to shard.
pub(super) fn without_tables(body: &[u8]) -> Option<Vec<u8>> {
    let mut r = Reader::new(body);
    let count = r.count(19)?;
    let mut out = u16::try_from(count).ok()?.to_be_bytes().to_vec();
    for _ in 0..count {
        out.extend_from_slice(r.cstr()?);
        r.bytes(6)?;
        out.extend_from_slice(&[0; 7]);
        out.extend_from_slice(r.bytes(12)?);
    }
    Some(out)
}

/// A shard's ErrorResponse as the client gets it: its session goes on whatever becomes of the server's, and it is told where it was.
pub(super) fn error_of_shard(body: &[u8], shard: &str) -> Vec<u8> {
    let mut out = Vec::new();
    encode::frame(&mut out, b'E', |b| {
        let mut context = format!("on shard \"{shard}\"").into_bytes();
        for (kind, value) in message::error_fields(body) {
            match kind {
                b'S' | b'V' => {
                    b.push(kind);
                    b.extend_from_slice(b"ERROR");
                    b.push(0);
                }
                b'W' => {
                    context.push(b'\n');
                    context.extend_from_slice(value);
                }
                _ => {
                    b.push(kind);
                    b.extend_from_slice(value);
                    b.push(0);
                }
            }
        }
        b.push(b'W');
        b.extend_from_slice(&context);
        b.extend_from_slice(&[0, 0]);
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_compared_but_for_the_numbers_of_their_tables() {
        let row = |name: &[u8], table: u8, oid: u8| {
            [&[0, 1], name, &[0], &[0, 0, 0, table, 0, 1], &[0, 0, 0, oid], &[0; 8]].concat()
        };
        assert!(same_columns(&row(b"a", 1, 23), &row(b"a", 2, 23)));
        assert!(!same_columns(&row(b"a", 1, 23), &row(b"b", 1, 23)));
        assert!(!same_columns(&row(b"a", 1, 23), &row(b"a", 1, 20)));
        assert!(!same_columns(b"\0\x01", b"\0\x01"), "malformed");
        let columns = row(b"a", 7, 23);
        let bare = without_tables(&columns).unwrap();
        assert!(same_columns(&bare, &columns) && bare.get(4..10) == Some(&[0; 6][..]), "{bare:?}");
        assert!(without_tables(b"\0\x01").is_none());
    }

    #[test]
    fn an_error_of_a_shard_is_an_error_of_the_statement() {
        let out = error_of_shard(b"SFATAL\0VFATAL\0C57P01\0Mterminating\0Winner\0\0", "s1");
        let body = out.get(5..).unwrap_or_default();
        let field = |kind| message::error_field(body, kind).unwrap_or_default();
        assert_eq!((field(b'S'), field(b'C')), (&b"ERROR"[..], &b"57P01"[..]));
        assert_eq!(field(b'W'), b"on shard \"s1\"\ninner");
    }
}

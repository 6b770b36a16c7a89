//! COPY FROM STDIN over several shards: each row goes to the shard of its key as it comes, and all shards commit or none. In a block the
//! shards do it in its transaction, and what fails on one fails on all.
//!
//! Rows are put together for each shard (`batch`) until they are worth a write, or nothing came for a moment. Beyond that nothing is held
//! but what a socket has not taken: the client is not read from while a shard has too much to take.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::super::leg::{Leg, State};
use super::super::run;
use super::batch::Batches;
use super::reply::{self, Failure, Reply};
use super::{Asked, Extended, Reached, SETTLE, Told, Work, columns, commit, join_all};
use crate::client::limits::Timer;
use crate::client::plan::Need;
use crate::client::shared::{Activity, ClientHandle, Order};
use crate::client::task::{Client, End, HIGH_WATER, Stopped, cancelled, terminated_as};
use crate::clock;
use crate::error::{Error, SqlState};
use crate::net::Buffer;
use crate::pool::Verdict;
use crate::shard::commit::recovery;
use crate::shard::copy::{Layout, Splitter, Target};
use crate::shard::plan::Fan;
use crate::shard::plan::present;
use crate::shard::plan::write::CopyRows;
use crate::shard::table_key::KeyColumn;
use crate::wire::message::TransactionStatus;
use crate::wire::{encode, frame};

/// How long a few rows wait for more, so that a client that sends row by row does not have each written by itself.
const MORE: Duration = Duration::from_millis(2);

/// After what time a shard is cancelled that does not give its COPY up; then after twice that, and so on.
const CANCELLED_AFTER: Duration = Duration::from_millis(250);

/// The statement was taken before it failed.
const BOUND: Reached = Reached { parsed: true, bound: true };

/// What a COPY is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Around {
    /// Nothing: it is a transaction by itself, which is begun and ended with it.
    Nothing,
    /// The client's block.
    Block,
}

/// The body of CopyInResponse, or which shard has failed.
type Begun = Result<Vec<u8>, (usize, Failure)>;

/// A COPY that the shards have begun.
struct Rows {
    /// What tells rows apart; none: every shard gets all.
    splitter: Option<Splitter>,
    /// The body of CopyInResponse.
    header: Vec<u8>,
}

/// How the client's data ended.
enum Ended {
    /// CopyDone.
    Done,
    /// It failed: by the client, by its data, or by a shard.
    Failed(Failed),
    /// The client's session is over.
    Client(End),
}

/// Why a COPY fails.
enum Failed {
    /// An error of ours or of the client's.
    Error(Error),
    /// A shard's, with its place.
    Shard(usize, Failure),
}

impl Client {
    /// Answers the segment, which is a COPY FROM STDIN into a table that several shards have.
    pub(super) async fn copy_in(
        &mut self,
        (need, fan, copy): (&Need, &Fan, &CopyRows),
        asked: Asked,
        mut legs: Vec<Leg>,
        (since, verdict): (Instant, Verdict),
    ) -> Result<(), End> {
        let begun = match self.begin_rows(&mut legs, copy, &asked.text, (Around::Nothing, since)).await {
            Ok(begun) => begun,
            Err(stopped) => {
                legs.into_iter().for_each(|leg| leg.abandon(verdict));
                return match stopped {
                    Stopped::Refused(error) => self.refuse(error).await,
                    Stopped::End(end) => Err(end),
                };
            }
        };
        let segment = self.segment.take();
        self.input.consume(segment.len);
        let Rows { mut splitter, header } = match begun {
            Ok(rows) => rows,
            Err((at, failure)) => {
                let error = self.error_of_part(fan, at, failure);
                stop(&mut legs, Around::Nothing).await;
                legs.into_iter().for_each(|leg| leg.finish(verdict));
                let told = (Told::Failed(error), TransactionStatus::Idle);
                self.tell_outcome(asked.extended.as_ref(), BOUND, segment, told);
                return Ok(());
            }
        };
        self.begin_copy(asked.extended.as_ref(), b'G', &header);
        let ended = self.pump(&mut legs, splitter.as_mut(), since).await;
        let (told, end) = match ended {
            Ended::Done => match self.end_rows(&mut legs, fan, since, Around::Nothing).await {
                Ok((replies, Ok(told))) => {
                    let committed = self.commit(&mut legs, &commit::Whole::of(fan, &replies)).await;
                    (committed.map_or_else(Told::Failed, |()| told), None)
                }
                Ok((_, Err(error))) => {
                    commit::roll_back(&mut legs).await;
                    (Told::Failed(error), None)
                }
                Err(end) => {
                    commit::roll_back(&mut legs).await;
                    (Told::Failed(Vec::new()), Some(end))
                }
            },
            Ended::Failed(failed) => {
                stop(&mut legs, Around::Nothing).await;
                (Told::Failed(self.error_of_copy(fan, failed)), None)
            }
            Ended::Client(end) => {
                stop(&mut legs, Around::Nothing).await;
                (Told::Failed(Vec::new()), Some(end))
            }
        };
        if need.changes_catalog {
            self.database.catalog_is_changed(true);
        }
        self.has_written(clock::now());
        super::super::count_segment(&mut legs, &segment);
        legs.into_iter().for_each(|leg| leg.finish(verdict));
        if let Some(end) = end {
            return Err(end);
        }
        self.tell_copied(told, asked.extended.is_some(), TransactionStatus::Idle);
        Ok(())
    }

    /// The same within a block that its shards have begun; whether the transaction goes on.
    ///
    /// # Errors
    /// It was refused, of which the client has not been told; or the client's end. Whatever comes of it, the connections are in a
    /// transaction, or lost.
    pub(super) async fn copy_in_within(
        &mut self,
        legs: &mut [Leg],
        (fan, copy): (&Fan, &CopyRows),
        asked: &Asked,
    ) -> Result<bool, Stopped> {
        let since = clock::now();
        if let Some(error) = asked.extended.as_ref().and_then(closes) {
            return Err(Stopped::Refused(error));
        }
        let begun = self.begin_rows(legs, copy, &asked.text, (Around::Block, since)).await?;
        let segment = self.segment.take();
        self.input.consume(segment.len);
        super::super::count_segment(legs, &segment);
        let Rows { mut splitter, header } = match begun {
            Ok(rows) => rows,
            Err((at, failure)) => {
                let error = self.error_of_part(fan, at, failure);
                stop(legs, Around::Block).await;
                let told = (Told::Failed(error), TransactionStatus::Failed);
                self.tell_outcome(asked.extended.as_ref(), BOUND, segment, told);
                return Ok(false);
            }
        };
        self.begin_copy(asked.extended.as_ref(), b'G', &header);
        let told = match self.pump(legs, splitter.as_mut(), since).await {
            Ended::Done => match self.end_rows(legs, fan, since, Around::Block).await {
                Ok((_, told)) => {
                    legs.iter_mut().for_each(Leg::is_ready_within);
                    told
                }
                Err(end) => {
                    legs.iter_mut().for_each(Leg::is_ready_within);
                    return Err(Stopped::End(end));
                }
            },
            Ended::Failed(failed) => {
                stop(legs, Around::Block).await;
                Err(self.error_of_copy(fan, failed))
            }
            Ended::Client(end) => {
                stop(legs, Around::Block).await;
                return Err(Stopped::End(end));
            }
        };
        self.has_written(clock::now());
        let goes_on = told.is_ok();
        let status = if goes_on { TransactionStatus::InTransaction } else { TransactionStatus::Failed };
        self.tell_copied(told.unwrap_or_else(Told::Failed), asked.extended.is_some(), status);
        Ok(goes_on)
    }

    /// Has the shards begin; what tells rows apart with the body of CopyInResponse, or who failed.
    ///
    /// # Errors
    /// It was refused, or the client has gone; those that had begun have ended.
    async fn begin_rows(
        &mut self,
        legs: &mut [Leg],
        copy: &CopyRows,
        text: &[u8],
        (around, since): (Around, Instant),
    ) -> Result<Result<Rows, (usize, Failure)>, Stopped> {
        let splitter = self.splitter(legs, copy).await?;
        let handle = Arc::clone(self.handle());
        let (ends, links) = (AtomicBool::new(false), legs.iter().map(Leg::link).collect());
        let mut notices = Vec::new();
        let beginning = begin(legs, text, around, (&handle, &ends, &mut notices));
        let (begun, end) = match self.see_through(links, &ends, since, beginning).await {
            Ok(begun) => begun,
            Err(end) => {
                // They do not answer: closing their connections ends their transactions.
                legs.iter_mut().for_each(|leg| leg.state = State::Lost);
                return Err(Stopped::End(end));
            }
        };
        self.output.extend(&notices);
        if let Some(end) = end {
            stop(legs, around).await;
            return Err(Stopped::End(end));
        }
        Ok(begun.map(|header| Rows { splitter, header }))
    }

    /// The data are whole: the shards end their COPY. What each has said, and the answer or the ErrorResponse of all together.
    ///
    /// # Errors
    /// The client has gone, or it has taken too long: what went on was cancelled, and the transactions are to be rolled back; of what does not
    /// answer even to that the connections are given up.
    async fn end_rows(
        &mut self,
        legs: &mut [Leg],
        fan: &Fan,
        since: Instant,
        around: Around,
    ) -> Result<(Vec<Reply>, Result<Told, Vec<u8>>), End> {
        let handle = Arc::clone(self.handle());
        let cancels = handle.cancels_sent.load(Ordering::Acquire);
        let links = legs.iter().map(Leg::link).collect();
        let works = legs.iter_mut().map(|leg| -> Work<'_, Reply> { Box::pin(end(leg, around, &handle)) }).collect();
        let (mut replies, ended) = match self.see_through(links, &AtomicBool::new(false), since, join_all(works)).await
        {
            Ok(done) => done,
            Err(end) => {
                legs.iter_mut().for_each(|leg| leg.state = State::Lost);
                return Err(end);
            }
        };
        if let Some(end) = ended {
            return Err(end);
        }
        if let Some(first) = replies.first_mut().filter(|_| handle.cancels_sent.load(Ordering::Acquire) != cancels) {
            // It may have come when they had answered: nothing is committed so far.
            first.fail(Failure::Ours(cancelled()));
        }
        for notice in replies.iter().flat_map(|reply| &reply.notices) {
            self.output.extend(notice);
        }
        let answer = self.answer_of(fan, &replies);
        Ok((replies, answer))
    }

    /// Tells the client how it has ended: by the extended protocol its Sync is still to come.
    fn tell_copied(&mut self, told: Told, extended: bool, status: TransactionStatus) {
        self.note_prepared();
        let out = self.output.tail();
        match told {
            Told::Done { tag, .. } => encode::command_complete(out, &tag),
            Told::Failed(error) => {
                out.extend_from_slice(&error);
                if extended {
                    // What it has sent meanwhile is passed over up to its Sync.
                    self.skip_to_sync();
                }
            }
        }
        if !extended {
            encode::ready_for_query(self.output.tail(), status);
        }
    }

    fn error_of_copy(&self, fan: &Fan, failed: Failed) -> Vec<u8> {
        match failed {
            Failed::Error(error) => run::encoded(&error),
            Failed::Shard(at, failure) => self.error_of_part(fan, at, failure),
        }
    }

    /// What the client is told of the shard's failure.
    pub(super) fn error_of_part(&self, fan: &Fan, at: usize, failure: Failure) -> Vec<u8> {
        let name = fan.shards.get(at).map_or("?", |shard| self.database.config.map.name(*shard));
        Reply { error: Some(failure), ..Reply::default() }.error_for(name)
    }

    /// What tells rows apart, by the columns that the table has on every shard alike; none: every shard gets all.
    async fn splitter(&mut self, legs: &mut [Leg], copy: &CopyRows) -> Result<Option<Splitter>, Stopped> {
        if let Some(copies) = &copy.copies {
            self.stay_alike(legs, copies).await?;
        }
        let Some(key) = &copy.key else { return self.watcher(legs, copy).await };
        let names = match &copy.columns {
            Some(columns) => columns.clone(),
            None => {
                let asking = async {
                    let mut found: Option<Vec<String>> = None;
                    for leg in legs.iter_mut() {
                        let of_shard = columns(leg, &copy.columns_sql()).await?;
                        if found.get_or_insert_with(|| of_shard.clone()) != &of_shard {
                            return Err(tables_differ(&copy.table.1));
                        }
                    }
                    Ok(found.unwrap_or_default())
                };
                self.attend_to(asking).await?
            }
        };
        let place = |column: &KeyColumn| {
            let place = names.iter().position(|name| *name == column.name);
            place
                .map(|place| (place, column.key_type))
                .ok_or_else(|| Stopped::Refused(no_key(&copy.table.1, &column.name)))
        };
        let places = key.columns().iter().map(place).collect::<Result<_, _>>()?;
        Splitter::by_columns(copy.layout.clone(), places, copy.utf8).map(Some).map_err(Stopped::Refused)
    }

    /// What looks at the rows that every shard gets; none: nothing in them can mean the present.
    async fn watcher(&mut self, legs: &mut [Leg], copy: &CopyRows) -> Result<Option<Splitter>, Stopped> {
        let Some(first) = legs.first_mut().filter(|_| copy.layout != Layout::Binary) else { return Ok(None) };
        let cells = self.attend_to(columns(first, &present::columns_of_sql(&copy.table))).await?;
        let all: Vec<(&String, bool)> = cells
            .chunks(3)
            .filter_map(|row| match row {
                [name, present, computed] if computed == "f" => Some((name, present == "t")),
                _ => None,
            })
            .collect();
        let is_time = |name: &String| all.iter().any(|(of, time)| *of == name && *time);
        let names: Vec<&String> = match &copy.columns {
            Some(columns) => columns.iter().collect(),
            None => all.iter().map(|(name, _)| *name).collect(),
        };
        let watched: Vec<usize> =
            (0..names.len()).filter(|at| names.get(*at).is_some_and(|name| is_time(name))).collect();
        if watched.is_empty() {
            return Ok(None);
        }
        Splitter::watching(copy.layout.clone(), watched, copy.utf8).map(Some).map_err(Stopped::Refused)
    }

    /// Tells the client that it may send, or will be sent rows.
    pub(super) fn begin_copy(&mut self, extended: Option<&Extended>, tag: u8, header: &[u8]) {
        let out = self.output.tail();
        if let Some(extended) = extended {
            extended.tell_closed(out);
            if extended.parse {
                out.extend_from_slice(encode::PARSE_COMPLETE);
            }
            out.extend_from_slice(encode::BIND_COMPLETE);
            if extended.describe {
                encode::frame(out, b'n', |_| {});
            }
        }
        encode::frame(out, tag, |b| b.extend_from_slice(header));
    }

    /// Moves the client's data to the shards until they end.
    async fn pump(&mut self, legs: &mut [Leg], mut splitter: Option<&mut Splitter>, since: Instant) -> Ended {
        let handle = Arc::clone(self.handle());
        // So that a cancel request finds it.
        handle.set_activity(Activity::Waiting);
        let limit = self.limits.statement(since, self.begun_at());
        let database = Arc::clone(&self.database);
        let mut batches = Batches::new(&database.config.map, legs.iter().map(|leg| leg.shard));
        // When what waits for more rows waits no longer.
        let (mut until, mut timer) = (None, Timer::default());
        let ended = poll_fn(|cx| {
            // What it rings for is looked at below.
            handle.bell.has_rung(cx);
            match handle.standing_order() {
                Order::Kill => return Poll::Ready(Ended::Client(End::Told(terminated_as(&handle)))),
                Order::Cancel => return Poll::Ready(Ended::Failed(Failed::Error(cancelled()))),
                Order::None | Order::Drain => {}
            }
            if handle.is_asked() {
                self.tell();
            }
            if let Some((at, overdue)) = limit
                && self.timer.passed(at, cx)
            {
                return Poll::Ready(Ended::Client(End::Told(self.time_is_up(overdue))));
            }
            loop {
                let waits = poll_legs(legs, &mut self.output, cx);
                if let Poll::Ready(Err(_)) = self.output.poll_flush(&mut self.stream, cx) {
                    return Poll::Ready(Ended::Client(End::Gone));
                }
                match waits {
                    Ok(waits) if waits >= HIGH_WATER => return Poll::Pending,
                    Ok(_) => {}
                    Err(ended) => return Poll::Ready(ended),
                }
                let taken = self.take_data(&mut batches, splitter.as_deref_mut());
                let worth_it = batches.has_large() || taken.is_err();
                if worth_it || until.is_some_and(|at| timer.passed(at, cx)) {
                    until = None;
                    if let Err(ended) = write(legs, &mut batches, &mut self.output, cx) {
                        return Poll::Ready(ended);
                    }
                }
                match taken {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(ended) => return Poll::Ready(ended),
                }
                match self.input.poll_fill(&mut self.stream, cx) {
                    Poll::Ready(Ok(n)) if n > 0 => {}
                    Poll::Ready(_) => return Poll::Ready(Ended::Client(End::Gone)),
                    Poll::Pending if batches.waiting().next().is_none() => return Poll::Pending,
                    Poll::Pending => {
                        let at = *until.get_or_insert_with(|| clock::now() + MORE);
                        if !timer.passed(at, cx) {
                            return Poll::Pending;
                        }
                    }
                }
            }
        })
        .await;
        handle.cancel_is_done();
        handle.set_activity(Activity::Idle);
        if let Ended::Failed(Failed::Shard(at, Failure::Lost(why))) = &ended
            && let Some(leg) = legs.get_mut(*at)
        {
            leg.lost(why);
        }
        ended
    }

    /// Takes the client's messages until a batch is large; whether more may be there.
    fn take_data(&mut self, batches: &mut Batches<'_>, mut splitter: Option<&mut Splitter>) -> Result<bool, Ended> {
        while !batches.has_large() {
            let next = frame::next(self.input.bytes(), run::MAX_MESSAGE).map_err(|e| {
                let error = Error::client_fatal(SqlState::PROTOCOL_VIOLATION, format!("invalid frontend message: {e}"));
                Ended::Client(End::Told(error))
            })?;
            let Some(next) = next else { return Ok(false) };
            let outcome = take_message(next.tag, next.body(), batches, splitter.as_deref_mut());
            let len = next.bytes.len();
            self.input.consume(len);
            outcome?;
        }
        Ok(true)
    }
}

/// Takes one message of the client.
fn take_message(tag: u8, body: &[u8], batches: &mut Batches<'_>, splitter: Option<&mut Splitter>) -> Result<(), Ended> {
    let bad = |error| Ended::Failed(Failed::Error(error));
    match (tag, splitter) {
        (b'd', None) => {
            batches.push(Target::All, body);
            Ok(())
        }
        (b'd', Some(splitter)) => splitter.push(body, &mut |target, rows| batches.push(target, rows)).map_err(bad),
        (b'c', None) => Err(Ended::Done),
        (b'c', Some(splitter)) => match splitter.finish(&mut |target, rows| batches.push(target, rows)) {
            Ok(()) => Err(Ended::Done),
            Err(error) => Err(bad(error)),
        },
        (b'f', _) => {
            let why = String::from_utf8_lossy(body.strip_suffix(&[0]).unwrap_or(body)).into_owned();
            Err(bad(Error::client(SqlState::QUERY_CANCELED, format!("COPY from stdin failed: {why}"))))
        }
        // <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-COPY>: these mean nothing here.
        (b'H' | b'S', _) => Ok(()),
        (b'X', _) => Err(Ended::Client(End::Gone)),
        (tag, _) => {
            let message = format!("unexpected message type 0x{tag:02X} during COPY from stdin");
            Err(Ended::Client(End::Told(Error::client_fatal(SqlState::PROTOCOL_VIOLATION, message))))
        }
    }
}

/// Writes to the shards what waits for them.
fn write(legs: &mut [Leg], batches: &mut Batches<'_>, told: &mut Buffer, cx: &mut Context<'_>) -> Result<(), Ended> {
    for (at, batch) in batches.waiting() {
        if let Some(connection) = legs.get_mut(at).and_then(Leg::connection) {
            // The server may have said why it takes no more.
            if batch.write(&mut connection.output, &mut connection.stream, cx).is_err() {
                return Err(poll_leg(&mut legs[at], told, cx).map_or_else(
                    |failure| Ended::Failed(Failed::Shard(at, failure)),
                    |_| failed(at, "it takes no more"),
                ));
            }
        }
    }
    Ok(())
}

/// Moves what waits for the shards, and looks whether one has failed; how much the slowest still has to take. Notices go to `told`.
fn poll_legs(legs: &mut [Leg], told: &mut Buffer, cx: &mut Context<'_>) -> Result<usize, Ended> {
    let mut most = 0;
    for (at, leg) in legs.iter_mut().enumerate() {
        if leg.is_silent() {
            return Err(failed(at, reply::SILENT));
        }
        let waits = poll_leg(leg, told, cx).map_err(|failure| Ended::Failed(Failed::Shard(at, failure)))?;
        most = most.max(waits);
    }
    Ok(most)
}

/// Writes to a shard, and looks whether it has failed; how much it still has to take.
fn poll_leg(leg: &mut Leg, told: &mut Buffer, cx: &mut Context<'_>) -> Result<usize, Failure> {
    let Some(connection) = leg.connection() else { return Err(Failure::Lost("its connection is gone".to_owned())) };
    let unwritable = matches!(connection.output.poll_flush(&mut connection.stream, cx), Poll::Ready(Err(_)));
    loop {
        match connection.input.poll_fill(&mut connection.stream, cx) {
            Poll::Pending => break,
            Poll::Ready(Ok(n)) if n > 0 => {}
            Poll::Ready(Ok(_)) => return Err(Failure::Lost("server closed the connection unexpectedly".to_owned())),
            Poll::Ready(Err(error)) => return Err(Failure::Lost(error.to_string())),
        }
    }
    while let Some((tag, body, len)) =
        super::next_message(connection.input.bytes()).map_err(|e| Failure::Lost(e.to_string()))?
    {
        connection.input.consume(len);
        match tag {
            b'E' => return Err(Failure::Said(body)),
            b'S' => connection.report(&body),
            b'N' => encode::frame(told.tail(), b'N', |b| b.extend_from_slice(&body)),
            _ => {}
        }
    }
    if unwritable { Err(Failure::Lost("it takes no more".to_owned())) } else { Ok(connection.output.len()) }
}

fn failed(at: usize, why: &str) -> Ended {
    Ended::Failed(Failed::Shard(at, Failure::Lost(why.to_owned())))
}

/// Begins the COPY on every shard, one after the other, until `ends` says that it is for nobody; the body of CopyInResponse, or who failed.
async fn begin(
    legs: &mut [Leg],
    text: &[u8],
    around: Around,
    (handle, ends, notices): (&ClientHandle, &AtomicBool, &mut Vec<u8>),
) -> Begun {
    let cancels = handle.cancels_sent.load(Ordering::Acquire);
    let mut header: Option<Vec<u8>> = None;
    for (at, leg) in legs.iter_mut().enumerate() {
        let begun = reply::unless_gone(leg, handle, async |leg| begin_one(leg, text, around, notices).await).await;
        let body = match begun {
            Ok(begun) => begun.map_err(|failure| (at, failure))?,
            Err(error) => {
                leg.lost(&error.to_string());
                return Err((at, Failure::Lost(error.to_string())));
            }
        };
        if header.as_ref().is_some_and(|first| *first != body) {
            return Err((at, Failure::Ours(run::columns_differ())));
        }
        header = Some(body);
        // Who waits for data does not hear of it.
        if ends.load(Ordering::Relaxed) || handle.cancels_sent.load(Ordering::Acquire) != cancels {
            return Err((at, Failure::Ours(cancelled())));
        }
    }
    Ok(header.unwrap_or_default())
}

/// The body of CopyInResponse, or why there is none: the shard's ReadyForQuery is still to come then.
async fn begin_one(
    leg: &mut Leg,
    text: &[u8],
    around: Around,
    notices: &mut Vec<u8>,
) -> io::Result<Result<Vec<u8>, Failure>> {
    let mut request = Vec::new();
    // A block has begun, and waits for no lock without end either.
    if around == Around::Nothing {
        let mut failure = None;
        encode::query(&mut request, format!("BEGIN; {}", reply::LIMIT_SQL).as_bytes());
        leg.ask(&request);
        reply::exchange(leg, |_, tag, body| {
            if tag == b'E' {
                failure = Some(Failure::Said(body));
            }
        })
        .await?;
        if let Some(failure) = failure {
            // A server that begins nothing is of no use.
            leg.state = State::Lost;
            return Ok(Err(failure));
        }
        request.clear();
    }
    encode::query(&mut request, text);
    leg.ask(&request);
    loop {
        match reply::next(leg).await? {
            (b'G', body) => return Ok(Ok(body)),
            (b'E', body) => return Ok(Err(Failure::Said(body))),
            (b'N', body) => encode::frame(notices, b'N', |b| b.extend_from_slice(&body)),
            (b'Z', _) => return Err(io::Error::other("it did not begin a COPY")),
            _ => {}
        }
    }
}

/// Ends a shard's COPY, and asks whether it has written; at the end of a block all are asked.
async fn end(leg: &mut Leg, around: Around, handle: &ClientHandle) -> Reply {
    let mut reply = Reply { stage: 1, parsed: true, bound: true, ..Reply::default() };
    let ended = reply::unless_gone(leg, handle, async |leg| {
        let mut request = Vec::new();
        encode::frame(&mut request, b'c', |_| {});
        if let Some(connection) = leg.connection() {
            connection.output.extend(&request);
        }
        let status = reply::read(leg, &mut reply).await?;
        if status == TransactionStatus::InTransaction && reply.error.is_none() && around == Around::Nothing {
            request.clear();
            encode::query(&mut request, recovery::WROTE_SQL.as_bytes());
            leg.ask(&request);
            reply::read(leg, &mut reply).await?;
        }
        Ok(())
    })
    .await;
    if let Err(error) = ended {
        leg.lost(&error.to_string());
        reply.fail(Failure::Lost(error.to_string()));
    }
    reply
}

/// Makes the shards give their COPY up, and rolls back; the transaction of a block has failed then on all, and is ended with it.
async fn stop(legs: &mut [Leg], around: Around) {
    // Those that were not asked have begun nothing.
    legs.iter_mut().filter(|leg| leg.state == State::Asked && !leg.is_asked()).for_each(|leg| leg.state = State::Ready);
    let asked = legs.iter_mut().filter(|leg| leg.state == State::Asked);
    join_all(asked.map(|leg| -> Work<'_, ()> { Box::pin(give_up(leg)) }).collect()).await;
    match around {
        Around::Nothing => commit::roll_back(legs).await,
        Around::Block => {
            legs.iter_mut().filter(|leg| leg.state == State::Asked).for_each(Leg::is_ready_within);
        }
    }
}

/// Makes a shard give its COPY up: one that waits for data hears of it, one that works or waits for a lock is cancelled before long. Nobody
/// else would do that: a server goes on, and keeps its locks, when its connection is closed.
async fn give_up(leg: &mut Leg) {
    let mut request = Vec::new();
    // One that has failed passes over it.
    encode::frame(&mut request, b'f', |b| b.extend_from_slice(b"it failed on another shard\0"));
    if let Some(connection) = leg.connection() {
        connection.output.extend(&request);
    }
    let (until, mut patience) = (clock::now() + SETTLE, CANCELLED_AFTER);
    loop {
        match tokio::time::timeout(patience, reply::exchange(leg, |_, _, _| {})).await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => return leg.lost(&error.to_string()),
            Err(_) if clock::now() >= until => return leg.lost("it did not give up a COPY"),
            Err(_) => {
                super::cancel(&[leg.link()]).await;
                // A server that had not begun yet took the request for nothing.
                patience *= 2;
            }
        }
    }
}

/// A Close behind the Execute, which a server meets in the middle of its COPY.
pub(super) fn closes(extended: &Extended) -> Option<Error> {
    let error = || Error::client(SqlState::PROTOCOL_VIOLATION, "unexpected message type 0x43 during COPY from stdin");
    extended.close.then(error)
}

fn tables_differ(table: &str) -> Error {
    Error::us(
        SqlState::FEATURE_NOT_SUPPORTED,
        format!("table \"{table}\" does not have the same columns in the same order on all shards"),
    )
    .hint("Name the columns: COPY table (column, ...) FROM STDIN.")
    .because("tables_differ")
}

fn no_key(table: &str, key: &str) -> Error {
    Error::us(
        SqlState::FEATURE_NOT_SUPPORTED,
        format!("COPY into sharded table \"{table}\" does not have its sharding key \"{key}\" among the columns"),
    )
    .hint("Give the key in every row.")
    .because("no_key_given")
}

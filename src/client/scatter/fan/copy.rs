//! COPY FROM STDIN over several shards: each row goes to the shard of its key as it comes, and all shards commit or none. In a block the
//! shards do it in its transaction, and what fails on one fails on all.
//!
//! Rows are put together for each shard (`batch`) until they are worth a write, or nothing came for a moment. Beyond that nothing is held
//! but what a socket has not taken: the client is not read from while a shard has too much to take.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::super::leg::{Leg, State};
use super::super::run;
use super::batch::Batches;
use super::reply::{self, Failure, Reply};
use super::{Asked, Reached, SETTLE, Told, Work, columns, commit, join_all};
use crate::client::limits::Timer;
use crate::client::plan::Need;
use crate::client::shared::{Activity, Order};
use crate::client::task::{Client, End, HIGH_WATER, Stopped, cancelled, terminated_as};
use crate::clock;
use crate::error::{Error, SqlState};
use crate::pool::Verdict;
use crate::shard::commit::recovery;
use crate::shard::copy::{Layout, Splitter, Target};
use crate::shard::plan::Fan;
use crate::shard::plan::write::CopyRows;
use crate::shard::table_key::KeyColumn;
use crate::wire::message::TransactionStatus;
use crate::wire::{encode, frame};

/// How long a few rows wait for more, so that a client that sends row by row does not have each written by itself.
const MORE: Duration = Duration::from_millis(2);

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
        let (mut splitter, begun) = match self.begin_rows(&mut legs, copy, &asked.text, Around::Nothing).await {
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
        let header = match begun {
            Ok(header) => header,
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
                Err(Stopped::Refused(error)) => (Told::Failed(run::encoded(&error)), None),
                Err(Stopped::End(end)) => (Told::Failed(Vec::new()), Some(end)),
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
        let (mut splitter, begun) = self.begin_rows(legs, copy, &asked.text, Around::Block).await?;
        let segment = self.segment.take();
        self.input.consume(segment.len);
        super::super::count_segment(legs, &segment);
        let header = match begun {
            Ok(header) => header,
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
                // The client waits for an answer, which the segment that is over no longer tells of.
                Err(Stopped::Refused(error)) => Err(run::encoded(&error)),
                Err(Stopped::End(end)) => return Err(Stopped::End(end)),
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

    /// Has the shards begin; what tells rows apart, and the body of CopyInResponse or who failed.
    ///
    /// # Errors
    /// It was refused, or the client has gone. Those that may wait for data are given up.
    async fn begin_rows(
        &mut self,
        legs: &mut [Leg],
        copy: &CopyRows,
        text: &[u8],
        around: Around,
    ) -> Result<(Option<Splitter>, Begun), Stopped> {
        let splitter = self.splitter(legs, copy).await?;
        match self.attend_to(begin(legs, text, around)).await {
            Ok(begun) => Ok((splitter, begun)),
            Err(stopped) => {
                // Who waits for data goes with its connection.
                legs.iter_mut().filter(|leg| leg.is_asked()).for_each(|leg| leg.state = State::Lost);
                Err(stopped)
            }
        }
    }

    /// The data are whole: the shards end their COPY. What each has said, and the answer or the ErrorResponse of all together.
    ///
    /// # Errors
    /// The client cancels it, has gone, or has taken too long; the connections are given up, and with them their transactions.
    async fn end_rows(
        &mut self,
        legs: &mut [Leg],
        fan: &Fan,
        since: Instant,
        around: Around,
    ) -> Result<(Vec<Reply>, Result<Told, Vec<u8>>), Stopped> {
        let works = legs.iter_mut().map(|leg| -> Work<'_, Reply> { Box::pin(end(leg, around)) }).collect();
        let limit = self.limits.statement(since, self.begun_at());
        let rest = limit.map_or(Duration::MAX, |(at, _)| at.saturating_duration_since(clock::now()));
        self.handle().set_activity(Activity::Waiting);
        let replies = self.attend(join_all(works), rest.min(Duration::from_secs(86_400))).await;
        self.handle().cancel_is_done();
        self.handle().set_activity(Activity::Idle);
        let stopped = match (replies, limit) {
            (Ok(Some(replies)), _) => {
                let answer = self.answer_of(fan, &replies);
                return Ok((replies, answer));
            }
            (Ok(None), Some((_, overdue))) => Stopped::End(End::Told(self.time_is_up(overdue))),
            (Ok(None), None) => Stopped::Refused(cancelled()),
            (Err(stopped), _) => stopped,
        };
        // They are in the middle of it: their connections are closed, and with them their transactions.
        legs.iter_mut().for_each(|leg| leg.state = State::Lost);
        Err(stopped)
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
        let cells = self.attend_to(columns(first, &copy.times_sql())).await?;
        let all: Vec<(&String, bool)> =
            cells.chunks(2).filter_map(|row| Some((row.first()?, row.get(1)? == "t"))).collect();
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
    pub(super) fn begin_copy(&mut self, extended: Option<&super::Extended>, tag: u8, header: &[u8]) {
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
            if let Poll::Ready(Err(_)) = self.output.poll_flush(&mut self.stream, cx) {
                return Poll::Ready(Ended::Client(End::Gone));
            }
            loop {
                match poll_legs(legs, cx) {
                    Ok(waits) if waits >= HIGH_WATER => return Poll::Pending,
                    Ok(_) => {}
                    Err(ended) => return Poll::Ready(ended),
                }
                let taken = self.take_data(&mut batches, splitter.as_deref_mut());
                let worth_it = batches.has_large() || taken.is_err();
                if worth_it || until.is_some_and(|at| timer.passed(at, cx)) {
                    until = None;
                    if let Err(ended) = write(legs, &mut batches, cx) {
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
fn write(legs: &mut [Leg], batches: &mut Batches<'_>, cx: &mut Context<'_>) -> Result<(), Ended> {
    for (at, batch) in batches.waiting() {
        if let Some(connection) = legs.get_mut(at).and_then(Leg::connection) {
            // The server may have said why it takes no more.
            if batch.write(&mut connection.output, &mut connection.stream, cx).is_err() {
                return Err(poll_leg(&mut legs[at], cx).map_or_else(
                    |failure| Ended::Failed(Failed::Shard(at, failure)),
                    |_| failed(at, "it takes no more"),
                ));
            }
        }
    }
    Ok(())
}

/// Moves what waits for the shards, and looks whether one has failed; how much the slowest still has to take.
fn poll_legs(legs: &mut [Leg], cx: &mut Context<'_>) -> Result<usize, Ended> {
    let mut most = 0;
    for (at, leg) in legs.iter_mut().enumerate() {
        if leg.is_silent() {
            return Err(failed(at, "it answers nothing any more, probes neither"));
        }
        let waits = poll_leg(leg, cx).map_err(|failure| Ended::Failed(Failed::Shard(at, failure)))?;
        most = most.max(waits);
    }
    Ok(most)
}

/// Writes to a shard, and looks whether it has failed; how much it still has to take.
fn poll_leg(leg: &mut Leg, cx: &mut Context<'_>) -> Result<usize, Failure> {
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
            // Notices of triggers are for who reads them on the shard.
            _ => {}
        }
    }
    if unwritable { Err(Failure::Lost("it takes no more".to_owned())) } else { Ok(connection.output.len()) }
}

fn failed(at: usize, why: &str) -> Ended {
    Ended::Failed(Failed::Shard(at, Failure::Lost(why.to_owned())))
}

/// Begins the COPY on every shard, one after the other; the body of CopyInResponse, or who failed.
async fn begin(legs: &mut [Leg], text: &[u8], around: Around) -> Result<Begun, Error> {
    let mut header: Option<Vec<u8>> = None;
    for (at, leg) in legs.iter_mut().enumerate() {
        match begin_one(leg, text, around).await {
            Ok(Ok(body)) => match &header {
                Some(first) if *first != body => return Ok(Err((at, Failure::Ours(run::columns_differ())))),
                _ => header = Some(body),
            },
            Ok(Err(failure)) => return Ok(Err((at, failure))),
            Err(error) => {
                leg.lost(&error.to_string());
                return Ok(Err((at, Failure::Lost(error.to_string()))));
            }
        }
    }
    Ok(Ok(header.unwrap_or_default()))
}

async fn begin_one(leg: &mut Leg, text: &[u8], around: Around) -> std::io::Result<Result<Vec<u8>, Failure>> {
    let mut request = Vec::new();
    let mut failure = None;
    // A block has begun, and waits for no lock without end either.
    if around == Around::Nothing {
        encode::query(&mut request, format!("BEGIN; {}", reply::LIMIT_SQL).as_bytes());
        leg.ask(&request);
        reply::exchange(leg, |_, tag, body| {
            if tag == b'E' {
                failure = Some(Failure::Said(body));
            }
        })
        .await?;
        if let Some(failure) = failure {
            return Ok(Err(failure));
        }
        request.clear();
    }
    encode::query(&mut request, text);
    leg.ask(&request);
    loop {
        match reply::next(leg).await? {
            (b'G', body) => return Ok(Ok(body)),
            (b'E', body) => failure = Some(Failure::Said(body)),
            (b'Z', _) => return Ok(Err(failure.unwrap_or_else(|| Failure::Ours(run::columns_differ())))),
            _ => {}
        }
    }
}

/// Ends a shard's COPY, and asks whether it has written; at the end of a block all are asked.
async fn end(leg: &mut Leg, around: Around) -> Reply {
    let mut reply = Reply { stage: 1, parsed: true, bound: true, ..Reply::default() };
    let mut request = Vec::new();
    encode::frame(&mut request, b'c', |_| {});
    if let Some(connection) = leg.connection() {
        connection.output.extend(&request);
    }
    let ended = reply::exchange(leg, |_, tag, body| reply.take(tag, body)).await;
    let asked = match ended {
        Ok(TransactionStatus::InTransaction) if reply.error.is_none() && around == Around::Nothing => {
            request.clear();
            encode::query(&mut request, recovery::WROTE_SQL.as_bytes());
            leg.ask(&request);
            reply::exchange(leg, |_, tag, body| reply.take(tag, body)).await
        }
        ended => ended,
    };
    if let Err(error) = asked {
        leg.lost(&error.to_string());
        reply.fail(Failure::Lost(error.to_string()));
    }
    reply
}

/// Makes the shards give their COPY up, and rolls back; the transaction of a block has failed then on all, and is ended with it.
async fn stop(legs: &mut [Leg], around: Around) {
    let works = legs.iter_mut().filter(|leg| leg.state == State::Asked && leg.is_asked()).map(|leg| -> Work<'_, ()> {
        Box::pin(async move {
            let mut request = Vec::new();
            // One that is not in COPY passes over it.
            encode::frame(&mut request, b'f', |b| b.extend_from_slice(b"it failed on another shard\0"));
            // The answer to this is the last.
            encode::query(&mut request, if around == Around::Nothing { b"ROLLBACK" } else { b"" });
            if let Some(connection) = leg.connection() {
                connection.output.extend(&request);
            }
            let mut over = false;
            while !over {
                let answering = reply::exchange(leg, |_, tag, _| over |= tag == b'I');
                match tokio::time::timeout(SETTLE, answering).await {
                    Ok(Ok(status)) => over |= status == TransactionStatus::Idle,
                    Ok(Err(error)) => return leg.lost(&error.to_string()),
                    Err(_) => return leg.lost("it did not give up a COPY"),
                }
            }
            if around == Around::Nothing { leg.is_ready() } else { leg.is_ready_within() }
        })
    });
    join_all(works.collect()).await;
    // Those that were not asked have begun nothing.
    legs.iter_mut().filter(|leg| leg.state == State::Asked).for_each(|leg| leg.state = State::Ready);
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

//! COPY TO STDOUT of what several shards have, a table or a query: one stream of the rows of all, in any order.
//!
//! Each shard says in the same transaction what its columns are, which must be those of the others. A shard is not read from while the
//! client has too much to take.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use super::super::leg::{Leg, State};
use super::super::run;
use super::super::{NO_TYPES, NOTHING_BOUND};
use super::reply::{self, Failure};
use super::{Asked, Reached, Told, next_message};
use crate::client::shared::{Activity, ClientHandle, Links, Order};
use crate::client::task::{Client, End, HIGH_WATER, Stopped, cancelled, terminated_as};
use crate::clock;
use crate::pool::Verdict;
use crate::shard::copy::Joiner;
use crate::shard::plan::Fan;
use crate::shard::plan::write::{Copied, CopyRead};
use crate::wire::encode;
use crate::wire::message::{self, TransactionStatus};

/// The body of CopyOutResponse, or which shard has failed.
type Begun = Result<Vec<u8>, (usize, Failure)>;

/// How it ended.
enum Ended {
    Done,
    Shard(usize, Failure),
    Client(End),
}

impl Client {
    /// Answers the segment, which is a COPY TO STDOUT of what several shards have.
    pub(super) async fn copy_out(
        &mut self,
        (fan, read): (&Fan, &CopyRead),
        asked: Asked,
        mut legs: Vec<Leg>,
        (since, verdict): (Instant, Verdict),
    ) -> Result<(), End> {
        let begun = match self.begin_stream(&mut legs, read, &asked.text, since).await {
            Ok(begun) => begun,
            Err(end) => {
                legs.into_iter().for_each(|leg| leg.finish(verdict));
                return Err(end);
            }
        };
        let copied = self.pass_rows((fan, read), &asked, &mut legs, (begun, since), None).await;
        legs.into_iter().for_each(|leg| leg.finish(verdict));
        copied.map(|_| ())
    }

    /// The same within a block that its shards have begun; whether the transaction goes on.
    ///
    /// # Errors
    /// It was refused, of which the client has not been told; or the client's end. Whatever comes of it, the connections are in a
    /// transaction, or lost.
    pub(super) async fn copy_out_within(
        &mut self,
        legs: &mut [Leg],
        (fan, read): (&Fan, &CopyRead),
        asked: &Asked,
    ) -> Result<bool, Stopped> {
        let since = clock::now();
        let begun = self.begin_stream(legs, read, &asked.text, since).await.map_err(Stopped::End)?;
        let block = Some(TransactionStatus::InTransaction);
        self.pass_rows((fan, read), asked, legs, (begun, since), block).await.map_err(Stopped::End)
    }

    /// Has the shards begin.
    ///
    /// # Errors
    /// The client has gone, or it has taken too long; what has begun is to be cancelled.
    async fn begin_stream(
        &mut self,
        legs: &mut [Leg],
        read: &CopyRead,
        text: &[u8],
        since: Instant,
    ) -> Result<Begun, End> {
        let handle = Arc::clone(self.handle());
        let (ends, links) = (AtomicBool::new(false), legs.iter().map(Leg::link).collect());
        let mut notices = Vec::new();
        let request = Request::of(read, text);
        let beginning = begin(legs, &request, (&handle, &ends, &mut notices));
        match self.see_through(links, &ends, since, beginning).await {
            Ok((begun, None)) => {
                self.output.extend(&notices);
                Ok(begun)
            }
            Ok((_, Some(end))) => Err(end),
            Err(end) => {
                // They do not answer: closing their connections ends their transactions.
                legs.iter_mut().for_each(|leg| leg.state = State::Lost);
                Err(end)
            }
        }
    }

    /// Gives the client the rows, when the shards have begun; whether all have come. `block`: the status of the block that it is in.
    async fn pass_rows(
        &mut self,
        (fan, read): (&Fan, &CopyRead),
        asked: &Asked,
        legs: &mut [Leg],
        (begun, since): (Begun, Instant),
        block: Option<TransactionStatus>,
    ) -> Result<bool, End> {
        let segment = self.segment.take();
        self.input.consume(segment.len);
        let done = block.unwrap_or(TransactionStatus::Idle);
        let failed = block.map_or(TransactionStatus::Idle, |_| TransactionStatus::Failed);
        let header = match begun {
            Ok(header) => header,
            Err((at, failure)) => {
                let told = Told::Failed(self.error_of_part(fan, at, failure));
                let reached = Reached { parsed: true, bound: true };
                self.tell_outcome(asked.extended.as_ref(), reached, segment, (told, failed));
                return Ok(false);
            }
        };
        super::super::count_segment(legs, &segment);
        self.begin_copy(asked.extended.as_ref(), b'H', &header);
        let mut joiner = Joiner::new(&read.layout, legs.len());
        let links = legs.iter().map(Leg::link).collect();
        self.handle().set_links(Links::Several(Box::new(links)));
        let ended = self.join(legs, &mut joiner, since, block.is_some()).await;
        self.handle().set_links(Links::None);
        self.handle().set_activity(Activity::Idle);
        self.note_prepared();
        let out = self.output.tail();
        let is_done = matches!(ended, Ended::Done);
        match ended {
            Ended::Done => {
                if let Some(end) = joiner.end() {
                    encode::frame(out, b'd', |b| b.extend_from_slice(end));
                }
                encode::frame(out, b'c', |_| {});
                encode::command_complete(out, &format!("COPY {}", joiner.rows()));
                if asked.extended.as_ref().is_some_and(|extended| extended.close) {
                    out.extend_from_slice(encode::CLOSE_COMPLETE);
                }
            }
            Ended::Shard(at, failure) => {
                let error = self.error_of_part(fan, at, failure);
                self.output.extend(&error);
            }
            Ended::Client(end) => return Err(end),
        }
        encode::ready_for_query(self.output.tail(), if is_done { done } else { failed });
        Ok(is_done)
    }

    /// Moves what the shards send to the client, until all have ended.
    async fn join(&mut self, legs: &mut [Leg], joiner: &mut Joiner, since: Instant, in_block: bool) -> Ended {
        let handle = Arc::clone(self.handle());
        handle.set_activity(Activity::Active);
        let limit = self.limits.statement(since, self.begun_at());
        poll_fn(|cx| {
            // What it rings for is looked at below.
            handle.bell.has_rung(cx);
            match handle.standing_order() {
                Order::Kill => return Poll::Ready(Ended::Client(End::Told(terminated_as(&handle)))),
                // It was for a wait that is over.
                Order::Cancel => handle.cancel_is_done(),
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
                let mut moved = false;
                for (at, leg) in legs.iter_mut().enumerate() {
                    if leg.state >= State::Ready {
                        continue;
                    }
                    let outcome = if leg.is_silent() {
                        Err(Failure::Lost(reply::SILENT.to_owned()))
                    } else {
                        self.read_copy(at, leg, joiner, in_block, cx)
                    };
                    match outcome {
                        Ok(more) => moved |= more,
                        Err(failure) => {
                            if let Failure::Lost(why) = &failure {
                                leg.lost(why);
                            } else {
                                leg.state = State::Failed;
                            }
                            return Poll::Ready(Ended::Shard(at, failure));
                        }
                    }
                }
                let full = self.output.len() >= HIGH_WATER;
                if let Poll::Ready(Err(_)) = self.output.poll_flush(&mut self.stream, cx) {
                    return Poll::Ready(Ended::Client(End::Gone));
                }
                moved |= full && self.output.len() < HIGH_WATER;
                if legs.iter().all(|leg| leg.state == State::Ready) {
                    return Poll::Ready(Ended::Done);
                }
                // What the client sends meanwhile waits in the kernel, beyond one read; its leaving is noticed.
                while self.input.len() < HIGH_WATER {
                    match self.input.poll_fill(&mut self.stream, cx) {
                        Poll::Ready(Ok(n)) if n > 0 => {}
                        Poll::Ready(_) => return Poll::Ready(Ended::Client(End::Gone)),
                        Poll::Pending => break,
                    }
                }
                if !moved {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// Takes what a shard has sent; whether anything came.
    fn read_copy(
        &mut self,
        at: usize,
        leg: &mut Leg,
        joiner: &mut Joiner,
        in_block: bool,
        cx: &mut Context<'_>,
    ) -> Result<bool, Failure> {
        let mut moved = false;
        while self.output.len() < HIGH_WATER {
            let Some(connection) = leg.connection() else { return Err(Failure::Lost("it is gone".to_owned())) };
            let next = next_message(connection.input.bytes()).map_err(|e| Failure::Lost(e.to_string()))?;
            let Some((tag, body, len)) = next else {
                match connection.input.poll_fill(&mut connection.stream, cx) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(n)) if n > 0 => continue,
                    Poll::Ready(Ok(_)) => {
                        return Err(Failure::Lost("server closed the connection unexpectedly".to_owned()));
                    }
                    Poll::Ready(Err(error)) => return Err(Failure::Lost(error.to_string())),
                }
            };
            connection.input.consume(len);
            moved = true;
            match tag {
                b'd' => {
                    if let Some(data) = joiner.pass(at, &body).map_err(Failure::Ours)? {
                        encode::frame(self.output.tail(), b'd', |b| b.extend_from_slice(data));
                    }
                    leg.counts.sent += len as u64;
                }
                b'E' => return Err(Failure::Said(body)),
                b'S' => connection.report(&body),
                b'N' => encode::frame(self.output.tail(), b'N', |b| b.extend_from_slice(&body)),
                b'Z' => {
                    if in_block {
                        leg.is_ready_within()
                    } else {
                        leg.is_ready()
                    }
                    break;
                }
                _ => {}
            }
        }
        Ok(moved)
    }
}

/// What a shard is sent: the question for the columns, and the COPY, in one transaction.
struct Request {
    bytes: Vec<u8>,
    /// How many statements the question is.
    before: usize,
}

impl Request {
    fn of(read: &CopyRead, text: &[u8]) -> Self {
        let mut bytes = Vec::new();
        let parse = |bytes: &mut Vec<u8>, text: &[u8]| encode::parse(bytes, b"", text, &NO_TYPES);
        let run = |bytes: &mut Vec<u8>, text: &[u8]| {
            parse(bytes, text);
            encode::bind(bytes, b"", b"", &NOTHING_BOUND);
            encode::execute(bytes);
        };
        let before = match &read.of {
            Copied::Table { named, columns } => {
                parse(&mut bytes, named.as_bytes());
                run(&mut bytes, columns.as_bytes());
                2
            }
            Copied::Query(query) => {
                parse(&mut bytes, query.as_bytes());
                encode::describe_statement(&mut bytes, b"");
                1
            }
        };
        run(&mut bytes, text);
        encode::sync(&mut bytes);
        Self { bytes, before }
    }
}

/// What a shard says as it begins.
#[derive(Default)]
struct Start {
    /// The body of CopyOutResponse.
    header: Vec<u8>,
    /// That of RowDescription.
    columns: Option<Vec<u8>>,
    /// Those of the rows about columns.
    rows: Vec<Vec<u8>>,
}

impl Start {
    /// Whether its rows have the same columns.
    fn is_like(&self, other: &Self) -> bool {
        let alike = match (&self.columns, &other.columns) {
            (Some(a), Some(b)) => run::same_columns(a, b),
            (None, None) => true,
            _ => false,
        };
        alike && self.header == other.header && self.rows == other.rows
    }
}

/// Begins the COPY on every shard, until `ends` says that it is for nobody; the body of CopyOutResponse, or who failed.
async fn begin(
    legs: &mut [Leg],
    request: &Request,
    (handle, ends, notices): (&ClientHandle, &AtomicBool, &mut Vec<u8>),
) -> Begun {
    let cancels = handle.cancels_sent.load(Ordering::Acquire);
    let mut first: Option<Start> = None;
    let mut failed = None;
    for (at, leg) in legs.iter_mut().enumerate() {
        if failed.is_some() {
            // It is not asked.
            leg.state = State::Ready;
            continue;
        }
        let begun = reply::unless_gone(leg, handle, async |leg| begin_one(leg, request, notices).await).await;
        match begun {
            Ok(Ok(start)) if first.as_ref().is_some_and(|first| !first.is_like(&start)) => {
                failed = Some((at, Failure::Ours(run::columns_differ())));
            }
            // It may have come when this shard had begun, or had not been asked yet.
            Ok(Ok(_)) if ends.load(Ordering::Relaxed) || handle.cancels_sent.load(Ordering::Acquire) != cancels => {
                failed = Some((at, Failure::Ours(cancelled())));
            }
            Ok(Ok(start)) => first = Some(start),
            Ok(Err(failure)) => failed = Some((at, failure)),
            Err(error) => {
                leg.lost(&error.to_string());
                failed = Some((at, Failure::Lost(error.to_string())));
            }
        }
    }
    failed.map_or_else(|| Ok(first.unwrap_or_default().header), Err)
}

async fn begin_one(leg: &mut Leg, request: &Request, notices: &mut Vec<u8>) -> io::Result<Result<Start, Failure>> {
    leg.ask(&request.bytes);
    let (mut start, mut parsed) = (Start::default(), 0_usize);
    loop {
        match reply::next(leg).await? {
            (b'H', header) => {
                leg.state = State::Described;
                return Ok(Ok(Start { header, ..start }));
            }
            (b'E', body) => {
                leg.state = State::Failed;
                // A place in our question is none in the client's text.
                let body = if parsed <= request.before { without_place(&body) } else { body };
                return Ok(Err(Failure::Said(body)));
            }
            (b'1', _) => parsed = parsed.saturating_add(1),
            (b'T', body) => start.columns = Some(body),
            (b'D', body) => start.rows.push(body),
            (b'N', body) => encode::frame(notices, b'N', |b| b.extend_from_slice(&body)),
            (b'Z', _) => return Err(io::Error::other("it did not begin a COPY")),
            _ => {}
        }
    }
}

/// The body of an ErrorResponse that does not say where in the text.
fn without_place(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len());
    for (kind, value) in message::error_fields(body).filter(|(kind, _)| *kind != b'P') {
        out.push(kind);
        out.extend_from_slice(value);
        out.push(0);
    }
    out.push(0);
    out
}

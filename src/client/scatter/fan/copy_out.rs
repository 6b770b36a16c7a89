//! COPY TO STDOUT of a table that several shards have: one stream of the rows of all, in any order.
//!
//! A shard is not read from while the client has too much to take.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::super::leg::{Leg, State};
use super::super::run;
use super::reply::{self, Failure, Reply};
use super::{Asked, Reached, Told, next_message};
use crate::client::shared::{Activity, Links, Order};
use crate::client::task::{Client, End, HIGH_WATER, Stopped, terminated_as};
use crate::error::Error;
use crate::pool::Verdict;
use crate::shard::copy::{Joiner, Layout};
use crate::shard::plan::Fan;
use crate::wire::encode;
use crate::wire::message::TransactionStatus;

/// How it ended.
enum Ended {
    Done,
    Shard(usize, Failure),
    Client(End),
}

impl Client {
    /// Answers the segment, which is a COPY TO STDOUT of such a table.
    pub(super) async fn copy_out(
        &mut self,
        (fan, layout): (&Fan, &Layout),
        asked: Asked,
        mut legs: Vec<Leg>,
        (since, verdict): (Instant, Verdict),
    ) -> Result<(), End> {
        let begun = match self.attend_to(begin(&mut legs, &asked.text)).await {
            Ok(begun) => begun,
            Err(stopped) => {
                legs.into_iter().for_each(|leg| leg.finish(verdict));
                return match stopped {
                    Stopped::Refused(error) => self.refuse(error).await,
                    Stopped::End(end) => Err(end),
                };
            }
        };
        let segment = self.segment.take();
        self.input.consume(segment.len);
        let database = Arc::clone(&self.database);
        let name = |at: usize| fan.shards.get(at).map_or("?", |shard| database.config.map.name(*shard));
        let error_of = |at, failure| Reply { error: Some(failure), ..Reply::default() }.error_for(name(at));
        let header = match begun {
            Ok(header) => header,
            Err((at, failure)) => {
                legs.into_iter().for_each(|leg| leg.finish(verdict));
                let told = Told::Failed(error_of(at, failure));
                self.tell_outcome(
                    asked.extended.as_ref(),
                    Reached { parsed: true, bound: true },
                    segment,
                    (told, TransactionStatus::Idle),
                );
                return Ok(());
            }
        };
        super::super::count_segment(&mut legs, &segment);
        self.begin_copy(asked.extended.as_ref(), b'H', &header);
        let mut joiner = Joiner::new(layout, legs.len());
        let links = legs.iter().map(Leg::link).collect();
        self.handle().set_links(Links::Several(Box::new(links)));
        let ended = self.join(&mut legs, &mut joiner, since).await;
        self.handle().set_links(Links::None);
        self.handle().set_activity(Activity::Idle);
        legs.into_iter().for_each(|leg| leg.finish(verdict));
        self.note_prepared();
        let out = self.output.tail();
        match ended {
            Ended::Done => {
                if let Some(end) = joiner.end() {
                    encode::frame(out, b'd', |b| b.extend_from_slice(end));
                }
                encode::frame(out, b'c', |_| {});
                encode::command_complete(out, &format!("COPY {}", joiner.rows()));
            }
            Ended::Shard(at, failure) => out.extend_from_slice(&error_of(at, failure)),
            Ended::Client(end) => return Err(end),
        }
        encode::ready_for_query(self.output.tail(), TransactionStatus::Idle);
        Ok(())
    }

    /// Moves what the shards send to the client, until all have ended.
    async fn join(&mut self, legs: &mut [Leg], joiner: &mut Joiner, since: Instant) -> Ended {
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
                        Err(Failure::Lost("it answers nothing any more, probes neither".to_owned()))
                    } else {
                        self.read_copy(at, leg, joiner, cx)
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
                    leg.is_ready();
                    break;
                }
                _ => {}
            }
        }
        Ok(moved)
    }
}

/// Begins the COPY on every shard; the body of CopyOutResponse, or who failed.
async fn begin(legs: &mut [Leg], text: &[u8]) -> Result<Result<Vec<u8>, (usize, Failure)>, Error> {
    let mut request = Vec::new();
    encode::query(&mut request, text);
    let mut header: Option<Vec<u8>> = None;
    let mut failed = None;
    for (at, leg) in legs.iter_mut().enumerate() {
        if failed.is_some() {
            // It is not asked.
            leg.state = State::Ready;
            continue;
        }
        match begin_one(leg, &request).await {
            Ok(body) if header.as_ref().is_some_and(|first| *first != body) => {
                failed = Some((at, Failure::Ours(run::columns_differ())));
            }
            Ok(body) => header = Some(body),
            Err(failure) => failed = Some((at, failure)),
        }
    }
    Ok(failed.map_or_else(|| Ok(header.unwrap_or_default()), Err))
}

async fn begin_one(leg: &mut Leg, request: &[u8]) -> Result<Vec<u8>, Failure> {
    leg.ask(request);
    loop {
        match reply::next(leg).await {
            Ok((b'H', body)) => {
                leg.state = State::Described;
                return Ok(body);
            }
            Ok((b'E', body)) => {
                leg.state = State::Failed;
                return Err(Failure::Said(body));
            }
            Ok(_) => {}
            Err(error) => {
                leg.lost(&error.to_string());
                return Err(Failure::Lost(error.to_string()));
            }
        }
    }
}

//! A statement that several shards write, or a COPY of them: each begins a transaction and does its part, and then all commit, or none.
//!
//! One after the other the shards are sent BEGIN, their part, and the question whether they have written, in one message. An error of one is the
//! statement's, and all are rolled back. `reply` reads what a shard says, `copy` is COPY FROM STDIN
//! (`batch` puts its rows together), `copy_out` COPY TO STDOUT, `present` is about parameters like `now`, `commit` carries out what
//! [`crate::shard::commit`] orders. Nothing is told to the client before the outcome is known.

mod batch;
pub(super) mod commit;
mod copy;
mod copy_out;
mod present;
pub(super) mod reply;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use super::explain::Route;
use super::leg::{Leg, State};
use super::{Asked, Extended, run, writes};
use crate::client::hidden::{Judged, NewCode, Place};
use crate::client::plan::Need;
use crate::client::segment::Segment;
use crate::client::shared::{Activity, Links};
use crate::client::task::{Client, End, Stopped, cancelled};
use crate::clock;
use crate::error::{Error, SqlState};
use crate::pool::ledger::SlotId;
use crate::pool::{Pool, Verdict};
use crate::session::Intake;
use crate::shard::commit::recovery;
use crate::shard::plan::Fan;
use crate::shard::plan::write::{Answer, Copies, Differs, Parts};
use crate::sql::facts::StatementFacts;
use crate::sql::scatter::{Explain, Rows};
use crate::wire::message::{self, TransactionStatus};
use crate::wire::{encode, frame};
use reply::Reply;

/// How long shards may take to end what nobody waits for any more.
const SETTLE: Duration = Duration::from_secs(10);

/// A future of one shard's work.
type Work<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// What the client is told.
enum Told {
    /// The statement's answer: columns, rows, tag.
    Done { columns: Option<Vec<u8>>, rows: Vec<Vec<u8>>, tag: String },
    /// An ErrorResponse.
    Failed(Vec<u8>),
}

/// A statement that one of the shards is to do.
struct Piece {
    text: Vec<u8>,
    types: Vec<u8>,
    bound: Vec<u8>,
}

/// How far the protocol came on the shards, for what is said before an error.
#[derive(Debug, Clone, Copy, Default)]
struct Reached {
    parsed: bool,
    bound: bool,
}

impl Reached {
    fn of(replies: &[Reply]) -> Self {
        Self {
            parsed: replies.iter().any(|reply| reply.parsed),
            bound: replies.iter().any(|reply| reply.bound)
                && replies.iter().all(|reply| reply.bound || reply.error.is_none()),
        }
    }
}

impl Client {
    /// Answers the segment, which writes on several shards.
    pub(in crate::client) async fn fan(&mut self, need: &Need, fan: &Fan) -> Result<(), End> {
        let since = clock::now();
        let asked = match self.asked() {
            Ok(asked) => asked,
            Err(error) if fan.reads() => return self.refuse(error).await,
            Err(error) => return self.refuse(writes(error)).await,
        };
        if self.may_make_temp() {
            return self.refuse(temp_on_several()).await;
        }
        if let Some(error) = asked.extended.as_ref().and_then(|extended| unable(&fan.parts, extended)) {
            return self.refuse(error).await;
        }
        let verdict = self.verdict_behind(&fan.shards);
        self.learn_hidden(&fan.shards);
        let mut legs = match self.acquire(&fan.shards, need, None).await {
            Ok(legs) => legs,
            Err(Stopped::Refused(error)) => {
                self.refuse_here(&error);
                return Ok(());
            }
            Err(Stopped::End(end)) => return Err(end),
        };
        if !fan.reads() {
            // What is written there may take values of sequences, of which nobody keeps account.
            let connections = legs.iter_mut().filter_map(Leg::connection);
            connections.for_each(|connection| self.values.scatter(&mut connection.state.sequences));
        }
        if let Parts::CopyOut(read) = &fan.parts {
            return Box::pin(self.copy_out((fan, read), asked, legs, (since, verdict))).await;
        }
        if let Parts::Copy(copy) = &fan.parts {
            return Box::pin(self.copy_in((need, fan, copy), asked, legs, (since, verdict))).await;
        }
        if let Parts::Explain { explain, of } = &fan.parts {
            return Box::pin(self.explain_parts((fan, explain, of), asked, legs, (since, verdict))).await;
        }
        let requests = match self.requests(&mut legs, fan, &asked, false).await {
            Ok(requests) => requests,
            Err(stopped) => {
                legs.into_iter().for_each(|leg| leg.abandon(verdict));
                return match stopped {
                    Stopped::Refused(error) => self.refuse(error).await,
                    Stopped::End(end) => Err(end),
                };
            }
        };
        let changes = self.new_code(&asked.text, &fan.shards);
        let changes = changes.map_or_else(Vec::new, |new| self.begin_changes(&mut legs, new));
        let segment = self.segment.take();
        self.input.consume(segment.len);
        let worked = self.work(&mut legs, fan, &requests, (since, false)).await;
        let (replies, ended) = match worked {
            Ok(done) => done,
            Err(end) => {
                // They do not answer: closing their connections ends their transactions.
                legs.iter_mut().for_each(|leg| leg.state = State::Lost);
                legs.into_iter().for_each(|leg| leg.finish(verdict));
                return Err(end);
            }
        };
        let reached = if matches!(fan.parts, Parts::Each { .. }) {
            Reached { parsed: true, bound: true }
        } else {
            Reached::of(&replies)
        };
        notices(fan, &replies).for_each(|notice| self.output.extend(notice));
        let answer = match self.answer_of(fan, &replies) {
            Ok(_) if ended.is_some() => Err(Vec::new()),
            answer => answer,
        };
        let told = match answer {
            Ok(told) if matches!(fan.parts, Parts::Each { .. }) => {
                // Each has ended by itself.
                legs.iter_mut().filter(|leg| leg.state != State::Lost).for_each(Leg::is_ready);
                told
            }
            Ok(told) => {
                let committed = self.commit(&mut legs, &commit::Whole::of(fan, &replies)).await;
                committed.map_or_else(Told::Failed, |()| told)
            }
            Err(error) => {
                commit::roll_back(&mut legs).await;
                Told::Failed(error)
            }
        };
        if need.changes_catalog {
            self.database.catalog_is_changed(true);
            if self.segment.items.iter().filter_map(|(intake, _)| intake.facts()).any(|facts| facts.changes_defaults())
            {
                self.leave_old_defaults();
            }
        }
        for (mut change, leg) in changes.into_iter().zip(&legs) {
            // Else it is found out by the server's process whether it still goes on.
            if !leg.is_lost() {
                change.ended();
            }
        }
        self.has_written(clock::now());
        super::count_segment(&mut legs, &segment);
        legs.into_iter().for_each(|leg| leg.finish(verdict));
        if let Some(end) = ended {
            return Err(end);
        }
        self.tell_outcome(asked.extended.as_ref(), reached, segment, (told, TransactionStatus::Idle));
        Ok(())
    }

    /// The same within a block that its shards have begun; whether the transaction goes on.
    ///
    /// # Errors
    /// It was refused, of which the client has not been told; or the client's end. Whatever comes of it, the connections are in a
    /// transaction, or lost.
    pub(super) async fn fan_within(&mut self, legs: &mut [Leg], fan: &Fan, asked: &Asked) -> Result<bool, Stopped> {
        match &fan.parts {
            Parts::CopyOut(read) => return Box::pin(self.copy_out_within(legs, (fan, read), asked)).await,
            Parts::Copy(copy) => return Box::pin(self.copy_in_within(legs, (fan, copy), asked)).await,
            Parts::Rows { .. } | Parts::Whole { .. } | Parts::Each { .. } | Parts::Explain { .. } => {}
        }
        let since = clock::now();
        let requests = self.requests(legs, fan, asked, true).await?;
        let segment = self.segment.take();
        self.input.consume(segment.len);
        let (replies, ended) = self.work(legs, fan, &requests, (since, true)).await.map_err(Stopped::End)?;
        if let Some(end) = ended {
            return Err(Stopped::End(end));
        }
        let reached = Reached::of(&replies);
        notices(fan, &replies).for_each(|notice| self.output.extend(notice));
        let told = self.answer_of(fan, &replies);
        let goes_on = told.is_ok();
        self.has_written(clock::now());
        super::count_segment(legs, &segment);
        legs.iter_mut().for_each(Leg::is_ready_within);
        let status = if goes_on { TransactionStatus::InTransaction } else { TransactionStatus::Failed };
        let told = told.unwrap_or_else(Told::Failed);
        let extended = asked.extended.as_ref();
        let suspended = self.tell_outcome(extended, reached, segment, (told, status));
        if let Some(extended) = extended.filter(|extended| suspended && !extended.close) {
            self.curtail(&extended.portal);
        }
        Ok(goes_on)
    }

    /// Whether the segment may make a temporary object without saying so, by the search_path: the servers of several shards are not kept
    /// for their client, so that others would meet it. What is altered, and an index, is where its table is.
    pub(super) fn may_make_temp(&self) -> bool {
        let made = |s: &StatementFacts| s.makes_object() && !s.why.starts_with("ALTER") && s.why != "CREATE INDEX";
        let mut facts = self.segment.items.iter().filter_map(|(intake, _)| intake.facts());
        self.session.may_make_temp_unseen() && facts.any(|facts| facts.statements.iter().any(made))
    }

    /// What was known of the code of these shards counts no more from here on.
    fn begin_changes(&self, legs: &mut [Leg], new: NewCode) -> Vec<Judged> {
        let begin = |leg: &mut Leg| {
            let mut judged = Judged::default();
            let pid = leg.connection().map_or(0, |connection| connection.pid);
            judged.changes_code(Place { shard: leg.shard, replica: false, pid }, new);
            judged.commits(&self.database);
            judged
        };
        legs.iter_mut().map(begin).collect()
    }

    /// What each shard is sent.
    async fn requests(
        &mut self,
        legs: &mut [Leg],
        fan: &Fan,
        asked: &Asked,
        in_block: bool,
    ) -> Result<Vec<Vec<u8>>, Stopped> {
        match &fan.parts {
            Parts::Whole { .. } | Parts::Rows { .. } => {
                let before = before(&fan.parts, in_block);
                let pieces = self.pieces(legs, &fan.parts, asked).await?;
                Ok(pieces.iter().map(|piece| request(before, &piece.text, &piece.types, &piece.bound)).collect())
            }
            // A COPY is another conversation, and so is EXPLAIN.
            Parts::Each { .. } | Parts::Copy(_) | Parts::CopyOut(_) | Parts::Explain { .. } => {
                let mut query = Vec::with_capacity(asked.text.len() + 8);
                encode::query(&mut query, &asked.text);
                Ok(legs.iter().map(|_| query.clone()).collect())
            }
        }
    }

    /// What each shard is to do of a statement by the extended protocol.
    async fn pieces(&mut self, legs: &mut [Leg], parts: &Parts, asked: &Asked) -> Result<Vec<Piece>, Stopped> {
        let text = std::str::from_utf8(&asked.text).map_err(|_| Stopped::Refused(not_utf8()))?;
        let settled = self.settle_present(legs, asked).await?;
        let asked = settled.as_ref().unwrap_or(asked);
        let whole =
            |_: &Leg| Piece { text: asked.text.clone(), types: asked.types.clone(), bound: asked.bound.clone() };
        match parts {
            Parts::Rows { insert, of } => {
                let known = self.types_of_parameters(legs, asked).await?;
                let part = |rows: &Vec<usize>| {
                    let (types, bound) =
                        values(asked, &known, insert, rows).ok_or_else(|| Stopped::Refused(malformed()))?;
                    Ok(Piece { text: insert.part(text, rows).into_bytes(), types, bound })
                };
                of.iter().map(part).collect()
            }
            Parts::Whole { copies: Some(copies), .. } => {
                self.stay_alike(legs, copies).await?;
                Ok(legs.iter().map(whole).collect())
            }
            Parts::Whole { .. } | Parts::Each { .. } | Parts::Copy(_) | Parts::CopyOut(_) | Parts::Explain { .. } => {
                Ok(legs.iter().map(whole).collect())
            }
        }
    }

    /// Answers EXPLAIN of such a statement: each shard explains its part.
    async fn explain_parts(
        &mut self,
        (fan, explain, parts): (&Fan, &Explain, &Parts),
        asked: Asked,
        mut legs: Vec<Leg>,
        (since, verdict): (Instant, Verdict),
    ) -> Result<(), End> {
        let Asked { types, bound, extended, .. } = asked;
        let asked = Asked { text: explain.statement.clone().into_bytes(), types, bound, extended: None };
        let pieces = match self.pieces(&mut legs, parts, &asked).await {
            Ok(pieces) => pieces,
            Err(stopped) => {
                legs.into_iter().for_each(|leg| leg.abandon(verdict));
                return match stopped {
                    Stopped::Refused(error) => self.refuse(error).await,
                    Stopped::End(end) => Err(end),
                };
            }
        };
        let request = |piece: &Piece| {
            let bound = super::prepare::with_formats(&piece.bound, &[]).unwrap_or_default();
            super::request(&[explain.prefix.as_bytes(), &piece.text].concat(), &piece.types, &bound)
        };
        let requests = pieces.iter().map(request).collect();
        let route = Route { shards: &fan.shards, proof: &fan.proof, steps: fan.steps(), format: explain.format };
        self.explain(legs, (route, requests), extended.as_ref(), (verdict, since)).await
    }

    /// Asks every shard whether the copies of a reference table stay alike.
    async fn stay_alike(&mut self, legs: &mut [Leg], copies: &Copies) -> Result<(), Stopped> {
        let sql = copies.sql();
        let asking = async {
            let mut shards = Vec::with_capacity(legs.len());
            for leg in legs.iter_mut() {
                shards.push(columns(leg, &sql).await?);
            }
            Ok(shards)
        };
        let shards = self.attend_to(asking).await?;
        copies.differ(&shards).map_or(Ok(()), |why| Err(Stopped::Refused(copies_differ(&copies.table.1, &why))))
    }

    /// The types of the parameters, where the whole statement decides them: one that stands in several places has that of the first,
    /// which need not be in each part.
    async fn types_of_parameters(&mut self, legs: &mut [Leg], asked: &Asked) -> Result<Vec<u32>, Stopped> {
        let facts = self.segment.items.iter().find_map(|(intake, _)| intake.facts());
        let repeated = facts.is_some_and(|facts| {
            let repeated = facts.statements.iter().flat_map(|statement| &statement.repeated);
            asked.leaves_type_of(repeated.map(|used| used.number))
        });
        let Some(first) = legs.first_mut().filter(|_| repeated) else { return Ok(asked.declared()) };
        self.attend_to(parameters(first, &asked.text, &asked.types)).await
    }

    /// Waits for what a shard is asked before the statement.
    async fn attend_to<T>(&mut self, asking: impl Future<Output = Result<T, Error>>) -> Result<T, Stopped> {
        let limit = self.live.config.general.query_wait_timeout;
        let limit = if limit.is_zero() { SETTLE } else { limit };
        self.handle().set_activity(Activity::Waiting);
        let asked = self.attend(asking, limit).await;
        self.handle().cancel_is_done();
        self.handle().set_activity(Activity::Idle);
        match asked? {
            Some(answer) => answer.map_err(Stopped::Refused),
            None => Err(Stopped::Refused(silent())),
        }
    }

    /// Has the shards do their parts; the client's end, if it came meanwhile: what is under way is cancelled then.
    ///
    /// # Errors
    /// The same, when the shards do not answer even to that.
    async fn work(
        &mut self,
        legs: &mut [Leg],
        fan: &Fan,
        requests: &[Vec<u8>],
        (since, in_block): (Instant, bool),
    ) -> Result<(Vec<Reply>, Option<End>), End> {
        let handle = Arc::clone(self.handle());
        let links: Vec<(Arc<Pool>, SlotId)> = legs.iter().map(Leg::link).collect();
        let each = matches!(fan.parts, Parts::Each { .. });
        let stages = match &fan.parts {
            Parts::Each { .. } => reply::ALONE,
            _ if in_block => reply::IN_BLOCK,
            parts if is_ddl(parts) => reply::WITH_LIMIT,
            _ => reply::IN_TRANSACTION,
        };
        let ends = AtomicBool::new(false);
        let (watcher, ending) = (&handle, &ends);
        let cancels = handle.cancels_sent.load(Ordering::Acquire);
        // One after the other, in the order of the shards, which all writers of several keep: nobody waits in a circle for locks.
        let working = async move {
            let mut replies: Vec<Reply> = Vec::with_capacity(requests.len());
            for (leg, request) in legs.iter_mut().zip(requests) {
                let stops = !each && replies.iter().any(|reply| reply.error.is_some());
                if stops || ending.load(Ordering::Relaxed) {
                    // It was not asked.
                    leg.state = State::Ready;
                    replies.push(Reply::default());
                } else {
                    let mut reply = reply::ask(leg, request, stages, watcher).await;
                    // It may have come when this shard had answered, or had not been asked yet: nothing is committed so far.
                    if !each && watcher.cancels_sent.load(Ordering::Acquire) != cancels {
                        reply.fail(reply::Failure::Ours(cancelled()));
                    }
                    replies.push(reply);
                }
            }
            replies
        };
        self.see_through(links, &ends, since, working).await
    }

    /// Waits for what the shards do on these connections, where a cancel request of the client goes; the client's end, if it came meanwhile:
    /// `ends` is set then, and what is under way is cancelled.
    ///
    /// # Errors
    /// The same, when the shards do not answer even to that.
    async fn see_through<T>(
        &mut self,
        links: Vec<(Arc<Pool>, SlotId)>,
        ends: &AtomicBool,
        since: Instant,
        working: impl Future<Output = T>,
    ) -> Result<(T, Option<End>), End> {
        let handle = Arc::clone(self.handle());
        handle.set_links(Links::Several(Box::new(links.clone())));
        handle.set_activity(Activity::Active);
        let mut working = pin!(working);
        let limit = self.limits.statement(since, self.begun_at());
        let rest = limit.map_or(Duration::MAX, |(at, _)| at.saturating_duration_since(clock::now()));
        let rest = rest.min(Duration::from_secs(86_400 * 365));
        let attended = self.attend(working.as_mut(), rest).await;
        handle.set_links(Links::None);
        let ended = match attended {
            Ok(Some(done)) => {
                handle.set_activity(Activity::Idle);
                return Ok((done, None));
            }
            Ok(None) => match limit {
                Some((_, overdue)) => End::Told(self.time_is_up(overdue)),
                None => End::Gone,
            },
            // It was for this statement, which is cancelled on its servers.
            Err(Stopped::Refused(error)) => End::Told(error),
            Err(Stopped::End(end)) => end,
        };
        ends.store(true, Ordering::Relaxed);
        cancel(&links).await;
        let settled = tokio::time::timeout(SETTLE, working).await;
        handle.set_activity(Activity::Idle);
        match settled {
            Ok(done) => Ok((done, Some(ended))),
            Err(_) => Err(ended),
        }
    }

    /// The answer of all shards together.
    ///
    /// # Errors
    /// The ErrorResponse of the statement.
    fn answer_of(&self, fan: &Fan, replies: &[Reply]) -> Result<Told, Vec<u8>> {
        let name = |at: usize| fan.shards.get(at).map_or("?", |shard| self.database.config.map.name(*shard));
        if matches!(fan.parts, Parts::Each { .. }) {
            return Ok(self.answer_of_each(fan, replies));
        }
        // The first that failed by itself: the others may have been cancelled for it.
        let failed = replies.iter().enumerate().filter(|(_, reply)| reply.error.is_some());
        if let Some((at, reply)) = failed.min_by_key(|(_, reply)| (reply.is_cancelled(), reply.at)) {
            return Err(reply.error_for(name(at)));
        }
        let mut columns: Option<Vec<u8>> = None;
        for (shard, reply) in fan.shards.iter().zip(replies) {
            let Some(body) = &reply.columns else { continue };
            let home = *shard == self.database.config.map.default_shard;
            let bare = || if home { Some(body.clone()) } else { run::without_tables(body) };
            match &columns {
                Some(first) if !run::same_columns(first, body) => return Err(run::encoded(&run::columns_differ())),
                Some(_) if !home => {}
                _ => columns = bare(),
            }
        }
        let all = || replies.iter().flat_map(|reply| reply.rows.iter().cloned()).collect();
        let (rows, tag) = match &fan.parts {
            Parts::Rows { of, .. } => (in_order(of, replies).map_err(|error| run::encoded(&error))?, sum(replies)),
            Parts::Copy(copy) if copy.key.is_some() => (Vec::new(), sum(replies)),
            Parts::Whole { answer: Answer::Sum, .. } => (all(), sum(replies)),
            Parts::Whole { answer: Answer::Same, .. }
            | Parts::Each { .. }
            | Parts::Copy(_)
            | Parts::CopyOut(_)
            | Parts::Explain { .. } => {
                let first = replies.first();
                (first.map(|reply| reply.rows.clone()).unwrap_or_default(), same(replies))
            }
        };
        let tag = tag.ok_or_else(|| run::encoded(&other_tags()))?;
        Ok(Told::Done { columns, rows, tag })
    }

    /// The answer of shards that have each done it by itself, or not.
    fn answer_of_each(&self, fan: &Fan, replies: &[Reply]) -> Told {
        let name = |at: usize| fan.shards.get(at).map_or("?", |shard| self.database.config.map.name(*shard));
        let failed: Vec<(usize, Error)> =
            replies.iter().enumerate().filter_map(|(at, reply)| Some((at, reply.plain_error(name(at))?))).collect();
        let Some((_, first)) = failed.first() else {
            let tag = replies.first().and_then(|reply| reply.tag.clone()).unwrap_or_default();
            return Told::Done { columns: None, rows: Vec::new(), tag };
        };
        let told: Vec<String> = (0..replies.len())
            .map(|at| match failed.iter().find(|(failed, _)| *failed == at) {
                Some((_, error)) => format!("Shard \"{}\": {}.", name(at), error.message),
                None if replies.get(at).is_some_and(|reply| reply.tag.is_none()) => {
                    format!("Shard \"{}\": not asked.", name(at))
                }
                None => format!("Shard \"{}\": done.", name(at)),
            })
            .collect();
        let message =
            format!("the statement failed on {} of {} shards: {}", failed.len(), replies.len(), first.message);
        let error = Error::server(first.sqlstate, message)
            .detail(told.join(" "))
            .hint("It cannot run in a transaction. Send it again, or on one shard after SET pgweir.shard = 'name'.");
        Told::Failed(run::encoded(&error))
    }

    /// Writes the answer for the client, and the status that it is in then; whether it was told that there may be more rows.
    fn tell_outcome(
        &mut self,
        extended: Option<&Extended>,
        reached: Reached,
        segment: Segment,
        (told, status): (Told, TransactionStatus),
    ) -> bool {
        let goes_on = segment.goes_on();
        if matches!(told, Told::Failed(_)) {
            self.pass_over_pieces(0);
        }
        if extended.is_some_and(|e| e.parse) && !reached.parsed {
            // What was closed before stays so.
            let withdrawn = segment.items.into_iter().rev().map(|(intake, _)| intake);
            for intake in withdrawn.filter(|intake| !matches!(intake, Intake::CloseStatement { .. })) {
                self.session.withdraw_failed(intake);
            }
        }
        self.note_prepared();
        let out = self.output.tail();
        let done = matches!(told, Told::Done { .. });
        let mut suspended = false;
        if let Some(extended) = extended {
            extended.tell_closed(out);
            if extended.parse && reached.parsed {
                out.extend_from_slice(encode::PARSE_COMPLETE);
            }
            if reached.parsed && reached.bound {
                out.extend_from_slice(encode::BIND_COMPLETE);
            }
        }
        match told {
            Told::Done { columns, rows, tag } => {
                match (&columns, extended) {
                    (Some(columns), None) => encode::frame(out, b'T', |b| b.extend_from_slice(columns)),
                    (Some(columns), Some(e)) if e.describe => {
                        encode::frame(out, b'T', |b| b.extend_from_slice(columns))
                    }
                    (None, Some(e)) if e.describe => encode::frame(out, b'n', |_| {}),
                    _ => {}
                }
                // The statement is done in any case; a limit is one of the rows that it returns.
                let most = extended.map_or(0, |e| e.most) as usize;
                let shown = if most > 0 { rows.get(..most).unwrap_or(&rows) } else { &rows };
                shown.iter().for_each(|row| encode::frame(out, b'D', |b| b.extend_from_slice(row)));
                suspended = most > 0 && shown.len() == most && columns.is_some();
                if suspended {
                    out.extend_from_slice(encode::PORTAL_SUSPENDED);
                } else {
                    encode::command_complete(out, &tag);
                }
            }
            Told::Failed(error) => out.extend_from_slice(&error),
        }
        if done && extended.is_some_and(|e| e.close) {
            out.extend_from_slice(encode::CLOSE_COMPLETE);
        }
        if !goes_on {
            encode::ready_for_query(out, status);
        }
        suspended
    }
}

/// The columns that a question finds.
async fn columns(leg: &mut Leg, sql: &str) -> Result<Vec<String>, Error> {
    let mut out = Vec::new();
    encode::query(&mut out, sql.as_bytes());
    let mut found = Vec::new();
    for (tag, body) in leg.converse(&out).await.map_err(|e| reply::lost("?", &e.to_string()))? {
        match tag {
            b'E' => return Err(message::server_error(&body)),
            b'D' => found.extend(message::data_row(&body).unwrap_or_default().into_iter().flatten()),
            _ => {}
        }
    }
    Ok(found)
}

/// The types that a shard finds the parameters of a statement to have.
async fn parameters(leg: &mut Leg, text: &[u8], types: &[u8]) -> Result<Vec<u32>, Error> {
    let mut out = Vec::new();
    encode::parse(&mut out, b"", text, types);
    encode::describe_statement(&mut out, b"");
    encode::sync(&mut out);
    let mut found = Vec::new();
    let answers = leg.converse(&out).await;
    for (tag, body) in answers.map_err(|e| reply::lost("?", &e.to_string()))? {
        match tag {
            b'E' => return Err(message::server_error(&body)),
            b't' => {
                let mut reader = message::Reader::new(&body);
                let count = reader.count(4).ok_or_else(silent)?;
                found = (0..count).filter_map(|_| reader.u32()).collect();
            }
            _ => {}
        }
    }
    Ok(found)
}

/// What the extended protocol may want of a statement, and does not get.
fn unable(parts: &Parts, extended: &Extended) -> Option<Error> {
    match parts {
        Parts::Explain { .. } => (extended.most > 0).then(super::row_limit),
        Parts::Copy(_) => copy::closes(extended),
        Parts::Rows { .. } | Parts::Whole { .. } | Parts::CopyOut(_) | Parts::Each { .. } => None,
    }
}

/// Whether it is about what is on every shard, and no rows.
fn is_ddl(parts: &Parts) -> bool {
    matches!(parts, Parts::Whole { answer: Answer::Same, copies: None })
}

/// What a statement is sent behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    /// Nothing: its transaction is open.
    Nothing,
    /// BEGIN.
    Begin,
    /// BEGIN, and a limit for locks.
    BeginWithLimit,
}

fn before(parts: &Parts, in_block: bool) -> Before {
    match (in_block, is_ddl(parts)) {
        (true, _) => Before::Nothing,
        (false, true) => Before::BeginWithLimit,
        (false, false) => Before::Begin,
    }
}

/// What comes before the statement, the statement, and whether it has written.
fn request(before: Before, text: &[u8], types: &[u8], bound: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + types.len() + bound.len() + 256);
    let plain = |sql: &[u8], out: &mut Vec<u8>| {
        encode::parse(out, b"", sql, &super::NO_TYPES);
        encode::bind(out, b"", b"", &super::NOTHING_BOUND);
        encode::execute(out);
    };
    if before != Before::Nothing {
        plain(b"BEGIN", &mut out);
    }
    if before == Before::BeginWithLimit {
        plain(reply::LIMIT_SQL.as_bytes(), &mut out);
    }
    encode::parse(&mut out, b"", text, types);
    encode::bind(&mut out, b"", b"", bound);
    encode::describe_portal(&mut out);
    encode::execute(&mut out);
    plain(recovery::WROTE_SQL.as_bytes(), &mut out);
    encode::sync(&mut out);
    out
}

/// The types and the values of a part's parameters. What another part uses is NULL here, of the type text: no value of it can be wrong.
fn values(asked: &Asked, known: &[u32], insert: &Rows, rows: &[usize]) -> Option<(Vec<u8>, Vec<u8>)> {
    /// The number of type text.
    const TEXT: u32 = 25;
    let bind = message::Bind { portal: b"", statement: b"", rest: &asked.bound };
    let parameters = bind.parameters()?;
    if parameters.values.is_empty() {
        return Some((asked.types.clone(), asked.bound.clone()));
    }
    let all: Vec<usize> = (0..insert.len()).collect();
    let (used, anywhere) = (insert.params(rows), insert.params(&all));
    let elsewhere = |at: usize| {
        let number = u16::try_from(at.saturating_add(1)).unwrap_or(u16::MAX);
        anywhere.contains(&number) && !used.contains(&number)
    };
    let mut oids = known.to_vec();
    oids.resize(oids.len().max(parameters.values.len()), 0);
    for (at, oid) in oids.iter_mut().enumerate() {
        if elsewhere(at) {
            *oid = TEXT;
        }
    }
    let mut types = u16::try_from(oids.len()).ok()?.to_be_bytes().to_vec();
    oids.iter().for_each(|oid| types.extend_from_slice(&oid.to_be_bytes()));
    let mut bound = u16::try_from(parameters.formats.len()).ok()?.to_be_bytes().to_vec();
    parameters.formats.iter().for_each(|format| bound.extend_from_slice(&format.to_be_bytes()));
    bound.extend_from_slice(&u16::try_from(parameters.values.len()).ok()?.to_be_bytes());
    for (at, value) in parameters.values.iter().enumerate() {
        match value.filter(|_| !elsewhere(at)) {
            Some(value) => {
                bound.extend_from_slice(&i32::try_from(value.len()).ok()?.to_be_bytes());
                bound.extend_from_slice(value);
            }
            None => bound.extend_from_slice(&(-1_i32).to_be_bytes()),
        }
    }
    let formats = bind.result_formats()?;
    bound.extend_from_slice(&u16::try_from(formats.len()).ok()?.to_be_bytes());
    formats.iter().for_each(|format| bound.extend_from_slice(&format.to_be_bytes()));
    Some((types, bound))
}

/// What shards have said beside their answers. Where all do the same, what each says is told once.
fn notices<'a>(fan: &Fan, replies: &'a [Reply]) -> impl Iterator<Item = &'a Vec<u8>> {
    let alike = matches!(fan.parts, Parts::Whole { answer: Answer::Same, .. } | Parts::Each { .. });
    let of_all = move |notice: &Vec<u8>| alike && replies.iter().all(|reply| reply.notices.contains(notice));
    replies
        .iter()
        .enumerate()
        .flat_map(move |(at, reply)| reply.notices.iter().filter(move |notice| at == 0 || !of_all(notice)))
}

/// The rows that were returned, in the order of the statement's.
fn in_order(of: &[Vec<usize>], replies: &[Reply]) -> Result<Vec<Vec<u8>>, Error> {
    if replies.iter().all(|reply| reply.columns.is_none()) {
        return Ok(Vec::new());
    }
    let mut all: Vec<(usize, &Vec<u8>)> = Vec::new();
    for (numbers, reply) in of.iter().zip(replies) {
        if reply.rows.len() != numbers.len() {
            return Err(rows_left_out());
        }
        all.extend(numbers.iter().copied().zip(&reply.rows));
    }
    all.sort_by_key(|(number, _)| *number);
    Ok(all.into_iter().map(|(_, row)| row.clone()).collect())
}

/// The command tag of all, which is the same.
fn same(replies: &[Reply]) -> Option<String> {
    let first = replies.first()?.tag.as_ref()?;
    replies.iter().all(|reply| reply.tag.as_ref() == Some(first)).then(|| first.clone())
}

/// The command tag of all: its count is the sum.
fn sum(replies: &[Reply]) -> Option<String> {
    let mut total: Option<(&str, u64)> = None;
    for reply in replies {
        let tag = reply.tag.as_deref()?;
        let (word, count) = match tag.rsplit_once(' ') {
            Some((word, count)) if count.bytes().all(|c| c.is_ascii_digit()) => (word, count.parse().ok()?),
            _ => return replies.iter().all(|other| other.tag.as_deref() == Some(tag)).then(|| tag.to_owned()),
        };
        total = match total {
            None => Some((word, count)),
            Some((first, so_far)) if first == word => Some((word, so_far.checked_add(count)?)),
            Some(_) => return None,
        };
    }
    total.map(|(word, count)| format!("{word} {count}"))
}

/// Cancels what runs on these connections.
async fn cancel(links: &[(Arc<Pool>, SlotId)]) {
    for (pool, slot) in links {
        if let Some(request) = pool.begin_cancel(*slot) {
            request.send(&AtomicBool::new(false)).await;
        }
    }
}

/// All of them, side by side.
async fn join_all<T>(mut works: Vec<Work<'_, T>>) -> Vec<T> {
    let mut done: Vec<Option<T>> = works.iter().map(|_| None).collect();
    poll_fn(|cx| {
        for (work, done) in works.iter_mut().zip(&mut done).filter(|(_, done)| done.is_none()) {
            if let Poll::Ready(outcome) = work.as_mut().poll(cx) {
                *done = Some(outcome);
            }
        }
        if done.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

/// See [`Client::may_make_temp`].
pub(super) fn temp_on_several() -> Error {
    Error::us(
        SqlState::FEATURE_NOT_SUPPORTED,
        "search_path names pg_temp, so that what is made on several shards could be temporary there: no session keeps the servers of several",
    )
    .hint("SET search_path without pg_temp before it.")
    .because("temp_on_several")
}

fn not_utf8() -> Error {
    Error::us(SqlState::FEATURE_NOT_SUPPORTED, "a statement that writes on several shards must be written in UTF8")
        .hint("Set client_encoding to UTF8 for the session.")
}

fn malformed() -> Error {
    Error::client(SqlState::PROTOCOL_VIOLATION, "malformed Bind message from the client")
}

fn silent() -> Error {
    Error::server(SqlState::CONNECTION_FAILURE, "a shard did not answer what it was asked before the statement")
        .hint("SHOW SERVERS and SHOW SHARDS on the console tell how the servers are.")
}

fn rows_left_out() -> Error {
    Error::us(
        SqlState::FEATURE_NOT_SUPPORTED,
        "an INSERT into several shards left rows out, so that what RETURNING gives cannot be put in order",
    )
    .detail("A trigger or a rule of the table does so; nothing was inserted.")
    .hint("Leave RETURNING out, or send one INSERT for each shard.")
}

fn other_tags() -> Error {
    Error::us(
        SqlState::FEATURE_NOT_SUPPORTED,
        "the shards have not done the same for the statement; nothing was changed",
    )
    .hint("Make the tables, their rules and triggers alike on all shards.")
}

fn copies_differ(table: &str, why: &Differs) -> Error {
    let (message, hint, construct) = match why {
        Differs::Computed(column) => (
            format!(
                "INSERT into reference table \"{table}\" leaves column \"{column}\" to its default, which each shard would compute for itself"
            ),
            "Name the columns, and give this one as a constant or a parameter.",
            "computed_default",
        ),
        Differs::Default(column) => (
            format!(
                "INSERT into reference table \"{table}\" leaves column \"{column}\" to its default, which is not the same on all shards"
            ),
            "Give the column the same default on all shards, or name it with a value.",
            "other_default",
        ),
        Differs::Trigger(trigger) => (
            format!(
                "trigger \"{trigger}\" of reference table \"{table}\" may change rows before they are written, on each shard otherwise"
            ),
            "Drop the trigger and give the values in the statement, or write the table on each shard in turn, after SET pgweir.shard = 'name'.",
            "reference_trigger",
        ),
    };
    Error::us(SqlState::FEATURE_NOT_SUPPORTED, message).hint(hint).because(construct)
}

/// Too much was returned.
fn too_much(most: usize) -> Error {
    Error::us(
        SqlState::PROGRAM_LIMIT_EXCEEDED,
        format!("a statement that writes on several shards may return {} MiB of rows from each", most >> 20),
    )
    .hint("Leave RETURNING out, or tie the statement to one shard by its sharding key.")
}

/// The header and body of a message that may be long.
fn next_message(bytes: &[u8]) -> Result<Option<(u8, Vec<u8>, usize)>, frame::FrameError> {
    Ok(frame::next(bytes, run::MAX_MESSAGE)?.map(|next| (next.tag, next.body().to_vec(), next.bytes.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tagged(tag: &str) -> Reply {
        Reply { tag: Some(tag.to_owned()), ..Reply::default() }
    }

    #[test]
    fn counts_add_up() {
        assert_eq!(sum(&[tagged("INSERT 0 2"), tagged("INSERT 0 3")]).as_deref(), Some("INSERT 0 5"));
        assert_eq!(sum(&[tagged("UPDATE 2"), tagged("UPDATE 0")]).as_deref(), Some("UPDATE 2"));
        assert_eq!(sum(&[tagged("CREATE TABLE"), tagged("CREATE TABLE")]).as_deref(), Some("CREATE TABLE"));
        assert_eq!(sum(&[tagged("INSERT 0 2"), tagged("UPDATE 3")]), None);
        assert_eq!(sum(&[tagged("DROP TABLE"), tagged("CREATE TABLE")]), None);
    }

    #[test]
    fn returned_rows_come_in_the_order_of_the_statement() {
        let reply = |rows: &[&[u8]]| Reply {
            columns: Some(Vec::new()),
            rows: rows.iter().map(|row| row.to_vec()).collect(),
            ..Reply::default()
        };
        let of = [vec![0, 3], vec![1, 2]];
        let rows = in_order(&of, &[reply(&[b"a", b"d"]), reply(&[b"b", b"c"])]).unwrap();
        assert_eq!(rows, [b"a", b"b", b"c", b"d"]);
        assert!(in_order(&of, &[reply(&[b"a"]), reply(&[b"b", b"c"])]).is_err());
    }
}

//! A statement that several shards answer: each is asked on a connection of its own, outside of transactions, and the client gets one
//! answer.
//!
//! Whatever protocol the client speaks, the shards are asked by the extended one, in one message for all: Parse, Bind, Describe,
//! Flush, Execute, Sync. Rows are passed on when all have said that their columns are the same; CommandComplete when all are ready
//! again, so that an answer that ends is whole. An error of one shard is the statement's, and the others are cancelled.
//!
//! `acquire` gets the connections, `leg` is one of them, `prepare` asks one shard what must be known first (`told` keeps what it has said), `explain` asks all for their plans, `run` moves what they send to
//! the client (`fetch` in parts, as it asks for them), or to `last`, where it is collected for one shard that computes the rest. `fan` is about statements that write on several shards, `spread` about transaction blocks that several take part in.

mod acquire;
mod explain;
mod fan;
mod fetch;
mod last;
pub(super) mod leg;
mod prepare;
mod run;
pub(super) mod spread;
pub(super) mod told;

use std::sync::Arc;

use crate::client::own;
use crate::client::plan::Need;
use crate::client::segment::{MAX_HELD, Segment};
use crate::client::shared::{Activity, Links};
use crate::client::task::{Client, End, Stopped};
use crate::clock;
use crate::config::PoolMode;
use crate::error::{Error, SqlState};
use crate::session::Intake;
use crate::shard::plan::Scatter;
use crate::wire::message::{self, Target, TransactionStatus};
use crate::wire::{encode, frame};
use acquire::Missing;
use leg::Leg;
use run::{Outcome, Run};

/// Parameter types, formats, values and result formats of a statement that has none: everything is text.
const NO_TYPES: [u8; 2] = [0; 2];
const NOTHING_BOUND: [u8; 6] = [0; 6];
/// The class of warnings.
const WARNING: SqlState = SqlState(*b"01000");

/// What the client has asked for.
#[derive(Debug)]
struct Asked {
    /// The statement.
    text: Vec<u8>,
    /// The types of its parameters, as in Parse.
    types: Vec<u8>,
    /// What follows the names in Bind.
    bound: Vec<u8>,
    /// The messages that it waits for beside rows; none for a simple query.
    extended: Option<Extended>,
}

impl Asked {
    /// The types that the client has declared; 0: it leaves one to the server.
    fn declared(&self) -> Vec<u32> {
        /// The number of type unknown, which says no more.
        const UNKNOWN: u32 = 705;
        let oids = message::Parse { name: b"", sql: b"", types: &self.types }.oids();
        oids.into_iter().map(|oid| if oid == UNKNOWN { 0 } else { oid }).collect()
    }

    /// Whether one of these parameters, by their numbers, has a type that the text decides.
    fn leaves_type_of(&self, mut numbers: impl Iterator<Item = u16>) -> bool {
        let declared = self.declared();
        numbers.any(|number| declared.get(usize::from(number).saturating_sub(1)).is_none_or(|oid| *oid == 0))
    }
}

/// Messages of the extended protocol that want an answer.
#[derive(Debug, Default)]
struct Extended {
    /// Statements, and portals that have come to their end, that are closed before all else.
    closed: usize,
    parse: bool,
    describe: bool,
    close: bool,
    /// The client's name of the portal, and how many rows it asks for at most; 0: all.
    portal: Box<[u8]>,
    most: u32,
}

impl Extended {
    /// That statements are closed, which no server needs to be asked about.
    fn tell_closed(&self, out: &mut Vec<u8>) {
        (0..self.closed).for_each(|_| out.extend_from_slice(encode::CLOSE_COMPLETE));
    }
}

impl Client {
    /// Answers the segment, which reads several shards.
    pub(super) async fn scatter(&mut self, need: &Need, scatter: &Scatter) -> Result<(), End> {
        let since = clock::now();
        let mut asked = match self.asked() {
            Ok(asked) => asked,
            Err(error) => return self.refuse(error).await,
        };
        let bound = scatter.explain.as_ref().and_then(|_| prepare::with_formats(&asked.bound, &[]));
        if scatter.explain.is_some() && asked.extended.as_ref().is_some_and(|extended| extended.most > 0) {
            return self.refuse(row_limit()).await;
        }
        if let (Some(explain), Some(bound)) = (&scatter.explain, bound) {
            // What the client asks for is one column of texts.
            (asked.text, asked.bound) = (explain.statement.clone().into_bytes(), bound);
        }
        let verdict = self.verdict_behind(&scatter.shards);
        // Before what is known is too old to count.
        self.learn_hidden(&scatter.shards);
        let partial = own::partial_results(self.session.settings(), self.database.config.partial_results);
        let mut missing = Vec::new();
        let mut legs = match self.acquire(&scatter.shards, need, partial.then_some(&mut missing)).await {
            Ok(legs) => legs,
            Err(Stopped::Refused(error)) => {
                self.refuse_here(&error);
                return Ok(());
            }
            Err(Stopped::End(end)) => return Err(end),
        };
        if !missing.is_empty() {
            let warning = self.without(&missing);
            encode::notice(self.output.tail(), "WARNING", &warning);
        }
        let prepared = match self.prepare(&mut legs, scatter, &asked, since).await {
            Ok(prepared) => prepared,
            Err(stopped) => {
                let unused = self.verdict_of_unused();
                legs.into_iter().for_each(|leg| leg.abandon(unused));
                return match stopped {
                    Stopped::Refused(error) => self.refuse(error).await,
                    Stopped::End(end) => Err(end),
                };
            }
        };
        if let Some(explain) = &scatter.explain {
            let request = explain::request_plan(explain, &prepared);
            let about = (explain::Route::of(scatter, explain), vec![request; legs.len()]);
            return Box::pin(self.explain(legs, about, asked.extended.as_ref(), (verdict, since))).await;
        }
        let handle = Arc::clone(self.handle());
        let segment = self.segment.take();
        self.input.consume(segment.len);
        let home = self.database.config.map.default_shard;
        let mut run = Run::new(legs, asked.extended, prepared, &segment, (home, since), false);
        handle.set_links(Links::Several(Box::new(run.links())));
        handle.set_activity(Activity::Active);
        let mut outcome = self.run_scatter(&mut run).await;
        if matches!(outcome, Outcome::Done) {
            let more;
            (run, more) = run.next(verdict);
            if more {
                handle.set_links(Links::Several(Box::new(run.links())));
                outcome = self.run_scatter(&mut run).await;
            }
        }
        // From here on no cancel request can start for these servers; those under way are waited for by their ledgers.
        handle.set_links(Links::None);
        handle.set_activity(Activity::Idle);
        let ended = self.tell_scatter(&run, segment, outcome, TransactionStatus::Idle);
        run.finish(verdict);
        ended
    }

    /// Writes what the client has not been told yet when it is over; `status` is what the client is in then.
    fn tell_scatter(
        &mut self,
        run: &Run,
        segment: Segment,
        outcome: Outcome,
        status: TransactionStatus,
    ) -> Result<(), End> {
        let (parsed, goes_on) = (run.is_parsed(), segment.goes_on());
        let tag = format!("SELECT {}", run.rows());
        let extended = run.extended();
        let (parses, closes) = (extended.is_some_and(|e| e.parse), extended.is_some_and(|e| e.close));
        let mut before = Vec::new();
        if matches!(outcome, Outcome::Failed(_)) {
            run.before_error(&mut before);
            self.pass_over_pieces(0);
        }
        if run.is_outdated() {
            // What was known of the tables is so no more.
            self.pools.told.lock().forget();
        }
        if parses && !parsed {
            // What was closed before stays so.
            let withdrawn = segment.items.into_iter().rev().map(|(intake, _)| intake);
            for intake in withdrawn.filter(|intake| !matches!(intake, Intake::CloseStatement { .. })) {
                self.session.withdraw_failed(intake);
            }
        }
        self.note_prepared();
        let out = self.output.tail();
        match outcome {
            Outcome::Done => {
                if run.is_suspended() {
                    out.extend_from_slice(encode::PORTAL_SUSPENDED);
                } else {
                    encode::command_complete(out, &tag);
                }
                if closes {
                    out.extend_from_slice(encode::CLOSE_COMPLETE);
                }
            }
            Outcome::Failed(error) => {
                out.extend_from_slice(&before);
                out.extend_from_slice(&error);
            }
            Outcome::Ended(end) => return Err(end),
        }
        if !goes_on {
            encode::ready_for_query(self.output.tail(), status);
        }
        Ok(())
    }

    /// The warning that the answer is a part.
    fn without(&self, missing: &[Missing]) -> Error {
        let name = |missing: &Missing| self.database.config.map.name(missing.shard);
        let names: Vec<String> = missing.iter().map(|missing| format!("\"{}\"", name(missing))).collect();
        let why: Vec<String> =
            missing.iter().map(|missing| format!("{}: {}", name(missing), missing.error.message)).collect();
        tracing::warn!(client = %self.handle().id, shards = names.join(", "), "an answer goes without shards that cannot be reached");
        Error::server(WARNING, format!("the answer is without the rows of shard {}", names.join(", ")))
            .detail(format!("{}.", why.join("; ")))
            .hint("SET pgweir.partial_results = off, and the statement fails instead.")
    }

    /// Reads the segment, and refuses forms that are not understood.
    fn asked(&self) -> Result<Asked, Error> {
        if self.pools.mode == PoolMode::Session {
            return Err(linked(TransactionStatus::Idle, true));
        }
        if self.segment.is_cut() {
            return Err(too_long());
        }
        let mut at = 0_usize;
        let mut frames = Vec::new();
        for (_, len) in &self.segment.items {
            let end = at.saturating_add(*len);
            frames
                .push(self.input.bytes().get(at..end).unwrap_or_default().get(frame::HEADER_LEN..).unwrap_or_default());
            at = end;
        }
        if let [(Intake::Query(_), _)] = self.segment.items.as_slice() {
            let text = frames.first().and_then(|body| message::query(body)).unwrap_or_default();
            return Ok(Asked {
                text: text.to_vec(),
                types: NO_TYPES.to_vec(),
                bound: NOTHING_BOUND.to_vec(),
                extended: None,
            });
        }
        let mut extended = Extended::default();
        let mut items = self.segment.items.iter().map(|(intake, _)| intake).zip(frames).peekable();
        while let Some((Intake::CloseStatement { .. } | Intake::ClosePortal { .. }, _)) = items.peek() {
            extended.closed = extended.closed.saturating_add(1);
            items.next();
        }
        let mut parsed = None;
        if let Some((Intake::Parse { statement, .. }, _)) = items.peek() {
            (parsed, extended.parse) = (Some(statement), true);
            items.next();
        }
        let Some((Intake::Bind { statement: Some(statement), portal, .. }, bind)) = items.next() else {
            return Err(pipelined());
        };
        if parsed.is_some_and(|parsed| !Arc::ptr_eq(parsed, statement)) {
            return Err(pipelined());
        }
        if let Some((Intake::DescribePortal, body)) = items.peek() {
            if message::target(body) != Some(Target::Portal(portal)) {
                return Err(pipelined());
            }
            extended.describe = true;
            items.next();
        }
        match items.next() {
            Some((Intake::Execute { portal: of }, body)) if of == portal => {
                let execute = message::execute(body).ok_or_else(pipelined)?;
                // Anything below 0 is no limit either.
                extended.most = u32::try_from(execute.max_rows).unwrap_or(0);
                extended.portal.clone_from(portal);
            }
            _ => return Err(pipelined()),
        }
        if let Some((Intake::ClosePortal { .. }, _)) = items.peek() {
            extended.close = true;
            items.next();
        }
        let (Some((Intake::Sync, _)), None) = (items.next(), items.next()) else { return Err(pipelined()) };
        let rest = message::bind(bind).map(|bind| bind.rest).unwrap_or_default();
        Ok(Asked {
            text: statement.sql.to_vec(),
            types: statement.types.to_vec(),
            bound: rest.to_vec(),
            extended: Some(extended),
        })
    }
}

/// What a shard is sent, where its rows are asked for in parts: by a portal of this name, so many at a time.
fn request_part(text: &[u8], types: &[u8], bound: &[u8], (portal, rows): (&[u8], u32)) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + types.len() + bound.len() + 128);
    encode::parse(&mut out, b"", text, types);
    encode::bind(&mut out, portal, b"", bound);
    encode::describe_named_portal(&mut out, portal);
    encode::execute_portal(&mut out, portal, rows);
    encode::sync(&mut out);
    out
}

/// What a shard is sent.
fn request(text: &[u8], types: &[u8], bound: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + types.len() + bound.len() + 64);
    encode::parse(&mut out, b"", text, types);
    encode::bind(&mut out, b"", b"", bound);
    encode::describe_portal(&mut out);
    // So that the columns come before the first rows are found.
    encode::flush(&mut out);
    encode::execute(&mut out);
    encode::sync(&mut out);
    out
}

/// The same error of a statement that writes.
pub(super) fn writes(mut error: Error) -> Error {
    error.message = error.message.replace("that reads several shards", "that writes on several shards");
    error
}

/// Why a session that has a server cannot read several.
pub(super) fn linked(status: TransactionStatus, keeps: bool) -> Error {
    let (why, hint) = match status {
        TransactionStatus::Idle if keeps => (
            "by a session that keeps its server",
            "Use pool_mode = \"transaction\", and end what keeps the server: SHOW PINS on the console tells.",
        ),
        TransactionStatus::Idle => ("in the middle of a pipeline", "Send a Sync before it."),
        TransactionStatus::InTransaction | TransactionStatus::Failed => (
            "within a transaction",
            "Send it outside of a transaction block, or tie it to one shard by its sharding key.",
        ),
    };
    Error::us(
        SqlState::FEATURE_NOT_SUPPORTED,
        format!("a statement that reads several shards is not supported {why} yet"),
    )
    .hint(hint)
    .because("scatter_in_transaction")
}

fn pipelined() -> Error {
    Error::us(
        SqlState::FEATURE_NOT_SUPPORTED,
        "a statement that reads several shards is not supported in a pipeline with others between two Syncs",
    )
    .hint("Send Bind, Describe, Execute and Sync for it alone; Parse may come before, and Describe of the statement with a Sync of its own.")
    .because("pipeline")
}

fn too_long() -> Error {
    Error::us(
        SqlState::FEATURE_NOT_SUPPORTED,
        format!(
            "a statement that reads several shards may be {} KiB long, with its values, between two Syncs",
            MAX_HELD / 1024
        ),
    )
    .hint("Send large values with statements that are tied to one shard by their sharding key.")
}

fn row_limit() -> Error {
    Error::us(
        SqlState::FEATURE_NOT_SUPPORTED,
        "EXPLAIN of a statement for several shards cannot be executed in parts: Execute has a limit of rows",
    )
    .hint("Set the fetch size or the maximum of rows to 0.")
    .because("row_limit")
}

/// Counts what the client has sent, once, for the first of the servers.
fn count_segment(legs: &mut [Leg], segment: &Segment) {
    if let Some(first) = legs.first_mut() {
        first.counts.received += segment.len as u64;
        for (intake, _) in &segment.items {
            match intake {
                Intake::Parse { named: Some(_), .. } => first.counts.client_parse_count += 1,
                Intake::Bind { .. } => first.counts.bind_count += 1,
                _ => {}
            }
        }
    }
}

//! What a shard says to its part of a statement.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::super::leg::{Leg, State};
use super::super::run;
use super::{next_message, too_much};
use crate::client::shared::ClientHandle;
use crate::clock;
use crate::error::{Error, SqlState};
use crate::health::breaker::FailureKind;
use crate::session::is_fatal;
use crate::wire::encode;
use crate::wire::message::{self, TransactionStatus};

/// Bytes of rows that a shard may return: they are held until the transaction is committed.
const MOST_RETURNED: usize = 64 << 20;

/// Of the first command the number, the statement's being 1; the number after the last; and how many of number 0 there are besides BEGIN.
pub(super) type Stages = (u8, u8, u8);
/// BEGIN, the statement, the question whether it has written.
pub(super) const IN_TRANSACTION: Stages = (0, 3, 0);
/// The statement in a transaction that is open, and that question.
pub(super) const IN_BLOCK: Stages = (1, 3, 0);
/// The same, with a limit for locks.
pub(super) const WITH_LIMIT: Stages = (0, 3, 1);
/// The statement as a simple query.
pub(super) const ALONE: Stages = (1, 2, 0);
/// Has a transaction wait for no lock longer than this, unless the session has a limit of its own: what takes locks on several shards at
/// once, or strong ones, may wait in a circle that no server sees.
pub(in crate::client::scatter) const LIMIT_SQL: &str = "SELECT pg_catalog.set_config('lock_timeout', '10s', true) \
    WHERE pg_catalog.current_setting('lock_timeout') = '0'";

/// Why a server is given up that is watched.
pub(super) const SILENT: &str = "it answers nothing any more, probes neither";

/// What a shard has answered to BEGIN, its part and the question whether it wrote.
#[derive(Debug, Default)]
pub(super) struct Reply {
    /// It has taken the text of the part.
    pub(super) parsed: bool,
    /// And the values.
    pub(super) bound: bool,
    /// The body of RowDescription.
    pub(super) columns: Option<Vec<u8>>,
    /// The bodies of DataRows.
    pub(super) rows: Vec<Vec<u8>>,
    /// The command tag.
    pub(super) tag: Option<String>,
    /// Whether it has written.
    pub(super) wrote: bool,
    /// As which user, as the shard tells it.
    pub(super) owner: String,
    /// The body of the first ErrorResponse, or of one of ours.
    pub(super) error: Option<Failure>,
    /// When that came.
    pub(super) at: Option<Instant>,
    /// Notices, as messages.
    pub(super) notices: Vec<Vec<u8>>,
    /// Bytes that it sent as rows.
    pub(super) bytes: usize,
    /// Commands that were completed, and how many are not to be counted.
    pub(super) stage: u8,
    pub(super) uncounted: u8,
}

/// Why a part failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The body of its ErrorResponse.
    Said(Vec<u8>),
    /// The connection broke.
    Lost(String),
    /// We do not take its answer.
    Ours(Error),
}

impl Reply {
    /// Whether it failed because it was cancelled.
    pub(super) fn is_cancelled(&self) -> bool {
        matches!(&self.error, Some(Failure::Said(body)) if message::error_field(body, b'C') == Some(&b"57014"[..]))
    }

    /// Its error, if it failed.
    pub(super) fn plain_error(&self, shard: &str) -> Option<Error> {
        Some(match self.error.as_ref()? {
            Failure::Said(body) => message::server_error(body),
            Failure::Ours(error) => error.clone(),
            Failure::Lost(why) => lost(shard, why),
        })
    }

    /// Its error as the client gets it.
    pub(super) fn error_for(&self, shard: &str) -> Vec<u8> {
        match &self.error {
            Some(Failure::Said(body)) if message::error_field(body, b'C') == Some(&b"55P03"[..]) => {
                let error = message::server_error(body).detail(format!("Shard \"{shard}\" has waited for a lock."));
                run::encoded(&error.hint("Send it again. Another statement may have waited for this one on another shard; lock_timeout says how long it waits; if it is 0, 10 s for COPY FROM and DDL on several shards, and for every statement of a transaction block of several shards."))
            }
            Some(Failure::Said(body)) => run::error_of_shard(body, shard),
            Some(Failure::Ours(error)) => run::encoded(error),
            Some(Failure::Lost(why)) => run::encoded(&lost(shard, why)),
            None => run::encoded(&lost(shard, "it did not answer")),
        }
    }

    pub(super) fn fail(&mut self, failure: Failure) {
        if self.error.is_none() {
            (self.error, self.at) = (Some(failure), Some(clock::now()));
        }
    }

    pub(super) fn take(&mut self, tag: u8, body: Vec<u8>) {
        match (tag, self.stage) {
            (b'1', 1) => self.parsed = true,
            (b'2', 1) => self.bound = true,
            (b'T', 1) => self.columns = Some(body),
            (b'D', 1) => {
                self.bytes = self.bytes.saturating_add(body.len());
                if self.bytes > MOST_RETURNED {
                    self.rows = Vec::new();
                    self.fail(Failure::Ours(too_much(MOST_RETURNED)));
                } else if self.error.is_none() {
                    self.rows.push(body);
                }
            }
            (b'D', 2) => {
                let mut cells = message::data_row(&body).unwrap_or_default().into_iter();
                self.wrote = cells.next().is_some_and(|cell| cell.as_deref() == Some("t"));
                self.owner = cells.next().flatten().unwrap_or_default();
            }
            (b'C', 0) if self.uncounted > 0 => self.uncounted -= 1,
            (b'C', stage) => {
                if stage == 1 {
                    let tag = message::command_complete(&body).unwrap_or_default();
                    self.tag = Some(String::from_utf8_lossy(tag).into_owned());
                }
                self.stage = stage.saturating_add(1);
            }
            (b'I', stage) => self.stage = stage.saturating_add(1),
            (b'E', _) => self.fail(Failure::Said(body)),
            _ => {}
        }
    }
}

/// Sends a shard its request and reads its answer. Whatever becomes of it is in the reply.
pub(super) async fn ask(leg: &mut Leg, request: &[u8], stages: Stages, handle: &Arc<ClientHandle>) -> Reply {
    let mut reply = Reply { stage: stages.0, uncounted: stages.2, ..Reply::default() };
    leg.ask(request);
    let silence = leg.watch();
    let answering = read(leg, &mut reply);
    let outcome = match silence {
        Some(silence) => silence.or(handle, answering).await,
        None => Some(answering.await),
    };
    match outcome {
        Some(Ok(_)) if reply.error.is_none() && reply.stage < stages.1 => {
            leg.lost("it has not answered all that it was asked");
            reply.fail(Failure::Lost("it has not answered all that it was asked".to_owned()));
        }
        Some(Ok(_)) => {}
        Some(Err(error)) => {
            leg.lost(&error.to_string());
            reply.fail(Failure::Lost(error.to_string()));
        }
        None => {
            leg.lost(SILENT);
            reply.fail(Failure::Lost(SILENT.to_owned()));
        }
    }
    (leg.parsed, leg.bound) = (reply.parsed, reply.bound);
    leg.counts.sent += reply.bytes as u64;
    reply
}

/// The outcome of a part of a conversation, unless the server is given up first, for it answers nothing any more.
///
/// # Errors
/// Of the connection, after which it cannot be used.
pub(super) async fn unless_gone<T>(
    leg: &mut Leg,
    handle: &ClientHandle,
    work: impl AsyncFnOnce(&mut Leg) -> io::Result<T>,
) -> io::Result<T> {
    match leg.watch() {
        Some(silence) => silence.or_gone(handle, work(leg)).await.unwrap_or_else(|| Err(io::Error::other(SILENT))),
        None => work(leg).await,
    }
}

/// Writes what waits and reads up to ReadyForQuery.
pub(super) async fn read(leg: &mut Leg, reply: &mut Reply) -> io::Result<TransactionStatus> {
    exchange(leg, |leg, tag, body| match tag {
        b'N' => {
            let mut notice = Vec::new();
            encode::frame(&mut notice, b'N', |b| b.extend_from_slice(&body));
            reply.notices.push(notice);
        }
        b'E' => {
            note_fatal(leg, &body);
            reply.take(tag, body);
        }
        tag => reply.take(tag, body),
    })
    .await
}

/// A server that goes is avoided from now on.
fn note_fatal(leg: &mut Leg, body: &[u8]) {
    let state = SqlState::from_bytes(message::error_field(body, b'C').unwrap_or_default());
    if is_fatal(body) && FailureKind::of_sqlstate(state).is_some() {
        let text = message::error_field(body, b'M').map(String::from_utf8_lossy).unwrap_or_default();
        leg.in_flight.server().on_admin_shutdown(&text, clock::now());
    }
}

/// Writes what waits in the connection and gives each message of the answer to `take`, up to ReadyForQuery: the state of the transaction.
///
/// # Errors
/// Of the connection, after which it cannot be used.
pub(super) async fn exchange(
    leg: &mut Leg,
    mut take: impl FnMut(&mut Leg, u8, Vec<u8>),
) -> io::Result<TransactionStatus> {
    loop {
        match next(leg).await? {
            (b'Z', body) => return message::ready_for_query(&body).ok_or_else(|| io::ErrorKind::InvalidData.into()),
            (tag, body) => take(leg, tag, body),
        }
    }
}

/// Writes what waits in the connection, and reads the next message that is an answer.
///
/// # Errors
/// Of the connection, after which it cannot be used.
pub(super) async fn next(leg: &mut Leg) -> io::Result<(u8, Vec<u8>)> {
    let gone = || io::Error::from(io::ErrorKind::NotConnected);
    if leg.state == State::Lost {
        return Err(gone());
    }
    let connection = leg.connection().ok_or_else(gone)?;
    if !connection.output.is_empty() {
        // A server that takes nothing more may have said why: what it says is read all the same.
        let written = poll_fn(|cx| connection.output.poll_flush(&mut connection.stream, cx)).await;
        if written.is_err() {
            connection.output = crate::net::Buffer::default();
        }
    }
    loop {
        let message = next_message(connection.input.bytes());
        match message.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))? {
            Some((tag, body, len)) => {
                connection.input.consume(len);
                match tag {
                    b'S' => connection.report(&body),
                    b'A' => {}
                    tag => return Ok((tag, body)),
                }
            }
            None => {
                if poll_fn(|cx| connection.input.poll_fill(&mut connection.stream, cx)).await? == 0 {
                    let why = "server closed the connection unexpectedly";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
                }
            }
        }
    }
}

/// Before anything was committed.
pub(super) fn lost(shard: &str, why: &str) -> Error {
    Error::server(SqlState::CONNECTION_FAILURE, format!("the connection to shard \"{shard}\" was lost: {why}"))
        .detail("The transaction is rolled back on every shard.")
        .hint("The statement can be sent again.")
}

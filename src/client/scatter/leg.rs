//! One shard's part of a statement that several shards answer.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::client::checkout::Lent;
use crate::client::hidden::Judged;
use crate::client::silence::{Find, Silence};
use crate::client::task::micros;
use crate::clock;
use crate::config::Role;
use crate::error::Error;
use crate::health::server::InFlight;
use crate::id::{ServerIndex, ShardIndex};
use crate::metrics::counters::Counts;
use crate::net::Buffer;
use crate::pool::ledger::SlotId;
use crate::pool::{Checkout, Pool, Verdict};
use crate::server::Connection;
use crate::wire::message;

/// How long a shard may take to end a statement that nobody waits for any more.
const SETTLE: Duration = Duration::from_secs(10);

/// After what time it is cancelled again; then after twice that, and so on.
const CANCELLED_AGAIN: Duration = Duration::from_millis(250);

/// ```text
/// Asked ──RowDescription──▶ Described ──CommandComplete──▶ Complete ──ReadyForQuery──▶ Ready
///   └──────ErrorResponse────────┴──────────ErrorResponse───────┴──▶ Failed
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    /// It was sent the statement.
    Asked,
    /// It has said what its columns are.
    Described,
    /// All its rows have come.
    Complete,
    /// Its transaction has ended as well.
    Ready,
    /// It has failed; its ReadyForQuery is still to come.
    Failed,
    /// The connection is of no more use.
    Lost,
}

/// How often a server is told to roll back.
const UNDONE_AGAIN: u32 = 3;

/// How much of a request still waits to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unsent {
    Nothing,
    Rest,
    All,
}

/// A shard's connection.
#[allow(clippy::struct_excessive_bools, reason = "independent marks of a connection")]
pub(in crate::client) struct Leg {
    checkout: Checkout,
    pub(super) in_flight: InFlight,
    pub(super) shard: ShardIndex,
    pub(super) server: ServerIndex,
    pub(super) state: State,
    /// It has taken the statement's text.
    pub(super) parsed: bool,
    /// It has taken the values as well.
    pub(super) bound: bool,
    pub(super) counts: Counts,
    silence: Option<Silence>,
    since: Instant,
    asked: Option<Instant>,
    /// Bytes of the request.
    request: usize,
    /// It is asked something before the statement, and has not answered.
    asks: bool,
    /// It was sent the statement, or a part of it: code of the client's may have run there.
    used: bool,
}

impl Leg {
    /// A connection that was lent; it was asked for at `since`. `replicated`: its primary may be replaced by another server.
    pub(super) fn new(lent: Lent, shard: ShardIndex, since: Instant, replicated: bool) -> Self {
        let replaceable = replicated || lent.route.role == Role::Replica;
        let silence = replaceable.then(|| Silence::since_now(lent.in_flight.server()));
        Self {
            checkout: lent.checkout,
            in_flight: lent.in_flight,
            shard,
            server: lent.route.server,
            state: State::Asked,
            parsed: false,
            bound: false,
            counts: Counts::default(),
            silence,
            since,
            asked: None,
            request: 0,
            asks: false,
            used: false,
        }
    }

    /// The same of a connection that is in a transaction already, since `since`.
    pub(super) fn within_block(
        checkout: Checkout,
        in_flight: InFlight,
        (shard, server): (ShardIndex, ServerIndex),
        (since, replaceable): (Instant, bool),
    ) -> Self {
        let silence = replaceable.then(|| Silence::since_now(in_flight.server()));
        Self {
            checkout,
            in_flight,
            shard,
            server,
            state: State::Ready,
            parsed: false,
            bound: false,
            counts: Counts::default(),
            silence,
            since,
            asked: None,
            request: 0,
            asks: false,
            used: true,
        }
    }

    /// Since when it is the client's.
    pub(in crate::client) fn since(&self) -> Instant {
        self.since
    }

    /// What it was made of, when all is answered.
    pub(in crate::client) fn into_lent(self) -> (Checkout, InFlight) {
        self.checkout.pool().counters.totals.add(&self.counts);
        (self.checkout, self.in_flight)
    }

    /// Its place among the connections of its pool.
    pub(super) fn link(&self) -> (Arc<Pool>, SlotId) {
        (Arc::clone(self.checkout.pool()), self.checkout.slot())
    }

    /// The connection.
    pub(super) fn connection(&mut self) -> Option<&mut Connection> {
        self.checkout.as_mut().map(|connection| &mut **connection)
    }

    /// Begins: the request is to be sent.
    pub(super) fn ask(&mut self, request: &[u8]) {
        if let Some(connection) = self.connection() {
            connection.state.unnamed = None;
            connection.output.extend(request);
        }
        self.request = request.len();
        self.asked = Some(clock::now());
        self.used = true;
    }

    /// What comes next is about another statement.
    pub(super) fn renew(&mut self) {
        if self.state != State::Lost {
            (self.state, self.parsed, self.bound) = (State::Asked, false, false);
        }
    }

    /// The same for another request, when all of the first was answered.
    pub(super) fn ask_again(&mut self, request: &[u8]) {
        (self.state, self.parsed, self.bound) = (State::Asked, false, false);
        self.ask(request);
    }

    /// Whether it was asked something since it was last ready.
    pub(super) fn is_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// Asks for more rows of what it has described before.
    pub(super) fn ask_for_more(&mut self, request: &[u8]) {
        self.state = State::Described;
        self.ask(request);
    }

    /// The server has answered all.
    pub(super) fn is_ready(&mut self) {
        self.state = State::Ready;
        let now = clock::now();
        if let Some(asked) = self.asked.take() {
            let took = now.saturating_duration_since(asked);
            self.counts.query_time += micros(took);
            self.checkout.pool().counters.query_time.record(took);
            self.in_flight.server().on_success(took, now);
        }
        self.counts.query_count += 1;
        self.counts.xact_count += 1;
    }

    /// The same within a block, which goes on.
    pub(super) fn is_ready_within(&mut self) {
        if self.state != State::Lost {
            self.is_ready();
            self.counts.xact_count -= 1;
        }
    }

    /// Ends the transaction that is open on it, whatever is under way, and gives it back; done when that is done. What is known of its
    /// statements is told of the end when that is certain; else it is found out by the server's process.
    pub(super) fn undo(mut self, verdict: Verdict, mut judged: Judged) -> JoinHandle<()> {
        self.counts.xact_time = micros(clock::now().saturating_duration_since(self.since));
        self.counts.xact_count += 1;
        self.checkout.pool().counters.totals.add(&self.counts);
        tokio::task::spawn_local(async move {
            let quiet = !self.asks && (self.asked.is_none() || self.state == State::Ready);
            if self.state == State::Lost || !(quiet || self.end_what_runs().await) {
                // Dropping it closes the connection, and that ends the transaction.
                return;
            }
            for _ in 0..UNDONE_AGAIN {
                let Some(connection) = self.checkout.as_mut() else { return };
                // A cancel request may have been late, and have met this.
                match tokio::time::timeout(SETTLE, connection.run("ROLLBACK")).await {
                    Ok(Ok(Ok(()))) => {
                        judged.ended();
                        return self.checkout.release(verdict);
                    }
                    Ok(Ok(Err(_))) => {}
                    Ok(Err(_)) | Err(_) => return,
                }
            }
        })
    }

    /// Cancels what nobody waits for any more, and reads its end; whether that worked.
    async fn end_what_runs(&mut self) -> bool {
        let until = clock::now() + SETTLE;
        let mut patience = CANCELLED_AGAIN;
        match self.unsent() {
            Unsent::Nothing => {}
            Unsent::All => return true,
            // It would be executed after all.
            Unsent::Rest => return false,
        }
        let mut ends_by_itself = matches!(self.state, State::Complete | State::Failed);
        while clock::now() < until {
            if !std::mem::take(&mut ends_by_itself)
                && let Some(request) = self.checkout.pool().begin_cancel(self.checkout.slot())
            {
                request.send(&AtomicBool::new(false)).await;
            }
            let Some(connection) = self.checkout.as_mut() else { return false };
            match tokio::time::timeout(patience, connection.settle_anyhow()).await {
                Ok(settled) => return settled.is_ok(),
                // A server that had not begun yet took the request for nothing.
                Err(_) => patience *= 2,
            }
        }
        false
    }

    /// Whether the server is given up, for it answers nothing any more, probes neither.
    pub(super) fn is_silent(&mut self) -> bool {
        self.silence.as_mut().is_some_and(|silence| silence.find() == Find::Gone)
    }

    /// What leaves the server if it falls silent from now on; none: there is no other.
    pub(super) fn watch(&self) -> Option<Silence> {
        self.silence.is_some().then(|| Silence::since_now(self.in_flight.server()))
    }

    /// The connection broke, which is held against the server.
    pub(super) fn lost(&mut self, why: &str) {
        self.state = State::Lost;
        self.in_flight.server().on_io_error(why, clock::now());
    }

    /// Whether the connection is of no more use.
    pub(super) fn is_lost(&self) -> bool {
        self.state == State::Lost
    }

    /// Gives it back unused.
    pub(super) fn give_back(self) {
        self.checkout.release(Verdict::Clean);
    }

    /// What is asked from here on is the statement, though it is asked as something before it.
    pub(super) fn is_used(&mut self) {
        self.used = true;
    }

    /// Asks the server something before the statement.
    pub(super) async fn converse(&mut self, request: &[u8]) -> io::Result<Vec<(u8, Vec<u8>)>> {
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        self.asks = true;
        let connection = self.checkout.as_mut().ok_or_else(gone)?;
        let answers = connection.converse(request).await;
        self.asks = false;
        if answers.is_err() {
            self.state = State::Lost;
        }
        answers
    }

    /// The same of a request that gives one row at most. `lost`: what is said of a connection that broke.
    pub(super) async fn row(
        &mut self,
        request: &[u8],
        lost: impl FnOnce(&io::Error) -> Error,
    ) -> Result<Option<Vec<Option<String>>>, Error> {
        let mut found = None;
        for (tag, body) in self.converse(request).await.map_err(|error| lost(&error))? {
            match tag {
                b'E' => return Err(message::server_error(&body)),
                b'D' => found = message::data_row(&body),
                _ => {}
            }
        }
        Ok(found)
    }

    /// Gives it back, or cancels what nobody waits for any more first. `verdict` is that of code that has run there; where none has, it is clean.
    pub(super) fn finish(mut self, verdict: Verdict) {
        self.counts.xact_time = micros(clock::now().saturating_duration_since(self.since));
        self.abandon(verdict);
    }

    /// The same of a statement that was refused: it is no transaction of the pool's.
    pub(super) fn abandon(mut self, verdict: Verdict) {
        self.checkout.pool().counters.totals.add(&self.counts);
        let verdict = if self.used { verdict } else { Verdict::Clean };
        match self.state {
            // Dropping it closes the connection.
            State::Lost => {}
            State::Ready => self.checkout.release(verdict),
            // Closing the connection would not end what goes on, and the server would have one session more than the pool knows of.
            _ if self.asks => drop(tokio::task::spawn_local(self.cancel(Unsent::Nothing, verdict))),
            // Nothing is under way whose end could be waited for.
            _ if self.asked.is_none() => self.checkout.release(verdict),
            State::Complete | State::Failed => drop(tokio::task::spawn_local(self.settle(verdict))),
            State::Asked | State::Described => match self.unsent() {
                Unsent::All => self.checkout.release(verdict),
                unsent => drop(tokio::task::spawn_local(self.cancel(unsent, verdict))),
            },
        }
    }

    /// What of the request the server was not sent; what nobody has begun to send is taken back.
    fn unsent(&mut self) -> Unsent {
        let request = self.request;
        let Some(connection) = self.connection() else { return Unsent::Nothing };
        match connection.output.len() {
            0 => Unsent::Nothing,
            len if len == request => {
                connection.output = Buffer::default();
                Unsent::All
            }
            _ => Unsent::Rest,
        }
    }

    async fn cancel(mut self, unsent: Unsent, verdict: Verdict) {
        let until = clock::now() + SETTLE;
        let mut patience = CANCELLED_AGAIN;
        loop {
            if let Some(request) = self.checkout.pool().begin_cancel(self.checkout.slot()) {
                request.send(&AtomicBool::new(false)).await;
            }
            // The rest of a request would be executed after all: dropping the connection closes it.
            let Some(connection) = self.checkout.as_mut().filter(|_| unsent == Unsent::Nothing) else { return };
            match tokio::time::timeout(patience, connection.settle()).await {
                Ok(Ok(())) => return self.checkout.release(verdict),
                Ok(Err(_)) => return,
                // What does not answer is closed.
                Err(_) if clock::now() >= until => return,
                // A server that had not begun yet took the request for nothing.
                Err(_) => patience *= 2,
            }
        }
    }

    async fn settle(mut self, verdict: Verdict) {
        let Some(connection) = self.checkout.as_mut() else { return };
        // What does not answer is closed.
        if matches!(tokio::time::timeout(SETTLE, connection.settle()).await, Ok(Ok(()))) {
            self.checkout.release(verdict);
        }
    }
}

//! The requests that the server has not answered yet, in order, and what becomes of each answer.
//!
//! A request enters when it is sent (or answered by us in its place) and leaves when its last message has come:
//!
//! ```text
//!   Query, FunctionCall, Sync,
//!   Hidden ...................... ReadyForQuery        Bind ...... BindComplete
//!   Parse ....................... ParseComplete        Describe .. RowDescription | NoData
//!   Execute ..................... CommandComplete | EmptyQueryResponse | PortalSuspended
//!   Close ....................... CloseComplete        Local ..... at once when it is at the head
//!   Lend ........................ ParseComplete        Guard ..... ReadyForQuery, see `settings/ahead.rs`
//! ```
//!
//! An error of a request of the extended protocol takes all requests up to the next Sync with it: the server skips them, so
//! what they would have changed is undone, the last first.
//! <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY>

use std::collections::VecDeque;
use std::sync::Arc;

use crate::error::Error;
use crate::id::StatementId;
use crate::session::prepared::Statement;
use crate::session::settings::{Values, decides_shard};
use crate::sql::facts::{ConfigArg, PinReason, QueryFacts, SessionEffect, StatementFacts, TransactionEffect};
use crate::sql::settings::is_read_by;

/// Who gets the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The client: it asked.
    Forward,
    /// Nobody: we asked for our own purposes.
    Swallow,
}

/// What a request is.
#[derive(Debug)]
pub enum Kind {
    /// Query; `done` of its statements have completed.
    Query {
        /// What the text says.
        facts: Arc<QueryFacts>,
        /// Statements completed so far.
        done: usize,
    },
    /// Parse.
    Parse,
    /// A Parse of ours, with a Sync, that gives the server a name for the Query behind: if it fails, so does the Query.
    Lend,
    /// Bind.
    Bind,
    /// Describe of a statement or portal.
    Describe,
    /// Execute, with what the portal's statement says, when that is known.
    Execute(Option<Arc<QueryFacts>>),
    /// Close.
    Close,
    /// Sync.
    Sync,
    /// FunctionCall.
    FunctionCall {
        /// Whether it may leave behind in the session what nobody sees.
        hides: bool,
    },
    /// A Query of ours that is about settings.
    Hidden(Hidden),
    /// Asks whether the server has taken settings that were sent ahead: see [`super::settings::Ahead`].
    Guard {
        /// They have failed.
        failed: bool,
        /// The guard was there: an error from here on stops nothing that follows.
        described: bool,
    },
    /// CopyDone or CopyFail: has no answer; marks where a COPY ends among the requests.
    CopyEnd,
    /// Answered by us: these bytes go out when all before it is answered.
    Local(&'static [u8]),
}

/// What a Query of ours is for.
#[derive(Debug)]
pub enum Hidden {
    /// It asks for the values of these settings.
    ReadBack(Vec<String>),
    /// It gives these settings back, which a RESET took and startup had given.
    Restore(Values),
    /// It asks which of these reasons to keep the server are still there; of what was made by messages before that number.
    Pins(Vec<PinReason>, u64),
    /// It has the server forget values of sequences.
    Forget,
    /// It brings the server to what the client wants; a [`Kind::Guard`] follows.
    CatchUp {
        /// It has the server forget values of sequences.
        forgets: bool,
        /// It has failed.
        failed: bool,
    },
}

/// What is taken back when a request turns out not to have happened.
#[derive(Debug, Clone)]
pub enum Undo {
    /// The client's name did not come to stand for this; it stands for what it did before.
    ClientName {
        /// The name.
        name: Box<[u8]>,
        /// What it stood for.
        before: Option<Arc<Statement>>,
    },
    /// The client's unnamed statement is what it was before.
    ClientUnnamed {
        /// What it was.
        before: Option<Arc<Statement>>,
        /// Counts the changes of it. If there were more since, a later message has the last word.
        version: u64,
    },
    /// A portal with a name stands for what it did before, or for nothing.
    Portal {
        /// The name.
        name: Box<[u8]>,
        /// What it stood for.
        before: Option<Portal>,
        /// The number of the Bind. If there was another since, that has the last word.
        number: u64,
    },
    /// A portal was not closed. If there was a Bind of that name since, that has the last word.
    ClosedPortal {
        /// The name.
        name: Box<[u8]>,
        /// What it stands for.
        portal: Portal,
    },
    /// The server does not have this statement.
    ServerPrepare(Arc<Statement>),
    /// The server still has this statement.
    ServerClose(Arc<Statement>),
    /// The server's unnamed statement is not the client's.
    ServerUnnamed,
    /// The server still has what was tried under this name of the client's, unless that failed.
    Tried(Box<[u8]>),
    /// The server still has what it was lent under this name of the client's, and no PREPARE has taken it.
    Lent(Box<[u8]>),
}

/// What a portal stands for.
#[derive(Debug, Clone)]
pub struct Portal {
    /// What it runs.
    pub statement: Arc<Statement>,
    /// What that leaves in the session, where its parameters tell.
    pub bound: Option<Arc<[SessionEffect]>>,
    /// How many messages were sent before its Bind.
    pub number: u64,
}

/// What is certain of a server's statements once a request is answered.
#[derive(Debug, Clone)]
pub enum Done {
    /// The server has it.
    Prepared(Arc<Statement>),
    /// The server does not have it.
    Closed(Arc<Statement>),
    /// No PREPARE has taken this name of the client's.
    Untaken(Box<[u8]>),
}

/// A request on its way.
#[derive(Debug)]
pub struct Request {
    /// What it is.
    pub kind: Kind,
    /// Who gets its answer.
    pub answer: Answer,
    /// What is taken back if it does not happen.
    pub undo: Vec<Undo>,
    /// What its success makes certain.
    pub done: Option<Done>,
    /// The statement whose name on the server must not appear in an error, and the client's name for it.
    pub renamed: Option<(Arc<Statement>, Box<[u8]>)>,
    /// The request was made to fail, and this is to be its error.
    pub refusal: Option<Box<Error>>,
    /// What it leaves in the session, where parameters tell; else its facts do.
    pub bound: Option<Arc<[SessionEffect]>>,
    /// The server may read its text otherwise than we did.
    pub misread: bool,
    /// What its statements, by their places, run by EXECUTE: what the names stood for when it was sent.
    pub executed: Vec<(usize, Arc<QueryFacts>)>,
    /// How many of the client's messages were sent before it; 0 for what is ours, and where nothing asks for it.
    pub number: u64,
    marks: Marks,
}

/// What to know of a request without looking through it again.
#[derive(Debug, Clone, Copy, Default)]
#[allow(clippy::struct_excessive_bools, reason = "independent marks, each counted by itself")]
struct Marks {
    /// Its outcome changes what the client's names stand for.
    names: bool,
    /// Its success takes every prepared statement from the server.
    wipes: bool,
    /// Its success makes something certain of the server's statements.
    done: bool,
    /// It changes a setting that decides where statements go.
    settings: bool,
    /// It resets settings.
    resets: bool,
    /// It may change how texts are read that are parsed behind it.
    reading: bool,
    /// It may change the catalog.
    catalog: bool,
    /// It ends a transaction, or goes back in it.
    ends: bool,
    /// It takes away what the client's names stand for.
    takes: bool,
    /// It changes the channels that the client listens to.
    listens: bool,
}

/// Whether it changes how texts are read that are parsed behind it.
pub(super) fn decides_reading(effect: &SessionEffect) -> bool {
    let one = |name: &str| is_read_by(name);
    match effect {
        SessionEffect::Set { name, .. } | SessionEffect::SetUnknown { name } | SessionEffect::Reset { name } => {
            one(name) || decides_shard(effect)
        }
        SessionEffect::SetByParams { name: ConfigArg::Literal(name), .. } => {
            one(&name.to_ascii_lowercase()) || decides_shard(effect)
        }
        SessionEffect::Pin(PinReason::TempObject) => true,
        effect => decides_shard(effect),
    }
}

impl Marks {
    fn of(request: &Request) -> Self {
        let facts = match &request.kind {
            Kind::Query { facts, .. } | Kind::Execute(Some(facts)) => Some(facts),
            _ => None,
        };
        let mut marks = Self { done: request.done.is_some(), ..Self::default() };
        let executed = request.executed.iter().map(|(_, facts)| facts);
        for statement in facts.into_iter().chain(executed).flat_map(|f| &f.statements) {
            marks.reading |= !statement.locals.is_empty() || statement.effects.iter().any(decides_reading);
            marks.settings |= statement.local_search_path || statement.sets_local_role();
            marks.settings |= statement.sets_local_reading_of_keys();
            marks.catalog |= statement.changes_types();
            marks.ends |= matches!(
                statement.transaction,
                TransactionEffect::Commit { .. }
                    | TransactionEffect::Rollback { .. }
                    | TransactionEffect::RollbackTo
                    | TransactionEffect::PrepareTransaction
            );
        }
        for effect in facts.iter().flat_map(|f| &f.statements).flat_map(|s| &s.effects) {
            marks.settings |= decides_shard(effect);
            marks.resets |=
                matches!(effect, SessionEffect::Reset { .. } | SessionEffect::ResetAll | SessionEffect::DiscardAll);
            match effect {
                SessionEffect::DeallocateAll | SessionEffect::DiscardAll => marks.wipes = true,
                SessionEffect::Deallocate { .. } => marks.names = true,
                _ => {}
            }
        }
        marks.listens = facts.is_some_and(|facts| !facts.steps.is_empty());
        marks.takes = marks.wipes || marks.names;
        marks.names |= marks.wipes || request.undo.iter().any(|u| matches!(u, Undo::ClientName { .. }));
        marks
    }
}

/// How many of the requests under way have which mark. There are not four thousand million of them: each takes memory of its own.
#[derive(Debug, Default)]
struct Marked {
    names: u32,
    wipes: u32,
    done: u32,
    settings: u32,
    resets: u32,
    reading: u32,
    catalog: u32,
    ends: u32,
    takes: u32,
    listens: u32,
}

impl Marked {
    fn add(&mut self, marks: Marks) {
        self.names += u32::from(marks.names);
        self.wipes += u32::from(marks.wipes);
        self.done += u32::from(marks.done);
        self.settings += u32::from(marks.settings);
        self.resets += u32::from(marks.resets);
        self.reading += u32::from(marks.reading);
        self.catalog += u32::from(marks.catalog);
        self.ends += u32::from(marks.ends);
        self.takes += u32::from(marks.takes);
        self.listens += u32::from(marks.listens);
    }

    fn remove(&mut self, marks: Marks) {
        self.names -= u32::from(marks.names);
        self.wipes -= u32::from(marks.wipes);
        self.done -= u32::from(marks.done);
        self.settings -= u32::from(marks.settings);
        self.resets -= u32::from(marks.resets);
        self.reading -= u32::from(marks.reading);
        self.catalog -= u32::from(marks.catalog);
        self.ends -= u32::from(marks.ends);
        self.takes -= u32::from(marks.takes);
        self.listens -= u32::from(marks.listens);
    }
}

impl Request {
    /// A request of the client's, forwarded as it is.
    #[must_use]
    pub fn forward(kind: Kind) -> Self {
        Self {
            kind,
            answer: Answer::Forward,
            undo: Vec::new(),
            done: None,
            renamed: None,
            refusal: None,
            bound: None,
            misread: false,
            executed: Vec::new(),
            number: 0,
            marks: Marks::default(),
        }
    }

    /// A request of ours.
    #[must_use]
    pub fn swallow(kind: Kind) -> Self {
        Self { answer: Answer::Swallow, ..Self::forward(kind) }
    }
}

fn begins_copy(statement: &StatementFacts) -> bool {
    statement.why == "COPY FROM"
}

/// The queue.
#[derive(Debug, Default)]
pub struct Pipeline {
    queue: VecDeque<Request>,
    /// The server is in copy-in mode for the request at the head.
    copy_in: bool,
    marked: Marked,
}

impl Pipeline {
    /// Whether everything is answered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Requests under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// The requests, in order.
    pub(super) fn requests(&self) -> impl Iterator<Item = &Request> {
        self.queue.iter()
    }

    /// What the first text among them says that is known.
    #[must_use]
    pub fn first_facts(&self) -> Option<&Arc<QueryFacts>> {
        self.queue.iter().find_map(|request| match &request.kind {
            Kind::Query { facts, .. } | Kind::Execute(Some(facts)) => Some(facts),
            _ => request.renamed.as_ref().map(|(statement, _)| &statement.facts),
        })
    }

    /// Whether the server takes COPY data now.
    #[must_use]
    pub fn copy_in(&self) -> bool {
        self.copy_in
    }

    /// Whether a request is under way that changes where statements go: see [`decides_shard`].
    #[must_use]
    pub fn settings_in_doubt(&self) -> bool {
        self.marked.settings > 0
    }

    /// Whether a request is under way that may change this setting, which is one of those that decide where statements go.
    #[must_use]
    pub fn may_set(&self, name: &str) -> bool {
        let sets = |effect: &SessionEffect| match effect {
            SessionEffect::Set { name: set, .. }
            | SessionEffect::SetUnknown { name: set }
            | SessionEffect::Reset { name: set } => set == name,
            effect => decides_shard(effect),
        };
        let facts = |request: &Request| match &request.kind {
            Kind::Query { facts, .. } | Kind::Execute(Some(facts)) => Some(Arc::clone(facts)),
            _ => None,
        };
        let may = |statement: &StatementFacts| {
            statement.effects.iter().any(sets) || statement.locals.iter().any(|set| set.may_be(name))
        };
        self.marked.settings > 0 && self.queue.iter().filter_map(facts).any(|f| f.statements.iter().any(may))
    }

    /// Whether a request is under way that may change how texts are read that are parsed behind it.
    #[must_use]
    pub fn reading_in_doubt(&self) -> bool {
        self.marked.reading > 0
    }

    /// Whether a request is under way that ends the transaction, or goes back in it.
    #[must_use]
    pub fn ends_transaction(&self) -> bool {
        self.marked.ends > 0
    }

    /// Whether a request is under way that may change the catalog.
    #[must_use]
    pub fn changes_catalog(&self) -> bool {
        self.marked.catalog > 0
    }

    /// Whether a request is under way that resets settings.
    #[must_use]
    pub fn resets(&self) -> bool {
        self.marked.resets > 0
    }

    /// Whether a request is under way whose outcome changes what the client's names stand for.
    #[must_use]
    pub fn names_in_doubt(&self) -> bool {
        self.marked.names > 0
    }

    /// Whether a LISTEN or UNLISTEN is under way.
    #[must_use]
    pub fn listens(&self) -> bool {
        self.marked.listens > 0
    }

    /// Whether a statement is under way that takes away what the client's names stand for.
    #[must_use]
    pub fn takes_names(&self) -> bool {
        self.marked.takes > 0
    }

    /// Whether this name of the client's comes to stand for something by a request under way.
    #[must_use]
    pub fn names_later(&self, name: &[u8]) -> bool {
        let gives = |u: &Undo| matches!(u, Undo::ClientName { name: given, .. } if **given == *name);
        self.queue.iter().any(|r| r.undo.iter().any(gives))
    }

    /// Whether the server may turn out not to have what a Parse before the last Sync was to give it: an error takes that Parse away, but
    /// not what follows the Sync. `None` speaks of the unnamed statement.
    #[must_use]
    pub fn prepared_in_doubt(&self, id: Option<StatementId>) -> bool {
        let gives = |r: &Request| match (&r.done, id) {
            (Some(Done::Prepared(statement)), Some(id)) => statement.id == id,
            (_, None) => r.undo.iter().any(|u| matches!(u, Undo::ServerUnnamed)),
            _ => false,
        };
        if self.marked.wipes > 0 {
            return true;
        }
        if id.is_some() && self.marked.done == 0 {
            return false;
        }
        let before_sync = self.queue.iter().rposition(|r| matches!(r.kind, Kind::Sync)).unwrap_or(0);
        self.queue.iter().take(before_sync).any(gives)
    }

    /// Whether the client's unnamed statement may turn out to be another: a message before the last Sync changes it, and is not answered.
    #[must_use]
    pub fn unnamed_in_doubt(&self) -> bool {
        let changes = |r: &Request| r.undo.iter().any(|u| matches!(u, Undo::ClientUnnamed { .. }));
        let before_sync = self.queue.iter().rposition(|r| matches!(r.kind, Kind::Sync)).unwrap_or(0);
        self.queue.iter().take(before_sync).any(changes)
    }

    /// Whether a request that gives the server this statement or takes it away is not answered yet.
    #[must_use]
    pub fn concerns(&self, id: StatementId) -> bool {
        if self.marked.wipes > 0 {
            return true;
        }
        if self.marked.done == 0 {
            return false;
        }
        let of = |d: &Done| matches!(d, Done::Prepared(s) | Done::Closed(s) if s.id == id);
        self.queue.iter().any(|r| r.done.as_ref().is_some_and(of))
    }

    /// Whether the request sent last is the execution of a COPY FROM STDIN that the server has not begun.
    #[must_use]
    pub fn ends_with_copy_from(&self) -> bool {
        let Some(Request { kind: Kind::Execute(Some(facts)), .. }) = self.queue.back() else { return false };
        !self.copy_in && matches!(facts.statements.as_slice(), [statement] if begins_copy(statement))
    }

    /// Whether the server takes COPY data, or may do so when it comes to what has been sent: anything else would fail there.
    #[must_use]
    pub fn may_copy_in(&self) -> bool {
        let begins = |request: &Request| match &request.kind {
            Kind::Query { facts, .. } | Kind::Execute(Some(facts)) => facts.statements.iter().any(begins_copy),
            _ => false,
        };
        self.copy_in || self.queue.iter().any(begins)
    }

    /// Whether messages of the extended protocol are under way with no Sync behind them: if one fails, the server passes over what follows,
    /// a Query as well.
    #[must_use]
    pub fn exchange_is_open(&self) -> bool {
        let of_exchange = |request: &Request| match request.kind {
            Kind::Sync => Some(false),
            Kind::Query { .. } | Kind::FunctionCall { .. } | Kind::Hidden(_) => None,
            Kind::Parse
            | Kind::Lend
            | Kind::Bind
            | Kind::Describe
            | Kind::Execute(_)
            | Kind::Close
            | Kind::CopyEnd
            | Kind::Guard { .. }
            | Kind::Local(_) => Some(true),
        };
        self.queue.iter().rev().find_map(of_exchange).unwrap_or(false)
    }

    /// The number of the last message that an error undoes which comes now: the Query that fails, or the next Sync. So many were `sent`.
    #[must_use]
    pub fn end_of_failing(&self, sent: u64) -> u64 {
        let alone = |request: &&Request| {
            matches!(request.kind, Kind::Query { .. } | Kind::FunctionCall { .. } | Kind::Hidden(_) | Kind::Sync)
        };
        let sync = || self.queue.iter().find(|request| matches!(request.kind, Kind::Sync));
        let last = self.queue.front().filter(alone).or_else(sync);
        last.map_or(sent.saturating_sub(1), |request| request.number)
    }

    /// The Query at the front of those under way.
    pub fn first_query(&mut self) -> Option<&mut Request> {
        self.queue.iter_mut().find(|request| matches!(request.kind, Kind::Query { .. }))
    }

    /// Gives back the memory; for a client that goes idle.
    pub fn shrink(&mut self) {
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
    }

    /// A request is sent.
    pub fn push(&mut self, request: Request) {
        if self.copy_in {
            match request.kind {
                // In copy-in mode the server ignores Sync, so no ReadyForQuery will answer it.
                Kind::Sync => return,
                Kind::CopyEnd => self.copy_in = false,
                _ => {}
            }
        }
        let mut request = request;
        request.marks = Marks::of(&request);
        self.marked.add(request.marks);
        self.queue.push_back(request);
    }

    /// The request that is being answered.
    #[must_use]
    pub fn head(&mut self) -> Option<&mut Request> {
        while matches!(self.queue.front(), Some(Request { kind: Kind::CopyEnd, .. })) {
            self.queue.pop_front();
        }
        self.queue.front_mut()
    }

    /// The request at the head is answered.
    pub fn pop(&mut self) -> Option<Request> {
        let request = self.queue.pop_front()?;
        self.marked.remove(request.marks);
        Some(request)
    }

    /// Takes the next answer of ours whose turn has come.
    pub fn pop_local(&mut self) -> Option<(&'static [u8], Answer)> {
        let Some(Request { kind: Kind::Local(bytes), answer, .. }) = self.head() else { return None };
        let taken = (*bytes, *answer);
        self.pop();
        Some(taken)
    }

    /// The server asks for COPY data for the request at the head: it ignores every Sync that was sent before the end of the data.
    /// Whether there was one, and none that counts has been sent after it.
    pub fn begin_copy_in(&mut self) -> bool {
        let before = self.queue.len();
        let mut ended = false;
        let mut first = true;
        self.queue.retain(|r| {
            let keep = first || ended || !matches!(r.kind, Kind::Sync);
            first = false;
            ended |= matches!(r.kind, Kind::CopyEnd);
            keep
        });
        self.copy_in = !ended;
        let dropped = self.queue.len() < before;
        dropped && !self.queue.iter().any(|r| matches!(r.kind, Kind::Sync))
    }

    /// An error came. Takes what is undone by it: for the extended protocol, the head and all up to the next Sync; a Query or
    /// FunctionCall stays at the head until its ReadyForQuery.
    pub fn fail(&mut self) -> Vec<Undo> {
        self.copy_in = false;
        let mut undone = Vec::new();
        while let Some(head) = self.queue.front() {
            let waits_for_ready = matches!(head.kind, Kind::Query { .. } | Kind::FunctionCall { .. } | Kind::Hidden(_))
                && undone.is_empty();
            if matches!(head.kind, Kind::Sync) || waits_for_ready {
                break;
            }
            if let Some(request) = self.pop() {
                undone.push(request.undo);
            }
        }
        undone.into_iter().rev().flat_map(|u| u.into_iter().rev()).collect()
    }

    /// The server is gone: all that was under way is undone.
    pub fn abort(&mut self) -> Vec<Undo> {
        self.copy_in = false;
        self.marked = Marked::default();
        self.queue.drain(..).rev().flat_map(|r| r.undo.into_iter().rev()).collect()
    }
}

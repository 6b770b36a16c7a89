//! A client's session: what its messages mean, what is sent to a server for them, and what comes back.
//!
//! Pure: no IO, no clock. A message of the client goes through [`Session::intake`], which says what it asks for, so that a
//! server can be chosen, and then through [`Session::forward`], which writes what that server is sent. Every message of the
//! server goes through [`Session::on_server`]. [`Session::may_release`] is the one rule by which a server is given back.
//!
//! ```text
//!               intake                forward                      on_server
//!   client ──▶ Intake ──▶ (route) ──▶ bytes + Pipeline ──▶ server ──▶ Action ──▶ client
//! ```

mod functions;
pub mod intake;
pub mod listening;
mod owed;
mod pins;
pub mod pipeline;
pub mod popular;
pub mod prepared;
pub mod reading;
pub mod server_state;
pub mod settings;
pub mod signals;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Error, Severity, SqlState};
use crate::sql::facts::{ListenChange, NameUse, PinReason, QueryFacts, SessionEffect, Signal};
use crate::sql::settings::in_doubt;
use crate::wire::encode;
use crate::wire::frame::Frame;
use crate::wire::message::{self, TransactionStatus};

pub use intake::{Intake, Values};
use listening::Listening;
use owed::Course;
use pipeline::{Answer, Done, Kind, Pipeline, Request, Undo};
use prepared::Statement;
pub use server_state::ServerState;
use settings::{ClientSettings, is_reported};

/// What is sent in place of a statement that is refused while a server is linked: it fails there, so that the transaction fails as
/// it would have, and its error is replaced by the refusal.
const REFUSED_SQL: &[u8] = b"pgweir refused this statement";

/// How long the session keeps a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Until the client leaves.
    Session,
    /// Until the transaction ends.
    Transaction,
}

/// By portal: what it leaves in the session.
type Bound = BTreeMap<Box<[u8]>, Arc<[SessionEffect]>>;

/// What becomes of a server's message.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// It goes to the client as it is.
    Forward,
    /// It goes nowhere.
    Swallow,
    /// These bytes go to the client in its place.
    Replace(Vec<u8>),
}

/// Why a session keeps its server beyond the transaction.
#[derive(Debug, Clone)]
pub struct Pin {
    /// The kind of state that it has there.
    pub reason: PinReason,
    /// What the text said that made it; none where that cannot be told any more.
    pub facts: Option<Arc<QueryFacts>>,
    /// How many messages had been sent before the one that made it.
    number: u64,
}

/// The server sent what no request explains: nothing it says can be trusted to be this client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Desync {
    /// Type of the message that came.
    pub tag: u8,
}

/// A client's session.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "independent marks of one conversation, each explained at its field")]
pub struct Session {
    keep: Keep,
    /// Whether prepared statements are followed across servers; if not, names are sent as they are.
    follow: bool,
    status: TransactionStatus,
    /// How transactions stand since then, by what was answered.
    course: Course,
    pipeline: Pipeline,
    /// Messages of the extended protocol were sent since the last Sync: the server holds portals or skips for us.
    unsynced: bool,
    /// The server passes over everything up to the next Sync, which has not been sent yet.
    skipping: bool,
    /// An error since the last ReadyForQuery: what the implicit transaction did is undone.
    failed: bool,
    /// Maps that take no memory while there is nothing in them, as mostly.
    names: BTreeMap<Box<[u8]>, Arc<Statement>>,
    unnamed: Option<Arc<Statement>>,
    unnamed_version: u64,
    portals: BTreeMap<Box<[u8]>, Arc<Statement>>,
    /// What portals leave in the session whose statements set by parameters.
    bound: Option<Box<Bound>>,
    settings: ClientSettings,
    /// There is something on the server that no DISCARD takes away.
    spoils: bool,
    pins: Vec<Pin>,
    /// Messages that were sent so far.
    sent: u64,
    /// The number of the one that is being answered.
    answered: Option<u64>,
    /// What it is pinned for may be gone, and was so.
    asks_pins: bool,
    was_pinned: bool,
    /// What the transaction creates may be temporary without saying so: it has put `pg_temp` into search_path.
    temp_in_path: bool,
    pools: u64,
    /// The error of a text of ours that nobody was told yet.
    unseen_error: Option<Box<Error>>,
    /// Why the block failed behind the client's back.
    hidden_error: Option<Box<Error>>,
    /// Names of the client's that a server was lent for SQL to find; taken back behind the Query or Sync, or a COPY that it begins.
    lent: Vec<Box<[u8]>>,
    /// The channels that others listen to in its name; none for who never listened.
    listening: Option<Box<Listening>>,
    /// What statements that have completed are to do to sessions.
    #[expect(clippy::box_collection, reason = "hardly ever, and every client has one of these")]
    signals: Option<Box<Vec<Signal>>>,
    /// The client's Sync behind a COPY FROM STDIN, until it is known whether the server would pass over it.
    held_sync: bool,
}

impl Session {
    /// A session that has just logged in.
    #[must_use]
    pub fn new(keep: Keep, follow: bool, settings: ClientSettings) -> Self {
        Self {
            keep,
            follow,
            status: TransactionStatus::Idle,
            course: Course::new(TransactionStatus::Idle),
            pipeline: Pipeline::default(),
            unsynced: false,
            skipping: false,
            failed: false,
            names: BTreeMap::new(),
            unnamed: None,
            unnamed_version: 0,
            portals: BTreeMap::new(),
            bound: None,
            settings,
            spoils: false,
            pins: Vec::new(),
            sent: 0,
            answered: None,
            asks_pins: false,
            was_pinned: false,
            temp_in_path: false,
            pools: 0,
            unseen_error: None,
            hidden_error: None,
            lent: Vec::new(),
            listening: None,
            signals: None,
            held_sync: false,
        }
    }

    /// Tells whose servers it uses from now on: a number for the pools of one user of one database, not zero.
    pub fn serves(&mut self, pools: u64) {
        self.pools = pools;
    }

    /// Whether a Parse of `statement` can be answered without a server: servers of the same pools have parsed it, and names in
    /// it mean the same to this session.
    #[must_use]
    pub fn is_accepted(&self, statement: &Statement) -> bool {
        self.follow
            && self.keep != Keep::Session
            && self.names_mean_the_usual()
            && statement.is_accepted_by(self.pools)
            && !statement.is_outdated()
    }

    /// Whether names mean what they do to whoever has set nothing.
    fn names_mean_the_usual(&self) -> bool {
        self.settings.get("search_path").is_none() && !self.settings.is_someone_else()
    }

    // Getters.

    /// The transaction's status as the server said last.
    #[must_use]
    pub fn status(&self) -> TransactionStatus {
        self.status
    }

    /// Whether every request is answered.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.pipeline.is_empty()
    }

    /// Requests under way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.pipeline.len()
    }

    /// What the client wants of its settings.
    #[must_use]
    pub fn settings(&self) -> &ClientSettings {
        &self.settings
    }

    /// The next text does nothing but reset, and no server takes what is wanted: it is wanted no more, so that the text can run. Whether
    /// that has changed anything.
    pub fn escape(&mut self, facts: &QueryFacts) -> bool {
        let before = self.settings.wanted().clone();
        let resets = |e: &SessionEffect| {
            matches!(e, SessionEffect::Reset { .. } | SessionEffect::ResetAll | SessionEffect::DiscardAll)
        };
        let effects = facts.statements.iter().flat_map(|s| &s.effects);
        let only = !facts.statements.is_empty()
            && facts.statements.iter().all(|s| !s.effects.is_empty() && s.effects.iter().all(resets));
        effects.filter(|_| only).for_each(|effect| self.settings.escape(effect));
        before != *self.settings.wanted()
    }

    /// Changes a setting that is ours alone and never needs a server.
    pub fn set_own(&mut self, name: &str, value: Option<&str>) {
        match value {
            Some(value) => self.settings.set(name, value),
            None => self.settings.reset(name),
        }
    }

    /// The statements prepared by the protocol that a text runs by EXECUTE.
    pub fn executed<'a>(&'a self, facts: &'a QueryFacts) -> impl Iterator<Item = &'a Arc<Statement>> {
        facts.statements.iter().filter_map(|statement| match &statement.name_use {
            Some(NameUse::Execute(name)) if self.follow => self.names.get(name.as_bytes()),
            _ => None,
        })
    }

    /// Why the session keeps its server beyond the transaction.
    #[must_use]
    pub fn pins(&self) -> &[Pin] {
        &self.pins
    }

    /// Whether it does so for this reason.
    #[must_use]
    pub fn is_pinned_by(&self, reason: PinReason) -> bool {
        self.pins.iter().any(|pin| pin.reason == reason)
    }

    /// What the text says that is being answered, where that is known.
    #[must_use]
    pub fn under_way(&self) -> Option<&Arc<QueryFacts>> {
        self.pipeline.first_facts()
    }

    /// The text of a prepared statement with these facts.
    #[must_use]
    pub fn text_of(&self, facts: &Arc<QueryFacts>) -> Option<&[u8]> {
        let all = self.unnamed.iter().chain(self.portals.values()).chain(self.names.values());
        let mut fitting = all.filter(|statement| Arc::ptr_eq(&statement.facts, facts));
        fitting.next().map(|statement| &*statement.sql)
    }

    /// Prepared statements the client has a name for.
    #[must_use]
    pub fn prepared_statements(&self) -> usize {
        self.names.len()
    }

    /// The one rule of release: outside a transaction, nothing under way (a COPY is), nothing open in the extended protocol, nothing pinned.
    #[must_use]
    pub fn may_release(&self) -> bool {
        self.keep == Keep::Transaction
            && self.status == TransactionStatus::Idle
            && self.pipeline.is_empty()
            && !self.unsynced
            && self.pins.is_empty()
            && self.lent.is_empty()
            && !self.settings.has_doubts()
    }

    /// Whether the server has names of the client's that nobody else may find there.
    #[must_use]
    pub fn has_lent(&self) -> bool {
        !self.lent.is_empty()
    }

    /// Whether the server would have to be cleaned before another client may have it, were the client to leave now.
    #[must_use]
    pub fn leaves_state(&self) -> bool {
        self.keep == Keep::Session || !self.pins.is_empty() || self.was_pinned || self.settings.has_doubts()
    }

    /// Whether the server can serve nobody else, were the client to leave it now: see [`PinReason::outlives_discard`].
    #[must_use]
    pub fn spoils_server(&self) -> bool {
        self.spoils
    }

    /// Whether an answer is awaited that may change what the client's names stand for, or where statements go: what follows the next Sync
    /// is not read before.
    #[must_use]
    pub fn names_in_doubt(&self) -> bool {
        // Within a block nothing is asked, so there is nothing to wait for.
        let awaited = self.status == TransactionStatus::Idle && self.settings.doubts_shards();
        // Behind RESET comes what startup gave, which the server does not know of.
        let resets = self.settings.startup_gave() && self.pipeline.resets();
        resets
            || self.pipeline.names_in_doubt()
            || self.pipeline.settings_in_doubt()
            || self.settings.is_unsettled()
            || awaited
    }

    /// Whether something is under way, or may yet be taken back, that changes where statements go: see [`settings::decides_shard`].
    #[must_use]
    pub fn settings_in_doubt(&self) -> bool {
        self.pipeline.settings_in_doubt() || self.settings.is_unsettled() || self.settings.doubts_shards()
    }

    /// Whether a message is to wait: it speaks of the unnamed statement, and what that is hangs on an answer under way. `given`: what is
    /// not sent yet says what it is.
    #[must_use]
    pub fn waits_for_unnamed(&self, frame: &Frame<'_>, given: bool) -> bool {
        let unnamed = || match frame.tag {
            b'B' => message::bind(frame.body()).is_some_and(|b| b.statement.is_empty()),
            b'D' => matches!(message::target(frame.body()), Some(message::Target::Statement(b""))),
            _ => false,
        };
        !given && !self.pipeline.is_empty() && unnamed() && self.pipeline.unnamed_in_doubt()
    }

    /// Whether the rows that come answer a question of ours, and are to be given whole.
    #[must_use]
    pub fn reads_rows(&mut self) -> bool {
        matches!(self.pipeline.head(), Some(Request { kind: Kind::Hidden(_), .. }))
    }

    /// Whether the server passes over everything up to the next Sync.
    #[must_use]
    pub fn is_skipping(&self) -> bool {
        self.skipping
    }

    /// Whether the extended protocol is between two Syncs, or COPY data is under way.
    #[must_use]
    pub fn is_mid_exchange(&self) -> bool {
        self.unsynced || self.pipeline.copy_in()
    }

    /// Whether it follows prepared statements across servers.
    #[must_use]
    pub fn follows(&self) -> bool {
        self.follow
    }

    /// The channels that others are to listen to in its name, if it ever listened.
    #[must_use]
    pub fn listening(&self) -> Option<&Listening> {
        self.listening.as_deref()
    }

    /// Whether those have changed since this was asked last.
    pub fn listening_changed(&mut self) -> bool {
        self.listening.as_mut().is_some_and(|listening| listening.take_change())
    }

    /// What is to be done to sessions now; empty but for who signals others.
    pub fn take_signals(&mut self) -> Vec<Signal> {
        self.signals.take().map_or_else(Vec::new, |signals| *signals)
    }

    // From the client to the server.

    /// Sends the beginning of a block that the client believes to have been done already. Nothing may be sent behind it before it
    /// is answered, for it may fail: see [`Session::take_unseen_error`].
    pub fn begin(&mut self, text: &[u8], facts: Arc<QueryFacts>, out: &mut Vec<u8>) {
        self.pipeline.push(Request::swallow(Kind::Query { facts, done: 0 }));
        encode::query(out, text);
    }

    /// The error that answered [`Session::begin`], if it failed.
    pub fn take_unseen_error(&mut self) -> Option<Box<Error>> {
        self.unseen_error.take()
    }

    /// Writes what `server` is sent for a message of the client's, `frame` being that message, and queues what is expected back.
    pub fn forward(&mut self, intake: Intake, frame: &[u8], server: &mut ServerState, out: &mut Vec<u8>) {
        let number = self.sent;
        self.sent = number.wrapping_add(1);
        if self.skipping {
            if !matches!(intake, Intake::Sync) {
                return self.withdraw(intake);
            }
            self.skipping = false;
        }
        match intake {
            Intake::Query(facts) => {
                // A Sync of ours would end what the server passes over because of an error that is not known yet.
                let mid_exchange = std::mem::take(&mut self.unsynced) || self.may_be_passed_over(&facts);
                server.unnamed = None;
                if !mid_exchange {
                    self.lend_executed(&facts, true, server, out);
                }
                self.lend_placeholders(&facts, server, out);
                let executed = self.executes(&facts);
                let mut request = Request::forward(Kind::Query { facts, done: 0 });
                request.misread = self.may_misread(frame, server);
                (request.executed, request.number) = (executed, number);
                self.pipeline.push(request);
                out.extend_from_slice(frame);
                if !mid_exchange {
                    self.take_back_names(out);
                }
            }
            Intake::Parse { statement, named, undo } => {
                self.unsynced = true;
                self.lend_executed(&statement.facts, false, server, out);
                self.parse(&statement, named, undo, frame, server, out);
            }
            Intake::Bind { statement: Some(statement), named, portal } => {
                self.unsynced = true;
                self.lend_executed(&statement.facts, false, server, out);
                self.ensure(&statement, named.is_some(), server, out);
                let mut request = Request::forward(Kind::Bind);
                match named.filter(|_| self.follow) {
                    None => out.extend_from_slice(frame),
                    Some(name) => {
                        let rest = message::bind(frame.get(5..).unwrap_or_default()).map(|b| b.rest);
                        encode::bind(out, &portal, statement.server_name().as_bytes(), rest.unwrap_or_default());
                        request.renamed = Some((Arc::clone(&statement), name));
                    }
                }
                self.bind(portal, statement, frame, server);
                self.pipeline.push(request);
            }
            Intake::DescribeStatement { statement: Some(statement), named } => {
                self.unsynced = true;
                self.lend_executed(&statement.facts, false, server, out);
                self.ensure(&statement, named.is_some(), server, out);
                let mut request = Request::forward(Kind::Describe);
                match named.filter(|_| self.follow) {
                    None => out.extend_from_slice(frame),
                    Some(name) => {
                        encode::describe_statement(out, statement.server_name().as_bytes());
                        request.renamed = Some((statement, name));
                    }
                }
                self.pipeline.push(request);
            }
            Intake::CloseStatement { virtual_name: true, undo } => {
                self.unsynced = true;
                let mut request = Request::forward(Kind::Local(encode::CLOSE_COMPLETE));
                request.undo.extend(undo);
                self.pipeline.push(request);
            }
            Intake::Refuse { error, simple } => self.refuse(error, simple, server, out),
            Intake::Execute { portal } => {
                self.unsynced = true;
                let facts = self.portals.get(&portal).map(|s| Arc::clone(&s.facts));
                let mut executed = Vec::new();
                if let Some(facts) = &facts {
                    self.lend_executed(facts, false, server, out);
                    self.lend_placeholders(facts, server, out);
                    executed = self.executes(facts);
                }
                let mut request = Request::forward(Kind::Execute(facts));
                (request.executed, request.number) = (executed, number);
                request.bound = self.bound.as_ref().and_then(|bound| bound.get(&portal).cloned());
                self.pipeline.push(request);
                out.extend_from_slice(frame);
            }
            Intake::Bind { statement: None, portal, .. } => {
                self.unsynced = true;
                self.portals.remove(&portal);
                if let Some(bound) = &mut self.bound {
                    bound.remove(&portal);
                }
                self.plain(Kind::Bind, frame, out);
            }
            Intake::DescribeStatement { statement: None, .. } | Intake::DescribePortal => {
                self.unsynced = true;
                self.plain(Kind::Describe, frame, out);
            }
            Intake::CloseStatement { undo, .. } => {
                self.unsynced = true;
                let mut request = Request::forward(Kind::Close);
                request.undo.extend(undo);
                self.pipeline.push(request);
                out.extend_from_slice(frame);
            }
            Intake::ClosePortal => {
                self.unsynced = true;
                self.plain(Kind::Close, frame, out);
            }
            Intake::FunctionCall => {
                let hides = !functions::leaves_nothing(frame.get(5..).unwrap_or_default());
                self.plain(Kind::FunctionCall { hides }, frame, out);
            }
            Intake::Sync if self.pipeline.ends_with_copy_from() => {
                self.held_sync = true;
                encode::flush(out);
            }
            Intake::Sync => {
                // While COPY data is awaited the server passes over Sync: what runs is not ended by it.
                self.unsynced &= self.pipeline.copy_in();
                self.plain(Kind::Sync, frame, out);
                self.take_back_names(out);
            }
            Intake::CopyEnd => self.plain(Kind::CopyEnd, frame, out),
            Intake::Flush | Intake::CopyData => out.extend_from_slice(frame),
            Intake::Terminate => {}
        }
    }

    fn bind(&mut self, portal: Box<[u8]>, statement: Arc<Statement>, frame: &[u8], server: &ServerState) {
        match self.bound_effects(&statement, frame, server) {
            Some(effects) => drop(self.bound.get_or_insert_default().insert(portal.clone(), effects)),
            None => {
                if let Some(bound) = &mut self.bound {
                    bound.remove(&portal);
                }
            }
        }
        self.portals.insert(portal, statement);
    }

    fn plain(&mut self, kind: Kind, frame: &[u8], out: &mut Vec<u8>) {
        self.pipeline.push(Request::forward(kind));
        out.extend_from_slice(frame);
    }

    fn parse(
        &mut self,
        statement: &Arc<Statement>,
        named: Option<Box<[u8]>>,
        undo: Option<Undo>,
        frame: &[u8],
        server: &mut ServerState,
        out: &mut Vec<u8>,
    ) {
        let Some(name) = named else {
            server.unnamed = Some(statement.id);
            let mut request = Request::forward(Kind::Parse);
            request.misread = self.may_misread(&statement.sql, server);
            request.undo.push(Undo::ServerUnnamed);
            request.undo.extend(undo);
            self.pipeline.push(request);
            out.extend_from_slice(frame);
            return;
        };
        if !self.follow {
            let mut request = Request::forward(Kind::Parse);
            request.misread = self.may_misread(&statement.sql, server);
            request.undo.extend(undo);
            self.pipeline.push(request);
            out.extend_from_slice(frame);
            return;
        }
        if server.statements.touch(statement.id) && !self.pipeline.prepared_in_doubt(Some(statement.id)) {
            let mut request = Request::forward(Kind::Local(encode::PARSE_COMPLETE));
            request.undo.extend(undo);
            self.pipeline.push(request);
            return;
        }
        self.prepare_on_server(statement, Answer::Forward, undo, Some(name), server, out);
    }

    /// Sends Parse of a statement under its server name, making room for it first.
    fn prepare_on_server(
        &mut self,
        statement: &Arc<Statement>,
        answer: Answer,
        undo: Option<Undo>,
        name: Option<Box<[u8]>>,
        server: &mut ServerState,
        out: &mut Vec<u8>,
    ) {
        let again = server.statements.lists(statement.id);
        if let Some(evicted) = server.statements.insert(Arc::clone(statement)) {
            encode::close_statement(out, evicted.server_name().as_bytes());
            let mut request = Request::swallow(Kind::Close);
            request.done = Some(Done::Closed(Arc::clone(&evicted)));
            request.undo.push(Undo::ServerClose(evicted));
            self.pipeline.push(request);
        }
        if self.pipeline.concerns(statement.id) || server.statements.is_doubted(statement.id) {
            // It may be there or not, as what is under way turns out: closing it first is right either way.
            encode::close_statement(out, statement.server_name().as_bytes());
            let mut request = Request::swallow(Kind::Close);
            request.done = Some(Done::Closed(Arc::clone(statement)));
            self.pipeline.push(request);
        }
        encode::parse(out, statement.server_name().as_bytes(), &statement.sql, &statement.types);
        server.parses += 1;
        let mut request = Request::forward(Kind::Parse);
        request.misread = self.may_misread(&statement.sql, server);
        request.answer = answer;
        request.done = Some(Done::Prepared(Arc::clone(statement)));
        if !again {
            // Else it is the earlier Parse that says whether the server has it, should this one be skipped.
            request.undo.push(Undo::ServerPrepare(Arc::clone(statement)));
        }
        request.undo.extend(undo);
        request.renamed = name.map(|n| (Arc::clone(statement), n));
        self.pipeline.push(request);
    }

    /// Sees to it that the server has the statement that the next message speaks of.
    fn ensure(&mut self, statement: &Arc<Statement>, named: bool, server: &mut ServerState, out: &mut Vec<u8>) {
        if named {
            let there = server.statements.touch(statement.id) && !self.pipeline.prepared_in_doubt(Some(statement.id));
            if self.follow && !there {
                self.prepare_on_server(statement, Answer::Swallow, None, None, server, out);
            }
        } else if server.unnamed != Some(statement.id) || self.pipeline.prepared_in_doubt(None) {
            server.unnamed = Some(statement.id);
            encode::parse(out, b"", &statement.sql, &statement.types);
            let mut request = Request::swallow(Kind::Parse);
            request.misread = self.may_misread(&statement.sql, server);
            request.undo.push(Undo::ServerUnnamed);
            self.pipeline.push(request);
        }
    }

    /// Whether a text that is about to be sent speaks of names, and the server may pass over it.
    fn may_be_passed_over(&self, facts: &QueryFacts) -> bool {
        let names = || facts.statements.iter().any(|statement| statement.name_use.is_some());
        (!self.lent.is_empty() || names()) && self.pipeline.exchange_is_open()
    }

    /// What each statement of a text runs by EXECUTE that was prepared by the protocol.
    fn executes(&self, facts: &QueryFacts) -> Vec<(usize, Arc<QueryFacts>)> {
        let named = facts.statements.iter().enumerate().filter_map(|(at, statement)| match &statement.name_use {
            Some(NameUse::Execute(name)) => self.names.get(name.as_bytes()).map(|s| (at, Arc::clone(&s.facts))),
            _ => None,
        });
        named.collect()
    }

    /// SQL that names a statement prepared by the protocol: on the server that goes by another name, so this one is lent to it until the
    /// next Query or Sync. EXECUTE is to find the statement itself, which it is described by as well.
    fn lend_executed(&mut self, facts: &QueryFacts, for_query: bool, server: &mut ServerState, out: &mut Vec<u8>) {
        if !self.follow {
            return;
        }
        for statement in &facts.statements {
            let Some(NameUse::Execute(name)) = &statement.name_use else { continue };
            let Some(prepared) = self.names.get(name.as_bytes()).cloned() else { continue };
            let by = if for_query { Kind::Lend } else { Kind::Parse };
            self.lend(name, (&prepared.sql, &prepared.types), by, server, out);
        }
        if for_query && !self.lent.is_empty() {
            // If the statement cannot be prepared any more, the server must not pass over the Query.
            encode::sync(out);
            self.pipeline.push(Request::swallow(Kind::Sync));
        }
    }

    /// The same for DEALLOCATE, and for PREPARE of a name that is taken: an empty statement of that name is all they need.
    fn lend_placeholders(&mut self, facts: &QueryFacts, server: &mut ServerState, out: &mut Vec<u8>) {
        if !self.follow {
            return;
        }
        for statement in &facts.statements {
            let Some(NameUse::Prepare(name) | NameUse::Deallocate(name)) = &statement.name_use else { continue };
            if self.names.contains_key(name.as_bytes()) {
                self.lend(name, (b"", &[0, 0]), Kind::Parse, server, out);
            }
        }
    }

    /// Gives the server a statement of this name, unless this exchange has done so.
    fn lend(
        &mut self,
        name: &str,
        (sql, types): (&[u8], &[u8]),
        by: Kind,
        server: &mut ServerState,
        out: &mut Vec<u8>,
    ) {
        if self.lent.iter().any(|lent| **lent == *name.as_bytes()) {
            return;
        }
        server.unnamed = None;
        encode::close_statement(out, name.as_bytes());
        self.pipeline.push(Request::swallow(Kind::Close));
        encode::parse(out, name.as_bytes(), sql, types);
        let mut request = Request::swallow(by);
        request.misread = self.may_misread(sql, server);
        self.pipeline.push(request);
        self.lent.push(name.as_bytes().into());
    }

    /// A name could not be lent: the Query that needs it is to fail by this error.
    fn lending_failed(&mut self, body: &[u8], server: &mut ServerState) -> Action {
        for undo in self.pipeline.fail() {
            self.undo(undo, server);
        }
        if let Some(query) = self.pipeline.first_query() {
            query.refusal = Some(Box::new(message::server_error(body)));
        }
        Action::Swallow
    }

    /// Behind a Query or Sync: takes back what [`Self::lend`] gave, as far as no DEALLOCATE did. Not where the server may take COPY data
    /// by then and nothing else: see [`Self::send_held`].
    fn take_back_names(&mut self, out: &mut Vec<u8>) {
        if self.lent.is_empty() || self.pipeline.may_copy_in() {
            return;
        }
        for name in std::mem::take(&mut self.lent) {
            encode::close_statement(out, &name);
            self.pipeline.push(Request::swallow(Kind::Close));
        }
        encode::sync(out);
        self.pipeline.push(Request::swallow(Kind::Sync));
    }

    fn refuse(&mut self, error: Box<Error>, simple: bool, server: &mut ServerState, out: &mut Vec<u8>) {
        server.unnamed = None;
        let mid_exchange = self.unsynced || self.pipeline.exchange_is_open();
        let mut request = if simple {
            self.unsynced = false;
            encode::query(out, REFUSED_SQL);
            Request::forward(Kind::Query { facts: Arc::default(), done: 0 })
        } else {
            self.unsynced = true;
            encode::parse(out, b"", REFUSED_SQL, &[0, 0]);
            Request::forward(Kind::Parse)
        };
        request.refusal = Some(error);
        self.pipeline.push(request);
        if simple && !mid_exchange {
            self.take_back_names(out);
        }
    }

    /// Whether a Sync of the client's is kept until the server has said how a COPY FROM STDIN begins: nothing may be sent before it.
    #[must_use]
    pub fn holds_sync(&self) -> bool {
        self.held_sync
    }

    /// Sends what had to wait for an answer: the Sync that was kept, when the COPY turned out not to begin; what takes back the names
    /// that were lent, when the COPY is over; and what there is to ask or tell about settings.
    pub fn send_held(&mut self, server: &mut ServerState, out: &mut Vec<u8>) {
        self.send_hidden(server, out);
        if self.held_sync && !self.pipeline.ends_with_copy_from() {
            self.held_sync = false;
            self.skipping = false;
            self.unsynced = false;
            encode::sync(out);
            self.pipeline.push(Request::forward(Kind::Sync));
            self.take_back_names(out);
        }
        if !self.lent.is_empty() && self.pipeline.is_empty() && !self.unsynced {
            self.take_back_names(out);
        }
    }

    // From the server to the client.

    /// Answers of ours whose turn has come, appended to `out`.
    pub fn take_local(&mut self, out: &mut Vec<u8>) {
        while let Some((bytes, answer)) = self.pipeline.pop_local() {
            if answer == Answer::Forward {
                out.extend_from_slice(bytes);
            }
        }
    }

    /// Takes a message of the server. `body` may be cut short for messages whose body is not read here
    /// (`D`, `d`, `T`, `N`, `A`, `V`, `G`, `H`, `W`, `t`).
    ///
    /// # Errors
    /// When no request explains it.
    pub fn on_server(&mut self, tag: u8, body: &[u8], server: &mut ServerState) -> Result<Action, Desync> {
        let desync = Err(Desync { tag });
        match tag {
            b'N' | b'A' => return Ok(Action::Forward),
            b'S' => {
                self.on_parameter_status(body, server);
                return Ok(Action::Forward);
            }
            b'E' => return Ok(self.on_error(body, server)),
            b'Z' => return self.on_ready(message::ready_for_query(body).ok_or(Desync { tag })?, server),
            _ => {}
        }
        let Some(head) = self.pipeline.head() else { return desync };
        let action = if head.answer == Answer::Forward { Action::Forward } else { Action::Swallow };
        self.answered = Some(head.number);
        let taken = self.on_answer(tag, body, action, server);
        self.answered = None;
        taken
    }

    /// A message that answers the request at the head.
    fn on_answer(&mut self, tag: u8, body: &[u8], action: Action, server: &mut ServerState) -> Result<Action, Desync> {
        let desync = Err(Desync { tag });
        let Some(head) = self.pipeline.head() else { return desync };
        match (&mut head.kind, tag) {
            (Kind::Query { facts, done }, b'C' | b'I') => {
                let facts = Arc::clone(facts);
                let misread = head.misread;
                let index = *done;
                *done += 1;
                let executed = head.executed.iter().find(|(at, _)| *at == index).map(|(_, facts)| Arc::clone(facts));
                self.course.answered(&facts, index);
                self.complete(&facts, index, (None, executed), body, server);
                if misread {
                    self.pin(PinReason::Setting, Some(&facts));
                }
                if action == Action::Forward && listens(&facts, index) {
                    return Ok(listened());
                }
            }
            (Kind::Execute(facts), b'C' | b'I' | b's') => {
                let facts = facts.take();
                let request = self.pipeline.pop();
                let (bound, executed) = request.map(|request| (request.bound, request.executed)).unwrap_or_default();
                if let Some(facts) = facts {
                    self.course.answered(&facts, 0);
                    if tag == b's' {
                        self.suspended(&facts, bound.as_deref(), server);
                    } else {
                        let executed = executed.into_iter().next().map(|(_, facts)| facts);
                        self.complete(&facts, 0, (Some(bound), executed), body, server);
                        if action == Action::Forward && listens(&facts, 0) {
                            return Ok(listened());
                        }
                    }
                }
            }
            (Kind::Hidden(_), b'T' | b'D' | b'C') => self.on_hidden(tag, body),
            (Kind::Query { .. }, b'T' | b'D' | b'd' | b'c' | b'H' | b'W')
            | (Kind::Execute(_), b'D' | b'd' | b'c' | b'H' | b'W')
            | (Kind::Describe, b't')
            | (Kind::FunctionCall { hides: false }, b'V') => {}
            (Kind::FunctionCall { hides: true }, b'V') => self.pin(PinReason::Setting, None),
            (Kind::Query { .. } | Kind::Execute(_), b'G') => {
                self.unsynced |= self.pipeline.begin_copy_in();
                // The server would pass over it, or not, as it happens to read it before the COPY fails or after.
                self.held_sync = false;
            }
            (Kind::Parse | Kind::Lend, b'1') if std::mem::take(&mut head.misread) => {
                // No other server reads it so, and nobody else is to meet it.
                self.pin(PinReason::Setting, None);
                return self.on_server(tag, body, server);
            }
            (Kind::Parse | Kind::Lend, b'1') | (Kind::Close, b'3') => match self.pipeline.pop().and_then(|r| r.done) {
                Some(Done::Prepared(statement)) => {
                    if self.names_mean_the_usual() {
                        statement.accept(self.pools);
                    }
                    server.statements.confirm(statement);
                }
                Some(Done::Closed(statement)) => server.statements.remove(statement.id),
                None => {}
            },
            (Kind::Bind, b'2') | (Kind::Describe, b'T' | b'n') => {
                self.pipeline.pop();
            }
            _ => return desync,
        }
        Ok(action)
    }

    fn on_ready(&mut self, status: TransactionStatus, server: &mut ServerState) -> Result<Action, Desync> {
        match self.pipeline.head() {
            Some(Request {
                kind: Kind::Query { .. } | Kind::Sync | Kind::FunctionCall { .. } | Kind::Hidden(_),
                ..
            }) => {}
            _ => return Err(Desync { tag: b'Z' }),
        }
        let answer = self.pipeline.pop().map_or(Answer::Forward, |r| r.answer);
        self.status = status;
        self.course = Course::new(status);
        if status == TransactionStatus::Idle {
            self.portals.clear();
            self.bound = None;
            self.hidden_error = None;
            self.temp_in_path = false;
        }
        self.settings.settle(status == TransactionStatus::Idle, self.failed, &mut server.settings);
        if let Some(listening) = &mut self.listening
            && status == TransactionStatus::Idle
        {
            listening.end();
        }
        self.failed = false;
        Ok(if answer == Answer::Forward { Action::Forward } else { Action::Swallow })
    }

    fn on_error(&mut self, body: &[u8], server: &mut ServerState) -> Action {
        if let Some(Request { kind: Kind::Hidden(_), .. }) = self.pipeline.head() {
            self.hidden_failed(body);
            // The server's farewell is the client's to hear.
            return if is_fatal(body) { Action::Forward } else { Action::Swallow };
        }
        self.failed = true;
        self.course.failed();
        self.note_failed(body);
        self.ask_pins();
        self.failed_halfway();
        if let Some(listening) = &mut self.listening {
            listening.fail();
        }
        // PostgreSQL drops the unnamed statement before it reads the text of the next.
        let version = |undo: &Undo| match undo {
            Undo::ClientUnnamed { version, .. } => Some(*version),
            _ => None,
        };
        if let Some(Request { kind: Kind::Lend, .. }) = self.pipeline.head() {
            return self.lending_failed(body, server);
        }
        let denied = self.pipeline.head().and_then(|head| signals::denial(&head.kind, body));
        let head = self.pipeline.head().filter(|request| matches!(request.kind, Kind::Parse));
        let unnamed_failed = head.and_then(|request| request.undo.iter().find_map(version));
        if let Some(Request { kind: Kind::Query { .. }, answer: Answer::Swallow, .. }) = self.pipeline.head() {
            self.unseen_error = Some(Box::new(message::server_error(body)));
            return Action::Swallow;
        }
        let (refusal, renamed, extended) = match self.pipeline.head() {
            Some(head) => (
                head.refusal.take(),
                head.renamed.take(),
                !matches!(head.kind, Kind::Query { .. } | Kind::FunctionCall { .. } | Kind::Sync),
            ),
            None => (None, None, false),
        };
        let undone = self.pipeline.fail();
        // What was sent behind the next Sync took for granted what did not happen, and may be undone in its turn.
        let overtaken = self.pipeline.len() > 1;
        for undo in undone {
            if overtaken && let Undo::ServerPrepare(statement) | Undo::ServerClose(statement) = &undo {
                server.statements.doubt(statement.id);
            }
            self.undo(undo, server);
        }
        // Unless what came behind the next Sync has made another since.
        if unnamed_failed == Some(self.unnamed_version + 1) {
            self.unnamed = None;
        }
        if extended && self.pipeline.is_empty() {
            self.unsynced = true;
            self.skipping = true;
        }
        if let Some(denied) = denied {
            let mut out = Vec::new();
            encode::error(&mut out, &denied);
            return Action::Replace(out);
        }
        // Another error came first.
        let in_place = [SqlState::SYNTAX_ERROR, SqlState::INVALID_STATEMENT_NAME, SqlState::IN_FAILED_TRANSACTION];
        let code = message::error_field(body, b'C');
        if let Some(refusal) = refusal.filter(|_| in_place.iter().any(|state| code == Some(&state.0))) {
            let mut out = Vec::new();
            encode::error(&mut out, &refusal);
            return Action::Replace(out);
        }
        if code == Some(&SqlState::IN_FAILED_TRANSACTION.0)
            && let Some(error) = self.hidden_error.take()
        {
            let mut out = Vec::new();
            encode::error(&mut out, &error);
            return Action::Replace(out);
        }
        if let Some((statement, _)) = &renamed
            && message::error_field(body, b'C') == Some(&SqlState::INVALID_STATEMENT_NAME.0)
        {
            // Somebody deallocated it where we could not see it, in a function.
            server.statements.remove(statement.id);
        }
        if let Some((statement, _)) = &renamed
            && message::error_field(body, b'C') == Some(b"0A000")
        {
            // "cached plan must not change result type": it fails for as long as the server has it. (The message may be
            // translated; preparing anew after another error of this class does no harm.)
            statement.set_outdated();
        }
        match renamed.and_then(|(statement, name)| rename(body, &statement, &name)) {
            Some(bytes) => Action::Replace(bytes),
            None => Action::Forward,
        }
    }

    /// The server is gone with all that was under way. The session goes on without a transaction.
    pub fn on_server_lost(&mut self, server: &mut ServerState) {
        for undo in self.pipeline.abort() {
            self.undo(undo, server);
        }
        self.status = TransactionStatus::Idle;
        self.course = Course::new(self.status);
        if let Some(listening) = &mut self.listening {
            listening.abandon();
        }
        self.unsynced = false;
        self.skipping = false;
        self.failed = false;
        self.settings.abandon();
        self.pins.clear();
        (self.asks_pins, self.was_pinned, self.temp_in_path) = (false, false, false);
        self.spoils = false;
        self.portals.clear();
        self.bound = None;
        self.unseen_error = None;
        self.hidden_error = None;
        self.lent.clear();
        self.held_sync = false;
    }

    /// What the server was in the middle of has been ended behind the client's back, to begin again elsewhere.
    pub fn on_moved(&mut self) {
        self.status = TransactionStatus::Idle;
        self.course = Course::new(self.status);
        self.settings.abandon();
        self.spoils = false;
        self.lent.clear();
    }

    /// A Sync of ours has been answered.
    pub fn on_synced(&mut self) {
        self.unsynced = false;
    }

    /// The server goes back to the pool; frees what an idle session does not need.
    pub fn on_release(&mut self) {
        self.pipeline.shrink();
        self.settings.leave();
        self.spoils = false;
        self.was_pinned = false;
    }

    /// Takes back what a request that did not happen would have changed.
    pub fn undo(&mut self, undo: Undo, server: &mut ServerState) {
        match undo {
            Undo::ClientName { .. } | Undo::ClientUnnamed { .. } => self.undo_name(undo),
            Undo::ServerPrepare(statement) => server.statements.remove(statement.id),
            Undo::ServerClose(statement) => server.statements.restore(statement),
            Undo::ServerUnnamed => server.unnamed = None,
        }
    }

    /// Takes back a change of the client's names; anything else is of a server that was never reached.
    pub fn undo_name(&mut self, undo: Undo) {
        match undo {
            Undo::ClientName { name, before: Some(statement) } => {
                self.names.insert(name, statement);
            }
            Undo::ClientName { name, before: None } => {
                self.names.remove(&name);
            }
            Undo::ClientUnnamed { before, version } => {
                if self.unnamed_version == version {
                    self.unnamed = before;
                    self.unnamed_version -= 1;
                }
            }
            Undo::ServerPrepare(_) | Undo::ServerClose(_) | Undo::ServerUnnamed => {}
        }
    }

    fn on_parameter_status(&mut self, body: &[u8], server: &mut ServerState) {
        let Some((name, value)) = message::parameter_status(body) else { return };
        let (Ok(name), Ok(value)) = (std::str::from_utf8(name), std::str::from_utf8(value)) else { return };
        server.settings.report(name, value);
        let name = name.to_ascii_lowercase();
        if is_reported(&name) {
            self.settings.report(&name, value);
        }
    }

    /// A statement has completed, with this tag. `alone`: by the extended protocol, with what its parameters tell. `executed`: what it has
    /// run by EXECUTE.
    #[expect(clippy::type_complexity, reason = "whether it was by the extended protocol, and what that told")]
    fn complete(
        &mut self,
        facts: &Arc<QueryFacts>,
        index: usize,
        (alone, executed): (Option<Option<Arc<[SessionEffect]>>>, Option<Arc<QueryFacts>>),
        tag: &[u8],
        server: &mut ServerState,
    ) {
        if facts.unparsed.is_some() && facts.hides {
            // It may have set anything, and made what only this server has.
            self.pin(PinReason::Setting, Some(facts));
        }
        let Some(statement) = facts.statements.get(index) else { return };
        for step in facts.steps.iter().filter(|step| step.statement == index) {
            self.listening.get_or_insert_default().change(&step.change);
        }
        if let Some(listening) = &mut self.listening {
            listening.complete(statement);
        }
        self.note_signals(facts, index);
        let of_executed =
            executed.iter().flat_map(|facts| &facts.statements).flat_map(|s| &s.effects).cloned().collect();
        // EXPLAIN and CREATE TABLE AS need not run it.
        let runs = statement.why == "EXECUTE" && !tag.starts_with(b"EXPLAIN");
        let of_executed: Vec<_> = if runs { of_executed } else { in_doubt(of_executed) };
        let run = || executed.iter().filter(|_| runs).flat_map(|facts| &facts.statements);
        self.temp_in_path |= statement.temp_in_path || run().any(|s| s.temp_in_path);
        if statement.ends_state || tag.starts_with(b"ROLLBACK") || run().any(|s| s.ends_state) {
            self.ask_pins();
        }
        if tag.starts_with(b"DISCARD SEQUENCES") {
            self.unpin(PinReason::SequenceState, self.answered.unwrap_or(self.sent));
        }
        if statement.makes_object() && (self.temp_in_path || self.settings.names_temp()) {
            self.pin(PinReason::TempObject, Some(facts));
        }
        // A portal that has given its row already, and calls nothing again.
        let exhausted = tag.starts_with(b"SELECT 0\0");
        let effects = alone.iter().flatten().next().map_or(&*statement.effects, |bound| bound);
        for effect in effects.iter().chain(&of_executed) {
            match effect {
                SessionEffect::Set { .. } | SessionEffect::SetByParams { .. } | SessionEffect::Reset { .. }
                    if exhausted => {}
                SessionEffect::Set { .. }
                | SessionEffect::SetUnknown { .. }
                | SessionEffect::SetByParams { .. }
                | SessionEffect::Reset { .. }
                | SessionEffect::ResetAll => self.follow_setting(effect, facts, server),
                // Not transactional, or only ever more careful than needed.
                SessionEffect::Pin(reason) => self.pin(*reason, Some(facts)),
                SessionEffect::Deallocate { name } => {
                    self.names.remove(name.as_bytes());
                    server.statements.remove_named(name);
                }
                SessionEffect::DeallocateAll => {
                    self.forget_names();
                    server.statements.clear();
                }
                SessionEffect::DiscardAll => {
                    self.forget_names();
                    // What was sent behind it runs behind it.
                    let number = self.answered.unwrap_or(self.sent);
                    self.pins.retain(|pin| pin.number >= number);
                    self.settings.reset_all();
                    if let Some(listening) = &mut self.listening {
                        listening.forget();
                    }
                    server.forget_state();
                }
            }
        }
        self.follow_transaction(run().next().unwrap_or(statement), tag, alone.is_some());
    }

    /// A portal has given some of its rows: what it does to the session it may have done, and may do again.
    fn suspended(&mut self, facts: &Arc<QueryFacts>, bound: Option<&[SessionEffect]>, server: &mut ServerState) {
        let Some(statement) = facts.statements.first() else { return };
        self.note_signals(facts, 0);
        self.temp_in_path |= statement.temp_in_path;
        for effect in in_doubt(bound.unwrap_or(&statement.effects).to_vec()) {
            match effect {
                SessionEffect::Pin(reason) => self.pin(reason, Some(facts)),
                effect => self.follow_setting(&effect, facts, server),
            }
        }
    }

    /// Whether the server reads backslashes in a text otherwise than we do, so that it may hold another statement than we see.
    fn may_misread(&self, text: &[u8], server: &ServerState) -> bool {
        const NAME: &str = "standard_conforming_strings";
        let off = || server.settings.reported(NAME).is_some_and(|value| value != "on");
        // Hardly any text has one: it is looked for first.
        memchr::memchr(b'\\', text).is_some() && (off() || self.pipeline.may_set(NAME))
    }

    /// The sessions that a statement which has completed is to signal.
    fn note_signals(&mut self, facts: &QueryFacts, index: usize) {
        let mut signals = facts.signals.iter().filter(|signal| signal.statement == index).peekable();
        if signals.peek().is_some() {
            self.signals.get_or_insert_default().extend(signals);
        }
    }

    /// All names are gone, but for those that what is under way will give.
    fn forget_names(&mut self) {
        let pipeline = &self.pipeline;
        self.names.retain(|name, _| pipeline.names_later(name));
    }

    /// The session keeps its server from now on.
    pub fn pin(&mut self, reason: PinReason, facts: Option<&Arc<QueryFacts>>) {
        self.pin_by(self.answered.unwrap_or(self.sent), reason, facts);
    }

    /// The same for one of the `messages` that are about to be sent.
    pub fn pin_ahead(&mut self, messages: usize, reason: PinReason, facts: Option<&Arc<QueryFacts>>) {
        let last = self.sent.saturating_add(messages.saturating_sub(1) as u64);
        self.pin_by(last, reason, facts);
    }

    fn pin_by(&mut self, number: u64, reason: PinReason, facts: Option<&Arc<QueryFacts>>) {
        self.spoils |= reason.outlives_discard();
        match self.pins.iter_mut().find(|pin| pin.reason == reason) {
            Some(pin) => pin.number = pin.number.max(number),
            None => self.pins.push(Pin { reason, facts: facts.cloned(), number }),
        }
    }

    /// What a statement that fails has done all the same: PostgreSQL undoes what belongs to the transaction, and nothing else. See
    /// <https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS>.
    fn note_failed(&mut self, body: &[u8]) {
        // In a failed block nothing has run.
        if message::error_field(body, b'C') == Some(&SqlState::IN_FAILED_TRANSACTION.0) {
            return;
        }
        let Some(head) = self.pipeline.head() else { return };
        let (facts, index) = match &head.kind {
            Kind::Query { facts, done } => (Arc::clone(facts), *done),
            Kind::Execute(Some(facts)) => (Arc::clone(facts), 0),
            _ => return,
        };
        let number = head.number;
        let executed = head.executed.iter().filter(|(at, _)| *at == index).flat_map(|(_, facts)| &facts.statements);
        let stays = |effect: &SessionEffect| match effect {
            SessionEffect::Pin(reason) if reason.outlives_rollback() => Some(*reason),
            _ => None,
        };
        let statements = facts.statements.get(index).into_iter().chain(executed);
        let reasons: Vec<_> = statements.flat_map(|s| &s.effects).filter_map(stays).collect();
        for reason in reasons {
            self.pin_by(number, reason, Some(&facts));
        }
    }
}

/// Whether a statement was a LISTEN before it was written anew.
fn listens(facts: &QueryFacts, index: usize) -> bool {
    facts.steps.iter().any(|step| step.statement == index && matches!(step.change, ListenChange::Listen(_)))
}

/// The answer to it.
fn listened() -> Action {
    let mut out = Vec::new();
    encode::command_complete(&mut out, "LISTEN");
    Action::Replace(out)
}

/// The error with the client's name for a statement in place of the server's; `None` if that does not occur in it.
fn rename(body: &[u8], statement: &Statement, client_name: &[u8]) -> Option<Vec<u8>> {
    let message = message::error_field(body, b'M')?;
    let ours = format!("\"{}\"", statement.server_name());
    let message = String::from_utf8_lossy(message);
    if !message.contains(&ours) {
        return None;
    }
    let message = message.replace(&ours, &format!("\"{}\"", String::from_utf8_lossy(client_name)));
    let mut out = Vec::new();
    encode::frame(&mut out, b'E', |b| {
        for (kind, value) in message::error_fields(body) {
            b.push(kind);
            b.extend_from_slice(if kind == b'M' { message.as_bytes() } else { value });
            b.push(0);
        }
        b.push(0);
    });
    Some(out)
}

/// An error of a prepared statement that does not exist, in PostgreSQL's words.
#[must_use]
pub fn no_such_statement(name: &[u8]) -> Error {
    let message = if name.is_empty() {
        "unnamed prepared statement does not exist".to_owned()
    } else {
        format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(name))
    };
    Error::client(SqlState::INVALID_STATEMENT_NAME, message)
}

/// Whether an ErrorResponse ends the server's session, by its severity.
#[must_use]
pub fn is_fatal(body: &[u8]) -> bool {
    let severity = message::error_field(body, b'V').or_else(|| message::error_field(body, b'S'));
    severity.is_some_and(|s| s != Severity::Error.as_str().as_bytes())
}

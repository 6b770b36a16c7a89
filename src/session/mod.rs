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

mod answer;
mod forward;
mod functions;
pub mod intake;
pub mod listening;
mod names;
mod number;
mod owed;
mod pins;
pub mod pipeline;
pub mod popular;
pub mod prepared;
pub mod reading;
pub mod sequences;
pub mod server_state;
pub mod settings;
pub mod signals;

#[cfg(test)]
mod pins_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use thin_vec::ThinVec;

use crate::error::{Error, Severity, SqlState};
use crate::id::StatementId;
use crate::sql::facts::{NameUse, PinReason, QueryFacts, SessionEffect, Signal};
use crate::sql::settings::NAMERS;
use crate::wire::encode;
use crate::wire::frame::Frame;
use crate::wire::message::{self, TransactionStatus};

pub use intake::{Intake, Values};
use listening::Listening;
pub use names::Naming;
use names::SqlNames;
use number::Number;
use owed::Course;
use pins::{Patience, Watch};
use pipeline::{Answer, Kind, Pipeline, Portal, Request};
use prepared::Statement;
use reading::{Names, Reader};
pub use server_state::ServerState;
use settings::ClientSettings;

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

/// A shared statement, the client's name that stands for it, and the one that is parsed in its place.
type Apart = ((StatementId, Box<[u8]>), Arc<Statement>);

/// By name: what a transaction has set for itself.
type Locals = BTreeMap<String, String>;

/// By the number of a Bind that has made no portal: what stands in its place.
type NotMade = BTreeMap<u64, Option<Portal>>;

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
    /// How many messages had been sent before the one that made it last, and first.
    number: u64,
    first: u64,
    /// Only what is known of the code that ran says that it is there.
    presumed: bool,
    /// It has not been asked for since.
    unasked: bool,
}

impl Pin {
    /// For the values of sequences that a statement has taken.
    #[must_use]
    pub fn for_sequences(facts: Option<Arc<QueryFacts>>) -> Self {
        let reason = PinReason::SequenceState;
        Self { reason, facts, number: 0, first: 0, presumed: true, unasked: false }
    }
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
    /// Maps that take no memory while there is nothing in them, as mostly. (So do thin vectors, which are a third as large themselves.)
    names: BTreeMap<Box<[u8]>, Arc<Statement>>,
    unnamed: Option<Arc<Statement>>,
    unnamed_version: u64,
    portals: BTreeMap<Box<[u8]>, Portal>,
    /// Portals that were bound before this message are gone with their transaction, though some may still be listed.
    ended: u64,
    /// How many may be listed before those are taken out.
    most_portals: u32,
    /// By the number of a Bind that has made no portal, while another of its name is under way: what stands in its place.
    not_made: Option<Box<NotMade>>,
    settings: ClientSettings,
    /// There is something on the server that no DISCARD takes away.
    spoils: bool,
    pins: ThinVec<Pin>,
    /// Messages that were sent so far.
    sent: u64,
    /// The number of the one that is being answered.
    answered: Number,
    /// What it is pinned for may be gone; and was so, or something has run of which nothing is known.
    asks_pins: bool,
    was_pinned: bool,
    watch: Watch,
    patience: Patience,
    /// What the transaction creates may be temporary without saying so: it has put `pg_temp` into search_path.
    temp_in_path: bool,
    /// What the transaction has set for itself alone of what the meaning of texts hangs on, and who reads the server's reports is not told.
    locals: Option<Box<Locals>>,
    /// It may have a search_path, or a role, of its own.
    local_path: bool,
    local_role: bool,
    /// How often the catalog has changed so far, and whether the transaction has changed it.
    epoch: u32,
    catalog_changed: bool,
    /// The transaction has set something of that for itself, and nobody knows what or to which value.
    local_reading: bool,
    /// Something was set by which texts are read, and the server has not reported yet what it is.
    unreported: bool,
    /// The catalog has changed since the last [`Session::take_types_changed`].
    types_changed: bool,
    /// Statements that are parsed while a message before them may change how they are read, and what is parsed for a name in the place of each.
    apart: ThinVec<Apart>,
    pools: u64,
    /// The error of a text of ours that nobody was told yet.
    unseen_error: Option<Box<Error>>,
    /// Why the block failed behind the client's back.
    hidden_error: Option<Box<Error>>,
    /// A text of ours was cancelled behind the client's back.
    missed_cancel: bool,
    /// Names of the client's that a server was lent for SQL to find; taken back behind the Query or Sync, or a COPY that it begins.
    lent: ThinVec<Box<[u8]>>,
    /// Names that the server may have by PREPARE, which are never lent. Nobody else's: PREPARE pins.
    sql_names: SqlNames,
    /// Names that a Parse was tried under since the last Sync: the server has them from that or, where it fails, by PREPARE.
    tried: ThinVec<Box<[u8]>>,
    /// What its portals have to do with names.
    portal_names: Naming,
    /// The channels that others listen to in its name; none for who never listened.
    listening: Option<Box<Listening>>,
    /// What statements that have completed are to do to sessions.
    #[expect(clippy::box_collection, reason = "hardly ever, and every client has one of these")]
    signals: Option<Box<Vec<Signal>>>,
    /// The server has forgotten what its session did to sequences, and nothing has been done since that may do something to them.
    forgot_sequences: bool,
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
            ended: 0,
            most_portals: 0,
            not_made: None,
            settings,
            spoils: false,
            pins: ThinVec::new(),
            sent: 0,
            answered: Number::NONE,
            asks_pins: false,
            was_pinned: false,
            watch: Watch::from(0),
            patience: Patience::default(),
            temp_in_path: false,
            locals: None,
            epoch: 0,
            catalog_changed: false,
            local_reading: false,
            local_path: false,
            local_role: false,
            unreported: false,
            types_changed: false,
            apart: ThinVec::new(),
            pools: 0,
            unseen_error: None,
            hidden_error: None,
            missed_cancel: false,
            lent: ThinVec::new(),
            sql_names: SqlNames::default(),
            tried: ThinVec::new(),
            portal_names: Naming::None,
            listening: None,
            signals: None,
            forgot_sequences: false,
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

    /// Tells how often the catalog of its database has changed so far.
    pub fn catalog_is_at(&mut self, epoch: u32) {
        self.epoch = epoch;
    }

    /// Its transaction has changed the catalog by what was done past this session's messages.
    pub fn catalog_is_changed(&mut self) {
        self.catalog_changed = true;
    }

    /// Whether what names stand for, or of which types that is, may have changed since this was asked last.
    pub fn take_types_changed(&mut self) -> bool {
        std::mem::take(&mut self.types_changed)
    }

    /// How it reads the texts that it prepares now.
    #[must_use]
    pub fn reader(&self) -> Reader<'_> {
        let changed = self.catalog_in_doubt();
        Reader { settings: &self.settings, names: self.names_mean(), epoch: self.epoch, changed }
    }

    /// Whether its transaction may have changed what names stand for, which nobody else sees yet.
    fn catalog_in_doubt(&self) -> bool {
        self.catalog_changed || self.pipeline.changes_catalog()
    }

    /// Whether nobody else can know how a text is read that it sends now.
    fn reads_alone(&self) -> bool {
        let on_its_way = self.pipeline.reading_in_doubt()
            || (self.pipeline.ends_transaction() && (self.locals.is_some() || self.settings.is_changed()));
        on_its_way
            || self.local_reading
            || self.unreported
            || self.settings.doubts_reading()
            || self.is_pinned_by(PinReason::TempObject)
            // What code has set nobody knows by its name.
            || self.is_pinned_by(PinReason::Setting)
    }

    fn names_mean(&self) -> Names {
        if self.reads_alone() {
            return Names::Own;
        }
        if self.locals.is_none() && self.names_mean_the_usual() {
            return Names::Usual;
        }
        let mut names = Vec::new();
        for name in NAMERS {
            if let Some(value) = self.settings.get(name) {
                reading::write(&mut names, name, value);
            }
        }
        for (name, value) in self.locals.iter().flat_map(|locals| &**locals) {
            reading::write(&mut names, "local", name);
            reading::write(&mut names, name, value);
        }
        Names::Of(names.into())
    }

    /// Whether the transaction may have a search_path of its own, which no setting of the session tells of. Also where it has gone back behind
    /// that: when it was set nobody here knows.
    #[must_use]
    pub fn has_local_path(&self) -> bool {
        self.local_path
    }

    /// The same of its role.
    #[must_use]
    pub fn has_local_role(&self) -> bool {
        self.local_role
    }

    /// The transaction is over, and with it what it had for itself.
    fn forget_locals(&mut self) {
        (self.locals, self.local_reading, self.catalog_changed) = (None, false, false);
        (self.local_path, self.local_role) = (false, false);
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

    /// Tells the client what becomes of reported settings when its transaction ends unseen by it, as the server would.
    pub fn tell_settings_before(&mut self, out: &mut Vec<u8>) {
        for (name, value) in self.settings.take_told() {
            encode::parameter_status(out, name.as_bytes(), value.as_bytes());
        }
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
        let of_portals = self.portals.values().map(|portal| &portal.statement);
        let all = self.unnamed.iter().chain(of_portals).chain(self.names.values());
        // Of what SQL has prepared only the facts are kept.
        let fits = |statement: &&Arc<Statement>| Arc::ptr_eq(&statement.facts, facts) && !statement.is_of_sql();
        let mut fitting = all.filter(fits);
        fitting.next().map(|statement| &*statement.sql)
    }

    /// What the client has prepared by the protocol, by its own names.
    pub fn prepared(&self) -> impl Iterator<Item = (&[u8], &Arc<Statement>)> {
        self.names.iter().map(|(name, statement)| (&**name, statement))
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
            && self.tried.is_empty()
            && !self.settings.has_doubts()
    }

    /// Whether nothing is under way, kept in mind or left behind that what is asked next could meet: an ordinary statement
    /// ([`QueryFacts::is_ordinary`]) that is answered then leaves the session as it was, see [`Session::has_passed`].
    #[must_use]
    pub fn is_at_ease(&self) -> bool {
        let quiet =
            self.may_release() && self.settings.are_settled() && !self.skipping && !self.held_sync && !self.failed;
        let portals = !self.portals.is_empty();
        let errors = self.unseen_error.is_some() || self.hidden_error.is_some();
        let pinned = self.spoils || self.asks_pins || self.was_pinned || self.temp_in_path;
        let read = self.locals.is_some() || self.local_reading || self.catalog_changed || !self.apart.is_empty();
        quiet && !portals && !errors && !pinned && !read && self.listening.is_none() && self.signals.is_none()
    }

    /// So many messages were sent and answered while it was at ease, and have left nothing.
    pub fn has_passed(&mut self, messages: usize) {
        self.sent = self.sent.wrapping_add(messages as u64);
        self.forgot_sequences = false;
    }

    /// Whether the server has names of the client's that nobody else may find there.
    #[must_use]
    pub fn has_lent(&self) -> bool {
        !self.lent.is_empty() || !self.tried.is_empty()
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
        // A text that asks for the channels is written anew with those of the moment.
        let changes = self.listening.as_ref().is_some_and(|listening| listening.is_changing());
        let hears = self.pipeline.listens() || (changes && !self.pipeline.is_empty());
        resets
            || hears
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
        matches!(self.pipeline.head(), Some(Request { kind: Kind::Hidden(_) | Kind::Guard { .. }, .. }))
    }

    /// Whether what the server answers now is the client's to hear.
    #[must_use]
    pub fn answers_client(&mut self) -> bool {
        self.pipeline.head().is_some_and(|request| request.answer == Answer::Forward)
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

    /// ReadyForQuery: whether something of ours was cancelled, and what the client has sent behind it runs now.
    pub fn take_missed_cancel(&mut self) -> bool {
        std::mem::take(&mut self.missed_cancel) && !self.pipeline.is_empty()
    }

    // From the client to the server.
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

//! Settings that follow the client: what it wants, in PostgreSQL's transactions and savepoints.
//!
//! PostgreSQL reports some settings whenever they change (ParameterStatus), rollbacks included: for those the server's own word is kept.
//! The others are known from the statements that set them, or are asked for when the transaction is over, where no statement tells.
//!
//! ```text
//!   SET, RESET ──▶ wanted ──COMMIT──▶ the server's books (server.rs)
//!                    ▲ │ SAVEPOINT, first change of a transaction
//!     ROLLBACK (TO)  │ ▼
//!                  Point ...
//! ```
//!
//! SET LOCAL needs no memory here: what it changes is over when the server is given back. What it does to the meaning of texts until then the
//! session follows.
//! See <https://www.postgresql.org/docs/current/sql-set.html>.

mod ahead;
mod follow;
mod reported;
mod server;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::sql::facts::{ConfigArg, PinReason, SessionEffect};
use crate::sql::settings::{is_read_by, names_temp};

pub use ahead::Ahead;
pub(super) use follow::commits_before;
pub use follow::from_hex;
pub(super) use reported::Report;
pub use reported::{REPORTED, is_reported};
pub use server::{ServerSettings, quote};

use reported::bit;

/// Who the session is, beyond the login. In the order in which they are set: a role is one of the session's user, and setting that user
/// ends the role.
const IDENTITY: [&str; 2] = ["session_authorization", "role"];

/// What a server takes no more once temporary tables have been used on it.
pub const TEMP_BUFFERS: &str = "temp_buffers";

/// Prefix of the settings that are pgweir's own: they say where statements go and never need to be on a server.
pub const OWN_PREFIX: &str = "pgweir.";

/// Those of them that choose the shard: a transaction that fails takes back what it has made of them.
pub const CHOICE: [&str; 2] = ["pgweir.shard", "pgweir.sharding_key"];

/// Whether an effect changes what decides where a statement goes on a sharded database: how its names and keys are read, or what is
/// chosen.
#[must_use]
pub fn decides_shard(effect: &SessionEffect) -> bool {
    match effect {
        SessionEffect::Set { name, .. } | SessionEffect::SetUnknown { name } | SessionEffect::Reset { name } => {
            decides(name)
        }
        SessionEffect::SetByParams { name: ConfigArg::Literal(name), .. } => decides(&name.to_ascii_lowercase()),
        SessionEffect::SetByParams { .. }
        | SessionEffect::ResetAll
        | SessionEffect::DiscardAll
        | SessionEffect::Pin(PinReason::Setting) => true,
        SessionEffect::Local { .. }
        | SessionEffect::Pin(_)
        | SessionEffect::DeallocateAll
        | SessionEffect::Deallocate { .. } => false,
    }
}

fn decides(name: &str) -> bool {
    matches!(name, "search_path" | "client_encoding" | "standard_conforming_strings")
        || IDENTITY.contains(&name)
        || name.starts_with(OWN_PREFIX)
}

/// How many entries the points of a transaction may have. They share what has not changed between them, which is not counted upon.
const MAX_KEPT: usize = 50_000;

/// How many cancel requests may hit, one after the other, what is told to a server behind the client's back, before that is given up: a
/// `statement_timeout` that it cannot keep is told by the same error.
const MAX_CANCELLED: u8 = 8;

/// Settings by name in lower case.
pub type Values = BTreeMap<String, String>;

/// A setting by the name that PostgreSQL reports it under, and what it is.
pub(super) type Told = (&'static str, String);

/// What a client wants.
#[derive(Debug, Default, Clone)]
pub struct ClientSettings {
    /// Given at startup; RESET returns to these. Shared by clients that gave the same.
    startup: Arc<Values>,
    /// Wanted now, where it differs from the server's default.
    wanted: Arc<Values>,
    /// What is not over yet; none with most clients at most times.
    changes: Option<Box<Changes>>,
}

/// A state of the settings to which a transaction may go back.
#[derive(Debug, Clone)]
struct Point {
    wanted: Arc<Values>,
    have: Option<Arc<Values>>,
    reset: u8,
    doubts: BTreeSet<String>,
}

/// What has been changed and is not in the books of a server.
#[derive(Debug, Default, Clone)]
#[allow(clippy::struct_excessive_bools, reason = "independent marks of one transaction")]
struct Changes {
    /// Before the first change of the transaction that is under way.
    base: Option<Point>,
    /// Those made since then. An earlier one is as good as the base.
    savepoints: Vec<(Box<str>, Point)>,
    /// What the linked server has, where that is not what is wanted: RESET went to its default, not to what startup gave.
    have: Option<Arc<Values>>,
    /// The same of those that are reported, as bits.
    reset: u8,
    /// Reported settings that RESET has touched since the last ReadyForQuery and no SET behind it, as bits.
    touched: u8,
    /// What was wanted before the server reported the first change of the transaction, SET LOCAL included.
    reported: Option<Arc<Values>>,
    /// A transaction has ended since the last ReadyForQuery.
    ended: bool,
    /// Names whose value only the server knows.
    doubts: BTreeSet<String>,
    /// Those of them that may be set once more at any time, by a cursor or portal that is not at its end.
    loose: BTreeSet<String>,
    /// A transaction has made changes for good that are not in the server's books.
    committed: bool,
    /// What decides shards was changed, and may be taken back before the next ReadyForQuery.
    unsettled: bool,
    /// So many points were kept that ROLLBACK TO is not followed any more: what the transaction has changed is in doubt.
    unfollowed: bool,
    /// How often a question about what is in doubt has failed, or what gives a setting back has, and was sent once more: cancelled, or
    /// otherwise.
    sent_again: (u8, bool),
    /// Entries of the points that are kept.
    kept: usize,
    /// A statement has perhaps committed what came before it, although more follows in the same transaction: what had changed by then.
    halfway: Option<BTreeSet<String>>,
    /// What the client was told of reported settings since the transaction began.
    told: Vec<Believed>,
}

impl Changes {
    /// A statement tells the value of `name`, which is in doubt all the same where ROLLBACK TO is not followed.
    fn tells(&mut self, name: &str) {
        if self.unfollowed {
            self.doubts.insert(name.to_owned());
        } else {
            self.doubts.remove(name);
        }
    }

    /// Keeps a savepoint; not where there are too many.
    fn keep(&mut self, name: &str, point: Point) -> bool {
        let kept = self.kept.saturating_add(point.entries());
        if kept > MAX_KEPT {
            return false;
        }
        self.kept = kept;
        self.savepoints.push((name.into(), point));
        true
    }

    /// Keeps the first `len` savepoints alone.
    fn keep_first(&mut self, len: usize) {
        let entries: usize = self.savepoints.iter().skip(len).map(|(_, point)| point.entries()).sum();
        self.kept = self.kept.saturating_sub(entries);
        self.savepoints.truncate(len);
    }

    /// The transaction is over.
    fn keep_none(&mut self) {
        self.savepoints.clear();
        (self.kept, self.unfollowed) = (0, false);
    }
}

impl Point {
    /// How much of [`MAX_KEPT`] it takes.
    fn entries(&self) -> usize {
        self.wanted.len().saturating_add(self.doubts.len()).saturating_add(1)
    }
}

/// A reported setting of which the client was told within a transaction.
#[derive(Debug, Clone)]
struct Believed {
    /// As the server writes it.
    name: Box<str>,
    before: Box<str>,
    now: Box<str>,
}

impl ClientSettings {
    /// Starts from what the client gave at startup.
    #[must_use]
    pub fn new(startup: impl Into<Arc<Values>>) -> Self {
        let startup = startup.into();
        Self { wanted: Arc::clone(&startup), startup, changes: None }
    }

    /// What it wants of `name`, if it ever said.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.wanted.get(name).map(String::as_str)
    }

    /// All it wants.
    #[must_use]
    pub fn wanted(&self) -> &Values {
        &self.wanted
    }

    /// The same without what the transaction that is under way has made of settings that are reported.
    #[must_use]
    pub fn before_transaction(&self) -> Self {
        let mut wanted = Arc::clone(&self.wanted);
        if let Some(before) = self.changes.as_ref().and_then(|changes| changes.reported.as_ref()) {
            for name in REPORTED {
                put(&mut wanted, name, before.get(name).map(String::as_str));
            }
        }
        Self { startup: Arc::clone(&self.startup), wanted, changes: None }
    }

    /// Whether it has become somebody else than it logged in as.
    #[must_use]
    pub fn is_someone_else(&self) -> bool {
        IDENTITY.iter().any(|name| self.wanted.get(*name).is_some_and(|value| value != "none"))
            || self.doubts().any(|name| IDENTITY.contains(&name.as_str()))
    }

    /// Whether it has changed some for the session that are not in the books of a server.
    #[must_use]
    pub fn is_changing(&self) -> bool {
        self.changes.as_ref().is_some_and(|changes| {
            changes.base.is_some() || changes.committed || changes.have.is_some() || !changes.doubts.is_empty()
        })
    }

    /// Whether what it creates may be temporary without saying so.
    pub(super) fn names_temp(&self) -> bool {
        const PATH: &str = "search_path";
        self.get(PATH).is_some_and(names_temp) || self.doubts().any(|name| name == PATH)
    }

    /// Whether what it creates is temporary as far as can be told without a server.
    pub(super) fn begins_with_temp(&self) -> bool {
        self.get("search_path").and_then(|path| path.split(',').next()).is_some_and(names_temp)
    }

    /// The client has it, whatever becomes of the transaction: the server has said so, or it is a setting of ours.
    pub fn set(&mut self, name: &str, value: &str) {
        put(&mut self.wanted, name, Some(value));
    }

    /// Goes back to what startup gave, whatever becomes of the transaction.
    pub fn reset(&mut self, name: &str) {
        let given = self.startup.get(name).cloned();
        put(&mut self.wanted, name, given.as_deref());
    }

    // Within a transaction.

    /// The client is told of it, by the name as the server writes it; `before`: what it believed.
    pub(super) fn remember(&mut self, name: &str, before: &str, now: &str) {
        let told = &mut self.changes().told;
        match told.iter_mut().find(|told| *told.name == *name) {
            Some(told) => told.now = now.into(),
            None => told.push(Believed { name: name.into(), before: before.into(), now: now.into() }),
        }
    }

    /// What the client is to be told of reported settings when its transaction ends unseen, each by name and value: before it was so.
    pub(super) fn take_told(&mut self) -> Vec<(Box<str>, Box<str>)> {
        let told = self.changes.as_mut().map(|changes| std::mem::take(&mut changes.told)).unwrap_or_default();
        told.into_iter().filter(|told| told.before != told.now).map(|told| (told.name, told.before)).collect()
    }

    /// SET of a setting that is not reported.
    fn assign(&mut self, name: &str, value: &str) {
        self.begin();
        put(&mut self.wanted, name, Some(value));
        let changes = self.changes();
        changes.tells(name);
        if let Some(have) = &mut changes.have {
            put(have, name, Some(value));
        }
        if name == "session_authorization" {
            self.assign("role", "none");
        }
    }

    /// RESET.
    fn assign_default(&mut self, name: &str) {
        self.begin();
        let given = self.startup.get(name).cloned();
        if is_reported(name) {
            self.changes().touched |= bit(name);
            if given.is_some() {
                self.changes().reset |= bit(name);
            }
            return;
        }
        self.changes().tells(name);
        if given.is_some() || self.changes().have.is_some() {
            let mut have = self.changes().have.take().unwrap_or_else(|| Arc::clone(&self.wanted));
            put(&mut have, name, None);
            self.changes().have = Some(have);
        }
        put(&mut self.wanted, name, given.as_deref());
        // With the session's user its role goes, the one that startup gave as well: the default is no role then.
        match name {
            "session_authorization" if self.startup.contains_key("role") => self.assign("role", "none"),
            "session_authorization" => self.assign_default("role"),
            _ => {}
        }
    }

    /// RESET ALL, which leaves alone who the session is.
    fn assign_defaults(&mut self) {
        self.begin();
        let stays = |values: &Values| -> Values {
            let kept = IDENTITY.iter().filter_map(|name| values.get_key_value(*name));
            kept.map(|(name, value)| (name.clone(), value.clone())).collect()
        };
        let have = stays(self.changes().have.clone().as_ref().unwrap_or(&self.wanted));
        let before = std::mem::replace(&mut self.wanted, Arc::clone(&self.startup));
        for name in IDENTITY.into_iter().chain(REPORTED) {
            put(&mut self.wanted, name, before.get(name).map(String::as_str));
        }
        self.have_only(have);
        let changed: Vec<_> = differing(&before, &self.wanted).filter(|name| !is_reported(name)).cloned().collect();
        let changes = self.changes();
        changes.touched = u8::MAX;
        if changes.unfollowed {
            changes.doubts.extend(changed);
        } else {
            changes.doubts.retain(|name| IDENTITY.contains(&name.as_str()));
        }
    }

    /// DISCARD ALL, which is no part of a transaction.
    pub fn reset_all(&mut self) {
        self.changes = None;
        let before = std::mem::replace(&mut self.wanted, Arc::clone(&self.startup));
        for name in REPORTED {
            put(&mut self.wanted, name, before.get(name).map(String::as_str));
        }
        self.have_only(Values::new());
        let changes = self.changes();
        changes.touched = u8::MAX;
        changes.committed = true;
    }

    /// The server has these and else its defaults.
    fn have_only(&mut self, have: Values) {
        let startup = Arc::clone(&self.startup);
        let others = |name: &&String| !is_reported(name) && !name.starts_with(OWN_PREFIX);
        let differs = self.wanted.keys().filter(others).any(|name| !have.contains_key(name));
        let reset = startup.keys().fold(0, |bits, name| bits | bit(name));
        if differs || reset != 0 || self.changes.is_some() {
            let changes = self.changes();
            changes.have = differs.then(|| Arc::new(have));
            changes.reset = reset;
        }
    }

    /// The value of `name` is known only to the server from now on, until it is asked.
    fn doubt(&mut self, name: &str) {
        self.begin();
        self.changes().doubts.insert(name.to_owned());
        if name == "session_authorization" {
            self.changes().doubts.insert("role".to_owned());
        }
    }

    /// What has put `name` in doubt may do so again, as long as the transaction lasts.
    pub(super) fn loosen(&mut self, name: &str) {
        if let Some(changes) = self.changes.as_mut().filter(|changes| changes.doubts.contains(name)) {
            changes.loose.insert(name.to_owned());
        }
    }

    /// A statement has run, and may have had a cursor set something once more.
    pub(super) fn doubt_loose(&mut self) {
        if let Some(changes) = &mut self.changes {
            changes.doubts.extend(changes.loose.iter().cloned());
        }
    }

    /// Notes that what is set may be committed or not when the transaction fails.
    fn halfway(&mut self) {
        let names = self.changed();
        if let Some(changes) = self.changes.as_mut().filter(|changes| changes.base.is_some()) {
            changes.halfway.get_or_insert_default().extend(names);
        }
    }

    /// What the transaction has changed so far is known only to the server: it may have been taken back.
    fn doubt_changes(&mut self) {
        let names = self.changed();
        if let Some(changes) = self.changes.as_mut().filter(|_| !names.is_empty()) {
            changes.doubts.extend(names);
        }
    }

    /// What the transaction has changed and the server does not report.
    fn changed(&self) -> Vec<String> {
        let Some(base) = self.changes.as_ref().and_then(|changes| changes.base.as_ref()) else { return Vec::new() };
        differing(&base.wanted, &self.wanted).filter(|name| !is_reported(name)).cloned().collect()
    }

    /// SAVEPOINT.
    ///
    /// Whether what becomes of it can be told, if only by the server when the transaction is over: there may be too many, and what a RESET
    /// takes from the server that startup gave, the server does not tell.
    #[must_use]
    fn savepoint(&mut self, name: &str) -> bool {
        let follows = |changes: &Changes| changes.base.is_some() && !changes.unfollowed;
        // Before the first change, the base is as good.
        if self.changes.as_deref().is_some_and(follows) {
            let point = self.point();
            if !self.changes().keep(name, point) {
                self.unfollow();
                return self.startup.keys().all(|name| is_reported(name) || name.starts_with(OWN_PREFIX));
            }
        }
        true
    }

    /// There are too many savepoints: none is kept any more, and only the server knows what the transaction has changed, now and to its end.
    fn unfollow(&mut self) {
        let Some(changes) = &mut self.changes else { return };
        let Some(base) = &changes.base else { return };
        let points = changes.savepoints.iter().map(|(_, point)| &point.wanted);
        let differ = points.chain([&self.wanted]).flat_map(|wanted| differing(&base.wanted, wanted));
        // What was in doubt at one of them is so again when that is gone back to, whatever was set since.
        let doubted = changes.savepoints.iter().flat_map(|(_, point)| &point.doubts).chain(&base.doubts);
        let names: BTreeSet<_> = differ.filter(|name| !is_reported(name)).chain(doubted).cloned().collect();
        changes.keep_none();
        changes.unfollowed = true;
        changes.doubts.extend(names);
    }

    /// RELEASE.
    fn release(&mut self, name: &str) {
        if let Some(changes) = &mut self.changes {
            // One that is not known came before all that are.
            let at = changes.savepoints.iter().rposition(|(known, _)| **known == *name).unwrap_or(0);
            changes.keep_first(at);
        }
    }

    /// ROLLBACK TO.
    fn rollback_to(&mut self, name: &str) {
        let Some(changes) = &mut self.changes else { return };
        if changes.unfollowed {
            return;
        }
        let at = changes.savepoints.iter().rposition(|(known, _)| **known == *name);
        changes.keep_first(at.map_or(0, |at| at + 1));
        let point = match at {
            Some(at) => changes.savepoints.get(at).map(|(_, point)| point.clone()),
            None => changes.base.clone(),
        };
        if let Some(point) = point {
            self.restore(point);
        }
    }

    /// COMMIT.
    fn commit(&mut self) {
        if let Some(changes) = &mut self.changes {
            changes.committed |= changes.base.take().is_some();
            changes.keep_none();
            changes.loose.clear();
            changes.halfway = None;
            changes.ended = true;
        }
    }

    /// ROLLBACK, or an error outside of a block.
    fn rollback(&mut self) {
        let Some(changes) = &mut self.changes else { return };
        changes.keep_none();
        changes.loose.clear();
        changes.ended = true;
        let halfway = changes.halfway.take().map(|mut names| {
            names.append(&mut changes.doubts);
            names
        });
        let changed = if halfway.is_some() { self.changed() } else { Vec::new() };
        let Some(base) = self.changes().base.take() else { return };
        self.restore(base);
        self.changes().doubts.extend(halfway.into_iter().flatten().chain(changed));
    }

    /// ReadyForQuery. `idle`: outside of a block; `failed`: an error has come since the last. The server's books are brought up to date.
    /// What the client is told of settings that are reported before it hears that the server is ready.
    #[must_use]
    pub(super) fn settle(&mut self, idle: bool, failed: bool, server: &mut ServerSettings) -> Vec<Told> {
        let Some(changes) = &mut self.changes else { return Vec::new() };
        changes.unsettled = false;
        match (idle, failed) {
            (true, true) => self.rollback(),
            (true, false) => self.commit(),
            (false, _) => {}
        }
        let told = self.settle_reported(server);
        let Some(changes) = &mut self.changes else { return told };
        if idle || std::mem::take(&mut changes.ended) {
            // What the next transaction changes is held against what this one has left.
            changes.reported = changes.reported.take().filter(|_| !idle).map(|_| Arc::clone(&self.wanted));
        }
        if std::mem::take(&mut changes.committed) {
            // What the next transaction has done since is not for good.
            let (wanted, have) = match &changes.base {
                Some(base) => (&base.wanted, &base.have),
                None => (&self.wanted, &changes.have),
            };
            server.has(have.as_ref().unwrap_or(wanted));
        }
        if !idle {
            return told;
        }
        if self.wanted == self.startup {
            // Shared by many, so that servers are found to agree at once.
            self.wanted = Arc::clone(&self.startup);
        }
        changes.told = Vec::new();
        changes.ended = false;
        if !changes.doubts.is_empty() || self.lacks_anything() {
            return told;
        }
        self.changes = None;
        told
    }

    /// The server is given back, and the next one is brought to what is wanted.
    pub(super) fn leave(&mut self) {
        let Some(changes) = self.changes.take() else { return };
        for name in REPORTED.into_iter().filter(|name| changes.reset & bit(name) != 0) {
            self.reset(name);
        }
    }

    /// The server is gone, or what it did is undone by somebody else: the settings are those before the transaction.
    pub(super) fn abandon(&mut self) {
        let before = self.changes.as_mut().and_then(|changes| changes.reported.take());
        self.rollback();
        if let Some(before) = before {
            for name in REPORTED {
                put(&mut self.wanted, name, before.get(name).map(String::as_str));
            }
        }
        self.leave();
    }

    // What the server is to be asked or told.

    /// Names whose value only the server knows.
    fn doubts(&self) -> impl Iterator<Item = &String> {
        self.changes.iter().flat_map(|changes| &changes.doubts)
    }

    /// The server has told; `None`: it has no such setting.
    fn resolve(&mut self, name: &str, value: Option<&str>) {
        put(&mut self.wanted, name, value);
        let changes = self.changes();
        if let Some(have) = &mut changes.have {
            put(have, name, value);
        }
        changes.doubts.remove(name);
        changes.committed = true;
    }

    /// What RESET took from the linked server although startup gave it. What is in doubt has been set since.
    fn missing(&self) -> Values {
        let Some(changes) = &self.changes else { return Values::new() };
        let lacks = |name: &str, value: &String| {
            if is_reported(name) {
                return changes.reset & bit(name) != 0;
            }
            !name.starts_with(OWN_PREFIX)
                && !changes.doubts.contains(name)
                && changes.have.as_ref().is_some_and(|have| have.get(name) != Some(value))
        };
        let reported = self.startup.iter().filter(|(name, _)| is_reported(name));
        let others = self.wanted.iter().filter(|(name, _)| !is_reported(name));
        reported.chain(others).filter(|(n, v)| lacks(n, v)).map(|(n, v)| (n.clone(), v.clone())).collect()
    }

    /// Whether a RESET may take from the server what startup gave.
    pub(super) fn startup_gave(&self) -> bool {
        !self.startup.is_empty()
    }

    /// A statement that only resets is about to run, on a server that does not take what is wanted.
    pub(super) fn escape(&mut self, effect: &SessionEffect) {
        match effect {
            SessionEffect::Reset { name } => self.reset(name),
            SessionEffect::ResetAll => {
                let before = std::mem::replace(&mut self.wanted, Arc::clone(&self.startup));
                for name in IDENTITY {
                    put(&mut self.wanted, name, before.get(name).map(String::as_str));
                }
            }
            SessionEffect::DiscardAll => self.wanted = Arc::clone(&self.startup),
            _ => {}
        }
    }

    /// Whether there is anything of that kind.
    #[must_use]
    pub fn lacks_anything(&self) -> bool {
        let lacks = |changes: &Changes| changes.reset != 0 || (changes.have.is_some() && !self.missing().is_empty());
        self.changes.as_deref().is_some_and(lacks)
    }

    /// Whether the server is to be asked or told anything.
    fn has_hidden(&self) -> bool {
        self.lacks_anything() || self.has_doubts()
    }

    /// Whether the value of a setting is known only to the server.
    #[must_use]
    pub fn has_doubts(&self) -> bool {
        self.changes.as_ref().is_some_and(|changes| !changes.doubts.is_empty())
    }

    /// Whether no transaction has changed anything that is still to be settled.
    #[must_use]
    pub fn are_settled(&self) -> bool {
        self.changes.is_none()
    }

    /// Whether what is for good cannot be known without the server.
    #[must_use]
    pub fn needs_server(&self) -> bool {
        self.has_doubts() || self.changes.as_ref().is_some_and(|changes| changes.halfway.is_some())
    }

    /// Whether what is asked or told, and has failed, is sent once more. Late cancel requests may have hit it, and several may come for one
    /// statement: such a failure says nothing of the setting.
    fn sends_again(&mut self, cancelled: bool) -> bool {
        let Some(changes) = &mut self.changes else { return false };
        let (cancels, failed) = &mut changes.sent_again;
        if cancelled {
            *cancels = cancels.saturating_add(1);
            *cancels <= MAX_CANCELLED
        } else {
            !std::mem::replace(failed, true)
        }
    }

    /// Nothing more is asked or told.
    fn give_up(&mut self) {
        if let Some(changes) = &mut self.changes {
            changes.doubts.clear();
            changes.have = None;
            changes.reset = 0;
        }
    }

    /// Something has been set that decides shards.
    fn is_changed_for_shards(&mut self) {
        self.changes().unsettled = true;
    }

    /// These have been given back to the server.
    fn restored(&mut self, given: &Values) {
        if given.is_empty() {
            return;
        }
        self.begin();
        self.changes().sent_again = (0, false);
        for (name, value) in given {
            let changes = self.changes();
            changes.reset &= !bit(name);
            if let Some(have) = changes.have.as_mut().filter(|_| !is_reported(name)) {
                put(have, name, Some(value));
            }
        }
        let changes = self.changes.as_ref().filter(|changes| changes.doubts.is_empty());
        if changes.is_some() && self.missing().is_empty() {
            self.changes().have = None;
        }
    }

    /// Whether something has changed that decides shards, and may be taken back before the next ReadyForQuery.
    pub(super) fn is_unsettled(&self) -> bool {
        self.changes.as_ref().is_some_and(|changes| changes.unsettled)
    }

    /// Whether the value of something that decides shards is known only to the server.
    pub(super) fn doubts_shards(&self) -> bool {
        self.doubts().any(|name| decides(name))
    }

    /// Whether the transaction that is under way has changed any.
    pub(super) fn is_changed(&self) -> bool {
        self.changes.as_ref().is_some_and(|changes| changes.base.is_some() || changes.reported.is_some())
    }

    /// Whether the value of something by which texts are read is known only to the server.
    pub(super) fn doubts_reading(&self) -> bool {
        self.doubts().any(|name| decides(name) || is_read_by(name))
    }

    // Parts of the above.

    fn changes(&mut self) -> &mut Changes {
        self.changes.get_or_insert_default()
    }

    fn point(&self) -> Point {
        let changes = self.changes.as_deref();
        Point {
            wanted: Arc::clone(&self.wanted),
            have: changes.and_then(|changes| changes.have.clone()),
            reset: changes.map_or(0, |changes| changes.reset),
            doubts: changes.map(|changes| changes.doubts.clone()).unwrap_or_default(),
        }
    }

    /// The transaction changes something.
    fn begin(&mut self) {
        if self.changes().base.is_none() {
            let point = self.point();
            self.changes().base = Some(point);
        }
    }

    fn restore(&mut self, point: Point) {
        let now = std::mem::replace(&mut self.wanted, point.wanted);
        // The server reports these by itself, before or after. Ours are no part of transactions, but for the choice of the shard.
        for name in REPORTED {
            put(&mut self.wanted, name, now.get(name).map(String::as_str));
        }
        let stays = |name: &&String| name.starts_with(OWN_PREFIX) && !CHOICE.contains(&name.as_str());
        let own = |values: &Values| values.keys().filter(stays).cloned().collect::<Vec<_>>();
        for name in own(&now).into_iter().chain(own(&self.wanted)) {
            put(&mut self.wanted, &name, now.get(&name).map(String::as_str));
        }
        let changes = self.changes();
        changes.have = point.have;
        changes.reset = point.reset;
        changes.doubts = point.doubts;
    }
}

/// Gives a name a value, or none, without a copy where nothing changes.
fn put(values: &mut Arc<Values>, name: &str, value: Option<&str>) {
    if values.get(name).map(String::as_str) == value {
        return;
    }
    let values = Arc::make_mut(values);
    match value {
        Some(value) => values.insert(name.to_owned(), value.to_owned()),
        None => values.remove(name),
    };
}

/// The names of which two states say different things.
fn differing<'a>(a: &'a Values, b: &'a Values) -> impl Iterator<Item = &'a String> {
    let changed = a.iter().filter(|(name, value)| b.get(*name) != Some(value));
    let new = b.keys().filter(|name| !a.contains_key(*name));
    changed.map(|(name, _)| name).chain(new)
}

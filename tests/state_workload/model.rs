//! What a session of PostgreSQL would be in, by the statements that it was given: the model that each client is held to.
//!
//! Settings, temporary tables, LISTEN, NOTIFY and locks of the transaction follow transactions and savepoints; prepared statements, session
//! locks and how far a cursor has come do not.

use std::collections::{BTreeMap, BTreeSet};

use crate::ops::{Key, Local, Lock, Mode, OnCommit, Op};

/// What a statement is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Rows, their columns joined by `|`, and the tag.
    Done(Vec<String>, String),
    /// An error with this SQLSTATE.
    Error(String),
}

/// What is known beforehand of an answer.
#[derive(Debug)]
pub(crate) enum Expected {
    /// Exactly this.
    Exactly(Outcome),
    /// A message of the protocol that has no answer to compare.
    Nothing,
    /// One row, `t` or `f`: others have a say in it.
    Either,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    session: String,
    local: Option<String>,
}

impl Setting {
    fn now(&self) -> &str {
        self.local.as_deref().unwrap_or(&self.session)
    }
}

#[derive(Debug, Clone)]
struct Temp {
    owner: String,
    rows: Vec<u64>,
    on_commit: OnCommit,
}

/// What ROLLBACK and ROLLBACK TO return to.
#[derive(Debug, Clone, Default)]
struct Transactional {
    settings: BTreeMap<String, Setting>,
    temp: BTreeMap<String, Temp>,
    channels: BTreeSet<String>,
    notes: Vec<(String, String)>,
    locks: BTreeSet<(Key, Mode)>,
}

#[derive(Debug)]
struct Cursor {
    position: u64,
    /// The savepoint that it was made behind (0: none); nothing once that is committed.
    born: Option<usize>,
}

/// Rows of a cursor.
const CURSOR_ROWS: u64 = 4;

#[derive(Debug)]
pub(crate) struct Model {
    now: Transactional,
    /// As it was at BEGIN, or before a text or pipeline that is one transaction.
    base: Option<Transactional>,
    in_block: bool,
    failed: bool,
    savepoints: Vec<(String, Transactional)>,
    startup: BTreeMap<String, String>,
    prepared: BTreeMap<String, String>,
    cursors: BTreeMap<String, Cursor>,
    locks: BTreeMap<(Key, Mode), u32>,
    listening: BTreeSet<String>,
    /// Committed by what was applied last.
    sent: Vec<(String, String)>,
}

impl Model {
    /// A session that began with these settings.
    pub(crate) fn new(startup: BTreeMap<String, String>) -> Self {
        let settings =
            startup.iter().map(|(name, value)| (name.clone(), Setting { session: value.clone(), local: None }));
        Self {
            now: Transactional { settings: settings.collect(), ..Transactional::default() },
            base: None,
            in_block: false,
            failed: false,
            savepoints: Vec::new(),
            startup,
            prepared: BTreeMap::new(),
            cursors: BTreeMap::new(),
            locks: BTreeMap::new(),
            listening: BTreeSet::new(),
            sent: Vec::new(),
        }
    }

    /// As ReadyForQuery says it.
    pub(crate) fn status(&self) -> u8 {
        match (self.in_block, self.failed) {
            (false, _) => b'I',
            (true, false) => b'T',
            (true, true) => b'E',
        }
    }

    pub(crate) fn savepoints(&self) -> usize {
        self.savepoints.len()
    }

    /// What is in force of a setting.
    pub(crate) fn setting(&self, name: &str) -> &str {
        self.now.settings.get(name).map_or("", Setting::now)
    }

    /// What the server tells of a setting: a failure has undone what its transaction or savepoint did already.
    pub(crate) fn reported(&self, name: &str) -> &str {
        let before = self.savepoints.last().map(|(_, before)| before).or(self.base.as_ref());
        let told = if self.failed { before.unwrap_or(&self.now) } else { &self.now };
        told.settings.get(name).map_or("", Setting::now)
    }

    /// Channels that are listened to, as of the last commit.
    pub(crate) fn listening(&self) -> &BTreeSet<String> {
        &self.listening
    }

    /// Session locks.
    pub(crate) fn session_locks(&self) -> BTreeSet<(Key, Mode)> {
        self.locks.keys().copied().collect()
    }

    /// Whether there is anything that keeps a server.
    pub(crate) fn pins(&self) -> bool {
        !(self.now.temp.is_empty() && self.cursors.is_empty() && self.locks.is_empty())
            || self.base.as_ref().is_some_and(|base| !base.temp.is_empty())
    }

    /// What was notified by what was applied last, if it commits.
    pub(crate) fn take_sent(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.sent)
    }

    /// A lock that was given to a `try_`.
    pub(crate) fn took(&mut self, lock: &Lock) {
        *self.locks.entry((lock.key, lock.mode)).or_default() += 1;
    }

    /// Ops that are sent together, outside of a block one transaction; what follows an error is passed over.
    pub(crate) fn apply_all(&mut self, ops: &[Op]) -> Vec<Expected> {
        let mut all = Vec::new();
        self.sent.clear();
        if !self.in_block {
            self.base = Some(self.now.clone());
        }
        for op in ops {
            let expected = self.apply(op);
            let fails = matches!(expected, Expected::Exactly(Outcome::Error(_)));
            all.push(expected);
            if fails {
                self.fail();
                return all;
            }
        }
        if !self.in_block && self.base.is_some() {
            self.commit();
        }
        all
    }

    fn fail(&mut self) {
        if self.in_block {
            self.failed = true;
        } else {
            self.rollback();
        }
    }

    fn commit(&mut self) {
        for setting in self.now.settings.values_mut() {
            setting.local = None;
        }
        self.now.temp.retain(|_, temp| temp.on_commit != OnCommit::Drop);
        for temp in self.now.temp.values_mut().filter(|temp| temp.on_commit == OnCommit::DeleteRows) {
            temp.rows.clear();
        }
        self.now.locks.clear();
        for cursor in self.cursors.values_mut() {
            cursor.born = None;
        }
        self.listening.clone_from(&self.now.channels);
        self.sent = std::mem::take(&mut self.now.notes);
        self.end();
    }

    fn rollback(&mut self) {
        if let Some(base) = self.base.take() {
            self.now = base;
        }
        self.cursors.retain(|_, cursor| cursor.born.is_none());
        self.end();
    }

    fn end(&mut self) {
        self.base = None;
        self.in_block = false;
        self.failed = false;
        self.savepoints.clear();
    }

    fn apply(&mut self, op: &Op) -> Expected {
        let done = |tag: &str| Expected::Exactly(Outcome::Done(Vec::new(), tag.to_owned()));
        let error = |code: &str| Expected::Exactly(Outcome::Error(code.to_owned()));
        let row = |row: String| Expected::Exactly(Outcome::Done(vec![row], "SELECT 1".to_owned()));
        let passes = matches!(op, Op::Commit | Op::Rollback | Op::RollbackTo(_) | Op::CloseStatement(_));
        if self.failed && !passes {
            // Bind looks for its statement first.
            let unknown = matches!(op, Op::BindExecute(name) if !self.prepared.contains_key(name));
            return error(if unknown { "26000" } else { "25P02" });
        }
        match op {
            Op::Begin => {
                self.in_block = true;
                done("BEGIN")
            }
            Op::Commit if self.failed => {
                self.rollback();
                done("ROLLBACK")
            }
            Op::Commit => {
                self.commit();
                done("COMMIT")
            }
            Op::Rollback => {
                self.rollback();
                done("ROLLBACK")
            }
            Op::Savepoint(name) => {
                self.savepoints.push((name.clone(), self.now.clone()));
                done("SAVEPOINT")
            }
            Op::RollbackTo(name) => match self.savepoints.iter().rposition(|(of, _)| of == name) {
                Some(at) => {
                    self.savepoints.truncate(at + 1);
                    self.now = self.savepoints[at].1.clone();
                    self.cursors.retain(|_, cursor| cursor.born.is_none_or(|born| born <= at));
                    self.failed = false;
                    done("ROLLBACK")
                }
                None => error("3B001"),
            },
            Op::Release(name) => match self.savepoints.iter().rposition(|(of, _)| of == name) {
                Some(at) => {
                    self.savepoints.truncate(at);
                    for born in self.cursors.values_mut().filter_map(|cursor| cursor.born.as_mut()) {
                        *born = (*born).min(at);
                    }
                    done("RELEASE")
                }
                None => error("3B001"),
            },
            Op::Fail => error("22012"),
            Op::Set(set) => {
                if set.fails {
                    return error("22023");
                }
                self.set(&set.name, &set.value, set.local);
                if set.is_select() { row(set.value.clone()) } else { done("SET") }
            }
            Op::Reset(name) => {
                let value = self.startup.get(name).cloned().unwrap_or_default();
                self.set(name, &value, Local::No);
                done("RESET")
            }
            Op::ResetAll => {
                self.reset_all();
                done("RESET")
            }
            Op::DiscardAll if self.in_block => error("25001"),
            Op::DiscardAll => {
                self.reset_all();
                self.set("role", "none", Local::No);
                self.prepared.clear();
                self.now.channels.clear();
                self.now.temp.clear();
                self.cursors.clear();
                self.locks.clear();
                done("DISCARD ALL")
            }
            Op::Show(names) => {
                row(names.iter().map(|name| self.setting(name).to_owned()).collect::<Vec<_>>().join("|"))
            }
            Op::Documents => {
                let tenant = self.setting("app.tenant").to_owned();
                let rows: Vec<String> =
                    if tenant.is_empty() { Vec::new() } else { (1..=2).map(|n| format!("{tenant}|{n}")).collect() };
                let tag = format!("SELECT {}", rows.len());
                Expected::Exactly(Outcome::Done(rows, tag))
            }
            Op::Prepare(name, marker) => match self.prepare(name, marker) {
                true => done("PREPARE"),
                false => error("42P05"),
            },
            Op::Parse(name, marker) => match self.prepare(name, marker) {
                true => Expected::Nothing,
                false => error("42P05"),
            },
            Op::Execute(name) | Op::BindExecute(name) => match self.prepared.get(name) {
                Some(marker) => row(marker.clone()),
                None => error("26000"),
            },
            Op::Deallocate(name) => match self.prepared.remove(name) {
                Some(_) => done("DEALLOCATE"),
                None => error("26000"),
            },
            Op::DeallocateAll => {
                self.prepared.clear();
                done("DEALLOCATE ALL")
            }
            Op::CloseStatement(name) => {
                self.prepared.remove(name);
                Expected::Nothing
            }
            Op::CreateTemp(name, on_commit) => {
                if self.now.temp.contains_key(name) {
                    return error("42P07");
                }
                let owner = self.setting("role").to_owned();
                self.now.temp.insert(name.clone(), Temp { owner, rows: Vec::new(), on_commit: *on_commit });
                done("CREATE TABLE")
            }
            Op::Insert(name, value) => match self.temp(name) {
                Ok(temp) => {
                    temp.rows.push(*value);
                    done("INSERT 0 1")
                }
                Err(code) => error(code),
            },
            Op::SelectTemp(name) => match self.temp(name) {
                Ok(temp) => {
                    let mut values = temp.rows.clone();
                    values.sort_unstable();
                    let rows: Vec<String> = values.iter().map(ToString::to_string).collect();
                    let tag = format!("SELECT {}", rows.len());
                    Expected::Exactly(Outcome::Done(rows, tag))
                }
                Err(code) => error(code),
            },
            Op::DropTemp(name) => match self.temp(name) {
                Ok(_) => {
                    self.now.temp.remove(name);
                    done("DROP TABLE")
                }
                Err(code) => error(code),
            },
            Op::Declare(name) => {
                if self.cursors.contains_key(name) {
                    return error("42P03");
                }
                let born = Some(self.savepoints.len());
                self.cursors.insert(name.clone(), Cursor { position: 0, born });
                done("DECLARE CURSOR")
            }
            Op::Fetch(name) => match self.cursors.get_mut(name) {
                Some(cursor) if cursor.position >= CURSOR_ROWS => done("FETCH 0"),
                Some(cursor) => {
                    cursor.position += 1;
                    Expected::Exactly(Outcome::Done(vec![cursor.position.to_string()], "FETCH 1".to_owned()))
                }
                None => error("34000"),
            },
            Op::Close(name) => match self.cursors.remove(name) {
                Some(_) => done("CLOSE CURSOR"),
                None => error("34000"),
            },
            Op::Lock(lock) => self.lock(lock),
            Op::Unlock(lock) => {
                let held = self.locks.get_mut(&(lock.key, lock.mode)).map(|count| {
                    *count -= 1;
                    *count
                });
                if held == Some(0) {
                    self.locks.remove(&(lock.key, lock.mode));
                }
                row(if held.is_some() { "t" } else { "f" }.to_owned())
            }
            Op::UnlockAll => {
                self.locks.clear();
                row(String::new())
            }
            Op::Locks => {
                let all: BTreeSet<(Key, Mode)> = self.session_locks().union(&self.now.locks).copied().collect();
                let mut rows: Vec<String> = all.iter().map(|(key, mode)| key.in_pg_locks(*mode)).collect();
                rows.sort();
                let tag = format!("SELECT {}", rows.len());
                Expected::Exactly(Outcome::Done(rows, tag))
            }
            Op::Listen(channel) => {
                self.now.channels.insert(channel.clone());
                done("LISTEN")
            }
            Op::Unlisten(channel) => {
                self.now.channels.remove(channel);
                done("UNLISTEN")
            }
            Op::UnlistenAll => {
                self.now.channels.clear();
                done("UNLISTEN")
            }
            Op::Notify { channel, payload, by_function } => {
                self.now.notes.push((channel.clone(), payload.clone()));
                if *by_function { row(String::new()) } else { done("NOTIFY") }
            }
        }
    }

    fn prepare(&mut self, name: &str, marker: &str) -> bool {
        if self.prepared.contains_key(name) {
            return false;
        }
        self.prepared.insert(name.to_owned(), marker.to_owned());
        true
    }

    fn set(&mut self, name: &str, value: &str, local: Local) {
        let setting =
            self.now.settings.entry(name.to_owned()).or_insert_with(|| Setting { session: String::new(), local: None });
        match local {
            Local::No => *setting = Setting { session: value.to_owned(), local: None },
            Local::Yes => setting.local = Some(value.to_owned()),
        }
    }

    /// The role is not among those.
    fn reset_all(&mut self) {
        let names: Vec<String> = self.now.settings.keys().filter(|name| *name != "role").cloned().collect();
        for name in names {
            let value = self.startup.get(&name).cloned().unwrap_or_default();
            self.set(&name, &value, Local::No);
        }
    }

    /// A temporary table that may be used; the user who logged in is a member of all roles.
    fn temp(&mut self, name: &str) -> Result<&mut Temp, &'static str> {
        let role = self.setting("role").to_owned();
        match self.now.temp.get_mut(name) {
            None => Err("42P01"),
            Some(temp) if role == "none" || temp.owner == role => Ok(temp),
            Some(_) => Err("42501"),
        }
    }

    fn lock(&mut self, lock: &Lock) -> Expected {
        let is_new = !self.locks.contains_key(&(lock.key, lock.mode));
        if lock.key.is_shared() && is_new {
            return Expected::Either;
        }
        if lock.of_transaction {
            self.now.locks.insert((lock.key, lock.mode));
        } else {
            *self.locks.entry((lock.key, lock.mode)).or_default() += 1;
        }
        let row = if lock.tries { "t" } else { "" };
        Expected::Exactly(Outcome::Done(vec![row.to_owned()], "SELECT 1".to_owned()))
    }
}

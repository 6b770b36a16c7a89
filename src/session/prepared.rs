//! Prepared statements that follow the client from server to server.
//!
//! A client's name stands for a [`Statement`]; equal text, parameter types and reading of these ([`crate::session::reading`]) are one
//! statement whichever client prepared it, and it goes by one name on every server. A server holds a bounded number of them, the ones used
//! last.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use lru::LruCache;
use parking_lot::Mutex;

use crate::id::StatementId;
use crate::session::reading::{Literals, Names, Reader};
use crate::sql::facts::QueryFacts;
use crate::wire::message::Parse;

/// The prefix of the names on servers; a client's own name is never sent there.
pub const SERVER_NAME_PREFIX: &str = "pgweir_";

/// Types from this number on are not PostgreSQL's own.
/// See <https://www.postgresql.org/docs/current/system-catalog-initial-data.html#SYSTEM-CATALOG-OID-ASSIGNMENT>.
const FIRST_OWN: u32 = 16384;

/// A prepared statement: its text, its parameter types and what the text says.
#[derive(Debug)]
pub struct Statement {
    /// Its number, unique in the process.
    pub id: StatementId,
    /// The text.
    pub sql: Arc<[u8]>,
    /// Parameter types as they stand in Parse, count included.
    pub types: Arc<[u8]>,
    /// What the text says.
    pub facts: Arc<QueryFacts>,
    /// Its name on servers: whoever has it and reads it alike may use it there. Empty: it is one client's, and goes by none.
    name: Box<str>,
    foreign_types: bool,
    /// What its reading hangs on, and how it is read.
    literals: Literals,
    reading: Box<[u8]>,
    /// How often the catalog had changed when it was parsed, where the types of its parameters hang on that.
    epoch: u32,
    /// The client's alone who prepared it, wherever its name leads: see [`Names::Own`].
    own: bool,
    /// The one that it stands in for, as long as nobody else can know how it is read.
    of: Option<Arc<Self>>,
    /// A server has refused it because a table has changed since it was prepared.
    outdated: AtomicBool,
    /// Whose servers have parsed it last: a number of [`crate::session::Session::serves`].
    accepted_by: AtomicU64,
}

impl Statement {
    /// A server of `pools` has parsed it.
    pub fn accept(&self, pools: u64) {
        self.accepted_by.store(pools, Ordering::Relaxed);
    }

    /// Whether a server of `pools` is known to have parsed it. It may not be known although it has.
    #[must_use]
    pub fn is_accepted_by(&self, pools: u64) -> bool {
        pools != 0 && self.accepted_by.load(Ordering::Relaxed) == pools
    }

    /// From now on whoever uses it gets a new one in its place, which no server has yet.
    pub fn set_outdated(&self) {
        self.outdated.store(true, Ordering::Relaxed);
    }

    /// Whether [`Statement::set_outdated`] was called.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        self.outdated.load(Ordering::Relaxed)
    }

    /// Whether a parameter is declared to be of a type that is not PostgreSQL's own.
    #[must_use]
    pub fn has_foreign_types(&self) -> bool {
        self.foreign_types
    }

    /// Whether it goes by a name on servers, as one that was made by [`Registry::intern`] does.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        !self.name.is_empty()
    }

    /// The same statement, to be bound once with a meaning of its own.
    #[must_use]
    pub fn meaning(&self, facts: Arc<QueryFacts>) -> Arc<Self> {
        Arc::new(Self {
            id: self.id,
            sql: self.sql.clone(),
            types: self.types.clone(),
            facts,
            name: self.name.clone(),
            foreign_types: self.foreign_types,
            literals: self.literals,
            reading: self.reading.clone(),
            epoch: self.epoch,
            own: self.own,
            of: self.of.clone(),
            outdated: AtomicBool::new(self.is_outdated()),
            accepted_by: AtomicU64::new(self.accepted_by.load(Ordering::Relaxed)),
        })
    }

    /// One that SQL's PREPARE has made on the one server that has it. Of its text only the facts are known, and it goes by no name of ours.
    #[must_use]
    pub fn of_sql(facts: Arc<QueryFacts>) -> Arc<Self> {
        Arc::new(Self {
            id: next_id(),
            sql: Arc::default(),
            types: Arc::from(&[0, 0][..]),
            facts,
            name: Box::default(),
            foreign_types: false,
            literals: Literals::None,
            reading: Box::default(),
            epoch: 0,
            own: true,
            of: None,
            outdated: AtomicBool::new(false),
            accepted_by: AtomicU64::new(0),
        })
    }

    /// Whether it is one of those.
    #[must_use]
    pub fn is_of_sql(&self) -> bool {
        self.sql.is_empty() && !self.facts.statements.is_empty()
    }

    /// The same text for one client alone.
    #[must_use]
    pub fn apart(&self) -> Arc<Self> {
        Arc::new(self.made_apart(None))
    }

    /// The same for a time, until [`Registry::current`] finds that others can know again how it is read.
    #[must_use]
    pub fn stand_in(statement: &Arc<Self>) -> Arc<Self> {
        Arc::new(statement.made_apart(Some(Arc::clone(statement))))
    }

    fn made_apart(&self, of: Option<Arc<Self>>) -> Self {
        let id = next_id();
        Self {
            id,
            sql: Arc::clone(&self.sql),
            types: Arc::clone(&self.types),
            facts: Arc::clone(&self.facts),
            name: name_of(id),
            foreign_types: self.foreign_types,
            literals: self.literals,
            reading: self.reading.clone(),
            epoch: self.epoch,
            own: true,
            of,
            outdated: AtomicBool::new(false),
            accepted_by: AtomicU64::new(0),
        }
    }

    /// Whether its parameters have types of a later catalog than the other's.
    #[must_use]
    pub fn is_of_later_types(&self, other: &Self) -> bool {
        self.epoch > other.epoch
    }

    /// Whether it is one client's alone.
    #[must_use]
    pub fn is_apart(&self) -> bool {
        self.own
    }

    /// Its name on servers; empty if it has none.
    #[must_use]
    pub fn server_name(&self) -> &str {
        &self.name
    }

    /// Whether PostgreSQL finds out the type of a parameter by itself. A text with a `$` and no declared types may have one.
    #[must_use]
    pub fn infers_types(&self) -> bool {
        infers_types(&Parse { name: b"", sql: &self.sql, types: &self.types })
    }

    /// The declared parameter types.
    #[must_use]
    pub fn oids(&self) -> Vec<u32> {
        Parse { name: b"", sql: b"", types: &self.types }.oids()
    }
}

/// A number that no statement of the process has had.
fn next_id() -> StatementId {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    StatementId(NEXT.fetch_add(1, Ordering::Relaxed))
}

fn name_of(id: StatementId) -> Box<str> {
    format!("{SERVER_NAME_PREFIX}{id}").into()
}

/// Whether there is a parameter without a type. A `$` in a literal is taken for one.
fn infers_types(parse: &Parse<'_>) -> bool {
    let declared = parse.oids();
    let number = |from: usize| {
        let digits = parse.sql.get(from..).unwrap_or_default().iter().take_while(|byte| byte.is_ascii_digit());
        digits.fold(0_usize, |number, digit| number.saturating_mul(10).saturating_add(usize::from(digit - b'0')))
    };
    declared.contains(&0) || memchr::memchr_iter(b'$', parse.sql).any(|at| number(at + 1) > declared.len())
}

/// Text, types, and how the text is read.
type Key = (Box<[u8]>, Box<[u8]>, Box<[u8]>);

/// How a text is read that gets a name on servers.
#[derive(Debug, Default)]
struct Read {
    literals: Literals,
    reading: Box<[u8]>,
    epoch: u32,
    own: bool,
}

/// All statements that some client or server holds, by text, types and reading.
#[derive(Debug, Default)]
pub struct Registry {
    known: Mutex<HashMap<Key, Weak<Statement>>>,
}

impl Registry {
    /// The one statement of this text and these types, for those who read it as this client does.
    #[must_use]
    pub fn intern(
        &self,
        parse: &Parse<'_>,
        reader: &Reader<'_>,
        facts: impl FnOnce() -> Arc<QueryFacts>,
    ) -> Arc<Statement> {
        let epoch = if infers_types(parse) { reader.epoch } else { 0 };
        let literals = Literals::of(parse.sql);
        let own = reader.names == Names::Own || reader.changed || literals == Literals::OfTheMoment;
        let read = Read { literals, reading: reader.reading(literals, epoch), epoch, own };
        self.intern_read(parse, read, facts)
    }

    fn intern_read(&self, parse: &Parse<'_>, read: Read, facts: impl FnOnce() -> Arc<QueryFacts>) -> Arc<Statement> {
        if read.own {
            return self.make(parse, facts(), Some(read));
        }
        let key: Key = (parse.sql.into(), parse.types.into(), read.reading.clone());
        let live = |s: &Weak<Statement>| s.upgrade().filter(|s| !s.is_outdated());
        if let Some(statement) = self.known.lock().get(&key).and_then(live) {
            return statement;
        }
        let facts = facts();
        let mut known = self.known.lock();
        if let Some(statement) = known.get(&key).and_then(live) {
            return statement;
        }
        // Every doubling sweeps out what nobody holds any more, so the map stays within twice what is in use.
        if known.len() == known.capacity() {
            known.retain(|_, s| s.strong_count() > 0);
        }
        let statement = self.make(parse, facts, Some(read));
        known.insert(key, Arc::downgrade(&statement));
        statement
    }

    /// The same statement once more, as one that no server has yet and that is nobody else's.
    #[must_use]
    pub fn again(&self, known: &Statement) -> Arc<Statement> {
        let Read { literals, reading, epoch, own } = Read::default();
        Arc::new(Statement {
            id: next_id(),
            sql: Arc::clone(&known.sql),
            types: Arc::clone(&known.types),
            facts: Arc::clone(&known.facts),
            name: Box::default(),
            foreign_types: known.foreign_types,
            literals,
            reading,
            epoch,
            own,
            of: None,
            outdated: AtomicBool::new(false),
            accepted_by: AtomicU64::new(0),
        })
    }

    /// A statement that is nobody else's.
    #[must_use]
    pub fn unnamed(&self, parse: &Parse<'_>, facts: Arc<QueryFacts>) -> Arc<Statement> {
        self.make(parse, facts, None)
    }

    fn make(&self, parse: &Parse<'_>, facts: Arc<QueryFacts>, named: Option<Read>) -> Arc<Statement> {
        let (id, shared) = (next_id(), named.is_some());
        let read = named.unwrap_or_default();
        Arc::new(Statement {
            id,
            sql: parse.sql.into(),
            types: parse.types.into(),
            facts,
            name: if shared { name_of(id) } else { Box::default() },
            foreign_types: parse.oids().iter().any(|oid| *oid >= FIRST_OWN),
            literals: read.literals,
            reading: read.reading,
            epoch: read.epoch,
            own: read.own,
            of: None,
            outdated: AtomicBool::new(false),
            accepted_by: AtomicU64::new(0),
        })
    }

    /// The statement to use for this one by a client who reads so: itself, or its successor, which it has after
    /// [`Statement::set_outdated`] and for whoever reads its text otherwise by now. The types of its parameters stay those of when it was
    /// prepared, as far as servers still have it so.
    #[must_use]
    pub fn current(&self, statement: &Arc<Statement>, reader: &Reader<'_>) -> Arc<Statement> {
        self.read_by(statement, reader, statement.epoch)
    }

    /// The same, with the types that a Parse of now would find.
    #[must_use]
    pub fn renewed(&self, statement: &Arc<Statement>, reader: &Reader<'_>) -> Arc<Statement> {
        self.read_by(statement, reader, if statement.infers_types() { reader.epoch } else { 0 })
    }

    fn read_by(&self, statement: &Arc<Statement>, reader: &Reader<'_>, epoch: u32) -> Arc<Statement> {
        let alone = reader.names == Names::Own || reader.changed;
        let statement = statement.of.as_ref().filter(|_| !alone).unwrap_or(statement);
        // It stays what it is: what a server has is right, and what it has not is sent as the client's alone.
        if statement.own || alone {
            return match &statement.of {
                _ if !statement.is_outdated() => Arc::clone(statement),
                None if statement.own => statement.apart(),
                of => Statement::stand_in(of.as_ref().unwrap_or(statement)),
            };
        }
        let reading = reader.reading(statement.literals, epoch);
        if reading == statement.reading && !statement.is_outdated() {
            return Arc::clone(statement);
        }
        let parse = Parse { name: b"", sql: &statement.sql, types: &statement.types };
        let read = Read { literals: statement.literals, reading, epoch, own: false };
        self.intern_read(&parse, read, || Arc::clone(&statement.facts))
    }

    /// The statements in use, and how many clients, servers and requests under way hold each.
    #[must_use]
    pub fn all(&self) -> Vec<(Arc<Statement>, usize)> {
        let known = self.known.lock();
        let live = known.values().filter_map(Weak::upgrade);
        let mut all: Vec<_> = live.map(|s| (Arc::strong_count(&s).saturating_sub(1), s)).map(|(n, s)| (s, n)).collect();
        drop(known);
        all.sort_by_key(|(statement, _)| statement.id);
        all
    }

    /// Statements in use, and about how many bytes they and their texts take; a text is here once more as the key to it.
    #[must_use]
    pub fn memory(&self) -> (usize, usize) {
        let known = self.known.lock();
        let in_use = known.values().filter(|s| s.strong_count() > 0).count();
        let texts: usize =
            known.keys().map(|(sql, types, reading)| 2 * (sql.len() + types.len() + reading.len())).sum();
        let fixed = known.capacity() * size_of::<(Key, Weak<Statement>)>() + in_use * size_of::<Statement>();
        (in_use, texts + fixed)
    }

    /// Statements in use.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.lock().values().filter(|s| s.strong_count() > 0).count()
    }

    /// Whether none is in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The statements prepared on one server connection.
#[derive(Debug)]
pub struct ServerStatements {
    held: LruCache<StatementId, Arc<Statement>>,
    max: usize,
    /// Those that may be there or not, whatever `held` says, until an answer tells.
    doubted: HashMap<StatementId, Weak<Statement>>,
}

impl ServerStatements {
    /// Room for `max` statements (at least one).
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { held: LruCache::unbounded(), max: max.max(1), doubted: HashMap::new() }
    }

    /// Whether the server has it; it then counts as used just now.
    pub fn touch(&mut self, id: StatementId) -> bool {
        self.held.get(&id).is_some() && !self.is_doubted(id)
    }

    /// Adds one; returns the one that must go for it.
    pub fn insert(&mut self, statement: Arc<Statement>) -> Option<Arc<Statement>> {
        self.held.put(statement.id, statement);
        if self.held.len() <= self.max {
            return None;
        }
        // First of those that nobody can use any more.
        let dead = |(id, s): (&StatementId, &Arc<Statement>)| (s.own && Arc::strong_count(s) == 1).then_some(*id);
        let dead = self.held.iter().rev().find_map(dead);
        dead.and_then(|id| self.held.pop(&id)).or_else(|| self.held.pop_lru().map(|(_, s)| s))
    }

    /// Puts back one whose closing failed; the bound may be exceeded by it until the next insert.
    pub fn restore(&mut self, statement: Arc<Statement>) {
        self.held.put(statement.id, statement);
    }

    /// The server has said that it has it.
    pub fn confirm(&mut self, statement: Arc<Statement>) {
        self.doubted.remove(&statement.id);
        self.restore(statement);
    }

    /// Whether it is listed, be it doubted or not.
    #[must_use]
    pub fn lists(&self, id: StatementId) -> bool {
        self.held.contains(&id)
    }

    /// Nobody knows whether the server has it.
    pub fn doubt(&mut self, statement: &Arc<Statement>) {
        // One that nobody holds any more comes never again: every doubling sweeps those out.
        if self.doubted.len() == self.doubted.capacity() {
            self.doubted.retain(|_, statement| statement.strong_count() > 0);
        }
        self.doubted.insert(statement.id, Arc::downgrade(statement));
    }

    /// Whether nobody knows.
    #[must_use]
    pub fn is_doubted(&self, id: StatementId) -> bool {
        self.doubted.contains_key(&id)
    }

    /// Forgets one.
    pub fn remove(&mut self, id: StatementId) {
        self.held.pop(&id);
    }

    /// Forgets the one that goes by this name on servers.
    pub fn remove_named(&mut self, server_name: &str) {
        if let Some(number) = server_name.strip_prefix(SERVER_NAME_PREFIX).and_then(|n| n.parse().ok()) {
            self.remove(StatementId(number));
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.held.clear();
        self.doubted.clear();
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::settings::ClientSettings;

    fn parse<'a>(sql: &'a [u8], types: &'a [u8]) -> Parse<'a> {
        Parse { name: b"x", sql, types }
    }

    #[test]
    fn equal_statements_are_one_and_forgotten_ones_are_swept() {
        let (registry, plain) = (Registry::default(), ClientSettings::default());
        let plain = Reader::usual(&plain);
        let a = registry.intern(&parse(b"SELECT 1", b"\0\0"), &plain, Arc::default);
        let b = registry.intern(&parse(b"SELECT 1", b"\0\0"), &plain, Arc::default);
        let c = registry.intern(&parse(b"SELECT 1", b"\0\x01\0\0\0\x17"), &plain, Arc::default);
        assert_eq!(a.id, b.id);
        assert_ne!(a.id, c.id);
        drop((a, b, c));
        assert!(registry.is_empty());
        for i in 0..10_000 {
            drop(registry.intern(&parse(format!("SELECT {i}").as_bytes(), b"\0\0"), &plain, Arc::default));
        }
        assert!(registry.known.lock().len() < 1_000, "dead entries are swept");
    }

    #[test]
    fn outdated_statement_has_one_successor() {
        let (registry, plain) = (Registry::default(), ClientSettings::default());
        let plain = Reader::usual(&plain);
        let old = registry.intern(&parse(b"SELECT 1", b"\0\0"), &plain, Arc::default);
        assert_eq!(registry.current(&old, &plain).id, old.id);
        old.set_outdated();
        let new = registry.intern(&parse(b"SELECT 1", b"\0\0"), &plain, Arc::default);
        assert_ne!(new.id, old.id);
        assert_eq!(registry.current(&old, &plain).id, new.id);
    }

    #[test]
    fn doubts_go_with_their_statements() {
        let (registry, plain) = (Registry::default(), ClientSettings::default());
        let make = |n: u32| {
            registry.intern(&parse(format!("SELECT {n}").as_bytes(), b"\0\0"), &Reader::usual(&plain), Arc::default)
        };
        let (mut held, kept) = (ServerStatements::new(2), make(0));
        held.doubt(&kept);
        (1..10_000).for_each(|n| held.doubt(&make(n)));
        assert!(held.doubted.len() < 1_000, "what nobody can ask for is forgotten");
        assert!(held.is_doubted(kept.id));
        held.confirm(Arc::clone(&kept));
        assert!(!held.is_doubted(kept.id));
    }

    #[test]
    fn a_server_holds_the_ones_used_last() {
        let (registry, plain) = (Registry::default(), ClientSettings::default());
        let plain = Reader::usual(&plain);
        let make = |sql: &str| registry.intern(&parse(sql.as_bytes(), b"\0\0"), &plain, Arc::default);
        let (a, b, c) = (make("a"), make("b"), make("c"));
        let mut held = ServerStatements::new(2);
        assert!(held.insert(a.clone()).is_none());
        assert!(held.insert(b.clone()).is_none());
        assert!(held.touch(a.id));
        assert_eq!(held.insert(c.clone()).unwrap().id, b.id);
        assert!(held.touch(a.id) && held.touch(c.id) && !held.touch(b.id));
    }
}

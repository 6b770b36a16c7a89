//! What reading a relation amounts to, where the grammar cannot tell: a view or a policy may call a function that writes or takes a
//! lock, a sequence stands elsewhere on a standby (it is replicated up to 32 values ahead), an unlogged table is not there, and a foreign
//! one may be another (a file of the server's own, what only the primary is let in to).
//!
//! This only decides between primary and replica: what is not known is taken for a table. Answers are kept for a minute per user
//! and `search_path`, and forgotten when DDL passes. Pure.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::catalog::{Name, is_unexplained};
use super::facts::{Access, QueryFacts, StatementFacts, TableRef};
use super::functions;

/// How long an answer counts.
pub const KEPT: Duration = Duration::from_secs(60);
/// How long it counts that nothing was found out.
const KEPT_UNKNOWN: Duration = Duration::from_secs(5);
/// How many names are asked at once.
const MAX_ASKED: usize = 200;
/// More names than this are a client that makes them up: all are forgotten.
const MAX_NAMES: usize = 20_000;

/// So many texts that turned out to write are remembered.
const MAX_REFUSED: usize = 1000;

/// Something that a relation is or that reading it calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// A relation that it is or reads.
    Relation {
        /// Its schema.
        schema: &'a str,
        /// Its name.
        name: &'a str,
        /// `pg_class.relkind` and `pg_class.relpersistence`.
        kind: &'a str,
    },
    /// A function that it calls.
    Function {
        /// Its schema.
        schema: &'a str,
        /// Its name.
        name: &'a str,
        /// Whether it is VOLATILE.
        volatile: bool,
    },
}

impl Part<'_> {
    /// What it makes of a read.
    #[must_use]
    pub fn access(&self) -> Access {
        match *self {
            Self::Relation { kind, .. } if kind.starts_with(['S', 'f']) || kind.ends_with('u') => Access::Local,
            Self::Relation { schema, name, .. } if functions::is_local_relation(Some(schema), name) => Access::Local,
            Self::Relation { .. } => Access::Read,
            Self::Function { schema: "pg_catalog", name, volatile } => match functions::call(None, name).access {
                // A function of a later release that the lists do not name, and that promises to write nothing.
                Access::Write if !volatile => Access::Read,
                access => access,
            },
            Self::Function { volatile, .. } => {
                if volatile {
                    Access::Write
                } else {
                    Access::Read
                }
            }
        }
    }
}

#[derive(Debug)]
struct Entry {
    name: Name,
    access: Access,
    until: Instant,
    /// Whether it was wanted since it was answered: then it is asked again together with others.
    used: bool,
}

/// The answers so far.
#[derive(Debug, Default)]
pub struct Readings {
    /// By the relation's bare name, so that a look-up makes no key.
    entries: HashMap<String, Vec<Entry>>,
    count: usize,
    /// Texts that a standby refused, and what they are. They are held, so that what is found at their place is they.
    refused: HashMap<usize, (Arc<QueryFacts>, Access)>,
    /// Whether the user's transactions are SERIALIZABLE unless they say otherwise, and until when that counts.
    serializable: Option<(bool, Instant)>,
    epoch: u64,
}

/// What was found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What reading each of the names amounts to, in their order.
    pub readings: Vec<Access>,
    /// The user's transactions are SERIALIZABLE unless they say otherwise.
    pub serializable: bool,
}

impl Readings {
    /// Forgets everything if the server's catalog has changed: if `epoch` is not the one of before.
    pub fn follow(&mut self, epoch: u64) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.serializable = None;
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.entries.clear();
        self.refused.clear();
        self.count = 0;
    }

    /// A standby would not do what this text asks for: until the catalog changes it is a write (25006), or the primary's own.
    pub fn refuse(&mut self, facts: &Arc<QueryFacts>, access: Access) {
        if self.refused.len() >= MAX_REFUSED {
            self.refused.clear();
        }
        let (_, known) = self.refused.entry(Arc::as_ptr(facts).addr()).or_insert((Arc::clone(facts), access));
        *known = access.max(*known);
    }

    /// Whether the user's transactions are SERIALIZABLE unless they say otherwise, if that is known at `now`.
    #[must_use]
    pub fn is_serializable(&self, now: Instant) -> Option<bool> {
        self.serializable.filter(|(_, until)| *until > now).map(|(is, _)| is)
    }

    /// The strongest access that a text's reading of relations amounts to.
    ///
    /// # Errors
    /// The names that must be asked first.
    pub fn access(&mut self, facts: &QueryFacts, search_path: Option<&str>, now: Instant) -> Result<Access, Vec<Name>> {
        if !self.refused.is_empty()
            && let Some((_, access)) = self.refused.get(&std::ptr::from_ref(facts).addr())
        {
            return Ok(*access);
        }
        let (mut access, mut unknown) = (Access::Neutral, Vec::new());
        for table in facts.statements.iter().flat_map(relations) {
            match self.find(table, search_path).filter(|e| e.until > now) {
                Some(entry) => {
                    entry.used = true;
                    access = access.max(entry.access);
                }
                None => unknown.push(Name::new(search_path, table.schema.as_deref(), &table.name)),
            }
        }
        if unknown.is_empty() { Ok(access) } else { Err(unknown) }
    }

    fn find(&mut self, table: &TableRef, search_path: Option<&str>) -> Option<&mut Entry> {
        let schema = table.schema.as_deref();
        let path = if schema.is_none() { search_path } else { None };
        let entries = self.entries.get_mut(&table.name)?;
        entries.iter_mut().find(|e| e.name.schema.as_deref() == schema && e.name.search_path.as_deref() == path)
    }

    /// Those of `names` that have no answer at `now`; and, if there are any, others in use whose time is half over, so that many
    /// relations are asked about in few questions.
    #[must_use]
    pub fn due(&self, mut names: Vec<Name>, now: Instant) -> Vec<Name> {
        names.retain(|name| !self.all_of(&name.name).any(|e| e.name == *name && e.until > now));
        names.dedup();
        let Some(path) = names.first().map(|n| n.search_path.clone()) else { return names };
        let soon = now + KEPT / 2;
        let of_path = |name: &Name| name.schema.is_some() || name.search_path == path;
        let others = self.entries.values().flatten().filter(|e| e.used && e.until <= soon && of_path(&e.name));
        let others: Vec<_> =
            others.filter(|e| !names.contains(&e.name)).map(|e| e.name.clone()).take(MAX_ASKED).collect();
        names.extend(others);
        names.truncate(MAX_ASKED);
        names
    }

    fn all_of(&self, name: &str) -> impl Iterator<Item = &Entry> {
        self.entries.get(name).into_iter().flatten()
    }

    /// Takes in answers at `now`; none: nothing could be found out, and what was known before counts a little longer.
    pub fn learn(&mut self, names: Vec<Name>, found: Option<&Found>, now: Instant) {
        let before = self.serializable.is_some_and(|(is, _)| is);
        let until = now + if found.is_some() { KEPT } else { KEPT_UNKNOWN };
        self.serializable = Some((found.map_or(before, |found| found.serializable), until));
        if self.count > MAX_NAMES {
            self.forget();
        }
        for (at, name) in names.into_iter().enumerate() {
            let answer = found.and_then(|found| found.readings.get(at)).copied();
            let until = now + if answer.is_some() { KEPT } else { KEPT_UNKNOWN };
            let entries = self.entries.entry(name.name.clone()).or_default();
            match entries.iter_mut().find(|e| e.name == name) {
                Some(entry) => {
                    entry.access = answer.unwrap_or(entry.access);
                    (entry.until, entry.used) = (until, false);
                }
                None => {
                    entries.push(Entry { name, access: answer.unwrap_or(Access::Read), until, used: false });
                    self.count += 1;
                }
            }
        }
    }
}

/// The relations that a statement reads and of which the catalog may say more than their names. One that needs the primary
/// anyway asks nothing.
fn relations(statement: &StatementFacts) -> impl Iterator<Item = &TableRef> {
    let tables = if statement.own_access == Access::Read { statement.shape.tables() } else { &[] };
    tables.iter().filter(|t| is_unexplained(t))
}

#[cfg(test)]
mod tests {
    use super::super::parse::facts;
    use super::*;
    use crate::clock;

    fn name(name: &str) -> Name {
        Name::new(None, None, name)
    }

    fn found(readings: &[Access]) -> Found {
        Found { readings: readings.to_vec(), serializable: false }
    }

    #[test]
    fn a_role_may_be_serializable() {
        let now = clock::now();
        let mut readings = Readings::default();
        assert_eq!(readings.is_serializable(now), None);
        readings.learn(Vec::new(), Some(&Found { serializable: true, ..found(&[]) }), now);
        assert_eq!(readings.is_serializable(now), Some(true));
        assert_eq!(readings.is_serializable(now + KEPT), None);
        readings.learn(Vec::new(), None, now + KEPT);
        assert_eq!(readings.is_serializable(now + KEPT), Some(true), "nobody says otherwise");
    }

    #[test]
    fn parts_are_weighed() {
        let function = |schema, name, volatile| Part::Function { schema, name, volatile }.access();
        let relation = |schema, name, kind| Part::Relation { schema, name, kind }.access();
        assert_eq!(function("pg_catalog", "pg_advisory_lock", true), Access::Write);
        assert_eq!(function("pg_catalog", "random", true), Access::Read);
        assert_eq!(function("pg_catalog", "pg_is_in_recovery", true), Access::Local);
        assert_eq!(function("pg_catalog", "of_a_later_release", false), Access::Read);
        assert_eq!(function("pg_catalog", "of_a_later_release", true), Access::Write);
        assert_eq!(function("app", "random", true), Access::Write);
        assert_eq!(function("app", "f", false), Access::Read);
        assert_eq!(relation("public", "s", "Sp"), Access::Local);
        assert_eq!(relation("public", "t", "rp"), Access::Read);
        assert_eq!(relation("public", "t", "ru"), Access::Local);
        assert_eq!(relation("public", "t", "fp"), Access::Local);
        assert_eq!(relation("pg_catalog", "pg_stat_activity", "vp"), Access::Local);
    }

    #[test]
    fn a_text_that_a_standby_refused_is_a_write() {
        let now = clock::now();
        let (mut readings, text) = (Readings::default(), Arc::new(facts(b"SELECT 1 @#@ 2")));
        let other = facts(b"SELECT 1 @#@ 2");
        readings.refuse(&text, Access::Local);
        assert_eq!(readings.access(&text, None, now), Ok(Access::Local));
        readings.refuse(&text, Access::Write);
        readings.refuse(&text, Access::Local);
        assert_eq!(readings.access(&text, None, now), Ok(Access::Write));
        assert_eq!(readings.access(&other, None, now), Ok(Access::Neutral), "another's");
        readings.follow(1);
        assert_eq!(readings.access(&text, None, now), Ok(Access::Neutral), "the operator may be another now");
    }

    #[test]
    fn what_is_known_counts_for_a_minute() {
        let now = clock::now();
        let mut readings = Readings::default();
        let text = facts(b"SELECT * FROM v JOIN t ON true; INSERT INTO other SELECT * FROM more");
        assert_eq!(readings.access(&text, None, now), Err(vec![name("v"), name("t")]));
        readings.learn(vec![name("v"), name("t")], Some(&found(&[Access::Write, Access::Read])), now);
        assert_eq!(readings.access(&text, None, now), Ok(Access::Write));
        assert_eq!(readings.access(&text, Some("a"), now).unwrap_err().len(), 2, "another search_path");
        let later = now + KEPT;
        assert_eq!(readings.access(&text, None, later).unwrap_err().len(), 2);
        // Nobody could be asked: what was known counts on.
        readings.learn(vec![name("v"), name("t")], None, later);
        assert_eq!(readings.access(&text, None, later), Ok(Access::Write));
        assert!(readings.access(&text, None, later + KEPT_UNKNOWN).is_err());
        readings.follow(1);
        assert!(readings.access(&text, None, later).is_err());
    }

    #[test]
    fn names_in_use_are_asked_together() {
        let now = clock::now();
        let mut readings = Readings::default();
        readings.learn(vec![name("a"), name("b"), name("c")], Some(&found(&[Access::Read; 3])), now);
        assert_eq!(readings.access(&facts(b"SELECT * FROM a, b"), None, now), Ok(Access::Read));
        assert_eq!(readings.due(vec![name("a")], now), [], "it was answered meanwhile");
        let mut due = readings.due(vec![name("new")], now + KEPT / 2);
        due.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(due, [name("a"), name("b"), name("new")]);
    }

    #[test]
    fn names_made_up_do_not_pile_up() {
        let now = clock::now();
        let mut readings = Readings::default();
        for i in 0..3 * MAX_NAMES {
            readings.learn(vec![name(&i.to_string())], Some(&found(&[Access::Read])), now);
        }
        assert!(readings.entries.len() <= MAX_NAMES + 1);
    }
}

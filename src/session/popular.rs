//! Unnamed statements that come so often that servers are to keep them: `prepare_unnamed`.
//!
//! Who prepares the unnamed statement anew for every use has PostgreSQL parse and plan it each time. A text that has come often enough
//! becomes a statement as one with a name does ([`super::prepared`]): servers keep it, and the client's unnamed statement stands for it.
//!
//! One per worker: no locks. Only so many are kept as leave room on servers for the statements that clients name.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use lru::LruCache;

use crate::session::prepared::{Registry, Statement};
use crate::session::reading::{Names, Reader};
use crate::sql::facts::{Plan, QueryFacts};
use crate::wire::message::Parse;

/// How many texts are counted at most; a power of two.
const COUNTED: usize = 4096;

/// Texts longer than this, in bytes, stay unnamed: they carry their values with them and come once.
const LONGEST: usize = 16 << 10;

/// The statements that came often, and how often others came.
#[derive(Debug)]
pub struct Popular {
    kept: LruCache<Box<[u8]>, Arc<Statement>>,
    hasher: RandomState,
    /// By hash: which text, and how often it came. One that takes another's place begins anew.
    counts: Box<[(u32, u32)]>,
    /// Types and text of the statement at hand; kept for its memory.
    key: Vec<u8>,
}

impl Default for Popular {
    fn default() -> Self {
        Self {
            kept: LruCache::unbounded(),
            hasher: RandomState::new(),
            counts: vec![(0, 0); COUNTED].into(),
            key: Vec::new(),
        }
    }
}

impl Popular {
    /// The statement that stands for the text, when it has come `often` times (not zero). At most `most` are kept (at least one).
    pub fn get(
        &mut self,
        parse: &Parse<'_>,
        (registry, reader): (&Registry, &Reader<'_>),
        (often, most): (u32, usize),
        facts: impl FnOnce() -> Arc<QueryFacts>,
    ) -> Option<Arc<Statement>> {
        if parse.sql.len() > LONGEST || reader.names == Names::Own || reader.changed {
            return None;
        }
        self.make_key(parse);
        if let Some(statement) = self.kept.get_mut(&*self.key) {
            // Kept for whoever reads the text as who made it popular; others get one of their own.
            let current = registry.renewed(statement, reader);
            let newer = reader.names == Names::Usual && current.is_of_later_types(statement);
            if statement.is_outdated() || newer {
                statement.clone_from(&current);
            }
            return Some(current);
        }
        if self.count() < often {
            return None;
        }
        let facts = facts();
        if facts.plan() == Plan::None {
            return None;
        }
        let statement = registry.intern(parse, reader, || facts);
        if statement.is_apart() {
            return None;
        }
        self.kept.put(self.key.as_slice().into(), Arc::clone(&statement));
        while self.kept.len() > most.max(1) {
            self.kept.pop_lru();
        }
        Some(statement)
    }

    /// The statement is unnamed again, until it has come as often once more.
    pub fn forget(&mut self, statement: &Statement) {
        self.make_key(&Parse { name: b"", sql: &statement.sql, types: &statement.types });
        self.kept.pop(&*self.key);
        if let Some(count) = self.place() {
            *count = (0, 0);
        }
    }

    /// Statements that are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The types say how long they are, so that no two statements have one key.
    fn make_key(&mut self, parse: &Parse<'_>) {
        self.key.clear();
        self.key.extend_from_slice(parse.types);
        self.key.extend_from_slice(parse.sql);
    }

    fn place(&mut self) -> Option<&mut (u32, u32)> {
        let hash = self.hasher.hash_one(&*self.key);
        #[expect(clippy::cast_possible_truncation, reason = "each takes other bits of the hash")]
        let (at, mark) = (hash as usize % COUNTED, (hash >> 32) as u32);
        let count = self.counts.get_mut(at)?;
        if count.0 != mark {
            *count = (mark, 0);
        }
        Some(count)
    }

    /// How often it came, this time included.
    fn count(&mut self) -> u32 {
        self.place().map_or(0, |(_, count)| {
            *count = count.saturating_add(1);
            *count
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::settings::ClientSettings;
    use crate::sql::parse;

    fn get(popular: &mut Popular, registry: &Registry, sql: &str, types: &[u8]) -> Option<Arc<Statement>> {
        let parsed = Parse { name: b"", sql: sql.as_bytes(), types };
        let settings = ClientSettings::default();
        let facts = || Arc::new(parse::facts(sql.as_bytes()));
        popular.get(&parsed, (registry, &Reader::usual(&settings)), (3, 2), facts)
    }

    #[test]
    fn what_comes_often_is_one_statement() {
        let (mut popular, registry) = (Popular::default(), Registry::default());
        let mut come = |sql: &str, types: &[u8]| get(&mut popular, &registry, sql, types).map(|s| s.id);
        assert_eq!([come("SELECT 1", &[0, 0]), come("SELECT 1", &[0, 0])], [None, None]);
        let known = come("SELECT 1", &[0, 0]);
        assert!(known.is_some() && known == come("SELECT 1", &[0, 0]));
        assert_eq!(come("SELECT 1", &[0, 1, 0, 0, 0, 23]), None, "of other types it is another");
        for _ in 0..5 {
            assert_eq!(come("BEGIN", &[0, 0]), None, "there is no plan to keep");
            assert_eq!(come("SELECT 1; SELECT 2", &[0, 0]), None);
        }
    }

    #[test]
    fn the_ones_used_last_are_kept_and_forgotten_ones_begin_anew() {
        let (mut popular, registry) = (Popular::default(), Registry::default());
        for sql in ["SELECT 1", "SELECT 2", "SELECT 3"] {
            (0..3).for_each(|_| drop(get(&mut popular, &registry, sql, &[0, 0])));
        }
        assert_eq!(popular.len(), 2);
        let two = get(&mut popular, &registry, "SELECT 2", &[0, 0]).unwrap();
        popular.forget(&two);
        assert_eq!(popular.len(), 1);
        assert!(get(&mut popular, &registry, "SELECT 2", &[0, 0]).is_none());
        let three = get(&mut popular, &registry, "SELECT 3", &[0, 0]).unwrap();
        three.set_outdated();
        assert_ne!(get(&mut popular, &registry, "SELECT 3", &[0, 0]).unwrap().id, three.id, "its successor");
    }
}

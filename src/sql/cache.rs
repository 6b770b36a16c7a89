//! Facts per text, so that a text that comes often is parsed once. One cache per worker: no locks.
//!
//! The whole text is the key. The hash is the map's own, seeded at random per cache: clients choose the texts, and must not
//! be able to make them collide.
//!
//! Who does not need the values of keys, which is whoever is not on a sharded database, gets the facts of a text's normal form
//! ([`super::normal`]): a text that differs from another only in the values written into it is then not parsed either.
//!
//! A text is kept when it comes for the second time: applications that write their values into their texts never send the
//! same one again, and to keep each of those costs more than to read it. (Admission by a doorkeeper, as in `TinyLFU`: Einziger,
//! Friedman, Manes, 2017.)

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lru::LruCache;

use super::facts::{ConfigArg, QueryFacts, SessionEffect, ShardShape};
use super::recent::Recent;
use super::{normal, parse};

/// Texts longer than this share of the byte limit are not kept: one of them would drive out too many others.
const LARGEST_SHARE: usize = 16;

/// How many texts the doorkeeper remembers at most; a power of two.
const REMEMBERED: usize = 4096;

/// How many texts are looked through for one.
const LOOKED_THROUGH: usize = 512;

/// Texts longer than this, in bytes, are not brought to their normal form: mostly they are values, and differ in their number.
const LONGEST_NORMAL: usize = 16 << 10;

/// Stands before a normal form among the keys. No text that is parsed has it.
const NORMAL: u8 = 0;

/// The facts of the texts seen last, by text.
pub struct FactsCache {
    entries: LruCache<Box<[u8]>, Entry>,
    door: Door,
    max_entries: usize,
    max_bytes: usize,
    bytes: usize,
    hits: u64,
    misses: u64,
    /// Of those that need no values of keys, the texts that came last.
    recent: Recent,
    /// The normal form of the text at hand, and where it has numbers that the text does not; kept for their memory.
    form: Vec<u8>,
    numbers: Vec<Range<usize>>,
    size: Arc<CacheSize>,
}

/// How much a cache keeps; changes when a text enters or leaves it.
#[derive(Debug, Default)]
pub struct CacheSize {
    entries: AtomicUsize,
    bytes: AtomicUsize,
}

impl CacheSize {
    fn is(&self, entries: usize, bytes: usize) {
        self.entries.store(entries, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// Texts, and about how many bytes they take with their facts.
    #[must_use]
    pub fn get(&self) -> (usize, usize) {
        (self.entries.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

struct Entry {
    facts: Arc<QueryFacts>,
    /// What the entry counts towards `max_bytes`.
    bytes: usize,
}

impl FactsCache {
    /// A cache of at most `max_entries` texts that take about `max_bytes` bytes with their facts. Zero of either keeps
    /// nothing.
    #[must_use]
    pub fn new(max_entries: usize, max_bytes: usize) -> Self {
        Self {
            entries: LruCache::unbounded(),
            door: Door::default(),
            max_entries,
            max_bytes,
            bytes: 0,
            hits: 0,
            misses: 0,
            recent: Recent::default(),
            form: Vec::new(),
            numbers: Vec::new(),
            size: Arc::default(),
        }
    }

    /// The facts of `text`, parsed unless they are here.
    pub fn get(&mut self, text: &[u8]) -> Arc<QueryFacts> {
        if let Some(entry) = self.entries.get(text) {
            self.hits += 1;
            return Arc::clone(&entry.facts);
        }
        self.misses += 1;
        let facts = Arc::new(parse::facts(text));
        if self.door.has_seen(text) {
            self.insert(text, &facts);
        }
        facts
    }

    /// The facts of `text`, in which the values of keys may be left out, parsed unless those of its normal form are here.
    pub fn get_without_values(&mut self, text: &[u8]) -> Arc<QueryFacts> {
        if let Some(facts) = self.recent.get(text) {
            self.hits += 1;
            return facts;
        }
        let (mut form, mut numbers) = (std::mem::take(&mut self.form), std::mem::take(&mut self.numbers));
        form.clear();
        form.push(NORMAL);
        let is_normal = text.len() <= LONGEST_NORMAL && normal::of_with_numbers(text, &mut form, &mut numbers);
        if !is_normal {
            numbers.clear();
        }
        let hits = self.hits;
        let facts = if is_normal { self.get_normal(text, &form) } else { self.get(text) };
        if self.hits > hits {
            // Here it is kept, and not because it came by chance.
            self.recent.put(text, &numbers, &facts);
        }
        (self.form, self.numbers) = (form, numbers);
        facts
    }

    fn get_normal(&mut self, text: &[u8], form: &[u8]) -> Arc<QueryFacts> {
        if let Some(entry) = self.entries.get(form) {
            self.hits += 1;
            return Arc::clone(&entry.facts);
        }
        self.misses += 1;
        let mut facts = parse::facts(text);
        // Why a text is not SQL may be told in words of the text.
        if facts.unparsed.is_none() && self.door.has_seen(form) {
            facts.drop_values();
            let facts = Arc::new(facts);
            self.insert(form, &facts);
            return facts;
        }
        Arc::new(facts)
    }

    /// How many times a text was found.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hits
    }

    /// How many times a text had to be parsed.
    #[must_use]
    pub fn misses(&self) -> u64 {
        self.misses
    }

    /// How many texts are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no text is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// About how many bytes the kept texts and their facts take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The text that these facts were read from, or its normal form with parameters for the values (see [`normal::shown`]), if it is kept and among those that came last. More are not looked
    /// through: every client that is busy may ask, between two statements of others.
    #[must_use]
    pub fn text_of(&self, facts: &Arc<QueryFacts>) -> Option<Cow<'_, [u8]>> {
        let mut fitting =
            self.entries.iter().take(LOOKED_THROUGH).filter(|(_, entry)| Arc::ptr_eq(&entry.facts, facts));
        fitting.next().map(|(text, _)| match text.strip_prefix(&[NORMAL]) {
            Some(form) => Cow::Owned(normal::shown(form)),
            None => Cow::Borrowed(&**text),
        })
    }

    /// How much it keeps, as others may follow it.
    #[must_use]
    pub fn size(&self) -> Arc<CacheSize> {
        Arc::clone(&self.size)
    }

    /// Forgets every text, as after a change of what texts mean. The counters stay.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.recent.clear();
        self.bytes = 0;
        self.size.is(0, 0);
    }

    fn insert(&mut self, text: &[u8], facts: &Arc<QueryFacts>) {
        let bytes = weight(text, facts);
        if self.max_entries == 0 || bytes > self.max_bytes / LARGEST_SHARE {
            return;
        }
        self.bytes += bytes;
        self.entries.put(text.into(), Entry { facts: Arc::clone(facts), bytes });
        while self.entries.len() > self.max_entries || self.bytes > self.max_bytes {
            let Some((_, oldest)) = self.entries.pop_lru() else { break };
            self.bytes -= oldest.bytes;
        }
        self.size.is(self.entries.len(), self.bytes);
    }
}

/// Remembers by a hash which texts came lately. A text that it takes for another is kept a little early, no more.
struct Door {
    hasher: RandomState,
    seen: Box<[u32]>,
}

impl Default for Door {
    fn default() -> Self {
        Self { hasher: RandomState::new(), seen: vec![0; REMEMBERED].into() }
    }
}

impl Door {
    /// Whether the text came before and is still remembered; from now on it is.
    fn has_seen(&mut self, text: &[u8]) -> bool {
        let hash = self.hasher.hash_one(text);
        #[expect(clippy::cast_possible_truncation, reason = "each takes other bits of the hash")]
        let (at, mark) = (hash as usize % REMEMBERED, (hash >> 32) as u32);
        let Some(seen) = self.seen.get_mut(at) else { return false };
        std::mem::replace(seen, mark) == mark
    }
}

/// About what an entry takes: the text, the facts, and the lists in them at a flat rate an element.
fn weight(text: &[u8], facts: &QueryFacts) -> usize {
    const PER_ENTRY: usize = 200;
    const PER_STATEMENT: usize = 300;
    const PER_ITEM: usize = 120;
    let mut bytes = PER_ENTRY + text.len();
    for statement in &facts.statements {
        let items = match &statement.shape {
            ShardShape::NoTables => 0,
            ShardShape::Filtered { tables, top, equalities, assigned, .. } => {
                tables.len() + top.len() + equalities.len() + assigned.len()
            }
            ShardShape::Insert { tables, columns, rows, assigned } => {
                let columns = columns.as_ref().map_or(0, Vec::len);
                tables.len() + columns + rows.iter().map(|row| 1 + row.len()).sum::<usize>() + assigned.len()
            }
            ShardShape::Other { tables, .. } => tables.len(),
        };
        let values = statement.effects.iter().map(|effect| match effect {
            SessionEffect::Set { value, .. } => PER_ITEM + value.len(),
            SessionEffect::SetByParams { value: ConfigArg::Literal(value), .. } => PER_ITEM + value.len(),
            _ => PER_ITEM,
        });
        let items = items + statement.touch.items();
        bytes += PER_STATEMENT + items * PER_ITEM + values.sum::<usize>();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::facts::KeyValue;
    use proptest::prelude::*;

    /// What comes twice is kept.
    fn twice(cache: &mut FactsCache, text: &[u8]) -> Arc<QueryFacts> {
        cache.get(text);
        cache.get(text)
    }

    #[test]
    fn a_text_that_comes_again_is_kept() {
        let mut cache = FactsCache::new(10, 1 << 20);
        cache.get(b"SELECT 1");
        assert!(cache.is_empty(), "it may never come again");
        let first = cache.get(b"SELECT 1");
        let again = cache.get(b"SELECT 1");
        assert!(Arc::ptr_eq(&first, &again));
        assert!(!Arc::ptr_eq(&first, &cache.get(b"SELECT 2")));
        assert_eq!((cache.hits(), cache.misses(), cache.len()), (1, 3, 1));
        cache.clear();
        assert!(cache.is_empty());
        assert_eq!(cache.bytes(), 0);
        assert!(!Arc::ptr_eq(&first, &cache.get(b"SELECT 1")));
    }

    #[test]
    fn texts_that_differ_in_values_are_one() {
        let mut cache = FactsCache::new(10, 1 << 20);
        for aid in 1..=2 {
            cache.get_without_values(format!("SELECT a FROM t WHERE k = {aid}").as_bytes());
        }
        let known = cache.get_without_values(b"SELECT a FROM t WHERE k = 3");
        assert!(Arc::ptr_eq(&known, &cache.get_without_values(b"SELECT a FROM t WHERE k = 4")));
        assert_eq!((cache.hits(), cache.misses(), cache.len()), (2, 2, 1));
        let ShardShape::Filtered { equalities, .. } = &known.statements[0].shape else { panic!("{known:?}") };
        assert_eq!(equalities[0].1, KeyValue::Expression, "nobody may take one text's value for another's");
        // Those who need the values get them, also of a text that is its own normal form.
        let zero = b"SELECT a FROM t WHERE k = 0";
        assert_eq!(*twice(&mut cache, zero), parse::facts(zero));
        assert!(Arc::ptr_eq(&known, &cache.get_without_values(zero)));
    }

    #[test]
    fn the_oldest_goes_first() {
        let mut cache = FactsCache::new(2, 1 << 20);
        let one = twice(&mut cache, b"SELECT 1");
        twice(&mut cache, b"SELECT 2");
        cache.get(b"SELECT 1");
        twice(&mut cache, b"SELECT 3");
        assert!(Arc::ptr_eq(&one, &cache.get(b"SELECT 1")), "used last, kept");
        let before = cache.misses();
        cache.get(b"SELECT 2");
        assert_eq!(cache.misses(), before + 1, "driven out");
    }

    #[test]
    fn long_texts_are_not_kept() {
        let mut cache = FactsCache::new(10, 16 * 1000);
        let long = format!("SELECT '{}'", "x".repeat(1000));
        twice(&mut cache, long.as_bytes());
        assert!(cache.is_empty());
        twice(&mut cache, b"SELECT 1");
        assert_eq!(cache.len(), 1);
        let mut none = FactsCache::new(0, 1 << 20);
        twice(&mut none, b"SELECT 1");
        assert!(none.is_empty());
    }

    proptest! {
        #[test]
        fn the_limits_hold(texts in proptest::collection::vec(0_usize..400, 1..60)) {
            let mut cache = FactsCache::new(7, 20_000);
            for n in texts {
                let text = format!("SELECT '{}'", "x".repeat(n));
                prop_assert_eq!(&*twice(&mut cache, text.as_bytes()), &parse::facts(text.as_bytes()));
                prop_assert!(cache.len() <= 7);
                prop_assert!(cache.bytes() <= 20_000);
                let sum: usize = cache.entries.iter().map(|(_, e)| e.bytes).sum();
                prop_assert_eq!(sum, cache.bytes());
            }
        }
    }
}

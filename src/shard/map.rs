//! The shard map: which shard owns a slot, and which tables have a key.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use super::table_key::TableKey;
use crate::id::{ShardIndex, Slot};

/// Number of slots.
pub const SLOTS: u16 = 16384;

/// The schema of a table that is named without one.
pub const DEFAULT_SCHEMA: &str = "public";

/// The type of a sharding key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyType {
    /// smallint, integer or bigint: they hash alike.
    Integer {
        /// 2, 4 or 8: the column's width in bytes.
        width: u8,
    },
    /// text or varchar under a deterministic collation.
    Text,
    /// The same, of which only the tag is hashed: see [`tag`](crate::shard::hash::tag).
    Tagged,
    /// uuid.
    Uuid,
}

impl KeyType {
    /// Whether equal keys of both types hash alike, so that rows with equal keys are on one shard: the integers are one family whatever
    /// their width, but a text and the same text by its tag are not.
    #[must_use]
    pub fn same_family(self, other: Self) -> bool {
        matches!(
            (self, other),
            (Self::Integer { .. }, Self::Integer { .. })
                | (Self::Text, Self::Text)
                | (Self::Tagged, Self::Tagged)
                | (Self::Uuid, Self::Uuid)
        )
    }

    /// The type of the column, whatever of it is hashed.
    #[must_use]
    pub fn column(self) -> Self {
        match self {
            Self::Tagged => Self::Text,
            other => other,
        }
    }

    /// Whether a value of one column's type is read as one of the other's.
    #[must_use]
    pub fn reads_as(self, other: Self) -> bool {
        self.column().same_family(other.column())
    }

    /// Whether its values are texts.
    #[must_use]
    pub fn is_text(self) -> bool {
        self.column() == Self::Text
    }

    /// PostgreSQL's name of the type, as its error messages say it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Integer { width: 2 } => "smallint",
            Self::Integer { width: 4 } => "integer",
            Self::Integer { .. } => "bigint",
            Self::Text | Self::Tagged => "text",
            Self::Uuid => "uuid",
        }
    }

    /// The type, and whether only a tag is hashed: as the console shows it.
    #[must_use]
    pub fn shown(self) -> &'static str {
        match self {
            Self::Tagged => "text (tag)",
            other => other.name(),
        }
    }
}

/// How a listed table is spread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Table {
    /// Rows live where the key's slot says.
    Sharded {
        /// The key.
        key: TableKey,
    },
    /// A full copy on every shard.
    Reference,
}

impl Table {
    /// A table with a key of one column.
    #[must_use]
    pub fn sharded(key: impl Into<String>, key_type: KeyType) -> Self {
        Self::Sharded { key: TableKey::of(key, key_type) }
    }

    /// Its key; none of a reference table.
    #[must_use]
    pub fn key(&self) -> Option<&TableKey> {
        match self {
            Self::Sharded { key } => Some(key),
            Self::Reference => None,
        }
    }
}

/// What becomes of a statement that writes on several shards (`cross_shard_writes`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CrossShardWrites {
    /// It is refused.
    #[default]
    Refuse,
    /// The shards commit one after the other; when that stops half way, an error names the shards.
    BestEffort,
    /// All commit or none: by two-phase commit.
    TwoPhase,
}

impl CrossShardWrites {
    /// The word of the setting.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::BestEffort => "best_effort",
            Self::TwoPhase => "two_phase",
        }
    }
}

/// What statements may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Writes {
    /// On several shards.
    pub cross: CrossShardWrites,
    /// UPDATE and DELETE that no key ties to one shard go to all shards (`unkeyed_writes`).
    pub unkeyed: bool,
}

/// The whole map of one database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardMap {
    /// Grows with every change of the map.
    pub epoch: u64,
    /// Owner of each slot, `SLOTS` entries.
    pub owners: Vec<ShardIndex>,
    /// Names of the shards, by index.
    pub names: Vec<String>,
    /// Listed tables by (schema, name); a name configured without a schema stands under `public`.
    pub tables: BTreeMap<(String, String), Table>,
    /// Where tables live that are not listed.
    pub default_shard: ShardIndex,
    /// What statements may write.
    pub writes: Writes,
}

/// Why a map cannot be: every slot must have exactly one owner. Slots are inclusive ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MapError {
    /// There is no shard.
    NoShards,
    /// There are more shards than slots.
    TooManyShards {
        /// How many.
        count: usize,
    },
    /// Names and lists of ranges do not pair.
    Unpaired {
        /// How many names.
        names: usize,
        /// How many lists of ranges.
        ranges: usize,
    },
    /// Two shards have one name.
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A range that ends before it begins, or beyond the last slot.
    BadRange {
        /// Whose.
        shard: String,
        /// Its first slot.
        first: u16,
        /// Its last slot.
        last: u16,
    },
    /// Slots that no shard owns.
    Gap {
        /// The first of them.
        first: u16,
        /// The last of them.
        last: u16,
    },
    /// Slots with more than one owner.
    Overlap {
        /// The first of them.
        first: u16,
        /// The last of them.
        last: u16,
        /// Who claims them; a shard stands here twice if it claims them twice.
        shards: Vec<String>,
    },
    /// The default shard is not among the shards.
    NoDefault {
        /// The index given.
        default_shard: ShardIndex,
    },
}

/// "slot 5" or "slots 5 to 9".
struct Slots(u16, u16);

impl fmt::Display for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == self.1 { write!(f, "slot {}", self.0) } else { write!(f, "slots {} to {}", self.0, self.1) }
    }
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoShards => f.write_str("there is no shard"),
            Self::TooManyShards { count } => write!(f, "{count} shards are more than the {SLOTS} slots"),
            Self::Unpaired { names, ranges } => write!(f, "{names} shard names but {ranges} lists of slots"),
            Self::DuplicateName { name } => write!(f, "two shards are called \"{name}\""),
            Self::BadRange { shard, first, last } => {
                write!(
                    f,
                    "shard \"{shard}\": [{first}, {last}] is not a range of slots 0 to {}",
                    SLOTS.saturating_sub(1)
                )
            }
            Self::Gap { first, last } => {
                let verb = if first == last { "belongs" } else { "belong" };
                write!(f, "{} {verb} to no shard", Slots(*first, *last))
            }
            Self::Overlap { first, last, shards } => {
                let verb = if first == last { "belongs" } else { "belong" };
                write!(f, "{} {verb} to more than one shard: \"{}\"", Slots(*first, *last), shards.join("\", \""))
            }
            Self::NoDefault { default_shard } => {
                write!(f, "there is no shard number {default_shard} to be the default")
            }
        }
    }
}

impl std::error::Error for MapError {}

impl ShardMap {
    /// The map of a database that is not sharded: one shard, called `default`, owns everything.
    #[must_use]
    pub fn single() -> Self {
        Self {
            epoch: 0,
            owners: vec![ShardIndex(0); usize::from(SLOTS)],
            names: vec!["default".to_owned()],
            tables: BTreeMap::new(),
            default_shard: ShardIndex(0),
            writes: Writes::default(),
        }
    }

    /// A map from the inclusive slot ranges of each shard, in the order of `names`. A shard may own no slot.
    ///
    /// # Errors
    /// Everything that is wrong at once: gaps and overlaps are reported by their exact slots, with the shards' names.
    pub fn new(
        names: Vec<String>,
        slot_ranges: Vec<Vec<(u16, u16)>>,
        tables: BTreeMap<(String, String), Table>,
        default_shard: ShardIndex,
    ) -> Result<Self, Vec<MapError>> {
        let mut errors = Vec::new();
        if names.is_empty() {
            errors.push(MapError::NoShards);
        }
        if names.len() > usize::from(SLOTS) {
            // Nothing below is worth reading then, and an index might not fit.
            return Err(vec![MapError::TooManyShards { count: names.len() }]);
        }
        if names.len() != slot_ranges.len() {
            errors.push(MapError::Unpaired { names: names.len(), ranges: slot_ranges.len() });
        }
        for (i, name) in names.iter().enumerate() {
            if names.iter().take(i).any(|n| n == name) {
                errors.push(MapError::DuplicateName { name: name.clone() });
            }
        }
        if usize::from(default_shard.0) >= names.len() {
            errors.push(MapError::NoDefault { default_shard });
        }
        let claims = claim(&names, &slot_ranges, &mut errors);
        report(&names, &claims, &mut errors);
        if !errors.is_empty() {
            return Err(errors);
        }
        let owners = claims.iter().filter_map(|claim| claim.first().copied()).collect();
        Ok(Self { epoch: 0, owners, names, tables, default_shard, writes: Writes::default() })
    }

    /// The same map as version `epoch`: a reload gives a changed map a greater number than the one it replaces.
    #[must_use]
    pub fn with_epoch(mut self, epoch: u64) -> Self {
        self.epoch = epoch;
        self
    }

    /// Whether there is a choice of shards at all.
    #[must_use]
    pub fn is_sharded(&self) -> bool {
        self.names.len() > 1
    }

    /// The shard that owns a slot. A slot beyond the last one, which no hash yields, counts as the default shard's.
    #[must_use]
    pub fn owner(&self, slot: Slot) -> ShardIndex {
        self.owners.get(usize::from(slot.0)).copied().unwrap_or(self.default_shard)
    }

    /// How a table is spread; none if it is not listed. Without a schema it is looked for under `public`.
    #[must_use]
    pub fn table(&self, schema: Option<&str>, name: &str) -> Option<&Table> {
        self.tables.get(&(schema.unwrap_or(DEFAULT_SCHEMA), name) as &dyn QualifiedName)
    }

    /// Whether a table of this name is listed under any schema.
    #[must_use]
    pub fn lists_name(&self, name: &str) -> bool {
        self.tables.keys().any(|(_, listed)| listed == name)
    }

    /// The shard of that name.
    #[must_use]
    pub fn shard_by_name(&self, name: &str) -> Option<ShardIndex> {
        let place = self.names.iter().position(|n| n == name)?;
        u16::try_from(place).ok().map(ShardIndex)
    }

    /// A shard's name; `?` if there is no such shard.
    #[must_use]
    pub fn name(&self, shard: ShardIndex) -> &str {
        self.names.get(usize::from(shard.0)).map_or("?", String::as_str)
    }
}

/// Who claims each slot; ranges that are none are reported and left out.
fn claim(names: &[String], slot_ranges: &[Vec<(u16, u16)>], errors: &mut Vec<MapError>) -> Vec<Vec<ShardIndex>> {
    let mut claims = vec![Vec::new(); usize::from(SLOTS)];
    for ((shard, name), ranges) in (0..).map(ShardIndex).zip(names).zip(slot_ranges) {
        for (first, last) in ranges.iter().copied() {
            match claims.get_mut(usize::from(first)..=usize::from(last)) {
                Some(slots) if first <= last => slots.iter_mut().for_each(|claim| claim.push(shard)),
                _ => errors.push(MapError::BadRange { shard: name.clone(), first, last }),
            }
        }
    }
    claims
}

/// Reports each run of slots that are claimed alike, unless exactly one shard claims them.
fn report(names: &[String], claims: &[Vec<ShardIndex>], errors: &mut Vec<MapError>) {
    let mut first = 0_u16;
    for run in claims.chunk_by(|a, b| a == b) {
        let length = u16::try_from(run.len()).unwrap_or(SLOTS);
        let last = first.saturating_add(length).saturating_sub(1);
        match run.first().map(Vec::as_slice) {
            Some([]) | None => errors.push(MapError::Gap { first, last }),
            Some([_]) => {}
            Some(shards) => {
                let shards = shards.iter().filter_map(|s| names.get(usize::from(s.0)).cloned()).collect();
                errors.push(MapError::Overlap { first, last, shards });
            }
        }
        first = last.saturating_add(1);
    }
}

/// A (schema, name) pair, owned or borrowed: a statement's table is looked up without allocating.
trait QualifiedName {
    fn parts(&self) -> (&str, &str);
}

impl QualifiedName for (String, String) {
    fn parts(&self) -> (&str, &str) {
        (&self.0, &self.1)
    }
}

impl QualifiedName for (&str, &str) {
    fn parts(&self) -> (&str, &str) {
        *self
    }
}

impl<'a> Borrow<dyn QualifiedName + 'a> for (String, String) {
    fn borrow(&self) -> &(dyn QualifiedName + 'a) {
        self
    }
}

// `Borrow` demands the order of the owned pair: tuples of strings compare as these tuples of slices do.
impl Ord for dyn QualifiedName + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts().cmp(&other.parts())
    }
}

impl PartialOrd for dyn QualifiedName + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for dyn QualifiedName + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for dyn QualifiedName + '_ {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|i| format!("s{i}")).collect()
    }

    fn map(ranges: Vec<Vec<(u16, u16)>>) -> Result<ShardMap, Vec<MapError>> {
        ShardMap::new(names(ranges.len()), ranges, BTreeMap::new(), ShardIndex(0))
    }

    #[test]
    fn single_owns_everything() {
        let map = ShardMap::single();
        assert!(!map.is_sharded());
        assert_eq!((map.owner(Slot(0)), map.owner(Slot(16383))), (ShardIndex(0), ShardIndex(0)));
        assert_eq!(map.shard_by_name("default"), Some(ShardIndex(0)));
    }

    #[test]
    fn ranges_in_any_order_own_their_slots() {
        let map =
            map(vec![vec![(8192, 16383)], vec![(0, 99), (200, 8191)], vec![(100, 199)], vec![]]).unwrap().with_epoch(7);
        assert!(map.is_sharded());
        assert_eq!(map.epoch, 7);
        for (slot, shard) in [(0, 1), (99, 1), (100, 2), (199, 2), (200, 1), (8191, 1), (8192, 0), (16383, 0)] {
            assert_eq!(map.owner(Slot(slot)), ShardIndex(shard), "slot {slot}");
        }
        assert_eq!(map.shard_by_name("s3"), Some(ShardIndex(3)));
        assert_eq!(map.shard_by_name("s4"), None);
        assert_eq!((map.name(ShardIndex(2)), map.name(ShardIndex(9))), ("s2", "?"));
    }

    #[test]
    fn every_gap_and_overlap_is_reported() {
        let errors = map(vec![vec![(1, 9), (8, 12)], vec![(12, 12), (20, 16382)]]).unwrap_err();
        let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "slot 0 belongs to no shard",
                "slots 8 to 9 belong to more than one shard: \"s0\", \"s0\"",
                "slot 12 belongs to more than one shard: \"s0\", \"s1\"",
                "slots 13 to 19 belong to no shard",
                "slot 16383 belongs to no shard",
            ]
        );
    }

    #[test]
    fn bad_ranges_are_reported() {
        let errors = map(vec![vec![(0, 16383), (9, 8)], vec![(5, 16384)]]).unwrap_err();
        assert_eq!(
            errors,
            [
                MapError::BadRange { shard: "s0".into(), first: 9, last: 8 },
                MapError::BadRange { shard: "s1".into(), first: 5, last: 16384 },
            ]
        );
        assert_eq!(errors[1].to_string(), "shard \"s1\": [5, 16384] is not a range of slots 0 to 16383");
        // An end just before the beginning is an empty slice, not a range.
        assert_eq!(map(vec![vec![(0, 16383), (1, 0)]]).unwrap_err().len(), 1);
        assert_eq!(map(vec![vec![(0, 16383), (u16::MAX, u16::MAX)]]).unwrap_err().len(), 1);
    }

    #[test]
    fn bad_lists_of_shards_are_reported() {
        let all = vec![(0, 16383)];
        let new = |names: &[&str], ranges, default| {
            let names = names.iter().map(|n| (*n).to_owned()).collect();
            ShardMap::new(names, ranges, BTreeMap::new(), ShardIndex(default)).unwrap_err()
        };
        assert_eq!(new(&["a", "a"], vec![all.clone(), vec![]], 0), [MapError::DuplicateName { name: "a".into() }]);
        assert_eq!(new(&["a"], vec![all.clone()], 1), [MapError::NoDefault { default_shard: ShardIndex(1) }]);
        assert_eq!(new(&["a", "b"], vec![all], 0), [MapError::Unpaired { names: 2, ranges: 1 }]);
        assert!(new(&[], vec![], 0).contains(&MapError::NoShards));
        let many = vec![String::new(); 16385];
        assert_eq!(
            ShardMap::new(many, vec![], BTreeMap::new(), ShardIndex(0)).unwrap_err(),
            [MapError::TooManyShards { count: 16385 }]
        );
    }

    #[test]
    fn tables_are_found_by_schema_and_name() {
        let mut map = ShardMap::single();
        for (schema, name) in [("public", "a"), ("other", "b"), ("publica", "")] {
            map.tables.insert((schema.into(), name.into()), Table::Reference);
        }
        assert_eq!(map.table(None, "a"), Some(&Table::Reference));
        assert_eq!(map.table(Some("public"), "a"), Some(&Table::Reference));
        assert_eq!(map.table(Some("other"), "b"), Some(&Table::Reference));
        assert_eq!(map.table(Some("publica"), ""), Some(&Table::Reference));
        assert_eq!(map.table(None, "b"), None);
        assert_eq!(map.table(Some("other"), "a"), None);
        assert!(map.lists_name("b"));
        assert!(!map.lists_name("c"));
    }

    proptest! {
        /// A map is accepted exactly if every slot is covered once, and then owners are as the ranges say.
        #[test]
        fn accepted_iff_covered_once(
            cuts in proptest::collection::btree_set(1_u16..SLOTS, 0..6),
            shards in proptest::collection::vec(0_usize..4, 7),
            nudge in proptest::option::of((0_usize..7, -2_i32..3)),
        ) {
            let mut ranges = vec![Vec::new(); 4];
            let starts: Vec<u16> = std::iter::once(0).chain(cuts.iter().copied()).collect();
            let mut cover = vec![0_u32; usize::from(SLOTS)];
            for (i, first) in starts.iter().enumerate() {
                let mut last = starts.get(i + 1).map_or(16383, |next| next - 1);
                if let Some((at, by)) = nudge && at == i {
                    last = u16::try_from((i32::from(last) + by).clamp(i32::from(*first), 16383)).unwrap();
                }
                ranges[shards[i]].push((*first, last));
                (*first..=last).for_each(|slot| cover[usize::from(slot)] += 1);
            }
            let exact = cover.iter().all(|c| *c == 1);
            match map(ranges.clone()) {
                Ok(map) => {
                    prop_assert!(exact);
                    for (shard, ranges) in ranges.iter().enumerate() {
                        for (first, last) in ranges {
                            for slot in [*first, *last] {
                                prop_assert_eq!(usize::from(map.owner(Slot(slot)).0), shard);
                            }
                        }
                    }
                }
                Err(errors) => {
                    prop_assert!(!exact);
                    let bad: u32 = errors.iter().map(|e| match e {
                        MapError::Gap { first, last } | MapError::Overlap { first, last, .. } => u32::from(last - first) + 1,
                        _ => 0,
                    }).sum();
                    prop_assert_eq!(bad as usize, cover.iter().filter(|c| **c != 1).count());
                }
            }
        }

        /// The borrowed look-up finds what the owned one finds.
        #[test]
        fn borrowed_look_up_agrees(
            tables in proptest::collection::vec(("[ab.]{0,3}", "[ab.]{0,3}"), 0..12),
            wanted in ("[ab.]{0,3}", "[ab.]{0,3}"),
        ) {
            let mut map = ShardMap::single();
            map.tables = tables.into_iter().map(|t| (t, Table::Reference)).collect();
            prop_assert_eq!(map.table(Some(&wanted.0), &wanted.1), map.tables.get(&wanted));
        }
    }
}

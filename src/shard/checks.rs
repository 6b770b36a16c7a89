//! The checks of all shards of a database: what was found on each, and how each differs from the default shard.

use std::collections::BTreeMap;

use super::check::{Check, Distrust};
use super::map::ShardMap;
use super::portrait::Portrait;
use crate::id::ShardIndex;

/// How far the checks are.
#[derive(Debug, Default)]
pub struct Checks {
    shards: Vec<Shard>,
}

#[derive(Debug, Default)]
struct Shard {
    /// What was found on it alone.
    own: Check,
    portrait: Option<Portrait>,
    /// With what was found by comparison.
    whole: Check,
}

impl Checks {
    /// Of so many shards, none of which was asked.
    #[must_use]
    pub fn new(shards: usize) -> Self {
        Self { shards: std::iter::repeat_with(Shard::default).take(shards).collect() }
    }

    /// Takes in how far the check of a shard is, and its portrait if it was asked; of which shards that is news.
    pub fn set(
        &mut self,
        map: &ShardMap,
        shard: ShardIndex,
        check: Check,
        portrait: Option<Portrait>,
    ) -> Vec<ShardIndex> {
        let Some(known) = self.shards.get_mut(usize::from(shard.0)) else { return Vec::new() };
        // What was found stays true until something else is.
        if matches!((&known.own, &check), (Check::Done(_), Check::Pending(_))) {
            return Vec::new();
        }
        known.own = check;
        known.portrait = portrait;
        let default = self.shards.get(usize::from(map.default_shard.0)).and_then(|shard| shard.portrait.clone());
        let mut news = Vec::new();
        for (number, shard) in (0_u16..).zip(&mut self.shards) {
            let mut whole = shard.own.clone();
            if let (Check::Done(findings), Some(portrait), Some(default)) = (&mut whole, &shard.portrait, &default) {
                findings.extend(portrait.compare(default, map));
            }
            if whole != shard.whole {
                shard.whole = whole;
                news.push(ShardIndex(number));
            }
        }
        news
    }

    /// How far they are, by shard.
    pub fn all(&self) -> impl Iterator<Item = &Check> {
        self.shards.iter().map(|shard| &shard.whole)
    }

    /// What follows from them.
    #[must_use]
    pub fn distrust(&self, map: &ShardMap) -> Distrust {
        let mut distrust = Distrust::of(map.names.iter().map(String::as_str).zip(self.all()));
        distrust.columns = self.columns(map);
        distrust
    }

    /// The columns of the listed tables, where all shards were asked and say the same.
    fn columns(&self, map: &ShardMap) -> BTreeMap<(String, String), Vec<String>> {
        let portraits: Option<Vec<&Portrait>> = self.shards.iter().map(|shard| shard.portrait.as_ref()).collect();
        let Some((first, others)) = portraits.as_deref().and_then(<[_]>::split_first) else { return BTreeMap::new() };
        let alike = |(at, place): (usize, &(String, String))| {
            let columns = first.columns(at).filter(|columns| !columns.is_empty())?;
            let all = others.iter().all(|other| other.columns(at).is_some_and(|theirs| theirs == columns));
            all.then(|| (place.clone(), columns))
        };
        map.tables.keys().enumerate().filter_map(alike).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_believed_where_all_shards_say_the_same() {
        let place = ("public".to_owned(), "t".to_owned());
        let tables = [(place.clone(), crate::shard::map::Table::Reference)];
        let slots = vec![vec![(0, 1)], vec![(2, 16383)]];
        let map = ShardMap::new(vec!["a".into(), "b".into()], slots, tables.into(), ShardIndex(0)).unwrap();
        let made = |columns: &str| {
            let cells = ["0", "r", columns].map(|cell| Some(cell.to_owned()));
            Some(Portrait::of(Vec::new(), vec![cells.to_vec()]))
        };
        let good = || Check::Done(Vec::new());
        let mut checks = Checks::new(2);
        let text = "k int8 (pg_catalog.int8)\u{1f}\n\"a \"\"b\" text (pg_catalog.text)\u{1f}";
        checks.set(&map, ShardIndex(0), good(), made(text));
        assert_eq!(checks.distrust(&map).columns, BTreeMap::new(), "the other was not asked");
        checks.set(&map, ShardIndex(1), good(), made(text));
        let names = vec!["k".to_owned(), "a \"b".to_owned()];
        assert_eq!(checks.distrust(&map).columns, [(place, names)].into());
        checks.set(&map, ShardIndex(1), good(), made("\"a \"\"b\" text\u{1f}\nk int8\u{1f}"));
        assert_eq!(checks.distrust(&map).columns, BTreeMap::new(), "in another order");
    }

    #[test]
    fn the_default_shard_is_what_the_others_are_compared_with() {
        let map =
            ShardMap::new(vec!["a".into(), "b".into()], vec![vec![(0, 1)], vec![(2, 16383)]], [].into(), ShardIndex(1))
                .unwrap();
        let zone =
            |zone: &str| Some(Portrait::of(vec![vec![Some("timezone".to_owned()), Some(zone.to_owned())]], Vec::new()));
        let good = || Check::Done(Vec::new());
        let mut checks = Checks::new(2);
        assert_eq!(checks.set(&map, ShardIndex(0), Check::Pending(Some("gone".into())), None), [ShardIndex(0)]);
        assert_eq!(checks.set(&map, ShardIndex(0), good(), zone("UTC")), [ShardIndex(0)]);
        assert_eq!(checks.distrust(&map), Distrust::default());
        // Then the default shard answers, and the other is found to differ.
        assert_eq!(checks.set(&map, ShardIndex(1), good(), zone("Asia/Tokyo")), [ShardIndex(0), ShardIndex(1)]);
        let why = "shard \"a\": timezone is UTC, on the default shard Asia/Tokyo";
        assert_eq!(checks.distrust(&map).keys.as_deref(), Some(why));
        // What was found stays, until it is mended on either side.
        assert_eq!(checks.set(&map, ShardIndex(0), Check::Pending(None), None), []);
        assert!(checks.distrust(&map).keys.is_some());
        assert_eq!(checks.set(&map, ShardIndex(1), good(), zone("UTC")), [ShardIndex(0)]);
        assert_eq!(checks.distrust(&map), Distrust::default());
        assert!(checks.all().all(|check| *check == good()));
    }
}

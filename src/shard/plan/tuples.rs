//! The slots of keys of several columns, of which some values of each column are known, or some rows of several.
//!
//! What is counted out are hashes of values: the values that a row of the result, or a row that is written, may have at most. All keys
//! that can be made of them are looked at, so that what follows for all of these slots follows for the rows.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::Slot;
use crate::shard::table_key::slot_of_columns;

/// Keys that are made of several lists and counted out; of more nothing is known.
const MAX_KEYS: usize = 10_000;

/// What is known of a key.
#[derive(Debug, Clone)]
pub(super) struct Tuples {
    columns: Vec<Option<BTreeSet<u64>>>,
    rows: Vec<Rows>,
}

/// Values that several columns have together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rows {
    /// The places of the columns in the key.
    pub(super) places: Vec<usize>,
    /// Of each row the hashes of its values, in the order of `places`.
    pub(super) hashes: Vec<Vec<u64>>,
}

impl Tuples {
    /// A key of so many columns, of which nothing is known.
    pub(super) fn new(width: usize) -> Self {
        Self { columns: vec![None; width], rows: Vec::new() }
    }

    /// A column has one of these hashes, beside what is known of it.
    pub(super) fn narrow(&mut self, place: usize, hashes: impl IntoIterator<Item = u64>) {
        let Some(known) = self.columns.get_mut(place) else { return };
        let hashes: BTreeSet<u64> = hashes.into_iter().collect();
        *known = Some(match known.take() {
            None => hashes,
            Some(before) => before.intersection(&hashes).copied().collect(),
        });
    }

    /// A column may have this hash as well.
    pub(super) fn widen(&mut self, place: usize, hash: u64) {
        if let Some(known) = self.columns.get_mut(place) {
            known.get_or_insert_default().insert(hash);
        }
    }

    /// Some columns have the values of one of these rows.
    pub(super) fn narrow_to_rows(&mut self, rows: Rows) {
        self.rows.push(rows);
    }

    /// The first column of which nothing is known.
    pub(super) fn unknown(&self) -> Option<usize> {
        let of_rows = |place: &usize| self.rows.iter().any(|rows| rows.places.contains(place));
        (0..self.columns.len()).find(|place| self.columns.get(*place).is_none_or(Option::is_none) && !of_rows(place))
    }

    /// What is known of each column by itself.
    pub(super) fn into_columns(self) -> impl Iterator<Item = Option<BTreeSet<u64>>> {
        self.columns.into_iter()
    }

    /// The slots of all keys that there may be: of none where what is known excludes all. None: not all columns are known, or there are
    /// very many.
    pub(super) fn slots(&self) -> Option<BTreeSet<Slot>> {
        self.slots_with(&[])
    }

    /// The same of the keys that come of them when some columns are given other values, by their places: these need not be known.
    pub(super) fn slots_with(&self, given: &[(usize, u64)]) -> Option<BTreeSet<Slot>> {
        let slot = |mut key: Partial| {
            for (place, hash) in given {
                *key.get_mut(*place)? = Some(*hash);
            }
            Some(slot_of_columns(key.into_iter().collect::<Option<Vec<u64>>>()?))
        };
        self.keys()?.into_iter().map(slot).collect()
    }

    /// All keys that there may be, as far as they are known: all of them in the same columns.
    fn keys(&self) -> Option<Vec<Partial>> {
        // What is written is no product, however long it is.
        let columns = self.columns.iter().flatten().map(BTreeSet::len);
        let most = columns.chain(self.rows.iter().map(|rows| rows.hashes.len())).fold(MAX_KEYS, usize::max);
        let mut keys: Vec<Partial> = vec![vec![None; self.columns.len()]];
        for rows in &self.rows {
            keys = joined(&keys, rows, most)?;
        }
        for (place, known) in self.columns.iter().enumerate() {
            if let Some(known) = known {
                keys = crossed(keys, place, known, most)?;
            }
        }
        Some(keys)
    }
}

/// A key of which some columns are known.
type Partial = Vec<Option<u64>>;

/// Every key with every row that agrees with it; none if they are more than `most`.
fn joined(keys: &[Partial], rows: &Rows, most: usize) -> Option<Vec<Partial>> {
    let Some(first) = keys.first() else { return Some(Vec::new()) };
    let shared: Vec<usize> =
        rows.places.iter().copied().filter(|place| first.get(*place).is_some_and(Option::is_some)).collect();
    // By what they have in common with the keys, so that those which do not agree cost nothing.
    let mut alike: BTreeMap<Partial, Vec<Partial>> = BTreeMap::new();
    for row in rows.hashes.iter().collect::<BTreeSet<_>>() {
        if let Some(row) = filled(&vec![None; first.len()], &rows.places, row) {
            alike.entry(at(&row, &shared)).or_default().push(row);
        }
    }
    let mut all = Vec::new();
    for key in keys {
        for row in alike.get(&at(key, &shared)).into_iter().flatten() {
            if all.len() >= most {
                return None;
            }
            all.push(key.iter().zip(row).map(|(of_key, of_row)| of_key.or(*of_row)).collect());
        }
    }
    Some(all)
}

/// What a key has in these places.
fn at(key: &[Option<u64>], places: &[usize]) -> Partial {
    places.iter().map(|place| key.get(*place).copied().flatten()).collect()
}

/// A key with a row's values; none if the row gives one column two.
fn filled(key: &[Option<u64>], places: &[usize], row: &[u64]) -> Option<Partial> {
    let mut whole = key.to_vec();
    for (place, hash) in places.iter().zip(row) {
        if whole.get_mut(*place)?.replace(*hash).is_some_and(|before| before != *hash) {
            return None;
        }
    }
    Some(whole)
}

/// Every key with every value of a column that agrees with it; none if they are more than `most`.
fn crossed(mut keys: Vec<Partial>, place: usize, values: &BTreeSet<u64>, most: usize) -> Option<Vec<Partial>> {
    let is_known = |key: &[Option<u64>]| key.get(place).copied().flatten();
    if keys.first().is_some_and(|key| is_known(key).is_some()) {
        keys.retain(|key| is_known(key).is_some_and(|hash| values.contains(&hash)));
        return Some(keys);
    }
    if keys.len().saturating_mul(values.len()) > most {
        return None;
    }
    let each = keys.iter().flat_map(|key| values.iter().filter_map(|hash| filled(key, &[place], &[*hash])));
    Some(each.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots_of(keys: &[[u64; 2]]) -> Option<BTreeSet<Slot>> {
        Some(keys.iter().map(|key| slot_of_columns(*key)).collect())
    }

    #[test]
    fn all_keys_that_there_may_be_are_counted_out() {
        let mut tuples = Tuples::new(2);
        assert_eq!((tuples.unknown(), tuples.slots()), (Some(0), None));
        tuples.narrow(0, [1, 2, 3]);
        assert_eq!((tuples.unknown(), tuples.slots()), (Some(1), None));
        tuples.narrow(1, [7, 8]);
        tuples.narrow(0, [3, 1, 5]);
        assert_eq!((tuples.unknown(), tuples.slots()), (None, slots_of(&[[1, 7], [1, 8], [3, 7], [3, 8]])));
        tuples.narrow_to_rows(Rows { places: vec![1, 0], hashes: vec![vec![7, 1], vec![8, 2], vec![8, 3]] });
        assert_eq!(tuples.slots(), slots_of(&[[1, 7], [3, 8]]));
        tuples.narrow(0, [9]);
        assert_eq!(tuples.slots(), slots_of(&[]));
    }

    #[test]
    fn rows_say_something_of_their_columns_and_too_many_say_nothing() {
        let mut tuples = Tuples::new(2);
        tuples.narrow_to_rows(Rows { places: vec![1], hashes: vec![vec![7]] });
        assert_eq!((tuples.unknown(), tuples.slots()), (Some(0), None));
        tuples.widen(0, 1);
        tuples.widen(0, 2);
        assert_eq!(tuples.slots(), slots_of(&[[1, 7], [2, 7]]));
        let mut many = Tuples::new(2);
        many.narrow(0, 0..101);
        many.narrow(1, 0..99);
        assert!(many.slots().is_some_and(|slots| slots.len() > 1));
        let mut more = Tuples::new(2);
        more.narrow(0, 0..101);
        more.narrow(1, 0..100);
        assert_eq!((more.unknown(), more.slots()), (None, None));
    }

    #[test]
    fn what_is_written_is_counted_out_however_long_it_is() {
        let many = 40_000_u64;
        let mut one = Tuples::new(1);
        one.narrow(0, 0..many);
        assert!(one.slots().is_some_and(|slots| slots.len() > 10_000));
        // A list of rows narrows each column as well; and twice the same says no more.
        let rows = Rows { places: vec![0, 1], hashes: (0..many).map(|n| vec![n, n]).collect() };
        let mut listed = Tuples::new(2);
        listed.narrow_to_rows(rows.clone());
        listed.narrow_to_rows(rows);
        listed.narrow(0, 0..many);
        listed.narrow(1, 5..many);
        let from = crate::clock::now();
        let slots = listed.slots();
        assert!(from.elapsed().as_secs() < 20, "it looks at every key with every value");
        assert_eq!(slots, Some((5..many).map(|n| slot_of_columns([n, n])).collect()));
        let mut torn = Tuples::new(2);
        torn.narrow_to_rows(Rows { places: vec![0, 0, 1], hashes: vec![vec![1, 2, 7], vec![1, 1, 8]] });
        assert_eq!(torn.slots(), slots_of(&[[1, 8]]));
    }

    #[test]
    fn values_are_given_to_the_keys_that_there_are() {
        let mut tuples = Tuples::new(2);
        tuples.narrow_to_rows(Rows { places: vec![0, 1], hashes: vec![vec![1, 7], vec![2, 8]] });
        assert_eq!(tuples.slots_with(&[(1, 8)]), slots_of(&[[1, 8], [2, 8]]));
        assert_eq!(tuples.slots_with(&[(0, 3), (1, 9)]), slots_of(&[[3, 9]]));
        let mut partly = Tuples::new(2);
        partly.narrow(0, [1, 2]);
        assert_eq!((partly.slots(), partly.slots_with(&[(0, 5)])), (None, None));
        assert_eq!(partly.slots_with(&[(1, 8)]), slots_of(&[[1, 8], [2, 8]]));
    }
}

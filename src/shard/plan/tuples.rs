//! The slots of keys of several columns, of which some values of each column are known, or some rows of several.
//!
//! What is counted out are hashes of values: the values that a row of the result, or a row that is written, may have at most. All keys
//! that can be made of them are looked at, so that what follows for all of these slots follows for the rows.

use std::collections::BTreeSet;

use crate::id::Slot;
use crate::shard::table_key::slot_of_columns;

/// Keys that are counted out; of more nothing is known.
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

    /// The slots of all keys that there may be: of none where what is known excludes all. None: not all columns are known, or there are
    /// very many.
    pub(super) fn slots(&self) -> Option<BTreeSet<Slot>> {
        let mut keys: Vec<Vec<Option<u64>>> = vec![vec![None; self.columns.len()]];
        for rows in &self.rows {
            keys = extended(&keys, &rows.places, rows.hashes.iter().map(Vec::as_slice))?;
        }
        for (place, known) in self.columns.iter().enumerate() {
            if let Some(known) = known {
                keys = extended(&keys, &[place], known.iter().map(std::slice::from_ref))?;
            }
        }
        keys.into_iter().map(|key| key.into_iter().collect::<Option<Vec<u64>>>().map(slot_of_columns)).collect()
    }
}

/// Every key with every row that agrees with it.
fn extended<'a>(
    keys: &[Vec<Option<u64>>],
    places: &[usize],
    rows: impl Iterator<Item = &'a [u64]> + Clone,
) -> Option<Vec<Vec<Option<u64>>>> {
    let mut all = Vec::new();
    for key in keys {
        for row in rows.clone() {
            let mut whole = key.clone();
            let agree = places.iter().zip(row).all(|(place, hash)| match whole.get_mut(*place) {
                Some(known) => known.replace(*hash).is_none_or(|before| before == *hash),
                None => false,
            });
            if agree {
                all.push(whole);
            }
            if all.len() > MAX_KEYS {
                return None;
            }
        }
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(keys: &[[u64; 2]]) -> Option<BTreeSet<Slot>> {
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
        assert_eq!((tuples.unknown(), tuples.slots()), (None, slots(&[[1, 7], [1, 8], [3, 7], [3, 8]])));
        tuples.narrow_to_rows(Rows { places: vec![1, 0], hashes: vec![vec![7, 1], vec![8, 2], vec![8, 3]] });
        assert_eq!(tuples.slots(), slots(&[[1, 7], [3, 8]]));
        tuples.narrow(0, [9]);
        assert_eq!(tuples.slots(), slots(&[]));
    }

    #[test]
    fn rows_say_something_of_their_columns_and_too_many_say_nothing() {
        let mut tuples = Tuples::new(2);
        tuples.narrow_to_rows(Rows { places: vec![1], hashes: vec![vec![7]] });
        assert_eq!((tuples.unknown(), tuples.slots()), (Some(0), None));
        tuples.widen(0, 1);
        tuples.widen(0, 2);
        assert_eq!(tuples.slots(), slots(&[[1, 7], [2, 7]]));
        let mut many = Tuples::new(2);
        many.narrow(0, 0..101);
        many.narrow(1, 0..99);
        assert!(many.slots().is_some_and(|slots| slots.len() > 1));
        let mut more = Tuples::new(2);
        more.narrow(0, 0..101);
        more.narrow(1, 0..100);
        assert_eq!((more.unknown(), more.slots()), (None, None));
    }
}

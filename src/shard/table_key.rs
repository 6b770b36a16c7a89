//! The sharding key of a table: one column, or several.
//!
//! The order of the columns matters, as it does in `PARTITION BY HASH (a, b)`: the hashes of their values are combined in that order.

use super::hash;
use super::map::KeyType;
use crate::id::Slot;

/// A column of a sharding key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyColumn {
    /// Its name.
    pub name: String,
    /// Its type.
    pub key_type: KeyType,
}

/// The columns of a sharding key, in the order in which they are hashed. There is at least one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TableKey(Vec<KeyColumn>);

impl TableKey {
    /// The most columns that a key may have: as many as a partition key of PostgreSQL.
    pub const MAX_COLUMNS: usize = 32;

    /// A key of these columns; none without any.
    #[must_use]
    pub fn new(columns: Vec<KeyColumn>) -> Option<Self> {
        (!columns.is_empty()).then_some(Self(columns))
    }

    /// A key of one column.
    #[must_use]
    pub fn of(name: impl Into<String>, key_type: KeyType) -> Self {
        Self(vec![KeyColumn { name: name.into(), key_type }])
    }

    /// Its columns.
    #[must_use]
    pub fn columns(&self) -> &[KeyColumn] {
        &self.0
    }

    /// How many columns it has.
    #[must_use]
    pub fn width(&self) -> usize {
        self.0.len()
    }

    /// The place of a column among those of the key, counted from 0; none if it is not one of them.
    #[must_use]
    pub fn place(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|column| column.name == name)
    }

    /// Whether a column is one of the key's.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.place(name).is_some()
    }

    /// The names of its columns.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(|column| column.name.as_str())
    }

    /// The first of its columns that is not among some names.
    #[must_use]
    pub fn missing_in(&self, names: &[String]) -> Option<&KeyColumn> {
        self.0.iter().find(|column| !names.contains(&column.name))
    }

    /// The names as they stand between double quotes in a message: `a`, or `a", "b`.
    #[must_use]
    pub fn quoted(&self) -> String {
        self.names().collect::<Vec<_>>().join("\", \"")
    }

    /// The names, and the types with whether only a tag is hashed: as the console shows them.
    #[must_use]
    pub fn shown(&self) -> (String, String) {
        let types: Vec<&str> = self.0.iter().map(|column| column.key_type.shown()).collect();
        (self.names().collect::<Vec<_>>().join(","), types.join(","))
    }

    /// Whether rows with equal keys of both are on one shard: they have as many columns, which are hashed alike one by one.
    #[must_use]
    pub fn same_family(&self, other: &Self) -> bool {
        self.width() == other.width()
            && self.0.iter().zip(&other.0).all(|(one, other)| one.key_type.same_family(other.key_type))
    }
}

/// The slot of a row whose key columns have these hashes, in the order of the key.
#[must_use]
pub fn slot_of_columns(hashes: impl IntoIterator<Item = u64>) -> Slot {
    hash::slot_of_row(hashes.into_iter().fold(0, hash::combine))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INT8: KeyType = KeyType::Integer { width: 8 };

    fn key(columns: &[(&str, KeyType)]) -> TableKey {
        let columns =
            columns.iter().map(|(name, key_type)| KeyColumn { name: (*name).to_owned(), key_type: *key_type });
        TableKey::new(columns.collect()).unwrap()
    }

    #[test]
    fn keys_are_alike_by_their_types_in_their_order() {
        let one = key(&[("a", INT8), ("b", KeyType::Text)]);
        let narrow = KeyType::Integer { width: 4 };
        assert!(one.same_family(&key(&[("x", narrow), ("y", KeyType::Text)])));
        assert!(!one.same_family(&key(&[("b", KeyType::Text), ("a", INT8)])));
        assert!(!one.same_family(&key(&[("a", INT8)])) && !key(&[("a", INT8)]).same_family(&one));
        assert!(!one.same_family(&key(&[("a", INT8), ("b", KeyType::Tagged)])));
        assert_eq!(TableKey::new(Vec::new()), None);
    }

    #[test]
    fn one_column_hashes_as_it_did_and_several_in_order() {
        let hashes = [hash::hash_integer(1), hash::hash_bytes(b"a")];
        assert_eq!(slot_of_columns([hashes[0]]), hash::slot_of(hashes[0]));
        assert_ne!(slot_of_columns(hashes), slot_of_columns([hashes[1], hashes[0]]));
        assert_eq!(key(&[("a", INT8), ("b", KeyType::Text)]).quoted(), "a\", \"b");
    }
}

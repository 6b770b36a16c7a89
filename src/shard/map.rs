//! The shard map: which shard owns a slot, and which tables have a key.

use std::collections::BTreeMap;

use crate::id::ShardIndex;

/// Number of slots.
pub const SLOTS: u16 = 16384;

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
    /// uuid.
    Uuid,
}

/// How a listed table is spread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Table {
    /// Rows live where the key's slot says.
    Sharded {
        /// The key column.
        key: String,
        /// Its type.
        key_type: KeyType,
    },
    /// A full copy on every shard.
    Reference,
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
}
